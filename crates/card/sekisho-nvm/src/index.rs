//! Where the live records stand: a hash table.

use crate::Key;
use crate::flash::WORD;

/// Bits of an offset in a slot, in words: the log that an index can point into has up to 4 MiB.
const OFFSET_BITS: u32 = 20;
/// Bytes of a store that a slot can point into.
pub(crate) const REACH: usize = ((1 << OFFSET_BITS) - 1) * WORD;
/// Bits of a tag.
const TAG_BITS: u32 = 28;

/// A place for one record in the index: 28 bits of its key's hash, and where it stands, each bit turned round, so that a free place is zeros. 6 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot([u16; 3]);

impl Slot {
    /// A free place.
    pub const FREE: Self = Self([0; 3]);

    /// `None` when the offset is out of reach.
    fn new(tag: Tag, at: usize) -> Option<Self> {
        let word = u64::try_from(at / WORD).ok()?;
        if at >= REACH {
            return None;
        }
        let [_, _, a, b, c, d, e, f] = (!(u64::from(tag.0) << OFFSET_BITS | word)).to_be_bytes();
        Some(Self([[a, b], [c, d], [e, f]].map(u16::from_be_bytes)))
    }

    fn bits(self) -> u64 {
        self.0.iter().fold(0, |bits, part| bits << 16 | u64::from(!*part))
    }

    fn tag(self) -> Tag {
        Tag(u32::try_from(self.bits() >> OFFSET_BITS).unwrap_or_default())
    }

    /// The record's offset in the log.
    fn at(self) -> usize {
        usize::try_from(self.bits() & ((1 << OFFSET_BITS) - 1)).unwrap_or_default() * WORD
    }
}

/// What the index knows of a key. Two keys may have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(u32);

impl Tag {
    /// As many of its bits as a directory has of it.
    pub(crate) const fn short(self) -> u16 {
        let [_, _, a, b] = (self.0 >> (TAG_BITS - 16)).to_be_bytes();
        u16::from_be_bytes([a, b])
    }

    pub(crate) const fn of(key: Key) -> Self {
        // Two rounds of multiplying and folding (MurmurHash3, finalizer): neighbours are far apart.
        let names = (key.owner as u32) << 16 | key.object as u32;
        let mut hash = names ^ (key.part as u32).wrapping_mul(0x9E37_79B9);
        hash = (hash ^ (hash >> 16)).wrapping_mul(0x85EB_CA6B);
        hash = (hash ^ (hash >> 13)).wrapping_mul(0xC2B2_AE35);
        Self((hash ^ (hash >> 16)) >> (u32::BITS - TAG_BITS))
    }
}

/// The table: open addressing, one place after the other from where the tag says.
#[derive(Debug)]
pub struct Index<I: ?Sized = [Slot]> {
    /// Not every live record is in it.
    incomplete: bool,
    /// Records in it.
    count: usize,
    slots: I,
}

impl<const N: usize> Index<[Slot; N]> {
    pub(crate) const fn new() -> Self {
        Self {
            incomplete: false,
            count: 0,
            slots: [Slot::FREE; N],
        }
    }
}

impl Index {
    /// Whether every live record is in it: then what it does not have is not there.
    pub(crate) const fn is_complete(&self) -> bool {
        !self.incomplete
    }

    /// Whether every live record is in it, and will be with another `count`.
    pub(crate) const fn has_room_for(&self, count: usize) -> bool {
        !self.incomplete && self.count + count <= self.slots.len()
    }

    pub(crate) fn clear(&mut self) {
        self.slots.fill(Slot::FREE);
        (self.incomplete, self.count) = (false, 0);
    }

    /// The place that a tag's search begins at.
    fn home(&self, tag: Tag) -> usize {
        let len = u64::try_from(self.slots.len()).unwrap_or_default();
        usize::try_from((u64::from(tag.0) * len) >> TAG_BITS).unwrap_or_default()
    }

    /// The places from the tag's first on, up to a free one.
    fn places(&self, tag: Tag) -> impl Iterator<Item = (usize, Slot)> {
        let (before, from) = self.slots.split_at_checked(self.home(tag)).unwrap_or_default();
        let behind = before.len();
        let from = from.iter().enumerate().map(move |(n, slot)| (behind + n, *slot));
        from.chain(before.iter().copied().enumerate())
            .take_while(|(_, slot)| *slot != Slot::FREE)
    }

    /// Offsets of the records with this tag.
    pub(crate) fn find(&self, tag: Tag) -> impl Iterator<Item = usize> {
        self.places(tag)
            .filter(move |(_, slot)| slot.tag() == tag)
            .map(|(_, slot)| slot.at())
    }

    fn place_of(&self, tag: Tag, at: usize) -> Option<usize> {
        let wanted = Slot::new(tag, at)?;
        self.places(tag)
            .find(|(_, slot)| *slot == wanted)
            .map(|(place, _)| place)
    }

