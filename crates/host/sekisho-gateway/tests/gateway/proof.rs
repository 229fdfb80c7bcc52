//! Who proves who it is gets a session, and nobody else.

use std::sync::Arc;

use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use rustls::HandshakeKind;
use sekisho_gateway::{AcceptError, Credentials, Gateway, Lost, Reason, Session, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::*;

#[tokio::test]
async fn who_does_not_prove_who_it_is_gets_no_session() {
    let world = World::new(SOON).await;
    let (session, _element) = world.both(None).await;
    assert_eq!(reason(session), Reason::Certificate);
    let key = || KeyPair::generate().unwrap();
    let others = authority();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    for element in [
        issue(
            "element.example",
            ExtendedKeyUsagePurpose::ClientAuth,
            &others,
            key(),
        ),
        issue(
            "element.example",
            ExtendedKeyUsagePurpose::ServerAuth,
            &world.authority,
            key(),
        ),
        issue(
            "element.example",
            ExtendedKeyUsagePurpose::ClientAuth,
            &world.authority,
            p384,
        ),
    ] {
        let (session, _element) = world.both(Some(&element)).await;
        assert_eq!(reason(session), Reason::Certificate);
    }
    // Nothing at all, a byte now and then, and what is no TLS.
    for bytes in [&[][..], &[0x16], b"GET / HTTP/1.1\r\n\r\n"] {
        let (mut stream, accepted) = tokio::join!(world.connect(), world.listener.accept());
        stream.write_all(bytes).await.unwrap();
        let room = world.gateway.room(HERE).unwrap();
        let accepted = world.gateway.accept(room, accepted.unwrap().0);
        match reason(accepted.await) {
            Reason::Slow => assert!(bytes.len() < 2),
            Reason::NoTls => assert!(bytes.len() > 2),
            other => panic!("{other}"),
        }
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    // Who goes away, and who wants what there is not.
    let (stream, accepted) = tokio::join!(world.connect(), world.listener.accept());
    drop(stream);
    let room = world.gateway.room(HERE).unwrap();
    let accepted = world.gateway.accept(room, accepted.unwrap().0);
    assert_eq!(reason(accepted.await), Reason::Closed);
    let mut other = rustls::crypto::ring::default_provider();
    let suite = rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
    other.cipher_suites.retain(|offered| offered.suite() == suite);
    let (session, _element) = world.both_with(None, other).await;
    assert_eq!(reason(session), Reason::NothingInCommon);
    // An SE that does not trust the server says so.
    let mut stranger = World::new(SOON).await;
    stranger.authority = authority();
    let (session, _element) = stranger.both(Some(&world.element)).await;
    assert_eq!(reason(session), Reason::Alert);
}

fn reason(accepted: Result<Session, AcceptError>) -> Reason {
    accepted.err().unwrap().reason()
}

/// Of what an authority has revoked no SE is taken, however old its list is; nor of one whose list is not there where lists are.
#[tokio::test]
async fn a_certificate_that_is_revoked_is_no_proof() {
    let mut world = World::new(Settings::DEFAULT).await;
    let other = authority();
    for (revoked, expected) in [
        (Some(list(&world.authority, SERIAL)), Some(Reason::Certificate)),
        (Some(list(&world.authority, SERIAL + 1)), None),
        (Some(list(&other, SERIAL + 1)), Some(Reason::Other)),
        (None, None),
    ] {
        let credentials = Credentials {
            revoked,
            ..credentials(&world.authority)
        };
        world.gateway = Gateway::new(&credentials, Settings::DEFAULT).unwrap();
        let (session, _element) = world.both(Some(&world.element)).await;
        assert_eq!(session.err().map(|error| error.reason()), expected);
    }
    // The same of one gateway whose lists change; what is no list changes nothing. A session that is open gets no further command, and one whose SE is not revoked goes on.
    let (mut open, mut element) = world.session().await;
    let card = async {
        command(&mut element).await;
        answer(&mut element, &[0x6D, 0]).await;
    };
    world.gateway.revoke(list(&world.authority, SERIAL + 1)).unwrap();
    assert_eq!(
        tokio::join!(open.send(&[0, 0x10, 0, 0]), card).0.unwrap(),
        [0x6D, 0]
    );
    world.gateway.revoke(list(&world.authority, SERIAL)).unwrap();
    let clone = world.gateway.clone();
    for wrong in [
        &b"a list"[..],
        b"",
        b"\n",
        b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    ] {
        assert!(clone.revoke(wrong.to_vec()).is_err());
    }
    let (session, _) = world.both(Some(&world.element)).await;
    assert_eq!(
        session.err().map(|error| error.reason()),
        Some(Reason::Certificate)
    );
    let sent = open.counts().sent;
    let refused = open.send(&[0, 0x10, 0, 0]).await.unwrap_err();
    assert!(matches!(refused.why, Lost::Revoked) && !refused.is_unknown);
    assert_eq!((refused.why.word(), open.counts().sent), ("revoked", sent));
    // It is over, whatever other lists say.
    let over = open.send(&[0, 0x10, 0, 0]).await.unwrap_err();
    assert!(matches!(over.why, Lost::Over));
    clone.revoke(list(&world.authority, SERIAL + 1)).unwrap();
    assert!(world.both(Some(&world.element)).await.0.is_ok());
}

/// Where sessions may be resumed, what is revoked since is not: its ticket is worth nothing, and its certificate is looked at.
#[tokio::test]
async fn a_ticket_does_not_outlive_the_lists() {
    let mut world = World::new(Settings::DEFAULT).await;
    let settings = Settings {
        resumable: 16,
        ..Settings::DEFAULT
    };
    world.gateway = Gateway::new(&credentials(&world.authority), settings).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let client = Arc::new(world.config(Some(&world.element), provider));
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (session, element) = world.both_as(&client).await;
        let (mut session, mut element) = (session.unwrap(), element.unwrap());
        // Its ticket is heard with the first command.
        let card = async {
            command(&mut element).await;
            answer(&mut element, &[0x90, 0]).await;
        };
        assert_eq!(
            tokio::join!(session.send(&[0, 0x10, 0, 0]), card).0.unwrap(),
            [0x90, 0]
        );
        assert_eq!(element.get_ref().1.handshake_kind(), Some(expected));
        assert_eq!(session.identity().names, ["element.example"]);
    }
    world.gateway.revoke(list(&world.authority, SERIAL)).unwrap();
    let (session, _) = world.both_as(&client).await;
    assert_eq!(
        session.err().map(|error| error.reason()),
        Some(Reason::Certificate)
    );
}

fn rsa() -> KeyPair {
    let mut openssl = std::process::Command::new("openssl");
    let made = openssl.args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let pem = String::from_utf8(made.output().unwrap().stdout).unwrap();
    KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &rcgen::PKCS_RSA_SHA256).unwrap()
}

/// An authority whose signature an SE could not verify vouches for nobody, though it is named and the SE's own key is on P-256. One on P-256 in its place shows that
/// this is what decides.
#[tokio::test]
async fn an_authority_on_another_curve_or_with_rsa_vouches_for_nobody() {
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    for (key, is_taken) in [
        (KeyPair::generate().unwrap(), true),
        (p384, false),
        (rsa(), false),
    ] {
        let mut world = World::new(Settings::DEFAULT).await;
        let other = authority_with(key);
        let mut credentials = credentials(&world.authority);
        credentials.authorities.extend(other.2.as_bytes());
        world.gateway = Gateway::new(&credentials, Settings::DEFAULT).unwrap();
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        let element = issue("element.example", usage, &other, KeyPair::generate().unwrap());
        let (session, _element) = world.both(Some(&element)).await;
        match session {
            Ok(_) => assert!(is_taken),
            Err(error) => assert!(!is_taken && matches!(error, AcceptError::Handshake(_)), "{error}"),
        }
    }
}
