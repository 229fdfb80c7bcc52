//! Modules that send commands to other applications and answer in pieces (`docs/spec/applications.md`): one commit for both, one level deep, and nothing of it for a module that means harm.
#![cfg(feature = "os-part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)] // test support

use crate::common;
use crate::loadable;

use std::collections::BTreeMap;

use common::ByValue as _;
use common::{SeededRng, sw};
use loadable::{
    APPLICATION, Card, ESE, FILE, FIRST, METER, OTHER, SECOND, Transmit as _, aid, application, ask, boot,
    card, load, profile, second, select,
};
use sekisho_os::{ContainerId, FactoryApplication, Interface, LoadFile};

/// The application that forwards.
const OUTER: &[u8] = b"\xF0LOADED\x03";
const OUTER_FILE: &[u8] = b"\xF0LOADED\x30";

/// Commands of the module below. FORWARD: record 0 is P1, and the data goes to the other application as a command; what comes then depends on P1.
const FORWARD: u8 = 0x10;
const TELL: u8 = 0x20;
const CALLER: u8 = 0x30;
const LONG: u8 = 0x40;

/// P1 of FORWARD.
const PASS: u8 = 0;
const REFUSE: u8 = 1;
const TRAP: u8 = 2;
const AGAIN: u8 = 3;
const WRITE_MORE: u8 = 4;
const SAY: u8 = 5;
const FORGET: u8 = 6;

/// Bytes of the long answer, in pieces of 900: byte n is the number of its piece.
const PIECES: u8 = 4;

const IMPORTS: &str = r#"
            (import "sekisho" "get" (func $get (param i32 i32 i32) (result i32)))
            (import "sekisho" "put" (func $put (param i32 i32 i32) (result i32)))
            (import "sekisho" "transient_get" (func $tget (param i32 i32 i32) (result i32)))
            (import "sekisho" "transient_put" (func $tput (param i32 i32 i32) (result i32)))
            (import "sekisho" "forward" (func $forward (param i32 i32 i32 i32) (result i32)))
            (import "sekisho" "more" (func $more (result i32)))
            (import "sekisho" "caller" (func $caller (param i32 i32) (result i32)))"#;

