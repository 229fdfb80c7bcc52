//! Who reaches what (docs/spec/tls-manager.md).

use sekisho_applets::tls_manager;
use sekisho_bridge::Ended;
use sekisho_os::Interface;
use sekisho_tls::Version;

use crate::common::{send_on, sw};
use crate::device::{NOW, honest, inside, server, session, talking};
use crate::pki::Pki;
use crate::se::{FILES, PORT, ROOT, chain, empty, reaching, root_at, row, store, store_at, with};
use crate::servers::{READ, select};

const OPEN: &[u8] = &[0xA4, 0x28, 0, 1, 0];

fn status(se: &mut crate::se::Se, capdu: &[u8]) -> u16 {
    sw(&send_on(se, PORT, capdu))
}

#[test]
fn the_page_s_row_is_written_and_its_status_words_are_answered() {
    let page = include_str!("../../../../../docs/spec/tls-manager.md");
    let example = page
        .split("```tls-row\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let mut se = empty();
    let mut host = crate::se::root(&mut se);
    let mut sent: Vec<u8> = Vec::new();
    for line in example.lines() {
        let command = hex::decode(line.replace(' ', "")).unwrap();
        assert_eq!(sw(&host.send(&mut *se, &command)), 0x9000, "{line}");
        sent.extend(&command[5..]);
    }
    assert_eq!(
        sent,
        [&[3, 0, 1][..], &row("localhost", &[FILES], &[0x30, 3, 2, 1, 5])].concat()
    );
    // A row alone is not complete; others are not there.
    assert_eq!(status(&mut se, OPEN), 0x6985);
    assert_eq!(status(&mut se, &[0xA4, 0x28, 0, 2, 0]), 0x6A88);
    assert_eq!(status(&mut se, &[0xA4, 0x28, 0x12, 0x34, 0]), 0x6A88);
    for (object, value, said) in [
        (&[1][..], &[0; 32][..], 0x6A80),
        (&[1], &[1; 31], 0x6A80),
        (&[2], &[0, 5, 1], 0x6A80),
        (&[3, 0, 0], &[1, b'a', 0, 1], 0x6A80),
        (&[3, 0, 0x11], &[1, b'a', 0, 1], 0x6A80),
        (&[3, 0, 1], &[1, b'a', 9], 0x6A80),
        (&[4], &[1], 0x6A80),
        (&[2], &[1; 1200], 0x6A84),
        (&[3, 0, 1], &[], 0x9000),
    ] {
        assert_eq!(store(&mut se, object, value), said, "{object:?}");
    }
    assert_eq!(status(&mut se, OPEN), 0x6A88);
    // Blocks in another order, and another instruction.
    let mut host = crate::se::root(&mut se);
    assert_eq!(sw(&host.send(&mut *se, &[0x80, 0xE2, 0, 1, 1, 1])), 0x6A86);
    assert_eq!(status(&mut se, &select(tls_manager::AID)), 0x9000);
    assert_eq!(status(&mut se, &[0x80, 0xE2, 0x80, 0, 1, 1]), 0x6985);
    assert_eq!(status(&mut se, &[0, 0xB0, 0, 0, 0]), 0x6D00);
}

/// The private key comes encrypted, or not at all; whoever is in the line reads what comes with a MAC alone.
#[test]
fn the_private_key_is_taken_encrypted_alone() {
    let pki = Pki::new();
    let mut se = with(&pki);
    let other = Pki::new();
    for level in [0x01, 0x11] {
        assert_eq!(store_at(&mut *se, level, &[1], &other.element.scalar()), 0x6982);
        // At the first of its blocks, and without a value.
        assert_eq!(store_at(&mut *se, level, &[1], &[7; 300]), 0x6982);
        assert_eq!(store_at(&mut *se, level, &[1], &[]), 0x6982);
        let mut host = root_at(&mut *se, level);
        assert_eq!(sw(&host.send(&mut *se, &[0x80, 0xE2, 0, 0, 1, 1])), 0x6982);
        assert_eq!(sw(&host.send(&mut *se, &[0x80, 0xE2, 0x80, 1, 1, 1])), 0x6A86);
        // The old one is there still, and certificates are taken.
        assert_eq!(store_at(&mut *se, level, &[2], &chain(&[&pki.element])), 0x9000);
        assert_eq!(inside(&mut se, &pki, Version::Tls13, &[&select(FILES)]).len(), 1);
    }
    for level in [0x03, 0x13, 0x33] {
        assert_eq!(store_at(&mut *se, level, &[1], &pki.element.scalar()), 0x9000);
    }
}

#[test]
fn a_session_reaches_what_its_row_names_and_leaves_the_channel_as_it_is() {
    let pki = Pki::new();
    let mut se = with(&pki);
    assert_eq!(status(&mut se, &select(FILES)), 0x9000);
    let answers = inside(
        &mut se,
        &pki,
        Version::Tls13,
        &[
            READ,
            &select(ROOT),
            &[0, 0xA4, 4, 0],
            &select(tls_manager::AID),
            READ,
            &[0, 0x70, 0, 0, 1],
            &[0x01, 0xB0, 0x9E, 0, 0x10],
            &[0x10, 0xB0, 0x9E, 0, 0x10],
            &[0, 0xC0, 0, 0, 0],
            &[0xA4, 0x28, 0, 1, 0],
            &[0],
            &select(FILES),
            READ,
        ],
    );
    let words: Vec<_> = answers.iter().map(|answer| sw(answer)).collect();
    assert_eq!(
        words,
        [
            0x6985, 0x6A82, 0x6A82, 0x6A82, 0x6985, 0x6881, 0x6881, 0x6884, 0x6D00, 0x6E00, 0x6700, 0x9000,
            0x9000
        ]
    );
    // Selected on the channel before, and still.
    assert_eq!(status(&mut se, READ), 0x9000);
    assert_eq!(status(&mut se, &select(ROOT)), 0x9000);
    assert_eq!(status(&mut se, &[0xA4, 0x20, 0, 0, 0]), 0x6985);
    // What another row's session may, and the root when a row names it.
    let mut se = reaching(&pki, &[ROOT]);
    let answers = inside(
        &mut se,
        &pki,
        Version::Tls12,
        &[&select(ROOT), &select(FILES), &[0x80, 0xCA, 0, 0x66, 0]],
    );
    assert_eq!(
        answers.iter().map(|answer| sw(answer)).collect::<Vec<_>>(),
        [0x9000, 0x6A82, 0x9000]
    );
}

#[test]
fn no_application_has_a_command_of_the_class_and_it_does_not_end_anything() {
    let pki = Pki::new();
    let mut se = with(&pki);
    assert_eq!(status(&mut se, &select(FILES)), 0x9000);
    for cla in [0xA4, 0xB4] {
        for ins in 0..=0xFF {
            if ins != 0x28 {
                let said = status(&mut se, &[cla, ins, 0, 0, 0]);
                assert!(
                    [0x6985, 0x6D00].contains(&said),
                    "{cla:02X} {ins:02X}: {said:04X}"
                );
            }
        }
    }
    assert_eq!(status(&mut se, READ), 0x9000);
    // Channel 1 is not open; then it is, with a session of its own.
    assert_eq!(status(&mut se, &[0xA5, 0x28, 0, 1, 0]), 0x6881);
    assert_eq!(status(&mut se, &[0, 0x70, 0, 0, 1]), 0x9000);
    let commands = [&select(FILES)[..], READ];
    let seen = session(&mut se, &mut server(&pki, Version::Tls13), 1, &commands, honest);
    assert_eq!((seen.ended, seen.answers.len()), (Ended::BySe, 2));
    // No such class where no TLS Manager is.
    let mut without = crate::common::new_card();
    assert_eq!(sw(&send_on(&mut without, Interface::Spi, OPEN)), 0x6E00);
}

/// How far an honest session has come when something else happens.
fn interrupted(se: &mut crate::se::Se, pki: &Pki, what: impl Fn(&mut crate::se::Se)) -> Vec<Vec<u8>> {
    let mut server = server(pki, Version::Tls13);
    let commands = [&select(FILES)[..], READ, READ];
    let mut answered = 0;
    let seen = session(se, &mut server, 0, &commands, |number, command, se| {
        let answer = honest(number, command, se);
        // The first answer of the application is the second record of the session that is answered with data.
        answered += usize::from(command[1] == 0x20 && sw(&answer) == 0x9000 && answer.len() > 2);
        if answered == 2 {
            answered = 3;
            what(se);
        }
        answer
    });
    assert_ne!(seen.ended, Ended::BySe);
    seen.answers
}

#[test]
fn a_session_ends_with_its_interface_its_row_and_its_manager() {
    let pki = Pki::new();
    let mut se = with(&pki);
    let stops: [&dyn Fn(&mut crate::se::Se); 3] = [
        &|se| se.reset(PORT),
        &|se| {
            let row = row("localhost", &[FILES], &pki.authority.certificate);
            assert_eq!(store(se, &[3, 0, 1], &row), 0x9000);
        },
        &|se| {
            let mut host = crate::se::root(se);
            // SET STATUS: the TLS Manager is locked, and unlocked again.
            for state in [0x83, 0x07] {
                let head = [0x80, 0xF0, 0x40, state, 7];
                assert_eq!(
                    sw(&host.send(se, &[&head[..], tls_manager::AID].concat())),
                    0x9000
                );
                if state == 0x83 {
                    assert_eq!(status(se, &[0xA4, 0x20, 0, 0, 0]), 0x6E00);
                }
            }
        },
    ];
    for stop in stops {
        assert!(interrupted(&mut se, &pki, stop).len() < 3);
        assert_eq!(status(&mut se, &[0xA4, 0x20, 0, 0, 0]), 0x6985);
        assert_eq!(inside(&mut se, &pki, Version::Tls13, &[&select(FILES)]).len(), 1);
    }
}

/// OPEN on a channel of an interface, with a time: the status word, 9000 for an answer that waits too.
fn opened(se: &mut crate::se::Se, interface: Interface, channel: u8) -> u16 {
    let open = [&[0xA4 | channel, 0x28, 0, 1, 8][..], &NOW.to_be_bytes(), &[0]].concat();
    match sw(&send_on(se, interface, &open)) {
        0x6100..=0x61FF => 0x9000,
        said => said,
    }
}

/// CLOSE there.
fn closed(se: &mut crate::se::Se, interface: Interface, channel: u8) -> u16 {
    sw(&send_on(se, interface, &[0xA4 | channel, 0x2A, 0, 0, 0]))
}

/// Of the interfaces on which the TLS Manager answers.
const CONTACTS: Interface = Interface::Iso7816Contact;

#[test]
fn a_handshake_that_has_proved_nothing_makes_room_and_a_session_does_not() {
    let pki = Pki::new();
    let mut se = with(&pki);
    for channel in 1..4 {
        for interface in [PORT, CONTACTS] {
            assert_eq!(
                send_on(&mut *se, interface, &[0, 0x70, 0, 0, 1]),
                [channel, 0x90, 0]
            );
        }
        assert_eq!(opened(&mut se, CONTACTS, channel), 0x9000);
    }
    assert_eq!(opened(&mut se, CONTACTS, 0), 0x9000);
    // Each that proves its peer takes the room of the oldest that has not: those of channels 1, 2, 3, then 0.
    for (channel, gone) in (0..4).zip([1, 2, 3, 0]) {
        let mut server = server(&pki, Version::Tls13);
        let answer = talking(&mut se, &mut server, channel, &mut honest, |talk| {
            talk.ask(&select(FILES))
        });
        assert_eq!(answer.map(|answer| sw(&answer)), Ok(0x9000), "{channel}");
        assert_eq!(closed(&mut se, CONTACTS, gone), 0x6985, "{gone}");
    }
    // Four peers are proved: nobody makes room, and all go on.
    assert_eq!(opened(&mut se, CONTACTS, 0), 0x6A84);
    assert_eq!(opened(&mut se, Interface::ApduGate, 0), 0x6A84);
    // One of them ends with its logical channel; its room is another's.
    assert_eq!(sw(&send_on(&mut *se, PORT, &[0, 0x70, 0x80, 2])), 0x9000);
    assert_eq!(opened(&mut se, CONTACTS, 0), 0x9000);
    assert_eq!(opened(&mut se, CONTACTS, 1), 0x9000);
    assert_eq!(closed(&mut se, CONTACTS, 0), 0x6985);
    assert_eq!(send_on(&mut *se, PORT, &[0, 0x70, 0, 0, 1]), [2, 0x90, 0]);
    assert_eq!(closed(&mut se, PORT, 2), 0x6985);
    for channel in [0, 1, 3] {
        assert_eq!(closed(&mut se, PORT, channel), 0x6285, "{channel}");
    }
}
