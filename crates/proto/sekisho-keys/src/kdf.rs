//! Key derivation in counter mode with CMAC (NIST SP 800-108r1, 4.1).

use crate::modes::ecb_block;
use crate::{AesKey, BLOCK, CmacKey};

impl CmacKey {
    /// SCP03's data derivation (Amd D 4.1.5): each block is `CMAC(key, 00 x 11 || constant || 00 || L(2) || i(1) || context)`, i from 1 up.
    /// `bits` is L, the length that is said to be derived; `out` takes the leading bytes. An SCP03 derivation has at most 32 bytes.
    pub fn kdf_counter(&self, constant: u8, bits: u16, context: &[u8], out: &mut [u8]) {
        let [high, low] = bits.to_be_bytes();
        blocks(out, |i| {
            let head = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, constant, 0x00, high, low, i];
            self.cmac(&[&head, context])
        });
    }

    /// An SCP03 session key: [`CmacKey::kdf_counter`] for a key as long as `key`, which this one was made of (Amd D 6.2.1).
    pub fn session_key(&self, key: &AesKey, constant: u8, context: &[u8]) -> AesKey {
        key.same_length(|out| self.kdf_counter(constant, bit_length(out), context, out))
    }
}

/// [`CmacKey::kdf_counter`] under a key that is used once.
pub fn kdf_counter_cmac(key: &AesKey, constant: u8, bits: u16, context: &[u8], out: &mut [u8]) {
    CmacKey::new(key).kdf_counter(constant, bits, context, out);
}

/// [`CmacKey::session_key`] under a key that is used once.
pub fn kdf_session_key(key: &AesKey, constant: u8, context: &[u8]) -> AesKey {
    CmacKey::new(key).session_key(key, constant, context)
}

/// The platform's own derivation: block i is `CMAC(key, i(1) || label || 00 || context || L(2))`, L the bit length of `out`.
/// Meant for keys, at most 4080 bytes: beyond that the one-byte counter would start again.
pub fn kdf_label(key: &AesKey, label: &[u8], context: &[u8], out: &mut [u8]) {
    let bits = bit_length(out).to_be_bytes();
    let key = CmacKey::new(key);
    blocks(out, |i| key.cmac(&[&[i], label, &[0x00], context, &bits]));
}

/// The low 16 bits of the bit length, which is all there is for any key.
fn bit_length(out: &[u8]) -> u16 {
    let [.., high, low] = out.len().wrapping_mul(8).to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// Fills `out` with the blocks of the numbers from 1 up.
fn blocks(out: &mut [u8], block: impl Fn(u8) -> [u8; BLOCK]) {
    let mut i = 0u8;
    for chunk in out.chunks_mut(BLOCK) {
        i = i.wrapping_add(1);
        let block = zeroize::Zeroizing::new(block(i));
        chunk
            .iter_mut()
            .zip(block.iter())
            .for_each(|(to, from)| *to = *from);
    }
}

/// The key check value of an AES key: the first three bytes of a block of 01 under it (Amd D 7.2.2).
pub fn kcv_aes(key: &AesKey) -> [u8; 3] {
    let mut block = [0x01; BLOCK];
    ecb_block(key, &mut block);
    let [a, b, c, ..] = block;
    [a, b, c]
}
