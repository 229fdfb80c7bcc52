//! The services that the operating system gives to security domains: their own keys, data and secure channels ([`SecurityDomain`]), content management and what else is the
//! whole card's ([`Open`]), and what is the platform's ([`PlatformServices`]).
//!
//! What they write takes effect when the command succeeds, all of it or nothing.

mod channel;
mod update;

use sekisho_apdu::gp::{ApplicationLifeCycle, CardLifeCycle, Privileges};
use sekisho_apdu::{Aid, StatusWord, Writer};
use sekisho_scp::ScpParameter;

use crate::application::{Context, MESSAGING_POLICY};
use crate::call::Caller;
use crate::container::{CardRecord, store_entry};
use crate::interface::ContainerId;
use crate::keys::{KID_FIRST, KVN_INITIAL, KVN_KOS, KeyRecord, KeyStore, is_platforms};
use crate::messaging::Revoked;
use crate::names::{EntryId, Owner, RecordKey, RecordKind};
use crate::nvm::RESERVE;
use crate::profile::Profile;
use crate::refusal::Refusal;
use crate::registry::{Entry, ISD_INDEX, Registry};
use crate::secure::KeyRef;

impl<'a> Context<'a> {
    /// The services of a security domain: `None` for whatever is no security domain, and for whoever is asked by another application.
    pub fn security_domain(&mut self) -> Option<SecurityDomain<'_, 'a>> {
        if !matches!(self.caller, Caller::Interface(_)) {
            return None;
        }
        self.entry
            .privileges
            .contains(Privileges::SECURITY_DOMAIN)
            .then_some(SecurityDomain { context: self })
    }
}

/// A security domain, during one command's processing: what is its own, and no more.
pub struct SecurityDomain<'c, 'a> {
    pub(crate) context: &'c mut Context<'a>,
}

/// Who authorises a change of what is the whole card's (GPC 9.1.3). It is made of the proof that a command brought, in [`SecurityDomain::open`] alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authorisation {
    /// The security domain's own provider, by this key set.
    OwnManagement(KeyRef),
}

/// OPEN: content management and life cycles, during one command's processing, with who has authorised it.
pub struct Open<'c, 'a> {
    context: &'c mut Context<'a>,
    by: Authorisation,
}

fn has(entry: &Entry, privilege: Privileges) -> Result<(), Refusal> {
    if entry.privileges.contains(privilege) {
        Ok(())
    } else {
        Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))
    }
}

/// What a transition of the card's life cycle takes, beside Authorized Management (GPC Table 6-1).
const fn privilege_for(present: CardLifeCycle, next: CardLifeCycle) -> Privileges {
    match (present, next) {
        (_, CardLifeCycle::Terminated) => Privileges::CARD_TERMINATE,
        (CardLifeCycle::CardLocked, _) | (_, CardLifeCycle::CardLocked) => Privileges::CARD_LOCK,
        _ => Privileges::AUTHORIZED_MANAGEMENT,
    }
}

/// The data objects that a terminated card goes on answering: IIN, CIN and the policy for readers; none is longer than this.
const KEPT: [u16; 3] = [0x0042, 0x0045, MESSAGING_POLICY];
const KEPT_MAX: usize = 32;

const fn object_of(domain: EntryId, tag: u16) -> RecordKey {
    RecordKey::new(Owner::Entry(domain), RecordKind::DataObject, tag)
}

impl Open<'_, '_> {
    /// Who has authorised it.
    pub const fn authorisation(&self) -> Authorisation {
        self.by
    }

