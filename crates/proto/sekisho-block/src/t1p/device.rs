//! The device's end of a bus.

use zeroize::Zeroize;

use super::cip::{Cip, Physical};
use super::{AROUND, Bus, IFSC_DEFAULT, is_filler};
use crate::block::{self, Bad, Block, Service, Shape, swapped};
use crate::{Ended, Fault, Micros};

/// How often a write that is not acknowledged is tried again, as hosts do.
const WRITES_MAX: u8 = 10;
/// Between two of them, in microseconds.
const WRITE_AGAIN: u64 = 5_000;
/// How many accesses read away what an earlier session has left.
const READS_AWAY_MAX: u8 = 64;

/// What the device does on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Writes so many bytes of the buffer; then [`Device::wrote`].
    Write(usize),
    /// Reads so many bytes; then [`Device::read`].
    Read(usize),
}

/// A step of how a session begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// What an earlier session has left is read away.
    ReadAway,
    /// RESYNCH, CIP, or SWR.
    Ask(Service),
    /// The device's IFS: what its buffer takes.
    Ifs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// The block in `bytes` is to be written.
    Write,
    /// The card is asked for a block, or for the rest of one.
    Poll,
    ReadAway(u8),
}

/// Times until the card's parameters are known, and then those, in microseconds; and SEAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timing {
    bwt: u64,
    pwt: u64,
    mpot: u64,
    gap: u64,
    seal: usize,
}

/// A device on a bus, for commands and answers of up to `APDU` bytes and blocks of up to `BLOCK`.
///
/// `open` begins a session, `start` an exchange. `access` says what to do on the bus when `deadline` has come, `wrote` and `read` what came of it.
#[derive(Clone, Debug)]
pub struct Device<const APDU: usize, const BLOCK: usize> {
    bus: Bus,
    nad: u8,
    /// How many bytes are read first: hosts read 4, 6 or 7.
    first: usize,
    timing: Timing,
    blocks: block::Device<APDU>,
    steps: &'static [Step],
    opened: Option<Result<(), Fault>>,
    bytes: [u8; BLOCK],
    len: usize,
    state: State,
    writes: u8,
    at: Micros,
    waits_until: Micros,
}

impl<const APDU: usize, const BLOCK: usize> Device<APDU, BLOCK> {
    /// A device beside a card that got power, or was reset, now. `first`: how many bytes it reads first of a block.
    #[must_use]
    pub fn new(now: Micros, bus: Bus, nad: u8, first: usize) -> Self {
        // What one open host reckons with before CIP.
        let timing = Timing {
            bwt: 300_000,
            pwt: 25_000,
            mpot: 1_000,
            gap: if bus == Bus::Spi { 200 } else { 10 },
            seal: if bus == Bus::Spi { 16 } else { 0 },
        };
        Self {
            bus,
            nad,
            first: first.max(1),
            timing,
            blocks: block::Device::new(Shape::Prime, nad, IFSC_DEFAULT),
            steps: &[],
            opened: None,
            bytes: [0; BLOCK],
            len: 0,
            state: State::Idle,
            writes: 0,
            at: now.after(timing.pwt),
            waits_until: now,
        }
    }

    /// Begins a session with these steps; false while something is under way.
    pub fn open(&mut self, now: Micros, steps: &'static [Step]) -> bool {
        if self.is_busy() {
            return false;
        }
        self.steps = steps;
        self.opened = None;
        self.next_step(now);
        true
    }

    /// How the session began; none while it does.
    #[must_use]
    pub const fn opened(&self) -> Option<Result<(), Fault>> {
        self.opened
    }

    /// Begins an exchange; false while something is under way.
    pub fn start(&mut self, now: Micros, command: &[u8]) -> bool {
        let begun = !self.is_busy() && self.blocks.start(command);
        if begun {
            self.speak(now);
        }
        begun
    }

    /// Sends an S request: RELEASE ends a session. False while something is under way.
    pub fn ask(&mut self, now: Micros, service: Service) -> bool {
        let begun = !self.is_busy() && self.blocks.ask(service);
        if begun {
            self.speak(now);
        }
        begun
    }

