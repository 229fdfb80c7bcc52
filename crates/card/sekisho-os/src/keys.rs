//! The key store of a security domain: SCP03 key sets with their sequence counters, and the keys of the broadcast update.
//!
//! One record for each key version, so that a key set changes as a whole. A directory record says which versions there are and which one
//! INITIALIZE UPDATE means by KVN 00.

use sekisho_apdu::gp::{key_type, tag};
use sekisho_apdu::{DecodeError, Reader, StatusWord, Writer};
use sekisho_keys::p256sig::VerifyingKey;
use sekisho_keys::{AesKey, KeySet};
use sekisho_nvm::Flash;
use zeroize::Zeroize;

use crate::nvm::{Kind, Records};
use crate::refusal::Refusal;

/// The KVN of initial keys, which PUT KEY cannot name and which go when the first key set of the owner comes.
pub const KVN_INITIAL: u8 = 0xFF;
/// K-AUT (broadcast update, section 1).
pub const KVN_K_AUT: u8 = 0x60;
/// Kos.
pub const KVN_KOS: u8 = 0x61;
/// `K_MAC`.
pub const KVN_K_MAC: u8 = 0x62;
/// The designer's public key.
pub const KVN_DESIGNER: u8 = 0x63;
/// KID of a key that is alone in its version, and of the first key of an SCP03 key set.
pub(crate) const KID_FIRST: u8 = 0x01;

/// Most key versions.
const VERSIONS_MAX: usize = 16;
/// Longest record: three AES-256 keys, each with KID, type and length.
const RECORD_MAX: usize = 3 * (3 + 32);
/// The sequence counter has three bytes (Amd D 6.2.2.1).
const SEQUENCE_MAX: u32 = 0x00FF_FFFF;

const fn not_found() -> Refusal {
    Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND)
}

const fn wrong_data() -> Refusal {
    Refusal(StatusWord::INCORRECT_DATA)
}

/// One key of a version.
#[derive(Clone, Copy)]
struct KeyData<'a> {
    kid: u8,
    kind: u8,
    value: &'a [u8],
}

impl<'a> KeyData<'a> {
    fn read(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let [kid, kind, len] = r.array()?;
        Ok(Self {
            kid,
            kind,
            value: r.take(len.into())?,
        })
    }
}

/// The keys of one version. Wiped when dropped.
struct KeyRecord {
    bytes: [u8; RECORD_MAX],
    len: usize,
}

impl KeyRecord {
    const fn new() -> Self {
        Self {
            bytes: [0; RECORD_MAX],
            len: 0,
        }
    }

    fn of_set(set: &KeySet) -> Result<Self, Refusal> {
        let mut record = Self::new();
        for (kid, key) in (KID_FIRST..).zip([&set.enc, &set.mac, &set.dek]) {
            record.push(kid, key_type::AES, key.as_bytes())?;
        }
        Ok(record)
    }

    fn push(&mut self, kid: u8, kind: u8, value: &[u8]) -> Result<(), Refusal> {
        let mut w = Writer::new(self.bytes.get_mut(self.len..).unwrap_or_default());
        w.bytes(&[kid, kind, u8::try_from(value.len()).map_err(|_| wrong_data())?])?;
        w.bytes(value)?;
        self.len += w.len();
        Ok(())
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Its keys; ends at the first one that does not decode.
    fn keys(&self) -> impl Iterator<Item = KeyData<'_>> {
        let mut reader = Reader::new(self.as_bytes());
        core::iter::from_fn(move || KeyData::read(&mut reader).ok())
    }

    fn aes(&self, kid: u8) -> Result<AesKey, Refusal> {
        let key = self
            .keys()
            .find(|key| key.kid == kid && key.kind == key_type::AES)
            .ok_or(not_found())?;
        Ok(AesKey::new(key.value)?)
    }

    fn set(&self) -> Result<KeySet, Refusal> {
        Ok(KeySet {
            enc: self.aes(KID_FIRST)?,
            mac: self.aes(KID_FIRST + 1)?,
            dek: self.aes(KID_FIRST + 2)?,
        })
    }

    /// Whether the other record has the same KIDs with keys of the same types and lengths: what replacing asks for (GPC 11.8.2.3.3).
    fn is_alike(&self, other: &Self) -> bool {
        let shape = |key: KeyData<'_>| (key.kid, key.kind, key.value.len());
        self.keys().map(shape).eq(other.keys().map(shape))
    }
}

impl Drop for KeyRecord {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// Which key versions there are.
#[derive(Clone, Copy)]
struct Directory {
    /// The KVN of SCP03 that KVN 00 means; 00 when there is none.
    default: u8,
    versions: [u8; VERSIONS_MAX],
    len: usize,
}

impl Directory {
    fn versions(&self) -> &[u8] {
        self.versions.get(..self.len).unwrap_or_default()
    }

