//! The SE's NVM: where its pages are, what its records are called, and the writes of one command, which are committed together.

use core::ops::Range;
use core::slice;

use sekisho_apdu::StatusWord;
use sekisho_nvm::area::{Area, AreaError, Run, Writing};
use sekisho_nvm::{Error, Flash, Key, Memory, Op, Prefix, Store};
use zeroize::Zeroize;

mod quota;

pub use self::quota::{Quota, Room};
pub use crate::flash::{AnyFlash, FlashFault};
use crate::names::{EntryId, RecordKey};
use crate::refusal::Refusal;
use crate::stack::Depth;

/// Where the parts of the flash are, in pages: the store of records, then the two slots of the replaceable OS part, then the area for bulk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Pages of the transactional store.
    pub store: Range<usize>,
    /// Pages of slot A and slot B.
    pub slots: [Range<usize>; 2],
    /// Pages of the area for bulk; none in a product that has none.
    pub area: Range<usize>,
    /// Pages of it that one application may have.
    pub area_quota: usize,
    /// Pages of it that each container has, side by side, by number from 1.
    pub container_area_quota: usize,
    /// Bytes of the store's room that a container may have.
    pub container_quota: usize,
}

impl Layout {
    /// Nothing is anywhere.
    pub(crate) const NONE: Self = Self {
        store: 0..0,
        slots: [0..0, 0..0],
        area: 0..0,
        area_quota: 0,
        container_area_quota: 0,
        container_quota: 0,
    };
}

/// Runs that the area has memory for: 16 bulks of all applications.
pub const AREA_RUNS: usize = 16;

/// The area for bulk of an SE.
pub(crate) type BulkArea = Area<[Run; AREA_RUNS]>;

/// The NVM, as the loader sees it: the flash itself, the store of records on it, and the slots and the area beside the store.
pub struct Nvm<'a> {
    /// The flash.
    pub flash: AnyFlash<'a>,
    /// The store of records.
    pub store: &'a mut Store,
    /// The area for bulk.
    pub area: &'a mut Area,
    /// Where store, slots and area are.
    pub layout: &'a Layout,
    /// Who is in the containers, by number from 1, and what room of the store each has.
    pub rooms: &'a mut [Room],
}

/// The NVM of a running SE.
pub(crate) struct NvmParts<F, I, R> {
    pub(crate) flash: F,
    pub(crate) store: Store<I>,
    pub(crate) area: BulkArea,
    pub(crate) layout: Layout,
    pub(crate) rooms: R,
}

impl<F: Flash, I: Memory, R: AsMut<[Room]>> NvmParts<F, I, R> {
    /// As a command, or the loader, works with it.
    pub(crate) fn open(&mut self) -> Nvm<'_> {
        Nvm {
            flash: AnyFlash::new(&mut self.flash),
            store: &mut self.store,
            area: &mut self.area,
            layout: &self.layout,
            rooms: self.rooms.as_mut(),
        }
    }
}

impl Nvm<'_> {
    /// The same NVM for a shorter time.
    pub fn reborrow(&mut self) -> Nvm<'_> {
        Nvm {
            flash: self.flash.reborrow(),
            store: self.store,
            area: self.area,
            layout: self.layout,
            rooms: self.rooms,
        }
    }

    /// Reads a record into `out` and gives its length; `None` when there is none.
    ///
    /// # Errors
    /// 6581 when the flash fails, 6A84 when `out` is too small.
    pub fn get(&mut self, key: Key, out: &mut [u8]) -> Result<Option<usize>, Refusal> {
        Ok(self.store.get(&self.flash, key, out)?)
    }

    /// Begins a bulk of `length` bytes for an owner, in the place of its unfinished one.
    ///
    /// # Errors
    /// 6A84 when there is no room in what is the container's, or the quota of the owner is used up; 6A80 for no bytes.
    pub(crate) fn begin_bulk(&mut self, owner: EntryId, length: u32) -> Result<Writing, Refusal> {
        let part = self.bulk_part(owner);
        match self.area.begin(&self.flash, owner.number(), length, &part) {
            // A product without an area.
            Err(AreaError::NotSwept) => Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY)),
            begun => Ok(begun?),
        }
    }
}

