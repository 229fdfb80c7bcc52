//! The first and every later start of an SE: personalisation in the factory, and boot.

use core::fmt;

use sekisho_apdu::gp::{CardLifeCycle, Privileges, key_type};
use sekisho_apdu::{Aid, StatusWord};
use sekisho_keys::{AesKey, KeySet};
use sekisho_link::Manifest;
use sekisho_nvm::{Flash, Store};
use sekisho_scp::ScpParameter;

use crate::application::Applications;
use crate::bulk;
use crate::channels::{CHANNELS_MAX, Channels};
use crate::container::{
    CardRecord, Container, ContainerMemory, ContainerParts, ISD_INDEX, new_entry, store_entry,
};
use crate::element::SecureElement;
use crate::interface::ContainerId;
use crate::keys::{KID_FIRST, KVN_DESIGNER, KVN_K_AUT, KVN_K_MAC, KVN_KOS, KeyRecord, KeyStore};
use crate::leftovers;
use crate::loader::Loader;
use crate::messaging::Messagings;
use crate::names::carried;
use crate::names::{EntryId, Owner, RecordKey, RecordKind};
use crate::nvm::{AnyFlash, BulkArea, Layout, Nvm, NvmParts, RECORDS_AT_A_TIME, Records, Staged, own_part};
use crate::profile::Profile;
use crate::refusal::Refusal;
use crate::registry::{Entry, Module};
use crate::secure::SecureChannels;
use crate::stack::{Depth, Stack};
use crate::state::{Core, InterfaceParts, Platform, PlatformParts};

/// What an SE gets in the factory.
#[derive(Debug)]
pub struct Personalisation<'a> {
    /// SE-id: key diversification data of INITIALIZE UPDATE, GET DATA 00CF.
    pub se_id: [u8; 10],
    /// SCP03 parameter "i": S8 or S16, and what else the SE can (Amd D Table 5-1).
    pub scp_parameter: ScpParameter,
    /// KVN of the SCP03 key set: 01 to 5F, or FF for initial keys, which the owner's first PUT KEY replaces.
    pub scp_kvn: u8,
    /// The SCP03 key set.
    pub scp: &'a KeySet,
    /// K-AUT; without it no receipt can be made and nothing activated.
    pub k_aut: &'a AesKey,
    /// Kos, if the SE is to take broadcast updates.
    pub kos: Option<&'a AesKey>,
    /// `K_MAC`, if it is to take them in custody 04.
    pub k_mac: Option<&'a AesKey>,
    /// The designer's public key, uncompressed.
    pub designer: Option<&'a [u8; 65]>,
    /// Version of Kos, `K_MAC` and the designer's key: 1, or that of the change by which the SEs made before have them.
    pub key_version: u32,
    /// The first OS part: its manifest and image.
    pub part: Option<(&'a Manifest, &'a [u8])>,
    /// Applications beside the card manager and the OS part, with the records that each begins with.
    pub applications: &'a [FactoryApplication<'a>],
    /// Data objects of the issuer security domain, as STORE DATA would write them: tag and value.
    pub data_objects: &'a [(u16, &'a [u8])],
    /// Life cycle state in which the SE leaves the factory.
    pub life_cycle: CardLifeCycle,
}

/// A record that an application begins with: which of its objects, which part of that, and the value. Part 0 is what
/// [`Context::get`](crate::Context::get) reads.
pub type OwnRecord<'a> = (u16, u8, &'a [u8]);

/// An application that an SE is delivered with.
#[derive(Debug)]
pub struct FactoryApplication<'a> {
    /// Its AID.
    pub aid: Aid,
    /// AID of the executable load file that the registry shows it to come from.
    pub load_file: Aid,
    /// The code behind it.
    pub module: Module,
    /// Its own records.
    pub records: &'a [OwnRecord<'a>],
}

