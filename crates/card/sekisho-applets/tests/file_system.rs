//! The file system in the whole card: secure messaging on a bad line, two readers at once, hostile bytes, long data.
#![allow(clippy::unwrap_used, clippy::panic, clippy::result_large_err)]

use crate::common;

use common::files::{
    self, Reader, append, authenticate, never_in_the_clear, noise, plain, select, select_on,
};
use common::{Card, SeededRng, send, send_on, sw};
use proptest::prelude::*;
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::{Mode, Policy};
use sekisho_os::Interface;

const CONTACT: Interface = Interface::Iso7816Contact;

/// The newest record of 0013, and how many there are.
fn newest(card: &mut Card, interface: Interface) -> (Option<u8>, usize) {
    let record = |card: &mut Card, number| plain(card, interface, &[0x00, 0xB2, number, 0x1C, 0x00]).ok();
    let first = record(card, 1).map(|record| record[0]);
    let count = (1..=4).filter(|number| record(card, *number).is_some()).count();
    (first, count)
}

/// What a line can do to one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Good,
    CommandLost,
    AnswerLost,
    CommandTwice,
    AnswerDamaged(usize),
    CommandDamaged(usize),
    OldCommand,
    Plain,
}

fn line() -> impl Strategy<Value = Line> {
    prop_oneof![
        6 => Just(Line::Good),
        2 => Just(Line::CommandLost),
        2 => Just(Line::AnswerLost),
        2 => Just(Line::CommandTwice),
        1 => (0usize..200).prop_map(Line::AnswerDamaged),
        1 => (0usize..400).prop_map(Line::CommandDamaged),
        1 => Just(Line::OldCommand),
        1 => Just(Line::Plain),
    ]
}

fn damage(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    let at = at % (8 * bytes.len());
    damaged[at / 8] ^= 1 << (at % 8);
    damaged
}

/// One exchange on a bad line. `None`: the card has closed, in the open and with nothing but a status word.
fn exchange(card: &mut Card, reader: &mut Reader, line: Line, old: &[u8], capdu: &[u8]) -> Option<Vec<u8>> {
    let command = reader.protect(capdu);
    let closed = |card: &mut Card, bytes: &[u8]| {
        let answer = reader.transmit(card, bytes);
        assert_eq!(answer.len(), 2, "{line:?}: {}", hex::encode(&answer));
        let sw = sw(&answer);
        assert!((0x6700..=0x6FFF).contains(&sw), "{line:?}: {sw:04X}");
        // It stays closed.
        assert_eq!(sw_of(card, reader, &command), 0x6982);
        None
    };
    match line {
        Line::CommandDamaged(at) => {
            let damaged = damage(&command, at);
            // Le stands outside the MAC; without it, or with another, it is the same command.
            if at % (8 * command.len()) >= 8 * (command.len() - 1) {
                let answer = reader.transmit(card, &damaged);
                never_in_the_clear(&answer);
            } else if damaged[0] & 0x1F == command[0] & 0x1F && damaged[0] & 0xE0 == 0 {
                return closed(card, &damaged);
            }
        }
        Line::OldCommand if !old.is_empty() => return closed(card, old),
        Line::Plain => return closed(card, &[0x00, 0xB0, 0x81, 0x00, 0x04]),
        Line::AnswerLost | Line::CommandTwice => never_in_the_clear(&reader.transmit(card, &command)),
        Line::AnswerDamaged(at) => {
            let answer = reader.transmit(card, &command);
            never_in_the_clear(&answer);
            assert!(reader.accept(&damage(&answer, at)).is_err());
        }
        _ => {}
    }
    // What the reader does whenever no good answer has come: the same bytes again.
    let answer = reader.transmit(card, &command);
    never_in_the_clear(&answer);
    reader.accept(&answer).ok()
}

