//! Stores of format 1 (frozen in `state/format-1`) are carried over, whatever word or erasure the power is cut at.

use crate::common;
use common::{Model, Store, contents};
use sekisho_nvm::ram::{RamError, RamFlash};
use sekisho_nvm::{Error, Flash};
use sekisho_nvm::{Key, Op};

/// A store of format 1 as it was written, and what it holds.
fn frozen(name: &str) -> (RamFlash, Model) {
    let path = format!("{}/tests/state/format-1/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let bytes = |hex: &str| -> Vec<u8> {
        let pairs = hex.as_bytes().as_chunks::<2>().0.iter();
        pairs
            .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    };
    let (mut page, mut image, mut model) = (0, Vec::new(), Model::new());
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["page", size] => page = size.parse().unwrap(),
            ["record", key, value] => {
                model.insert(name_of(u32::from_str_radix(key, 16).unwrap()), bytes(value));
            }
            [hex] => image.extend(bytes(hex)),
            _ => panic!("{line}"),
        }
    }
    let mut flash = RamFlash::strict(page, image.len() / page);
    for (at, chunk) in (0..).step_by(page).zip(image.chunks(page)) {
        if chunk.iter().any(|byte| *byte != 0xFF) {
            flash.write(at, chunk).unwrap();
        }
    }
    (flash, model)
}

/// Container, kind and index become owner, part and object.
fn name_of(old: u32) -> Key {
    let [container, kind, high, low] = old.to_be_bytes();
    Key::new(
        0x0100 + u16::from(container),
        u16::from_be_bytes([high, low]),
        kind,
    )
}

fn open(flash: &mut RamFlash) -> Result<Store, Error<RamError>> {
    let pages = 0..flash.pages();
    Store::open_or_carry(flash, pages, |old| Some(name_of(old)))
}

/// It holds what it held, is a store of format 2, and goes on.
fn check(flash: &mut RamFlash, model: &Model) {
    let mut store = open(flash).unwrap();
    assert_eq!(contents(&store, flash), *model);
    let pages = 0..flash.pages();
    store = Store::open(flash, pages).unwrap();
    assert_eq!(contents(&store, flash), *model);
    for round in 0..20_u8 {
        for (key, value) in model.iter().take(3) {
            let value = vec![round; value.len()];
            store.commit(flash, &[Op::Put(*key, &value)]).unwrap();
        }
    }
    assert_eq!(open(flash).unwrap().free(), store.free());
}

const NAMES: [&str; 5] = [
    "empty",
    "second-half",
    "nearly-full",
    "cut-while-wiping",
    "cut-while-writing",
];

#[test]
fn a_store_of_format_1_is_carried_over_whatever_it_is_cut_at() {
    for name in NAMES {
        let (flash, model) = frozen(name);
        let (mut cuts, mut old, mut new) = (0, 0, 0);
        // Of the long one some.
        let (step, seeds) = match model.len() {
            ..=50 => (1, 4),
            _ if crate::INDEX < 8 => (43, 1),
            _ => (15, 1),
        };
        for cut in (0..).step_by(step) {
            let mut was_cut = false;
            for seed in 0..seeds {
                let mut flash = flash.clone();
                flash.cut_after_units(cut, seed);
                if open(&mut flash).is_ok() {
                    continue;
                }
                was_cut = true;
                // And twice more, somewhere.
                for more in [cut / 2 + seed, cut % 37] {
                    flash.power_on();
                    flash.cut_after_units(more, seed + more);
                    let _again = open(&mut flash).is_ok();
                }
                flash.power_on();
                let pages = 0..flash.pages();
                let mut copy = flash.clone();
                match Store::open(&mut copy, pages) {
                    Ok(store) if contents(&store, &copy) == model => new += 1,
                    _ => old += 1,
                }
                check(&mut flash, &model);
                cuts += 1;
            }
            if !was_cut {
                break;
            }
        }
        println!(
            "{name}: {} records, {cuts} cuts; in format 1 still {old} times, in format 2 {new} times",
            model.len()
        );
        assert!(old > 0 && new > 0 && cuts > 20);
        let mut flash = flash.clone();
        check(&mut flash, &model);
    }
}

#[test]
fn nothing_of_the_old_half_is_left() {
    for name in NAMES {
        let (mut flash, model) = frozen(name);
        open(&mut flash).unwrap();
        for value in model.values().filter(|value| value.len() > 8) {
            let image = flash.image();
            let count = image
                .windows(value.len())
                .filter(|window| window == value)
                .count();
            let wanted = model.values().filter(|other| *other == value).count();
            assert_eq!(count, wanted, "{name}");
        }
        assert!(
            !flash
                .image()
                .windows(4)
                .any(|window| window == [0x53, 0x6B, 0, 1])
        );
    }
}

#[test]
fn what_does_not_fit_into_half_of_the_pages_is_refused_and_stays() {
    let (mut flash, _) = frozen("full");
    assert_eq!(open(&mut flash).map(|_| ()), Err(Error::Full));
    let first = flash.image()[..4096].to_vec();
    assert_eq!(open(&mut flash).map(|_| ()), Err(Error::Full));
    assert_eq!(flash.image()[..4096], first);
}

/// Any one word of a frozen store of another value: an error, or what it held.
#[test]
fn a_damaged_store_of_format_1_is_carried_over_right_or_not_at_all() {
    let (flash, model) = frozen("second-half");
    let (mut right, mut refused) = (0, 0);
    for at in (0..flash.image().len()).step_by(4) {
        for value in [[0; 4], [0xFF; 4], [0xA5, 0x5A, 0, 0xFF]] {
            let mut image = flash.image();
            if image[at..at + 4] == value {
                continue;
            }
            image[at..at + 4].copy_from_slice(&value);
            let mut flash = RamFlash::from_image(256, &image);
            match open(&mut flash) {
                Ok(store) => {
                    assert_eq!(contents(&store, &flash), model, "at {at}");
                    right += 1;
                }
                Err(error) => {
                    assert!(matches!(error, Error::Corrupted | Error::NotFormatted), "{error}");
                    refused += 1;
                }
            }
        }
    }
    println!("right {right} times, refused {refused} times");
    assert!(right > 100 && refused > 100);
}
