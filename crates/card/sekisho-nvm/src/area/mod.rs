//! An area for bulk beside the store: load files and whatever else is long, is written once, and is read where it stands. This page is its
//! specification.
//!
//! # What it promises
//!
//! * **Whole or not there**: a run is written piece by piece and is nothing until one record of the [store](crate::Store), its [`Seal`], says that it is
//!   whole: the record's commit is the moment. After a power cut, whenever it is, each run has its seal and all its bytes, or neither a seal nor a byte in the flash.
//! * **Wiping**: when [`Area::tidy`] has said that it is done, no byte of a released run stands in the flash any more. When a cut prevented that, it is true when [`Area::sweep`]
//!   has returned.
//! * **One owner's run is nobody else's**: reading takes the seal, and gives nothing if that is not the one under which the run stands; who writes holds a [`Writing`], which is worth
//!   nothing once its run has been released, whoever has the pages then.
//! * **Honest**: the area finds no damage by itself. A seal has a digest of 32 bytes that its owner has computed over what it read back ([`Area::written`]), and can compute again at any time.
//! * **Bounded**: no heap, and the RAM below. What has no room changes nothing.
//!
//! # What it asks
//!
//! Of the flash what the [store](crate) asks; each word is written once between two erasures. Of the store: that it keeps the seals, and that whoever opens the area gives it all of them
//! ([`Area::adopt`]), before [`Area::sweep`] erases every page that belongs to none. So the area keeps no books in the flash: there is no format but that of the seal, and no state that could
//! disagree with the store's.
//!
//! # Format
//!
//! A run is a number of pages side by side, which hold its bytes from the first one on, filled with FF to whole words; behind that the last page is blank. The seal, numbers big endian:
//!
//! ```text
//!  0    1       3       5        9                41
//! +----+-------+-------+--------+----------------+
//! | 01 | owner | first | length | digest         |
//! +----+-------+-------+--------+----------------+
//! ```
//!
//! `first` counts pages from the area's first one. A seal whose run would lie outside the area, or in another one's pages, is [`AreaError::Corrupted`].
//!
//! # Life of a run
//!
//! ```text
//!         begin            seal             settle: its record stands
//!  free ---------> writing -----> doubtful -------------------------> sealed
//!    ^                |            ^    | settle: it does not           |
//!    |    release     |    doubt   |    v                               | release_owner
//!    +---- tidy ---- released <----|----+ <-----------------------------+
//!                                  +-- sealed, its record to be removed
//! ```
//!
//! A run is in doubt while a transaction that makes or removes its record is under way. [`Area::settle`] says how that ended, and it says so from what the store holds. So the caller may refuse a command, or commit in several
//! ways, without telling the area.
//!
//! # Why it holds
//!
//! *A sealed run is whole*: its seal is committed after its last word. *Nothing that has no seal is found*: reading wants a seal, and a run in RAM that is sealed. *Nothing without a seal stays*: a run that was being written, or
//! wiped, at a cut has none, or none any more, and its pages are erased by the sweep, which looks at every page outside the sealed runs. *Nothing is written where an erasure was not finished*: a page is erased when the first word of it is written, each
//! time, whatever it looks like: whether its last erasure was finished nobody knows after a cut.
//!
//! # Room, RAM, wear, time
//!
//! Room is first fit, in pages side by side; nothing is moved. Sealed and unfinished runs leave gaps: with `u` runs and `f` free pages a run of `k` pages surely fits if `f > (u + 1) (k - 1)`, and may not if there is less. [`Area::largest`] says
//! what fits. [`Area::begin`] is given what the owner may have ([`Part`]): a quota in pages, which counts what is unfinished, and among which pages and places. Who has other ones cannot be kept from his, by gaps neither. A replacement needs room beside what it replaces. One owner writes one run at a time: beginning another releases the unfinished one.
//!
//! `Area<[Run; N]>` takes 12 bytes for each of N runs and 24 for itself on a machine of 64 bits; a [`Writing`] takes 20, writing and reading 64 bytes of stack.
//!
//! | operation | flash operations |
//! |---|---|
//! | begin, seal, settle, release | none |
//! | a piece of n bytes | one erasure for each page that it begins: none or one if n is at most a page; a write for what it adds to each page, and one for a word that it completes |
//! | tidy | one erasure for each page, as many as the caller allows |
//! | sweep | one read for each 64 bytes without a seal, or none where the flash is mapped; one erasure for each page of these that is not blank |
//!
//! Each page is erased twice for each run that it takes part in, when it is written and when that is wiped.

