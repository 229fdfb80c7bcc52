//! The area for bulk beside a store, against a map: power cuts at every word and erasure, damage, what is wiped, and who may read what.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::result_large_err,
    clippy::type_complexity
)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sekisho_nvm::area::{AreaError, Run, Seal, Writing};
use sekisho_nvm::ram::{RamError, RamFlash};
use sekisho_nvm::{Error, Key, Op, Ram};

const PAGE: usize = 128;
/// Pages of the store, then those of the area.
const STORE: usize = 16;
const AREA: usize = 12;
/// Runs that the area has memory for.
const PLACES: usize = 5;
/// More than there is.
const ANY: usize = 1000;

type Store = sekisho_nvm::Store<Ram<16, 16, 16>>;
type Area = sekisho_nvm::area::Area<[Run; PLACES]>;

/// What the card knows.
struct Bench {
    flash: RamFlash,
    store: Store,
    area: Area,
}

/// Owner and bytes of each run, by place.
type Model = BTreeMap<u8, (u16, Vec<u8>)>;

const fn key(place: u8) -> Key {
    Key::new(0, place as u16, 9)
}

/// No digest for products: it tells every test's content from every other one.
fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut state = 0xCBF2_9CE4_8422_2325_u64;
    let mut out = [0; 32];
    for part in out.as_chunks_mut::<8>().0 {
        for byte in bytes {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
        state = state.rotate_left(17).wrapping_add(1);
        *part = state.to_be_bytes();
    }
    out
}

/// Content whose words stand nowhere else; what is cut off from one is not FF.
fn content(serial: &mut u32, len: usize) -> Vec<u8> {
    let words = (0..).flat_map(|_| {
        *serial += 1;
        (*serial << 8 | 0x5A).to_be_bytes()
    });
    words.take(len).collect()
}

fn new_flash() -> RamFlash {
    RamFlash::strict(PAGE, STORE + AREA)
}

impl Bench {
    fn new() -> Self {
        let mut flash = new_flash();
        let store = Store::format(&mut flash, 0..STORE).unwrap();
        let mut area = Area::new(STORE..STORE + AREA);
        area.sweep(&mut flash).unwrap();
        Self { flash, store, area }
    }

    /// Boots: the store, its seals, the sweep.
    fn open(mut flash: RamFlash) -> Result<Self, (RamFlash, bool)> {
        let mut area = Area::new(STORE..STORE + AREA);
        let opened = Store::open(&mut flash, 0..STORE);
        let Ok(store) = opened else {
            return Err((flash, false));
        };
        for place in 0..area.places() {
            let mut bytes = [0; Seal::LEN];
            match store.get(&flash, key(place), &mut bytes) {
                Ok(Some(_)) => area.adopt(&flash, place, &Seal::decode(&bytes).unwrap()).unwrap(),
                Ok(None) => {}
                Err(_) => return Err((flash, false)),
            }
        }
        match area.sweep(&mut flash) {
            Ok(_) => Ok(Self { flash, store, area }),
            Err(AreaError::Flash(_)) => Err((flash, true)),
            Err(error) => panic!("{error}"),
        }
    }

    fn seal(&self, place: u8) -> Option<Seal> {
        let mut bytes = [0; Seal::LEN];
        let found = self.store.get(&self.flash, key(place), &mut bytes).unwrap();
        found.map(|len| Seal::decode(&bytes[..len]).unwrap())
    }

    fn write(&mut self, owner: u16, bytes: &[u8], piece: usize) -> Result<Writing, AreaError<RamError>> {
        let length = u32::try_from(bytes.len()).unwrap();
        let mut writing = self.area.begin(&self.flash, owner, length, ANY)?;
        for piece in bytes.chunks(piece) {
            self.area.write(&mut self.flash, &mut writing, piece)?;
        }
        let mut back = vec![0; bytes.len()];
        self.area.written(&self.flash, &writing, 0, &mut back)?;
        assert_eq!(back, bytes);
        Ok(writing)
    }

