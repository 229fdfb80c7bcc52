//! An SE on a socket: the SE's end of a TLS session with a stand-in application behind it. The TLS Manager itself has its tests in `crates/card/sekisho-applets/tests/tls`.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sekisho_apdu::{CApdu, Writer};
use sekisho_bridge::{Correspondence, tls_class};
use sekisho_keys::Rng;
use sekisho_keys::p256sig::SigningKey;
use sekisho_tls::{Endpoint, Heard, Peer, Room, Rustls, Version};
use sekisho_transport::{CardSide, Stop, serve_listener};

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
    endpoint: Endpoint<Rustls>,
    room: Room<4096>,
    anchor: Vec<u8>,
    certificate: Vec<u8>,
    key: SigningKey,
    kind: Kind,
    waiting: Vec<u8>,
    sw: u16,
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
        let mut out = vec![0; 8192];
        let mut out = Writer::new(&mut out);
        let p1p2 = [command.p1, command.p2];
        self.seen.lock().unwrap().push((command.ins, command.p1));
        let peer = Peer {
            name: "localhost",
            anchors: &[&self.anchor],
            chain: &[&self.certificate],
            key: &self.key,
            time: NOW,
            versions: self.kind.versions,
        };
        let sw = match command.ins {
            0x28 if p1p2 != [0, 1] => sekisho_apdu::StatusWord(0x6A88),
            0x28 => self.endpoint.open(&mut self.room, &peer, &mut System, &mut out),
            0x2A => self.endpoint.close(&mut self.room, command.p1, &mut out),
            _ => match self.endpoint.hear(&mut self.room, command, &mut System, &mut out) {
                Heard::Answer(sw) => sw,
                Heard::Proved(_) => sekisho_apdu::StatusWord::NO_ERROR,
                Heard::Command => {
                    let inner = self.room.command(1).to_vec();
                    self.inner += 1;
                    if self.kind.silent_at == Some(self.inner) {
                        thread::sleep(Duration::from_millis(1500));
                    }
                    self.endpoint
                        .answer(&mut self.room, &application(&inner), &mut out)
                }
            },
        };
        self.waiting = out.written().to_vec();
        self.sw = sw.0;
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
        let most = usize::try_from(command.ne.unwrap()).unwrap();
        let rest = self.waiting.split_off(self.waiting.len().min(most));
        let mut answer = core::mem::replace(&mut self.waiting, rest);
        let sw = match self.waiting.len() {
            0 => self.sw,
            left => 0x6100 | u16::try_from(left).ok().filter(|left| *left < 256).unwrap_or(0),
        };
        answer.extend(sw.to_be_bytes());
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
            endpoint: Endpoint::new(tls_class(0).unwrap(), 1, Correspondence::IDENTITY),
            room: Room::new(),
            anchor: pki.authority.certificate.clone(),
            certificate: pki.element.certificate.clone(),
            key: SigningKey::from_bytes(&pki.element.scalar()).unwrap(),
            kind,
            waiting: vec![],
            sw: 0,
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
