//! Foreign flash, and flash that fails: an error or what was written, never another value, never a panic.

use crate::common;
use common::{Model, Store, key, try_contents};
use proptest::prelude::*;
use sekisho_nvm::ram::{RamError, RamFlash};
use sekisho_nvm::{Error, Flash, Key, Op};

const PAGE: usize = 256;
const PAGES: usize = 4;

/// A store with live, replaced and removed records. Also every value that each key ever had.
fn fixture() -> (RamFlash, Store, Vec<(Key, Vec<u8>)>) {
    let mut flash = RamFlash::new(PAGE, PAGES);
    let mut store = Store::format(&mut flash, 0..PAGES).unwrap();
    let mut ever = Vec::new();
    for n in 0..5_u8 {
        let (new, replaced) = (key(n.into()), key(99));
        store
            .commit(
                &mut flash,
                &[Op::Put(new, &[n + 1; 9]), Op::Put(replaced, &[n + 1; 3])],
            )
            .unwrap();
        ever.extend([(new, vec![n + 1; 9]), (replaced, vec![n + 1; 3])]);
    }
    store
        .commit(&mut flash, &[Op::Remove(key(1)), Op::Put(key(99), b"last")])
        .unwrap();
    ever.push((key(99), b"last".to_vec()));
    (flash, store, ever)
}

/// Whatever opens must be readable or say why not, and take a commit or say why not.
fn use_it(flash: &mut RamFlash, pages: usize) -> Option<Model> {
    let mut store = Store::open(flash, 0..pages).ok()?;
    let found = try_contents(&store, flash).ok();
    for n in 0..30_u8 {
        match store.commit(flash, &[Op::Put(key(1), &[n; 20]), Op::Remove(key(99))]) {
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
    fn any_flash_opens_or_says_why_not(image in proptest::collection::vec(any::<u8>(), 1024), head in any::<bool>()) {
        let mut flash = RamFlash::new(256, 4);
        Store::format(&mut flash, 0..4).unwrap();
        let mut bytes = flash.image();
        let from = if head { 28 } else { 0 };
        bytes[from..].copy_from_slice(&image[from..]);
        use_it(&mut RamFlash::from_image(256, &bytes), 4);
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
    for fails in 0..2 {
        let (flash, _, _) = fixture();
        let mut flash = Failing(flash, u64::MAX);
        let mut store = Store::open(&mut flash, 0..PAGES).unwrap();
        flash.1 = fails;
        let ops = [Op::Put(key(3), b"three"), Op::Put(key(4), b"four")];
        assert_eq!(store.commit(&mut flash, &ops), Err(Error::Flash(RamError::Range)));
        flash.1 = u64::MAX;
        assert_eq!(store.commit(&mut flash, &ops), Err(Error::Stale));
        let mut store = Store::open(&mut flash, 0..PAGES).unwrap();
        let read = |store: &Store, flash: &Failing| {
            let mut out = [0; 16];
            store
                .get(flash, key(3), &mut out)
                .unwrap()
                .map(|len| out[..len].to_vec())
        };
        // Each record in one piece.
        let wanted = vec![4; 9];
        assert_eq!(read(&store, &flash), Some(wanted), "write {fails}");
        store.commit(&mut flash, &ops).unwrap();
        assert_eq!(read(&store, &flash), Some(b"three".to_vec()));
    }
}

/// Beyond the index a record is found through the directory of its page, whose sum is looked at when the store is opened and not at each look-up: damage to
/// it that comes later can hide a record until then. No value that was not written is given, whatever was damaged.
#[test]
fn what_is_damaged_while_the_store_is_open_is_given_to_nobody() {
    let (flash, store, ever) = fixture();
    let (mut whole, mut refused, mut hidden) = (0, 0, 0);
    let image = flash.image();
    for at in 0..image.len() {
        for bit in 0..8 {
            let mut image = image.clone();
            image[at] ^= 1 << bit;
            let damaged = RamFlash::from_image(PAGE, &image);
            for key in [0, 2, 3, 4, 99].map(key) {
                let mut out = [0; 16];
                match store.get(&damaged, key, &mut out) {
                    Ok(Some(len)) => {
                        assert!(
                            ever.contains(&(key, out[..len].to_vec())),
                            "{key:?}: byte {at}, bit {bit}"
                        );
                        whole += 1;
                    }
                    Ok(None) => hidden += 1,
                    Err(error) => {
                        assert_eq!(error, Error::Corrupted, "{key:?}: byte {at}, bit {bit}");
                        refused += 1;
                    }
                }
            }
        }
    }
    println!("whole {whole}, refused {refused}, hidden {hidden}");
    assert!(whole > 0 && refused > 0);
    assert!(hidden == 0 || crate::INDEX < 8);
}

/// Damage that comes while the store is open, to a record of a page that is compacted after that: the sum of its copy does not make it good.
#[test]
fn a_compaction_makes_no_damage_good() {
    let mut refused = 0;
    for bit in 0..8 * 20 {
        let mut flash = RamFlash::new(PAGE, 6);
        let mut store = Store::format(&mut flash, 0..6).unwrap();
        let (damaged, value) = (key(50), [0xAA; 20]);
        store.commit(&mut flash, &[Op::Put(damaged, &value)]).unwrap();
        let mut image = flash.image();
        let at = image.windows(20).position(|bytes| bytes == value).unwrap();
        image[at + bit / 8] ^= 1 << (bit % 8);
        let mut flash = RamFlash::from_image(PAGE, &image);
        let mut count = 0;
        while store.commit(&mut flash, &[Op::Put(key(count), &[1; 20])]).is_ok() {
            count += 1;
        }
        // Written over in turn, so that hardly anything but the damaged one is left in its page.
        for n in 0..60_u8 {
            let done = store.commit(&mut flash, &[Op::Put(key(u16::from(n) % count), &[n; 20])]);
            assert!(matches!(done, Ok(()) | Err(Error::Corrupted)), "{done:?}");
            refused += usize::from(done.is_err());
            let mut out = [1; 20];
            assert_eq!(
                store.get(&flash, damaged, &mut out),
                Err(Error::Corrupted),
                "bit {bit}"
            );
            assert_eq!(out, [0; 20], "what is not so is given to nobody");
        }
    }
    println!("{refused} commits were refused");
    assert!(refused > 100, "{refused}");
}
