//! Target 02: the design system's keys, changed under the present designer's signature and in no other way (broadcast update, 3.1).

#![allow(clippy::unwrap_used, clippy::panic)] // test support
#![allow(clippy::print_stdout, reason = "says how much it has tried")]

use crate::common;

use common::ByValue as _;
use common::host::Host;
use common::keys::{put_set, set};
use common::update::{
    Broadcast, Change, Custody, KEY_CAMPAIGN, KEY_PACKAGE, Keys, NEW_K_MAC, NEW_KOS, Plan, V2, key_manifest,
    key_state, manifest, update_state,
};
use common::{Card, SE_ID, SeededRng, flash, personalisation, profile, send, sw};
use sekisho_keys::{cmac, key_wrap};
use sekisho_link::Manifest;
use sekisho_os::{Interface, Personalisation};
use sekisho_scp::SecurityLevel;

const FULL: SecurityLevel = SecurityLevel::FULL;
const BOTH: [Custody; 2] = [Custody::Design, Custody::Hsm];

/// Loads and authorises: the status word that came last, and the data of the answer.
fn play(card: &mut Card, keys: &Keys, broadcast: &Broadcast) -> (Vec<u8>, u16) {
    card.reset(Interface::Iso7816Contact);
    let mut host = keys.open(card, FULL);
    let loaded = broadcast.play(card, &mut host, 0);
    if loaded != 0x9000 {
        card.reset(Interface::Iso7816Contact);
        return (Vec::new(), loaded);
    }
    let answer = host.send(card, &broadcast.activate);
    card.reset(Interface::Iso7816Contact);
    (answer[..answer.len() - 2].to_vec(), sw(&answer))
}

fn update(keys: &Keys, custody: Custody, version: u32) -> Broadcast {
    Broadcast::new(keys, custody, &manifest(version, 1, V2), V2, 239)
}

fn holds(card: &Card, secret: &[u8]) -> bool {
    card.flash()
        .image()
        .windows(secret.len())
        .any(|bytes| bytes == secret)
}

#[test]
fn the_se_obeys_the_new_keys_and_no_longer_the_old_ones() {
    for custody in BOTH {
        for change in Change::ALL {
            let why = format!("{custody:?} {change:?}");
            let old = Keys::new();
            let new = old.changed(change);
            let mut card = old.card(flash(), &profile());
            let rotation = Broadcast::of_keys(custody, &old, &new, change);
            let (receipt, answered) = play(&mut card, &old, &rotation);
            assert_eq!(answered, 0x9000, "{why}");
            let digest = key_manifest(2, 1, &old.key_image(&new, change)).digest;
            let (body, mac) = receipt.split_at(51);
            let campaign = KEY_CAMPAIGN.to_be_bytes();
            let expected = [&[1, 1, 2][..], &campaign, &[0, 0, 0, 1, 0, 0, 0, 2], &digest].concat();
            assert_eq!(body, expected, "{why}");
            assert_eq!(mac, cmac(&old.k_aut, &[b"SKRCPT01", &SE_ID, body]), "{why}");
            // The OS part's version is another matter.
            assert_eq!(key_state(&mut card), (2, 0, 0), "{why}");
            assert_eq!(update_state(&mut card), (1, 0, 0), "{why}");
            assert_eq!(holds(&card, &NEW_KOS), change.pair, "{why}");
            assert!(
                !holds(&card, b"SKKC"),
                "{why}: what was staged stands in the slot"
            );
            if change.pair {
                assert!(
                    !holds(&card, old.kos.as_bytes()) && !holds(&card, old.k_mac.as_bytes()),
                    "{why}: an old key"
                );
            }
            // The old design system is refused, the new one is not.
            let refused = play(&mut card, &old, &update(&old, custody, 2)).1;
            let expected = match custody {
                Custody::Design if change.pair => 0x6A80,
                _ if change.designer => 0x9501,
                _ => 0x9503,
            };
            assert_eq!(refused, expected, "{why}");
            assert_eq!(update_state(&mut card).0, 1, "{why}");
            assert_eq!(
                play(&mut card, &new, &update(&new, custody, 2)).1,
                0x9000,
                "{why}"
            );
            assert_eq!(update_state(&mut card), (2, 0, 0), "{why}");
            assert_eq!(
                key_state(&mut card),
                (2, 0, 0),
                "{why}: an update changes no key version"
            );
            // The key change once more is signed by nobody whom it obeys, or a rollback.
            let again = play(&mut card, &old, &rotation).1;
            assert!([0x6A80, 0x9501, 0x9502].contains(&again), "{why}: {again:04X}");
            let mut card = Card::booted(card.into_flash(), SeededRng(4), &profile()).unwrap();
            assert_eq!(key_state(&mut card), (2, 0, 0), "{why}");
        }
    }
}