/// A module that sends commands to `to`.
fn outer(to: &[u8]) -> Vec<u8> {
    let to_len = to.len();
    let to: String = to.iter().map(|byte| format!("\\{byte:02x}")).collect();
    wat::parse_str(format!(
        r#"(module
            {IMPORTS}
            (memory (export "memory") 1)
            (data (i32.const 2000) "{to}")
            (data (i32.const 2100) "\80\20\00\00\00")
            (func (export "abi") (result i32) i32.const 3)
            (func (export "transient") (result i32) i32.const 2)
            (func (export "buffer") (result i32) i32.const 0)
            (func $sw (param i32) (result i32) (i32.store16 (i32.const 0) (local.get 0)) i32.const 2)
            (func $fill (param $n i32) (local $i i32)
                (loop $l (i32.store8 (local.get $i) (local.get $n))
                    (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 900)))))
            (func $piece (param $n i32) (result i32)
                (i32.store8 (i32.const 3000) (local.get $n))
                (drop (call $tput (i32.const 1) (i32.const 3000) (i32.const 1)))
                (call $fill (local.get $n))
                (if (i32.lt_u (local.get $n) (i32.const {last})) (then
                    (if (call $more) (then (return (call $sw (i32.const 0x846A)))))))
                (i32.store16 (i32.const 900) (i32.const 0x0090))
                (i32.const 902))
            (func (export "process") (param i32) (result i32) (local $ins i32) (local $n i32)
                (local.set $ins (i32.load8_u (i32.const 1)))
                (if (i32.eq (local.get $ins) (i32.const {TELL})) (then
                    (i32.store16 (i32.const 0) (i32.const 0))
                    (drop (call $get (i32.const 0) (i32.const 0) (i32.const 1)))
                    (drop (call $get (i32.const 1) (i32.const 1) (i32.const 1)))
                    (i32.store16 (i32.const 2) (i32.const 0x0090))
                    (return (i32.const 4))))
                (if (i32.eq (local.get $ins) (i32.const {CALLER})) (then
                    (local.set $n (call $caller (i32.const 0) (i32.const 16)))
                    (i32.store16 (local.get $n) (i32.const 0x0090))
                    (return (i32.add (local.get $n) (i32.const 2)))))
                (if (i32.eq (local.get $ins) (i32.const {LONG})) (then (return (call $piece (i32.const 0)))))
                (drop (call $put (i32.const 0) (i32.const 2) (i32.const 1)))
                (drop (call $tput (i32.const 0) (i32.const 2) (i32.const 1)))
                (if (call $forward (i32.const 2000) (i32.const {to_len}) (i32.const 5) (i32.load8_u (i32.const 4)))
                    (then (return (call $sw (i32.const 0x816A)))))
                (if (i32.eq (i32.load8_u (i32.const 2)) (i32.const {FORGET}))
                    (then (return (call $sw (i32.const 0x0090)))))
                (i32.const 0))
            (func (export "resume") (param $why i32) (param $len i32) (result i32) (local $p1 i32)
                (if (local.get $why) (then
                    (drop (call $put (i32.const 1) (i32.const 2000) (i32.const 1)))
                    (drop (call $tget (i32.const 1) (i32.const 3000) (i32.const 1)))
                    (return (call $piece (i32.add (i32.load8_u (i32.const 3000)) (i32.const 1))))))
                (drop (call $tget (i32.const 0) (i32.const 3000) (i32.const 1)))
                (local.set $p1 (i32.load8_u (i32.const 3000)))
                (if (i32.eq (local.get $p1) (i32.const {REFUSE})) (then (return (call $sw (i32.const 0x806A)))))
                (if (i32.eq (local.get $p1) (i32.const {TRAP})) (then unreachable))
                (if (i32.eq (local.get $p1) (i32.const {AGAIN})) (then
                    (if (call $forward (i32.const 2000) (i32.const {to_len}) (i32.const 2100) (i32.const 5))
                        (then (return (call $sw (i32.const 0x826A)))))
                    (return (i32.const 0))))
                (if (i32.eq (local.get $p1) (i32.const {WRITE_MORE})) (then
                    (drop (call $put (i32.const 1) (i32.const 3000) (i32.const 1)))))
                (if (i32.eq (local.get $p1) (i32.const {SAY})) (then
                    (i32.store16 (local.get $len) (i32.const 0x0090))
                    (return (i32.add (local.get $len) (i32.const 2)))))
                (local.get $len)))"#,
        last = PIECES - 1
    ))
    .unwrap()
}

/// Loads the module above into a container, as an application that sends commands to `to`.
fn load_outer(card: &mut Card, container: ContainerId, to: &[u8]) {
    let image = outer(to);
    let file = LoadFile {
        aid: aid(OUTER_FILE),
        ..loadable::file(&image)
    };
    card.load_file(container, &file).unwrap();
    let installed = FactoryApplication {
        load_file: aid(OUTER_FILE),
        ..application(OUTER)
    };
    card.install(container, &installed).unwrap();
}

/// A meter, and who sends it commands.
fn pair() -> Card {
    let mut card = card();
    load(&mut card, ESE, METER, &[APPLICATION]);
    load_outer(&mut card, ESE, APPLICATION);
    select(&mut card, FIRST, OUTER);
    card
}

fn forward(card: &mut Card, p1: u8, command: &[u8]) -> Vec<u8> {
    let len = u8::try_from(command.len()).unwrap();
    card.transmit_to(FIRST, &[&[0x80, FORWARD, p1, 0, len], command, &[0]].concat())
}

/// ADD of the meter.
const ADD_5: &[u8] = &[0x80, 0x22, 0, 0, 2, 0, 5, 0];
const READ: u8 = 0x20;

/// Record 0 and record 1 of the outer one, and the meter's register.
type Written = (u8, u8, u32);

fn both(card: &mut Card) -> Written {
    select(card, FIRST, OUTER);
    let own = ask(card, FIRST, TELL, &[]);
    select(card, FIRST, APPLICATION);
    let meter = ask(card, FIRST, READ, &[]);
    select(card, FIRST, OUTER);
    (own[0], own[1], u32::from_be_bytes(meter[..4].try_into().unwrap()))
}

