//! Protocol and parameters selection (ISO/IEC 7816-3, clause 9): the first thing a device sends after an ATR in negotiable mode, if it sends it at all.

use crate::atr::{Atr, Protocol, Rate};
use crate::check::lrc;

/// The byte that begins a PPS. It is no CLA of a command.
pub const PPSS: u8 = 0xFF;
/// Bytes of the longest PPS.
pub const LEN_MAX: usize = 6;

const HAS_PPS1: u8 = 0x10;
/// Bits of PPS0 for PPS1, PPS2 and PPS3.
const PARTS: [u8; 3] = [HAS_PPS1, 0x20, 0x40];

/// A request or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pps {
    /// The protocol that is chosen.
    pub protocol: Protocol,
    /// PPS1: Fi and Di; absent means the default rate.
    pub speed: Option<u8>,
}

/// Why a PPS did not come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PpsError {
    /// More bytes are to come.
    Short,
    /// It is no PPS: the first byte, or PCK, or a reserved bit, or bytes after it.
    Malformed,
    /// A protocol that is not known here.
    Protocol,
    /// The answer agrees to something that was not asked for. The device resets the card.
    Differs,
}

impl Pps {
    /// Writes it and says how long it is.
    #[must_use]
    pub fn write(&self, out: &mut [u8; LEN_MAX]) -> usize {
        let t = self.protocol.number();
        let (bytes, len) = match self.speed {
            Some(speed) => ([PPSS, HAS_PPS1 | t, speed, PPSS ^ HAS_PPS1 ^ t ^ speed, 0, 0], 4),
            None => ([PPSS, t, PPSS ^ t, 0, 0, 0], 3),
        };
        *out = bytes;
        len
    }

    /// Parses a whole PPS. PPS2 and PPS3 are passed over: nothing here speaks of them.
    ///
    /// # Errors
    /// [`PpsError::Short`] as long as bytes are missing; what it is not otherwise.
    pub fn parse(bytes: &[u8]) -> Result<Self, PpsError> {
        match bytes.first() {
            None => return Err(PpsError::Short),
            Some(&PPSS) => {}
            Some(_) => return Err(PpsError::Malformed),
        }
        let pps0 = *bytes.get(1).ok_or(PpsError::Short)?;
        let len = 3 + PARTS.iter().filter(|part| pps0 & **part != 0).count();
        if bytes.len() < len {
            return Err(PpsError::Short);
        }
        if bytes.len() > len || lrc(bytes) != 0 || pps0 & 0x80 != 0 {
            return Err(PpsError::Malformed);
        }
        Ok(Self {
            protocol: Protocol::of(pps0 & 0x0F).ok_or(PpsError::Protocol)?,
            speed: if pps0 & HAS_PPS1 != 0 {
                bytes.get(2).copied()
            } else {
                None
            },
        })
    }

    /// What a card answers: the same when it can do all of it; without PPS1 when it offers the protocol and not the speed. None is silence, after which the device resets it.
    #[must_use]
    pub fn agreed_by(self, atr: &Atr<'_>) -> Option<Self> {
        if atr.specific.is_some() || !atr.offers(self.protocol) {
            return None;
        }
        let speed = self.speed.filter(|speed| can(*speed, atr.speed));
        Some(Self { speed, ..self })
    }

    /// What a device takes from an answer to this request: the rate from now on.
    ///
    /// # Errors
    /// [`PpsError::Differs`] when the answer names another protocol or speed than was asked for.
    pub fn confirmed(self, answer: Self) -> Result<Rate, PpsError> {
        if answer.protocol != self.protocol {
            return Err(PpsError::Differs);
        }
        match answer.speed {
            None => Ok(Rate::DEFAULT),
            speed if speed == self.speed => speed.and_then(Rate::of).ok_or(PpsError::Differs),
            Some(_) => Err(PpsError::Differs),
        }
    }
}

/// Whether a card that announces one speed can do another: the default, or its own F with a D up to its own.
fn can(wanted: u8, announced: u8) -> bool {
    let (Some(rate), Some(most)) = (Rate::of(wanted), Rate::of(announced)) else {
        return false;
    };
    rate == Rate::DEFAULT || (wanted >> 4 == announced >> 4 && rate.d <= most.d)
}
