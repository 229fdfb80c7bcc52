//! The engine of the handshake behind a trait of ours, so that it can be replaced: rustls without std.
//!
//! It allocates, and its allocation cannot fail: what it is given is bounded before it has any of it ([`HANDSHAKE_MAX`], and the record's length before that).

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use core::time::Duration;

use rustls::client::{Resumption, Tls12Resumption, UnbufferedClientConnection};

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, ConnectionTrafficSecrets, Error, ExtractedSecrets, KeyLog, ProtocolVersion};
use sekisho_apdu::Writer;
use sekisho_bridge::RECORD_HEADER;
use sekisho_keys::p256sig::SigningKey;
use sekisho_keys::{Rng, sha256};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use zeroize::{Zeroize, Zeroizing};

use crate::Alert;
use crate::provider::provider;
use crate::random::{self, Lent};
use crate::tickets::{Later, Loan, Own, Shelf, Ticket};
use crate::traffic::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, Direction, HANDSHAKE, TAG, Traffic, Version, exporter,
};
use crate::verifier::Verifier;

/// How many bytes of records a server's side of a handshake may have; and those of all handshakes that are under way together, which is for whoever has several sessions to see to.
pub const HANDSHAKE_MAX: usize = 8192;
/// The label of the exporter value `tls-exporter` (RFC 9266, 4.1).
const CHANNEL_BINDING: &[u8] = b"EXPORTER-Channel-Binding";
/// The longest text of a record that the engine sends.
const FRAGMENT_MAX: usize = 512;

/// Whom to speak to, and as whom.
pub struct Peer<'a> {
    /// The server's name: a DNS name or an IP address. Empty where the pin alone says who it is.
    pub name: &'a str,
    /// SHA-256 of the server's `SubjectPublicKeyInfo` (as RFC 7469, 2.4 has it): its key is this one.
    pub pin: Option<[u8; 32]>,
    /// Trust anchors: certificates in DER.
    pub anchors: &'a [&'a [u8]],
    /// The SE's certificate and those behind it, in DER.
    pub chain: &'a [&'a [u8]],
    /// The key of the first of them.
    pub key: &'a SigningKey,
    /// Seconds since 1970: certificates must be valid then.
    pub time: u64,
    /// The protocols that are offered.
    pub versions: &'a [Version],
}

/// Where a handshake stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The server is to speak.
    Going,
    /// It is done, and the peer proved.
    Done,
    /// It has failed; what there was to say of it has been said: nothing to a server that has given up itself (RFC 8446, 6.2).
    Failed,
}

/// The client's side of a handshake.
pub trait Engine: Sized {
    /// Begins one: appends the first records to `out`. A ticket of this peer, made with the same chain, is offered.
    ///
    /// # Errors
    /// The alert that would name what is wrong with `peer`.
    fn begin(
        peer: &Peer<'_>,
        ticket: Option<Box<Ticket>>,
        rng: &mut dyn Rng,
        out: &mut Vec<u8>,
    ) -> Result<Self, Alert>;

    /// Takes one record, header included; appends those that answer it to `out`.
    fn hear(&mut self, record: &[u8], rng: &mut dyn Rng, out: &mut Vec<u8>) -> Progress;

    /// How many bytes of records it has taken: what it needs of the heap follows from it.
    fn heard(&self) -> usize;

    /// What stays of it, once it is [`Progress::Done`].
    ///
    /// # Errors
    /// The alert that names why there is nothing.
    fn finish(self) -> Result<Finished, Alert>;
}

/// What stays of a handshake.
pub struct Finished {
    /// The session.
    pub traffic: Traffic,
    /// How the peer was proved.
    pub proof: Box<Proof>,
    /// What understands tickets, where some may come.
    pub later: Option<Box<Later>>,
}

/// How a peer was proved. A session that is resumed has the certificate of the one that it comes of, and an exporter value of its own.
#[derive(PartialEq, Eq)]
pub struct Proof {
    /// Since when the server's certificate is valid, in seconds since 1970.
    pub since: u64,
    /// SHA-256 of the server's certificate in DER.
    pub certificate: [u8; 32],
    /// What both ends can say of this session and nobody else: the exporter value of RFC 9266, `tls-exporter` (label `EXPORTER-Channel-Binding`, no context, 32 bytes). TLS 1.2 has none.
    pub exporter: Option<[u8; 32]>,
}

