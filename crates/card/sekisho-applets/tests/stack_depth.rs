//! How much stack a command uses, measured from outside: what [`Profile::stack`] wipes behind each command must cover it.

#![allow(clippy::unwrap_used, clippy::panic)]
#![cfg(target_os = "linux")]

use sekisho_card_tests as common;
use std::hint::black_box;

use common::host::Host;
use common::stack::{LOOKED_AT, below, depth};
use common::update::{Broadcast, Change, Custody, Keys, LEAVE, V2, manifest};
use common::{flash, profile, send, sw};
use sekisho_os::Profile;
use sekisho_scp::SecurityLevel;

/// Bytes of the stack just below the command that belong to the test's own functions.
const CALLERS: usize = 8 * 1024;

/// Words of each KiB between the test's own functions and `bytes` that are not zero after a command under a secure channel: the most.
fn left_after_a_command(profile: &Profile, bytes: usize) -> usize {
    let keys = Keys::new();
    let mut card = keys.card(flash(), profile);
    let mut host = keys.open(&mut card, SecurityLevel::FULL);
    // DELETE of a key that is not there: no command that says that it takes little of the stack.
    let command = host.wrap(&[0x80, 0xE4, 0x00, 0x00, 0x03, 0xD2, 0x01, 0x77]);
    let mut answer = Vec::new();
    let (_, after) = below(|| answer = send(&mut card, &command));
    assert_eq!(sw(&host.unwrap(&answer)), 0x6A88);
    after[LOOKED_AT - bytes..LOOKED_AT - CALLERS]
        .chunks(1024)
        .map(|piece| piece.chunks(8).filter(|word| **word != [0; 8]).count())
        .max()
        .unwrap()
}

/// Zeros, but for what the wiping itself needs: where each of its pieces returns to.
#[test]
fn behind_a_command_the_stack_is_zero_as_deep_as_the_profile_says() {
    let run = || {
        let stack = Profile::default().stack;
        let wiped = left_after_a_command(&Profile { stack, ..profile() }, stack);
        let unwiped = left_after_a_command(&unwiped(), stack);
        println!("words of a KiB that are not zero: {wiped} wiped, {unwiped} not");
        assert!(wiped <= 6, "{wiped}");
        assert_eq!(unwiped, 128, "the paint");
    };
    let thread = std::thread::Builder::new().stack_size(4 << 20).spawn(run);
    thread.unwrap().join().unwrap();
}

/// The profile with nothing wiped, so that the wiping itself is not measured.
fn unwiped() -> Profile {
    Profile {
        stack: 0,
        ..profile()
    }
}

/// A key set in a command of its own, leaving and coming back, a refused command, and the change of all keys.
fn measure_a_key_change(keys: &Keys, custody: Custody, deepest: &mut Vec<(usize, String)>) {
    let change = Change::of(true, true, true);
    let rotation = Broadcast::of_keys(custody, keys, &keys.changed(change), change);
    let mut card = keys.card(flash(), &unwiped());
    let mut host = keys.open(&mut card, SecurityLevel::FULL);
    let mut wrong = rotation.activate.clone();
    wrong[30] ^= 1;
    let [first, second, back] = &rotation.commands[..] else {
        panic!("a key change has one block");
    };
    let steps: [(&str, bool, &[u8], u16); 10] = [
        ("key set", true, &rotation.keep, 0x9000),
        ("kept key set", true, &rotation.change_mode_kept, 0x9000),
        ("block 0", false, first, 0x9000),
        ("leave", true, &LEAVE, 0x9000),
        ("key set again", true, &rotation.change_mode, 0x9000),
        ("block 1", false, second, 0x9000),
        ("back", false, back, 0x9000),
        ("AUTHORIZE ACTION refused", true, &wrong, 0x9503),
        ("key change", true, &rotation.activate, 0x9000),
        ("CHANGE MODE refused", true, &rotation.change_mode_kept, 0x6985),
    ];
    for (what, is_individual, command, expected) in steps {
        let command = if is_individual {
            host.wrap(command)
        } else {
            command.to_vec()
        };
        let mut answer = Vec::new();
        let used = depth(|| answer = send(&mut card, &command));
        let answer = if is_individual {
            host.unwrap(&answer)
        } else {
            answer
        };
        assert_eq!(sw(&answer), expected, "{what}");
        deepest.push((used, format!("{custody:?}, {what}")));
    }
}

#[test]
fn every_command_with_keys_fits_what_is_wiped() {
    let run = || {
        let keys = Keys::new();
        let mut deepest = Vec::new();
        for custody in [Custody::Design, Custody::Hsm] {
            measure_a_key_change(&keys, custody, &mut deepest);
            let broadcast = Broadcast::new(&keys, custody, &manifest(2, 1, V2), V2, 239);
            let mut card = keys.card(flash(), &unwiped());
            let card = &mut card;
            let mut host = None;
            let opening = depth(|| host = Some(keys.open(card, SecurityLevel::FULL)));
            deepest.push((opening, "opening".to_owned()));
            let host: &mut Host = host.as_mut().unwrap();
            let change_mode = host.wrap(&broadcast.change_mode);
            let mut answer = Vec::new();
            deepest.push((
                depth(|| answer = send(card, &change_mode)),
                "CHANGE MODE".to_owned(),
            ));
            assert_eq!(sw(&host.unwrap(&answer)), 0x9000);
            for (block, command) in broadcast.commands.iter().enumerate() {
                let used = depth(|| answer = send(card, command));
                assert_eq!(sw(&answer), 0x9000);
                deepest.push((used, format!("{custody:?}, command {block} of P_SE")));
            }
            let activate = host.wrap(&broadcast.activate);
            deepest.push((
                depth(|| answer = send(card, &activate)),
                "AUTHORIZE ACTION".to_owned(),
            ));
            assert_eq!(sw(&host.unwrap(&answer)), 0x9000);
        }
        deepest.sort();
        deepest
    };
    let thread = std::thread::Builder::new().stack_size(4 << 20).spawn(run);
    let deepest = thread.unwrap().join().unwrap();
    println!("{deepest:#?}");
    let (most, what) = deepest.last().unwrap();
    assert!(
        *most <= Profile::default().stack,
        "{what} uses {most} bytes of stack"
    );
}

/// The measure itself: a function that uses so much is seen to.
#[test]
fn the_measure_sees_what_a_function_uses() {
    let work = || {
        let array = [1u8; 40 * 1024];
        black_box(&array);
    };
    let thread = std::thread::Builder::new()
        .stack_size(4 << 20)
        .spawn(move || depth(work));
    let used = thread.unwrap().join().unwrap();
    assert!((40 * 1024..60 * 1024).contains(&used), "{used}");
}
