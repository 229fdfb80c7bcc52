//! The dispatcher between applications: commands that one forwards to another, and answers that come piece by piece (docs/decisions/0011), with
//! native stand-ins on both sides.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

mod stand_ins;

use stand_ins::*;

use crate::common;

use std::collections::BTreeMap;

use common::ByValue as _;
use common::host::Host;
use common::{On, SeededRng, initial_keys, key, personalisation, sw};
use sekisho_apdu::{Aid, StatusWord};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    ContainerId, FactoryApplication, Module, OwnRecord, Personalisation, Profile, SecureElement,
};
use sekisho_scp::{MacMode, SecurityLevel};

type Card = SecureElement<On<Set>>;

const PAGE: usize = 1024;

fn profile() -> Profile {
    Profile {
        store_bytes: 8 * PAGE,
        slot_bytes: 2 * PAGE,
        ..Profile::default()
    }
}

fn application<'a>(
    aid: &[u8],
    load_file: u8,
    module: Module,
    records: &'a [OwnRecord<'a>],
) -> FactoryApplication<'a> {
    FactoryApplication {
        aid: Aid::try_from(aid).unwrap(),
        load_file: Aid::try_from(&[b"\xF0TEST", &[load_file][..]].concat()[..]).unwrap(),
        module,
        records,
    }
}

/// The outer one is registry index 5, the inner one 7; record 0 of both is "before".
fn card() -> Card {
    let records: [OwnRecord<'_>; 1] = [(0, 0, b"before")];
    let applications = [
        application(OUTER, 0x81, OUTER_MODULE, &records),
        application(INNER, 0x82, INNER_MODULE, &records),
    ];
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let personalisation = Personalisation {
        applications: &applications,
        life_cycle: sekisho_apdu::gp::CardLifeCycle::Secured,
        ..personalisation(0xFF, &keys, &k_aut)
    };
    let mut card = Card::made(
        RamFlash::strict(PAGE, 12),
        SeededRng(1),
        &profile(),
        &personalisation,
    )
    .unwrap();
    select(&mut card, 0, OUTER);
    card
}

fn send(card: &mut Card, capdu: &[u8]) -> Vec<u8> {
    crate::common::send_on(card, CONTACT, capdu)
}

fn select(card: &mut Card, channel: u8, aid: &[u8]) -> Vec<u8> {
    let answer = send(card, &[&[channel, 0xA4, 0x04, 0x00, 0x06], aid].concat());
    assert_eq!(sw(&answer), 0x9000);
    answer
}

fn put(card: &mut Card, inner: u8, outer: u8, value: &[u8]) -> Vec<u8> {
    let len = u8::try_from(value.len()).unwrap();
    send(card, &[&[0x80, PUT, inner, outer, len], value, &[0]].concat())
}

/// The records of both.
fn records(card: &mut Card) -> [Vec<u8>; 2] {
    [OUTER, INNER].map(|aid| {
        select(card, 0, aid);
        let mut answer = send(card, &[0x80, GET, 0, 0, 0]);
        assert_eq!(sw(&answer), 0x9000);
        answer.truncate(answer.len() - 2);
        answer
    })
}

const BEFORE: &[u8] = b"before";

/// What the inner one does, what the outer one does, the answer, and both records afterwards.
type Case<'a> = (u8, u8, &'a [u8], [Vec<u8>; 2]);

