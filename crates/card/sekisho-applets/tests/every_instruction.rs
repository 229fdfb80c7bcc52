//! Every instruction on every class, in every life cycle state of card, security domain and application (docs/spec/card.md, 9): what its tables say, and nothing else.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support
#![allow(clippy::print_stdout, reason = "says how much it has tried")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sekisho_apdu::Cla;

use crate::common::host::Host;
use crate::common::sw;
use crate::common::tables::Page;
use crate::content_power::ISD;
use crate::notes::*;

const CARD: Page = Page::new(include_str!("../../../../docs/spec/card.md"));

/// States of the first table, and of the second: behind a C-MAC.
const CLEAR: [&str; 8] = [
    "root",
    "CARD_LOCKED",
    "TERMINATED",
    "root of 2",
    "domain",
    "domain locked",
    "application",
    "application locked",
];
const PROTECTED: [&str; 5] = ["root", "CARD_LOCKED", "TERMINATED", "root of 2", "domain"];

/// An SE in a state, where the interface leads to it, and the secure channel there.
fn enter(state: &str, made: &sekisho_nvm::ram::RamFlash, protected: bool) -> (Card, Option<Host>) {
    let mut card = boot(made.clone());
    let interface = if state == "root of 2" { SPI } else { CONTACT };
    let aid = match state {
        "domain" | "domain locked" => SD,
        "application" | "application locked" => FIRST,
        _ => ISD,
    };
    assert_eq!(select_on(&mut card, (interface, 0), aid), 0x9000);
    let lock = match state {
        "domain locked" => lock(SD),
        "application locked" => lock(FIRST),
        "CARD_LOCKED" => bytes("80F0807F"),
        "TERMINATED" => bytes("80F080FF"),
        "INITIALIZED" => bytes("80F08007"),
        "SECURED" => bytes("80F0800F"),
        _ => vec![],
    };
    if !lock.is_empty() {
        select_on(&mut card, (GATE, 0), ISD);
        let mut host = try_open(&mut card, (GATE, 0), &keys_of(1)).unwrap();
        // The life cycle goes step by step.
        for step in ["80F08007", "80F0800F"].map(bytes) {
            if lock[2] == 0x80 && step[3] < lock[3] {
                ok(&mut host, &mut card, &step);
            }
        }
        if !(protected && state == "TERMINATED") {
            ok(&mut host, &mut card, &lock);
        }
    }
    let keys = keys_of(if state == "root of 2" { 2 } else { 1 });
    let mut host = protected.then(|| try_open(&mut card, (interface, 0), &keys).unwrap());
    if let Some(host) = host.as_mut().filter(|_| state == "TERMINATED") {
        // Who has terminated it keeps his channel, and nobody else gets one.
        ok(host, &mut card, &lock);
    }
    (card, host)
}

/// What is answered to each instruction of a class, P1 and P2 00 and no data.
fn walk(state: &str, made: &sekisho_nvm::ram::RamFlash, cla: u8, protected: bool) -> Vec<u16> {
    let (mut card, mut host) = enter(state, made, protected);
    let interface = if state == "root of 2" { SPI } else { CONTACT };
    let answer = |ins: u8| {
        let command = [cla, ins, 0, 0];
        let word = match &mut host {
            Some(host) if ins != 0xC0 => sw(&host.send(&mut card, &command)),
            _ => sw(&said(&mut card, interface, &command)),
        };
        if protected && word == 0x6882 {
            // Refused before its MAC has been looked at: host and card count apart.
            (card, host) = enter(state, made, protected);
        }
        word
    };
    (0..=0xFF).map(answer).collect()
}

/// A table of the page: classes, instructions ("all others": none), words by state.
struct Rows(Vec<(Vec<u8>, Vec<u8>, Vec<String>)>);

fn numbers(cell: &str) -> Vec<u8> {
    let number = |hex: &str| u8::from_str_radix(hex, 16).unwrap();
    cell.trim_matches('`')
        .split_whitespace()
        .flat_map(|part| match part.split_once("..") {
            Some((first, last)) => (number(first)..=number(last)).collect(),
            None => vec![number(part)],
        })
        .collect()
}

/// Classes of a logical channel that is not open.
fn closed() -> Vec<u8> {
    let is_closed = |cla: &u8| Cla(*cla).is_supported() && Cla(*cla).logical_channel() != 0;
    (0..=0xFF).filter(is_closed).collect()
}

impl Rows {
    fn of(head: &str, states: &[&str]) -> Self {
        let tables = CARD.tables();
        let table = tables.iter().find(|table| table.head[0] == head);
        let table = table.unwrap_or_else(|| panic!("the page has no table {head:?}"));
        assert_eq!(table.head[2..], *states);
        let rows = table.rows.iter().map(|(_, row)| {
            let classes = match &*row[0] {
                "channel not open" => closed(),
                cell => numbers(cell),
            };
            let instructions = match &*row[1] {
                "all others" | "all" => vec![],
                cell => numbers(cell),
            };
            (classes, instructions, row[2..].to_vec())
        });
        Self(rows.collect())
    }

    fn word(&self, cla: u8, ins: u8, state: usize) -> &str {
        let of_class = || self.0.iter().filter(|(classes, ..)| classes.contains(&cla));
        let named = of_class().find(|(_, instructions, _)| instructions.contains(&ins));
        let row = named.or_else(|| of_class().find(|(_, instructions, _)| instructions.is_empty()));
        &row.unwrap_or_else(|| panic!("the page has no class {cla:02X}")).2[state]
    }
}

fn check(head: &str, states: &[&str], classes: &[u8], protected: bool) {
    let rows = Rows::of(head, states);
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install_domain(SD));
    let made = card.into_flash();
    let (mut wrong, mut count) = (String::new(), 0);
    let mut words: BTreeMap<u16, usize> = BTreeMap::new();
    // What holds in OP_READY holds in the states behind it.
    let all = ["INITIALIZED", "SECURED"].map(|state| (0, state));
    for (at, state) in all.into_iter().chain(states.iter().copied().enumerate()) {
        for cla in classes {
            for (ins, word) in (0..=0xFF).zip(walk(state, &made, *cla, protected)) {
                *words.entry(word).or_insert(0) += 1;
                count += 1;
                let expected = rows.word(*cla, ins, at);
                if format!("{word:04X}") != expected && expected != "its own" {
                    let _ = writeln!(
                        wrong,
                        "{head} {state}: {cla:02X} {ins:02X} is {word:04X}, not {expected}"
                    );
                }
            }
        }
    }
    println!("{head}: {count} commands, {words:04X?}");
    assert!(!words.contains_key(&0x6F00));
    assert!(wrong.is_empty(), "the page and the card differ:\n{wrong}");
}

/// All classes in the nightly run; else one of each coding, and each channel's once.
fn classes() -> Vec<u8> {
    if std::env::var_os("SEKISHO_TEST_EVERY_CLASS").is_some() {
        return (0..=0xFF).collect();
    }
    let open = (0..=0xFF_u8).filter(|cla| Cla(*cla).is_supported() && Cla(*cla).logical_channel() == 0);
    let others = [
        0x01, 0x0F, 0x20, 0x3F, 0x40, 0x7F, 0x93, 0xA4, 0xBF, 0xC0, 0xEF, 0xFE, 0xFF,
    ];
    open.chain(others).collect()
}

#[test]
fn every_instruction_on_every_class_in_every_state() {
    check("class", &CLEAR, &classes(), false);
}

#[test]
fn every_instruction_behind_a_c_mac_in_every_state() {
    check("class, C-MAC", &PROTECTED, &[0x00, 0x80], true);
}
