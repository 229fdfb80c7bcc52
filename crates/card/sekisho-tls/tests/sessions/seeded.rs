//! What tests draw in place of random bytes.

use sekisho_keys::Rng;

/// Not random: each block of 32 bytes from a counter.
pub(crate) struct Seeded(pub(crate) u64);

impl Rng for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            self.0 += 1;
            let digest = sekisho_keys::sha256(&[&self.0.to_be_bytes()]);
            chunk.copy_from_slice(&digest[..chunk.len()]);
        }
    }
}
