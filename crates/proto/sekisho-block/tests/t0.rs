//! T=0: published exchanges, the cases of APDUs, what a fault comes to, and both ends over a line in virtual time.

use crate::characters;
use crate::element;
use crate::line;
use characters::{CardNode, DeviceNode, TIMING};
use element::{Element, On};
use line::{Faults, Line, Node, Rng};
use sekisho_block::t0::{Acknowledge, Card, Device, OUT_MAX, Timing, direction};
use sekisho_block::{Ended, Fault, Micros};

/// What a card without an operating system of its own says to characters, one piece after another.
fn card_says(acknowledge: Acknowledge, pairs: &[(&str, &str)]) {
    let mut card = Card::<600, 2>::new(TIMING, acknowledge, direction);
    let mut out = [0; OUT_MAX];
    let now = Micros(0);
    for (heard, said) in pairs {
        card.hear(now, &hex::decode(heard).unwrap());
        if let Some(command) = card.command().map(<[u8]>::to_vec) {
            if *heard == "0084000008" {
                let half = now.after(TIMING.wt / 2);
                for _ in 0..2 {
                    card.expire(card.deadline().unwrap());
                    assert_eq!(card.say(half, &mut out), Some(1));
                    assert_eq!(out[0], 0x60);
                }
            }
            card.take();
            card.answer(&published(&command));
        }
        let len = card.say(now, &mut out).unwrap_or(0);
        assert_eq!(
            hex::encode_upper(&out[..len]),
            said.replace("6060", ""),
            "to {heard}"
        );
    }
}

fn published(command: &[u8]) -> Vec<u8> {
    let data: Vec<u8> = match command[1] {
        0xA4 => (1..=28).collect(),
        0x84 => (1..=8).collect(),
        0xB0 => (1..=16).collect(),
        _ => Vec::new(),
    };
    [&data[..], &[0x90, 0x00]].concat()
}

/// The exchanges of `docs/spec/transports.md`, section 3: whole and bytewise.
#[test]
fn the_page_shows_exchanges_that_happen() {
    let page = include_str!("../../../../docs/spec/transports.md");
    for (mark, acknowledge, count) in [
        ("```t0\n", Acknowledge::Whole, 8),
        ("```t0-bytewise\n", Acknowledge::Bytewise, 4),
    ] {
        let block = page.split(mark).nth(1).unwrap().split("```").next().unwrap();
        let lines: Vec<_> = block.lines().map(|line| line.split_at(2)).collect();
        let pairs: Vec<_> = lines
            .chunks(2)
            .map(|pair| {
                assert_eq!((pair[0].0, pair[1].0), ("> ", "< "));
                (pair[0].1, pair[1].1)
            })
            .collect();
        assert_eq!(pairs.len(), count);
        card_says(acknowledge, &pairs);
        device_says(&pairs);
    }
}

/// The same exchanges from the other end: the device sends what the page says when it hears what the page says.
fn device_says(pairs: &[(&str, &str)]) {
    let commands = [
        "00A4040007A000000087100200",
        "0084000008",
        "00B0000000",
        "00D6000002AABB",
    ];
    let mut device = Device::<600>::new(Timing { guard: 0, ..TIMING });
    let mut commands: Vec<_> = commands
        .iter()
        .filter_map(|command| {
            let first = pairs
                .iter()
                .position(|(said, _)| said.starts_with(&command[..8]))?;
            Some((first, *command))
        })
        .collect();
    commands.sort_unstable();
    let mut commands = commands.into_iter().map(|(_, command)| command);
    let mut out = [0; OUT_MAX];
    for (said, heard) in pairs {
        let now = Micros(0);
        let len = match device.say(now, &mut out) {
            Some(len) => len,
            None => {
                assert!(device.start(&hex::decode(commands.next().unwrap()).unwrap()));
                device.say(now, &mut out).unwrap()
            }
        };
        assert_eq!(hex::encode_upper(&out[..len]), *said);
        device.hear(now, &hex::decode(heard).unwrap());
    }
    assert!(
        matches!(device.ended(), Some(Ended::Answer(_))),
        "{:?}",
        device.ended()
    );
}

