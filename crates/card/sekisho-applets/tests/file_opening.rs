//! Somebody in the line while secure messaging is opened, and openings that were recorded (docs/spec/rolling-secure-messaging.md, 3): the reader sends
//! no command to a card that is not the one, and the card carries out none that was sent to another.
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::print_stdout, reason = "says how much it has tried")]

use crate::common;

use std::collections::BTreeMap;

use common::ByValue as _;
use common::files::{self, NOT_CONFIRMED, Reader, append, select};
use common::script::Line;
use common::{Card, SeededRng, places, profile, send, sw};
use sekisho_messaging::EphemeralKey;
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::Mode;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::Interface;

const CONTACT: Interface = Interface::Iso7816Contact;

/// Which bytes a tap changes: the command or the answer of the message with this number.
#[derive(Clone, Copy)]
struct Change {
    message: usize,
    answer: bool,
    byte: usize,
    bit: usize,
}

/// The line, with somebody in it.
struct Tap<'c> {
    card: &'c mut Card,
    change: Option<Change>,
    /// What went over the line, as it was sent.
    seen: Vec<[Vec<u8>; 2]>,
}

impl<'c> Tap<'c> {
    fn new(card: &'c mut Card, change: Option<Change>) -> Self {
        Self {
            card,
            change,
            seen: Vec::new(),
        }
    }
}

impl Line for Tap<'_> {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        let number = self.seen.len();
        let changed = |bytes: &[u8], answer: bool| {
            let mut bytes = bytes.to_vec();
            if let Some(change) = self.change
                && (change.message, change.answer) == (number, answer)
            {
                bytes[change.byte] ^= 1 << change.bit;
            }
            bytes
        };
        let answer = Line::transmit(self.card, interface, &changed(capdu, false));
        let heard = changed(&answer, true);
        self.seen.push([capdu.to_vec(), answer]);
        heard
    }
}

fn booted(flash: &RamFlash, seed: u64) -> Card {
    let mut card = Card::booted(flash.clone(), SeededRng(seed), &profile()).unwrap();
    select(&mut card, CONTACT);
    card
}

fn every_mode() -> impl Iterator<Item = (Mode, Lanes)> {
    let both = |mode| [(mode, Lanes::Shared), (mode, Lanes::Separate)];
    Mode::ALL.into_iter().flat_map(both)
}

/// Every byte of GET CHALLENGE, of the opening and of their answers changed: the reader is refused or refuses, and no command is sent; or what was
/// changed means nothing, and both go on as if nothing had been.
#[test]
fn every_byte_of_every_opening_is_bound() {
    let flash = files::card().into_flash();
    let (mut cases, mut outcomes) = (0, BTreeMap::new());
    for (mode, lanes) in every_mode() {
        let mut card = booted(&flash, 3);
        let mut tap = Tap::new(&mut card, None);
        Reader::open(&mut tap, CONTACT, mode, lanes, 9).unwrap();
        let lengths: Vec<_> = tap
            .seen
            .iter()
            .map(|message| [message[0].len(), message[1].len()])
            .collect();
        assert_eq!(lengths.len(), 2);
        let le = if lengths[1][0] > 261 { 2 } else { 1 };
        for (message, answer) in [(0, false), (0, true), (1, false), (1, true)] {
            // The whole of what says how it is opened, one bit of each byte of the keys.
            for byte in places(lengths[message][usize::from(answer)]) {
                let bits = if byte < 6 || mode == Mode::Fixed {
                    0..8
                } else {
                    byte % 8..byte % 8 + 1
                };
                for bit in bits {
                    let mut card = booted(&flash, 3);
                    let before = card.flash().operations();
                    let change = Change {
                        message,
                        answer,
                        byte,
                        bit,
                    };
                    let opened =
                        Reader::open(&mut Tap::new(&mut card, Some(change)), CONTACT, mode, lanes, 9);
                    let what = format!(
                        "{}, {lanes:?}, message {message}, answer {answer}, byte {byte}, bit {bit}",
                        mode.name()
                    );
                    assert_eq!(card.flash().operations(), before, "{what}");
                    let outcome = match opened {
                        Err(NOT_CONFIRMED) => "the reader refuses".to_owned(),
                        Err(word) => format!("{word:04X}"),
                        Ok(mut reader) => {
                            // Le, and what the reader asks for a challenge with.
                            assert!(!answer && (message == 0 || byte >= lengths[1][0] - le), "{what}");
                            assert_eq!(reader.send(&mut card, &append(1)), [0x90, 0x00], "{what}");
                            "opened, as it was meant".to_owned()
                        }
                    };
                    *outcomes.entry(outcome).or_insert(0) += 1;
                    cases += 1;
                }
            }
        }
    }
    println!("{cases} changed openings: {outcomes:?}");
    assert!(
        ["the reader refuses", "6985", "6A80", "6700"]
            .iter()
            .all(|outcome| outcomes.contains_key(*outcome))
    );
}

