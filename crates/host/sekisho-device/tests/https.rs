//! The HTTPS backend against a TLS server that says exactly what a test wants, and remembers every request byte.

use core::time::Duration;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use sekisho_apdu::Writer;
use sekisho_device::paging::NewKey;
use sekisho_device::{Backend, BackendError, HttpsBackend, HttpsConfig, LinkToken, Permission};
use sekisho_link::{Access, Campaign, Offer, SeId, Verdict, Version};

const TOKEN: &str = "00112233445566778899aabbccddeeff";
const SE_ID: SeId = SeId([0xAB; 10]);

struct Server {
    address: SocketAddr,
    certificate: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Answers one connection after the other, each with the next of these.
    fn start(answers: Vec<Vec<u8>>) -> Self {
        Self::start_as(rcgen::IsCa::NoCa, answers)
    }

    fn start_as(is_ca: rcgen::IsCa, answers: Vec<Vec<u8>>) -> Self {
        Self::start_with(is_ca, answers, true, Duration::ZERO)
    }

    /// Says each body a byte at a time, so far apart.
    fn trickling(answers: Vec<Vec<u8>>, pause: Duration) -> Self {
        Self::start_with(rcgen::IsCa::NoCa, answers, true, pause)
    }

    /// Ends each connection behind its answer, with or without TLS's word of it.
    fn cut_off(answers: Vec<Vec<u8>>, says_goodbye: bool) -> Self {
        Self::start_with(rcgen::IsCa::NoCa, answers, says_goodbye, Duration::ZERO)
    }

    fn start_with(is_ca: rcgen::IsCa, answers: Vec<Vec<u8>>, says_goodbye: bool, pause: Duration) -> Self {
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.is_ca = is_ca;
        let own = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&own).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(own.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        thread::spawn(move || {
            for answer in answers {
                let (stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let tls = rustls::ServerConnection::new(Arc::new(config.clone())).unwrap();
                let mut stream = rustls::StreamOwned::new(tls, stream);
                log.lock().unwrap().push(request(&mut stream));
                let head = answer.windows(4).position(|end| end == b"\r\n\r\n");
                let at_once = head
                    .filter(|_| !pause.is_zero())
                    .map_or(answer.len(), |at| at + 4);
                let _ = stream.write_all(&answer[..at_once]);
                for byte in &answer[at_once..] {
                    thread::sleep(pause);
                    if stream.write_all(&[*byte]).and_then(|()| stream.flush()).is_err() {
                        break;
                    }
                }
                if says_goodbye {
                    stream.conn.send_close_notify();
                }
                let _ = stream.flush();
            }
        });
        Self {
            address,
            certificate: certificate.pem(),
            requests,
        }
    }

    fn backend(&self) -> HttpsBackend {
        self.backend_that_trusts(&self.certificate)
    }

    fn backend_that_trusts(&self, certificate: &str) -> HttpsBackend {
        self.backend_with(certificate, Duration::from_secs(2))
    }

    fn backend_with(&self, certificate: &str, timeout: Duration) -> HttpsBackend {
        HttpsBackend::new(&HttpsConfig {
            server: format!("https://{}/", self.address),
            authorities: certificate.as_bytes().to_vec(),
            token: LinkToken::new(TOKEN).unwrap(),
            timeout,
        })
        .unwrap()
    }

    fn request(&self, index: usize) -> String {
        self.requests.lock().unwrap()[index].clone()
    }
}

/// Head and body of a request.
fn request(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return String::new();
        }
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap().to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8_lossy(&body)
}

