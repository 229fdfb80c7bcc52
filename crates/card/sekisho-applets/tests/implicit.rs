//! Implicit selection (docs/spec/content.md, 2.4): what is selected without being named, where, and who gives way.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use sekisho_os::Interface;

use crate::common::host::Host;
use crate::common::sw;
use crate::content_power::{FROM_ABOVE, ISD, cut_everywhere, open_as, outcomes};
use crate::notes::*;

const SWP: Interface = Interface::Swp;
const OPEN: &str = "A005A5038201C0";

fn note(aid: &str, system: &str) -> Vec<u8> {
    let parameters = lv(&format!("EF{}", lv(system)));
    let aid = lv(aid);
    command("80E60C00", &format!("{FILE} {MODULE} {aid} 00 {parameters} 00"))
}

fn update(aid: &str, system: &str) -> Vec<u8> {
    let parameters = lv(&format!("EF{}", lv(system)));
    command("80E64000", &format!("00 00 {} 00 {parameters} 00", lv(aid)))
}

fn make_selectable(aid: &str, system: &str) -> Vec<u8> {
    let parameters = lv(&format!("EF{}", lv(system)));
    command("80E60800", &format!("00 00 {} 00 {parameters} 00", lv(aid)))
}

/// Whether a Note answers on a logical channel.
fn is_note(card: &mut Card, interface: Interface, channel: u8) -> bool {
    sw(&said(card, interface, &[channel, 0x10, 0, 0, 0])) == 0x9000
}

/// The same on the basic one behind a reset.
fn by_reset(card: &mut Card, interface: Interface) -> bool {
    card.reset(interface);
    is_note(card, interface, 0)
}

/// On the basic channel behind a reset, on another behind MANAGE CHANNEL from the basic one; on the interfaces that it says, before who has Card Reset, and only while it can be selected there.
#[test]
fn what_is_selected_without_being_named() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &update(FIRST, "CF0140"));
    assert_eq!([GATE, SWP].map(|on| by_reset(&mut card, on)), [true, false]);
    assert!(!by_reset(&mut card, SPI), "another container's");
    // It is shown, and goes with a boot.
    let list = format!("4F{} 5C01CF", lv(FIRST));
    let shown = host.send(&mut card, &command("80F24002", &list));
    assert_eq!(shown, bytes("E303CF01409000"));
    let mut card = boot(card.into_flash());
    assert!(by_reset(&mut card, GATE));
    // Card Reset is for what is left.
    let mut host = issuer(&mut card);
    let default = format!(
        "{FILE} {MODULE} {} 0104 {} 00",
        lv(SECOND),
        lv(&format!("C90177EF{}", lv(OPEN)))
    );
    ok(&mut host, &mut card, &command("80E60C00", &default));
    assert_eq!([GATE, SWP].map(|on| by_reset(&mut card, on)), [true, true]);
    let tell = |card: &mut Card, on| said(card, on, &bytes("0010000000"));
    assert_eq!(tell(&mut card, GATE), bytes("9000"), "not who has Card Reset");
    assert_eq!(tell(&mut card, SWP), bytes("779000"));
    ok(&mut host, &mut card, &lock(SECOND));
    assert_eq!([GATE, SWP].map(|on| by_reset(&mut card, on)), [true, false]);
    // Locked it is not there, unlocked it is again.
    ok(&mut host, &mut card, &lock(FIRST));
    assert!(!by_reset(&mut card, GATE));
    ok(&mut host, &mut card, &unlock(FIRST));
    // Elsewhere: channel 2 of SWP, which it is opened on; channel 1 is the root's.
    ok(&mut host, &mut card, &update(FIRST, "CF0182"));
    assert!(!by_reset(&mut card, GATE));
    for interface in [SWP, GATE] {
        card.reset(interface);
        for channel in 1..=3_u8 {
            assert_eq!(sw(&said(&mut card, interface, &[0, 0x70, 0, channel])), 0x9000);
            let is_there = interface == SWP && channel == 2;
            assert_eq!(is_note(&mut card, interface, channel), is_there, "{channel}");
        }
    }
    // From another channel than the basic one the new one has that one's application.
    card.reset(SWP);
    assert_eq!(sw(&said(&mut card, SWP, &[0, 0x70, 0, 1])), 0x9000);
    assert_eq!(sw(&said(&mut card, SWP, &[1, 0x70, 0, 2])), 0x9000);
    assert!(!is_note(&mut card, SWP, 2));
    // Closed where it says so, it is not selected there.
    ok(&mut host, &mut card, &update(FIRST, "A005A503820180 CF01C0"));
    assert_eq!([GATE, SWP].map(|on| by_reset(&mut card, on)), [true, false]);
    // Named by nothing any more; deleted.
    ok(&mut host, &mut card, &update(FIRST, "CF0100"));
    assert!(!by_reset(&mut card, GATE));
    ok(&mut host, &mut card, &note(THIRD, "CF0140"));
    assert!(by_reset(&mut card, GATE));
    ok(&mut host, &mut card, &delete(THIRD));
    assert!(!by_reset(&mut card, GATE));
    ok(&mut host, &mut card, &note(THIRD, "CF0140"));
}