impl Drop for Proof {
    fn drop(&mut self) {
        self.exporter.zeroize();
    }
}

/// The exporter value is not shown.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof")
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}

/// The keys are never shown.
impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finished").finish_non_exhaustive()
    }
}

/// rustls, and what is not with it yet.
pub struct Rustls {
    connection: UnbufferedClientConnection,
    incoming: Zeroizing<Vec<u8>>,
    heard: usize,
    secrets: Arc<Secrets>,
    shelf: Arc<Shelf>,
    verifier: Arc<Verifier>,
    loan: Loan,
}

#[derive(Debug)]
struct Now(u64);

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

/// Traffic secrets of TLS 1.3, which the engine gives to whoever logs keys: the two that `KeyUpdate` needs, that of our side of the handshake, for an alert that the engine does not say, and the exporter's.
#[derive(Default)]
struct Secrets {
    handshake: [AtomicU32; 8],
    tx: [AtomicU32; 8],
    rx: [AtomicU32; 8],
    exporter: [AtomicU32; 8],
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(redacted)")
    }
}

impl Secrets {
    /// Whether there is a key of the handshake.
    fn has_handshake(&self) -> bool {
        *Self::get(&self.handshake) != [0; 32]
    }

    fn get(words: &[AtomicU32; 8]) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0; 32]);
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.load(Relaxed).to_be_bytes());
        }
        bytes
    }
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        let words = match label {
            "CLIENT_HANDSHAKE_TRAFFIC_SECRET" => &self.handshake,
            "CLIENT_TRAFFIC_SECRET_0" => &self.tx,
            "SERVER_TRAFFIC_SECRET_0" => &self.rx,
            "EXPORTER_SECRET" => &self.exporter,
            _ => return,
        };
        for (bytes, word) in secret.as_chunks().0.iter().zip(words) {
            word.store(u32::from_be_bytes(*bytes), Relaxed);
        }
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.tx
            .iter_mut()
            .chain(&mut self.rx)
            .chain(&mut self.handshake)
            .chain(&mut self.exporter)
            .for_each(|word| word.get_mut().zeroize());
    }
}

/// Since when and until when the first certificate of a chain is valid. The others are what the server says, and may be in no path that has been verified.
fn validity(chain: &[CertificateDer<'_>]) -> Option<(u64, u64)> {
    let certificate = Certificate::from_der(chain.first()?).ok()?;
    let validity = certificate.tbs_certificate().validity();
    let [since, until] = [validity.not_before, validity.not_after].map(|time| time.to_unix_duration());
    Some((since.as_secs(), until.as_secs()))
}

/// The engine's configuration for a peer.
fn config(
    peer: &Peer<'_>,
    secrets: &Arc<Secrets>,
    verifier: &Arc<Verifier>,
    own: &Arc<Own>,
    shelf: &Arc<Shelf>,
) -> Result<ClientConfig, Alert> {
    let versions: Vec<_> = peer
        .versions
        .iter()
        .map(|version| match version {
            Version::Tls12 => &rustls::version::TLS12,
            Version::Tls13 => &rustls::version::TLS13,
        })
        .collect();
    let builder = ClientConfig::builder_with_details(Arc::new(provider()), Arc::new(Now(peer.time)));
    let mut config = builder
        .with_protocol_versions(&versions)
        .map_err(|_| Alert::PROTOCOL_VERSION)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Verifier>::clone(verifier))
        .with_client_cert_resolver(Arc::<Own>::clone(own));
    let store = Resumption::store(Arc::<Shelf>::clone(shelf));
    config.resumption = store.tls12_resumption(Tls12Resumption::Disabled);
    config.enable_secret_extraction = true;
    config.max_fragment_size = Some(FRAGMENT_MAX + RECORD_HEADER);
    config.key_log = Arc::clone(secrets) as Arc<dyn KeyLog>;
    Ok(config)
}

