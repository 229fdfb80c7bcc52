//! Room of the store by owner (docs/spec/content.md, 7): what an application may take and what is kept for it, what a container may take, byte by byte, with the power cut, and full.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use std::collections::BTreeMap;

use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Interface, Profile};

use crate::common::ByValue as _;
use crate::common::host::Host;
use crate::common::{SeededRng, sw};
use crate::notes::*;

/// What a record takes beside its value.
const HEAD: usize = 16;
/// Room of the record that a Note is installed with here, of one byte.
const OWN: usize = HEAD + 4;

fn boot_as(flash: RamFlash, profile: &Profile) -> Card {
    Card::booted(flash, SeededRng(2), profile).unwrap()
}

/// INSTALL of a Note with these parameters of the system.
fn install(aid: &str, system: &str) -> Vec<u8> {
    let parameters = lv(&format!("EF{}C90101", lv(system)));
    command(
        "80E60C00",
        &format!("{FILE} {MODULE} {} 00 {parameters} 00", lv(aid)),
    )
}

fn limited(bytes: usize) -> Vec<u8> {
    install(SECOND, &format!("C802{bytes:04X}"))
}

/// What the selected Note answers when it is to keep values of so many bytes: `count` of them, from `first` on.
fn keep(card: &mut Card, interface: Interface, (first, count): (u8, u8), len: usize) -> u16 {
    let header = format!("0014{first:02X}{count:02X}");
    let capdu = match len {
        0 => bytes(&header),
        len => command(&header, &hex::encode(vec![0x77; len])),
    };
    sw(&said(card, interface, &capdu))
}

/// As [`keep`], by the other way.
fn keep_now(card: &mut Card, number: u8, len: usize) -> u16 {
    let capdu = command(&format!("0016{number:02X}01"), &hex::encode(vec![0x77; len]));
    sw(&said(card, CONTACT, &capdu))
}

/// What is left for the container of a host (GET DATA FF21, 82).
fn free(host: &mut Host, card: &mut Card) -> usize {
    let told = host.send(card, &bytes("80CAFF2100"));
    let at = told.windows(2).position(|two| two == [0x82, 4]).unwrap();
    told[at + 2..at + 6]
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

/// Lets the selected Note take what there is, to the last word: the bytes that it has taken.
fn fill(card: &mut Card, interface: Interface) -> usize {
    let mut taken = 0;
    let mut number = 0x10;
    for len in [60, 28, 12, 4, 1] {
        while keep(card, interface, (number, 1), len) == 0x9000 {
            (taken, number) = (taken + HEAD + len.next_multiple_of(4), number + 1);
        }
    }
    taken
}

#[test]
fn an_application_takes_its_quota_and_no_byte_more() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    let before = free(&mut host, &mut card);
    // Less than it is installed with.
    for bytes in [0, OWN - 4, OWN - 1] {
        assert_eq!(sw(&host.send(&mut card, &limited(bytes))), 0x6A84);
        assert_eq!(sw(&host.send(&mut card, &show(SECOND))), 0x6A88);
        assert_eq!(free(&mut host, &mut card), before);
    }
    for room in 0..=48 {
        ok(&mut host, &mut card, &limited(OWN + HEAD + room));
        card.reset(GATE);
        select(&mut card, SECOND);
        for len in 1..=room + 8 {
            let image = card.flash().image();
            let expected = if len.next_multiple_of(4) <= room {
                0x9000
            } else {
                0x6A84
            };
            assert_eq!(
                keep(&mut card, CONTACT, (0x10, 1), len),
                expected,
                "{len} of {room}"
            );
            if expected == 0x6A84 {
                assert_eq!(card.flash().image(), image, "nothing has changed");
                assert_eq!(keep_now(&mut card, 0x10, len), 0x6A84);
                assert_eq!(card.flash().image(), image, "nothing has changed");
            }
        }
        let most = room / 4 * 4;
        if most > 0 {
            // In its place again and again, as long or shorter, by either way.
            for len in [most, most - 3, most] {
                assert_eq!(keep(&mut card, CONTACT, (0x10, 1), len), 0x9000);
                assert_eq!(keep_now(&mut card, 0x10, len), 0x6985);
            }
            // A second one, and a second one under cover of the first.
            let image = card.flash().image();
            assert_eq!(keep(&mut card, CONTACT, (0x11, 1), 1), 0x6A84);
            assert_eq!(
                keep(&mut card, CONTACT, (0x10, 2), 1),
                if most >= 24 { 0x9000 } else { 0x6A84 }
            );
            if most < 24 {
                assert_eq!(card.flash().image(), image, "nothing has changed");
            }
        }
        // Who has no quota goes on, and there is room again for what is removed.
        select(&mut card, FIRST);
        assert_eq!(keep(&mut card, CONTACT, (0x10, 4), 60), 0x9000);
        assert_eq!(keep(&mut card, CONTACT, (0x10, 4), 0), 0x9000);
        let mut again = issuer(&mut card);
        ok(&mut again, &mut card, &delete(SECOND));
        assert_eq!(free(&mut again, &mut card), before);
        host = again;
    }
}

