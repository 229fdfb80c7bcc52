//! Faults that people have reported of readers, cards and hosts (public threads; each test names its own), as what the ends here do instead.

use sekisho_block::atr::BlockParameters;
use sekisho_block::t0::{self, OUT_MAX};
use sekisho_block::t1::{self, BLOCK_MAX};
use sekisho_block::t1p::{self, Access, Bus, NAD_VENDOR, ORDER_RESYNCH_FIRST};
use sekisho_block::{Ended, Fault, Micros};

const T0: t0::Timing = t0::Timing {
    wt: 1_000_000,
    guard: 0,
};
const T1: t1::Timing = t1::Timing {
    cwt: 10_000,
    bwt: 1_000_000,
    guard: 10,
};

/// What a device of T=0 says and hears, header by header.
fn t0_says(command: &str, pairs: &[(&str, &str)]) -> Option<Vec<u8>> {
    let mut device = t0::Device::<1_000>::new(T0);
    let mut out = [0; OUT_MAX];
    assert!(device.start(&hex::decode(command).unwrap()));
    for (said, heard) in pairs {
        let len = device.say(Micros(0), &mut out).unwrap();
        assert_eq!(hex::encode_upper(&out[..len]), *said);
        device.hear(Micros(0), &hex::decode(heard).unwrap());
    }
    assert!(device.say(Micros(0), &mut out).is_none());
    match device.ended()? {
        Ended::Answer(answer) => Some(answer.to_vec()),
        end => panic!("{end:?}"),
    }
}

/// What a device of T=1 says to blocks, and how the exchange ended.
fn t1_says(pairs: &[(&str, &str)]) -> t1::Device<600> {
    let mut device = t1::Device::<600>::new(0, BlockParameters::DEFAULT, T1);
    let mut out = [0; BLOCK_MAX];
    let mut now = Micros(0);
    assert!(device.start(&[0x00, 0x84, 0x00, 0x00, 0x08]));
    device.say(now, &mut out).unwrap();
    for (heard, said) in pairs {
        device.hear(now, &hex::decode(heard).unwrap());
        now = now.after(100);
        device.expire(now);
        let len = device.say(now, &mut out).unwrap_or(0);
        assert_eq!(hex::encode_upper(&out[..len]), *said, "to {heard}");
    }
    device
}

/// LudovicRousseau/CCID #72: a card answers 82 with a number that fits nothing, and the driver goes on for ever. Each error counts.
#[test]
fn reported_1_every_error_counts() {
    let again = ("00920092", "00800080");
    let device = t1_says(&[again, again, again, ("00920092", "")]);
    assert_eq!(device.ended(), Some(Ended::Unknown(Fault::Garbled)));
}

/// LudovicRousseau/CCID #162: a driver chose T=0 for a card of T=1 when a command that it might have left away failed. What an ATR offers first holds.
#[test]
fn reported_2_a_failure_chooses_no_protocol() {
    let bytes = hex::decode("3B808131FE458B").unwrap();
    let atr = sekisho_block::atr::parse(&bytes).unwrap();
    assert_eq!(atr.protocol(), sekisho_block::atr::Protocol::T1);
    assert!(!atr.offers(sekisho_block::atr::Protocol::T0));
}

/// OpenSC #1731: Le 00 is answered 6100, and the host never asks for the data. 6100 is 256 or more.
#[test]
fn reported_3_no_more_is_256_or_more() {
    let data = "5A".repeat(256);
    let answer = t0_says(
        "00B0000000",
        &[("00B0000000", "6100"), ("00C0000000", &format!("C0{data}9000"))],
    );
    assert_eq!(answer.unwrap().len(), 258);
}

/// OpenSC #632: 61XX behind the data of GET RESPONSE: on until it is something else.
#[test]
fn reported_4_more_behind_more() {
    let answer = t0_says(
        "00A4040002090900",
        &[
            ("00A4040002", "A4"),
            ("0909", "6102"),
            ("00C0000002", "C001026103"),
            ("00C0000003", "C00304059000"),
        ],
    );
    assert_eq!(answer, Some(vec![1, 2, 3, 4, 5, 0x90, 0x00]));
}

/// danm-de/pcsc-sharp #9: GET RESPONSE for less than waits is answered 6C00. A card gives what is asked for; a device takes 6CXX, where 00 is 256.
#[test]
fn reported_5_less_than_waits() {
    let data = "5A".repeat(256);
    let answer = t0_says(
        "00A4040001090A",
        &[
            ("00A4040001", "A4"),
            ("09", "6100"),
            ("00C000000A", "6C00"),
            ("00C0000000", &format!("C0{data}9000")),
        ],
    );
    assert_eq!(answer.unwrap().len(), 258);
    let mut card = t0::Card::<300, 1>::new(T0, t0::Acknowledge::Whole, t0::direction);
    let mut out = [0; OUT_MAX];
    let mut says = |heard: &[u8], answer: Option<&[u8]>| {
        card.hear(Micros(0), heard);
        if let Some(answer) = answer {
            card.take();
            card.answer(answer);
        }
        card.say(Micros(0), &mut out).map(|len| out[..len].to_vec())
    };
    assert_eq!(
        says(&[0, 0xA4, 4, 0, 0], Some(&[&[7; 256][..], &[0x90, 0]].concat())),
        Some(vec![0x61, 0x00])
    );
    assert_eq!(says(&[0, 0xC0, 0, 0, 2], None), Some(vec![0xC0, 7, 7, 0x61, 254]));
}

