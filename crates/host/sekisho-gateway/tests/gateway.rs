//! The gateway against clients that answer, lie, hurry, dawdle and vanish. An SE of ours is beside it in `apps/sekisho/tests`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, RevokedCertParams, date_time_ymd,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use sekisho_gateway::{
    AcceptError, Credentials, Gateway, GatewayError, Lost, Outcome, Reason, Session, Settings,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type Issued = (CertificateParams, KeyPair, String, Vec<u8>);

fn authority() -> Issued {
    authority_with(KeyPair::generate().unwrap())
}

fn authority_with(key: KeyPair) -> Issued {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = params.self_signed(&key).unwrap();
    (params, key, made.pem(), made.der().to_vec())
}

fn issue(name: &str, usage: ExtendedKeyUsagePurpose, authority: &Issued, key: KeyPair) -> Issued {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.extended_key_usages = vec![usage];
    params.serial_number = Some(SERIAL.into());
    let made = params
        .signed_by(&key, &Issuer::from_params(&authority.0, &authority.1))
        .unwrap();
    (params, key, made.pem(), made.der().to_vec())
}

/// The serial number of what is issued.
const SERIAL: u64 = 0x5E_C154;

/// The list of an authority, with this serial number in it. It is years old.
fn list(authority: &Issued, serial: u64) -> Vec<u8> {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(2020, 2, 1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let made = params.signed_by(&Issuer::from_params(&authority.0, &authority.1));
    made.unwrap().pem().unwrap().into_bytes()
}

struct World {
    gateway: Gateway,
    listener: TcpListener,
    authority: Issued,
    element: Issued,
}

fn credentials(authority: &Issued) -> Credentials {
    let server = issue(
        "localhost",
        ExtendedKeyUsagePurpose::ServerAuth,
        authority,
        KeyPair::generate().unwrap(),
    );
    Credentials {
        chain: server.2.into_bytes(),
        key: server.1.serialize_pem().into_bytes(),
        authorities: authority.2.clone().into_bytes(),
        revoked: Vec::new(),
    }
}

impl World {
    async fn new(settings: Settings) -> Self {
        let authority = authority();
        let key = KeyPair::generate().unwrap();
        Self {
            gateway: Gateway::new(&credentials(&authority), settings).unwrap(),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            element: issue(
                "element.example",
                ExtendedKeyUsagePurpose::ClientAuth,
                &authority,
                key,
            ),
            authority,
        }
    }

    async fn connect(&self) -> TcpStream {
        let address = self.listener.local_addr().unwrap();
        TcpStream::connect(address).await.unwrap()
    }

    fn config(&self, element: Option<&Issued>, provider: CryptoProvider) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.3.clone().into()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match element {
            None => builder.with_no_client_auth(),
            Some((_, key, _, der)) => {
                let key = PrivatePkcs8KeyDer::from(key.serialize_der());
                builder
                    .with_client_auth_cert(vec![der.clone().into()], key.into())
                    .unwrap()
            }
        }
    }

    /// Both ends of a connection whose client has this certificate.
    async fn both(
        &self,
        element: Option<&Issued>,
    ) -> (
        Result<Session, AcceptError>,
        std::io::Result<TlsStream<TcpStream>>,
    ) {
        self.both_with(element, rustls::crypto::ring::default_provider())
            .await
    }

    async fn both_with(
        &self,
        element: Option<&Issued>,
        provider: CryptoProvider,
    ) -> (
        Result<Session, AcceptError>,
        std::io::Result<TlsStream<TcpStream>>,
    ) {
        self.both_as(&Arc::new(self.config(element, provider))).await
    }

    async fn both_as(
        &self,
        config: &Arc<ClientConfig>,
    ) -> (
        Result<Session, AcceptError>,
        std::io::Result<TlsStream<TcpStream>>,
    ) {
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::clone(config));
        let accept = async {
            let (stream, from) = self.listener.accept().await.unwrap();
            let room = self.gateway.room(from.ip()).unwrap();
            self.gateway.accept(room, stream).await
        };
        tokio::join!(accept, async {
            connector.connect(name, self.connect().await).await
        })
    }

    async fn session(&self) -> (Session, TlsStream<TcpStream>) {
        let (session, element) = self.both(Some(&self.element)).await;
        (session.unwrap(), element.unwrap())
    }
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What one record carries.
async fn command(element: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let command = element.fill_buf().await.unwrap().to_vec();
    element.consume(command.len());
    command
}

async fn answer(element: &mut TlsStream<TcpStream>, answer: &[u8]) {
    element.write_all(answer).await.unwrap();
    element.flush().await.unwrap();
}

