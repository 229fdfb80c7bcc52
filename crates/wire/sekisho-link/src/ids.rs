//! Names of SEs and campaigns, and who makes the broadcast keys.

use core::fmt;
use core::str::FromStr;

use sekisho_apdu::DecodeError;

/// Why text is no identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseIdError;

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the expected number of hexadecimal digits")
    }
}

impl core::error::Error for ParseIdError {}

/// Reads exactly `2 N` hexadecimal digits.
fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseIdError> {
    let mut bytes = [0; N];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return Err(ParseIdError);
    }
    let digit = |d: u8| {
        char::from(d)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
            .ok_or(ParseIdError)
    };
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Ok(bytes)
}

/// Identity of an SE: 10 bytes, the key diversification data of its INITIALIZE UPDATE response. Shown in lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeId(pub [u8; 10]);

impl fmt::Display for SeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SeId({self})")
    }
}

impl FromStr for SeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        from_hex(text).map(Self)
    }
}

/// Number of a campaign, given by the server and never used twice. Shown as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Campaign(pub u64);

impl fmt::Display for Campaign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Campaign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Campaign({self})")
    }
}

impl FromStr for Campaign {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        from_hex(text).map(|bytes| Self(u64::from_be_bytes(bytes)))
    }
}

/// Who makes the broadcast key set (spec section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Custody {
    /// The design system, wrapped under Kos (the source's figure 3).
    DesignSystem = 0x03,
    /// The HSM, for each campaign; the image is enciphered under a key of Kos (figure 4).
    Hsm = 0x04,
}

impl TryFrom<u8> for Custody {
    type Error = DecodeError;

    fn try_from(value: u8) -> Result<Self, DecodeError> {
        match value {
            0x03 => Ok(Self::DesignSystem),
            0x04 => Ok(Self::Hsm),
            _ => Err(DecodeError::Value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn ids_read_back_what_they_show() {
        let se = SeId([0, 1, 0x2f, 0xff, 4, 5, 6, 7, 8, 9]);
        assert_eq!(se.to_string(), "00012fff040506070809");
        assert_eq!(se.to_string().parse(), Ok(se));
        assert_eq!("0000000000000010".parse(), Ok(Campaign(16)));
        for wrong in [
            "",
            "0",
            "00012fff04050607080",
            "00012fff0405060708090",
            "00012fff04050607080g",
            "+0012fff040506070809",
        ] {
            assert_eq!(wrong.parse::<SeId>(), Err(ParseIdError), "{wrong}");
        }
    }
}
