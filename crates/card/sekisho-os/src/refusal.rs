//! Why a command was not carried out: a status word, from whichever error it came.

use core::fmt;

use sekisho_apdu::{BufferFull, DecodeError, StatusWord};
use sekisho_keys::{KeyLengthError, LengthError};
use sekisho_scp::ScpError;

/// What an application answers: a status word of success or warning, whose writes are committed, or a refusal, whose writes are dropped.
pub type Outcome = Result<StatusWord, Refusal>;

/// The status word of a command that changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub StatusWord);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused with status word {}, {}", self.0, self.0.meaning())
    }
}

impl core::error::Error for Refusal {}

impl From<StatusWord> for Refusal {
    fn from(sw: StatusWord) -> Self {
        Self(sw)
    }
}

impl From<Refusal> for StatusWord {
    fn from(refusal: Refusal) -> Self {
        refusal.0
    }
}

/// The answer is longer than the SE's buffer.
impl From<BufferFull> for Refusal {
    fn from(_: BufferFull) -> Self {
        Self(StatusWord::NOT_ENOUGH_MEMORY)
    }
}

/// The command data field is not made as it should be.
impl From<DecodeError> for Refusal {
    fn from(_: DecodeError) -> Self {
        Self(StatusWord::INCORRECT_DATA)
    }
}

impl From<KeyLengthError> for Refusal {
    fn from(_: KeyLengthError) -> Self {
        Self(StatusWord::INCORRECT_DATA)
    }
}

impl From<ScpError> for Refusal {
    fn from(error: ScpError) -> Self {
        Self(error.status_word())
    }
}

impl From<LengthError> for Refusal {
    fn from(_: LengthError) -> Self {
        Self(StatusWord::INCORRECT_DATA)
    }
}
