//! What the store does when nothing goes wrong, and what it refuses.

use crate::common;
use common::{Change, Model, Store, contents, key, value};
use sekisho_nvm::ram::RamFlash;
use sekisho_nvm::{Error, Flash, Key, Op, Prefix, Ram, Region};

const PAGE: usize = 256;
const PAGES: usize = 8;

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
    let (a, b) = (Key::new(1, 1, 0), Key::new(1, 2, 0));
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
}

#[test]
fn full_changes_nothing_and_removing_makes_room() {
    let mut flash = RamFlash::strict(512, PAGES);
    let mut store = Store::format(&mut flash, 0..PAGES).unwrap();
    let mut count = 0;
    while store.commit(&mut flash, &[Op::Put(key(count), &[7; 48])]).is_ok() {
        count += 1;
    }
    let model = contents(&store, &flash);
    assert_eq!(
        store.commit(&mut flash, &[Op::Put(key(count), &[7; 48])]),
        Err(Error::Full)
    );
    let longest = vec![0; store.value_max() + 1];
    assert_eq!(
        store.commit(&mut flash, &[Op::Put(key(0), &longest)]),
        Err(Error::TooLong)
    );
    let many = vec![Op::Remove(key(0)); 65];
    assert_eq!(store.commit(&mut flash, &many), Err(Error::TooLong));
    assert_eq!(
        store.get(&flash, key(0), &mut [0; 47]),
        Err(Error::BufferTooSmall)
    );
    assert_eq!(contents(&store, &flash), model);
    // In the place of others, and of what goes.
    store.commit(&mut flash, &[Op::Put(key(0), &[8; 48])]).unwrap();
    store
        .commit(&mut flash, &[Op::Remove(key(1)), Op::Put(key(count), &[8; 48])])
        .unwrap();
    let free = store.free();
    store
        .commit(&mut flash, &[Op::RemoveAll(Prefix::Owner(key(2).owner))])
        .unwrap();
    assert!(store.free() > free && store.used(&flash, key(2).owner) == Ok(0));
    store.commit(&mut flash, &[Op::Put(key(2), &[9; 48])]).unwrap();
}

#[test]
fn hundreds_of_records_and_long_ones() {
    let mut flash = RamFlash::strict(2048, 32);
    let mut store = sekisho_nvm::Store::<Ram<32, 32, 2>>::format(&mut flash, 0..32).unwrap();
    let (mut model, mut serial) = (Model::new(), 0);
    for n in 0..400_u16 {
        let len = if n % 50 == 0 { 900 } else { usize::from(n % 37) };
        let (key, value) = (Key::new(2, n * 7 % 400, 1), value(&mut serial, len));
        store.commit(&mut flash, &[Op::Put(key, &value)]).unwrap();
        model.insert(key, value);
    }
    let store = sekisho_nvm::Store::<Ram<32, 32, 2>>::open(&mut flash, 0..32).unwrap();
    let mut found = Model::new();
    let mut key = None;
    while let Some(next) = store.next_key(&flash, key).unwrap() {
        let mut out = [0; 1024];
        let len = store.get(&flash, next, &mut out).unwrap().unwrap();
        found.insert(next, out[..len].to_vec());
        key = Some(next);
    }
    assert_eq!(found, model);
    assert_eq!(store.free(), store.capacity() - common::size(&model));
}

/// Opened where it stands, again and again; what cannot be opened has nothing, and commits nothing.
#[test]
fn a_store_is_opened_where_it_stands() {
    let mut flash = RamFlash::strict(PAGE, PAGES);
    let mut store = Store::BLANK;
    let put = [Op::Put(key(1), &[1, 2, 3])];
    let nothing = |store: &mut Store, flash: &mut RamFlash| {
        assert_eq!(store.get(flash, key(1), &mut [0; 8]), Ok(None));
        assert_eq!(store.next_key(flash, None), Ok(None));
        assert_eq!(store.used(flash, 1), Ok(0));
        assert_eq!(store.commit(flash, &put), Err(Error::Stale));
    };
    nothing(&mut store, &mut flash);
    assert_eq!(
        (store.free(), store.capacity(), store.value_max()),
        (0, 0, 0),
        "of no pages"
    );
    assert_eq!(
        store.open_in_place(&mut flash, 0..PAGES),
        Err(Error::NotFormatted)
    );
    nothing(&mut store, &mut flash);
    store.format_in_place(&mut flash, 0..PAGES).unwrap();
    store.commit(&mut flash, &put).unwrap();
    for _ in 0..2 {
        store.open_in_place(&mut flash, 0..PAGES).unwrap();
        assert_eq!(store.get(&flash, key(1), &mut [0; 8]), Ok(Some(3)));
    }
    // What it knew of the pages before is known no more.
    assert_eq!(store.open_in_place(&mut flash, 0..2), Err(Error::Geometry));
    nothing(&mut store, &mut flash);
    store
        .open_or_carry_in_place(&mut flash, 0..PAGES, |_| None)
        .unwrap();
    assert_eq!(store.get(&flash, key(1), &mut [0; 8]), Ok(Some(3)));
}

