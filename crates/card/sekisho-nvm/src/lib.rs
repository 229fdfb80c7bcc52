//! Power-loss-safe, wiping, transactional store on flash. This page is its specification.
//!
//! # What it promises
//!
//! * **Atomic**: [`Store::commit`] does all of its operations or none, whatever word or erasure the power is cut at and however that is torn.
//!   After the cut [`Store::open`] finds the state before or the state after, nothing else. Cuts during `open` are no exception.
//! * **Durable**: when `commit` has returned, it is the state after.
//! * **Wiping**: when `commit` returns, nothing of a replaced or removed record stands in the flash any more, neither its value nor its name. When a cut
//!   prevented that, it is true when `open` returns.
//! * **Owned**: a record belongs to an owner; all of an owner's records, or all parts of one of its objects, are removed by one operation ([`Op::RemoveAll`]),
//!   however many they are. [`Store::used`] says what an owner's records take, [`Op::added`] and [`Store::replaced`] what a
//!   transaction changes of it: that is what quotas are made of, which are the caller's (docs/spec/content.md, 7).
//! * **Honest**: damage is [`Error::Corrupted`], never another value; a compaction does not give damaged bytes a good sum. A store without a valid head is
//!   [`Error::NotFormatted`]; only [`Store::format`] writes there. The sums find accidents; they are no protection against who can write the flash.
//! * **Bounded**: no heap, and the RAM below; reading never writes; [`Error::Full`] changes no record.
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
//! At least four pages of equal rank, each a piece of the log:
//!
//! ```text
//!  0        4          8      12                  n        n+4      n+8      n+12
//! +--------+----------+------+-------------------+--------+--------+--------+----------+----------+---------
//! | magic  | sequence | cut  | pages in use      | CRC-32 | closed | unmade | record   | record   | FF ...
//! +--------+----------+------+-------------------+--------+--------+--------+----------+----------+---------
//!
//! record:
//!  0      1              3       4       6        8        12
//! +------+--------------+-------+-------+--------+--------+------------------------------+
//! | part | what, length | check | owner | object | CRC-32 | value, 00 to whole words     |
//! +------+--------------+-------+-------+--------+--------+------------------------------+
//! ```
//!
//! Numbers are big endian. `magic` is 53 6B 00 02; `sequence` goes up by one with each page that is begun; the page in use with the highest is the **tail**. `pages in use` has one bit for each page, the lowest of the first
//! byte first, in whole words: those in use when this one was begun, itself too. The CRC-32 (IEEE 802.3, with 1 instead of 0) is that of all before it. `closed` is FF in the tail, and written with zeros when the next page has its head; `unmade` is
//! written with zeros when the store is to be [formatted](Store::format) anew. `cut` is FF, or says that what stands in a page (2 bytes) from an offset in words (2 bytes) on does not count.
//!
//! `what` are three bits: 1 put, 2 remove, 3 remove all of the owner, 4 remove all of the object, 5 emptied (the page whose number stands in `object` is not in use any more), 6 directory; then a bit on the last record of a transaction and
//! one on the first; `length` are the 11 bits behind. `check` is the CRC-8 (polynomial 07, start FF, not reflected) of the other seven bytes before the sum. A record's CRC-32 is that of its first eight bytes and its value without the filling.
//! Records do not go from one page into the next, a transaction does. Behind its last record stands a word of zeros. What is **wiped** is zeros from the first byte of the head to the end of the value; it is passed over word by word.
//!
//! A **directory** (`what` 6, neither first nor last, `length` 0) is the last record of a closed page. Its value are as many words as `object` says, one for each record of the page that puts something: the 16 highest bits of its key's tag (28 bits of a hash, `index.rs`) and its offset in the page in words, in
//! ascending order. When the record is wiped the word becomes zeros. A page that was closed while the index had all records has none.
//!
//! # Why it holds
//!
//! *A transaction counts when its last record is whole.* What stands behind the last whole one is undone.
//!
//! *A torn record is told from a damaged one by what follows.* Nothing was written behind a torn record. Behind a whole transaction stands its word of zeros, which was written after all of it.
//!
//! *Wiping goes over sum and value first and over the name last*, so that whose it was is known as long as anything stands of it: it must have been a record that the last transaction replaced or removed. Else it is damage.
//! A record that is not wiped is live, unless the last transaction concerns it: so opening looks nothing up.
//!
//! *Anything out of order is cleaned by copying*: a page with something that is not wiped, or was undone, is taken from the oldest on; its live records go behind the tail as one transaction that ends with *emptied*, then it is erased. What was undone
//! in pages of its own goes when a new page is begun whose head has them not in use. A compaction is the same.
//!
//! *There is always a page to recover with*: two are free when a transaction or a compaction begins to write what may be cut, of which one may have been begun for the compaction. A cut there leaves one free and an empty tail behind, into which
//! any page goes whole: that is compacted before `open` returns, so that two are free again. A cut of that leaves the same.
//!
//! *A directory leaves nothing out*: opening compares it with the records of its page. A word of it is written with zeros before its record is wiped, so that of a page where the two do not agree the last transaction concerns a record: that page is copied. Its own sum counts until its page is closed, which tells
//! a torn one; nothing is wiped before.
//!
//! *A damaged head is no free page*: a page in use without a valid head is damage, and so is a tail that is closed, which a store has that has lost its last page.
//!
//! *Nothing is written where an erasure was not finished*: a page that is not known to be erased since the power came on is erased before it is begun.
//!
//! # Room, RAM, wear, time
//!
//! Two pages are free at any time but while one is being compacted. Of the others each gives its bytes behind the head, less 28 and less a slack of 1,220 bytes, or a third of it if that is less: [`Store::capacity`], 16,920 bytes in 8 pages of 4 KiB. A record takes 16
//! bytes and its value in whole words ([`Op::cost`]): 12 for its head and 4 for its place in a directory, even while there is none. The longest value has 1,024 bytes, and less in pages below 1,124 ([`Store::value_max`]). What does not make the records longer in all always has room, if it is no more than the slack less 20 bytes:
//! 1,200 bytes of records in pages of 4 KiB.
//!
//! A commit that finds no room in the tail begins a page; if that would leave less than two free, the page with the fewest live bytes is compacted before: there is one with at most what one page gives, so that one erasure is enough for a commit of
//! up to 1,200 bytes of records, or two behind a start. Pages that are not known to be erased are prepared by commits that erase nothing else.
//!
//! A [`Store`] takes 6 bytes for each record that its index is to hold, 12 for each page and 8 for each owner ([`Ram`]), and less than 100 itself. As long as the index holds all records, [`Store::get`] makes two reads, of the head and of the value, and what is not there costs none.
//! **What the index has no place for** costs at most, for each closed page with live records, one read for each 64 records that the page was closed with, normally one; one for each other record with the same 16 bits; one for each 256 bytes of the tail; and two. With 16 places for 2,000 records in 512 KB
//! [`Store::get`] makes 136 at most. Of a store that was written with a larger index, or carried over, pages without a directory are moved at opening as far as two pages stay free, and read like the tail until then. Two keys in 268 million share what the index knows of a key: of these one costs one read more. Removing a prefix reads the head of every record.
//!
//! # Format 1
//!
//! A store of version 0.1 is carried over by [`Store::open_or_carry`]: its live records are copied into its other half as one transaction of format 2, which decides; then its own half is erased. Until then it is a store of format 1.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

#[cfg(feature = "test-support")]
extern crate alloc;

mod ahead;
pub mod area;
mod carry;
mod crc;
mod directory;
mod flash;
mod format_1;
mod index;
mod key;
mod open;
mod page;
#[cfg(feature = "test-support")]
pub mod ram;
mod record;
mod store;
mod tables;
mod walk;
mod write;

pub use flash::{Flash, Region, WORD};
pub use index::Slot;
pub use key::{Key, Op, Prefix};
pub use store::Store;
pub use tables::{Memory, Owned, Page, Ram, Tables};

use core::fmt;

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
    /// A value longer than [`Store::value_max`], or a transaction of more than 64 operations.
    TooLong,
    /// There is no store in these pages.
    NotFormatted,
    /// The pages hold what the store has never written.
    Corrupted,
    /// A write has failed before: the store is to be opened anew.
    Stale,
    /// Fewer than four pages, pages too small, or more than the memory is for.
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
            Self::Geometry => {
                f.write_str("too few or too small pages for a store, or more than its memory is for")
            }
        }
    }
}

impl<E: fmt::Debug> core::error::Error for Error<E> {}
