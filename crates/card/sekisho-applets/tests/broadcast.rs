//! The broadcast update through the whole card: from CHANGE MODE to the new part's first answer, the rules of broadcast mode, and power cuts.

#![allow(clippy::unwrap_used, clippy::panic)] // test support

use common::ByValue as _;
use common::board::{note, one_of};
use common::host::Host;
use common::update::{Broadcast, CAMPAIGN, Custody, Keys, Plan, V2, manifest, update_state};
use common::{Card, PAGE, SE_ID, SeededRng, flash, personalisation, profile, send, send_on, sw};
use sekisho_card_tests as common;
use sekisho_keys::cmac;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Interface, Personalisation, Profile};
use sekisho_scp::SecurityLevel;

const FULL: SecurityLevel = SecurityLevel::FULL;

struct Setup {
    keys: Keys,
    card: Card,
    broadcast: Broadcast,
}

fn setup(custody: Custody) -> Setup {
    let keys = Keys::new();
    let card = keys.card(flash(), &profile());
    let broadcast = Broadcast::new(&keys, custody, &manifest(2, 1, V2), V2, 239);
    Setup {
        keys,
        card,
        broadcast,
    }
}

/// A command to the OS part.
fn meter(card: &mut Card, capdu: &[u8]) -> Vec<u8> {
    let selected = send(card, &[0, 0xA4, 4, 0, 7, 0xF0, b'S', b'K', b'O', b'S', 0, 1]);
    assert_eq!(sw(&selected), 0x9000);
    send(card, capdu)
}

fn select_isd(card: &mut Card) {
    assert_eq!(sw(&send(card, &[0, 0xA4, 4, 0, 0])), 0x9000);
}

#[test]
fn an_update_changes_what_the_meter_does() {
    for custody in [Custody::Design, Custody::Hsm] {
        let Setup {
            keys,
            mut card,
            broadcast,
        } = setup(custody);
        // Version 1 counts in 16 bits.
        meter(&mut card, &[0x80, 0x22, 0, 0, 2, 0xFF, 0xFF]);
        assert_eq!(
            meter(&mut card, &[0x80, 0x22, 0, 0, 2, 0, 2]),
            [0, 0, 0, 1, 0x90, 0]
        );
        assert_eq!(meter(&mut card, &[0x80, 0x24, 0, 0, 0]), [0x6D, 0]);
        select_isd(&mut card);
        assert_eq!(update_state(&mut card), (1, 0, 0));

        let mut host = keys.open(&mut card, FULL);
        assert_eq!(broadcast.play(&mut card, &mut host, 0), 0x9000);
        // Complete, and still version 1; the individual channel goes on where it was, with its own protection.
        let receipt = host.send(&mut card, &broadcast.activate);
        assert_eq!(sw(&receipt), 0x9000);
        check_receipt(&keys, &receipt[..67]);
        let clear = host.send(&mut card, &[0x00, 0xCA, 0xDF, 0x21, 0x00]);
        assert_eq!(clear, receipt);

        select_isd(&mut card);
        assert_eq!(update_state(&mut card), (2, 0, 0));
        assert_eq!(meter(&mut card, &[0x80, 0x10, 0, 0, 0]), [0, 0, 0, 2, 0x90, 0]);
        meter(&mut card, &[0x80, 0x22, 0, 0, 2, 0xFF, 0xFF]);
        assert_eq!(
            meter(&mut card, &[0x80, 0x22, 0, 0, 2, 0, 2]),
            [0, 1, 0, 2, 0x90, 0]
        );
        assert_eq!(
            meter(&mut card, &[0x80, 0x24, 0, 0, 0]),
            [0, 0, 0xFF, 0xFF, 0x90, 0]
        );

        // The same once more is a rollback, at the first block.
        select_isd(&mut card);
        let mut host = keys.open(&mut card, FULL);
        assert_eq!(broadcast.play(&mut card, &mut host, 0), 0x9502);
    }
}

