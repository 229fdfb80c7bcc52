//! The commands of the broadcast update: typed here, carried out by the operating system.

use sekisho_apdu::{CApdu, Writer};
use sekisho_os::loader::commands::{AuthorizeAction, ChangeMode, WriteBlock};
use sekisho_os::{Outcome, PlatformServices};

use super::wrong_p1p2;

#[inline(never)]
pub(super) fn change_mode(platform: &mut PlatformServices<'_, '_>, capdu: &CApdu<'_>) -> Outcome {
    platform.change_mode(&ChangeMode::parse(capdu)?)
}

#[inline(never)]
pub(super) fn set_pairing(platform: &mut PlatformServices<'_, '_>, capdu: &CApdu<'_>) -> Outcome {
    match capdu.p1p2() {
        0 => platform.set_pairing(capdu.data),
        _ => Err(wrong_p1p2()),
    }
}

#[inline(never)]
pub(super) fn write(platform: &mut PlatformServices<'_, '_>, capdu: &CApdu<'_>) -> Outcome {
    platform.write_block(&WriteBlock::parse(capdu)?)
}

#[inline(never)]
pub(super) fn authorize_action(
    platform: &mut PlatformServices<'_, '_>,
    capdu: &CApdu<'_>,
    out: &mut Writer<'_>,
) -> Outcome {
    platform.authorize_action(&AuthorizeAction::parse(capdu)?, out)
}
