//! The store: two halves, one of them active.

use core::ops::{Deref, DerefMut, Range};

use zeroize::{Zeroize, Zeroizing};

use crate::ahead::Ahead;
use crate::crc::Crc32;
use crate::flash::{Flash, WORD};
use crate::index::{Index, Slot, Slots, Tag};
use crate::log::{CHUNK, Found, HALF_HEAD, Half, Kind, RECORD_HEAD, Record, padded};
use crate::walk::{Walk, latest};
use crate::{Error, Key, Op};

/// A transactional key-value store. It holds positions only: the flash is an argument of every call, always the same one.
///
/// It is made with an index of a size, `Store<[Slot; N]>`, and used as [`Store`] without: that is what it dereferences to.
///
/// After [`Error::Flash`] from a call that writes, the store is to be opened anew: it reads the state it knows of, and commits nothing.
#[derive(Debug)]
pub struct Store<I: ?Sized = [Slot]> {
    halves: [Half; 2],
    active: usize,
    epoch: u32,
    /// Offset behind the last transaction.
    tail: usize,
    /// Bytes of the live records.
    live: usize,
    /// The other half has been erased to the end since the power came on. One that only looks blank may have been left so by an
    /// erasure that was cut.
    other_erased: bool,
    /// A write has failed: what stands behind the tail is unknown.
    stale: bool,
    /// Where the live records are.
    index: Index<I>,
}

impl<I: Slots> Deref for Store<I> {
    type Target = Store;

    fn deref(&self) -> &Store {
        I::of(self)
    }
}

impl<I: Slots> DerefMut for Store<I> {
    fn deref_mut(&mut self) -> &mut Store {
        I::of_mut(self)
    }
}

/// Operations of one transaction.
const OPS_MAX: usize = 64;

/// The operations of a transaction that change anything, a bit for each.
#[derive(Clone, Copy)]
struct Needed(u64);

impl Needed {
    const fn has(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }

    fn last(self) -> Option<usize> {
        (0..OPS_MAX).rfind(|index| self.has(*index))
    }

    fn of<'o>(self, ops: &'o [Op<'o>]) -> impl Iterator<Item = (usize, &'o Op<'o>)> {
        ops.iter().enumerate().filter(move |(index, _)| self.has(*index))
    }
}

/// What a walk over the active half has found.
struct Survey {
    /// Offset behind the last complete transaction.
    tail: usize,
    /// Something is to be cleaned.
    untidy: bool,
}

impl<I: Slots> Store<I> {
    /// Makes an empty store in `pages`, erasing what is there.
    ///
    /// # Errors
    /// [`Error::Geometry`] for fewer than two pages; [`Error::Flash`].
    pub fn format<F: Flash>(flash: &mut F, pages: Range<usize>) -> Result<Self, Error<F::Error>> {
        let halves = halves(flash, pages)?;
        for half in halves {
            half.erase(flash)?;
        }
        let [first, _] = halves;
        first.write_head(flash, 1)?;
        Ok(Self {
            halves,
            active: 0,
            epoch: 1,
            tail: HALF_HEAD,
            live: 0,
            other_erased: true,
            stale: false,
            index: Index::new(),
        })
    }

    /// Opens the store in `pages`, cleaning up what a power cut left.
    ///
    /// # Errors
    /// [`Error::NotFormatted`] when neither half has a head; [`Error::Corrupted`], [`Error::Geometry`], [`Error::Flash`].
    pub fn open<F: Flash>(flash: &mut F, pages: Range<usize>) -> Result<Self, Error<F::Error>> {
        let halves = halves(flash, pages)?;
        let [a, b] = halves;
        let (active, epoch) = match (a.epoch(flash)?, b.epoch(flash)?) {
            (None, None) => return Err(Error::NotFormatted),
            (Some(epoch), None) => (0, epoch),
            (None, Some(epoch)) => (1, epoch),
            (Some(a), Some(b)) if a.checked_sub(1) == Some(b) => (0, a),
            (Some(a), Some(b)) if b.checked_sub(1) == Some(a) => (1, b),
            (Some(_), Some(_)) => return Err(Error::Corrupted),
        };
        let mut store = Self {
            halves,
            active,
            epoch,
            tail: HALF_HEAD,
            live: 0,
            other_erased: false,
            stale: false,
            index: Index::new(),
        };
        let survey = store.survey(&Ahead::new(flash))?;
        // Copies of values that a later removal would not find must not outlive a cut compaction.
        store.other().wipe_pages(&mut Ahead::new(flash))?;
        if survey.untidy {
            store.compact(flash)?;
        }
        Ok(store)
    }
}

