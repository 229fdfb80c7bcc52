//! Room of the store for those who share it: what a container and an application may take, and what is kept for them (docs/spec/content.md, 7).
//!
//! What an owner may take is a limit for what makes its records longer in all. What has been reserved for an owner counts as taken from the moment at which it is reserved, for its container and for everybody else.
//! What replaces records by others that are as long always goes; what is written from the [`RESERVE`] is not asked here.

use core::iter;

use sekisho_apdu::tlv::find;
use sekisho_apdu::{DecodeError, Reader, StatusWord};
use sekisho_nvm::area::Part;
use sekisho_nvm::{Op, WORD};

use super::{Nvm, RESERVE};
use crate::interface::ContainerId;
use crate::names::EntryId;
use crate::refusal::Refusal;
use crate::registry::ENTRIES_MAX;

/// Non-volatile memory quota among the system's parameters of INSTALL (GPC 11.5.2.3.7).
const QUOTA: u32 = 0xC8;
/// Non-volatile reserved memory.
const RESERVED: u32 = 0xD8;

/// Room for the records of one application, in words of the flash: each takes its value in whole words and 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// What they may take; [`u16::MAX`] is no limit.
    limit: u16,
    /// What is kept for them.
    reserved: u16,
}

impl Quota {
    /// As much as there is, and nothing kept.
    pub const NONE: Self = Self {
        limit: u16::MAX,
        reserved: 0,
    };
    /// Length of the record.
    pub(crate) const LEN: usize = 5;
    /// Format of the record.
    const FORMAT: u8 = 1;

    /// What the system's parameters of INSTALL ask for: C8 and D8, numbers of bytes of 2 or 4 bytes. A limit of 262,140 bytes or more is none.
    ///
    /// # Errors
    /// 6A80 for other lengths, and for less room than is to be reserved; 6A84 for more than any store has.
    pub fn of_parameters(system: &[u8]) -> Result<Self, Refusal> {
        let number = |tag| {
            let object = find(system, tag)?;
            object.map(bytes_of).transpose()
        };
        let limit = number(QUOTA)?.and_then(|bytes| u16::try_from(bytes / WORD).ok());
        let limit = limit.unwrap_or(u16::MAX);
        let words = number(RESERVED)?.unwrap_or_default().div_ceil(WORD);
        let reserved = u16::try_from(words).map_err(|_| Refusal(StatusWord::NOT_ENOUGH_MEMORY))?;
        if reserved > limit {
            return Err(Refusal(StatusWord::INCORRECT_DATA));
        }
        Ok(Self { limit, reserved })
    }

    pub(crate) const fn encode(self) -> [u8; Self::LEN] {
        let ([a, b], [c, d]) = (self.limit.to_be_bytes(), self.reserved.to_be_bytes());
        [Self::FORMAT, a, b, c, d]
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let format = r.u8()?;
        let (limit, reserved) = (r.u16()?, r.u16()?);
        r.finish()?;
        if format == Self::FORMAT {
            Ok(Self { limit, reserved })
        } else {
            Err(DecodeError::Value)
        }
    }

    fn limit(self) -> usize {
        match self.limit {
            u16::MAX => usize::MAX,
            words => usize::from(words) * WORD,
        }
    }

    /// Bytes that are kept.
    fn reserved(self) -> usize {
        usize::from(self.reserved) * WORD
    }
}

/// A number of bytes, of 2 or 4 bytes.
fn bytes_of(value: &[u8]) -> Result<usize, Refusal> {
    let number = match *value {
        [a, b] => u32::from_be_bytes([0, 0, a, b]),
        [a, b, c, d] => u32::from_be_bytes([a, b, c, d]),
        _ => return Err(Refusal(StatusWord::INCORRECT_DATA)),
    };
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}

/// Who is in a container, by registry index, and what room each has; and the load file that is on its way into it.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    entries: [Option<(EntryId, Quota)>; ENTRIES_MAX],
    coming: Option<EntryId>,
}

