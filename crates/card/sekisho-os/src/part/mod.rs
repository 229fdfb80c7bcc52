//! The OS part: a WebAssembly module between fuel and walls (`docs/spec/os-part.md`).
//!
//! Every command runs in a fresh instance: what is to last is written through the host's `put`, and is committed with everything else the command
//! wrote if, and only if, the module answers with a status word of success or warning. Nothing that a module does can reach beyond its own records:
//! and what it keeps for a session; it has no other import, everything it needs is bounded by [`Limits`], its running time by fuel.
//!
//! What [`check`] lets pass runs: it loads the module as a command does, with the same limits and the same budget.

mod host;
mod run;
#[cfg(test)]
mod tests;

use core::fmt;

use sekisho_link::Manifest;
use sekisho_nvm::{Key, Region};
use sekisho_wasm::{
    Budget, Engine, Exhausted, Image, Limits, Memory, Module, ReadFailed, Trap, Value, ValueType, Why,
};

use crate::names::{EntryId, RecordKey, RecordKind};
use crate::nvm::{AnyFlash, own};
use crate::response::RESPONSE_DATA_MAX;
use crate::transient::TRANSIENT;
use host::{Part, RECORDS};
pub(crate) use run::{Around, Asked, Came, Writes, process};

/// The newest host ABI that is run.
pub const ABI: u8 = Manifest::ABI_NEWEST;
/// The oldest.
const ABI_OLDEST: u8 = Manifest::ABI;
/// The first in which a module keeps state for a session.
const ABI_TRANSIENT: u8 = 3;
/// Instructions of `process`.
pub const FUEL: u32 = 2_000_000;
/// Instructions of `abi` and of `buffer`, each.
pub const FUEL_OF_A_NUMBER: u32 = 1_000;
/// Words of the stack with which a module is loaded, on which it says how much it needs.
const STACK_FIRST: u32 = 128;
/// Words of a module's stack: what it has unless it asks for less, and the least that it may ask for.
const STACK_MOST: u32 = Limits::os_part(0).stack;
const STACK_LEAST: u32 = 16;
/// Bytes of the module's buffer: a C-APDU goes in, an R-APDU comes out.
pub const BUFFER: usize = 1024;

const _: () = assert!(
    BUFFER - 2 <= RESPONSE_DATA_MAX,
    "an answer must not fail after its commit"
);

/// Why a module is no OS part of this SE: 9505.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPart {
    /// The module does not load.
    Module(sekisho_wasm::Refusal),
    /// Something is not exported, or not with this type.
    Export(&'static str),
    /// A function that gives a number did not.
    Trap(&'static str, Trap),
    /// Another host ABI.
    Abi(i32),
    /// The buffer is not inside the memory.
    Buffer(u32),
    /// More state for a session than there is.
    Transient(i32),
    /// More records than there are.
    Records(i32),
    /// Less stack than any function takes, or more than there is.
    Stack(i32),
}

impl fmt::Display for NoPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(refusal) => write!(f, "{refusal}"),
            Self::Export(what) => write!(f, "it does not export {what}"),
            Self::Trap(name, trap) => write!(f, "calling {name} failed: {trap}"),
            Self::Abi(abi) => write!(
                f,
                "it is written for host ABI {abi}; this is {ABI_OLDEST} to {ABI}"
            ),
            Self::Transient(len) => write!(
                f,
                "it asks for {len} bytes of state for a session; there are {TRANSIENT} at most"
            ),
            Self::Records(count) => write!(f, "it asks for {count} records; there are {RECORDS} at most"),
            Self::Stack(words) => write!(
                f,
                "it asks for a stack of {words} words; it is {STACK_LEAST} to {STACK_MOST}"
            ),
            Self::Buffer(at) => write!(
                f,
                "its buffer of {BUFFER} bytes at {at:08X} is not inside its memory"
            ),
        }
    }
}

impl core::error::Error for NoPart {}

/// Why a command was answered 6F00. None is 0, in an `Option`, so that no failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PartFailure {
    /// It trapped.
    Trap(Trap) = 1,
    /// Its answer has this length, which none has.
    Length(i32) = 2,
    /// It gave a status word that is the SE's own.
    StatusWord(u16) = 3,
}

