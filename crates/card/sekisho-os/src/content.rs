//! Applications that come and go after the factory.
//!
//! An application exists when its registry entry does. What is written before that, and what is left after the entry has gone, is named by one
//! record, the *leftovers*, which stands for as long as there may be any: it is written first and removed last, and a boot that finds it removes
//! them. So installing and deleting take as many transactions as there are records, and a power cut leaves the application whole or nothing of it.
//!
//! Who may install and delete is decided where an [`Authorisation`] is made; nothing comes or goes here without one.

mod deleting;

use sekisho_apdu::gp::{ApplicationLifeCycle, Install, Privileges, SecurityDomainLifeCycle, tag};
use sekisho_apdu::tlv::{Tlv, find};
use sekisho_apdu::{Aid, Reader, StatusWord, Writer};
use sekisho_keys::{KeySet, sha256};
use sekisho_nvm::area::Writing;

use deleting::Leaving;

use crate::application::{Application, Applications, Context, Effects, Protection};
use crate::authorisation::{Authorisation, Order};
use crate::bulk;
use crate::call::Caller;
use crate::code;
use crate::container::{new_entry, store_entry, store_quota};
use crate::dispatch::Called;
use crate::element::SecureElement;
use crate::interface::{ContainerId, Interface, Place};
use crate::keys::{KeyRecord, KeyStore};
use crate::leftovers;
use crate::manufacture::{FactoryApplication, OwnRecord};
use crate::names::EntryId;
use crate::nvm::{Quota, RECORDS_AT_A_TIME, Records, Staged, own};
use crate::profile::Profile;
use crate::receipt::{self, NO_RECEIPT};
use crate::refusal::Refusal;
use crate::registry::{
    ENTRIES_MAX, Entry, EntryKind, FACTORY_INDEX, ISD_INDEX, ImplicitSelection, Instance, InterfaceAccess,
    Module, Registry,
};
use crate::stack::{Depth, Stack};
use crate::state::{Core, Platform};

/// The key set that a security domain is installed with, and its version; an application has none.
type Keys<'a> = Option<(u8, &'a KeySet)>;

/// An executable load file: code for applications of a container.
#[derive(Debug)]
pub struct LoadFile<'a> {
    /// Its AID.
    pub aid: Aid,
    /// AID of the one module in it.
    pub module_aid: Aid,
    /// What the module is told as its version.
    pub version: u32,
    /// A WebAssembly module (`docs/spec/applications.md`).
    pub image: &'a [u8],
}

/// Where an application comes from.
#[derive(Clone, Copy)]
enum Origin {
    /// The load file at a registry index.
    There(u8),
    /// The one with this AID: it has been loaded, or comes with the application and has it as its module.
    Named(Aid),
}

/// What is to be installed.
struct Installing<'a> {
    aid: Aid,
    module: Module,
    privileges: Privileges,
    access: InterfaceAccess,
    implicit: ImplicitSelection,
    life_cycle: ApplicationLifeCycle,
    load_file: Origin,
    quota: Quota,
    secure_only: bool,
    /// What it begins with: its own records, its keys, and the parameters that it is told.
    records: &'a [OwnRecord<'a>],
    keys: Keys<'a>,
    parameters: &'a [u8],
}

impl<'a> Installing<'a> {
    /// As the product describes it.
    const fn of_product(application: &FactoryApplication<'a>, keys: Keys<'a>) -> Self {
        Self {
            aid: application.aid,
            module: application.module,
            privileges: match keys {
                Some(_) => Privileges::SECURITY_DOMAIN,
                None => Privileges::NONE,
            },
            life_cycle: match keys {
                Some(_) => ApplicationLifeCycle(SecurityDomainLifeCycle::PERSONALIZED.0),
                None => ApplicationLifeCycle::SELECTABLE,
            },
            access: InterfaceAccess::of_factory(application.module),
            implicit: ImplicitSelection::NONE,
            load_file: Origin::Named(application.load_file),
            quota: Quota::NONE,
            secure_only: false,
            records: application.records,
            keys,
            parameters: &[],
        }
    }
}

/// A load file that is about to be whole.
pub(crate) struct NewFile {
    pub(crate) id: EntryId,
    pub(crate) aid: Aid,
    /// AID of its module.
    pub(crate) module: Aid,
    /// What the module is told as its version.
    pub(crate) version: u32,
    /// Registry index of its security domain.
    pub(crate) domain: u8,
}

