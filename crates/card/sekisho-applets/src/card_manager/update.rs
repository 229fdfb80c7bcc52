//! The commands of the broadcast update: typed here, carried out by the operating system.

use sekisho_apdu::{CApdu, Writer};
use sekisho_os::loader::commands::{AuthorizeAction, ChangeMode, WriteBlock};
use sekisho_os::{Issuer, Outcome};

pub(super) fn change_mode(issuer: &mut Issuer<'_, '_>, capdu: &CApdu<'_>) -> Outcome {
    issuer.change_mode(&ChangeMode::parse(capdu)?)
}

pub(super) fn write(issuer: &mut Issuer<'_, '_>, capdu: &CApdu<'_>) -> Outcome {
    issuer.write_block(&WriteBlock::parse(capdu)?)
}

pub(super) fn authorize_action(
    issuer: &mut Issuer<'_, '_>,
    capdu: &CApdu<'_>,
    out: &mut Writer<'_>,
) -> Outcome {
    issuer.authorize_action(&AuthorizeAction::parse(capdu)?, out)
}
