//! Blocks of T=1 (ISO/IEC 7816-3, clause 11) and T=1' (GPC_SPE_172): one state machine for each end, two framings.

mod card;
mod collect;
mod device;

pub use card::Card;
pub use collect::Collector;
pub use device::{Device, REQUESTS_MAX, RETRIES, STRAYS_MAX};

use crate::check::{crc, lrc};

/// How blocks are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// T=1 with an LRC: NAD PCB LEN INF LRC.
    Lrc,
    /// T=1 with a CRC, high byte first. No host is known that speaks it; the CRC is ISO/IEC 13239's, inverted at the end.
    Crc,
    /// T=1': NAD PCB LEN(2) INF CRC(2), numbers and CRC high byte first.
    Prime,
}

/// Bytes of the longest block: one of T=1'.
pub const BLOCK_MAX: usize = 4095;

impl Shape {
    /// Bytes before INF.
    #[must_use]
    pub const fn header(self) -> usize {
        match self {
            Self::Lrc | Self::Crc => 3,
            Self::Prime => 4,
        }
    }

    /// Bytes after INF.
    #[must_use]
    pub const fn trailer(self) -> usize {
        match self {
            Self::Lrc => 1,
            Self::Crc | Self::Prime => 2,
        }
    }

    /// The longest INF: 254, or 4089 (0FF9).
    #[must_use]
    pub const fn inf_max(self) -> u16 {
        match self {
            Self::Lrc | Self::Crc => 254,
            Self::Prime => 0x0FF9,
        }
    }

    /// How long a block is, as its header says; none before the header is whole, an error when LEN is none that a block can have.
    ///
    /// # Errors
    /// [`Bad::Other`]: LEN is above [`Shape::inf_max`].
    pub fn length(self, bytes: &[u8]) -> Result<Option<usize>, Bad> {
        let len = match (self, bytes) {
            (Self::Lrc | Self::Crc, [_, _, len, ..]) => u16::from(*len),
            (Self::Prime, [_, _, high, low, ..]) => u16::from_be_bytes([*high, *low]),
            _ => return Ok(None),
        };
        if len > self.inf_max() {
            return Err(Bad::Other);
        }
        Ok(Some(self.header() + usize::from(len) + self.trailer()))
    }
}

/// What is wrong with a block that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bad {
    /// Its check bytes, or a character's parity.
    Check,
    /// Anything else: length, PCB, NAD, an end before its end.
    Other,
}

/// What an R block says beside its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Nothing is wrong.
    None,
    /// EDC or parity.
    Check,
    /// Something else.
    Other,
}

impl From<Bad> for Trouble {
    fn from(bad: Bad) -> Self {
        match bad {
            Bad::Check => Self::Check,
            Bad::Other => Self::Other,
        }
    }
}

/// What an S block is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Numbers to 0 at both ends.
    Resynch,
    /// The longest INF that the sender takes.
    Ifs,
    /// The chain is given up.
    Abort,
    /// More time for a block, as a multiple of BWT.
    Wtx,
    /// T=1': communication interface parameters.
    Cip,
    /// T=1': the device ends its session.
    Release,
    /// T=1', older hosts and parts: the same by another number (C5).
    EndSession,
    /// T=1', one vendor: a cold reset (DE, FE).
    ColdReset,
    /// T=1': software reset.
    Swr,
}

impl Service {
    const fn number(self) -> u8 {
        match self {
            Self::Resynch => 0,
            Self::Ifs => 1,
            Self::Abort => 2,
            Self::Wtx => 3,
            Self::Cip => 4,
            Self::EndSession => 5,
            Self::Release => 6,
            Self::Swr => 0x0F,
            Self::ColdReset => 0x1E,
        }
    }

    fn of(shape: Shape, number: u8) -> Option<Self> {
        let every = [
            Self::Resynch,
            Self::Ifs,
            Self::Abort,
            Self::Wtx,
            Self::Cip,
            Self::EndSession,
            Self::Release,
            Self::Swr,
            Self::ColdReset,
        ];
        let known = every.iter().find(|service| service.number() == number).copied()?;
        (shape == Shape::Prime || number <= Self::Wtx.number()).then_some(known)
    }
}

/// A protocol control byte (11.3.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pcb {
    /// A piece of an APDU.
    I {
        /// N(S).
        number: bool,
        /// M: the chain goes on.
        more: bool,
    },
    /// What the sender expects next.
    R {
        /// N(R).
        number: bool,
        /// What was wrong.
        trouble: Trouble,
    },
    /// S, a request.
    Request(Service),
    /// S, the answer to one.
    Response(Service),
}

