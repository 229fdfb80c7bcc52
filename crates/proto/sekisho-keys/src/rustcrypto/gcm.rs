//! AES-128-GCM.

use aes_gcm::{AeadInOut as _, Aes128Gcm, KeyInit as _};

/// With its expanded key. Erased when dropped.
pub(crate) struct Gcm(Aes128Gcm);

impl Gcm {
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        Self(Aes128Gcm::new(key.into()))
    }

    pub(crate) fn seal(&self, nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> Option<[u8; 16]> {
        let tag = self.0.encrypt_inout_detached(nonce.into(), aad, text.into());
        tag.ok().map(Into::into)
    }

    pub(crate) fn open(&self, nonce: &[u8; 12], aad: &[u8], text: &mut [u8], tag: &[u8; 16]) -> Option<()> {
        self.0
            .decrypt_inout_detached(nonce.into(), aad, text.into(), tag.into())
            .ok()
    }
}
