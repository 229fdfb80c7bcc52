//! Characters of a line made into blocks.

use zeroize::Zeroize;

use super::{Bad, Block, Shape};
use crate::Micros;

/// Collects the characters of one block. A block is at its end by its own LEN, and by a short silence after it where the line has one; what is damaged is at its end by a long silence (CWT).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector<const BLOCK: usize> {
    bytes: [u8; BLOCK],
    len: usize,
    /// It cannot be a block any more: whatever comes until the silence belongs to it.
    spoilt: bool,
    last: Micros,
}

impl<const BLOCK: usize> Default for Collector<BLOCK> {
    fn default() -> Self {
        Self {
            bytes: [0; BLOCK],
            len: 0,
            spoilt: false,
            last: Micros(0),
        }
    }
}

impl<const BLOCK: usize> Collector<BLOCK> {
    /// Forgets what has come.
    pub fn clear(&mut self) {
        self.bytes.zeroize();
        self.len = 0;
        self.spoilt = false;
    }

    /// Nothing has come since the last block.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0 && !self.spoilt
    }

    /// Takes characters that came in one go.
    pub fn push(&mut self, shape: Shape, now: Micros, bytes: &[u8]) {
        for byte in bytes {
            self.last = now;
            self.spoilt |= self.is_whole(shape);
            match self.bytes.get_mut(self.len) {
                Some(slot) if !self.spoilt => *slot = *byte,
                _ => {
                    self.spoilt = true;
                    continue;
                }
            }
            self.len += 1;
            let length = shape.length(self.collected());
            self.spoilt |=
                length.is_err() || length.is_ok_and(|length| length.is_some_and(|length| length > BLOCK));
        }
    }

    fn collected(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn is_whole(&self, shape: Shape) -> bool {
        !self.spoilt
            && shape.length(self.collected()) == Ok(Some(self.len))
            && Block::parse(shape, self.collected()) != Err(Bad::Check)
    }

    /// When what is here is at its end: `guard` after a whole block, `gap` after anything else; never in the moment in which it came, so that what has come with it is seen.
    #[must_use]
    pub fn deadline(&self, shape: Shape, guard: u64, gap: u64) -> Option<Micros> {
        let after = if self.is_whole(shape) { guard } else { gap };
        (!self.is_empty()).then(|| self.last.after(after.max(1)))
    }

    /// What has come, at its end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn block(&self, shape: Shape) -> Result<Block<'_>, Bad> {
        if self.spoilt {
            return Err(Bad::Other);
        }
        Block::parse(shape, self.collected())
    }
}

impl<const BLOCK: usize> Drop for Collector<BLOCK> {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}
