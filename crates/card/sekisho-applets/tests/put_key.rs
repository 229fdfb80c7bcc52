//! PUT KEY as hosts send it, and what it and DELETE leave alone (`docs/spec/keys.md`, 3 and 4).

#![allow(clippy::unwrap_used, clippy::panic)] // test support

use crate::common;

use common::ByValue as _;
use common::host::{Host, initialize_update};
use common::keys::{aes_field, delete, put_key, put_set, set, ways};
use common::update::Keys;
use common::{
    Card, SeededRng, flash, initial_keys, key, new_card, new_card_with, profile, send, send_on, sw,
};
use sekisho_keys::{AesKey, KeySet, kcv_aes};
use sekisho_os::{Interface, InterfaceAccess, Profile};
use sekisho_scp::{MacMode, SecurityLevel};

const FULL: SecurityLevel = SecurityLevel::FULL;

/// The key information template's entries.
fn information(host: &mut Host, card: &mut Card) -> Vec<Vec<u8>> {
    let answer = host.send(card, &[0x00, 0xCA, 0x00, 0xE0, 0x00, 0x00, 0x00]);
    let mut rest = &answer[..answer.len() - 2];
    let mut entries = Vec::new();
    while let [0xC0, len, tail @ ..] = rest {
        let (entry, tail) = tail.split_at(usize::from(*len));
        entries.push(entry.to_vec());
        rest = tail;
    }
    assert!(rest.is_empty());
    entries
}

/// A host on a new card, at a level where its commands can be cut in parts without another thought.
fn initial(card: &mut Card) -> (Host, AesKey) {
    (Host::open(card, 0xFF, &initial_keys(), FULL), initial_keys().dek)
}

/// The generator of P-256.
const POINT: &str = "046B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C2964FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5";

/// The same with its curve by parameters, as gpshell sends it: p, a, b, G, n (SEC 2, 2.4.2).
fn explicit(point: &str) -> Vec<u8> {
    let text = [
        "B041",
        point,
        "B220FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF",
        "B320FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFC",
        "B4205AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B",
        "B541",
        POINT,
        "B620FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551",
        "00",
    ];
    hex::decode(text.concat()).unwrap()
}

/// A modulus of 2,048 bits.
fn modulus() -> Vec<u8> {
    [&[0xC5][..], &[0x5A; 255]].concat()
}

fn rsa(modulus: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(modulus.len()).unwrap().to_be_bytes();
    [&[0xA1, 0x82, high, low][..], modulus, &[0xA0, 3, 1, 0, 1, 0]].concat()
}

fn by_reference(curve: &str) -> Vec<u8> {
    hex::decode(["B041", POINT, curve].concat()).unwrap()
}

/// KID, KVN, key data field; key information; bytes of check values in the answer.
type Good = (u8, u8, Vec<u8>, Vec<u8>, usize);

fn good(dek: &AesKey) -> [Good; 9] {
    let aes = |byte: u8, len: usize| aes_field(dek, &key(&[byte; 32][..len]));
    let short = |kid, kvn, len| vec![kid, kvn, 0x88, len];
    let rsa_entry = |kvn, high, low| vec![1, kvn, 0xFF, 0xA1, high, low, 0xFF, 0xA0, 0, 3, 0, 0];
    let ec_entry = |kid, kvn| vec![kid, kvn, 0xB0, 0x40, 0xF0, 0];
    let unchecked = aes(0x71, 16);
    let unchecked = [&unchecked[..unchecked.len() - 4], &[0]].concat();
    // gp puts the key's length before 16 bytes too: `88 11 10`.
    let with_length = [&[0x88, 0x11, 0x10][..], &aes(0x72, 16)[2..]].concat();
    [
        (0x01, 0x70, unchecked, short(1, 0x70, 16), 3),
        (0x01, 0x71, with_length, short(1, 0x71, 16), 3),
        (0x05, 0x72, aes(0x73, 24), short(5, 0x72, 24), 3),
        (0x7F, 0x7F, aes(0x74, 32), short(0x7F, 0x7F, 32), 3),
        (0x01, 0x05, aes(0x75, 16), short(1, 0x05, 16), 3),
        (0x10, 0x03, by_reference("F0010000"), ec_entry(0x10, 0x03), 0),
        (0x01, 0x73, explicit(POINT), ec_entry(1, 0x73), 0),
        (0x01, 0x74, rsa(&modulus()), rsa_entry(0x74, 1, 0), 0),
        (0x01, 0x75, rsa(&modulus()[..128]), rsa_entry(0x75, 0, 128), 0),
    ]
}

