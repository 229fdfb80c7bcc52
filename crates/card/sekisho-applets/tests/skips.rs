//! What `tests/skips` tries on the emulated card, as JSON, where `SEKISHO_SKIPS` names a file for it: a flash to start from, what leads to a decision, the command that must be refused, and what shows whether the door is open.
//!
//! Everything is played to the card in this process first; the emulated one draws the same random bytes and must give the same answers.
#![allow(clippy::unwrap_used, clippy::panic)] // a test

use crate::common;

use common::by_value::ByValue as _;
use common::files::{self, Reader};
use common::host::Host;
use common::script::Line;
use common::update::{Broadcast, Custody, KVN, Keys, V2, manifest};
use common::{Card, PAGE, SeededRng, flash, initial_keys, new_card, profile};
use sekisho_keys::p256sig::SigningKey;
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::Mode;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::Interface;
use sekisho_scp::{MacMode, SecurityLevel};
use serde_json::{Value, json};

const CONTACTS: Interface = Interface::Iso7816Contact;
/// Of the card's generator, here and there.
const SEED: u32 = 7;

/// A card that writes down what it hears and says.
struct Recorded {
    card: Card,
    image: Vec<u8>,
    said: Vec<Value>,
}

impl Recorded {
    /// Starts again from this card's flash, as the emulated one will.
    fn new(card: Card) -> Self {
        let image = card.into_flash().image();
        let flash = RamFlash::from_image(PAGE, &image);
        let card = Card::booted(flash, SeededRng(SEED.into()), &profile()).unwrap();
        Self {
            card,
            image,
            said: Vec::new(),
        }
    }

    fn reset(&mut self) {
        self.card.reset(CONTACTS);
        self.said.push(json!("reset"));
    }

    fn ok(&mut self, capdu: &[u8]) {
        let answer = common::send_on(self, CONTACTS, capdu);
        assert!(
            answer.ends_with(&[0x90, 0]),
            "{}: {}",
            hex::encode(capdu),
            hex::encode(answer)
        );
    }

    /// The scenario: `attack` must be refused, and what follows shows whether it was: none of it answers as it would behind an open door.
    fn refuses(self, name: &str, attack: &[u8], probes: &[&[u8]]) -> Value {
        self.refuses_as(name, attack, probes, None)
    }

    /// The same, where an open door is seen by this answer to the attack itself.
    fn refuses_as(mut self, name: &str, attack: &[u8], probes: &[&[u8]], open: Option<&[u8]>) -> Value {
        let setup = std::mem::take(&mut self.said);
        let answer = self.transmit(CONTACTS, attack);
        assert!(!answer.ends_with(&[0x90, 0]), "{name}: {}", hex::encode(answer));
        for probe in probes {
            match probe {
                [] => self.reset(),
                capdu => drop(self.transmit(CONTACTS, capdu)),
            }
        }
        json!({ "name": name, "seed": SEED, "flash": hex::encode(&self.image), "setup": setup, "attack": self.said, "open": open.map(hex::encode) })
    }
}

/// A refused activation of an OS part, with what the SE tells of its OS parts behind a reset: also that what was staged is gone, which a damaged image is refused with.
fn refuses_activation(card: Recorded, name: &str, attack: &[u8]) -> Value {
    let mut scenario = card.refuses(name, attack, &[&[], &UPDATE_STATE]);
    let said = scenario["attack"].as_array().unwrap().last().unwrap();
    let mut state = hex::decode(said[1].as_str().unwrap()).unwrap();
    // DF20, 13: version, target, slot, version of the part (4), ABI, staging, campaign (8), next block (2); 9000.
    state[3 + 8..3 + 19].fill(0);
    scenario["shut"] = json!([hex::encode(state)]);
    scenario
}

impl Line for Recorded {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        let answer = Line::transmit(&mut self.card, interface, capdu);
        self.said.push(json!([hex::encode(capdu), hex::encode(&answer)]));
        answer
    }
}

fn flipped(capdu: &[u8], from_end: usize) -> Vec<u8> {
    let mut capdu = capdu.to_vec();
    let at = capdu.len() - from_end;
    capdu[at] ^= 0x10;
    capdu
}

