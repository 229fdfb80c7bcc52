//! What an SE has refused stands in GET DATA DF23 under its own K-AUT (broadcast update, 2.6): whoever sends commands without being authorised
//! writes nothing there, and no answer is another because of it.

#![allow(clippy::unwrap_used, clippy::panic)] // test support
#![allow(clippy::print_stdout, reason = "says how much it has tried")]

use crate::common;

use common::ByValue as _;
use common::host::{Host, initialize_update};
use common::update::{
    Broadcast, CAMPAIGN, Custody, KEY_CAMPAIGN, Keys, LEAVE, Plan, V2, key_manifest, manifest, update_state,
};
use common::{Card, PAGE, SE_ID, SeededRng, flash, profile, send, sw};
use sekisho_keys::cmac;
use sekisho_link::{Campaign, Manifest, Refusal, SeId};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Interface, Profile};
use sekisho_scp::{MacMode, SecurityLevel};

const FULL: SecurityLevel = SecurityLevel::FULL;
const LOAD: u8 = 3;
const ACTIVATE: u8 = 1;
const DISCARD: u8 = 2;

/// The value of DF23, its MAC checked; `None` for 6A88.
fn refusal(card: &mut Card, keys: &Keys) -> Option<Refusal> {
    card.reset(Interface::Iso7816Contact);
    let answer = send(card, &[0x00, 0xCA, 0xDF, 0x23, 0x00]);
    if sw(&answer) == 0x6A88 {
        return None;
    }
    assert_eq!((sw(&answer), answer.len()), (0x9000, 72));
    let refusal = Refusal::decode(&answer[..70]).unwrap();
    // Over the bytes as the page says them.
    let expected = cmac(&keys.k_aut, &[b"SKRFSL02", &SE_ID, &answer[..54]]);
    assert_eq!(refusal.mac, expected);
    assert_eq!(refusal.message(SeId(SE_ID))[18..], answer[..54]);
    Some(refusal)
}

struct Setup {
    keys: Keys,
    card: Card,
    broadcast: Broadcast,
}

fn setup(manifest: &Manifest) -> Setup {
    let keys = Keys::new();
    let card = keys.card(flash(), &profile());
    let broadcast = Broadcast::new(&keys, Custody::Hsm, manifest, V2, 300);
    Setup {
        keys,
        card,
        broadcast,
    }
}

/// What a refusal says beside its MAC and the session.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    action: u8,
    target: u8,
    sw: u16,
    block: u16,
    version: u32,
    is_staged: bool,
}

fn said(setup: &mut Setup, host: &Host, campaign: u64) -> Said {
    let refusal = refusal(&mut setup.card, &setup.keys).unwrap();
    assert_eq!(refusal.campaign, Campaign(campaign));
    assert_eq!(Some(refusal.sequence_counter), host.sequence_counter);
    let is_staged = refusal.digest != [0; 32];
    if is_staged {
        assert_eq!(refusal.digest, manifest(2, 1, V2).digest);
    }
    Said {
        action: refusal.action,
        target: refusal.target,
        sw: refusal.sw.0,
        block: refusal.block,
        version: refusal.version,
        is_staged,
    }
}

const fn load(target: u8, sw: u16, block: u16, is_staged: bool) -> Said {
    let version = if target == 0 { 0 } else { 1 };
    Said {
        action: LOAD,
        target,
        sw,
        block,
        version,
        is_staged,
    }
}

