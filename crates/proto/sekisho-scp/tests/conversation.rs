//! Random conversations between the two roles, and everything that an attacker between them can do.

use crate::common;
use common::{Command, initiated, pair, read_response, respond, unwrap, wrap, written};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::select;
use sekisho_apdu::{CApdu, Cla};
use sekisho_keys::{cbc_encrypt, cmac, ecb_block};
use sekisho_scp::card::{InitializeUpdate, SecureChannel};
use sekisho_scp::host::{Challenge, SessionKeys, pseudo_random_card_challenge};
use sekisho_scp::{MacMode, ScpError, ScpParameter, SecurityLevel};

const PARAMETERS: [u8; 12] = [
    0x00, 0x01, 0x10, 0x11, 0x20, 0x21, 0x30, 0x31, 0x60, 0x61, 0x70, 0x71,
];

/// Key length, "i" and a level that it allows and `wanted` takes.
fn setup(wanted: fn(SecurityLevel) -> bool) -> impl Strategy<Value = (usize, u8, SecurityLevel)> {
    let all: Vec<_> = PARAMETERS
        .into_iter()
        .flat_map(|i| SecurityLevel::ALL.map(|level| (i, level)))
        .filter(|(i, level)| wanted(*level) && ScpParameter::new(*i).is_some_and(|i| i.allows(*level)))
        .collect();
    (select(vec![16, 24, 32]), select(all)).prop_map(|(key_len, (i, level))| (key_len, i, level))
}

fn data(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), proptest::collection::vec(any::<u8>(), 0..max)]
}

/// A command of any class without secure messaging, on any logical channel, short or long.
fn command() -> impl Strategy<Value = Command> {
    let cla = select((0..=0xFE).filter(|v| is_plain(Cla(*v))).collect::<Vec<u8>>());
    (
        cla,
        any::<[u8; 3]>(),
        data(300),
        proptest::option::of(1u32..=65_536),
    )
        .prop_map(|(cla, [ins, p1, p2], data, ne)| Command {
            header: [cla, ins, p1, p2],
            data,
            ne,
        })
}

/// A class byte that says no secure messaging, and could (DF would become FF).
fn is_plain(cla: Cla) -> bool {
    cla.is_supported()
        && cla.with_secure_messaging(false) == cla
        && cla.with_secure_messaging(true).is_supported()
}

fn is_closed(card: &mut SecureChannel) -> bool {
    let closed = unwrap(card, &[0x84, 0xCA, 0, 0]) == Err(ScpError::Closed);
    closed && card.authenticated().is_none()
}

