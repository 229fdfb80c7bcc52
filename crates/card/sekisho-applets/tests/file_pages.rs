//! The specification pages against a whole card: the conversations of `file-system-applet.md`, and every worked byte of
//! `rolling-secure-messaging.md`, played to the test card with the randomness that the page states.
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::common;

use common::script::{InProcess, Runner};
use common::{Script, Scripted, SeededRng, files, profile};
use sekisho_applets::file_system;
use sekisho_keys::sha256;
use sekisho_messaging::setup::Policy;
use sekisho_os::{Interface, SecureElement};
use sekisho_scp::MacMode;

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
        Runner::new(InProcess::new(files::card(), profile()), MacMode::S8)
            .run("file-system-applet.md", block);
    }
}

/// The test card with the page's challenge and ephemeral keys.
fn card() -> SecureElement<Scripted> {
    let random = [
        &files::named("challenge")[..],
        &sha256(&[b"card 1"]),
        &sha256(&[b"card 2"]),
    ]
    .concat();
    let rng = Script(random, SeededRng(1));
    files::element_on(common::flash(), rng, &profile(), Policy::every_mode())
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
    for mode in ["fixed", "xor", "list", "operations", "turns", "ratchet"] {
        for prefix in [mode.to_owned(), format!("{mode}-separate")] {
            let mut card = card();
            send(
                &mut card,
                &[&[0x00, 0xA4, 0x04, 0x0C, 0x07], file_system::AID].concat(),
            );
            let challenge = send(&mut card, &[0x00, 0x84, 0x00, 0x00, 0x10]);
            assert_eq!(challenge[..16], files::named("challenge"));
            let answer = send(&mut card, &worked(&format!("{prefix}-open")).unwrap());
            let expected = worked(&format!("{prefix}-open-response")).unwrap();
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
    assert_eq!(compared, 12 * 3 + 2 * 2);
}