    /// Seals, and removes what it replaces, in one transaction; all that the caller of an area does.
    fn seal_over(&mut self, writing: &Writing, bytes: &[u8], old: Option<u8>) -> Result<u8, ()> {
        let (place, seal) = self.area.seal::<RamError>(writing, digest(bytes)).unwrap();
        if let Some(old) = old {
            self.area.doubt::<RamError>(old, seal.owner).unwrap();
        }
        let record = seal.encode();
        let mut ops = vec![Op::Put(key(place), &record)];
        ops.extend(old.map(|old| Op::Remove(key(old))));
        let done = self.store.commit(&mut self.flash, &ops);
        if matches!(done, Err(Error::Flash(_) | Error::Stale)) {
            return Err(());
        }
        self.settle().map_err(|_| ())?;
        done.map(|()| place).map_err(|_| ())
    }

    fn settle(&mut self) -> Result<(), AreaError<RamError>> {
        while let Some(place) = self.area.doubtful() {
            let seal = self.seal(place);
            self.area.settle(place, seal.as_ref());
        }
        self.area.tidy(&mut self.flash, ANY).map(|done| assert!(done))
    }

    fn install(&mut self, owner: u16, bytes: &[u8], piece: usize, old: Option<u8>) -> Result<u8, ()> {
        let writing = self.write(owner, bytes, piece).map_err(|_| ())?;
        self.seal_over(&writing, bytes, old)
    }

    fn remove(&mut self, place: u8, owner: u16) -> Result<(), ()> {
        self.area.doubt::<RamError>(place, owner).unwrap();
        self.store
            .commit(&mut self.flash, &[Op::Remove(key(place))])
            .map_err(|_| ())?;
        self.settle().map_err(|_| ())
    }

    /// All runs, as their owners read them, in pieces and where they stand.
    fn contents(&self) -> Model {
        let mut model = Model::new();
        for place in 0..self.area.places() {
            let Some(seal) = self.seal(place) else { continue };
            let mut bytes = vec![0; seal.length as usize];
            for (index, piece) in bytes.chunks_mut(7).enumerate() {
                let offset = u32::try_from(7 * index).unwrap();
                self.area.read(&self.flash, place, &seal, offset, piece).unwrap();
                let range = offset as usize..offset as usize + piece.len();
                if let Some(mapped) = self.area.mapped(&self.flash, place, &seal, range) {
                    assert_eq!(mapped, piece);
                }
            }
            assert_eq!(digest(&bytes), seal.digest, "not as it was sealed");
            model.insert(place, (seal.owner, bytes));
        }
        model
    }
}

/// No word of what is gone stands in the flash, and outside the runs that are there the area is blank.
fn assert_wiped(bench: &Bench, gone: &[&[u8]], live: &Model) {
    let words = |bytes: &[u8]| bytes.as_chunks::<4>().0.to_vec();
    let mut lost: BTreeSet<[u8; 4]> = gone.iter().flat_map(|bytes| words(bytes)).collect();
    for (_, bytes) in live.values() {
        lost.retain(|word| !words(bytes).contains(word));
    }
    let image = bench.flash.image();
    for (at, word) in image.as_chunks::<4>().0.iter().enumerate() {
        assert!(!lost.contains(word), "a word of what is gone, at {}", 4 * at);
    }
    let mut blank = [true; AREA];
    for place in live.keys() {
        let seal = bench.seal(*place).unwrap();
        let pages = (seal.length as usize).div_ceil(PAGE);
        blank[usize::from(seal.first)..][..pages].fill(false);
    }
    for (page, _) in blank.iter().enumerate().filter(|(_, blank)| **blank) {
        let bytes = &image[(STORE + page) * PAGE..][..PAGE];
        assert!(bytes.iter().all(|byte| *byte == 0xFF), "page {page} is not blank");
    }
}

/// What a sweep came upon.
#[derive(Debug, Default)]
struct Cases {
    cuts: u64,
    recoveries: u64,
    before: u64,
    after: u64,
}