mod run;
mod seal;

use core::fmt;
use core::ops::{Deref, DerefMut, Range};

use run::State;
pub use run::{Run, Runs, Writing};
pub use seal::Seal;

use crate::Error;
use crate::flash::{Flash, WORD, is_blank};

/// Why the area did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AreaError<E> {
    /// The flash failed. What was being written is to be released.
    Flash(E),
    /// No gap, no place in RAM, or nothing left of the owner's quota: nothing has changed.
    Full,
    /// More bytes than the run was begun for, or fewer; or a run of none.
    Length,
    /// There is no such run any more, or not yet.
    Gone,
    /// A seal that the area has never made, or a second one for the same pages.
    Corrupted,
    /// The area has not been swept.
    NotSwept,
}

impl<E: fmt::Debug> fmt::Display for AreaError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flash(error) => write!(f, "flash failed: {error:?}"),
            Self::Full => f.write_str("no room in the area"),
            Self::Length => f.write_str("not as long as the run"),
            Self::Gone => f.write_str("no such run"),
            Self::Corrupted => f.write_str("seals that contradict the area or each other"),
            Self::NotSwept => f.write_str("the area has not been swept"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for AreaError<E> {}

/// An area. It holds positions only: the flash is an argument of every call, always the same one.
///
/// It is made with memory for a number of runs, `Area<[Run; N]>`, and used as [`Area`] without: that is what it dereferences to.
#[derive(Debug)]
pub struct Area<R: ?Sized = [Run]> {
    pages: Range<usize>,
    serial: u32,
    is_swept: bool,
    runs: R,
}

impl<R: Runs> Deref for Area<R> {
    type Target = Area;

    fn deref(&self) -> &Area {
        R::of(self)
    }
}

impl<R: Runs> DerefMut for Area<R> {
    fn deref_mut(&mut self) -> &mut Area {
        R::of_mut(self)
    }
}

impl<R: Runs> Area<R> {
    /// The area of these pages, of which nothing is known: its seals are to be [adopted](Area::adopt), then it is to be [swept](Area::sweep).
    pub const fn new(pages: Range<usize>) -> Self {
        Self {
            pages,
            serial: 0,
            is_swept: false,
            runs: R::FREE,
        }
    }
}

/// What of an area an owner may have. Parts that do not overlap take nothing from each other, gaps and places included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Pages in all.
    pub quota: usize,
    /// Where, counted from the area's first one.
    pub pages: Range<usize>,
    /// Which of the runs that there is memory for.
    pub places: Range<usize>,
}

impl Part {
    /// All of it.
    pub const ALL: Self = Self {
        quota: usize::MAX,
        pages: 0..usize::MAX,
        places: 0..usize::MAX,
    };
}

/// Result of an operation of the area.
type Done<T, F> = Result<T, AreaError<<F as Flash>::Error>>;

