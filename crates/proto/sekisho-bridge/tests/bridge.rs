//! The device's conversion: the page's tables and exchange, figures 12 and 13, and what is not as it should be.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers of tests are tests"
)]

mod ends;

use ends::{Element, PAGE, SEED, record, rows, run};
use sekisho_apdu::StatusWord;
use sekisho_bridge::{
    Bridge, Buffers, Correspondence, Ended, Extent, RECORD_MAX, Row, Settings, Step, Why, handshake_name,
};

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

/// Section 8, line by line.
#[test]
fn the_page_shows_an_exchange() {
    let mut buffers = ends::Memory::new(8);
    let mut bridge = buffers.bridge(Settings {
        command_data: 8,
        ..Settings::DEFAULT
    });
    bridge.open(1, None);
    let exchange = PAGE.split("```tls-apdu\n").nth(1).unwrap();
    let mut lines = 0;
    for line in exchange.split("```").next().unwrap().lines() {
        lines += 1;
        let Some((who, bytes)) = line.split_once(' ') else {
            assert_eq!((line, bridge.step()), ("over", Step::Over(Ended::BySe)));
            continue;
        };
        let bytes = hex(bytes);
        match (who, bridge.step()) {
            (">", Step::Command(command)) => {
                assert_eq!(hex::encode_upper(command), hex::encode_upper(&bytes))
            }
            ("s<", Step::Send(record)) => {
                assert_eq!([record.header(), record.body].concat(), bytes, "{line}")
            }
            ("<", Step::Command(_)) => bridge.answered(&bytes),
            ("s>", Step::Receive) => {
                bridge.space()[..bytes.len()].copy_from_slice(&bytes);
                bridge.received(bytes.len());
            }
            (_, step) => panic!("{line}: {step:?}"),
        }
    }
    assert_eq!(lines, 37);
}

/// Section 2: both tables, in both directions.
#[test]
fn the_page_shows_both_tables() {
    let seeds: Vec<Row> = SEED.to_vec();
    let seeds = Correspondence::table(&seeds).unwrap();
    let section = PAGE.split("## 2 ").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut count = 0;
    for row in rows(section) {
        let [name, handshake_type, identity, seed] = row[..] else {
            panic!("{row:?}")
        };
        let number = |cell: &str| u8::from_str_radix(cell, 16).ok();
        let Some(handshake_type) = number(handshake_type) else {
            continue;
        };
        assert_eq!(handshake_name(handshake_type), name);
        for (table, cell) in [(Correspondence::IDENTITY, identity), (seeds, seed)] {
            assert_eq!(table.ins(handshake_type), number(cell), "{name}");
            if let Some(ins) = number(cell) {
                assert_eq!(table.handshake_type(ins), Some(handshake_type), "{name}");
            }
        }
        count += 1;
    }
    assert_eq!(count, 10);
    for (ins, handshake_type) in [
        (0, None),
        (4, Some(4)),
        (0x16, Some(0x16)),
        (0x1F, Some(0x1F)),
        (0x20, None),
    ] {
        assert_eq!(Correspondence::IDENTITY.handshake_type(ins), handshake_type);
    }
}

#[test]
fn a_table_names_each_once_and_nothing_above_1f() {
    let row = |handshake_type, ins| Row { handshake_type, ins };
    for wrong in [
        [row(1, 0), row(2, 0)],
        [row(1, 0), row(1, 1)],
        [row(1, 0), row(2, 0x20)],
    ] {
        assert_eq!(Correspondence::table(&wrong), None, "{wrong:?}");
    }
    assert!(Correspondence::table(&[]).is_some());
    assert!(Correspondence::table(&[row(0, 0x1F)]).is_some());
}

