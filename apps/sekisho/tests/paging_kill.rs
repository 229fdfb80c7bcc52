//! Property 1 with a real server: killed over and over while it is polled, it must lock no device out, whatever was lost with it.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SEKISHO: &str = env!("CARGO_BIN_EXE_sekisho");
/// How long the load goes on for each scheme. The kills come as fast as the server starts: about 100 in this time, 400 over the four.
const SECONDS: u64 = 8;

/// A server that dies without a word.
struct Server(Child);

impl Server {
    fn start(listen: SocketAddr, directory: &Path, scheme: &[&str]) -> (Self, SocketAddr) {
        let mut child = Command::new(SEKISHO)
            .args([
                "load",
                "serve",
                "--devices",
                "300",
                "--listen",
                &listen.to_string(),
                "--directory",
            ])
            .arg(directory)
            .args(scheme)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .split_whitespace()
            .nth(2)
            .unwrap_or_else(|| panic!("it said {line:?}"));
        let address = address.parse().unwrap();
        (Self(child), address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kills(scheme: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let (mut server, address) = Server::start("127.0.0.1:0".parse().unwrap(), directory.path(), scheme);
    let mut load = Command::new(SEKISHO)
        .args([
            "load",
            "paging",
            "--devices",
            "300",
            "--json",
            "--window",
            "64",
            "--sockets",
            "4",
        ])
        .args(["--loss", "5", "--replay", "10", "--bogus", "20"])
        .args([
            "--seconds",
            &SECONDS.to_string(),
            "--server",
            &address.to_string(),
        ])
        .args(scheme)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let mut killed = 0u32;
    // The last half second belongs to a server that lives.
    while began.elapsed() < Duration::from_secs(SECONDS) - Duration::from_millis(500) {
        std::thread::sleep(Duration::from_millis(u64::from(killed * 37 % 90)));
        drop(server);
        server = Server::start(address, directory.path(), scheme).0;
        killed += 1;
    }
    let mut report = String::new();
    load.stdout.take().unwrap().read_to_string(&mut report).unwrap();
    assert!(load.wait().unwrap().success(), "{report}");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    eprintln!(
        "{scheme:?}: killed {killed} times, {} polls answered",
        report["answered"]
    );
    assert_eq!(
        (&report["locked_out"], &report["stale_accepted"]),
        (&0.into(), &0.into()),
        "{report}"
    );
    // How much of it came up is the machine's: that it came up is the test's.
    let count = |name: &str| report[name].as_u64().unwrap();
    assert!(
        killed > 2 && count("answered") > 0 && count("resent") > 0,
        "{killed} kills: {report}"
    );
}

#[test]
fn property_01_kill_9_ticket() {
    kills(&[]);
}

#[test]
fn property_01_kill_9_ticket_rolling() {
    kills(&["--rolling"]);
}

#[test]
fn property_01_kill_9_random() {
    kills(&["--random"]);
}

#[test]
fn property_01_kill_9_random_rolling() {
    kills(&["--random", "--rolling"]);
}
