//! The transports of a secure element, as state machines: bytes and time go in, bytes and requests come out.
//!
//! Each protocol has a folder of its own with the two ends of its line apart: `card` is the secure element, `device` what talks to it. Neither end reads a clock, sleeps or owns a line: [`Micros`] and
//! what has been received are arguments. Buffers are as long as the type says, nothing is allocated.
//!
//! **Exactly once, or outcome unknown.** A device role never sends a command again whose last byte may have reached the card, but for what a protocol repeats under a number by which the card knows it. What
//! has become of an exchange is [`Ended`]: where it cannot be known, that is a value, and whoever sent the command asks the card what has become of it.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

pub mod atr;
pub mod block;
pub mod check;
pub mod contact;
pub mod hci;
pub mod lr1;
mod outcome;
pub mod pps;
pub mod swp;
pub mod t0;
pub mod t1;
pub mod t1p;

pub use outcome::{Ended, Fault, Micros, Power};
