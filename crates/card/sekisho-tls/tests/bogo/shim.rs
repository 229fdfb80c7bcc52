//! A shim for the TLS runner of BoringSSL (`tests/interop/bogo.py`): the runner is the server, and says in its arguments what the client is to be. The engine behind the device's bridge and the SE's pieces, or with
//! records as they come: what the runner says of the one it is to say of the other.
#![allow(
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "it is a program that the runner starts"
)]

#[path = "../sessions/seeded.rs"]
mod seeded;

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpStream};
use std::string::String;
use std::time::{Duration, SystemTime};
use std::{env, fs, process};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use alloc::boxed::Box;
use alloc::vec::Vec;

use seeded::Seeded;
use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_bridge::{Bridge, Buffers, Ended, RECORD_HEADER, Settings, Step, Why, ins, tls_class};
use sekisho_keys::p256sig::SigningKey;

use crate::traffic::{ALERT, APPLICATION_DATA, HANDSHAKE, KEY_UPDATE_MESSAGE, Said};
use crate::{
    Alert, Endpoint, Engine as _, Finished, Heard, Peer, Progress, Room, Rustls, Ticket, Traffic, Version,
};

const UNIMPLEMENTED: i32 = 89;
const GET_RESPONSE: u8 = 0xC0;
/// The longest record, so that nothing but the engine and its own bound is in the way.
const RECORD: usize = RECORD_HEADER + sekisho_bridge::RECORD_MAX;

struct Options {
    port: u16,
    ipv6: bool,
    id: u64,
    name: String,
    trust: Vec<u8>,
    chain: Vec<CertificateDer<'static>>,
    key: SigningKey,
    versions: Vec<Version>,
    resumes: usize,
    shuts_down: bool,
    check_close: bool,
}

fn unimplemented(what: &str) -> ! {
    eprintln!("not here: {what}");
    process::exit(UNIMPLEMENTED);
}

impl Options {
    fn read(args: &str) -> Self {
        let own = rcgen::generate_simple_self_signed(std::vec!["element".into()]).unwrap();
        let mut options = Self {
            port: 0,
            ipv6: false,
            id: 0,
            name: "test".into(),
            trust: Vec::new(),
            chain: std::vec![own.cert.der().clone()],
            key: signing_key(&own.signing_key.serialize_der()),
            versions: std::vec![Version::Tls13, Version::Tls12],
            resumes: 0,
            shuts_down: false,
            check_close: false,
        };
        let mut args = args.split('\n').filter(|arg| !arg.is_empty());
        let (mut least, mut most) = (0, u16::MAX);
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_default();
            match arg {
                "-port" => options.port = value().parse().unwrap(),
                "-ipv6" => options.ipv6 = true,
                "-shim-id" => options.id = value().parse().unwrap(),
                "-host-name" => options.name = value().into(),
                "-trust-cert" => options.trust = CertificateDer::from_pem_file(value()).unwrap().to_vec(),
                "-cert-file" => {
                    let read = CertificateDer::pem_file_iter(value()).unwrap();
                    options.chain = read.map(Result::unwrap).collect();
                }
                "-key-file" => {
                    let key = PrivateKeyDer::from_pem_slice(&fs::read(value()).unwrap()).unwrap();
                    options.key = signing_key(key.secret_der());
                }
                "-min-version" => least = value().parse().unwrap(),
                "-max-version" => most = value().parse().unwrap(),
                "-resume-count" => options.resumes = value().parse().unwrap(),
                "-shim-shuts-down" => options.shuts_down = true,
                "-check-close-notify" => options.check_close = true,
                "-no-tls13" => options.versions.retain(|version| *version != Version::Tls13),
                "-no-tls12" => options.versions.retain(|version| *version != Version::Tls12),
                // What is not here is off; what is looked at in the runner.
                "-no-tls1" | "-no-tls11" | "-verify-peer" | "-no-ticket" => {}
                "-handshaker-path" => _ = value(),
                // Over the connection as the runner has it, whatever the client is asked to expect of its own library.
                "-expect-version"
                | "-expect-cipher"
                | "-expect-peer-signature-algorithm"
                | "-expect-peer-verify-pref" => _ = value(),
                other => unimplemented(other),
            }
        }
        options.versions.retain(|version| {
            let number = match version {
                Version::Tls12 => 0x0303,
                Version::Tls13 => 0x0304,
            };
            (least..=most).contains(&number)
        });
        if options.versions.is_empty() {
            unimplemented("versions before TLS 1.2");
        }
        options
    }

    fn connect(&self) -> TcpStream {
        let host = if self.ipv6 { "::1" } else { "127.0.0.1" };
        let mut stream = TcpStream::connect((host, self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(&self.id.to_le_bytes()).unwrap();
        stream
    }
}

/// A key in PKCS #8.
fn signing_key(der: &[u8]) -> SigningKey {
    let at = der.windows(5).position(|bytes| bytes == [2, 1, 1, 4, 32]);
    let Some(scalar) = at.and_then(|at| der.get(at + 5..at + 37)) else {
        unimplemented("a key of another curve");
    };
    SigningKey::from_bytes(scalar.try_into().unwrap()).unwrap()
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With the server's `close_notify`, or ours where it was to be.
    Closed,
    /// The connection was gone behind the handshake.
    Cut,
    /// Before that, or with an alert of either.
    Failed,
}

/// What the runner wants to have back.
fn changed(data: &[u8]) -> Vec<u8> {
    data.iter().map(|byte| byte ^ 0xFF).collect()
}

/// The client of one connection.
struct Client<'a> {
    options: &'a Options,
    rng: Seeded,
    time: u64,
    ticket: Option<Box<Ticket>>,
}

