//! Keys (`docs/spec/keys.md`): no sequence counter twice with one key value, the platform's keys out of reach of SCP03 keys, and PUT KEY as hosts
//! send it.

#![allow(clippy::unwrap_used, clippy::panic)] // test support

mod common;

use std::collections::HashSet;

use common::host::{Host, initialize_update};
use common::update::{Broadcast, Custody, Keys, V2, manifest, update_state};
use common::{
    Card, PAGE, SeededRng, flash, initial_keys, key, new_card, new_card_with, personalisation, profile, send,
    sw,
};
use sekisho_keys::p256sig::SigningKey;
use sekisho_keys::{AesKey, KeySet, Rng, cbc_encrypt, kcv_aes};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Interface, Profile};
use sekisho_scp::host::{Challenge, InitializeUpdateResponse, SessionKeys, pseudo_random_card_challenge};
use sekisho_scp::{MacMode, SecurityLevel};

const FULL: SecurityLevel = SecurityLevel::FULL;

/// A set of three keys, each of one byte over and over.
fn set(enc: u8, mac: u8, dek: u8, len: usize) -> KeySet {
    let key = |byte| key(&[byte; 32][..len]);
    KeySet {
        enc: key(enc),
        mac: key(mac),
        dek: key(dek),
    }
}

/// Key data field of an AES key (GPC Table 11-68), under Key-DEK.
fn aes_field(dek: &AesKey, key: &AesKey) -> Vec<u8> {
    let mut encrypted = key.as_bytes().to_vec();
    let len = u8::try_from(encrypted.len()).unwrap();
    encrypted.resize(encrypted.len().next_multiple_of(16), 0);
    cbc_encrypt(dek, &[0; 16], &mut encrypted).unwrap();
    let block = if len % 16 == 0 {
        encrypted
    } else {
        [&[len][..], &encrypted].concat()
    };
    [
        &[0x88, u8::try_from(block.len()).unwrap()][..],
        &block,
        &[3],
        &kcv_aes(key),
    ]
    .concat()
}

/// PUT KEY in the short form, or in the extended one where it has to be.
fn put_key(p1: u8, p2: u8, kvn: u8, fields: &[Vec<u8>]) -> Vec<u8> {
    let data = [&[kvn][..], &fields.concat()].concat();
    match u8::try_from(data.len()) {
        Ok(len) => [&[0x80, 0xD8, p1, p2, len][..], &data, &[0]].concat(),
        Err(_) => {
            let [high, low] = u16::try_from(data.len()).unwrap().to_be_bytes();
            [&[0x80, 0xD8, p1, p2, 0, high, low][..], &data].concat()
        }
    }
}

fn put_set(dek: &AesKey, p1: u8, kvn: u8, set: &KeySet) -> Vec<u8> {
    let fields = [&set.enc, &set.mac, &set.dek].map(|key| aes_field(dek, key));
    put_key(p1, 0x81, kvn, &fields)
}

fn delete(kvn: u8) -> [u8; 8] {
    [0x80, 0xE4, 0, 0, 3, 0xD2, 1, kvn]
}

/// A session as an eavesdropper has it: its opening, and a command that needs it.
fn record(card: &mut Card, kvn: u8, keys: &KeySet) -> Vec<Vec<u8>> {
    let mut host = Host::open(card, kvn, keys, FULL);
    let protected = host.wrap(&[0x80, 0xE2, 0x90, 0, 4, 0x42, 2, 0x11, 0x22]);
    let mut session = host.opening.to_vec();
    assert_eq!(sw(&send(card, &protected)), 0x9000);
    session.push(protected);
    session
}

/// Plays the recording to a version as often as it takes until its counter would have come again; no time does it open a secure channel.
fn assert_does_not_play(card: &mut Card, session: &[Vec<u8>], kvn: u8, why: &str) {
    card.reset(Interface::Iso7816Contact);
    let mut opening = session[0].clone();
    opening[2] = kvn;
    for _ in 0..12 {
        assert_eq!(sw(&send(card, &opening)), 0x9000, "{why}");
        assert_eq!(
            sw(&send(card, &session[1])),
            0x6300,
            "{why}: the recording opens it"
        );
        assert_eq!(
            sw(&send(card, &session[2])),
            0x6982,
            "{why}: the recording goes on"
        );
    }
}

