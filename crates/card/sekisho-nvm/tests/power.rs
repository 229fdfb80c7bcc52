//! Power cuts at every word and every erasure, with torn words and pages, against a model: only the state before or the state after,
//! and nothing that was replaced or removed left in the flash.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Change, Model, Store, after, assert_wiped, contents, ops, value};
use proptest::prelude::*;
use sekisho_nvm::ram::{RamError, RamFlash};
use sekisho_nvm::{Error, Key, Op, Region};

const PAGE: usize = 256;
const PAGES: usize = 8;

fn open(flash: &mut RamFlash) -> Store {
    let pages = 0..sekisho_nvm::Flash::pages(flash);
    Store::open(flash, pages).unwrap()
}

/// A store with what `history` has put into it.
fn with(page: usize, pages: usize, history: &[&[Change]]) -> (RamFlash, Model) {
    let mut flash = RamFlash::strict(page, pages);
    let mut store = Store::format(&mut flash, 0..pages).unwrap();
    let mut model = Model::new();
    for changes in history {
        store.commit(&mut flash, &ops(changes)).unwrap();
        model = after(&model, changes);
    }
    (flash, model)
}

/// Commits `changes` on a copy of `flash` with the power cut in unit `cut`, and again in unit `again` of the recovery.
/// Gives whether commit and recovery were cut at all.
fn cut_twice(
    flash: &RamFlash,
    model: &Model,
    changes: &[Change],
    cut: u64,
    again: u64,
    seed: u64,
) -> (bool, bool) {
    let mut flash = flash.clone();
    let mut store = open(&mut flash);
    flash.cut_after_units(cut, seed);
    let result = store.commit(&mut flash, &ops(changes));
    if result.is_ok() {
        return (false, false);
    }
    assert_eq!(result, Err(Error::Flash(RamError::PowerCut)));
    flash.power_on();
    assert!(matches!(
        store.commit(&mut flash, &ops(changes)),
        Err(Error::Stale) | Ok(())
    ));
    (true, recover(flash, model, changes, again, seed))
}

/// Opens the store, cut in unit `again` as well, and looks at what it holds. Gives whether there was something to cut.
fn recover(mut flash: RamFlash, model: &Model, changes: &[Change], again: u64, seed: u64) -> bool {
    flash.cut_after_units(again, seed + 1);
    let pages = 0..sekisho_nvm::Flash::pages(&flash);
    let was_cut = Store::open(&mut flash, pages).is_err();
    flash.power_on();
    let mut store = open(&mut flash);
    let found = contents(&store, &flash);
    let wanted = after(model, changes);
    assert!(
        found == *model || found == wanted,
        "recovery cut at {again}, seed {seed}: neither before nor after"
    );
    assert_wiped(
        &flash,
        model
            .values()
            .chain(changes.iter().filter_map(|change| change.1.as_ref())),
        &found,
    );
    // It goes on working.
    store.commit(&mut flash, &ops(changes)).unwrap();
    assert_eq!(contents(&store, &flash), wanted);
    was_cut
}

/// Every cut of one commit, torn in `seeds` ways, with a second cut somewhere in the recovery. Gives the number of units.
fn sweep(flash: &RamFlash, model: &Model, changes: &[Change], seeds: u64) -> u64 {
    for cut in 0.. {
        let mut was_cut = false;
        for seed in 0..seeds {
            was_cut |= cut_twice(
                flash,
                model,
                changes,
                cut,
                seed * 17 + cut % 23,
                seed * 1000 + cut,
            )
            .0;
        }
        if !was_cut {
            return cut;
        }
    }
    0
}

fn changes(serial: &mut u32, list: &[(u16, Option<usize>)]) -> Vec<Change> {
    list.iter()
        .map(|(index, len)| (Key::new(1, 3, *index), len.map(|len| value(serial, len))))
        .collect()
}