fn sw_of(card: &mut Card, reader: &Reader, bytes: &[u8]) -> u16 {
    sw(&reader.transmit(card, bytes))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Both ends stay in step or the card closes; each command is carried out once at most, and once if it was answered.
    #[test]
    fn a_bad_line(
        mode in prop::sample::select(&Mode::ALL[..]),
        separate in any::<bool>(),
        lines in prop::collection::vec(line(), 1..10),
    ) {
        let lanes = if separate { Lanes::Separate } else { Lanes::Shared };
        let mut card = files::card();
        select(&mut card, CONTACT);
        let mut reader = Reader::open(&mut card, CONTACT, mode, lanes, 5).unwrap();
        let (mut done, mut sent) = (0, Vec::<Vec<u8>>::new());
        for (number, line) in (1..).zip(lines) {
            if reader.messaging.refresh_due() {
                reader.refresh(&mut card);
            }
            let cap = match mode {
                Mode::LegacyXor => 3,
                Mode::LegacyTurns => 4,
                Mode::LegacyList => 9,
                _ => u8::MAX,
            };
            if number > cap {
                break;
            }
            // The last command is answered again; one before it is old.
            let old = sent.len().checked_sub(2).map(|at| sent[at].clone()).unwrap_or_default();
            let answer = exchange(&mut card, &mut reader, line, &old, &append(number));
            sent.push(reader.sent.clone());
            let Some(answer) = answer else { break };
            prop_assert_eq!(answer, [0x90, 0x00]);
            done = number;
        }
        // Only the reader's key opens the file to more than reading, so the newest record is the last that was answered.
        card.reset(CONTACT);
        select(&mut card, CONTACT);
        let (last, count) = newest(&mut card, CONTACT);
        prop_assert_eq!(last.unwrap_or(0), done);
        prop_assert_eq!(count, usize::from(done).min(4));
    }

    /// Whatever comes in, the card answers; and who has proved nothing changes no file, rule or key.
    #[test]
    fn hostile_bytes(inputs in prop::collection::vec(hostile(), 1..12), under in any::<bool>()) {
        let mut card = files::card();
        let before = state(&mut card);
        if under {
            Reader::open(&mut card, CONTACT, Mode::Ratchet, Lanes::Shared, 5).unwrap();
        }
        for input in inputs {
            send(&mut card, &input);
        }
        prop_assert_eq!(state(&mut card), before);
    }
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let ins = prop::sample::select(vec![
        0x0E, 0x24, 0x2C, 0x5A, 0x5C, 0x82, 0x84, 0x88, 0xA4, 0xB0, 0xB1, 0xB2, 0xC0, 0xD0, 0xD2, 0xD6, 0xDC,
        0xE0, 0xE2, 0xE4,
    ]);
    let cla = prop::sample::select(vec![0x00, 0x0C, 0x80, 0x8C, 0x10, 0x04]);
    let p1 = prop_oneof![
        Just(0x00),
        Just(0x01),
        Just(0x04),
        Just(0x08),
        Just(0x81),
        any::<u8>()
    ];
    let p2 = prop_oneof![Just(0x00), Just(0x01), Just(0x0C), Just(0x1C), any::<u8>()];
    let data = prop_oneof![
        Just(hex::decode("0011").unwrap()),
        Just(hex::decode("62158002000A82020101830240018801308C0407000000").unwrap()),
        prop::collection::vec(any::<u8>(), 0..60),
    ];
    (cla, ins, p1, p2, data, any::<bool>()).prop_map(|(cla, ins, p1, p2, data, le)| {
        let lc = u8::try_from(data.len()).unwrap();
        let body = if data.is_empty() {
            vec![]
        } else {
            [&[lc], &data[..]].concat()
        };
        let end: &[u8] = if le { &[0] } else { &[] };
        [&[cla, ins, p1, p2], &body[..], end].concat()
    })
}

