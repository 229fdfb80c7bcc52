//! The management server as the agent sees it.

use std::io::Read;

use sekisho_link::{Campaign, Offer, SeId, Verdict};

/// The management server (spec section 5).
pub trait Backend {
    /// Whether there is an update for the SE.
    ///
    /// # Errors
    /// [`BackendError`].
    fn offer(&mut self, se_id: SeId) -> Result<Option<Offer>, BackendError>;

    /// The delivery from byte `from` on, if it still has the entity tag `etag`; else from the beginning.
    ///
    /// # Errors
    /// [`BackendError`].
    fn delivery(&mut self, campaign: Campaign, from: u32, etag: Option<&str>) -> Result<Part, BackendError>;

    /// Asks for the authorisation.
    ///
    /// # Errors
    /// [`BackendError`].
    fn permission(&mut self, se_id: SeId, equ: &[u8]) -> Result<Permission, BackendError>;

    /// Reports ST.
    ///
    /// # Errors
    /// [`BackendError`].
    fn status(&mut self, se_id: SeId, st: &[u8]) -> Result<Verdict, BackendError>;
}

/// A delivery or the rest of one.
pub struct Part {
    /// Offset of the first byte of `body` in the delivery.
    pub offset: u32,
    /// Entity tag, to go on with later.
    pub etag: Option<String>,
    /// The bytes. Reading may fail at any point, and give more than was announced.
    pub body: Box<dyn Read + Send>,
}

/// Answer to EQU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    /// P_AUT.
    Granted(Vec<u8>),
    /// The SE is blocked, or not in the campaign; the server's words.
    Blocked(String),
    /// This sequence counter was used for another authorisation: count it up and ask again.
    CounterUsed,
    /// Not yet: ask again after so many seconds.
    NotYet(u32),
}

/// The server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No answer, or not all of it.
    #[error("{0}")]
    Unreachable(String),
    /// Whoever answers is not to be spoken with: its certificate is not trusted, or what it says is no HTTP.
    #[error("{0}")]
    Unusable(String),
    /// An error status of HTTP.
    #[error("{status} {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The server's explanation.
        detail: String,
        /// Seconds of `Retry-After`.
        retry_after: Option<u32>,
    },
    /// An answer that is none.
    #[error("its answer is not {0}")]
    Malformed(&'static str),
    /// An answer that is laid out for later, and of which this agent can do nothing.
    #[error("its answer {0}, which this agent does not know to use")]
    NotBuilt(&'static str),
}

impl BackendError {
    /// True when asking the same again cannot help: the request itself was wrong, or what it is about is gone.
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: 400 | 404 | 409 | 410 | 413 | 415 | 422 | 501,
                ..
            }
        )
    }

    /// True when the same may go through later without anybody's doing (spec section 5.2): nothing was wrong with the request.
    pub const fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_)
                | Self::Refused {
                    status: 408 | 422 | 425 | 429 | 500 | 502..=599,
                    ..
                }
        )
    }
}
