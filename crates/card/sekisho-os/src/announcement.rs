//! What an application asks the device to be told of a reader's visit (`docs/spec/transports.md`, 6.1.1).

use sekisho_apdu::Aid;

/// Most bytes of parameters.
pub const ANNOUNCEMENT_MAX: usize = 32;

/// An application's word to the device: who says it, which is not the application's to choose, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    aid: Aid,
    said: Said,
}

/// Parameters, as an application gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) bytes: [u8; ANNOUNCEMENT_MAX],
    pub(crate) len: usize,
}

impl Announcement {
    pub(crate) const fn new(aid: Aid, said: Said) -> Self {
        Self { aid, said }
    }

    /// The application.
    pub const fn aid(&self) -> &Aid {
        &self.aid
    }

    /// What it says, up to [`ANNOUNCEMENT_MAX`] bytes.
    pub fn parameters(&self) -> &[u8] {
        self.said.bytes.get(..self.said.len).unwrap_or_default()
    }
}