    fn contains(&self, kvn: u8) -> bool {
        self.versions().contains(&kvn)
    }

    fn add(&mut self, kvn: u8) -> Result<(), Refusal> {
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

    fn remove(&mut self, kvn: u8) {
        if let Some(at) = self.versions().iter().position(|v| *v == kvn) {
            self.versions.copy_within(at + 1..self.len, at);
            self.len -= 1;
        }
    }

    /// The versions that hold an SCP03 key set.
    fn scp(&self) -> impl Iterator<Item = u8> {
        self.versions().iter().copied().filter(|kvn| is_scp(*kvn))
    }
}

/// Whether a version may hold an SCP03 key set: all but those of the broadcast update.
const fn is_scp(kvn: u8) -> bool {
    matches!(kvn, 0x01..=0x5F | KVN_INITIAL)
}

/// The type that the only key of a version must have; `None` when PUT KEY may not write a single key there.
const fn single_key_type(kvn: u8) -> Option<u8> {
    match kvn {
        KVN_K_AUT | KVN_KOS | KVN_K_MAC => Some(key_type::AES),
        KVN_DESIGNER => Some(key_type::ECC_PUBLIC),
        _ => None,
    }
}

/// The key store of a container's issuer security domain, through the records of the command being processed.
pub(crate) struct KeyStore<'r, 'a, F: Flash>(pub(crate) &'r mut Records<'a, F>);

impl<F: Flash> KeyStore<'_, '_, F> {
    fn directory(&mut self) -> Result<Directory, Refusal> {
        let mut bytes = [0; 1 + VERSIONS_MAX];
        let len = self.0.get(Kind::KeyDirectory, 0, &mut bytes)?.unwrap_or(0);
        let [default, versions @ ..] = bytes;
        Ok(Directory {
            default,
            versions,
            len: len.saturating_sub(1),
        })
    }

    fn put_directory(&mut self, directory: &Directory) -> Result<(), Refusal> {
        let mut bytes = [0; 1 + VERSIONS_MAX];
        let mut w = Writer::new(&mut bytes);
        w.u8(directory.default)?;
        w.bytes(directory.versions())?;
        self.0.put(Kind::KeyDirectory, 0, w.written())
    }

    fn record(&mut self, kvn: u8) -> Result<KeyRecord, Refusal> {
        let mut record = KeyRecord::new();
        let len = self.0.get(Kind::Keys, kvn.into(), &mut record.bytes)?;
        record.len = len.ok_or(not_found())?;
        Ok(record)
    }

    fn put_record(&mut self, kvn: u8, record: &KeyRecord) -> Result<(), Refusal> {
        self.0.put(Kind::Keys, kvn.into(), record.as_bytes())?;
        if is_scp(kvn) {
            // A key set that is created or replaced as a whole starts counting at zero (Amd D 6.2.2.1).
            self.put_sequence(kvn, 0)?;
        }
        Ok(())
    }

    fn remove_record(&mut self, kvn: u8) -> Result<(), Refusal> {
        self.0.remove(Kind::Keys, kvn.into())?;
        self.0.remove(Kind::SequenceCounter, kvn.into())
    }

    fn put_sequence(&mut self, kvn: u8, counter: u32) -> Result<(), Refusal> {
        let [_, counter @ ..] = counter.to_be_bytes();
        self.0.put(Kind::SequenceCounter, kvn.into(), &counter)
    }

    /// The KVN that a command means: 00 is the default one.
    pub(crate) fn resolve(&mut self, kvn: u8) -> Result<u8, Refusal> {
        match kvn {
            0 => Some(self.directory()?.default)
                .filter(|kvn| *kvn != 0)
                .ok_or(not_found()),
            kvn => Ok(kvn),
        }
    }

    /// The SCP03 key set of a version: 6A88 unless all three keys are there (Amd D 7.1.1).
    pub(crate) fn scp_set(&mut self, kvn: u8) -> Result<KeySet, Refusal> {
        if is_scp(kvn) {
            self.record(kvn)?.set()
        } else {
            Err(not_found())
        }
    }

    /// The last sequence counter used with a version.
    pub(crate) fn sequence(&mut self, kvn: u8) -> Result<u32, Refusal> {
        let mut counter = [0; 3];
        self.0
            .get(Kind::SequenceCounter, kvn.into(), &mut counter)?
            .ok_or(not_found())?;
        let [a, b, c] = counter;
        Ok(u32::from_be_bytes([0, a, b, c]))
    }

