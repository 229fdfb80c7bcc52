//! An SE with a stand-in application, a device, and lines that cut or merge what the server sends in the clear.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::ControlFlow;

use sekisho_apdu::CApdu;
use sekisho_bridge::{Ended, Why, handshake_name, tls_class};
use sekisho_keys::p256sig::SigningKey;
use sekisho_tls::{Peer, Version};

use crate::bare::Bare;
use crate::drive::{Sides, drive};
pub(crate) use crate::pki::Pki;
pub(crate) use crate::seeded::Seeded;

pub(crate) const NOW: u64 = 1_800_000_000;

/// An SE: a session, and an application that knows nothing of it.
pub(crate) struct Element<'a> {
    pub(crate) se: Bare,
    peer: Peer<'a>,
    rng: Seeded,
    /// The commands in the clear that the application got.
    pub(crate) ran: Vec<Vec<u8>>,
    /// What went over the interface, in words.
    pub(crate) trace: Vec<String>,
    /// Commands, bytes to the SE, bytes from it.
    pub(crate) count: (usize, usize, usize),
    /// The same for the handshake alone.
    pub(crate) handshake: Option<(usize, usize, usize)>,
}

/// READ BINARY answers 64 bytes; SELECT 9000; anything else 6D00.
fn application(command: &[u8]) -> Vec<u8> {
    match CApdu::parse(command).map(|command| command.ins) {
        Ok(0xB0) => [&[0x5A; 64][..], &[0x90, 0]].concat(),
        Ok(0xA4) => vec![0x90, 0],
        _ => vec![0x6D, 0],
    }
}

pub(crate) fn key(pki: &Pki) -> SigningKey {
    SigningKey::from_bytes(&pki.element.scalar()).unwrap()
}

pub(crate) fn name_of(ins: u8) -> &'static str {
    match ins {
        0x20 => "application data",
        0x21 => "handshake, opaque",
        0x22 => "change_cipher_spec",
        0x23 => "alert",
        0x28 => "OPEN",
        0x2A => "CLOSE",
        other => handshake_name(other),
    }
}

impl<'a> Element<'a> {
    pub(crate) fn new(peer: Peer<'a>, seed: u64) -> Self {
        Self {
            se: Bare::new(),
            peer,
            rng: Seeded(seed),
            ran: vec![],
            trace: vec![],
            count: (0, 0, 0),
            handshake: None,
        }
    }

    pub(crate) fn transmit(&mut self, bytes: &[u8]) -> Vec<u8> {
        let command = CApdu::parse(bytes).unwrap();
        if command.ins != 0xC0 {
            self.run(&command);
        }
        let answer = self.se.answer(&command);
        self.count.0 += 1;
        self.count.1 += bytes.len();
        self.count.2 += answer.len();
        if self.se.endpoint.is_open() && self.se.waiting().is_empty() {
            self.handshake.get_or_insert(self.count);
        }
        answer
    }

    fn run(&mut self, command: &CApdu<'_>) {
        let chained = command.cla.0 & 0x10 != 0;
        if !chained {
            self.trace.push(format!("> {}", name_of(command.ins)));
        }
        let ran = &mut self.ran;
        self.se.run(command, Some(&self.peer), &mut self.rng, |inner| {
            ran.push(inner.to_vec());
            application(inner)
        });
        let mut reader = sekisho_apdu::Reader::new(self.se.waiting());
        while let Ok(piece) = sekisho_bridge::Piece::take(&mut reader, tls_class(0).unwrap()) {
            self.trace.push(format!("< {}", name_of(piece.ins)));
        }
    }
}

/// What happens to the server's records on the way to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    AsTheyAre,
    /// Handshake records in the clear are cut into records of 7 bytes.
    Cut,
    /// Handshake records in the clear become one, up to ServerHelloDone.
    Merged,
}

/// Takes whole records from the front of `bytes`, and gives them as the line has them.
fn over_the_line(line: Line, bytes: &mut Vec<u8>, held: &mut Vec<u8>, sealed: &mut bool) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(len) = bytes
        .get(3..5)
        .map(|len| 5 + usize::from(u16::from_be_bytes([len[0], len[1]])))
        && bytes.len() >= len
    {
        let record: Vec<u8> = bytes.drain(..len).collect();
        *sealed |= record[0] != 22;
        match line {
            Line::Cut if !*sealed => {
                for content in record[5..].chunks(7) {
                    out.extend([22, 3, 3, 0, u8::try_from(content.len()).unwrap()]);
                    out.extend(content);
                }
            }
            Line::Merged if !*sealed => {
                held.extend(&record[5..]);
                if held.ends_with(&[14, 0, 0, 0]) {
                    out.extend([22, 3, 3]);
                    out.extend(u16::try_from(held.len()).unwrap().to_be_bytes());
                    out.append(held);
                }
            }
            _ => {
                if !held.is_empty() {
                    out.extend([22, 3, 3]);
                    out.extend(u16::try_from(held.len()).unwrap().to_be_bytes());
                    out.append(held);
                }
                out.extend(record);
            }
        }
    }
    out
}

/// A TCP connection to a server, and what the line does to its records.
struct Connected<'a, 'b, I> {
    element: &'a mut Element<'b>,
    stream: &'a mut TcpStream,
    line: Line,
    idle: I,
    raw: Vec<u8>,
    held: Vec<u8>,
    sealed: bool,
    ready: Vec<u8>,
}

impl<'b, I: FnMut(&mut Element<'b>) -> bool> Sides for Connected<'_, 'b, I> {
    fn command(&mut self, command: &[u8]) -> Vec<u8> {
        self.element.transmit(command)
    }

    fn send(&mut self, record: &[u8]) -> ControlFlow<()> {
        self.stream.write_all(record).unwrap();
        ControlFlow::Continue(())
    }

    fn receive(&mut self, space: &mut [u8]) -> Result<usize, Why> {
        while self.ready.is_empty() {
            if !(self.idle)(self.element) {
                return Err(Why::Asked);
            }
            let mut bytes = [0; 4096];
            let len = self.stream.read(&mut bytes).unwrap_or(0);
            if len == 0 {
                return Err(Why::Disconnected);
            }
            self.raw.extend(&bytes[..len]);
            self.ready = over_the_line(self.line, &mut self.raw, &mut self.held, &mut self.sealed);
        }
        let len = space.len().min(self.ready.len());
        space[..len].copy_from_slice(&self.ready[..len]);
        self.ready.drain(..len);
        Ok(len)
    }
}

/// A device: carries a session between the SE and a server until it ends; `idle` is asked whenever the server is to speak, and says whether to go on.
pub(crate) fn carry<'b>(
    element: &mut Element<'b>,
    stream: &mut TcpStream,
    line: Line,
    idle: impl FnMut(&mut Element<'b>) -> bool,
) -> Ended {
    let mut sides = Connected {
        element,
        stream,
        line,
        idle,
        raw: vec![],
        held: vec![],
        sealed: false,
        ready: vec![],
    };
    drive(NOW, &mut sides)
}

pub(crate) const fn version_name(version: Version) -> &'static str {
    match version {
        Version::Tls12 => "TLS 1.2",
        Version::Tls13 => "TLS 1.3",
    }
}
