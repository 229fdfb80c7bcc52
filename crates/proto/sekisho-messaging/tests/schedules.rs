//! What schedules and openings refuse, and what they choose.

use crate::common;
use std::collections::HashSet;

use common::*;
use sekisho_apdu::{CApdu, Cla};
use sekisho_keys::AesKey;
use sekisho_messaging::schedule::{
    KeySchedule, KeyTable, Lanes, LegacyKey, LegacyList, LegacyOperations, LegacyPair, MAX_KEYS, Operation,
    PATENT_OPERATIONS, Ratchet, ScheduleError, Selector, TURNS, TURNS_CAP, XOR, XOR_CAP, xor_session,
};
use sekisho_messaging::setup::{KeysOpening, Mode, OPENING_ANSWER_MAX, Policy, RatchetOpening, open_card};
use sekisho_messaging::{EphemeralKey, Ssc};

const SSC: Ssc = Ssc::aes([0; 16]);

fn mkey() -> AesKey {
    AesKey::new(&named("MKEY")).unwrap()
}

fn advance(schedule: &mut dyn KeySchedule, selector: Selector) -> Result<(), ScheduleError> {
    let next = schedule.exchange(SSC)?.next;
    schedule.advance(next, selector.as_bytes())
}

#[test]
fn xor_refuses_zero_and_equal_keys_and_ends_after_three() {
    let (a, b, zero) = (named("a"), named("b"), [0; 16]);
    let xor = |keys: &[[u8; 16]]| LegacyPair::new(XOR, Lanes::Shared, keys).err();
    assert_eq!(xor(&[a, a]), Some(ScheduleError::RepeatedKey));
    assert_eq!(xor(&[zero, a]), Some(ScheduleError::ZeroKey));
    assert_eq!(xor(&[a, zero]), Some(ScheduleError::ZeroKey));
    assert_eq!(xor(&[a]), Some(ScheduleError::BadKeys));
    assert_eq!(xor(&[a, b, a, b]), Some(ScheduleError::BadKeys));
    // Separate keys: no key of one lane may ever come in the other.
    let third = LegacyKey(a).xor(&LegacyKey(b)).0;
    let separate = |keys: &[[u8; 16]]| LegacyPair::new(XOR, Lanes::Separate, keys).err();
    assert_eq!(
        separate(&[a, b, third, named("c")]),
        Some(ScheduleError::RepeatedKey)
    );
    assert_eq!(separate(&[a, b, named("c"), named("d")]), None);
    let mut schedule = LegacyPair::new(XOR, Lanes::Shared, &[a, b]).unwrap();
    for _ in 0..XOR_CAP {
        advance(&mut schedule, Selector::NONE).unwrap();
    }
    assert_eq!(
        advance(&mut schedule, Selector::NONE),
        Err(ScheduleError::Exhausted)
    );
    assert_eq!(schedule.refresh(&[1; 32]), Err(ScheduleError::NoRefresh));
}

