//! HCI: card gates and readers, at each host alone.

use crate::hci::{ATR, FRESH, LEN, TIMING, block, card_says, drain, packets};
use crate::line::Rng;
use sekisho_block::hci::ids::HOST_UICC;
use sekisho_block::hci::{self, Gates, Session, Technology, Transaction};
use sekisho_block::swp::INFORMATION_MAX;
use sekisho_block::{Ended, Fault, Micros};

/// An exchange of the page, with pipes to the card gates and the connectivity gate: a new session, then a reader of type A that selects an application and goes.
#[test]
fn the_page_shows_a_reader_that_comes_and_goes() {
    const FCI: [u8; 11] = [0x6F, 0x07, 0x84, 0x05, 0xA0, 0x00, 0x00, 0x01, 0x51, 0x90, 0x00];
    const SELECT: [u8; 10] = [0x00, 0xA4, 0x04, 0x00, 0x05, 0xA0, 0x00, 0x00, 0x01, 0x51];
    let mut card = hci::Card::<LEN>::new(TIMING, Gates::ALL, &ATR, Session::default(), FRESH);
    let mut device = hci::Device::<LEN>::new(TIMING, HOST_UICC, 0x19);
    card.linked();
    device.linked(Micros(0));
    let mut out = [0; INFORMATION_MAX];
    let lines = block("hci-reader");
    let mut asked = false;
    let mut seen = Vec::new();
    for text in &lines {
        let (mark, packet) = text.split_at(2);
        let said = if mark == "> " {
            if device.packet(&mut out).is_none() && !asked {
                asked = device.start_reader(Micros(0), Technology::A, &SELECT);
                assert!(asked);
            } else if device.packet(&mut out).is_none() {
                device.leave_reader(Micros(0));
            }
            let len = device.packet(&mut out).unwrap();
            device.sent();
            card.hear(&out[..len]);
            seen.extend(card.field());
            len
        } else {
            if let Some((technology, command)) = card.reader_command() {
                assert_eq!((technology, command), (Technology::A, &SELECT[..]));
                card.take_reader();
                card.answer_reader(&FCI);
            }
            let len = card.packet(&mut out).unwrap();
            card.sent();
            device.hear(Micros(0), &out[..len]);
            len
        };
        assert_eq!(hex::encode_upper(&out[..said]), packet, "{text}");
    }
    assert_eq!(lines.len(), 37);
    assert_eq!(seen, [(Technology::A, true), (Technology::A, false)]);
    assert_eq!(device.reader_ended(), Some(Ended::Answer(&FCI)));
    let aid: &[u8] = &[0xA0, 0x00, 0x00, 0x01, 0x51];
    assert_eq!(device.transaction(), Some(Transaction { aid, parameters: &[] }));
}

/// A card whose pipes 02, 03 and 04 lead to the card gates of type A and B and to the connectivity gate, all open, and 19 from the APDU gate.
fn standing_card() -> hci::Card<LEN> {
    let pipe = |pipe, gate, host| {
        Some(hci::Pipe {
            pipe,
            gate,
            host,
            open: false,
        })
    };
    let session = Session {
        identity: [7; 8],
        pipes: [pipe(0x19, 0x30, 1), None, None, None],
        own: [pipe(2, 0x23, 0), pipe(3, 0x21, 0), pipe(4, 0x41, 1)],
    };
    let mut card = hci::Card::<LEN>::new(TIMING, Gates::ALL, &ATR, session, FRESH);
    card.linked();
    for (heard, said) in [
        ("", "8103"),
        ("8180", "810201"),
        ("8180 0707070707070707", "8203"),
        ("8280", "8303"),
        ("8380", "8403"),
        ("8480", ""),
        ("9903", "9980"),
    ] {
        assert_eq!(card_says(&mut card, heard), said, "{heard}");
    }
    card
}

