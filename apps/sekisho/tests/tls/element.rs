//! An SE on a socket: the SE's end of a TLS session with a stand-in application behind it. The TLS Manager itself has its tests in `crates/card/sekisho-applets/tests/tls`.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sekisho_apdu::CApdu;
use sekisho_keys::Rng;
use sekisho_keys::p256sig::SigningKey;
use sekisho_tls::{Peer, Version};
use sekisho_transport::{CardSide, Stop, serve_listener};

use crate::bare::Bare;
use crate::pki::Pki;

/// In the certificates' time.
const NOW: u64 = 1_800_000_000;
/// The file that the application has.
pub(crate) const SENSOR: [u8; 4] = [0x00, 0x00, 0x01, 0x15];

struct System;

impl Rng for System {
    fn fill(&mut self, out: &mut [u8]) {
        getrandom::fill(out).unwrap();
    }
}

/// What the SE is to be.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) versions: &'static [Version],
    /// It falls silent at this command inside the session.
    pub(crate) silent_at: Option<usize>,
}

impl Kind {
    pub(crate) const BOTH: Self = Self {
        versions: &[Version::Tls12, Version::Tls13],
        silent_at: None,
    };
}

struct Element {
    se: Bare,
    anchor: Vec<u8>,
    certificate: Vec<u8>,
    key: SigningKey,
    kind: Kind,
    /// INS of each command of the class, with P1 of CLOSE.
    seen: Arc<Mutex<Vec<(u8, u8)>>>,
    inner: usize,
}

fn application(command: &[u8]) -> Vec<u8> {
    match CApdu::parse(command).map(|command| command.ins) {
        Ok(0xB0) => [&SENSOR[..], &[0x90, 0]].concat(),
        Ok(0xA4) => vec![0x90, 0],
        _ => vec![0x6D, 0],
    }
}

impl Element {
    fn run(&mut self, command: &CApdu<'_>) {
        self.seen.lock().unwrap().push((command.ins, command.p1));
        let peer = Peer {
            name: "localhost",
            pin: None,
            anchors: &[&self.anchor],
            chain: &[&self.certificate],
            key: &self.key,
            time: NOW,
            versions: self.kind.versions,
        };
        let peer = Some(&peer).filter(|_| [command.p1, command.p2] == [0, 1]);
        let (inner, silent_at) = (&mut self.inner, self.kind.silent_at);
        self.se.run(command, peer, &mut System, |command| {
            *inner += 1;
            if silent_at == Some(*inner) {
                thread::sleep(Duration::from_millis(1500));
            }
            application(command)
        });
    }
}

impl CardSide for Element {
    fn atr(&mut self) -> Vec<u8> {
        vec![0x3B, 0x00]
    }

    fn reset(&mut self) {}

    fn transmit(&mut self, capdu: &[u8], out: &mut [u8]) -> usize {
        let command = CApdu::parse(capdu).unwrap();
        if command.ins != 0xC0 {
            self.run(&command);
        }
        let answer = self.se.answer(&command);
        out[..answer.len()].copy_from_slice(&answer);
        answer.len()
    }
}

/// An SE that listens.
pub(crate) struct Socket {
    /// `tcp:HOST:PORT`.
    pub(crate) card: String,
    seen: Arc<Mutex<Vec<(u8, u8)>>>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Socket {
    pub(crate) fn new(pki: &Pki, kind: Kind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let card = format!("tcp:{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut element = Element {
            se: Bare::new(),
            anchor: pki.authority.certificate.clone(),
            certificate: pki.element.certificate.clone(),
            key: SigningKey::from_bytes(&pki.element.scalar()).unwrap(),
            kind,
            seen: Arc::clone(&seen),
            inner: 0,
        };
        let stop = Stop::new();
        let stopped = stop.clone();
        let thread =
            thread::spawn(move || serve_listener(&listener, &mut element, &stopped, &mut |_| ()).unwrap());
        Self {
            card,
            seen,
            stop,
            thread: Some(thread),
        }
    }

    /// INS of each command of the class that came, with P1.
    pub(crate) fn seen(&self) -> Vec<(u8, u8)> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
