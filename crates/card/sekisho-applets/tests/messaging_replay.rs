//! Recorded openings and sessions, played again: after a reset, after a restart of the card or the reader, and to a card whose flash somebody has put back to an old image.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use crate::common;

use std::collections::BTreeSet;

use common::ByValue as _;
use common::files::{self, Reader, every_mode, keys_of, select};
use common::host::encode;
use common::{Card, SeededRng, key, profile, send};
use sekisho_apdu::Cla;
use sekisho_applets::file_system::image::test_key;
use sekisho_messaging::EphemeralKey;
use sekisho_messaging::schedule::{Lanes, ScheduleError};
use sekisho_messaging::setup::{KeysOpening, Mode, RatchetOpening};
use sekisho_os::Interface;

const CONTACTS: Interface = Interface::Iso7816Contact;
const WRITE: [u8; 9] = [0x00, 0xD6, 0x81, 0x00, 0x04, 0xDE, 0xAD, 0xBE, 0xEF];
const READ: [u8; 5] = [0x00, 0xB0, 0x81, 0x00, 0x04];

/// What went over the line: commands and their answers.
type Recording = Vec<(Vec<u8>, Vec<u8>)>;

/// The card, and a line that writes down what passes.
struct Recorded<'c>(&'c mut Card, Recording);

impl common::script::Line for Recorded<'_> {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        let answer = common::send_on(self.0, interface, capdu);
        self.1.push((capdu.to_vec(), answer.clone()));
        answer
    }
}

/// A whole session: the file is written and read.
fn session(card: &mut Card, mode: Mode, lanes: Lanes) -> Recording {
    let mut line = Recorded(card, Vec::new());
    select(&mut line, CONTACTS);
    let mut reader = Reader::open(&mut line, CONTACTS, mode, lanes, 256).unwrap();
    assert_eq!(reader.send(&mut line, &WRITE), [0x90, 0x00]);
    assert!(reader.send(&mut line, &READ).ends_with(&[0x90, 0x00]));
    line.1
}

/// What the file holds, as its owner reads it.
fn held(card: &mut Card) -> Vec<u8> {
    card.reset(CONTACTS);
    select(card, CONTACTS);
    let mut reader = Reader::open(card, CONTACTS, Mode::Fixed, Lanes::Shared, 1).unwrap();
    reader.send(card, &READ)[..4].to_vec()
}

fn overwrite(card: &mut Card, value: [u8; 4]) {
    card.reset(CONTACTS);
    select(card, CONTACTS);
    let mut reader = Reader::open(card, CONTACTS, Mode::Fixed, Lanes::Shared, 1).unwrap();
    let write = [&WRITE[..5], &value[..]].concat();
    assert_eq!(reader.send(card, &write), [0x90, 0x00]);
}

fn boot(flash: &sekisho_nvm::ram::RamFlash, seed: u64) -> Card {
    Card::booted(flash.clone(), SeededRng(seed), &profile()).unwrap()
}

/// Sends the commands of a recording; the answers.
fn replay(card: &mut Card, recording: &Recording) -> Vec<Vec<u8>> {
    recording.iter().map(|(command, _)| send(card, command)).collect()
}

/// After a reset or a restart the card gives another challenge, and nothing of an old session does anything.
#[test]
fn a_session_is_carried_out_once() {
    let mut words = BTreeSet::new();
    for (mode, lanes) in every_mode() {
        let mut card = files::card();
        let recording = session(&mut card, mode, lanes);
        overwrite(&mut card, *b"next");
        for restart in [false, true] {
            if restart {
                card = boot(&card.into_flash(), 12);
            } else {
                card.reset(CONTACTS);
            }
            let answers = replay(&mut card, &recording);
            let [_, challenge, opening, protected @ ..] = &answers[..] else {
                panic!()
            };
            assert_ne!(*challenge, recording[1].1, "another challenge");
            // The ratchet's opening proves nothing, and the card's answer to it is another one.
            assert_ne!(*opening, recording[2].1);
            let opened = mode == Mode::Ratchet;
            assert_eq!(opening.ends_with(&[0x90, 0x00]), opened, "{}", mode.name());
            for answer in protected {
                assert_eq!(answer.len(), 2, "{}: nothing is read", mode.name());
                assert_ne!(answer[..], [0x90, 0x00]);
            }
            words.extend(
                answers[2..]
                    .iter()
                    .map(|answer| hex::encode_upper(&answer[answer.len() - 2..])),
            );
            assert_eq!(held(&mut card), b"next", "{}: nothing is written", mode.name());
        }
    }
    println!("answers to what was replayed: {words:?}");
    assert_eq!(
        words.into_iter().collect::<Vec<_>>(),
        ["6982", "6988", "6A80", "9000"]
    );
}

