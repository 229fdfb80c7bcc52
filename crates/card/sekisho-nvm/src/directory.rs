//! Beyond the index: the directory that a page is closed with.

use crate::Error;
use crate::flash::{Flash, WORD};
use crate::index::{REACH, Tag};
use crate::key::Key;
use crate::page::Geometry;
use crate::record::{Kind, Name, RECORD_HEAD, Record};
use crate::store::{Store, is_among};
use crate::tables::Page;

/// Entries of a directory that one read gets.
pub(crate) const BLOCK: usize = 64;

/// Where a record stands: 16 bits of its key's tag, and its offset in its page in words. Never zeros, which is what is left of the entry of a record that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry(u32);

impl Entry {
    const NONE: Self = Self(u32::MAX);

    fn new(tag: u16, word: u16) -> Self {
        Self(u32::from(tag) << 16 | u32::from(word))
    }

    fn of(geometry: &Geometry, record: &Record) -> Self {
        let word = (record.at % geometry.size) / WORD;
        Self::new(
            Tag::of(record.name.key).short(),
            u16::try_from(word).unwrap_or_default(),
        )
    }

    const fn is_gone(self) -> bool {
        self.0 == 0
    }

    const fn tag(self) -> u16 {
        let [a, b, _, _] = self.0.to_be_bytes();
        u16::from_be_bytes([a, b])
    }

    /// Offset in its page.
    fn offset(self) -> usize {
        let [_, _, a, b] = self.0.to_be_bytes();
        usize::from(u16::from_be_bytes([a, b])) * WORD
    }
}

/// A sum over entries that does not depend on their order: what a directory must have for the records of its page.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    count: u32,
    sum: u32,
}

impl Listed {
    pub(crate) fn add(&mut self, geometry: &Geometry, record: &Record) {
        self.add_entry(Entry::of(geometry, record));
    }

    fn add_entry(&mut self, Entry(mut hash): Entry) {
        // Two rounds of multiplying and folding (MurmurHash3, finalizer), so that two changes do not make up for each other.
        hash = (hash ^ (hash >> 16)).wrapping_mul(0x85EB_CA6B);
        hash = (hash ^ (hash >> 13)).wrapping_mul(0xC2B2_AE35);
        self.sum = self.sum.wrapping_add(hash ^ (hash >> 16));
        self.count += 1;
    }
}

/// Some entries of a directory, one after the other.
struct Block {
    bytes: [u8; BLOCK * WORD],
    len: usize,
    /// Offset of the first in the store.
    at: usize,
}

impl Block {
    /// The entries, with their offsets in the store.
    fn entries(&self) -> impl DoubleEndedIterator<Item = (usize, Entry)> {
        let words = self.bytes.get(..self.len * WORD).unwrap_or_default();
        let words = words.as_chunks::<WORD>().0.iter().enumerate();
        words.map(|(n, word)| (self.at + n * WORD, Entry(u32::from_be_bytes(*word))))
    }

    /// The tags of the first and the last that are not gone.
    fn ends(&self) -> Option<(u16, u16)> {
        let mut left = self.entries().filter(|(_, entry)| !entry.is_gone());
        let (_, first) = left.next()?;
        let last = left.next_back().map_or(first, |(_, last)| last);
        Some((first.tag(), last.tag()))
    }
}

/// Which blocks of a directory may have a tag: the one where it would stand if tags were spread evenly, and from there those before and behind that its ends do not rule out.
struct Search {
    tag: u16,
    blocks: usize,
    /// The next one to the left, and the next one to the right.
    left: Option<usize>,
    right: Option<usize>,
    next: Option<usize>,
}

impl Search {
    fn new(tag: u16, entries: usize) -> Self {
        let blocks = entries.div_ceil(BLOCK);
        let guess = ((usize::from(tag) * entries) >> 16) / BLOCK;
        Self {
            tag,
            blocks,
            left: guess.checked_sub(1),
            right: Some(guess + 1).filter(|right| *right < blocks),
            next: Some(guess).filter(|guess| *guess < blocks),
        }
    }

