//! The rival: the same update enciphered for each SE by itself, in its own SCP03 channel.

use anyhow::{Context, Result};
use sekisho_apdu::gp::ins;
use sekisho_apdu::{CApdu, Cla, Writer};
use sekisho_keys::{AesKey, KeySet};
use sekisho_scp::host::{Challenge, HostChannel, SessionKeys};
use sekisho_scp::{MacMode, SecurityLevel};
use std::time::Instant;

/// What it costs the server for one SE.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unicast {
    /// Time to protect all commands, in microseconds.
    pub(crate) micros: f64,
    /// Bytes of all commands.
    pub(crate) bytes: u64,
}

/// Image bytes of one command, as in a broadcast.
const BLOCK: usize = 239;

/// Protects `image` for `rounds` SEs, level 03, and takes the mean.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn measure(image: &[u8], rounds: u32) -> Result<Unicast> {
    let mut bytes = 0_u64;
    let start = Instant::now();
    for round in 0..rounds {
        bytes = wrap(image, round)?;
    }
    Ok(Unicast {
        micros: start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds),
        bytes,
    })
}

fn wrap(image: &[u8], round: u32) -> Result<u64> {
    let key = |n: u8| AesKey::new(&[n.wrapping_add(round.to_be_bytes()[3]); 16]).context("key");
    let keys = KeySet {
        enc: key(1)?,
        mac: key(2)?,
        dek: key(3)?,
    };
    let (host, card) = (
        Challenge::try_from(&[5; 8][..])?,
        Challenge::try_from(&[6; 8][..])?,
    );
    let session = SessionKeys::derive(&keys, &host, &card)?;
    let cryptogram = session.host_cryptogram(&host, &card)?;
    let mut channel = HostChannel::new(session, MacMode::S8);
    let mut buf = [0; 261];
    channel.external_authenticate(
        SecurityLevel::C_DECRYPTION_C_MAC,
        &cryptogram,
        &mut Writer::new(&mut buf),
    )?;
    let mut bytes = 0_u64;
    for (block, part) in (0_u16..).zip(image.chunks(BLOCK)) {
        let [p1, p2] = block.to_be_bytes();
        let mut out = Writer::new(&mut buf);
        channel.wrap(&CApdu::new(Cla::GP, ins::WRITE, p1, p2).with_data(part), &mut out)?;
        bytes += u64::try_from(std::hint::black_box(out.written()).len())?;
    }
    Ok(bytes)
}

/// The stronger rival: CBC and CMAC of `lanes` SEs side by side, block by block, so that the processor works on several at once. Framing is
/// left out and the best of three rounds taken, in the rival's favour. Time for one SE, in microseconds.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn measure_interleaved(image: &[u8], lanes: u8) -> Result<f64> {
    use aes::Aes128;
    use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
    let cipher = |n: u8| Aes128::new(&Array::from([n; 16]));
    let ciphers: Vec<_> = (0..lanes).map(|n| (cipher(n), cipher(n ^ 0x80))).collect();
    let mut best = f64::MAX;
    for _ in 0..3 {
        let mut states = vec![(0_u128, 0_u128); ciphers.len()];
        let (blocks, _) = image.as_chunks::<16>();
        let start = Instant::now();
        for block in blocks {
            let plain = u128::from_ne_bytes(*block);
            for ((enc, mac), (cbc, sum)) in ciphers.iter().zip(&mut states) {
                let mut sealed = Array::from((*cbc ^ plain).to_ne_bytes());
                enc.encrypt_block(&mut sealed);
                *cbc = u128::from_ne_bytes(sealed.into());
                let mut summed = Array::from((*sum ^ *cbc).to_ne_bytes());
                mac.encrypt_block(&mut summed);
                *sum = u128::from_ne_bytes(summed.into());
            }
        }
        std::hint::black_box(&states);
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / f64::from(lanes));
    }
    Ok(best)
}
