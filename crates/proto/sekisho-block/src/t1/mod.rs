//! T=1 (ISO/IEC 7816-3, clause 11): blocks of characters. The state machines are [`crate::block`]'s; here are the characters and the timers.

mod card;
mod device;

pub use card::Card;
pub use device::Device;

/// Bytes of the longest block: 3, INF of 254, CRC.
pub const BLOCK_MAX: usize = 259;
/// IFSD until the device says another (11.4.2).
pub const IFSD_DEFAULT: u16 = 32;

/// Times of a line, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// CWT: a longer silence within a block ends it, damaged.
    pub cwt: u64,
    /// BWT: the longest time to a card's block.
    pub bwt: u64,
    /// How long a line must be silent after a block before it is one: a damaged LEN that makes a block shorter shows by what comes after. 1 at the least is reckoned with. It has to be longer than the line's own gaps within a block: where it is not, one such flip in 256 shortens a block unseen. On a line of characters BGT allows for it (22 etu, 11.4.3); where nothing flips bits, it may be short.
    pub guard: u64,
}
