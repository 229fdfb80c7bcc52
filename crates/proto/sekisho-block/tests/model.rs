//! Every history of two exchanges over the real state machines of T=1 and T=1' at both ends, with every placing of a few losses, flips, duplicates and waiting times that end too early; and three naive ends, which the same search must show to fail.

use sekisho_block::Ended;
use sekisho_block::block::{Bad, Block, Card, Device, Shape};
use sekisho_block::check::{crc, lrc};
use stateright::{Checker, HasDiscoveries, Model, Property};

const APDU: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Naive {
    /// None: what the crate does.
    No,
    /// The device sends a command again after an exchange whose outcome is unknown.
    Replays,
    /// The card takes every I block as new.
    TakesAny,
    /// R carries the number that was received, not the one that is expected next.
    ReceivedNumber,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    device: Device<APDU>,
    card: Card<APDU>,
    to_card: Vec<Vec<u8>>,
    to_device: Vec<Vec<u8>>,
    faults: u8,
    /// Commands begun.
    begun: u8,
    replayed: bool,
    /// How often each was run.
    ran: [u8; 2],
    wrong: bool,
    failed: bool,
    /// N(S) that a card would take which looks at none.
    taken: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Begin,
    ToCard,
    ToDevice,
    Lose(bool),
    Flip(bool),
    Double(bool),
    Run,
    Expire,
}

#[derive(Clone, Copy)]
struct Line {
    /// T=1' is on a bus: what the card has put there is dropped by the device's next write.
    shape: Shape,
    naive: Naive,
    faults: u8,
    exchanges: u8,
}

impl World {
    fn speak(&mut self, line: Line) {
        let mut out = [0; 16];
        if let Some(len) = self.device.write(&mut out) {
            self.to_card.push(patched(out[..len].to_vec(), line));
        }
        if let Some(len) = self.card.write(&[], &mut out) {
            self.to_device.push(patched(out[..len].to_vec(), line));
        }
    }

    fn command(number: u8) -> [u8; 2] {
        [0x80, number]
    }

    fn judge(&mut self, naive: Naive) {
        let number = self.begun - 1;
        let ran = self.ran[usize::from(number)];
        match self.device.ended() {
            Some(Ended::Answer(answer)) => self.wrong |= ran != 1 || answer != [0x90, number],
            Some(Ended::NotRun(_)) => {
                self.wrong |= ran != 0;
                self.failed = true;
            }
            Some(Ended::Unknown(_)) if naive == Naive::Replays && !self.replayed => {
                self.replayed = true;
                self.device.start(&Self::command(number));
            }
            Some(Ended::Unknown(_)) => {
                self.wrong |= ran > 1;
                self.failed = true;
            }
            None => {}
        }
    }

    fn hear(&mut self, to_card: bool, bytes: Option<Vec<u8>>, line: Line) {
        if !to_card {
            let heard = bytes
                .as_deref()
                .map_or(Err(Bad::Check), |bytes| Block::parse(line.shape, bytes));
            return self.device.hear(heard);
        }
        if line.shape == Shape::Prime {
            self.to_device.clear();
        }
        let mut bytes = bytes;
        if let (Naive::TakesAny, Some(bytes)) = (line.naive, bytes.as_mut())
            && !self.card.is_running()
        {
            if bytes[1] & 0x80 == 0 {
                bytes[1] = bytes[1] & !0x40 | u8::from(self.taken) << 6;
                seal(bytes, line.shape);
                self.taken = !self.taken;
            } else if bytes[1] == 0xC0 {
                self.taken = false;
            }
        }
        let heard = bytes
            .as_deref()
            .map_or(Err(Bad::Check), |bytes| Block::parse(line.shape, bytes));
        self.card.hear(heard);
    }
}

fn patched(mut bytes: Vec<u8>, line: Line) -> Vec<u8> {
    if line.naive == Naive::ReceivedNumber && bytes[1] & 0xC0 == 0x80 {
        bytes[1] ^= 0x10;
        seal(&mut bytes, line.shape);
    }
    bytes
}

/// Makes the check bytes right.
fn seal(bytes: &mut [u8], shape: Shape) {
    let (body, sum) = bytes.split_at_mut(bytes.len() - shape.trailer());
    match shape {
        Shape::Lrc => sum[0] = lrc(body),
        Shape::Crc | Shape::Prime => sum.copy_from_slice(&crc(body).to_be_bytes()),
    }
}

