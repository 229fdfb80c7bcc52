//! Damaged and foreign flash: an error or what was written, never another value, never a panic.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Model, Store, contents, try_contents};
use proptest::prelude::*;
use sekisho_nvm::ram::{RamError, RamFlash};
use sekisho_nvm::{Error, Flash, Key, Op};

const PAGE: usize = 256;
const PAGES: usize = 4;

/// A store with live, replaced and removed records, whose last transaction replaces one. Also every value that each key ever had.
fn fixture() -> (RamFlash, Store, Vec<(Key, Vec<u8>)>) {
    let mut flash = RamFlash::new(PAGE, PAGES);
    let mut store = Store::format(&mut flash, 0..PAGES).unwrap();
    let mut ever = Vec::new();
    for n in 0..5_u8 {
        let (new, replaced) = (Key(n.into()), Key(99));
        store
            .commit(
                &mut flash,
                &[Op::Put(new, &[n + 1; 9]), Op::Put(replaced, &[n + 1; 3])],
            )
            .unwrap();
        ever.extend([(new, vec![n + 1; 9]), (replaced, vec![n + 1; 3])]);
    }
    store
        .commit(&mut flash, &[Op::Remove(Key(1)), Op::Put(Key(99), b"last")])
        .unwrap();
    ever.push((Key(99), b"last".to_vec()));
    (flash, store, ever)
}

fn flipped(image: &[u8], bit: usize) -> RamFlash {
    let mut image = image.to_vec();
    image[bit / 8] ^= 1 << (bit % 8);
    RamFlash::from_image(PAGE, &image)
}

