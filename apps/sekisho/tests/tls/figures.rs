//! Figures 12 and 13 message by message: what goes where between a server, `sekisho tls` and an SE, as section 7 of `docs/spec/tls-apdu.md` has it. On the way the server's messages in the
//! clear are put together in one record, and cut into records of 7 bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use sekisho_bridge::handshake_name;
use sekisho_tls::Version;

use crate::element::{Kind, Socket};
use crate::openssl::{OpenSsl, files};
use crate::pki::Pki;
use crate::process::{Guarded, repository};
use crate::{Server, text, tls};

/// How the server's handshake messages in the clear travel.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    AsTheyAre,
    /// In one record, until something else comes or ServerHelloDone.
    Together,
    /// In records of 7 bytes.
    Cut,
}

const SERVER_HELLO_DONE: u8 = 14;

fn record(stream: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    stream.read_exact(&mut header).ok()?;
    let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    stream.read_exact(&mut body).ok()?;
    Some((header[0], body))
}

fn send(stream: &mut impl Write, kind: u8, body: &[u8]) {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    let _ = stream.write_all(&[&[kind, 3, 3], &len[..], body].concat());
}

/// Whether whole messages stand here, the last of which is ServerHelloDone.
fn is_done(mut messages: &[u8]) -> bool {
    while let [kind, a, b, c, rest @ ..] = messages {
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some(behind) = rest.get(len..) else {
            return false;
        };
        if *kind == SERVER_HELLO_DONE {
            return behind.is_empty();
        }
        messages = behind;
    }
    false
}

/// A place in front of a server, for one connection; the server may not be there yet.
fn way_to(server: String, way: Way) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut device, _) = listener.accept().unwrap();
        let connected = (0..200).find_map(|_| {
            let connected = TcpStream::connect(&server).ok();
            if connected.is_none() {
                thread::sleep(Duration::from_millis(50));
            }
            connected
        });
        let mut server = connected.unwrap();
        let (mut from, mut to) = (device.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        let (mut is_clear, mut together) = (true, Vec::new());
        while let Some((kind, body)) = record(&mut server) {
            is_clear &= kind == 22;
            if !is_clear && !together.is_empty() {
                send(&mut device, 22, &core::mem::take(&mut together));
            }
            match way {
                Way::Cut if is_clear => body.chunks(7).for_each(|piece| send(&mut device, 22, piece)),
                Way::Together if is_clear => {
                    together.extend(body);
                    if is_done(&together) {
                        send(&mut device, 22, &core::mem::take(&mut together));
                    }
                }
                _ => send(&mut device, kind, &body),
            }
        }
        let _ = device.shutdown(Shutdown::Both);
    });
    address
}

/// What goes to the SE and what comes from it, by name, from the trace of a session: a chain is one.
fn pieces(trace: &str) -> Vec<String> {
    let piece = |line: &str| {
        let line = line.get(12..)?;
        if let Some(command) = line.strip_prefix("SE     > ") {
            let is_piece = !command.ends_with("goes on") && !command.starts_with("GET RESPONSE");
            return is_piece.then(|| format!("> {}", command.split(',').next().unwrap_or_default()));
        }
        let sent = line.strip_prefix("server < record of ")?;
        let name = sent.split_once(": ").map(|(_, message)| message);
        Some(format!(
            "< {}",
            name.or(sent.split(',').next()).unwrap_or_default()
        ))
    };
    trace.lines().filter_map(piece).collect()
}

/// The table of section 7: what goes where in TLS 1.2.
fn page() -> Vec<String> {
    let page = std::fs::read_to_string(repository("docs/spec/tls-apdu.md")).unwrap();
    let section = page.split("## 7 ").nth(1).unwrap().split("## 8 ").next().unwrap();
    let rows = section.lines().filter_map(|line| {
        let cell = line.trim_end_matches(['|', ' ']).rsplit('|').next()?.trim();
        let (way, ins) = cell.strip_prefix('`')?.split_once("` ")?;
        let name = match u8::from_str_radix(ins, 16).unwrap() {
            0x20 => "application_data",
            0x21 => "handshake",
            0x22 => "change_cipher_spec",
            0x28 => "OPEN",
            message => handshake_name(message),
        };
        Some(format!("{way} {name}"))
    });
    rows.collect()
}

/// What goes where in TLS 1.3, where all behind ServerHello is of one kind: the server's Finished is before the SE's (RFC 8446, 2).
const TLS13: [&str; 9] = [
    "> OPEN",
    "< ClientHello",
    "> ServerHello",
    "< change_cipher_spec",
    "> change_cipher_spec",
    "> application_data",
    "< application_data",
    "> application_data",
    "< application_data",
];