impl<P: Platform> SecureElement<P> {
    /// Loads an executable load file into a container: all of it or nothing, whatever happens. Applications are [installed](SecureElement::install) from it with
    /// [`Module::LOADED`] and its AID.
    ///
    /// # Errors
    /// 6A88 for a container that has not been made; 6A80 for an AID that is there already, or no bytes; 9505 for what is no code of this SE; 6A84 when the registry, the area for bulk or NVM have no
    /// room; 6581 when the flash fails.
    pub fn load_file(&mut self, container: ContainerId, file: &LoadFile<'_>) -> Result<(), StatusWord> {
        self.manage(container, |core, by, staged| core.load_file(by, file, staged))
    }

    /// Installs an application in a container, with the records that it begins with: all of it or nothing, whatever happens. The product authorises it.
    ///
    /// # Errors
    /// 6A88 for a container that has not been made, or for [`Module::LOADED`] a load file that has not been loaded; 6A80 for an AID that is there already; 6A84 when the registry, the memory of instances or NVM have no room; what the application
    /// [refuses](Application::install); 6581 when the flash fails.
    pub fn install(
        &mut self,
        container: ContainerId,
        application: &FactoryApplication<'_>,
    ) -> Result<(), StatusWord> {
        let new = Installing::of_product(application, None);
        self.manage(container, |core, by, staged| core.install(by, &new, staged))
    }

    /// Installs a supplementary security domain in a container, as [`SecureElement::install`] does an application: with the privilege of a security domain
    /// and no other, and a key set of its own.
    ///
    /// # Errors
    /// As of [`SecureElement::install`]; 6A80 for a key version that no SCP03 key set can have.
    pub fn install_domain(
        &mut self,
        container: ContainerId,
        aid: Aid,
        load_file: Aid,
        keys: (u8, &KeySet),
    ) -> Result<(), StatusWord> {
        let domain = FactoryApplication {
            aid,
            load_file,
            module: Module::CARD_MANAGER,
            records: &[],
        };
        let new = Installing::of_product(&domain, Some(keys));
        self.manage(container, |core, by, staged| core.install(by, &new, staged))
    }

    /// Deletes an application of a container: its entry, its load file's with the code if nobody else comes from it, its records and what it remembers. Where it is selected
    /// the issuer security domain is selected instead. Or a load file that has been [loaded](SecureElement::load_file) and from which no application comes. The product
    /// authorises it.
    ///
    /// # Errors
    /// 6A88 when there is no such application, load file or container; 6985 for one that came with the operating system or is in use, a domain with which others are
    /// associated, or what the application [refuses](Application::delete): nothing has changed then. 6581 when the flash fails.
    pub fn delete(&mut self, container: ContainerId, aid: &Aid) -> Result<(), StatusWord> {
        self.manage(container, |core, by, staged| {
            let registry = &core.containers.get(container).registry;
            let found = registry.iter().find(|(_, entry)| entry.aid == *aid);
            let id = found.ok_or(not_found())?.1.id;
            core.delete(by, id, Leaving::WithLoadFile, staged)
        })
    }

    /// Makes an application of a container secure-only, for ever: it is reached inside TLS sessions alone (`docs/spec/tls-manager.md`, 5). A security domain with all that is within it;
    /// of the issuer security domain all but itself. The product authorises it.
    ///
    /// # Errors
    /// 6A88 when there is no such application or container; 6581 when the flash fails.
    pub fn make_secure_only(&mut self, container: ContainerId, aid: &Aid) -> Result<(), StatusWord> {
        self.manage(container, |core, _, staged| {
            let registry = &core.containers.get(container).registry;
            let (index, entry) = registry.application(aid.as_bytes()).ok_or(not_found())?;
            let marked = Entry {
                secure_only: true,
                ..*entry
            };
            let mut records = core.records(staged);
            store_entry(&mut records, container, index, &marked)?;
            flush(&mut records)?;
            core.reload(container, staged)
        })?;
        self.leave_hidden();
        Ok(())
    }

