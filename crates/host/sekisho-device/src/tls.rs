//! The device's part of a TLS session that ends in the secure element (SE): a connection, a card, and `sekisho-bridge` between them (`docs/spec/tls-apdu.md`).
//!
//! There is no key here and nothing is read that is encrypted: what the server and the SE say to each other is theirs.

mod words;

use core::fmt;
use core::time::Duration;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use sekisho_apdu::StatusWord;
use sekisho_bridge::{self as bridge, Bridge, Buffers, SESSION_OVER, Step, Why, content_type, ins};
use sekisho_transport::{Card, Stop, TransportError};

pub use words::alert_name;

/// With whom, and for how long.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The peer's row in the SE's table, 1 to 65,535.
    pub peer: u16,
    /// The device's clock, in seconds since 1970, which the SE need not believe.
    pub time: Option<u64>,
    /// How long the server may say nothing, and how long it may take for what is sent to it.
    pub silence: Duration,
    /// How long the session may be. The wait for an answer of the SE is the card's to bound.
    pub session: Duration,
    /// How many bytes may come from the server and go to it.
    pub bytes: u64,
    /// Ends the session from another thread, within a quarter of a second and the SE's answer.
    pub stop: Option<Stop>,
}

/// Something that was seen on one of the two sides; as text it is named.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// A C-APDU to the SE.
    Command(&'a [u8]),
    /// Its R-APDU.
    Answer(&'a [u8]),
    /// A record to the server: its header, with the message's where it is in the clear.
    Sent(&'a [u8]),
    /// The header of a record from the server.
    Received(&'a [u8]),
}

/// How a session ended.
#[derive(Debug)]
pub enum Ended {
    /// The SE ended it, or the server did and the SE said so.
    BySe,
    /// The SE refused a command.
    Refused(StatusWord),
    /// What the SE answered is no part of a TLS session.
    Malformed,
    /// The server closed the connection without a word, or it broke.
    Disconnected(Option<io::Error>),
    /// The server was silent for as long as it may be.
    Silent,
    /// The session was as long as it may be.
    Expired,
    /// More bytes than there may be.
    TooMuch,
    /// The device was told to end it.
    Stopped,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BySe => f.write_str("the secure element ended the session"),
            Self::Refused(sw) => match refusal(*sw) {
                Some(words) => write!(f, "the secure element answers {sw}, {words}"),
                None => write!(f, "the secure element answers {sw}, {}", sw.meaning()),
            },
            Self::Malformed => f.write_str("what the secure element answered is no part of a TLS session"),
            Self::Disconnected(None) => f.write_str("the server closed the connection without a word"),
            Self::Disconnected(Some(error)) => write!(f, "the connection broke: {error}"),
            Self::Silent => f.write_str("the server was silent for as long as it may be"),
            Self::Expired => f.write_str("the session was as long as it may be"),
            Self::TooMuch => f.write_str("more bytes went through the session than may"),
            Self::Stopped => f.write_str("the device ended the session"),
        }
    }
}

/// What a refusal means in this protocol and nowhere else (`docs/spec/tls-apdu.md`, 4).
const fn refusal(sw: StatusWord) -> Option<&'static str> {
    match sw.0 {
        0x6985 => Some("no session, or the peer's row is not complete"),
        0x6A84 => Some("no room for another session"),
        0x6A88 => Some("no peer in this row"),
        0x6D00 | 0x6E00 => Some("it has no TLS Manager"),
        0x6F00 => Some("no room for the answer"),
        _ => None,
    }
}

/// What a session was, as far as a device can tell.
#[derive(Debug)]
pub struct Session {
    /// How it ended.
    pub ended: Ended,
    /// The alert that was said in the clear, before the peers had proved each other, and whether the server said it.
    pub alert: Option<(u8, bool)>,
    /// Records of the server that the SE answered with one once the handshake was done: commands, if the server gives commands.
    pub answered: u64,
    /// C-APDUs.
    pub apdus: u64,
    /// Bytes to the server, with the headers of records.
    pub sent: u64,
    /// Bytes from it.
    pub received: u64,
}

/// The longest answer of an SE, with all that GET RESPONSE brings of it.
const ANSWER_MAX: usize = 16 << 10;
/// How often a session that may be stopped looks whether it was.
const LOOK: Duration = Duration::from_millis(200);
/// What one command carries: short length fields.
const COMMAND_DATA: usize = 255;

