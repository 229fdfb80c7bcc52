//! Opening: what stands on the flash, what of it counts, and cleaning up what a power cut left.

use core::ops::Range;

use crate::Error;
use crate::ahead::Ahead;
use crate::directory::Listed;
use crate::flash::{Flash, WORD};
use crate::key::{Key, Op, Prefix};
use crate::page::{Cut, Geometry};
use crate::record::{Kind, Name, RECORD_HEAD, Record};
use crate::store::Store;
use crate::tables::{Memory, Page};
use crate::walk::{Skipped, zeros};
use crate::write::OPS_MAX;

/// What stands at an offset.
enum Found {
    /// FF up to the end of the page, or its end.
    Free,
    /// Zeros up to this offset.
    Zeros(usize),
    /// A whole record.
    Record(Record),
    /// None of these. `is_end`: nothing stands behind it in the page, so that it may have been cut.
    Broken { remains: Option<Remains>, is_end: bool },
}

/// What a record has left whose wiping was cut. It must have been one that the last transaction replaced or removed.
#[derive(Clone, Copy)]
struct Remains {
    name: Remaining,
    /// Where it stands.
    place: Skipped,
}

#[derive(Clone, Copy)]
enum Remaining {
    /// All of its head.
    Key(Key),
    /// The second word of its head, at least.
    Owned(u32),
    /// Some bits of that word, perhaps.
    Torn(u32),
}

impl Remaining {
    /// Whether the operation may have replaced or removed it.
    fn is_concerned(self, op: &Op<'_>) -> bool {
        let key = match *op {
            Op::Put(key, _) | Op::Remove(key) => key,
            Op::RemoveAll(Prefix::Owner(owner)) => {
                return match self {
                    Self::Key(key) => key.owner == owner,
                    Self::Owned(word) => word >> 16 == u32::from(owner),
                    Self::Torn(word) => word >> 16 & !u32::from(owner) == 0,
                };
            }
            Op::RemoveAll(Prefix::Object(owner, object)) => Key::new(owner, object, 0),
        };
        let wanted = u32::from(key.owner) << 16 | u32::from(key.object);
        match self {
            Self::Key(own) => op.concerns(own),
            Self::Owned(word) => word == wanted,
            Self::Torn(word) => word & !wanted == 0 || wanted == 0,
        }
    }
}

/// A place in the log: the sequence number of the page, and the offset in the store.
type Position = (u32, usize);

/// What the first walk has found.
pub(crate) struct Survey {
    /// There is a whole transaction.
    pub(crate) has_begun: bool,
    /// Behind the last whole transaction.
    end: Position,
    /// Something stands behind it.
    is_cut: bool,
    /// Where the last transaction of the store's user begins, and its last record.
    last: Option<(Position, Position)>,
    remains: Option<(Position, Remains)>,
    /// Where the transaction begins whose end has not been found yet.
    open: Option<Position>,
}

impl Survey {
    /// What stands before `at` belongs to no transaction.
    fn pass(&mut self, (sequence, at): Position) {
        if self.open.is_none() && self.end.0 == sequence {
            self.end.1 = at;
        }
    }

    /// A whole record of a transaction.
    fn take(&mut self, sequence: u32, record: &Record) {
        let at = (sequence, record.at);
        let begin = self.open.filter(|_| !record.name.first).unwrap_or(at);
        self.open = Some(begin);
        if record.name.last {
            self.has_begun = true;
            if record.name.kind != Kind::Emptied {
                self.last = Some((begin, at));
            }
            self.end = (sequence, record.end());
            self.open = None;
        }
    }
}

/// The operations of the last transaction: only they may have left something to be wiped.
struct Last {
    ops: [Option<(Position, Name)>; OPS_MAX],
}

impl Last {
    const NONE: Self = Self { ops: [None; OPS_MAX] };

