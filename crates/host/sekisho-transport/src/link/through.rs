//! A card that speaks a line's characters itself, as a chip does on its contacts: what comes from one side goes to the other.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;

use sekisho_block::lr1::Record;
use sekisho_block::{Micros, Power};

use super::address::wait;
use super::card_end::CardEnd;

/// Takes a chip's power away and gives it again, which is its reset, and gives the line to its contacts, on which the ATR comes first.
pub type Chip = Box<dyn FnMut() -> io::Result<UnixStream> + Send>;

pub(super) struct ThroughCard {
    chip: Chip,
    /// None without power, and when the chip is gone.
    line: Option<UnixStream>,
}

impl ThroughCard {
    pub(super) fn new(chip: Chip) -> Self {
        Self { chip, line: None }
    }
}

impl CardEnd for ThroughCard {
    fn power(&mut self, _: Micros, on: bool) {
        self.line = None;
        if on {
            // One that does not start is silent.
            self.line = (self.chip)().ok();
        }
    }

    fn hear(&mut self, _: Micros, record: Record<'_>) {
        if let (Record::Data(bytes), Some(line)) = (record, &mut self.line)
            && line.write_all(bytes).is_err()
        {
            self.line = None;
        }
    }

    fn say(&mut self, _: Micros, send: &mut dyn FnMut(Record<'_>)) -> bool {
        let Some(line) = &mut self.line else { return false };
        if !matches!(wait([Some(line.as_fd())], 0), Ok([true])) {
            return false;
        }
        let mut bytes = [0; 512];
        match line.read(&mut bytes) {
            Ok(n @ 1..) => {
                send(Record::Data(bytes.get(..n).unwrap_or_default()));
                true
            }
            _ => {
                self.line = None;
                false
            }
        }
    }

    fn line(&self) -> Option<BorrowedFd<'_>> {
        self.line.as_ref().map(|line| line.as_fd())
    }

    fn expire(&mut self, _: Micros) {}

    fn deadline(&self) -> Option<Micros> {
        None
    }

    fn command(&self) -> Option<(usize, &[u8])> {
        None
    }

    fn take(&mut self, _: Micros, _: usize) {}

    fn answer(&mut self, _: Micros, _: usize, _: &[u8]) {}

    fn power_wanted(&mut self) -> Option<(usize, Power)> {
        None
    }
}
