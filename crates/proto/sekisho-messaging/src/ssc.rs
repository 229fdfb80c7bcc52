//! The send sequence counter.

/// Send sequence counter (ICAO 9303-11 section 9.8.2): one block long, big endian, incremented before each command and
/// before each response. It is public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ssc {
    value: u128,
    width: Width,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Eight,
    Sixteen,
}

impl Ssc {
    /// A counter for AES: 16 bytes.
    pub const fn aes(start: [u8; 16]) -> Self {
        Self {
            value: u128::from_be_bytes(start),
            width: Width::Sixteen,
        }
    }

    /// A counter for triple DES: 8 bytes.
    pub const fn tdes(start: [u8; 8]) -> Self {
        Self {
            value: u64::from_be_bytes(start) as u128,
            width: Width::Eight,
        }
    }

    /// The counter after this one. It wraps at its own length, as ICAO 9303-11 leaves it to the keys to end before.
    #[must_use]
    pub const fn next(self) -> Self {
        let value = self.value.wrapping_add(1);
        match self.width {
            Width::Eight => Self {
                value: value & u64::MAX as u128,
                width: self.width,
            },
            Width::Sixteen => Self {
                value,
                width: self.width,
            },
        }
    }

    /// The counter as a block of 16 bytes; one for triple DES stands in the low 8.
    pub const fn to_block(self) -> [u8; 16] {
        self.value.to_be_bytes()
    }

    /// The low 8 bytes: what an 8-byte counter consists of, and what the ratchet binds its keys to.
    pub const fn low(self) -> [u8; 8] {
        let [_, _, _, _, _, _, _, _, low @ ..] = self.to_block();
        low
    }
}

#[cfg(test)]
mod tests {
    use super::Ssc;

    #[test]
    fn counts_and_wraps_at_its_own_length() {
        // gmrtd, iso7816/secure_messaging_test.go, TestSSCIncrement
        assert_eq!(Ssc::tdes([0xFF; 8]).next(), Ssc::tdes([0; 8]));
        assert_eq!(Ssc::aes([0xFF; 16]).next(), Ssc::aes([0; 16]));
        let start = 0x0001_0203_0405_0607_0809_0A0B_0C0D_0E0F_u128;
        assert_eq!(
            Ssc::aes(start.to_be_bytes()).next().to_block(),
            (start + 1).to_be_bytes()
        );
        assert_eq!(
            Ssc::tdes([0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF])
                .next()
                .low(),
            [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xF0]
        );
    }
}
