//! The chip itself, where `SEKISHO_FIRMWARE` names an image: what its failures cost, and what its commands do.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // test support
#![cfg(target_os = "linux")]

use sekisho_card_tests as common;

#[path = "board/containers.rs"]
mod containers;
#[path = "board/faults.rs"]
mod faults;
#[path = "board/figures.rs"]
mod figures;
#[path = "board/kills.rs"]
mod kills;
#[path = "board/power.rs"]
mod power;