/// XOR and AND in turn (claims 2 and 5): K1, K0 XOR K1, K1 AND NOT K0, K0 AND NOT K1; the fifth is zero for every pair.
#[test]
fn turns_end_before_the_zero_key_that_always_comes() {
    let (a, b) = (named("a"), named("b"));
    let (k0, k1) = (LegacyKey(a), LegacyKey(b));
    let not = |key: &LegacyKey| key.xor(&LegacyKey([0xFF; 16]));
    let expected = [k1.clone(), k0.xor(&k1), k1.and(&not(&k0)), k0.and(&not(&k1))];
    assert!(expected[2].and(&expected[3]).is_zero());
    let mut schedule = LegacyPair::new(TURNS, Lanes::Shared, &[a, b]).unwrap();
    assert_eq!(usize::from(TURNS_CAP), expected.len());
    for key in &expected {
        let mut used = vec![];
        let exchange = schedule.exchange(SSC).unwrap();
        exchange.command.expose(&mut |bytes| used.push(bytes.to_vec()));
        assert_eq!(used, [key.0, key.0]);
        schedule.advance(exchange.next, &[]).unwrap();
    }
    assert_eq!(
        advance(&mut schedule, Selector::NONE),
        Err(ScheduleError::Exhausted)
    );
    // A zero or repeated key among the four is refused at the opening: K1 within K0 makes the third zero, K0 within K1 the third the
    // second again.
    let within = k0.and(&k1).0;
    let turns = |keys: &[[u8; 16]]| LegacyPair::new(TURNS, Lanes::Shared, keys).err();
    assert_eq!(turns(&[a, within]), Some(ScheduleError::ZeroKey));
    assert_eq!(turns(&[within, a]), Some(ScheduleError::RepeatedKey));
    assert_eq!(turns(&[a, a]), Some(ScheduleError::RepeatedKey));
    assert_eq!(turns(&[[0; 16], a]), Some(ScheduleError::ZeroKey));
    assert_eq!(turns(&[a]), Some(ScheduleError::BadKeys));
    let separate = LegacyPair::new(TURNS, Lanes::Separate, &[a, b, named("c"), b]).err();
    assert_eq!(separate, Some(ScheduleError::RepeatedKey));
}

#[test]
fn tables_refuse_zero_repeated_too_few_and_too_many_keys() {
    let keys = named_list("K", MAX_KEYS + 1);
    assert!(KeyTable::new(&keys[..MAX_KEYS]).is_ok());
    assert_eq!(KeyTable::new(&keys).err(), Some(ScheduleError::BadKeys));
    assert_eq!(KeyTable::new(&keys[..1]).err(), Some(ScheduleError::BadKeys));
    assert_eq!(
        KeyTable::new(&[keys[0], [0; 16]]).err(),
        Some(ScheduleError::ZeroKey)
    );
    assert_eq!(
        KeyTable::new(&[keys[0], keys[1], keys[0]]).err(),
        Some(ScheduleError::RepeatedKey)
    );
    let table = KeyTable::new(&keys[..18]).unwrap();
    assert_eq!(table.get(0).err(), Some(ScheduleError::BadSelector));
    assert_eq!(table.get(19).err(), Some(ScheduleError::BadSelector));
    assert_eq!(table.get(18).unwrap().0, keys[17]);
}

#[test]
fn the_list_refuses_used_and_unknown_numbers() {
    let list = |lanes| LegacyList::new(lanes, KeyTable::new(&named_list("K", 5)).unwrap());
    for (selector, error) in [
        (Selector::one(1), ScheduleError::RepeatedKey),
        (Selector::one(6), ScheduleError::BadSelector),
        (Selector::one(255), ScheduleError::BadSelector),
        (Selector::NONE, ScheduleError::BadSelector),
        (Selector::pair(2, 3), ScheduleError::BadSelector),
    ] {
        assert_eq!(
            advance(&mut list(Lanes::Shared), selector),
            Err(error),
            "{selector:?}"
        );
    }
    for (selector, error) in [
        (Selector::pair(3, 3), ScheduleError::RepeatedKey),
        (Selector::pair(2, 3), ScheduleError::RepeatedKey),
        (Selector::pair(3, 0), ScheduleError::BadSelector),
        (Selector::pair(0, 3), ScheduleError::BadSelector),
        (Selector::one(3), ScheduleError::BadSelector),
    ] {
        assert_eq!(
            advance(&mut list(Lanes::Separate), selector),
            Err(error),
            "{selector:?}"
        );
    }
    let mut ended = list(Lanes::Shared);
    advance(&mut ended, Selector::one(0)).unwrap();
    assert_eq!(
        advance(&mut ended, Selector::one(2)),
        Err(ScheduleError::Exhausted)
    );
}

