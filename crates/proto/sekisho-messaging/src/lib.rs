//! ISO 7816-4 secure messaging with fixed and rolling keys, in both roles.
//!
//! Secure messaging wraps each C-APDU into the data objects 87 (or 85), 97 and 8E and each R-APDU into 87 (or 85), 99
//! and 8E, with a send sequence counter ([`Ssc`]) in every MAC (ISO 7816-4 clause 10, ICAO 9303-11 section 9.8). What is
//! new here is that the keys may change with every command. The pieces:
//!
//! * [`reader::ReaderMessaging`] and [`card::CardMessaging`]: the two roles. Bytes in, bytes out; no clock, no randomness.
//! * [`schedule::KeySchedule`]: which keys protect an exchange (a command and its response), and what comes after it.
//!   [`schedule::Ratchet`] is the default: forward secure. [`schedule::Fixed`] is ICAO secure messaging.
//!   The `Legacy...` schedules are the three embodiments of JP 7206869 B2, kept to the letter and weak: see [`analysis`].
//! * [`setup`]: the commands that open and refresh rolling keys under the master key MKEY, and the card's policy.
//! * [`analysis`]: how weak, in numbers.
//!
//! The rules both roles keep, whatever the schedule:
//!
//! 1. The MAC is checked before anything is decrypted, and a key advances only behind a valid MAC.
//! 2. The card drops the keys of an exchange before the answer leaves. A lost answer is had again by sending the same
//!    command bytes again: the card repeats its stored answer and executes nothing.
//! 3. The card closes at the first command that is not right: its keys are wiped, and only a new opening helps.
//! 4. The reader builds no new command while an answer is outstanding, so two exchanges can never share a key.
//!
//! Every field, constant and error with worked bytes: `docs/spec/rolling-secure-messaging.md`.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

pub mod analysis;
pub mod card;
mod error;
mod keys;
mod objects;
pub mod reader;
pub mod schedule;
pub mod setup;
mod ssc;

pub use error::SmError;
pub use keys::Keys;
pub use objects::MAC_LEN;
pub use sekisho_keys::p256dh::{EphemeralKey, PUBLIC_KEY_LEN};
pub use ssc::Ssc;
