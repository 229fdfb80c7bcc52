//! Certificates.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

pub(crate) struct Certified {
    pub(crate) certificate: Vec<u8>,
    pub(crate) pem: String,
    pub(crate) key: KeyPair,
}

impl Certified {
    pub(crate) fn scalar(&self) -> [u8; 32] {
        // PKCS #8 around an ECPrivateKey: version 1, then 32 bytes.
        let der = self.key.serialize_der();
        let at = der
            .windows(5)
            .position(|bytes| bytes == [2, 1, 1, 4, 32])
            .unwrap()
            + 5;
        der[at..at + 32].try_into().unwrap()
    }
}

/// A certificate authority on P-256, and what it has certified.
pub(crate) struct Pki {
    pub(crate) authority: Certified,
    pub(crate) server: Certified,
    pub(crate) element: Certified,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self::with("authority", |_| {})
    }

    /// An authority of this name, and the server's certificate as `change` has it.
    pub(crate) fn with(authority: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::of(authority, change, |_| {})
    }

    /// The element's certificate as `change` has it.
    #[allow(dead_code, reason = "shared with another program")]
    pub(crate) fn with_element(change: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::of("authority", |_| {}, change)
    }

    fn of(
        authority: &str,
        change: impl FnOnce(&mut CertificateParams),
        change_element: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, authority);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::from_params(&params, &key);
        let certify = |name: &str, usage, change: Box<dyn FnOnce(&mut CertificateParams) + '_>| {
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            change(&mut params);
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            Certified {
                certificate: certificate.der().to_vec(),
                pem: certificate.pem(),
                key,
            }
        };
        let server = certify("localhost", ExtendedKeyUsagePurpose::ServerAuth, Box::new(change));
        let element = certify(
            "element.example",
            ExtendedKeyUsagePurpose::ClientAuth,
            Box::new(change_element),
        );
        let authority = Certified {
            certificate: certificate.der().to_vec(),
            pem: certificate.pem(),
            key,
        };
        Self {
            authority,
            server,
            element,
        }
    }
}
