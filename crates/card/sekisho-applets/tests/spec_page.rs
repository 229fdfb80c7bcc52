//! The worked example of docs/spec/broadcast-update.md, section 6, played into the card: the page's commands, the page's receipt.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Card, SeededRng, flash, profile};
use sekisho_apdu::gp::CardLifeCycle;
use sekisho_keys::{AesKey, KeySet, sha256};
use sekisho_link::{Authorisation, Manifest, PSe};
use sekisho_os::{Interface, Personalisation};

const PAGE: &str = include_str!("../../../../docs/spec/broadcast-update.md");

fn given(name: &str) -> Vec<u8> {
    let start = format!("```hex {name}\n");
    let at = PAGE
        .find(&start)
        .unwrap_or_else(|| panic!("the page has no block {name}"))
        + start.len();
    let end = PAGE[at..].find("```").unwrap();
    hex::decode(PAGE[at..at + end].split_whitespace().collect::<String>()).unwrap()
}

fn key(name: &str) -> AesKey {
    AesKey::new(&given(name)).unwrap()
}

/// The page's SE, with version 1 of the same module.
fn card() -> Card {
    let module = given("module");
    let first = Manifest {
        target: Manifest::OS_PART,
        code_format: Manifest::WEBASSEMBLY,
        abi: 1,
        version: 1,
        min_previous: 0,
        length: u32::try_from(module.len()).unwrap(),
        package_id: [0; 16],
        digest: sha256(&[&module]),
    };
    let scp = KeySet {
        enc: key("k-enc"),
        mac: key("k-mac-scp"),
        dek: key("k-dek"),
    };
    let personalisation = Personalisation {
        se_id: given("se-id").try_into().unwrap(),
        scp_kvn: 0x30,
        scp: &scp,
        k_aut: &key("k-aut"),
        kos: Some(&key("kos")),
        k_mac: Some(&key("k-mac")),
        designer: Some(&given("designer-public").try_into().unwrap()),
        part: Some((&first, &module)),
        applications: &[],
        data_objects: &[],
        life_cycle: CardLifeCycle::Secured,
    };
    Card::manufacture(flash(), SeededRng(1), &profile(), &personalisation).unwrap()
}

fn send(card: &mut Card, capdu: &[u8]) -> (Vec<u8>, u16) {
    let mut answer = [0; 300];
    let len = card.transmit(Interface::Spi, capdu, &mut answer);
    let (data, sw) = answer[..len].split_last_chunk::<2>().unwrap();
    (data.to_vec(), u16::from_be_bytes(*sw))
}

fn play(p_aut: &str, p_se: &str) {
    let mut card = card();
    let (p_aut, p_se) = (given(p_aut), given(p_se));
    let p_aut = Authorisation::decode(&p_aut).unwrap();
    let p_se = PSe::decode(&p_se).unwrap();
    let splice = usize::from(p_aut.splice);
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
    assert_eq!(receipt[3..], given("receipt"));
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
