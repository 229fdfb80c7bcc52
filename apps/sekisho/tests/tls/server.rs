//! `sekisho tls-server` and clients that play an SE.

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::pki::Pki;
use crate::{SEKISHO, Server, command, events, objects, outcomes, text};

type Element = StreamOwned<ClientConnection, TcpStream>;

/// A client with the SE's certificate, or without one.
fn connect(server: &Server, pki: &Pki, is_certified: bool) -> Element {
    let mut roots = RootCertStore::empty();
    roots.add(pki.authority.certificate.clone().into()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = if is_certified {
        let key = PrivatePkcs8KeyDer::from(pki.element.key.serialize_der());
        let chain = vec![pki.element.certificate.clone().into()];
        builder.with_client_auth_cert(chain, key.into()).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

/// Reads one command; nothing when the session is over.
fn hear(element: &mut Element) -> Vec<u8> {
    let mut bytes = [0; 2048];
    let len = element.read(&mut bytes).unwrap_or(0);
    bytes[..len].to_vec()
}

fn say(element: &mut Element, answer: &[u8]) {
    element.write_all(answer).unwrap();
    element.flush().unwrap();
}

const SCRIPT: &str = "select F0534B4F530401\n> 00B0810004 # the sensor\n< ????????9000\n> 00B0810004\n";
const SELECT: [u8; 13] = [0, 0xA4, 4, 0, 7, 0xF0, 0x53, 0x4B, 0x4F, 0x53, 4, 1, 0];
const READ: [u8; 5] = [0, 0xB0, 0x81, 0, 4];

/// Answers the script as it wants it, and says goodbye.
fn obey(mut element: Element) {
    assert_eq!(hear(&mut element), SELECT);
    say(&mut element, &[0x6F, 0, 0x90, 0]);
    for _ in 0..2 {
        assert_eq!(hear(&mut element), READ);
        say(&mut element, &[0, 0, 1, 0x15, 0x90, 0]);
    }
    assert_eq!(hear(&mut element), [0; 0]);
    element.conn.send_close_notify();
    let _ = element.flush();
}

#[test]
fn a_script_is_run_and_the_server_ends_by_itself() {
    let pki = Pki::new();
    let server = Server::start(&pki, SCRIPT, &["--once", "--json"]);
    obey(connect(&server, &pki, true));
    let (code, said, _) = server.ended();
    let sessions = objects(&said);
    assert_eq!((code, sessions.len()), (Some(0), 1), "{said}");
    let session = &sessions[0];
    assert_eq!(session["names"][0], "element.example");
    assert_eq!(session["protocol"], "TLS 1.3");
    assert_eq!(outcomes(session), ["done"; 3]);
    assert_eq!(session["commands"][1]["sent"], "00B0810004");
    assert_eq!(session["commands"][1]["received"], "000001159000");
    assert_eq!(session["commands"][1]["sw"], "9000");
    assert_eq!(
        (&session["as_expected"], session["error"].is_null()),
        (&true.into(), true)
    );
    // What went before it, as it went.
    let events = events(&said);
    let words: Vec<_> = events
        .iter()
        .map(|event| (event["event"].as_str().unwrap(), event["session"].as_u64()))
        .collect();
    assert_eq!(
        words,
        ["begin", "answer", "answer", "answer", "end"].map(|word| (word, Some(1)))
    );
    assert_eq!(events[0]["names"], session["names"]);
    assert_eq!(
        (&events[2]["command"], &events[2]["received"]),
        (&2.into(), &session["commands"][1]["received"])
    );
}

/// Who looks on sees a session when it begins, not when it is over.
#[test]
fn a_session_is_seen_while_it_goes_on() {
    let pki = Pki::new();
    let mut server = Server::start(&pki, SCRIPT, &["--once"]);
    let mut element = connect(&server, &pki, true);
    assert_eq!(hear(&mut element), SELECT);
    let mut line = String::new();
    server.stderr.as_mut().unwrap().read_line(&mut line).unwrap();
    assert!(
        line.starts_with("session 1 begins: element.example, TLS 1.3 from 127.0.0.1:"),
        "{line}"
    );
    drop(element);
    assert_eq!(server.ended().0, Some(3));
}

#[test]
fn what_is_done_not_sent_and_unknown_and_the_exit_code_says_so() {
    let pki = Pki::new();
    for is_json in [true, false] {
        let more: &[&str] = if is_json {
            &["--once", "--json"]
        } else {
            &["--once"]
        };
        let server = Server::start(&pki, SCRIPT, more);
        let mut element = connect(&server, &pki, true);
        hear(&mut element);
        say(&mut element, &[0x90, 0]);
        assert_eq!(hear(&mut element), READ);
        drop(element);
        let (code, said, errors) = server.ended();
        assert_eq!(code, Some(3), "{said}{errors}");
        assert!(errors.contains("not known"), "{errors}");
        if is_json {
            let session = &objects(&said)[0];
            assert_eq!(outcomes(session), ["done", "unknown", "not sent"]);
            // The SE did not say that it ended it.
            assert_eq!(session["why"], "cut off", "{session}");
        } else {
            let words: Vec<_> = said
                .lines()
                .map(|line| line.trim().split("  ").next().unwrap())
                .collect();
            assert_eq!(
                words,
                ["session 1", "command", "answer", "unknown", "not sent", "ended"],
                "{said}"
            );
            assert!(said.contains("READ BINARY of file 1 from 0"), "{said}");
            assert!(said.contains("the connection was cut off"), "{said}");
        }
    }
}

#[test]
fn an_answer_that_is_not_as_it_should_be_ends_the_script() {
    let pki = Pki::new();
    let server = Server::start(&pki, SCRIPT, &["--once", "--json"]);
    let mut element = connect(&server, &pki, true);
    hear(&mut element);
    say(&mut element, &[0x6A, 0x82]);
    assert_eq!(hear(&mut element), [0; 0]);
    drop(element);
    let (code, said, errors) = server.ended();
    assert_eq!(code, Some(1), "{errors}");
    let session = &objects(&said)[0];
    assert_eq!(outcomes(session), ["done", "not sent", "not sent"]);
    assert_eq!(session["why"], "answer");
    let why = session["error"].as_str().unwrap();
    assert!(why.starts_with("line 1: ") && why.contains("6A82"), "{why}");
}

/// Sessions count, connections that prove nobody do not; one that is slow keeps no other waiting.
#[test]
fn so_many_sessions_are_served_and_only_those_of_secure_elements_count() {
    let pki = Pki::new();
    let server = Server::start(&pki, SCRIPT, &["--count", "2", "--json"]);
    let _silent = TcpStream::connect(&server.address).unwrap();
    let mut nobody = connect(&server, &pki, false);
    assert_eq!(hear(&mut nobody), [0; 0]);
    let mut first = connect(&server, &pki, true);
    assert_eq!(hear(&mut first), SELECT);
    // A second session comes and goes while the first one waits.
    obey(connect(&server, &pki, true));
    // A third is one too many: it is told goodbye, and gets no command.
    assert_eq!(hear(&mut connect(&server, &pki, true)), [0; 0]);
    say(&mut first, &[0x90, 0]);
    for _ in 0..2 {
        assert_eq!(hear(&mut first), READ);
        say(&mut first, &[0, 0, 1, 0x15, 0x90, 0]);
    }
    assert_eq!(hear(&mut first), [0; 0]);
    drop(first);
    let (code, said, errors) = server.ended();
    assert_eq!((code, objects(&said).len()), (Some(0), 2), "{said}{errors}");
    assert!(errors.contains("no session with"), "{errors}");
}

/// Whoever connects and proves nothing decides how often, and not how many lines are written.
#[test]
fn a_flood_of_bad_connections_is_counted_and_not_written_down() {
    let pki = Pki::new();
    let server = Server::start(&pki, SCRIPT, &["--once", "--json"]);
    let bad = 200;
    for _ in 0..bad {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(hear(&mut connect(&server, &pki, false)), [0; 0]);
    obey(connect(&server, &pki, true));
    let (code, _, errors) = server.ended();
    assert_eq!(code, Some(0), "{errors}");
    let lines: Vec<_> = errors
        .lines()
        .filter(|line| line.contains("no session"))
        .collect();
    let begins = ["no session with 127.0.0.1:", "no session with 127.0.0.1:"];
    let summary = format!("no session with {} more: what came is no TLS", bad - 1);
    assert!(
        lines.len() == 3
            && lines
                .iter()
                .zip(begins)
                .all(|(line, begin)| line.starts_with(begin))
            && lines.iter().any(|line| line.starts_with(&summary)),
        "{lines:#?}"
    );
}

#[test]
fn a_server_that_is_stopped_says_what_it_knows() {
    let pki = Pki::new();
    for (more, is_asked, expected) in [
        (&["--json"][..], true, Some(0)),
        (&["--json", "--once"], true, Some(3)),
        (&["--json", "--once"], false, Some(1)),
    ] {
        let server = Server::start(&pki, SCRIPT, more);
        let mut element = connect(&server, &pki, true);
        if is_asked {
            assert_eq!(hear(&mut element), SELECT);
        }
        server.stop();
        let (code, said, errors) = server.ended();
        assert_eq!(code, expected, "{said}{errors}");
        let sessions = objects(&said);
        assert_eq!(sessions.len(), usize::from(is_asked));
        if is_asked {
            assert_eq!(outcomes(&sessions[0]), ["unknown", "not sent", "not sent"]);
        }
    }
}

#[test]
fn what_cannot_be_served_is_refused_before_it_listens() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("long");
    std::fs::write(&long, format!("> 00D6000021{}\n", "00".repeat(33))).unwrap();
    for (more, why) in [
        (&["--once"][..], "--script"),
        (&["--once", "00B0"], "not a command"),
        (&["--once", "--script", "missing"], "missing"),
        (
            &["--once", "--record", "32", "--script", long.to_str().unwrap()],
            "does not fit a record of 32",
        ),
        (&["--once", "--count", "2", "00B0000004"], "cannot be used with"),
    ] {
        let output = command(&pki, folder.path()).args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(
            text(&output.stderr).contains(why),
            "{more:?}: {}",
            text(&output.stderr)
        );
    }
    // Certificates that are none.
    let arguments = [
        "tls-server",
        "--certificate",
        "/dev/null",
        "--key",
        "/dev/null",
        "--client-ca",
        "/dev/null",
        "00B0000004",
    ];
    let output = Command::new(SEKISHO).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

/// Who has the key of one SE says what it wants: what is no request of this SE is not written down.
#[test]
fn what_is_no_request_of_the_se_is_not_shown_to_an_authority() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().unwrap());
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let of_an_authority = params.serialize_request(&key).unwrap().der().to_vec();
    for (request, why) in [
        (&of_an_authority[..], "its subject is not the secure element's"),
        (b"hello world", "it is no PKCS #10 in DER"),
        (b"", "it is no PKCS #10 in DER"),
    ] {
        let more = ["--once", "--json", "--renew", folder.path().to_str().unwrap()];
        let server = Server::serve(&pki, &more);
        let mut element = connect(&server, &pki, true);
        hear(&mut element);
        say(&mut element, &[0x90, 0]);
        assert_eq!(hear(&mut element), [0, 0x47, 0x81, 0, 0, 0, 0]);
        say(&mut element, &[request, &[0x90, 0]].concat());
        assert_eq!(hear(&mut element), [0; 0]);
        // The server waits for the end of the connection else.
        drop(element);
        let (code, said, _) = server.ended();
        assert_eq!(code, Some(1), "{said}");
        let end = objects(&said).pop().unwrap();
        assert!(end["renewed"].is_null() && said.contains(why), "{said}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

/// What the authority has revoked since the server began is read before the next connection; a file that is no list, or is empty, leaves the lists as they are.
#[test]
fn lists_of_what_is_revoked_are_read_again_when_they_change() {
    let pki = Pki::with_element(|params| params.serial_number = Some(5.into()));
    let folder = tempfile::tempdir().unwrap();
    let lists = folder.path().join("lists.pem");
    std::fs::write(&lists, pki.revoking(4)).unwrap();
    let more = ["--count", "3", "--revoked", lists.to_str().unwrap()];
    let server = Server::start(&pki, SCRIPT, &more);
    obey(connect(&server, &pki, true));
    std::fs::write(&lists, "no list").unwrap();
    obey(connect(&server, &pki, true));
    let next = folder.path().join("next");
    std::fs::write(&next, pki.revoking(5)).unwrap();
    std::fs::rename(&next, &lists).unwrap();
    assert_eq!(hear(&mut connect(&server, &pki, true)), [0; 0]);
    std::fs::write(&lists, "").unwrap();
    assert_eq!(hear(&mut connect(&server, &pki, true)), [0; 0]);
    server.stop();
    let (code, _, said) = server.ended();
    assert_eq!(code, Some(1));
    for words in [
        "revoked are as before: ",
        "revoked were read again",
        "no session with 127.0.0.1",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// A session that is open when its SE is revoked gets no further command.
#[test]
fn an_open_session_of_an_se_that_is_revoked_ends() {
    let pki = Pki::with_element(|params| params.serial_number = Some(5.into()));
    let folder = tempfile::tempdir().unwrap();
    let lists = folder.path().join("lists.pem");
    std::fs::write(&lists, pki.revoking(4)).unwrap();
    let more = ["--once", "--json", "--revoked", lists.to_str().unwrap()];
    let server = Server::start(&pki, SCRIPT, &more);
    let mut element = connect(&server, &pki, true);
    assert_eq!(hear(&mut element), SELECT);
    let next = folder.path().join("next");
    std::fs::write(&next, pki.revoking(5)).unwrap();
    std::fs::rename(&next, &lists).unwrap();
    say(&mut element, &[0x6F, 0, 0x90, 0]);
    assert_eq!(hear(&mut element), [0; 0]);
    element.conn.send_close_notify();
    let _ = element.flush();
    let (code, said, errors) = server.ended();
    let session = &objects(&said)[0];
    assert_eq!(
        (code, &session["why"]),
        (Some(1), &"revoked".into()),
        "{said}{errors}"
    );
    assert_eq!(outcomes(session), ["done", "not sent", "not sent"]);
}