#[test]
fn proposals_are_accepted_to_the_end_and_differ() {
    for (lanes, exchanges) in [(Lanes::Shared, 18), (Lanes::Separate, 9)] {
        let mut orders = HashSet::new();
        for seed in 0..20 {
            let mut list = LegacyList::new(lanes, KeyTable::new(&named_list("K", 18)).unwrap());
            let mut rng = TestRng::new(seed);
            let mut order = vec![];
            while list.exchange(SSC).is_ok() {
                order.push(list.key_numbers());
                let selector = list.propose(&mut rng);
                advance(&mut list, selector).unwrap();
            }
            assert_eq!(order.len(), exchanges);
            orders.insert(order);
        }
        assert!(orders.len() > 15);
    }
}

#[test]
fn operations_refuse_zero_and_repeated_session_keys() {
    let disjoint = [[0x0F; 16], [0xF0; 16], [0x33; 16], [0x3C; 16]];
    let make = |operations: &'static [Operation]| {
        LegacyOperations::new(Lanes::Shared, KeyTable::new(&disjoint).unwrap(), operations).unwrap()
    };
    // K1 XOR EK1 = 0.
    assert_eq!(
        advance(&mut make(PATENT_OPERATIONS), Selector::one(1)),
        Err(ScheduleError::ZeroKey)
    );
    // K2 = 0F XOR 33 = 3C; K3 = 3C AND 3C = 3C again.
    let mut repeated = make(PATENT_OPERATIONS);
    advance(&mut repeated, Selector::one(3)).unwrap();
    assert_eq!(
        advance(&mut repeated, Selector::one(4)),
        Err(ScheduleError::RepeatedKey)
    );
    // K2 = 0F XOR F0 = FF; back to 0F, which is remembered.
    let mut back = make(&[xor_session]);
    advance(&mut back, Selector::one(2)).unwrap();
    assert_eq!(
        advance(&mut back, Selector::one(2)),
        Err(ScheduleError::RepeatedKey)
    );
    assert_eq!(
        advance(&mut make(PATENT_OPERATIONS), Selector::one(9)),
        Err(ScheduleError::BadSelector)
    );
    assert!(LegacyOperations::new(Lanes::Shared, KeyTable::new(&disjoint).unwrap(), &[]).is_err());
}

#[test]
fn operations_refuse_the_same_key_for_command_and_response() {
    let table = KeyTable::new(&named_list("EK", 4)).unwrap();
    let mut schedule = LegacyOperations::new(Lanes::Separate, table, PATENT_OPERATIONS).unwrap();
    // EK1 XOR EK2 and EK2 XOR EK1.
    assert_eq!(
        advance(&mut schedule, Selector::pair(2, 1)),
        Err(ScheduleError::RepeatedKey)
    );
}

#[test]
fn operations_wipe_the_session_keys_at_the_end() {
    for lanes in LANES {
        let table = KeyTable::new(&named_list("EK", 4)).unwrap();
        let mut schedule = LegacyOperations::new(lanes, table, PATENT_OPERATIONS).unwrap();
        let mut rng = TestRng::new(1);
        let selector = schedule.propose(&mut rng);
        advance(&mut schedule, selector).unwrap();
        let mut keys = vec![];
        schedule
            .exchange(SSC)
            .unwrap()
            .command
            .expose(&mut |bytes| keys.push(bytes.to_vec()));
        let end = if lanes == Lanes::Shared {
            Selector::one(0)
        } else {
            Selector::pair(0, 0)
        };
        advance(&mut schedule, end).unwrap();
        let state = state_of(|sink| schedule.expose(sink));
        assert!(
            !keys
                .iter()
                .any(|key| state.windows(16).any(|window| window == key))
        );
    }
}

