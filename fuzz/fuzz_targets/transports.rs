//! Any characters, and any bodies of blocks and frames behind right check bytes, to both ends of each protocol: what is said fits, and each exchange ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sekisho_block::atr::{self, BlockParameters};
use sekisho_block::check::{crc, lrc};
use sekisho_block::{Micros, contact, hci, lr1, pps::Pps, swp, t0, t1, t1p};

const WAIT: u64 = 1_000_000;

fuzz_target!(|data: &[u8]| {
    let _ = atr::parse(data);
    let _ = Pps::parse(data);
    contacts(data);
    characters(data);
    blocks(data);
    let _ = t1p::cip::Cip::parse(data);
    bus(data);
    wire(data);
    hosts(data);
    records(data);
});

/// A line with contacts: ATR, PPS and what comes of them. In every second step each end hears what the other has said, and both hear a piece.
fn contacts(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let line = contact::Line { hertz: 4_000_000, slack: 1, least: 0, guard: 0 };
    let atrs: [&[u8]; 3] = [
        &[0x3B, 0x10, 0x94],
        &[0x3B, 0x80, 0x80, 0x01, 0x01],
        &[0x3B, 0x80, 0x81, 0x31, 0xFE, 0x45, 0x8B],
    ];
    let atr = atrs[usize::from(*first) % atrs.len()];
    let fresh = || contact::Card::<300, 2>::new(atr, line, t0::Acknowledge::Whole, t0::direction).unwrap();
    let mut card = fresh();
    let protocol = [None, Some(atr::Protocol::T0), Some(atr::Protocol::T1)][usize::from(first >> 4) % 3];
    let wish = contact::Wish { protocol, speed: Some(0x94), ..contact::Wish::ANY };
    let mut device = contact::Device::<300>::new(wish, line);
    let mut out = [0; contact::OUT_MAX];
    let mut now = Micros(0);
    let mut started = false;
    for (number, piece) in pieces(data).enumerate() {
        now = now.after(2_000);
        if device.power(now).is_some() {
            card = fresh();
        }
        let is_whole = number % 2 == 0;
        while let Some(len) = card.say(now, &mut out) {
            if is_whole {
                device.hear(now, &out[..len]);
            }
        }
        while let Some(len) = device.say(now, &mut out) {
            if is_whole {
                card.hear(now, &out[..len]);
            }
        }
        if !is_whole {
            card.hear(now, piece);
            device.hear(now, piece);
        }
        if card.command().is_some() {
            card.take();
            card.answer(piece);
        }
        started |= device.start(piece);
        now = now.after(2_000);
        card.expire(now);
        device.expire(now);
    }
    // Nobody answers any more.
    for _ in 0..200 {
        let _ = device.power(now);
        while device.say(now, &mut out).is_some() {}
        let Some(at) = device.deadline() else { break };
        now = now.max(at);
        device.expire(now);
    }
    assert!(device.opened().is_some());
    assert!(!started || device.ended().is_some());
}

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

const CIP: t1p::cip::Cip<'static> = t1p::cip::Cip {
    issuer: &[],
    common: t1p::cip::Common { configuration: 0, pwt: 0, mcf: 400, pst: 1, mpot: 1 },
    physical: t1p::cip::Physical::I2c { rwgt: 1 },
    bwt: 300,
    ifsc: 40,
    historical: &[],
};

/// T=1': each piece is written and read, with its length and CRC put right in every second one.
fn bus(data: &[u8]) {
    let mut now = Micros(0);
    let mut card = t1p::Card::<100, 64, 1>::new(now, &CIP, [&[t1p::NAD_GP]]).unwrap();
    let mut device = t1p::Device::<100, 64>::new(now, t1p::Bus::I2c, t1p::NAD_GP, 6);
    device.open(now, t1p::ORDER_RESET_FIRST);
    let mut out = [0; 64];
    for (number, piece) in pieces(data).enumerate() {
        let mut block = piece.to_vec();
        if number % 2 == 0 && block.len() >= 2 {
            block[0] = if number % 4 == 0 { t1p::NAD_GP } else { 0x12 };
            block.splice(2..2, [0, (piece.len() - 2) as u8]);
            block.extend(crc(&block).to_be_bytes());
        }
        now = now.after(100_000);
        card.write(now, &block);
        if card.command().is_some() {
            card.take(0);
            card.answer(now, 0, piece);
        }
        card.read(now.after(1_000), &mut [0; 9]);
        match device.access(now, &mut out) {
            Some(t1p::Access::Write(len)) => {
                assert!(len <= 64);
                device.wrote(now, number % 5 != 0);
            }
            Some(t1p::Access::Read(n)) => {
                block.resize(n, 0xFF);
                device.read(now, Some(&block).filter(|_| number % 3 != 0).map(|block| &block[..]));
            }
            None => {}
        }
        if device.opened().is_some() && device.ended().is_none() {
            device.start(now, piece);
        }
    }
    for _ in 0..4_000 {
        match device.access(now, &mut out) {
            Some(t1p::Access::Write(_)) => device.wrote(now, true),
            Some(t1p::Access::Read(_)) => device.read(now, None),
            None => {}
        }
        now = now.after(66_000_000);
    }
    assert_eq!(device.deadline(), None);
}

