//! T=1: published blocks bit for bit, the table of errors, and both ends over a line with faults.

use crate::line;
use line::{Faults, Line, Node, Rng};
use sekisho_block::atr::BlockParameters;
use sekisho_block::t1::{BLOCK_MAX, Card, Device, Timing};
use sekisho_block::{Ended, Fault, Micros};

const TIMING: Timing = Timing {
    cwt: 10_000,
    bwt: 1_000_000,
    guard: 10_000,
};
/// Where whole records come.
const RECORDS: Timing = Timing { guard: 0, ..TIMING };

struct DeviceNode(Device<600>);

impl Node for DeviceNode {
    fn hear(&mut self, now: Micros, bytes: &[u8]) {
        self.0.hear(now, bytes);
    }
    fn say(&mut self, now: Micros) -> Option<Vec<u8>> {
        let mut out = [0; BLOCK_MAX];
        self.0.say(now, &mut out).map(|len| out[..len].to_vec())
    }
    fn deadline(&self) -> Option<Micros> {
        self.0.deadline()
    }
    fn expire(&mut self, now: Micros) {
        self.0.expire(now);
    }
}

/// A card that answers a command with a digest of it, as long as its second byte says, and keeps what it ran.
struct CardNode {
    card: Card<600>,
    ran: Vec<Vec<u8>>,
    takes: u64,
    due: Option<(Micros, Vec<u8>)>,
}

fn answer_to(command: &[u8]) -> Vec<u8> {
    let sum = command
        .iter()
        .fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte));
    let mut answer: Vec<u8> = (0..usize::from(command[1]) * 2)
        .map(|at| sum.wrapping_add(at as u8))
        .collect();
    answer.extend([0x90, 0x00]);
    answer
}

impl Node for CardNode {
    fn hear(&mut self, now: Micros, bytes: &[u8]) {
        self.card.hear(now, bytes);
    }
    fn say(&mut self, now: Micros) -> Option<Vec<u8>> {
        if let Some(command) = self.card.command().map(<[u8]>::to_vec) {
            self.card.blocks().take();
            self.due = Some((now.after(self.takes), answer_to(&command)));
            self.ran.push(command);
        }
        if let Some((_, answer)) = self.due.take_if(|(at, _)| *at <= now) {
            self.card.blocks().answer(&answer);
        }
        let mut out = [0; BLOCK_MAX];
        self.card.say(&mut out).map(|len| out[..len].to_vec())
    }
    fn deadline(&self) -> Option<Micros> {
        let due = self.due.as_ref().map(|(at, _)| *at);
        [due, self.card.deadline()].into_iter().flatten().min()
    }
    fn expire(&mut self, now: Micros) {
        self.card.expire(now);
    }
}

fn ends(crc: bool) -> (DeviceNode, CardNode) {
    let parameters = BlockParameters {
        crc,
        ..BlockParameters::DEFAULT
    };
    let device = DeviceNode(Device::new(0, parameters, TIMING));
    (
        device,
        CardNode {
            card: Card::new(crc, TIMING),
            ran: Vec::new(),
            takes: 0,
            due: None,
        },
    )
}

/// A command that no other exchange sends.
fn command(number: u32, rng: &mut Rng) -> Vec<u8> {
    let mut command = vec![0x80, rng.below(120) as u8];
    command.extend(number.to_be_bytes());
    command.resize(6 + rng.below(300) as usize, 0x5A);
    command
}

/// What an exchange came to, checked against what the card ran.
fn check(device: &DeviceNode, card: &CardNode, sent: &[u8]) -> [u64; 3] {
    let runs = card.ran.iter().filter(|ran| *ran == sent).count();
    assert_eq!(
        card.ran.iter().filter(|ran| ran[2..6] == sent[2..6]).count(),
        runs,
        "a command that nobody sent"
    );
    match device.0.ended().unwrap() {
        Ended::Answer(answer) => {
            assert_eq!(answer, answer_to(sent));
            assert_eq!(runs, 1, "run {runs} times");
            [1, 0, 0]
        }
        Ended::NotRun(_) => {
            assert_eq!(runs, 0);
            [0, 1, 0]
        }
        Ended::Unknown(_) => {
            assert!(runs < 2, "run twice");
            [0, 0, 1]
        }
    }
}

const BURST: Faults = Faults {
    lose: 50,
    flip: 50,
    duplicate: 50,
    late: 50,
    split: 100,
    burst: 3,
    lateness: 900_000,
    gap: 5_000,
};

