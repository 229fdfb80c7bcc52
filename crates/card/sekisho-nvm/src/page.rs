//! The pages: where their bytes are, and their heads.

use core::ops::Range;

use zeroize::Zeroizing;

use crate::Error;
use crate::crc::Crc32;
use crate::flash::{Flash, WORD, is_blank};
use crate::record::{CHUNK, RECORD_HEAD, Record};

/// "Sk" and format 02 with a byte that is not FF.
const MAGIC: u32 = 0x536B_0002;
/// Pages that a store has at most: what a slot of the index reaches in pages of 4 KiB.
pub(crate) const PAGES_MAX: usize = 1024;
/// Pages that are free at any time but while one is being compacted.
pub(crate) const SPARE: usize = 2;
/// Bytes of a page that are not counted as room: what one commit may write however full the store is, and the two records of its own that the store adds.
const SLACK: usize = 1220;
/// Bytes of the longest value.
const VALUE_MAX: usize = 1024;
/// Bytes of a head without its map of pages.
const FIXED: usize = 24;
const HEAD_MAX: usize = FIXED + PAGES_MAX / 8;

/// Where a transaction was cut: what stands in the page from the offset on does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) page: usize,
    /// Offset in the store.
    pub(crate) at: usize,
}

/// A page's head.
pub(crate) struct Head {
    pub(crate) sequence: u32,
    pub(crate) cut: Option<Cut>,
    /// Another page follows.
    pub(crate) closed: bool,
    /// The store was being made anew.
    pub(crate) unmade: bool,
    bytes: [u8; HEAD_MAX],
}

impl Head {
    /// Whether a page was in use when this one was opened.
    pub(crate) fn has(&self, page: usize) -> bool {
        let byte = self.bytes.get(12 + page / 8).copied().unwrap_or_default();
        byte & 1 << (page % 8) != 0
    }
}

/// The pages of a store. Offsets are bytes from the beginning of its first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) first: usize,
    pub(crate) pages: usize,
    pub(crate) size: usize,
}

impl Geometry {
    /// No pages.
    pub(crate) const NONE: Self = Self {
        first: 0,
        pages: 0,
        size: 0,
    };

    /// The pages of a store, if they are enough and large enough.
    pub(crate) fn of<F: Flash>(
        flash: &F,
        pages: &Range<usize>,
        tables: usize,
    ) -> Result<Self, Error<F::Error>> {
        let geometry = Self {
            first: pages.start,
            pages: pages.len(),
            size: flash.page_size(),
        };
        let is_sound = geometry.size.is_multiple_of(WORD)
            && geometry.pages > SPARE + 1
            && geometry.pages <= tables.min(PAGES_MAX)
            && geometry.size <= 1 << 16
            && geometry.size >= geometry.head_len() + 96;
        if pages.end > flash.pages() || !is_sound {
            return Err(Error::Geometry);
        }
        Ok(geometry)
    }

    /// Bytes of a page's head.
    pub(crate) const fn head_len(&self) -> usize {
        FIXED + self.pages.div_ceil(32) * WORD
    }

    /// Bytes of a page behind its head.
    pub(crate) const fn body(&self) -> usize {
        self.size.saturating_sub(self.head_len())
    }

    /// Bytes that records can take in all.
    pub(crate) const fn capacity(&self) -> usize {
        let third = self.usable() / 3;
        let slack = if third < SLACK { third } else { SLACK };
        // And the head of a directory.
        self.pages.saturating_sub(SPARE) * self.usable().saturating_sub(slack + RECORD_HEAD)
    }

    /// Bytes of the longest value.
    pub(crate) const fn value_max(&self) -> usize {
        // In a page of its own: with the word behind it, and a directory of one entry.
        let most = self.usable().saturating_sub(2 * (RECORD_HEAD + WORD));
        if most < VALUE_MAX { most } else { VALUE_MAX }
    }

    pub(crate) const fn page_of(&self, at: usize) -> usize {
        at / self.size
    }