/// Whether a half has a head.
pub(crate) fn has_head<F: Flash>(flash: &F, pages: &Range<usize>) -> Result<bool, Error<F::Error>> {
    let [a, b] = halves(flash, pages.clone())?;
    Ok(a.epoch(flash)?.is_some() || b.epoch(flash)?.is_some())
}

/// What carries a store over into format 2.
impl Store {
    /// The half that counts.
    pub(crate) const fn active(&self) -> Half {
        self.half()
    }

    pub(crate) const fn walk(&self) -> Walk {
        Walk::new(self.half(), self.tail)
    }

    /// The next live record.
    pub(crate) fn next_live<F: Flash>(
        &self,
        walk: &mut Walk,
        flash: &F,
    ) -> Result<Option<Record>, Error<F::Error>> {
        while let Some(walked) = walk.next(flash, &self.index)? {
            if !walked.superseded && walked.record.kind == Kind::Put {
                return Ok(Some(walked.record));
            }
        }
        Ok(None)
    }

    /// Reads the value of a record, which is as long as `out`.
    pub(crate) fn read<F: Flash>(
        &self,
        flash: &F,
        record: &Record,
        out: &mut [u8],
    ) -> Result<(), Error<F::Error>> {
        self.half().read(flash, record.value_at(), out)?;
        if Half::agrees(record, out) {
            Ok(())
        } else {
            Err(Error::Corrupted)
        }
    }
}

impl Store {
    const fn half(&self) -> Half {
        let [a, b] = self.halves;
        if self.active == 0 { a } else { b }
    }

    fn other(&self) -> Half {
        let [a, b] = self.halves;
        if self.active == 0 { b } else { a }
    }

    /// Walks over the active half, finds where the last whole transaction ends, and takes up what is live before it.
    fn survey<F: Flash>(&mut self, flash: &Ahead<'_, F>) -> Result<Survey, Error<F::Error>> {
        let half = self.half();
        let mut survey = Survey {
            tail: HALF_HEAD,
            untidy: false,
        };
        let mut at = HALF_HEAD;
        loop {
            let record = match half.find(flash, at)? {
                Found::Record(record) => record,
                Found::Free => break,
                // A head was being written: nothing can stand behind it.
                Found::Broken if half.blank_from(flash, at + RECORD_HEAD)? => break,
                Found::Broken => return Err(Error::Corrupted),
            };
            if half.blank_from(flash, record.end())? && !half.is_valid(flash, &record)? {
                // A value was being written; but a wiped record had a newer one behind it.
                if record.is_wiped() {
                    return Err(Error::Corrupted);
                }
                break;
            }
            at = record.end();
            if record.last {
                survey.tail = at;
            }
        }
        survey.untidy = !half.blank_from(flash, survey.tail)?;
        self.tail = survey.tail;
        flash.rewind();
        self.take_up(flash)?;
        flash.rewind();
        self.judge(flash, &mut survey)?;
        Ok(survey)
    }

    /// Takes the records up to the tail into the index.
    fn take_up<F: Flash>(&mut self, flash: &F) -> Result<(), Error<F::Error>> {
        self.index.clear();
        let half = self.half();
        let mut at = HALF_HEAD;
        while at < self.tail {
            let record = half.record(flash, at)?;
            self.supersede(flash, record.key)?;
            if record.kind == Kind::Put {
                self.index.insert(Tag::of(record.key), at);
            }
            at = record.end();
        }
        Ok(())
    }

    /// Takes the record of `key` out of the index, if it is in it.
    fn supersede<F: Flash>(&mut self, flash: &F, key: Key) -> Result<(), Error<F::Error>> {
        if let Some(old) = self.indexed(flash, key)? {
            self.index.remove(Tag::of(key), old.at);
        }
        Ok(())
    }

