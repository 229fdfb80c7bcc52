//! The memory that a store works with, in the store's own type.

use crate::index::{Index, Slot};
use crate::store::Store;

/// What is known of a page. 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub(crate) sequence: u32,
    /// Words of room that its live records take.
    pub(crate) live: u16,
    /// Words of its head and records.
    pub(crate) end: u16,
    /// Entries of its directory: 0 when it has none, [`Page::NOT_LISTED`] when it has none and the index has not all of its records either.
    pub(crate) entries: u16,
    pub(crate) in_use: bool,
    /// In use: something is to be wiped in it. Not in use: an erasure has been finished since the power came on.
    pub(crate) flag: bool,
}

impl Page {
    /// More than a directory can have.
    pub(crate) const NOT_LISTED: u16 = u16::MAX;

    pub(crate) const BLANK: Self = Self {
        sequence: 0,
        live: 0,
        end: 0,
        entries: 0,
        in_use: false,
        flag: false,
    };
}

/// What an owner's live records take. 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    pub(crate) owner: u16,
    /// Bytes; 0 when the place is free.
    pub(crate) bytes: u32,
}

/// The tables, whatever their sizes. They cannot be formatted: what can be is in the table of the object's functions, and with it the whole of formatting in a chip's flash.
pub trait Tables {
    #[doc(hidden)]
    fn index(&self) -> &Index;
    #[doc(hidden)]
    fn index_mut(&mut self) -> &mut Index;
    #[doc(hidden)]
    fn pages(&self) -> &[Page];
    #[doc(hidden)]
    fn pages_mut(&mut self) -> &mut [Page];
    #[doc(hidden)]
    fn owners(&self) -> &[Owned];
    #[doc(hidden)]
    fn owners_mut(&mut self) -> &mut [Owned];
}

/// Memory for an index of `RECORDS` live records (6 bytes each; a quarter more than there are keeps look-ups short), for `PAGES` pages at most (12 bytes each) and for
/// what `OWNERS` owners take (8 bytes each). More records than it has places for are looked for on the flash, in a bounded number of reads (see the crate's page); what more owners take is counted there; more pages are refused.
#[derive(Debug)]
pub struct Ram<const RECORDS: usize, const PAGES: usize, const OWNERS: usize> {
    index: Index<[Slot; RECORDS]>,
    pages: [Page; PAGES],
    owners: [Owned; OWNERS],
}

impl<const RECORDS: usize, const PAGES: usize, const OWNERS: usize> Tables for Ram<RECORDS, PAGES, OWNERS> {
    fn index(&self) -> &Index {
        &self.index
    }

    fn index_mut(&mut self) -> &mut Index {
        &mut self.index
    }

    fn pages(&self) -> &[Page] {
        &self.pages
    }

    fn pages_mut(&mut self) -> &mut [Page] {
        &mut self.pages
    }

    fn owners(&self) -> &[Owned] {
        &self.owners
    }

    fn owners_mut(&mut self) -> &mut [Owned] {
        &mut self.owners
    }
}

/// Memory of a store: [`Ram`].
pub trait Memory: Tables + Sized + 'static {
    /// With nothing in it.
    const BLANK: Self;

    /// The store, whatever the size of its memory.
    fn of(store: &Store<Self>) -> &Store;

    /// The store, whatever the size of its memory.
    fn of_mut(store: &mut Store<Self>) -> &mut Store;
}

impl<const RECORDS: usize, const PAGES: usize, const OWNERS: usize> Memory for Ram<RECORDS, PAGES, OWNERS> {
    const BLANK: Self = Self {
        index: Index::new(),
        pages: [Page::BLANK; PAGES],
        owners: [Owned { owner: 0, bytes: 0 }; OWNERS],
    };

    fn of(store: &Store<Self>) -> &Store {
        store
    }

    fn of_mut(store: &mut Store<Self>) -> &mut Store {
        store
    }
}
