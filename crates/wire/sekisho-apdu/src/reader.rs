//! Reading from a borrowed buffer.

use core::fmt;

/// Why bytes do not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside a field.
    UnexpectedEnd,
    /// Bytes are left over after the last field.
    TrailingData,
    /// A BER-TLV tag field of more than three bytes, or one that starts with an empty continuation byte.
    Tag,
    /// A BER-TLV length field of the indefinite form or of more than three length bytes.
    Length,
    /// A field holds a value that its definition excludes.
    Value,
    /// What its definition lays out and nothing here does.
    Unsupported,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnexpectedEnd => "unexpected end of data",
            Self::TrailingData => "trailing data",
            Self::Tag => "malformed tag field",
            Self::Length => "malformed length field",
            Self::Value => "value out of range",
            Self::Unsupported => "laid out, and not taken here",
        })
    }
}

impl core::error::Error for DecodeError {}

/// Takes big-endian fields from the front of a byte string. A failed call takes nothing.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of all of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Number of bytes that are left.
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes the next `n` bytes.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`].
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.bytes.split_at_checked(n).ok_or(DecodeError::UnexpectedEnd)?;
        self.bytes = tail;
        Ok(head)
    }

    /// Takes the next `N` bytes as an array.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(DecodeError::UnexpectedEnd)?;
        self.bytes = tail;
        Ok(*head)
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`].
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]| byte)
    }

    /// Takes two bytes.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`].
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Takes three bytes.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`].
    pub fn u24(&mut self) -> Result<u32, DecodeError> {
        self.array().map(|[a, b, c]| u32::from_be_bytes([0, a, b, c]))
    }

    /// Takes four bytes.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`].
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Takes eight bytes.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`].
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Takes all that is left.
    pub const fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes;
        self.bytes = &[];
        rest
    }

    /// Ends the reading: nothing may be left.
    ///
    /// # Errors
    /// [`DecodeError::TrailingData`].
    pub const fn finish(self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TrailingData)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_a_writer_wrote() {
        let bytes: std::vec::Vec<u8> = (1..=22).collect();
        let mut r = Reader::new(&bytes);
        assert_eq!(r.u8(), Ok(1));
        assert_eq!(r.u16(), Ok(0x0203));
        assert_eq!(r.u24(), Ok(0x0004_0506));
        assert_eq!(r.u32(), Ok(0x0708_090A));
        assert_eq!(r.u64(), Ok(0x0B0C_0D0E_0F10_1112));
        assert_eq!(r.array(), Ok([19, 20]));
        assert_eq!(r.clone().finish(), Err(DecodeError::TrailingData));
        assert_eq!(r.u24(), Err(DecodeError::UnexpectedEnd));
        assert_eq!(r.take(3), Err(DecodeError::UnexpectedEnd));
        assert_eq!(r.len(), 2);
        assert_eq!(r.rest(), [21, 22]);
        assert_eq!(r.finish(), Ok(()));
    }
}
