//! The cards: they start, answer, and hold what they held.

use std::fs::OpenOptions;

use sekisho_keys::{AesKey, KeySet, cmac};
use sekisho_link::{LoaderState, Receipt, Staging};
use sekisho_transport::Card;

use crate::frozen;
use crate::process::{CardProcess, count, initial_keys, key_set, open_channel, send};
use crate::server::ok;

/// SELECT of the OS part, of the file system.
const SELECT_PART: &[u8] = b"\x00\xA4\x04\x00\x07\xF0SKOS\x00\x01";
const SELECT_FILES: &[u8] = b"\x00\xA4\x04\x00\x07\xF0SKOS\x04\x01";
/// EXTERNAL 1 of a developer's card (docs/spec/file-system-applet.md, 5).
const EXTERNAL: [u8; 16] = [
    0x94, 0x34, 0x35, 0xE3, 0x9E, 0x41, 0x9F, 0x31, 0x7A, 0xFD, 0x23, 0xB4, 0x5E, 0xEF, 0x79, 0xB6,
];

/// Files of the full card, 0100 and on, and the bytes that were written to each.
const FULL: &[(u8, u16)] = &[(0, 4096), (1, 4096), (2, 4096), (3, 1152)];

/// SE-id of the card `number`.
pub(crate) fn se_id(number: u8) -> String {
    format!("5ec154000000000000{number:02x}")
}

/// What the meter answers: its version, and its register after adding.
pub(crate) fn meter(card: &CardProcess, amount: u8) -> (u8, u32) {
    let mut reader = card.reader();
    assert_eq!(send(&mut reader, SELECT_PART).1, 0x9000);
    let (version, sw) = send(&mut reader, &[0x80, 0x10, 0, 0, 0]);
    assert_eq!(sw, 0x9000);
    let (register, sw) = send(&mut reader, &[0x80, 0x22, 0, 0, 2, 0, amount, 0]);
    assert_eq!(sw, 0x9000);
    let register = register.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
    (*version.last().unwrap(), register)
}

/// The OS part of a card of then is written for host ABI 1: it is there, is not run, and the first screen says what to do.
pub(crate) fn rests(card: &CardProcess) {
    let mut reader = card.reader();
    assert_eq!(send(&mut reader, SELECT_PART).1, 0x9000);
    for command in [&[0x80, 0x10, 0, 0, 0][..], &[0x80, 0x22, 0, 0, 2, 0, 1, 0]] {
        assert_eq!(send(&mut reader, command), (vec![], 0x6D00));
    }
    let line = card.says("OS part");
    assert!(
        line.contains("written for host ABI 1; this card runs ABI 2 to 3")
            && line.contains("until it is updated"),
        "{line}"
    );
}

/// A data object with a tag of two bytes: its value.
pub(crate) fn object(card: &mut dyn Card, tag: u16) -> Vec<u8> {
    let [p1, p2] = tag.to_be_bytes();
    let (data, sw) = send(card, &[0x80, 0xCA, p1, p2, 0]);
    assert_eq!((&data[..2], sw), (&[p1, p2][..], 0x9000));
    data[3..].to_vec()
}

/// GET DATA DF20.
pub(crate) fn loader_state(card: &mut dyn Card) -> LoaderState {
    LoaderState::decode(&object(card, 0xDF20)).unwrap()
}

/// File 0011 of a card, read by today's reader under secure messaging.
fn file_0011(card: &CardProcess, key: &[&str], command: &str) -> String {
    let folder = frozen::copy();
    let address = format!("tcp:{}", card.address);
    let head = ["reader", "--json", "--card", &address];
    ok(
        folder.path(),
        &[&head[..], key, &["send", "00A4020C020011", command]].concat(),
    )
}

#[test]
fn a_developers_card_goes_on() {
    let folder = frozen::copy();
    let flash = folder.path().join("cards/developer.flash");
    // Kept without the zeros at its end.
    let file = OpenOptions::new().write(true).open(&flash).unwrap();
    file.set_len(4096 + 1184 * 1024).unwrap();
    let card = CardProcess::start(&flash, 0, &[]);
    assert_eq!(card.says("SE-id"), "c233e111d2759817bf79");
    assert!(card.says("OS part").starts_with("version 1 in slot A"));
    rests(&card);
    let mut reader = card.reader();
    // The one INITIALIZE UPDATE of then was number 1.
    assert_eq!(count(&mut reader), Some(2));
    assert!(open_channel(&mut reader, 0xFF, &initial_keys()).is_some());
    drop(reader);
    card.kill();
    let card = CardProcess::start(&flash, 0, &[]);
    assert_eq!(count(&mut card.reader()), Some(4));
}

fn keys_of(first: u8, length: usize) -> KeySet {
    let key = |n: u8| AesKey::new(&vec![first + n; length]).unwrap();
    KeySet {
        enc: key(0),
        mac: key(1),
        dek: key(2),
    }
}

