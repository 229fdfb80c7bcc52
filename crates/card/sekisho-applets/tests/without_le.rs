//! A command without Le, by the protocol of its interface (`docs/spec/card.md`, 1 and 1.1).

use crate::common;
use crate::interfaces::{CONTACT, level_33, open, open_channels};

use common::script::Line;
use common::{Card, initial_keys, new_card, new_card_with, profile, sw};
use sekisho_os::{ContainerId, Interface, InterfaceAccess, Protocol, Row};

/// The table of docs/spec/card.md, 1: a row for each protocol, and what it says of a command without Le.
#[allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
fn rows_without_le() -> Vec<(&'static str, [&'static str; 2])> {
    let page = include_str!("../../../../docs/spec/card.md");
    let table = page.split("| protocol | no data field").nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        (cells[0].trim_matches('`'), [cells[1], cells[2]])
    })
    .collect()
}

const PROTOCOLS: [(&str, Interface, Protocol); 8] = [
    ("t0", CONTACT, Protocol::T0),
    ("t1", CONTACT, Protocol::T1),
    ("swp-a", Interface::Swp, Protocol::SwpA),
    ("swp-b", Interface::Swp, Protocol::SwpB),
    ("apdu-gate", Interface::ApduGate, Protocol::ApduGate),
    ("spi-ese", Interface::Spi, Protocol::SpiEse),
    ("spi-euicc", Interface::Spi, Protocol::SpiEuicc),
    ("proprietary-N", CONTACT, Protocol::Proprietary(0)),
];

/// A card on this protocol, whose root opens its channel everywhere.
fn on_protocol((_, interface, protocol): (&str, Interface, Protocol)) -> Card {
    let mut own = profile();
    own.root_access = InterfaceAccess::ALL;
    own.pairing = own
        .pairing
        .with(Protocol::Proprietary(0), Row::common(ContainerId::ESE));
    let mut card = new_card_with(&own, 0xFF, &initial_keys());
    assert!(card.reset_to(interface, protocol));
    card
}

/// Each protocol of the table, with a whole answer, a protected one, a chained command, the extended form, and an answer without data.
#[test]
fn what_a_command_without_le_gets_is_the_protocols_matter() {
    let rows = rows_without_le();
    assert_eq!(rows.len(), PROTOCOLS.len());
    let select = [0x00, 0xA4, 0x04, 0x00, 0x05, 0xA0, 0x00, 0x00, 0x01, 0x51];
    for ((name, says), on) in rows.into_iter().zip(PROTOCOLS) {
        assert_eq!(name, on.0);
        let interface = on.1;
        let mut card = on_protocol(on);
        let whole = Line::transmit(&mut card, interface, &[&select[..], &[0x00]].concat());
        assert_eq!((whole[0], sw(&whole)), (0x6F, 0x9000), "{name}");
        let waits = |answer: &[u8], whole: &[u8]| match says[1] {
            "as with Le 00" => assert_eq!(answer, whole, "{name}"),
            "61XX without data" => {
                assert_eq!(answer, [0x61, u8::try_from(whole.len() - 2).unwrap()], "{name}")
            }
            other => panic!("{other}"),
        };
        let is_there = |card: &mut Card, whole: &[u8]| {
            let fetched = Line::transmit(card, interface, &[0x00, 0xC0, 0x00, 0x00, 0x00]);
            let nothing = says[1] == "as with Le 00";
            assert_eq!(fetched, if nothing { &[0x6D, 0x00] } else { whole }, "{name}");
        };
        // Short, extended, and in two segments.
        let extended = [&select[..4], &[0x00, 0x00], &select[4..]].concat();
        for command in [select.to_vec(), extended] {
            let answer = Line::transmit(&mut card, interface, &command);
            waits(&answer, &whole);
            is_there(&mut card, &whole);
        }
        let segments = [
            &[0x10, 0xA4, 0x04, 0x00, 0x03, 0xA0, 0x00, 0x00][..],
            &[0x00, 0xA4, 0x04, 0x00, 0x02, 0x01, 0x51],
        ];
        assert_eq!(Line::transmit(&mut card, interface, segments[0]), [0x90, 0x00]);
        waits(&Line::transmit(&mut card, interface, segments[1]), &whole);
        is_there(&mut card, &whole);
        // No data field: as with Le 00, by the table's first column.
        assert_eq!(says[0], "as with Le 00", "{name}");
        let data = Line::transmit(&mut card, interface, &[0x80, 0xCA, 0x00, 0xCF, 0x00]);
        assert_eq!(
            Line::transmit(&mut card, interface, &[0x80, 0xCA, 0x00, 0xCF]),
            data
        );
        // No data in the answer: a status word, and nothing waits.
        let unknown = [0x00, 0xA4, 0x04, 0x00, 0x05, 0xF0, 0x00, 0x00, 0x00, 0x01];
        assert_eq!(
            Line::transmit(&mut card, interface, &unknown),
            [0x6A, 0x82],
            "{name}"
        );
        is_there_not(&mut card, interface);
        // An R-MAC is data, too.
        let mut host = open(&mut card, interface, 0, level_33());
        let store = host.wrap(&[0x80, 0xE2, 0x90, 0x00, 0x04, 0x42, 0x02, 0xAB, 0xCD]);
        let mut answer = Line::transmit(&mut card, interface, &store);
        if says[1] != "as with Le 00" {
            assert_eq!(answer, [0x61, 0x08], "{name}");
            answer = Line::transmit(&mut card, interface, &[0x00, 0xC0, 0x00, 0x00, 0x08]);
        }
        assert_eq!(host.unwrap(&answer), [0x90, 0x00], "{name}");
    }
}

