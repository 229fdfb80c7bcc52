//! The factory step: an SE is made on a blank flash.

use sekisho_apdu::gp::{CardLifeCycle, Privileges, key_type};
use sekisho_apdu::{Aid, StatusWord};
use sekisho_keys::{AesKey, KeySet};
use sekisho_link::Manifest;
use sekisho_scp::ScpParameter;

use crate::container::{CardRecord, ContainerMemory, name, new_entry, store_entry};
use crate::element::SecureElement;
use crate::interface::ContainerId;
use crate::keys::{KID_FIRST, KVN_DESIGNER, KVN_K_AUT, KVN_K_MAC, KVN_KOS, KVN_PAIRING, KeyRecord, KeyStore};
use crate::loader::Loader;
use crate::names::{EntryId, Owner, RecordKey, RecordKind};
use crate::nvm::{RECORDS_AT_A_TIME, Records, own};
use crate::profile::Profile;
use crate::refusal::Refusal;
use crate::registry::{Entry, FACTORY_INDEX, ISD_INDEX, Module};
use crate::start::BootError;
use crate::state::Platform;

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
    /// The platform's key 64, if pairing data are to be changed in the field.
    pub pairing_key: Option<&'a AesKey>,
    /// The AID that the issuer security domain is made with, where it is to have another beside [the product's](Profile::isd_aid).
    pub isd_aid: Option<Aid>,
    /// The one of `applications` that is selected after a reset (privilege Card Reset); else it is the issuer security domain.
    pub default_application: Option<Aid>,
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

/// AIDs of what comes with the operating system: GlobalPlatform's for security domains, ours for the OS part.
const SSD_LOAD_FILE: &[u8] = &[0xA0, 0x00, 0x00, 0x01, 0x51, 0x53, 0x50];
const SSD_MODULE: &[u8] = &[0xA0, 0x00, 0x00, 0x01, 0x51, 0x53, 0x50, 0x41];
const PART_LOAD_FILE: &[u8] = b"\xF0SKOS\x00";
const PART_APPLICATION: &[u8] = b"\xF0SKOS\x00\x01";

/// Registry indices of what comes with the operating system.
const SSD_LOAD_FILE_INDEX: u8 = 1;
const PART_LOAD_FILE_INDEX: u8 = 2;
const PART_INDEX: u8 = 3;

/// The privileges of the issuer security domain (GPC Table 6-2), as far as there is something behind them.
const ISD_PRIVILEGES: Privileges = Privileges::SECURITY_DOMAIN
    .union(Privileges::CARD_LOCK)
    .union(Privileges::CARD_TERMINATE)
    .union(Privileges::CARD_RESET)
    .union(Privileges::AUTHORIZED_MANAGEMENT)
    .union(Privileges::TOKEN_MANAGEMENT)
    .union(Privileges::GLOBAL_DELETE)
    .union(Privileges::GLOBAL_LOCK)
    .union(Privileges::GLOBAL_REGISTRY)
    .union(Privileges::FINAL_APPLICATION)
    .union(Privileges::RECEIPT_GENERATION);

