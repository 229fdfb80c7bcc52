//! What a module can ask of the SE: its own records, random bytes, its version. Nothing else is linked.

use alloc::vec::Vec;

use wasmi::{Caller, Error, Extern, Linker, StoreLimits};

/// Records of the part.
pub(super) const RECORDS: u16 = 16;
/// Bytes of a record at most.
pub(super) const RECORD_MAX: usize = 256;
/// Random bytes that one command may ask for.
const RANDOM: usize = 64;

/// Answers of the host's functions that are no lengths.
const ABSENT: i32 = -1;
const REFUSED: i32 = -2;

/// The module does not load, or has done what it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure;

/// A record, as the module sees it.
#[derive(Default)]
pub(super) struct Record {
    pub(super) value: Option<Vec<u8>>,
    pub(super) changed: bool,
}

/// The state behind the host's functions.
pub(super) struct Host {
    pub(super) records: [Record; RECORDS as usize],
    pub(super) random: [u8; RANDOM],
    random_used: usize,
    version: u32,
    /// Bytes of memory that the module may have.
    pub(super) limits: usize,
    pub(super) limiter: StoreLimits,
}

impl Host {
    pub(super) fn new(version: u32, limits: usize) -> Self {
        Self {
            records: Default::default(),
            random: [0; RANDOM],
            random_used: 0,
            version,
            limits,
            limiter: StoreLimits::default(),
        }
    }

    fn record(&mut self, index: i32) -> Option<&mut Record> {
        self.records.get_mut(usize::try_from(index).ok()?)
    }
}

/// A range of the module's memory, as its pointer and length say; both are any numbers at all.
fn range(at: i32, len: i32) -> Option<(usize, usize)> {
    Some((usize::try_from(at).ok()?, usize::try_from(len).ok()?))
}

/// Copies `bytes` into the module's memory: a range outside it traps.
fn give(caller: &mut Caller<'_, Host>, at: usize, bytes: &[u8]) -> Result<(), Error> {
    let memory = caller.get_export("memory").and_then(Extern::into_memory);
    memory
        .ok_or_else(|| Error::new("no memory"))?
        .write(caller, at, bytes)
        .map_err(|_| Error::new("range"))
}

fn get(mut caller: Caller<'_, Host>, index: i32, at: i32, room: i32) -> Result<i32, Error> {
    let Some((at, room)) = range(at, room) else {
        return Ok(REFUSED);
    };
    let Some(record) = caller.data_mut().record(index) else {
        return Ok(REFUSED);
    };
    let Some(value) = record.value.clone() else {
        return Ok(ABSENT);
    };
    if value.len() > room {
        return Ok(REFUSED);
    }
    give(&mut caller, at, &value)?;
    Ok(i32::try_from(value.len()).unwrap_or(REFUSED))
}

fn put(mut caller: Caller<'_, Host>, index: i32, at: i32, len: i32) -> Result<i32, Error> {
    let Some((at, len)) = range(at, len).filter(|(_, len)| *len <= RECORD_MAX) else {
        return Ok(REFUSED);
    };
    let memory = caller.get_export("memory").and_then(Extern::into_memory);
    let memory = memory.ok_or_else(|| Error::new("no memory"))?;
    let mut value = alloc::vec![0; len];
    memory
        .read(&caller, at, &mut value)
        .map_err(|_| Error::new("range"))?;
    let Some(record) = caller.data_mut().record(index) else {
        return Ok(REFUSED);
    };
    *record = Record {
        value: Some(value),
        changed: true,
    };
    Ok(0)
}

fn remove(mut caller: Caller<'_, Host>, index: i32) -> i32 {
    let Some(record) = caller.data_mut().record(index) else {
        return REFUSED;
    };
    *record = Record {
        value: None,
        changed: true,
    };
    0
}

fn random(mut caller: Caller<'_, Host>, at: i32, len: i32) -> Result<i32, Error> {
    let Some((at, len)) = range(at, len) else {
        return Ok(REFUSED);
    };
    let host = caller.data_mut();
    let end = host.random_used.saturating_add(len);
    let Some(bytes) = host.random.get(host.random_used..end).map(<[u8]>::to_vec) else {
        return Ok(REFUSED);
    };
    host.random_used = end;
    give(&mut caller, at, &bytes)?;
    Ok(0)
}

fn version(caller: Caller<'_, Host>) -> i32 {
    caller.data().version.cast_signed()
}

/// Links the host's functions.
pub(super) fn link(linker: &mut Linker<Host>) -> Result<(), wasmi::errors::LinkerError> {
    linker.func_wrap("sekisho", "get", get)?;
    linker.func_wrap("sekisho", "put", put)?;
    linker.func_wrap("sekisho", "remove", remove)?;
    linker.func_wrap("sekisho", "random", random)?;
    linker.func_wrap("sekisho", "version", version)?;
    Ok(())
}
