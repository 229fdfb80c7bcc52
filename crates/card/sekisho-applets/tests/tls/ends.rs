//! Who speaks, and what is not there: docs/spec/tls-manager.md, 1 and 4.

use sekisho_applets::tls_manager;
use sekisho_bridge::Ended;
use sekisho_os::{Interface, Row};
use sekisho_tls::Version;

use crate::askers::{ASKERS, Source};
use crate::common::{send_on, sw};
use crate::device::{honest, inside, server, session, talking_at};
use crate::pki::Pki;
use crate::se::{
    FILES, PORT, ROOT, WithoutRoom, chain, made, reaching, reaching_of, root, row_of, store, store_at, with,
    with_a_second,
};
use crate::servers::{READ, select};

const OPEN: &[u8] = &[0xA4, 0x28, 0, 1, 0];
const WHO: &[u8] = &[0, 0x10, 0, 0, 0];
const WHO_IS_CALLED: &[u8] = &[0, 0x12, 0, 0, 0];

/// An application finds its peer as proof: row, level, version, certificate, and what both ends can say of this session alone; whoever it calls finds nobody, nor does whoever speaks in plain.
#[test]
fn an_application_finds_its_peer_and_whom_it_calls_finds_none() {
    let pki = Pki::new();
    let mut se = reaching(&pki, &[ASKERS[0]]);
    let other = row_of(
        0x5A,
        None,
        "localhost",
        &[ASKERS[0], FILES],
        &pki.authority.certificate,
    );
    assert_eq!(store(&mut se, &[3, 0, 0x10], &other), 0x9000);
    let plain = |se: &mut crate::se::Se| {
        assert_eq!(sw(&send_on(se, PORT, &select(ASKERS[0]))), 0x9000);
        assert_eq!(send_on(se, PORT, WHO), [0x69, 0x85]);
    };
    plain(&mut se);
    let mut values = Vec::new();
    for version in [Version::Tls12, Version::Tls13] {
        for (row, level) in [(1, 0), (0x10, 0x5A)] {
            let mut server = server(&pki, version);
            let time = Some(crate::device::NOW);
            talking_at(&mut se, &mut server, (0, row, time), &mut honest, |talk| {
                let row = u8::try_from(row).unwrap();
                assert_eq!(talk.ask(&select(ASKERS[0])), Ok(vec![0x90, 0]));
                let mut proof = vec![0, row, level];
                proof.push(if version == Version::Tls13 { 13 } else { 12 });
                proof.extend(sekisho_keys::sha256(&[&pki.server.certificate]));
                if version == Version::Tls13 {
                    let value = talk.exporter(b"EXPORTER-Channel-Binding");
                    assert!(!values.contains(&value));
                    proof.extend(value);
                    values.push(value);
                }
                proof.extend([0x90, 0]);
                assert_eq!(talk.ask(WHO), Ok(proof.clone()));
                // The one that is called answers 6985, which is what the caller says then.
                assert_eq!(talk.ask(WHO_IS_CALLED), Ok(vec![0x69, 0x85, 0x90, 0]));
                assert_eq!(talk.ask(WHO), Ok(proof.clone()));
                // On the channel that carries the session there is nobody, while it is open.
                plain(talk.se());
                assert_eq!(talk.ask(WHO), Ok(proof));
            });
        }
    }
    plain(&mut se);
}

/// Sessions are the TLS Manager's container's: another one has no class of TLS, and its applications are in no session's reach, whatever a row names.
#[test]
fn a_session_does_not_leave_its_container() {
    let pki = Pki::new();
    let mut se = reaching_of(with_a_second(Row::all), &pki, &[FILES, ASKERS[0]]);
    // SPI is the second container's, which has no TLS Manager.
    assert_eq!(send_on(&mut *se, PORT, OPEN), [0x6E, 0]);
    assert_eq!(sw(&send_on(&mut *se, PORT, &select(ASKERS[0]))), 0x9000);
    for version in [Version::Tls12, Version::Tls13] {
        let mut server = server(&pki, version);
        let mut line = |_: usize, command: &[u8], se: &mut crate::se::Se| {
            send_on(se, Interface::Iso7816Contact, command)
        };
        let time = Some(crate::device::NOW);
        talking_at(&mut se, &mut server, (0, 1, time), &mut line, |talk| {
            assert_eq!(talk.ask(&select(FILES)).map(|answer| sw(&answer)), Ok(0x9000));
            assert_eq!(talk.ask(&select(ASKERS[0])), Ok(vec![0x6A, 0x82]));
            assert_eq!(talk.ask(READ).map(|answer| sw(&answer)), Ok(0x9000));
            // In the other container nobody speaks, and its selection stays.
            assert_eq!(send_on(talk.se(), PORT, WHO), [0x69, 0x85]);
            assert_eq!(send_on(talk.se(), PORT, &[0xA4, 0x20, 0, 0, 0]), [0x6E, 0]);
            talk.se().reset(PORT);
            assert_eq!(sw(&send_on(talk.se(), PORT, &select(ASKERS[0]))), 0x9000);
            assert_eq!(talk.ask(READ).map(|answer| sw(&answer)), Ok(0x9000));
        });
    }
}

