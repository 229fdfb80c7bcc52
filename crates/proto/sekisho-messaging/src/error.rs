//! What can go wrong in secure messaging.

use core::fmt;

use sekisho_apdu::StatusWord;

use crate::schedule::ScheduleError;

/// Why a command or a response was refused. Holds no secret and says nothing about how far a check came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SmError {
    /// A command or response came without the expected secure messaging data objects.
    MissingObjects,
    /// A data object is malformed, out of order, wrongly padded, or its MAC is wrong.
    IncorrectObjects,
    /// The bytes are no C-APDU or R-APDU at all.
    Malformed,
    /// Secure messaging is closed; its keys are gone.
    Closed,
    /// The caller acted out of turn: a new command before the answer, or an answer before a command.
    OutOfTurn,
    /// The caller's buffer, or the card's answer buffer, is too small. Nothing has been sent or accepted.
    BufferTooSmall,
    /// The answer came without protection, with this status word. It may be forged: ask again or close.
    Unprotected(StatusWord),
    /// The command's MAC is right, and its data is longer than the card takes. Secure messaging goes on: the answer is protected.
    TooLong,
    /// The key schedule refuses.
    Schedule(ScheduleError),
}

impl SmError {
    /// The status word that the card answers in plain when it refuses a command (ISO 7816-4 table 6).
    pub const fn status(&self) -> StatusWord {
        match self {
            Self::MissingObjects => StatusWord::SM_OBJECTS_MISSING,
            Self::IncorrectObjects => StatusWord::SM_OBJECTS_INCORRECT,
            Self::Malformed | Self::TooLong => StatusWord::WRONG_LENGTH,
            Self::Closed => StatusWord::SECURITY_STATUS_NOT_SATISFIED,
            Self::Schedule(error) => error.status(),
            Self::Unprotected(status) => *status,
            Self::OutOfTurn | Self::BufferTooSmall => StatusWord::UNKNOWN,
        }
    }
}

impl From<ScheduleError> for SmError {
    fn from(error: ScheduleError) -> Self {
        Self::Schedule(error)
    }
}

impl fmt::Display for SmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingObjects => f.write_str("secure messaging data objects are missing"),
            Self::IncorrectObjects => f.write_str("secure messaging data objects are incorrect"),
            Self::Malformed => f.write_str("not an APDU"),
            Self::Closed => f.write_str("secure messaging is closed"),
            Self::OutOfTurn => f.write_str("out of turn: one command, then its answer"),
            Self::BufferTooSmall => f.write_str("buffer too small"),
            Self::TooLong => f.write_str("data longer than the card takes"),
            Self::Unprotected(status) => write!(f, "unprotected answer {:04X}", status.0),
            Self::Schedule(error) => write!(f, "key schedule: {error}"),
        }
    }
}

impl core::error::Error for SmError {}