#[test]
fn too_few_or_too_small_pages_are_refused() {
    for (size, pages, is_sound) in [
        (256, 3, false),
        (256, 4, true),
        (256, 16, true),
        (256, 17, false),
        (64, 8, false),
        (66, 8, false),
        (128, 8, true),
    ] {
        let mut flash = RamFlash::new(size, pages);
        let made = Store::format(&mut flash, 0..pages).map(|_| ());
        assert_eq!(made.is_ok(), is_sound, "{size} {pages}");
        let opened = Store::open(&mut RamFlash::new(size, pages), 0..pages).map(|_| ());
        let wanted = if is_sound {
            Error::NotFormatted
        } else {
            Error::Geometry
        };
        assert_eq!(opened, Err(wanted));
    }
    let mut flash = RamFlash::new(PAGE, 8);
    assert_eq!(Store::format(&mut flash, 0..9).map(|_| ()), Err(Error::Geometry));
}

/// The figures of the crate's page.
#[test]
fn the_published_figures_are_true() {
    let mut flash = RamFlash::strict(4096, 8);
    let store = sekisho_nvm::Store::<Ram<128, 8, 16>>::format(&mut flash, 0..8).unwrap();
    assert_eq!((store.capacity(), store.value_max()), (16_920, 1024));
    let size = |records: usize, pages: usize, owners: usize| 6 * records + 12 * pages + 8 * owners;
    let all = size_of::<sekisho_nvm::Store<Ram<128, 8, 16>>>();
    assert!(all < size(128, 8, 16) + 136, "{all}");
}

/// What operations add to an owner's records and replace of them, against the map: by owner and of all, with several of one key among them.
#[test]
fn what_operations_add_and_replace_is_counted_by_owner() {
    let mut flash = RamFlash::strict(1024, 8);
    let mut store = Store::format(&mut flash, 0..8).unwrap();
    let (mut model, mut serial, mut state) = (Model::new(), 0, 1_u32);
    let mut random = |n: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u16::try_from((state >> 16) % n).unwrap()
    };
    let cost = |value: &Vec<u8>| 16 + value.len().next_multiple_of(4);
    for _ in 0..400 {
        let changes: Vec<_> = (0..=random(5))
            .map(|_| match (key(random(8)), random(6)) {
                (key, 0) => Change::Remove(key),
                (key, 1) => Change::RemoveAll(Prefix::Owner(key.owner)),
                (key, 2) => Change::RemoveAll(Prefix::Object(key.owner, key.object)),
                (key, _) => Change::Put(key, value(&mut serial, random(30).into())),
            })
            .collect();
        let ops = common::ops(&changes);
        let after = common::after(&model, &changes);
        for owner in [None, Some(0x0100), Some(0x0101), Some(0x0102), Some(0x0999)] {
            let is_of = |key: &Key| owner.is_none_or(|owner| key.owner == owner);
            let sum = |of: &Model| -> usize {
                let own = of.iter().filter(|(key, _)| is_of(key));
                let own = own.filter(|(key, _)| ops.iter().any(|op| op.concerns(**key)));
                own.map(|(_, value)| cost(value)).sum()
            };
            assert_eq!(Op::added(&ops, owner), sum(&after), "{ops:?} of {owner:?}");
            assert_eq!(
                store.replaced(&flash, &ops, owner),
                Ok(sum(&model)),
                "{ops:?} of {owner:?}"
            );
        }
        store.commit(&mut flash, &ops).unwrap();
        model = after;
    }
}
