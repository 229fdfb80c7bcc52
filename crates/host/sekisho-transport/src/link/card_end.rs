//! What a secure element speaks on a link.

use std::os::fd::BorrowedFd;

use sekisho_block::lr1::{self, Record};
use sekisho_block::t1p::Bus;
use sekisho_block::{Micros, Power, atr, hci};

use super::bus::BusCard;
use super::characters::CharacterCard;
use super::wire::WireCard;
use crate::serve::Transaction;

/// What a secure element speaks on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CardLine {
    /// T=0.
    T0,
    /// T=1.
    T1,
    /// T=1' on SPI: two sides, the embedded secure element and the eUICC.
    Spi,
    /// T=1' on I2C: the same two.
    I2c,
    /// SWP and HCI: three sides, the APDU gate, and readers of type A and of type B.
    Swp,
}

impl CardLine {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("t0", Self::T0),
        ("t1", Self::T1),
        ("spi", Self::Spi),
        ("i2c", Self::I2c),
        ("swp", Self::Swp),
    ];

    /// Whether it is a line of characters, which may go without records.
    #[must_use]
    pub const fn is_characters(self) -> bool {
        matches!(self, Self::T0 | Self::T1)
    }

    /// How many sides of the secure element it carries.
    #[must_use]
    pub const fn sides(self) -> usize {
        match self {
            Self::T0 | Self::T1 => 1,
            Self::Spi | Self::I2c => 2,
            Self::Swp => 3,
        }
    }

    pub(super) const fn records(self) -> lr1::Protocol {
        match self {
            Self::T0 | Self::T1 => lr1::Protocol::Characters,
            Self::Spi => lr1::Protocol::Bus(Bus::Spi),
            Self::I2c => lr1::Protocol::Bus(Bus::I2c),
            Self::Swp => lr1::Protocol::Wire,
        }
    }

    /// `fresh`: bytes that no other card chooses.
    pub(super) fn end(self, atr: &[u8], fresh: [u8; hci::SESSION_LEN]) -> Box<dyn CardEnd> {
        match self {
            Self::T0 => Box::new(CharacterCard::new(atr::Protocol::T0, atr)),
            Self::T1 => Box::new(CharacterCard::new(atr::Protocol::T1, atr)),
            Self::Spi => Box::new(BusCard::new(Bus::Spi, atr)),
            Self::I2c => Box::new(BusCard::new(Bus::I2c, atr)),
            Self::Swp => Box::new(WireCard::new(atr, fresh)),
        }
    }
}

/// A secure element's end of a line, of whatever protocol, with one side or more.
pub(super) trait CardEnd {
    /// Power on or a reset, or power off.
    fn power(&mut self, now: Micros, on: bool);
    /// Takes DATA or POLL.
    fn hear(&mut self, now: Micros, record: Record<'_>);
    /// The next record, given to `send`; false when there is none.
    fn say(&mut self, now: Micros, send: &mut dyn FnMut(Record<'_>)) -> bool;
    /// What there is to wait for beside records.
    fn line(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Looks at the time.
    fn expire(&mut self, now: Micros);
    /// When that is due next.
    fn deadline(&self) -> Option<Micros>;
    /// A command that waits, and at which side.
    fn command(&self) -> Option<(usize, &[u8])>;
    /// It is being run.
    fn take(&mut self, now: Micros, side: usize);
    /// What the device is to be told when the reader has gone; said before the answer.
    fn announce(&mut self, _side: usize, _told: &Transaction) {}
    /// Its answer.
    fn answer(&mut self, now: Micros, side: usize, answer: &[u8]);
    /// A side that the device resets, or switches off, in the protocol.
    fn power_wanted(&mut self) -> Option<(usize, Power)>;
}
