//! INSTALL [for registry update], Card Reset, Global Delete and Global Lock (docs/spec/content.md, 1 and 2.3).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use sekisho_os::Interface;

use crate::common::host::Host;
use crate::common::sw;
use crate::content_power::{FROM_ABOVE, ISD, cut_everywhere, is_within, open_as, outcomes};
use crate::notes::*;

const SWP: Interface = Interface::Swp;
const OPEN: &str = "EF07A005A5038201C0";
const CLOSED: &str = "EF07A005A503820180";

fn update(domain: &str, aid: &str, privileges: &str, parameters: &str) -> Vec<u8> {
    let [domain, aid, privileges, parameters] = [domain, aid, privileges, parameters].map(lv);
    command(
        "80E64000",
        &format!("{domain} 00 {aid} {privileges} {parameters} 00"),
    )
}

/// INSTALL [for install and make selectable] of a note or a domain.
fn install(files: &str, aid: &str, privileges: &str) -> Vec<u8> {
    let (aid, privileges) = (lv(aid), lv(privileges));
    command("80E60C00", &format!("{files} {aid} {privileges} 00 00"))
}

fn note(aid: &str, privileges: &str) -> Vec<u8> {
    install(&format!("{FILE} {MODULE}"), aid, privileges)
}

fn make_selectable(aid: &str, privileges: &str) -> Vec<u8> {
    let (aid, privileges) = (lv(aid), lv(privileges));
    command("80E60800", &format!("00 00 {aid} {privileges} 00 00"))
}

/// Privileges as GET STATUS shows them to the issuer security domain.
fn privileges(host: &mut Host, card: &mut Card, p1: &str, aid: &str) -> String {
    let list = format!("4F{} 5C01C5", lv(aid));
    let answer = host.send(card, &command(&format!("80F2{p1}02"), &list));
    assert_eq!(sw(&answer), 0x9000, "{aid}");
    hex::encode_upper(&answer[4..7])
}

/// Whether a Note is what a reset selects.
fn note_is_default(card: &mut Card, interface: Interface) -> bool {
    card.reset(interface);
    sw(&said(card, interface, &bytes("0010000000"))) == 0x9000
}

const ROOT: &str = "9C7E80";
const ROOT_WITHOUT_RESET: &str = "987E80";

/// Domain, privileges and interfaces in one step, whenever the power goes.
#[test]
fn power_cut_at_every_operation_of_a_registry_update() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install_domain(SD));
    ok(&mut host, &mut card, &note(SECOND, "04"));
    let flash = card.into_flash();
    let seen = |card: &mut Card| {
        let mut host = issuer(card);
        let holders = [FIRST, SECOND].map(|aid| privileges(&mut host, card, "40", aid) == "040000");
        assert_eq!(privileges(&mut host, card, "80", ""), ROOT_WITHOUT_RESET);
        (
            holders,
            is_within(card, SD, FIRST),
            select_on(card, (SWP, 0), FIRST) == 0x9000,
        )
    };
    let above = |card: &mut Card| open_as(card, ISD, FROM_ABOVE);
    let all = cut_everywhere(&flash, above, &update(SD, FIRST, "040000", CLOSED), seen);
    println!("{all:?}");
    let before = ([false, true], false, true);
    let after = ([true, false], true, false);
    assert_eq!(outcomes(&all), [(false, before), (false, after), (true, after)]);
}

/// One application has Card Reset; where none has, the root.
#[test]
fn card_reset_moves_and_comes_back_to_the_root() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    let is_default = |card: &mut Card| [GATE, SWP].map(|interface| note_is_default(card, interface));
    assert_eq!(is_default(&mut card), [false; 2]);
    // What hosts send to make something the default that can be selected already.
    ok(&mut host, &mut card, &make_selectable(FIRST, "040000"));
    assert_eq!(
        sw(&host.send(&mut card, &make_selectable(FIRST, "040000"))),
        0x6985
    );
    assert_eq!(privileges(&mut host, &mut card, "40", FIRST), "040000");
    assert_eq!(privileges(&mut host, &mut card, "80", ""), ROOT_WITHOUT_RESET);
    assert_eq!(is_default(&mut card), [true; 2]);
    // Another one is installed with it: closed over SWP, where a reset selects the root.
    ok(&mut host, &mut card, &note(SECOND, "04"));
    assert_eq!(privileges(&mut host, &mut card, "40", FIRST), "000000");
    assert_eq!(is_default(&mut card), [true, false]);
    // The other container has its own.
    assert!(!note_is_default(&mut card, SPI));
    // Locked it is not selected, and nobody else has the privilege; deleted, the root has it again.
    ok(&mut host, &mut card, &lock(SECOND));
    assert_eq!(is_default(&mut card), [false; 2]);
    assert_eq!(privileges(&mut host, &mut card, "80", ""), ROOT_WITHOUT_RESET);
    ok(&mut host, &mut card, &delete(SECOND));
    assert_eq!(privileges(&mut host, &mut card, "80", ""), ROOT);
    // A domain can have it; taken from it, it is the root's.
    ok(&mut host, &mut card, &install_domain(SD));
    ok(&mut host, &mut card, &update("", SD, "840000", ""));
    assert_eq!(privileges(&mut host, &mut card, "80", ""), ROOT_WITHOUT_RESET);
    card.reset(GATE);
    assert_eq!(said(&mut card, GATE, &bytes("80CA00E000")), bytes("E0009000"));
    ok(&mut host, &mut card, &update("", SD, "80", ""));
    assert_eq!(privileges(&mut host, &mut card, "80", ""), ROOT);
}