/// Keys of any length, which differ from the old ones'.
#[test]
fn keys_of_every_length() {
    let old = Keys::new();
    for len in [16, 24, 32] {
        let new = Keys {
            kos: common::key(&[0xE1; 32][..len]),
            k_mac: common::key(&[0xE2; 32][..len]),
            ..Keys::new()
        };
        let change = Change::of(true, false, false);
        let mut card = old.card(flash(), &profile());
        let rotation = Broadcast::of_keys(Custody::Hsm, &old, &new, change);
        assert_eq!(play(&mut card, &old, &rotation).1, 0x9000);
        assert_eq!(play(&mut card, &new, &update(&new, Custody::Hsm, 2)).1, 0x9000);
        let information = send(&mut card, &[0x80, 0xCA, 0x00, 0xE0, 0x00]);
        let len = u8::try_from(len).unwrap();
        for kvn in [0x61, 0x62] {
            let object = [0xC0, 4, 1, kvn, 0x88, len];
            assert!(
                information.windows(6).any(|bytes| bytes == object),
                "{information:02X?}"
            );
        }
    }
}

/// The manifest's own rules for target 02, and its own version.
#[test]
fn block_0_of_a_key_change() {
    let (old, change) = (Keys::new(), Change::of(true, true, false));
    let new = old.changed(change);
    let image = old.key_image(&new, change);
    let good = key_manifest(2, 1, &image);
    let with = |change: &dyn Fn(&mut Manifest)| {
        let mut changed = good;
        change(&mut changed);
        changed
    };
    let mut card = old.card(flash(), &profile());
    for (expected, manifest) in [
        (0x9505, with(&|m| m.code_format = 1)),
        (0x9505, with(&|m| m.abi = 2)),
        (0x6A80, with(&|m| m.target = 3)),
        (0x6A80, with(&|m| m.target = 0)),
        (0x9502, with(&|m| m.version = 1)),
        (0x9502, with(&|m| m.version = 0)),
        (0x9502, with(&|m| m.min_previous = 2)),
        (0x6A84, with(&|m| m.length = 1 << 20)),
        (
            0x9505,
            with(&|m| {
                m.target = 1;
                m.version = 5;
            }),
        ),
    ] {
        let broadcast = Broadcast::planned(Plan::of_keys(Custody::Hsm), &old, &manifest, &image);
        assert_eq!(play(&mut card, &old, &broadcast).1, expected, "{manifest:?}");
        assert_eq!(key_state(&mut card), (1, 0, 0));
    }
    // Its version is compared with that of the keys: the OS part may be far ahead.
    assert_eq!(play(&mut card, &old, &update(&old, Custody::Hsm, 900)).1, 0x9000);
    let rotation = Broadcast::of_keys(Custody::Hsm, &old, &new, change);
    assert_eq!(play(&mut card, &old, &rotation).1, 0x9000);
    assert_eq!(
        (key_state(&mut card), update_state(&mut card)),
        ((2, 0, 0), (900, 0, 0))
    );
    // A later one says from which on it may be used.
    let (newer, image) = (Keys::new(), new.key_image(&Keys::new(), change));
    let third = key_manifest(3, 2, &image);
    let broadcast = Broadcast::planned(Plan::of_keys(Custody::Hsm), &new, &third, &image);
    assert_eq!(play(&mut card, &new, &broadcast).1, 0x9000);
    assert_eq!(
        play(&mut card, &newer, &update(&newer, Custody::Hsm, 901)).1,
        0x9000
    );
}