/// Every cut of `work` on a copy of the bench's flash, torn in several ways, and a second cut in the recovery: the state before or after, whole, and nothing else in the flash.
fn sweep(
    name: &str,
    flash: &RamFlash,
    gone: &[&[u8]],
    wanted: &Model,
    work: &dyn Fn(&mut Bench) -> Result<(), ()>,
) -> Cases {
    let before = Bench::open(flash.clone()).ok().unwrap().contents();
    let mut cases = Cases::default();
    for cut in 0.. {
        let mut was_cut = false;
        for seed in 0..6_u64 {
            let mut bench = Bench::open(flash.clone()).ok().unwrap();
            bench.flash.cut_after_units(cut, seed * 1000 + cut);
            if work(&mut bench).is_ok() {
                bench.flash.power_on();
                assert_eq!(bench.contents(), *wanted);
                assert_wiped(&bench, gone, wanted);
                continue;
            }
            was_cut = true;
            assert!(bench.flash.is_off(), "{name} failed by itself at {cut}");
            cases.cuts += 1;
            let mut flash = bench.flash;
            for again in [(cut * 7 + seed * 13) % 29, (cut + seed) % 5] {
                flash.power_on();
                flash.cut_after_units(again, seed + again);
                flash = match Bench::open(flash) {
                    Ok(bench) => bench.flash,
                    Err((flash, _)) => {
                        cases.recoveries += 1;
                        flash
                    }
                };
            }
            flash.power_on();
            let mut bench = Bench::open(flash).ok().unwrap();
            let found = bench.contents();
            match &found {
                found if *found == before => cases.before += 1,
                found if found == wanted => cases.after += 1,
                _ => panic!("{name}, cut {cut}, seed {seed}: neither before nor after"),
            }
            assert_wiped(&bench, gone, &found);
            // It goes on working.
            if found == before {
                work(&mut bench).unwrap();
                assert_eq!(bench.contents(), *wanted);
                assert_wiped(&bench, gone, wanted);
            }
        }
        if !was_cut {
            break;
        }
    }
    println!("{name}: {cases:?}");
    assert!(
        cases.cuts > 30 && cases.recoveries > 10 && cases.before > 0 && cases.after > 0,
        "{name}: {cases:?}"
    );
    cases
}

#[test]
fn every_cut_of_each_step_gives_before_or_after() {
    let serial = &mut 0;
    let [first, second, third] = [150, 63, 200].map(|len| content(serial, len));
    let mut bench = Bench::new();
    bench.install(1, &first, 40, None).unwrap();
    bench.install(2, &second, 40, None).unwrap();
    let flash = bench.flash.clone();
    let model = bench.contents();
    assert_eq!(model.len(), 2);
    let all: [&[u8]; 3] = [&first, &second, &third];
    let with = |changes: &[(u8, Option<(u16, &Vec<u8>)>)]| {
        let mut model = model.clone();
        for (place, run) in changes {
            match run {
                Some((owner, bytes)) => model.insert(*place, (*owner, (*bytes).clone())),
                None => model.remove(place),
            };
        }
        model
    };
    for piece in [1, 13, PAGE, 200] {
        sweep(
            "writing and sealing",
            &flash,
            &all,
            &with(&[(2, Some((3, &third)))]),
            &|bench| bench.install(3, &third, piece, None).map(drop),
        );
    }
    sweep("removing", &flash, &all, &with(&[(0, None)]), &|bench| {
        bench.remove(0, 1)
    });
    let replaced = with(&[(0, None), (2, Some((1, &third)))]);
    let replace = |bench: &mut Bench| bench.install(1, &third, 33, Some(0)).map(drop);
    sweep("replacing", &flash, &all, &replaced, &replace);
    // Given up: nothing comes of it, whenever it is cut.
    let mut cut = 0;
    loop {
        let mut bench = Bench::open(flash.clone()).ok().unwrap();
        bench.flash.cut_after_units(cut, cut);
        let given_up = bench.write(3, &third, 50).is_ok_and(|writing| {
            bench.area.release(&writing);
            bench.area.tidy(&mut bench.flash, ANY).is_ok()
        });
        bench.flash.power_on();
        let bench = Bench::open(bench.flash).ok().unwrap();
        assert_eq!(bench.contents(), model);
        assert_wiped(&bench, &all, &model);
        if given_up {
            break;
        }
        cut += 1;
    }
    println!("given up: {cut} cuts");
    assert!(cut > 50);
}

