//! INSTALL [for load] and LOAD: a load file that comes by command (GPC 9.3.5; `docs/spec/loading.md`).
//!
//! One at a time in a container, from one logical channel. It ends with its last block, and with whatever else is asked there: then nothing of it is left.

use sekisho_apdu::gp::{ApplicationLifeCycle, InstallForLoad, Privileges, tag};
use sekisho_apdu::tlv::TlvReader;
use sekisho_apdu::{Aid, StatusWord, Writer};

use crate::application::Applications as _;
use crate::authorisation::Authorisation;
use crate::bulk;
use crate::container::{ContainerMemory as _, new_entry};
use crate::content::{NewFile, free};
use crate::interface::{ContainerId, Place};
use crate::keys::{KVN_DAP, KeyStore};
use crate::loader::status;
use crate::loading::{Announced, Come, Incoming};
use crate::names::EntryId;
use crate::nvm::{Records, Staged};
use crate::refusal::Refusal;
use crate::registry::{Entry, FACTORY_INDEX, Registry};
use crate::state::{Core, Platform};

const fn wrong() -> Refusal {
    Refusal(StatusWord::INCORRECT_DATA)
}

const fn refused() -> Refusal {
    Refusal(StatusWord::CONDITIONS_NOT_SATISFIED)
}

const fn no_room() -> Refusal {
    Refusal(StatusWord::NOT_ENOUGH_MEMORY)
}

/// The security domains that have to verify a load file for the domain at a registry index: that one, if it verifies what is loaded for it, and all that verify whatever is loaded (GPC 9.2.2).
fn must_verify(registry: &Registry, target: u8) -> impl Iterator<Item = EntryId> {
    let is_asked = move |(index, of): &(u8, &Entry)| {
        of.privileges.contains(Privileges::MANDATED_DAP_VERIFICATION)
            || *index == target && of.privileges.contains(Privileges::DAP_VERIFICATION)
    };
    registry.applications().filter(is_asked).map(|(_, of)| of.id)
}

/// Tags of a DAP block: the security domain's AID, and its signature (GPC Table 11-59).
const SIGNATURE: u32 = 0xC3;

/// Verifies a DAP block: the domain's key signs the digest of the load file data block as a message.
///
/// # Errors
/// 6A80 for another form, and a signature that is none on P-256; 6A88 when there is no such security domain that verifies; 6985 when it has no key for it; 6982 for a wrong signature; 6581.
fn verify_dap(
    registry: &Registry,
    dap: &[u8],
    digest: &[u8; 32],
    records: &mut Records<'_>,
) -> Result<EntryId, Refusal> {
    let mut objects = TlvReader::new(dap);
    let mut next = |wanted: u32| {
        let object = objects.next().ok_or(wrong())??;
        Some(object.value)
            .filter(|_| object.tag.0 == wanted)
            .ok_or(wrong())
    };
    let (aid, signature) = (next(tag::AID)?, next(SIGNATURE)?);
    let signature: &[u8; 64] = signature.try_into().map_err(|_| wrong())?;
    if objects.next().is_some() {
        return Err(wrong());
    }
    let is_asked = |of: &Entry| of.privileges.contains(Privileges::DAP_VERIFICATION);
    let domain = registry.application(aid).filter(|(_, of)| is_asked(of));
    let domain = domain.ok_or(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND))?.1.id;
    let key = KeyStore { records, domain }.verifier(KVN_DAP)?;
    key.verify(digest, signature)
        .map_err(|_| Refusal(StatusWord::SECURITY_STATUS_NOT_SATISFIED))?;
    Ok(domain)
}

impl<P: Platform> Core<P> {
    /// A load file has been announced; `data` is the data field of the command. Its identity is given out with the command's writes.
    #[inline(never)]
    pub(crate) fn begin_load(
        &mut self,
        (by, place, domain): (Authorisation, Place, EntryId),
        data: &[u8],
        staged: &mut Staged,
    ) -> Result<(), Refusal> {
        let container = by.domain().container;
        let fields = InstallForLoad::parse(data)?;
        let aid = Aid::new(fields.load_file).ok_or(wrong())?;
        let digest = match fields.hash {
            [] => None,
            hash => Some(hash.try_into().map_err(|_| wrong())?),
        };
        free(&self.containers.get(container).registry, FACTORY_INDEX)?;
        let loading = self.platform.applications.loading(container).ok_or(no_room())?;
        if loading.now.is_some() || self.nvm.area.pages() == 0 {
            return Err(no_room());
        }
        let mut records = Records {
            nvm: self.nvm.open(),
            staged,
        };
        // What is to be verified is the digest.
        let registry = &self.containers.get(container).registry;
        let (index, _) = registry.entry(domain).ok_or(refused())?;
        if digest.is_none() && must_verify(registry, index).next().is_some() {
            return Err(wrong());
        }
        let id = new_entry(&mut records, container)?;
        records.nvm.announce(container, id);
        loading.now = Some(Incoming::new(Announced {
            place,
            id,
            aid,
            domain,
            token: by.token(),
            digest,
        }));
        Ok(())
    }

