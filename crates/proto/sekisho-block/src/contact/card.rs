//! The card's end: it says its ATR, agrees to a PPS or to none, and speaks one protocol until the next reset.

use super::{Line, OUT_MAX};
use crate::Micros;
use crate::atr::{self, Atr, AtrError, BlockParameters, Protocol, Rate, WI_DEFAULT};
use crate::pps::{self, PPSS, Pps, PpsError};
use crate::t0::{self, Acknowledge, Direction};
use crate::t1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The ATR is to be sent.
    Reset,
    /// It has been: the next character begins a PPS, or the first command.
    Fresh,
    /// So many characters of a PPS are here.
    Pps(usize),
    /// It is agreed to, and that is to be said.
    Agreed(Pps),
    Speaking,
    /// Until a reset.
    Mute,
}

#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a card has one of them, and room for the larger one"
)]
enum Spoken<const APDU: usize, const ANSWERS: usize> {
    T0(t0::Card<APDU, ANSWERS>),
    T1(t1::Card<APDU>),
}

/// A card with contacts, for commands and answers of up to `APDU` bytes; on T=0 with room for `ANSWERS` that wait. After a reset it is made anew.
///
/// `hear` takes characters, `say` gives what is to be sent, `expire` is called at `deadline`. A command waits in `command`; whoever runs it says so with `take`, and answers with `answer`.
#[derive(Clone, Debug)]
pub struct Card<const APDU: usize, const ANSWERS: usize> {
    atr: [u8; atr::LEN_MAX],
    atr_len: usize,
    line: Line,
    acknowledge: Acknowledge,
    direction: fn(u8, u8) -> Direction,
    phase: Phase,
    pps: [u8; pps::LEN_MAX],
    rate: Rate,
    spoken: Spoken<APDU, ANSWERS>,
    last: Micros,
}

impl<const APDU: usize, const ANSWERS: usize> Card<APDU, ANSWERS> {
    /// A card that was reset and says this ATR, which decides all else. `acknowledge` and `direction`: of T=0.
    ///
    /// # Errors
    /// The bytes are no ATR.
    pub fn new(
        bytes: &[u8],
        line: Line,
        acknowledge: Acknowledge,
        direction: fn(u8, u8) -> Direction,
    ) -> Result<Self, AtrError> {
        let parsed = atr::parse(bytes)?;
        let mut atr = [0; atr::LEN_MAX];
        atr.get_mut(..bytes.len())
            .ok_or(AtrError::Long)?
            .copy_from_slice(bytes);
        let rate = match parsed.specific {
            Some(specific) if !specific.implicit => Rate::of(parsed.speed).unwrap_or(Rate::DEFAULT),
            _ => Rate::DEFAULT,
        };
        Ok(Self {
            atr,
            atr_len: bytes.len(),
            line,
            acknowledge,
            direction,
            phase: Phase::Reset,
            pps: [0; pps::LEN_MAX],
            rate,
            spoken: Self::speak(&parsed, parsed.protocol(), rate, (line, acknowledge, direction)),
            last: Micros(0),
        })
    }

    fn speak(
        atr: &Atr<'_>,
        protocol: Protocol,
        rate: Rate,
        (line, acknowledge, direction): (Line, Acknowledge, fn(u8, u8) -> Direction),
    ) -> Spoken<APDU, ANSWERS> {
        match protocol {
            Protocol::T0 => {
                let timing = line.t0(rate, atr.t0.unwrap_or(WI_DEFAULT));
                Spoken::T0(t0::Card::new(timing, acknowledge, direction))
            }
            Protocol::T1 => {
                let parameters = atr.t1.unwrap_or(BlockParameters::DEFAULT);
                Spoken::T1(t1::Card::new(parameters.crc, line.t1(rate, parameters)))
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        self.atr.get(..self.atr_len).unwrap_or_default()
    }

    /// F and D of the characters that come and go from now on.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// What it speaks; before PPS, what it would speak without.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        match self.spoken {
            Spoken::T0(_) => Protocol::T0,
            Spoken::T1(_) => Protocol::T1,
        }
    }

    /// Takes characters. Those that come before the ATR has been sent are not heard.
    pub fn hear(&mut self, now: Micros, bytes: &[u8]) {
        self.expire(now);
        let mut rest = bytes;
        while let Some((first, after)) = rest.split_first() {
            self.last = now;
            match self.phase {
                Phase::Reset | Phase::Mute => return,
                Phase::Fresh if *first == PPSS => {
                    self.phase = Phase::Pps(0);
                    continue;
                }
                Phase::Fresh => {
                    self.phase = Phase::Speaking;
                    continue;
                }
                Phase::Pps(have) => self.pps_byte(*first, have),
                // The device speaks on before it has an answer.
                Phase::Agreed(_) => self.phase = Phase::Mute,
                Phase::Speaking => {
                    return match &mut self.spoken {
                        Spoken::T0(card) => card.hear(now, rest),
                        Spoken::T1(card) => card.hear(now, rest),
                    };
                }
            }
            rest = after;
        }
    }