/// Every way in which the two can end, with what is on the line and in both records afterwards.
#[test]
fn what_both_write_is_written_together_or_not_at_all() {
    let both = |value: &[u8]| [value.to_vec(), value.to_vec()];
    let none = both(BEFORE);
    let cases: [Case<'_>; 14] = [
        (inner::PUTS, outer::ENDS, b"\xA5\x90\x00\x90\x00", both(b"after")),
        (inner::WARNS, outer::ENDS, b"\x63\x10\x90\x00", both(b"after")),
        (
            inner::ASKS_FOR_SERVICES,
            outer::ENDS,
            b"\xA5\x90\x00\x90\x00",
            both(b"after"),
        ),
        // The inner one fails: what it wrote is gone, and the outer one's is its own affair.
        (
            inner::PUTS_AND_FAILS,
            outer::ENDS,
            b"\x6A\x88\x90\x00",
            [b"after".to_vec(), BEFORE.to_vec()],
        ),
        (inner::PUTS_AND_FAILS, outer::FAILS, b"\x6A\x80", none.clone()),
        // The outer one fails after the inner one has succeeded.
        (inner::PUTS, outer::FAILS, b"\x6A\x80", none.clone()),
        // One level deep: the inner one's call is refused, and so its command.
        (
            inner::CALLS,
            outer::ENDS,
            b"\x69\x85\x90\x00",
            [b"after".to_vec(), BEFORE.to_vec()],
        ),
        (
            inner::ANSWERS_IN_PIECES,
            outer::ENDS,
            b"\x6A\x84\x90\x00",
            [b"after".to_vec(), BEFORE.to_vec()],
        ),
        // Nobody is there; and nobody calls himself.
        (inner::PUTS, outer::CALLS_NOBODY, b"\x6A\x88", none.clone()),
        (inner::PUTS, outer::CALLS_ITSELF, b"\x69\x85", none.clone()),
        // What has counted has counted, and nothing else is written with it.
        (
            inner::COUNTS_AND_FAILS,
            outer::ENDS,
            b"\x69\x83\x90\x00",
            [b"after".to_vec(), b"aftercounted".to_vec()],
        ),
        (
            inner::COUNTS_AND_FAILS,
            outer::FAILS,
            b"\x6A\x80",
            [BEFORE.to_vec(), b"aftercounted".to_vec()],
        ),
        (
            inner::PUTS,
            outer::COUNTS_AND_FAILS,
            b"\x6A\x80",
            [b"beforecounted".to_vec(), BEFORE.to_vec()],
        ),
        // As often as it may, and no more.
        (inner::PUTS, outer::CALLS_AGAIN, b"\x69\x85", none.clone()),
    ];
    for (n, (p1, p2, expected, written)) in cases.into_iter().enumerate() {
        let mut card = card();
        assert_eq!(put(&mut card, p1, p2, b"after"), expected, "case {n}");
        assert_eq!(records(&mut card), written, "case {n}");
        let mut card = Card::booted(card.into_flash(), SeededRng(2), &profile()).unwrap();
        assert_eq!(records(&mut card), written, "case {n}, after a boot");
    }
}

#[test]
fn a_command_or_an_answer_that_is_too_long_is_refused() {
    let mut card = card();
    assert_eq!(send(&mut card, &[0x80, TOO_LONG, 0, 0, 0]), [0x6A, 0x84]);
    assert_eq!(
        send(&mut card, &[0x80, TOO_LONG, 1, 0, 0]),
        [0x6A, 0x84, 0x90, 0x00]
    );
    assert_eq!(records(&mut card), [BEFORE, BEFORE]);
}

#[test]
fn who_is_locked_is_called_no_more() {
    let mut card = card();
    send(&mut card, &[0x00, 0xA4, 0x04, 0x00, 0x00]);
    let mut host = Host::open(
        &mut card,
        0xFF,
        &initial_keys(),
        SecurityLevel::C_DECRYPTION_C_MAC,
    );
    let lock = [&[0x80, 0xF0, 0x40, 0x87, 0x06][..], INNER].concat();
    assert_eq!(sw(&host.send(&mut card, &lock)), 0x9000);
    select(&mut card, 0, OUTER);
    assert_eq!(put(&mut card, inner::PUTS, outer::ENDS, b"after"), [0x69, 0x85]);
    let answer = send(&mut card, &[0x80, GET, 0, 0, 0]);
    assert_eq!(answer, [BEFORE, &[0x90, 0x00]].concat());
}

/// An answer cannot wait where one waits that has proved a key: then it cannot come in pieces either.
#[test]
fn where_nothing_can_wait_no_answer_comes_in_pieces() {
    let mut card = card();
    assert_eq!(send(&mut card, &[0x00, 0x70, 0, 0, 1]), [1, 0x90, 0x00]);
    send(&mut card, &[0x01, 0xA4, 0x04, 0x00, 0x00]);
    let level = SecurityLevel::C_MAC;
    let mut host = Host::open_on(&mut card, CONTACT, 1, 0xFF, &initial_keys(), level, MacMode::S8).unwrap();
    let get_data = host.wrap(&[0x81, 0xCA, 0x00, 0xE0, 0x02]);
    assert_eq!(send(&mut card, &get_data)[2], 0x61);
    assert_eq!(send(&mut card, &[0x80, LONG, 3, 5, 0]), [0x6A, 0x84]);
    assert_eq!(sw(&get_response(&mut card, 1, 0)), 0x9000);
    // Nothing waits any more.
    assert_eq!(sw(&send(&mut card, &[0x80, LONG, 3, 5, 0])), 0x6100);
}