#[test]
fn what_is_refused_in_broadcast_mode() {
    let good = manifest(2, 1, V2);
    let with = |target, version, code_format| Manifest {
        target,
        version,
        code_format,
        ..good
    };
    // Block 0, which names a target once its signature is right.
    for (manifest, expected) in [
        (with(3, 2, 1), load(0, 0x6A80, 0, false)),
        (with(1, 1, 1), load(1, 0x9502, 0, false)),
        (with(2, 1, 0), load(2, 0x9505, 0, false)),
        (with(1, 2, 9), load(1, 0x9505, 0, false)),
    ] {
        let mut setup = setup(&manifest);
        let mut host = setup.keys.open(&mut setup.card, FULL);
        let last = setup.broadcast.play(&mut setup.card, &mut host, 0);
        assert_eq!(last, expected.sw);
        assert_eq!(said(&mut setup, &host, CAMPAIGN), expected);
    }
    let other = Keys {
        designer: sekisho_keys::p256sig::SigningKey::from_bytes(&[0x73; 32]).unwrap(),
        ..Keys::new()
    };
    let mut signed_by_another = setup(&good);
    signed_by_another.broadcast = Broadcast::new(&other, Custody::Hsm, &good, V2, 300);
    let mut host = other.open(&mut signed_by_another.card, FULL);
    let played = signed_by_another
        .broadcast
        .play(&mut signed_by_another.card, &mut host, 0);
    assert_eq!(played, 0x9501);
    assert_eq!(
        said(&mut signed_by_another, &host, CAMPAIGN),
        load(0, 0x9501, 0, false)
    );
    // Behind block 0, with three blocks written.
    let commands = setup(&good).broadcast.commands;
    let mut wrong_mac = commands[3].clone();
    *wrong_mac.last_mut().unwrap() ^= 1;
    let mut clear = commands[3].clone();
    clear[0] = 0x80;
    for (why, command, expected) in [
        ("a wrong C-MAC", wrong_mac, load(1, 0x6982, 3, true)),
        ("in the clear", clear, load(1, 0x6982, 3, true)),
        ("a block twice", commands[2].clone(), load(1, 0x6982, 3, true)),
        ("leaving in the clear", LEAVE.to_vec(), load(1, 0x6982, 3, true)),
        (
            "back, in the clear",
            vec![0x80, 0x3A, 0, 0],
            load(1, 0x6982, 3, true),
        ),
    ] {
        let mut setup = setup(&good);
        let mut host = setup.keys.open(&mut setup.card, FULL);
        assert_eq!(
            sw(&host.send(&mut setup.card, &setup.broadcast.change_mode)),
            0x9000
        );
        for command in &setup.broadcast.commands[..3] {
            assert_eq!(sw(&send(&mut setup.card, command)), 0x9000);
        }
        assert_eq!(sw(&send(&mut setup.card, &command)), expected.sw, "{why}");
        assert_eq!(said(&mut setup, &host, CAMPAIGN), expected, "{why}");
    }
}

/// What the broadcast channel itself says too early or out of order, from the page's bytes: tables of section 7. Here: what is refused in the
/// individual channel.
#[test]
fn what_authorize_action_refuses() {
    let authorised = |action, target, sw, block| Said {
        action,
        target,
        sw,
        block,
        version: u32::from(target != 0),
        is_staged: target != 0,
    };
    let good = manifest(2, 1, V2);
    let blocks = u16::try_from(setup(&good).broadcast.commands.len() - 1).unwrap();
    let mut nothing = setup(&good);
    for (command, action) in [
        (nothing.broadcast.activate.clone(), ACTIVATE),
        (nothing.broadcast.discard.clone(), DISCARD),
    ] {
        let mut host = nothing.keys.open(&mut nothing.card, FULL);
        assert_eq!(sw(&host.send(&mut nothing.card, &command)), 0x6985);
        assert_eq!(
            said(&mut nothing, &host, CAMPAIGN),
            authorised(action, 0, 0x6985, 0)
        );
    }
    let change = |command: &[u8], at: usize| {
        let mut changed = command.to_vec();
        changed[at] ^= 1;
        changed
    };
    let mut setup = setup(&good);
    let mut host = setup.keys.open(&mut setup.card, FULL);
    assert_eq!(setup.broadcast.play(&mut setup.card, &mut host, 0), 0x9000);
    let (activate, discard) = (setup.broadcast.activate.clone(), setup.broadcast.discard.clone());
    for (command, action, campaign, answered) in [
        (change(&activate, 5), ACTIVATE, CAMPAIGN ^ (1 << 56), 0x9506),
        (change(&activate, 13), ACTIVATE, CAMPAIGN, 0x9503),
        (change(&activate, 29), ACTIVATE, CAMPAIGN, 0x9503),
        (change(&discard, 5), DISCARD, CAMPAIGN ^ (1 << 56), 0x9506),
        (change(&discard, 13), DISCARD, CAMPAIGN, 0x9503),
    ] {
        let mut host = setup.keys.open(&mut setup.card, FULL);
        assert_eq!(sw(&host.send(&mut setup.card, &command)), answered);
        assert_eq!(
            said(&mut setup, &host, campaign),
            authorised(action, 1, answered, blocks)
        );
    }
    // Its own form is wrong, or its channel too low: nobody's refusal.
    let before = refusal(&mut setup.card, &setup.keys);
    for level in [SecurityLevel::C_MAC, FULL] {
        let mut host = setup.keys.open(&mut setup.card, level);
        let mut command = activate.clone();
        if level == FULL {
            command.truncate(20);
            command[4] = 15;
        }
        assert_ne!(sw(&host.send(&mut setup.card, &command)), 0x9000);
    }
    assert_eq!(refusal(&mut setup.card, &setup.keys), before);
}

