//! An area beside a store, as a card has them, and the sweep of cuts over what is done with it.

use std::collections::{BTreeMap, BTreeSet};

use sekisho_nvm::area::{AreaError, Part, Run, Seal, Writing};
use sekisho_nvm::ram::{RamError, RamFlash};
use sekisho_nvm::{Error, Key, Op, Ram};

pub(crate) const PAGE: usize = 128;
/// Pages of the store, then those of the area.
pub(crate) const STORE: usize = 16;
pub(crate) const AREA: usize = 12;
/// Runs that the area has memory for.
pub(crate) const PLACES: usize = 5;
/// More than there is.
pub(crate) const ANY: usize = 1000;

pub(crate) type Store = sekisho_nvm::Store<Ram<16, 16, 16>>;
pub(crate) type Area = sekisho_nvm::area::Area<[Run; PLACES]>;

/// What the card knows.
pub(crate) struct Bench {
    pub(crate) flash: RamFlash,
    pub(crate) store: Store,
    pub(crate) area: Area,
}

/// Owner and bytes of each run, by place.
pub(crate) type Model = BTreeMap<u8, (u16, Vec<u8>)>;

pub(crate) const fn key(place: u8) -> Key {
    Key::new(0, place as u16, 9)
}

/// No digest for products: it tells every test's content from every other one.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
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
pub(crate) fn content(serial: &mut u32, len: usize) -> Vec<u8> {
    let words = (0..).flat_map(|_| {
        *serial += 1;
        (*serial << 8 | 0x5A).to_be_bytes()
    });
    words.take(len).collect()
}

pub(crate) fn new_flash() -> RamFlash {
    RamFlash::strict(PAGE, STORE + AREA)
}

impl Bench {
    pub(crate) fn new() -> Self {
        let mut flash = new_flash();
        let store = Store::format(&mut flash, 0..STORE).unwrap();
        let mut area = Area::new(STORE..STORE + AREA);
        area.sweep(&mut flash).unwrap();
        Self { flash, store, area }
    }

    /// Boots: the store, its seals, the sweep.
    pub(crate) fn open(mut flash: RamFlash) -> Result<Self, (RamFlash, bool)> {
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

    pub(crate) fn seal(&self, place: u8) -> Option<Seal> {
        let mut bytes = [0; Seal::LEN];
        let found = self.store.get(&self.flash, key(place), &mut bytes).unwrap();
        found.map(|len| Seal::decode(&bytes[..len]).unwrap())
    }

    pub(crate) fn write(
        &mut self,
        owner: u16,
        bytes: &[u8],
        piece: usize,
    ) -> Result<Writing, AreaError<RamError>> {
        let length = u32::try_from(bytes.len()).unwrap();
        let mut writing = self.area.begin(&self.flash, owner, length, &Part::ALL)?;
        for piece in bytes.chunks(piece) {
            self.area.write(&mut self.flash, &mut writing, piece)?;
        }
        let mut back = vec![0; bytes.len()];
        self.area.written(&self.flash, &writing, 0, &mut back)?;
        assert_eq!(back, bytes);
        Ok(writing)
    }

    /// Seals, and removes what it replaces, in one transaction; all that the caller of an area does.
    pub(crate) fn seal_over(&mut self, writing: &Writing, bytes: &[u8], old: Option<u8>) -> Result<u8, ()> {
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

    pub(crate) fn settle(&mut self) -> Result<(), AreaError<RamError>> {
        while let Some(place) = self.area.doubtful() {
            let seal = self.seal(place);
            self.area.settle(place, seal.as_ref());
        }
        self.area.tidy(&mut self.flash, ANY).map(|done| assert!(done))
    }

    pub(crate) fn install(
        &mut self,
        owner: u16,
        bytes: &[u8],
        piece: usize,
        old: Option<u8>,
    ) -> Result<u8, ()> {
        let writing = self.write(owner, bytes, piece).map_err(|_| ())?;
        self.seal_over(&writing, bytes, old)
    }

    pub(crate) fn remove(&mut self, place: u8, owner: u16) -> Result<(), ()> {
        self.area.doubt::<RamError>(place, owner).unwrap();
        self.store
            .commit(&mut self.flash, &[Op::Remove(key(place))])
            .map_err(|_| ())?;
        self.settle().map_err(|_| ())
    }

    /// All runs, as their owners read them, in pieces and where they stand.
    pub(crate) fn contents(&self) -> Model {
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
pub(crate) fn assert_wiped(bench: &Bench, gone: &[&[u8]], live: &Model) {
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
pub(crate) struct Cases {
    cuts: u64,
    recoveries: u64,
    before: u64,
    after: u64,
}

/// Every cut of `work` on a copy of the bench's flash, torn in several ways, and a second cut in the recovery: the state before or after, whole, and nothing else in the flash.
pub(crate) fn sweep(
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
