//! Both ends of a line of characters, T=0, as nodes of a line in virtual time.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

use crate::element::{Element, On};
use crate::line::Node;
use sekisho_block::Micros;
use sekisho_block::t0::{Acknowledge, Card, Device, OUT_MAX, Timing, direction};

pub const TIMING: Timing = Timing {
    wt: 1_000_000,
    guard: 10_000,
};
pub const APDU: usize = 1_100;

pub struct DeviceNode(pub Device<APDU>);

impl Node for DeviceNode {
    fn hear(&mut self, now: Micros, bytes: &[u8]) {
        self.0.hear(now, bytes);
    }
    fn hear_flipped(&mut self, now: Micros, bytes: &[u8], which: usize) {
        self.0.hear(now, &bytes[..which]);
        self.0.damaged();
        self.0.hear(now, &bytes[which + 1..]);
    }
    fn say(&mut self, now: Micros) -> Option<Vec<u8>> {
        let mut out = [0; OUT_MAX];
        self.0.say(now, &mut out).map(|len| out[..len].to_vec())
    }
    fn deadline(&self) -> Option<Micros> {
        self.0.deadline()
    }
    fn expire(&mut self, now: Micros) {
        self.0.expire(now);
    }
}

pub struct CardNode {
    pub card: Card<APDU, 2>,
    pub element: Element,
    pub takes: u64,
    pub due: Option<(Micros, Vec<u8>)>,
}

impl CardNode {
    pub fn new(acknowledge: Acknowledge) -> Self {
        Self {
            card: Card::new(TIMING, acknowledge, direction),
            element: Element::new(On::Characters),
            takes: 0,
            due: None,
        }
    }
}

impl Node for CardNode {
    fn hear(&mut self, now: Micros, bytes: &[u8]) {
        self.card.hear(now, bytes);
    }
    fn hear_flipped(&mut self, now: Micros, bytes: &[u8], which: usize) {
        self.card.hear(now, &bytes[..which]);
        self.card.damaged();
        self.card.hear(now, &bytes[which + 1..]);
    }
    fn say(&mut self, now: Micros) -> Option<Vec<u8>> {
        if let Some(command) = self.card.command().map(<[u8]>::to_vec) {
            self.card.take();
            self.due = Some((now.after(self.takes), self.element.run(&command)));
        }
        if let Some((_, answer)) = self.due.take_if(|(at, _)| *at <= now) {
            self.card.answer(&answer);
        }
        let mut out = [0; OUT_MAX];
        self.card.say(now, &mut out).map(|len| out[..len].to_vec())
    }
    fn deadline(&self) -> Option<Micros> {
        let due = self.due.as_ref().map(|(at, _)| *at);
        [due, self.card.deadline()].into_iter().flatten().min()
    }
    fn expire(&mut self, now: Micros) {
        self.card.expire(now);
    }
}
