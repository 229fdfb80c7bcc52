//! Room, wear and reads: the figures of the crate's page, counted.

use crate::common;

#[allow(dead_code, reason = "every test here has a store of its own size")]
use std::cell::Cell;

use common::key;
use sekisho_nvm::ram::{RamError, RamFlash};
use sekisho_nvm::{Error, Flash, Key, Memory, Op, Ram, Store};

/// A flash that counts what is read.
struct Counting {
    flash: RamFlash,
    reads: Cell<usize>,
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

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), RamError> {
        self.flash.write(address, bytes)
    }

    fn erase(&mut self, page: usize) -> Result<(), RamError> {
        self.flash.erase(page)
    }
}

/// Filled to the last word with records of one length, and written over and over by commits of several of them: there is always room, and one erasure is enough.
#[test]
fn as_long_as_what_it_replaces_always_goes_with_one_erasure() {
    for (len, at_once) in [
        (4, 1),
        (32, 1),
        (48, 10),
        (128, 1),
        (24, 1),
        (24, 12),
        (128, 8),
        (300, 3),
        (1000, 1),
        (1024, 1),
    ] {
        let mut flash = RamFlash::strict(4096, 8);
        let mut store = Store::<Ram<1200, 8, 4>>::format(&mut flash, 0..8).unwrap();
        let mut count = 0;
        while store
            .commit(&mut flash, &[Op::Put(key(count), &vec![1; len])])
            .is_ok()
        {
            count += 1;
        }
        assert!(store.free() < 16 + len);
        let (mut state, mut most, mut in_all) = (1_u32, 0, 0);
        for round in 0..1500_u16 {
            let value = vec![round.to_be_bytes()[1]; len];
            let keys: Vec<_> = (0..at_once)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    key(u16::try_from(state >> 16).unwrap() % count)
                })
                .collect();
            let ops: Vec<_> = keys.iter().map(|key| Op::Put(*key, &value)).collect();
            let before: u32 = flash.erasures().iter().sum();
            assert_eq!(
                store.commit(&mut flash, &ops),
                Ok(()),
                "{len} bytes, {at_once} at once, {round}"
            );
            let erasures = flash.erasures().iter().sum::<u32>() - before;
            (most, in_all) = (most.max(erasures), in_all + erasures);
        }
        println!(
            "{count} records of {len} bytes, {at_once} at once: {most} erasures at most, {in_all} in 1,500 commits"
        );
        assert!(most <= 1);
        assert_eq!(
            store.commit(&mut flash, &[Op::Put(key(2000), &vec![1; len])]),
            Err(Error::Full)
        );
        Store::<Ram<1200, 8, 4>>::open(&mut flash, 0..8).unwrap();
    }
}

/// What an owner's records take is known without a read, of one who has none too, as long as there are no more owners than the memory is for.
#[test]
fn what_an_owner_takes_costs_no_read() {
    let flash = RamFlash::strict(1024, 8);
    let mut flash = Counting {
        flash,
        reads: Cell::new(0),
    };
    let mut store = Store::<Ram<64, 8, 4>>::format(&mut flash, 0..8).unwrap();
    for owner in 1..=4 {
        store
            .commit(&mut flash, &[Op::Put(Key::new(owner, 0, 0), &[1; 20])])
            .unwrap();
    }
    let reads = flash.reads.get();
    for (owner, used) in [(1, 36), (4, 36), (5, 0), (0x0999, 0)] {
        assert_eq!(store.used(&flash, owner), Ok(used));
    }
    assert_eq!(flash.reads.get(), reads);
    // A fifth one is counted on the flash.
    store
        .commit(&mut flash, &[Op::Put(Key::new(5, 0, 0), &[1; 20])])
        .unwrap();
    assert_eq!((store.used(&flash, 5), store.used(&flash, 4)), (Ok(36), Ok(36)));
}

