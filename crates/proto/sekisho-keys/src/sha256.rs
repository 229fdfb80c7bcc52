//! SHA-256 (FIPS 180-4).

use core::fmt;

use crate::engine;

/// A SHA-256 digest in the making.
#[derive(Clone, Default)]
pub struct Sha256(engine::Sha256);

impl Sha256 {
    /// Starts a digest.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece of the message.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all pieces.
    pub fn finalize(self) -> [u8; 32] {
        self.0.finalize()
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256 { .. }")
    }
}

/// The SHA-256 digest of the concatenation of `parts`.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize()
}
