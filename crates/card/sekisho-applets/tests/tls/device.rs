//! A device, and a server in memory.

use std::io::{Read as _, Write as _};

use rustls::ServerConnection;
use sekisho_bridge::{Bridge, Buffers, Ended, Settings, Step, Why};
use sekisho_tls::Version;

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

/// Carries a session on a logical channel; the server sends the next command when the one before is answered. `line` stands between bridge and SE, and knows the number of each command.
pub(crate) fn session(
    se: &mut Se,
    server: &mut ServerConnection,
    channel: u8,
    commands: &[&[u8]],
    mut line: impl FnMut(usize, &[u8], &mut Se) -> Vec<u8>,
) -> Seen {
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
    let (mut number, mut asked, mut answers) = (0, 0, Vec::new());
    bridge.open(1, Some(NOW));
    for _ in 0..10_000 {
        match bridge.step() {
            Step::Command(command) => {
                let answer = line(number, command, se);
                number += 1;
                bridge.answered(&answer);
            }
            Step::Send(record) => {
                let bytes = [record.header(), record.body].concat();
                let mut rest = &bytes[..];
                while !rest.is_empty() && server.read_tls(&mut rest).is_ok() {
                    let _ = server.process_new_packets();
                }
                let mut got = vec![0; 4096];
                if let Ok(len @ 1..) = server.reader().read(&mut got) {
                    answers.push(got[..len].to_vec());
                }
            }
            Step::Receive => {
                if !server.is_handshaking() && asked < commands.len() && answers.len() == asked {
                    server.writer().write_all(commands[asked]).unwrap();
                    asked += 1;
                }
                let mut space = bridge.space();
                match server.write_tls(&mut space) {
                    Ok(len @ 1..) => bridge.received(len),
                    _ if asked == commands.len() => bridge.close(Why::Asked),
                    _ => bridge.close(Why::Disconnected),
                }
            }
            Step::Over(ended) => return Seen { ended, answers },
        }
    }
    panic!("it goes on");
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