/// What stands on the test card, as far as it can be seen; the keys by using them.
fn state(card: &mut Card) -> Vec<Vec<u8>> {
    card.reset(CONTACT);
    select(card, CONTACT);
    let mut seen: Vec<_> = [
        0x3F00, 0x0001, 0x0002, 0x0003, 0x0004, 0x0011, 0x0012, 0x0013, 0x0014, 0x2F00, 0x5EC1,
    ]
    .map(|fid: u16| {
        plain(card, CONTACT, &[0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00]).unwrap();
        let [high, low] = fid.to_be_bytes();
        send(card, &[0x00, 0xA4, 0x00, 0x04, 0x02, high, low, 0x00])
    })
    .to_vec();
    plain(card, CONTACT, &[0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00]).unwrap();
    seen.push(send(card, &[0x00, 0xB0, 0x9E, 0x00, 0x00]));
    seen.push(format!("{:?}", newest(card, CONTACT)).into_bytes());
    authenticate(card, CONTACT);
    let mut reader = Reader::open(card, CONTACT, Mode::Ratchet, Lanes::Shared, 5).unwrap();
    seen.push(reader.send(card, &[0x00, 0xB0, 0x81, 0x00, 0x40]));
    card.reset(CONTACT);
    select(card, CONTACT);
    seen
}

/// Terminal to terminal: two readers, each on its own interface with its own mode, files and proofs, beside two that do nothing more.
#[test]
fn two_readers_at_once() {
    let mut card = files::card();
    for interface in Interface::ALL {
        select(&mut card, interface);
    }
    let mut one = Reader::open(&mut card, CONTACT, Mode::Ratchet, Lanes::Separate, 9).unwrap();
    let mut two = Reader::open(&mut card, Interface::Spi, Mode::Fixed, Lanes::Shared, 9).unwrap();
    one.send(&mut card, &[0x00, 0x20, 0x00, 0x01, 0x04, 0x31, 0x32, 0x33, 0x34]);
    one.send(&mut card, &[0x00, 0xA4, 0x00, 0x0C, 0x02, 0x00, 0x14]);
    assert_eq!(
        two.send(&mut card, &[0x00, 0xB0, 0x81, 0x00, 0x01])[1..],
        [0x90, 0x00]
    );
    two.send(&mut card, &[0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00]);
    let others = [(Interface::Swp, 3), (Interface::ApduGate, 4)];
    let mut others = others.map(|(interface, number)| {
        let mut reader = Reader::open(&mut card, interface, Mode::Ratchet, Lanes::Shared, 9).unwrap();
        assert_eq!(reader.send(&mut card, &append(number)), [0x90, 0x00]);
        reader
    });
    for number in 1..4 {
        let answer = one.send(&mut card, &[0x00, 0xD6, 0x00, 0x00, 0x01, number]);
        assert_eq!(answer, [0x90, 0x00]);
        // What the one has selected and proved is not the other's.
        assert_eq!(two.send(&mut card, &[0x00, 0xB0, 0x00, 0x00, 0x01]), [0x69, 0x86]);
        assert_eq!(two.send(&mut card, &[0x00, 0xB0, 0x84, 0x00, 0x01]), [0x69, 0x82]);
        assert_eq!(two.send(&mut card, &append(number)), [0x90, 0x00]);
        two.send(&mut card, &[0x00, 0xA4, 0x00, 0x0C, 0x02, 0x3F, 0x00]);
    }
    // The one's command means nothing on the other's line, and costs only that.
    let command = one.protect(&[0x00, 0xB0, 0x00, 0x00, 0x01]);
    assert_eq!(
        send_on(&mut card, Interface::Spi, &command),
        0x6988_u16.to_be_bytes()
    );
    let answer = one.transmit(&mut card, &command);
    assert_eq!(one.accept(&answer).unwrap(), [0x03, 0x90, 0x00]);
    for reader in &mut others {
        assert_eq!(reader.send(&mut card, &append(5)), [0x90, 0x00]);
    }
}

