//! Status words SW1SW2.

use core::fmt;

/// SW1SW2, the two bytes that end every R-APDU (ISO/IEC 7816-4, 5.6).
///
/// A newtype with named constants and no enum, so that an unknown value survives and prints in hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusWord(pub u16);

impl StatusWord {
    /// 9000: no error.
    pub const NO_ERROR: Self = Self(0x9000);
    /// 6283: selected, but the card (or the file) is locked (GPC Table 11-83).
    pub const CARD_LOCKED_WARNING: Self = Self(0x6283);
    /// 6300: authentication of the host cryptogram failed (GPC Table D-13).
    pub const AUTH_CRYPTOGRAM_FAILED: Self = Self(0x6300);
    /// 6310: more data available (GPC Table 11-38, GET STATUS).
    pub const MORE_DATA_AVAILABLE: Self = Self(0x6310);
    /// 6400: no specific diagnosis.
    pub const NO_SPECIFIC_DIAGNOSIS: Self = Self(0x6400);
    /// 6581: memory failure.
    pub const MEMORY_FAILURE: Self = Self(0x6581);
    /// 6700: wrong length.
    pub const WRONG_LENGTH: Self = Self(0x6700);
    /// 6881: logical channel not supported or not active.
    pub const LOGICAL_CHANNEL_NOT_SUPPORTED: Self = Self(0x6881);
    /// 6882: secure messaging not supported.
    pub const SECURE_MESSAGING_NOT_SUPPORTED: Self = Self(0x6882);
    /// 6883: last command of the chain expected.
    pub const LAST_COMMAND_EXPECTED: Self = Self(0x6883);
    /// 6884: command chaining not supported.
    pub const CHAINING_NOT_SUPPORTED: Self = Self(0x6884);
    /// 6982: security status not satisfied.
    pub const SECURITY_STATUS_NOT_SATISFIED: Self = Self(0x6982);
    /// 6983: authentication method blocked.
    pub const AUTHENTICATION_METHOD_BLOCKED: Self = Self(0x6983);
    /// 6985: conditions of use not satisfied.
    pub const CONDITIONS_NOT_SATISFIED: Self = Self(0x6985);
    /// 6987: expected secure messaging data objects missing.
    pub const SM_OBJECTS_MISSING: Self = Self(0x6987);
    /// 6988: incorrect secure messaging data objects.
    pub const SM_OBJECTS_INCORRECT: Self = Self(0x6988);
    /// 6999: selection failed (applet refused).
    pub const APPLET_SELECT_FAILED: Self = Self(0x6999);
    /// 6A80: incorrect parameters in the command data field.
    pub const INCORRECT_DATA: Self = Self(0x6A80);
    /// 6A81: function not supported.
    pub const FUNCTION_NOT_SUPPORTED: Self = Self(0x6A81);
    /// 6A82: file or application not found.
    pub const FILE_NOT_FOUND: Self = Self(0x6A82);
    /// 6A83: record not found.
    pub const RECORD_NOT_FOUND: Self = Self(0x6A83);
    /// 6A84: not enough memory space.
    pub const NOT_ENOUGH_MEMORY: Self = Self(0x6A84);
    /// 6A86: incorrect parameters P1-P2.
    pub const INCORRECT_P1P2: Self = Self(0x6A86);
    /// 6A88: referenced data not found.
    pub const REFERENCED_DATA_NOT_FOUND: Self = Self(0x6A88);
    /// 6A89: file already exists.
    pub const FILE_ALREADY_EXISTS: Self = Self(0x6A89);
    /// 6B00: wrong parameters P1-P2 (an offset outside the file).
    pub const WRONG_PARAMETERS: Self = Self(0x6B00);
    /// 6D00: instruction code not supported.
    pub const INS_NOT_SUPPORTED: Self = Self(0x6D00);
    /// 6E00: class not supported.
    pub const CLA_NOT_SUPPORTED: Self = Self(0x6E00);
    /// 6F00: no precise diagnosis.
    pub const UNKNOWN: Self = Self(0x6F00);
    /// 9484: algorithm not supported (GPC Table 11-78, PUT KEY).
    pub const ALGORITHM_NOT_SUPPORTED: Self = Self(0x9484);
    /// 9485: invalid key check value (GPC Table 11-78, PUT KEY).
    pub const INVALID_KEY_CHECK_VALUE: Self = Self(0x9485);

    /// 61xx: `available` more bytes are ready for GET RESPONSE; 256 or more is coded as 00.
    pub const fn more_data(available: usize) -> Self {
        Self::with_count(0x6100, available)
    }

    /// 6Cxx: wrong Le, `available` is the number of bytes there are; 256 or more is coded as 00.
    pub const fn wrong_le(available: usize) -> Self {
        Self::with_count(0x6C00, available)
    }

    /// 63Cx: a counter, `retries` further attempts allowed (at most 15 can be said).
    pub const fn retries_left(retries: u8) -> Self {
        Self(0x63C0 | if retries > 15 { 15 } else { retries as u16 })
    }

    const fn with_count(base: u16, count: usize) -> Self {
        // 00 stands for 256 or more (ISO/IEC 7816-4, 5.6).
        let [.., low] = count.to_be_bytes();
        Self(base | if count > 0xFF { 0 } else { low as u16 })
    }

    /// SW1.
    pub const fn sw1(self) -> u8 {
        self.bytes()[0]
    }

    /// SW2.
    pub const fn sw2(self) -> u8 {
        self.bytes()[1]
    }

    /// SW1 and SW2 as they are sent.
    pub const fn bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }

    /// Whether this is 9000 or a warning (62xx, 63xx); every other value is an error to SCP03 (Amd D 6.2.5).
    pub const fn is_success_or_warning(self) -> bool {
        self.0 == 0x9000 || self.sw1() == 0x62 || self.sw1() == 0x63
    }

    /// Whether this is 9000.
    pub const fn is_success(self) -> bool {
        self.0 == 0x9000
    }
}

impl From<[u8; 2]> for StatusWord {
    fn from(bytes: [u8; 2]) -> Self {
        Self(u16::from_be_bytes(bytes))
    }
}

impl fmt::Display for StatusWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X}", self.0)
    }
}

impl fmt::Debug for StatusWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SW {:04X}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_above_255_are_coded_as_zero() {
        assert_eq!(StatusWord::more_data(1), StatusWord(0x6101));
        assert_eq!(StatusWord::more_data(255), StatusWord(0x61FF));
        assert_eq!(StatusWord::more_data(256), StatusWord(0x6100));
        assert_eq!(StatusWord::more_data(257), StatusWord(0x6100));
        assert_eq!(StatusWord::wrong_le(0x10), StatusWord(0x6C10));
        assert_eq!(StatusWord::retries_left(3), StatusWord(0x63C3));
        assert_eq!(StatusWord::retries_left(200), StatusWord(0x63CF));
    }

    #[test]
    fn only_9000_62xx_and_63xx_are_not_errors() {
        for value in 0..=u16::MAX {
            let expected = value == 0x9000 || (0x6200..=0x63FF).contains(&value);
            assert_eq!(StatusWord(value).is_success_or_warning(), expected, "{value:04X}");
        }
    }
}
