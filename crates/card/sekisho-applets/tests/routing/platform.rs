//! What is the platform's, asked from elsewhere: the tables of card.md, 8, and keys.md, 7, walked on the SE of routing.md, 7.

use std::collections::BTreeMap;

use sekisho_os::Protocol;
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::host::Host;
use crate::common::sw;
use crate::common::tables::Page;
use crate::se::{self, AM_SD, Card, Counting, DOMAIN_KVN, ISD_P1};

const PAGES: [(&str, &str, usize); 2] = [
    ("card.md", include_str!("../../../../../docs/spec/card.md"), 10),
    ("keys.md", include_str!("../../../../../docs/spec/keys.md"), 9),
];

/// A column of the tables: a root by its protocol or a security domain, and the life cycle state of the second container.
#[derive(Clone, Copy)]
struct From {
    protocol: Protocol,
    domain: Option<&'static [u8]>,
    life_cycle: u8,
}

fn from(column: &str) -> From {
    let root = |protocol| From {
        protocol,
        domain: None,
        life_cycle: 0x01,
    };
    let domain = |protocol, name| From {
        domain: Some(name),
        ..root(protocol)
    };
    match column {
        "root of 1" => root(Protocol::SpiEse),
        "AM SD" => domain(Protocol::SpiEse, AM_SD),
        "root of 2" => root(Protocol::T0),
        "root of 3" => root(Protocol::Proprietary(0)),
        "ISD-P1" => domain(Protocol::T0, ISD_P1),
        "root of 2, locked" => From {
            life_cycle: 0x7F,
            ..root(Protocol::T0)
        },
        "root of 2, terminated" => From {
            life_cycle: 0xFF,
            ..root(Protocol::T0)
        },
        _ => panic!("who is {column}?"),
    }
}

/// With the asker selected; with its secure channel if it proves its keys.
fn asked(flash: &Counting, who: From, is_proved: bool) -> (Card, Option<Host>) {
    let mut card = se::boot(flash.clone(), &se::profile());
    let (_, _, interface) = *se::PROTOCOLS
        .iter()
        .find(|(_, of, _)| *of == who.protocol)
        .unwrap();
    assert!(card.reset_to(interface, who.protocol));
    let number = se::container(&mut card, who.protocol).unwrap();
    let (kvn, keys) = match who.domain {
        Some(name) => (DOMAIN_KVN, se::keys_of_domain(name)),
        None => (0x30, se::keys_of(number)),
    };
    let select = |card: &mut Card| {
        card.reset(interface);
        let name = who.domain.unwrap_or_default();
        assert_eq!(se::select(card, who.protocol, name), 0x9000);
    };
    select(&mut card);
    let open = |card: &mut Card| {
        Host::open_on(card, interface, 0, kvn, &keys, SecurityLevel::FULL, MacMode::S8).unwrap()
    };
    let states: &[u8] = match who.life_cycle {
        0x7F => &[0x07, 0x0F, 0x7F],
        0xFF => &[0xFF],
        _ => &[],
    };
    let mut host = (is_proved || !states.is_empty()).then(|| open(&mut card));
    for state in states {
        let host = host.as_mut().unwrap();
        assert_eq!(sw(&host.send(&mut card, &[0x80, 0xF0, 0x80, *state])), 0x9000);
    }
    if !is_proved {
        host = None;
        if states.is_empty() {
            select(&mut card);
        } else {
            card.reset(interface);
        }
    }
    (card, host)
}

/// A cell: the status word in the clear, then the one through the asker's own secure channel.
fn walk(page: &str, name: &str, least: usize) -> Vec<String> {
    let flash = se::card().into_flash();
    let tables = Page::new(Box::leak(page.to_owned().into_boxed_str())).tables();
    let (mut seen, mut wrong) = (BTreeMap::<String, usize>::new(), vec![]);
    let is_ours = |head: &Vec<String>| head.first().is_some_and(|cell| cell == "asked for");
    let mut rows = 0;
    for table in tables.iter().filter(|table| is_ours(&table.head)) {
        for (line, row) in &table.rows {
            rows += 1;
            let capdu = hex::decode(row[1].trim_matches('`').replace(' ', "")).unwrap();
            let mut answers = vec![];
            for (column, cell) in table.head.iter().zip(row).skip(2) {
                let who = from(column.trim_matches('`'));
                let answered = [false, true].map(|is_proved| {
                    let (mut card, mut host) = asked(&flash, who, is_proved);
                    let before = card.flash().image();
                    let answer = match &mut host {
                        Some(host) => sw(&host.send(&mut card, &capdu)),
                        None => sw(&se::send(&mut card, who.protocol, &capdu)),
                    };
                    let is_root = column.contains("root of 1");
                    if !is_root {
                        assert!(
                            card.flash().image() == before,
                            "{name} {line}: {column} has changed something"
                        );
                    }
                    *seen.entry(format!("{answer:04X}")).or_default() += 1;
                    format!("{answer:04X}")
                });
                let answered = answered.join(" ");
                if *cell != answered {
                    wrong.push(format!(
                        "{name}:{line}: {} from {column}: {cell}, is {answered}",
                        row[0]
                    ));
                }
                answers.push(answered);
            }
            println!("| {} | {} | {} |", row[0], row[1], answers.join(" | "));
        }
    }
    println!("{name}: {rows} rows, {seen:?}");
    assert!(rows >= least, "{name}: {rows} rows");
    wrong
}

#[test]
fn what_is_the_platforms_asked_from_elsewhere() {
    let walked = PAGES.map(|(name, page, least)| walk(page, name, least));
    let wrong = walked.concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