/// Images that are no key change for this SE: 9505 at AUTHORIZE ACTION, and nothing has changed.
fn malformed(old: &Keys, new: &Keys) -> Vec<(&'static str, Vec<u8>)> {
    let all = Change::of(true, true, false);
    let good = old.key_image(new, all);
    let with = |at: usize, byte: u8| {
        let mut image = good.clone();
        image[at] = byte;
        image
    };
    let wrapped = |kck: &sekisho_keys::AesKey, pair: &[u8], which: u8| {
        let mut wrapped = vec![0; pair.len() + 8];
        key_wrap(kck, pair, &mut wrapped).unwrap();
        let len = u8::try_from(wrapped.len()).unwrap();
        [b"SKKC\x01", &[which, len][..], &wrapped].concat()
    };
    let pair = [NEW_KOS, NEW_K_MAC].concat();
    let other_dek = set(1, 2, 9, 16).dek;
    let mut derived = [0; 16];
    let context = [&KEY_PACKAGE[..], &SE_ID].concat();
    sekisho_keys::kdf_label(&other_dek, b"SK key change", &context, &mut derived);
    let other_dek = common::key(&derived);
    let mut other_se = [0; 16];
    let context = [&KEY_PACKAGE[..], &[7; 10]].concat();
    sekisho_keys::kdf_label(&old.scp.dek, b"SK key change", &context, &mut other_se);
    let last = good.len() - 1;
    vec![
        ("empty but for a name", b"SKKC".to_vec()),
        ("another name", with(0, b'X')),
        ("another format", with(4, 2)),
        ("nothing to change", [&b"SKKC\x01\x00"[..]].concat()),
        ("an unknown bit", with(5, 0x43)),
        ("the pairing key", with(5, 0x07)),
        (
            "for one SE and nothing wrapped",
            [b"SKKC\x01\x82", &good[last - 64..]].concat(),
        ),
        ("a length that is none", with(6, 41)),
        ("a longer length", with(6, 56)),
        ("a wrapped byte", with(20, good[20] ^ 1)),
        ("wrapped for all and said to be for one", with(5, 0x83)),
        (
            "wrapped for one and said to be for all",
            [&wrapped(&old.kck(true), &pair, 1)[..]].concat(),
        ),
        ("for another SE", wrapped(&common::key(&other_se), &pair, 0x81)),
        ("under another Key-DEK", wrapped(&other_dek, &pair, 0x81)),
        ("under the new Kos", wrapped(&new.kck(false), &pair, 1)),
        ("a point off the curve", with(last, good[last] ^ 1)),
        ("a compressed point", with(last - 64, 2)),
        ("a byte too many", [&good[..], &[0]].concat()),
        ("a byte too few", good[..last].to_vec()),
        ("longer than any", vec![0x53; 5000]),
        ("an OS part", V2.to_vec()),
    ]
}

#[test]
fn what_is_no_key_change_is_refused_at_activation_and_the_card_goes_on() {
    let (old, change) = (Keys::new(), Change::of(true, true, false));
    let new = old.changed(change);
    let mut cases = 0;
    for custody in BOTH {
        let mut card = old.card(flash(), &profile());
        for (campaign, (what, image)) in (1..).zip(malformed(&old, &new)) {
            let plan = Plan {
                campaign,
                ..Plan::of_keys(custody)
            };
            let broadcast = Broadcast::planned(plan, &old, &key_manifest(2, 1, &image), &image);
            assert_eq!(play(&mut card, &old, &broadcast).1, 0x9505, "{what}");
            assert_eq!(key_state(&mut card).0, 1, "{what}");
            assert_eq!(key_state(&mut card).1, 2, "{what}: it may be discarded");
            for key in [old.kos.as_bytes(), old.k_mac.as_bytes()] {
                assert!(holds(&card, key), "{what}");
            }
            cases += 1;
        }
        let rotation = Broadcast::of_keys(custody, &old, &new, change);
        assert_eq!(play(&mut card, &old, &rotation).1, 0x9000);
        assert_eq!(play(&mut card, &new, &update(&new, custody, 2)).1, 0x9000);
    }
    println!("{cases} images that are no key change");
}

