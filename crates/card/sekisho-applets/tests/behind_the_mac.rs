//! Any commands behind the MAC: real secure channels of the issuer's and of another domain, whose content management changes a card by seed, right commands and such with a byte changed, on two
//! interfaces in turn, with power lost between. Each is answered with a status word of the pages, the other container notices nothing, and the card starts again.
#![cfg(feature = "os-part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)] // test support

use std::collections::{BTreeMap, BTreeSet};

use sekisho_keys::Rng as _;
use sekisho_keys::p256sig::SigningKey;
use sekisho_os::Interface;
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::host::Host;
use crate::common::tables::Page;
use crate::common::{SeededRng, initial_keys, sw};
use crate::loadable::{
    APPLICATION, Card, FILE, FIRST, METER, MODULE, OTHER, SECOND, Transmit as _, boot, card, carrier,
    delete_file, install_command, loads, select,
};

const ISD: &[u8] = b"\xA0\x00\x00\x01\x51\x00\x00\x00";
const SD: &[u8] = b"\xF0LOADSD";

/// The pages whose status words these commands have.
const PAGES: [&str; 4] = [
    include_str!("../../../../docs/spec/content.md"),
    include_str!("../../../../docs/spec/loading.md"),
    include_str!("../../../../docs/spec/keys.md"),
    include_str!("../../../../docs/spec/card.md"),
];

