//! The SE's end of a TLS session: a recorded one up to some command, then any pieces. It answers with pieces, and a session that has failed is none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sekisho_apdu::{CApdu, Cla, Reader, StatusWord, Writer};
use sekisho_bridge::{Correspondence, Piece, tls_class};
use sekisho_keys::Rng;
use sekisho_keys::p256sig::SigningKey;
use sekisho_tls::{Endpoint, Heard, Peer, Room, Rustls, Version};
use std::sync::LazyLock;

/// A session of the page: anchor, certificate, key, number of the generator, commands.
struct Recorded {
    anchor: Vec<u8>,
    certificate: Vec<u8>,
    key: SigningKey,
    seed: u64,
    commands: Vec<Vec<u8>>,
}

static SESSIONS: LazyLock<Vec<Recorded>> = LazyLock::new(|| {
    let page = include_str!("../../docs/spec/tls-apdu.md");
    let bytes = |text: &str| -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
    };
    let sessions = page.split("```tls-recording\n").skip(1).map(|block| {
        let lines: Vec<(&str, Vec<u8>)> = block.split("```").next().unwrap().lines().map(|line| line.split_once(' ').unwrap()).map(|(name, text)| (name, bytes(text))).collect();
        let field = |name: &str| lines.iter().find(|line| line.0 == name).unwrap().1.clone();
        Recorded {
            anchor: field("anchor"),
            certificate: field("certificate"),
            key: SigningKey::from_bytes(&field("key")[..].try_into().unwrap()).unwrap(),
            seed: field("seed")[0].into(),
            commands: lines.iter().filter(|line| line.0 == ">" && line.1[1] != 0xC0).map(|line| line.1.clone()).collect(),
        }
    });
    sessions.collect()
});

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

fuzz_target!(|data: &[u8]| {
    let Some((&[which, until], mut rest)) = data.split_first_chunk() else { return };
    let recorded = &SESSIONS[usize::from(which & 1)];
    let (anchors, chain) = ([&recorded.anchor[..]], [&recorded.certificate[..]]);
    let versions = [Version::Tls12, Version::Tls13];
    let peer = Peer { name: "localhost", pin: None, anchors: &anchors, chain: &chain, key: &recorded.key, time: 1_800_000_000, versions: &versions };
    let mut endpoint = Endpoint::<Rustls>::new(tls_class(0).unwrap(), 1, &Correspondence::IDENTITY);
    let mut room = Room::<4096>::new();
    let mut rng = Seeded(recorded.seed);
    let mut out = vec![0; 4096];
    let mut run = |endpoint: &mut Endpoint<Rustls>, chained: bool, ins: u8, p1p2: [u8; 2], data: &[u8]| {
        let mut out = Writer::new(&mut out);
        let sw = match ins {
            0x28 => endpoint.open(&mut room, &peer, &mut rng, &mut out),
            0x2A => endpoint.close(&mut room, p1p2[0], &mut out),
            _ => match endpoint.hear(&mut room, &CApdu::new(Cla(if chained { 0xB4 } else { 0xA4 }), ins, p1p2[0], p1p2[1]).with_data(data), &mut rng, &mut out) {
                Heard::Answer(sw) => sw,
                Heard::Proved(_) => StatusWord::NO_ERROR,
                Heard::Command => {
                    assert!(endpoint.is_open() && !room.command(1).is_empty());
                    endpoint.answer(&mut room, &[0x90, 0], &mut out)
                }
            },
        };
        let mut reader = Reader::new(out.written());
        while !reader.is_empty() {
            Piece::take(&mut reader, tls_class(0).unwrap()).unwrap();
        }
        if sw != StatusWord::NO_ERROR {
            assert!(!endpoint.is_open());
        }
    };
    for command in recorded.commands.iter().take(1 + usize::from(until) % recorded.commands.len()) {
        let command = CApdu::parse(command).unwrap();
        run(&mut endpoint, command.cla.0 & 0x10 != 0, command.ins, [command.p1, command.p2], command.data);
    }
    // Pieces: how, INS, P1-P2, length; P1-P2 is the length unless `how` says otherwise.
    while let Some((&[how, ins, p1, p2, len], behind)) = rest.split_first_chunk() {
        let (data, later) = behind.split_at(behind.len().min(len.into()));
        rest = later;
        let p1p2 = if how & 2 == 0 { [(how & 4) << 5, u8::try_from(data.len()).unwrap()] } else { [p1, p2] };
        run(&mut endpoint, how & 1 != 0, ins & 0x2F, p1p2, data);
    }
});
