//! A line with contacts from power to the answer: which protocol it comes to, and what any one fault in it comes to.

use crate::element;
use std::collections::VecDeque;

use element::{Element, On};
use sekisho_block::atr::{Atr, BlockParameters, LEN_MAX, Protocol};
use sekisho_block::contact::{Card, Device, Line, OUT_MAX, Wish};
use sekisho_block::t0::{Acknowledge, direction};
use sekisho_block::{Ended, Fault, Micros, Power};

const APDU: usize = 700;
/// A clock of 4 MHz.
const MHZ: u64 = 4;
/// Microseconds of a character at the default rate: 12 etu.
const CHARACTER: u64 = 12 * 372 / MHZ;
const CARD_LINE: Line = Line {
    hertz: 4_000_000,
    slack: 1,
    least: 0,
    guard: 3 * CHARACTER,
};
const DEVICE_LINE: Line = Line {
    slack: 2,
    ..CARD_LINE
};

/// What happens to one character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happens {
    Lost,
    Damaged,
    Doubled,
    /// The card's power is gone and comes back: it is mute until it is reset.
    Restart,
    /// The card says nothing more until it is reset.
    Silence,
}

struct Sim {
    now: Micros,
    device: Device<APDU>,
    card: Option<Card<APDU, 2>>,
    atr: Vec<u8>,
    element: Element,
    /// To the device, to the card: when, which, whether its parity is wrong.
    ways: [VecDeque<(Micros, u8, bool)>; 2],
    /// All characters, in order, for whoever reads along.
    said: Vec<(char, Vec<u8>)>,
    count: usize,
    fault: Option<(usize, Happens)>,
    takes: u64,
    due: Option<(Micros, Vec<u8>)>,
    resets: Vec<Power>,
}

fn bytes(atr: &Atr<'_>) -> Vec<u8> {
    let mut out = [0; LEN_MAX];
    let len = atr.write(&mut out).unwrap();
    out[..len].to_vec()
}

impl Sim {
    fn new(atr: &Atr<'_>, wish: Wish) -> Self {
        Self {
            now: Micros(0),
            device: Device::new(wish, DEVICE_LINE),
            card: None,
            atr: bytes(atr),
            element: Element::new(On::Apdus),
            ways: [VecDeque::new(), VecDeque::new()],
            said: Vec::new(),
            count: 0,
            fault: None,
            takes: 0,
            due: None,
            resets: Vec::new(),
        }
    }

    fn fresh(&self) -> Card<APDU, 2> {
        Card::new(&self.atr, CARD_LINE, Acknowledge::Whole, direction).unwrap()
    }

    fn send(&mut self, way: usize, bytes: &[u8]) {
        self.said.push((['<', '>'][way], bytes.to_vec()));
        let rate = self.device.rate();
        let character = 12 * u64::from(rate.f) / u64::from(rate.d) / MHZ;
        for byte in bytes {
            let last = self.ways[way].back().map_or(self.now, |(at, ..)| *at);
            let at = last.max(self.now).after(character);
            let happens = self
                .fault
                .filter(|(which, _)| *which == self.count)
                .map(|(_, what)| what);
            self.count += 1;
            match happens {
                None => self.ways[way].push_back((at, *byte, false)),
                Some(Happens::Lost) => {}
                Some(Happens::Damaged) => self.ways[way].push_back((at, *byte ^ 0x10, true)),
                Some(Happens::Doubled) => {
                    self.ways[way].push_back((at, *byte, false));
                    self.ways[way].push_back((at.after(character), *byte, false));
                }
                Some(Happens::Restart | Happens::Silence) => {
                    self.ways = [VecDeque::new(), VecDeque::new()];
                    self.card = None;
                    self.due = None;
                    return;
                }
            }
        }
    }

    fn run_command(&mut self) {
        let Some(card) = &mut self.card else { return };
        if let Some(command) = card.command().map(<[u8]>::to_vec) {
            card.take();
            self.due = Some((self.now.after(self.takes), self.element.run(&command)));
        }
        if let Some((_, answer)) = self.due.take_if(|(at, _)| *at <= self.now) {
            card.answer(&answer);
        }
    }