/// Steps of wiping, one page each, cut at any of them.
#[test]
fn what_is_released_is_wiped_in_steps_and_by_the_next_sweep() {
    let serial = &mut 0;
    let bytes = content(serial, 5 * PAGE);
    for steps in 0..=5 {
        let mut bench = Bench::new();
        bench.install(1, &bytes, 100, None).unwrap();
        bench.area.doubt::<RamError>(0, 1).unwrap();
        bench
            .store
            .commit(&mut bench.flash, &[Op::Remove(key(0))])
            .unwrap();
        bench.area.settle(0, None);
        for step in 1..=steps {
            let before: u32 = bench.flash.erasures().iter().sum();
            let done = bench.area.tidy(&mut bench.flash, 1).unwrap();
            assert_eq!(bench.flash.erasures().iter().sum::<u32>() - before, 1);
            // Whether it is done is known one step later, or in one with a page to spare.
            assert!(!done || step == 5);
            assert_eq!(bench.area.used(1), 0);
        }
        assert_eq!(
            bench.area.free() == AREA,
            steps == 5,
            "a page is free when the run is wiped"
        );
        let bench = Bench::open(bench.flash).ok().unwrap();
        assert_eq!(bench.area.free(), AREA);
        assert_wiped(&bench, &[&bytes], &Model::new());
    }
}

/// A piece of at most a page costs at most one erasure, whatever came before.
#[test]
fn a_piece_costs_at_most_one_erasure() {
    let serial = &mut 0;
    let mut seen = BTreeSet::new();
    for first in 1..=PAGE {
        for piece in [1, 3, 4, 5, PAGE / 2 + 1, PAGE - 1, PAGE] {
            let mut bench = Bench::new();
            let bytes = content(serial, 4 * PAGE + 3);
            let length = u32::try_from(bytes.len()).unwrap();
            let mut writing = bench.area.begin(&bench.flash, 1, length, ANY).unwrap();
            let (head, rest) = bytes.split_at(first);
            for piece in core::iter::once(head).chain(rest.chunks(piece)) {
                let before: u32 = bench.flash.erasures().iter().sum();
                bench.area.write(&mut bench.flash, &mut writing, piece).unwrap();
                let erased = bench.flash.erasures().iter().sum::<u32>() - before;
                assert!(erased <= 1, "{first}, {}: {erased}", piece.len());
                seen.insert(erased);
            }
            bench.seal_over(&writing, &bytes, None).unwrap();
            assert_eq!(bench.contents()[&0].1, bytes);
            assert!(bench.flash.erasures()[STORE..].iter().all(|count| *count <= 1));
        }
    }
    assert_eq!(seen, BTreeSet::from([0, 1]));
}

/// Whose run it is decides, in each state of it.
#[test]
fn nobody_reads_or_writes_what_is_not_his_own() {
    let serial = &mut 0;
    let mine = content(serial, 100);
    let mut bench = Bench::new();
    let mut byte = [0];
    let gone = Err(AreaError::Gone);
    let mut writing = bench.area.begin(&bench.flash, 1, 100, ANY).unwrap();
    bench
        .area
        .write(&mut bench.flash, &mut writing, &mine[..98])
        .unwrap();
    assert_eq!(bench.area.written(&bench.flash, &writing, 95, &mut byte), Ok(()));
    assert_eq!(
        bench.area.written(&bench.flash, &writing, 96, &mut byte),
        Err(AreaError::Length),
        "not in the flash"
    );
    let short = bench.area.seal::<RamError>(&writing, digest(&mine));
    assert_eq!(short, Err(AreaError::Length));
    let more = bench.area.write(&mut bench.flash, &mut writing, &mine[..3]);
    assert_eq!(more, Err(AreaError::Length));
    bench
        .area
        .write(&mut bench.flash, &mut writing, &mine[98..])
        .unwrap();
    let unsealed = Seal {
        owner: 1,
        first: 0,
        length: 100,
        digest: digest(&mine),
    };
    assert_eq!(
        bench.area.read(&bench.flash, 0, &unsealed, 0, &mut byte),
        gone,
        "not sealed"
    );
    let (place, seal) = bench.area.seal::<RamError>(&writing, digest(&mine)).unwrap();
    assert_eq!(
        bench.area.read(&bench.flash, place, &seal, 0, &mut byte),
        gone,
        "in doubt"
    );
    assert_eq!(
        bench.area.write(&mut bench.flash, &mut writing, &[]),
        gone,
        "sealed"
    );
    bench
        .store
        .commit(&mut bench.flash, &[Op::Put(key(place), &seal.encode())])
        .unwrap();
    bench.settle().unwrap();
    assert_eq!(bench.area.read(&bench.flash, place, &seal, 99, &mut byte), Ok(()));
    assert_eq!(byte, mine[99..]);
    for other in [(2, 0, 100), (1, 1, 100), (1, 0, 1000)] {
        let (owner, first, length) = other;
        let other = Seal {
            owner,
            first,
            length,
            ..seal
        };
        assert_eq!(bench.area.read(&bench.flash, place, &other, 0, &mut byte), gone);
        assert_eq!(bench.area.mapped(&bench.flash, place, &other, 0..1), None);
    }
    assert_eq!(bench.area.doubt::<RamError>(place, 2), gone);
    assert_eq!(bench.area.doubt::<RamError>(place + 1, 1), gone);
}

