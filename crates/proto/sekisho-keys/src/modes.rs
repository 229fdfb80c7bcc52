//! Block modes (NIST SP 800-38A).

use core::fmt;

use crate::{AesKey, BLOCK, LengthError, engine};

/// `buf` as blocks, or an error when its length is no multiple of the block length.
fn as_blocks(buf: &mut [u8]) -> Result<&mut [[u8; BLOCK]], LengthError> {
    match buf.as_chunks_mut() {
        (blocks, []) => Ok(blocks),
        _ => Err(LengthError),
    }
}

/// Encrypts `buf` in place with AES-CBC.
///
/// # Errors
/// [`LengthError`] unless `buf` is whole blocks; nothing is changed then.
pub fn cbc_encrypt(key: &AesKey, iv: &[u8; BLOCK], buf: &mut [u8]) -> Result<(), LengthError> {
    engine::cbc_encrypt(key, iv, as_blocks(buf)?);
    Ok(())
}

/// Decrypts `buf` in place with AES-CBC.
///
/// # Errors
/// [`LengthError`] unless `buf` is whole blocks; nothing is changed then.
pub fn cbc_decrypt(key: &AesKey, iv: &[u8; BLOCK], buf: &mut [u8]) -> Result<(), LengthError> {
    engine::cbc_decrypt(key, iv, as_blocks(buf)?);
    Ok(())
}

/// [`cbc_encrypt`] with a counter encrypted under the same key as its IV, as SCP03 makes its ICV (Amd D 6.2.6, 6.2.7).
///
/// # Errors
/// As of [`cbc_encrypt`].
pub fn cbc_encrypt_counted(key: &AesKey, counter: &[u8; BLOCK], buf: &mut [u8]) -> Result<(), LengthError> {
    engine::cbc_encrypt_counted(key, counter, as_blocks(buf)?);
    Ok(())
}

/// [`cbc_decrypt`] with a counter encrypted under the same key as its IV, as SCP03 makes its ICV (Amd D 6.2.6, 6.2.7).
///
/// # Errors
/// As of [`cbc_decrypt`].
pub fn cbc_decrypt_counted(key: &AesKey, counter: &[u8; BLOCK], buf: &mut [u8]) -> Result<(), LengthError> {
    engine::cbc_decrypt_counted(key, counter, as_blocks(buf)?);
    Ok(())
}

/// Encrypts one block in place.
pub fn ecb_block(key: &AesKey, block: &mut [u8; BLOCK]) {
    engine::ecb_encrypt(key, block);
}

/// Encrypts blocks in place, each by itself.
pub fn ecb_blocks(key: &AesKey, blocks: &mut [[u8; BLOCK]]) {
    engine::ecb_encrypt_all(key, blocks);
}

/// Encrypts or decrypts `buf` in place with AES-CTR, `buf` beginning at byte `offset` of the stream. `iv` is the first counter block; all its
/// 128 bits count.
///
/// # Errors
/// [`LengthError`] when the stream is too short, which no 64-bit offset reaches.
pub fn ctr_xor(key: &AesKey, iv: &[u8; BLOCK], offset: u64, buf: &mut [u8]) -> Result<(), LengthError> {
    engine::ctr_xor(key, iv, offset, buf).ok_or(LengthError)
}

/// AES-128 on single blocks, for a key that many blocks come under one at a time. Erased when dropped.
#[derive(Clone)]
pub struct BlockCipher(engine::Block);

impl BlockCipher {
    /// The cipher under `key`.
    pub fn new(key: &[u8; BLOCK]) -> Self {
        Self(engine::Block::new(key))
    }

    /// Encrypts a block in place.
    pub fn encrypt(&self, block: &mut [u8; BLOCK]) {
        self.0.encrypt(block);
    }

    /// Decrypts a block in place.
    pub fn decrypt(&self, block: &mut [u8; BLOCK]) {
        self.0.decrypt(block);
    }
}

impl fmt::Debug for BlockCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockCipher { .. }")
    }
}