fn is_there_not(card: &mut Card, interface: Interface) {
    let nothing = Line::transmit(card, interface, &[0x00, 0xC0, 0x00, 0x00, 0x00]);
    assert_eq!(nothing, [0x6D, 0x00]);
}

/// On T=0 a command without Le whose answer has data needs the place where answers wait: while a channel that has proved a key has it, nothing of the command is done (docs/spec/card.md, 1.1).
#[test]
fn on_t0_an_answer_without_le_gives_way_as_all_that_waits() {
    let mut card = new_card();
    open_channels(&mut card, CONTACT, 1);
    let mut host = open(&mut card, CONTACT, 1, level_33());
    let long = host.wrap(&[0x81, 0xCA, 0x00, 0x66, 0x01]);
    assert_eq!(Line::transmit(&mut card, CONTACT, &long)[1..2], [0x61]);
    let select = [0x00, 0xA4, 0x04, 0x00, 0x05, 0xA0, 0x00, 0x00, 0x01, 0x51];
    assert_eq!(Line::transmit(&mut card, CONTACT, &select), [0x6A, 0x84]);
    let with_le = Line::transmit(&mut card, CONTACT, &[&select[..], &[0x00]].concat());
    assert_eq!(sw(&with_le), 0x9000);
    assert!(card.reset_to(CONTACT, Protocol::T1));
    open_channels(&mut card, CONTACT, 1);
    let mut host = open(&mut card, CONTACT, 1, level_33());
    let long = host.wrap(&[0x81, 0xCA, 0x00, 0x66, 0x01]);
    assert_eq!(Line::transmit(&mut card, CONTACT, &long)[1..2], [0x61]);
    assert_eq!(Line::transmit(&mut card, CONTACT, &select), with_le);
}

/// The page's lines: protocol, C-APDU, R-APDU; XX is what 61XX has said.
#[test]
fn the_page_shows_exchanges_without_le_that_happen() {
    let page = include_str!("../../../../docs/spec/card.md");
    let block = page
        .split("```without-le\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let mut card = new_card();
    let mut said = String::new();
    for line in block.lines() {
        let [name, command, answer] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let on = *PROTOCOLS.iter().find(|on| on.0 == name).unwrap();
        if card.protocol(on.1) != on.2 {
            assert!(card.reset_to(on.1, on.2));
        }
        let sent = hex::decode(command.replace("XX", &said)).unwrap();
        let got = Line::transmit(&mut card, on.1, &sent);
        if answer == "61XX" {
            assert_eq!((got.len(), got[0]), (2, 0x61), "{line}");
            said = hex::encode_upper(&got[1..]);
        } else {
            assert!(
                common::script::matches(answer, &got),
                "{line}: {}",
                hex::encode_upper(&got)
            );
        }
    }
    assert_eq!(block.lines().count(), 6);
}
