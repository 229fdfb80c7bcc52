//! What is left of past keys: an attacker takes everything the card holds after an exchange, and has a recording of all that was
//! sent. He tries every 16 bytes of it as a key, and what keys follow from there by the schedule's own rules.

use crate::common;
use std::collections::HashSet;

use common::*;
use sekisho_apdu::Cla;
use sekisho_keys::{AesKey, cmac};
use sekisho_messaging::schedule::{KeySchedule, Lanes, Ratchet, Schedule, Selector};
use sekisho_messaging::setup::{OPENING_ANSWER_MAX, Policy, RatchetOpening, open_card};
use sekisho_messaging::{EphemeralKey, Keys, Ssc};

/// One recorded exchange, with the key bytes that protected it, as a test may know them.
struct Recorded {
    ssc: Ssc,
    command: Vec<u8>,
    secrets: Vec<Vec<u8>>,
}

/// Secrets of the exchange about to be made: the schedule's state and the keys, both ways.
fn secrets_of(schedule: &dyn KeySchedule, ssc: Ssc, chain: &[u8]) -> Vec<Vec<u8>> {
    let exchange = schedule.exchange(ssc).unwrap();
    let mut secrets = vec![chain.to_vec()];
    for keys in [&exchange.command, &exchange.response] {
        keys.expose(&mut |bytes| secrets.push(bytes.to_vec()));
    }
    secrets
}

/// Whether the MAC of a recorded short command is right under `key`.
fn opens(recorded: &Recorded, key: &[u8]) -> bool {
    let command = &recorded.command;
    let objects = &command[5..command.len() - 11];
    let mac = &command[command.len() - 9..command.len() - 1];
    let padding = [&[0x80][..], &[0; 15]].concat();
    let header = [&command[..4], &padding[..12]].concat();
    let tail = &padding[..16 - objects.len() % 16];
    cmac(
        &AesKey::new(key).unwrap(),
        &[&recorded.ssc.to_block(), &header, objects, tail],
    )[..8]
        == *mac
}

/// Every key that `state` gives by itself: each window, and the XOR and AND of any two of them.
fn candidates(state: &[u8], pairs: bool) -> HashSet<Vec<u8>> {
    let windows: HashSet<Vec<u8>> = state.windows(16).map(<[u8]>::to_vec).collect();
    let mut all = windows.clone();
    if pairs {
        for a in &windows {
            for b in &windows {
                all.insert(a.iter().zip(b).map(|(x, y)| x ^ y).collect());
                all.insert(a.iter().zip(b).map(|(x, y)| x & y).collect());
            }
        }
    }
    all
}

/// The state without the stored answer, which holds nothing but what was sent.
fn card_state(card: &Card<Schedule>) -> Vec<u8> {
    state_of(|sink| card.expose(sink))
}

/// Runs `count` exchanges; returns what was recorded, the card, and the card's state after each.
fn run(kind: &str, lanes: Lanes, count: usize) -> (Vec<Recorded>, Vec<Vec<u8>>) {
    let (mut reader, mut card) = ends(pair(kind, lanes));
    let (mut shadow, _) = pair(kind, lanes);
    let mut rng = TestRng::new(3);
    let mut ssc = start();
    let (mut recorded, mut states) = (vec![], vec![]);
    for _ in 0..count {
        ssc = ssc.next();
        let chain = if kind == "ratchet" {
            state_of(|sink| shadow.expose(sink))[..16].to_vec()
        } else {
            vec![0xEE; 16]
        };
        let secrets = secrets_of(&shadow, ssc, &chain);
        let next = shadow.exchange(ssc).unwrap().next;
        let selector = reader.propose(&mut rng);
        let (command, _) = exchange(
            &mut reader,
            &mut card,
            selector,
            &unhex("00D600000401020304"),
            &unhex("9000"),
        );
        shadow.advance(next, selector.as_bytes()).unwrap();
        recorded.push(Recorded {
            ssc,
            command,
            secrets,
        });
        ssc = ssc.next();
        states.push(card_state(&card));
    }
    (recorded, states)
}

#[test]
fn no_past_secret_of_the_ratchet_is_anywhere_in_the_card() {
    for lanes in LANES {
        let (recorded, states) = run("ratchet", lanes, 8);
        for (after, state) in states.iter().enumerate() {
            for past in &recorded[..=after] {
                for secret in &past.secrets {
                    assert!(
                        !state.windows(8).any(|window| window == &secret[..8]),
                        "after {after}"
                    );
                }
            }
        }
    }
}

#[test]
fn nothing_in_the_card_opens_the_ratchets_past_but_the_chain_opens_its_future() {
    for lanes in LANES {
        let (recorded, states) = run("ratchet", lanes, 6);
        let state = &states[2];
        let mut keys = candidates(state, false);
        // From each candidate as a chain key, onwards, at every counter of the recording.
        for candidate in keys.clone() {
            for at in &recorded {
                let ratchet = Ratchet::new(AesKey::new(&candidate).unwrap(), lanes, u16::MAX);
                keys.extend(secrets_of(&ratchet, at.ssc, &candidate));
            }
        }
        let opened = |past: &Recorded| keys.iter().any(|key| opens(past, key));
        assert!(!recorded[..=2].iter().any(opened), "the past");
        assert!(
            opened(&recorded[3]),
            "the attack works where it must: the next exchange"
        );
    }
}

