//! Every length of a command is answered with a status word that says what is wrong, under the protection of the command, and what protects
//! it goes on: docs/spec/card.md, 2.

#![allow(clippy::unwrap_used, clippy::panic)] // test support

use crate::common;

use common::files::{self, Reader};
use common::host::Host;
use common::{initial_keys, new_card, new_card_of, send};
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::Mode;
use sekisho_os::{COMMAND_DATA_MAX, Interface};
use sekisho_scp::{ScpParameter, SecurityLevel};

/// Lengths around each limit: of the short form, of the buffers with and without padding and MAC, and of the extended form.
fn lengths() -> impl Iterator<Item = usize> {
    let around = [0, 223, 255, 1024, COMMAND_DATA_MAX, 4096].map(|at: usize| at.saturating_sub(40)..at + 40);
    around.into_iter().flatten().chain([20_000, 65_000])
}

/// A command in the extended form with this much data.
fn command(header: [u8; 4], len: usize) -> Vec<u8> {
    let mut capdu = header.to_vec();
    if len > 0 {
        capdu.push(0);
        capdu.extend(u16::try_from(len).unwrap().to_be_bytes());
        capdu.extend(vec![0x5A; len]);
    }
    capdu
}

/// Status words that say something of a command with too much, too little or senseless data.
fn says_what_is_wrong(sw: u16) -> bool {
    matches!(
        sw,
        0x6700 | 0x6A80 | 0x6A84 | 0x6A86 | 0x6A88 | 0x9000 | 0x6282 | 0x6985 | 0x9484
    )
}

fn sw(answer: &[u8]) -> u16 {
    common::sw(answer)
}

#[test]
fn a_secure_channel_goes_on_behind_a_command_of_any_length() {
    for parameter in [ScpParameter::FULL_S8, ScpParameter::FULL_S16] {
        for level in ["01", "03", "11", "13", "33"] {
            let level = SecurityLevel::from_p1(u8::from_str_radix(level, 16).unwrap()).unwrap();
            let mut card = new_card_of(parameter);
            let keys = initial_keys();
            let mut host = Host::open_on(
                &mut card,
                Interface::Iso7816Contact,
                0,
                0,
                &keys,
                level,
                parameter.mac_mode(),
            )
            .unwrap();
            for len in lengths() {
                for header in [
                    [0x80, 0xE2, 0x90, 0x00],
                    [0x80, 0xD8, 0x00, 0x81],
                    [0x80, 0xF2, 0x40, 0x02],
                ] {
                    let answer = host.send(&mut card, &command(header, len));
                    assert!(
                        says_what_is_wrong(sw(&answer)),
                        "{len} bytes: {:04X}",
                        sw(&answer)
                    );
                    if len > COMMAND_DATA_MAX {
                        assert_eq!(answer, [0x67, 0x00], "{len} bytes at {level:?}");
                    }
                }
                let level_object = host.send(&mut card, &[0x80, 0xCA, 0x00, 0xD3, 0x00]);
                assert_eq!(level_object, [0xD3, 0x01, 0x80 | level.p1(), 0x90, 0x00]);
            }
        }
    }
}

#[test]
fn secure_messaging_goes_on_behind_a_command_of_any_length() {
    for mode in Mode::ALL {
        let mut card = files::card();
        files::select(&mut card, Interface::Iso7816Contact);
        let mut reader =
            Reader::open(&mut card, Interface::Iso7816Contact, mode, Lanes::Shared, 256).unwrap();
        let mut commands = 0;
        for len in lengths() {
            let is_weak = !matches!(mode, Mode::Ratchet | Mode::Fixed);
            if is_weak || commands > 200 {
                // Their keys are soon used up, or want a refresh.
                commands = 0;
                card.reset(Interface::Iso7816Contact);
                files::select(&mut card, Interface::Iso7816Contact);
                reader =
                    Reader::open(&mut card, Interface::Iso7816Contact, mode, Lanes::Shared, 256).unwrap();
            }
            commands += 2;
            let answer = reader.send(&mut card, &command([0x00, 0xD6, 0x81, 0x00], len));
            assert!(
                says_what_is_wrong(sw(&answer)),
                "{mode:?}, {len} bytes: {:04X}",
                sw(&answer)
            );
            if len > COMMAND_DATA_MAX {
                assert_eq!(answer, [0x67, 0x00], "{mode:?}, {len} bytes");
            }
            let answer = reader.send(&mut card, &[0x00, 0xB0, 0x81, 0x00, 0x04]);
            assert_eq!(sw(&answer), 0x9000, "{mode:?} behind {len} bytes");
        }
    }
}

#[test]
fn a_command_in_the_clear_of_any_length_is_answered_in_words() {
    let mut card = new_card();
    for len in lengths() {
        for header in [
            [0x80, 0xE2, 0x90, 0x00],
            [0x00, 0xA4, 0x04, 0x00],
            [0x80, 0x50, 0x00, 0x00],
            [0x80, 0xCA, 0x00, 0xCF],
        ] {
            let answer = send(&mut card, &command(header, len));
            let sw = sw(&answer);
            assert!(
                says_what_is_wrong(sw) || matches!(sw, 0x6982 | 0x6A82),
                "{len} bytes: {sw:04X}"
            );
            if len > COMMAND_DATA_MAX && header[1] != 0xA4 {
                assert_eq!(sw, 0x6700, "{len} bytes");
            }
        }
    }
}

/// As much fits into a chain as into one command: the C-MAC of the whole comes on top.
#[test]
fn a_chain_takes_as_much_as_an_extended_command() {
    for (level, fits, too_long) in [("01", 2048, 2049), ("33", 2047, 2048)] {
        let level = SecurityLevel::from_p1(u8::from_str_radix(level, 16).unwrap()).unwrap();
        for (len, expected) in [(fits, 0x9484), (too_long, 0x6700)] {
            let mut card = new_card();
            let mut host = Host::open(&mut card, 0xFF, &initial_keys(), level);
            let whole = host.wrap(&command([0x80, 0xD8, 0x00, 0x81], len));
            let [cla, ins, p1, p2, _, _, _, data @ ..] = &whole[..] else {
                panic!("no extended command");
            };
            let mut parts = data.chunks(255).peekable();
            while let Some(part) = parts.next() {
                let more = if parts.peek().is_some() { 0x80 } else { 0 };
                let sent = [
                    &[*cla, *ins, p1 | more, *p2, u8::try_from(part.len()).unwrap()][..],
                    part,
                ]
                .concat();
                let answer = sw(&send(&mut card, &sent));
                assert_eq!(answer, if more == 0 { expected } else { 0x9000 }, "{len} bytes");
            }
        }
    }
}
