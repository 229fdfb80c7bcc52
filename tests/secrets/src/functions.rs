//! What `sekisho-keys` computes with secrets, function by function, and two that do what must not be done.

use std::hint::black_box;

use sekisho_keys::{
    AesKey, Siv, cbc_decrypt, cbc_encrypt, cmac, ct_eq, ctr_xor, ecb_block, kcv_aes, kdf_counter_cmac,
    kdf_label, key_unwrap, key_wrap, unpad80,
};
use sekisho_keys::{p256dh::EphemeralKey, p256sig::SigningKey};

use crate::common::SeededRng;
use crate::mark::mark;

fn secret(len: usize) -> Vec<u8> {
    let bytes: Vec<u8> = (0..len).map(|n| (n * 7 + 3).to_le_bytes()[0]).collect();
    mark(&bytes);
    bytes
}

fn key(len: usize) -> AesKey {
    AesKey::new(&secret(len)).unwrap()
}

/// AES in all lengths and modes, MAC, derivations, wrapping.
pub(crate) fn symmetric() {
    for len in [16, 24, 32] {
        let key = key(len);
        let mut data = secret(64);
        cbc_encrypt(&key, &[0; 16], &mut data).unwrap();
        cbc_decrypt(&key, &[0; 16], &mut data).unwrap();
        ctr_xor(&key, &[0; 16], 0, &mut data).unwrap();
        ecb_block(&key, &mut [0; 16]);
        black_box(cmac(&key, &[&data]));
        black_box(kcv_aes(&key));
        let mut out = [0; 32];
        kdf_counter_cmac(&key, 4, 128, b"context", &mut out);
        kdf_label(&key, b"label", b"context", &mut out);
        let mut wrapped = [0; 40];
        key_wrap(&key, &data[..32], &mut wrapped).unwrap();
        key_unwrap(&key, &wrapped, &mut out).unwrap();
        wrapped[0] ^= 1;
        assert!(key_unwrap(&key, &wrapped, &mut out).is_err());
    }
    let pair: [u8; 32] = secret(32).try_into().unwrap();
    let mut text = secret(40);
    let mut siv = Siv::new(&pair);
    let tag = siv.seal(&[b"header"], &mut text);
    siv.open(&[b"header"], &mut text, &tag).unwrap();
}

/// Padding taken off what was decrypted, whatever its length.
pub(crate) fn padding() {
    for zeros in 0..16 {
        let mut bytes = vec![0x5A; 16];
        bytes[15 - zeros] = 0x80;
        bytes[16 - zeros..].fill(0);
        mark(&bytes);
        black_box(unpad80(&bytes).is_ok());
    }
}

/// P-256: agreement and signature.
pub(crate) fn elliptic() {
    let secret: [u8; 32] = [0x35; 32];
    mark(&secret);
    let signer = SigningKey::from_bytes(&secret).unwrap();
    black_box(signer.sign(b"message"));
    let mut rng = SeededRng(3);
    let peer = EphemeralKey::generate(&mut rng).unwrap().public_key();
    let mut marked = MarkedRng(SeededRng(4));
    let own = EphemeralKey::generate(&mut marked).unwrap();
    black_box(own.agree(&peer).unwrap());
}

/// Randomness that is a secret.
struct MarkedRng(SeededRng);

impl sekisho_keys::Rng for MarkedRng {
    fn fill(&mut self, out: &mut [u8]) {
        self.0.fill(out);
        mark(out);
    }
}

/// Compares as nobody may: must be found, or nothing here proves anything.
pub(crate) fn leaky_branch() {
    let (right, given) = (secret(16), [0x5A; 16]);
    black_box(leaks::compares(&right, &given));
    black_box(ct_eq(&right, &given));
}

/// Looks a secret up in a table: must be found.
pub(crate) fn leaky_address() {
    black_box(leaks::looks_up(secret(16)[3]));
}

/// Left as they are by whoever optimises.
mod leaks {
    #[inline(never)]
    pub(super) fn compares(a: &[u8], b: &[u8]) -> usize {
        a.iter().zip(b).take_while(|(a, b)| a == b).count()
    }

    #[inline(never)]
    pub(super) fn looks_up(secret: u8) -> u8 {
        let table: Vec<u8> = (0..=255).rev().collect();
        std::hint::black_box(&table)[usize::from(secret)]
    }
}
