//! A bus between a device and a card in virtual time, with faults by seed: what is written or read gets lost, has a bit flipped, comes twice; the card is late.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers of tests are tests"
)]

use crate::line::{Faults, Rng};
use sekisho_block::Micros;
use sekisho_block::t1p::cip::{Cip, Common, Physical};
use sekisho_block::t1p::{Access, Bus, Card, Device, NAD_EUICC, NAD_GP, NAD_VENDOR};

pub const BLOCK: usize = 600;
pub const APDU: usize = 1_500;

pub type DeviceNode = Device<APDU, BLOCK>;

pub fn parameters(bus: Bus, ifsc: u16) -> Cip<'static> {
    let common = Common {
        configuration: 0,
        pwt: 5,
        mcf: if bus == Bus::Spi { 1000 } else { 400 },
        pst: 100,
        mpot: 10,
    };
    let physical = match bus {
        Bus::Spi => Physical::Spi {
            segt: 100,
            seal: 256,
            wut: 5,
        },
        Bus::I2c => Physical::I2c { rwgt: 10 },
    };
    Cip {
        issuer: &[],
        common,
        physical,
        bwt: 300,
        ifsc,
        historical: &[],
    }
}

/// A card with two targets that answers a command as `answer_to` says, after a time.
pub struct CardNode {
    pub card: Card<APDU, BLOCK, 2>,
    pub ran: Vec<(usize, Vec<u8>)>,
    pub takes: u64,
    pub due: Option<(Micros, usize, Vec<u8>)>,
    pub resets: Vec<usize>,
}

pub fn answer_to(command: &[u8]) -> Vec<u8> {
    let sum = command
        .iter()
        .fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte));
    let mut answer: Vec<u8> = (0..usize::from(command.get(1).copied().unwrap_or(0)) * 8)
        .map(|at| sum.wrapping_add(at as u8))
        .collect();
    answer.extend([0x90, 0x00]);
    answer
}

impl CardNode {
    pub fn new(now: Micros, parameters: &Cip<'_>) -> Self {
        Self {
            card: Card::new(now, parameters, [&[NAD_GP, NAD_VENDOR], &[NAD_EUICC]]).unwrap(),
            ran: Vec::new(),
            takes: 0,
            due: None,
            resets: Vec::new(),
        }
    }

    pub fn run(&mut self, now: Micros) {
        if let Some((target, command)) = self.card.command().map(|(at, command)| (at, command.to_vec())) {
            self.card.take(target);
            self.due = Some((now.after(self.takes), target, answer_to(&command)));
            self.ran.push((target, command));
        }
        if let Some((_, target, answer)) = self.due.take_if(|(at, ..)| *at <= now) {
            self.card.answer(now, target, &answer);
        }
        self.resets.extend(self.card.reset_wanted());
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub lost: u32,
    pub flipped: u32,
    pub doubled: u32,
    pub late: u32,
    pub blocks: u32,
}

impl Count {
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.flipped += other.flipped;
        self.doubled += other.doubled;
        self.late += other.late;
        self.blocks += other.blocks;
    }
}

pub struct Wire {
    pub now: Micros,
    bus: Bus,
    rng: Rng,
    faults: Faults,
    bad: u32,
    good: u32,
    pub count: Count,
    /// The card does not answer any more.
    pub cut: bool,
    /// The card's block of which a part has been read, and that is being lost.
    losing: bool,
    last_read_had: bool,
}

impl Wire {
    pub fn new(bus: Bus, seed: u64, faults: Faults) -> Self {
        Self {
            now: Micros(0),
            bus,
            rng: Rng::new(seed),
            faults,
            bad: 0,
            good: 0,
            count: Count::default(),
            cut: false,
            losing: false,
            last_read_had: false,
        }
    }

    /// What goes wrong with the next block: lost, flipped, doubled, late.
    fn fault(&mut self) -> Option<usize> {
        self.count.blocks += 1;
        let Faults {
            lose,
            flip,
            duplicate,
            late,
            burst,
            ..
        } = self.faults;
        let may = burst == 0 || self.bad < burst;
        let at = if may { self.rng.below(1000) } else { 1000 };
        let kinds = [lose, flip, duplicate, late];
        let kind = (0..4).find(|kind| at < kinds[..=*kind].iter().sum());
        if kind.is_some() {
            self.bad += 1;
            self.good = 0;
        } else {
            self.good += 1;
            if self.good >= 8 {
                self.bad = 0;
            }
        }
        kind
    }

    fn flip(&mut self, bytes: &mut [u8]) {
        let bit = self.rng.below(bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        self.count.flipped += 1;
    }

    fn written(&mut self, card: &mut CardNode, mut bytes: Vec<u8>) -> bool {
        let kind = self.fault();
        if self.cut {
            return true;
        }
        match kind {
            Some(0) => {
                self.count.lost += 1;
                return true;
            }
            Some(1) => self.flip(&mut bytes),
            Some(2) => {
                self.count.doubled += 1;
                card.card.write(self.now, &bytes);
            }
            Some(_) => {
                self.count.late += 1;
                self.now = self.now.after(self.rng.below(self.faults.lateness.max(1)));
            }
            None => {}
        }
        card.card.write(self.now, &bytes)
    }

    fn polled(&mut self, card: &mut CardNode, n: usize) -> Option<Vec<u8>> {
        let filler = if self.bus == Bus::Spi { 0x00 } else { 0xFF };
        let nothing = (self.bus == Bus::Spi).then(|| vec![0; n]);
        if self.cut {
            return nothing;
        }
        let mut bytes = vec![0; n];
        let there = card.card.read(self.now, &mut bytes);
        let has = there && bytes.iter().any(|byte| *byte != filler);
        let begins = has && !self.last_read_had;
        self.last_read_had = has;
        self.losing &= has;
        match if begins { self.fault() } else { None } {
            Some(0) => {
                self.count.lost += 1;
                self.losing = true;
            }
            Some(1) => self.flip(&mut bytes),
            _ => {}
        }
        if self.losing {
            return nothing;
        }
        there.then_some(bytes)
    }

    /// One thing that happens by time; false when nothing is left to happen.
    pub fn step(&mut self, device: &mut DeviceNode, card: &mut CardNode) -> bool {
        card.run(self.now);
        let due = card.due.as_ref().map(|(at, ..)| *at);
        let Some(next) = [device.deadline(), card.card.deadline(), due]
            .into_iter()
            .flatten()
            .min()
        else {
            return false;
        };
        self.now = self.now.max(next);
        card.run(self.now);
        card.card.expire(self.now);
        let mut out = [0; BLOCK];
        match device.access(self.now, &mut out) {
            Some(Access::Write(len)) => {
                assert!(len <= 256 || self.bus == Bus::I2c, "longer than SEAL");
                let acknowledged = self.written(card, out[..len].to_vec());
                device.wrote(self.now, acknowledged);
                self.last_read_had = false;
            }
            Some(Access::Read(n)) => {
                let bytes = self.polled(card, n);
                device.read(self.now, bytes.as_deref());
            }
            None => {}
        }
        true
    }

    pub fn run(&mut self, device: &mut DeviceNode, card: &mut CardNode, until: impl Fn(&DeviceNode) -> bool) {
        for _ in 0..200_000 {
            if until(device) {
                return;
            }
            if !self.step(device, card) {
                assert!(until(device), "both ends wait");
                return;
            }
        }
        panic!("no end");
    }
}