/// Why an SE does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootError {
    /// The flash has fewer pages than the profile asks for.
    FlashTooSmall,
    /// The RAM budget does not hold the operating system's own state.
    RamTooSmall,
    /// The platform's stack is smaller than what the profile says that commands use.
    StackTooSmall,
    /// The profile has no logical channel, or more than there can be.
    Channels,
    /// The SE has not been made, or its making was broken off: make it.
    Blank,
    /// The SE has been made already; it is not made twice.
    AlreadyMade,
    /// The flash failed, or holds what this operating system cannot read; or the personalisation was refused. The status word says why.
    Refused(StatusWord),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FlashTooSmall => f.write_str("the flash is smaller than the profile asks for"),
            Self::RamTooSmall => f.write_str("the RAM budget is smaller than the operating system's state"),
            Self::StackTooSmall => f.write_str("the stack is smaller than what commands use"),
            Self::Channels => f.write_str("the profile asks for no logical channel, or for more than 20"),
            Self::Blank => f.write_str("the secure element has not been personalised"),
            Self::AlreadyMade => f.write_str("the secure element is personalised already"),
            Self::Refused(sw) => {
                write!(
                    f,
                    "flash or personalisation refused with status word {sw}, {}",
                    sw.meaning()
                )
            }
        }
    }
}

impl core::error::Error for BootError {}

impl From<Refusal> for BootError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.0)
    }
}

/// An SE that did not start, with the flash that it was to start from.
pub struct BootFailure<F> {
    /// Why.
    pub error: BootError,
    /// The flash, to try again with.
    pub flash: F,
}

impl<F> fmt::Debug for BootFailure<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootFailure")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<F> fmt::Display for BootFailure<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<F> core::error::Error for BootFailure<F> {}

/// AIDs of what comes with the operating system: GlobalPlatform's for security domains, ours for the OS part.
const SSD_LOAD_FILE: &[u8] = &[0xA0, 0x00, 0x00, 0x01, 0x51, 0x53, 0x50];
const SSD_MODULE: &[u8] = &[0xA0, 0x00, 0x00, 0x01, 0x51, 0x53, 0x50, 0x41];
const PART_LOAD_FILE: &[u8] = b"\xF0SKOS\x00";
const PART_APPLICATION: &[u8] = b"\xF0SKOS\x00\x01";

/// Registry indices of what comes with the operating system.
const SSD_LOAD_FILE_INDEX: u8 = 1;
const PART_LOAD_FILE_INDEX: u8 = 2;
const PART_INDEX: u8 = 3;

/// Registry index of the first application of [`Personalisation::applications`].
pub(crate) const FACTORY_INDEX: u8 = 4;

/// The privileges of the issuer security domain (GPC Table 6-2), as far as there is something behind them.
const ISD_PRIVILEGES: Privileges = Privileges::SECURITY_DOMAIN
    .union(Privileges::CARD_LOCK)
    .union(Privileges::CARD_TERMINATE)
    .union(Privileges::CARD_RESET)
    .union(Privileges::AUTHORIZED_MANAGEMENT)
    .union(Privileges::GLOBAL_LOCK)
    .union(Privileges::GLOBAL_REGISTRY)
    .union(Privileges::FINAL_APPLICATION);

/// How often the state of an SE stands on the stack of its start at once, in an unoptimised build.
const MOVES: usize = 6;

/// The parts of an SE that stand in NVM, and what has been read from there.
struct Persistent<I, C> {
    store: Store<I>,
    area: BulkArea,
    layout: Layout,
    /// None, where the eSE has not been made.
    containers: Option<C>,
}

impl Layout {
    /// Store first, then both slots, then the area, in whole pages.
    fn of(flash: &AnyFlash<'_>, profile: &Profile) -> Result<Self, BootError> {
        let pages = |bytes: usize| bytes.div_ceil(flash.page_size().max(1)).max(1);
        let store = pages(profile.store_bytes);
        let slot = pages(profile.slot_bytes);
        let area = store + 2 * slot;
        let end = area + profile.area_bytes.div_ceil(flash.page_size().max(1));
        let layout = Self {
            store: 0..store,
            slots: [store..store + slot, store + slot..area],
            area: area..end,
            area_quota: profile.area_quota / flash.page_size().max(1),
        };
        if end > flash.pages() {
            return Err(BootError::FlashTooSmall);
        }
        Ok(layout)
    }
}

impl<P: Platform> SecureElement<P> {
    /// Starts an SE that has been made.
    ///
    /// # Errors
    /// [`BootFailure`]; with [`BootError::Blank`] the flash is to be given to [`SecureElement::manufacture`].
    pub fn boot(flash: P::Flash, rng: P::Rng, profile: &Profile) -> Result<Self, BootFailure<P::Flash>> {
        let started = Self::start(flash, rng, profile);
        // Records have been read, and moved if the store was left untidy: keys are among them.
        Self::stack_of_a_start(profile).wipe();
        started
    }

