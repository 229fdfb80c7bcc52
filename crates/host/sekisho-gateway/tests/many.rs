//! A thousand SEs with a session each: what they take does not grow with their commands. `SEKISHO_COMMANDS=1000000` is what the nightly run has.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::sync::Arc;

use peak_alloc::PeakAlloc;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sekisho_gateway::{Credentials, Gateway, Session, Settings};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const SES: usize = 1000;
const SHORT: usize = 4000;

/// The gateway, and what an SE connects with.
fn both() -> (Gateway, TlsConnector) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::from_params(&params, &key);
    let certify = |name: &str, usage| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &issuer).unwrap(), key)
    };
    let (server, server_key) = certify("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    let (element, element_key) = certify("element.example", ExtendedKeyUsagePurpose::ClientAuth);
    let credentials = Credentials {
        chain: server.pem().into_bytes(),
        key: server_key.serialize_pem().into_bytes(),
        authorities: authority.pem().into_bytes(),
        revoked: None,
    };
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![element.der().clone()],
            PrivatePkcs8KeyDer::from(element_key.serialize_der()).into(),
        )
        .unwrap();
    config.resumption = rustls::client::Resumption::disabled();
    let gateway = Gateway::new(&credentials, Settings::DEFAULT).unwrap();
    (gateway, Arc::new(config).into())
}

/// An SE that answers whatever it is asked, until it is told goodbye.
async fn element(connector: TlsConnector, stream: TcpStream) {
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = connector.connect(name, stream).await.unwrap();
    while let len @ 1.. = tls.fill_buf().await.unwrap().len() {
        tls.consume(len);
        tls.write_all(&[0x15, 0x90, 0]).await.unwrap();
        tls.flush().await.unwrap();
    }
}

/// Both ends of each session are files of this process; most machines begin with room for fewer.
fn raise_limit_of_files() {
    let own = std::process::id().to_string();
    let mut prlimit = std::process::Command::new("prlimit");
    // Where it cannot be raised the sessions say so.
    let _ = prlimit.args(["--pid", &own, "--nofile=4096:"]).status();
}

/// One command to each session, all at once.
async fn a_round(sessions: Vec<Session>) -> Vec<Session> {
    let asked = sessions.into_iter().map(|mut session| {
        tokio::spawn(async move {
            assert_eq!(session.send(&[0, 0xB0, 0, 0, 1]).await.unwrap(), [0x15, 0x90, 0]);
            session
        })
    });
    let asked: Vec<_> = asked.collect();
    let mut sessions = Vec::with_capacity(SES);
    for session in asked {
        sessions.push(session.await.unwrap());
    }
    sessions
}

#[test]
fn a_thousand_sessions_take_what_they_took_at_their_first_command() {
    let commands = std::env::var("SEKISHO_COMMANDS").map_or(SHORT, |number| number.parse().unwrap());
    raise_limit_of_files();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (gateway, connector) = both();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let before = ALLOCATOR.current_usage();
        let mut sessions = Vec::with_capacity(SES);
        for _ in 0..SES {
            let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            tokio::spawn(element(connector.clone(), client.unwrap()));
            let (stream, from) = accepted.unwrap();
            let room = gateway.room(from.ip()).unwrap();
            sessions.push(gateway.accept(room, stream).await.unwrap());
        }
        sessions = a_round(sessions).await;
        let first = ALLOCATOR.current_usage();
        for _ in 1..commands / SES {
            sessions = a_round(sessions).await;
        }
        let last = ALLOCATOR.current_usage();
        println!(
            "{SES} sessions: {} bytes for both ends of one; {first} bytes in all at command {SES}, {last} at command {commands}",
            (first - before) / SES
        );
        assert_eq!(last, first, "the heap grows with the commands");
        let sent: u64 = sessions.iter().map(|session| session.counts().commands).sum();
        assert_eq!(sent, (commands / SES * SES) as u64);
    });
}