    /// A character came whose parity was wrong as often as it was repeated. In a block of T=1 the check bytes say so: there nothing is to be told.
    pub const fn damaged(&mut self) {
        match (self.phase, &mut self.spoken) {
            (Phase::Fresh | Phase::Pps(_), _) => self.phase = Phase::Mute,
            (Phase::Speaking, Spoken::T0(card)) => card.damaged(),
            _ => {}
        }
    }

    fn pps_byte(&mut self, byte: u8, have: usize) {
        let Some(slot) = self.pps.get_mut(have) else {
            return self.phase = Phase::Mute;
        };
        *slot = byte;
        let parsed = Pps::parse(self.pps.get(..=have).unwrap_or_default());
        let agreed = |pps: Pps| atr::parse(self.bytes()).ok().and_then(|atr| pps.agreed_by(&atr));
        self.phase = match parsed {
            Err(PpsError::Short) => Phase::Pps(have + 1),
            Ok(pps) => agreed(pps).map_or(Phase::Mute, Phase::Agreed),
            Err(_) => Phase::Mute,
        };
    }

    /// What is to be sent, written to `out`: its length, none when there is nothing to say. Behind the answer to a PPS the rate is another.
    pub fn say(&mut self, now: Micros, out: &mut [u8; OUT_MAX]) -> Option<usize> {
        match self.phase {
            Phase::Reset => {
                let atr = self.bytes();
                out.get_mut(..atr.len())?.copy_from_slice(atr);
                let specific = atr::parse(atr).is_ok_and(|atr| atr.specific.is_some());
                self.phase = if specific { Phase::Speaking } else { Phase::Fresh };
                Some(self.atr_len)
            }
            Phase::Agreed(pps) => {
                let mut answer = [0; pps::LEN_MAX];
                let len = pps.write(&mut answer);
                out.get_mut(..len)?.copy_from_slice(answer.get(..len)?);
                self.rate = pps.speed.and_then(Rate::of).unwrap_or(Rate::DEFAULT);
                let atr = atr::parse(self.bytes()).ok()?;
                let line = (self.line, self.acknowledge, self.direction);
                self.spoken = Self::speak(&atr, pps.protocol, self.rate, line);
                self.phase = Phase::Speaking;
                Some(len)
            }
            Phase::Speaking => match &mut self.spoken {
                Spoken::T0(card) => card.say(now, out),
                Spoken::T1(card) => {
                    let block = out.first_chunk_mut()?;
                    card.say(block)
                }
            },
            Phase::Fresh | Phase::Pps(_) | Phase::Mute => None,
        }
    }

    /// A whole command that waits to be run, once. On T=0 as it came: without Le where the line carries none.
    #[must_use]
    pub fn command(&self) -> Option<&[u8]> {
        match &self.spoken {
            Spoken::T0(card) => card.command(),
            Spoken::T1(card) => card.command(),
        }
    }

    /// Whoever runs commands has this one, and will answer it.
    pub const fn take(&mut self) {
        match &mut self.spoken {
            Spoken::T0(card) => card.take(),
            Spoken::T1(card) => card.blocks().take(),
        }
    }

    /// The answer to the command that was taken. It is dropped when nobody waits for it any more.
    pub fn answer(&mut self, answer: &[u8]) {
        match &mut self.spoken {
            Spoken::T0(card) => card.answer(answer),
            Spoken::T1(card) => card.blocks().answer(answer),
        }
    }

    /// Looks at the time: [`Card::deadline`] says when.
    pub fn expire(&mut self, now: Micros) {
        let due = self.deadline().is_some_and(|at| at <= now);
        match (self.phase, &mut self.spoken) {
            (Phase::Pps(_), _) if due => self.phase = Phase::Mute,
            (Phase::Speaking, Spoken::T0(card)) => card.expire(now),
            (Phase::Speaking, Spoken::T1(card)) => card.expire(now),
            _ => {}
        }
    }

    /// The next moment at which something happens of itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        match (self.phase, &self.spoken) {
            (Phase::Pps(_), _) => Some(self.last.after(self.line.initial().saturating_add(1))),
            (Phase::Speaking, Spoken::T0(card)) => card.deadline(),
            (Phase::Speaking, Spoken::T1(card)) => card.deadline(),
            _ => None,
        }
    }
}