/// Every case, short and extended, gives the R-APDU that a line of whole APDUs gives, and is run once: with both ways to acknowledge, with time asked for, in pieces, late.
#[test]
fn every_case_gives_the_answer_of_other_transports() {
    let faults = Faults {
        late: 100,
        split: 300,
        lateness: 400_000,
        gap: 5_000,
        ..Faults::default()
    };
    let commands = element::commands();
    assert!(commands.len() > 60);
    let mut counted = line::Count::default();
    for acknowledge in [Acknowledge::Whole, Acknowledge::Bytewise] {
        let mut line = Line::new(5, faults);
        let mut device = DeviceNode(Device::new(TIMING));
        let mut card = CardNode::new(acknowledge);
        let mut whole = Element::new(On::Apdus);
        for (number, command) in commands.iter().enumerate() {
            card.takes = if number % 5 == 0 { 2_300_000 } else { 0 };
            assert!(device.0.start(command));
            line.run(&mut device, &mut card, 20_000, |device| {
                device.0.ended().is_some()
            });
            let expected = whole.run(command);
            assert_eq!(
                device.0.ended(),
                Some(Ended::Answer(&expected[..])),
                "{}",
                hex::encode_upper(command)
            );
            assert_eq!(card.element.ran, whole.ran, "{}", hex::encode_upper(command));
        }
        counted = line.count;
    }
    assert!(counted.late > 0 && counted.split > 0);
}

fn talk(pairs: &[(&str, &str)]) -> usize {
    let mut card = CardNode::new(Acknowledge::Whole);
    for (heard, said) in pairs {
        card.hear(Micros(0), &hex::decode(heard.replace(' ', "")).unwrap());
        let answer = card.say(Micros(0)).unwrap_or_default();
        assert_eq!(hex::encode_upper(answer), said.replace(' ', ""), "to {heard}");
    }
    card.element.ran.len()
}

/// After 6CXX the answer of the command that ran is held for the same header with that P3, and for no other.
#[test]
fn a_wrong_length_runs_a_command_once() {
    // The element counts challenges: the same one comes.
    assert_eq!(
        talk(&[("0084000000", "6C08"), ("0084000008", "84 0000000000000001 9000")]),
        1
    );
    let other = ("0084000004", "84 00000000 6104");
    assert_eq!(
        talk(&[
            ("0084000000", "6C08"),
            other,
            ("0084000008", "84 0000000000000003 9000")
        ]),
        3
    );
    assert_eq!(
        talk(&[
            ("0084000000", "6C08"),
            ("0070800100", "9000"),
            ("0084000008", "84 0000000000000002 9000")
        ]),
        3
    );
    assert_eq!(talk(&[("0084000000", "6C08"), ("00C0000008", "6D00")]), 2);
    // Another header drops it, on another logical channel too.
    assert_eq!(
        talk(&[
            ("0084000000", "6C08"),
            ("01D6000000", "9000"),
            ("0084000008", "84 0000000000000002 9000")
        ]),
        3
    );
}

