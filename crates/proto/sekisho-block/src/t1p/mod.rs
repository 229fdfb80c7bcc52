//! T=1' (GlobalPlatform APDU Transport Protocol over SPI/I2C, GPC_SPE_172): blocks of T=1 with two bytes of length and a CRC, on a bus whose clock is the device's. The state machines are [`crate::block`]'s; here are the bus, its times, and power.

mod card;
pub mod cip;
mod device;

pub use card::Card;
pub use device::{Access, Device, Step};

use crate::block::Service;

/// NAD from the device of a GlobalPlatform secure element; the answer's is 12.
pub const NAD_GP: u8 = 0x21;
/// NAD from the device of one vendor's secure elements; the answer's is A5.
pub const NAD_VENDOR: u8 = 0x5A;
/// NAD from the device of that vendor's eUICC; the answer's is B4.
pub const NAD_EUICC: u8 = 0x4B;

/// The longest INF that a device takes before it has said another: what a vendor's one byte of length can say. The hosts that say none take as much.
pub const IFSD_DEFAULT: u16 = 254;
/// The longest INF that a card takes before its CIP is known.
pub const IFSC_DEFAULT: u16 = 8;

/// Bytes around INF.
const AROUND: u16 = 6;

/// How one vendor's open host begins: what an earlier session has left is read away, RESYNCH, CIP.
pub const ORDER_RESYNCH_FIRST: &[Step] = &[
    Step::ReadAway,
    Step::Ask(Service::Resynch),
    Step::Ask(Service::Cip),
];
/// How another one begins: CIP, RESYNCH.
pub const ORDER_CIP_FIRST: &[Step] = &[Step::Ask(Service::Cip), Step::Ask(Service::Resynch)];
/// How a third one begins: SWR, CIP, RESYNCH, and the device's IFS.
pub const ORDER_RESET_FIRST: &[Step] = &[
    Step::Ask(Service::Swr),
    Step::Ask(Service::Cip),
    Step::Ask(Service::Resynch),
    Step::Ifs,
];

/// A bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bus {
    /// A card with nothing to say sends 00.
    Spi,
    /// A card with nothing to say does not acknowledge its address.
    I2c,
}

/// What stands before and behind a block on a bus, and is no block: neither nibble of a NAD is 0 or F.
const fn is_filler(byte: u8) -> bool {
    matches!(byte, 0x00 | 0xFF)
}
