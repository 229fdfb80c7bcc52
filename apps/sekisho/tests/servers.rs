//! The commands of an office and of its fleet: one program, so that the product is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "helpers of tests are tests"
)]

mod agent;
#[path = "memory_keys/bench.rs"]
mod bench;
mod ceremony;
#[path = "tls/folder.rs"]
mod folder;
mod fresh;
mod key_change;
mod memory;
mod memory_keys;
mod memory_update;
mod paging;
mod paging_kill;
#[allow(dead_code, reason = "shared with other programs")]
#[path = "../../../crates/card/sekisho-tls/tests/sessions/pki.rs"]
mod pki;
mod process;
mod server_disk;