#[test]
fn long_ratchet_keys_are_the_two_parts_of_their_purpose() {
    for len in [16, 24, 32] {
        let chain = AesKey::new(&[0x42; 32][..len]).unwrap();
        let schedule = Ratchet::new(chain.clone(), Lanes::Separate, 9);
        let exchange = schedule.exchange(Ssc::aes([0xA5; 16])).unwrap();
        let mut keys = vec![];
        exchange.command.expose(&mut |bytes| keys.push(bytes.to_vec()));
        exchange.response.expose(&mut |bytes| keys.push(bytes.to_vec()));
        for (purpose, key) in (2..).zip(keys) {
            // The words of docs/spec/rolling-secure-messaging.md section 5.
            let mut expected = vec![];
            for part in 0..2 {
                let mut block = *b"SMR1\0\0\0\0\xA5\xA5\xA5\xA5\xA5\xA5\xA5\xA5";
                (block[4], block[5]) = (purpose, part);
                sekisho_keys::ecb_block(&chain, &mut block);
                expected.extend(block);
            }
            assert_eq!(key, expected[..len]);
        }
    }
}

#[test]
fn operations_end_at_the_cap_or_when_no_key_is_left() {
    for lanes in LANES {
        for seed in 0..10 {
            let table = KeyTable::new(&named_list("EK", 18)).unwrap();
            let mut schedule = LegacyOperations::new(lanes, table, PATENT_OPERATIONS).unwrap();
            let mut rng = TestRng::new(seed);
            let mut exchanges = 0;
            while schedule.exchange(SSC).is_ok() {
                exchanges += 1;
                let selector = schedule.propose(&mut rng);
                advance(&mut schedule, selector).unwrap();
            }
            assert_eq!(exchanges, 18);
        }
    }
    // Two keys make 0F, FF and F0, and then nothing new: the reader says 00.
    let table = KeyTable::new(&[[0x0F; 16], [0xF0; 16]]).unwrap();
    let mut schedule = LegacyOperations::new(Lanes::Shared, table, &[xor_session]).unwrap();
    advance(&mut schedule, Selector::one(2)).unwrap();
    assert_eq!(schedule.propose(&mut TestRng::new(0)), Selector::one(1));
    advance(&mut schedule, Selector::one(1)).unwrap();
    assert_eq!(schedule.propose(&mut TestRng::new(0)), Selector::one(0));
}

#[test]
fn an_operation_can_be_added() {
    /// NOT of the XOR: an operation of one's own.
    fn equivalence(session: &LegacyKey, _previous: &LegacyKey, next: &LegacyKey) -> LegacyKey {
        session.xor(next).xor(&LegacyKey([0xFF; 16]))
    }
    const MORE: &[Operation] = &[equivalence, xor_session];
    let table = KeyTable::new(&named_list("EK", 4)).unwrap();
    let mut schedule = LegacyOperations::new(Lanes::Shared, table, MORE).unwrap();
    advance(&mut schedule, Selector::one(3)).unwrap();
    let mut key = vec![];
    schedule
        .exchange(SSC)
        .unwrap()
        .command
        .expose(&mut |bytes| key = bytes.to_vec());
    let expected = LegacyKey(named("EK1"))
        .xor(&LegacyKey(named("EK3")))
        .xor(&LegacyKey([0xFF; 16]));
    assert_eq!(key, expected.0);
}

fn wrapped(mode: Mode, keys: &[[u8; 16]]) -> KeysOpening {
    KeysOpening::new(&mkey(), (mode, Lanes::Shared), Cla::GP, keys, [0; 16]).unwrap()
}

/// Any bytes, wrapped as the page says for this P1 with one key for both directions.
fn wrapped_bytes(p1: u8, bytes: &[u8]) -> Vec<u8> {
    let context = [&[0x80, 0x5A, p1, 0x10], &[0; 16][..]].concat();
    let mut key = [0; 16];
    sekisho_keys::kdf_label(&mkey(), b"sekisho sm wrap", &context, &mut key);
    let mut out = vec![0; bytes.len() + 8];
    sekisho_keys::key_wrap(&AesKey::aes128(key), bytes, &mut out).unwrap();
    out
}