/// What waits, waits on its logical channel: lost with any other command there, kept through commands elsewhere, and gone when the channel is closed or opened.
#[test]
fn an_answer_waits_on_its_logical_channel() {
    let select = [("00A4000302", "A4"), ("0000", "6103")];
    let with = |more: &[(&str, &str)]| {
        talk(&[&select[..], more].concat());
    };
    with(&[("00C0000003", "C0 A4A5A6 9000"), ("00C0000003", "6D00")]);
    with(&[("00C0000002", "C0 A4A5 6101"), ("00C0000001", "C0 A6 9000")]);
    // Wrong P1 or P3 loses nothing; 00 asks for 256.
    with(&[
        ("00C0010003", "6A86"),
        ("00C0000004", "6C03"),
        ("00C0000000", "6C03"),
        ("80C0000003", "C0 A4A5A6 9000"),
    ]);
    // Another command of the channel; one of another channel, also with an answer of its own.
    with(&[("00D6000000", "9000"), ("00C0000003", "6D00")]);
    with(&[("01D6000000", "9000"), ("00C0000003", "C0 A4A5A6 9000")]);
    with(&[
        ("01A4000202", "A4"),
        ("0000", "6102"),
        ("00C0000003", "C0 A4A5A6 9000"),
        ("01C0000002", "C0 A4A5 9000"),
    ]);
    // The room is for two: the oldest gives way.
    with(&[
        ("01A4000202", "A4"),
        ("0000", "6102"),
        ("02A4000202", "A4"),
        ("0000", "6102"),
        ("00C0000003", "6D00"),
        ("01C0000002", "C0 A4A5 9000"),
    ]);
    talk(&[
        ("01A4000302", "A4"),
        ("0000", "6103"),
        ("0070800100", "9000"),
        ("01C0000003", "6D00"),
    ]);
    // Under secure messaging GET RESPONSE is a command as any other.
    with(&[("04C0000003", "6D00")]);
}

/// ENVELOPE: the inner command's own length ends it, or an ENVELOPE without data; behind it Le, or such an ENVELOPE, runs nothing again.
#[test]
fn an_envelope_carries_one_command() {
    let inner = "00D60000 000009 010203040506070809";
    let one = [("00C2000010", "C2"), (inner, "9000")];
    assert_eq!(talk(&one), 1);
    assert_eq!(
        talk(
            &[
                &one[..],
                &[("00C2000000", "9000"), ("00C2000002", "C2"), ("0000", "9000")]
            ]
            .concat()
        ),
        1
    );
    // In two pieces; with another command between them, which ends it.
    let half = ("00C2000008", "C2");
    assert_eq!(
        talk(&[
            half,
            ("00D6000000000901", "9000"),
            half,
            ("0203040506070809", "9000")
        ]),
        1
    );
    assert_eq!(
        talk(&[
            half,
            ("00D6000000000901", "9000"),
            ("00D6000000", "9000"),
            half,
            ("0203040506070809", "6A80")
        ]),
        1
    );
    // A short command, one of another logical channel, more than it says, an end without a beginning.
    assert_eq!(
        talk(&[half, ("00D6000003010203", "6A80"), ("00C2000000", "6700")]),
        0
    );
    assert_eq!(talk(&[half, ("01D6000000000901", "6A80")]), 0);
    assert_eq!(
        talk(&[("00C200000B", "C2"), ("00D6000000000101020304", "6A80")]),
        0
    );
    assert_eq!(talk(&[("00C2000000", "6700")]), 0);
    // One that is longer than the card's buffer is not run.
    let mut pairs = vec![("00C20000FF", "C2")];
    let long = format!("00D6000000FFFF{}", "5A".repeat(248));
    let more = "5A".repeat(255);
    pairs.push((&long, "9000"));
    for _ in 0..256 {
        pairs.push(("00C20000FF", "C2"));
        pairs.push((&more, "9000"));
    }
    pairs.push(("00C2000007", "C2"));
    let rest = "5A".repeat(7);
    pairs.push((&rest, "6700"));
    assert_eq!(talk(&pairs), 0);
    // ENVELOPE of the proprietary class is a command as any other.
    assert_eq!(talk(&[("80C2000002", "C2"), ("0102", "6D00")]), 1);
}

/// INS 6X and 9X, PPS where none is awaited, characters while nothing is awaited, silence within a command.
#[test]
fn what_breaks_the_protocol_is_refused_or_makes_the_card_mute() {
    talk(&[
        ("0060000000", "6D00"),
        ("0090000000", "6D00"),
        ("0084000008", "84 0000000000000001 9000"),
    ]);
    talk(&[("FF0000FF00", ""), ("0084000008", "")]);
    talk(&[("00840000080084000008", ""), ("0084000008", "")]);
    let mut card = CardNode::new(Acknowledge::Whole);
    card.hear(Micros(0), &[0, 0x84, 0]);
    card.expire(card.deadline().unwrap());
    card.hear(Micros(9_000_000), &[0, 8]);
    assert_eq!((card.say(Micros(9_000_000)), card.deadline()), (None, None));
}