/// The table of the card gates, row by row: what a reader does, what is told of it, and what is passed over.
#[test]
fn card_gates_do_as_the_table_says() {
    const SELECT: &str = "00A4040005A000000151";
    let mut card = standing_card();
    let (a, b) = (Technology::A, Technology::B);
    for (heard, said, field, command) in [
        // Before a reader has chosen the card, by a damaged field, without an APDU, on the other gate: nothing is run.
        (&format!("8250{SELECT}00")[..], "", None, None),
        ("8251", "", None, None),
        ("8253", "", Some((a, true)), None),
        (&format!("8250{SELECT}01"), "", None, None),
        ("825000", "", None, None),
        ("8250", "", None, None),
        (&format!("8350{SELECT}00"), "", None, None),
        (&format!("8250{SELECT}00"), "", None, Some((a, SELECT))),
        // Another one while it waits, in two packets whose second looks like an event: passed over.
        ("0250AABB", "", None, Some((a, SELECT))),
        ("8252", "", None, Some((a, SELECT))),
        // By the other type: a new field, and the command is gone.
        ("8353", "", Some((b, true)), None),
        ("8252", "", None, None),
        ("8354", "", Some((b, false)), None),
        ("8354", "", None, None),
        // What is no event of these, and a command of the controller.
        ("8259", "", None, None),
        ("820201", "8285", None, None),
        ("8204", "8280", None, None),
        ("8253", "", None, None),
        ("8203", "8280", None, None),
        ("8253", "", Some((a, true)), None),
        // The pipe goes, and what the reader has begun with it.
        ("811302", "8180", Some((a, false)), None),
        ("8253", "", None, None),
        ("8353", "", Some((b, true)), None),
        ("811500", "8180", Some((b, false)), None),
    ] {
        assert_eq!(card_says(&mut card, heard), said, "{heard}");
        assert_eq!(card.field(), field, "{heard}");
        let told = card
            .reader_command()
            .map(|(by, apdu)| (by, hex::encode_upper(apdu)));
        let told = told.as_ref().map(|(by, apdu)| (*by, &apdu[..]));
        assert_eq!(told, command, "{heard}");
    }
}

/// What an application has to say of a reader's visit goes to the terminal when the reader goes, in the place of what was selected: the last that was said with an answer,
/// within its bounds, and once.
#[test]
fn the_connectivity_gate_is_told_what_an_application_says() {
    const AID: [u8; 5] = [0xA0, 0, 0, 1, 0x51];
    const OTHER: [u8; 16] = [0xF0; 16];
    let none: &[(&[u8], &[u8])] = &[];
    let longest = [0x5A; hci::PARAMETERS_MAX];
    let whole = format!("84528110{}8220{}", "F0".repeat(16), "5A".repeat(32));
    for (said, told) in [
        (none, "84528105A000000151"),
        (&[(&AID, &[1, 2])], "84528105A00000015182020102"),
        (&[(&AID, &[])], "84528105A0000001518200"),
        (&[(&AID, &[1]), (&OTHER, &longest)], &whole),
        (
            &[(&AID, &[1]), (&AID, &[0; hci::PARAMETERS_MAX + 1])],
            "84528105A000000151820101",
        ),
        (&[(&AID[..4], &[1]), (&[0xF0; 17], &[1])], "84528105A000000151"),
    ] {
        let mut card = standing_card();
        for heard in ["8251", "8253"] {
            assert_eq!(card_says(&mut card, heard), "");
        }
        // Nobody has asked.
        card.announce(&AID, &[9]);
        for (aid, parameters) in said {
            assert_eq!(card_says(&mut card, "8250801400000400000001 00"), "");
            assert!(card.reader_command().is_some());
            card.take_reader();
            card.announce(aid, parameters);
            card.answer_reader(&[0x90, 0x00]);
            assert_eq!(card_says(&mut card, ""), "82509000");
        }
        // Of whatever is selected behind it the terminal is told where nothing was said.
        assert_eq!(card_says(&mut card, "825000A4040005A000000151 00"), "");
        card.take_reader();
        card.answer_reader(&[0x6F, 7, 0x84, 5, 0xA0, 0, 0, 1, 0x51, 0x90, 0]);
        assert_eq!(card_says(&mut card, ""), "82506F078405A0000001519000");
        let mut all = card_says(&mut card, "8252");
        loop {
            let rest = card_says(&mut card, "");
            if rest.is_empty() {
                break;
            }
            all += &rest[2..];
        }
        assert_eq!(all[2..], told[2..]);
        assert_eq!(card_says(&mut card, "8254"), "", "once");
    }
    // A command that a reader has left behind says nothing, and another reader's visit is another one.
    let mut card = standing_card();
    for heard in ["8253", "825080140000 00"] {
        assert_eq!(card_says(&mut card, heard), "");
    }
    card.take_reader();
    assert_eq!(card_says(&mut card, "8252"), "");
    card.announce(&AID, &[1]);
    card.answer_reader(&[0x90, 0x00]);
    for heard in ["8253", "825080140000 00"] {
        assert_eq!(card_says(&mut card, heard), "");
    }
    card.take_reader();
    card.announce(&AID, &[2]);
    card.answer_reader(&[0x90, 0x00]);
    assert_eq!(card_says(&mut card, ""), "82509000");
    assert_eq!(card_says(&mut card, "8353"), "");
    assert_eq!(card_says(&mut card, "8352"), "");
}

