//! Forward secrecy on the whole card: after a command, the memory of a running `sekisho card` is searched for everything that could open an
//! earlier one. The flash is a file that it has read, so that its buffers are in there too.
#![cfg(target_os = "linux")]

use crate::process;
use process::memory::{Memory, Secret};
use process::{CardProcess, scratch, send};
use sekisho_apdu::{CApdu, Cla, Writer};
use sekisho_applets::file_system::{AID, image::test_key};
use sekisho_keys::{AesKey, Rng, cmac, ecb_block};
use sekisho_messaging::EphemeralKey;
use sekisho_messaging::reader::ReaderMessaging;
use sekisho_messaging::schedule::{Lanes, Schedule, Selector};
use sekisho_messaging::setup::{RatchetOpening, refresh_command, refresh_secret};
use sekisho_transport::Card;

struct System;

impl Rng for System {
    fn fill(&mut self, out: &mut [u8]) {
        getrandom::fill(out).unwrap();
    }
}

/// An exchange that is over, with all that its reader knew of it.
struct Past {
    /// Chain key, and KSenc and KSmac of command and response.
    keys: Vec<Vec<u8>>,
    command: Vec<u8>,
    /// Counter of the command.
    ssc: [u8; 16],
}

struct Reader {
    messaging: ReaderMessaging<Schedule>,
    ssc: u128,
    past: Vec<Past>,
}

fn encode(command: &CApdu<'_>) -> Vec<u8> {
    let mut buf = [0; 300];
    let mut w = Writer::new(&mut buf);
    command.encode(&mut w).unwrap();
    w.written().to_vec()
}

fn data(card: &mut dyn Card, capdu: &[u8]) -> Vec<u8> {
    let (data, sw) = send(card, capdu);
    assert_eq!(sw, 0x9000);
    data
}

impl Reader {
    fn open(card: &mut dyn Card, lanes: Lanes) -> Self {
        Self::open_with(card, lanes, &mkey())
    }

    fn open_with(card: &mut dyn Card, lanes: Lanes, mkey: &AesKey) -> Self {
        data(card, &[&[0x00, 0xA4, 0x04, 0x00, 0x07], AID].concat());
        let challenge: [u8; 16] = data(card, &[0x00, 0x84, 0, 0, 16]).try_into().unwrap();
        let opening = RatchetOpening::new(EphemeralKey::generate(&mut System).unwrap(), lanes, Cla::GP, 256);
        let answer = data(card, &encode(&opening.command()));
        let opened = opening.finish(mkey, challenge, &answer).unwrap();
        Self {
            messaging: ReaderMessaging::new(opened.schedule, opened.ssc),
            ssc: u128::from_be_bytes(challenge),
            past: Vec::new(),
        }
    }

    /// The chain key of the exchange to come: the first that the reader's state hands out.
    fn chain(&self) -> Vec<u8> {
        let mut seen = Vec::new();
        self.messaging.expose(&mut |bytes| seen.push(bytes.to_vec()));
        seen.swap_remove(0)
    }

    fn send(&mut self, card: &mut dyn Card, capdu: &[u8]) -> Vec<u8> {
        let mut keys = vec![self.chain()];
        self.messaging
            .expose_exchange(&mut |bytes| keys.push(bytes.to_vec()));
        let (mut out, mut plain) = ([0; 300], [0; 300]);
        let command = CApdu::parse(capdu).unwrap();
        let sent = self
            .messaging
            .protect(&command, Selector::NONE, &mut out)
            .unwrap()
            .to_vec();
        let answer = card.transmit(&sent).unwrap();
        let answer = self.messaging.receive(&answer, &mut plain).unwrap();
        assert_eq!(answer.sw.0, 0x9000);
        self.past.push(Past {
            keys,
            command: sent,
            ssc: self.ssc.wrapping_add(1).to_be_bytes(),
        });
        self.ssc = self.ssc.wrapping_add(2);
        answer.data.to_vec()
    }

    fn refresh(&mut self, card: &mut dyn Card) {
        let own = EphemeralKey::generate(&mut System).unwrap();
        let public = own.public_key();
        let card_key = self.send(card, &encode(&refresh_command(&public)));
        let secret = refresh_secret(&mkey(), own, &public, &card_key).unwrap();
        self.messaging.refresh(secret.as_ref()).unwrap();
    }
}

fn mkey() -> AesKey {
    AesKey::aes128(test_key::MKEY)
}

/// Whether half of a key stands anywhere: half of it is half of the work.
fn holds(memory: &Memory, key: &[u8]) -> bool {
    !memory.holds(&[Secret::new("a key", key)], &(0..0)).is_empty()
}

/// Which of the keys of past exchanges stand anywhere.
fn left(memory: &Memory, past: &[Past]) -> Vec<String> {
    let named = |(number, past): (usize, &Past)| {
        let keys = past.keys.iter().enumerate();
        keys.map(|(key, bytes)| {
            Secret::new(
                format!("key {key} of exchange {number}, INS {:02X}", past.command[1]),
                bytes,
            )
        })
        .collect::<Vec<_>>()
    };
    let secrets: Vec<_> = past.iter().enumerate().flat_map(named).collect();
    memory.holds(&secrets, &(0..0))
}

/// Proves EXTERNAL 1, under secure messaging.
fn authenticate(reader: &mut Reader, card: &mut dyn Card) {
    let challenge = reader.send(card, &[0x00, 0x84, 0x00, 0x00, 0x10]);
    let proof = cmac(&AesKey::aes128(test_key::EXTERNAL), &[&challenge]);
    reader.send(card, &[&[0x00, 0x82, 0x00, 0x01, 0x10][..], &proof].concat());
}