#[test]
fn every_cut_of_typical_transactions_gives_before_or_after() {
    let mut serial = 0;
    let s = &mut serial;
    let base = changes(
        s,
        &[
            (0, Some(40)),
            (1, Some(17)),
            (2, Some(17)),
            (3, Some(17)),
            (4, Some(4)),
            (5, Some(0)),
        ],
    );
    let (flash, model) = with(PAGE, PAGES, &[&base]);
    // PUT KEY over a key set: three keys and what is said about them.
    let put_key = changes(s, &[(1, Some(33)), (2, Some(33)), (3, Some(33)), (0, Some(43))]);
    assert!(sweep(&flash, &model, &put_key, 8) > 40);
    // A counter, as at every INITIALIZE UPDATE.
    let count = changes(s, &[(4, Some(4))]);
    assert_eq!(sweep(&flash, &model, &count, 16), 3 + 1 + 1 + 1);
    // DELETE of everything, and of what is not there.
    let delete: Vec<_> = (0..8).map(|index| (index, None)).collect();
    let delete = changes(s, &delete);
    assert!(sweep(&flash, &model, &delete, 8) > 6 * 3);
    // One key several times in one transaction.
    let again = changes(
        s,
        &[(9, Some(8)), (9, Some(12)), (9, None), (1, None), (1, Some(5))],
    );
    assert!(sweep(&flash, &model, &again, 8) > 20);
}

#[test]
fn every_cut_of_a_commit_that_compacts_gives_before_or_after() {
    let mut serial = 0;
    let s = &mut serial;
    let base = changes(s, &[(0, Some(300)), (1, Some(17)), (2, Some(64))]);
    let old: Vec<_> = (0..8).map(|_| changes(s, &[(1, Some(50))])).collect();
    let mut history: Vec<&[Change]> = vec![&base];
    history.extend(old.iter().map(Vec::as_slice));
    let (flash, model) = with(PAGE, PAGES, &history);
    let last = changes(s, &[(2, Some(70)), (3, Some(9)), (0, None)]);
    let mut copy = flash.clone();
    let mut store = open(&mut copy);
    let epoch = store.epoch();
    store.commit(&mut copy, &ops(&last)).unwrap();
    assert_eq!(store.epoch(), epoch + 1, "no compaction was needed");
    assert!(sweep(&flash, &model, &last, 4) > 100);
}

#[test]
fn every_cut_of_every_recovery_gives_before_or_after() {
    let mut serial = 0;
    let s = &mut serial;
    let base = changes(s, &[(0, Some(8)), (1, Some(5))]);
    let (flash, model) = with(64, 4, &[&base]);
    let change = changes(s, &[(0, Some(12)), (1, None)]);
    let mut pairs = 0;
    for cut in 0.. {
        let mut was_cut = false;
        for seed in 0..4 {
            for again in 0.. {
                let (cut, recovery_cut) = cut_twice(
                    &flash,
                    &model,
                    &change,
                    cut,
                    again,
                    seed * 7919 + cut * 31 + again,
                );
                was_cut |= cut;
                if !recovery_cut {
                    break;
                }
                pairs += 1;
            }
        }
        if !was_cut {
            break;
        }
    }
    assert!(pairs > 500, "only {pairs} pairs of cuts");
}

#[test]
fn every_cut_of_a_long_life_gives_before_or_after() {
    let mut flash = RamFlash::strict(PAGE, PAGES);
    let mut store = Store::format(&mut flash, 0..PAGES).unwrap();
    let (mut model, mut serial, mut gone, mut cuts) = (Model::new(), 0, Vec::new(), 0);
    for round in 0..60_u16 {
        // A few keys, replaced, removed and made anew, one to four at a time: compactions come by themselves.
        let list: Vec<_> = (0..=round % 4)
            .map(|n| {
                let len = usize::from((round * 13 + n * 29) % 60);
                ((round * 5 + n * 3) % 7, ((round + n) % 5 != 0).then_some(len))
            })
            .collect();
        let changes = changes(&mut serial, &list);
        cuts += sweep(&flash, &model, &changes, 2);
        gone.extend(model.values().cloned());
        store.commit(&mut flash, &ops(&changes)).unwrap();
        model = after(&model, &changes);
        assert_eq!(contents(&store, &flash), model);
        assert_wiped(&flash, &gone, &model);
        store = open(&mut flash);
    }
    assert!(store.epoch() > 3, "no compaction was among it");
    assert!(cuts > 1500, "only {cuts} cuts");
}

