//! In the place of `part`, where the wasm engine is left out: no code format is run, so that nothing is ever placed, checked or called.

use core::fmt;

use sekisho_apdu::{Aid, CApdu, StatusWord, Writer};
use sekisho_keys::Rng;
use sekisho_link::Manifest;
use sekisho_nvm::Region;

use crate::call::{CallCommand, Resume};
use crate::names::EntryId;
use crate::nvm::{AnyFlash, Records};
use crate::transient::Kept;

/// Host ABI that GET DATA DF20 gives: none.
pub(crate) const ABI: u8 = Manifest::NO_CODE;

/// Why a module is no OS part of this SE: it has no engine.
pub(crate) struct NoPart;

impl NoPart {
    /// Whether the flash is at fault and not the module.
    #[expect(clippy::unused_self, reason = "the signature where there is an engine")]
    pub(crate) const fn is_unread(&self) -> bool {
        false
    }
}

/// Why a command was answered 6F00: never, without an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartFailure {}

impl fmt::Display for PartFailure {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// Whether this SE runs OS parts of a code format and host ABI: of none.
pub(crate) const fn runs(_: u8, _: u8) -> bool {
    false
}

/// Refuses every image.
pub(crate) const fn check(_: &[u8], _: usize) -> Result<u8, NoPart> {
    Err(NoPart)
}

/// Refuses every ABI.
pub(crate) const fn is_of(_: u8, _: u8) -> Result<(), NoPart> {
    Err(NoPart)
}

/// A module in the flash, which is not looked at.
#[expect(dead_code, reason = "the fields where there is an engine")]
pub(crate) struct Placed {
    pub(crate) region: Region,
    pub(crate) len: usize,
    pub(crate) version: u32,
    pub(crate) abi: u8,
    pub(crate) ram: usize,
    pub(crate) whose: Whose,
}

/// Whose records a module would find.
#[expect(dead_code, reason = "what stands in it where there is an engine")]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whose {
    Part,
    Application(EntryId),
}

impl Placed {
    /// Refuses it.
    #[expect(clippy::unused_self, reason = "the signature where there is an engine")]
    pub(crate) const fn look(&self, _: &AnyFlash<'_>) -> Result<u8, NoPart> {
        Err(NoPart)
    }

    /// Refuses it.
    #[expect(clippy::unused_self, reason = "the signature where there is an engine")]
    pub(crate) const fn check(&self, _: &AnyFlash<'_>) -> Result<(), NoPart> {
        Err(NoPart)
    }
}

/// What a module would be called for.
#[derive(Clone, Copy)]
#[expect(dead_code, reason = "what stands in it where there is an engine")]
pub(crate) enum Asked<'a> {
    Command(&'a CApdu<'a>),
    Resume(Resume<'a>),
}

/// What a module would work with.
#[expect(dead_code, reason = "the fields where there is an engine")]
pub(crate) struct Around<'a, 'r> {
    pub(crate) records: &'a mut Records<'r>,
    pub(crate) rng: &'a mut dyn Rng,
    pub(crate) kept: &'a mut Kept,
    pub(crate) call: Option<&'a mut CallCommand>,
    pub(crate) caller: Option<Aid>,
    pub(crate) pieces: bool,
    pub(crate) writes: Writes,
}

/// When what a module has written would be written to NVM.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Writes {
    Now,
    Together,
    Never,
}

/// What a module would come to.
#[derive(Clone, Copy)]
#[expect(dead_code, reason = "nothing comes to anything")]
pub(crate) enum Came {
    Word(StatusWord),
    More,
    Forward(Aid),
}

/// Answers as an SE that has no part.
pub(crate) fn process(
    _: &mut Around<'_, '_>,
    _: &Placed,
    _: Asked<'_>,
    _: &mut Writer<'_>,
) -> (Result<Came, StatusWord>, Option<PartFailure>) {
    (Err(StatusWord::INS_NOT_SUPPORTED), None)
}