#[test]
fn what_both_write_is_one_transaction_which_the_outermost_decides() {
    let meter_says = |register: u8| [0, 0, 0, register, 0x90, 0x00].to_vec();
    type Case<'a> = (&'a str, u8, &'a [u8], Vec<u8>, Written);
    let cases: [Case<'_>; 9] = [
        ("it passes the answer on", PASS, ADD_5, meter_says(5), (0, 0, 5)),
        (
            "it writes when it goes on",
            WRITE_MORE,
            ADD_5,
            meter_says(5),
            (4, 4, 5),
        ),
        ("it refuses", REFUSE, ADD_5, vec![0x6A, 0x80], (0, 0, 0)),
        ("it traps", TRAP, ADD_5, vec![0x6F, 0x00], (0, 0, 0)),
        ("it asks for ever", AGAIN, ADD_5, vec![0x6A, 0x82], (0, 0, 0)),
        (
            "the meter refuses, and it says so",
            SAY,
            &[0x80, 0x22, 0, 0, 2, 0, 0, 0],
            vec![0x6A, 0x80, 0x90, 0x00],
            (5, 0, 0),
        ),
        (
            "the meter refuses, and so does it",
            PASS,
            &[0x80, 0x77, 0, 0, 0],
            vec![0x6D, 0x00],
            (0, 0, 0),
        ),
        ("no command", PASS, &[0x80, 0x22, 0], vec![0x6A, 0x81], (0, 0, 0)),
        (
            "it thinks better of it",
            FORGET,
            ADD_5,
            vec![0x90, 0x00],
            (6, 0, 0),
        ),
    ];
    for (what, p1, command, answer, after) in cases {
        let mut card = pair();
        assert_eq!(forward(&mut card, p1, command), answer, "{what}");
        assert_eq!(both(&mut card), after, "{what}");
        assert_eq!(both(&mut boot(card)), after, "{what}, after a boot");
    }
}

#[test]
fn who_cannot_be_called_is_a_status_word_and_nothing_is_written() {
    let deep = [0x80, FORWARD, PASS, 0, 5, 0x80, READ, 0, 0, 0, 0];
    for (what, to, command, expected) in [
        ("itself", OUTER, ADD_5, vec![0x69, 0x85]),
        ("nobody", OTHER, ADD_5, vec![0x6A, 0x88]),
        ("a load file", FILE, ADD_5, vec![0x6A, 0x88]),
        // The other one is the same module, which forwards in its turn: it may not.
        ("one that calls another", APPLICATION, &deep, vec![0x6A, 0x81]),
    ] {
        let mut card = card();
        load(&mut card, ESE, &outer(OUTER), &[APPLICATION]);
        load_outer(&mut card, ESE, to);
        select(&mut card, FIRST, OUTER);
        assert_eq!(forward(&mut card, PASS, command), expected, "{what}");
        assert_eq!(ask(&mut card, FIRST, TELL, &[]), [0, 0, 0x90, 0x00], "{what}");
        select(&mut card, FIRST, APPLICATION);
        assert_eq!(ask(&mut card, FIRST, TELL, &[]), [0, 0, 0x90, 0x00], "{what}");
    }
    // The meter of another container is nobody.
    let mut card = card();
    load(&mut card, second(), METER, &[APPLICATION]);
    load_outer(&mut card, ESE, APPLICATION);
    select(&mut card, FIRST, OUTER);
    assert_eq!(forward(&mut card, PASS, ADD_5), [0x6A, 0x88]);
    select(&mut card, SECOND, APPLICATION);
    assert_eq!(ask(&mut card, SECOND, READ, &[]), [0, 0, 0, 0, 0x90, 0x00]);
}

#[test]
fn a_module_knows_who_calls_it() {
    let mut card = card();
    load(&mut card, ESE, &outer(OUTER), &[APPLICATION]);
    load_outer(&mut card, ESE, APPLICATION);
    select(&mut card, FIRST, APPLICATION);
    assert_eq!(ask(&mut card, FIRST, CALLER, &[]), [0x90, 0x00], "an interface");
    select(&mut card, FIRST, OUTER);
    let said = forward(&mut card, PASS, &[0x80, CALLER, 0, 0, 0]);
    assert_eq!(said, [OUTER, &[0x90, 0x00]].concat());
    // Who is called cannot answer in pieces.
    assert_eq!(forward(&mut card, PASS, &[0x80, LONG, 0, 0, 0]), [0x6A, 0x84]);
}

