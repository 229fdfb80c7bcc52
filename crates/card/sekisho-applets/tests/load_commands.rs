//! Load files by INSTALL [for load] and LOAD (docs/spec/loading.md): however they are cut, in two containers at once, with whatever else comes between, with the power cut at every flash operation.
#![cfg(feature = "os-part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)] // test support

use std::collections::BTreeMap;

use sekisho_keys::p256sig::SigningKey;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Interface, Profile};
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::host::Host;
use crate::common::{ByValue as _, SeededRng, initial_keys, sw};
use crate::loadable::{
    APPLICATION, AREA, BEFORE, Card, FIRST, METER, OTHER, PAGE, SECOND, Transmit as _, ask, boot, card,
    carrier, count, delete_file, install_command, loads, profile, select,
};

const PAGES: std::ops::Range<usize> = 0..BEFORE + AREA;
const READ: u8 = 0x20;

fn open_on(card: &mut Card, interface: Interface, channel: u8) -> Result<Host, u16> {
    let (level, mode) = (SecurityLevel::FULL, MacMode::S8);
    Host::open_on(card, interface, channel, 0, &initial_keys(), level, mode).map_err(|sw| sw.0)
}

fn open(card: &mut Card, interface: Interface) -> Host {
    select(card, interface, b"\xA0\x00\x00\x01\x51\x00\x00\x00");
    open_on(card, interface, 0).unwrap()
}

#[track_caller]
fn ok(host: &mut Host, card: &mut Card, commands: &[Vec<u8>]) {
    for command in commands {
        assert_eq!(sw(&host.send(card, command)), 0x9000, "{:02X?}", &command[..5]);
    }
}

fn is_usable(card: &mut Card, interface: Interface, aid: &[u8]) -> bool {
    select(card, interface, aid) == 0x9000 && sw(&ask(card, interface, READ, &[])) == 0x9000
}

/// Nothing of the image stands in the flash: no run of its bytes.
fn holds(card: &Card) -> bool {
    count(card.flash(), &METER[40..72], PAGES) > 0
}

#[test]
fn a_load_file_comes_in_blocks_of_any_size_and_goes_with_its_applications() {
    let mut card = card();
    for size in [247, 100, 3, 2] {
        let mut host = open(&mut card, FIRST);
        let commands = loads(&carrier(METER), size);
        assert!(size > 5 || commands.len() > 257, "block numbers begin again");
        let mut answers = commands.iter().map(|command| host.send(&mut card, command));
        assert_eq!(answers.next().unwrap(), [0, 0x90, 0]);
        let (last, before): (_, Vec<_>) = {
            let mut all: Vec<_> = answers.collect();
            (all.pop().unwrap(), all)
        };
        assert!(before.iter().all(|answer| *answer == [0x90, 0]), "size {size}");
        assert_eq!(last, [0, 0x90, 0]);
        ok(
            &mut host,
            &mut card,
            &[install_command(APPLICATION), install_command(OTHER)],
        );
        assert_eq!(sw(&host.send(&mut card, &delete_file(false))), 0x6985);
        assert!(is_usable(&mut card, FIRST, APPLICATION) && is_usable(&mut card, FIRST, OTHER));
        assert_eq!(
            ask(&mut card, FIRST, 0x10, &[]),
            [0, 0, 0, 7, 0x90, 0],
            "its version, as the module is told it"
        );
        let mut card_later = boot(card);
        assert!(is_usable(&mut card_later, FIRST, OTHER) && holds(&card_later));
        // Where it is selected it goes all the same.
        assert_eq!(select(&mut card_later, Interface::ApduGate, OTHER), 0x9000);
        let mut host = open(&mut card_later, FIRST);
        ok(&mut host, &mut card_later, &[delete_file(true)]);
        assert!(!holds(&card_later));
        assert_eq!(sw(&ask(&mut card_later, Interface::ApduGate, READ, &[])), 0x6D00);
        for aid in [APPLICATION, OTHER] {
            assert_eq!(select(&mut card_later, FIRST, aid), 0x6A82);
        }
        card = card_later;
    }
}

/// Free bytes of NVM, as GET DATA FF21 says.
fn free_nvm(card: &mut Card) -> Vec<u8> {
    let mut host = open(card, FIRST);
    let answer = host.send(card, &[0x80, 0xCA, 0xFF, 0x21, 0]);
    let at = answer.windows(2).position(|two| two == [0x82, 4]).unwrap();
    answer[at + 2..at + 6].to_vec()
}

