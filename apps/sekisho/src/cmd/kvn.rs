//! Key versions of SCP03 key sets (KVN), on command lines and screens: two hexadecimal digits, as GlobalPlatform writes them.

use core::fmt;
use core::str::FromStr;

use sekisho_hsm::{KVN_SCP, SCP03_KVNS};

/// A version that SCP03 key sets have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kvn(pub(super) u8);

impl Kvn {
    /// What cards are delivered with.
    pub(super) const FIRST: Self = Self(KVN_SCP);
    /// The last one: behind it there is no other set of the same keystore.
    pub(super) const LAST: Self = Self(*SCP03_KVNS.end());
}

impl fmt::Display for Kvn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02X}", self.0)
    }
}

impl FromStr for Kvn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_two_digits = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        u8::from_str_radix(text, 16)
            .ok()
            .filter(|kvn| is_two_digits && SCP03_KVNS.contains(kvn))
            .map(Self)
            .ok_or_else(|| {
                format!(
                    "key versions of SCP03 are {} to {}, two hexadecimal digits",
                    Self::FIRST,
                    Self::LAST
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::Kvn;

    /// A number that was meant as a decimal one is another key set's nowhere: it is refused.
    #[test]
    fn two_hexadecimal_digits_and_no_decimal_number() {
        for (text, kvn) in [("30", 0x30), ("3f", 0x3F), ("3A", 0x3A)] {
            assert_eq!(text.parse(), Ok(Kvn(kvn)));
        }
        assert_eq!(Kvn(0x3A).to_string(), "3A");
        for decimal in 0x30..=0x3F_u8 {
            assert!(decimal.to_string().parse::<Kvn>().is_err(), "{decimal}");
        }
        for text in ["", "3", "+3", "030", "0x30", "2F", "40", "60", "zz"] {
            let words = text.parse::<Kvn>().err();
            assert_eq!(
                words.as_deref(),
                Some("key versions of SCP03 are 30 to 3F, two hexadecimal digits"),
                "{text}"
            );
        }
    }
}
