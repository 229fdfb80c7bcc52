//! Secure messaging: one program, so that it is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "helpers of tests are tests"
)]

mod analysis;
mod common;
mod erasure;
mod figures;
mod histories;
mod hostile;
mod impostor;
mod model;
mod published;
mod schedules;
