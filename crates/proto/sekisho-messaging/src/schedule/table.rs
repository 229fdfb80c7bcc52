//! The 16-byte keys of the legacy schedules, and lists of them.

use core::fmt;

use sekisho_keys::ct_eq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::ScheduleError;
use crate::keys::Keys;

/// Longest list of keys: the patent shows 18 (figures 8 and 14) and leaves the length open.
pub const MAX_KEYS: usize = 32;

/// One session key or operation key of the patent: 16 bytes, of which AES-128 encrypts and makes the MAC with the same
/// key, as the patent says. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop, Default)]
pub struct LegacyKey(pub [u8; 16]);

impl LegacyKey {
    /// Whether every bit is zero.
    pub fn is_zero(&self) -> bool {
        ct_eq(&self.0, &[0; 16])
    }

    /// Bit by bit `self` XOR `other`.
    #[must_use]
    pub fn xor(&self, other: &Self) -> Self {
        let mut result = self.clone();
        for (byte, with) in result.0.iter_mut().zip(other.0) {
            *byte ^= with;
        }
        result
    }

    /// Bit by bit `self` AND `other`.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut result = self.clone();
        for (byte, with) in result.0.iter_mut().zip(other.0) {
            *byte &= with;
        }
        result
    }

    pub(crate) fn keys(&self) -> Result<Keys, ScheduleError> {
        Keys::aes(&self.0, &self.0).map_err(|_| ScheduleError::BadKeys)
    }
}

impl PartialEq for LegacyKey {
    fn eq(&self, other: &Self) -> bool {
        ct_eq(&self.0, &other.0)
    }
}

impl Eq for LegacyKey {}

impl fmt::Debug for LegacyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LegacyKey(redacted)")
    }
}

/// A list of keys numbered from 1 (figures 8 and 14), without an all-zero key and without the same key twice.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct KeyTable {
    keys: [[u8; 16]; MAX_KEYS],
    len: u8,
}

impl KeyTable {
    /// Takes 2 to [`MAX_KEYS`] keys.
    pub fn new(keys: &[[u8; 16]]) -> Result<Self, ScheduleError> {
        let len = u8::try_from(keys.len()).map_err(|_| ScheduleError::BadKeys)?;
        let mut table = Self {
            keys: [[0; 16]; MAX_KEYS],
            len,
        };
        if keys.len() < 2 {
            return Err(ScheduleError::BadKeys);
        }
        table
            .keys
            .get_mut(..keys.len())
            .ok_or(ScheduleError::BadKeys)?
            .copy_from_slice(keys);
        for number in 1..=len {
            let key = table.get(number)?;
            if key.is_zero() {
                return Err(ScheduleError::ZeroKey);
            }
            for other in 1..number {
                if table.get(other)? == key {
                    return Err(ScheduleError::RepeatedKey);
                }
            }
        }
        Ok(table)
    }

    /// Number of keys.
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// Never: a table has at least two keys.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The key with this list number, from 1.
    pub fn get(&self, number: u8) -> Result<LegacyKey, ScheduleError> {
        if number > self.len {
            return Err(ScheduleError::BadSelector);
        }
        let index = usize::from(number)
            .checked_sub(1)
            .ok_or(ScheduleError::BadSelector)?;
        self.keys
            .get(index)
            .copied()
            .map(LegacyKey)
            .ok_or(ScheduleError::BadSelector)
    }

    /// Forgets a key that will not be used again.
    pub(crate) fn wipe(&mut self, number: u8) {
        if let Some(key) = usize::from(number)
            .checked_sub(1)
            .and_then(|index| self.keys.get_mut(index))
        {
            key.zeroize();
        }
    }

    #[cfg(feature = "expose-secrets")]
    pub(crate) fn expose(&self, sink: &mut dyn FnMut(&[u8])) {
        self.keys.iter().take(self.len.into()).for_each(|key| sink(key));
    }
}
