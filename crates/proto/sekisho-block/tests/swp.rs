//! SWP: frames bit for bit, activation and SHDLC as drivers and published exchanges have them, and both ends over a line with faults.

use std::collections::VecDeque;

use crate::line;
use line::{Faults, Line, Node, Rng};
use sekisho_block::Micros;
use sekisho_block::check::crc;
use sekisho_block::swp::frame::{self, Ending};
use sekisho_block::swp::{
    Activation, Event, FRAME_MAX, INFORMATION_MAX, LPDU_MAX, Link, Role, Shdlc, Timer, Timing,
};

const CARD: Role = Role::Card {
    sync_id: [0xFF, 0xFF],
    information: Some(2),
};
/// T3 longer than the line is late.
const TIMING: Timing = Timing {
    activation: 60_000,
    acknowledge: 5_000,
    retransmit: 300_000,
    connect: 100_000,
};

struct End {
    link: Link,
    to_send: Vec<Vec<u8>>,
    sent: usize,
    came: Vec<Vec<u8>>,
    events: Vec<Event>,
    /// What was sent before the link was set up anew.
    excused: usize,
}

impl End {
    fn new(role: Role, window: u8, srej: bool, count: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let to_send = (0..count)
            .map(|number| {
                let mut bytes = vec![0xA5; 2 + rng.below(28) as usize];
                bytes[..2].copy_from_slice(&(number as u16).to_be_bytes());
                bytes
            })
            .collect();
        Self {
            link: Link::new(Micros(0), role, window, srej, TIMING),
            to_send,
            sent: 0,
            came: Vec::new(),
            events: Vec::new(),
            excused: 0,
        }
    }

    fn pump(&mut self, now: Micros) {
        while let Some(event) = self.link.event() {
            if event == Event::Restarted {
                self.excused = self.sent;
            }
            self.events.push(event);
        }
        let mut out = [0; INFORMATION_MAX];
        while let Some(len) = self.link.take(&mut out) {
            self.came.push(out[..len].to_vec());
        }
        while self.sent < self.to_send.len() && self.link.send(now, &self.to_send[self.sent]) {
            self.sent += 1;
        }
    }
}

impl Node for End {
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
        self.link.deadline()
    }
    fn expire(&mut self, now: Micros) {
        self.link.expire(now);
        self.pump(now);
    }
}

/// Frames on the wire, by both readings of the CRC (recomputed from a simulator's model and an inverted one), stuffing included.
#[test]
fn frames_are_right_bit_for_bit() {
    let mut out = [0; frame::FRAME_MAX];
    let mut lpdu = [0; LPDU_MAX];
    for (bytes, plain, inverted, bits) in [
        ("60", "7E608D567F", "7E6072A97F", 40),
        ("69FFFF02", "7E69F7DF6058576FFF", "7E69F7DF6047A88FFF", 67),
        ("F90400", "7EF882003E66DFFF", "7EF8820041323FFF", 58),
        ("E6", "7EE67C0C3FFF", "7EE683E3BFFF", 41),
    ] {
        let bytes = hex::decode(bytes).unwrap();
        for (ending, image) in [(Ending::Plain, plain), (Ending::Inverted, inverted)] {
            let len = frame::write(&bytes, ending, &mut out).unwrap();
            let image = hex::decode(image).unwrap();
            assert_eq!(
                out[..len.div_ceil(8)],
                image[..len.div_ceil(8)],
                "{bytes:02X?} {ending:?}"
            );
            if ending == Ending::Plain {
                assert_eq!(len, bits);
            }
            let read = frame::read(&out, len, ending, &mut lpdu).unwrap();
            assert_eq!(lpdu[..read], bytes);
        }
    }
    assert_eq!(frame::write(&[], Ending::Plain, &mut out), None);
    assert_eq!(frame::write(&[0; 31], Ending::Plain, &mut out), None);
}