/// When a run is gone its pages are another's: the old seal and the old writing reach nothing.
#[test]
fn what_was_his_own_is_not_his_when_it_is_anothers() {
    let serial = &mut 0;
    let [mine, yours] = [100, 100].map(|len| content(serial, len));
    let mut bench = Bench::new();
    let (mut byte, gone) = ([0], Err(AreaError::Gone));
    let writing = bench.write(1, &mine, 30).unwrap();
    let place = bench.seal_over(&writing, &mine, None).unwrap();
    let seal = bench.seal(place).unwrap();
    for (offset, len) in [(100, 1), (99, 2), (0, 101), (u32::MAX, 1)] {
        let read = bench
            .area
            .read(&bench.flash, place, &seal, offset, &mut vec![0; len]);
        assert_eq!(read, Err(AreaError::Length), "{offset}, {len}");
    }
    assert_eq!(bench.area.mapped(&bench.flash, place, &seal, 99..101), None);
    bench.remove(place, 1).unwrap();
    assert_eq!(bench.install(2, &yours, 30, None), Ok(place));
    assert_eq!(bench.seal(place).unwrap().first, seal.first, "the same pages");
    assert_eq!(bench.area.read(&bench.flash, place, &seal, 0, &mut byte), gone);
    assert_eq!(bench.area.written(&bench.flash, &writing, 0, &mut byte), gone);
    bench.area.release(&writing);
    assert_eq!(bench.contents()[&place], (2, yours));
}

/// One run is written at a time by an owner, and quotas count it; what is refused changes nothing.
#[test]
fn quota_room_and_places() {
    let mut bench = Bench::new();
    let full = |result: Result<Writing, AreaError<RamError>>| matches!(result, Err(AreaError::Full));
    let mut begin = |owner, pages: usize, quota| {
        let length = u32::try_from(pages * PAGE).unwrap();
        bench.area.begin(&bench.flash, owner, length, quota)
    };
    assert!(matches!(begin(1, 0, ANY), Err(AreaError::Length)));
    assert!(full(begin(1, AREA + 1, ANY)));
    assert!(full(begin(1, 3, 2)));
    let first = begin(1, 3, 3).unwrap();
    // The unfinished one is given up for another, for which the quota is there; its pages are not, before they are wiped.
    let second = begin(1, 2, 3).unwrap();
    assert_eq!(
        bench.area.written(&bench.flash, &first, 0, &mut []),
        Err(AreaError::Gone)
    );
    assert_eq!((bench.area.used(1), bench.area.free()), (2, AREA - 5));
    assert_eq!(bench.area.tidy(&mut bench.flash, ANY), Ok(true));
    assert_eq!(
        (bench.area.used(1), bench.area.free(), bench.area.largest()),
        (2, AREA - 2, AREA - 5)
    );
    // First fit: the gap in front, if it is long enough.
    let third = bench.write(2, &[1; 3 * PAGE], 9).unwrap();
    let (_, seal) = bench.area.seal::<RamError>(&third, [0; 32]).unwrap();
    assert_eq!(seal.first, 0);
    // Who held a run that was given up does not hold the one that takes its place.
    bench.area.release(&third);
    bench.area.settle(0, None);
    bench.area.tidy(&mut bench.flash, ANY).unwrap();
    let mut stale = bench.area.begin(&bench.flash, 2, 3, ANY).unwrap();
    bench.area.release(&stale);
    bench.area.tidy(&mut bench.flash, ANY).unwrap();
    let other = bench.area.begin(&bench.flash, 7, 3, ANY).unwrap();
    let write = bench.area.write(&mut bench.flash, &mut stale, &[1, 2, 3]);
    assert_eq!(write, Err(AreaError::Gone));
    assert_eq!((other.missing(), stale.missing()), (3, 3));
    bench.area.release(&stale);
    assert_eq!(bench.area.used(7), 1);
    // As many runs as there are places, then none.
    for owner in 3..=5 {
        bench.area.begin(&bench.flash, owner, 1, ANY).unwrap();
    }
    assert!(bench.area.free() > 0);
    assert!(full(bench.area.begin(&bench.flash, 6, 1, ANY)));
    assert_eq!(
        bench.area.written(&bench.flash, &second, 0, &mut []),
        Ok(()),
        "nothing has changed"
    );
    bench.area.release_owner(3);
    assert!(
        full(bench.area.begin(&bench.flash, 6, 1, ANY)),
        "not before it is wiped"
    );
    bench.area.tidy(&mut bench.flash, ANY).unwrap();
    bench.area.begin(&bench.flash, 6, 1, ANY).unwrap();
    // Before the sweep nobody knows what may be written over.
    let mut blind = Area::new(STORE..STORE + AREA);
    assert!(matches!(
        blind.begin(&bench.flash, 1, 1, ANY),
        Err(AreaError::NotSwept)
    ));
}

