//! An engine for tests of a build with `--cfg sekisho_crypto="custom"`: it forwards to RustCrypto and counts what goes through it, for each thread apart. In other
//! builds there is nothing here.
#![cfg(sekisho_crypto = "custom")]
#![forbid(unsafe_code)]

use core::cell::Cell;

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use p256::ecdsa::signature::hazmat::{PrehashSigner, PrehashVerifier};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use p256::{PublicKey, SecretKey};
use sekisho_keys::{BLOCK, Crypto};

/// What has gone through the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks of AES, in either direction.
    pub aes: u32,
    /// Blocks of SHA-256.
    pub sha256: u32,
    /// Public keys made of private ones.
    pub public_keys: u32,
    /// Points looked at.
    pub points: u32,
    /// Signatures made.
    pub signed: u32,
    /// Signatures checked.
    pub verified: u32,
    /// Agreements.
    pub agreed: u32,
}

thread_local! {
    static COUNTS: Cell<Counts> = Cell::default();
}

fn count(change: impl FnOnce(&mut Counts)) {
    COUNTS.with(|cell| {
        let mut counts = cell.get();
        change(&mut counts);
        cell.set(counts);
    });
}

fn blocks<T>(blocks: &[T]) -> u32 {
    u32::try_from(blocks.len()).unwrap_or(u32::MAX)
}

/// What goes through the engine on this thread while `work` runs.
pub fn counted<T>(work: impl FnOnce() -> T) -> (T, Counts) {
    let before = COUNTS.take();
    let result = work();
    (result, COUNTS.replace(before))
}

/// The engine.
#[derive(Clone, Copy, Debug)]
pub struct Counting;

macro_rules! with_cipher {
    ($key:expr, $cipher:ident => $body:expr) => {
        if let Ok($cipher) = aes::Aes128::new_from_slice($key) {
            $body
        } else if let Ok($cipher) = aes::Aes192::new_from_slice($key) {
            $body
        } else if let Ok($cipher) = aes::Aes256::new_from_slice($key) {
            $body
        }
    };
}

impl Crypto for Counting {
    fn aes_encrypt(key: &[u8], buf: &mut [[u8; BLOCK]]) {
        count(|counts| counts.aes += blocks(buf));
        with_cipher!(key, cipher => cipher.encrypt_blocks(Array::cast_slice_from_core_mut(buf)));
    }

    fn aes_decrypt(key: &[u8], buf: &mut [[u8; BLOCK]]) {
        count(|counts| counts.aes += blocks(buf));
        with_cipher!(key, cipher => cipher.decrypt_blocks(Array::cast_slice_from_core_mut(buf)));
    }

    fn sha256(state: &mut [u32; 8], buf: &[[u8; 64]]) {
        count(|counts| counts.sha256 += blocks(buf));
        sha2::block_api::compress256(state, buf);
    }

    fn p256_public_key(private: &[u8; 32]) -> Option<[u8; 65]> {
        count(|counts| counts.public_keys += 1);
        let key = SecretKey::from_slice(private).ok()?;
        key.public_key().to_sec1_point(false).as_bytes().try_into().ok()
    }

    fn p256_is_point(public: &[u8; 65]) -> bool {
        count(|counts| counts.points += 1);
        PublicKey::from_sec1_bytes(public).is_ok()
    }

    fn p256_sign(private: &[u8; 32], digest: &[u8; 32]) -> [u8; 64] {
        count(|counts| counts.signed += 1);
        let signature = SigningKey::from_slice(private).and_then(|key| key.sign_prehash(digest));
        signature.map_or([0; 64], |signature: Signature| signature.to_bytes().into())
    }

    fn p256_verify(public: &[u8; 65], digest: &[u8; 32], signature: &[u8; 64]) -> bool {
        count(|counts| counts.verified += 1);
        let (Ok(key), Ok(signature)) = (
            VerifyingKey::from_sec1_bytes(public),
            Signature::from_slice(signature),
        ) else {
            return false;
        };
        key.verify_prehash(digest, &signature).is_ok()
    }

    fn p256_agree(private: &[u8; 32], public: &[u8; 65]) -> [u8; 32] {
        count(|counts| counts.agreed += 1);
        let (Ok(key), Ok(peer)) = (SecretKey::from_slice(private), PublicKey::from_sec1_bytes(public)) else {
            return [0; 32];
        };
        key.diffie_hellman(&peer).raw_secret_bytes().0
    }
}
