//! What a wasm module keeps for a session (`docs/spec/os-part.md`, State of a session): the locker of `applets/` on a whole card, and modules that mean harm.
#![cfg(feature = "os-part")]
#![allow(clippy::unwrap_used, clippy::panic)] // test support

use crate::common;

use common::ByValue as _;
use common::update::manifest;
use common::{Card, SeededRng, flash, initial_keys, key, personalisation, profile, send_on, sw};
use sekisho_applets::PART_SESSIONS;
use sekisho_link::Manifest;
use sekisho_os::{Interface, Personalisation, TRANSIENT};

const LOCKER: &[u8] = include_bytes!("../../../../applets/prebuilt/locker.wasm");
const PART: &[u8] = b"\xF0SKOS\x00\x01";
const CONTACT: Interface = Interface::Iso7816Contact;
const SPI: Interface = Interface::Spi;

fn card_with(image: &[u8], abi: u8) -> Option<Card> {
    let manifest = Manifest {
        abi,
        ..manifest(1, 0, image)
    };
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let personalisation = Personalisation {
        part: Some((&manifest, image)),
        ..personalisation(0xFF, &keys, &k_aut)
    };
    Card::made(flash(), SeededRng(1), &profile(), &personalisation).ok()
}

fn select(card: &mut Card, interface: Interface, channel: u8) {
    let command = [&[channel, 0xA4, 0x04, 0x00, 0x07], PART].concat();
    assert_eq!(sw(&send_on(card, interface, &command)), 0x9000);
}

/// A command of the part on a logical channel: its answer.
fn ask(card: &mut Card, (interface, channel): (Interface, u8), ins: u8, data: &[u8]) -> Vec<u8> {
    let head = [0x80 | channel, ins, 0, 0];
    let len = u8::try_from(data.len()).unwrap();
    let body: &[&[u8]] = if data.is_empty() { &[] } else { &[&[len], data] };
    send_on(card, interface, &[&head[..], &body.concat(), &[0]].concat())
}

fn open(card: &mut Card, interface: Interface, channel: u8) {
    assert_eq!(
        sw(&send_on(card, interface, &[0x00, 0x70, 0, channel, 0])),
        0x9000
    );
}

const SHOW: u8 = 0x20;
const CHANGE: u8 = 0x24;
const FORGET: u8 = 0x26;
const PUT: u8 = 0x30;
const GET: u8 = 0x32;

/// A locker with a code and a content, opened on the basic channel of the contacts.
fn locker() -> Card {
    let mut card = card_with(LOCKER, 3).unwrap();
    let basic = (CONTACT, 0);
    select(&mut card, CONTACT, 0);
    assert_eq!(sw(&ask(&mut card, basic, GET, &[])), 0x6982);
    assert_eq!(sw(&ask(&mut card, basic, CHANGE, b"1234")), 0x9000);
    assert_eq!(sw(&ask(&mut card, basic, GET, &[])), 0x6982);
    assert_eq!(sw(&ask(&mut card, basic, SHOW, b"1234")), 0x9000);
    assert_eq!(sw(&ask(&mut card, basic, PUT, b"things")), 0x9000);
    assert_eq!(ask(&mut card, basic, GET, &[]), b"things\x90\x00");
    card
}