    /// One step; false when both ends wait for ever.
    fn step(&mut self) -> bool {
        if let Some(power) = self.device.power(self.now) {
            self.resets.push(power);
            self.ways = [VecDeque::new(), VecDeque::new()];
            self.due = None;
            self.card = Some(self.fresh());
        }
        let mut out = [0; OUT_MAX];
        while let Some(len) = self.device.say(self.now, &mut out) {
            self.send(1, &out[..len]);
        }
        self.run_command();
        while let Some(len) = self.card.as_mut().and_then(|card| card.say(self.now, &mut out)) {
            self.send(0, &out[..len]);
        }
        let arrivals = [0, 1].map(|way| self.ways[way].front().map(|(at, ..)| *at));
        let card = self.card.as_ref().and_then(Card::deadline);
        let due = self.due.as_ref().map(|(at, _)| *at);
        let times = [arrivals[0], arrivals[1], self.device.deadline(), card, due];
        let Some(next) = times.into_iter().flatten().min() else {
            return false;
        };
        self.now = self.now.max(next);
        for (way, at) in arrivals.into_iter().enumerate() {
            if at != Some(next) {
                continue;
            }
            let (_, byte, damaged) = self.ways[way].pop_front().unwrap();
            match (way, &mut self.card) {
                (0, _) if damaged && self.device.protocol() == Protocol::T0 => self.device.damaged(),
                (0, _) => self.device.hear(self.now, &[byte]),
                (_, Some(card)) if damaged && card.protocol() == Protocol::T0 => card.damaged(),
                (_, Some(card)) => card.hear(self.now, &[byte]),
                (_, None) => {}
            }
        }
        self.device.expire(self.now);
        if let Some(card) = &mut self.card {
            card.expire(self.now);
        }
        true
    }

    fn until(&mut self, done: impl Fn(&Device<APDU>) -> bool) {
        for _ in 0..30_000 {
            if done(&self.device) {
                return;
            }
            if !self.step() {
                assert!(done(&self.device), "both ends wait");
                return;
            }
        }
        panic!("no end");
    }

    fn open(&mut self) -> Result<Vec<u8>, Fault> {
        self.until(|device| device.opened().is_some());
        if self.element.ran.is_empty() {
            let on = match self.device.protocol() {
                Protocol::T0 => On::Characters,
                Protocol::T1 => On::Apdus,
            };
            self.element = Element::new(on);
        }
        self.device.opened().unwrap().map(<[u8]>::to_vec)
    }

    /// The answer; else whether its command may have run, and why.
    fn exchange(&mut self, command: &[u8]) -> Result<Vec<u8>, (bool, Fault)> {
        assert!(self.device.start(command));
        self.until(|device| device.ended().is_some());
        match self.device.ended().unwrap() {
            Ended::Answer(answer) => Ok(answer.to_vec()),
            Ended::NotRun(fault) => Err((false, fault)),
            Ended::Unknown(fault) => Err((true, fault)),
        }
    }
}

const LONG: BlockParameters = BlockParameters {
    ifsc: 254,
    bwi: 4,
    cwi: 5,
    crc: false,
};

fn both() -> Atr<'static> {
    Atr {
        t1: Some(LONG),
        speed: 0x96,
        ..Atr::of(Protocol::T0)
    }
}

/// SELECT with so many bytes of answer, and a Le.
fn select(answer: u8) -> Vec<u8> {
    vec![0x00, 0xA4, 0x04, answer, 0x02, 0x3F, 0x00, 0x00]
}

fn answer(len: u8) -> Vec<u8> {
    let data = (0..len).map(|at| 0xA4_u8.wrapping_add(at));
    data.chain([0x90, 0x00]).collect()
}

/// The worked exchange of `docs/spec/transports.md`, 1.1.
#[test]
fn the_page_shows_a_line_that_begins() {
    let page = include_str!("../../../../docs/spec/transports.md");
    let block = page
        .split("```contact\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let atr = Atr {
        t1: Some(BlockParameters::DEFAULT),
        ..Atr::of(Protocol::T0)
    };
    let wish = Wish {
        protocol: Some(Protocol::T1),
        ..Wish::ANY
    };
    let mut sim = Sim::new(&atr, wish);
    sim.open().unwrap();
    sim.exchange(&[0x00, 0xD6, 0x00, 0x00]).unwrap();
    let said: Vec<_> = sim
        .said
        .iter()
        .map(|(mark, bytes)| format!("{mark} {}", hex::encode_upper(bytes)))
        .collect();
    assert_eq!(said, block.lines().collect::<Vec<_>>());
}

