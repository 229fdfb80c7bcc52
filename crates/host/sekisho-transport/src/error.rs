//! What can go wrong on the way to a secure element.

use std::io;

/// What can go wrong on the way to a secure element.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The card service is not there, or refused.
    #[error("PC/SC: {0}")]
    Pcsc(#[from] pcsc::Error),
    /// No reader, or more than one, has this in its name.
    #[error("no single reader is named '{wanted}'; there are: {present}")]
    NoReader {
        /// What was asked for.
        wanted: String,
        /// The readers' names.
        present: String,
    },
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// The peer closed the connection.
    #[error("the secure element closed the connection")]
    Closed,
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
    /// The connection was given up after an earlier failure.
    #[error("the connection was given up after an earlier failure; reset the secure element")]
    GivenUp,
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
