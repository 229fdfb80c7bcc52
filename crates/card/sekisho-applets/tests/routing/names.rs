//! Names: where a refusal comes from, what an installation elsewhere changes, next occurrences, logical channels, aliases.

use proptest::prelude::*;
use sekisho_keys::AesKey;
use sekisho_os::{Interface, Pairing, Protocol, Row};
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::host::Host;
use crate::common::sw;
use crate::se::{self, AM_SD, COMMON, Card, EVERYWHERE, IN, IN_TWO, ISD_P1, Made, OTHER_ROOT};

const SPI: Protocol = Protocol::SpiEse;
const T0: Protocol = Protocol::T0;

/// Status word and reads of the flash.
fn cost(card: &mut Card, protocol: Protocol, name: &[u8]) -> (u16, u64) {
    let before = card.flash().reads();
    let sw = se::select(card, protocol, name);
    (sw, card.flash().reads() - before)
}

/// A name that is refused and one that does not exist take the same way, proved or not, in the middle of whatever else.
#[test]
fn a_name_that_is_refused_costs_what_one_costs_that_does_not_exist() {
    let nowhere = b"\xF0SKWHERE\x09";
    let mut refused = 0;
    for (row, names) in [
        (
            Row::all(se::id(1)),
            &[
                IN[1],
                IN[2],
                IN_TWO,
                ISD_P1,
                &OTHER_ROOT,
                &IN[1][..8],
                &ISD_P1[..7],
                &OTHER_ROOT[..5],
            ][..],
        ),
        (Row::all(se::id(2)), &[IN[0], IN[2], AM_SD]),
        (Row::common(se::id(1)), &[IN_TWO, &IN_TWO[..9], b"\xF0SKISDP"]),
    ] {
        let pairing = Pairing::all_to(se::id(3))
            .with(Protocol::Proprietary(0), Row::common(se::id(3)))
            .with(SPI, row);
        let mut card = se::boot(se::card().into_flash(), &se::paired(pairing));
        for is_proved in [false, true] {
            let number = row.container.number();
            assert_eq!(se::select(&mut card, SPI, &[]), 0x9000);
            let keys = se::keys_of(number);
            let level = SecurityLevel::FULL;
            let _host = is_proved.then(|| {
                Host::open_on(&mut card, Interface::Spi, 0, 0x30, &keys, level, MacMode::S8).unwrap()
            });
            for name in names {
                // Of the same length, and in no container.
                let absent = &nowhere[..name.len()];
                let absent: Vec<u8> = absent.iter().map(|byte| byte ^ 0x01).collect();
                let is = cost(&mut card, SPI, name);
                // What begins a name of the paired container is that.
                if is.0 == 0x9000 {
                    assert_eq!(se::container(&mut card, SPI), Some(number), "{name:02X?}");
                    continue;
                }
                assert_eq!(is, cost(&mut card, SPI, &absent), "{row:?} {name:02X?}");
                assert_eq!(is, (0x6A82, 0), "{row:?} {name:02X?}");
                refused += 1;
            }
        }
    }
    println!("{refused} names refused");
    assert!(refused >= 20);
}

/// A common AID that the paired container has nothing for, whole or its beginning: nobody else is meant, whoever has it.
#[test]
fn a_common_name_reaches_nobody_elsewhere() {
    let made = se::card().into_flash();
    let with = |name: &[u8]| {
        let common = vec![se::aid(&COMMON), se::aid(name)].leak();
        let profile = sekisho_os::Profile {
            common,
            ..se::profile()
        };
        se::boot(made.clone(), &profile)
    };
    // What only the second container has, from the first one: reached while another name is common, not when it is.
    let mut card = with(IN[0]);
    assert_eq!(cost(&mut card, SPI, IN[1]).0, 0x9000);
    let mut card = with(IN[1]);
    assert_eq!(cost(&mut card, SPI, IN[1]), (0x6A82, 0));
    assert_eq!(se::select(&mut card, T0, IN[1]), 0x9000);
    assert_eq!(se::container(&mut card, T0), Some(2));
    // And its beginning.
    for (common, is) in [(IN[0], 0x9000), (AM_SD, 0x6A82)] {
        let mut card = with(common);
        for name in [AM_SD, &AM_SD[..5]] {
            assert_eq!(cost(&mut card, T0, name).0, is, "{name:02X?}");
        }
    }
}

