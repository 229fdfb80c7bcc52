//! The area for bulk beside a store, against a map: power cuts at every word and erasure, damage, what is wiped, and who may read what.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::result_large_err,
    clippy::type_complexity
)]

mod bench;
mod histories;

use std::collections::BTreeSet;

use bench::*;
use sekisho_nvm::Op;
use sekisho_nvm::area::{AreaError, Part, Run, Seal, Writing};
use sekisho_nvm::ram::{RamError, RamFlash};

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
            let mut writing = bench.area.begin(&bench.flash, 1, length, &Part::ALL).unwrap();
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
    let mut writing = bench.area.begin(&bench.flash, 1, 100, &Part::ALL).unwrap();
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
    assert!(bench.area.is_of(place, 1) && !bench.area.is_of(place, 2));
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

/// A flash that fails in the middle of a piece: how far that one has come nobody knows, so nothing is written behind it and nothing sealed, whatever the flash does from then on.
#[test]
fn what_the_flash_has_failed_at_is_never_sealed() {
    let serial = &mut 0;
    let bytes = content(serial, 200);
    let gone = Err(AreaError::Gone);
    let mut failed = 0;
    for at in 0.. {
        let mut bench = Bench::new();
        let mut writing = bench.area.begin(&bench.flash, 1, 200, &Part::ALL).unwrap();
        bench.flash.cut_after_units(at, 0);
        let (mut come, mut is_over) = (0, true);
        for piece in bytes.chunks(50) {
            match bench.area.write(&mut bench.flash, &mut writing, piece) {
                Ok(()) => come += piece.len(),
                Err(error) => {
                    assert!(matches!(error, AreaError::Flash(_)), "{error}");
                    is_over = false;
                    break;
                }
            }
        }
        bench.flash.power_on();
        if is_over {
            break;
        }
        failed += 1;
        // From the piece that failed on, all that is left, and nothing.
        for rest in [&bytes[come..], &bytes[come..][..1], &[]] {
            assert_eq!(
                bench.area.write(&mut bench.flash, &mut writing, rest),
                gone,
                "{at}"
            );
        }
        let sealed = bench.area.seal::<RamError>(&writing, digest(&bytes));
        assert_eq!(sealed, Err(AreaError::Gone), "{at}");
        // Its owner begins again.
        let writing = bench.write(1, &bytes, 50).unwrap();
        let place = bench.seal_over(&writing, &bytes, None).unwrap();
        assert_eq!(bench.contents()[&place], (1, bytes.clone()));
    }
    assert!(failed > 50, "{failed}");
}

/// A run in doubt whose place has another run's record by now is released, as one without a record is.
#[test]
fn a_doubt_is_ended_by_the_runs_own_record_alone() {
    let serial = &mut 0;
    let bytes = content(serial, 100);
    for (owner, first) in [(1, 1), (2, 0), (1, 0)] {
        let mut bench = Bench::new();
        let writing = bench.write(1, &bytes, 50).unwrap();
        let (place, seal) = bench.area.seal::<RamError>(&writing, digest(&bytes)).unwrap();
        let other = Seal { owner, first, ..seal };
        bench.area.settle(place, Some(&other));
        assert_eq!(bench.area.doubtful(), None);
        let read = bench.area.read(&bench.flash, place, &seal, 0, &mut [0]);
        assert_eq!(read.is_ok(), other == seal, "{owner} {first}");
    }
}

