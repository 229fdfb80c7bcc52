//! T=1': published blocks bit for bit, each host's order of starting, and power.

use crate::bus;
use crate::line;
use bus::{APDU, BLOCK, CardNode, DeviceNode, Wire, answer_to, parameters};
use line::Faults;
use sekisho_block::block::Service;
use sekisho_block::t1p::cip::{Cip, LEN_MAX, Physical};
use sekisho_block::t1p::{
    Access, Bus, Card, Device, NAD_EUICC, NAD_GP, NAD_VENDOR, ORDER_CIP_FIRST, ORDER_RESET_FIRST,
    ORDER_RESYNCH_FIRST, Step,
};
use sekisho_block::{Ended, Micros};

const BUSES: [Bus; 2] = [Bus::Spi, Bus::I2c];
const ORDERS: [&[Step]; 3] = [ORDER_RESYNCH_FIRST, ORDER_CIP_FIRST, ORDER_RESET_FIRST];

fn hexed(bytes: &[u8]) -> String {
    hex::encode_upper(bytes)
}

/// A card that has started, and what it says to a block: nothing is the empty string.
struct Bench {
    card: Card<600, 600, 2>,
    now: Micros,
    bus: Bus,
}

impl Bench {
    fn new(bus: Bus, ifsc: u16) -> Self {
        let card = Card::new(
            Micros(0),
            &parameters(bus, ifsc),
            [&[NAD_GP, NAD_VENDOR], &[NAD_EUICC]],
        );
        Self {
            card: card.unwrap(),
            now: Micros(5_000),
            bus,
        }
    }

    fn write(&mut self, block: &str) -> bool {
        self.now = self.now.after(1_000);
        self.card
            .write(self.now, &hex::decode(block.replace(' ', "")).unwrap())
    }

    /// In pieces of so many bytes, after a command has run, if one waits.
    fn read(&mut self, piece: usize) -> String {
        if let Some((target, command)) = self
            .card
            .command()
            .map(|(target, command)| (target, command.to_vec()))
        {
            self.card.take(target);
            let answer: &[u8] = if command[1] == 0x84 {
                &[0x11, 0x22, 0x90, 0x00]
            } else {
                &[0x6A, 0x82]
            };
            self.card.answer(self.now, target, answer);
        }
        self.now = self.now.after(1_000);
        let filler = if self.bus == Bus::Spi { 0x00 } else { 0xFF };
        let mut all: Vec<u8> = Vec::new();
        loop {
            let mut bytes = vec![0x77; piece];
            if !self.card.read(self.now, &mut bytes) {
                assert_eq!((self.bus, all.len()), (Bus::I2c, 0));
                return String::new();
            }
            if all.is_empty() && bytes.iter().all(|byte| *byte == filler) {
                return String::new();
            }
            all.extend(bytes);
            let len = match all[..] {
                [_, _, high, low, ..] => 6 + usize::from(u16::from_be_bytes([high, low])),
                _ => continue,
            };
            if all.len() >= len {
                // What is behind the block.
                assert!(all[len..].iter().all(|byte| *byte == filler));
                return hexed(&all[..len]);
            }
        }
    }

    fn says(&mut self, pairs: &[(&str, &str)]) {
        for (number, (heard, said)) in pairs.iter().enumerate() {
            assert!(self.write(heard), "{heard}");
            assert_eq!(
                self.read(1 + number * 3 % 11),
                said.replace(' ', ""),
                "to {heard}"
            );
            // SWR is followed by a start.
            self.now = self.now.after(10_000);
        }
    }
}

const CIP_SPI: &str = "12E4001601 00 01 0C 00 05 03E8 64 0A 0064 0100 0005 04 012C 00FE 00 6701";
const CIP_I2C: &str = "12E4001201 00 02 08 00 05 0190 64 0A 000A 04 012C 00FE 00 AE69";

