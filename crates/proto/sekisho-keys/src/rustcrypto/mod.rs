//! The engine that a build has unless it names another: RustCrypto, in software.

mod aes;
mod cmac;
#[cfg(any(target_os = "none", test))]
mod compact;
#[cfg(feature = "tls")]
mod gcm;
mod p256;

pub(crate) use aes::{
    Block, Siv, cbc_decrypt, cbc_decrypt_counted, cbc_encrypt, cbc_encrypt_counted, ctr_xor, ecb_encrypt,
    ecb_encrypt_all, key_unwrap, key_wrap,
};
pub(crate) use cmac::MacKey;
#[cfg(feature = "tls")]
pub(crate) use gcm::Gcm;
pub(crate) use p256::{PrivateKey, PublicKey};
#[cfg(feature = "tls")]
pub(crate) use p256::{signature_from_der, signature_to_der};
pub(crate) use sha256::Sha256;

mod sha256 {
    use sha2::Digest as _;

    #[derive(Clone, Default)]
    pub(crate) struct Sha256(sha2::Sha256);

    impl Sha256 {
        pub(crate) fn update(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        pub(crate) fn finalize(self) -> [u8; 32] {
            self.0.finalize().into()
        }
    }
}
