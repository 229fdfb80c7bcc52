//! Power cuts: at every flash operation of making an SE, changing keys and changing the life cycle, with torn words and torn pages, and again
//! while the SE recovers. It starts in the state before or in the state after, works in it, and keeps no key that is gone.

#![allow(clippy::unwrap_used, clippy::panic, clippy::result_large_err)] // test support

use crate::common;

use common::ByValue as _;
use common::host::Host;
use common::{Card, SeededRng, initial_keys, key, personalisation, send, sw};
use sekisho_keys::KeySet;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{BootError, Profile};
use sekisho_scp::SecurityLevel;

const PAGE: usize = 1024;

/// Ways of tearing tried at each operation.
const SEEDS: u64 = 6;

fn profile() -> Profile {
    Profile {
        store_bytes: 8 * PAGE,
        slot_bytes: 2 * PAGE,
        ..Profile::default()
    }
}

fn blank() -> RamFlash {
    RamFlash::strict(PAGE, 12)
}

fn boot(flash: RamFlash) -> Result<Card, (BootError, RamFlash)> {
    Card::booted(flash, SeededRng(3), &profile()).map_err(|failure| (failure.error, failure.flash))
}

fn manufacture(flash: RamFlash) -> Result<Card, (BootError, RamFlash)> {
    let (keys, k_aut) = (initial_keys(), key(&K_AUT));
    let card = Card::made(
        flash,
        SeededRng(3),
        &profile(),
        &personalisation(0xFF, &keys, &k_aut),
    );
    card.map_err(|failure| (failure.error, failure.flash))
}

const K_AUT: [u8; 16] = *b"K-AUT of this SE";
const INITIAL: [u8; 16] = [
    0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x4B, 0x4C, 0x4D, 0x4E, 0x4F,
];

/// Starts an SE after a cut, with further cuts at each operation of its start.
fn recover(mut flash: RamFlash, seed: u64) -> Result<Card, (BootError, RamFlash)> {
    for cut in 0.. {
        flash.power_on();
        flash.cut_after(cut, seed);
        flash = boot(flash).map_or_else(|(_, flash)| flash, Card::into_flash);
        if !flash.is_off() {
            break;
        }
    }
    flash.power_on();
    boot(flash)
}

fn holds(flash: &RamFlash, secret: &[u8]) -> bool {
    flash.image().windows(secret.len()).any(|bytes| bytes == secret)
}

#[test]
fn making_an_se() {
    let mut made = 0;
    for seed in 0..SEEDS {
        for cut in 0.. {
            let mut flash = blank();
            flash.cut_after(cut, seed);
            let flash = match manufacture(flash) {
                Ok(card) if !card.flash().is_off() => break,
                Ok(card) => card.into_flash(),
                Err((_, flash)) => flash,
            };
            let card = match recover(flash, seed + cut) {
                Err((error, flash)) => {
                    assert_eq!(error, BootError::Blank, "cut {cut} seed {seed}");
                    manufacture(flash).unwrap()
                }
                Ok(card) => {
                    made += 1;
                    assert_eq!(
                        manufacture(card.flash().clone()).unwrap_err().0,
                        BootError::AlreadyMade
                    );
                    card
                }
            };
            let mut card = boot(card.into_flash()).unwrap();
            Host::open(&mut card, 0xFF, &initial_keys(), SecurityLevel::FULL);
        }
    }
    assert!(made < SEEDS * 3, "only the last operation may leave a made SE");
}

