//! The dispatcher between applications: commands that one forwards to another, and answers that come piece by piece (docs/decisions/0011), with
//! native stand-ins on both sides.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use crate::common;

use std::collections::BTreeMap;

use common::ByValue as _;
use common::host::Host;
use common::script::Line;
use common::{On, SeededRng, initial_keys, key, personalisation, sw};
use sekisho_apdu::{Aid, CApdu, Cla, StatusWord, Writer};
use sekisho_applets::CardManager;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    Application, Applications, CALL_ANSWER_MAX, CALL_COMMAND_MAX, Caller, ContainerId, Context,
    FactoryApplication, Instance, Interface, Module, Next, Outcome, OwnRecord, Personalisation, Place, Pool,
    Profile, Refusal, Resume, SecureElement, State,
};
use sekisho_scp::{MacMode, SecurityLevel};

const CONTACT: Interface = Interface::Iso7816Contact;
const OUTER: &[u8] = b"\xF0TEST\x01";
const INNER: &[u8] = b"\xF0TEST\x02";
const NOBODY: &[u8] = b"\xF0TEST\x03";
const OUTER_MODULE: Module = Module(0x70);
const INNER_MODULE: Module = Module(0x71);

/// PUT of the outer one: P1 is what the inner one does, P2 what the outer one does afterwards; the data is both records' new value.
const PUT: u8 = 0x10;
/// GET of either: its record.
const GET: u8 = 0x12;
/// A long answer of the outer one: P1 pieces of P2 bytes.
const LONG: u8 = 0x14;
/// What the inner one is asked by the outer.
const ASKED: u8 = 0x20;
/// As much of an answer as P1 says, times 100.
const MUCH: u8 = 0x22;
/// A command of the outer one with P1 00 that is too long for the inner one; with P1 01 answers of the inner one that are too long.
const TOO_LONG: u8 = 0x16;

/// What the inner one does, P1 of [`PUT`].
mod inner {
    pub(super) const PUTS: u8 = 0;
    pub(super) const PUTS_AND_FAILS: u8 = 1;
    pub(super) const CALLS: u8 = 2;
    pub(super) const COUNTS_AND_FAILS: u8 = 3;
    pub(super) const WARNS: u8 = 4;
    pub(super) const ASKS_FOR_SERVICES: u8 = 5;
    pub(super) const ANSWERS_IN_PIECES: u8 = 6;
    pub(super) const FINDS_WHAT_IT_KEPT: u8 = 7;
}

/// What the outer one does with the answer, P2 of [`PUT`].
mod outer {
    pub(super) const ENDS: u8 = 0;
    pub(super) const FAILS: u8 = 1;
    pub(super) const CALLS_AGAIN: u8 = 2;
    pub(super) const CALLS_NOBODY: u8 = 3;
    pub(super) const CALLS_ITSELF: u8 = 4;
    pub(super) const COUNTS_AND_FAILS: u8 = 5;
}

#[derive(Debug)]
struct Outer {
    then: u8,
    calls: usize,
    pieces: (u8, u8),
    ended: usize,
}

impl State for Outer {
    const NEW: Self = Self {
        then: 0,
        calls: 0,
        pieces: (0, 0),
        ended: 0,
    };
}

impl Outer {
    fn forward(&mut self, context: &mut Context<'_>, p1: u8, data: &[u8]) -> Result<Next, Refusal> {
        self.calls += 1;
        let to = match self.then {
            outer::CALLS_NOBODY => NOBODY,
            outer::CALLS_ITSELF => OUTER,
            _ => INNER,
        };
        context.forward(
            to,
            &CApdu::new(Cla::GP, ASKED, p1, 0).with_data(data).with_ne(256),
        )
    }