/// Whether a refusal can be written: its first one has a part of the [`RESERVE`] of its own, and a later one takes the place of an equally long one.
pub(crate) fn has_room_for_refusal(nvm: &Nvm<'_>, op: &Op<'_>) -> bool {
    let replaced = nvm.store.replaced(&nvm.flash, slice::from_ref(op), None);
    let kept = if replaced.is_ok_and(|bytes| bytes > 0) {
        0
    } else {
        ESSENTIAL
    };
    nvm.store.free() >= op.cost() + kept
}

/// 6A84 when there is no room, 6581 for everything else: nothing has been written then.
impl<E> From<Error<E>> for Refusal {
    fn from(error: Error<E>) -> Self {
        Self(match error {
            Error::Full => StatusWord::NOT_ENOUGH_MEMORY,
            _ => StatusWord::MEMORY_FAILURE,
        })
    }
}

/// Bytes of the store that are kept for what must always go: counting up a sequence counter, without which its owner does not get in, and
/// removing and locking. The longest of these is TERMINATED, which removes all that the domains of a container have, the
/// platform's keys, and puts three data objects again: 22 records of 12 bytes and their values, 420 bytes in all. New keys of the design system with their receipt take less.
const ESSENTIAL: usize = 448;

/// All that is kept: what is essential, and the record of a refusal, 70 bytes.
pub const RESERVE: usize = ESSENTIAL + Op::Put(NOTHING, &[0; 70]).cost();

/// Bytes of all values that one command may write.
const STAGED_BYTES_MAX: usize = 1024;

/// Records of an application that are written or removed together where there is no end of them: in the factory, and when it comes or goes.
pub(crate) const RECORDS_AT_A_TIME: usize = 8;

/// Records that one command may write or remove.
const STAGED_RECORDS_MAX: usize = 40;

/// How far the writes of a command had come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    records: usize,
    bytes: usize,
}

/// What a command does with a record, or with several.
#[derive(Clone, Copy)]
enum Change {
    /// Its new value, among the bytes.
    Put(Key, (u16, u16)),
    Remove(Key),
    RemoveAll(Prefix),
}

impl Change {
    /// As an operation, without a value.
    const fn op(self) -> Op<'static> {
        match self {
            Self::Put(key, _) => Op::Put(key, &[]),
            Self::Remove(key) => Op::Remove(key),
            Self::RemoveAll(prefix) => Op::RemoveAll(prefix),
        }
    }
}

/// What an unused place holds.
const NOTHING: Key = Key::new(0, 0, 0);
/// The same, all zeros.
const UNUSED: Change = Change::Put(NOTHING, (0, 0));

/// The writes of one command, kept back until it has succeeded. Wiped when dropped: there may be keys among them.
pub(crate) struct Staged {
    bytes: [u8; STAGED_BYTES_MAX],
    len: usize,
    changes: [Change; STAGED_RECORDS_MAX],
    count: usize,
    /// Records before this one have been written by another call of an application, and are written or dropped with the whole command.
    since: Mark,
    /// Whether the command has been given to an application, or has read or written a record: it may have worked with keys.
    pub(crate) worked: bool,
    /// How deep on the stack.
    pub(crate) depth: Depth,
}

