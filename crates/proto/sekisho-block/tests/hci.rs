//! HCI: packets, the session's beginning, the APDU gate, and both hosts over SWP links with faults.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "helpers of tests are tests"
)]

mod line;

use line::{Faults, Line, Node, Rng};
use sekisho_block::hci::ids::{GATE_APDU, HOST_UICC};
use sekisho_block::hci::{self, Buffer, Kind, Session};
use sekisho_block::swp::{self, Event, FRAME_MAX, INFORMATION_MAX, Link, Role};
use sekisho_block::{Ended, Fault, Micros};

const LEN: usize = 601;
const TIMING: hci::Timing = hci::Timing {
    wait: 4_000_000,
    response: 1_000_000,
};
const LINK: swp::Timing = swp::Timing {
    activation: 60_000,
    acknowledge: 5_000,
    retransmit: 300_000,
    connect: 100_000,
};
const ATR: [u8; 5] = [0x3B, 0x80, 0x80, 0x01, 0x01];
const FRESH: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
/// A card that takes the device's own default for its session.
const DEFAULT: Session = Session {
    identity: [0xFF; 8],
    pipes: [None; 4],
};

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
            host: hci::Card::new(TIMING, &ATR, session, FRESH),
            ran: Vec::new(),
            takes: 0,
            due: None,
            resets: 0,
            kept: session,
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
node!(CardNode, |card| card.due.as_ref().map(|(at, _)| *at));

