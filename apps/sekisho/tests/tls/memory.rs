//! What a TLS session leaves in the memory of a running `sekisho card`, which is searched from outside: stack, heap, the operating system's RAM; the card's flash is left out by its address.
#![cfg(target_os = "linux")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use rustls::{ConnectionTrafficSecrets, KeyLog, ServerConfig, ServerConnection};
use sekisho_tls::Version;

use crate::SEKISHO;
use crate::folder::write_folder;
use crate::pki::Pki;
use crate::process::memory::{Memory, Secret};
use crate::process::{CardProcess, send};

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

/// With the certificate of `pki`, or of who only says that he is that.
fn config(pki: &Pki, certified: &Pki, version: Version, logged: &Arc<Logged>) -> ServerConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.authority.certificate.clone().into()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.server.key.serialize_der());
    let version = match version {
        Version::Tls12 => &rustls::version::TLS12,
        Version::Tls13 => &rustls::version::TLS13,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![certified.server.certificate.clone().into()], key.into())
        .unwrap();
    config.key_log = Arc::clone(logged) as Arc<dyn KeyLog>;
    config.enable_secret_extraction = true;
    config
}

/// A server for one session of so many commands: says when it has had an answer, goes on when told to, and gives the keys when all is over.
fn serve(
    listener: &TcpListener,
    config: ServerConfig,
    commands: usize,
    first: &mpsc::Sender<()>,
    go_on: &mpsc::Receiver<()>,
) -> Vec<Secret> {
    let (mut stream, _) = listener.accept().unwrap();
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    for command in &COMMANDS[..commands] {
        let mut tls = rustls::Stream::new(&mut server, &mut stream);
        tls.write_all(command).unwrap();
        let mut answer = [0; 300];
        let len = tls.read(&mut answer).unwrap();
        assert_eq!(answer[len - 2..len], [0x90, 0]);
        first.send(()).unwrap();
        go_on.recv().unwrap();
    }
    server.send_close_notify();
    // Who is not there any more does not hear it.
    let _ = server.write_tls(&mut stream);
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

/// A card with a TLS Manager.
struct Element {
    pki: Pki,
    folder: tempfile::TempDir,
    card: CardProcess,
}

impl Element {
    fn new() -> Self {
        let (pki, folder) = (Pki::new(), tempfile::tempdir().unwrap());
        let made_with = folder.path().join("tls");
        write_folder(&made_with, &pki);
        let more = ["--tls", made_with.to_str().unwrap()];
        let card = CardProcess::start(&folder.path().join("flash"), 0, &more);
        Self { pki, folder, card }
    }

    /// `sekisho tls` between it and a server.
    fn device(&self, listener: &TcpListener) -> Child {
        let address = listener.local_addr().unwrap().to_string();
        Command::new(SEKISHO)
            .args(["tls", &address, "--card", &format!("tcp:{}", self.card.address)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// None of these is in its memory, nor its private key.
    fn has_nothing_of(&self, when: &str, mut secrets: Vec<Secret>) {
        assert!(!secrets.is_empty(), "{when}");
        secrets.push(Secret::new("private key", &self.pki.element.scalar()));
        let memory = Memory::of(self.card.id());
        let left = memory.flash(&self.folder.path().join("flash"));
        assert_eq!(memory.holds(&secrets, &left), Vec::<String>::new(), "{when}");
    }
}

impl Logged {
    fn secrets(&self) -> Vec<Secret> {
        let logged = self.0.lock().unwrap();
        logged
            .iter()
            .map(|(name, bytes)| Secret::new(name, bytes))
            .collect()
    }
}

/// What stays of TLS 1.3 is made of its traffic secrets, which are two of those that are logged.
fn stays(secret: &Secret) -> bool {
    secret.name.ends_with("_TRAFFIC_SECRET_0")
}

/// While a session is open there are its keys and in TLS 1.3 the two secrets that a KeyUpdate needs, and nothing else of its handshake; behind it nothing at all: when it has ended in good order, and
/// when the device is gone in the middle of it, which resets the interface.
#[test]
fn what_a_session_was_made_of_is_gone() {
    let element = Element::new();
    let cases = [Version::Tls12, Version::Tls13].map(|version| [(version, false), (version, true)]);
    for (version, is_cut) in cases.into_iter().flatten() {
        let logged = Arc::new(Logged::default());
        let config = config(&element.pki, &element.pki, version, &logged);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (first, has_first) = mpsc::channel();
        let (go, go_on) = mpsc::channel();
        let mut device = element.device(&listener);
        let commands = if is_cut { 1 } else { 2 };
        let server = thread::spawn(move || serve(&listener, config, commands, &first, &go_on));
        has_first.recv().unwrap();
        let mut others = logged.secrets();
        others.retain(|secret| !stays(secret));
        if is_cut {
            device.kill().unwrap();
            // Whoever comes next is served when the interface has been reset.
            send(&mut element.card.reader(), &[0, 0xA4, 4, 0]);
        } else {
            element.has_nothing_of("while it is open", others);
            go.send(()).unwrap();
            has_first.recv().unwrap();
            let mut open = logged.secrets();
            open.retain(stays);
            let memory = Memory::of(element.card.id());
            let found = memory.holds(&open, &memory.flash(&element.folder.path().join("flash")));
            assert_eq!(found.len(), if version == Version::Tls13 { 2 } else { 0 });
        }
        go.send(()).unwrap();
        let keys = server.join().unwrap();
        let mut all = logged.secrets();
        all.extend(keys);
        assert_eq!(device.wait().unwrap().success(), !is_cut);
        element.has_nothing_of(if is_cut { "behind a reset" } else { "behind it" }, all);
    }
}

/// A handshake that fails leaves as little: of a server that is not the peer in TLS 1.3, whose secrets of the handshake there are by then; of one whose Finished is wrong in TLS 1.2, where the
/// master secret is.
#[test]
fn what_a_failed_handshake_was_made_of_is_gone() {
    let element = Element::new();
    let stranger = Pki::new();
    for version in [Version::Tls12, Version::Tls13] {
        let logged = Arc::new(Logged::default());
        let certified = match version {
            Version::Tls12 => &element.pki,
            Version::Tls13 => &stranger,
        };
        let config = config(&element.pki, certified, version, &logged);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut device = element.device(&listener);
        let (mut stream, _) = listener.accept().unwrap();
        let mut server = ServerConnection::new(Arc::new(config)).unwrap();
        let ended = loop {
            if version == Version::Tls12 && !logged.secrets().is_empty() {
                let finished = [&[20, 3, 3, 0, 1, 1, 22, 3, 3, 0, 40][..], &[0x5A; 40]].concat();
                stream.write_all(&finished).unwrap();
                break stream.read_to_end(&mut Vec::new()).is_ok();
            }
            while server.wants_write() {
                server.write_tls(&mut stream).unwrap();
            }
            server.read_tls(&mut stream).unwrap();
            if server.process_new_packets().is_err() {
                break true;
            }
        };
        assert!(ended);
        drop(stream);
        assert!(!device.wait().unwrap().success());
        element.has_nothing_of("behind a failed handshake", logged.secrets());
    }
}