/// Whoever has no key can open, but keeps nobody out by it.
#[test]
fn an_opening_that_nothing_follows_makes_room() {
    let mut card = files::card();
    for channel in 0..3 {
        if channel > 0 {
            plain(&mut card, CONTACT, &[0x00, 0x70, 0x00, 0x00, 0x01]).unwrap();
        }
        select_on(&mut card, CONTACT, channel);
    }
    let open =
        |card: &mut Card, channel| Reader::open_on(card, (CONTACT, channel), Mode::Ratchet, Lanes::Shared, 9);
    let on = |channel: u8, number| [&[channel], &append(number)[1..]].concat();
    let mut idle = open(&mut card, 0).unwrap();
    let mut one = open(&mut card, 1).unwrap();
    assert_eq!(one.send(&mut card, &on(1, 1)), [0x90, 0x00]);
    let mut two = open(&mut card, 2).unwrap();
    assert_eq!(two.send(&mut card, &on(2, 2)), [0x90, 0x00]);
    assert_eq!(one.send(&mut card, &on(1, 3)), [0x90, 0x00]);
    let late = idle.protect(&append(4));
    assert_eq!(idle.transmit(&mut card, &late), [0x69, 0x82]);
    assert_eq!(open(&mut card, 0).err(), Some(0x6A84));
}

/// More sessions than the application remembers: the one that has waited longest begins again, with nothing proved, but no interface's only one.
#[test]
fn sessions_that_are_forgotten_have_proved_nothing() {
    let mut card = files::card();
    for interface in Interface::ALL {
        for channel in 0..4 {
            if channel > 0 {
                plain(&mut card, interface, &[0x00, 0x70, 0x00, 0x00, 0x01]).unwrap();
            }
            let capdu = [
                &[channel, 0xA4, 0x04, 0x00, 0x07],
                sekisho_applets::file_system::AID,
            ]
            .concat();
            plain(&mut card, interface, &capdu).unwrap();
            plain(
                &mut card,
                interface,
                &[channel, 0x20, 0, 1, 4, 0x31, 0x32, 0x33, 0x34],
            )
            .unwrap();
        }
    }
    let proved = |card: &mut Card, interface, channel| plain(card, interface, &[channel, 0x20, 0x00, 0x01]);
    for interface in Interface::ALL {
        assert_eq!(proved(&mut card, interface, 3), Ok(vec![]), "{interface:?}");
    }
    for (interface, channel) in [
        (Interface::ApduGate, 2),
        (Interface::Spi, 0),
        (Interface::Spi, 1),
        (Interface::Spi, 2),
    ] {
        assert_eq!(proved(&mut card, interface, channel), Ok(vec![]));
    }
    for interface in [CONTACT, Interface::Swp] {
        for channel in 0..3 {
            assert_eq!(proved(&mut card, interface, channel), Err(0x63C3));
        }
    }
}

/// Two interfaces have used all that they may: a place is left for each of the two others, which none of these has had.
#[test]
fn a_place_is_left_for_each_interface_that_has_no_session() {
    let mut card = files::card();
    let verify = |channel: u8| [channel, 0x20, 0, 1, 4, 0x31, 0x32, 0x33, 0x34];
    for interface in [CONTACT, Interface::Swp] {
        for channel in 0..4 {
            if channel > 0 {
                plain(&mut card, interface, &[0x00, 0x70, 0x00, 0x00, 0x01]).unwrap();
            }
            files::select_on(&mut card, interface, channel);
            plain(&mut card, interface, &verify(channel)).unwrap();
        }
    }
    let mut proved = |interface, channel| plain(&mut card, interface, &[channel, 0x20, 0x00, 0x01]).is_ok();
    let kept: Vec<_> = [CONTACT, Interface::Swp]
        .into_iter()
        .flat_map(|interface| [3, 2, 1].map(|channel| (interface, channel)))
        .filter(|(interface, channel)| proved(*interface, *channel))
        .collect();
    // Eight places, two of them free: the two that were used first have gone.
    assert_eq!(kept.len(), 5, "{kept:?}");
    assert!(!proved(CONTACT, 0));
}