/// Whatever a card offers and a device wants: the protocol and the rate that both have, or a clean failure, and the same answers on both.
#[test]
fn both_ends_come_to_what_both_have() {
    let t0 = Atr::of(Protocol::T0);
    let t1 = Atr {
        t1: Some(LONG),
        ..Atr::of(Protocol::T1)
    };
    let specific = Atr {
        specific: Some(sekisho_block::atr::Specific {
            protocol: Protocol::T1,
            fixed: true,
            implicit: false,
        }),
        ..both()
    };
    let wants = |protocol, speed| Wish {
        protocol,
        speed,
        ..Wish::ANY
    };
    let (zero, one) = (Some(Protocol::T0), Some(Protocol::T1));
    for (atr, wish, protocol, d) in [
        (t0, wants(None, None), Ok(Protocol::T0), 1),
        (t0, wants(zero, None), Ok(Protocol::T0), 1),
        (t0, wants(one, None), Err(Fault::Protocol), 1),
        // The card cannot do that rate: it agrees to the default.
        (t0, wants(None, Some(0x96)), Ok(Protocol::T0), 1),
        (t1, wants(None, None), Ok(Protocol::T1), 1),
        (t1, wants(zero, None), Err(Fault::Protocol), 1),
        (both(), wants(None, None), Ok(Protocol::T0), 1),
        (both(), wants(one, None), Ok(Protocol::T1), 1),
        (both(), wants(one, Some(0x96)), Ok(Protocol::T1), 32),
        (both(), wants(None, Some(0x94)), Ok(Protocol::T0), 8),
        // In specific mode there is no PPS.
        (specific, wants(None, Some(0x94)), Ok(Protocol::T1), 32),
        (specific, wants(zero, None), Err(Fault::Protocol), 32),
    ] {
        let mut sim = Sim::new(&atr, wish);
        let opened = sim.open();
        let what = format!("{:02X?} {wish:?}", bytes(&atr));
        match protocol {
            Ok(protocol) => {
                assert_eq!(opened, Ok(bytes(&atr)), "{what}");
                assert_eq!(sim.device.protocol(), protocol, "{what}");
                assert_eq!(sim.device.rate().d, d, "{what}");
                assert_eq!(sim.card.as_ref().unwrap().rate(), sim.device.rate(), "{what}");
                for len in [0, 1, 200] {
                    assert_eq!(sim.exchange(&select(len)).unwrap(), answer(len), "{what}");
                }
                assert_eq!(sim.element.ran.len() as u64, 3, "{what}");
            }
            Err(fault) => assert_eq!(opened, Err(fault), "{what}"),
        }
    }
}

/// A card that needs time asks for it on either protocol, and its answer is the same.
#[test]
fn a_slow_command_is_given_time() {
    for protocol in [Protocol::T0, Protocol::T1] {
        let wish = Wish {
            protocol: Some(protocol),
            ..Wish::ANY
        };
        let mut sim = Sim::new(&both(), wish);
        sim.open().unwrap();
        sim.takes = 20_000_000;
        assert_eq!(sim.exchange(&select(9)).unwrap(), answer(9), "{protocol:?}");
        assert_eq!(sim.element.ran.len(), 1);
    }
}

/// Any one character lost, damaged or doubled, or the card gone from there on: the line is opened all the same but for what is missing in it, no command runs twice, T=1 brings every
/// answer and T=0 the right one or none, and after a reset all is well.
#[test]
fn any_one_fault_comes_to_a_right_answer_or_a_clean_end() {
    for protocol in [Protocol::T0, Protocol::T1] {
        let wish = Wish {
            protocol: Some(protocol),
            ..Wish::ANY
        };
        let mut whole = Sim::new(&both(), wish);
        whole.open().unwrap();
        let opened = whole.count;
        whole.exchange(&select(5)).unwrap();
        let all = whole.count;
        let mut unanswered = 0;
        for at in 0..all {
            for happens in [
                Happens::Lost,
                Happens::Damaged,
                Happens::Doubled,
                Happens::Restart,
                Happens::Silence,
            ] {
                // A doubled character is what T=0 cannot see.
                if protocol == Protocol::T0 && happens == Happens::Doubled && at >= opened {
                    continue;
                }
                let mut sim = Sim::new(&both(), wish);
                sim.fault = Some((at, happens));
                let what = format!("{protocol:?} {at} of {all}, opened at {opened}: {happens:?}");
                if sim.open().is_err() {
                    // Without its answer to PPS a card that offers T=0 first cannot be had on T=1.
                    assert!(protocol == Protocol::T1 && at < opened, "{what}");
                    continue;
                }
                let before = sim.resets.len();
                let result = sim.exchange(&select(5));
                let ran = sim.element.ran.len();
                assert!(ran <= 1, "{what}");
                match result {
                    Ok(got) => {
                        assert_eq!(got, answer(5), "{what}");
                        assert_eq!((ran, sim.resets.len()), (1, before), "{what}");
                    }
                    Err((unknown, _)) => {
                        unanswered += 1;
                        assert!(unknown || ran == 0, "{what}");
                        let mends = matches!(happens, Happens::Lost | Happens::Damaged | Happens::Doubled);
                        assert!(protocol == Protocol::T0 || !mends, "{what}");
                        sim.device.reset(Power::Reset);
                        sim.open().unwrap();
                        assert_eq!(sim.exchange(&select(3)).unwrap(), answer(3), "{what}");
                    }
                }
            }
        }
        assert!(unanswered > 0, "{protocol:?}");
        println!("{protocol:?}: {all} characters, {unanswered} exchanges without an answer");
    }
}

