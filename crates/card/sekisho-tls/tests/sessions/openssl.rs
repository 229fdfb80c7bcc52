//! `openssl s_server`, which wants the SE's certificate.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use sekisho_tls::Version;

use crate::pki::Pki;

/// What a server needs, in files: its certificate, its key, the authority's certificate.
pub(crate) fn files(pki: &Pki) -> (tempfile::TempDir, [String; 3]) {
    let folder = tempfile::tempdir().unwrap();
    let texts = [
        &pki.server.pem,
        &pki.server.key.serialize_pem(),
        &pki.authority.pem,
    ];
    let mut number = 0;
    let paths = texts.map(|text| {
        number += 1;
        let path = folder.path().join(format!("{number}.pem"));
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    });
    (folder, paths)
}

pub(crate) struct OpenSsl {
    pub(crate) child: Child,
    pub(crate) stdin: ChildStdin,
    pub(crate) port: u16,
    pub(crate) said: Option<JoinHandle<Vec<u8>>>,
    _folder: tempfile::TempDir,
}

impl OpenSsl {
    pub(crate) fn new(pki: &Pki, version: Version, more: &[&str]) -> Self {
        let (folder, [certificate, key, authority]) = files(pki);
        let version = if version == Version::Tls12 {
            "-tls1_2"
        } else {
            "-tls1_3"
        };
        let mut child = Command::new("openssl")
            .args([
                "s_server",
                "-accept",
                "127.0.0.1:0",
                "-naccept",
                "1",
                "-Verify",
                "2",
                "-verify_return_error",
            ])
            .args([
                "-cert",
                &certificate,
                "-key",
                &key,
                "-CAfile",
                &authority,
                version,
            ])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (stdin, mut stdout) = (
            child.stdin.take().unwrap(),
            BufReader::new(child.stdout.take().unwrap()),
        );
        let port = loop {
            let mut line = String::new();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "s_server ended");
            if let Some(port) = line.strip_prefix("ACCEPT 127.0.0.1:") {
                break port.trim().parse().unwrap();
            }
        };
        let said = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout.read_to_end(&mut bytes);
            bytes
        });
        Self {
            child,
            stdin,
            port,
            said: Some(said),
            _folder: folder,
        }
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}
