//! The memory of a running card, searched as in `memory_keys.rs`, where a load is left and gone on with, where a key set comes before its command,
//! and where the design system's keys change.
#![cfg(target_os = "linux")]

use crate::bench;
use crate::process;
use bench::*;
use process::memory::{Memory, Secret};
use process::send;
use sekisho_apdu::{CApdu, Writer};
use sekisho_keys::p256sig::SigningKey;
use sekisho_keys::{AesKey, key_wrap, sha256};
use sekisho_link::{KeyChange, Manifest};

fn leave() -> CApdu<'static> {
    command(0x3A, 0x00, 0x01, &[])
}

/// The broadcast keys are gone when broadcast mode is left, and the individual channel goes on; both come back and go again.
#[test]
fn broadcast_keys_are_gone_while_the_load_pauses() {
    let keys = set("scp");
    let mut bench = Bench::new();
    for custody in [3, 4] {
        let broadcast = Broadcast::new(custody, u64::from(custody));
        let mut session = bench.open(&keys);
        for from in [0, 2] {
            broadcast.begin(&mut bench, &mut session);
            for block in &broadcast.commands[from..from + 2] {
                assert_eq!(send(bench.card(), block).1, 0x9000);
            }
            assert_eq!(session.send(&mut bench, &leave()), 0x9000);
            let found = bench.holds(&broadcast.secrets);
            assert!(found.is_empty(), "custody {custody}, block {from}: {found:#?}");
            bench.assert_there("the individual channel", &session.secrets);
        }
        // Left before a block, and with a wrong C-MAC.
        broadcast.begin(&mut bench, &mut session);
        assert_eq!(session.send(&mut bench, &leave()), 0x9000);
        let found = bench.holds(&broadcast.secrets);
        assert!(found.is_empty(), "custody {custody}, at once: {found:#?}");
        broadcast.begin(&mut bench, &mut session);
        let mut wrong = session.wrap(&leave());
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(send(bench.card(), &wrong).1, 0x6982);
        let all = [session.secrets, broadcast.secrets].concat_all();
        bench.assert_gone(&format!("custody {custody}: a wrong leave"), &all);
        bench.reset();
    }
}

/// A key set that is kept is there until it is used, replaced, or its channel ends.
#[test]
fn a_kept_key_set_is_gone_when_its_use_is_over() {
    let keys = set("scp");
    let mut bench = Bench::new();
    for custody in [3, 4] {
        let broadcast = Broadcast::new(custody, u64::from(custody));
        let keep = command(0x3A, 0x02, custody, &broadcast.change_mode);
        for why in [
            "reset",
            "SELECT",
            "a wrong C-MAC",
            "another opening",
            "another key set",
            "used",
        ] {
            let mut session = bench.open(&keys);
            assert_eq!(session.send(&mut bench, &keep), 0x9000);
            bench.assert_there("a kept key set", &broadcast.secrets);
            match why {
                "SELECT" => assert_eq!(send(bench.card(), &[0, 0xA4, 4, 0, 0]).1, 0x9000),
                "a wrong C-MAC" => assert_eq!(send(bench.card(), &[0x84, 0x3A, 0, 0]).1, 0x6982),
                "another opening" => {
                    bench.initiate(&keys);
                }
                "another key set" => {
                    let mut other = broadcast.change_mode.clone();
                    if custody == 4 {
                        let keys = other.split_off(28);
                        other.extend(keys.iter().map(|byte| !byte));
                        assert_eq!(session.send(&mut bench, &command(0x3A, 0x02, 4, &other)), 0x9000);
                        let found = bench.holds(&broadcast.secrets);
                        assert!(found.is_empty(), "{why}: {found:#?}");
                    }
                    bench.reset();
                }
                "used" => {
                    let campaign = &broadcast.change_mode[..8];
                    let sw = session.send(&mut bench, &command(0x3A, 0x01, custody, campaign));
                    assert_eq!(sw, 0x9000);
                    assert_eq!(session.send(&mut bench, &leave()), 0x9000);
                    let found = bench.holds(&broadcast.secrets);
                    assert!(found.is_empty(), "{why}: {found:#?}");
                    bench.reset();
                }
                _ => bench.reset(),
            }
            bench.reset();
            let all = [session.secrets, broadcast.secrets_again()].concat_all();
            bench.assert_gone(&format!("custody {custody}: {why}"), &all);
        }
    }
}

