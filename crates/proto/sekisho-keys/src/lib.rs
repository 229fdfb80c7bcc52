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
pub use kdf::{kcv_aes, kdf_counter_cmac, kdf_label, kdf_session_key};
pub use modes::{
    BlockCipher, cbc_decrypt, cbc_decrypt_counted, cbc_encrypt, cbc_encrypt_counted, ctr_xor, ecb_block,
    ecb_blocks,
};
pub use padding::{pad80, unpad80};
pub use sha256::{Sha256, sha256};
pub use siv::{Siv, SivError};
pub use wrap::{key_unwrap, key_wrap};

/// Length of an AES block in bytes.
pub const BLOCK: usize = 16;

/// A source of random bytes, given by whoever runs the protocol: a hardware generator, or a seeded one in a test.
pub trait Rng {
    /// Fills `out` with random bytes.
    fn fill(&mut self, out: &mut [u8]);
}

/// Whether two byte strings are the same, in a time that depends on their lengths alone.
///
/// A yes is as far from a no as words can be, is computed from two comparisons, and is looked at twice where it is asked for: a chip that leaves out one instruction, because somebody makes its
/// supply or clock stumble, does not take a no for a yes.
#[inline(always)]
pub fn ct_eq(a: &[u8], b: &[u8]) -> bool {
    let said = equality(a, b);
    // Kept before the first look, or the compiler would know what the second one sees; and looked at behind it, or both would be one branch.
    let again = core::hint::black_box(said);
    if said != YES {
        return false;
    }
    core::hint::black_box(again) == YES
}

const YES: u32 = 0x5A96_C33C;
const NO: u32 = !YES;

#[inline(never)]
fn equality(a: &[u8], b: &[u8]) -> u32 {
    use core::hint::black_box;
    use subtle::ConstantTimeEq;
    let mask = |a: &[u8], b: &[u8]| u32::from(a.ct_eq(b).unwrap_u8()).wrapping_neg();
    let (once, twice) = (mask(a, b), mask(black_box(a), black_box(b)));
    NO ^ ((YES ^ NO) & black_box(once) & black_box(twice))
}
