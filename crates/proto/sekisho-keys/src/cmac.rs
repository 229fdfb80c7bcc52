//! AES-CMAC (NIST SP 800-38B, RFC 4493).

use core::fmt;

use ::cmac::Mac as _;
use ::cmac::digest::common::InnerInit as _;

use crate::AesKey;
use crate::aes_key::Bytes;

/// A CMAC in the making, for data that comes in pieces.
#[derive(Clone)]
pub struct Cmac(Engine);

#[derive(Clone)]
enum Engine {
    Aes128(::cmac::Cmac<aes::Aes128Enc>),
    Aes192(::cmac::Cmac<aes::Aes192Enc>),
    Aes256(::cmac::Cmac<aes::Aes256Enc>),
}

fn start<C: ::cmac::block_api::CmacCipher + aes::cipher::KeyInit>(
    key: &aes::cipher::Key<C>,
) -> ::cmac::Cmac<C> {
    ::cmac::Cmac::inner_init(C::new(key))
}

impl Cmac {
    /// Starts a MAC under `key`.
    pub fn new(key: &AesKey) -> Self {
        Self(match &key.0 {
            Bytes::Aes128(bytes, _) => Engine::Aes128(start(bytes.into())),
            Bytes::Aes192(bytes, _) => Engine::Aes192(start(bytes.into())),
            Bytes::Aes256(bytes) => Engine::Aes256(start(bytes.into())),
        })
    }

    /// Takes the next piece of the message.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Engine::Aes128(mac) => mac.update(bytes),
            Engine::Aes192(mac) => mac.update(bytes),
            Engine::Aes256(mac) => mac.update(bytes),
        }
    }

    /// The MAC of all pieces. Compare it (or its first bytes) with [`ct_eq`](crate::ct_eq) only.
    pub fn finalize(self) -> [u8; 16] {
        match self.0 {
            Engine::Aes128(mac) => mac.finalize().into_bytes().into(),
            Engine::Aes192(mac) => mac.finalize().into_bytes().into(),
            Engine::Aes256(mac) => mac.finalize().into_bytes().into(),
        }
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
