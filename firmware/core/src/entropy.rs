//! The health of a random source: the two tests of NIST SP 800-90B, 4.4, over its bits, and one for a source that says the same again.

use sekisho_keys::Rng;

/// A bit after as many equal ones fails the repetition count test: 1 + ceil(20 / H) for a source of H = 0.5 bits in each, wrong once in 2^20 (4.4.1).
const REPETITIONS: u32 = 41;
/// Bits of a window of the adaptive proportion test (4.4.2).
const WINDOW: u32 = 1024;
/// So many bits of a window like its first fail it: 1 + critbinom(1024, 2^-0.5, 1 - 2^-20), for the same source.
const PROPORTION: u32 = 793;
/// Bytes of a block, none of which comes again among the last [`KEPT`].
const BLOCK: usize = 8;
const KEPT: usize = 8;
/// Bytes that are tested before the first is given out: 1,024 samples (4.3).
pub(crate) const START: usize = 128;

/// The source is not random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unhealthy;

/// The tests that run over all that a source gives.
#[derive(Debug)]
pub struct Health {
    last: u8,
    repeated: u32,
    first: u8,
    seen: u32,
    like_first: u32,
    block: [u8; BLOCK],
    filled: usize,
    kept: [[u8; BLOCK]; KEPT],
    blocks: usize,
}

impl Health {
    /// Nothing has been seen.
    pub const fn new() -> Self {
        Self {
            last: 2,
            repeated: 0,
            first: 2,
            seen: 0,
            like_first: 0,
            block: [0; BLOCK],
            filled: 0,
            kept: [[0; BLOCK]; KEPT],
            blocks: 0,
        }
    }

    /// Looks at a byte.
    ///
    /// # Errors
    /// [`Unhealthy`].
    pub fn see(&mut self, byte: u8) -> Result<(), Unhealthy> {
        let bits = (0..8).try_for_each(|n| self.see_bit(byte >> n & 1));
        bits.and(self.see_block(byte))
    }

    fn see_bit(&mut self, bit: u8) -> Result<(), Unhealthy> {
        self.repeated = if bit == self.last { self.repeated + 1 } else { 1 };
        self.last = bit;
        if self.seen == 0 {
            (self.first, self.like_first) = (bit, 0);
        }
        self.like_first += u32::from(bit == self.first);
        self.seen = (self.seen + 1) % WINDOW;
        if self.repeated >= REPETITIONS || self.like_first >= PROPORTION {
            return Err(Unhealthy);
        }
        Ok(())
    }

    fn see_block(&mut self, byte: u8) -> Result<(), Unhealthy> {
        if let Some(place) = self.block.get_mut(self.filled) {
            *place = byte;
        }
        self.filled += 1;
        if self.filled < BLOCK {
            return Ok(());
        }
        self.filled = 0;
        let known = self.kept.iter().take(self.blocks);
        let is_again = known.fold(false, |found, kept| found | (*kept == self.block));
        self.kept.rotate_right(1);
        if let Some(first) = self.kept.first_mut() {
            *first = self.block;
        }
        self.blocks = (self.blocks + 1).min(KEPT);
        if is_again { Err(Unhealthy) } else { Ok(()) }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

/// What gives random bytes, and what to do when they are none.
pub trait Source {
    /// The next byte.
    fn byte(&mut self) -> u8;

    /// The source is not random: resets the chip.
    fn fail(&mut self) -> !;
}

/// A source whose bytes are tested.
#[derive(Debug)]
pub struct Checked<S> {
    source: S,
    health: Health,
}

impl<S: Source> Checked<S> {
    /// A source that has not been looked at.
    pub const fn new(source: S) -> Self {
        Self {
            source,
            health: Health::new(),
        }
    }

    /// Tests it for the first time, at the chip's start; what it has given is thrown away.
    pub fn start(&mut self) {
        for _ in 0..START {
            self.byte();
        }
    }

    fn byte(&mut self) -> u8 {
        let byte = self.source.byte();
        if self.health.see(byte).is_err() {
            self.source.fail();
        }
        byte
    }
}

impl<S: Source> Rng for Checked<S> {
    fn fill(&mut self, out: &mut [u8]) {
        out.fill_with(|| self.byte());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xorshift64*, with one bit in so many set in any case.
    fn bytes(bias: u64) -> impl FnMut() -> u8 {
        let mut state = 1_u64;
        move || {
            (0..8).fold(0, |byte, _| {
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                let word = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
                byte << 1 | u8::from(word % 1000 < bias)
            })
        }
    }

    /// Bytes until it is found unhealthy.
    fn found(mut next: impl FnMut() -> u8, most: usize) -> Option<usize> {
        let mut health = Health::new();
        (0..most).find(|_| health.see(next()).is_err())
    }

    #[test]
    fn a_good_source_passes() {
        assert_eq!(found(bytes(500), 1 << 20), None);
        assert_eq!(found(bytes(600), 1 << 18), None, "a little biased");
    }

    #[test]
    fn stuck_biased_and_repeating_sources_are_found() {
        assert_eq!(found(|| 0, START), Some(5));
        assert_eq!(found(|| 0xFF, START), Some(5));
        assert!(found(bytes(900), 4 * START).is_some(), "nine ones in ten");
        assert!(found(bytes(100), 4 * START).is_some());
        for period in [1_usize, 2, 3, 5, 7, 8, 16, 32, 64] {
            let mut good = bytes(500);
            let pattern: Vec<u8> = (0..period).map(|_| good()).collect();
            let mut at = (0..).map(|n| pattern[n % period]);
            assert!(found(|| at.next().unwrap(), START).is_some(), "period {period}");
        }
    }

    #[test]
    fn no_block_comes_again_among_the_last_eight() {
        for distance in 1..=2 * KEPT {
            let mut good = bytes(500);
            let blocks: Vec<Vec<u8>> = (0..distance)
                .map(|_| (0..BLOCK).map(|_| good()).collect())
                .collect();
            let stream: Vec<u8> = [blocks.concat(), blocks[0].clone()].concat();
            let mut at = stream.into_iter();
            let is_found = found(|| at.next().unwrap(), (distance + 1) * BLOCK).is_some();
            assert_eq!(is_found, distance <= KEPT, "distance {distance}");
        }
    }
}
