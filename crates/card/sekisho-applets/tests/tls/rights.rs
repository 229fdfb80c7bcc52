//! Who may write what of a TLS Manager (docs/spec/tls-manager.md, 3): the root, and peers with rights.

use sekisho_bridge::Ended;
use sekisho_tls::Version;

use crate::common::{send_on, sw};
use crate::device::{NOW, honest, inside, server, talking_at};
use crate::keys::{
    ANCHOR, MANAGER, NO_SUBJECT, PENDING, RENEW, certificate_of, generate, managed, stored, with_rights,
};
use crate::pki::Pki;
use crate::se::{FILES, PORT, chain, root, row, row_with, store, with};
use crate::servers::{READ, select};

/// A session in which a peer tries what its rights may let it.
struct Attempts<'p> {
    pki: &'p Pki,
    rights: u8,
    /// Of the authority that it would be trusted by.
    anchor: &'p [u8],
}

const REACH: &[&[u8]] = &[FILES, MANAGER];

impl Attempts<'_> {
    fn may(&self, right: u8) -> u16 {
        if self.rights & right == 0 { 0x6985 } else { 0x9000 }
    }

    fn own_row(&self, rights: u8, name: &str, reach: &[&[u8]]) -> Vec<u8> {
        row_with(rights, name, reach, self.anchor)
    }

    /// Its key and certificates.
    fn renewal(&self, ask: &mut dyn FnMut(&[u8]) -> u16) {
        let may = self.may(RENEW);
        let own = chain(&[&self.pki.element]);
        assert_eq!(ask(&generate(&[])), may);
        assert_eq!(ask(&stored(&[2], &own)), may);
        // In blocks, as the root's come.
        let whole = [&[2][..], &own].concat();
        let blocks: Vec<_> = whole.chunks(200).collect();
        for (number, block) in blocks.iter().enumerate() {
            let p1 = if number + 1 == blocks.len() { 0x80 } else { 0 };
            let [at, len] = [number, block.len()].map(|it| u8::try_from(it).unwrap());
            let said = ask(&[&[0x80, 0xE2, p1, at, len][..], block].concat());
            // Where it may not, nothing begins.
            let none = if number == 0 { may } else { 0x6A86 };
            assert_eq!(said, if may == 0x9000 { may } else { none });
        }
    }

    /// Its anchor, in a row that is right but for one thing, then in the right one.
    fn anchor(&self, ask: &mut dyn FnMut(&[u8]) -> u16) {
        let rights = self.rights;
        for wrong in [
            self.own_row(rights ^ RENEW, "localhost", REACH),
            self.own_row(3, "localhost", &[FILES, MANAGER, crate::se::ROOT]),
            self.own_row(rights, "localhost", &[FILES]),
            self.own_row(rights, "localhosu", REACH),
            row("localhost", REACH, self.anchor),
        ] {
            assert_eq!(ask(&stored(&[3, 0, 1], &wrong)), 0x6985);
        }
        let may = self.may(ANCHOR);
        let garbage = row_with(rights, "localhost", REACH, &[0x30, 3, 2, 1, 5]);
        let said = if may == 0x9000 { 0x6A80 } else { may };
        assert_eq!(ask(&stored(&[3, 0, 1], &garbage)), said);
        let right = self.own_row(rights, "localhost", REACH);
        assert_eq!(ask(&stored(&[3, 0, 1], &right)), may);
    }

    /// What is nobody's but the root's, and what there is not.
    fn others(&self, ask: &mut dyn FnMut(&[u8]) -> u16) {
        let right = self.own_row(self.rights, "localhost", REACH);
        let or = |right, sw| if self.may(right) == 0x9000 { sw } else { 0x6985 };
        for (command, sw) in [
            (stored(&[1], &self.pki.element.scalar()), 0x6985),
            (stored(&[1], &[]), 0x6985),
            (stored(&[2], &[]), 0x6985),
            (stored(&[3, 0, 1], &[]), 0x6985),
            (stored(&[3, 0, 2], &right), 0x6985),
            (stored(&[4], &[0; 8]), 0x6985),
            (stored(&[5], NO_SUBJECT), 0x6985),
            (stored(&[5], &[]), 0x6985),
            (stored(&[6], &[1]), 0x6A80),
            (stored(&[3, 0, 0x11], &right), or(ANCHOR, 0x6A80)),
            (stored(&[2], &[0; 1200]), or(RENEW, 0x6A84)),
            (vec![0x80, 0xE2, 0x80, 1, 1, 2], 0x6A86),
            (vec![0x80, 0xE2, 0x40, 0, 1, 2], 0x6A86),
            (vec![0, 0x47, 0x82, 0, 0], 0x6A86),
            (vec![0, 0x47, 0x80, 1, 0], 0x6A86),
            (vec![0, 0x47, 0x81, 0, 1, 0x30, 0], 0x6700),
            (vec![0, 0x46, 0x80, 0, 0], 0x6D00),
        ] {
            assert_eq!(ask(&command), sw, "{} {command:02X?}", self.rights);
        }
    }
}

