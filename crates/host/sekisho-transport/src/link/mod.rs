//! Links: a protocol's own frames over a stream, by link records (LR1, `docs/spec/transports.md`, 7), or on a pseudo terminal a line's characters as they are. [`LinkCard`] is the reader's end, [`serve_link`] the secure element's.
//!
//! Both ends are the state machines of `sekisho-block`; here are streams, the clock and the thread that runs commands.

mod address;
mod bus;
mod card_end;
mod characters;
mod device;
mod device_end;
mod serve;
mod tap;
mod terminal;
mod through;
mod wire;

pub use address::{LinkAddress, LinkListener};
pub use card_end::CardLine;
pub use device::LinkCard;
pub use device_end::{DeviceLine, NodeAddress};
pub use serve::{Lines, serve_link};
pub use tap::{Seen, Tap};
pub use through::Chip;

use sekisho_block::contact::Line;

/// Bytes of the longest command and answer, whichever protocol carries them: a little more than the secure element's own longest.
pub(crate) const APDU: usize = 4_400;
/// A card's clock in Hz, as readers have it.
const HERTZ: u32 = 3_579_545;
/// A card does not take less than a second for silence: streams are late for reasons of their own.
const CARD_LINE: Line = Line {
    hertz: HERTZ,
    slack: 1,
    least: 1_000_000,
    guard: 0,
};
/// A device is three times as patient as the standard wants, and two seconds at the least.
const DEVICE_LINE: Line = Line {
    slack: 3,
    least: 2_000_000,
    ..CARD_LINE
};