    /// Goes on from the block that was the next one, whose ends are these.
    fn go_on(&mut self, ends: Option<(u16, u16)>) {
        if ends.is_some_and(|(first, _)| first < self.tag) {
            self.left = None;
        }
        if ends.is_some_and(|(_, last)| last > self.tag) {
            self.right = None;
        }
        self.next = match (self.left, self.right) {
            (Some(left), _) => {
                self.left = left.checked_sub(1);
                Some(left)
            }
            (None, Some(right)) => {
                self.right = Some(right + 1).filter(|right| *right < self.blocks);
                Some(right)
            }
            (None, None) => None,
        };
    }
}

impl Store {
    /// Whether the index has all records, and will have them with another `count`. If not, the tail is to be closed with a directory.
    pub(crate) fn is_all_indexed(&self, count: usize) -> bool {
        self.memory.index().has_room_for(self.pending + count)
            && self.geometry.pages * self.geometry.size <= REACH
    }

    /// Bytes that the tail's directory will take, with another `count` of records that are put.
    pub(crate) fn directory_len(&self, count: usize) -> usize {
        if self.is_all_indexed(count) || self.lists_nothing {
            0
        } else {
            RECORD_HEAD + (self.puts + count) * WORD
        }
    }

    /// Entries of a page's directory, if it has one.
    pub(crate) fn entries_of(&self, page: usize) -> Option<usize> {
        let entries = self.page(page).entries;
        (entries > 0 && entries != Page::NOT_LISTED).then_some(usize::from(entries))
    }

    /// Offset of a directory's first entry.
    fn directory_at(&self, page: usize, entries: usize) -> usize {
        self.end_of(page).saturating_sub(entries * WORD)
    }

    fn block<F: Flash>(&self, flash: &F, page: usize, block: usize) -> Result<Block, Error<F::Error>> {
        let entries = self.entries_of(page).unwrap_or_default();
        let len = BLOCK.min(entries.saturating_sub(block * BLOCK));
        let mut found = Block {
            bytes: [0; BLOCK * WORD],
            len,
            at: self.directory_at(page, entries) + block * BLOCK * WORD,
        };
        let bytes = found.bytes.get_mut(..len * WORD).unwrap_or_default();
        self.geometry.read(flash, found.at, bytes)?;
        Ok(found)
    }

    /// The live record of `key` in a page that has a directory, but for those at the offsets `new`.
    fn find_listed<F: Flash>(
        &self,
        flash: &F,
        page: usize,
        key: Key,
        new: &[u32],
    ) -> Result<Option<Record>, Error<F::Error>> {
        let entries = self.entries_of(page).unwrap_or_default();
        let mut search = Search::new(Tag::of(key).short(), entries);
        while let Some(number) = search.next {
            let block = self.block(flash, page, number)?;
            for (_, entry) in block.entries() {
                if entry.is_gone() || entry.tag() != search.tag {
                    continue;
                }
                let record = self.record(flash, page * self.geometry.size + entry.offset())?;
                let is_it = record.name.key == key && record.name.kind == Kind::Put;
                if is_it && !is_among(&record, new) {
                    return Ok(Some(record));
                }
            }
            search.go_on(block.ends());
        }
        Ok(None)
    }

