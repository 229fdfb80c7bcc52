//! The analysis module's numbers, against the figures published with the measurements and against real runs of the schedules.

use crate::common;
use std::collections::HashSet;

use common::*;
use sekisho_keys::Rng;
use sekisho_messaging::analysis::{
    Course, Exposure, Known, Readable, Subject, choice_bits, commands_to_first_reuse, commands_to_zero,
    count_ones_after_ands, course, entropy_after_ands, exposure, median_commands_to_zero, ones_after_ands,
    operation_key_bits, reachable, zero_after_ands,
};
use sekisho_messaging::schedule::LegacyKey;

fn random_key(rng: &mut TestRng) -> LegacyKey {
    let mut key = LegacyKey::default();
    rng.fill(&mut key.0);
    key
}

#[test]
fn the_xor_rule_has_three_keys_and_period_three_for_any_start() {
    let mut rng = TestRng::new(1);
    for _ in 0..50 {
        let (k0, k1) = (random_key(&mut rng), random_key(&mut rng));
        let expected = Course {
            tail: 0,
            period: 3,
            distinct: 3,
        };
        assert_eq!(course(&k0, &k1, LegacyKey::xor, 100), Some(expected));
    }
}

#[test]
fn the_and_rule_stands_still_at_once() {
    let mut rng = TestRng::new(2);
    let (k0, k1) = (random_key(&mut rng), random_key(&mut rng));
    // K0, K1, K0 AND K1, and then the same for ever.
    assert_eq!(
        course(&k0, &k1, LegacyKey::and, 100),
        Some(Course {
            tail: 2,
            period: 1,
            distinct: 3
        })
    );
}

#[test]
fn a_rule_that_does_not_repeat_in_time_says_so() {
    // Adding one in the first two bytes: period 65536.
    let count = |_: &LegacyKey, current: &LegacyKey| {
        let mut next = current.clone();
        let number = u16::from_be_bytes([next.0[0], next.0[1]])
            .wrapping_add(1)
            .to_be_bytes();
        next.0[..2].copy_from_slice(&number);
        next
    };
    assert_eq!(
        course(&LegacyKey::default(), &LegacyKey([1; 16]), count, 200),
        None
    );
}

#[test]
fn xor_and_and_in_any_order_reach_seven_keys_and_no_other() {
    let mut rng = TestRng::new(3);
    let (k0, k1) = (random_key(&mut rng), random_key(&mut rng));
    let all: HashSet<[u8; 16]> = reachable(&k0, &k1).iter().map(|key| key.0).collect();
    assert_eq!(all.len(), 7);
    let mut seen = HashSet::new();
    for _ in 0..500 {
        let (mut old, mut current) = (k0.clone(), k1.clone());
        for _ in 0..20 {
            let new = if rng.below(2) == 0 {
                old.xor(&current)
            } else {
                old.and(&current)
            };
            old = current;
            current = new;
            assert!(all.contains(&current.0));
            seen.insert(current.0);
        }
    }
    assert_eq!(seen, all, "and each of the seven does come");
}

#[test]
fn zero_comes_soon_and_stays() {
    // Medians of the simulation in the measurements: 21, 9, 5, 5 commands for P[AND] = 0.1, 0.25, 0.5, 0.75.
    for (and_per_256, published) in [(26, 21), (64, 9), (128, 5), (192, 5)] {
        let median = median_commands_to_zero(&mut TestRng::new(4), and_per_256, 4001);
        assert!(
            median.abs_diff(published) <= 1 + published / 10,
            "{and_per_256}: {median}"
        );
    }
    assert_eq!(
        commands_to_zero(&mut TestRng::new(5), 0, 1000),
        None,
        "XOR alone never"
    );
    assert_eq!(
        median_commands_to_zero(&mut TestRng::new(5), 0, 9),
        256,
        "shown as beyond the limit"
    );
}

#[test]
fn ones_zero_probability_and_entropy_after_ands() {
    // The measurements' table: entropy 128, 103.8, 69.6, 43.2, 25.7, 14.9, 8.4, 4.7 bits.
    let entropies = [128.0, 103.8, 69.6, 43.2, 25.7, 14.9, 8.4, 4.7];
    for (ands, expected) in (0..).zip(entropies) {
        assert!(
            (entropy_after_ands(ands) - expected).abs() < 0.06,
            "{ands}: {}",
            entropy_after_ands(ands)
        );
    }
    for (ands, expected) in [(0, 64.0), (1, 32.0), (4, 4.0), (6, 1.0)] {
        assert!((ones_after_ands(ands) - expected).abs() < 1e-9);
    }
    for (ands, expected) in [(4, 0.017), (5, 0.13), (6, 0.37), (7, 0.61), (10, 0.94)] {
        assert!(
            (zero_after_ands(ands) - expected).abs() < 0.006,
            "{ands}: {}",
            zero_after_ands(ands)
        );
    }
    let mut rng = TestRng::new(6);
    for ands in 0..6 {
        let counted: u32 = (0..400).map(|_| count_ones_after_ands(&mut rng, ands)).sum();
        let mean = f64::from(counted) / 400.0;
        assert!((mean - ones_after_ands(ands)).abs() < 1.5, "{ands}: {mean}");
    }
}

#[test]
fn list_numbers() {
    assert!((choice_bits(18) - 4.169_925_001_442_312).abs() < 1e-12);
    assert!(choice_bits(1).abs() < 1e-12);
    for bits in 1..20_u32 {
        assert!((choice_bits(1 << bits) - f64::from(bits)).abs() < 1e-12);
    }
    let mut rng = TestRng::new(7);
    let mut drawn = 0;
    for _ in 0..3000 {
        let mut seen = HashSet::new();
        while seen.insert(rng.below(18)) {
            drawn += 1;
        }
        drawn += 1;
    }
    let mean = f64::from(drawn) / 3000.0;
    assert!((commands_to_first_reuse(18) - mean).abs() < 0.2, "{mean}");
    assert!((commands_to_first_reuse(18) - 6.0).abs() < 0.3);
}