#[test]
fn every_p1p2_is_an_extent() {
    for word in 0..=u16::MAX {
        let extent = Extent::from_p1p2(word.to_be_bytes());
        assert_eq!(extent.p1p2(), word.to_be_bytes());
        assert_eq!(
            (extent.len(), extent.more),
            (usize::from(word & 0x7FFF), word > 0x7FFF)
        );
        assert_eq!(Extent::new(extent.more, extent.len()), Some(extent));
    }
    assert_eq!(Extent::new(false, Extent::MAX + 1), None);
}

/// The messages of figures 12 and 13 in TLS 1.2, as section 7 lists them: bodies stand for themselves.
fn figures() -> Vec<(char, u8, Vec<u8>)> {
    let section = PAGE.split("## 7 ").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut messages = Vec::new();
    for row in rows(section) {
        let [_, content_type, piece] = row[..] else {
            panic!("{row:?}")
        };
        let Some(content_type) = content_type.get(..2).and_then(|text| text.parse().ok()) else {
            continue;
        };
        let way = if piece.contains('>') { '>' } else { '<' };
        let ins = u8::from_str_radix(&piece[piece.len() - 2..], 16).unwrap();
        let body = vec![ins; 300 + usize::from(ins)];
        let content = match (ins, content_type) {
            (0x20.., _) => vec![ins; 40],
            _ => [&[ins, 0, (body.len() >> 8) as u8, body.len() as u8][..], &body].concat(),
        };
        messages.push((way, content_type, content));
    }
    messages
}

/// The sequence of figures 12 and 13: each message comes to the SE by its instruction and leaves it as its record, whatever table both have.
#[test]
fn figures_12_and_13() {
    let messages = figures();
    assert_eq!(messages.len(), 15);
    for table in [Correspondence::IDENTITY, Correspondence::table(&SEED).unwrap()] {
        for command_data in [8, 255, 4096] {
            let (mut element, mut server) = (Element::new(table), Vec::new());
            // What the SE says follows what it got last before.
            let mut heard = 0;
            for (way, content_type, content) in &messages {
                match way {
                    '>' => {
                        server.extend(record(*content_type, 3, content));
                        heard += 1;
                    }
                    _ => element.say(heard, *content_type, content),
                }
            }
            let settings = Settings {
                channel: 2,
                table,
                command_data,
            };
            let (sent, ended) = run(settings, &mut element, &[&server]);
            assert_eq!(ended, Ended::Disconnected);
            assert_eq!(element.heard_records(), server);
            let mut first = true;
            let said: Vec<u8> = messages
                .iter()
                .filter(|(way, ..)| *way == '<')
                .flat_map(|(_, content_type, content)| {
                    let minor = if core::mem::take(&mut first) { 1 } else { 3 };
                    record(*content_type, minor, content)
                })
                .collect();
            assert_eq!(sent, said);
            let named: Vec<u8> = element.pieces.iter().map(|(ins, ..)| *ins).collect();
            let expected: Vec<u8> = messages
                .iter()
                .filter(|(way, ..)| *way == '>')
                .map(|(_, content_type, content)| match content_type {
                    20 => 0x22,
                    22 if content.len() > 40 => table.ins(content[0]).unwrap(),
                    22 => 0x21,
                    _ => 0x20,
                })
                .collect();
            assert_eq!(named, expected);
        }
    }
}

/// The same, with what the server sends merged into one record, and cut into records of 7 bytes.
#[test]
fn coalesced_and_cut() {
    let to_the_se: Vec<_> = figures()
        .into_iter()
        .filter(|(way, content_type, _)| *way == '>' && *content_type == 22)
        .take(5)
        .collect();
    let content: Vec<u8> = to_the_se
        .iter()
        .flat_map(|(_, _, content)| content.clone())
        .collect();
    let merged = record(22, 3, &content);
    let cut: Vec<u8> = content.chunks(7).flat_map(|chunk| record(22, 3, chunk)).collect();
    let mut element = Element::new(Correspondence::IDENTITY);
    run(Settings::DEFAULT, &mut element, &[&merged]);
    assert_eq!(
        element
            .pieces
            .iter()
            .map(|(ins, more, _)| (*ins, *more))
            .collect::<Vec<_>>(),
        [(2, true), (0x0B, true), (0x0C, true), (0x0D, true), (0x0E, false)]
    );
    assert_eq!(element.heard_records(), merged);
    let mut element = Element::new(Correspondence::IDENTITY);
    run(Settings::DEFAULT, &mut element, &[&cut]);
    assert!(element.pieces.iter().all(|(ins, ..)| *ins == 0x21));
    assert_eq!(element.heard_records(), cut);
}

