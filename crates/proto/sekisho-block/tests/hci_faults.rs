//! HCI over SWP links with faults, both hosts: sessions that begin and hold, exchanges that end.

use crate::line;
use line::{Faults, Line, Node, Rng};
use sekisho_block::hci::ids::{GATE_APDU, HOST_UICC};
use sekisho_block::hci::{self, Gates, Session, Technology};
use sekisho_block::swp::{self, Event, FRAME_MAX, INFORMATION_MAX, Link, Role};
use sekisho_block::{Ended, Fault, Micros};

const LEN: usize = 601;
const TIMING: hci::Timing = hci::Timing {
    wait: 4_000_000,
    response: 1_000_000,
    reader: 30_000_000,
};
const LINK: swp::Timing = swp::Timing {
    activation: 60_000,
    acknowledge: 5_000,
    retransmit: 300_000,
    connect: 100_000,
};
const ATR: [u8; 5] = [0x3B, 0x80, 0x80, 0x01, 0x01];
const FRESH: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
struct DeviceNode {
    link: Link,
    host: hci::Device<LEN>,
}

struct CardNode {
    link: Link,
    host: hci::Card<LEN>,
    ran: Vec<Vec<u8>>,
    takes: u64,
    due: Option<(Micros, Vec<u8>)>,
    resets: u32,
    kept: Session,
    /// What a reader has had run, and when its answer is due.
    ran_reader: Vec<Vec<u8>>,
    due_reader: Option<(Micros, Vec<u8>)>,
    field: Vec<(Technology, bool)>,
}

fn answer_to(command: &[u8]) -> Vec<u8> {
    let sum = command
        .iter()
        .fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte));
    let len = usize::from(command.get(1).copied().unwrap_or(0)) * 4;
    let mut answer: Vec<u8> = (0..len).map(|at| sum.wrapping_add(at as u8)).collect();
    answer.extend([0x90, 0x00]);
    answer
}

impl DeviceNode {
    fn new(now: Micros) -> Self {
        Self {
            link: Link::new(now, Role::Device, 4, false, LINK),
            host: hci::Device::new(TIMING, HOST_UICC, 0x19),
        }
    }

    fn pump(&mut self, now: Micros) {
        while let Some(event) = self.link.event() {
            match event {
                Event::Connected | Event::Restarted => self.host.linked(now),
                Event::Failed => self.host.failed(),
            }
        }
        let mut out = [0; INFORMATION_MAX];
        while let Some(len) = self.link.take(&mut out) {
            self.host.hear(now, &out[..len]);
        }
        self.host.expire(now);
        while let Some(len) = self.host.packet(&mut out) {
            if !self.link.send(now, &out[..len]) {
                break;
            }
            self.host.sent();
        }
    }
}

impl CardNode {
    fn new(now: Micros, session: Session) -> Self {
        let role = Role::Card {
            sync_id: [1, 2],
            information: None,
        };
        Self {
            link: Link::new(now, role, 4, false, LINK),
            host: hci::Card::new(TIMING, Gates::ALL, &ATR, session, FRESH),
            ran: Vec::new(),
            takes: 0,
            due: None,
            resets: 0,
            kept: session,
            ran_reader: Vec::new(),
            due_reader: None,
            field: Vec::new(),
        }
    }

