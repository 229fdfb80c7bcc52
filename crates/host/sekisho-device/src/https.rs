//! The management server over HTTPS.

use core::fmt;
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use sekisho_keys::sha256;
use sekisho_link::{Campaign, DecodeError, Offer, SeId, Verdict, Version};
use sekisho_paging::recovery::{GRANT, REQUEST};
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Body, RequestBuilder};
use zeroize::Zeroizing;

use crate::backend::{Backend, BackendError, Part, Permission};
use crate::paging::NewKey;

/// Longest answer but for the delivery: P_AUT has about 200 bytes, an explanation of an error a few hundred.
const ANSWER_MAX: u64 = 16 * 1024;
/// Characters of a server's explanation that are shown.
const DETAIL_MAX: usize = 200;
/// Bytes of a delivery that have to come within each [`HttpsConfig::timeout`]: fewer is as if nothing came.
const PROGRESS: u32 = 4096;
/// Seconds to wait for a permission when the server does not say how long.
const NOT_YET: u32 = 60;

/// The secret by which the server knows the device (spec section 5): 32 hexadecimal digits.
#[derive(Clone)]
pub struct LinkToken(Zeroizing<String>);

impl LinkToken {
    /// Takes the 32 digits; blanks around them do not matter.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (text.len() == 32 && text.bytes().all(|c| c.is_ascii_hexdigit()))
            .then(|| Self(text.to_owned().into()))
    }
}

impl fmt::Debug for LinkToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkToken(..)")
    }
}

/// How to reach the server.
#[derive(Clone, Debug)]
pub struct HttpsConfig {
    /// `https://host:port`, perhaps with a path before `/device`.
    pub server: String,
    /// Certificates of the authorities that are trusted, in PEM; no others are.
    pub authorities: Vec<u8>,
    /// The device's link token.
    pub token: LinkToken,
    /// Limit for a request and its whole answer. Of a delivery, for its beginning and for each 4,096 bytes.
    pub timeout: Duration,
}

/// The management server over HTTPS.
pub struct HttpsBackend {
    http: ureq::Agent,
    timeout: Duration,
    /// How long the delivery is that was offered last.
    offered: u32,
    root: String,
    authorization: Zeroizing<String>,
}

impl HttpsBackend {
    /// Prepares; connects to nothing yet.
    ///
    /// # Errors
    /// A sentence, when the address is no `https://` one or there is no certificate in the PEM text.
    pub fn new(config: &HttpsConfig) -> Result<Self, String> {
        let root = config.server.trim_end_matches('/');
        let host = root.strip_prefix("https://").unwrap_or_default();
        if host.is_empty() || host.starts_with('/') {
            return Err(format!(
                "'{}' is no server; write https://HOST:PORT",
                config.server
            ));
        }
        let certificates: Vec<_> = parse_pem(&config.authorities)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        if certificates.is_empty() {
            return Err("there is no certificate (PEM) among the authorities".to_owned());
        }
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(certificates)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let http = ureq::Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("sekisho/", env!("CARGO_PKG_VERSION")))
            // From the name's lookup to the last byte of the body, whatever comes in between.
            .timeout_global(Some(config.timeout))
            .timeout_connect(Some(config.timeout))
            .timeout_send_request(Some(config.timeout))
            .timeout_send_body(Some(config.timeout))
            .timeout_recv_response(Some(config.timeout))
            .timeout_per_read(Some(config.timeout))
            .build()
            .into();
        Ok(Self {
            http,
            timeout: config.timeout,
            offered: 0,
            root: format!("{root}/device"),
            authorization: bearer(&config.token),
        })
    }

    /// Another device's way to the same server, over the same connections: for who carries many devices in one process.
    pub fn shared_with(&self, token: &LinkToken) -> Self {
        Self {
            http: self.http.clone(),
            timeout: self.timeout,
            offered: 0,
            root: self.root.clone(),
            authorization: bearer(token),
        }
    }

    fn get(&self, path: &str) -> RequestBuilder<ureq::typestate::WithoutBody> {
        self.http.get(format!("{}/{path}", self.root))
    }

    fn post(&self, path: &str, body: &[u8]) -> Result<Response<Body>, BackendError> {
        self.http
            .post(format!("{}/{path}", self.root))
            .header(header::AUTHORIZATION, self.authorization.as_str())
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .send(body)
            .map_err(unreachable)
    }
}

fn bearer(token: &LinkToken) -> Zeroizing<String> {
    Zeroizing::new(format!("Bearer {}", *token.0))
}

/// The server's answer to a new public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// SHA-256 of the certificate.
    pub digest: [u8; 32],
    /// The server's word to the SE.
    pub proof: [u8; 16],
    /// The certificate, DER.
    pub certificate: Vec<u8>,
}

impl HttpsBackend {
    /// Brings an SE's recovery request (`docs/spec/paging.md`, 8): the grant.
    ///
    /// # Errors
    /// [`BackendError`].
    pub fn recover(&self, request: &[u8; REQUEST]) -> Result<[u8; GRANT], BackendError> {
        let mut response = self.post("v1/paging/recover", request)?;
        match response.status() {
            StatusCode::OK => answer(&mut response)?
                .try_into()
                .map_err(|_| BackendError::Malformed("a grant")),
            _ => Err(refusal(&mut response)),
        }
    }

