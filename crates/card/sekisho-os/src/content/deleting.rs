//! Applications and load files that go.

use sekisho_apdu::gp::Privileges;

use super::{is_loaded_file, not_found, refused};
use crate::application::Applications as _;
use crate::authorisation::Authorisation;
use crate::channels::Channels;
use crate::code;
use crate::container::name;
use crate::keys::KeyStore;
use crate::leftovers;
use crate::names::{EntryId, RecordKind};
use crate::nvm::Staged;
use crate::refusal::Refusal;
use crate::registry::{ENTRIES_MAX, EntryKind, FACTORY_INDEX, Instance};
use crate::state::{Core, Platform};

/// What becomes of the load file of an application that is deleted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It stays.
    LoadFileStays,
    /// It goes too, if nobody else comes from it and it did not come with the operating system.
    WithLoadFile,
    /// It is the load file that is deleted, with all that comes from it.
    Related,
}

/// Registry indices, a bit for each.
type Indices = u16;

/// Those whose bits are set.
fn each(indices: Indices) -> impl Iterator<Item = u8> {
    (0..)
        .take(ENTRIES_MAX)
        .filter(move |index| indices >> index & 1 != 0)
}

impl<P: Platform> Core<P> {
    #[inline(never)]
    pub(super) fn delete(
        &mut self,
        by: Authorisation,
        id: EntryId,
        leaving: Leaving,
        staged: &mut Staged,
    ) -> Result<(), Refusal> {
        let Instance {
            container,
            entry: domain,
        } = by.domain();
        let registry = &self.containers.get(container).registry;
        let (domain, _) = registry.entry(domain).ok_or(not_found())?;
        let (index, entry) = registry.entry(id).ok_or(not_found())?;
        // Who comes from a load file, but for one.
        let from = |file: u8, but: u8| {
            let all = registry.iter();
            all.filter(move |(other, of)| *other != but && of.load_file == Some(file))
                .fold(0, |all, (other, _)| all | 1 << other)
        };
        let (applications, file): (Indices, _) = if entry.kind == EntryKind::Application {
            let file = entry.load_file.filter(|file| {
                *file >= FACTORY_INDEX && leaving == Leaving::WithLoadFile && from(*file, index) == 0
            });
            (1 << index, file)
        } else if is_loaded_file(entry) {
            (from(index, index), Some(index))
        } else {
            return Err(refused());
        };
        let may_go = |goes: u8| {
            let is_in_use = registry
                .iter()
                .any(|(other, of)| other != goes && of.security_domain == Some(goes));
            goes >= FACTORY_INDEX && !is_in_use && registry.is_within(goes, domain)
        };
        let is_meant =
            entry.kind == EntryKind::Application || applications == 0 || leaving == Leaving::Related;
        if !is_meant || !each(applications).chain(file).all(may_go) {
            return Err(refused());
        }
        self.remove(by, applications, file, staged)
    }

    /// Removes applications, and a load file with its code: all of it, in one step, or nothing.
    fn remove(
        &mut self,
        by: Authorisation,
        applications: Indices,
        file: Option<u8>,
        staged: &mut Staged,
    ) -> Result<(), Refusal> {
        let container = by.domain().container;
        let mut gone = [None; ENTRIES_MAX];
        for (index, gone) in each(applications).zip(&mut gone) {
            let entry = *self
                .containers
                .get(container)
                .registry
                .get(index)
                .ok_or(not_found())?;
            self.ask(container, &entry, staged, |it, cx| it.delete(cx))?;
            // What it may have put goes with it.
            staged.clear();
            *gone = Some((index, entry));
        }
        let code = file.and_then(|file| self.containers.get(container).registry.get(file));
        let code = code.map(|file| file.id);
        self.count(by, staged)?;
        let mut records = self.records(staged);
        for index in each(applications).chain(file) {
            records.remove(name(container, RecordKind::Registry, index.into()))?;
        }
        for index in each(applications) {
            records.remove(name(container, RecordKind::Quota, index.into()))?;
        }
        if let Some(code) = code {
            code::remove(&mut records, code)?;
        }
        let all = || gone.iter().flatten();
        for (_, entry) in all().filter(|(_, entry)| entry.privileges.contains(Privileges::SECURITY_DOMAIN)) {
            let (records, domain) = (&mut records, entry.id);
            KeyStore { records, domain }.leave(container)?;
        }
        leftovers::set(&mut records, container, all().map(|(_, entry)| entry.id))?;
        records.staged.commit(&mut records.nvm, true)?;
        staged.clear();
        for (index, entry) in all() {
            for place in Channels::places() {
                if self.interfaces.channels.selected(place) == Some(entry.id) {
                    self.end_messaging(place);
                    self.change(place, self.root(place));
                }
            }
            self.interfaces.channels.forget_called(*index, container);
            let instance = Instance {
                container,
                entry: entry.id,
            };
            self.platform.applications.release(entry.module, instance);
        }
        self.reload(container, staged)?;
        leftovers::sweep(&mut self.records(staged), container)
    }
}
