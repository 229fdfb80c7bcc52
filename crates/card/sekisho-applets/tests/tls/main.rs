//! TLS sessions that end in a whole SE (docs/spec/tls-manager.md): a device's bridge on one side of its APDUs, the file system inside.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support
#![allow(dead_code, reason = "shared with other programs")]

use sekisho_card_tests as common;

mod askers;
mod board;
mod chains;
mod device;
#[path = "../../../sekisho-tls/tests/sessions/drive.rs"]
mod drive;
mod ends;
mod hostile;
#[path = "../../../sekisho-tls/tests/sessions/in_memory.rs"]
mod in_memory;
mod keys;
#[path = "../../../sekisho-tls/tests/sessions/openssl.rs"]
mod openssl;
mod pins;
#[path = "../../../sekisho-tls/tests/sessions/pki.rs"]
mod pki;
mod resume;
mod rights;
mod room;
mod rules;
#[path = "../../../sekisho-tls/tests/sessions/scripted.rs"]
mod scripted;
mod se;
mod secure_only;
mod servers;
mod time;
