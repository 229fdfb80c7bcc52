//! Every history of a few polls and losses of power, over the real state machines: a network that keeps everything it saw and delivers any of it at any
//! time, as often as it likes. And the same search over three naive servers, which must find how each of them locks a device out.

use crate::common;
use std::fmt;
use std::hash::{Hash, Hasher};

use common::*;
use sekisho_keys::sha256;
use sekisho_paging::Uid;
use sekisho_paging::datagram::{Answer, Reason, Sealer};
use sekisho_paging::keys::PollKeys;
use sekisho_paging::message::Message;
use sekisho_paging::server::Reject;
use stateright::{Checker, HasDiscoveries, Model, Property};

/// Polls that a device sends, and losses of power at either end, in a history.
#[derive(Clone, Copy)]
struct Bounds {
    polls: u8,
    kills: u8,
}

const SMALL: Bounds = Bounds { polls: 4, kills: 2 };

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Poll,
    ToServer(usize),
    ToDevice(usize),
    /// The device takes an answer and loses power before (false) or after its record is written.
    ToDeviceAndDie(usize, bool),
    KillServer,
    Flush,
    KillDevice,
}

#[derive(Clone)]
struct World<S> {
    server: S,
    se: Se,
    polls: Vec<Datagram>,
    /// Each answer with the number of the poll that it answers.
    answers: Vec<(usize, Datagram)>,
    latest: Option<usize>,
    kills: u8,
    /// An answer to another than the latest poll was accepted.
    took_stale: bool,
    /// An identity was used twice.
    used_twice: bool,
    uids: Vec<Uid>,
    /// Digest of all of the above.
    print: [u8; 32],
}

impl<S: Server> World<S> {
    fn printed(mut self) -> Self {
        self.answers.sort_unstable();
        let small = format!(
            "{} {:?} {:?} {} {} {}",
            self.server.fingerprint(),
            self.se.device,
            self.latest,
            self.kills,
            self.took_stale,
            self.used_twice,
        );
        let polls = self.polls.as_flattened();
        let answers: Vec<_> = self.answers.iter().flat_map(|(_, answer)| *answer).collect();
        self.print = sha256(&[small.as_bytes(), &self.se.flash.0, polls, &answers]);
        self
    }
}

impl<S: Server> PartialEq for World<S> {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl<S: Server> Eq for World<S> {}

impl<S: Server> Hash for World<S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.print.hash(state);
    }
}

impl<S: Server> fmt::Debug for World<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} polls, {} answers, {} kills",
            self.polls.len(),
            self.answers.len(),
            self.kills
        )
    }
}

struct Paging<S> {
    server: S,
    mode: Mode,
    bounds: Bounds,
}

impl<S: Server + Clone> Paging<S> {
    fn deliver_to_device(&self, world: &mut World<S>, number: usize) {
        let (poll, answer) = world.answers[number];
        if world.se.receive(&answer) {
            world.took_stale |= world.latest != Some(poll);
            world.latest = None;
            world.now_uses();
        }
    }
}

impl<S: Server> World<S> {
    /// Notes the identity that the device is at.
    fn now_uses(&mut self) {
        let uid = self.se.device.state().uid;
        if self.uids.last() != Some(&uid) {
            self.used_twice |= self.uids.contains(&uid);
            self.uids.push(uid);
        }
    }
}

impl<S: Server + Clone> Model for Paging<S> {
    type State = World<S>;
    type Action = Step;

    fn init_states(&self) -> Vec<World<S>> {
        let uid = self.server.first_uid();
        vec![
            World {
                server: self.server.clone(),
                se: Se::new(self.mode, uid),
                polls: Vec::new(),
                answers: Vec::new(),
                latest: None,
                kills: 0,
                took_stale: false,
                used_twice: false,
                uids: vec![uid],
                print: [0; 32],
            }
            .printed(),
        ]
    }

    fn actions(&self, world: &World<S>, steps: &mut Vec<Step>) {
        if world.polls.len() < usize::from(self.bounds.polls) {
            steps.push(Step::Poll);
        }
        steps.extend((0..world.polls.len()).map(Step::ToServer));
        steps.extend((0..world.answers.len()).map(Step::ToDevice));
        steps.push(Step::Flush);
        if world.kills < self.bounds.kills {
            steps.extend([Step::KillServer, Step::KillDevice]);
            let answers = 0..world.answers.len();
            steps.extend(answers.flat_map(|at| [false, true].map(|after| Step::ToDeviceAndDie(at, after))));
        }
    }

