//! INSTALL [for personalisation] and the STORE DATA behind it (docs/spec/content.md, 2.1).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use crate::common::host::Host;
use crate::common::sw;
use crate::content_commands::put_keys;
use crate::notes::*;

fn personalise(aid: &str) -> Vec<u8> {
    command("80E62000", &format!("00 00 {} 00 00 00", lv(aid)))
}

fn store(p1: u8, p2: u8, data: &str) -> Vec<u8> {
    command(&format!("80E2{p1:02X}{p2:02X}"), data)
}

/// What the first Note has been told.
fn told(card: &mut Card) -> Vec<u8> {
    select_on(card, (GATE, 0), FIRST);
    let mut told = said(card, GATE, &bytes("0010000000"));
    assert_eq!(told.split_off(told.len() - 2), [0x90, 0x00]);
    told
}

#[test]
fn store_data_goes_to_the_application_until_its_last_block() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    assert_eq!(host.send(&mut card, &personalise(FIRST)), [0, 0x90, 0]);
    // As it came, but for its class; the answer is the application's.
    assert_eq!(
        host.send(&mut card, &store(0x01, 0x00, "4711")),
        [0x80, 0x01, 0x00, 1, 0x90, 0]
    );
    assert_eq!(told(&mut card), [0x47, 0x11]);
    assert_eq!(
        host.send(&mut card, &store(0xE1, 0x33, SECRET)),
        [0x80, 0xE1, 0x33, 1, 0x90, 0]
    );
    assert_eq!(told(&mut card), bytes(SECRET));
    // The domain's own again.
    assert_eq!(host.send(&mut card, &store(0x90, 0x00, "4203010203")), [0x90, 0]);
    assert_eq!(told(&mut card), bytes(SECRET));
    assert_eq!(
        host.send(&mut card, &bytes("80CA004200")),
        bytes("4203010203 9000")
    );
}

/// What comes in between, and whom the next STORE DATA is for.
#[test]
fn a_refusal_and_any_other_command_end_it() {
    type Step = fn(&mut Card, &mut Host);
    let steps: [(&str, bool, Step); 6] = [
        ("nothing", true, |_, _| {}),
        ("elsewhere", true, |card, _| {
            assert_eq!(told(card), [0x47, 0x11]);
            assert_eq!(sw(&said(card, GATE, &bytes("00A4040000"))), 0x9000);
            let mut other = try_open(card, (GATE, 0), &keys_of(1)).unwrap();
            assert_eq!(other.send(card, &store(0x90, 0, "4203010203")), [0x90, 0]);
        }),
        ("GET DATA", false, |card, host| {
            assert_eq!(sw(&host.send(card, &bytes("80CA00E000"))), 0x9000);
        }),
        ("a refusal", false, |card, host| {
            assert_eq!(host.send(card, &store(0x00, 1, "00FF")), [0x6A, 0x80]);
        }),
        ("SELECT", false, |card, host| *host = issuer(card)),
        ("another that is refused", false, |card, host| {
            assert_eq!(sw(&host.send(card, &personalise(SECOND))), 0x6A88);
        }),
    ];
    for (what, goes_on, step) in steps {
        let mut card = boot(made());
        let mut host = issuer(&mut card);
        ok(&mut host, &mut card, &personalise(FIRST));
        ok(&mut host, &mut card, &store(0x00, 0, "4711"));
        step(&mut card, &mut host);
        // IIN of three bytes: to the domain it has a meaning.
        ok(&mut host, &mut card, &store(0x90, 0, "42030A0B0C"));
        assert_eq!(told(&mut card) == bytes("42030A0B0C"), goes_on, "{what}");
        assert_eq!(told(&mut card) == bytes("4711"), !goes_on, "{what}");
    }
}

/// A domain personalises what is its own, with its own keys, and nothing above it or beside it; nobody does in the clear.
#[test]
fn each_domain_personalises_its_own() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install_domain(SD));
    ok(&mut host, &mut card, &install_note(SECOND, "01"));
    let mut installed = install_note(THIRD, "02");
    installed[2] = 0x04;
    ok(&mut host, &mut card, &installed);
    ok(&mut host, &mut card, &extradite(SECOND, SD));
    for (aid, answer) in [
        (FIRST, 0x9000),
        (SECOND, 0x6985),
        (SD, 0x6985),
        (THIRD, 0x6985),
        ("F0534B4E4F5439", 0x6A88),
        ("A000000151000000", 0x6985),
    ] {
        assert_eq!(sw(&host.send(&mut card, &personalise(aid))), answer, "{aid}");
    }
    select(&mut card, SD);
    assert_eq!(sw(&said(&mut card, CONTACT, &personalise(SECOND))), 0x6982);
    let mut host = try_open(&mut card, (CONTACT, 0), &keys_of(1)).unwrap();
    ok(&mut host, &mut card, &put_keys(0x20, &keys_of(5), &keys_of(1)));
    select(&mut card, SD);
    let mut host = try_open(&mut card, (CONTACT, 0), &keys_of(5)).unwrap();
    assert_eq!(sw(&host.send(&mut card, &personalise(FIRST))), 0x6A88);
    ok(&mut host, &mut card, &personalise(SECOND));
    ok(&mut host, &mut card, &store(0x80, 0, "4711"));
    // One that goes in the middle is not its successor.
    ok(&mut host, &mut card, &personalise(SECOND));
    let mut root = {
        select_on(&mut card, (GATE, 0), "A000000151000000");
        try_open(&mut card, (GATE, 0), &keys_of(1)).unwrap()
    };
    ok(&mut root, &mut card, &delete(SECOND));
    ok(&mut root, &mut card, &install_note(SECOND, "01"));
    ok(&mut root, &mut card, &extradite(SECOND, SD));
    assert_eq!(sw(&host.send(&mut card, &store(0x80, 0, "4712"))), 0x6A88);
}

