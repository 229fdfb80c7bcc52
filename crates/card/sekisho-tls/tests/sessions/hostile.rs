//! Servers that are not whom the SE means, and devices that do not carry what they are given: a session fails, and nothing else happens.

use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::{AlertDescription, ServerConnection};
use sekisho_apdu::{CApdu, Cla, StatusWord, Writer};
use sekisho_bridge::{Correspondence, Ended, Why, tls_class};
use sekisho_keys::Rng;
use sekisho_tls::{Endpoint, HANDSHAKE_MAX, Heard, Peer, Room, Rustls, Version};

use crate::drive::{Sides, drive};
use crate::ends::{Element, NOW, Pki, key};
use crate::in_memory;
use crate::servers::{ANSWERS, COMMANDS};

const VERSIONS: [Version; 2] = [Version::Tls12, Version::Tls13];

pub(crate) fn server(pki: &Pki, version: Version) -> ServerConnection {
    in_memory::server(pki, version, 1)
}

pub(crate) fn peer<'a>(
    anchor: &'a [&'a [u8]],
    chain: &'a [&'a [u8]],
    key: &'a sekisho_keys::p256sig::SigningKey,
) -> Peer<'a> {
    Peer {
        name: "localhost",
        pin: None,
        anchors: anchor,
        chain,
        key,
        time: NOW,
        versions: &VERSIONS,
    }
}

/// How a session with a server in memory ended: for the device, for the server; and the answers that the server got.
pub(crate) struct Outcome {
    ended: Ended,
    server: core::result::Result<(), rustls::Error>,
    answers: Vec<u8>,
}

/// A server in memory, and whoever stands between bridge and SE.
struct InMemory<'a, 'b, D> {
    server: &'a mut ServerConnection,
    element: &'a mut Element<'b>,
    device: D,
    number: usize,
    asked: usize,
    result: Result<(), rustls::Error>,
    answers: Vec<u8>,
}

impl<'b, D: FnMut(usize, &[u8], &mut Element<'b>) -> Vec<u8>> Sides for InMemory<'_, 'b, D> {
    fn command(&mut self, command: &[u8]) -> Vec<u8> {
        self.number += 1;
        (self.device)(self.number - 1, command, self.element)
    }

    fn send(&mut self, mut record: &[u8]) -> ControlFlow<()> {
        while !record.is_empty() && self.server.read_tls(&mut record).is_ok() {
            let done = self.server.process_new_packets().map(|_| ());
            self.result = self.result.clone().and(done);
        }
        let mut got = [0; 256];
        while let Ok(len @ 1..) = self.server.reader().read(&mut got) {
            self.answers.extend(&got[..len]);
        }
        ControlFlow::Continue(())
    }

    fn receive(&mut self, mut space: &mut [u8]) -> Result<usize, Why> {
        let is_answered = self.answers.len() == ANSWERS[..self.asked].iter().sum::<usize>();
        if !self.server.is_handshaking() && self.asked < COMMANDS.len() && is_answered {
            self.server.writer().write_all(COMMANDS[self.asked]).unwrap();
            self.asked += 1;
        }
        match self.server.write_tls(&mut space) {
            Ok(len @ 1..) => Ok(len),
            _ if self.asked == COMMANDS.len() => Err(Why::Asked),
            _ => Err(Why::Disconnected),
        }
    }
}

/// Runs a session in which `device` stands between bridge and SE: it sees the number of each command.
pub(crate) fn session<'b>(
    server: &mut ServerConnection,
    element: &mut Element<'b>,
    device: impl FnMut(usize, &[u8], &mut Element<'b>) -> Vec<u8>,
) -> Outcome {
    let mut sides = InMemory {
        server,
        element,
        device,
        number: 0,
        asked: 0,
        result: Ok(()),
        answers: vec![],
    };
    let ended = drive(NOW, &mut sides);
    Outcome {
        ended,
        server: sides.result,
        answers: sides.answers,
    }
}

fn honest(_: usize, command: &[u8], element: &mut Element<'_>) -> Vec<u8> {
    element.transmit(command)
}