impl fmt::Display for PartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trap(trap) => write!(f, "{trap}"),
            Self::Length(len) => write!(f, "an answer has 2 to {BUFFER} bytes, not {len}"),
            Self::StatusWord(sw) => write!(f, "{sw:04X} is the secure element's own"),
        }
    }
}

impl NoPart {
    /// Whether the flash is at fault and not the module.
    pub(crate) fn is_unread(&self) -> bool {
        matches!(self, Self::Module(refusal) if refusal.why == Why::Read)
    }
}

type Instance<'b> = Module<'b, Part>;

/// Whether this SE runs OS parts of a code format and host ABI.
pub(crate) const fn runs(code_format: u8, abi: u8) -> bool {
    code_format == Manifest::WEBASSEMBLY && abi >= ABI_OLDEST && abi <= ABI
}

/// Whether `image` is an OS part that an SE can run which gives it `ram` bytes: valid throughout, within every limit, every import known, every export
/// there, and it says an ABI that this SE runs: which.
///
/// # Errors
/// [`NoPart`].
pub fn check(image: &[u8], ram: usize) -> Result<u8, NoPart> {
    validate(&mut Image::mapped(image), ram)
}

/// [`check`], wherever the image stands.
fn validate(image: &mut Image<'_>, ram: usize) -> Result<u8, NoPart> {
    let exhausted = |_| {
        NoPart::Module(sekisho_wasm::Refusal {
            at: 0,
            why: Why::Heap,
        })
    };
    let budget = Budget::new(ram).map_err(exhausted)?;
    let part = Part::new(0);
    let mut module = Instance::load(&budget, image, &limits(ram), part).map_err(NoPart::Module)?;
    if !gives(&module, "stack") {
        module.set_stack(STACK_MOST).map_err(exhausted)?;
    }
    for (name, params, what) in [
        ("abi", &[][..], "abi: () -> i32"),
        ("buffer", &[], "buffer: () -> i32"),
        ("process", &[ValueType::I32], "process: (i32) -> i32"),
    ] {
        if !module.has(name, params, Some(ValueType::I32)) {
            return Err(NoPart::Export(what));
        }
    }
    let said = number(&mut module, "abi").map_err(|trap| NoPart::Trap("abi", trap))?;
    let abi = u8::try_from(said)
        .ok()
        .filter(|abi| runs(Manifest::WEBASSEMBLY, *abi));
    let abi = abi.ok_or(NoPart::Abi(said))?;
    // As for a command: with room for all that it asks for.
    make_room(&budget, &mut module, abi).map_err(|unmet| match unmet {
        Unmet::Trap(name, trap) => NoPart::Trap(name, trap),
        Unmet::Records(count) => NoPart::Records(count),
        Unmet::Stack(words) => NoPart::Stack(words),
        Unmet::Heap => exhausted(Exhausted),
    })?;
    if abi >= ABI_TRANSIENT {
        if !module.has("transient", &[], Some(ValueType::I32)) {
            return Err(NoPart::Export("transient: () -> i32"));
        }
        let len = number(&mut module, "transient").map_err(|trap| NoPart::Trap("transient", trap))?;
        block_len(len).ok_or(NoPart::Transient(len))?;
    }
    let at = number(&mut module, "buffer").map_err(|trap| NoPart::Trap("buffer", trap))?;
    let at = at.cast_unsigned();
    let memory = module.memory().ok_or(NoPart::Export("memory"))?;
    memory
        .read(at, &mut [0; BUFFER])
        .map_err(|_| NoPart::Buffer(at))?;
    Ok(abi)
}

/// Whether a module goes on after it has been answered, or when a piece has been fetched.
fn resumes(module: &Instance<'_>) -> bool {
    module.has("resume", &[ValueType::I32, ValueType::I32], Some(ValueType::I32))
}

/// The limits with which a module is loaded.
const fn limits(ram: usize) -> Limits {
    Limits {
        stack: STACK_FIRST,
        ..Limits::os_part(ram)
    }
}

/// Whether a module has a function that gives a number.
fn gives(module: &Instance<'_>, name: &str) -> bool {
    module.has(name, &[], Some(ValueType::I32))
}