    /// Every record up to the tail is valid, or superseded; superseded ones should be wiped. Counts the live bytes.
    fn judge<F: Flash>(&mut self, flash: &Ahead<'_, F>, survey: &mut Survey) -> Result<(), Error<F::Error>> {
        let half = self.half();
        let mut live = 0;
        let mut walk = Walk::new(half, self.tail);
        while let Some(walked) = walk.next(flash, &self.index)? {
            let record = walked.record;
            if !walked.superseded {
                if !half.is_valid(flash, &record)? {
                    return Err(Error::Corrupted);
                }
                if record.kind == Kind::Put {
                    live += record.end() - record.at;
                }
            } else if record.kind == Kind::Put {
                survey.untidy |= !half.is_wiped(flash, &record)?;
            }
        }
        self.live = live;
        Ok(())
    }

    /// The live record of `key`.
    fn live<F: Flash>(&self, flash: &F, key: Key) -> Result<Option<Record>, Error<F::Error>> {
        self.live_before(flash, key, self.tail)
    }

    /// The record of `key` that is live without what stands from `tail` on, which is not in the index yet.
    fn live_before<F: Flash>(
        &self,
        flash: &F,
        key: Key,
        tail: usize,
    ) -> Result<Option<Record>, Error<F::Error>> {
        let indexed = self.indexed(flash, key)?;
        if indexed.is_some() || self.index.is_complete() {
            return Ok(indexed);
        }
        Ok(latest(self.half(), flash, key, tail)?.filter(|record| record.kind == Kind::Put))
    }

