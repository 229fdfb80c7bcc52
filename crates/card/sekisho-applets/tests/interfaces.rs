//! What waits on one interface or logical channel, and what comes on another: docs/spec/card.md, 1.

#![allow(clippy::unwrap_used, clippy::panic)] // test support

use crate::common;

use common::files::{self, Reader};
use common::host::{Host, initialize_update};
use common::script::Line;
use common::{Card, SeededRng, initial_keys, new_card, new_card_with, profile, send, send_on, sw};
use sekisho_keys::Rng;
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::Mode;
use sekisho_os::{Interface, InterfaceAccess, Profile};
use sekisho_scp::{MacMode, SecurityLevel};

pub(crate) const CONTACT: Interface = Interface::Iso7816Contact;

/// SELECT of the issuer security domain in two segments.
pub(crate) const SELECT: [&[u8]; 2] = [
    &[0x10, 0xA4, 0x04, 0x00, 0x04, 0xA0, 0x00, 0x00, 0x01],
    &[0x00, 0xA4, 0x04, 0x00, 0x04, 0x51, 0x00, 0x00, 0x00],
];

/// 51 bytes, of which 16 are asked for.
pub(crate) const CARD_DATA: [u8; 5] = [0x80, 0xCA, 0x00, 0x66, 0x10];

/// The command on another logical channel than the basic one.
fn on(channel: u8, capdu: &[u8]) -> Vec<u8> {
    let mut capdu = capdu.to_vec();
    capdu[0] |= channel;
    capdu
}

pub(crate) fn open_channels(card: &mut Card, interface: Interface, count: u8) {
    for number in 1..=count {
        let answer = send_on(card, interface, &[0x00, 0x70, 0x00, 0x00, 0x01]);
        assert_eq!(answer, [number, 0x90, 0x00]);
    }
}

pub(crate) fn open(card: &mut Card, interface: Interface, channel: u8, level: SecurityLevel) -> Host {
    Host::open_on(card, interface, channel, 0, &initial_keys(), level, MacMode::S8).unwrap()
}

/// STORE DATA of a card image number of these digits, protected and cut into segments.
fn protected_chain(host: &mut Host, digit: u8) -> Vec<Vec<u8>> {
    let number = [digit; 16];
    let cla = 0x80 | host.logical_channel;
    let plain = [&[cla, 0xE2, 0x90, 0x00, 0x12, 0x45, 0x10][..], &number].concat();
    let whole = host.wrap(&plain);
    let [cla, ins, p1, p2, _, data @ ..] = &whole[..] else {
        panic!("no command");
    };
    let mut parts = data.chunks(16).peekable();
    let mut segments = Vec::new();
    while let Some(part) = parts.next() {
        let more = if parts.peek().is_some() { 0x10 } else { 0 };
        let head = [cla | more, *ins, *p1, *p2, u8::try_from(part.len()).unwrap()];
        segments.push([&head, part].concat());
    }
    assert!(segments.len() > 1);
    segments
}

pub(crate) fn level_33() -> SecurityLevel {
    SecurityLevel::from_p1(0x33).unwrap()
}

/// Row C10: one segment, and nobody could chain any more, until a reset.
#[test]
fn a_chain_left_open_keeps_nobody_from_chaining() {
    let mut card = new_card();
    open_channels(&mut card, CONTACT, 3);
    let mut host = open(&mut card, CONTACT, 3, level_33());
    let left_open = [0x11, 0xD6, 0x00, 0x00, 0x01, 0x00];
    for (interface, channel) in [
        (CONTACT, 0),
        (CONTACT, 1),
        (CONTACT, 2),
        (Interface::Swp, 0),
        (Interface::ApduGate, 0),
        (Interface::Spi, 0),
    ] {
        send(&mut card, &left_open);
        let answers = SELECT.map(|segment| sw(&send_on(&mut card, interface, &on(channel, segment))));
        assert_eq!(answers, [0x9000, 0x9000], "{interface:?} {channel}");
    }
    // And a protected one.
    send(&mut card, &left_open);
    send(&mut card, &left_open);
    for segment in protected_chain(&mut host, 1) {
        assert_eq!(sw(&send(&mut card, &segment)), 0x9000);
    }
}

