//! Room of the area for bulk by container (docs/spec/content.md, 7): full in one it is not in the other, and what is refused changes nothing.
#![allow(clippy::unwrap_used)] // test support

use sekisho_apdu::StatusWord;
use sekisho_os::{ContainerId, LoadFile, Profile};

use crate::common::ByValue as _;
use crate::common::SeededRng;
use crate::loadable::{AREA, Card, ESE, LOCKER, METER, PAGE, aid, card_of, profile, second};

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
