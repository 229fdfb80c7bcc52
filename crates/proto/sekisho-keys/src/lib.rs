//! Key types that zeroize, key derivation, and the AES, CMAC, SHA-256 and ECDSA engine.
//!
//! The primitives are RustCrypto's, unless a build names an engine of its own (`--cfg sekisho_crypto="custom"`, `docs/decisions/0015-chip.md`); this crate
//! gives them the shapes that the protocols ask for: any of the three AES key lengths behind
//! one type, data in parts instead of one buffer, errors instead of panics. Secrets are erased when dropped, compare in constant time
//! and never print. Nothing here draws randomness: [`Rng`] is an argument.
#![no_std]
#![cfg_attr(not(sekisho_crypto = "custom"), forbid(unsafe_code))]
#![warn(clippy::indexing_slicing)]

#[cfg(test)]
extern crate std;

mod aes_key;
mod cmac;
#[cfg(sekisho_crypto = "custom")]
mod custom;
pub mod diversify;
mod error;
#[cfg(feature = "tls")]
mod gcm;
#[cfg(feature = "tls")]
mod hmac;
mod kdf;
mod modes;
pub mod p256dh;
pub mod p256sig;
mod padding;
#[cfg(not(sekisho_crypto = "custom"))]
mod rustcrypto;
mod sha256;
mod siv;
#[cfg(feature = "legacy-tdes")]
pub mod tdes;
mod verdict;
mod wrap;

#[cfg(sekisho_crypto = "custom")]
use custom as engine;
#[cfg(not(sekisho_crypto = "custom"))]
use rustcrypto as engine;

pub use aes_key::{AesKey, KeyRef, KeySet};
pub use cmac::{CmacKey, cmac};
#[cfg(sekisho_crypto = "custom")]
pub use custom::Crypto;
pub use error::{KeyLengthError, LengthError, PaddingError, UnwrapError};
#[cfg(feature = "tls")]
pub use gcm::{Gcm, GcmError};
#[cfg(feature = "tls")]
pub use hmac::hmac_sha256;
pub use kdf::{kcv_aes, kdf_counter_cmac, kdf_label, kdf_session_key};
pub use modes::{
    BlockCipher, cbc_decrypt, cbc_decrypt_counted, cbc_encrypt, cbc_encrypt_counted, ctr_xor, ecb_block,
    ecb_blocks,
};
pub use padding::{pad80, unpad80};
pub use sha256::{Sha256, sha256};
pub use siv::{Siv, SivError};
pub use verdict::{Verdict, ct_compare, ct_eq};
pub use wrap::{key_unwrap, key_wrap};

/// Length of an AES block in bytes.
pub const BLOCK: usize = 16;

/// A source of random bytes, given by whoever runs the protocol: a hardware generator, or a seeded one in a test.
pub trait Rng {
    /// Fills `out` with random bytes.
    fn fill(&mut self, out: &mut [u8]);
}
