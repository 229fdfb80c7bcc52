//! SecApp in the whole card: the page's example, power cuts, hostile bytes, and a lossy network.
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::common;

use common::ByValue as _;
use common::*;
use proptest::prelude::*;
use sekisho_applets::sec_app;
use sekisho_keys::Rng;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Interface, OwnRecord, Personalisation, Profile, SecureElement};
use sekisho_paging::device::{DeviceKey, State};
use sekisho_paging::keys::{Keyspace, PollKey, Root};
use sekisho_paging::message::{Action, Message};
use sekisho_paging::recovery::{Grant, Request};
use sekisho_paging::server::TicketRecord;
use sekisho_paging::ticket::{Ring, TicketKey};
use sekisho_paging::{DATAGRAM, Uid};

const PAGE: &str = include_str!("../../../../docs/spec/paging.md");
const START: Keyspace = Keyspace {
    domain: 0,
    generation: 1,
};
const INDEX: u32 = 7;
const PAGE_SIZE: usize = 4096;

fn given(name: &str) -> Vec<u8> {
    let start = format!("```hex {name}\n");
    let at = PAGE.find(&start).unwrap() + start.len();
    hex::decode(PAGE[at..].lines().next().unwrap()).unwrap()
}

fn block(name: &str) -> [u8; 16] {
    given(name).try_into().unwrap()
}

type Element = SecureElement<Scripted>;

fn ring() -> Ring {
    let mut ring = Ring::new();
    ring.add(TicketKey::new(0, 1, &block("ticket-key"), true))
        .unwrap();
    ring.add(TicketKey::new(9, 1, &block("ticket-key-9"), true))
        .unwrap();
    ring
}

fn root() -> Root {
    Root::new(block("root"))
}

fn state(rolling: bool) -> State {
    let key = if rolling {
        DeviceKey::Rolling(root().poll_key(START))
    } else {
        DeviceKey::Fixed(root())
    };
    let mut state = State::new(Uid(block("uid1")), START, key, 900);
    state.order = 41;
    state
}

fn element(rolling: bool, random: Vec<u8>) -> Element {
    element_on(flash(), rolling, random)
}

fn element_on(flash: RamFlash, rolling: bool, random: Vec<u8>) -> Element {
    element_with(flash, &profile(), rolling, random, &[]).unwrap()
}

/// The same with other data objects beside SecApp's records; `None` when they do not fit.
fn element_with(
    flash: RamFlash,
    profile: &Profile,
    rolling: bool,
    random: Vec<u8>,
    objects: &[(u16, &[u8])],
) -> Option<Element> {
    let record = state(rolling).record();
    let recovery = *root().recovery_key().as_bytes();
    let records: [OwnRecord<'_>; 2] = [
        (sec_app::STATE_RECORD, 0, &record.0),
        (sec_app::RECOVERY_RECORD, 0, &recovery),
    ];
    let applications = [secapp(&records)];
    let keys = initial_keys();
    let k_aut = key(&[0xA0; 16]);
    let personalisation = Personalisation {
        applications: &applications,
        data_objects: objects,
        ..personalisation(0xFF, &keys, &k_aut)
    };
    let mut element = Element::made(flash, Script(random, SeededRng(5)), profile, &personalisation).ok()?;
    select(&mut element);
    Some(element)
}

fn send_to(element: &mut Element, capdu: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 600];
    let len = element.transmit(Interface::Spi, capdu, &mut out);
    out.truncate(len);
    out
}

fn select(element: &mut Element) {
    let answer = send_to(element, &[&[0x00, 0xA4, 0x04, 0x00, 0x07], sec_app::AID].concat());
    assert!(answer.ends_with(&[0x90, 0x00]), "{answer:02X?}");
}

fn command(ins: u8, data: &[u8]) -> Vec<u8> {
    let lc = u8::try_from(data.len()).unwrap();
    let body = if data.is_empty() {
        vec![0]
    } else {
        [&[lc], data].concat()
    };
    [&[0x80, ins, 0, 0][..], &body].concat()
}

fn ok(element: &mut Element, ins: u8, data: &[u8]) -> Vec<u8> {
    let mut answer = send_to(element, &command(ins, data));
    assert!(answer.ends_with(&[0x90, 0x00]), "INS {ins:02X}: {answer:02X?}");
    answer.truncate(answer.len() - 2);
    answer
}

fn poll(element: &mut Element) -> [u8; DATAGRAM] {
    let mut answer = send_to(element, &[0x80, 0x20, 0x01, 0x00, 0x00]);
    assert!(answer.ends_with(&[0x90, 0x00]), "{answer:02X?}");
    answer.truncate(DATAGRAM);
    answer.try_into().unwrap()
}

