//! The sequences of the patent's figures and the ratchet's, with fixed randomness, against the worked bytes of the
//! specification page. The page is the test's data: change one and the other must follow.

use crate::common;
use common::*;
use sekisho_apdu::{CApdu, Cla};
use sekisho_keys::{AesKey, Rng, sha256};
use sekisho_messaging::EphemeralKey;
use sekisho_messaging::card::CardMessaging;
use sekisho_messaging::reader::ReaderMessaging;
use sekisho_messaging::schedule::{KeySchedule, Lanes, Schedule, ScheduleError, Selector};
use sekisho_messaging::setup::{
    KeysOpening, Mode, OPENING_ANSWER_MAX, Policy, RatchetOpening, open_card, refresh_command, refresh_secret,
};

const PAGE: &str = include_str!("../../../../docs/spec/rolling-secure-messaging.md");

/// The three commands of the figures: SELECT FILE, WRITE BINARY, READ BINARY, and their answers.
const STEPS: [(&str, &str, &str); 3] = [
    ("select", "00A4020C020011", "9000"),
    ("write", "00D0000004DEADBEEF", "9000"),
    ("read", "00B0000004", "DEADBEEF9000"),
];

fn mkey() -> AesKey {
    AesKey::new(&named("MKEY")).unwrap()
}

/// The block ```` ```hex name=... ```` of the page.
fn worked(name: &str) -> String {
    let mut lines = PAGE
        .lines()
        .skip_while(|line| *line != format!("```hex name={name}"))
        .skip(1);
    let block: String = lines.by_ref().take_while(|line| *line != "```").collect();
    block.split_whitespace().collect::<String>().to_lowercase()
}

/// Collects every difference, so that one run shows all.
#[derive(Default)]
struct Checked {
    wrong: Vec<String>,
    count: usize,
}

impl Checked {
    fn check(&mut self, name: &str, actual: &[u8]) {
        self.count += 1;
        let actual = hex::encode(actual);
        if worked(name) != actual {
            self.wrong.push(format!("{name} {actual}"));
        }
    }

    fn finish(self, count: usize) {
        assert!(self.wrong.is_empty(), "page differs:\n{}", self.wrong.join("\n"));
        assert_eq!(self.count, count);
    }
}

type Ends = (ReaderMessaging<Schedule>, CardMessaging<Schedule, ANSWER>);

/// Figures 3, 9 and 15: the keys go to the card under MKEY.
fn open_legacy(checked: &mut Checked, prefix: &str, mode: Mode, lanes: Lanes, keys: &[[u8; 16]]) -> Ends {
    let opening = KeysOpening::new(&mkey(), (mode, lanes), Cla::GP, keys, named("challenge")).unwrap();
    checked.check(&format!("{prefix}-open"), &encode(&opening.command()));
    let policy = Policy::new().allow(mode);
    let card = open_card(
        &policy,
        &mkey(),
        named("challenge"),
        &opening.command(),
        &mut TestRng::new(0),
    )
    .unwrap();
    let mut answer = [0; OPENING_ANSWER_MAX];
    let answer = card.answer.write(&mut answer);
    checked.check(&format!("{prefix}-open-response"), answer);
    let reader = opening.finish(answer).unwrap();
    (
        ReaderMessaging::new(reader.schedule, reader.ssc),
        CardMessaging::new(card.opened.schedule, card.opened.ssc),
    )
}

/// Figures 4 to 6, 10 to 12 and 16 to 18. `keys` are what must protect each exchange, command and response.
fn three_steps(
    checked: &mut Checked,
    prefix: &str,
    (reader, card): &mut Ends,
    selectors: [Selector; 3],
    keys: [([u8; 16], [u8; 16]); 3],
) {
    for (((name, plain, reply), selector), (command_key, response_key)) in
        STEPS.into_iter().zip(selectors).zip(keys)
    {
        let command = protect(reader, &unhex(plain), selector);
        // The card drops the exchange's keys as it answers, so they are looked at in the reader, which still waits.
        let waiting = state_of(|sink| reader.expose(sink));
        assert!(contains(&waiting, &response_key), "{prefix}-{name}");
        assert_eq!(receive(card, &command), unhex(plain));
        let response = answer(card, &unhex(reply));
        assert_eq!(accept(reader, &response), unhex(reply));
        assert!(mac_is_under(&command, &command_key), "{prefix}-{name}");
        checked.check(&format!("{prefix}-{name}-command"), &command);
        checked.check(&format!("{prefix}-{name}-response"), &response);
    }
}

