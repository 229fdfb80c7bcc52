//! What a container's answers tell of others: nothing, but how much room is left in the whole SE.

use std::collections::BTreeMap;

use sekisho_os::{Interface, Protocol};
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::host::Host;
use crate::common::keys::{aes_field, delete, put_key, put_set, set};
use crate::common::{key, sw};
use crate::se::{self, Card, IN, IN_TWO};

const CARD: &str = include_str!("../../../../../docs/spec/card.md");

/// All data objects of the page's section 3.
fn objects() -> Vec<u16> {
    let (_, section) = CARD.split_once("## 3 ").unwrap();
    let (section, _) = section.split_once("### 3.1").unwrap();
    let mut tags = vec![0x01E0];
    for row in section.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cell = row.split('|').next().unwrap();
        let found: Vec<u16> = cell
            .split([' ', ','])
            .filter(|word| word.len() == 4)
            .filter_map(|word| u16::from_str_radix(word, 16).ok())
            .collect();
        match found[..] {
            [first, last] if cell.contains(" to ") => tags.extend(first..=last),
            _ => tags.extend(found),
        }
    }
    assert!(tags.len() >= 19, "{tags:04X?}");
    tags
}

const ROOM: u16 = 0xFF21;

/// Whatever a root answers to GET DATA and GET STATUS, through its secure channel and on another logical channel in the clear.
fn told(card: &mut Card, host: &mut Host, interface: Interface) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for tag in objects() {
        let [p1, p2] = tag.to_be_bytes();
        let mut answers = vec![];
        for class in [0x80, 0x00] {
            answers.push(host.send(card, &[class, 0xCA, p1, p2, 0]));
            answers.push(crate::common::send_on(
                card,
                interface,
                &[class | 1, 0xCA, p1, p2, 0],
            ));
        }
        if tag == ROOM {
            // 82 is what the whole SE has left.
            for answer in &mut answers {
                let at = answer.windows(2).position(|two| two == [0x82, 4]).unwrap();
                answer[at + 2..at + 6].fill(0);
            }
        }
        all.insert(format!("GET DATA {tag:04X}"), answers.concat());
    }
    for p1 in [0x80, 0x40, 0x20, 0x10] {
        let mut answer = host.send(card, &[0x80, 0xF2, p1, 0x02, 2, 0x4F, 0]);
        while answer.ends_with(&[0x63, 0x10]) {
            answer.truncate(answer.len() - 2);
            answer.extend(host.send(card, &[0x80, 0xF2, p1, 0x03, 2, 0x4F, 0]));
        }
        all.insert(format!("GET STATUS {p1:02X}"), answer);
    }
    all
}

const SHOWN: [(u8, Interface, Protocol); 3] = [
    (1, Interface::ApduGate, Protocol::ApduGate),
    (3, Interface::Spi, Protocol::Proprietary(0)),
    (2, Interface::Iso7816Contact, Protocol::T0),
];

fn all_told(card: &mut Card, hosts: &mut [Host]) -> Vec<BTreeMap<String, Vec<u8>>> {
    let hosts = SHOWN.iter().zip(hosts);
    hosts
        .map(|((_, interface, _), host)| told(card, host, *interface))
        .collect()
}