    fn pump(&mut self, now: Micros) {
        while let Some(event) = self.link.event() {
            if event != Event::Failed {
                self.host.linked();
            }
        }
        let mut out = [0; INFORMATION_MAX];
        while let Some(len) = self.link.take(&mut out) {
            self.host.hear(&out[..len]);
        }
        if let Some(command) = self.host.command().map(<[u8]>::to_vec) {
            self.host.take(now);
            self.due = Some((now.after(self.takes), answer_to(&command)));
            self.ran.push(command);
        }
        if let Some((_, answer)) = self.due.take_if(|(at, _)| *at <= now) {
            self.host.answer(&answer);
        }
        self.field.extend(self.host.field());
        if let Some((by, command)) = self.host.reader_command() {
            assert_eq!(self.field.last(), Some(&(by, true)), "a command of nobody");
            self.due_reader = Some((now.after(self.takes), answer_to(command)));
            self.ran_reader.push(command.to_vec());
            self.host.take_reader();
        }
        if let Some((_, answer)) = self.due_reader.take_if(|(at, _)| *at <= now) {
            self.host.answer_reader(&answer);
        }
        self.resets += u32::from(self.host.reset_wanted());
        if let Some(session) = self.host.session() {
            self.kept = session;
        }
        self.host.expire(now);
        while let Some(len) = self.host.packet(&mut out) {
            if !self.link.send(now, &out[..len]) {
                break;
            }
            self.host.sent();
        }
    }
}

macro_rules! node {
    ($type:ty, $due:expr) => {
        impl Node for $type {
            fn hear(&mut self, now: Micros, bytes: &[u8]) {
                self.link.hear(now, bytes);
                self.pump(now);
            }
            fn say(&mut self, now: Micros) -> Option<Vec<u8>> {
                self.pump(now);
                let mut out = [0; FRAME_MAX];
                self.link.say(now, &mut out).map(|len| out[..len].to_vec())
            }
            fn deadline(&self) -> Option<Micros> {
                let due: fn(&Self) -> Option<Micros> = $due;
                [self.link.deadline(), self.host.deadline(), due(self)]
                    .into_iter()
                    .flatten()
                    .min()
            }
            fn expire(&mut self, now: Micros) {
                self.link.expire(now);
                self.pump(now);
            }
        }
    };
}
node!(DeviceNode, |_| None);
node!(CardNode, |card| {
    let due = card.due.as_ref().into_iter().chain(&card.due_reader);
    due.map(|(at, _)| *at).min()
});

fn ready(seed: u64, faults: Faults, session: Session) -> (Line, DeviceNode, CardNode) {
    let mut line = Line::new(seed, faults);
    let mut device = DeviceNode::new(Micros(0));
    let mut card = CardNode::new(Micros(0), session);
    line.run(&mut device, &mut card, 100_000, |device| {
        device.host.is_ready() || device.host.is_failed()
    });
    (line, device, card)
}

/// A new card begins its session, the pipe is created and opened, commands and answers of any length go; then the same card with what it has kept goes on with its pipe.
#[test]
fn a_session_begins_and_holds() {
    let (mut line, mut device, mut card) = ready(1, Faults::default(), Session::default());
    for (len, answer) in [(1, 0), (5, 0), (600, 149), (28, 7), (27, 6), (29, 1)] {
        let mut command = vec![0x80; len];
        if let Some(second) = command.get_mut(1) {
            *second = answer;
        }
        assert!(device.host.start(line.now, &command));
        line.run(&mut device, &mut card, 20_000, |device| {
            device.host.ended().is_some()
        });
        assert_eq!(device.host.ended(), Some(Ended::Answer(&answer_to(&command)[..])));
        assert_eq!(card.ran.pop(), Some(command));
    }
    assert_eq!(card.kept.identity, FRESH);
    let pipes: Vec<_> = card.kept.pipes.iter().flatten().collect();
    assert_eq!((pipes.len(), pipes[0].pipe, pipes[0].gate), (1, 0x19, GATE_APDU));
    // Power off and on, at both ends of the link alone.
    let kept = card.kept;
    let mut card = CardNode::new(line.now, kept);
    device.link = Link::new(line.now, Role::Device, 4, false, LINK);
    device.host.linked(line.now);
    line.clear();
    line.run(&mut device, &mut card, 100_000, |device| device.host.is_ready());
    assert_eq!(card.kept, kept);
    assert!(device.host.start(line.now, &[0x80, 1]));
    line.run(&mut device, &mut card, 20_000, |device| {
        device.host.ended().is_some()
    });
    assert!(matches!(device.host.ended(), Some(Ended::Answer(_))));
    assert_eq!(card.resets, 0);
    // Too long for the buffers, and nothing.
    for command in [&[0x80; 601][..], &[]] {
        assert!(device.host.start(line.now, command));
        assert_eq!(device.host.ended(), Some(Ended::NotRun(Fault::TooLong)));
    }
}

