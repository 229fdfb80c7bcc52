//! A store of format 1: finding the half that counts, and what is live in it.

use core::ops::Range;

use zeroize::Zeroizing;

use super::log::{CHUNK, Found, HALF_HEAD, Half, Kind, RECORD_HEAD, Record, padded};
use super::walk::Walk;
use crate::Error;
use crate::ahead::Ahead;
use crate::crc::Crc32;
use crate::flash::{Flash, WORD};

/// A store of format 1.
#[derive(Debug)]
pub(crate) struct Store {
    halves: [Half; 2],
    active: usize,
    epoch: u32,
    /// Offset behind the last transaction.
    tail: usize,
}

/// What a walk over the active half has found.
struct Survey {
    /// Offset behind the last complete transaction.
    tail: usize,
    /// Something is to be cleaned.
    untidy: bool,
}

impl Store {
    /// Opens the store in `pages`, cleaning up what a power cut left.
    ///
    /// # Errors
    /// [`Error::NotFormatted`] when neither half has a head; [`Error::Corrupted`], [`Error::Geometry`], [`Error::Flash`].
    pub(crate) fn open<F: Flash>(flash: &mut F, pages: Range<usize>) -> Result<Self, Error<F::Error>> {
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
        };
        let survey = store.survey(&Ahead::new(flash))?;
        // Copies of values that a later removal would not find must not outlive a cut compaction.
        store.other().wipe_pages(&mut Ahead::new(flash))?;
        if survey.untidy {
            store.compact(flash)?;
        }
        Ok(store)
    }

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
        while let Some(walked) = walk.next(flash)? {
            if !walked.superseded && walked.record.kind == Kind::Put {
                return Ok(Some(walked.record));
            }
        }
        Ok(None)
    }

    /// Reads from a record's value, which is whole.
    pub(crate) fn read<F: Flash>(
        &self,
        flash: &F,
        record: &Record,
        from: usize,
        out: &mut [u8],
    ) -> Result<(), Error<F::Error>> {
        if !self.half().is_valid(flash, record)? {
            return Err(Error::Corrupted);
        }
        self.half().read(flash, record.value_at() + from, out)
    }

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
        self.judge(flash, &mut survey)?;
        Ok(survey)
    }

    /// Every record up to the tail is valid, or superseded; superseded ones should be wiped. Counts the live bytes.
    fn judge<F: Flash>(&mut self, flash: &Ahead<'_, F>, survey: &mut Survey) -> Result<(), Error<F::Error>> {
        let half = self.half();
        let mut walk = Walk::new(half, self.tail);
        while let Some(walked) = walk.next(flash)? {
            let record = walked.record;
            if !walked.superseded {
                if !half.is_valid(flash, &record)? {
                    return Err(Error::Corrupted);
                }
            } else if record.kind == Kind::Put {
                survey.untidy |= !half.is_wiped(flash, &record)?;
            }
        }
        Ok(())
    }

    /// Moves the live records to the other half. Before the other half's head is written nothing has changed, whatever goes wrong.
    fn compact<F: Flash>(&mut self, flash: &mut F) -> Result<(), Error<F::Error>> {
        let epoch = self.epoch.checked_add(1).ok_or(Error::Full)?;
        let (from, to) = (self.half(), self.other());
        to.erase(flash)?;
        let mut target = HALF_HEAD;
        let mut walk = Walk::new(from, self.tail);
        while let Some(walked) = walk.next(flash)? {
            if !walked.superseded && walked.record.kind == Kind::Put {
                target = copy(from, to, flash, &walked.record, target)?;
            }
        }
        to.write_head(flash, epoch)?;
        self.active = 1 - self.active;
        self.epoch = epoch;
        self.tail = target;
        // Its blank pages are blank because an erasure was finished: it was the half to move to once.
        from.wipe_pages(flash)?;
        Ok(())
    }
}

/// Whether a half has a head.
pub(crate) fn has_head<F: Flash>(flash: &F, pages: &Range<usize>) -> Result<bool, Error<F::Error>> {
    let [a, b] = halves(flash, pages.clone())?;
    Ok(a.epoch(flash)?.is_some() || b.epoch(flash)?.is_some())
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