proptest! {
    #[test]
    fn what_one_says_the_other_hears(
        (key_len, i, level) in setup(|_| true),
        steps in proptest::collection::vec((command(), data(300), select(vec![0x9000, 0x6283, 0x6310, 0x6A88, 0x6F00])), 1..6),
    ) {
        let (mut card, mut host) = pair(key_len, i, level);
        prop_assert_eq!(card.level(), level);
        for (command, answer, sw) in steps {
            let bytes = wrap(&mut host, &command);
            prop_assert_eq!(unwrap(&mut card, &bytes), Ok(command));
            let bytes = respond(&mut card, &answer, sw);
            // An error has no data field where responses are protected, for nothing would protect it (Amd D 6.2.5).
            let bare = level.r_mac() && !(sw == 0x9000 || sw >> 8 == 0x62 || sw >> 8 == 0x63);
            let expected = if bare { Vec::new() } else { answer };
            prop_assert_eq!(read_response(&mut host, &bytes), Ok((expected, sw)));
        }
    }

    #[test]
    fn any_flipped_bit_is_refused_and_closes((key_len, i, level) in setup(SecurityLevel::c_mac), first in command(), command in command(), at in any::<proptest::sample::Index>()) {
        let (mut card, mut host) = pair(key_len, i, level);
        let bytes = wrap(&mut host, &first);
        prop_assert!(unwrap(&mut card, &bytes).is_ok());
        let mut bytes = wrap(&mut host, &command);
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        match unwrap(&mut card, &bytes) {
            // What Amendment D leaves out of the C-MAC: the logical channel and Le. No other bit can pass.
            Ok(heard) => {
                let [_, ins, p1, p2] = command.header;
                let basic = |cla: u8| Cla(cla).with_logical_channel(0);
                prop_assert_eq!(heard.header, [heard.header[0], ins, p1, p2]);
                prop_assert_eq!(basic(heard.header[0]), basic(command.header[0]));
                prop_assert_eq!(heard.data, command.data);
            }
            // A string that is no C-APDU any more never reaches the channel.
            Err(_) => prop_assert!(CApdu::parse(&bytes).is_err() || is_closed(&mut card)),
        }
    }

    #[test]
    fn any_flipped_bit_of_a_protected_response_is_refused((key_len, i, level) in setup(SecurityLevel::r_mac), answer in data(100), at in any::<proptest::sample::Index>()) {
        let (mut card, mut host) = pair(key_len, i, level);
        let command = Command { header: [0x80, 0xCA, 0, 0x66], data: vec![], ne: Some(256) };
        let bytes = wrap(&mut host, &command);
        prop_assert!(unwrap(&mut card, &bytes).is_ok());
        let mut bytes = respond(&mut card, &answer, 0x9000);
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(read_response(&mut host, &bytes), Err(ScpError::Mac));
        prop_assert_eq!(read_response(&mut host, &bytes), Err(ScpError::Closed));
    }

    #[test]
    fn replay_reorder_and_drop_are_refused((key_len, i, level) in setup(SecurityLevel::c_mac), a in command(), b in command(), how in 0..3) {
        let (mut card, mut host) = pair(key_len, i, level);
        let (first, second) = (wrap(&mut host, &a), wrap(&mut host, &b));
        match how {
            0 => {
                prop_assert!(unwrap(&mut card, &first).is_ok());
                prop_assert_eq!(unwrap(&mut card, &first), Err(ScpError::Mac));
            }
            // The second before the first, which is the first dropped as well.
            _ => prop_assert_eq!(unwrap(&mut card, &second), Err(ScpError::Mac)),
        }
        prop_assert!(is_closed(&mut card));
        prop_assert_eq!(unwrap(&mut card, &second), Err(ScpError::Closed));
    }

    #[test]
    fn a_plain_command_ends_a_channel_with_c_mac((key_len, i, level) in setup(SecurityLevel::c_mac), command in command()) {
        let (mut card, _) = pair(key_len, i, level);
        let bytes = written(|out| command.capdu().encode(out)).unwrap();
        prop_assert_eq!(unwrap(&mut card, &bytes), Err(ScpError::Mac));
        prop_assert!(is_closed(&mut card));
    }

    #[test]
    fn no_byte_string_is_taken_for_a_command((key_len, i, level) in setup(|_| true), bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (mut card, mut host) = pair(key_len, i, level);
        if level.c_mac() {
            prop_assert!(unwrap(&mut card, &bytes).is_err());
        } else {
            let _ = unwrap(&mut card, &bytes);
        }
        if level.r_mac() {
            prop_assert!(read_response(&mut host, &[&bytes[..], &[0x90, 0x00]].concat()).is_err());
        }
    }

    #[test]
    fn no_byte_string_authenticates(i in select(PARAMETERS.to_vec()), bytes in proptest::collection::vec(any::<u8>(), 0..80), p1 in any::<u8>()) {
        let parameter = ScpParameter::new(i).unwrap();
        let (card, _, _) = initiated(16, parameter, SecurityLevel::AUTHENTICATED);
        prop_assert!(card.authenticate(&bytes).is_err());
        // The same behind a right header.
        let size = 2 * parameter.mac_mode().size();
        let data: Vec<u8> = bytes.iter().copied().chain(core::iter::repeat(0)).take(size).collect();
        let command = CApdu::new(Cla(0x84), 0x82, p1, 0x00).with_data(&data);
        let bytes = written(|out| command.encode(out)).unwrap();
        let (card, _, _) = initiated(16, parameter, SecurityLevel::AUTHENTICATED);
        let error = card.authenticate(&bytes).unwrap_err();
        let allowed = SecurityLevel::from_p1(p1).is_some_and(|level| parameter.allows(level));
        prop_assert_eq!(error, if allowed { ScpError::Cryptogram } else { ScpError::Parameter });
    }
}