fn contains(state: &[u8], key: &[u8]) -> bool {
    state.windows(key.len()).any(|window| window == key)
}

/// Whether some counter near the start makes the MAC of this short command right under `key`.
fn mac_is_under(command: &[u8], key: &[u8; 16]) -> bool {
    let key = AesKey::new(key).unwrap();
    let (objects, tail) = command[5..].split_at(command.len() - 5 - 11);
    let padding = [&[0x80][..], &[0; 15]].concat();
    let header = [&command[..4], &padding[..12]].concat();
    let mut ssc = start();
    (0..8).any(|_| {
        ssc = ssc.next();
        let mac = sekisho_keys::cmac(
            &key,
            &[
                &ssc.to_block(),
                &header,
                objects,
                &padding[..16 - objects.len() % 16],
            ],
        );
        mac[..8] == tail[2..10]
    })
}

fn xor(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
    core::array::from_fn(|i| a[i] ^ b[i])
}

fn and(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
    core::array::from_fn(|i| a[i] & b[i])
}

/// Nothing more can be sent: the schedule is used up at both ends.
fn exhausted((reader, card): &mut Ends) {
    let plain = unhex(STEPS[2].1);
    let error = reader
        .protect(&CApdu::parse(&plain).unwrap(), Selector::NONE, &mut [0; 99])
        .unwrap_err();
    assert_eq!(error, ScheduleError::Exhausted.into());
    let error = card
        .receive(&unhex("0CB000000D9701048E08000102030405060700"), &mut [0; 99])
        .unwrap_err();
    assert_eq!(error, ScheduleError::Exhausted.into());
    assert_eq!(error.status().0, 0x6985);
}

#[test]
fn fixed_keys() {
    let mut checked = Checked::default();
    let keys = ["KSenc", "KSmac", "KSenc R", "KSmac R"].map(named);
    let [_, mac, _, answer_mac] = keys;
    for (prefix, lanes, keys, expected) in [
        ("fixed", Lanes::Shared, &keys[..2], (mac, mac)),
        ("fixed-separate", Lanes::Separate, &keys[..], (mac, answer_mac)),
    ] {
        let mut ends = open_legacy(&mut checked, prefix, Mode::Fixed, lanes, keys);
        three_steps(
            &mut checked,
            prefix,
            &mut ends,
            [Selector::NONE; 3],
            [expected; 3],
        );
    }
    checked.finish(16);
}

#[test]
fn embodiment_1_figures_3_to_6() {
    let mut checked = Checked::default();
    let (k0, k1) = (named("K0"), named("K1"));
    let mut ends = open_legacy(&mut checked, "xor", Mode::LegacyXor, Lanes::Shared, &[k0, k1]);
    let k2 = xor(k0, k1);
    let k3 = xor(k1, k2);
    assert_eq!(k3, k0);
    three_steps(
        &mut checked,
        "xor",
        &mut ends,
        [Selector::NONE; 3],
        [(k1, k1), (k2, k2), (k3, k3)],
    );
    exhausted(&mut ends);
    checked.finish(8);
}

#[test]
fn embodiment_1_with_separate_keys() {
    let mut checked = Checked::default();
    let keys = ["K0", "K1", "R0", "R1"].map(named);
    let [k0, k1, r0, r1] = keys;
    let mut ends = open_legacy(
        &mut checked,
        "xor-separate",
        Mode::LegacyXor,
        Lanes::Separate,
        &keys,
    );
    let expected = [(k1, r1), (xor(k0, k1), xor(r0, r1)), (k0, r0)];
    three_steps(
        &mut checked,
        "xor-separate",
        &mut ends,
        [Selector::NONE; 3],
        expected,
    );
    exhausted(&mut ends);
    checked.finish(8);
}