fn device_ends(command: &[u8], answers: &[&[u8]], guard: u64) -> (Option<Ended<'static>>, usize) {
    let mut device = Device::<600>::new(Timing { guard, ..TIMING });
    let mut out = [0; OUT_MAX];
    let mut now = Micros(0);
    device.start(command);
    let mut heard = 0;
    while device.ended().is_none() && heard < 3_000 {
        while device.say(now, &mut out).is_some() {}
        device.hear(now, answers[heard % answers.len()]);
        heard += 1;
        now = now.after(guard);
        device.expire(now);
    }
    let end = match device.ended() {
        Some(Ended::Answer(_)) | None => None,
        Some(Ended::NotRun(fault)) => Some(Ended::NotRun(fault)),
        Some(Ended::Unknown(fault)) => Some(Ended::Unknown(fault)),
    };
    assert!(device.must_reset() || end.is_none() || heard == 0);
    (end, heard)
}

/// A card that does not stop: NULL, 61 or 6C without data, acknowledgements of nothing, bytes behind a status word.
#[test]
fn a_card_that_does_not_stop_gets_a_bound() {
    let read: &[u8] = &[0, 0xB0, 0, 0, 0];
    let select: &[u8] = &[0, 0xA4, 0, 0, 1, 9, 0];
    for (command, answers, at_most, end) in [
        (read, &[&[0x60][..]][..], 501, Ended::Unknown(Fault::Protocol)),
        (read, &[&[0x6C, 0x10]], 4, Ended::Unknown(Fault::Protocol)),
        (read, &[&[0x61, 0x10]], 4, Ended::Unknown(Fault::Protocol)),
        (
            read,
            &[&[0x61, 0x00], &[0x6C, 0x00]],
            4,
            Ended::Unknown(Fault::Protocol),
        ),
        (read, &[&[0x90, 0x00, 0x00]], 1, Ended::Unknown(Fault::Garbled)),
        (
            read,
            &[&[0x4F, 0x01], &[0x90, 0x00]],
            2,
            Ended::Unknown(Fault::Protocol),
        ),
        (read, &[&[0x00]], 1, Ended::Unknown(Fault::Protocol)),
        (select, &[&[0x60]], 501, Ended::NotRun(Fault::Protocol)),
        (select, &[&[0xA4]], 2, Ended::Unknown(Fault::Protocol)),
        // Good without the data: it cannot be.
        (select, &[&[0x90, 0x00]], 1, Ended::NotRun(Fault::Protocol)),
        (select, &[&[0x61, 0x10]], 1, Ended::NotRun(Fault::Protocol)),
    ] {
        let (came, heard) = device_ends(command, answers, 1_000);
        assert_eq!((came, heard), (Some(end), at_most), "{answers:02X?}");
    }
    // Refusals before the data are answers.
    assert_eq!(device_ends(select, &[&[0x6E, 0x00]], 0), (None, 1));
    // An answer without an end ends where the buffer does.
    let mut device = Device::<600>::new(Timing { guard: 0, ..TIMING });
    let mut out = [0; OUT_MAX];
    device.start(&[0, 0xCA, 0, 0, 0, 0, 0]);
    let mut rounds = 0;
    while device.ended().is_none() {
        device.say(Micros(0), &mut out).unwrap();
        device.hear(Micros(0), &[&[out[1]][..], &[0x5A; 256], &[0x61, 0x00]].concat());
        rounds += 1;
    }
    assert_eq!(
        (device.ended(), rounds),
        (Some(Ended::Unknown(Fault::TooLong)), 3)
    );
    // What T=0 cannot carry.
    for command in [
        &[0, 0x60, 0, 0][..],
        &[0, 0x9A, 0, 0],
        &[0xFF, 0, 0, 0],
        &[0, 0xA4, 0, 0, 5, 1],
        &[0; 3],
    ] {
        assert_eq!(
            device_ends(command, &[&[0x90, 0x00]], 0),
            (Some(Ended::NotRun(Fault::Protocol)), 0)
        );
    }
}