    /// The next piece: its number, as often as it is long.
    fn piece(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Result<Next, Refusal> {
        let (left, len) = self.pieces;
        for _ in 0..len {
            out.u8(left)?;
        }
        context.put(9, 0, &[left])?;
        if left == 0xEE {
            return Err(Refusal(StatusWord::INCORRECT_DATA));
        }
        self.pieces.0 = left - 1;
        Ok(if left == 1 {
            Next::Done(StatusWord(0x6310))
        } else {
            Next::More
        })
    }
}

impl Application for Outer {
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        assert_eq!(context.caller(), Caller::Interface(context.place()));
        // Nothing of a selection is written, and nobody is called in it.
        context.put(0, 0, b"selected")?;
        let call = context.forward(INNER, &CApdu::new(Cla::GP, ASKED, 0, 0));
        assert_eq!(call.unwrap_err(), Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        out.bytes(&[u8::try_from(self.ended).unwrap()])?;
        Ok(StatusWord::NO_ERROR)
    }

    fn deselect(&mut self, _: Place) {
        self.ended += 1;
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        assert_eq!(context.caller(), Caller::Interface(context.place()));
        match capdu.ins {
            PUT => {
                (self.then, self.calls) = (capdu.p2, 0);
                context.put(0, 0, capdu.data)?;
                self.forward(context, capdu.p1, capdu.data)
            }
            GET => get(context, out),
            LONG => {
                self.pieces = (capdu.p1, capdu.p2);
                if !context.may_answer_in_pieces() {
                    out.u8(0)?;
                }
                self.piece(context, out)
            }
            TOO_LONG if capdu.p1 == 0 => {
                self.then = outer::ENDS;
                let data = [0; CALL_COMMAND_MAX - 4];
                context.forward(INNER, &CApdu::new(Cla::GP, ASKED, 0, 0).with_data(&data))
            }
            TOO_LONG => {
                self.then = outer::ENDS;
                context.forward(INNER, &CApdu::new(Cla::GP, MUCH, 0, 0).with_ne(256))
            }
            _ => Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
        }
    }