/// Why a module has not the room that it asks for.
enum Unmet {
    Trap(&'static str, Trap),
    Records(i32),
    Stack(i32),
    Heap,
}

impl From<Exhausted> for Unmet {
    fn from(_: Exhausted) -> Self {
        Self::Heap
    }
}

/// Gives a module its stack, and room for its records and for a command to another application: as much as it says that it needs, in ABI 3, or all that there may be.
fn make_room(budget: &Budget, module: &mut Instance<'_>, abi: u8) -> Result<(), Unmet> {
    let asked = |module: &mut Instance<'_>, name: &'static str| {
        let is_asked = abi >= ABI_TRANSIENT && gives(module, name);
        is_asked.then(|| number(module, name).map_err(|trap| Unmet::Trap(name, trap)))
    };
    let words = match asked(module, "stack").transpose()? {
        None => STACK_MOST,
        Some(words) => u32::try_from(words)
            .ok()
            .filter(|own| (STACK_LEAST..=STACK_MOST).contains(own))
            .ok_or(Unmet::Stack(words))?,
    };
    module.set_stack(words)?;
    let records = match asked(module, "records").transpose()? {
        None => RECORDS,
        Some(count) => usize::try_from(count)
            .ok()
            .filter(|own| *own <= RECORDS)
            .ok_or(Unmet::Records(count))?,
    };
    module.host(|part| part.make_records(budget, records))?;
    if abi >= ABI_TRANSIENT && resumes(module) {
        module.host(|part| part.make_room(budget))?;
    }
    Ok(())
}

/// A number of bytes that a module may keep for a session.
fn block_len(said: i32) -> Option<usize> {
    usize::try_from(said).ok().filter(|len| *len <= TRANSIENT)
}

/// Whether a module that says an ABI is of the one that its manifest says.
pub(crate) fn is_of(manifest: u8, said: u8) -> Result<(), NoPart> {
    if manifest == said {
        Ok(())
    } else {
        Err(NoPart::Abi(said.into()))
    }
}

/// Calls a function that gives a number.
fn number(module: &mut Instance<'_>, name: &str) -> Result<i32, Trap> {
    match module.call(name, &[], FUEL_OF_A_NUMBER)? {
        Some(Value::I32(number)) => Ok(number),
        _ => Err(Trap::NoFunction),
    }
}

/// A module in the flash.
pub(crate) struct Placed {
    /// It stands at the beginning of this.
    pub(crate) region: Region,
    /// Bytes of it.
    pub(crate) len: usize,
    /// What it is told as its version.
    pub(crate) version: u32,
    /// The ABI that it is written for.
    pub(crate) abi: u8,
    /// What it may have, in bytes.
    pub(crate) ram: usize,
    /// Whose records it finds.
    pub(crate) whose: Whose,
}

/// Whose records a module finds: those of the OS part, or of an application, whose code it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whose {
    Part,
    Application(EntryId),
}

impl Whose {
    /// The key of a record, by the module's number for it.
    fn key(self, index: usize) -> Key {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        match self {
            Self::Part => part_data(index).key(),
            Self::Application(entry) => own(entry, index, 0),
        }
    }
}

impl Placed {
    /// [`check`], where it stands; and whether it is of the ABI that is said of it.
    pub(crate) fn check(&self, flash: &AnyFlash<'_>) -> Result<(), NoPart> {
        is_of(self.abi, self.look(flash)?)
    }

    /// The ABI of the module, if it [runs](check) here.
    pub(crate) fn look(&self, flash: &AnyFlash<'_>) -> Result<u8, NoPart> {
        self.with_image(flash, |image| validate(image, self.ram))
    }

    /// Gives `look` the image: where it stands if the flash maps it, else in pieces.
    fn with_image<T>(&self, flash: &AnyFlash<'_>, look: impl FnOnce(&mut Image<'_>) -> T) -> T {
        if let Some(bytes) = self.region.mapped(flash, 0, self.len) {
            return look(&mut Image::mapped(bytes));
        }
        let mut read = |at: usize, out: &mut [u8]| self.region.read(flash, at, out).map_err(|_| ReadFailed);
        look(&mut Image::read(self.len, &mut read))
    }
}

/// A record of the OS part itself.
const fn part_data(index: u16) -> RecordKey {
    RecordKey::platform(RecordKind::PartData, index)
}
