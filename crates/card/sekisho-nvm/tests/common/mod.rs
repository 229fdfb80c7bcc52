//! The model that the store is held against: a map, and what must not be found in the flash any more.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several tests"
)]

use std::collections::{BTreeMap, BTreeSet};

use sekisho_nvm::ram::{RamError, RamFlash};
use sekisho_nvm::{Error, Key, Op, Slot};

/// Records that the index holds: fewer than some tests have, so that it overflows there.
pub type Store = sekisho_nvm::Store<[Slot; 32]>;

/// What a store holds.
pub type Model = BTreeMap<Key, Vec<u8>>;

/// An operation that owns its value.
pub type Change = (Key, Option<Vec<u8>>);

pub fn ops(changes: &[Change]) -> Vec<Op<'_>> {
    changes
        .iter()
        .map(|(key, value)| {
            value
                .as_ref()
                .map_or(Op::Remove(*key), |value| Op::Put(*key, value))
        })
        .collect()
}

pub fn after(model: &Model, changes: &[Change]) -> Model {
    let mut model = model.clone();
    for (key, value) in changes {
        match value {
            Some(value) => model.insert(*key, value.clone()),
            None => model.remove(key),
        };
    }
    model
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

pub fn contents(store: &Store, flash: &RamFlash) -> Model {
    try_contents(store, flash).unwrap()
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
