//! Triple DES with the retail MAC: for the published vectors of ICAO 9303-11 appendix D, not for new cards.

use des::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use des::{Des, TdesEde2};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::LengthError;

/// Bytes of the retail MAC.
const MAC_LEN: usize = 8;

/// KSenc and KSmac, two-key triple DES each. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TdesKeys {
    enc: [u8; 16],
    mac: [u8; 16],
}

impl TdesKeys {
    /// The keys of these bytes.
    pub const fn new(enc: [u8; 16], mac: [u8; 16]) -> Self {
        Self { enc, mac }
    }

    /// Encrypts in place: CBC with a zero IV.
    ///
    /// # Errors
    /// [`LengthError`] unless `buf` is whole blocks.
    pub fn encrypt(&self, buf: &mut [u8]) -> Result<(), LengthError> {
        let cipher = TdesEde2::new(&Array(self.enc));
        let (blocks, rest) = buf.as_chunks_mut::<8>();
        let mut previous = [0; 8];
        for block in blocks {
            xor(block, &previous);
            previous = map(*block, |b| cipher.encrypt_block(b));
            *block = previous;
        }
        if rest.is_empty() { Ok(()) } else { Err(LengthError) }
    }

    /// Decrypts in place: CBC with a zero IV.
    ///
    /// # Errors
    /// [`LengthError`] unless `buf` is whole blocks.
    pub fn decrypt(&self, buf: &mut [u8]) -> Result<(), LengthError> {
        let cipher = TdesEde2::new(&Array(self.enc));
        let (blocks, rest) = buf.as_chunks_mut::<8>();
        let mut previous = [0; 8];
        for block in blocks {
            let ciphertext = *block;
            *block = map(ciphertext, |b| cipher.decrypt_block(b));
            xor(block, &previous);
            previous = ciphertext;
        }
        if rest.is_empty() { Ok(()) } else { Err(LengthError) }
    }

    /// MAC algorithm 3 of ISO 9797-1 over `parts`, which together are whole blocks.
    pub fn retail_mac(&self, parts: &[&[u8]]) -> [u8; MAC_LEN] {
        let [ka0, ka1, ka2, ka3, ka4, ka5, ka6, ka7, kb @ ..] = self.mac;
        let first = Des::new(&Array([ka0, ka1, ka2, ka3, ka4, ka5, ka6, ka7]));
        let second = Des::new(&Array(kb));
        let mut state = [0; 8];
        let mut block = [0; 8];
        let mut filled = 0;
        for byte in parts.iter().flat_map(|part| part.iter()) {
            if let Some(place) = block.get_mut(filled) {
                *place = *byte;
            }
            filled += 1;
            if filled == block.len() {
                xor(&mut state, &block);
                state = map(state, |b| first.encrypt_block(b));
                filled = 0;
            }
        }
        state = map(state, |b| second.decrypt_block(b));
        map(state, |b| first.encrypt_block(b))
    }

    /// KSenc itself.
    pub const fn enc(&self) -> &[u8; 16] {
        &self.enc
    }

    /// KSmac itself.
    pub const fn mac(&self) -> &[u8; 16] {
        &self.mac
    }
}

fn xor(block: &mut [u8; 8], with: &[u8; 8]) {
    for (byte, other) in block.iter_mut().zip(with) {
        *byte ^= other;
    }
}

/// One block through a cipher.
fn map(block: [u8; 8], cipher: impl FnOnce(&mut des::cipher::Block<Des>)) -> [u8; 8] {
    let mut block = Array(block);
    cipher(&mut block);
    block.0
}