fn http(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn written(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut bytes = [0; 200];
    let mut out = Writer::new(&mut bytes);
    write(&mut out);
    out.written().to_vec()
}

#[test]
fn offers_and_their_absence() {
    let offer = Offer {
        version: Version::Two,
        target: 1,
        campaign: Campaign(3),
        bytes: 70_000,
        sha256: [7; 32],
    };
    let bytes = written(|out| offer.encode(out).unwrap());
    let server = Server::start(vec![
        http("200 OK", "", &bytes),
        http("204 No Content", "", &[]),
        http("200 OK", "", &bytes[1..]),
        http("302 Found", "location: https://example.com/\r\n", &[]),
        http(
            "401 Unauthorized",
            "",
            br#"{"title":"no","detail":"who are\u001b[31m you?"}"#,
        ),
    ]);
    let mut backend = server.backend();
    assert_eq!(backend.offer(SE_ID).unwrap(), Some(offer));
    assert_eq!(backend.offer(SE_ID).unwrap(), None);
    assert!(matches!(backend.offer(SE_ID), Err(BackendError::Malformed(_))));
    assert!(
        matches!(
            backend.offer(SE_ID),
            Err(BackendError::Refused { status: 302, .. })
        ),
        "redirects are not followed"
    );
    let error = backend.offer(SE_ID).unwrap_err().to_string();
    assert_eq!(error, "401 who are[31m you?");
    assert!(
        server
            .request(0)
            .starts_with("get /device/v2/abababababababababab/offer http/1.1\r\n")
    );
    assert!(
        server
            .request(0)
            .contains(&format!("authorization: bearer {TOKEN}\r\n"))
    );
}

/// An offer of version 1, one that names places where the bulk lies, and one cut short.
#[test]
fn an_offer_that_is_not_understood_is_none() {
    let offer = |version| {
        let offer = Offer {
            version,
            target: 1,
            campaign: Campaign(3),
            bytes: 70_000,
            sha256: [7; 32],
        };
        written(|out| offer.encode(out).unwrap())
    };
    let (first, second) = (offer(Version::One), offer(Version::Two));
    let (places, whole) = second.split_last().unwrap();
    assert_eq!(*places, 0, "the last byte counts the places");
    let with_a_place = [whole, &[1, 9], b"https://a"].concat();
    let server = Server::start(vec![
        http("200 OK", "", &with_a_place),
        http("200 OK", "", &first),
        http("200 OK", "", whole),
    ]);
    let mut backend = server.backend();
    let error = backend.offer(SE_ID).unwrap_err();
    assert!(matches!(error, BackendError::NotBuilt(_)), "{error:?}");
    assert!(
        error.to_string().contains("places where the bulk lies"),
        "{error}"
    );
    for _ in 0..2 {
        assert!(matches!(backend.offer(SE_ID), Err(BackendError::Malformed(_))));
    }
}

#[test]
fn a_delivery_is_asked_for_from_where_it_broke_off() {
    let server = Server::start(vec![
        http("200 OK", "etag: \"abc\"\r\n", b"0123456789"),
        http(
            "206 Partial Content",
            "etag: \"abc\"\r\ncontent-range: bytes 4-9/10\r\n",
            b"456789",
        ),
        http("206 Partial Content", "content-range: nonsense\r\n", b"456789"),
        http("416 Range Not Satisfiable", "", b""),
    ]);
    let mut backend = server.backend();
    let mut read = |from, etag| {
        let mut part = backend.delivery(Campaign(0x1F), from, etag)?;
        let mut bytes = Vec::new();
        part.body.read_to_end(&mut bytes).unwrap();
        Ok::<_, BackendError>((part.offset, part.etag, bytes))
    };
    assert_eq!(
        read(0, Some("\"abc\"")).unwrap(),
        (0, Some("\"abc\"".to_owned()), b"0123456789".to_vec())
    );
    assert_eq!(
        read(4, Some("\"abc\"")).unwrap(),
        (4, Some("\"abc\"".to_owned()), b"456789".to_vec())
    );
    assert!(matches!(
        read(4, Some("\"abc\"")),
        Err(BackendError::Malformed(_))
    ));
    assert!(matches!(
        read(4, None),
        Err(BackendError::Refused { status: 416, .. })
    ));
    assert!(
        server
            .request(0)
            .starts_with("get /device/v2/deliveries/000000000000001f http/1.1\r\n")
    );
    assert!(!server.request(0).contains("range"));
    assert!(
        !server.request(0).contains("authorization"),
        "the same for all, so that any cache may answer"
    );
    assert!(
        server.request(1).contains("range: bytes=4-\r\n")
            && server.request(1).contains("if-range: \"abc\"\r\n")
    );
    assert!(
        !server.request(3).contains("range"),
        "without a tag there is nothing to go on with"
    );
}

#[test]
fn every_answer_to_equ_has_its_meaning() {
    let server = Server::start(vec![
        http("200 OK", "", b"P_AUT"),
        http("403 Forbidden", "", br#"{"detail":"not in the campaign"}"#),
        http("409 Conflict", "", b""),
        http("425 Too Early", "retry-after: 17\r\n", b""),
        http("425 Too Early", "retry-after: tomorrow\r\n", b""),
        http("503 Service Unavailable", "retry-after: 5\r\n", b"<html>"),
        http("200 OK", "", &[0; 20_000]),
    ]);
    let mut backend = server.backend();
    let mut ask = || backend.permission(SE_ID, b"EQU");
    assert_eq!(ask().unwrap(), Permission::Granted(b"P_AUT".to_vec()));
    assert_eq!(
        ask().unwrap(),
        Permission::Blocked("not in the campaign".to_owned())
    );
    assert_eq!(ask().unwrap(), Permission::CounterUsed);
    assert_eq!(ask().unwrap(), Permission::NotYet(17));
    assert_eq!(ask().unwrap(), Permission::NotYet(60));
    assert!(matches!(
        ask(),
        Err(BackendError::Refused {
            status: 503,
            retry_after: Some(5),
            ..
        })
    ));
    assert!(ask().is_err(), "an answer without end is not read to its end");
    assert!(
        server
            .request(0)
            .starts_with("post /device/v2/abababababababababab/equ http/1.1\r\n")
    );
    assert!(server.request(0).ends_with("\r\n\r\nEQU"));
}

#[test]
fn a_verdict_is_read() {
    let verdict = Verdict {
        access: Access::Retry,
        retry_after: 90,
    };
    let bytes = written(|out| verdict.encode(out).unwrap());
    let server = Server::start(vec![http("200 OK", "", &bytes), http("404 Not Found", "", b"")]);
    let mut backend = server.backend();
    assert_eq!(backend.status(SE_ID, b"ST").unwrap(), verdict);
    assert!(backend.status(SE_ID, b"ST").unwrap_err().is_final());
}

#[test]
fn another_servers_certificate_is_not_trusted_and_gets_nothing() {
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let server = Server::start(vec![http("204 No Content", "", &[])]);
    let mut backend = server.backend_that_trusts(&other.cert.pem());
    let refused = backend.offer(SE_ID).unwrap_err();
    assert_sentence(&refused, "certificate");
    assert!(
        !refused.is_temporary(),
        "nothing that passes by itself: {refused:?}"
    );
    assert!(
        server.requests.lock().unwrap().iter().all(String::is_empty),
        "not even the token"
    );
}

/// As `openssl req -x509` makes it, unless it is told otherwise.
#[test]
fn a_certificate_of_an_authority_is_named() {
    let authority = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let server = Server::start_as(authority, vec![http("204 No Content", "", &[])]);
    let refused = server.backend().offer(SE_ID).unwrap_err().to_string();
    assert!(refused.contains("CA:FALSE"), "{refused}");
}

/// What a person reads when there is no answer: one sentence, said once, nothing for programmers.
fn assert_sentence(refused: &BackendError, wanted: &str) {
    let said = refused.to_string();
    assert!(said.contains(wanted), "{said}");
    for foreign in ["://", "io:", "rustls", "os error", "close_notify"] {
        assert!(!said.contains(foreign), "{foreign}: {said}");
    }
}

/// Nobody listens; the connection is cut off in the handshake, before an answer, in the middle of its head or of the delivery, with and without a reset.
#[test]
fn how_a_connection_ended_is_a_sentence() {
    let nobody = Server::start(Vec::new());
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = Server {
        address: free,
        ..nobody
    };
    assert_sentence(&nobody.backend().offer(SE_ID).unwrap_err(), "nobody listens");

    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap();
    thread::spawn(move || drop(deaf.accept().unwrap()));
    let deaf = Server {
        address,
        ..Server::start(Vec::new())
    };
    assert_sentence(&deaf.backend().offer(SE_ID).unwrap_err(), "cut off");

    let whole = http("200 OK", "", &[7; 5000]);
    for told in [0, 1, 20, whole.len() - 1] {
        for goodbye in [true, false] {
            let server = Server::cut_off(vec![whole[..told].to_vec()], goodbye);
            let refused = match server.backend().delivery(Campaign(1), 0, None) {
                Err(refused) => refused,
                Ok(mut part) => {
                    let broken = part.body.read_to_end(&mut Vec::new()).unwrap_err();
                    BackendError::Unreachable(broken.to_string())
                }
            };
            assert_sentence(&refused, "cut off");
        }
    }
}

#[test]
fn a_server_that_says_nothing_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        certificate: rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])
            .unwrap()
            .cert
            .pem(),
        requests: Arc::default(),
    };
    assert_sentence(&server.backend().offer(SE_ID).unwrap_err(), "in time");
}

