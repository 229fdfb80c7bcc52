//! Records: their heads, and what may stand where one is looked for.

use crate::crc::{Crc32, crc8};
use crate::flash::WORD;
use crate::key::{Key, Op, Prefix};

/// Bytes of a record's head.
pub(crate) const RECORD_HEAD: usize = 12;
/// Bytes written or read at a time.
pub(crate) const CHUNK: usize = 64;

/// Which operation a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Put = 1,
    Remove = 2,
    RemoveOwner = 3,
    RemoveObject = 4,
    /// All that the page named by the object held stands further on.
    Emptied = 5,
    /// Where the records of its page stand. Its length stands in the object, in entries.
    Directory = 6,
}

impl Kind {
    const fn of(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Put,
            2 => Self::Remove,
            3 => Self::RemoveOwner,
            4 => Self::RemoveObject,
            5 => Self::Emptied,
            6 => Self::Directory,
            _ => return None,
        })
    }
}

/// What a record says, without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) kind: Kind,
    pub(crate) key: Key,
    /// Whether it begins a transaction.
    pub(crate) first: bool,
    /// Whether it ends a transaction.
    pub(crate) last: bool,
    /// Bytes of the value.
    pub(crate) len: u16,
}

impl Name {
    /// The record of an operation, and its value.
    pub(crate) fn of<'a>(op: &Op<'a>, first: bool, last: bool) -> Option<(Self, &'a [u8])> {
        let (kind, key, value) = match *op {
            Op::Put(key, value) => (Kind::Put, key, value),
            Op::Remove(key) => (Kind::Remove, key, &[][..]),
            Op::RemoveAll(Prefix::Owner(owner)) => (Kind::RemoveOwner, Key::new(owner, 0, 0), &[][..]),
            Op::RemoveAll(Prefix::Object(owner, object)) => {
                (Kind::RemoveObject, Key::new(owner, object, 0), &[][..])
            }
        };
        let len = u16::try_from(value.len()).ok().filter(|len| *len <= LEN_MAX)?;
        let name = Self {
            kind,
            key,
            first,
            last,
            len,
        };
        Some((name, value))
    }

    /// The operation that it is: `None` for one of the store's own.
    pub(crate) const fn op(&self) -> Option<Op<'static>> {
        Some(match self.kind {
            Kind::Put => Op::Put(self.key, &[]),
            Kind::Remove => Op::Remove(self.key),
            Kind::RemoveOwner => Op::RemoveAll(Prefix::Owner(self.key.owner)),
            Kind::RemoveObject => Op::RemoveAll(Prefix::Object(self.key.owner, self.key.object)),
            Kind::Emptied | Kind::Directory => return None,
        })
    }

    /// The first eight bytes of the head.
    fn words(&self) -> [u8; 8] {
        let (first, last) = (u16::from(self.first), u16::from(self.last));
        let kind = (self.kind as u16) << 13 | last << 12 | first << 11 | (self.len & LEN_MAX);
        let [k0, k1] = kind.to_be_bytes();
        let ([o0, o1], [j0, j1]) = (self.key.owner.to_be_bytes(), self.key.object.to_be_bytes());
        let check = crc8(&[self.key.part, k0, k1, o0, o1, j0, j1]);
        [self.key.part, k0, k1, check, o0, o1, j0, j1]
    }

    /// The head: `value` adds the value to the sum.
    pub(crate) fn head(&self, value: impl FnOnce(&mut Crc32)) -> [u8; RECORD_HEAD] {
        let [a, b, c, d, e, f, g, h] = self.words();
        let mut crc = Crc32::new();
        crc.update(&[a, b, c, d, e, f, g, h]);
        value(&mut crc);
        let [i, j, k, l] = crc.finish().to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// What a head says, if it is whole.
    pub(crate) fn read(head: &[u8; RECORD_HEAD]) -> Option<Self> {
        let [part, k0, k1, check, o0, o1, j0, j1, ..] = *head;
        if crc8(&[part, k0, k1, o0, o1, j0, j1]) != check {
            return None;
        }
        let kind = u16::from_be_bytes([k0, k1]);
        Some(Self {
            kind: Kind::of(kind >> 13)?,
            key: Key::new(u16::from_be_bytes([o0, o1]), u16::from_be_bytes([j0, j1]), part),
            first: kind & 1 << 11 != 0,
            last: kind & 1 << 12 != 0,
            len: kind & LEN_MAX,
        })
    }
}

/// What 11 bits can say.
const LEN_MAX: u16 = 0x07FF;

/// A record that has been found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Offset of the head in the store.
    pub(crate) at: usize,
    pub(crate) name: Name,
    /// The stored sum.
    pub(crate) crc: u32,
}

impl Record {
    pub(crate) fn read(at: usize, head: &[u8; RECORD_HEAD]) -> Option<Self> {
        let [.., c0, c1, c2, c3] = *head;
        Some(Self {
            at,
            name: Name::read(head)?,
            crc: u32::from_be_bytes([c0, c1, c2, c3]),
        })
    }

    pub(crate) const fn len(&self) -> usize {
        match self.name.kind {
            Kind::Directory => self.name.key.object as usize * WORD,
            _ => self.name.len as usize,
        }
    }

    /// Offset of the value.
    pub(crate) const fn value_at(&self) -> usize {
        self.at + RECORD_HEAD
    }

    /// Bytes that it takes, without the word behind the last of a transaction.
    pub(crate) const fn size(&self) -> usize {
        record_size(self.len())
    }

    /// Bytes of the store's room that it takes as long as it is live.
    pub(crate) const fn cost(&self) -> usize {
        self.size() + WORD
    }

    /// Offset behind it.
    pub(crate) const fn end(&self) -> usize {
        self.at + self.size()
    }
}

/// Bytes of a record with a value of `len` bytes.
pub(crate) const fn record_size(len: usize) -> usize {
    RECORD_HEAD + len.next_multiple_of(WORD)
}

/// Bytes that an operation's record takes.
pub(crate) const fn op_size(op: &Op<'_>) -> usize {
    match op {
        Op::Put(_, value) => record_size(value.len()),
        Op::Remove(_) | Op::RemoveAll(_) => RECORD_HEAD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_what_was_written_and_is_never_zero_or_ff() {
        let key = Key::new(0x0102, 0x0304, 5);
        for op in [
            Op::Put(key, &[7; 9]),
            Op::Put(Key::new(0, 0, 0), &[]),
            Op::Remove(key),
            Op::RemoveAll(Prefix::Owner(0x0102)),
            Op::RemoveAll(Prefix::Object(0x0102, 0x0304)),
        ] {
            for (first, last) in [(false, false), (false, true), (true, false), (true, true)] {
                let (name, value) = Name::of(&op, first, last).unwrap();
                let head = name.head(|crc| crc.update(value));
                assert_eq!(Name::read(&head), Some(name));
                let op = name.op().unwrap();
                assert!(op.concerns(name.key));
                assert!(head[..4] != [0; 4] && head[..4] != [0xFF; 4]);
            }
        }
        assert_eq!(Name::of(&Op::Put(key, &[0; 2048]), false, false), None);
        assert_eq!(Name::read(&[0; 12]), None);
        assert_eq!(Name::read(&[0xFF; 12]), None);
    }
}
