//! An open session, with an engine that is done at once; the other end is our own record layer, which has been held to published bytes.

use alloc::vec::Vec;
use std::vec;

use sekisho_keys::p256sig::SigningKey;

use super::*;
use crate::engine::Finished;
use crate::traffic::{Direction, RECORDS_MAX};

/// Done with the first record, in the version that it names.
struct Done(Version);

fn ends(version: Version, number: u32) -> (Traffic, Traffic) {
    let direction = |byte: u8, number| match version {
        Version::Tls13 => Direction::from_secret([byte; 32]).with_number(number),
        Version::Tls12 => Direction::from_keys(&[byte; 16], [byte; 12], number),
    };
    (
        Traffic::new(version, direction(1, number), direction(2, 0)),
        Traffic::new(version, direction(2, 0), direction(1, number)),
    )
}

impl Engine for Done {
    fn begin(
        peer: &Peer<'_>,
        _: Option<Box<Ticket>>,
        _: &mut dyn Rng,
        out: &mut Vec<u8>,
    ) -> core::result::Result<Self, Alert> {
        out.extend([22, 3, 1, 0, 5, 1, 0, 0, 1, 7]);
        Ok(Self(peer.versions[0]))
    }

    fn hear(&mut self, _: &[u8], _: &mut dyn Rng, _: &mut Vec<u8>) -> Progress {
        Progress::Done
    }

    fn heard(&self) -> usize {
        0
    }

    fn finish(self) -> core::result::Result<Finished, Alert> {
        Ok(Finished {
            traffic: ends(self.0, NUMBER.get()).0,
            proof: Box::new(Proof {
                since: SINCE,
                certificate: [0; 32],
                exporter: Option::None,
            }),
            later: Option::None,
        })
    }
}

thread_local! {
    /// How many records the SE has sent.
    static NUMBER: core::cell::Cell<u32> = const { core::cell::Cell::new(0) };
}

/// Of the server's certificate.
const SINCE: u64 = 1_000_000_000;

struct None;

impl Rng for None {
    fn fill(&mut self, _: &mut [u8]) {}
}

const CLA: Cla = Cla(0xA4);

/// An SE with an open session in which it has sent so many records, and its server.
struct Pair {
    endpoint: Endpoint<Done>,
    room: Room<600>,
    server: Traffic,
    out: Vec<u8>,
}

impl Pair {
    fn new(version: Version, number: u32) -> Self {
        NUMBER.set(number);
        let mut pair = Self {
            endpoint: Endpoint::new(CLA, 1, &Correspondence::IDENTITY),
            room: Room::new(),
            server: ends(version, number).1,
            out: vec![],
        };
        assert_eq!(pair.open(version), [(1, vec![7])]);
        assert_eq!(pair.hear(2, 1, &[0]), (StatusWord::NO_ERROR, vec![]));
        assert!(pair.endpoint.is_open());
        pair
    }

    fn open(&mut self, version: Version) -> Vec<(u8, Vec<u8>)> {
        let key = SigningKey::from_bytes(&[1; 32]).unwrap();
        let peer = Peer {
            name: "localhost",
            pin: Option::None,
            anchors: &[],
            chain: &[],
            key: &key,
            time: 0,
            versions: &[version],
        };
        let mut out = [0; 1000];
        let mut out = Writer::new(&mut out);
        assert_eq!(
            self.endpoint.open(&mut self.room, &peer, &mut None, &mut out),
            StatusWord::NO_ERROR
        );
        pieces(out.written())
    }

    fn hear(&mut self, ins: u8, p1p2: u16, data: &[u8]) -> (StatusWord, Vec<(u8, Vec<u8>)>) {
        let mut out = [0; 1000];
        let mut out = Writer::new(&mut out);
        let [p1, p2] = p1p2.to_be_bytes();
        let command = CApdu::new(CLA, ins, p1, p2).with_data(data);
        let sw = match self.endpoint.hear(&mut self.room, &command, &mut None, &mut out) {
            Heard::Answer(sw) => sw,
            Heard::Proved(proof) => {
                assert_eq!(proof.since, SINCE);
                StatusWord::NO_ERROR
            }
            Heard::Command => {
                assert_eq!(self.room.command(1), b"command");
                let sw = self.endpoint.answer(&mut self.room, b"answer", &mut out);
                assert!(!self.room.holds(b"command"));
                sw
            }
        };
        (sw, pieces(out.written()))
    }

