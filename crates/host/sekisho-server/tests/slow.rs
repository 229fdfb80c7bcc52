//! What a connection can make the server hold: nothing of a body before the token is right, no head for longer than a request may take.

use crate::support;
use sekisho_hsm::SoftHsm;
use sekisho_link::SeId;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::Fixture;

const SE: SeId = SeId([0x11; 10]);

/// A TLS connection to the device endpoint.
fn device(f: &Fixture) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    let pem = f.server.certificate.as_bytes();
    for certificate in rustls::pki_types::CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "127.0.0.1".try_into().unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(f.server.device_address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    rustls::StreamOwned::new(connection, socket)
}

fn answer_head(connection: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && connection.read(&mut byte).unwrap() == 1 {
        bytes.extend(byte);
    }
    String::from_utf8(bytes).unwrap()
}

/// Heads of all requests of a device that have a body, of which nothing is sent: the answer comes at once, and is about the token, or about the length.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_body_is_read_before_token_and_length_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let f = Fixture::start(folder.path(), &Arc::new(SoftHsm::generate().unwrap())).await;
    let token = f.link_token(SE);
    for path in [
        "v1/{}/equ",
        "v2/{}/equ",
        "v1/{}/status",
        "v2/{}/status",
        "v1/{}/certify",
    ] {
        let path = path.replace("{}", &SE.to_string());
        for (token, length, wanted) in [
            ("", 1_900_000, "401"),
            (&*"0".repeat(32), 100, "401"),
            (&*token, 4097, "413"),
        ] {
            let mut connection = device(&f);
            let head = format!(
                "POST /device/{path} HTTP/1.1\r\nHost: se\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
            );
            connection.write_all(head.as_bytes()).unwrap();
            let answer = answer_head(&mut connection);
            let status = answer.split(' ').nth(1).unwrap();
            assert_eq!(status, wanted, "{path} {length}: {answer}");
            assert!(
                answer.contains("connection: close"),
                "it ends, and says so: {answer}"
            );
        }
    }
    f.server.stop().await;
}

/// A head that comes a byte at a time is heard for 30 seconds, on either port, in TLS too; and a connection that says nothing no longer than that.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let f = Fixture::start(folder.path(), &Arc::new(SoftHsm::generate().unwrap())).await;
    let begun = Instant::now();
    let plain = || {
        let socket = TcpStream::connect(f.server.admin_address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        Box::new(socket)
    };
    let tls = || {
        let connection = device(&f);
        connection
            .sock
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        Box::new(connection)
    };
    let head = b"GET / HTTP/1.1\r\nX: ";
    for waited in [
        trickled(begun, plain(), head),
        trickled(begun, tls(), head),
        trickled(begun, plain(), b""),
        trickled(begun, tls(), b""),
    ] {
        let waited = waited.join().unwrap();
        assert!((5..45).contains(&waited.as_secs()), "{waited:?}");
    }
    f.server.stop().await;
}

/// The same below TLS, which has 10 seconds for a handshake: a first record of 512 bytes that comes a byte at a time, and nothing at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_tls_handshake_that_does_not_end_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let f = Fixture::start(folder.path(), &Arc::new(SoftHsm::generate().unwrap())).await;
    let begun = Instant::now();
    let plain = || {
        let socket = TcpStream::connect(f.server.device_address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        Box::new(socket)
    };
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for waited in [trickled(begun, plain(), hello), trickled(begun, plain(), b"")] {
        let waited = waited.join().unwrap();
        assert!((5..20).contains(&waited.as_secs()), "{waited:?}");
    }
    f.server.stop().await;
}

/// Sends these bytes and then others without end, one each second, or nothing at all if there are none; gives when the other end has hung up.
fn trickled(
    begun: Instant,
    mut connection: Box<dyn Conversation + Send>,
    first: &'static [u8],
) -> std::thread::JoinHandle<Duration> {
    std::thread::spawn(move || {
        let mut bytes = first.iter().copied().chain(std::iter::repeat(b'x'));
        while begun.elapsed() < Duration::from_secs(60) {
            let byte = bytes.next().unwrap();
            if (!first.is_empty() && connection.write_all(&[byte]).is_err()) || !is_open(&mut connection) {
                break;
            }
        }
        begun.elapsed()
    })
}

trait Conversation: Read + Write {}
impl<T: Read + Write> Conversation for T {}

/// Whether the other end is there; waits a second for what it says.
fn is_open(connection: &mut Box<dyn Conversation + Send>) -> bool {
    match connection.read(&mut [0; 64]) {
        Ok(count) => count > 0,
        Err(error) => matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_version_of_http_is_spoken() {
    let folder = tempfile::tempdir().unwrap();
    let f = Fixture::start(folder.path(), &Arc::new(SoftHsm::generate().unwrap())).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut answers = [Vec::new(), Vec::new()];
    let mut plain = TcpStream::connect(f.server.admin_address).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    plain.write_all(preface).unwrap();
    let _ = plain.read_to_end(&mut answers[0]);
    let mut tls = device(&f);
    tls.write_all(preface).unwrap();
    let _ = tls.read_to_end(&mut answers[1]);
    for answer in answers {
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || text.starts_with("HTTP/1.1 "), "{text:?}");
    }
    f.server.stop().await;
}
