//! A store of format 1 becomes one of format 2.

use core::ops::Range;

use zeroize::Zeroizing;

use super::key::Key;
use super::ram::{Memory, Page};
use super::record::{Kind, Name, record_size};
use super::store::Store;
use crate::ahead::Ahead;
use crate::flash::Flash;
use crate::index::Slot;
use crate::{Error, store};

/// Bytes of the longest value that is carried over: the longest that there may be.
const VALUE_MAX: usize = 1024;
/// Records are carried over in turns, the longer ones first, so that short ones fill what those leave of a page: from these sizes on.
const TURNS: [usize; 4] = [128, 64, 32, 0];

/// A store of format 1, opened.
type Old = store::Store<[Slot; 0]>;

impl<M: Memory> Store<M> {
    /// Opens the store in `pages`; one of format 1 is carried over first, its records under the names that `name` gives them. It is one of format 1 until
    /// all of it stands there in format 2, whatever the power is cut at.
    ///
    /// # Errors
    /// As [`Store::open`]; [`Error::Full`] when what is carried over does not fit into half of the pages, [`Error::TooLong`] for a value that is
    /// longer than those of format 2: the store stays as it was.
    pub fn open_or_carry<F: Flash>(
        flash: &mut F,
        pages: Range<usize>,
        name: impl Fn(crate::Key) -> Key,
    ) -> Result<Self, Error<F::Error>> {
        let store = Self::blank(flash, &pages)?;
        if store::has_head(flash, &pages)? && !Self::has_begun(flash, &pages)? {
            let mut old = Old::open(flash, pages.clone())?;
            let mut store = store;
            let whole: &mut Store = &mut store;
            whole.carry(flash, &mut old, name)?;
            return Ok(store);
        }
        Self::open(flash, pages)
    }

    /// Whether there is a transaction of format 2. While there is a head of format 1, whatever else stands there has not become whole.
    fn has_begun<F: Flash>(flash: &mut F, pages: &Range<usize>) -> Result<bool, Error<F::Error>> {
        let mut store = Self::blank(flash, pages)?;
        let whole: &mut Store = &mut store;
        let flash = Ahead::new(flash);
        let survey = whole.read_heads(&flash).and_then(|()| whole.survey(&flash));
        match survey {
            Ok(survey) => Ok(survey.has_begun),
            Err(Error::Corrupted | Error::NotFormatted) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Store {
    /// Copies all live records of the old store into its other half, as one transaction, and erases its own.
    fn carry<F: Flash>(
        &mut self,
        flash: &mut F,
        old: &mut Old,
        name: impl Fn(crate::Key) -> Key,
    ) -> Result<(), Error<F::Error>> {
        let half = old.active();
        let pages = half.first_page - self.geometry.first..half.first_page - self.geometry.first + half.pages;
        // No new page is begun there.
        for page in pages.clone() {
            self.page_mut(page).sequence = u32::MAX;
        }
        self.tail = self.geometry.pages - 1;
        self.open_page(flash, None)?;
        let mut is_first = true;
        while self.carry_page(flash, old, &name, &mut is_first)? {
            self.open_page(flash, None)?;
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
        Ok(())
    }

    /// Copies what fits into the tail of what has not been copied yet; whether something is left.
    fn carry_page<F: Flash>(
        &mut self,
        flash: &mut F,
        old: &Old,
        name: &impl Fn(crate::Key) -> Key,
        is_first: &mut bool,
    ) -> Result<bool, Error<F::Error>> {
        let mut value = Zeroizing::new([0; VALUE_MAX]);
        let mut is_left = false;
        for least in TURNS {
            let mut walk = old.walk();
            is_left = false;
            while let Some(record) = old.next_live(&mut walk, flash)? {
                let key = name(record.key);
                if self.find(flash, key, &[])?.is_some() {
                    continue;
                }
                is_left = true;
                if record.len > self.value_max() {
                    return Err(Error::TooLong);
                }
                let size = record_size(record.len);
                if size < least || size > self.room() {
                    continue;
                }
                let value = value.get_mut(..record.len).ok_or(Error::TooLong)?;
                old.read(flash, &record, value)?;
                let len = u16::try_from(value.len()).map_err(|_| Error::TooLong)?;
                let put = Name {
                    kind: Kind::Put,
                    key,
                    first: *is_first,
                    last: false,
                    len,
                };
                *is_first = false;
                let at = self.append(flash, put, value)?;
                let record = self.record(flash, at)?;
                self.take_up(&record);
            }
        }
        // What was taken in the last turn was left when it was met.
        let mut walk = old.walk();
        while is_left && let Some(record) = old.next_live(&mut walk, flash)? {
            if self.find(flash, name(record.key), &[])?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