/// Each value, and who has one already.
#[test]
fn one_application_for_one_place() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    for byte in 0..=0xFF_u8 {
        let channels = byte & 0x1F < 20;
        let fits = byte & 0x20 == 0 && channels && (byte & 0xC0 != 0 || byte == 0);
        let answer = host.send(&mut card, &update(FIRST, &format!("CF01{byte:02X}")));
        assert_eq!(sw(&answer), if fits { 0x9000 } else { 0x6A80 }, "{byte:02X}");
    }
    ok(&mut host, &mut card, &update(FIRST, "CF01C1"));
    for (what, expected) in [
        (note(SECOND, "CF0141"), 0x6985),
        (note(SECOND, "CF0181"), 0x6985),
        (note(SECOND, "CF01C1"), 0x6985),
        (note(SECOND, "CF00"), 0x6A80),
        (note(SECOND, "CF024142"), 0x6A80),
        (note(SECOND, "CF0142CF01C2"), 0x6A80),
        (update(ISD, "CF0142"), 0x6985),
        (update(FIRST, "CF0142CF0142"), 0x6A80),
        // It is selectable already.
        (make_selectable(FIRST, "CF0142"), 0x6985),
        (note(SECOND, "CF0142"), 0x9000),
        (update(FIRST, "CF0142"), 0x6985),
        (update(SECOND, "CF0182"), 0x9000),
        (update(FIRST, "CF0142"), 0x9000),
        (update(FIRST, "CF01C2"), 0x6985),
    ] {
        let answer = host.send(&mut card, &what);
        // What is refused for the application's state is refused before its parameters are looked at, or behind.
        assert_eq!(sw(&answer), expected, "{what:02X?}");
    }
}

/// Up to four data objects, in each of the three commands; those of a command take the place of all before.
#[test]
fn one_application_in_several_places() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    let shown = |card: &mut Card, host: &mut Host, aid| {
        host.send(card, &command("80F24002", &format!("4F{} 5C01CF", lv(aid))))
    };
    let there = |card: &mut Card, on| {
        card.reset(on);
        let basic = is_note(card, on, 0);
        let others = [1, 2, 3].map(|channel| {
            assert_eq!(sw(&said(card, on, &[0, 0x70, 0, channel])), 0x9000);
            is_note(card, on, channel)
        });
        [basic, others[0], others[1], others[2]]
    };
    // On contacts' kind on channels 0 and 3, over SWP on 1, on both on 2.
    ok(
        &mut host,
        &mut card,
        &update(FIRST, "CF0140 CF0181 CF01C2 CF0143"),
    );
    for round in 0..2 {
        assert_eq!(there(&mut card, GATE), [true, false, true, true], "{round}");
        assert_eq!(there(&mut card, SWP), [false, true, true, false], "{round}");
        card = boot(card.into_flash());
        host = issuer(&mut card);
    }
    let all = shown(&mut card, &mut host, FIRST);
    assert_eq!(all, bytes("E30C CF0140 CF0181 CF01C2 CF0143 9000"));
    // A fifth, one of them again, and for others each of them; nothing has changed then.
    for (what, expected) in [
        (update(FIRST, "CF0140 CF0141 CF0142 CF0143 CF0144"), 0x6A80),
        (update(FIRST, "CF0140 CF01C0"), 0x6A80),
        (note(SECOND, "CF0141 CF0182"), 0x6985),
        (note(SECOND, "CF0144 CF0145 CF0146 CF0143"), 0x6985),
        (note(SECOND, "CF0141 CF0180"), 0x9000),
        (update(SECOND, "CF0141 CF0140"), 0x6985),
    ] {
        assert_eq!(sw(&host.send(&mut card, &what)), expected, "{what:02X?}");
        // The second one's AID begins with the first one's.
        assert!(shown(&mut card, &mut host, FIRST).starts_with(&all[..all.len() - 2]));
    }
    assert_eq!(
        shown(&mut card, &mut host, SECOND),
        bytes("E306 CF0141 CF0180 9000")
    );
    // One that is left is all that it has, and the others are free.
    ok(&mut host, &mut card, &update(FIRST, "CF01C2"));
    ok(&mut host, &mut card, &update(SECOND, "CF0100 CF0140 CF0143"));
    assert_eq!(
        shown(&mut card, &mut host, SECOND),
        bytes("E306 CF0140 CF0143 9000")
    );
    assert_eq!(there(&mut card, GATE), [true, false, true, true]);
    ok(&mut host, &mut card, &update(SECOND, "CF0100"));
    assert_eq!(there(&mut card, GATE), [false, false, true, false]);
    let alone = format!("{FILE} {MODULE} {} 00 {} 00", lv(THIRD), lv("EF06CF0141CF0143"));
    ok(&mut host, &mut card, &command("80E60400", &alone));
    ok(&mut host, &mut card, &make_selectable(THIRD, "CF0140 CF0144"));
    assert_eq!(
        shown(&mut card, &mut host, THIRD),
        bytes("E306 CF0140 CF0144 9000")
    );
    assert_eq!(there(&mut card, GATE), [true, false, true, false]);
}