/// XOR, AND, XOR: K1, K0 XOR K1, K1 AND K2, and, not shown, K2 XOR K3.
#[test]
fn claims_2_and_5() {
    let mut checked = Checked::default();
    let keys = ["K0", "K1", "R0", "R1"].map(named);
    let [k0, k1, r0, r1] = keys;
    let (k2, r2) = (xor(k0, k1), xor(r0, r1));
    let (k3, r3) = (and(k1, k2), and(r1, r2));
    for (prefix, lanes, keys, expected) in [
        ("turns", Lanes::Shared, &keys[..2], [(k1, k1), (k2, k2), (k3, k3)]),
        (
            "turns-separate",
            Lanes::Separate,
            &keys[..],
            [(k1, r1), (k2, r2), (k3, r3)],
        ),
    ] {
        let mut ends = open_legacy(&mut checked, prefix, Mode::LegacyTurns, lanes, keys);
        three_steps(&mut checked, prefix, &mut ends, [Selector::NONE; 3], expected);
        let (reader, card) = &mut ends;
        let left = state_of(|sink| card.expose(sink));
        assert!(contains(&left, &xor(k2, k3)), "the fourth key is ready");
        exchange(
            reader,
            card,
            Selector::NONE,
            &unhex(STEPS[2].1),
            &unhex(STEPS[2].2),
        );
        exhausted(&mut ends);
    }
    checked.finish(16);
}

#[test]
fn embodiment_2_figures_9_to_12() {
    let mut checked = Checked::default();
    let keys = named_list("K", 18);
    let mut ends = open_legacy(&mut checked, "list", Mode::LegacyList, Lanes::Shared, &keys);
    // K1, then K12 (step S51), K5 (S61); K17 (S71) would come next.
    let key = |number: usize| (keys[number - 1], keys[number - 1]);
    let selectors = [12, 5, 17].map(Selector::one);
    three_steps(
        &mut checked,
        "list",
        &mut ends,
        selectors,
        [key(1), key(12), key(5)],
    );
    assert_eq!(ends.0.key_numbers(), Some((17, 17)));
    checked.finish(8);
}

#[test]
fn embodiment_2_with_separate_keys() {
    let mut checked = Checked::default();
    let keys = named_list("K", 18);
    let mut ends = open_legacy(
        &mut checked,
        "list-separate",
        Mode::LegacyList,
        Lanes::Separate,
        &keys,
    );
    let key = |command: usize, response: usize| (keys[command - 1], keys[response - 1]);
    let selectors = [Selector::pair(12, 3), Selector::pair(5, 18), Selector::pair(0, 0)];
    three_steps(
        &mut checked,
        "list-separate",
        &mut ends,
        selectors,
        [key(1, 2), key(12, 3), key(5, 18)],
    );
    checked.finish(8);
}

#[test]
fn embodiment_3_figures_15_to_18() {
    let mut checked = Checked::default();
    let ek = named_list("EK", 18);
    let mut ends = open_legacy(
        &mut checked,
        "operations",
        Mode::LegacyOperations,
        Lanes::Shared,
        &ek,
    );
    let k1 = ek[0];
    let k2 = xor(k1, ek[11]); // operation 1 with EK12, step S98
    let k3 = and(k2, ek[4]); // operation 2 with EK5, step S108
    let k4 = xor(ek[4], ek[16]); // operation 3 with EK17, step S118
    let selectors = [12, 5, 17].map(Selector::one);
    three_steps(
        &mut checked,
        "operations",
        &mut ends,
        selectors,
        [(k1, k1), (k2, k2), (k3, k3)],
    );
    assert!(contains(&state_of(|sink| ends.0.expose(sink)), &k4));
    assert!(contains(&state_of(|sink| ends.1.expose(sink)), &k4));
    checked.finish(8);
}

#[test]
fn embodiment_3_with_separate_keys() {
    let mut checked = Checked::default();
    let ek = named_list("EK", 18);
    let mut ends = open_legacy(
        &mut checked,
        "operations-separate",
        Mode::LegacyOperations,
        Lanes::Separate,
        &ek,
    );
    let second = (xor(ek[0], ek[11]), xor(ek[1], ek[2]));
    let third = (and(second.0, ek[4]), and(second.1, ek[8]));
    let selectors = [Selector::pair(12, 3), Selector::pair(5, 9), Selector::pair(0, 0)];
    let keys = [(ek[0], ek[1]), second, third];
    three_steps(&mut checked, "operations-separate", &mut ends, selectors, keys);
    checked.finish(8);
}

