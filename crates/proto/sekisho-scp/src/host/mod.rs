//! The off-card entity's role: the host of the standard.

mod broadcast;
mod channel;
mod command;
mod session_keys;

pub use broadcast::BroadcastWriter;
pub use channel::{HostChannel, InitializeUpdateResponse};
pub use session_keys::{Challenge, Cryptogram, SessionKeys, constant, pseudo_random_card_challenge};

use sekisho_keys::{AesKey, LengthError, cbc_encrypt};

/// Enciphers sensitive data (keys for PUT KEY and STORE DATA) in place with the static Key-DEK: CBC, ICV zero (6.2.8).
///
/// # Errors
/// [`LengthError`] unless `data` is whole blocks; a 24-byte key is filled up to 32 with arbitrary bytes first.
pub fn encrypt_sensitive(dek: &AesKey, data: &mut [u8]) -> Result<(), LengthError> {
    cbc_encrypt(dek, &[0; 16], data)
}