fn lv(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn command(ins: u8, p1: u8, p2: u8, data: &[u8]) -> Vec<u8> {
    [&[0x80, ins, p1, p2][..], &lv(data), &[0]].concat()
}

/// The fields of INSTALL: load file, module, application, privileges; no parameters and no token.
fn install(p1: u8, fields: [&[u8]; 4]) -> Vec<u8> {
    let fields: Vec<u8> = fields.into_iter().flat_map(lv).collect();
    command(0xE6, p1, 0, &[&fields[..], &[0, 0]].concat())
}

/// INSTALL [for install] of the file's application by the token of a key, with a number.
fn by_token(key: &SigningKey, number: u8) -> Vec<u8> {
    let names: Vec<u8> = [FILE, MODULE, OTHER, &[], &[0xB6, 3, 0x93, 1, number]]
        .into_iter()
        .flat_map(lv)
        .collect();
    let header = [0x0C, 0, u8::try_from(names.len()).unwrap()];
    let token = key.sign_parts(&[&header, &names]);
    command(0xE6, 0x0C, 0, &[&names[..], &lv(&token)].concat())
}

/// Right commands, whatever state they find: runs of them where one needs the one before.
fn right(key: &SigningKey, number: u8) -> Vec<Vec<Vec<u8>>> {
    let public = key.verifying_key().to_sec1();
    let put = |kvn: u8| {
        command(
            0xD8,
            0,
            1,
            &[&[kvn, 0xB0, 0x41][..], &public, &[0xF0, 1, 0, 0]].concat(),
        )
    };
    let domain: [&[u8]; 2] = [
        b"\xA0\x00\x00\x01\x51\x53\x50",
        b"\xA0\x00\x00\x01\x51\x53\x50\x41",
    ];
    let one = |command| vec![command];
    let named = |aid: &[u8]| [&[0x4F][..], &lv(aid)].concat();
    let mut all = vec![
        loads(&carrier(METER), 240),
        loads(&carrier(METER), 77),
        one(install_command(APPLICATION)),
        one(install_command(OTHER)),
        one(install(0x04, [FILE, MODULE, APPLICATION, &[]])),
        one(install(0x08, [&[], &[], APPLICATION, &[]])),
        one(install(0x10, [SD, &[], APPLICATION, &[]])),
        one(install(0x20, [&[], &[], APPLICATION, &[]])),
        one(by_token(key, number)),
        one(delete_file(false)),
        one(delete_file(true)),
        one(put(0x70)),
        one(put(0x73)),
        one(command(0xE4, 0, 0, &[0xD2, 1, 0x70])),
        one(command(0xE2, 0x90, 0, &[0x42, 2, 1, 2])),
        one(vec![0x80, 0xCA, 0, 0xE0, 0]),
        one(vec![0x80, 0xCA, 0xFF, 0x21, 0]),
        one(vec![0x80, 0xCA, 0, 0x67, 0]),
    ];
    for privileges in [0x80, 0xA0, 0xC0, 0xE1] {
        all.push(one(install(0x0C, [domain[0], domain[1], SD, &[privileges]])));
    }
    for aid in [APPLICATION, OTHER, SD] {
        all.push(one(command(0xE4, 0, 0, &named(aid))));
        for p2 in [0x80, 0x00] {
            all.push(one(command(0xF0, 0x40, p2, aid)));
        }
    }
    all.push(one(command(0xF0, 0x60, 0x80, SD)));
    all.push(one(command(0xF0, 0x60, 0x00, SD)));
    for p1 in [0x80, 0x40, 0x20, 0x10] {
        all.push(one(command(0xF2, p1, 0x02, &[0x4F, 0])));
    }
    all
}

/// What would end the walk: the card's own life cycle, and keys that open secure channels.
fn ends_it(command: &[u8]) -> bool {
    match *command {
        [_, 0xF0, p1, ..] => p1 & 0x7F == 0,
        [_, 0xD8, p1, _, _, kvn, ..] => p1 != 0 || kvn < 0x65,
        [_, 0xE4, ..] => command.contains(&0xD2) && !command.ends_with(&[0xD2, 1, 0x70, 0]),
        _ => false,
    }
}

fn open(card: &mut Card, interface: Interface, aid: &[u8]) -> Option<Host> {
    if select(card, interface, aid) != 0x9000 {
        return None;
    }
    let (level, mode) = (SecurityLevel::FULL, MacMode::S8);
    Host::open_on(card, interface, 0, 0, &initial_keys(), level, mode).ok()
}

/// All that the second container says of itself.
fn second(card: &mut Card) -> Vec<Vec<u8>> {
    let mut host = open(card, SECOND, ISD).unwrap();
    let asked = [0x80, 0x40, 0x20, 0x10].map(|p1| command(0xF2, p1, 0x02, &[0x4F, 0]));
    asked.iter().map(|command| host.send(card, command)).collect()
}

struct Walk {
    rng: SeededRng,
    words: BTreeMap<u16, usize>,
    sent: usize,
}

impl Walk {
    fn below(&mut self, n: usize) -> usize {
        let mut bytes = [0; 4];
        self.rng.fill(&mut bytes);
        usize::try_from(u32::from_be_bytes(bytes)).unwrap() % n
    }

    /// Sends a command behind the MAC; false when the channel is not open any more, or a part is waited for: that is answered bare, and its MAC comes with the last one.
    fn send(&mut self, (host, interface): (&mut Host, Interface), card: &mut Card, command: &[u8]) -> bool {
        let wrapped = host.wrap(command);
        let answer = card.transmit_to(interface, &wrapped);
        let word = sw(&answer);
        let is_bare = answer.len() == 2;
        if is_bare && word == 0x9000 {
            return false;
        }
        if !is_bare {
            host.unwrap(&answer);
        }
        *self.words.entry(word).or_insert(0) += 1;
        self.sent += 1;
        !matches!(word, 0x6982 | 0x6985 | 0x6882)
    }

    /// One byte of header or data field changed.
    fn changed(&mut self, command: &[u8]) -> Vec<u8> {
        let mut changed = command.to_vec();
        // Lc and Le stay, so that it is a command.
        let at = loop {
            let at = 1 + self.below(command.len() - 1);
            if at != 4 && (at + 1 != command.len() || command.len() == 5) {
                break at;
            }
        };
        changed[at] ^= 1 << self.below(8);
        changed
    }
}

#[test]
fn any_content_management_behind_the_mac_is_answered_in_words_of_the_pages() {
    let rounds = std::env::var("SEKISHO_TEST_ROUNDS").map_or(6, |n| n.parse().unwrap());
    let mut known: BTreeSet<u16> = PAGES
        .iter()
        .flat_map(|page| Page::new(page).status_words().0)
        .filter_map(|word| u16::from_str_radix(&word, 16).ok())
        .collect();
    // GET STATUS: no table has a registry that long.
    assert!(PAGES[3].contains("03 for more after 6310"));
    known.insert(0x6310);
    let key = SigningKey::from_bytes(&[1; 32]).unwrap();
    let mut walk = Walk {
        rng: SeededRng(0x22),
        words: BTreeMap::new(),
        sent: 0,
    };
    for round in 0..rounds {
        let mut card = card();
        let before = second(&mut card);
        for step in 0..60_u8 {
            let interface = [FIRST, Interface::ApduGate][usize::from(step % 7 == 6)];
            let aid = [ISD, SD][usize::from(step % 5 == 4)];
            let Some(mut host) = open(&mut card, interface, aid) else {
                continue;
            };
            for _ in 0..8 {
                let all = right(&key, step + 1);
                let run = &all[walk.below(all.len())];
                let wrong = walk.below(2 * run.len());
                let mut goes_on = true;
                for (at, command) in run.iter().enumerate() {
                    let command = if at == wrong {
                        walk.changed(command)
                    } else {
                        command.clone()
                    };
                    if !ends_it(&command) {
                        goes_on &= walk.send((&mut host, interface), &mut card, &command);
                    }
                }
                if !goes_on {
                    break;
                }
            }
            if walk.below(10) == 0 {
                card = boot(card);
            }
        }
        assert_eq!(second(&mut card), before, "round {round}: the other container");
        assert!(open(&mut card, FIRST, ISD).is_some(), "round {round}");
    }
    let accepted: usize = walk
        .words
        .iter()
        .filter(|(word, _)| matches!(word, 0x9000 | 0x6310))
        .map(|(_, n)| n)
        .sum();
    println!(
        "{} commands behind the MAC, {accepted} accepted: {:04X?}",
        walk.sent, walk.words
    );
    assert!(10 * accepted >= walk.sent, "too few get anywhere");
    assert!(!walk.words.contains_key(&0x6F00));
    let unknown: Vec<_> = walk.words.keys().filter(|word| !known.contains(word)).collect();
    assert!(unknown.is_empty(), "{unknown:04X?}");
    assert!(walk.words.len() > 7, "{:04X?}", walk.words);
}

/// What GET STATUS has left is not lost to hosts that send GET RESPONSE behind whatever they have been answered (docs/spec/card.md, 1 and 4).
#[test]
fn what_get_status_has_left_is_there_after_get_response() {
    let mut card = card();
    let mut host = open(&mut card, FIRST, ISD).unwrap();
    let long = |last: u8| [&[0xF0; 15][..], &[last]].concat();
    let mut commands = loads(&carrier(METER), 240);
    for last in 0..2 {
        commands.push(install(0x0C, [FILE, MODULE, &long(last), &[]]));
    }
    for last in 2..4 {
        let domains: [&[u8]; 2] = [
            b"\xA0\x00\x00\x01\x51\x53\x50",
            b"\xA0\x00\x00\x01\x51\x53\x50\x41",
        ];
        commands.push(install(0x0C, [domains[0], domains[1], &long(last), &[0x80]]));
    }
    for command in commands {
        assert_eq!(sw(&host.send(&mut card, &command)), 0x9000);
    }
    let (mut pages, mut all, mut p2) = (0, vec![], 0x02);
    loop {
        let mut answer = host.send(&mut card, &command(0xF2, 0x40, p2, &[0x4F, 0]));
        let word = sw(&answer);
        answer.truncate(answer.len() - 2);
        all.extend(answer);
        pages += 1;
        for _ in 0..2 {
            assert_eq!(card.transmit_to(FIRST, &[0, 0xC0, 0, 0, 0]), [0x6D, 0x00]);
        }
        if word == 0x9000 {
            break;
        }
        assert_eq!(word, 0x6310);
        p2 = 0x03;
    }
    assert!(pages > 1);
    for last in 0..4 {
        assert_eq!(all.windows(16).filter(|aid| *aid == long(last)).count(), 1);
    }
}
