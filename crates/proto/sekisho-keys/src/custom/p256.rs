//! P-256 over a build's engine.

use zeroize::Zeroizing;

use super::symbols;
use crate::sha256;

/// Erased when dropped.
#[derive(Clone)]
pub(crate) struct PrivateKey {
    scalar: Zeroizing<[u8; 32]>,
    public: PublicKey,
}

impl PrivateKey {
    /// `None` when the scalar is zero or not below the group's order.
    pub(crate) fn new(scalar: &[u8; 32]) -> Option<Self> {
        let public = PublicKey(symbols::p256_public_key(scalar)?);
        Some(Self {
            scalar: Zeroizing::new(*scalar),
            public,
        })
    }

    pub(crate) fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.scalar.clone()
    }

    pub(crate) const fn public_key(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn sign(&self, parts: &[&[u8]]) -> [u8; 64] {
        symbols::p256_sign(&self.scalar, &sha256(parts))
    }

    /// The x coordinate of the common point.
    pub(crate) fn agree(&self, peer: &PublicKey) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(symbols::p256_agree(&self.scalar, &peer.0))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PublicKey([u8; 65]);

impl PublicKey {
    /// `None` unless the bytes are an uncompressed point of the curve.
    pub(crate) fn new(point: &[u8; 65]) -> Option<Self> {
        symbols::p256_is_point(point).then_some(Self(*point))
    }

    pub(crate) const fn to_sec1(self) -> [u8; 65] {
        self.0
    }

    pub(crate) fn verify(&self, parts: &[&[u8]], signature: &[u8; 64]) -> bool {
        symbols::p256_verify(&self.0, &sha256(parts), signature)
    }
}
