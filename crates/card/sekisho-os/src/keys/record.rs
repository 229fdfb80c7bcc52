//! The keys of one version, and the directory of versions, as their records hold them.

use sekisho_apdu::gp::{key_type, tag};
use sekisho_apdu::{BufferFull, DecodeError, Reader, StatusWord, Writer};
use sekisho_keys::{AesKey, KeySet};
use zeroize::Zeroize;

use super::numbers::{KID_FIRST, is_scp, not_found, wrong_data};
use crate::refusal::Refusal;

/// Most key versions.
pub(super) const VERSIONS_MAX: usize = 16;
/// Longest record: an RSA public key of 2048 bits, or three AES-256 keys and two public keys of P-256.
const RECORD_MAX: usize = 320;
/// Longest component of a key: a modulus of 2048 bits, whose length is written 00.
const COMPONENT_MAX: usize = 256;

/// One component of a key: the key itself, or modulus and exponent of an RSA public key.
#[derive(Clone, Copy)]
pub(super) struct KeyData<'a> {
    pub(super) kid: u8,
    pub(super) kind: u8,
    pub(super) value: &'a [u8],
}

impl<'a> KeyData<'a> {
    fn read(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let [kid, kind, len] = r.array()?;
        let len = if len == 0 { COMPONENT_MAX } else { len.into() };
        Ok(Self {
            kid,
            kind,
            value: r.take(len)?,
        })
    }
}

/// Keys: those of a version, or those that PUT KEY brings. Wiped when dropped.
pub struct KeyRecord {
    bytes: [u8; RECORD_MAX],
    len: usize,
}

impl core::fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("KeyRecord").finish_non_exhaustive()
    }
}

impl Default for KeyRecord {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyRecord {
    /// No keys.
    pub const fn new() -> Self {
        Self {
            bytes: [0; RECORD_MAX],
            len: 0,
        }
    }

    /// The record of `len` bytes that `read` writes.
    pub(super) fn read(
        read: impl FnOnce(&mut [u8]) -> Result<Option<usize>, Refusal>,
    ) -> Result<Self, Refusal> {
        let mut record = Self::new();
        record.len = read(&mut record.bytes)?.ok_or(not_found())?;
        Ok(record)
    }

    /// An SCP03 key set: KIDs 01 to 03.
    pub(crate) fn of_set(set: &KeySet) -> Result<Self, Refusal> {
        let mut record = Self::new();
        for (kid, key) in (KID_FIRST..).zip([&set.enc, &set.mac, &set.dek]) {
            record.push(kid, key_type::AES, key.as_bytes())?;
        }
        Ok(record)
    }

    /// Appends a component of a key (1 to 256 bytes).
    ///
    /// # Errors
    /// 6A80 for another length, 6A84 when there is no room.
    pub fn push(&mut self, kid: u8, kind: u8, value: &[u8]) -> Result<(), Refusal> {
        if value.is_empty() || value.len() > COMPONENT_MAX {
            return Err(wrong_data());
        }
        let [.., len] = value.len().to_be_bytes();
        let mut w = Writer::new(self.bytes.get_mut(self.len..).unwrap_or_default());
        w.bytes(&[kid, kind, len])?;
        w.bytes(value)?;
        self.len += w.len();
        Ok(())
    }

    /// The record's bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its components; ends at the first one that does not decode.
    pub(super) fn keys(&self) -> impl Iterator<Item = KeyData<'_>> {
        let mut reader = Reader::new(self.as_bytes());
        core::iter::from_fn(move || KeyData::read(&mut reader).ok())
    }

    pub(super) fn has(&self, kid: u8) -> bool {
        self.keys().any(|key| key.kid == kid)
    }

    /// Whether it has one component, of this KID and type: what the versions of the broadcast update hold.
    pub(super) fn is_single(&self, kid: u8, kind: u8) -> bool {
        let mut keys = self.keys();
        let first = keys.next().map(|key| (key.kid, key.kind));
        first == Some((kid, kind)) && keys.next().is_none()
    }

    pub(super) fn aes(&self, kid: u8) -> Result<AesKey, Refusal> {
        let key = self
            .keys()
            .find(|key| key.kid == kid && key.kind == key_type::AES)
            .ok_or(not_found())?;
        Ok(AesKey::new(key.value)?)
    }

    /// The SCP03 key set: 6A88 unless all three keys are there, of one length (Amd D 6.1, 7.1.1).
    pub(super) fn set(&self) -> Result<KeySet, Refusal> {
        let set = KeySet {
            enc: self.aes(KID_FIRST)?,
            mac: self.aes(KID_FIRST + 1)?,
            dek: self.aes(KID_FIRST + 2)?,
        };
        if set.mac.len() == set.enc.len() && set.dek.len() == set.enc.len() {
            Ok(set)
        } else {
            Err(not_found())
        }
    }

    /// Whether its AES keys of KIDs 01 to 03 have one length (Amd D 6.1).
    pub(super) fn is_of_one_length(&self) -> bool {
        let mut lengths = self
            .keys()
            .filter(|key| key.kind == key_type::AES && (KID_FIRST..=KID_FIRST + 2).contains(&key.kid))
            .map(|key| key.value.len());
        let first = lengths.next();
        lengths.all(|len| Some(len) == first)
    }

