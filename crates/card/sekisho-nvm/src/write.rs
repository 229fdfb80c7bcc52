//! Commits, and the compaction of one page.

use zeroize::Zeroizing;

use crate::Error;
use crate::flash::{Flash, WORD};
use crate::key::{Key, Op};
use crate::page::{Geometry, SPARE};
use crate::record::{CHUNK, Kind, Name, RECORD_HEAD, Record, op_size};
use crate::store::{Store, is_among};
use crate::tables::Page;
use crate::walk::Walk;

/// Operations of one transaction.
pub(crate) const OPS_MAX: usize = 64;
/// Bytes at the end of a page that only the store's own last word on another page may take.
const KEPT: usize = RECORD_HEAD + WORD;

/// The operations of a transaction that change anything, a bit for each.
#[derive(Clone, Copy)]
struct Needed(u64);

impl Needed {
    const fn has(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }

    fn first(self) -> Option<usize> {
        (0..OPS_MAX).find(|index| self.has(*index))
    }

    fn last(self) -> Option<usize> {
        (0..OPS_MAX).rfind(|index| self.has(*index))
    }

    fn of<'o, 'v>(self, ops: &'o [Op<'v>]) -> impl Iterator<Item = (usize, &'o Op<'v>)> {
        ops.iter().enumerate().filter(move |(index, _)| self.has(*index))
    }
}

impl Geometry {
    /// Bytes of a page that records can take.
    pub(crate) const fn usable(&self) -> usize {
        self.body().saturating_sub(KEPT)
    }
}

impl Op<'_> {
    /// Bytes of room that the records of `owner`, or of all, take which are live behind the operations because of them.
    pub fn added(ops: &[Self], owner: Option<u16>) -> usize {
        let put = ops.iter().enumerate().filter(|(index, op)| match op {
            Self::Put(key, _) => is_of(op, owner) && !is_changed_behind(ops, *index, *key),
            _ => false,
        });
        put.fold(0, |bytes, (_, op)| bytes.saturating_add(op.cost()))
    }
}

