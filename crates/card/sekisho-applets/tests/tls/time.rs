//! The time floor (docs/spec/tls-manager.md, 4): a device's clock never moves it.

use std::collections::BTreeMap;

use rcgen::{CertificateParams, date_time_ymd};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::SecureElement;
use sekisho_tls::Version;

use crate::askers::Source;
use crate::common::{profile, sw};
use crate::device::{honest, server, talking_at};
use crate::pki::Pki;
use crate::se::{FILES, Product, Se, row, store, with};
use crate::servers::select;

const DAY: u64 = 86_400;
/// 2026-01-01 and 2026-06-01, midnight.
const JANUARY: u64 = 1_767_225_600;
const JUNE: u64 = JANUARY + 151 * DAY;
const YEAR: u64 = 365 * DAY;

/// A certificate that is valid from the first of a month of 2026 to a day.
fn valid(month: u8, until: (i32, u8, u8)) -> impl FnOnce(&mut CertificateParams) {
    move |params| {
        params.not_before = date_time_ymd(2026, month, 1);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
    }
}

/// The server of row 0001: valid from June on for ten years.
fn peer() -> Pki {
    Pki::with("authority", valid(6, (2036, 6, 1)))
}

/// Whether a session with the server of a row comes about at a time that the device says.
fn speaks(se: &mut Se, pki: &Pki, version: Version, row: u16, time: Option<u64>) -> bool {
    let mut server = server(pki, version);
    talking_at(se, &mut server, (0, row, time), &mut honest, |talk| {
        talk.ask(&select(FILES)).is_ok_and(|answer| sw(&answer) == 0x9000)
    })
}

/// Adds a row for a server of another authority, which wants the SE's certificate as it is.
fn add_row(se: &mut Se, number: u8, mut other: Pki, pki: &Pki) -> Pki {
    let row = row("localhost", &[FILES], &other.authority.certificate);
    assert_eq!(store(se, &[3, 0, number], &row), 0x9000);
    other.authority.certificate.clone_from(&pki.authority.certificate);
    other
}

#[test]
fn a_clock_that_lies_makes_a_handshake_fail_and_nothing_else() {
    let pki = peer();
    for version in [Version::Tls12, Version::Tls13] {
        let mut se = with(&pki);
        // Two that tell where the floor is: one is valid until June's second day, the other from the third on.
        let ends = pki.with_server(valid(1, (2026, 6, 2)));
        let later = pki.with_server(|params| params.not_before = date_time_ymd(2026, 6, 3));
        // Without a floor and without a time nothing is valid yet.
        assert!(!speaks(&mut se, &pki, version, 1, None));
        // A clock that is ahead: nobody is spoken to whose certificate has ended then, and the next handshake is as if nothing had been.
        for ahead in [100, 8_000] {
            assert!(!speaks(&mut se, &pki, version, 1, Some(JUNE + ahead * YEAR)));
        }
        for ahead in [u64::MAX, 1 << 40] {
            assert!(!speaks(&mut se, &pki, version, 1, Some(ahead)));
        }
        assert!(!speaks(&mut se, &pki, version, 1, None));
        // By a year: the certificate is valid, and since June, which is the floor now and no second more or less.
        assert!(speaks(&mut se, &pki, version, 1, Some(JUNE + YEAR)));
        for behind in [None, Some(JUNE - YEAR)] {
            assert!(speaks(&mut se, &pki, version, 1, behind), "{behind:?}");
            assert!(speaks(&mut se, &ends, version, 1, behind), "{behind:?}");
            assert!(!speaks(&mut se, &later, version, 1, behind), "{behind:?}");
        }
        // A server that was proved earlier does not take it back; one that was proved later moves it.
        assert!(speaks(&mut se, &later, version, 1, Some(JUNE + 2 * DAY)));
        assert!(!speaks(&mut se, &ends, version, 1, Some(JUNE)));
        assert!(speaks(&mut se, &pki, version, 1, None));
        // The root writes it, forward and back.
        assert_eq!(store(&mut se, &[4], &JUNE.to_be_bytes()), 0x9000);
        assert!(speaks(&mut se, &ends, version, 1, None));
        assert!(!speaks(&mut se, &later, version, 1, None));
        assert_eq!(store(&mut se, &[4], &(JUNE + 20 * YEAR).to_be_bytes()), 0x9000);
        assert!(!speaks(&mut se, &pki, version, 1, Some(JUNE)));
        assert_eq!(store(&mut se, &[4], &[1; 7]), 0x6A80);
        assert_eq!(store(&mut se, &[4], &[]), 0x9000);
        assert!(!speaks(&mut se, &pki, version, 1, None));
        assert!(speaks(&mut se, &pki, version, 1, Some(JUNE)));
    }
}

