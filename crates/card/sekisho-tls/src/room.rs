//! Room for the record that is on its way from a server to the engine or the record layer: one for all sessions of an SE, since one command is processed at a time.
//!
//! A session has it from the first command of a record to the last. Another one is told to send its record again ([`AGAIN`](sekisho_bridge::AGAIN)); told so
//! [`PATIENCE`] times while nothing more has come of the record that is there, it takes the room, and the session that had it is told the same.

use sekisho_bridge::RECORD_HEADER;
use zeroize::Zeroize;

/// How often others are sent away for a record that does not go on.
pub const PATIENCE: u8 = 32;

/// Room for one record of `RECORD` bytes, header included.
pub struct Room<const RECORD: usize> {
    bytes: [u8; RECORD],
    /// The session whose record this is, by its number.
    owner: Option<u32>,
    /// How many commands of others have been sent away since the owner's last.
    refused: u8,
    /// Bytes of the record that are here, its header counted.
    filled: usize,
    /// Of which type the record is.
    pub(crate) content_type: Option<u8>,
    pub(crate) chain: Option<Chain>,
    /// Where the command stands that has no answer yet.
    pub(crate) command: Option<(usize, usize)>,
}

/// A chain of commands that is under way.
#[derive(Clone, Copy)]
pub(crate) struct Chain {
    pub(crate) ins: u8,
    pub(crate) p1p2: [u8; 2],
    pub(crate) left: usize,
}

impl<const RECORD: usize> core::fmt::Debug for Room<RECORD> {
    /// It says nothing of what is in it.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Room")
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl<const RECORD: usize> Default for Room<RECORD> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const RECORD: usize> Room<RECORD> {
    /// With nobody's record.
    pub const fn new() -> Self {
        Self {
            bytes: [0; RECORD],
            owner: None,
            refused: 0,
            filled: RECORD_HEADER,
            content_type: None,
            chain: None,
            command: None,
        }
    }

    /// A session's command wants the room; `begun` is whether it has the beginning of a record here, as far as it knows. False when the record is to be sent again.
    pub(crate) fn claim(&mut self, session: u32, begun: &mut bool) -> bool {
        match self.owner {
            Some(owner) if owner == session => self.refused = 0,
            // Its record had to make room.
            _ if *begun => {
                *begun = false;
                return false;
            }
            Some(_) if self.refused < PATIENCE => {
                self.refused += 1;
                return false;
            }
            _ => {
                self.clear();
                self.owner = Some(session);
                *begun = true;
            }
        }
        true
    }

    /// A session has done with its record, or is no more.
    pub fn release(&mut self, session: u32) {
        if self.owner == Some(session) {
            self.clear();
        }
    }

    fn clear(&mut self) {
        // Behind what has come nothing has been written.
        self.bytes.get_mut(..self.filled).unwrap_or_default().zeroize();
        (self.owner, self.refused, self.filled) = (None, 0, RECORD_HEADER);
        (self.content_type, self.chain, self.command) = (None, None, None);
    }

    /// Bytes of a session's record that are here, its header counted; 0 where it is another's.
    pub fn has(&self, session: u32) -> usize {
        if self.owner == Some(session) {
            self.filled
        } else {
            0
        }
    }

    /// Whether as many bytes more fit.
    pub(crate) const fn has_room(&self, more: usize) -> bool {
        self.filled + more <= RECORD
    }

    /// Appends bytes of the record; false when they do not fit.
    #[must_use]
    pub(crate) fn push(&mut self, bytes: &[u8]) -> bool {
        let end = self.filled + bytes.len();
        match self.bytes.get_mut(self.filled..end) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.filled = end;
                true
            }
            None => false,
        }
    }

    /// The record, with room for its header.
    pub(crate) fn record(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.filled).unwrap_or_default()
    }

    /// The command in the clear that the record of a session carried.
    pub fn command(&self, session: u32) -> &[u8] {
        let (at, end) = self
            .command
            .filter(|_| self.owner == Some(session))
            .unwrap_or_default();
        self.bytes.get(at..end).unwrap_or_default()
    }

    /// A command of a session that has no answer yet.
    #[cfg(test)]
    pub(crate) fn with_command(&mut self, session: u32) {
        (self.owner, self.command) = (Some(session), Some((0, 1)));
    }

    #[cfg(test)]
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        self.bytes.windows(bytes.len()).any(|window| window == bytes)
    }
}

impl<const RECORD: usize> Drop for Room<RECORD> {
    fn drop(&mut self) {
        self.clear();
    }
}
