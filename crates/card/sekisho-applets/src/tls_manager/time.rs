//! Time floors (`docs/spec/tls-manager.md`, 4): the latest time that the root has said, and that the server of a row has proved. A device's clock never moves them.

use sekisho_apdu::StatusWord;
use sekisho_os::{Context, Refusal};

use super::objects::{PROVED_RECORD, TIME_RECORD};

/// The part of a row: there are few.
fn part(row: u16) -> u8 {
    u8::try_from(row).unwrap_or_default()
}

/// The floor of a row, in seconds since 1970; 0 before there is one.
///
/// # Errors
/// 6581 when the flash fails.
pub(super) fn floor(context: &mut Context<'_>, row: u16) -> Result<u64, Refusal> {
    let mut floor = 0;
    for (record, part) in [(TIME_RECORD, 0), (PROVED_RECORD, part(row))] {
        let mut bytes = [0; 8];
        if context.get(record, part, &mut bytes)?.is_some() {
            floor = u64::from_be_bytes(bytes).max(floor);
        }
    }
    Ok(floor)
}

/// Moves the floor of a row to `to` if it is lower, before anything else is answered. Where there is no room for it, it stays.
///
/// # Errors
/// 6581 when the flash fails.
pub(super) fn advance(context: &mut Context<'_>, row: u16, to: u64) -> Result<(), Refusal> {
    if to <= floor(context, row)? {
        return Ok(());
    }
    let put = context.put(PROVED_RECORD, part(row), &to.to_be_bytes());
    match put.and_then(|()| context.commit_now()) {
        Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY)) => Ok(()),
        done => done,
    }
}

/// The root gives the row another server, or none: what the one before has proved is not of this one.
///
/// # Errors
/// 6581 when the flash fails.
pub(super) fn forget(context: &mut Context<'_>, row: u16) -> Result<(), Refusal> {
    context.remove(PROVED_RECORD, part(row))
}

/// The root says what time it is: what servers have proved counts no more.
///
/// # Errors
/// 6581 when the flash fails.
pub(super) fn forget_all(context: &mut Context<'_>) -> Result<(), Refusal> {
    context.remove_all(PROVED_RECORD)
}