fn power_cycle(element: Element) -> Element {
    power_cycle_with(element, 6)
}

/// The generator goes on elsewhere: a card that repeats its random numbers repeats its polls.
fn power_cycle_with(element: Element, seed: u64) -> Element {
    let mut flash = element.into_flash();
    flash.power_on();
    let mut element = Element::booted(flash, Script(Vec::new(), SeededRng(seed)), &profile()).unwrap();
    select(&mut element);
    element
}

struct Server {
    ring: Ring,
    record: TicketRecord,
    rolling: bool,
}

impl Server {
    fn new(rolling: bool) -> Self {
        let key = root().poll_key(START);
        let record = if rolling {
            TicketRecord::rolling(START, 4, key, Uid(block("uid1")))
        } else {
            TicketRecord::fixed(START, &key)
        };
        Self {
            ring: ring(),
            record,
            rolling,
        }
    }

    fn answer(&mut self, poll: &[u8], message: Message) -> Option<[u8; DATAGRAM]> {
        let ticket = self.ring.open(&Uid::of(poll)?)?;
        let rolling = self.rolling;
        let key_of = |keyspace| -> Option<PollKey> { (!rolling).then(|| root().poll_key(keyspace)) };
        let received = self.record.receive(&self.ring, &ticket, poll, key_of).ok()?;
        received.answer(&self.ring, message).ok()
    }
}

#[test]
fn the_example_of_the_page() {
    let nonces = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]].concat();
    let mut element = element(false, nonces);
    assert_eq!(poll(&mut element).to_vec(), given("poll-1"));
    let mut damaged = given("answer-1");
    damaged[43] ^= 1;
    assert_eq!(send_to(&mut element, &command(0x22, &damaged)), [0x6A, 0x80]);
    assert_eq!(poll(&mut element).to_vec(), given("poll-2"));
    assert_eq!(
        send_to(&mut element, &command(0x22, &given("answer-1"))),
        [0x6A, 0x80]
    );
    assert_eq!(
        hex::encode_upper(ok(&mut element, 0x22, &given("answer-2"))),
        "010000002A0000003C02"
    );
    let status = ok(&mut element, 0x28, &[]);
    assert_eq!(hex::encode_upper(status), "010000002A0000003C000000290000038400");
    assert_eq!(
        send_to(&mut element, &command(0x26, &[0, 0, 0, 43])),
        [0x6A, 0x88]
    );
    ok(&mut element, 0x26, &[0, 0, 0, 42]);
    assert_eq!(poll(&mut element).to_vec(), given("poll-3"));
}

#[test]
fn without_personalisation_there_is_nothing() {
    let mut card = new_card();
    let answer = send(
        &mut card,
        &[&[0x00, 0xA4, 0x04, 0x00, 0x07], sec_app::AID].concat(),
    );
    assert_eq!(answer, [0x6A, 0x82]);
}

/// Row C14: over SWP it is not there, and nothing that is sent there is written.
#[test]
fn a_stranger_with_a_reader_makes_no_key_pair() {
    let mut element = element(false, vec![]);
    let before = element.flash().image().to_vec();
    let name = [&[0x00, 0xA4, 0x04, 0x00, 0x07], sec_app::AID].concat();
    for _ in 0..2_000 {
        for command in [&name[..], &[0x80, 0x46, 0x00, 0x00, 0x00]] {
            let mut out = [0; 300];
            let len = element.transmit(Interface::Swp, command, &mut out);
            assert!([[0x6A, 0x82], [0x6D, 0x00]].contains(&[out[len - 2], out[len - 1]]));
        }
    }
    assert_eq!(element.flash().image(), before);
    select(&mut element);
}

#[test]
fn what_is_done_stays_done_and_the_poll_that_is_out_stays_out() {
    let mut element = element(false, Vec::new());
    let mut server = Server::new(false);
    let message = Message {
        order: 50,
        action: Action::OpenHttps(0),
    };
    let first = poll(&mut element);
    let answer = server.answer(&first, message).unwrap();
    ok(&mut element, 0x22, &answer);
    let out = poll(&mut element);
    ok(&mut element, 0x26, &[0, 0, 0, 50]);
    let answer = server.answer(&out, Message::NOTHING).unwrap();
    ok(&mut element, 0x22, &answer);
    let element = &mut power_cycle(element);
    assert_eq!(ok(element, 0x28, &[])[9..13], [0, 0, 0, 50]);
}

