//! HCI (ETSI TS 102 622) over SHDLC: messages on pipes between gates; the APDU gate, by which a device sends commands to a secure element without a field; card gates, by which contactless readers do. `card` is the secure element's host, `device` the controller and terminal beside it.
//!
//! Neither end knows the link: packets of up to [`crate::swp::INFORMATION_MAX`] bytes go in and out, and that the link was set up, anew or for the first time, is said to it.

mod card;
mod contactless;
mod device;
mod end;
mod field;
pub mod ids;
mod own;
mod packet;
mod side;

pub use card::{Card, Pipe, Session};
pub use contactless::{PARAMETERS_MAX, Technology};
pub use device::Device;
pub use field::Transaction;
pub use own::Gates;
pub use packet::{Buffer, Kind, Message};

/// Bytes of a session's identity.
pub const SESSION_LEN: usize = 8;
/// Bytes of the longest message beside APDUs.
pub const SHORT_MAX: usize = 64;

/// Times of the APDU gate, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// MAX_WAIT_TIME: the longest time to an answer or EVT_WTX.
    pub wait: u64,
    /// The longest time to EVT_ATR after EVT_ABORT, and to a response.
    pub response: u64,
    /// A device alone: the longest time that a contactless reader is made to wait for an answer.
    pub reader: u64,
}