/// SWP: bits as they are, and each piece as a frame, with right check bytes in all but every fourth.
fn wire(data: &[u8]) {
    let mut lpdu = [0; swp::LPDU_MAX];
    for bits in [data.len() * 8, (data.len() * 8).saturating_sub(3), usize::MAX] {
        let _ = swp::frame::read(data, bits, swp::frame::Ending::Plain, &mut lpdu);
    }
    let mut now = Micros(0);
    let card = swp::Role::Card { sync_id: [1, 2], information: None };
    for role in [card, swp::Role::Device] {
        let mut link = swp::Link::new(now, role, 4, true, swp::Timing::LINUX);
        let mut out = [0; swp::FRAME_MAX];
        let mut information = [0; swp::INFORMATION_MAX];
        // Activated, and standing.
        for frame in [&[0x61, 1, 2][..], &[0x62, 1], &[0x60], &[0xF9, 4, 1], &[0xE6]] {
            let frame = [frame, &crc(frame).to_le_bytes()].concat();
            link.hear(now, &frame);
            let _ = link.say(now, &mut out);
        }
        for (number, piece) in pieces(data).enumerate() {
            let mut frame = piece.to_vec();
            if number % 4 != 0 {
                frame.extend(crc(piece).to_le_bytes());
            }
            link.hear(now, &frame);
            link.send(now, &piece[..piece.len().min(4)]);
            let _ = (link.take(&mut information), link.event());
            while link.say(now, &mut out).is_some() {}
            now = now.after(50_000);
            link.expire(now);
        }
        for _ in 0..1_000 {
            while link.say(now, &mut out).is_some() {}
            let Some(at) = link.deadline() else { break };
            now = now.max(at);
            link.expire(now);
        }
        assert_eq!(link.deadline(), None);
    }
}

/// HCI: each piece a packet, on the pipe of the APDU gate, the administration pipe, or as it is.
fn hosts(data: &[u8]) {
    let timing = hci::Timing { wait: WAIT, response: WAIT, reader: 3 * WAIT };
    let mut card = hci::Card::<40>::new(timing, hci::Gates::ALL, &[0x3B, 0], hci::Session::default(), [7; 8]);
    let mut device = hci::Device::<40>::new(timing, 2, 0x19);
    let mut now = Micros(0);
    card.linked();
    device.linked(now);
    let mut out = [0; swp::INFORMATION_MAX];
    for packet in [&[0x81, 0x12, 1, 0x11, 2, 0x30, 0x19][..], &[0x99, 3]] {
        card.hear(packet);
    }
    // The session begins, with pipes to the card gates, at both ends.
    for _ in 0..40 {
        while let Some(len) = card.packet(&mut out) {
            card.sent();
            device.hear(now, &out[..len]);
        }
        while let Some(len) = device.packet(&mut out) {
            device.sent();
            card.hear(&out[..len]);
        }
    }
    assert!(device.reader_is_ready(hci::Technology::A));
    for (number, piece) in pieces(data).enumerate() {
        let mut packet = piece.to_vec();
        if let Some(first) = packet.first_mut() {
            *first = [0x99, 0x81, 0x82, 0x19, 0x02, *first][number % 6];
        }
        card.hear(&packet);
        device.hear(now, &packet);
        if card.command().is_some() {
            card.take(now);
            card.answer(piece);
        }
        if card.reader_command().is_some() {
            card.take_reader();
            card.answer_reader(piece);
        }
        device.start(now, piece);
        device.start_reader(now, hci::Technology::A, piece);
        if number % 7 == 0 {
            device.leave_reader(now);
        }
        let _ = (card.packet(&mut out), device.packet(&mut out));
        card.sent();
        device.sent();
        now = now.after(WAIT / 3);
        card.expire(now);
        device.expire(now);
    }
    for _ in 0..40 {
        while device.packet(&mut out).is_some() {
            device.sent();
        }
        now = now.after(3 * WAIT);
        device.expire(now);
    }
    assert_eq!(device.deadline(), None);
}

/// LR1: what is read is written as the same bytes.
fn records(data: &[u8]) {
    let mut reader = lr1::Reader::<64>::new(lr1::Protocol::Bus(t1p::Bus::I2c), lr1::From::Device);
    let mut rest = data;
    loop {
        let before = rest;
        let Ok(Some(record)) = reader.read(&mut rest) else { break };
        let mut out = [0; 80];
        let len = record.write(&mut out).unwrap();
        assert_eq!(out[..len], before[..before.len() - rest.len()]);
    }
}

fn pieces(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        let (first, rest) = data.split_first()?;
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(first & 0x0F)));
        data = rest;
        Some(piece)
    })
}
