//! The store over a flash that can be cut: one program, so that it is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "helpers of tests are tests"
)]

/// Places in the index of the stores here: fewer than some tests have records, so that it overflows there.
const INDEX: usize = 32;

mod carry;
mod common;
mod damage;
mod full;
mod power;
mod room;
mod store;
