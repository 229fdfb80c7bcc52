//! What can go wrong on the way to a secure element.

use std::io;

use sekisho_block::Fault;

/// What can go wrong on the way to a secure element.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// PC/SC's library cannot be opened; the loader says why.
    #[error(
        "PC/SC is not installed: the library libpcsclite.so.1 cannot be opened ({0}). On Debian and Ubuntu: apt-get install pcscd, which brings libpcsclite1"
    )]
    NoPcsc(String),
    /// PC/SC refused, or its service is not there.
    #[error("PC/SC: {0}")]
    Pcsc(#[from] PcscError),
    /// No reader has this in its name.
    #[error("no reader is named '{wanted}'; there are: {present}")]
    NoReader {
        /// What was asked for.
        wanted: String,
        /// The readers' names.
        present: String,
    },
    /// Several readers have this in their name, and none of them, or more than one, holds a card.
    #[error("{readers} fit 'pcsc:{wanted}', and {found}; name one of them whole")]
    SeveralReaders {
        /// What was asked for.
        wanted: String,
        /// The readers' names.
        readers: String,
        /// Which of them hold a card.
        found: String,
    },
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// The peer closed the connection.
    #[error("the secure element closed the connection")]
    Closed,
    /// Whoever has the SE sent us away, in these words.
    #[error("the secure element is taken: {0}")]
    Refused(String),
    /// The SE did not answer in time.
    #[error("the secure element did not answer in time")]
    Timeout,
    /// Fewer than two bytes came back, where SW1SW2 was due.
    #[error("the response has {0} bytes, and a status word has two")]
    ShortResponse(usize),
    /// The SE keeps announcing more response data than a response can have.
    #[error("the response data does not end")]
    EndlessResponse,
    /// The command is shorter than four or longer than 65,535 bytes: such a frame does not exist.
    #[error("a command of {0} bytes cannot be sent")]
    CommandLength(usize),
    /// A reader that polls has fallen silent after a control code.
    #[error(
        "the reader fell silent: it was given a command of one byte, which it cannot tell from a control code"
    )]
    SilentReader,
    /// A link's peer sent what is no record of its protocol.
    #[error("what came is no record of this link")]
    Link,
    /// The SE does not begin a session as its protocol wants.
    #[error("the secure element does not answer to its reset: {}", words(*.0))]
    NoSession(Fault),
    /// The protocol failed, and the SE has not run the command and will not: it may be sent again.
    #[error("the secure element has not run the command: {}", words(*.0))]
    NotRun(Fault),
    /// The protocol failed behind the command's last byte: the SE has run it, or has not. Whoever sent it asks, and does not repeat.
    #[error("outcome unknown, the secure element has run the command or not: {}", words(*.0))]
    Unknown(Fault),
    /// The connection was given up after an earlier failure.
    #[error("the connection was given up after an earlier failure; reset the secure element")]
    GivenUp,
}

impl TransportError {
    /// Whether the SE may have run the command that brought this: then whoever sent it asks what has become of it, and does not send it again.
    #[must_use]
    pub const fn is_outcome_unknown(&self) -> bool {
        !matches!(
            self,
            Self::NotRun(_)
                | Self::NoSession(_)
                | Self::CommandLength(_)
                | Self::GivenUp
                | Self::Refused(_)
                | Self::NoPcsc(_)
                | Self::NoReader { .. }
                | Self::SeveralReaders { .. }
        )
    }
}

/// A fault in words.
const fn words(fault: Fault) -> &'static str {
    match fault {
        Fault::Silent => "nothing came within the protocol's waiting time",
        Fault::Garbled => "what came was damaged, as often as the protocol allows",
        Fault::Protocol => "what came breaks the protocol",
        Fault::Aborted => "the exchange was given up",
        Fault::Reset => "it was reset meanwhile",
        Fault::TooLong => "it is longer than the buffers",
    }
}

/// A code with which PC/SC refuses (`pcsclite.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} ({:08X})", self.words(), self.0)]
pub struct PcscError(pub u32);

impl PcscError {
    pub(crate) const INSUFFICIENT_BUFFER: Self = Self(0x8010_0008);
    pub(crate) const UNKNOWN_READER: Self = Self(0x8010_0009);
    pub(crate) const TIMEOUT: Self = Self(0x8010_000A);
    pub(crate) const SHARING_VIOLATION: Self = Self(0x8010_000B);
    pub(crate) const NO_SMARTCARD: Self = Self(0x8010_000C);
    pub(crate) const NO_SERVICE: Self = Self(0x8010_001D);
    pub(crate) const SERVICE_STOPPED: Self = Self(0x8010_001E);
    pub(crate) const NO_READERS_AVAILABLE: Self = Self(0x8010_002E);
    pub(crate) const UNRESPONSIVE_CARD: Self = Self(0x8010_0066);
    pub(crate) const UNPOWERED_CARD: Self = Self(0x8010_0067);
    pub(crate) const RESET_CARD: Self = Self(0x8010_0068);
    pub(crate) const REMOVED_CARD: Self = Self(0x8010_0069);

    const fn words(self) -> &'static str {
        match self {
            Self::INSUFFICIENT_BUFFER => "the answer is longer than there is room for",
            Self::UNKNOWN_READER => "there is no such reader any more",
            Self::TIMEOUT => "no answer in time",
            Self::SHARING_VIOLATION => "another program holds the card",
            Self::NO_SMARTCARD => "there is no card in the reader",
            Self::NO_SERVICE | Self::SERVICE_STOPPED => {
                "its service does not run: start pcscd (Debian and Ubuntu: package pcscd)"
            }
            Self::NO_READERS_AVAILABLE => "there is no reader",
            Self::UNRESPONSIVE_CARD => "the card does not answer to a reset",
            Self::UNPOWERED_CARD => "the card has no power",
            Self::RESET_CARD => "another program has reset the card",
            Self::REMOVED_CARD => "the card has been taken out",
            _ => "it failed; pcsclite.h says what the code means",
        }
    }
}

/// A response has at least its status word.
pub(crate) fn sound_response(response: Vec<u8>) -> Result<Vec<u8>, TransportError> {
    if response.len() < 2 {
        Err(TransportError::ShortResponse(response.len()))
    } else {
        Ok(response)
    }
}

/// A command has at least its header, and at most what a frame carries.
pub(crate) fn sound_command(capdu: &[u8]) -> Result<(), TransportError> {
    if (4..=crate::frame::BODY_MAX).contains(&capdu.len()) {
        Ok(())
    } else {
        Err(TransportError::CommandLength(capdu.len()))
    }
}
