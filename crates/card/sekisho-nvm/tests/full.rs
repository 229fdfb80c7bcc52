//! A store that is full to the last word: what is as long as what it replaces always goes, and a start always succeeds, wherever the power was cut before, and in the starts behind that.

use sekisho_nvm::ram::{RamError, RamFlash};
use sekisho_nvm::{Error, Key, Memory, Op, Ram, Store};

/// What is done: SEKISHO_TEST_HISTORIES histories of each kind, of so many commits.
const COMMITS: usize = 400;

struct Random(u32);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        usize::try_from(self.0 >> 8).unwrap() % n
    }
}

fn key(n: usize) -> Key {
    Key::new(0x0100, u16::try_from(n).unwrap(), 0)
}

/// A full store, and what it holds: of each record the byte that its value is made of, and its length.
struct Full<M: Memory> {
    random: Random,
    flash: RamFlash,
    store: Store<M>,
    pages: usize,
    /// All are written as often.
    is_even: bool,
    /// Bytes of records that one commit may write however full the store is.
    most: usize,
    records: Vec<(u8, usize)>,
}

/// What a history came upon.
#[derive(Debug, Default)]
struct Seen {
    done: usize,
    cuts: usize,
    cut_again: usize,
    /// Erasures of one commit, before the first cut and behind it.
    erasures: [u32; 2],
    /// Commits behind which nothing stood in the flash of what they had replaced.
    searched: usize,
}

impl<M: Memory> Full<M> {
    /// Filled with records of random lengths, to the last word.
    fn new(page: usize, pages: usize, longest: usize, seed: u32) -> Self {
        let mut flash = RamFlash::strict(page, pages);
        let mut store = Store::<M>::format(&mut flash, 0..pages).unwrap();
        let slack = ((page - 28 - 16) / 3).min(1220);
        let (mut random, most) = (Random(seed), slack - 20);
        let longest = longest.min(most - 16);
        let mut records = Vec::new();
        while store.free() >= 16 {
            let room = (store.free() - 16) / 4;
            let len = 4 * random.below(longest / 4 + 1).min(room);
            let ops = [Op::Put(key(records.len()), &vec![1; len])];
            store.commit(&mut flash, &ops).unwrap();
            records.push((1, len));
        }
        Self {
            random,
            flash,
            store,
            pages,
            is_even: seed.is_multiple_of(2),
            most,
            records,
        }
    }

    /// Records to be replaced, as many as one commit may.
    fn choose(&mut self) -> Vec<usize> {
        let mut left = self.most;
        let chosen = (0..=self.random.below(4)).filter_map(|_| {
            // Some are written often, so that pages come to be full of what is not.
            let among = if self.is_even || self.random.below(8) == 0 {
                self.records.len()
            } else {
                3.min(self.records.len())
            };
            let n = self.random.below(among);
            left = left.checked_sub(16 + self.records[n].1)?;
            Some(n)
        });
        chosen.collect()
    }

    /// Starts again: cut up to three times, and then not.
    fn start(&mut self, seen: &mut Seen) {
        for _ in 0..self.random.below(4) {
            self.flash.power_on();
            let unit = u64::try_from(self.random.below(120)).unwrap();
            self.flash.cut_after_units(unit, u64::from(self.random.0));
            let opened = Store::<M>::open(&mut self.flash, 0..self.pages).map(drop);
            assert!(
                matches!(opened, Ok(()) | Err(Error::Flash(RamError::PowerCut))),
                "{opened:?}"
            );
            seen.cut_again += usize::from(opened.is_err());
        }
        self.flash.power_on();
        self.store = Store::open(&mut self.flash, 0..self.pages).unwrap();
    }

    /// Whether each record is what it should be.
    fn is(&self, records: &[(u8, usize)]) -> bool {
        records.iter().enumerate().all(|(n, (byte, len))| {
            let mut out = vec![0; *len];
            let found = self.store.get(&self.flash, key(n), &mut out);
            found == Ok(Some(*len)) && out.iter().all(|other| other == byte)
        })
    }

    fn commit(&mut self, byte: u8, cut: Option<u64>, seen: &mut Seen) {
        let chosen = self.choose();
        let value = vec![byte; self.most];
        let ops: Vec<_> = chosen
            .iter()
            .map(|n| Op::Put(key(*n), &value[..self.records[*n].1]))
            .collect();
        let mut after = self.records.clone();
        for n in chosen {
            after[n].0 = byte;
        }
        if let Some(cut) = cut {
            self.flash.cut_after_units(cut, u64::from(self.random.0));
        }
        let erased = self.flash.erasures().iter().sum::<u32>();
        let done = self.store.commit(&mut self.flash, &ops);
        if self.flash.is_off() {
            seen.cuts += 1;
            self.start(seen);
            if !self.is(&self.records) {
                assert!(self.is(&after));
                self.records = after;
            }
        } else {
            self.flash.power_on();
            assert_eq!(done, Ok(()), "{ops:?}");
            seen.done += 1;
            let most = &mut seen.erasures[usize::from(seen.cuts > 0)];
            *most = (*most).max(self.flash.erasures().iter().sum::<u32>() - erased);
            self.records = after;
            seen.searched += usize::from(self.has_nothing_else());
        }
    }