/// The worked exchange of `docs/spec/transports.md`, section 6: packets of each host, which says what the page says when it hears what the page says.
#[test]
fn the_page_shows_an_exchange_that_happens() {
    let page = include_str!("../../../../docs/spec/transports.md");
    let block = page
        .split("```hci\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let mut card = hci::Card::<LEN>::new(TIMING, &ATR, DEFAULT, FRESH);
    let mut device = hci::Device::<LEN>::new(TIMING, HOST_UICC, 0x19);
    card.linked();
    device.linked(Micros(0));
    let mut now = Micros(0);
    let mut out = [0; INFORMATION_MAX];
    let mut lines = 0;
    for text in block.lines() {
        let (mark, packet) = text.split_at(2);
        let said = if mark == "> " {
            if device.packet(&mut out).is_none() {
                now = now.after(TIMING.response);
                device.expire(now);
            }
            if device.is_ready() {
                device.start(now, &[0x00, 0xA4, 0x04, 0x00, 0x00]);
            }
            let len = device.packet(&mut out).unwrap();
            device.sent();
            card.hear(&out[..len]);
            len
        } else {
            if card.command().is_some() {
                card.take(now);
                card.answer(&[0x6A, 0x82]);
            }
            let len = card.packet(&mut out).unwrap();
            card.sent();
            device.hear(now, &out[..len]);
            len
        };
        assert_eq!(hex::encode_upper(&out[..said]), packet);
        lines += 1;
    }
    assert_eq!(lines, 10);
    assert_eq!(device.ended(), Some(Ended::Answer(&[0x6A, 0x82])));
}

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

fn card_says(card: &mut hci::Card<LEN>, heard: &str) -> String {
    card.hear(&hex::decode(heard.replace(' ', "")).unwrap());
    let mut out = [0; INFORMATION_MAX];
    match card.packet(&mut out) {
        Some(len) => {
            card.sent();
            hex::encode_upper(&out[..len])
        }
        None => String::new(),
    }
}

/// Gates and registries: loopback, identity, link management, the APDU gate's two sizes; closed pipes, unknown parameters, full, deleted, cleared.
#[test]
fn gates_answer_as_the_table_says() {
    let mut card = hci::Card::<LEN>::new(TIMING, &ATR, DEFAULT, FRESH);
    for (heard, said) in [
        ("81 12 01 11 02 30 19", "8180"),
        ("81 12 01 11 02 30 19", "8183"),
        ("81 12 01 11 02 77 1A", "8183"),
        ("81 12 01 11 02 30 01", "8183"),
        ("81 12 01 11 02 30", "8183"),
        ("81 12 01 04 02 04 02", "8180"),
        ("81 12 01 05 02 05 03", "8180"),
        ("81 12 00 05 02 05 04", "8180"),
        ("81 12 00 05 02 05 05", "8184"),
        ("81 10", "8187"),
        // Closed, then open.
        ("99 02 01", "9986"),
        ("99 03", "9980"),
        ("99 02 01", "99800258"),
        ("99 02 02", "99800FA0"),
        ("99 02 03", "9985"),
        ("99 01 01 00", "998A"),
        ("99 05", "9987"),
        ("82 42 AA BB", ""),
        ("82 03", "8280"),
        ("82 42 AA BB", "8242AABB"),
        ("83 03", "8380"),
        ("83 02 02", "838002"),
        ("83 02 06", "838004050630"),
        ("80 02 01", "80800000"),
        // A message in two packets; one that is too long.
        ("02 42 AA", ""),
        ("82 BB", "8242AABB"),
        // Events of the APDU gate.
        ("99 51", "99523B80800101"),
        ("99 61", ""),
        ("99 50", ""),
        ("99 04", "9980"),
        ("99 50 00A4040000", ""),
        ("81 13 19", "8180"),
        ("99 03", ""),
        ("81 15 01", "8180"),
        ("82 03", ""),
        ("84 03", "8480"),
    ] {
        assert_eq!(card_says(&mut card, heard), said, "{heard}");
        assert_eq!(card.command(), None);
    }
}

/// A second command while one runs is passed over; ABORT drops it, and its answer; the late answer of a dropped command is nobody's.
#[test]
fn one_command_at_a_time() {
    let mut card = hci::Card::<LEN>::new(TIMING, &ATR, DEFAULT, FRESH);
    for heard in ["8112 0111 0230 19", "9903"] {
        card_says(&mut card, heard);
    }
    assert_eq!(card_says(&mut card, "9950 00A4040000"), "");
    assert_eq!(card.command(), Some(&[0, 0xA4, 4, 0, 0][..]));
    card.take(Micros(0));
    assert_eq!(card_says(&mut card, "9950 0084000008"), "");
    let at = card.deadline().unwrap();
    assert_eq!(at, Micros(TIMING.wait / 2));
    card.expire(at);
    assert_eq!(card_says(&mut card, ""), "9951");
    assert_eq!(card_says(&mut card, "9951"), "99523B80800101");
    assert!(card.reset_wanted());
    card.answer(&[0x90, 0x00]);
    assert_eq!(card_says(&mut card, ""), "");
    assert_eq!(card_says(&mut card, "9950 0084000008"), "");
    assert_eq!(card.command(), Some(&[0, 0x84, 0, 0, 8][..]));
    card.take(Micros(0));
    card.answer(&[]);
    assert_eq!(card_says(&mut card, ""), "99506F00");
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
    let runs = card.ran.iter().filter(|ran| *ran == sent).count();
    assert_eq!(
        card.ran.iter().filter(|ran| ran.get(2) == sent.get(2)).count(),
        runs,
        "a command that nobody sent"
    );
    match device.host.ended().unwrap() {
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

/// A card that does not stop asking for time, or that answers before it was asked, or with nothing.
#[test]
fn a_card_that_does_not_stop_gets_a_bound() {
    for (heard, at_most, why) in [
        ("9951", 501, Fault::Protocol),
        ("9950", 1, Fault::Protocol),
        ("995090", 1, Fault::Protocol),
    ] {
        let mut device = hci::Device::<LEN>::new(TIMING, HOST_UICC, 0x19);
        let mut out = [0; INFORMATION_MAX];
        device.linked(Micros(0));
        device.hear(Micros(0), &[0x81, 0x02, 0x01]);
        for response in [&[0x81, 0x80][..], &[0x99, 0x80]] {
            device.expire(device.deadline().unwrap());
            while device.packet(&mut out).is_some() {
                device.sent();
            }
            device.hear(Micros(0), response);
        }
        assert!(device.is_ready() && device.start(Micros(0), &[0x80, 0]));
        while device.packet(&mut out).is_some() {
            device.sent();
        }
        let mut heards = 0;
        while device.ended().is_none() {
            device.hear(Micros(0), &hex::decode(heard).unwrap());
            heards += 1;
        }
        assert_eq!(
            (device.ended(), heards),
            (Some(Ended::Unknown(why)), at_most),
            "{heard}"
        );
    }
}

/// Any packets at both hosts.
#[test]
fn any_packets_are_taken() {
    let mut rng = Rng::new(8);
    for _ in 0..2_000 {
        let mut card = hci::Card::<40>::new(TIMING, &ATR, DEFAULT, FRESH);
        let mut device = hci::Device::<40>::new(TIMING, HOST_UICC, 0x19);
        let mut now = Micros(0);
        card.hear(&[0x81, 0x12, 1, 0x11, 2, 0x30, 0x19]);
        card.hear(&[0x99, 3]);
        for _ in 0..60 {
            let mut bytes: Vec<u8> = (0..rng.below(29))
                .map(|_| [0x50, 0x51, 0x80, 3, 2, rng.below(256) as u8][rng.below(6) as usize])
                .collect();
            if let Some(first) = bytes.first_mut() {
                *first = [0x81, 0x99, 0x19, 0x82, *first][rng.below(5) as usize];
            }
            let mut out = [0; INFORMATION_MAX];
            card.hear(&bytes);
            device.hear(now, &bytes);
            if card.command().is_some() {
                card.take(now);
                card.answer(&bytes);
            }
            device.start(now, &[1, 2, 3]);
            for _ in 0..rng.below(3) {
                let _ = (card.packet(&mut out), device.packet(&mut out));
                card.sent();
                device.sent();
            }
            now = now.after(rng.below(3_000_000));
            card.expire(now);
            device.expire(now);
        }
    }
}

/// What is cut is put together; fragments of another pipe begin anew, what is too long is passed over.
#[test]
fn packets_make_messages() {
    let mut out = [0; INFORMATION_MAX];
    for len in [0, 1, 26, 27, 28, 29, 55, 56, 99] {
        let data: Vec<u8> = (0..len).collect();
        let mut from = Buffer::<100>::default();
        let mut to = Buffer::<100>::default();
        let mut small = Buffer::<10>::default();
        assert!(from.put(0x19, Kind::Event.header(0x10), &data));
        let mut whole = false;
        while let Some(n) = from.packet(&mut out) {
            from.sent();
            whole = to.take(&out[..n]);
            assert_eq!(whole, from.is_empty());
            assert_eq!(small.take(&out[..n]), whole && len < 10);
        }
        assert!(whole);
        let message = to.message().unwrap();
        assert_eq!(
            (message.pipe, message.kind, message.instruction, message.data),
            (0x19, Kind::Event, 0x10, &data[..])
        );
        assert!(!small.take(&[0x19]) && small.take(&[0x82, 0x42]));
    }
    assert!(!Buffer::<10>::default().put(1, 0, &[0; 10]));
    assert!(!Buffer::<10>::default().take(&[0x81]));
    assert!(!Buffer::<10>::default().take(&[]));
}
