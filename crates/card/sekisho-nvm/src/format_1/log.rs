//! One half of the store: where its bytes are, and how its records read.

use crate::Error;
use crate::crc::{Crc32, crc8};
use crate::flash::{Flash, WORD, is_blank};

/// "Sk" and format 01 with two bytes that are not FF.
const MAGIC: u32 = 0x536B_0001;
/// Bytes of a half's head.
pub(crate) const HALF_HEAD: usize = 16;
/// Bytes of a record's head.
pub(crate) const RECORD_HEAD: usize = 12;
/// Bytes copied or summed at a time.
pub(crate) const CHUNK: usize = 64;

const PUT: u8 = 0x01;
const REMOVE: u8 = 0x02;
const LAST: u8 = 0x10;

/// Which operation a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Put,
    Remove,
}

/// A record's head, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Offset of the head in the half.
    pub(crate) at: usize,
    /// Container, kind (a byte each) and index.
    pub(crate) key: u32,
    pub(crate) len: usize,
    pub(crate) kind: Kind,
    /// Whether it ends a transaction.
    pub(crate) last: bool,
    /// The stored sum; zero when wiped.
    pub(crate) crc: u32,
}

impl Record {
    /// Offset of the value.
    pub(crate) const fn value_at(&self) -> usize {
        self.at + RECORD_HEAD
    }

    /// Offset behind the record.
    pub(crate) const fn end(&self) -> usize {
        self.value_at() + padded(self.len)
    }

    pub(crate) const fn is_wiped(&self) -> bool {
        self.crc == 0
    }
}

/// `len` in whole words.
pub(crate) const fn padded(len: usize) -> usize {
    len.next_multiple_of(WORD)
}

/// What stands at an offset.
pub(crate) enum Found {
    /// FF up to the end of the half.
    Free,
    /// A record whose head is whole.
    Record(Record),
    /// Neither.
    Broken,
}

/// A half: a run of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Half {
    pub(crate) first_page: usize,
    pub(crate) pages: usize,
    pub(crate) page_size: usize,
}

impl Half {
    pub(crate) const fn len(&self) -> usize {
        self.pages * self.page_size
    }

    const fn base(&self) -> usize {
        self.first_page * self.page_size
    }

    pub(crate) fn read<F: Flash>(&self, flash: &F, at: usize, out: &mut [u8]) -> Result<(), Error<F::Error>> {
        if at + out.len() > self.len() {
            return Err(Error::Corrupted);
        }
        flash.read(self.base() + at, out).map_err(Error::Flash)
    }

    pub(crate) fn write<F: Flash>(
        &self,
        flash: &mut F,
        at: usize,
        bytes: &[u8],
    ) -> Result<(), Error<F::Error>> {
        if at + bytes.len() > self.len() {
            return Err(Error::Corrupted);
        }
        flash.write(self.base() + at, bytes).map_err(Error::Flash)
    }

    pub(crate) fn blank_from<F: Flash>(&self, flash: &F, at: usize) -> Result<bool, Error<F::Error>> {
        is_blank(flash, self.base() + at, self.len().saturating_sub(at))
    }

    /// Erases every page.
    pub(crate) fn erase<F: Flash>(&self, flash: &mut F) -> Result<(), Error<F::Error>> {
        (self.first_page..self.first_page + self.pages)
            .try_for_each(|page| flash.erase(page))
            .map_err(Error::Flash)
    }

    /// Erases the pages that are not blank: wipes them, but says nothing of a page that an erasure cut short has left looking blank.
    pub(crate) fn wipe_pages<F: Flash>(&self, flash: &mut F) -> Result<(), Error<F::Error>> {
        for page in self.first_page..self.first_page + self.pages {
            if !is_blank(flash, page * self.page_size, self.page_size)? {
                flash.erase(page).map_err(Error::Flash)?;
            }
        }
        Ok(())
    }

    /// The epoch, if the head is valid.
    pub(crate) fn epoch<F: Flash>(&self, flash: &F) -> Result<Option<u32>, Error<F::Error>> {
        let mut head = [0; HALF_HEAD];
        self.read(flash, 0, &mut head)?;
        let epoch = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        Ok((head == Self::head(epoch)).then_some(epoch))
    }

    pub(crate) fn write_head<F: Flash>(&self, flash: &mut F, epoch: u32) -> Result<(), Error<F::Error>> {
        self.write(flash, 0, &Self::head(epoch))
    }

