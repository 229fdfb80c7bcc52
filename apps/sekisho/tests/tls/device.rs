//! `sekisho tls` between an SE on a socket and servers: ours, OpenSSL's, and those that are none.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use sekisho_tls::Version;

use crate::element::{Kind, SENSOR, Socket};
use crate::openssl::OpenSsl;
use crate::pki::Pki;
use crate::{Server, objects, outcomes, text, tls};

const SCRIPT: &str = "select F0534B4F530401\n> 00B0810004\n< 000001159000\n> 0084000008\n< 6D00\n";

#[test]
fn a_script_of_our_server_reaches_the_application_in_the_se() {
    let pki = Pki::new();
    for (versions, name) in [(&[Version::Tls12][..], "TLS 1.2"), (&[Version::Tls13], "TLS 1.3")] {
        let server = Server::start(&pki, SCRIPT, &["--once", "--json"]);
        let element = Socket::new(
            &pki,
            Kind {
                versions,
                ..Kind::BOTH
            },
        );
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("trace");
        let output = tls(&[
            &server.address,
            "--card",
            &element.card,
            "--json",
            "--trace",
            trace.to_str().unwrap(),
        ]);
        let (code, said, errors) = server.ended();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert_eq!(code, Some(0), "{said}{errors}");
        let session = &objects(&said)[0];
        assert_eq!(session["protocol"], name);
        assert_eq!(outcomes(session), ["done"; 3]);
        assert_eq!(
            session["commands"][1]["received"],
            hex::encode_upper([&SENSOR[..], &[0x90, 0]].concat())
        );
        let carried = &objects(&text(&output.stdout))[0];
        assert_eq!(
            (&carried["ended"], &carried["answered"]),
            (&"by_se".into(), &3.into()),
            "{carried}"
        );
        let trace = std::fs::read_to_string(trace).unwrap();
        println!("{trace}");
        named(&trace, name == "TLS 1.3");
    }
}

/// The trace names what goes where, in the order of figures 12 and 13.
fn named(trace: &str, is_tls13: bool) {
    let mut lines = trace.lines();
    let common = [
        "SE     > OPEN, peer 1, with the time",
        "server < record of handshake, ",
        "server > record of handshake, ",
        "SE     > ServerHello, ",
    ];
    let behind: &[&str] = if is_tls13 {
        &[
            "SE     > application_data, ",
            "SE     > GET RESPONSE",
            "server < record of application_data, ",
        ]
    } else {
        &[
            "SE     > Certificate, ",
            "SE     > ServerKeyExchange, ",
            "SE     > CertificateRequest, ",
            "SE     > ServerHelloDone, 0 bytes",
            "SE     > GET RESPONSE",
            ": Certificate",
            ": ClientKeyExchange",
            ": CertificateVerify",
            "server < record of change_cipher_spec, 1 bytes",
            "server < record of handshake, 40 bytes",
            "SE     > change_cipher_spec, 1 bytes",
            "SE     > handshake, a part of it or encrypted, 40 bytes",
            "SE     > application_data, ",
            "server < record of application_data, ",
        ]
    };
    for expected in common.iter().chain(behind) {
        assert!(
            lines.any(|line| line.contains(expected)),
            "{expected} is not there, or not in its place:\n{trace}"
        );
    }
    assert!(trace.contains(": ClientHello"), "{trace}");
    assert!(trace.contains("goes on"), "a chain: {trace}");
    assert!(
        trace.lines().last().unwrap().contains("server < record of"),
        "{trace}"
    );
}

#[test]
fn a_plain_openssl_server_gives_a_command() {
    let pki = Pki::new();
    let session = |version: Version| {
        let mut server = OpenSsl::new(&pki, version, &[]);
        let address = format!("127.0.0.1:{}", server.port);
        let element = Socket::new(&pki, Kind::BOTH);
        let output = thread::scope(|scope| {
            scope.spawn(|| {
                // Not before the handshake.
                thread::sleep(Duration::from_millis(500));
                server.stdin.write_all(&[0x00, 0xB0, 0x81, 0x00, 0x04]).unwrap();
                server.stdin.flush().unwrap();
            });
            tls(&[&address, "--card", &element.card, "--idle", "2"])
        });
        let said = text(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{version:?}: {}",
            text(&output.stderr)
        );
        assert!(
            said.contains("1 commands answered") && said.contains("silent"),
            "{said}"
        );
        assert_eq!(element.seen().last(), Some(&(0x2A, 0)), "the device ends it");
    };
    thread::scope(|scope| {
        scope.spawn(|| session(Version::Tls12));
        session(Version::Tls13);
    });
}