/// What is written is read, of any bytes; no flip of a bit goes through, and any bits at all are read without harm.
#[test]
fn flips_do_not_go_through() {
    let mut rng = Rng::new(3);
    let mut out = [0; frame::FRAME_MAX];
    let mut lpdu = [0; LPDU_MAX];
    for round in 0..300 {
        let bytes: Vec<u8> = (0..1 + rng.below(30))
            .map(|_| {
                if round % 3 == 0 {
                    0xFF
                } else {
                    rng.below(256) as u8
                }
            })
            .collect();
        for ending in [Ending::Plain, Ending::Inverted] {
            let len = frame::write(&bytes, ending, &mut out).unwrap();
            assert_eq!(frame::read(&out, len, ending, &mut lpdu), Ok(bytes.len()));
            assert_eq!(lpdu[..bytes.len()], bytes);
            for bit in 0..len {
                let mut bad = out;
                bad[bit / 8] ^= 0x80 >> (bit % 8);
                assert!(frame::read(&bad, len, ending, &mut lpdu).is_err());
            }
            for cut in 0..len {
                assert!(frame::read(&out, cut, ending, &mut lpdu).is_err());
            }
        }
        let noise: Vec<u8> = (0..rng.below(60)).map(|_| rng.below(256) as u8).collect();
        let _ = frame::read(&noise, rng.below(600) as usize, Ending::Plain, &mut lpdu);
    }
}

fn sealed(lpdu: &str) -> Vec<u8> {
    let mut bytes = hex::decode(lpdu).unwrap();
    let sum = crc(&bytes).to_le_bytes();
    bytes.extend(sum);
    bytes
}

fn says(link: &mut Link, now: Micros) -> String {
    let mut out = [0; FRAME_MAX];
    link.say(now, &mut out)
        .map_or(String::new(), |len| hex::encode_upper(&out[..len]))
}

