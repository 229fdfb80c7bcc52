//! TLS that ends in the secure element (`docs/spec/tls-apdu.md`, `docs/decisions/0021-tls.md`): the SE's end of a session, but for who chooses the peer and who
//! runs what a command says.
//!
//! * [`Endpoint`]: pieces of records go in, commands in the clear come out; answers go in, pieces come out.
//! * [`Room`]: where a record stands until it is whole; one for all sessions.
//! * [`Engine`]: the handshake. [`Rustls`] is the one that there is, over a provider that computes with sekisho-keys alone.
//! * [`Traffic`]: what stays behind the handshake, 128 bytes of keys and counters, and a record layer in place and without heap.
//!
//! The engine allocates; bounds stand before it: the room for a record, and [`HANDSHAKE_MAX`]. There is no unsafe code here.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

extern crate alloc;
#[cfg(any(test, not(target_os = "none")))]
#[macro_use]
extern crate std;

mod aead;
#[cfg(test)]
#[path = "../tests/bogo/shim.rs"]
mod bogo;
mod certificate;
mod endpoint;
mod engine;
mod message;
mod provider;
mod random;
mod room;
mod tickets;
mod traffic;
mod verifier;

pub use certificate::{Subject, is_certificate, public_key, request};
pub use endpoint::{Endpoint, Heard};
pub use engine::{Engine, Finished, HANDSHAKE_MAX, Peer, Progress, Proof, Rustls};
pub use room::{PATIENCE, Room};
pub use tickets::{Later, TICKET_MAX, Ticket};
pub use traffic::{Traffic, Version};

/// Why a session fails, as its other end is told (RFC 8446, 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert(pub u8);

impl Alert {
    /// `close_notify`.
    pub const CLOSE_NOTIFY: Self = Self(0);
    /// `unexpected_message`.
    pub const UNEXPECTED_MESSAGE: Self = Self(10);
    /// `bad_record_mac`.
    pub const BAD_RECORD_MAC: Self = Self(20);
    /// `record_overflow`.
    pub const RECORD_OVERFLOW: Self = Self(22);
    /// `illegal_parameter`.
    pub const ILLEGAL_PARAMETER: Self = Self(47);
    /// `unknown_ca`.
    pub const UNKNOWN_CA: Self = Self(48);
    /// `decode_error`.
    pub const DECODE_ERROR: Self = Self(50);
    /// `protocol_version`.
    pub const PROTOCOL_VERSION: Self = Self(70);
    /// `internal_error`.
    pub const INTERNAL_ERROR: Self = Self(80);
    /// `user_canceled`.
    pub const USER_CANCELED: Self = Self(90);
    /// `no_renegotiation`.
    pub const NO_RENEGOTIATION: Self = Self(100);
}
