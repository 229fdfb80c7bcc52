//! Somebody without MKEY plays the card, with everything that he can have: recordings of the real card, keys of his own, the reader's own bytes. He records what the reader
//! sends; later MKEY leaks, and he tries it on all of it.

use crate::common;
use common::*;
use sekisho_apdu::{CApdu, Cla};
use sekisho_keys::AesKey;
use sekisho_messaging::reader::ReaderMessaging;
use sekisho_messaging::schedule::{Lanes, ScheduleError, Selector};
use sekisho_messaging::setup::{
    CONFIRMATION_LEN, KeysOpening, Mode, OPENING_ANSWER_MAX, Opened, Policy, RatchetOpening, open_card,
};
use sekisho_messaging::{EphemeralKey, PUBLIC_KEY_LEN};

fn mkey() -> AesKey {
    AesKey::new(&named("MKEY")).unwrap()
}

fn keys_of(mode: Mode, lanes: Lanes) -> Vec<[u8; 16]> {
    match (mode, lanes) {
        (Mode::LegacyList | Mode::LegacyOperations, _) => named_list("K", 18),
        (_, Lanes::Shared) => named_list("K", 2),
        (_, Lanes::Separate) => named_list("K", 4),
    }
}

/// A reader at its opening, in any mode.
enum Opening {
    Keys(Box<KeysOpening>),
    Ratchet(RatchetOpening, [u8; 16]),
}

impl Opening {
    fn new(mode: Mode, lanes: Lanes, challenge: [u8; 16], seed: u64) -> Self {
        if mode == Mode::Ratchet {
            let own = EphemeralKey::generate(&mut TestRng::new(seed)).unwrap();
            return Self::Ratchet(RatchetOpening::new(own, lanes, Cla::GP, 256), challenge);
        }
        let mut keys = keys_of(mode, lanes);
        keys.iter_mut().for_each(|key| key[0] ^= seed.to_le_bytes()[0]);
        Self::Keys(Box::new(
            KeysOpening::new(&mkey(), (mode, lanes), Cla::GP, &keys, challenge).unwrap(),
        ))
    }

    fn command(&self) -> CApdu<'_> {
        match self {
            Self::Keys(opening) => opening.command(),
            Self::Ratchet(opening, _) => opening.command(),
        }
    }

    fn finish(self, answer: &[u8]) -> Result<Opened, ScheduleError> {
        match self {
            Self::Keys(opening) => opening.finish(answer),
            Self::Ratchet(opening, challenge) => opening.finish(&mkey(), challenge, answer),
        }
    }
}

/// What a card with this key answers.
fn answered(key: &AesKey, challenge: [u8; 16], command: &CApdu<'_>, seed: u64) -> Option<Vec<u8>> {
    let opened = open_card(
        &Policy::every_mode(),
        key,
        challenge,
        command,
        &mut TestRng::new(seed),
    )
    .ok()?;
    Some(opened.answer.write(&mut [0; OPENING_ANSWER_MAX]).to_vec())
}

