//! Times that follow from an ATR's numbers (ISO/IEC 7816-3, 7.1, 8.3, 10.2, 11.4.3).

/// F and D, by the nibbles of TA1 or PPS1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Clock cycles of an etu at D = 1.
    pub f: u32,
    /// By how much an etu is shorter.
    pub d: u32,
}

/// Tables 7 and 8; 0 is reserved.
const F: [u32; 16] = [
    372, 372, 558, 744, 1116, 1488, 1860, 0, 0, 512, 768, 1024, 1536, 2048, 0, 0,
];
const D: [u32; 16] = [0, 1, 2, 4, 8, 16, 32, 64, 12, 20, 0, 0, 0, 0, 0, 0];

impl Rate {
    /// F = 372, D = 1.
    pub const DEFAULT: Self = Self { f: 372, d: 1 };

    /// The rate of TA1 or PPS1; none when a nibble is reserved.
    #[must_use]
    pub fn of(byte: u8) -> Option<Self> {
        let f = *F.get(usize::from(byte >> 4))?;
        let d = *D.get(usize::from(byte & 0x0F))?;
        (f != 0 && d != 0).then_some(Self { f, d })
    }
}

/// Waiting times at one rate and clock, in microseconds, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// F and D.
    pub rate: Rate,
    /// The clock, in Hz; 1 at the least is reckoned with.
    pub hertz: u32,
}

impl Times {
    fn cycles(self, cycles: u64) -> u64 {
        cycles
            .saturating_mul(1_000_000)
            .div_ceil(u64::from(self.hertz.max(1)))
    }

    /// So many etu.
    #[must_use]
    pub fn etu(self, etu: u64) -> u64 {
        self.cycles(
            etu.saturating_mul(u64::from(self.rate.f))
                .div_ceil(u64::from(self.rate.d.max(1))),
        )
    }

    /// WT, the longest time to the next character of T=0 (10.2): WI x 960 x Fi / f.
    #[must_use]
    pub fn wt(self, wi: u8) -> u64 {
        self.cycles(u64::from(wi) * 960 * u64::from(self.rate.f))
    }

    /// CWT, the longest time between characters of a block (11.4.3): 11 + 2^CWI etu.
    #[must_use]
    pub fn cwt(self, cwi: u8) -> u64 {
        self.etu(11 + (1_u64 << (cwi & 0x0F)))
    }

    /// BWT, the longest time to the first character of a card's block (11.4.3): 11 etu + 2^BWI x 960 x 372 / f.
    #[must_use]
    pub fn bwt(self, bwi: u8) -> u64 {
        self.etu(11)
            .saturating_add(self.cycles((1_u64 << (bwi & 0x0F)) * 960 * 372))
    }
}