    /// The server says a record; what the SE says to it, opened by the server.
    fn say(&mut self, content_type: u8, text: &[u8]) -> (StatusWord, Vec<&'static str>) {
        let mut record = [0; 600];
        let mut record = Writer::new(&mut record);
        self.server.seal(content_type, text, &mut record).unwrap();
        let ins = instruction(self.server.outer(content_type));
        let len = u16::try_from(record.len()).unwrap();
        let (sw, said) = self.hear(ins, len, record.written());
        (
            sw,
            said.into_iter()
                .map(|(ins, data)| self.opened(ins, data))
                .collect(),
        )
    }

    fn opened(&mut self, ins: u8, mut data: Vec<u8>) -> &'static str {
        let content_type = match ins {
            0x20 => 23,
            0x21 => 22,
            _ => 21,
        };
        self.out.clone_from(&data);
        match self.server.hear(content_type, &mut data) {
            Ok(Said::Data(data)) if *data == *b"answer" => "answer",
            Ok(Said::Nothing) => "nothing",
            Ok(Said::CloseNotify) => "close",
            Ok(Said::Fatal) => "fatal",
            other => panic!("{other:?}"),
        }
    }
}

fn pieces(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut reader = Reader::new(bytes);
    let mut all = vec![];
    while !reader.is_empty() {
        let piece = Piece::take(&mut reader, CLA).unwrap();
        all.push((piece.ins, piece.data.to_vec()));
    }
    all
}

const BOTH: [Version; 2] = [Version::Tls12, Version::Tls13];
const GOES_ON: StatusWord = StatusWord::NO_ERROR;

/// Figure 5: outside the ciphertext nothing depends on what the application answered but its length.
#[test]
fn every_status_word_of_an_application_looks_the_same_outside() {
    for version in BOTH {
        let mut pair = Pair::new(version, 0);
        let mut outside = vec![];
        for sw in 0..=u16::MAX {
            pair.room.with_command(1);
            let mut out = [0; 64];
            let mut out = Writer::new(&mut out);
            let outer = pair.endpoint.answer(&mut pair.room, &sw.to_be_bytes(), &mut out);
            let len = pair.server.overhead() + 2;
            let seen = [&outer.bytes(), &out.written()[..out.len() - len], &[0; 1][..]].concat();
            if outside.is_empty() {
                outside = seen;
            } else {
                assert_eq!(seen, outside, "{sw:04X}");
            }
        }
        assert_eq!(outside[..2], [0x90, 0]);
    }
}

/// What is encrypted is no message, however it looks.
#[test]
fn behind_our_change_of_cipher_handshake_is_opaque() {
    let mut endpoint = Endpoint::<Done>::new(CLA, 1, &Correspondence::IDENTITY);
    let records = [
        22, 3, 3, 0, 5, 16, 0, 0, 1, 7, 20, 3, 3, 0, 1, 1, 22, 3, 3, 0, 5, 20, 0, 0, 1, 7,
    ];
    let mut out = [0; 100];
    let mut out = Writer::new(&mut out);
    assert!(endpoint.pieces(&records, &mut out).is_ok());
    let said = pieces(out.written());
    assert_eq!(
        said,
        [(16, vec![7]), (0x22, vec![1]), (0x21, vec![20, 0, 0, 1, 7])]
    );
}

/// A command that the SE did not answer before the next one came is gone.
#[test]
fn a_command_that_was_not_answered_has_no_answer_later() {
    let mut pair = Pair::new(Version::Tls13, 0);
    let mut record = [0; 100];
    let mut record = Writer::new(&mut record);
    pair.server
        .seal(APPLICATION_DATA, b"command", &mut record)
        .unwrap();
    let command = CApdu::new(CLA, 0x20, 0, u8::try_from(record.len()).unwrap()).with_data(record.written());
    let mut out = [0; 100];
    let mut out = Writer::new(&mut out);
    let heard = pair.endpoint.hear(&mut pair.room, &command, &mut None, &mut out);
    assert_eq!(heard, Heard::Command);
    assert_eq!(pair.say(APPLICATION_DATA, b""), (GOES_ON, vec![]));
    assert_eq!(pair.room.command(1), b"");
    assert_eq!(
        pair.endpoint.answer(&mut pair.room, b"answer", &mut out),
        StatusWord::CONDITIONS_NOT_SATISFIED
    );
}

