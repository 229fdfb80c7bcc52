//! What an attacker between server and SE can do with the update of the worked example: any changed byte, another SE's authorisation, a
//! replay, a rollback, the broadcast keys themselves. The SE keeps its version, and no secure channel is left.

#![allow(clippy::unwrap_used, clippy::panic)]

use common::ByValue as _;
use common::{Card, SeededRng, disturbed, flash, profile};
use sekisho_apdu::gp::{CardLifeCycle, ins};
use sekisho_apdu::{CApdu, Cla, Writer};
use sekisho_card_tests as common;
use sekisho_keys::{AesKey, KeySet, sha256};
use sekisho_link::{Authorisation, Manifest, PSe};
use sekisho_os::{Interface, Personalisation};
use sekisho_scp::host::BroadcastWriter;

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

/// The page's SE or, with another master key, another one; its part has this version.
fn card(k_enc: &AesKey, version: u32) -> Card {
    let module = given("module");
    let first = Manifest {
        target: Manifest::OS_PART,
        code_format: Manifest::WEBASSEMBLY,
        abi: Manifest::ABI,
        version,
        min_previous: 0,
        length: u32::try_from(module.len()).unwrap(),
        package_id: [0; 16],
        digest: sha256(&[&module]),
    };
    let scp = KeySet {
        enc: k_enc.clone(),
        mac: key("k-mac-scp"),
        dek: key("k-dek"),
    };
    let personalisation = Personalisation {
        key_version: 1,
        se_id: given("se-id").try_into().unwrap(),
        scp_parameter: sekisho_scp::ScpParameter::FULL_S8,
        scp_kvn: 0x30,
        scp: &scp,
        k_aut: &key("k-aut"),
        kos: Some(&key("kos")),
        k_mac: Some(&key("k-mac")),
        designer: Some(&given("designer-public").try_into().unwrap()),
        pairing_key: None,
        isd_aid: None,
        default_application: None,
        part: Some((&first, &module)),
        applications: &[],
        data_objects: &[],
        life_cycle: CardLifeCycle::Secured,
    };
    Card::made(flash(), SeededRng(1), &profile(), &personalisation).unwrap()
}

fn send(card: &mut Card, capdu: &[u8]) -> (Vec<u8>, u16) {
    let mut answer = [0; 300];
    let len = card.transmit(Interface::Spi, capdu, &mut answer);
    let (data, sw) = answer[..len].split_last_chunk::<2>().unwrap();
    (data.to_vec(), u16::from_be_bytes(*sw))
}

/// The spliced commands of the page.
fn commands() -> Vec<Vec<u8>> {
    let (p_aut, p_se) = (given("p-aut-04"), given("p-se-04"));
    let p_aut = Authorisation::decode(&p_aut).unwrap();
    let p_se = PSe::decode(&p_se).unwrap();
    let splice = usize::from(p_aut.head.splices[0]);
    let spliced = p_aut
        .commands()
        .take(splice)
        .chain(p_se.commands())
        .chain(p_aut.commands().skip(splice));
    spliced.map(<[u8]>::to_vec).collect()
}

/// Plays until a status other than 9000: its step and status.
fn play(card: &mut Card, commands: &[Vec<u8>]) -> Option<(usize, u16)> {
    commands.iter().enumerate().find_map(|(step, command)| {
        let (_, sw) = send(card, command);
        (sw != 0x9000).then_some((step, sw))
    })
}

/// The active version, in the clear after a reset.
fn version(card: &mut Card) -> u32 {
    card.reset(Interface::Spi);
    let (state, sw) = send(card, &[0x80, ins::GET_DATA, 0xDF, 0x20, 0x00]);
    assert_eq!(sw, 0x9000);
    u32::from_be_bytes(state[6..10].try_into().unwrap())
}

#[test]
fn the_untouched_update_works_once() {
    let mut card = card(&key("k-enc"), 1);
    let commands = commands();
    assert_eq!(play(&mut card, &commands), None);
    assert_eq!(version(&mut card), 2);
    // A replay meets another sequence counter: another card challenge, so another cryptogram.
    assert_eq!(play(&mut card, &commands), Some((1, 0x6300)));
    assert_eq!(version(&mut card), 2);
}