/// EXTERNAL AUTHENTICATE of somebody without keys.
fn cryptogram() -> Value {
    let mut card = Recorded::new(new_card());
    card.ok(&[0x80, 0x50, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    // Level 00: what comes behind it needs no key. GET STATUS is for whoever has authenticated.
    let attack = [&[0x84, 0x82, 0x00, 0, 16][..], &[0x5A; 16]].concat();
    card.refuses(
        "SCP03 cryptogram",
        &attack,
        &[&[0x80, 0xF2, 0x80, 0x02, 2, 0x4F, 0, 0]],
    )
}

/// RESET RETRY COUNTER, which needs the key that was proved or not.
const RESET_RETRIES: [u8; 4] = [0x00, 0x2C, 0x03, 0x01];
/// Reading an identification number that STORE DATA puts.
const GET_CIN: [u8; 5] = [0x80, 0xCA, 0x00, 0x45, 0x00];
/// Which OS part runs, and what is staged.
const UPDATE_STATE: [u8; 5] = [0x80, 0xCA, 0xDF, 0x20, 0x00];

/// A command pushed into somebody's secure channel: it would write an identification number.
fn c_mac() -> Value {
    let mut card = Recorded::new(new_card());
    let level = SecurityLevel::from_p1(0x01).unwrap();
    let mut host = Host::open_on(&mut card, CONTACTS, 0, 0, &initial_keys(), level, MacMode::S8).unwrap();
    let attack = flipped(&host.wrap(&[0x80, 0xE2, 0x80, 0, 5, 0x45, 3, 1, 2, 3]), 2);
    card.refuses("C-MAC", &attack, &[&[], &GET_CIN])
}

fn filing() -> Recorded {
    let mut card = Recorded::new(files::card());
    files::select(&mut card, CONTACTS);
    card
}

/// A wrong PIN, and a file that only the PIN opens.
fn pin() -> Value {
    let card = filing();
    card.refuses(
        "VERIFY",
        &[0x00, 0x20, 0x00, 0x01, 4, b'0', b'0', b'0', b'0'],
        &[&[0x00, 0x20, 0x00, 0x01]],
    )
}

/// EXTERNAL AUTHENTICATE of the file system, of somebody without the key.
fn external() -> Value {
    let mut card = filing();
    card.ok(&[0x00, 0x84, 0, 0, 16]);
    let attack = [&[0x00, 0x82, 0x00, 0x01, 16][..], &[0x5A; 16]].concat();
    card.refuses("EXTERNAL AUTHENTICATE", &attack, &[&RESET_RETRIES])
}

/// The DF of the test card whose file needs a key, and that file, without the key.
fn access_rule() -> Value {
    const READ: [u8; 5] = [0x00, 0xB0, 0x81, 0x00, 0x10];
    let card = filing();
    // It has never been written: sixteen zeros.
    let open = [&[0; 16][..], &[0x90, 0x00]].concat();
    card.refuses_as("access rule", &READ, &[], Some(&open))
}

/// A command pushed into somebody's secure messaging: what comes for the right one is what an open door gives.
fn messaging() -> Value {
    let attack = |card: &mut Recorded| {
        let mut reader = Reader::open(card, CONTACTS, Mode::Ratchet, Lanes::Shared, 256).unwrap();
        reader.protect(&[0x00, 0xB0, 0x9E, 0x00, 0x10])
    };
    let mut right = filing();
    let command = attack(&mut right);
    let open = right.transmit(CONTACTS, &command);
    let mut card = filing();
    let command = attack(&mut card);
    card.refuses_as("secure messaging's MAC", &flipped(&command, 2), &[], Some(&open))
}

fn updating(broadcast: &Broadcast, keys: &Keys, writes: usize) -> (Recorded, Host) {
    let mut card = Recorded::new(keys.card(flash(), &profile()));
    let level = SecurityLevel::from_p1(0x33).unwrap();
    let mut host = Host::open_on(&mut card, CONTACTS, 0, KVN, &keys.scp, level, MacMode::S8).unwrap();
    let answer = host.send(&mut card, &broadcast.change_mode);
    assert!(answer.ends_with(&[0x90, 0]), "{}", hex::encode(answer));
    for command in broadcast.commands.iter().take(writes) {
        card.ok(command);
    }
    (card, host)
}

/// AUTHORIZE ACTION with a code that is wrong, so far from the end.
fn wrong_code(decision: &str, from_end: usize) -> Value {
    let keys = Keys::new();
    let broadcast = Broadcast::new(&keys, Custody::Hsm, &manifest(2, 1, V2), V2, 239);
    let (card, mut host) = updating(&broadcast, &keys, usize::MAX);
    let attack = host.wrap(&flipped(&broadcast.activate, from_end));
    refuses_activation(card, decision, &attack)
}

/// WRITE of block 0 with a manifest that another designer has signed.
fn signature() -> Value {
    let keys = Keys::new();
    let mut others = Keys::new();
    others.designer = SigningKey::from_bytes(&[0x64; 32]).unwrap();
    let broadcast = Broadcast::new(&others, Custody::Hsm, &manifest(2, 1, V2), V2, 239);
    let (card, _) = updating(&broadcast, &keys, 0);
    card.refuses(
        "designer's signature",
        &broadcast.commands[0],
        &[&broadcast.commands[1]],
    )
}

/// An application of a locked card.
fn life_cycle() -> Value {
    let mut card = Recorded::new(files::card());
    let level = SecurityLevel::from_p1(0x01).unwrap();
    let mut host = Host::open_on(&mut card, CONTACTS, 0, 0, &initial_keys(), level, MacMode::S8).unwrap();
    for state in [0x07, 0x0F, 0x7F] {
        let answer = host.send(&mut card, &[0x80, 0xF0, 0x80, state, 0]);
        assert!(answer.ends_with(&[0x90, 0]), "{}", hex::encode(answer));
    }
    card.reset();
    let attack = [
        &[0x00, 0xA4, 0x04, 0x0C, 7][..],
        sekisho_applets::file_system::AID,
    ]
    .concat();
    card.refuses(
        "life cycle: card locked",
        &attack,
        &[&[0x00, 0xB0, 0x9E, 0x00, 0x10]],
    )
}

#[test]
fn what_is_tried_with_instructions_left_out() {
    let Some(path) = std::env::var_os("SEKISHO_SKIPS") else {
        return;
    };
    let all = [
        cryptogram(),
        c_mac(),
        pin(),
        external(),
        access_rule(),
        messaging(),
        // Of a server that has not asked the design system, whose code stands before the SE's own, which is the last of the data; and of one that has not asked the HSM.
        wrong_code("integrity code", 32),
        wrong_code("individual code", 2),
        signature(),
        life_cycle(),
    ];
    std::fs::write(path, serde_json::to_string(&all).unwrap()).unwrap();
}
