//! HCI: packets, gates, the session's beginning, and the APDU gate, at each host alone; what a reader does is in `hci_readers`.

use crate::line;
use line::Rng;
use sekisho_block::hci::ids::HOST_UICC;
use sekisho_block::hci::{self, Buffer, Gates, Kind, Session};
use sekisho_block::swp::INFORMATION_MAX;
use sekisho_block::{Ended, Fault, Micros};

pub(super) const LEN: usize = 601;
pub(super) const TIMING: hci::Timing = hci::Timing {
    wait: 4_000_000,
    response: 1_000_000,
    reader: 20_000_000,
};
pub(super) const ATR: [u8; 5] = [0x3B, 0x80, 0x80, 0x01, 0x01];
pub(super) const FRESH: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
/// A card that takes the device's own default for its session.
const DEFAULT: Session = Session {
    identity: [0xFF; 8],
    pipes: [None; 4],
    own: [None; 3],
};

/// A worked exchange of `docs/spec/transports.md`, section 6.
pub(super) fn block(name: &str) -> Vec<&'static str> {
    let page = include_str!("../../../../docs/spec/transports.md");
    let block = page.split(&format!("```{name}\n")).nth(1).unwrap();
    block.split("```").next().unwrap().lines().collect()
}

/// Packets of each host, which says what the page says when it hears what the page says: APDUs on the APDU gate.
#[test]
fn the_page_shows_an_exchange_that_happens() {
    let mut card = hci::Card::<LEN>::new(TIMING, Gates::NONE, &ATR, DEFAULT, FRESH);
    let mut device = hci::Device::<LEN>::new(TIMING, HOST_UICC, 0x19);
    card.linked();
    device.linked(Micros(0));
    let mut now = Micros(0);
    let mut out = [0; INFORMATION_MAX];
    let lines = block("hci");
    for text in &lines {
        let (mark, packet) = text.split_at(2);
        let said = if mark == "> " {
            if device.packet(&mut out).is_none() {
                now = now.after(TIMING.response);
                device.expire(now);
            }
            if device.is_ready() {
                device.start(now, &[0x00, 0xA4, 0x04, 0x00, 0x00]);
            }
            let len = device.packet(&mut out).unwrap();
            device.sent();
            card.hear(&out[..len]);
            len
        } else {
            if card.command().is_some() {
                card.take(now);
                card.answer(&[0x6A, 0x82]);
            }
            let len = card.packet(&mut out).unwrap();
            card.sent();
            device.hear(now, &out[..len]);
            len
        };
        assert_eq!(hex::encode_upper(&out[..said]), packet);
    }
    assert_eq!(lines.len(), 10);
    assert_eq!(device.ended(), Some(Ended::Answer(&[0x6A, 0x82])));
}

pub(super) fn card_says(card: &mut hci::Card<LEN>, heard: &str) -> String {
    card.hear(&hex::decode(heard.replace(' ', "")).unwrap());
    let mut out = [0; INFORMATION_MAX];
    match card.packet(&mut out) {
        Some(len) => {
            card.sent();
            hex::encode_upper(&out[..len])
        }
        None => String::new(),
    }
}

/// Gates and registries: loopback, identity, link management, the APDU gate's two sizes; closed pipes, unknown parameters, full, deleted, cleared.
#[test]
fn gates_answer_as_the_table_says() {
    let mut card = hci::Card::<LEN>::new(TIMING, Gates::NONE, &ATR, DEFAULT, FRESH);
    for (heard, said) in [
        ("81 12 01 11 02 30 19", "8180"),
        ("81 12 01 11 02 30 19", "8183"),
        ("81 12 01 11 02 77 1A", "8183"),
        ("81 12 01 11 02 30 01", "8183"),
        ("81 12 01 11 02 30", "8183"),
        ("81 12 01 04 02 04 02", "8180"),
        ("81 12 01 05 02 05 03", "8180"),
        ("81 12 00 05 02 05 04", "8180"),
        ("81 12 00 05 02 05 05", "8184"),
        ("81 10", "8187"),
        // Closed, then open.
        ("99 02 01", "9986"),
        ("99 03", "9980"),
        ("99 02 01", "99800258"),
        ("99 02 02", "99800FA0"),
        ("99 02 03", "9985"),
        ("99 01 01 00", "998A"),
        ("99 05", "9987"),
        ("82 42 AA BB", ""),
        ("82 03", "8280"),
        ("82 42 AA BB", "8242AABB"),
        ("83 03", "8380"),
        ("83 02 02", "838002"),
        ("83 02 06", "838004050630"),
        ("80 02 01", "80800000"),
        // A message in two packets; one that is too long.
        ("02 42 AA", ""),
        ("82 BB", "8242AABB"),
        // Events of the APDU gate.
        ("99 51", "99523B80800101"),
        ("99 61", ""),
        ("99 50", "99506700"),
        ("99 04", "9980"),
        ("99 50 00A4040000", ""),
        ("81 13 19", "8180"),
        ("99 03", ""),
        ("81 15 01", "8180"),
        ("82 03", ""),
        ("84 03", "8480"),
    ] {
        assert_eq!(card_says(&mut card, heard), said, "{heard}");
        assert_eq!(card.command(), None);
    }
}