#[test]
fn a_seal_is_read_exactly() {
    let good = Seal {
        owner: 1,
        first: 2,
        length: 130,
        digest: [7; 32],
    };
    assert_eq!(Seal::decode(&good.encode()), Some(good));
    let mut bytes = good.encode();
    for len in 0..Seal::LEN {
        assert_eq!(Seal::decode(&bytes[..len]), None);
    }
    assert_eq!(Seal::decode(&[&bytes[..], &[0]].concat()), None);
    bytes[0] = 2;
    assert_eq!(Seal::decode(&bytes), None);
}

/// Seals that no area has made: the boot is refused, and nothing is erased.
#[test]
fn seals_that_contradict_are_refused() {
    let good = Seal {
        owner: 1,
        first: 2,
        length: 258,
        digest: [7; 32],
    };
    let flash = new_flash();
    let last = u16::try_from(AREA).unwrap();
    for (place, bad) in [
        (
            1,
            Seal {
                first: last - 2,
                ..good
            },
        ),
        (
            1,
            Seal {
                first: u16::MAX,
                ..good
            },
        ),
        (
            1,
            Seal {
                first: last,
                length: 1,
                ..good
            },
        ),
        (1, Seal { length: 0, ..good }),
        (
            1,
            Seal {
                length: u32::MAX,
                ..good
            },
        ),
        (
            1,
            Seal {
                first: 4,
                owner: 2,
                ..good
            },
        ),
        (1, Seal { first: 0, ..good }),
        (0, Seal { first: 8, ..good }),
        (5, Seal { first: 8, ..good }),
    ] {
        let mut area: Area = Area::new(STORE..STORE + AREA);
        area.adopt(&flash, 0, &good).unwrap();
        assert_eq!(
            area.adopt(&flash, place, &bad),
            Err(AreaError::Corrupted),
            "{bad:?}"
        );
    }
    let mut area: Area = Area::new(STORE..STORE + AREA);
    area.sweep(&mut flash.clone()).unwrap();
    assert_eq!(
        area.adopt(&flash, 0, &good),
        Err(AreaError::Corrupted),
        "too late"
    );
}

