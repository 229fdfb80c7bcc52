//! An SE that is built without the wasm engine (`docs/spec/os-part.md`, An SE without an engine):
//! `cargo test --package sekisho-applets --no-default-features --test no_os_part`.

#![allow(clippy::unwrap_used, clippy::panic)] // test support
#![cfg(not(feature = "os-part"))]

use common::ByValue as _;
use common::update::{Broadcast, Change, Custody, KVN, Keys, V1, V2, manifest};
use common::{Card, PAGE, SeededRng, flash, personalisation, profile, send, sw};
use sekisho_apdu::StatusWord;
use sekisho_card_tests as common;
use sekisho_nvm::{Key, Op, Ram, Store};
use sekisho_os::{BootError, Personalisation, Profile};
use sekisho_scp::SecurityLevel;

/// What every SE of the fleet has, with this first part.
fn made(keys: &Keys, part: Option<&[u8]>) -> Result<Card, BootError> {
    let designer = keys.designer.verifying_key().to_sec1();
    let manifest = manifest(1, 0, part.unwrap_or_default());
    let personalisation = Personalisation {
        kos: Some(&keys.kos),
        k_mac: Some(&keys.k_mac),
        designer: Some(&designer),
        part: part.map(|image| (&manifest, image)),
        ..personalisation(KVN, &keys.scp, &keys.k_aut)
    };
    Card::made(flash(), SeededRng(1), &profile(), &personalisation).map_err(|failure| failure.error)
}

#[test]
fn the_factory_puts_no_part_into_it() {
    let refused = BootError::Refused(StatusWord(0x9505));
    assert_eq!(made(&Keys::new(), Some(V1)).unwrap_err(), refused);
}

#[test]
fn it_says_that_it_runs_no_abi_and_has_no_part() {
    let keys = Keys::new();
    let mut card = made(&keys, None).unwrap();
    let mut host = keys.open(&mut card, SecurityLevel::FULL);
    let state = host.send(&mut card, &[0x00, 0xCA, 0xDF, 0x20, 0]);
    assert_eq!(sw(&state), 0x9000);
    // Version of the form, target, slot, version 0, ABI 00.
    assert_eq!(state[..8], [1, 1, 0, 0, 0, 0, 0, 0], "{state:02X?}");
    assert!(card.part().is_none());
}

#[test]
fn a_module_is_refused_at_its_manifest_and_new_keys_are_taken() {
    let keys = Keys::new();
    let change = Change::of(true, true, false);
    for custody in [Custody::Design, Custody::Hsm] {
        let mut card = made(&keys, None).unwrap();
        let mut host = keys.open(&mut card, SecurityLevel::FULL);
        let part = Broadcast::new(&keys, custody, &manifest(2, 0, V2), V2, 239);
        assert_eq!(sw(&host.send(&mut card, &part.change_mode)), 0x9000);
        assert_eq!(sw(&send(&mut card, &part.commands[0])), 0x9505);

        let mut host = keys.open(&mut card, SecurityLevel::FULL);
        let rotation = Broadcast::of_keys(custody, &keys, &keys.changed(change), change);
        assert_eq!(sw(&host.send(&mut card, &rotation.keep)), 0x9000);
        assert_eq!(sw(&host.send(&mut card, &rotation.change_mode_kept)), 0x9000);
        for command in &rotation.commands {
            assert_eq!(sw(&send(&mut card, command)), 0x9000);
        }
        let answer = host.send(&mut card, &rotation.activate);
        assert_eq!(sw(&answer), 0x9000);
        assert_eq!(card.key_version(), 2);
    }
}

/// As a build with an engine leaves it: the record of the active part, in slot B.
#[test]
fn a_part_of_another_build_stays_and_answers_nothing() {
    let mut flash = made(&Keys::new(), None).unwrap().into_flash();
    let pages = 0..Profile::default().store_bytes / PAGE;
    let mut store = Store::<Ram<128, 16, 16>>::open(&mut flash, pages).unwrap();
    let record = [&[1][..], &manifest(7, 0, V1).encode()].concat();
    let part = Key::new(0, 0, 0x40);
    store.commit(&mut flash, &[Op::Put(part, &record)]).unwrap();
    let mut card = Card::booted(flash, SeededRng(1), &profile()).unwrap();
    let state = card.part().unwrap();
    assert_eq!((state.version, state.runs), (7, false));
    let selected = send(&mut card, &[0, 0xA4, 4, 0, 7, 0xF0, b'S', b'K', b'O', b'S', 0, 1]);
    assert_eq!(sw(&selected), 0x9000);
    for ins in [0x20, 0x22, 0x24] {
        assert_eq!(sw(&send(&mut card, &[0x80, ins, 0, 0, 0])), 0x6D00);
    }
    let card = Card::booted(card.into_flash(), SeededRng(1), &profile()).unwrap();
    assert_eq!(card.part().unwrap().version, 7);
}
