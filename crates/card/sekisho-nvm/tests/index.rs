//! The index changes no byte of the flash and no answer, whatever its size; and it saves the reads that the crate's page says it does.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::cell::Cell;
use std::ops::Range;

use common::{Change, ops, value};
use proptest::prelude::*;
use sekisho_nvm::ram::{RamError, RamFlash};
use sekisho_nvm::{Error, Flash, Key, Op, Slot, Slots, Store};

const PAGE: usize = 256;
const PAGES: usize = 8;

/// A flash that counts what is read.
struct Counting {
    flash: RamFlash,
    reads: Cell<usize>,
}

impl Counting {
    fn new(flash: RamFlash) -> Self {
        Self {
            flash,
            reads: Cell::new(0),
        }
    }

    /// Reads since it was last asked.
    fn reads(&self) -> usize {
        self.reads.take()
    }
}

impl Flash for Counting {
    type Error = RamError;

    fn page_size(&self) -> usize {
        self.flash.page_size()
    }

    fn pages(&self) -> usize {
        self.flash.pages()
    }

    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), RamError> {
        self.reads.set(self.reads.get() + 1);
        self.flash.read(address, out)
    }

    fn mapped(&self, range: Range<usize>) -> Option<&[u8]> {
        self.flash.mapped(range)
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), RamError> {
        self.flash.write(address, bytes)
    }

    fn erase(&mut self, page: usize) -> Result<(), RamError> {
        self.flash.erase(page)
    }
}

/// What stands after a commit: its result, the values, the free bytes, the epoch and the flash.
type Seen = (
    Result<(), Error<RamError>>,
    Vec<Option<Vec<u8>>>,
    usize,
    u32,
    Vec<u8>,
);

/// What is seen in the course of a history with an index of some size.
fn live<I: Slots>(history: &[(Vec<Change>, bool)]) -> Vec<Seen> {
    let mut flash = RamFlash::strict(PAGE, PAGES);
    let mut store = Store::<I>::format(&mut flash, 0..PAGES).unwrap();
    let mut seen = Vec::new();
    for (changes, opens_anew) in history {
        let result = store.commit(&mut flash, &ops(changes));
        if *opens_anew {
            store = Store::open(&mut flash, 0..PAGES).unwrap();
        }
        let values = (0..12).map(|index| {
            let (key, mut out) = (Key::new(1, 3, index), [0; 80]);
            let len = store.get(&flash, key, &mut out).unwrap();
            assert_eq!(store.len_of(&flash, key), Ok(len));
            len.map(|len| out[..len].to_vec())
        });
        seen.push((
            result,
            values.collect(),
            store.free(),
            store.epoch(),
            flash.image(),
        ));
    }
    seen
}

/// 39 records, as an SE with a file system has them, several of them written often.
fn with_39_records<I: Slots>() -> (Counting, Store<I>) {
    let mut flash = Counting::new(RamFlash::strict(4096, 8));
    let mut store = Store::<I>::format(&mut flash, 0..8).unwrap();
    for round in 0..8 {
        for index in 0..if round == 0 { 39 } else { 20 } {
            let len = if index % 5 == 0 { 128 } else { 32 };
            store
                .commit(
                    &mut flash,
                    &[Op::Put(Key::new(1, 3, index), &[round; 128][..len])],
                )
                .unwrap();
        }
    }
    flash.reads();
    (flash, store)
}

#[test]
fn two_reads_for_a_value_one_for_a_commit_and_none_for_what_is_not_there() {
    let (mut flash, mut store) = with_39_records::<[Slot; 48]>();
    let mut out = [0; 128];
    for index in 0..39 {
        store
            .get(&flash, Key::new(1, 3, index), &mut out)
            .unwrap()
            .unwrap();
        assert_eq!(flash.reads(), 2, "get of {index}");
        store.len_of(&flash, Key::new(1, 3, index)).unwrap().unwrap();
        assert_eq!(flash.reads(), 1, "length of {index}");
    }
    for index in 39..200 {
        assert_eq!(store.get(&flash, Key::new(1, 3, index), &mut out), Ok(None));
        store
            .commit(&mut flash, &[Op::Remove(Key::new(1, 3, index))])
            .unwrap();
    }
    let _ = store.free();
    assert_eq!(flash.reads(), 0, "what is not there, and the free bytes");
    let epoch = store.epoch();
    let key = |index| Key::new(1, 3, index);
    for (ops, reads) in [
        (&[Op::Put(key(1), &[9; 32])][..], 1),
        (&[Op::Put(key(100), &[9; 32])], 0),
        (
            &[
                Op::Put(key(1), &[8; 32]),
                Op::Put(key(2), &[8; 16]),
                Op::Put(key(3), &[8; 32]),
            ],
            3,
        ),
        (&[Op::Remove(key(100))], 2),
    ] {
        store.commit(&mut flash, ops).unwrap();
        assert_eq!(flash.reads(), reads, "{ops:?}");
    }
    assert_eq!(store.epoch(), epoch, "no compaction was among them");
    // Without an index each of them walks over the log.
    let (mut flash, mut store) = with_39_records::<[Slot; 0]>();
    store.get(&flash, key(7), &mut out).unwrap().unwrap();
    assert!(flash.reads() > 39);
    store.commit(&mut flash, &[Op::Put(key(1), &[9; 32])]).unwrap();
    assert!(flash.reads() > 39);
}