impl Engine for Rustls {
    fn begin(
        peer: &Peer<'_>,
        ticket: Option<Box<Ticket>>,
        rng: &mut dyn Rng,
        out: &mut Vec<u8>,
    ) -> Result<Self, Alert> {
        let _lent = Lent::new(rng, random::HELLO);
        let secrets = Arc::new(Secrets::default());
        let (shelf, verifier, own) = match ticket {
            Some(ticket) => Shelf::with(*ticket),
            None => {
                let verifier = Arc::new(Verifier::new(peer)?);
                (Shelf::default(), verifier, Arc::new(Own::new(peer.chain)))
            }
        };
        let shelf = Arc::new(shelf);
        let loan = Loan::new(&own, peer.key);
        let config = Arc::new(config(peer, &secrets, &verifier, &own, &shelf)?);
        // Without a name the server hears of none: an address is not sent (RFC 6066, 3), and this one is nobody's.
        let name = if peer.name.is_empty() {
            "0.0.0.0"
        } else {
            peer.name
        };
        let name = ServerName::try_from(name).map_err(|_| Alert::INTERNAL_ERROR)?;
        let connection =
            UnbufferedClientConnection::new(config, name.to_owned()).map_err(|_| Alert::INTERNAL_ERROR)?;
        let mut engine = Self {
            connection,
            incoming: Zeroizing::new(Vec::new()),
            heard: 0,
            secrets,
            shelf,
            verifier,
            loan,
        };
        match engine.run(out) {
            Progress::Going => Ok(engine),
            _ => Err(Alert::INTERNAL_ERROR),
        }
    }

    fn hear(&mut self, record: &[u8], rng: &mut dyn Rng, out: &mut Vec<u8>) -> Progress {
        self.heard = self.heard.saturating_add(record.len());
        if self.heard > HANDSHAKE_MAX {
            return self.give_up(Alert::INTERNAL_ERROR, out);
        }
        // Once there is a key of the handshake, its records are of type application_data outside (RFC 8446, 5.2); the engine would open one that says it is of another type too.
        if record.first() == Some(&HANDSHAKE) && self.secrets.has_handshake() {
            return self.give_up(Alert::UNEXPECTED_MESSAGE, out);
        }
        let _lent = Lent::new(rng, random::EXCHANGE);
        self.incoming.extend_from_slice(record);
        self.run(out)
    }

    fn heard(&self) -> usize {
        self.heard
    }

    fn finish(self) -> Result<Finished, Alert> {
        let version = match self.connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => Version::Tls13,
            Some(ProtocolVersion::TLSv1_2) => Version::Tls12,
            _ => return Err(Alert::INTERNAL_ERROR),
        };
        if !self.incoming.is_empty() {
            return Err(Alert::UNEXPECTED_MESSAGE);
        }
        let chain = self.connection.peer_certificates().unwrap_or_default();
        let (since, until) = validity(chain).ok_or(Alert::INTERNAL_ERROR)?;
        let certificate = sha256(&[chain.first().ok_or(Alert::INTERNAL_ERROR)?]);
        let extracted = self.connection.dangerous_into_kernel_connection();
        let (ExtractedSecrets { tx, rx }, connection) = extracted.map_err(|_| Alert::INTERNAL_ERROR)?;
        let direction = |(number, keys): (u64, ConnectionTrafficSecrets), secret: &[AtomicU32; 8]| {
            let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = keys else {
                return None;
            };
            let mut iv_bytes = Zeroizing::new([0; 12]);
            iv_bytes.copy_from_slice(iv.as_ref());
            match version {
                Version::Tls12 => {
                    let number = u32::try_from(number).ok()?;
                    Some(Direction::from_keys(key.as_ref(), *iv_bytes, number))
                }
                // The secret makes the key that the engine has, and no record has gone under it.
                Version::Tls13 => {
                    let direction = Direction::from_secret(*Secrets::get(secret));
                    (number == 0 && direction.is(key.as_ref(), iv_bytes.as_slice())).then_some(direction)
                }
            }
        };
        let tx = direction(tx, &self.secrets.tx).ok_or(Alert::INTERNAL_ERROR)?;
        let rx = direction(rx, &self.secrets.rx).ok_or(Alert::INTERNAL_ERROR)?;
        let later = (version == Version::Tls13).then(|| {
            Box::new(Later {
                connection,
                shelf: self.shelf,
                verifier: self.verifier,
                own: Arc::clone(self.loan.own()),
                until,
            })
        });
        Ok(Finished {
            traffic: Traffic::new(version, tx, rx),
            proof: Box::new(Proof {
                since,
                certificate,
                exporter: (version == Version::Tls13)
                    .then(|| *exporter(&Secrets::get(&self.secrets.exporter), CHANNEL_BINDING)),
            }),
            later,
        })
    }
}