impl Area {
    /// Takes up a sealed run that the store has a record of.
    ///
    /// # Errors
    /// [`AreaError::Corrupted`] for pages outside the area or of another run, or a place that is taken or not there.
    pub fn adopt<F: Flash>(&mut self, flash: &F, place: u8, seal: &Seal) -> Done<(), F> {
        let pages = pages_of(flash, seal.length).ok_or(AreaError::Corrupted)?;
        let run = Run {
            serial: 0,
            owner: seal.owner,
            first: seal.first,
            pages,
            state: State::Sealed,
        };
        let is_free = run.range().all(|page| !self.is_taken(page));
        let is_inside = run.range().end <= self.pages.len();
        match self.runs.get_mut(usize::from(place)) {
            Some(slot) if slot.state == State::Free && is_inside && is_free && !self.is_swept => *slot = run,
            _ => return Err(AreaError::Corrupted),
        }
        Ok(())
    }

    /// Erases every page outside the adopted runs that is not blank; from here on runs can be written. Gives how many it has erased.
    ///
    /// # Errors
    /// [`AreaError::Flash`]: to be swept again.
    pub fn sweep<F: Flash>(&mut self, flash: &mut F) -> Done<usize, F> {
        let size = flash.page_size();
        let mut erased = 0;
        for page in 0..self.pages.len() {
            let at = (self.pages.start + page) * size;
            if !self.is_taken(page) && !looks_blank(flash, at, size)? {
                flash.erase(self.pages.start + page).map_err(AreaError::Flash)?;
                erased += 1;
            }
        }
        self.is_swept = true;
        Ok(erased)
    }

    fn is_taken(&self, page: usize) -> bool {
        self.runs.iter().any(|run| run.is_at(page))
    }

    /// The gaps: free pages side by side.
    fn gaps(&self) -> impl Iterator<Item = Range<usize>> {
        let end = self.pages.len();
        let mut at = 0;
        core::iter::from_fn(move || {
            while let Some(run) = self.runs.iter().find(|run| run.is_at(at)) {
                at = run.range().end;
            }
            let next = self
                .runs
                .iter()
                .filter(|run| run.state != State::Free && run.range().start > at);
            let gap = at..next.map(|run| run.range().start).min().unwrap_or(end);
            at = gap.end;
            (!gap.is_empty()).then_some(gap)
        })
    }

    /// Pages that belong to an owner, sealed or not.
    pub fn used(&self, owner: u16) -> usize {
        let own = self
            .runs
            .iter()
            .filter(|run| run.owner == owner && !matches!(run.state, State::Free | State::Released));
        own.map(|run| usize::from(run.pages)).sum()
    }

    /// Pages in which nothing is, and nothing is to be wiped.
    pub fn free(&self) -> usize {
        self.gaps().map(|gap| gap.len()).sum()
    }

    /// The gaps in some of its pages.
    fn gaps_in(&self, pages: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let clipped = |gap: Range<usize>| gap.start.max(pages.start)..gap.end.min(pages.end);
        self.gaps().map(clipped)
    }

    /// Pages of the longest run that can be begun in a part.
    pub fn largest(&self, part: &Part) -> usize {
        self.gaps_in(&part.pages).map(|gap| gap.len()).max().unwrap_or(0)
    }

    /// Pages of the area.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// How many runs it has memory for.
    pub fn places(&self) -> u8 {
        u8::try_from(self.runs.len()).unwrap_or(u8::MAX)
    }