#[test]
fn keys_life_cycle_tries_and_files_are_kept() {
    let folder = frozen::copy();
    let card = CardProcess::start(&folder.path().join("cards/owned.flash"), 0, &[]);
    let mut reader = card.reader();
    // KVN 1 was put and replaced, KVN 2 (AES-256) was put beside it; the initial keys went with the first PUT KEY.
    assert!(open_channel(&mut reader, 0x01, &keys_of(0x30, 16)).is_some());
    assert!(open_channel(&mut reader, 0x01, &keys_of(0x10, 16)).is_none());
    assert!(open_channel(&mut reader, 0xFF, &initial_keys()).is_none());
    assert!(open_channel(&mut reader, 0x01, &key_set(0x40)).is_none());
    let select = send(&mut reader, &[0x00, 0xA4, 0x04, 0x00, 0x00]);
    assert_eq!(select.1, 0x9000);
    // KVN 2 had been used six times.
    let (data, sw) = send(&mut reader, &[0x80, 0x50, 2, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
    assert_eq!((sw, &data[data.len() - 3..]), (0x9000, &[0, 0, 7][..]));
    assert!(open_channel(&mut reader, 0x02, &keys_of(0x20, 32)).is_some());
    drop(reader);
    let mut reader = card.reader();
    // IIN and CIN; the policy of secure messaging: fixed and legacy XOR beside the ratchet.
    assert_eq!(send(&mut reader, &[0x80, 0xCA, 0x00, 0x42, 0]).0, b"\x42\x04SEKI");
    assert_eq!(
        send(&mut reader, &[0x80, 0xCA, 0x00, 0x45, 0]).0,
        [0x45, 4, 0, 1, 2, 3]
    );
    // PIN 1 has lost one of its three tries.
    assert_eq!(send(&mut reader, SELECT_FILES).1, 0x9000);
    assert_eq!(send(&mut reader, &[0x00, 0x20, 0x00, 0x01]).1, 0x63C2);
    assert_eq!(send(&mut reader, b"\x00\x20\x00\x01\x041234").1, 0x9000);
    drop(reader);
    let read = file_0011(&card, &[], "00B0000000");
    assert!(read.contains("CAFEF00D00") && read.contains("0077"), "{read}");
    for (mode, allowed) in [("fixed", true), ("legacy-xor", true), ("legacy-list", false)] {
        let address = format!("tcp:{}", card.address);
        let arguments = ["reader", "--card", &address, "send", "--mode", mode, "00B0810004"];
        let (code, out, error) = crate::server::sekisho(folder.path(), &arguments);
        assert_eq!(code == 0, allowed, "{mode}: {out}{error}");
    }
}

/// What opened secure messaging then (version 0: keys under MKEY itself, nothing confirmed) opens nothing now; the card says 6985 and stays as it is.
#[test]
fn openings_of_then_are_refused() {
    let folder = frozen::copy();
    let card = CardProcess::start(&folder.path().join("cards/owned.flash"), 0, &[]);
    let mut reader = card.reader();
    assert_eq!(send(&mut reader, SELECT_FILES).1, 0x9000);
    for opening in [
        "805A000028BDDE6231ED7C08AEDA951E1EB390332AE67592FA59A55FBB31EAAE5439BA7014C4E6701642C5AE2B",
        "805A010028983FC607F8AF755131D186EFC1255103E735C1C1C5CD85CEEBFA7A38DD2BE87CEA960071B43AD5DD",
        "805A100043000304504B518EA3D2BCEC73805285B4C56C7F66E03F1DC2A511B116AA95035ABA1D89BE030F17FCD2B34126B366C0C9D53B4BB810FD7913500A1BCBD207CFC76322B000",
    ] {
        assert_eq!(send(&mut reader, &[0x00, 0x84, 0, 0, 16]).1, 0x9000);
        let opening = hex::decode(opening).unwrap();
        assert_eq!(send(&mut reader, &opening), (vec![], 0x6985));
        // Nothing is open: a command in the clear is answered, and a protected one is 6982.
        assert_eq!(send(&mut reader, &[0x00, 0x84, 0, 0, 8]).1, 0x9000);
        let protected = hex::decode("0CB081000D9701048E08010203040506070800").unwrap();
        assert_eq!(send(&mut reader, &protected), (vec![], 0x6982));
    }
}

#[test]
fn a_full_store_reads_counts_and_writes_what_it_has() {
    let folder = frozen::copy();
    let flash = folder.path().join("cards/full.flash");
    let card = CardProcess::start(&flash, 0, &[]);
    let mut reader = card.reader();
    assert_eq!(send(&mut reader, SELECT_FILES).1, 0x9000);
    let piece = |byte: u8| vec![byte; 128];
    for (file, written) in FULL {
        let id = [0x00, 0xA4, 0x02, 0x0C, 2, 1, *file];
        assert_eq!(send(&mut reader, &id).1, 0x9000);
        for at in (0..*written).step_by(128) {
            let [p1, p2] = at.to_be_bytes();
            let (data, sw) = send(&mut reader, &[0x00, 0xB0, p1, p2, 128]);
            assert_eq!((data, sw), (piece(file + 1), 0x9000), "file {file} at {at}");
        }
    }
    // The store of today has room for a few more pieces, and then for none; what is as long as what it replaces always goes.
    let (_, was) = FULL.last().unwrap();
    let update = |at: u16, bytes: &[u8]| [&[0x00, 0xD6], &at.to_be_bytes()[..], &[128], bytes].concat();
    let mut end = *was;
    let refused = loop {
        match send(&mut reader, &update(end, &piece(0xEE))).1 {
            0x9000 => end += 128,
            sw => break sw,
        }
    };
    assert_eq!(refused, 0x6A84);
    assert!(end < was + 16 * 128);
    for byte in [0xDD, 0xDC] {
        assert_eq!(send(&mut reader, &update(0, &piece(byte))).1, 0x9000);
        assert_eq!(send(&mut reader, &[0x00, 0xB0, 0, 0, 128]), (piece(byte), 0x9000));
    }
    // The reserve is there: counters count, and a deleted file gives room.
    assert_eq!(send(&mut reader, &[0x00, 0xA4, 0x04, 0x00, 0x00]).1, 0x9000);
    assert_eq!(count(&mut reader), Some(1));
    assert!(open_channel(&mut reader, 0xFF, &initial_keys()).is_some());
    assert_eq!(send(&mut reader, SELECT_FILES).1, 0x9000);
    let (challenge, _) = send(&mut reader, &[0x00, 0x84, 0, 0, 8]);
    let proof = cmac(&AesKey::new(&EXTERNAL).unwrap(), &[&challenge]);
    assert_eq!(
        send(&mut reader, &[&[0x00, 0x82, 0, 1, 16][..], &proof].concat()).1,
        0x9000
    );
    assert_eq!(send(&mut reader, &[0x00, 0xE4, 0, 0, 2, 1, 0]).1, 0x9000);
    let last = FULL.last().unwrap().0;
    assert_eq!(send(&mut reader, &[0x00, 0xA4, 0x02, 0x0C, 2, 1, last]).1, 0x9000);
    assert_eq!(send(&mut reader, &update(end, &piece(0xEE))).1, 0x9000);
    // In its place comes one that is kept as files are now, beside those of then.
    let create = hex::decode("00E000001562138002012C82020121830201008C054700000000").unwrap();
    assert_eq!(send(&mut reader, &create).1, 0x9000);
    let select = |file| [0x00, 0xA4, 0x02, 0x0C, 2, 1, file];
    assert_eq!(send(&mut reader, &select(0)).1, 0x9000);
    assert_eq!(send(&mut reader, &update(40, &piece(0xE1))).1, 0x9000);
    drop(reader);
    card.kill();
    let card = CardProcess::start(&flash, 0, &[]);
    let mut reader = card.reader();
    assert_eq!(send(&mut reader, SELECT_FILES).1, 0x9000);
    assert_eq!(send(&mut reader, &select(0)).1, 0x9000);
    let expected = [&[0; 40][..], &piece(0xE1), &[0; 87]].concat();
    assert_eq!(send(&mut reader, &[0x00, 0xB0, 0, 0, 0xFF]), (expected, 0x9000));
    for (file, at, byte) in [(1, 0, 2), (2, 3968, 3), (last, end, 0xEE)] {
        assert_eq!(send(&mut reader, &select(file)).1, 0x9000);
        let [p1, p2] = u16::to_be_bytes(at);
        assert_eq!(
            send(&mut reader, &[0x00, 0xB0, p1, p2, 128]),
            (piece(byte), 0x9000)
        );
    }
}

#[test]
fn a_card_of_the_fleet_keeps_part_receipt_keys_and_files() {
    let folder = frozen::copy();
    let card = CardProcess::start(&folder.path().join("cards/fleet.flash"), 0, &[]);
    assert_eq!(card.says("SE-id"), se_id(1));
    assert!(card.says("OS part").starts_with("version 2 in slot B"));
    let mut reader = card.reader();
    let state = loader_state(&mut reader);
    assert_eq!(
        (state.version, state.slot, state.staging),
        (2, 1, Staging::Nothing)
    );
    let receipt = object(&mut reader, 0xDF21);
    assert_eq!(receipt, frozen::read("messages/receipt"));
    assert_eq!(Receipt::decode(&receipt).unwrap().version, 2);
    let perso = sekisho_hsm::PersoFile::parse(&frozen::text("perso.json")).unwrap();
    assert!(open_channel(&mut reader, 0x30, &perso.scp().unwrap()).is_some());
    drop(reader);
    rests(&card);
    let mkey = folder.path().join("mkey");
    std::fs::write(&mkey, perso.file_mkey.as_ref().unwrap().as_bytes()).unwrap();
    let read = file_0011(&card, &["--key-file", mkey.to_str().unwrap()], "00B0000004");
    assert!(read.contains("11223344"), "{read}");
}
