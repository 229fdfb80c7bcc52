//! The single wire protocol (ETSI TS 102 613): frames of bits, activation, and SHDLC. Lines, currents and voltages are below this.
//!
//! CLT, which carries the bits of type A and FeliCa with their own timing and without HCI, is declined: the APDUs of every contactless protocol come over SHDLC and HCI, and a card that offers no CLT in its registry is sent none. Such a frame is passed over.

pub mod frame;
mod link;
mod shdlc;

pub use link::{Activation, FRAME_MAX, Link, Role, Timing};
pub use shdlc::{BUSY_MAX, Event, RESETS_MAX, RETRIES, Shdlc, Timer};

/// Bytes of the longest LPDU: what a frame carries (TS 102 613, 8.1).
pub const LPDU_MAX: usize = 30;
/// Bytes of the longest information of an I frame.
pub const INFORMATION_MAX: usize = LPDU_MAX - 1;
/// The largest window of SHDLC (10.4).
pub const WINDOW_MAX: u8 = 4;

/// What an LPDU is, by the first bits of its first byte (TS 102 613, 9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// 1xx: SHDLC.
    Shdlc,
    /// 011: activation.
    Act,
    /// 010: CLT, which is declined.
    Clt,
}

impl Layer {
    /// Of a first byte; none for what is not defined.
    #[must_use]
    pub const fn of(byte: u8) -> Option<Self> {
        match byte >> 5 {
            4..=7 => Some(Self::Shdlc),
            3 => Some(Self::Act),
            2 => Some(Self::Clt),
            _ => None,
        }
    }
}