    /// The record of `key` that is in the index.
    fn indexed<F: Flash>(&self, flash: &F, key: Key) -> Result<Option<Record>, Error<F::Error>> {
        for at in self.index.find(Tag::of(key)) {
            let record = self.half().record(flash, at)?;
            if record.key == key {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Reads the value of `key` into `out` and gives its length, or `None` when there is no such record.
    ///
    /// # Errors
    /// [`Error::BufferTooSmall`]; [`Error::Corrupted`] when the value is not what was written; [`Error::Flash`].
    pub fn get<F: Flash>(
        &self,
        flash: &F,
        key: Key,
        out: &mut [u8],
    ) -> Result<Option<usize>, Error<F::Error>> {
        let Some(record) = self.live(flash, key)? else {
            return Ok(None);
        };
        let out = out.get_mut(..record.len).ok_or(Error::BufferTooSmall)?;
        self.half().read(flash, record.value_at(), out)?;
        if !Half::agrees(&record, out) {
            out.zeroize();
            return Err(Error::Corrupted);
        }
        Ok(Some(record.len))
    }

    /// Length of the value of `key`, or `None` when there is no such record.
    ///
    /// # Errors
    /// [`Error::Flash`], [`Error::Corrupted`].
    pub fn len_of<F: Flash>(&self, flash: &F, key: Key) -> Result<Option<usize>, Error<F::Error>> {
        Ok(self.live(flash, key)?.map(|record| record.len))
    }

    /// The least live key above `after` (from the beginning for `None`): walks over all keys in order.
    ///
    /// # Errors
    /// [`Error::Flash`], [`Error::Corrupted`].
    pub fn next_key<F: Flash>(&self, flash: &F, after: Option<Key>) -> Result<Option<Key>, Error<F::Error>> {
        let half = self.half();
        let mut floor = after;
        loop {
            let mut least: Option<Key> = None;
            let mut at = HALF_HEAD;
            while at < self.tail {
                let record = half.record(flash, at)?;
                if floor.is_none_or(|floor| record.key > floor)
                    && least.is_none_or(|least| record.key < least)
                {
                    least = Some(record.key);
                }
                at = record.end();
            }
            match least {
                None => return Ok(None),
                Some(key) if self.live(flash, key)?.is_some() => return Ok(Some(key)),
                removed => floor = removed,
            }
        }
    }

    /// Carries out all of `ops` in order, or none of them.
    ///
    /// # Errors
    /// [`Error::Full`] and [`Error::TooLong`]: the records are as they were. [`Error::Corrupted`]: the same, and a record is damaged.
    /// [`Error::Flash`], and [`Error::Stale`] from then on.
    pub fn commit<F: Flash>(&mut self, flash: &mut F, ops: &[Op<'_>]) -> Result<(), Error<F::Error>> {
        if self.stale {
            return Err(Error::Stale);
        }
        let needed = self.needed(flash, ops)?;
        let Some(last) = needed.last() else { return Ok(()) };
        let mut need = 0_usize;
        for (_, op) in needed.of(ops) {
            need = need.saturating_add(size(op)?);
        }
        self.make_room(flash, need)?;
        self.stale = true;
        let (half, start) = (self.half(), self.tail);
        let mut at = start;
        for (index, op) in needed.of(ops) {
            at = append(half, flash, at, op, index == last)?;
        }
        self.tail = at;
        self.wipe_replaced(flash, ops, needed, start)?;
        self.stale = false;
        Ok(())
    }

    /// Which of the operations change anything: removing what is not there does not.
    fn needed<F: Flash>(&self, flash: &F, ops: &[Op<'_>]) -> Result<Needed, Error<F::Error>> {
        if ops.len() > OPS_MAX {
            return Err(Error::TooLong);
        }
        let mut needed = Needed(0);
        for (index, op) in ops.iter().enumerate() {
            let before = ops.iter().take(index).rfind(|before| before.key() == op.key());
            let is_needed = match (op, before) {
                (Op::Put(..), _) | (Op::Remove(_), Some(Op::Put(..))) => true,
                (Op::Remove(_), Some(Op::Remove(_))) => false,
                (Op::Remove(key), None) => self.live(flash, *key)?.is_some(),
            };
            needed.0 |= u64::from(is_needed) << index;
        }
        Ok(needed)
    }

    /// Sees to `need` free bytes behind the tail.
    fn make_room<F: Flash>(&mut self, flash: &mut F, need: usize) -> Result<(), Error<F::Error>> {
        if self.tail.saturating_add(need) <= self.half().len() {
            return Ok(());
        }
        if HALF_HEAD + self.live.saturating_add(need) > self.half().len() {
            return Err(Error::Full);
        }
        self.compact(flash)
    }

    /// Moves the live records to the other half. Before the other half's head is written nothing has changed, whatever goes wrong.
    fn compact<F: Flash>(&mut self, flash: &mut F) -> Result<(), Error<F::Error>> {
        let epoch = self.epoch.checked_add(1).ok_or(Error::Full)?;
        let (from, to) = (self.half(), self.other());
        if !self.other_erased {
            to.erase(flash)?;
        }
        self.other_erased = false;
        let mut target = HALF_HEAD;
        let mut walk = Walk::new(from, self.tail);
        while let Some(walked) = walk.next(flash, &self.index)? {
            if !walked.superseded && walked.record.kind == Kind::Put {
                target = copy(from, to, flash, &walked.record, target)?;
            }
        }
        self.stale = true;
        to.write_head(flash, epoch)?;
        self.active = 1 - self.active;
        self.epoch = epoch;
        self.tail = target;
        self.take_up(flash)?;
        // Its blank pages are blank because an erasure was finished: it was the half to move to once.
        from.wipe_pages(flash)?;
        self.other_erased = true;
        self.stale = false;
        Ok(())
    }

    /// Wipes the values that the transaction `ops`, which begins at `start`, has replaced or removed, and takes up its own.
    fn wipe_replaced<F: Flash>(
        &mut self,
        flash: &mut F,
        ops: &[Op<'_>],
        needed: Needed,
        start: usize,
    ) -> Result<(), Error<F::Error>> {
        let half = self.half();
        let mut at = start;
        for (index, op) in needed.of(ops) {
            let (key, tag) = (op.key(), Tag::of(op.key()));
            let is_same = |other: &Op<'_>| other.key() == key;
            let is_first = !ops.iter().take(index).any(is_same);
            if is_first && let Some(old) = self.live_before(flash, key, start)? {
                half.wipe(flash, old.at, old.len)?;
                self.index.remove(tag, old.at);
                self.live = self.live.saturating_sub(old.end() - old.at);
            }
            let len = size(op)?;
            match op {
                Op::Put(_, value) if ops.iter().skip(index + 1).any(is_same) => {
                    half.wipe(flash, at, value.len())?;
                }
                Op::Put(..) => {
                    self.index.insert(tag, at);
                    self.live += len;
                }
                Op::Remove(_) => {}
            }
            at += len;
        }
        Ok(())
    }

    /// Bytes that records can take in all.
    pub const fn capacity(&self) -> usize {
        self.half().len() - HALF_HEAD
    }

    /// Bytes that new records can take.
    pub const fn free(&self) -> usize {
        self.capacity().saturating_sub(self.live)
    }

    /// Number of compactions plus one: the measure of wear (see the crate's page).
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }
}

/// The two halves of `pages`; an odd page is left unused.
fn halves<F: Flash>(flash: &F, pages: Range<usize>) -> Result<[Half; 2], Error<F::Error>> {
    let each = pages.len() / 2;
    let page_size = flash.page_size();
    let is_sound =
        page_size.is_multiple_of(WORD) && page_size.saturating_mul(each) >= 2 * (HALF_HEAD + RECORD_HEAD);
    if each == 0 || pages.end > flash.pages() || !is_sound {
        return Err(Error::Geometry);
    }
    let half = |first_page| Half {
        first_page,
        pages: each,
        page_size,
    };
    Ok([half(pages.start), half(pages.start + each)])
}

/// Bytes that `op` takes in the log.
fn size<E>(op: &Op<'_>) -> Result<usize, Error<E>> {
    match op {
        Op::Put(_, value) if value.len() > usize::from(u16::MAX) => Err(Error::TooLong),
        Op::Put(_, value) => Ok(RECORD_HEAD + padded(value.len())),
        Op::Remove(_) => Ok(RECORD_HEAD),
    }
}

/// Writes one record at `at` and gives the offset behind it.
fn append<F: Flash>(
    half: Half,
    flash: &mut F,
    at: usize,
    op: &Op<'_>,
    last: bool,
) -> Result<usize, Error<F::Error>> {
    let (key, kind, value) = match *op {
        Op::Put(key, value) => (key, Kind::Put, value),
        Op::Remove(key) => (key, Kind::Remove, &[][..]),
    };
    let len = u16::try_from(value.len()).map_err(|_| Error::TooLong)?;
    half.write(
        flash,
        at,
        &Half::record_head(key, len, kind, last, |crc| crc.update(value)),
    )?;
    let value_at = at + RECORD_HEAD;
    let whole = value.len() - value.len() % WORD;
    let (words, rest) = value.split_at_checked(whole).unwrap_or((value, &[]));
    if !words.is_empty() {
        half.write(flash, value_at, words)?;
    }
    if !rest.is_empty() {
        let mut word = Zeroizing::new([0; WORD]);
        for (to, from) in word.iter_mut().zip(rest) {
            *to = *from;
        }
        half.write(flash, value_at + whole, word.as_slice())?;
    }
    Ok(value_at + padded(value.len()))
}

/// Copies a live record to `target` of the other half, as a transaction of its own, and gives the offset behind it.
fn copy<F: Flash>(
    from: Half,
    to: Half,
    flash: &mut F,
    record: &Record,
    target: usize,
) -> Result<usize, Error<F::Error>> {
    // A new sum over damaged bytes would make them good.
    if !from.is_valid(flash, record)? {
        return Err(Error::Corrupted);
    }
    let len = u16::try_from(record.len).map_err(|_| Error::TooLong)?;
    let mut sum = Ok(());
    let head = Half::record_head(record.key, len, Kind::Put, true, |crc: &mut Crc32| {
        sum = from.stream(flash, record, |chunk| {
            crc.update(chunk);
            Ok(())
        });
    });
    sum?;
    to.write(flash, target, &head)?;
    let mut chunk = Zeroizing::new([0; CHUNK]);
    let mut done = 0;
    while done < padded(record.len) {
        let part = chunk
            .get_mut(..CHUNK.min(padded(record.len) - done))
            .unwrap_or_default();
        from.read(flash, record.value_at() + done, part)?;
        to.write(flash, target + RECORD_HEAD + done, part)?;
        done += part.len();
    }
    Ok(target + RECORD_HEAD + padded(record.len))
}
