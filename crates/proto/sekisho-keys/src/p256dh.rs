//! Ephemeral key agreement on P-256 (SEC 1 section 3.3.1, cofactor 1).

use core::fmt;

use zeroize::Zeroizing;

use crate::p256sig::InvalidKey;
use crate::{Rng, engine};

/// An uncompressed point: 04, x, y.
pub const PUBLIC_KEY_LEN: usize = 65;
/// A random 32-byte string is no scalar with probability 2^-32; this many in a row mean a broken generator.
const TRIES: usize = 4;

/// A key pair for one agreement. Wiped when dropped.
pub struct EphemeralKey(engine::PrivateKey);

impl EphemeralKey {
    /// Draws a key pair.
    ///
    /// # Errors
    /// [`InvalidKey`] when `rng` gives no scalar in four tries.
    pub fn generate(rng: &mut dyn Rng) -> Result<Self, InvalidKey> {
        let mut scalar = Zeroizing::new([0; 32]);
        for _ in 0..TRIES {
            rng.fill(scalar.as_mut());
            if let Some(key) = engine::PrivateKey::new(&scalar) {
                return Ok(Self(key));
            }
        }
        Err(InvalidKey)
    }

    /// The public key to send.
    pub fn public_key(&self) -> [u8; PUBLIC_KEY_LEN] {
        self.0.public_key().to_sec1()
    }

    /// The x coordinate of the common point.
    ///
    /// # Errors
    /// [`InvalidKey`] when `peer` is anything but an uncompressed point of the curve.
    pub fn agree(self, peer: &[u8]) -> Result<Zeroizing<[u8; 32]>, InvalidKey> {
        // Of SEC 1's encodings only the uncompressed one is this long.
        let peer: &[u8; PUBLIC_KEY_LEN] = peer.try_into().map_err(|_| InvalidKey)?;
        let peer = engine::PublicKey::new(peer).ok_or(InvalidKey)?;
        Ok(self.0.agree(&peer))
    }
}

impl fmt::Debug for EphemeralKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EphemeralKey(redacted)")
    }
}
