//! The worked example of docs/spec/broadcast-update.md, section 6, played into the card: the page's commands, the page's receipt.

#![allow(clippy::unwrap_used, clippy::panic)]

use common::Card;
use common::issuer::made_by;
use common::tables::Page;
use sekisho_card_tests as common;
use sekisho_link::{Authorisation, PSe};
use sekisho_os::Interface;

const PAGE: Page = Page::new(include_str!("../../../../docs/spec/broadcast-update.md"));

fn send(card: &mut Card, capdu: &[u8]) -> (Vec<u8>, u16) {
    let mut answer = [0; 300];
    let len = card.transmit(Interface::Spi, capdu, &mut answer);
    let (data, sw) = answer[..len].split_last_chunk::<2>().unwrap();
    (data.to_vec(), u16::from_be_bytes(*sw))
}

/// The SE of the page, at this sequence counter.
fn card(counter: u32) -> Card {
    let mut card = made_by(PAGE, 0);
    for _ in 0..counter {
        let initialize_update = [0x80, 0x50, 0x30, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0];
        assert_eq!(send(&mut card, &initialize_update).1, 0x9000);
    }
    card.reset(Interface::Spi);
    card
}

/// Plays P_AUT, and of P_SE the commands from one index to another at each of its splices.
fn splice(card: &mut Card, p_aut: &str, p_se: &str, bulk: &[[usize; 2]]) {
    let (p_aut, p_se) = (PAGE.block(p_aut), PAGE.block(p_se));
    let p_aut = Authorisation::decode(&p_aut).unwrap();
    let p_se: Vec<_> = PSe::decode(&p_se).unwrap().commands().collect();
    assert_eq!(p_aut.head.splices.len(), bulk.len());
    let mut commands = Vec::new();
    for (index, command) in (1u8..).zip(p_aut.commands()) {
        commands.push(command);
        if let Some(at) = p_aut.head.splices.iter().position(|splice| *splice == index) {
            let [from, to] = bulk[at];
            commands.extend(&p_se[from..to]);
        }
    }
    for (step, command) in commands.into_iter().enumerate() {
        let (_, sw) = send(card, command);
        assert_eq!(sw, 0x9000, "step {step}: {sw:04X}");
    }
    // In the clear: the secure channel ends with the reset.
    card.reset(Interface::Spi);
}

/// The value of a data object, in the clear.
fn value(card: &mut Card, tag: u8) -> Vec<u8> {
    let (object, sw) = send(card, &[0x80, 0xCA, 0xDF, tag, 0x00]);
    assert_eq!(sw, 0x9000);
    // A tag of two bytes and a length of one stand before the value.
    object[3..].to_vec()
}

fn play(p_aut: &str, p_se: &str) {
    let mut card = card(0);
    splice(&mut card, p_aut, p_se, &[[0, 3]]);
    assert_eq!(value(&mut card, 0x21), PAGE.block("receipt"));
    assert_eq!(value(&mut card, 0x20)[2..7], [1, 0, 0, 0, 2], "slot B, version 2");
}

#[test]
fn custody_04() {
    play("p-aut-04", "p-se-04");
    play("p-aut-2-04", "p-se-04");
}

#[test]
fn custody_03() {
    play("p-aut-03", "p-se-03");
    play("p-aut-2-03", "p-se-03");
}

/// A load with a pause, wherever in it, each time with a key set apart; and its activation later.
#[test]
fn loading_with_a_pause_and_activating_later() {
    for bulk in [[[0, 0], [0, 2]], [[0, 1], [1, 2]], [[0, 2], [2, 2]]] {
        let mut card = card(1);
        splice(&mut card, "p-aut-2-load", "p-se-04", &bulk);
        assert_eq!(
            value(&mut card, 0x20)[3..9],
            [0, 0, 0, 1, 3, 2],
            "complete; the SE is of ABI 3"
        );
        splice(&mut card, "p-aut-2-activate", "p-se-04", &[]);
        assert_eq!(value(&mut card, 0x21), PAGE.block("receipt"));
    }
}

/// The keys that follow, for all SEs and for this one.
#[test]
fn key_change() {
    let mut card = card(3);
    splice(&mut card, "p-aut-2-keys", "p-se-keys", &[[0, 3]]);
    assert_eq!(value(&mut card, 0x21), PAGE.block("receipt-keys"));
    assert_key_change(card);
    let mut card = self::card(4);
    splice(
        &mut card,
        "p-aut-2-keys-individual",
        "p-se-keys-individual",
        &[[0, 3]],
    );
    assert_key_change(card);
}

fn assert_key_change(mut card: Card) {
    assert_eq!(
        value(&mut card, 0x22)[1..8],
        [2, 0, 0, 0, 0, 2, 0],
        "key version 2"
    );
    assert_eq!(value(&mut card, 0x20)[2..7], [0, 0, 0, 0, 1], "version 1");
    let flash = card.into_flash().image();
    let holds = |name: &str| {
        let key = PAGE.block(name);
        flash.windows(key.len()).any(|bytes| bytes == key)
    };
    assert!(
        ["kos-next", "k-mac-next", "designer-public-next"]
            .into_iter()
            .all(holds)
    );
    assert!(!["kos", "k-mac", "designer-public"].into_iter().any(holds));
}
