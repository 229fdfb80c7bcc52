//! Applications whose code is loaded (`docs/spec/applications.md`): modules in the area for bulk, several in one SE, in two containers, with power cuts, damage and ill will.
#![cfg(feature = "os-part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)] // test support

use crate::common;
use crate::loadable;

use std::collections::BTreeMap;

use common::ByValue as _;
use common::{SeededRng, sw};
use loadable::{
    APPLICATION, AREA, BEFORE, Card, ESE, FILE, FIRST, LOCKER, METER, MODULE, OTHER, PAGE, SECOND, aid,
    application, ask, boot, card, count, file, load, module, profile, second, select,
};
use sekisho_apdu::StatusWord;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{FactoryApplication, LoadFile, Module, Profile};

const PAGES: std::ops::Range<usize> = 0..BEFORE + AREA;

/// Commands of the meter, of the page.
const VERSION: u8 = 0x10;
const READ: u8 = 0x20;
const ADD: u8 = 0x22;

fn register(card: &mut Card, interface: sekisho_os::Interface, aid: &[u8]) -> u32 {
    assert_eq!(select(card, interface, aid), 0x9000);
    let answer = ask(card, interface, READ, &[]);
    assert_eq!(sw(&answer), 0x9000);
    u32::from_be_bytes(answer[..4].try_into().unwrap())
}

#[test]
fn instances_of_one_module_in_two_containers_know_nothing_of_each_other() {
    let mut card = card();
    load(&mut card, ESE, METER, &[APPLICATION, OTHER]);
    load(&mut card, second(), METER, &[APPLICATION]);
    let all = [(FIRST, APPLICATION), (FIRST, OTHER), (SECOND, APPLICATION)];
    for _ in 0..2 {
        let before = all.map(|(interface, aid)| register(&mut card, interface, aid));
        for (n, (interface, aid)) in (1_u16..).zip(all) {
            assert_eq!(select(&mut card, interface, aid), 0x9000);
            assert_eq!(sw(&ask(&mut card, interface, ADD, &n.to_be_bytes())), 0x9000);
        }
        let after = all.map(|(interface, aid)| register(&mut card, interface, aid));
        assert_eq!(after, [before[0] + 1, before[1] + 2, before[2] + 3]);
        card = boot(card);
    }
    assert_eq!(
        ask(&mut card, FIRST, VERSION, &[]),
        [0x6D, 0x00],
        "not selected after a boot"
    );
    assert_eq!(select(&mut card, FIRST, APPLICATION), 0x9000);
    assert_eq!(ask(&mut card, FIRST, VERSION, &[]), [0, 0, 0, 7, 0x90, 0x00]);
    // Neither is the OS part, of which there is none.
    assert_eq!(select(&mut card, FIRST, b"\xF0SKOS\x00\x01"), 0x9000);
    assert_eq!(sw(&ask(&mut card, FIRST, READ, &[])), 0x6D00);
}

/// What lasts for a session belongs to the instance too: one locker is open, the other is not.
#[test]
fn a_session_of_one_instance_is_not_the_others() {
    let mut card = card();
    load(&mut card, ESE, LOCKER, &[APPLICATION]);
    load(&mut card, second(), LOCKER, &[APPLICATION]);
    for interface in [FIRST, SECOND] {
        select(&mut card, interface, APPLICATION);
        assert_eq!(sw(&ask(&mut card, interface, 0x24, b"1234")), 0x9000);
    }
    assert_eq!(sw(&ask(&mut card, FIRST, 0x20, b"1234")), 0x9000);
    assert_eq!(sw(&ask(&mut card, FIRST, 0x30, b"things")), 0x9000);
    assert_eq!(sw(&ask(&mut card, SECOND, 0x32, &[])), 0x6982);
    assert_eq!(sw(&ask(&mut card, SECOND, 0x20, b"1234")), 0x9000);
    assert_eq!(
        sw(&ask(&mut card, SECOND, 0x32, &[])),
        0x6A88,
        "open, and nothing is in it"
    );
    assert_eq!(ask(&mut card, FIRST, 0x32, &[]), b"things\x90\x00");
    card.delete(ESE, &aid(APPLICATION)).unwrap();
    assert_eq!(sw(&ask(&mut card, SECOND, 0x32, &[])), 0x6A88);
    // Who comes after it has nothing of it.
    load(&mut card, ESE, LOCKER, &[APPLICATION]);
    select(&mut card, FIRST, APPLICATION);
    assert_eq!(sw(&ask(&mut card, FIRST, 0x32, &[])), 0x6982);
    assert_eq!(sw(&ask(&mut card, FIRST, 0x20, b"1234")), 0x6A88, "nor its code");
}

