//! Target 02: the design system's keys, which nobody but the present designer changes (broadcast update, 3.1).

use sekisho_apdu::StatusWord;
use sekisho_apdu::gp::key_type;
use sekisho_keys::p256sig::VerifyingKey;
use sekisho_keys::{AesKey, kdf_label, key_unwrap};
use sekisho_link::{KeyChange, Manifest, codes};
use sekisho_nvm::{Op, Region};
use zeroize::Zeroizing;

use super::authorise::Authority;
use super::{length, status};
use crate::keys::{KID_FIRST, KVN_DESIGNER, KVN_K_MAC, KVN_KOS, KVN_PAIRING, KeyRecord};
use crate::names::{RecordKey, RecordKind};
use crate::nvm::Nvm;

/// Bytes of Kos and `K_MAC` at most, and of what wrapping adds to them.
const PAIR_MAX: usize = 64;
const WRAPPING: usize = 8;

/// The records that take the place of Kos, `K_MAC`, the designer's key and the pairing key; one that the image does not bring is empty.
pub(super) struct NewKeys {
    kos: KeyRecord,
    k_mac: KeyRecord,
    designer: KeyRecord,
    pairing: KeyRecord,
}

impl NewKeys {
    /// None.
    pub(super) const fn new() -> Self {
        Self {
            kos: KeyRecord::new(),
            k_mac: KeyRecord::new(),
            designer: KeyRecord::new(),
            pairing: KeyRecord::new(),
        }
    }

    /// The operations that put them into the store.
    pub(super) fn ops(&self) -> impl Iterator<Item = Op<'_>> {
        let all = [
            (KVN_KOS, &self.kos),
            (KVN_K_MAC, &self.k_mac),
            (KVN_DESIGNER, &self.designer),
            (KVN_PAIRING, &self.pairing),
        ];
        let brought = all.into_iter().filter(|(_, record)| !record.is_empty());
        brought.map(|(kvn, record)| {
            Op::Put(
                RecordKey::platform(RecordKind::Keys, kvn.into()).key(),
                record.as_bytes(),
            )
        })
    }

    /// Reads the staged image, and unwraps what is wrapped in it. Not inlined: what it takes of the stack is free when the keys are written.
    ///
    /// # Errors
    /// 9505 when it is no key change, has a bit that is unknown, does not unwrap, or its designer's key is no point of the curve; 6A88 when Kos,
    /// `K_MAC` or the pairing key, which it would replace, is not in the SE; 6581.
    #[inline(never)]
    pub(super) fn read(
        &mut self,
        nvm: &Nvm<'_>,
        region: &Region,
        manifest: &Manifest,
        authority: &Authority,
    ) -> Result<(), StatusWord> {
        let mut image = Zeroizing::new([0; KeyChange::MAX_LEN]);
        let image = image.get_mut(..length(manifest)?).ok_or(status::CODE)?;
        region
            .read(&nvm.flash, 0, image)
            .map_err(|_| StatusWord::MEMORY_FAILURE)?;
        let change = KeyChange::decode(image).map_err(|_| status::CODE)?;
        if change.wrapped.is_some() || change.pairing.is_some() {
            let kck = wrapping_key(authority, manifest, change.is_individual)?;
            self.unwrap(&kck, &change, authority)?;
        }
        if let Some(point) = &change.designer {
            VerifyingKey::from_sec1(point).map_err(|_| status::CODE)?;
            self.designer.push(KID_FIRST, key_type::ECC_PUBLIC, point)?;
        }
        Ok(())
    }

    fn unwrap(
        &mut self,
        kck: &AesKey,
        change: &KeyChange<'_>,
        authority: &Authority,
    ) -> Result<(), StatusWord> {
        let mut plain = Zeroizing::new([0; PAIR_MAX]);
        if let Some(wrapped) = change.wrapped {
            let pair = unwrap(kck, wrapped, &mut plain)?;
            let (kos, k_mac) = pair.split_at_checked(pair.len() / 2).ok_or(status::CODE)?;
            self.kos.push(KID_FIRST, key_type::AES, kos)?;
            self.k_mac.push(KID_FIRST, key_type::AES, k_mac)?;
        }
        if let Some(wrapped) = change.pairing {
            if !authority.has_pairing_key {
                return Err(StatusWord::REFERENCED_DATA_NOT_FOUND);
            }
            let pairing = unwrap(kck, wrapped, &mut plain)?;
            self.pairing.push(KID_FIRST, key_type::AES, pairing)?;
        }
        Ok(())
    }
}

fn unwrap<'p>(kck: &AesKey, wrapped: &[u8], plain: &'p mut [u8; PAIR_MAX]) -> Result<&'p [u8], StatusWord> {
    let len = wrapped.len().checked_sub(WRAPPING).ok_or(status::CODE)?;
    let plain = plain.get_mut(..len).ok_or(status::CODE)?;
    key_unwrap(kck, wrapped, plain).map_err(|_| status::CODE)?;
    Ok(plain)
}

/// KCK, under which symmetric keys are wrapped: for all SEs, or for this one.
fn wrapping_key(
    authority: &Authority,
    manifest: &Manifest,
    is_individual: bool,
) -> Result<AesKey, StatusWord> {
    let missing = StatusWord::REFERENCED_DATA_NOT_FOUND;
    let (kos, _) = authority
        .kos
        .as_ref()
        .zip(authority.k_mac.as_ref())
        .ok_or(missing)?;
    let mut key = Zeroizing::new([0; 16]);
    if is_individual {
        let dek = authority.dek.as_ref().ok_or(missing)?;
        let context = codes::key_change_context(&manifest.package_id, authority.se_id);
        kdf_label(dek, codes::LABEL_KEY_CHANGE, &context, &mut *key);
    } else {
        kdf_label(kos, codes::LABEL_KEY_CHANGE, &manifest.package_id, &mut *key);
    }
    AesKey::new(&*key).map_err(|_| StatusWord::MEMORY_FAILURE)
}
