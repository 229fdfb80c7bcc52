//! Padding 80 00..00 up to a whole block (ISO/IEC 9797-1 method 2; Amd D 4.1.4).

use crate::{BLOCK, LengthError, PaddingError};

/// Pads the first `len` bytes of `buf` in place, by 1 to 16 bytes, and gives the padded length.
///
/// # Errors
/// [`LengthError`] when the padding does not fit `buf`; nothing is changed then.
pub fn pad80(buf: &mut [u8], len: usize) -> Result<usize, LengthError> {
    let padded = (len - len % BLOCK).checked_add(BLOCK).ok_or(LengthError)?;
    let padding = buf.get_mut(len..padded).ok_or(LengthError)?;
    padding.fill(0x00);
    if let Some(first) = padding.first_mut() {
        *first = 0x80;
    }
    Ok(padded)
}

/// `bytes` without their padding, which must be there: at least 80, at most one block. Its time depends on the padding; use it only on
/// what a MAC has already vouched for.
///
/// # Errors
/// [`PaddingError`].
pub fn unpad80(bytes: &[u8]) -> Result<&[u8], PaddingError> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(BLOCK) {
        return Err(PaddingError);
    }
    let zeros = bytes
        .iter()
        .rev()
        .take(BLOCK - 1)
        .take_while(|byte| **byte == 0)
        .count();
    match bytes.get(..bytes.len() - zeros) {
        Some([data @ .., 0x80]) => Ok(data),
        _ => Err(PaddingError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_by_one_to_sixteen_bytes() {
        for len in 0..=48 {
            let mut buf = [0xEE; 64];
            let padded = pad80(&mut buf, len).unwrap();
            assert!(padded.is_multiple_of(16) && padded > len && padded <= len + 16);
            assert_eq!(buf[len], 0x80);
            assert!(buf[len + 1..padded].iter().all(|b| *b == 0));
            assert!(buf[..len].iter().chain(&buf[padded..]).all(|b| *b == 0xEE));
            assert_eq!(unpad80(&buf[..padded]).unwrap(), &buf[..len]);
        }
        assert_eq!(pad80(&mut [0; 16], 16), Err(LengthError));
        assert_eq!(pad80(&mut [0; 16], 17), Err(LengthError));
        assert_eq!(pad80(&mut [], 0), Err(LengthError));
        assert_eq!(pad80(&mut [], usize::MAX), Err(LengthError));
    }

    #[test]
    fn what_is_not_padded_is_refused() {
        let mut long = [0; 32];
        long[15] = 0x80; // seventeen bytes of padding
        for bytes in [&[][..], &[0; 16], &[1; 16], &[0x80; 15], &long] {
            assert_eq!(unpad80(bytes), Err(PaddingError), "{bytes:02X?}");
        }
        long[16] = 0x80;
        assert_eq!(unpad80(&long).unwrap(), &long[..16]);
    }
}