/// A session is recorded, with its opening, and played again: in the same session, after a reset, on a card that was switched off, on another
/// channel. Nothing is carried out, and what is answered is not what was answered.
#[test]
fn recorded_sessions_are_worth_nothing() {
    let flash = files::card().into_flash();
    let (mut cases, mut words) = (0, BTreeMap::new());
    for (mode, lanes) in every_mode() {
        let mut card = booted(&flash, 3);
        let mut tap = Tap::new(&mut card, None);
        let mut reader = Reader::open(&mut tap, CONTACT, mode, lanes, 9).unwrap();
        assert_eq!(reader.send(&mut tap, &append(1)), [0x90, 0x00]);
        assert_eq!(
            reader.send(&mut tap, &[0x00, 0xD6, 0x81, 0x00, 0x02, 0x11, 0x22]),
            [0x90, 0x00]
        );
        let recorded = tap.seen;
        let flash_behind = card.into_flash();
        for (place, draws) in [
            ("after a reset", true),
            ("after a reset", false),
            ("switched off", true),
            ("another interface", true),
        ] {
            // What the card draws is another challenge: after a reset because it goes on, after it was switched off because its generator is not what it was.
            let mut card = booted(&flash_behind, 4);
            let interface = if place == "another interface" {
                Interface::Spi
            } else {
                CONTACT
            };
            if place == "after a reset" {
                let mut own = Reader::open(&mut card, CONTACT, mode, lanes, 9).unwrap();
                assert_eq!(
                    own.send(&mut card, &[0x00, 0xB0, 0x81, 0x00, 0x01])[1..],
                    [0x90, 0x00]
                );
                card.reset(CONTACT);
            }
            select(&mut card, interface);
            let before = card.flash().operations();
            for [command, answer] in recorded.iter().skip(usize::from(!draws)) {
                let again = Line::transmit(&mut card, interface, command);
                assert!(again.len() == 2 || again != *answer, "{}, {place}", mode.name());
                *words.entry(format!("{:04X}", sw(&again))).or_insert(0) += 1;
                cases += 1;
            }
            assert_eq!(card.flash().operations(), before, "{}, {place}", mode.name());
        }
        // In the session itself: the opening is in the clear, and the end.
        let mut card = booted(&flash, 3);
        let mut tap = Tap::new(&mut card, None);
        Reader::open(&mut tap, CONTACT, mode, lanes, 9).unwrap();
        let opening = tap.seen[1][0].clone();
        assert_eq!(send(&mut card, &opening), [0x69, 0x87]);
        assert_eq!(send(&mut card, &opening), [0x69, 0x85]);
    }
    println!("{cases} recorded commands: {words:?}");
    assert_eq!(
        words.keys().collect::<Vec<_>>(),
        ["6982", "6985", "6988", "6A80", "9000"]
    );
}

/// Somebody who plays the card and has no MKEY: a challenge, a key of his own, and a confirmation that he guesses.
struct Impostor {
    heard: Vec<Vec<u8>>,
    mode: Mode,
}

impl Line for Impostor {
    fn transmit(&mut self, _: Interface, capdu: &[u8]) -> Vec<u8> {
        self.heard.push(capdu.to_vec());
        let mut answer = match (self.heard.len(), self.mode) {
            (1, _) => vec![],
            (_, Mode::Ratchet) => EphemeralKey::generate(&mut SeededRng(8))
                .unwrap()
                .public_key()
                .to_vec(),
            _ => vec![],
        };
        answer.extend([0x42; 16]);
        answer.extend([0x90, 0x00]);
        answer
    }
}

/// In no mode does the reader send a command to somebody without MKEY.
#[test]
fn an_impostor_hears_no_command() {
    for (mode, lanes) in every_mode() {
        let mut impostor = Impostor {
            heard: Vec::new(),
            mode,
        };
        let opened = Reader::open(&mut impostor, CONTACT, mode, lanes, 9);
        assert_eq!(opened.err(), Some(NOT_CONFIRMED), "{}", mode.name());
        assert_eq!(
            impostor.heard.len(),
            2,
            "GET CHALLENGE and the opening, nothing else"
        );
    }
}