/// The middle of a message may look like the beginning of one; behind its end a whole one has its instruction again.
#[test]
fn what_goes_on_is_no_message() {
    let server = [
        record(22, 3, &[0x0B, 0, 0, 9, 1]),
        record(22, 3, &[2, 0, 0, 1, 0xAA]),
        record(22, 3, &[2, 0, 0, 2, 0, 0, 1, 0xBB]),
    ]
    .concat();
    let mut element = Element::new(Correspondence::IDENTITY);
    run(Settings::DEFAULT, &mut element, &[&server]);
    let expected: [(u8, bool, &[u8]); 4] = [
        (0x21, false, &[0x0B, 0, 0, 9, 1]),
        (0x21, false, &[2, 0, 0, 1, 0xAA]),
        (0x21, true, &[2, 0, 0]),
        (2, false, &[0xBB]),
    ];
    for (piece, (ins, more, data)) in element.pieces.iter().zip(expected) {
        assert_eq!((piece.0, piece.1, &piece.2[..]), (ins, more, data));
    }
    assert_eq!(element.heard_records(), server);
}

/// Rule 3 of section 3: what may be encrypted has no type that a device could read.
#[test]
fn behind_a_change_of_cipher_handshake_is_opaque() {
    let hello = [2, 0, 0, 1, 0xAA];
    let server = [record(22, 3, &hello), record(20, 3, &[1]), record(22, 3, &hello)].concat();
    let mut element = Element::new(Correspondence::IDENTITY);
    run(Settings::DEFAULT, &mut element, &[&server]);
    assert_eq!(
        element.pieces.iter().map(|(ins, ..)| *ins).collect::<Vec<_>>(),
        [2, 0x22, 0x21]
    );
}

/// What is no record, or too long a one, is told to the SE, which has the last word; then it is over.
#[test]
fn what_is_no_record_ends_the_session_with_the_se_knowing_why() {
    let longest = [
        &[23, 3, 3][..],
        &u16::try_from(RECORD_MAX + 1).unwrap().to_be_bytes(),
    ]
    .concat();
    for (bytes, why) in [
        (b"HTTP/1.1 400".to_vec(), Why::NoRecord),
        (vec![24, 3, 3, 0, 1], Why::NoRecord),
        (vec![22, 2, 0, 0, 1], Why::NoRecord),
        (longest, Why::TooLong),
        (vec![23, 3, 3, 0], Why::Disconnected),
        (vec![], Why::Disconnected),
    ] {
        let mut element = Element::new(Correspondence::IDENTITY);
        let (sent, ended) = run(Settings::DEFAULT, &mut element, &[&bytes]);
        assert_eq!(element.closed, Some(why as u8), "{bytes:?}");
        assert!(element.pieces.is_empty());
        let alert = record(21, 3, &[1, why as u8]);
        match why {
            Why::Disconnected => assert_eq!((sent, ended), (vec![], Ended::Disconnected)),
            _ => assert_eq!((sent, ended), (alert, Ended::BySe)),
        }
    }
}

