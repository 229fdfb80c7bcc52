//! Block modes (NIST SP 800-38A).

use aes::cipher::{
    Array, BlockCipherEncrypt as _, BlockModeDecrypt as _, BlockModeEncrypt as _, InnerIvInit as _,
    StreamCipher as _, StreamCipherSeek as _,
};

use crate::aes_key::with_cipher;
use crate::{AesKey, BLOCK, LengthError};

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
    let blocks = Array::cast_slice_from_core_mut(as_blocks(buf)?);
    with_cipher!(encrypt key, cipher => cbc::Encryptor::inner_iv_init(cipher, iv.into()).encrypt_blocks(blocks));
    Ok(())
}

/// Decrypts `buf` in place with AES-CBC.
///
/// # Errors
/// [`LengthError`] unless `buf` is whole blocks; nothing is changed then.
pub fn cbc_decrypt(key: &AesKey, iv: &[u8; BLOCK], buf: &mut [u8]) -> Result<(), LengthError> {
    let blocks = Array::cast_slice_from_core_mut(as_blocks(buf)?);
    with_cipher!(key, cipher => cbc::Decryptor::inner_iv_init(cipher, iv.into()).decrypt_blocks(blocks));
    Ok(())
}

/// Encrypts one block in place.
pub fn ecb_block(key: &AesKey, block: &mut [u8; BLOCK]) {
    with_cipher!(encrypt key, cipher => cipher.encrypt_block(block.into()));
}

/// Encrypts or decrypts `buf` in place with AES-CTR, `buf` beginning at byte `offset` of the stream. `iv` is the first counter block; all its
/// 128 bits count.
///
/// # Errors
/// [`LengthError`] when the stream is too short, which no 64-bit offset reaches.
pub fn ctr_xor(key: &AesKey, iv: &[u8; BLOCK], offset: u64, buf: &mut [u8]) -> Result<(), LengthError> {
    with_cipher!(encrypt key, cipher => {
        let mut stream = aes::cipher::StreamCipherCoreWrapper::from_core(ctr::CtrCore::<_, ctr::flavors::Ctr128BE>::inner_iv_init(cipher, iv.into()));
        stream.try_seek(offset).map_err(|_| LengthError)?;
        stream.try_apply_keystream(buf).map_err(|_| LengthError)
    })
}