#[test]
fn parameters_that_say_nothing_of_room_are_refused() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    let before = free(&mut host, &mut card);
    for (system, expected) in [
        ("C80108", 0x6A80),
        ("C803000008", 0x6A80),
        ("C800", 0x6A80),
        ("D80108", 0x6A80),
        ("C8020100D8020104", 0x6A80),
        ("D702 0000", 0x6A80),
        ("D804 00100000", 0x6A84),
        ("D802 7FFF", 0x6A84),
    ] {
        let answer = host.send(&mut card, &install(SECOND, system));
        assert_eq!(sw(&answer), expected, "{system}");
        assert_eq!(free(&mut host, &mut card), before);
    }
    for system in [
        "C8020100D8020100",
        "D8020100C804000000FF",
        "C804FFFFFFFF",
        "C6020001C7020001",
    ] {
        let expected = if system.starts_with("D8") { 0x6A80 } else { 0x9000 };
        assert_eq!(
            sw(&host.send(&mut card, &install(SECOND, system))),
            expected,
            "{system}"
        );
        if expected == 0x9000 {
            ok(&mut host, &mut card, &delete(SECOND));
        }
    }
    // Where nothing is installed they have no meaning.
    ok(&mut host, &mut card, &install_domain(SD));
    for header in ["80E60800", "80E61000"] {
        let to = if header == "80E60800" { "00".into() } else { lv(SD) };
        let capdu = command(header, &format!("{to} 00 {} 00 06EF04C8020100 00", lv(FIRST)));
        assert_eq!(sw(&host.send(&mut card, &capdu)), 0x6A80, "{header}");
    }
}

