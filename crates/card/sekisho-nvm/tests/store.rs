//! What the store does when nothing goes wrong: order, room, wear, the figures of the crate's page, and the frozen format.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Model, Store, contents, value};
use sekisho_nvm::ram::RamFlash;
use sekisho_nvm::{Error, Flash, Key, Op, Region, Slot};

const PAGE: usize = 256;
const PAGES: usize = 8;

#[test]
fn full_changes_nothing_and_removing_makes_room() {
    let mut flash = RamFlash::strict(PAGE, PAGES);
    let mut store = Store::format(&mut flash, 0..PAGES).unwrap();
    let mut count = 0;
    while store.commit(&mut flash, &[Op::Put(Key(count), &[7; 48])]).is_ok() {
        count += 1;
    }
    // Sixteen records of 60 bytes; 48 of the 1,008 are left.
    assert_eq!((count, store.capacity(), store.free()), (16, 1008, 48));
    let (image, model) = (flash.image(), contents(&store, &flash));
    let refused: &[&[Op<'_>]] = &[
        &[Op::Put(Key(16), &[7; 48])],
        // Replacing takes room for the old one and the new one, however much it removes.
        &[Op::Put(Key(0), &[8; 48])],
        &[Op::Remove(Key(1)), Op::Put(Key(0), &[8; 48])],
    ];
    for ops in refused {
        assert_eq!(store.commit(&mut flash, ops), Err(Error::Full));
    }
    let huge = vec![0; 0x1_0000];
    assert_eq!(
        store.commit(&mut flash, &[Op::Put(Key(0), &huge)]),
        Err(Error::TooLong)
    );
    assert_eq!(
        store.get(&flash, Key(0), &mut [0; 47]),
        Err(Error::BufferTooSmall)
    );
    assert!(flash.image() == image, "something was written");
    store
        .commit(&mut flash, &[Op::Remove(Key(1)), Op::Remove(Key(2))])
        .unwrap();
    store.commit(&mut flash, &[Op::Put(Key(0), &[8; 48])]).unwrap();
    let mut wanted = model;
    wanted.remove(&Key(1));
    wanted.remove(&Key(2));
    wanted.insert(Key(0), vec![8; 48]);
    assert_eq!(contents(&store, &flash), wanted);
    assert_eq!(store.free(), 48 + 2 * 60);
}

/// What a flash maps is what it reads; the flash in RAM maps inside its pages, and nothing while the power is off.
#[test]
fn mapped_bytes_are_those_that_are_read() {
    let mut flash = RamFlash::new(256, 4);
    let region = Region::new(1..3);
    region.write(&mut flash, 0, &[7; 300]).unwrap();
    for (offset, len, is_mapped) in [
        (0, 256, true),
        (256, 44, true),
        (100, 0, true),
        (250, 6, true),
        (250, 7, false),
        (0, 513, false),
        (512, 1, false),
        (usize::MAX, 2, false),
    ] {
        let mapped = region.mapped(&flash, offset, len);
        assert_eq!(mapped.is_some(), is_mapped, "{offset} {len}");
        if let Some(mapped) = mapped {
            let mut read = vec![0; len];
            region.read(&flash, offset, &mut read).unwrap();
            assert_eq!(mapped, read);
        }
    }
    // A blank page takes no memory, so there is nothing to map.
    assert_eq!(flash.mapped(0..4), None);
    flash.cut_after(0, 1);
    assert!(region.write(&mut flash, 300, &[0; 4]).is_err());
    assert_eq!(region.mapped(&flash, 0, 4), None);
}

#[test]
fn operations_of_one_transaction_take_effect_in_order() {
    let mut flash = RamFlash::strict(PAGE, PAGES);
    let mut store = Store::format(&mut flash, 0..PAGES).unwrap();
    let (a, b) = (Key::new(0, 1, 1), Key::new(0, 1, 2));
    store
        .commit(
            &mut flash,
            &[
                Op::Put(a, b"first"),
                Op::Put(a, b"second"),
                Op::Put(b, b"x"),
                Op::Remove(b),
            ],
        )
        .unwrap();
    assert_eq!(contents(&store, &flash), Model::from([(a, b"second".to_vec())]));
    assert!(!flash.image().windows(5).any(|window| window == b"first"));
    store.commit(&mut flash, &[Op::Remove(b)]).unwrap();
    let before = flash.operations();
    store.commit(&mut flash, &[Op::Remove(b)]).unwrap();
    store.commit(&mut flash, &[]).unwrap();
    assert_eq!(flash.operations(), before, "nothing to do writes nothing");
    assert_eq!((a.container(), a.kind(), a.index()), (0, 1, 1));
}

#[test]
fn hundreds_of_records_and_long_ones() {
    let mut flash = RamFlash::strict(2048, 32);
    let mut store = Store::format(&mut flash, 0..32).unwrap();
    let (mut model, mut serial) = (Model::new(), 0);
    for n in 0..400_u16 {
        let len = if n % 50 == 0 { 1500 } else { usize::from(n % 37) };
        let (key, value) = (Key::new(2, 1, n * 7 % 400), value(&mut serial, len));
        store.commit(&mut flash, &[Op::Put(key, &value)]).unwrap();
        model.insert(key, value);
    }
    let store = Store::open(&mut flash, 0..32).unwrap();
    assert_eq!(contents(&store, &flash), model);
    let used: usize = model
        .values()
        .map(|value| 12 + value.len().next_multiple_of(4))
        .sum();
    assert_eq!(store.free(), store.capacity() - used);
}

/// The figures of the crate's page. If one changes, change the page too.
#[test]
fn the_published_figures_are_true() {
    let mut flash = RamFlash::strict(2048, 16);
    let mut store = Store::format(&mut flash, 0..16).unwrap();
    assert_eq!(store.capacity(), 16_368);
    let without_index = size_of::<sekisho_nvm::Store<[Slot; 0]>>();
    assert!(without_index <= 88, "{without_index}");
    assert!(size_of::<sekisho_nvm::Store<[Slot; 100]>>() <= without_index + 600);
    let cost = |flash: &mut RamFlash, store: &mut Store, ops: &[Op<'_>]| {
        let before = flash.operations();
        store.commit(flash, ops).unwrap();
        flash.operations() - before
    };
    // A counter of four bytes: made, and then counted up.
    let counter = Key::new(0, 4, 0x30);
    assert_eq!(cost(&mut flash, &mut store, &[Op::Put(counter, &[0; 4])]), 2);
    assert_eq!(cost(&mut flash, &mut store, &[Op::Put(counter, &[1; 4])]), 4);
    // Three keys of 16 bytes and a directory of 20, made and then replaced, and removed.
    let keys: Vec<_> = (0..4).map(|n| Key::new(0, 3, n)).collect();
    let lens = [16, 16, 16, 20];
    let values: Vec<_> = lens.iter().map(|len| vec![0xA5; *len]).collect();
    let put: Vec<_> = keys
        .iter()
        .zip(&values)
        .map(|(key, value)| Op::Put(*key, value))
        .collect();
    let remove: Vec<_> = keys.iter().map(|key| Op::Remove(*key)).collect();
    let free = store.free();
    assert_eq!(cost(&mut flash, &mut store, &put), 8);
    assert_eq!(free - store.free(), 116);
    assert_eq!(cost(&mut flash, &mut store, &put), 16);
    assert_eq!(cost(&mut flash, &mut store, &remove), 12);
    // Wear: 1,022 counts fill a half when there is nothing else.
    for n in 0..10_000_u32 {
        store
            .commit(&mut flash, &[Op::Put(counter, &n.to_be_bytes())])
            .unwrap();
    }
    assert_eq!(store.epoch(), 1 + 10_000 / 1022);
    let (least, most) = (
        flash.erasures().iter().min().unwrap(),
        flash.erasures().iter().max().unwrap(),
    );
    assert!(
        *most <= 2 + store.epoch() / 2 && most - least <= 1,
        "{:?}",
        flash.erasures()
    );
}

/// What the image of version 1 holds: replaced and removed records, and transactions of one and of two operations.
fn write_version_1() -> RamFlash {
    let mut flash = RamFlash::strict(64, 4);
    let mut store = Store::format(&mut flash, 0..4).unwrap();
    let (kept, changed, gone) = (Key::new(0, 1, 0), Key::new(1, 2, 3), Key::new(1, 2, 4));
    store
        .commit(&mut flash, &[Op::Put(kept, b"kept"), Op::Put(changed, b"old")])
        .unwrap();
    store
        .commit(&mut flash, &[Op::Put(changed, b"new"), Op::Put(gone, b"")])
        .unwrap();
    store.commit(&mut flash, &[Op::Remove(gone)]).unwrap();
    flash
}

#[test]
fn an_image_of_version_1_still_opens_and_is_what_would_be_written_today() {
    // Written by this format's first version. If this fails, do not change the image: SEs with such a flash are out there.
    let image: Vec<u8> = include_str!("state/v1.hex")
        .split_ascii_whitespace()
        .flat_map(|line| {
            (0..line.len() / 2)
                .map(|n| u8::from_str_radix(&line[2 * n..2 * n + 2], 16).unwrap())
                .collect::<Vec<_>>()
        })
        .collect();
    let mut flash = RamFlash::from_image(64, &image);
    let store = Store::open(&mut flash, 0..4).unwrap();
    let expected = Model::from([
        (Key::new(0, 1, 0), b"kept".to_vec()),
        (Key::new(1, 2, 3), b"new".to_vec()),
    ]);
    assert_eq!(contents(&store, &flash), expected);
    assert_eq!(
        flash.image(),
        image,
        "a store in order is not touched by opening it"
    );
    assert_eq!(write_version_1().image(), image);
}