impl<P: Platform> SecureElement<P> {
    /// Makes an SE, where it stands, with a container for each personalisation, from number 1, the eSE, on; only that one's names what is the platform's: OS part, Kos, `K_MAC`, the designer's key. It erases the store, installs the first OS part, and writes keys, registry, applications and, as the last and as the
    /// seal, the card records. Broken off anywhere, it leaves a blank SE, to be made from the beginning. Then it [boots](SecureElement::boot).
    ///
    /// # Errors
    /// The SE is off then. [`BootError::AlreadyMade`] when there is an SE on this flash; 6A84 without a container or with more than the platform has
    /// room for, 6985 for what is the platform's in one that is not the eSE.
    pub fn manufacture(
        &mut self,
        profile: &Profile,
        personalisations: &[&Personalisation<'_>],
    ) -> Result<(), BootError> {
        let made = self.make(profile, personalisations);
        Self::wipe_stack(profile);
        match made {
            Ok(()) => self.boot(profile),
            Err(error) => {
                self.switch_off();
                Err(error)
            }
        }
    }

    #[inline(never)]
    fn make(
        &mut self,
        profile: &Profile,
        personalisations: &[&Personalisation<'_>],
    ) -> Result<(), BootError> {
        self.switch_off();
        let room = self.core.containers.table.all().len();
        let (root, others) = personalisations
            .split_first()
            .filter(|_| personalisations.len() <= room)
            .ok_or(BootError::Refused(StatusWord::NOT_ENOUGH_MEMORY))?;
        if others.iter().any(|other| other.is_platforms()) {
            return Err(BootError::Refused(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        match self.load(profile) {
            Ok(()) => return Err(BootError::AlreadyMade),
            Err(BootError::Blank) => {}
            Err(error) => return Err(error),
        }
        let staged = &mut self.buffers.scratch.staged;
        let mut nvm = self.core.nvm.open();
        // What stands in the area goes at the first boot.
        nvm.store
            .format_in_place(&mut nvm.flash, nvm.layout.store.clone())
            .map_err(Refusal::from)?;
        if let Some((manifest, image)) = root.part {
            Loader::install_initial(&mut nvm, manifest, image, Self::part_ram(profile))
                .map_err(BootError::Refused)?;
        }
        Loader::install_key_version(&mut nvm, root.key_version).map_err(BootError::Refused)?;
        let mut records = Records { nvm, staged };
        let numbered = || (1..).map(ContainerId).zip(personalisations.iter().copied());
        for (container, personalisation) in numbered() {
            make_container(&mut records, profile, container, personalisation)?;
        }
        // The seals of all of them, in one transaction.
        for (container, personalisation) in numbered() {
            personalisation.card().store(&mut records, container)?;
        }
        Ok(flush(&mut records)?)
    }
}

impl Personalisation<'_> {
    /// Whether it holds what is the platform's.
    const fn is_platforms(&self) -> bool {
        self.kos.is_some()
            || self.k_mac.is_some()
            || self.designer.is_some()
            || self.pairing_key.is_some()
            || self.part.is_some()
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
    let root = stage_registry(records, container, profile, personalisation)?;
    stage_keys(records, root, personalisation)?;
    flush(records)?;
    stage_applications(records, container, personalisation)?;
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
        (KVN_PAIRING, keys.pairing_key.map(aes).transpose()?),
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
    personalisation: &Personalisation<'_>,
) -> Result<EntryId, Refusal> {
    let aid = |bytes: &[u8]| Aid::try_from(bytes).map_err(|_| Refusal(StatusWord::INCORRECT_DATA));
    let root = new_entry(records, container)?;
    let isd = Entry::application(
        root,
        profile.isd_aid,
        Module::CARD_MANAGER,
        ISD_PRIVILEGES,
        SSD_LOAD_FILE_INDEX,
        ISD_INDEX,
    );
    let isd = Entry {
        access: profile.root_access,
        ..isd
    };
    if let Some(own) = personalisation.isd_aid.filter(|own| *own != profile.isd_aid) {
        records.put(name(container, RecordKind::RootName, 0), own.as_bytes())?;
    }
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
        let id = new_entry(records, container)?;
        let file = Entry::load_file(id, aid(file)?, module, aid(module_aid)?, ISD_INDEX);
        store_entry(records, container, index, &file)?;
    }
    let part = Entry::application(
        new_entry(records, container)?,
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
    personalisation: &Personalisation<'_>,
) -> Result<(), Refusal> {
    let applications = personalisation.applications;
    for (file_index, application) in (FACTORY_INDEX..).step_by(2).zip(applications) {
        let index = file_index + 1;
        let FactoryApplication {
            aid,
            load_file,
            module,
            ..
        } = *application;
        let file = Entry::load_file(new_entry(records, container)?, load_file, module, aid, ISD_INDEX);
        store_entry(records, container, file_index, &file)?;
        let id = new_entry(records, container)?;
        let privileges = if personalisation.default_application == Some(aid) {
            Privileges::CARD_RESET
        } else {
            Privileges::NONE
        };
        let entry = Entry::application(id, aid, module, privileges, file_index, ISD_INDEX);
        store_entry(records, container, index, &entry)?;
        for some in application.records.chunks(RECORDS_AT_A_TIME) {
            for (object, part, value) in some {
                let key = own(id, *object, *part);
                // Long ones fill the room before there are so many.
                if records.staged.stage(key, Some(value)).is_err() {
                    flush(records)?;
                    records.staged.stage(key, Some(value))?;
                }
            }
            flush(records)?;
        }
    }
    flush(records)
}