    fn next_state(&self, before: &World<S>, step: Step) -> Option<World<S>> {
        let mut world = before.clone();
        match step {
            Step::Poll => {
                let nonce = [0, 0, 0, u8::try_from(world.polls.len()).unwrap()];
                let poll = world.se.device.poll(Reason::Periodic, nonce);
                world.latest = Some(world.polls.len());
                world.polls.push(poll);
            }
            Step::ToServer(number) => {
                let answer = world.server.poll(&world.polls[number], Message::NOTHING);
                if let Ok(answer) = answer
                    && !world.answers.contains(&(number, answer))
                {
                    world.answers.push((number, answer));
                }
            }
            Step::ToDevice(number) => self.deliver_to_device(&mut world, number),
            Step::ToDeviceAndDie(number, after) => {
                world.kills += 1;
                world.latest = None;
                world.se.receive_and_die(&world.answers[number].1, after);
                world.now_uses();
            }
            Step::KillServer => {
                world.kills += 1;
                world.server.kill();
            }
            Step::Flush => world.server.flush(),
            Step::KillDevice => {
                world.kills += 1;
                world.latest = None;
                world.se.power_cycle();
            }
        }
        let world = world.printed();
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("the device comes back within two polls", |_, world: &World<S>| {
                let mut world = world.clone();
                (0..2u8).any(|attempt| {
                    let poll = world.se.device.poll(Reason::Periodic, [0xFF, 0, 0, attempt]);
                    let answer = world.server.poll(&poll, Message::NOTHING);
                    answer.is_ok_and(|answer| world.se.receive(&answer))
                })
            }),
            Property::always("no stale answer is accepted", |_, world: &World<S>| {
                !world.took_stale
            }),
            Property::always("no identity is used twice", |_, world: &World<S>| {
                !world.used_twice
            }),
            Property::sometimes("identities change", |_, world: &World<S>| world.uids.len() > 2),
        ]
    }
}

fn check<S: Server + Clone + Send + Sync + 'static>(server: S, mode: Mode) {
    let model = Paging {
        server,
        mode,
        bounds: SMALL,
    };
    let checker = model.checker().spawn_bfs().join();
    checker.assert_properties();
    assert!(
        checker.unique_state_count() > 10_000,
        "the search was too small to mean anything"
    );
}

#[test]
fn ticket_with_fixed_keys_has_no_bad_history() {
    check(TicketServer::new(Mode::Fixed), Mode::Fixed);
}

#[test]
fn ticket_with_rolling_keys_has_no_bad_history() {
    check(TicketServer::new(Mode::Rolling), Mode::Rolling);
}

#[test]
fn random_with_fixed_keys_has_no_bad_history() {
    check(RandomServer::new(Mode::Fixed, 1), Mode::Fixed);
}

#[test]
fn random_with_rolling_keys_has_no_bad_history() {
    check(RandomServer::new(Mode::Rolling, 1), Mode::Rolling);
}

/// What a naive server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    /// A fresh `UID_Rand` for each resend.
    FreshRand,
    /// The answer leaves before `UID_Rand` is written.
    WriteBehind,
    /// UID1 is given up when UID2 is offered.
    ForgetsUid1,
}

/// Scheme `random` as one would write it in an afternoon.
#[derive(Clone)]
struct Naive {
    mistake: Mistake,
    keys: PollKeys,
    now: (Uid, Option<Uid>),
    disk: (Uid, Option<Uid>),
    dice: Dice,
}

impl Naive {
    fn new(mistake: Mistake) -> Self {
        Self {
            mistake,
            keys: root().poll_key(GLOBAL).poll_keys(),
            now: (FIRST_RANDOM_UID, None),
            disk: (FIRST_RANDOM_UID, None),
            dice: Dice(3),
        }
    }
}

impl Server for Naive {
    fn poll(&mut self, datagram: &[u8], message: Message) -> Result<Datagram, Reject> {
        let uid = Uid::of(datagram).ok_or(Reject::Unknown)?;
        let (current, next) = self.now;
        if uid != current && Some(uid) != next {
            return Err(Reject::Unknown);
        }
        let mut sealer = Sealer::new(&self.keys);
        let (_, poll, tag) = sealer.open_poll(datagram).map_err(|_| Reject::BadMac)?;
        let offered = next.filter(|_| uid == current && self.mistake != Mistake::FreshRand);
        let uid2 = offered.unwrap_or_else(|| Uid(self.dice.bytes()));
        self.now = match self.mistake {
            Mistake::ForgetsUid1 => (uid2, None),
            _ => (uid, Some(uid2)),
        };
        if self.mistake != Mistake::WriteBehind {
            self.disk = self.now;
        }
        let answer = Answer {
            message,
            sent: poll.resend.saturating_add(1),
            uid_rand: self.keys.uid_rand(&uid, &uid2),
        };
        Ok(sealer.seal_answer(&uid, &tag, &answer))
    }

    fn flush(&mut self) {
        self.disk = self.now;
    }

    fn kill(&mut self) {
        self.now = self.disk;
    }

    fn first_uid(&self) -> Uid {
        FIRST_RANDOM_UID
    }

    fn fingerprint(&self) -> String {
        format!("{:?} {:?} {}", self.now, self.disk, self.dice.0)
    }
}

fn locks_out(mistake: Mistake, kills: u8) {
    let model = Paging {
        server: Naive::new(mistake),
        mode: Mode::Fixed,
        bounds: Bounds { polls: 3, kills },
    };
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found = checker.discovery("the device comes back within two polls");
    assert!(found.is_some(), "{mistake:?} went unnoticed");
}

#[test]
fn a_fresh_uid_rand_for_each_resend_locks_out_without_any_crash() {
    locks_out(Mistake::FreshRand, 0);
}

#[test]
fn writing_behind_locks_out() {
    locks_out(Mistake::WriteBehind, 1);
}

#[test]
fn giving_uid1_up_with_the_answer_locks_out() {
    locks_out(Mistake::ForgetsUid1, 0);
}