    /// Offset of a page's first record.
    pub(crate) const fn start(&self, page: usize) -> usize {
        page * self.size + self.head_len()
    }

    /// Offset behind a page.
    pub(crate) const fn end(&self, page: usize) -> usize {
        (page + 1) * self.size
    }

    pub(crate) fn read<F: Flash>(&self, flash: &F, at: usize, out: &mut [u8]) -> Result<(), Error<F::Error>> {
        if at.saturating_add(out.len()) > self.pages * self.size {
            return Err(Error::Corrupted);
        }
        flash.read(self.first * self.size + at, out).map_err(Error::Flash)
    }

    pub(crate) fn write<F: Flash>(
        &self,
        flash: &mut F,
        at: usize,
        bytes: &[u8],
    ) -> Result<(), Error<F::Error>> {
        if at.saturating_add(bytes.len()) > self.pages * self.size {
            return Err(Error::Corrupted);
        }
        flash
            .write(self.first * self.size + at, bytes)
            .map_err(Error::Flash)
    }

    pub(crate) fn erase<F: Flash>(&self, flash: &mut F, page: usize) -> Result<(), Error<F::Error>> {
        flash.erase(self.first + page).map_err(Error::Flash)
    }

    /// Whether the page is FF from `at` on.
    pub(crate) fn blank_from<F: Flash>(
        &self,
        flash: &F,
        at: usize,
        page: usize,
    ) -> Result<bool, Error<F::Error>> {
        is_blank(
            flash,
            self.first * self.size + at,
            self.end(page).saturating_sub(at),
        )
    }

    /// The head of a page, if it is valid.
    pub(crate) fn head<F: Flash>(&self, flash: &F, page: usize) -> Result<Option<Head>, Error<F::Error>> {
        let mut bytes = [0; HEAD_MAX];
        let len = self.head_len();
        self.read(flash, page * self.size, bytes.get_mut(..len).unwrap_or_default())?;
        let word = |at: usize| {
            let mut word = [0; WORD];
            word.copy_from_slice(bytes.get(at..at + WORD).unwrap_or(&[0; WORD]));
            u32::from_be_bytes(word)
        };
        let mut crc = Crc32::new();
        crc.update(bytes.get(..len - 12).unwrap_or_default());
        if word(0) != MAGIC || word(len - 12) != crc.finish() {
            return Ok(None);
        }
        let cut = match word(8) {
            u32::MAX => None,
            cut => {
                let [a, b, c, d] = cut.to_be_bytes();
                let page = usize::from(u16::from_be_bytes([a, b]));
                let offset = usize::from(u16::from_be_bytes([c, d])) * WORD;
                Some(Cut {
                    page,
                    at: page * self.size + offset,
                })
            }
        };
        Ok(Some(Head {
            sequence: word(4),
            cut,
            closed: word(len - 8) != u32::MAX,
            unmade: word(len - 4) == 0,
            bytes,
        }))
    }

    /// Writes the head of a page: `in_use` says which pages are.
    pub(crate) fn write_head<F: Flash>(
        &self,
        flash: &mut F,
        page: usize,
        sequence: u32,
        cut: Option<Cut>,
        in_use: impl Fn(usize) -> bool,
    ) -> Result<(), Error<F::Error>> {
        let mut bytes = [0; HEAD_MAX];
        let len = self.head_len();
        let cut = cut.map_or(Some([0xFF; 4]), |cut| {
            let [a, b] = u16::try_from(cut.page).ok()?.to_be_bytes();
            let [c, d] = u16::try_from(cut.at % self.size / WORD).ok()?.to_be_bytes();
            Some([a, b, c, d])
        });
        let cut = cut.ok_or(Error::Geometry)?;
        let fields = MAGIC
            .to_be_bytes()
            .into_iter()
            .chain(sequence.to_be_bytes())
            .chain(cut);
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        for page in (0..self.pages).filter(|page| in_use(*page)) {
            if let Some(byte) = bytes.get_mut(12 + page / 8) {
                *byte |= 1 << (page % 8);
            }
        }
        let mut crc = Crc32::new();
        crc.update(bytes.get(..len - 12).unwrap_or_default());
        if let Some(sum) = bytes.get_mut(len - 12..len - 8) {
            sum.copy_from_slice(&crc.finish().to_be_bytes());
        }
        self.write(flash, page * self.size, bytes.get(..len - 8).unwrap_or_default())
    }