/// Nothing of an answer leaves that is not an answer as a whole.
#[test]
fn a_malformed_answer_ends_it_and_nothing_of_it_leaves() {
    let good = "A4230002020100";
    for (bad, ended) in [
        ("", Ended::Answer),
        ("90", Ended::Answer),
        ("A49000", Ended::Answer),
        ("A42300020201009000A4", Ended::Refused(StatusWord(0x00A4))),
        ("A523000202 0100 9000", Ended::Answer),
        ("B423000202 0100 9000", Ended::Answer),
        ("A423000201 0100 9000", Ended::Answer),
        ("A423000203 010000 9000", Ended::Answer),
        ("A423800202 0100 9000", Ended::Answer),
        ("A424000202 0100 9000", Ended::Answer),
        ("A400000202 0100 9000", Ended::Answer),
        ("A428000202 0100 9000", Ended::Answer),
        ("A42300020201 9000", Ended::Answer),
        ("6A80", Ended::Refused(StatusWord(0x6A80))),
        ("9001", Ended::Refused(StatusWord(0x9001))),
    ] {
        let bytes = hex(&if bad.len() > 4 && bad.ends_with("9000") {
            format!("{good}{bad}")
        } else {
            bad.to_owned()
        });
        let mut memory = ends::Memory::new(255);
        let mut bridge = memory.bridge(Settings::DEFAULT);
        bridge.open(1, Some(0x0102_0304));
        assert_eq!(
            bridge.step(),
            Step::Command(&hex("A428000108 0000000001020304 00"))
        );
        bridge.answered(&bytes);
        assert_eq!(bridge.step(), Step::Over(ended), "{bad}");
    }
}

/// An SE that says again and again that there is more, or says more than there is room for.
#[test]
fn an_answer_that_does_not_end() {
    for data in [&[][..], &[0xA4; 100]] {
        let mut memory = ends::Memory::new(255);
        let mut bridge = memory.bridge(Settings::DEFAULT);
        bridge.open(1, None);
        let answer = [data, &[0x61, 0x00]].concat();
        let mut asked = 0;
        while let Step::Command(_) = bridge.step() {
            bridge.answered(&answer);
            asked += 1;
            assert!(asked < 1000);
        }
        assert_eq!(bridge.step(), Step::Over(Ended::Answer));
    }
}

/// A session ends in the middle of a chain, with an alert.
#[test]
fn the_se_may_end_it_within_a_chain() {
    let mut memory = ends::Memory::new(8);
    let mut bridge = memory.bridge(Settings {
        command_data: 8,
        ..Settings::DEFAULT
    });
    bridge.open(1, None);
    bridge.step();
    bridge.answered(&[0x90, 0]);
    let server = record(23, 3, &[7; 20]);
    assert_eq!(bridge.step(), Step::Receive);
    bridge.space()[..server.len()].copy_from_slice(&server);
    bridge.received(server.len());
    assert_eq!(
        bridge.step(),
        Step::Command(&hex("B420001408 0707070707070707 00"))
    );
    bridge.answered(&hex("A423000202 0216 6285"));
    assert!(matches!(bridge.step(), Step::Send(record) if record.body == [2, 22]));
    assert_eq!(bridge.step(), Step::Over(Ended::BySe));
    bridge.close(Why::Asked);
    assert_eq!(bridge.step(), Step::Over(Ended::BySe));
    // In a chain there is nothing else to say.
    bridge.open(1, None);
    bridge.step();
    bridge.answered(&[0x90, 0]);
    bridge.step();
    bridge.space()[..server.len()].copy_from_slice(&server);
    bridge.received(server.len());
    bridge.step();
    bridge.answered(&hex("A423000202 0216 9000"));
    assert_eq!(bridge.step(), Step::Over(Ended::Answer));
}