/// Both applications have kept something: what DELETE related leaves of either is nothing, at once and after a boot.
#[test]
fn what_all_that_goes_with_a_load_file_has_kept_goes_too() {
    let mut card = card();
    let mut free = vec![];
    for _ in 0..2 {
        let mut host = open(&mut card, FIRST);
        ok(&mut host, &mut card, &loads(&carrier(METER), 240));
        let both = [install_command(APPLICATION), install_command(OTHER)];
        ok(&mut host, &mut card, &both);
        for aid in [APPLICATION, OTHER] {
            assert_eq!(select(&mut card, FIRST, aid), 0x9000);
            assert_eq!(sw(&ask(&mut card, FIRST, 0x22, &[0, 7])), 0x9000, "it is kept");
        }
        let with = free_nvm(&mut card);
        let mut host = open(&mut card, FIRST);
        ok(&mut host, &mut card, &[delete_file(true)]);
        free.push(free_nvm(&mut card));
        assert_ne!(free.last(), Some(&with));
        card = boot(card);
        free.push(free_nvm(&mut card));
    }
    assert!(free.iter().all(|now| *now == free[0]), "{free:02X?}");
}

/// One load in each container, block by block in turn; neither sees the other's, and both come.
#[test]
fn two_containers_load_at_once() {
    let mut card = card();
    let mut hosts = [FIRST, SECOND].map(|interface| open(&mut card, interface));
    let commands = [loads(&carrier(METER), 90), loads(&carrier(METER), 120)];
    for step in 0..commands[0].len() {
        for (host, commands) in hosts.iter_mut().zip(&commands) {
            if let Some(command) = commands.get(step) {
                ok(host, &mut card, std::slice::from_ref(command));
            }
        }
    }
    for (host, interface) in hosts.iter_mut().zip([FIRST, SECOND]) {
        ok(host, &mut card, &[install_command(APPLICATION)]);
        assert!(is_usable(&mut card, interface, APPLICATION));
    }
}

/// What comes between two blocks, from where, and whether the load goes on.
#[test]
fn whatever_else_comes_from_there_ends_a_load_and_nothing_from_elsewhere_does() {
    let commands = loads(&carrier(METER), 200);
    let (first, last) = commands.split_at(4);
    type Step = fn(&mut Card, &mut Host);
    let between: [(&str, bool, Step); 12] = [
        ("nothing", true, |_, _| {}),
        ("GET RESPONSE", true, |card, _| {
            assert_eq!(card.transmit_to(FIRST, &[0, 0xC0, 0, 0, 0]), [0x6D, 0]);
        }),
        ("another interface", true, |card, _| {
            assert_eq!(select(card, Interface::ApduGate, APPLICATION), 0x6A82);
            let mut other = open(card, Interface::ApduGate);
            let mine = loads(&carrier(METER), 200);
            assert_eq!(sw(&other.send(card, &mine[0])), 0x6A84, "one at a time");
            assert_eq!(sw(&other.send(card, &mine[5])), 0x6985, "not its own");
            card.reset(Interface::ApduGate);
        }),
        ("another channel", true, |card, _| {
            let open = [0x01, 0xA4, 4, 0, 0];
            assert_eq!(sw(&card.transmit_to(FIRST, &open)), 0x9000);
        }),
        ("another container", true, |card, _| {
            let mut other = open(card, SECOND);
            ok(&mut other, card, &loads(&carrier(METER), 247));
            ok(&mut other, card, &[delete_file(true)]);
        }),
        ("GET DATA", false, |card, host| {
            assert_eq!(sw(&host.send(card, &[0x80, 0xCA, 0, 0xE0, 0])), 0x9000);
        }),
        ("an instruction that is none", false, |card, host| {
            assert_eq!(sw(&host.send(card, &[0x80, 0x12, 0, 0, 0])), 0x6D00);
        }),
        ("the same block again", false, |card, host| {
            let again = loads(&carrier(METER), 200)[3].clone();
            assert_eq!(sw(&host.send(card, &again)), 0x6A86);
        }),
        ("SELECT", false, |card, _| {
            assert_eq!(select(card, FIRST, b"\xA0\x00\x00\x01\x51\x00\x00\x00"), 0x9000);
        }),
        ("in the clear", false, |card, _| {
            let clear = loads(&carrier(METER), 200)[4].clone();
            assert_eq!(sw(&card.transmit_to(FIRST, &clear)), 0x6982);
        }),
        ("MANAGE CHANNEL", false, |card, _| {
            assert_eq!(sw(&card.transmit_to(FIRST, &[0, 0x70, 0, 0, 1])), 0x9000);
        }),
        ("a reset", false, |card, _| card.reset(FIRST)),
    ];
    for (what, goes_on, step) in between {
        let mut card = card();
        assert_eq!(card.transmit_to(FIRST, &[0, 0x70, 0, 1, 0]), [0x90, 0]);
        let mut host = open(&mut card, FIRST);
        ok(&mut host, &mut card, first);
        assert!(holds(&card));
        step(&mut card, &mut host);
        if goes_on {
            ok(&mut host, &mut card, last);
            ok(&mut host, &mut card, &[install_command(APPLICATION)]);
            assert!(is_usable(&mut card, FIRST, APPLICATION), "{what}");
            continue;
        }
        let mut host = open(&mut card, FIRST);
        assert!(!holds(&card), "{what}");
        assert_eq!(sw(&host.send(&mut card, &last[0])), 0x6985, "{what}");
        // It can be loaded again.
        let mut host = open(&mut card, FIRST);
        ok(&mut host, &mut card, &commands);
    }
}

