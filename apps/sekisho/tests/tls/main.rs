//! `sekisho tls-server` and `sekisho tls` as processes, with TLS sessions that end in an SE.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests are tests"
)]

#[allow(dead_code, reason = "shared with other programs")]
#[path = "../../../../crates/card/sekisho-tls/tests/sessions/bare.rs"]
mod bare;
mod board;
mod card;
mod device;
mod element;
mod figures;
mod folder;
mod frozen;
mod hostile;
mod memory;
#[allow(dead_code, reason = "shared with other programs")]
#[path = "../../../../crates/card/sekisho-tls/tests/sessions/openssl.rs"]
mod openssl;
#[allow(dead_code, reason = "shared with other programs")]
#[path = "../../../../crates/card/sekisho-tls/tests/sessions/pki.rs"]
mod pki;
#[path = "../process/mod.rs"]
mod process;
mod server;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// The binary under test.
const SEKISHO: &str = env!("CARGO_BIN_EXE_sekisho");

/// A running `sekisho tls-server` on a port of its own.
struct Server {
    child: Option<Child>,
    address: String,
    stderr: Option<BufReader<std::process::ChildStderr>>,
    _folder: tempfile::TempDir,
}

impl Server {
    /// With the server's certificates of `pki`; a script is written to a file.
    fn start(pki: &pki::Pki, script: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        std::fs::write(&path, script).unwrap();
        Self::serve(pki, &[&["--script", path.to_str().unwrap()], more].concat())
    }

    /// The same with arguments alone.
    fn serve(pki: &pki::Pki, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::run(command(pki, folder.path()).args(more), folder)
    }

    /// With files of its own.
    fn with(more: &[&str]) -> Self {
        let mut command = Command::new(SEKISHO);
        Self::run(command.arg("tls-server").args(more), tempfile::tempdir().unwrap())
    }

    fn run(command: &mut Command, folder: tempfile::TempDir) -> Self {
        let mut child = command
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended");
            if let Some(address) = line.strip_prefix("listening on ") {
                break address.trim().to_owned();
            }
        };
        Self {
            child: Some(child),
            address,
            stderr: Some(stderr),
            _folder: folder,
        }
    }

    fn stop(&self) {
        let pid = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// Waits for its end: exit code, standard output, standard error.
    fn ended(mut self) -> (Option<i32>, String, String) {
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        let mut said = String::new();
        self.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            said,
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `sekisho tls-server` with certificates, which are written to the folder.
fn command(pki: &pki::Pki, folder: &Path) -> Command {
    let mut command = Command::new(SEKISHO);
    command.arg("tls-server");
    for (option, text) in [
        ("--certificate", &pki.server.pem),
        ("--key", &pki.server.key.serialize_pem()),
        ("--client-ca", &pki.authority.pem),
    ] {
        let path = folder.join(option);
        std::fs::write(&path, text).unwrap();
        command.arg(option).arg(path);
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The JSON objects of standard output but for those of what goes on: of what is over.
fn objects(stdout: &str) -> Vec<Value> {
    let mut all = events(stdout);
    all.retain(|object| !matches!(object["event"].as_str(), Some("begin" | "answer")));
    all
}

/// All of them.
fn events(stdout: &str) -> Vec<Value> {
    stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What became of each command of a session.
fn outcomes(session: &Value) -> Vec<&str> {
    let commands = session["commands"].as_array().unwrap();
    commands
        .iter()
        .map(|command| command["outcome"].as_str().unwrap())
        .collect()
}

/// Runs `sekisho tls` to its end.
fn tls(arguments: &[&str]) -> Output {
    Command::new(SEKISHO)
        .arg("tls")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}
