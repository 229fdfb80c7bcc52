//! Opening rolling keys under the master key MKEY, the card's policy, and the refresh of the ratchet.
//!
//! The reader asks for a 16-byte challenge (GET CHALLENGE), which becomes the start of the send sequence counter and goes into every key of
//! the opening, so that a recorded opening is worth nothing later. Then it sends one SESSION KEY DECRYPTION command:
//!
//! | field | value |
//! |---|---|
//! | CLA INS | 80 5A |
//! | P1 | mode ([`Mode`]) |
//! | P2 | high half: [`OPENING_VERSION`]; low half: 0 one key for command and response, 1 separate keys ([`Lanes`]) |
//! | data, all but the ratchet | the keys, concatenated, wrapped (RFC 3394) under a key derived from MKEY, header and challenge |
//! | data, ratchet | exchanges until a refresh is due (2 bytes), then the reader's ephemeral P-256 key (65 bytes) |
//! | response data | ratchet: the card's ephemeral P-256 key (65 bytes); then in every mode the confirmation ([`CONFIRMATION_LEN`]) |
//!
//! The confirmation is a MAC over challenge, header, data and answer that needs MKEY, and in the ratchet the agreement as well: the reader
//! checks it before its first command. In the ratchet MKEY only authenticates: with MKEY and a recording of everything nobody computes a key,
//! because both ephemeral keys are gone. In all other modes MKEY opens everything.

mod opening;
mod policy;
mod refresh;

use crate::PUBLIC_KEY_LEN;
use crate::schedule::{Lanes, MAX_KEYS};

pub use opening::{CardOpened, KeysOpening, Opened, OpeningAnswer, RatchetOpening, open_card};
pub use policy::{POLICY_LEN, Policy};
pub(crate) use refresh::is_refresh;
pub use refresh::{refresh_command, refresh_secret};

/// INS of SESSION KEY DECRYPTION: the session key (group) and operation key group decryption commands of JP 7206869 B2
/// (steps S1, S41, S81), and the opening of the ratchet. CLA 80.
pub const INS_SESSION_KEY_DECRYPTION: u8 = 0x5A;
/// INS of REFRESH KEYS, sent inside secure messaging. CLA 80.
pub const INS_REFRESH: u8 = 0x5C;
/// Version of the opening: the high half of P2. Version 0 bound neither mode nor challenge to the keys and confirmed nothing; it is refused.
pub const OPENING_VERSION: u8 = 1;
/// Length of the card's challenge.
pub const CHALLENGE_LEN: usize = 16;
/// Length of the confirmation: a whole CMAC.
pub const CONFIRMATION_LEN: usize = 16;
/// Exchanges after which a refresh is due, unless the reader asks for fewer.
pub const DEFAULT_REFRESH_EVERY: u16 = 256;
/// Longest data field of SESSION KEY DECRYPTION: [`MAX_KEYS`] keys and the integrity block of RFC 3394.
pub const MAX_OPENING_DATA: usize = 16 * MAX_KEYS + WRAP_OVERHEAD;
/// Longest response data of SESSION KEY DECRYPTION.
pub const OPENING_ANSWER_MAX: usize = PUBLIC_KEY_LEN + CONFIRMATION_LEN;

const WRAP_OVERHEAD: usize = 8;

/// How the keys roll: P1 of SESSION KEY DECRYPTION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No rolling: the same keys for every exchange.
    Fixed,
    /// Embodiment 1: new = old XOR current.
    LegacyXor,
    /// Embodiment 2: a list of session keys.
    LegacyList,
    /// Embodiment 3: operation keys and three operations.
    LegacyOperations,
    /// Claims 2 and 5: XOR and AND of the old and the current key, in turn.
    LegacyTurns,
    /// The forward-secure ratchet.
    Ratchet,
}

impl Mode {
    /// All modes, the default first.
    pub const ALL: [Self; 6] = [
        Self::Ratchet,
        Self::Fixed,
        Self::LegacyXor,
        Self::LegacyList,
        Self::LegacyOperations,
        Self::LegacyTurns,
    ];

    /// P1.
    pub const fn p1(self) -> u8 {
        match self {
            Self::Fixed => 0x00,
            Self::LegacyXor => 0x01,
            Self::LegacyList => 0x02,
            Self::LegacyOperations => 0x03,
            Self::LegacyTurns => 0x04,
            Self::Ratchet => 0x10,
        }
    }

    /// The mode with this P1.
    pub fn from_p1(p1: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.p1() == p1)
    }

    /// The name shown to people; the legacy modes say so.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::LegacyXor => "legacy-xor",
            Self::LegacyList => "legacy-list",
            Self::LegacyOperations => "legacy-operations",
            Self::LegacyTurns => "legacy-turns",
            Self::Ratchet => "ratchet",
        }
    }
}

impl Lanes {
    /// P2: the version of the opening, and the lanes.
    pub const fn p2(self) -> u8 {
        OPENING_VERSION << 4
            | match self {
                Self::Shared => 0x00,
                Self::Separate => 0x01,
            }
    }
}

/// The lanes of an opening of this version.
const fn lanes_from_p2(p2: u8) -> Option<Lanes> {
    match (p2 >> 4, p2 & 0x0F) {
        (OPENING_VERSION, 0x00) => Some(Lanes::Shared),
        (OPENING_VERSION, 0x01) => Some(Lanes::Separate),
        _ => None,
    }
}
