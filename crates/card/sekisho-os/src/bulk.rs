//! Bulk of applications: what is too long for records and is read where it stands, in the area beside the store (`sekisho_nvm::area`).
//!
//! An application writes a *bulk* piece by piece, over as many commands as it takes, and seals it in the last of them: the seal is a record, which is written with the command's other writes, in one transaction, or not at all. What has been written is nothing
//! before that: another power-on finds no byte of it. A bulk has a number, which the application keeps in a record of its own; it is worth nothing to anybody else. What is removed is wiped before the command is answered, and all bulk of
//! an application goes with it.

use sekisho_apdu::StatusWord;
use sekisho_keys::{Sha256, ct_eq};
use sekisho_nvm::area::{AreaError, Seal, Writing};
use sekisho_nvm::{Flash as _, Key, Op, Region};

use crate::application::Context;
use crate::names::{EntryId, RecordKey, RecordKind};
use crate::nvm::{AREA_RUNS, FlashFault, Nvm, Records};
use crate::refusal::Refusal;

/// Bytes read at a time for the digest.
const CHUNK: usize = 64;

impl From<AreaError<FlashFault>> for Refusal {
    /// 6A84 when there is no room, 6A80 for a length that is not the bulk's, 6985 for one that is not there, 6581 for everything else.
    fn from(error: AreaError<FlashFault>) -> Self {
        Self(match error {
            AreaError::Full => StatusWord::NOT_ENOUGH_MEMORY,
            AreaError::Length => StatusWord::INCORRECT_DATA,
            AreaError::Gone => StatusWord::CONDITIONS_NOT_SATISFIED,
            _ => StatusWord::MEMORY_FAILURE,
        })
    }
}

/// The record that a bulk is whole: the platform's, so that a number is enough to find it.
const fn name(number: u8) -> RecordKey {
    RecordKey::platform(RecordKind::Seal, number as u16)
}

/// The seal that the store has of a number.
fn seal_of(nvm: &mut Nvm<'_>, number: u8) -> Result<Option<Seal>, Refusal> {
    let mut bytes = [0; Seal::LEN];
    let Some(len) = nvm.get(name(number).key(), &mut bytes)? else {
        return Ok(None);
    };
    let seal = bytes.get(..len).and_then(Seal::decode);
    seal.map(Some).ok_or(Refusal(StatusWord::MEMORY_FAILURE))
}

/// Boot: takes up what is sealed, and wipes everything else.
pub(crate) fn open(nvm: &mut Nvm<'_>) -> Result<(), Refusal> {
    if nvm.layout.area.is_empty() {
        return Ok(());
    }
    for number in 0..nvm.area.places() {
        if let Some(seal) = seal_of(nvm, number)? {
            nvm.area.adopt(&nvm.flash, number, &seal)?;
        }
    }
    nvm.area.sweep(&mut nvm.flash)?;
    Ok(())
}

/// Behind a command, however it ended: what it has sealed or removed is so if the store says so. What belongs to nobody any more is wiped.
pub(crate) fn settle(nvm: &mut Nvm<'_>) -> Result<(), Refusal> {
    while let Some(number) = nvm.area.doubtful() {
        let seal = seal_of(nvm, number)?;
        nvm.area.settle(number, seal.as_ref());
    }
    nvm.area.tidy(&mut nvm.flash, usize::MAX)?;
    Ok(())
}

/// Removes and wipes all bulk of an application that is gone; at boot, before the area has been [opened](open), that wipes it.
pub(crate) fn forget(nvm: &mut Nvm<'_>, application: EntryId) -> Result<(), Refusal> {
    if nvm.layout.area.is_empty() {
        return Ok(());
    }
    let owner = application.number();
    let mut ops = [Op::Remove(Key::new(0, 0, 0)); AREA_RUNS];
    let mut count = 0;
    for number in 0..nvm.area.places() {
        if seal_of(nvm, number)?.is_some_and(|seal| seal.owner == owner)
            && let Some(op) = ops.get_mut(count)
        {
            *op = Op::Remove(name(number).key());
            count += 1;
        }
    }
    let ops = ops.get(..count).unwrap_or_default();
    nvm.store.commit(&mut nvm.flash, ops)?;
    nvm.area.release_owner(owner);
    nvm.area.tidy(&mut nvm.flash, usize::MAX)?;
    Ok(())
}

