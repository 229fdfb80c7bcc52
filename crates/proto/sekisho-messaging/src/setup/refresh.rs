//! The refresh of the ratchet: fresh randomness of both ends.

use sekisho_apdu::{CApdu, Cla};
use sekisho_keys::{AesKey, ct_eq, sha256};
use zeroize::Zeroizing;

use super::{INS_REFRESH, opening::combine};
use crate::schedule::ScheduleError;
use crate::{EphemeralKey, PUBLIC_KEY_LEN};

const LABEL_REFRESH: &[u8] = b"sekisho sm fresh";

/// Reader: REFRESH KEYS with its ephemeral public key. The answer's data is the card's, for [`refresh_secret`].
pub const fn refresh_command(reader_key: &[u8; PUBLIC_KEY_LEN]) -> CApdu<'_> {
    CApdu::new(Cla::GP, INS_REFRESH, 0, 0)
        .with_data(reader_key)
        .with_ne(256)
}

/// Whether a plain command is REFRESH KEYS, whatever its data: the only one that goes through when a refresh is due.
pub(crate) fn is_refresh(cla: Cla, command: &CApdu<'_>) -> bool {
    cla.proprietary() && command.ins == INS_REFRESH && (command.p1, command.p2) == (0, 0)
}

/// Both: what goes into the ratchet at a refresh. `own` is one's own ephemeral key, `peer` the other's public key.
///
/// The card calls this and its `refresh` before it answers its public key; the reader when it has that answer.
pub fn refresh_secret(
    mkey: &AesKey,
    own: EphemeralKey,
    reader_key: &[u8],
    card_key: &[u8],
) -> Result<Zeroizing<[u8; 32]>, ScheduleError> {
    let peer = if ct_eq(&own.public_key(), reader_key) {
        card_key
    } else {
        reader_key
    };
    let secret = own.agree(peer)?;
    let transcript = sha256(&[reader_key, card_key]);
    Ok(combine(LABEL_REFRESH, mkey, &transcript, &secret))
}
