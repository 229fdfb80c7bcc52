//! Life cycle states (GPC 11.1.1).

/// The state byte of an executable load file: there is but one, LOADED (GPC Table 11-3).
pub const ELF_LOADED: u8 = 0x01;

/// Card life cycle, which the issuer security domain shows as its own (GPC Table 11-6). In order; memory that holds zeros says of a card that it is terminated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i8)]
pub enum CardLifeCycle {
    /// 01.
    OpReady = -4,
    /// 07.
    Initialized = -3,
    /// 0F.
    Secured = -2,
    /// 7F.
    CardLocked = -1,
    /// FF.
    Terminated = 0,
}

impl CardLifeCycle {
    /// The state byte.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::OpReady => 0x01,
            Self::Initialized => 0x07,
            Self::Secured => 0x0F,
            Self::CardLocked => 0x7F,
            Self::Terminated => 0xFF,
        }
    }

    /// The state of a state byte; `None` for a value that is not in the table.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0x01 => Some(Self::OpReady),
            0x07 => Some(Self::Initialized),
            0x0F => Some(Self::Secured),
            0x7F => Some(Self::CardLocked),
            0xFF => Some(Self::Terminated),
            _ => None,
        }
    }

    /// Whether SET STATUS may go from this state to `next` (GPC 5.1.1, Figure 5-1): forward, and back only from CARD_LOCKED to SECURED.
    pub fn may_become(self, next: Self) -> bool {
        match (self, next) {
            (Self::CardLocked, Self::Secured) => true,
            // CARD_LOCKED is reached from SECURED alone.
            (from, Self::CardLocked) => from == Self::Secured,
            (from, Self::Terminated) => from != Self::Terminated,
            (from, to) => to > from && from < Self::Secured,
        }
    }
}

/// Security domain life cycle (GPC Table 11-5). LOCKED keeps the state that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SecurityDomainLifeCycle(pub u8);

impl SecurityDomainLifeCycle {
    /// 03.
    pub const INSTALLED: Self = Self(0x03);
    /// 07.
    pub const SELECTABLE: Self = Self(0x07);
    /// 0F.
    pub const PERSONALIZED: Self = Self(0x0F);

    /// Whether bit 8, LOCKED, is set.
    pub const fn is_locked(self) -> bool {
        self.0 & 0x80 != 0
    }

    /// The same state with LOCKED set or cleared.
    #[must_use]
    pub const fn with_locked(self, locked: bool) -> Self {
        Self(if locked { self.0 | 0x80 } else { self.0 & 0x7F })
    }
}

/// Application life cycle (GPC Table 11-4). Bits 4 to 7 are the application's own; LOCKED keeps the state that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApplicationLifeCycle(pub u8);

impl ApplicationLifeCycle {
    /// 03.
    pub const INSTALLED: Self = Self(0x03);
    /// 07.
    pub const SELECTABLE: Self = Self(0x07);

    /// Whether bit 8, LOCKED, is set.
    pub const fn is_locked(self) -> bool {
        self.0 & 0x80 != 0
    }

    /// Whether the application can be selected: bits 1 to 3 set, not LOCKED.
    pub const fn is_selectable(self) -> bool {
        self.0 & 0x87 == 0x07
    }

    /// The same state with LOCKED set or cleared.
    #[must_use]
    pub const fn with_locked(self, locked: bool) -> Self {
        Self(if locked { self.0 | 0x80 } else { self.0 & 0x7F })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn card_states_and_their_bytes() {
        for byte in 0..=0xFF {
            if let Some(state) = CardLifeCycle::from_byte(byte) {
                assert_eq!(state.to_byte(), byte);
            }
        }
        assert_eq!((0..=0xFF).filter_map(CardLifeCycle::from_byte).count(), 5);
    }

    #[test]
    fn card_transitions_of_gpc_figure_5_1() {
        use CardLifeCycle::*;
        let states = [OpReady, Initialized, Secured, CardLocked, Terminated];
        let allowed: [&[CardLifeCycle]; 5] = [
            &[Initialized, Secured, Terminated],
            &[Secured, Terminated],
            &[CardLocked, Terminated],
            &[Secured, Terminated],
            &[],
        ];
        for (from, allowed) in states.iter().zip(allowed) {
            for to in states {
                assert_eq!(from.may_become(to), allowed.contains(&to), "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn locking_keeps_the_state_below() {
        let locked = ApplicationLifeCycle::SELECTABLE.with_locked(true);
        assert_eq!(locked, ApplicationLifeCycle(0x87));
        assert!(locked.is_locked() && !locked.is_selectable());
        assert_eq!(locked.with_locked(false), ApplicationLifeCycle::SELECTABLE);
        assert!(ApplicationLifeCycle(0x0F).is_selectable());
        assert!(!ApplicationLifeCycle::INSTALLED.is_selectable());
        assert_eq!(SecurityDomainLifeCycle::PERSONALIZED.with_locked(true).0, 0x8F);
    }
}
