//! Power cuts at every word and every erasure, with torn words and pages, against a model: only the state before or the state after,
//! and nothing that was replaced or removed left in the flash.

use crate::common;
use common::{Change, Model, Store, after, assert_wiped, contents, key, ops, value};
use proptest::prelude::*;
use sekisho_nvm::ram::{RamError, RamFlash};
use sekisho_nvm::{Error, Flash, Region};
use sekisho_nvm::{Key, Prefix};

const PAGE: usize = 256;
const PAGES: usize = 8;

fn open(flash: &mut RamFlash) -> Store {
    let pages = 0..flash.pages();
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
    assert_eq!(contents(&store, &flash), model);
    (flash, model)
}

/// How often recovery found the state before and the state after, how often it was cut itself, and how often it had to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    cuts: u64,
    before: u64,
    after: u64,
    cut_again: u64,
    wrote: u64,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.before += other.before;
        self.after += other.after;
        self.cut_again += other.cut_again;
        self.wrote += other.wrote;
    }
}

/// Commits `changes` on a copy of `flash` with the power cut in unit `cut`, and again in the units `again` of the recoveries.
fn cut_often(
    flash: &RamFlash,
    model: &Model,
    changes: &[Change],
    cut: u64,
    again: &[u64],
    seed: u64,
) -> Option<Seen> {
    let mut flash = flash.clone();
    let mut store = open(&mut flash);
    flash.cut_after_units(cut, seed);
    let result = store.commit(&mut flash, &ops(changes));
    if result.is_ok() {
        return None;
    }
    assert_eq!(result, Err(Error::Flash(RamError::PowerCut)));
    flash.power_on();
    let mut seen = Seen {
        cuts: 1,
        ..Seen::default()
    };
    for (n, again) in (1..).zip(again) {
        flash.cut_after_units(*again, seed + n);
        let pages = 0..flash.pages();
        let result = Store::open(&mut flash, pages);
        flash.power_on();
        match result {
            Ok(_) => break,
            Err(error) => assert_eq!(
                error,
                Error::Flash(RamError::PowerCut),
                "cut {cut}, again {again}"
            ),
        }
        seen.cut_again += 1;
    }
    let written = flash.operations();
    let mut store = open(&mut flash);
    seen.wrote += u64::from(flash.operations() > written);
    let found = contents(&store, &flash);
    let wanted = after(model, changes);
    assert!(
        found == *model || found == wanted,
        "cut {cut}, again {again:?}, seed {seed}: neither before nor after: {found:?}, {model:?}, {changes:?}"
    );
    if found == wanted {
        seen.after += 1;
    } else {
        seen.before += 1;
    }
    let values = changes.iter().filter_map(Change::value);
    assert_wiped(&flash, model.values().chain(values), &found);
    // What is in order is not touched, and it goes on working.
    let image = flash.image();
    store = open(&mut flash);
    assert!(flash.image() == image);
    store.commit(&mut flash, &ops(changes)).unwrap();
    assert_eq!(contents(&store, &flash), wanted);
    store = open(&mut flash);
    assert_eq!(contents(&store, &flash), wanted);
    Some(seen)
}

/// Every cut of one commit, torn in `seeds` ways, with two more cuts somewhere in the recoveries. Each way has its share of the places, another one for each commit of a life.
fn sweep(flash: &RamFlash, model: &Model, changes: &[Change], seeds: u64, life: u64) -> Seen {
    let (mut seen, share) = (Seen::default(), common::share());
    for seed in 0..seeds {
        for cut in ((seed + life) % share..).step_by(usize::try_from(share).unwrap()) {
            let again = [seed * 17 + cut % 23, (seed * 5 + cut) % 29];
            let Some(one) = cut_often(flash, model, changes, cut, &again, seed * 1000 + cut) else {
                break;
            };
            seen.add(one);
        }
    }
    seen
}

fn changes(serial: &mut u32, list: &[(u16, Option<usize>)]) -> Vec<Change> {
    list.iter()
        .map(|(index, len)| match len {
            Some(len) => Change::Put(key(*index), value(serial, *len)),
            None => Change::Remove(key(*index)),
        })
        .collect()
}

fn base(serial: &mut u32) -> Vec<Change> {
    let list: Vec<_> = [40, 17, 17, 17, 4, 0].into_iter().map(Some).collect();
    changes(serial, &(0..).zip(list).collect::<Vec<_>>())
}

