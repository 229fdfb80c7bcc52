//! The device's end: power, ATR, PPS, IFSD, then exchanges; and the resets in between.

use super::{Line, OUT_MAX};
use crate::atr::{self, Atr, AtrError, BlockParameters, Protocol, Rate, SPEED_DEFAULT, WI_DEFAULT};
use crate::pps::{self, Pps, PpsError};
use crate::t1::IFSD_DEFAULT;
use crate::{Ended, Fault, Micros, Power, t0, t1};

/// How often the card is reset before a session that does not begin is given up (ISO/IEC 7816-3, 6.2: three ATRs).
pub const RESETS_MAX: u8 = 3;

/// What a device wants of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The protocol; none: whichever the card offers first.
    pub protocol: Option<Protocol>,
    /// PPS1: Fi and Di that the device can do. None: no PPS for the rate's sake.
    pub speed: Option<u8>,
    /// NAD of T=1.
    pub nad: u8,
    /// IFSD of T=1, 01 to FE.
    pub ifsd: u8,
}

impl Wish {
    /// The card's first protocol at the default rate; blocks as long as there are.
    pub const ANY: Self = Self {
        protocol: None,
        speed: None,
        nad: 0,
        ifsd: 254,
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The card is to be powered, or reset.
    Power,
    Atr,
    /// PPS is to be sent, or its answer is awaited.
    Pps(Pps),
    /// S(IFS request) is out.
    Ifs,
    Ready,
    Failed(Fault),
}

#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a device has one of them, and room for the larger one"
)]
enum Spoken<const APDU: usize> {
    T0(t0::Device<APDU>),
    T1(t1::Device<APDU>),
}

/// A device with contacts, for commands and answers of up to `APDU` bytes.
///
/// `power` says what is to be done with the card's power, `hear` takes characters, `say` gives what is to be sent, `expire` is called at `deadline`. When it is `opened`, `start` begins an exchange, until `ended`. Only `reset` resets a card that has been opened: after that
/// selection, logical channels and secure sessions are gone there.
#[derive(Clone, Debug)]
pub struct Device<const APDU: usize> {
    line: Line,
    wish: Wish,
    phase: Phase,
    power: Power,
    resets: u8,
    /// A card did not answer a PPS: without one, at the next ATR.
    no_pps: bool,
    atr: [u8; atr::LEN_MAX],
    atr_len: usize,
    pps: [u8; pps::LEN_MAX],
    pps_len: usize,
    says_pps: bool,
    rate: Rate,
    spoken: Spoken<APDU>,
    /// How the exchange ended that a reset has ended.
    lost: Option<(bool, Fault)>,
    last: Micros,
}

impl<const APDU: usize> Device<APDU> {
    /// A device whose card has no power yet.
    #[must_use]
    pub fn new(wish: Wish, line: Line) -> Self {
        Self {
            line,
            wish,
            phase: Phase::Power,
            power: Power::On,
            resets: 0,
            no_pps: false,
            atr: [0; atr::LEN_MAX],
            atr_len: 0,
            pps: [0; pps::LEN_MAX],
            pps_len: 0,
            says_pps: false,
            rate: Rate::DEFAULT,
            spoken: Spoken::T0(t0::Device::new(line.t0(Rate::DEFAULT, WI_DEFAULT))),
            lost: None,
            last: Micros(0),
        }
    }

    /// What is to be done with the card's power now; the initial waiting time begins, at the default rate.
    pub fn power(&mut self, now: Micros) -> Option<Power> {
        if self.phase != Phase::Power {
            return None;
        }
        self.phase = Phase::Atr;
        (self.atr_len, self.pps_len) = (0, 0);
        self.rate = Rate::DEFAULT;
        self.last = now;
        Some(self.power)
    }

    /// Resets the card, by its reset contact or by its power. What is under way ends: not run, or unknown, never passed over.
    pub fn reset(&mut self, power: Power) {
        self.lose();
        self.phase = Phase::Power;
        self.power = power;
        self.resets = 0;
        self.no_pps = false;
    }

    fn lose(&mut self) {
        let busy = match &mut self.spoken {
            Spoken::T0(device) if device.is_busy() => {
                device.reset();
                true
            }
            Spoken::T1(device) if self.phase == Phase::Ready && device.is_busy() => {
                device.reset();
                true
            }
            _ => false,
        };
        if busy && self.lost.is_none() {
            self.lost = match self.ended() {
                Some(Ended::NotRun(fault)) => Some((false, fault)),
                _ => Some((true, Fault::Reset)),
            };
        }
    }

