//! In the place of `part`, where the wasm engine is left out: no code format is run, so that nothing is ever placed, checked or called.

use core::fmt;

use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_keys::Rng;
use sekisho_link::Manifest;
use sekisho_nvm::Region;

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

/// When what a module has written is written to NVM.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Writes {
    Now,
    WithTheCaller,
}

/// Answers as an SE that has no part.
pub(crate) fn process(
    _: &mut Records<'_>,
    _: &mut dyn Rng,
    _: Writes,
    _: &mut Kept,
    _: &Placed,
    _: &CApdu<'_>,
    _: &mut Writer<'_>,
) -> (StatusWord, Option<PartFailure>) {
    (StatusWord::INS_NOT_SUPPORTED, None)
}