    fn manage(
        &mut self,
        container: ContainerId,
        work: impl FnOnce(&mut Core<P>, Authorisation, &mut Staged) -> Result<(), Refusal>,
    ) -> Result<(), StatusWord> {
        if !self.core.on {
            return Err(StatusWord::MEMORY_FAILURE);
        }
        let by = Authorisation::of_product(self.core.containers.get(container))
            .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
        let staged = &mut self.buffers.scratch.staged;
        staged.clear();
        let done = apart(|| work(&mut self.core, by, staged));
        staged.clear();
        let done = match done {
            Err(Refusal(StatusWord::MEMORY_FAILURE)) => done,
            _ => apart(|| bulk::settle(&mut self.core.nvm.open())).and(done),
        };
        Stack::of(
            Profile::or_default(&self.core.platform.profile),
            Depth::Whole,
            P::stack_low(),
        )
        .wipe();
        self.core.on &= done != Err(Refusal(StatusWord::MEMORY_FAILURE));
        done.map_err(|refusal| refusal.0)
    }
}

/// Not inlined: [`Stack::wipe`] wipes what is below its caller.
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

const fn not_found() -> Refusal {
    Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND)
}

const fn refused() -> Refusal {
    Refusal(StatusWord::CONDITIONS_NOT_SATISFIED)
}

/// Whether an entry is a load file whose code has been loaded.
fn is_loaded_file(entry: &Entry) -> bool {
    entry.module == Module::LOADED && matches!(entry.kind, EntryKind::ExecutableLoadFile { .. })
}

/// A registry index without an entry, behind `after`.
pub(crate) fn free(registry: &Registry, after: u8) -> Result<u8, Refusal> {
    let indices = (0_u8..).take(ENTRIES_MAX);
    let found = indices
        .skip_while(|index| *index < after)
        .find(|index| registry.get(*index).is_none());
    found.ok_or(Refusal(StatusWord::NOT_ENOUGH_MEMORY))
}

impl<P: Platform> Core<P> {
    /// Does what a command has ordered, and answers it; `data` is its data field. Not inlined: what it needs of the stack is nobody else's.
    #[inline(never)]
    pub(crate) fn perform(
        &mut self,
        order: &Order,
        data: &[u8],
        staged: &mut Staged,
        out: &mut Writer<'_>,
    ) -> Result<(), Refusal> {
        match *order {
            Order::Install {
                by,
                load_file,
                aid,
                privileges,
                access,
                implicit,
                life_cycle,
                quota,
                secure_only,
            } => {
                self.use_token(by, staged, false)?;
                let registry = &self.containers.get(by.domain().container).registry;
                let file = registry.get(load_file).ok_or(not_found())?;
                let fields = Install::parse(data)?;
                let new = Installing {
                    aid,
                    module: file.module,
                    privileges,
                    access,
                    implicit,
                    life_cycle,
                    load_file: Origin::There(load_file),
                    quota,
                    secure_only,
                    records: &[],
                    keys: None,
                    parameters: find(fields.parameters, tag::APPLICATION_PARAMETERS)?.unwrap_or_default(),
                };
                self.install(by, &new, staged)?;
                self.confirm(by, &[fields.load_file, aid.as_bytes()], staged, out)
            }
            Order::Delete { by, entry, related } => {
                self.use_token(by, staged, true)?;
                let leaving = if related {
                    Leaving::Related
                } else {
                    Leaving::LoadFileStays
                };
                self.delete(by, entry, leaving, staged)?;
                let aid = Tlv::read(&mut Reader::new(data))?.value;
                self.confirm(by, &[aid], staged, out)
            }
            Order::BeginLoad { by, place, domain } => {
                self.begin_load((by, place, domain), data, staged)?;
                Ok(out.u8(NO_RECEIPT)?)
            }
            Order::Load {
                by,
                place,
                number,
                is_last,
            } => self.load((by, place), (number, is_last), data, staged, out),
        }
    }

    /// The number of a token is used up before what it is for; that of a deletion is `essential`, as the deletion is.
    fn use_token(&mut self, by: Authorisation, staged: &mut Staged, essential: bool) -> Result<(), Refusal> {
        if by.is_delegated() && !staged.is_empty() {
            staged.commit(&mut self.nvm.open(), essential)?;
            staged.clear();
        }
        Ok(())
    }

    /// Counts the receipt for what is written next, if one is to be given.
    fn count(&mut self, by: Authorisation, staged: &mut Staged) -> Result<(), Refusal> {
        let container = self.containers.get(by.domain().container);
        let nvm = self.nvm.open();
        receipt::count(by, container, &mut Records { nvm, staged })
    }