#[test]
fn any_changed_byte_is_refused_and_changes_nothing() {
    let commands = commands();
    for (step, command) in commands.iter().enumerate() {
        for at in 0..command.len() {
            // The length fields and the logical channel make another command of it; everything is refused all the same.
            let mut changed = commands.clone();
            changed[step][at] ^= 0x08;
            let mut card = card(&key("k-enc"), 1);
            let refused = play(&mut card, &changed);
            // Le stands outside the C-MAC: INITIALIZE UPDATE and the answers are then cut or whole, and nothing else.
            let is_le = at + 1 == command.len() && [0, 2, commands.len() - 1].contains(&step);
            assert!(
                refused.is_some() || is_le,
                "step {step}, byte {at} of {}",
                command.len()
            );
            if refused.is_some() && !is_le {
                // The next command of the channel, were it still open, would be accepted.
                let next = commands.get(step + 1).map(|next| send(&mut card, next).1);
                assert_ne!(
                    next,
                    Some(0x9000),
                    "step {step}, byte {at}: a secure channel is left"
                );
                assert_eq!(version(&mut card), 1, "step {step}, byte {at}");
            }
        }
    }
}

#[test]
fn commands_left_out_doubled_or_exchanged_are_refused() {
    let commands = commands();
    for step in 3..commands.len() {
        let is_last = step + 1 == commands.len();
        for (what, changed) in disturbed(&commands, step) {
            let mut card = card(&key("k-enc"), 1);
            let refused = play(&mut card, &changed);
            // The last one left out is no error, only no activation; doubled, its second time is refused after the activation.
            assert!(
                refused.is_some() || (is_last && what == "left out"),
                "step {step} {what}"
            );
            let expected = if is_last && what == "doubled" { 2 } else { 1 };
            assert_eq!(version(&mut card), expected, "step {step} {what}");
        }
    }
}

#[test]
fn the_authorisation_of_another_se_is_refused() {
    let mut other = card(&AesKey::new(&[9; 16]).unwrap(), 1);
    assert_eq!(play(&mut other, &commands()), Some((1, 0x6300)));
    assert_eq!(version(&mut other), 1);
}

#[test]
fn a_version_that_is_not_above_the_active_one_is_refused() {
    for active in [2, 3] {
        let mut card = card(&key("k-enc"), active);
        assert_eq!(play(&mut card, &commands()), Some((3, 0x9502)));
        assert_eq!(version(&mut card), active);
    }
}

/// Whoever opens one SE has BK-ENC, BK-MAC, Kos and K_MAC. In another SE's broadcast he can write what he likes; the designer's signature stops
/// another manifest at once, and another image falls to the SE's own digest.
#[test]
fn a_broadcast_key_alone_activates_nothing() {
    let commands = commands();
    let (manifest, signature) = (given("manifest"), given("manifest-signature"));
    let write = |channel: &mut BroadcastWriter, block: u8, data: &[u8]| {
        let mut buf = [0; 261];
        let mut out = Writer::new(&mut buf);
        let (ins, p2) = if data.is_empty() {
            (ins::CHANGE_MODE, 0)
        } else {
            (ins::WRITE, block)
        };
        channel
            .wrap(&CApdu::new(Cla::GP, ins, 0, p2).with_data(data), &mut out)
            .unwrap();
        out.written().to_vec()
    };
    let attacker = || {
        BroadcastWriter::new(
            key("bk-enc-04"),
            key("bk-mac-04"),
            1,
            given("chaining-04").try_into().unwrap(),
        )
    };

    let mut card_1 = card(&key("k-enc"), 1);
    let mut forged = manifest.clone();
    forged[7] = 9;
    assert_eq!(play(&mut card_1, &commands[..3]), None);
    let block_0 = write(&mut attacker(), 0, &[forged, signature.clone()].concat());
    assert_eq!(send(&mut card_1, &block_0).1, 0x9501, "another manifest");
    assert_eq!(version(&mut card_1), 1);

    let mut card_2 = card(&key("k-enc"), 1);
    assert_eq!(play(&mut card_2, &commands[..3]), None);
    let mut channel = attacker();
    let image = vec![0xEE; given("module").len()];
    for (block, data) in [(0, [manifest, signature].concat()), (1, image), (0, vec![])] {
        assert_eq!(send(&mut card_2, &write(&mut channel, block, &data)).1, 0x9000);
    }
    assert_eq!(
        send(&mut card_2, commands.last().unwrap()).1,
        0x9503,
        "another image"
    );
    assert_eq!(version(&mut card_2), 1);
}