/// Receipt of version 2 after version 1 (2.3).
fn check_receipt(keys: &Keys, receipt: &[u8]) {
    let (body, mac) = receipt.split_at(51);
    let expected = [
        &[1, 1, 1][..],
        &CAMPAIGN.to_be_bytes(),
        &[0, 0, 0, 1, 0, 0, 0, 2],
        &manifest(2, 1, V2).digest,
    ]
    .concat();
    assert_eq!(body, expected);
    assert_eq!(mac, cmac(&keys.k_aut, &[b"SKRCPT01", &SE_ID, body]));
}

#[test]
fn activation_may_come_later_and_discarding_is_authorised_too() {
    let Setup {
        keys,
        mut card,
        broadcast,
    } = setup(Custody::Hsm);
    let mut host = keys.open(&mut card, FULL);
    assert_eq!(broadcast.play(&mut card, &mut host, 0), 0x9000);
    let flash = card.into_flash();
    let mut card = Card::booted(flash, SeededRng(9), &profile()).unwrap();
    assert_eq!(update_state(&mut card).1, 2);
    let mut host = keys.open(&mut card, SecurityLevel::C_DECRYPTION_C_MAC);
    assert_eq!(sw(&host.send(&mut card, &broadcast.discard)), 0x9000);
    assert_eq!(sw(&host.send(&mut card, &broadcast.activate)), 0x6985);
    let mut host = keys.open(&mut card, FULL);
    assert_eq!(broadcast.play(&mut card, &mut host, 0), 0x9000);
    let mut host = keys.open(&mut card, SecurityLevel::C_DECRYPTION_C_MAC_R_MAC);
    assert_eq!(sw(&host.send(&mut card, &broadcast.activate)), 0x9000);
}

/// In broadcast mode with two blocks written.
fn in_the_middle(setup: &mut Setup) -> Host {
    let mut host = setup.keys.open(&mut setup.card, FULL);
    assert_eq!(
        sw(&host.send(&mut setup.card, &setup.broadcast.change_mode)),
        0x9000
    );
    for command in &setup.broadcast.commands[..2] {
        assert_eq!(sw(&send(&mut setup.card, command)), 0x9000);
    }
    host
}

/// Neither the broadcast goes on nor the saved channel, nor is anything active that was not.
fn assert_ended(setup: &mut Setup, host: &mut Host, why: &str) {
    let next = &setup.broadcast.commands[2];
    assert_eq!(
        sw(&send(&mut setup.card, next)),
        0x6982,
        "{why}: the broadcast goes on"
    );
    let saved = host.wrap(&[0x80, 0xCA, 0x00, 0xD3, 0x00]);
    assert_eq!(
        sw(&send(&mut setup.card, &saved)),
        0x6982,
        "{why}: the saved channel goes on"
    );
    assert_eq!(
        send(&mut setup.card, &[0x00, 0xCA, 0x00, 0xD3, 0x00]),
        [0, 0x90, 0],
        "{why}"
    );
    assert_eq!(update_state(&mut setup.card).0, 1, "{why}");
}

