//! The worked example of docs/spec/broadcast-update.md, section 6, played into the card: the page's commands, the page's receipt.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::Card;
use common::issuer::made_by;
use common::tables::Page;
use sekisho_link::{Authorisation, PSe};
use sekisho_os::Interface;

const PAGE: Page = Page::new(include_str!("../../../../docs/spec/broadcast-update.md"));

fn send(card: &mut Card, capdu: &[u8]) -> (Vec<u8>, u16) {
    let mut answer = [0; 300];
    let len = card.transmit(Interface::Spi, capdu, &mut answer);
    let (data, sw) = answer[..len].split_last_chunk::<2>().unwrap();
    (data.to_vec(), u16::from_be_bytes(*sw))
}

fn play(p_aut: &str, p_se: &str) {
    let mut card = made_by(PAGE, 0);
    let (p_aut, p_se) = (PAGE.block(p_aut), PAGE.block(p_se));
    let p_aut = Authorisation::decode(&p_aut).unwrap();
    let p_se = PSe::decode(&p_se).unwrap();
    let splice = usize::from(p_aut.head.splices[0]);
    let commands = p_aut
        .commands()
        .take(splice)
        .chain(p_se.commands())
        .chain(p_aut.commands().skip(splice));
    for (step, command) in commands.enumerate() {
        let (_, sw) = send(&mut card, command);
        assert_eq!(sw, 0x9000, "step {step}: {sw:04X}");
    }
    // In the clear: the secure channel ends with the reset.
    card.reset(Interface::Spi);
    let (receipt, sw) = send(&mut card, &[0x80, 0xCA, 0xDF, 0x21, 0x00]);
    assert_eq!(sw, 0x9000);
    // Tag DF21 and a length of one byte before the value.
    assert_eq!(receipt[3..], PAGE.block("receipt"));
    let (state, _) = send(&mut card, &[0x80, 0xCA, 0xDF, 0x20, 0x00]);
    assert_eq!(state[5..10], [1, 0, 0, 0, 2], "slot B, version 2");
}

#[test]
fn custody_04() {
    play("p-aut-04", "p-se-04");
}

#[test]
fn custody_03() {
    play("p-aut-03", "p-se-03");
}
