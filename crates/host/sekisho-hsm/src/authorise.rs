//! P_AUT, whole, before the SE is on line (spec 4.5; steps E124 to E128).

use sekisho_apdu::gp::ins;
use sekisho_apdu::{CApdu, Cla, Writer};
use sekisho_link::{
    AuthorisationHead, AuthorisationWriter, Campaign, PackageBody, PackageSource, SeId, Version, Wants, codes,
};
use sekisho_scp::host::HostChannel;
use sekisho_scp::{MacMode, ScpParameter, SecurityLevel};
use zeroize::Zeroizing;

use crate::{Hsm, HsmError, Result};

/// Bytes of P_AUT at most.
const MAX: usize = 512;
/// Bytes of one command at most.
const COMMAND_MAX: usize = 261;
/// The commands before the bulk: INITIALIZE UPDATE, EXTERNAL AUTHENTICATE, CHANGE MODE.
const SPLICE: u8 = 3;
/// The security level of an authorisation's secure channel.
const LEVEL: SecurityLevel = SecurityLevel::FULL;
/// What it is made for: 8 bytes of challenge, cryptogram and MAC.
const MODE: MacMode = MacMode::S8;

/// What is to be authorised.
pub struct AuthoriseRequest<'a> {
    /// The SE.
    pub se_id: SeId,
    /// Version of its SCP03 key set.
    pub kvn: u8,
    /// Its SCP03 parameter "i", as its device says.
    pub scp_parameter: u8,
    /// The campaign.
    pub campaign: Campaign,
    /// The sequence counter that the SE will use: its last one plus one.
    pub sequence_counter: u32,
    /// Whether the image is staged already, so that no bulk is to be sent.
    pub is_staged: bool,
    /// The package.
    pub package: &'a PackageSource<'a>,
}

/// Refuses an SE for whose SCP03 no authorisation can be made: every bit of "i" is looked at (Amd D Table 5-1; spec 4.4).
fn check_parameter(i: u8) -> Result<()> {
    let refused = |why| Err(HsmError::Parameter { i, why });
    let Some(parameter) = ScpParameter::new(i) else {
        return refused("it is none of SCP03: a reserved bit, or R-ENCRYPTION without R-MAC");
    };
    if parameter.mac_mode() != MODE {
        return refused("the SE is one of S16, and authorisations are made for S8");
    }
    if !parameter.pseudo_random() {
        return refused("its card challenge is random, and authorisations are made ahead");
    }
    if !parameter.allows(LEVEL) {
        return refused("it has no R-MAC or no R-ENCRYPTION, and authorisations are of level 33");
    }
    Ok(())
}

/// P_AUT's head, in version 1.
const fn head(request: &AuthoriseRequest<'_>) -> AuthorisationHead<'static> {
    let (wants, splices) = if request.is_staged {
        (Wants::ACTIVATE, [].as_slice())
    } else {
        (Wants::BOTH, [SPLICE].as_slice())
    };
    AuthorisationHead {
        version: Version::One,
        se_id: request.se_id,
        campaign: request.campaign,
        sequence_counter: request.sequence_counter,
        target: request.package.manifest.target,
        wants,
        splices,
    }
}

/// Makes P_AUT.
///
/// # Errors
/// [`HsmError::Parameter`] for an SE that no authorisation can be made for; [`HsmError`].
pub fn authorise(hsm: &dyn Hsm, request: &AuthoriseRequest<'_>) -> Result<Vec<u8>> {
    check_parameter(request.scp_parameter)?;
    let splice = if request.is_staged { 0 } else { SPLICE };
    let AuthoriseRequest {
        se_id,
        kvn,
        campaign,
        sequence_counter,
        package,
        ..
    } = *request;
    let host_challenge = hsm.host_challenge(se_id, sequence_counter, campaign, splice)?;
    let card_challenge = hsm.card_challenge(se_id, kvn, sequence_counter)?;
    let keys = hsm.scp03_session(se_id, kvn, &host_challenge, &card_challenge)?;
    let cryptogram = keys.host_cryptogram(&host_challenge, &card_challenge)?;
    let mut channel = HostChannel::new(keys, MODE);

    let mut buf = [0; MAX];
    let mut p_aut = AuthorisationWriter::new(&mut buf, &head(request))?;
    let mut command = [0; COMMAND_MAX];

    let mut out = Writer::new(&mut command);
    CApdu::new(Cla::GP, ins::INITIALIZE_UPDATE, kvn, 0)
        .with_data(host_challenge.as_bytes())
        .with_ne(256)
        .encode(&mut out)?;
    p_aut.command(out.written())?;

    let mut out = Writer::new(&mut command);
    channel.external_authenticate(LEVEL, &cryptogram, &mut out)?;
    p_aut.command(out.written())?;

    if !request.is_staged {
        let data = change_mode(hsm, campaign, package)?;
        let change = CApdu::new(Cla::GP, ins::CHANGE_MODE, 0x01, package.custody() as u8)
            .with_data(&data)
            .with_ne(256);
        let mut out = Writer::new(&mut command);
        channel.wrap(&change, &mut out)?;
        p_aut.command(out.written())?;
    }

    let individual = hsm.mac_with_k_aut(
        se_id,
        &codes::activate_message(&package.manifest, campaign, se_id),
    )?;
    let mut data = [0; 40];
    let mut fields = Writer::new(&mut data);
    fields.u64(campaign.0)?;
    fields.bytes(&package.design_code)?;
    fields.bytes(&individual)?;
    let action = CApdu::new(Cla::GP, ins::AUTHORIZE_ACTION, codes::ACTION_ACTIVATE, 0)
        .with_data(&data)
        .with_ne(256);
    let mut out = Writer::new(&mut command);
    channel.wrap(&action, &mut out)?;
    p_aut.command(out.written())?;
    let len = p_aut.finish()?;
    Ok(buf[..len].to_vec())
}

/// CHANGE MODE's data field (spec 2.1).
fn change_mode(hsm: &dyn Hsm, campaign: Campaign, package: &PackageSource<'_>) -> Result<Zeroizing<Vec<u8>>> {
    let mut data = Zeroizing::new(Vec::with_capacity(28 + 72));
    data.extend(campaign.0.to_be_bytes());
    match package.body {
        PackageBody::DesignSystem {
            counter,
            chaining_value,
            wrapped_keys,
            ..
        } => {
            data.extend(counter.to_be_bytes());
            data.extend(chaining_value);
            data.extend(wrapped_keys);
        }
        PackageBody::Hsm { .. } => {
            let keys = hsm.broadcast_keys(campaign, &package.manifest.package_id)?;
            data.extend(crate::broadcast::FIRST_COUNTER.to_be_bytes());
            data.extend(keys.chaining_value);
            data.extend(keys.enc.as_bytes());
            data.extend(keys.mac.as_bytes());
        }
    }
    Ok(data)
}
