//! Certificates, bounds, and the door.

use core::net::IpAddr;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, SignatureVerificationAlgorithm, UnixTime,
};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{Acceptor, NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{CipherSuite, RootCertStore, ServerConfig, SignatureScheme};
use tokio::net::TcpStream;
use tokio::select;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::identity::Identity;
use crate::rooms::{Room, Rooms};
use crate::session::Session;

/// Who the server is, and who vouches for SEs. All PEM.
#[derive(Clone)]
pub struct Credentials {
    /// The server's certificate, and those behind it.
    pub chain: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// Certificates of the authorities that certify SEs.
    pub authorities: Vec<u8>,
    /// What they have revoked: their lists (CRL), until [`Gateway::revoke`] brings others; how old they are is not looked at. With `None` nothing is revoked; else there is a list at
    /// least, and no SE is taken of an authority that has none here.
    pub revoked: Option<Vec<u8>>,
}

/// The key is never shown.
impl core::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}

/// Bounds on what others can have of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The longest text of a record that goes to an SE, bytes, 32 to 16,384: what an SE has room for. A command is one record, so no command is longer.
    pub record: usize,
    /// How long a handshake may take, all of it: an SE on a slow line computes and answers within.
    pub handshake: Duration,
    /// How long an SE may take for one answer, all of it.
    pub answer: Duration,
    /// How many connections may be in a handshake. They have proved nothing, and take no session's place; when there are so many, one gives way to the next.
    pub handshakes: usize,
    /// How many sessions may be open.
    pub sessions: usize,
    /// How many sessions of TLS 1.3 can be resumed by a ticket, which is a number of 32 bytes; what is behind it stays here, and goes with the lists of what is revoked. With none no SE is sent a ticket,
    /// which is a record on its line.
    pub resumable: usize,
}

impl Settings {
    /// Commands of 1,024 bytes, 30 seconds for a handshake, 30 for an answer, 256 handshakes and 4,096 sessions; none is resumed.
    pub const DEFAULT: Self = Self {
        record: 1024,
        handshake: Duration::from_secs(30),
        answer: Duration::from_secs(30),
        handshakes: 256,
        sessions: 4096,
        resumable: 0,
    };
}

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A file is not what it should be.
    #[error("{0} is not readable PEM")]
    Pem(&'static str),
    /// There is nobody who could vouch for an SE.
    #[error("no authority for secure elements is named")]
    NoAuthority,
    /// Certificates and key do not go together, or are not of a kind that an SE can verify.
    #[error("certificates: {0}")]
    Certificates(String),
    /// [`Settings::record`].
    #[error("a record has 32 to 16,384 bytes")]
    Record,
}

/// Why a connection became no session.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// As many handshakes as there may be are under way, or as many sessions open.
    #[error("there are as many connections as there may be")]
    Full,
    /// The handshake took too long.
    #[error("the handshake took too long")]
    Slow,
    /// It gave way to a later connection.
    #[error("the handshake was given up for a later connection")]
    GaveWay,
    /// It failed, on this side or on the other.
    #[error("the handshake failed: {0}")]
    Handshake(io::Error),
    /// The certificate was verified and cannot be read all the same.
    #[error("the certificate cannot be read")]
    Certificate,
}

/// The door for SEs.
#[derive(Clone)]
pub struct Gateway {
    credentials: Arc<Credentials>,
    /// The present one; sessions that are open are told of another.
    door: Arc<watch::Sender<Arc<Door>>>,
    settings: Settings,
    rooms: Rooms,
    sessions: Arc<Semaphore>,
}