/// The image that changes all keys, its manifest, and the key that it is wrapped under.
fn key_change(version: u32, is_individual: bool, new: &[AesKey; 2]) -> (Manifest, Vec<u8>, AesKey) {
    let package_id = [u8::try_from(version).unwrap(); 16];
    let kck = if is_individual {
        let context = [&package_id[..], &SE_ID].concat();
        derive(&set("scp").dek, "SK key change", &context)
    } else {
        derive(&named("Kos"), "SK key change", &package_id)
    };
    let mut wrapped = [0; 40];
    let pair = [new[0].as_bytes(), new[1].as_bytes()].concat();
    key_wrap(&kck, &pair, &mut wrapped).unwrap();
    let designer = SigningKey::from_bytes(&sha256(&[b"next designer"])).unwrap();
    let change = KeyChange {
        wrapped: Some(&wrapped),
        designer: Some(designer.verifying_key().to_sec1()),
        pairing: None,
        is_individual,
    };
    let mut image = [0; KeyChange::MAX_LEN];
    let mut out = Writer::new(&mut image);
    change.encode(&mut out).unwrap();
    let image = out.written().to_vec();
    let manifest = Manifest {
        target: Manifest::KEYS,
        code_format: 0,
        abi: 0,
        version,
        min_previous: 1,
        length: image.len().try_into().unwrap(),
        package_id,
        digest: sha256(&[&image]),
    };
    (manifest, image, kck)
}

/// Old keys stand nowhere, not in the flash either; the new ones in the flash alone; what they were wrapped under nowhere.
#[test]
fn the_design_systems_old_keys_are_gone_after_their_change() {
    for custody in [3, 4] {
        for is_individual in [false, true] {
            let mut bench = Bench::new();
            let new = ["next Kos", "next K_MAC"].map(named);
            let (manifest, image, kck) = key_change(2, is_individual, &new);
            let broadcast = Broadcast::of(custody, 9, &manifest, &image);
            let mut session = bench.open(&set("scp"));
            broadcast.begin(&mut bench, &mut session);
            broadcast.write(&mut bench, broadcast.commands.len());
            let activate = command(0x3E, 1, 0, &broadcast.activate).with_ne(256);
            assert_eq!(session.send(&mut bench, &activate), 0x9000);
            bench.reset();
            let fresh = [
                Secret::new("new Kos", new[0].as_bytes()),
                Secret::new("new K_MAC", new[1].as_bytes()),
            ];
            let why = format!("custody {custody}, individual {is_individual}");
            let all = [
                session.secrets,
                broadcast.secrets_again(),
                fresh.into(),
                vec![Secret::new("KCK", kck.as_bytes())],
            ];
            bench.assert_gone(&why, &all.concat_all());
            // The card's own copy of its flash is part of its memory.
            let old: Vec<_> = ["Kos", "K_MAC"]
                .into_iter()
                .map(|name| Secret::new(name, named(name).as_bytes()))
                .collect();
            let anywhere = Memory::of(bench.process.id()).holds(&old, &(0..0));
            assert!(anywhere.is_empty(), "{why}: {anywhere:#?}");
            let stored = [Secret::new("new Kos", new[0].as_bytes())];
            let anywhere = Memory::of(bench.process.id()).holds(&stored, &(0..0));
            assert!(!anywhere.is_empty(), "{why}: the new keys stand nowhere");
        }
    }
}
