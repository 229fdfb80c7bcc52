//! Sessions of TLS 1.3 that are resumed (docs/spec/tls-manager.md, 8): by whom, for how long, and what a ticket takes.

use std::cell::Cell;
use std::sync::Arc;

use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use sekisho_applets::tls_manager::TICKETS_MAX;
use sekisho_bridge::{Ended, Why};
use sekisho_os::SecureElement;
use sekisho_tls::Version;

use crate::askers::Source;
use crate::common::{profile, send_on, sw};
use crate::device::{NOW, talking_at};
use crate::openssl::{OpenSsl, connect};
use crate::pki::Pki;
use crate::scripted::carry;
use crate::se::{FILES, PORT, Product, Se, chain, row, store, with};
use crate::servers::{READ, select};

/// A server that knows its tickets as long as this lives.
fn server(pki: &Pki, version: Version, tickets: usize) -> Arc<ServerConfig> {
    Arc::new(crate::in_memory::config(pki, version, tickets, &[]))
}

/// APDUs, bytes to the SE and from it.
#[derive(Clone, Copy, Debug, Default)]
struct Count(usize, usize, usize);

/// A session with the server of a row, at this time: how its handshake was, and what went over the interface until the SE was open.
fn met(se: &mut Se, config: &Arc<ServerConfig>, row: u16, time: u64) -> Option<(HandshakeKind, Count)> {
    let mut server = ServerConnection::new(Arc::clone(config)).unwrap();
    let count = Cell::new(Count::default());
    let mut line = |_: usize, command: &[u8], se: &mut Se| {
        let answer = send_on(se, PORT, command);
        let Count(apdus, to, from) = count.get();
        count.set(Count(apdus + 1, to + command.len(), from + answer.len()));
        answer
    };
    let handshake = talking_at(se, &mut server, (0, row, Some(time)), &mut line, |talk| {
        // The server says nothing before the SE has proved itself: all until then, and this command.
        let selected = talk.ask(&select(FILES)).ok()?;
        assert_eq!(sw(&selected), 0x9000);
        let handshake = count.get();
        let read = talk.ask(READ).unwrap();
        assert_eq!((sw(&read), &read[..7]), (0x9000, &b"Sekisho"[..]));
        talk.close();
        Some(handshake)
    })?;
    // Whoever it was in the first session.
    assert_eq!(server.peer_certificates().unwrap().len(), 1);
    Some((server.handshake_kind().unwrap(), handshake))
}

fn kind(se: &mut Se, config: &Arc<ServerConfig>, row: u16) -> HandshakeKind {
    met(se, config, row, NOW).unwrap().0
}

#[test]
fn a_session_is_resumed_again_and_again_and_takes_few_bytes() {
    let pki = Pki::new();
    let mut se = with(&pki);
    let config = server(&pki, Version::Tls13, 1);
    let mut whole = Count::default();
    for number in 0..4 {
        let (kind, count) = met(&mut se, &config, 1, NOW).unwrap();
        println!("{kind:?}: {count:?} with SELECT");
        if number == 0 {
            assert_eq!(kind, HandshakeKind::Full);
            whole = count;
        } else {
            assert_eq!(kind, HandshakeKind::Resumed);
            assert!(count.1 + count.2 < (whole.1 + whole.2) / 2, "{count:?} {whole:?}");
            assert!(count.0 < whole.0);
        }
    }
    // A server that knows no ticket any more has a whole handshake; so has one of TLS 1.2, always.
    let other = server(&pki, Version::Tls13, 1);
    assert_eq!(kind(&mut se, &other, 1), HandshakeKind::Full);
    assert_eq!(kind(&mut se, &other, 1), HandshakeKind::Resumed);
    let old = server(&pki, Version::Tls12, 1);
    for _ in 0..2 {
        assert_eq!(kind(&mut se, &old, 1), HandshakeKind::Full);
    }
    // The ticket was offered to it: it is used up.
    assert_eq!(kind(&mut se, &other, 1), HandshakeKind::Full);
}

