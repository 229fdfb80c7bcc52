//! The records of a half in order, each with the answer to the question whether it still counts.

use super::log::{HALF_HEAD, Half, Record};
use crate::Error;
use crate::flash::Flash;

/// Records that one look ahead is made for.
const BATCH: usize = 16;

/// A record, and whether a newer one of its key follows.
#[derive(Clone, Copy)]
pub(crate) struct Walked {
    pub(crate) record: Record,
    pub(crate) superseded: bool,
}

/// Goes over the records before `tail`. It looks ahead for [`BATCH`] records at once: of n
/// heads each is read n / [`BATCH`] times, not n times.
pub(crate) struct Walk {
    half: Half,
    tail: usize,
    /// Offset behind the batch.
    next: usize,
    batch: [Option<Walked>; BATCH],
    /// Position in the batch.
    position: usize,
}

impl Walk {
    pub(crate) const fn new(half: Half, tail: usize) -> Self {
        Self {
            half,
            tail,
            next: HALF_HEAD,
            batch: [None; BATCH],
            position: BATCH,
        }
    }

    /// The next record.
    pub(crate) fn next<F: Flash>(&mut self, flash: &F) -> Result<Option<Walked>, Error<F::Error>> {
        if self.position == BATCH {
            self.look_ahead(flash)?;
        }
        let walked = self.batch.get(self.position).copied().flatten();
        self.position += usize::from(walked.is_some());
        Ok(walked)
    }

    fn look_ahead<F: Flash>(&mut self, flash: &F) -> Result<(), Error<F::Error>> {
        self.batch = [None; BATCH];
        self.position = 0;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_look_ahead_takes_no_more_stack_than_published() {
        assert!(size_of::<Walk>() <= 700, "{}", size_of::<Walk>());
    }
}
