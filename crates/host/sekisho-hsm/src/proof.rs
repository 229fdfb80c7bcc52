//! What an SE says under its own K-AUT (spec 2.3 and 2.6).

use sekisho_keys::ct_eq;
use sekisho_link::{Proof, SeId};

use crate::{Hsm, Result};

/// Whether a receipt or a refusal is the SE's: its MAC is that of the K-AUT that goes with the SCP03 key set `kvn`. What its fields say is the
/// caller's to judge.
///
/// # Errors
/// As [`Hsm::mac_with_k_aut`].
pub fn is_of(hsm: &dyn Hsm, se_id: SeId, kvn: u8, proof: &Proof) -> Result<bool> {
    let (computed, said) = match proof {
        Proof::Receipt(receipt) => (
            hsm.mac_with_k_aut(se_id, kvn, &receipt.message(se_id))?,
            receipt.mac,
        ),
        Proof::Refusal(refusal) => (
            hsm.mac_with_k_aut(se_id, kvn, &refusal.message(se_id))?,
            refusal.mac,
        ),
    };
    Ok(ct_eq(&computed, &said))
}