/// A success does not remove it; a key change that is none says its target.
#[test]
fn a_refusal_stands_until_the_next_one() {
    let mut setup = setup(&manifest(2, 1, V2));
    let mut host = setup.keys.open(&mut setup.card, FULL);
    assert_eq!(sw(&host.send(&mut setup.card, &setup.broadcast.activate)), 0x6985);
    let before = refusal(&mut setup.card, &setup.keys);
    assert!(before.is_some());
    let mut host = setup.keys.open(&mut setup.card, FULL);
    assert_eq!(setup.broadcast.play(&mut setup.card, &mut host, 0), 0x9000);
    assert_eq!(sw(&host.send(&mut setup.card, &setup.broadcast.activate)), 0x9000);
    assert_eq!(refusal(&mut setup.card, &setup.keys), before);
    let plan = Plan::of_keys(Custody::Hsm);
    let rotation = Broadcast::planned(plan, &setup.keys, &key_manifest(2, 1, b"SKKC"), b"SKKC");
    let mut host = setup.keys.open(&mut setup.card, FULL);
    assert_eq!(rotation.play(&mut setup.card, &mut host, 0), 0x9000);
    assert_eq!(sw(&host.send(&mut setup.card, &rotation.activate)), 0x9505);
    let refusal = refusal(&mut setup.card, &setup.keys).unwrap();
    assert_eq!((refusal.target, refusal.version, refusal.sw.0), (2, 1, 0x9505));
    assert_eq!(refusal.campaign, Campaign(KEY_CAMPAIGN));
}

