//! The file system and the power: a cut at each flash operation leaves the state before or the state after.
#![allow(clippy::unwrap_used, clippy::panic, clippy::result_large_err)]
#![allow(clippy::print_stdout, reason = "says how much it has tried")]

use crate::common;

use common::ByValue as _;
use common::files::{
    self, Reader, append, authenticate, in_the_first_layout, made_of, never_in_the_clear, plain, select,
};
use common::{Card, SeededRng, send};
use sekisho_applets::file_system::image::{Image, ROOT, test_key};
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::{Mode, Policy};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Interface, Profile};

const CONTACT: Interface = Interface::Iso7816Contact;

const PAGE: usize = 1024;

fn small_profile() -> Profile {
    Profile {
        store_bytes: 12 * PAGE,
        slot_bytes: 2 * PAGE,
        ..Profile::default()
    }
}

fn boot(flash: RamFlash) -> Result<Card, RamFlash> {
    let mut card = Card::booted(flash, SeededRng(3), &small_profile()).map_err(|failure| failure.flash)?;
    select(&mut card, CONTACT);
    Ok(card)
}

/// The card after a cut, with further cuts while it starts.
fn recover(card: Card, seed: u64) -> Card {
    let mut flash = card.into_flash();
    for cut in 0.. {
        flash.power_on();
        flash.cut_after(cut, seed);
        let started = Card::booted(flash, SeededRng(3), &small_profile());
        flash = started.map_or_else(|failure| failure.flash, Card::into_flash);
        if !flash.is_off() {
            break;
        }
    }
    flash.power_on();
    boot(flash).unwrap_or_else(|_| panic!("the card does not start"))
}

fn made() -> RamFlash {
    files::card_on(RamFlash::strict(PAGE, 16), &small_profile(), Policy::every_mode()).into_flash()
}

/// Cuts the power at each flash operation of `action`: what is there afterwards is the state before or the state after.
fn sweep(
    name: &str,
    prepare: impl Fn(&mut Card),
    action: impl Fn(&mut Card),
    see: impl Fn(&mut Card) -> String,
) {
    sweep_on(made(), name, prepare, action, see);
}

/// The same with a card that has been made otherwise.
fn sweep_on(
    made: RamFlash,
    name: &str,
    prepare: impl Fn(&mut Card),
    action: impl Fn(&mut Card),
    see: impl Fn(&mut Card) -> String,
) {
    let mut ready = boot(made).unwrap_or_else(|_| panic!("the card does not start"));
    prepare(&mut ready);
    let ready = ready.into_flash();
    let mut whole = boot(ready.clone()).unwrap_or_else(|_| panic!("the card does not start"));
    let before = see(&mut whole);
    try_authenticate(&mut whole);
    action(&mut whole);
    let after = see(&mut whole);
    assert_ne!(before, after, "{name}");
    let mut seen = [0, 0];
    for seed in 0..4 {
        for cut in 0.. {
            let mut flash = ready.clone();
            flash.cut_after(cut, seed);
            let mut card = boot(flash).unwrap_or_else(|_| panic!("starting a tidy card writes nothing"));
            try_authenticate(&mut card);
            action(&mut card);
            let is_whole = !card.flash().is_off();
            let mut card = recover(card, seed);
            let found = see(&mut card);
            let which = [&before, &after].iter().position(|state| **state == found);
            let which = which.unwrap_or_else(|| panic!("{name}: cut {cut} seed {seed}: {found}"));
            seen[which] += 1;
            if is_whole {
                break;
            }
        }
    }
    println!("{name}: {} cuts before, {} after", seen[0], seen[1]);
    assert!(seen[0] > 0 && seen[1] > 0, "{name}: {seen:?}");
}

/// Proves key EXTERNAL 1, unless the power goes.
fn try_authenticate(card: &mut Card) {
    if let Ok(challenge) = plain(card, CONTACT, &[0x00, 0x84, 0, 0, 16]) {
        let external = common::key(&test_key::EXTERNAL);
        let mac = sekisho_keys::cmac(&external, &[&challenge]);
        send(card, &[&[0x00, 0x82, 0x00, 0x01, 16][..], &mac].concat());
    }
}

