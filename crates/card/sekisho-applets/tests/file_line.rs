//! Somebody in the line between a reader and the card: nothing is carried out that was not sent, and nothing is read that was not meant for him
//! (docs/spec/rolling-secure-messaging.md, 2; docs/spec/file-system-applet.md, 4.4).
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::print_stdout, reason = "says how much it has tried")]

use crate::common;

use std::collections::BTreeMap;

use common::ByValue as _;
use common::files::{self, Reader, append, authenticate, plain, select};
use common::{Card, SeededRng, places, profile, send, sw};
use sekisho_apdu::{Cla, SecureMessaging};
use sekisho_applets::file_system::{self, image::test_key};
use sekisho_messaging::EphemeralKey;
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::{Mode, refresh_command, refresh_secret};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::Interface;

const CONTACT: Interface = Interface::Iso7816Contact;

/// A card on which whoever comes may do everything that the test card allows, with two records in each file of records.
fn prepared() -> RamFlash {
    let mut card = files::card();
    select(&mut card, CONTACT);
    plain(
        &mut card,
        CONTACT,
        &[0x00, 0x20, 0x00, 0x01, 0x04, 0x31, 0x32, 0x33, 0x34],
    )
    .unwrap();
    let mut reader = Reader::open(&mut card, CONTACT, Mode::Fixed, Lanes::Shared, 9).unwrap();
    for number in [0x71, 0x72] {
        assert_eq!(reader.send(&mut card, &append(number)), [0x90, 0x00]);
        let record = [&[0x00, 0xE2, 0x00, 0x10, 0x10][..], &[number; 16]].concat();
        assert_eq!(reader.send(&mut card, &record), [0x90, 0x00]);
    }
    let content = [&[0x00, 0xD6, 0x81, 0x00, 0x20][..], &[0x5A; 32]].concat();
    assert_eq!(reader.send(&mut card, &content), [0x90, 0x00]);
    card.into_flash()
}

/// The card with PIN 1 and EXTERNAL 1 proved, and a reader under secure messaging.
fn under(flash: &RamFlash, mode: Mode, lanes: Lanes) -> (Card, Reader) {
    let mut card = Card::booted(flash.clone(), SeededRng(3), &profile()).unwrap();
    select(&mut card, CONTACT);
    plain(
        &mut card,
        CONTACT,
        &[0x00, 0x20, 0x00, 0x01, 0x04, 0x31, 0x32, 0x33, 0x34],
    )
    .unwrap();
    authenticate(&mut card, CONTACT);
    let reader = Reader::open(&mut card, CONTACT, mode, lanes, 9).unwrap();
    (card, reader)
}

/// What the reader's REFRESH KEYS carries.
fn ephemeral() -> EphemeralKey {
    EphemeralKey::generate(&mut SeededRng(21)).unwrap()
}

/// Every instruction of the application, as a command that is carried out; the cryptogram of EXTERNAL AUTHENTICATE is still to come.
fn commands() -> Vec<(&'static str, Vec<u8>)> {
    let refresh = common::host::encode(&refresh_command(&ephemeral().public_key()));
    let hex = |capdu: &str| hex::decode(capdu.replace(' ', "")).unwrap();
    vec![
        ("SELECT FILE", hex("00A4000402 0011 00")),
        ("SELECT FILE by name", hex("00A4040C07 F0534B44465EC1")),
        ("READ BINARY", hex("00B0810020")),
        ("WRITE BINARY", hex("00D0810004 DEADBEEF")),
        ("UPDATE BINARY", hex("00D6810004 DEADBEEF")),
        ("READ RECORD", hex("00B2011C00")),
        ("WRITE RECORD", hex("00D2011410 808182838485868788898A8B8C8D8E8F")),
        (
            "UPDATE RECORD",
            hex("00DC001B10 00112233445566778899AABBCCDDEEFF"),
        ),
        ("APPEND RECORD", append(0x73)),
        ("VERIFY", hex("0020000104 31323334")),
        ("CHANGE REFERENCE DATA", hex("0024000108 3132333435363738")),
        ("new value", hex("0024010104 35363738")),
        ("RESET RETRY COUNTER", hex("002C0301")),
        ("GET CHALLENGE", hex("0084000010")),
        ("EXTERNAL AUTHENTICATE", hex("0082000110")),
        ("INTERNAL AUTHENTICATE", hex("0088000104 01020304 00")),
        (
            "CREATE FILE",
            hex("00E0000017 62158002000A82020101830240018801308C0407000000"),
        ),
        ("DELETE FILE", hex("00E4000002 0004")),
        ("REFRESH KEYS", refresh),
    ]
}

