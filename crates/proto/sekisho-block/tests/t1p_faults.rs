//! T=1' with faults: both ends over a bus that loses, flips, doubles and delays, resets and silence, any bytes.

use crate::bus;
use crate::line;
use bus::{BLOCK, CardNode, DeviceNode, Wire, answer_to, parameters};
use line::{Faults, Rng};
use sekisho_block::t1p::{
    Access, Bus, NAD_GP, ORDER_CIP_FIRST, ORDER_RESET_FIRST, ORDER_RESYNCH_FIRST, Step,
};
use sekisho_block::{Ended, Fault, Micros};

const BUSES: [Bus; 2] = [Bus::Spi, Bus::I2c];
const ORDERS: [&[Step]; 3] = [ORDER_RESYNCH_FIRST, ORDER_CIP_FIRST, ORDER_RESET_FIRST];

fn opened(bus: Bus, seed: u64, faults: Faults) -> (Wire, DeviceNode, CardNode) {
    let mut wire = Wire::new(bus, seed, faults);
    let mut card = CardNode::new(Micros(0), &parameters(bus, 40));
    let first = [4, 6, 7, 1][seed as usize % 4];
    let mut device = DeviceNode::new(Micros(0), bus, NAD_GP, first);
    assert!(device.open(Micros(0), ORDERS[seed as usize % 3]));
    wire.run(&mut device, &mut card, |device| device.opened().is_some());
    (wire, device, card)
}

fn command(number: u8, rng: &mut Rng) -> Vec<u8> {
    let mut command = vec![0x80, rng.below(12) as u8, number];
    command.resize(3 + rng.below(90) as usize, 0x5A);
    command
}