    /// The card's ATR and PPS once they have come to an end, and how; none while they are under way.
    #[must_use]
    pub fn opened(&self) -> Option<Result<&[u8], Fault>> {
        match self.phase {
            Phase::Ready => Some(Ok(self.bytes())),
            Phase::Failed(fault) => Some(Err(fault)),
            _ => None,
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

    /// What is spoken, once it is opened.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        match self.spoken {
            Spoken::T0(_) => Protocol::T0,
            Spoken::T1(_) => Protocol::T1,
        }
    }

    /// Begins an exchange; false while another thing is under way. On T=0, after one that failed, every command ends as not run until the card is reset.
    pub fn start(&mut self, command: &[u8]) -> bool {
        if self.phase != Phase::Ready {
            return false;
        }
        let begun = match &mut self.spoken {
            Spoken::T0(device) => device.start(command),
            Spoken::T1(device) => device.start(command),
        };
        if begun {
            self.lost = None;
        }
        begun
    }

    /// How the exchange ended; none while it is under way.
    #[must_use]
    pub fn ended(&self) -> Option<Ended<'_>> {
        match (self.lost, &self.spoken) {
            (Some((true, fault)), _) => Some(Ended::Unknown(fault)),
            (Some((false, fault)), _) => Some(Ended::NotRun(fault)),
            (None, Spoken::T0(device)) => device.ended(),
            (None, Spoken::T1(device)) => device.ended(),
        }
    }

    /// Takes characters.
    pub fn hear(&mut self, now: Micros, bytes: &[u8]) {
        self.expire(now);
        let mut rest = bytes;
        while let Some((first, after)) = rest.split_first() {
            match self.phase {
                Phase::Atr => self.atr_byte(now, *first),
                Phase::Pps(asked) if !self.says_pps => self.pps_byte(now, *first, asked),
                // A character that nobody has asked for.
                Phase::Power | Phase::Failed(_) | Phase::Pps(_) => return,
                Phase::Ifs | Phase::Ready => {
                    match &mut self.spoken {
                        Spoken::T0(device) => device.hear(now, rest),
                        Spoken::T1(device) => device.hear(now, rest),
                    }
                    return self.look();
                }
            }
            rest = after;
        }
    }

    /// A character came whose parity was wrong as often as it was repeated. In a block of T=1 the check bytes say so: there nothing is to be told.
    pub fn damaged(&mut self) {
        match (self.phase, &mut self.spoken) {
            (Phase::Atr, _) => self.again(Fault::Garbled),
            (Phase::Pps(_), _) => self.pps_failed(Fault::Garbled),
            (Phase::Ready, Spoken::T0(device)) => device.damaged(),
            _ => {}
        }
    }

    fn atr_byte(&mut self, now: Micros, byte: u8) {
        self.last = now;
        let Some(slot) = self.atr.get_mut(self.atr_len) else {
            return self.again(Fault::Garbled);
        };
        *slot = byte;
        self.atr_len += 1;
        let bytes = self.atr;
        match atr::parse(bytes.get(..self.atr_len).unwrap_or_default()) {
            Ok(atr) => self.choose(&atr),
            Err(AtrError::Short) => {}
            Err(AtrError::Protocol) => self.again(Fault::Protocol),
            Err(_) => self.again(Fault::Garbled),
        }
    }

    /// Another reset, some times.
    fn again(&mut self, fault: Fault) {
        self.resets += 1;
        self.phase = if self.resets >= RESETS_MAX {
            Phase::Failed(fault)
        } else {
            self.power = Power::Reset;
            Phase::Power
        };
    }

    /// PPS where another protocol or rate is wanted than what holds without.
    fn choose(&mut self, atr: &Atr<'_>) {
        let protocol = self.wish.protocol.unwrap_or(atr.protocol());
        let fits = atr.offers(protocol) && (atr.specific.is_none() || atr.protocol() == protocol);
        let other = protocol != atr.protocol();
        if !fits || other && self.no_pps {
            self.phase = Phase::Failed(Fault::Protocol);
            return;
        }
        if let Some(specific) = atr.specific {
            let rate = Rate::of(atr.speed).filter(|_| !specific.implicit);
            return self.speak(atr, protocol, rate.unwrap_or(Rate::DEFAULT));
        }
        let speed = self.wish.speed.filter(|speed| *speed != SPEED_DEFAULT);
        if (other || speed.is_some()) && !self.no_pps {
            self.phase = Phase::Pps(Pps { protocol, speed });
            self.says_pps = true;
        } else {
            self.speak(atr, protocol, Rate::DEFAULT);
        }
    }

    fn pps_byte(&mut self, now: Micros, byte: u8, asked: Pps) {
        self.last = now;
        let Some(slot) = self.pps.get_mut(self.pps_len) else {
            return self.pps_failed(Fault::Garbled);
        };
        *slot = byte;
        self.pps_len += 1;
        let answer = match Pps::parse(self.pps.get(..self.pps_len).unwrap_or_default()) {
            Err(PpsError::Short) => return,
            answer => answer,
        };
        let bytes = self.atr;
        let atr = atr::parse(bytes.get(..self.atr_len).unwrap_or_default());
        match (answer.and_then(|answer| asked.confirmed(answer)), atr) {
            (Ok(rate), Ok(atr)) => self.speak(&atr, asked.protocol, rate),
            _ => self.pps_failed(Fault::Garbled),
        }
    }

    /// The card is reset, and then spoken to without a PPS.
    fn pps_failed(&mut self, fault: Fault) {
        self.no_pps = true;
        self.again(fault);
    }

    fn speak(&mut self, atr: &Atr<'_>, protocol: Protocol, rate: Rate) {
        self.rate = rate;
        self.phase = Phase::Ready;
        self.spoken = match protocol {
            Protocol::T0 => Spoken::T0(t0::Device::new(self.line.t0(rate, atr.t0.unwrap_or(WI_DEFAULT)))),
            Protocol::T1 => {
                let parameters = atr.t1.unwrap_or(BlockParameters::DEFAULT);
                let mut device = t1::Device::new(self.wish.nad, parameters, self.line.t1(rate, parameters));
                if u16::from(self.wish.ifsd) != IFSD_DEFAULT && device.ask_ifs(self.wish.ifsd) {
                    self.phase = Phase::Ifs;
                }
                Spoken::T1(device)
            }
        };
    }

    /// Whether the card has taken IFSD.
    fn look(&mut self) {
        if let (Phase::Ifs, Spoken::T1(device)) = (self.phase, &self.spoken) {
            match device.asked() {
                None => {}
                Some(Ok(_)) => self.phase = Phase::Ready,
                Some(Err(fault)) => self.again(fault),
            }
        }
    }

    /// Looks at the time: [`Device::deadline`] says when.
    pub fn expire(&mut self, now: Micros) {
        let due = self.deadline().is_some_and(|at| at <= now);
        match (self.phase, &mut self.spoken) {
            (Phase::Ready | Phase::Ifs, Spoken::T0(device)) => device.expire(now),
            (Phase::Ready | Phase::Ifs, Spoken::T1(device)) => {
                device.expire(now);
                self.look();
            }
            (Phase::Atr, _) if due => self.again(Fault::Silent),
            (Phase::Pps(_), _) if due => self.pps_failed(Fault::Silent),
            _ => {}
        }
    }

    /// The next moment at which something happens of itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        match (self.phase, &self.spoken) {
            (Phase::Pps(_), _) if self.says_pps => None,
            (Phase::Atr | Phase::Pps(_), _) => Some(self.last.after(self.line.initial().saturating_add(1))),
            (Phase::Ready | Phase::Ifs, Spoken::T0(device)) => device.deadline(),
            (Phase::Ready | Phase::Ifs, Spoken::T1(device)) => device.deadline(),
            (Phase::Power | Phase::Failed(_), _) => None,
        }
    }

    /// What is to be sent, written to `out`: its length, none when there is nothing to say.
    pub fn say(&mut self, now: Micros, out: &mut [u8; OUT_MAX]) -> Option<usize> {
        match (self.phase, &mut self.spoken) {
            (Phase::Pps(pps), _) if self.says_pps => {
                self.says_pps = false;
                self.last = now;
                let mut request = [0; pps::LEN_MAX];
                let len = pps.write(&mut request);
                out.get_mut(..len)?.copy_from_slice(request.get(..len)?);
                Some(len)
            }
            (Phase::Ready | Phase::Ifs, Spoken::T0(device)) => device.say(now, out),
            (Phase::Ready | Phase::Ifs, Spoken::T1(device)) => {
                let block = out.first_chunk_mut()?;
                device.say(now, block)
            }
            _ => None,
        }
    }
}
