//! LR1: published records, streams in any pieces, and what closes one.

use crate::line;
use line::Rng;
use sekisho_block::Micros;
use sekisho_block::lr1::{From, Protocol, Reader, Record};
use sekisho_block::t0::{self, OUT_MAX};
use sekisho_block::t1p::Bus;

const I2C: Protocol = Protocol::Bus(Bus::I2c);

/// The records of `docs/spec/transports.md`, section 7, each written and read.
#[test]
fn the_page_shows_records() {
    let page = include_str!("../../../../docs/spec/transports.md");
    let mut count = 0;
    for (mark, protocol) in [
        ("```lr1-t0\n", Protocol::Characters),
        ("```lr1-t1\n", Protocol::Characters),
        ("```lr1-spi\n", Protocol::Bus(Bus::Spi)),
        ("```lr1-i2c\n", I2C),
        ("```lr1-swp\n", Protocol::Wire),
    ] {
        let block = page.split(mark).nth(1).unwrap().split("```").next().unwrap();
        let mut readers = [From::Device, From::Card].map(|from| Reader::<64>::new(protocol, from));
        for text in block.lines() {
            let (end, bytes) = text.split_at(2);
            let bytes = hex::decode(bytes).unwrap();
            let mut rest = &bytes[..];
            let record = readers[usize::from(end == "< ")]
                .read(&mut rest)
                .unwrap()
                .unwrap();
            let mut out = [0; 80];
            let len = record.write(&mut out).unwrap();
            assert_eq!((&out[..len], rest), (&bytes[..], &[][..]));
            count += 1;
        }
    }
    assert_eq!(count, 23);
}

/// Any split and any merge of a stream gives the same records.
#[test]
fn pieces_mean_nothing() {
    let mut rng = Rng::new(4);
    let body = [0x5A; 40];
    let records = [
        Record::On,
        Record::Data(&body),
        Record::Data(&[]),
        Record::Poll(7),
        Record::Reset,
        Record::Tick(70_000),
        Record::Off,
    ];
    let mut stream = Vec::new();
    let mut out = [0; 80];
    for record in &records {
        let len = record.write(&mut out).unwrap();
        stream.extend(&out[..len]);
    }
    for _ in 0..200 {
        let mut reader = Reader::<40>::new(I2C, From::Device);
        let mut count = 0;
        let mut at = 0;
        while at < stream.len() {
            let end = stream.len().min(at + 1 + rng.below(30) as usize);
            let mut piece = &stream[at..end];
            at = end;
            while let Some(record) = reader.read(&mut piece).unwrap() {
                assert_eq!(record, records[count]);
                count += 1;
            }
            assert!(piece.is_empty());
        }
        assert_eq!(count, records.len());
    }
}

/// What cannot be closes the stream, for good.
#[test]
fn what_cannot_be_closes_the_stream() {
    let on = "000101";
    for (protocol, from, bytes) in [
        (I2C, From::Device, "0000"),
        // Before power: DATA, RST, POLL. After OFF, too.
        (I2C, From::Device, "00020061"),
        (I2C, From::Device, "000103"),
        (I2C, From::Device, "0003040006"),
        (I2C, From::Device, "0001010001020003040006"),
        // Another kind, another body, longer than the buffer.
        (I2C, From::Device, "000106"),
        (I2C, From::Device, "00020100"),
        (I2C, From::Device, "0001010002040006"),
        (I2C, From::Device, "00041000000000"),
        (I2C, From::Device, "000101FFFF"),
        (I2C, From::Device, "000101000A00"),
        // The wrong end, or another protocol.
        (I2C, From::Device, "000105"),
        (I2C, From::Device, "000111"),
        (I2C, From::Card, on),
        (I2C, From::Card, "00051000000001"),
        (Protocol::Bus(Bus::Spi), From::Card, "000105"),
        (Protocol::Characters, From::Card, "000105"),
        (Protocol::Characters, From::Device, "0001010003040006"),
        (Protocol::Wire, From::Device, "0001010003040006"),
    ] {
        let mut reader = Reader::<8>::new(protocol, from);
        let bytes = hex::decode(bytes).unwrap();
        let mut rest = &bytes[..];
        let closed = loop {
            match reader.read(&mut rest) {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert!(closed, "{bytes:02X?}");
        let on = hex::decode(on).unwrap();
        assert!(reader.read(&mut &on[..]).is_err());
    }
    assert_eq!(Record::Data(&[0; 65_535]).write(&mut [0; 70_000]), None);
    assert_eq!(Record::Data(&[0; 65_534]).write(&mut [0; 70_000]), Some(65_537));
    assert_eq!(Record::Poll(1).write(&mut [0; 4]), None);
}

/// The page's T=0 conversation through real ends: what the device says in records, the card answers in records.
#[test]
fn a_card_of_t0_speaks_through_records() {
    let page = include_str!("../../../../docs/spec/transports.md");
    let block = page
        .split("```lr1-t0\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let timing = t0::Timing {
        wt: 1_000_000,
        guard: 0,
    };
    let mut card = None;
    let mut reader = Reader::<300>::new(Protocol::Characters, From::Device);
    let mut said = Vec::new();
    for text in block.lines() {
        let (mark, bytes) = text.split_at(2);
        let bytes = hex::decode(bytes).unwrap();
        if mark == "< " {
            assert_eq!(said, bytes);
            continue;
        }
        let mut out = [0; OUT_MAX];
        let mut record = [0; 600];
        let len = match reader.read(&mut &bytes[..]).unwrap().unwrap() {
            Record::On => {
                card = Some(t0::Card::<300, 1>::new(
                    timing,
                    t0::Acknowledge::Whole,
                    t0::direction,
                ));
                Record::Data(&[0x3B, 0x00]).write(&mut record).unwrap()
            }
            Record::Data(data) => {
                let card = card.as_mut().unwrap();
                card.hear(Micros(0), data);
                if card.command().is_some() {
                    card.take();
                    card.answer(&[&[7; 28][..], &[0x90, 0x00]].concat());
                }
                let len = card.say(Micros(0), &mut out).unwrap();
                Record::Data(&out[..len]).write(&mut record).unwrap()
            }
            record => panic!("{record:?}"),
        };
        said = record[..len].to_vec();
    }
}
