//! The device's end of a line with T=1.

use super::{BLOCK_MAX, Timing};
use crate::atr::BlockParameters;
use crate::block::{self, Collector, Shape};
use crate::{Ended, Fault, Micros};

/// A device that speaks T=1, for commands and answers of up to `APDU` bytes.
#[derive(Clone, Debug)]
pub struct Device<const APDU: usize> {
    shape: Shape,
    timing: Timing,
    blocks: block::Device<APDU>,
    line: Collector<BLOCK_MAX>,
    waits_until: Option<Micros>,
}

impl<const APDU: usize> Device<APDU> {
    /// A device beside a card that was reset and has sent an ATR with these parameters. NAD is 00, or another that the reader announces.
    #[must_use]
    pub fn new(nad: u8, parameters: BlockParameters, timing: Timing) -> Self {
        let shape = if parameters.crc { Shape::Crc } else { Shape::Lrc };
        let blocks = block::Device::new(shape, nad, u16::from(parameters.ifsc));
        Self {
            shape,
            timing,
            blocks,
            line: Collector::default(),
            waits_until: None,
        }
    }

    /// Begins an exchange; false while another is under way.
    pub fn start(&mut self, command: &[u8]) -> bool {
        self.blocks.start(command)
    }

    /// Says the longest INF that this device takes; false while an exchange is under way.
    pub fn ask_ifs(&mut self, ifsd: u8) -> bool {
        self.blocks.ask_ifs(u16::from(ifsd))
    }

    /// Something is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.blocks.is_busy()
    }

    /// The card was reset: what is under way ends, as not run or unknown.
    pub fn reset(&mut self) {
        self.blocks.reset();
        self.line.clear();
        self.waits_until = None;
    }

    /// Takes characters.
    pub fn hear(&mut self, now: Micros, bytes: &[u8]) {
        self.line.push(self.shape, now, bytes);
        self.expire(now);
    }

    /// Looks at the time: [`Device::deadline`] says when.
    pub fn expire(&mut self, now: Micros) {
        if self
            .line
            .deadline(self.shape, self.timing.guard, self.timing.cwt)
            .is_some_and(|at| at <= now)
        {
            self.blocks.hear(self.line.block(self.shape));
            self.line.clear();
        } else if self.line.is_empty() && self.waits_until.is_some_and(|at| at <= now) {
            self.waits_until = None;
            self.blocks.expire();
        }
        if !self.blocks.is_busy() {
            self.waits_until = None;
        }
    }

    /// The next moment at which something happens of itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        self.line
            .deadline(self.shape, self.timing.guard, self.timing.cwt)
            .or(self.waits_until)
    }

    /// The block that is to be sent, written to `out`. The waiting time begins now.
    pub fn say(&mut self, now: Micros, out: &mut [u8; BLOCK_MAX]) -> Option<usize> {
        let multiplier = u64::from(self.blocks.multiplier());
        let len = self.blocks.write(out)?;
        self.waits_until = self
            .blocks
            .is_busy()
            .then(|| now.after(self.timing.bwt.saturating_mul(multiplier)));
        Some(len)
    }

    /// How the exchange ended; none while it is under way.
    #[must_use]
    pub fn ended(&self) -> Option<Ended<'_>> {
        self.blocks.ended()
    }

    /// What an S request was answered with; none while it is under way.
    #[must_use]
    pub fn asked(&self) -> Option<Result<&[u8], Fault>> {
        self.blocks.asked()
    }
}
