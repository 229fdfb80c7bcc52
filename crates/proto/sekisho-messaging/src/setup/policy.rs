//! What a security domain lets readers open.

use super::{DEFAULT_REFRESH_EVERY, Mode};

/// What a security domain lets readers open. By default the ratchet alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Bit 0: legacy-xor, 1: legacy-list, 2: legacy-operations, 3: fixed, 4: legacy-turns.
    allowed: u8,
    refresh_every: u16,
}

/// Length of a policy in bytes.
pub const POLICY_LEN: usize = 3;

impl Policy {
    /// The ratchet alone, refreshed at least every [`DEFAULT_REFRESH_EVERY`] exchanges.
    pub const fn new() -> Self {
        Self {
            allowed: 0,
            refresh_every: DEFAULT_REFRESH_EVERY,
        }
    }

    /// Reads a policy: the modes that are allowed beside the ratchet (01 legacy-xor, 02 legacy-list, 04 legacy-operations, 08 fixed, 10
    /// legacy-turns), and the most exchanges without a refresh (2). `None` for other bits, other lengths and no exchanges.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [allowed @ 0x00..=0x1F, high, low] => Some(Self {
                allowed: *allowed,
                refresh_every: u16::from_be_bytes([*high, *low]),
            })
            .filter(|policy| policy.refresh_every > 0),
            _ => None,
        }
    }

    /// The bytes of [`Policy::from_bytes`].
    pub const fn to_bytes(self) -> [u8; POLICY_LEN] {
        let [high, low] = self.refresh_every.to_be_bytes();
        [self.allowed, high, low]
    }

    /// Every mode: for test cards.
    pub const fn every_mode() -> Self {
        Self::new()
            .allow(Mode::Fixed)
            .allow(Mode::LegacyXor)
            .allow(Mode::LegacyList)
            .allow(Mode::LegacyOperations)
            .allow(Mode::LegacyTurns)
    }

    /// Lets a mode in.
    #[must_use]
    pub const fn allow(self, mode: Mode) -> Self {
        Self {
            allowed: self.allowed | Self::bit(mode),
            ..self
        }
    }

    /// The most exchanges that a reader may ask to go without a refresh; at least 1.
    #[must_use]
    pub const fn refresh_every(self, exchanges: u16) -> Self {
        Self {
            refresh_every: if exchanges == 0 { 1 } else { exchanges },
            ..self
        }
    }

    /// Whether this mode may be opened.
    pub const fn allows(&self, mode: Mode) -> bool {
        matches!(mode, Mode::Ratchet) || self.allowed & Self::bit(mode) != 0
    }

    /// Whether a reader may ask for so many exchanges without a refresh.
    pub(super) const fn allows_refresh_every(&self, exchanges: u16) -> bool {
        exchanges != 0 && exchanges <= self.refresh_every
    }

    const fn bit(mode: Mode) -> u8 {
        match mode {
            Mode::LegacyXor => 1,
            Mode::LegacyList => 2,
            Mode::LegacyOperations => 4,
            Mode::Fixed => 8,
            Mode::LegacyTurns => 16,
            Mode::Ratchet => 0,
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::new()
    }
}
