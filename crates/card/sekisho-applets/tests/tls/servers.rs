//! Whole sessions: personalised over SCP03, then handshake, SELECT, READ BINARY, CLOSE.

use std::io::{Read as _, Write as _};

use sekisho_bridge::{Bridge, Buffers, Ended, Settings, Step, Why};
use sekisho_tls::Version;

use crate::common::{send_on, sw};
use crate::device::{NOW, inside};
use crate::openssl::{OpenSsl, connect};
use crate::pki::Pki;
use crate::se::{FILES, PORT, with};

/// SELECT of the file system.
pub(crate) fn select(aid: &[u8]) -> Vec<u8> {
    [&[0, 0xA4, 4, 0, u8::try_from(aid.len()).unwrap()][..], aid, &[0]].concat()
}

/// READ BINARY of file 2F00, which everybody may read, by its short identifier.
pub(crate) const READ: &[u8] = &[0, 0xB0, 0x9E, 0, 0x10];

#[test]
fn rustls_reads_a_file_in_both_versions() {
    for version in [Version::Tls12, Version::Tls13] {
        let pki = Pki::new();
        let mut se = with(&pki);
        let answers = inside(&mut se, &pki, version, &[&select(FILES), READ, &[0, 0x10, 0, 0]]);
        let plain = send_on(&mut *se, PORT, &select(FILES));
        assert_eq!(answers[0], plain);
        assert_eq!(answers[1], send_on(&mut *se, PORT, READ));
        assert_eq!(answers[1].len(), 18);
        assert_eq!(sw(&answers[1]), 0x9000);
        assert_eq!(sw(&answers[2]), 0x6D00);
    }
}

/// A foreign server at the other end of a TCP connection.
#[test]
fn openssl_reads_a_file_in_both_versions() {
    for version in [Version::Tls12, Version::Tls13] {
        let pki = Pki::new();
        let mut se = with(&pki);
        let mut server = OpenSsl::new(&pki, version, &[]);
        let mut stream = connect(server.port);
        let (mut record, mut answer, mut command) = (vec![0; Buffers::RECORD], vec![0; 4096], vec![0; 264]);
        let buffers = Buffers {
            record: &mut record,
            answer: &mut answer,
            command: &mut command,
        };
        let mut bridge = Bridge::new(Settings::DEFAULT, buffers).unwrap();
        bridge.open(1, Some(NOW));
        let commands = [select(FILES), READ.to_vec()];
        // In TLS 1.3 the SE's flight answers application data too.
        let flight = usize::from(version == Version::Tls13);
        let (mut asked, mut answered) = (0, 0);
        if flight == 0 {
            server.stdin.write_all(&commands[0]).unwrap();
        }
        let ended = loop {
            match bridge.step() {
                Step::Command(command) => {
                    let answer = send_on(&mut *se, PORT, command);
                    answered += usize::from(command[..2] == [0xA4, 0x20] && answer.len() > 2);
                    bridge.answered(&answer);
                }
                Step::Send(record) => stream
                    .write_all(&[record.header(), record.body].concat())
                    .unwrap(),
                Step::Receive if answered > asked => {
                    asked += 1;
                    match commands.get(asked - flight) {
                        Some(command) => server.stdin.write_all(command).unwrap(),
                        None => bridge.close(Why::Asked),
                    }
                }
                Step::Receive => {
                    let len = stream.read(bridge.space()).unwrap();
                    if len == 0 {
                        bridge.close(Why::Disconnected);
                    } else {
                        bridge.received(len);
                    }
                }
                Step::Over(ended) => break ended,
            }
        };
        assert_eq!(ended, Ended::BySe);
        drop(stream);
        let _ = server.child.wait();
        let said = server.said.take().unwrap().join().unwrap();
        let expected = send_on(&mut *se, PORT, &select(FILES));
        let read = send_on(&mut *se, PORT, READ);
        assert_eq!(sw(&read), 0x9000);
        for answer in [expected, read] {
            assert!(
                said.windows(answer.len()).any(|bytes| bytes == answer),
                "{version:?}"
            );
        }
    }
}
