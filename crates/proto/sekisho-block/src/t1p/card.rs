//! The card's end of a bus.

use zeroize::Zeroize;

use super::cip::{self, Cip, Physical};
use super::{AROUND, Bus, IFSD_DEFAULT};
use crate::Micros;
use crate::block::{self, Bad, Block, Shape};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    /// Not reachable before that.
    Starting(Micros),
    Awake,
    /// The next access wakes it.
    Asleep,
}

/// What happens when the block that waits has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Nothing,
    Restart,
    Sleep,
}

/// A card on a bus, with `TARGETS` secure elements told apart by NAD, each with its own numbers; for commands and answers of up to `APDU` bytes and blocks of up to `BLOCK`. After a reset or power it is made anew.
///
/// The device's accesses come as `write` and `read`; between them a command waits in `command`, `take` says that it is being run, `answer` gives its answer. `expire` is called at `deadline`.
#[derive(Clone, Debug)]
pub struct Card<const APDU: usize, const BLOCK: usize, const TARGETS: usize> {
    bus: Bus,
    parameters: [u8; cip::LEN_MAX],
    parameters_len: usize,
    ifsc: u16,
    /// In microseconds.
    bwt: u64,
    pwt: u64,
    pst: u64,
    gap: u64,
    wake: u64,
    targets: [block::Card<APDU>; TARGETS],
    nads: [&'static [u8]; TARGETS],
    /// To which the device has spoken last: that one answers.
    speaker: usize,
    out: [u8; BLOCK],
    out_len: usize,
    out_at: usize,
    out_from: Micros,
    then: Then,
    power: Power,
    resets: [bool; TARGETS],
    wtx_at: Option<Micros>,
    last: Micros,
}

impl<const APDU: usize, const BLOCK: usize, const TARGETS: usize> Card<APDU, BLOCK, TARGETS> {
    /// A card that got power, or was reset, now. `nads`: for each target the NADs by which the device means it. None when the parameters cannot be written, or a block of their IFSC is longer than `BLOCK`.
    #[must_use]
    pub fn new(now: Micros, parameters: &Cip<'_>, nads: [&'static [u8]; TARGETS]) -> Option<Self> {
        let mut bytes = [0; cip::LEN_MAX];
        let parameters_len = parameters.write(&mut bytes)?;
        let most = u16::try_from(BLOCK).unwrap_or(u16::MAX).checked_sub(AROUND)?;
        if parameters.ifsc > most || usize::from(most) < parameters_len {
            return None;
        }
        let common = parameters.common;
        let pwt = u64::from(common.pwt) * 1_000;
        Some(Self {
            bus: parameters.bus(),
            parameters: bytes,
            parameters_len,
            ifsc: parameters.ifsc,
            bwt: u64::from(parameters.bwt) * 1_000,
            pwt,
            pst: u64::from(common.pst) * 1_000,
            gap: parameters.gap(),
            wake: match parameters.physical {
                Physical::Spi { wut, .. } => wut.into(),
                Physical::I2c { .. } => 0,
            },
            targets: core::array::from_fn(|at| {
                let nad = nads.get(at).and_then(|nads| nads.first()).copied();
                block::Card::with_nad(Shape::Prime, nad.unwrap_or(0), IFSD_DEFAULT.min(most))
            }),
            nads,
            speaker: 0,
            out: [0; BLOCK],
            out_len: 0,
            out_at: 0,
            out_from: now,
            then: Then::Nothing,
            power: Power::Starting(now.after(pwt)),
            resets: [false; TARGETS],
            wtx_at: None,
            last: now,
        })
    }

    /// Takes what the device has written in one access, which is one block: false when the card did not acknowledge it (I2C) or did not see it (SPI). What the device has not read is dropped.
    pub fn write(&mut self, now: Micros, bytes: &[u8]) -> bool {
        if !self.reach(now) {
            return false;
        }
        self.drop_out();
        let heard = if bytes.len() > BLOCK {
            Err(Bad::Other)
        } else {
            Block::parse(Shape::Prime, bytes)
        };
        if let Ok(block) = &heard {
            let means = |nads: &&[u8]| nads.contains(&block.nad);
            match self.nads.iter().position(means) {
                Some(target) => self.speaker = target,
                // For somebody else.
                None => return true,
            }
        }
        let long = matches!(&heard, Ok(block) if block.inf.len() > usize::from(self.ifsc));
        let heard = if long { Err(Bad::Other) } else { heard };
        let Some(target) = self.targets.get_mut(self.speaker) else {
            return true;
        };
        target.hear(heard);
        self.wtx_at = None;
        if target.restart() {
            self.then = Then::Restart;
            if let Some(reset) = self.resets.get_mut(self.speaker) {
                *reset = true;
            }
        } else if target.released() {
            self.then = Then::Sleep;
        }
        self.prepare(now);
        self.expire(now);
        true
    }