#[test]
fn an_impostor_gets_no_command() {
    let challenge = named("his challenge");
    for mode in Mode::ALL {
        for lanes in LANES {
            let opening = || Opening::new(mode, lanes, challenge, 1);
            let command = encode(&opening().command());
            let command = CApdu::parse(&command).unwrap();
            // Recordings: of the same reader at another challenge, of another opening at his challenge, of another mode and other lanes.
            let mut recorded = vec![
                answered(
                    &mkey(),
                    named("another"),
                    &Opening::new(mode, lanes, named("another"), 1).command(),
                    5,
                ),
                answered(
                    &mkey(),
                    challenge,
                    &Opening::new(mode, lanes, challenge, 2).command(),
                    5,
                ),
            ];
            for other in Mode::ALL.into_iter().filter(|other| *other != mode) {
                recorded.push(answered(
                    &mkey(),
                    challenge,
                    &Opening::new(other, lanes, challenge, 1).command(),
                    5,
                ));
            }
            for other in LANES.into_iter().filter(|other| *other != lanes) {
                recorded.push(answered(
                    &mkey(),
                    challenge,
                    &Opening::new(mode, other, challenge, 1).command(),
                    5,
                ));
            }
            assert!(recorded.iter().all(Option::is_some));
            // With a key of his own, with nothing, with what the reader sent, with too little and too much.
            let own = EphemeralKey::generate(&mut TestRng::new(8)).unwrap().public_key();
            let pieces: Vec<Vec<u8>> = vec![
                own.to_vec(),
                command.data[command.data.len().saturating_sub(65)..].to_vec(),
                vec![],
            ];
            for piece in &pieces {
                recorded.push(Some(piece.clone()));
                recorded.push(Some([&piece[..], &[0; CONFIRMATION_LEN]].concat()));
                recorded.push(Some([&piece[..], &challenge].concat()));
            }
            recorded.push(answered(
                &AesKey::aes128(named("his key")),
                challenge,
                &command,
                8,
            ));
            for answer in recorded.into_iter().flatten() {
                let refused = opening().finish(&answer).err();
                let known = [ScheduleError::NotConfirmed, ScheduleError::BadKeyData].map(Some);
                assert!(known.contains(&refused), "{} {lanes:?}: {refused:?}", mode.name());
            }
        }
    }
}

/// The real card is believed, and an answer with another bit is not.
#[test]
fn the_real_card_is_believed_to_the_bit() {
    let challenge = named("challenge");
    for mode in Mode::ALL {
        for lanes in LANES {
            let opening = || Opening::new(mode, lanes, challenge, 1);
            let answer = answered(&mkey(), challenge, &opening().command(), 8).unwrap();
            assert!(opening().finish(&answer).is_ok());
            for bit in 0..8 * answer.len() {
                let mut bad = answer.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(opening().finish(&bad).is_err(), "{} bit {bit}", mode.name());
            }
        }
    }
}

/// MKEY leaks later. With it he could have played the card (the control); of what he recorded without it he opens nothing, as no command is there.
#[test]
fn a_later_leak_of_mkey_opens_nothing_that_an_impostor_recorded() {
    let challenge = named("his challenge");
    for mode in Mode::ALL {
        for lanes in LANES {
            let opening = Opening::new(mode, lanes, challenge, 1);
            let mut recorded = vec![encode(&opening.command())];
            // He does what he can: a session of his own ephemeral key, or of no key at all, and a guess for a confirmation.
            let guess = answered(
                &AesKey::aes128(named("his key")),
                challenge,
                &opening.command(),
                8,
            );
            let guess = guess.unwrap_or_else(|| vec![0; CONFIRMATION_LEN]);
            if let Ok(Opened { schedule, ssc }) = opening.finish(&guess) {
                // What a reader that did not check would send.
                let mut reader = ReaderMessaging::new(schedule, ssc);
                recorded.push(protect(&mut reader, &unhex("00D6810004DEADBEEF"), Selector::NONE));
            }
            // The leak: he carries out the opening with the right MKEY and his old key, and has every key that followed.
            let command = CApdu::parse(&recorded[0]).unwrap();
            let leaked = open_card(
                &Policy::every_mode(),
                &mkey(),
                challenge,
                &command,
                &mut TestRng::new(8),
            )
            .unwrap();
            assert_eq!(
                leaked.answer.card_key().len(),
                if mode == Mode::Ratchet { PUBLIC_KEY_LEN } else { 0 }
            );
            let mut card = Card::new(leaked.opened.schedule, leaked.opened.ssc);
            let opened: Vec<_> = recorded[1..]
                .iter()
                .filter(|command| card.receive(command, &mut [0; 100]).is_ok())
                .collect();
            assert!(opened.is_empty(), "{} {lanes:?}", mode.name());
            assert_eq!(recorded.len(), 1, "the opening, and no command");
        }
    }
}