/// A second command while one runs is passed over; ABORT drops it, and its answer; the late answer of a dropped command is nobody's.
#[test]
fn one_command_at_a_time() {
    let mut card = hci::Card::<LEN>::new(TIMING, Gates::NONE, &ATR, DEFAULT, FRESH);
    for heard in ["8112 0111 0230 19", "9903"] {
        card_says(&mut card, heard);
    }
    assert_eq!(card_says(&mut card, "9950 00A4040000"), "");
    assert_eq!(card.command(), Some(&[0, 0xA4, 4, 0, 0][..]));
    card.take(Micros(0));
    assert_eq!(card_says(&mut card, "9950 0084000008"), "");
    let at = card.deadline().unwrap();
    assert_eq!(at, Micros(TIMING.wait / 2));
    card.expire(at);
    assert_eq!(card_says(&mut card, ""), "9951");
    assert_eq!(card_says(&mut card, "9951"), "99523B80800101");
    assert!(card.reset_wanted());
    card.answer(&[0x90, 0x00]);
    assert_eq!(card_says(&mut card, ""), "");
    assert_eq!(card_says(&mut card, "9950 0084000008"), "");
    assert_eq!(card.command(), Some(&[0, 0x84, 0, 0, 8][..]));
    card.take(Micros(0));
    card.answer(&[]);
    assert_eq!(card_says(&mut card, ""), "99506F00");
}

/// A card that does not stop asking for time, or that answers before it was asked, or with nothing.
#[test]
fn a_card_that_does_not_stop_gets_a_bound() {
    for (heard, at_most, why) in [
        ("9951", 501, Fault::Protocol),
        ("9950", 1, Fault::Protocol),
        ("995090", 1, Fault::Protocol),
    ] {
        let mut device = hci::Device::<LEN>::new(TIMING, HOST_UICC, 0x19);
        let mut out = [0; INFORMATION_MAX];
        device.linked(Micros(0));
        device.hear(Micros(0), &[0x81, 0x02, 0x01]);
        for response in [&[0x81, 0x80][..], &[0x99, 0x80]] {
            device.expire(device.deadline().unwrap());
            while device.packet(&mut out).is_some() {
                device.sent();
            }
            device.hear(Micros(0), response);
        }
        assert!(device.is_ready() && device.start(Micros(0), &[0x80, 0]));
        while device.packet(&mut out).is_some() {
            device.sent();
        }
        let mut heards = 0;
        while device.ended().is_none() {
            device.hear(Micros(0), &hex::decode(heard).unwrap());
            heards += 1;
        }
        assert_eq!(
            (device.ended(), heards),
            (Some(Ended::Unknown(why)), at_most),
            "{heard}"
        );
    }
}

/// Any packets at both hosts.
#[test]
fn any_packets_are_taken() {
    let mut rng = Rng::new(8);
    for _ in 0..2_000 {
        let mut card = hci::Card::<40>::new(TIMING, Gates::NONE, &ATR, DEFAULT, FRESH);
        let mut device = hci::Device::<40>::new(TIMING, HOST_UICC, 0x19);
        let mut now = Micros(0);
        card.hear(&[0x81, 0x12, 1, 0x11, 2, 0x30, 0x19]);
        card.hear(&[0x99, 3]);
        for _ in 0..60 {
            let mut bytes: Vec<u8> = (0..rng.below(29))
                .map(|_| [0x50, 0x51, 0x80, 3, 2, rng.below(256) as u8][rng.below(6) as usize])
                .collect();
            if let Some(first) = bytes.first_mut() {
                *first = [0x81, 0x99, 0x19, 0x82, *first][rng.below(5) as usize];
            }
            let mut out = [0; INFORMATION_MAX];
            card.hear(&bytes);
            device.hear(now, &bytes);
            if card.command().is_some() {
                card.take(now);
                card.answer(&bytes);
            }
            device.start(now, &[1, 2, 3]);
            for _ in 0..rng.below(3) {
                let _ = (card.packet(&mut out), device.packet(&mut out));
                card.sent();
                device.sent();
            }
            now = now.after(rng.below(3_000_000));
            card.expire(now);
            device.expire(now);
        }
    }
}