    /// Whether eight equal bytes in the flash, wherever they stand, are always of a record as it is now.
    fn has_nothing_else(&self) -> bool {
        let is_of_a_record = |byte: u8| self.records.iter().any(|(of, len)| *of == byte && *len >= 8);
        let image = self.flash.image();
        let words = image.as_chunks::<4>().0;
        words.windows(2).all(|pair| {
            let byte = pair[0][0];
            let is_filled = pair.iter().flatten().all(|other| *other == byte);
            !is_filled || matches!(byte, 0 | 0xFF) || is_of_a_record(byte)
        })
    }
}

/// Commits in the place of what is there, one in three cut or none.
fn history<M: Memory>(page: usize, pages: usize, longest: usize, seed: u32) -> Seen {
    let mut full = Full::<M>::new(page, pages, longest, seed);
    let mut seen = Seen::default();
    for round in 0..COMMITS {
        let is_cut = round > COMMITS / 4 && full.random.below(3) == 0;
        let cut = is_cut.then(|| u64::try_from(full.random.below(60)).unwrap());
        full.commit(u8::try_from(round % 251).unwrap(), cut, &mut seen);
    }
    assert!(full.is(&full.records));
    seen
}

#[test]
fn a_full_store_starts_and_goes_on_whatever_was_cut() {
    let histories = std::env::var("SEKISHO_TEST_HISTORIES").map_or(1, |n| n.parse().unwrap());
    let mut all = Seen::default();
    for seed in 0..2 * histories {
        for (page, pages) in [(256, 4), (256, 5), (384, 8), (512, 4)] {
            for longest in [8, 40, 1000] {
                for seen in [
                    history::<Ram<200, 8, 4>>(page, pages, longest, seed),
                    history::<Ram<12, 8, 4>>(page, pages, longest, seed),
                    history::<Ram<40, 8, 4>>(page, pages, longest, seed),
                ] {
                    all.done += seen.done;
                    all.cuts += seen.cuts;
                    all.cut_again += seen.cut_again;
                    all.searched += seen.searched;
                    for (most, other) in all.erasures.iter_mut().zip(seen.erasures) {
                        *most = other.max(*most);
                    }
                }
            }
        }
    }
    println!("{all:?}");
    assert!(all.done > 5000 && all.cuts > 500 && all.cut_again > 500);
    assert_eq!(all.searched, all.done, "what was replaced is gone");
    assert_eq!(all.erasures, [1, 1]);
}

/// Pages of which the last bytes are kept for what the store adds to a compaction: with records that would fill a page to its last byte, and another one nearly, each cut of a commit and each of the start behind it.
#[test]
fn a_page_full_to_its_last_byte_is_compacted_into_one_page() {
    type Small = Store<Ram<16, 4, 4>>;
    let (long, short, empty, often) = (key(0), key(1), key(2), key(3));
    let mut flash = RamFlash::strict(256, 4);
    let mut store = Small::format(&mut flash, 0..4).unwrap();
    // 192, 24 and 12 bytes: a page behind its head. One transaction with what follows, so that no word stands behind them.
    let first = [
        Op::Put(long, &[1; 180]),
        Op::Put(short, &[2; 12]),
        Op::Put(empty, &[]),
        Op::Put(often, &[3; 4]),
    ];
    store.commit(&mut flash, &first).unwrap();
    assert_eq!(store.free(), 0);
    for len in [4, 4, 4, 0, 0, 0, 0, 0, 0, 0] {
        store
            .commit(&mut flash, &[Op::Put(often, &[4; 4][..len])])
            .unwrap();
    }
    let mut recoveries = 0;
    for cut in 0.. {
        let mut flash = flash.clone();
        let mut store = Small::open(&mut flash, 0..4).unwrap();
        flash.cut_after_units(cut, cut);
        if store.commit(&mut flash, &[Op::Put(empty, &[])]).is_ok() {
            break;
        }
        for again in 0.. {
            let mut flash = flash.clone();
            flash.power_on();
            flash.cut_after_units(again, cut + 100 * again);
            let is_opened = Small::open(&mut flash, 0..4).is_ok();
            flash.power_on();
            let store = Small::open(&mut flash, 0..4).unwrap();
            let mut out = [0; 180];
            assert_eq!(store.get(&flash, long, &mut out), Ok(Some(180)));
            assert_eq!((out, store.get(&flash, empty, &mut out)), ([1; 180], Ok(Some(0))));
            recoveries += 1;
            if is_opened {
                break;
            }
        }
    }
    println!("{recoveries} starts that were cut");
    assert!(recoveries > 50);
}
