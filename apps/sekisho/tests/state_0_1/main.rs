//! What 0.1 (commit 17de677) wrote, opened by today's code: cards, the server's folder, keystore, ceremony, spools, paging, messages.
//!
//! The bytes are in `tests/state/0.1/`, made by the binary of that commit; `README.md` there says how. They are never edited: each test works
//! on a copy, and [`frozen`] holds the digest of the list of digests.
//!
//! # When the engine of OS parts changes
//! The staged updates are parts of ABI 1. [`cards::ABI_1_RUNS`] says whether today's engine runs them. Set it to `false` when it does not any more: an active part of
//! ABI 1 then is refused by a status word that is not 6F00, AUTHORIZE ACTION answers 9505 with nothing else changed, and the card takes a part of the present ABI afterwards.
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
mod messages;
mod paging;
mod secrets;
mod server;
