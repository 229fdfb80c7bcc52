//! Whatever a server or an SE sends: what was a stream of records reaches the SE as these records, and nothing makes the bridge panic, wait for nothing or go round for ever.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod ends;

use ends::{Element, Memory, SEED, record, run};
use proptest::prelude::*;
use sekisho_bridge::{Correspondence, Ended, RECORD_MAX, Settings, Step, Why};

/// Handshake bytes: messages with any types and lengths that may lie, cut into records anywhere.
fn handshake() -> impl Strategy<Value = Vec<u8>> {
    let message = (
        0_u8..=34,
        prop_oneof![0_usize..40, 200_usize..700],
        prop_oneof![9 => Just(None), 1 => any::<[u8; 3]>().prop_map(Some)],
    );
    prop::collection::vec(message, 0..6).prop_map(|messages| {
        let mut all = Vec::new();
        for (handshake_type, len, lie) in messages {
            let [_, said @ ..] = u32::try_from(len).unwrap().to_be_bytes();
            all.push(handshake_type);
            all.extend(lie.unwrap_or(said));
            all.extend(vec![0xB0 | (handshake_type & 15); len]);
        }
        all
    })
}

fn records() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let cut = (handshake(), prop::collection::vec(0_usize..400, 0..8)).prop_map(|(bytes, cuts)| {
        let mut rest = &bytes[..];
        let mut records = Vec::new();
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            records.push(record(22, 3, now));
            rest = later;
        }
        records.push(record(22, 3, rest));
        records
    });
    let other = (
        prop_oneof![Just(20_u8), Just(21), Just(23)],
        prop::collection::vec(any::<u8>(), 0..600),
    )
        .prop_map(|(content_type, content)| vec![record(content_type, 3, &content)]);
    prop::collection::vec(prop_oneof![2 => cut, 1 => other], 1..4).prop_map(|all| all.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The SE has the records that came, byte by byte, however they arrived, however short commands are, and wherever another session's record was in the way.
    #[test]
    fn the_se_has_every_record(
        records in records(), portions in prop::collection::vec(1_usize..900, 1..5),
        command_data in prop_oneof![Just(8_u16), 9_u16..300, Just(255), 1000_u16..20_000], seeds in any::<bool>(),
        in_the_way in prop::collection::vec(prop::bool::weighted(0.1), 0..200),
    ) {
        let table = if seeds { Correspondence::table(&SEED).unwrap() } else { Correspondence::IDENTITY };
        let server = records.concat();
        let mut rest = &server[..];
        let mut cut = Vec::new();
        for len in portions.iter().cycle() {
            if rest.is_empty() { break; }
            let (now, later) = rest.split_at((*len).min(rest.len()));
            cut.push(now);
            rest = later;
        }
        let mut element = Element::new(table);
        element.in_the_way = in_the_way;
        let (sent, ended) = run(Settings { channel: 1, table, command_data }, &mut element, &cut);
        prop_assert_eq!(element.heard_records(), server);
        prop_assert_eq!((sent, ended), (vec![], Ended::Disconnected));
        // No record has a piece of no bytes but one that is nothing else.
        prop_assert_eq!(element.pieces.iter().filter(|(_, more, _)| !more).count(), records.len());
    }

    /// Any bytes for a server, any bytes for an SE: it ends when the connection does.
    #[test]
    fn any_bytes_end(
        server in prop::collection::vec(any::<u8>(), 0..300), begin in prop_oneof![Just(vec![]), Just(vec![22, 3, 3, 0, 90]), Just(vec![23, 3, 1, 0, 40])],
        answers in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..30), prop_oneof![Just(0x9000_u16), Just(0x6285), Just(0x6400), 0x6100_u16..=0x61FF, any::<u16>()]), 1..40),
    ) {
        let server = [begin, server].concat();
        let mut memory = Memory::new(20);
        let mut bridge = memory.bridge(Settings { command_data: 20, ..Settings::DEFAULT });
        bridge.open(7, None);
        let mut answers = answers.iter().cycle();
        let mut given = false;
        let mut steps = 0;
        loop {
            steps += 1;
            // An SE may say byte by byte that there is more, until its answer is longer than the buffer.
            prop_assert!(steps < 200_000);
            match bridge.step() {
                Step::Command(command) => {
                    prop_assert!(command.len() >= 5);
                    let (data, sw) = answers.next().unwrap();
                    bridge.answered(&[&data[..], &sw.to_be_bytes()].concat());
                }
                Step::Send(record) => prop_assert!(record.header().len() + record.body.len() <= 5 + RECORD_MAX),
                Step::Receive if given => bridge.close(Why::Disconnected),
                Step::Receive => {
                    given = true;
                    bridge.space()[..server.len()].copy_from_slice(&server);
                    bridge.received(server.len());
                }
                Step::Over(_) => break,
            }
        }
    }
}