/// Each command that a peer may have, with each right: what its row does not say it has not.
#[test]
fn a_peer_does_what_its_row_says_and_nothing_else() {
    let pki = Pki::new();
    for rights in 0..4 {
        let mut other = Pki::new();
        let mut se = with_rights(&pki, rights);
        let attempts = Attempts {
            pki: &pki,
            rights,
            anchor: &other.authority.certificate.clone(),
        };
        let ((), _) = managed(&mut se, &pki, Version::Tls13, |talk| {
            let mut ask = |command: &[u8]| sw(&talk.ask(command).unwrap());
            attempts.others(&mut ask);
            attempts.renewal(&mut ask);
            attempts.anchor(&mut ask);
        });
        // In plain nobody has any of it.
        assert_eq!(sw(&send_on(&mut *se, PORT, &select(MANAGER))), 0x9000);
        for command in [
            generate(&[]),
            stored(&[2], &chain(&[&pki.element])),
            stored(&[5], NO_SUBJECT),
        ] {
            assert_eq!(send_on(&mut *se, PORT, &command), [0x69, 0x85]);
        }
        // The key is the one that it was; whom the row trusts is as the right says.
        let anchors = attempts.may(ANCHOR) == 0x9000;
        other.authority.certificate.clone_from(&pki.authority.certificate);
        let trusted = if anchors { &other } else { &pki };
        let met = certificate_of(&mut se, trusted, Version::Tls13);
        assert_eq!(met.as_deref(), Some(&pki.element.certificate[..]), "{rights}");
        if anchors {
            assert_eq!(certificate_of(&mut se, &pki, Version::Tls13), None);
        }
    }
    // A right that there is not.
    let mut se = with(&pki);
    let row = row_with(4, "localhost", &[FILES], &pki.authority.certificate);
    assert_eq!(store(&mut se, &[3, 0, 1], &row), 0x6A80);
}

/// A row that does not name the TLS Manager has no use of its rights; one that names it and has none reads requests alone.
#[test]
fn a_right_without_reach_and_reach_without_a_right() {
    let pki = Pki::new();
    let mut se = with(&pki);
    let unreached = row_with(3, "localhost", &[FILES], &pki.authority.certificate);
    assert_eq!(store(&mut se, &[3, 0, 1], &unreached), 0x9000);
    let answers = inside(
        &mut se,
        &pki,
        Version::Tls13,
        &[&select(MANAGER), &generate(&[]), &select(FILES), READ],
    );
    let words: Vec<_> = answers.iter().map(|answer| sw(answer)).collect();
    assert_eq!(words, [0x6A82, 0x6985, 0x9000, 0x9000]);
    // Who is called by another application is not in a session.
    let reached = row("localhost", &[MANAGER], &pki.authority.certificate);
    assert_eq!(store(&mut se, &[3, 0, 1], &reached), 0x9000);
    assert_eq!(store(&mut se, &[5], NO_SUBJECT), 0x9000);
    let ((), _) = managed(&mut se, &pki, Version::Tls13, |talk| {
        assert_eq!(talk.ask(&generate(&[])), Ok(vec![0x69, 0x85]));
        let request = talk.ask(&[0, 0x47, 0x81, 0, 0, 0, 0]).unwrap();
        assert_eq!(sw(&request), 0x9000);
        // What does not fit Ne is not given in part.
        assert_eq!(talk.ask(&[0, 0x47, 0x81, 0, 0x20]), Ok(vec![0x6A, 0x84]));
        assert!(request.len() < 0x20 + 2 || request.len() > 100);
    });
}

