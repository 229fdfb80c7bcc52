//! Receipts: made with K-AUT, kept until the next one.

use sekisho_apdu::{StatusWord, Writer};
use sekisho_keys::{AesKey, cmac};
use sekisho_link::{Campaign, Manifest, Receipt, SeId, codes};
use sekisho_nvm::Flash;

use super::records::RECEIPT;
use crate::nvm::Nvm;

/// The receipt of an activation.
pub(super) fn activated(
    k_aut: &AesKey,
    se_id: SeId,
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
        k_aut,
        se_id,
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
pub(super) fn discarded(k_aut: &AesKey, se_id: SeId, campaign: Campaign, version: u32) -> [u8; Receipt::LEN] {
    sealed(
        k_aut,
        se_id,
        Receipt {
            action: codes::ACTION_DISCARD,
            target: Manifest::OS_PART,
            campaign,
            previous_version: version,
            version,
            digest: [0; 32],
            mac: [0; 16],
        },
    )
}

fn sealed(k_aut: &AesKey, se_id: SeId, receipt: Receipt) -> [u8; Receipt::LEN] {
    Receipt {
        mac: cmac(k_aut, &[&receipt.message(se_id)]),
        ..receipt
    }
    .encode()
}

/// Writes the last receipt.
pub(super) fn last<F: Flash>(nvm: &mut Nvm<'_, F>, out: &mut Writer<'_>) -> Result<(), StatusWord> {
    let mut buf = [0; Receipt::LEN];
    let len = nvm.get(RECEIPT, &mut buf).map_err(|refusal| refusal.0)?;
    let len = len.ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
    out.bytes(buf.get(..len).unwrap_or_default())
        .map_err(|_| StatusWord::NOT_ENOUGH_MEMORY)
}
