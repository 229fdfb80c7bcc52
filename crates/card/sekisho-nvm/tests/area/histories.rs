//! Random histories with cuts, and the rule of what fits, against a map.

use proptest::prelude::*;
use sekisho_nvm::Op;
use sekisho_nvm::area::Part;
use sekisho_nvm::ram::RamError;

use crate::bench::{ANY, AREA, Bench, Model, PAGE, PLACES, assert_wiped, content, digest, key};

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
            .map(|(owner, pages)| bench.area.begin(&bench.flash, owner, u32::try_from(pages * PAGE).unwrap(), &Part::ALL))
            .collect();
        for (writing, _) in begun.iter().flatten().zip(&kept).filter(|(_, kept)| !**kept) {
            bench.area.release(writing);
        }
        bench.area.tidy(&mut bench.flash, ANY).unwrap();
        let runs = begun.iter().zip(&kept).filter(|(run, kept)| run.is_ok() && **kept).count();
        let (free, largest) = (bench.area.free(), bench.area.largest(&Part::ALL));
        prop_assert!(largest <= free);
        prop_assert!(free <= (runs + 1) * (k - 1) || largest >= k);
        let begins = bench.area.begin(&bench.flash, 99, u32::try_from(k * PAGE).unwrap(), &Part::ALL).is_ok();
        prop_assert_eq!(begins, largest >= k && runs < PLACES);
    }
}