    /// The card was reset: what is under way ends, as not run or unknown. Its first access waits for PWT.
    pub fn reset(&mut self, now: Micros) {
        self.blocks.reset();
        if !self.steps.is_empty() {
            self.opened = Some(Err(Fault::Reset));
        }
        self.steps = &[];
        self.state = State::Idle;
        self.at = now.after(self.timing.pwt);
        self.forget();
    }

    fn is_busy(&self) -> bool {
        self.state != State::Idle || self.blocks.is_busy() || !self.steps.is_empty()
    }

    fn forget(&mut self) {
        self.bytes.zeroize();
        self.len = 0;
    }

    /// INF of the longest block here.
    fn ifs_max() -> u16 {
        u16::try_from(BLOCK)
            .unwrap_or(u16::MAX)
            .saturating_sub(AROUND)
            .clamp(1, Shape::Prime.inf_max())
    }

    fn next_step(&mut self, now: Micros) {
        match self.steps.first() {
            None => self.opened = Some(Ok(())),
            Some(Step::ReadAway) => {
                self.state = State::ReadAway(READS_AWAY_MAX);
                self.at = self.at.max(now);
            }
            Some(Step::Ask(service)) => {
                self.blocks.ask(*service);
                self.speak(now);
            }
            Some(Step::Ifs) => {
                self.blocks.ask_ifs(Self::ifs_max());
                self.speak(now);
            }
        }
    }

    fn step_done(&mut self, now: Micros) {
        let done = match (self.steps.first(), self.blocks.asked()) {
            (Some(Step::ReadAway), _) | (None, _) => Ok(()),
            (_, Some(Err(fault))) => Err(fault),
            (Some(Step::Ask(Service::Cip)), Some(Ok(inf))) => match learned(inf, self.bus) {
                Some((timing, ifsc)) => {
                    self.timing = timing;
                    // A block is one access.
                    let seal = u16::try_from(timing.seal.saturating_sub(usize::from(AROUND)));
                    let most = seal.ok().filter(|_| timing.seal != 0).unwrap_or(u16::MAX);
                    self.blocks.set_ifsc(ifsc.min(most.max(1)).min(Self::ifs_max()));
                    Ok(())
                }
                None => Err(Fault::Protocol),
            },
            (Some(Step::Ask(Service::Swr | Service::ColdReset)), _) => {
                self.at = now.after(self.timing.pwt);
                Ok(())
            }
            _ => Ok(()),
        };
        match done {
            Ok(()) => {
                self.steps = self.steps.get(1..).unwrap_or_default();
                self.next_step(now);
            }
            Err(fault) => {
                self.steps = &[];
                self.opened = Some(Err(fault));
            }
        }
    }

    /// What the blocks have to say next is written as soon as the card may be spoken to; if they have nothing, the card is asked on, or the exchange is over.
    fn speak(&mut self, now: Micros) {
        if self.blocks.has_reply() {
            self.forget();
            if let Some(len) = self.blocks.write(&mut self.bytes) {
                self.len = len;
                self.writes = 0;
                self.state = State::Write;
                self.at = self.at.max(now.after(self.timing.gap));
                return;
            }
        }
        self.forget();
        if self.blocks.is_busy() {
            self.state = State::Poll;
            self.at = now.after(self.timing.mpot);
        } else {
            self.state = State::Idle;
            if !self.steps.is_empty() {
                self.step_done(now);
            }
        }
    }

