//! AES-128-GCM (NIST SP 800-38D), in place, with nonces of 96 bits and tags of 128.

use core::fmt;

use crate::engine;

/// The length of a tag in bytes.
const TAG: usize = 16;

/// What was to be opened is not what has been sealed, or is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcmError;

impl fmt::Display for GcmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wrong tag, or too long a text")
    }
}

impl core::error::Error for GcmError {}

/// A key, expanded. Erased when dropped.
pub struct Gcm(engine::Gcm);

impl Gcm {
    /// A key of 16 bytes.
    pub fn new(key: &[u8; 16]) -> Self {
        Self(engine::Gcm::new(key))
    }

    /// Encrypts `text` in place; the tag that goes behind it. A nonce is used once with a key.
    ///
    /// # Errors
    /// [`GcmError`] beyond 2^36 - 32 bytes.
    pub fn seal(&self, nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG], GcmError> {
        self.0.seal(nonce, aad, text).ok_or(GcmError)
    }

    /// Decrypts `text`, which ends with its tag, in place; the plaintext. Nothing is decrypted when the tag is wrong.
    ///
    /// # Errors
    /// [`GcmError`] for a wrong tag or less than 16 bytes.
    pub fn open<'t>(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        text: &'t mut [u8],
    ) -> Result<&'t mut [u8], GcmError> {
        let (text, tag) = text.split_last_chunk_mut::<TAG>().ok_or(GcmError)?;
        self.0.open(nonce, aad, text, tag).ok_or(GcmError)?;
        Ok(text)
    }
}

impl fmt::Debug for Gcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gcm(AES-128)")
    }
}
