//! SHA-256 over a build's engine: first value, padding and length (FIPS 180-4, 5).

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::symbols;

/// FIPS 180-4, 5.3.3.
const FIRST: [u32; 8] = [
    0x6A09_E667,
    0xBB67_AE85,
    0x3C6E_F372,
    0xA54F_F53A,
    0x510E_527F,
    0x9B05_688C,
    0x1F83_D9AB,
    0x5BE0_CD19,
];
const BLOCK: usize = 64;

#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Sha256 {
    state: [u32; 8],
    pending: [u8; BLOCK],
    /// Bytes of the whole message so far.
    len: u64,
}

impl Default for Sha256 {
    fn default() -> Self {
        Self {
            state: FIRST,
            pending: [0; BLOCK],
            len: 0,
        }
    }
}

impl Sha256 {
    /// Bytes that wait, fewer than a block.
    fn filled(&self) -> usize {
        usize::from(self.len.to_le_bytes()[0]) % BLOCK
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let filled = self.filled();
        let (head, rest) = bytes.split_at(bytes.len().min(BLOCK - filled));
        let places = self.pending.iter_mut().skip(filled);
        places.zip(head).for_each(|(to, from)| *to = *from);
        self.len = self
            .len
            .wrapping_add(u64::try_from(bytes.len()).unwrap_or_default());
        if filled + head.len() < BLOCK {
            return;
        }
        symbols::sha256(&mut self.state, &[self.pending]);
        let (blocks, last) = rest.as_chunks();
        if !blocks.is_empty() {
            symbols::sha256(&mut self.state, blocks);
        }
        self.pending
            .iter_mut()
            .zip(last)
            .for_each(|(to, from)| *to = *from);
    }

    pub(crate) fn finalize(mut self) -> [u8; 32] {
        let bits = self.len.wrapping_mul(8).to_be_bytes();
        let zeros = [0; BLOCK];
        // 80, zeros up to the last eight bytes of a block, the length.
        self.update(&[0x80]);
        let padding = (2 * BLOCK - 8 - self.filled()) % BLOCK;
        self.update(zeros.get(..padding).unwrap_or_default());
        self.update(&bits);
        let mut out = [0; 32];
        for (place, word) in out.as_chunks_mut().0.iter_mut().zip(self.state) {
            *place = word.to_be_bytes();
        }
        out
    }
}
