//! Hostile bytes: whatever comes in, the card answers, and without a key nothing of it changes.

#![allow(clippy::unwrap_used, clippy::panic)] // test support

use common::host::Host;
use common::{Card, new_card, send, send_on, sw};
use proptest::prelude::*;
use sekisho_card_tests as common;
use sekisho_os::Interface;
use sekisho_scp::SecurityLevel;

/// What nobody without a key may change: keys, applications, part and staging, stored data, life cycle.
fn state(card: &mut Card) -> Vec<Vec<u8>> {
    for interface in Interface::ALL {
        card.reset(interface);
    }
    [
        "80CA00E000",
        "80CA2F0000",
        "80CADF2000",
        "80CADF2100",
        "80CA004200",
        "80CA00CF00",
        "80CA9F7F00",
        "00A4040000",
    ]
    .map(|capdu| send(card, &hex::decode(capdu).unwrap()))
    .to_vec()
}

/// Bytes that look like a command: a class, an instruction and parameters that exist, then any body.
fn almost_a_command() -> impl Strategy<Value = Vec<u8>> {
    let cla = prop::sample::select(vec![
        0x00, 0x01, 0x03, 0x04, 0x10, 0x14, 0x40, 0x60, 0x80, 0x81, 0x84, 0x85, 0x90, 0x94, 0xC0, 0xE0,
    ]);
    let ins = prop::sample::select(vec![
        0x3A, 0x3C, 0x3E, 0x50, 0x70, 0x82, 0xA4, 0xC0, 0xCA, 0xD8, 0xE2, 0xE4, 0xE6, 0xF0, 0xF2,
    ]);
    let p1 = prop_oneof![Just(0x00), Just(0x01), Just(0x04), Just(0x80), any::<u8>()];
    let p2 = prop_oneof![Just(0x00), Just(0x02), any::<u8>()];
    let data = prop::collection::vec(any::<u8>(), 0..40);
    let body = prop_oneof![
        Just(vec![]),
        any::<u8>().prop_map(|le| vec![le]),
        data.prop_map(|data| [&[u8::try_from(data.len()).unwrap()][..], &data].concat()),
        prop::collection::vec(any::<u8>(), 0..600),
    ];
    (cla, ins, p1, p2, body).prop_map(|(cla, ins, p1, p2, body)| [&[cla, ins, p1, p2][..], &body].concat())
}

fn input() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => almost_a_command(), 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_input_is_answered_and_nothing_changes(
        inputs in prop::collection::vec((0usize..Interface::COUNT, input()), 1..60),
    ) {
        let mut card = new_card();
        let before = state(&mut card);
        for (interface, capdu) in &inputs {
            let answer = send_on(&mut card, Interface::ALL[*interface], capdu);
            prop_assert!(answer.len() >= 2);
        }
        prop_assert_eq!(state(&mut card), before);
    }

    #[test]
    fn a_small_buffer_is_never_overrun(capdu in input(), room in 2usize..20) {
        let mut card = new_card();
        let mut out = vec![0; room];
        let len = card.transmit(Interface::Spi, &capdu, &mut out);
        prop_assert!((2..=room).contains(&len));
    }
}

#[test]
fn no_room_for_a_status_word_is_no_command() {
    let mut card = new_card();
    assert_eq!(
        card.transmit(Interface::Spi, &[0x00, 0xA4, 0x04, 0x00, 0x00], &mut [0]),
        0
    );
}

/// Each single bit of a protected command: it is not carried out, and the next right one comes too late.
#[test]
fn a_changed_bit_ends_the_secure_channel() {
    let mut card = new_card();
    let keys = common::initial_keys();
    let store_data = hex::decode("80E29000044202AABB").unwrap();
    let get_data = hex::decode("80CA004200").unwrap();
    let before = send(&mut card, &get_data);
    for bit in 0.. {
        let mut host = Host::open(&mut card, 0xFF, &keys, SecurityLevel::FULL);
        let mut changed = host.wrap(&store_data);
        let Some(byte) = changed.get_mut(bit / 8) else {
            break;
        };
        *byte ^= 0x80 >> (bit % 8);
        let answer = sw(&send(&mut card, &changed));
        // As the first segment of a chain it waits for the next one, which does not come: of ISO's chaining, or as INSTALL of GlobalPlatform's.
        let chaining = matches!(bit, 3 | 13);
        assert_eq!(answer == 0x9000, chaining, "bit {bit}: {answer:04X}");
        // On another logical channel it has not met this secure channel; nor where its length is wrong.
        let next = host.wrap(&get_data);
        let met = !matches!(answer, 0x6881 | 0x6700 | 0x9000 | 0x6E00);
        assert!(sw(&send(&mut card, &next)) == 0x6982 || !met, "bit {bit}");
        card.reset(Interface::Iso7816Contact);
        assert_eq!(send(&mut card, &get_data), before, "bit {bit}");
    }
}