/// A session that does not come about says why, and the exit code is 1.
#[test]
fn what_becomes_no_session() {
    let pki = Pki::new();
    let element = Socket::new(&pki, Kind::BOTH);
    let failed = |arguments: &[&str], why: &str| {
        let output = tls(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(why), "{arguments:?}: {said}");
    };
    failed(
        &["127.0.0.1:1", "--card", &element.card],
        "cannot reach the server at 127.0.0.1:1",
    );
    failed(
        &["127.0.0.1:1", "--card", "tcp:127.0.0.1:1"],
        "cannot reach the secure element",
    );
    // A row that the SE does not have.
    let server = Server::start(&pki, SCRIPT, &["--once"]);
    failed(
        &[&server.address, "--card", &element.card, "--peer", "2"],
        "no peer in this row",
    );
    // A server whose authority the SE does not know.
    let others = Server::start(&Pki::new(), SCRIPT, &["--once"]);
    failed(
        &[&others.address, "--card", &element.card],
        "one of the two has not proved",
    );
    // One that speaks no TLS.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let talk = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    failed(&[&address, "--card", &element.card], "unexpected_message");
    talk.join().unwrap();
    for arguments in [
        &[][..],
        &["nowhere"],
        &["127.0.0.1:0"],
        &["127.0.0.1:1", "--peer", "0"],
    ] {
        assert_eq!(tls(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

/// A server that is silent, one that says a byte now and then, one that says much, one that goes: the SE is told, and the session is over in time.
#[test]
fn a_session_is_bounded() {
    let pki = Pki::new();
    for (what, more, why, told) in [
        ("silent", &["--idle", "1"][..], "the server was silent", 0),
        (
            "slow",
            &["--idle", "5", "--duration", "1"],
            "the session was as long as it may be",
            0,
        ),
        ("much", &["--most", "5000"], "more bytes", 0),
        ("gone", &[], "closed the connection", 1),
    ] {
        let element = Socket::new(&pki, Kind::BOTH);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            match what {
                // A record that is announced, and comes a byte at a time.
                "slow" => {
                    for byte in [&[22, 3, 3, 0, 255][..], &[2; 255]].concat() {
                        if stream.write_all(&[byte]).is_err() {
                            return;
                        }
                        thread::sleep(Duration::from_millis(200));
                    }
                }
                // The beginning of a record that does not end before there is too much of it.
                "much" => {
                    for _ in 0..2 {
                        let _ = stream.write_all(&[&[22, 3, 3, 0x40, 0][..], &[0; 0x4000]].concat());
                    }
                }
                // What has come is read first: the close would be a reset else.
                "gone" => {
                    let _ = stream.read(&mut [0; 1024]);
                    return;
                }
                _ => {}
            }
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let started = std::time::Instant::now();
        let output = tls(&[&[&address[..], "--card", &element.card], more].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(said.contains(why), "{what}: {said}");
        assert!(started.elapsed() < Duration::from_secs(8), "{what}");
        server.join().unwrap();
        assert_eq!(
            element.seen().last(),
            Some(&(0x2A, told)),
            "{what}: the SE was not told"
        );
    }
}

/// The way to the SE fails behind a command: the outcome is unknown, the connection is closed, and nothing is sent again.
#[test]
fn where_the_outcome_is_unknown_the_session_is_over() {
    let pki = Pki::new();
    let server = Server::start(&pki, SCRIPT, &["--once", "--json"]);
    let kind = Kind {
        // There every record of application data is a command.
        versions: &[Version::Tls12],
        silent_at: Some(2),
    };
    let element = Socket::new(&pki, kind);
    let output = tls(&[&server.address, "--card", &element.card, "--timeout", "1"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let (code, said, _) = server.ended();
    assert_eq!(code, Some(3));
    assert_eq!(outcomes(&objects(&said)[0]), ["done", "unknown", "not sent"]);
    // It answers again soon, and is asked nothing more: neither the same command, nor another.
    thread::sleep(Duration::from_secs(1));
    let commands = element.seen();
    let asked = commands.iter().filter(|(ins, _)| *ins == 0x20).count();
    assert_eq!((asked, commands.last()), (2, Some(&(0x20, 0))), "{commands:?}");
    // The same SE serves the next session.
    let server = Server::start(&pki, SCRIPT, &["--once"]);
    let output = tls(&[&server.address, "--card", &element.card]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(server.ended().0, Some(0));
}