/// What the server is told of an error of which the engine says nothing itself.
const fn alert_of(error: &Error) -> Option<Alert> {
    match error {
        Error::AlertReceived(_) => None,
        // RFC 8446, 4.4.2.4.
        Error::NoCertificatesPresented => Some(Alert::DECODE_ERROR),
        _ => Some(Alert::INTERNAL_ERROR),
    }
}

/// Whether records say something: `change_cipher_spec` does not.
fn is_something_said(mut records: &[u8]) -> bool {
    while let [content_type, _, _, a, b, behind @ ..] = records {
        if *content_type != CHANGE_CIPHER_SPEC {
            return true;
        }
        let len = usize::from(u16::from_be_bytes([*a, *b]));
        records = behind.get(len..).unwrap_or_default();
    }
    false
}

impl Rustls {
    /// Says an alert: under the key of the handshake as soon as there is one.
    fn give_up(&self, alert: Alert, out: &mut Vec<u8>) -> Progress {
        let text = [2, alert.0];
        let secret = Secrets::get(&self.secrets.handshake);
        if !self.secrets.has_handshake() {
            out.extend([ALERT, 3, 3, 0, 2]);
            out.extend(text);
            return Progress::Failed;
        }
        let direction = || Direction::from_secret(*secret);
        let mut traffic = Traffic::new(Version::Tls13, direction(), direction());
        let mut sealed = [0; 2 + 1 + TAG];
        let mut writer = Writer::new(&mut sealed);
        if traffic.seal(ALERT, &text, &mut writer).is_ok() {
            let mut header = [APPLICATION_DATA, 3, 3, 0, 0];
            let [.., len] = &mut header;
            *len = u8::try_from(sealed.len()).unwrap_or(0);
            out.extend(header);
            out.extend(sealed);
        }
        Progress::Failed
    }

    /// Lets the engine go on until it wants something. Behind an error it says its alert, and is asked nothing more: it would look at what it has refused again.
    #[inline(never)]
    fn run(&mut self, out: &mut Vec<u8>) -> Progress {
        let start = out.len();
        let mut failed = None;
        while failed.is_none() || self.connection.wants_write() {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.incoming);
            let progress = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => match data.encode(&mut []) {
                    Err(EncodeError::InsufficientSize(size)) => {
                        let end = out.len();
                        out.resize(end + size.required_size, 0);
                        let room = out.get_mut(end..).unwrap_or_default();
                        data.encode(room).err().map(|_| Progress::Failed)
                    }
                    _ => None,
                },
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Progress::Going),
                Ok(ConnectionState::WriteTraffic(_)) => Some(Progress::Done),
                Err(error) if failed.is_none() => {
                    failed = Some(alert_of(&error));
                    None
                }
                _ => Some(Progress::Failed),
            };
            let discard = discard.min(self.incoming.len());
            self.incoming.drain(..discard);
            match progress {
                None => {}
                Some(Progress::Failed) => {
                    failed.get_or_insert(Some(Alert::INTERNAL_ERROR));
                    break;
                }
                Some(progress) => return progress,
            }
        }
        let said = is_something_said(out.get(start..).unwrap_or_default());
        match failed.flatten() {
            Some(alert) if !said => self.give_up(alert, out),
            _ => Progress::Failed,
        }
    }
}
