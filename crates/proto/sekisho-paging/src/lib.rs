//! UDP paging: a secure element (SE) asks "anything for me?" with one datagram and gets one answer, under an identity that changes each time.
//!
//! Both ends are here, without sockets, clocks or storage: datagrams, random numbers and the keys are arguments, and what has to survive a
//! loss of power is a value that the caller must have written before it gets what depends on it.
//!
//! ```text
//!  device (SecApp in the SE)                          server
//!  Device::poll ----------- UID1, poll (44 bytes) ----> Ring::open (ticket) or the caller's index (random)
//!                                                       TicketRecord::receive / RandomRecord::receive
//!  Device::receive <------- answer (44 bytes) --------- Received::answer
//!    Accepted::record -> flash
//!  Device::promote: now it is UID2
//! ```
//!
//! * [`datagram`]: the two datagrams, constant in length, random to whoever has no key.
//! * [`keys`]: what is derived from a device's root key, and the key that changes at each poll.
//! * [`ticket`]: identities that carry the device's number, encrypted under the server's ticket keys.
//! * [`device`]: the device's state machine and its one record.
//! * [`server`]: the server's half, per device: scheme `ticket` and scheme `random`.
//! * [`orders`]: how far a device is followed that names an order which nobody has given.
//! * [`recovery`]: the way back for a device whose identity nobody knows, over HTTPS.
//!
//! What never happens, whatever is lost, repeated, replayed or killed: a device whose current identity the server cannot answer; an answer
//! accepted that does not belong to the device's latest poll; two devices with one identity.
//!
//! Bytes, keys and rules: `docs/spec/paging.md`.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

#[cfg(test)]
extern crate std;

pub mod datagram;
pub mod device;
pub mod keys;
pub mod message;
pub mod orders;
pub mod recovery;
pub mod server;
pub mod ticket;

pub use datagram::{DATAGRAM, Uid};
pub use message::Message;
