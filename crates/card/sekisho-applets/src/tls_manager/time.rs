//! The time floor (`docs/spec/tls-manager.md`, 4): the latest time that somebody has proved. A device's clock never moves it.

use sekisho_apdu::StatusWord;
use sekisho_os::{Context, Refusal};

use super::objects::TIME_RECORD;

/// The floor, in seconds since 1970; 0 before there is one.
///
/// # Errors
/// 6581 when the flash fails.
pub(super) fn floor(context: &mut Context<'_>) -> Result<u64, Refusal> {
    let mut bytes = [0; 8];
    let found = context.get(TIME_RECORD, 0, &mut bytes)?;
    Ok(found.map_or(0, |_| u64::from_be_bytes(bytes)))
}

/// Moves it to `to` if it is lower, before anything else is answered. Where there is no room for it, it stays.
///
/// # Errors
/// 6581 when the flash fails.
pub(super) fn advance(context: &mut Context<'_>, to: u64) -> Result<(), Refusal> {
    if to <= floor(context)? {
        return Ok(());
    }
    let put = context.put(TIME_RECORD, 0, &to.to_be_bytes());
    match put.and_then(|()| context.commit_now()) {
        Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY)) => Ok(()),
        done => done,
    }
}