/// A command as the reader sends it, ready to go: what has to come before has been sent.
fn protected(card: &mut Card, reader: &mut Reader, (name, command): &(&str, Vec<u8>)) -> Vec<u8> {
    if *name != "EXTERNAL AUTHENTICATE" {
        return reader.protect(command);
    }
    let challenge = reader.send(card, &[0x00, 0x84, 0x00, 0x00, 0x10]);
    let mac = sekisho_keys::cmac(&common::key(&test_key::EXTERNAL), &[&challenge[..16]]);
    reader.protect(&[&command[..], &mac].concat())
}

/// Whether a mode has a command at all.
fn has(mode: Mode, name: &str) -> bool {
    name != "REFRESH KEYS" || mode == Mode::Ratchet
}

/// Each command is carried out as it is, in every mode: what follows tries the real thing. What it says and what is answered is enciphered.
#[test]
fn every_command_is_carried_out_and_enciphered() {
    let flash = prepared();
    for (mode, lanes) in files::every_mode() {
        for command in commands().iter().filter(|(name, _)| has(mode, name)) {
            let (mut card, mut reader) = under(&flash, mode, lanes);
            let sent = protected(&mut card, &mut reader, command);
            let answer = reader.transmit(&mut card, &sent);
            let plain = reader.accept(&answer).unwrap();
            assert!(
                plain.ends_with(&[0x90, 0x00]),
                "{}, {}: {plain:02X?}",
                mode.name(),
                command.0
            );
            let secrets = [&command.1[5.min(command.1.len())..], &plain[..plain.len() - 2]];
            for secret in secrets.into_iter().filter(|secret| secret.len() >= 4) {
                for bytes in [&sent, &answer] {
                    assert!(
                        !bytes.windows(4).any(|four| secret.windows(4).any(|s| s == four)),
                        "{}",
                        command.0
                    );
                }
            }
        }
    }
}

/// Every byte of every command changed, in every mode: nothing is written, nothing comes but a status word; and if the session goes on, it goes on
/// with what the reader sent.
#[test]
fn every_byte_of_every_command_is_the_readers() {
    let flash = prepared();
    let (mut cases, mut words) = (0, BTreeMap::new());
    for (mode, lanes) in files::every_mode() {
        // All bits in one mode, one of each byte in the others: the card's way is the same.
        let bits = if mode == Mode::Fixed && lanes == Lanes::Shared {
            0..8
        } else {
            3..4
        };
        for command in commands().iter().filter(|(name, _)| has(mode, name)) {
            let (mut card, mut reader) = under(&flash, mode, lanes);
            let len = protected(&mut card, &mut reader, command).len();
            // The last byte is Le, which the MAC does not cover: it says how much of the answer comes at once.
            for (at, bit) in places(len - 1).flat_map(|at| bits.clone().map(move |bit| (at, bit))) {
                let (mut card, mut reader) = under(&flash, mode, lanes);
                let sent = protected(&mut card, &mut reader, command);
                let mut changed = sent.clone();
                changed[at] ^= 1 << bit;
                let before = card.flash().operations();
                let answer = reader.transmit(&mut card, &changed);
                let what = format!(
                    "{}, {}, byte {at}, bit {bit}: {answer:02X?}",
                    mode.name(),
                    command.0
                );
                assert_eq!(answer.len(), 2, "{what}");
                assert_eq!(card.flash().operations(), before, "{what}");
                *words.entry(format!("{:04X}", sw(&answer))).or_insert(0) += 1;
                cases += 1;
                let answer = reader.transmit(&mut card, &sent);
                match reader.accept(&answer) {
                    Ok(plain) => assert!(plain.ends_with(&[0x90, 0x00]), "{what}"),
                    Err(_) => {
                        assert_eq!(answer.len(), 2, "{what}");
                        assert_eq!(card.flash().operations(), before, "{what}");
                    }
                }
            }
        }
    }
    println!("{cases} changed commands: {words:?}");
    assert!(
        ["6987", "6988", "6700", "6881", "6E00"]
            .iter()
            .all(|word| words.contains_key(*word)),
        "{words:?}"
    );
}

/// Not authentic, or nothing is open (6882: SELECT by name, which is the operating system's then), or no more exchanges in this mode.
fn is_refusal(answer: &[u8]) -> bool {
    answer.len() == 2 && matches!(sw(answer), 0x6988 | 0x6982 | 0x6882 | 0x6985)
}