#[test]
fn it_lasts_for_the_session_and_no_longer() {
    let basic = (CONTACT, 0);
    type End<'a> = (&'a str, &'a dyn Fn(&mut Card));
    let ends: [End<'_>; 5] = [
        ("selected anew", &|card| select(card, CONTACT, 0)),
        ("reset", &|card| card.reset(CONTACT)),
        ("another application", &|card| {
            assert_eq!(sw(&send_on(card, CONTACT, &[0x00, 0xA4, 4, 0, 0])), 0x9000);
        }),
        ("the module lets it go", &|card| {
            assert_eq!(sw(&ask(card, basic, FORGET, &[])), 0x9000);
        }),
        ("a wrong code, which is answered with a warning", &|card| {
            assert_eq!(sw(&ask(card, basic, SHOW, b"4321")), 0x63C2);
        }),
    ];
    for (what, end) in ends {
        let mut card = locker();
        // Refused commands, unknown ones, and those of others leave it.
        assert_eq!(sw(&ask(&mut card, basic, 0x77, &[])), 0x6D00);
        assert_eq!(sw(&ask(&mut card, basic, PUT, &[7; 65])), 0x6700);
        select(&mut card, SPI, 0);
        card.reset(SPI);
        assert_eq!(ask(&mut card, basic, GET, &[]), b"things\x90\x00", "{what}");
        end(&mut card);
        select(&mut card, SPI, 0);
        assert_eq!(sw(&ask(&mut card, (SPI, 0), GET, &[])), 0x6982, "{what}");
        if what != "the module lets it go" && what != "a wrong code, which is answered with a warning" {
            select(&mut card, CONTACT, 0);
        }
        assert_eq!(sw(&ask(&mut card, basic, GET, &[])), 0x6982, "{what}");
        assert_eq!(sw(&ask(&mut card, basic, SHOW, b"1234")), 0x9000, "{what}");
        assert_eq!(ask(&mut card, basic, GET, &[]), b"things\x90\x00");
        // Nor does it outlive the power.
        let mut card = Card::booted(card.into_flash(), SeededRng(2), &profile()).unwrap();
        select(&mut card, CONTACT, 0);
        assert_eq!(sw(&ask(&mut card, basic, GET, &[])), 0x6982, "{what}");
    }
}

#[test]
fn each_channel_of_each_interface_has_its_own() {
    let mut card = locker();
    open(&mut card, CONTACT, 1);
    for (interface, channel) in [(CONTACT, 1), (SPI, 0)] {
        select(&mut card, interface, channel);
        assert_eq!(sw(&ask(&mut card, (interface, channel), GET, &[])), 0x6982);
    }
    assert_eq!(sw(&ask(&mut card, (CONTACT, 1), SHOW, b"1234")), 0x9000);
    assert_eq!(ask(&mut card, (CONTACT, 1), GET, &[]), b"things\x90\x00");
    // One that is closed takes its own with it, whoever opens it again.
    assert_eq!(sw(&send_on(&mut card, CONTACT, &[0x00, 0x70, 0x80, 1])), 0x9000);
    open(&mut card, CONTACT, 1);
    select(&mut card, CONTACT, 1);
    assert_eq!(sw(&ask(&mut card, (CONTACT, 1), GET, &[])), 0x6982);
    assert_eq!(ask(&mut card, (CONTACT, 0), GET, &[]), b"things\x90\x00");
}

/// A module of ABI 3 that asks for `len` bytes and whose `process` is `body`.
fn module(len: u32, body: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module
            (import "sekisho" "put" (func $put (param i32 i32 i32) (result i32)))
            (import "sekisho" "transient_get" (func $tget (param i32 i32 i32) (result i32)))
            (import "sekisho" "transient_put" (func $tput (param i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "abi") (result i32) i32.const 3)
            (func (export "transient") (result i32) i32.const {len})
            (func (export "buffer") (result i32) i32.const 0)
            (func $sw (param i32) (result i32) (i32.store16 (i32.const 0) (local.get 0)) i32.const 2)
            (func (export "process") (param i32) (result i32) {body}))"#
    ))
    .unwrap()
}

/// INS 01: sets byte 0 to P1 and answers 6A80; 02: gives it, as SW 90XX; 03: sets it and traps; 04: sets it, puts a record that cannot be written, and answers 9000.
fn keeper() -> Vec<u8> {
    module(
        4,
        "(local $ins i32) (local.set $ins (i32.load8_u (i32.const 1)))
        (if (i32.eq (local.get $ins) (i32.const 2)) (then
            (drop (call $tget (i32.const 0) (i32.const 9) (i32.const 1)))
            (i32.store8 (i32.const 0) (i32.const 0x90))
            (i32.store8 (i32.const 1) (i32.load8_u (i32.const 9)))
            (return (i32.const 2))))
        (drop (call $tput (i32.const 0) (i32.const 2) (i32.const 1)))
        (if (i32.eq (local.get $ins) (i32.const 3)) (then unreachable))
        (call $sw (i32.const 0x806A))",
    )
}

