//! A device, and a server in memory.

use std::io::{Read as _, Write as _};

use rustls::ServerConnection;
use sekisho_bridge::{Bridge, Buffers, Ended, Settings, Step, Why};
use sekisho_os::Interface;
use sekisho_tls::Version;

use crate::common::script::Line;
use crate::common::send_on;
use crate::in_memory;
use crate::pki::Pki;
use crate::se::{PORT, Se};

pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) fn server(pki: &Pki, version: Version) -> ServerConnection {
    in_memory::server(pki, version, 2)
}

/// A session as its server sees it: how it ended for the device, and the answers to the commands.
pub(crate) struct Seen {
    pub(crate) ended: Ended,
    pub(crate) answers: Vec<Vec<u8>>,
}

/// What stands between bridge and SE: it is told the number of each command.
pub(crate) type Between<'a> = &'a mut dyn FnMut(usize, &[u8], &mut Se) -> Vec<u8>;

/// A session that goes on: the bridge, the server at its other end, the SE.
pub(crate) struct Talk<'a> {
    bridge: Bridge<'a>,
    server: &'a mut ServerConnection,
    pub(crate) se: &'a mut Se,
    line: Between<'a>,
    number: usize,
}

/// Begins a session with row 0001 at a logical channel, and lets `talk` go on with it.
pub(crate) fn talking<T>(
    se: &mut Se,
    server: &mut ServerConnection,
    channel: u8,
    line: Between<'_>,
    talk: impl FnOnce(&mut Talk<'_>) -> T,
) -> T {
    let (mut record, mut answer, mut command) = (vec![0; Buffers::RECORD], vec![0; 4096], vec![0; 264]);
    let buffers = Buffers {
        record: &mut record,
        answer: &mut answer,
        command: &mut command,
    };
    let settings = Settings {
        channel,
        ..Settings::DEFAULT
    };
    let mut bridge = Bridge::new(settings, buffers).unwrap();
    bridge.open(1, Some(NOW));
    talk(&mut Talk {
        bridge,
        server,
        se,
        line,
        number: 0,
    })
}

impl Talk<'_> {
    /// The server's command, and the answer that it gets; how the session ended otherwise.
    pub(crate) fn ask(&mut self, command: &[u8]) -> Result<Vec<u8>, Ended> {
        self.run(Some(command))
            .and_then(|answer| answer.ok_or(Ended::Disconnected))
    }

    /// The device ends the session.
    pub(crate) fn close(&mut self) -> Ended {
        match self.run(None) {
            Err(ended) => ended,
            Ok(_) => panic!("it goes on"),
        }
    }

    fn run(&mut self, command: Option<&[u8]>) -> Result<Option<Vec<u8>>, Ended> {
        let mut asked = false;
        for _ in 0..10_000 {
            match self.bridge.step() {
                Step::Command(command) => {
                    let answer = (self.line)(self.number, command, self.se);
                    self.number += 1;
                    self.bridge.answered(&answer);
                }
                Step::Send(record) => {
                    let bytes = [record.header(), record.body].concat();
                    let mut rest = &bytes[..];
                    while !rest.is_empty() && self.server.read_tls(&mut rest).is_ok() {
                        let _ = self.server.process_new_packets();
                    }
                    let mut got = vec![0; 4096];
                    if let Ok(len @ 1..) = self.server.reader().read(&mut got) {
                        return Ok(Some(got[..len].to_vec()));
                    }
                }
                Step::Receive => {
                    if let Some(command) = command.filter(|_| !asked && !self.server.is_handshaking()) {
                        self.server.writer().write_all(command).unwrap();
                        asked = true;
                    }
                    match self.server.write_tls(&mut self.bridge.space()) {
                        Ok(len @ 1..) => self.bridge.received(len),
                        _ if command.is_none() => self.bridge.close(Why::Asked),
                        _ => self.bridge.close(Why::Disconnected),
                    }
                }
                Step::Over(ended) => return Err(ended),
            }
        }
        panic!("it goes on");
    }
}

/// The server's end of a session is a line to the SE.
impl Line for Talk<'_> {
    fn transmit(&mut self, _: Interface, capdu: &[u8]) -> Vec<u8> {
        self.ask(capdu).unwrap()
    }
}

/// Carries a session on a logical channel; the server sends the next command when the one before is answered. `line` stands between bridge and SE, and knows the number of each command.
pub(crate) fn session(
    se: &mut Se,
    server: &mut ServerConnection,
    channel: u8,
    commands: &[&[u8]],
    mut line: impl FnMut(usize, &[u8], &mut Se) -> Vec<u8>,
) -> Seen {
    talking(se, server, channel, &mut line, |talk| {
        let mut answers = Vec::new();
        for command in commands {
            match talk.ask(command) {
                Ok(answer) => answers.push(answer),
                Err(ended) => return Seen { ended, answers },
            }
        }
        let ended = talk.close();
        Seen { ended, answers }
    })
}

pub(crate) fn honest(_: usize, command: &[u8], se: &mut Se) -> Vec<u8> {
    send_on(se, PORT, command)
}

/// The answers to commands inside one session.
pub(crate) fn inside(se: &mut Se, pki: &Pki, version: Version, commands: &[&[u8]]) -> Vec<Vec<u8>> {
    let seen = session(se, &mut server(pki, version), 0, commands, honest);
    assert_eq!(seen.ended, Ended::BySe);
    seen.answers
}