    /// Whether a page's head says that another page follows.
    pub(crate) fn is_closed<F: Flash>(&self, flash: &F, page: usize) -> Result<bool, Error<F::Error>> {
        Ok(self.head(flash, page)?.is_some_and(|head| head.closed))
    }

    /// Says in a page's head that another page follows, if that is not said yet.
    pub(crate) fn close<F: Flash>(&self, flash: &mut F, page: usize) -> Result<(), Error<F::Error>> {
        self.mark(flash, page * self.size + self.head_len() - 8)
    }

    /// Says in the head of a store's last page that the store is being made anew.
    pub(crate) fn unmake<F: Flash>(&self, flash: &mut F, page: usize) -> Result<(), Error<F::Error>> {
        self.mark(flash, page * self.size + self.head_len() - 4)?;
        self.close(flash, page)
    }

    /// A word that something has been begun to be written in is left as it is: it would be the second time, and a cut the third.
    fn mark<F: Flash>(&self, flash: &mut F, at: usize) -> Result<(), Error<F::Error>> {
        let mut word = [0; WORD];
        self.read(flash, at, &mut word)?;
        if word == [0xFF; WORD] {
            self.write(flash, at, &[0; WORD])?;
        }
        Ok(())
    }

    /// Gives a record's value chunk by chunk.
    pub(crate) fn stream<F: Flash>(
        &self,
        flash: &F,
        record: &Record,
        mut each: impl FnMut(&[u8]) -> Result<(), Error<F::Error>>,
    ) -> Result<(), Error<F::Error>> {
        let mut chunk = Zeroizing::new([0; CHUNK]);
        let mut done = 0;
        while done < record.len() {
            let part = chunk
                .get_mut(..CHUNK.min(record.len() - done))
                .unwrap_or_default();
            self.read(flash, record.value_at() + done, part)?;
            each(part)?;
            done += part.len();
        }
        Ok(())
    }

    /// Whether the record's sum agrees with its bytes.
    pub(crate) fn is_valid<F: Flash>(&self, flash: &F, record: &Record) -> Result<bool, Error<F::Error>> {
        let mut sum = Ok(());
        let head = record.name.head(|crc| {
            sum = self.stream(flash, record, |chunk| {
                crc.update(chunk);
                Ok(())
            });
        });
        sum?;
        Ok(head.ends_with(&record.crc.to_be_bytes()))
    }

    /// Writes zeros over a record: over its sum and value first, then over its name, so that whose it was is known as long as anything of it stands.
    pub(crate) fn wipe<F: Flash>(&self, flash: &mut F, record: &Record) -> Result<(), Error<F::Error>> {
        let mut at = record.at + 8;
        while at < record.end() {
            let len = CHUNK.min(record.end() - at);
            self.write(flash, at, [0; CHUNK].get(..len).unwrap_or_default())?;
            at += len;
        }
        self.write(flash, record.at, &[0; 8])
    }

    /// Writes zeros over each word of `range` that is neither wiped nor blank.
    pub(crate) fn blot<F: Flash>(&self, flash: &mut F, range: Range<usize>) -> Result<(), Error<F::Error>> {
        for at in range.step_by(WORD) {
            let mut word = [0; WORD];
            self.read(flash, at, &mut word)?;
            if word != [0; WORD] && word != [0xFF; WORD] {
                self.write(flash, at, &[0; WORD])?;
            }
        }
        Ok(())
    }
}