/// A new anchor ends the other sessions of its row; the one that brought it is answered, and goes on to its end.
#[test]
fn an_anchor_that_is_replaced_ends_the_other_sessions_of_its_row() {
    let pki = Pki::new();
    let other = Pki::new();
    let mut se = with_rights(&pki, ANCHOR);
    assert_eq!(send_on(&mut *se, PORT, &[0, 0x70, 0, 0, 1]), [1, 0x90, 0]);
    let mut first = server(&pki, Version::Tls13);
    talking_at(&mut se, &mut first, (1, 1, Some(NOW)), &mut honest, |held| {
        assert_eq!(held.ask(&select(FILES)).map(|answer| sw(&answer)), Ok(0x9000));
        let ((), _) = managed(held.se(), &pki, Version::Tls13, |talk| {
            let row = row_with(
                ANCHOR,
                "localhost",
                &[FILES, MANAGER],
                &other.authority.certificate,
            );
            assert_eq!(talk.ask(&stored(&[3, 0, 1], &row)), Ok(vec![0x90, 0]));
            assert_eq!(talk.ask(PENDING), Ok(vec![0x6A, 0x88]));
            assert_eq!(talk.close(), Ended::BySe);
        });
        let ended = held.ask(READ);
        assert!(
            matches!(ended, Err(Ended::Refused(sw)) if sw.0 == 0x6985),
            "{ended:?}"
        );
    });
    assert_eq!(certificate_of(&mut se, &pki, Version::Tls13), None);
}

/// The root's objects and a peer's come in blocks at once; neither is in the other's way.
#[test]
fn blocks_of_a_peer_and_of_the_root_do_not_meet() {
    let pki = Pki::new();
    let mut se = with_rights(&pki, RENEW);
    let without = row("localhost", &[MANAGER], &pki.authority.certificate);
    assert_eq!(store(&mut se, &[3, 0, 2], &without), 0x9000);
    assert_eq!(send_on(&mut *se, PORT, &[0, 0x70, 0, 0, 1]), [1, 0x90, 0]);
    let whole = [&[2][..], &chain(&[&pki.element])].concat();
    let (beginning, end) = whole.split_at(200);
    let block = |p1: u8, p2: u8, bytes: &[u8]| {
        [
            &[0x80, 0xE2, p1, p2, u8::try_from(bytes.len()).unwrap()][..],
            bytes,
        ]
        .concat()
    };
    let ((), _) = managed(&mut se, &pki, Version::Tls13, |talk| {
        assert_eq!(talk.ask(&block(0, 0, beginning)), Ok(vec![0x90, 0]));
        let mut host = root(talk.se());
        let time = [&[4][..], &NOW.to_be_bytes()].concat();
        assert_eq!(sw(&host.send(talk.se(), &block(0, 0, &time[..4]))), 0x9000);
        assert_eq!(talk.ask(&block(0x80, 1, end)), Ok(vec![0x90, 0]));
        assert_eq!(sw(&host.send(talk.se(), &block(0x80, 1, &time[4..]))), 0x9000);
        // Nor is a peer's whose row gives it no right to begin, or go on.
        assert_eq!(talk.ask(&block(0, 0, beginning)), Ok(vec![0x90, 0]));
        let mut other = server(&pki, Version::Tls13);
        talking_at(
            talk.se(),
            &mut other,
            (1, 2, Some(NOW)),
            &mut honest,
            |stranger| {
                assert_eq!(
                    stranger.ask(&select(MANAGER)).map(|answer| sw(&answer)),
                    Ok(0x9000)
                );
                assert_eq!(stranger.ask(&block(0, 0, beginning)), Ok(vec![0x69, 0x85]));
                assert_eq!(stranger.ask(&block(0x80, 1, end)), Ok(vec![0x6A, 0x86]));
                assert_eq!(stranger.ask(&block(0, 0, &[])), Ok(vec![0x6A, 0x80]));
            },
        );
        assert_eq!(talk.ask(&block(0x80, 1, end)), Ok(vec![0x90, 0]));
        // What a session has begun is gone with it.
        assert_eq!(talk.ask(&block(0, 0, beginning)), Ok(vec![0x90, 0]));
        assert_eq!(talk.close(), Ended::BySe);
    });
    let ((), _) = managed(&mut se, &pki, Version::Tls13, |talk| {
        assert_eq!(talk.ask(&block(0x80, 1, end)), Ok(vec![0x6A, 0x86]));
    });
}