    fn resume(
        &mut self,
        context: &mut Context<'_>,
        why: Resume<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        let Resume::Answer { data, sw } = why else {
            return self.piece(context, out);
        };
        assert_eq!(context.caller(), Caller::Interface(context.place()));
        out.bytes(data)?;
        out.bytes(&sw.bytes())?;
        match self.then {
            outer::FAILS => Err(Refusal(StatusWord::INCORRECT_DATA)),
            outer::CALLS_AGAIN => self.forward(context, inner::PUTS, AGAIN),
            outer::COUNTS_AND_FAILS => {
                context.put(1, 0, b"counted")?;
                context.commit_now()?;
                Err(Refusal(StatusWord::INCORRECT_DATA))
            }
            _ => Ok(Next::Done(StatusWord::NO_ERROR)),
        }
    }
}

/// Appends record 0, and record 1 if it is there.
fn get(context: &mut Context<'_>, out: &mut Writer<'_>) -> Result<Next, Refusal> {
    for record in [0, 1] {
        let mut bytes = [0; 300];
        if let Some(len) = context.get(record, 0, &mut bytes)? {
            out.bytes(&bytes[..len])?;
        }
    }
    Ok(Next::Done(StatusWord::NO_ERROR))
}

#[derive(Debug)]
struct Inner {
    kept: u8,
    ended: u8,
}

impl State for Inner {
    const NEW: Self = Self { kept: 0, ended: 0 };
}

/// Record 0 with which the inner one refuses to be installed, or to be deleted.
const UNWANTED: &[u8] = b"unwanted value";
const KEPT: &[u8] = b"kept";

impl Application for Inner {
    fn install(&mut self, context: &mut Context<'_>, _: &[u8]) -> Result<(), Refusal> {
        assert_eq!(context.caller(), Caller::Platform);
        assert!(context.security_domain().is_none());
        let mut bytes = [0; 300];
        let len = context.get(0, 0, &mut bytes)?.unwrap_or_default();
        context.put(1, 0, b" installed")?;
        // What it remembers goes with it when it refuses.
        self.kept = 9;
        if &bytes[..len] == UNWANTED {
            return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        self.kept = 0;
        Ok(())
    }

    fn delete(&mut self, context: &mut Context<'_>) -> Result<(), Refusal> {
        assert_eq!(context.caller(), Caller::Platform);
        let mut bytes = [0; 300];
        let len = context.get(0, 0, &mut bytes)?.unwrap_or_default();
        context.put(0, 0, b"never written")?;
        if &bytes[..len] == KEPT {
            return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        Ok(())
    }

    fn select(&mut self, _: &mut Context<'_>, _: &mut Writer<'_>) -> Outcome {
        Ok(StatusWord::NO_ERROR)
    }

    fn deselect(&mut self, _: Place) {
        self.ended += 1;
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        if capdu.ins == GET {
            return get(context, out);
        }
        let Caller::Application { entry } = context.caller() else {
            return Err(Refusal(StatusWord::INS_NOT_SUPPORTED));
        };
        if capdu.ins == MUCH {
            out.bytes(&[0x5A; CALL_ANSWER_MAX])?;
            out.u8(0x5A)?;
            return Ok(Next::Done(StatusWord::NO_ERROR));
        }
        // Where the outer one's record is, this one has another.
        let mut found = [0; 300];
        let before = context.get(0, 0, &mut found)?.map(|len| found[..len].to_vec());
        let called_before = capdu.data == AGAIN;
        assert!(called_before || before.as_deref() != Some(capdu.data));
        context.put(0, 0, capdu.data)?;
        match capdu.p1 {
            inner::PUTS_AND_FAILS => {
                out.bytes(b"never seen")?;
                return Err(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND));
            }
            inner::CALLS => return context.forward(OUTER, capdu),
            inner::COUNTS_AND_FAILS => {
                context.put(1, 0, b"counted")?;
                context.commit_now()?;
                context.put(1, 0, b"never counted")?;
                return Err(Refusal(StatusWord::AUTHENTICATION_METHOD_BLOCKED));
            }
            inner::WARNS => return Ok(Next::Done(StatusWord(0x6310))),
            inner::ASKS_FOR_SERVICES => {
                assert!(context.security_domain().is_none());
                assert!(context.authenticated().is_none());
                assert!(!context.may_answer_in_pieces());
                assert_eq!(
                    context.can_open_messaging(),
                    Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))
                );
            }
            inner::ANSWERS_IN_PIECES => return Ok(Next::More),
            inner::FINDS_WHAT_IT_KEPT => {
                out.bytes(&[self.kept, self.ended])?;
                self.kept += 1;
                return Ok(Next::Done(StatusWord::NO_ERROR));
            }
            _ => {}
        }
        out.u8(entry.number().to_be_bytes()[1])?;
        Ok(Next::Done(StatusWord::NO_ERROR))
    }
}

/// The issuer security domain, which answers [`LONG`] in pieces without end.
struct Domain(CardManager);

impl Application for Domain {
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        self.0.select(context, out)
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        if capdu.ins == LONG {
            out.u8(0)?;
            return Ok(Next::More);
        }
        self.0.process(context, capdu, out)
    }
}

struct Set {
    card_manager: Domain,
    outer: Pool<Outer, 1>,
    inner: Pool<Inner, 1>,
}

impl Applications for Set {
    const NEW: Self = Self {
        card_manager: Domain(CardManager::NEW),
        outer: Pool::NEW,
        inner: Pool::NEW,
    };

    fn get(&mut self, module: Module, instance: Instance) -> Option<&mut dyn Application> {
        match module {
            Module::CARD_MANAGER => Some(&mut self.card_manager),
            OUTER_MODULE => Some(self.outer.get(instance)?),
            INNER_MODULE => Some(self.inner.get(instance)?),
            _ => None,
        }
    }

    fn release(&mut self, module: Module, instance: Instance) {
        match module {
            OUTER_MODULE => self.outer.release(instance),
            INNER_MODULE => self.inner.release(instance),
            _ => {}
        }
    }
}

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
    Line::transmit(card, CONTACT, capdu)
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
/// What the second and later calls of one command put.
const AGAIN: &[u8] = b"again";

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