const BURST: Faults = Faults {
    lose: 50,
    flip: 50,
    duplicate: 50,
    late: 50,
    split: 0,
    burst: 3,
    lateness: 40_000,
    gap: 0,
};

fn command(number: u8, rng: &mut Rng) -> Vec<u8> {
    let mut command = vec![0x80, rng.below(60) as u8, number];
    command.resize(3 + rng.below(200) as usize, 0x5A);
    command
}

fn check(device: &DeviceNode, card: &CardNode, sent: &[u8]) -> usize {
    judge(device.host.ended().unwrap(), &card.ran, sent)
}

fn check_reader(device: &DeviceNode, card: &CardNode, sent: &[u8]) -> usize {
    judge(device.host.reader_ended().unwrap(), &card.ran_reader, sent)
}

/// 0 for an answer, which is that of the command, run once; 1 for one that was not run; 2 for an unknown one.
fn judge(ended: Ended<'_>, ran: &[Vec<u8>], sent: &[u8]) -> usize {
    let runs = ran.iter().filter(|ran| *ran == sent).count();
    assert_eq!(
        ran.iter().filter(|ran| ran.get(2) == sent.get(2)).count(),
        runs,
        "a command that nobody sent"
    );
    match ended {
        Ended::Answer(answer) => {
            assert_eq!((answer, runs), (&answer_to(sent)[..], 1));
            0
        }
        Ended::NotRun(_) => {
            assert_eq!(runs, 0);
            1
        }
        Ended::Unknown(_) => {
            assert!(runs < 2, "run twice");
            2
        }
    }
}

/// With at most three losses, flips, duplicates or late frames in a row every exchange completes, run once; while it asks for time, too.
#[test]
fn within_three_faults_in_a_row_every_exchange_completes() {
    for seed in 0..40 {
        let mut rng = Rng::new(seed + 1000);
        let (mut line, mut device, mut card) = ready(seed, BURST, Session::default());
        assert!(device.host.is_ready(), "seed {seed}");
        for number in 0..6 {
            card.takes = if number % 3 == 2 { 9_000_000 } else { 0 };
            let sent = command(number, &mut rng);
            assert!(device.host.start(line.now, &sent));
            line.run(&mut device, &mut card, 20_000, |device| {
                device.host.ended().is_some()
            });
            assert_eq!(
                check(&device, &card, &sent),
                0,
                "seed {seed}, exchange {number}: {:?}",
                device.host.ended()
            );
        }
    }
}

/// At any rate of faults, with links that are set up anew, each exchange ends, its answer is its own, and nothing runs twice. After an unknown one ABORT goes first.
#[test]
fn at_any_rate_of_faults_nothing_runs_twice() {
    let mut all = [0_u32; 3];
    for rate in [50, 100, 170, 220] {
        let mut came = [0_u32; 3];
        for seed in 0..40 {
            let faults = Faults {
                lose: rate,
                flip: rate,
                duplicate: rate / 4,
                late: rate / 4,
                burst: 0,
                ..BURST
            };
            let mut rng = Rng::new(seed + 2000);
            let (mut line, mut device, mut card) = ready(seed * 5 + rate, faults, Session::default());
            for number in 0..5 {
                let sent = command(number, &mut rng);
                if !device.host.start(line.now, &sent) {
                    came[1] += 1;
                    continue;
                }
                line.run(&mut device, &mut card, 100_000, |device| {
                    device.host.ended().is_some()
                });
                came[check(&device, &card, &sent)] += 1;
                line.run(&mut device, &mut card, 100_000, |device| {
                    device.host.is_ready() || device.host.is_failed()
                });
            }
        }
        println!(
            "HCI, {} % of frames disturbed: {came:?} of 200 answered, not run, unknown",
            rate / 4
        );
        all = std::array::from_fn(|at| all[at] + came[at]);
    }
    assert!(all.iter().all(|came| *came > 0), "{all:?}");
}

