//! Room of the area for bulk and memory of instances by container (docs/spec/content.md, 7): full in one they are not in the other, and what is refused changes nothing.
#![allow(clippy::unwrap_used)] // test support

use sekisho_apdu::StatusWord;
use sekisho_os::{ContainerId, LoadFile, Profile};

use crate::common::ByValue as _;
use crate::common::{SeededRng, initial_keys};
use crate::loadable::{
    APPLICATION, AREA, Card, ESE, LOCKER, METER, OTHER, PAGE, aid, application, card_of, load, module,
    profile, second,
};

/// Pages of the area for each container: two meters, or a locker and a page.
const PAGES: usize = 4;

fn limited(pages: usize) -> Profile {
    Profile {
        container_area_quota: pages * PAGE + PAGE - 1,
        ..profile()
    }
}

fn boot(card: Card, profile: &Profile) -> Card {
    Card::booted(card.into_flash(), SeededRng(2), profile).unwrap()
}

fn file(number: u8, image: &[u8]) -> LoadFile<'_> {
    LoadFile {
        aid: aid(&[b"\xF0FILE", &[number][..]].concat()),
        module_aid: aid(&[b"\xF0FILE", &[number, 1][..]].concat()),
        version: 1,
        image,
    }
}

/// Refused, and the flash is as it was: no record, no page of the area.
fn is_refused(card: &mut Card, container: ContainerId, file: &LoadFile<'_>) {
    let image = card.flash().image();
    let refused = card.load_file(container, file);
    assert_eq!(refused, Err(StatusWord::NOT_ENOUGH_MEMORY));
    assert_eq!(card.flash().image(), image, "nothing has changed");
}

#[test]
fn a_container_takes_its_part_of_the_area_and_no_page_more() {
    let quota = limited(PAGES);
    let mut card = card_of(&quota);
    assert_eq!((METER.len().div_ceil(PAGE), LOCKER.len().div_ceil(PAGE)), (2, 3));
    card.load_file(ESE, &file(1, METER)).unwrap();
    // Three pages where two are left, though the area has ten and an application may have six.
    is_refused(&mut card, ESE, &file(2, LOCKER));
    card.load_file(ESE, &file(3, METER)).unwrap();
    for round in 0..2 {
        is_refused(&mut card, ESE, &file(4, METER));
        if round == 0 {
            card = boot(card, &quota);
        }
    }
    // The other one has its own part.
    card.load_file(second(), &file(1, LOCKER)).unwrap();
    is_refused(&mut card, second(), &file(2, METER));
    // What goes makes room for who had it.
    card.delete(ESE, &file(1, METER).aid).unwrap();
    is_refused(&mut card, ESE, &file(2, LOCKER));
    is_refused(&mut card, second(), &file(2, METER));
    card.delete(ESE, &file(3, METER).aid).unwrap();
    card.load_file(ESE, &file(2, LOCKER)).unwrap();
    is_refused(&mut card, ESE, &file(1, METER));
    // Who has more than his quota keeps it, and gets no more.
    let mut card = boot(card, &limited(1));
    is_refused(&mut card, second(), &file(2, METER));
    let mut card = boot(card, &limited(AREA));
    card.load_file(second(), &file(2, METER)).unwrap();
}

/// A load file of a page, or of as many bytes more.
fn module_with(bytes: usize) -> Vec<u8> {
    let data = "A".repeat(bytes);
    let memory = format!(r#"(memory (export "memory") 1) (data (i32.const 64) "{data}")"#);
    module(2, &memory, "(call $ok)")
}

/// Half of the sixteen bulks is each container's, whatever the other one has.
#[test]
fn no_container_takes_the_numbers_of_anothers_bulk() {
    let small = module_with(1);
    assert!(small.len() <= PAGE);
    let profile = Profile {
        area_bytes: 20 * PAGE,
        ..limited(10)
    };
    let mut card = card_of(&profile);
    for round in 0..2 {
        for container in [ESE, second()] {
            for number in 1..=8 {
                card.load_file(container, &file(number, &small)).unwrap();
            }
            // Two pages are left, and no number.
            is_refused(&mut card, container, &file(9, &small));
        }
        if round == 0 {
            card = boot(card, &profile);
            for number in 1..=8 {
                card.delete(ESE, &file(number, &small).aid).unwrap();
            }
            is_refused(&mut card, second(), &file(9, &small));
            for number in 1..=8 {
                card.delete(second(), &file(number, &small).aid).unwrap();
            }
        }
    }
}

/// What one container has stands between nothing of another's, so that all that it may have fits in one piece.
#[test]
fn no_container_leaves_gaps_in_what_is_anothers() {
    let large = module_with(5 * PAGE);
    assert_eq!(large.len().div_ceil(PAGE), 6);
    let mut card = card_of(&limited(6));
    // Side by side, first come first served, these would be 2, 3 and 2 pages, of which the last would stay in the middle of twelve.
    card.load_file(second(), &file(1, METER)).unwrap();
    card.load_file(ESE, &file(1, LOCKER)).unwrap();
    card.load_file(ESE, &file(2, METER)).unwrap();
    card.delete(ESE, &file(1, LOCKER).aid).unwrap();
    card.delete(second(), &file(1, METER).aid).unwrap();
    card.load_file(second(), &file(3, &large)).unwrap();
    is_refused(&mut card, second(), &file(4, METER));
    card.load_file(ESE, &file(5, LOCKER)).unwrap();
}

/// Memory of instances: three of loaded applications and six of domains in two containers. Each has a part, and what is over is whose comes first.
#[test]
fn no_container_takes_the_memory_of_anothers_applications() {
    let is_full = Err(StatusWord::NOT_ENOUGH_MEMORY);
    let third: &[u8] = b"\xF0LOADED\x03";
    let mut card = card_of(&profile());
    for container in [ESE, second()] {
        load(&mut card, container, METER, &[]);
    }
    for name in [APPLICATION, OTHER] {
        card.install(ESE, &application(name)).unwrap();
    }
    assert_eq!(card.install(ESE, &application(third)), is_full);
    let mut card = boot(card, &profile());
    assert_eq!(card.install(ESE, &application(third)), is_full);
    card.install(second(), &application(OTHER)).unwrap();
    assert_eq!(card.install(second(), &application(third)), is_full);
    for name in [APPLICATION, OTHER] {
        card.delete(ESE, &aid(name)).unwrap();
    }
    card.install(second(), &application(third)).unwrap();
    assert_eq!(card.install(second(), &application(APPLICATION)), is_full);
    // The file has gone with the last that came from it.
    load(&mut card, ESE, METER, &[third]);
    // Security domains, the roots among them.
    let keys = initial_keys();
    let domain = |number: u8| aid(&[0xF0, b'D', number, 0xD0, 0]);
    let mut install = |container, number| {
        let file = aid(&[0xF0, b'D', number, 0xF1, 0]);
        card.install_domain(container, domain(number), file, (0x30, &keys))
    };
    for container in [ESE, second()] {
        assert_eq!([install(container, 1), install(container, 2)], [Ok(()); 2]);
        assert_eq!(install(container, 3), is_full);
    }
    card.delete(ESE, &domain(1)).unwrap();
    let file = aid(b"\xF0D\x04\xF1\x00");
    let fourth = card.install_domain(second(), domain(4), file, (0x30, &keys));
    assert_eq!(fourth, is_full, "that place is the first one's");
}
