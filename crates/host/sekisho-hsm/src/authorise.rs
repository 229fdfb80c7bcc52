//! P_AUT, whole, before the SE is on line (spec 4.5; steps E124 to E128).
//!
//! What it does is a script: commands in the clear and where the bulk goes between them. The host challenge is derived from the whole of it, and so
//! are the session keys: two scripts that differ in anything share neither.

use sekisho_apdu::gp::ins;
use sekisho_apdu::{CApdu, Cla, Writer};
use sekisho_keys::sha256;
use sekisho_link::{
    AuthorisationHead, AuthorisationWriter, Campaign, Equ, Manifest, PackageBody, PackageSource, SeId,
    Version, Wants, codes,
};
use sekisho_scp::host::HostChannel;
use sekisho_scp::{MacMode, ScpParameter, SecurityLevel};
use zeroize::Zeroizing;

use crate::{Hsm, HsmError, Result};

/// Bytes of one command at most.
const COMMAND_MAX: usize = 261;
/// Bytes of P_AUT's head at most: name, version, SE-id, campaign, counter, target, wants, splices, count.
const HEAD_MAX: usize = 4 + 1 + 10 + 8 + 3 + 1 + 1 + 1 + 1 + Equ::PAUSES_MAX as usize + 1;
/// The security level of an authorisation's secure channel.
const LEVEL: SecurityLevel = SecurityLevel::FULL;
/// What it is made for: 8 bytes of challenge, cryptogram and MAC.
const MODE: MacMode = MacMode::S8;

/// What is to be authorised.
pub struct AuthoriseRequest<'a> {
    /// The version that P_AUT is written in. One knows the OS part, no pauses, no loading alone and no key set apart.
    pub version: Version,
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
    /// To load, to activate what is staged already, or both.
    pub wants: Wants,
    /// How many times the device leaves broadcast mode and comes back; 0 where nothing is loaded.
    pub pauses: u8,
    /// Whether the broadcast key set goes in a command of its own before each change of mode (step E14).
    pub key_set_apart: bool,
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

/// Refuses what no script is made for, or what P_AUT's version cannot say.
fn check_request(request: &AuthoriseRequest<'_>) -> Result<()> {
    check_parameter(request.scp_parameter)?;
    let wants = request.wants;
    if ![Wants::LOAD, Wants::ACTIVATE, Wants::BOTH].contains(&wants) {
        return Err(HsmError::Request(
            "an authorisation loads, activates, or both; a live one is not built yet",
        ));
    }
    if request.pauses > Equ::PAUSES_MAX || (request.pauses > 0 && !wants.loads()) {
        return Err(HsmError::Request(
            "a device leaves broadcast mode up to 8 times, and only where it loads",
        ));
    }
    let is_first = request.package.manifest.target == Manifest::OS_PART
        && wants.activates()
        && request.pauses == 0
        && !request.key_set_apart;
    if request.version == Version::One && !is_first {
        return Err(HsmError::Request(
            "an authorisation of version 1 activates an OS part, without pauses and with the key set in CHANGE MODE",
        ));
    }
    Ok(())
}

/// A command of the script in the clear. EXTERNAL AUTHENTICATE has no data there: its cryptogram comes from the challenge.
struct Command {
    ins: u8,
    p1: u8,
    p2: u8,
    data: Zeroizing<Vec<u8>>,
}

impl Command {
    fn new(ins: u8, p1: u8, p2: u8, data: Zeroizing<Vec<u8>>) -> Self {
        Self { ins, p1, p2, data }
    }

    fn capdu(&self) -> CApdu<'_> {
        CApdu::new(Cla::GP, self.ins, self.p1, self.p2)
            .with_data(&self.data)
            .with_ne(256)
    }
}

/// EXTERNAL AUTHENTICATE of [`LEVEL`] in the script.
const AUTHENTICATE: [u8; 4] = [0x84, ins::EXTERNAL_AUTHENTICATE, LEVEL.p1(), 0x00];

/// What P_AUT does after the secure channel is open.
struct Script {
    kvn: u8,
    /// After how many commands, the two of the channel counted, those of the bulk may follow.
    splices: Vec<u8>,
    commands: Vec<Command>,
}

impl Script {
    fn new(hsm: &dyn Hsm, request: &AuthoriseRequest<'_>) -> Result<Self> {
        let (mut splices, mut commands) = (Vec::new(), Vec::new());
        // INITIALIZE UPDATE and EXTERNAL AUTHENTICATE come first.
        let after = |commands: &Vec<Command>| u8::try_from(2 + commands.len()).map_err(|_| HsmError::TooLong);
        let leave = || Command::new(ins::CHANGE_MODE, 0x00, 0x01, Zeroizing::default());
        if request.wants.loads() {
            let key_set = key_set(hsm, request.campaign, request.package)?;
            for pause in 0..=request.pauses {
                if pause > 0 {
                    commands.push(leave());
                }
                change_mode(request, &key_set, &mut commands);
                splices.push(after(&commands)?);
            }
        }
        if request.wants.activates() {
            commands.push(activate(hsm, request)?);
        } else {
            commands.push(leave());
        }
        let kvn = request.kvn;
        Ok(Self {
            kvn,
            splices,
            commands,
        })
    }