/// With at most three losses, flips, duplicates or late blocks in a row every exchange completes, and the card ran each command exactly once; while it asks for time, too.
#[test]
fn within_three_faults_in_a_row_every_exchange_completes() {
    for crc in [false, true] {
        let mut counted = line::Count::default();
        for seed in 0..60 {
            let mut rng = Rng::new(seed + 1000);
            let mut line = Line::new(seed, BURST);
            let (mut device, mut card) = ends(crc);
            for number in 0..8 {
                card.takes = if number % 4 == 3 { 1_700_000 } else { 0 };
                let sent = command(number, &mut rng);
                assert!(device.0.start(&sent));
                line.run(&mut device, &mut card, 20_000, |device| {
                    device.0.ended().is_some()
                });
                let ended = check(&device, &card, &sent);
                assert_eq!(
                    ended,
                    [1, 0, 0],
                    "seed {seed}, exchange {number}: {:?}",
                    device.0.ended()
                );
            }
            counted = line.count;
        }
        assert!(
            counted.lost > 0
                && counted.flipped > 0
                && counted.doubled > 0
                && counted.late > 0
                && counted.split > 0
        );
    }
}

/// At any rate of faults each exchange ends within a bound, its answer is right, and what did not end in one was run at most once. Each way to end comes up.
#[test]
fn at_any_rate_of_faults_nothing_runs_twice() {
    let mut all = [0; 3];
    for rate in [5, 20, 50, 100, 200] {
        let mut came = [0; 3];
        for seed in 0..40 {
            let faults = Faults {
                lose: rate,
                flip: rate,
                duplicate: rate,
                late: rate,
                burst: 0,
                ..BURST
            };
            let mut rng = Rng::new(seed + 2000);
            let mut line = Line::new(seed * 7 + rate, faults);
            let (mut device, mut card) = ends(false);
            for number in 0..6 {
                let sent = command(number, &mut rng);
                assert!(device.0.start(&sent));
                line.run(&mut device, &mut card, 20_000, |device| {
                    device.0.ended().is_some()
                });
                let ended = check(&device, &card, &sent);
                came = std::array::from_fn(|at| came[at] + ended[at]);
            }
        }
        println!(
            "T=1, {}.{} % of blocks disturbed: {came:?} of 240 answered, not run, unknown",
            rate * 4 / 10,
            rate * 4 % 10
        );
        all = std::array::from_fn(|at| all[at] + came[at]);
    }
    assert!(all.iter().all(|came| *came > 0), "{all:?}");
}

/// A reset at each step of an exchange, also inside a chain, is never passed over: not run, or unknown. A card that falls silent at any step likewise, within a bound of virtual time.
#[test]
fn after_a_reset_or_silence_there_is_an_end_that_says_so() {
    let mut came = [[0; 3]; 2];
    for silent in [false, true] {
        for step in 0..120 {
            let mut line = Line::new(1, Faults::default());
            let (mut device, mut card) = ends(false);
            let mut sent = vec![0x80, 100, 0, 0, 0, 1];
            sent.resize(200, 1);
            assert!(device.0.start(&sent));
            for _ in 0..step {
                if device.0.ended().is_none() {
                    line.step(&mut device, &mut card);
                }
            }
            let done = device.0.ended().is_some();
            if silent {
                line.cut = [true; 2];
                line.run(&mut device, &mut card, 100, |device| device.0.ended().is_some());
                assert!(line.now < Micros(20_000_000), "{:?}", line.now);
            } else {
                line.clear();
                card.card = Card::new(false, TIMING);
                device.0.reset();
            }
            let ended = check(&device, &card, &sent);
            let fault = if silent { Fault::Silent } else { Fault::Reset };
            match device.0.ended().unwrap() {
                Ended::Answer(_) => assert!(done || silent),
                Ended::NotRun(why) | Ended::Unknown(why) => assert_eq!(why, fault),
            }
            came[usize::from(silent)] = std::array::from_fn(|at| came[usize::from(silent)][at] + ended[at]);
        }
    }
    assert!(came.iter().flatten().all(|came| *came > 0), "{came:?}");
}

fn hexed(bytes: &[u8]) -> String {
    hex::encode_upper(bytes)
}

