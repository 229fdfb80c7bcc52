//! Messages between management server, device and design system: package, authorisation, receipt.
//!
//! Bytes to values and back for sections 3 and 4 of `docs/spec/broadcast-update.md`; nothing here computes a MAC or a signature, so that
//! both ends do it for themselves. Readers take exactly one message: a byte too many is an error. Written bytes of version 1 are
//! frozen in `tests/versioning.rs`.
//!
//! * [`Manifest`], [`Package`], [`PackageSource`]: what the design system makes.
//! * [`PSe`], [`PSeWriter`], [`Delivery`]: the bulk, the same for all SEs.
//! * [`Equ`], [`Authorisation`], [`AuthorisationWriter`]: the request for permission and P_AUT.
//! * [`Receipt`], [`Status`], [`Verdict`], [`Offer`]: what comes back, and what follows from it.
//! * [`codes`]: the byte strings over which codes and signatures are computed.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

#[cfg(test)]
extern crate std;

mod authorisation;
pub mod codes;
mod delivery;
mod ids;
mod manifest;
mod package;
mod pse;
mod receipt;
mod status;

pub use authorisation::{Authorisation, AuthorisationWriter, Equ, LoaderState, Staging};
pub use delivery::{Delivery, DeliveryParts, Offer};
pub use ids::{Campaign, Custody, ParseIdError, SeId};
pub use manifest::Manifest;
pub use package::{Package, PackageBody, PackageSource};
pub use pse::{PSe, PSeWriter};
pub use receipt::Receipt;
pub use sekisho_apdu::{BufferFull, DecodeError};
pub use status::{Access, Outcome, Status, Verdict};

use sekisho_apdu::Reader;

/// Version byte of every message.
const VERSION: u8 = 1;

/// Reads the four-letter name and the version with which every message begins.
fn open(reader: &mut Reader<'_>, name: &[u8; 4]) -> Result<(), DecodeError> {
    let found: [u8; 4] = reader.array()?;
    if &found != name || reader.u8()? != VERSION {
        Err(DecodeError::Value)
    } else {
        Ok(())
    }
}

/// A length as its field says it.
fn length(value: u32) -> Result<usize, DecodeError> {
    usize::try_from(value).map_err(|_| DecodeError::Length)
}