    /// Changes the card's life cycle state. On the way to TERMINATED all keys of all security domains of the container go, and with the eSE's those of the
    /// platform: nothing can use them any more.
    ///
    /// # Errors
    /// 6985 without the privilege for it, for a transition that GPC 5.1.1 does not allow, or one to the present state (GPC 11.10.2.2).
    pub fn set_life_cycle(&mut self, next: CardLifeCycle) -> Result<(), Refusal> {
        let present = self.context.system.container.card.life_cycle;
        has(self.context.entry, privilege_for(present, next))?;
        if !present.may_become(next) {
            return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        if next == CardLifeCycle::Terminated {
            self.delete_all_keys()?;
        }
        let card = CardRecord {
            life_cycle: next,
            ..self.context.system.container.card
        };
        card.store(&mut self.context.records, self.context.system.container.id)?;
        self.context.system.effects.reload = true;
        self.context.system.effects.essential = true;
        Ok(())
    }

    /// Removes all that the security domains of the container keep, but for what GET DATA goes on answering (GPC 5.1.1.5).
    fn delete_all_keys(&mut self) -> Result<(), Refusal> {
        let container = self.context.system.container;
        let records = &mut self.context.records;
        let mut kept = [(0, [0; KEPT_MAX], None); KEPT.len()];
        for ((tag, value, len), object) in kept.iter_mut().zip(KEPT) {
            *tag = object;
            *len = match records.get(object_of(self.context.entry.id, object), value) {
                // Too long for GET DATA as well.
                Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY)) => None,
                found => found?,
            };
        }
        let is_domain = |entry: &Entry| entry.privileges.contains(Privileges::SECURITY_DOMAIN);
        let all = container.registry.applications();
        for (_, domain) in all.filter(|(_, entry)| is_domain(entry)) {
            records.remove_all_of(domain.id)?;
        }
        if container.id == ContainerId::ESE {
            let domain = self.context.entry.id;
            KeyStore { records, domain }.delete_platforms()?;
        }
        for (tag, value, len) in &kept {
            if let Some(value) = len.and_then(|len| value.get(..len)) {
                let object = object_of(self.context.entry.id, *tag);
                self.context.records.put(object, value)?;
            }
        }
        Ok(())
    }

    /// Locks or unlocks an application (GPC 11.10.2.2).
    ///
    /// # Errors
    /// 6A88 when there is no such application; 6985 without the privilege Global Lock, when it is in that state already, or is the issuer security domain.
    pub fn set_locked(&mut self, aid: &[u8], locked: bool) -> Result<(), Refusal> {
        has(self.context.entry, Privileges::GLOBAL_LOCK)?;
        let found = self
            .context
            .system
            .container
            .registry
            .application(aid)
            .ok_or(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND))?;
        let (index, entry) = (found.0, *found.1);
        let life_cycle = ApplicationLifeCycle(entry.life_cycle);
        if index == ISD_INDEX || life_cycle.is_locked() == locked {
            return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        let entry = Entry {
            life_cycle: life_cycle.with_locked(locked).0,
            ..entry
        };
        let container = self.context.system.container.id;
        store_entry(&mut self.context.records, container, index, &entry)?;
        self.context.system.effects.reload = true;
        self.context.system.effects.essential = true;
        Ok(())
    }
}

/// What belongs to the platform, during one command's processing: the OS part, the keys that it is under, and the modes of the secure channel that
/// bring a new one. It is neither the security domain's nor content management's.
pub struct PlatformServices<'c, 'a> {
    pub(crate) context: &'c mut Context<'a>,
}