impl Room {
    /// Nobody.
    pub const NONE: Self = Self {
        entries: [None; ENTRIES_MAX],
        coming: None,
    };

    /// Who may have bulk.
    fn of_bulk(&self) -> impl Iterator<Item = EntryId> {
        let entries = self.entries.iter().flatten().map(|(id, _)| *id);
        entries.chain(self.coming)
    }

    /// The owners of the records of the container with this number.
    fn owners(&self, container: u16) -> impl Iterator<Item = (u16, Quota)> {
        let entries = self
            .entries
            .iter()
            .flatten()
            .map(|(id, quota)| (id.number(), *quota));
        iter::once((container, Quota::NONE)).chain(entries)
    }
}

impl Nvm<'_> {
    /// Who stands at a registry index, and what room he has.
    pub(crate) fn set_room(&mut self, container: ContainerId, index: u8, who: Option<(EntryId, Quota)>) {
        if let Some((id, _)) = who {
            self.forget_coming(id);
        }
        let place = self
            .room(container)
            .and_then(|room| room.entries.get_mut(usize::from(index)));
        if let Some(place) = place {
            *place = who;
        }
    }

    /// A load file is on its way into a container, until it [stands at an index](Nvm::set_room) or another one comes. One that has been given up takes nothing.
    pub(crate) fn announce(&mut self, container: ContainerId, id: EntryId) {
        self.forget_coming(id);
        if let Some(room) = self.room(container) {
            room.coming = Some(id);
        }
    }

    /// Whichever container it was on its way into: an identity that was not given out in the end may come again elsewhere.
    fn forget_coming(&mut self, id: EntryId) {
        for room in self.rooms.iter_mut() {
            room.coming = room.coming.filter(|coming| *coming != id);
        }
    }

    fn room(&mut self, container: ContainerId) -> Option<&mut Room> {
        self.rooms
            .get_mut(usize::from(container.number()).wrapping_sub(1))
    }

    /// What of the area an owner may have: up to its quota, of what is its container's.
    pub(crate) fn bulk_part(&self, owner: EntryId) -> Part {
        let who = |room: &Room| room.of_bulk().any(|id| id == owner);
        self.part(self.rooms.iter().position(who).unwrap_or(0))
    }

    /// Pages of the longest bulk that can be begun in a container.
    pub(crate) fn largest_bulk(&self, container: ContainerId) -> usize {
        let part = self.part(usize::from(container.number()).saturating_sub(1));
        self.area.largest(&part).min(part.quota)
    }

    /// What an owner in the container at a position may have: as many pages side by side as a container has, and as many bulks as there are for each that has so many. Where all of them are more than
    /// there is, the last ones share.
    fn part(&self, at: usize) -> Part {
        let all = self.area.pages();
        let pages = self.layout.container_area_quota.min(all);
        let bulks = usize::from(self.area.places());
        let places = bulks.checked_div(all / pages.max(1)).unwrap_or(bulks).max(1);
        let range = |each: usize, of: usize| {
            let start = (at * each).min(of.saturating_sub(each));
            start..start + each
        };
        Part {
            quota: self.layout.area_quota,
            pages: range(pages, all),
            places: range(places, bulks),
        }
    }

    /// Commits, all or nothing, what leaves the [`RESERVE`] and what is kept for others alone, within what each owner and each container may have. What
    /// puts new values in the place of others that are as long goes as long as the store takes it.
    ///
    /// # Errors
    /// 6A84 when there is no room, 6581 when the flash fails.
    pub fn commit_more(&mut self, ops: &[Op<'_>]) -> Result<(), Refusal> {
        // What they replace is looked up only when it matters.
        if !self.fits(ops, false)? && !self.fits(ops, true)? {
            return Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY));
        }
        Ok(self.store.commit(&mut self.flash, ops)?)
    }

    /// What an owner's records take, or all of them, and what they take behind the operations, whose own records replace nothing unless it is `exact`.
    fn grown(&self, ops: &[Op<'_>], owner: Option<u16>, exact: bool) -> Result<(usize, usize), Refusal> {
        let used = match owner {
            Some(owner) => self.store.used(&self.flash, owner)?,
            None => self.store.capacity().saturating_sub(self.store.free()),
        };
        let replaced = if exact {
            self.store.replaced(&self.flash, ops, owner)?
        } else {
            0
        };
        Ok((used, (used + Op::added(ops, owner)).saturating_sub(replaced)))
    }

    /// Whether operations may be done.
    fn fits(&self, ops: &[Op<'_>], exact: bool) -> Result<bool, Refusal> {
        // With what is kept and not used.
        let mut taken = self.grown(ops, None, exact)?;
        if taken.0 == taken.1 && !exact {
            return Ok(true);
        }
        for (number, room) in (1..).zip(self.shared()) {
            let mut all = (0, 0);
            for (owner, quota) in room.owners(number) {
                let (used, next) = self.grown(ops, Some(owner), exact)?;
                if next > used && next > quota.limit() {
                    return Ok(false);
                }
                let kept = |bytes| quota.reserved().saturating_sub(bytes);
                taken.0 += kept(used);
                taken.1 += kept(next);
                all.0 += used + kept(used);
                all.1 += next + kept(next);
            }
            if all.1 > all.0 && all.1 > self.layout.container_quota {
                return Ok(false);
            }
        }
        Ok(taken.1 <= taken.0 || taken.1 + RESERVE <= self.store.capacity())
    }

    /// The containers, by number from 1, if anybody's room is less than all there is, or kept.
    fn shared(&self) -> &[Room] {
        let mut all = self.rooms.iter().flat_map(|room| room.entries.iter().flatten());
        let is_shared =
            self.layout.container_quota < usize::MAX || all.any(|(_, quota)| *quota != Quota::NONE);
        if is_shared { self.rooms } else { &[] }
    }

    /// Bytes of room that the records of a container may still take, beside what is kept for its applications.
    ///
    /// # Errors
    /// 6581.
    pub(crate) fn free_for(&self, container: ContainerId) -> Result<usize, Refusal> {
        let mut free = self.store.free().saturating_sub(RESERVE);
        let mut own = self.layout.container_quota;
        for (number, room) in (1..).zip(self.shared()) {
            for (owner, quota) in room.owners(number) {
                let used = self.store.used(&self.flash, owner)?;
                free = free.saturating_sub(quota.reserved().saturating_sub(used));
                if number == u16::from(container.number()) {
                    own = own.saturating_sub(used.max(quota.reserved()));
                }
            }
        }
        Ok(own.min(free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvm::tests::Bench;
    use sekisho_nvm::{Key, Prefix};
    use std::collections::BTreeMap;
    use std::vec::Vec;

    fn quota(limit: u16, reserved: u16) -> Quota {
        Quota { limit, reserved }
    }

    /// The table of the page: parameters, answer, record.
    #[test]
    fn parameters_are_read_and_the_record_is_the_pages() {
        let page = include_str!("../../../../../docs/spec/content.md");
        let (_, section) = page.split_once("\n## 7 ").unwrap();
        let hex = |cell: &str| -> Vec<u8> {
            let digits: Vec<_> = cell.chars().filter_map(|c| c.to_digit(16)).collect();
            let bytes = digits.chunks(2).map(|two| two[0] << 4 | two[1]);
            bytes.map(|byte| u8::try_from(byte).unwrap()).collect()
        };
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        let mut count = 0;
        for row in rows {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let read = Quota::of_parameters(&hex(cells[1]));
            let sw = read.err().map_or(StatusWord::NO_ERROR, |refusal| refusal.0);
            assert_eq!(std::format!("{sw}"), cells[2], "{row}");
            match (cells[3], read) {
                ("none", read) => assert_eq!(read, Ok(Quota::NONE), "{row}"),
                ("", read) => assert!(read.is_err(), "{row}"),
                (record, read) => {
                    assert_eq!(
                        read.map(|quota| quota.encode().to_vec()),
                        Ok(hex(record)),
                        "{row}"
                    );
                    assert_eq!(Quota::decode(&hex(record)).ok(), read.ok());
                }
            }
            count += 1;
        }
        assert_eq!(count, 14);
        for other in [&[2, 1, 2, 3, 4][..], &[1, 1, 2, 3], &[1, 1, 2, 3, 4, 5]] {
            assert!(Quota::decode(other).is_err());
        }
    }

    /// What there is, as a map: keys, and what room each record takes.
    #[derive(Clone, Default)]
    struct Model {
        records: BTreeMap<Key, usize>,
        rooms: [Vec<(u16, Quota)>; 2],
        container_quota: usize,
        capacity: usize,
    }

    impl Model {
        fn of(&self, owner: u16) -> usize {
            let own = self.records.iter().filter(|(key, _)| key.owner == owner);
            own.map(|(_, cost)| *cost).sum()
        }

        /// What the container's owners take, with what is kept for them.
        fn claim(&self, container: usize) -> usize {
            let entries = self.rooms[container].iter();
            let entries = entries.map(|(owner, quota)| self.of(*owner).max(quota.reserved()));
            let own = u16::try_from(container + 1).unwrap();
            self.of(own) + entries.sum::<usize>()
        }

        fn taken(&self) -> usize {
            let strangers = [0, 0x7000].into_iter().map(|owner| self.of(owner));
            self.claim(0) + self.claim(1) + strangers.sum::<usize>()
        }

        fn after(&self, ops: &[Op<'_>]) -> Self {
            let mut after = self.clone();
            for op in ops {
                after.records.retain(|key, _| !op.concerns(*key));
                if let Op::Put(key, _) = op {
                    after.records.insert(*key, op.cost());
                }
            }
            after
        }

        /// As the page says it.
        fn may_become(&self, after: &Self) -> bool {
            let owners = self.rooms.iter().flatten();
            let owners = owners.map(|(owner, quota)| (self.of(*owner), after.of(*owner), quota.limit()));
            let containers = [0, 1].map(|n| (self.claim(n), after.claim(n), self.container_quota));
            let all = (self.taken(), after.taken(), self.capacity - RESERVE);
            let mut limits = owners.chain(containers).chain([all]);
            limits.all(|(before, after, limit)| after <= before || after <= limit)
        }
    }

    struct Random(u32);

    impl Random {
        fn below(&mut self, n: u32) -> u16 {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u16::try_from((self.0 >> 16) % n).unwrap()
        }

        fn quota(&mut self) -> Quota {
            match self.below(4) {
                0 => Quota::NONE,
                1 => quota(self.below(200), 0),
                2 => quota(u16::MAX, self.below(60)),
                _ => quota(60 + self.below(100), self.below(60)),
            }
        }

        fn op(&mut self, owners: &[u16; 10]) -> Op<'static> {
            let owner = owners[usize::from(self.below(10))];
            let key = Key::new(owner, self.below(8), 0);
            match self.below(12) {
                0 => Op::Remove(key),
                1 if self.below(4) == 0 => Op::RemoveAll(Prefix::Owner(owner)),
                _ => Op::Put(key, &[7; 80][..usize::from(self.below(80))]),
            }
        }
    }

    fn container(at: usize) -> ContainerId {
        ContainerId::new(u8::try_from(at + 1).unwrap()).unwrap()
    }

    /// Transactions of several owners in two containers, beside the platform and somebody whom no container knows, against a map: what is refused is what the page refuses, and changes nothing.
    #[test]
    fn what_fits_is_what_the_page_says() {
        let owners = [0, 0x7000, 1, 2, 0x0200, 0x0201, 0x0202, 0x0203, 0x0204, 0x0205];
        let mut random = Random(7);
        let (mut done, mut refused) = (0, 0);
        for round in 0..12_u16 {
            let mut bench = Bench::new();
            let mut model = Model {
                container_quota: match round % 4 {
                    0 => usize::MAX,
                    _ => usize::from(4 * (200 + random.below(200))),
                },
                capacity: bench.records().nvm.store.capacity(),
                ..Model::default()
            };
            bench.layout.container_quota = model.container_quota;
            for (index, owner) in (4..).zip(&owners[4..]) {
                let (at, quota) = (usize::from(owner % 2), random.quota());
                let who = Some((EntryId::new(*owner).unwrap(), quota));
                bench.records().nvm.set_room(container(at), index, who);
                model.rooms[at].push((*owner, quota));
            }
            for _ in 0..600 {
                let ops: Vec<_> = (0..=random.below(4)).map(|_| random.op(&owners)).collect();
                let after = model.after(&ops);
                let mut records = bench.records();
                let result = records.nvm.commit_more(&ops);
                if model.may_become(&after) {
                    assert_eq!(result, Ok(()), "{ops:?}");
                    model = after;
                    done += 1;
                } else {
                    assert_eq!(result, Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY)), "{ops:?}");
                    refused += 1;
                }
                for owner in &owners {
                    assert_eq!(
                        records.nvm.store.used(&records.nvm.flash, *owner),
                        Ok(model.of(*owner))
                    );
                }
                let left = (model.capacity - RESERVE).saturating_sub(model.taken());
                for at in [0, 1] {
                    let own = model.container_quota.saturating_sub(model.claim(at));
                    assert_eq!(records.nvm.free_for(container(at)), Ok(own.min(left)));
                }
            }
        }
        std::println!("{done} done, {refused} refused");
        assert!(done > 1000 && refused > 1000, "{done} done, {refused} refused");
    }

    #[test]
    fn a_full_store_takes_what_is_no_longer_than_what_it_replaces() {
        let full = Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY));
        let mut bench = Bench::new();
        let key = |index| Key::new(1, index, 0);
        let mut records = bench.records();
        let nvm = &mut records.nvm;
        let mut count = 0;
        while nvm.commit_more(&[Op::Put(key(count), &[1; 40])]).is_ok() {
            count += 1;
        }
        // And the rest, up to the last word.
        while nvm.commit_more(&[Op::Put(key(count), &[])]).is_ok() {
            count += 1;
        }
        let longer = (0..)
            .step_by(4)
            .find(|len| nvm.commit_more(&[Op::Put(key(0), &[1; 80][..40 + len])]).is_err());
        nvm.commit_more(&[Op::Put(key(0), &[1; 80][..36 + longer.unwrap()])])
            .unwrap();
        assert!(nvm.store.free() >= RESERVE);
        // As long, shorter, several, and one in the place of another; again and again.
        for round in 0..50 {
            nvm.commit_more(&[Op::Put(key(1), &[round; 40])]).unwrap();
            nvm.commit_more(&[Op::Put(key(2), &[round; 37]), Op::Put(key(3), &[round; 40])])
                .unwrap();
            let gone = if round % 2 == 0 { (4, 5000) } else { (5000, 4) };
            nvm.commit_more(&[Op::Remove(key(gone.0)), Op::Put(key(gone.1), &[round; 40])])
                .unwrap();
        }
        // A word more is more, and so is a second record under cover of one that is replaced.
        let larger = [Op::Put(key(1), &[9; 44])];
        let second = [Op::Put(key(1), &[9; 40]), Op::Put(key(6000), &[])];
        let twice = [
            Op::Put(key(1), &[9; 40]),
            Op::Put(key(1), &[9; 40]),
            Op::Put(key(6000), &[9; 40]),
        ];
        for ops in [&larger[..], &second, &twice] {
            assert_eq!(nvm.commit_more(ops), full);
        }
        assert!(nvm.store.free() >= RESERVE);
    }
}
