//! The device endpoint's TLS: rustls with ring.

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

/// A certificate chain and its private key, both PEM.
#[derive(Clone)]
pub struct Certificate {
    /// The chain; devices pin it.
    pub chain: String,
    /// The private key.
    pub key: String,
}

/// The key is never shown.
impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate")
            .field("chain", &self.chain)
            .finish_non_exhaustive()
    }
}

/// Why a certificate is not usable.
#[derive(Debug, thiserror::Error)]
#[error("certificate: {0}")]
pub struct TlsError(String);

impl Certificate {
    /// Makes a self-signed certificate for these names and addresses: enough where devices pin it.
    ///
    /// # Errors
    /// [`TlsError`] when a name is none.
    pub fn self_signed(names: &[&str]) -> Result<Self, TlsError> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).map_err(|error| TlsError(error.to_string()))?;
        Ok(Self {
            chain: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        })
    }
}

pub(crate) fn server_config(certificate: &Certificate) -> Result<ServerConfig, TlsError> {
    let wrong = |what: &str| TlsError(format!("{what} is not readable PEM"));
    let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| wrong("the chain"))?;
    let key =
        PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).map_err(|_| wrong("the private key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let failed = |error: rustls::Error| TlsError(error.to_string());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(failed)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