/// A card that loses its power, or falls silent, at each step: an end that says so.
#[test]
fn after_a_reset_or_silence_there_is_an_end_that_says_so() {
    let mut came = [0_u32; 3];
    for silent in [false, true] {
        for steps in 0..60 {
            let (mut line, mut device, mut card) = ready(1, Faults::default(), Session::default());
            let mut sent = vec![0x80, 60, 1];
            sent.resize(200, 1);
            assert!(device.host.start(line.now, &sent));
            for _ in 0..steps {
                if device.host.ended().is_none() {
                    line.step(&mut device, &mut card);
                }
            }
            let done = device.host.ended().is_some();
            if silent {
                line.cut = [true; 2];
                line.run(&mut device, &mut card, 20_000, |device| {
                    device.host.ended().is_some()
                });
            } else {
                line.clear();
                device.host.linked(line.now);
            }
            let end = check(&device, &card, &sent);
            if let Ended::NotRun(why) | Ended::Unknown(why) = device.host.ended().unwrap() {
                assert!(matches!(why, Fault::Reset | Fault::Silent), "{why:?}");
            } else {
                assert!(done || silent);
            }
            came[end] += 1;
        }
    }
    assert!(came.iter().all(|came| *came > 0), "{came:?}");
}

fn both_ended(device: &DeviceNode) -> bool {
    device.host.ended().is_some() && device.host.reader_ended().is_some()
}

fn reader_ready(device: &DeviceNode) -> bool {
    let is_ready = [Technology::A, Technology::B].map(|by| device.host.reader_is_ready(by));
    is_ready == [true, true] && device.host.is_ready()
}

/// A reader's exchanges beside those of the APDU gate, at once, by type A and type B in turn, with at most three faults in a row: all complete, each run once, and each change of type is a new field.
#[test]
fn a_reader_and_the_apdu_gate_do_not_disturb_each_other() {
    for (seed, faults) in [
        (1, Faults::default()),
        (2, BURST),
        (3, BURST),
        (4, BURST),
        (5, BURST),
    ] {
        let mut rng = Rng::new(seed + 3000);
        let (mut line, mut device, mut card) = ready(seed, faults, Session::default());
        line.run(&mut device, &mut card, 100_000, reader_ready);
        assert!(reader_ready(&device), "seed {seed}");
        for number in 0..8 {
            card.takes = if number % 3 == 2 { 9_000_000 } else { 0 };
            let sent = [0, 100].map(|more| command(number + more, &mut rng));
            let by = if number / 2 % 2 == 0 {
                Technology::A
            } else {
                Technology::B
            };
            assert!(device.host.start(line.now, &sent[0]));
            assert!(device.host.start_reader(line.now, by, &sent[1]));
            line.run(&mut device, &mut card, 40_000, both_ended);
            assert_eq!(check(&device, &card, &sent[0]), 0, "seed {seed}, {number}");
            assert_eq!(check_reader(&device, &card, &sent[1]), 0, "seed {seed}, {number}");
        }
        let chosen: Vec<_> = card
            .field
            .iter()
            .filter(|(_, on)| *on)
            .map(|(by, _)| *by)
            .collect();
        use Technology::{A, B};
        assert_eq!(chosen, [A, B, A, B], "seed {seed}");
        assert_eq!(card.resets, 0);
        device.host.leave_reader(line.now);
        for _ in 0..200 {
            if card.field.last() != Some(&(Technology::B, false)) {
                line.step(&mut device, &mut card);
            }
        }
        assert_eq!(card.field.last(), Some(&(Technology::B, false)));
    }
}