#[test]
fn a_level_that_i_does_not_allow_is_refused() {
    for i in PARAMETERS {
        let parameter = ScpParameter::new(i).unwrap();
        for level in SecurityLevel::ALL {
            let (card, _, external) = initiated(16, parameter, level);
            let authenticated = card.authenticate(&external);
            if parameter.allows(level) {
                assert_eq!(authenticated.unwrap().level(), level, "i {i:02X}");
            } else {
                assert_eq!(
                    authenticated.unwrap_err(),
                    ScpError::Parameter,
                    "i {i:02X} {level:?}"
                );
            }
        }
    }
}

#[test]
fn external_authenticate_flips_are_told_apart() {
    let parameter = ScpParameter::new(0x70).unwrap();
    let (_, _, good) = initiated(16, parameter, SecurityLevel::FULL);
    assert_eq!(good.len(), 5 + 16);
    for bit in 0..good.len() * 8 {
        let (card, _, mut external) = initiated(16, parameter, SecurityLevel::FULL);
        external[bit / 8] ^= 1 << (bit % 8);
        let result = card.authenticate(&external);
        match bit / 8 {
            0 if bit < 2 => assert!(result.is_ok(), "the logical channel is not protected"),
            5..13 => assert_eq!(result.unwrap_err(), ScpError::Cryptogram, "bit {bit}"),
            13.. => assert_eq!(result.unwrap_err(), ScpError::Mac, "bit {bit}"),
            _ => assert!(result.is_err(), "bit {bit}"),
        }
    }
    // With Le as well: hosts do either.
    let (card, _, mut external) = initiated(16, parameter, SecurityLevel::FULL);
    external.push(0);
    assert!(card.authenticate(&external).is_ok());
}

#[test]
fn initialize_update_is_parsed_strictly() {
    let parse = |bytes: &[u8]| {
        InitializeUpdate::parse(&CApdu::parse(bytes).unwrap()).map(|u| (u.kvn, u.host_challenge.len()))
    };
    assert_eq!(
        parse(&[&[0x80, 0x50, 0x30, 0, 8][..], &[1; 8]].concat()),
        Ok((0x30, 8))
    );
    assert_eq!(
        parse(&[&[0x80, 0x50, 0, 0, 16][..], &[1; 16], &[0]].concat()),
        Ok((0, 16))
    );
    assert_eq!(
        parse(&[&[0x80, 0x50, 0, 0, 9][..], &[1; 9]].concat()),
        Err(ScpError::Length)
    );
    assert_eq!(parse(&[0x80, 0x50, 0, 0]), Err(ScpError::Length));
    assert_eq!(
        parse(&[&[0x80, 0x50, 0, 1, 8][..], &[1; 8]].concat()),
        Err(ScpError::Parameter)
    );
    assert_eq!(
        parse(&[&[0x80, 0x51, 0, 0, 8][..], &[1; 8]].concat()),
        Err(ScpError::Command)
    );
}

#[test]
fn the_sequence_counter_ends_at_three_bytes() {
    // Amd D 6.2.2.1: INITIALIZE UPDATE is refused when the maximum is passed; a random challenge has no counter.
    let initiate = |i, seq| {
        let (keys, aid) = (common::key_set(16), common::aid("A000000151000000"));
        written(|out| {
            let (i, rng) = (ScpParameter::new(i).unwrap(), &mut common::Counting(1));
            sekisho_scp::card::initiate(&keys, 0x30, i, &[0; 10], seq, &aid, &[0; 8], rng, out).map(|_| ())
        })
    };
    assert_eq!(initiate(0x70, 0xFF_FFFF).unwrap()[29..], [0xFF; 3]);
    assert_eq!(initiate(0x70, 0x100_0000), Err(ScpError::CounterExhausted));
    assert_eq!(initiate(0x60, 0x100_0000).unwrap().len(), 29);
    let aid = common::aid("A000000151000000");
    let challenge = pseudo_random_card_challenge(&common::key_set(16).enc, 0x100_0000, &aid, MacMode::S8);
    assert_eq!(challenge, Err(ScpError::CounterExhausted));
}