/// Who has some pages and places finds them, however others lie in theirs; none lies in another's.
#[test]
fn a_part_is_whole_whatever_is_done_in_the_others() {
    let mut bench = Bench::new();
    let half = AREA / 2;
    let part = |at: usize| Part {
        pages: at * half..(at + 1) * half,
        places: at * PLACES / 2..(at + 1) * PLACES / 2,
        ..Part::ALL
    };
    let length = |pages: usize| u32::try_from(pages * PAGE).unwrap();
    let full = |result: Result<Writing, AreaError<RamError>>| matches!(result, Err(AreaError::Full));
    // In the first part everything that there is, page by page, and again with gaps.
    for owner in 1..=u16::try_from(PLACES / 2).unwrap() {
        bench.area.begin(&bench.flash, owner, 1, &part(0)).unwrap();
    }
    assert!(full(bench.area.begin(&bench.flash, 99, 1, &part(0))), "no place");
    bench.area.release_owner(1);
    bench.area.tidy(&mut bench.flash, ANY).unwrap();
    assert!(full(bench.area.begin(&bench.flash, 99, length(half), &part(0))));
    assert_eq!(bench.area.largest(&part(1)), half);
    let whole = bench
        .area
        .begin(&bench.flash, 98, length(half), &part(1))
        .unwrap();
    assert!(full(bench.area.begin(&bench.flash, 97, 1, &part(1))), "no page");
    assert_eq!(bench.area.largest(&part(1)), 0);
    // Pages of the first are free, and are not its own.
    assert!(bench.area.free() > 0);
    bench.area.release(&whole);
    bench.area.tidy(&mut bench.flash, ANY).unwrap();
    for owner in 50..50 + u16::try_from(PLACES - PLACES / 2).unwrap() {
        bench.area.begin(&bench.flash, owner, 1, &part(1)).unwrap();
    }
    assert!(full(bench.area.begin(&bench.flash, 97, 1, &part(1))), "no place");
}

/// One run is written at a time by an owner, and quotas count it; what is refused changes nothing.
#[test]
fn quota_room_and_places() {
    let mut bench = Bench::new();
    let full = |result: Result<Writing, AreaError<RamError>>| matches!(result, Err(AreaError::Full));
    let mut begin = |owner, pages: usize, quota| {
        let length = u32::try_from(pages * PAGE).unwrap();
        let part = Part { quota, ..Part::ALL };
        bench.area.begin(&bench.flash, owner, length, &part)
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
        (
            bench.area.used(1),
            bench.area.free(),
            bench.area.largest(&Part::ALL)
        ),
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
    let mut stale = bench.area.begin(&bench.flash, 2, 3, &Part::ALL).unwrap();
    bench.area.release(&stale);
    bench.area.tidy(&mut bench.flash, ANY).unwrap();
    let other = bench.area.begin(&bench.flash, 7, 3, &Part::ALL).unwrap();
    let write = bench.area.write(&mut bench.flash, &mut stale, &[1, 2, 3]);
    assert_eq!(write, Err(AreaError::Gone));
    assert_eq!((other.missing(), stale.missing()), (3, 3));
    bench.area.release(&stale);
    assert_eq!(bench.area.used(7), 1);
    // As many runs as there are places, then none.
    for owner in 3..=5 {
        bench.area.begin(&bench.flash, owner, 1, &Part::ALL).unwrap();
    }
    assert!(bench.area.free() > 0);
    assert!(full(bench.area.begin(&bench.flash, 6, 1, &Part::ALL)));
    assert_eq!(
        bench.area.written(&bench.flash, &second, 0, &mut []),
        Ok(()),
        "nothing has changed"
    );
    bench.area.release_owner(3);
    assert!(
        full(bench.area.begin(&bench.flash, 6, 1, &Part::ALL)),
        "not before it is wiped"
    );
    bench.area.tidy(&mut bench.flash, ANY).unwrap();
    bench.area.begin(&bench.flash, 6, 1, &Part::ALL).unwrap();
    // Before the sweep nobody knows what may be written over.
    let mut blind = Area::new(STORE..STORE + AREA);
    assert!(matches!(
        blind.begin(&bench.flash, 1, 1, &Part::ALL),
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
    let page = include_str!("../../src/area/mod.rs");
    assert_eq!(size_of::<Run>(), 12);
    assert!(page.contains("takes 12 bytes for each of N runs and 24 for itself"));
    assert_eq!(size_of::<Area>(), (24 + 12 * PLACES).next_multiple_of(8));
    assert!(page.contains("a [`Writing`] takes 20"));
    assert_eq!(size_of::<Writing>(), 20);
}
