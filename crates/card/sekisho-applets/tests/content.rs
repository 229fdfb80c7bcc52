//! Applications that come and go after the factory: whole or not at all, at whichever flash operation the power is cut; and a successor under the
//! same AID, in the same place of the registry and with the same code, finds nothing of who was there before.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use crate::common;

use std::collections::BTreeMap;

use common::ByValue as _;
use common::files::{self, authenticate_with};
use common::{Card, SeededRng, flash, initial_keys, key, personalisation, profile, send, sw};
use sekisho_apdu::{Aid, StatusWord};
use sekisho_applets::FILE_SYSTEMS;
use sekisho_applets::file_system::{self, image::Image, image::test_key};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{ContainerId, FactoryApplication, Interface, Module, OwnRecord, Personalisation};

const PAGE: usize = common::PAGE;

/// A value that is nowhere else in the flash.
const SECRET: [u8; 16] = *b"a key of its own";

fn aid(number: u8) -> Aid {
    Aid::try_from(&[file_system::LOAD_FILE_AID, &[number]].concat()[..]).unwrap()
}

/// A file system; `mark` stands in a record of its own that it does not know.
fn application<'a>(number: u8, records: &'a [OwnRecord<'a>]) -> FactoryApplication<'a> {
    FactoryApplication {
        aid: aid(number),
        load_file: aid(0x70 + number),
        module: Module::FILE_SYSTEM,
        records,
    }
}

fn install(card: &mut Card, number: u8) -> Result<(), StatusWord> {
    let image = Image::of_test_card().unwrap();
    let mut records: Vec<_> = image.iter().collect();
    records.push((0x0FFF, 0, &SECRET));
    card.install(ContainerId::ESE, &application(number, &records))
}

/// A card without a file system, on a flash that does not tolerate what a real one would not.
fn card() -> Card {
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let personalisation = Personalisation {
        applications: &[],
        ..personalisation(0xFF, &keys, &k_aut)
    };
    Card::made(
        RamFlash::strict(PAGE, 16),
        SeededRng(1),
        &profile(),
        &personalisation,
    )
    .unwrap()
}

fn select(card: &mut Card, number: u8) -> u16 {
    let aid = aid(number);
    let aid = aid.as_bytes();
    sw(&send(card, &[&[0x00, 0xA4, 0x04, 0x00, 0x07][..], aid].concat()))
}

/// What there is of file system 1: 0 nothing at all, its values in the flash included; 1 all that it was installed with.
fn state(card: Card) -> u8 {
    let mut card = Card::booted(card.into_flash(), SeededRng(2), &profile()).unwrap();
    let selected = select(&mut card, 1);
    let whole = selected == 0x9000 && {
        assert_eq!(sw(&send(&mut card, &[0x00, 0x20, 0x00, 0x01])), 0x63C3);
        let verify = [&[0x00, 0x20, 0x00, 0x01, 0x04][..], b"1234"].concat();
        assert_eq!(sw(&send(&mut card, &verify)), 0x9000);
        authenticate_with(&mut card, (Interface::Iso7816Contact, 0), &test_key::EXTERNAL);
        true
    };
    let image = card.into_flash().image();
    let is_there = image.windows(16).any(|bytes| bytes == SECRET);
    assert_eq!(
        (selected, is_there),
        if whole { (0x9000, true) } else { (0x6A82, false) }
    );
    u8::from(whole)
}

#[test]
fn what_is_installed_is_whole_and_what_is_deleted_is_gone() {
    let mut card = card();
    assert_eq!(select(&mut card, 1), 0x6A82);
    install(&mut card, 1).unwrap();
    assert_eq!(select(&mut card, 1), 0x9000);
    // It is there already, and so is its load file.
    assert_eq!(install(&mut card, 1), Err(StatusWord::INCORRECT_DATA));
    card.delete(ContainerId::ESE, &aid(1)).unwrap();
    assert_eq!(
        card.delete(ContainerId::ESE, &aid(1)),
        Err(StatusWord::REFERENCED_DATA_NOT_FOUND)
    );
    // The issuer security domain is selected where it was.
    assert_eq!(sw(&send(&mut card, &[0x80, 0xCA, 0x00, 0xCF, 0x00])), 0x9000);
    assert_eq!(state(card), 0);
}

#[test]
fn what_came_with_the_operating_system_stays() {
    let mut card = card();
    let isd = profile().isd_aid;
    assert_eq!(
        card.delete(ContainerId::ESE, &isd),
        Err(StatusWord::CONDITIONS_NOT_SATISFIED)
    );
    let part = Aid::try_from(&b"\xF0SKOS\x00\x01"[..]).unwrap();
    assert_eq!(
        card.delete(ContainerId::ESE, &part),
        Err(StatusWord::CONDITIONS_NOT_SATISFIED)
    );
    assert_eq!(
        sw(&send(
            &mut card,
            &hex::decode("00A4040007F0534B4F530001").unwrap()
        )),
        0x9000
    );
}

#[test]
fn a_successor_finds_nothing_of_who_was_there_before() {
    let mut card = files::card();
    let first = Aid::try_from(file_system::AID).unwrap();
    let select = |card: &mut Card| files::select(card, Interface::Iso7816Contact);
    select(&mut card);
    let verify = [&[0x00, 0x20, 0x00, 0x01, 0x04][..], b"1234"].concat();
    assert_eq!(sw(&send(&mut card, &verify)), 0x9000);
    authenticate_with(&mut card, (Interface::Iso7816Contact, 0), &test_key::EXTERNAL);
    assert_eq!(
        sw(&send(&mut card, &hex::decode("00D69E0001AA").unwrap())),
        0x9000
    );
    card.delete(ContainerId::ESE, &first).unwrap();
    // The same, but for the heads of all files beside the MF: the first record.
    let image = Image::of_test_card().unwrap();
    let records: Vec<_> = image
        .iter()
        .enumerate()
        .filter(|(at, (_, part, _))| *at == 0 || *part != 1)
        .map(|(_, record)| record)
        .collect();
    let again = FactoryApplication {
        aid: first,
        ..application(2, &records)
    };
    card.install(ContainerId::ESE, &again).unwrap();
    // It is not even selected.
    assert_eq!(sw(&send(&mut card, &hex::decode("80CA00CF00").unwrap())), 0x9000);
    select(&mut card);
    assert_eq!(sw(&send(&mut card, &[0x00, 0x20, 0x00, 0x01])), 0x6A88);
    assert_eq!(sw(&send(&mut card, &hex::decode("00B09E0001").unwrap())), 0x6A82);
}

#[test]
fn memory_and_registry_are_given_back() {
    let mut card = Card::made(
        flash(),
        SeededRng(1),
        &profile(),
        &personalisation(0xFF, &initial_keys(), &key(&[0xA0; 16])),
    )
    .unwrap();
    let count = u8::try_from(FILE_SYSTEMS).unwrap();
    for round in 0..5 {
        for number in 1..=count {
            assert_eq!(install(&mut card, number), Ok(()), "round {round}");
        }
        assert_eq!(install(&mut card, count + 1), Err(StatusWord::NOT_ENOUGH_MEMORY));
        assert_eq!(select(&mut card, count + 1), 0x6A82);
        for number in 1..=count {
            assert_eq!(
                card.delete(ContainerId::ESE, &aid(number)),
                Ok(()),
                "round {round}"
            );
        }
    }
    assert_eq!(state(card), 0);
}

/// Runs `work` with the power cut at each flash operation, on a card that `before` has made; counts the states in which it is found afterwards.
fn cut_everywhere(
    before: impl Fn() -> Card,
    work: impl Fn(&mut Card) -> Result<(), StatusWord>,
) -> BTreeMap<(bool, u8), usize> {
    let mut seen = BTreeMap::new();
    for seed in 0..2 {
        let made = before().into_flash();
        for cut in 0.. {
            let mut flash = made.clone();
            flash.cut_after(cut, seed);
            let Ok(mut card) = Card::booted(flash, SeededRng(3), &profile()) else {
                continue;
            };
            let done = work(&mut card);
            let was_cut = card.flash().is_off();
            // And once more while it recovers.
            let mut flash = card.into_flash();
            if was_cut {
                flash.power_on();
                flash.cut_after(cut % 7, seed);
                flash = match Card::booted(flash, SeededRng(4), &profile()) {
                    Ok(card) => card.into_flash(),
                    Err(failure) => failure.flash,
                };
            }
            flash.power_on();
            let card = Card::booted(flash, SeededRng(4), &profile()).unwrap();
            *seen.entry((done.is_ok(), state(card))).or_default() += 1;
            if !was_cut {
                break;
            }
        }
    }
    seen
}

#[test]
fn power_cut_at_every_operation_of_installing() {
    let seen = cut_everywhere(card, |card| install(card, 1));
    println!("installing: {seen:?}");
    assert_eq!(
        seen.keys().copied().collect::<Vec<_>>(),
        [(false, 0), (false, 1), (true, 1)]
    );
}

#[test]
fn power_cut_at_every_operation_of_deleting() {
    let with_one = || {
        let mut card = card();
        install(&mut card, 1).unwrap();
        card
    };
    let seen = cut_everywhere(with_one, |card| card.delete(ContainerId::ESE, &aid(1)));
    println!("deleting: {seen:?}");
    assert_eq!(
        seen.keys().copied().collect::<Vec<_>>(),
        [(false, 0), (false, 1), (true, 0)]
    );
}