    /// Begins a run of `length` bytes, in the first gap of the owner's part that holds it; the owner's unfinished run is released. No flash operation yet.
    ///
    /// # Errors
    /// [`AreaError::Full`], [`AreaError::Length`] for none, [`AreaError::NotSwept`]: nothing has changed.
    pub fn begin<F: Flash>(&mut self, flash: &F, owner: u16, length: u32, part: &Part) -> Done<Writing, F> {
        if !self.is_swept {
            return Err(AreaError::NotSwept);
        }
        if length == 0 {
            return Err(AreaError::Length);
        }
        let pages = pages_of(flash, length).ok_or(AreaError::Full)?;
        let is_unfinished = |run: &Run| run.owner == owner && run.state == State::Writing;
        let unfinished = self.runs.iter().filter(|run| is_unfinished(run));
        let unfinished: usize = unfinished.map(|run| usize::from(run.pages)).sum();
        let gap = self
            .gaps_in(&part.pages)
            .find(|gap| gap.len() >= usize::from(pages));
        let is_free = |place: usize, run: &Run| part.places.contains(&place) && run.state == State::Free;
        let place = (0..).zip(&self.runs).find(|(place, run)| is_free(*place, run));
        let first = gap.and_then(|gap| u16::try_from(gap.start).ok());
        let (Some(first), Some((place, _))) = (first, place) else {
            return Err(AreaError::Full);
        };
        let serial = self.serial.checked_add(1).ok_or(AreaError::Full)?;
        let own = self.used(owner) - unfinished;
        let number = u8::try_from(place).map_err(|_| AreaError::Full)?;
        if own + usize::from(pages) > part.quota {
            return Err(AreaError::Full);
        }
        self.serial = serial;
        for run in self.runs.iter_mut().filter(|run| is_unfinished(run)) {
            run.state = State::Released;
        }
        if let Some(slot) = self.runs.get_mut(place) {
            *slot = Run {
                serial,
                owner,
                first,
                pages,
                state: State::Writing,
            };
        }
        Ok(Writing {
            place: number,
            serial,
            length,
            come: 0,
            carry: [0xFF; WORD],
            is_broken: false,
        })
    }

    /// The run that is being written.
    fn of_writing<E>(&self, writing: &Writing) -> Result<Run, AreaError<E>> {
        let run = self.runs.get(usize::from(writing.place));
        let own = run.filter(|run| run.serial == writing.serial && run.state == State::Writing);
        own.copied().ok_or(AreaError::Gone)
    }

    /// Address of a byte of a run.
    fn address<F: Flash>(&self, flash: &F, run: &Run, offset: usize) -> usize {
        (self.pages.start + usize::from(run.first)) * flash.page_size() + offset
    }

    /// Writes the next bytes of a run. Each page is erased when its first byte comes.
    ///
    /// # Errors
    /// [`AreaError::Length`] for more than the run has: nothing has changed. [`AreaError::Gone`]; [`AreaError::Flash`], and [`AreaError::Gone`] from then on.
    pub fn write<F: Flash>(&mut self, flash: &mut F, writing: &mut Writing, bytes: &[u8]) -> Done<(), F> {
        let run = self.of_writing(writing)?;
        if writing.is_broken {
            return Err(AreaError::Gone);
        }
        let len = u32::try_from(bytes.len()).map_err(|_| AreaError::Length)?;
        if len > writing.missing() {
            return Err(AreaError::Length);
        }
        writing.is_broken = true;
        let mut rest = bytes;
        while !rest.is_empty() {
            let size = flash.page_size();
            let offset = writing.come as usize;
            let in_page = size - offset % size;
            if in_page == size {
                let page = self.pages.start + usize::from(run.first) + offset / size;
                flash.erase(page).map_err(AreaError::Flash)?;
            }
            let taken = match writing.carried() {
                0 if rest.len() >= WORD => {
                    let whole = rest.len().min(in_page);
                    let words = rest.get(..whole - whole % WORD).unwrap_or_default();
                    self.put(flash, &run, offset, words)?;
                    words.len()
                }
                carried => {
                    let taken = rest.len().min(WORD - carried);
                    let room = writing.carry.iter_mut().skip(carried);
                    room.zip(rest).for_each(|(to, from)| *to = *from);
                    if carried + taken == WORD {
                        self.put(flash, &run, offset - carried, &writing.carry)?;
                        writing.carry = [0xFF; WORD];
                    }
                    taken
                }
            };
            writing.come += u32::try_from(taken).map_err(|_| AreaError::Length)?;
            rest = rest.get(taken..).unwrap_or_default();
        }
        if writing.missing() == 0 && writing.carried() > 0 && !bytes.is_empty() {
            let last = writing.come as usize - writing.carried();
            self.put(flash, &run, last, &writing.carry)?;
        }
        writing.is_broken = false;
        Ok(())
    }