/// What is cut is put together; fragments of another pipe begin anew, what is too long is passed over.
#[test]
fn packets_make_messages() {
    let mut out = [0; INFORMATION_MAX];
    for len in [0, 1, 26, 27, 28, 29, 55, 56, 99] {
        let data: Vec<u8> = (0..len).collect();
        let mut from = Buffer::<100>::default();
        let mut to = Buffer::<100>::default();
        let mut small = Buffer::<10>::default();
        assert!(from.put(0x19, Kind::Event.header(0x10), &data));
        let mut whole = false;
        while let Some(n) = from.packet(&mut out) {
            from.sent();
            whole = to.take(&out[..n]);
            assert_eq!(whole, from.is_empty());
            assert_eq!(small.take(&out[..n]), whole && len < 10);
        }
        assert!(whole);
        let message = to.message().unwrap();
        assert_eq!(
            (message.pipe, message.kind, message.instruction, message.data),
            (0x19, Kind::Event, 0x10, &data[..])
        );
        assert!(!small.take(&[0x19]) && small.take(&[0x82, 0x42]));
    }
    assert!(!Buffer::<10>::default().put(1, 0, &[0; 10]));
    assert!(!Buffer::<10>::default().take(&[0x81]));
    assert!(!Buffer::<10>::default().take(&[]));
}

/// A device whose pipe is open, and all that it has to send.
fn standing() -> hci::Device<LEN> {
    let mut device = hci::Device::<LEN>::new(TIMING, HOST_UICC, 0x19);
    device.linked(Micros(0));
    device.hear(Micros(0), &[0x81, 0x02, 0x01]);
    for response in [&[0x81, 0x80][..], &[0x99, 0x80]] {
        device.expire(device.deadline().unwrap());
        drain(&mut device, 99);
        device.hear(Micros(0), response);
    }
    assert!(device.is_ready());
    device
}

pub(super) fn drain(device: &mut hci::Device<LEN>, most: usize) -> Vec<Vec<u8>> {
    let mut out = [0; INFORMATION_MAX];
    let mut packets = Vec::new();
    while packets.len() < most
        && let Some(len) = device.packet(&mut out)
    {
        packets.push(out[..len].to_vec());
        device.sent();
    }
    packets
}

/// After an unknown outcome ABORT goes first, and nothing before ATR; the answer that comes late is not that of the next command.
#[test]
fn a_late_answer_is_nobodys() {
    let mut device = standing();
    assert!(device.start(Micros(0), &[0x80, 1]));
    drain(&mut device, 99);
    device.expire(device.deadline().unwrap());
    assert_eq!(device.ended(), Some(Ended::Unknown(Fault::Silent)));
    assert!(device.start(Micros(0), &[0x80, 2]));
    assert_eq!(drain(&mut device, 99), [[0x99, 0x51]]);
    device.hear(Micros(0), &[0x99, 0x50, 0x01, 0x90, 0x00]);
    assert!(drain(&mut device, 99).is_empty());
    assert_eq!(device.ended(), None);
    device.hear(Micros(0), &[0x99, 0x52, 0x3B, 0x00]);
    assert_eq!(drain(&mut device, 99), [[0x99, 0x50, 0x80, 0x02]]);
    device.hear(Micros(0), &[0x99, 0x50, 0x02, 0x90, 0x00]);
    assert_eq!(device.ended(), Some(Ended::Answer(&[0x02, 0x90, 0x00])));
}

