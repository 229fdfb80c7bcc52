//! What every board has.
//!
//! A board is a few drivers and a `main` of a page. It gives [`Board`]: its ports, its clock, its way of waiting. Here stand what is the same on all of them:
//!
//! * the [frame loop](serve): vpcd's frames over a port, one command at a time, and what it says of each command;
//! * with feature `t1` [contacts](Contacts) that speak T=1 in place of frames;
//! * the [health of the random source](Checked): a source that is stuck, biased or repeats itself ends in a reset and not in a key;
//! * what a [reset](Resets) leaves behind it: its cause, counted, and the command that did it, which is answered 6F00 and not run again.
//!
//! `docs/guide/firmware.md` says what a port must guarantee.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

#[cfg(feature = "t1")]
mod contacts;
mod entropy;
mod frames;
mod resets;

#[cfg(feature = "t1")]
pub use contacts::Contacts;
pub use entropy::{Checked, Health, Source, Unhealthy};
#[cfg(feature = "t1")]
pub use frames::serve_contacts;
pub use frames::{Board, Buffers, COMMAND_MAX, Card, Dead, Exchange, Port, RESPONSE_MAX, serve};
pub use resets::{Cause, Resets, Start};