/// A step in the second container, and which of its own answers show it.
type Step = (&'static str, fn(&mut Card, &mut Host), &'static [&'static str]);

fn proved(capdu: Vec<u8>) -> impl Fn(&mut Card, &mut Host) {
    move |card, host| {
        let answer = sw(&host.send(card, &capdu));
        assert_eq!(answer, 0x9000, "{capdu:02X?}");
    }
}

const STEPS: [Step; 11] = [
    (
        "IIN",
        |c, h| proved(store(&[0x42, 2, 0xAB, 0xCD]))(c, h),
        &["GET DATA 0042"],
    ),
    (
        "CIN",
        |c, h| proved(store(&[0x45, 2, 0xAB, 0xCD]))(c, h),
        &["GET DATA 0045"],
    ),
    (
        "policy",
        |c, h| proved(store(&[0xDF, 0x30, 3, 0x01, 0x01, 0x01]))(c, h),
        &["GET DATA DF30"],
    ),
    (
        "a key",
        |c, h| {
            let field = aes_field(&se::keys_of(2).dek, &key(&[0x5A; 16]));
            proved(put_key(0, 0x01, 0x50, &[field]))(c, h);
        },
        &["GET DATA 00E0"],
    ),
    (
        "a key set",
        |c, h| proved(put_set(&se::keys_of(2).dek, 0, 0x31, &set(7, 8, 9, 16)))(c, h),
        &["GET DATA 00E0"],
    ),
    (
        "its deletion",
        |c, h| proved(delete(0x31).to_vec())(c, h),
        &["GET DATA 00E0"],
    ),
    (
        "an opening that fails",
        |c, _| {
            let wrong = [&[0x84, 0x82, 0x33, 0, 16][..], &[0; 16]].concat();
            let opening = [0x80, 0x50, 0x30, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0];
            assert_eq!(sw(&c.reset_and(&opening)), 0x9000);
            assert_eq!(sw(&c.reset_and(&wrong)), 0x6300);
        },
        &["GET DATA 00C1"],
    ),
    (
        "an application",
        |c, _| c.install(se::id(2), &another()).unwrap(),
        &["GET DATA 2F00", "GET STATUS 40"],
    ),
    (
        "its deletion",
        |c, _| c.delete(se::id(2), &se::aid(b"\xF0SKWHERE\x07")).unwrap(),
        &["GET DATA 2F00", "GET STATUS 40"],
    ),
    (
        "a lock",
        |c, h| proved([&[0x80, 0xF0, 0x40, 0x80, 9][..], IN[1]].concat())(c, h),
        &["GET STATUS 40"],
    ),
    (
        "the card's lock",
        |c, h| {
            for state in [0x07, 0x0F, 0x7F] {
                proved(vec![0x80, 0xF0, 0x80, state])(c, h);
            }
        },
        &["GET STATUS 80"],
    ),
];

fn another() -> sekisho_os::FactoryApplication<'static> {
    sekisho_os::FactoryApplication {
        load_file: se::aid(b"\xF0SKOTHERS"),
        ..se::application(b"\xF0SKWHERE\x07")
    }
}

fn store(object: &[u8]) -> Vec<u8> {
    let len = u8::try_from(object.len()).unwrap();
    [&[0x80, 0xE2, 0x90, 0x00, len][..], object].concat()
}

/// On SWP, which speaks for the second container here as well.
trait OtherLine {
    fn reset_and(&mut self, capdu: &[u8]) -> Vec<u8>;
}

impl OtherLine for Card {
    fn reset_and(&mut self, capdu: &[u8]) -> Vec<u8> {
        se::send(self, Protocol::SwpA, capdu)
    }
}

/// Whatever one container does and becomes: what the roots of the others answer is byte for byte the same.
#[test]
fn what_a_container_does_shows_in_no_answer_of_another() {
    let pairing = se::profile()
        .pairing
        .with(Protocol::SwpA, sekisho_os::Row::common(se::id(2)));
    let mut card = se::boot(se::card().into_flash(), &se::paired(pairing));
    let mut hosts: Vec<_> = SHOWN
        .iter()
        .map(|(number, interface, protocol)| {
            assert!(card.reset_to(*interface, *protocol));
            let keys = se::keys_of(*number);
            let host = Host::open_on(
                &mut card,
                *interface,
                0,
                0x30,
                &keys,
                SecurityLevel::FULL,
                MacMode::S8,
            );
            assert_eq!(
                crate::common::send_on(&mut card, *interface, &[0x00, 0x70, 0, 0, 1])[0],
                1
            );
            host.unwrap()
        })
        .collect();
    let first = all_told(&mut card, &mut hosts);
    let mut before = first.clone();
    for (what, step, shows) in STEPS {
        step(&mut card, &mut hosts[2]);
        let now = all_told(&mut card, &mut hosts);
        for other in [0, 1] {
            for (question, answer) in &now[other] {
                assert_eq!(
                    answer, &first[other][question],
                    "{what}: {question} of container {}",
                    SHOWN[other].0
                );
            }
        }
        for question in shows {
            assert_ne!(
                now[2][*question], before[2][*question],
                "{what} shows in {question} of its own"
            );
        }
        before = now;
    }
    // Terminated: the same again.
    proved(vec![0x80, 0xF0, 0x80, 0xFF])(&mut card, &mut hosts[2]);
    let mut others = hosts;
    others.truncate(2);
    let now = all_told(&mut card, &mut others);
    assert_eq!(now[..], first[..2]);
    println!(
        "{} answers of each of two containers, after {} steps of a third",
        first[0].len(),
        STEPS.len() + 1
    );
}

/// A command that names what another container has, and the same that names nobody's.
type Pair = (&'static str, Vec<u8>, Vec<u8>);

/// A command's name, its first four bytes, and what its data field makes of a name.
type Head<'a> = (&'static str, [u8; 4], &'a dyn Fn(&[u8]) -> Vec<u8>);

fn with(head: [u8; 4], data: &[u8]) -> Vec<u8> {
    [&head[..], &[u8::try_from(data.len()).unwrap()], data, &[0]].concat()
}

/// Applications, load files and domains of the others, and names of the same length that are nobody's; key versions.
fn pairs() -> Vec<Pair> {
    let tagged = |name: &[u8]| [&[0x4F, u8::try_from(name.len()).unwrap()][..], name].concat();
    let to_install = |name: &[u8]| {
        let len = u8::try_from(name.len()).unwrap();
        [&[0, 0, len][..], name, &[0, 0, 0]].concat()
    };
    let plain = |name: &[u8]| name.to_vec();
    let heads: [Head<'_>; 10] = [
        ("SET STATUS", [0x80, 0xF0, 0x40, 0x80], &plain),
        ("SET STATUS 60", [0x80, 0xF0, 0x60, 0x80], &plain),
        ("GET STATUS", [0x80, 0xF2, 0x40, 0x02], &tagged),
        ("GET STATUS", [0x80, 0xF2, 0x20, 0x02], &tagged),
        ("GET STATUS", [0x80, 0xF2, 0x10, 0x02], &tagged),
        ("DELETE", [0x80, 0xE4, 0x00, 0x00], &tagged),
        ("DELETE related", [0x80, 0xE4, 0x00, 0x80], &tagged),
        ("INSTALL", [0x80, 0xE6, 0x10, 0x00], &to_install),
        ("INSTALL", [0x80, 0xE6, 0x20, 0x00], &to_install),
        ("INSTALL", [0x80, 0xE6, 0x40, 0x00], &to_install),
    ];
    let mut pairs = vec![];
    for name in [IN[1], IN[2], IN_TWO, se::ISD_P1, se::ISD_P2] {
        let nobody: Vec<u8> = name.iter().map(|byte| byte ^ 1).collect();
        for (what, head, data) in heads {
            pairs.push((what, with(head, &data(name)), with(head, &data(&nobody))));
        }
    }
    for kvn in [0x31, se::DOMAIN_KVN] {
        pairs.push(("DELETE key", delete(kvn).to_vec(), delete(0x2F).to_vec()));
    }
    pairs
}

/// The same status word, and the same number of reads of the flash.
#[test]
fn what_is_anothers_costs_what_is_not_there_costs() {
    let mut card = se::card();
    let open = |card: &mut Card, interface, number| {
        let (keys, level) = (se::keys_of(number), SecurityLevel::FULL);
        Host::open_on(card, interface, 0, 0x30, &keys, level, MacMode::S8).unwrap()
    };
    let mut host = open(&mut card, Interface::Spi, 1);
    // What is the second container's alone: a key set.
    let mut second = open(&mut card, Interface::Iso7816Contact, 2);
    let own = put_set(&se::keys_of(2).dek, 0, 0x31, &set(7, 8, 9, 16));
    assert_eq!(sw(&second.send(&mut card, &own)), 0x9000);
    let mut seen = BTreeMap::<(&str, u16), usize>::new();
    for (what, others, nobodys) in &pairs() {
        let mut cost = |capdu: &[u8]| {
            let before = card.flash().reads();
            let answer = sw(&host.send(&mut card, capdu));
            (answer, card.flash().reads() - before)
        };
        let is = cost(others);
        assert_eq!(is, cost(nobodys), "{what} {others:02X?}");
        assert_ne!(is.0, 0x9000, "{what} {others:02X?}");
        *seen.entry((what, is.0)).or_default() += 1;
    }
    // INITIALIZE UPDATE in the clear.
    for kvn in [0x31, se::DOMAIN_KVN] {
        let mut cost = |kvn: u8| {
            let before = card.flash().reads();
            let opening = [0x80, 0x50, kvn, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0];
            let answer = sw(&crate::common::send_on(&mut card, Interface::ApduGate, &opening));
            (answer, card.flash().reads() - before)
        };
        let is = cost(kvn);
        assert_eq!(is, cost(0x2F), "{kvn:02X}");
        *seen.entry(("INITIALIZE UPDATE", is.0)).or_default() += 1;
    }
    println!("{seen:04X?}");
}