#[test]
fn what_a_trap_leaves_is_nothing_and_an_error_is_the_modules_own_word() {
    let mut card = card_with(&keeper(), 3).unwrap();
    let mut ask = |ins, p1| sw(&send_on(&mut card, CONTACT, &[0x80, ins, p1, 0, 0]));
    let select = [&[0x00, 0xA4, 0x04, 0x00, 0x07], PART].concat();
    assert_eq!(ask(2, 0), 0x6D00, "not selected");
    assert_eq!(sw(&send_on(&mut card, CONTACT, &select)), 0x9000);
    let mut ask = |ins, p1| sw(&send_on(&mut card, CONTACT, &[0x80, ins, p1, 0, 0]));
    assert_eq!(ask(2, 0), 0x9000);
    assert_eq!(ask(1, 0x2A), 0x6A80);
    assert_eq!(ask(2, 0), 0x902A, "it lasts whatever the status word");
    assert_eq!(ask(3, 0x2B), 0x6F00);
    assert_eq!(ask(2, 0), 0x9000, "zeros behind a trap");
}

#[test]
fn as_many_sessions_keep_something_as_there_is_room_for() {
    let mut card = card_with(&keeper(), 3).unwrap();
    let places: Vec<_> = [CONTACT, SPI, Interface::Swp]
        .into_iter()
        .flat_map(|interface| (0..4).map(move |channel| (interface, channel)))
        .take(PART_SESSIONS + 2)
        .collect();
    for &(interface, channel) in &places {
        if channel > 0 {
            open(&mut card, interface, channel);
        }
        select(&mut card, interface, channel);
    }
    let mut ask = |(interface, channel): (Interface, u8), ins, p1| {
        sw(&send_on(&mut card, interface, &[0x80 | channel, ins, p1, 0, 0]))
    };
    for (n, place) in (1_u8..).zip(&places) {
        let expected = if usize::from(n) <= PART_SESSIONS {
            0x6A80
        } else {
            0x6A84
        };
        assert_eq!(ask(*place, 1, n), expected, "{n}");
    }
    for (n, place) in (1_u8..).zip(&places) {
        let kept = if usize::from(n) <= PART_SESSIONS {
            u16::from(n)
        } else {
            0
        };
        assert_eq!(ask(*place, 2, 0), 0x9000 | kept, "{n}");
    }
    // Zeros give the room to the next one.
    assert_eq!(ask(places[2], 1, 0), 0x6A80);
    assert_eq!(ask(places[PART_SESSIONS], 1, 0x33), 0x6A80);
    assert_eq!(ask(places[PART_SESSIONS], 2, 0), 0x9033);
    assert_eq!(ask(places[2], 1, 1), 0x6A84);
}

#[test]
fn an_se_refuses_what_it_does_not_have_and_says_what_it_has() {
    let most = u32::try_from(TRANSIENT).unwrap();
    let ok = "(call $sw (i32.const 0x0090))";
    assert!(card_with(&module(most, ok), 3).is_some());
    for (what, image, abi) in [
        ("more than there is", module(most + 1, ok), 3),
        ("a number that is none", module(u32::MAX, ok), 3),
        ("a manifest of an older ABI", module(4, ok), 2),
        ("a manifest of a later ABI", module(4, ok), 4),
        (
            "a module of an older ABI than its manifest",
            include_bytes!("../../../../applets/prebuilt/meter-v1.wasm").to_vec(),
            3,
        ),
    ] {
        assert!(card_with(&image, abi).is_none(), "{what}");
    }
    let mut card = card_with(LOCKER, 3).unwrap();
    let state = send_on(&mut card, CONTACT, &[0x00, 0xCA, 0xDF, 0x20, 0]);
    assert_eq!(state[..8], [1, 1, 0, 0, 0, 0, 1, 3], "{state:02X?}");
}