/// A reader that is started anew is shown the recorded card: it sends no command.
#[test]
fn a_recorded_card_gets_no_command_of_a_new_reader() {
    let mkey = key(&test_key::MKEY);
    for (mode, lanes) in every_mode() {
        let recording = session(&mut files::card(), mode, lanes);
        let challenge: [u8; 16] = recording[1].1[..16].try_into().unwrap();
        let (sent, answer) = &recording[2];
        let answer = &answer[..answer.len() - 2];
        let mut rng = SeededRng(1234);
        let (command, opened) = if mode == Mode::Ratchet {
            let opening = RatchetOpening::new(EphemeralKey::generate(&mut rng).unwrap(), lanes, Cla::GP, 256);
            (
                encode(&opening.command()),
                opening.finish(&mkey, challenge, answer),
            )
        } else {
            let mut keys = keys_of(mode, lanes);
            keys.iter_mut().for_each(|key| key[0] ^= 1);
            let opening = KeysOpening::new(&mkey, (mode, lanes), Cla::GP, &keys, challenge).unwrap();
            (encode(&opening.command()), opening.finish(answer))
        };
        assert_ne!(command, *sent);
        assert_eq!(opened.err(), Some(ScheduleError::NotConfirmed), "{}", mode.name());
    }
}

/// Somebody puts the flash back to what it was. With randomness of its own the card carries out nothing again, and a key that was changed since is noticed, as the card has
/// the old one. That the files are old nobody can see.
#[test]
fn an_old_flash_image_brings_back_files_but_no_sessions() {
    for (mode, lanes) in every_mode() {
        let mut card = files::card();
        overwrite(&mut card, *b"old!");
        let old = card.into_flash();
        let mut card = boot(&old, 5);
        let recording = session(&mut card, mode, lanes);
        let mut restored = boot(&old, 6);
        let answers = replay(&mut restored, &recording);
        assert!(answers[3..].iter().all(|answer| answer.len() == 2));
        assert_eq!(
            held(&mut restored),
            b"old!",
            "nothing was carried out; and the file is old, which nobody sees"
        );
    }
    // MKEY is changed; its reader finds the old one in the restored card before it sends anything.
    let mut card = files::card();
    let old = card.into_flash();
    card = boot(&old, 5);
    let new_key = [0x5A; 16];
    select(&mut card, CONTACTS);
    files::authenticate(&mut card, CONTACTS);
    for command in [
        &[0x00, 0xA4, 0x02, 0x0C, 0x02, 0x00, 0x01][..],
        &[&[0x00, 0x24, 0x01, 0x00, 16][..], &new_key].concat(),
    ] {
        assert_eq!(send(&mut card, command), [0x90, 0x00]);
    }
    for (card, is_right) in [(&mut card, true), (&mut boot(&old, 6), false)] {
        card.reset(CONTACTS);
        select(card, CONTACTS);
        let challenge: [u8; 16] = send(card, &[0x00, 0x84, 0, 0, 16])[..16].try_into().unwrap();
        let own = EphemeralKey::generate(&mut SeededRng(3)).unwrap();
        let opening = RatchetOpening::new(own, Lanes::Shared, Cla::GP, 256);
        let answer = send(card, &encode(&opening.command()));
        let opened = opening.finish(&key(&new_key), challenge, &answer[..answer.len() - 2]);
        assert_eq!(opened.err(), (!is_right).then_some(ScheduleError::NotConfirmed));
    }
}

/// What cannot be noticed (SECURITY.md): flash *and* randomness of the card are put back. Then it gives the same challenge, and a recorded session is carried out again,
/// in every mode. A card needs a source of randomness outside its flash.
#[test]
fn a_card_whose_randomness_comes_back_as_well_repeats_itself() {
    for (mode, lanes) in every_mode() {
        let flash = files::card().into_flash();
        let recording = session(&mut boot(&flash, 5), mode, lanes);
        let mut restored = boot(&flash, 5);
        let expected: Vec<_> = recording.iter().map(|(_, answer)| answer.clone()).collect();
        assert_eq!(replay(&mut restored, &recording), expected, "{}", mode.name());
    }
}