/// The worked exchange of `docs/spec/transports.md`, section 5, from both ends: activation as a microcontroller has it with a real card, the card's first frame, check bytes as the Linux kernel's drivers have them.
#[test]
fn the_page_shows_an_exchange_that_happens() {
    let page = include_str!("../../../../docs/spec/transports.md");
    let block = page
        .split("```swp\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let mut card = Link::new(Micros(0), CARD, 4, false, Timing::LINUX);
    let mut device = Link::new(Micros(0), Role::Device, 4, false, Timing::LINUX);
    let mut now = Micros(0);
    let mut lines = 0;
    for text in block.lines() {
        let (mark, frame) = text.split_at(2);
        if frame.starts_with("808103") {
            card.send(now, &[0x81, 0x03]);
        }
        if frame.starts_with("818180") {
            device.send(now, &[0x81, 0x80, 0x00]);
        }
        let (from, to) = match mark {
            "> " => (&mut device, &mut card),
            _ => (&mut card, &mut device),
        };
        from.expire(now);
        let mut said = says(from, now);
        if said.is_empty() {
            now = from.deadline().unwrap();
            from.expire(now);
            said = says(from, now);
        }
        assert_eq!(said, frame);
        to.hear(now, &hex::decode(frame).unwrap());
        let mut out = [0; INFORMATION_MAX];
        let _ = to.take(&mut out);
        lines += 1;
    }
    assert_eq!(lines, 8);
    assert_eq!(
        (card.activation(), device.activation()),
        (Activation::Active, Activation::Active)
    );
    assert_eq!(device.sync_id(), Some([0xFF, 0xFF]));
}

/// Frames that Linux's drivers send and take.
#[test]
fn published_frames_are_right() {
    for frame in [
        "F9040086B1",
        "E64072",
        "C1FD27",
        "C83CBA",
        "D0F526",
        "808103AF6D",
        "81818000F717",
    ] {
        let bytes = hex::decode(frame).unwrap();
        assert_eq!(sealed(&frame[..frame.len() - 4]), bytes);
    }
    let mut card = Link::new(
        Micros(0),
        Role::Card {
            sync_id: [0xFF, 0xFF],
            information: None,
        },
        4,
        false,
        Timing::LINUX,
    );
    assert_eq!(says(&mut card, Micros(0)), "61FFFFE569");
}

/// Activation: a lost ACT_SYNC, ACT_POWER_MODE or ACT_READY is asked for with FR; a card that says nothing is given up. CLT is declined, and what is no LPDU passed over.
#[test]
fn activation_asks_again() {
    for lost in 0..3 {
        let mut card = Link::new(Micros(0), CARD, 4, false, Timing::LINUX);
        let mut device = Link::new(Micros(0), Role::Device, 4, false, Timing::LINUX);
        let mut now = Micros(0);
        let mut count = 0;
        while device.activation() != Activation::Active {
            let mut out = [0; FRAME_MAX];
            if let Some(len) = card.say(now, &mut out) {
                if count != lost {
                    device.hear(now, &out[..len]);
                }
                count += 1;
            } else if let Some(len) = device.say(now, &mut out) {
                if count != lost {
                    card.hear(now, &out[..len]);
                }
                count += 1;
            } else {
                now = device.deadline().unwrap();
                device.expire(now);
            }
        }
        assert_eq!(says(&mut device, now), "F9040086B1");
    }
    let mut device = Link::new(Micros(0), Role::Device, 4, false, Timing::LINUX);
    let mut sent = 0;
    while let Some(now) = device.deadline() {
        device.expire(now);
        sent += usize::from(!says(&mut device, now).is_empty());
    }
    assert_eq!((device.activation(), sent), (Activation::Failed, 7));
    let mut card = Link::new(Micros(0), CARD, 4, false, Timing::LINUX);
    card.hear(Micros(0), &sealed("42AA"));
    card.hear(Micros(0), &sealed("20"));
    card.hear(Micros(0), &sealed("F90400"));
    card.hear(Micros(0), &[1, 2, 3]);
    assert_eq!(card.passed_over(), [1, 3, 0]);
}

fn shdlc_says(end: &mut Shdlc, heard: &str) -> String {
    end.hear(&hex::decode(heard).unwrap());
    let mut out = [0; INFORMATION_MAX + 1];
    end.say(&mut out)
        .map_or(String::new(), |len| hex::encode_upper(&out[..len]))
}

fn standing(window: u8, srej: bool) -> Shdlc {
    let mut end = Shdlc::new(window, srej);
    let rset = format!("F9{window:02X}{:02X}", u8::from(srej));
    assert_eq!(shdlc_says(&mut end, &rset), "E6");
    assert_eq!(end.event(), Some(Event::Connected));
    end
}

/// The table of states: RSET, its negotiation, and what one that comes again is.
#[test]
fn shdlc_takes_a_reset_once() {
    // Negotiation: too large is answered with one's own; windows of 0 and 5 are none.
    let mut end = Shdlc::new(2, false);
    assert_eq!(shdlc_says(&mut end, "F90400"), "F90200");
    assert_eq!(shdlc_says(&mut end, "F90201"), "F90200");
    assert_eq!(shdlc_says(&mut end, "F90100"), "E6");
    assert_eq!(shdlc_says(&mut end, "F90000"), "");
    assert_eq!(shdlc_says(&mut end, "F90500"), "");
    assert!(end.send(&[1]) && !end.send(&[2]), "window of 1");
    // The same RSET again before anything has come is no new one; behind a frame it is, and is told.
    let mut end = standing(4, false);
    assert!(end.send(&[7]));
    assert_eq!(
        (shdlc_says(&mut end, "F90400").as_str(), end.event()),
        ("E6", None)
    );
    // N(R) of what has not been sent is none.
    end.hear(&[0x81, 0xAA]);
    assert_eq!(end.dropped(), 1);
    assert_eq!(shdlc_says(&mut end, "80AA"), "8107");
    assert_eq!(
        (shdlc_says(&mut end, "F90400").as_str(), end.event()),
        ("E6", Some(Event::Restarted))
    );
    assert_eq!(shdlc_says(&mut end, "C0"), "");
}

/// The table of states: frames out of order with REJ once and SREJ, copies, RNR and the end of it, N(R) out of the window, what is unknown.
#[test]
fn shdlc_answers_as_the_table_says() {
    // Out of order: REJ once, then the right one; a copy.
    let mut end = standing(4, false);
    assert_eq!(shdlc_says(&mut end, "88AA"), "C8");
    assert_eq!(shdlc_says(&mut end, "90AA"), "");
    assert_eq!(shdlc_says(&mut end, "80AA"), "");
    assert!(end.wants(Timer::Acknowledge));
    end.expire(Timer::Acknowledge);
    assert_eq!(shdlc_says(&mut end, "80AA"), "C1");
    // SREJ: the one alone; what came ahead is kept.
    let mut end = standing(4, true);
    assert_eq!(shdlc_says(&mut end, "88AA"), "D8");
    assert_eq!(shdlc_says(&mut end, "90BB"), "");
    assert_eq!(shdlc_says(&mut end, "8099"), "");
    let mut out = [0; INFORMATION_MAX];
    for byte in [0x99, 0xAA, 0xBB] {
        assert_eq!((end.take(&mut out), out[0]), (Some(1), byte));
    }
    for byte in 1..=3 {
        assert!(end.send(&[byte]));
    }
    for said in ["8301", "8B02", "9303"] {
        assert_eq!(shdlc_says(&mut end, ""), said);
    }
    assert_eq!(shdlc_says(&mut end, "D9"), "8B02");
    assert_eq!(shdlc_says(&mut end, ""), "");
    // REJ: from there on. RNR: nothing, until RR. N(R) beyond what was sent is none.
    assert_eq!(shdlc_says(&mut end, "CA"), "9303");
    assert_eq!(shdlc_says(&mut end, "D2"), "");
    assert!(end.send(&[4]));
    assert_eq!(shdlc_says(&mut end, ""), "");
    assert_eq!(shdlc_says(&mut end, "C2"), "9303");
    assert_eq!(shdlc_says(&mut end, ""), "9B04");
    let dropped = end.dropped();
    for bytes in ["C6", "87AA", "E0", "FF", "C055", "40"] {
        assert_eq!(shdlc_says(&mut end, bytes), "");
    }
    assert_eq!(end.dropped(), dropped + 6);
    // Nobody takes what has come: RNR, then RR.
    let mut end = standing(4, false);
    for ns in 0..4 {
        assert_eq!(shdlc_says(&mut end, &format!("{:02X}AA", 0x80 | ns << 3)), "");
    }
    assert_eq!(shdlc_says(&mut end, "A0AA"), "D4");
    assert!(end.take(&mut out).is_some());
    assert_eq!(shdlc_says(&mut end, ""), "C4");
    assert_eq!(shdlc_says(&mut end, "A0AA"), "");
}

/// An end that does not stop, with REJ, RNR, RSET or silence: a bound, and the link fails or is set up anew.
#[test]
fn an_end_that_does_not_stop_gets_a_bound() {
    for (heard, at_most, time) in [
        ("C8", 400, true),
        ("D0", 10_000, true),
        ("D0", 10_000, false),
        ("F90400", 10, true),
        ("", 400, true),
    ] {
        let mut end = Shdlc::new(4, false);
        let mut out = [0; INFORMATION_MAX + 1];
        let mut rounds = 0;
        end.connect();
        let mut failed = false;
        while !failed {
            while let Some(len) = end.say(&mut out) {
                if out[..len][0] == 0xF9 {
                    end.hear(&[0xE6]);
                }
            }
            end.send(&[1]);
            while end.say(&mut out).is_some() {}
            end.hear(&hex::decode(heard).unwrap());
            if time {
                end.expire(Timer::Retransmit);
            }
            failed = end.event() == Some(Event::Failed);
            rounds += 1;
            assert!(rounds <= at_most, "{heard}");
        }
        assert!(rounds > 5 || heard == "F90400", "{heard} {rounds}");
    }
    let mut end = Shdlc::new(4, false);
    end.connect();
    for _ in 0..5 {
        end.expire(Timer::Connect);
        assert_eq!(end.event(), None);
    }
    end.expire(Timer::Connect);
    assert_eq!(end.event(), Some(Event::Failed));
}

/// The Linux kernel rejects each frame that is not the next, a copy too: one that is lost within a window, and each that is sent again, is rejected several times.
/// That is no reason to set the link up anew.
#[test]
fn an_other_end_that_rejects_every_wrong_frame_is_survived() {
    const MESSAGES: u8 = 200;
    for (lost, doubled) in [(7, 1_000), (1_000, 5), (9, 11), (3, 4)] {
        let mut end = Shdlc::new(4, false);
        let mut out = [0; INFORMATION_MAX + 1];
        end.connect();
        end.say(&mut out);
        end.hear(&[0xE6]);
        assert_eq!(end.event(), Some(Event::Connected));
        let (mut queued, mut next, mut came, mut number) = (0, 0, Vec::new(), 0_u32);
        let (mut there, mut back) = (VecDeque::new(), VecDeque::new());
        while came.len() < usize::from(MESSAGES) {
            while queued < MESSAGES && end.send(&[queued]) {
                queued += 1;
            }
            while let Some(len) = end.say(&mut out) {
                assert_eq!(out[0] & 0xC0, 0x80, "{} of {MESSAGES}", came.len());
                number += 1;
                let times = u32::from(number % lost != 0) + u32::from(number % doubled == 0);
                there.extend((0..times).map(|_| out[..len].to_vec()));
            }
            // An answer comes before the next frame has gone.
            for _ in 0..2 {
                match there.pop_front() {
                    Some(frame) if frame[0] >> 3 & 7 == next => {
                        next = (next + 1) & 7;
                        came.extend_from_slice(&frame[1..]);
                    }
                    Some(_) => back.push_back(0xC8 | next),
                    None => {}
                }
            }
            match back.pop_front() {
                Some(lpdu) => end.hear(&[lpdu]),
                None if there.is_empty() => {
                    end.hear(&[0xC0 | next]);
                    end.expire(Timer::Retransmit);
                }
                None => {}
            }
            assert_eq!(end.event(), None);
        }
        assert!(came.into_iter().eq(0..MESSAGES));
        println!("each {lost} lost, each {doubled} doubled: {number} frames for {MESSAGES}");
        assert!(number < 5 * u32::from(MESSAGES));
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

/// With at most three losses, flips, duplicates or late frames in a row every message arrives, once and in order, both ways, with every window, with SREJ and without.
#[test]
fn within_three_faults_in_a_row_all_arrives_in_order() {
    let mut flipped = 0;
    for seed in 0..120 {
        let (window, srej) = (1 + (seed % 4) as u8, seed % 8 > 3);
        let mut line = Line::new(seed, BURST);
        let mut device = End::new(Role::Device, window, srej, 40, seed);
        let mut card = End::new(CARD, window, srej, 40, seed + 1);
        for _ in 0..20_000 {
            if device.came.len() == 40 && card.came.len() == 40 {
                break;
            }
            assert!(line.step(&mut device, &mut card), "both ends wait");
        }
        assert_eq!(
            (&device.came, &card.came),
            (&card.to_send, &device.to_send),
            "seed {seed}"
        );
        assert_eq!(
            (&device.events, &card.events),
            (&vec![Event::Connected], &vec![Event::Connected]),
            "seed {seed}"
        );
        flipped += line.count.flipped;
    }
    assert!(flipped > 100);
}

/// At any rate of faults what arrives is right and in order, nothing is lost that nobody was told of, and there is an end.
#[test]
fn at_any_rate_of_faults_nothing_is_lost_unsaid() {
    for rate in [20, 50, 100, 200] {
        let mut came = [0_usize; 3];
        for seed in 0..40 {
            let faults = Faults {
                lose: rate,
                flip: rate,
                duplicate: rate,
                late: rate,
                burst: 0,
                ..BURST
            };
            let mut line = Line::new(seed * 3 + rate, faults);
            let mut device = End::new(Role::Device, 4, seed % 2 == 0, 30, seed);
            let mut card = End::new(CARD, 4, seed % 2 == 0, 30, seed + 1);
            for _ in 0..20_000 {
                if device.came.len() == 30 && card.came.len() == 30 || !line.step(&mut device, &mut card) {
                    break;
                }
            }
            let told = [&device, &card]
                .iter()
                .any(|end| end.events.iter().any(|event| *event != Event::Connected));
            for (to, from) in [(&device, &card), (&card, &device)] {
                if told {
                    assert!(to.came.iter().all(|message| from.to_send.contains(message)));
                } else {
                    assert_eq!(to.came, from.to_send[..to.came.len()]);
                }
            }
            let whole = device.came.len() == 30 && card.came.len() == 30;
            let failed = device.activation_failed()
                || device.events.contains(&Event::Failed)
                || card.events.contains(&Event::Failed);
            assert!(whole || told || failed);
            came[if whole && !told {
                0
            } else if failed {
                2
            } else {
                1
            }] += 1;
        }
        println!(
            "SHDLC, {} % of frames disturbed: {came:?} of 40 links whole, set up anew, failed",
            rate * 4 / 10
        );
    }
}

impl End {
    fn activation_failed(&self) -> bool {
        self.link.activation() == Activation::Failed
    }
}

/// A card that falls silent at any step: the device's link fails, within a bound.
#[test]
fn after_silence_there_is_an_end_that_says_so() {
    for steps in 0..80 {
        let mut line = Line::new(1, Faults::default());
        let mut device = End::new(Role::Device, 4, false, 20, 1);
        let mut card = End::new(CARD, 4, false, 20, 2);
        for _ in 0..steps {
            line.step(&mut device, &mut card);
        }
        line.cut = [true; 2];
        let begun = line.now;
        while line.step(&mut device, &mut card) {
            assert!(line.now < begun.after(60_000_000));
        }
        let done = card.came.len() == 20 && device.sent == 20;
        assert!(
            device.activation_failed() || device.events.contains(&Event::Failed) || done,
            "{steps}"
        );
    }
}

/// Any LPDUs behind right check bytes at both ends.
#[test]
fn any_frames_are_taken() {
    let mut rng = Rng::new(5);
    for _ in 0..2_000 {
        let mut ends = [
            Link::new(Micros(0), CARD, 4, true, TIMING),
            Link::new(Micros(0), Role::Device, 4, true, TIMING),
        ];
        let mut now = Micros(0);
        for _ in 0..60 {
            let mut bytes: Vec<u8> = (0..rng.below(33)).map(|_| rng.below(256) as u8).collect();
            if let Some(first) = bytes.first_mut() {
                *first = [*first, 0xF9, 0xE6, 0x61, 0x62, 0x60, 0x80 | *first, 0xC0 | *first]
                    [rng.below(8) as usize];
            }
            let sum = crc(&bytes).to_le_bytes();
            bytes.extend(sum);
            for end in &mut ends {
                end.hear(now, &bytes);
                end.send(now, &[1, 2, 3]);
                let mut out = [0; INFORMATION_MAX];
                let _ = (end.take(&mut out), end.event());
                let _ = says(end, now);
                end.expire(now);
            }
            now = now.after(rng.below(200_000));
        }
    }
}