/// Carries one session between the SE and the server at the other end of `stream`, to its end. The connection is closed then.
///
/// # Errors
/// The way to the SE failed. The connection is closed at once, and nothing is sent again: where the outcome is unknown the SE may have taken a part of a record, and no other
/// can follow. The SE forgets the session at the next one, or at its reset.
pub fn carry(
    card: &mut dyn Card,
    stream: &TcpStream,
    settings: &Settings,
    tell: &mut dyn FnMut(Seen<'_>),
) -> Result<Session, TransportError> {
    let mut line = Line::new(stream, settings);
    let ended = line.carry(card, settings, tell);
    // It may be closed already.
    let _ = stream.shutdown(Shutdown::Both);
    Ok(Session {
        ended: ended?,
        alert: line.alert,
        // The server's last flight of TLS 1.3 is answered too.
        answered: line.answered.saturating_sub(u64::from(!line.is_tls12)),
        apdus: line.apdus,
        sent: line.sent,
        received: line.received,
    })
}

/// The connection, and what is known of the session from what goes over it.
struct Line<'a> {
    stream: &'a TcpStream,
    limits: &'a Settings,
    since: Instant,
    /// Since when the server is waited for.
    waiting: Option<Instant>,
    headers: Headers,
    /// Why the device ended it.
    gave_up: Option<Ended>,
    alert: Option<(u8, bool)>,
    /// A record of application data has reached the SE, and is not answered.
    is_asked: bool,
    answered: u64,
    /// The SE said a handshake message that is encrypted: in TLS 1.3 those are application data.
    is_tls12: bool,
    apdus: u64,
    sent: u64,
    received: u64,
}

impl<'a> Line<'a> {
    fn new(stream: &'a TcpStream, limits: &'a Settings) -> Self {
        Self {
            stream,
            limits,
            since: now(),
            waiting: None,
            headers: Headers::default(),
            gave_up: None,
            alert: None,
            is_asked: false,
            answered: 0,
            is_tls12: false,
            apdus: 0,
            sent: 0,
            received: 0,
        }
    }

