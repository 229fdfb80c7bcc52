//! The tests of cuts, damage and carrying over once more, with an index that has a place for hardly anything: every page is closed with a directory.
#![allow(
    clippy::duplicate_mod,
    reason = "each of the tests below brings what it shares with others"
)]
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