/// What is wrong with the server's certificate, and the alert that says so.
type Wrong = (&'static str, fn(&mut CertificateParams), AlertDescription);

fn wrong_servers() -> [Wrong; 7] {
    [
        (
            "expired",
            |params| params.not_after = date_time_ymd(2026, 1, 1),
            AlertDescription::CertificateExpired,
        ),
        (
            "not yet valid",
            |params| params.not_before = date_time_ymd(2030, 1, 1),
            AlertDescription::CertificateExpired,
        ),
        (
            "wrong name",
            |params| {
                params.subject_alt_names = vec![rcgen::SanType::DnsName("other.example".try_into().unwrap())]
            },
            AlertDescription::BadCertificate,
        ),
        (
            "wrong usage",
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            AlertDescription::UnsupportedCertificate,
        ),
        (
            "too long for the SE",
            |params| {
                params.subject_alt_names.extend(
                    (0..300).map(|number| {
                        rcgen::SanType::DnsName(format!("n{number}.example").try_into().unwrap())
                    }),
                )
            },
            AlertDescription::RecordOverflow,
        ),
        ("wrong authority", |_| {}, AlertDescription::UnknownCA),
        ("same name, other key", |_| {}, AlertDescription::DecryptError),
    ]
}

/// Whom the SE does not mean it does not speak to, and says why.
#[test]
fn servers_that_are_not_the_peer() {
    let other = Pki::new();
    for (name, change, alert) in wrong_servers() {
        for version in VERSIONS {
            let pki = Pki::with(
                if name == "wrong authority" {
                    "another"
                } else {
                    "authority"
                },
                change,
            );
            let key = key(&pki);
            let anchor = if name == "wrong authority" || name == "same name, other key" {
                &other.authority
            } else {
                &pki.authority
            };
            let (anchors, chain) = ([&anchor.certificate[..]], [&pki.element.certificate[..]]);
            let mut element = Element::new(peer(&anchors, &chain, &key), 3);
            let mut server = server(&pki, version);
            let result = session(&mut server, &mut element, honest);
            assert_eq!(result.ended, Ended::BySe, "{name}");
            // Behind ServerHello an alert in the clear is no alert to a server of TLS 1.3: the session is over all the same.
            match (name, version) {
                ("too long for the SE", Version::Tls13) => assert!(result.server.is_err()),
                _ => assert_eq!(
                    result.server,
                    Err(rustls::Error::AlertReceived(alert)),
                    "{name} {version:?}"
                ),
            }
            assert!(element.ran.is_empty() && !element.se.endpoint.is_open(), "{name}");
        }
    }
}

/// What a device does to a command.
const DEEDS: [&str; 9] = [
    "drop", "repeat", "flip", "cut", "ins", "p1p2", "more", "open", "other",
];

/// Whatever a device does to one command of a session: no command runs that the server has not sent, in another order or twice; the server gets no other answer; and the next
/// session opens.
#[test]
fn devices_that_lie() {
    let pki = Pki::new();
    let key = key(&pki);
    let (anchors, chain) = ([&pki.authority.certificate[..]], [&pki.element.certificate[..]]);
    let answers = [&[0x90, 0][..], &[0x5A; 64], &[0x90, 0, 0x6D, 0]].concat();
    let (mut failed, mut whole, mut ends) = (0, 0, std::collections::BTreeMap::new());
    for version in VERSIONS {
        for deed in DEEDS {
            for at in 1..40 {
                let mut element = Element::new(peer(&anchors, &chain, &key), at as u64);
                let mut done = false;
                let result = session(
                    &mut server(&pki, version),
                    &mut element,
                    |number, command, element| {
                        if number != at || command[1] == 0xC0 {
                            return element.transmit(command);
                        }
                        done = true;
                        let mut bytes = command.to_vec();
                        let last = bytes.len() - 2;
                        match deed {
                            "drop" => return vec![0x90, 0],
                            "repeat" => drop(element.transmit(command)),
                            "flip" if last > 5 => bytes[last] ^= 1,
                            "cut" if last > 6 => {
                                bytes.remove(last);
                                bytes[4] -= 1;
                            }
                            "ins" => bytes[1] ^= 1,
                            "p1p2" => bytes[3] ^= 1,
                            "more" => bytes[2] ^= 0x80,
                            "open" => bytes = vec![0xA4, 0x28, 0, 1, 0],
                            "other" => bytes = vec![0xA4, 0x22, 0, 1, 1, 1, 0],
                            _ => {}
                        }
                        element.transmit(&bytes)
                    },
                );
                let name = format!("{version:?} {deed} {at}");
                assert!(
                    COMMANDS.starts_with(&element.ran.iter().map(|ran| &ran[..]).collect::<Vec<_>>()),
                    "{name}"
                );
                assert!(answers.starts_with(&result.answers), "{name}");
                *ends.entry(format!("{:?}", result.ended)).or_insert(0) += 1;
                if result.answers == answers {
                    whole += 1
                } else {
                    failed += 1
                }
                if !done {
                    break;
                }
                // A session that follows is whole.
                if at % 5 == 0 {
                    element.ran.clear();
                    let result = session(&mut server(&pki, version), &mut element, honest);
                    assert_eq!(
                        (result.answers, result.ended),
                        (answers.clone(), Ended::BySe),
                        "{name}"
                    );
                }
            }
        }
    }
    println!("whole {whole}, failed {failed}, {ends:?}");
    assert!(failed > 80 && whole > 0);
}

/// In TLS 1.3 what is encrypted is of type 23 outside: the same record as one of a handshake is refused, and the server is told under the handshake's key.
#[test]
fn what_is_encrypted_is_no_record_of_a_handshake() {
    let pki = Pki::new();
    let key = key(&pki);
    let (anchors, chain) = ([&pki.authority.certificate[..]], [&pki.element.certificate[..]]);
    for is_changed in [false, true] {
        let mut element = Element::new(peer(&anchors, &chain, &key), 5);
        // The first record alone: what comes behind the handshake is refused elsewhere.
        let mut changes = is_changed;
        let result = session(
            &mut server(&pki, Version::Tls13),
            &mut element,
            |_, command, element| {
                let mut bytes = command.to_vec();
                if changes && bytes[1] == 0x20 {
                    changes = bytes[0] & 0x10 != 0;
                    bytes[1] = 0x21;
                }
                element.transmit(&bytes)
            },
        );
        if is_changed {
            let alert = rustls::Error::AlertReceived(AlertDescription::UnexpectedMessage);
            assert_eq!((result.ended, result.server), (Ended::BySe, Err(alert)));
            assert!(element.ran.is_empty() && !element.se.endpoint.is_open());
        } else {
            assert_eq!(element.ran.len(), COMMANDS.len());
        }
    }
}

/// A generator that gives nothing but zeros makes no session.
#[test]
fn without_randomness_there_is_no_session() {
    struct Zeros;
    impl Rng for Zeros {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(0);
        }
    }
    let pki = Pki::new();
    let key = key(&pki);
    let (anchors, chain) = ([&pki.authority.certificate[..]], [&pki.element.certificate[..]]);
    let mut endpoint = Endpoint::<Rustls>::new(tls_class(0).unwrap(), 1, &Correspondence::IDENTITY);
    let mut room = Room::<4096>::new();
    let mut out = [0; 2048];
    let mut out = Writer::new(&mut out);
    let sw = endpoint.open(&mut room, &peer(&anchors, &chain, &key), &mut Zeros, &mut out);
    assert_eq!((sw, out.len()), (StatusWord::CONDITIONS_NOT_SATISFIED, 0));
}