/// The last answer goes out again when its command comes again, fetched to the end or not; not when another logical channel of the interface has had an answer that was kept or had
/// to wait: then the command is not carried out, and secure messaging ends.
#[test]
fn a_kept_answer_is_given_again_until_another_channel_needs_its_place() {
    let read = [0x00, 0xB0, 0x81, 0x00, 0x08];
    let fci = [0x01, 0xA4, 0x04, 0x00, 0x01, 0xA0, 0x01];
    for (other, is_kept) in [
        (None, true),
        (Some(&[0x01, 0xB0, 0x9E, 0x00, 0x01][..]), true),
        (Some(&fci), false),
    ] {
        let mut card = files::card();
        select(&mut card, CONTACT);
        plain(&mut card, CONTACT, &[0x00, 0x70, 0x00, 0x00, 0x01]).unwrap();
        let mut reader = Reader::open(&mut card, CONTACT, Mode::Ratchet, Lanes::Shared, 9).unwrap();
        let answer = reader.send(&mut card, &append(1));
        assert_eq!(answer, [0x90, 0x00]);
        let command = reader.protect(&read);
        let first = reader.transmit(&mut card, &command);
        let number = card.flash().operations();
        if let Some(other) = other {
            send_on(&mut card, CONTACT, other);
        }
        // As a line would that takes eight bytes at a time.
        let mut cut = command.clone();
        *cut.last_mut().unwrap() = 8;
        let mut again = send_on(&mut card, CONTACT, &cut);
        if is_kept {
            while let [.., 0x61, rest] = again[..] {
                again.truncate(again.len() - 2);
                again.extend(send_on(&mut card, CONTACT, &[0x00, 0xC0, 0x00, 0x00, rest]));
            }
            assert_eq!(again, first);
            assert_eq!(reader.transmit(&mut card, &command), first);
        } else {
            assert_eq!(again, [0x69, 0x85]);
            assert_eq!(reader.transmit(&mut card, &command), [0x69, 0x82]);
        }
        assert_eq!(card.flash().operations(), number);
    }
}

/// On two interfaces all logical channels, and again: who has proved a PIN goes on.
#[test]
fn who_proves_nothing_takes_no_session_from_who_has() {
    let mut card = files::card();
    let verify = [0x00, 0x20, 0, 1, 4, 0x31, 0x32, 0x33, 0x34];
    for interface in [CONTACT, Interface::ApduGate] {
        select(&mut card, interface);
        plain(&mut card, interface, &verify).unwrap();
    }
    for round in 0..3 {
        for interface in [Interface::Swp, Interface::Spi] {
            for channel in 0..4 {
                if channel > 0 && round == 0 {
                    plain(&mut card, interface, &[0x00, 0x70, 0x00, 0x00, 0x01]).unwrap();
                }
                let name = sekisho_applets::file_system::AID;
                let capdu = [&[channel, 0xA4, 0x04, 0x00, 0x07], name].concat();
                plain(&mut card, interface, &capdu).unwrap();
                plain(&mut card, interface, &[channel, 0x84, 0x00, 0x00, 0x08]).unwrap();
            }
        }
    }
    for interface in [CONTACT, Interface::ApduGate] {
        assert_eq!(plain(&mut card, interface, &[0x00, 0x20, 0x00, 0x01]), Ok(vec![]));
    }
}

/// A refresh is due, and nothing else is taken; with it the session goes on, whatever the mode of keys.
#[test]
fn refreshes_go_on_and_are_forced() {
    for lanes in [Lanes::Shared, Lanes::Separate] {
        let mut card = files::card();
        select(&mut card, CONTACT);
        let mut reader = Reader::open(&mut card, CONTACT, Mode::Ratchet, lanes, 3).unwrap();
        for round in 0..4 {
            for number in 0..3 {
                assert_eq!(reader.send(&mut card, &append(16 * round + number)), [0x90, 0x00]);
            }
            assert!(reader.messaging.refresh_due());
            reader.refresh(&mut card);
        }
        // Refreshing early is allowed; in another mode there is nothing to refresh, and it closes.
        reader.refresh(&mut card);
        assert_eq!(reader.send(&mut card, &append(99)), [0x90, 0x00]);
    }
    let mut card = files::card();
    select(&mut card, CONTACT);
    let mut reader = Reader::open(&mut card, CONTACT, Mode::Fixed, Lanes::Shared, 3).unwrap();
    let own = sekisho_messaging::EphemeralKey::generate(&mut reader.rng).unwrap();
    let public = own.public_key();
    let command = common::host::encode(&sekisho_messaging::setup::refresh_command(&public));
    let protected = reader.protect(&command);
    assert_eq!(reader.transmit(&mut card, &protected), [0x69, 0x85]);
}

