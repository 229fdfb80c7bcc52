//! GlobalPlatform SCP03 in both roles, and broadcast mode.
//!
//! SCP03 is the Card Specification's Amendment D; v1.1.1 for everything but S16 (16-byte challenges, cryptograms and MACs), which v1.2 added.
//! Section numbers below are those of v1.1.1. Broadcast mode is `docs/spec/broadcast-update.md`, section 2.1.
//!
//! [`card`] and [`host`] are written apart on purpose: they share the values in this module and the primitives of `sekisho-keys`, but no
//! derivation, wrapping or unwrapping, so that a mistake in one is not mirrored, and hidden, by the other.
//!
//! A state is a type. On the card INITIALIZE UPDATE makes a [`card::Initiated`]; EXTERNAL AUTHENTICATE consumes it, so it has one try, and
//! makes a [`card::SecureChannel`]; CHANGE MODE consumes that and makes a [`card::BroadcastChannel`], which alone can give it back. A
//! secure channel that met an error erases its keys and answers [`ScpError::Closed`] from then on.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

pub mod card;
mod error;
pub mod host;
mod parameters;

pub use error::ScpError;
pub use parameters::{MacMode, ScpParameter, SecurityLevel};

/// The MAC chaining value: the full 16-byte CMAC of the last command (5.3).
pub type MacChainingValue = [u8; 16];