#[test]
fn every_cut_of_typical_transactions_gives_before_or_after() {
    let mut serial = 0;
    let s = &mut serial;
    let (flash, model) = with(PAGE, PAGES, &[&base(s)]);
    // PUT KEY over a key set: three keys and what is said about them.
    let put_key = changes(s, &[(1, Some(33)), (2, Some(33)), (3, Some(33)), (0, Some(43))]);
    // A counter, as at every INITIALIZE UPDATE.
    let count = changes(s, &[(4, Some(4))]);
    // DELETE of everything, and of what is not there.
    let delete: Vec<_> = (0..8).map(|index| (index, None)).collect();
    let delete = changes(s, &delete);
    // One key several times in one transaction.
    let again = changes(
        s,
        &[(9, Some(8)), (9, Some(12)), (9, None), (1, None), (1, Some(5))],
    );
    // Owners and objects, what is made before and behind in the same transaction too.
    let all = vec![
        Change::Put(key(12), value(s, 20)),
        Change::RemoveAll(Prefix::Owner(0x0100)),
        Change::RemoveAll(Prefix::Object(0x0101, 4)),
        Change::Put(key(3), value(s, 24)),
    ];
    let owner = vec![Change::RemoveAll(Prefix::Owner(0x0101))];
    for (what, changes) in [
        ("PUT KEY", put_key),
        ("a counter", count),
        ("removing", delete),
        ("one key again", again),
        ("prefixes", all),
        ("an owner", owner),
    ] {
        let seen = sweep(&flash, &model, &changes, if crate::INDEX < 8 { 5 } else { 16 }, 0);
        println!("{what}: {seen:?}");
        assert!(seen.before > 0 && seen.after > 0 && seen.cut_again > 0 && seen.wrote > 0);
    }
}

/// A store whose pages all hold something that is dead and something that is not, shortly before the next page is to be begun.
fn worn(serial: &mut u32, pages: usize, until: impl Fn(&Store) -> bool) -> (RamFlash, Model) {
    let mut flash = RamFlash::strict(PAGE, pages);
    let mut store = Store::format(&mut flash, 0..pages).unwrap();
    let mut model = Model::new();
    for round in 0..1000_u16 {
        let index = if round % 3 == 0 {
            round / 3 % 9
        } else {
            9 + round % 3
        };
        let change = changes(serial, &[(index, Some(20 + usize::from(round % 3) * 6))]);
        if until(&store) && round > 60 {
            return (flash, model);
        }
        store.commit(&mut flash, &ops(&change)).unwrap();
        model = after(&model, &change);
    }
    panic!("never as it should be");
}

#[test]
fn every_cut_of_a_commit_that_compacts_gives_before_or_after() {
    let mut serial = 0;
    let s = &mut serial;
    for step in 0..if crate::INDEX < 8 { 4 } else { 12 } {
        let (flash, model) = worn(s, PAGES, |store| store.epoch() >= 12 + step);
        let last = changes(
            s,
            &[
                (2, Some(70)),
                (3, Some(9)),
                (0, None),
                (11, Some(60)),
                (1, Some(80)),
            ],
        );
        let mut copy = flash.clone();
        let mut store = open(&mut copy);
        let erasures = copy.erasures().iter().sum::<u32>();
        store.commit(&mut copy, &ops(&last)).unwrap();
        assert_eq!(contents(&store, &copy), after(&model, &last));
        let erasures = copy.erasures().iter().sum::<u32>() - erasures;
        let seen = sweep(&flash, &model, &last, 2, step.into());
        println!("{erasures} erasures: {seen:?}");
        assert!(seen.before > 0 && seen.after > 0 && seen.cut_again > 0 && seen.wrote > 0);
        assert!(erasures > 0);
    }
}

#[test]
fn every_cut_of_every_recovery_gives_before_or_after() {
    let mut serial = 0;
    let s = &mut serial;
    let (flash, model) = with(
        192,
        4,
        &[
            &changes(s, &[(0, Some(8)), (1, Some(5))]),
            &changes(s, &[(2, Some(12))]),
        ],
    );
    let mut all = Seen::default();
    for change in [
        changes(s, &[(0, Some(12)), (1, None)]),
        vec![
            Change::RemoveAll(Prefix::Owner(0x0101)),
            Change::Put(key(0), value(s, 16)),
        ],
    ] {
        for cut in 0.. {
            let mut was_cut = false;
            for seed in 0..4 {
                for again in 0.. {
                    let seed = seed * 7919 + cut * 31 + again;
                    let third = (again * 7 + cut) % 40;
                    let seen = cut_often(&flash, &model, &change, cut, &[again, third], seed);
                    let Some(seen) = seen else { break };
                    was_cut = true;
                    all.add(seen);
                    if seen.cut_again == 0 {
                        break;
                    }
                }
            }
            if !was_cut {
                break;
            }
        }
    }
    println!("{all:?}");
    assert!(
        all.cut_again > 500 && all.before > 100 && all.after > 100,
        "{all:?}"
    );
}