#[test]
fn a_cut_while_formatting_leaves_no_store_or_a_new_one() {
    for cut in 0..16 {
        for seed in 0..8 {
            let mut flash = RamFlash::strict(PAGE, PAGES);
            let mut store = Store::format(&mut flash, 0..PAGES).unwrap();
            let secret = Model::from([(Key(1), b"an old secret".to_vec())]);
            store
                .commit(&mut flash, &[Op::Put(Key(1), b"an old secret")])
                .unwrap();
            flash.cut_after_units(cut, seed);
            let _ = Store::format(&mut flash, 0..PAGES);
            flash.power_on();
            match Store::open(&mut flash, 0..PAGES) {
                Ok(store) => {
                    let found = contents(&store, &flash);
                    assert!(found.is_empty() || found == secret);
                }
                Err(error) => assert!(matches!(error, Error::NotFormatted | Error::Corrupted), "{error}"),
            }
            let mut store = Store::format(&mut flash, 0..PAGES).unwrap();
            assert_wiped(&flash, secret.values(), &Model::new());
            store.commit(&mut flash, &[Op::Put(Key(2), b"works")]).unwrap();
        }
    }
}

#[test]
fn a_page_of_a_region_that_only_looks_erased_is_erased_again() {
    for seed in 0..32 {
        let mut flash = RamFlash::strict(PAGE, PAGES);
        let region = Region::new(6..8);
        region.write(&mut flash, PAGE, &[0x5A; 64]).unwrap();
        flash.cut_after_units(0, seed);
        assert!(region.erase(&mut flash, 1).is_err());
        flash.power_on();
        // The flash refuses to write into a page whose erasure was cut.
        region.erase(&mut flash, 1).unwrap();
        region.write(&mut flash, PAGE, &[0xA5; PAGE]).unwrap();
        let mut page = [0; PAGE];
        region.read(&flash, PAGE, &mut page).unwrap();
        assert_eq!(page, [0xA5; PAGE]);
        region.wipe(&mut flash).unwrap();
        assert!(flash.image().iter().all(|byte| *byte == 0xFF));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn random_histories_with_random_cuts_agree_with_the_model(
        history in proptest::collection::vec(
            (proptest::collection::vec((0_u16..6, proptest::option::of(0_usize..80)), 1..4), proptest::option::weighted(0.4, 0_u64..120)),
            1..60,
        ),
        mut seed in any::<u64>(),
    ) {
        let mut flash = RamFlash::strict(PAGE, PAGES);
        let mut store = Store::format(&mut flash, 0..PAGES).unwrap();
        let (mut model, mut serial, mut gone) = (Model::new(), 0, Vec::new());
        for (list, cut) in history {
            let changes = changes(&mut serial, &list);
            let wanted = after(&model, &changes);
            gone.extend(changes.iter().filter_map(|change| change.1.clone()));
            if let Some(cut) = cut {
                seed = seed.wrapping_add(1);
                flash.cut_after_units(cut, seed);
            }
            match store.commit(&mut flash, &ops(&changes)) {
                Ok(()) => model = wanted,
                Err(Error::Full) => {}
                Err(error) => {
                    prop_assert_eq!(error, Error::Flash(RamError::PowerCut));
                    // Up to five more cuts while recovering.
                    for more in 0..5 {
                        flash.power_on();
                        flash.cut_after_units((seed >> more) % 90, seed ^ more);
                        if Store::open(&mut flash, 0..PAGES).is_ok() {
                            break;
                        }
                    }
                    flash.power_on();
                    store = Store::open(&mut flash, 0..PAGES).unwrap();
                    let found = contents(&store, &flash);
                    prop_assert!(found == model || found == wanted);
                    model = found;
                }
            }
            flash.power_on();
            prop_assert_eq!(&contents(&store, &flash), &model);
            assert_wiped(&flash, &gone, &model);
        }
    }
}
