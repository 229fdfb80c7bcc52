//! What a card tells of a secret without a try, and what becomes of tries when its flash is full (docs/spec/file-system-applet.md, 4.3).
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::common;

use common::ByValue as _;
use common::files::{self, authenticate_with, plain, select};
use common::{Card, SeededRng, profile, send, sw};
use sekisho_applets::file_system::image::test_key;
use sekisho_os::Interface;

const CONTACT: Interface = Interface::Iso7816Contact;

/// The test card with this value in a key file: the PIN by its number, a key by its selection.
fn card_with(fid: u8, value: &[u8]) -> Card {
    let mut card = files::card();
    select(&mut card, CONTACT);
    authenticate_with(&mut card, (CONTACT, 0), &test_key::EXTERNAL);
    plain(&mut card, CONTACT, &[0x00, 0xA4, 0x00, 0x0C, 0x02, 0x00, fid]).unwrap();
    let set = [
        &[0x00, 0x24, 0x01, 0x00, u8::try_from(value.len()).unwrap()],
        value,
    ]
    .concat();
    plain(&mut card, CONTACT, &set).unwrap();
    card.reset(CONTACT);
    select(&mut card, CONTACT);
    card
}

fn with_data(header: [u8; 4], data: &[u8]) -> Vec<u8> {
    let lc = u8::try_from(data.len()).unwrap();
    if data.is_empty() {
        header.to_vec()
    } else {
        [&header[..], &[lc], data].concat()
    }
}

/// An answer to each of the commands, each on a card as it was, and the flash operations that it took: what somebody sees who has no try to lose.
fn seen(card: Card, commands: &[Vec<Vec<u8>>]) -> Vec<(Vec<u8>, u64)> {
    let flash = card.into_flash();
    let answers = commands.iter().map(|steps| {
        let mut card = Card::booted(flash.clone(), SeededRng(5), &profile()).unwrap();
        select(&mut card, CONTACT);
        let before = card.flash().operations();
        let mut answer = Vec::new();
        for step in steps {
            answer = send(&mut card, step);
        }
        (answer, card.flash().operations() - before)
    });
    answers.collect()
}

/// Wrong data of every length: the answer and what is written are the same whatever the secret's length is. A try is spent wherever the answer could
/// depend on it.
#[test]
fn nothing_tells_how_long_a_secret_is() {
    let wrong = |len: usize| vec![0x5A; len];
    let pin_commands: Vec<_> = (0..=40)
        .flat_map(|len| {
            [
                vec![with_data([0x00, 0x24, 0x00, 0x01], &wrong(len))],
                vec![with_data([0x00, 0x20, 0x00, 0x01], &wrong(len))],
            ]
        })
        .chain([vec![vec![0x00, 0xA4, 0x00, 0x00, 0x02, 0x00, 0x03, 0x00]]])
        .collect();
    let pins: Vec<_> = (4..=16)
        .map(|len| seen(card_with(3, &vec![0x31; len]), &pin_commands))
        .collect();
    assert!(pins.iter().all(|answers| *answers == pins[0]));
    for (len, answers) in pins[0].chunks(2).take(41).enumerate() {
        let [(change, _), (verify, _)] = answers else {
            unreachable!()
        };
        // What is no length of two PINs costs nothing, and is that whatever the PIN.
        let expected = if (8..=32).contains(&len) { 0x63C2 } else { 0x6700 };
        assert_eq!(sw(change), expected, "CHANGE REFERENCE DATA, {len} bytes");
        let expected = if len == 0 { 0x63C3 } else { 0x63C2 };
        assert_eq!(sw(verify), expected, "VERIFY, {len} bytes");
    }

    let challenge = vec![0x00, 0x84, 0x00, 0x00, 0x10];
    let select_file = |fid| vec![0x00, 0xA4, 0x00, 0x00, 0x02, 0x00, fid, 0x00];
    for (fid, header) in [
        (1, [0x80, 0x5A, 0x00, 0x00]),
        (1, [0x80, 0x5A, 0x01, 0x00]),
        (1, [0x80, 0x5A, 0x10, 0x00]),
        (2, [0x00, 0x82, 0x00, 0x01]),
    ] {
        let commands: Vec<_> = (0..=100)
            .map(|len| vec![challenge.clone(), with_data(header, &wrong(len))])
            .chain([vec![select_file(fid)]])
            .collect();
        let keys: Vec<_> = [16, 24, 32]
            .map(|len| seen(card_with(fid, &vec![0x66; len]), &commands))
            .to_vec();
        assert!(keys.iter().all(|answers| *answers == keys[0]), "{header:02X?}");
    }
}