    /// Whether a value with which the sequence counter is used, Key-ENC or Key-MAC, is one of the other record's.
    pub(super) fn shares_a_value(&self, other: &Self) -> bool {
        let counted = |record: &Self, kid| record.aes(kid).ok();
        [KID_FIRST, KID_FIRST + 1].into_iter().any(|kid| {
            let own = counted(self, kid);
            own.is_some()
                && [KID_FIRST, KID_FIRST + 1]
                    .map(|kid| counted(other, kid))
                    .contains(&own)
        })
    }

    /// Whether the key of this KID is of the same type as the other record's, component by component. AES keys of any length are of one type.
    pub(super) fn is_alike(&self, other: &Self, kid: u8) -> bool {
        let kinds = |record: &Self| {
            let mut kinds = [0; 2];
            let of_key = record.keys().filter(|key| key.kid == kid);
            for (to, key) in kinds.iter_mut().zip(of_key) {
                *to = key.kind;
            }
            kinds
        };
        kinds(self) == kinds(other)
    }

    /// The keys of this record, with those of `new` beside them or in the place of those with the same KID; in the order of their KIDs.
    pub(super) fn with(&self, new: &Self) -> Result<Self, Refusal> {
        let mut all = Self::new();
        for kid in 0..=u8::MAX {
            let from = if new.has(kid) { new } else { self };
            for key in from.keys().filter(|key| key.kid == kid) {
                all.push(kid, key.kind, key.value)?;
            }
        }
        Ok(all)
    }

    /// The keys of this record but one.
    pub(super) fn without(&self, kid: u8) -> Result<Self, Refusal> {
        let mut rest = Self::new();
        for key in self.keys().filter(|key| key.kid != kid) {
            rest.push(key.kid, key.kind, key.value)?;
        }
        Ok(rest)
    }

    /// Key information data for each key (GPC 11.3.3.1.1): KID, KVN, type and length; in the extended format for a key of two components.
    pub(super) fn information(&self, kvn: u8, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        let mut keys = self.keys().peekable();
        while let Some(key) = keys.next() {
            let second = keys.next_if(|next| next.kid == key.kid);
            out.tlv_with(tag::KEY_INFORMATION, |w| {
                w.bytes(&[key.kid, kvn])?;
                let len = |value: &[u8]| u8::try_from(value.len()).unwrap_or_default();
                match (second, key.kind) {
                    (None, key_type::ECC_PUBLIC) => {
                        // Without the coding identifier 04; then the curve by reference, P-256 (GPC 11.3.3.1.1, B.4.2).
                        let len = len(key.value).saturating_sub(1);
                        w.bytes(&[key.kind, len, key_type::ECC_PARAMETERS_REFERENCE, 0x00])
                    }
                    (None, _) => w.bytes(&[key.kind, len(key.value)]),
                    (Some(second), _) => {
                        for component in [key, second] {
                            w.bytes(&[key_type::EXTENDED_FORMAT, component.kind])?;
                            w.u16(u16::try_from(component.value.len()).unwrap_or_default())?;
                        }
                        // No key usage and no key access information.
                        w.bytes(&[0x00, 0x00])
                    }
                }
            })?;
        }
        Ok(())
    }
}

impl Drop for KeyRecord {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// Which key versions there are.
#[derive(Clone, Copy)]
pub(super) struct Directory {
    /// The KVN of SCP03 that KVN 00 means; 00 when there is none.
    pub(super) default: u8,
    versions: [u8; VERSIONS_MAX],
    len: usize,
}

impl Directory {
    /// From the record's bytes: `len` of them.
    pub(super) fn decode(bytes: [u8; 1 + VERSIONS_MAX], len: usize) -> Self {
        let [default, versions @ ..] = bytes;
        Self {
            default,
            versions,
            len: len.saturating_sub(1).min(VERSIONS_MAX),
        }
    }

    pub(super) fn versions(&self) -> &[u8] {
        self.versions.get(..self.len).unwrap_or_default()
    }

    pub(super) fn contains(&self, kvn: u8) -> bool {
        self.versions().contains(&kvn)
    }

    /// Adds a version, if it is not there.
    pub(super) fn add(&mut self, kvn: u8) -> Result<(), Refusal> {
        if self.contains(kvn) {
            return Ok(());
        }
        *self
            .versions
            .get_mut(self.len)
            .ok_or(Refusal(StatusWord::NOT_ENOUGH_MEMORY))? = kvn;
        self.len += 1;
        self.versions
            .get_mut(..self.len)
            .unwrap_or_default()
            .sort_unstable();
        Ok(())
    }

    pub(super) fn remove(&mut self, kvn: u8) {
        if let Some(at) = self.versions().iter().position(|v| *v == kvn) {
            self.versions.copy_within(at + 1..self.len, at);
            self.len -= 1;
        }
    }

    /// The versions that may hold an SCP03 key set.
    pub(super) fn scp(&self) -> impl Iterator<Item = u8> {
        self.versions().iter().copied().filter(|kvn| is_scp(*kvn))
    }
}