/// Long files, long answers in pieces, commands in chains, extended length: with and without secure messaging.
#[test]
fn long_data() {
    let mut card = files::card();
    select(&mut card, CONTACT);
    authenticate(&mut card, CONTACT);
    // 2,000 bytes, free for all.
    let fcp = hex::decode("6215800207D082020121830240018801308C0407000000").unwrap();
    plain(
        &mut card,
        CONTACT,
        &[&[0x00, 0xE0, 0x00, 0x00, 0x17], &fcp[..]].concat(),
    )
    .unwrap();
    let content = noise(&mut SeededRng(9), 700);
    let write = [
        &[0x00, 0xD6, 0x86, 0x40, 0x00],
        &700u16.to_be_bytes()[..],
        &content,
    ]
    .concat();
    plain(&mut card, CONTACT, &write).unwrap();
    let read = [0x00, 0xB0, 0x86, 0x40, 0x00, 0x02, 0xBC];
    assert_eq!(plain(&mut card, CONTACT, &read).unwrap(), content);
    let mut reader = Reader::open(&mut card, CONTACT, Mode::Ratchet, Lanes::Separate, 9).unwrap();
    assert_eq!(reader.send(&mut card, &read)[..700], content);
    let mut reversed = content.clone();
    reversed.reverse();
    let write = [&write[..7], &reversed[..]].concat();
    assert_eq!(reader.send(&mut card, &write), [0x90, 0x00]);
    // The same through short commands: a chain in, pieces out.
    let protected = reader.protect(&read);
    let answer = pieces(&mut card, &protected);
    assert_eq!(
        reader.accept(&answer).unwrap(),
        [&reversed[..], &[0x90, 0x00]].concat()
    );
    let write = [&write[..7], &content[..]].concat();
    let protected = reader.protect(&write);
    let (header, data) = (&protected[..4], &protected[7..protected.len() - 2]);
    let mut answer = Vec::new();
    for (at, piece) in data.chunks(200).enumerate() {
        let last = (at + 1) * 200 >= data.len();
        let cla = if last { header[0] } else { header[0] | 0x10 };
        let lc = u8::try_from(piece.len()).unwrap();
        let le: &[u8] = if last { &[0] } else { &[] };
        answer = send(&mut card, &[&[cla], &header[1..], &[lc], piece, le].concat());
    }
    assert_eq!(reader.accept(&answer).unwrap(), [0x90, 0x00]);
}

/// What was asked for comes, or a warning says that it is less: nothing is cut without a word.
#[test]
fn long_reads_say_what_is_missing() {
    let mut card = files::card();
    select(&mut card, CONTACT);
    authenticate(&mut card, CONTACT);
    let fcp = hex::decode("62158002100082020121830240018801308C0407000000").unwrap();
    plain(
        &mut card,
        CONTACT,
        &[&[0x00, 0xE0, 0x00, 0x00, 0x17], &fcp[..]].concat(),
    )
    .unwrap();
    plain(&mut card, CONTACT, &[0x00, 0xA4, 0x00, 0x0C, 0x02, 0x40, 0x01]).unwrap();
    let content = noise(&mut SeededRng(11), 4096);
    for (at, bytes) in (0_u16..).step_by(512).zip(content.chunks(512)) {
        let [high, low] = at.to_be_bytes();
        plain(
            &mut card,
            CONTACT,
            &[&[0x00, 0xD6, high, low, 0x00, 0x02, 0x00], bytes].concat(),
        )
        .unwrap();
    }
    let mut words = std::collections::BTreeSet::new();
    for protected in [false, true] {
        let mut reader =
            protected.then(|| Reader::open(&mut card, CONTACT, Mode::Fixed, Lanes::Shared, 9).unwrap());
        if let Some(reader) = &mut reader {
            let selected = reader.send(&mut card, &[0x00, 0xA4, 0x00, 0x0C, 0x02, 0x40, 0x01]);
            assert_eq!(selected, [0x90, 0x00]);
        }
        for offset in [0_u16, 1, 3000, 3071, 3072, 3073, 3840, 4095, 4096] {
            for ne in [
                1_usize, 255, 256, 257, 1000, 1023, 1024, 1025, 2000, 4096, 65535, 65536,
            ] {
                let [high, low] = offset.to_be_bytes();
                let [.., ne_high, ne_low] = ne.to_be_bytes();
                let read = [0x00, 0xB0, high, low, 0x00, ne_high, ne_low];
                let answer = match &mut reader {
                    Some(reader) => reader.send(&mut card, &read),
                    None => fetched(&mut card, &read),
                };
                let left = &content[offset.into()..];
                let (data, sw) = answer.split_at(answer.len() - 2);
                assert_eq!(data, &left[..left.len().min(data.len())], "{offset}, {ne}");
                // 256 and 65536 ask for all that there is.
                let asked = if matches!(ne, 256 | 65536) { left.len() } else { ne };
                let whole = data.len() == asked;
                assert_eq!(
                    sw,
                    if whole { [0x90, 0x00] } else { [0x62, 0x82] },
                    "{offset}, {ne}"
                );
                assert!(whole || data.len() == left.len().min(1024), "{offset}, {ne}");
                words.insert(sw.to_vec());
            }
        }
    }
    assert_eq!(words.len(), 2);
}

