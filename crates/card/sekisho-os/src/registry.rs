//! The GlobalPlatform registry of a container (GPC 6.5): its applications, security domains and executable load files.
//!
//! It stands in NVM, one record for each entry, and whole in RAM, so that SELECT reads no flash. The copy in RAM is read again after a
//! commit that touched it, never before.

use sekisho_apdu::gp::{ApplicationLifeCycle, ELF_LOADED, Privileges};
use sekisho_apdu::{Aid, DecodeError, PartialAid, Reader, Writer};

use crate::interface::{ContainerId, Interface, Place};
use crate::names::EntryId;
use crate::not_zero::NotZero;
use crate::refusal::Refusal;

/// Registry index of the issuer security domain, which is selected where nothing else is.
pub(crate) const ISD_INDEX: u8 = 0;

/// Most entries of a container's registry.
pub const ENTRIES_MAX: usize = 16;

/// Longest record of an entry: fourteen bytes, an AID and a module's AID, of a load file. That of an application is shorter.
pub(crate) const ENTRY_RECORD_MAX: usize = 14 + 16 + 16;

/// Format of an entry's record.
const FORMAT: u8 = 2;
/// The same with the byte of its interfaces behind the identity, where these are not all: who has no such byte answers everywhere, as before there was one.
const FORMAT_WITH_ACCESS: u8 = 3;
/// The same with the byte of its implicit selection behind that, where it has one.
const FORMAT_WITH_IMPLICIT: u8 = 4;
/// The same with four of these, filled up with 00, where it has several.
const FORMAT_WITH_SEVERAL: u8 = 5;
/// The format of version 0.1, which has no identity: that is [by registry index](EntryId::of_0_1).
const FORMAT_BY_INDEX: u8 = 1;

/// Registry index of the first application that did not come with the operating system, or of its load file.
pub(crate) const FACTORY_INDEX: u8 = 4;

/// Bit of the kind's byte: the application is [secure-only](Entry::secure_only). Records of before have it not.
const SECURE_ONLY: u8 = 0x80;

/// "No such entry" in place of a registry index.
const NO_INDEX: u8 = 0xFF;

/// Which code runs an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Module(pub u8);

impl Module {
    /// The card manager: issuer security domain.
    pub const CARD_MANAGER: Self = Self(0x01);
    /// The replaceable part of the operating system, which the loader runs.
    pub const OS_PART: Self = Self(0x02);
    /// SecApp: polls the paging server (`docs/spec/secapp.md`).
    pub const SEC_APP: Self = Self(0x03);
    /// The file system (`docs/spec/file-system-applet.md`).
    pub const FILE_SYSTEM: Self = Self(0x04);
    /// Whatever has been loaded: the code is the image of the entry's executable load file (`docs/spec/applications.md`).
    pub const LOADED: Self = Self(0x05);
    /// The TLS Manager (`docs/spec/tls-manager.md`).
    pub const TLS_MANAGER: Self = Self(0x06);
}

/// An application of a container, as it stands in that container's registry: what memory, records and keys belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its container.
    pub container: ContainerId,
    /// Its identity.
    pub entry: EntryId,
}

/// On which interfaces an application answers, as its communication interface access says (GPC Amd C, 5: data object 82 in A5 in A0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceAccess(u8);

impl InterfaceAccess {
    /// Those of the device itself: contacts, APDU gate, SPI and I2C.
    pub const CONTACT: Self = Self(0x80);
    /// SWP: whoever holds a reader near.
    pub const CONTACTLESS: Self = Self(0x40);
    /// All.
    pub const ALL: Self = Self(Self::CONTACT.0 | Self::CONTACTLESS.0);

    /// The byte of the data object; `None` for none and for bits that mean nothing.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0x40 | 0x80 | 0xC0 => Some(Self(byte)),
            _ => None,
        }
    }

    /// The byte.
    pub const fn to_byte(self) -> u8 {
        self.0
    }

    /// Whether an interface is among them.
    pub const fn includes(self, interface: Interface) -> bool {
        let one = if interface.is_contactless() {
            Self::CONTACTLESS
        } else {
            Self::CONTACT
        };
        self.0 & one.0 != 0
    }

    /// What the factory gives: SecApp and the TLS Manager speak with the device alone, and what they do there costs flash or minutes.
    pub(crate) const fn of_factory(module: Module) -> Self {
        match module {
            Module::SEC_APP | Module::TLS_MANAGER => Self::CONTACT,
            _ => Self::ALL,
        }
    }
}