/// Dropped, repeated, exchanged for an older one, for one of another session, cut into a chain, with another's in between: each command is carried
/// out once or not at all, and answered with the same bytes however often it comes.
#[test]
fn commands_dropped_repeated_and_swapped() {
    let flash = prepared();
    let mut cases = 0;
    for mode in Mode::ALL {
        // legacy-xor has three exchanges, and EXTERNAL AUTHENTICATE takes two.
        let fits = |name: &str| mode != Mode::LegacyXor || name != "EXTERNAL AUTHENTICATE";
        for command in commands()
            .iter()
            .filter(|(name, _)| has(mode, name) && fits(name))
        {
            let start = || {
                let (mut card, mut reader) = under(&flash, mode, Lanes::Separate);
                let first = reader.protect(&[0x00, 0xB0, 0x9E, 0x00, 0x04]);
                let answer = reader.transmit(&mut card, &first);
                reader.accept(&answer).unwrap();
                let sent = protected(&mut card, &mut reader, command);
                (card, reader, first, sent)
            };
            // Dropped, then sent again; and again, after it was answered.
            let (mut card, mut reader, first, sent) = start();
            let once = reader.transmit(&mut card, &sent);
            let written = card.flash().operations();
            for _ in 0..3 {
                assert_eq!(reader.transmit(&mut card, &sent), once, "{}", command.0);
            }
            assert_eq!(card.flash().operations(), written, "{}", command.0);
            let plain = reader.accept(&once).unwrap();
            assert!(plain.ends_with(&[0x90, 0x00]));
            if command.0 == "REFRESH KEYS" {
                let (own, card_key) = (ephemeral(), &plain[..plain.len() - 2]);
                let public = own.public_key();
                let secret = refresh_secret(&reader.mkey, own, &public, card_key).unwrap();
                reader.messaging.refresh(secret.as_ref()).unwrap();
            }
            // The one before the last is old, and what comes after it finds nothing open.
            let next = reader.protect(&[0x00, 0xB0, 0x9E, 0x00, 0x04]);
            let answer = reader.transmit(&mut card, &next);
            reader.accept(&answer).unwrap();
            let written = card.flash().operations();
            for old in [&sent, &first] {
                let answer = reader.transmit(&mut card, old);
                assert!(is_refusal(&answer), "{}: {answer:02X?}", command.0);
            }
            assert_eq!(card.flash().operations(), written, "{}", command.0);
            // Another session's, under the same MKEY and with the same commands before it.
            let (_, _, _, foreign) = start();
            let (mut card, mut reader, _, own) = start();
            files::plain(&mut card, CONTACT, &[0x00, 0x84, 0x00, 0x00, 0x10]).unwrap_err();
            select(&mut card, CONTACT);
            authenticate(&mut card, CONTACT);
            let fresh = Reader::open(&mut card, CONTACT, mode, Lanes::Separate, 9).unwrap();
            let before = card.flash().operations();
            for stale in [&own, &foreign] {
                let answer = fresh.transmit(&mut card, stale);
                assert!(is_refusal(&answer), "{}: {answer:02X?}", command.0);
            }
            assert_eq!(card.flash().operations(), before, "{}", command.0);
            assert!(reader.accept(&[0x69, 0x82]).is_err());
            cases += 10;
        }
    }
    println!("{cases} commands repeated, old or of another session");
}

/// Two sessions on two logical channels, their commands in turns: each is of its own session, whatever the class byte is changed to.
#[test]
fn two_sessions_on_two_channels() {
    let flash = prepared();
    let mut cases = 0;
    for mode in Mode::ALL {
        for command in commands().iter().filter(|(name, _)| has(mode, name)) {
            for swapped in [false, true] {
                let (mut card, mut one) = under(&flash, mode, Lanes::Shared);
                plain(&mut card, Interface::Spi, &[0x00, 0x70, 0x00, 0x00, 0x01]).unwrap();
                files::select_on(&mut card, Interface::Spi, 1);
                let mut two =
                    Reader::open_on(&mut card, (Interface::Spi, 1), mode, Lanes::Shared, 9).unwrap();
                let read = [0x01, 0xB0, 0x81, 0x00, 0x04];
                assert_eq!(two.send(&mut card, &read), [0x5A, 0x5A, 0x5A, 0x5A, 0x90, 0x00]);
                let sent = protected(&mut card, &mut one, command);
                let other = two.protect(&[0x01, 0xB0, 0x81, 0x00, 0x08]);
                if swapped {
                    // Each one's command in the other's place, with the class byte that belongs there.
                    let before = card.flash().operations();
                    let there = two.transmit(&mut card, &[&[sent[0] | 0x01], &sent[1..]].concat());
                    let here = one.transmit(&mut card, &[&[other[0] & 0xFE], &other[1..]].concat());
                    for answer in [&there, &here] {
                        assert_eq!(hex::encode(answer), "6988", "{}", command.0);
                    }
                    assert_eq!(card.flash().operations(), before, "{}", command.0);
                } else {
                    let answer = one.transmit(&mut card, &sent);
                    assert!(
                        one.accept(&answer).unwrap().ends_with(&[0x90, 0x00]),
                        "{}",
                        command.0
                    );
                    let answer = two.transmit(&mut card, &other);
                    assert_eq!(two.accept(&answer).unwrap().len(), 10, "{}", command.0);
                }
                cases += 1;
            }
        }
    }
    println!("{cases} pairs of sessions");
}

