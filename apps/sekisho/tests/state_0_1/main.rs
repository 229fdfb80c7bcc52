//! What 0.1 (commit 17de677) wrote, opened by today's code: cards, the server's folder, keystore, ceremony, spools, paging, messages.
//!
//! The bytes are in `tests/state/0.1/`, made by the binary of that commit; `README.md` there says how. They are never edited: each test works
//! on a copy, and [`frozen`] holds the digest of the list of digests.
//!
//! # OS parts
//! Those of then are written for host ABI 1, which is not run any more: staged ones are written to their end and then refused with 9505, active ones stay where they
//! are and are answered for with 6D00, and each card takes a part of the present ABI afterwards, which finds the records.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods
)] // helpers are no #[test] functions

#[path = "../process/mod.rs"]
mod process;

mod cards;
mod frozen;
mod key_change;
mod messages;
mod paging;
mod secrets;
mod server;