#[test]
fn commands_answers_and_goodbye() {
    for version in BOTH {
        let mut pair = Pair::new(version, 0);
        assert_eq!(pair.say(APPLICATION_DATA, b"command"), (GOES_ON, vec!["answer"]));
        assert_eq!(pair.say(APPLICATION_DATA, b""), (GOES_ON, vec![]));
        assert_eq!(pair.say(APPLICATION_DATA, b"command"), (GOES_ON, vec!["answer"]));
        assert_eq!(pair.say(ALERT, &[1, 90]), (GOES_ON, vec![]));
        assert_eq!(pair.say(ALERT, &[1, 0]), (SESSION_OVER, vec!["close"]));
        assert_eq!(
            pair.hear(0x20, 0, &[]),
            (StatusWord::CONDITIONS_NOT_SATISFIED, vec![])
        );
        let mut pair = Pair::new(version, 0);
        assert_eq!(pair.say(ALERT, &[2, 40]), (SESSION_OVER, vec![]));
        let mut pair = Pair::new(version, 0);
        let (sw, said) = pair.hear(0x20, 40, &[0; 40]);
        let said: Vec<_> = said
            .into_iter()
            .map(|(ins, data)| pair.opened(ins, data))
            .collect();
        assert_eq!((sw, said), (SESSION_OVER, vec!["fatal"]));
    }
}

/// The server asks for our next key: the answer is under the old one, what follows under the new one.
#[test]
fn a_key_update_that_asks_for_ours() {
    let mut pair = Pair::new(Version::Tls13, 0);
    assert_eq!(pair.say(HANDSHAKE, &[24, 0, 0, 1, 1]), (GOES_ON, vec!["nothing"]));
    pair.server.next_key();
    assert_eq!(pair.say(APPLICATION_DATA, b"command"), (GOES_ON, vec!["answer"]));
    assert_eq!(pair.say(HANDSHAKE, &[24, 0, 0, 1, 0]), (GOES_ON, vec![]));
    pair.server.next_key();
    assert_eq!(pair.say(APPLICATION_DATA, b"command"), (GOES_ON, vec!["answer"]));
}

#[test]
fn a_renegotiation_is_declined_and_the_session_goes_on() {
    let mut pair = Pair::new(Version::Tls12, 0);
    assert_eq!(pair.say(HANDSHAKE, &[0; 4]), (GOES_ON, vec!["nothing"]));
    assert_eq!(pair.out.len(), 2 + 24);
    assert_eq!(pair.say(APPLICATION_DATA, b"command"), (GOES_ON, vec!["answer"]));
}

/// The last record under a key is a KeyUpdate, or in TLS 1.2 goodbye.
#[test]
fn a_key_that_is_used_up() {
    for (version, last, sw) in [
        (Version::Tls13, vec!["nothing", "answer"], GOES_ON),
        (Version::Tls12, vec!["close"], SESSION_OVER),
    ] {
        let mut pair = Pair::new(version, RECORDS_MAX - 2);
        assert_eq!(pair.say(APPLICATION_DATA, b"command"), (GOES_ON, vec!["answer"]));
        assert_eq!(pair.say(APPLICATION_DATA, b"command"), (sw, last), "{version:?}");
    }
}

/// OPEN forgets what was under way.
#[test]
fn a_new_session_has_nothing_of_the_one_before() {
    for version in BOTH {
        let mut pair = Pair::new(version, 0);
        assert_eq!(pair.hear(2, 0x8001, &[0]), (GOES_ON, vec![]));
        assert_eq!(pair.open(version), [(1, vec![7])]);
        assert!(!pair.endpoint.is_open());
        assert_eq!(pair.hear(0x22, 1, &[1]), (GOES_ON, vec![]));
        pair.server = ends(version, 0).1;
        assert_eq!(pair.say(APPLICATION_DATA, b"command"), (GOES_ON, vec!["answer"]));
    }
}
