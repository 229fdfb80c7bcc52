//! AES Key Wrap (RFC 3394).

use zeroize::Zeroize as _;

use crate::{AesKey, LengthError, UnwrapError, engine};

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
    engine::key_wrap(kek, keys, out).ok_or(LengthError)
}

/// Unwraps `wrapped` under `kek` into `out`, which must be 8 bytes shorter.
///
/// # Errors
/// [`UnwrapError`] when the lengths do not fit or the integrity check fails; `out` is all zero then.
pub fn key_unwrap(kek: &AesKey, wrapped: &[u8], out: &mut [u8]) -> Result<(), UnwrapError> {
    if fits(out.len(), wrapped.len()) && engine::key_unwrap(kek, wrapped, out).is_some() {
        return Ok(());
    }
    out.zeroize();
    Err(UnwrapError)
}