impl Store {
    /// Carries out all of `ops` in order, or none of them.
    ///
    /// # Errors
    /// [`Error::Full`] and [`Error::TooLong`]: the records are as they were. [`Error::Corrupted`]: the same, and a record is damaged.
    /// [`Error::Flash`], and [`Error::Stale`] from then on.
    pub fn commit<F: Flash>(&mut self, flash: &mut F, ops: &[Op<'_>]) -> Result<(), Error<F::Error>> {
        if !self.fresh {
            return Err(Error::Stale);
        }
        let value_max = self.value_max();
        let is_long = |op: &Op<'_>| matches!(op, Op::Put(_, value) if value.len() > value_max);
        if ops.len() > OPS_MAX || ops.iter().any(is_long) {
            return Err(Error::TooLong);
        }
        let needed = self.needed(flash, ops)?;
        let (Some(first), Some(last)) = (needed.first(), needed.last()) else {
            return Ok(());
        };
        self.has_erased = false;
        self.check_room(flash, ops)?;
        self.make_room(flash, ops, needed)?;
        self.fresh = false;
        let mut offsets = [0; OPS_MAX];
        for (index, op) in needed.of(ops) {
            let (name, value) = Name::of(op, index == first, index == last).ok_or(Error::TooLong)?;
            let at = self.append(flash, name, value)?;
            if let Some(offset) = offsets.get_mut(index) {
                *offset = u32::try_from(at).map_err(|_| Error::Geometry)?;
            }
        }
        for (index, op) in needed.of(ops) {
            self.apply(flash, op, offsets.get(index..).unwrap_or_default())?;
        }
        self.prepare(flash)?;
        self.fresh = true;
        Ok(())
    }

    /// Which of the operations change anything: removing what is not there does not, nor putting what one behind it replaces or removes.
    fn needed<F: Flash>(&self, flash: &F, ops: &[Op<'_>]) -> Result<Needed, Error<F::Error>> {
        let mut needed = Needed(0);
        for (index, op) in ops.iter().enumerate() {
            let is_needed = match op {
                Op::Put(key, _) => !is_changed_behind(ops, index, *key),
                Op::Remove(key) => self.find(flash, *key, &[])?.is_some(),
                Op::RemoveAll(prefix) => {
                    self.used(flash, prefix.owner())? > 0
                        && self
                            .search(flash, |record| prefix.covers(record.name.key))?
                            .is_some()
                }
            };
            needed.0 |= u64::from(is_needed) << index;
        }
        Ok(needed)
    }

    /// Whether there is room for what is live afterwards. What does not make it more always has room.
    fn check_room<F: Flash>(&self, flash: &F, ops: &[Op<'_>]) -> Result<(), Error<F::Error>> {
        let added = Op::added(ops, None);
        let after = self.live.saturating_add(added);
        if after <= self.capacity() {
            return Ok(());
        }
        let replaced = self.replaced(flash, ops, None)?;
        if added <= replaced || after.saturating_sub(replaced) <= self.capacity() {
            Ok(())
        } else {
            Err(Error::Full)
        }
    }

    /// Bytes of room that the live records of `owner`, or of all, take which the operations replace or remove.
    ///
    /// # Errors
    /// [`Error::Flash`], [`Error::Corrupted`].
    pub fn replaced<F: Flash>(
        &self,
        flash: &F,
        ops: &[Op<'_>],
        owner: Option<u16>,
    ) -> Result<usize, Error<F::Error>> {
        let mut bytes = 0_usize;
        for (index, op) in ops.iter().enumerate().filter(|(_, op)| is_of(op, owner)) {
            let before = ops.get(..index).unwrap_or_default();
            let is_first = |key: Key| !before.iter().any(|before| before.concerns(key));
            match op {
                Op::Put(key, _) | Op::Remove(key) => {
                    if is_first(*key)
                        && let Some(record) = self.find(flash, *key, &[])?
                    {
                        bytes += record.cost();
                    }
                }
                Op::RemoveAll(prefix) => {
                    self.search(flash, |record| {
                        if prefix.covers(record.name.key) && is_first(record.name.key) {
                            bytes += record.cost();
                        }
                        false
                    })?;
                }
            }
        }
        Ok(bytes)
    }

    /// Bytes left in the tail for a record that is put.
    pub(crate) fn room(&self) -> usize {
        self.left().saturating_sub(KEPT + self.directory_len(1))
    }

    /// Bytes left in the tail.
    fn left(&self) -> usize {
        self.geometry
            .end(self.tail)
            .saturating_sub(self.end_of(self.tail))
    }

    /// Pages that are to be begun for the operations.
    fn pages_for(&self, ops: &[Op<'_>], needed: Needed) -> usize {
        let is_put = |op: &Op<'_>| usize::from(matches!(op, Op::Put(..)));
        // As if all pages were closed as the last one may have to be.
        let all = needed.of(ops).map(|(_, op)| is_put(op)).sum();
        let listed = usize::from(!self.is_all_indexed(all));
        let (mut left, mut puts, mut pages) = (self.left().saturating_sub(KEPT), self.puts, 0);
        for (index, op) in needed.of(ops) {
            let size = op_size(op) + if needed.last() == Some(index) { WORD } else { 0 };
            if size + listed * (RECORD_HEAD + WORD * (puts + is_put(op))) > left {
                pages += 1;
                (left, puts) = (self.geometry.usable(), 0);
            }
            left = left.saturating_sub(size);
            puts += is_put(op);
        }
        pages
    }

    /// Sees to pages for the operations.
    fn make_room<F: Flash>(
        &mut self,
        flash: &mut F,
        ops: &[Op<'_>],
        needed: Needed,
    ) -> Result<(), Error<F::Error>> {
        for _ in 0..2 * self.geometry.pages {
            if !self.is_short(self.pages_for(ops, needed)) {
                return Ok(());
            }
            self.compact_one(flash)?;
        }
        if self.is_short(self.pages_for(ops, needed)) {
            return Err(Error::Full);
        }
        Ok(())
    }

    /// Sees to it that as many pages are free as a commit, or a compaction, is to find: one that was begun for a compaction that was cut is one less.
    pub(crate) fn keep_spare<F: Flash>(&mut self, flash: &mut F) -> Result<(), Error<F::Error>> {
        for _ in 0..self.geometry.pages {
            if self.free_pages() >= SPARE {
                break;
            }
            self.compact_one(flash)?;
        }
        Ok(())
    }

    fn compact_one<F: Flash>(&mut self, flash: &mut F) -> Result<(), Error<F::Error>> {
        let page = self.to_compact().ok_or(Error::Corrupted)?;
        self.compact(flash, page, &|_| true)
    }

    /// The page whose compaction makes most room: the emptiest one. The tail, which only moves to another page, when no other fits behind it.
    fn to_compact(&self) -> Option<usize> {
        let pages = || (0..self.geometry.pages).filter(|page| self.page(*page).in_use);
        let live = |page: &usize| (self.page(*page).live, self.page(*page).sequence);
        let behind = pages()
            .filter(|page| *page != self.tail)
            .min_by_key(live)
            .filter(|page| usize::from(self.page(*page).live) * WORD <= self.room());
        behind.or_else(|| pages().min_by_key(live))
    }

    /// Moves the live records of a page behind the tail, and erases it. A commit that has erased a page already writes zeros over it instead: one erasure is what a
    /// command is given, and nothing of what was deleted may stand there longer.
    pub(crate) fn compact<F: Flash>(
        &mut self,
        flash: &mut F,
        page: usize,
        is_live: &dyn Fn(&Record) -> bool,
    ) -> Result<(), Error<F::Error>> {
        let geometry = self.geometry;
        // A new sum over damaged bytes would make them good: looked at before anything is written.
        let mut walk = self.walk(page);
        while let Some(record) = next_live(&mut walk, &geometry, flash, is_live)? {
            if !geometry.is_valid(flash, &record)? {
                return Err(Error::Corrupted);
            }
        }
        let was_fresh = core::mem::replace(&mut self.fresh, false);
        if page == self.tail {
            self.next_page(flash)?;
        }
        let mut first = true;
        let mut walk = self.walk(page);
        while let Some(record) = next_live(&mut walk, &geometry, flash, is_live)? {
            let at = self.copy(flash, &record, first)?;
            first = false;
            self.let_go(&record);
            self.take_up(&Record { at, ..record });
        }
        let number = u16::try_from(page).map_err(|_| Error::Geometry)?;
        let emptied = Name {
            kind: Kind::Emptied,
            key: Key::new(0, number, 0),
            first,
            last: true,
            len: 0,
        };
        self.append(flash, emptied, &[])?;
        let end = self.end_of(page);
        *self.page_mut(page) = Page::BLANK;
        if self.has_erased && was_fresh {
            geometry.blot(flash, geometry.start(page)..end)?;
        } else {
            self.erase(flash, page)?;
        }
        self.skipped = self
            .skipped
            .filter(|skipped| geometry.page_of(skipped.at) != page);
        self.fresh = was_fresh;
        Ok(())
    }

    /// Sees to `size` bytes in the tail, of which a record that only says that a page is empty may take the last ones, and to what its directory takes.
    fn place<F: Flash>(&mut self, flash: &mut F, size: usize, kind: Kind) -> Result<usize, Error<F::Error>> {
        let count = usize::from(kind == Kind::Put);
        let kept = self.directory_len(count) + if kind == Kind::Emptied { 0 } else { KEPT };
        if size > self.left().saturating_sub(kept) {
            self.next_page(flash)?;
        }
        self.puts += count;
        self.pending += count;
        Ok(self.end_of(self.tail))
    }

    /// Writes a record behind the tail and gives its offset. Behind the last one of a transaction goes a word of zeros.
    pub(crate) fn append<F: Flash>(
        &mut self,
        flash: &mut F,
        name: Name,
        value: &[u8],
    ) -> Result<usize, Error<F::Error>> {
        let size = RECORD_HEAD + value.len().next_multiple_of(WORD) + if name.last { WORD } else { 0 };
        let at = self.place(flash, size, name.kind)?;
        let head = name.head(|crc| crc.update(value));
        let mut chunk = Zeroizing::new([0; CHUNK]);
        let (begun, rest) = value
            .split_at_checked(CHUNK - RECORD_HEAD)
            .unwrap_or((value, &[]));
        for (to, from) in chunk.iter_mut().zip(head.iter().chain(begun)) {
            *to = *from;
        }
        let first = size.min(CHUNK);
        self.geometry
            .write(flash, at, chunk.get(..first).unwrap_or_default())?;
        let (words, rest) = rest
            .split_at_checked(rest.len() - rest.len() % WORD)
            .unwrap_or_default();
        if !words.is_empty() {
            self.geometry.write(flash, at + first, words)?;
        }
        let done = first + words.len();
        if done < size {
            let mut end = Zeroizing::new([0; 2 * WORD]);
            for (to, from) in end.iter_mut().zip(rest) {
                *to = *from;
            }
            self.geometry
                .write(flash, at + done, end.get(..size - done).unwrap_or_default())?;
        }
        self.set_end(self.tail, at + size);
        Ok(at)
    }

    /// Copies a live record behind the tail and gives its offset there.
    fn copy<F: Flash>(
        &mut self,
        flash: &mut F,
        record: &Record,
        first: bool,
    ) -> Result<usize, Error<F::Error>> {
        let geometry = self.geometry;
        let at = self.place(flash, record.size(), Kind::Put)?;
        let name = Name {
            first,
            last: false,
            ..record.name
        };
        let mut sum = Ok(());
        let head = name.head(|crc| {
            sum = geometry.stream(flash, record, |chunk| {
                crc.update(chunk);
                Ok(())
            });
        });
        sum?;
        geometry.write(flash, at, &head)?;
        let mut chunk = Zeroizing::new([0; CHUNK]);
        let mut done = RECORD_HEAD;
        while done < record.size() {
            let part = chunk
                .get_mut(..CHUNK.min(record.size() - done))
                .unwrap_or_default();
            geometry.read(flash, record.at + done, part)?;
            geometry.write(flash, at + done, part)?;
            done += part.len();
        }
        self.set_end(self.tail, at + record.size());
        Ok(at)
    }

    /// Wipes what an operation has replaced or removed, and takes up what it has put. `new` is where its record stands, and those of the operations
    /// behind it.
    fn apply<F: Flash>(&mut self, flash: &mut F, op: &Op<'_>, new: &[u32]) -> Result<(), Error<F::Error>> {
        let geometry = self.geometry;
        match op {
            Op::Put(key, _) | Op::Remove(key) => {
                if let Some(old) = self.find(flash, *key, new)? {
                    self.wipe(flash, &old)?;
                    self.let_go(&old);
                }
            }
            Op::RemoveAll(prefix) => {
                for page in 0..geometry.pages {
                    let mut walk = self.walk(page);
                    while self.page(page).in_use
                        && let Some(old) = walk.next(&geometry, flash)?
                    {
                        if old.name.kind == Kind::Put && prefix.covers(old.name.key) && !is_among(&old, new) {
                            self.wipe(flash, &old)?;
                            self.let_go(&old);
                        }
                    }
                }
            }
        }
        if let (Op::Put(..), Some(at)) = (op, new.first()) {
            let record = self.record(flash, usize::try_from(*at).unwrap_or_default())?;
            self.take_up(&record);
        }
        Ok(())
    }

    /// Erases the page that is to be begun next before it is needed, if nobody knows whether it is erased and nothing else was: so that the commit that
    /// begins it has no two erasures.
    fn prepare<F: Flash>(&mut self, flash: &mut F) -> Result<(), Error<F::Error>> {
        if self.has_erased || self.room() > self.geometry.usable() / 2 {
            return Ok(());
        }
        let mut pages = (0..self.geometry.pages).filter(|page| !self.page(*page).in_use);
        if pages.clone().any(|page| self.page(page).flag) {
            return Ok(());
        }
        match pages.next() {
            Some(page) => self.erase(flash, page),
            None => Ok(()),
        }
    }
}

/// Whether an operation concerns records of `owner`, or of anybody.
fn is_of(op: &Op<'_>, owner: Option<u16>) -> bool {
    owner.is_none_or(|owner| op.owner() == owner)
}

/// Whether an operation behind the one at `index` replaces or removes the record of `key`.
fn is_changed_behind(ops: &[Op<'_>], index: usize, key: Key) -> bool {
    let behind = ops.get(index + 1..).unwrap_or_default();
    behind.iter().any(|behind| behind.concerns(key))
}

/// The next record of a page that is live.
fn next_live<F: Flash>(
    walk: &mut Walk,
    geometry: &Geometry,
    flash: &F,
    is_live: &dyn Fn(&Record) -> bool,
) -> Result<Option<Record>, Error<F::Error>> {
    while let Some(record) = walk.next(geometry, flash)? {
        if record.name.kind == Kind::Put && is_live(&record) {
            return Ok(Some(record));
        }
    }
    Ok(None)
}
