//! What the recorded sessions of the page take of the heap: the engine's, during the handshake; nothing of it stays, and no command takes any. And what the longest chains take that are accepted.
//! One test, since the allocator counts for all threads.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

#[path = "sessions/drive.rs"]
#[allow(dead_code, reason = "shared with another program")]
mod drive;
#[path = "sessions/in_memory.rs"]
#[allow(dead_code, reason = "shared with another program")]
mod in_memory;
#[path = "sessions/pki.rs"]
#[allow(dead_code, reason = "shared with another program")]
mod pki;
#[path = "sessions/seeded.rs"]
mod seeded;

use std::ops::ControlFlow;
use std::sync::Arc;

use peak_alloc::PeakAlloc;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls::ServerConnection;
use seeded::Seeded;
use sekisho_apdu::{CApdu, Writer};
use sekisho_bridge::{Correspondence, Why, tls_class};
use sekisho_keys::p256sig::SigningKey;
use sekisho_tls::{Endpoint, HANDSHAKE_MAX, Heard, Peer, Room, Rustls, Traffic, Version};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

fn bytes(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
        .collect()
}

/// Bytes of the heap.
struct Heap {
    /// The most at OPEN. With std rustls makes room for 256 sessions to be resumed there, which give way to ours then.
    begin: usize,
    /// The most behind it, until the session is open and its first ticket has come.
    handshake: usize,
    /// When it is open.
    idle: usize,
    /// The most that a command takes then.
    command: usize,
}

fn session(block: &str) -> Heap {
    let lines: Vec<(&str, Vec<u8>)> = block
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, text)| (name, bytes(text)))
        .collect();
    let field = |name: &str| &lines.iter().find(|line| line.0 == name).unwrap().1;
    let key = SigningKey::from_bytes(&field("key")[..].try_into().unwrap()).unwrap();
    let (anchors, chain) = ([&field("anchor")[..]], [&field("certificate")[..]]);
    let versions = [Version::Tls12, Version::Tls13];
    let peer = Peer {
        name: "localhost",
        pin: None,
        anchors: &anchors,
        chain: &chain,
        key: &key,
        time: 1_800_000_000,
        versions: &versions,
    };
    let mut rng = Seeded(field("seed")[0].into());
    let mut endpoint = Endpoint::<Rustls>::new(tls_class(0).unwrap(), 1, &Correspondence::IDENTITY);
    let mut room = Room::<4096>::new();
    let mut out = vec![0; 4096];
    let before = HEAP.current_usage();
    let mut heap = Heap {
        begin: 0,
        handshake: 0,
        idle: 0,
        command: 0,
    };
    for (_, command) in lines.iter().filter(|line| line.0 == ">" && line.1[1] != 0xC0) {
        let command = CApdu::parse(command).unwrap();
        let mut out = Writer::new(&mut out);
        // What is no command of the server's is a ticket, or the goodbye.
        let (mut is_command, held) = (false, HEAP.current_usage());
        HEAP.reset_peak_usage();
        match command.ins {
            0x28 => drop(endpoint.open(&mut room, &peer, &mut rng, &mut out)),
            0x2A => drop(endpoint.close(&mut room, command.p1, &mut out)),
            _ => {
                is_command = endpoint.hear(&mut room, &command, &mut rng, &mut out) == Heard::Command;
                if is_command {
                    endpoint.answer(&mut room, &[0x90, 0], &mut out);
                }
            }
        }
        let used = HEAP.peak_usage();
        if is_command {
            heap.command = heap.command.max(used - held);
        } else if command.ins == 0x28 {
            heap.begin = used - before;
        } else {
            heap.handshake = heap.handshake.max(used - before);
        }
        if endpoint.is_open() {
            heap.idle = HEAP.current_usage() - before;
        }
    }
    heap
}

