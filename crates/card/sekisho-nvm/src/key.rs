//! What a record is called, and what is done with it.

use core::fmt;

use crate::flash::WORD;
use crate::record::record_size;

/// Name of a record: whose it is, which of its owner's things, and which part of that. Keys are ordered by owner, then object, then part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose record it is: the platform, a container, an entry of a registry. Who gives out owners never gives out one again.
    pub owner: u16,
    /// Which of the owner's things: a file, a key version, a registry entry.
    pub object: u16,
    /// Which part of it.
    pub part: u8,
}

impl Key {
    /// The record `part` of `owner`'s `object`.
    pub const fn new(owner: u16, object: u16, part: u8) -> Self {
        Self { owner, object, part }
    }
}

/// The beginning of keys: what is removed in one step, however many records it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// All records of an owner.
    Owner(u16),
    /// All parts of an owner's object.
    Object(u16, u16),
}

impl Prefix {
    /// Whose records it covers.
    pub const fn owner(self) -> u16 {
        match self {
            Self::Owner(owner) | Self::Object(owner, _) => owner,
        }
    }

    /// Whether `key` begins with it.
    pub const fn covers(self, key: Key) -> bool {
        match self {
            Self::Owner(owner) => key.owner == owner,
            Self::Object(owner, object) => key.owner == owner && key.object == object,
        }
    }
}

/// One change of a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// Makes or replaces a record.
    Put(Key, &'a [u8]),
    /// Removes a record; one that is not there is no error.
    Remove(Key),
    /// Removes every record that the prefix covers, those of operations before it in the transaction too; none is no error. What operations behind it
    /// put stays.
    RemoveAll(Prefix),
}

impl Op<'_> {
    /// Bytes of the store's room that its record takes as long as it is live: its head, its value and its place in a directory. None for one that removes.
    pub const fn cost(&self) -> usize {
        match self {
            Self::Put(_, value) => record_size(value.len()) + WORD,
            Self::Remove(_) | Self::RemoveAll(_) => 0,
        }
    }

    /// Whose records it concerns.
    pub const fn owner(&self) -> u16 {
        match self {
            Self::Put(key, _) | Self::Remove(key) => key.owner,
            Self::RemoveAll(prefix) => prefix.owner(),
        }
    }

    /// Whether it makes, replaces or removes the record of `key`.
    pub fn concerns(&self, key: Key) -> bool {
        match *self {
            Self::Put(own, _) | Self::Remove(own) => own == key,
            Self::RemoveAll(prefix) => prefix.covers(key),
        }
    }
}

/// Values may be keys, so only names are shown.
impl fmt::Debug for Op<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(key, value) => write!(f, "Put({key:?}, {} bytes)", value.len()),
            Self::Remove(key) => write!(f, "Remove({key:?})"),
            Self::RemoveAll(prefix) => write!(f, "RemoveAll({prefix:?})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn a_prefix_covers_its_own_and_nobody_elses() {
        let key = Key::new(0x0100, 7, 3);
        for (prefix, is_covered) in [
            (Prefix::Owner(0x0100), true),
            (Prefix::Owner(0x0101), false),
            (Prefix::Owner(7), false),
            (Prefix::Object(0x0100, 7), true),
            (Prefix::Object(0x0100, 3), false),
            (Prefix::Object(0x0101, 7), false),
        ] {
            assert_eq!(prefix.covers(key), is_covered, "{prefix:?}");
            assert_eq!(Op::RemoveAll(prefix).concerns(key), is_covered);
        }
        assert!(Op::Remove(key).concerns(key) && !Op::Put(key, &[]).concerns(Key::new(0x0100, 7, 4)));
        assert!(Key::new(1, 9, 9) < Key::new(2, 0, 0) && Key::new(1, 1, 9) < Key::new(1, 2, 0));
    }

    #[test]
    fn no_value_is_shown() {
        let shown = format!("{:?}", Op::Put(Key::new(1, 2, 3), &[0xAA, 0xBB]));
        assert_eq!(shown, "Put(Key { owner: 1, object: 2, part: 3 }, 2 bytes)");
    }
}
