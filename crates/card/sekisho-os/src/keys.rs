//! The key store of a security domain: SCP03 key sets with their sequence counters, the keys of the broadcast update, and others that PUT KEY
//! brings (`docs/spec/keys.md`).
//!
//! One record for each key version, so that a key set changes as a whole. A directory record says which versions there are and which one
//! INITIALIZE UPDATE means by KVN 00.
//!
//! **No sequence counter is used twice with one value of Key-ENC or Key-MAC.** Whatever changes the keys of a version makes it go on from the
//! highest counter that the security domain has ever used, and no value stands in two versions at once: so a value that comes back, wherever,
//! comes back with a counter that nothing was derived from before. The first set of a domain goes on from the highest that any domain of its container has
//! used, those that are gone included: one of its AID may have had these values, and a domain above has opened its channels with its own. So does whatever opens
//! the channel of a domain below it.

mod numbers;
mod record;

use sekisho_apdu::gp::key_type;
use sekisho_apdu::tlv::Tlv;
use sekisho_apdu::{Reader, StatusWord, Writer};
use sekisho_keys::p256sig::VerifyingKey;
use sekisho_keys::{AesKey, KeySet};

use crate::interface::ContainerId;
use crate::names::{EntryId, Owner, RecordKey, RecordKind};
use crate::nvm::Records;
use crate::refusal::Refusal;
pub(crate) use numbers::{KID_FIRST, KVN_DAP, KVN_RECEIPT, KVN_TOKEN, is_platforms};
use numbers::{KID_LAST, PLATFORMS, is_scp, may_become, not_found, wrong_data};
pub use numbers::{KVN_DESIGNER, KVN_INITIAL, KVN_K_AUT, KVN_K_MAC, KVN_KOS, KVN_PAIRING};
pub use record::KeyRecord;
use record::{Directory, VERSIONS_MAX};

/// Longest value of a key information template: with tag and length 239 bytes, which after padding and with the R-MAC of S16 fit a short
/// response.
const TEMPLATE_VALUE_MAX: usize = 236;
/// Longest key information of one version: 16 keys, more of which no record holds.
const VERSION_INFORMATION_MAX: usize = 128;

/// The sequence counter has three bytes (Amd D 6.2.2.1).
const SEQUENCE_MAX: u32 = 0x00FF_FFFF;

const fn not_allowed() -> Refusal {
    Refusal(StatusWord::CONDITIONS_NOT_SATISFIED)
}

/// Whether these keys may stand in a version.
fn may_stand(kvn: u8, record: &KeyRecord) -> bool {
    match kvn {
        KVN_K_AUT | KVN_KOS | KVN_K_MAC | KVN_PAIRING => record.is_single(KID_FIRST, key_type::AES),
        KVN_DESIGNER => record.is_single(KID_FIRST, key_type::ECC_PUBLIC),
        KVN_INITIAL => record.set().is_ok(),
        0x01..=0x5F => record.is_of_one_length(),
        0x65..=0x7F => true,
        _ => false,
    }
}

/// The name of the record of what domains of a container have used that are gone.
pub(crate) const fn gone(container: ContainerId) -> RecordKey {
    RecordKey::new(Owner::Container(container), RecordKind::HighestSequence, 0)
}

fn write_counter(records: &mut Records<'_>, name: RecordKey, counter: u32) -> Result<(), Refusal> {
    let [_, counter @ ..] = counter.to_be_bytes();
    records.put(name, &counter)
}

fn read_counter(records: &mut Records<'_>, name: RecordKey) -> Result<Option<u32>, Refusal> {
    let mut counter = [0; 3];
    let found = records.get(name, &mut counter)?;
    let [a, b, c] = counter;
    Ok(found.map(|_| u32::from_be_bytes([0, a, b, c])))
}

/// The key store of a security domain, through the records of the command being processed.
pub(crate) struct KeyStore<'r, 'a> {
    pub(crate) records: &'r mut Records<'a>,
    pub(crate) domain: EntryId,
}

impl KeyStore<'_, '_> {
    /// The name of a record of the domain, or of a key version of the platform.
    const fn name(&self, kind: RecordKind, index: u8) -> RecordKey {
        let owner = if is_platforms(index) {
            Owner::Platform
        } else {
            Owner::Entry(self.domain)
        };
        RecordKey::new(owner, kind, index as u16)
    }