    /// Writes whole words inside a page.
    fn put<F: Flash>(&self, flash: &mut F, run: &Run, offset: usize, words: &[u8]) -> Done<(), F> {
        let at = self.address(flash, run, offset);
        flash.write(at, words).map_err(AreaError::Flash)
    }

    /// Reads what has been written of a run, for its digest: as it stands in the flash.
    ///
    /// # Errors
    /// [`AreaError::Length`] for what is not in the flash yet; [`AreaError::Gone`]; [`AreaError::Flash`].
    pub fn written<F: Flash>(
        &self,
        flash: &F,
        writing: &Writing,
        offset: u32,
        out: &mut [u8],
    ) -> Done<(), F> {
        let run = self.of_writing(writing)?;
        let carried = if writing.missing() == 0 {
            0
        } else {
            writing.carried()
        };
        self.read_run(flash, &run, writing.come as usize - carried, offset, out)
    }

    /// Reads bytes of a run that has `length` of them.
    fn read_run<F: Flash>(
        &self,
        flash: &F,
        run: &Run,
        length: usize,
        offset: u32,
        out: &mut [u8],
    ) -> Done<(), F> {
        let offset = offset as usize;
        match offset.checked_add(out.len()) {
            Some(end) if end <= length => {}
            _ => return Err(AreaError::Length),
        }
        flash
            .read(self.address(flash, run, offset), out)
            .map_err(AreaError::Flash)
    }

    /// Seals a run all of whose bytes have come: gives its place, by which the store's record is found, and the record, which the caller commits. Until [`Area::settle`] the run is in doubt.
    ///
    /// # Errors
    /// [`AreaError::Length`] when bytes are missing, [`AreaError::Gone`].
    pub fn seal<E>(&mut self, writing: &Writing, digest: [u8; 32]) -> Result<(u8, Seal), AreaError<E>> {
        let run = self.of_writing(writing)?;
        if writing.is_broken {
            return Err(AreaError::Gone);
        }
        if writing.missing() > 0 {
            return Err(AreaError::Length);
        }
        self.set(writing.place, State::Doubtful);
        let seal = Seal {
            owner: run.owner,
            first: run.first,
            length: writing.length,
            digest,
        };
        Ok((writing.place, seal))
    }

    fn set(&mut self, place: u8, state: State) {
        if let Some(run) = self.runs.get_mut(usize::from(place)) {
            run.state = state;
        }
    }

    /// The record of an owner's sealed run is about to be removed: until [`Area::settle`] the run is in doubt, and cannot be read.
    ///
    /// # Errors
    /// [`AreaError::Gone`] when the owner has no sealed run there.
    pub fn doubt<E>(&mut self, place: u8, owner: u16) -> Result<(), AreaError<E>> {
        let run = self.runs.get(usize::from(place));
        if !run.is_some_and(|run| run.owner == owner && run.state == State::Sealed) {
            return Err(AreaError::Gone);
        }
        self.set(place, State::Doubtful);
        Ok(())
    }

    /// A place whose run is in doubt: the caller looks for its record.
    pub fn doubtful(&self) -> Option<u8> {
        let place = self.runs.iter().position(|run| run.state == State::Doubtful)?;
        u8::try_from(place).ok()
    }

    /// Whether there is a run under this number, and it is this owner's. The flash is not asked.
    pub fn is_of(&self, place: u8, owner: u16) -> bool {
        let run = self.runs.get(usize::from(place));
        run.is_some_and(|run| run.owner == owner && !matches!(run.state, State::Free | State::Released))
    }