impl Gateway {
    /// A gateway without a socket: that is the caller's.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn new(credentials: &Credentials, settings: Settings) -> Result<Self, GatewayError> {
        if !(32..=16_384).contains(&settings.record) {
            return Err(GatewayError::Record);
        }
        let door = Door::new(credentials, &settings)?;
        Ok(Self {
            door: Arc::new(watch::Sender::new(Arc::new(door))),
            credentials: Arc::new(Credentials {
                revoked: None,
                ..credentials.clone()
            }),
            settings,
            rooms: Rooms::new(settings.handshakes, settings.handshake),
            sessions: Arc::new(Semaphore::new(settings.sessions)),
        })
    }

    /// Other lists of what is revoked, in the place of those before: for whoever connects from now on, and for sessions that are open, which give an SE that is revoked now no further command
    /// ([`Lost::Revoked`](crate::Lost::Revoked)).
    ///
    /// # Errors
    /// [`GatewayError::Pem`], [`GatewayError::Certificates`]: the lists before hold.
    pub fn revoke(&self, revoked: Vec<u8>) -> Result<(), GatewayError> {
        let credentials = Credentials {
            revoked: Some(revoked),
            ..Credentials::clone(&self.credentials)
        };
        let next = Door::new(&credentials, &self.settings)?;
        self.door.send_replace(Arc::new(next));
        Ok(())
    }

    /// Whether a session with these certificates could come about now: vouched for by an authority, for a client, in their time, not revoked. DER, the SE's first.
    ///
    /// # Errors
    /// [`GatewayError::Certificates`] says why not.
    pub fn would_take(&self, chain: &[CertificateDer<'_>]) -> Result<(), GatewayError> {
        let door = Arc::clone(&self.door.borrow());
        door.vouches_for(chain)
    }

    /// The bounds.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Room for a handshake with this address; `None` when there is none, and the connection is best closed. To be asked before a task is made for it.
    ///
    /// Where as many are under way as may be, one gives way: one of the addresses that have the most, the silent before those that have said ClientHello. Who has said it
    /// gives way to no other of its own address, nor where all have the same, for a quarter of [`Settings::handshake`].
    pub fn room(&self, from: IpAddr) -> Option<Room> {
        self.rooms.take(from, Instant::now())
    }

    /// Makes a session of a connection: the handshake, in which the SE proves who it is.
    ///
    /// # Errors
    /// [`AcceptError`]; the connection is closed.
    pub async fn accept(&self, room: Room, stream: TcpStream) -> Result<Session, AcceptError> {
        // Before the handshake asks who is revoked: what changes from here on the session looks at again.
        let door = self.door.subscribe();
        // What goes out is small and waited for.
        let _ = stream.set_nodelay(true);
        let tls = select! {
            biased;
            tls = timeout(self.settings.handshake, self.handshake(&room, stream)) => tls,
            () = room.gives_way() => return Err(AcceptError::GaveWay),
        };
        let tls = tls
            .map_err(|_| AcceptError::Slow)?
            .map_err(AcceptError::Handshake)?;
        let permit = Arc::clone(&self.sessions).try_acquire_owned();
        let permit = permit.map_err(|_| AcceptError::Full)?;
        drop(room);
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let identity = chain.first().and_then(Identity::of);
        let identity = identity.ok_or(AcceptError::Certificate)?;
        Ok(Session::new(tls, identity, self.settings, (permit, door)))
    }

    async fn handshake(&self, room: &Room, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        room.has_spoken();
        let config = Arc::clone(&self.door.borrow().config);
        hello.into_stream(config).await
    }
}

/// Who is let in, with the lists of what is revoked as they were when it was made.
pub(crate) struct Door {
    config: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Door {
    fn new(credentials: &Credentials, settings: &Settings) -> Result<Self, GatewayError> {
        let verifier = verifier(credentials)?;
        Ok(Self {
            config: Arc::new(config(credentials, settings, Arc::clone(&verifier))?),
            verifier,
        })
    }

    /// Whether these certificates are an SE's that it lets in now, the SE's own first.
    pub(crate) fn vouches_for(&self, chain: &[CertificateDer<'_>]) -> Result<(), GatewayError> {
        let (own, behind) = chain.split_first().ok_or_else(|| wrong(&"there is none"))?;
        let taken = self.verifier.verify_client_cert(own, behind, UnixTime::now());
        taken.map(drop).map_err(|error| wrong(&error))
    }
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, GatewayError> {
    let read: Result<_, _> = CertificateDer::pem_slice_iter(pem).collect();
    read.map_err(|_| GatewayError::Pem(what))
}

fn wrong(error: &dyn core::fmt::Display) -> GatewayError {
    GatewayError::Certificates(error.to_string())
}

fn config(
    credentials: &Credentials,
    settings: &Settings,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, GatewayError> {
    let chain = certificates(&credentials.chain, "the server's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(&credentials.key);
    let key = key.map_err(|_| GatewayError::Pem("the server's private key"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&error))?;
    // rustls counts the record's header in.
    config.max_fragment_size = Some(settings.record + RECORD_HEADER);
    config.send_tls13_tickets = usize::from(settings.resumable > 0);
    config.session_storage = match settings.resumable {
        0 => Arc::new(NoServerSessionStorage {}),
        // A certificate is not verified again when its session is resumed: what is revoked goes with this.
        most => ServerSessionMemoryCache::new(most),
    };
    Ok(config)
}

fn verifier(credentials: &Credentials) -> Result<Arc<dyn ClientCertVerifier>, GatewayError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(&credentials.authorities, "the authority's certificate")? {
        roots.add(authority).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(GatewayError::NoAuthority);
    }
    let revoked = match &credentials.revoked {
        None => Vec::new(),
        // An empty file is one that has been cut off, and no word that nothing is revoked.
        Some(lists) => {
            match CertificateRevocationListDer::pem_slice_iter(lists).collect::<Result<Vec<_>, _>>() {
                Ok(lists) if !lists.is_empty() => lists,
                _ => return Err(GatewayError::Pem("the list of what is revoked")),
            }
        }
    };
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()))
        // What an SE reads of it is the kind of certificate: names of authorities are bytes on a slow line.
        .clear_root_hint_subjects()
        .with_crls(revoked)
        .build()
        .map_err(|error| wrong(&error))
}

/// Content type, version and length of a record (RFC 8446, 5.1).
const RECORD_HEADER: usize = 5;

/// What an SE has, and nothing more: AES-128-GCM, and ECDSA on P-256 with SHA-256.
fn provider() -> rustls::crypto::CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| {
        matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256 | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        )
    });
    provider.signature_verification_algorithms = WebPkiSupportedAlgorithms {
        all: P256,
        mapping: &MAPPING,
    };
    provider
}

static P256: &[&dyn SignatureVerificationAlgorithm] = &[webpki::ring::ECDSA_P256_SHA256];

static MAPPING: [(SignatureScheme, &[&dyn SignatureVerificationAlgorithm]); 1] =
    [(SignatureScheme::ECDSA_NISTP256_SHA256, P256)];