impl Staged {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; STAGED_BYTES_MAX],
            len: 0,
            changes: [UNUSED; STAGED_RECORDS_MAX],
            count: 0,
            since: Mark { records: 0, bytes: 0 },
            worked: false,
            depth: Depth::Unknown,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Forgets all writes.
    pub(crate) fn clear(&mut self) {
        self.since = Mark::default();
        self.forget_since(Mark::default());
    }

    /// An application is called: what it writes from here on is its own.
    pub(crate) fn begin(&mut self) -> Mark {
        self.since = Mark {
            records: self.count,
            bytes: self.len,
        };
        self.since
    }

    /// Forgets what has been written since.
    pub(crate) fn forget_since(&mut self, mark: Mark) {
        self.bytes
            .get_mut(mark.bytes..self.len)
            .unwrap_or_default()
            .zeroize();
        self.len = self.len.min(mark.bytes);
        self.count = self.count.min(mark.records);
    }

    /// Writes now what the application that is being called has written since [`Staged::begin`].
    pub(crate) fn commit_since(&mut self, nvm: &mut Nvm<'_>) -> Result<(), Refusal> {
        self.write(self.since.records, nvm, false)?;
        self.forget_since(self.since);
        Ok(())
    }

    fn value(&self, span: (u16, u16)) -> &[u8] {
        self.bytes
            .get(usize::from(span.0)..usize::from(span.1))
            .unwrap_or_default()
    }

    /// What the command has written so far: `None` when it has not touched the record.
    fn find(&self, key: Key) -> Option<Option<&[u8]>> {
        let all = self.changes.get(..self.count)?;
        let change = all.iter().rev().find(|change| change.op().concerns(key))?;
        Some(match change {
            Change::Put(_, span) => Some(self.value(*span)),
            Change::Remove(_) | Change::RemoveAll(_) => None,
        })
    }

    /// Stages a record's new value, or that it goes.
    pub(crate) fn stage(&mut self, key: Key, value: Option<&[u8]>) -> Result<(), Refusal> {
        let full = Refusal(StatusWord::NOT_ENOUGH_MEMORY);
        let change = match value {
            Some(value) => {
                let end = self.len + value.len();
                self.bytes
                    .get_mut(self.len..end)
                    .ok_or(full)?
                    .copy_from_slice(value);
                let position = |n: usize| u16::try_from(n).map_err(|_| full);
                let span = (position(self.len)?, position(end)?);
                self.len = end;
                Change::Put(key, span)
            }
            None => Change::Remove(key),
        };
        self.add(key, change)
    }

    /// Stages that all parts of an object go.
    pub(crate) fn stage_all(&mut self, key: Key) -> Result<(), Refusal> {
        self.add(key, Change::RemoveAll(Prefix::Object(key.owner, key.object)))
    }

    /// Stages that all records of an owner go.
    fn stage_owner(&mut self, owner: EntryId) -> Result<(), Refusal> {
        let owner = owner.number();
        self.add(Key::new(owner, 0, 0), Change::RemoveAll(Prefix::Owner(owner)))
    }

    /// Adds a change, in the place of one of the same record if that is the last one that concerns it.
    fn add(&mut self, key: Key, change: Change) -> Result<(), Refusal> {
        self.worked = true;
        let own = self.changes.get(..self.count).unwrap_or_default();
        let own = own.iter().enumerate().skip(self.since.records);
        let before = own.rev().find(|(_, before)| before.op().concerns(key));
        let known = match (before, change) {
            (_, Change::RemoveAll(_)) | (Some((_, Change::RemoveAll(_))), _) | (None, _) => None,
            (Some((at, _)), _) => Some(at),
        };
        let at = known.unwrap_or(self.count);
        *self
            .changes
            .get_mut(at)
            .ok_or(Refusal(StatusWord::NOT_ENOUGH_MEMORY))? = change;
        self.count = self.count.max(at + 1);
        Ok(())
    }

    /// Writes everything or nothing. `essential` writes may use the [`RESERVE`].
    pub(crate) fn commit(&self, nvm: &mut Nvm<'_>, essential: bool) -> Result<(), Refusal> {
        self.write(0, nvm, essential)
    }

    fn write(&self, from: usize, nvm: &mut Nvm<'_>, essential: bool) -> Result<(), Refusal> {
        let mut ops = [Op::Remove(NOTHING); STAGED_RECORDS_MAX];
        let staged = self.changes.get(from..self.count).unwrap_or_default();
        for (op, change) in ops.iter_mut().zip(staged) {
            *op = match change {
                Change::Put(key, span) => Op::Put(*key, self.value(*span)),
                change => change.op(),
            };
        }
        let ops = ops.get(..staged.len()).unwrap_or_default();
        if essential {
            Ok(nvm.store.commit(&mut nvm.flash, ops)?)
        } else {
            nvm.commit_more(ops)
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The records, as the command being processed sees them: with its own writes.
pub(crate) struct Records<'a> {
    pub(crate) nvm: Nvm<'a>,
    pub(crate) staged: &'a mut Staged,
}

impl Records<'_> {
    /// Reads a record, as the command has left it so far.
    pub(crate) fn get(&mut self, name: RecordKey, out: &mut [u8]) -> Result<Option<usize>, Refusal> {
        self.get_key(name.key(), out)
    }

    /// Reads the record of a key.
    pub(crate) fn get_key(&mut self, key: Key, out: &mut [u8]) -> Result<Option<usize>, Refusal> {
        self.staged.worked = true;
        match self.staged.find(key) {
            None => self.nvm.get(key, out),
            Some(None) => Ok(None),
            Some(Some(value)) => {
                let room = out
                    .get_mut(..value.len())
                    .ok_or(Refusal(StatusWord::NOT_ENOUGH_MEMORY))?;
                room.copy_from_slice(value);
                Ok(Some(value.len()))
            }
        }
    }

    /// Writes a record.
    pub(crate) fn put(&mut self, name: RecordKey, value: &[u8]) -> Result<(), Refusal> {
        self.staged.stage(name.key(), Some(value))
    }

    /// Removes a record.
    pub(crate) fn remove(&mut self, name: RecordKey) -> Result<(), Refusal> {
        self.staged.stage(name.key(), None)
    }

    /// Removes all records of an entry, however many; what the command puts behind this stays.
    pub(crate) fn remove_all_of(&mut self, entry: EntryId) -> Result<(), Refusal> {
        self.staged.stage_owner(entry)
    }

    /// Reads one of an application's own records.
    pub(crate) fn get_own(
        &mut self,
        application: EntryId,
        object: u16,
        part: u8,
        out: &mut [u8],
    ) -> Result<Option<usize>, Refusal> {
        self.get_key(own(application, object, part), out)
    }

    /// Writes one of them.
    pub(crate) fn put_own(
        &mut self,
        application: EntryId,
        object: u16,
        part: u8,
        value: &[u8],
    ) -> Result<(), Refusal> {
        self.staged.stage(own(application, object, part), Some(value))
    }

    /// Removes one of them.
    pub(crate) fn remove_own(&mut self, application: EntryId, object: u16, part: u8) -> Result<(), Refusal> {
        self.staged.stage(own(application, object, part), None)
    }
}

