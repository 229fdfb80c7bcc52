//! The records of a half in order, each with the answer to the question whether it still counts.

use crate::flash::Flash;
use crate::log::{HALF_HEAD, Half, Record};
use crate::{Error, Key};

/// Records that one look ahead is made for.
const BATCH: usize = 16;

/// A record, and whether a newer one of its key follows.
#[derive(Clone, Copy)]
pub(crate) struct Walked {
    pub(crate) record: Record,
    pub(crate) superseded: bool,
}

/// Goes over the records before `tail`. It looks ahead for [`BATCH`] records at once: of n heads each is read n / [`BATCH`] times, not n times.
pub(crate) struct Walk {
    half: Half,
    tail: usize,
    /// Offset behind the batch.
    next: usize,
    batch: [Option<Walked>; BATCH],
    /// Position in the batch.
    index: usize,
}

impl Walk {
    pub(crate) const fn new(half: Half, tail: usize) -> Self {
        Self {
            half,
            tail,
            next: HALF_HEAD,
            batch: [None; BATCH],
            index: BATCH,
        }
    }

    /// The next record.
    pub(crate) fn next<F: Flash>(&mut self, flash: &F) -> Result<Option<Walked>, Error<F::Error>> {
        if self.index == BATCH {
            self.look_ahead(flash)?;
        }
        let walked = self.batch.get(self.index).copied().flatten();
        self.index += usize::from(walked.is_some());
        Ok(walked)
    }

    fn look_ahead<F: Flash>(&mut self, flash: &F) -> Result<(), Error<F::Error>> {
        self.batch = [None; BATCH];
        self.index = 0;
        let mut free = 0;
        let mut at = self.next;
        while at < self.tail {
            let record = self.half.record(flash, at)?;
            for walked in self.batch.iter_mut().flatten() {
                walked.superseded |= walked.record.key == record.key;
            }
            if let Some(slot) = self.batch.get_mut(free) {
                *slot = Some(Walked {
                    record,
                    superseded: false,
                });
                free += 1;
                self.next = record.end();
            }
            at = record.end();
        }
        Ok(())
    }
}

/// The newest record of `key` before `tail`.
pub(crate) fn latest<F: Flash>(
    half: Half,
    flash: &F,
    key: Key,
    tail: usize,
) -> Result<Option<Record>, Error<F::Error>> {
    let mut latest = None;
    let mut at = HALF_HEAD;
    while at < tail {
        let record = half.record(flash, at)?;
        if record.key == key {
            latest = Some(record);
        }
        at = record.end();
    }
    Ok(latest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_look_ahead_takes_no_more_stack_than_published() {
        assert!(size_of::<Walk>() <= 700, "{}", size_of::<Walk>());
    }
}
