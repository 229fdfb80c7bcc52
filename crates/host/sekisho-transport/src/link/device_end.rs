//! What a reader speaks on a link.

use sekisho_block::hci::Technology;
use sekisho_block::lr1::{self, Record};
use sekisho_block::t1p::{Bus, NAD_EUICC, NAD_GP};
use sekisho_block::{Ended, Fault, Micros, Power, atr};

use super::bus::BusDevice;
use super::characters::CharacterDevice;
use super::wire::{Face, WireDevice};
use crate::serve::Transaction;

/// What a reader speaks on a link, and with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceLine {
    /// T=0.
    T0,
    /// T=1.
    T1,
    /// T=1' on SPI.
    Spi(NodeAddress),
    /// T=1' on I2C.
    I2c(NodeAddress),
    /// SWP and HCI, the APDU gate.
    ApduGate,
    /// SWP and HCI, a contactless reader of type A.
    SwpA,
    /// The same of type B.
    SwpB,
}

/// Which secure element of a bus is meant, by its NAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeAddress {
    /// 21: the embedded secure element.
    Ese,
    /// 4B: the eUICC.
    Euicc,
}

impl NodeAddress {
    const fn nad(self) -> u8 {
        match self {
            Self::Ese => NAD_GP,
            Self::Euicc => NAD_EUICC,
        }
    }
}

impl DeviceLine {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 9] = [
        ("t0", Self::T0),
        ("t1", Self::T1),
        ("spi", Self::Spi(NodeAddress::Ese)),
        ("spi-euicc", Self::Spi(NodeAddress::Euicc)),
        ("i2c", Self::I2c(NodeAddress::Ese)),
        ("i2c-euicc", Self::I2c(NodeAddress::Euicc)),
        ("swp", Self::ApduGate),
        ("swp-a", Self::SwpA),
        ("swp-b", Self::SwpB),
    ];

    /// The line of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(of, _)| *of == name);
        found.map(|(_, line)| *line)
    }

    /// Whether it is a line of characters, which may go without records.
    #[must_use]
    pub const fn is_characters(self) -> bool {
        matches!(self, Self::T0 | Self::T1)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, line)| *line == self);
        found.map_or("", |(name, _)| name)
    }

    pub(super) const fn records(self) -> lr1::Protocol {
        match self {
            Self::T0 | Self::T1 => lr1::Protocol::Characters,
            Self::Spi(_) => lr1::Protocol::Bus(Bus::Spi),
            Self::I2c(_) => lr1::Protocol::Bus(Bus::I2c),
            Self::ApduGate | Self::SwpA | Self::SwpB => lr1::Protocol::Wire,
        }
    }

    pub(super) fn end(self) -> Box<dyn DeviceEnd> {
        match self {
            Self::T0 => Box::new(CharacterDevice::new(atr::Protocol::T0)),
            Self::T1 => Box::new(CharacterDevice::new(atr::Protocol::T1)),
            Self::Spi(at) => Box::new(BusDevice::new(Bus::Spi, at.nad())),
            Self::I2c(at) => Box::new(BusDevice::new(Bus::I2c, at.nad())),
            Self::ApduGate => Box::new(WireDevice::new(Face::ApduGate)),
            Self::SwpA => Box::new(WireDevice::new(Face::Reader(Technology::A))),
            Self::SwpB => Box::new(WireDevice::new(Face::Reader(Technology::B))),
        }
    }
}

/// A device's end of a line, of whatever protocol.
pub(super) trait DeviceEnd: Send {
    /// What is to be done with the card's power now.
    fn power(&mut self, now: Micros) -> Option<Power>;
    /// Takes a record of the card; false when the card could not say it.
    fn hear(&mut self, now: Micros, record: Record<'_>) -> bool;
    /// The next record, given to `send`; false when there is none.
    fn say(&mut self, now: Micros, send: &mut dyn FnMut(Record<'_>)) -> bool;
    /// Looks at the time.
    fn expire(&mut self, now: Micros);
    /// When that is due next.
    fn deadline(&self) -> Option<Micros>;
    /// How the session began: the ATR, or nothing where the protocol has none.
    fn opened(&self) -> Option<Result<&[u8], Fault>>;
    /// Begins an exchange; false while that cannot be.
    fn start(&mut self, now: Micros, command: &[u8]) -> bool;
    /// How it ended.
    fn ended(&self) -> Option<Ended<'_>>;
    /// Resets the card.
    fn reset(&mut self, now: Micros);
    /// What the card has said last of a reader's visit.
    fn transaction(&self) -> Option<Transaction> {
        None
    }
    /// Another end of the same wire speaks from here on; false where there is none.
    fn turn_to(&mut self, _: DeviceLine) -> bool {
        false
    }
    /// What the end that speaks has begun is over, and nobody else's on the wire; false where it is alone.
    fn renew(&mut self, _: Micros) -> bool {
        false
    }
}