fn quiet(card: &mut Card, capdu: &str) {
    send(card, &hex::decode(capdu).unwrap());
}

fn shown(card: &mut Card, capdus: &[&str]) -> String {
    card.reset(CONTACT);
    select(card, CONTACT);
    capdus
        .iter()
        .map(|capdu| hex::encode(send(card, &hex::decode(capdu).unwrap())) + " ")
        .collect()
}

/// Whether the PIN is the old one; it is that or the new one.
fn which_pin(card: &mut Card) -> String {
    let with = |card: &mut Card, pin: &str| shown(card, &[&format!("0020000104{pin}")]) == "9000 ";
    let (old, new) = (with(card, "31323334"), with(card, "35353535"));
    is_old("PIN", old, new)
}

#[test]
fn power_cuts_at_every_write() {
    // A free file of 300 bytes, over three records of NVM.
    let long = |card: &mut Card| {
        authenticate(card, CONTACT);
        quiet(card, "00E000001762158002012C82020121830240018801308C0407000000");
    };
    let write = format!("00D6867800{:04X}{}", 180, "A5".repeat(180));
    let read = ["00B0860000012C"];
    sweep(
        "UPDATE BINARY",
        long,
        |card| quiet(card, &write),
        |card| shown(card, &read),
    );

    let cyclic = |card: &mut Card| {
        authenticate(card, CONTACT);
        quiet(
            card,
            "00E000001662148205062100020383024005880130 8C0407000000"
                .replace(' ', "")
                .as_str(),
        );
        quiet(card, "00E20030020101");
        quiet(card, "00E20030020202");
        quiet(card, "00E20030020303");
    };
    let records = ["00B2013400", "00B2023400", "00B2033400", "00B2043400"];
    sweep(
        "APPEND RECORD",
        cyclic,
        |card| quiet(card, "00E20030020404"),
        |card| shown(card, &records),
    );
    sweep(
        "UPDATE RECORD",
        cyclic,
        |card| quiet(card, "00DC0234020909"),
        |card| shown(card, &records),
    );

    let create = "00E000001762158002000A82020101830240018801308C0407000000";
    let there = ["00A40004024001", "00B0860000"];
    let nothing = |_: &mut Card| {};
    sweep(
        "CREATE FILE",
        nothing,
        |card| quiet(card, create),
        |card| shown(card, &there),
    );
    sweep(
        "DELETE FILE",
        long,
        |card| quiet(card, "00E40000024001"),
        |card| shown(card, &there),
    );
    sweep(
        "CHANGE REFERENCE DATA",
        nothing,
        |card| quiet(card, "00240001083132333435353535"),
        which_pin,
    );
}

/// A file of 42 pieces, more records than a command may write: it goes whole, and who comes in its place finds nothing of it.
#[test]
fn power_cuts_with_a_long_file() {
    let create = "00E00000176215800207D082020121830240018801308C0407000000";
    let full = |card: &mut Card| {
        authenticate(card, CONTACT);
        quiet(card, create);
        quiet(card, "00A4000C024001");
        for from in (0..2000_u16).step_by(200) {
            let write = format!("00D6{from:04X}C8{}", "5C".repeat(200));
            assert_eq!(send(card, &hex::decode(write).unwrap()), [0x90, 0x00]);
        }
    };
    let delete = |card: &mut Card| quiet(card, "00E40000024001");
    let see = |card: &mut Card| shown(card, &["00A4000C024001", "00B00000000400", "00B004000003D0"]);
    sweep("DELETE FILE of 42 pieces", full, delete, see);
    let gone = |card: &mut Card| {
        full(card);
        delete(card);
    };
    sweep("CREATE FILE in its place", gone, |card| quiet(card, create), see);
    let again = |card: &mut Card| {
        delete(card);
        quiet(card, create);
    };
    let mut card = boot(made()).unwrap_or_else(|_| panic!("the card does not start"));
    full(&mut card);
    again(&mut card);
    assert!(!see(&mut card).contains("5c"));
    let image = card.into_flash().image();
    assert!(!image.windows(8).any(|bytes| bytes == [0x5C; 8]));
}