    /// Counts up and gives the counter to use: 6985 when it is used up (Amd D 6.2.2.1).
    pub(crate) fn next_sequence(&mut self, kvn: u8) -> Result<u32, Refusal> {
        let next = self.sequence(kvn)? + 1;
        if next > SEQUENCE_MAX {
            return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        self.put_sequence(kvn, next)?;
        Ok(next)
    }

    /// The AES key that is alone in its version.
    pub(crate) fn single_aes(&mut self, kvn: u8) -> Result<AesKey, Refusal> {
        self.record(kvn)?.aes(KID_FIRST)
    }

    /// The designer's public key.
    pub(crate) fn designer(&mut self) -> Result<VerifyingKey, Refusal> {
        let record = self.record(KVN_DESIGNER)?;
        let key = record
            .keys()
            .find(|key| key.kind == key_type::ECC_PUBLIC)
            .ok_or(not_found())?;
        let point = key.value.try_into().map_err(|_| not_found())?;
        VerifyingKey::from_sec1(point).map_err(|_| not_found())
    }

    /// PUT KEY with an SCP03 key set: adds version `kvn` (`replaces` 00), or puts it in the place of version `replaces`.
    pub(crate) fn put_scp_set(&mut self, replaces: u8, kvn: u8, set: &KeySet) -> Result<(), Refusal> {
        let initial = kvn == KVN_INITIAL;
        if !is_scp(kvn) || set.mac.len() != set.enc.len() || set.dek.len() != set.enc.len() {
            return Err(wrong_data());
        }
        let record = KeyRecord::of_set(set)?;
        let mut directory = self.directory()?;
        // The first key set of the owner takes the place of the initial keys, which everybody may know.
        let old = match replaces {
            0 if !initial && directory.contains(KVN_INITIAL) => Some(KVN_INITIAL),
            0 => None,
            replaced => {
                if !is_scp(replaced) || !self.record(replaced)?.is_alike(&record) {
                    return Err(if is_scp(replaced) {
                        wrong_data()
                    } else {
                        not_found()
                    });
                }
                Some(replaced)
            }
        };
        if old != Some(kvn) && directory.contains(kvn) {
            return Err(wrong_data());
        }
        if let Some(old) = old {
            directory.remove(old);
            self.remove_record(old)?;
        }
        if directory.default == 0 || old == Some(directory.default) {
            directory.default = kvn;
        }
        directory.add(kvn)?;
        self.put_record(kvn, &record)?;
        self.put_directory(&directory)
    }

    /// PUT KEY with one key, which must be one of the broadcast update's: adds it (`replaces` 00) or replaces it in its own version.
    pub(crate) fn put_single(
        &mut self,
        replaces: u8,
        kvn: u8,
        kid: u8,
        kind: u8,
        value: &[u8],
    ) -> Result<(), Refusal> {
        if single_key_type(kvn) != Some(kind) || kid != KID_FIRST {
            return Err(wrong_data());
        }
        let mut record = KeyRecord::new();
        record.push(kid, kind, value)?;
        let mut directory = self.directory()?;
        match replaces {
            0 if directory.contains(kvn) => return Err(wrong_data()),
            0 => directory.add(kvn)?,
            _ if !self.record(replaces)?.is_alike(&record) || replaces != kvn => return Err(wrong_data()),
            _ => {}
        }
        self.put_record(kvn, &record)?;
        self.put_directory(&directory)
    }

    /// DELETE `[key]`: a whole version. Its last SCP03 key set cannot go (6985): nobody could open a secure channel any more.
    pub(crate) fn delete(&mut self, kvn: u8, kid: Option<u8>) -> Result<(), Refusal> {
        let mut directory = self.directory()?;
        let record = self.record(kvn)?;
        if let Some(kid) = kid {
            if !record.keys().any(|key| key.kid == kid) {
                return Err(not_found());
            }
            if is_scp(kvn) {
                // A key set is kept or deleted as a whole.
                return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
            }
        }
        directory.remove(kvn);
        if is_scp(kvn) {
            let left = directory
                .scp()
                .next()
                .ok_or(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))?;
            if directory.default == kvn {
                directory.default = left;
            }
        }
        self.remove_record(kvn)?;
        self.put_directory(&directory)
    }

    /// Deletes all keys: the SE is terminated.
    pub(crate) fn delete_all(&mut self) -> Result<(), Refusal> {
        let directory = self.directory()?;
        for kvn in directory.versions() {
            self.remove_record(*kvn)?;
        }
        self.put_directory(&Directory {
            default: 0,
            versions: [0; VERSIONS_MAX],
            len: 0,
        })
    }