/// Where an application is selected without being named (GPC 11.5.2.3.7, data objects CF): each byte says on contacts, over SWP or on both, on one logical channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImplicitSelection([u8; Self::MAX]);

impl ImplicitSelection {
    /// Most data objects.
    pub const MAX: usize = 4;
    /// Nowhere: it is named.
    pub const NONE: Self = Self([0; Self::MAX]);
    const CONTACTLESS: u8 = 0x80;
    const CONTACT: u8 = 0x40;
    const CHANNEL: u8 = 0x1F;

    /// The same, and what the byte of one more data object says; `None` for a logical channel that there is not, one without an interface, but for 00, which adds nothing, for a place that is said already, and for
    /// more than [`Self::MAX`].
    pub fn with(mut self, byte: u8) -> Option<Self> {
        match (byte & !Self::CHANNEL, byte & Self::CHANNEL) {
            (0, 0) => return Some(self),
            (0x40 | 0x80 | 0xC0, 0..=19) if !self.meets(byte) => {}
            _ => return None,
        }
        *self.0.iter_mut().find(|one| **one == 0)? = byte;
        Some(self)
    }

    /// The bytes of the data objects, as they came.
    pub fn bytes(&self) -> &[u8] {
        let len = self.0.iter().take_while(|one| **one != 0).count();
        self.0.get(..len).unwrap_or_default()
    }

    /// Whether a place is one of them.
    fn is_at(&self, place: Place) -> bool {
        let kind = if place.interface.is_contactless() {
            Self::CONTACTLESS
        } else {
            Self::CONTACT
        };
        self.meets(kind | place.logical_channel)
    }

    /// Whether a place that this byte says is one of them.
    fn meets(&self, byte: u8) -> bool {
        let is_same = |one: &u8| one & byte & !Self::CHANNEL != 0 && (one ^ byte) & Self::CHANNEL == 0;
        self.0.iter().any(is_same)
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// An application or a security domain; `life_cycle` is its own, but for the issuer security domain, which shows the card's.
    Application,
    /// An executable load file with one module.
    ExecutableLoadFile {
        /// The module's AID.
        module_aid: Aid,
    },
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its identity: whose records and memory it has.
    pub id: EntryId,
    /// Its AID.
    pub aid: Aid,
    /// Application or executable load file.
    pub kind: EntryKind,
    /// The code behind it.
    pub module: Module,
    /// Life cycle state byte (GPC 11.1.1).
    pub life_cycle: u8,
    /// Privileges.
    pub privileges: Privileges,
    /// Where it is selected; of the issuer security domain, which is selected everywhere: where its secure channel is opened.
    pub access: InterfaceAccess,
    /// Where it is selected without being named.
    pub implicit: ImplicitSelection,
    /// Registry index of the executable load file that it came from.
    pub load_file: Option<u8>,
    /// Registry index of its security domain.
    pub security_domain: Option<u8>,
    /// Marked as to be reached inside TLS sessions alone (`docs/spec/tls-manager.md`, 5), and all within it if it is a security domain. [`Registry::is_secure_only`] says what holds.
    pub secure_only: bool,
    /// It is there: an empty place of a registry is zeros.
    pub mark: NotZero,
}

impl Entry {
    /// An application of a load file.
    pub(crate) const fn application(
        id: EntryId,
        aid: Aid,
        module: Module,
        privileges: Privileges,
        load_file: u8,
        domain: u8,
    ) -> Self {
        Self {
            id,
            aid,
            kind: EntryKind::Application,
            module,
            life_cycle: ApplicationLifeCycle::SELECTABLE.0,
            privileges,
            access: InterfaceAccess::of_factory(module),
            implicit: ImplicitSelection::NONE,
            load_file: Some(load_file),
            security_domain: Some(domain),
            secure_only: false,
            mark: NotZero::Value,
        }
    }

    /// A load file that came with the operating system.
    pub(crate) const fn load_file(
        id: EntryId,
        aid: Aid,
        module: Module,
        module_aid: Aid,
        domain: u8,
    ) -> Self {
        Self {
            id,
            aid,
            kind: EntryKind::ExecutableLoadFile { module_aid },
            module,
            life_cycle: ELF_LOADED,
            privileges: Privileges::NONE,
            access: InterfaceAccess::ALL,
            implicit: ImplicitSelection::NONE,
            load_file: None,
            security_domain: Some(domain),
            secure_only: false,
            mark: NotZero::Value,
        }
    }