const A: u8 = 0x10;

/// A card with set A in version 30, of which a session was recorded at counter 5.
fn recorded() -> (Card, KeySet, Vec<Vec<u8>>) {
    let a = set(A, A + 1, A + 2, 16);
    let mut card = new_card_with(&profile(), 0x30, &a);
    for _ in 0..4 {
        send(&mut card, &initialize_update(0x30, MacMode::S8, 0));
    }
    let session = record(&mut card, 0x30, &a);
    (card, a, session)
}

#[test]
fn a_recorded_session_does_not_play_after_its_keys_are_put_again() {
    let b = set(0x20, 0x21, 0x22, 16);
    let (mut card, a, session) = recorded();
    let mut host = Host::open(&mut card, 0x30, &a, FULL);
    assert_eq!(
        sw(&host.send(&mut card, &put_set(&a.dek, 0x30, 0x30, &a))),
        0x9000
    );
    assert_does_not_play(&mut card, &session, 0x30, "the same values");

    let (mut card, a, session) = recorded();
    let mut host = Host::open(&mut card, 0x30, &a, FULL);
    assert_eq!(
        sw(&host.send(&mut card, &put_set(&a.dek, 0x30, 0x31, &b))),
        0x9000
    );
    let mut host = Host::open(&mut card, 0x31, &b, FULL);
    assert_eq!(
        sw(&host.send(&mut card, &put_set(&b.dek, 0x31, 0x30, &a))),
        0x9000
    );
    assert_does_not_play(&mut card, &session, 0x30, "replaced and back");

    let (mut card, a, session) = recorded();
    let mut host = Host::open(&mut card, 0x30, &a, FULL);
    assert_eq!(sw(&host.send(&mut card, &put_set(&a.dek, 0, 0x31, &b))), 0x9000);
    let mut host = Host::open(&mut card, 0x31, &b, FULL);
    assert_eq!(sw(&host.send(&mut card, &delete(0x30))), 0x9000);
    let mut card = Card::boot(card.into_flash(), SeededRng(9), &profile()).unwrap();
    let mut host = Host::open(&mut card, 0x31, &b, FULL);
    assert_eq!(sw(&host.send(&mut card, &put_set(&b.dek, 0, 0x32, &a))), 0x9000);
    assert_does_not_play(&mut card, &session, 0x32, "deleted and put elsewhere");

    // The initial keys go when the owner's come, which may be the same.
    let mut card = new_card();
    let session = record(&mut card, 0xFF, &initial_keys());
    let mut host = Host::open(&mut card, 0xFF, &initial_keys(), FULL);
    let same = put_set(&initial_keys().dek, 0, 0x30, &initial_keys());
    assert_eq!(sw(&host.send(&mut card, &same)), 0x9000);
    assert_does_not_play(&mut card, &session, 0x30, "initial keys");
}

#[test]
fn a_value_that_stands_in_another_version_is_refused() {
    let (mut card, a, _) = recorded();
    let mut host = Host::open(&mut card, 0x30, &a, FULL);
    let with = |enc, mac, dek| set(enc, mac, dek, 16);
    let refused = [
        ("all three", a.clone()),
        ("Key-ENC", with(A, 0x71, 0x72)),
        ("Key-MAC", with(0x70, A + 1, 0x72)),
        ("Key-ENC as Key-MAC", with(0x70, A, 0x72)),
        ("Key-MAC as Key-ENC", with(A + 1, 0x71, 0x72)),
    ];
    for (why, keys) in refused {
        let answer = sw(&host.send(&mut card, &put_set(&a.dek, 0, 0x31, &keys)));
        assert_eq!(answer, 0x6A80, "{why}: {answer:04X}");
    }
    for p2 in [1, 2] {
        let single = put_key(0, p2, 0x31, &[aes_field(&a.dek, &a.enc)]);
        assert_eq!(sw(&host.send(&mut card, &single)), 0x6A80, "alone as KID {p2}");
    }
    // Key-DEK is used with no counter, and another length is another value.
    for (kvn, keys) in [(0x31, with(0x70, 0x71, A)), (0x32, set(A, A + 1, A + 2, 32))] {
        let answer = host.send(&mut card, &put_set(&a.dek, 0, kvn, &keys));
        assert_eq!(sw(&answer), 0x9000);
    }
}

