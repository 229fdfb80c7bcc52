//! The SE's end and the device's against servers that are not ours: OpenSSL's `s_server` and rustls, which both want the SE's certificate.

use crate::ends::{self, Element, Line, NOW, Pki, carry, key, version_name};
use crate::openssl::{OpenSsl, connect, files};
use sekisho_bridge::Ended;
use sekisho_tls::{Peer, Proof, Version};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// SELECT, READ BINARY and an instruction that no application has.
pub(crate) const COMMANDS: [&[u8]; 3] = [
    &[0, 0xA4, 4, 0, 2, 0xA0, 1],
    &[0, 0xB0, 0, 0, 0],
    &[0, 0x10, 0, 0],
];
pub(crate) const ANSWERS: [usize; 3] = [2, 66, 2];

/// What a session ran, and how it ended; and what it took.
fn with_openssl(version: Version, line: Line, more: &[&str]) -> (Vec<String>, (usize, usize, usize)) {
    let pki = Pki::new();
    let exporter = [
        "-keymatexport",
        "EXPORTER-Channel-Binding",
        "-keymatexportlen",
        "32",
    ];
    let mut server = OpenSsl::new(&pki, version, &[&exporter, more].concat());
    let key = key(&pki);
    let peer = Peer {
        name: "localhost",
        pin: None,
        anchors: &[&pki.authority.certificate],
        chain: &[&pki.element.certificate],
        key: &key,
        time: NOW,
        versions: &[Version::Tls12, Version::Tls13],
    };
    let mut element = Element::new(peer, 1);
    let (mut asked, mut updated) = (0, false);
    let mut stream = connect(server.port);
    let ended = carry(&mut element, &mut stream, line, |element| {
        if !element.se.endpoint.is_open() || element.ran.len() < asked {
            return true;
        }
        // s_server's own command: a KeyUpdate that asks for one.
        if version == Version::Tls13 && asked == 1 && !core::mem::replace(&mut updated, true) {
            server.stdin.write_all(b"K\n").unwrap();
            server.stdin.flush().unwrap();
            return true;
        }
        let Some(command) = COMMANDS.get(asked) else {
            return false;
        };
        server.stdin.write_all(command).unwrap();
        server.stdin.flush().unwrap();
        asked += 1;
        true
    });
    assert_eq!(ended, Ended::BySe);
    drop(stream);
    let _ = server.child.wait();
    assert_eq!(element.ran, COMMANDS);
    // Between the answers stands what s_server says itself.
    let said = server.said.take().unwrap().join().unwrap();
    let mut rest = &said[..];
    for answer in [
        &[0x90, 0][..],
        &[&[0x5A; 64][..], &[0x90, 0]].concat(),
        &[0x6D, 0],
    ] {
        let at = rest.windows(answer.len()).position(|bytes| bytes == answer);
        rest = &rest[at.unwrap() + answer.len()..];
    }
    is_proof(&element.se.proof.take().unwrap(), &pki, version, &said);
    println!(
        "{} {line:?}: {:?} (APDUs, bytes to the SE, from it), the handshake {:?}",
        version_name(version),
        element.count,
        element.handshake.unwrap()
    );
    (element.trace, element.handshake.unwrap())
}

/// The certificate is the server's; the exporter value is what `s_server` says too (RFC 9266).
fn is_proof(proof: &Proof, pki: &Pki, version: Version, said: &[u8]) {
    assert_eq!(
        proof.certificate,
        sekisho_keys::sha256(&[&pki.server.certificate])
    );
    assert_eq!(proof.exporter.is_some(), version == Version::Tls13);
    if let Some(value) = proof.exporter {
        let value: String = value.iter().map(|byte| format!("{byte:02X}")).collect();
        let line = format!("Keying material: {value}\n");
        assert!(String::from_utf8_lossy(said).contains(&line), "{line}");
    }
}

/// Figures 12 and 13, message by message, in the order of RFC 5246.
#[test]
fn openssl_tls_1_2_in_the_order_of_the_page() {
    let (trace, (apdus, ..)) = with_openssl(Version::Tls12, Line::AsTheyAre, &[]);
    let page = include_str!("../../../../../docs/spec/tls-apdu.md");
    let section = page.split("## 7 ").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut expected = Vec::new();
    for line in section.lines().filter(|line| line.starts_with('|')) {
        let cell = line.trim_end_matches('|').rsplit('|').next().unwrap().trim();
        if let Some((way, ins)) = cell.strip_prefix('`').and_then(|cell| cell.split_once("` ")) {
            expected.push(format!(
                "{way} {}",
                ends::name_of(u8::from_str_radix(ins, 16).unwrap())
            ));
        }
    }
    assert_eq!(trace[..expected.len()], expected);
    assert_eq!(
        trace[expected.len()..],
        [
            "> application data",
            "< application data",
            "> application data",
            "< application data",
            "> CLOSE",
            "< alert"
        ]
    );
    assert!(apdus <= 16);
}

