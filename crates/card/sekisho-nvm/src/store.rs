//! The store: what is known of it, and reading.

use core::ops::{Deref, DerefMut, Range};

use zeroize::Zeroize;

use crate::Error;
use crate::flash::{Flash, WORD};
use crate::index::Tag;
use crate::key::{Key, Prefix};
use crate::page::{Geometry, SPARE};
use crate::record::{Kind, RECORD_HEAD, Record};
use crate::tables::{Memory, Page, Tables};
use crate::walk::{Skipped, Walk};

/// A transactional key-value store. It holds positions only: the flash is an argument of every call, always the same one.
///
/// It is made with memory of a size, `Store<Ram<..>>`, and used as [`Store`] without: that is what it dereferences to.
///
/// After [`Error::Flash`] from a call that writes, the store is to be opened anew: it reads the state it knows of, and commits nothing.
#[derive(Debug)]
pub struct Store<M: ?Sized = dyn Tables> {
    pub(crate) geometry: Geometry,
    /// The page that is written.
    pub(crate) tail: usize,
    /// The sequence number of the tail.
    pub(crate) sequence: u32,
    /// Records that have been put into the tail.
    pub(crate) puts: usize,
    /// Records that have been written and not yet taken up.
    pub(crate) pending: usize,
    /// Pages are closed without a directory, also where one is needed.
    pub(crate) lists_nothing: bool,
    /// Bytes of room that the live records take.
    pub(crate) live: usize,
    /// A page has been erased by the commit that is going on.
    pub(crate) has_erased: bool,
    /// It has been opened and no write has failed since: what stands behind the tail is known.
    pub(crate) fresh: bool,
    /// Not every owner is in the table.
    pub(crate) more_owners: bool,
    /// While the store is opened: what a record has left whose wiping was cut.
    pub(crate) skipped: Option<Skipped>,
    pub(crate) memory: M,
}

impl<M: Memory> Deref for Store<M> {
    type Target = Store;

    fn deref(&self) -> &Store {
        M::of(self)
    }
}

impl<M: Memory> DerefMut for Store<M> {
    fn deref_mut(&mut self) -> &mut Store {
        M::of_mut(self)
    }
}

impl<M: Memory> Store<M> {
    /// A store that is not open: it has nothing, and commits nothing. What a static can hold, to be opened where it stands: all zeros, so that a chip's flash has no copy of it.
    pub const BLANK: Self = Self {
        geometry: Geometry::NONE,
        tail: 0,
        sequence: 0,
        puts: 0,
        pending: 0,
        lists_nothing: false,
        live: 0,
        has_erased: false,
        fresh: false,
        more_owners: false,
        skipped: None,
        memory: M::BLANK,
    };

    /// Makes an empty store in `pages`, erasing what is there. Cut anywhere it leaves what was there, or no store.
    ///
    /// # Errors
    /// [`Error::Geometry`] for too few or too small pages, or more than the memory is for; [`Error::Flash`].
    pub fn format<F: Flash>(flash: &mut F, pages: Range<usize>) -> Result<Self, Error<F::Error>> {
        let mut store = Self::BLANK;
        store.format_in_place(flash, pages)?;
        Ok(store)
    }
}

impl Store {
    /// What is known of a store in `pages` that has not been looked at: nothing. It is open when it is fresh.
    ///
    /// # Errors
    /// [`Error::Geometry`].
    pub(crate) fn begin<F: Flash>(&mut self, flash: &F, pages: &Range<usize>) -> Result<(), Error<F::Error>> {
        self.fresh = false;
        self.geometry = Geometry::NONE;
        self.memory.index_mut().clear();
        self.memory.pages_mut().fill(Page::BLANK);
        self.memory
            .owners_mut()
            .iter_mut()
            .for_each(|owned| owned.bytes = 0);
        (self.tail, self.sequence, self.live) = (0, 0, 0);
        (self.puts, self.pending, self.lists_nothing) = (0, 0, false);
        (self.has_erased, self.more_owners, self.skipped) = (false, false, None);
        self.geometry = Geometry::of(flash, pages, self.memory.pages().len())?;
        Ok(())
    }

