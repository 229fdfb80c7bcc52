//! A certificate authority for what runs on this machine alone: for a lab, for a measurement.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use sekisho_applets::file_system;
use sekisho_gateway::Credentials;

use crate::card::tls_perso::{Peer, TlsRecords};

/// An authority on P-256 that certifies a server and secure elements.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate with its key.
pub(crate) struct Certified {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
}

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        self.certificate.der()
    }

    pub(crate) fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn certify(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Result<Certified> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Certified { certificate, key })
    }

    /// A gateway of this name.
    pub(crate) fn gateway(&self, name: &str) -> Result<Credentials> {
        let server = self.certify(name, ExtendedKeyUsagePurpose::ServerAuth)?;
        Ok(Credentials {
            chain: server.certificate.pem().into_bytes(),
            key: server.key.serialize_pem().into_bytes(),
            authorities: self.certificate.pem().into_bytes(),
            revoked: None,
        })
    }

    /// What the TLS Manager of a secure element is made with whose row 0001 is this gateway, which reaches the file system.
    pub(crate) fn element(&self, name: &str, gateway: &str) -> Result<TlsRecords> {
        let element = self.certify(name, ExtendedKeyUsagePurpose::ClientAuth)?;
        let peer = Peer {
            name: gateway,
            applications: &[file_system::AID],
            anchor: self.certificate(),
            rights: 0,
            level: 0,
            pin: None,
        };
        let chain = [element.certificate.der().clone()];
        TlsRecords::of(&element.key.serialize_der(), &chain, &peer)
    }
}