/// After a start nothing is known of the pages that are free: commits that erase nothing else see to one before it is needed.
#[test]
fn what_a_start_does_not_know_costs_no_second_erasure() {
    let mut flash = RamFlash::strict(1024, 8);
    let mut store = Store::<Ram<200, 8, 4>>::format(&mut flash, 0..8).unwrap();
    let mut count = 0;
    while store.commit(&mut flash, &[Op::Put(key(count), &[1; 20])]).is_ok() {
        count += 1;
    }
    let (mut state, mut starts) = (1_u32, 0);
    for round in 0..1500_u16 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let key = key(u16::try_from(state >> 16).unwrap() % count);
        let (epoch, before) = (store.epoch(), flash.erasures().iter().sum::<u32>());
        store
            .commit(&mut flash, &[Op::Put(key, &[round.to_be_bytes()[1]; 20])])
            .unwrap();
        let erasures = flash.erasures().iter().sum::<u32>() - before;
        assert!(erasures <= 1, "{erasures} in round {round}");
        if store.epoch() != epoch {
            store = Store::open(&mut flash, 0..8).unwrap();
            starts += 1;
        }
    }
    assert!(starts > 50, "{starts}");
}

/// What the largest store that is to come reads: 2,000 records in 512 KB, written over and over.
#[derive(Debug)]
struct Reads {
    /// Of a commit of one record that begins no page, at most.
    commit: usize,
    /// Of one that begins a page and compacts another, at most.
    compacting: usize,
    /// Of `get`, at most and for all records.
    get: (usize, usize),
    /// Of `get` for what is not there.
    nothing: usize,
    open: usize,
}

const RECORDS: u32 = 2000;

fn name(n: u32) -> Key {
    let owner = 0x0160 + u16::try_from(n % 16).unwrap();
    Key::new(owner, u16::try_from(n / 16).unwrap(), 0)
}

fn large<M: Memory>() -> Reads {
    let mut flash = Counting {
        flash: RamFlash::strict(4096, 128),
        reads: Cell::new(0),
    };
    let mut store = Box::new(Store::<M>::format(&mut flash, 0..128).unwrap());
    let len = |n: u32| usize::try_from(n * 7 % 129).unwrap();
    let mut written = vec![0_u8; 2000];
    let (mut state, mut commit, mut compacting) = (1_u32, 0, 0);
    for round in 0..14_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let n = if round < RECORDS {
            round
        } else {
            (state >> 8) % RECORDS
        };
        let value = u8::try_from(round % 251).unwrap();
        written[usize::try_from(n).unwrap()] = value;
        flash.reads.set(0);
        let (before, pages): (u32, _) = (flash.flash.erasures().iter().sum(), store.epoch());
        store
            .commit(&mut flash, &[Op::Put(name(n), &[value; 128][..len(n)])])
            .unwrap();
        let erasures = flash.flash.erasures().iter().sum::<u32>() - before;
        assert!(erasures <= 1);
        if erasures == 0 && store.epoch() == pages {
            commit = commit.max(flash.reads.get());
        }
        compacting = compacting.max(flash.reads.get());
    }
    let check = |flash: &Counting, store: &Store<M>| {
        let (mut most, mut in_all) = (0, 0);
        for (n, value) in (0..).zip(&written) {
            let mut out = [0; 128];
            flash.reads.set(0);
            let found = store.get(flash, name(n), &mut out).unwrap().unwrap();
            assert!(found == len(n) && out[..found].iter().all(|byte| byte == value));
            let reads = flash.reads.get();
            (most, in_all) = (most.max(reads), in_all + reads);
        }
        flash.reads.set(0);
        assert_eq!(store.get(flash, Key::new(9, 9, 9), &mut []), Ok(None));
        ((most, in_all), flash.reads.get())
    };
    let before = check(&flash, &store);
    flash.reads.set(0);
    *store = Store::<M>::open(&mut flash, 0..128).unwrap();
    let open = flash.reads.get();
    let (get, nothing) = check(&flash, &store).max(before);
    let reads = Reads {
        commit,
        compacting,
        get,
        nothing,
        open,
    };
    println!("{} bytes: {reads:?}", size_of::<M>());
    reads
}

#[test]
fn two_thousand_records_in_half_a_megabyte_are_found_as_quickly() {
    let reads = large::<Ram<2500, 128, 16>>();
    assert!(reads.commit <= 4 && reads.get.0 <= 3 && reads.get.1 <= 4010);
    assert!(reads.nothing == 0 && reads.open < 3 * 2000);
}

