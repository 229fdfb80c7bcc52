//! AES keys.

use core::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::KeyLengthError;

/// An AES key of 16, 24 or 32 bytes. Erased when dropped; compares in constant time; prints only its length.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct AesKey(pub(crate) Bytes);

/// One variant for each key length, so that no operation can meet a key that its cipher does not take. All are filled up with zeros to the same
/// length: a value that is moved would else take with it whatever stood where it is shorter.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) enum Bytes {
    Aes128([u8; 16], [u8; 16]),
    Aes192([u8; 24], [u8; 8]),
    Aes256([u8; 32]),
}

impl AesKey {
    /// A key of these bytes.
    ///
    /// # Errors
    /// [`KeyLengthError`] unless there are 16, 24 or 32.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyLengthError> {
        let mut key = Self::zero(bytes.len())?;
        key.as_mut_bytes().copy_from_slice(bytes);
        Ok(key)
    }

    /// An AES-128 key.
    pub const fn aes128(bytes: [u8; 16]) -> Self {
        Self(Bytes::Aes128(bytes, [0; 16]))
    }

    /// A key of random bytes.
    ///
    /// # Errors
    /// [`KeyLengthError`] unless `len` is 16, 24 or 32.
    pub fn generate(len: usize, rng: &mut dyn crate::Rng) -> Result<Self, KeyLengthError> {
        let mut key = Self::zero(len)?;
        rng.fill(key.as_mut_bytes());
        Ok(key)
    }

    fn zero(len: usize) -> Result<Self, KeyLengthError> {
        match len {
            16 => Ok(Self(Bytes::Aes128([0; 16], [0; 16]))),
            24 => Ok(Self(Bytes::Aes192([0; 24], [0; 8]))),
            32 => Ok(Self(Bytes::Aes256([0; 32]))),
            _ => Err(KeyLengthError),
        }
    }

    /// A key of the same length, its bytes set by `fill`.
    pub(crate) fn same_length(&self, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut key = self.clone();
        let bytes = key.as_mut_bytes();
        bytes.fill(0);
        fill(bytes);
        key
    }

    /// The key itself: only to store it, to wrap it, or to hand it to a token.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Aes128(bytes, _) => bytes,
            Bytes::Aes192(bytes, _) => bytes,
            Bytes::Aes256(bytes) => bytes,
        }
    }

    fn as_mut_bytes(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Bytes::Aes128(bytes, _) => bytes,
            Bytes::Aes192(bytes, _) => bytes,
            Bytes::Aes256(bytes) => bytes,
        }
    }

    /// Its length in bytes: 16, 24 or 32.
    #[allow(clippy::len_without_is_empty)] // a key is never empty
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }
}

impl PartialEq for AesKey {
    fn eq(&self, other: &Self) -> bool {
        crate::ct_eq(self.as_bytes(), other.as_bytes())
    }
}

impl Eq for AesKey {}

impl fmt::Debug for AesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AesKey(AES-{})", self.len() * 8)
    }
}

/// The static SCP03 keys of a key version: Key-ENC, Key-MAC and Key-DEK (Amd D Table 6-1), which should have one length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    /// Key-ENC, KID 01.
    pub enc: AesKey,
    /// Key-MAC, KID 02.
    pub mac: AesKey,
    /// Key-DEK, KID 03.
    pub dek: AesKey,
}

/// The name of a key. Named fields and no pair, since GlobalPlatform writes the two in either order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRef {
    /// Key version number.
    pub kvn: u8,
    /// Key identifier.
    pub kid: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_lengths() {
        for len in 0..40 {
            assert_eq!(
                AesKey::new(&[1; 40][..len]).is_ok(),
                [16, 24, 32].contains(&len),
                "{len}"
            );
        }
    }

    #[test]
    fn prints_no_key() {
        let key = AesKey::new(&[0xAB; 24]).unwrap();
        let set = KeySet {
            enc: key.clone(),
            mac: key.clone(),
            dek: key,
        };
        assert_eq!(
            std::format!("{set:?}"),
            "KeySet { enc: AesKey(AES-192), mac: AesKey(AES-192), dek: AesKey(AES-192) }"
        );
    }

    #[test]
    fn compares_bytes_and_length() {
        let key = |b, n| AesKey::new(&[b; 32][..n]).unwrap();
        assert_eq!(key(1, 16), key(1, 16));
        assert_ne!(key(1, 16), key(2, 16));
        assert_ne!(key(1, 16), key(1, 24));
    }
}