/// The set that stands in a version, of these, and the counter that asking for it took.
fn standing(card: &mut Card, kvn: u8, candidates: &[KeySet]) -> Option<(KeySet, u32)> {
    let answer = send(card, &initialize_update(kvn, MacMode::S8, 0));
    let (data, [0x90, 0x00]) = answer.split_last_chunk()? else {
        return None;
    };
    let response = InitializeUpdateResponse::parse(data).unwrap();
    let challenge = Challenge::try_from(&[0x11; 8][..]).unwrap();
    let counter = response.sequence_counter.unwrap();
    let aid = profile().isd_aid;
    let found = candidates.iter().find(|keys| {
        // Key-ENC shows in the card challenge, Key-MAC in the cryptogram.
        let made = pseudo_random_card_challenge(&keys.enc, counter, &aid, MacMode::S8);
        let session = SessionKeys::derive(keys, &challenge, &response.card_challenge).unwrap();
        let cryptogram = session.card_cryptogram(&challenge, &response.card_challenge);
        cryptogram.unwrap() == response.card_cryptogram && made.unwrap() == response.card_challenge
    });
    Some((found.unwrap().clone(), counter))
}

/// The same card after its power was away, with the power going again after so many operations of its flash, if at all.
fn again(card: Card, profile: &Profile, cut: Option<u64>, seed: u64) -> Card {
    let mut flash = card.into_flash();
    flash.power_on();
    if let Some(cut) = cut {
        flash.cut_after(cut, seed);
    }
    Card::boot(flash, SeededRng(seed), profile).unwrap_or_else(|failure| {
        let mut flash = failure.flash;
        flash.power_on();
        Card::boot(flash, SeededRng(seed), profile).unwrap()
    })
}

/// Anything at all happens to the keys, the power goes at any moment, and whatever counter an INITIALIZE UPDATE answers was answered with none
/// of its values before.
#[test]
fn no_counter_comes_twice_with_a_value_whatever_happens() {
    let profile = Profile {
        store_bytes: 4 * PAGE,
        slot_bytes: PAGE,
        ..profile()
    };
    // Sets of which some share Key-ENC or Key-MAC with others, in either place.
    let value = |n: u8| set(0x10 + n % 7, 0x15 + n % 8, 0x50 + n, 16);
    let mut candidates: Vec<KeySet> = (0..9).map(value).collect();
    candidates.push(initial_keys());
    let mut done = [0; 3];
    for seed in 1..7 {
        let mut rng = SeededRng(seed);
        let mut below = |n: u8| {
            let mut byte = [0];
            rng.fill(&mut byte);
            byte[0] % n
        };
        let (initial, k_aut) = (initial_keys(), key(&[0xA0; 16]));
        let flash = RamFlash::strict(PAGE, 6);
        let new = personalisation(0xFF, &initial, &k_aut);
        let mut card = Card::manufacture(flash, SeededRng(1), &profile, &new).unwrap();
        let mut used = HashSet::new();
        let mut note = |keys: &KeySet, counter: u32| {
            for value in HashSet::from([keys.enc.as_bytes(), keys.mac.as_bytes()]) {
                let is_new = used.insert((value.to_vec(), counter));
                assert!(is_new, "seed {seed}: counter {counter} again with {value:02X?}");
            }
        };
        for _ in 0..600 {
            if card.flash().is_off() || below(12) == 0 {
                let cut = (below(2) == 0).then(|| u64::from(below(60)));
                card = again(card, &profile, cut, seed);
            }
            let kvn = [0xFF, 0x30, 0x31, 0x32][usize::from(below(4))];
            let Some((keys, counter)) = standing(&mut card, kvn, &candidates) else {
                continue;
            };
            note(&keys, counter);
            let contact = Interface::Iso7816Contact;
            let Ok(mut host) = Host::open_on(&mut card, contact, 0, kvn, &keys, FULL, MacMode::S8) else {
                continue;
            };
            note(&keys, host.sequence_counter.unwrap());
            let (operation, new, number) = (below(3), value(below(9)), 0x30 + below(3));
            let command = match operation {
                0 => put_set(&keys.dek, 0, number, &new),
                1 => put_set(&keys.dek, kvn, number, &new),
                _ => delete(number).to_vec(),
            };
            let answer = send(&mut card, &host.wrap(&command));
            done[usize::from(operation)] += usize::from(sw(&answer) == 0x9000);
            card.reset(contact);
        }
    }
    assert!(done.iter().all(|done| *done > 100), "{done:?}");
}