/// Beyond the index: a read for each closed page, of which there are 125 at most, one more for each that says the same of another key, and 16 for the tail.
#[test]
fn sixteen_places_for_two_thousand_records_bound_what_is_read() {
    let reads = large::<Ram<16, 128, 16>>();
    assert!(reads.get.0 <= 150 && reads.nothing <= 145 && reads.get.1 < 100 * 2000);
    assert!(reads.commit <= 155 && reads.compacting <= 260 && reads.open < 3 * 2000);
    // Half of the records have a place: half of them cost two reads.
    let half = large::<Ram<1000, 128, 16>>();
    assert!(half.get.0 <= 150 && half.get.1 < reads.get.1 && half.open < 3 * 2000);
}

/// Pages closed with directories of several blocks: some 190 records each, of which the index has four. Each is found, and no other, before and behind a start.
#[test]
fn a_directory_of_several_blocks_lists_every_record_once() {
    type Few = Ram<4, 8, 16>;
    let mut flash = RamFlash::new(4096, 8);
    let mut store = Store::<Few>::format(&mut flash, 0..8).unwrap();
    let value = |index: u16| index.to_be_bytes();
    for index in 0..600 {
        store
            .commit(&mut flash, &[Op::Put(key(index), &value(index))])
            .unwrap();
    }
    for _ in 0..2 {
        for index in 0..620 {
            let mut out = [0; 2];
            let found = store.get(&flash, key(index), &mut out).unwrap();
            assert_eq!(found.map(|_| out), (index < 600).then(|| value(index)), "{index}");
        }
        store = Store::open(&mut flash, 0..8).unwrap();
    }
    // And taken away, all but each seventh.
    for index in (0..600).filter(|index| index % 7 != 0) {
        store.commit(&mut flash, &[Op::Remove(key(index))]).unwrap();
    }
    let store = Store::<Few>::open(&mut flash, 0..8).unwrap();
    for index in 0..600 {
        let found = store.get(&flash, key(index), &mut [0; 2]).unwrap();
        assert_eq!(found.is_some(), index % 7 == 0, "{index}");
    }
}

/// Any one word of another value: an error, or what it held.
fn damage<M: Memory>() {
    let mut flash = RamFlash::new(256, 8);
    let mut store = Store::<M>::format(&mut flash, 0..8).unwrap();
    for round in 0..60_u16 {
        let index = round % 9;
        let value = [u8::try_from(round).unwrap(); 40];
        let value = if index == 4 {
            &[0; 4][..]
        } else {
            &value[..usize::from(index) * 5]
        };
        store
            .commit(&mut flash, &[Op::Put(key(index), value), Op::Remove(key(20))])
            .unwrap();
        store.commit(&mut flash, &[Op::Put(key(20), &[7; 8])]).unwrap();
    }
    let all = |store: &Store<M>, flash: &RamFlash| -> Result<Vec<_>, Error<RamError>> {
        let get = |index| {
            let mut out = [0; 64];
            Ok(store
                .get(flash, key(index), &mut out)?
                .map(|len| out[..len].to_vec()))
        };
        (0..24).map(get).collect()
    };
    let (wanted, image) = (all(&store, &flash).unwrap(), flash.image());
    let (mut right, mut refused) = (0, 0);
    for at in (0..image.len()).step_by(4) {
        for pattern in [
            [0; 4],
            [0xFF; 4],
            [0xA5, 0x5A, 0, 0xFF],
            [0, 0, 0, 1],
            [0xFF, 0xFF, 0xFE, 0xFF],
        ] {
            let mut image = image.clone();
            image[at..at + 4].copy_from_slice(&pattern);
            let mut flash = RamFlash::from_image(256, &image);
            match Store::<M>::open(&mut flash, 0..8) {
                Ok(store) => {
                    assert_eq!(all(&store, &flash), Ok(wanted.clone()), "at {at}: {pattern:?}");
                    right += 1;
                }
                Err(Error::Corrupted | Error::NotFormatted) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    println!("right {right} times, refused {refused} times");
    assert!(right > 500 && refused > 500);
}

#[test]
fn a_damaged_word_is_an_error_or_makes_no_difference() {
    damage::<Ram<32, 8, 4>>();
    // And in directories.
    damage::<Ram<2, 8, 4>>();
}