/// Plays commands with the power cut at each flash operation: how often the load file was there afterwards, by whether all was answered 9000. `before` are the applications that come from it before.
fn cut_everywhere(
    flash: &RamFlash,
    commands: &[Vec<u8>],
    before: &[Vec<u8>],
) -> BTreeMap<(bool, bool), usize> {
    let mut seen = BTreeMap::new();
    for seed in 0..2 {
        for cut in 0.. {
            let mut flash = flash.clone();
            flash.cut_after(cut, seed);
            let started = Card::booted(flash, SeededRng(2), &profile());
            let (done, mut flash) = match started {
                Err(failure) => (false, failure.flash),
                Ok(mut card) => {
                    let host = open_on(&mut card, FIRST, 0);
                    let done = host.is_ok_and(|mut host| {
                        let mut all = commands.iter();
                        all.all(|command| sw(&host.send(&mut card, command)) == 0x9000)
                    });
                    (done, card.into_flash())
                }
            };
            let was_cut = flash.is_off();
            flash.power_on();
            let mut card = boot_of(flash);
            let is_there = holds(&card);
            let mut host = open(&mut card, FIRST);
            let shown = sw(&host.send(&mut card, &show_files()));
            assert_eq!(
                shown == 0x9000,
                is_there,
                "cut {cut} seed {seed}: a torn one stays"
            );
            if !is_there {
                assert_eq!(select(&mut card, FIRST, APPLICATION), 0x6A82);
                assert_eq!(select(&mut card, FIRST, OTHER), 0x6A82);
                let mut host = open(&mut card, FIRST);
                ok(&mut host, &mut card, &loads(&carrier(METER), 247));
            }
            if is_there && !before.is_empty() {
                assert!(is_usable(&mut card, FIRST, APPLICATION) && is_usable(&mut card, FIRST, OTHER));
            }
            *seen.entry((done, is_there)).or_insert(0) += 1;
            if !was_cut {
                break;
            }
        }
    }
    seen
}

fn show_files() -> Vec<u8> {
    let file = crate::loadable::FILE;
    let len = u8::try_from(file.len()).unwrap();
    [&[0x80, 0xF2, 0x20, 0x02, len + 2, 0x4F, len], file, &[0]].concat()
}

fn boot_of(flash: RamFlash) -> Card {
    Card::booted(flash, SeededRng(2), &profile()).unwrap()
}