/// Readable exchanges among many, when those with the keys in `known` are readable.
fn share(keys: &[[u8; 16]], known: &HashSet<[u8; 16]>) -> f64 {
    let readable = u32::try_from(keys.iter().filter(|key| known.contains(*key)).count()).unwrap();
    f64::from(readable) / f64::from(u32::try_from(keys.len()).unwrap())
}

#[test]
fn what_one_and_two_keys_tell_of_the_xor_rule() {
    let mut rng = TestRng::new(8);
    let mut keys = vec![random_key(&mut rng), random_key(&mut rng)];
    while keys.len() < 302 {
        keys.push(keys[keys.len() - 2].xor(&keys[keys.len() - 1]));
    }
    let bytes: Vec<[u8; 16]> = keys.iter().skip(1).take(300).map(|key| key.0).collect();
    let one = HashSet::from([bytes[150]]);
    assert!((share(&bytes, &one) - 1.0 / 3.0).abs() < 1e-9);
    assert_eq!(
        exposure(Subject::LegacyXor, Known::OneExchange, 0).past,
        Readable::OneIn(3)
    );
    let two = HashSet::from([bytes[150], bytes[151], keys[151].xor(&keys[152]).0]);
    assert!((share(&bytes, &two) - 1.0).abs() < 1e-9);
    assert_eq!(
        exposure(Subject::LegacyXor, Known::TwoExchanges, 0).future,
        Readable::All
    );
}

#[test]
fn what_one_and_two_keys_tell_of_the_list() {
    let mut rng = TestRng::new(9);
    let list = named_list("K", 18);
    let bytes: Vec<[u8; 16]> = (0..20_000)
        .map(|_| list[usize::try_from(rng.below(18)).unwrap()])
        .collect();
    assert!((share(&bytes, &HashSet::from([list[3]])) - 1.0 / 18.0).abs() < 0.01);
    assert!((share(&bytes, &HashSet::from([list[3], list[4]])) - 1.0 / 9.0).abs() < 0.01);
    let both = |readable| Exposure {
        past: readable,
        future: readable,
    };
    assert_eq!(
        exposure(Subject::LegacyList, Known::OneExchange, 18),
        both(Readable::OneIn(18))
    );
    assert_eq!(
        exposure(Subject::LegacyList, Known::TwoExchanges, 18),
        both(Readable::OneIn(9))
    );
}

#[test]
fn what_two_session_keys_tell_of_the_operation_key() {
    let mut rng = TestRng::new(10);
    for _ in 0..50 {
        let (session, operation) = (random_key(&mut rng), random_key(&mut rng));
        // Turn 0: all of it.
        assert_eq!(session.xor(&session.xor(&operation)), operation);
        assert_eq!(operation_key_bits(0, &session), 128);
        // Turn 1: the next key equals the operation key wherever the session key has a one.
        let next = session.and(&operation);
        let known: u32 = session.0.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(next, session.and(&operation));
        assert_eq!(operation_key_bits(1, &session), known);
        assert_eq!(operation_key_bits(2, &session), 0);
    }
}

/// Of the keys K1 to K4 of claims 2 and 5, two in a row give all that follow, and one of the three that lie before such a pair.
#[test]
fn what_one_and_two_keys_tell_of_operations_in_turn() {
    let mut rng = TestRng::new(11);
    let (k0, k1) = (random_key(&mut rng), random_key(&mut rng));
    let k2 = k0.xor(&k1);
    let (k3, k4) = (k1.and(&k2), k2.xor(&k1.and(&k2)));
    assert_eq!(k3.and(&k4), LegacyKey::default());
    let keys = [k1, k2, k3, k4];
    let mut before = (0, 0);
    for at in 0..3 {
        // What follows is the rule itself. Backwards: the key that went in with XOR comes out again.
        let undone = keys[at].xor(&keys[at + 1]);
        before.0 += at;
        before.1 += keys[..at].iter().filter(|key| **key == undone).count();
    }
    assert_eq!(before, (3, 1));
    let expected = Exposure {
        past: Readable::OneIn(3),
        future: Readable::All,
    };
    assert_eq!(exposure(Subject::LegacyTurns, Known::TwoExchanges, 0), expected);
    assert_eq!(exposure(Subject::LegacyTurns, Known::State, 0), expected);
    assert_eq!(
        exposure(Subject::LegacyTurns, Known::OneExchange, 0).past,
        Readable::None
    );
    assert_eq!(
        exposure(Subject::LegacyTurns, Known::StateAndMasterKey, 0).past,
        Readable::All
    );
}

#[test]
fn only_the_ratchet_keeps_the_past() {
    let subjects = [
        Subject::Fixed,
        Subject::LegacyXor,
        Subject::LegacyList,
        Subject::LegacyOperations,
    ];
    for known in [Known::State, Known::StateAndMasterKey] {
        for subject in subjects {
            assert_eq!(exposure(subject, known, 18).past, Readable::All);
        }
        let ratchet = exposure(Subject::Ratchet, known, 18);
        assert_eq!(
            ratchet,
            Exposure {
                past: Readable::None,
                future: Readable::UntilRefresh
            }
        );
    }
    assert_eq!(
        exposure(Subject::Ratchet, Known::TwoExchanges, 0).future,
        Readable::None
    );
}
