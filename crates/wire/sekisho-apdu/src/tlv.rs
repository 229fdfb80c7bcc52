//! BER-TLV data objects (ISO/IEC 7816-4, 5.2.2; ISO/IEC 8825-1).
//!
//! Read: tag fields of 1 to 3 bytes; definite lengths of 1 to 4 bytes (00 to 7F, 81, 82, 83). A length longer than needed is
//! **accepted**: it is BER, not DER, and host software exists that always writes `82`. What is written is always minimal, so
//! anything under a MAC is compared as bytes and never re-encoded. No padding bytes (00, FF) are skipped: GlobalPlatform has none.

use core::fmt;

use crate::reader::{DecodeError, Reader};

/// A tag field, its bytes as one number: `Tag(0x4F)`, `Tag(0x9F70)`, `Tag(0x5F5001)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u32);

impl Tag {
    /// Takes a tag field from `reader`.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`], [`DecodeError::Tag`].
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let first = reader.u8()?;
        if first & 0x1F != 0x1F {
            return Ok(Self(first.into()));
        }
        let second = reader.u8()?;
        // A continuation byte that carries no bit of the number would give one number two codings.
        if second == 0x80 {
            return Err(DecodeError::Tag);
        }
        if second & 0x80 == 0 {
            return Ok(Self(u32::from_be_bytes([0, 0, first, second])));
        }
        let third = reader.u8()?;
        if third & 0x80 != 0 {
            return Err(DecodeError::Tag);
        }
        Ok(Self(u32::from_be_bytes([0, first, second, third])))
    }

    /// Whether the value is itself made of data objects (bit 6 of the first byte).
    pub const fn is_constructed(self) -> bool {
        let first = if self.0 > 0xFFFF {
            self.0 >> 16
        } else if self.0 > 0xFF {
            self.0 >> 8
        } else {
            self.0
        };
        first & 0x20 != 0
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag {:02X}", self.0)
    }
}

/// One data object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// Its tag.
    pub tag: Tag,
    /// Its value field.
    pub value: &'a [u8],
}

impl<'a> Tlv<'a> {
    /// Takes one data object from `reader`.
    ///
    /// # Errors
    /// Any of [`DecodeError`] but `TrailingData` and `Value`.
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let tag = Tag::read(reader)?;
        let length = read_length(reader)?;
        Ok(Self {
            tag,
            value: reader.take(length)?,
        })
    }

    /// Reads exactly one data object, the whole of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let tlv = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(tlv)
    }
}

/// Takes a length field from `reader`: 00 to 7F, or 81, 82, 83 and as many bytes.
///
/// # Errors
/// [`DecodeError::UnexpectedEnd`], [`DecodeError::Length`].
pub fn read_length(reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let length = match reader.u8()? {
        short @ 0..=0x7F => short.into(),
        0x81 => reader.u8()?.into(),
        0x82 => reader.u16()?.into(),
        0x83 => reader.u24()?,
        _ => return Err(DecodeError::Length),
    };
    usize::try_from(length).map_err(|_| DecodeError::Length)
}

/// The data objects of a byte string, one after the other. After an error it ends.
#[derive(Clone, Debug)]
pub struct TlvReader<'a> {
    reader: Reader<'a>,
}

impl<'a> TlvReader<'a> {
    /// Reads all of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(bytes),
        }
    }
}

impl<'a> Iterator for TlvReader<'a> {
    type Item = Result<Tlv<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let item = Tlv::read(&mut self.reader);
        if item.is_err() {
            self.reader.rest();
        }
        Some(item)
    }
}