/// Every interface receives its chain and keeps its answer, whatever comes on the others, piece by piece in turn.
#[test]
fn what_waits_on_an_interface_is_disturbed_by_no_other() {
    let mut card = new_card();
    for interface in Interface::ALL {
        send_on(&mut card, interface, &CARD_DATA);
    }
    let mut answers = Vec::new();
    for piece in [0x13, 0x10] {
        for (own, interface) in Interface::ALL.into_iter().enumerate() {
            answers.resize(Interface::COUNT, Vec::new());
            let answer = send_on(&mut card, interface, &[0x00, 0xC0, 0x00, 0x00, piece]);
            answers[own].extend_from_slice(&answer[..usize::from(piece)]);
        }
    }
    let whole = send(&mut card, &[0x80, 0xCA, 0x00, 0x66, 0x00]);
    for answer in answers {
        assert_eq!(answer, whole[16..whole.len() - 2]);
    }
    for (segment, selected) in SELECT.into_iter().zip([false, true]) {
        for interface in Interface::ALL {
            let answer = send_on(&mut card, interface, segment);
            assert_eq!(sw(&answer), 0x9000);
            assert_eq!(answer.len() > 2, selected);
        }
    }
    // A reset ends what waits on its own interface alone.
    for interface in Interface::ALL {
        send_on(&mut card, interface, &CARD_DATA);
        send_on(&mut card, interface, SELECT[0]);
        card.reset(interface);
        assert_eq!(send_on(&mut card, interface, &[0, 0xC0, 0, 0, 0]), [0x6D, 0x00]);
        assert_eq!(send_on(&mut card, interface, SELECT[1]), [0x6A, 0x82]);
    }
    send_on(&mut card, Interface::Swp, &CARD_DATA);
    for interface in [CONTACT, Interface::ApduGate, Interface::Spi] {
        card.reset(interface);
    }
    let rest = send_on(&mut card, Interface::Swp, &[0x00, 0xC0, 0x00, 0x00, 0x00]);
    assert_eq!(sw(&rest), 0x9000);
}

/// What one interface sends without a key: selections, channels, chains with and without their end, answers fetched and not, openings, no commands.
fn any_command(rng: &mut SeededRng) -> Vec<u8> {
    let mut choice = [0; 3];
    rng.fill(&mut choice);
    let [kind, channel, detail] = choice;
    let ne = if detail % 3 == 0 { detail } else { 0 };
    let command: &[u8] = match kind % 12 {
        0 | 1 => SELECT[0],
        2 | 3 => SELECT[1],
        4 => &[0x10, 0xD6, 0x00, 0x00, 0x01, detail],
        5 => &[0x00, 0xD6, 0x00, 0x00, 0x01, detail],
        6 => &[0x80, 0xCA, 0x00, 0x66, ne],
        7 => &[0x00, 0xC0, 0x00, 0x00, ne],
        8 => &[0x00, 0x70, 0x00, 0x00, 0x01],
        9 => &[0x00, 0x70, 0x80, detail & 3],
        10 => &[0x80, 0x50, 0x00, 0x00, 0x08, 1, 2, 3, 4, 5, 6, 7, 8, 0x00],
        _ => &[0x80, 0xCA, 0x00],
    };
    let channel = if kind % 12 > 7 { 0 } else { channel & 3 };
    on(channel, command)
}

/// An interface hears the same whether the others are silent or busy, word for word.
#[test]
fn an_interface_hears_the_same_whatever_the_others_do() {
    let mut kinds = std::collections::BTreeMap::new();
    for (seed, own) in (1..=40).flat_map(|seed| Interface::ALL.map(|own| (seed, own))) {
        let (mut alone, mut among) = (new_card(), new_card());
        let (mut rng, mut noise) = (SeededRng(seed), SeededRng(seed + 1000));
        for step in 0..120 {
            for other in Interface::ALL.into_iter().filter(|other| *other != own) {
                send_on(&mut among, other, &any_command(&mut noise));
            }
            let command = any_command(&mut rng);
            let answers = [&mut alone, &mut among].map(|card| send_on(card, own, &command));
            *kinds.entry(sw(&answers[0])).or_insert(0) += 1;
            // The challenge of an opening is the card's own.
            let [one, two] = answers.map(|answer| {
                if command[1] == 0x50 {
                    sw(&answer).to_be_bytes().to_vec()
                } else {
                    answer
                }
            });
            assert_eq!(
                one,
                two,
                "seed {seed}, {own:?}, step {step}: {}",
                hex::encode(&command)
            );
        }
    }
    println!("{kinds:04X?}");
    for expected in [0x9000, 0x6A84, 0x6A82, 0x6700, 0x6D00, 0x6881] {
        assert!(kinds.contains_key(&expected), "{expected:04X} never came");
    }
    assert!(kinds.keys().any(|sw| sw >> 8 == 0x61), "nothing ever waited");
}