/// The whole of a long answer by GET RESPONSE, as T=0 fetches it.
fn fetch(card: &mut Card, interface: Interface, first: Vec<u8>) -> Vec<u8> {
    let mut all = Vec::new();
    let mut answer = first;
    loop {
        let end = answer.len() - 2;
        all.extend(&answer[..end]);
        match answer[end] {
            0x61 => answer = card.transmit_to(interface, &[0x80, 0xC0, 0, 0, answer[end + 1]]),
            _ => return [all, answer[end..].to_vec()].concat(),
        }
    }
}

#[test]
fn a_long_answer_is_made_piece_by_piece() {
    let mut card = pair();
    let first = ask(&mut card, FIRST, LONG, &[]);
    let all = fetch(&mut card, FIRST, first);
    let whole: Vec<u8> = (0..PIECES).flat_map(|n| [n; 900]).chain([0x90, 0x00]).collect();
    assert_eq!(all.len(), whole.len());
    assert!(all == whole, "another answer");
    assert_eq!(both(&mut card), (0, 0, 0), "a piece writes no records");
    // Another command, and the rest is gone.
    let first = ask(&mut card, FIRST, LONG, &[]);
    assert_eq!(first[first.len() - 2], 0x61);
    ask(&mut card, FIRST, TELL, &[]);
    assert_eq!(
        sw(&card.transmit_to(FIRST, &[0x80, 0xC0, 0, 0, 0])) & 0xF000,
        0x6000
    );
    assert_eq!(both(&mut card), (0, 0, 0));
}

/// Records of both applications, with the power cut at each flash operation of a forwarded command: both or neither.
#[test]
fn power_cut_at_every_operation_of_a_forwarded_command() {
    let before = pair();
    let mut seen = BTreeMap::<_, usize>::new();
    for seed in 0..6 {
        for cut in 0.. {
            let mut flash = before.flash().clone();
            flash.cut_after(cut, 1000 * seed + cut);
            let Ok(mut card) = Card::booted(flash, SeededRng(3), &profile()) else {
                continue;
            };
            let done = select(&mut card, FIRST, OUTER) == 0x9000
                && sw(&forward(&mut card, WRITE_MORE, ADD_5)) == 0x9000;
            let was_cut = card.flash().is_off();
            let mut flash = card.into_flash();
            flash.power_on();
            let mut card = Card::booted(flash, SeededRng(4), &profile()).unwrap();
            *seen.entry((done, both(&mut card))).or_default() += 1;
            if !was_cut {
                break;
            }
        }
    }
    println!("{seen:?}");
    let (nothing, all) = ((0, 0, 0), (4, 4, 5));
    assert_eq!(
        seen.keys().copied().collect::<Vec<_>>(),
        [(false, nothing), (false, all), (true, all)]
    );
}

const TARIFF: &[u8] = include_bytes!("../../../../applets/prebuilt/tariff.wasm");

/// The meter of the page as APPLICATION, the tariff as OTHER.
fn tariff() -> Card {
    with_tariff(METER)
}

/// A module as APPLICATION, the tariff as OTHER.
fn with_tariff(module: &[u8]) -> Card {
    let mut card = card();
    load(&mut card, ESE, module, &[APPLICATION]);
    let file = LoadFile {
        aid: aid(OUTER_FILE),
        ..loadable::file(TARIFF)
    };
    card.load_file(ESE, &file).unwrap();
    let installed = FactoryApplication {
        load_file: aid(OUTER_FILE),
        ..application(OTHER)
    };
    card.install(ESE, &installed).unwrap();
    card
}

#[test]
fn the_exchanges_of_the_page_come_out_as_it_says() {
    let page = include_str!("../../../../docs/spec/applications.md");
    let mut card = tariff();
    let mut answer = String::new();
    let mut exchanges = 0;
    for line in page.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            answer = hex::encode_upper(card.transmit_to(FIRST, &hex::decode(command).unwrap()));
        } else if let Some(expected) = line.strip_prefix("< ") {
            assert_eq!(answer, expected, "exchange {exchanges}");
            exchanges += 1;
        }
    }
    assert_eq!(exchanges, 10);
}

