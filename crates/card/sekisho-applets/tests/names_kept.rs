//! What names reach, and what counters have been: of who cannot be selected, of who has gone (docs/spec/routing.md 2, docs/spec/keys.md 2).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use std::collections::BTreeSet;

use sekisho_os::{ContainerId, Pairing, Profile, Protocol, Row};

use crate::common::ByValue as _;
use crate::common::{SeededRng, sw};
use crate::content_commands::put_keys;
use crate::notes::*;

/// Both containers have a Note, and names that the first has not may reach the second.
fn clones() -> Card {
    let second = ContainerId::new(2).unwrap();
    let profile = Profile {
        pairing: Pairing::all_to(ContainerId::ESE)
            .with(Protocol::T0, Row::common(ContainerId::ESE))
            .with(Protocol::T1, Row::common(ContainerId::ESE))
            .with(Protocol::SwpA, Row::common(ContainerId::ESE))
            .with(Protocol::SpiEse, Row::all(second)),
        ..two()
    };
    Card::booted(made_of(&profile, true), SeededRng(2), &profile).unwrap()
}

/// A name of the paired container whose application cannot be selected is 6A82: the one of that name elsewhere does not stand in.
#[test]
fn who_cannot_be_selected_has_his_name_all_the_same() {
    let mut card = clones();
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &lock(FIRST));
    assert_eq!(select(&mut card, FIRST), 0x6A82);
    assert_eq!(select(&mut card, "F0534B4E"), 0x6A82, "nor the beginning of it");
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &unlock(FIRST));
    ok(&mut host, &mut card, &delete(FIRST));
    // What nobody has here reaches the other container, as before.
    assert_eq!(select(&mut card, FIRST), 0x9000);
    // Installed and not yet selectable.
    let mut host = issuer(&mut card);
    let mut installed = install_note(FIRST, "01");
    installed[2] = 0x04;
    ok(&mut host, &mut card, &installed);
    assert_eq!(select(&mut card, FIRST), 0x6A82);
}

/// Nobody whose AID begins with another's takes its name, wherever he stands in the registry.
#[test]
fn a_whole_name_is_its_owners() {
    const LONGER: &str = "F0534B4E4F543201";
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install_note(LONGER, "09"));
    ok(&mut host, &mut card, &install_note(SECOND, "02"));
    let next = |card: &mut Card| {
        let sw = sw(&said(card, CONTACT, &command("00A40402", SECOND)));
        (sw, said(card, CONTACT, &bytes("0010000000"))[0])
    };
    assert_eq!(select(&mut card, SECOND), 0x9000);
    assert_eq!(said(&mut card, CONTACT, &bytes("0010000000")), [2, 0x90, 0]);
    // Who has it whole comes first, and once.
    assert_eq!(next(&mut card), (0x9000, 9));
    assert_eq!(next(&mut card).0, 0x6A82);
    assert_eq!(select(&mut card, "F0534B4E4F5432 01"), 0x9000);
    assert_eq!(said(&mut card, CONTACT, &bytes("0010000000")), [9, 0x90, 0]);
}

/// Challenge and cryptogram of five openings of the domain, for one and the same host challenge.
fn openings(card: &mut Card, seen: &mut BTreeSet<Vec<u8>>) {
    for _ in 0..5 {
        assert_eq!(select(card, SD), 0x9000);
        let answer = said(card, CONTACT, &bytes("8050000008 0102030405060708 00"));
        assert!(
            seen.insert(answer[13..29].to_vec()),
            "the session can be played again"
        );
    }
}

/// A domain that gets the keys of the one before, or those of the domain above that opened it until then, goes on behind their counters.
#[test]
fn no_recorded_session_of_a_domain_that_has_gone_is_played_to_its_successor() {
    let mut card = boot(made());
    let mut seen = BTreeSet::new();
    for round in 0..3 {
        let mut host = issuer(&mut card);
        ok(&mut host, &mut card, &install_domain(SD));
        // Of the root's keys, for the domain's name.
        openings(&mut card, &mut seen);
        select(&mut card, SD);
        let mut host = try_open(&mut card, (CONTACT, 0), &keys_of(1)).unwrap();
        ok(&mut host, &mut card, &put_keys(0x20, &keys_of(1), &keys_of(1)));
        openings(&mut card, &mut seen);
        let mut host = issuer(&mut card);
        ok(&mut host, &mut card, &delete(SD));
        assert_eq!(seen.len(), 10 * (round + 1));
    }
}

/// Whoever sends a command in the clear is told of no application that is not there for him.
#[test]
fn the_list_of_applications_has_what_select_finds() {
    let mut card = clones();
    let list = bytes("80CA2F0000");
    let names = |answer: &[u8]| {
        let note = bytes(FIRST);
        answer.windows(note.len()).any(|window| window == note)
    };
    const SWP: sekisho_os::Interface = sekisho_os::Interface::Swp;
    assert!(names(&said(&mut card, SWP, &list)));
    let mut host = issuer(&mut card);
    // Closed to strangers.
    let update = command(
        "80E64000",
        &format!("00 00 {} 00 09 EF07A005A503820180 00", lv(FIRST)),
    );
    ok(&mut host, &mut card, &update);
    assert_eq!(select_on(&mut card, (SWP, 0), FIRST), 0x6A82);
    assert!(!names(&said(&mut card, SWP, &list)));
    assert!(names(&said(&mut card, GATE, &list)));
    assert!(names(&host.send(&mut card, &list)));
}
