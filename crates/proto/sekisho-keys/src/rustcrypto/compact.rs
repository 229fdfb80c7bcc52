//! AES as a chip has it: one code for the three lengths of keys, and one block at a time. What takes many blocks at once, or is compiled for each length, is faster where there is
//! room for it; a chip would have 8 KB of its flash and two more copies of an expanded key on its stack for that.

use ::aes::cipher::common::ParBlocksSizeUser;
use ::aes::cipher::consts::{U1, U16};
use ::aes::cipher::inout::InOut;
use ::aes::cipher::{
    BlockCipherDecBackend, BlockCipherDecClosure, BlockCipherDecrypt, BlockCipherEncBackend,
    BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, Key, KeyInit, KeySizeUser,
};
use ::aes::{Aes128, Aes192, Aes256, Block};

use crate::AesKey;
use crate::aes_key::Bytes;

/// An expanded key. Erased when dropped.
#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "one at a time, on the stack")]
pub(super) enum Aes {
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

impl Aes {
    pub(super) fn of(key: &AesKey) -> Self {
        match &key.0 {
            Bytes::Aes128(bytes, _) => Self::Aes128(Aes128::new(bytes.into())),
            Bytes::Aes192(bytes, _) => Self::Aes192(Aes192::new(bytes.into())),
            Bytes::Aes256(bytes) => Self::Aes256(Aes256::new(bytes.into())),
        }
    }
}

/// AES-128, for what makes its ciphers of their keys itself.
impl KeyInit for Aes {
    fn new(key: &Key<Self>) -> Self {
        Self::Aes128(Aes128::new(key))
    }
}

impl KeySizeUser for Aes {
    type KeySize = U16;
}

impl BlockSizeUser for Aes {
    type BlockSize = U16;
}

impl ParBlocksSizeUser for Aes {
    type ParBlocksSize = U1;
}

impl BlockCipherEncBackend for Aes {
    #[inline(never)]
    fn encrypt_block(&self, block: InOut<'_, '_, Block>) {
        match self {
            Self::Aes128(cipher) => cipher.encrypt_block_inout(block),
            Self::Aes192(cipher) => cipher.encrypt_block_inout(block),
            Self::Aes256(cipher) => cipher.encrypt_block_inout(block),
        }
    }
}

impl BlockCipherDecBackend for Aes {
    #[inline(never)]
    fn decrypt_block(&self, block: InOut<'_, '_, Block>) {
        match self {
            Self::Aes128(cipher) => cipher.decrypt_block_inout(block),
            Self::Aes192(cipher) => cipher.decrypt_block_inout(block),
            Self::Aes256(cipher) => cipher.decrypt_block_inout(block),
        }
    }
}

impl BlockCipherEncrypt for Aes {
    fn encrypt_with_backend(&self, f: impl BlockCipherEncClosure<BlockSize = U16>) {
        f.call(self);
    }
}

impl BlockCipherDecrypt for Aes {
    fn decrypt_with_backend(&self, f: impl BlockCipherDecClosure<BlockSize = U16>) {
        f.call(self);
    }
}

#[cfg(test)]
mod tests {
    use ::aes::cipher::{BlockModeDecrypt as _, InnerIvInit as _};

    use super::*;
    use crate::BLOCK;

    fn same_as<C>(key: &AesKey, bytes: &[u8])
    where
        C: KeyInit + BlockSizeUser<BlockSize = U16> + BlockCipherEncrypt + BlockCipherDecrypt + Clone,
    {
        let (ours, theirs) = (Aes::of(key), C::new(bytes.try_into().unwrap()));
        let blocks: [Block; 7] = core::array::from_fn(|n| [u8::try_from(n).unwrap() * 37; BLOCK].into());
        let (mut one, mut other) = (blocks, blocks);
        ours.encrypt_blocks(&mut one);
        theirs.encrypt_blocks(&mut other);
        assert!(one == other && one != blocks);
        ours.decrypt_blocks(&mut one);
        assert_eq!(one, blocks);
        let iv = [9; BLOCK].into();
        cbc::Decryptor::inner_iv_init(ours, &iv).decrypt_blocks(&mut one);
        let mut other = blocks;
        cbc::Decryptor::inner_iv_init(theirs, &iv).decrypt_blocks(&mut other);
        assert_eq!(one, other);
    }

    /// The chip's answers are compared with a host's in whole conversations; here each length of key by itself, in both directions.
    #[test]
    fn a_chip_computes_what_a_host_does() {
        let bytes: [u8; 32] = core::array::from_fn(|n| u8::try_from(n).unwrap());
        let key = |len: usize| AesKey::new(&bytes[..len]).unwrap();
        same_as::<Aes128>(&key(16), &bytes[..16]);
        same_as::<Aes192>(&key(24), &bytes[..24]);
        same_as::<Aes256>(&key(32), &bytes);
        assert!(matches!(Aes::new(&[1; 16].into()), Aes::Aes128(_)));
    }
}