/// What has been begun on a pipe goes to its end: the command of the device, and the answer of the card.
#[test]
fn what_is_begun_goes_to_its_end() {
    let mut device = standing();
    let command = [0x5A; 100];
    assert!(device.start(Micros(0), &command));
    let mut packets = drain(&mut device, 2);
    device.expire(device.deadline().unwrap());
    assert_eq!(device.ended(), Some(Ended::Unknown(Fault::Silent)));
    assert!(!device.start(Micros(0), &[1, 2, 3]));
    packets.extend(drain(&mut device, 99));
    assert!(device.start(Micros(0), &[1, 2, 3]));
    packets.extend(drain(&mut device, 99));
    let mut card = hci::Card::<LEN>::new(TIMING, Gates::NONE, &ATR, DEFAULT, FRESH);
    for heard in ["8112 0111 0230 19", "9903"] {
        card_says(&mut card, heard);
    }
    let (abort, pieces) = packets.split_last().unwrap();
    for packet in pieces {
        card.hear(packet);
    }
    assert_eq!(card.command(), Some(&command[..]));
    card.take(Micros(0));
    card.answer(&[0x77; 60]);
    let mut out = [0; INFORMATION_MAX];
    let mut buffer = Buffer::<LEN>::default();
    let len = card.packet(&mut out).unwrap();
    assert!(!buffer.take(&out[..len]));
    card.sent();
    card.hear(abort);
    let mut messages = Vec::new();
    while let Some(len) = card.packet(&mut out) {
        card.sent();
        if buffer.take(&out[..len]) {
            messages.push((
                buffer.message().unwrap().instruction,
                buffer.message().unwrap().data.len(),
            ));
        }
    }
    assert_eq!(messages, [(0x10, 60), (0x12, ATR.len())]);
    // An answer to a command that was dropped is not that of the next one.
    assert_eq!(card_says(&mut card, "9950 0084000008"), "");
    card.take(Micros(0));
    assert_eq!(card_says(&mut card, "9951"), "99523B80800101");
    assert_eq!(card_says(&mut card, "9950 00A4040000"), "");
    card.answer(&[0x01, 0x90, 0x00]);
    assert_eq!(card_says(&mut card, ""), "");
    assert_eq!(card.command(), Some(&[0, 0xA4, 4, 0, 0][..]));
}

/// An event of a gate with so much data, in packets.
pub(super) fn packets(pipe: u8, event: u8, data: &[u8]) -> Vec<Vec<u8>> {
    let mut out = [0; INFORMATION_MAX];
    let mut buffer = Buffer::<{ 2 * LEN }>::default();
    assert!(buffer.put(pipe, Kind::Event.header(event), data));
    let mut packets = Vec::new();
    while let Some(len) = buffer.packet(&mut out) {
        packets.push(out[..len].to_vec());
        buffer.sent();
    }
    packets
}

/// A command that is longer than the card's buffer is answered and not run, and the next one is run; on a closed pipe nothing is answered.
#[test]
fn a_command_that_is_too_long_is_answered() {
    let mut card = hci::Card::<LEN>::new(TIMING, Gates::NONE, &ATR, DEFAULT, FRESH);
    card_says(&mut card, "8112 0111 0230 19");
    let says = |card: &mut hci::Card<LEN>, len: usize| {
        let all = packets(0x19, 0x10, &vec![0x5A; len]);
        let said: Vec<_> = all
            .iter()
            .map(|packet| card_says(card, &hex::encode(packet)))
            .collect();
        said.concat()
    };
    assert_eq!(says(&mut card, LEN), "");
    card_says(&mut card, "9903");
    for len in [LEN, LEN + 27, 2 * LEN - 1] {
        assert_eq!(says(&mut card, len), "99506700", "{len}");
        assert_eq!(card.command(), None);
    }
    assert_eq!(says(&mut card, LEN - 1), "");
    assert_eq!(card.command().map(<[u8]>::len), Some(LEN - 1));
}

/// Section 6.5 of the page has each identifier of `src/hci/ids.rs` with its value, and no other.
#[test]
fn the_page_has_every_identifier() {
    let page = include_str!("../../../../docs/spec/transports.md");
    let section = page
        .split("### 6.5 ")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let mut known = Vec::new();
    for line in include_str!("../src/hci/ids.rs").lines() {
        if let Some((name, value)) = line.strip_prefix("pub const ").and_then(|of| of.split_once(": ")) {
            let (_, value) = value.trim_end_matches(';').split_once(" = ").unwrap();
            let value = value.replace("0x", "").replace(", ", " or ");
            known.push(format!("{name} {}", value.trim_matches(['[', ']'])));
        }
    }
    assert_eq!(known.len(), 61);
    let mut shown: Vec<_> = section.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    known.sort();
    shown.sort();
    assert_eq!(shown, known);
}