/// The ways in which a command goes: whole, in two parts by P1 (GPC 11.8.2.1), in two segments by the class (ISO/IEC 7816-4).
fn ways(protected: &[u8]) -> [Vec<Vec<u8>>; 3] {
    let [cla, ins, p1, p2, len, data @ ..] = protected else {
        panic!("no command with data");
    };
    let (first, second) = data[..usize::from(*len)].split_at(3);
    let part = |cla: u8, p1: u8, data: &[u8]| {
        [&[cla, *ins, p1, *p2, u8::try_from(data.len()).unwrap()][..], data].concat()
    };
    [
        vec![protected.to_vec()],
        vec![part(*cla, p1 | 0x80, first), part(*cla, *p1, second)],
        vec![part(cla | 0x10, *p1, first), part(*cla, *p1, second)],
    ]
}

/// Every PUT KEY and DELETE that names a version of the platform.
fn attempts(dek: &AesKey, kvn: u8, point: &[u8; 65]) -> Vec<Vec<u8>> {
    let aes = aes_field(dek, &key(&[0x77; 16]));
    let public = [&[0xB0, 0x41][..], point, &[0xF0, 1, 0, 0]].concat();
    let mut commands = Vec::new();
    for field in [aes.clone(), public] {
        for (p1, data) in [
            (0, kvn),
            (kvn, kvn),
            (kvn, 0x70),
            (0x70, kvn),
            (0x30, kvn),
            (kvn, 0x30),
        ] {
            commands.push(put_key(p1, 0x01, data, std::slice::from_ref(&field)));
            commands.push(put_key(p1, 0x02, data, std::slice::from_ref(&field)));
        }
    }
    for p1 in [0, kvn, 0x30] {
        commands.push(put_key(p1, 0x81, kvn, &[aes.clone(), aes.clone(), aes.clone()]));
    }
    commands.extend([
        vec![0x80, 0xE4, 0, 0, 3, 0xD2, 1, kvn],
        vec![0x80, 0xE4, 0, 0x80, 3, 0xD2, 1, kvn],
        vec![0x80, 0xE4, 0, 0, 6, 0xD0, 1, 1, 0xD2, 1, kvn],
        vec![0x80, 0xE4, 0, 0, 6, 0xD2, 1, kvn, 0xD0, 1, 9],
        vec![0x80, 0xE4, 0, 0, 3, 0xD0, 1, 1],
        // Beside a version that may go, beside what makes no sense, and named twice.
        vec![0x80, 0xE4, 0, 0, 6, 0xD2, 1, kvn, 0xD2, 1, 0x60],
        vec![0x80, 0xE4, 0, 0, 6, 0xD2, 1, 0x60, 0xD2, 1, kvn],
        vec![0x80, 0xE4, 0, 0, 5, 0xB6, 0, 0xD2, 1, kvn],
        vec![0x80, 0xE4, 0, 0, 5, 0xD2, 1, kvn, 0x4F, 0],
    ]);
    // What is wrong with the rest does not show.
    let wrong_check_value = [&aes[..aes.len() - 1], &[aes.last().unwrap() ^ 1]].concat();
    let des = vec![0x80, 0x10, 0x00];
    for p1 in [0, kvn] {
        commands.push(put_key(p1, 0x00, kvn, std::slice::from_ref(&aes)));
        commands.push(put_key(p1, 0x01, kvn, std::slice::from_ref(&wrong_check_value)));
        commands.push(put_key(p1, 0x01, kvn, std::slice::from_ref(&des)));
    }
    commands
}