/// Everybody else fills what there is; what was kept is there, and goes back to all when its owner goes.
#[test]
fn what_is_reserved_is_there_when_everything_else_is_full() {
    let mut card = boot(made_of(&two(), true));
    let mut host = issuer(&mut card);
    let before = free(&mut host, &mut card);
    ok(&mut host, &mut card, &install(SECOND, "D8020100"));
    let kept = 0x100 - OWN;
    let after = free(&mut host, &mut card);
    assert!(
        before - after >= 0x100,
        "it counts from the moment at which it is reserved"
    );
    select_on(&mut card, (SPI, 0), FIRST);
    select_on(&mut card, (GATE, 0), FIRST);
    assert_eq!(keep(&mut card, GATE, (0xE0, 4), 60), 0x9000);
    let taken = 4 * (HEAD + 60) + fill(&mut card, SPI) + fill(&mut card, GATE);
    assert!(taken <= after && taken + 20 > after, "{taken} of {after}");
    assert!(free(&mut host, &mut card) < 20);
    // As much as was reserved, and not a word more.
    select(&mut card, SECOND);
    assert_eq!(keep(&mut card, CONTACT, (0x10, 3), 60), 0x9000);
    let left = kept - 3 * (HEAD + 60);
    assert!(left < HEAD + 4, "{left}");
    assert_eq!(keep(&mut card, CONTACT, (0x13, 1), 1), 0x6A84);
    assert_eq!(keep(&mut card, CONTACT, (0x10, 1), 60 + left), 0x9000);
    assert_eq!(keep(&mut card, CONTACT, (0x10, 1), 60 + left + 4 + 16), 0x6A84);
    // What it gives back is still its own.
    assert_eq!(keep(&mut card, CONTACT, (0x11, 2), 0), 0x9000);
    assert_eq!(keep(&mut card, GATE, (0xF0, 1), 1), 0x6A84);
    assert_eq!(keep(&mut card, SPI, (0xF0, 1), 1), 0x6A84);
    let mut card = boot(card.into_flash());
    for interface in [GATE, SPI] {
        select_on(&mut card, (interface, 0), FIRST);
        assert_eq!(keep(&mut card, interface, (0xF0, 1), 1), 0x6A84, "after a boot");
        let first = if interface == GATE { 0xE0 } else { 0x10 };
        let again = keep(&mut card, interface, (first, 4), 60);
        assert_eq!(again, 0x9000, "equal size always fits");
    }
    select(&mut card, SECOND);
    assert_eq!(keep(&mut card, CONTACT, (0x11, 2), 60), 0x9000);
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &delete(SECOND));
    assert!(fill(&mut card, SPI) > 200);
}

/// What is asked for is given or refused as a whole, down to the last byte that there is.
#[test]
fn no_more_is_reserved_than_there_is() {
    let mut card = boot(made_of(&two(), true));
    select_on(&mut card, (GATE, 0), FIRST);
    assert_eq!(keep(&mut card, GATE, (0x10, 8), 60), 0x9000);
    let mut host = issuer(&mut card);
    let there = free(&mut host, &mut card);
    let mut asked = there + 8;
    loop {
        let system = format!("D804{asked:08X}");
        if sw(&host.send(&mut card, &install(SECOND, &system))) == 0x9000 {
            break;
        }
        assert_eq!(free(&mut host, &mut card), there, "{asked}");
        asked -= 4;
    }
    // Its entry, its quota, and for the time of the installation what says that it is not whole.
    assert!(there - asked < 150, "{asked} of {there}");
    assert!(free(&mut host, &mut card) < 40);
    select(&mut card, SECOND);
    let taken = fill(&mut card, CONTACT);
    assert!(taken + OWN + HEAD + 4 > asked, "{taken} of {asked}");
}

