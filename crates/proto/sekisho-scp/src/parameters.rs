//! The values that a secure channel is set up with.

/// S8 or S16: the length of challenges, cryptograms and MACs (Amd D v1.2, 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacMode {
    /// 8 bytes.
    S8,
    /// 16 bytes.
    S16,
}

impl MacMode {
    /// The length in bytes of a challenge, of a cryptogram and of a MAC.
    pub const fn size(self) -> usize {
        match self {
            Self::S8 => 8,
            Self::S16 => 16,
        }
    }

    /// The mode whose challenges have `size` bytes.
    pub const fn from_size(size: usize) -> Option<Self> {
        match size {
            8 => Some(Self::S8),
            16 => Some(Self::S16),
            _ => None,
        }
    }
}

const C_MAC: u8 = 0x01;
const C_DECRYPTION: u8 = 0x02;
const R_MAC: u8 = 0x10;
const R_ENCRYPTION: u8 = 0x20;

/// The security level of a secure channel, P1 of EXTERNAL AUTHENTICATE (Table 7-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SecurityLevel(u8);

impl SecurityLevel {
    /// 00: authenticated, no secure messaging.
    pub const AUTHENTICATED: Self = Self(0x00);
    /// 01: C-MAC.
    pub const C_MAC: Self = Self(0x01);
    /// 03: C-DECRYPTION and C-MAC.
    pub const C_DECRYPTION_C_MAC: Self = Self(0x03);
    /// 11: C-MAC and R-MAC.
    pub const C_MAC_R_MAC: Self = Self(0x11);
    /// 13: C-DECRYPTION, C-MAC and R-MAC.
    pub const C_DECRYPTION_C_MAC_R_MAC: Self = Self(0x13);
    /// 33: C-DECRYPTION, R-ENCRYPTION, C-MAC and R-MAC.
    pub const FULL: Self = Self(0x33);

    /// The six levels of Table 7-3.
    pub const ALL: [Self; 6] = [
        Self::AUTHENTICATED,
        Self::C_MAC,
        Self::C_DECRYPTION_C_MAC,
        Self::C_MAC_R_MAC,
        Self::C_DECRYPTION_C_MAC_R_MAC,
        Self::FULL,
    ];

    /// The level of P1; `None` for a value that is not in Table 7-3.
    pub const fn from_p1(p1: u8) -> Option<Self> {
        match p1 {
            0x00 | 0x01 | 0x03 | 0x11 | 0x13 | 0x33 => Some(Self(p1)),
            _ => None,
        }
    }

    /// P1.
    pub const fn p1(self) -> u8 {
        self.0
    }

    /// Whether commands carry a C-MAC.
    pub const fn c_mac(self) -> bool {
        self.0 & C_MAC != 0
    }

    /// Whether command data fields are enciphered.
    pub const fn c_decryption(self) -> bool {
        self.0 & C_DECRYPTION != 0
    }

    /// Whether responses carry an R-MAC.
    pub const fn r_mac(self) -> bool {
        self.0 & R_MAC != 0
    }

    /// Whether response data fields are enciphered.
    pub const fn r_encryption(self) -> bool {
        self.0 & R_ENCRYPTION != 0
    }

    /// Whether this level has every protection that `minimum` has.
    pub const fn at_least(self, minimum: Self) -> bool {
        self.0 & minimum.0 == minimum.0
    }
}

const S16: u8 = 0x01;
const PSEUDO_RANDOM: u8 = 0x10;
const R_MAC_SUPPORT: u8 = 0x20;
const R_ENCRYPTION_SUPPORT: u8 = 0x40;

/// Parameter "i", the options of a card's SCP03 (Table 5-1; bit 1 from v1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScpParameter(u8);

impl ScpParameter {
    /// 00: nothing of what can be chosen.
    pub const NONE: Self = Self(0);
    /// 70: pseudo-random card challenge, R-MAC, R-ENCRYPTION, S8.
    pub const FULL_S8: Self = Self(PSEUDO_RANDOM | R_MAC_SUPPORT | R_ENCRYPTION_SUPPORT);
    /// 71: the same with S16.
    pub const FULL_S16: Self = Self(Self::FULL_S8.0 | S16);

    /// The parameter of a byte; `None` for a reserved bit, or R-ENCRYPTION without R-MAC.
    pub const fn new(i: u8) -> Option<Self> {
        let known = i & !(S16 | PSEUDO_RANDOM | R_MAC_SUPPORT | R_ENCRYPTION_SUPPORT) == 0;
        let r_encryption_alone = i & (R_MAC_SUPPORT | R_ENCRYPTION_SUPPORT) == R_ENCRYPTION_SUPPORT;
        if known && !r_encryption_alone {
            Some(Self(i))
        } else {
            None
        }
    }

    /// The byte.
    pub const fn byte(self) -> u8 {
        self.0
    }

    /// S8 or S16.
    pub const fn mac_mode(self) -> MacMode {
        if self.0 & S16 != 0 {
            MacMode::S16
        } else {
            MacMode::S8
        }
    }

    /// Whether the card challenge comes from the sequence counter, and can be known beforehand.
    pub const fn pseudo_random(self) -> bool {
        self.0 & PSEUDO_RANDOM != 0
    }

    /// Whether a card of this parameter supports `level`.
    pub const fn allows(self, level: SecurityLevel) -> bool {
        (!level.r_mac() || self.0 & R_MAC_SUPPORT != 0)
            && (!level.r_encryption() || self.0 & R_ENCRYPTION_SUPPORT != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_levels_of_table_7_3() {
        let known: [u8; 6] = SecurityLevel::ALL.map(SecurityLevel::p1);
        assert_eq!(known, [0x00, 0x01, 0x03, 0x11, 0x13, 0x33]);
        for p1 in 0..=0xFF {
            assert_eq!(
                SecurityLevel::from_p1(p1).is_some(),
                known.contains(&p1),
                "{p1:02X}"
            );
        }
        assert!(SecurityLevel::FULL.at_least(SecurityLevel::C_DECRYPTION_C_MAC));
        assert!(!SecurityLevel::C_MAC_R_MAC.at_least(SecurityLevel::C_DECRYPTION_C_MAC));
    }

    #[test]
    fn parameter_i_and_the_levels_it_allows() {
        let allowed = [
            (0x00, &[0x00, 0x01, 0x03][..]),
            (0x10, &[0x00, 0x01, 0x03]),
            (0x20, &[0x00, 0x01, 0x03, 0x11, 0x13]),
            (0x30, &[0x00, 0x01, 0x03, 0x11, 0x13]),
            (0x60, &[0x00, 0x01, 0x03, 0x11, 0x13, 0x33]),
            (0x70, &[0x00, 0x01, 0x03, 0x11, 0x13, 0x33]),
        ];
        for s16 in [0, 1] {
            for (i, levels) in allowed {
                let parameter = ScpParameter::new(i | s16).unwrap();
                assert_eq!(parameter.mac_mode().size(), if s16 == 1 { 16 } else { 8 });
                assert_eq!(parameter.pseudo_random(), i & 0x10 != 0);
                for level in SecurityLevel::ALL {
                    assert_eq!(
                        parameter.allows(level),
                        levels.contains(&level.p1()),
                        "i {i:02X} {level:?}"
                    );
                }
            }
        }
        assert_eq!((0..=0xFF).filter_map(ScpParameter::new).count(), 12);
    }
}
