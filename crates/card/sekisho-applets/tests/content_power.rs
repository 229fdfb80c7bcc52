//! Content management when the power goes or the store is full (docs/spec/content.md): extradition, the two steps of an installation, a domain's first keys, what does not fit.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use std::collections::BTreeMap;
use std::fmt::Debug;

use sekisho_keys::KeySet;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::Interface;
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::host::Host;
use crate::common::sw;
use crate::content_commands::put_keys;
use crate::notes::*;

/// Runs a command with the power cut at each flash operation, and once without: how often what `seen` sees after the next boot came, by whether the command was answered 9000.
pub(crate) fn cut_everywhere<T: Ord + Debug>(
    flash: &RamFlash,
    open: impl Fn(&mut Card) -> Option<Host>,
    capdu: &[u8],
    seen: impl Fn(&mut Card) -> T,
) -> BTreeMap<(bool, T), usize> {
    let mut all = BTreeMap::new();
    for seed in 0..2 {
        for cut in 0.. {
            let mut flash = flash.clone();
            flash.cut_after(cut, seed);
            let mut card = boot(flash);
            let done = open(&mut card).is_some_and(|mut host| sw(&host.send(&mut card, capdu)) == 0x9000);
            let mut flash = card.into_flash();
            let was_cut = flash.is_off();
            flash.power_on();
            let mut card = boot(flash);
            *all.entry((done, seen(&mut card))).or_insert(0) += 1;
            if !was_cut {
                break;
            }
        }
    }
    all
}

pub(crate) fn outcomes<T: Copy + Ord>(all: &BTreeMap<(bool, T), usize>) -> Vec<(bool, T)> {
    all.keys().copied().collect()
}

/// A domain's secure channel, with a key set of a version.
pub(crate) fn open_as(card: &mut Card, aid: &str, (kvn, keys): (u8, u8)) -> Option<Host> {
    select(card, aid);
    let (level, mode) = (SecurityLevel::FULL, MacMode::S8);
    Host::open_on(card, CONTACT, 0, kvn, &keys_of(keys), level, mode).ok()
}

pub(crate) const ISD: &str = "A000000151000000";
/// The issuer security domain's keys, and what the other one gets, one after the other.
pub(crate) const FROM_ABOVE: (u8, u8) = (0x30, 1);
const OWN: (u8, u8) = (0x20, 5);
const NEXT: (u8, u8) = (0x21, 6);

/// Whether a domain, opened with these keys, is shown an application.
pub(crate) fn is_within(card: &mut Card, domain: &str, aid: &str) -> bool {
    let mut host = open_as(card, domain, FROM_ABOVE).unwrap();
    sw(&host.send(card, &show(aid))) == 0x9000
}

#[test]
fn power_cut_at_every_operation_of_an_extradition() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install_domain(SD));
    ok(&mut host, &mut card, &install_domain(OTHER_SD));
    ok(&mut host, &mut card, &extradite(FIRST, SD));
    let flash = card.into_flash();
    let whose = |card: &mut Card| {
        assert_eq!(select(card, FIRST), 0x9000);
        assert_eq!(sw(&said(card, CONTACT, &bytes("0010000000"))), 0x9000);
        let whose = [SD, OTHER_SD].map(|domain| is_within(card, domain, FIRST));
        // Whoever has it cannot go, and the other one can.
        let mut host = issuer(card);
        let gone = [SD, OTHER_SD].map(|domain| sw(&host.send(card, &delete(domain))));
        assert_eq!(gone, whose.map(|has| if has { 0x6985 } else { 0x9000 }));
        whose
    };
    let first = |card: &mut Card| open_as(card, ISD, FROM_ABOVE);
    let all = cut_everywhere(&flash, first, &extradite(FIRST, OTHER_SD), whose);
    let (before, after) = ([true, false], [false, true]);
    println!("{all:?}");
    assert_eq!(outcomes(&all), [(false, after), (false, before), (true, after)]);
}

/// SET STATUS of a domain or an application with P1 60.
fn set_all(aid: &str, p2: u8) -> Vec<u8> {
    command(&format!("80F060{p2:02X}"), aid)
}