/// One container takes all that it may; the other has what it had, and all that the first had stays usable.
#[test]
fn a_container_takes_its_own_room_and_none_of_the_others() {
    let roomy = two();
    let profile = Profile {
        container_quota: 6000,
        ..two()
    };
    let mut card = boot_as(made_of(&profile, true), &profile);
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install(SECOND, "C8020200 D8020080"));
    let mut others = try_open(&mut card, (SPI, 0), &keys_of(2)).unwrap();
    let (own, of_others) = (free(&mut host, &mut card), free(&mut others, &mut card));
    assert!(own < 6000 && of_others < 6000);
    select_on(&mut card, (GATE, 0), FIRST);
    let taken = fill(&mut card, GATE);
    assert!(taken <= own && taken + 20 > own, "{taken} of {own}");
    // What is kept for one in it is there, and no byte for anybody else.
    assert!(free(&mut host, &mut card) < 20);
    assert_eq!(sw(&host.send(&mut card, &install_domain(SD))), 0x6A84);
    assert_eq!(sw(&host.send(&mut card, &show(SD))), 0x6A88);
    // Nothing of that is seen from the other one, which can take all that it was told.
    assert_eq!(free(&mut others, &mut card), of_others);
    select_on(&mut card, (SPI, 0), FIRST);
    let taken = fill(&mut card, SPI);
    assert!(
        taken <= of_others && taken + 20 > of_others,
        "{taken} of {of_others}"
    );
    // Both full: what replaces goes, and who is asked to go goes.
    for interface in [GATE, SPI] {
        assert_eq!(keep(&mut card, interface, (0x10, 4), 60), 0x9000);
        assert_eq!(keep(&mut card, interface, (0x10, 1), 60 + 20), 0x6A84);
    }
    select(&mut card, SECOND);
    assert_eq!(keep(&mut card, CONTACT, (0x10, 1), 0x80 - OWN - HEAD), 0x9000);
    assert_eq!(keep(&mut card, CONTACT, (0x11, 1), 1), 0x6A84);
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &lock(FIRST));
    ok(&mut host, &mut card, &unlock(FIRST));
    ok(&mut host, &mut card, &delete(SECOND));
    // A product that gives more, and one that gives less than is there already: all goes on but what grows.
    let flash = card.into_flash();
    let mut card = boot_as(flash.clone(), &roomy);
    select(&mut card, FIRST);
    assert_eq!(keep(&mut card, CONTACT, (0xF0, 1), 60), 0x9000);
    let narrow = Profile {
        container_quota: 1000,
        ..two()
    };
    let mut card = boot_as(flash, &narrow);
    let mut host = issuer(&mut card);
    assert_eq!(free(&mut host, &mut card), 0);
    select(&mut card, FIRST);
    assert_eq!(keep(&mut card, CONTACT, (0x10, 4), 60), 0x9000);
    assert_eq!(keep(&mut card, CONTACT, (0xF0, 1), 1), 0x6A84);
    assert_eq!(keep(&mut card, CONTACT, (0x10, 4), 0), 0x9000);
    assert_eq!(
        keep(&mut card, CONTACT, (0xF0, 1), 1),
        0x6A84,
        "still more than it may have"
    );
}

/// The power is cut at each flash operation of an INSTALL that reserves, and of the DELETE of what it brings: nothing is kept for who is not there, and who is there has his room.
#[test]
fn power_cut_at_every_operation_of_an_install_that_reserves() {
    let (limit, kept) = (0x100, 0x80);
    let capdu = install(SECOND, &format!("C802{limit:04X}D802{kept:04X}"));
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    let without = free(&mut host, &mut card);
    let flash = card.into_flash();
    let mut card = boot(flash.clone());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &capdu);
    let with = free(&mut host, &mut card);
    let installed = card.into_flash();
    let mut seen = BTreeMap::new();
    for (what, flash, capdu) in [
        ("INSTALL", &flash, &capdu),
        ("DELETE", &installed, &delete(SECOND)),
    ] {
        for cut in 0.. {
            let mut flash = flash.clone();
            flash.cut_after(cut, 1);
            let mut card = boot(flash);
            let opened = try_open(&mut card, (CONTACT, 0), &keys_of(1));
            let done = opened.is_ok_and(|mut host| sw(&host.send(&mut card, capdu)) == 0x9000);
            let mut flash = card.into_flash();
            let was_cut = flash.is_off();
            flash.power_on();
            let mut card = boot(flash);
            let is_there = select(&mut card, SECOND) == 0x9000;
            if is_there {
                assert_eq!(
                    keep(&mut card, CONTACT, (0x10, 1), limit - OWN - HEAD + 1),
                    0x6A84
                );
                assert_eq!(keep(&mut card, CONTACT, (0x10, 1), 200), 0x9000);
                assert_eq!(keep(&mut card, CONTACT, (0x10, 1), 0), 0x9000);
            }
            let mut host = issuer(&mut card);
            let expected = if is_there { with } else { without };
            assert_eq!(free(&mut host, &mut card), expected, "{what} cut {cut}");
            *seen.entry((what, done, is_there)).or_insert(0) += 1;
            if !was_cut {
                break;
            }
        }
    }
    println!("{seen:?}");
    let outcomes: Vec<_> = seen.keys().copied().collect();
    assert_eq!(
        outcomes,
        [
            ("DELETE", false, false),
            ("DELETE", false, true),
            ("DELETE", true, false),
            ("INSTALL", false, false),
            ("INSTALL", false, true),
            ("INSTALL", true, true)
        ]
    );
}