#[test]
fn power_cut_at_every_operation_of_a_load_and_of_its_deletion() {
    let flash = card().into_flash();
    let seen = cut_everywhere(&flash, &loads(&carrier(METER), 240), &[]);
    println!("LOAD: {seen:?}");
    assert!(seen[&(false, false)] > 20 && seen[&(true, true)] == 2, "{seen:?}");
    assert!(!seen.contains_key(&(true, false)));
    let mut card = boot_of(flash);
    let mut host = open(&mut card, FIRST);
    let before = [install_command(APPLICATION), install_command(OTHER)];
    ok(&mut host, &mut card, &loads(&carrier(METER), 240));
    ok(&mut host, &mut card, &before);
    let seen = cut_everywhere(&card.into_flash(), &[delete_file(true)], &before);
    println!("DELETE: {seen:?}");
    let outcomes: Vec<_> = seen.keys().copied().collect();
    assert_eq!(outcomes, [(false, false), (false, true), (true, false)]);
    assert!(seen[&(false, false)] > 4, "the wiping is cut too");
}

/// Memory for load files is of no use without flash for them: that is said at once.
#[test]
fn without_an_area_nothing_is_announced() {
    let none = Profile {
        area_bytes: 0,
        ..profile()
    };
    let made = card().into_flash().image();
    let mut card = Card::booted(
        RamFlash::from_image(PAGE, &made[..BEFORE * PAGE]),
        SeededRng(2),
        &none,
    )
    .unwrap();
    let mut host = open(&mut card, FIRST);
    for command in loads(&carrier(METER), 240) {
        let first = command.get(1) == Some(&0xE6);
        assert_eq!(
            sw(&host.send(&mut card, &command)),
            if first { 0x6A84 } else { 0x6985 }
        );
    }
}

/// More than 65,535 bytes, in two components, behind a length of four bytes; and what no area holds.
#[test]
fn a_long_load_file_and_one_that_is_too_long() {
    let large = Profile {
        area_bytes: 80 * PAGE,
        area_quota: 72 * PAGE,
        ..profile()
    };
    let made = card().into_flash().image();
    let mut image = made[..BEFORE * PAGE].to_vec();
    image.resize((BEFORE + 80) * PAGE, 0xFF);
    let mut card = Card::booted(RamFlash::from_image(PAGE, &image), SeededRng(2), &large).unwrap();
    // A custom section: its length in LEB128, a name of one byte, and what nobody looks at.
    let with = |len: usize| {
        let leb = [len & 0x7F | 0x80, len >> 7 & 0x7F | 0x80, len >> 14].map(|n| n.to_le_bytes()[0]);
        let filling: Vec<u8> = (0..len - 2).map(|n| n.to_le_bytes()[0]).collect();
        [METER, &[0], &leb, &[1, b'x'], &filling].concat()
    };
    let mut host = open(&mut card, FIRST);
    ok(&mut host, &mut card, &loads(&carrier(&with(70_000)), 247));
    ok(&mut host, &mut card, &[install_command(APPLICATION)]);
    assert!(is_usable(&mut card, FIRST, APPLICATION));
    let mut host = open(&mut card, FIRST);
    ok(&mut host, &mut card, &[delete_file(true)]);
    let commands = loads(&carrier(&with(73_000)), 247);
    ok(&mut host, &mut card, &commands[..1]);
    assert_eq!(
        sw(&host.send(&mut card, &commands[1])),
        0x6A84,
        "at the block that says how long it is"
    );
    assert_eq!(sw(&host.send(&mut card, &commands[2])), 0x6985);
    ok(&mut host, &mut card, &loads(&carrier(METER), 247));
}

const SD: &[u8] = b"\xF0LOADSD";

