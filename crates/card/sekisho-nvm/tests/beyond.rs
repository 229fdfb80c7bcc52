//! The tests of cuts, damage and carrying over once more, with an index that has a place for hardly anything: every page is closed with a directory.

#![allow(clippy::unwrap_used, clippy::panic)]

const INDEX: usize = 2;

#[path = "carry.rs"]
mod carry;
#[path = "damage.rs"]
mod damage;
#[path = "power.rs"]
mod power;
#[path = "store.rs"]
mod store;