/// The terminal is told of the application that answered SELECT, when the reader goes, once; not of what only looks like FCI, and not of what came before the field.
#[test]
fn the_connectivity_gate_is_told_what_a_reader_has_used() {
    let fci = |aid: u8| [&[0x6F, 0x07, 0x84, 0x05][..], &[aid; 5], &[0x90, 0x00]].concat();
    let exchange = |card: &mut hci::Card<LEN>, ins: &str, answer: &[u8]| {
        card_says(card, &format!("8250 00{ins}040001AA 00"));
        card.take_reader();
        card.answer_reader(answer);
        assert_eq!(card_says(card, ""), format!("8250{}", hex::encode_upper(answer)));
    };
    let mut card = standing_card();
    card_says(&mut card, "8253");
    exchange(&mut card, "A4", &fci(1));
    exchange(&mut card, "A4", &fci(2));
    exchange(&mut card, "CA", &fci(3));
    exchange(&mut card, "A4", &[0x6A, 0x82]);
    assert_eq!(card_says(&mut card, "8254"), "845281050202020202");
    assert_eq!(card_says(&mut card, "8254"), "");
    card_says(&mut card, "8253");
    assert_eq!(card_says(&mut card, "8252"), "");
    // The reader goes while SELECT runs: its late answer is nobody's.
    card_says(&mut card, "8253");
    card_says(&mut card, "8250 00A4040001AA 00");
    card.take_reader();
    assert_eq!(card_says(&mut card, "8254"), "");
    card.answer_reader(&fci(4));
    assert_eq!(card_says(&mut card, ""), "");
    card_says(&mut card, "8253");
    assert_eq!(card_says(&mut card, "8254"), "");
    // Whoever reads it bounds each length (facts of a kernel that did not).
    for (bytes, is_one) in [
        ("8105A000000151", true),
        ("8105A0000001518200", true),
        ("8105A00000015182020102", true),
        ("8105A000000151820301", false),
        ("8105A00000015182", false),
        ("8105A0000001", false),
        ("8104A0000001", false),
        ("8111A0000001510000000000000000000000000000", false),
        ("81FFA000000151", false),
        ("8205A000000151", false),
        ("8105A00000015183", false),
        ("", false),
    ] {
        let bytes = hex::decode(bytes).unwrap();
        assert_eq!(Transaction::parse(&bytes).is_some(), is_one, "{bytes:02X?}");
    }
}