/// Writes the next bytes of a bulk.
///
/// # Errors
/// 6A80 for more than it was begun for; 6985 when it is not being written any more; 6581.
pub(crate) fn write(nvm: &mut Nvm<'_>, writing: &mut Writing, bytes: &[u8]) -> Result<(), Refusal> {
    Ok(nvm.area.write(&mut nvm.flash, writing, bytes)?)
}

/// Seals a bulk with the command's other writes, if its bytes have this digest: its number, and its seal.
///
/// # Errors
/// 6A80 for another digest, or when bytes are missing; 6985 when it is not being written any more; 6A84; 6581.
pub(crate) fn seal(
    records: &mut Records<'_>,
    writing: &Writing,
    digest: &[u8; 32],
) -> Result<(u8, Seal), Refusal> {
    let Nvm { flash, area, .. } = &mut records.nvm;
    if writing.missing() > 0 {
        return Err(Refusal(StatusWord::INCORRECT_DATA));
    }
    let found = digest_of(writing.length(), |offset, part| {
        area.written(flash, writing, offset, part)
    })?;
    if !ct_eq(&found, digest) {
        return Err(Refusal(StatusWord::INCORRECT_DATA));
    }
    let (number, seal) = area.seal::<FlashFault>(writing, found)?;
    records.put(name(number), &seal.encode())?;
    Ok((number, seal))
}

/// The SHA-256 digest of bytes that are read piece by piece.
fn digest_of(
    length: u32,
    mut read: impl FnMut(u32, &mut [u8]) -> Result<(), AreaError<FlashFault>>,
) -> Result<[u8; 32], Refusal> {
    let mut sum = Sha256::new();
    let mut chunk = [0; CHUNK];
    let mut offset = 0;
    while offset < length {
        let left = usize::try_from(length - offset).unwrap_or(CHUNK);
        let part = chunk.get_mut(..left.min(CHUNK)).unwrap_or_default();
        read(offset, part)?;
        sum.update(part);
        offset = offset.saturating_add(u32::try_from(part.len()).unwrap_or(u32::MAX));
    }
    Ok(sum.finalize())
}

/// An owner's sealed bulk of this number. One that is another's costs what none costs: no read of the flash.
///
/// # Errors
/// 6985 when there is none; 6581.
pub(crate) fn sealed(nvm: &mut Nvm<'_>, owner: EntryId, number: u8) -> Result<Seal, Refusal> {
    if !nvm.area.is_of(number, owner.number()) {
        return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
    }
    let seal = seal_of(nvm, number)?.filter(|seal| seal.owner == owner.number());
    let seal = seal.ok_or(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))?;
    // Removed by this very command, or sealed by it.
    nvm.area.read(&nvm.flash, number, &seal, 0, &mut [])?;
    Ok(seal)
}

/// Whether a sealed bulk is as it was sealed.
///
/// # Errors
/// 6985 when it is not there any more; 6581.
pub(crate) fn is_sound(nvm: &Nvm<'_>, number: u8, seal: &Seal) -> Result<bool, Refusal> {
    let found = digest_of(seal.length, |offset, part| {
        nvm.area.read(&nvm.flash, number, seal, offset, part)
    })?;
    Ok(ct_eq(&found, &seal.digest))
}

/// The pages of a bulk that is sealed, or is being sealed by this command.
pub(crate) fn region(nvm: &Nvm<'_>, seal: &Seal) -> Region {
    let first = nvm.layout.area.start + usize::from(seal.first);
    let length = usize::try_from(seal.length).unwrap_or(usize::MAX);
    Region::new(first..first + length.div_ceil(nvm.flash.page_size().max(1)))
}

