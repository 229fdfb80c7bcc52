//! AES-SIV-CMAC-256 (RFC 5297): two keys of AES-128, the one that MACs and the one that encrypts.

use core::fmt;

use crate::{BLOCK, engine};

/// The ciphertext is not authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SivError;

impl fmt::Display for SivError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ciphertext is not authentic")
    }
}

impl core::error::Error for SivError {}

/// The cipher under a key, for any number of messages.
pub struct Siv(engine::Siv);

impl Siv {
    /// The cipher under `key`: the MAC's half, then that of the encryption.
    pub fn new(key: &[u8; 2 * BLOCK]) -> Self {
        Self(engine::Siv::new(key))
    }

    /// Encrypts `text` in place and gives V, which authenticates it and the headers (associated data), 126 of them at most.
    pub fn seal<H: AsRef<[u8]>, const N: usize>(&mut self, headers: &[H; N], text: &mut [u8]) -> [u8; BLOCK] {
        const { assert!(N <= 126, "RFC 5297, 2.6") };
        // With so many headers nothing fails.
        self.0.seal(headers, text).unwrap_or_default()
    }

    /// Decrypts `text` in place.
    ///
    /// # Errors
    /// [`SivError`] when `tag` is not its V with these headers: what `text` holds then is of no use to anybody.
    pub fn open<H: AsRef<[u8]>, const N: usize>(
        &mut self,
        headers: &[H; N],
        text: &mut [u8],
        tag: &[u8; BLOCK],
    ) -> Result<(), SivError> {
        const { assert!(N <= 126, "RFC 5297, 2.6") };
        self.0.open(headers, text, tag).ok_or(SivError)
    }
}

impl fmt::Debug for Siv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Siv { .. }")
    }
}
