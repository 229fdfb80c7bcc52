//! A server in memory.

use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};
use sekisho_tls::Version;

use crate::pki::Pki;

/// One that wants the SE's certificate, and gives so many tickets where it speaks TLS 1.3.
pub(crate) fn server(pki: &Pki, version: Version, tickets: usize) -> ServerConnection {
    ServerConnection::new(Arc::new(config(pki, version, tickets, &[]))).unwrap()
}

/// The same with further certificates behind its own.
pub(crate) fn config(pki: &Pki, version: Version, tickets: usize, further: &[Vec<u8>]) -> ServerConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.authority.certificate.clone().into()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(pki.server.key.serialize_der());
    let version = match version {
        Version::Tls12 => &rustls::version::TLS12,
        Version::Tls13 => &rustls::version::TLS13,
    };
    let chain = core::iter::once(&pki.server.certificate).chain(further);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(builder.build().unwrap())
        .with_single_cert(chain.map(|der| der.clone().into()).collect(), key.into())
        .unwrap();
    config.send_tls13_tickets = tickets;
    config
}