    /// Has the public key of a key pair that the SE has made certified.
    ///
    /// # Errors
    /// [`BackendError`].
    pub fn certify(&self, se_id: SeId, key: &NewKey) -> Result<Certified, BackendError> {
        let body = [&key.public_key[..], &key.signature, &key.proof].concat();
        let mut response = self.post(&format!("v1/{se_id}/certify"), &body)?;
        if response.status() != StatusCode::OK {
            return Err(refusal(&mut response));
        }
        let answer = answer(&mut response)?;
        let malformed = BackendError::Malformed("a certificate");
        let Some((digest, rest)) = answer.split_first_chunk() else {
            return Err(malformed);
        };
        let Some((proof, certificate)) = rest.split_first_chunk() else {
            return Err(malformed);
        };
        // The SE is told the digest: what is kept beside it has to be what the SE takes it for.
        if sha256(&[certificate]) != *digest {
            return Err(malformed);
        }
        Ok(Certified {
            digest: *digest,
            proof: *proof,
            certificate: certificate.to_vec(),
        })
    }
}

impl Backend for HttpsBackend {
    fn offer(&mut self, se_id: SeId) -> Result<Option<Offer>, BackendError> {
        let request = self
            .get(&format!("v2/{se_id}/offer"))
            .header(header::AUTHORIZATION, self.authorization.as_str());
        let mut response = request.call().map_err(unreachable)?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(None),
            StatusCode::OK => match Offer::decode(&answer(&mut response)?) {
                Ok(offer) if offer.version == Version::Two => {
                    self.offered = offer.bytes;
                    Ok(Some(offer))
                }
                Err(DecodeError::Unsupported) => {
                    Err(BackendError::NotBuilt("names places where the bulk lies"))
                }
                _ => Err(BackendError::Malformed("an offer")),
            },
            _ => Err(refusal(&mut response)),
        }
    }

    fn delivery(&mut self, campaign: Campaign, from: u32, etag: Option<&str>) -> Result<Part, BackendError> {
        // So many times the limit as pieces may come, and one for the beginning. It bounds what comes too slowly to be seen below TLS.
        let pieces = self.offered.saturating_sub(from).div_ceil(PROGRESS);
        let mut request = self
            .get(&format!("v2/deliveries/{campaign}"))
            .config()
            .timeout_global(Some(self.timeout.saturating_mul(pieces.saturating_add(1))))
            .build();
        if let (1.., Some(etag)) = (from, etag) {
            request = request
                .header(header::RANGE, format!("bytes={from}-"))
                .header(header::IF_RANGE, etag);
        }
        let mut response = request.call().map_err(unreachable)?;
        let offset = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => {
                range_start(&response).ok_or(BackendError::Malformed("a range of the delivery"))?
            }
            _ => return Err(refusal(&mut response)),
        };
        let etag = response
            .headers()
            .get(header::ETAG)
            .and_then(|tag| tag.to_str().ok())
            .map(str::to_owned);
        Ok(Part {
            offset,
            etag,
            body: Box::new(Delivery {
                body: response.into_body().into_reader(),
                timeout: self.timeout,
                since: now(),
                read: 0,
            }),
        })
    }

    fn permission(&mut self, se_id: SeId, equ: &[u8]) -> Result<Permission, BackendError> {
        let mut response = self.post(&format!("v2/{se_id}/equ"), equ)?;
        match response.status() {
            StatusCode::OK => Ok(Permission::Granted(answer(&mut response)?)),
            StatusCode::FORBIDDEN => Ok(Permission::Blocked(detail(&mut response))),
            StatusCode::CONFLICT => Ok(Permission::CounterUsed),
            StatusCode::TOO_EARLY => Ok(Permission::NotYet(retry_after(&response).unwrap_or(NOT_YET))),
            _ => Err(refusal(&mut response)),
        }
    }

    fn status(&mut self, se_id: SeId, st: &[u8]) -> Result<Verdict, BackendError> {
        let mut response = self.post(&format!("v2/{se_id}/status"), st)?;
        match response.status() {
            StatusCode::OK => {
                Verdict::decode(&answer(&mut response)?).map_err(|_| BackendError::Malformed("a verdict"))
            }
            _ => Err(refusal(&mut response)),
        }
    }
}

/// The whole body, within the limit.
fn answer(response: &mut Response<Body>) -> Result<Vec<u8>, BackendError> {
    response
        .body_mut()
        .with_config()
        .limit(ANSWER_MAX)
        .read_to_vec()
        .map_err(unreachable)
}

fn refusal(response: &mut Response<Body>) -> BackendError {
    BackendError::Refused {
        status: response.status().as_u16(),
        retry_after: retry_after(response),
        detail: detail(response),
    }
}