    /// Whether it is an application that SELECT may select.
    pub fn is_selectable(&self) -> bool {
        self.kind == EntryKind::Application && ApplicationLifeCycle(self.life_cycle).is_selectable()
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) -> Result<(), Refusal> {
        let (kind, module_aid) = match &self.kind {
            EntryKind::Application => (0, None),
            EntryKind::ExecutableLoadFile { module_aid } => (1, Some(module_aid)),
        };
        let (format, implicit) = match (self.implicit.bytes(), self.access) {
            ([], InterfaceAccess::ALL) => (FORMAT, &[][..]),
            ([], _) => (FORMAT_WITH_ACCESS, &[][..]),
            (one @ [_], _) => (FORMAT_WITH_IMPLICIT, one),
            _ => (FORMAT_WITH_SEVERAL, &self.implicit.0[..]),
        };
        let mark = if self.secure_only { SECURE_ONLY } else { 0 };
        w.bytes(&[format, kind | mark, self.module.0, self.life_cycle])?;
        w.bytes(&self.privileges.to_bytes())?;
        w.u8(self.load_file.unwrap_or(NO_INDEX))?;
        w.u8(self.security_domain.unwrap_or(NO_INDEX))?;
        w.u16(self.id.number())?;
        if format >= FORMAT_WITH_ACCESS {
            w.u8(self.access.to_byte())?;
        }
        w.bytes(implicit)?;
        let aid = self.aid.as_bytes();
        w.u8(u8::try_from(aid.len()).unwrap_or_default())?;
        w.bytes(aid)?;
        if let Some(aid) = module_aid {
            w.bytes(aid.as_bytes())?;
        }
        Ok(())
    }

    /// Reads the record at a registry index.
    pub(crate) fn decode(index: u8, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let [format, kind, module, life_cycle] = r.array()?;
        let privileges = Privileges::from_bytes(r.take(3)?).ok_or(DecodeError::Value)?;
        let [load_file, security_domain] = r.array()?;
        let id = match format {
            FORMAT_BY_INDEX => EntryId::of_0_1(index),
            FORMAT..=FORMAT_WITH_SEVERAL => EntryId::new(r.u16()?).ok_or(DecodeError::Value)?,
            _ => return Err(DecodeError::Value),
        };
        let access = match format {
            FORMAT_WITH_ACCESS..=FORMAT_WITH_SEVERAL => {
                InterfaceAccess::from_byte(r.u8()?).ok_or(DecodeError::Value)?
            }
            _ => InterfaceAccess::ALL,
        };
        let places = match format {
            FORMAT_WITH_IMPLICIT => r.take(1)?,
            FORMAT_WITH_SEVERAL => r.take(ImplicitSelection::MAX)?,
            _ => &[],
        };
        let mut places = places.iter();
        let implicit = places.try_fold(ImplicitSelection::NONE, |all, byte| all.with(*byte));
        let implicit = implicit.ok_or(DecodeError::Value)?;
        let index = |n: u8| (n != NO_INDEX).then_some(n);
        let len = r.u8()?;
        let aid = |bytes: &[u8]| Aid::try_from(bytes).map_err(|_| DecodeError::Value);
        Ok(Self {
            id,
            aid: aid(r.take(len.into())?)?,
            kind: match kind & !SECURE_ONLY {
                0 => r.finish().map(|()| EntryKind::Application)?,
                1 => EntryKind::ExecutableLoadFile {
                    module_aid: aid(r.rest())?,
                },
                _ => return Err(DecodeError::Value),
            },
            module: Module(module),
            life_cycle,
            privileges,
            access,
            implicit,
            load_file: index(load_file),
            security_domain: index(security_domain),
            secure_only: kind & SECURE_ONLY != 0,
            mark: NotZero::Value,
        })
    }
}

/// What of a registry a security domain sees: itself and what is associated with it or with domains below it; all with the privilege Global Registry.
#[derive(Clone, Copy, Debug)]
pub struct RegistryView<'r> {
    registry: &'r Registry,
    domain: u8,
}

impl<'r> RegistryView<'r> {
    /// The entries that it shows, with their indices.
    pub fn iter(self) -> impl Iterator<Item = (u8, &'r Entry)> {
        let is_seen = move |index| self.is_whole() || self.registry.is_within(index, self.domain);
        self.registry.iter().filter(move |(index, _)| is_seen(*index))
    }

    /// The applications and security domains that it shows.
    pub fn applications(self) -> impl Iterator<Item = (u8, &'r Entry)> {
        self.iter()
            .filter(|(_, entry)| entry.kind == EntryKind::Application)
    }

    /// Whether it shows all.
    pub const fn is_whole(self) -> bool {
        self.domain == ISD_INDEX
    }