/// A controller that refuses gates: the session holds without them. One that gives a pipe twice, or out of range, is one that refuses.
#[test]
fn gates_that_are_refused_are_left_out() {
    let mut card = hci::Card::<LEN>::new(TIMING, Gates::ALL, &ATR, Session::default(), FRESH);
    card.linked();
    for (heard, said) in [
        ("", "8103"),
        ("8180", "810201"),
        ("8180FFFFFFFFFFFFFFFF", "8114"),
        ("8180", "8110230023"),
        ("8183", "8110210021"),
        ("8180 0221002170", "8110410141"),
        ("8180 0241014104", "8403"),
        ("8483", "81010102 03040506 0708".trim()),
    ] {
        let expected = said.replace(' ', "");
        let expected = if expected.starts_with("810101") {
            "8101010102030405060708".to_owned()
        } else {
            expected
        };
        assert_eq!(card_says(&mut card, heard), expected, "{heard}");
    }
    assert_eq!(card_says(&mut card, "8180"), "");
    let kept = card.session().unwrap();
    assert_eq!(kept.identity, FRESH);
    let kept: Vec<_> = kept
        .own
        .iter()
        .flatten()
        .map(|pipe| (pipe.pipe, pipe.open))
        .collect();
    assert_eq!(kept, [(4, false)]);
}

/// A device that has begun a session with a card of all gates.
fn began() -> hci::Device<LEN> {
    let mut card = hci::Card::<LEN>::new(TIMING, Gates::ALL, &ATR, Session::default(), FRESH);
    let mut device = hci::Device::<LEN>::new(TIMING, HOST_UICC, 0x19);
    card.linked();
    device.linked(Micros(0));
    let mut out = [0; INFORMATION_MAX];
    for _ in 0..100 {
        while let Some(len) = card.packet(&mut out) {
            card.sent();
            device.hear(Micros(0), &out[..len]);
        }
        while let Some(len) = device.packet(&mut out) {
            device.sent();
            card.hear(&out[..len]);
        }
    }
    assert!(device.reader_is_ready(Technology::A) && device.reader_is_ready(Technology::B));
    device
}

/// A reader waits for a bound; what it gets that is no answer is an error.
#[test]
fn a_reader_has_a_bound() {
    let mut out = [0; INFORMATION_MAX];
    for (heard, why) in [
        ("825090", Fault::Protocol),
        ("8250", Fault::Protocol),
        ("", Fault::Silent),
    ] {
        let mut device = began();
        assert!(device.start_reader(Micros(0), Technology::A, &[0x80, 0]));
        assert!(!device.start_reader(Micros(0), Technology::A, &[0x80, 0]));
        drain(&mut device, 99);
        if heard.is_empty() {
            let at = Micros(TIMING.reader);
            while device.reader_ended().is_none() {
                let next = device.deadline().unwrap();
                assert!(next <= at);
                device.expire(next);
                while device.packet(&mut out).is_some() {
                    device.sent();
                }
            }
        } else {
            device.hear(Micros(0), &hex::decode(heard).unwrap());
        }
        assert_eq!(device.reader_ended(), Some(Ended::Unknown(why)), "{heard}");
    }
}

/// Half an answer has come; the reader gives up. The rest, however it looks, is passed over to its end; the card is asked first, and its response lets the next field begin.
#[test]
fn a_reader_takes_no_late_answer() {
    let mut device = began();
    drain(&mut device, 99);
    assert!(device.start_reader(Micros(0), Technology::A, &[0x80, 1]));
    drain(&mut device, 99);
    device.hear(Micros(0), &[0x02, 0x50, 1, 2, 3]);
    device.leave_reader(Micros(1));
    assert_eq!(device.reader_ended(), Some(Ended::Unknown(Fault::Reset)));
    assert!(device.start_reader(Micros(1), Technology::A, &[0x80, 2]));
    assert_eq!(drain(&mut device, 99), [[0x82, 0x52], [0x82, 0x54], [0x82, 0x03]]);
    for late in [
        &[0x02, 0x80, 0x80][..],
        &[0x82, 0x80, 0x90, 0x00],
        &[0x82, 0x50, 9, 0x90, 0x00],
    ] {
        device.hear(Micros(1), late);
        assert!(drain(&mut device, 99).is_empty(), "{late:02X?}");
        assert_eq!(device.reader_ended(), None);
    }
    device.hear(Micros(1), &[0x82, 0x80]);
    let said = drain(&mut device, 99);
    assert_eq!(
        said,
        [&[0x82, 0x51][..], &[0x82, 0x53], &[0x82, 0x50, 0x80, 2, 0]]
    );
    device.hear(Micros(1), &[0x82, 0x50, 2, 0x90, 0x00]);
    assert_eq!(device.reader_ended(), Some(Ended::Answer(&[2, 0x90, 0x00])));
    // A card that does not say that it has heard: no exchange any more, until the link stands anew.
    assert!(device.start_reader(Micros(1), Technology::A, &[0x80, 3]));
    device.leave_reader(Micros(1));
    assert_eq!(device.reader_ended(), Some(Ended::NotRun(Fault::Reset)));
    assert!(device.start_reader(Micros(1), Technology::A, &[0x80, 4]));
    device.expire(Micros(1).after(3 * TIMING.response));
    assert_eq!(device.reader_ended(), Some(Ended::NotRun(Fault::Silent)));
    assert!(!device.reader_is_ready(Technology::A));
}

