//! What is not right never opens anything, and never changes anything but to close.

use crate::common;
use common::*;
use proptest::prelude::*;
use sekisho_apdu::{CApdu, StatusWord};
use sekisho_messaging::card::Received;
use sekisho_messaging::reader::MAX_WRONG_ANSWERS;
use sekisho_messaging::schedule::{KeySchedule, Ratchet, ScheduleError, Selector};
use sekisho_messaging::{SmError, Ssc};

const READ: [u8; 5] = [0x00, 0xB0, 0, 0, 8];

#[test]
fn every_flipped_bit_of_a_command_closes_the_card_with_an_sm_status() {
    for kind in KINDS {
        for lanes in LANES {
            let (mut reader, _) = ends(pair(kind, lanes));
            let selector = reader.propose(&mut TestRng::new(1));
            let command = protect(&mut reader, &unhex("00D6000003AABBCC10"), selector);
            // Le' alone is outside the MAC: it says nothing that data object 97 does not.
            for bit in 0..(command.len() - 1) * 8 {
                let (_, mut card) = ends(pair(kind, lanes));
                let mut bad = command.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let mut plain = [0; 300];
                let error = card.receive(&bad, &mut plain).unwrap_err();
                assert!(
                    matches!(error.status().0, 0x6700 | 0x6987 | 0x6988),
                    "{kind} bit {bit}: {error:?}"
                );
                assert!(!card.is_open());
                assert_eq!(card.receive(&command, &mut plain).unwrap_err(), SmError::Closed);
                assert_eq!(
                    card.answer(&[], StatusWord::NO_ERROR).unwrap_err(),
                    SmError::Closed
                );
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_a_response_is_refused_and_the_right_one_still_taken() {
    for kind in KINDS {
        let (mut reader, mut card) = ends(pair(kind, LANES[0]));
        let selector = reader.propose(&mut TestRng::new(1));
        let command = protect(&mut reader, &READ, selector);
        receive(&mut card, &command);
        let response = answer(&mut card, &unhex("01020304050607089000"));
        for bit in 0..response.len() * 8 {
            let (mut reader, _) = ends(pair(kind, LANES[0]));
            protect(&mut reader, &READ, selector);
            let mut bad = response.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let before = state_of(|sink| reader.expose(sink));
            let mut plain = [0; 300];
            reader.receive(&bad, &mut plain).unwrap_err();
            let mut after = state_of(|sink| reader.expose(sink));
            assert_eq!(after.pop(), Some(1), "only the count of wrong answers moves");
            assert_eq!(after, before[..before.len() - 1]);
            assert_eq!(accept(&mut reader, &response), unhex("01020304050607089000"));
        }
    }
}

#[test]
fn wrong_answers_are_counted_and_close_the_reader() {
    let (mut reader, _) = ends(pair("ratchet", LANES[0]));
    protect(&mut reader, &READ, Selector::NONE);
    for _ in 0..MAX_WRONG_ANSWERS {
        assert_eq!(
            reader.receive(&[0x69, 0x88], &mut []).unwrap_err(),
            SmError::Unprotected(StatusWord::SM_OBJECTS_INCORRECT)
        );
    }
    assert!(!reader.is_open());
}

#[test]
fn a_plain_command_closes_with_6987() {
    for kind in KINDS {
        let (_, mut card) = ends(pair(kind, LANES[0]));
        assert_eq!(
            card.receive(&READ, &mut [0; 16]).unwrap_err().status(),
            StatusWord::SM_OBJECTS_MISSING
        );
        assert!(!card.is_open());
    }
    // 04 and 08 say other kinds of secure messaging, FF says nothing.
    for cla in [0x04, 0x08, 0x2C, 0xFF] {
        let (mut reader, mut card) = ends(fixed());
        let mut command = protect(&mut reader, &READ, Selector::NONE);
        command[0] = cla;
        assert_eq!(
            card.receive(&command, &mut [0; 16]).unwrap_err(),
            SmError::MissingObjects
        );
    }
}

/// A protected command around any objects, with a right MAC over them: what a broken reader with the keys could send.
fn authentic(header: [u8; 4], objects: &str) -> Vec<u8> {
    let mut padded = header.to_vec();
    padded.push(0x80);
    padded.resize(16, 0);
    let objects = unhex(objects);
    let mut padding = vec![0x80];
    padding.resize(16 - objects.len() % 16, 0);
    let key = sekisho_keys::AesKey::new(&named("mac")).unwrap();
    let mac = sekisho_keys::cmac(&key, &[&start().next().to_block(), &padded, &objects, &padding]);
    let mut command = header.to_vec();
    command.push(u8::try_from(objects.len() + 10).unwrap());
    command.extend(objects);
    command.extend([0x8E, 8]);
    command.extend(&mac[..8]);
    command.push(0);
    command
}

#[test]
fn objects_out_of_order_doubled_foreign_or_misformed_are_6988_even_with_a_right_mac() {
    let header = [0x0C, 0xB0, 0, 0];
    let (_, mut card) = ends(fixed());
    assert!(
        card.receive(&authentic(header, "970104"), &mut [0; 64]).is_ok(),
        "the helper makes right MACs"
    );
    let block = "00112233445566778899AABBCCDDEEFF";
    for objects in [
        "970104970104".to_owned(),
        format!("9701048711 01{block}").replace(' ', ""),
        format!("8510{block}"),
        format!("8711 02{block}").replace(' ', ""),
        format!("8710{block}"),
        "870101".to_owned(),
        "8700".to_owned(),
        "9700".to_owned(),
        "9703000000".to_owned(),
        "99029000".to_owned(),
        "8101AA".to_owned(),
        "5F2901AA".to_owned(),
        "9701".to_owned(),
        "978401".to_owned(),
        format!("871101{block}"),
    ] {
        let (_, mut card) = ends(fixed());
        let error = card
            .receive(&authentic(header, &objects), &mut [0; 64])
            .unwrap_err();
        assert_eq!(error, SmError::IncorrectObjects, "{objects}");
        assert!(!card.is_open());
    }
}

/// Whole blocks encrypted under the test keys, as hex.
fn cryptogram(ssc: Ssc, plain: &[u8]) -> String {
    let key = sekisho_keys::AesKey::new(&named("enc")).unwrap();
    let mut iv = ssc.to_block();
    sekisho_keys::ecb_block(&key, &mut iv);
    let mut blocks = plain.to_vec();
    sekisho_keys::cbc_encrypt(&key, &iv, &mut blocks).unwrap();
    hex::encode(blocks)
}

#[test]
fn cryptograms_in_the_wrong_object_or_with_wrong_padding_are_6988() {
    let ssc = start().next();
    let one = cryptogram(ssc, &[1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut two = vec![1, 0x80];
    two.resize(32, 0);
    let two = cryptogram(ssc, &two);
    let take = |ins, objects: &str| {
        let (_, mut card) = ends(fixed());
        card.receive(&authentic([0x0C, ins, 0, 0], objects), &mut [0; 64])
            .map(|_| ())
    };
    assert_eq!(take(0xB0, &format!("871101{one}")), Ok(()));
    assert_eq!(take(0xB1, &format!("8510{one}")), Ok(()));
    for (ins, objects) in [
        (0xB0, format!("8510{one}")),
        (0xB1, format!("871101{one}")),
        (0xB0, format!("871100{one}")),
        (0xB0, format!("872101{two}")),
        (0xB0, format!("871101{}", cryptogram(ssc, &[0; 16]))),
        (0xB0, format!("871101{}", cryptogram(ssc, &[0xFF; 16]))),
    ] {
        assert_eq!(
            take(ins, &objects),
            Err(SmError::IncorrectObjects),
            "{ins:02X} {objects}"
        );
    }
}

#[test]
fn a_response_with_the_objects_of_a_command_is_refused_even_with_a_right_mac() {
    let ssc = start().next().next();
    let key = sekisho_keys::AesKey::new(&named("mac")).unwrap();
    for (objects, taken) in [
        ("99029000", true),
        ("97010499029000", false),
        ("970104", false),
        ("9901 90", false),
    ] {
        let objects = unhex(&objects.replace(' ', ""));
        let mut padding = vec![0x80];
        padding.resize(16 - objects.len() % 16, 0);
        let mac = sekisho_keys::cmac(&key, &[&ssc.to_block(), &objects, &padding]);
        let response = [&objects[..], &[0x8E, 8], &mac[..8], &[0x90, 0]].concat();
        let (mut reader, _) = ends(fixed());
        protect(&mut reader, &READ, Selector::NONE);
        let result = reader.receive(&response, &mut [0; 64]).map(|_| ());
        assert_eq!(
            result,
            if taken {
                Ok(())
            } else {
                Err(SmError::IncorrectObjects)
            }
        );
    }
}

#[test]
fn a_reader_that_will_not_refresh_is_shut_out() {
    let make = |every| {
        Ratchet::new(
            sekisho_keys::AesKey::new(&named("chain")).unwrap(),
            LANES[0],
            every,
        )
    };
    let (mut reader, mut card) = ends((make(100), make(1)));
    exchange(&mut reader, &mut card, Selector::NONE, &READ, &[0x90, 0]);
    let command = protect(&mut reader, &READ, Selector::NONE);
    let error = card.receive(&command, &mut [0; 64]).unwrap_err();
    assert_eq!(error, SmError::Schedule(ScheduleError::RefreshDue));
    assert_eq!(error.status().0, 0x6985);
    assert!(!card.is_open());
}

#[test]
fn a_command_too_long_for_the_card_is_answered_with_protection() {
    let plain = unhex("00D6000023AABBCCDDEEFF00112233445566778899AABBCCDDEEFF00112233445566778899AABBCC");
    for name in KINDS {
        for room in [16, 32, 47] {
            let (mut reader, mut card) = ends(pair(name, LANES[1]));
            let selector = reader.propose(&mut TestRng::new(5));
            let bytes = protect(&mut reader, &plain, selector);
            let mut plain = vec![0; room];
            assert_eq!(card.receive(&bytes, &mut plain), Err(SmError::TooLong), "{name}");
            assert!(card.is_open());
            let response = answer(&mut card, &[0x67, 0x00]);
            assert_eq!(accept(&mut reader, &response), [0x67, 0x00], "{name}");
            // The keys have moved on, at both ends alike.
            let selector = reader.propose(&mut TestRng::new(6));
            let next = protect(&mut reader, &READ, selector);
            assert_eq!(receive(&mut card, &next), READ);
        }
        // A wrong MAC is no better for being too long.
        let (mut reader, mut card) = ends(pair(name, LANES[1]));
        let selector = reader.propose(&mut TestRng::new(5));
        let mut wrong = protect(&mut reader, &plain, selector);
        let at = wrong.len() - 2;
        wrong[at] ^= 1;
        assert_eq!(card.receive(&wrong, &mut [0; 16]), Err(SmError::IncorrectObjects));
        assert!(!card.is_open());
    }
}

#[test]
fn buffers_too_small_change_nothing() {
    let (mut reader, mut card) = ends(pair("ratchet", LANES[1]));
    let plain = unhex("00D6000003AABBCC");
    let command = CApdu::parse(&plain).unwrap();
    for len in 0..35 {
        let result = reader
            .protect(&command, Selector::NONE, &mut vec![0; len])
            .map(<[u8]>::len);
        assert_eq!(result, Err(SmError::BufferTooSmall), "{len}");
    }
    let bytes = protect(&mut reader, &plain, Selector::NONE);
    assert_eq!(receive(&mut card, &bytes), plain);
    assert_eq!(
        card.answer(&[0; ANSWER], StatusWord::NO_ERROR),
        Err(SmError::BufferTooSmall)
    );
    let response = answer(&mut card, &[&[7; 20][..], &[0x90, 0]].concat());
    assert_eq!(
        reader.receive(&response, &mut [0; 31]),
        Err(SmError::BufferTooSmall)
    );
    assert_eq!(
        accept(&mut reader, &response),
        [&[7; 20][..], &[0x90, 0]].concat()
    );
}

#[test]
fn nobody_acts_out_of_turn() {
    let (mut reader, mut card) = ends(pair("ratchet", LANES[0]));
    assert_eq!(card.answer(&[], StatusWord::NO_ERROR), Err(SmError::OutOfTurn));
    assert_eq!(card.refresh(&[1; 32]), Err(SmError::OutOfTurn));
    assert_eq!(reader.receive(&[0x90, 0], &mut []), Err(SmError::OutOfTurn));
    let first = protect(&mut reader, &READ, Selector::NONE);
    let parsed = CApdu::parse(&READ).unwrap();
    assert_eq!(
        reader.protect(&parsed, Selector::NONE, &mut [0; 99]),
        Err(SmError::OutOfTurn)
    );
    assert_eq!(reader.refresh(&[1; 32]), Err(SmError::OutOfTurn));
    receive(&mut card, &first);
    assert_eq!(card.receive(&first, &mut [0; 99]), Err(SmError::OutOfTurn));
    assert!(!card.is_open());
}

#[test]
fn commands_that_cannot_be_protected_are_refused_without_a_change() {
    let (mut reader, _) = ends(pair("list", LANES[0]));
    let before = state_of(|sink| reader.expose(sink));
    let mut out = [0; 100];
    for bad in [
        [0x0C, 0xB0, 0, 0, 8],
        [0x20, 0xB0, 0, 0, 8],
        [0xFF, 0xB0, 0, 0, 8],
        [0x60, 0xB0, 0, 0, 8],
    ] {
        let command = CApdu::parse(&bad).unwrap();
        assert_eq!(
            reader.protect(&command, Selector::one(2), &mut out),
            Err(SmError::Malformed)
        );
    }
    let read = CApdu::parse(&READ).unwrap();
    for selector in [Selector::NONE, Selector::pair(2, 3)] {
        let error = reader.protect(&read, selector, &mut out).unwrap_err();
        assert_eq!(error, SmError::Schedule(ScheduleError::BadSelector));
    }
    assert_eq!(state_of(|sink| reader.expose(sink)), before);
}

#[test]
fn debug_output_shows_no_key() {
    let (schedule, _) = pair("ratchet", LANES[0]);
    let exchange = schedule.exchange(Ssc::aes([0; 16])).unwrap();
    assert_eq!(format!("{:?}", exchange.command), "Keys(redacted)");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_at_the_card_give_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80), cla in 0..4_u8) {
        for kind in KINDS {
            let (_, mut card) = ends(pair(kind, LANES[1]));
            let mut bytes = bytes.clone();
            if let Some(first) = bytes.first_mut() {
                *first = 0x0C | cla;
            }
            prop_assert!(card.receive(&bytes, &mut [0; 100]).is_err());
        }
    }

    #[test]
    fn any_objects_with_a_right_mac_never_panic(objects in prop::collection::vec(any::<u8>(), 0..60), ins: u8) {
        let (_, mut card) = ends(fixed());
        let command = authentic([0x0C, ins, 0, 0], &hex::encode(&objects));
        let mut plain = [0; 100];
        if let Ok(Received::Command(command)) = card.receive(&command, &mut plain) {
            prop_assert!(command.data.len() < objects.len().max(1));
        }
    }

    #[test]
    fn any_bytes_at_the_reader_give_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let (mut reader, _) = ends(fixed());
        protect(&mut reader, &READ, Selector::NONE);
        prop_assert!(reader.receive(&bytes, &mut [0; 100]).is_err());
    }

    #[test]
    fn every_command_and_answer_comes_back_the_same(
        data in prop::collection::vec(any::<u8>(), 0..400),
        reply in prop::collection::vec(any::<u8>(), 0..400),
        ins: u8,
        ne in prop::option::of(1..=65536_u32),
        extended: bool,
        kind in 0..5_usize,
        lane in 0..2_usize,
    ) {
        let (mut reader, mut card) = ends(pair(KINDS[kind], LANES[lane]));
        let command = CApdu {
            ne,
            extended: extended && (ne.is_some() || !data.is_empty()),
            ..CApdu::new(sekisho_apdu::Cla::ISO, ins, 1, 2).with_data(&data)
        };
        let selector = reader.propose(&mut TestRng::new(5));
        let mut out = [0; 1000];
        let bytes = reader.protect(&command, selector, &mut out).unwrap();
        let mut plain = [0; 1000];
        let Received::Command(got) = card.receive(bytes, &mut plain).unwrap() else { panic!() };
        prop_assert_eq!((got.cla, got.ins, got.p1, got.p2, got.data, got.ne), (command.cla, ins, 1, 2, &data[..], ne));
        let response = card.answer(&reply, StatusWord(0x6282)).unwrap();
        let answer = reader.receive(response, &mut plain).unwrap();
        prop_assert_eq!((answer.data, answer.sw), (&reply[..], StatusWord(0x6282)));
    }
}