fn check(device: &DeviceNode, card: &CardNode, sent: &[u8]) -> usize {
    let runs = card.ran.iter().filter(|(_, ran)| ran == sent).count();
    assert_eq!(
        card.ran.iter().filter(|(_, ran)| ran[2] == sent[2]).count(),
        runs,
        "a command that nobody sent"
    );
    match device.ended().unwrap() {
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

const BURST: Faults = Faults {
    lose: 50,
    flip: 50,
    duplicate: 50,
    late: 50,
    split: 0,
    burst: 3,
    lateness: 200_000,
    gap: 0,
};

/// With at most three losses, flips, duplicates or late blocks in a row every session opens and every exchange completes, run once; while it asks for time, too.
#[test]
fn within_three_faults_in_a_row_every_exchange_completes() {
    for bus in BUSES {
        let mut count = bus::Count::default();
        for seed in 0..60 {
            let mut rng = Rng::new(seed + 1000);
            let (mut wire, mut device, mut card) = opened(bus, seed, BURST);
            assert_eq!(device.opened(), Some(Ok(())), "seed {seed}");
            for number in 0..8 {
                card.takes = if number % 4 == 3 { 700_000 } else { 0 };
                let sent = command(number, &mut rng);
                assert!(device.start(wire.now, &sent));
                wire.run(&mut device, &mut card, |device| device.ended().is_some());
                assert_eq!(
                    check(&device, &card, &sent),
                    0,
                    "{bus:?}, seed {seed}, exchange {number}: {:?}",
                    device.ended()
                );
            }
            count.add(wire.count);
        }
        assert!(
            count.lost > 0 && count.flipped > 0 && count.doubled > 0 && count.late > 0,
            "{count:?}"
        );
    }
}

/// At any rate of faults each exchange ends within a bound, its answer is right, and what did not end in one was run at most once.
#[test]
fn at_any_rate_of_faults_nothing_runs_twice() {
    let mut all = [0_u32; 3];
    for rate in [20, 50, 100, 200] {
        let mut came = [0_u32; 3];
        for seed in 0..40 {
            let bus = BUSES[seed as usize % 2];
            let faults = Faults {
                lose: rate,
                flip: rate,
                duplicate: rate,
                late: rate,
                burst: 0,
                ..BURST
            };
            let mut rng = Rng::new(seed + 2000);
            let (mut wire, mut device, mut card) = opened(bus, seed * 7 + rate, faults);
            for number in 0..6 {
                let sent = command(number, &mut rng);
                assert!(device.start(wire.now, &sent));
                wire.run(&mut device, &mut card, |device| device.ended().is_some());
                came[check(&device, &card, &sent)] += 1;
            }
        }
        println!(
            "T=1', {} % of blocks disturbed: {came:?} of 240 answered, not run, unknown",
            rate * 4 / 10
        );
        all = std::array::from_fn(|at| all[at] + came[at]);
    }
    assert!(all.iter().all(|came| *came > 0), "{all:?}");
}

/// A reset or silence at each step of a session's beginning and of an exchange: an end that says so, within a bound.
#[test]
fn after_a_reset_or_silence_there_is_an_end_that_says_so() {
    let mut came = [[0_u32; 3]; 2];
    for bus in BUSES {
        for silent in [false, true] {
            for step in 0..90 {
                let (mut wire, mut device, mut card) = opened(bus, 1, Faults::default());
                let mut sent = vec![0x80, 10, 1];
                sent.resize(90, 1);
                assert!(device.start(wire.now, &sent));
                for _ in 0..step {
                    if device.ended().is_none() {
                        wire.step(&mut device, &mut card);
                    }
                }
                let done = device.ended().is_some();
                let begun = wire.now;
                if silent {
                    wire.cut = true;
                    wire.run(&mut device, &mut card, |device| device.ended().is_some());
                    assert!(wire.now < begun.after(5_000_000), "{:?}", wire.now);
                } else {
                    card.card = CardNode::new(wire.now, &parameters(bus, 40)).card;
                    card.due = None;
                    device.reset(wire.now);
                }
                let end = check(&device, &card, &sent);
                let fault = if silent { Fault::Silent } else { Fault::Reset };
                match device.ended().unwrap() {
                    Ended::Answer(_) => assert!(done || silent),
                    Ended::NotRun(why) | Ended::Unknown(why) => assert_eq!(why, fault),
                }
                came[usize::from(silent)][end] += 1;
                if !silent {
                    // A new session, and the command of before is not sent again.
                    let ran = card.ran.len();
                    assert!(device.open(wire.now, ORDER_CIP_FIRST));
                    wire.run(&mut device, &mut card, |device| device.opened().is_some());
                    assert_eq!((device.opened(), card.ran.len()), (Some(Ok(())), ran));
                }
            }
        }
    }
    assert!(came.iter().flatten().all(|came| *came > 0), "{came:?}");
}

/// Any bytes, and any blocks behind a right CRC, at both ends: what is said fits, the exchange ends.
#[test]
fn any_bytes_are_taken() {
    let mut rng = Rng::new(99);
    for _ in 0..3_000 {
        let bus = BUSES[rng.below(2) as usize];
        let mut card = CardNode::new(Micros(0), &parameters(bus, 40));
        let mut device = DeviceNode::new(Micros(0), bus, NAD_GP, 7);
        device.start(Micros(0), &[0x80; 30]);
        let mut now = Micros(30_000);
        let mut out = [0; BLOCK];
        for _ in 0..40 {
            let mut bytes = vec![
                [0x21, 0x12, 0x5A, rng.below(256) as u8][rng.below(4) as usize],
                rng.below(256) as u8,
                0,
                rng.below(8) as u8,
            ];
            bytes.extend((0..bytes[3]).map(|_| rng.below(256) as u8));
            let crc = sekisho_block::check::crc(&bytes) ^ u16::from(rng.below(8) == 0);
            bytes.extend(crc.to_be_bytes());
            bytes.truncate(if rng.below(6) == 0 {
                rng.below(9) as usize
            } else {
                99
            });
            card.card.write(now, &bytes);
            card.run(now);
            let mut read = vec![0; rng.below(30) as usize];
            card.card.read(now.after(50_000), &mut read);
            match device.access(now, &mut out) {
                Some(Access::Write(_)) => device.wrote(now, rng.below(3) > 0),
                Some(Access::Read(n)) => {
                    bytes.resize(n, 0);
                    device.read(
                        now,
                        Some(&bytes).filter(|_| rng.below(4) > 0).map(|bytes| &bytes[..]),
                    );
                }
                None => {}
            }
            now = now.after(rng.below(100_000));
            card.card.expire(now);
        }
        for _ in 0..4_000 {
            match device.access(now, &mut out) {
                Some(Access::Write(_)) => device.wrote(now, true),
                Some(Access::Read(_)) => device.read(now, None),
                None => {}
            }
            now = now.after(500_000);
        }
        assert!(device.ended().is_some());
    }
}
