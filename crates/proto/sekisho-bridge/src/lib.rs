//! The device's part of a TLS session that ends in a secure element: TLS records to command APDUs and answers to records (`docs/spec/tls-apdu.md`).
//!
//! TCP and the headers of records stop at the device; what they carry goes to the SE and comes from it. There is no key and no TLS engine here: this crate
//! depends on the codec of APDUs alone, and what it does wrongly, by mistake or on purpose, can only make a session fail.
//!
//! * [`Piece`]: what one command, or one chain of commands, carries, and what the SE answers with.
//! * [`Correspondence`]: which instruction stands for which handshake message.
//! * [`Bridge`]: the state machine. Bytes of the connection and answers of the SE go in; commands and records come out. It opens no connection and reads no clock.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

mod bridge;
mod correspondence;
mod inbound;
mod outbound;
mod piece;

pub use bridge::{Bridge, Buffers, Ended, Settings, Step};
pub use correspondence::{Correspondence, Row, handshake_name};
pub use outbound::Record;
pub use piece::{Extent, Piece};

use sekisho_apdu::{Cla, StatusWord};

/// Instructions of the TLS class. Those below 20 stand for handshake messages in the clear, as a [`Correspondence`] says.
pub mod ins {
    /// 20: a record of application data, which is encrypted (the seed's figure 4).
    pub const APPLICATION_DATA: u8 = 0x20;
    /// 21: of a record of type handshake, what is no whole message in the clear.
    pub const HANDSHAKE: u8 = 0x21;
    /// 22: a record of type `change_cipher_spec`.
    pub const CHANGE_CIPHER_SPEC: u8 = 0x22;
    /// 23: a record of type alert.
    pub const ALERT: u8 = 0x23;
    /// 28: begins a session with the peer whose row is P1-P2.
    pub const OPEN: u8 = 0x28;
    /// 2A: ends the session; P1 says why.
    pub const CLOSE: u8 = 0x2A;
}

/// Content types of a record (RFC 8446, 5.1).
pub mod content_type {
    /// `change_cipher_spec`.
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    /// alert.
    pub const ALERT: u8 = 21;
    /// handshake.
    pub const HANDSHAKE: u8 = 22;
    /// `application_data`.
    pub const APPLICATION_DATA: u8 = 23;
}

/// Why a device ends a session: P1 of CLOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Why {
    /// 00: it wants to.
    Asked = 0,
    /// 01: the connection is gone. What the SE answers reaches nobody.
    Disconnected = 1,
    /// 02: what came is no record: another content type than 20 to 23, or a version that does not begin with 03.
    NoRecord = 2,
    /// 03: a record is longer than [`RECORD_MAX`].
    TooLong = 3,
}

/// The class of commands of a TLS session on a logical channel, 0 to 3; there is none on others. Chained it is B4 to B7.
pub const fn tls_class(channel: u8) -> Option<Cla> {
    match channel {
        0..=3 => Some(Cla(0xA4 | channel)),
        _ => None,
    }
}

/// 6285: the session is over. What the answer carries is sent, then the connection is closed.
pub const SESSION_OVER: StatusWord = StatusWord(0x6285);

/// 6400: where the SE keeps a record until it is whole, another session's record stands. Nothing of this record is there: it is sent again from its first piece.
pub const AGAIN: StatusWord = StatusWord::NO_SPECIFIC_DIAGNOSIS;

/// The longest content of a record: 2^14 bytes and 2,048 of expansion (RFC 5246, 6.2.3; RFC 8446, 5.2 allows less).
pub const RECORD_MAX: usize = (1 << 14) + 2048;
/// The longest content in the clear (RFC 8446, 5.1).
pub const PLAINTEXT_MAX: usize = 1 << 14;
/// A record's header: content type, version, length.
pub const RECORD_HEADER: usize = 5;
/// A handshake message's header: type and length.
pub const MESSAGE_HEADER: usize = 4;