    fn head(epoch: u32) -> [u8; HALF_HEAD] {
        let mut crc = Crc32::new();
        crc.update(&MAGIC.to_be_bytes());
        crc.update(&epoch.to_be_bytes());
        let mut head = [0xFF; HALF_HEAD];
        let fields = MAGIC
            .to_be_bytes()
            .into_iter()
            .chain(epoch.to_be_bytes())
            .chain([0xFF; 4]);
        for (byte, field) in head.iter_mut().zip(fields.chain(crc.finish().to_be_bytes())) {
            *byte = field;
        }
        head
    }

    /// What stands at `at`.
    pub(crate) fn find<F: Flash>(&self, flash: &F, at: usize) -> Result<Found, Error<F::Error>> {
        if at + RECORD_HEAD > self.len() {
            let blank = self.blank_from(flash, at)?;
            return Ok(if blank { Found::Free } else { Found::Broken });
        }
        let mut head = [0; RECORD_HEAD];
        self.read(flash, at, &mut head)?;
        if head == [0xFF; RECORD_HEAD] {
            return Ok(if self.blank_from(flash, at)? {
                Found::Free
            } else {
                Found::Broken
            });
        }
        let [k0, k1, k2, k3, l0, l1, kind, check, c0, c1, c2, c3] = head;
        let parsed = match kind & !LAST {
            PUT => Some(Kind::Put),
            REMOVE => Some(Kind::Remove),
            _ => None,
        };
        let record = parsed
            .filter(|_| crc8(&[k0, k1, k2, k3, l0, l1, kind]) == check)
            .map(|parsed| Record {
                at,
                key: u32::from_be_bytes([k0, k1, k2, k3]),
                len: usize::from(u16::from_be_bytes([l0, l1])),
                kind: parsed,
                last: kind & LAST != 0,
                crc: u32::from_be_bytes([c0, c1, c2, c3]),
            });
        Ok(match record {
            Some(record) if record.end() <= self.len() => Found::Record(record),
            _ => Found::Broken,
        })
    }

    /// The record at `at`, where one is known to be.
    pub(crate) fn record<F: Flash>(&self, flash: &F, at: usize) -> Result<Record, Error<F::Error>> {
        match self.find(flash, at)? {
            Found::Record(record) => Ok(record),
            Found::Free | Found::Broken => Err(Error::Corrupted),
        }
    }

    /// The head of a record, its sum included: `value` adds the value to it.
    pub(crate) fn record_head(
        key: u32,
        len: u16,
        kind: Kind,
        last: bool,
        value: impl FnOnce(&mut Crc32),
    ) -> [u8; RECORD_HEAD] {
        let [k0, k1, k2, k3] = key.to_be_bytes();
        let [l0, l1] = len.to_be_bytes();
        let kind = match kind {
            Kind::Put => PUT,
            Kind::Remove => REMOVE,
        } | if last { LAST } else { 0 };
        let check = crc8(&[k0, k1, k2, k3, l0, l1, kind]);
        let mut crc = Crc32::new();
        crc.update(&[k0, k1, k2, k3, l0, l1, kind, check]);
        value(&mut crc);
        let [c0, c1, c2, c3] = crc.finish().to_be_bytes();
        [k0, k1, k2, k3, l0, l1, kind, check, c0, c1, c2, c3]
    }

    /// Whether the record's sum agrees with its bytes.
    pub(crate) fn is_valid<F: Flash>(&self, flash: &F, record: &Record) -> Result<bool, Error<F::Error>> {
        let mut head = [0; 8];
        self.read(flash, record.at, &mut head)?;
        let mut crc = Crc32::new();
        crc.update(&head);
        self.stream(flash, record, |chunk| {
            crc.update(chunk);
            Ok(())
        })?;
        Ok(crc.finish() == record.crc)
    }

    /// Gives the value chunk by chunk.
    pub(crate) fn stream<F: Flash>(
        &self,
        flash: &F,
        record: &Record,
        mut each: impl FnMut(&[u8]) -> Result<(), Error<F::Error>>,
    ) -> Result<(), Error<F::Error>> {
        let mut chunk = zeroize::Zeroizing::new([0; CHUNK]);
        let mut done = 0;
        while done < record.len {
            let part = chunk.get_mut(..CHUNK.min(record.len - done)).unwrap_or_default();
            self.read(flash, record.value_at() + done, part)?;
            each(part)?;
            done += part.len();
        }
        Ok(())
    }

    /// Whether sum and value are zero.
    pub(crate) fn is_wiped<F: Flash>(&self, flash: &F, record: &Record) -> Result<bool, Error<F::Error>> {
        let mut wiped = record.is_wiped();
        self.stream(flash, record, |chunk| {
            wiped &= chunk.iter().all(|byte| *byte == 0);
            Ok(())
        })?;
        Ok(wiped)
    }
}