/// A ticket is its row's, and goes with row, key, chain and power; of more rows than there is room for those that came last have theirs.
#[test]
fn a_ticket_ends_with_what_it_was_made_with() {
    let pki = Pki::new();
    let mut se = with(&pki);
    let config = server(&pki, Version::Tls13, 1);
    let of_row = row("localhost", &[FILES], &pki.authority.certificate);
    let rows = u8::try_from(TICKETS_MAX).unwrap() + 1;
    for number in 2..=rows {
        assert_eq!(store(&mut se, &[3, 0, number], &of_row), 0x9000);
    }
    assert_eq!(kind(&mut se, &config, 1), HandshakeKind::Full);
    // The same server by another row is another peer.
    assert_eq!(kind(&mut se, &config, 2), HandshakeKind::Full);
    assert_eq!(kind(&mut se, &config, 2), HandshakeKind::Resumed);
    assert_eq!(kind(&mut se, &config, 1), HandshakeKind::Resumed);
    let key = pki.element.scalar();
    let chain = chain(&[&pki.element]);
    for (object, value) in [(&[1][..], &key[..]), (&[2], &chain), (&[3, 0, 1], &of_row)] {
        assert_eq!(store(&mut se, object, value), 0x9000);
        let others = if object[0] == 3 {
            HandshakeKind::Resumed
        } else {
            HandshakeKind::Full
        };
        assert_eq!(kind(&mut se, &config, 1), HandshakeKind::Full, "{object:?}");
        assert_eq!(kind(&mut se, &config, 2), others, "{object:?}");
    }
    // The floor is not what it was made with.
    assert_eq!(store(&mut se, &[4], &NOW.to_be_bytes()), 0x9000);
    assert_eq!(kind(&mut se, &config, 1), HandshakeKind::Resumed);
    // One more than there is room for: that of row 2 came first.
    for number in 3..=u16::from(rows) {
        assert_eq!(kind(&mut se, &config, number), HandshakeKind::Full);
    }
    assert_eq!(kind(&mut se, &config, 2), HandshakeKind::Full);
    for number in 4..=u16::from(rows) {
        assert_eq!(kind(&mut se, &config, number), HandshakeKind::Resumed);
    }
    // Behind a reset it is there, behind the power it is not.
    se.reset(PORT);
    assert_eq!(kind(&mut se, &config, 2), HandshakeKind::Resumed);
    let flash = SecureElement::<Product>::into_flash(*se);
    let mut se = Box::new(Se::new(flash, Source::new()));
    se.boot(&profile()).unwrap();
    assert_eq!(kind(&mut se, &config, 2), HandshakeKind::Full);
}

/// Key or certificates become others at each command of a session: its ticket, which may come behind that, is of nobody.
#[test]
fn a_ticket_that_is_held_back_is_of_nobody() {
    let pki = Pki::new();
    let mut se = with(&pki);
    let config = server(&pki, Version::Tls13, 1);
    let (key, chain) = (pki.element.scalar(), chain(&[&pki.element]));
    let mut went_on = 0;
    for (object, value) in [(&[1][..], &key[..]), (&[2], &chain)] {
        for at in 1.. {
            let mut sent = 0;
            let mut line = |number: usize, command: &[u8], se: &mut Se| {
                if number == at {
                    assert_eq!(store(se, object, value), 0x9000);
                }
                sent = number;
                send_on(se, PORT, command)
            };
            let mut server = ServerConnection::new(Arc::clone(&config)).unwrap();
            let spoke = talking_at(&mut se, &mut server, (0, 1, Some(NOW)), &mut line, |talk| {
                talk.ask(&select(FILES)).is_ok()
            });
            if sent < at {
                assert!(spoke);
                assert_eq!(kind(&mut se, &config, 1), HandshakeKind::Resumed);
                break;
            }
            went_on += usize::from(spoke);
            assert_eq!(kind(&mut se, &config, 1), HandshakeKind::Full, "{object:?} {at}");
        }
    }
    assert!(went_on > 4, "{went_on}");
}

