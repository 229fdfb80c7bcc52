//! The services that the operating system gives to security domains: their own keys, data and secure channels ([`SecurityDomain`]), life cycles ([`Open`]) and content
//! management ([`ContentManagement`]), and what is the platform's ([`PlatformServices`]).
//!
//! What they write takes effect when the command succeeds, all of it or nothing.

mod channel;
mod manage;
mod privileges;
mod update;

use manage::put_entry;
pub use manage::{ContentManagement, NewApplication, NewLoadFile, Open, Token};
pub use privileges::RegistryUpdate;

use sekisho_apdu::gp::{CardLifeCycle, Privileges, SecurityDomainLifeCycle};
use sekisho_apdu::{Aid, StatusWord, Writer};
use sekisho_scp::ScpParameter;

use crate::application::{Context, MESSAGING_POLICY};
use crate::call::Caller;
use crate::code::Code;
use crate::container::Container;
use crate::identification;
use crate::keys::{KID_FIRST, KVN_INITIAL, KVN_KOS, KeyRecord, KeyStore, is_platforms};
use crate::messaging::Revoked;
use crate::names::{EntryId, Owner, RecordKey, RecordKind};
use crate::profile::Profile;
use crate::refusal::Refusal;
use crate::registry::{Entry, ISD_INDEX, RegistryView};
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

const fn object_of(domain: EntryId, tag: u16) -> RecordKey {
    RecordKey::new(Owner::Entry(domain), RecordKind::DataObject, tag)
}

/// What belongs to the platform, during one command's processing: the OS part, the keys that it is under, and the modes of the secure channel that
/// bring a new one. It is neither the security domain's nor content management's.
pub struct PlatformServices<'c, 'a> {
    pub(crate) context: &'c mut Context<'a>,
}

impl<'a> SecurityDomain<'_, 'a> {
    fn keys(&mut self) -> KeyStore<'_, 'a> {
        self.keys_of(self.context.entry.id)
    }

    fn keys_of(&mut self, domain: EntryId) -> KeyStore<'_, 'a> {
        KeyStore {
            domain,
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

    /// The container's registry, as far as the domain may see it: with the privilege Global Registry all, else what is within it.
    pub fn registry(&self) -> RegistryView<'a> {
        let container: &'a Container = self.context.system.container;
        let registry = &container.registry;
        match registry.entry(self.context.entry.id) {
            Some((own, entry)) if !entry.privileges.contains(Privileges::GLOBAL_REGISTRY) => {
                registry.of_domain(own)
            }
            _ => registry.whole(),
        }
    }

    /// The version of an executable load file: `None` for one that came with the operating system.
    ///
    /// # Errors
    /// 6581.
    #[inline(never)]
    pub fn version(&mut self, load_file: &Entry) -> Result<Option<u32>, Refusal> {
        let code = Code::load(&mut self.context.records, load_file.id)?;
        Ok(code.map(|code| code.version))
    }

    /// Reads the value of a stored data object into `out`: its length, or `None` when nothing was stored.
    ///
    /// # Errors
    /// 6581 when the flash fails, 6A84 when `out` is too small.
    pub fn data_object(&mut self, tag: u16, out: &mut [u8]) -> Result<Option<usize>, Refusal> {
        self.context.records.get(self.object(tag), out)
    }

    /// Appends its IIN or CIN ([`IIN`](crate::IIN), [`CIN`](crate::CIN)).
    ///
    /// # Errors
    /// 6581; 6A84 when it does not fit.
    pub fn identification(&mut self, tag: u16, out: &mut Writer<'_>) -> Result<(), Refusal> {
        let (domain, se_id) = (self.context.entry.id, &self.context.system.container.card.se_id);
        identification::append(&mut self.context.records, domain, tag, se_id, out)
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
        let used = self.used_before()?;
        let replaced = self.keys().put_behind(used, replaces, kvn, keys)?;
        if let Some(kvn) = replaced {
            let revoked = self.revoked(kvn);
            self.context.system.effects.revoke(revoked);
        }
        self.personalise()
    }

    /// For a domain that has no key set yet, the highest counter that domains of its container have ever used: a domain above opened its channels, or one of its name
    /// had the keys that come now.
    #[inline(never)]
    fn used_before(&mut self) -> Result<u32, Refusal> {
        if self.keys().has_set()? {
            return Ok(0);
        }
        let container = self.context.system.container;
        let mut used = self.keys().highest_gone(container.id)?;
        for (_, entry) in container.registry.applications() {
            if entry.privileges.contains(Privileges::SECURITY_DOMAIN) {
                used = used.max(self.keys_of(entry.id).highest()?);
            }
        }
        Ok(used)
    }

    /// A supplementary domain is PERSONALIZED with its first key set (GPC 5.3.1.4); whoever has opened its secure channel with the keys of a domain above it
    /// elsewhere is not authenticated any more.
    fn personalise(&mut self) -> Result<(), Refusal> {
        let entry = *self.context.entry;
        let registry = &self.context.system.container.registry;
        let index = registry.entry(entry.id).map(|(index, _)| index);
        match index {
            Some(index)
                if index != ISD_INDEX
                    && entry.life_cycle == SecurityDomainLifeCycle::SELECTABLE.0
                    && self.keys().has_set()? =>
            {
                let entry = Entry {
                    life_cycle: SecurityDomainLifeCycle::PERSONALIZED.0,
                    ..entry
                };
                put_entry(self.context, index, &entry)
            }
            _ => Ok(()),
        }
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

    /// NVM that is left for records of the container, in bytes; what is kept in reserve or for anybody does not count.
    ///
    /// # Errors
    /// 6581.
    pub fn free_nvm(&self) -> Result<usize, Refusal> {
        self.context
            .records
            .nvm
            .free_for(self.context.system.container.id)
    }
}