#[test]
fn two_keys_that_look_alike_to_the_index_are_two_records() {
    let (a, b) = (Key(4378), Key(4379));
    let mut flash = Counting::new(RamFlash::strict(PAGE, PAGES));
    let mut store = Store::<[Slot; 8]>::format(&mut flash, 0..PAGES).unwrap();
    let get = |store: &Store, flash: &Counting, key| {
        let mut out = [0; 8];
        let len = store.get(flash, key, &mut out).unwrap();
        len.map(|len| out[..len].to_vec())
    };
    store.commit(&mut flash, &[Op::Put(a, b"a")]).unwrap();
    assert_eq!(get(&store, &flash, b), None);
    store.commit(&mut flash, &[Op::Remove(b)]).unwrap();
    assert_eq!(get(&store, &flash, a), Some(b"a".to_vec()));
    store
        .commit(&mut flash, &[Op::Put(b, b"b"), Op::Put(a, b"A")])
        .unwrap();
    for _ in 0..2 {
        assert_eq!(get(&store, &flash, a), Some(b"A".to_vec()));
        assert_eq!(get(&store, &flash, b), Some(b"b".to_vec()));
        store = Store::open(&mut flash, 0..PAGES).unwrap();
    }
    store.commit(&mut flash, &[Op::Remove(a)]).unwrap();
    assert_eq!(
        (get(&store, &flash, a), get(&store, &flash, b)),
        (None, Some(b"b".to_vec()))
    );
}

/// The largest store that is to come: 2,000 records in 512 KB, written over and over.
#[test]
fn two_thousand_records_in_half_a_megabyte_are_found_as_quickly() {
    const RECORDS: u32 = 2000;
    type Large = Store<[Slot; 2500]>;
    let mut flash = Counting::new(RamFlash::strict(4096, 128));
    let mut store = Box::new(Large::format(&mut flash, 0..128).unwrap());
    let key = |n: u32| Key(0x0160_0000 + (n % 16) * 0x0001_0000 + n / 16);
    let len = |n: u32| usize::try_from(n * 7 % 129).unwrap();
    let mut written = vec![0_u8; 2000];
    let (mut state, mut most, mut in_all, mut compactions) = (1_u32, 0, 0, 0);
    for round in 0..14_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let n = if round < RECORDS {
            round
        } else {
            (state >> 8) % RECORDS
        };
        let value = u8::try_from(round % 251).unwrap();
        written[usize::try_from(n).unwrap()] = value;
        let epoch = store.epoch();
        flash.reads();
        store
            .commit(&mut flash, &[Op::Put(key(n), &[value; 128][..len(n)])])
            .unwrap();
        let reads = flash.reads();
        if store.epoch() == epoch {
            most = most.max(reads);
            in_all += reads;
        } else {
            compactions += 1;
        }
    }
    println!(
        "{compactions} compactions; a commit beside them makes {most} reads at most, {in_all} in all 14,000"
    );
    assert!(most <= 2 && in_all < 14_010 && compactions >= 3);
    let check = |flash: &Counting, store: &Large| {
        flash.reads();
        let (mut most, mut in_all) = (0, 0);
        for (n, value) in (0..).zip(&written) {
            let mut out = [0; 128];
            let found = store.get(flash, key(n), &mut out).unwrap().unwrap();
            assert!(found == len(n) && out[..found].iter().all(|byte| byte == value));
            let reads = flash.reads();
            (most, in_all) = (most.max(reads), in_all + reads);
        }
        println!("get makes {most} reads at most, {in_all} for 2,000 records");
        assert!(most <= 3 && in_all <= 4010);
    };
    check(&flash, &store);
    *store = Large::open(&mut flash, 0..128).unwrap();
    let reads = flash.reads();
    println!("open makes {reads} reads");
    assert!(reads < 3 * 2000);
    check(&flash, &store);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_index_of_any_size_gives_the_same_answers_and_the_same_flash(
        history in proptest::collection::vec(
            (proptest::collection::vec((0_u16..12, proptest::option::weighted(0.7, 0_usize..80)), 0..5), any::<bool>()),
            1..60,
        ),
    ) {
        let mut serial = 0;
        let history: Vec<_> = history
            .iter()
            .map(|(list, opens_anew)| {
                let changes: Vec<Change> =
                    list.iter().map(|(index, len)| (Key::new(1, 3, *index), len.map(|len| value(&mut serial, len)))).collect();
                (changes, *opens_anew)
            })
            .collect();
        let wanted = live::<[Slot; 64]>(&history);
        for found in [
            live::<[Slot; 12]>(&history),
            live::<[Slot; 5]>(&history),
            live::<[Slot; 1]>(&history),
            live::<[Slot; 0]>(&history),
        ] {
            prop_assert!(found == wanted);
        }
    }
}
