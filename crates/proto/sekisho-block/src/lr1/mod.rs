//! LR1, link records: what a device and a virtual card send each other over a stream (a socket) so that the bytes of any protocol here, power and time come across. The card listens, one device at a time; the end of the stream is power off.
//!
//! A record is its length (two bytes, of all that follows), its kind, its body. Whoever reads one that cannot be closes the stream.

use zeroize::Zeroize;

use crate::t1p::Bus;

/// Bytes before a record's body.
pub const HEADER: usize = 3;

const DATA: u8 = 0x00;
const ON: u8 = 0x01;
const OFF: u8 = 0x02;
const RST: u8 = 0x03;
const POLL: u8 = 0x04;
const NAK: u8 = 0x05;
const TICK: u8 = 0x10;
const TOCK: u8 = 0x11;

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Characters of T=0 or T=1: where a record ends means nothing.
    Characters,
    /// T=1': a record from the device is one write, one from the card what one poll has read.
    Bus(Bus),
    /// SWP: a record is an LPDU with X.25, low byte first.
    Wire,
}

/// Which end sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum From {
    /// The device.
    Device,
    /// The card.
    Card,
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// Bytes of the protocol.
    Data(&'a [u8]),
    /// Power on and reset, from whatever state.
    On,
    /// Power off.
    Off,
    /// A reset under power.
    Reset,
    /// The device reads so many bytes off a bus.
    Poll(u16),
    /// The card does not acknowledge its address.
    Nak,
    /// So many microseconds of virtual time pass.
    Tick(u32),
    /// They have passed, and all that they caused has been sent.
    Tock,
}

/// A record that cannot be: of no length or too long for the buffer, of another kind or body than there is, from the wrong end, of another protocol, or before power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRecord;

impl<'a> Record<'a> {
    fn parse(kind: u8, body: &'a [u8]) -> Result<Self, NoRecord> {
        match (kind, body) {
            (DATA, body) => Ok(Self::Data(body)),
            (ON, []) => Ok(Self::On),
            (OFF, []) => Ok(Self::Off),
            (RST, []) => Ok(Self::Reset),
            (POLL, [high, low]) => Ok(Self::Poll(u16::from_be_bytes([*high, *low]))),
            (NAK, []) => Ok(Self::Nak),
            (TICK, &[a, b, c, d]) => Ok(Self::Tick(u32::from_be_bytes([a, b, c, d]))),
            (TOCK, []) => Ok(Self::Tock),
            _ => Err(NoRecord),
        }
    }

    /// Writes it and says how long it is; none when it does not fit into `out`, or no length can say it. A record is written to the stream in one piece.
    #[must_use]
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        let number;
        let (kind, body): (u8, &[u8]) = match self {
            Self::Data(body) => (DATA, body),
            Self::On => (ON, &[]),
            Self::Off => (OFF, &[]),
            Self::Reset => (RST, &[]),
            Self::Poll(n) => {
                let [high, low] = n.to_be_bytes();
                number = [high, low, 0, 0];
                (POLL, number.get(..2)?)
            }
            Self::Nak => (NAK, &[]),
            Self::Tick(micros) => {
                number = micros.to_be_bytes();
                (TICK, &number)
            }
            Self::Tock => (TOCK, &[]),
        };
        let [high, low] = u16::try_from(body.len() + 1).ok()?.to_be_bytes();
        let end = HEADER + body.len();
        out.get_mut(..HEADER)?.copy_from_slice(&[high, low, kind]);
        out.get_mut(HEADER..end)?.copy_from_slice(body);
        Some(end)
    }

    /// Whether this end may send it in this protocol.
    const fn fits(&self, protocol: Protocol, from: From) -> bool {
        match (self, from) {
            (Self::Data(_), _) => true,
            (Self::On | Self::Off | Self::Reset | Self::Tick(_), From::Device) => true,
            (Self::Poll(_), From::Device) => matches!(protocol, Protocol::Bus(_)),
            (Self::Nak, From::Card) => matches!(protocol, Protocol::Bus(Bus::I2c)),
            (Self::Tock, From::Card) => true,
            _ => false,
        }
    }
}

/// Reads the records of one end from a stream, in any pieces, with bodies of up to `LEN` bytes.
#[derive(Clone, Debug)]
pub struct Reader<const LEN: usize> {
    protocol: Protocol,
    from: From,
    header: [u8; HEADER],
    body: [u8; LEN],
    have: usize,
    powered: bool,
    broken: bool,
}

impl<const LEN: usize> Reader<LEN> {
    /// A reader of what this end sends on a stream that has just begun.
    #[must_use]
    pub const fn new(protocol: Protocol, from: From) -> Self {
        Self {
            protocol,
            from,
            header: [0; HEADER],
            body: [0; LEN],
            have: 0,
            // Only the device's end says when there is power.
            powered: matches!(from, From::Card),
            broken: false,
        }
    }

    /// Takes bytes until a record is whole, and leaves the others in `bytes`; none when there are not enough.
    ///
    /// # Errors
    /// [`NoRecord`]: the stream is to be closed; nothing is read from it any more.
    pub fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<Record<'_>>, NoRecord> {
        if self.broken {
            return Err(NoRecord);
        }
        while let Some((first, rest)) = bytes.split_first() {
            *bytes = rest;
            let slot = match self.have.checked_sub(HEADER) {
                None => self.header.get_mut(self.have),
                Some(at) => self.body.get_mut(at),
            };
            let Some(slot) = slot else {
                self.broken = true;
                return Err(NoRecord);
            };
            *slot = *first;
            self.have += 1;
            let [high, low, kind] = self.header;
            let len = usize::from(u16::from_be_bytes([high, low]));
            if self.have >= 2 && (len == 0 || len > LEN + 1) {
                self.broken = true;
                return Err(NoRecord);
            }
            if self.have < HEADER || self.have < 2 + len {
                continue;
            }
            self.have = 0;
            let record = Record::parse(kind, self.body.get(..len - 1).unwrap_or_default());
            let allowed = record.is_ok_and(|record| {
                self.powered = match record {
                    Record::On => true,
                    Record::Off => self.from == From::Card,
                    _ => self.powered,
                };
                let early = matches!(record, Record::Data(_) | Record::Reset | Record::Poll(_));
                record.fits(self.protocol, self.from) && (self.powered || !early)
            });
            if !allowed {
                self.broken = true;
                return Err(NoRecord);
            }
            return record.map(Some);
        }
        Ok(None)
    }
}

impl<const LEN: usize> Drop for Reader<LEN> {
    fn drop(&mut self) {
        self.body.zeroize();
    }
}