    /// Whether the record at `at` is in it.
    #[cfg(test)]
    fn has(&self, tag: Tag, at: usize) -> bool {
        self.place_of(tag, at).is_some()
    }

    /// Takes up a record whose key is not in it, if there is room. Without room for it the index is incomplete from then on.
    pub(crate) fn insert(&mut self, tag: Tag, at: usize) -> bool {
        let len = self.slots.len();
        let home = self.home(tag);
        let free = (home..len)
            .chain(0..home)
            .find(|place| self.slots.get(*place) == Some(&Slot::FREE));
        match (free.and_then(|free| self.slots.get_mut(free)), Slot::new(tag, at)) {
            (Some(place), Some(slot)) => {
                *place = slot;
                self.count += 1;
                true
            }
            _ => {
                self.incomplete = true;
                false
            }
        }
    }

    /// Takes out the record at `at`, if it is in it, and moves up those that would not be found any more.
    pub(crate) fn remove(&mut self, tag: Tag, at: usize) {
        let Some(mut hole) = self.place_of(tag, at) else {
            return;
        };
        let len = self.slots.len();
        let distance = |from: usize, to: usize| (to + len - from) % len;
        let first = hole;
        for place in (1..len).map(|step| (first + step) % len) {
            let Some(slot) = self.slots.get(place).copied().filter(|slot| *slot != Slot::FREE) else {
                break;
            };
            // It may go up to the hole if its search passes there.
            if distance(self.home(slot.tag()), place) >= distance(hole, place) {
                if let Some(up) = self.slots.get_mut(hole) {
                    *up = slot;
                }
                hole = place;
            }
        }
        if let Some(slot) = self.slots.get_mut(hole) {
            *slot = Slot::FREE;
            self.count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Key {
        let [a, b, c, d] = number.to_be_bytes();
        Key::new(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), 0)
    }

    /// Keys that share few first places, so that searches run into each other and around the end.
    fn crowd(index: &Index, count: usize) -> [Tag; 16] {
        let mut tags = [Tag(0); 16];
        let crowded = (0..)
            .map(|n| Tag::of(key(n)))
            .filter(|tag| index.home(*tag) % 5 < 2);
        for (to, tag) in tags.iter_mut().take(count).zip(crowded) {
            *to = tag;
        }
        tags
    }

    #[test]
    fn what_is_in_it_is_found_whatever_was_taken_out() {
        let mut index: Index<[Slot; 16]> = Index::new();
        let index: &mut Index = &mut index;
        let tags = crowd(index, 16);
        let mut state = 1_u32;
        let mut is_in = [false; 16];
        let mut full = 0;
        for _ in 0..20_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let n = usize::try_from(state >> 28).unwrap();
            // Mostly taking in, so that it is full at times.
            if is_in[n] && state & 0x300 == 0 {
                index.remove(tags[n], 16 * n);
                is_in[n] = false;
            } else if !is_in[n] {
                index.insert(tags[n], 16 * n);
                is_in[n] = true;
            }
            for (n, is_in) in is_in.iter().enumerate() {
                assert_eq!(index.has(tags[n], 16 * n), *is_in);
                assert_eq!(
                    index.find(tags[n]).filter(|at| *at == 16 * n).count(),
                    usize::from(*is_in)
                );
            }
            full += usize::from(is_in == [true; 16]);
        }
        assert!(index.is_complete());
        assert!(full > 100, "full {full} times");
        let mut more = (0..).map(|n| Tag::of(key(n))).filter(|tag| !tags.contains(tag));
        while is_in.contains(&true) && index.is_complete() {
            index.insert(more.next().unwrap(), 4);
        }
        assert!(!index.is_complete());
        index.clear();
        assert!(index.is_complete() && index.find(tags[0]).next().is_none());
    }

    #[test]
    fn a_slot_reaches_four_mebibytes_and_no_further() {
        let tag = Tag::of(key(7));
        for at in [0, 16, (1 << 22) - 8] {
            let slot = Slot::new(tag, at).unwrap();
            assert_eq!((slot.tag(), slot.at()), (tag, at));
            assert_ne!(slot, Slot::FREE);
        }
        assert_eq!(Slot::new(tag, (1 << 22) - 4), None);
        let mut none: Index<[Slot; 0]> = Index::new();
        let none: &mut Index = &mut none;
        assert!(none.find(tag).next().is_none());
        none.remove(tag, 4);
        none.insert(tag, 4);
        assert!(!none.is_complete());
        assert_eq!(size_of::<[Slot; 100]>(), 600);
    }

    /// `tests/index.rs` works with them.
    #[test]
    fn these_two_keys_have_one_tag() {
        assert_eq!(Tag::of(key(4378)), Tag::of(key(4379)));
    }
}
