//! Every assignment of every pair and every triple of rows to three containers, under both rules, as a table.

use sekisho_os::{Pairing, Protocol, Row};

use crate::se::{self, COMMON, Card, Counting, EVERYWHERE, IN, IN_TWO, OTHER_ROOT, PROTOCOLS};

/// What is asked on each row, and which container is to answer: `None` is 6A82.
fn expected(row: Row, name: &[u8]) -> Option<u8> {
    let own = row.container.number();
    let is_all = row == Row::all(row.container);
    let only = |number: u8| (own == number || !is_all).then_some(number);
    match name {
        [] => Some(own),
        _ if name == COMMON || name == &COMMON[..7] || name == EVERYWHERE => Some(own),
        _ if name == OTHER_ROOT || name == IN[1] => only(2),
        _ if name == IN[0] => only(1),
        _ if name == IN[2] => only(3),
        // In 2 and 3: ambiguous from 1.
        _ if name == IN_TWO => (own > 1).then_some(own),
        _ => None,
    }
}

const NAMES: [&[u8]; 9] = [
    &[],
    &COMMON,
    &[0xA0, 0, 0, 1, 0x51, 0, 0],
    &OTHER_ROOT,
    EVERYWHERE,
    IN[0],
    IN[1],
    IN[2],
    IN_TWO,
];

fn try_row(card: &mut Card, protocol: Protocol, row: Row, seen: &mut [usize; 2]) {
    // Before any SELECT, and by a command that names nothing.
    assert!(card.reset_to(interface(protocol), protocol));
    assert_eq!(
        se::container(card, protocol),
        Some(row.container.number()),
        "{protocol:?} {row:?}"
    );
    for name in NAMES {
        let is = match se::select(card, protocol, name) {
            0x9000 => se::container(card, protocol),
            sw => {
                assert_eq!(sw, 0x6A82, "{protocol:?} {row:?} {name:02X?}");
                None
            }
        };
        assert_eq!(is, expected(row, name), "{protocol:?} {row:?} {name:02X?}");
        seen[usize::from(is.is_some())] += 1;
    }
}

fn interface(protocol: Protocol) -> sekisho_os::Interface {
    PROTOCOLS.iter().find(|(_, of, _)| *of == protocol).unwrap().2
}

/// All ways to give so many rows to three containers.
fn assignments(rows: usize) -> Vec<Vec<(Protocol, u8)>> {
    let mut all = vec![];
    for mask in 0_u32..1 << PROTOCOLS.len() {
        if mask.count_ones() as usize != rows {
            continue;
        }
        let chosen: Vec<_> = (0..PROTOCOLS.len()).filter(|at| mask & 1 << at != 0).collect();
        for mut way in 0..3_usize.pow(u32::try_from(rows).unwrap()) {
            let assigned = chosen.iter().map(|at| {
                let number = u8::try_from(way % 3).unwrap() + 1;
                way /= 3;
                (PROTOCOLS[*at].1, number)
            });
            all.push(assigned.collect());
        }
    }
    all
}

fn walk(rows: usize) {
    let made: Counting = se::card().into_flash();
    let (mut ways, mut seen) = (0, [0; 2]);
    for (number, assigned) in assignments(rows).into_iter().enumerate() {
        // The rows in turn under both rules.
        let rule = |at: usize| {
            if (number + at).is_multiple_of(2) {
                Row::common
            } else {
                Row::all
            }
        };
        let mut pairing = Pairing::all_to(se::id(1)).with(Protocol::Proprietary(0), Row::common(se::id(1)));
        for (at, (protocol, number)) in assigned.iter().enumerate() {
            pairing = pairing.with(*protocol, rule(at)(se::id(*number)));
        }
        let mut card = se::boot(made.clone(), &se::paired(pairing));
        for (protocol, _) in &assigned {
            try_row(&mut card, *protocol, pairing.row(*protocol).unwrap(), &mut seen);
        }
        // One that is not of these has what it had.
        let (_, other, _) = PROTOCOLS[number % PROTOCOLS.len()];
        try_row(&mut card, other, pairing.row(other).unwrap(), &mut seen);
        ways += 1;
    }
    println!(
        "{ways} assignments of {rows} rows: {} names refused, {} answered",
        seen[0], seen[1]
    );
    assert!(seen[0] > 0 && seen[1] > 0);
}

#[test]
fn every_assignment_of_every_pair_of_rows() {
    assert_eq!(assignments(2).len(), 28 * 9);
    walk(2);
}

#[test]
fn every_assignment_of_every_triple_of_rows() {
    assert_eq!(assignments(3).len(), 56 * 27);
    walk(3);
}