const SOON: Settings = Settings {
    handshake: Duration::from_millis(300),
    answer: Duration::from_millis(300),
    ..Settings::DEFAULT
};

#[tokio::test]
async fn a_script_is_one_record_a_command_and_the_se_is_known() {
    let world = World::new(Settings::DEFAULT).await;
    let (mut session, mut element) = world.session().await;
    assert_eq!(session.identity().names, ["element.example"]);
    assert_eq!(session.identity().certificate, world.element.3);
    assert_eq!(session.identity().to_string(), "element.example");
    assert_eq!(session.protocol(), "TLS 1.3");
    let commands = [vec![0, 0xA4, 4, 0], vec![0xB0; 1024], vec![0, 0xB0, 0, 0, 4]];
    let card = async {
        for (number, expected) in (1..).zip(&commands) {
            assert_eq!(&command(&mut element).await, expected);
            answer(&mut element, &[number, 0x90, 0]).await;
        }
        assert_eq!(command(&mut element).await, [0; 0]);
        element.shutdown().await.unwrap();
    };
    let script = async {
        let (outcomes, lost) = session.run(&commands, |_, _| true).await;
        assert!(lost.is_none());
        let done = (1..4).map(|number| Outcome::Done(vec![number, 0x90, 0]));
        assert_eq!(outcomes, done.collect::<Vec<_>>());
        let tally = session.counts();
        assert_eq!((tally.commands, tally.sent, tally.received), (3, 4 + 1024 + 5, 9));
        session.end().await;
    };
    tokio::join!(card, script);
}

#[tokio::test]
async fn a_script_ends_where_an_answer_is_not_to_go_on_with() {
    let world = World::new(Settings::DEFAULT).await;
    let (mut session, mut element) = world.session().await;
    let commands = [[0, 0xA4, 4, 0]; 3];
    let (.., (outcomes, lost)) = tokio::join!(
        async {
            command(&mut element).await;
            answer(&mut element, &[0x6A, 0x82]).await;
        },
        session.run(&commands, |_, answer| answer == [0x90, 0]),
    );
    assert!(lost.is_none());
    assert_eq!(
        outcomes,
        [
            Outcome::Done(vec![0x6A, 0x82]),
            Outcome::NotSent,
            Outcome::NotSent
        ]
    );
}

/// The first command has its answer, the second was sent and the SE vanished, the third was never sent: and that is what is said of them.
#[tokio::test]
async fn what_is_done_not_sent_and_unknown() {
    let world = World::new(SOON).await;
    let commands = [[0, 0xA4, 4, 0], [0, 0xD6, 0, 0], [0, 0xB0, 0, 0]];
    for vanishes in [true, false] {
        let (mut session, mut element) = world.session().await;
        let card = async move {
            command(&mut element).await;
            answer(&mut element, &[0x90, 0]).await;
            assert_eq!(command(&mut element).await, commands[1]);
            (!vanishes).then_some(element)
        };
        let (kept, (outcomes, lost)) = tokio::join!(card, session.run(&commands, |_, _| true));
        assert_eq!(
            outcomes,
            [Outcome::Done(vec![0x90, 0]), Outcome::Unknown, Outcome::NotSent]
        );
        match lost.unwrap() {
            Lost::Slow => assert!(!vanishes),
            Lost::CutOff | Lost::Connection(_) => assert!(vanishes),
            other => panic!("{other}"),
        }
        // A late answer is no answer to the next command: nothing is sent any more.
        if let Some(mut element) = kept {
            answer(&mut element, &[0x90, 0]).await;
        }
        let error = session.send(&commands[2]).await.unwrap_err();
        assert!(matches!(error.why, Lost::Over) && !error.is_unknown);
    }
}

/// Who is stopped sends nothing more, and does not know of the command that waits for its answer.
#[tokio::test]
async fn a_script_that_is_stopped() {
    let world = World::new(Settings::DEFAULT).await;
    let commands = [[0, 0xA4, 4, 0], [0, 0xD6, 0, 0], [0, 0xB0, 0, 0]];
    let (mut session, mut element) = world.session().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let card = async {
        command(&mut element).await;
        answer(&mut element, &[0x90, 0]).await;
        assert_eq!(command(&mut element).await, commands[1]);
        stop.send(()).unwrap();
    };
    let stopped = async { stopped.await.unwrap() };
    let ((), (outcomes, lost)) = tokio::join!(card, session.run_until(&commands, |_, _| true, stopped));
    assert_eq!(
        outcomes,
        [Outcome::Done(vec![0x90, 0]), Outcome::Unknown, Outcome::NotSent]
    );
    assert!(matches!(lost, Some(Lost::Stopped)));
    let (mut session, mut element) = world.session().await;
    let (outcomes, lost) = session
        .run_until(&commands, |_, _| true, std::future::ready(()))
        .await;
    assert_eq!(outcomes, [const { Outcome::NotSent }; 3]);
    assert!(matches!(lost, Some(Lost::Stopped)));
    // It was not sent, so the session goes on.
    let (sent, ()) = tokio::join!(session.send(&commands[2]), async {
        assert_eq!(command(&mut element).await, commands[2]);
        answer(&mut element, &[0x90, 0]).await;
    });
    assert_eq!(sent.unwrap(), [0x90, 0]);
}