/// A reset at each step of an exchange ends it, as not run or unknown, and says so until the next one begins.
#[test]
fn a_reset_is_never_passed_over() {
    for protocol in [Protocol::T0, Protocol::T1] {
        for power in [Power::Reset, Power::On] {
            for steps in 0..40 {
                let wish = Wish {
                    protocol: Some(protocol),
                    ..Wish::ANY
                };
                let mut sim = Sim::new(&both(), wish);
                sim.open().unwrap();
                sim.device.start(&select(5));
                let mut done = 0;
                while done < steps && sim.device.ended().is_none() {
                    sim.step();
                    done += 1;
                }
                if sim.device.ended().is_some() {
                    break;
                }
                sim.device.reset(power);
                let lost = sim.device.ended().unwrap();
                let unknown = lost == Ended::Unknown(Fault::Reset);
                assert!(unknown || lost == Ended::NotRun(Fault::Reset), "{lost:?}");
                assert!(unknown || sim.element.ran.is_empty());
                sim.open().unwrap();
                assert_eq!(
                    sim.device
                        .ended()
                        .is_some_and(|now| matches!(now, Ended::Unknown(_))),
                    unknown
                );
                assert_eq!(sim.resets.last(), Some(&power));
                assert_eq!(sim.exchange(&select(2)).unwrap(), answer(2));
            }
        }
    }
}

/// A PPS is taken once, whole, right behind the ATR, and never in specific mode; what is none leaves the card mute, whatever comes then.
#[test]
fn a_card_takes_a_pps_only_where_it_may() {
    let specific = Atr {
        specific: Some(sekisho_block::atr::Specific {
            protocol: Protocol::T0,
            fixed: true,
            implicit: true,
        }),
        ..both()
    };
    for (atr, heard, said) in [
        (both(), "FF109679", "FF109679"),
        (both(), "FF109778", "FF00FF"),
        (both(), "FF01FE", "FF01FE"),
        (both(), "FF109678", ""),
        (both(), "FF02FD", ""),
        (both(), "FF80807F", ""),
        (both(), "FF01FEFF01FE", ""),
        (both(), "0084FF", ""),
        (specific, "FF00FF", ""),
    ] {
        let mut card = Card::<APDU, 1>::new(&bytes(&atr), CARD_LINE, Acknowledge::Whole, direction).unwrap();
        let mut out = [0; OUT_MAX];
        // Nothing is heard before the ATR.
        card.hear(Micros(0), &[0xFF, 0x01, 0xFE]);
        let len = card.say(Micros(0), &mut out).unwrap();
        assert_eq!(out[..len], bytes(&atr));
        card.hear(Micros(1), &hex::decode(heard).unwrap());
        let len = card.say(Micros(2), &mut out).unwrap_or(0);
        let expected = if said.is_empty() { heard } else { said };
        assert_eq!(
            hex::encode_upper(&out[..len]) == expected,
            !said.is_empty(),
            "{heard}"
        );
        if said.is_empty() && heard.starts_with("FF") {
            card.hear(Micros(3), &[0x00, 0xD6, 0x00, 0x00, 0x00]);
            assert!(card.command().is_none(), "{heard}");
            assert!(card.say(Micros(4), &mut out).is_none(), "{heard}");
        }
    }
}

/// What no card says: no ATR, one that is cut, one that does not end, an answer to PPS that agrees to something else. Three resets, then it is over.
#[test]
fn a_line_that_does_not_begin_is_given_up() {
    for (atr, pps, fault) in [
        ("", "", Fault::Silent),
        ("3B", "", Fault::Silent),
        ("3B8080", "", Fault::Silent),
        ("AA", "", Fault::Garbled),
        ("3B80800102", "", Fault::Garbled),
        ("3B80800101", "FF00FF", Fault::Protocol),
        ("3B80800101", "FF11FF11", Fault::Protocol),
        ("3B80800101", "00", Fault::Protocol),
        ("3B80800101", "", Fault::Protocol),
        ("3B820F0000", "", Fault::Garbled),
    ] {
        let wish = Wish {
            protocol: Some(Protocol::T1),
            ..Wish::ANY
        };
        let mut device = Device::<APDU>::new(wish, DEVICE_LINE);
        let mut now = Micros(0);
        let mut resets = 0;
        let mut out = [0; OUT_MAX];
        while device.opened().is_none() {
            if device.power(now).is_some() {
                resets += 1;
                device.hear(now, &hex::decode(atr).unwrap());
            }
            if device.say(now, &mut out).is_some() {
                device.hear(now, &hex::decode(pps).unwrap());
            }
            if let Some(at) = device.deadline() {
                now = now.max(at);
                device.expire(now);
            }
            assert!(resets <= 3, "{atr}");
        }
        assert_eq!(device.opened(), Some(Err(fault)), "{atr} {pps}");
        assert!(!device.start(&select(0)));
    }
}
