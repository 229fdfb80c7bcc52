//! A line between two ends in virtual time, with faults by seed: loss, flips, duplicates, late and split units. It is first in, first out: nothing overtakes.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "helpers of tests are tests"
)]

use std::collections::VecDeque;

use sekisho_block::Micros;

/// One end of a line.
pub trait Node {
    /// What arrives: characters of a line, or one frame.
    fn hear(&mut self, now: Micros, bytes: &[u8]);
    /// What arrives with a bit of one byte flipped: a line whose characters have parity says which.
    fn hear_flipped(&mut self, now: Micros, bytes: &[u8], _which: usize) {
        self.hear(now, bytes);
    }
    /// What is to be sent next, as one unit.
    fn say(&mut self, now: Micros) -> Option<Vec<u8>>;
    /// When it wants to be told of the time.
    fn deadline(&self) -> Option<Micros>;
    /// That moment has come.
    fn expire(&mut self, now: Micros);
}

/// A generator of numbers: xorshift, by seed.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// How often what goes wrong, in thousandths of the units; and how much at a time.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub lose: u64,
    pub flip: u64,
    pub duplicate: u64,
    pub late: u64,
    pub split: u64,
    /// How many units in a row may be lost, flipped, doubled or late; eight good ones in a row make it begin again. 0: no bound.
    pub burst: u32,
    /// How late a late unit is, in microseconds, at the most.
    pub lateness: u64,
    /// How far apart the pieces of a split unit are, in microseconds, at the most.
    pub gap: u64,
}

/// What has happened to the units so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub units: u64,
    pub lost: u64,
    pub flipped: u64,
    pub doubled: u64,
    pub late: u64,
    pub split: u64,
}

struct Unit {
    at: Micros,
    bytes: Vec<u8>,
    flipped: Option<usize>,
}

pub struct Line {
    pub now: Micros,
    rng: Rng,
    faults: Faults,
    pub count: Count,
    bad: u32,
    good: u32,
    /// To the device, to the card.
    ways: [VecDeque<Unit>; 2],
    /// What goes to the card, or comes from it, is lost from now on.
    pub cut: [bool; 2],
    /// Microseconds of a byte.
    pub byte: u64,
}

const DEVICE: usize = 0;
const CARD: usize = 1;

impl Line {
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self {
            now: Micros(0),
            rng: Rng::new(seed),
            faults,
            count: Count::default(),
            bad: 0,
            good: 0,
            ways: [VecDeque::new(), VecDeque::new()],
            cut: [false; 2],
            byte: 10,
        }
    }

    /// What is under way is gone: a reset, or power off.
    pub fn clear(&mut self) {
        self.ways = [VecDeque::new(), VecDeque::new()];
    }

    fn happens(&mut self, thousandths: u64) -> bool {
        self.rng.below(1000) < thousandths
    }

    fn put(&mut self, way: usize, at: u64, bytes: Vec<u8>, flipped: Option<usize>) {
        let last = self.ways[way].back().map_or(0, |unit| unit.at.0);
        self.ways[way].push_back(Unit {
            at: Micros(at.max(last)),
            bytes,
            flipped,
        });
    }

    fn send(&mut self, way: usize, mut bytes: Vec<u8>) {
        self.count.units += 1;
        if self.cut[way] || bytes.is_empty() {
            return;
        }
        let mut at = self.now.0 + self.byte * bytes.len() as u64;
        let may = self.faults.burst == 0 || self.bad < self.faults.burst;
        let kind = if may { self.rng.below(1000) } else { 1000 };
        let Faults {
            lose,
            flip,
            duplicate,
            late,
            lateness,
            gap,
            ..
        } = self.faults;
        let bad = kind < lose + flip + duplicate + late;
        if bad {
            self.bad += 1;
            self.good = 0;
        } else {
            self.good += 1;
            if self.good >= 8 {
                self.bad = 0;
            }
        }
        let mut flipped = None;
        if kind < lose {
            self.count.lost += 1;
            return;
        } else if kind < lose + flip {
            self.count.flipped += 1;
            let bit = self.rng.below(bytes.len() as u64 * 8) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
            flipped = Some(bit / 8);
        } else if kind < lose + flip + duplicate {
            self.count.doubled += 1;
            self.put(way, at, bytes.clone(), None);
            at += 1 + self.rng.below(lateness.max(1));
        } else if bad {
            self.count.late += 1;
            at += self.rng.below(lateness.max(1));
        }
        if bytes.len() > 1 && self.happens(self.faults.split) {
            self.count.split += 1;
            let rest = bytes.split_off(1 + self.rng.below(bytes.len() as u64 - 1) as usize);
            let (first, second) = match flipped {
                Some(which) if which >= bytes.len() => (None, Some(which - bytes.len())),
                which => (which, None),
            };
            self.put(way, at, bytes, first);
            at += self.rng.below(gap.max(1));
            (bytes, flipped) = (rest, second);
        }
        self.put(way, at, bytes, flipped);
    }

    /// One step: what is said is sent, then the next thing that happens by time. False when nothing is left to happen: both ends wait for ever, or are done.
    pub fn step(&mut self, device: &mut dyn Node, card: &mut dyn Node) -> bool {
        while let Some(bytes) = device.say(self.now) {
            self.send(CARD, bytes);
        }
        while let Some(bytes) = card.say(self.now) {
            self.send(DEVICE, bytes);
        }
        let arrivals = [DEVICE, CARD].map(|way| self.ways[way].front().map(|unit| unit.at));
        let deadlines = [device.deadline(), card.deadline()];
        let Some(next) = arrivals.iter().chain(&deadlines).flatten().min().copied() else {
            return false;
        };
        self.now = self.now.max(next);
        for way in [CARD, DEVICE] {
            if arrivals[way] == Some(next) {
                let Unit { bytes, flipped, .. } = self.ways[way].pop_front().unwrap();
                let node: &mut dyn Node = if way == CARD { card } else { device };
                match flipped {
                    Some(which) => node.hear_flipped(self.now, &bytes, which),
                    None => node.hear(self.now, &bytes),
                }
                return true;
            }
        }
        if deadlines[1] == Some(next) {
            card.expire(self.now);
        } else {
            device.expire(self.now);
        }
        true
    }

    /// Steps until something holds, at most so many: more is an end that never comes, and the test fails.
    pub fn run<D: Node, C: Node>(
        &mut self,
        device: &mut D,
        card: &mut C,
        steps: u32,
        until: impl Fn(&D) -> bool,
    ) {
        for _ in 0..steps {
            if until(device) {
                return;
            }
            if !self.step(device, card) {
                assert!(until(device), "both ends wait");
                return;
            }
        }
        panic!("no end after {steps} steps");
    }
}