/// The value of the first data object of `bytes` with this tag, on the top level; `None` when there is none. All of `bytes` must
/// decode, also behind the object that was found.
///
/// # Errors
/// [`DecodeError`] when `bytes` is not a sequence of data objects.
pub fn find(bytes: &[u8], tag: u32) -> Result<Option<&[u8]>, DecodeError> {
    let mut found = None;
    for object in TlvReader::new(bytes) {
        let object = object?;
        if object.tag == Tag(tag) && found.is_none() {
            found = Some(object.value);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn tags_of_one_to_three_bytes() {
        for (bytes, tag) in [
            (&[0x4F][..], 0x4F),
            (&[0x9F, 0x70], 0x9F70),
            (&[0x7F, 0x21], 0x7F21),
            (&[0x5F, 0x81, 0x02], 0x5F_8102),
        ] {
            let mut reader = Reader::new(bytes);
            assert_eq!(Tag::read(&mut reader), Ok(Tag(tag)));
            assert!(reader.is_empty());
        }
        assert_eq!(
            Tag::read(&mut Reader::new(&[0x5F, 0x80, 0x01])),
            Err(DecodeError::Tag)
        );
        assert_eq!(
            Tag::read(&mut Reader::new(&[0x5F, 0x81, 0x81, 0x01])),
            Err(DecodeError::Tag)
        );
        assert_eq!(
            Tag::read(&mut Reader::new(&[0x5F, 0x81])),
            Err(DecodeError::UnexpectedEnd)
        );
        assert_eq!(Tag::read(&mut Reader::new(&[])), Err(DecodeError::UnexpectedEnd));
    }

    #[test]
    fn constructed_is_bit_6_of_the_first_byte() {
        for (tag, constructed) in [
            (0x4F, false),
            (0xE3, true),
            (0x9F70, false),
            (0xBF21, true),
            (0x7F49, true),
            (0x5F_8102, false),
        ] {
            assert_eq!(Tag(tag).is_constructed(), constructed, "{tag:X}");
        }
    }

    #[test]
    fn lengths_minimal_and_longer() {
        for (bytes, length) in [
            (&[0x00][..], 0),
            (&[0x7F], 127),
            (&[0x81, 0x05], 5),
            (&[0x81, 0xFF], 255),
            (&[0x82, 0x00, 0x05], 5),
            (&[0x82, 0xFF, 0xFF], 65_535),
            (&[0x83, 0x00, 0x00, 0x00], 0),
            (&[0x83, 0xFF, 0xFF, 0xFF], 16_777_215),
        ] {
            assert_eq!(read_length(&mut Reader::new(bytes)), Ok(length));
        }
        for bytes in [&[0x80][..], &[0x84, 0, 0, 0, 1], &[0xFF]] {
            assert_eq!(read_length(&mut Reader::new(bytes)), Err(DecodeError::Length));
        }
        for bytes in [&[][..], &[0x81], &[0x82, 1], &[0x83, 1, 2]] {
            assert_eq!(
                read_length(&mut Reader::new(bytes)),
                Err(DecodeError::UnexpectedEnd)
            );
        }
    }

    #[test]
    fn an_error_ends_the_iteration() {
        let objects: Vec<_> = TlvReader::new(&[0x4F, 1, 9, 0x80, 5, 1]).collect();
        assert_eq!(
            objects,
            [
                Ok(Tlv {
                    tag: Tag(0x4F),
                    value: &[9]
                }),
                Err(DecodeError::UnexpectedEnd)
            ]
        );
    }

    #[test]
    fn find_wants_the_whole_string_to_decode() {
        let bytes = [0x4F, 1, 9, 0x5C, 2, 1, 2, 0x4F, 1, 8];
        assert_eq!(find(&bytes, 0x4F), Ok(Some(&[9][..])));
        assert_eq!(find(&bytes, 0x5C), Ok(Some(&[1, 2][..])));
        assert_eq!(find(&bytes, 0x80), Ok(None));
        assert_eq!(find(&bytes[..9], 0x5C), Err(DecodeError::UnexpectedEnd));
        assert_eq!(find(&[], 0x5C), Ok(None));
        assert_eq!(Tlv::parse(&bytes), Err(DecodeError::TrailingData));
    }
}
