//! The engine of a build with `--cfg sekisho_crypto="custom"`: whatever the product gives with [`custom_crypto!`](crate::custom_crypto), a chip's AES, hash
//! and public key hardware for example. No RustCrypto crate is part of such a build, so nothing can compute past it; without an engine it does not link
//! (`docs/decisions/0015-chip.md`).
//!
//! What an engine gives stands in [`Crypto`]; the modes over it are here.

mod aes;
mod p256;
mod sha256;
mod symbols;

use crate::BLOCK;

pub(crate) use aes::{
    Block, MacKey, Siv, cbc_decrypt, cbc_decrypt_counted, cbc_encrypt, cbc_encrypt_counted, ctr_xor,
    ecb_encrypt, ecb_encrypt_all, key_unwrap, key_wrap,
};
pub(crate) use p256::{PrivateKey, PublicKey};
pub(crate) use sha256::Sha256;

/// What computes: functions of bytes, without a state that outlives a call, so that an engine may be one unit of hardware for everything. None of them is
/// called twice at once by one SE.
///
/// Keys are secret: an engine's time and power must not depend on them, and it leaves none behind, on the stack neither (what stands there is wiped with
/// the command's stack, `docs/decisions/0008-wiping.md`). An engine that notices a fault does not come back: it resets or mutes the chip.
pub trait Crypto {
    /// Encrypts each block by itself. `key` has 16, 24 or 32 bytes here and in all functions of AES.
    fn aes_encrypt(key: &[u8], blocks: &mut [[u8; BLOCK]]);

    /// Decrypts each block by itself.
    fn aes_decrypt(key: &[u8], blocks: &mut [[u8; BLOCK]]);

    /// Encrypts with CBC; `chain` is the IV before and the last block of ciphertext after.
    fn aes_cbc_encrypt(key: &[u8], chain: &mut [u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
        for block in blocks {
            xor(chain, block);
            Self::aes_encrypt(key, core::slice::from_mut(chain));
            *block = *chain;
        }
    }

    /// Decrypts with CBC; `chain` is the IV before and the last block of ciphertext after.
    fn aes_cbc_decrypt(key: &[u8], chain: &mut [u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
        for block in blocks {
            let sealed = *block;
            Self::aes_decrypt(key, core::slice::from_mut(block));
            xor(block, chain);
            *chain = sealed;
        }
    }

    /// The chain that CBC would leave in `chain`, without a ciphertext: what CMAC is made of.
    fn aes_cbc_mac(key: &[u8], chain: &mut [u8; BLOCK], blocks: &[[u8; BLOCK]]) {
        for block in blocks {
            xor(chain, block);
            Self::aes_encrypt(key, core::slice::from_mut(chain));
        }
    }

    /// SHA-256 of these blocks, from `state` on (FIPS 180-4, 6.2.2). First value and padding are not the engine's.
    fn sha256(state: &mut [u32; 8], blocks: &[[u8; 64]]);

    /// The public key, an uncompressed point, of a P-256 private scalar (big-endian); `None` when it is zero or not below the group's order.
    fn p256_public_key(private: &[u8; 32]) -> Option<[u8; 65]>;

    /// Whether the bytes are an uncompressed point of the curve, and not its neutral element.
    fn p256_is_point(public: &[u8; 65]) -> bool;

    /// The ECDSA signature `r(32) || s(32)` over a digest. The nonce is that of RFC 6979, or from a generator that is as good.
    fn p256_sign(private: &[u8; 32], digest: &[u8; 32]) -> [u8; 64];

    /// Whether it is this key's signature over this digest.
    fn p256_verify(public: &[u8; 65], digest: &[u8; 32], signature: &[u8; 64]) -> bool;

    /// The x coordinate of the point that the private scalar and the other end's public key make (SEC 1, 3.3.1). `public` is a point of the curve.
    fn p256_agree(private: &[u8; 32], public: &[u8; 65]) -> [u8; 32];
}

fn xor(to: &mut [u8], with: &[u8]) {
    to.iter_mut().zip(with).for_each(|(to, with)| *to ^= with);
}

#[cfg(feature = "tls")]
compile_error!(
    "a build with an engine of its own computes no TLS yet: there is no GCM among what an engine gives"
);
