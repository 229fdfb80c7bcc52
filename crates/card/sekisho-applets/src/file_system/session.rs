//! What a reader has selected and proved.

use sekisho_os::{Context, Interface, NotZero, Place};
use zeroize::Zeroize;

use super::tree::{FileNumber, MF, NO_DF, Tree};

/// Application sessions that are remembered at one moment: one of each interface, which no other takes from it, and four more. One more takes the place of one that has proved
/// nothing, whose reader begins at the MF again: first on the same interface, and the one that has waited longest. Only where all have proved something, one of these loses it.
const SESSIONS_MAX: usize = 8;

/// A challenge that has been given out; without length and zeros when there is none. What is written here stands longer than the command, and a
/// value without contents would bring along what stood where it was made (`docs/decisions/0008-wiping.md`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Challenge {
    pub(super) bytes: [u8; 16],
    pub(super) len: usize,
}

impl Challenge {
    const NONE: Self = Self {
        bytes: [0; 16],
        len: 0,
    };
}

/// An application session.
#[derive(Debug)]
pub(super) struct Session {
    place: Place,
    number: u32,
    /// When it was used last.
    used: u32,
    /// The bit that stands for it where a key has been proved ([`Tree::is_proved`]).
    seat: u8,
    pub(super) df: FileNumber,
    pub(super) ef: Option<FileNumber>,
    /// Number of the current record; 0 for none.
    pub(super) record: u8,
    /// The key file that opened secure messaging.
    pub(super) messaging_key: Option<FileNumber>,
    challenge: Challenge,
    _is: NotZero,
}

impl Session {
    const fn new(place: Place, number: u32, seat: u8) -> Self {
        Self {
            place,
            number,
            used: 0,
            seat,
            df: MF,
            ef: None,
            record: 0,
            messaging_key: None,
            challenge: Challenge::NONE,
            _is: NotZero::Value,
        }
    }

    /// The bit that stands for it where a key has been proved.
    pub(super) const fn seat(&self) -> u8 {
        self.seat
    }

    pub(super) const fn select_df(&mut self, df: FileNumber) {
        self.df = df;
        self.ef = None;
        self.record = 0;
    }

    pub(super) const fn select_ef(&mut self, ef: FileNumber, df: FileNumber) {
        self.df = df;
        self.ef = Some(ef);
        self.record = 0;
    }

    pub(super) const fn give_challenge(&mut self, challenge: Challenge) {
        self.challenge = challenge;
    }

    /// The challenge, which is used up by this.
    pub(super) fn take_challenge(&mut self) -> Option<Challenge> {
        let taken = self.challenge;
        self.challenge = Challenge::NONE;
        (taken.len > 0).then_some(taken)
    }

    fn revoke(&mut self, key: FileNumber) {
        if self.messaging_key == Some(key) {
            self.messaging_key = None;
        }
    }

    fn forget(&mut self, file: FileNumber) {
        if self.ef == Some(file) {
            self.ef = None;
            self.record = 0;
        }
        if self.df == file {
            self.select_df(NO_DF);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.challenge.bytes.zeroize();
    }
}

/// The sessions of all readers.
#[derive(Debug)]
pub(super) struct Sessions {
    slots: [Option<Session>; SESSIONS_MAX],
    clock: u32,
}

impl Sessions {
    pub(super) const fn new() -> Self {
        Self {
            slots: [const { None }; SESSIONS_MAX],
            clock: 0,
        }
    }

    /// Ends the session of a place, if there is one, and what it has proved.
    pub(super) fn end(&mut self, place: Place, tree: &mut Tree) {
        for slot in &mut self.slots {
            if let Some(session) = slot.take_if(|session| session.place == place) {
                tree.leave(session.seat);
            }
        }
    }

    /// The session to which a command belongs: a new one, if it is its first.
    pub(super) fn of(&mut self, context: &Context<'_>, tree: &mut Tree) -> &mut Session {
        let (place, number) = (context.place(), context.session());
        self.clock = self.clock.wrapping_add(1);
        let clock = self.clock;
        let known = self
            .slots
            .iter()
            .position(|slot| slot.as_ref().is_some_and(|s| s.place == place));
        let at = known.unwrap_or_else(|| self.room(context, tree.provers()));
        // SESSIONS_MAX is not 0, and `at` is a position.
        let [first, rest @ ..] = &mut self.slots;
        let (slot, at) = match at.checked_sub(1).and_then(|at| rest.get_mut(at)) {
            Some(slot) => (slot, at),
            None => (first, 0),
        };
        let seat = 1 << at;
        let goes_on = slot
            .as_ref()
            .is_some_and(|s| s.place == place && s.number == number);
        if !goes_on {
            tree.leave(seat);
            *slot = Some(Session::new(place, number, seat));
        }
        let session = slot.get_or_insert_with(|| Session::new(place, number, seat));
        session.used = clock;
        session
    }

    /// Where a new session is remembered, when these seats have proved something: a free place, of which one is left for each interface that has none; else that of another, which
    /// is not the only one of another interface.
    fn room(&self, context: &Context<'_>, provers: u8) -> usize {
        let own = context.place().interface;
        let count = |interface| {
            let all = self.slots.iter().flatten();
            all.filter(|s| s.place.interface == interface).count()
        };
        let unserved = Interface::ALL.into_iter().filter(|other| count(*other) == 0);
        let kept_free = match count(own) {
            0 => 0,
            _ => unserved.count(),
        };
        let rank = |s: &Session| {
            if context.has_messaging(s.place) {
                // What comes under secure messaging is not to mean other files than those that its reader has selected.
                return (0, 0);
            }
            let is_own = u8::from(s.place.interface == own);
            let kind = if s.seat & provers == 0 { 1 + is_own } else { 0 };
            (kind, self.clock.wrapping_sub(s.used))
        };
        let all = || self.slots.iter().enumerate();
        let mut free = all().filter(|(_, slot)| slot.is_none()).map(|(at, _)| at);
        let gives_way = |s: &Session| s.place.interface == own || count(s.place.interface) > 1;
        let ranks = all().filter_map(|(at, slot)| {
            let session = slot.as_ref().filter(|s| gives_way(s))?;
            Some((rank(session), at))
        });
        free.nth(kept_free)
            .or_else(|| ranks.max_by_key(|(rank, _)| *rank).map(|(_, at)| at))
            .unwrap_or_default()
    }

    /// Forgets which sessions a key has opened.
    pub(super) fn revoke(&mut self, key: FileNumber) {
        self.slots
            .iter_mut()
            .flatten()
            .for_each(|session| session.revoke(key));
    }

    /// Forgets where a file that is new or gone was selected.
    pub(super) fn forget(&mut self, file: FileNumber) {
        self.slots
            .iter_mut()
            .flatten()
            .for_each(|session| session.forget(file));
    }
}
