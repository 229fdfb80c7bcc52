//! The class byte.

use core::fmt;

/// What a class byte says about secure messaging (GPC Tables 11-11 and 11-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecureMessaging {
    /// No secure messaging, or none indicated.
    None,
    /// GlobalPlatform format (SCP). A class byte of channels 4 to 19 has one bit for every format and is reported so too.
    Proprietary,
    /// ISO/IEC 7816-4 format, command header not authenticated.
    Iso,
    /// ISO/IEC 7816-4 format, command header authenticated.
    IsoHeader,
}

/// CLA, in the interindustry coding of ISO/IEC 7816-4, 5.4.1, which GlobalPlatform uses for its own class as well (GPC 11.1.4).
///
/// * first coding `p00c mmll`: p proprietary (GlobalPlatform), c chaining, m secure messaging, l logical channel 0 to 3
/// * further coding `p1mc llll`: logical channel 4 to 19
///
/// The codings `p01- ----` and the value FF mean nothing; see [`Cla::is_supported`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cla(pub u8);

const PROPRIETARY: u8 = 0x80;
const FURTHER: u8 = 0x40;
const CHAINING: u8 = 0x10;
const SM_FURTHER: u8 = 0x20;
const SM_FIRST: u8 = 0x0C;
const SM_FIRST_GP: u8 = 0x04;

impl Cla {
    /// 00: interindustry, basic channel, no secure messaging.
    pub const ISO: Self = Self(0x00);
    /// 80: GlobalPlatform, basic channel, no secure messaging.
    pub const GP: Self = Self(0x80);
    /// 84: GlobalPlatform, basic channel, GlobalPlatform secure messaging.
    pub const GP_SECURE: Self = Self(0x84);

    /// Whether the coding is one of those above. The other methods give an answer for the rest too, but it means nothing.
    pub const fn is_supported(self) -> bool {
        self.0 != 0xFF && (self.is_further() || self.0 & SM_FURTHER == 0)
    }

    const fn is_further(self) -> bool {
        self.0 & FURTHER != 0
    }

    /// Whether the command belongs to the proprietary class, which is GlobalPlatform's here.
    pub const fn proprietary(self) -> bool {
        self.0 & PROPRIETARY != 0
    }

    /// The logical channel, 0 to 19.
    pub const fn logical_channel(self) -> u8 {
        if self.is_further() {
            4 + (self.0 & 0x0F)
        } else {
            self.0 & 0x03
        }
    }

    /// Whether the command is not the last of its chain.
    pub const fn chaining(self) -> bool {
        self.0 & CHAINING != 0
    }

    /// The secure messaging that is indicated.
    pub const fn secure_messaging(self) -> SecureMessaging {
        if self.is_further() {
            return if self.0 & SM_FURTHER != 0 {
                SecureMessaging::Proprietary
            } else {
                SecureMessaging::None
            };
        }
        match self.0 & SM_FIRST {
            0x00 => SecureMessaging::None,
            SM_FIRST_GP => SecureMessaging::Proprietary,
            0x08 => SecureMessaging::Iso,
            _ => SecureMessaging::IsoHeader,
        }
    }

    /// The same class byte with GlobalPlatform secure messaging indicated, or with none.
    #[must_use]
    pub const fn with_secure_messaging(self, on: bool) -> Self {
        let (mask, bit) = if self.is_further() {
            (SM_FURTHER, SM_FURTHER)
        } else {
            (SM_FIRST, SM_FIRST_GP)
        };
        let cleared = self.0 & !mask;
        Self(if on { cleared | bit } else { cleared })
    }

    /// The same class byte without the chaining bit.
    #[must_use]
    pub const fn without_chaining(self) -> Self {
        Self(self.0 & !CHAINING)
    }