/// The byte of the flash at which an image begins.
fn place_of(flash: &RamFlash, image: &[u8]) -> usize {
    let all = flash.image();
    let found = (0..all.len())
        .step_by(PAGE)
        .find(|at| all[*at..].starts_with(image));
    found.unwrap()
}

#[test]
fn a_damaged_image_is_refused_and_the_rest_of_the_card_lives() {
    let mut card = card();
    load(&mut card, ESE, METER, &[APPLICATION]);
    load(&mut card, second(), METER, &[APPLICATION]);
    register(&mut card, FIRST, APPLICATION);
    ask(&mut card, FIRST, ADD, &[0, 9]);
    let whole = card.into_flash().image();
    let at = place_of(&RamFlash::from_image(PAGE, &whole), METER);
    for offset in (0..METER.len()).step_by(37).chain([METER.len() - 1]) {
        let mut image = whole.clone();
        image[at + offset] ^= 1 << (offset % 8);
        let flash = RamFlash::from_image(PAGE, &image);
        let mut card = Card::booted(flash, SeededRng(3), &profile()).unwrap();
        assert_eq!(select(&mut card, FIRST, APPLICATION), 0x6400, "byte {offset}");
        assert_eq!(
            sw(&ask(&mut card, FIRST, READ, &[])),
            0x6D00,
            "the security domain is selected"
        );
        assert_eq!(register(&mut card, SECOND, APPLICATION), 0);
        assert_eq!(select(&mut card, FIRST, b"\xF0SKOS\x00\x01"), 0x9000);
        // It can be deleted and loaded again.
        card.delete(ESE, &aid(APPLICATION)).unwrap();
        load(&mut card, ESE, METER, &[APPLICATION]);
        assert_eq!(register(&mut card, FIRST, APPLICATION), 0);
    }
}

/// A module with a mark in its image, which puts another mark into a record.
fn marked() -> Vec<u8> {
    let memory = format!(
        r#"(memory (export "memory") 1) (data (i32.const 2000) "{}")"#,
        "IMAGE:".repeat(280)
    );
    let body = r"(i32.store (i32.const 8) (i32.const 0x4B52414D)) (i32.store (i32.const 12) (i32.const 0x21212121))
        (drop (call $put (i32.const 3) (i32.const 8) (i32.const 8))) (call $ok)";
    module(2, &memory, body)
}

fn marks(flash: &RamFlash) -> (usize, usize) {
    (count(flash, b"IMAGE:", PAGES), count(flash, b"MARK!!!!", PAGES))
}