/// What is the same again is once; with records cut to pieces the server's messages in the clear are all pieces of type handshake.
fn folded(pieces: &[String], way: Way, version: Version) -> Vec<String> {
    let cut = [
        "ServerHello",
        "Certificate",
        "ServerKeyExchange",
        "CertificateRequest",
        "ServerHelloDone",
    ];
    let mut folded: Vec<String> = pieces.to_vec();
    if way == Way::Cut {
        for piece in &mut folded {
            if cut.iter().any(|name| piece.strip_prefix("> ") == Some(name)) {
                "> handshake".clone_into(piece);
            }
        }
    }
    if way == Way::Cut || version == Version::Tls13 {
        folded.dedup();
    }
    folded
}

/// One session: its trace.
fn trace_of(pki: &Pki, version: Version, server: &str, way: Way) -> String {
    let versions: &'static [Version] = match version {
        Version::Tls12 => &[Version::Tls12],
        Version::Tls13 => &[Version::Tls13],
    };
    let element = Socket::new(
        pki,
        Kind {
            versions,
            ..Kind::BOTH
        },
    );
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let address = way_to(server.to_owned(), way);
    let output = tls(&[
        &address,
        "--card",
        &element.card,
        "--idle",
        "1",
        "--trace",
        trace.to_str().unwrap(),
    ]);
    let trace = std::fs::read_to_string(trace).unwrap();
    let said = text(&output.stderr) + &text(&output.stdout);
    assert!(said.contains("answered"), "{way:?}: {said}\n{trace}");
    trace
}

/// Holds a trace to the figures, as far as the server goes.
fn check(trace: &str, way: Way, version: Version, has_command: bool) {
    let mut expected = match version {
        Version::Tls12 => page(),
        Version::Tls13 => TLS13.map(str::to_owned).to_vec(),
    };
    if !has_command {
        expected.truncate(expected.len() - 2);
    }
    let (expected, seen) = (
        folded(&expected, way, version),
        folded(&pieces(trace), way, version),
    );
    assert_eq!(
        seen.get(..expected.len()),
        Some(&expected[..]),
        "{way:?} {version:?}\n{trace}"
    );
    let of_server = trace
        .split("server > record of change_cipher_spec")
        .next()
        .unwrap();
    let records = of_server.matches("server > record of handshake").count();
    match (way, version) {
        (Way::AsTheyAre, _) => {}
        (Way::Together, _) => assert_eq!(records, 1, "{trace}"),
        (Way::Cut, Version::Tls12) => assert!(records > 50, "{records}: {trace}"),
        (Way::Cut, Version::Tls13) => assert!(records > 10, "{records}: {trace}"),
    }
}

/// All versions and ways, at the same time.
fn every(session: impl Fn(Version, Way) + Sync) {
    thread::scope(|scope| {
        for version in [Version::Tls12, Version::Tls13] {
            for way in [Way::AsTheyAre, Way::Together, Way::Cut] {
                let session = &session;
                scope.spawn(move || session(version, way));
            }
        }
    });
}

#[test]
fn figures_12_and_13_with_openssl() {
    let pki = Pki::new();
    every(|version, way| {
        let mut server = OpenSsl::new(&pki, version, &["-num_tickets", "0"]);
        server.stdin.write_all(&[0x00, 0xB0, 0x81, 0x00, 0x04]).unwrap();
        let trace = trace_of(&pki, version, &format!("127.0.0.1:{}", server.port), way);
        check(&trace, way, version, true);
    });
}

#[test]
fn figures_12_and_13_with_rustls() {
    let pki = Pki::new();
    every(|version, way| {
        let server = Server::start(&pki, "> 00B0810004\n< ...9000\n", &["--once"]);
        let trace = trace_of(&pki, version, &server.address, way);
        check(&trace, way, version, true);
        assert_eq!(server.ended().0, Some(0));
    });
}

/// It gives no commands: figure 12.
#[test]
fn figure_12_with_gnutls() {
    let pki = Pki::new();
    if Command::new("gnutls-serv").arg("--version").output().is_err() {
        assert!(
            std::env::var_os("SEKISHO_INTEROP").is_none(),
            "gnutls-serv (gnutls-bin) is not there"
        );
        return;
    }
    let (_folder, [certificate, key, authority]) = files(&pki);
    every(|version, way| {
        let priority = match version {
            Version::Tls12 => "NORMAL:-VERS-ALL:+VERS-TLS1.2",
            Version::Tls13 => "NORMAL:-VERS-ALL:+VERS-TLS1.3",
        };
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut command = Command::new("gnutls-serv");
        command
            .args([
                "--echo",
                "--require-client-cert",
                "--verify-client-cert",
                "--priority",
                priority,
            ])
            .args(["--port", &port.to_string(), "--x509certfile", &certificate])
            .args(["--x509keyfile", &key, "--x509cafile", &authority])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let _server = Guarded(command.spawn().unwrap());
        let trace = trace_of(&pki, version, &format!("127.0.0.1:{port}"), way);
        check(&trace, way, version, false);
    });
}