/// What a server adds to its chain and no path of verification needs says nothing: not even that it is a certificate.
#[test]
fn a_certificate_that_proves_nothing_moves_nothing() {
    let pki = peer();
    let stranger = Pki::with("authority", |params| {
        params.not_before = date_time_ymd(2030, 1, 1)
    });
    let mut se = with(&pki);
    let config = crate::in_memory::config(&pki, Version::Tls13, 2, &[stranger.server.certificate]);
    let mut server = rustls::ServerConnection::new(std::sync::Arc::new(config)).unwrap();
    let spoke = talking_at(&mut se, &mut server, (0, 1, Some(JUNE)), &mut honest, |talk| {
        talk.ask(&select(FILES)).is_ok()
    });
    assert!(spoke);
    let ends = pki.with_server(valid(1, (2026, 6, 2)));
    assert!(speaks(&mut se, &ends, Version::Tls13, 1, None));
}

/// Whoever vouches for one row, or writes its own anchor, moves the floor of that row: for the others it is the time that it was, and the root's word is for all.
#[test]
fn what_one_server_proves_is_no_time_for_another() {
    let pki = peer();
    let mut se = with(&pki);
    let far = Pki::with("authority", |params| {
        params.not_before = date_time_ymd(2094, 1, 1);
        params.not_after = date_time_ymd(2099, 1, 1);
    });
    let far = add_row(&mut se, 2, far, &pki);
    let in_2095 = JANUARY + 69 * YEAR;
    let version = Version::Tls13;
    assert!(speaks(&mut se, &far, version, 2, Some(in_2095)));
    for _ in 0..2 {
        // Its own floor holds without a time, behind the power too; row 0001 has none, and the time that its device says.
        assert!(speaks(&mut se, &far, version, 2, None));
        assert!(!speaks(&mut se, &pki, version, 1, None));
        let mut booted = Box::new(Se::new(SecureElement::<Product>::into_flash(*se), Source::new()));
        booted.boot(&profile()).unwrap();
        se = booted;
    }
    assert!(speaks(&mut se, &pki, version, 1, Some(JUNE)));
    // A row that the root writes has another server: of row 0001 alone the floor is gone.
    let own = row("localhost", &[FILES], &pki.authority.certificate);
    assert!(speaks(&mut se, &pki, version, 1, None));
    assert_eq!(store(&mut se, &[3, 0, 1], &own), 0x9000);
    assert!(!speaks(&mut se, &pki, version, 1, None));
    assert!(speaks(&mut se, &far, version, 2, None));
    // What the root says is for all, and what servers have proved is forgotten.
    assert_eq!(store(&mut se, &[4], &JUNE.to_be_bytes()), 0x9000);
    assert!(speaks(&mut se, &pki, version, 1, None));
    assert!(!speaks(&mut se, &far, version, 2, None));
}

/// The power goes at each operation of the flash while the floor moves: it is the old one or the new one, and the new one where the server was answered.
#[test]
fn the_floor_is_the_old_one_or_the_new_one_when_the_power_goes() {
    let pki = peer();
    let mut se = with(&pki);
    let january = pki.with_server(valid(1, (2036, 1, 1)));
    assert!(speaks(&mut se, &january, Version::Tls13, 1, Some(JANUARY)));
    let flash = se.into_flash();
    let boot = |flash: RamFlash| {
        let mut se = Box::new(Se::new(flash, Source::new()));
        se.boot(&profile()).unwrap();
        se
    };
    let mut seen = BTreeMap::new();
    for seed in 0..2 {
        for cut in 0.. {
            let mut flash = flash.clone();
            flash.cut_after(cut, seed);
            let mut se = boot(flash);
            let spoke = speaks(&mut se, &pki, Version::Tls13, 1, Some(JUNE));
            let mut flash = SecureElement::<Product>::into_flash(*se);
            let was_cut = flash.is_off();
            flash.power_on();
            let mut se = boot(flash);
            let moved = speaks(&mut se, &pki, Version::Tls13, 1, None);
            // Not taken back, whatever happens.
            assert!(speaks(&mut se, &january, Version::Tls13, 1, None));
            *seen.entry((spoke, moved)).or_insert(0) += 1;
            if !was_cut {
                break;
            }
        }
    }
    println!("spoke, moved: {seen:?}");
    assert_eq!(seen.get(&(true, false)), None);
    assert!(seen[&(false, false)] > 0 && seen[&(true, true)] >= 2);
}