/// The page's exchange with another session's record in the way; and an SE that says so without end.
#[test]
fn a_record_goes_from_its_first_piece_again() {
    let page = ends::PAGE.split("```tls-again\n").nth(1).unwrap();
    let lines: Vec<_> = page.split("```").next().unwrap().lines().collect();
    let mut memory = ends::Memory::new(8);
    let mut bridge = memory.bridge(Settings {
        command_data: 8,
        ..Settings::DEFAULT
    });
    bridge.open(1, None);
    for line in &lines {
        let bytes = hex(&line[2..]);
        match &line[..2] {
            "> " => assert_eq!(bridge.step(), Step::Command(&bytes), "{line}"),
            "< " => bridge.answered(&bytes),
            _ => {
                assert_eq!(bridge.step(), Step::Receive);
                bridge.space()[..bytes.len()].copy_from_slice(&bytes);
                bridge.received(bytes.len());
            }
        }
    }
    assert_eq!(bridge.step(), Step::Receive);
    let server = record(23, 3, &[7; 20]);
    bridge.space()[..server.len()].copy_from_slice(&server);
    bridge.received(server.len());
    let mut times = 0;
    while let Step::Command(command) = bridge.step() {
        assert_eq!(command[..6], hex("B42000140807"));
        bridge.answered(&[0x64, 0]);
        times += 1;
    }
    assert_eq!(times, 10_001);
    assert_eq!(bridge.step(), Step::Over(Ended::Refused(sekisho_bridge::AGAIN)));
    // It is an answer to pieces alone.
    for close in [false, true] {
        bridge.open(1, None);
        if close {
            bridge.step();
            bridge.answered(&[0x90, 0]);
            bridge.close(Why::Asked);
        }
        bridge.step();
        bridge.answered(&[0x64, 0]);
        assert_eq!(bridge.step(), Step::Over(Ended::Refused(sekisho_bridge::AGAIN)));
    }
}

/// A device that wants to end it asks the SE, which says goodbye.
#[test]
fn a_device_closes() {
    let mut element = Element::new(Correspondence::IDENTITY);
    let mut memory = ends::Memory::new(255);
    let mut bridge = memory.bridge(Settings::DEFAULT);
    bridge.open(1, None);
    bridge.close(Why::Asked);
    let mut sent = Vec::new();
    let ended = loop {
        match bridge.step() {
            Step::Command(command) => {
                let answer = element.transmit(command);
                bridge.answered(&answer);
            }
            Step::Send(record) => sent.extend([record.header(), record.body].concat()),
            Step::Receive => panic!("it wants to end"),
            Step::Over(ended) => break ended,
        }
    };
    assert_eq!(
        (sent, ended, element.closed),
        (record(21, 3, &[1, 0]), Ended::BySe, Some(0))
    );
    // An SE that does not end it when told to is not asked twice.
    bridge.open(1, None);
    bridge.close(Why::Asked);
    for _ in 0..2 {
        assert!(matches!(bridge.step(), Step::Command(_)));
        bridge.answered(&[0x90, 0]);
    }
    assert_eq!(bridge.step(), Step::Over(Ended::BySe));
}

#[test]
fn settings_that_do_not_fit_are_none() {
    let new = |channel, command_data, record: usize, command: usize| {
        let (mut record, mut answer, mut command) = (vec![0; record], vec![0; 100], vec![0; command]);
        let buffers = Buffers {
            record: &mut record,
            answer: &mut answer,
            command: &mut command,
        };
        Bridge::new(
            Settings {
                channel,
                command_data,
                table: Correspondence::IDENTITY,
            },
            buffers,
        )
        .is_some()
    };
    assert!(new(3, 255, Buffers::RECORD, 264));
    assert!(!new(4, 255, Buffers::RECORD, 264));
    assert!(!new(0, 256, Buffers::RECORD, 264));
    assert!(!new(0, 7, Buffers::RECORD, 264));
    assert!(!new(0, 255, Buffers::RECORD - 1, 264));
}

/// It depends on the codec of APDUs alone: no key and no engine can be in it.
#[test]
fn it_depends_on_wire_alone() {
    let manifest = include_str!("../Cargo.toml");
    let dependencies = manifest
        .split("[dependencies]\n")
        .nth(1)
        .unwrap()
        .split("\n[")
        .next()
        .unwrap();
    assert_eq!(dependencies.trim(), "sekisho-apdu.workspace = true");
    assert!(!manifest.contains("[target"));
}