/// What the server says about an error (RFC 9457), or the status's own words.
fn detail(response: &mut Response<Body>) -> String {
    let words = response.status().canonical_reason().unwrap_or("error").to_owned();
    let problem = answer(response)
        .ok()
        .and_then(|body| serde_json::from_slice::<serde_json::Value>(&body).ok());
    let member = |name| {
        problem
            .as_ref()
            .and_then(|p| p.get(name)?.as_str())
            .map(printable)
    };
    member("detail")
        .or_else(|| member("title"))
        .filter(|text| !text.is_empty())
        .unwrap_or(words)
}

/// A server's text for a terminal: no control characters, not long.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(DETAIL_MAX)
        .collect()
}

fn retry_after(response: &Response<Body>) -> Option<u32> {
    response
        .headers()
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// First byte of `Content-Range: bytes first-last/length` (RFC 9110, 14.4).
fn range_start(response: &Response<Body>) -> Option<u32> {
    let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .trim()
        .parse()
        .ok()
}

/// A delivery on its way, whose errors are sentences, and which comes at a pace or is given up.
struct Delivery {
    body: ureq::BodyReader<'static>,
    timeout: Duration,
    /// When the piece began that is being read.
    since: Instant,
    /// Bytes of it.
    read: usize,
}

impl io::Read for Delivery {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.body.read(buf);
        let len = read.map_err(|error| io::Error::new(error.kind(), broken_off(&error)))?;
        self.read = self.read.saturating_add(len);
        if self.read >= PROGRESS as usize {
            (self.since, self.read) = (now(), 0);
        } else if len > 0 && self.since.elapsed() >= self.timeout {
            let seconds = self.timeout.as_secs();
            let slow = format!("the delivery came too slowly: fewer than {PROGRESS} bytes in {seconds} s");
            return Err(io::Error::new(io::ErrorKind::TimedOut, slow));
        }
        Ok(len)
    }
}

#[expect(clippy::disallowed_methods, reason = "a connection is an edge")]
fn now() -> Instant {
    Instant::now()
}

fn unreachable(error: ureq::Error) -> BackendError {
    BackendError::Unreachable(match error {
        ureq::Error::Io(error) if is_of_tls(&error) => {
            return BackendError::Unusable(broken_off(&error));
        }
        ureq::Error::Io(error) => broken_off(&error),
        ureq::Error::HostNotFound => "its name is not known (DNS)".to_owned(),
        ureq::Error::ConnectionFailed => "no connection to it can be made".to_owned(),
        ureq::Error::Timeout(what) => format!("it did not answer in time ({what})"),
        error => return BackendError::Unusable(error.to_string()),
    })
}

/// Whether TLS failed for what the other end is or says, not for the connection.
fn is_of_tls(error: &io::Error) -> bool {
    let mut error = error;
    while let Some(inner) = error.get_ref() {
        if inner.is::<rustls::Error>() {
            return true;
        }
        match inner.downcast_ref::<io::Error>() {
            Some(inner) => error = inner,
            None => return false,
        }
    }
    false
}

/// In a sentence how a connection ended: what stands below it speaks to programmers, and says some of it twice.
fn broken_off(error: &io::Error) -> String {
    // What the HTTP client hands on in a reader's error.
    let mut error = error;
    while let Some(inner) = error.get_ref() {
        if let Some(inner) = inner.downcast_ref::<io::Error>() {
            error = inner;
        } else if let Some(ureq::Error::Io(inner)) = inner.downcast_ref() {
            error = inner;
        } else if let Some(ureq::Error::Timeout(what)) = inner.downcast_ref() {
            return format!("it did not answer in time ({what})");
        } else {
            break;
        }
    }
    let text = error.to_string();
    if text.contains("CaUsedAsEndEntity") {
        return "the server's certificate is that of an authority (CA:TRUE); a server needs one of its own (CA:FALSE)"
            .to_owned();
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nobody listens there (connection refused)".to_owned(),
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => "the connection was cut off".to_owned(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "it did not answer in time".to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_exact_and_never_shown() {
        let token = LinkToken::new(" 00112233445566778899aabbccddeeff\n").unwrap();
        assert!(!format!("{token:?}").contains("0011"));
        for wrong in [
            "",
            "00112233445566778899aabbccddeef",
            "00112233445566778899aabbccddeefg",
            "0011223344\r\n5566778899aabbccddeef",
        ] {
            assert!(LinkToken::new(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn only_https_with_a_certificate_is_taken() {
        let config = |server: &str| HttpsConfig {
            server: server.to_owned(),
            authorities: b"no certificate".to_vec(),
            token: LinkToken::new("00112233445566778899aabbccddeeff").unwrap(),
            timeout: Duration::from_secs(1),
        };
        for server in ["http://127.0.0.1", "127.0.0.1:1", "https://", "https:///x", ""] {
            assert!(
                HttpsBackend::new(&config(server))
                    .err()
                    .unwrap()
                    .contains("write https://"),
                "{server}"
            );
        }
        assert!(
            HttpsBackend::new(&config("https://127.0.0.1:1"))
                .err()
                .unwrap()
                .contains("no certificate")
        );
    }

    #[test]
    fn what_a_server_says_cannot_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a[2Jbc");
        assert_eq!(printable(&"x".repeat(5000)).len(), DETAIL_MAX);
    }
}
