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
use crate::keys::{KID_FIRST, KVN_DESIGNER, KVN_K_MAC, KVN_KOS, KeyRecord};
use crate::names::{RecordKey, RecordKind};
use crate::nvm::Nvm;

/// Bytes of Kos and `K_MAC` at most, and of what wrapping adds to them.
const PAIR_MAX: usize = 64;
const WRAPPING: usize = 8;

/// The records that take the place of Kos, `K_MAC` and the designer's key: as many as the image says.
pub(super) struct NewKeys {
    pair: Option<[KeyRecord; 2]>,
    designer: Option<KeyRecord>,
}

impl NewKeys {
    /// The operations that put them into the store.
    pub(super) fn ops(&self) -> [Option<Op<'_>>; 3] {
        fn put(kvn: u8, record: &KeyRecord) -> Op<'_> {
            Op::Put(
                RecordKey::platform(RecordKind::Keys, kvn.into()).key(),
                record.as_bytes(),
            )
        }
        let pair = self.pair.as_ref();
        [
            pair.map(|[kos, _]| put(KVN_KOS, kos)),
            pair.map(|[_, k_mac]| put(KVN_K_MAC, k_mac)),
            self.designer.as_ref().map(|designer| put(KVN_DESIGNER, designer)),
        ]
    }
}

/// Reads the staged image, and unwraps what is wrapped in it.
///
/// # Errors
/// 9505 when it is no key change, has a bit that is unknown, does not unwrap, or its designer's key is no point of the curve; 6A88 when Kos or
/// `K_MAC`, which it would replace, is not in the SE; 6581.
pub(super) fn read(
    nvm: &Nvm<'_>,
    region: &Region,
    manifest: &Manifest,
    authority: &Authority,
) -> Result<NewKeys, StatusWord> {
    let mut image = Zeroizing::new([0; KeyChange::MAX_LEN]);
    let image = image.get_mut(..length(manifest)?).ok_or(status::CODE)?;
    region
        .read(&nvm.flash, 0, image)
        .map_err(|_| StatusWord::MEMORY_FAILURE)?;
    let change = KeyChange::decode(image).map_err(|_| status::CODE)?;
    let pair = match change.wrapped {
        Some(wrapped) => Some(unwrap(
            &wrapping_key(authority, manifest, change.is_individual)?,
            wrapped,
        )?),
        None => None,
    };
    let designer = match &change.designer {
        Some(point) => {
            VerifyingKey::from_sec1(point).map_err(|_| status::CODE)?;
            Some(record(key_type::ECC_PUBLIC, point)?)
        }
        None => None,
    };
    Ok(NewKeys { pair, designer })
}

/// KCK, under which Kos and `K_MAC` are wrapped: for all SEs, or for this one.
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

fn unwrap(kck: &AesKey, wrapped: &[u8]) -> Result<[KeyRecord; 2], StatusWord> {
    let mut plain = Zeroizing::new([0; PAIR_MAX]);
    let len = wrapped.len().checked_sub(WRAPPING).ok_or(status::CODE)?;
    let plain = plain.get_mut(..len).ok_or(status::CODE)?;
    key_unwrap(kck, wrapped, plain).map_err(|_| status::CODE)?;
    let (kos, k_mac) = plain.split_at_checked(len / 2).ok_or(status::CODE)?;
    Ok([record(key_type::AES, kos)?, record(key_type::AES, k_mac)?])
}

fn record(kind: u8, value: &[u8]) -> Result<KeyRecord, StatusWord> {
    let mut record = KeyRecord::new();
    record.push(KID_FIRST, kind, value)?;
    Ok(record)
}
