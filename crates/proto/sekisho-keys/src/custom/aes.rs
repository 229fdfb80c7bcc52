//! The modes of AES over a build's engine: CMAC (SP 800-38B), CTR (SP 800-38A), key wrap (RFC 3394), SIV (RFC 5297).

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{symbols, xor};
use crate::{AesKey, BLOCK, ct_eq};

pub(crate) fn ecb_encrypt(key: &AesKey, block: &mut [u8; BLOCK]) {
    ecb_encrypt_all(key, core::slice::from_mut(block));
}

pub(crate) fn ecb_encrypt_all(key: &AesKey, blocks: &mut [[u8; BLOCK]]) {
    symbols::aes_encrypt(key.as_bytes(), blocks);
}

pub(crate) fn cbc_encrypt(key: &AesKey, iv: &[u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
    symbols::aes_cbc_encrypt(key.as_bytes(), &mut { *iv }, blocks);
}

pub(crate) fn cbc_decrypt(key: &AesKey, iv: &[u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
    symbols::aes_cbc_decrypt(key.as_bytes(), &mut { *iv }, blocks);
}

/// The IV is `counter`, encrypted.
pub(crate) fn cbc_encrypt_counted(key: &AesKey, counter: &[u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
    let mut iv = *counter;
    ecb_encrypt(key, &mut iv);
    symbols::aes_cbc_encrypt(key.as_bytes(), &mut iv, blocks);
}

/// The IV is `counter`, encrypted.
pub(crate) fn cbc_decrypt_counted(key: &AesKey, counter: &[u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
    let mut iv = *counter;
    ecb_encrypt(key, &mut iv);
    symbols::aes_cbc_decrypt(key.as_bytes(), &mut iv, blocks);
}

/// Never `None`: a 64-bit offset stays within the stream.
#[allow(clippy::unnecessary_wraps, reason = "as in the other engine")]
pub(crate) fn ctr_xor(key: &AesKey, iv: &[u8; BLOCK], offset: u64, buf: &mut [u8]) -> Option<()> {
    let first = u128::from_be_bytes(*iv).wrapping_add(u128::from(offset / 16));
    // Of the first block the bytes before the offset are left out.
    let skip = usize::from(offset.to_le_bytes()[0] % 16);
    let (head, rest) = buf.split_at_mut(buf.len().min(if skip == 0 { 0 } else { BLOCK - skip }));
    let counters = if head.is_empty() {
        first
    } else {
        let stream = key_stream(key, first);
        xor(head, stream.get(skip..).unwrap_or_default());
        first.wrapping_add(1)
    };
    for (index, chunk) in (0..).zip(rest.chunks_mut(BLOCK)) {
        xor(chunk, &*key_stream(key, counters.wrapping_add(index)));
    }
    Some(())
}

fn key_stream(key: &AesKey, counter: u128) -> Zeroizing<[u8; BLOCK]> {
    let mut block = Zeroizing::new(counter.to_be_bytes());
    ecb_encrypt(key, &mut block);
    block
}

/// RFC 3394, 2.2.3.1.
const WRAP_IV: [u8; 8] = [0xA6; 8];

/// A || R[i] as one block.
fn joined(a: [u8; 8], r: [u8; 8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block
        .iter_mut()
        .zip(a.iter().chain(&r))
        .for_each(|(to, from)| *to = *from);
    block
}

fn halves(block: &[u8; BLOCK]) -> ([u8; 8], [u8; 8]) {
    let value = u128::from_be_bytes(*block).to_be_bytes();
    let [a @ .., _, _, _, _, _, _, _, _] = value;
    let [_, _, _, _, _, _, _, _, r @ ..] = value;
    (a, r)
}

/// `keys` and `out` have lengths that fit.
pub(crate) fn key_wrap(kek: &AesKey, keys: &[u8], out: &mut [u8]) -> Option<()> {
    let (first, rest) = out.split_first_chunk_mut::<8>()?;
    rest.copy_from_slice(keys);
    let (registers, _) = rest.as_chunks_mut::<8>();
    let mut a = WRAP_IV;
    let mut t = 0_u64;
    for _ in 0..6 {
        for register in &mut *registers {
            t += 1;
            let mut block = Zeroizing::new(joined(a, *register));
            ecb_encrypt(kek, &mut block);
            (a, *register) = halves(&block);
            xor(&mut a, &t.to_be_bytes());
        }
    }
    *first = a;
    Some(())
}

/// `wrapped` and `out` have lengths that fit. `None` when the check fails.
pub(crate) fn key_unwrap(kek: &AesKey, wrapped: &[u8], out: &mut [u8]) -> Option<()> {
    let (first, rest) = wrapped.split_first_chunk::<8>()?;
    out.copy_from_slice(rest);
    let (registers, _) = out.as_chunks_mut::<8>();
    let mut a = *first;
    let mut t = 6 * u64::try_from(registers.len()).ok()?;
    for _ in 0..6 {
        for register in registers.iter_mut().rev() {
            xor(&mut a, &t.to_be_bytes());
            t -= 1;
            let mut block = Zeroizing::new(joined(a, *register));
            symbols::aes_decrypt(kek.as_bytes(), core::slice::from_mut(&mut block));
            (a, *register) = halves(&block);
        }
    }
    ct_eq(&a, &WRAP_IV).then_some(())
}

/// A key for CMAC.
pub(crate) struct MacKey(AesKey);

impl MacKey {
    pub(crate) fn new(key: &AesKey) -> Self {
        Self(key.clone())
    }

    pub(crate) fn mac(&self, parts: &[&[u8]]) -> [u8; BLOCK] {
        let mut mac = Cmac::new(&self.0);
        for part in parts {
            mac.update(part);
        }
        mac.finalize()
    }
}

/// The last block waits in `pending`, since it is treated otherwise than those before it.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Cmac {
    key: AesKey,
    chain: [u8; BLOCK],
    pending: [u8; BLOCK],
    filled: usize,
}

impl Cmac {
    fn new(key: &AesKey) -> Self {
        Self {
            key: key.clone(),
            chain: [0; BLOCK],
            pending: [0; BLOCK],
            filled: 0,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        let room = BLOCK - self.filled;
        if bytes.len() <= room {
            return self.keep(bytes);
        }
        let (head, rest) = bytes.split_at(room);
        self.keep(head);
        symbols::aes_cbc_mac(self.key.as_bytes(), &mut self.chain, &[self.pending]);
        self.filled = 0;
        // At least one byte stays behind.
        let (whole, last) = rest.split_at((rest.len() - 1) / BLOCK * BLOCK);
        let (blocks, _) = whole.as_chunks();
        if !blocks.is_empty() {
            symbols::aes_cbc_mac(self.key.as_bytes(), &mut self.chain, blocks);
        }
        self.keep(last);
    }

    /// As many bytes as there is room for.
    fn keep(&mut self, bytes: &[u8]) {
        let places = self.pending.iter_mut().skip(self.filled);
        places.zip(bytes).for_each(|(to, from)| *to = *from);
        self.filled = (self.filled + bytes.len()).min(BLOCK);
    }

    fn finalize(mut self) -> [u8; BLOCK] {
        let mut subkey = Zeroizing::new([0; BLOCK]);
        ecb_encrypt(&self.key, &mut subkey);
        double(&mut subkey);
        if self.filled < BLOCK {
            double(&mut subkey);
            let (_, rest) = self.pending.split_at_mut(self.filled);
            rest.fill(0);
            if let [first, ..] = rest {
                *first = 0x80;
            }
        }
        xor(&mut self.pending, &*subkey);
        symbols::aes_cbc_mac(self.key.as_bytes(), &mut self.chain, &[self.pending]);
        self.chain
    }
}

/// Multiplication by x in GF(2^128) (SP 800-38B, 6.1), in a time that does not depend on the block.
fn double(block: &mut [u8; BLOCK]) {
    let value = u128::from_be_bytes(*block);
    *block = ((value << 1) ^ (0x87 & (value >> 127).wrapping_neg())).to_be_bytes();
}

/// AES-128 on single blocks.
#[derive(Clone)]
pub(crate) struct Block(AesKey);

impl Block {
    pub(crate) fn new(key: &[u8; BLOCK]) -> Self {
        Self(AesKey::aes128(*key))
    }

    pub(crate) fn encrypt(&self, block: &mut [u8; BLOCK]) {
        ecb_encrypt(&self.0, block);
    }

    pub(crate) fn decrypt(&self, block: &mut [u8; BLOCK]) {
        symbols::aes_decrypt(self.0.as_bytes(), core::slice::from_mut(block));
    }
}

/// AES-SIV-CMAC-256.
pub(crate) struct Siv {
    mac: AesKey,
    enc: AesKey,
}

impl Siv {
    pub(crate) fn new(key: &[u8; 2 * BLOCK]) -> Self {
        let (mac, enc) = halves_of_key(key);
        Self { mac, enc }
    }

    #[allow(clippy::unnecessary_wraps, reason = "as in the other engine")]
    pub(crate) fn seal<H: AsRef<[u8]>>(&mut self, headers: &[H], text: &mut [u8]) -> Option<[u8; BLOCK]> {
        let tag = self.s2v(headers, text);
        self.key_stream(&tag, text);
        Some(tag)
    }

    pub(crate) fn open<H: AsRef<[u8]>>(
        &mut self,
        headers: &[H],
        text: &mut [u8],
        tag: &[u8; BLOCK],
    ) -> Option<()> {
        self.key_stream(tag, text);
        if ct_eq(&self.s2v(headers, text), tag) {
            return Some(());
        }
        self.key_stream(tag, text);
        None
    }

    /// RFC 5297, 2.6: two bits of V are left out of the first counter.
    fn key_stream(&self, tag: &[u8; BLOCK], text: &mut [u8]) {
        let first = u128::from_be_bytes(*tag) & !((1 << 63) | (1 << 31));
        let _ = ctr_xor(&self.enc, &first.to_be_bytes(), 0, text);
    }

    /// RFC 5297, 2.4.
    fn s2v<H: AsRef<[u8]>>(&self, headers: &[H], text: &[u8]) -> [u8; BLOCK] {
        let mut d = crate::cmac(&self.mac, &[&[0; BLOCK]]);
        for header in headers {
            double(&mut d);
            xor(&mut d, &crate::cmac(&self.mac, &[header.as_ref()]));
        }
        if let Some((head, last)) = text.split_last_chunk::<BLOCK>() {
            xor(&mut d, last);
            crate::cmac(&self.mac, &[head, &d])
        } else {
            double(&mut d);
            xor(&mut d, text);
            xor(d.get_mut(text.len()..).unwrap_or_default(), &[0x80]);
            crate::cmac(&self.mac, &[&d])
        }
    }
}

fn halves_of_key(key: &[u8; 2 * BLOCK]) -> (AesKey, AesKey) {
    let [mac @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *key;
    let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, enc @ ..] = *key;
    (AesKey::aes128(mac), AesKey::aes128(enc))
}