    /// Whether the entry at an index is [secure-only](Registry::is_secure_only); of the issuer security domain, whether all else of the container is.
    pub fn is_secure_only(self, index: u8) -> bool {
        let is_marked = self.registry.get(index).is_some_and(|entry| entry.secure_only);
        is_marked || self.registry.is_secure_only(index)
    }

    /// The AID of the load file or the security domain of an entry that it shows.
    pub fn aid_of(self, index: Option<u8>) -> Option<Aid> {
        self.registry.get(index?).map(|entry| entry.aid)
    }
}

/// Whether an application answers on an interface; the issuer security domain does on each.
pub(crate) const fn answers(index: u8, entry: &Entry, on: Interface) -> bool {
    index == ISD_INDEX || entry.access.includes(on)
}

/// The entries of a container, in the order of their indices, which is the order of the search.
#[derive(Clone, Debug)]
pub struct Registry {
    entries: [Option<Entry>; ENTRIES_MAX],
    /// Another AID of the root, beside the one of its entry.
    root_name: Option<Aid>,
}

impl Registry {
    /// A registry without entries.
    pub const fn empty() -> Self {
        Self {
            entries: [None; ENTRIES_MAX],
            root_name: None,
        }
    }

    /// Puts an entry at an index, or removes it; does nothing beyond [`ENTRIES_MAX`]. This is the copy in RAM: NVM is not written.
    pub fn set(&mut self, index: u8, entry: Option<Entry>) {
        if let Some(slot) = self.entries.get_mut(usize::from(index)) {
            *slot = entry;
        }
    }

    /// The entry with this index.
    pub fn get(&self, index: u8) -> Option<&Entry> {
        self.entries.get(usize::from(index))?.as_ref()
    }

    /// The entry with this identity, and its index.
    pub(crate) fn entry(&self, id: EntryId) -> Option<(u8, &Entry)> {
        self.iter().find(|(_, entry)| entry.id == id)
    }

    /// The AID that the root was made with, where that is another than the common one of its entry (`docs/spec/routing.md`, 3).
    pub const fn root_name(&self) -> Option<Aid> {
        self.root_name
    }

    /// Gives the root another AID, by which it is found as well.
    pub(crate) const fn set_root_name(&mut self, aid: Option<Aid>) {
        self.root_name = aid;
    }

    /// The AIDs of an entry: all but the root have one.
    fn names_of(&self, index: u8, entry: &Entry) -> impl Iterator<Item = Aid> + use<> {
        let other = self.root_name.filter(|_| index == ISD_INDEX);
        [Some(entry.aid), other].into_iter().flatten()
    }

    /// The applications that SELECT may select at a place and whose AID starts with `name`, with their indices: what is closed or not shown there is as if
    /// it were not there.
    pub(crate) fn matching(&self, name: &PartialAid, place: Place) -> impl Iterator<Item = (u8, &Entry)> {
        self.iter().filter(move |(index, entry)| {
            entry.is_selectable()
                && answers(*index, entry, place.interface)
                && self.shows(*index, place)
                && self.is_named(*index, entry, name)
        })
    }

    /// Whether an AID of an entry starts with `name`.
    pub(crate) fn is_named(&self, index: u8, entry: &Entry, name: &PartialAid) -> bool {
        self.names_of(index, entry).any(|aid| aid.matches_partial(name))
    }

    /// Whether the application at an index is reached inside TLS sessions alone: it, or a security domain that it is within, is marked. Never the issuer security domain, which is what is selected where nothing else can be.
    pub fn is_secure_only(&self, index: u8) -> bool {
        index != ISD_INDEX && self.above(index).any(|(_, entry)| entry.secure_only)
    }

    /// Whether there is a TLS Manager, inside whose sessions what is secure-only is reached.
    pub(crate) fn has_tls_manager(&self) -> bool {
        self.applications()
            .any(|(_, entry)| entry.module == Module::TLS_MANAGER)
    }

    /// Whether there is, for whoever is at a place, an application at an index: a secure-only one is there inside TLS sessions alone.
    pub(crate) fn shows(&self, index: u8, place: Place) -> bool {
        place.is_inside() || !self.is_secure_only(index)
    }