    fn directory(&mut self) -> Result<Directory, Refusal> {
        let mut bytes = [0; 1 + VERSIONS_MAX];
        let len = self
            .records
            .get(self.name(RecordKind::KeyDirectory, 0), &mut bytes)?
            .unwrap_or(0);
        Ok(Directory::decode(bytes, len))
    }

    fn put_directory(&mut self, directory: &Directory) -> Result<(), Refusal> {
        let mut bytes = [0; 1 + VERSIONS_MAX];
        let mut w = Writer::new(&mut bytes);
        w.u8(directory.default)?;
        w.bytes(directory.versions())?;
        self.records
            .put(self.name(RecordKind::KeyDirectory, 0), w.written())
    }

    fn record(&mut self, kvn: u8) -> Result<KeyRecord, Refusal> {
        let name = self.name(RecordKind::Keys, kvn);
        KeyRecord::read(|bytes| self.records.get(name, bytes))
    }

    fn remove_record(&mut self, kvn: u8) -> Result<(), Refusal> {
        self.records.remove(self.name(RecordKind::Keys, kvn))?;
        self.records.remove(self.name(RecordKind::SequenceCounter, kvn))
    }

    fn put_counter(&mut self, kind: RecordKind, index: u8, counter: u32) -> Result<(), Refusal> {
        write_counter(self.records, self.name(kind, index), counter)
    }

    fn counter(&mut self, kind: RecordKind, index: u8) -> Result<Option<u32>, Refusal> {
        read_counter(self.records, self.name(kind, index))
    }

    /// The highest sequence counter that the security domain has ever used with any key set: what its record says, which is written when a
    /// version changes or goes, or what a version has come to since. Cards of version 0.1 have no such record before their first change.
    fn highest_sequence(&mut self, directory: &Directory) -> Result<u32, Refusal> {
        let mut highest = self.counter(RecordKind::HighestSequence, 0)?.unwrap_or(0);
        for kvn in directory.scp() {
            let standing = self.counter(RecordKind::SequenceCounter, kvn)?.unwrap_or(0);
            highest = highest.max(standing);
        }
        Ok(highest)
    }

    /// The highest counter that the security domain has ever used.
    pub(crate) fn highest(&mut self) -> Result<u32, Refusal> {
        let directory = self.directory()?;
        self.highest_sequence(&directory)
    }

    /// The highest counter that security domains of a container have used which are gone.
    pub(crate) fn highest_gone(&mut self, container: ContainerId) -> Result<u32, Refusal> {
        Ok(read_counter(self.records, gone(container))?.unwrap_or(0))
    }