    fn any(&self, position: Position, mut is_it: impl FnMut(&Op<'_>) -> bool) -> bool {
        let behind = self.ops.iter().flatten().filter(|(at, _)| *at > position);
        behind.filter_map(|(_, name)| name.op()).any(|op| is_it(&op))
    }
}

impl<M: Memory> Store<M> {
    /// Opens the store in `pages`, cleaning up what a power cut left.
    ///
    /// # Errors
    /// [`Error::NotFormatted`] when no page has a head; [`Error::Corrupted`], [`Error::Geometry`], [`Error::Flash`].
    pub fn open<F: Flash>(flash: &mut F, pages: Range<usize>) -> Result<Self, Error<F::Error>> {
        let mut store = Self::BLANK;
        store.open_in_place(flash, pages)?;
        Ok(store)
    }
}

impl Store {
    /// As [`Store::open`], where the store stands, whatever it was before.
    ///
    /// # Errors
    /// As [`Store::open`]: the store is not open then.
    pub fn open_in_place<F: Flash>(
        &mut self,
        flash: &mut F,
        pages: Range<usize>,
    ) -> Result<(), Error<F::Error>> {
        self.begin(flash, &pages)?;
        let opened = self.recover(flash);
        self.fresh = opened.is_ok();
        opened
    }

    /// Finds the pages in use.
    pub(crate) fn read_heads<F: Flash>(&mut self, flash: &F) -> Result<(), Error<F::Error>> {
        let geometry = self.geometry;
        let mut tail = None;
        for page in 0..geometry.pages {
            if let Some(head) = geometry.head(flash, page)? {
                self.page_mut(page).sequence = head.sequence;
                tail = tail.max(Some((head.sequence, page)));
            }
        }
        let (sequence, tail) = tail.ok_or(Error::NotFormatted)?;
        let head = geometry.head(flash, tail)?.ok_or(Error::Corrupted)?;
        if head.closed {
            return Err(if head.unmade {
                Error::NotFormatted
            } else {
                Error::Corrupted
            });
        }
        (self.tail, self.sequence) = (tail, sequence);
        for page in 0..geometry.pages {
            if head.has(page) {
                self.page_mut(page).in_use = true;
                self.set_end(page, geometry.end(page));
            } else {
                *self.page_mut(page) = Page::BLANK;
            }
        }
        if !head.has(tail) {
            return Err(Error::Corrupted);
        }
        self.read_emptied(flash)?;
        let is_new = matches!(self.look(flash, geometry.start(tail), tail)?, Found::Free);
        let mut open = 0;
        for page in (0..geometry.pages).filter(|page| *page != tail) {
            if !self.page(page).in_use {
                continue;
            }
            let head = geometry.head(flash, page)?.ok_or(Error::Corrupted)?;
            open += usize::from(!head.closed);
            if head.sequence >= sequence || (!head.closed && self.page_from(head.sequence + 1) != Some(tail))
            {
                return Err(Error::Corrupted);
            }
        }
        if open > usize::from(is_new) {
            return Err(Error::Corrupted);
        }
        self.read_cuts(flash)
    }

    /// Pages that the tail says are empty.
    fn read_emptied<F: Flash>(&mut self, flash: &F) -> Result<(), Error<F::Error>> {
        let mut at = self.geometry.start(self.tail);
        loop {
            match self.look(flash, at, self.tail)? {
                Found::Zeros(end) => at = end,
                Found::Record(record) => {
                    let page = usize::from(record.name.key.object);
                    if record.name.kind == Kind::Emptied {
                        if page == self.tail || page >= self.geometry.pages {
                            return Err(Error::Corrupted);
                        }
                        *self.page_mut(page) = Page::BLANK;
                    }
                    at = record.end();
                }
                Found::Broken {
                    remains: Some(remains),
                    is_end: false,
                } => at = remains.place.end,
                Found::Free | Found::Broken { .. } => return Ok(()),
            }
        }
    }

    /// What heads say of transactions that were cut.
    fn read_cuts<F: Flash>(&mut self, flash: &F) -> Result<(), Error<F::Error>> {
        let geometry = self.geometry;
        for page in 0..geometry.pages {
            if !self.page(page).in_use {
                continue;
            }
            let head = geometry.head(flash, page)?.ok_or(Error::Corrupted)?;
            let Some(cut) = head.cut else { continue };
            let known = self.page(cut.page);
            if cut.page < geometry.pages && known.in_use && known.sequence < head.sequence {
                self.set_end(cut.page, cut.at.max(geometry.start(cut.page)));
                self.page_mut(cut.page).flag = true;
            }
        }
        Ok(())
    }

