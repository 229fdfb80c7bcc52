//! The byte strings over which codes, MACs and signatures are computed (spec sections 2.3 and 3). Fixed sizes, so that nothing needs a heap.

use sekisho_apdu::{BufferFull, Writer};

use crate::{Campaign, Manifest, SeId, Version};

/// Prefix of what the designer signs about a manifest.
pub const MANIFEST_SIGNATURE_PREFIX: &[u8] = b"sekisho manifest v1\0";
/// Prefix of what the designer signs about a package.
pub const fn package_signature_prefix(version: Version) -> &'static [u8] {
    match version {
        Version::One => b"sekisho package v1\0",
        Version::Two => b"sekisho package v2\0",
    }
}

/// Label of the key that wraps the broadcast key set under Kos (custody 03); no context, 16 bytes.
pub const LABEL_KEY_WRAP: &[u8] = b"SK key wrap";
/// Label of the image key under Kos (custody 04); context package-id, 16 bytes.
pub const LABEL_IMAGE: &[u8] = b"SK image";
/// Label of the integrity key under BK-MAC (custody 03); context package-id, 16 bytes.
pub const LABEL_INTEGRITY: &[u8] = b"SK integrity";
/// Label of the broadcast key set under K_BK (custody 04); context campaign and package-id, 48 bytes.
pub const LABEL_BROADCAST: &[u8] = b"SK broadcast";
/// Label of the resume check under BK-MAC; context campaign, 16 bytes of which 8 are used.
pub const LABEL_RESUME: &[u8] = b"SK resume";
/// Label of the host challenge under K_HCH, which covers all that a script does; [`host_challenge_context`], 8 bytes.
pub const LABEL_HOST_CHALLENGE: &[u8] = b"SK host challenge 2";
/// Label of the key that wraps the design system's new keys, under Kos or under the SE's Key-DEK; [`key_change_context`]; 16 bytes.
pub const LABEL_KEY_CHANGE: &[u8] = b"SK key change";

/// AUTHORIZE ACTION's P1: activate.
pub const ACTION_ACTIVATE: u8 = 0x01;
/// AUTHORIZE ACTION's P1: discard.
pub const ACTION_DISCARD: u8 = 0x02;
/// Action of a refusal in broadcast mode: to load.
pub const ACTION_LOAD: u8 = 0x03;

/// Collects fields into a fixed array; the sizes are proved by the tests of this crate.
pub(crate) fn message<const N: usize>(
    write: impl FnOnce(&mut Writer<'_>) -> Result<(), BufferFull>,
) -> [u8; N] {
    let mut bytes = [0; N];
    let _ = write(&mut Writer::new(&mut bytes));
    bytes
}

/// What the design code covers.
pub fn design_code_message(manifest: &Manifest) -> [u8; 65] {
    message(|out| {
        out.bytes(b"SKINTG01")?;
        out.u8(manifest.target)?;
        out.u32(manifest.version)?;
        out.u32(manifest.length)?;
        out.bytes(&manifest.package_id)?;
        out.bytes(&manifest.digest)
    })
}

/// What the individual code of an activation covers: the manifest with the SE's own digest in it.
pub fn activate_message(manifest: &Manifest, campaign: Campaign, se_id: SeId) -> [u8; 68] {
    let Manifest {
        target,
        version,
        length,
        digest,
        ..
    } = *manifest;
    individual_message(ACTION_ACTIVATE, target, version, length, campaign, se_id, &digest)
}

/// What the individual code of discarding covers.
pub fn discard_message(campaign: Campaign, se_id: SeId) -> [u8; 68] {
    individual_message(ACTION_DISCARD, 0, 0, 0, campaign, se_id, &[0; 32])
}

fn individual_message(
    action: u8,
    target: u8,
    version: u32,
    length: u32,
    campaign: Campaign,
    se_id: SeId,
    digest: &[u8; 32],
) -> [u8; 68] {
    message(|out| {
        out.bytes(b"SKAUTH01")?;
        out.bytes(&[action, target])?;
        out.u32(version)?;
        out.u32(length)?;
        out.u64(campaign.0)?;
        out.bytes(&se_id.0)?;
        out.bytes(digest)
    })
}

/// Context of the broadcast key set's derivation.
pub fn broadcast_context(campaign: Campaign, package_id: &[u8; 16]) -> [u8; 24] {
    message(|out| {
        out.u64(campaign.0)?;
        out.bytes(package_id)
    })
}

/// Context of the host challenge's derivation; `sequence_counter` is a 24-bit number, `script` the SHA-256 of the script in the clear (spec 4.5).
pub fn host_challenge_context(
    se_id: SeId,
    sequence_counter: u32,
    campaign: Campaign,
    script: &[u8; 32],
) -> [u8; 53] {
    message(|out| {
        out.bytes(&se_id.0)?;
        out.u24(sequence_counter)?;
        out.u64(campaign.0)?;
        out.bytes(script)
    })
}

/// Context of the key that wraps new keys for one SE. The one for all SEs has the package's identity alone.
pub fn key_change_context(package_id: &[u8; 16], se_id: SeId) -> [u8; 26] {
    message(|out| {
        out.bytes(package_id)?;
        out.bytes(&se_id.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_fits_and_the_last_byte_is_reached() {
        let manifest = Manifest {
            target: 1,
            code_format: 1,
            abi: 1,
            version: 2,
            min_previous: 1,
            length: 3,
            package_id: [7; 16],
            digest: [9; 32],
        };
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        assert_eq!(manifest.encode()[63], 9);
        assert_eq!(design_code_message(&manifest)[64], 9);
        assert_eq!(activate_message(&manifest, Campaign(1), SeId([2; 10]))[67], 9);
        assert_eq!(
            discard_message(Campaign(0x0102_0304_0506_0708), SeId([2; 10]))[18..36],
            [1, 2, 3, 4, 5, 6, 7, 8, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
        );
        assert_eq!(broadcast_context(Campaign(1), &[7; 16])[23], 7);
        assert_eq!(
            host_challenge_context(SeId([2; 10]), 0x01_0203, Campaign(1), &[9; 32])[52],
            9
        );
        assert_eq!(key_change_context(&[7; 16], SeId([2; 10]))[25], 2);
        assert_eq!(crate::Receipt::message_len(), 69);
        assert_eq!(crate::Refusal::message_len(), 72);
    }
}
