//! AES and its modes.

use ::aes::cipher::common::InnerInit as _;
use ::aes::cipher::{
    Array, BlockCipherDecrypt as _, BlockCipherEncrypt as _, BlockModeDecrypt as _, BlockModeEncrypt as _,
    InnerIvInit as _, KeyInit, StreamCipher as _, StreamCipherCoreWrapper, StreamCipherSeek as _,
};
use ::aes::{Aes128, Aes128Enc, Aes192Enc, Aes256Enc};
use ::cmac::Mac as _;

use crate::aes_key::Bytes;
use crate::{AesKey, BLOCK};

/// Runs `$body` with `$cipher` bound to the expanded key, whatever its length: for both directions, or with `encrypt` for that one alone, which
/// expands half as much.
macro_rules! with_cipher {
    ($key:expr, $cipher:ident => $body:expr) => {
        with_cipher!(@ Aes128 Aes192 Aes256, $key, $cipher => $body)
    };
    (encrypt $key:expr, $cipher:ident => $body:expr) => {
        with_cipher!(@ Aes128Enc Aes192Enc Aes256Enc, $key, $cipher => $body)
    };
    (@ $aes128:ident $aes192:ident $aes256:ident, $key:expr, $cipher:ident => $body:expr) => {
        match &$key.0 {
            Bytes::Aes128(bytes, _) => {
                let $cipher = <::aes::$aes128 as KeyInit>::new(bytes.into());
                $body
            }
            Bytes::Aes192(bytes, _) => {
                let $cipher = <::aes::$aes192 as KeyInit>::new(bytes.into());
                $body
            }
            Bytes::Aes256(bytes) => {
                let $cipher = <::aes::$aes256 as KeyInit>::new(bytes.into());
                $body
            }
        }
    };
}

pub(crate) fn ecb_encrypt(key: &AesKey, blocks: &mut [[u8; BLOCK]]) {
    let blocks = Array::cast_slice_from_core_mut(blocks);
    // A slice of one goes the way of many, which costs a call more.
    match blocks {
        [block] => with_cipher!(encrypt key, cipher => cipher.encrypt_block(block)),
        blocks => with_cipher!(encrypt key, cipher => cipher.encrypt_blocks(blocks)),
    }
}

pub(crate) fn cbc_encrypt(key: &AesKey, iv: &[u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
    let blocks = Array::cast_slice_from_core_mut(blocks);
    with_cipher!(encrypt key, cipher => cbc::Encryptor::inner_iv_init(cipher, iv.into()).encrypt_blocks(blocks));
}

pub(crate) fn cbc_decrypt(key: &AesKey, iv: &[u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
    let blocks = Array::cast_slice_from_core_mut(blocks);
    with_cipher!(key, cipher => cbc::Decryptor::inner_iv_init(cipher, iv.into()).decrypt_blocks(blocks));
}

/// `None` when the stream is too short.
pub(crate) fn ctr_xor(key: &AesKey, iv: &[u8; BLOCK], offset: u64, buf: &mut [u8]) -> Option<()> {
    with_cipher!(encrypt key, cipher => {
        let mut stream = StreamCipherCoreWrapper::from_core(ctr::CtrCore::<_, ctr::flavors::Ctr128BE>::inner_iv_init(cipher, iv.into()));
        stream.try_seek(offset).ok()?;
        stream.try_apply_keystream(buf).ok()
    })
}

/// `keys` and `out` have lengths that fit.
pub(crate) fn key_wrap(kek: &AesKey, keys: &[u8], out: &mut [u8]) -> Option<()> {
    with_cipher!(kek, cipher => aes_kw::AesKw::inner_init(cipher).wrap_key(keys, out).ok().map(|_| ()))
}

/// `wrapped` and `out` have lengths that fit. `None` when the check fails.
pub(crate) fn key_unwrap(kek: &AesKey, wrapped: &[u8], out: &mut [u8]) -> Option<()> {
    with_cipher!(kek, cipher => aes_kw::AesKw::inner_init(cipher).unwrap_key(wrapped, out).ok().map(|_| ()))
}

#[derive(Clone)]
pub(crate) enum Cmac {
    Aes128(::cmac::Cmac<Aes128Enc>),
    Aes192(::cmac::Cmac<Aes192Enc>),
    Aes256(::cmac::Cmac<Aes256Enc>),
}

fn start<C: ::cmac::block_api::CmacCipher + KeyInit>(key: &::aes::cipher::Key<C>) -> ::cmac::Cmac<C> {
    ::cmac::Cmac::inner_init(C::new(key))
}

impl Cmac {
    pub(crate) fn new(key: &AesKey) -> Self {
        match &key.0 {
            Bytes::Aes128(bytes, _) => Self::Aes128(start(bytes.into())),
            Bytes::Aes192(bytes, _) => Self::Aes192(start(bytes.into())),
            Bytes::Aes256(bytes) => Self::Aes256(start(bytes.into())),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Aes128(mac) => mac.update(bytes),
            Self::Aes192(mac) => mac.update(bytes),
            Self::Aes256(mac) => mac.update(bytes),
        }
    }

    pub(crate) fn finalize(self) -> [u8; BLOCK] {
        match self {
            Self::Aes128(mac) => mac.finalize().into_bytes().into(),
            Self::Aes192(mac) => mac.finalize().into_bytes().into(),
            Self::Aes256(mac) => mac.finalize().into_bytes().into(),
        }
    }
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
pub(crate) struct Siv(aes_siv::siv::CmacSiv<Aes128Enc>);

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