/// Whatever comes from somebody who has no session, in every state, writes nothing; nor does what a session sends in broadcast mode that is
/// neither WRITE nor CHANGE MODE, nor a WRITE outside it.
#[test]
fn nobody_without_a_session_writes_a_refusal() {
    let good = manifest(2, 1, V2);
    let broadcast = setup(&good).broadcast;
    let mut commands: Vec<Vec<u8>> = broadcast.commands.iter().take(4).cloned().collect();
    commands.extend([
        broadcast.commands.last().unwrap().clone(),
        LEAVE.to_vec(),
        broadcast.change_mode.clone(),
        broadcast.keep.clone(),
        broadcast.activate.clone(),
        broadcast.discard.clone(),
        vec![0x84, 0x3C, 0, 1, 9, 0x41, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![0x84, 0x3A, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![0x84, 0x3A, 0, 1, 8, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![0x84, 0x3E, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![
            0x84, 0x82, 0x33, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
    ]);
    let mut tried = 0;
    for state in 0..5 {
        for command in &commands {
            let mut setup = setup(&good);
            let card = &mut setup.card;
            match state {
                0 => {}
                1 => {
                    send(card, &initialize_update(common::update::KVN, MacMode::S8, 0));
                }
                // A session of somebody else, which the first wrong command ends.
                2 => {
                    setup.keys.open(card, FULL);
                }
                3 => {
                    setup.keys.open(card, FULL);
                    send(card, &[0x84, 0x3E, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
                }
                // Broadcast mode has ended.
                _ => {
                    let mut host = setup.keys.open(card, FULL);
                    assert_eq!(sw(&host.send(card, &setup.broadcast.change_mode)), 0x9000);
                    send(card, &[0x80, 0xCA, 0xDF, 0x20, 0x00]);
                }
            }
            let before = card.flash().image();
            for _ in 0..2 {
                assert_ne!(sw(&send(card, command)), 0x9000);
            }
            assert_eq!(card.flash().image(), before, "state {state}: {command:02X?}");
            tried += 2;
        }
    }
    println!("{tried} commands of nobody");
}

/// In broadcast mode, what is no command of it; in the individual channel, what belongs to broadcast mode.
#[test]
fn what_is_in_the_wrong_mode_writes_no_refusal() {
    let good = manifest(2, 1, V2);
    for command in [
        &[0x80, 0xCA, 0xDF, 0x20, 0x00][..],
        &[0x00, 0xA4, 4, 0, 0],
        &[0x84, 0x3E, 1, 0, 1, 0],
        &[0x84, 0x3C],
        &[0xA0, 0x3C, 0, 2],
    ] {
        let mut setup = setup(&good);
        let mut host = setup.keys.open(&mut setup.card, FULL);
        assert_eq!(
            sw(&host.send(&mut setup.card, &setup.broadcast.change_mode)),
            0x9000
        );
        send(&mut setup.card, command);
        assert_eq!(refusal(&mut setup.card, &setup.keys), None, "{command:02X?}");
    }
    let mut setup = setup(&good);
    let mut host = setup.keys.open(&mut setup.card, FULL);
    for command in [&[0x80, 0x3C, 0, 1, 1, 0x41][..], &[0x80, 0x3A, 0, 0], &LEAVE] {
        assert_eq!(sw(&host.send(&mut setup.card, command)), 0x6982);
    }
    assert_eq!(refusal(&mut setup.card, &setup.keys), None);
}

/// Once broadcast mode has ended with a refusal there is none to come; the same AUTHORIZE ACTION again in one session is not written again.
#[test]
fn a_session_does_not_wear_the_flash() {
    let good = manifest(2, 1, V2);
    let mut setup = setup(&good);
    let mut host = setup.keys.open(&mut setup.card, FULL);
    assert_eq!(
        sw(&host.send(&mut setup.card, &setup.broadcast.change_mode)),
        0x9000
    );
    let wrong = [0x84, 0x3C, 0, 0, 9, 0x41, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(sw(&send(&mut setup.card, &wrong)), 0x6982);
    let before = setup.card.flash().image();
    for _ in 0..20 {
        assert_eq!(sw(&send(&mut setup.card, &wrong)), 0x6982);
    }
    assert_eq!(setup.card.flash().image(), before);
    let mut host = setup.keys.open(&mut setup.card, FULL);
    assert_eq!(sw(&host.send(&mut setup.card, &setup.broadcast.activate)), 0x6985);
    let before = setup.card.flash().image();
    for _ in 0..20 {
        assert_eq!(sw(&host.send(&mut setup.card, &setup.broadcast.activate)), 0x6985);
    }
    assert_eq!(setup.card.flash().image(), before);
}

/// A cut at each flash operation of the refused command: the last refusal or this one, and the load as it was.
#[test]
fn power_cuts_while_a_refusal_is_written() {
    let profile = Profile {
        store_bytes: 4 * PAGE,
        slot_bytes: PAGE,
        ..profile()
    };
    let keys = Keys::new();
    let broadcast = Broadcast::new(&keys, Custody::Hsm, &manifest(2, 1, V2), V2, 300);
    let boot = |flash| Card::booted(flash, SeededRng(5), &profile).unwrap();
    let mut card = keys.card(RamFlash::strict(PAGE, 6), &profile);
    let mut host = keys.open(&mut card, FULL);
    assert_eq!(sw(&host.send(&mut card, &broadcast.activate)), 0x6985);
    let first = refusal(&mut card, &keys);
    let mut host = keys.open(&mut card, FULL);
    assert_eq!(broadcast.play(&mut card, &mut host, 0), 0x9000);
    let made = card.into_flash();
    let mut wrong = broadcast.activate.clone();
    wrong[29] ^= 1;
    let (mut seen, mut words, mut cases) = ([0, 0], std::collections::BTreeSet::new(), 0);
    for seed in 0..4 {
        for cut in 0.. {
            let mut flash = made.clone();
            flash.cut_after(cut, seed);
            let mut card = boot(flash);
            let contact = Interface::Iso7816Contact;
            let opened = Host::open_on(
                &mut card,
                contact,
                0,
                common::update::KVN,
                &keys.scp,
                FULL,
                MacMode::S8,
            );
            if let Ok(mut host) = opened {
                let protected = host.wrap(&wrong);
                words.insert(sw(&send(&mut card, &protected)));
            }
            let was_cut = card.flash().is_off();
            let mut flash = card.into_flash();
            flash.power_on();
            let mut card = boot(flash);
            let found = refusal(&mut card, &keys);
            let is_new = found != first;
            if is_new {
                assert_eq!(found.unwrap().sw.0, 0x9503);
            }
            assert!(was_cut || is_new);
            seen[usize::from(is_new)] += 1;
            cases += 1;
            assert_eq!(update_state(&mut card).1, 2, "cut {cut}");
            if !was_cut {
                break;
            }
            let mut host = keys.open(&mut card, FULL);
            assert_eq!(sw(&host.send(&mut card, &broadcast.activate)), 0x9000);
        }
    }
    println!("{cases} cuts, refusal before and after: {seen:?}, answers {words:04X?}");
    assert!(seen.iter().all(|count| *count > 0));
    // The refused command is answered as if nothing were written.
    assert_eq!(words.into_iter().collect::<Vec<_>>(), [0x9503]);
}
