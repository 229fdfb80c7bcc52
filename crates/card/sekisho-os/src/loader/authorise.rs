//! AUTHORIZE ACTION: what is staged takes effect, or is discarded, with a receipt (broadcast update, 2.3).

use sekisho_apdu::{StatusWord, Writer};
use sekisho_keys::{AesKey, Sha256, Verdict, cmac, ct_compare, ct_eq};
use sekisho_link::{Campaign, Custody, Manifest, SeId, Staging, codes};
use sekisho_nvm::Op;

use super::commands::AuthorizeAction;
use super::records::{ActivePart, KEY_VERSION, PART, RECEIPT, Staged, UNSTAGED, WIPE};
use super::{Loader, check_code_format, check_version, commit, keys, length, receipts, slot, status};
use crate::nvm::Nvm;

/// The SE and its keys by which AUTHORIZE ACTION is judged. Those that are not in the SE are not here.
pub struct Authority {
    /// SE-id.
    pub se_id: SeId,
    /// K-AUT.
    pub k_aut: AesKey,
    /// `K_MAC`: the integrity key of custody 04.
    pub k_mac: Option<AesKey>,
    /// Kos, under which new keys are wrapped.
    pub kos: Option<AesKey>,
    /// Key-DEK of the key set whose channel it is, under which new keys for this SE alone are wrapped.
    pub dek: Option<AesKey>,
    /// Whether the SE has a pairing key, which a key change may replace.
    pub has_pairing_key: bool,
}

impl Loader {
    /// AUTHORIZE ACTION; appends the receipt to the answer and tells the target of what took effect, if something did.
    ///
    /// # Errors
    /// The status words of broadcast update, 2.3.
    #[inline(never)]
    pub fn authorise(
        &mut self,
        nvm: &mut Nvm<'_>,
        authority: &Authority,
        command: &AuthorizeAction,
        out: &mut Writer<'_>,
    ) -> Result<Option<u8>, StatusWord> {
        let staged = Staged::load(nvm)?.ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
        let (k_aut, se_id) = (&authority.k_aut, authority.se_id);
        match command {
            AuthorizeAction::Discard {
                campaign,
                individual_code,
            } => {
                same_campaign(&staged, *campaign)?;
                let message = codes::discard_message(*campaign, se_id);
                vouched(check_code(k_aut, &message, individual_code)?)?;
                self.discard(nvm, authority, *campaign, staged.manifest.target, out)?;
                Ok(None)
            }
            AuthorizeAction::Activate {
                campaign,
                design_code,
                individual_code,
            } => {
                if staged.staging != Staging::Complete {
                    return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
                }
                same_campaign(&staged, *campaign)?;
                let manifest = self.own_digest(nvm, &staged)?;
                let k_int = integrity_key(&staged, authority)?;
                let design = check_code(&k_int, &codes::design_code_message(&manifest), design_code)?;
                let message = codes::activate_message(&manifest, *campaign, se_id);
                let individual = check_code(k_aut, &message, individual_code)?;
                check_version(self.version(manifest.target), &manifest)?;
                // Once more where it takes effect: behind a refusal this code is one branch away.
                vouched(design)?;
                vouched(individual)?;
                if manifest.target == Manifest::KEYS {
                    self.change_keys(nvm, authority, *campaign, &manifest, out)?;
                } else {
                    self.check_code(nvm, &manifest)?;
                    self.activate(nvm, authority, *campaign, manifest, out)?;
                }
                Ok(Some(manifest.target))
            }
        }
    }

    /// Takes the SHA-256 of what stands in the slot. If it is not the manifest's, what is staged is wiped: nothing can make it right.
    #[inline(never)]
    fn own_digest(&mut self, nvm: &mut Nvm<'_>, staged: &Staged) -> Result<Manifest, StatusWord> {
        let region = slot(nvm, self.inactive_slot())?;
        let len = length(&staged.manifest)?;
        let mut hash = Sha256::new();
        let mut chunk = [0; 256];
        let mut at = 0;
        while at < len {
            let part = chunk.get_mut(..256.min(len - at)).unwrap_or_default();
            region
                .read(&nvm.flash, at, part)
                .map_err(|_| StatusWord::MEMORY_FAILURE)?;
            hash.update(part);
            at += part.len();
        }
        let digest = hash.finalize();
        if !ct_eq(&digest, &staged.manifest.digest) {
            self.unstage(nvm, [])?;
            return Err(status::INTEGRITY);
        }
        Ok(Manifest {
            digest,
            ..staged.manifest
        })
    }