/// What a card answers to blocks, one after another.
fn card_says(blocks: &[(&str, &str)]) {
    let mut card = Card::<600>::new(false, RECORDS);
    let mut now = Micros(0);
    for (heard, said) in blocks {
        card.hear(now, &hex::decode(heard).unwrap());
        now = now.after(20_000);
        card.expire(now);
        card.run(|command, answer| {
            let bytes: &[u8] = if command[1] == 0x84 {
                &[0x11, 0x22, 0x33, 0x44, 0x90, 0x00]
            } else {
                &[0x6A, 0x82]
            };
            answer[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        });
        let mut out = [0; BLOCK_MAX];
        let len = card.say(&mut out).unwrap_or(0);
        assert_eq!(hexed(&out[..len]), *said, "to {heard}");
    }
}

/// Blocks as open hosts send them and cards answer them (LudovicRousseau/CCID's T=1, GnuPG with its NAD 10), LRC recomputed.
#[test]
fn published_blocks_are_answered_bit_for_bit() {
    card_says(&[
        ("00C101FE3E", "00E101FE1E"),
        ("00000500A4040000A5", "0000026A82EA"),
        ("0040050084000004C5", "00400611223344900092"),
    ]);
    card_says(&[("10000500A4040000B5", "0100026A82EB")]);
    card_says(&[
        ("00200600D600000401F5", "00900090"),
        ("004002020343", "0000026A82EA"),
    ]);
    card_says(&[("00C000C0", "00E000E0"), ("00C200C2", "00E200E2")]);
}

/// The card's column of the table of errors.
#[test]
fn a_card_answers_errors_as_the_table_says() {
    // Damaged, then the same again. A copy of the command, and R with its number: the last answer again. R with the other: nothing new has come.
    card_says(&[
        ("00000500A4040000A4", "00810081"),
        ("00000500A4040000A5", "0000026A82EA"),
        ("00000500A4040000A5", "0000026A82EA"),
        ("00800080", "0000026A82EA"),
        ("00900090", "00900090"),
    ]);
    // LEN FF, an unknown PCB, a PCB of T=1' alone, N(S) 1 first, a NAD of one end.
    card_says(&[
        ("0000FF00", "00820082"),
        ("00010001", "00820082"),
        ("00C400C4", "00820082"),
        ("00400040", "00820082"),
        ("11000011", "00820082"),
    ]);
    // RESYNCH in any state, twice; numbers are 0 again.
    card_says(&[
        ("00000500A4040000A5", "0000026A82EA"),
        ("00C000C0", "00E000E0"),
        ("00C000C0", "00E000E0"),
        ("00000500A4040000A5", "0000026A82EA"),
    ]);
    // IFS 00 and FF; WTX from a device; a late response.
    card_says(&[
        ("00C10100C0", "00820082"),
        ("00C101FF3F", "00820082"),
        ("00C30101C3", "00820082"),
        ("00E30101E3", ""),
    ]);
}

/// The worked exchange of `docs/spec/transports.md`, section 2.
#[test]
fn the_page_shows_an_exchange_that_happens() {
    let page = include_str!("../../../../docs/spec/transports.md");
    let block = page.split("```t1\n").nth(1).unwrap().split("```").next().unwrap();
    let lines: Vec<_> = block.lines().map(|line| line.split_at(2)).collect();
    let pairs: Vec<_> = lines
        .chunks(2)
        .map(|pair| {
            assert_eq!((pair[0].0, pair[1].0), ("> ", "< "));
            (pair[0].1, pair[1].1)
        })
        .collect();
    assert_eq!(pairs.len(), 7);
    card_says(&pairs);
}

/// A card that does not stop: with WTX, S(IFS), R of either number, copies, empty blocks of a chain, or damage. Each has a bound, and the outcome is unknown.
#[test]
fn a_card_that_does_not_stop_gets_a_bound() {
    for (blocks, at_most, why) in [
        (&["00C30101C3"][..], 501, Fault::Protocol),
        (&["00C10101C1"], 501, Fault::Protocol),
        (&["00800080"], 4, Fault::Garbled),
        (&["00900090"], 4, Fault::Garbled),
        (&["00820082", "00920092"], 4, Fault::Garbled),
        (&["004002900052"], 4, Fault::Garbled),
        (&["00400290 00D2"], 17, Fault::Garbled),
        (&["00200020", "00600060"], 501, Fault::Protocol),
        (&["0000019091"], 1, Fault::Protocol),
        // WTX with the multiplier 0, with none, with two; IFS 00 and FF: no time and no length that a card can ask for.
        (&["00C30100C2"], 1, Fault::Protocol),
        (&["00C300C3"], 1, Fault::Protocol),
        (&["00C302010ACA"], 1, Fault::Protocol),
        (&["00C10100C0"], 1, Fault::Protocol),
        (&["00C101FF3F"], 1, Fault::Protocol),
        // RESYNCH, which a card must not ask for.
        (&["00C000C0"], 4, Fault::Protocol),
        (&["00C200C2"], 1, Fault::Aborted),
    ] {
        let mut device = Device::<600>::new(0, BlockParameters::DEFAULT, RECORDS);
        let mut out = [0; BLOCK_MAX];
        let mut now = Micros(0);
        device.start(&[0x80, 1, 2, 3]);
        device.say(now, &mut out).unwrap();
        let mut heard = 0;
        while device.ended().is_none() {
            let block = blocks[heard % blocks.len()].replace(' ', "");
            device.hear(now, &hex::decode(block).unwrap());
            now = now.after(TIMING.cwt);
            device.expire(now);
            device.say(now, &mut out);
            heard += 1;
            assert!(heard <= at_most, "{blocks:?}");
        }
        assert_eq!(device.ended(), Some(Ended::Unknown(why)), "{blocks:?}");
        assert_eq!(heard, at_most, "{blocks:?}");
        // No command goes before a RESYNCH.
        assert!(device.start(&[0x80, 1, 2, 3]));
        let len = device.say(now, &mut out).unwrap();
        assert_eq!(hexed(&out[..len]), "00C000C0");
    }
}

/// A flip that makes LEN shorter, with an LRC that fits by chance: what comes behind it within the guard time shows it, in one piece or two.
#[test]
fn a_block_that_a_flip_shortened_is_seen_by_what_comes_behind_it() {
    // 00 00 05 .. and with LEN 01: an LRC that is right after one byte of INF.
    let block = hex::decode("0000010001A400A5").unwrap();
    for (guard, pieces, taken) in [
        (10_000, &[8][..], false),
        (10_000, &[5, 3], false),
        (10_000, &[2, 3, 3], false),
        (0, &[8], false),
        // A guard time shorter than the line's gaps sees nothing.
        (0, &[5, 3], true),
        // What is here at the same time is seen.
        (0, &[5, 0, 3], false),
    ] {
        let mut card = Card::<600>::new(false, Timing { guard, ..TIMING });
        let mut now = Micros(0);
        let mut at = 0;
        let gap = if pieces.contains(&0) { 0 } else { 5_000 };
        for piece in pieces {
            now = now.after(gap);
            card.expire(now);
            card.hear(now, &block[at..at + piece]);
            at += piece;
        }
        card.expire(now.after(10_000));
        assert_eq!(card.command().is_some(), taken, "{guard} {pieces:?}");
    }
}

/// What was said is nowhere when it is over: commands when they are answered, answers when the next command comes or the exchange has failed.
#[test]
fn commands_and_answers_are_overwritten() {
    let marks = |node: &dyn std::fmt::Debug, byte: u8| {
        format!("{node:?}").contains(&format!("{byte}, {byte}, {byte}"))
    };
    let mut line = Line::new(1, Faults::default());
    let (mut device, mut card) = ends(false);
    let mut sent = vec![0x80, 100, 0, 0, 0, 1];
    sent.resize(200, 0xC7);
    for number in 0..2 {
        assert!(device.0.start(&sent));
        line.run(&mut device, &mut card, 20_000, |device| {
            device.0.ended().is_some()
        });
        assert!(!marks(&device.0, 0xC7) && !marks(&card.card, 0xC7));
        sent = vec![0x80, 0, 0, 0, 0, number];
    }
    let next = answer_to(&[0x80, 100]);
    assert!(!format!("{:?}", device.0).contains(&format!("{}, {}, {}", next[0], next[1], next[2])));
    // Given up.
    sent = vec![0xC7; 200];
    assert!(device.0.start(&sent));
    let mut out = [0; BLOCK_MAX];
    device.0.say(line.now, &mut out).unwrap();
    card.card.hear(line.now, &out[..36]);
    device.0.reset();
    assert!(!marks(&device.0, 0xC7));
    assert!(marks(&card.card, 0xC7));
    card.card.hear(line.now.after(1), &[]);
    card.card.expire(line.now.after(20_000));
    card.card
        .hear(line.now.after(20_000), &hex::decode("00C000C0").unwrap());
    card.card.expire(line.now.after(50_000));
    assert!(!marks(&card.card, 0xC7));
}