    /// The next moment at which [`Device::access`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        (self.state != State::Idle).then_some(self.at)
    }

    /// What is to be done on the bus now, if anything: what is to be written is in `out`.
    pub fn access(&mut self, now: Micros, out: &mut [u8; BLOCK]) -> Option<Access> {
        if self.deadline().is_none_or(|at| at > now) {
            return None;
        }
        match self.state {
            State::Idle => None,
            State::Write => {
                *out = self.bytes;
                Some(Access::Write(self.len))
            }
            State::Poll | State::ReadAway(_) => {
                let most = if self.timing.seal == 0 {
                    BLOCK
                } else {
                    self.timing.seal
                };
                let wanted = match Shape::Prime.length(self.have()) {
                    Ok(Some(length)) => length.saturating_sub(self.len),
                    _ if self.len == 0 => self.first,
                    _ => 4_usize.saturating_sub(self.len),
                };
                Some(Access::Read(wanted.clamp(1, most.clamp(1, BLOCK))))
            }
        }
    }

    fn have(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The block has been written. Not acknowledged, it is written again a little later, some times.
    pub fn wrote(&mut self, now: Micros, acknowledged: bool) {
        if self.state != State::Write {
            return;
        }
        if !acknowledged && self.writes < WRITES_MAX {
            self.writes += 1;
            self.at = now.after(WRITE_AGAIN.max(self.timing.mpot));
            return;
        }
        self.forget();
        if !self.blocks.is_busy() {
            // The last response of an exchange that is over.
            return self.speak(now);
        }
        if !acknowledged {
            self.blocks.expire();
            return self.speak(now);
        }
        self.state = State::Poll;
        self.at = now.after(self.timing.gap);
        let multiplier = u64::from(self.blocks.multiplier());
        self.waits_until = now.after(self.timing.bwt.saturating_mul(multiplier));
    }

    /// What has been read; none when the card did not acknowledge its address.
    pub fn read(&mut self, now: Micros, bytes: Option<&[u8]>) {
        match self.state {
            State::ReadAway(left) => {
                let empty = bytes.is_none_or(|bytes| bytes.iter().all(|byte| is_filler(*byte)));
                self.at = now.after(self.timing.gap);
                if empty || left == 0 {
                    self.state = State::Idle;
                    self.step_done(now);
                } else {
                    self.state = State::ReadAway(left - 1);
                }
            }
            State::Poll => match bytes {
                Some(bytes) => self.take(now, bytes),
                None if self.len != 0 => self.heard(now, true),
                None => self.nothing(now),
            },
            State::Idle | State::Write => {}
        }
    }

    /// Bytes before the card's NAD are no block.
    fn take(&mut self, now: Micros, bytes: &[u8]) {
        for byte in bytes {
            if self.len == 0 && *byte != swapped(self.nad) {
                continue;
            }
            match self.bytes.get_mut(self.len) {
                Some(slot) => *slot = *byte,
                None => return self.heard(now, true),
            }
            self.len += 1;
            match Shape::Prime.length(self.have()) {
                Ok(Some(length)) if length == self.len => return self.heard(now, false),
                Ok(Some(length)) if length > BLOCK => return self.heard(now, true),
                Err(_) => return self.heard(now, true),
                Ok(_) => {}
            }
        }
        if self.len == 0 {
            self.nothing(now);
        } else {
            self.at = now.after(self.timing.gap);
        }
    }

    fn nothing(&mut self, now: Micros) {
        if now >= self.waits_until {
            self.blocks.expire();
            self.speak(now);
        } else {
            self.at = now.after(self.timing.mpot.max(1));
        }
    }

    /// A block has come, or what can be none.
    fn heard(&mut self, now: Micros, broken: bool) {
        let heard = if broken {
            Err(Bad::Other)
        } else {
            Block::parse(Shape::Prime, self.bytes.get(..self.len).unwrap_or_default())
        };
        self.blocks.hear(heard);
        self.speak(now);
    }

    /// How the exchange ended; none while it is under way.
    #[must_use]
    pub fn ended(&self) -> Option<Ended<'_>> {
        self.blocks.ended().filter(|_| self.state == State::Idle)
    }

    /// What an S request was answered with; none while it is under way.
    #[must_use]
    pub fn asked(&self) -> Option<Result<&[u8], Fault>> {
        self.blocks.asked().filter(|_| self.state == State::Idle)
    }
}

/// Times and IFSC from CIP; none when they are no parameters, or those of another bus.
fn learned(inf: &[u8], bus: Bus) -> Option<(Timing, u16)> {
    let parameters = Cip::parse(inf)
        .ok()
        .filter(|parameters| parameters.bus() == bus)?;
    let seal = match parameters.physical {
        Physical::Spi { seal, .. } => usize::from(seal),
        Physical::I2c { .. } => 0,
    };
    let common = parameters.common;
    let timing = Timing {
        bwt: u64::from(parameters.bwt) * 1_000,
        pwt: u64::from(common.pwt) * 1_000,
        mpot: u64::from(common.mpot) * 100,
        gap: parameters.gap(),
        seal,
    };
    Some((timing, parameters.ifsc))
}

impl<const APDU: usize, const BLOCK: usize> Drop for Device<APDU, BLOCK> {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}
