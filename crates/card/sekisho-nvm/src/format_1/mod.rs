//! Format 1, to read what version 0.1 has written and to carry it over.
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
//! `magic` is 53 6B 00 01; the half's CRC-32 is that of its first eight bytes; `epoch` went up by one with each compaction, which copied the live records to
//! the other half, wrote that one's head last, and erased the old one. `kind` is 01 put or 02 remove, plus 10 on the last record of a transaction. A record is wiped by zeros over its CRC-32
//! and then over its value; its first eight bytes stay. Sums and `check` are those of format 2.

mod log;
mod store;
mod walk;

pub(crate) use store::{Store, has_head};