#[test]
fn anything_but_the_next_block_ends_in_no_secure_channel() {
    let mut commands = setup(Custody::Hsm).broadcast.commands;
    let mut changed = commands[2].clone();
    *changed.last_mut().unwrap() ^= 1;
    let mut unprotected = commands[2].clone();
    unprotected[0] = 0x80;
    let all: [(&str, u16, Vec<u8>); 16] = [
        ("GET DATA", 0x6D00, vec![0x80, 0xCA, 0xDF, 0x20, 0x00]),
        ("SELECT", 0x9000, vec![0, 0xA4, 4, 0, 0]),
        (
            "SELECT of what is not there",
            0x6A82,
            vec![0, 0xA4, 4, 0, 5, 1, 2, 3, 4, 5],
        ),
        (
            "INITIALIZE UPDATE",
            0x6D00,
            vec![0x80, 0x50, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0],
        ),
        ("MANAGE CHANNEL", 0x6D00, vec![0, 0x70, 0, 0, 1]),
        ("GET RESPONSE", 0x6D00, vec![0, 0xC0, 0, 0, 0]),
        ("AUTHORIZE ACTION", 0x6D00, vec![0x84, 0x3E, 1, 0, 1, 0]),
        ("CHANGE MODE in the clear", 0x6982, vec![0x80, 0x3A, 0, 0]),
        ("no command", 0x6700, vec![0x84, 0x3C]),
        ("a wrong length", 0x6700, vec![0x84, 0x3C, 0, 2, 9, 0]),
        ("an unknown class", 0x6E00, vec![0xA0, 0x3C, 0, 2]),
        ("WRITE with a wrong C-MAC", 0x6982, changed),
        ("WRITE in the clear", 0x6982, unprotected),
        ("WRITE twice", 0x6982, commands[1].clone()),
        ("WRITE left out", 0x6982, commands[3].clone()),
        ("back too early", 0x6982, commands.pop().unwrap()),
    ];
    for (why, expected, capdu) in all {
        let mut setup = setup(Custody::Hsm);
        let mut host = in_the_middle(&mut setup);
        let answer = sw(&send(&mut setup.card, &capdu));
        assert_eq!(answer, expected, "{why}: {answer:04X}");
        assert_ended(&mut setup, &mut host, why);
    }
    let mut setup = setup(Custody::Hsm);
    let mut host = in_the_middle(&mut setup);
    setup.card.reset(Interface::Iso7816Contact);
    assert_ended(&mut setup, &mut host, "reset");
}

#[test]
fn another_logical_channel_or_interface_disturbs_nothing_but_cannot_broadcast_too() {
    let mut setup = setup(Custody::Design);
    assert_eq!(sw(&send(&mut setup.card, &[0, 0x70, 0, 0, 1])), 0x9000);
    let mut host = in_the_middle(&mut setup);
    assert_eq!(sw(&send(&mut setup.card, &[0x81, 0xCA, 0xDF, 0x20, 0])), 0x9000);
    assert_eq!(
        sw(&send_on(&mut setup.card, Interface::Spi, &[0, 0xA4, 4, 0, 0])),
        0x9000
    );
    let scp = &setup.keys.scp;
    let mut second = Host::open_on(
        &mut setup.card,
        Interface::Spi,
        0,
        common::update::KVN,
        scp,
        FULL,
        sekisho_scp::MacMode::S8,
    )
    .unwrap();
    assert_eq!(
        sw(&second.send(&mut setup.card, &setup.broadcast.change_mode)),
        0x6985
    );
    assert_eq!(
        sw(&second.send(&mut setup.card, &setup.broadcast.activate)),
        0x6985
    );
    for command in &setup.broadcast.commands[2..] {
        assert_eq!(sw(&send(&mut setup.card, command)), 0x9000);
    }
    assert_eq!(sw(&host.send(&mut setup.card, &setup.broadcast.activate)), 0x9000);
}

#[test]
fn the_saved_channel_comes_back_once_and_wants_its_own_protection() {
    let mut setup = setup(Custody::Hsm);
    let mut host = setup.keys.open(&mut setup.card, FULL);
    assert_eq!(setup.broadcast.play(&mut setup.card, &mut host, 0), 0x9000);
    // No second return: the last command of P_SE again is a wrong C-MAC of the individual channel.
    let back = setup.broadcast.commands.last().unwrap().clone();
    assert_eq!(sw(&send(&mut setup.card, &back)), 0x6982);
    assert_eq!(
        sw(&send(&mut setup.card, &host.wrap(&setup.broadcast.activate))),
        0x6982
    );
    // And in the clear nothing is authorised.
    select_isd(&mut setup.card);
    assert_eq!(sw(&send(&mut setup.card, &setup.broadcast.activate)), 0x6982);
    // Block 0 and those of the image.
    let blocks = u16::try_from(1 + V2.len().div_ceil(239)).unwrap();
    assert_eq!(update_state(&mut setup.card), (1, 2, blocks));
}