#[test]
fn openssl_tls_1_3() {
    let (trace, (apdus, ..)) = with_openssl(Version::Tls13, Line::AsTheyAre, &[]);
    assert!(apdus <= 13);
    assert_eq!(
        trace[..4],
        ["> OPEN", "< ClientHello", "> ServerHello", "< change_cipher_spec"]
    );
}

#[test]
fn openssl_with_records_cut_merged_and_small() {
    for version in [Version::Tls12, Version::Tls13] {
        for line in [Line::Cut, Line::Merged] {
            let (trace, _) = with_openssl(version, line, &[]);
            if (version, line) == (Version::Tls12, Line::Cut) {
                assert!(trace.iter().filter(|said| *said == "> handshake, opaque").count() > 100);
            }
        }
        with_openssl(version, Line::AsTheyAre, &["-max_send_frag", "512"]);
    }
}

/// rustls sends its flight of TLS 1.2 in one record.
#[test]
fn rustls_in_both_versions() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for line in [Line::AsTheyAre, Line::Cut, Line::Merged] {
            let pki = Pki::new();
            let mut roots = rustls::RootCertStore::empty();
            roots.add(pki.authority.certificate.clone().into()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                Arc::clone(&provider),
            )
            .build()
            .unwrap();
            let key = rustls::pki_types::PrivatePkcs8KeyDer::from(pki.server.key.serialize_der());
            let config = rustls::ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[version])
                .unwrap()
                .with_client_cert_verifier(verifier)
                .with_single_cert(vec![pki.server.certificate.clone().into()], key.into())
                .unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = std::thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                let connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
                let mut tls = rustls::StreamOwned::new(connection, stream);
                for (number, (command, answer)) in COMMANDS.iter().zip(ANSWERS).enumerate() {
                    if number == 1 && tls.conn.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3) {
                        tls.conn.refresh_traffic_keys().unwrap();
                    }
                    tls.write_all(command).unwrap();
                    tls.flush().unwrap();
                    let mut bytes = vec![0; answer];
                    tls.read_exact(&mut bytes).unwrap();
                }
                tls.conn.send_close_notify();
                tls.flush().unwrap();
                assert_eq!(tls.read(&mut [0]).unwrap_or(0), 0);
                tls.conn.peer_certificates().unwrap()[0].to_vec()
            });
            let element_key = ends::key(&pki);
            let peer = Peer {
                name: "localhost",
                pin: None,
                anchors: &[&pki.authority.certificate],
                chain: &[&pki.element.certificate],
                key: &element_key,
                time: NOW,
                versions: &[Version::Tls13, Version::Tls12],
            };
            let mut element = Element::new(peer, 2);
            let ended = carry(&mut element, &mut connect(port), line, |_| true);
            assert_eq!(ended, Ended::BySe);
            assert_eq!(element.ran, COMMANDS);
            assert_eq!(server.join().unwrap(), pki.element.certificate);
            println!("rustls {:?} {line:?}: {:?}", version.version, element.count);
        }
    }
}

/// GnuTLS says nothing by itself: a handshake in which it verifies the SE's certificate, what it then has to say (its Finished, or tickets), and goodbye.
#[test]
fn gnutls_in_both_versions() {
    for (version, priority) in [
        (Version::Tls12, "NORMAL:-VERS-ALL:+VERS-TLS1.2"),
        (Version::Tls13, "NORMAL:-VERS-ALL:+VERS-TLS1.3"),
    ] {
        let pki = Pki::new();
        let (_folder, [certificate, server_key, authority]) = files(&pki);
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let started = Command::new("gnutls-serv")
            .args([
                "--echo",
                "--require-client-cert",
                "--verify-client-cert",
                "--priority",
                priority,
                "--port",
                &port.to_string(),
            ])
            .args(["--x509certfile", &certificate, "--x509keyfile", &server_key])
            .args(["--x509cafile", &authority])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = started else {
            assert!(
                std::env::var_os("SEKISHO_INTEROP").is_none(),
                "gnutls-serv (gnutls-bin) is not there"
            );
            return;
        };
        let stream = (0..1_000_000).find_map(|_| TcpStream::connect(("127.0.0.1", port)).ok());
        let key = key(&pki);
        let peer = Peer {
            name: "localhost",
            pin: None,
            anchors: &[&pki.authority.certificate],
            chain: &[&pki.element.certificate],
            key: &key,
            time: NOW,
            versions: &[version],
        };
        let mut element = Element::new(peer, 4);
        let mut stream = stream.unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut tickets = usize::from(version == Version::Tls13);
        let ended = carry(&mut element, &mut stream, Line::AsTheyAre, |element| {
            !element.se.endpoint.is_open() || core::mem::take(&mut tickets) > 0
        });
        let _ = child.kill();
        let _ = child.wait();
        assert_eq!(ended, Ended::BySe);
        let last = ["> CLOSE", "< alert"];
        let last = if version == Version::Tls12 {
            last
        } else {
            ["> CLOSE", "< application data"]
        };
        assert_eq!(element.trace[element.trace.len() - 2..], last);
        println!("GnuTLS {}: {:?}", version_name(version), element.count);
    }
}
