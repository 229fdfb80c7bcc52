//! Ephemeral key agreement on P-256 (SEC 1 section 3.3.1, cofactor 1), for opening and refreshing the ratchet.

use core::fmt;

use p256::elliptic_curve::sec1::ToSec1Point;
use p256::{PublicKey, SecretKey};
use sekisho_keys::Rng;
use zeroize::{Zeroize, Zeroizing};

use crate::schedule::ScheduleError;

/// An uncompressed point: 04, x, y.
pub const PUBLIC_KEY_LEN: usize = 65;
/// A random 32-byte string is no scalar with probability 2^-32; this many in a row mean a broken generator.
const TRIES: usize = 4;

/// A key pair for one agreement. Wiped when dropped.
pub struct EphemeralKey(SecretKey);

impl EphemeralKey {
    /// Draws a key pair. Fails only if `rng` gives no scalar in four tries.
    pub fn generate(rng: &mut dyn Rng) -> Result<Self, ScheduleError> {
        let mut scalar = Zeroizing::new([0; 32]);
        for _ in 0..TRIES {
            rng.fill(scalar.as_mut());
            if let Ok(key) = SecretKey::from_slice(scalar.as_ref()) {
                return Ok(Self(key));
            }
        }
        scalar.zeroize();
        Err(ScheduleError::BadKeyData)
    }

    /// The public key to send.
    pub fn public_key(&self) -> [u8; PUBLIC_KEY_LEN] {
        let mut bytes = [0; PUBLIC_KEY_LEN];
        let point = self.0.public_key().to_sec1_point(false);
        for (place, byte) in bytes.iter_mut().zip(point.as_bytes()) {
            *place = *byte;
        }
        bytes
    }

    /// The x coordinate of the common point. Refuses anything but an uncompressed point of the curve.
    pub(crate) fn agree(self, peer: &[u8]) -> Result<Zeroizing<[u8; 32]>, ScheduleError> {
        // Of SEC 1's encodings only the uncompressed one is this long.
        if peer.len() != PUBLIC_KEY_LEN {
            return Err(ScheduleError::BadKeyData);
        }
        let peer = PublicKey::from_sec1_bytes(peer).map_err(|_| ScheduleError::BadKeyData)?;
        Ok(Zeroizing::new(self.0.diffie_hellman(&peer).raw_secret_bytes().0))
    }
}

impl fmt::Debug for EphemeralKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EphemeralKey(redacted)")
    }
}
