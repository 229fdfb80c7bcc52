//! The fleet's certification authority: gives each SE that has made a key pair a certificate of its public part.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SignatureAlgorithm,
};
use sekisho_link::SeId;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[error("certification authority: {0}")]
pub struct AuthorityError(String);

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self(error.to_string())
    }
}

/// The authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// An uncompressed P-256 point.
struct Point<'a>(&'a [u8; 65]);

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl Authority {
    /// A new key, PEM: to be kept, or every certificate is worth nothing after a restart.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn new_key() -> Result<String, AuthorityError> {
        Ok(KeyPair::generate()?.serialize_pem())
    }

    /// The authority of a key.
    ///
    /// # Errors
    /// [`AuthorityError`] when it is none.
    pub fn new(key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key)?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "Sekisho fleet authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for the public key of an SE, whose SE-id is its name: DER.
    pub(crate) fn certify(&self, se_id: SeId, public_key: &[u8; 65]) -> Result<Vec<u8>, AuthorityError> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, se_id.to_string());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&Point(public_key), &self.issuer)?;
        Ok(certificate.der().to_vec())
    }
}