    /// Whether an access reaches the card. It wakes one that sleeps, which then needs its time.
    fn reach(&mut self, now: Micros) -> bool {
        self.expire(now);
        match self.power {
            Power::Starting(_) => return false,
            Power::Asleep => {
                self.power = Power::Awake;
                self.out_from = now.after(self.wake);
            }
            Power::Awake => {}
        }
        self.last = now;
        true
    }

    fn drop_out(&mut self) {
        self.out.zeroize();
        self.out_len = 0;
        self.out_at = 0;
        self.then = Then::Nothing;
    }

    /// The block that the target has to say is put where the device reads it.
    fn prepare(&mut self, now: Micros) {
        if self.out_len != 0 {
            return;
        }
        let parameters = self.parameters.get(..self.parameters_len).unwrap_or_default();
        let Some(target) = self.targets.get_mut(self.speaker) else {
            return;
        };
        if let Some(len) = target.write(parameters, &mut self.out) {
            self.out_len = len;
            self.out_at = 0;
            self.out_from = self.out_from.max(now.after(self.gap));
        }
    }

    /// Fills what the device reads in one access: false when the card did not acknowledge its address (I2C). A block is read on where the last access has ended.
    pub fn read(&mut self, now: Micros, into: &mut [u8]) -> bool {
        let reached = self.reach(now);
        let ready = reached && self.out_len != 0 && self.out_from <= now;
        let filler = if self.bus == Bus::Spi { 0x00 } else { 0xFF };
        into.fill(filler);
        if !ready {
            return self.bus == Bus::Spi;
        }
        let rest = self.out.get(self.out_at..self.out_len).unwrap_or_default();
        for (to, from) in into.iter_mut().zip(rest) {
            *to = *from;
        }
        self.out_at = self.out_len.min(self.out_at + into.len());
        if self.out_at == self.out_len {
            self.power = match self.then {
                Then::Nothing => self.power,
                Then::Restart => Power::Starting(now.after(self.pwt)),
                Then::Sleep => Power::Asleep,
            };
            self.drop_out();
            self.expire(now);
        }
        true
    }

    /// A whole command that waits to be run, once, and which target's.
    #[must_use]
    pub fn command(&self) -> Option<(usize, &[u8])> {
        self.targets
            .iter()
            .enumerate()
            .find_map(|(at, target)| Some((at, target.command()?)))
    }

    /// Whoever runs a target's commands has this one, and will answer it.
    pub fn take(&mut self, target: usize) {
        if let Some(target) = self.targets.get_mut(target) {
            target.take();
        }
    }

    /// The answer to the command of a target that was taken. It is dropped when nobody waits for it any more.
    pub fn answer(&mut self, now: Micros, target: usize, answer: &[u8]) {
        if let Some(target) = self.targets.get_mut(target) {
            target.answer(answer);
        }
        self.prepare(now);
    }

    /// A target whose reset the device has asked for (SWR) since the last call: selection, logical channels and secure sessions are gone there.
    pub fn reset_wanted(&mut self) -> Option<usize> {
        let at = self.resets.iter().position(|reset| *reset)?;
        if let Some(reset) = self.resets.get_mut(at) {
            *reset = false;
        }
        Some(at)
    }

    /// Whether it sleeps.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.power == Power::Asleep
    }

    fn is_running(&self) -> bool {
        self.targets.iter().any(block::Card::is_running)
    }

    /// Looks at the time: [`Card::deadline`] says when.
    pub fn expire(&mut self, now: Micros) {
        if let Power::Starting(until) = self.power
            && until <= now
        {
            self.power = Power::Awake;
            self.last = until;
        }
        if self.sleeps_at().is_some_and(|at| at <= now) {
            self.power = Power::Asleep;
        }
        let half = self.bwt / 2;
        match self.targets.get_mut(self.speaker) {
            Some(target) if target.is_running() && self.out_len == 0 => {
                let at = *self.wtx_at.get_or_insert(now.after(half));
                if at <= now {
                    target.ask_for_time(1);
                    self.wtx_at = Some(now.after(half));
                    self.prepare(now);
                }
            }
            _ => self.wtx_at = None,
        }
    }

    fn sleeps_at(&self) -> Option<Micros> {
        let idle = self.power == Power::Awake && self.out_len == 0 && !self.is_running();
        (idle && self.pst != 0).then(|| self.last.after(self.pst))
    }

    /// The next moment at which something happens of itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        let starts = match self.power {
            Power::Starting(until) => Some(until),
            _ => None,
        };
        [starts, self.sleeps_at(), self.wtx_at]
            .into_iter()
            .flatten()
            .min()
    }
}

impl<const APDU: usize, const BLOCK: usize, const TARGETS: usize> Drop for Card<APDU, BLOCK, TARGETS> {
    fn drop(&mut self) {
        self.out.zeroize();
    }
}
