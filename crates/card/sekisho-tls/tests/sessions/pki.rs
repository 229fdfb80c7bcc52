//! Certificates.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, RevokedCertParams,
    SignatureAlgorithm, date_time_ymd,
};

pub(crate) struct Certified {
    pub(crate) certificate: Vec<u8>,
    pub(crate) pem: String,
    pub(crate) key: KeyPair,
}

impl Certified {
    fn again(&self) -> Self {
        Self {
            certificate: self.certificate.clone(),
            pem: self.pem.clone(),
            key: KeyPair::try_from(self.key.serialize_der()).unwrap(),
        }
    }

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

/// A public key alone, an uncompressed point.
struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// What an authority of this name is.
fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Pki {
    /// What the authority, whose name is `authority`, certifies of a client's public key.
    #[allow(dead_code, reason = "shared with another program")]
    pub(crate) fn certify(&self, name: &str, point: &[u8]) -> Vec<u8> {
        let authority = authority_params("authority");
        let issuer = Issuer::from_params(&authority, &self.authority.key);
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&Point(point.to_vec()), &issuer).unwrap();
        certificate.der().to_vec()
    }

    /// The same authority, whose name is `authority`, and the same element, with a server's certificate as `change` has it.
    #[allow(dead_code, reason = "shared with another program")]
    pub(crate) fn with_server(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let issuer = Issuer::new(
            authority_params("authority"),
            KeyPair::try_from(self.authority.key.serialize_der()).unwrap(),
        );
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Self {
            authority: self.authority.again(),
            server: Certified {
                certificate: certificate.der().to_vec(),
                pem: certificate.pem(),
                key,
            },
            element: self.element.again(),
        }
    }

    /// The authority's list of what it has revoked: the certificate with this serial number. PEM.
    #[allow(dead_code, reason = "shared with another program")]
    pub(crate) fn revoking(&self, serial: u64) -> String {
        let authority = authority_params("authority");
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
        let made = params.signed_by(&Issuer::from_params(&authority, &self.authority.key));
        made.unwrap().pem().unwrap()
    }

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
        let params = authority_params(authority);
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
