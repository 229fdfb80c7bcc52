//! The model that the store is held against: a map, and what must not be found in the flash any more.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several tests"
)]

use std::collections::{BTreeMap, BTreeSet};

use sekisho_nvm::Error;
use sekisho_nvm::ram::{RamError, RamFlash};
use sekisho_nvm::{Key, Op, Prefix, Ram};

/// As many places in the index as the test says, and for fewer owners than there are.
pub type Store = sekisho_nvm::Store<Ram<{ crate::INDEX }, 16, 2>>;

/// What a store holds.
pub type Model = BTreeMap<Key, Vec<u8>>;

/// An operation that owns its value.
#[derive(Clone, Debug)]
pub enum Change {
    Put(Key, Vec<u8>),
    Remove(Key),
    RemoveAll(Prefix),
}

impl Change {
    pub fn value(&self) -> Option<&Vec<u8>> {
        match self {
            Self::Put(_, value) => Some(value),
            Self::Remove(_) | Self::RemoveAll(_) => None,
        }
    }
}

/// How many ways of tearing a word share the places that a sweep cuts at: each place is cut in some of them, and in all where `SEKISHO_TEST_SWEEPS` is `all`
/// (`scripts/nightly`).
pub fn share() -> u64 {
    let all = std::env::var_os("SEKISHO_TEST_SWEEPS").is_some_and(|value| value == "all");
    if all { 1 } else { 3 }
}

/// The key of most tests.
pub const fn key(index: u16) -> Key {
    Key::new(0x0100 + index % 3, index, 3)
}

pub fn ops(changes: &[Change]) -> Vec<Op<'_>> {
    fn op(change: &Change) -> Op<'_> {
        match *change {
            Change::Put(key, ref value) => Op::Put(key, value),
            Change::Remove(key) => Op::Remove(key),
            Change::RemoveAll(prefix) => Op::RemoveAll(prefix),
        }
    }
    changes.iter().map(op).collect()
}

pub fn after(model: &Model, changes: &[Change]) -> Model {
    let mut model = model.clone();
    for change in changes {
        match change {
            Change::Put(key, value) => {
                model.insert(*key, value.clone());
            }
            Change::Remove(key) => {
                model.remove(key);
            }
            Change::RemoveAll(prefix) => model.retain(|key, _| !prefix.covers(*key)),
        }
    }
    model
}

/// Bytes of room that the records of a model take.
pub fn size(model: &Model) -> usize {
    let sizes = model.values().map(|value| 16 + value.len().next_multiple_of(4));
    sizes.sum()
}

/// Everything in the store, or why it cannot be read.
pub fn try_contents(store: &Store, flash: &RamFlash) -> Result<Model, Error<RamError>> {
    let mut model = Model::new();
    let mut key = None;
    while let Some(next) = store.next_key(flash, key)? {
        let mut buf = [0; 2048];
        let len = store.get(flash, next, &mut buf)?.unwrap();
        model.insert(next, buf[..len].to_vec());
        key = Some(next);
    }
    Ok(model)
}

/// Everything in the store. What it takes is counted right, in all and by owner.
pub fn contents(store: &Store, flash: &RamFlash) -> Model {
    let model = try_contents(store, flash).unwrap();
    assert_eq!(store.free(), store.capacity().saturating_sub(size(&model)));
    for owner in model.keys().map(|key| key.owner).chain([0x0999]) {
        let own = model.iter().filter(|(key, _)| key.owner == owner);
        let own: Model = own.map(|(key, value)| (*key, value.clone())).collect();
        assert_eq!(store.used(flash, owner).unwrap(), size(&own));
    }
    model
}

/// A value that occurs nowhere else: words that are the same in it but in no other one.
pub fn value(serial: &mut u32, len: usize) -> Vec<u8> {
    *serial += 1;
    let word = serial.wrapping_mul(0x9E37_79B9).rotate_left(7).to_be_bytes();
    word.into_iter().cycle().take(len).collect()
}

/// No whole word of a value of `gone` stands in the flash, unless a live value has it too.
pub fn assert_wiped<'a>(flash: &RamFlash, gone: impl IntoIterator<Item = &'a Vec<u8>>, live: &Model) {
    let words = |value: &'a [u8]| value.as_chunks::<4>().0.iter().copied();
    let mut gone: BTreeSet<[u8; 4]> = gone.into_iter().flat_map(|value| words(value)).collect();
    for value in live.values() {
        for word in value.as_chunks::<4>().0 {
            gone.remove(word);
        }
    }
    for (at, word) in flash.image().as_chunks::<4>().0.iter().enumerate() {
        assert!(
            !gone.contains(word),
            "a word of an old value is still in the flash, at {}",
            4 * at
        );
    }
}
