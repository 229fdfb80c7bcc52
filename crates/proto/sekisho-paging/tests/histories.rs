//! 100,000 random histories in virtual time: loss, repetition, reordering, replay, injection, and both ends killed at any moment. Afterwards, on
//! a network that works, the device must be back within two polls, and it must never have taken an answer that was not for its latest poll.

use crate::common;
use common::*;
use sekisho_paging::message::{Action, Message};

/// Of each of the four combinations.
const HISTORIES: u64 = 25_000;

/// A network that remembers everything.
#[derive(Default)]
struct Network {
    polls: Vec<Datagram>,
    answers: Vec<Datagram>,
}

struct History<S> {
    dice: Dice,
    server: S,
    se: Se,
    network: Network,
    order: u32,
    /// The poll that is out.
    latest: Option<Datagram>,
    /// The server's answers to it.
    good: Vec<Datagram>,
}

impl<S: Server> History<S> {
    fn message(&mut self) -> Message {
        if self.dice.chance(30) {
            self.order += 1;
        }
        let action = match self.order % 3 {
            0 => Action::Update(5),
            1 => Action::PollEvery(60 + self.order),
            _ => Action::OpenHttps(0),
        };
        Message {
            order: self.order,
            action,
        }
    }

    fn nothing_is_out(&mut self) {
        self.latest = None;
        self.good.clear();
    }

    fn serve(&mut self, datagram: Datagram) -> Option<Datagram> {
        let message = self.message();
        let answer = self.server.poll(&datagram, message).ok()?;
        self.network.answers.push(answer);
        if self.latest == Some(datagram) {
            self.good.push(answer);
        }
        Some(answer)
    }

    fn hand_to_device(&mut self, datagram: &Datagram) {
        let is_good = self.good.contains(datagram);
        if self.dice.chance(5) {
            self.nothing_is_out();
            let after = self.dice.chance(50);
            return self.se.receive_and_die(datagram, after);
        }
        if self.se.receive(datagram) {
            assert!(is_good, "a stale or foreign answer was accepted");
            self.nothing_is_out();
        }
    }

    fn pick(&mut self, polls: bool) -> Option<Datagram> {
        let from = if polls {
            &self.network.polls
        } else {
            &self.network.answers
        };
        let limit = u64::try_from(from.len()).unwrap();
        (limit > 0).then(|| from[usize::try_from(self.dice.below(limit)).unwrap()])
    }

    fn step(&mut self) {
        match self.dice.below(20) {
            0..=9 => {
                let poll = self.se.poll(&mut self.dice);
                self.nothing_is_out();
                self.latest = Some(poll);
                self.network.polls.push(poll);
                let copies = [0, 1, 1, 1, 2][usize::try_from(self.dice.below(5)).unwrap()];
                for _ in 0..copies {
                    let answer = self.serve(poll);
                    if let Some(answer) = answer.filter(|_| self.dice.chance(70)) {
                        self.hand_to_device(&answer);
                    }
                }
            }
            10..=12 => {
                if let Some(poll) = self.pick(true) {
                    self.serve(poll);
                }
            }
            13..=15 => {
                if let Some(answer) = self.pick(false) {
                    self.hand_to_device(&answer);
                }
            }
            16 => {
                let polls = self.dice.chance(50);
                if let Some(mut damaged) = self.pick(polls) {
                    damaged[usize::try_from(self.dice.below(44)).unwrap()] ^= 1 << self.dice.below(8);
                    assert!(self.server.poll(&damaged, Message::NOTHING).is_err());
                    assert!(!self.se.receive(&damaged));
                }
            }
            17 => self.server.kill(),
            18 => self.server.flush(),
            _ => {
                self.se.power_cycle();
                self.nothing_is_out();
            }
        }
    }

    /// The network works again: two polls at most.
    fn is_back(&mut self) -> bool {
        (0..2).any(|_| {
            let poll = self.se.poll(&mut self.dice);
            let answer = self.server.poll(&poll, Message::NOTHING);
            answer.is_ok_and(|answer| self.se.receive(&answer))
        })
    }
}

fn run<S: Server>(seed: u64, mode: Mode, server: S) {
    let mut history = History {
        dice: Dice(seed),
        se: Se::new(mode, server.first_uid()),
        server,
        network: Network::default(),
        order: 0,
        latest: None,
        good: Vec::new(),
    };
    let steps = 10 + history.dice.below(30);
    for _ in 0..steps {
        history.step();
    }
    assert!(history.is_back(), "locked out: seed {seed}, {mode:?}");
    let orders: Vec<_> = history.se.heard.iter().map(|message| message.order).collect();
    assert!(orders.iter().all(|order| *order <= history.order));
}

#[test]
fn property_01_no_lock_out_ticket_fixed() {
    (0..HISTORIES).for_each(|seed| run(seed, Mode::Fixed, TicketServer::new(Mode::Fixed)));
}

#[test]
fn property_01_no_lock_out_ticket_rolling() {
    (0..HISTORIES).for_each(|seed| run(seed, Mode::Rolling, TicketServer::new(Mode::Rolling)));
}

#[test]
fn property_01_no_lock_out_random_fixed() {
    (0..HISTORIES).for_each(|seed| run(seed, Mode::Fixed, RandomServer::new(Mode::Fixed, seed)));
}

#[test]
fn property_01_no_lock_out_random_rolling() {
    (0..HISTORIES).for_each(|seed| run(seed, Mode::Rolling, RandomServer::new(Mode::Rolling, seed)));
}
