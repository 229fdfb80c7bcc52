//! Both ends of a line of characters.

use sekisho_block::atr::{self, Atr, BlockParameters, LEN_MAX, Protocol, SPEED_DEFAULT};
use sekisho_block::contact::{Card, Device, OUT_MAX, Wish};
use sekisho_block::lr1::Record;
use sekisho_block::t0::{Acknowledge, direction};
use sekisho_block::{Ended, Fault, Micros, Power};

use super::card_end::CardEnd;
use super::device_end::DeviceEnd;
use super::{APDU, CARD_LINE, DEVICE_LINE};

/// Answers that wait on T=0: one for each of the logical channels that most cards have.
const ANSWERS: usize = 4;
/// F = 512, D = 32: what a card of T=1 can do, for hosts that choose a rate. A stream has none.
const FAST: u8 = 0x96;

pub(super) struct CharacterDevice(Box<Device<APDU>>);

impl CharacterDevice {
    pub(super) fn new(protocol: Protocol) -> Self {
        let wish = Wish {
            protocol: Some(protocol),
            ..Wish::ANY
        };
        Self(Box::new(Device::new(wish, DEVICE_LINE)))
    }
}

impl DeviceEnd for CharacterDevice {
    fn power(&mut self, now: Micros) -> Option<Power> {
        self.0.power(now)
    }

    fn hear(&mut self, now: Micros, record: Record<'_>) -> bool {
        let Record::Data(bytes) = record else { return false };
        self.0.hear(now, bytes);
        true
    }

    fn say(&mut self, now: Micros, send: &mut dyn FnMut(Record<'_>)) -> bool {
        let mut out = [0; OUT_MAX];
        let said = self.0.say(now, &mut out).and_then(|len| out.get(..len));
        said.map(|bytes| send(Record::Data(bytes))).is_some()
    }

    fn expire(&mut self, now: Micros) {
        self.0.expire(now);
    }

    fn deadline(&self) -> Option<Micros> {
        self.0.deadline()
    }

    fn opened(&self) -> Option<Result<&[u8], Fault>> {
        self.0.opened()
    }

    fn start(&mut self, _: Micros, command: &[u8]) -> bool {
        self.0.start(command)
    }

    fn ended(&self) -> Option<Ended<'_>> {
        self.0.ended()
    }

    fn reset(&mut self, _: Micros) {
        self.0.reset(Power::Reset);
    }
}

/// A card with contacts that offers one protocol.
pub(super) struct CharacterCard {
    atr: Vec<u8>,
    card: Option<Box<Card<APDU, ANSWERS>>>,
}

impl CharacterCard {
    /// `own`: the secure element's own ATR, whose historical bytes are said.
    pub(super) fn new(protocol: Protocol, own: &[u8]) -> Self {
        Self {
            atr: of_line(protocol, own),
            card: None,
        }
    }
}

/// The ATR of a line that offers one protocol: on T=0 the secure element's own where that offers T=0 alone, on T=1 a rate that PPS may choose, blocks as long as there are and half a second for one (BWI 2).
fn of_line(protocol: Protocol, own: &[u8]) -> Vec<u8> {
    let parsed = atr::parse(own).unwrap_or(Atr::of(Protocol::T0));
    if protocol == Protocol::T0 && parsed.t1.is_none() && atr::parse(own).is_ok() {
        return own.to_vec();
    }
    let long = BlockParameters {
        ifsc: 254,
        bwi: 2,
        ..BlockParameters::DEFAULT
    };
    let made = Atr {
        historical: parsed.historical,
        t1: (protocol == Protocol::T1).then_some(long),
        speed: if protocol == Protocol::T1 {
            FAST
        } else {
            SPEED_DEFAULT
        },
        ..Atr::of(protocol)
    };
    let mut out = [0; LEN_MAX];
    let len = made.write(&mut out).unwrap_or_default();
    out.get(..len).unwrap_or_default().to_vec()
}

impl CardEnd for CharacterCard {
    fn power(&mut self, _: Micros, on: bool) {
        let fresh = || Card::new(&self.atr, CARD_LINE, Acknowledge::Whole, direction);
        self.card = if on { fresh().ok().map(Box::new) } else { None };
    }

    fn hear(&mut self, now: Micros, record: Record<'_>) {
        if let (Record::Data(bytes), Some(card)) = (record, &mut self.card) {
            card.hear(now, bytes);
        }
    }

    fn say(&mut self, now: Micros, send: &mut dyn FnMut(Record<'_>)) -> bool {
        let mut out = [0; OUT_MAX];
        let said = self.card.as_mut().and_then(|card| card.say(now, &mut out));
        let said = said.and_then(|len| out.get(..len));
        said.map(|bytes| send(Record::Data(bytes))).is_some()
    }

    fn expire(&mut self, now: Micros) {
        if let Some(card) = &mut self.card {
            card.expire(now);
        }
    }

    fn deadline(&self) -> Option<Micros> {
        self.card.as_ref()?.deadline()
    }

    fn command(&self) -> Option<(usize, &[u8])> {
        Some((0, self.card.as_ref()?.command()?))
    }

    fn take(&mut self, _: Micros, _: usize) {
        if let Some(card) = &mut self.card {
            card.take();
        }
    }

    fn answer(&mut self, _: Micros, _: usize, answer: &[u8]) {
        if let Some(card) = &mut self.card {
            card.answer(answer);
        }
    }

    fn power_wanted(&mut self) -> Option<(usize, Power)> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_offers_one_protocol_with_the_elements_historical_bytes() {
        let own = [0x3B, 0x03, 0x80, 0x31, 0xC0];
        assert_eq!(of_line(Protocol::T0, &own), own);
        let t1 = of_line(Protocol::T1, &own);
        let parsed = atr::parse(&t1).unwrap();
        assert_eq!(parsed.historical, &own[2..]);
        assert_eq!((parsed.t0, parsed.t1.unwrap().ifsc), (None, 254));
        // One of T=1, and what is none.
        assert_eq!(
            atr::parse(&of_line(Protocol::T0, &t1)).unwrap().historical,
            &own[2..]
        );
        assert_eq!(of_line(Protocol::T0, &[0xAA]), [0x3B, 0x00]);
    }
}