/// A server that goes on and on, a byte at a time, each of them in time: an answer has one limit, and a delivery comes at a pace or is given up.
#[test]
fn a_server_that_trickles_is_left() {
    let offer = Offer {
        version: Version::Two,
        target: 1,
        campaign: Campaign(3),
        bytes: 70_000,
        sha256: [7; 32],
    };
    let offer = written(|out| offer.encode(out).unwrap());
    let (pause, timeout) = (Duration::from_millis(20), Duration::from_millis(400));
    let server = Server::trickling(vec![http("200 OK", "", &[7; 500])], pause);
    let mut backend = server.backend_with(&server.certificate, timeout);
    let begun = Instant::now();
    let refused = backend.offer(SE_ID).unwrap_err();
    assert_sentence(&refused, "in time");
    assert!(
        refused.is_temporary() && begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );

    let answers = vec![http("200 OK", "", &offer), http("200 OK", "", &[7; 500])];
    let server = Server::trickling(answers, Duration::from_millis(5));
    let mut backend = server.backend_with(&server.certificate, Duration::from_secs(1));
    backend.offer(SE_ID).unwrap();
    let begun = Instant::now();
    let mut part = backend.delivery(Campaign(3), 0, None).unwrap();
    let broken = part.body.read_to_end(&mut Vec::new()).unwrap_err().to_string();
    assert!(broken.contains("fewer than 4096 bytes in 1 s"), "{broken}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// What passes by itself and what does not (broadcast update, 5.2).
#[test]
fn what_is_tried_again_later() {
    for (status, later) in [
        (400, false),
        (401, false),
        (404, false),
        (408, true),
        (413, false),
        (422, true),
        (425, true),
        (429, true),
        (500, true),
        (501, false),
        (503, true),
    ] {
        let refused = BackendError::Refused {
            status,
            detail: String::new(),
            retry_after: None,
        };
        assert_eq!(refused.is_temporary(), later, "{status}");
    }
}

#[test]
fn a_certificate_is_the_one_of_its_digest() {
    let certificate = b"DER of a certificate";
    let right = [&sekisho_keys::sha256(&[certificate])[..], &[5; 16], certificate].concat();
    let mut wrong = right.clone();
    *wrong.last_mut().unwrap() ^= 1;
    let server = Server::start(vec![
        http("200 OK", "", &right),
        http("200 OK", "", &wrong),
        http("200 OK", "", &right[..47]),
    ]);
    let key = NewKey {
        public_key: [4; 65],
        signature: [2; 64],
        proof: [3; 16],
    };
    let certified = server.backend().certify(SE_ID, &key).unwrap();
    assert_eq!(
        (certified.proof, &certified.certificate[..]),
        ([5; 16], &certificate[..])
    );
    for _ in 0..2 {
        let error = server.backend().certify(SE_ID, &key).unwrap_err();
        assert!(matches!(error, BackendError::Malformed(_)), "{error}");
    }
}