    /// A block of it has come; behind the last one it is there, which is answered.
    #[inline(never)]
    pub(crate) fn load(
        &mut self,
        (by, place): (Authorisation, Place),
        (number, is_last): (u8, bool),
        block: &[u8],
        staged: &mut Staged,
        out: &mut Writer<'_>,
    ) -> Result<(), Refusal> {
        let container = by.domain().container;
        let registry = &self.containers.get(container).registry;
        let mut records = Records {
            nvm: self.nvm.open(),
            staged: &mut *staged,
        };
        let loading = self.platform.applications.loading(container);
        let now = loading.and_then(|loading| loading.now.as_mut());
        let now = now.filter(|now| now.announced.place == place).ok_or(refused())?;
        now.take(number, block, &mut records, |dap, digest, records| {
            verify_dap(registry, dap, digest, records)
        })?;
        if !is_last {
            return Ok(());
        }
        let come = now.finish().ok_or(wrong())?;
        let done = self.complete(by, &come, staged);
        if done.is_err() {
            self.nvm.area.release(&come.writing);
        }
        self.forget_load(container);
        done?;
        let registry = &self.containers.get(container).registry;
        let Announced {
            aid, domain, token, ..
        } = come.announced;
        let by = by.by_token(token);
        let domain = registry.entry(domain).ok_or(refused())?.1.aid;
        self.confirm(by, &[aid.as_bytes(), domain.as_bytes()], staged, out)
    }

    /// Makes a load file whole. What ran here before, whatever it may be that has come, runs as before.
    #[inline(never)]
    fn complete(&mut self, by: Authorisation, come: &Come, staged: &mut Staged) -> Result<(), Refusal> {
        let Announced { id, aid, domain, .. } = come.announced;
        if !come.is_announced {
            return Err(wrong());
        }
        let registry = &self.containers.get(by.domain().container).registry;
        let gone = Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND);
        let (domain, of) = registry.entry(domain).ok_or(gone)?;
        if ApplicationLifeCycle(of.life_cycle).is_locked() {
            return Err(refused());
        }
        if must_verify(registry, domain).any(|id| !come.verified.contains(&Some(id))) {
            return Err(refused());
        }
        let file = NewFile {
            id,
            aid,
            module: come.described.module,
            version: come.described.version.into(),
            domain,
        };
        let added = self.add_file(by, &file, (&come.writing, &come.digest), staged);
        added.map_err(|refusal| {
            if refusal.0 == status::CODE {
                wrong()
            } else {
                refusal
            }
        })
    }

    /// There is no load under way in a container any more.
    fn forget_load(&mut self, container: ContainerId) {
        if let Some(loading) = self.platform.applications.loading(container) {
            loading.now = None;
        }
    }

    /// Gives up what is being loaded from the places that are gone: it is wiped behind the next command, or at the next start. Whether there was any.
    #[inline(never)]
    pub(crate) fn give_loads_up(&mut self, is_gone: impl Fn(Place) -> bool) -> bool {
        let count = self.containers.table.all().len();
        let all = (1..).take(count).map(ContainerId);
        // All of them.
        all.filter(|container| self.give_load_up(*container, &is_gone))
            .count()
            > 0
    }

    /// The same of one container.
    pub(crate) fn give_load_up(&mut self, container: ContainerId, is_gone: impl Fn(Place) -> bool) -> bool {
        let loading = self.platform.applications.loading(container);
        let now = loading.and_then(|loading| loading.now.take_if(|now| is_gone(now.announced.place)));
        if let Some(writing) = now.as_ref().and_then(Incoming::writing) {
            self.nvm.area.release(writing);
        }
        now.is_some()
    }

    /// Gives up what is being loaded from a place, and wipes it.
    pub(crate) fn end_load(&mut self, place: Place) {
        if self.give_loads_up(|from| from == place) {
            self.on &= bulk::settle(&mut self.nvm.open()).is_ok();
        }
    }
}
