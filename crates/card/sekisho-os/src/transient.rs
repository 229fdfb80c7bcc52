//! State of a wasm module that lasts for an application session and no longer: each command runs in a fresh instance, and this is lent to it.
//!
//! It belongs to the instance of the application, in whose memory this stands, and in it to the place and the number of the session, as what native modules
//! remember. It is zeros when a session begins, and wiped where it stands as soon as the session ends. A block of zeros takes no room.

use core::fmt;

use zeroize::Zeroize;

use crate::interface::Place;

/// Bytes of it that a module may ask for.
pub const TRANSIENT: usize = 64;

/// What a module keeps for a session.
pub(crate) type Block = [u8; TRANSIENT];

/// The session that a command belongs to: where it came in, its number there, and the module's version, which keeps nothing for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) place: Place,
    pub(crate) number: u32,
    pub(crate) version: u32,
}

/// A block while a command works with it.
pub(crate) struct Kept {
    pub(crate) block: Block,
    /// Whether there is room for it behind the command.
    has_room: bool,
}

impl Kept {
    /// Whether this can be kept.
    pub(crate) fn can_be(&self, block: &Block) -> bool {
        self.has_room || is_nothing(block)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.block.zeroize();
    }
}

fn is_nothing(block: &Block) -> bool {
    block.iter().fold(0, |all, byte| all | byte) == 0
}

/// Room for what one instance keeps, of as many sessions at once.
pub(crate) struct Transients<const SESSIONS: usize>([(Option<Session>, Block); SESSIONS]);

impl<const SESSIONS: usize> Transients<SESSIONS> {
    pub(crate) const NEW: Self = Self([(None, [0; TRANSIENT]); SESSIONS]);

    /// The block of a session, of zeros when there is none.
    pub(crate) fn begin(&self, session: Session) -> Kept {
        let own = self.0.iter().find(|(of, _)| *of == Some(session));
        let replaced = |of: &Option<Session>| of.is_none_or(|of| of.place == session.place);
        Kept {
            block: own.map_or([0; TRANSIENT], |(_, block)| *block),
            has_room: self.0.iter().any(|(of, _)| replaced(of)),
        }
    }

    /// Keeps what a command has left of it.
    pub(crate) fn end(&mut self, session: Session, kept: &Kept) {
        self.forget(session.place);
        if is_nothing(&kept.block) {
            return;
        }
        if let Some((of, block)) = self.0.iter_mut().find(|(of, _)| of.is_none()) {
            (*of, *block) = (Some(session), kept.block);
        }
    }

    /// The session at a place has ended.
    pub(crate) fn forget(&mut self, place: Place) {
        for (of, block) in &mut self.0 {
            if of.is_some_and(|of| of.place == place) {
                block.zeroize();
                *of = None;
            }
        }
    }
}

impl<const SESSIONS: usize> Drop for Transients<SESSIONS> {
    fn drop(&mut self) {
        for (_, block) in &mut self.0 {
            block.zeroize();
        }
    }
}

impl<const SESSIONS: usize> fmt::Debug for Transients<SESSIONS> {
    /// Not what is kept.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(of, _)| of)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::Interface;

    fn session(logical_channel: u8, number: u32) -> Session {
        let place = Place {
            interface: Interface::Spi,
            logical_channel,
        };
        Session {
            place,
            number,
            version: 1,
        }
    }

    fn keep<const N: usize>(all: &mut Transients<N>, session: Session, byte: u8) -> bool {
        let mut kept = all.begin(session);
        if !kept.can_be(&[byte; TRANSIENT]) {
            return false;
        }
        kept.block = [byte; TRANSIENT];
        all.end(session, &kept);
        true
    }

    #[test]
    fn it_is_the_sessions_alone_and_zeros_take_no_room() {
        let mut all = Transients::<2>::NEW;
        assert!(keep(&mut all, session(0, 7), 0xA1));
        assert!(keep(&mut all, session(1, 8), 0xA2));
        assert!(!keep(&mut all, session(2, 9), 0xA3), "there is room for two");
        assert!(keep(&mut all, session(2, 9), 0), "but nothing takes none");
        assert_eq!(all.begin(session(0, 7)).block[0], 0xA1);
        // Another session, or another version, at the same place: nothing, and the room of the one before.
        assert_eq!(all.begin(session(0, 8)).block, [0; TRANSIENT]);
        let newer = Session {
            version: 2,
            ..session(0, 7)
        };
        assert_eq!(all.begin(newer).block, [0; TRANSIENT]);
        assert!(keep(&mut all, session(0, 8), 0xA4));
        assert!(all.0.iter().all(|(_, block)| block[0] != 0xA1));
        all.forget(session(1, 0).place);
        assert!(
            all.0.iter().all(|(_, block)| block[0] != 0xA2),
            "wiped where it stood"
        );
        assert!(keep(&mut all, session(2, 9), 0xA3));
        assert!(keep(&mut all, session(0, 8), 0), "and given back");
        assert!(keep(&mut all, session(3, 1), 0xA5));
        assert_eq!(core::mem::size_of::<Transients<0>>(), 0);
    }
}