#[test]
fn legacy_modes_are_shut_unless_the_policy_names_them() {
    let keys = named_list("K", 18);
    let modes = [
        (Mode::LegacyXor, 2),
        (Mode::LegacyList, 18),
        (Mode::LegacyOperations, 18),
        (Mode::LegacyTurns, 2),
    ];
    for (mode, count) in modes {
        let opening = wrapped(mode, &keys[..count]);
        let command = opening.command();
        for (allowed, _) in modes {
            let policy = Policy::new().allow(allowed);
            let result = open_card(&policy, &mkey(), [0; 16], &command, &mut TestRng::new(0)).err();
            assert_eq!(result, (allowed != mode).then_some(ScheduleError::NotAllowed));
        }
        assert_eq!(ScheduleError::NotAllowed.status().0, 0x6985);
        assert!(mode.name().starts_with("legacy-"));
        assert_eq!(Mode::from_p1(mode.p1()), Some(mode));
    }
    assert!(!Policy::default().allows(Mode::LegacyXor) && Policy::default().allows(Mode::Ratchet));
}

#[test]
fn openings_that_are_wrong_are_refused() {
    let keys = named_list("K", 18);
    let policy = Policy::new().allow(Mode::LegacyList).allow(Mode::LegacyXor);
    let opening = wrapped(Mode::LegacyList, &keys);
    let command = opening.command();
    let data = command.data.to_vec();
    let open =
        |command: &CApdu<'_>| open_card(&policy, &mkey(), [0; 16], command, &mut TestRng::new(0)).err();
    assert_eq!(open(&command), None);
    for bit in (0..data.len() * 8).step_by(37) {
        let mut bad = data.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(&command.with_data(&bad)), Some(ScheduleError::BadKeyData));
    }
    for len in [0, 7, 8, 15, 16, 23, 24, data.len() - 1] {
        assert_eq!(
            open(&command.with_data(&data[..len])),
            Some(ScheduleError::BadKeyData),
            "{len}"
        );
    }
    assert_eq!(
        open(&command.with_data(&[0; 700])),
        Some(ScheduleError::BadKeyData)
    );
    // Every other P1 and P2: another mode or other lanes have another wrapping key, and the rest is no opening of this version.
    for p1 in (0..=0xFF).filter(|p1| *p1 != command.p1) {
        let refused = match Mode::from_p1(p1) {
            Some(mode) if policy.allows(mode) && mode != Mode::Ratchet => ScheduleError::BadKeyData,
            Some(Mode::Ratchet) => ScheduleError::NotAllowed,
            _ => ScheduleError::NotAllowed,
        };
        assert_eq!(open(&CApdu { p1, ..command }), Some(refused), "P1 {p1:02X}");
    }
    for p2 in (0..=0xFF).filter(|p2| *p2 != command.p2) {
        let refused = if p2 == 0x11 {
            ScheduleError::BadKeyData
        } else {
            ScheduleError::NotAllowed
        };
        assert_eq!(open(&CApdu { p2, ..command }), Some(refused), "P2 {p2:02X}");
    }
    assert_eq!(
        open(&CApdu {
            cla: Cla(0x81),
            ..command
        }),
        Some(ScheduleError::BadKeyData)
    );
    // The key of the opening opens at this challenge alone.
    let again = open_card(&policy, &mkey(), [1; 16], &command, &mut TestRng::new(0)).err();
    assert_eq!(again, Some(ScheduleError::BadKeyData));
}

