//! Application identifiers.

use core::fmt;

/// An AID must have 5 to 16 bytes, a partial one at most 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AidLengthError;

impl fmt::Display for AidLengthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an AID has 5 to 16 bytes")
    }
}

impl core::error::Error for AidLengthError {}

const AID_LEN_MIN: usize = 5;
const AID_LEN_MAX: usize = 16;

/// Up to 16 bytes, padded with zeros behind `len`, so that the derived order is the order of the byte strings.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Bytes {
    bytes: [u8; AID_LEN_MAX],
    len: u8,
}

impl Bytes {
    const fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > AID_LEN_MAX {
            return None;
        }
        let mut padded = [0; AID_LEN_MAX];
        let (head, _) = padded.split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        // At most 16: the other bytes of the number are zero.
        let [.., len] = bytes.len().to_be_bytes();
        Some(Self { bytes: padded, len })
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn fmt_hex(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name)?;
        self.as_slice()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

/// An application identifier, RID and PIX, 5 to 16 bytes (ISO/IEC 7816-4, 12.2.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aid(Bytes);

impl Aid {
    /// An AID for a constant: `None` unless `bytes` has 5 to 16 bytes.
    pub const fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < AID_LEN_MIN {
            return None;
        }
        match Bytes::new(bytes) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// Its 5 to 16 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Whether it starts with all of `partial`: the right-truncated match of SELECT (GPC 11.9.2.3).
    pub fn matches_partial(&self, partial: &PartialAid) -> bool {
        self.as_bytes().starts_with(partial.as_bytes())
    }
}

impl TryFrom<&[u8]> for Aid {
    type Error = AidLengthError;

    fn try_from(bytes: &[u8]) -> Result<Self, AidLengthError> {
        Self::new(bytes).ok_or(AidLengthError)
    }
}

impl fmt::Display for Aid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_hex("", f)
    }
}

impl fmt::Debug for Aid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_hex("Aid ", f)
    }
}

/// The first bytes of an AID, 0 to 16: what SELECT, GET STATUS and DELETE may carry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartialAid(Bytes);

impl PartialAid {
    /// Its 0 to 16 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl TryFrom<&[u8]> for PartialAid {
    type Error = AidLengthError;

    fn try_from(bytes: &[u8]) -> Result<Self, AidLengthError> {
        Bytes::new(bytes).map(Self).ok_or(AidLengthError)
    }
}

impl From<Aid> for PartialAid {
    fn from(aid: Aid) -> Self {
        Self(aid.0)
    }
}

impl fmt::Debug for PartialAid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_hex("PartialAid ", f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISD: Aid = match Aid::new(&[0xA0, 0, 0, 1, 0x51, 0, 0, 0]) {
        Some(aid) => aid,
        None => panic!(),
    };

    #[test]
    fn lengths() {
        let bytes = [0xA0; 17];
        for len in 0..=17 {
            assert_eq!(
                Aid::try_from(&bytes[..len]).is_ok(),
                (5..=16).contains(&len),
                "{len}"
            );
            assert_eq!(PartialAid::try_from(&bytes[..len]).is_ok(), len <= 16, "{len}");
        }
    }

    #[test]
    fn right_truncated_match() {
        let table: [(&[u8], bool); 8] = [
            (&[], true),
            (&[0xA0], true),
            (&[0xA0, 0, 0, 1, 0x51], true),
            (&[0xA0, 0, 0, 1, 0x51, 0, 0, 0], true),
            (&[0xA0, 0, 0, 1, 0x51, 0, 0, 0, 0], false),
            (&[0xA0, 0, 0, 1, 0x52], false),
            (&[0, 0, 1, 0x51], false),
            (&[0xA0, 0, 0, 1, 0x51, 0, 0, 1], false),
        ];
        for (partial, expected) in table {
            assert_eq!(
                ISD.matches_partial(&PartialAid::try_from(partial).unwrap()),
                expected,
                "{partial:02X?}"
            );
        }
    }

    #[test]
    fn order_is_that_of_the_bytes() {
        let aid = |b: &[u8]| Aid::try_from(b).unwrap();
        let sorted = [
            aid(&[1; 5]),
            aid(&[1, 1, 1, 1, 1, 0]),
            aid(&[1, 1, 1, 1, 1, 0, 0]),
            aid(&[1; 6]),
            aid(&[2; 5]),
        ];
        assert!(sorted.is_sorted_by(|a, b| a < b && a.as_bytes() < b.as_bytes()));
    }

    #[test]
    fn prints_in_hex() {
        assert_eq!(
            std::format!("{ISD} {ISD:?}"),
            "A000000151000000 Aid A000000151000000"
        );
    }
}