#[test]
fn the_same_attack_opens_the_past_of_the_legacy_modes() {
    // XOR: the two keys in the card give the third. Operations: the list and the session key give the keys before.
    let (recorded, states) = run("xor", Lanes::Shared, 3);
    let keys = candidates(&states[1][..64], true);
    assert!(
        recorded[..=1]
            .iter()
            .all(|past| keys.iter().any(|key| opens(past, key)))
    );
    let (recorded, states) = run("operations", Lanes::Shared, 3);
    let keys = candidates(&states[1][..18 * 16], false);
    assert!(
        recorded[..1]
            .iter()
            .all(|past| keys.iter().any(|key| opens(past, key)))
    );
}

#[test]
fn the_list_wipes_what_it_has_used() {
    for lanes in LANES {
        let (recorded, states) = run("list", lanes, 5);
        for (after, state) in states.iter().enumerate() {
            let keys = candidates(state, false);
            assert!(
                !recorded[..=after]
                    .iter()
                    .any(|past| keys.iter().any(|key| opens(past, key)))
            );
            // What it has not used yet is there for the taking.
            assert!(
                recorded[after + 1..]
                    .iter()
                    .all(|next| keys.iter().any(|key| opens(next, key)))
            );
        }
    }
}

#[test]
fn the_keys_of_an_exchange_are_gone_when_its_answer_is_made() {
    for kind in ["ratchet", "list"] {
        let (mut reader, mut card) = ends(pair(kind, Lanes::Separate));
        let (shadow, _) = pair(kind, Lanes::Separate);
        let secrets = secrets_of(&shadow, start().next(), &[0xEE; 16]);
        let selector = reader.propose(&mut TestRng::new(3));
        let command = protect(&mut reader, &unhex("00B0000008"), selector);
        receive(&mut card, &command);
        let holds = |card: &Card<Schedule>, secret: &[u8]| {
            card_state(card).windows(16).any(|window| window == secret)
        };
        // Command keys go when the command is accepted, response keys when the answer is made.
        assert!(!secrets[1..3].iter().any(|secret| holds(&card, secret)));
        assert!(secrets[3..5].iter().all(|secret| holds(&card, secret)));
        answer(&mut card, &[0x90, 0]);
        assert!(!secrets.iter().any(|secret| holds(&card, secret)));
    }
}

#[test]
fn the_ratchet_never_uses_a_key_twice() {
    for lanes in LANES {
        let mut ratchet = Ratchet::new(AesKey::new(&named("chain")).unwrap(), lanes, u16::MAX);
        let mut seen = HashSet::new();
        let mut ssc = start();
        for _ in 0..5000 {
            ssc = ssc.next();
            let exchange = ratchet.exchange(ssc).unwrap();
            let mut note = |keys: &Keys| keys.expose(&mut |bytes| assert!(seen.insert(bytes.to_vec())));
            note(&exchange.command);
            if lanes == Lanes::Separate {
                note(&exchange.response);
            }
            ratchet.advance(exchange.next, Selector::NONE.as_bytes()).unwrap();
            assert!(seen.insert(state_of(|sink| ratchet.expose(sink))[..16].to_vec()));
            ssc = ssc.next();
        }
    }
}

#[test]
fn with_mkey_and_the_recorded_opening_the_ratchet_stays_shut() {
    // The attacker has MKEY, the challenge and both public keys. All he lacks is a private key; without it the chain he gets is another.
    let mkey = AesKey::new(&named("MKEY")).unwrap();
    let open = |reader_seed: u64, card_seed: u64| {
        let own = EphemeralKey::generate(&mut TestRng::new(reader_seed)).unwrap();
        let opening = RatchetOpening::new(own, Lanes::Shared, Cla::GP, 9);
        let mut rng = TestRng::new(card_seed);
        let card = open_card(
            &Policy::new(),
            &mkey,
            named("challenge"),
            &opening.command(),
            &mut rng,
        )
        .unwrap();
        let reader = opening
            .finish(
                &mkey,
                named("challenge"),
                card.answer.write(&mut [0; OPENING_ANSWER_MAX]),
            )
            .unwrap();
        let chain = |schedule: &Schedule| state_of(|sink| schedule.expose(sink));
        assert_eq!(chain(&reader.schedule), chain(&card.opened.schedule));
        chain(&reader.schedule)
    };
    assert_ne!(open(1, 2), open(1, 3));
    assert_ne!(open(1, 2), open(4, 2));
    assert_eq!(open(1, 2), open(1, 2));
}

#[test]
fn a_refresh_shuts_out_who_had_the_state_before() {
    let chain = || AesKey::new(&named("stolen")).unwrap();
    let mut honest = Ratchet::new(chain(), Lanes::Shared, 4);
    honest.refresh(&[0x33; 32]).unwrap();
    let after = state_of(|sink| honest.expose(sink))[..16].to_vec();
    let mut thief = Ratchet::new(chain(), Lanes::Shared, 4);
    for wrong in [[0x33; 31].as_slice(), &[0x34; 32], &[]] {
        thief.refresh(wrong).unwrap();
        assert_ne!(state_of(|sink| thief.expose(sink))[..16], after);
        thief = Ratchet::new(chain(), Lanes::Shared, 4);
    }
}