/// A module with every export of the ABI, in which something is replaced.
fn module(replaced: &str, by: &str) -> Vec<u8> {
    let good = r#"(module (memory (export "memory") 1) (table 1 funcref)
        (func (export "abi") (result i32) i32.const 2) (func (export "buffer") (result i32) i32.const 0)
        (func (export "process") (param i32) (result i32) (i32.store16 (i32.const 0) (i32.const 0x0090)) (i32.const 2)))"#;
    assert!(good.contains(replaced));
    wat::parse_str(good.replace(replaced, by)).unwrap()
}

/// What an SE activates, runs: everything else is 9505 at AUTHORIZE ACTION, the part that was active answers on, and the next update is taken.
#[test]
fn what_would_not_run_is_refused_at_activation_and_the_card_goes_on() {
    let keys = Keys::new();
    let mut card = keys.card(flash(), &profile());
    let floats = "(func (param f32)) (table 1 funcref)";
    let parts = [
        ("no module at all", b"\0asm\x01\0\0\0".to_vec()),
        ("noise", vec![0x5A; 8]),
        ("more memory than there is RAM", module(" 1)", " 200)")),
        ("a table of millions", module("(table 1 ", "(table 100000000 ")),
        ("a table one too large", module("(table 1 ", "(table 1025 ")),
        ("floats", module("(table 1 funcref)", floats)),
        (
            "a start function",
            module("(table 1 funcref)", "(func $s) (start $s)"),
        ),
        (
            "an import that is not there",
            module("(module", r#"(module (import "sekisho" "key" (func))"#),
        ),
        ("host ABI 1", module("i32.const 2)", "i32.const 1)")),
        (
            "a buffer outside the memory",
            module("i32.const 0)", "i32.const 64513)"),
        ),
        ("no process", module(r#"(export "process")"#, "")),
        (
            "bulk memory",
            module(
                "(param i32) (result i32)",
                "(param i32) (result i32) (memory.fill (i32.const 0) (i32.const 0) (i32.const 0))",
            ),
        ),
    ];
    for (register, (what, image)) in (1_u8..).zip(&parts) {
        let broadcast = Broadcast::new(&keys, Custody::Hsm, &manifest(2, 1, image), image, 239);
        let mut host = keys.open(&mut card, FULL);
        assert_eq!(broadcast.play(&mut card, &mut host, 0), 0x9000, "{what}");
        assert_eq!(sw(&host.send(&mut card, &broadcast.activate)), 0x9505, "{what}");
        select_isd(&mut card);
        let (version, staging, _) = update_state(&mut card);
        assert_eq!((version, staging), (1, 2), "{what}");
        let add = [0x80, 0x22, 0, 0, 2, 0, 1];
        assert_eq!(meter(&mut card, &add), [0, 0, 0, register, 0x90, 0], "{what}");
        select_isd(&mut card);
        let mut host = keys.open(&mut card, FULL);
        assert_eq!(
            sw(&host.send(&mut card, &broadcast.activate)),
            0x9505,
            "{what}, again"
        );
        assert_eq!(sw(&host.send(&mut card, &broadcast.discard)), 0x9000, "{what}");
    }
    select_isd(&mut card);
    let broadcast = Broadcast::new(&keys, Custody::Hsm, &manifest(2, 1, V2), V2, 239);
    let mut host = keys.open(&mut card, FULL);
    assert_eq!(broadcast.play(&mut card, &mut host, 0), 0x9000);
    assert_eq!(sw(&host.send(&mut card, &broadcast.activate)), 0x9000);
    assert_eq!(meter(&mut card, &[0x80, 0x10, 0, 0, 0]), [0, 0, 0, 2, 0x90, 0]);
}

#[test]
fn broadcast_mode_wants_an_enciphered_individual_channel_and_the_keys() {
    let Setup {
        keys,
        mut card,
        broadcast,
    } = setup(Custody::Design);
    assert_eq!(sw(&send(&mut card, &broadcast.change_mode)), 0x6982);
    for level in [
        SecurityLevel::AUTHENTICATED,
        SecurityLevel::C_MAC,
        SecurityLevel::C_MAC_R_MAC,
    ] {
        let mut host = keys.open(&mut card, level);
        assert_eq!(sw(&host.send(&mut card, &broadcast.change_mode)), 0x6982);
        assert_eq!(sw(&host.send(&mut card, &broadcast.activate)), 0x6982);
    }
    let mut host = keys.open(&mut card, FULL);
    let mut wrong = broadcast.change_mode.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(sw(&host.send(&mut card, &wrong)), 0x6A80);
    wrong[3] = 5;
    assert_eq!(sw(&host.send(&mut card, &wrong)), 0x6A86);
    assert_eq!(
        sw(&host.send(&mut card, &broadcast.change_mode[..5 + 9].to_vec().with_lc())),
        0x6700
    );
    // Without the designer's key the first block ends it; without Kos it does not begin.
    let designer = keys.designer.verifying_key().to_sec1();
    let without_designer = Personalisation {
        kos: Some(&keys.kos),
        ..personalisation(common::update::KVN, &keys.scp, &keys.k_aut)
    };
    let without_kos = Personalisation {
        designer: Some(&designer),
        ..personalisation(common::update::KVN, &keys.scp, &keys.k_aut)
    };
    for (made, steps) in [(without_designer, 1), (without_kos, 0)] {
        let mut card = Card::made(flash(), SeededRng(1), &profile(), &made).unwrap();
        let mut host = keys.open(&mut card, FULL);
        let begun = sw(&host.send(&mut card, &broadcast.change_mode));
        if steps == 1 {
            assert_eq!(begun, 0x9000);
            assert_eq!(sw(&send(&mut card, &broadcast.commands[0])), 0x6A88);
        } else {
            assert_eq!(begun, 0x6A88);
        }
    }
}

/// The encryption counter may begin anywhere and grows past 32 bits (2.1), over a power cut in the middle as well.
#[test]
fn the_encryption_counter_grows_past_32_bits() {
    let keys = Keys::new();
    for custody in [Custody::Design, Custody::Hsm] {
        for first in [u32::MAX, u32::MAX - 2] {
            let plan = Plan {
                counter: first,
                ..Plan::new(custody, 239)
            };
            let broadcast = Broadcast::planned(plan, &keys, &manifest(2, 1, V2), V2);
            let mut card = keys.card(flash(), &profile());
            let mut host = keys.open(&mut card, FULL);
            assert_eq!(sw(&host.send(&mut card, &broadcast.change_mode)), 0x9000);
            for command in &broadcast.commands[..2] {
                assert_eq!(sw(&send(&mut card, command)), 0x9000);
            }
            let mut card = Card::booted(card.into_flash(), SeededRng(9), &profile()).unwrap();
            let next = update_state(&mut card).2;
            let mut host = keys.open(&mut card, FULL);
            assert_eq!(broadcast.play(&mut card, &mut host, next.into()), 0x9000);
            assert_eq!(sw(&host.send(&mut card, &broadcast.activate)), 0x9000);
        }
    }
}

trait WithLc {
    fn with_lc(self) -> Self;
}

impl WithLc for Vec<u8> {
    /// The same command with the Lc of what is left of its data field.
    fn with_lc(mut self) -> Self {
        self[4] = u8::try_from(self.len() - 5).unwrap();
        self
    }
}

#[test]
fn a_locked_card_runs_no_part_that_was_selected_before() {
    let Setup { keys, mut card, .. } = setup(Custody::Hsm);
    assert_eq!(sw(&send(&mut card, &[0, 0x70, 0, 0, 1])), 0x9000);
    let select = [1, 0xA4, 4, 0, 7, 0xF0, b'S', b'K', b'O', b'S', 0, 1];
    assert_eq!(sw(&send(&mut card, &select)), 0x9000);
    let version = [0x81, 0x10, 0, 0, 0];
    assert_eq!(send(&mut card, &version), [0, 0, 0, 1, 0x90, 0]);
    let mut host = keys.open(&mut card, FULL);
    for state in [0x07, 0x0F, 0x7F] {
        assert_eq!(sw(&host.send(&mut card, &[0x80, 0xF0, 0x80, state])), 0x9000);
    }
    assert_eq!(send(&mut card, &version), [0x69, 0x85]);
    assert_eq!(sw(&host.send(&mut card, &[0x80, 0xF0, 0x80, 0x0F])), 0x9000);
    assert_eq!(send(&mut card, &version), [0, 0, 0, 1, 0x90, 0]);
}

/// Power cuts at every flash operation of the update: version 1 or version 2 afterwards, and it can be finished.
#[test]
fn power_cuts_in_an_update() {
    let profile = Profile {
        store_bytes: 4 * PAGE,
        slot_bytes: PAGE,
        ..profile()
    };
    let keys = Keys::new();
    let broadcast = Broadcast::new(&keys, Custody::Hsm, &manifest(2, 1, V2), V2, 300);
    let made = keys.card(RamFlash::strict(PAGE, 6), &profile).into_flash();
    let boot = |flash| Card::booted(flash, SeededRng(5), &profile).unwrap();
    let (mut resumed, mut cuts) = (0, 0);
    let step = one_of(8);
    for seed in 0..2 {
        // Other ones with the other seed, where they are not all.
        let first = seed * u64::try_from(step / 2).unwrap();
        for cut in (first..).step_by(step) {
            let mut flash = made.clone();
            flash.cut_after(cut, seed);
            let mut card = boot(flash);
            update(&keys, &mut card, &broadcast, 0);
            let was_cut = card.flash().is_off();
            let mut flash = card.into_flash();
            flash.power_on();
            let mut card = boot(flash);
            let (version, staging, next) = update_state(&mut card);
            assert!(
                was_cut || (version, staging) == (2, 0),
                "the update without a cut"
            );
            assert!(matches!(version, 1 | 2), "cut {cut} seed {seed}");
            if !was_cut {
                break;
            }
            cuts += 1;
            resumed += usize::from(next > 0);
            if version == 1 {
                update(&keys, &mut card, &broadcast, next.into());
                assert_eq!(
                    update_state(&mut card),
                    (2, 0, 0),
                    "cut {cut} seed {seed} from {staging} {next}"
                );
            }
            assert_eq!(meter(&mut card, &[0x80, 0x10, 0, 0, 0]), [0, 0, 0, 2, 0x90, 0]);
        }
    }
    note(&format!(
        "sweep {cuts} power cuts in an update, behind {resumed} of which it goes on"
    ));
    assert!(resumed > 0, "no cut led to a resumption");
}

/// What a device does; gives up quietly where the power goes.
fn update(keys: &Keys, card: &mut Card, broadcast: &Broadcast, from: usize) {
    let contact = Interface::Iso7816Contact;
    let opened = Host::open_on(
        card,
        contact,
        0,
        common::update::KVN,
        &keys.scp,
        FULL,
        sekisho_scp::MacMode::S8,
    );
    let Ok(mut host) = opened else { return };
    if broadcast.play(card, &mut host, from) == 0x9000 {
        host.send(card, &broadcast.activate);
    }
    select_isd_quietly(card);
}

fn select_isd_quietly(card: &mut Card) {
    send(card, &[0, 0xA4, 4, 0, 0]);
}
