//! The tables of the specification pages that say what is answered in which state, walked on cards made as the page says.

#![allow(clippy::unwrap_used, clippy::panic)] // test support

use crate::common;

use common::ByValue as _;
use common::files::{Reader, select_on};
use common::filing::FilingBench;
use common::issuer::{IssuerBench, made_by};
use common::messaging::MessagingBench;
use common::poller::{self, PollerBench};
use common::tables::{Page, Walker, check_page};
use common::{Card, SeededRng, profile, send};
use sekisho_applets::file_system::image::Image;
use sekisho_keys::{AesKey, kdf_label};
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::{Mode, Policy};
use sekisho_os::{COMMAND_DATA_MAX, Interface, Profile, RESPONSE_DATA_MAX};

const BROADCAST_UPDATE: Page = Page::new(include_str!("../../../../docs/spec/broadcast-update.md"));
const SECAPP: Page = Page::with_blocks_of(
    include_str!("../../../../docs/spec/secapp.md"),
    include_str!("../../../../docs/spec/paging.md"),
);
const FILES: Page = Page::new(include_str!("../../../../docs/spec/file-system-applet.md"));
const MESSAGING: Page = Page::new(include_str!("../../../../docs/spec/rolling-secure-messaging.md"));
const CARD: Page = Page::with_blocks_of(
    include_str!("../../../../docs/spec/card.md"),
    include_str!("../../../../docs/spec/broadcast-update.md"),
);

const CONTENT: Page = Page::with_blocks_of(
    include_str!("../../../../docs/spec/content.md"),
    include_str!("../../../../docs/spec/broadcast-update.md"),
);

const KEYS: Page = Page::with_blocks_of(
    include_str!("../../../../docs/spec/keys.md"),
    include_str!("../../../../docs/spec/broadcast-update.md"),
);

/// New cards by the words of the column *from*.
fn new_cards(page: Page) -> impl Fn(&str) -> IssuerBench {
    let made = [0, 0x61, 0x62, 0x63].map(|without| (without, made_by(page, without).into_flash()));
    move |kind| {
        let without = kind.strip_prefix("a new SE without key version ");
        let without = without.map_or(0, |digits| u8::from_str_radix(digits, 16).unwrap());
        let (_, flash) = made.iter().find(|(w, _)| *w == without).unwrap();
        let mut flash = flash.clone();
        match kind {
            "a new SE" => {}
            "a new SE whose flash fails" => flash.cut_after(0, 1),
            _ => assert_ne!(without, 0, "what is {kind:?}?"),
        }
        IssuerBench::new(page, flash)
    }
}

/// Every command of the broadcast update in every state (broadcast-update.md, section 7).
#[test]
fn broadcast_update() {
    check_page(
        BROADCAST_UPDATE,
        "broadcast-update.md",
        &new_cards(BROADCAST_UPDATE),
    );
}

/// Every command of SecApp in every state (secapp.md, section 5).
#[test]
fn sec_app() {
    let made = poller::made_by(SECAPP, "uid1", true);
    let moved = poller::made_by(SECAPP, "uid3", true);
    let blank = poller::made_by(SECAPP, "uid1", false);
    let page = SECAPP;
    let nonces: Vec<u8> = (1..=12).collect();
    let recovery: Vec<u8> = (0x40..=0x4F).collect();
    check_page(page, "secapp.md", &|kind| match kind {
        "a new SE" => PollerBench::new(page, made.clone(), &nonces),
        "a new SE at UID3" => PollerBench::new(page, moved.clone(), &recovery),
        "a new SE whose SecApp is not personalised" => PollerBench::new(page, blank.clone(), &[]),
        "a new SE whose flash fails" => {
            let mut flash = made.clone();
            flash.cut_after(0, 1);
            PollerBench::new(page, flash, &nonces)
        }
        _ => panic!("what is {kind:?}?"),
    });
}

/// Every command of the file system in every state (file-system-applet.md, section 7).
#[test]
fn file_system() {
    let flash = common::files::card().into_flash();
    check_page(FILES, "file-system-applet.md", &|_| {
        let card = Card::booted(flash.clone(), SeededRng(3), &profile());
        FilingBench::new(card.unwrap())
    });
}

