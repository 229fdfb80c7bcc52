//! The records of a page, one after the other.

use zeroize::Zeroizing;

use crate::Error;
use crate::flash::{Flash, WORD};
use crate::page::Geometry;
use crate::record::{CHUNK, RECORD_HEAD, Record};

/// Bytes read at once.
pub(crate) const WINDOW: usize = 256;

/// A piece of a page that is no record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Skipped {
    pub(crate) at: usize,
    pub(crate) end: usize,
}

/// Goes over the records of a page, with one read for each [`WINDOW`] bytes at most. What it has passed may be wiped while it goes on.
#[derive(Debug)]
pub(crate) struct Walk {
    at: usize,
    end: usize,
    skipped: Option<Skipped>,
    /// Bytes of the page, with what values they have.
    window: Zeroizing<[u8; WINDOW]>,
    /// Offset of the window in the store, and how many bytes of it are known.
    known: (usize, usize),
}

impl Walk {
    /// Over what stands from `at` to `end`.
    pub(crate) fn new(at: usize, end: usize, skipped: Option<Skipped>) -> Self {
        Self {
            at,
            end,
            skipped,
            window: Zeroizing::new([0; WINDOW]),
            known: (at, 0),
        }
    }

    /// What is known of the bytes that follow: a record's head, if there are as many.
    fn look<F: Flash>(&mut self, geometry: &Geometry, flash: &F) -> Result<&[u8], Error<F::Error>> {
        let wanted = RECORD_HEAD.min(self.end - self.at);
        let (from, len) = self.known;
        if self.at < from || self.at + wanted > from + len {
            let len = WINDOW.min(self.end - self.at);
            self.known = (self.at, 0);
            geometry.read(flash, self.at, self.window.get_mut(..len).unwrap_or_default())?;
            self.known = (self.at, len);
        }
        let (from, len) = self.known;
        Ok(self.window.get(self.at - from..len).unwrap_or_default())
    }

    /// The next record, if it is whole.
    pub(crate) fn next<F: Flash>(
        &mut self,
        geometry: &Geometry,
        flash: &F,
    ) -> Result<Option<Record>, Error<F::Error>> {
        while self.at + WORD <= self.end {
            if let Some(skipped) = self.skipped.filter(|skipped| skipped.at == self.at) {
                self.at = skipped.end;
                continue;
            }
            let (at, end) = (self.at, self.end);
            let bytes = self.look(geometry, flash)?;
            let words = bytes.as_chunks::<WORD>().0.iter();
            let zeros = words.take_while(|word| **word == [0; WORD]).count();
            if zeros > 0 {
                self.at += zeros * WORD;
                continue;
            }
            let mut head = [0xFF; RECORD_HEAD];
            for (to, from) in head.iter_mut().zip(bytes) {
                *to = *from;
            }
            let record = Record::read(at, &head).filter(|record| record.end() <= end);
            let record = record.ok_or(Error::Corrupted)?;
            self.at = record.end();
            return Ok(Some(record));
        }
        Ok(None)
    }
}

/// Bytes of the words that are zero from `at` on, up to some number of them.
pub(crate) fn zeros<F: Flash>(
    geometry: &Geometry,
    flash: &F,
    at: usize,
    end: usize,
) -> Result<usize, Error<F::Error>> {
    let mut chunk = [0; CHUNK];
    let chunk = chunk.get_mut(..CHUNK.min(end - at)).unwrap_or_default();
    geometry.read(flash, at, chunk)?;
    let words = chunk.as_chunks::<WORD>().0.iter();
    Ok(words.take_while(|word| **word == [0; WORD]).count() * WORD)
}