    /// What stands at `at` in a page.
    fn look<F: Flash>(&self, flash: &F, at: usize, page: usize) -> Result<Found, Error<F::Error>> {
        let (geometry, end) = (self.geometry, self.end_of(page));
        if at >= end {
            return Ok(Found::Free);
        }
        let mut head = [0xFF; RECORD_HEAD];
        let len = RECORD_HEAD.min(end - at);
        geometry.read(flash, at, head.get_mut(..len).unwrap_or_default())?;
        if head.starts_with(&[0; WORD]) {
            return Ok(Found::Zeros(at + zeros(&geometry, flash, at, end)?));
        }
        if head.starts_with(&[0xFF; WORD]) && geometry.blank_from(flash, at, page)? {
            return Ok(Found::Free);
        }
        let record = Record::read(at, &head).filter(|record| record.end() <= end);
        // What has gone since has left zeros in a directory: of a page that was closed with it, it is held against the records.
        if let Some(record) = record
            && (geometry.is_valid(flash, &record)?
                || record.name.kind == Kind::Directory
                    && record.crc != 0
                    && geometry.is_closed(flash, page)?)
        {
            return Ok(Found::Record(record));
        }
        let behind = record.map_or(at + 2 * WORD, |record| record.end());
        Ok(Found::Broken {
            remains: self.remains(flash, at, page, &head, record)?,
            is_end: geometry.blank_from(flash, behind, page)?,
        })
    }

    /// What may be left of a record whose wiping was cut.
    fn remains<F: Flash>(
        &self,
        flash: &F,
        at: usize,
        page: usize,
        head: &[u8; RECORD_HEAD],
        record: Option<Record>,
    ) -> Result<Option<Remains>, Error<F::Error>> {
        let [_, second, third] = [0, 4, 8].map(|from| {
            let mut word = [0; WORD];
            word.copy_from_slice(head.get(from..from + WORD).unwrap_or(&[0; WORD]));
            u32::from_be_bytes(word)
        });
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let remains = |name, end| {
            Some(Remains {
                name,
                place: Skipped { at, end },
            })
        };
        if let Some(record) = record.filter(|record| record.name.kind == Kind::Put) {
            // A first word that was cut may look whole, with any length: then what it says ends in the middle of something.
            // And where only the name is left, it may say any part.
            if third == 0 && self.is_zero(flash, &record)? {
                return Ok(remains(Remaining::Owned(second), record.end()));
            }
            if third != 0 || self.is_something(flash, record.end(), page)? {
                return Ok(remains(Remaining::Key(record.name.key), record.end()));
            }
        }
        Ok(match (second, third) {
            (0, _) => remains(Remaining::Torn(first), at + WORD),
            (_, 0) => remains(Remaining::Owned(second), at + 2 * WORD),
            _ => None,
        })
    }

    fn is_zero<F: Flash>(&self, flash: &F, record: &Record) -> Result<bool, Error<F::Error>> {
        let mut is_zero = true;
        self.geometry.stream(flash, record, |chunk| {
            is_zero &= chunk.iter().all(|byte| *byte == 0);
            Ok(())
        })?;
        Ok(is_zero)
    }

    /// Whether a record, zeros or nothing stands there.
    fn is_something<F: Flash>(&self, flash: &F, at: usize, page: usize) -> Result<bool, Error<F::Error>> {
        let mut head = [0xFF; RECORD_HEAD];
        let len = RECORD_HEAD.min(self.end_of(page).saturating_sub(at));
        self.geometry
            .read(flash, at, head.get_mut(..len).unwrap_or_default())?;
        Ok(head.starts_with(&[0; WORD])
            || head.starts_with(&[0xFF; WORD])
            || Record::read(at, &head).is_some())
    }