/// Any packets on the pipes of a reader's gates, at both ends, with readers that come and go: nothing waits for ever.
#[test]
fn any_packets_on_card_gates_are_taken() {
    let mut rng = Rng::new(80);
    for _ in 0..300 {
        let mut card = standing_card();
        let mut device = hci::Device::<LEN>::new(TIMING, HOST_UICC, 0x19);
        device.linked(Micros(0));
        for heard in [
            "810201",
            "8110230023",
            "8110210021",
            "8110410141",
            "8203",
            "82010102",
            "8303",
            "83010102",
            "8403",
        ] {
            device.hear(Micros(0), &hex::decode(heard).unwrap());
            drain(&mut device, 99);
        }
        assert!(device.reader_is_ready(Technology::A) && device.reader_is_ready(Technology::B));
        let mut now = Micros(0);
        for _ in 0..60 {
            let mut bytes: Vec<u8> = (0..rng.below(29))
                .map(|_| [0x50, 0x51, 0x52, 0x53, 0x80, 3, rng.below(256) as u8][rng.below(7) as usize])
                .collect();
            if let Some(first) = bytes.first_mut() {
                *first = [0x82, 0x02, 0x83, 0x84, 0x81, *first][rng.below(6) as usize];
            }
            card.hear(&bytes);
            device.hear(now, &bytes);
            if card.reader_command().is_some() {
                card.take_reader();
                card.answer_reader(&bytes);
            }
            let by = if rng.below(2) == 0 {
                Technology::A
            } else {
                Technology::B
            };
            device.start_reader(now, by, &bytes);
            if rng.below(9) == 0 {
                device.leave_reader(now);
            }
            let mut out = [0; INFORMATION_MAX];
            for _ in 0..rng.below(4) {
                let _ = (card.packet(&mut out), device.packet(&mut out));
                card.sent();
                device.sent();
            }
            now = now.after(rng.below(3_000_000));
            card.expire(now);
            device.expire(now);
        }
        for _ in 0..40 {
            drain(&mut device, 99);
            now = now.after(TIMING.reader);
            device.expire(now);
        }
        assert_eq!(device.deadline(), None);
    }
}

/// A reader's command that is longer than the card's buffer is answered and not run, where the field has carried it whole and the reader has chosen the card.
#[test]
fn a_readers_command_that_is_too_long_is_answered() {
    let mut card = standing_card();
    let says = |card: &mut hci::Card<LEN>, len: usize, field: u8| {
        let all = packets(2, 0x10, &[vec![0x5A; len], vec![field]].concat());
        let said: Vec<_> = all
            .iter()
            .map(|packet| card_says(card, &hex::encode(packet)))
            .collect();
        said.concat()
    };
    assert_eq!(says(&mut card, LEN, 0), "");
    card_says(&mut card, "8253");
    assert_eq!(says(&mut card, LEN, 1), "");
    for len in [LEN - 1, LEN + 27] {
        assert_eq!(says(&mut card, len, 0), "82506700", "{len}");
        assert_eq!(card.reader_command(), None);
    }
    assert_eq!(says(&mut card, LEN - 2, 0), "");
    assert_eq!(card.reader_command().map(|(_, apdu)| apdu.len()), Some(LEN - 2));
}