/// What the inner one keeps of the outer one's session ends with that session.
#[test]
fn a_session_with_another_application_ends_with_the_callers() {
    let mut card = card();
    let kept = |card: &mut Card, value| put(card, inner::FINDS_WHAT_IT_KEPT, outer::ENDS, value);
    assert_eq!(kept(&mut card, b"1"), [0, 0, 0x90, 0x00, 0x90, 0x00]);
    assert_eq!(kept(&mut card, b"2"), [1, 0, 0x90, 0x00, 0x90, 0x00]);
    select(&mut card, 0, OUTER);
    assert_eq!(kept(&mut card, b"3"), [2, 1, 0x90, 0x00, 0x90, 0x00]);
    card.reset(CONTACT);
    select(&mut card, 0, OUTER);
    assert_eq!(kept(&mut card, b"4"), [3, 2, 0x90, 0x00, 0x90, 0x00]);
    // A selection without a call is nothing to it.
    select(&mut card, 0, OUTER);
    select(&mut card, 0, OUTER);
    assert_eq!(kept(&mut card, b"5"), [4, 3, 0x90, 0x00, 0x90, 0x00]);
}

/// Power is cut at every flash operation of a command in which both write: both have, or neither.
#[test]
fn power_cut_at_every_operation_of_a_forwarded_command() {
    let mut seen = BTreeMap::<_, usize>::new();
    for seed in 0..8 {
        for cut in 0.. {
            let mut flash = card().into_flash();
            flash.cut_after(cut, seed);
            let mut card = match Card::booted(flash, SeededRng(2), &profile()) {
                Ok(card) => card,
                Err(failure) => panic!("{failure:?}"),
            };
            select(&mut card, 0, OUTER);
            let answer = sw(&put(&mut card, inner::PUTS, outer::ENDS, b"after"));
            let was_cut = card.flash().is_off();
            let mut flash = card.into_flash();
            flash.power_on();
            let mut card = Card::booted(flash, SeededRng(3), &profile()).unwrap();
            let [outer, inner] = records(&mut card);
            assert_eq!(outer, inner, "operation {cut}");
            *seen.entry((answer, outer)).or_default() += 1;
            if !was_cut {
                break;
            }
        }
    }
    println!("{seen:?}");
    let before = seen[&(0x6581, BEFORE.to_vec())];
    let after = seen[&(0x6581, b"after".to_vec())];
    assert!(before > 8 && after > 8);
    assert_eq!(seen.get(&(0x9000, b"after".to_vec())), Some(&8));
    assert_eq!(seen.len(), 3);
}

/// GET RESPONSE on a channel.
fn get_response(card: &mut Card, channel: u8, le: u8) -> Vec<u8> {
    send(card, &[channel, 0xC0, 0, 0, le])
}

#[test]
fn a_long_answer_is_made_while_it_is_fetched() {
    let mut card = card();
    // 40 pieces of 200 bytes: eight times what the SE keeps of an answer.
    let mut answer = send(&mut card, &[0x80, LONG, 40, 200, 0]);
    let mut data = Vec::new();
    while sw(&answer) == 0x6100 {
        data.extend_from_slice(&answer[..answer.len() - 2]);
        answer = get_response(&mut card, 0, 0);
    }
    data.extend_from_slice(&answer[..answer.len() - 2]);
    assert_eq!(sw(&answer), 0x6310);
    let expected: Vec<u8> = (1..=40).rev().flat_map(|piece| [piece; 200]).collect();
    assert_eq!(data, expected);
    // Nothing waits any more, and what was put while pieces were made is not written.
    assert_eq!(get_response(&mut card, 0, 0), [0x6D, 0x00]);
    let flash = card.into_flash();
    let mut card = Card::booted(flash, SeededRng(2), &profile()).unwrap();
    assert_eq!(records(&mut card), [BEFORE, BEFORE]);
}

#[test]
fn a_piece_comes_as_le_says_and_nothing_of_it_is_lost() {
    let mut card = card();
    assert_eq!(send(&mut card, &[0x80, LONG, 2, 5, 3]), [2, 2, 2, 0x61, 0x02]);
    assert_eq!(get_response(&mut card, 0, 1), [2, 0x61, 0x01]);
    // Refused, it leaves what waits.
    assert_eq!(send(&mut card, &[0x00, 0xC0, 1, 0, 0]), [0x6A, 0x86]);
    assert_eq!(get_response(&mut card, 1, 0), [0x68, 0x81]);
    assert_eq!(get_response(&mut card, 0, 1), [2, 0x61, 0x00]);
    assert_eq!(send(&mut card, &[0x00, 0xC0, 1, 0, 0]), [0x6A, 0x86]);
    assert_eq!(get_response(&mut card, 0, 4), [1, 1, 1, 1, 0x61, 0x01]);
    assert_eq!(get_response(&mut card, 0, 4), [1, 0x63, 0x10]);
    assert_eq!(get_response(&mut card, 0, 4), [0x6D, 0x00]);
}