/// A card of 0.1: the test card, a free file of 300 bytes and a free cyclic one, all as its factory wrote them.
fn made_by_0_1() -> RamFlash {
    let mut image = Image::of_test_card().unwrap();
    let files = [
        "62158002012C82020121830240018801308C0407000000",
        "621482050621000203830240028801288C0407000000",
    ];
    for fcp in files {
        image.file(ROOT, &hex::decode(fcp).unwrap()).unwrap();
    }
    let records = in_the_first_layout(&image);
    let records: Vec<_> = records
        .iter()
        .map(|(object, value)| (*object, 0, &value[..]))
        .collect();
    let flash = RamFlash::strict(PAGE, 16);
    made_of::<common::Virtual>(flash, SeededRng(1), &small_profile(), &records).into_flash()
}

/// Files of 0.1 are read, written and deleted as they are kept, and others come in their place, whatever becomes of the power.
#[test]
fn power_cuts_with_files_of_0_1() {
    let write = |from: u16, len: usize| {
        let [high, low] = from.to_be_bytes();
        format!("00D6{high:02X}{low:02X}{len:02X}{}", "A5".repeat(len))
    };
    let full = |card: &mut Card| {
        authenticate(card, CONTACT);
        quiet(card, "00A4000C024001");
        for from in [0, 100, 200] {
            quiet(card, &write(from, 100).replace("A5", "11"));
        }
        for number in ["01", "02", "03"] {
            quiet(card, &format!("00E2002802{number}{number}"));
        }
    };
    let read = ["00A4000C024001", "00B0000000012C"];
    let update = write(100, 190);
    let action = |card: &mut Card| {
        quiet(card, "00A4000C024001");
        quiet(card, &update);
    };
    let sweep = |name, prepare: &dyn Fn(&mut Card), action: &dyn Fn(&mut Card), see: &[&str]| {
        sweep_on(made_by_0_1(), name, prepare, action, |card| shown(card, see));
    };
    sweep("UPDATE BINARY, 0.1", &full, &action, &read);
    let records = ["00B2012C00", "00B2022C00", "00B2032C00", "00B2042C00"];
    let append = |card: &mut Card| quiet(card, "00E20028020404");
    sweep("APPEND RECORD, 0.1", &full, &append, &records);
    let remove = |card: &mut Card| quiet(card, "00E40000024001");
    sweep("DELETE FILE, 0.1", &full, &remove, &read);
    let gone = |card: &mut Card| {
        full(card);
        remove(card);
    };
    // It has the number that is free, and nothing of what stood there.
    let create = |card: &mut Card| quiet(card, "00E000001762158002012C82020121830240018801308C0407000000");
    sweep("CREATE FILE in its place", &gone, &create, &read);
    let pin = |card: &mut Card| quiet(card, "00240001083132333435353535");
    sweep_on(
        made_by_0_1(),
        "CHANGE REFERENCE DATA, 0.1",
        |_| (),
        pin,
        which_pin,
    );
}

/// Nothing that stood in a file of 0.1 is left when it has been deleted, and none of its neighbours has lost anything.
#[test]
fn a_file_of_0_1_goes_whole() {
    let mut card = boot(made_by_0_1()).unwrap_or_else(|_| panic!("the card does not start"));
    authenticate(&mut card, CONTACT);
    quiet(&mut card, "00A4000C024001");
    for (from, byte) in [(0_u8, "B1"), (100, "B2"), (200, "B3")] {
        quiet(&mut card, &format!("00D600{from:02X}64{}", byte.repeat(100)));
    }
    quiet(&mut card, "00E2002802C4C4");
    quiet(&mut card, "00E40000024001");
    let mut card = boot(card.into_flash()).unwrap_or_else(|_| panic!("the card does not start"));
    assert_eq!(
        shown(&mut card, &["00A4000C024001", "00B2012C00"]),
        "6a82 c4c49000 "
    );
    let text = "53656b6973686f207465737420636172649000 ";
    assert_eq!(
        shown(&mut card, &["00B09E0011", "002000010431323334"]),
        format!("{text}9000 ")
    );
    let image = card.into_flash().image();
    for byte in [0xB1, 0xB2, 0xB3] {
        assert!(!image.windows(8).any(|bytes| bytes == [byte; 8]), "{byte:02X}");
    }
}