#[test]
fn property_21_power_cut_at_every_write_of_an_answer() {
    for rolling in [false, true] {
        for cut in 0.. {
            let mut element = element(rolling, Vec::new());
            let mut server = Server::new(rolling);
            for _ in 0..3 {
                let datagram = poll(&mut element);
                let answer = server.answer(&datagram, Message::NOTHING).unwrap();
                ok(&mut element, 0x22, &answer);
            }
            let datagram = poll(&mut element);
            let answer = server.answer(&datagram, Message::NOTHING).unwrap();
            let mut flash = element.into_flash();
            flash.cut_after_units(cut, cut);
            // The poll that was out is lost with the power: the card is started anew, and asks again.
            let mut element =
                Element::booted(flash, Script(Vec::new(), SeededRng(7 + cut)), &profile()).unwrap();
            select(&mut element);
            let again = poll(&mut element);
            let fresh = server.answer(&again, Message::NOTHING).unwrap();
            assert_eq!(
                send_to(&mut element, &command(0x22, &answer)),
                [0x6A, 0x80],
                "stale"
            );
            send_to(&mut element, &command(0x22, &fresh));
            let was_cut = element.flash().is_off();
            let mut element = power_cycle(element);
            for _ in 0..2 {
                let datagram = poll(&mut element);
                let answer = server.answer(&datagram, Message::NOTHING).expect("locked out");
                ok(&mut element, 0x22, &answer);
            }
            if !was_cut {
                assert!(cut > 3, "nothing was cut");
                break;
            }
        }
    }
}

#[test]
fn property_01_a_lossy_network_and_a_failing_device() {
    for seed in 1..30 {
        let rolling = seed % 2 == 0;
        let mut element = element(rolling, Vec::new());
        let mut server = Server::new(rolling);
        let mut dice = SeededRng(seed);
        let mut die = || {
            let mut byte = [0];
            dice.fill(&mut byte);
            byte[0]
        };
        let mut recorded: Vec<[u8; DATAGRAM]> = Vec::new();
        for turn in 0..60 {
            let datagram = poll(&mut element);
            for old in recorded.iter().rev().take(3) {
                assert_eq!(send_to(&mut element, &command(0x22, old)), [0x6A, 0x80]);
            }
            if die() < 64 {
                continue;
            }
            let answer = server.answer(&datagram, Message::NOTHING).expect("locked out");
            recorded.push(answer);
            if die() < 64 {
                continue;
            }
            if die() < 20 {
                element = power_cycle_with(element, seed * 1000 + turn);
                continue;
            }
            ok(&mut element, 0x22, &answer);
        }
    }
}

#[test]
fn property_11_a_rolled_key_is_wiped_from_the_flash() {
    let mut element = element(true, Vec::new());
    let mut server = Server::new(true);
    let mut old = vec![*root().as_bytes()];
    for _ in 0..5 {
        let (key, _) = server.record.checkpoint().rolling.unwrap();
        old.push(*key.as_bytes());
        let datagram = poll(&mut element);
        let answer = server.answer(&datagram, Message::NOTHING).unwrap();
        ok(&mut element, 0x22, &answer);
        // The server goes to the next key with the next poll.
        let next = poll(&mut element);
        server.answer(&next, Message::NOTHING).unwrap();
    }
    let image = element.flash().image();
    for key in old {
        assert!(
            image.windows(16).all(|window| window != key),
            "an old key is in the flash"
        );
    }
}

#[test]
fn recovery_and_its_refusals() {
    let mut element = element(false, Vec::new());
    assert_eq!(send_to(&mut element, &command(0x2C, &[0; 56])), [0x69, 0x85]);
    let sealed: [u8; 48] = ok(&mut element, 0x2A, &[]).try_into().unwrap();
    let key = root().recovery_key();
    let request = Request::open(&key, &sealed).unwrap();
    assert_eq!((request.se_id, request.keyspace), (SE_ID, START));
    let keyspace = Keyspace {
        domain: 0,
        generation: 2,
    };
    let grant = Grant {
        keyspace,
        uid: ring().issuing(0).unwrap().seal(INDEX, 2, 0),
        nonce: [1; 16],
    }
    .seal(&key, &sealed);
    let mut damaged = grant;
    damaged[20] ^= 1;
    assert_eq!(send_to(&mut element, &command(0x2C, &damaged)), [0x6A, 0x80]);
    ok(&mut element, 0x2C, &grant);
    let mut server = Server::new(false);
    let datagram = poll(&mut element);
    let answer = server.answer(&datagram, Message::NOTHING).unwrap();
    ok(&mut element, 0x22, &answer);
    assert_eq!(server.record.keyspace(), keyspace);
    // A grant is used once: its request asks to leave a keyspace that the device has left.
    let sealed_again = ok(&mut element, 0x2A, &[]);
    assert_ne!(sealed_again, sealed);
    assert_eq!(send_to(&mut element, &command(0x2C, &grant)), [0x6A, 0x80]);
}

