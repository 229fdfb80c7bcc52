//! What records are called: whose they are, what they are, and which of these. The one table of owners and kinds.
//!
//! | owner | kinds | index |
//! |---|---|---|
//! | the platform | 03, 04 of its key versions; 09, 0B, 0C; 40 to 47 and 50, the loader's; 48 | key version; 0; 0, of 50 the OS part's own number; number of a bulk |
//! | a container | 01, 02, 07, 08, 09, 0A, 0E | 0, registry index, 0, 0, 0, 0, registry index |
//! | an entry of a registry | 03 to 07 of a security domain; 0D of an executable load file; 00, an application's own | key version, tag of a data object; 0; the application's own number |
//!
//! Numbers are never given to something else, nor is the number of an owner.

use core::num::NonZeroU16;

use sekisho_nvm::Key;

use crate::interface::ContainerId;

/// Identity of a registry entry in the whole SE. It is never given out again: a successor under the same AID finds nothing of who was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(NonZeroU16);

impl EntryId {
    /// The entry with registry index 0 of an SE of version 0.1, whose entries have no identity written with them: this and the index.
    const OF_0_1: u16 = 0x0100;
    /// The first that the eSE gives out; what has given out none has no record of it.
    pub(crate) const FIRST: Self = match Self::new(0x01A0) {
        Some(id) => id,
        None => unreachable!(),
    };
    /// How many numbers a container has, so that none uses up what is another's: those of container 1 end at 1FFF, container 2 has 2000 to 3FFF, up to container 8. Before there were
    /// shares all were given out from the first.
    const SHARE: u16 = 0x2000;

    /// The first that a container gives out; `None` for one that has no share.
    pub(crate) fn first_of(container: ContainerId) -> Option<Self> {
        match u16::from(container.number()) {
            1 => Some(Self::FIRST),
            number @ 2..=8 => Self::new((number - 1) * Self::SHARE),
            _ => None,
        }
    }

    /// The entry with this number: 0100 or above, below which owners are containers.
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(id) if number >= Self::OF_0_1 => Some(Self(id)),
            _ => None,
        }
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0.get()
    }

    /// Of an entry whose record has none: version 0.1's.
    pub(crate) const fn of_0_1(index: u8) -> Self {
        // Never 0.
        match NonZeroU16::new(Self::OF_0_1 + index as u16) {
            Some(id) => Self(id),
            None => Self::FIRST,
        }
    }

    /// The one that is given out after this; `None` when this was the last of its container.
    pub(crate) const fn next(self) -> Option<Self> {
        match self.number().wrapping_add(1) {
            next if next % Self::SHARE == 0 => None,
            next => Self::new(next),
        }
    }
}

/// Whose a record is. Nobody has a name for another one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The SE itself: loader, OS part, the design system's keys.
    Platform,
    /// A container.
    Container(ContainerId),
    /// A security domain or an application.
    Entry(EntryId),
}

impl Owner {
    /// Its number: no two have the same.
    pub(crate) const fn number(self) -> u16 {
        match self {
            Self::Platform => 0,
            Self::Container(id) => id.number() as u16,
            Self::Entry(id) => id.number(),
        }
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordKind {
    /// An application's own. Index: its own number for it.
    Own = 0x00,
    /// The card record, written last when a container is made.
    Card = 0x01,
    /// Index: registry index.
    Registry = 0x02,
    /// Index: KVN.
    Keys = 0x03,
    /// Index: KVN.
    SequenceCounter = 0x04,
    /// Which key versions there are, and the default one.
    KeyDirectory = 0x05,
    /// Index: the tag of GET DATA.
    DataObject = 0x06,
    /// The highest sequence counter that was used with any key set; written when a key version changes or goes. Of a container: by domains that are gone.
    HighestSequence = 0x07,
    /// Whose records belong to nobody, while an application is being installed or deleted.
    Leftovers = 0x08,
    /// The identity that is given out next: of the eSE by the platform's record, of another container by its own.
    NextEntry = 0x09,
    /// The AID that a container's root was made with, where it is not the common one.
    RootName = 0x0A,
    /// Pairing data that take the place of the profile's.
    Pairing = 0x0B,
    /// The number of the pairing data that were taken last.
    PairingNumber = 0x0C,
    /// What the code of an executable load file is, and where.
    Code = 0x0D,
    /// What room of the store an application has. Index: registry index.
    Quota = 0x0E,
    /// The active OS part.
    Part = 0x40,
    /// What is staged.
    Staging = 0x41,
    /// Where the broadcast stands.
    Checkpoint = 0x42,
    /// The bytes that do not fill a page yet.
    Carry = 0x43,
    /// The last receipt.
    Receipt = 0x44,
    /// Version of the design system's keys.
    KeyVersion = 0x45,
    /// Whether the slot that is not active is to be wiped.
    Wipe = 0x46,
    /// The last refusal.
    Refusal = 0x47,
    /// That a bulk is whole, whosever it is. Index: its number.
    Seal = 0x48,
    /// What the OS part keeps. Index: its own number for it.
    #[cfg_attr(
        not(feature = "os-part"),
        allow(dead_code, reason = "its number is taken all the same")
    )]
    PartData = 0x50,
}