    /// What a start uses, of which the state of the SE is the most: it is moved on its way out, with whatever stands between the moves.
    fn stack_of_a_start(profile: &Profile) -> Stack {
        Stack::of(profile, Depth::Whole, P::stack_low()).and(MOVES * size_of::<Self>())
    }

    /// Not inlined: [`Stack::wipe`] wipes what is below its caller.
    #[inline(never)]
    fn start(mut flash: P::Flash, rng: P::Rng, profile: &Profile) -> Result<Self, BootFailure<P::Flash>> {
        match Self::load(&mut flash, profile) {
            Ok(mut persistent) => match Self::start_loader(&mut flash, profile, &mut persistent) {
                Ok((loader, containers)) => {
                    Ok(Self::running(flash, rng, profile, persistent, containers, loader))
                }
                Err(error) => Err(BootFailure { error, flash }),
            },
            Err(error) => Err(BootFailure { error, flash }),
        }
    }

    /// Makes an SE with one container, as [`SecureElement::manufacture_all`] does with several.
    ///
    /// # Errors
    /// As of [`SecureElement::manufacture_all`].
    pub fn manufacture(
        flash: P::Flash,
        rng: P::Rng,
        profile: &Profile,
        personalisation: &Personalisation<'_>,
    ) -> Result<Self, BootFailure<P::Flash>> {
        Self::manufacture_all(flash, rng, profile, &[personalisation])
    }