/// The end of a chain whose beginning is gone is no command of its own.
#[test]
fn the_rest_of_a_chain_that_gave_way_is_refused_once() {
    for rest in [SELECT[0], SELECT[1]] {
        let mut card = new_card();
        open_channels(&mut card, CONTACT, 1);
        assert_eq!(send(&mut card, SELECT[0]), [0x90, 0x00]);
        assert_eq!(send(&mut card, &on(1, SELECT[0])), [0x90, 0x00]);
        assert_eq!(send(&mut card, rest), [0x6A, 0x84]);
        assert_eq!(sw(&send(&mut card, &on(1, SELECT[1]))), 0x9000);
        let again = SELECT.map(|segment| sw(&send(&mut card, segment)));
        assert_eq!(again, [0x9000, 0x9000]);
    }
    // A protected one: none of its bytes has been looked at, so that the same bytes come again, and the session goes on.
    let mut card = new_card();
    open_channels(&mut card, CONTACT, 1);
    let mut hosts = [0, 1].map(|channel| open(&mut card, CONTACT, channel, level_33()));
    let [one, two] = &mut hosts;
    let chains = [protected_chain(one, 1), protected_chain(two, 2)];
    assert_eq!(send(&mut card, &chains[0][0]), [0x90, 0x00]);
    for segment in &chains[1] {
        assert_eq!(sw(&send(&mut card, segment)), 0x9000);
    }
    assert_eq!(send(&mut card, &chains[0][1]), [0x6A, 0x84]);
    for segment in &chains[0] {
        assert_eq!(sw(&send(&mut card, segment)), 0x9000);
    }
    let number = send(&mut card, &[0x80, 0xCA, 0x00, 0x45, 0x00]);
    assert_eq!(number, [0x69, 0x82]);
}

/// An answer gives way to one that has to wait, and to nothing else of another logical channel.
#[test]
fn an_answer_waits_until_another_has_to() {
    let mut card = new_card();
    open_channels(&mut card, CONTACT, 1);
    send(&mut card, &CARD_DATA);
    for other in [
        &on(1, &[0x00, 0xA4, 0x04, 0x00, 0x00])[..],
        &[0x81, 0xCA, 0x00, 0x66, 0x00],
        &[0x02, 0, 0, 0],
    ] {
        send(&mut card, other);
    }
    let piece = send(&mut card, &[0x00, 0xC0, 0x00, 0x00, 0x01]);
    assert_eq!(piece[1..], [0x61, 0x22]);
    assert_eq!(send(&mut card, &on(1, &CARD_DATA))[16..], [0x61, 0x23]);
    assert_eq!(send(&mut card, &[0x00, 0xC0, 0x00, 0x00, 0x01]), [0x6D, 0x00]);
    assert_eq!(send(&mut card, &[0x01, 0xC0, 0x00, 0x00, 0x00]).len(), 0x23 + 2);
    // It ends with its logical channel, whoever closes that, and with the next command there.
    send(&mut card, &on(1, &CARD_DATA));
    send(&mut card, &[0x00, 0x70, 0x80, 0x01]);
    open_channels(&mut card, CONTACT, 1);
    assert_eq!(send(&mut card, &[0x01, 0xC0, 0x00, 0x00, 0x00]), [0x6D, 0x00]);
    send(&mut card, &CARD_DATA);
    send(&mut card, &[0x80, 0xCA, 0x00, 0xCF, 0x00]);
    assert_eq!(send(&mut card, &[0x00, 0xC0, 0x00, 0x00, 0x00]), [0x6D, 0x00]);
}

