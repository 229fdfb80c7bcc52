//! Applications that come and go after the factory.
//!
//! An application exists when its registry entry does. What is written before that, and what is left after the entry has gone, is named by one
//! record, the *leftovers*, which stands for as long as there may be any: it is written first and removed last, and a boot that finds it removes
//! them. So installing and deleting take as many transactions as there are records, and a power cut leaves the application whole or nothing of it.
//!
//! Who may install and delete is not decided here.

use sekisho_apdu::gp::Privileges;
use sekisho_apdu::{Aid, StatusWord};
use sekisho_keys::{KeySet, sha256};

use crate::application::{Application, Applications, Context, Effects, Protection};
use crate::bulk;
use crate::call::Caller;
use crate::channels::Channels;
use crate::code;
use crate::container::{name, new_entry, store_entry};
use crate::dispatch::Called;
use crate::element::SecureElement;
use crate::interface::{ContainerId, Interface, Place};
use crate::keys::{KeyRecord, KeyStore};
use crate::leftovers;
use crate::manufacture::{FACTORY_INDEX, FactoryApplication, OwnRecord};
use crate::names::RecordKind;
use crate::nvm::{RECORDS_AT_A_TIME, Records, Staged, own_part};
use crate::refusal::Refusal;
use crate::registry::{ENTRIES_MAX, Entry, EntryKind, ISD_INDEX, Instance, Module, Registry};
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

impl<P: Platform> SecureElement<P> {
    /// Loads an executable load file into a container: all of it or nothing, whatever happens. Applications are [installed](SecureElement::install) from it with
    /// [`Module::LOADED`] and its AID.
    ///
    /// # Errors
    /// 6A88 for a container that has not been made; 6A80 for an AID that is there already, or no bytes; 9505 for what is no code of this SE; 6A84 when the registry, the area for bulk or NVM have no
    /// room; 6581 when the flash fails.
    pub fn load_file(&mut self, container: ContainerId, file: &LoadFile<'_>) -> Result<(), StatusWord> {
        self.manage(|core, staged| core.load_file(container, file, staged))
    }

    /// Installs an application in a container, with the records that it begins with: all of it or nothing, whatever happens.
    ///
    /// # Errors
    /// 6A88 for a container that has not been made, or for [`Module::LOADED`] a load file that has not been loaded; 6A80 for an AID that is there already; 6A84 when the registry, the memory of instances or NVM have no room; what the application
    /// [refuses](Application::install); 6581 when the flash fails.
    pub fn install(
        &mut self,
        container: ContainerId,
        application: &FactoryApplication<'_>,
    ) -> Result<(), StatusWord> {
        self.manage(|core, staged| core.install(container, application, None, staged))
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
        self.manage(|core, staged| core.install(container, &domain, Some(keys), staged))
    }

    /// Deletes an application of a container: its entry, its load file's with the code if nobody else comes from it, its records and what it remembers. Where it is selected
    /// the issuer security domain is selected instead. Or a load file that has been [loaded](SecureElement::load_file) and from which no application comes.
    ///
    /// # Errors
    /// 6A88 when there is no such application or load file; 6985 for one that came with the operating system or is in use, or what the application
    /// [refuses](Application::delete): nothing has changed then. 6581 when the flash fails.
    pub fn delete(&mut self, container: ContainerId, aid: &Aid) -> Result<(), StatusWord> {
        self.manage(|core, staged| core.delete(container, aid, staged))
    }

    fn manage(
        &mut self,
        work: impl FnOnce(&mut Core<P>, &mut Staged) -> Result<(), Refusal>,
    ) -> Result<(), StatusWord> {
        if self.core.mute {
            return Err(StatusWord::MEMORY_FAILURE);
        }
        let staged = &mut self.buffers.scratch.staged;
        staged.clear();
        let done = apart(|| work(&mut self.core, staged));
        staged.clear();
        let done = match done {
            Err(Refusal(StatusWord::MEMORY_FAILURE)) => done,
            _ => apart(|| bulk::settle(&mut self.core.nvm.open())).and(done),
        };
        Stack::of(&self.core.platform.profile, Depth::Whole, P::stack_low()).wipe();
        self.core.mute |= done == Err(Refusal(StatusWord::MEMORY_FAILURE));
        done.map_err(|refusal| refusal.0)
    }
}

