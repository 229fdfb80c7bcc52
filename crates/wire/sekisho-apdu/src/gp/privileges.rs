//! Privileges (GPC 11.1.2).

use core::ops::BitOr;

/// A set of privileges, three bytes (GPC Tables 11-7, 11-8, 11-9); byte 1 is the most significant of the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Privileges(u32);

impl Privileges {
    /// No privilege.
    pub const NONE: Self = Self(0);
    /// Privilege 0.
    pub const SECURITY_DOMAIN: Self = Self(0x80_0000);
    /// Privilege 1; implies a security domain.
    pub const DAP_VERIFICATION: Self = Self(0xC0_0000);
    /// Privilege 2; implies a security domain.
    pub const DELEGATED_MANAGEMENT: Self = Self(0xA0_0000);
    /// Privilege 3.
    pub const CARD_LOCK: Self = Self(0x10_0000);
    /// Privilege 4.
    pub const CARD_TERMINATE: Self = Self(0x08_0000);
    /// Privilege 5, also called default selected.
    pub const CARD_RESET: Self = Self(0x04_0000);
    /// Privilege 6.
    pub const CVM_MANAGEMENT: Self = Self(0x02_0000);
    /// Privilege 7; implies DAP verification and a security domain.
    pub const MANDATED_DAP_VERIFICATION: Self = Self(0xC1_0000);
    /// Privilege 8.
    pub const TRUSTED_PATH: Self = Self(0x00_8000);
    /// Privilege 9.
    pub const AUTHORIZED_MANAGEMENT: Self = Self(0x00_4000);
    /// Privilege 10.
    pub const TOKEN_MANAGEMENT: Self = Self(0x00_2000);
    /// Privilege 11.
    pub const GLOBAL_DELETE: Self = Self(0x00_1000);
    /// Privilege 12.
    pub const GLOBAL_LOCK: Self = Self(0x00_0800);
    /// Privilege 13.
    pub const GLOBAL_REGISTRY: Self = Self(0x00_0400);
    /// Privilege 14.
    pub const FINAL_APPLICATION: Self = Self(0x00_0200);
    /// Privilege 15.
    pub const GLOBAL_SERVICE: Self = Self(0x00_0100);
    /// Privilege 16.
    pub const RECEIPT_GENERATION: Self = Self(0x00_0080);
    /// Privilege 17.
    pub const CIPHERED_LOAD_FILE_DATA_BLOCK: Self = Self(0x00_0040);
    /// Privilege 18.
    pub const CONTACTLESS_ACTIVATION: Self = Self(0x00_0020);
    /// Privilege 19.
    pub const CONTACTLESS_SELF_ACTIVATION: Self = Self(0x00_0010);

    /// The set of a privileges field of one byte (byte 1 alone) or three; `None` for another length.
    pub const fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [a] => Some(Self(u32::from_be_bytes([0, *a, 0, 0]))),
            [a, b, c] => Some(Self(u32::from_be_bytes([0, *a, *b, *c]))),
            _ => None,
        }
    }

    /// The three bytes.
    pub const fn to_bytes(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }

    /// Whether every privilege of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The set without the privileges of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Both sets together; the same as `|`, for constants.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOr for Privileges {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_the_tables() {
        let isd = Privileges::SECURITY_DOMAIN | Privileges::CARD_LOCK | Privileges::GLOBAL_REGISTRY;
        assert_eq!(isd.to_bytes(), [0x90, 0x04, 0x00]);
        assert_eq!(Privileges::from_bytes(&[0x90, 0x04, 0x00]), Some(isd));
        assert_eq!(Privileges::from_bytes(&[0x80]), Some(Privileges::SECURITY_DOMAIN));
        assert_eq!(Privileges::from_bytes(&[]), None);
        assert_eq!(Privileges::from_bytes(&[0, 0]), None);
        assert_eq!(Privileges::CONTACTLESS_SELF_ACTIVATION.to_bytes(), [0, 0, 0x10]);
    }

    #[test]
    fn mandated_dap_is_more_than_dap() {
        assert!(Privileges::MANDATED_DAP_VERIFICATION.contains(Privileges::DAP_VERIFICATION));
        assert!(!Privileges::DAP_VERIFICATION.contains(Privileges::MANDATED_DAP_VERIFICATION));
        assert_eq!(
            Privileges::DAP_VERIFICATION
                .without(Privileges::SECURITY_DOMAIN)
                .to_bytes(),
            [0x40, 0, 0]
        );
    }
}