/// tomkp/emv #82, philipWendland/IsoApplet #12, roelderickx/connective-plugin-linux #1: 61XX and 6CXX come up at one reader and not at another. They are the device's matter: the same R-APDU over T=0 and T=1.
#[test]
fn reported_6_and_7_the_answer_is_that_of_other_transports() {
    let over_t0 = t0_says(
        "00A404000109FF",
        &[
            ("00A4040001", "A4"),
            ("09", "6103"),
            ("00C0000003", "C00102039000"),
        ],
    );
    let device = t1_says(&[("000005010203900095", "")]);
    let over_t1 = match device.ended() {
        Some(Ended::Answer(answer)) => answer.to_vec(),
        end => panic!("{end:?}"),
    };
    assert_eq!(over_t0, Some(over_t1));
}

/// ChameleonUltra #496 and the like: R with the number that was received makes the card repeat its block for ever. R has the number that is expected next.
#[test]
fn reported_8_r_names_what_is_expected_next() {
    let device = t1_says(&[("0020010120", "00900090"), ("0040029000D2", "")]);
    assert_eq!(device.ended(), Some(Ended::Answer(&[0x01, 0x90, 0x00])));
}

/// LudovicRousseau/pyscard #18: an answer of no bytes, and the host's library fails on its status word. It is an error of the card, whose outcome is unknown.
#[test]
fn reported_9_no_empty_answer() {
    assert_eq!(
        t1_says(&[("00000000", "")]).ended(),
        Some(Ended::Unknown(Fault::Protocol))
    );
    assert_eq!(
        t1_says(&[("0000019091", "")]).ended(),
        Some(Ended::Unknown(Fault::Protocol))
    );
}

/// meshtastic/firmware #10225: the host asks once after RESYNCH and takes a card that is not ready for none. A device polls until BWT, and not acknowledged is not yet. Nitrokey/nitrokey-3-firmware #335: RESYNCH sets both ends' numbers.
#[test]
fn reported_10_and_11_not_yet_is_no_answer() {
    let mut now = Micros(0);
    let mut device = t1p::Device::<600, 600>::new(now, Bus::I2c, NAD_VENDOR, 4);
    let mut out = [0; 600];
    assert!(device.open(now, ORDER_RESYNCH_FIRST));
    now = device.deadline().unwrap();
    assert_eq!(device.access(now, &mut out), Some(Access::Read(4)));
    device.read(now, None);
    now = device.deadline().unwrap();
    assert_eq!(device.access(now, &mut out), Some(Access::Write(6)));
    assert_eq!(out[..4], [0x5A, 0xC0, 0, 0]);
    device.wrote(now, true);
    // 50 ms of nothing.
    for _ in 0..50 {
        now = device.deadline().unwrap();
        assert_eq!(device.access(now, &mut out), Some(Access::Read(4)));
        device.read(now, None);
    }
    now = device.deadline().unwrap();
    let response = hex::decode("A5E00000").unwrap();
    let crc = sekisho_block::check::crc(&response).to_be_bytes();
    device.read(now, Some(&response));
    now = device.deadline().unwrap();
    assert_eq!(device.access(now, &mut out), Some(Access::Read(2)));
    device.read(now, Some(&crc));
    now = device.deadline().unwrap();
    assert_eq!(device.access(now, &mut out), Some(Access::Write(6)));
    assert_eq!(out[..4], [0x5A, 0xC4, 0, 0]);
}

/// EthereumPhone/PQ1 #114: no N(S) looked at, any response taken, no bound in all. A response to something else, a copy, and a copy for ever.
#[test]
fn reported_12_what_answers_is_looked_at() {
    let stray = ("00E000E0", "");
    let device = t1_says(&[stray, ("0040029000D2", ""), ("000002900092", "")]);
    assert_eq!(device.ended(), Some(Ended::Answer(&[0x90, 0x00])));
    let device = t1_says(&[stray; 17]);
    assert_eq!(device.ended(), Some(Ended::Unknown(Fault::Garbled)));
}

/// NXP's and Thales's hosts compared the two bytes of S(IFS) one by one, and 1000 passed. They are one number.
#[test]
fn reported_13_a_length_is_one_number() {
    let mut card = sekisho_block::block::Card::<100>::new(sekisho_block::block::Shape::Prime, 254);
    let mut out = [0; 16];
    for (inf, pcb) in [
        ([0x10, 0x00], 0x82),
        ([0x0F, 0xFA], 0x82),
        ([0x0F, 0xF9], 0xE1),
        ([0x03, 0xFA], 0xE1),
    ] {
        let block = sekisho_block::block::Block {
            nad: 0x21,
            pcb: sekisho_block::block::Pcb::Request(sekisho_block::block::Service::Ifs),
            inf: &inf,
        };
        card.hear(Ok(block));
        card.write(&[], &mut out).unwrap();
        assert_eq!(out[1], pcb, "{inf:02X?}");
    }
}