#[test]
fn one_response_for_one_command() {
    let (mut card, mut host) = pair(16, 0x70, SecurityLevel::FULL);
    let command = Command {
        header: [0x80, 0xCA, 0, 0x66],
        data: vec![],
        ne: Some(256),
    };
    unwrap(&mut card, &wrap(&mut host, &command)).unwrap();
    respond(&mut card, &[1, 2, 3], 0x9000);
    let again = written(|out| card.wrap_response(&[4, 5, 6], sekisho_apdu::StatusWord::NO_ERROR, out));
    assert_eq!(
        again,
        Err(ScpError::Sequence),
        "the same ICV must not encipher twice"
    );
    assert!(is_closed(&mut card));
}

#[test]
fn a_class_byte_that_cannot_say_secure_messaging_is_not_wrapped() {
    let (mut card, mut host) = pair(16, 0x70, SecurityLevel::FULL);
    let refused = written(|out| host.wrap(&CApdu::new(Cla(0xDF), 0xCA, 0, 0), out));
    assert_eq!(refused, Err(ScpError::Parameter));
    let command = Command {
        header: [0xCF, 0xCA, 0, 0],
        data: vec![1],
        ne: None,
    };
    assert_eq!(
        unwrap(&mut card, &wrap(&mut host, &command)),
        Ok(command),
        "and nothing was counted for it"
    );
}

#[test]
fn an_enciphered_empty_field_is_an_empty_field() {
    // yubikit (yubikit/core/smartcard/scp.py) enciphers the padding of an absent data field; our own host does not, so it is made by hand.
    let keys = common::key_set(16);
    let host_challenge = Challenge::try_from(&[0, 1, 2, 3, 4, 5, 6, 7][..]).unwrap();
    let aid = common::aid("A000000151000000");
    let card_challenge = pseudo_random_card_challenge(&keys.enc, 0x0102, &aid, MacMode::S8).unwrap();
    let session_keys = SessionKeys::derive(&keys, &host_challenge, &card_challenge).unwrap();
    let level = SecurityLevel::C_DECRYPTION_C_MAC;
    let (card, _, external) = initiated(16, ScpParameter::new(0x70).unwrap(), level);
    let mut card = card.authenticate(&external).unwrap();

    let chaining = cmac(&session_keys.s_mac, &[&[0; 16], &external[..5 + 8]]);
    let mut icv = 1u128.to_be_bytes();
    ecb_block(&session_keys.s_enc, &mut icv);
    let mut field = (0x80u128 << 120).to_be_bytes();
    cbc_encrypt(&session_keys.s_enc, &icv, &mut field).unwrap();
    let header = [0x84, 0xCA, 0x00, 0x66, 16 + 8];
    let c_mac = cmac(&session_keys.s_mac, &[&chaining, &header, &field]);
    let bytes = [&header[..], &field, &c_mac[..8]].concat();
    assert_eq!(
        unwrap(&mut card, &bytes),
        Ok(Command {
            header: [0x80, 0xCA, 0x00, 0x66],
            data: vec![],
            ne: None
        })
    );
}

#[test]
fn nothing_prints_a_key() {
    let (card, host) = pair(16, 0x70, SecurityLevel::FULL);
    assert_eq!(
        format!("{card:?}"),
        "SecureChannel { authenticated: Proof { level: SecurityLevel(51), kvn: 48, sequence_counter: 258 }, open: true, .. }"
    );
    assert_eq!(
        format!("{host:?}"),
        "HostChannel { level: Some(SecurityLevel(51)), open: true, .. }"
    );
}
