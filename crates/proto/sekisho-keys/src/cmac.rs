//! AES-CMAC (NIST SP 800-38B, RFC 4493).

use core::fmt;

use crate::{AesKey, engine};

/// A CMAC in the making, for data that comes in pieces.
#[derive(Clone)]
pub struct Cmac(engine::Cmac);

impl Cmac {
    /// Starts a MAC under `key`.
    pub fn new(key: &AesKey) -> Self {
        Self(engine::Cmac::new(key))
    }

    /// Takes the next piece of the message.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The MAC of all pieces. Compare it (or its first bytes) with [`ct_eq`](crate::ct_eq) only.
    pub fn finalize(self) -> [u8; 16] {
        self.0.finalize()
    }
}

impl fmt::Debug for Cmac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cmac { .. }")
    }
}

/// The CMAC of the concatenation of `parts`.
pub fn cmac(key: &AesKey, parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = Cmac::new(key);
    for part in parts {
        mac.update(part);
    }
    mac.finalize()
}
