//! Any characters, and any bodies of blocks and frames behind right check bytes, to both ends of each protocol: what is said fits, and each exchange ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sekisho_block::atr::{self, BlockParameters};
use sekisho_block::check::lrc;
use sekisho_block::{Micros, pps::Pps, t0, t1};

const WAIT: u64 = 1_000_000;

fuzz_target!(|data: &[u8]| {
    let _ = atr::parse(data);
    let _ = Pps::parse(data);
    characters(data);
    blocks(data);
});

/// T=0: pieces of up to 15 characters; the first four bits of each say how many.
fn characters(data: &[u8]) {
    let timing = t0::Timing { wt: WAIT, guard: 0 };
    let mut card = t0::Card::<300, 2>::new(timing, t0::Acknowledge::Whole, t0::direction);
    let mut device = t0::Device::<300>::new(timing);
    device.start(&[0, 0xA4, 4, 0, 2, 1, 2, 0]);
    let mut out = [0; t0::OUT_MAX];
    let mut now = Micros(0);
    for piece in pieces(data) {
        now = now.after(100);
        card.hear(now, piece);
        if card.command().is_some() {
            card.take();
            card.answer(piece);
        }
        let _ = card.say(now, &mut out);
        let _ = device.say(now, &mut out);
        device.hear(now, piece);
        if device.ended().is_some() {
            device.reset();
            device.start(&[0, 0xB0, 0, 0, 0]);
        }
    }
    let _ = device.say(now, &mut out);
    device.expire(now.after(2 * WAIT));
    device.expire(now.after(4 * WAIT));
    assert!(device.ended().is_some());
}

/// T=1: each piece a block, with its length and LRC put right in every second one.
fn blocks(data: &[u8]) {
    let timing = t1::Timing { cwt: 100, bwt: WAIT, guard: 10 };
    let mut card = t1::Card::<300>::new(false, timing);
    let mut device = t1::Device::<300>::new(0, BlockParameters::DEFAULT, timing);
    device.start(&[0, 0xA4, 4, 0, 2, 1, 2, 0]);
    let mut out = [0; t1::BLOCK_MAX];
    let mut now = Micros(0);
    for (number, piece) in pieces(data).enumerate() {
        let mut block = piece.to_vec();
        if number % 2 == 0 && block.len() >= 2 {
            block.insert(2, (block.len() - 2) as u8);
            block[0] = 0;
            block.push(lrc(&block));
        }
        card.hear(now, &block);
        let _ = device.say(now, &mut out);
        device.hear(now, &block);
        now = now.after(200);
        card.expire(now);
        device.expire(now);
        card.run(|_, answer| {
            let len = piece.len().min(answer.len());
            answer[..len].copy_from_slice(&piece[..len]);
            len
        });
        let _ = card.say(&mut out);
        if device.ended().is_some() {
            device.start(&[0, 0xB0, 0, 0, 0]);
        }
    }
    for _ in 0..20 {
        let _ = device.say(now, &mut out);
        now = now.after(256 * WAIT);
        device.expire(now);
    }
    assert!(device.ended().is_some());
}

fn pieces(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        let (first, rest) = data.split_first()?;
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(first & 0x0F)));
        data = rest;
        Some(piece)
    })
}
