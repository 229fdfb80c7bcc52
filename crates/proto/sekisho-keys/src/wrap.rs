//! AES Key Wrap (RFC 3394).

use aes::cipher::common::InnerInit as _;
use zeroize::Zeroize as _;

use crate::aes_key::with_cipher;
use crate::{AesKey, LengthError, UnwrapError};

/// The integrity check value takes this many bytes; keys come in multiples of it.
const SEMIBLOCK: usize = 8;
/// RFC 3394, 2: at least two semiblocks.
const KEYS_LEN_MIN: usize = 2 * SEMIBLOCK;

fn fits(keys: usize, wrapped: usize) -> bool {
    keys >= KEYS_LEN_MIN && keys.is_multiple_of(SEMIBLOCK) && wrapped.checked_sub(keys) == Some(SEMIBLOCK)
}

/// Wraps `keys` (16 bytes or more, a multiple of 8) under `kek` into `out`, which must be 8 bytes longer.
///
/// # Errors
/// [`LengthError`] when the lengths do not fit.
pub fn key_wrap(kek: &AesKey, keys: &[u8], out: &mut [u8]) -> Result<(), LengthError> {
    if !fits(keys.len(), out.len()) {
        return Err(LengthError);
    }
    with_cipher!(kek, cipher => aes_kw::AesKw::inner_init(cipher).wrap_key(keys, out))
        .map_err(|_| LengthError)?;
    Ok(())
}

/// Unwraps `wrapped` under `kek` into `out`, which must be 8 bytes shorter.
///
/// # Errors
/// [`UnwrapError`] when the lengths do not fit or the integrity check fails; `out` is all zero then.
pub fn key_unwrap(kek: &AesKey, wrapped: &[u8], out: &mut [u8]) -> Result<(), UnwrapError> {
    let done = fits(out.len(), wrapped.len())
        && with_cipher!(kek, cipher => aes_kw::AesKw::inner_init(cipher).unwrap_key(wrapped, out).is_ok());
    if done {
        return Ok(());
    }
    out.zeroize();
    Err(UnwrapError)
}
