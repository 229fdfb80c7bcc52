//! Rows with a level and a key pin (docs/spec/tls-manager.md, 2): who a server is to be.

use rcgen::{PublicKeyData as _, date_time_ymd};
use sekisho_bridge::Ended;
use sekisho_tls::Version;

use crate::common::sw;
use crate::device::{NOW, honest, server, talking_at};
use crate::pki::{Certified, Pki};
use crate::se::{FILES, Se, row, row_of, row_with, store, with};
use crate::servers::{READ, select};

/// SHA-256 of the public key, as a certificate has it.
fn pin(of: &Certified) -> Option<[u8; 32]> {
    Some(sekisho_keys::sha256(&[&of.key.subject_public_key_info()]))
}

/// Whether a session with the server of row 0002 opens, and which name the server was asked for.
fn opens(se: &mut Se, pki: &Pki, version: Version) -> (bool, Option<String>) {
    let mut server = server(pki, version);
    let ended = talking_at(se, &mut server, (0, 2, Some(NOW)), &mut honest, |talk| {
        let answer = talk.ask(&select(FILES))?;
        assert_eq!(sw(&answer), 0x9000);
        assert_eq!(talk.ask(READ).map(|answer| sw(&answer)), Ok(0x9000));
        Err::<(), _>(talk.close())
    });
    assert_eq!(ended, Err(Ended::BySe));
    let asked = server.server_name().map(str::to_owned);
    (!server.is_handshaking(), asked)
}

#[test]
fn a_server_has_the_key_that_its_row_pins() {
    let pki = Pki::new();
    let elsewhere = pki.with_server(|params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("elsewhere".try_into().unwrap())];
    });
    let expired = pki.with_server(|params| params.not_after = date_time_ymd(2020, 1, 1));
    let (again, stranger) = (pki.with_server(|_| {}), Pki::new());
    let anchor = &pki.authority.certificate[..];
    let mut se = with(&pki);
    for version in [Version::Tls12, Version::Tls13] {
        let mut rowed = |pin: Option<[u8; 32]>, name: &str, anchor: &[u8], pki: &Pki| {
            let row = row_of(7, pin, name, &[FILES], anchor);
            assert_eq!(store(&mut se, &[3, 0, 2], &row), 0x9000);
            opens(&mut se, pki, version)
        };
        let localhost = Some("localhost".to_owned());
        // By name, by both, by the key alone: the server is asked for no name then, and may have any.
        assert_eq!(rowed(None, "localhost", anchor, &pki), (true, localhost.clone()));
        assert_eq!(
            rowed(pin(&pki.server), "localhost", anchor, &pki),
            (true, localhost)
        );
        for pki in [&pki, &elsewhere] {
            assert_eq!(rowed(pin(&pki.server), "", anchor, pki), (true, None));
        }
        // Another key of the same authority and name, the pin of the authority's key, one bit of the pin.
        let mut bit = pin(&pki.server);
        bit.as_mut().unwrap()[31] ^= 1;
        for wrong in [pin(&again.server), pin(&pki.authority), bit] {
            assert!(!rowed(wrong, "localhost", anchor, &pki).0);
            assert!(!rowed(wrong, "", anchor, &pki).0);
        }
        // A pin replaces the name alone: neither the chain, nor its time, nor a name that is there.
        let other = &stranger.authority.certificate[..];
        assert!(!rowed(pin(&pki.server), "", other, &pki).0);
        assert!(!rowed(pin(&expired.server), "", anchor, &expired).0);
        assert!(!rowed(pin(&elsewhere.server), "localhost", anchor, &elsewhere).0);
        assert!(!rowed(None, "localhost", anchor, &elsewhere).0);
    }
}

/// What a row may be, of each form: those of before are what they were.
#[test]
fn rows_of_each_form() {
    let pki = Pki::new();
    let mut se = with(&pki);
    let anchor = &pki.authority.certificate[..];
    let short = row("localhost", &[FILES], anchor);
    let named = |head: &[u8]| [head, &short].concat();
    let nameless = |head: &[u8]| [head, &[0], &short[10..]].concat();
    let pinned = |head: &[u8]| [head, &pin(&pki.server).unwrap()].concat();
    for (value, said) in [
        (short.clone(), 0x9000),
        (row_with(3, "localhost", &[FILES], anchor), 0x9000),
        (named(&[0, 0x81, 0, 0, 0]), 0x9000),
        (named(&[0, 0x81, 3, 0xFF, 0]), 0x9000),
        (named(&pinned(&[0, 0x81, 3, 0xFF, 32])), 0x9000),
        (nameless(&pinned(&[0, 0x81, 0, 0, 32])), 0x9000),
        // Without a name and a pin; of another version; with another right; with a pin of another length.
        (nameless(&[0, 0x81, 0, 0, 0]), 0x6A80),
        (nameless(&[0, 0]), 0x6A80),
        (named(&[0, 0x80, 0, 0, 0]), 0x6A80),
        (named(&[0, 0x82, 0, 0, 0]), 0x6A80),
        (named(&[0, 0x81, 4, 0, 0]), 0x6A80),
        (named(&[0, 0x81, 0x81, 0, 0]), 0x6A80),
        (named(&[0, 0x81, 0, 0, 31]), 0x6A80),
        (named(&[0, 0x81, 0, 0, 33]), 0x6A80),
        (pinned(&[0, 0x81, 0, 0, 32]), 0x6A80),
        (vec![0, 0x81, 0, 0], 0x6A80),
        (vec![0, 0x81], 0x6A80),
    ] {
        assert_eq!(store(&mut se, &[3, 0, 2], &value), said, "{value:02X?}");
        // What is refused changes nothing: the row before it opens or does not.
        assert_eq!(store(&mut se, &[3, 0, 2], &short), 0x9000);
        assert!(opens(&mut se, &pki, Version::Tls13).0);
    }
}