/// Blocks as open hosts send and take them (NXP plug-and-trust, Infineon's T=1' library, Thales's HAL), CRC recomputed; each NAD is answered with its nibbles swapped, in pieces of any length.
#[test]
fn published_blocks_are_answered_bit_for_bit() {
    for (bus, cip) in [(Bus::Spi, CIP_SPI), (Bus::I2c, CIP_I2C)] {
        Bench::new(bus, 254).says(&[
            ("21CF00002F6B", "12EF0000456F"),
            ("21C4000006CD", cip),
            ("21C0000065AC", "12E000000FA8"),
            ("21C100020400E42F", "12E1000204004F13"),
            ("2100000500A4040000AC14", "120000026A8237EE"),
            ("2180000063DA", "120000026A8237EE"),
            ("21C60000B375", "12E60000D971"),
        ]);
        Bench::new(bus, 254).says(&[
            ("5ACF0000B53B", "A5EF000073D2"),
            ("5A00000500A4040000EB17", "A50000026A82E94D"),
        ]);
    }
}

/// The worked exchange of `docs/spec/transports.md`, section 4.
#[test]
fn the_page_shows_an_exchange_that_happens() {
    let page = include_str!("../../../../docs/spec/transports.md");
    let block = page
        .split("```t1p\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let lines: Vec<_> = block.lines().map(|line| line.split_at(2)).collect();
    let pairs: Vec<_> = lines.chunks(2).map(|pair| (pair[0].1, pair[1].1)).collect();
    assert!(lines.chunks(2).all(|pair| (pair[0].0, pair[1].0) == ("> ", "< ")));
    assert_eq!(pairs.len(), 8);
    Bench::new(Bus::Spi, 254).says(&pairs);
    // The device's end of it: with the order of the page, and its command.
    let mut device = Device::<APDU, 1_030>::new(Micros(0), Bus::Spi, NAD_GP, 7);
    assert!(device.open(Micros(0), ORDER_RESET_FIRST));
    let mut out = [0; 1_030];
    let mut now = Micros(0);
    for (said, heard) in &pairs[..5] {
        now = now.after(100_000);
        if device.opened().is_some() {
            device.start(now, &hex::decode("00A4040000").unwrap());
            now = now.after(100_000);
        }
        let Some(Access::Write(len)) = device.access(now, &mut out) else {
            panic!("to {heard}")
        };
        assert_eq!(hexed(&out[..len]), *said);
        device.wrote(now, true);
        now = now.after(1_000);
        assert_eq!(device.access(now, &mut out), Some(Access::Read(7)));
        device.read(now, Some(&hex::decode(heard).unwrap()));
    }
    assert_eq!(device.ended(), Some(Ended::Answer(&[0x6A, 0x82])));
}

/// S(IFS) says a length in one byte or two, 1 to 0FF9, compared as one number; what is beyond is refused and changes nothing.
#[test]
fn a_length_is_one_number() {
    let check = |inf: &str, good: bool| {
        let mut bench = Bench::new(Bus::I2c, 254);
        let bytes = hex::decode(format!("21C1{:04X}{inf}", inf.len() / 2)).unwrap();
        let crc = sekisho_block::check::crc(&bytes);
        assert!(bench.write(&format!("{}{crc:04X}", hexed(&bytes))));
        let said = bench.read(6);
        assert_eq!(said.starts_with("12E1"), good, "{inf}: {said}");
        assert_eq!(said.starts_with("1282"), !good, "{inf}: {said}");
    };
    for inf in ["01", "FE", "0001", "00FF", "03E8", "0EFB", "0FF9"] {
        check(inf, true);
    }
    for inf in ["00", "FF", "0000", "0FFA", "1000", "FFFF", "", "000400"] {
        check(inf, false);
    }
}

/// CIP: written as it is parsed; hostile ones are refused. A device does not begin a session with them.
#[test]
fn parameters_are_written_as_they_are_parsed() {
    for (bus, block) in [(Bus::Spi, CIP_SPI), (Bus::I2c, CIP_I2C)] {
        let block = hex::decode(block.replace(' ', "")).unwrap();
        let inf = &block[4..block.len() - 2];
        let cip = Cip::parse(inf).unwrap();
        assert_eq!(cip, parameters(bus, 254));
        let mut out = [0; LEN_MAX];
        let len = cip.write(&mut out).unwrap();
        assert_eq!(&out[..len], inf);
        for end in 0..inf.len() {
            assert!(Cip::parse(&inf[..end]).is_err());
        }
        assert!(Cip::parse(&[inf, &[0]].concat()).is_err());
        for (at, value) in [(0, 2), (2, 3), (3, 7), (inf.len() - 3, 0x10)] {
            let mut bad = inf.to_vec();
            bad[at] = value;
            assert!(Cip::parse(&bad).is_err(), "{at}");
        }
        if let Physical::Spi { segt, wut, .. } = cip.physical {
            for seal in [0, 1, 6, 7, 8] {
                let physical = Physical::Spi { segt, seal, wut };
                let len = Cip { physical, ..cip }.write(&mut out).unwrap();
                assert_eq!(Cip::parse(&out[..len]).is_err(), (1..7).contains(&seal), "{seal}");
            }
        }
        let full = Cip {
            issuer: &[1; 16],
            historical: &[2; 15],
            ..cip
        };
        let len = full.write(&mut out).unwrap();
        assert_eq!(Cip::parse(&out[..len]), Ok(full));
        assert_eq!(Cip { ifsc: 0, ..cip }.write(&mut out), None);
        assert_eq!(
            Cip {
                issuer: &[1; 60],
                ..cip
            }
            .write(&mut out),
            None
        );
    }
}

/// Each order of starting, on each bus, with each NAD and each first read: then commands and answers of any length, a host without IFS too.
#[test]
fn every_host_order_comes_to_a_session() {
    for bus in BUSES {
        for order in ORDERS {
            for (nad, target) in [(NAD_GP, 0), (NAD_VENDOR, 0), (NAD_EUICC, 1)] {
                for first in [1, 4, 6, 7, 20] {
                    let mut wire = Wire::new(bus, 1, Faults::default());
                    let mut card = CardNode::new(Micros(0), &parameters(bus, 500));
                    let mut device = DeviceNode::new(Micros(0), bus, nad, first);
                    assert!(device.open(Micros(0), order));
                    wire.run(&mut device, &mut card, |device| device.opened().is_some());
                    assert_eq!(device.opened(), Some(Ok(())), "{bus:?} {order:?} {nad:02X}");
                    assert_eq!(card.resets.len(), usize::from(order == ORDER_RESET_FIRST));
                    for (len, answer) in [(5, 0), (400, 90), (1_400, 180)] {
                        let mut command = vec![0x80, answer];
                        command.resize(len, 3);
                        assert!(device.start(wire.now, &command));
                        wire.run(&mut device, &mut card, |device| device.ended().is_some());
                        assert_eq!(device.ended(), Some(Ended::Answer(&answer_to(&command)[..])));
                        assert_eq!(card.ran.pop(), Some((target, command)));
                    }
                    assert!(device.ask(wire.now, Service::Release));
                    wire.run(&mut device, &mut card, |device| device.asked().is_some());
                    assert!(card.card.is_asleep());
                    // The next access wakes it.
                    assert!(device.start(wire.now, &[0x80, 1]));
                    wire.run(&mut device, &mut card, |device| device.ended().is_some());
                    assert!(matches!(device.ended(), Some(Ended::Answer(_))));
                }
            }
        }
    }
}

fn sealed(block: &str) -> String {
    let crc = sekisho_block::check::crc(&hex::decode(block).unwrap());
    format!("{block}{crc:04X}")
}

/// Before PWT nothing is acknowledged or answered; SWR asks for a reset of its target, and starts after its answer has been read; RESYNCH comes in any state, twice, before CIP; the session's end and a long silence let the card sleep.
#[test]
fn power_follows_what_is_said() {
    for bus in BUSES {
        let mut bench = Bench::new(bus, 254);
        let mut bytes = [0x77; 3];
        assert!(
            !bench
                .card
                .write(Micros(4_999), &hex::decode("21C4000006CD").unwrap())
        );
        assert_eq!(bench.card.read(Micros(4_999), &mut bytes), bus == Bus::Spi);
        bench.says(&[("21C0000065AC", "12E000000FA8"), ("21C0000065AC", "12E000000FA8")]);
        assert_eq!(bench.card.reset_wanted(), None);
        assert!(bench.write("21CF00002F6B"));
        assert_eq!(
            (bench.card.reset_wanted(), bench.card.reset_wanted()),
            (Some(0), None)
        );
        assert_eq!(bench.read(6), "12EF0000456F");
        let read_at = bench.now;
        assert!(
            !bench
                .card
                .write(read_at.after(4_999), &hex::decode("21C0000065AC").unwrap())
        );
        bench.now = read_at.after(5_000);
        bench.says(&[("21C0000065AC", "12E000000FA8")]);
        // The session's end by the number of older hosts.
        assert!(bench.write(&sealed("21C50000")));
        assert_eq!(bench.read(6), sealed("12E50000"));
        assert!(bench.card.is_asleep());
        bench.says(&[("21C0000065AC", "12E000000FA8")]);
        assert!(!bench.card.is_asleep());
        // PST of 100 ms, then the next access.
        let at = bench.card.deadline().unwrap();
        bench.card.expire(at);
        assert!(bench.card.is_asleep());
        bench.now = at;
        bench.says(&[("21C0000065AC", "12E000000FA8")]);
        assert!(!bench.card.is_asleep());
    }
}

/// A second write before the answer is read drops that; what is for another address is nobody's; the targets of a bus have numbers of their own.
#[test]
fn a_write_drops_what_was_not_read() {
    let mut bench = Bench::new(Bus::Spi, 254);
    assert!(bench.write("2100000500A4040000AC14"));
    let mut bytes = [0; 4];
    bench.read(1);
    let mut bench = Bench::new(Bus::Spi, 254);
    assert!(bench.write("21C4000006CD"));
    bench.now = bench.now.after(500);
    assert!(bench.card.read(bench.now, &mut bytes));
    assert_eq!(hexed(&bytes), "12E40016");
    bench.says(&[("21C0000065AC", "12E000000FA8")]);
    assert!(bench.write(&sealed("31C00000")));
    assert_eq!(bench.read(6), "");
    // A command to one target, RESYNCH to the other: the first goes on with its numbers.
    bench.says(&[("2100000500A4040000AC14", "120000026A8237EE")]);
    assert!(bench.write(&sealed("4BC00000")));
    assert!(bench.read(6).starts_with("B4E00000"));
    bench.says(&[(&sealed("2140000500A4040000"), &sealed("124000026A82"))]);
}

/// Noise before a block is no block: a device waits for the card's NAD.
#[test]
fn noise_before_a_block_is_passed_over() {
    let mut device = DeviceNode::new(Micros(0), Bus::Spi, NAD_GP, 7);
    let mut now = Micros(30_000);
    let mut out = [0; BLOCK];
    assert!(device.start(now, &[0x80, 1]));
    now = device.deadline().unwrap();
    assert!(matches!(device.access(now, &mut out), Some(Access::Write(_))));
    device.wrote(now, true);
    let block = hex::decode(sealed("120000029000")).unwrap();
    for bytes in [&[0x00, 0xFF, 0x31, 0x21, 0x48, 0x00, 0x12], &block[1..]] {
        now = device.deadline().unwrap();
        assert!(matches!(device.access(now, &mut out), Some(Access::Read(_))));
        device.read(now, Some(bytes));
    }
    assert_eq!(device.ended(), Some(Ended::Answer(&[0x90, 0x00])));
}

/// After SWR nothing is done for PWT; a WTX that was granted makes the waiting time longer once.
#[test]
fn times_follow_from_what_is_said() {
    let mut device = DeviceNode::new(Micros(0), Bus::I2c, NAD_GP, 6);
    let mut out = [0; BLOCK];
    let mut now = Micros(100_000);
    let mut hears = |device: &mut DeviceNode, block: &str| {
        now = device.deadline().unwrap().max(now);
        while let Some(Access::Write(_)) = device.access(now, &mut out) {
            device.wrote(now, true);
            now = device.deadline().unwrap();
        }
        device.read(now, Some(&hex::decode(sealed(block)).unwrap()));
        now
    };
    assert!(device.open(Micros(100_000), ORDER_RESET_FIRST));
    let at = hears(&mut device, "12EF0000");
    assert_eq!(device.deadline(), Some(at.after(25_000)));
    let mut device = DeviceNode::new(Micros(0), Bus::I2c, NAD_GP, 6);
    assert!(device.start(Micros(100_000), &[0x80, 1]));
    let at = hears(&mut device, "12C3000105");
    let mut now = device.deadline().unwrap();
    assert!(matches!(device.access(now, &mut out), Some(Access::Write(7))));
    device.wrote(now, true);
    now = device.deadline().unwrap();
    // Five times 300 ms.
    while let Some(Access::Read(_)) = device.access(now, &mut out) {
        device.read(now, None);
        now = device.deadline().unwrap();
        if matches!(device.access(now, &mut out), Some(Access::Write(_))) {
            break;
        }
    }
    assert!(now > at.after(1_490_000) && now < at.after(1_520_000), "{now:?}");
}