/// Removes an owner's sealed bulk, if the command succeeds.
///
/// # Errors
/// 6985 when there is none of this number; 6A84; 6581.
pub(crate) fn remove(records: &mut Records<'_>, owner: EntryId, number: u8) -> Result<(), Refusal> {
    sealed(&mut records.nvm, owner, number)?;
    records.remove(name(number))?;
    Ok(records.nvm.area.doubt::<FlashFault>(number, owner.number())?)
}

impl Context<'_> {
    /// Begins a bulk of `length` bytes, which takes the place of the application's unfinished one, if there is one. Nothing is written yet.
    ///
    /// # Errors
    /// 6A84 when there is no room, or the quota of the application or its container is used up; 6A80 for no bytes.
    pub fn begin_bulk(&mut self, length: u32) -> Result<Writing, Refusal> {
        self.records.nvm.begin_bulk(self.entry.id, length)
    }

    /// Writes the next bytes of a bulk, whatever becomes of the command: a page of the flash is erased at most, if there are no more of them than it has.
    ///
    /// # Errors
    /// 6A80 for more than it was begun for; 6985 when it is not being written any more; 6581.
    pub fn write_bulk(&mut self, writing: &mut Writing, bytes: &[u8]) -> Result<(), Refusal> {
        write(&mut self.records.nvm, writing, bytes)
    }

    /// Seals a bulk whose bytes, as they stand in the flash, have this SHA-256 digest; from the next command on it can be read under the number that this gives, if this command succeeds. If it does not, the bulk is gone.
    ///
    /// # Errors
    /// 6A80 for another digest, or when bytes are missing: the bulk is as it was. 6985 when it is not being written any more; 6A84; 6581.
    pub fn seal_bulk(&mut self, writing: &Writing, digest: &[u8; 32]) -> Result<u8, Refusal> {
        seal(&mut self.records, writing, digest).map(|(number, _)| number)
    }

    /// The application's sealed bulk of this number: its length and digest.
    ///
    /// # Errors
    /// 6985 when there is none; 6581.
    pub fn bulk(&mut self, number: u8) -> Result<Seal, Refusal> {
        sealed(&mut self.records.nvm, self.entry.id, number)
    }

    /// Reads bytes of a sealed bulk.
    ///
    /// # Errors
    /// 6985 when the application has none of this number; 6A80 behind its end; 6581.
    pub fn read_bulk(&mut self, number: u8, offset: u32, out: &mut [u8]) -> Result<(), Refusal> {
        let seal = self.bulk(number)?;
        let Nvm { flash, area, .. } = &mut self.records.nvm;
        Ok(area.read(flash, number, &seal, offset, out)?)
    }

    /// A sealed bulk where it stands in the flash, whole; `None` where the flash is not mapped, or not as a whole: then it is [read](Self::read_bulk).
    ///
    /// # Errors
    /// 6985 when the application has none of this number; 6581.
    pub fn mapped_bulk(&mut self, number: u8) -> Result<Option<&[u8]>, Refusal> {
        let seal = self.bulk(number)?;
        let Nvm { flash, area, .. } = &self.records.nvm;
        let length = usize::try_from(seal.length).unwrap_or(usize::MAX);
        Ok(area.mapped(flash, number, &seal, 0..length))
    }

    /// Removes a sealed bulk, if the command succeeds: it is wiped then before the answer leaves. From here on the command does not find it.
    ///
    /// # Errors
    /// 6985 when the application has none of this number; 6A84; 6581.
    pub fn remove_bulk(&mut self, number: u8) -> Result<(), Refusal> {
        remove(&mut self.records, self.entry.id, number)
    }

    /// Gives a bulk up that is being written; it is wiped behind this command.
    pub fn give_bulk_up(&mut self, writing: &Writing) {
        self.records.nvm.area.release(writing);
    }
}