/// The same under secure messaging, where the card has lost the session with the power and has changed all or nothing.
#[test]
fn power_cuts_under_secure_messaging() {
    for mode in [Mode::Ratchet, Mode::LegacyOperations] {
        let action = |card: &mut Card| {
            if let Ok(mut reader) = Reader::open(card, CONTACT, mode, Lanes::Separate, 9) {
                for capdu in [&append(7), &[0x00, 0xD6, 0x81, 0x7E, 0x04, 1, 2, 3, 4][..]] {
                    let protected = reader.protect(capdu);
                    let answer = reader.transmit(card, &protected);
                    never_in_the_clear(&answer);
                    if reader.accept(&answer).is_err() {
                        return;
                    }
                }
            }
        };
        let see = |card: &mut Card| {
            let cyclic = shown(card, &["00B2011C00"]);
            let mut reader = Reader::open(card, CONTACT, mode, Lanes::Shared, 9).unwrap();
            let bytes = reader.send(card, &[0x00, 0xB0, 0x81, 0x7E, 0x04]);
            // The second command is carried out after the first, so there are three states: none, one, both.
            let is_one = cyclic.ends_with("9000 ") && bytes[..4] == [0; 4];
            if is_one {
                "6a83 00000000".to_owned()
            } else {
                cyclic + &hex::encode(&bytes[..4])
            }
        };
        sweep(mode.name(), |_| (), action, see);
    }
}

/// With the key that a card has in a file: whether the old value is it. It is the old one or the new one.
fn is_old(which: &str, old: bool, new: bool) -> String {
    assert!(old != new, "{which}: one value is the value");
    format!("{old}")
}

/// Keys and tries are replaced whole: what has the old value has the old tries.
#[test]
fn power_cuts_at_every_write_of_a_key() {
    let nothing = |_: &mut Card| {};
    let new_key = format!("0024010010{}", "77".repeat(16));
    let external = |card: &mut Card| {
        let with = |card: &mut Card, key: &[u8; 16]| {
            card.reset(CONTACT);
            select(card, CONTACT);
            let challenge = plain(card, CONTACT, &[0x00, 0x84, 0, 0, 16]).unwrap();
            let mac = sekisho_keys::cmac(&common::key(key), &[&challenge]);
            send(card, &[&[0x00, 0x82, 0x00, 0x01, 16][..], &mac].concat()) == [0x90, 0x00]
        };
        let new = with(card, &[0x77; 16]);
        is_old("EXTERNAL", with(card, &test_key::EXTERNAL), new)
    };
    let replace = |file: &'static str| {
        let new_key = new_key.clone();
        move |card: &mut Card| {
            quiet(card, &format!("00A4000C02{file}"));
            quiet(card, &new_key);
        }
    };
    sweep("new value of EXTERNAL", nothing, replace("0002"), external);
    let mkey = |card: &mut Card| {
        let with = |card: &mut Card, key: &[u8; 16]| {
            let opened = Reader::open_with(card, CONTACT, Mode::Ratchet, Lanes::Shared, 9, key);
            card.reset(CONTACT);
            select(card, CONTACT);
            opened.is_ok()
        };
        let old = with(card, &test_key::MKEY);
        is_old("MKEY", old, with(card, &[0x77; 16]))
    };
    sweep("new value of MKEY", nothing, replace("0001"), mkey);
    let spent = |card: &mut Card| {
        quiet(card, "002000010431323335");
        quiet(card, "002000010431323335");
    };
    let pin = |card: &mut Card| shown(card, &["00200001", "002000010435353535"]);
    sweep(
        "new value of the PIN",
        spent,
        |card| quiet(card, "002401010435353535"),
        pin,
    );
    sweep(
        "RESET RETRY COUNTER",
        spent,
        |card| quiet(card, "002C0301"),
        |card| shown(card, &["00200001"]),
    );
}

