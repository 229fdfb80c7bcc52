//! Keys (`docs/spec/keys.md`): no sequence counter twice with one key value, and the platform's keys out of reach of SCP03 keys.

#![allow(clippy::unwrap_used, clippy::panic)] // test support

use crate::common;

use std::collections::HashSet;

use common::ByValue as _;
use common::host::{Host, initialize_update};
use common::keys::{aes_field, delete, put_key, put_set, set, ways};
use common::update::{
    Broadcast, Change, Custody, Keys, Plan, V2, key_manifest, key_state, manifest, update_state,
};
use common::{
    Card, PAGE, SeededRng, flash, initial_keys, key, new_card, new_card_with, personalisation, profile, send,
    sw,
};
use sekisho_keys::p256sig::SigningKey;
use sekisho_keys::{AesKey, KeySet, Rng};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Interface, Profile};
use sekisho_scp::host::{Challenge, InitializeUpdateResponse, SessionKeys, pseudo_random_card_challenge};
use sekisho_scp::{MacMode, SecurityLevel};

const FULL: SecurityLevel = SecurityLevel::FULL;

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
    let mut card = Card::booted(card.into_flash(), SeededRng(9), &profile()).unwrap();
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
    Card::booted(flash, SeededRng(seed), profile).unwrap_or_else(|failure| {
        let mut flash = failure.flash;
        flash.power_on();
        Card::booted(flash, SeededRng(seed), profile).unwrap()
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
        let mut card = Card::made(flash, SeededRng(1), &profile, &new).unwrap();
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
    let absent = Card::made(
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
            let mut card = Card::booted(made.clone(), SeededRng(2), &small).unwrap();
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

/// What a second design system plays to an SE whose SCP03 keys it holds: its own update and key changes, wrapped under the SE's own Key-DEK too, and
/// what it makes of a key change that the SE's design system has signed.
fn forged(own: &Keys, other: &Keys, custody: Custody) -> Vec<(&'static str, Broadcast, u16)> {
    // Wrapped under a Kos that the SE does not have; or signed by a designer that it does not know.
    let expected = match custody {
        Custody::Design => 0x6A80,
        Custody::Hsm => 0x9501,
    };
    let all = [Change::of(true, true, false), Change::of(true, true, true)];
    let [for_all, for_one] = all.map(|change| Broadcast::of_keys(custody, other, other, change));
    let mut forged = vec![
        (
            "its update",
            Broadcast::new(other, custody, &manifest(9, 1, V2), V2, 239),
            expected,
        ),
        ("its key change", for_all, expected),
        ("its key change for this SE", for_one, expected),
    ];
    if custody == Custody::Hsm {
        // Its image behind the manifest of another one, which the SE's designer signed: the SE computes the digest itself.
        let image = own.key_image(&own.changed(all[1]), all[1]);
        let signed = key_manifest(2, 1, &image);
        let swapped = own.key_image(other, all[1]);
        forged.push((
            "its image under a signed manifest",
            Broadcast::planned(Plan::of_keys(custody), own, &signed, &swapped),
            0x9503,
        ));
    }
    forged
}

/// A second design system that holds all SCP03 keys of an SE, and K-AUT besides, activates nothing on it: neither a part nor keys.
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
        for (what, forged, expected) in forged(&own, &other, custody) {
            let mut host = own.open(&mut card, FULL);
            let played = forged.play(&mut card, &mut host, 0);
            if played == 0x9000 {
                assert_eq!(sw(&host.send(&mut card, &forged.activate)), expected, "{what}");
            } else {
                assert_eq!(played, expected, "{what}");
            }
            // What is not staged is not activated; the SE's own design system still reaches it.
            let mut host = own.open(&mut card, FULL);
            assert_eq!(sw(&host.send(&mut card, &forged.activate)), 0x6985, "{what}");
            card.reset(Interface::Iso7816Contact);
            assert_eq!(
                (update_state(&mut card).0, key_state(&mut card).0),
                (1, 1),
                "{what}"
            );
        }
        let genuine = Broadcast::new(&own, custody, &manifest(2, 1, V2), V2, 239);
        let mut host = own.open(&mut card, FULL);
        assert_eq!(genuine.play(&mut card, &mut host, 0), 0x9000);
        assert_eq!(sw(&host.send(&mut card, &genuine.activate)), 0x9000);
    }
}
