//! Why a turn of the agent ended early.

use std::io;

use sekisho_apdu::StatusWord;
use sekisho_transport::TransportError;

use crate::backend::BackendError;

/// Why a turn of the agent ended early. Nothing is lost; the next turn goes on where this one ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The SE cannot be reached.
    #[error("secure element: {0}")]
    Card(#[from] TransportError),
    /// The SE answered what it should not.
    #[error(
        "the secure element answered {command} with {sw:04X}, {}; is it one that takes broadcast updates?",
        StatusWord(*sw).meaning()
    )]
    Answer {
        /// What it was asked.
        command: &'static str,
        /// Its status word.
        sw: u16,
    },
    /// The SE refused what no update needs.
    #[error("the secure element answered {command} with {sw:04X}, {}", StatusWord(*sw).meaning())]
    Refused {
        /// What it was asked.
        command: &'static str,
        /// Its status word.
        sw: u16,
    },
    /// A sensor said more than its file holds.
    #[error("the sensor said {bytes} bytes or more, and its file takes {limit}")]
    Reading {
        /// Said.
        bytes: usize,
        /// Written at once.
        limit: usize,
    },
    /// The SE's data cannot be read.
    #[error("the secure element's {0} cannot be read")]
    Data(&'static str),
    /// The server.
    #[error("server: {0}")]
    Backend(#[from] BackendError),
    /// The spool.
    #[error("spool: {0}")]
    Spool(io::Error),
    /// P_MOB could not be handed over.
    #[error("cannot hand P_MOB over: {0}")]
    HandOver(io::Error),
    /// The offer announces more than the agent keeps.
    #[error("the server offers a delivery of {bytes} bytes; the limit is {limit}")]
    TooLong {
        /// Offered.
        bytes: u32,
        /// Allowed.
        limit: u32,
    },
    /// The delivery is not what was offered. It has been thrown away.
    #[error("the delivery is not what was offered: {0}")]
    Delivery(&'static str),
    /// The authorisation does not fit.
    #[error("the authorisation does not fit: {0}")]
    Authorisation(&'static str),
    /// The server keeps saying that the sequence counter was used.
    #[error("the server refuses every sequence counter of this secure element")]
    Counters,
}

impl AgentError {
    /// How long the server asked to be left alone, if it did.
    pub const fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Backend(BackendError::Refused { retry_after, .. }) => *retry_after,
            _ => None,
        }
    }

    /// Whether the turn failed for what passes by itself: the server was not reached, was not ready, or does not know the SE's keys yet.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Backend(error) if error.is_temporary())
    }
}