/// Over a protocol of the other container, where the rule lets its names reach the TLS Manager, names inside a session mean what they mean in the TLS Manager's container; in the clear what they meant.
#[test]
fn a_session_over_another_containers_protocol_is_in_its_own_container() {
    let pki = Pki::new();
    let mut se = reaching_of(with_a_second(Row::common), &pki, &[FILES, ROOT]);
    let mut server = server(&pki, Version::Tls13);
    let time = Some(crate::device::NOW);
    talking_at(&mut se, &mut server, (0, 1, time), &mut honest, |talk| {
        for name in [ROOT, FILES, &ROOT[..6]] {
            assert_eq!(talk.ask(&select(name)).map(|answer| sw(&answer)), Ok(0x9000));
        }
        assert_eq!(talk.ask(&select(ASKERS[0])), Ok(vec![0x6A, 0x82]));
        // In the clear they mean what they did, and the session goes on.
        assert_eq!(sw(&send_on(talk.se(), PORT, &select(ASKERS[0]))), 0x9000);
        assert_eq!(sw(&send_on(talk.se(), PORT, &select(ROOT))), 0x9000);
        assert_eq!(talk.ask(&select(FILES)).map(|answer| sw(&answer)), Ok(0x9000));
    });
}

/// Deleted, it is no more: no session, no class, nothing of its key in the flash.
#[test]
fn a_tls_manager_that_is_deleted_takes_all_with_it() {
    let pki = Pki::new();
    let mut se = with(&pki);
    let scalar = pki.element.scalar();
    let holds = |se: &crate::se::Se| se.flash().image().windows(32).any(|bytes| bytes == scalar);
    assert!(holds(&se));
    let held = std::cell::Cell::new(0);
    let mut line = |_: usize, command: &[u8], se: &mut crate::se::Se| {
        let (mut out, mut len) = ([0; 1100], 0);
        let took = allocation_counter::measure(|| len = se.transmit(PORT, command, &mut out));
        held.set(held.get() + took.bytes_current);
        out[..len].to_vec()
    };
    let mut server = server(&pki, Version::Tls13);
    let time = Some(crate::device::NOW);
    talking_at(&mut se, &mut server, (0, 1, time), &mut line, |talk| {
        assert_eq!(talk.ask(&select(FILES)).map(|answer| sw(&answer)), Ok(0x9000));
        assert!(held.get() > 0);
        let took = allocation_counter::measure(|| {
            let mut host = root(talk.se());
            let delete = [&[0x80, 0xE4, 0, 0, 9, 0x4F, 7][..], tls_manager::AID, &[0]].concat();
            assert_eq!(sw(&host.send(talk.se(), &delete)), 0x9000);
        });
        // Nothing of its sessions is held.
        assert_eq!(held.get() + took.bytes_current, 0);
        let ended = talk.ask(READ);
        assert!(
            matches!(ended, Err(Ended::Refused(sw)) if sw.0 == 0x6E00),
            "{ended:?}"
        );
    });
    for command in [
        OPEN,
        &[0xA4, 0x20, 0, 0, 0],
        &[0xA4, 0x2A, 0, 0, 0],
        &select(tls_manager::AID),
    ] {
        let said = if command[0] == 0 { 0x6A82 } else { 0x6E00 };
        assert_eq!(sw(&send_on(&mut *se, PORT, command)), said, "{command:02X?}");
    }
    assert!(!holds(&se));
    // The channel and its applications are as they were.
    assert_eq!(sw(&send_on(&mut *se, PORT, &select(FILES))), 0x9000);
    assert_eq!(sw(&send_on(&mut *se, PORT, READ)), 0x9000);
}

/// A product whose interfaces have no room for what comes out of sessions has no class of TLS; its manager is written all the same.
#[test]
fn a_product_without_room_has_no_sessions() {
    let pki = Pki::new();
    let mut se = made::<WithoutRoom>();
    assert_eq!(store_at(&mut *se, 0x03, &[1], &pki.element.scalar()), 0x9000);
    assert_eq!(store_at(&mut *se, 0x03, &[2], &chain(&[&pki.element])), 0x9000);
    for interface in Interface::ALL {
        for command in [
            OPEN,
            &[0xA4, 0x20, 0, 0, 0],
            &[0xB4, 0x28, 0, 1, 0],
            &[0xA4, 0x2A, 0, 0, 0],
        ] {
            assert_eq!(send_on(&mut *se, interface, command), [0x6E, 0]);
        }
    }
    assert_eq!(sw(&send_on(&mut *se, PORT, &select(tls_manager::AID))), 0x9000);
}

/// A source of randomness that fails is an error: at OPEN nothing is said; later the session ends, and no key is made of zeros. When it works again all does.
#[test]
fn a_source_that_fails_makes_no_key() {
    let pki = Pki::new();
    let mut se = with(&pki);
    let commands = [&select(FILES)[..], READ];
    Source::fail(true);
    assert_eq!(send_on(&mut *se, PORT, OPEN), [0x69, 0x85]);
    assert_eq!(send_on(&mut *se, PORT, &[0xA4, 0x2A, 0, 0, 0]), [0x69, 0x85]);
    Source::fail(false);
    for version in [Version::Tls12, Version::Tls13] {
        // Behind OPEN, in front of each command.
        let mut ended = 0;
        for at in 1..7 {
            let seen = session(
                &mut se,
                &mut server(&pki, version),
                0,
                &commands,
                |number, command, se| {
                    Source::fail(number >= at);
                    honest(number, command, se)
                },
            );
            Source::fail(false);
            // TLS 1.2 makes its key when it has heard the server; TLS 1.3 has made it at OPEN.
            ended += usize::from(seen.answers.is_empty());
            if seen.answers.is_empty() {
                assert_eq!(seen.ended, Ended::BySe);
            }
            assert_eq!(inside(&mut se, &pki, version, &commands).len(), 2);
        }
        assert_eq!(ended > 0, version == Version::Tls12, "{version:?} {ended}");
    }
}