/// Where the server's certificate has ended there is nothing to resume: the whole handshake says so.
#[test]
fn a_ticket_is_not_used_behind_the_end_of_its_server_s_certificate() {
    let pki = Pki::with("authority", |params| {
        params.not_after = rcgen::date_time_ymd(2027, 6, 1)
    });
    let mut se = with(&pki);
    let config = server(&pki, Version::Tls13, 1);
    // Half an hour before the end, and behind it: within the ticket's own lifetime.
    let (before, behind) = (1_811_806_200, 1_811_809_800);
    assert_eq!(met(&mut se, &config, 1, before).unwrap().0, HandshakeKind::Full);
    assert_eq!(
        met(&mut se, &config, 1, before).unwrap().0,
        HandshakeKind::Resumed
    );
    assert!(met(&mut se, &config, 1, behind).is_none());
    // It was not offered, and is not there any more.
    assert_eq!(met(&mut se, &config, 1, before).unwrap().0, HandshakeKind::Full);
}

/// A foreign server, whose tickets have all of its session in them.
#[test]
fn openssl_resumes_a_session() {
    let pki = Pki::new();
    let mut se = with(&pki);
    let mut server = OpenSsl::new(&pki, Version::Tls13, &["-naccept", "2"]);
    for _ in 0..2 {
        let stream = connect(server.port);
        let (mut count, mut reads) = (Count::default(), 0);
        let line = |command: &[u8]| {
            let answer = send_on(&mut *se, PORT, command);
            count = Count(count.0 + 1, count.1 + command.len(), count.2 + answer.len());
            answer
        };
        let ended = carry(line, (1, stream), |answered| {
            // Behind the SE's flight come the tickets, in one piece or two.
            reads += usize::from(answered > 0);
            (reads > 1).then_some(Why::Asked)
        });
        assert_eq!(ended, Ended::BySe);
        println!("OpenSSL: {count:?} with a ticket and the goodbye");
    }
    let _ = server.child.wait();
    let said = server.said.take().unwrap().join().unwrap();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("Reused session-id"), "{said}");
    assert!(said.contains("1 session cache hits"), "{said}");
}

/// What a ticket takes of the heap stands on the page; a session takes no more for it, and none is there without.
#[test]
fn what_a_ticket_takes_stands_on_the_page() {
    let pki = Pki::new();
    let mut se = with(&pki);
    let mut held = 0;
    let mut seen = vec![];
    for tickets in [0, 1, 4] {
        let mut server = crate::in_memory::server(&pki, Version::Tls13, tickets);
        let total = Cell::new(0);
        let mut line = |_: usize, command: &[u8], se: &mut Se| {
            let (mut out, mut len) = ([0; 1100], 0);
            let took = allocation_counter::measure(|| len = se.transmit(PORT, command, &mut out));
            total.set(total.get() + took.bytes_current);
            out[..len].to_vec()
        };
        talking_at(&mut se, &mut server, (0, 1, Some(NOW)), &mut line, |talk| {
            assert_eq!(talk.ask(&select(FILES)).map(|answer| sw(&answer)), Ok(0x9000));
            talk.close();
        });
        held += total.get();
        seen.push(held);
    }
    println!("held behind sessions with 0, 1 and 4 tickets: {seen:?}");
    assert_eq!(seen[0], 0);
    // A certificate has one length or another.
    assert!(seen[1].abs_diff(seen[2]) <= 16, "{seen:?}");
    let page = include_str!("../../../../../docs/spec/tls-manager.md");
    let figure = page
        .split("```tls-ticket\n")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap();
    let figure: i64 = figure
        .rsplit_once(' ')
        .unwrap()
        .1
        .replace(',', "")
        .parse()
        .unwrap();
    assert!(seen[1].abs_diff(figure) <= 24, "{seen:?} {figure}");
}