/// What stands in a card after a cut: the tries that are left, and whether the PIN is the old one.
fn tries_and_pin(card: Card) -> (u8, bool) {
    let flash = card.into_flash();
    let mut card = boot(flash).unwrap_or_else(|_| panic!("the card does not start"));
    let left = match common::sw(&send(&mut card, &[0x00, 0x20, 0x00, 0x01])) {
        0x6983 => 0,
        word => u8::try_from(word - 0x63C0).unwrap(),
    };
    try_authenticate(&mut card);
    quiet(&mut card, "002C0301");
    let old = shown(&mut card, &["002000010431323334"]) == "9000 ";
    let new = shown(&mut card, &["002000010435353535"]) == "9000 ";
    assert!(old != new, "one PIN is the PIN");
    (left, old)
}

/// No cut brings a try back: what is there is what was there, a try less, or, where the PIN was right, all of them.
#[test]
fn no_cut_gives_a_try_back() {
    let commands = [
        ("VERIFY, right", "002000010431323334", true, false),
        ("VERIFY, wrong", "002000010431323335", false, false),
        (
            "CHANGE REFERENCE DATA, right",
            "00240001083132333435353535",
            true,
            true,
        ),
        (
            "CHANGE REFERENCE DATA, wrong",
            "00240001083132333535353535",
            false,
            false,
        ),
        (
            "CHANGE REFERENCE DATA, right, to no PIN",
            "002400011531323334 3535353535353535353535353535353535",
            true,
            false,
        ),
    ];
    for (name, command, is_right, changes) in commands {
        for tries in [3_u8, 1] {
            let mut ready = boot(made()).unwrap_or_else(|_| panic!("the card does not start"));
            for _ in tries..3 {
                quiet(&mut ready, "002000010431323335");
            }
            let ready = ready.into_flash();
            let mut expected = std::collections::BTreeSet::from([(tries, true), (tries - 1, true)]);
            if is_right {
                expected.insert((3, true));
            }
            if changes {
                expected.insert((3, false));
            }
            let (mut found, mut cases, mut words) = (
                std::collections::BTreeSet::new(),
                0,
                std::collections::BTreeSet::new(),
            );
            for seed in 0..4 {
                for cut in 0.. {
                    let mut flash = ready.clone();
                    flash.cut_after(cut, seed);
                    let mut card =
                        boot(flash).unwrap_or_else(|_| panic!("starting a tidy card writes nothing"));
                    let answer = send(&mut card, &hex::decode(command.replace(' ', "")).unwrap());
                    words.insert(format!("{:04X}", common::sw(&answer)));
                    let is_whole = !card.flash().is_off();
                    let outcome = tries_and_pin(recover(card, seed));
                    assert!(
                        expected.contains(&outcome),
                        "{name}, {tries} tries: cut {cut} seed {seed}: {outcome:?}"
                    );
                    found.insert(outcome);
                    cases += 1;
                    if is_whole {
                        break;
                    }
                }
            }
            println!("{name}, {tries} tries: {cases} cuts, {found:?}, {words:?}");
            assert_eq!(found, expected, "{name}, {tries} tries");
        }
    }
}

/// A try is spent before anything is compared. As long as none is spent, who cuts the power sees the same with the right PIN and with a wrong one.
#[test]
fn no_pin_is_found_by_cutting_the_power() {
    let made = made();
    for (right, wrong) in [
        ("002000010431323334", "002000010431323335"),
        ("00240001083132333435353535", "00240001083132333535353535"),
    ] {
        let mut spent = 0;
        for seed in 0..6 {
            for cut in 0.. {
                let run = |command: &str| {
                    let mut flash = made.clone();
                    flash.cut_after(cut, seed);
                    let mut card = boot(flash).unwrap_or_else(|_| panic!("starting writes nothing"));
                    let answer = send(&mut card, &hex::decode(command).unwrap());
                    let is_off = card.flash().is_off();
                    let mut card = recover(card, seed);
                    (answer, is_off, shown(&mut card, &["00200001"]))
                };
                let (right, wrong) = (run(right), run(wrong));
                assert!(matches!(wrong.2.as_str(), "63c3 " | "63c2 "), "{}", wrong.2);
                if wrong.2 == "63c3 " {
                    assert_eq!(right, wrong, "cut {cut} seed {seed}");
                } else {
                    spent += 1;
                }
                if !wrong.1 && !right.1 {
                    break;
                }
            }
        }
        assert!(spent > 6);
    }
}