    /// Ends the doubt about a run: it is sealed if the store has this record of it, and released if it has none, or another.
    pub fn settle(&mut self, place: u8, record: Option<&Seal>) {
        let run = self.runs.get_mut(usize::from(place));
        if let Some(run) = run.filter(|run| run.state == State::Doubtful) {
            let stands = record.is_some_and(|seal| (seal.owner, seal.first) == (run.owner, run.first));
            run.state = if stands { State::Sealed } else { State::Released };
        }
    }

    /// Gives a run up that is being written.
    pub fn release(&mut self, writing: &Writing) {
        if self.of_writing::<()>(writing).is_ok() {
            self.set(writing.place, State::Released);
        }
    }

    /// Releases all runs of an owner: their records have been removed.
    pub fn release_owner(&mut self, owner: u16) {
        for run in &mut self.runs {
            if run.owner == owner && run.state != State::Free {
                run.state = State::Released;
            }
        }
    }

    /// Wipes what has been released, `most` pages of it at most; whether all of it is wiped.
    ///
    /// # Errors
    /// [`AreaError::Flash`]: to be tried again.
    pub fn tidy<F: Flash>(&mut self, flash: &mut F, most: usize) -> Done<bool, F> {
        let start = self.pages.start;
        let mut left = most;
        for run in self.runs.iter_mut().filter(|run| run.state == State::Released) {
            while run.pages > 0 {
                if left == 0 {
                    return Ok(false);
                }
                let last = start + run.range().end - 1;
                flash.erase(last).map_err(AreaError::Flash)?;
                run.pages -= 1;
                left -= 1;
            }
            *run = Run::FREE;
        }
        Ok(true)
    }

    /// The run that a seal is of.
    fn of_seal<F: Flash>(&self, flash: &F, place: u8, seal: &Seal) -> Done<Run, F> {
        let pages = pages_of(flash, seal.length);
        let run = self.runs.get(usize::from(place)).filter(|run| {
            let is_its = (run.owner, run.first, Some(run.pages)) == (seal.owner, seal.first, pages);
            run.state == State::Sealed && is_its
        });
        run.copied().ok_or(AreaError::Gone)
    }

    /// Reads bytes of a sealed run.
    ///
    /// # Errors
    /// [`AreaError::Gone`] when the run is not sealed, or another one stands there; [`AreaError::Length`] behind its end; [`AreaError::Flash`].
    pub fn read<F: Flash>(
        &self,
        flash: &F,
        place: u8,
        seal: &Seal,
        offset: u32,
        out: &mut [u8],
    ) -> Done<(), F> {
        let run = self.of_seal(flash, place, seal)?;
        self.read_run(flash, &run, seal.length as usize, offset, out)
    }

    /// Bytes of a sealed run where they stand; `None` where [`Area::read`] fails, or where the flash does not [map](Flash::mapped) them.
    pub fn mapped<'f, F: Flash>(
        &self,
        flash: &'f F,
        place: u8,
        seal: &Seal,
        range: Range<usize>,
    ) -> Option<&'f [u8]> {
        let run = self.of_seal(flash, place, seal).ok()?;
        if range.start > range.end || range.end > seal.length as usize {
            return None;
        }
        let at = self.address(flash, &run, range.start);
        flash.mapped(at..at + range.len())
    }
}

/// Pages that bytes take; `None` for more than any area has, and for none.
fn pages_of<F: Flash>(flash: &F, length: u32) -> Option<u16> {
    let pages = (length as usize).div_ceil(flash.page_size().max(1));
    u16::try_from(pages).ok().filter(|pages| *pages > 0)
}

/// Whether bytes are FF, without a read where the flash is mapped.
fn looks_blank<F: Flash>(flash: &F, at: usize, len: usize) -> Done<bool, F> {
    if let Some(bytes) = flash.mapped(at..at + len) {
        return Ok(bytes.iter().all(|byte| *byte == 0xFF));
    }
    is_blank(flash, at, len).map_err(|error| match error {
        Error::Flash(error) => AreaError::Flash(error),
        _ => AreaError::Corrupted,
    })
}
