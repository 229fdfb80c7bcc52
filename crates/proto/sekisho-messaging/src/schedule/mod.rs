//! Key schedules: which keys protect an exchange, and how the next ones come about.
//!
//! An *exchange* is one command and its response. Both roles hold the same schedule and move it in step: the card when a
//! command's MAC is right, the reader when the response's MAC is right.

mod fixed;
mod list;
mod operations;
mod pair;
mod ratchet;
mod table;

use core::fmt;

use sekisho_apdu::StatusWord;
use sekisho_keys::{AesKey, Rng};

use crate::keys::Keys;
use crate::ssc::Ssc;

pub use fixed::Fixed;
pub use list::LegacyList;
pub use operations::{
    LegacyOperations, OPERATIONS_CAP, Operation, PATENT_OPERATIONS, and_session, xor_previous, xor_session,
};
pub use pair::{LegacyPair, PairOperation, PairRule, TURNS, TURNS_CAP, XOR, XOR_CAP};
pub use ratchet::Ratchet;
pub use table::{KeyTable, LegacyKey, MAX_KEYS};

/// Whether command and response are protected by the same key or each by its own (last paragraphs of JP 7206869 B2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// One key for a command and its response.
    Shared,
    /// One key for the command, another for its response; both change with every exchange.
    Separate,
}

/// The keys of one exchange and what the schedule needs to move on from it.
pub struct Exchange {
    /// Protects the command.
    pub command: Keys,
    /// Protects the response.
    pub response: Keys,
    /// Goes back into [`KeySchedule::advance`].
    pub next: Next,
}

/// What [`KeySchedule::exchange`] computed beside the keys, so that a ratchet runs its cipher once per exchange.
pub struct Next(pub(crate) Option<AesKey>);

impl Next {
    /// For schedules that compute what follows from their own state.
    pub const NOTHING: Self = Self(None);
}

/// What the reader says inside the encrypted command about the keys of the next exchange: nothing, a list number, or a
/// list number for the command and one for the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selector {
    bytes: [u8; 2],
    len: u8,
}

impl Selector {
    /// Nothing to say.
    pub const NONE: Self = Self {
        bytes: [0; 2],
        len: 0,
    };

    /// The list number of the next key.
    pub const fn one(number: u8) -> Self {
        Self {
            bytes: [number, 0],
            len: 1,
        }
    }

    /// The list numbers of the next command key and the next response key.
    pub const fn pair(command: u8, response: u8) -> Self {
        Self {
            bytes: [command, response],
            len: 2,
        }
    }

    /// The numbers as they stand in front of the command data.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// List numbers for the given lanes; 0 means that no exchange follows.
    pub(crate) const fn for_lanes(lanes: Lanes, command: u8, response: u8) -> Self {
        match lanes {
            Lanes::Shared => Self::one(command),
            Lanes::Separate => Self::pair(command, response),
        }
    }
}

/// How keys follow one another. Implemented by the schedules of this module; a test may add its own.
pub trait KeySchedule {
    /// Bytes of [`Selector`] in front of the data of every command.
    fn selector_len(&self) -> usize {
        0
    }

    /// The keys for the exchange whose command carries `command_ssc`. Changes nothing, so that a wrong MAC costs nothing.
    fn exchange(&self, command_ssc: Ssc) -> Result<Exchange, ScheduleError>;

    /// Moves to the next exchange and wipes what led to this one. An error leaves the schedule unusable for its owner,
    /// which closes.
    fn advance(&mut self, next: Next, selector: &[u8]) -> Result<(), ScheduleError>;

    /// A selector that [`KeySchedule::advance`] accepts, chosen at random where there is a choice (reader).
    fn propose(&self, _rng: &mut dyn Rng) -> Selector {
        Selector::NONE
    }

    /// Whether fresh randomness must come in before anything else is done; see [`crate::setup::refresh_command`].
    fn refresh_due(&self) -> bool {
        false
    }

    /// Mixes a secret that an earlier state does not give away into all keys to come.
    fn refresh(&mut self, _secret: &[u8]) -> Result<(), ScheduleError> {
        Err(ScheduleError::NoRefresh)
    }

    /// For a trace: the numbers (never the keys) of the keys of the current exchange, command first. List schedules
    /// give list numbers, the others count from 1.
    fn key_numbers(&self) -> (u32, u32);

    /// Hands all secret state to `sink`, for tests.
    #[cfg(feature = "expose-secrets")]
    fn expose(&self, _sink: &mut dyn FnMut(&[u8])) {}
}