impl Model for Line {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        // One byte of INF each way: commands and answers are chains of two.
        vec![World {
            device: Device::new(self.shape, 0, 1),
            card: Card::new(self.shape, 1),
            to_card: Vec::new(),
            to_device: Vec::new(),
            faults: 0,
            begun: 0,
            replayed: false,
            ran: [0; 2],
            wrong: false,
            failed: false,
            taken: false,
        }]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Step>) {
        if !state.device.is_busy() && state.begun < self.exchanges {
            actions.push(Step::Begin);
        }
        if state.card.command().is_some() {
            actions.push(Step::Run);
        }
        let free = state.faults < self.faults;
        for (to_card, queue) in [(true, &state.to_card), (false, &state.to_device)] {
            if !queue.is_empty() {
                actions.push(if to_card { Step::ToCard } else { Step::ToDevice });
                if free {
                    actions.extend([Step::Lose(to_card), Step::Flip(to_card), Step::Double(to_card)]);
                }
            }
        }
        let quiet = state.to_card.is_empty() && state.to_device.is_empty() && state.card.command().is_none();
        if state.device.is_busy() && (quiet || free) {
            actions.push(Step::Expire);
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut next = last.clone();
        match step {
            Step::Begin => {
                next.replayed = false;
                next.device.start(&World::command(next.begun));
                next.begun += 1;
            }
            Step::Run => {
                let number = next.card.command()?.get(1).copied().unwrap_or(0);
                next.wrong |= next.card.command()? != World::command(number & 1);
                next.ran[usize::from(number & 1)] += 1;
                next.card.take();
                next.card.answer(&[0x90, number]);
            }
            Step::ToCard => {
                let bytes = next.to_card.remove(0);
                next.hear(true, Some(bytes), *self);
            }
            Step::ToDevice => {
                let bytes = next.to_device.remove(0);
                next.hear(false, Some(bytes), *self);
            }
            Step::Lose(to_card) | Step::Flip(to_card) => {
                next.faults += 1;
                let queue = if to_card {
                    &mut next.to_card
                } else {
                    &mut next.to_device
                };
                queue.remove(0);
                if step == Step::Flip(to_card) {
                    next.hear(to_card, None, *self);
                }
            }
            Step::Double(to_card) => {
                next.faults += 1;
                let queue = if to_card {
                    &mut next.to_card
                } else {
                    &mut next.to_device
                };
                queue.insert(0, queue[0].clone());
            }
            Step::Expire => {
                let quiet =
                    next.to_card.is_empty() && next.to_device.is_empty() && next.card.command().is_none();
                next.faults += u8::from(!quiet);
                next.device.expire();
            }
        }
        if !matches!(step, Step::Begin) && last.device.is_busy() {
            next.judge(self.naive);
        }
        next.speak(*self);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("run once, answered right", |_, state: &World| {
                !state.wrong && state.ran.iter().all(|ran| *ran < 2)
            }),
            Property::always("within three faults it completes", |_, state: &World| {
                !state.failed || state.faults > 3
            }),
            Property::eventually("every exchange ends", |model: &Self, state: &World| {
                state.begun == model.exchanges && !state.device.is_busy()
            }),
        ]
    }
}

fn found(shape: Shape, naive: Naive, faults: u8, exchanges: u8) -> Vec<&'static str> {
    let line = Line {
        shape,
        naive,
        faults,
        exchanges,
    };
    let checker = line
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let mut found: Vec<_> = checker.discoveries().into_keys().collect();
    found.sort_unstable();
    println!(
        "{shape:?}, {naive:?}, {faults} faults: {} states, found {found:?}",
        checker.unique_state_count()
    );
    found
}

/// No deadlock, no double execution, no wrong delivery, and with three faults nothing but answers.
#[test]
fn both_ends_keep_their_promise_in_every_history() {
    for shape in [Shape::Lrc, Shape::Prime] {
        assert_eq!(found(shape, Naive::No, 3, 2), [] as [&str; 0]);
    }
}

/// The search would have seen it: each naive end breaks a promise.
#[test]
fn naive_ends_are_shown_to_fail() {
    for shape in [Shape::Lrc, Shape::Prime] {
        assert!(found(shape, Naive::Replays, 4, 1).contains(&"run once, answered right"));
        assert!(found(shape, Naive::TakesAny, 2, 1).contains(&"run once, answered right"));
        assert!(found(shape, Naive::ReceivedNumber, 1, 1).contains(&"within three faults it completes"));
    }
}
