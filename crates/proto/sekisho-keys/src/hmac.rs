//! HMAC-SHA-256 (RFC 2104) over the build's SHA-256.

use zeroize::Zeroizing;

use crate::Sha256;

const BLOCK: usize = 64;

/// HMAC-SHA-256 of the concatenation of `parts`.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut block = Zeroizing::new([0; BLOCK]);
    let digest;
    let key = if key.len() > BLOCK {
        digest = Zeroizing::new(crate::sha256(&[key]));
        digest.as_slice()
    } else {
        key
    };
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    block.iter_mut().for_each(|byte| *byte ^= 0x36);
    let mut inner = Sha256::new();
    inner.update(block.as_slice());
    parts.iter().for_each(|part| inner.update(part));
    let inner = Zeroizing::new(inner.finalize());
    block.iter_mut().for_each(|byte| *byte ^= 0x36 ^ 0x5C);
    crate::sha256(&[block.as_slice(), inner.as_slice()])
}
