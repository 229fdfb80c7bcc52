//! AES and its modes.

use ::aes::Aes128;
use ::aes::cipher::common::InnerInit as _;
use ::aes::cipher::consts::U16;
use ::aes::cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt,
    BlockModeDecrypt as _, BlockSizeUser, InnerIvInit as _, KeyInit, StreamCipher as _,
    StreamCipherCoreWrapper, StreamCipherSeek as _,
};

#[cfg(target_os = "none")]
use super::compact::Aes;
#[cfg(not(target_os = "none"))]
use crate::aes_key::Bytes;
use crate::{AesKey, BLOCK};

/// Calls a function for the cipher of the key's length: for both directions, or with `encrypt` for that one alone, which expands half as much. On a chip there is one for all
/// lengths and directions.
///
/// The functions are not inlined: the three of them together would take three expanded keys of the stack, and rooms for many blocks.
#[cfg(not(target_os = "none"))]
macro_rules! with_cipher {
    ($key:expr, $function:ident($($argument:expr),*)) => {
        with_cipher!(@ Aes128 Aes192 Aes256, $key, $function($($argument),*))
    };
    (encrypt $key:expr, $function:ident($($argument:expr),*)) => {
        with_cipher!(@ Aes128Enc Aes192Enc Aes256Enc, $key, $function($($argument),*))
    };
    (@ $aes128:ident $aes192:ident $aes256:ident, $key:expr, $function:ident($($argument:expr),*)) => {
        match &$key.0 {
            Bytes::Aes128(bytes, _) => $function::<::aes::$aes128>(bytes.into(), $($argument),*),
            Bytes::Aes192(bytes, _) => $function::<::aes::$aes192>(bytes.into(), $($argument),*),
            Bytes::Aes256(bytes) => $function::<::aes::$aes256>(bytes.into(), $($argument),*),
        }
    };
}

#[cfg(target_os = "none")]
macro_rules! with_cipher {
    ($key:expr, $function:ident($($argument:expr),*)) => {
        $function::<Aes>($key, $($argument),*)
    };
    (encrypt $key:expr, $function:ident($($argument:expr),*)) => {
        $function::<Aes>($key, $($argument),*)
    };
}

/// A cipher of 16-byte blocks that is made of a key.
trait Cipher: BlockSizeUser<BlockSize = U16> {
    type Key;

    fn of(key: &Self::Key) -> Self;
}

#[cfg(not(target_os = "none"))]
impl<C: KeyInit + BlockSizeUser<BlockSize = U16>> Cipher for C {
    type Key = ::aes::cipher::Key<C>;

    fn of(key: &::aes::cipher::Key<C>) -> Self {
        Self::new(key)
    }
}

#[cfg(target_os = "none")]
impl Cipher for Aes {
    type Key = AesKey;

    fn of(key: &AesKey) -> Self {
        Self::of(key)
    }
}

/// A block XOR another.
#[inline(always)]
pub(super) fn xor(block: &mut [u8; BLOCK], with: &[u8; BLOCK]) {
    *block = (u128::from_ne_bytes(*block) ^ u128::from_ne_bytes(*with)).to_ne_bytes();
}

pub(crate) fn ecb_encrypt(key: &AesKey, block: &mut [u8; BLOCK]) {
    #[inline(never)]
    fn with<C: Cipher + BlockCipherEncrypt>(key: &C::Key, block: &mut [u8; BLOCK]) {
        C::of(key).encrypt_block(block.into());
    }
    with_cipher!(encrypt key, with(block));
}

pub(crate) fn ecb_encrypt_all(key: &AesKey, blocks: &mut [[u8; BLOCK]]) {
    #[inline(never)]
    fn with<C: Cipher + BlockCipherEncrypt>(key: &C::Key, blocks: &mut [[u8; BLOCK]]) {
        C::of(key).encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }
    with_cipher!(encrypt key, with(blocks));
}

