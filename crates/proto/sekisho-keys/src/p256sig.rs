//! ECDSA over P-256 with SHA-256 (FIPS 186-5); signatures are `r(32) || s(32)`, nonces deterministic (RFC 6979).

use core::fmt;

use zeroize::Zeroizing;

use crate::{Rng, Verdict, engine};

/// The signature is not this key's over this message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureError;

/// The bytes are no P-256 key: a private key is 1 to n-1, a public key an uncompressed point on the curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKey;

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wrong signature")
    }
}

impl fmt::Display for InvalidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a P-256 key")
    }
}

impl core::error::Error for SignatureError {}
impl core::error::Error for InvalidKey {}

/// A private key. Erased when dropped.
#[derive(Clone)]
pub struct SigningKey(engine::PrivateKey);

impl SigningKey {
    /// The key of a big-endian private scalar.
    ///
    /// # Errors
    /// [`InvalidKey`] when it is zero or not below the group's order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, InvalidKey> {
        engine::PrivateKey::new(bytes).map(Self).ok_or(InvalidKey)
    }

    /// A new key.
    ///
    /// # Errors
    /// [`InvalidKey`] when `rng` gives no usable scalar in 16 tries, which is no randomness then (a try fails once in 2^32).
    pub fn generate(rng: &mut dyn Rng) -> Result<Self, InvalidKey> {
        let mut bytes = Zeroizing::new([0; 32]);
        for _ in 0..16 {
            rng.fill(bytes.as_mut_slice());
            if let Ok(key) = Self::from_bytes(&bytes) {
                return Ok(key);
            }
        }
        Err(InvalidKey)
    }

    /// The private scalar: only to store it.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.0.to_bytes()
    }

    /// The public key that belongs to it.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.public_key())
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.sign_parts(&[message])
    }

    /// Signs the concatenation of `parts`.
    pub fn sign_parts(&self, parts: &[&[u8]]) -> [u8; 64] {
        self.0.sign(parts)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(P-256)")
    }
}

/// A public key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerifyingKey(engine::PublicKey);

impl VerifyingKey {
    /// The key of an uncompressed point, `04 || x(32) || y(32)` (SEC 1, 2.3.3).
    ///
    /// # Errors
    /// [`InvalidKey`] for another form or a point that is not on the curve.
    pub fn from_sec1(bytes: &[u8; 65]) -> Result<Self, InvalidKey> {
        engine::PublicKey::new(bytes).map(Self).ok_or(InvalidKey)
    }

    /// The uncompressed point.
    pub fn to_sec1(&self) -> [u8; 65] {
        self.0.to_sec1()
    }

    /// Checks `signature` over `message`.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), SignatureError> {
        self.verify_parts(&[message], signature)
    }

    /// Checks `signature` over the concatenation of `parts`.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify_parts(&self, parts: &[&[u8]], signature: &[u8; 64]) -> Result<(), SignatureError> {
        if self.0.verify(parts, signature) {
            Ok(())
        } else {
            Err(SignatureError)
        }
    }
}

#[cfg(feature = "tls")]
impl VerifyingKey {
    /// [`VerifyingKey::verify`] with a signature in DER (`Ecdsa-Sig-Value`, RFC 3279, 2.2.3).
    ///
    /// # Errors
    /// [`SignatureError`], for what is no such signature too.
    pub fn verify_der(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let signature = engine::signature_from_der(signature).ok_or(SignatureError)?;
        self.verify(message, &signature)
    }
}

#[cfg(feature = "tls")]
impl SigningKey {
    /// Signs `message`; the signature in DER stands in front in `out`, its length is given back.
    pub fn sign_der(&self, message: &[u8], out: &mut [u8; 72]) -> usize {
        engine::signature_to_der(&self.sign(message), out)
    }
}

impl VerifyingKey {
    /// [`VerifyingKey::verify_parts`], computed twice: for a card, whose chip somebody may make leave out an instruction.
    pub fn verdict(&self, parts: &[&[u8]], signature: &[u8; 64]) -> Verdict {
        Verdict::of(&(self, parts, signature), |(key, parts, signature)| {
            key.0.verify(parts, signature)
        })
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifyingKey(")?;
        self.to_sec1()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02X}"))?;
        f.write_str(")")
    }
}