/// At any rate of faults a reader's exchange ends, its answer is its own, and nothing runs twice; a field that goes in the middle is told.
#[test]
fn at_any_rate_of_faults_a_reader_gets_its_own_answer_or_none() {
    let mut all = [0_u32; 3];
    for rate in [50, 120, 220] {
        let mut came = [0_u32; 3];
        for seed in 0..30 {
            let faults = Faults {
                lose: rate,
                flip: rate,
                duplicate: rate / 4,
                late: rate / 4,
                burst: 0,
                ..BURST
            };
            let mut rng = Rng::new(seed + 4000);
            let (mut line, mut device, mut card) = ready(seed * 7 + rate, faults, Session::default());
            line.run(&mut device, &mut card, 50_000, |device| {
                reader_ready(device) || device.host.is_failed()
            });
            for number in 0..6 {
                card.takes = if number % 2 == 1 { 2_000_000 } else { 0 };
                let sent = command(number, &mut rng);
                let by = if rng.below(3) == 0 {
                    Technology::B
                } else {
                    Technology::A
                };
                if !device.host.start_reader(line.now, by, &sent) {
                    came[1] += 1;
                    continue;
                }
                // Every third reader is taken away while its command may run.
                let steps = if number % 3 == 2 { rng.below(40) } else { 100_000 };
                for _ in 0..steps {
                    if device.host.reader_ended().is_some() {
                        break;
                    }
                    line.step(&mut device, &mut card);
                }
                if device.host.reader_ended().is_none() {
                    device.host.leave_reader(line.now);
                }
                came[check_reader(&device, &card, &sent)] += 1;
            }
            line.run(&mut device, &mut card, 100_000, |device| {
                device.host.is_ready() || device.host.is_failed()
            });
        }
        println!(
            "card gates, {} % of frames disturbed: {came:?} of 180 answered, not run, unknown",
            rate / 4
        );
        all = std::array::from_fn(|at| all[at] + came[at]);
    }
    assert!(all.iter().all(|came| *came > 0), "{all:?}");
}

/// A reader that is taken away, a card that loses its power, or falls silent, at each step of an exchange: an end that says so, and the next exchange has its own answer.
#[test]
fn a_reader_that_goes_at_any_step_leaves_no_answer_behind() {
    let mut came = [0_u32; 3];
    for how in 0..3 {
        for steps in 0..60 {
            let (mut line, mut device, mut card) = ready(1, Faults::default(), Session::default());
            line.run(&mut device, &mut card, 100_000, reader_ready);
            card.takes = 50_000;
            let mut sent = vec![0x80, 60, 1];
            sent.resize(200, 1);
            assert!(device.host.start_reader(line.now, Technology::A, &sent));
            for _ in 0..steps {
                if device.host.reader_ended().is_none() {
                    line.step(&mut device, &mut card);
                }
            }
            let done = device.host.reader_ended().is_some();
            match how {
                0 => device.host.leave_reader(line.now),
                1 => {
                    line.clear();
                    device.host.linked(line.now);
                }
                _ => {
                    line.cut = [true; 2];
                    line.run(&mut device, &mut card, 20_000, |device| {
                        device.host.reader_ended().is_some()
                    });
                }
            }
            let end = check_reader(&device, &card, &sent);
            if let Ended::NotRun(why) | Ended::Unknown(why) = device.host.reader_ended().unwrap() {
                assert!(matches!(why, Fault::Reset | Fault::Silent), "{why:?}");
            } else {
                assert!(done || how == 2);
            }
            came[end] += 1;
            if how == 0 {
                let next = [0x80, 3, 2];
                while !device.host.start_reader(line.now, Technology::A, &next) {
                    line.step(&mut device, &mut card);
                }
                line.run(&mut device, &mut card, 20_000, |device| {
                    device.host.reader_ended().is_some()
                });
                assert_eq!(check_reader(&device, &card, &next), 0, "{steps}");
            }
        }
    }
    assert!(came.iter().all(|came| *came > 0), "{came:?}");
}
