//! The flash, and raw page ranges on it.

use core::fmt::Debug;
use core::ops::Range;

use crate::Error;

/// Bytes of a word: the unit of writing.
pub const WORD: usize = 4;

/// A flash memory. See the crate's page for what it must do when power is cut.
pub trait Flash {
    /// Why it failed.
    type Error: Debug;

    /// Bytes of a page, a multiple of [`WORD`]. Pages follow one another: addresses are bytes from the first page's first byte on.
    fn page_size(&self) -> usize;

    /// Number of pages.
    fn pages(&self) -> usize;

    /// Reads from `address`.
    ///
    /// # Errors
    /// What the flash says; a range outside it.
    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), Self::Error>;

    /// The bytes at `range`, where they stand, if the flash can be addressed like memory; `None` if it cannot, or not there, or not now: then they
    /// are [read](Self::read).
    fn mapped(&self, range: Range<usize>) -> Option<&[u8]> {
        let _ = range;
        None
    }

    /// Writes whole words, in ascending order, across pages too: turns ones into zeros. When it returns, it is done.
    ///
    /// # Errors
    /// What the flash says; a range outside it or not of whole words.
    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Turns a page to FF. When it returns, it is done.
    ///
    /// # Errors
    /// What the flash says; a page outside it.
    fn erase(&mut self, page: usize) -> Result<(), Self::Error>;
}

/// Bytes looked at in one read when looking for what is not FF.
const CHUNK: usize = 64;

/// Whether `len` bytes from `address` are FF.
pub(crate) fn is_blank<F: Flash>(flash: &F, address: usize, len: usize) -> Result<bool, Error<F::Error>> {
    let mut chunk = [0; CHUNK];
    let mut at = 0;
    while at < len {
        let part = chunk.get_mut(..CHUNK.min(len - at)).unwrap_or_default();
        flash.read(address + at, part).map_err(Error::Flash)?;
        if part.iter().any(|byte| *byte != 0xFF) {
            return Ok(false);
        }
        at += part.len();
    }
    Ok(true)
}

/// A raw range of pages beside the store: an image slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    pages: Range<usize>,
}

impl Region {
    /// The region of `pages`.
    pub const fn new(pages: Range<usize>) -> Self {
        Self { pages }
    }

    /// Bytes of the region.
    pub fn len<F: Flash>(&self, flash: &F) -> usize {
        self.pages.len() * flash.page_size()
    }

    /// Whether it has no page.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The address of `len` bytes at `offset` inside the region.
    fn address<F: Flash>(&self, flash: &F, offset: usize, len: usize) -> Result<usize, Error<F::Error>> {
        let end = offset.checked_add(len).ok_or(Error::Geometry)?;
        if end > self.len(flash) {
            Err(Error::Geometry)
        } else {
            Ok(self.pages.start * flash.page_size() + offset)
        }
    }

    /// Reads from `offset`.
    ///
    /// # Errors
    /// [`Error::Geometry`] outside the region; [`Error::Flash`].
    pub fn read<F: Flash>(&self, flash: &F, offset: usize, out: &mut [u8]) -> Result<(), Error<F::Error>> {
        let address = self.address(flash, offset, out.len())?;
        flash.read(address, out).map_err(Error::Flash)
    }

    /// `len` bytes from `offset`, where they stand; `None` outside the region, or if the flash does not [map](Flash::mapped) them.
    pub fn mapped<'f, F: Flash>(&self, flash: &'f F, offset: usize, len: usize) -> Option<&'f [u8]> {
        let address = self.address(flash, offset, len).ok()?;
        flash.mapped(address..address + len)
    }

    /// Writes whole words at `offset`, which is a multiple of [`WORD`], into a page that has been erased.
    ///
    /// # Errors
    /// [`Error::Geometry`] outside the region or off the words; [`Error::Flash`].
    pub fn write<F: Flash>(&self, flash: &mut F, offset: usize, bytes: &[u8]) -> Result<(), Error<F::Error>> {
        let address = self.address(flash, offset, bytes.len())?;
        if !offset.is_multiple_of(WORD) || !bytes.len().is_multiple_of(WORD) {
            return Err(Error::Geometry);
        }
        flash.write(address, bytes).map_err(Error::Flash)
    }

    /// Erases the page at index `page` of the region, a blank one too: an erasure that was cut may have left it looking blank.
    ///
    /// # Errors
    /// [`Error::Geometry`] outside the region; [`Error::Flash`].
    pub fn erase<F: Flash>(&self, flash: &mut F, page: usize) -> Result<(), Error<F::Error>> {
        let size = flash.page_size();
        self.address(flash, page.checked_mul(size).ok_or(Error::Geometry)?, size)?;
        flash.erase(self.pages.start + page).map_err(Error::Flash)
    }

    /// Erases every page that is not blank: nothing of what stood here is left. A page is to be [erased](Self::erase) before it is written.
    ///
    /// # Errors
    /// [`Error::Flash`].
    pub fn wipe<F: Flash>(&self, flash: &mut F) -> Result<(), Error<F::Error>> {
        let size = flash.page_size();
        for page in 0..self.pages.len() {
            let address = self.address(flash, page * size, size)?;
            if !is_blank(flash, address, size)? {
                self.erase(flash, page)?;
            }
        }
        Ok(())
    }
}
