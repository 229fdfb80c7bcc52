//! Code that is loaded: the image of an executable load file, in the area for bulk (`docs/spec/applications.md`).
//!
//! The image belongs to the load file's registry entry: it is a bulk of that identity, and one record of it says where and what the image is. Both are written with the entry and removed with it, in one transaction:
//! a load file is whole or not there, and what it had is wiped when it goes. An application names its load file, and has records of its own.

use sekisho_apdu::{DecodeError, Reader, StatusWord};
use sekisho_nvm::area::Writing;

use crate::application::Context;
use crate::bulk;
use crate::loader::status;
use crate::names::{EntryId, Owner, RecordKey, RecordKind};
use crate::nvm::Records;
use crate::part::{Placed, Whose};
use crate::refusal::Refusal;
use crate::registry::{EntryKind, Module};

/// Length of the record: format, number of the bulk, ABI, version.
const LEN: usize = 7;
/// Format of the record.
const FORMAT: u8 = 1;

/// What a load file's record says of its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code {
    /// Number of its bulk.
    pub(crate) number: u8,
    /// The host ABI that it is written for.
    pub(crate) abi: u8,
    /// What it is told as its version.
    pub(crate) version: u32,
}

const fn name(file: EntryId) -> RecordKey {
    RecordKey::new(Owner::Entry(file), RecordKind::Code, 0)
}

impl Code {
    fn encode(self) -> [u8; LEN] {
        let [a, b, c, d] = self.version.to_be_bytes();
        [FORMAT, self.number, self.abi, a, b, c, d]
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let [format, number, abi] = r.array()?;
        let version = r.u32()?;
        r.finish()?;
        if format == FORMAT {
            Ok(Self { number, abi, version })
        } else {
            Err(DecodeError::Value)
        }
    }

    /// The code of a load file; `None` for one that came with the operating system.
    ///
    /// # Errors
    /// 6581.
    pub(crate) fn load(records: &mut Records<'_>, file: EntryId) -> Result<Option<Self>, Refusal> {
        let mut bytes = [0; LEN];
        let Some(len) = records.get(name(file), &mut bytes)? else {
            return Ok(None);
        };
        let code = Self::decode(bytes.get(..len).unwrap_or_default());
        code.map(Some).map_err(|_| Refusal(StatusWord::MEMORY_FAILURE))
    }
}

/// Seals the image of a load file, all of whose bytes have been [written](bulk::write), with the command's other writes, if it has this digest and runs on this SE. `ram` is what a
/// module may have, in bytes.
///
/// # Errors
/// 6A80 for another digest, or when bytes are missing; 9505 for what is no code of this SE; 6985 when it is not being written any more; 6A84; 6581. The image is to be given up then.
pub(crate) fn seal(
    records: &mut Records<'_>,
    file: EntryId,
    writing: &Writing,
    digest: &[u8; 32],
    (version, ram): (u32, usize),
) -> Result<(), Refusal> {
    let (number, seal) = bulk::seal(records, writing, digest)?;
    let placed = Placed {
        region: bulk::region(&records.nvm, &seal),
        len: usize::try_from(seal.length).unwrap_or(usize::MAX),
        version,
        abi: 0,
        ram,
        whose: Whose::Application(file),
    };
    let abi = placed.look(&records.nvm.flash).map_err(|why| {
        Refusal(if why.is_unread() {
            StatusWord::MEMORY_FAILURE
        } else {
            status::CODE
        })
    })?;
    let code = Code { number, abi, version };
    records.put(name(file), &code.encode())
}

/// Removes the code of a load file, if it has any, with the command's other writes.
///
/// # Errors
/// 6A84; 6581.
pub(crate) fn remove(records: &mut Records<'_>, file: EntryId) -> Result<(), Refusal> {
    let Some(code) = Code::load(records, file)? else {
        return Ok(());
    };
    bulk::remove(records, file, code.number)?;
    records.remove(name(file))
}

/// What an application is answered whose code is not as it was loaded.
const DAMAGED: Refusal = Refusal(StatusWord::NO_SPECIFIC_DIAGNOSIS);

/// The code of the application that is called, where it stands. `is_sound` says whether it has been found as it was loaded since power-on; if not, it is looked at.
///
/// # Errors
/// 6400 when it is not as it was loaded, or not there; 6581 when the flash fails.
pub(crate) fn of_application(context: &mut Context<'_>, is_sound: &mut bool) -> Result<Placed, Refusal> {
    let registry = &context.system.container.registry;
    let file = context.entry.load_file.and_then(|index| registry.get(index));
    let file = file.filter(|file| {
        file.module == Module::LOADED && matches!(file.kind, EntryKind::ExecutableLoadFile { .. })
    });
    let file = file.ok_or(DAMAGED)?.id;
    let code = Code::load(&mut context.records, file)?.ok_or(DAMAGED)?;
    let nvm = &mut context.records.nvm;
    let seal = bulk::sealed(nvm, file, code.number).map_err(|refusal| match refusal {
        Refusal(StatusWord::CONDITIONS_NOT_SATISFIED) => DAMAGED,
        refusal => refusal,
    })?;
    if !*is_sound {
        *is_sound = bulk::is_sound(nvm, code.number, &seal)?;
    }
    if !*is_sound {
        return Err(DAMAGED);
    }
    Ok(Placed {
        region: bulk::region(nvm, &seal),
        len: usize::try_from(seal.length).unwrap_or(usize::MAX),
        version: code.version,
        abi: code.abi,
        ram: context.system.free_ram,
        whose: Whose::Application(context.entry.id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_comes_back_as_it_was_and_nothing_else_is_one() {
        let code = Code {
            number: 3,
            abi: 2,
            version: 0x0102_0304,
        };
        let bytes = [1, 3, 2, 1, 2, 3, 4];
        assert_eq!(code.encode(), bytes);
        assert_eq!(Code::decode(&bytes), Ok(code));
        assert!(Code::decode(&[2, 3, 2, 1, 2, 3, 4]).is_err());
        assert!(Code::decode(&bytes[..6]).is_err());
        assert!(Code::decode(&[1, 3, 2, 1, 2, 3, 4, 5]).is_err());
    }
}