    /// The security domain is about to go: what it has used stays used.
    pub(crate) fn leave(&mut self, container: ContainerId) -> Result<(), Refusal> {
        let (own, before) = (self.highest()?, self.highest_gone(container)?);
        if own <= before {
            return Ok(());
        }
        write_counter(self.records, gone(container), own)
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

    /// Whether there is a key set that opens a secure channel.
    pub(crate) fn has_set(&mut self) -> Result<bool, Refusal> {
        Ok(self.directory()?.default != 0)
    }

    fn is_set(&mut self, kvn: u8) -> bool {
        self.scp_set(kvn).is_ok()
    }

    /// The last sequence counter used with a version; with one that is new, the highest used with any.
    pub(crate) fn sequence(&mut self, kvn: u8) -> Result<u32, Refusal> {
        self.counter(RecordKind::SequenceCounter, kvn)?.ok_or(not_found())
    }

    /// Counts up and gives the counter to use: 6985 when it is used up (Amd D 6.2.2.1).
    pub(crate) fn next_sequence(&mut self, kvn: u8) -> Result<u32, Refusal> {
        self.next_sequence_behind(0, kvn)
    }

    /// The same, where counters up to `used` have been used with these values elsewhere.
    pub(crate) fn next_sequence_behind(&mut self, used: u32, kvn: u8) -> Result<u32, Refusal> {
        let next = self.sequence(kvn)?.max(used) + 1;
        if next > SEQUENCE_MAX {
            return Err(not_allowed());
        }
        self.put_counter(RecordKind::SequenceCounter, kvn, next)?;
        Ok(next)
    }

    /// The AES key that is the first of its version.
    pub(crate) fn single_aes(&mut self, kvn: u8) -> Result<AesKey, Refusal> {
        self.record(kvn)?.aes(KID_FIRST)
    }

    /// The designer's public key.
    pub(crate) fn designer(&mut self) -> Result<VerifyingKey, Refusal> {
        self.public(KVN_DESIGNER)
    }

    /// The public key on P-256 that is the first of its version.
    pub(crate) fn public(&mut self, kvn: u8) -> Result<VerifyingKey, Refusal> {
        let record = self.record(kvn)?;
        let key = record
            .keys()
            .find(|key| key.kid == KID_FIRST && key.kind == key_type::ECC_PUBLIC)
            .ok_or(not_found())?;
        let point = key.value.try_into().map_err(|_| not_found())?;
        VerifyingKey::from_sec1(point).map_err(|_| not_found())
    }

    /// The same, of a version that verifies what somebody else has signed: 6985 where there is none.
    pub(crate) fn verifier(&mut self, kvn: u8) -> Result<VerifyingKey, Refusal> {
        self.public(kvn).map_err(|refusal| match refusal.0 {
            StatusWord::MEMORY_FAILURE => refusal,
            _ => not_allowed(),
        })
    }

    /// PUT KEY: adds keys to version `kvn` (`replaces` 00), or puts them in the place of keys of version `replaces`, which has `kvn` from then
    /// on. A key set of the owner takes the place of the initial keys, which everybody may know, as soon as it is whole.
    pub(crate) fn put(&mut self, replaces: u8, kvn: u8, new: &KeyRecord) -> Result<Option<u8>, Refusal> {
        self.put_behind(0, replaces, kvn, new)
    }

    /// The same, where counters up to `used` have been used with these values elsewhere.
    pub(crate) fn put_behind(
        &mut self,
        used: u32,
        replaces: u8,
        kvn: u8,
        new: &KeyRecord,
    ) -> Result<Option<u8>, Refusal> {
        let mut directory = self.directory()?;
        let record = self.resulting(&directory, replaces, kvn, new)?;
        if new.is_empty() || !may_stand(kvn, &record) {
            return Err(wrong_data());
        }
        let highest = self.highest_sequence(&directory)?.max(used);
        let replaced = match replaces {
            0 if directory.contains(KVN_INITIAL) && is_scp(kvn) && record.set().is_ok() => Some(KVN_INITIAL),
            0 => None,
            replaced => Some(replaced),
        };
        let old = replaced.filter(|old| *old != kvn);
        if let Some(old) = old {
            directory.remove(old);
            self.remove_record(old)?;
        }
        directory.add(kvn)?;
        if is_scp(kvn) && (KID_FIRST..=KID_LAST).any(|kid| new.has(kid)) {
            self.check_values(&directory, kvn, &record)?;
            self.put_counter(RecordKind::SequenceCounter, kvn, highest)?;
        }
        self.put_counter(RecordKind::HighestSequence, 0, highest)?;
        self.records
            .put(self.name(RecordKind::Keys, kvn), record.as_bytes())?;
        if is_scp(kvn) && record.set().is_ok() && (directory.default == 0 || old == Some(directory.default)) {
            directory.default = kvn;
        }
        self.put_directory(&directory)?;
        Ok(replaced)
    }

    /// What version `kvn` holds after PUT KEY (GPC 11.8.2.3.3): 6A88 where there is nothing to replace, 6A80 where something stands already or
    /// is of another type.
    fn resulting(
        &mut self,
        directory: &Directory,
        replaces: u8,
        kvn: u8,
        new: &KeyRecord,
    ) -> Result<KeyRecord, Refusal> {
        let old = match replaces {
            0 if directory.contains(kvn) => self.record(kvn)?,
            0 => KeyRecord::new(),
            replaced => self.record(replaced)?,
        };
        if replaces == 0 {
            let is_free = new.keys().all(|key| !old.has(key.kid));
            return if is_free { old.with(new) } else { Err(wrong_data()) };
        }
        if new.keys().any(|key| !old.has(key.kid)) {
            return Err(not_found());
        }
        let is_alike = new.keys().all(|key| new.is_alike(&old, key.kid));
        // A version gets another number as a whole, and one that nothing has yet; what opens secure channels goes on doing so.
        let is_whole = old.keys().all(|key| new.has(key.kid));
        let may_move = is_whole && !directory.contains(kvn) && may_become(replaces, kvn);
        if is_alike && (kvn == replaces || may_move) {
            old.with(new)
        } else {
            Err(wrong_data())
        }
    }

    /// 6A80 when Key-ENC or Key-MAC stands in another version too: a session of the one could be played to the other.
    fn check_values(&mut self, directory: &Directory, kvn: u8, record: &KeyRecord) -> Result<(), Refusal> {
        for other in directory.scp().filter(|other| *other != kvn) {
            if record.shares_a_value(&self.record(other)?) {
                return Err(wrong_data());
            }
        }
        Ok(())
    }

    /// DELETE `[key]`: a version, one key of it, or the keys of one KID in all versions. The last SCP03 key set cannot go, nor a part of one
    /// (6985): nobody could open a secure channel any more.
    pub(crate) fn delete(&mut self, kvn: Option<u8>, kid: Option<u8>) -> Result<(), Refusal> {
        let before = self.directory()?;
        let mut after = before;
        for version in before.versions().iter().copied() {
            if self
                .left_of(version, kvn, kid)?
                .is_some_and(|left| left.is_empty())
            {
                after.remove(version);
            }
        }
        if !after.contains(after.default) && after.default != 0 {
            let set = after.scp().find(|kvn| self.is_set(*kvn));
            after.default = set.ok_or(not_allowed())?;
        }
        let highest = self.highest_sequence(&before)?;
        let mut found = false;
        for version in before.versions().iter().copied() {
            if let Some(left) = self.left_of(version, kvn, kid)? {
                found = true;
                if left.is_empty() {
                    self.remove_record(version)?;
                } else {
                    self.records
                        .put(self.name(RecordKind::Keys, version), left.as_bytes())?;
                }
            }
        }
        if !found {
            return Err(not_found());
        }
        self.put_counter(RecordKind::HighestSequence, 0, highest)?;
        self.put_directory(&after)
    }

    /// What DELETE leaves of a version; `None` when it does not mean it.
    fn left_of(
        &mut self,
        version: u8,
        kvn: Option<u8>,
        kid: Option<u8>,
    ) -> Result<Option<KeyRecord>, Refusal> {
        let record = self.record(version)?;
        if kvn.is_some_and(|kvn| kvn != version) || kid.is_some_and(|kid| !record.has(kid)) {
            return Ok(None);
        }
        match kid {
            Some(KID_FIRST..=KID_LAST) if is_scp(version) && record.set().is_ok() => Err(not_allowed()),
            Some(kid) => Ok(Some(record.without(kid)?)),
            None => Ok(Some(KeyRecord::new())),
        }
    }

    /// Deletes the keys of the platform: the eSE is terminated.
    pub(crate) fn delete_platforms(&mut self) -> Result<(), Refusal> {
        for kvn in PLATFORMS {
            self.remove_record(kvn)?;
        }
        Ok(())
    }

    /// The value of key information template number `index` (GPC 11.3.3.1.1): whole data objects, as many as fit. 6A88 behind the last.
    pub(crate) fn information(&mut self, index: u8, out: &mut Writer<'_>) -> Result<(), Refusal> {
        let (mut template, mut len) = (0, 0);
        for kvn in self.directory()?.versions() {
            let mut of_version = [0; VERSION_INFORMATION_MAX];
            let mut w = Writer::new(&mut of_version);
            self.record(*kvn)?.information(*kvn, &mut w)?;
            let mut rest: &[u8] = w.written();
            while !rest.is_empty() {
                let mut reader = Reader::new(rest);
                Tlv::read(&mut reader)?;
                let (object, others) = rest
                    .split_at_checked(rest.len() - reader.len())
                    .ok_or(wrong_data())?;
                if len + object.len() > TEMPLATE_VALUE_MAX {
                    (template, len) = (template + 1, 0);
                }
                len += object.len();
                if template == u32::from(index) {
                    out.bytes(object)?;
                }
                rest = others;
            }
        }
        if u32::from(index) > template {
            return Err(not_found());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