#[test]
fn power_cut_at_every_operation_of_an_installation_that_takes_card_reset() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &make_selectable(FIRST, "04"));
    let flash = card.into_flash();
    let seen = |card: &mut Card| {
        let mut host = issuer(card);
        let first = privileges(&mut host, card, "40", FIRST) == "040000";
        let second = sw(&host.send(card, &show(SECOND))) == 0x9000;
        assert_eq!(privileges(&mut host, card, "80", ""), ROOT_WITHOUT_RESET);
        (first, second)
    };
    let above = |card: &mut Card| open_as(card, ISD, FROM_ABOVE);
    let all = cut_everywhere(&flash, above, &note(SECOND, "04"), seen);
    let (before, after) = ((true, false), (false, true));
    assert_eq!(outcomes(&all), [(false, after), (false, before), (true, after)]);
}

/// Who is closed where it is selected is asked nothing more there, and a root's secure channel is opened where its byte says.
#[test]
fn what_is_closed_while_it_is_selected_ends_there() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    let tell = bytes("0010000000");
    for interface in [SWP, GATE] {
        assert_eq!(select_on(&mut card, (interface, 0), FIRST), 0x9000);
    }
    ok(&mut host, &mut card, &update("", FIRST, "", CLOSED));
    assert_eq!(sw(&said(&mut card, SWP, &tell)), 0x6985);
    assert_eq!(sw(&said(&mut card, GATE, &tell)), 0x9000);
    // Asked for again it is not there, and nor is it selected any more.
    assert_eq!(select_on(&mut card, (SWP, 0), FIRST), 0x6A82);
    assert_eq!(sw(&said(&mut card, SWP, &bytes("80CA00CF00"))), 0x9000);
    ok(&mut host, &mut card, &update("", FIRST, "", OPEN));
    assert_eq!(select_on(&mut card, (SWP, 0), FIRST), 0x9000);
    for (parameters, opens) in [(OPEN, true), (CLOSED, false), (OPEN, true)] {
        ok(&mut host, &mut card, &update("", ISD, "", parameters));
        assert_eq!(select_on(&mut card, (SWP, 0), ISD), 0x9000);
        let opened = try_open(&mut card, (SWP, 0), &keys_of(1));
        assert_eq!(opened.map(|_| ()), if opens { Ok(()) } else { Err(0x6985) });
    }
    // What was proved to a domain over SWP is not proved there when it is opened again.
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install_domain(SD));
    ok(&mut host, &mut card, &update("", SD, "", OPEN));
    assert_eq!(select_on(&mut card, (SWP, 0), SD), 0x9000);
    let mut own = try_open(&mut card, (SWP, 0), &keys_of(1)).unwrap();
    ok(&mut own, &mut card, &bytes("80CA00E000"));
    ok(&mut host, &mut card, &update("", SD, "", CLOSED));
    ok(&mut host, &mut card, &update("", SD, "", OPEN));
    assert_eq!(sw(&own.send(&mut card, &bytes("80CA00E000"))), 0x6982);
    let mut card = boot(card.into_flash());
    assert!(try_open(&mut card, (SWP, 0), &keys_of(1)).is_ok(), "it lasts");
}