    /// Answers what has been done.
    pub(crate) fn confirm(
        &mut self,
        by: Authorisation,
        context: &[&[u8]],
        staged: &mut Staged,
        out: &mut Writer<'_>,
    ) -> Result<(), Refusal> {
        let container = self.containers.get(by.domain().container);
        let nvm = self.nvm.open();
        receipt::write(by, container, &mut Records { nvm, staged }, context, out)
    }

    #[inline(never)]
    fn install(
        &mut self,
        by: Authorisation,
        new: &Installing<'_>,
        staged: &mut Staged,
    ) -> Result<(), Refusal> {
        let Instance {
            container,
            entry: domain,
        } = by.domain();
        let registry = &self.containers.get(container).registry;
        let (domain, _) = registry.entry(domain).ok_or(not_found())?;
        let found = |aid: Aid| registry.iter().find(|(_, entry)| entry.aid == aid);
        let wrong = Refusal(StatusWord::INCORRECT_DATA);
        let (file_index, new_file) = match new.load_file {
            Origin::There(index) => (index, None),
            Origin::Named(aid) => match found(aid) {
                Some((index, file)) if new.module == Module::LOADED && is_loaded_file(file) => (index, None),
                None if new.module == Module::LOADED => return Err(not_found()),
                None if aid != new.aid => (free(registry, FACTORY_INDEX)?, Some(aid)),
                _ => return Err(wrong),
            },
        };
        if registry.root_name() == Some(new.aid) || found(new.aid).is_some() {
            return Err(wrong);
        }
        let after = if new_file.is_some() {
            file_index + 1
        } else {
            FACTORY_INDEX
        };
        let index = free(registry, after)?;
        let id = new_entry(&mut self.records(staged), container)?;
        let instance = Instance { container, entry: id };
        let entry = Entry {
            life_cycle: new.life_cycle.0,
            access: new.access,
            implicit: new.implicit,
            secure_only: new.secure_only,
            ..Entry::application(id, new.aid, new.module, new.privileges, file_index, domain)
        };
        let full = Refusal(StatusWord::NOT_ENOUGH_MEMORY);
        let in_all = self.platform.applications.places(new.module);
        if !self.containers.has_place(container, new.module, in_all) {
            return Err(full);
        }
        // Those that are there have theirs before it, whether they have been used or not.
        for instance in self.containers.instances_of(new.module) {
            self.platform.applications.get(new.module, instance);
        }
        if self.platform.applications.get(new.module, instance).is_none() {
            return Err(full);
        }
        let written = self.write_application(by, index, &entry, new_file, new, staged);
        staged.clear();
        if written.is_err() {
            self.nvm.open().set_room(container, index, None);
        }
        match written {
            Ok(()) => self.reload(container, staged),
            Err(refusal) => {
                self.platform.applications.release(new.module, instance);
                if refusal.0 != StatusWord::MEMORY_FAILURE {
                    leftovers::sweep(&mut self.records(staged), container)?;
                }
                Err(refusal)
            }
        }
    }

    /// Writes leftovers, records, and with the entries what the application itself writes.
    #[inline(never)]
    fn write_application(
        &mut self,
        by: Authorisation,
        index: u8,
        entry: &Entry,
        new_file: Option<Aid>,
        new: &Installing<'_>,
        staged: &mut Staged,
    ) -> Result<(), Refusal> {
        let container = by.domain().container;
        let mut records = self.records(staged);
        // More than there is to be kept leaves no room for the leftovers' record, the first that is written.
        records
            .nvm
            .set_room(container, index, Some((entry.id, new.quota)));
        // With the identities that are given out, so that none is given out again whatever becomes of this.
        let file = match new_file {
            None => None,
            Some(aid) => {
                let id = new_entry(&mut records, container)?;
                let domain = entry.security_domain.unwrap_or(ISD_INDEX);
                Some(Entry::load_file(id, aid, entry.module, entry.aid, domain))
            }
        };
        leftovers::set(&mut records, container, core::iter::once(entry.id))?;
        flush(&mut records)?;
        for some in new.records.chunks(RECORDS_AT_A_TIME) {
            for (object, part, value) in some {
                records.staged.stage(own(entry.id, *object, *part), Some(value))?;
            }
            flush(&mut records)?;
        }
        self.ask(container, entry, staged, |it, cx| it.install(cx, new.parameters))?;
        self.count(by, staged)?;
        let reset = self.containers.get(container).registry.loses_reset(index, entry);
        let mut records = self.records(staged);
        if let Some((before, without)) = reset {
            store_entry(&mut records, container, before, &without)?;
        }
        if let Some((kvn, keys)) = new.keys {
            let mut store = KeyStore {
                records: &mut records,
                domain: entry.id,
            };
            store.put(0, kvn, &KeyRecord::of_set(keys)?)?;
        }
        if let (Some(file), Some(index)) = (file, entry.load_file) {
            store_entry(&mut records, container, index, &file)?;
        }
        store_entry(&mut records, container, index, entry)?;
        store_quota(&mut records, container, index, new.quota)?;
        records.remove(leftovers::leftovers(container))?;
        flush(&mut records)
    }