impl Client<'_> {
    fn with_peer<T>(&mut self, run: impl FnOnce(&Peer<'_>, Option<Box<Ticket>>, &mut Seeded) -> T) -> T {
        let chain: Vec<_> = self.options.chain.iter().map(AsRef::as_ref).collect();
        let peer = Peer {
            name: &self.options.name,
            pin: None,
            anchors: &[&self.options.trust],
            chain: &chain,
            key: &self.options.key,
            time: self.time,
            versions: &self.options.versions,
        };
        run(&peer, self.ticket.take(), &mut self.rng)
    }

    /// Records go to the engine as they come: its part of the handshake.
    fn shake_hands(&mut self, stream: &mut TcpStream) -> Option<Finished> {
        let mut out = Vec::new();
        let begun = self.with_peer(|peer, ticket, rng| Rustls::begin(peer, ticket, rng, &mut out));
        let mut engine = begun.ok()?;
        loop {
            stream.write_all(&out).ok()?;
            out.clear();
            let record = next(stream)?;
            let progress = engine.hear(&record, &mut self.rng, &mut out);
            if progress != Progress::Going {
                let _ = stream.write_all(&out);
            }
            match progress {
                Progress::Going => {}
                Progress::Failed => return None,
                Progress::Done => {
                    let finished = engine.finish();
                    if let Err(alert) = &finished {
                        let _ = stream.write_all(&[ALERT, 3, 3, 0, 2, 2, alert.0]);
                    }
                    return finished.ok();
                }
            }
        }
    }

    /// Records as they come, to the engine and then to the record layer.
    fn directly(&mut self, stream: &mut TcpStream) -> End {
        let Some(mut finished) = self.shake_hands(stream) else {
            return End::Failed;
        };
        let traffic = &mut finished.traffic;
        if self.options.shuts_down {
            let _ = stream.write_all(&said(traffic, ALERT, &[1, 0]));
            return End::Closed;
        }
        loop {
            let Some(mut record) = next(stream) else {
                return End::Cut;
            };
            let (content_type, content) = (record[0], &mut record[RECORD_HEADER..]);
            let answer = match traffic.hear(content_type, content) {
                Ok(Said::Data(data)) if !data.is_empty() => {
                    finished.later = None;
                    let data = changed(data);
                    said(traffic, APPLICATION_DATA, &data)
                }
                Ok(Said::Data(_) | Said::Nothing) => continue,
                Ok(Said::Ticket(body)) => {
                    if let Some(later) = finished.later.take() {
                        self.ticket = later.hear(body);
                    }
                    continue;
                }
                Ok(Said::KeyUpdate) => {
                    let update = said(traffic, HANDSHAKE, &KEY_UPDATE_MESSAGE);
                    traffic.next_key();
                    update
                }
                Ok(Said::HelloRequest) => said(traffic, ALERT, &[1, Alert::NO_RENEGOTIATION.0]),
                Ok(Said::CloseNotify) => {
                    let _ = stream.write_all(&said(traffic, ALERT, &[1, 0]));
                    return End::Closed;
                }
                Ok(Said::Fatal) => return End::Failed,
                Err(alert) => {
                    let _ = stream.write_all(&said(traffic, ALERT, &[2, alert.0]));
                    return End::Failed;
                }
            };
            if stream.write_all(&answer).is_err() {
                return End::Cut;
            }
        }
    }

    /// Through the device's bridge, and the pieces of the SE.
    fn by_apdus(&mut self, stream: &mut TcpStream) -> End {
        let (mut record, mut flight, mut command) =
            (std::vec![0; RECORD], std::vec![0; 4 * RECORD], std::vec![0; 264]);
        let buffers = Buffers {
            record: &mut record,
            answer: &mut flight,
            command: &mut command,
        };
        let mut bridge = Bridge::new(Settings::DEFAULT, buffers).unwrap();
        let mut element = Element {
            endpoint: Endpoint::new(
                tls_class(0).unwrap(),
                1,
                &sekisho_bridge::Correspondence::IDENTITY,
            ),
            room: Box::new(Room::new()),
            waiting: Vec::new(),
            last: StatusWord::NO_ERROR,
        };
        let (mut is_open, mut is_cut) = (false, false);
        bridge.open(1, None);
        loop {
            match bridge.step() {
                Step::Command(bytes) => {
                    let answer = element.answer(&CApdu::parse(bytes).unwrap(), self);
                    bridge.answered(&answer);
                    if element.endpoint.is_open() && !is_open {
                        is_open = true;
                        if self.options.shuts_down {
                            bridge.close(Why::Asked);
                        }
                    }
                }
                Step::Send(record) => {
                    let bytes = [record.header(), record.body].concat();
                    if stream.write_all(&bytes).is_err() {
                        is_cut = true;
                        bridge.close(Why::Disconnected);
                    }
                }
                Step::Receive => match stream.read(bridge.space()) {
                    Ok(len @ 1..) => bridge.received(len),
                    _ => {
                        is_cut = true;
                        bridge.close(Why::Disconnected);
                    }
                },
                Step::Over(ended) => {
                    return match (is_open, is_cut, element.endpoint.told) {
                        (true, true, _) => End::Cut,
                        (true, _, Some(Alert::CLOSE_NOTIFY)) if ended == Ended::BySe => End::Closed,
                        _ => End::Failed,
                    };
                }
            }
        }
    }
}