/// On one interface: whoever has no key takes neither the chain nor the answer of who has proved one, and can do all else meanwhile.
#[test]
fn what_has_proved_a_key_gives_way_to_its_like_alone() {
    let mut card = new_card();
    open_channels(&mut card, CONTACT, 3);
    let mut host = open(&mut card, CONTACT, 0, level_33());
    let chain = protected_chain(&mut host, 1);
    let last = chain.len() - 1;
    for (number, segment) in chain.iter().enumerate() {
        // Before each segment, whatever can be tried without a key.
        for capdu in [SELECT[0], SELECT[1], &CARD_DATA] {
            send(&mut card, &on(1, capdu));
        }
        assert_eq!(sw(&send(&mut card, segment)), 0x9000);
        if number < last {
            assert_eq!(send(&mut card, &on(1, SELECT[0])), [0x6A, 0x84]);
        }
        // In one piece it is a command like any other.
        let aid = [0x00, 0xA4, 0x04, 0x00, 0x05, 0xA0, 0x00, 0x00, 0x01, 0x51, 0x00];
        assert_eq!(sw(&send(&mut card, &on(1, &aid))), 0x9000);
    }
    // The answer: the other's is refused whole where it would have to wait, and nothing has been done.
    let mut command = host.wrap(&[0x80, 0xCA, 0x00, 0x66, 0x00]);
    *command.last_mut().unwrap() = 0x10;
    let mut answer = send(&mut card, &command);
    assert_eq!(answer.split_off(16)[0], 0x61);
    assert_eq!(send(&mut card, &on(1, &CARD_DATA)), [0x6A, 0x84]);
    assert_eq!(sw(&send(&mut card, &[0x01, 0xC0, 0x00, 0x00, 0x00])), 0x6D00);
    assert_eq!(send(&mut card, &[0x01, 0xA4, 0x04, 0x00, 0x01]), [0x6A, 0x84]);
    assert_eq!(sw(&send(&mut card, &[0x81, 0xCA, 0x00, 0x66, 0x00])), 0x9000);
    let mut rest = send(&mut card, &[0x00, 0xC0, 0x00, 0x00, 0x00]);
    answer.append(&mut rest);
    assert_eq!(host.unwrap(&answer)[..2], [0x66, 0x31]);
    // With the session the proof ends.
    let unfinished = protected_chain(&mut host, 2);
    send(&mut card, &unfinished[0]);
    let mut other = open(&mut card, CONTACT, 2, level_33());
    for segment in protected_chain(&mut other, 3) {
        assert_eq!(sw(&send(&mut card, &segment)), 0x9000, "who has proved as much");
    }
    send(&mut card, &[0x00, 0xA4, 0x04, 0x00, 0x00]);
    send(&mut card, &[0x10, 0xA4, 0x04, 0x00, 0x01, 0xA0]);
    let answers = SELECT.map(|segment| sw(&send(&mut card, &on(1, segment))));
    assert_eq!(answers, [0x9000, 0x9000]);
}

/// Secure messaging proves a key with its first right command, not with its opening.
#[test]
fn secure_messaging_keeps_its_chain_once_it_has_proved_a_key() {
    for is_proved in [false, true] {
        let mut card = files::card();
        open_channels(&mut card, CONTACT, 1);
        files::select(&mut card, CONTACT);
        let mut reader = Reader::open(&mut card, CONTACT, Mode::Ratchet, Lanes::Shared, 9).unwrap();
        if is_proved {
            assert_eq!(reader.send(&mut card, &files::append(1)), [0x90, 0x00]);
        }
        let whole = reader.protect(&files::append(2));
        let (head, data) = (&whole[..4], &whole[5..whole.len() - 1]);
        let (first, last) = data.split_at(9);
        let first = [&[head[0] | 0x10, head[1], head[2], head[3], 9], first].concat();
        let len = u8::try_from(last.len()).unwrap();
        let last = [head, &[len], last, &[0]].concat();
        assert_eq!(send(&mut card, &first), [0x90, 0x00]);
        let other = sw(&send(&mut card, &on(1, SELECT[0])));
        let answer = send(&mut card, &last);
        if is_proved {
            assert_eq!(other, 0x6A84);
            assert_eq!(reader.accept(&answer).unwrap(), [0x90, 0x00]);
        } else {
            assert_eq!((other, &answer[..]), (0x9000, &[0x6A, 0x84][..]));
            // It goes on: the same bytes come again.
            send(&mut card, &first);
            let answer = send(&mut card, &last);
            assert_eq!(reader.accept(&answer).unwrap(), [0x90, 0x00]);
        }
    }
}

/// A card whose issuer security domain opens its secure channel on SWP as well.
fn open_everywhere(logical_channels: u8) -> Card {
    let profile = Profile {
        logical_channels,
        root_access: InterfaceAccess::ALL,
        ..profile()
    };
    new_card_with(&profile, 0xFF, &initial_keys())
}