pub(crate) fn cbc_encrypt(key: &AesKey, iv: &[u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
    cbc_encrypt_from(key, false, iv, blocks);
}

/// The IV is `counter`, encrypted.
pub(crate) fn cbc_encrypt_counted(key: &AesKey, counter: &[u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
    cbc_encrypt_from(key, true, counter, blocks);
}

fn cbc_encrypt_from(key: &AesKey, is_counter: bool, iv: &[u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
    #[inline(never)]
    fn with<C: Cipher + BlockCipherEncrypt>(key: &C::Key, chain: CbcEncryption<'_>) {
        C::of(key).encrypt_with_backend(chain);
    }
    let chain = CbcEncryption {
        is_counter,
        iv: *iv,
        blocks,
    };
    with_cipher!(encrypt key, with(chain));
}

/// CBC, all of it in one call of the cipher, which may have to prepare each.
struct CbcEncryption<'b> {
    /// The IV is to be encrypted first.
    is_counter: bool,
    iv: [u8; BLOCK],
    blocks: &'b mut [[u8; BLOCK]],
}

impl BlockSizeUser for CbcEncryption<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for CbcEncryption<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(mut self, backend: &B) {
        if self.is_counter {
            backend.encrypt_block_inplace((&mut self.iv).into());
        }
        let mut previous = &self.iv;
        for block in self.blocks {
            xor(block, previous);
            backend.encrypt_block_inplace((&mut *block).into());
            previous = block;
        }
    }
}

pub(crate) fn cbc_decrypt(key: &AesKey, iv: &[u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
    #[inline(never)]
    fn with<C: Cipher + BlockCipherDecrypt>(key: &C::Key, iv: &[u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
        let blocks = Array::cast_slice_from_core_mut(blocks);
        cbc::Decryptor::inner_iv_init(C::of(key), iv.into()).decrypt_blocks(blocks);
    }
    with_cipher!(key, with(iv, blocks));
}

/// The IV is `counter`, encrypted.
pub(crate) fn cbc_decrypt_counted(key: &AesKey, counter: &[u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
    #[inline(never)]
    fn with<C: Cipher + BlockCipherEncrypt + BlockCipherDecrypt>(
        key: &C::Key,
        counter: &[u8; BLOCK],
        blocks: &mut [[u8; BLOCK]],
    ) {
        let (cipher, mut iv) = (C::of(key), *counter);
        cipher.encrypt_block((&mut iv).into());
        let blocks = Array::cast_slice_from_core_mut(blocks);
        cbc::Decryptor::inner_iv_init(cipher, (&iv).into()).decrypt_blocks(blocks);
    }
    with_cipher!(key, with(counter, blocks));
}

/// `None` when the stream is too short.
pub(crate) fn ctr_xor(key: &AesKey, iv: &[u8; BLOCK], offset: u64, buf: &mut [u8]) -> Option<()> {
    #[inline(never)]
    fn with<C: Cipher + BlockCipherEncrypt>(
        key: &C::Key,
        iv: &[u8; BLOCK],
        offset: u64,
        buf: &mut [u8],
    ) -> Option<()> {
        let core = ctr::CtrCore::<C, ctr::flavors::Ctr128BE>::inner_iv_init(C::of(key), iv.into());
        let mut stream = StreamCipherCoreWrapper::from_core(core);
        stream.try_seek(offset).ok()?;
        stream.try_apply_keystream(buf).ok()
    }
    with_cipher!(encrypt key, with(iv, offset, buf))
}

/// `keys` and `out` have lengths that fit.
pub(crate) fn key_wrap(kek: &AesKey, keys: &[u8], out: &mut [u8]) -> Option<()> {
    #[inline(never)]
    fn with<C: Cipher + BlockCipherEncrypt>(kek: &C::Key, keys: &[u8], out: &mut [u8]) -> Option<()> {
        aes_kw::AesKw::inner_init(C::of(kek))
            .wrap_key(keys, out)
            .ok()
            .map(|_| ())
    }
    with_cipher!(encrypt kek, with(keys, out))
}

/// `wrapped` and `out` have lengths that fit. `None` when the check fails.
pub(crate) fn key_unwrap(kek: &AesKey, wrapped: &[u8], out: &mut [u8]) -> Option<()> {
    #[inline(never)]
    fn with<C: Cipher + BlockCipherDecrypt>(kek: &C::Key, wrapped: &[u8], out: &mut [u8]) -> Option<()> {
        aes_kw::AesKw::inner_init(C::of(kek))
            .unwrap_key(wrapped, out)
            .ok()
            .map(|_| ())
    }
    with_cipher!(kek, with(wrapped, out))
}

/// AES-128 with its expanded key.
#[derive(Clone)]
pub(crate) struct Block(Aes128);

impl Block {
    pub(crate) fn new(key: &[u8; BLOCK]) -> Self {
        Self(Aes128::new(key.into()))
    }

    pub(crate) fn encrypt(&self, block: &mut [u8; BLOCK]) {
        self.0.encrypt_block(block.into());
    }

    pub(crate) fn decrypt(&self, block: &mut [u8; BLOCK]) {
        self.0.decrypt_block(block.into());
    }
}

/// AES-SIV with the MAC's half of the key expanded.
pub(crate) struct Siv(aes_siv::siv::CmacSiv<SivCipher>);

#[cfg(not(target_os = "none"))]
type SivCipher = ::aes::Aes128Enc;
#[cfg(target_os = "none")]
type SivCipher = Aes;

impl Siv {
    pub(crate) fn new(key: &[u8; 2 * BLOCK]) -> Self {
        Self(aes_siv::KeyInit::new(key.into()))
    }

    pub(crate) fn seal<H: AsRef<[u8]>>(&mut self, headers: &[H], text: &mut [u8]) -> Option<[u8; BLOCK]> {
        self.0
            .encrypt_inout_detached(headers, text.into())
            .ok()
            .map(Into::into)
    }

    pub(crate) fn open<H: AsRef<[u8]>>(
        &mut self,
        headers: &[H],
        text: &mut [u8],
        tag: &[u8; BLOCK],
    ) -> Option<()> {
        self.0
            .decrypt_inout_detached(headers, text.into(), &(*tag).into())
            .ok()
    }
}