#[test]
fn whatever_else_comes_ends_a_long_answer() {
    let others: [&[u8]; 3] = [&[0x80, GET, 0, 0, 0], &[0x00, 0x70, 0, 0, 1], &[0x80, 0x99, 0, 0]];
    for other in others {
        let mut card = card();
        assert_eq!(sw(&send(&mut card, &[0x80, LONG, 3, 5, 0])), 0x6100);
        send(&mut card, other);
        assert_eq!(get_response(&mut card, 0, 0), [0x6D, 0x00], "{other:02X?}");
    }
    let mut card = card();
    assert_eq!(sw(&send(&mut card, &[0x80, LONG, 3, 5, 0])), 0x6100);
    card.reset(CONTACT);
    assert_eq!(get_response(&mut card, 0, 0), [0x6D, 0x00]);
}

/// Protection covers an answer as a whole.
#[test]
fn what_is_protected_does_not_come_in_pieces() {
    let mut card = card();
    send(&mut card, &[0x00, 0xA4, 0x04, 0x00, 0x00]);
    assert_eq!(send(&mut card, &[0x80, LONG, 0, 0, 0]), [0, 0x61, 0x00]);
    let mut host = Host::open(&mut card, 0xFF, &initial_keys(), SecurityLevel::C_MAC);
    assert_eq!(host.send(&mut card, &[0x80, LONG, 0, 0, 0]), [0x6A, 0x84]);
    assert_eq!(get_response(&mut card, 0, 0), [0x6D, 0x00]);
}

#[test]
fn an_application_may_fail_in_the_middle() {
    let mut card = card();
    // EF, then EE, which is refused.
    assert_eq!(
        send(&mut card, &[0x80, LONG, 0xEF, 2, 0]),
        [0xEF, 0xEF, 0x61, 0x00]
    );
    assert_eq!(get_response(&mut card, 0, 0), [0x6A, 0x80]);
    assert_eq!(get_response(&mut card, 0, 0), [0x6D, 0x00]);
}

/// An application is asked when it comes and when it goes, and may refuse both.
#[test]
fn an_application_has_its_say_when_it_comes_and_goes() {
    let refused = Err(StatusWord::CONDITIONS_NOT_SATISFIED);
    let aid = Aid::try_from(INNER).unwrap();
    let mut card = card();
    assert_eq!(
        put(&mut card, inner::PUTS, outer::ENDS, KEPT),
        b"\xA5\x90\x00\x90\x00"
    );
    assert_eq!(card.delete(ContainerId::ESE, &aid), refused);
    assert_eq!(records(&mut card), [KEPT, KEPT]);
    select(&mut card, 0, OUTER);
    put(&mut card, inner::PUTS, outer::ENDS, b"after");
    assert_eq!(card.delete(ContainerId::ESE, &aid), Ok(()));
    select(&mut card, 0, OUTER);
    assert_eq!(put(&mut card, inner::PUTS, outer::ENDS, b"again"), [0x6A, 0x88]);
    let with = |value: &'static [u8]| [(0_u16, 0_u8, value)];
    let unwanted = with(UNWANTED);
    assert_eq!(
        card.install(
            ContainerId::ESE,
            &application(INNER, 0x83, INNER_MODULE, &unwanted)
        ),
        refused
    );
    let image = card.flash().image();
    for gone in [UNWANTED, b" installed"] {
        assert!(!image.windows(gone.len()).any(|bytes| bytes == gone));
    }
    let wanted = with(b"wanted");
    assert_eq!(
        card.install(ContainerId::ESE, &application(INNER, 0x83, INNER_MODULE, &wanted)),
        Ok(())
    );
    assert_eq!(records(&mut card), [&b"after"[..], b"wanted installed"]);
    select(&mut card, 0, OUTER);
    let found = put(&mut card, inner::FINDS_WHAT_IT_KEPT, outer::ENDS, b"1");
    assert_eq!(found[0], 0);
}
