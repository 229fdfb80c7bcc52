//! RFC 8448's application data, and each end of the record layer against the other where there are no published bytes.

use std::vec;
use std::vec::Vec;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
        .collect()
}

/// RFC 8448, 3: the traffic secrets, keys and IVs of application data, and the client's record.
#[test]
fn rfc_8448_simple_handshake() {
    let client = hex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5");
    let server = hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
    let direction = |secret: &[u8]| Direction::from_secret(secret.try_into().unwrap());
    let rx = direction(&server);
    assert!(rx.is(
        &hex("9f02283b6c9c07efc26bb9f2ac92e356"),
        &hex("cf782b88dd83549aadf1e984")
    ));
    let tx = direction(&client);
    assert!(tx.is(
        &hex("17422dda596ed5d9acd890e3c63f5051"),
        &hex("5b78923dee08579033e523d9")
    ));
    let record = "a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4";
    let text: Vec<u8> = (0..50).collect();
    let mut out = [0; 67];
    let mut writer = Writer::new(&mut out);
    Traffic::new(Version::Tls13, tx, rx)
        .seal(APPLICATION_DATA, &text, &mut writer)
        .unwrap();
    assert_eq!(writer.written(), hex(record));
    let mut traffic = Traffic::new(Version::Tls13, direction(&server), direction(&client));
    let mut record = hex(record);
    assert_eq!(
        traffic.hear(APPLICATION_DATA, &mut record),
        Ok(Said::Data(&mut text.clone()[..]))
    );
}

/// RFC 8448, 3: the exporter's master secret, made as the exporter's values are (RFC 8446, 7.1 and 7.5). What engines and servers of others make of it the sessions in `tests/` compare.
#[test]
fn rfc_8448_exporter_master_secret() {
    let master = hex("18df06843d13a08bf2a449844c5f8a478001bc4d4c627984d5a41da8d0402919");
    let transcript = hex("9608102a0f1ccc6db6250b7b7e417b1a000eaada3daae4777a7686c9ff83df13");
    let made = expand_label(&master.try_into().unwrap(), b"exp master", &transcript, 32);
    assert_eq!(
        made[..],
        hex("fe22f881176eda18eb8f44529e6792c50c9a3f89452f68d8ae311b4309d3cf50")
    );
}

/// Two ends of one session.
fn ends(version: Version) -> (Traffic, Traffic) {
    let direction = |byte: u8| match version {
        Version::Tls13 => Direction::from_secret([byte; 32]),
        Version::Tls12 => Direction::from_keys(&[byte; 16], [byte; 12], 1),
    };
    (
        Traffic::new(version, direction(1), direction(2)),
        Traffic::new(version, direction(2), direction(1)),
    )
}

fn seal(traffic: &mut Traffic, content_type: u8, text: &[u8]) -> Vec<u8> {
    let mut out = vec![0; text.len() + 100];
    let mut writer = Writer::new(&mut out);
    traffic.seal(content_type, text, &mut writer).unwrap();
    assert_eq!(writer.len(), text.len() + traffic.overhead());
    writer.written().to_vec()
}

const BOTH: [Version; 2] = [Version::Tls12, Version::Tls13];

#[test]
fn what_is_changed_repeated_or_out_of_order_is_no_record() {
    for version in BOTH {
        let (mut tx, mut rx) = ends(version);
        let first = seal(&mut tx, APPLICATION_DATA, b"first");
        let second = seal(&mut tx, APPLICATION_DATA, b"second");
        for bit in 0..first.len() * 8 {
            let mut changed = first.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                rx.hear(APPLICATION_DATA, &mut changed),
                Err(Alert::BAD_RECORD_MAC)
            );
        }
        for len in 0..first.len() {
            assert_eq!(
                rx.hear(APPLICATION_DATA, &mut first.clone()[..len]),
                Err(Alert::BAD_RECORD_MAC)
            );
        }
        assert_eq!(
            rx.hear(APPLICATION_DATA, &mut second.clone()),
            Err(Alert::BAD_RECORD_MAC)
        );
        let other = if version == Version::Tls12 {
            Alert::BAD_RECORD_MAC
        } else {
            Alert::UNEXPECTED_MESSAGE
        };
        assert_eq!(rx.hear(HANDSHAKE, &mut first.clone()), Err(other));
        assert_eq!(
            rx.hear(APPLICATION_DATA, &mut first.clone()),
            Ok(Said::Data(&mut b"first".to_vec()[..]))
        );
        assert_eq!(
            rx.hear(APPLICATION_DATA, &mut first.clone()),
            Err(Alert::BAD_RECORD_MAC)
        );
        assert_eq!(
            rx.hear(APPLICATION_DATA, &mut second.clone()),
            Ok(Said::Data(&mut b"second".to_vec()[..]))
        );
    }
}

/// RFC 8446, 5.2 and RFC 5246, 6.2.1: 2^14 bytes of text, which stands before its tag is looked at.
#[test]
fn a_text_that_is_too_long_is_an_overflow() {
    for version in BOTH {
        let (_, mut rx) = ends(version);
        let longest = PLAINTEXT_MAX + rx.overhead();
        for (len, alert) in [
            (longest, Alert::BAD_RECORD_MAC),
            (longest + 1, Alert::RECORD_OVERFLOW),
        ] {
            assert_eq!(rx.hear(APPLICATION_DATA, &mut vec![0; len]), Err(alert));
        }
    }
}