/// The key of one of an application's own records: a part of one of its objects.
pub(crate) const fn own(application: EntryId, object: u16, part: u8) -> Key {
    Key::new(application.number(), object, part)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::names::{Owner, RecordKind};
    use sekisho_nvm::Ram;
    use sekisho_nvm::ram::RamFlash;

    /// A small NVM with nothing in it.
    pub(crate) struct Bench {
        flash: RamFlash,
        store: Store<Ram<8, 16, 16>>,
        area: BulkArea,
        pub(crate) layout: Layout,
        rooms: [Room; 2],
        staged: Staged,
    }

    impl Bench {
        pub(crate) fn new() -> Self {
            let mut flash = RamFlash::strict(2048, 8);
            let layout = Layout {
                store: 0..4,
                slots: [4..6, 6..8],
                area: 8..8,
                area_quota: 0,
                container_area_quota: 0,
                container_quota: usize::MAX,
            };
            let store = Store::format(&mut flash, layout.store.clone()).unwrap();
            Self {
                flash,
                store,
                area: BulkArea::new(8..8),
                layout,
                rooms: [Room::NONE; 2],
                staged: Staged::new(),
            }
        }

        pub(crate) fn records(&mut self) -> Records<'_> {
            Records {
                nvm: Nvm {
                    flash: AnyFlash::new(&mut self.flash),
                    store: &mut self.store,
                    area: &mut self.area,
                    layout: &self.layout,
                    rooms: &mut self.rooms,
                },
                staged: &mut self.staged,
            }
        }

        pub(crate) fn commit(&mut self) {
            self.try_commit().unwrap();
        }

        pub(crate) fn try_commit(&mut self) -> Result<(), Refusal> {
            let Records { mut nvm, staged } = self.records();
            let done = staged.commit(&mut nvm, false);
            staged.clear();
            done
        }
    }

    fn entry(number: u16) -> EntryId {
        EntryId::new(number).unwrap()
    }

    fn value_of(bench: &mut Bench, application: u16) -> Option<[u8; 2]> {
        let mut value = [0; 2];
        let found = bench
            .records()
            .get_own(entry(application), 7, 0, &mut value)
            .unwrap();
        found.map(|len| {
            assert_eq!(len, 2);
            value
        })
    }

    #[test]
    fn nobody_finds_what_is_not_his_own() {
        let mut bench = Bench::new();
        bench.records().put_own(entry(0x103), 7, 0, b"A3").unwrap();
        let keys = RecordKey::new(Owner::Entry(entry(0x104)), RecordKind::Keys, 7);
        bench.records().put(keys, b"KK").unwrap();
        bench.commit();
        assert_eq!(value_of(&mut bench, 0x103), Some(*b"A3"));
        for other in [0x100, 0x102, 0x104, 0x1A3, 0x203] {
            assert_eq!(value_of(&mut bench, other), None);
        }
        // The same number of another application is another record.
        bench.records().put_own(entry(0x104), 7, 0, b"A4").unwrap();
        bench.records().put_own(entry(0x1A3), 7, 0, b"B3").unwrap();
        bench.records().remove_own(entry(0x1A4), 7, 0).unwrap();
        bench.commit();
        assert_eq!(value_of(&mut bench, 0x103), Some(*b"A3"));
        assert_eq!(value_of(&mut bench, 0x104), Some(*b"A4"));
        assert_eq!(value_of(&mut bench, 0x1A3), Some(*b"B3"));
    }

    #[test]
    fn a_command_sees_its_own_writes_and_a_refused_one_leaves_none() {
        let three = entry(0x103);
        let mut bench = Bench::new();
        bench.records().put_own(three, 7, 0, b"11").unwrap();
        bench.commit();
        bench.records().put_own(three, 7, 0, b"22").unwrap();
        assert_eq!(value_of(&mut bench, 0x103), Some(*b"22"));
        bench.records().remove_own(three, 7, 0).unwrap();
        assert_eq!(value_of(&mut bench, 0x103), None);
        bench.records().put_own(three, 7, 0, b"33").unwrap();
        assert_eq!(value_of(&mut bench, 0x103), Some(*b"33"));
        bench.staged.clear();
        assert_eq!(value_of(&mut bench, 0x103), Some(*b"11"));
        assert!(
            bench.staged.bytes.iter().all(|byte| *byte == 0),
            "staged values are wiped"
        );
    }

    #[test]
    fn more_than_a_command_may_write_is_refused() {
        let full = Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY));
        let mut bench = Bench::new();
        let three = entry(0x103);
        let mut records = bench.records();
        assert_eq!(records.put_own(three, 0, 0, &[1; STAGED_BYTES_MAX + 1]), full);
        records.put_own(three, 0, 0, &[1; STAGED_BYTES_MAX]).unwrap();
        assert_eq!(records.put_own(three, 1, 0, &[1]), full);
        bench.staged.clear();
        let mut records = bench.records();
        for index in (0..).take(STAGED_RECORDS_MAX) {
            records.remove_own(three, index, 0).unwrap();
        }
        assert_eq!(records.remove_own(three, 1000, 0), full);
        assert_eq!(records.get_own(three, 0, 0, &mut []), Ok(None));
    }
}
