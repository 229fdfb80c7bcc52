//! What the engine computes with: sekisho-keys, and nothing else. TLS 1.3 and 1.2 with AES-128-GCM, SHA-256, ECDHE on P-256 and ECDSA on P-256.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};
use rustls::crypto::hmac::{Hmac, Key, Tag};
use rustls::crypto::tls12::PrfUsingHmac;
use rustls::crypto::tls13::HkdfUsingHmac;
use rustls::crypto::{
    ActiveKeyExchange, CipherSuiteCommon, CryptoProvider, GetRandomFailed, KeyExchangeAlgorithm, KeyProvider,
    SecureRandom, SharedSecret, SupportedKxGroup, WebPkiSupportedAlgorithms,
};
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, PrivateKeyDer, SignatureVerificationAlgorithm, alg_id,
};
use rustls::sign::{Signer, SigningKey};
use rustls::{
    CipherSuite, Error, NamedGroup, SignatureAlgorithm, SignatureScheme, SupportedCipherSuite,
    Tls12CipherSuite, Tls13CipherSuite,
};
use sekisho_keys::p256dh::EphemeralKey;
use sekisho_keys::p256sig::{self, VerifyingKey};
use sekisho_keys::{Sha256, hmac_sha256, sha256};
use zeroize::Zeroizing;

use crate::aead::Aes128Gcm;
use crate::random;
use crate::traffic::RECORDS_MAX;

/// The provider of a session.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: Vec::from([
            SupportedCipherSuite::Tls13(&TLS13),
            SupportedCipherSuite::Tls12(&TLS12),
        ]),
        kx_groups: Vec::from([&P256 as &'static dyn SupportedKxGroup]),
        signature_verification_algorithms: ALGORITHMS,
        secure_random: &Lent,
        key_provider: &NoKeys,
    }
}

/// Of certificates and of the server's own.
pub(crate) static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[&Ecdsa],
    mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &[&Ecdsa])],
};

/// `TLS_AES_128_GCM_SHA256`.
static TLS13: Tls13CipherSuite = Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_AES_128_GCM_SHA256,
        hash_provider: &Sha,
        confidentiality_limit: RECORDS_MAX as u64,
    },
    hkdf_provider: &HkdfUsingHmac(&HmacSha),
    aead_alg: &Aes128Gcm,
    quic: None,
};

/// `TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256`.
static TLS12: Tls12CipherSuite = Tls12CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        hash_provider: &Sha,
        confidentiality_limit: RECORDS_MAX as u64,
    },
    kx: KeyExchangeAlgorithm::ECDHE,
    sign: &[SignatureScheme::ECDSA_NISTP256_SHA256],
    aead_alg: &Aes128Gcm,
    prf_provider: &PrfUsingHmac(&HmacSha),
};

#[derive(Debug)]
struct Lent;

impl SecureRandom for Lent {
    fn fill(&self, out: &mut [u8]) -> Result<(), GetRandomFailed> {
        random::fill(out).ok_or(GetRandomFailed)
    }
}

/// Keys are values here; none is read from DER.
#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        Err(Error::General("no private keys in DER".into()))
    }
}

struct Sha;

impl Hash for Sha {
    fn start(&self) -> Box<dyn Context> {
        Box::new(Hashing(Sha256::new()))
    }

    fn hash(&self, data: &[u8]) -> Output {
        Output::new(&sha256(&[data]))
    }

    fn output_len(&self) -> usize {
        32
    }

    fn algorithm(&self) -> HashAlgorithm {
        HashAlgorithm::SHA256
    }
}

struct Hashing(Sha256);

impl Context for Hashing {
    fn fork_finish(&self) -> Output {
        Output::new(&self.0.clone().finalize())
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Self(self.0.clone()))
    }

    fn finish(self: Box<Self>) -> Output {
        Output::new(&self.0.finalize())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }
}

struct HmacSha;

impl Hmac for HmacSha {
    fn with_key(&self, key: &[u8]) -> Box<dyn Key> {
        Box::new(HmacKey(Zeroizing::new(key.to_vec())))
    }

    fn hash_output_len(&self) -> usize {
        32
    }
}

struct HmacKey(Zeroizing<Vec<u8>>);

impl Key for HmacKey {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> Tag {
        let mut parts = Vec::with_capacity(middle.len() + 2);
        parts.push(first);
        parts.extend_from_slice(middle);
        parts.push(last);
        Tag::new(&hmac_sha256(&self.0, &parts))
    }

    fn tag_len(&self) -> usize {
        32
    }
}

#[derive(Debug)]
struct P256;

impl SupportedKxGroup for P256 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let key = EphemeralKey::generate(&mut random::FromLent).map_err(|_| Error::FailedToGetRandomBytes)?;
        let public = key.public_key();
        Ok(Box::new(Exchange { key, public }))
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp256r1
    }
}

struct Exchange {
    key: EphemeralKey,
    public: [u8; 65],
}

impl ActiveKeyExchange for Exchange {
    /// Takes uncompressed points alone (RFC 8446, 4.2.8.2; RFC 8422, 5.4).
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let common = self
            .key
            .agree(peer)
            .map_err(|_| Error::from(rustls::PeerMisbehaved::InvalidKeyShare))?;
        Ok(SharedSecret::from(common.as_slice()))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp256r1
    }
}

/// ECDSA on P-256 with SHA-256.
#[derive(Debug)]
struct Ecdsa;

impl SignatureVerificationAlgorithm for Ecdsa {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let point = public_key.try_into().map_err(|_| InvalidSignature)?;
        let key = VerifyingKey::from_sec1(point).map_err(|_| InvalidSignature)?;
        key.verify_der(message, signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
}

/// The SE's private key.
#[derive(Clone)]
pub(crate) struct ClientKey(pub(crate) p256sig::SigningKey);

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey(P-256)")
    }
}

impl SigningKey for ClientKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let fits = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        fits.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for ClientKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut der = [0; 72];
        let len = self.0.sign_der(message, &mut der);
        let signature = der.get(..len).filter(|der| !der.is_empty());
        signature
            .map(<[u8]>::to_vec)
            .ok_or(Error::General("no signature".into()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