#[test]
fn every_cut_of_a_long_life_gives_before_or_after() {
    let mut flash = RamFlash::strict(PAGE, PAGES);
    let mut store = Store::format(&mut flash, 0..PAGES).unwrap();
    let (mut model, mut serial, mut gone, mut all) = (Model::new(), 0, Vec::new(), Seen::default());
    let rounds = if crate::INDEX < 8 { 60 } else { 150 };
    for round in 0..rounds {
        // A few keys, replaced, removed and made anew, one to four at a time: compactions come by themselves.
        let list: Vec<_> = (0..=round % 4)
            .map(|n| {
                let len = usize::from((round * 13 + n * 29) % 60);
                ((round * 5 + n * 3) % 11, ((round + n) % 5 != 0).then_some(len))
            })
            .collect();
        let mut changes = changes(&mut serial, &list);
        if round % 9 == 8 {
            changes.insert(1, Change::RemoveAll(Prefix::Owner(0x0100 + round % 3)));
        }
        all.add(sweep(&flash, &model, &changes, 2, round.into()));
        gone.extend(model.values().cloned());
        store.commit(&mut flash, &ops(&changes)).unwrap();
        model = after(&model, &changes);
        assert_eq!(contents(&store, &flash), model);
        assert_wiped(&flash, &gone, &model);
        store = open(&mut flash);
    }
    println!("{all:?}; {} pages begun", store.epoch());
    assert!(store.epoch() > 20, "no compaction was among it");
    assert!(all.cuts > 3000 / common::share(), "only {all:?}");
}

#[test]
fn a_cut_while_formatting_leaves_no_store_or_the_old_one() {
    let (mut none, mut old) = (0, 0);
    for cut in 0..40 {
        for seed in 0..16 {
            let (mut flash, model) = worn(&mut 0, PAGES, |store| store.epoch() >= 12);
            flash.cut_after_units(cut, seed);
            let _unmade = Store::format(&mut flash, 0..PAGES);
            flash.power_on();
            match Store::open(&mut flash, 0..PAGES) {
                Ok(store) => {
                    let found = contents(&store, &flash);
                    assert!(found.is_empty() || found == model);
                    old += usize::from(found == model);
                }
                Err(error) => {
                    assert_eq!(error, Error::NotFormatted, "cut {cut}, seed {seed}");
                    none += 1;
                }
            }
            let mut store = Store::format(&mut flash, 0..PAGES).unwrap();
            assert_wiped(&flash, model.values(), &Model::new());
            store
                .commit(
                    &mut flash,
                    &ops(&[Change::Put(Key::new(1, 2, 3), b"works".to_vec())]),
                )
                .unwrap();
        }
    }
    println!("no store {none} times, the old one {old} times");
    assert!(none > 100 && old > 10);
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
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn random_histories_with_random_cuts_agree_with_the_model(
        history in proptest::collection::vec(
            (proptest::collection::vec((0_u16..9, proptest::option::of(0_usize..80), 0_u8..12), 1..4), proptest::option::weighted(0.4, 0_u64..160)),
            1..80,
        ),
        mut seed in any::<u64>(),
    ) {
        let mut flash = RamFlash::strict(PAGE, PAGES);
        let mut store = Store::format(&mut flash, 0..PAGES).unwrap();
        let (mut model, mut serial, mut gone) = (Model::new(), 0, Vec::new());
        for (list, cut) in history {
            let changes: Vec<_> = list.iter().map(|(index, len, all)| match (len, all) {
                (_, 0) => Change::RemoveAll(Prefix::Owner(key(*index).owner)),
                (_, 1) => Change::RemoveAll(Prefix::Object(key(*index).owner, *index)),
                (Some(len), _) => Change::Put(key(*index), value(&mut serial, *len)),
                (None, _) => Change::Remove(key(*index)),
            }).collect();
            let wanted = after(&model, &changes);
            gone.extend(changes.iter().filter_map(|change| change.value().cloned()));
            if let Some(cut) = cut {
                seed = seed.wrapping_add(1);
                flash.cut_after_units(cut, seed);
            }
            match store.commit(&mut flash, &ops(&changes)) {
                Ok(()) => model = wanted,
                Err(Error::Full) => prop_assert!(common::size(&wanted) > store.capacity()),
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
