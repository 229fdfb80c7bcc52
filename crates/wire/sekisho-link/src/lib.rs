//! Messages between management server, device and design system: package, authorisation, receipt.
//!
//! Bytes to values and back for sections 3 and 4 of `docs/spec/broadcast-update.md`; nothing here computes a MAC or a signature, so that
//! both ends do it for themselves. Readers take exactly one message: a byte too many is an error. Written bytes of version 1 are
//! frozen in `tests/messages.rs`.
//!
//! * [`Manifest`], [`Package`], [`PackageSource`], [`KeyChange`]: what the design system makes.
//! * [`PSe`], [`PSeWriter`], [`Delivery`]: the bulk, the same for all SEs.
//! * [`Equ`], [`Authorisation`], [`AuthorisationWriter`]: the request for permission and P_AUT.
//! * [`Receipt`], [`Refusal`], [`Status`], [`Verdict`], [`Offer`]: what comes back, and what follows from it.
//! * [`ResetCounts`]: how often a chip has reset itself.
//! * [`codes`]: the byte strings over which codes and signatures are computed.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

#[cfg(test)]
extern crate std;

mod authorisation;
pub mod codes;
mod delivery;
mod equ;
mod ids;
mod key_change;
mod manifest;
mod module;
mod package;
mod pse;
mod receipt;
mod resets;
mod status;

pub use authorisation::{Authorisation, AuthorisationHead, AuthorisationWriter};
pub use delivery::{Delivery, DeliveryParts, Offer};
pub use equ::{Equ, LoaderState, Staging, States, Wants};
pub use ids::{Campaign, Custody, ParseIdError, SeId};
pub use key_change::KeyChange;
pub use manifest::Manifest;
pub use module::host_abi;
pub use package::{PACKAGE_MAX, Package, PackageBody, PackageSource};
pub use pse::{PSe, PSeWriter};
pub use receipt::{Receipt, Refusal};
pub use resets::ResetCounts;
pub use sekisho_apdu::{BufferFull, DecodeError};
pub use status::{Access, Outcome, Proof, Status, Verdict};

use sekisho_apdu::Reader;

/// The versions in which EQU, P_AUT, ST, the offer and the package are read. One is written as its value says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Version {
    /// Knows one target, the OS part, and no refusal of an SE.
    One = 1,
    /// Knows targets, what is wanted, and refusals.
    Two = 2,
}

/// Reads the four-letter name and the version with which every message begins.
fn open(reader: &mut Reader<'_>, name: &[u8; 4]) -> Result<Version, DecodeError> {
    let found: [u8; 4] = reader.array()?;
    if &found != name {
        return Err(DecodeError::Value);
    }
    match reader.u8()? {
        1 => Ok(Version::One),
        2 => Ok(Version::Two),
        _ => Err(DecodeError::Value),
    }
}

/// As [`open`], for a message of which there is version 1 alone.
fn open_1(reader: &mut Reader<'_>, name: &[u8; 4]) -> Result<(), DecodeError> {
    match open(reader, name)? {
        Version::One => Ok(()),
        Version::Two => Err(DecodeError::Value),
    }
}

/// A length as its field says it.
fn length(value: u32) -> Result<usize, DecodeError> {
    usize::try_from(value).map_err(|_| DecodeError::Length)
}
