//! Both ends of a bus that T=1' is spoken on.

use sekisho_block::lr1::Record;
use sekisho_block::t1p::cip::{Cip, Common, Physical};
use sekisho_block::t1p::{Access, Bus, Card, Device, NAD_EUICC, NAD_GP, NAD_VENDOR, ORDER_CIP_FIRST};
use sekisho_block::{Ended, Fault, Micros, Power};

use super::APDU;
use super::card_end::CardEnd;
use super::device_end::DeviceEnd;

/// The longest block there is.
const BLOCK: usize = 4_095;
/// What a card on a link takes at the most in one block.
const IFSC: u16 = 1_024;
/// How many bytes a device reads first: through LEN.
const FIRST: usize = 4;
/// A card that does not answer a poll for so long, in microseconds, is silent.
const POLL: u64 = 2_000_000;

pub(super) struct BusDevice {
    bus: Bus,
    nad: u8,
    device: Box<Device<APDU, BLOCK>>,
    out: Box<[u8; BLOCK]>,
    power: Option<Power>,
    /// Since when an answer to a poll is awaited.
    polled: Option<Micros>,
    lost: Option<(bool, Fault)>,
}

impl BusDevice {
    pub(super) fn new(bus: Bus, nad: u8) -> Self {
        Self {
            bus,
            nad,
            device: Box::new(Device::new(Micros(0), bus, nad, FIRST)),
            out: Box::new([0; BLOCK]),
            power: Some(Power::On),
            polled: None,
            lost: None,
        }
    }
}

impl DeviceEnd for BusDevice {
    fn power(&mut self, now: Micros) -> Option<Power> {
        let power = self.power.take()?;
        *self.device = Device::new(now, self.bus, self.nad, FIRST);
        self.device.open(now, ORDER_CIP_FIRST);
        self.polled = None;
        Some(power)
    }

    fn hear(&mut self, now: Micros, record: Record<'_>) -> bool {
        if self.polled.take().is_none() {
            return false;
        }
        match record {
            Record::Data(bytes) => self.device.read(now, Some(bytes)),
            Record::Nak => self.device.read(now, None),
            _ => return false,
        }
        true
    }

    fn say(&mut self, now: Micros, send: &mut dyn FnMut(Record<'_>)) -> bool {
        if self.power.is_some() || self.polled.is_some() {
            return false;
        }
        match self.device.access(now, &mut self.out) {
            None => false,
            Some(Access::Write(len)) => {
                send(Record::Data(self.out.get(..len).unwrap_or_default()));
                // A link does not say whether a write was acknowledged: it was.
                self.device.wrote(now, true);
                true
            }
            Some(Access::Read(len)) => {
                send(Record::Poll(u16::try_from(len).unwrap_or(u16::MAX)));
                self.polled = Some(now);
                true
            }
        }
    }

    fn expire(&mut self, now: Micros) {
        if self.polled.is_some_and(|at| at.after(POLL) <= now) {
            self.polled = None;
            self.device.read(now, None);
        }
    }

    fn deadline(&self) -> Option<Micros> {
        match self.polled {
            Some(at) => Some(at.after(POLL)),
            None => self.device.deadline(),
        }
    }

    fn opened(&self) -> Option<Result<&[u8], Fault>> {
        if self.power.is_some() {
            return None;
        }
        Some(self.device.opened()?.map(|()| &[][..]))
    }

    fn start(&mut self, now: Micros, command: &[u8]) -> bool {
        let begun = self.opened() == Some(Ok(&[])) && self.device.start(now, command);
        if begun {
            self.lost = None;
        }
        begun
    }

    fn ended(&self) -> Option<Ended<'_>> {
        match self.lost {
            Some((true, fault)) => Some(Ended::Unknown(fault)),
            Some((false, fault)) => Some(Ended::NotRun(fault)),
            None => self.device.ended(),
        }
    }

    fn reset(&mut self, now: Micros) {
        if self.lost.is_none() && self.device.ended().is_none() {
            self.device.reset(now);
            self.lost = match self.device.ended() {
                Some(Ended::NotRun(fault)) => Some((false, fault)),
                Some(Ended::Unknown(fault)) => Some((true, fault)),
                Some(Ended::Answer(_)) | None => None,
            };
        }
        self.power = Some(Power::Reset);
    }
}

/// A card on a bus: two secure elements, told apart by NAD.
pub(super) struct BusCard {
    bus: Bus,
    historical: Vec<u8>,
    card: Option<Box<Card<APDU, BLOCK, 2>>>,
    poll: Option<u16>,
}

impl BusCard {
    pub(super) fn new(bus: Bus, atr: &[u8]) -> Self {
        let historical = sekisho_block::atr::parse(atr).map_or(&[][..], |atr| atr.historical);
        Self {
            bus,
            historical: historical.to_vec(),
            card: None,
            poll: None,
        }
    }

    /// What it says of itself. It needs no time to wake or between accesses, does not sleep, and wants to be polled each millisecond.
    fn parameters(&self) -> Cip<'_> {
        let (mcf, physical) = match self.bus {
            Bus::Spi => {
                let physical = Physical::Spi {
                    segt: 0,
                    seal: 0,
                    wut: 0,
                };
                (10_000, physical)
            }
            Bus::I2c => (1_000, Physical::I2c { rwgt: 0 }),
        };
        Cip {
            issuer: &[],
            common: Common {
                configuration: 0,
                pwt: 1,
                mcf,
                pst: 0,
                mpot: 10,
            },
            physical,
            bwt: 1_000,
            ifsc: IFSC,
            historical: &self.historical,
        }
    }
}

impl CardEnd for BusCard {
    fn power(&mut self, now: Micros, on: bool) {
        let nads: [&'static [u8]; 2] = [&[NAD_GP, NAD_VENDOR], &[NAD_EUICC]];
        let fresh = || Card::new(now, &self.parameters(), nads);
        self.card = if on { fresh().map(Box::new) } else { None };
        self.poll = None;
    }

    fn hear(&mut self, now: Micros, record: Record<'_>) {
        let Some(card) = &mut self.card else { return };
        match record {
            Record::Data(bytes) => {
                card.write(now, bytes);
            }
            Record::Poll(n) => self.poll = Some(n),
            _ => {}
        }
    }

    fn say(&mut self, now: Micros, send: &mut dyn FnMut(Record<'_>)) -> bool {
        let (Some(n), Some(card)) = (self.poll.take(), &mut self.card) else {
            return false;
        };
        let mut bytes = vec![0; n.into()];
        if card.read(now, &mut bytes) {
            send(Record::Data(&bytes));
        } else {
            send(Record::Nak);
        }
        true
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
        self.card.as_ref()?.command()
    }

    fn take(&mut self, _: Micros, side: usize) {
        if let Some(card) = &mut self.card {
            card.take(side);
        }
    }

    fn answer(&mut self, now: Micros, side: usize, answer: &[u8]) {
        if let Some(card) = &mut self.card {
            card.answer(now, side, answer);
        }
    }

    fn power_wanted(&mut self) -> Option<(usize, Power)> {
        let side = self.card.as_mut()?.reset_wanted()?;
        Some((side, Power::Reset))
    }
}