/// Key-DEK is that of the key set whose channel it is.
#[test]
fn an_individual_key_change_is_for_the_key_set_of_its_channel() {
    let (old, change) = (Keys::new(), Change::of(true, true, true));
    let new = old.changed(change);
    let second = set(0x20, 0x21, 0x22, 16);
    let mut card = old.card(flash(), &profile());
    let mut host = old.open(&mut card, FULL);
    let put = put_set(&old.scp.dek, 0, 0x31, &second);
    assert_eq!(sw(&host.send(&mut card, &put)), 0x9000);
    let rotation = Broadcast::of_keys(Custody::Hsm, &old, &new, change);
    let mut host = Host::open(&mut card, 0x31, &second, FULL);
    assert_eq!(rotation.play(&mut card, &mut host, 0), 0x9000);
    assert_eq!(sw(&host.send(&mut card, &rotation.activate)), 0x9505);
    let mut host = old.open(&mut card, FULL);
    assert_eq!(sw(&host.send(&mut card, &rotation.activate)), 0x9000);
}

/// Without the keys that it would replace there is no key change.
#[test]
fn an_se_without_kos_or_k_mac() {
    let old = Keys::new();
    let designer = old.designer.verifying_key().to_sec1();
    for (kos, k_mac) in [(None, Some(&old.k_mac)), (Some(&old.kos), None)] {
        let made = Personalisation {
            kos,
            k_mac,
            designer: Some(&designer),
            ..personalisation(common::update::KVN, &old.scp, &old.k_aut)
        };
        let custody = if kos.is_some() {
            Custody::Design
        } else {
            Custody::Hsm
        };
        for change in Change::ALL {
            let mut card = Card::made(flash(), SeededRng(1), &profile(), &made).unwrap();
            let new = old.changed(change);
            let rotation = Broadcast::of_keys(custody, &old, &new, change);
            let expected = if change.pair || kos.is_none() {
                0x6A88
            } else {
                0x9000
            };
            assert_eq!(play(&mut card, &old, &rotation).1, expected, "{change:?}");
        }
    }
}

/// One image is staged at a time: each target's data object speaks of its own, and beginning one discards the other.
#[test]
fn a_key_change_and_an_update_do_not_disturb_each_other() {
    for custody in BOTH {
        let (old, change) = (Keys::new(), Change::of(true, true, false));
        let new = old.changed(change);
        let (part, rotation) = (
            update(&old, custody, 2),
            Broadcast::of_keys(custody, &old, &new, change),
        );
        let mut card = old.card(flash(), &profile());
        let load = |card: &mut Card, broadcast: &Broadcast| {
            card.reset(Interface::Iso7816Contact);
            let mut host = old.open(card, FULL);
            assert_eq!(broadcast.play(card, &mut host, 0), 0x9000);
            card.reset(Interface::Iso7816Contact);
        };
        load(&mut card, &part);
        assert_eq!((update_state(&mut card).1, key_state(&mut card).1), (2, 0));
        load(&mut card, &rotation);
        assert_eq!((update_state(&mut card).1, key_state(&mut card).1), (0, 2));
        // The update's authorisation, which was given before, finds nothing of its campaign.
        let mut host = old.open(&mut card, FULL);
        assert_eq!(sw(&host.send(&mut card, &part.activate)), 0x9506);
        assert_eq!(sw(&host.send(&mut card, &rotation.discard)), 0x9000);
        let receipt = host.send(&mut card, &[0x00, 0xCA, 0xDF, 0x21, 0x00]);
        assert_eq!(receipt[..3], [1, 2, 2], "discarded: target 02");
        assert_eq!(receipt[11..19], [0, 0, 0, 1, 0, 0, 0, 1]);
        card.reset(Interface::Iso7816Contact);
        assert_eq!(
            (update_state(&mut card), key_state(&mut card)),
            ((1, 0, 0), (1, 0, 0))
        );
        // A key set that was unwrapped under the old Kos is not used after the change: not on another channel either.
        load(&mut card, &rotation);
        assert_eq!(sw(&send(&mut card, &[0, 0x70, 0, 0, 1])), 0x9000);
        let contact = Interface::Iso7816Contact;
        let (kvn, s8) = (common::update::KVN, sekisho_scp::MacMode::S8);
        let mut second = Host::open_on(&mut card, contact, 1, kvn, &old.scp, FULL, s8).unwrap();
        let mut keep = second.wrap(&part.keep);
        keep[0] |= 1;
        assert_eq!(sw(&second.unwrap_of(&mut card, &keep)), 0x9000);
        let mut host = old.open(&mut card, FULL);
        assert_eq!(sw(&host.send(&mut card, &rotation.activate)), 0x9000);
        let mut kept = second.wrap(&part.change_mode_kept);
        kept[0] |= 1;
        assert_eq!(sw(&second.unwrap_of(&mut card, &kept)), 0x6985);
    }
}