/// What a reader has left of its credit the device is told: in the tariff's own name, with a command that succeeds, and for that command alone. Where nobody but the device could
/// have sent it, and where an application has called the tariff, there is nothing to tell.
#[test]
fn the_tariff_says_what_a_reader_has_paid() {
    const READER: Interface = Interface::Swp;
    let told = |card: &Card| {
        let told = card.announcement();
        told.map(|told| (told.aid().as_bytes().to_vec(), told.parameters().to_vec()))
    };
    let mut card = tariff();
    for (interface, is_told) in [(FIRST, false), (Interface::ApduGate, false), (READER, true)] {
        select(&mut card, interface, OTHER);
        let answer = ask(&mut card, interface, 0x14, &[0, 0, 0, 100]);
        assert_eq!(sw(&answer), 0x9000, "{interface:?}");
        let credit = answer[..4].to_vec();
        assert_eq!(
            told(&card),
            is_told.then(|| (OTHER.to_vec(), credit)),
            "{interface:?}"
        );
    }
    for (ins, data, word) in [
        (0x12, &[0_u8, 3][..], 0x9000),
        (0x14, &[0xFF; 4], 0x6A80),
        (0x14, &[1], 0x6700),
    ] {
        assert_eq!(sw(&ask(&mut card, READER, 0x14, &[0; 4])), 0x9000);
        assert!(told(&card).is_some());
        assert_eq!(sw(&ask(&mut card, READER, ins, data)), word);
        assert_eq!(told(&card), None);
    }
    // Behind the meter's answer it is the reader's word as well.
    assert_eq!(sw(&ask(&mut card, READER, 0x10, APPLICATION)), 0x9000);
    let answer = ask(&mut card, READER, 0x20, &[0, 10]);
    assert_eq!((sw(&answer), &answer[..4]), (0x9000, &[0, 0, 1, 0x0E][..]));
    assert_eq!(told(&card), Some((OTHER.to_vec(), answer[..4].to_vec())));
    assert_eq!(sw(&ask(&mut card, READER, 0x20, &[0, 0])), 0x6A80);
    assert_eq!(told(&card), None);
    // Called by another application it has no word.
    let mut card = with_tariff(&outer(OTHER));
    select(&mut card, READER, APPLICATION);
    let forwarded = [0x80, FORWARD, PASS, 0, 10, 0x80, 0x14, 0, 0, 4, 0, 0, 0, 1, 0];
    let answer = card.transmit_to(READER, &forwarded);
    assert_eq!((sw(&answer), told(&card)), (0x9000, None));
}

/// Bytes that are too many or nowhere are refused, or trap.
#[test]
fn what_the_device_is_told_has_a_bound() {
    for (at, len, answer) in [
        (0_i32, 0_i32, Some(0_i32)),
        (0, 32, Some(0)),
        (65_504, 32, Some(0)),
        (0, 33, Some(-2)),
        (-1, -1, Some(-2)),
        (65_505, 32, None),
        (-1, 1, None),
    ] {
        let wanted = answer.unwrap_or(0);
        let module = wat::parse_str(format!(
            r#"(module
            (import "sekisho" "announce" (func $announce (param i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "abi") (result i32) i32.const 3)
            (func (export "transient") (result i32) i32.const 0)
            (func (export "buffer") (result i32) i32.const 0)
            (func (export "process") (param i32) (result i32)
                (if (i32.ne (call $announce (i32.const {at}) (i32.const {len})) (i32.const {wanted})) (then (loop $l (br $l))))
                (i32.store16 (i32.const 0) (i32.const 0x0090)) (i32.const 2)))"#
        ));
        let mut card = card();
        load(&mut card, ESE, &module.unwrap(), &[APPLICATION]);
        select(&mut card, Interface::Swp, APPLICATION);
        let word = sw(&ask(&mut card, Interface::Swp, 0x10, &[]));
        assert_eq!(word, if answer.is_some() { 0x9000 } else { 0x6F00 }, "{at} {len}");
        let told = card.announcement().map(|told| told.parameters().len());
        assert_eq!(
            told,
            answer
                .and_then(|_| usize::try_from(len).ok())
                .filter(|_| answer == Some(0)),
            "{at} {len}"
        );
    }
}

