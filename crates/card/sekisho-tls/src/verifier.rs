//! Who a server is to be: a chain to an anchor of the peer's, the peer's name or a key that is pinned, or both. The engine's own functions look at chain, name and signatures; what is here is the pin.

use alloc::vec::Vec;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sekisho_keys::sha256;

use crate::Alert;
use crate::engine::Peer;
use crate::provider::ALGORITHMS;

/// Verifies the server of one peer.
#[derive(Debug)]
pub(crate) struct Verifier {
    roots: RootCertStore,
    pin: Option<[u8; 32]>,
    is_named: bool,
}

impl Verifier {
    /// # Errors
    /// `unknown_ca` for an anchor that is none, `internal_error` for a peer with neither name nor pin.
    pub(crate) fn new(peer: &Peer<'_>) -> Result<Self, Alert> {
        let mut roots = RootCertStore::empty();
        for anchor in peer.anchors {
            let anchor = CertificateDer::from(anchor.to_vec());
            roots.add(anchor).map_err(|_| Alert::UNKNOWN_CA)?;
        }
        if roots.is_empty() {
            return Err(Alert::UNKNOWN_CA);
        }
        let is_named = !peer.name.is_empty();
        if !is_named && peer.pin.is_none() {
            return Err(Alert::INTERNAL_ERROR);
        }
        Ok(Self {
            roots,
            pin: peer.pin,
            is_named,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            ALGORITHMS.all,
        )?;
        if self.is_named {
            verify_server_name(&certificate, server_name)?;
        }
        if let Some(pin) = &self.pin {
            let key = certificate.subject_public_key_info();
            if sha256(&[key.as_ref()]) != *pin {
                return Err(CertificateError::NotValidForName.into());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &ALGORITHMS)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}