    /// Makes the staged image the active part, with its receipt, in one transaction.
    #[inline(never)]
    fn activate(
        &mut self,
        nvm: &mut Nvm<'_>,
        authority: &Authority,
        campaign: Campaign,
        manifest: Manifest,
        out: &mut Writer<'_>,
    ) -> Result<(), StatusWord> {
        let active = ActivePart {
            slot: self.inactive_slot(),
            manifest,
        };
        let receipt = receipts::activated(authority, campaign, self.version(manifest.target), &manifest);
        let part = active.encode();
        let mut ops = [Op::Put(PART, &part); 2 + UNSTAGED.len()];
        let all = [Op::Put(PART, &part), Op::Put(RECEIPT, &receipt)];
        for (to, op) in ops.iter_mut().zip(all.into_iter().chain(UNSTAGED)) {
            *to = op;
        }
        commit(nvm, &ops)?;
        self.active = Some(active);
        self.broadcast.clear();
        self.reload(nvm)?;
        out.bytes(&receipt).map_err(|_| StatusWord::NOT_ENOUGH_MEMORY)
    }

    /// Puts the new keys of the staged image in the place of the old ones, with key version and receipt, in one transaction, and wipes the image.
    #[inline(never)]
    fn change_keys(
        &mut self,
        nvm: &mut Nvm<'_>,
        authority: &Authority,
        campaign: Campaign,
        manifest: &Manifest,
        out: &mut Writer<'_>,
    ) -> Result<(), StatusWord> {
        let region = slot(nvm, self.inactive_slot())?;
        let mut new = keys::NewKeys::new();
        new.read(nvm, &region, manifest, authority)?;
        let receipt = receipts::activated(authority, campaign, self.version(Manifest::KEYS), manifest);
        let version = manifest.version.to_be_bytes();
        let beside = [Op::Put(KEY_VERSION, &version), Op::Put(RECEIPT, &receipt)];
        self.unstage(nvm, beside.into_iter().chain(new.ops()))?;
        self.key_version = manifest.version;
        out.bytes(&receipt).map_err(|_| StatusWord::NOT_ENOUGH_MEMORY)
    }

    #[inline(never)]
    fn discard(
        &mut self,
        nvm: &mut Nvm<'_>,
        authority: &Authority,
        campaign: Campaign,
        target: u8,
        out: &mut Writer<'_>,
    ) -> Result<(), StatusWord> {
        let receipt = receipts::discarded(authority, campaign, target, self.version(target));
        self.unstage(nvm, [Op::Put(RECEIPT, &receipt)])?;
        out.bytes(&receipt).map_err(|_| StatusWord::NOT_ENOUGH_MEMORY)
    }

    /// One transaction: nothing is staged any more, these operations (six at most) are carried out, and the slot is to be wiped; then it is.
    fn unstage<'o>(
        &mut self,
        nvm: &mut Nvm<'_>,
        more: impl IntoIterator<Item = Op<'o>>,
    ) -> Result<(), StatusWord> {
        let wipe = Op::Put(WIPE, &[]);
        let mut ops = [wipe; UNSTAGED.len() + 1 + 6];
        let all = more.into_iter().chain([wipe]).chain(UNSTAGED);
        let mut count = 0;
        for (to, op) in ops.iter_mut().zip(all) {
            *to = op;
            count += 1;
        }
        commit(nvm, ops.get(..count).unwrap_or_default())?;
        self.broadcast.clear();
        self.reload(nvm)?;
        self.wipe_slot(nvm)
    }

    /// Whether what is staged would run: it is loaded as a command loads it.
    fn check_code(&self, nvm: &Nvm<'_>, manifest: &Manifest) -> Result<(), StatusWord> {
        check_code_format(manifest)?;
        let placed = self.placed(nvm, self.inactive_slot(), manifest)?;
        placed.check(&nvm.flash).map_err(|why| {
            if why.is_unread() {
                StatusWord::MEMORY_FAILURE
            } else {
                status::CODE
            }
        })
    }
}

/// The key of the design code.
fn integrity_key(staged: &Staged, authority: &Authority) -> Result<AesKey, StatusWord> {
    match staged.custody {
        Custody::DesignSystem => AesKey::new(&staged.k_int).map_err(|_| StatusWord::MEMORY_FAILURE),
        Custody::Hsm => authority
            .k_mac
            .clone()
            .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND),
    }
}

fn same_campaign(staged: &Staged, campaign: Campaign) -> Result<(), StatusWord> {
    if staged.campaign == campaign {
        Ok(())
    } else {
        Err(status::CAMPAIGN)
    }
}

#[inline(always)]
fn check_code(key: &AesKey, message: &[u8], code: &[u8; 16]) -> Result<Verdict, StatusWord> {
    let verdict = ct_compare(&cmac(key, &[message]), code);
    vouched(verdict)?;
    Ok(verdict)
}

#[inline(always)]
fn vouched(verdict: Verdict) -> Result<(), StatusWord> {
    if verdict.is_yes() {
        Ok(())
    } else {
        Err(status::INTEGRITY)
    }
}