/// Whoever holds the SCP03 keys neither puts nor replaces nor deletes what the design system's authority rests on, whatever the card's life
/// cycle, the form of the command, and whether there is such a key.
#[test]
fn the_platforms_keys_are_out_of_reach_of_scp03_keys() {
    let keys = Keys::new();
    let point = SigningKey::from_bytes(&[0x55; 32])
        .unwrap()
        .verifying_key()
        .to_sec1();
    let small = Profile {
        store_bytes: 4 * PAGE,
        slot_bytes: PAGE,
        ..profile()
    };
    let k_aut = key(&[0xA0; 16]);
    let absent = Card::manufacture(
        RamFlash::new(PAGE, 6),
        SeededRng(1),
        &small,
        &personalisation(0x30, &keys.scp, &k_aut),
    )
    .unwrap();
    let present = keys.card(RamFlash::new(PAGE, 6), &small);
    let mut refused = 0;
    for made in [absent, present].map(Card::into_flash) {
        // OP_READY, INITIALIZED, SECURED, CARD_LOCKED, TERMINATED.
        for states in [
            &[][..],
            &[0x07],
            &[0x07, 0x0F],
            &[0x07, 0x0F, 0x7F],
            &[0x07, 0x0F, 0xFF],
        ] {
            let mut card = Card::boot(made.clone(), SeededRng(2), &small).unwrap();
            let mut host = Host::open(&mut card, 0x30, &keys.scp, FULL);
            for state in states {
                assert_eq!(sw(&host.send(&mut card, &[0x80, 0xF0, 0x80, *state])), 0x9000);
            }
            let before = card.flash().image().to_vec();
            for kvn in 0x61..=0x64 {
                for command in attempts(&keys.scp.dek, kvn, &point) {
                    for way in 0..3 {
                        let parts = &ways(&host.wrap(&command))[way];
                        let (last, first) = parts.split_last().unwrap();
                        for part in first {
                            assert_eq!(send(&mut card, part), [0x90, 0x00]);
                        }
                        let answer = send(&mut card, last);
                        assert_eq!(
                            sw(&host.unwrap(&answer)),
                            0x6985,
                            "states {states:02X?}: {} in way {way}",
                            hex::encode_upper(&command)
                        );
                        refused += 1;
                    }
                }
            }
            assert_eq!(
                card.flash().image(),
                before,
                "states {states:02X?}: the flash has changed"
            );
        }
    }
    assert_eq!(refused, 2 * 5 * 4 * 42 * 3);
}

/// A second design system that holds all SCP03 keys of an SE, and K-AUT besides, activates nothing on it.
#[test]
fn a_second_design_system_activates_nothing() {
    let own = Keys::new();
    let other = Keys {
        kos: key(&[0x71; 16]),
        k_mac: key(&[0x72; 16]),
        designer: SigningKey::from_bytes(&[0x73; 32]).unwrap(),
        ..Keys::new()
    };
    for custody in [Custody::Design, Custody::Hsm] {
        let mut card = own.card(flash(), &profile());
        let mut host = own.open(&mut card, FULL);
        let point = other.designer.verifying_key().to_sec1();
        let dek = &own.scp.dek;
        for (kvn, value) in [(0x61, &other.kos), (0x62, &other.k_mac)] {
            for p1 in [0, kvn] {
                let put = put_key(p1, 0x01, kvn, &[aes_field(dek, value)]);
                assert_eq!(sw(&host.send(&mut card, &put)), 0x6985);
            }
            assert_eq!(sw(&host.send(&mut card, &delete(kvn))), 0x6985);
        }
        let public = [&[0xB0, 0x41][..], &point, &[0xF0, 1, 0, 0]].concat();
        assert_eq!(
            sw(&host.send(&mut card, &put_key(0x63, 1, 0x63, &[public]))),
            0x6985
        );
        let forged = Broadcast::new(&other, custody, &manifest(9, 1, V2), V2, 239);
        // Wrapped under a Kos that the SE does not have; or signed by a designer that it does not know.
        let expected = if custody == Custody::Design {
            0x6A80
        } else {
            0x9501
        };
        assert_eq!(forged.play(&mut card, &mut host, 0), expected);
        // What is not staged is not activated; the SE's own design system still reaches it.
        let mut host = own.open(&mut card, FULL);
        assert_eq!(sw(&host.send(&mut card, &forged.activate)), 0x6985);
        card.reset(Interface::Iso7816Contact);
        assert_eq!(update_state(&mut card).0, 1);
        let genuine = Broadcast::new(&own, custody, &manifest(2, 1, V2), V2, 239);
        let mut host = own.open(&mut card, FULL);
        assert_eq!(genuine.play(&mut card, &mut host, 0), 0x9000);
        assert_eq!(sw(&host.send(&mut card, &genuine.activate)), 0x9000);
    }
}

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
    let a = set(A, A + 1, A + 2, 16);
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