/// A common name of a container that is terminated, and any other: the same.
#[test]
fn names_of_a_container_that_is_terminated_cost_the_same_and_the_others_are_as_they_were() {
    let nowhere = b"\xF0SKWHERE\x09";
    let mut card = se::card();
    let mut host = Host::open_on(
        &mut card,
        Interface::Iso7816Contact,
        0,
        0x30,
        &se::keys_of(2),
        SecurityLevel::FULL,
        MacMode::S8,
    )
    .unwrap();
    assert_eq!(sw(&host.send(&mut card, &[0x80, 0xF0, 0x80, 0xFF])), 0x9000);
    for name in [&COMMON[..], &COMMON[..5], EVERYWHERE, IN_TWO, nowhere] {
        assert_eq!(cost(&mut card, T0, name), (0x6A81, 0), "{name:02X?}");
    }
    // The others are as they were, and one that is in exactly one of them is still reached.
    assert_eq!(se::select(&mut card, T0, IN[0]), 0x9000);
    assert_eq!(se::container(&mut card, T0), Some(1));
    assert_eq!(se::select(&mut card, SPI, EVERYWHERE), 0x9000);
    // It is ambiguous no more.
    assert_eq!(se::select(&mut card, SPI, IN_TWO), 0x9000);
    assert_eq!(se::container(&mut card, SPI), Some(3));
}

#[test]
fn the_next_occurrence_stays_in_the_container_of_the_one_before() {
    let mut card = se::card();
    let mut next = |protocol, p2, name: &[u8]| {
        let sw = sw(&se::send(&mut card, protocol, &se::by_name(p2, name)));
        (sw, se::container(&mut card, protocol))
    };
    // In the paired container: its own two, and none of the other containers' three.
    assert_eq!(next(SPI, 0, &IN[0][..8]), (0x9000, Some(1)));
    assert_eq!(next(SPI, 2, &IN[0][..8]), (0x9000, Some(1)));
    assert_eq!(next(SPI, 2, &IN[0][..8]), (0x6A82, Some(1)));
    // In another one, which a whole name has reached.
    assert_eq!(next(SPI, 0, IN[2]), (0x9000, Some(3)));
    assert_eq!(next(SPI, 2, &IN[2][..8]), (0x9000, Some(3)));
    assert_eq!(next(SPI, 2, &IN[2][..8]), (0x6A82, Some(3)));
    // Without a first one there is none, in any container.
    assert_eq!(next(Protocol::ApduGate, 2, IN[0]), (0x6A82, Some(1)));
}

#[test]
fn a_logical_channel_starts_in_the_container_of_the_one_that_opens_it() {
    let mut card = se::card();
    let open = |card: &mut Card, from: u8| {
        let answer = se::send(card, SPI, &[from, 0x70, 0x00, 0x00, 0x01]);
        assert_eq!(answer[1..], [0x90, 0x00]);
        answer[0]
    };
    let told = |card: &mut Card, on: u8| se::send(card, SPI, &[0x80 | on, 0x0A, 0, 0, 0])[0];
    let root = |card: &mut Card, on: u8| se::send(card, SPI, &[on, 0xCA, 0x00, 0xCF, 0])[9];
    assert_eq!(se::select(&mut card, SPI, IN[2]), 0x9000);
    // From the basic channel: the root of that container. From another: what is selected there.
    let first = open(&mut card, 0);
    assert_eq!(root(&mut card, first), 3);
    let name = [&[first, 0xA4, 4, 0, 9], IN[1], &[0]].concat();
    assert_eq!(sw(&se::send(&mut card, SPI, &name)), 0x9000);
    let second = open(&mut card, first);
    assert_eq!((told(&mut card, first), told(&mut card, second)), (2, 2));
    // Each has its own; the basic channel has not moved, nor another interface.
    assert_eq!(se::select(&mut card, SPI, EVERYWHERE), 0x9000);
    assert_eq!(se::container(&mut card, SPI), Some(1));
    assert_eq!((told(&mut card, first), told(&mut card, second)), (2, 2));
    assert_eq!(se::container(&mut card, Protocol::ApduGate), Some(1));
    // A reset returns to the paired container.
    card.reset(Interface::Spi);
    assert_eq!(se::container(&mut card, SPI), Some(1));
    assert_eq!(sw(&se::send(&mut card, SPI, &[0x81, 0x0A, 0, 0, 0])), 0x6881);
}