/// Gives MKEY another value, under secure messaging, which ends by it.
fn replace_mkey(reader: &mut Reader, card: &mut dyn Card, value: &[u8; 16]) {
    authenticate(reader, card);
    reader.send(card, &[0x00, 0xA4, 0x00, 0x0C, 0x02, 0x00, 0x01]);
    reader.send(card, &[&[0x00, 0x24, 0x01, 0x00, 0x10][..], value].concat());
    let (_, sw) = send(
        card,
        &[0x0C, 0xB0, 0x81, 0x00, 0x0A, 0x8E, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    assert_eq!(sw, 0x6982, "nothing is open any more");
}

/// The right MAC of a short command under a key.
fn mac_is_right(past: &Past, key: &AesKey) -> bool {
    let (objects, tail) = past.command[5..].split_at(past.command.len() - 5 - 11);
    let padding = [&[0x80][..], &[0; 15]].concat();
    let header = [&past.command[..4], &padding[..12]].concat();
    let parts = [
        &past.ssc,
        &header[..],
        objects,
        &padding[..16 - objects.len() % 16],
    ];
    cmac(key, &parts)[..8] == tail[2..10]
}

/// KSmac of the exchange, if these 16 bytes were its chain key (`docs/spec/rolling-secure-messaging.md`, 5).
fn mac_key_from(chain: &[u8], ssc: &[u8; 16]) -> AesKey {
    let mut block = [0; 16];
    block[..5].copy_from_slice(b"SMR1\x03");
    block[8..].copy_from_slice(&ssc[8..]);
    ecb_block(&AesKey::new(chain).unwrap(), &mut block);
    AesKey::new(&block).unwrap()
}

/// Tries every 16 bytes of memory as chain key and as KSmac of a past command.
fn opens(memory: &Memory, past: &Past) -> bool {
    memory.regions().any(|region| {
        region
            .windows(16)
            .filter(|window| window.iter().filter(|byte| **byte == 0).count() < 6)
            .any(|window| {
                mac_is_right(past, &AesKey::new(window).unwrap())
                    || mac_is_right(past, &mac_key_from(window, &past.ssc))
            })
    })
}

#[test]
fn past_commands_cannot_be_opened_from_the_cards_memory() {
    let folder = scratch();
    let process = CardProcess::start(&folder.path().join("flash"), 0, &[]);
    let mut card = process.reader();
    for lanes in [Lanes::Shared, Lanes::Separate] {
        let mut reader = Reader::open(&mut card, lanes);
        for number in 0..4 {
            let write = [&[0x00, 0xD6, 0x81, 0x00, 16][..], &[number; 16]].concat();
            reader.send(&mut card, &write);
            assert_eq!(
                reader.send(&mut card, &[0x00, 0xB0, 0x81, 0x00, 0x10]),
                [number; 16]
            );
            if number == 1 {
                reader.refresh(&mut card);
            }
        }
        let memory = Memory::of(process.id());
        // The search finds what is there: the chain key of the exchange to come, by its bytes and by what it opens.
        let chain = reader.chain();
        assert!(holds(&memory, &chain), "the current chain key must be somewhere");
        assert_eq!(left(&memory, &reader.past), Vec::<String>::new(), "{lanes:?}");
        for past in [reader.past.len() - 1, 3] {
            assert!(!opens(&memory, &reader.past[past]), "{lanes:?}: exchange {past}");
        }
        let mut next = vec![reader.past.pop().unwrap()];
        reader.send(&mut card, &[0x00, 0xB0, 0x81, 0x00, 0x10]);
        next.push(reader.past.pop().unwrap());
        assert!(
            opens(&memory, &next[1]),
            "{lanes:?}: from the state before it the next command opens"
        );
        card.reset().unwrap();
    }
}

/// A new MKEY ends what the old one opened: neither the old one nor a key of that session is anywhere, the flash's bytes included.
#[test]
fn a_replaced_mkey_and_what_it_opened_are_nowhere() {
    let folder = scratch();
    let process = CardProcess::start(&folder.path().join("flash"), 0, &[]);
    let mut card = process.reader();
    let (mut first, mut second) = ([0; 16], [0; 16]);
    System.fill(&mut first);
    System.fill(&mut second);
    // The test card's own MKEY stands in its program.
    replace_mkey(&mut Reader::open(&mut card, Lanes::Shared), &mut card, &first);
    for lanes in [Lanes::Shared, Lanes::Separate] {
        let mut reader = Reader::open_with(&mut card, lanes, &AesKey::aes128(first));
        authenticate(&mut reader, &mut card);
        // Whatever the application keeps in RAM for a session is written in one of these.
        for capdu in [
            "00B0810010",
            "002000010431323334",
            "00E000001762158002000A82020101830240018801308C0407000000",
            "00A4000C024001",
            "0088000104 01020304 00",
            "00A4000C025EC1",
            "00A4030C",
            "00E40000024001",
        ] {
            let capdu = hex::decode(capdu.replace(' ', "")).unwrap();
            reader.send(&mut card, &capdu);
            let memory = Memory::of(process.id());
            assert_eq!(left(&memory, &reader.past), Vec::<String>::new(), "{lanes:?}");
        }
        let memory = Memory::of(process.id());
        assert!(
            holds(&memory, &reader.chain()) && holds(&memory, &first),
            "the search finds what is there"
        );
        replace_mkey(&mut reader, &mut card, &second);
        let memory = Memory::of(process.id());
        assert!(!holds(&memory, &first), "{lanes:?}: MKEY");
        assert!(!holds(&memory, &reader.chain()), "{lanes:?}: the next chain key");
        assert_eq!(left(&memory, &reader.past), Vec::<String>::new(), "{lanes:?}");
        std::mem::swap(&mut first, &mut second);
    }
}
