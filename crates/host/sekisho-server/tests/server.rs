//! The management server: one program, so that it is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "helpers of tests are tests"
)]

mod already_there;
mod announced;
mod bad_input;
mod device_word;
mod http_tables;
mod paging_lost;
mod paging_nodes;
mod paging_older;
#[path = "../../sekisho-store/tests/postgres/mod.rs"]
mod postgres;
mod second_version;
mod slow;
mod support;