/// Why a schedule refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A key is all zero.
    ZeroKey,
    /// A key has been used before, or stands in a list twice.
    RepeatedKey,
    /// The last exchange this schedule allows is over.
    Exhausted,
    /// The selector names no key of the list, or has the wrong length.
    BadSelector,
    /// Too few, too many, or wrongly sized keys.
    BadKeys,
    /// The card's policy does not allow this mode, or there is no such mode.
    NotAllowed,
    /// Fresh randomness must come in first.
    RefreshDue,
    /// This schedule takes no fresh randomness.
    NoRefresh,
    /// Keys under MKEY that do not unwrap, or no point of the curve.
    BadKeyData,
    /// Reader: the answer to the opening was not made with this MKEY.
    NotConfirmed,
}

impl From<sekisho_keys::p256sig::InvalidKey> for ScheduleError {
    fn from(_: sekisho_keys::p256sig::InvalidKey) -> Self {
        Self::BadKeyData
    }
}

impl ScheduleError {
    /// The status word that the card answers.
    pub const fn status(self) -> StatusWord {
        match self {
            Self::ZeroKey | Self::RepeatedKey | Self::BadKeys | Self::BadKeyData => {
                StatusWord::INCORRECT_DATA
            }
            Self::BadSelector | Self::NotConfirmed => StatusWord::SM_OBJECTS_INCORRECT,
            Self::Exhausted | Self::NotAllowed | Self::RefreshDue | Self::NoRefresh => {
                StatusWord::CONDITIONS_NOT_SATISFIED
            }
        }
    }
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroKey => "all-zero key",
            Self::RepeatedKey => "repeated key",
            Self::Exhausted => "no exchange left",
            Self::BadSelector => "no such key in the list",
            Self::BadKeys => "wrong number or size of keys",
            Self::NotAllowed => "mode not allowed by the policy",
            Self::RefreshDue => "refresh due",
            Self::NoRefresh => "schedule takes no refresh",
            Self::BadKeyData => "key data does not unwrap",
            Self::NotConfirmed => "the answer to the opening was not made with this MKEY",
        })
    }
}

impl core::error::Error for ScheduleError {}

/// Any schedule that [`crate::setup`] can open, chosen when secure messaging is opened.
#[expect(
    clippy::large_enum_variant,
    reason = "one per open secure messaging, and there is no heap to box into"
)]
pub enum Schedule {
    /// Forward secure; the default.
    Ratchet(Ratchet),
    /// The same keys for every exchange.
    Fixed(Fixed),
    /// Embodiment 1 of JP 7206869 B2.
    LegacyXor(LegacyPair),
    /// Embodiment 2.
    LegacyList(LegacyList),
    /// Embodiment 3.
    LegacyOperations(LegacyOperations),
    /// Claims 2 and 5: operations over the old and the current key, in turn.
    LegacyTurns(LegacyPair),
}

impl Schedule {
    fn inner(&self) -> &dyn KeySchedule {
        match self {
            Self::Ratchet(schedule) => schedule,
            Self::Fixed(schedule) => schedule,
            Self::LegacyXor(schedule) => schedule,
            Self::LegacyList(schedule) => schedule,
            Self::LegacyOperations(schedule) => schedule,
            Self::LegacyTurns(schedule) => schedule,
        }
    }

    fn inner_mut(&mut self) -> &mut dyn KeySchedule {
        match self {
            Self::Ratchet(schedule) => schedule,
            Self::Fixed(schedule) => schedule,
            Self::LegacyXor(schedule) => schedule,
            Self::LegacyList(schedule) => schedule,
            Self::LegacyOperations(schedule) => schedule,
            Self::LegacyTurns(schedule) => schedule,
        }
    }
}

impl KeySchedule for Schedule {
    fn selector_len(&self) -> usize {
        self.inner().selector_len()
    }

    fn exchange(&self, command_ssc: Ssc) -> Result<Exchange, ScheduleError> {
        self.inner().exchange(command_ssc)
    }

    fn advance(&mut self, next: Next, selector: &[u8]) -> Result<(), ScheduleError> {
        self.inner_mut().advance(next, selector)
    }

    fn propose(&self, rng: &mut dyn Rng) -> Selector {
        self.inner().propose(rng)
    }

    fn refresh_due(&self) -> bool {
        self.inner().refresh_due()
    }

    fn refresh(&mut self, secret: &[u8]) -> Result<(), ScheduleError> {
        self.inner_mut().refresh(secret)
    }

    fn key_numbers(&self) -> (u32, u32) {
        self.inner().key_numbers()
    }

    #[cfg(feature = "expose-secrets")]
    fn expose(&self, sink: &mut dyn FnMut(&[u8])) {
        self.inner().expose(sink);
    }
}