#[test]
fn what_is_deleted_is_wiped_the_image_and_the_records() {
    let mut card = card();
    let image = marked();
    load(&mut card, ESE, &image, &[APPLICATION, OTHER]);
    for aid in [APPLICATION, OTHER] {
        select(&mut card, FIRST, aid);
        assert_eq!(sw(&ask(&mut card, FIRST, 0x10, &[])), 0x9000);
    }
    let (images, records) = marks(card.flash());
    assert!(images >= 279 && records >= 2, "{images} {records}");
    assert_eq!(card.delete(ESE, &aid(FILE)), Err(StatusWord(0x6985)), "in use");
    card.delete(ESE, &aid(APPLICATION)).unwrap();
    let (left, its) = marks(card.flash());
    assert_eq!((left, its > 0), (images, true), "the other one's");
    select(&mut card, FIRST, OTHER);
    assert_eq!(sw(&ask(&mut card, FIRST, 0x10, &[])), 0x9000);
    card.delete(ESE, &aid(OTHER)).unwrap();
    assert_eq!(marks(card.flash()), (0, 0));
    // A load file from which nothing has been installed.
    card.load_file(ESE, &file(&image)).unwrap();
    assert!(marks(card.flash()).0 >= 279);
    card.delete(ESE, &aid(FILE)).unwrap();
    assert_eq!(marks(card.flash()), (0, 0));
    assert_eq!(card.delete(ESE, &aid(FILE)), Err(StatusWord(0x6A88)));
}

/// Runs `work` with the power cut at each flash operation, and again while the SE recovers: what is there afterwards, and that nothing of what is not there is in the flash.
fn cut_everywhere(name: &str, before: &Card, wanted: &[(bool, Is)], work: impl Fn(&mut Card) -> bool) {
    let mut seen = BTreeMap::<(bool, Is), usize>::new();
    for seed in 0..3 {
        for cut in 0.. {
            let mut flash = before.flash().clone();
            flash.cut_after(cut, 1000 * seed + cut);
            let Ok(mut card) = Card::booted(flash, SeededRng(3), &profile()) else {
                continue;
            };
            let done = work(&mut card);
            let was_cut = card.flash().is_off();
            let mut flash = card.into_flash();
            if was_cut {
                flash.power_on();
                flash.cut_after(cut % 5, seed + cut);
                flash = match Card::booted(flash, SeededRng(4), &profile()) {
                    Ok(card) => card.into_flash(),
                    Err(failure) => failure.flash,
                };
            }
            flash.power_on();
            let mut card = Card::booted(flash, SeededRng(4), &profile()).unwrap();
            let is = state(&mut card);
            assert_eq!(
                register(&mut card, SECOND, APPLICATION),
                5,
                "{name}, cut {cut}, seed {seed}"
            );
            *seen.entry((done, is)).or_default() += 1;
            if !was_cut {
                break;
            }
        }
    }
    println!("{name}: {seen:?}");
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), wanted, "{name}");
}

/// What there is of the marked module in the first container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Is {
    Nothing,
    File,
    Application,
}

fn state(card: &mut Card) -> Is {
    let selected = select(card, FIRST, APPLICATION);
    let (images, records) = marks(card.flash());
    match (selected, images) {
        (0x9000, 280) => {
            assert_eq!(sw(&ask(card, FIRST, 0x10, &[])), 0x9000);
            Is::Application
        }
        (0x6A82, 280) => {
            assert_eq!(records, 0);
            card.install(ESE, &application(APPLICATION)).unwrap();
            assert_eq!(select(card, FIRST, APPLICATION), 0x9000);
            Is::File
        }
        (0x6A82, 0) => {
            assert_eq!(records, 0);
            assert_eq!(
                card.load_file(ESE, &file(&marked())),
                Ok(()),
                "its room is there again"
            );
            Is::Nothing
        }
        other => panic!("neither whole nor gone: {other:04X?}"),
    }
}

