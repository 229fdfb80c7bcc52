//! What an application remembers belongs to the instance: two file systems in one card, with the same code and the same files, know nothing of
//! each other (docs/decisions/0011-applications.md).
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::common;

use common::ByValue as _;
use common::files::authenticate_with;
use common::{Card, SeededRng, flash, initial_keys, key, personalisation, profile, send_on, sw};
use sekisho_apdu::Aid;
use sekisho_applets::FILE_SYSTEMS;
use sekisho_applets::file_system::{self, image::Image, image::test_key};
use sekisho_os::{FactoryApplication, Interface, Module, Personalisation};

const CONTACT: Interface = Interface::Iso7816Contact;

/// AID of the file system of this number: F0 "SKOS" 04 and the number.
fn aid(number: u8) -> Vec<u8> {
    let mut aid = file_system::AID.to_vec();
    *aid.last_mut().unwrap() = number;
    aid
}

/// A card with as many file systems as are asked for, each of them the test card's.
fn card(count: u8) -> Card {
    let image = Image::of_test_card().unwrap();
    let records: Vec<_> = image.iter().collect();
    let applications: Vec<_> = (1..=count)
        .map(|number| FactoryApplication {
            aid: Aid::try_from(&aid(number)[..]).unwrap(),
            load_file: Aid::try_from(&[file_system::LOAD_FILE_AID, &[0x70 + number]].concat()[..]).unwrap(),
            module: Module::FILE_SYSTEM,
            records: &records,
        })
        .collect();
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let personalisation = Personalisation {
        applications: &applications,
        ..personalisation(0xFF, &keys, &k_aut)
    };
    Card::made(flash(), SeededRng(1), &profile(), &personalisation).unwrap()
}

/// A card with two, and a second channel on the contacts.
fn two() -> Card {
    let mut card = card(2);
    assert_eq!(sent(&mut card, 0, "70 00 00 01"), 0x9000);
    card
}

/// A command on a channel of the contacts, in hex without its class: its whole answer.
fn answer(card: &mut Card, channel: u8, capdu: &str) -> Vec<u8> {
    let capdu = hex::decode(capdu.replace(' ', "")).unwrap();
    send_on(card, CONTACT, &[&[channel], &capdu[..]].concat())
}

fn sent(card: &mut Card, channel: u8, capdu: &str) -> u16 {
    sw(&answer(card, channel, capdu))
}

/// SELECT by AID; the answer names that one.
fn select(card: &mut Card, channel: u8, number: u8) {
    let answer = answer(
        card,
        channel,
        &format!("A4 04 00 07 {}", hex::encode(aid(number))),
    );
    assert_eq!(sw(&answer), 0x9000);
    assert!(
        answer.windows(7).any(|w| w == aid(number)),
        "{}",
        hex::encode(answer)
    );
}

const VERIFY: &str = "20 00 01 04 31323334";
const WRONG: &str = "20 00 01 04 39393939";
const IS_PROVED: &str = "20 00 01";

/// The file systems' proofs of PIN 1: the first on channel 0, the second on channel 1.
fn proofs(card: &mut Card) -> [u16; 2] {
    [0, 1].map(|channel| sent(card, channel, IS_PROVED))
}

#[test]
fn what_is_proved_in_one_is_not_proved_in_the_other() {
    let mut card = two();
    select(&mut card, 0, 1);
    select(&mut card, 1, 2);
    let unproved = proofs(&mut card);
    assert_eq!(unproved, [0x63C3; 2]);
    assert_eq!(sent(&mut card, 0, VERIFY), 0x9000);
    assert_eq!(proofs(&mut card), [0x9000, 0x63C3]);
    // Nor on the very channel where it was proved.
    select(&mut card, 0, 2);
    assert_eq!(sent(&mut card, 0, IS_PROVED), 0x63C3);
    // Coming back is a new session.
    select(&mut card, 0, 1);
    assert_eq!(sent(&mut card, 0, IS_PROVED), 0x63C3);
}

#[test]
fn what_the_one_revokes_counts_and_writes_leaves_the_other_as_it_was() {
    let mut card = two();
    select(&mut card, 0, 1);
    select(&mut card, 1, 2);
    for channel in [0, 1] {
        assert_eq!(sent(&mut card, channel, VERIFY), 0x9000);
        authenticate_with(&mut card, (CONTACT, channel), &test_key::EXTERNAL);
    }
    // The selected file of the second is another one than the first's.
    assert_eq!(sent(&mut card, 0, "D6 9E 00 01 AA"), 0x9000);
    assert_ne!(answer(&mut card, 1, "B0 9E 00 01"), [0xAA, 0x90, 0x00]);
    assert_eq!(answer(&mut card, 0, "B0 9E 00 01"), [0xAA, 0x90, 0x00]);
    // A new PIN, a wrong try, a file that goes: each in the first alone.
    assert_eq!(sent(&mut card, 0, "24 00 01 08 31323334 35363738"), 0x9000);
    assert_eq!(proofs(&mut card), [0x63C3, 0x9000]);
    assert_eq!(sent(&mut card, 0, WRONG), 0x63C2);
    assert_eq!(proofs(&mut card), [0x63C2, 0x9000]);
    assert_eq!(sent(&mut card, 0, "E4 00 00 02 0003"), 0x9000);
    assert_eq!(proofs(&mut card), [0x6A88, 0x9000]);
    // The second's PIN is the old one still; the first has none.
    assert_eq!(sent(&mut card, 1, WRONG), 0x63C2);
    assert_eq!(sent(&mut card, 1, VERIFY), 0x9000);
    assert_eq!(sent(&mut card, 0, VERIFY), 0x6A88);
}

#[test]
fn one_more_than_there_is_memory_for_cannot_be_selected_and_disturbs_nothing() {
    let count = u8::try_from(FILE_SYSTEMS).unwrap();
    let mut card = card(count + 1);
    for number in 1..=count {
        select(&mut card, 0, number);
    }
    assert_eq!(sent(&mut card, 0, VERIFY), 0x9000);
    let third = format!("A4 04 00 07 {}", hex::encode(aid(count + 1)));
    assert_eq!(sent(&mut card, 0, &third), 0x6999);
    assert_eq!(sent(&mut card, 0, IS_PROVED), 0x9000);
}