/// INSTALL for make selectable says it as well, in the step that makes the application selectable; where another has the place neither happens.
#[test]
fn making_selectable_says_it_too() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &update(FIRST, "CF0140"));
    let alone = format!("{FILE} {MODULE} {} 00 {} 00", lv(SECOND), lv("EF03CF0141"));
    ok(&mut host, &mut card, &command("80E60400", &alone));
    for (system, expected) in [
        ("CF0140", 0x6985),
        ("CF0120", 0x6A80),
        ("CF024041", 0x6A80),
        ("CF0142CF0142", 0x6A80),
        ("A005A5038201C0", 0x6A80),
    ] {
        let answer = host.send(&mut card, &make_selectable(SECOND, system));
        assert_eq!(sw(&answer), expected, "{system}");
        let list = format!("4F{} 5C039F70CF", lv(SECOND));
        let shown = host.send(&mut card, &command("80F24002", &list));
        assert_eq!(shown, bytes("E3079F700103CF01419000"), "{system}");
    }
    ok(&mut host, &mut card, &make_selectable(SECOND, "CF0142"));
    assert!(by_reset(&mut card, GATE), "the first one's");
    for channel in 1..=3_u8 {
        assert_eq!(sw(&said(&mut card, GATE, &[0, 0x70, 0, channel])), 0x9000);
        assert_eq!(is_note(&mut card, GATE, channel), channel == 2, "{channel}");
    }
    // 00: nowhere.
    let alone = format!("{FILE} {MODULE} {} 00 {} 00", lv(THIRD), lv("EF03CF0143"));
    ok(&mut host, &mut card, &command("80E60400", &alone));
    ok(&mut host, &mut card, &make_selectable(THIRD, "CF0100"));
    card.reset(GATE);
    for channel in 1..=3_u8 {
        assert_eq!(sw(&said(&mut card, GATE, &[0, 0x70, 0, channel])), 0x9000);
        assert_eq!(is_note(&mut card, GATE, channel), channel == 2, "{channel}");
    }
}

#[test]
fn power_cut_at_every_operation_that_changes_it() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &update(FIRST, "CF0140"));
    let flash = card.into_flash();
    let seen = |card: &mut Card| {
        let reset = by_reset(card, GATE);
        card.reset(GATE);
        said(card, GATE, &[0, 0x70, 0, 1]);
        (reset, is_note(card, GATE, 1))
    };
    let above = |card: &mut Card| open_as(card, ISD, FROM_ABOVE);
    let all = cut_everywhere(&flash, above, &update(FIRST, "CF0141"), seen);
    println!("{all:?}");
    let (before, after) = ((true, false), (false, true));
    assert_eq!(outcomes(&all), [(false, after), (false, before), (true, after)]);
}
