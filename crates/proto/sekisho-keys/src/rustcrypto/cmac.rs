//! CMAC (NIST SP 800-38B) over AES, each MAC in one call of the cipher: some of its backends prepare the expanded key at every call.

#[cfg(not(target_os = "none"))]
use ::aes::cipher::KeyInit as _;
use ::aes::cipher::consts::U16;
use ::aes::cipher::{BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser};
#[cfg(not(target_os = "none"))]
use ::aes::{Aes128Enc, Aes192Enc, Aes256Enc};
use zeroize::Zeroizing;

use super::aes::xor;
#[cfg(target_os = "none")]
use super::compact::Aes;
#[cfg(not(target_os = "none"))]
use crate::aes_key::Bytes;
use crate::{AesKey, BLOCK};

/// An expanded key. Erased when dropped.
#[cfg(not(target_os = "none"))]
#[allow(clippy::large_enum_variant, reason = "one at a time, on the stack")]
pub(crate) enum MacKey {
    Aes128(Aes128Enc),
    Aes192(Aes192Enc),
    Aes256(Aes256Enc),
}

#[cfg(not(target_os = "none"))]
impl MacKey {
    pub(crate) fn new(key: &AesKey) -> Self {
        match &key.0 {
            Bytes::Aes128(bytes, _) => Self::Aes128(Aes128Enc::new(bytes.into())),
            Bytes::Aes192(bytes, _) => Self::Aes192(Aes192Enc::new(bytes.into())),
            Bytes::Aes256(bytes) => Self::Aes256(Aes256Enc::new(bytes.into())),
        }
    }

    fn make(&self, making: Making<'_>) {
        match self {
            Self::Aes128(key) => key.encrypt_with_backend(making),
            Self::Aes192(key) => key.encrypt_with_backend(making),
            Self::Aes256(key) => key.encrypt_with_backend(making),
        }
    }
}

/// An expanded key. Erased when dropped.
#[cfg(target_os = "none")]
pub(crate) struct MacKey(Aes);

#[cfg(target_os = "none")]
impl MacKey {
    pub(crate) fn new(key: &AesKey) -> Self {
        Self(Aes::of(key))
    }

    fn make(&self, making: Making<'_>) {
        self.0.encrypt_with_backend(making);
    }
}

impl MacKey {
    pub(crate) fn mac(&self, parts: &[&[u8]]) -> [u8; BLOCK] {
        let mut mac = [0; BLOCK];
        self.make(Making {
            parts,
            chain: &mut mac,
        });
        mac
    }
}

/// The MAC of the concatenation of parts, made in `chain`, which is zero.
struct Making<'a> {
    parts: &'a [&'a [u8]],
    chain: &'a mut [u8; BLOCK],
}

impl BlockSizeUser for Making<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Making<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let Self { parts, chain } = self;
        let encrypt = |block: &mut [u8; BLOCK]| backend.encrypt_block_inplace(block.into());
        let mut subkey = Zeroizing::new([0; BLOCK]);
        encrypt(&mut subkey);
        double(&mut subkey);
        // The last block waits, since it is treated otherwise than those before it.
        let mut filled = 0;
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                if filled == BLOCK {
                    encrypt(chain);
                    filled = 0;
                }
                rest = match rest.split_first_chunk::<BLOCK>() {
                    Some((block, behind)) if filled == 0 => {
                        xor(chain, block);
                        filled = BLOCK;
                        behind
                    }
                    _ => {
                        let (now, later) = rest.split_at(rest.len().min(BLOCK - filled));
                        let places = chain.iter_mut().skip(filled);
                        places.zip(now).for_each(|(to, with)| *to ^= with);
                        filled += now.len();
                        later
                    }
                };
            }
        }
        if let Some(next) = chain.get_mut(filled) {
            *next ^= 0x80;
            double(&mut subkey);
        }
        xor(chain, &subkey);
        encrypt(chain);
    }
}

/// Multiplication by x in GF(2^128) (SP 800-38B, 6.1), in a time that does not depend on the block.
fn double(block: &mut [u8; BLOCK]) {
    let value = u128::from_be_bytes(*block);
    *block = ((value << 1) ^ (0x87 & (value >> 127).wrapping_neg())).to_be_bytes();
}