/// The platform's key 64 changes as the others do: alone or with them, for all or for one SE; and only where there is one.
#[test]
fn the_pairing_key_changes_under_the_present_designers_signature() {
    const OLD: [u8; 16] = *b"pairing key, old";
    const NEW: [u8; 32] = *b"pairing key, new and longer now.";
    let set_pairing = |number: u32, key_value: &[u8]| {
        let rows: Vec<u8> = (0..7).flat_map(|code| [code, 1, 0]).collect();
        let signed = [&number.to_be_bytes()[..], &rows].concat();
        let code = cmac(&common::key(key_value), &[b"SKPD\x01", &SE_ID, &signed]);
        let data = [&signed[..], &code].concat();
        [&[0x80, 0x38, 0, 0, u8::try_from(data.len()).unwrap()], &data[..]].concat()
    };
    for custody in BOTH {
        for is_individual in [false, true] {
            let old = Keys::new();
            let designer = old.designer.verifying_key().to_sec1();
            let (first, pairing) = (manifest(1, 0, common::update::V1), common::key(&OLD));
            let made = |pairing_key| {
                let made = Personalisation {
                    kos: Some(&old.kos),
                    k_mac: Some(&old.k_mac),
                    designer: Some(&designer),
                    part: Some((&first, common::update::V1)),
                    pairing_key,
                    ..personalisation(common::update::KVN, &old.scp, &old.k_aut)
                };
                Card::made(flash(), SeededRng(1), &profile(), &made).unwrap()
            };
            let mut wrapped = [0; 40];
            key_wrap(&old.kck(is_individual), &NEW, &mut wrapped).unwrap();
            let which = if is_individual { 0x84 } else { 0x04 };
            let image = [&b"SKKC\x01"[..], &[which, 40], &wrapped].concat();
            let plan = Plan::of_keys(custody);
            let change = Broadcast::planned(plan, &old, &key_manifest(2, 1, &image), &image);
            let mut card = made(Some(&pairing));
            assert_eq!(sw(&send(&mut card, &set_pairing(1, &OLD))), 0x9000);
            assert_eq!(sw(&send(&mut card, &set_pairing(2, &NEW))), 0x9503);
            assert_eq!(play(&mut card, &old, &change).1, 0x9000);
            assert!(!holds(&card, &OLD) && holds(&card, &NEW));
            assert_eq!(sw(&send(&mut card, &set_pairing(2, &OLD))), 0x9503);
            assert_eq!(sw(&send(&mut card, &set_pairing(2, &NEW))), 0x9000);
            assert_eq!(key_state(&mut card), (2, 0, 0));
            // An update goes on as before.
            assert_eq!(play(&mut card, &old, &update(&old, custody, 2)).1, 0x9000);
            // Where there is none, none comes.
            let mut card = made(None);
            assert_eq!(play(&mut card, &old, &change).1, 0x6A88);
            assert!(!holds(&card, &NEW));
            // Under another key it does not unwrap.
            let mut other = [0; 40];
            key_wrap(&common::key(&[9; 16]), &NEW, &mut other).unwrap();
            let image = [&b"SKKC\x01"[..], &[which, 40], &other].concat();
            let change = Broadcast::planned(plan, &old, &key_manifest(2, 1, &image), &image);
            let mut card = made(Some(&pairing));
            assert_eq!(play(&mut card, &old, &change).1, 0x9505);
            assert_eq!(sw(&send(&mut card, &set_pairing(1, &OLD))), 0x9000);
        }
    }
}