    fn initialize_update<'a>(&self, host_challenge: &'a [u8]) -> CApdu<'a> {
        CApdu::new(Cla::GP, ins::INITIALIZE_UPDATE, self.kvn, 0)
            .with_data(host_challenge)
            .with_ne(256)
    }

    /// SHA-256 of the script in the clear (spec 4.5).
    fn digest(&self) -> Result<[u8; 32]> {
        let short = |len: usize| u8::try_from(len).map_err(|_| HsmError::TooLong);
        let mut bytes = Zeroizing::new(vec![0; 64 + self.commands.len() * (2 + COMMAND_MAX)]);
        let mut out = Writer::new(&mut bytes);
        out.u8(short(self.splices.len())?)?;
        out.bytes(&self.splices)?;
        out.u8(short(2 + self.commands.len())?)?;
        let mut command = Zeroizing::new([0; COMMAND_MAX]);
        let mut add = |bytes: &[u8]| -> Result<()> {
            out.u16(u16::try_from(bytes.len()).map_err(|_| HsmError::TooLong)?)?;
            Ok(out.bytes(bytes)?)
        };
        let encode = |capdu: CApdu<'_>, buf: &mut [u8; COMMAND_MAX]| -> Result<usize> {
            let mut out = Writer::new(buf);
            capdu.encode(&mut out)?;
            Ok(out.len())
        };
        let len = encode(self.initialize_update(&[0; 8]), &mut command)?;
        add(&command[..len])?;
        add(&AUTHENTICATE)?;
        for capdu in &self.commands {
            let len = encode(capdu.capdu(), &mut command)?;
            add(&command[..len])?;
        }
        let len = out.len();
        Ok(sha256(&[&bytes[..len]]))
    }
}

/// Makes P_AUT.
///
/// # Errors
/// [`HsmError::Parameter`] for an SE that no authorisation can be made for; [`HsmError::Request`] for what no script is made for or its version
/// cannot say; [`HsmError`].
pub fn authorise(hsm: &dyn Hsm, request: &AuthoriseRequest<'_>) -> Result<Vec<u8>> {
    check_request(request)?;
    let AuthoriseRequest {
        se_id,
        kvn,
        campaign,
        sequence_counter,
        ..
    } = *request;
    let script = Script::new(hsm, request)?;
    let host_challenge = hsm.host_challenge(se_id, sequence_counter, campaign, &script.digest()?)?;
    let card_challenge = hsm.card_challenge(se_id, kvn, sequence_counter)?;
    let keys = hsm.scp03_session(se_id, kvn, &host_challenge, &card_challenge)?;
    let cryptogram = keys.host_cryptogram(&host_challenge, &card_challenge)?;
    let mut channel = HostChannel::new(keys, MODE);

    let head = AuthorisationHead {
        version: request.version,
        se_id,
        campaign,
        sequence_counter,
        target: request.package.manifest.target,
        wants: request.wants,
        splices: &script.splices,
    };
    let mut bytes = vec![0; HEAD_MAX + (2 + script.commands.len()) * (2 + COMMAND_MAX)];
    let mut p_aut = AuthorisationWriter::new(&mut bytes, &head)?;
    let mut command = [0; COMMAND_MAX];
    let mut out = Writer::new(&mut command);
    script
        .initialize_update(host_challenge.as_bytes())
        .encode(&mut out)?;
    p_aut.command(out.written())?;
    let mut out = Writer::new(&mut command);
    channel.external_authenticate(LEVEL, &cryptogram, &mut out)?;
    p_aut.command(out.written())?;
    for capdu in &script.commands {
        let mut out = Writer::new(&mut command);
        channel.wrap(&capdu.capdu(), &mut out)?;
        p_aut.command(out.written())?;
    }
    let len = p_aut.finish()?;
    bytes.truncate(len);
    Ok(bytes)
}

/// CHANGE MODE to broadcast mode, with the key set in it or in a command before it (spec 2.1).
fn change_mode(request: &AuthoriseRequest<'_>, key_set: &Zeroizing<Vec<u8>>, commands: &mut Vec<Command>) {
    let custody = request.package.custody() as u8;
    let mut change = |p1, data| commands.push(Command::new(ins::CHANGE_MODE, p1, custody, data));
    if request.key_set_apart {
        change(0x02, key_set.clone());
        change(0x01, Zeroizing::new(request.campaign.0.to_be_bytes().to_vec()));
    } else {
        change(0x01, key_set.clone());
    }
}

/// AUTHORIZE ACTION that activates (spec 2.3).
fn activate(hsm: &dyn Hsm, request: &AuthoriseRequest<'_>) -> Result<Command> {
    let AuthoriseRequest {
        se_id,
        kvn,
        campaign,
        package,
        ..
    } = *request;
    let message = codes::activate_message(&package.manifest, campaign, se_id);
    let individual = hsm.mac_with_k_aut(se_id, kvn, &message)?;
    let data = [&campaign.0.to_be_bytes()[..], &package.design_code, &individual].concat();
    Ok(Command::new(
        ins::AUTHORIZE_ACTION,
        codes::ACTION_ACTIVATE,
        0,
        Zeroizing::new(data),
    ))
}

/// CHANGE MODE's data field with the broadcast key set (spec 2.1).
fn key_set(hsm: &dyn Hsm, campaign: Campaign, package: &PackageSource<'_>) -> Result<Zeroizing<Vec<u8>>> {
    // As long as it can be, so that no key is left behind where the data moves to a longer place.
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
