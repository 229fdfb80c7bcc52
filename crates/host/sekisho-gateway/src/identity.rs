//! Who an SE is: what its certificate says.

use core::fmt;

use rustls::pki_types::CertificateDer;

/// What a verified certificate says of an SE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its DNS names (`subjectAltName`), as they stand there.
    pub names: Vec<String>,
    /// SHA-256 over its `SubjectPublicKeyInfo`: the same for every certificate of this key.
    pub key: [u8; 32],
    /// The certificate, DER.
    pub certificate: Vec<u8>,
}

impl Identity {
    /// `None` when it cannot be read.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let read = webpki::EndEntityCert::try_from(certificate).ok()?;
        Some(Self {
            names: read.valid_dns_names().map(str::to_owned).collect(),
            key: sekisho_keys::sha256(&[&read.subject_public_key_info()]),
            certificate: certificate.to_vec(),
        })
    }
}

/// The first name, or else the key's first bytes.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.names.first() {
            return f.write_str(name);
        }
        f.write_str("key ")?;
        self.key
            .iter()
            .take(8)
            .try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}