/// The opening and every protected command in every state (rolling-secure-messaging.md, section 7).
#[test]
fn messaging() {
    let every_mode = common::files::card().into_flash();
    let ratchet = common::files::card_on(common::flash(), &profile(), Policy::new()).into_flash();
    // The MF alone.
    let image = Image::new(b"\x62\x0D\x82\x01\x38\x83\x02\x3F\x00\x8C\x04\x07\x21\x21\x21").unwrap();
    let keyless = common::files::card_with(common::flash(), &image).into_flash();
    check_page(MESSAGING, "rolling-secure-messaging.md", &|kind| {
        let flash = match kind {
            "the test card" | "the test card, where two channels have sessions" => &every_mode,
            "a card of the ratchet alone" => &ratchet,
            "a card without MKEY" => &keyless,
            _ => panic!("what is {kind:?}?"),
        };
        let mut card = Card::booted(flash.clone(), SeededRng(3), &profile()).unwrap();
        if kind.ends_with("sessions") {
            for channel in 1..3 {
                let place = (Interface::Iso7816Contact, channel);
                send(&mut card, &[0x00, 0x70, 0x00, 0x00, 0x01]);
                select_on(&mut card, place.0, channel);
                let mut reader = Reader::open_on(&mut card, place, Mode::Fixed, Lanes::Shared, 0).unwrap();
                let read = reader.send(&mut card, &[channel, 0xB0, 0x81, 0x00, 0x04]);
                assert!(read.ends_with(&[0x90, 0x00]), "{read:02X?}");
            }
        }
        MessagingBench::new(card)
    });
}

/// GET RESPONSE in every state (card.md, section 7).
#[test]
fn card() {
    check_page(CARD, "card.md", &new_cards(CARD));
}

/// PUT KEY and DELETE in every state (keys.md, section 6).
#[test]
fn keys() {
    check_page(KEYS, "keys.md", &new_cards(KEYS));
}

/// INSTALL, DELETE, SET STATUS and GET STATUS in every state (content.md, section 6).
#[test]
fn content() {
    check_page(CONTENT, "content.md", &new_cards(CONTENT));
}

/// A status word that the page does not say, and a state that does not follow, are found.
#[test]
fn one_changed_word_is_found() {
    let page = BROADCAST_UPDATE.text;
    for (said, changed) in [
        (
            "| 9504 none | 9504 none | 9000 returned |",
            "| 9504 none | 9504 none | 9000 open 33 |",
        ),
        ("| 9501 none | 9504 none |", "| 9502 none | 9504 none |"),
        ("| 9503 | integrity", "| 9507 | integrity"),
    ] {
        assert!(page.contains(said), "the page does not say {said}");
        let changed = Page::new(Box::leak(page.replacen(said, changed, 1).into_boxed_str()));
        let new = new_cards(changed);
        let walk = std::panic::AssertUnwindSafe(|| check_page(changed, "changed on purpose", &new));
        assert!(std::panic::catch_unwind(walk).is_err(), "{said} may say anything");
    }
}

/// `K_INT` of custody 03 is in NVM from block 0 on (section 2.2), and nowhere in the flash when what is staged has been discarded.
#[test]
fn the_integrity_key_is_kept_and_wiped() {
    let page = BROADCAST_UPDATE;
    let mut k_int = [0; 16];
    let bk_mac = AesKey::new(&page.block("bk-mac-03")).unwrap();
    kdf_label(&bk_mac, b"SK integrity", &page.block("package-id"), &mut k_int);
    let is_there = |bench: &IssuerBench| bench.flash().windows(16).any(|bytes| bytes == k_int);
    let new = new_cards(page);
    let walker = Walker::new(page, &new);
    let mut bench = walker.enter("broadcast 03");
    assert!(!is_there(&bench), "before block 0");
    for (command, is_kept) in [
        ("P_SE 0 of custody 03", true),
        ("POWER", true),
        ("INITIALIZE UPDATE", true),
        ("AUTHENTICATE 33", true),
        ("DISCARD", false),
    ] {
        let answer = walker.send(&mut bench, command);
        assert!(answer.ends_with(&[0x90, 0x00]), "{command}: {answer:02X?}");
        assert_eq!(is_there(&bench), is_kept, "after {command}");
    }
}

/// The sizes of section 8.3 that are the SE's.
#[test]
fn sizes() {
    let profile = Profile::default();
    for (what, size) in [
        ("data field of a command of the SE", COMMAND_DATA_MAX),
        ("data field of an answer of the SE", RESPONSE_DATA_MAX),
        ("slot of the OS part", profile.slot_bytes),
    ] {
        let mut lines = BROADCAST_UPDATE.text.lines();
        let line = lines.find(|line| line.strip_prefix("| ").is_some_and(|line| line.starts_with(what)));
        let said = line.unwrap().trim_end_matches(" |").rsplit(' ').next().unwrap();
        assert_eq!(said.replace(',', ""), size.to_string(), "{what}");
    }
}
