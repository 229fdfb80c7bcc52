//! T=0 with faults: what one lost or damaged character, a reset or silence comes to at each place, and at any rate.

use crate::characters;
use crate::element;
use crate::line;
use characters::{CardNode, DeviceNode, TIMING};
use element::{Element, On};
use line::{Faults, Line, Node};
use sekisho_block::t0::{Acknowledge, Card, Device, direction};
use sekisho_block::{Ended, Micros};

#[derive(Clone, Copy, Debug)]
enum Hit {
    Lost,
    Parity,
    Reset,
    Cut,
}

/// One exchange, character by character, with something wrong at one of them; how it ended, and whether there was such a character.
fn hit(acknowledge: Acknowledge, command: &[u8], at: usize, what: Hit) -> (DeviceNode, CardNode, bool) {
    let mut device = DeviceNode(Device::new(TIMING));
    let mut card = CardNode::new(acknowledge);
    let mut now = Micros(0);
    let (mut counted, mut cut) = (0, false);
    device.0.start(command);
    for _ in 0..5_000 {
        if device.0.ended().is_some() {
            break;
        }
        let (to_card, bytes) = match device.say(now) {
            Some(bytes) => (true, bytes),
            None => (false, card.say(now).unwrap_or_default()),
        };
        if bytes.is_empty() {
            now = [device.deadline(), card.deadline()]
                .into_iter()
                .flatten()
                .min()
                .unwrap();
            device.expire(now);
            card.expire(now);
            continue;
        }
        for byte in bytes {
            let node: &mut dyn Node = if to_card { &mut card } else { &mut device };
            match what {
                _ if counted != at => {
                    if !cut {
                        node.hear(now, &[byte]);
                    }
                }
                Hit::Lost => {}
                Hit::Parity => node.hear_flipped(now, &[byte], 0),
                Hit::Cut => cut = true,
                Hit::Reset => {
                    device.0.reset();
                    card.card = Card::new(TIMING, acknowledge, direction);
                    counted += 1;
                    break;
                }
            }
            counted += 1;
            now = now.after(100);
        }
    }
    (device, card, counted > at)
}

/// One lost or damaged character, a reset or silence, at each place of exchanges of each case: never a wrong answer, never run twice; an error within a bound, and then a reset before anything else.
#[test]
fn a_fault_below_parity_ends_in_expiry_and_reset() {
    let mut ends = [0_u32; 3];
    for command in element::commands()
        .iter()
        .filter(|command| command.len() < 40 || command.len() > 255)
    {
        let mut whole = Element::new(On::Apdus);
        let expected = whole.run(command);
        for acknowledge in [Acknowledge::Whole, Acknowledge::Bytewise] {
            for what in [Hit::Lost, Hit::Parity, Hit::Reset, Hit::Cut] {
                for at in (0..60).chain((60..1_400).step_by(97)) {
                    let (device, card, happened) = hit(acknowledge, command, at, what);
                    let context = || format!("{} {what:?} {at}", hex::encode_upper(command));
                    let ran = card.element.ran.len();
                    match device.0.ended().unwrap() {
                        Ended::Answer(answer) => {
                            assert_eq!(answer, expected, "{}", context());
                            assert!(!happened, "{}", context());
                            ends[0] += 1;
                        }
                        Ended::NotRun(_) => {
                            assert_eq!(ran, 0, "{}", context());
                            ends[1] += 1;
                        }
                        Ended::Unknown(_) => {
                            assert!(ran < 2, "{}", context());
                            ends[2] += 1;
                        }
                    }
                    if !happened {
                        break;
                    }
                    assert!(
                        device.0.must_reset() || matches!(what, Hit::Reset),
                        "{}",
                        context()
                    );
                }
            }
        }
    }
    println!("T=0, one fault at each place: {ends:?} answered, not run, unknown");
    assert!(ends.iter().all(|ends| *ends > 0));
}

/// At rates of loss and parity errors each exchange ends within a bound, right or not at all; after an error the card is reset.
#[test]
fn at_any_rate_of_faults_nothing_is_wrong_or_runs_twice() {
    let mut all = [0_u32; 3];
    for rate in [2, 10, 40] {
        let mut came = [0_u32; 3];
        for seed in 0..40 {
            let faults = Faults {
                lose: rate,
                flip: rate,
                late: rate,
                split: 100,
                lateness: 400_000,
                gap: 5_000,
                ..Faults::default()
            };
            let mut line = Line::new(seed * 7 + rate, faults);
            let mut device = DeviceNode(Device::new(TIMING));
            let mut card = CardNode::new(Acknowledge::Whole);
            for number in 0..6 {
                let command = [0x00, 0xA4, number, 20, 2, seed as u8, 1, 0];
                assert!(device.0.start(&command));
                line.run(&mut device, &mut card, 20_000, |device| {
                    device.0.ended().is_some()
                });
                let runs = card
                    .element
                    .ran
                    .iter()
                    .filter(|ran| ran[..] == [&command[..4], &command[5..7]].concat())
                    .count();
                let end = match device.0.ended().unwrap() {
                    Ended::Answer(answer) => {
                        assert_eq!((answer, runs), (&Element::new(On::Apdus).run(&command)[..], 1));
                        0
                    }
                    Ended::NotRun(_) => {
                        assert_eq!(runs, 0);
                        1
                    }
                    Ended::Unknown(_) => {
                        assert!(runs < 2);
                        2
                    }
                };
                came[end] += 1;
                if device.0.must_reset() {
                    line.clear();
                    device.0.reset();
                    card.card = Card::new(TIMING, Acknowledge::Whole, direction);
                    card.due = None;
                }
            }
        }
        println!(
            "T=0, {}.{} % of units disturbed: {came:?} of 240 answered, not run, unknown",
            rate * 3 / 10,
            rate * 3 % 10
        );
        all = std::array::from_fn(|at| all[at] + came[at]);
    }
    assert!(all.iter().all(|came| *came > 0), "{all:?}");
}