    /// All entries with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &Entry)> {
        (0..)
            .zip(&self.entries)
            .filter_map(|(index, entry)| Some((index, entry.as_ref()?)))
    }

    /// The application with exactly this AID.
    pub fn application(&self, aid: &[u8]) -> Option<(u8, &Entry)> {
        self.applications()
            .find(|(index, entry)| self.names_of(*index, entry).any(|name| name.as_bytes() == aid))
    }

    /// The executable load file with exactly this AID, its index, and the AID of its module.
    pub(crate) fn load_file(&self, aid: &[u8]) -> Option<(u8, &Entry, Aid)> {
        self.iter().find_map(|(index, entry)| match entry.kind {
            EntryKind::ExecutableLoadFile { module_aid } if entry.aid.as_bytes() == aid => {
                Some((index, entry, module_aid))
            }
            _ => None,
        })
    }

    /// The application that has the privilege Card Reset, another than the one at `index` and the issuer security domain, without it.
    fn without_reset(&self, index: u8) -> Option<(u8, Entry)> {
        let reset = Privileges::CARD_RESET;
        let holds =
            |of: u8, entry: &Entry| ![index, ISD_INDEX].contains(&of) && entry.privileges.contains(reset);
        let (before, entry) = self.applications().find(|(of, entry)| holds(*of, entry))?;
        let privileges = entry.privileges.without(reset);
        Some((before, Entry { privileges, ..*entry }))
    }

    /// The application that is selected at a place without being named.
    pub(crate) fn implicit(&self, place: Place) -> Option<&Entry> {
        let mut all = self.applications().map(|(_, entry)| entry);
        all.find(|entry| entry.implicit.is_at(place))
    }

    /// Whether an application but the one at `index` is selected without being named where this says.
    pub(crate) fn is_taken(&self, index: u8, implicit: ImplicitSelection) -> bool {
        self.applications()
            .any(|(of, entry)| of != index && implicit.bytes().iter().any(|one| entry.implicit.meets(*one)))
    }

    /// Who loses the privilege Card Reset to what is to be the entry at an index, without it.
    pub(crate) fn loses_reset(&self, index: u8, entry: &Entry) -> Option<(u8, Entry)> {
        if entry.privileges.contains(Privileges::CARD_RESET) {
            self.without_reset(index)
        } else {
            None
        }
    }

    /// The privilege Card Reset is the issuer security domain's where no other application has it (GPC 6.6.2).
    pub(crate) fn settle_reset(&mut self) {
        let is_anothers = self.without_reset(ISD_INDEX).is_some();
        if let Some(Some(root)) = self.entries.first_mut() {
            let own = root.privileges.without(Privileges::CARD_RESET);
            root.privileges = if is_anothers {
                own
            } else {
                own.union(Privileges::CARD_RESET)
            };
        }
    }

    /// Whether the entry at an index is this security domain, or is associated with it or with one below it.
    pub(crate) fn is_within(&self, index: u8, domain: u8) -> bool {
        self.above(index).any(|(index, _)| index == domain)
    }

    /// The entry at an index, its security domain, that one's, and so on.
    fn above(&self, index: u8) -> impl Iterator<Item = (u8, &Entry)> {
        let next = |index: &u8| self.get(*index)?.security_domain;
        // The issuer security domain is its own.
        core::iter::successors(Some(index), next)
            .take(ENTRIES_MAX)
            .map_while(|index| Some((index, self.get(index)?)))
    }

    /// The application that SELECT may select at a place and whose AID is `name`, or else the first whose AID starts with it; behind the one at index `after`, the
    /// next (GPC 6.4.2.1.2). Nobody whose AID is longer takes the name of somebody who has it whole.
    pub(crate) fn find(&self, name: &PartialAid, after: Option<u8>, place: Place) -> Option<&Entry> {
        let is_whole = |index, entry: &Entry| {
            self.names_of(index, entry)
                .any(|aid| aid.as_bytes() == name.as_bytes())
        };
        let mut all = self.matching(name, place);
        let whole = all.find(|(index, entry)| is_whole(*index, entry));
        let after = match (whole, after) {
            (Some((_, entry)), None) => return Some(entry),
            (Some((whole, _)), Some(after)) => Some(after).filter(|after| *after != whole),
            (None, after) => after,
        };
        self.matching(name, place)
            .find(|(index, entry)| after.is_none_or(|after| *index > after) && !is_whole(*index, entry))
            .map(|(_, entry)| entry)
    }

    /// All of it.
    pub const fn whole(&self) -> RegistryView<'_> {
        RegistryView {
            registry: self,
            domain: ISD_INDEX,
        }
    }

    /// What is within a security domain.
    pub(crate) const fn of_domain(&self, domain: u8) -> RegistryView<'_> {
        RegistryView {
            registry: self,
            domain,
        }
    }

    /// The applications and security domains.
    pub fn applications(&self) -> impl Iterator<Item = (u8, &Entry)> {
        self.iter()
            .filter(|(_, entry)| entry.kind == EntryKind::Application)
    }
}

#[cfg(test)]
mod tests;