fn ephemeral(name: &str) -> EphemeralKey {
    EphemeralKey::generate(&mut Script(sha256(&[name.as_bytes()]).to_vec())).unwrap()
}

fn open_ratchet(checked: &mut Checked, prefix: &str, lanes: Lanes) -> Ends {
    let opening = RatchetOpening::new(ephemeral("reader 1"), lanes, Cla::GP, 3);
    checked.check(&format!("{prefix}-open"), &encode(&opening.command()));
    let mut rng = Script(sha256(&[b"card 1"]).to_vec());
    let card = open_card(
        &Policy::new(),
        &mkey(),
        named("challenge"),
        &opening.command(),
        &mut rng,
    )
    .unwrap();
    let mut response = [0; OPENING_ANSWER_MAX];
    let response = card.answer.write(&mut response);
    checked.check(&format!("{prefix}-open-response"), response);
    let reader = opening.finish(&mkey(), named("challenge"), response).unwrap();
    let chain = state_of(|sink| reader.schedule.expose(sink))[..16].to_vec();
    checked.check(&format!("{prefix}-chain-1"), &chain);
    (
        ReaderMessaging::new(reader.schedule, reader.ssc),
        CardMessaging::new(card.opened.schedule, card.opened.ssc),
    )
}

#[test]
fn ratchet_and_its_refresh() {
    let mut checked = Checked::default();
    for (prefix, lanes) in [("ratchet", Lanes::Shared), ("ratchet-separate", Lanes::Separate)] {
        let (mut reader, mut card) = open_ratchet(&mut checked, prefix, lanes);
        for (name, plain, reply) in STEPS {
            let (command, response) = exchange(
                &mut reader,
                &mut card,
                Selector::NONE,
                &unhex(plain),
                &unhex(reply),
            );
            checked.check(&format!("{prefix}-{name}-command"), &command);
            checked.check(&format!("{prefix}-{name}-response"), &response);
        }
        assert!(reader.refresh_due());
        let other = CApdu::parse(&[0, 0xB0, 0, 0, 4]).unwrap();
        let error = reader.protect(&other, Selector::NONE, &mut [0; 99]).unwrap_err();
        assert_eq!(error, ScheduleError::RefreshDue.into());
        let (own, peer) = (ephemeral("reader 2"), ephemeral("card 2"));
        let (reader_key, card_key) = (own.public_key(), peer.public_key());
        let command = protect(
            &mut reader,
            &encode(&refresh_command(&reader_key)),
            Selector::NONE,
        );
        receive(&mut card, &command);
        card.refresh(&*refresh_secret(&mkey(), peer, &reader_key, &card_key).unwrap())
            .unwrap();
        let response = answer(&mut card, &[&card_key[..], &[0x90, 0]].concat());
        accept(&mut reader, &response);
        reader
            .refresh(&*refresh_secret(&mkey(), own, &reader_key, &card_key).unwrap())
            .unwrap();
        checked.check(&format!("{prefix}-refresh-command"), &command);
        checked.check(&format!("{prefix}-refresh-response"), &response);
        checked.check(
            &format!("{prefix}-chain-5"),
            &state_of(|sink| reader.expose(sink))[..16],
        );
        let (name, plain, reply) = STEPS[2];
        let (command, _) = exchange(
            &mut reader,
            &mut card,
            Selector::NONE,
            &unhex(plain),
            &unhex(reply),
        );
        checked.check(&format!("{prefix}-{name}-after-refresh"), &command);
    }
    checked.finish(2 * 13);
}

#[test]
fn the_page_names_every_block_once_and_its_named_keys_are_right() {
    let names: Vec<_> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("```hex name="))
        .collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(names.len(), sorted.len());
    assert_eq!(names.len(), 10 * 8 + 2 * 13 + 4);
    assert_eq!(worked("mkey"), hex::encode(named("MKEY")));
    assert_eq!(worked("challenge"), hex::encode(named("challenge")));
    assert_eq!(worked("reader-ephemeral"), hex::encode(sha256(&[b"reader 1"])));
    let mut rng = Script(vec![0; 128]);
    assert!(
        EphemeralKey::generate(&mut rng).is_err(),
        "a broken generator is refused"
    );
    rng.fill(&mut []);
}