#[test]
fn the_tariffs_table_comes_in_ten_pieces() {
    let mut card = tariff();
    select(&mut card, FIRST, OTHER);
    assert_eq!(sw(&ask(&mut card, FIRST, 0x12, &[0, 3])), 0x9000);
    let first = ask(&mut card, FIRST, 0x30, &[]);
    let all = fetch(&mut card, FIRST, first);
    let table = (1..=500_u32).flat_map(|units| (3 * units).to_be_bytes());
    assert!(all == table.chain([0x90, 0x00]).collect::<Vec<_>>());
}

/// A module whose `process` is `body`, with `resume` or without.
fn asking(resumes: bool, body: &str) -> Vec<u8> {
    let resume = if resumes {
        r#"(func (export "resume") (param i32 i32) (result i32) (call $ok))"#
    } else {
        ""
    };
    wat::parse_str(format!(
        r#"(module
            (import "sekisho" "forward" (func $forward (param i32 i32 i32 i32) (result i32)))
            (import "sekisho" "more" (func $more (result i32)))
            (import "sekisho" "caller" (func $caller (param i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 2000) "\f0LOADED\01")
            (data (i32.const 2100) "\80\20\00\00\00")
            (func (export "abi") (result i32) i32.const 3)
            (func (export "transient") (result i32) i32.const 0)
            (func (export "buffer") (result i32) i32.const 0)
            (func $ok (result i32) (i32.store16 (i32.const 0) (i32.const 0x0090)) i32.const 2)
            {resume}
            (func (export "process") (param i32) (result i32) {body}))"#
    ))
    .unwrap()
}

#[test]
fn what_the_host_refuses_of_a_call_is_minus_two_and_what_is_outside_traps() {
    let call = |aid: i64, aid_len: i64, at: i64, len: i64| {
        format!("(call $forward (i32.const {aid}) (i32.const {aid_len}) (i32.const {at}) (i32.const {len}))")
    };
    let more = "(call $more)".to_owned();
    let caller = "(call $caller (i32.const 0) (i32.const 0))".to_owned();
    for (resumes, call, answer) in [
        (true, call(2000, 8, 2100, 5), Some(0)),
        (true, call(2000, 4, 2100, 5), Some(-2)),
        (true, call(2000, 17, 2100, 5), Some(-2)),
        (true, call(-1, -1, 2100, 5), Some(-2)),
        (true, call(2000, 8, 2100, 3), Some(-2)),
        (true, call(2000, 8, -1, 262), Some(-2)),
        (true, call(2000, 8, -1, -1), Some(-2)),
        (true, call(65535, 8, 2100, 5), None),
        (true, call(-1, 8, 2100, 5), None),
        (true, call(2000, 8, 65535, 5), None),
        (true, call(2000, 8, -1, 5), None),
        (false, call(2000, 8, 2100, 5), Some(-2)),
        (false, more.clone(), Some(-2)),
        (true, more, Some(0)),
        (true, caller, Some(0)),
    ] {
        let answer_or_0 = answer.unwrap_or_default();
        let body =
            format!("(if (i32.ne {call} (i32.const {answer_or_0})) (then (loop $l (br $l)))) (call $ok)");
        let mut card = card();
        load(&mut card, ESE, &asking(resumes, &body), &[APPLICATION]);
        select(&mut card, FIRST, APPLICATION);
        let expected = if answer.is_some() { 0x9000 } else { 0x6F00 };
        assert_eq!(sw(&ask(&mut card, FIRST, 0x10, &[])), expected, "{call}");
    }
    // An answer of no bytes without a command for another application; and the module that has none to go on with.
    for body in [
        "(i32.const 0)",
        &format!("(drop {}) (i32.const 0)", call(2000, 3, 2100, 5)),
    ] {
        let mut card = card();
        load(&mut card, ESE, &asking(true, body), &[APPLICATION]);
        select(&mut card, FIRST, APPLICATION);
        assert_eq!(ask(&mut card, FIRST, 0x10, &[]), [0x6F, 0x00]);
    }
}
