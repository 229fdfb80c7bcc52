//! The power goes at each operation of the chip's own flash, where `SEKISHO_FIRMWARE` names an image: the word, or the page, is torn, and a chip is started from what is left.
//! It comes up with the state before the command or with the state after it, answers as the secure element in this process that starts from the same, and leaves the same flash.
//! `SEKISHO_FIRMWARE_POWER=all` tries each operation whole and torn three times, and more commands (`scripts/nightly`).

use sekisho_nvm::ram::RamFlash;
use sekisho_os::Interface;
use sekisho_scp::SecurityLevel;

use crate::common::board::{Cut, Operation, firmware, watch};
use crate::common::files;
use crate::common::host::Host;
use crate::common::keys::{put_set, set};
use crate::common::update::{Broadcast, Custody, KVN, Keys, V2, manifest, update_state};
use crate::common::{ByValue as _, Card, PAGE, SeededRng, flash, profile, send, sw};

const CONTACT: Interface = Interface::Iso7816Contact;

/// A free file of ten bytes.
const CREATE: &str = "00E000001762158002000A82020101830240018801308C0407000000";

fn is_long() -> bool {
    std::env::var_os("SEKISHO_FIRMWARE_POWER").is_some_and(|value| value == "all")
}

/// The flash when the power went in an operation, by its number and this seed: untouched with 0; else a word with some of its bits, or a page that holds anything.
fn torn(cut: &Cut, seed: u64) -> Vec<u8> {
    use sekisho_keys::Rng as _;
    let mut image = cut.image.clone();
    if seed == 0 {
        return image;
    }
    let mut rng = SeededRng(seed);
    match cut.operation {
        Operation::Word { at, word } => {
            let mut some = [0; 4];
            rng.fill(&mut some);
            let bytes = image[at..at + 4].iter_mut();
            for (byte, (new, kept)) in bytes.zip(word.to_le_bytes().into_iter().zip(some)) {
                *byte &= new | kept;
            }
        }
        Operation::Erase { at } => {
            let mut anything = vec![0; PAGE];
            rng.fill(&mut anything);
            for (byte, some) in image[at..at + PAGE].iter_mut().zip(anything) {
                *byte |= some;
            }
        }
    }
    image
}

fn booted(image: &[u8]) -> Card {
    Card::booted(RamFlash::from_image(PAGE, image), SeededRng(3), &profile())
        .unwrap_or_else(|_| panic!("the secure element does not start"))
}

/// What has been tried.
#[derive(Default)]
struct Tried {
    words: usize,
    erasures: usize,
    before: usize,
    after: usize,
}

/// Cuts the power at the operations of `action`, one of so many; `see` tells the states apart.
fn sweep(
    name: &str,
    mut card: Card,
    every: usize,
    action: impl FnOnce(&mut Card),
    see: impl Fn(&mut Card) -> String,
) {
    action(&mut card);
    let cuts = card.cuts();
    let done = card.into_flash().image();
    let [before, after] = [&cuts.first().unwrap().image, &done].map(|image| see(&mut booted(image)));
    assert_ne!(before, after, "{name}");
    let mut tried = Tried::default();
    for (number, cut) in cuts.iter().enumerate() {
        let is_last = number + 1 == cuts.len();
        if number % every != 0 && !is_last && matches!(cut.operation, Operation::Word { .. }) {
            continue;
        }
        let seeds = match (is_long(), number % 2) {
            (true, _) => 0..4,
            (false, 0) => 1..2,
            (false, _) => 0..1,
        };
        for seed in seeds {
            let found = see(&mut booted(&torn(
                cut,
                seed * 1000 + u64::try_from(number).unwrap() * seed,
            )));
            match cut.operation {
                Operation::Word { .. } => tried.words += 1,
                Operation::Erase { .. } => tried.erasures += 1,
            }
            if found == before {
                tried.before += 1;
            } else {
                assert_eq!(
                    found, after,
                    "{name}: operation {number}, {:?}, seed {seed}",
                    cut.operation
                );
                tried.after += 1;
            }
        }
    }
    let Tried {
        words,
        erasures,
        before,
        after,
    } = tried;
    println!(
        "power: {name}: of {} operations {words} cuts at words, {erasures} in erasures: {before} came up before, {after} after",
        cuts.len()
    );
    assert!(before > 0 && after > 0, "{name}: one of the states never came up");
}

fn open(card: &mut Card, keys: &Keys) -> Host {
    keys.open(card, SecurityLevel::FULL)
}

fn sequence_counter(card: &mut Card) -> String {
    hex::encode(send(card, &[0x00, 0xCA, 0x00, 0xC1, 0x00]))
}

/// A card whose flash is cut when it is told to be.
fn watched(make: &dyn Fn() -> Card) -> Card {
    watch(true);
    let card = make();
    watch(false);
    card
}

#[test]
fn a_cut_in_the_chips_flash_is_before_or_after() {
    if firmware().is_none() {
        return;
    }
    let keys = Keys::new();
    let meter = || keys.card(flash(), &profile());
    sweep(
        "INITIALIZE UPDATE",
        watched(&meter),
        1,
        |card| assert!(send(card, &[0x80, 0x50, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0]).ends_with(&[0x90, 0])),
        sequence_counter,
    );
    let count = [0x80, 0x22, 0, 0, 2, 0, 2];
    let select = |card: &mut Card| send(card, b"\x00\xA4\x04\x00\x07\xF0SKOS\x00\x01");
    sweep(
        "a command of the meter",
        watched(&meter),
        1,
        |card| {
            select(card);
            assert_eq!(sw(&send(card, &count)), 0x9000);
        },
        |card| {
            select(card);
            hex::encode(send(card, &[0x80, 0x20, 0, 0, 4]))
        },
    );
    sweep(
        "CREATE FILE",
        watched(&files::card),
        1,
        |card| {
            files::select(card, CONTACT);
            files::authenticate(card, CONTACT);
            assert_eq!(send(card, &hex::decode(CREATE).unwrap()), [0x90, 0x00]);
        },
        |card| {
            files::select(card, CONTACT);
            let there = ["00A40004024001", "00B0860000"];
            there
                .map(|capdu| hex::encode(send(card, &hex::decode(capdu).unwrap())))
                .join(" ")
        },
    );
}

/// The same of what changes an image or keys.
#[test]
fn a_cut_in_the_chips_flash_while_an_update_comes_is_before_or_after() {
    if firmware().is_none() {
        return;
    }
    let keys = Keys::new();
    let meter = || keys.card(flash(), &profile());
    // A page of the image is erased and written; then the new part takes the old one's place, and its pages are wiped.
    let broadcast = Broadcast::new(&keys, Custody::Design, &manifest(2, 1, V2), V2, 239);
    sweep(
        "a broadcast update",
        watched(&meter),
        if is_long() { 7 } else { 61 },
        |card| {
            let mut host = open(card, &keys);
            assert_eq!(broadcast.play(card, &mut host, 0), 0x9000);
            assert_eq!(sw(&host.send(card, &broadcast.activate)), 0x9000);
        },
        |card| format!("{}", update_state(card).0),
    );
    if is_long() {
        sweep(
            "PUT KEY",
            watched(&meter),
            1,
            |card| {
                let mut host = open(card, &keys);
                let new = put_set(&keys.scp.dek, 0, KVN + 1, &set(7, 8, 9, 16));
                assert_eq!(sw(&host.send(card, &new)), 0x9000);
            },
            // Which key sets there are.
            |card| hex::encode(send(card, &[0x00, 0xCA, 0x00, 0xE0, 0x00])),
        );
    }
}