/// Each privilege alone, to an application and to a domain: those of the page, and no other; nothing else changes what came with the operating system.
#[test]
fn no_other_privilege_and_nothing_else() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install_domain(SD));
    for bit in 0..24 {
        let one = 1_u32 << bit;
        let hex = |bits: u32| format!("{bits:06X}");
        let own = host.send(&mut card, &update("", FIRST, &hex(one), ""));
        assert_eq!(sw(&own) == 0x9000, one == 0x04_0000, "{one:06X}");
        let of_domain = host.send(&mut card, &update("", SD, &hex(0x80_0000 | one), ""));
        let known = [0x80_0000, 0x40_0000, 0x20_0000, 0x04_0000, 0x00_1000, 0x00_0800];
        assert_eq!(sw(&of_domain) == 0x9000, known.contains(&one), "{one:06X}");
    }
    ok(&mut host, &mut card, &update("", SD, "E51800", ""));
    ok(&mut host, &mut card, &update("", SD, "", ""));
    assert_eq!(privileges(&mut host, &mut card, "40", SD), "E51800");
    for (wrong, expected) in [
        // No domain any more, and what is none becomes none.
        (update("", SD, "00", ""), 0x6A80),
        (update("", FIRST, "80", ""), 0x6A80),
        (update("", ISD, "9C7E80", ""), 0x6985),
        (update("", SECOND, "", ""), 0x6A88),
        (update("", "", "", ""), 0x6A88),
        (update(SD, SD, "", ""), 0x6985),
        (update(ISD, FIRST, "", ""), 0x6985),
        (update(SECOND, FIRST, "", ""), 0x6A88),
        (update("", FIRST, "", "C900"), 0x6A80),
        (update("", FIRST, "", "EF00"), 0x6A80),
        (update("", FIRST, "", "EF04C8020100"), 0x6A80),
        (update("", FIRST, "", &format!("{OPEN}{OPEN}")), 0x6A80),
        (update("", FIRST, "", "B603930101"), 0x6A80),
        (update("", FIRST, "00000000", ""), 0x6A80),
        (
            command("80E64000", &format!("00 00 {} 00 00 0101", lv(FIRST))),
            0x6A80,
        ),
        (
            command("80E64000", &format!("00 {MODULE} {} 00 00 00", lv(FIRST))),
            0x6A80,
        ),
        (
            command("80E64001", &format!("00 00 {} 00 00 00", lv(FIRST))),
            0x6A86,
        ),
    ] {
        assert_eq!(sw(&host.send(&mut card, &wrong)), expected, "{wrong:02X?}");
    }
    // Below it, a domain without content management changes nothing, itself neither.
    ok(&mut host, &mut card, &update("", SD, "80", ""));
    let mut own = open_as(&mut card, SD, FROM_ABOVE).unwrap();
    assert_eq!(sw(&own.send(&mut card, &update("", SD, "801800", ""))), 0x6985);
}

/// Whatever is in the container goes, wherever it is, but for the domain itself, the root, and what came with the operating system; nothing else is allowed by it.
#[test]
fn global_delete_is_for_all_of_the_container_and_for_nothing_else() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install(SD_FILE, SD, "801000"));
    ok(&mut host, &mut card, &install_domain(OTHER_SD));
    ok(&mut host, &mut card, &note(SECOND, ""));
    ok(&mut host, &mut card, &extradite(SECOND, OTHER_SD));
    let before = shown(&mut card);
    let mut own = open_as(&mut card, SD, FROM_ABOVE).unwrap();
    for (wrong, expected) in [
        (delete(SD), 0x6985),
        (delete(ISD), 0x6985),
        (delete("F0534B4F530001"), 0x6985),
        (delete("A0000001515350"), 0x6985),
        (delete(OTHER_SD), 0x6985),
        (delete(THIRD), 0x6A82),
        (note(THIRD, ""), 0x6985),
        (extradite(SECOND, SD), 0x6985),
        (update("", SECOND, "04", ""), 0x6985),
        (lock(SECOND), 0x6A88),
        (
            command("80E40000", &format!("4F{} B603930101", lv(SECOND))),
            0x6A80,
        ),
        (command("80E40000", &format!("4F{} 9E0101", lv(SECOND))), 0x6985),
    ] {
        assert_eq!(sw(&own.send(&mut card, &wrong)), expected, "{wrong:02X?}");
    }
    drop(own);
    assert_eq!(shown(&mut card), before);
    let mut own = open_as(&mut card, SD, FROM_ABOVE).unwrap();
    for aid in [SECOND, OTHER_SD, FIRST] {
        ok(&mut own, &mut card, &delete(aid));
    }
    assert_eq!(select(&mut card, FIRST), 0x6A82);
    // In the clear it is nobody's.
    select(&mut card, SD);
    assert_eq!(sw(&said(&mut card, CONTACT, &delete(FIRST))), 0x6982);
}

#[test]
fn global_lock_locks_and_unlocks_whatever_is_there_but_the_root() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install(SD_FILE, SD, "800800"));
    ok(&mut host, &mut card, &install_domain(OTHER_SD));
    let mut own = open_as(&mut card, SD, FROM_ABOVE).unwrap();
    for aid in [FIRST, OTHER_SD] {
        ok(&mut own, &mut card, &lock(aid));
        assert_eq!(select_on(&mut card, (GATE, 0), aid), 0x6A82);
        ok(&mut own, &mut card, &unlock(aid));
        assert_eq!(select_on(&mut card, (GATE, 0), aid), 0x9000);
    }
    assert_eq!(sw(&own.send(&mut card, &lock(ISD))), 0x6985);
    assert_eq!(sw(&own.send(&mut card, &delete(FIRST))), 0x6985);
    // Taken from it, it locks itself and its own, and unlocks nothing.
    let mut host = open_as(&mut card, ISD, FROM_ABOVE).unwrap();
    ok(&mut host, &mut card, &update("", SD, "80", ""));
    let mut own = open_as(&mut card, SD, FROM_ABOVE).unwrap();
    assert_eq!(sw(&own.send(&mut card, &lock(FIRST))), 0x6A88);
    assert_eq!(sw(&own.send(&mut card, &unlock(SD))), 0x6985);
}