    /// The value of the key information template (GPC 11.3.3.1.1): for each key KID, KVN, type and length.
    pub(crate) fn information(&mut self, out: &mut Writer<'_>) -> Result<(), Refusal> {
        for kvn in self.directory()?.versions() {
            let record = self.record(*kvn)?;
            for key in record.keys() {
                out.tlv_with(tag::KEY_INFORMATION, |w| {
                    w.bytes(&[key.kid, *kvn, key.kind])?;
                    let len = u8::try_from(key.value.len()).unwrap_or_default();
                    if key.kind == key_type::ECC_PUBLIC {
                        // Without the coding identifier 04; then the curve by reference, P-256 (GPC 11.3.3.1.1, B.4.2).
                        w.bytes(&[len.saturating_sub(1), key_type::ECC_PARAMETERS_REFERENCE, 0x00])
                    } else {
                        w.u8(len)
                    }
                })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvm::tests::Bench;

    fn set(first: u8, len: usize) -> KeySet {
        let key = |byte: u8| AesKey::new(&[byte; 32][..len]).unwrap();
        KeySet {
            enc: key(first),
            mac: key(first + 1),
            dek: key(first + 2),
        }
    }

    fn sw<T>(result: Result<T, Refusal>) -> u16 {
        result.err().map_or(0x9000, |refusal| refusal.0.0)
    }

    #[test]
    fn a_sequence_counter_counts_to_its_end_and_no_further() {
        let mut bench = Bench::new();
        let mut records = bench.records(1);
        let mut keys = KeyStore(&mut records);
        keys.put_scp_set(0, 0x30, &set(1, 16)).unwrap();
        assert_eq!(keys.next_sequence(0x30), Ok(1));
        keys.put_sequence(0x30, SEQUENCE_MAX - 1).unwrap();
        assert_eq!(keys.next_sequence(0x30), Ok(SEQUENCE_MAX));
        assert_eq!(sw(keys.next_sequence(0x30)), 0x6985);
        assert_eq!(keys.sequence(0x30), Ok(SEQUENCE_MAX));
        // A replaced key set starts again.
        keys.put_scp_set(0x30, 0x30, &set(4, 16)).unwrap();
        assert_eq!(keys.next_sequence(0x30), Ok(1));
        assert_eq!(sw(keys.next_sequence(0x31)), 0x6A88);
    }

    #[test]
    fn the_default_version_follows_the_keys() {
        let mut bench = Bench::new();
        let mut records = bench.records(1);
        let mut keys = KeyStore(&mut records);
        assert_eq!(sw(keys.resolve(0)), 0x6A88);
        keys.put_scp_set(0, 0x30, &set(1, 16)).unwrap();
        keys.put_scp_set(0, 0x20, &set(4, 32)).unwrap();
        assert_eq!(keys.resolve(0), Ok(0x30));
        keys.put_scp_set(0x30, 0x31, &set(7, 16)).unwrap();
        assert_eq!(keys.resolve(0), Ok(0x31));
        keys.delete(0x31, None).unwrap();
        assert_eq!(keys.resolve(0), Ok(0x20));
        assert_eq!(sw(keys.delete(0x20, None)), 0x6985);
        keys.delete_all().unwrap();
        assert_eq!(sw(keys.resolve(0)), 0x6A88);
        assert_eq!(sw(keys.scp_set(0x20)), 0x6A88);
    }

    #[test]
    fn a_key_serves_its_own_purpose_alone() {
        let mut bench = Bench::new();
        let mut records = bench.records(1);
        let mut keys = KeyStore(&mut records);
        keys.put_single(0, KVN_KOS, KID_FIRST, key_type::AES, &[0x61; 16])
            .unwrap();
        keys.put_scp_set(0, 0x30, &set(1, 16)).unwrap();
        // Keys of the update open no secure channel, and no other key is read as the designer's.
        assert_eq!(sw(keys.scp_set(KVN_KOS)), 0x6A88);
        assert_eq!(sw(keys.designer()), 0x6A88);
        assert_eq!(sw(keys.put_scp_set(0, KVN_K_AUT, &set(1, 16))), 0x6A80);
        assert_eq!(sw(keys.put_scp_set(KVN_KOS, 0x32, &set(1, 16))), 0x6A88);
        assert_eq!(
            sw(keys.put_single(0, KVN_DESIGNER, KID_FIRST, key_type::AES, &[1; 16])),
            0x6A80
        );
        assert_eq!(
            sw(keys.put_single(0, 0x33, KID_FIRST, key_type::AES, &[1; 16])),
            0x6A80
        );
        // One length for the three keys of a set (Amd D 6.1).
        let mixed = KeySet {
            dek: AesKey::new(&[3; 32]).unwrap(),
            ..set(1, 16)
        };
        assert_eq!(sw(keys.put_scp_set(0, 0x33, &mixed)), 0x6A80);
        assert_eq!(sw(keys.put_scp_set(0x30, 0x30, &set(1, 32))), 0x6A80);
    }
}
