//! A gateway, an authority and an SE of the tests' own.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, RevokedCertParams, date_time_ymd,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sekisho_gateway::{AcceptError, Credentials, Gateway, Session, Settings};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) type Issued = (CertificateParams, KeyPair, String, Vec<u8>);

pub(crate) fn authority() -> Issued {
    authority_with(KeyPair::generate().unwrap())
}

pub(crate) fn authority_with(key: KeyPair) -> Issued {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = params.self_signed(&key).unwrap();
    (params, key, made.pem(), made.der().to_vec())
}

pub(crate) fn issue(name: &str, usage: ExtendedKeyUsagePurpose, authority: &Issued, key: KeyPair) -> Issued {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.extended_key_usages = vec![usage];
    params.serial_number = Some(SERIAL.into());
    let made = params
        .signed_by(&key, &Issuer::from_params(&authority.0, &authority.1))
        .unwrap();
    (params, key, made.pem(), made.der().to_vec())
}

/// The serial number of what is issued.
pub(crate) const SERIAL: u64 = 0x5E_C154;

/// The list of an authority, with this serial number in it. It is years old.
pub(crate) fn list(authority: &Issued, serial: u64) -> Vec<u8> {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(2020, 2, 1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let made = params.signed_by(&Issuer::from_params(&authority.0, &authority.1));
    made.unwrap().pem().unwrap().into_bytes()
}

pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) listener: TcpListener,
    pub(crate) authority: Issued,
    pub(crate) element: Issued,
}

pub(crate) fn credentials(authority: &Issued) -> Credentials {
    let server = issue(
        "localhost",
        ExtendedKeyUsagePurpose::ServerAuth,
        authority,
        KeyPair::generate().unwrap(),
    );
    Credentials {
        chain: server.2.into_bytes(),
        key: server.1.serialize_pem().into_bytes(),
        authorities: authority.2.clone().into_bytes(),
        revoked: None,
    }
}

impl World {
    pub(crate) async fn new(settings: Settings) -> Self {
        let authority = authority();
        let key = KeyPair::generate().unwrap();
        Self {
            gateway: Gateway::new(&credentials(&authority), settings).unwrap(),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            element: issue(
                "element.example",
                ExtendedKeyUsagePurpose::ClientAuth,
                &authority,
                key,
            ),
            authority,
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        let address = self.listener.local_addr().unwrap();
        TcpStream::connect(address).await.unwrap()
    }

    pub(crate) fn config(&self, element: Option<&Issued>, provider: CryptoProvider) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.3.clone().into()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match element {
            None => builder.with_no_client_auth(),
            Some((_, key, _, der)) => {
                let key = PrivatePkcs8KeyDer::from(key.serialize_der());
                builder
                    .with_client_auth_cert(vec![der.clone().into()], key.into())
                    .unwrap()
            }
        }
    }

    /// Both ends of a connection whose client has this certificate.
    pub(crate) async fn both(
        &self,
        element: Option<&Issued>,
    ) -> (
        Result<Session, AcceptError>,
        std::io::Result<TlsStream<TcpStream>>,
    ) {
        self.both_with(element, rustls::crypto::ring::default_provider())
            .await
    }

    pub(crate) async fn both_with(
        &self,
        element: Option<&Issued>,
        provider: CryptoProvider,
    ) -> (
        Result<Session, AcceptError>,
        std::io::Result<TlsStream<TcpStream>>,
    ) {
        self.both_as(&Arc::new(self.config(element, provider))).await
    }

    pub(crate) async fn both_as(
        &self,
        config: &Arc<ClientConfig>,
    ) -> (
        Result<Session, AcceptError>,
        std::io::Result<TlsStream<TcpStream>>,
    ) {
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::clone(config));
        let accept = async {
            let (stream, from) = self.listener.accept().await.unwrap();
            let room = self.gateway.room(from.ip()).unwrap();
            self.gateway.accept(room, stream).await
        };
        tokio::join!(accept, async {
            connector.connect(name, self.connect().await).await
        })
    }

    pub(crate) async fn session(&self) -> (Session, TlsStream<TcpStream>) {
        let (session, element) = self.both(Some(&self.element)).await;
        (session.unwrap(), element.unwrap())
    }
}

pub(crate) const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What one record carries.
pub(crate) async fn command(element: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let command = element.fill_buf().await.unwrap().to_vec();
    element.consume(command.len());
    command
}

pub(crate) async fn answer(element: &mut TlsStream<TcpStream>, answer: &[u8]) {
    element.write_all(answer).await.unwrap();
    element.flush().await.unwrap();
}

pub(crate) const SOON: Settings = Settings {
    handshake: Duration::from_millis(300),
    answer: Duration::from_millis(300),
    ..Settings::DEFAULT
};