#[tokio::test]
async fn a_session_that_ended_before_a_command_has_not_sent_it() {
    let world = World::new(Settings::DEFAULT).await;
    let (mut session, mut element) = world.session().await;
    element.shutdown().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = session.send(&[0, 0xB0, 0, 0]).await.unwrap_err();
    assert!(matches!(error.why, Lost::Closed) && !error.is_unknown);
    let (outcomes, _) = session.run(&[[0, 0xB0, 0, 0]], |_, _| true).await;
    assert_eq!(outcomes, [Outcome::NotSent]);
}

/// Only the SE can say that it ended the session: a connection that ends without its word is told as that, before a command and behind one, in both versions of TLS.
#[tokio::test]
async fn a_connection_that_is_cut_is_not_the_secure_elements_word() {
    let world = World::new(Settings::DEFAULT).await;
    for (says_goodbye, is_asked) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut session, mut element) = world.session().await;
        let ends = async move {
            if is_asked {
                command(&mut element).await;
            }
            if says_goodbye {
                element.shutdown().await.unwrap();
            } else {
                // A FIN of the connection below, as any device can send one.
                element.get_mut().0.shutdown().await.unwrap();
            }
            element
        };
        let (mut kept, mut sent) = (None, None);
        if is_asked {
            let (element, answer) = tokio::join!(ends, session.send(&[0, 0xB0, 0, 0]));
            (kept, sent) = (Some(element), Some(answer));
        } else {
            kept.replace(ends.await);
            tokio::time::sleep(Duration::from_millis(50)).await;
            sent.replace(session.send(&[0, 0xB0, 0, 0]).await);
        }
        let error = sent.unwrap().unwrap_err();
        assert_eq!(error.is_unknown, is_asked);
        let word = if says_goodbye { "closed" } else { "cut off" };
        assert_eq!(error.why.word(), word, "{}", error.why);
        drop(kept);
    }
}

#[tokio::test]
async fn a_command_given_up_ends_the_session() {
    let world = World::new(Settings::DEFAULT).await;
    let (mut session, mut element) = world.session().await;
    let given_up = tokio::time::timeout(Duration::from_millis(50), session.send(&[0, 0xB0, 0, 0])).await;
    assert!(given_up.is_err());
    command(&mut element).await;
    answer(&mut element, &[0x90, 0]).await;
    let error = session.send(&[0, 0xB0, 0, 0]).await.unwrap_err();
    assert!(matches!(error.why, Lost::Over));
}