/// A domain and what is within it, directly or not, are locked and unlocked together, whenever the power goes; what is beside it is not.
#[test]
fn a_domain_is_locked_with_its_own_and_power_cut_at_every_operation() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    for aid in [SD, OTHER_SD] {
        ok(&mut host, &mut card, &install_domain(aid));
    }
    ok(&mut host, &mut card, &install_note(SECOND, SECRET));
    ok(&mut host, &mut card, &extradite(SECOND, SD));
    // Neither an application nor the issuer security domain is a domain with its own.
    assert_eq!(sw(&host.send(&mut card, &set_all(FIRST, 0x80))), 0x6A88);
    assert_eq!(sw(&host.send(&mut card, &set_all(ISD, 0x80))), 0x6985);
    let flash = card.into_flash();
    let is_locked = |card: &mut Card| {
        let [sd, second, beside, first] = [SD, SECOND, OTHER_SD, FIRST].map(|aid| select(card, aid));
        assert_eq!((beside, first), (0x9000, 0x9000));
        assert_eq!(sd, second, "both or none");
        sd == 0x6A82
    };
    let above = |card: &mut Card| open_as(card, ISD, FROM_ABOVE);
    let all = cut_everywhere(&flash, above, &set_all(SD, 0x80), is_locked);
    println!("{all:?}");
    assert_eq!(outcomes(&all), [(false, false), (false, true), (true, true)]);

    // One that was locked alone before does not stand in the way, a domain locks itself with its own, and what it may not unlock those above do.
    let mut card = boot(flash);
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &lock(SECOND));
    let mut own = open_as(&mut card, SD, FROM_ABOVE).unwrap();
    assert_eq!(sw(&own.send(&mut card, &set_all(OTHER_SD, 0x80))), 0x6A88);
    assert_eq!(sw(&own.send(&mut card, &set_all(SD, 0x00))), 0x6985);
    select_on(&mut card, (GATE, 0), SD);
    ok(&mut own, &mut card, &set_all(SD, 0x80));
    assert_eq!(sw(&said(&mut card, GATE, &bytes("80CA00D300"))), 0x6985);
    assert!(is_locked(&mut card));
    let flash = card.into_flash();
    let all = cut_everywhere(&flash, above, &set_all(SD, 0x00), is_locked);
    println!("{all:?}");
    assert_eq!(outcomes(&all), [(false, false), (false, true), (true, false)]);
}

#[test]
fn power_cut_at_every_operation_of_making_selectable() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    let mut install = install_note(SECOND, SECRET);
    install[2] = 0x04;
    ok(&mut host, &mut card, &install);
    assert_eq!(select(&mut card, SECOND), 0x6A82, "it is INSTALLED alone");
    let flash = card.into_flash();
    let first = |card: &mut Card| open_as(card, ISD, FROM_ABOVE);
    let make = command("80E60800", &format!("00 00 {} 00 00 00", lv(SECOND)));
    let all = cut_everywhere(&flash, first, &make, |card| {
        let is_selectable = select(card, SECOND) == 0x9000;
        assert!(holds(card, SECRET));
        let mut host = issuer(card);
        let shown = host.send(card, &show(SECOND));
        let state = if is_selectable { "9F700107" } else { "9F700103" };
        assert!(shown.windows(4).any(|w| w == bytes(state)), "{shown:02X?}");
        is_selectable
    });
    println!("{all:?}");
    assert_eq!(outcomes(&all), [(false, false), (false, true), (true, true)]);
}

/// A domain is opened from above and SELECTABLE, or with its own keys and PERSONALIZED; never with none, and never with both.
#[test]
fn power_cut_at_every_operation_of_a_domains_first_keys() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install_domain(SD));
    let flash = card.into_flash();
    let from_above = |card: &mut Card| open_as(card, SD, FROM_ABOVE);
    let put = put_keys(0x20, &keys_of(5), &keys_of(1));
    let all = cut_everywhere(&flash, from_above, &put, |card| {
        let opened = [FROM_ABOVE, OWN].map(|keys| open_as(card, SD, keys).is_some());
        assert_ne!(opened[0], opened[1], "{opened:?}");
        assert_eq!(holds(card, &hex::encode([0x51; 16])), opened[1]);
        let mut host = issuer(card);
        let shown = host.send(card, &show(SD));
        let state = if opened[1] { "9F70010F" } else { "9F700107" };
        assert!(shown.windows(4).any(|w| w == bytes(state)), "{shown:02X?}");
        // It can be had all the same: by those above, or with its own.
        let (kvn, by) = if opened[1] { OWN } else { FROM_ABOVE };
        let mut host = open_as(card, SD, (kvn, by)).unwrap();
        let mut again = put_keys(NEXT.0, &keys_of(NEXT.1), &keys_of(by));
        again[2] = if opened[1] { kvn } else { 0 };
        ok(&mut host, card, &again);
        assert!(open_as(card, SD, NEXT).is_some());
        opened[1]
    });
    println!("{all:?}");
    assert_eq!(outcomes(&all), [(false, false), (false, true), (true, true)]);
}

