//! Sessions of the SE's end and the device's: with servers that are not ours, with hostile ones, with a hostile device.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod bare;
mod drive;
mod ends;
mod hostile;
mod in_memory;
mod openssl;
mod pki;
mod recording;
mod seeded;
mod servers;