    /// Walks over the log: whether everything in it is whole, and where it ends.
    pub(crate) fn survey<F: Flash>(&mut self, flash: &Ahead<'_, F>) -> Result<Survey, Error<F::Error>> {
        let geometry = self.geometry;
        let first = self.page_from(0).ok_or(Error::Corrupted)?;
        let start = (self.page(first).sequence, geometry.start(first));
        let mut survey = Survey {
            has_begun: false,
            end: start,
            is_cut: false,
            last: None,
            remains: None,
            open: None,
        };
        let mut next = Some(first);
        while let Some(page) = next {
            flash.rewind();
            let sequence = self.page(page).sequence;
            let mut at = geometry.start(page);
            loop {
                match self.look(flash, at, page)? {
                    Found::Free => break,
                    Found::Zeros(end) => {
                        at = end;
                        survey.pass((sequence, at));
                    }
                    Found::Record(record) if record.name.kind == Kind::Directory => {
                        at = record.end();
                        self.page_mut(page).entries = record.name.key.object;
                        // Nothing stands behind it, and it is part of no transaction.
                        if !matches!(self.look(flash, at, page)?, Found::Free) {
                            return Err(Error::Corrupted);
                        }
                        survey.pass((sequence, at));
                    }
                    Found::Record(record) => {
                        survey.take(sequence, &record);
                        at = record.end();
                    }
                    Found::Broken { remains, is_end } => {
                        if is_end && self.is_empty_behind(flash, sequence)? {
                            survey.is_cut = true;
                            break;
                        }
                        let remains = remains
                            .filter(|_| survey.remains.is_none())
                            .ok_or(Error::Corrupted)?;
                        survey.remains = Some(((sequence, at), remains));
                        at = remains.place.end;
                    }
                }
            }
            if survey.is_cut {
                break;
            }
            self.set_end(page, at);
            next = self.page_from(sequence + 1);
            // What stands behind a cut that a head tells of belongs to nothing.
            if self.page(page).flag {
                survey.open = None;
            }
        }
        survey.is_cut |= survey.open.is_some();
        Ok(survey)
    }

    /// Whether the pages behind this one have heads only.
    fn is_empty_behind<F: Flash>(&self, flash: &F, sequence: u32) -> Result<bool, Error<F::Error>> {
        let mut next = self.page_from(sequence + 1);
        while let Some(page) = next {
            if !self.geometry.blank_from(flash, self.geometry.start(page), page)? {
                return Ok(false);
            }
            next = self.page_from(self.page(page).sequence + 1);
        }
        Ok(true)
    }

    /// The operations of the last transaction.
    fn read_last<F: Flash>(&self, flash: &F, survey: &Survey) -> Result<Last, Error<F::Error>> {
        let mut last = Last::NONE;
        let Some((from, to)) = survey.last else {
            return Ok(last);
        };
        let mut free = last.ops.iter_mut();
        let mut next = self.page_from(from.0);
        while let Some(page) = next {
            let sequence = self.page(page).sequence;
            let mut walk = self.walk(page);
            while let Some(record) = walk.next(&self.geometry, flash)? {
                let at = (sequence, record.at);
                if at >= from && at <= to && record.name.kind != Kind::Directory {
                    let place = free.next().ok_or(Error::Corrupted)?;
                    *place = Some((at, record.name));
                }
            }
            next = self.page_from(sequence + 1).filter(|_| sequence < to.0);
        }
        Ok(last)
    }

    /// Takes up what is live. Pages that hold what is to be wiped are flagged.
    fn take_all<F: Flash>(&mut self, flash: &Ahead<'_, F>, last: &Last) -> Result<(), Error<F::Error>> {
        self.memory.index_mut().clear();
        self.memory
            .owners_mut()
            .iter_mut()
            .for_each(|owned| owned.bytes = 0);
        (self.live, self.more_owners) = (0, false);
        for page in 0..self.geometry.pages {
            let listed = self.entries_of(page).is_some();
            let page = self.page_mut(page);
            page.live = 0;
            page.entries = if listed { page.entries } else { 0 };
        }
        // The records of a page without a directory come first: the index had room for them.
        for is_listed in [false, true] {
            let mut next = self.page_from(0);
            while let Some(page) = next {
                let has_directory = self.entries_of(page).is_some();
                if (has_directory || page == self.tail) == is_listed {
                    flash.rewind();
                    self.take_page(flash, page, last)?;
                }
                next = self.page_from(self.page(page).sequence + 1);
            }
        }
        Ok(())
    }