#[test]
fn a_bit_changed_at_rest_is_an_error_or_makes_no_difference() {
    let (flash, store, _) = fixture();
    let (model, image) = (contents(&store, &flash), flash.image());
    let mut errors = 0;
    for bit in 0..image.len() * 8 {
        let mut flash = flipped(&image, bit);
        match Store::open(&mut flash, 0..PAGES) {
            Ok(store) => assert_eq!(contents(&store, &flash), model, "bit {bit}"),
            Err(Error::Corrupted | Error::NotFormatted) => errors += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(errors > 500, "only {errors}");
}

#[test]
fn damage_to_a_last_transaction_that_only_makes_records_is_an_error_or_undoes_it() {
    let (mut flash, mut store, _) = fixture();
    let before = contents(&store, &flash);
    store
        .commit(
            &mut flash,
            &[Op::Put(Key(7), b"new"), Op::Put(Key(8), b"new too")],
        )
        .unwrap();
    let (model, image) = (contents(&store, &flash), flash.image());
    for bit in 0..image.len() * 8 {
        let mut flash = flipped(&image, bit);
        if let Ok(store) = Store::open(&mut flash, 0..PAGES) {
            let found = contents(&store, &flash);
            assert!(found == model || found == before, "bit {bit}: {found:?}");
        }
    }
}

#[test]
fn a_bit_changed_under_an_open_store_is_an_error_or_makes_no_difference() {
    let (flash, store, _) = fixture();
    let (model, image) = (contents(&store, &flash), flash.image());
    let used = image.len() / 2;
    for bit in 0..used * 8 {
        let mut flash = RamFlash::from_image(PAGE, &image);
        let mut store = Store::open(&mut flash, 0..PAGES).unwrap();
        flash = flipped(&image, bit);
        for (key, value) in &model {
            let mut out = [0; 16];
            match store.get(&flash, *key, &mut out) {
                Ok(Some(len)) => assert_eq!(&out[..len], value, "bit {bit}"),
                other => assert_eq!(other, Err(Error::Corrupted), "bit {bit}"),
            }
        }
        // Moving the records to the other half must not give a damaged value a good sum.
        let mut result = Ok(());
        let epoch = store.epoch();
        for n in 0..40_u8 {
            result = store.commit(&mut flash, &[Op::Put(Key(50), &[n; 20])]);
            if result.is_err() || store.epoch() > epoch {
                break;
            }
        }
        assert!(
            result == Err(Error::Corrupted) || store.epoch() == epoch + 1,
            "bit {bit}: {result:?}"
        );
        if let Ok(mut found) = try_contents(&store, &flash) {
            found.remove(&Key(50));
            assert_eq!(found, model, "bit {bit}");
        }
    }
}

#[test]
fn a_log_that_has_lost_its_end_is_an_error() {
    let (flash, store, _) = fixture();
    let (model, image) = (contents(&store, &flash), flash.image());
    for from in (16..PAGE * PAGES / 2).step_by(4) {
        let mut image = image.clone();
        image[from..].fill(0xFF);
        let mut flash = RamFlash::from_image(PAGE, &image);
        match Store::open(&mut flash, 0..PAGES) {
            Ok(store) => {
                let found = contents(&store, &flash);
                // Nothing tells a store that has lost its first transaction from a new one.
                assert!(
                    found == model || (found.is_empty() && from < 64),
                    "from {from}: {found:?}"
                );
            }
            Err(error) => assert_eq!(error, Error::Corrupted, "from {from}"),
        }
    }
}

#[test]
fn a_wiped_record_without_its_successor_is_an_error() {
    let mut flash = RamFlash::new(PAGE, PAGES);
    let mut store = Store::format(&mut flash, 0..PAGES).unwrap();
    for (key, value) in [(1, b"kept"), (2, b"old."), (2, b"new.")] {
        store.commit(&mut flash, &[Op::Put(Key(key), value)]).unwrap();
    }
    let mut image = flash.image();
    image[16 + 2 * 16..].fill(0xFF);
    let result = Store::open(&mut RamFlash::from_image(PAGE, &image), 0..PAGES);
    assert_eq!(result.unwrap_err(), Error::Corrupted);
}

#[test]
fn a_compaction_that_met_damage_can_be_tried_again_and_reading_goes_on() {
    let mut flash = RamFlash::strict(PAGE, PAGES);
    let mut store = Store::format(&mut flash, 0..PAGES).unwrap();
    store
        .commit(
            &mut flash,
            &[Op::Put(Key(1), b"good"), Op::Put(Key(2), b"badly kept")],
        )
        .unwrap();
    // Behind the heads of the half and of two records, and the first value.
    flash.write(16 + 12 + 4 + 12, &[0; 4]).unwrap();
    let mut refusals = 0;
    for n in 0..60_u8 {
        match store.commit(&mut flash, &[Op::Put(Key(3), &[n; 20])]) {
            Ok(()) => assert_eq!(refusals, 0),
            error => {
                assert_eq!(error, Err(Error::Corrupted));
                refusals += 1;
            }
        }
    }
    assert!(refusals > 20);
    let mut out = [0; 20];
    assert_eq!(store.get(&flash, Key(1), &mut out), Ok(Some(4)));
    assert_eq!(&out[..4], b"good");
    assert_eq!(store.get(&flash, Key(2), &mut out), Err(Error::Corrupted));
    assert_eq!(Store::open(&mut flash, 0..PAGES).unwrap_err(), Error::Corrupted);
}

#[test]
fn two_heads_that_cannot_be_of_one_store_are_no_store() {
    let head = |epoch: u32| {
        let mut flash = RamFlash::new(64, 2);
        let mut store = Store::format(&mut flash, 0..2).unwrap();
        while store.epoch() < epoch {
            store.commit(&mut flash, &[Op::Put(Key(1), &[1; 12])]).unwrap();
        }
        let image = flash.image();
        let half = if epoch.is_multiple_of(2) {
            &image[64..]
        } else {
            &image[..64]
        };
        half[..16].to_vec()
    };
    for (a, b, is_store) in [
        (1, 1, false),
        (1, 2, true),
        (3, 2, true),
        (1, 3, false),
        (5, 2, false),
    ] {
        let mut image = [0xFF; 128];
        image[..16].copy_from_slice(&head(a));
        image[64..80].copy_from_slice(&head(b));
        let result = Store::open(&mut RamFlash::from_image(64, &image), 0..2).map(|store| store.epoch());
        assert_eq!(
            result,
            if is_store {
                Ok(a.max(b))
            } else {
                Err(Error::Corrupted)
            },
            "{a} and {b}"
        );
    }
}

#[test]
fn geometry_is_checked() {
    let mut flash = RamFlash::new(16, 2);
    assert_eq!(Store::format(&mut flash, 0..1).unwrap_err(), Error::Geometry);
    assert_eq!(Store::format(&mut flash, 0..2).unwrap_err(), Error::Geometry);
    assert_eq!(
        Store::open(&mut RamFlash::new(66, 2), 0..2).unwrap_err(),
        Error::Geometry
    );
    let mut flash = RamFlash::new(PAGE, 2);
    assert_eq!(Store::format(&mut flash, 0..3).unwrap_err(), Error::Geometry);
    assert_eq!(Store::open(&mut flash, 0..2).unwrap_err(), Error::NotFormatted);
    assert_eq!(flash.memory(), 0, "looking has written nothing");
}

/// Whatever opens must be readable or say why not, and take a commit or say why not.
fn use_it(flash: &mut RamFlash, pages: usize) -> Option<Model> {
    let mut store = Store::open(flash, 0..pages).ok()?;
    let found = try_contents(&store, flash).ok();
    for n in 0..30_u8 {
        match store.commit(flash, &[Op::Put(Key(1), &[n; 20]), Op::Remove(Key(99))]) {
            Ok(()) | Err(Error::Full | Error::Corrupted | Error::Stale) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let _ = store.free();
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_flash_opens_or_says_why_not(image in proptest::collection::vec(any::<u8>(), 512), head in any::<bool>()) {
        let mut flash = RamFlash::new(128, 4);
        Store::format(&mut flash, 0..4).unwrap();
        let mut bytes = flash.image();
        let from = if head { 16 } else { 0 };
        bytes[from..].copy_from_slice(&image[from..]);
        use_it(&mut RamFlash::from_image(128, &bytes), 4);
    }

    #[test]
    fn a_store_with_changed_bytes_holds_only_what_was_written(
        changes in proptest::collection::vec((0_usize..300, any::<u8>()), 1..9),
        moved in proptest::option::of((0_usize..16, 0_usize..32)),
    ) {
        let (flash, _, ever) = fixture();
        let mut image = flash.image();
        // A piece of the store in another place, as a broken address line would have it.
        if let Some((from, to)) = moved {
            image.copy_within(from * 32..from * 32 + 32, to * 32);
        } else {
            for (at, byte) in changes {
                image[at] = byte;
            }
        }
        let mut flash = RamFlash::from_image(PAGE, &image);
        for (key, value) in use_it(&mut flash, PAGES).unwrap_or_default() {
            prop_assert!(ever.contains(&(key, value)), "{:?}", key);
        }
    }
}

/// A flash that fails at the n-th write without having lost power.
struct Failing(RamFlash, u64);

impl Flash for Failing {
    type Error = RamError;

    fn page_size(&self) -> usize {
        self.0.page_size()
    }

    fn pages(&self) -> usize {
        self.0.pages()
    }

    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), RamError> {
        self.0.read(address, out)
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), RamError> {
        self.1 = self.1.checked_sub(1).ok_or(RamError::Range)?;
        self.0.write(address, bytes)
    }

    fn erase(&mut self, page: usize) -> Result<(), RamError> {
        self.0.erase(page)
    }
}

#[test]
fn after_a_failed_write_nothing_is_committed_until_the_store_is_opened_anew() {
    for fails in 0..7 {
        let (flash, _, _) = fixture();
        let mut flash = Failing(flash, u64::MAX);
        let mut store = Store::open(&mut flash, 0..PAGES).unwrap();
        flash.1 = fails;
        let ops = [Op::Put(Key(3), b"three"), Op::Put(Key(4), b"four")];
        assert_eq!(store.commit(&mut flash, &ops), Err(Error::Flash(RamError::Range)));
        flash.1 = u64::MAX;
        assert_eq!(store.commit(&mut flash, &ops), Err(Error::Stale));
        let mut store = Store::open(&mut flash, 0..PAGES).unwrap();
        let read = |store: &Store, flash: &Failing| {
            let mut out = [0; 16];
            store
                .get(flash, Key(3), &mut out)
                .unwrap()
                .map(|len| out[..len].to_vec())
        };
        // Two heads, "three" in two pieces, "four" in one.
        let wanted = if fails < 5 { vec![4; 9] } else { b"three".to_vec() };
        assert_eq!(read(&store, &flash), Some(wanted), "write {fails}");
        store.commit(&mut flash, &ops).unwrap();
        assert_eq!(read(&store, &flash), Some(b"three".to_vec()));
    }
}
