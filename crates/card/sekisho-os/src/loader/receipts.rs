//! Receipts: made with K-AUT, kept until the next one.

use sekisho_keys::cmac;
use sekisho_link::{Campaign, Manifest, Receipt, codes};

use super::authorise::Authority;

/// The receipt of an activation.
pub(super) fn activated(
    authority: &Authority,
    campaign: Campaign,
    previous_version: u32,
    manifest: &Manifest,
) -> [u8; Receipt::LEN] {
    let Manifest {
        target,
        version,
        digest,
        ..
    } = *manifest;
    sealed(
        authority,
        Receipt {
            action: codes::ACTION_ACTIVATE,
            target,
            campaign,
            previous_version,
            version,
            digest,
            mac: [0; 16],
        },
    )
}

/// The receipt of discarding.
pub(super) fn discarded(
    authority: &Authority,
    campaign: Campaign,
    target: u8,
    version: u32,
) -> [u8; Receipt::LEN] {
    sealed(
        authority,
        Receipt {
            action: codes::ACTION_DISCARD,
            target,
            campaign,
            previous_version: version,
            version,
            digest: [0; 32],
            mac: [0; 16],
        },
    )
}

fn sealed(authority: &Authority, receipt: Receipt) -> [u8; Receipt::LEN] {
    Receipt {
        mac: cmac(&authority.k_aut, &[&receipt.message(authority.se_id)]),
        ..receipt
    }
    .encode()
}
