//! Whole sessions: personalised over SCP03, then handshake, SELECT, READ BINARY, CLOSE.

use sekisho_bridge::Ended;
use sekisho_tls::Version;

use crate::common::{send_on, sw};
use crate::device::inside;
use crate::openssl::OpenSsl;
use crate::pki::Pki;
use crate::scripted::with_script;
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
        let server = OpenSsl::new(&pki, version, &[]);
        let commands = [select(FILES), READ.to_vec()];
        let commands: Vec<_> = commands.iter().map(Vec::as_slice).collect();
        let (ended, said) = with_script(server, version, &commands, |command| {
            send_on(&mut *se, PORT, command)
        });
        assert_eq!(ended, Ended::BySe);
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
