//! Certificates.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

pub(crate) struct Certified {
    pub(crate) certificate: Vec<u8>,
    pub(crate) pem: String,
    pub(crate) key: KeyPair,
}

impl Certified {
    /// The private key as an SE has it.
    pub(crate) fn scalar(&self) -> [u8; 32] {
        // PKCS #8 around an ECPrivateKey: version 1, then 32 bytes.
        const BEFORE: [u8; 5] = [2, 1, 1, 4, 32];
        let der = self.key.serialize_der();
        let at = der.windows(5).position(|bytes| bytes == BEFORE).unwrap() + 5;
        der[at..at + 32].try_into().unwrap()
    }
}

/// An authority on P-256, and what it has certified.
pub(crate) struct Pki {
    pub(crate) authority: Certified,
    pub(crate) server: Certified,
    pub(crate) element: Certified,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::from_params(&params, &key);
        let certify = |name: &str, usage| {
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            Certified {
                certificate: certificate.der().to_vec(),
                pem: certificate.pem(),
                key,
            }
        };
        Self {
            server: certify("localhost", ExtendedKeyUsagePurpose::ServerAuth),
            element: certify("element.example", ExtendedKeyUsagePurpose::ClientAuth),
            authority: Certified {
                certificate: certificate.der().to_vec(),
                pem: certificate.pem(),
                key,
            },
        }
    }
}