/// Runs `action` on an SE with a cut at each of its operations. `state` names the state of an SE; it must be the one before or the one after.
/// `gone` are the secrets that must not stand in the flash, before and after.
fn sweep(action: impl Fn(&mut Card), state: impl Fn(&mut Card) -> String, gone: [&[&[u8]]; 2]) {
    let made = manufacture(blank()).unwrap().into_flash();
    let mut reference = boot(made.clone()).unwrap();
    let before = state(&mut reference);
    action(&mut reference);
    let mut reference = boot(reference.into_flash()).unwrap();
    let after = state(&mut reference);
    assert_ne!(before, after);
    let mut seen = [0, 0];
    for seed in 0..SEEDS {
        for cut in 0.. {
            let mut flash = made.clone();
            flash.cut_after(cut, seed);
            let Ok(mut card) = boot(flash) else {
                panic!("starting a tidy SE writes nothing")
            };
            action(&mut card);
            if !card.flash().is_off() {
                break;
            }
            let mut card = recover(card.into_flash(), seed ^ cut).unwrap();
            let found = state(&mut card);
            let which = [&before, &after].iter().position(|s| **s == found);
            let which = which.unwrap_or_else(|| panic!("cut {cut} seed {seed}: {found}"));
            seen[which] += 1;
            for secret in gone[which] {
                assert!(
                    !holds(card.flash(), secret),
                    "cut {cut} seed {seed}: an unwiped key"
                );
            }
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "cuts before and after: {seen:?}");
}

/// An opened channel; `None` when the power went while it was opened.
fn try_open(card: &mut Card, keys: &KeySet) -> Option<Host> {
    let contact = sekisho_os::Interface::Iso7816Contact;
    Host::open_on(
        card,
        contact,
        0,
        0,
        keys,
        SecurityLevel::FULL,
        sekisho_scp::MacMode::S8,
    )
    .ok()
}

/// PUT KEY of version 01 in the place of the initial keys, as in `keys.apdu`.
const PUT_KEY: &str = "80D800814301\
    8810BD3ACBFC853ED5DE825266C3B1883EC403D59FA7881056995E11483713A09E127FB9CE26780903098542\
    8810F991E094864742429450F540CADF89D8038A27B100";

fn new_keys() -> KeySet {
    KeySet {
        enc: key(&[0x10; 16]),
        mac: key(&[0x11; 16]),
        dek: key(&[0x12; 16]),
    }
}

fn key_state(card: &mut Card) -> String {
    let information = send(card, &[0x80, 0xCA, 0x00, 0xE0, 0x00]);
    let keys = if information.windows(3).any(|w| w == [0x01, 0xFF, 0x88]) {
        initial_keys()
    } else {
        new_keys()
    };
    assert!(
        try_open(card, &keys).is_some(),
        "the keys that it shows open no secure channel"
    );
    hex::encode(information)
}

#[test]
fn changing_keys() {
    let action = |card: &mut Card| {
        if let Some(mut host) = try_open(card, &initial_keys()) {
            host.send(card, &hex::decode(PUT_KEY).unwrap());
        }
    };
    let new: &[&[u8]] = &[&[0x10; 16], &[0x11; 16], &[0x12; 16]];
    sweep(action, key_state, [new, &[&INITIAL]]);
}

fn life_cycle_state(card: &mut Card) -> String {
    let selected = sw(&send(card, &[0x00, 0xA4, 0x04, 0x00, 0x00]));
    let information = send(card, &[0x80, 0xCA, 0x00, 0xE0, 0x00]);
    let shown = try_open(card, &initial_keys())
        .map(|mut host| hex::encode(host.send(card, &[0x80, 0xF2, 0x80, 0x02, 0x02, 0x4F, 0x00, 0x00])));
    format!("{selected:04X} {} {shown:?}", hex::encode(information))
}

fn set_status(next: u8) -> impl Fn(&mut Card) {
    move |card| {
        if let Some(mut host) = try_open(card, &initial_keys()) {
            host.send(card, &[0x80, 0xF0, 0x80, next]);
        }
    }
}

#[test]
fn changing_the_life_cycle() {
    sweep(set_status(0x07), life_cycle_state, [&[], &[]]);
}

#[test]
fn terminating_the_card_wipes_its_keys() {
    sweep(set_status(0xFF), life_cycle_state, [&[], &[&INITIAL, &K_AUT]]);
}

/// A sequence counter that was answered is never answered again.
#[test]
fn the_sequence_counter_never_goes_back() {
    let made = manufacture(blank()).unwrap().into_flash();
    let initialize_update = common::host::initialize_update(0, sekisho_scp::MacMode::S8, 0);
    for seed in 0..SEEDS {
        let mut flash = made.clone();
        let mut last = 0;
        for round in 0..40 {
            flash.cut_after(round % 9, seed + round);
            let mut card = boot(flash).unwrap_or_else(|(_, mut flash)| {
                flash.power_on();
                boot(flash).unwrap()
            });
            for _ in 0..4 {
                let answer = send(&mut card, &initialize_update);
                if let Some(bytes) = answer.get(29..32).filter(|_| sw(&answer) == 0x9000) {
                    let counter = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
                    assert!(counter > last, "{counter} after {last}");
                    last = counter;
                }
            }
            flash = card.into_flash();
            flash.power_on();
        }
        assert!(last > 20);
    }
}
