//! A device, and a server in memory.

use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;

use rustls::ServerConnection;
use sekisho_bridge::{Ended, Settings, Why};
use sekisho_os::Interface;
use sekisho_tls::Version;

use crate::common::script::Line;
use crate::common::send_on;
use crate::drive::{Device, Sides, with_device};
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

/// A session that goes on: the device, the server at its other end, the SE.
pub(crate) struct Talk<'d, 'b, 'a> {
    device: &'d mut Device<'b>,
    sides: InMemory<'a>,
}

/// A server in memory, the SE, and what stands before it.
struct InMemory<'a> {
    server: &'a mut ServerConnection,
    se: &'a mut Se,
    line: Between<'a>,
    number: usize,
    /// What the server is to send next, and whether it has.
    command: Option<(Vec<u8>, bool)>,
    answer: Option<Vec<u8>>,
}

impl Sides for InMemory<'_> {
    fn command(&mut self, command: &[u8]) -> Vec<u8> {
        self.number += 1;
        (self.line)(self.number - 1, command, self.se)
    }

    fn send(&mut self, mut record: &[u8]) -> ControlFlow<()> {
        while !record.is_empty() && self.server.read_tls(&mut record).is_ok() {
            let _ = self.server.process_new_packets();
        }
        let mut got = vec![0; 4096];
        match self.server.reader().read(&mut got) {
            Ok(len @ 1..) => {
                self.answer = Some(got[..len].to_vec());
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn receive(&mut self, mut space: &mut [u8]) -> Result<usize, Why> {
        if let Some((command, is_sent @ false)) = &mut self.command
            && !self.server.is_handshaking()
        {
            self.server.writer().write_all(command).unwrap();
            *is_sent = true;
        }
        match self.server.write_tls(&mut space) {
            Ok(len @ 1..) => Ok(len),
            _ if self.command.is_none() => Err(Why::Asked),
            _ => Err(Why::Disconnected),
        }
    }
}

/// Begins a session with row 0001 at a logical channel, and lets `talk` go on with it.
pub(crate) fn talking<T>(
    se: &mut Se,
    server: &mut ServerConnection,
    channel: u8,
    line: Between<'_>,
    talk: impl FnOnce(&mut Talk<'_, '_, '_>) -> T,
) -> T {
    talking_at(se, server, (channel, 1, Some(NOW)), line, talk)
}

/// The same with a row's server, and the time that the device says it is.
pub(crate) fn talking_at<T>(
    se: &mut Se,
    server: &mut ServerConnection,
    (channel, row, time): (u8, u16, Option<u64>),
    line: Between<'_>,
    talk: impl FnOnce(&mut Talk<'_, '_, '_>) -> T,
) -> T {
    let settings = Settings {
        channel,
        ..Settings::DEFAULT
    };
    let sides = InMemory {
        server,
        se,
        line,
        number: 0,
        command: None,
        answer: None,
    };
    with_device(settings, (row, time), |device| talk(&mut Talk { device, sides }))
}

impl Talk<'_, '_, '_> {
    pub(crate) fn se(&mut self) -> &mut Se {
        self.sides.se
    }

    /// The server's command, and the answer that it gets; how the session ended otherwise.
    pub(crate) fn ask(&mut self, command: &[u8]) -> Result<Vec<u8>, Ended> {
        self.sides.command = Some((command.to_vec(), false));
        match self.device.run(&mut self.sides) {
            Some(ended) => Err(ended),
            None => Ok(self.sides.answer.take().unwrap()),
        }
    }

    /// The server's exporter value of a label, 32 bytes without a context.
    pub(crate) fn exporter(&self, label: &[u8]) -> [u8; 32] {
        let exported = self.sides.server.export_keying_material([0; 32], label, None);
        exported.unwrap()
    }

    /// The device ends the session.
    pub(crate) fn close(&mut self) -> Ended {
        self.sides.command = None;
        self.device.run(&mut self.sides).unwrap()
    }
}

/// The server's end of a session is a line to the SE.
impl Line for Talk<'_, '_, '_> {
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
