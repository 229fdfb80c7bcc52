//! The card's end of a line with T=1.

use zeroize::Zeroize;

use super::{BLOCK_MAX, IFSD_DEFAULT, Timing};
use crate::Micros;
use crate::block::{self, Collector, Shape};

/// A card that speaks T=1, for commands and answers of up to `APDU` bytes. After a reset it is made anew.
#[derive(Clone, Debug)]
pub struct Card<const APDU: usize> {
    shape: Shape,
    timing: Timing,
    blocks: block::Card<APDU>,
    line: Collector<BLOCK_MAX>,
    /// When time is asked for, while a command runs.
    wtx_at: Option<Micros>,
}

impl<const APDU: usize> Card<APDU> {
    /// A card that was reset and has sent its ATR, which said whether blocks end with a CRC.
    #[must_use]
    pub fn new(crc: bool, timing: Timing) -> Self {
        let shape = if crc { Shape::Crc } else { Shape::Lrc };
        Self {
            shape,
            timing,
            blocks: block::Card::new(shape, IFSD_DEFAULT),
            line: Collector::default(),
            wtx_at: None,
        }
    }

    /// Takes characters.
    pub fn hear(&mut self, now: Micros, bytes: &[u8]) {
        self.line.push(self.shape, now, bytes);
        self.expire(now);
    }

    /// Looks at the time: [`Card::deadline`] says when.
    pub fn expire(&mut self, now: Micros) {
        if self
            .line
            .deadline(self.shape, self.timing.guard, self.timing.cwt)
            .is_some_and(|at| at <= now)
        {
            self.blocks.hear(self.line.block(self.shape));
            self.line.clear();
            self.wtx_at = None;
        }
        if self.blocks.is_running() {
            let at = *self.wtx_at.get_or_insert(now.after(self.timing.bwt / 2));
            if at <= now {
                self.blocks.ask_for_time(1);
                self.wtx_at = Some(now.after(self.timing.bwt / 2));
            }
        } else {
            self.wtx_at = None;
        }
    }

    /// The next moment at which something happens of itself: a block ends, or time is asked for.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        let line = self.line.deadline(self.shape, self.timing.guard, self.timing.cwt);
        [line, self.wtx_at].into_iter().flatten().min()
    }

    /// A whole command that waits to be run, once.
    #[must_use]
    pub fn command(&self) -> Option<&[u8]> {
        self.blocks.command()
    }

    /// Runs the command that waits, if one does.
    pub fn run(&mut self, run: impl FnOnce(&[u8], &mut [u8; APDU]) -> usize) {
        let mut answer = [0; APDU];
        let Some(command) = self.blocks.command() else {
            return;
        };
        let len = run(command, &mut answer);
        self.blocks.take();
        self.blocks.answer(answer.get(..len).unwrap_or_default());
        answer.zeroize();
        self.wtx_at = None;
    }

    /// The state of the blocks: for a card that runs a command while time goes on ([`block::Card::take`], [`block::Card::answer`]).
    pub const fn blocks(&mut self) -> &mut block::Card<APDU> {
        &mut self.blocks
    }

    /// The block that is to be sent, written to `out`.
    pub fn say(&mut self, out: &mut [u8; BLOCK_MAX]) -> Option<usize> {
        self.blocks.write(&[], out)
    }
}
