//! The tests of cuts, damage and carrying over once more, with an index that has a place for hardly anything: every page is closed with a directory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "helpers of tests are tests"
)]

const INDEX: usize = 2;

mod carry;
mod common;
mod damage;
mod power;
mod store;
