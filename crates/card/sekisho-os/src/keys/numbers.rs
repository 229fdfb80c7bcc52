//! Key versions and key identifiers, and which of them are whose.

use sekisho_apdu::StatusWord;

use crate::refusal::Refusal;

/// The KVN of initial keys, which PUT KEY cannot name and which go when the first key set of the owner is there.
pub const KVN_INITIAL: u8 = 0xFF;
/// K-AUT (broadcast update, section 1).
pub const KVN_K_AUT: u8 = 0x60;
/// Kos.
pub const KVN_KOS: u8 = 0x61;
/// `K_MAC`.
pub const KVN_K_MAC: u8 = 0x62;
/// The designer's public key.
pub const KVN_DESIGNER: u8 = 0x63;
/// The key that pairing data are changed under (`docs/spec/routing.md`, 5); the last version that is the platform's.
pub const KVN_PAIRING: u8 = 0x64;
/// The key that tokens are verified with, in the root of a container (GPC 11.1.8): a public key.
pub(crate) const KVN_TOKEN: u8 = 0x70;
/// The key that receipts are made with, in the root of a container (GPC 11.1.8): an AES key.
pub(crate) const KVN_RECEIPT: u8 = 0x71;
/// The key that a security domain verifies DAP blocks with (GPC 11.1.8): a public key.
pub(crate) const KVN_DAP: u8 = 0x73;
/// All versions of the platform.
pub(super) const PLATFORMS: core::ops::RangeInclusive<u8> = KVN_KOS..=KVN_PAIRING;
/// KID of a key that is alone in its version, and of the first key of an SCP03 key set.
pub(crate) const KID_FIRST: u8 = 0x01;
/// KID of the last key of an SCP03 key set.
pub(super) const KID_LAST: u8 = 0x03;

pub(super) const fn not_found() -> Refusal {
    Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND)
}

pub(super) const fn wrong_data() -> Refusal {
    Refusal(StatusWord::INCORRECT_DATA)
}

/// Whether a version is the platform's: fixed at personalisation, whoever holds SCP03 keys (broadcast update, section 1).
pub(crate) const fn is_platforms(kvn: u8) -> bool {
    matches!(kvn, KVN_KOS..=KVN_PAIRING)
}

/// Whether a version may hold an SCP03 key set.
pub(super) const fn is_scp(kvn: u8) -> bool {
    matches!(kvn, 0x01..=0x5F | KVN_INITIAL)
}

/// Whether the one version's number may become the other's: those of SCP03 among themselves, those that nothing uses likewise; K-AUT's stays.
pub(super) const fn may_become(a: u8, b: u8) -> bool {
    (is_scp(a) && is_scp(b)) || (matches!(a, 0x65..=0x7F) && matches!(b, 0x65..=0x7F))
}