/// INITIALIZE UPDATE and nothing behind it.
fn initiate(card: &mut Card, (interface, channel): (Interface, u8)) -> u16 {
    sw(&send_on(
        card,
        interface,
        &initialize_update(0, MacMode::S8, channel),
    ))
}

/// Row C12: on four logical channels of one interface, and no other interface had SCP03 any more.
#[test]
fn openings_that_prove_nothing_keep_nobody_out() {
    let mut card = open_everywhere(4);
    for interface in Interface::ALL {
        open_channels(&mut card, interface, 3);
    }
    for round in 0..3 {
        for interface in Interface::ALL {
            for channel in 0..4 {
                assert_eq!(
                    initiate(&mut card, (interface, channel)),
                    0x9000,
                    "{round} {interface:?} {channel}"
                );
            }
        }
    }
    for interface in Interface::ALL {
        for channel in 0..4 {
            let mut host = open(&mut card, interface, channel, level_33());
            let answer = host.send(&mut card, &[0x80 | channel, 0xCA, 0x00, 0xD3, 0x00]);
            assert_eq!(answer, [0xD3, 0x01, 0xB3, 0x90, 0x00]);
            card.transmit(interface, &[channel, 0xA4, 0x04, 0x00, 0x00], &mut [0; 300]);
        }
    }
}

/// The other interfaces flood between a host's two commands: its opening stands.
#[test]
fn an_opening_stands_whatever_comes_on_other_interfaces() {
    for own in Interface::ALL {
        let mut card = open_everywhere(4);
        for interface in Interface::ALL {
            open_channels(&mut card, interface, 3);
        }
        let mut line = Flooded { card, own };
        let mut hosts: Vec<Host> = (0..3)
            .map(|_| Host::open_on(&mut line, own, 0, 0, &initial_keys(), level_33(), MacMode::S8).unwrap())
            .collect();
        let mut host = hosts.pop().unwrap();
        let answer = host.send(&mut line, &[0x80, 0xCA, 0x00, 0xD3, 0x00]);
        assert_eq!(answer, [0xD3, 0x01, 0xB3, 0x90, 0x00]);
    }
}

/// A card to whom every other interface sends four INITIALIZE UPDATE before each command.
struct Flooded {
    card: Card,
    own: Interface,
}

impl Line for Flooded {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        for other in Interface::ALL.into_iter().filter(|other| *other != self.own) {
            for channel in [0, 1, 2, 3] {
                assert_eq!(initiate(&mut self.card, (other, channel)), 0x9000);
            }
        }
        send_on(&mut self.card, interface, capdu)
    }
}

/// Whoever holds the keys may have four secure channels on an interface, and seven in all; another interface has one of its own even then. An open
/// one is closed in favour of none.
#[test]
fn open_channels_leave_every_interface_one() {
    let mut card = open_everywhere(20);
    let mut hosts = Vec::new();
    for (interface, count) in [
        (Interface::Swp, 4),
        (CONTACT, 1),
        (Interface::ApduGate, 1),
        (Interface::Spi, 1),
    ] {
        open_channels(&mut card, interface, 5);
        for channel in 0..count {
            hosts.push(open(&mut card, interface, channel, level_33()));
        }
        assert_eq!(initiate(&mut card, (interface, count)), 0x6A84);
    }
    assert_eq!(hosts.len(), 7);
    for host in &mut hosts {
        let answer = host.send(&mut card, &[0x80 | host.logical_channel, 0xCA, 0x00, 0xD3, 0x00]);
        assert_eq!(answer, [0xD3, 0x01, 0xB3, 0x90, 0x00]);
    }
    // One that ends makes room, on its interface alone.
    card.reset(Interface::Swp);
    assert_eq!(initiate(&mut card, (CONTACT, 1)), 0x9000);
    // Of openings the oldest of the own interface makes room.
    for channel in 2..5 {
        assert_eq!(initiate(&mut card, (CONTACT, channel)), 0x9000);
    }
    let authenticate = |card: &mut Card, channel: u8| {
        sw(&send(
            card,
            &[
                0x84 | channel,
                0x82,
                0x33,
                0x00,
                0x10,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            ],
        ))
    };
    assert_eq!(authenticate(&mut card, 1), 0x6985);
    assert_eq!(authenticate(&mut card, 2), 0x6300);
}