    /// The live record of `key` that the index does not have, but for those at the offsets `new`: in the directories, and in the tail.
    pub(crate) fn find_beyond<F: Flash>(
        &self,
        flash: &F,
        key: Key,
        new: &[u32],
    ) -> Result<Option<Record>, Error<F::Error>> {
        for page in 0..self.geometry.pages {
            let known = self.page(page);
            if !known.in_use || known.live == 0 {
                continue;
            }
            let found = if self.entries_of(page).is_some() {
                self.find_listed(flash, page, key, new)?
            } else if page == self.tail || known.entries == Page::NOT_LISTED {
                self.find_in(flash, page, |record| {
                    record.name.key == key && !is_among(record, new)
                })?
            } else {
                None
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The least entries of a page's records that come behind `after`, in order, and how many.
    fn least<F: Flash>(
        &self,
        flash: &F,
        page: usize,
        after: Option<Entry>,
    ) -> Result<([Entry; BLOCK], usize), Error<F::Error>> {
        let (mut least, mut count) = ([Entry::NONE; BLOCK], 0);
        self.find_in(flash, page, |record| {
            let mut entry = Entry::of(&self.geometry, record);
            if after.is_none_or(|after| entry > after) {
                count = BLOCK.min(count + 1);
                // Whatever it is put before moves up, and the last one falls out.
                for place in &mut least {
                    if entry < *place {
                        core::mem::swap(place, &mut entry);
                    }
                }
            }
            false
        })?;
        Ok((least, count))
    }

    /// Gives the entries of a page's records in order, a block at a time.
    fn each_block<F: Flash>(
        &self,
        flash: &mut F,
        page: usize,
        mut each: impl FnMut(&mut F, &[[u8; WORD]]) -> Result<(), Error<F::Error>>,
    ) -> Result<(), Error<F::Error>> {
        let mut last = None;
        loop {
            let (least, count) = self.least(flash, page, last)?;
            let words = least.map(|entry| entry.0.to_be_bytes());
            each(flash, words.get(..count).unwrap_or_default())?;
            last = least.last().copied();
            if count < BLOCK {
                return Ok(());
            }
        }
    }

    /// Writes the tail's directory, if the index does not have all of its records. There is room, which is seen to whenever a record is placed, but in what was carried over or
    /// written with a larger index.
    fn write_directory<F: Flash>(&mut self, flash: &mut F) -> Result<(), Error<F::Error>> {
        let (page, geometry) = (self.tail, self.geometry);
        let is_done = self.page(page).entries > 0 || self.page(page).flag;
        if is_done || self.puts == 0 || self.is_all_indexed(0) {
            return Ok(());
        }
        if self.lists_nothing {
            self.page_mut(page).entries = Page::NOT_LISTED;
            return Ok(());
        }
        let mut count = 0_u16;
        self.find_in(flash, page, |_| {
            count += 1;
            false
        })?;
        if count == 0 {
            return Ok(());
        }
        if RECORD_HEAD + usize::from(count) * WORD > self.geometry.end(page) - self.end_of(page) {
            self.page_mut(page).entries = Page::NOT_LISTED;
            return Ok(());
        }
        let name = Name {
            kind: Kind::Directory,
            key: Key::new(0, count, 0),
            first: false,
            last: false,
            len: 0,
        };
        let mut sum = Ok(());
        let head = name.head(|crc| {
            sum = self.each_block(flash, page, |_, entries| {
                crc.update(entries.as_flattened());
                Ok(())
            });
        });
        sum?;
        let mut at = self.end_of(page);
        geometry.write(flash, at, &head)?;
        at += RECORD_HEAD;
        self.each_block(flash, page, |flash, entries| {
            geometry.write(flash, at, entries.as_flattened())?;
            at += entries.len() * WORD;
            Ok(())
        })?;
        self.set_end(page, at);
        self.page_mut(page).entries = count;
        Ok(())
    }

    /// Moves what stands in pages that were closed without a directory, and that the index does not have, to where it is listed, as far as there are pages free for that.
    pub(crate) fn list<F: Flash>(&mut self, flash: &mut F) -> Result<(), Error<F::Error>> {
        for _ in 0..self.geometry.pages {
            let is_not_listed = |page: &usize| self.page(*page).entries == Page::NOT_LISTED;
            let Some(page) = (0..self.geometry.pages).find(is_not_listed) else {
                break;
            };
            if self.is_short(1) {
                break;
            }
            self.compact(flash, page, &|_| true)?;
        }
        Ok(())
    }

    /// Closes the tail and begins the next page.
    pub(crate) fn next_page<F: Flash>(&mut self, flash: &mut F) -> Result<(), Error<F::Error>> {
        self.write_directory(flash)?;
        self.open_page(flash, None)
    }

    /// Whether a page's directory has exactly these records, in order.
    pub(crate) fn is_listed<F: Flash>(
        &self,
        flash: &F,
        page: usize,
        wanted: Listed,
    ) -> Result<bool, Error<F::Error>> {
        let entries = self.entries_of(page).unwrap_or_default();
        let (mut listed, mut last, mut is_sorted) = (Listed::default(), None, true);
        for block in 0..entries.div_ceil(BLOCK) {
            let block = self.block(flash, page, block)?;
            for (_, entry) in block.entries().filter(|(_, entry)| !entry.is_gone()) {
                is_sorted &= last < Some(entry);
                last = Some(entry);
                listed.add_entry(entry);
            }
        }
        Ok(is_sorted && listed == wanted)
    }

    /// Writes zeros over a record, and before that over what its page's directory says of it: so what a cut leaves of that is known to be of a record that goes.
    pub(crate) fn wipe<F: Flash>(&self, flash: &mut F, record: &Record) -> Result<(), Error<F::Error>> {
        let page = self.geometry.page_of(record.at);
        if let Some(entries) = self.entries_of(page) {
            let wanted = Entry::of(&self.geometry, record);
            let mut search = Search::new(wanted.tag(), entries);
            let mut found = None;
            while let (None, Some(number)) = (found, search.next) {
                let block = self.block(flash, page, number)?;
                found = block.entries().find(|(_, entry)| *entry == wanted);
                search.go_on(block.ends());
            }
            let (at, _) = found.ok_or(Error::Corrupted)?;
            self.geometry.write(flash, at, &[0; WORD])?;
        }
        self.geometry.wipe(flash, record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Every block that has a tag is looked at, of directories of all sizes up to four blocks with few and with many entries of one tag, some of them gone.
    #[test]
    fn a_search_comes_to_each_block_that_has_the_tag() {
        let mut state = 1_u32;
        let mut below = |n: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % n
        };
        let mut across = 0;
        for round in 0..4000 {
            let count = usize::try_from(below(256) + 1).unwrap();
            let spread = [2, 5, 40, 65_536][round % 4];
            let tags =
                (0..count).map(|_| u16::try_from(below(spread) * (65_535 / spread.min(65_535))).unwrap());
            let mut tags: Vec<_> = tags.collect();
            tags.sort_unstable();
            let entries: Vec<_> = (1..)
                .zip(&tags)
                .map(|(word, tag)| {
                    if below(4) == 0 {
                        Entry(0)
                    } else {
                        Entry::new(*tag, word)
                    }
                })
                .collect();
            let blocks: Vec<_> = entries
                .chunks(BLOCK)
                .map(|entries| {
                    let words: Vec<_> = entries.iter().flat_map(|entry| entry.0.to_be_bytes()).collect();
                    let mut bytes = [0; BLOCK * WORD];
                    bytes[..words.len()].copy_from_slice(&words);
                    let len = entries.len();
                    Block { bytes, len, at: 0 }
                })
                .collect();
            let tag = tags[usize::try_from(below(256)).unwrap() % count];
            let mut search = Search::new(tag, count);
            let mut seen = Vec::new();
            while let Some(number) = search.next {
                assert!(!seen.contains(&number), "once");
                seen.push(number);
                search.go_on(blocks[number].ends());
            }
            let has = |block: &Block| {
                block
                    .entries()
                    .any(|(_, entry)| !entry.is_gone() && entry.tag() == tag)
            };
            let wanted: Vec<_> = (0..blocks.len()).filter(|n| has(&blocks[*n])).collect();
            across += usize::from(wanted.len() > 1);
            assert!(
                wanted.iter().all(|n| seen.contains(n)),
                "{tag} of {tags:?}: {wanted:?}, {seen:?}"
            );
        }
        assert!(across > 500, "{across} across blocks");
    }
}