impl RecordKind {
    /// Its number.
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }
}

/// The name of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordKey {
    pub(crate) owner: Owner,
    pub(crate) kind: RecordKind,
    pub(crate) index: u16,
}

/// First kind in a key of version 0.1 of what applications own: of registry index 0.
const OWN_OF_0_1: u8 = 0x60;

impl RecordKey {
    /// The record `index` of this kind and owner.
    pub(crate) const fn new(owner: Owner, kind: RecordKind, index: u16) -> Self {
        Self { owner, kind, index }
    }

    /// A record of the platform.
    pub(crate) const fn platform(kind: RecordKind, index: u16) -> Self {
        Self::new(Owner::Platform, kind, index)
    }

    /// Its key in the store. All names of records go through here.
    pub(crate) const fn key(self) -> Key {
        Key::new(self.owner.number(), self.index, self.kind.number())
    }
}

/// The key of a record of version 0.1, whose store was of format 1: there a byte each for container and kind, and the index. `None` for one that no operating system wrote.
pub(crate) const fn carried(old: u32) -> Option<Key> {
    let [container, kind, high, low] = old.to_be_bytes();
    let index = u16::from_be_bytes([high, low]);
    let owner = match (container, kind) {
        (1, 0x40..=0x5F) => 0,
        (1, 0x03 | 0x04) if matches!(index, 0x61..=0x64) => 0,
        (1, 0x01 | 0x02 | 0x08) => 1,
        (1, 0x03..=0x07) => EntryId::OF_0_1,
        (1, OWN_OF_0_1..) => {
            let entry = EntryId::OF_0_1 + (kind - OWN_OF_0_1) as u16;
            return Some(Key::new(entry, index, RecordKind::Own.number()));
        }
        _ => return None,
    };
    Some(Key::new(owner, index, kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    /// Kinds that nothing has any more: never to be given to something else.
    const RETIRED: [u8; 0] = [];

    /// Every kind, by whose it is.
    const PLATFORMS: [RecordKind; 15] = [
        RecordKind::Keys,
        RecordKind::SequenceCounter,
        RecordKind::NextEntry,
        RecordKind::Pairing,
        RecordKind::PairingNumber,
        RecordKind::Part,
        RecordKind::Staging,
        RecordKind::Checkpoint,
        RecordKind::Carry,
        RecordKind::Receipt,
        RecordKind::KeyVersion,
        RecordKind::Wipe,
        RecordKind::Refusal,
        RecordKind::Seal,
        RecordKind::PartData,
    ];
    const CONTAINERS: [RecordKind; 7] = [
        RecordKind::Card,
        RecordKind::Registry,
        RecordKind::HighestSequence,
        RecordKind::NextEntry,
        RecordKind::Leftovers,
        RecordKind::RootName,
        RecordKind::Quota,
    ];
    const ENTRIES: [RecordKind; 7] = [
        RecordKind::Own,
        RecordKind::Keys,
        RecordKind::SequenceCounter,
        RecordKind::KeyDirectory,
        RecordKind::DataObject,
        RecordKind::HighestSequence,
        RecordKind::Code,
    ];

    fn entry(number: u16) -> Owner {
        Owner::Entry(EntryId::new(number).unwrap())
    }

    /// Many names: each kind of each owner, the first and the last of three containers and of entries, with indices at their ends.
    fn all() -> Vec<RecordKey> {
        let mut all = Vec::new();
        let mut add = |owner: Owner, kinds: &[RecordKind], indices: &[u16]| {
            for kind in kinds {
                all.extend(indices.iter().map(|index| RecordKey::new(owner, *kind, *index)));
            }
        };
        add(Owner::Platform, &PLATFORMS[..2], &[0x61, 0x62, 0x63, 0x64]);
        add(Owner::Platform, &PLATFORMS[2..], &[0, 1, 0x60, 0xFFFF]);
        for container in [1, 2, 3, 0x7F] {
            let owner = Owner::Container(ContainerId(container));
            add(owner, &CONTAINERS, &[0, 1, 15, 0x61, 0xFFFF]);
        }
        for number in [
            0x0100, 0x0101, 0x010F, 0x019F, 0x01A0, 0x01A1, 0x02A0, 0x10FE, 0x1FFF, 0x2000, 0xFFFF,
        ] {
            add(entry(number), &ENTRIES[..1], &[0, 1, 0x61, 0xDF30, 0xFFFF]);
            // The key versions of the platform are no domain's.
            add(entry(number), &ENTRIES[1..], &[0, 1, 0x60, 0x65, 0xFF, 0xDF30]);
        }
        all
    }

    #[test]
    fn no_two_records_have_one_key() {
        let all = all();
        let keys: BTreeSet<_> = all.iter().map(|name| name.key()).collect();
        assert_eq!(keys.len(), all.len());
    }

    #[test]
    fn what_version_0_1_wrote_has_the_names_that_it_has_now() {
        let name = |owner, kind, index| Some(RecordKey::new(owner, kind, index).key());
        let ese = Owner::Container(ContainerId::ESE);
        let isd = Owner::Entry(EntryId::of_0_1(0));
        for (is, was) in [
            (name(ese, RecordKind::Card, 0), 0x0101_0000),
            (name(ese, RecordKind::Registry, 5), 0x0102_0005),
            (name(isd, RecordKind::Keys, 0x30), 0x0103_0030),
            (name(Owner::Platform, RecordKind::Keys, 0x61), 0x0103_0061),
            (name(isd, RecordKind::SequenceCounter, 0x30), 0x0104_0030),
            (name(isd, RecordKind::KeyDirectory, 0), 0x0105_0000),
            (name(isd, RecordKind::DataObject, 0xDF30), 0x0106_DF30),
            (name(isd, RecordKind::HighestSequence, 0), 0x0107_0000),
            (name(ese, RecordKind::Leftovers, 0), 0x0108_0000),
            (name(Owner::Platform, RecordKind::Part, 0), 0x0140_0000),
            (name(Owner::Platform, RecordKind::Refusal, 0), 0x0147_0000),
            (name(Owner::Platform, RecordKind::PartData, 9), 0x0150_0009),
            (
                name(Owner::Entry(EntryId::of_0_1(5)), RecordKind::Own, 7),
                0x0165_0007,
            ),
        ] {
            assert_eq!(carried(was), is, "{was:08X}");
        }
    }

    #[test]
    fn what_no_operating_system_wrote_is_not_carried() {
        for key in [
            0,
            0x0001_0000,
            0x0100_0000,
            0x010A_0000,
            0x0203_0030,
            0x0265_0007,
            0x0140_0000 | 0x0200_0000,
        ] {
            assert_eq!(carried(key), None, "{key:08X}");
        }
    }

    #[test]
    fn kinds_do_not_overlap_and_retired_ones_stay_retired() {
        let mut seen = BTreeSet::new();
        for kind in PLATFORMS.iter().chain(&CONTAINERS).chain(&ENTRIES) {
            assert!(!RETIRED.contains(&kind.number()), "{kind:?}");
            seen.insert(kind.number());
        }
        // Keys and their counters are the platform's and those of domains; the highest counter and the next identity are a container's too.
        assert_eq!(seen.len(), PLATFORMS.len() + CONTAINERS.len() + ENTRIES.len() - 4);
    }

    #[test]
    fn identities_are_given_out_to_the_end_and_no_further() {
        assert_eq!(EntryId::new(0), None);
        assert_eq!(EntryId::new(0x00FF), None, "a container's");
        assert!(EntryId::of_0_1(u8::MAX) > EntryId::of_0_1(0));
        let mut all = BTreeSet::new();
        for (container, (first, last)) in (1..).zip([
            (0x01A0, 0x1FFF),
            (0x2000, 0x3FFF),
            (0x4000, 0x5FFF),
            (0x6000, 0x7FFF),
            (0x8000, 0x9FFF),
            (0xA000, 0xBFFF),
            (0xC000, 0xDFFF),
            (0xE000, 0xFFFF),
        ]) {
            let mut id = EntryId::first_of(ContainerId(container)).unwrap();
            assert_eq!(id.number(), first);
            assert!(all.insert(id));
            while let Some(next) = id.next() {
                assert!(next > id && all.insert(next), "given out once");
                id = next;
            }
            assert_eq!(id.number(), last);
        }
        assert_eq!(all.len(), 0x1_0000 - 0x01A0);
        assert_eq!(EntryId::first_of(ContainerId(9)), None);
        assert_eq!(EntryId::first_of(ContainerId(0)), None);
    }
}
