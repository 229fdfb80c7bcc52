//! Why a secure channel refuses.

use core::fmt;

use sekisho_apdu::{ApduError, BufferFull, StatusWord};

/// Why a secure channel refuses. Every one of them but [`ScpError::TooLong`] ends the secure channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScpError {
    /// The other side's cryptogram is wrong.
    Cryptogram,
    /// A MAC is wrong or missing, or the class byte says that it is.
    Mac,
    /// What the MAC vouches for does not decrypt to padded data.
    Padding,
    /// A field has a length that SCP03 does not know.
    Length,
    /// P1 or P2 is no value, or a security level that parameter "i" does not allow.
    Parameter,
    /// Not the command that is due, as INS and CLA say.
    Command,
    /// The sequence counter or the encryption counter is at its end.
    CounterExhausted,
    /// A response was already made for this command: its ICV must not serve twice.
    Sequence,
    /// The secure channel met an error before, and is closed.
    Closed,
    /// The output buffer is too small.
    BufferFull,
    /// The command's MAC is right, and its data is longer than the card takes.
    TooLong,
}

impl ScpError {
    /// The status word that a card answers with.
    pub const fn status_word(self) -> StatusWord {
        match self {
            Self::Cryptogram => StatusWord::AUTH_CRYPTOGRAM_FAILED,
            Self::Mac | Self::Padding | Self::Closed => StatusWord::SECURITY_STATUS_NOT_SATISFIED,
            Self::Length | Self::TooLong => StatusWord::WRONG_LENGTH,
            Self::Parameter => StatusWord::INCORRECT_P1P2,
            Self::Command | Self::CounterExhausted => StatusWord::CONDITIONS_NOT_SATISFIED,
            Self::Sequence | Self::BufferFull => StatusWord::UNKNOWN,
        }
    }
}

impl fmt::Display for ScpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cryptogram => "wrong cryptogram",
            Self::Mac => "wrong or missing MAC",
            Self::Padding => "malformed padding under a right MAC",
            Self::Length => "wrong length",
            Self::Parameter => "security level or parameter not allowed",
            Self::Command => "not the command that is due",
            Self::CounterExhausted => "counter exhausted",
            Self::Sequence => "a response was already made for this command",
            Self::Closed => "secure channel closed",
            Self::BufferFull => "buffer full",
            Self::TooLong => "data longer than the card takes",
        })
    }
}

impl core::error::Error for ScpError {}

impl From<BufferFull> for ScpError {
    fn from(_: BufferFull) -> Self {
        Self::BufferFull
    }
}

impl From<ApduError> for ScpError {
    fn from(error: ApduError) -> Self {
        match error {
            ApduError::BufferFull => Self::BufferFull,
            _ => Self::Length,
        }
    }
}

impl From<sekisho_keys::LengthError> for ScpError {
    fn from(_: sekisho_keys::LengthError) -> Self {
        Self::Length
    }
}

impl From<sekisho_keys::PaddingError> for ScpError {
    fn from(_: sekisho_keys::PaddingError) -> Self {
        Self::Padding
    }
}