/// CLA, INS, P1-P2, data.
type Sent<'a> = (u8, u8, u16, &'a [u8]);

/// Section 4's status words, each of which ends the session.
#[test]
fn status_words_of_the_page() {
    let pki = Pki::new();
    let key = key(&pki);
    let (anchors, chain) = ([&pki.authority.certificate[..]], [&pki.element.certificate[..]]);
    let peer = peer(&anchors, &chain, &key);
    let mut rng = crate::ends::Seeded(9);
    let record = [0x55; 255];
    let commands: [(&[Sent<'_>], u16); 14] = [
        // An unknown message: the engine says what it thinks of it.
        (&[(0xA4, 0x1F, 5, &record[..5])], 0x6285),
        (&[(0xA4, 0x24, 0, &[])], 0x6D00),
        (&[(0xA4, 0x00, 0, &[])], 0x6D00),
        (&[(0xB4, 0x20, 5, &[])], 0x6700),
        (&[(0xB4, 0x20, 5, &record[..5])], 0x6700),
        (&[(0xA4, 0x20, 5, &record[..6])], 0x6700),
        (&[(0xB4, 0x20, 9, &record[..4]), (0xA4, 0x20, 9, &[])], 0x6700),
        (&[(0xA4, 0x20, 5, &record[..4])], 0x6A80),
        (
            &[(0xB4, 0x20, 9, &record[..4]), (0xA4, 0x20, 10, &record[..5])],
            0x6A80,
        ),
        (
            &[(0xB4, 0x20, 9, &record[..4]), (0xA4, 0x21, 9, &record[..5])],
            0x6A80,
        ),
        (&[(0xA4, 0x20, 0x8001, &[1])], 0x6A80),
        (&[(0xA4, 0x02, 0x8001, &[1]), (0xA4, 0x23, 2, &[1, 0])], 0x6A80),
        (&[(0xB4, 0x20, 4092, &record)], 0x6285),
        (&[(0xA4, 0x2A, 0x0400, &[])], 0x6A86),
    ];
    for (sent, expected) in commands {
        let mut endpoint = Endpoint::<Rustls>::new(tls_class(0).unwrap(), 1, &Correspondence::IDENTITY);
        let mut room = Room::<4096>::new();
        let mut out = [0; 4096];
        let mut out = Writer::new(&mut out);
        let mut sw = endpoint.open(&mut room, &peer, &mut rng, &mut out);
        for (cla, ins, p1p2, data) in sent {
            assert_eq!(sw, StatusWord::NO_ERROR);
            out.truncate(0);
            let [p1, p2] = p1p2.to_be_bytes();
            let command = CApdu::new(Cla(*cla), *ins, p1, p2).with_data(data);
            sw = match ins {
                0x2A => endpoint.close(&mut room, p1, &mut out),
                _ => match endpoint.hear(&mut room, &command, &mut rng, &mut out) {
                    Heard::Answer(sw) => sw,
                    other => panic!("{other:?}"),
                },
            };
        }
        assert_eq!(sw, StatusWord(expected), "{sent:?}");
        if sent[0].2 == 4092 {
            assert_eq!(out.written(), [0xA4, 0x23, 0, 2, 2, 2, 22]);
        }
        out.truncate(0);
        assert_eq!(
            endpoint.hear(&mut room, &CApdu::new(Cla(0xA4), 0x20, 0, 0), &mut rng, &mut out),
            Heard::Answer(StatusWord::CONDITIONS_NOT_SATISFIED)
        );
        assert_eq!(
            endpoint.close(&mut room, 0, &mut out),
            StatusWord::CONDITIONS_NOT_SATISFIED
        );
        assert_eq!(
            endpoint.answer(&mut room, &[0x90, 0], &mut out),
            StatusWord::CONDITIONS_NOT_SATISFIED
        );
    }
}

/// A server that sends without end in a handshake is left before the engine has it all; a message that would be too long at the record that says so.
#[test]
fn a_handshake_is_bounded() {
    let pki = Pki::new();
    let key = key(&pki);
    let (anchors, chain) = ([&pki.authority.certificate[..]], [&pki.element.certificate[..]]);
    let most = u32::try_from(HANDSHAKE_MAX).unwrap();
    // How long a message says it is, and how many records of 205 bytes of it are taken; as one begins with another record's last byte too.
    for (said, before, taken) in [
        (most, 0, 39),
        (most, 3, 40),
        (most + 1, 0, 0),
        (most + 1, 3, 1),
        (65_000, 0, 0),
        (0x00FF_FFFF, 1, 1),
    ] {
        let mut rng = crate::ends::Seeded(9);
        let mut endpoint = Endpoint::<Rustls>::new(tls_class(0).unwrap(), 1, &Correspondence::IDENTITY);
        let mut room = Room::<4096>::new();
        let mut out = vec![0; 4096];
        let mut out = Writer::new(&mut out);
        endpoint.open(&mut room, &peer(&anchors, &chain, &key), &mut rng, &mut out);
        let [_, a, b, c] = said.to_be_bytes();
        let header = [2, a, b, c];
        let mut bytes = header.to_vec();
        bytes.resize(10_000, 0);
        let first = if before == 0 { 200 } else { before };
        let (first, rest) = bytes.split_at(first);
        let mut went = 0;
        let mut sw = StatusWord::NO_ERROR;
        for content in core::iter::once(first).chain(rest.chunks(200)) {
            out.truncate(0);
            let len = u8::try_from(content.len()).unwrap();
            let command = CApdu::new(Cla(0xA4), 0x21, 0, len).with_data(content);
            sw = match endpoint.hear(&mut room, &command, &mut rng, &mut out) {
                Heard::Answer(sw) => sw,
                other => panic!("{other:?}"),
            };
            if sw != StatusWord::NO_ERROR {
                break;
            }
            went += 1;
        }
        assert_eq!(
            (sw, went),
            (sekisho_bridge::SESSION_OVER, taken),
            "{said} {before}"
        );
        assert_eq!(out.written(), [0xA4, 0x23, 0, 2, 2, 2, 80]);
    }
}

/// A server that gives up is not answered (RFC 8446, 6.2): at whichever command of the handshake its alert comes.
#[test]
fn a_fatal_alert_is_not_answered() {
    let pki = Pki::new();
    let key = key(&pki);
    let (anchors, chain) = ([&pki.authority.certificate[..]], [&pki.element.certificate[..]]);
    for version in VERSIONS {
        let mut seen = 0;
        for at in 1.. {
            let mut element = Element::new(peer(&anchors, &chain, &key), 7);
            // Behind the server's change_cipher_spec in TLS 1.2 it would have to be encrypted.
            let (mut answer, mut is_clear) = (None, true);
            session(
                &mut server(&pki, version),
                &mut element,
                |number, command, element| {
                    let is_due = number == at && is_clear && !element.se.endpoint.is_open();
                    is_clear &= version == Version::Tls13 || command[1] != 0x22;
                    if is_due {
                        answer = Some(element.transmit(&[0xA4, 0x23, 0, 2, 2, 2, 40, 0]));
                        if command[1] != 0xC0 {
                            assert_eq!(element.transmit(command), [0x69, 0x85]);
                        }
                        return vec![0x62, 0x85];
                    }
                    element.transmit(command)
                },
            );
            let Some(answer) = answer else { break };
            // In the middle of a chain it is no alert.
            let in_a_chain = answer == [0x6A, 0x80];
            assert!(
                in_a_chain || answer == [0x62, 0x85],
                "{version:?} {at} {answer:02X?}"
            );
            seen += usize::from(!in_a_chain);
        }
        assert!(seen >= 2, "{version:?} {seen}");
    }
}

/// A server without a certificate is told `decode_error` (RFC 8446, 4.4.2.4), in TLS 1.2 too. Of TLS 1.3, where it is encrypted, `tests/interop/tls_hostile.py` tries it.
#[test]
fn a_server_without_a_certificate_is_told_so() {
    let pki = Pki::new();
    let key = key(&pki);
    let (anchors, chain) = ([&pki.authority.certificate[..]], [&pki.element.certificate[..]]);
    let mut element = Element::new(peer(&anchors, &chain, &key), 7);
    let outcome = session(
        &mut server(&pki, Version::Tls12),
        &mut element,
        |_, command, element| match (command[0], command[1]) {
            (0xB4, 0x0B) => vec![0x90, 0],
            (_, 0x0B) => element.transmit(&[0xA4, 0x0B, command[2] & 0x80, 3, 3, 0, 0, 0, 0]),
            _ => element.transmit(command),
        },
    );
    assert_eq!(outcome.ended, Ended::BySe);
    assert_eq!(
        outcome.server,
        Err(rustls::Error::AlertReceived(AlertDescription::DecodeError))
    );
}