#[test]
fn messages_behind_the_handshake() {
    let (mut tx, mut rx) = ends(Version::Tls13);
    let say = |tx: &mut Traffic, rx: &mut Traffic, content_type, text: &[u8]| {
        let mut record = seal(tx, content_type, text);
        rx.hear(APPLICATION_DATA, &mut record).map(|said| match said {
            Said::Data(_) => "data",
            Said::Nothing => "nothing",
            Said::Ticket([1, 2, 3]) => "the first ticket",
            Said::Ticket(_) => "another ticket",
            Said::KeyUpdate => "key update",
            Said::HelloRequest => "hello request",
            Said::CloseNotify => "close",
            Said::Fatal => "fatal",
        })
    };
    // Two tickets, the second in two records; nothing may come between.
    let ticket = [&[4, 0, 0, 3, 1, 2, 3, 4, 0, 0, 5][..], &[9; 2]].concat();
    assert_eq!(say(&mut tx, &mut rx, HANDSHAKE, &ticket), Ok("the first ticket"));
    assert_eq!(
        say(&mut tx, &mut rx, APPLICATION_DATA, b"x"),
        Err(Alert::UNEXPECTED_MESSAGE)
    );
    assert_eq!(say(&mut tx, &mut rx, HANDSHAKE, &[9; 3]), Ok("nothing"));
    // One that is longer than it may be is passed over, and one is found that is whole behind it.
    let long = [&[4, 0, 4, 1][..], &[7; 1025]].concat();
    assert_eq!(say(&mut tx, &mut rx, HANDSHAKE, &long), Ok("nothing"));
    let both = [&long[..], &[4, 0, 0, 3, 1, 2, 3]].concat();
    assert_eq!(say(&mut tx, &mut rx, HANDSHAKE, &both), Ok("the first ticket"));
    // A key is updated, with or without an answer; data under the new one.
    for (requested, said) in [(0, "nothing"), (1, "key update")] {
        assert_eq!(
            say(&mut tx, &mut rx, HANDSHAKE, &[24, 0, 0, 1, requested]),
            Ok(said)
        );
        tx.next_key();
        assert_eq!(say(&mut tx, &mut rx, APPLICATION_DATA, b"x"), Ok("data"));
    }
    for (content_type, text, said) in [
        (HANDSHAKE, &[24, 0, 0, 1, 2][..], Err(Alert::ILLEGAL_PARAMETER)),
        (
            HANDSHAKE,
            &[24, 0, 0, 1, 0, 4, 0, 0, 0],
            Err(Alert::UNEXPECTED_MESSAGE),
        ),
        (HANDSHAKE, &[24, 0, 0], Err(Alert::UNEXPECTED_MESSAGE)),
        (HANDSHAKE, &[13, 0, 0, 0], Err(Alert::UNEXPECTED_MESSAGE)),
        (HANDSHAKE, &[], Err(Alert::UNEXPECTED_MESSAGE)),
        (CHANGE_CIPHER_SPEC, &[1], Err(Alert::UNEXPECTED_MESSAGE)),
        (ALERT, &[1], Err(Alert::DECODE_ERROR)),
        (ALERT, &[1, 0], Ok("close")),
        (ALERT, &[1, 90], Ok("nothing")),
        (ALERT, &[1, 100], Ok("fatal")),
        (ALERT, &[2, 40], Ok("fatal")),
        (APPLICATION_DATA, &[], Ok("data")),
        (0, &[], Err(Alert::UNEXPECTED_MESSAGE)),
    ] {
        assert_eq!(
            say(&mut tx, &mut rx, content_type, text),
            said,
            "{content_type} {text:?}"
        );
    }
    let (mut tx, mut rx) = ends(Version::Tls12);
    let mut request = seal(&mut tx, HANDSHAKE, &[0; 4]);
    assert_eq!(rx.hear(HANDSHAKE, &mut request), Ok(Said::HelloRequest));
    let mut warning = seal(&mut tx, ALERT, &[1, 100]);
    assert_eq!(rx.hear(ALERT, &mut warning), Ok(Said::Nothing));
}

#[test]
fn a_key_is_used_as_often_as_it_may_and_no_more() {
    let (mut tx, _) = ends(Version::Tls13);
    tx.tx.number = RECORDS_MAX - 2;
    assert!(!tx.is_used_up());
    seal(&mut tx, APPLICATION_DATA, b"x");
    assert!(tx.is_used_up());
    seal(&mut tx, HANDSHAKE, &KEY_UPDATE_MESSAGE);
    let mut out = [0; 100];
    assert_eq!(
        tx.seal(APPLICATION_DATA, b"x", &mut Writer::new(&mut out)),
        Err(BufferFull)
    );
    tx.next_key();
    seal(&mut tx, APPLICATION_DATA, b"x");
}

/// What stays of an idle session.
#[test]
fn an_open_session_is_128_bytes_of_keys() {
    assert_eq!(size_of::<Direction>(), 64);
    assert_eq!(size_of::<Traffic>(), 136);
}