impl Pcb {
    /// The byte.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::I { number, more } => u8::from(number) << 6 | u8::from(more) << 5,
            Self::R { number, trouble } => 0x80 | u8::from(number) << 4 | trouble as u8,
            Self::Request(service) => 0xC0 | service.number(),
            Self::Response(service) => 0xE0 | service.number(),
        }
    }

    /// What a byte says; none for what the framing does not know. R with 3 (one vendor's "start missed") is other trouble.
    #[must_use]
    pub fn of(shape: Shape, byte: u8) -> Option<Self> {
        match byte {
            0x00..0x80 if byte & 0x1F == 0 => Some(Self::I {
                number: byte & 0x40 != 0,
                more: byte & 0x20 != 0,
            }),
            0x80..0xC0 if byte & 0x2C == 0 => {
                let trouble = match byte & 3 {
                    0 => Trouble::None,
                    1 => Trouble::Check,
                    _ => Trouble::Other,
                };
                Some(Self::R {
                    number: byte & 0x10 != 0,
                    trouble,
                })
            }
            0xC0..=0xFF => {
                let service = Service::of(shape, byte & 0x1F)?;
                Some(if byte & 0x20 == 0 {
                    Self::Request(service)
                } else {
                    Self::Response(service)
                })
            }
            _ => None,
        }
    }
}

/// A block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// Node address: where to and where from, a nibble each.
    pub nad: u8,
    /// What it is.
    pub pcb: Pcb,
    /// Information field.
    pub inf: &'a [u8],
}

/// NAD of the answer to a block.
#[must_use]
pub const fn swapped(nad: u8) -> u8 {
    nad.rotate_left(4)
}

impl<'a> Block<'a> {
    /// Writes it and says how long it is; none when it does not fit into `out`, or INF not into a block.
    #[must_use]
    pub fn write(&self, shape: Shape, out: &mut [u8]) -> Option<usize> {
        let len = u16::try_from(self.inf.len())
            .ok()
            .filter(|len| *len <= shape.inf_max())?;
        let [high, low] = len.to_be_bytes();
        let header = match shape {
            Shape::Lrc | Shape::Crc => [self.nad, self.pcb.byte(), low, 0],
            Shape::Prime => [self.nad, self.pcb.byte(), high, low],
        };
        let start = shape.header();
        let end = start + self.inf.len();
        out.get_mut(..start)?.copy_from_slice(header.get(..start)?);
        out.get_mut(start..end)?.copy_from_slice(self.inf);
        let (body, rest) = out.split_at_mut_checked(end)?;
        match shape {
            Shape::Lrc => *rest.first_mut()? = lrc(body),
            Shape::Crc | Shape::Prime => *rest.first_chunk_mut()? = crc(body).to_be_bytes(),
        }
        Some(end + shape.trailer())
    }

    /// Parses a whole block, no byte more or less.
    ///
    /// # Errors
    /// [`Bad::Check`] when its check bytes are wrong, [`Bad::Other`] when its length is, or its PCB is none.
    pub fn parse(shape: Shape, bytes: &'a [u8]) -> Result<Self, Bad> {
        if shape.length(bytes)? != Some(bytes.len()) {
            return Err(Bad::Other);
        }
        let (body, sum) = bytes
            .split_at_checked(bytes.len() - shape.trailer())
            .ok_or(Bad::Other)?;
        let good = match (shape, sum) {
            (Shape::Lrc, [sum]) => *sum == lrc(body),
            (Shape::Crc | Shape::Prime, [high, low]) => [*high, *low] == crc(body).to_be_bytes(),
            _ => false,
        };
        if !good {
            return Err(Bad::Check);
        }
        let (Some(nad), Some(pcb)) = (body.first(), body.get(1)) else {
            return Err(Bad::Other);
        };
        let pcb = Pcb::of(shape, *pcb).ok_or(Bad::Other)?;
        let inf = body.get(shape.header()..).ok_or(Bad::Other)?;
        match pcb {
            Pcb::R { .. } if !inf.is_empty() => Err(Bad::Other),
            _ => Ok(Self { nad: *nad, pcb, inf }),
        }
    }
}

/// A length for INF as S(IFS) says it: a byte, 01 to FE, or with T=1' two, 00FF to 0FF9, or less.
pub(crate) fn ifs(shape: Shape, inf: &[u8]) -> Option<u16> {
    let value = match (shape, inf) {
        (_, [value]) if *value != 0xFF => u16::from(*value),
        (Shape::Prime, [high, low]) => u16::from_be_bytes([*high, *low]),
        _ => return None,
    };
    (value != 0 && value <= shape.inf_max()).then_some(value)
}

/// INF of an S block that a state machine makes: two bytes at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Short {
    bytes: [u8; 2],
    len: u8,
}

impl Short {
    pub(crate) const NONE: Self = Self {
        bytes: [0; 2],
        len: 0,
    };

    pub(crate) const fn byte(value: u8) -> Self {
        Self {
            bytes: [value, 0],
            len: 1,
        }
    }

    /// S(IFS) says a length in one byte when it can, else in two.
    pub(crate) fn ifs(value: u16) -> Self {
        match u8::try_from(value) {
            Ok(value) if value != 0xFF => Self::byte(value),
            _ => Self {
                bytes: value.to_be_bytes(),
                len: 2,
            },
        }
    }

    pub(crate) fn copied(inf: &[u8]) -> Self {
        match inf {
            [value] => Self::byte(*value),
            [high, low, ..] => Self {
                bytes: [*high, *low],
                len: 2,
            },
            [] => Self::NONE,
        }
    }

    pub(crate) fn get(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}
