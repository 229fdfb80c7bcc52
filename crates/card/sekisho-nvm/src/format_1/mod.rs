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

#[cfg(test)]
mod tests {
    use super::Store;
    use crate::ram::RamFlash;
    use alloc::vec::Vec;

    /// Written by this format's first version: it is never edited.
    #[test]
    fn the_image_of_version_1_holds_what_it_held() {
        let image: Vec<u8> = include_str!("../../tests/state/v1.hex")
            .split_ascii_whitespace()
            .flat_map(|line| {
                (0..line.len() / 2)
                    .map(|n| u8::from_str_radix(&line[2 * n..2 * n + 2], 16).unwrap())
                    .collect::<Vec<_>>()
            })
            .collect();
        let mut flash = RamFlash::from_image(64, &image);
        let store = Store::open(&mut flash, 0..4).unwrap();
        assert_eq!(
            flash.image(),
            image,
            "a store in order is not touched by opening it"
        );
        let mut found = Vec::new();
        let mut walk = store.walk();
        while let Some(record) = store.next_live(&mut walk, &flash).unwrap() {
            let mut value = [0; 4];
            store.read(&flash, &record, 0, &mut value[..record.len]).unwrap();
            found.push((record.key, value[..record.len].to_vec()));
        }
        found.sort();
        assert_eq!(
            found,
            [(0x0001_0000, b"kept".to_vec()), (0x0102_0003, b"new".to_vec())]
        );
    }
}