/// The right old PIN, and what cannot be a PIN behind it: that is said, and costs no try; with a wrong old PIN nothing is said of what is behind.
#[test]
fn the_new_pin_is_looked_at_behind_the_old_one() {
    for (old, behind, expected) in [
        ("31323334", 4, 0x9000),
        ("31323334", 16, 0x9000),
        ("31323334", 17, 0x6A80),
        ("31323335", 4, 0x63C2),
        ("31323335", 17, 0x63C2),
    ] {
        let mut card = files::card();
        select(&mut card, CONTACT);
        let data = [hex::decode(old).unwrap(), vec![0x35; behind]].concat();
        let answer = send(&mut card, &with_data([0x00, 0x24, 0x00, 0x01], &data));
        assert_eq!(sw(&answer), expected, "{old} and {behind} bytes");
        card.reset(CONTACT);
        select(&mut card, CONTACT);
        let left = if expected == 0x63C2 { 0x63C2 } else { 0x63C3 };
        assert_eq!(sw(&send(&mut card, &[0x00, 0x20, 0x00, 0x01])), left);
    }
}

/// Fills the flash: files and their contents, until nothing goes any more.
fn fill(card: &mut Card) {
    authenticate_with(card, (CONTACT, 0), &test_key::EXTERNAL);
    plain(card, CONTACT, &hex::decode("002000010431323334").unwrap()).unwrap();
    plain(card, CONTACT, &with_data([0x00, 0xE2, 0x00, 0x10], &[0xEE; 1])).unwrap();
    let mut fid = 0x40;
    loop {
        let fcp = [
            0x62, 0x12, 0x80, 0x02, 0x04, 0x00, 0x82, 0x02, 0x01, 0x21, 0x83, 0x02, 0x40, fid, 0x8C, 0x04,
            0x07, 0, 0, 0,
        ];
        if sw(&send(card, &with_data([0x00, 0xE0, 0x00, 0x00], &fcp))) != 0x9000 {
            break;
        }
        plain(card, CONTACT, &[0x00, 0xA4, 0x00, 0x0C, 0x02, 0x40, fid]).unwrap();
        for offset in (0..1024_u16).step_by(128) {
            let [high, low] = offset.to_be_bytes();
            send(card, &with_data([0x00, 0xD6, high, low], &[0xEE; 128]));
        }
        fid += 1;
    }
    // And what is left, word by word, in the record.
    let longer = |len: usize| with_data([0x00, 0xDC, 0x01, 0x14], &vec![0xEE; len]);
    let mut lengths = (5..64).step_by(4).map(longer);
    assert!(
        lengths.any(|update| sw(&send(card, &update)) == 0x6A84),
        "the flash is not full"
    );
    card.reset(CONTACT);
    select(card, CONTACT);
}

/// A full flash takes neither a try nor a proof from who knows the PIN, and nothing that is as long as what it replaces is refused.
#[test]
fn a_full_flash_costs_no_right_pin() {
    let mut card = files::card();
    select(&mut card, CONTACT);
    fill(&mut card);
    let answer = |card: &mut Card, capdu: &str| sw(&send(card, &hex::decode(capdu).unwrap()));
    authenticate_with(&mut card, (CONTACT, 0), &test_key::EXTERNAL);
    let new_file = "00E000001762158002001082020121830250008801608C0407000000";
    assert_eq!(answer(&mut card, new_file), 0x6A84);
    assert_eq!(answer(&mut card, "00A4000C024040"), 0x9000);
    for _ in 0..20 {
        assert_eq!(answer(&mut card, "002000010431323335"), 0x63C2);
        assert_eq!(answer(&mut card, "002000010431323335"), 0x63C1);
        assert_eq!(answer(&mut card, "002000010431323334"), 0x9000);
        assert_eq!(answer(&mut card, "00200001"), 0x9000);
        assert_eq!(
            answer(
                &mut card,
                "0024000108 31323334 31323334".replace(' ', "").as_str()
            ),
            0x9000
        );
        assert_eq!(answer(&mut card, "00200001"), 0x63C3);
        authenticate_with(&mut card, (CONTACT, 0), &test_key::EXTERNAL);
        // In place of other bytes, and of the same number of tries.
        assert_eq!(answer(&mut card, "00D6000004AABBCCDD"), 0x9000);
        assert_eq!(answer(&mut card, "002C0301"), 0x9000);
    }
    // Eight pieces of 48 bytes, then 19.
    let update = |len: usize| format!("00D6000000{len:04X}{}", "C3".repeat(len));
    assert_eq!(answer(&mut card, &update(384)), 0x9000);
    // As long as what it replaces always goes, however often.
    assert!((0..20).all(|_| answer(&mut card, &update(896)) == 0x9000));
    // A longer PIN does not fit: the old one stays, with all its tries, and is proved.
    let longer = format!("0024000114 31323334 {}", "37".repeat(16)).replace(' ', "");
    assert_eq!(answer(&mut card, &longer), 0x6A84);
    assert_eq!(answer(&mut card, "002000010431323334"), 0x9000);
    card.reset(CONTACT);
    select(&mut card, CONTACT);
    assert_eq!(answer(&mut card, "00200001"), 0x63C3);
}