/// A protected command in short form, its answer fetched with GET RESPONSE.
fn pieces(card: &mut Card, protected: &[u8]) -> Vec<u8> {
    let data = &protected[7..protected.len() - 2];
    let lc = u8::try_from(data.len()).unwrap();
    fetched(card, &[&protected[..4], &[lc], data, &[0]].concat())
}

/// The whole answer to a command, with GET RESPONSE as long as there is more.
fn fetched(card: &mut Card, capdu: &[u8]) -> Vec<u8> {
    let mut answer = send(card, capdu);
    let mut whole = Vec::new();
    while answer[answer.len() - 2] == 0x61 {
        whole.extend_from_slice(&answer[..answer.len() - 2]);
        answer = send(card, &[0x00, 0xC0, 0x00, 0x00, 0x00]);
    }
    whole.extend_from_slice(&answer);
    whole
}

/// A key that is changed or deleted is gone from the flash.
#[test]
fn no_key_stays_in_flash() {
    let holds = |card: &Card, secret: &[u8]| card.flash().image().windows(secret.len()).any(|w| w == secret);
    let old = sekisho_applets::file_system::image::test_key::INTERNAL;
    let mut card = files::card();
    select(&mut card, CONTACT);
    assert!(holds(&card, &old));
    authenticate(&mut card, CONTACT);
    plain(&mut card, CONTACT, &[0x00, 0xE4, 0x00, 0x00, 0x02, 0x00, 0x04]).unwrap();
    assert!(!holds(&card, &old));
    let old = sekisho_applets::file_system::image::test_key::MKEY;
    plain(&mut card, CONTACT, &[0x00, 0xA4, 0x00, 0x0C, 0x02, 0x00, 0x01]).unwrap();
    plain(
        &mut card,
        CONTACT,
        &[&[0x00, 0x24, 0x01, 0x00, 0x10][..], &[0x77; 16]].concat(),
    )
    .unwrap();
    assert!(!holds(&card, &old));
    let new = Reader::open_with(&mut card, CONTACT, Mode::Ratchet, Lanes::Shared, 9, &[0x77; 16]);
    assert_eq!(new.unwrap().send(&mut card, &append(1)), [0x90, 0x00]);
}

/// Out of the factory only the ratchet is allowed.
#[test]
fn legacy_modes_are_off_by_default() {
    let mut card = files::card_on(common::flash(), &common::profile(), Policy::new());
    select(&mut card, CONTACT);
    for mode in Mode::ALL {
        let opened = Reader::open(&mut card, CONTACT, mode, Lanes::Shared, 256);
        assert_eq!(
            opened.err(),
            (mode != Mode::Ratchet).then_some(0x6985),
            "{}",
            mode.name()
        );
        card.reset(CONTACT);
        select(&mut card, CONTACT);
    }
}