    /// As [`Store::format`], where the store stands, whatever it was before.
    ///
    /// # Errors
    /// As [`Store::format`]: the store is not open then.
    pub fn format_in_place<F: Flash>(
        &mut self,
        flash: &mut F,
        pages: Range<usize>,
    ) -> Result<(), Error<F::Error>> {
        self.begin(flash, &pages)?;
        let geometry = self.geometry;
        let mut last: Option<(u32, usize)> = None;
        for page in 0..geometry.pages {
            if let Some(head) = geometry.head(flash, page)? {
                last = last.max(Some((head.sequence, page)));
            }
        }
        let last = last.map(|(_, page)| page);
        if let Some(last) = last {
            geometry.unmake(flash, last)?;
        }
        for page in (0..geometry.pages).filter(|page| Some(*page) != last).chain(last) {
            geometry.erase(flash, page)?;
            self.page_mut(page).flag = true;
        }
        // The first page is page 0.
        self.tail = geometry.pages - 1;
        self.open_page(flash, None)?;
        self.fresh = true;
        Ok(())
    }
}

impl Store {
    pub(crate) fn page(&self, page: usize) -> Page {
        self.memory.pages().get(page).copied().unwrap_or(Page::BLANK)
    }

    pub(crate) fn page_mut(&mut self, page: usize) -> &mut Page {
        let pages = self.memory.pages_mut();
        let page = page.min(pages.len().saturating_sub(1));
        #[allow(
            clippy::indexing_slicing,
            reason = "a store has pages, and `Geometry::of` no more than the table"
        )]
        &mut pages[page]
    }

    /// Offset behind the records of a page.
    pub(crate) fn end_of(&self, page: usize) -> usize {
        page * self.geometry.size + usize::from(self.page(page).end) * WORD
    }

    pub(crate) fn set_end(&mut self, page: usize, at: usize) {
        let words = at.saturating_sub(page * self.geometry.size) / WORD;
        self.page_mut(page).end = u16::try_from(words).unwrap_or(u16::MAX);
    }

    /// The page in use with the least sequence number from `from` on.
    pub(crate) fn page_from(&self, from: u32) -> Option<usize> {
        let pages = self.memory.pages().iter().enumerate().take(self.geometry.pages);
        let pages = pages.filter(|(_, page)| page.in_use && page.sequence >= from);
        pages.min_by_key(|(_, page)| page.sequence).map(|(page, _)| page)
    }

    pub(crate) fn walk(&self, page: usize) -> Walk {
        Walk::new(self.geometry.start(page), self.end_of(page), self.skipped)
    }

    /// Number of the pages that are not in use.
    pub(crate) fn free_pages(&self) -> usize {
        let pages = self.memory.pages().iter().take(self.geometry.pages);
        pages.filter(|page| !page.in_use).count()
    }

    /// The record at `at`, where one is known to be.
    pub(crate) fn record<F: Flash>(&self, flash: &F, at: usize) -> Result<Record, Error<F::Error>> {
        let mut head = [0; RECORD_HEAD];
        self.geometry.read(flash, at, &mut head)?;
        Record::read(at, &head).ok_or(Error::Corrupted)
    }

    /// The first live record that `is_wanted`, page by page: a walk over all of them.
    pub(crate) fn search<F: Flash>(
        &self,
        flash: &F,
        mut is_wanted: impl FnMut(&Record) -> bool,
    ) -> Result<Option<Record>, Error<F::Error>> {
        for page in (0..self.geometry.pages).filter(|page| self.page(*page).in_use) {
            let found = self.find_in(flash, page, &mut is_wanted)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The first record of a page that puts something and `is_wanted`.
    pub(crate) fn find_in<F: Flash>(
        &self,
        flash: &F,
        page: usize,
        mut is_wanted: impl FnMut(&Record) -> bool,
    ) -> Result<Option<Record>, Error<F::Error>> {
        let mut walk = self.walk(page);
        while let Some(record) = walk.next(&self.geometry, flash)? {
            if record.name.kind == Kind::Put && is_wanted(&record) {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// The live record of `key`, but for those at the offsets `new`.
    pub(crate) fn find<F: Flash>(
        &self,
        flash: &F,
        key: Key,
        new: &[u32],
    ) -> Result<Option<Record>, Error<F::Error>> {
        for at in self.memory.index().find(Tag::of(key)) {
            let record = self.record(flash, at)?;
            if record.name.key == key && record.name.kind == Kind::Put {
                return Ok(Some(record));
            }
        }
        if self.memory.index().is_complete() {
            return Ok(None);
        }
        self.find_beyond(flash, key, new)
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
        let Some(record) = self.find(flash, key, &[])? else {
            return Ok(None);
        };
        let out = out.get_mut(..record.len()).ok_or(Error::BufferTooSmall)?;
        self.geometry.read(flash, record.value_at(), out)?;
        let head = record.name.head(|crc| crc.update(out));
        if !head.ends_with(&record.crc.to_be_bytes()) {
            out.zeroize();
            return Err(Error::Corrupted);
        }
        Ok(Some(record.len()))
    }

    /// Length of the value of `key`, or `None` when there is no such record.
    ///
    /// # Errors
    /// [`Error::Flash`], [`Error::Corrupted`].
    pub fn len_of<F: Flash>(&self, flash: &F, key: Key) -> Result<Option<usize>, Error<F::Error>> {
        Ok(self.find(flash, key, &[])?.map(|record| record.len()))
    }

    /// The least live key above `after` (from the beginning for `None`): looks at every record.
    ///
    /// # Errors
    /// [`Error::Flash`], [`Error::Corrupted`].
    pub fn next_key<F: Flash>(&self, flash: &F, after: Option<Key>) -> Result<Option<Key>, Error<F::Error>> {
        let mut least: Option<Key> = None;
        self.search(flash, |record| {
            let key = record.name.key;
            if after.is_none_or(|after| key > after) && least.is_none_or(|least| key < least) {
                least = Some(key);
            }
            false
        })?;
        Ok(least)
    }

    /// Bytes of the store's room that the live records of an owner take, each as [`Op::cost`](crate::Op::cost) has it.
    ///
    /// # Errors
    /// [`Error::Flash`], [`Error::Corrupted`]: only when there are more owners than the memory is for, and the records are to be counted.
    pub fn used<F: Flash>(&self, flash: &F, owner: u16) -> Result<usize, Error<F::Error>> {
        let known = self.memory.owners().iter();
        let known = known
            .filter(|owned| owned.owner == owner)
            .map(|owned| owned.bytes)
            .max();
        let known = usize::try_from(known.unwrap_or_default()).unwrap_or_default();
        if known > 0 || !self.more_owners {
            return Ok(known);
        }
        let mut bytes = 0;
        self.search(flash, |record| {
            if Prefix::Owner(owner).covers(record.name.key) {
                bytes += record.cost();
            }
            false
        })?;
        Ok(bytes)
    }

    /// Bytes that records can take in all.
    pub const fn capacity(&self) -> usize {
        self.geometry.capacity()
    }

    /// Bytes that new records can take.
    pub const fn free(&self) -> usize {
        self.capacity().saturating_sub(self.live)
    }

    /// Bytes of the longest value.
    pub const fn value_max(&self) -> usize {
        self.geometry.value_max()
    }

    /// Number of pages that have been begun since the store was made: the measure of wear (see the crate's page).
    pub const fn epoch(&self) -> u32 {
        self.sequence
    }

    /// Takes a live record into account. Whether the index has it.
    pub(crate) fn take_up(&mut self, record: &Record) -> bool {
        let (page, size) = (self.geometry.page_of(record.at), record.cost());
        self.pending = self.pending.saturating_sub(1);
        let is_indexed = self
            .memory
            .index_mut()
            .insert(Tag::of(record.name.key), record.at);
        self.live += size;
        let page = self.page_mut(page);
        page.live = page
            .live
            .saturating_add(u16::try_from(size / WORD).unwrap_or(u16::MAX));
        let owner = record.name.key.owner;
        let owners = self.memory.owners_mut();
        let known = owners
            .iter()
            .position(|owned| owned.owner == owner && owned.bytes > 0);
        let place = known.or_else(|| owners.iter().position(|owned| owned.bytes == 0));
        match place.and_then(|place| owners.get_mut(place)) {
            // An owner that could not be taken up once is not known in part.
            Some(owned) if known.is_some() || !self.more_owners => {
                owned.owner = owner;
                owned.bytes += u32::try_from(size).unwrap_or_default();
            }
            _ => self.more_owners = true,
        }
        is_indexed
    }

    /// Takes a record that is not live any more out of account.
    pub(crate) fn let_go(&mut self, record: &Record) {
        let (page, size) = (self.geometry.page_of(record.at), record.cost());
        self.memory
            .index_mut()
            .remove(Tag::of(record.name.key), record.at);
        self.live = self.live.saturating_sub(size);
        let page = self.page_mut(page);
        page.live = page
            .live
            .saturating_sub(u16::try_from(size / WORD).unwrap_or(u16::MAX));
        let owner = record.name.key.owner;
        let mut owners = self.memory.owners_mut().iter_mut();
        if let Some(owned) = owners.find(|owned| owned.owner == owner && owned.bytes > 0) {
            owned.bytes = owned
                .bytes
                .saturating_sub(u32::try_from(size).unwrap_or_default());
        }
    }

    /// Begins a page: its head, and then the word in the one before. `cut` is what does not count any more in another one.
    pub(crate) fn open_page<F: Flash>(
        &mut self,
        flash: &mut F,
        cut: Option<crate::page::Cut>,
    ) -> Result<(), Error<F::Error>> {
        let count = self.geometry.pages;
        let around = (1..=count).map(|step| (self.tail + step) % count);
        // What was undone is in use until a new page says that it is not.
        let free = around.filter(|page| !self.page(*page).in_use && self.page(*page).sequence == 0);
        // One that is known to be erased if there is one; of these the next one around.
        let page = free
            .min_by_key(|page| !self.page(*page).flag)
            .ok_or(Error::Full)?;
        let sequence = self.sequence.checked_add(1).ok_or(Error::Full)?;
        if !self.page(page).flag {
            self.erase(flash, page)?;
        }
        let before = self.last_page();
        *self.page_mut(page) = Page {
            sequence,
            in_use: true,
            ..Page::BLANK
        };
        let geometry = self.geometry;
        geometry.write_head(flash, page, sequence, cut, |page| self.page(page).in_use)?;
        if let Some(before) = before {
            geometry.close(flash, before)?;
        }
        self.set_end(page, geometry.start(page));
        self.tail = page;
        self.sequence = sequence;
        self.puts = 0;
        Ok(())
    }

    /// The page in use with the highest sequence number.
    pub(crate) fn last_page(&self) -> Option<usize> {
        let pages = self.memory.pages().iter().enumerate().take(self.geometry.pages);
        let pages = pages.filter(|(_, page)| page.in_use);
        pages.max_by_key(|(_, page)| page.sequence).map(|(page, _)| page)
    }

    /// The page before the tail.
    pub(crate) fn before_tail(&self) -> Option<usize> {
        let pages = (0..self.geometry.pages).filter(|page| self.page(*page).in_use && *page != self.tail);
        pages.max_by_key(|page| self.page(*page).sequence)
    }

    /// Erases a page that is not in use.
    pub(crate) fn erase<F: Flash>(&mut self, flash: &mut F, page: usize) -> Result<(), Error<F::Error>> {
        self.geometry.erase(flash, page)?;
        self.has_erased = true;
        self.page_mut(page).flag = true;
        Ok(())
    }

    /// Whether pages are to be made free before another `count` can be begun.
    pub(crate) fn is_short(&self, count: usize) -> bool {
        count > 0 && self.free_pages() < count + SPARE
    }
}

/// Whether a record stands at one of the offsets.
pub(crate) fn is_among(record: &Record, offsets: &[u32]) -> bool {
    offsets.iter().any(|at| usize::try_from(*at) == Ok(record.at))
}