#[test]
fn keys_are_made_in_the_card_and_live_once_they_are_certified() {
    use sekisho_keys::p256sig::VerifyingKey;
    let mut element = element(false, Vec::new());
    assert_eq!(
        send_to(&mut element, &[0x80, 0x46, 0x01, 0x00, 0x00]),
        [0x6A, 0x88]
    );
    let made = ok(&mut element, 0x46, &[]);
    let public: [u8; 65] = made[..65].try_into().unwrap();
    let verifying = VerifyingKey::from_sec1(&public).unwrap();
    let signature = made[65..129].try_into().unwrap();
    verifying.verify_parts(&[&SE_ID, &public], &signature).unwrap();
    let key = root().recovery_key();
    assert_eq!(made[129..], key.new_key_proof(&SE_ID, &public));
    assert_eq!(send_to(&mut element, &command(0x4A, &[0; 32])), [0x6A, 0x88]);
    let digest = [0xCC; 32];
    let certified = [&digest[..], &key.certified_proof(&SE_ID, &public, &digest)].concat();
    let mut forged = certified.clone();
    forged[0] ^= 1;
    assert_eq!(send_to(&mut element, &command(0x48, &forged)), [0x6A, 0x80]);
    ok(&mut element, 0x48, &certified);
    assert_eq!(send_to(&mut element, &command(0x48, &certified)), [0x6A, 0x88]);
    let signature = ok(&mut element, 0x4A, &[7; 32]).try_into().unwrap();
    let message = sekisho_keys::sha256(&[b"SecApp sign", &[7; 32]]);
    verifying.verify(&message, &signature).unwrap();
    let mut live = send_to(&mut element, &[0x80, 0x46, 0x01, 0x00, 0x00]);
    live.truncate(65);
    assert_eq!(live, public);
}

#[test]
fn wear_of_ten_thousand_polls() {
    let mut element = element_on(RamFlash::strict(PAGE_SIZE, 16), false, Vec::new());
    let mut server = Server::new(false);
    let before = element.flash().erasures().to_vec();
    for _ in 0..10_000 {
        let datagram = poll(&mut element);
        let answer = server.answer(&datagram, Message::NOTHING).unwrap();
        ok(&mut element, 0x22, &answer);
    }
    let after = element.flash().erasures();
    let most = after
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .max();
    println!("the page that was erased most: {most:?} times");
    assert!(most.unwrap() < 100);
}

proptest! {
    #[test]
    fn any_bytes_get_a_status_word_and_change_nothing(
        commands in prop::collection::vec((any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..100)), 1..40)
    ) {
        let mut element = element(false, Vec::new());
        let before = ok(&mut element, 0x28, &[]);
        for (ins, p1, data) in commands {
            // Of the commands that change RAM by right, POLL is left out: the rest must leave the status as it was.
            if ins == 0x20 {
                continue;
            }
            let lc = u8::try_from(data.len()).unwrap();
            let capdu = [&[0x80, ins, p1, 0, lc][..], &data].concat();
            prop_assert!(send_to(&mut element, &capdu).len() >= 2);
        }
        select(&mut element);
        prop_assert_eq!(ok(&mut element, 0x28, &[]), before);
    }
}

/// On a flash that is full but for what is kept in reserve every genuine answer is taken: its record comes in the place of one that is as long.
#[test]
fn a_full_flash_refuses_no_genuine_answer() {
    const SMALL: usize = 1024;
    let filled = |pages: usize, len: usize| {
        let profile = Profile {
            store_bytes: pages * SMALL,
            slot_bytes: SMALL,
            ..Profile::default()
        };
        let flash = RamFlash::new(SMALL, pages + 2);
        element_with(flash, &profile, false, Vec::new(), &[(0x7000, &vec![0xEE; len])])
    };
    // The smallest store that it fits into, and the longest data object beside it.
    let pages = (4..100).find(|pages| filled(*pages, 0).is_some()).unwrap();
    let len = (0..460)
        .step_by(4)
        .take_while(|len| filled(pages, *len).is_some())
        .last();
    let mut element = filled(pages, len.unwrap()).unwrap();
    let mut server = Server::new(false);
    for order in 42..60 {
        let message = Message {
            order,
            action: Action::OpenHttps(0),
        };
        let answer = server.answer(&poll(&mut element), message).unwrap();
        ok(&mut element, 0x22, &answer);
    }
}