/// The AID that stands in the pseudo-random card challenge is that of FCI and alias (Amd D 6.2.2.1).
#[test]
fn an_alias_stands_in_fci_and_card_challenge_where_it_is_selected() {
    let mut card = se::card();
    for (protocol, name, shown) in [
        (T0, COMMON, COMMON),
        (T0, OTHER_ROOT, COMMON),
        (SPI, OTHER_ROOT, OTHER_ROOT),
    ] {
        let fci = se::send(&mut card, protocol, &se::by_name(0, &name));
        assert_eq!(fci[2..12], [&[0x84, 8][..], &shown].concat(), "{protocol:?}");
        assert_eq!(se::container(&mut card, protocol), Some(2));
        // What it shows reaches it again.
        assert_eq!(se::select(&mut card, protocol, &shown), 0x9000);
        assert_eq!(se::container(&mut card, protocol), Some(2));
        let update = [0x80, 0x50, 0x30, 0x00, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0];
        let answer = se::send(&mut card, protocol, &update);
        let (challenge, counter) = (&answer[13..21], &answer[29..32]);
        let mut expected = [0; 8];
        challenge_of(&se::keys_of(2).enc, &[counter, &shown].concat(), &mut expected);
        assert_eq!(challenge, expected, "{protocol:?} {name:02X?}");
    }
    // The list of the registry has the common one, on every protocol.
    let keys = se::keys_of(2);
    for interface in [Interface::Iso7816Contact, Interface::Spi] {
        let mut host = Host::open_on(
            &mut card,
            interface,
            0,
            0x30,
            &keys,
            SecurityLevel::FULL,
            MacMode::S8,
        )
        .unwrap();
        let status = host.send(&mut card, &[0x80, 0xF2, 0x80, 0x02, 2, 0x4F, 0, 0]);
        assert_eq!(status[2..12], [&[0x4F, 8][..], &COMMON].concat());
        // Neither is anybody else's, nor the other's.
        for name in [&COMMON, &OTHER_ROOT] {
            let taken = card.install(se::id(2), &se::application(name));
            assert_eq!(taken.map_err(|sw| sw.0), Err(0x6A80));
        }
    }
    // In the eSE that is no name of its root: what it has under that name goes before the other root.
    card.install(
        se::id(1),
        &sekisho_os::FactoryApplication {
            load_file: se::aid(b"\xF0SKOTHER"),
            ..se::application(&OTHER_ROOT)
        },
    )
    .unwrap();
    assert_eq!(se::select(&mut card, SPI, &OTHER_ROOT), 0x9000);
    assert_eq!(se::container(&mut card, SPI), Some(1));
}

/// Derivation 02 of Amd D 4.1.5, with the constant, a zero byte, the length in bits and the counter by hand.
fn challenge_of(key: &AesKey, context: &[u8], out: &mut [u8; 8]) {
    let mut block = vec![0; 11];
    block.extend([0x02, 0x00, 0x00, 0x40, 0x01]);
    block.extend(context);
    let code = sekisho_keys::cmac(key, &[&block]);
    out.copy_from_slice(&code[..8]);
}

/// Names that begin each other, and are in none, one or several containers.
const POOL: [&[u8]; 6] = [
    b"\xF0POOL",
    b"\xF0POOL1",
    b"\xF0POOL12",
    b"\xF0POOL2",
    b"\xF0LAKE",
    b"\xF0LAKE1",
];

fn model(there: &[Vec<usize>; 3], row: Row, name: &[u8]) -> Option<u8> {
    let own = row.container.number();
    let of = |number: u8| {
        let its = there[usize::from(number) - 1].iter();
        its.filter(|at| POOL[**at].starts_with(name)).count()
    };
    if of(own) > 0 {
        return Some(own);
    }
    let others: Vec<u8> = (1..=3).filter(|number| *number != own).collect();
    let count: usize = others.iter().map(|number| of(*number)).sum();
    let is_open = row == Row::common(row.container) && count == 1;
    is_open.then(|| others.into_iter().find(|number| of(*number) == 1).unwrap())
}

const ROWS: [(Protocol, u8, bool); 5] = [
    (T0, 2, false),
    (Protocol::SwpA, 1, true),
    (Protocol::ApduGate, 3, false),
    (SPI, 1, false),
    (Protocol::SpiEuicc, 2, true),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Installed and deleted anywhere, in any order: each name reaches what the page says, and what it reaches in the paired container no
    /// installation elsewhere changes.
    #[test]
    fn no_installation_elsewhere_changes_what_a_name_of_the_paired_container_reaches(
        steps in prop::collection::vec((1..=3_u8, 0..POOL.len()), 1..20),
    ) {
        let mut pairing = Pairing::all_to(se::id(1)).with(Protocol::Proprietary(0), Row::common(se::id(1)));
        for (protocol, number, is_all) in ROWS {
            let row = if is_all { Row::all(se::id(number)) } else { Row::common(se::id(number)) };
            pairing = pairing.with(protocol, row);
        }
        let made = Made { is_bare: true, ..Made::default() };
        let mut card = se::make(se::Counting::new(), &se::paired(pairing), made);
        let mut there: [Vec<usize>; 3] = Default::default();
        for (number, at) in steps {
            let its = &mut there[usize::from(number) - 1];
            match its.iter().position(|of| *of == at) {
                Some(index) => {
                    card.delete(se::id(number), &se::aid(POOL[at])).unwrap();
                    its.remove(index);
                }
                None => {
                    let file = [b"F", POOL[at]].concat();
                    let application = sekisho_os::FactoryApplication {
                        load_file: se::aid(&file),
                        ..se::application(POOL[at])
                    };
                    if card.install(se::id(number), &application).is_ok() {
                        its.push(at);
                    }
                }
            }
            for (protocol, _, _) in ROWS {
                let row = pairing.row(protocol).unwrap();
                for name in POOL {
                    let is = match se::select(&mut card, protocol, name) {
                        0x9000 => se::container(&mut card, protocol),
                        _ => None,
                    };
                    prop_assert_eq!(is, model(&there, row, name), "{:?} {:02X?} {:?}", row, name, there);
                }
            }
        }
    }
}
