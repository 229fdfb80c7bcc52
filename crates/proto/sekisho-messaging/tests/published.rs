//! Fixed keys, bit for bit against published vectors and against a foreign reader implementation. Sources stand in the files.

use crate::common;
use common::*;
use sekisho_apdu::CApdu;
use sekisho_messaging::card::{CardMessaging, Received};
use sekisho_messaging::reader::ReaderMessaging;
use sekisho_messaging::schedule::{Fixed, Selector};
use sekisho_messaging::{Keys, Ssc};

const PUBLISHED: &str = include_str!("../../../../tests/vectors/sm-published.txt");
const FOREIGN: &str = include_str!("../../../../tests/vectors/sm-icao-9303-crate.txt");

fn keys(section: &Section<'_>) -> (Keys, Ssc) {
    let (enc, mac, ssc) = (section.get("ksenc"), section.get("ksmac"), section.get("ssc"));
    if section.name.contains("tdes") || section.name.contains("d4") {
        let array = |bytes: Vec<u8>| bytes.try_into().unwrap();
        return (
            Keys::tdes(array(enc), array(mac)),
            Ssc::tdes(ssc.try_into().unwrap()),
        );
    }
    let mut block = [0; 16];
    block[16 - ssc.len()..].copy_from_slice(&ssc);
    (Keys::aes(&enc, &mac).unwrap(), Ssc::aes(block))
}

/// Runs a section through both roles; returns the number of messages compared.
fn run(section: &Section<'_>) -> usize {
    let ((for_reader, ssc), (for_card, _)) = (keys(section), keys(section));
    let mut reader = ReaderMessaging::new(Fixed::new(for_reader), ssc);
    let mut card: CardMessaging<_, ANSWER> = CardMessaging::new(Fixed::new(for_card), ssc);
    let mut compared = 0;
    for exchange in section.exchanges() {
        let plain = exchange.get("plain");
        let command = protect(&mut reader, &plain, Selector::NONE);
        if let Some(expected) = exchange.find("command") {
            assert_eq!(hex::encode(&command), hex::encode(expected), "{}", section.name);
            compared += 1;
        }
        assert_eq!(receive(&mut card, &command), plain);
        if let (Some(reply), Some(expected)) = (exchange.find("answer"), exchange.find("response")) {
            let response = answer(&mut card, &reply);
            assert_eq!(hex::encode(&response), hex::encode(expected), "{}", section.name);
            assert_eq!(accept(&mut reader, &response), reply);
            compared += 1;
        }
    }
    compared
}

#[test]
fn icao_gmrtd_and_bsi_vectors() {
    let compared: Vec<_> = Section::all(PUBLISHED)
        .iter()
        .map(|s| (s.name.to_owned(), run(s)))
        .collect();
    let expected = [
        ("icao-9303-11-d4", 6),
        ("gmrtd-command", 2),
        ("gmrtd-response", 1),
        ("tr-03110-8.1", 2),
        ("tr-03110-8.3-8.4", 4),
    ];
    assert_eq!(compared, expected.map(|(name, count)| (name.to_owned(), count)));
}

#[test]
fn every_message_of_the_foreign_reader() {
    let sections = Section::all(FOREIGN);
    assert_eq!(sections.len(), 4);
    assert_eq!(sections.iter().map(run).sum::<usize>(), 4 * 2 * 19);
}

#[test]
fn odd_ins_takes_data_object_85_without_an_indicator() {
    // ISO 7816-4 clause 10.3.3: 85 is a cryptogram of BER-TLV data objects, without padding-content indicator. Worked
    // with the primitives of this crate's test keys; the layout is what matters here.
    let (mut reader, mut card) = ends(fixed());
    let plain = unhex("00B1000004540200000A");
    let command = protect(&mut reader, &plain, Selector::NONE);
    assert_eq!(command[..7], [0x0C, 0xB1, 0, 0, 0x1F, 0x85, 0x10]);
    assert_eq!(receive(&mut card, &command), plain);
    let response = answer(&mut card, &unhex("53029988779000"));
    assert_eq!(response[..2], [0x85, 0x10]);
    assert_eq!(accept(&mut reader, &response), unhex("53029988779000"));
}

#[test]
fn extended_lengths_both_ways() {
    let (mut reader, mut card) = ends(fixed());
    let mut plain = unhex("00D6000000012C");
    plain.extend([0x5A; 300]);
    plain.extend([0, 0]);
    let reply = [&[0xA5; 600][..], &[0x90, 0]].concat();
    let (command, response) = exchange(&mut reader, &mut card, Selector::NONE, &plain, &reply);
    // Lc' in three bytes, 87 82, 97 02 00 00, Le' in two bytes.
    assert_eq!(command[4..10], [0, 0x01, 0x43, 0x87, 0x82, 0x01]);
    assert!(command.windows(4).any(|w| w == [0x97, 2, 0, 0]));
    assert!(command.ends_with(&[0, 0]));
    assert_eq!(response[..4], [0x87, 0x82, 0x02, 0x61]);
}

#[test]
fn a_short_command_that_grows_becomes_extended_and_keeps_its_ne() {
    let (mut reader, mut card) = ends(fixed());
    let mut plain = unhex("00D60000F8");
    plain.extend([0x11; 248]);
    plain.push(0x20);
    let command = protect(&mut reader, &plain, Selector::NONE);
    assert_eq!(command[4], 0);
    let mut buf = [0; 400];
    let Received::Command(got) = card.receive(&command, &mut buf).unwrap() else {
        panic!()
    };
    let original = CApdu::parse(&plain).unwrap();
    assert_eq!(
        (got.cla, got.ins, got.ne, got.data),
        (original.cla, original.ins, original.ne, original.data)
    );
}

#[test]
fn logical_channels_and_classes_keep_their_bits() {
    for (cla, protected) in [
        (0x00, 0x0C),
        (0x03, 0x0F),
        (0x80, 0x8C),
        (0x40, 0x60),
        (0x4F, 0x6F),
        (0xC1, 0xE1),
    ] {
        let (mut reader, mut card) = ends(fixed());
        let plain = [cla, 0xB0, 0, 0, 4];
        let command = protect(&mut reader, &plain, Selector::NONE);
        assert_eq!(command[0], protected);
        assert_eq!(receive(&mut card, &command), plain);
    }
}
