//! APDU, BER-TLV, status word and AID codecs of a secure element.
//!
//! Bytes to values and back, no state, no heap. Every parser is total: any byte string gives a value or an error. The parsers take
//! exact lengths: a byte too many is an error, never ignored.
//!
//! * [`CApdu`], [`RApdu`], [`Cla`], [`StatusWord`]: ISO/IEC 7816-4 commands and responses, short and extended.
//! * [`Reader`], [`Writer`]: big-endian fields over borrowed buffers.
//! * [`tlv`]: BER-TLV data objects with tags of 1 to 3 bytes.
//! * [`Aid`], [`PartialAid`]: application identifiers and their right-truncated match.
//! * [`gp`]: identifiers and data objects of the GlobalPlatform Card Specification (GPC) 2.3.1.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

#[cfg(test)]
extern crate std;

mod aid;
mod capdu;
mod cla;
pub mod gp;
mod meaning;
mod rapdu;
mod reader;
mod status;
pub mod tlv;
mod writer;

pub use aid::{Aid, AidLengthError, PartialAid};
pub use capdu::{ApduError, CApdu};
pub use cla::{Cla, SecureMessaging};
pub use meaning::Meaning;
pub use rapdu::RApdu;
pub use reader::{DecodeError, Reader};
pub use status::StatusWord;
pub use writer::{BufferFull, Writer};