#[test]
fn power_cut_at_every_operation_of_loading_installing_and_deleting() {
    let mut card = card();
    load(&mut card, second(), METER, &[APPLICATION]);
    register(&mut card, SECOND, APPLICATION);
    ask(&mut card, SECOND, ADD, &[0, 5]);
    let image = marked();
    let went = |before, after| [(false, before), (false, after), (true, after)];
    cut_everywhere("loading", &card, &went(Is::Nothing, Is::File), |card| {
        card.load_file(ESE, &file(&image)).is_ok()
    });
    card.load_file(ESE, &file(&image)).unwrap();
    cut_everywhere("deleting a load file", &card, &back(Is::File), |card| {
        card.delete(ESE, &aid(FILE)).is_ok()
    });
    cut_everywhere("installing", &card, &went(Is::File, Is::Application), |card| {
        card.install(ESE, &application(APPLICATION)).is_ok()
    });
    card.install(ESE, &application(APPLICATION)).unwrap();
    select(&mut card, FIRST, APPLICATION);
    assert_eq!(sw(&ask(&mut card, FIRST, 0x10, &[])), 0x9000);
    cut_everywhere("deleting an application", &card, &back(Is::Application), |card| {
        card.delete(ESE, &aid(APPLICATION)).is_ok()
    });
}

fn back(before: Is) -> [(bool, Is); 3] {
    [(false, Is::Nothing), (false, before), (true, Is::Nothing)]
}

const PUT: &str = "(drop (call $put (i32.const 0) (i32.const 0) (i32.const 4)))";

