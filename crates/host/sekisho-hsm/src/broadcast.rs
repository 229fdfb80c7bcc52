//! P_SE: the bulk under the broadcast key set, made once (spec 4.1).

use sekisho_apdu::gp::ins;
use sekisho_apdu::{CApdu, Cla, Writer};
use sekisho_link::{Campaign, Custody, Manifest, PSeWriter, PackageBody, PackageSource};
use sekisho_scp::host::BroadcastWriter;

use crate::{Hsm, HsmError, Result};

/// Encryption counter of the first command in custody 04.
pub(crate) const FIRST_COUNTER: u32 = 1;
/// Bytes of the image in one block: with padding and C-MAC the most that a short C-APDU takes.
const BLOCK: usize = 239;

/// P_SE of a campaign: in custody 03 the design system's, in custody 04 made here under the HSM's broadcast key set.
///
/// # Errors
/// [`HsmError`].
pub fn broadcast_package(hsm: &dyn Hsm, campaign: Campaign, package: &PackageSource<'_>) -> Result<Vec<u8>> {
    match package.body {
        PackageBody::DesignSystem { p_se, .. } => Ok(p_se.to_vec()),
        PackageBody::Hsm { ciphertext } => {
            let keys = hsm.broadcast_keys(campaign, &package.manifest.package_id)?;
            let writer = BroadcastWriter::new(keys.enc, keys.mac, FIRST_COUNTER, keys.chaining_value);
            protect(
                writer,
                Custody::Hsm,
                &package.manifest,
                &package.signature,
                ciphertext,
            )
        }
    }
}

/// Protects manifest and image by the broadcast channel: WRITE 0 to N, CHANGE MODE back.
pub(crate) fn protect(
    mut channel: BroadcastWriter,
    custody: Custody,
    manifest: &Manifest,
    signature: &[u8; 64],
    image: &[u8],
) -> Result<Vec<u8>> {
    let blocks = image.len().div_ceil(BLOCK);
    // Head, and for each command its length, header, Lc, padding and C-MAC.
    let mut p_se = vec![0; 12 + image.len() + (blocks + 2) * 64 + 128];
    let mut out = PSeWriter::new(&mut p_se, custody)?;
    let mut first = manifest.encode().to_vec();
    first.extend(signature);
    let mut write = |header: CApdu<'_>| -> Result<()> {
        let mut buf = [0; 261];
        let mut command = Writer::new(&mut buf);
        channel.wrap(&header, &mut command)?;
        Ok(out.command(command.written())?)
    };
    let block = |number: usize| -> Result<CApdu<'static>> {
        let number =
            u16::try_from(number).map_err(|_| HsmError::Request("the image has more than 65,535 blocks"))?;
        let [p1, p2] = number.to_be_bytes();
        Ok(CApdu::new(Cla::GP, ins::WRITE, p1, p2))
    };
    write(block(0)?.with_data(&first))?;
    for (index, bytes) in image.chunks(BLOCK).enumerate() {
        write(block(index + 1)?.with_data(bytes))?;
    }
    write(CApdu::new(Cla::GP, ins::CHANGE_MODE, 0, 0))?;
    let len = out.finish()?;
    p_se.truncate(len);
    Ok(p_se)
}
