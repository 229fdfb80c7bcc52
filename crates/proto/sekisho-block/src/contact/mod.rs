//! A card with contacts (ISO/IEC 7816-3): ATR, PPS, then T=0 or T=1, all on one line of characters. The protocols are [`crate::t0`]'s and [`crate::t1`]'s; here is what comes before them, and which of them it is.

mod card;
mod device;

pub use card::Card;
pub use device::{Device, RESETS_MAX, Wish};

use crate::atr::{BlockParameters, Rate, Times};
use crate::{t0, t1};

/// Bytes that an end says in one go, at the most.
pub const OUT_MAX: usize = t0::OUT_MAX;
/// The longest time to the ATR, and between characters of it and of PPS, in etu at the default rate (ISO/IEC 7816-3, 8.1, 9.2).
const INITIAL_ETU: u64 = 9_600;

/// What one end reckons with on its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The card's clock, in Hz.
    pub hertz: u32,
    /// How many times the waiting times of the ATR this end waits: 1 for a card; a device may be more patient.
    pub slack: u32,
    /// It waits so many microseconds at the least. A card's has to be shorter than what the device makes of it: it asks for time within this one.
    pub least: u64,
    /// How long the line must be silent behind a status word, or a block, before it is one, in microseconds.
    pub guard: u64,
}

impl Line {
    const fn times(&self, rate: Rate) -> Times {
        Times {
            rate,
            hertz: self.hertz,
        }
    }

    fn wait(&self, micros: u64) -> u64 {
        micros.saturating_mul(self.slack.max(1).into()).max(self.least)
    }

    fn initial(&self) -> u64 {
        self.wait(self.times(Rate::DEFAULT).etu(INITIAL_ETU))
    }

    fn t0(&self, rate: Rate, wi: u8) -> t0::Timing {
        t0::Timing {
            wt: self.wait(self.times(rate).wt(wi)),
            guard: self.guard,
        }
    }

    fn t1(&self, rate: Rate, parameters: BlockParameters) -> t1::Timing {
        let times = self.times(rate);
        t1::Timing {
            cwt: self.wait(times.cwt(parameters.cwi)),
            bwt: self.wait(times.bwt(parameters.bwi)),
            guard: self.guard,
        }
    }
}
