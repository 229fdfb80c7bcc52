//! How often a chip has reset itself (GET DATA DF25).

use sekisho_apdu::{BufferFull, Reader, Writer};

use crate::DecodeError;

/// Resets of a chip by itself since power was last applied, by cause. A count that is full stays so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResetCounts {
    /// The code came to a place that cannot be.
    pub panics: u16,
    /// The processor refused an access.
    pub faults: u16,
    /// The stack had no room left.
    pub stack: u16,
    /// The random source was not random.
    pub random: u16,
}

impl ResetCounts {
    const FORMAT: u8 = 1;
    /// Bytes of the value.
    pub const LEN: usize = 9;

    /// Writes the value.
    ///
    /// # Errors
    /// [`BufferFull`] below [`ResetCounts::LEN`] bytes.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        out.u8(Self::FORMAT)?;
        [self.panics, self.faults, self.stack, self.random]
            .into_iter()
            .try_for_each(|count| out.u16(count))
    }

    /// Reads the value.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one value.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != Self::FORMAT {
            return Err(DecodeError::Value);
        }
        let counts = Self {
            panics: reader.u16()?,
            faults: reader.u16()?,
            stack: reader.u16()?,
            random: reader.u16()?,
        };
        reader.finish()?;
        Ok(counts)
    }

    /// All of them together.
    pub fn sum(&self) -> u32 {
        [self.panics, self.faults, self.stack, self.random]
            .into_iter()
            .map(u32::from)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_it_was_written_and_nothing_else_is_one() {
        let counts = ResetCounts {
            panics: 1,
            faults: 0x0203,
            stack: 4,
            random: u16::MAX,
        };
        let mut room = [0; ResetCounts::LEN];
        let mut out = Writer::new(&mut room);
        counts.encode(&mut out).unwrap();
        assert_eq!(out.len(), ResetCounts::LEN);
        assert_eq!(room, [1, 0, 1, 2, 3, 0, 4, 0xFF, 0xFF]);
        assert_eq!(ResetCounts::decode(&room), Ok(counts));
        assert_eq!(counts.sum(), 1 + 0x0203 + 4 + 0xFFFF);
        assert!(ResetCounts::decode(&room[..8]).is_err());
        assert!(ResetCounts::decode(&[&room[..], &[0]].concat()).is_err());
        room[0] = 2;
        assert!(ResetCounts::decode(&room).is_err());
    }
}
