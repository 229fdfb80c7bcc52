//! The specification pages against a whole card: the conversations of `file-system-applet.md`, and every worked byte of
//! `rolling-secure-messaging.md`, played to the test card with the randomness that the page states.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::files::{self, EVERY_MODE};
use common::script::Runner;
use common::{SeededRng, initial_keys, key, personalisation, profile};
use sekisho_apdu::Aid;
use sekisho_applets::file_system::{self, image::Image};
use sekisho_keys::{Rng, sha256};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    FactoryApplication, Interface, MESSAGING_POLICY, Module, Personalisation, Platform, SecureElement,
};

const FILES: &str = include_str!("../../../../docs/spec/file-system-applet.md");
const ROLLING: &str = include_str!("../../../../docs/spec/rolling-secure-messaging.md");

#[test]
fn conversations_of_the_page() {
    let blocks: Vec<_> = FILES
        .split("```apdu\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 1);
    for block in blocks {
        Runner::new(files::card(), profile()).run("file-system-applet.md", block);
    }
}

/// Gives out what it was told, then what a seed makes.
struct Script(Vec<u8>, SeededRng);

impl Rng for Script {
    fn fill(&mut self, out: &mut [u8]) {
        if self.0.len() < out.len() {
            return self.1.fill(out);
        }
        let rest = self.0.split_off(out.len());
        out.copy_from_slice(&std::mem::replace(&mut self.0, rest));
    }
}

struct Scripted;

impl Platform for Scripted {
    type Flash = RamFlash;
    type Rng = Script;
    type Applets = sekisho_applets::Standard;
}

/// The test card with the page's challenge and ephemeral keys.
fn card() -> SecureElement<Scripted> {
    let image = Image::of_test_card().unwrap();
    let records: Vec<_> = image.iter().collect();
    let applications = [FactoryApplication {
        aid: Aid::try_from(file_system::AID).unwrap(),
        load_file: Aid::try_from(file_system::LOAD_FILE_AID).unwrap(),
        module: Module::FILE_SYSTEM,
        records: &records,
    }];
    let objects: [(u16, &[u8]); 1] = [(MESSAGING_POLICY, &EVERY_MODE.to_bytes())];
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let personalisation = Personalisation {
        applications: &applications,
        data_objects: &objects,
        ..personalisation(0xFF, &keys, &k_aut)
    };
    let random = [
        &files::named("challenge")[..],
        &sha256(&[b"card 1"]),
        &sha256(&[b"card 2"]),
    ]
    .concat();
    SecureElement::manufacture(
        common::flash(),
        Script(random, SeededRng(1)),
        &profile(),
        &personalisation,
    )
    .unwrap()
}

/// The block ```` ```hex name=... ```` of the page, if it has it.
fn worked(name: &str) -> Option<Vec<u8>> {
    let start = format!("```hex name={name}\n");
    let at = ROLLING.find(&start)? + start.len();
    let block = ROLLING[at..].split("```").next().unwrap();
    Some(hex::decode(block.split_whitespace().collect::<String>()).unwrap())
}

fn send(card: &mut SecureElement<Scripted>, capdu: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 600];
    let len = card.transmit(Interface::Spi, capdu, &mut out);
    out.truncate(len);
    out
}

#[test]
fn the_worked_bytes_of_secure_messaging() {
    let mut compared = 0;
    for mode in ["fixed", "xor", "list", "operations", "ratchet"] {
        for prefix in [mode.to_owned(), format!("{mode}-separate")] {
            let mut card = card();
            send(
                &mut card,
                &[&[0x00, 0xA4, 0x04, 0x0C, 0x07], file_system::AID].concat(),
            );
            let challenge = send(&mut card, &[0x00, 0x84, 0x00, 0x00, 0x10]);
            assert_eq!(challenge[..16], files::named("challenge"));
            let answer = send(&mut card, &worked(&format!("{prefix}-open")).unwrap());
            let expected = worked(&format!("{prefix}-open-response")).unwrap_or_default();
            assert_eq!(
                answer,
                [&expected[..], &[0x90, 0x00]].concat(),
                "{prefix}: opening"
            );
            for step in ["select", "write", "read", "refresh"] {
                let Some(command) = worked(&format!("{prefix}-{step}-command")) else {
                    continue;
                };
                let answer = send(&mut card, &command);
                let expected = worked(&format!("{prefix}-{step}-response")).unwrap();
                assert_eq!(hex::encode(answer), hex::encode(expected), "{prefix}-{step}");
                compared += 1;
            }
            if let Some(command) = worked(&format!("{prefix}-read-after-refresh")) {
                let answer = send(&mut card, &command);
                assert!(
                    answer.len() == 35 && answer.ends_with(&[0x90, 0x00]),
                    "{prefix}: after the refresh"
                );
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 10 * 3 + 2 * 2);
}
