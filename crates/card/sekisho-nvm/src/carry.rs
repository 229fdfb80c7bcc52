//! A store of format 1 becomes one of format 2.

use core::ops::Range;

use zeroize::Zeroizing;

use crate::Error;
use crate::ahead::Ahead;
use crate::flash::Flash;
use crate::format_1::{self, Store as Old};
use crate::key::Key;
use crate::record::{Kind, Name, record_size};
use crate::store::Store;
use crate::tables::{Memory, Page};

/// Bytes of the longest value that is carried over: the longest that there may be.
const VALUE_MAX: usize = 1024;
/// Records are carried over in turns, the longer ones first, so that short ones fill what those leave of a page: from these sizes on.
const TURNS: [usize; 4] = [128, 64, 32, 0];

impl<M: Memory> Store<M> {
    /// Opens the store in `pages`; one of format 1 is carried over first, its records under the keys that `name` gives for
    /// theirs (a byte each for container and kind, and the index), longer values in pieces of [`Store::value_max`], each piece an object further on. It is one of format 1 until
    /// all of it stands there in format 2, whatever the power is cut at.
    ///
    /// # Errors
    /// As [`Store::open`]; [`Error::Full`] when what is carried over does not fit into half of the pages, [`Error::Corrupted`] for a key that `name` does not know: the store stays as it was.
    pub fn open_or_carry<F: Flash>(
        flash: &mut F,
        pages: Range<usize>,
        name: impl Fn(u32) -> Option<Key>,
    ) -> Result<Self, Error<F::Error>> {
        let mut store = Self::BLANK;
        store.open_or_carry_in_place(flash, pages, name)?;
        Ok(store)
    }
}

impl Store {
    /// As [`Store::open_or_carry`], where the store stands, whatever it was before.
    ///
    /// # Errors
    /// As [`Store::open_or_carry`]: the store is not open then.
    pub fn open_or_carry_in_place<F: Flash>(
        &mut self,
        flash: &mut F,
        pages: Range<usize>,
        name: impl Fn(u32) -> Option<Key>,
    ) -> Result<(), Error<F::Error>> {
        self.begin(flash, &pages)?;
        if !format_1::has_head(flash, &pages)? || self.has_begun(flash)? {
            return self.open_in_place(flash, pages);
        }
        self.begin(flash, &pages)?;
        let carried = Old::open(flash, pages).and_then(|mut old| self.carry(flash, &mut old, name));
        self.fresh = carried.is_ok();
        carried
    }

    /// Whether there is a transaction of format 2. While there is a head of format 1, whatever else stands there has not become whole.
    fn has_begun<F: Flash>(&mut self, flash: &mut F) -> Result<bool, Error<F::Error>> {
        let flash = Ahead::new(flash);
        let survey = self.read_heads(&flash).and_then(|()| self.survey(&flash));
        match survey {
            Ok(survey) => Ok(survey.has_begun),
            Err(Error::Corrupted | Error::NotFormatted) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Copies all live records of the old store into its other half, as one transaction, and erases its own.
    fn carry<F: Flash>(
        &mut self,
        flash: &mut F,
        old: &mut Old,
        name: impl Fn(u32) -> Option<Key>,
    ) -> Result<(), Error<F::Error>> {
        let half = old.active();
        let pages = half.first_page - self.geometry.first..half.first_page - self.geometry.first + half.pages;
        // No new page is begun there.
        for page in pages.clone() {
            self.page_mut(page).sequence = u32::MAX;
        }
        self.tail = self.geometry.pages - 1;
        // Half of the pages is to be enough.
        self.lists_nothing = true;
        self.open_page(flash, None)?;
        let mut is_first = true;
        while self.carry_page(flash, old, &name, &mut is_first)? {
            self.next_page(flash)?;
        }
        let number = u16::try_from(pages.start).map_err(|_| Error::Geometry)?;
        let emptied = Name {
            kind: Kind::Emptied,
            key: Key::new(0, number, 0),
            first: is_first,
            last: true,
            len: 0,
        };
        self.append(flash, emptied, &[])?;
        // The head goes first: with it, it is a half of format 1 no more.
        for page in pages {
            *self.page_mut(page) = Page::BLANK;
            self.erase(flash, page)?;
        }
        self.lists_nothing = false;
        self.list(flash)
    }

    /// Copies what fits into the tail of what has not been copied yet; whether something is left.
    fn carry_page<F: Flash>(
        &mut self,
        flash: &mut F,
        old: &Old,
        name: &impl Fn(u32) -> Option<Key>,
        is_first: &mut bool,
    ) -> Result<bool, Error<F::Error>> {
        let mut value = Zeroizing::new([0; VALUE_MAX]);
        let mut is_left = false;
        for least in TURNS {
            let mut walk = old.walk();
            is_left = false;
            while let Some(record) = old.next_live(&mut walk, flash)? {
                let key = name(record.key).ok_or(Error::Corrupted)?;
                let mut from = 0;
                for piece in 0.. {
                    let len = self.value_max().min(record.len - from);
                    let key = Key {
                        object: key.object.saturating_add(piece),
                        ..key
                    };
                    let is_carried = self.find(flash, key, &[])?.is_some();
                    let is_taken = record_size(len) >= least && record_size(len) <= self.room();
                    if !is_carried && is_taken {
                        let value = value.get_mut(..len).ok_or(Error::TooLong)?;
                        old.read(flash, &record, from, value)?;
                        self.carry_record(flash, key, value, is_first)?;
                    }
                    is_left |= !is_carried && !is_taken;
                    from += len;
                    if from >= record.len {
                        break;
                    }
                }
            }
        }
        Ok(is_left)
    }

    fn carry_record<F: Flash>(
        &mut self,
        flash: &mut F,
        key: Key,
        value: &[u8],
        is_first: &mut bool,
    ) -> Result<(), Error<F::Error>> {
        let name = Name {
            kind: Kind::Put,
            key,
            first: *is_first,
            last: false,
            len: u16::try_from(value.len()).map_err(|_| Error::TooLong)?,
        };
        *is_first = false;
        let at = self.append(flash, name, value)?;
        let record = self.record(flash, at)?;
        self.take_up(&record);
        Ok(())
    }
}