impl<'a> SecurityDomain<'_, 'a> {
    fn keys(&mut self) -> KeyStore<'_, 'a> {
        KeyStore {
            domain: self.context.entry.id,
            records: &mut self.context.records,
        }
    }

    /// What goes with a key set of this domain that is replaced or deleted.
    const fn revoked(&self, kvn: u8) -> Revoked {
        let domain = self.context.instance();
        Revoked::KeySet(KeyRef { domain, kvn })
    }

    const fn object(&self, tag: u16) -> RecordKey {
        object_of(self.context.entry.id, tag)
    }

    /// The product's constants.
    pub const fn profile(&self) -> &Profile {
        self.context.system.profile
    }

    /// Its AID.
    pub const fn aid(&self) -> Aid {
        self.context.entry.aid
    }

    /// The SE-id: key diversification data (GET DATA 00CF).
    pub const fn se_id(&self) -> &[u8; 10] {
        &self.context.system.container.card.se_id
    }

    /// SCP03 parameter "i" of the SE.
    pub const fn scp_parameter(&self) -> ScpParameter {
        self.context.system.container.card.scp
    }

    /// The card's life cycle state.
    pub const fn life_cycle(&self) -> CardLifeCycle {
        self.context.system.container.card.life_cycle
    }

    /// The container's registry, for a domain that may see it.
    ///
    /// # Errors
    /// 6985 without the privilege Global Registry.
    pub fn registry(&self) -> Result<&Registry, Refusal> {
        self.has(Privileges::GLOBAL_REGISTRY)?;
        Ok(&self.context.system.container.registry)
    }

    fn has(&self, privilege: Privileges) -> Result<(), Refusal> {
        has(self.context.entry, privilege)
    }

    /// Content management, and what else is the whole card's, as who has sent the command has authorised it.
    ///
    /// # Errors
    /// 6982 unless the command came through the domain's secure channel, with a C-MAC; 6985 without the privilege Authorized Management.
    pub fn open(&mut self) -> Result<Open<'_, 'a>, Refusal> {
        let refused = Refusal(StatusWord::SECURITY_STATUS_NOT_SATISFIED);
        let proof = self.context.authenticated().ok_or(refused)?;
        if proof.domain() != self.context.instance() || !proof.level().c_mac() {
            return Err(refused);
        }
        let by = Authorisation::OwnManagement(proof.key());
        self.has(Privileges::AUTHORIZED_MANAGEMENT)?;
        Ok(Open {
            context: self.context,
            by,
        })
    }

    /// Reads the value of a stored data object into `out`: its length, or `None` when nothing was stored.
    ///
    /// # Errors
    /// 6581 when the flash fails, 6A84 when `out` is too small.
    pub fn data_object(&mut self, tag: u16, out: &mut [u8]) -> Result<Option<usize>, Refusal> {
        self.context.records.get(self.object(tag), out)
    }

    /// Stores the value of a data object. With the policy for readers ([`MESSAGING_POLICY`]) all secure messaging ends that was opened under the
    /// one before.
    ///
    /// # Errors
    /// 6A84; 6985 for that policy in a domain that is not the issuer security domain.
    pub fn store_data_object(&mut self, tag: u16, value: &[u8]) -> Result<(), Refusal> {
        if tag == MESSAGING_POLICY {
            // It is the container's.
            if self.context.system.container.root() != Some(self.context.entry.id) {
                return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
            }
            let container = self.context.container();
            self.context.system.effects.revoke(Revoked::All(container));
        }
        self.context.records.put(self.object(tag), value)
    }

    /// Writes the value of key information template number `index` (GPC 11.3.3.1.1).
    ///
    /// # Errors
    /// 6A88 behind the last template; 6581, 6A84.
    pub fn key_information(&mut self, index: u8, out: &mut Writer<'_>) -> Result<(), Refusal> {
        self.keys().information(index, out)
    }

    /// The last sequence counter of the default key set (GET DATA 00C1).
    ///
    /// # Errors
    /// 6A88 when there is no key set.
    pub fn sequence_counter(&mut self) -> Result<u32, Refusal> {
        let kvn = self.keys().resolve(0)?;
        self.keys().sequence(kvn)
    }

    /// PUT KEY: adds keys to version `kvn` (`replaces` 00), or puts them in the place of keys of version `replaces`, which has the number `kvn`
    /// from then on. The first whole key set of the owner takes the place of the initial keys, version FF.
    ///
    /// # Errors
    /// 6985 for a version of the platform (61 to 64); 6A88 when there is nothing to replace; 6A80 for a version or a key that cannot be there,
    /// a key that is there already or of another type, or one whose value stands in another version; 6A84.
    pub fn put_keys(&mut self, replaces: u8, kvn: u8, keys: &KeyRecord) -> Result<(), Refusal> {
        self.leave_platform(replaces)?;
        self.leave_platform(kvn)?;
        if kvn == KVN_INITIAL {
            // Initial keys come from the factory.
            return Err(Refusal(StatusWord::INCORRECT_DATA));
        }
        let replaced = self.keys().put(replaces, kvn, keys)?;
        if let Some(kvn) = replaced {
            let revoked = self.revoked(kvn);
            self.context.system.effects.revoke(revoked);
        }
        Ok(())
    }

    /// Kos, `K_MAC` and the designer's key are no business of who holds SCP03 keys, whether they are there or not.
    ///
    /// # Errors
    /// 6985 for a version of the platform (61 to 64).
    pub const fn leave_platform(&self, kvn: u8) -> Result<(), Refusal> {
        if is_platforms(kvn) {
            Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))
        } else {
            Ok(())
        }
    }

    /// DELETE `[key]`: a key version, its key `kid`, or the keys `kid` of all versions.
    ///
    /// # Errors
    /// 6985 for a version of the platform, for the last SCP03 key set and for a part of one; 6A88 when there is no such key.
    pub fn delete_keys(&mut self, kvn: Option<u8>, kid: Option<u8>) -> Result<(), Refusal> {
        self.context.system.effects.essential = true;
        match kvn {
            Some(kvn) => self.leave_platform(kvn)?,
            None if kid == Some(KID_FIRST) => self.leave_platform(KVN_KOS)?,
            None => {}
        }
        // A part of a key set cannot be deleted: whole ones are named by their version.
        if let Some(kvn) = kvn {
            let revoked = self.revoked(kvn);
            self.context.system.effects.revoke(revoked);
        }
        self.keys().delete(kvn, kid)
    }

    /// RAM that the product's budget leaves beside the operating system's own state, in bytes.
    pub const fn free_ram(&self) -> usize {
        self.context.system.free_ram
    }

    /// NVM that is left for records, in bytes; what is kept in reserve does not count.
    pub fn free_nvm(&self) -> usize {
        self.context.records.nvm.store.free().saturating_sub(RESERVE)
    }
}