    fn load_file(
        &mut self,
        by: Authorisation,
        file: &LoadFile<'_>,
        staged: &mut Staged,
    ) -> Result<(), Refusal> {
        let Instance {
            container,
            entry: domain,
        } = by.domain();
        let into = self.containers.get(container);
        let (domain, _) = into.registry.entry(domain).ok_or(not_found())?;
        let mut records = self.records(staged);
        let new = NewFile {
            id: new_entry(&mut records, container)?,
            aid: file.aid,
            module: file.module_aid,
            version: file.version,
            domain,
        };
        let length = u32::try_from(file.image.len()).map_err(|_| Refusal(StatusWord::NOT_ENOUGH_MEMORY))?;
        records.nvm.announce(container, new.id);
        let mut writing = records.nvm.begin_bulk(new.id, length)?;
        let written = bulk::write(&mut records.nvm, &mut writing, file.image);
        let digest = sha256(&[file.image]);
        let added = written.and_then(|()| self.add_file(by, &new, (&writing, &digest), staged));
        if added.is_err() {
            self.nvm.area.release(&writing);
        }
        added
    }

    /// Adds a load file whose image has been written, if that has this digest and runs on this SE: entry, seal and what it is, in one step.
    ///
    /// # Errors
    /// 6A80 for an AID that is there, or another digest; 9505 for what is no code of this SE; 6A84; 6581. The image is to be given up then.
    pub(crate) fn add_file(
        &mut self,
        by: Authorisation,
        file: &NewFile,
        (writing, digest): (&Writing, &[u8; 32]),
        staged: &mut Staged,
    ) -> Result<(), Refusal> {
        let container = by.domain().container;
        let registry = &self.containers.get(container).registry;
        if registry.iter().any(|(_, entry)| entry.aid == file.aid) {
            return Err(Refusal(StatusWord::INCORRECT_DATA));
        }
        let index = free(registry, FACTORY_INDEX)?;
        let ram = self.platform.free_ram;
        self.count(by, staged)?;
        let mut records = self.records(staged);
        records
            .nvm
            .set_room(container, index, Some((file.id, Quota::NONE)));
        let entry = Entry::load_file(file.id, file.aid, Module::LOADED, file.module, file.domain);
        let added = code::seal(&mut records, file.id, writing, digest, (file.version, ram))
            .and_then(|()| store_entry(&mut records, container, index, &entry))
            .and_then(|()| flush(&mut records));
        if added.is_err() {
            records.nvm.set_room(container, index, None);
        }
        added?;
        self.reload(container, staged)
    }

    /// Asks an application whether it can be installed, or deleted.
    fn ask(
        &mut self,
        container: ContainerId,
        entry: &Entry,
        staged: &mut Staged,
        run: impl FnOnce(&mut dyn Application, &mut Context<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let called = Called {
            container,
            place: Place {
                interface: Interface::Iso7816Contact,
                logical_channel: 0,
            },
            caller: Caller::Platform,
            entry,
            protection: Protection::None,
            pieces: false,
        };
        staged.begin();
        self.with(called, staged, &mut Effects::default(), None, run)
    }

    #[inline(never)]
    fn reload(&mut self, container: ContainerId, staged: &mut Staged) -> Result<(), Refusal> {
        let mut records = Records {
            nvm: self.nvm.open(),
            staged,
        };
        self.containers.reload(&mut records, container)
    }

    fn records<'a>(&'a mut self, staged: &'a mut Staged) -> Records<'a> {
        Records {
            nvm: self.nvm.open(),
            staged,
        }
    }
}

fn flush(records: &mut Records<'_>) -> Result<(), Refusal> {
    records.staged.commit(&mut records.nvm, false)?;
    records.staged.clear();
    Ok(())
}