/// What the selected Note says when it is to keep a value of so many bytes under a number; of none: nothing any more.
fn keep(card: &mut Card, interface: Interface, number: u8, len: usize) -> u16 {
    let header = format!("0014{number:02X}01");
    let capdu = match len {
        0 => bytes(&header),
        len => command(&header, &hex::encode(vec![0x77; len])),
    };
    sw(&said(card, interface, &capdu))
}

/// How much is left when INSTALL comes: from nothing to more than it takes, word by word. Either it is there whole, or 6A84 and nothing has changed; all that was usable is, whichever it was.
#[test]
fn what_does_not_fit_is_6a84_and_everything_else_goes_on() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install_domain(SD));
    let mut host = open_as(&mut card, SD, FROM_ABOVE).unwrap();
    ok(&mut host, &mut card, &put_keys(0x20, &keys_of(5), &keys_of(1)));
    drop(open_as(&mut card, SD, OWN).unwrap());
    // Full to the last word.
    select_on(&mut card, (GATE, 0), FIRST);
    let mut number = 0x20;
    for len in [60, 28, 12, 4, 1] {
        while keep(&mut card, GATE, number, len) == 0x9000 {
            number += 1;
        }
    }
    card.reset(GATE);
    card.reset(CONTACT);
    let before = shown(&mut card);
    let flash = card.into_flash();
    let mut seen = [0, 0];
    for (what, capdu) in [
        ("application", install_note(SECOND, SECRET)),
        ("domain", install_domain(OTHER_SD)),
    ] {
        for left in (0..212).step_by(4) {
            let mut card = boot(flash.clone());
            // Four records of 60 bytes go, one comes back, and one that leaves so much.
            select_on(&mut card, (GATE, 0), FIRST);
            for number in 0x20..0x24 {
                assert_eq!(keep(&mut card, GATE, number, 0), 0x9000);
            }
            assert_eq!(keep(&mut card, GATE, 0x20, 60), 0x9000);
            assert_eq!(keep(&mut card, GATE, 0x21, 212 - left), 0x9000);
            card.reset(GATE);
            let mut host = issuer(&mut card);
            let answer = sw(&host.send(&mut card, &capdu));
            assert!(matches!(answer, 0x9000 | 0x6A84), "{answer:04X}");
            seen[usize::from(answer == 0x9000)] += 1;
            // The secure channel goes on, and the command has left nothing.
            ok(&mut host, &mut card, &bytes("80CA00E000"));
            ok(&mut host, &mut card, &lock(FIRST));
            ok(&mut host, &mut card, &unlock(FIRST));
            card.reset(CONTACT);
            if answer == 0x6A84 {
                assert_eq!(shown(&mut card), before, "{what}, {left} left");
                assert!(!holds(&card, SECRET));
            }
            let mut card = boot(card.into_flash());
            usable(&mut card, what, &keys_of(7));
        }
    }
    println!("{} refused, {} installed", seen[0], seen[1]);
    assert!(seen[0] > 20 && seen[1] > 20, "{seen:?}");
}

/// Everything that is no longer than before, and everything that removes.
fn usable(card: &mut Card, what: &str, next: &KeySet) {
    assert_eq!(select(card, FIRST), 0x9000, "{what}");
    assert_eq!(keep(card, CONTACT, 0x24, 60), 0x9000, "equal size always fits");
    let mut host = open_as(card, SD, OWN).unwrap();
    let mut again = put_keys(0x20, next, &keys_of(5));
    again[2] = 0x20;
    ok(&mut host, card, &again);
    let mut host = issuer(card);
    ok(&mut host, card, &lock(SD));
    ok(&mut host, card, &unlock(SD));
    ok(&mut host, card, &delete(SD));
    assert_eq!(select(card, FIRST), 0x9000);
}