/// A secure channel that met a security error takes nobody's room, and is not forgotten for another's sake.
#[test]
fn what_was_aborted_stays_so_and_takes_no_room() {
    let mut card = open_everywhere(4);
    for interface in Interface::ALL {
        open_channels(&mut card, interface, 3);
        for channel in 0..4 {
            open(&mut card, interface, channel, level_33());
            let answer = send_on(&mut card, interface, &[0x80 | channel, 0xCA, 0x00, 0xCF, 0x00]);
            assert_eq!(answer, [0x69, 0x82]);
        }
    }
    for channel in 0..4 {
        assert_eq!(
            send(&mut card, &[0x80 | channel, 0xCA, 0x00, 0xCF, 0x00]),
            [0x69, 0x82]
        );
        send(&mut card, &[channel, 0xA4, 0x04, 0x00, 0x00]);
        assert_eq!(
            sw(&send(&mut card, &[0x80 | channel, 0xCA, 0x00, 0xCF, 0x00])),
            0x9000
        );
    }
}

/// Each interface has a place for secure messaging that no other takes, and there is one more in all: whoever floods, proves or keeps on one interface ends nothing on another, and keeps nobody
/// out there.
#[test]
fn secure_messaging_has_a_place_on_every_interface() {
    for own in Interface::ALL {
        let mut card = files::card();
        for interface in Interface::ALL {
            open_channels(&mut card, interface, 3);
            (0..4).for_each(|channel| files::select_on(&mut card, interface, channel));
        }
        let begin = |card: &mut Card, place| Reader::open_on(card, place, Mode::Ratchet, Lanes::Shared, 9);
        let append = |channel: u8| [&[channel], &files::append(1)[1..]].concat();
        let others = || Interface::ALL.into_iter().filter(|other| *other != own);
        // Openings without keys, round and round, between the two commands of an opening and its first command.
        let mut first = begin(&mut card, (own, 0)).unwrap();
        for _ in 0..2 {
            for place in others().flat_map(|other| (0..4).map(move |channel| (other, channel))) {
                begin(&mut card, place).unwrap();
            }
        }
        assert_eq!(first.send(&mut card, &append(0)), [0x90, 0x00], "{own:?}");
        card.reset(own);
        // Whoever has a key takes what there is: one of each interface, and one more.
        let mut proved = Vec::new();
        for other in others() {
            for channel in 0..4 {
                if let Ok(mut reader) = begin(&mut card, (other, channel)) {
                    assert_eq!(reader.send(&mut card, &append(channel)), [0x90, 0x00]);
                    proved.push((reader, channel));
                }
            }
        }
        assert_eq!(proved.len(), 4);
        open_channels(&mut card, own, 1);
        (0..2).for_each(|channel| files::select_on(&mut card, own, channel));
        let mut late = begin(&mut card, (own, 0)).unwrap();
        assert_eq!(late.send(&mut card, &append(0)), [0x90, 0x00], "{own:?}");
        assert_eq!(begin(&mut card, (own, 1)).err(), Some(0x6A84));
        for (reader, channel) in &mut proved {
            assert_eq!(reader.send(&mut card, &append(*channel)), [0x90, 0x00]);
        }
    }
}

/// The place beyond the interfaces' own is had by an opening that has proved nothing until another interface has a reader who wants it.
#[test]
fn the_place_beyond_the_interfaces_own_goes_to_who_can_prove() {
    let mut card = files::card();
    for interface in [CONTACT, Interface::Swp] {
        open_channels(&mut card, interface, 3);
        (0..4).for_each(|channel| files::select_on(&mut card, interface, channel));
    }
    let begin = |card: &mut Card, place| Reader::open_on(card, place, Mode::Ratchet, Lanes::Shared, 9);
    let mut first = begin(&mut card, (Interface::Swp, 0)).unwrap();
    let mut second = begin(&mut card, (Interface::Swp, 1)).unwrap();
    let mut one = begin(&mut card, (CONTACT, 0)).unwrap();
    assert_eq!(one.send(&mut card, &files::append(1)), [0x90, 0x00]);
    let mut two = begin(&mut card, (CONTACT, 1)).unwrap();
    let mut append = files::append(2);
    append[0] = 1;
    assert_eq!(two.send(&mut card, &append), [0x90, 0x00]);
    // Of the other's two the younger has gone.
    assert_eq!(first.send(&mut card, &files::append(3)), [0x90, 0x00]);
    let late = second.protect(&append);
    assert_eq!(second.transmit(&mut card, &late), [0x69, 0x82]);
}