    /// The same class byte for another logical channel, in the coding that the channel asks for. Any secure messaging becomes
    /// GlobalPlatform's when the coding changes, as the further coding knows no difference. `None` above channel 19.
    pub const fn with_logical_channel(self, channel: u8) -> Option<Self> {
        let kept = self.0 & (PROPRIETARY | CHAINING);
        let secure = !matches!(self.secure_messaging(), SecureMessaging::None);
        match channel {
            0..=3 if !self.is_further() => Some(Self(kept | (self.0 & SM_FIRST) | channel)),
            0..=3 => Some(Self(kept | channel).with_secure_messaging(secure)),
            4..=19 => Some(Self(kept | FURTHER | (channel - 4)).with_secure_messaging(secure)),
            _ => None,
        }
    }
}

impl fmt::Debug for Cla {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CLA {:02X}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_of_gpc_tables_11_11_and_11_12() {
        // CLA, supported, proprietary, channel, chaining, secure messaging
        use SecureMessaging::{Iso, IsoHeader, None, Proprietary};
        let table = [
            (0x00, true, false, 0, false, None),
            (0x03, true, false, 3, false, None),
            (0x04, true, false, 0, false, Proprietary),
            (0x0A, true, false, 2, false, Iso),
            (0x0C, true, false, 0, false, IsoHeader),
            (0x10, true, false, 0, true, None),
            (0x1D, true, false, 1, true, IsoHeader),
            (0x20, false, false, 0, false, None),
            (0x40, true, false, 4, false, None),
            (0x4F, true, false, 19, false, None),
            (0x50, true, false, 4, true, None),
            (0x60, true, false, 4, false, Proprietary),
            (0x7F, true, false, 19, true, Proprietary),
            (0x80, true, true, 0, false, None),
            (0x84, true, true, 0, false, Proprietary),
            (0x87, true, true, 3, false, Proprietary),
            (0x8C, true, true, 0, false, IsoHeader),
            (0x90, true, true, 0, true, None),
            (0xA0, false, true, 0, false, None),
            (0xC0, true, true, 4, false, None),
            (0xCF, true, true, 19, false, None),
            (0xE0, true, true, 4, false, Proprietary),
            (0xEF, true, true, 19, false, Proprietary),
            (0xFF, false, true, 19, true, Proprietary),
        ];
        for (value, supported, proprietary, channel, chaining, sm) in table {
            let cla = Cla(value);
            assert_eq!(cla.is_supported(), supported, "{cla:?}");
            assert_eq!(cla.proprietary(), proprietary, "{cla:?}");
            assert_eq!(cla.logical_channel(), channel, "{cla:?}");
            assert_eq!(cla.chaining(), chaining, "{cla:?}");
            assert_eq!(cla.secure_messaging(), sm, "{cla:?}");
        }
    }

    #[test]
    fn changing_the_channel_keeps_everything_else() {
        for value in (0..=0xFE).filter(|v| Cla(*v).is_supported()) {
            let cla = Cla(value);
            assert_eq!(cla.with_logical_channel(cla.logical_channel()), Some(cla));
            for channel in 0..=19 {
                let moved = cla.with_logical_channel(channel).unwrap();
                assert_eq!(moved.logical_channel(), channel);
                assert_eq!(moved.proprietary(), cla.proprietary());
                assert_eq!(moved.chaining(), cla.chaining());
                assert_eq!(
                    moved.secure_messaging() == SecureMessaging::None,
                    cla.secure_messaging() == SecureMessaging::None
                );
            }
            assert_eq!(cla.with_logical_channel(20), None);
        }
    }

    #[test]
    fn secure_messaging_can_be_set_and_cleared() {
        assert_eq!(Cla(0x80).with_secure_messaging(true), Cla(0x84));
        assert_eq!(Cla(0x8C).with_secure_messaging(true), Cla(0x84));
        assert_eq!(Cla(0x84).with_secure_messaging(false), Cla(0x80));
        assert_eq!(Cla(0xC5).with_secure_messaging(true), Cla(0xE5));
        assert_eq!(Cla(0xE5).with_secure_messaging(false), Cla(0xC5));
        assert_eq!(Cla(0x95).without_chaining(), Cla(0x85));
    }
}