/// Any characters at all: bounded output, no end that waits for ever, and the element runs what came whole.
#[test]
fn any_characters_are_taken() {
    let mut rng = Rng::new(77);
    for _ in 0..3_000 {
        let mut card = CardNode::new(if rng.below(2) == 0 {
            Acknowledge::Whole
        } else {
            Acknowledge::Bytewise
        });
        let mut device = DeviceNode(Device::new(TIMING));
        device.0.start(&[0, 0xA4, 0, 0, 2, 1, 2, 0]);
        let mut now = Micros(0);
        for _ in 0..40 {
            let bytes: Vec<u8> = (0..rng.below(12))
                .map(|_| [0, 0xC0, 0xC2, 0xA4, 0x61, 0x90, rng.below(256) as u8][rng.below(7) as usize])
                .collect();
            card.hear(now, &bytes);
            let _ = card.say(now);
            let _ = device.say(now);
            device.hear(now, &bytes);
            now = now.after(rng.below(600_000));
            card.expire(now);
            device.expire(now);
        }
        now = now.after(5_000_000);
        device.expire(now);
        device.expire(now.after(5_000_000));
        assert!(device.0.ended().is_some());
    }
}

/// A lost acknowledgement makes data look like a status word: what comes behind it within the guard time shows it. Then nothing goes before a reset.
#[test]
fn a_status_word_holds_when_nothing_comes_behind_it() {
    let mut device = Device::<600>::new(TIMING);
    let mut out = [0; OUT_MAX];
    let read = [0, 0xB0, 0, 0, 4];
    device.start(&read);
    device.say(Micros(0), &mut out).unwrap();
    for (at, byte) in [0x90, 0x00, 0x5A].into_iter().enumerate() {
        device.hear(Micros(5_000 * at as u64), &[byte]);
    }
    assert_eq!(device.ended(), Some(Ended::Unknown(Fault::Garbled)));
    assert!(device.start(&read));
    assert_eq!(device.ended(), Some(Ended::NotRun(Fault::Reset)));
    assert!(device.say(Micros(50_000), &mut out).is_none());
    device.reset();
    assert!(device.start(&read) && device.say(Micros(50_000), &mut out).is_some());
    // A character between exchanges.
    device.reset();
    device.hear(Micros(60_000), &[0x5A]);
    assert!(device.must_reset());
}

/// What was said is nowhere when it is over: commands when they are answered, answers when they have been given.
#[test]
fn commands_and_answers_are_overwritten() {
    let marks = |node: &dyn std::fmt::Debug, byte: u8| {
        format!("{node:?}").contains(&format!("{byte}, {byte}, {byte}"))
    };
    let mut card = Card::<600, 2>::new(TIMING, Acknowledge::Whole, direction);
    let mut device = Device::<600>::new(Timing { guard: 0, ..TIMING });
    let mut out = [0; OUT_MAX];
    let now = Micros(0);
    assert!(device.start(&[&[0, 0xA4, 0, 0, 9][..], &[0xC7; 9], &[0]].concat()));
    while device.ended().is_none() {
        if let Some(len) = device.say(now, &mut out) {
            card.hear(now, &out[..len]);
            if card.command().is_some() {
                card.take();
                assert!(marks(&card, 0xC7));
                card.answer(&[&[0xB9; 20][..], &[0x90, 0x00]].concat());
            }
        } else if let Some(len) = card.say(now, &mut out) {
            device.hear(now, &out[..len]);
        }
    }
    for byte in [0xC7, 0xB9] {
        assert!(!marks(&card, byte), "{byte}");
    }
    assert!(!marks(&device, 0xC7) && marks(&device, 0xB9));
    device.start(&[0, 0xA4, 0, 0]);
    assert!(!marks(&device, 0xB9));
}
