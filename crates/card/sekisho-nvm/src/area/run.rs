//! What the area knows of a run, and who writes one.

use core::fmt;
use core::ops::Range;

use zeroize::Zeroize;

use super::Area;
use crate::flash::WORD;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Writing,
    /// A transaction makes its record, or removes it.
    Doubtful,
    Sealed,
    /// Its pages are to be erased, from the last one on.
    Released,
}

/// What the area knows of one run. 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which [`Writing`] it belongs to; never the same one twice since power-on.
    pub(super) serial: u32,
    pub(super) owner: u16,
    pub(super) first: u16,
    pub(super) pages: u16,
    pub(super) state: State,
}

impl Run {
    /// No run.
    pub const FREE: Self = Self {
        serial: 0,
        owner: 0,
        first: 0,
        pages: 0,
        state: State::Free,
    };

    pub(super) fn range(&self) -> Range<usize> {
        usize::from(self.first)..usize::from(self.first) + usize::from(self.pages)
    }

    pub(super) fn is_at(&self, page: usize) -> bool {
        self.state != State::Free && self.range().contains(&page)
    }
}

/// Memory of an area: `[Run; N]`, which holds N runs at most. N may be 0.
pub trait Runs: Sized {
    /// With nothing in it.
    const FREE: Self;

    /// The area, however many runs it knows of.
    fn of(area: &Area<Self>) -> &Area;

    /// The area, however many runs it knows of.
    fn of_mut(area: &mut Area<Self>) -> &mut Area;
}

impl<const N: usize> Runs for [Run; N] {
    const FREE: Self = [Run::FREE; N];

    fn of(area: &Area<Self>) -> &Area {
        area
    }

    fn of_mut(area: &mut Area<Self>) -> &mut Area {
        area
    }
}

/// A run that is being written: who holds this writes it, and nobody else. It is bound to no call, so that a run can be written over many commands.
pub struct Writing {
    pub(super) place: u8,
    pub(super) serial: u32,
    pub(super) length: u32,
    /// Bytes that have come.
    pub(super) come: u32,
    /// Those of them that do not fill a word yet.
    pub(super) carry: [u8; WORD],
    /// A write has failed.
    pub(super) is_broken: bool,
}

/// Its bytes may be secret.
impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writing({} of {} bytes)", self.come, self.length)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.carry.zeroize();
    }
}

impl Writing {
    /// Bytes that are still to come.
    pub const fn missing(&self) -> u32 {
        self.length - self.come
    }

    /// Bytes of the run.
    pub const fn length(&self) -> u32 {
        self.length
    }

    /// Bytes in the carry.
    pub(super) const fn carried(&self) -> usize {
        self.come as usize % WORD
    }
}