/// Two that personalise at once would store for each other: who comes second waits, and nothing that the first sends is taken for the domain's own.
#[test]
fn who_personalises_is_not_displaced() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install_note(SECOND, "01"));
    ok(&mut host, &mut card, &personalise(FIRST));
    select_on(&mut card, (GATE, 0), "A000000151000000");
    let mut other = try_open(&mut card, (GATE, 0), &keys_of(1)).unwrap();
    assert_eq!(sw(&other.send(&mut card, &personalise(SECOND))), 0x6985);
    // IIN of three bytes: to the domain it has a meaning.
    ok(&mut host, &mut card, &store(0x90, 0, "42030A0B0C"));
    ok(&mut other, &mut card, &personalise(SECOND));
    ok(&mut other, &mut card, &store(0x90, 0, "4711"));
    assert_eq!(told(&mut card), bytes("42030A0B0C"));
    assert_eq!(sw(&host.send(&mut card, &bytes("80CA004200"))), 0x9000);
}

/// What another domain has got since is not personalised any more, nor is what was meant for it taken for the domain's own.
#[test]
fn what_is_extradited_in_the_middle_is_not_personalised() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install_domain(SD));
    ok(&mut host, &mut card, &personalise(FIRST));
    ok(&mut host, &mut card, &store(0x00, 0, "4711"));
    select_on(&mut card, (GATE, 0), "A000000151000000");
    let mut other = try_open(&mut card, (GATE, 0), &keys_of(1)).unwrap();
    ok(&mut other, &mut card, &extradite(FIRST, SD));
    assert_eq!(sw(&host.send(&mut card, &store(0x80, 1, "42030A0B0C"))), 0x6985);
    assert_eq!(told(&mut card), bytes("4711"));
}

/// A domain puts one sequence of blocks together: who begins another on another interface waits, and what the first has sent is neither lost nor mixed. What comes in one block needs no place.
#[test]
fn who_stores_in_blocks_is_not_displaced() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    select_on(&mut card, (GATE, 0), "A000000151000000");
    let mut other = try_open(&mut card, (GATE, 0), &keys_of(1)).unwrap();
    ok(&mut host, &mut card, &store(0x10, 0, "4203"));
    for (p1, p2, data, answer) in [
        (0x10, 0, "4501", 0x6985),
        (0x90, 1, "AABBCC", 0x6A86),
        (0x90, 0, "450199", 0x9000),
        (0x10, 0, "4501", 0x6985),
    ] {
        assert_eq!(
            sw(&other.send(&mut card, &store(p1, p2, data))),
            answer,
            "{p2} {data}"
        );
    }
    ok(&mut host, &mut card, &store(0x90, 1, "0A0B0C"));
    assert!(
        other
            .send(&mut card, &bytes("80CA004200"))
            .starts_with(&bytes("42030A0B0C"))
    );
    assert!(
        host.send(&mut card, &bytes("80CA004500"))
            .starts_with(&bytes("450199"))
    );
    // The place is free behind its end, and behind what ends it: another command, and a reset.
    ok(&mut other, &mut card, &store(0x10, 0, "4203"));
    assert_eq!(sw(&host.send(&mut card, &store(0x10, 0, "4203"))), 0x6985);
    assert_eq!(sw(&other.send(&mut card, &bytes("80CA00E000"))), 0x9000);
    ok(&mut host, &mut card, &store(0x10, 0, "4203"));
    card.reset(CONTACT);
    ok(&mut other, &mut card, &store(0x10, 0, "4203"));
    // Whose key set is replaced has lost its place with its channel.
    let mut host = issuer(&mut card);
    let mut replaced = put_keys(0x30, &keys_of(5), &keys_of(1));
    replaced[2] = 0x30;
    ok(&mut host, &mut card, &replaced);
    ok(&mut host, &mut card, &store(0x10, 0, "4203"));
    ok(&mut host, &mut card, &store(0x90, 1, "010203"));
    assert_eq!(sw(&other.send(&mut card, &store(0x90, 1, "0A0B0C"))), 0x6982);
    assert!(
        host.send(&mut card, &bytes("80CA004200"))
            .starts_with(&bytes("4203010203"))
    );
}
