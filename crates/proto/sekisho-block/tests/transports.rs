//! T=0, T=1, SWP and HCI, T=1' and GlobalPlatform's SPI: one program, so that the crate's test ends are linked once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "helpers of tests are tests"
)]

mod atr;
mod bus;
mod characters;
mod check;
mod contact;
mod element;
mod hci;
mod hci_faults;
mod hci_readers;
mod line;
mod lr1;
mod model;
mod reported;
mod shdlc_model;
mod swp;
mod t0;
mod t0_faults;
mod t1;
mod t1p;
mod t1p_faults;