    /// Takes up what is live in a page.
    fn take_page<F: Flash>(
        &mut self,
        flash: &Ahead<'_, F>,
        page: usize,
        last: &Last,
    ) -> Result<(), Error<F::Error>> {
        let sequence = self.page(page).sequence;
        let (mut listed, mut puts) = (Listed::default(), 0);
        let mut walk = self.walk(page);
        while let Some(record) = walk.next(&self.geometry, flash)? {
            if record.name.kind != Kind::Put {
                continue;
            }
            puts += 1;
            if last.any((sequence, record.at), |op| op.concerns(record.name.key)) {
                self.page_mut(page).flag = true;
                continue;
            }
            listed.add(&self.geometry, &record);
            // Closed by a store with a larger index.
            if !self.take_up(&record) && page != self.tail && self.entries_of(page).is_none() {
                self.page_mut(page).entries = Page::NOT_LISTED;
            }
        }
        if page == self.tail {
            self.puts = puts;
        }
        let is_in_order = self.page(page).flag || self.entries_of(page).is_none();
        if is_in_order || self.is_listed(flash, page, listed)? {
            Ok(())
        } else {
            Err(Error::Corrupted)
        }
    }

    /// Finds what counts, and brings the store in order.
    fn recover<F: Flash>(&mut self, flash: &mut F) -> Result<(), Error<F::Error>> {
        let geometry = self.geometry;
        let ahead = Ahead::new(flash);
        self.read_heads(&ahead)?;
        let survey = self.survey(&ahead)?;
        let cut = self.drop_behind(&ahead, &survey)?;
        if let Some((position, remains)) = survey.remains {
            let page = geometry.page_of(position.1);
            self.page_mut(page).flag = true;
            self.skipped = Some(remains.place);
        }
        let last = self.read_last(&ahead, &survey)?;
        if let Some((position, remains)) = survey.remains
            && !last.any(position, |op| remains.name.is_concerned(op))
        {
            return Err(Error::Corrupted);
        }
        self.take_all(&ahead, &last)?;
        // What writes is there once, for the flash itself.
        if survey.is_cut {
            self.open_page(flash, cut)?;
            for page in 0..geometry.pages {
                if !self.page(page).in_use {
                    self.page_mut(page).sequence = 0;
                }
            }
        } else {
            if let Some(before) = self.before_tail() {
                geometry.close(flash, before)?;
            }
            // Nothing goes behind a directory.
            if self.page(self.tail).entries > 0 {
                self.open_page(flash, None)?;
            }
        }
        let mut is_changed = false;
        let mut next = self.page_from(0);
        while let Some(page) = next {
            let sequence = self.page(page).sequence;
            if self.page(page).flag {
                self.compact(flash, page, &|record| {
                    !last.any((sequence, record.at), |op| op.concerns(record.name.key))
                })?;
                is_changed = true;
            }
            next = self.page_from(sequence + 1);
        }
        self.skipped = None;
        if is_changed {
            self.take_all(&Ahead::new(flash), &Last::NONE)?;
        }
        self.keep_spare(flash)?;
        self.list(flash)?;
        self.wipe_free(flash)
    }

    /// Takes the pages out of use that hold nothing but what was undone, and flags the one that also holds something else: where it is cut.
    fn drop_behind<F: Flash>(&mut self, flash: &F, survey: &Survey) -> Result<Option<Cut>, Error<F::Error>> {
        if !survey.is_cut {
            return Ok(None);
        }
        let page = self.page_from(survey.end.0).ok_or(Error::Corrupted)?;
        while let Some(behind) = self.page_from(survey.end.0 + 1) {
            self.page_mut(behind).in_use = false;
            self.page_mut(behind).flag = false;
        }
        self.tail = page;
        let at = survey.end.1;
        if at < self.end_of(page) {
            self.page_mut(page).entries = 0;
        }
        self.set_end(page, at);
        if self.geometry.blank_from(flash, at, page)? {
            return Ok(None);
        }
        self.page_mut(page).flag = true;
        Ok(Some(Cut { page, at }))
    }

    /// Erases the pages that are not in use and not blank. Nothing is said of one that an erasure cut short has left looking blank.
    fn wipe_free<F: Flash>(&mut self, flash: &mut F) -> Result<(), Error<F::Error>> {
        let geometry: Geometry = self.geometry;
        for page in 0..geometry.pages {
            let Page { in_use, flag, .. } = self.page(page);
            let at = page * geometry.size;
            if !in_use && !flag && !geometry.blank_from(&Ahead::new(flash), at, page)? {
                self.erase(flash, page)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
