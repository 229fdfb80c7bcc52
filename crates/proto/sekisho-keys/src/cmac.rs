//! AES-CMAC (NIST SP 800-38B, RFC 4493).

use core::fmt;

use crate::{AesKey, engine};

/// A key that is ready to make MACs: several under one key expand it once. Erased when dropped.
pub struct CmacKey(engine::MacKey);

impl CmacKey {
    /// Makes a key ready.
    pub fn new(key: &AesKey) -> Self {
        Self(engine::MacKey::new(key))
    }

    /// The CMAC of the concatenation of `parts`. Compare it (or its first bytes) with [`ct_eq`](crate::ct_eq) only.
    pub fn cmac(&self, parts: &[&[u8]]) -> [u8; 16] {
        self.0.mac(parts)
    }
}

impl fmt::Debug for CmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CmacKey { .. }")
    }
}

/// The CMAC of the concatenation of `parts`. Compare it (or its first bytes) with [`ct_eq`](crate::ct_eq) only.
pub fn cmac(key: &AesKey, parts: &[&[u8]]) -> [u8; 16] {
    CmacKey::new(key).cmac(parts)
}