#[tokio::test]
async fn what_is_no_answer_and_what_was_not_asked_for() {
    let world = World::new(Settings::DEFAULT).await;
    let (mut session, mut element) = world.session().await;
    let (.., error) = tokio::join!(answer(&mut element, &[0x90]), session.send(&[0, 0xB0, 0, 0]));
    // It may stand there before the command has gone, and is then unasked.
    assert!(matches!(error.unwrap_err().why, Lost::NoAnswer | Lost::Unasked));
    let (mut session, mut element) = world.session().await;
    answer(&mut element, &[0x90, 0]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = session.send(&[0, 0xB0, 0, 0]).await.unwrap_err();
    assert!(matches!(error.why, Lost::Unasked) && !error.is_unknown);
}

#[tokio::test]
async fn a_command_that_fits_no_record_is_refused_and_the_session_goes_on() {
    let settings = Settings {
        record: 64,
        ..Settings::DEFAULT
    };
    let world = World::new(settings).await;
    let (mut session, mut element) = world.session().await;
    let error = session.send(&[0; 65]).await.unwrap_err();
    assert!(matches!(error.why, Lost::TooLong(65, 64)) && !error.is_unknown);
    let card = async {
        assert_eq!(command(&mut element).await, [0; 64]);
        answer(&mut element, &[0x90, 0]).await;
    };
    let (.., answer) = tokio::join!(card, session.send(&[0; 64]));
    assert_eq!(answer.unwrap(), [0x90, 0]);
}

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
        (list(&world.authority, SERIAL), Some(Reason::Certificate)),
        (list(&world.authority, SERIAL + 1), None),
        (list(&other, SERIAL + 1), Some(Reason::Other)),
        (Vec::new(), None),
    ] {
        let credentials = Credentials {
            revoked,
            ..credentials(&world.authority)
        };
        world.gateway = Gateway::new(&credentials, Settings::DEFAULT).unwrap();
        let (session, _element) = world.both(Some(&world.element)).await;
        assert_eq!(session.err().map(|error| error.reason()), expected);
    }
    // The same of one gateway whose lists change; what is no list changes nothing, and open sessions go on.
    let (mut open, mut element) = world.session().await;
    world.gateway.revoke(list(&world.authority, SERIAL)).unwrap();
    let clone = world.gateway.clone();
    for wrong in [
        &b"a list"[..],
        b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    ] {
        assert!(clone.revoke(wrong.to_vec()).is_err());
    }
    let (session, _) = world.both(Some(&world.element)).await;
    assert_eq!(
        session.err().map(|error| error.reason()),
        Some(Reason::Certificate)
    );
    let card = async {
        command(&mut element).await;
        answer(&mut element, &[0x6D, 0]).await;
    };
    assert_eq!(
        tokio::join!(open.send(&[0, 0x10, 0, 0]), card).0.unwrap(),
        [0x6D, 0]
    );
    clone.revoke(Vec::new()).unwrap();
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

#[tokio::test]
async fn handshakes_and_sessions_are_counted_apart() {
    let settings = Settings {
        handshakes: 2,
        sessions: 2,
        ..Settings::DEFAULT
    };
    let world = World::new(settings).await;
    let first = world.session().await;
    // Two that prove nothing take no session's place.
    let rooms = [
        world.gateway.room(HERE).unwrap(),
        world.gateway.room(HERE).unwrap(),
    ];
    drop(rooms);
    let second = world.session().await;
    let (third, _element) = world.both(Some(&world.element)).await;
    assert!(matches!(third.err(), Some(AcceptError::Full)));
    drop(first);
    let _third = world.session().await;
    drop(second);
}

/// Connections that say nothing hold every room, for as long as they may: an SE is served all the same, and they are gone one by one.
#[tokio::test]
async fn silent_connections_keep_no_se_waiting() {
    let settings = Settings {
        handshakes: 8,
        ..Settings::DEFAULT
    };
    let world = World::new(settings).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        let (stream, accepted) = tokio::join!(world.connect(), world.listener.accept());
        let (gateway, room) = (world.gateway.clone(), world.gateway.room(HERE).unwrap());
        let accepted = accepted.unwrap().0;
        let task = tokio::spawn(async move { gateway.accept(room, accepted).await.err() });
        silent.push((stream, task));
    }
    // Longer than all of them together would have taken if any had to be waited for.
    let served = async {
        for _ in 0..8 {
            drop(world.session().await);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), served)
        .await
        .unwrap();
    // The first one gave way to the first SE; behind it there was its room.
    let (mut stream, task) = silent.remove(0);
    assert!(matches!(task.await.unwrap(), Some(AcceptError::GaveWay)));
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert!(silent.iter().all(|(_, task)| !task.is_finished()));
}

#[test]
fn what_is_no_gateway() {
    let authority = authority();
    let good = credentials(&authority);
    let of = |change: &dyn Fn(&mut Credentials)| {
        let mut credentials = good.clone();
        change(&mut credentials);
        Gateway::new(&credentials, Settings::DEFAULT).err()
    };
    assert!(of(&|_| {}).is_none());
    assert!(matches!(
        of(&|c| c.authorities.clear()),
        Some(GatewayError::NoAuthority)
    ));
    assert!(matches!(of(&|c| c.key.clear()), Some(GatewayError::Pem(_))));
    assert!(matches!(
        of(&|c| c.revoked = b"a list".to_vec()),
        Some(GatewayError::Pem(_))
    ));
    assert!(matches!(
        of(&|c| c.chain.clear()),
        Some(GatewayError::Certificates(_))
    ));
    for record in [31, 16_385] {
        let settings = Settings {
            record,
            ..Settings::DEFAULT
        };
        assert!(matches!(
            Gateway::new(&good, settings).err(),
            Some(GatewayError::Record)
        ));
    }
    assert!(!format!("{good:?}").contains("BEGIN"));
}
