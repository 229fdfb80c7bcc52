//! What the recorded sessions of the page take of the heap: the engine's, during the handshake; nothing of it stays, and no command takes any.
//! One test, since the allocator counts for all threads.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

use peak_alloc::PeakAlloc;
use sekisho_apdu::{CApdu, Writer};
use sekisho_bridge::{Correspondence, tls_class};
use sekisho_keys::Rng;
use sekisho_keys::p256sig::SigningKey;
use sekisho_tls::{Endpoint, Heard, Peer, Room, Rustls, Traffic, Version};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

struct Seeded(u64);

impl Rng for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            self.0 += 1;
            let digest = sekisho_keys::sha256(&[&self.0.to_be_bytes()]);
            chunk.copy_from_slice(&digest[..chunk.len()]);
        }
    }
}

fn bytes(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
        .collect()
}

/// Bytes of the heap.
struct Heap {
    /// The most at OPEN. With std rustls makes room for 256 sessions to be resumed there, which are turned off then.
    begin: usize,
    /// The most behind it, until the session is open.
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
        anchors: &anchors,
        chain: &chain,
        key: &key,
        time: 1_800_000_000,
        versions: &versions,
    };
    let mut rng = Seeded(field("seed")[0].into());
    let mut endpoint = Endpoint::<Rustls>::new(tls_class(0).unwrap(), 1, Correspondence::IDENTITY);
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
        let (was_open, held) = (endpoint.is_open(), HEAP.current_usage());
        HEAP.reset_peak_usage();
        match command.ins {
            0x28 => drop(endpoint.open(&mut room, &peer, &mut rng, &mut out)),
            0x2A => drop(endpoint.close(&mut room, command.p1, &mut out)),
            _ => {
                if endpoint.hear(&mut room, &command, &mut rng, &mut out) == Heard::Command {
                    endpoint.answer(&mut room, &[0x90, 0], &mut out);
                }
            }
        }
        let used = HEAP.peak_usage();
        if was_open {
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
    for (block, at_most) in blocks.into_iter().zip([9_500, 12_500]) {
        let heap = session(block);
        println!(
            "OPEN {}, handshake {}, open {}, a command {}; keys and counters {}",
            heap.begin,
            heap.handshake,
            heap.idle,
            heap.command,
            size_of::<Traffic>()
        );
        assert!(heap.handshake < at_most, "{}", heap.handshake);
        assert_eq!((heap.idle, heap.command), (0, 0));
    }
}