#[test]
fn the_heap_is_the_handshakes_alone() {
    let page = include_str!("../../../../docs/spec/tls-apdu.md");
    let blocks: Vec<&str> = page
        .split("```tls-recording\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .collect();
    // What is made once is not counted.
    session(blocks[0]);
    let page = include_str!("../../../../docs/spec/tls-manager.md");
    let said = page.split("```tls-handshake\n").nth(1).unwrap();
    let said: Vec<usize> = said
        .split("```")
        .next()
        .unwrap()
        .lines()
        .map(|row| row.rsplit_once(' ').unwrap().1.replace(',', "").parse().unwrap())
        .collect();
    assert_eq!(blocks.len(), said.len());
    for (block, said) in blocks.into_iter().zip(said) {
        let heap = session(block);
        println!(
            "OPEN {}, handshake {}, open {}, a command {}; keys and counters {}",
            heap.begin,
            heap.handshake,
            heap.idle,
            heap.command,
            size_of::<Traffic>()
        );
        assert_eq!(heap.handshake, said);
        assert_eq!((heap.idle, heap.command), (0, 0));
    }
    let rows = page.split("```tls-chains\n").nth(1).unwrap();
    let rows = rows.split("```").next().unwrap().lines();
    let expected: Vec<[usize; 2]> = rows
        .map(|row| {
            let words: Vec<&str> = row.split_whitespace().collect();
            [words[words.len() - 3], words[words.len() - 1]].map(|it| it.replace(',', "").parse().unwrap())
        })
        .collect();
    let cases = [Version::Tls12, Version::Tls13].map(|version| [(version, 1), (version, 4)]);
    let found: Vec<_> = cases
        .into_iter()
        .flatten()
        .map(|(version, certificates)| longest(version, certificates))
        .collect();
    println!("longest chains, and the heap: {found:?}");
    assert_eq!(found.len(), expected.len());
    for ([chain, heap], [longest, most]) in found.into_iter().zip(expected) {
        // A signature has one length or another.
        assert!(chain.abs_diff(longest) <= 64, "{chain} {longest}");
        assert!(heap <= most && heap + 500 > most, "{heap} {most}");
    }
}

/// So much is filled to see what the rest takes.
const PROBE: usize = 6000;
/// For lengths of signatures, and the head of one record more.
const MARGIN: usize = 96;

/// The longest chain of so many certificates that is accepted, and the most that its handshake takes of the heap. With some bytes more it is not.
fn longest(version: Version, certificates: usize) -> [usize; 2] {
    let (_, flight, ..) = attempt(version, certificates, PROBE);
    let fill = PROBE + HANDSHAKE_MAX - flight;
    let (is_open, flight, chain, heap) = attempt(version, certificates, fill - MARGIN);
    assert!(
        is_open && flight <= HANDSHAKE_MAX,
        "{version:?} {certificates} {flight}"
    );
    let (is_open, flight, ..) = attempt(version, certificates, fill + MARGIN);
    assert!(!is_open, "{version:?} {certificates} {flight}");
    [chain, heap]
}

/// Certificates of a server, `fill` bytes of them for nothing: whether a session comes about, the bytes of the server's records until then, those of its certificates, and the most that is taken of
/// the heap.
fn attempt(version: Version, certificates: usize, fill: usize) -> (bool, usize, usize, usize) {
    let mut pki = pki::Pki::new();
    let each = fill / certificates;
    let filled = |params: &mut CertificateParams, len: usize| {
        let nothing = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![0x5A; len]);
        params.custom_extensions.push(nothing);
    };
    let authority = |number: usize, len: usize| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, format!("authority {number}"));
        if len > 0 {
            filled(&mut params, len);
        }
        params
    };
    // Its own, then those behind it, up to the anchor.
    let mut above = (authority(0, 0), KeyPair::generate().unwrap());
    let anchor = above.0.self_signed(&above.1).unwrap().der().to_vec();
    let mut behind = Vec::new();
    for number in 1..certificates {
        let (params, key) = (authority(number, each), KeyPair::generate().unwrap());
        let issuer = Issuer::from_params(&above.0, &above.1);
        behind.insert(0, params.signed_by(&key, &issuer).unwrap().der().to_vec());
        above = (params, key);
    }
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    filled(&mut params, fill - each * (certificates - 1));
    let issuer = Issuer::from_params(&above.0, &above.1);
    pki.server.certificate = params.signed_by(&pki.server.key, &issuer).unwrap().der().to_vec();
    let chain = pki.server.certificate.len() + behind.iter().map(Vec::len).sum::<usize>();
    let mut config = in_memory::config(&pki, version, 0, &behind);
    config.max_fragment_size = Some(4000);
    let key = SigningKey::from_bytes(&pki.element.scalar()).unwrap();
    let (anchors, own, versions) = ([&anchor[..]], [&pki.element.certificate[..]], [version]);
    let mut sides = Counted {
        server: ServerConnection::new(Arc::new(config)).unwrap(),
        endpoint: Endpoint::new(tls_class(0).unwrap(), 1, &Correspondence::IDENTITY),
        room: Room::new(),
        peer: Peer {
            name: "localhost",
            pin: None,
            anchors: &anchors,
            chain: &own,
            key: &key,
            time: 1_800_000_000,
            versions: &versions,
        },
        flight: 0,
        held: 0,
        most: 0,
        was_open: false,
    };
    drive::drive(1_800_000_000, &mut sides);
    (sides.was_open, sides.flight, chain, sides.most)
}

/// An SE, and a server in memory; only what the SE takes of the heap counts.
struct Counted<'a> {
    server: ServerConnection,
    endpoint: Endpoint<Rustls>,
    room: Room<4096>,
    peer: Peer<'a>,
    /// Bytes of the server's records.
    flight: usize,
    held: usize,
    most: usize,
    was_open: bool,
}

impl drive::Sides for Counted<'_> {
    fn command(&mut self, command: &[u8]) -> Vec<u8> {
        let command = CApdu::parse(command).unwrap();
        let mut out = vec![0; 4096];
        let mut writer = Writer::new(&mut out);
        let mut rng = Seeded(u64::from(command.ins));
        let before = HEAP.current_usage();
        HEAP.reset_peak_usage();
        let sw = match command.ins {
            0x28 => self
                .endpoint
                .open(&mut self.room, &self.peer, &mut rng, &mut writer),
            0x2A => self.endpoint.close(&mut self.room, command.p1, &mut writer),
            _ => match self
                .endpoint
                .hear(&mut self.room, &command, &mut rng, &mut writer)
            {
                Heard::Answer(sw) => sw,
                _ => sekisho_apdu::StatusWord::NO_ERROR,
            },
        };
        if command.ins != 0x28 {
            self.most = self.most.max(self.held + HEAP.peak_usage() - before);
        }
        self.held = (self.held + HEAP.current_usage()) - before;
        self.was_open |= self.endpoint.is_open();
        let len = writer.len();
        out.truncate(len);
        out.extend(sw.bytes());
        out
    }

    fn send(&mut self, mut record: &[u8]) -> ControlFlow<()> {
        while !record.is_empty() && self.server.read_tls(&mut record).is_ok() {
            let _ = self.server.process_new_packets();
        }
        ControlFlow::Continue(())
    }

    fn receive(&mut self, mut space: &mut [u8]) -> Result<usize, Why> {
        match self.server.write_tls(&mut space) {
            Ok(len @ 1..) => {
                self.flight += len;
                Ok(len)
            }
            _ => Err(Why::Asked),
        }
    }
}