/// Not inlined: [`Stack::wipe`] wipes what is below its caller.
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// A registry index without an entry, behind `after`.
fn free(registry: &Registry, after: u8) -> Result<u8, Refusal> {
    let indices = (0_u8..).take(ENTRIES_MAX);
    let found = indices
        .skip_while(|index| *index < after)
        .find(|index| registry.get(*index).is_none());
    found.ok_or(Refusal(StatusWord::NOT_ENOUGH_MEMORY))
}

impl<P: Platform> Core<P> {
    fn install(
        &mut self,
        container: ContainerId,
        application: &FactoryApplication<'_>,
        keys: Keys<'_>,
        staged: &mut Staged,
    ) -> Result<(), Refusal> {
        let FactoryApplication {
            aid,
            load_file,
            module,
            records,
        } = *application;
        let into = self.containers.get(container);
        into.root()
            .ok_or(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND))?;
        let registry = &into.registry;
        let found = |aid: Aid| registry.iter().find(|(_, entry)| entry.aid == aid);
        let (file_index, is_loaded) = match found(load_file) {
            Some((index, file)) if module == Module::LOADED && is_loaded_file(file) => (index, true),
            None if module == Module::LOADED => return Err(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND)),
            None => (free(registry, FACTORY_INDEX)?, false),
            Some(_) => return Err(Refusal(StatusWord::INCORRECT_DATA)),
        };
        if registry.root_name() == Some(aid) || found(aid).is_some() || aid == load_file {
            return Err(Refusal(StatusWord::INCORRECT_DATA));
        }
        let after = if is_loaded { FACTORY_INDEX } else { file_index + 1 };
        let index = free(registry, after)?;
        let id = new_entry(&mut self.records(staged))?;
        let instance = Instance { container, entry: id };
        let privileges = keys.map_or(Privileges::NONE, |_| Privileges::SECURITY_DOMAIN);
        let entry = Entry::application(id, aid, module, privileges, file_index, ISD_INDEX);
        // Those that are there have theirs before it, whether they have been used or not.
        for instance in self.containers.instances_of(module) {
            self.platform.applications.get(module, instance);
        }
        if self.platform.applications.get(module, instance).is_none() {
            return Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY));
        }
        let written = self.write_application(
            (container, index),
            &entry,
            (!is_loaded).then_some((file_index, load_file)),
            (records, keys),
            staged,
        );
        staged.clear();
        match written {
            Ok(()) => self.reload(container, staged),
            Err(refusal) => {
                self.platform.applications.release(module, instance);
                if refusal.0 != StatusWord::MEMORY_FAILURE {
                    leftovers::sweep(&mut self.records(staged), container)?;
                }
                Err(refusal)
            }
        }
    }

    /// Writes leftovers, records, and with the entries what the application itself writes.
    fn write_application(
        &mut self,
        (container, index): (ContainerId, u8),
        entry: &Entry,
        new_file: Option<(u8, Aid)>,
        (own, keys): (&[OwnRecord<'_>], Keys<'_>),
        staged: &mut Staged,
    ) -> Result<(), Refusal> {
        let mut records = self.records(staged);
        // With the identities that are given out, so that none is given out again whatever becomes of this.
        let file_id = new_entry(&mut records)?;
        leftovers::set(&mut records, container, entry.id)?;
        flush(&mut records)?;
        for some in own.chunks(RECORDS_AT_A_TIME) {
            for (object, part, value) in some {
                records
                    .staged
                    .stage(own_part(entry.id, *object, *part), Some(value))?;
            }
            flush(&mut records)?;
        }
        self.ask(container, entry, staged, |it, cx| it.install(cx))?;
        let mut records = self.records(staged);
        if let Some((kvn, keys)) = keys {
            let mut store = KeyStore {
                records: &mut records,
                domain: entry.id,
            };
            store.put(0, kvn, &KeyRecord::of_set(keys)?)?;
        }
        if let Some((index, load_file)) = new_file {
            let file = Entry::load_file(file_id, load_file, entry.module, entry.aid, ISD_INDEX);
            store_entry(&mut records, container, index, &file)?;
        }
        store_entry(&mut records, container, index, entry)?;
        records.remove(leftovers::leftovers(container))?;
        flush(&mut records)
    }

    fn delete(&mut self, container: ContainerId, aid: &Aid, staged: &mut Staged) -> Result<(), Refusal> {
        let registry = &self.containers.get(container).registry;
        let found = registry.application(aid.as_bytes());
        let Some((index, entry)) = found else {
            return self.unload(container, aid, staged);
        };
        if index < FACTORY_INDEX {
            return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        let entry = *entry;
        let is_used = registry
            .iter()
            .any(|(other, of)| other != index && of.load_file == entry.load_file);
        let file = entry.load_file.filter(|file| *file >= FACTORY_INDEX && !is_used);
        let code = file.and_then(|file| registry.get(file)).map(|file| file.id);
        self.ask(container, &entry, staged, |it, cx| it.delete(cx))?;
        // What it may have put goes with it.
        staged.clear();
        let mut records = self.records(staged);
        for index in [Some(index), file].into_iter().flatten() {
            records.remove(name(container, RecordKind::Registry, index.into()))?;
        }
        if let Some(code) = code {
            code::remove(&mut records, code)?;
        }
        leftovers::set(&mut records, container, entry.id)?;
        records.staged.commit(&mut records.nvm, true)?;
        staged.clear();
        for place in Channels::places() {
            if self.interfaces.channels.selected(place) == Some(entry.id) {
                self.end_messaging(place);
                self.change(place, self.root(place));
            }
        }
        self.interfaces.channels.forget_called(index, container);
        let instance = Instance {
            container,
            entry: entry.id,
        };
        self.platform.applications.release(entry.module, instance);
        self.reload(container, staged)?;
        leftovers::sweep(&mut self.records(staged), container)
    }

    /// Deletes a load file from which no application comes, with its code.
    fn unload(&mut self, container: ContainerId, aid: &Aid, staged: &mut Staged) -> Result<(), Refusal> {
        let registry = &self.containers.get(container).registry;
        let found = registry.iter().find(|(_, entry)| entry.aid == *aid);
        let (index, file) = found.ok_or(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND))?;
        let is_used = registry.iter().any(|(_, of)| of.load_file == Some(index));
        if is_used || !is_loaded_file(file) {
            return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        let id = file.id;
        let mut records = self.records(staged);
        records.remove(name(container, RecordKind::Registry, index.into()))?;
        code::remove(&mut records, id)?;
        records.staged.commit(&mut records.nvm, true)?;
        staged.clear();
        self.reload(container, staged)
    }

    fn load_file(
        &mut self,
        container: ContainerId,
        file: &LoadFile<'_>,
        staged: &mut Staged,
    ) -> Result<(), Refusal> {
        let into = self.containers.get(container);
        into.root()
            .ok_or(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND))?;
        if into.registry.iter().any(|(_, entry)| entry.aid == file.aid) {
            return Err(Refusal(StatusWord::INCORRECT_DATA));
        }
        let index = free(&into.registry, FACTORY_INDEX)?;
        let ram = self.platform.free_ram;
        let mut records = self.records(staged);
        let id = new_entry(&mut records)?;
        let length = u32::try_from(file.image.len()).map_err(|_| Refusal(StatusWord::NOT_ENOUGH_MEMORY))?;
        let mut writing = bulk::begin(&mut records.nvm, id, length)?;
        let written = bulk::write(&mut records.nvm, &mut writing, file.image).and_then(|()| {
            let digest = sha256(&[file.image]);
            code::seal(&mut records, id, &writing, &digest, (file.version, ram))?;
            let entry = Entry::load_file(id, file.aid, Module::LOADED, file.module_aid, ISD_INDEX);
            store_entry(&mut records, container, index, &entry)?;
            flush(&mut records)
        });
        if written.is_err() {
            records.nvm.area.release(&writing);
        }
        written?;
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

/// Whether an entry is a load file whose code has been loaded.
fn is_loaded_file(entry: &Entry) -> bool {
    entry.module == Module::LOADED && matches!(entry.kind, EntryKind::ExecutableLoadFile { .. })
}

fn flush(records: &mut Records<'_>) -> Result<(), Refusal> {
    records.staged.commit(&mut records.nvm, false)?;
    records.staged.clear();
    Ok(())
}
