//! Power-loss-safe, wiping, transactional store on flash.
//!
//! # What it promises
//!
//! * **Atomic**: [`Store::commit`] does all of its operations or none, whatever flash operation the power is cut at and however the cut word or
//!   page is torn. After the cut [`Store::open`] finds the state before or the state after, nothing else. Cuts during `open` are
//!   no exception.
//! * **Wiping**: when `commit` returns, no replaced or removed value stands in the flash any more. When a cut prevented that, it is
//!   true when `open` returns.
//! * **Honest**: a changed bit in a live record, in a record's head or in the order of records is [`Error::Corrupted`], never another value. (CRC-32: it finds
//!   accidents, it is no protection against who can write the flash.)
//! * **Bounded**: no heap, a few words of RAM, reading never writes, [`Error::Full`] changes nothing.
//!
//! # What it asks of the flash
//!
//! Words of 4 bytes that writing can only turn from 1 to 0, each written at most twice between two erasures, the second time only with zeros; pages that erasing turns to
//! FF. A cut write leaves the words before it written, those behind it untouched, and the cut word with any subset of its changing bits changed. A cut erasure leaves
//! anything in its page. Operations before the cut are complete.
//!
//! # Format
//!
//! The pages are two *halves*, of which one is active. A half is a log:
//!
//! ```text
//!  0        4        8       12       16
//! +--------+--------+--------+--------+----------+----------+- - - - -+----------------
//! | magic  | epoch  |  FF    | CRC-32 | record   | record   |         | FF ... (free)
//! +--------+--------+--------+--------+----------+----------+- - - - -+----------------
//!
//! record:  key(4) | len(2) kind(1) check(1) | CRC-32(4) | value, filled with 00 to whole words
//! ```
//!
//! Numbers are big endian. `kind` is 01 put or 02 remove, plus 10 on the last record of a transaction. `check` is CRC-8 over the seven bytes before it.
//! CRC-32 covers the record's first eight bytes and the value. The record's head (12 bytes) is written before its value, both before the next record.
//!
//! A record is **wiped** by writing zeros, first over its CRC-32 and then over its value; its first eight bytes stay. Only records with a newer record of
//! the same key behind them are wiped.
//!
//! # Why it holds
//!
//! *A transaction counts when its last record is valid.* It is written last; until its value's last word is complete its CRC-32 is wrong, so every cut before gives the state
//! before, and the last word being complete is the state after. What a cut leaves behind the last valid end of a transaction is told from damage by what follows it:
//! nothing was written behind a torn record, so only FF may stand there. A broken record with something behind it is a half-wiped one if a newer record of its key follows, else damage.
//!
//! *Anything out of order is cleaned by compaction*: torn tails, half-wiped and unwiped old values. Compaction erases the other half, copies the live records there, writes the head last
//! (the head being valid is the moment of change; its epoch is one more), and erases the old half. A cut before the head leaves the old half the only valid one, a cut after it leaves the
//! higher epoch, and `open` erases whatever stands in a half that is not active: it may hold copies of values that are removed later.
//!
//! # Capacity
//!
//! A half less 16 bytes; a record takes 12 bytes and its value in whole words. What was replaced or removed takes its place until the next compaction. A commit writes 2 flash operations
//! for each record, and 1 or 2 for each value it wipes. Every page is erased once in two compactions, so wear is even by construction;
//! [`Store::epoch`] counts compactions.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

#[cfg(feature = "test-support")]
extern crate alloc;

mod crc;
mod flash;
mod log;
#[cfg(feature = "test-support")]
pub mod ram;
mod store;
mod walk;

pub use flash::{Flash, Region, WORD};
pub use store::Store;

use core::fmt;

/// Name of a record: namespace (container), kind and index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u32);

impl Key {
    /// A key of `container`'s namespace.
    pub const fn new(container: u8, kind: u8, index: u16) -> Self {
        let [high, low] = index.to_be_bytes();
        Self(u32::from_be_bytes([container, kind, high, low]))
    }

    /// The namespace.
    pub const fn container(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// The kind.
    pub const fn kind(self) -> u8 {
        self.0.to_be_bytes()[1]
    }

    /// The index.
    pub const fn index(self) -> u16 {
        let [_, _, high, low] = self.0.to_be_bytes();
        u16::from_be_bytes([high, low])
    }
}

/// One change of a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// Makes or replaces a record.
    Put(Key, &'a [u8]),
    /// Removes a record; one that is not there is no error.
    Remove(Key),
}

impl Op<'_> {
    /// The record it changes.
    pub const fn key(&self) -> Key {
        match *self {
            Self::Put(key, _) | Self::Remove(key) => key,
        }
    }
}

/// Values may be keys, so only names are shown.
impl fmt::Debug for Op<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(key, value) => write!(f, "Put({key:?}, {} bytes)", value.len()),
            Self::Remove(key) => write!(f, "Remove({key:?})"),
        }
    }
}

/// Why the store did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error<E> {
    /// The flash failed. Nothing is lost; what was being committed is there whole or not at all, which the next `open` tells.
    Flash(E),
    /// No room: nothing has changed.
    Full,
    /// The caller's buffer is smaller than the value.
    BufferTooSmall,
    /// A value longer than its length field can say.
    TooLong,
    /// There is no store in these pages.
    NotFormatted,
    /// The pages hold what the store has never written.
    Corrupted,
    /// A write has failed before: the store is to be opened anew.
    Stale,
    /// Fewer than two pages, or pages too small.
    Geometry,
}

impl<E: fmt::Debug> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flash(error) => write!(f, "flash failed: {error:?}"),
            Self::Full => f.write_str("store full"),
            Self::BufferTooSmall => f.write_str("buffer too small for the value"),
            Self::TooLong => f.write_str("value too long"),
            Self::NotFormatted => f.write_str("no store in these pages"),
            Self::Corrupted => f.write_str("store corrupted"),
            Self::Stale => f.write_str("a write has failed; open the store anew"),
            Self::Geometry => f.write_str("too few or too small pages for a store"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for Error<E> {}