fn lv(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// PUT KEY of a public key as version 73, KID 01.
fn put_dap_key(replaces: u8, key: &SigningKey) -> Vec<u8> {
    let public = key.verifying_key().to_sec1();
    let fields = [&[0x73, 0xB0, 0x41][..], &public, &[0xF0, 1, 0, 0]].concat();
    [&[0x80, 0xD8, replaces, 0x01][..], &lv(&fields), &[0]].concat()
}

/// The same load for a security domain, with a DAP block of its own before it.
fn loads_for_domain(data: &[u8], by: &SigningKey) -> Vec<Vec<u8>> {
    let hash = sekisho_keys::sha256(&[data]);
    let fields = [&lv(crate::loadable::FILE)[..], &lv(SD), &lv(&hash), &[0, 0]].concat();
    let mut all = loads(data, 200);
    all[0] = [&[0x80, 0xE6, 0x02, 0x00][..], &lv(&fields), &[0]].concat();
    let dap = [&[0x4F][..], &lv(SD), &[0xC3], &lv(&by.sign(&hash))].concat();
    all.insert(
        1,
        [
            &[0x80, 0xE8, 0, 0][..],
            &lv(&[&[0xE2][..], &lv(&dap)].concat()),
            &[0],
        ]
        .concat(),
    );
    for (number, command) in (0..).zip(&mut all[1..]) {
        command[3] = number;
    }
    all
}

/// A domain with DAP Verification, with its key.
fn verifying(card: &mut Card, key: &SigningKey) {
    let mut host = open(card, FIRST);
    let file = b"\x07\xA0\x00\x00\x01\x51\x53\x50\x08\xA0\x00\x00\x01\x51\x53\x50\x41";
    let fields = [&file[..], &lv(SD), &[1, 0xC0, 0, 0]].concat();
    ok(
        &mut host,
        card,
        &[[&[0x80, 0xE6, 0x0C, 0][..], &lv(&fields), &[0]].concat()],
    );
    select(card, FIRST, SD);
    let mut host = open_on(card, FIRST, 0).unwrap();
    ok(&mut host, card, &[put_dap_key(0, key)]);
}

/// What is loaded for the domain has to be signed; what is loaded for another one has not, and may be.
#[test]
fn a_domain_verifies_what_is_loaded_for_it() {
    let [key, other] = [1, 2].map(|n| SigningKey::from_bytes(&[n; 32]).unwrap());
    let mut card = card();
    verifying(&mut card, &key);
    let data = carrier(METER);
    let signed = loads_for_domain(&data, &key);
    let mut host = open(&mut card, FIRST);
    ok(&mut host, &mut card, &loads(&data, 200));
    ok(&mut host, &mut card, &[delete_file(false)]);
    // A DAP block that nobody has asked for is verified all the same.
    let mut unasked = signed.clone();
    unasked[0] = loads(&data, 200)[0].clone();
    ok(&mut host, &mut card, &unasked);
    ok(&mut host, &mut card, &[delete_file(false)]);
    for (what, commands, at, answer) in [
        ("another's", loads_for_domain(&data, &other), 1, 0x6982),
        (
            "of another file",
            {
                let mut of = loads_for_domain(&data, &key);
                of[1] = loads_for_domain(&carrier(&METER[..800]), &key)[1].clone();
                of
            },
            1,
            0x6982,
        ),
        (
            "none",
            {
                let mut without = loads(&data, 200);
                without[0] = signed[0].clone();
                without
            },
            loads(&data, 200).len() - 1,
            0x6985,
        ),
    ] {
        let mut host = open(&mut card, FIRST);
        ok(&mut host, &mut card, &commands[..at]);
        assert_eq!(sw(&host.send(&mut card, &commands[at])), answer, "{what}");
        assert_eq!(
            sw(&host.send(&mut card, &signed[2])),
            0x6985,
            "{what}: nothing is being loaded"
        );
        assert!(!holds(&card), "{what}");
    }
    let mut host = open(&mut card, FIRST);
    ok(&mut host, &mut card, &signed);
    ok(&mut host, &mut card, &[install_command(APPLICATION)]);
    assert!(is_usable(&mut card, FIRST, APPLICATION));
}

/// What a key has verified is not verified any more when it has been replaced, whoever did that and wherever.
#[test]
fn a_new_key_ends_what_the_old_one_has_verified() {
    let [key, next] = [1, 2].map(|n| SigningKey::from_bytes(&[n; 32]).unwrap());
    for (change, goes_on) in [
        (put_dap_key(0x73, &next), false),
        (vec![0x80, 0xE4, 0, 0, 3, 0xD2, 1, 0x73, 0], false),
        (vec![0x80, 0xCA, 0, 0xE0, 0], true),
    ] {
        let mut card = card();
        verifying(&mut card, &key);
        let signed = loads_for_domain(&carrier(METER), &key);
        let mut host = open(&mut card, FIRST);
        ok(&mut host, &mut card, &signed[..3]);
        select(&mut card, Interface::ApduGate, SD);
        let mut its = open_on(&mut card, Interface::ApduGate, 0).unwrap();
        ok(&mut its, &mut card, &[change]);
        let answer = sw(&host.send(&mut card, &signed[3]));
        assert_eq!(answer, if goes_on { 0x9000 } else { 0x6985 });
        assert_eq!(holds(&card), goes_on, "and nothing of it stays");
    }
}
