//! What other servers take for the same question, as far as they are installed: a DNS query, an HTTPS request on a new connection, CoAP over a new
//! DTLS-PSK session. Each with its own client; the server's CPU by schedstat, bytes and packets by the loopback interface.

use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::cpu;
use crate::leftovers::{Folder, Process};

/// A peer's figures for each question.
pub(super) struct Peer {
    pub(super) name: &'static str,
    /// CPU of the server in microseconds.
    pub(super) micros: f64,
    pub(super) bytes: f64,
    pub(super) packets: f64,
}

/// Starts a peer in a folder and asks it.
type Measurement = fn(&Path) -> Result<Peer>;

/// CPU time of a process in nanoseconds.
fn cpu(process: u32) -> Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        sum += cpu::of_task(&task?.path())?;
    }
    Ok(sum)
}

/// Bytes and packets that the loopback interface has carried.
fn loopback() -> Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/net/dev")?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"))
        .context("no loopback interface")?;
    let mut numbers = line.split_whitespace().map(str::parse);
    let (bytes, packets) = (
        numbers.next().context("bytes")??,
        numbers.next().context("packets")??,
    );
    Ok((bytes, packets))
}

fn is_there(program: &str) -> bool {
    let found = |folder: &str| Path::new(folder).join(program).exists();
    std::env::var("PATH").is_ok_and(|path| path.split(':').any(found)) || found("/usr/sbin")
}

fn start(folder: &Path, program: &str, args: &[&str]) -> Result<Process> {
    let program = if Path::new("/usr/sbin").join(program).exists() {
        format!("/usr/sbin/{program}")
    } else {
        program.to_owned()
    };
    let mut command = Command::new(&program);
    command
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let server = Process::new(
        command
            .spawn()
            .with_context(|| format!("{program} does not start"))?,
    )?;
    #[allow(clippy::disallowed_methods, reason = "a server needs a moment")]
    std::thread::sleep(Duration::from_millis(1500));
    Ok(server)
}

fn run(folder: &Path, program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} does not start"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// Measures a server over what `ask` does, which gives how many questions it asked.
fn measure(name: &'static str, server: &Process, ask: impl FnOnce() -> Result<u64>) -> Result<Peer> {
    let (before, (bytes, packets)) = (cpu(server.id())?, loopback()?);
    let asked = ask()?.max(1) as f64;
    let (after, (bytes_after, packets_after)) = (cpu(server.id())?, loopback()?);
    Ok(Peer {
        name,
        micros: (after - before) as f64 / 1e3 / asked,
        bytes: (bytes_after - bytes) as f64 / asked,
        packets: (packets_after - packets) as f64 / asked,
    })
}

/// The number that stands before these words.
fn number_before(text: &str, words: &str) -> Result<u64> {
    let line = text
        .lines()
        .find(|line| line.contains(words))
        .with_context(|| format!("no {words:?} in its output"))?;
    let number = line
        .split(words)
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .next_back();
    Ok(number.unwrap_or_default().parse()?)
}

/// The number that stands after these words.
fn number_after(text: &str, words: &str) -> Result<u64> {
    let rest = text
        .split(words)
        .nth(1)
        .with_context(|| format!("no {words:?} in its output"))?;
    Ok(rest.split_whitespace().next().unwrap_or_default().parse()?)
}

fn dns(folder: &Path) -> Result<Peer> {
    let at = folder.display();
    std::fs::write(
        folder.join("knot.conf"),
        format!(
            "server:\n  listen: 127.0.0.1@15354\n  rundir: {at}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
             database:\n  storage: {at}\nzone:\n  - domain: example.org\n    storage: {at}\n    file: example.zone\n"
        ),
    )?;
    let zone = "$ORIGIN example.org.\n$TTL 60\n@ SOA ns host 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\nwww TXT \"nothing for you\"\n";
    std::fs::write(folder.join("example.zone"), zone)?;
    std::fs::write(folder.join("questions"), "www.example.org TXT\n")?;
    let server = start(folder, "knotd", &["-c", "knot.conf"])?;
    measure("DNS: Knot, one worker", &server, || {
        let args = [
            "-s",
            "127.0.0.1",
            "-p",
            "15354",
            "-d",
            "questions",
            "-l",
            "3",
            "-c",
            "64",
            "-T",
            "1",
            "-q",
            "512",
        ];
        number_after(&run(folder, "dnsperf", &args)?, "Queries completed:")
    })
}

fn https(folder: &Path) -> Result<Peer> {
    let made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem -out c.pem -subj /CN=localhost -days 2";
    run(folder, "openssl", &made.split(' ').collect::<Vec<_>>())?;
    std::fs::write(folder.join("poll"), "nothing for you\n")?;
    let args = [
        "s_server",
        "-accept",
        "127.0.0.1:14433",
        "-cert",
        "c.pem",
        "-key",
        "k.pem",
        "-WWW",
        "-quiet",
    ];
    let server = start(folder, "openssl", &args)?;
    measure("HTTPS, TLS 1.3, new connection", &server, || {
        let args = [
            "s_time",
            "-connect",
            "127.0.0.1:14433",
            "-new",
            "-time",
            "3",
            "-www",
            "/poll",
        ];
        number_before(&run(folder, "openssl", &args)?, "connections in")
    })
}

fn coap(folder: &Path) -> Result<Peer> {
    const SESSIONS: u64 = 200;
    let args = ["-A", "127.0.0.1", "-p", "15683", "-k", "secret", "-h", "hint"];
    let server = start(folder, "coap-server-openssl", &args)?;
    measure("CoAP, new DTLS-PSK session", &server, || {
        for _ in 0..SESSIONS {
            run(
                folder,
                "coap-client-openssl",
                &["-u", "id", "-k", "secret", "coaps://127.0.0.1:15684/time"],
            )?;
        }
        Ok(SESSIONS)
    })
}

/// All peers that are installed, and the names of those that are not or would not run.
pub(super) fn measure_all() -> Result<(Vec<Peer>, Vec<String>)> {
    let folder = Folder::new()?;
    let mut peers = Vec::new();
    let mut absent = Vec::new();
    let all: [(&str, &[&str], Measurement); 3] = [
        ("DNS", &["knotd", "dnsperf"], dns),
        ("HTTPS", &["openssl"], https),
        ("CoAP", &["coap-server-openssl", "coap-client-openssl"], coap),
    ];
    for (name, programs, peer) in all {
        match programs.iter().find(|program| !is_there(program)) {
            Some(program) => absent.push(format!("{name}: {program} is not installed")),
            None => match peer(folder.path()) {
                Ok(peer) => peers.push(peer),
                Err(error) => absent.push(format!("{name}: {}", super::in_a_line(&error))),
            },
        }
    }
    Ok((peers, absent))
}