    fn carry(
        &mut self,
        card: &mut dyn Card,
        settings: &Settings,
        tell: &mut dyn FnMut(Seen<'_>),
    ) -> Result<Ended, TransportError> {
        let (mut record, mut answer) = (vec![0; Buffers::RECORD], vec![0; ANSWER_MAX]);
        let mut command = [0; COMMAND_DATA + Buffers::COMMAND];
        let buffers = Buffers {
            record: &mut record,
            answer: &mut answer,
            command: &mut command,
        };
        let Some(mut bridge) = Bridge::new(bridge::Settings::DEFAULT, buffers) else {
            return Ok(Ended::Malformed);
        };
        bridge.open(settings.peer, settings.time);
        loop {
            if let Some(why) = self.close(self.bound()) {
                bridge.close(why);
            }
            match bridge.step() {
                Step::Command(command) => {
                    self.heard_by_se(command);
                    tell(Seen::Command(command));
                    let answer = card.transmit(command)?;
                    tell(Seen::Answer(&answer));
                    // What it says at its end is no answer to a command.
                    self.is_asked &= !answer.ends_with(&SESSION_OVER.0.to_be_bytes());
                    bridge.answered(&answer);
                }
                Step::Send(record) => {
                    tell(Seen::Sent(record.header()));
                    if let Some(why) = self.send(&record) {
                        bridge.close(why);
                    }
                }
                Step::Receive => {
                    let read = self.receive(bridge.space(), tell);
                    match read {
                        Ok(len) => bridge.received(len),
                        Err(ended) => {
                            if let Some(why) = self.close(Some(ended)) {
                                bridge.close(why);
                            }
                        }
                    }
                }
                Step::Over(ended) => return Ok(self.ended(ended)),
            }
        }
    }

    /// Whether a bound has been reached.
    fn bound(&self) -> Option<Ended> {
        if self.limits.stop.as_ref().is_some_and(Stop::is_stopped) {
            return Some(Ended::Stopped);
        }
        if self.since.elapsed() >= self.limits.session {
            return Some(Ended::Expired);
        }
        (self.sent + self.received > self.limits.bytes).then_some(Ended::TooMuch)
    }

    /// What the SE is to be told when the device ends the session for this; once.
    fn close(&mut self, ended: Option<Ended>) -> Option<Why> {
        let ended = ended.filter(|_| self.gave_up.is_none())?;
        let why = match ended {
            Ended::Disconnected(_) => Why::Disconnected,
            _ => Why::Asked,
        };
        self.gave_up = Some(ended);
        Some(why)
    }

    fn ended(&mut self, ended: bridge::Ended) -> Ended {
        self.gave_up.take().unwrap_or(match ended {
            bridge::Ended::BySe => Ended::BySe,
            bridge::Ended::Refused(sw) => Ended::Refused(sw),
            bridge::Ended::Answer => Ended::Malformed,
            bridge::Ended::Disconnected => Ended::Disconnected(None),
        })
    }

    fn heard_by_se(&mut self, command: &[u8]) {
        self.apdus += 1;
        self.waiting = None;
        match *command {
            [_, ins::APPLICATION_DATA, ..] => self.is_asked = true,
            // Two bytes: level and description, which nothing encrypted is as short as.
            [_, ins::ALERT, 0, 2, 2, _, alert, ..] => self.alert = Some((alert, true)),
            _ => {}
        }
    }

    fn send(&mut self, record: &bridge::Record<'_>) -> Option<Why> {
        let header = record.header();
        match (header, record.body) {
            ([content_type::ALERT, ..], [_, alert]) => self.alert = Some((*alert, false)),
            ([content_type::HANDSHAKE, ..], _) if header.len() == bridge::RECORD_HEADER => {
                self.is_tls12 = true
            }
            ([content_type::APPLICATION_DATA, ..], _) => {
                self.answered += u64::from(core::mem::take(&mut self.is_asked));
            }
            _ => {}
        }
        // In one write: a record is a segment where it fits one.
        let bytes = [header, record.body].concat();
        self.sent += bytes.len() as u64;
        let mut stream = self.stream;
        let written = stream
            .set_write_timeout(Some(self.patience()))
            .and_then(|()| stream.write_all(&bytes));
        let error = written.err()?;
        self.close(Some(Ended::Disconnected(Some(error))))
    }

    fn receive(&mut self, space: &mut [u8], tell: &mut dyn FnMut(Seen<'_>)) -> Result<usize, Ended> {
        let mut stream = self.stream;
        let waited = self.waiting.get_or_insert_with(now).elapsed();
        let mut wait = self.patience().saturating_sub(waited);
        if self.limits.stop.is_some() {
            wait = wait.min(LOOK);
        }
        let read = stream
            .set_read_timeout(Some(wait.max(Duration::from_millis(1))))
            .and_then(|()| stream.read(space));
        match read {
            Ok(0) => Err(Ended::Disconnected(None)),
            Ok(len) => {
                self.waiting = None;
                self.received += len as u64;
                self.headers.see(space.get(..len).unwrap_or_default(), tell);
                Ok(len)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => match self.bound() {
                    Some(ended) => Err(ended),
                    None if self.has_waited() => Err(Ended::Silent),
                    None => Ok(0),
                },
                ErrorKind::Interrupted => Ok(0),
                _ => Err(Ended::Disconnected(Some(error))),
            },
        }
    }

    fn has_waited(&self) -> bool {
        self.waiting
            .is_some_and(|since| since.elapsed() >= self.limits.silence)
    }

    /// How long to wait for the connection.
    fn patience(&self) -> Duration {
        let left = self.limits.session.saturating_sub(self.since.elapsed());
        self.limits.silence.min(left).max(Duration::from_millis(1))
    }
}

/// Finds the headers of records in what the server sends.
#[derive(Default)]
struct Headers {
    header: [u8; bridge::RECORD_HEADER],
    len: usize,
    /// How many bytes of the record are still to come.
    left: usize,
}

impl Headers {
    fn see(&mut self, mut bytes: &[u8], tell: &mut dyn FnMut(Seen<'_>)) {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((byte, rest)) = bytes.split_first() else {
                return;
            };
            if let Some(place) = self.header.get_mut(self.len) {
                *place = *byte;
            }
            self.len += 1;
            bytes = rest;
            if self.len == bridge::RECORD_HEADER {
                tell(Seen::Received(&self.header));
                let [.., a, b] = self.header;
                (self.len, self.left) = (0, usize::from(u16::from_be_bytes([a, b])));
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a connection is an edge")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use sekisho_transport::{InProcessCard, Request};

    use super::*;

    /// However the connection cuts it, the same headers are seen, and nothing of what stands behind them.
    /// An SE that says ClientHello and goodbye; its commands.
    fn stopped_after(pause: Duration, silence: Duration) -> (Session, Vec<u8>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_server, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut card = InProcessCard::new(|request: Request<'_>| {
            let Request::Command([_, ins, ..]) = request else {
                return Ok(vec![]);
            };
            asked.push(*ins);
            Ok(match *ins {
                ins::OPEN => vec![0xA4, 1, 0, 1, 1, 7, 0x90, 0],
                _ => SESSION_OVER.0.to_be_bytes().to_vec(),
            })
        });
        let stop = Stop::new();
        let settings = Settings {
            peer: 1,
            time: None,
            silence,
            session: Duration::from_secs(20),
            bytes: 1 << 20,
            stop: Some(stop.clone()),
        };
        let teller = std::thread::spawn(move || {
            stop.wait(pause);
            stop.stop();
        });
        let session = carry(&mut card, &stream, &settings, &mut |_| ()).unwrap();
        teller.join().unwrap();
        (session, asked)
    }

    #[test]
    fn a_session_can_be_stopped_and_the_se_is_told() {
        let long = Duration::from_secs(20);
        let started = now();
        for pause in [Duration::ZERO, Duration::from_millis(300)] {
            let (session, asked) = stopped_after(pause, long);
            assert!(matches!(session.ended, Ended::Stopped), "{:?}", session.ended);
            assert_eq!(asked.last(), Some(&ins::CLOSE));
        }
        assert!(started.elapsed() < Duration::from_secs(2));
        // That it may be stopped makes nobody wait longer for a silent server, nor shorter.
        let (session, _) = stopped_after(Duration::from_millis(900), Duration::from_millis(500));
        assert!(matches!(session.ended, Ended::Silent), "{:?}", session.ended);
    }

    #[test]
    fn headers_are_found_in_any_pieces() {
        let records = [
            &[22, 3, 3, 0, 4, 1, 2, 3, 4][..],
            &[20, 3, 3, 0, 0],
            &[23, 3, 3, 0, 1, 9],
        ]
        .concat();
        for most in 1..=records.len() {
            let (mut headers, mut seen) = (Headers::default(), Vec::new());
            for piece in records.chunks(most) {
                headers.see(piece, &mut |what| seen.push(what.to_string()));
            }
            let expected = ["handshake, 4", "change_cipher_spec, 0", "application_data, 1"];
            assert_eq!(
                seen,
                expected.map(|what| format!("server > record of {what} bytes")),
                "{most}"
            );
        }
    }

    #[test]
    fn commands_and_answers_are_named() {
        for (seen, words) in [
            (Seen::Command(&[0xA4, 0x28, 0, 3, 0]), "SE     > OPEN, peer 3"),
            (
                Seen::Command(&[0xA4, 0x2A, 1, 0, 0]),
                "SE     > CLOSE, the connection is gone",
            ),
            (
                Seen::Command(&[0xB4, 0x0B, 0x80, 10, 2, 1, 2, 0]),
                "SE     > Certificate, 2 of 10 bytes, goes on",
            ),
            (
                Seen::Command(&[0xA4, 0x0E, 0, 0, 0]),
                "SE     > ServerHelloDone, 0 bytes",
            ),
            (Seen::Command(&[0x00, 0xC0, 0, 0, 0]), "SE     > GET RESPONSE"),
            (Seen::Answer(&[0x62, 0x85]), "SE     < 6285"),
            (Seen::Answer(&[1, 2, 0x61, 0x00]), "SE     < 2 bytes, 6100"),
            (
                Seen::Sent(&[22, 3, 1, 0, 9, 1, 0, 0, 5]),
                "server < record of handshake, 9 bytes: ClientHello",
            ),
        ] {
            assert_eq!(seen.to_string(), words);
        }
    }
}
