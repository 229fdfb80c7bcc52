//! Power-loss-safe, wiping, transactional store on flash. This page is its specification.
//!
//! # What it promises
//!
//! * **Atomic**: [`Store::commit`] does all of its operations or none, whatever word or erasure the power is cut at and however that is torn.
//!   After the cut [`Store::open`] finds the state before or the state after, nothing else. Cuts during `open` are no exception.
//! * **Durable**: when `commit` has returned, it is the state after.
//! * **Wiping**: when `commit` returns, no replaced or removed value stands in the flash any more. When a cut prevented that, it is
//!   true when `open` returns. (Names and lengths of what was there stay until the next compaction.)
//! * **Honest**: damage is [`Error::Corrupted`], never another value; a compaction does not give damaged bytes a good sum. Two kinds of
//!   damage look like something that happens without damage, and are taken for it. A last transaction that replaced and removed nothing, if damaged,
//!   looks like one that was cut short, and is undone. A store without a valid head is [`Error::NotFormatted`]; only [`Store::format`] writes
//!   there. The sums find accidents; they are no protection against who can write the flash.
//! * **Bounded**: no heap, and the RAM below; reading never writes; [`Error::Full`] changes nothing.
//!
//! # What it asks of the flash
//!
//! * Words of 4 bytes that writing can only turn from 1 to 0. Each is written at most twice between two erasures, the second time
//!   with zeros only.
//! * Pages that erasing turns to FF.
//! * A cut write leaves the words before it written and those behind it untouched; of the cut word any of the changing bits are
//!   changed. A cut erasure leaves anything in its page, FF too, and such a page is erased again before it is written.
//! * Operations before the cut are complete. What is read once after the cut is read again at the next time.
//!
//! `ram::RamFlash` (feature `test-support`) keeps these rules, and refuses what breaks them.
//!
//! # Format
//!
//! The pages are two *halves* of equally many pages, of which one is active; of an odd number the last page is not used. A half is a log:
//!
//! ```text
//!  0        4        8        12       16
//! +--------+--------+--------+--------+----------+----------+- - - - -+----------------
//! | magic  | epoch  |  FF    | CRC-32 | record   | record   |         | FF ... (free)
//! +--------+--------+--------+--------+----------+----------+- - - - -+----------------
//!
//! record:
//!  0        4      6      7       8        12
//! +--------+------+------+-------+--------+------------------------------+
//! | key    | len  | kind | check | CRC-32 | value, 00 to whole words     |
//! +--------+------+------+-------+--------+------------------------------+
//! ```
//!
//! Numbers are big endian. `magic` is 53 6B 00 01; the half's CRC-32 is that of its first eight bytes; `epoch` starts at 1 and goes up by one with
//! each compaction. `kind` is 01 put or 02 remove, plus 10 on the last record of a transaction. `check` is the CRC-8 (polynomial 07, start FF,
//! not reflected) of the seven bytes before it. A record's CRC-32 (IEEE 802.3) is that of its first eight bytes and its value without
//! the filling, with 1 instead of 0. The head (12 bytes) is written before the value, both before the next record.
//!
//! A record is **wiped** by writing zeros, first over its CRC-32 and then over its value; its first eight bytes stay. Only puts with a newer
//! record of the same key behind them are wiped.
//!
//! # Why it holds
//!
//! *A transaction counts when its last record is valid.* That record is written last. Until the last word of it is complete its CRC-32
//! is wrong, so every cut before gives the state before, and that word being complete is the state after.
//!
//! *A torn record is told from a damaged one by what follows.* Nothing was written behind a torn record, so only FF may stand there. A broken record with
//! something behind it has been wiped, which needs a newer record of its key, or is damage. A torn sum is never zero, because zero is
//! never written as one: so a wiped record with nothing behind it is damage too.
//!
//! *Anything out of order is cleaned by a compaction*: torn ends, values half wiped and not yet wiped. It copies the live records to the other half, writes that half's
//! head last, and erases the old half. The head being valid is the moment of change, and its epoch is one more: a cut before it leaves the
//! old half the only valid one; after a cut behind it the higher epoch is the one that counts. In both cases the same records are live.
//!
//! *Nothing old is left.* A commit wipes before it returns. After a cut, `open` erases what stands in the half that is not active, be it old or
//! copied too early, and compacts away what should have been wiped in the active one.
//!
//! *Nothing is written where an erasure was not finished.* The free end of the active half was erased to the end before the half's head
//! was written. The other half is erased anew by the first compaction after power on, though it may look blank, because whether its last
//! erasure was finished nobody knows any more.
//!
//! # Room, RAM, wear, time
//!
//! Room is a half less 16 bytes: 16,368 in 16 pages of 2 KiB. A record takes 12 bytes and its value in whole words. A commit needs room for all of its
//! records while what they replace is still there, and 12 bytes for each removal: who must always be able to remove keeps some free.
//!
//! A [`Store`] is 88 bytes on a 64-bit machine, and the memory of its index, which its owner chooses: 6 bytes for each record that the index is to
//! hold, in a hash table that is rebuilt at `open` and after a compaction. Opening and compacting take about 700 bytes of stack for the look ahead
//! (about 400 on a 32-bit machine), opening 512 more for what it reads ahead, everything else 64 bytes for a piece of a value.
//!
//! | commit | flash operations | bytes of the log |
//! |---|---|---|
//! | a counter of 4 bytes is made | 2 | 16 |
//! | it is counted up | 4 | 16 |
//! | three keys of 16 bytes and a directory of 20 are made | 8 | 116 |
//! | they are replaced | 16 | 116 |
//! | they are removed | 12 | 48 |
//!
//! Every page is erased once in two compactions, and once more in the first compaction after power on. In 16 pages of 2 KiB that hold nothing else, a
//! counter is counted up 1,022 times between two compactions: pages that stand 100,000 erasures last for two hundred million counts
//! without a power cycle, and for half of that with one before each compaction. [`Store::epoch`] counts compactions.
//!
//! As long as the index holds all records, [`Store::get`] makes two reads, of the head and of the value; a record that is replaced costs a commit one
//! read, one that is removed two; what is not there, and the free bytes, cost none. Two keys in 268 million share what the index knows of a key: of
//! these one costs one read more. `open` reads the half three times in pieces of 512 bytes, and one head for each record that was replaced in it: two
//! reads for each of 2,000 records in 512 KB after 14,000 commits, which make no more than one read each but for compactions. A record more than the index has places makes `get` and `commit` read every head of the log for what they do not find
//! in it, and `open` and a compaction n / 16 times n heads for n records, until a compaction or an opening finds room for all of them again.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

#[cfg(feature = "test-support")]
extern crate alloc;

mod ahead;
pub mod area;
mod crc;
mod flash;
mod index;
mod log;
#[cfg(feature = "test-support")]
pub mod ram;
mod store;
pub mod v2;
mod walk;

pub use flash::{Flash, Region, WORD};
pub use index::{Slot, Slots};
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
    /// A value longer than its length field can say, or a transaction of more than 64 operations.
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
            Self::TooLong => f.write_str("value or transaction too long"),
            Self::NotFormatted => f.write_str("no store in these pages"),
            Self::Corrupted => f.write_str("store corrupted"),
            Self::Stale => f.write_str("a write has failed; open the store anew"),
            Self::Geometry => f.write_str("too few or too small pages for a store"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for Error<E> {}
