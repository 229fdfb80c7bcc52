//! The commands that are cards and that talk to them: one program, so that the product is linked once.
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

mod card;
#[allow(dead_code, reason = "shared with other programs")]
#[path = "../../../crates/card/sekisho-tls/tests/sessions/drive.rs"]
mod drive;
mod exits;
mod files;
#[path = "tls/folder.rs"]
mod folder;
mod kill;
mod line_scripts;
mod lines;
#[path = "../../../crates/card/sekisho-tls/tests/sessions/openssl.rs"]
mod openssl;
mod part;
mod phone;
#[allow(dead_code, reason = "shared with other programs")]
#[path = "../../../crates/card/sekisho-tls/tests/sessions/pki.rs"]
mod pki;
mod process;
mod reader;
#[path = "../../../crates/card/sekisho-tls/tests/sessions/scripted.rs"]
mod scripted;
mod terminal;
mod virtual_se;