/// The wrong number of keys for a mode, equal keys, and half a key at the end: neither does the reader send them.
#[test]
fn wrapped_keys_that_are_wrong_are_refused() {
    let keys = named_list("K", 18);
    let policy = Policy::every_mode();
    let command = CApdu::new(Cla::GP, 0x5A, 2, 0x10);
    let open =
        |command: &CApdu<'_>| open_card(&policy, &mkey(), [0; 16], command, &mut TestRng::new(0)).err();
    let xor = CApdu { p1: 1, ..command };
    let many = wrapped_bytes(1, keys.as_flattened());
    assert_eq!(
        open(&xor.with_data(&many)),
        Some(ScheduleError::BadKeys),
        "18 keys are no K0 and K1"
    );
    let equal = wrapped_bytes(1, &[7; 32]);
    assert_eq!(open(&xor.with_data(&equal)), Some(ScheduleError::RepeatedKey));
    let half = wrapped_bytes(2, &[7; 40]);
    assert_eq!(open(&command.with_data(&half)), Some(ScheduleError::BadKeys));
    for (mode, keys, why) in [
        (Mode::LegacyXor, &keys[..], ScheduleError::BadKeys),
        (Mode::LegacyXor, &[[7; 16]; 2], ScheduleError::RepeatedKey),
        (Mode::LegacyTurns, &[[0; 16], [7; 16]], ScheduleError::ZeroKey),
        (Mode::Ratchet, &keys[..], ScheduleError::NotAllowed),
    ] {
        let how = (mode, Lanes::Shared);
        assert_eq!(
            KeysOpening::new(&mkey(), how, Cla::GP, keys, [0; 16]).err(),
            Some(why)
        );
    }
}

#[test]
fn ratchet_openings_that_are_wrong_are_refused() {
    let opening = |every| {
        RatchetOpening::new(
            EphemeralKey::generate(&mut TestRng::new(1)).unwrap(),
            Lanes::Shared,
            Cla::GP,
            every,
        )
    };
    let policy = Policy::new().refresh_every(100);
    let open =
        |command: &CApdu<'_>| open_card(&policy, &mkey(), [0; 16], command, &mut TestRng::new(2)).err();
    assert_eq!(open(&opening(100).command()), None);
    assert_eq!(open(&opening(101).command()), Some(ScheduleError::NotAllowed));
    assert_eq!(open(&opening(0).command()), Some(ScheduleError::NotAllowed));
    let good = opening(5);
    let data = good.command().data.to_vec();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut data = data.clone();
        change(&mut data);
        open(&good.command().with_data(&data))
    };
    let refused = Some(ScheduleError::BadKeyData);
    assert_eq!(with(&|data| data[66] ^= 1), refused, "not on the curve");
    assert_eq!(with(&|data| data[2] = 0x02), refused);
    assert_eq!(
        with(&|data| {
            data.truncate(35);
            data[2] = 0x02;
        }),
        refused,
        "a compressed point"
    );
    assert_eq!(with(&|data| data.truncate(3)), refused);
    assert_eq!(with(&Vec::clear), refused);
    assert_eq!(with(&|data| data.push(0)), refused);
    // The card's answer likewise at the reader.
    let bad = good.finish(&mkey(), [0; 16], &[4; OPENING_ANSWER_MAX]).err();
    assert_eq!(bad, Some(ScheduleError::BadKeyData));
}

#[test]
fn a_different_mkey_challenge_or_lane_gives_different_keys() {
    let chain = |mkey_name: &str, challenge: u8, lanes: Lanes| {
        let opening = RatchetOpening::new(
            EphemeralKey::generate(&mut TestRng::new(1)).unwrap(),
            lanes,
            Cla::GP,
            5,
        );
        let mkey = AesKey::new(&named(mkey_name)).unwrap();
        let mut rng = TestRng::new(2);
        let card = open_card(
            &Policy::new(),
            &mkey,
            [challenge; 16],
            &opening.command(),
            &mut rng,
        )
        .unwrap();
        state_of(|sink| card.opened.schedule.expose(sink))
    };
    let base = chain("MKEY", 1, Lanes::Shared);
    assert_ne!(base, chain("other", 1, Lanes::Shared));
    assert_ne!(base, chain("MKEY", 2, Lanes::Shared));
    assert_ne!(base, chain("MKEY", 1, Lanes::Separate));
}