/// Every bit of the area, turned: a run is as it was or its digest says that it is not, the other runs are untouched, and what is no run is blank after the boot.
#[test]
fn damage_is_found_by_the_digest_or_wiped() {
    let serial = &mut 0;
    let [first, second] = [258, 134].map(|len| content(serial, len));
    let mut bench = Bench::new();
    bench.install(1, &first, 40, None).unwrap();
    bench.install(2, &second, 40, None).unwrap();
    let image = bench.flash.image();
    let runs: Vec<_> = bench
        .contents()
        .into_iter()
        .map(|(place, run)| (bench.seal(place).unwrap(), place, run))
        .collect();
    let (mut found, mut harmless, mut wiped) = (0, 0, 0);
    for bit in STORE * PAGE * 8..image.len() * 8 {
        let mut damaged = image.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let bench = Bench::open(RamFlash::from_image(PAGE, &damaged)).ok().unwrap();
        let page = bit / 8 / PAGE - STORE;
        let mut is_of_run = false;
        for (seal, place, (_, bytes)) in &runs {
            let mut back = vec![0; bytes.len()];
            bench.area.read(&bench.flash, *place, seal, 0, &mut back).unwrap();
            let start = usize::from(seal.first);
            let is_here = (start..start + bytes.len().div_ceil(PAGE)).contains(&page);
            is_of_run |= is_here;
            if digest(&back) != seal.digest {
                assert!(is_here, "bit {bit} is another run's");
                found += 1;
            } else {
                assert_eq!(back, *bytes);
                harmless += usize::from(is_here);
            }
        }
        if !is_of_run {
            let at = (STORE + page) * PAGE;
            assert!(
                bench.flash.image()[at..at + PAGE]
                    .iter()
                    .all(|byte| *byte == 0xFF)
            );
            wiped += 1;
        }
    }
    println!("damage: {found} found, {harmless} behind the end of a run, {wiped} wiped");
    assert_eq!((found, wiped), ((258 + 134) * 8, (AREA - 5) * PAGE * 8));
    assert_eq!(harmless, (5 * PAGE - 392) * 8);
}

#[test]
fn it_is_as_large_as_its_page_says() {
    let page = include_str!("../src/area/mod.rs");
    assert_eq!(size_of::<Run>(), 12);
    assert!(page.contains("takes 12 bytes for each of N runs and 24 for itself"));
    assert_eq!(size_of::<Area>(), (24 + 12 * PLACES).next_multiple_of(8));
    assert!(page.contains("a [`Writing`] takes 20"));
    assert_eq!(size_of::<Writing>(), 20);
}

/// Begins, writes, seals, refuses, removes and gives up, with cuts, against the map.
#[derive(Clone, Debug)]
enum Step {
    Install { owner: u16, len: usize, piece: usize },
    Replace { at: usize, len: usize },
    Refused { owner: u16, len: usize },
    Remove { at: usize },
    RemoveOwner { owner: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u16..4, 1_usize..400, 1_usize..90).prop_map(|(owner, len, piece)| Step::Install { owner, len, piece }),
        2 => (0_usize..8, 1_usize..200).prop_map(|(at, len)| Step::Replace { at, len }),
        1 => (1_u16..4, 1_usize..200).prop_map(|(owner, len)| Step::Refused { owner, len }),
        3 => (0_usize..8).prop_map(|at| Step::Remove { at }),
        1 => (1_u16..4).prop_map(|owner| Step::RemoveOwner { owner }),
    ]
}