/// Every instruction and every class byte in the clear, where secure messaging is open: on its channel 6987 and the end, SELECT by AID, MANAGE CHANNEL
/// and chains as well; elsewhere it is no business of the session. GET RESPONSE belongs to the transport.
#[test]
fn in_the_clear_everything_ends() {
    let flash = prepared();
    let (mut card, mut reader) = under(&flash, Mode::Fixed, Lanes::Shared);
    let bodies: [&[u8]; 3] = [&[], &[0x07], &[0x02, 0x00, 0x11]];
    let all = (0..=0xFF).flat_map(|ins: u8| [0x00, 0x10, 0x80, 0x90, 0x01].map(|cla| (cla, ins)));
    let instructions = [0x20, 0x50, 0x70, 0x82, 0xA4, 0xB0, 0xC0, 0xCA, 0xD6, 0xE2];
    let classes = (0..=0xFF).flat_map(|cla: u8| instructions.map(|ins| (cla, ins)));
    let (mut cases, mut words) = (0, BTreeMap::new());
    for (cla, ins) in all.chain(classes) {
        for p1 in [0x00, 0x04, 0x80] {
            for body in bodies {
                let class = Cla(cla);
                let is_own = class.logical_channel() == 0;
                let capdu = if ins == 0xA4 && p1 == 0x04 && body.len() > 1 {
                    [&[cla, ins, p1, 0x00, 0x07], file_system::AID].concat()
                } else {
                    [&[cla, ins, p1, 0x00], body].concat()
                };
                let before = card.flash().operations();
                let answer = send(&mut card, &capdu);
                let word = sw(&answer);
                let what = format!("{}: {word:04X}", hex::encode(&capdu));
                assert_eq!(answer.len(), 2, "{what}");
                assert_eq!(card.flash().operations(), before, "{what}");
                // The class of secure messaging: chained it is kept, without its MAC it is the end.
                let is_chained =
                    is_own && class.secure_messaging() == SecureMessaging::IsoHeader && class.chaining();
                let goes_on = !is_own || class.is_supported() && (ins == 0xC0 || is_chained);
                let expected = match () {
                    () if !class.is_supported() => 0x6E00,
                    () if !is_own => 0x6881,
                    () if ins == 0xC0 => 0x6D00,
                    () if is_chained => 0x9000,
                    () => 0x6987,
                };
                assert_eq!(word, expected, "{what}");
                let read = reader.protect(&[0x00, 0xB0, 0x81, 0x00, 0x04]);
                let answer = reader.transmit(&mut card, &read);
                assert_eq!(reader.accept(&answer).is_ok(), goes_on, "{what}");
                if !goes_on {
                    assert_eq!(answer, [0x69, 0x82], "{what}");
                    select(&mut card, CONTACT);
                    reader = Reader::open(&mut card, CONTACT, Mode::Fixed, Lanes::Shared, 9).unwrap();
                }
                *words.entry(format!("{word:04X}")).or_insert(0) += 1;
                cases += 1;
            }
        }
    }
    println!("{cases} commands in the clear: {words:?}");
}

/// A chain of protected segments that is longer than any command ends the session: its MAC is never seen.
#[test]
fn a_chain_without_end_ends_the_session() {
    let (mut card, mut reader) = under(&prepared(), Mode::Fixed, Lanes::Shared);
    let segment = [&[0x1C, 0xD6, 0x81, 0x00, 0xFF][..], &[0; 255]].concat();
    let words: Vec<_> = (0..9).map(|_| sw(&send(&mut card, &segment))).collect();
    assert_eq!(words, [&[0x9000; 8][..], &[0x6700]].concat());
    let read = reader.protect(&[0x00, 0xB0, 0x81, 0x00, 0x04]);
    assert_eq!(reader.transmit(&mut card, &read), [0x69, 0x82]);
}