fn bad(dek: &AesKey) -> [(&'static str, Vec<u8>, u16); 11] {
    let des = |kind: &str| hex::decode([kind, "10", &"11".repeat(16), "03AABBCC"].concat()).unwrap();
    let mut changed = explicit(POINT);
    changed[80] ^= 1;
    let mut wrong_check = aes_field(dek, &key(&[0x76; 16]));
    *wrong_check.last_mut().unwrap() ^= 1;
    let private = hex::decode(["B120", &"11".repeat(32), "F0010000"].concat()).unwrap();
    [
        ("a curve that is not P-256", by_reference("F0010100"), 0x9484),
        ("parameters of another curve", changed, 0x9484),
        ("no curve", by_reference("00"), 0x6A80),
        ("DES", des("80"), 0x9484),
        ("DES in CBC", des("82"), 0x9484),
        ("EC private", private, 0x9484),
        ("the extended format", hex::decode("FF880010").unwrap(), 0x9484),
        ("RSA of 4,096 bits", rsa(&[0xC5; 512]), 0x9484),
        ("modulus alone", rsa(&modulus())[..4 + 256].to_vec(), 0x6A80),
        ("a wrong check value", wrong_check, 0x9485),
        ("nothing", vec![], 0x6A80),
    ]
}

/// Every kind of key that hosts send, each in the form that they send it, alone in a version.
#[test]
fn put_key_of_every_kind_that_hosts_send() {
    let mut card = new_card();
    let (mut host, dek) = initial(&mut card);
    for (kid, kvn, field, entry, kcv) in good(&dek) {
        let command = put_key(0, kid, kvn, &[field]);
        let answer = host.send(&mut card, &command);
        assert_eq!(
            sw(&answer),
            0x9000,
            "{}: {answer:02X?}",
            hex::encode_upper(&command)
        );
        assert_eq!((answer[0], answer.len()), (kvn, 1 + kcv + 2));
        let shown = information(&mut host, &mut card);
        assert!(shown.contains(&entry), "{entry:02X?} in {shown:02X?}");
    }
    let before = information(&mut host, &mut card);
    for (what, field, expected) in bad(&dek) {
        let answer = sw(&host.send(&mut card, &put_key(0, 1, 0x76, &[field])));
        assert_eq!(answer, expected, "{what}: {answer:04X}");
    }
    assert_eq!(information(&mut host, &mut card), before);
}

/// K-AUT has one number, and a DELETE that names two versions means none.
#[test]
fn k_aut_keeps_its_number_and_goes_alone() {
    let mut card = new_card();
    let (mut host, dek) = initial(&mut card);
    let field = |byte| [aes_field(&dek, &key(&[byte; 16]))];
    for kvn in [0x65, 0x7F, 0x01] {
        assert_eq!(
            sw(&host.send(&mut card, &put_key(0x60, 1, kvn, &field(0xB1)))),
            0x6A80,
            "60 to {kvn:02X}"
        );
    }
    assert_eq!(
        sw(&host.send(&mut card, &put_key(0, 1, 0x65, &field(0xB2)))),
        0x9000
    );
    assert_eq!(
        sw(&host.send(&mut card, &put_key(0x65, 1, 0x60, &field(0xB3)))),
        0x6A80
    );
    assert_eq!(
        sw(&host.send(&mut card, &put_key(0x65, 1, 0x7F, &field(0xB4)))),
        0x9000
    );
    let before = information(&mut host, &mut card);
    for twice in ["D20160D2017F", "D00101D00101D20160", "D20160D20160"] {
        let data = hex::decode(twice).unwrap();
        let command = [&[0x80, 0xE4, 0, 0, u8::try_from(data.len()).unwrap()][..], &data].concat();
        assert_eq!(sw(&host.send(&mut card, &command)), 0x6A80, "{twice}");
    }
    assert_eq!(information(&mut host, &mut card), before);
}

/// Level 00 proves who opened the channel, and nothing about who sends in it.
#[test]
fn a_channel_without_mac_changes_no_card() {
    let mut card = new_card();
    let dek = initial_keys().dek;
    let level_00 = SecurityLevel::from_p1(0x00).unwrap();
    let mut host = Host::open(&mut card, 0xFF, &initial_keys(), level_00);
    let before = card.flash().image().to_vec();
    for command in [
        put_set(&dek, 0, 1, &set(0x41, 0x42, 0x43, 16)),
        delete(0x60).to_vec(),
        hex::decode("80E290000442021122").unwrap(),
        hex::decode("80F0800700").unwrap(),
    ] {
        assert_eq!(
            sw(&host.send(&mut card, &command)),
            0x6982,
            "{}",
            hex::encode_upper(&command)
        );
    }
    assert_eq!(card.flash().image(), before);
    assert_eq!(
        sw(&host.send(&mut card, &hex::decode("80F28002024F0000").unwrap())),
        0x9000
    );
}

/// GlobalPlatform's own chaining (GPC 11.8.2.1): the command is secured once and cut afterwards, with one C-MAC for the whole, over a length in
/// three bytes where the whole is longer than 255.
#[test]
fn put_key_and_delete_chained_by_p1() {
    let mut card = new_card();
    let (mut host, _) = initial(&mut card);
    let field = explicit(POINT);
    let protected = host.wrap(&put_key(0, 1, 0x73, std::slice::from_ref(&field)));
    let [cla, ins, p1, p2, 0, _, _, data @ ..] = &protected[..] else {
        panic!("not extended");
    };
    let (first, second) = data.split_at(200);
    let part = |p1: u8, data: &[u8]| {
        [
            &[*cla, *ins, p1, *p2, u8::try_from(data.len()).unwrap()][..],
            data,
        ]
        .concat()
    };
    // A part is answered bare, whatever the level.
    assert_eq!(send(&mut card, &part(*p1 | 0x80, first)), [0x90, 0x00]);
    let answer = send(&mut card, &part(*p1, second));
    assert_eq!(host.unwrap(&answer), [0x73, 0x90, 0x00]);
    let protected = host.wrap(&delete(0x73));
    for (way, expected) in [(1, 0x9000), (2, 0x6A88)] {
        let parts = &ways(&if way == 1 {
            protected.clone()
        } else {
            host.wrap(&delete(0x73))
        })[way];
        assert_eq!(send(&mut card, &parts[0]), [0x90, 0x00]);
        let answer = send(&mut card, &parts[1]);
        assert_eq!(sw(&host.unwrap(&answer)), expected);
    }
    // Broken off by another command, it is forgotten; a part of it changed, it is refused and the channel with it.
    let parts = &ways(&host.wrap(&delete(0x73)))[1];
    assert_eq!(send(&mut card, &parts[0]), [0x90, 0x00]);
    let mut changed = parts[1].clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(sw(&send(&mut card, &changed)), 0x6982);
    // Another application has P1 to itself.
    let select = [0, 0xA4, 4, 0, 7, 0xF0, b'S', b'K', b'O', b'S', 0, 1];
    let mut meter = Keys::new().card(flash(), &profile());
    assert_eq!(sw(&send(&mut meter, &select)), 0x9000);
    assert_eq!(send(&mut meter, &[0x80, 0xD8, 0x80, 0, 1, 0]), [0x6D, 0x00]);
}

/// A key set of AES-256 takes the place of one of AES-128, in the same version and in a new one, and back.
#[test]
fn a_longer_key_set_takes_the_place_of_a_shorter_one() {
    let a = set(0x10, 0x11, 0x12, 16);
    let mut card = new_card_with(&profile(), 0x30, &a);
    let mut now = (0x30, a);
    for (kvn, first, len) in [
        (0x30, 0x20, 32),
        (0x31, 0x30, 24),
        (0x31, 0x40, 16),
        (0x32, 0x50, 32),
    ] {
        let next = set(first, first + 1, first + 2, len);
        let mut host = Host::open(&mut card, now.0, &now.1, FULL);
        let answer = host.send(&mut card, &put_set(&now.1.dek, now.0, kvn, &next));
        let checks = [&next.enc, &next.mac, &next.dek].map(kcv_aes).concat();
        assert_eq!(answer, [&[kvn][..], &checks, &[0x90, 0x00]].concat());
        now = (kvn, next);
    }
    Host::open(&mut card, 0, &now.1, FULL);
    // Keys of two lengths are no set (Amd D 6.1).
    let mut host = Host::open(&mut card, 0x32, &now.1, FULL);
    let single = put_key(0x32, 2, 0x32, &[aes_field(&now.1.dek, &key(&[0x60; 16]))]);
    assert_eq!(sw(&host.send(&mut card, &single)), 0x6A80);
}

/// A host on its own interface.
fn host_on(card: &mut Card, interface: Interface, kvn: u8, keys: &KeySet) -> Host {
    Host::open_on(card, interface, 0, kvn, keys, FULL, MacMode::S8).unwrap()
}

/// Secure channels of a version that is replaced or deleted end on every interface but the one on which it was done; those of others go on.
#[test]
fn a_replaced_key_set_opens_nothing_anywhere() {
    let goes_on = |card: &mut Card, host: &mut Host| {
        let command = host.wrap(&[0x80, 0xCA, 0x00, 0xD3, 0x00]);
        let answer = send_on(card, host.interface, &command);
        assert!(answer.len() > 2 || answer == [0x69, 0x82], "{answer:02X?}");
        answer.len() > 2
    };
    let (one, two) = (set(0x10, 0x11, 0x12, 16), set(0x20, 0x21, 0x22, 16));
    // Its keys are used over SWP too.
    let profile = Profile {
        root_access: InterfaceAccess::ALL,
        ..profile()
    };
    let mut card = new_card_with(&profile, 0xFF, &initial_keys());
    let (mut own, dek) = initial(&mut card);
    let mut initial = host_on(&mut card, Interface::Spi, 0xFF, &initial_keys());
    assert!(goes_on(&mut card, &mut initial));
    // The first set of the owner takes the place of the initial one; another one beside it takes no place.
    assert_eq!(sw(&own.send(&mut card, &put_set(&dek, 0, 0x30, &one))), 0x9000);
    assert!(!goes_on(&mut card, &mut initial) && goes_on(&mut card, &mut own));
    let mut first = host_on(&mut card, Interface::Spi, 0x30, &one);
    assert_eq!(sw(&own.send(&mut card, &put_set(&dek, 0, 0x31, &two))), 0x9000);
    assert!(goes_on(&mut card, &mut first) && goes_on(&mut card, &mut own));
    let made = card.into_flash();

    let (new, moved) = (set(0x40, 0x41, 0x42, 16), set(0x50, 0x51, 0x52, 16));
    for (what, command) in [
        ("replaced", put_set(&two.dek, 0x30, 0x30, &new)),
        ("under another number", put_set(&two.dek, 0x30, 0x32, &moved)),
        ("deleted", delete(0x30).to_vec()),
    ] {
        let mut card = Card::booted(made.clone(), SeededRng(9), &profile).unwrap();
        let mut own = host_on(&mut card, Interface::Iso7816Contact, 0x31, &two);
        let mut old = host_on(&mut card, Interface::Spi, 0x30, &one);
        let mut other = host_on(&mut card, Interface::Swp, 0x31, &two);
        let opening = initialize_update(0x30, MacMode::S8, 0);
        assert_eq!(sw(&send_on(&mut card, Interface::ApduGate, &opening)), 0x9000);
        assert!(goes_on(&mut card, &mut old) && goes_on(&mut card, &mut other));
        assert_eq!(sw(&own.send(&mut card, &command)), 0x9000, "{what}");
        assert!(!goes_on(&mut card, &mut old), "{what}");
        let authenticate = [&[0x84, 0x82, 0x33, 0x00, 0x10][..], &[0; 16]].concat();
        let answer = send_on(&mut card, Interface::ApduGate, &authenticate);
        assert_eq!(sw(&answer), 0x6985, "{what}");
        assert!(
            goes_on(&mut card, &mut other) && goes_on(&mut card, &mut own),
            "{what}"
        );
    }
}