/// A module from a bad author: what it does is a status word of its own application, and everything else goes on.
#[test]
fn what_a_module_does_wrong_is_6f00_and_nobody_elses_affair() {
    let grows = "(if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then (loop $l (br $l))))";
    for (what, body) in [
        ("endless loop", "(loop $l (br $l)) (call $ok)"),
        ("endless recursion", "(call $process (local.get 0))"),
        ("trap", "unreachable"),
        (
            "memory that grows, and then a trap",
            &*format!("{grows} unreachable"),
        ),
        ("huge answer", "(i32.const 1025)"),
        ("hugest answer", "(i32.const -1)"),
        ("no answer", "(i32.const 1)"),
        (
            "an address outside",
            "(drop (call $put (i32.const 1) (i32.const -1) (i32.const 200))) (call $ok)",
        ),
        (
            "an address outside to read to",
            "(drop (call $get (i32.const 0) (i32.const 65535) (i32.const 200))) (call $ok)",
        ),
        (
            "a random one",
            "(drop (call $random (i32.const 0x7FFFFFFF) (i32.const 64))) (call $ok)",
        ),
        (
            "the SE's own words",
            "(i32.store16 (i32.const 0) (i32.const 0x8165)) (i32.const 2)",
        ),
    ] {
        let image = module(2, r#"(memory (export "memory") 1)"#, &format!("{PUT} {body}"));
        let mut card = card();
        load(&mut card, second(), METER, &[APPLICATION]);
        load(&mut card, ESE, &image, &[APPLICATION]);
        select(&mut card, FIRST, APPLICATION);
        let before = card.flash().image();
        for _ in 0..2 {
            assert_eq!(ask(&mut card, FIRST, 0x10, &[]), [0x6F, 0x00], "{what}");
        }
        assert!(card.flash().image() == before, "{what}: it has written");
        register(&mut card, SECOND, APPLICATION);
        assert_eq!(sw(&ask(&mut card, SECOND, ADD, &[0, 1])), 0x9000);
        assert_eq!(select(&mut card, FIRST, &[]), 0x9000);
    }
}

#[test]
fn what_does_not_run_here_is_not_loaded_and_leaves_nothing() {
    let mut card = card();
    let before = card.flash().image();
    let memory = r#"(memory (export "memory") 1)"#;
    let large = r#"(memory (export "memory") 9)"#;
    let mut cut = marked();
    cut.truncate(1000);
    for (what, image, refused) in [
        ("nothing", vec![], 0x6A80),
        ("no module", b"IMAGE:".repeat(100), 0x9505),
        ("one that is cut short", cut, 0x9505),
        (
            "more memory than there is",
            module(2, large, "(call $ok)"),
            0x9505,
        ),
        ("an older ABI", module(1, memory, "(call $ok)"), 0x9505),
        ("no memory", module(2, "(memory 1)", "(call $ok)"), 0x9505),
        ("longer than the quota", vec![0; 7 * PAGE], 0x6A84),
    ] {
        let loaded = card.load_file(ESE, &file(&image));
        assert_eq!(loaded, Err(StatusWord(refused)), "{what}");
        assert_eq!(marks(card.flash()), (0, 0), "{what}");
        assert_eq!(
            card.install(ESE, &application(APPLICATION)),
            Err(StatusWord(0x6A88)),
            "{what}"
        );
    }
    let area = BEFORE * PAGE..;
    assert!(card.flash().image()[area.clone()] == before[area], "wiped");
    load(&mut card, ESE, METER, &[APPLICATION]);
}

#[test]
fn what_has_no_room_is_a_status_word() {
    let mut card = card();
    let is = |n| Err(StatusWord(n));
    load(&mut card, ESE, METER, &[APPLICATION]);
    let other_file = |aid: &'static [u8]| LoadFile {
        aid: loadable::aid(aid),
        ..file(METER)
    };
    assert_eq!(card.load_file(ESE, &file(METER)), is(0x6A80), "it is there");
    assert_eq!(card.load_file(ESE, &other_file(APPLICATION)), is(0x6A80));
    assert_eq!(card.install(ESE, &application(FILE)), is(0x6A80));
    assert_eq!(card.install(ESE, &application(APPLICATION)), is(0x6A80));
    assert_eq!(
        card.install(second(), &application(APPLICATION)),
        is(0x6A88),
        "another container's"
    );
    // A file that came with the operating system has no code to be installed; code that is loaded is nobody else's.
    let of = |module, load_file: &[u8]| FactoryApplication {
        module,
        load_file: aid(load_file),
        ..application(OTHER)
    };
    assert_eq!(
        card.install(ESE, &of(Module::LOADED, b"\xF0SKOS\x00")),
        is(0x6A80)
    );
    assert_eq!(card.install(ESE, &of(Module::SEC_APP, FILE)), is(0x6A80));
    assert_eq!(card.install(ESE, &of(Module::LOADED, MODULE)), is(0x6A88));
    // Memory for three instances.
    card.install(ESE, &application(OTHER)).unwrap();
    load(&mut card, second(), METER, &[APPLICATION]);
    assert_eq!(card.install(second(), &application(OTHER)), is(0x6A84));
    card.delete(ESE, &aid(OTHER)).unwrap();
    card.install(second(), &application(OTHER)).unwrap();
    // As many files as the area takes.
    let mut loaded = 0;
    let refused = loop {
        let name = [0xF0, 0x46, 0x49, 0x4C, 0x45, loaded];
        let result = card.load_file(
            second(),
            &LoadFile {
                aid: aid(&name),
                ..file(METER)
            },
        );
        match result {
            Ok(()) => loaded += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!((loaded > 2, refused), (true, StatusWord(0x6A84)));
    assert_eq!(register(&mut card, FIRST, APPLICATION), 0);
    // A product without an area.
    let none = Profile {
        area_bytes: 0,
        ..profile()
    };
    let flash = loadable::card().into_flash();
    let mut card = Card::booted(flash, SeededRng(2), &none).unwrap();
    assert_eq!(card.load_file(ESE, &file(METER)), is(0x6A84));
}

/// The RAM that a command needs is there at each command or it is refused, and comes back.
#[test]
fn too_little_ram_is_6a84() {
    let mut card = card();
    load(&mut card, ESE, METER, &[APPLICATION]);
    let size = size_of::<Card>();
    for (left, expected) in [(0, 0x6A84), (8 * 1024, 0x6A84), (64 * 1024, 0x9000)] {
        let little = Profile {
            ram: size + left,
            ..profile()
        };
        card = Card::booted(card.into_flash(), SeededRng(2), &little).unwrap();
        assert_eq!(select(&mut card, FIRST, APPLICATION), 0x9000);
        assert_eq!(sw(&ask(&mut card, FIRST, READ, &[])), expected);
    }
}