impl Bench {
    /// Does a step, and says what is to be there then; `None` when the power went.
    fn step(&mut self, step: &Step, model: &Model, serial: &mut u32) -> (Model, bool) {
        let mut wanted = model.clone();
        let chosen = |at: usize| model.iter().nth(at % model.len().max(1));
        let done = match *step {
            Step::Install { owner, len, piece } => {
                let bytes = content(serial, len);
                let done = self.install(owner, &bytes, piece, None);
                if let Ok(place) = done {
                    wanted.insert(place, (owner, bytes));
                }
                done.is_ok()
            }
            Step::Replace { at, len } => {
                let Some((old, (owner, _))) = chosen(at) else {
                    return (wanted, true);
                };
                let bytes = content(serial, len);
                let done = self.install(*owner, &bytes, 50, Some(*old));
                if let Ok(place) = done {
                    wanted.remove(old);
                    wanted.insert(place, (*owner, bytes));
                }
                done.is_ok()
            }
            Step::Refused { owner, len } => {
                // Sealed, and the command refused: nothing was committed.
                let bytes = content(serial, len);
                let Ok(writing) = self.write(owner, &bytes, 64) else {
                    return (wanted, false);
                };
                self.area.seal::<RamError>(&writing, digest(&bytes)).unwrap();
                self.settle().is_ok()
            }
            Step::Remove { at } => {
                let Some((place, (owner, _))) = chosen(at) else {
                    return (wanted, true);
                };
                wanted.remove(place);
                self.remove(*place, *owner).is_ok()
            }
            Step::RemoveOwner { owner } => {
                let own: Vec<_> = model
                    .iter()
                    .filter(|(_, run)| run.0 == owner)
                    .map(|(place, _)| *place)
                    .collect();
                wanted.retain(|_, run| run.0 != owner);
                let ops: Vec<_> = own.iter().map(|place| Op::Remove(key(*place))).collect();
                self.store.commit(&mut self.flash, &ops).is_ok() && {
                    self.area.release_owner(owner);
                    self.settle().is_ok()
                }
            }
        };
        (wanted, done)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn random_histories_with_cuts_agree_with_the_map(
        history in proptest::collection::vec((step(), proptest::option::weighted(0.4, 0_u64..150)), 1..40),
        mut seed in any::<u64>(),
    ) {
        let mut bench = Bench::new();
        let (mut model, mut serial, mut gone) = (Model::new(), 0, Vec::new());
        for (step, cut) in history {
            if let Some(cut) = cut {
                seed = seed.wrapping_add(1);
                bench.flash.cut_after_units(cut, seed);
            }
            gone.extend(model.values().map(|run| run.1.clone()));
            let from = serial;
            let (wanted, _) = bench.step(&step, &model, &mut serial);
            let mut now = from;
            gone.push(content(&mut now, ((serial - from) * 4) as usize));
            if bench.flash.is_off() {
                let mut flash = bench.flash;
                for more in 0..4 {
                    flash.power_on();
                    flash.cut_after_units((seed >> more) % 40, seed ^ more);
                    flash = match Bench::open(flash) {
                        Ok(bench) => bench.flash,
                        Err((flash, _)) => flash,
                    };
                }
                flash.power_on();
                bench = Bench::open(flash).ok().unwrap();
                let found = bench.contents();
                // A cut behind the commit leaves what an undisturbed step would have left.
                let is_after = found.len() != model.len() || found != model;
                if is_after {
                    for (place, run) in &found {
                        let is_old = model.get(place) == Some(run);
                        prop_assert!(is_old || gone.last().unwrap().starts_with(&run.1));
                    }
                }
                prop_assert!(found == model || found == wanted || is_after);
                model = found;
            } else {
                bench.flash.power_on();
                bench.settle().unwrap();
                model = wanted;
            }
            prop_assert_eq!(&bench.contents(), &model);
            let gone: Vec<_> = gone.iter().map(Vec::as_slice).collect();
            // An unfinished run of a refused beginning is given up with the owner's next one, or by the next boot.
            bench.area.release_owner(u16::MAX);
            assert_wiped(&bench, &gone, &model);
        }
    }

    /// The rule of the page: with u runs and f free pages a run of k pages fits if f > (u + 1)(k - 1).
    #[test]
    fn what_the_page_says_fits_does(
        lengths in proptest::collection::vec(1_usize..4, 0..PLACES),
        kept in proptest::collection::vec(any::<bool>(), PLACES),
        k in 1_usize..=AREA,
    ) {
        let mut bench = Bench::new();
        let owners = (1_u16..).zip(&lengths);
        let begun: Vec<_> = owners
            .map(|(owner, pages)| bench.area.begin(&bench.flash, owner, u32::try_from(pages * PAGE).unwrap(), ANY))
            .collect();
        for (writing, _) in begun.iter().flatten().zip(&kept).filter(|(_, kept)| !**kept) {
            bench.area.release(writing);
        }
        bench.area.tidy(&mut bench.flash, ANY).unwrap();
        let runs = begun.iter().zip(&kept).filter(|(run, kept)| run.is_ok() && **kept).count();
        let (free, largest) = (bench.area.free(), bench.area.largest());
        prop_assert!(largest <= free);
        prop_assert!(free <= (runs + 1) * (k - 1) || largest >= k);
        let begins = bench.area.begin(&bench.flash, 99, u32::try_from(k * PAGE).unwrap(), ANY).is_ok();
        prop_assert_eq!(begins, largest >= k && runs < PLACES);
    }
}