/// The SE's end, with what waits for GET RESPONSE.
struct Element {
    endpoint: Endpoint<Rustls>,
    room: Box<Room<RECORD>>,
    waiting: Vec<u8>,
    last: StatusWord,
}

impl Element {
    fn answer(&mut self, command: &CApdu<'_>, client: &mut Client<'_>) -> Vec<u8> {
        if command.ins != GET_RESPONSE {
            self.run(command, client);
        }
        let rest = self.waiting.split_off(self.waiting.len().min(256));
        let sw = match rest.len() {
            0 => self.last.0,
            left => 0x6100 | u16::try_from(left).ok().filter(|left| *left < 256).unwrap_or(0),
        };
        let now = core::mem::replace(&mut self.waiting, rest);
        [&now[..], &sw.to_be_bytes()].concat()
    }

    fn run(&mut self, command: &CApdu<'_>, client: &mut Client<'_>) {
        let mut out = std::vec![0; 4 * RECORD];
        let mut out = Writer::new(&mut out);
        let (endpoint, room) = (&mut self.endpoint, &mut *self.room);
        self.last = match command.ins {
            ins::OPEN => {
                client.with_peer(|peer, ticket, rng| endpoint.resume(room, peer, ticket, rng, &mut out))
            }
            ins::CLOSE => endpoint.close(room, command.p1, &mut out),
            _ => match endpoint.hear(room, command, &mut client.rng, &mut out) {
                Heard::Answer(sw) => sw,
                Heard::Proved(_) => StatusWord::NO_ERROR,
                Heard::Command => {
                    let answer = changed(room.command(1));
                    endpoint.answer(room, &answer, &mut out)
                }
            },
        };
        self.waiting = out.written().to_vec();
        if let Some(ticket) = endpoint.ticket() {
            client.ticket = Some(ticket);
        }
    }
}

/// A record of an open session.
fn said(traffic: &mut Traffic, content_type: u8, text: &[u8]) -> Vec<u8> {
    let mut sealed = std::vec![0; text.len() + 64];
    let mut writer = Writer::new(&mut sealed);
    traffic.seal(content_type, text, &mut writer).unwrap();
    let sealed = writer.written();
    let [.., a, b] = sealed.len().to_be_bytes();
    [&[traffic.outer(content_type), 3, 3, a, b], sealed].concat()
}

/// A record as it comes, whatever it is.
fn next(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut record = std::vec![0; RECORD_HEADER];
    stream.read_exact(&mut record).ok()?;
    let len = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(RECORD_HEADER + len, 0);
    stream.read_exact(&mut record[RECORD_HEADER..]).ok()?;
    Some(record)
}

#[test]
#[ignore = "the runner starts it: tests/interop/bogo.py"]
fn shim() {
    let options = Options::read(&env::var("BOGO_ARGS").unwrap());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut client = Client {
        options: &options,
        // Not the same in two runs of the runner's: it counts on fresh keys.
        rng: Seeded(u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap() ^ options.id << 40),
        time: now.as_secs(),
        ticket: None,
    };
    let is_direct = env::var("BOGO_PATH").is_ok_and(|path| path == "direct");
    for _ in 0..=options.resumes {
        let mut stream = options.connect();
        let end = if is_direct {
            client.directly(&mut stream)
        } else {
            client.by_apdus(&mut stream)
        };
        // What the runner has sent and nobody has read would reset the connection, and with it the alert be lost.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let mut rest = [0; 4096];
        while stream.read(&mut rest).is_ok_and(|len| len > 0) {}
        if end == End::Failed || (end == End::Cut && options.check_close) {
            eprintln!("{end:?}");
            process::exit(1);
        }
    }
    process::exit(0);
}