    /// Makes an SE with a container for each personalisation, from number 1, the eSE, on; only that one's names what is the platform's: OS part, Kos, `K_MAC`, the designer's key. It erases the store, installs the first OS part, and writes keys, registry, applications and, as the last and as the
    /// seal, the card records. Broken off anywhere, it leaves a blank SE, to be made from the beginning.
    ///
    /// # Errors
    /// [`BootFailure`]; [`BootError::AlreadyMade`] when there is an SE on this flash; 6A84 without a container or with more than the platform has
    /// room for, 6985 for what is the platform's in one that is not the eSE.
    pub fn manufacture_all(
        mut flash: P::Flash,
        rng: P::Rng,
        profile: &Profile,
        personalisations: &[&Personalisation<'_>],
    ) -> Result<Self, BootFailure<P::Flash>> {
        let made = Self::make(&mut flash, profile, personalisations);
        Self::stack_of_a_start(profile).wipe();
        match made {
            Ok(()) => Self::boot(flash, rng, profile),
            Err(error) => Err(BootFailure { error, flash }),
        }
    }

    /// Reads what there is.
    fn load(
        flash: &mut P::Flash,
        profile: &Profile,
    ) -> Result<Persistent<P::Index, P::Containers>, BootError> {
        if profile.ram < size_of::<Self>() {
            return Err(BootError::RamTooSmall);
        }
        if !Stack::of(profile, Depth::Whole, P::stack_low()).is_there() {
            return Err(BootError::StackTooSmall);
        }
        if profile.logical_channels == 0 || usize::from(profile.logical_channels) > CHANNELS_MAX {
            return Err(BootError::Channels);
        }
        let mut flash = AnyFlash::new(flash);
        let layout = Layout::of(&flash, profile)?;
        let mut store = match Store::<P::Index>::open_or_carry(&mut flash, layout.store.clone(), carried) {
            Ok(store) => store,
            Err(sekisho_nvm::Error::NotFormatted) => return Err(BootError::Blank),
            Err(sekisho_nvm::Error::Geometry) => return Err(BootError::FlashTooSmall),
            Err(error) => return Err(Refusal::from(error).into()),
        };
        let mut area = BulkArea::new(layout.area.clone());
        let nvm = Nvm {
            flash,
            store: &mut store,
            area: &mut area,
            layout: &layout,
        };
        let mut staged = Staged::new();
        let mut records = Records {
            nvm,
            staged: &mut staged,
        };
        let mut containers = P::Containers::NEW;
        let mut is_made = false;
        for (number, container) in (1..).zip(containers.all_mut()) {
            let id = ContainerId(number);
            if let Some(made) = Container::load(&mut records, id)? {
                leftovers::sweep(&mut records, id)?;
                is_made |= id == ContainerId::ESE;
                *container = made;
            }
            if !is_made {
                break;
            }
        }
        if is_made {
            bulk::open(&mut records.nvm)?;
        }
        let containers = is_made.then_some(containers);
        Ok(Persistent {
            store,
            area,
            layout,
            containers,
        })
    }

    fn start_loader(
        flash: &mut P::Flash,
        profile: &Profile,
        persistent: &mut Persistent<P::Index, P::Containers>,
    ) -> Result<(Loader, P::Containers), BootError> {
        let containers = persistent.containers.take().ok_or(BootError::Blank)?;
        let mut nvm = Nvm {
            flash: AnyFlash::new(flash),
            store: &mut persistent.store,
            area: &mut persistent.area,
            layout: &persistent.layout,
        };
        let loader = Loader::boot(&mut nvm, Self::part_ram(profile)).map_err(BootError::Refused)?;
        Ok((loader, containers))
    }

    fn running(
        flash: P::Flash,
        rng: P::Rng,
        profile: &Profile,
        persistent: Persistent<P::Index, P::Containers>,
        table: P::Containers,
        loader: Loader,
    ) -> Self {
        let containers = ContainerParts {
            pairing: profile.pairing,
            table,
        };
        let root = |interface| containers.on(interface).root();
        let channels = Channels::new(profile.logical_channels, root);
        Self::assemble(Core {
            platform: PlatformParts {
                rng,
                applications: P::Applications::NEW,
                profile: profile.clone(),
                free_ram: Self::part_ram(profile),
            },
            nvm: NvmParts {
                flash,
                store: persistent.store,
                area: persistent.area,
                layout: persistent.layout,
            },
            containers,
            interfaces: InterfaceParts {
                channels,
                secure: SecureChannels::new(),
                messaging: Messagings::new(),
            },
            loader,
            mute: false,
        })
    }

    #[inline(never)]
    fn make(
        flash: &mut P::Flash,
        profile: &Profile,
        personalisations: &[&Personalisation<'_>],
    ) -> Result<(), BootError> {
        let (root, others) = personalisations
            .split_first()
            .filter(|_| personalisations.len() <= P::Containers::NEW.all().len())
            .ok_or(BootError::Refused(StatusWord::NOT_ENOUGH_MEMORY))?;
        if others.iter().any(|other| other.is_platforms()) {
            return Err(BootError::Refused(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        match Self::load(flash, profile) {
            Ok(made) if made.containers.is_some() => return Err(BootError::AlreadyMade),
            Ok(_) | Err(BootError::Blank) => {}
            Err(error) => return Err(error),
        }
        let mut flash = AnyFlash::new(flash);
        let layout = Layout::of(&flash, profile)?;
        let mut store = Store::<P::Index>::format(&mut flash, layout.store.clone()).map_err(Refusal::from)?;
        // What stands in the area goes at the first boot.
        let mut area = BulkArea::new(layout.area.clone());
        let mut nvm = Nvm {
            flash,
            store: &mut store,
            area: &mut area,
            layout: &layout,
        };
        if let Some((manifest, image)) = root.part {
            Loader::install_initial(&mut nvm, manifest, image, Self::part_ram(profile))
                .map_err(BootError::Refused)?;
        }
        Loader::install_key_version(&mut nvm, root.key_version).map_err(BootError::Refused)?;
        let mut staged = Staged::new();
        let mut records = Records {
            nvm: nvm.reborrow(),
            staged: &mut staged,
        };
        let numbered = || (1..).map(ContainerId).zip(personalisations.iter().copied());
        for (container, personalisation) in numbered() {
            make_container(&mut records, profile, container, personalisation)?;
        }
        // The seals of all of them, in one transaction.
        for (container, personalisation) in numbered() {
            personalisation.card().store(&mut records, container)?;
        }
        Ok(staged.commit(&mut nvm, false)?)
    }
}

impl Personalisation<'_> {
    /// Whether it holds what is the platform's.
    const fn is_platforms(&self) -> bool {
        self.kos.is_some() || self.k_mac.is_some() || self.designer.is_some() || self.part.is_some()
    }

    const fn card(&self) -> CardRecord {
        CardRecord {
            life_cycle: self.life_cycle,
            se_id: self.se_id,
            scp: self.scp_parameter,
        }
    }
}

/// Writes what stands in a container, but for its card record.
fn make_container(
    records: &mut Records<'_>,
    profile: &Profile,
    container: ContainerId,
    personalisation: &Personalisation<'_>,
) -> Result<(), Refusal> {
    let root = stage_registry(records, container, profile)?;
    stage_keys(records, root, personalisation)?;
    flush(records)?;
    stage_applications(records, container, personalisation.applications)?;
    for (tag, value) in personalisation.data_objects {
        let object = RecordKey::new(Owner::Entry(root), RecordKind::DataObject, *tag);
        records.put(object, value)?;
    }
    flush(records)
}

fn stage_keys(records: &mut Records<'_>, domain: EntryId, keys: &Personalisation<'_>) -> Result<(), Refusal> {
    let mut store = KeyStore { records, domain };
    store.put(0, keys.scp_kvn, &KeyRecord::of_set(keys.scp)?)?;
    let aes = |key: &'_ AesKey| single(key_type::AES, key.as_bytes());
    let others = [
        (KVN_K_AUT, Some(aes(keys.k_aut)?)),
        (KVN_KOS, keys.kos.map(aes).transpose()?),
        (KVN_K_MAC, keys.k_mac.map(aes).transpose()?),
        (
            KVN_DESIGNER,
            keys.designer
                .map(|point| single(key_type::ECC_PUBLIC, point))
                .transpose()?,
        ),
    ];
    for (kvn, key) in others {
        if let Some(key) = key {
            store.put(0, kvn, &key)?;
        }
    }
    Ok(())
}

/// A key that is alone in its version.
fn single(kind: u8, value: &[u8]) -> Result<KeyRecord, Refusal> {
    let mut record = KeyRecord::new();
    record.push(KID_FIRST, kind, value)?;
    Ok(record)
}

/// What comes with the operating system; gives the issuer security domain.
fn stage_registry(
    records: &mut Records<'_>,
    container: ContainerId,
    profile: &Profile,
) -> Result<EntryId, Refusal> {
    let aid = |bytes: &[u8]| Aid::try_from(bytes).map_err(|_| Refusal(StatusWord::INCORRECT_DATA));
    let root = new_entry(records)?;
    let isd = Entry::application(
        root,
        profile.isd_aid,
        Module::CARD_MANAGER,
        ISD_PRIVILEGES,
        SSD_LOAD_FILE_INDEX,
        ISD_INDEX,
    );
    store_entry(records, container, ISD_INDEX, &isd)?;
    for (index, file, module, module_aid) in [
        (
            SSD_LOAD_FILE_INDEX,
            SSD_LOAD_FILE,
            Module::CARD_MANAGER,
            SSD_MODULE,
        ),
        (
            PART_LOAD_FILE_INDEX,
            PART_LOAD_FILE,
            Module::OS_PART,
            PART_APPLICATION,
        ),
    ] {
        let id = new_entry(records)?;
        let file = Entry::load_file(id, aid(file)?, module, aid(module_aid)?, ISD_INDEX);
        store_entry(records, container, index, &file)?;
    }
    let part = Entry::application(
        new_entry(records)?,
        aid(PART_APPLICATION)?,
        Module::OS_PART,
        Privileges::NONE,
        PART_LOAD_FILE_INDEX,
        ISD_INDEX,
    );
    store_entry(records, container, PART_INDEX, &part)?;
    Ok(root)
}

fn flush(records: &mut Records<'_>) -> Result<(), Refusal> {
    records.staged.commit(&mut records.nvm, false)?;
    records.staged.clear();
    Ok(())
}

/// Two entries for each application: its load file's and its own.
fn stage_applications(
    records: &mut Records<'_>,
    container: ContainerId,
    applications: &[FactoryApplication<'_>],
) -> Result<(), Refusal> {
    for (file_index, application) in (FACTORY_INDEX..).step_by(2).zip(applications) {
        let index = file_index + 1;
        let FactoryApplication {
            aid,
            load_file,
            module,
            ..
        } = *application;
        let file = Entry::load_file(new_entry(records)?, load_file, module, aid, ISD_INDEX);
        store_entry(records, container, file_index, &file)?;
        let id = new_entry(records)?;
        let entry = Entry::application(id, aid, module, Privileges::NONE, file_index, ISD_INDEX);
        store_entry(records, container, index, &entry)?;
        for some in application.records.chunks(RECORDS_AT_A_TIME) {
            for (object, part, value) in some {
                records.staged.stage(own_part(id, *object, *part), Some(value))?;
            }
            flush(records)?;
        }
    }
    flush(records)
}
