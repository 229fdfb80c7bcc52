//! What a TLS session leaves in the memory of a running `sekisho card`, which is searched from outside: stack, heap, the operating system's RAM; the card's flash is left out by its address.
#![cfg(target_os = "linux")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use rustls::{ConnectionTrafficSecrets, KeyLog, ServerConfig, ServerConnection};
use sekisho_tls::Version;

use crate::SEKISHO;
use crate::folder::write_folder;
use crate::pki::Pki;
use crate::process::CardProcess;
use crate::process::memory::{Memory, Secret};

/// SELECT of the file system; READ BINARY of what everybody may read.
const COMMANDS: [&[u8]; 2] = [
    b"\x00\xA4\x04\x00\x07\xF0SKOS\x04\x01\x00",
    &[0, 0xB0, 0x9E, 0, 0x10],
];

#[derive(Debug, Default)]
struct Logged(Mutex<Vec<(String, Vec<u8>)>>);

impl KeyLog for Logged {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        self.0.lock().unwrap().push((label.to_owned(), secret.to_vec()));
    }
}

fn config(pki: &Pki, version: Version, logged: &Arc<Logged>) -> ServerConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.authority.certificate.clone().into()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(pki.server.key.serialize_der());
    let version = match version {
        Version::Tls12 => &rustls::version::TLS12,
        Version::Tls13 => &rustls::version::TLS13,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![pki.server.certificate.clone().into()], key.into())
        .unwrap();
    config.key_log = Arc::clone(logged) as Arc<dyn KeyLog>;
    config.enable_secret_extraction = true;
    config
}

/// A server for one session: says when it has had the answer to the first command, goes on when told to, and gives the keys when all is over.
fn serve(
    listener: &TcpListener,
    config: ServerConfig,
    first: &mpsc::Sender<()>,
    go_on: &mpsc::Receiver<()>,
) -> Vec<Secret> {
    let (mut stream, _) = listener.accept().unwrap();
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    for command in COMMANDS {
        let mut tls = rustls::Stream::new(&mut server, &mut stream);
        tls.write_all(command).unwrap();
        let mut answer = [0; 300];
        let len = tls.read(&mut answer).unwrap();
        assert_eq!(answer[len - 2..len], [0x90, 0]);
        first.send(()).unwrap();
        go_on.recv().unwrap();
    }
    server.send_close_notify();
    server.write_tls(&mut stream).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    let keys = server.dangerous_extract_secrets().unwrap();
    [("to the SE", keys.tx.1), ("from the SE", keys.rx.1)]
        .into_iter()
        .map(|(name, keys)| match keys {
            ConnectionTrafficSecrets::Aes128Gcm { key, .. } => Secret::new(name, key.as_ref()),
            _ => panic!("another cipher"),
        })
        .collect()
}

fn gone(when: &str, card: &CardProcess, flash: &std::path::Path, secrets: &[Secret]) {
    let memory = Memory::of(card.id());
    let left = memory.flash(flash);
    assert_eq!(memory.holds(secrets, &left), Vec::<String>::new(), "{when}");
}

/// While a session is open there are its keys and in TLS 1.3 the two secrets that a KeyUpdate needs, and nothing else of its handshake; behind it nothing at all.
#[test]
fn what_a_session_was_made_of_is_gone() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().unwrap());
    let made_with = folder.path().join("tls");
    write_folder(&made_with, &pki);
    let flash = folder.path().join("flash");
    let card = CardProcess::start(&flash, 0, &["--tls", made_with.to_str().unwrap()]);
    let own = || Secret::new("private key", &pki.element.scalar());
    for version in [Version::Tls12, Version::Tls13] {
        let logged = Arc::new(Logged::default());
        let config = config(&pki, version, &logged);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (first, has_first) = mpsc::channel();
        let (go, go_on) = mpsc::channel();
        let server = thread::spawn(move || serve(&listener, config, &first, &go_on));
        let mut device = Command::new(SEKISHO)
            .args(["tls", &address, "--card", &format!("tcp:{}", card.address)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        has_first.recv().unwrap();
        let secrets = || {
            let logged = logged.0.lock().unwrap();
            logged
                .iter()
                .map(|(name, bytes)| Secret::new(name, bytes))
                .collect::<Vec<_>>()
        };
        // What stays of TLS 1.3 is made of its traffic secrets, which are two of them.
        let stays = |secret: &Secret| secret.name.ends_with("_TRAFFIC_SECRET_0");
        let mut others = secrets();
        assert!(!others.is_empty());
        others.retain(|secret| !stays(secret));
        others.push(own());
        gone("while it is open", &card, &flash, &others);
        go.send(()).unwrap();
        has_first.recv().unwrap();
        let mut open = secrets();
        open.retain(stays);
        let memory = Memory::of(card.id());
        let found = memory.holds(&open, &memory.flash(&flash));
        assert_eq!(found.len(), if version == Version::Tls13 { 2 } else { 0 });
        go.send(()).unwrap();
        let keys = server.join().unwrap();
        assert!(device.wait().unwrap().success());
        let mut all = secrets();
        all.extend(keys);
        all.push(own());
        gone("behind it", &card, &flash, &all);
    }
}
