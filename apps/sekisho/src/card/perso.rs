//! What a new card is made with.

use std::borrow::Cow;

use anyhow::{Context, Result, anyhow, bail};
use sekisho_apdu::Aid;
use sekisho_apdu::gp::CardLifeCycle;
use sekisho_applets::file_system::{self, image::Image};
use sekisho_applets::{sec_app, tls_manager};
use sekisho_hsm::{PersoFile, ProductFile};
use sekisho_keys::{AesKey, KeySet, sha256};
use sekisho_link::{Manifest, SeId, host_abi};
use sekisho_messaging::setup::Policy;
use sekisho_os::{FactoryApplication, KVN_INITIAL, MESSAGING_POLICY, Module, OwnRecord, Personalisation};
use sekisho_paging::Uid;
use sekisho_paging::device::{DeviceKey, Record, State};
use sekisho_paging::keys::{Keyspace, RecoveryKey, Root};
use sekisho_scp::ScpParameter;

use super::tls_perso::TlsRecords;

/// The OS part that a new card begins with.
static FIRST_PART: &[u8] = include_bytes!("../../../../applets/prebuilt/meter-v1.wasm");
/// Its version.
const FIRST_VERSION: u32 = 1;

/// Polling interval of a new card in seconds: a quarter of an hour, until the server says otherwise.
const INTERVAL: u32 = 900;

/// The initial key of GlobalPlatform test cards, which host software tries by itself: 40 to 4F.
const INITIAL_KEY: [u8; 16] = [
    0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x4B, 0x4C, 0x4D, 0x4E, 0x4F,
];

/// What the root of a second container is made with, as in the worked SE of `docs/spec/routing.md`.
const SECOND_ROOT: &[u8] = &[0xA0, 0x00, 0x00, 0x01, 0x52, 0x00, 0x00, 0x00];

/// Parameter "i" of SCP03, with S16 or with S8.
const fn parameter(s16: bool) -> ScpParameter {
    if s16 {
        ScpParameter::FULL_S16
    } else {
        ScpParameter::FULL_S8
    }
}

/// The SEs of a batch that are meant: one for each container, in their order.
fn chosen(files: Vec<PersoFile>, se_ids: &[SeId], containers: usize) -> Result<Vec<PersoFile>> {
    let count = files.len();
    if se_ids.is_empty() {
        match (count == containers, containers) {
            (true, _) => return Ok(files),
            (false, 1) => {
                bail!("the personalisation file has {count} secure elements: which one? Give --se-id")
            }
            (false, _) => bail!(
                "each of the {containers} containers has keys of its own, and the personalisation file has those of {count}: give --se-id {containers} times, in the order of the containers"
            ),
        }
    }
    if se_ids.len() != containers {
        bail!(
            "--se-id is given {} times, and the card has {containers} {}",
            se_ids.len(),
            if containers == 1 {
                "container"
            } else {
                "containers"
            }
        );
    }
    if se_ids
        .iter()
        .zip(se_ids.iter().skip(1))
        .any(|(one, next)| one == next)
    {
        bail!("--se-id names one secure element twice");
    }
    let mut files = files;
    let mut of = |wanted: &SeId| -> Result<PersoFile> {
        let ids = files
            .iter()
            .map(PersoFile::se_id)
            .collect::<Result<Vec<_>, _>>()?;
        match ids.iter().position(|id| id == wanted) {
            Some(at) => Ok(files.swap_remove(at)),
            None => bail!("the personalisation file has no such secure element: {wanted}"),
        }
    };
    se_ids.iter().map(&mut of).collect()
}

/// What a new card is made with, owned.
pub(crate) struct Perso {
    pub(crate) se_id: SeId,
    pub(crate) scp_parameter: ScpParameter,
    pub(crate) scp_kvn: u8,
    pub(crate) scp: KeySet,
    pub(crate) k_aut: AesKey,
    pub(crate) kos: Option<AesKey>,
    pub(crate) k_mac: Option<AesKey>,
    pub(crate) designer: Option<[u8; 65]>,
    /// Version of these three.
    pub(crate) key_version: u32,
    /// SecApp, which begins without an identity and gets its first by recovery.
    pub(crate) sec_app: Option<SecAppRecords>,
    /// The file system.
    pub(crate) files: Option<Image>,
    /// The TLS Manager.
    pub(crate) tls: Option<TlsRecords>,
}

impl Perso {
    /// A developer's card: initial keys that everybody knows, KVN FF, a random SE-id, and nothing to be updated with; SCP03 with S16 or S8.
    pub(crate) fn developer(s16: bool) -> Result<Self> {
        let key = || AesKey::new(&INITIAL_KEY).context("initial key");
        let mut se_id = [0; 10];
        getrandom::fill(&mut se_id).context("no randomness for the SE-id")?;
        Ok(Self {
            se_id: SeId(se_id),
            scp_parameter: parameter(s16),
            scp_kvn: KVN_INITIAL,
            scp: KeySet {
                enc: key()?,
                mac: key()?,
                dek: key()?,
            },
            k_aut: key()?,
            kos: None,
            k_mac: None,
            designer: None,
            key_version: Manifest::FIRST_KEY_VERSION,
            sec_app: None,
            files: Some(Image::of_test_card().map_err(|refusal| anyhow!("test card: {refusal}"))?),
            tls: None,
        })
    }

    /// Individual keys and those of the product, as `sekisho hsm perso` and `sekisho design hand-over` wrote them: for each container in its order. The file of
    /// individual keys may have those of the product as well, as that of version 0.1 does. `se_ids` choose from a batch.
    pub(crate) fn read(
        individual: &str,
        product: Option<&ProductFile>,
        se_ids: &[SeId],
        containers: usize,
    ) -> Result<Vec<Self>> {
        let files = chosen(PersoFile::parse_batch(individual)?, se_ids, containers)?;
        files.iter().map(|file| Self::of(file, product)).collect()
    }

    fn of(file: &PersoFile, product: Option<&ProductFile>) -> Result<Self> {
        let own = file.product()?;
        let product = match (&own, product) {
            (Some(product), None) => product,
            (None, Some(product)) => product,
            (Some(_), Some(_)) => {
                bail!("the personalisation file has the keys of its product already: give no --product")
            }
            (None, None) => bail!("which product? Give --product, from sekisho design hand-over"),
        };
        let [kos, k_mac] = product.keys()?;
        let k_aut = file.k_aut()?;
        Ok(Self {
            se_id: file.se_id()?,
            scp_parameter: parameter(file.s16),
            scp_kvn: file.kvn,
            scp: file.scp()?,
            k_aut,
            kos: Some(kos),
            k_mac: Some(k_mac),
            designer: Some(product.designer()?),
            key_version: product.key_version,
            sec_app: file.paging_root()?.map(|root| {
                let root = Root::new(root);
                let recovery = root.recovery_key();
                let state = State::new(
                    Uid::default(),
                    Keyspace::default(),
                    DeviceKey::Fixed(root),
                    INTERVAL,
                );
                SecAppRecords::new(&state, &recovery)
            }),
            files: match file.file_keys()? {
                Some([mkey, external]) => Some(
                    Image::of_card(mkey.as_bytes(), external.as_bytes())
                        .map_err(|refusal| anyhow!("file system: {refusal}"))?,
                ),
                None => None,
            },
            tls: None,
        })
    }

    /// Lends what each container is made with, the eSE first, all with this policy for secure messaging.
    pub(crate) fn lend<T>(
        persos: &[Self],
        first: &FirstPart,
        policy: Policy,
        make: impl FnOnce(&[&Personalisation<'_>]) -> T,
    ) -> Result<T> {
        let policy = policy.to_bytes();
        let objects: [(u16, &[u8]); 1] = [(MESSAGING_POLICY, &policy)];
        let paging: Vec<_> = persos
            .iter()
            .map(|perso| perso.sec_app.as_ref().map(SecAppRecords::borrowed))
            .collect();
        let files: Vec<Vec<_>> = persos
            .iter()
            .map(|perso| perso.files.iter().flat_map(Image::iter).collect())
            .collect();
        let tls: Vec<Vec<_>> = persos
            .iter()
            .map(|perso| perso.tls.iter().flat_map(TlsRecords::iter).collect())
            .collect();
        let mut applications = Vec::new();
        for (((perso, paging), files), tls) in persos.iter().zip(&paging).zip(&files).zip(&tls) {
            let paging = paging.as_ref().map(|records| sec_app(records)).transpose()?;
            let files = perso.files.as_ref().map(|_| file_system(files)).transpose()?;
            let tls = perso.tls.as_ref().map(|_| tls_manager(tls)).transpose()?;
            applications.push(paging.into_iter().chain(files).chain(tls).collect::<Vec<_>>());
        }
        let made: Vec<_> = persos
            .iter()
            .zip(&applications)
            .enumerate()
            .map(|(at, (perso, applications))| match at {
                0 => perso.borrowed(first, applications, &objects),
                _ => perso.borrowed_beside(applications, &objects),
            })
            .collect();
        Ok(make(&made.iter().collect::<Vec<_>>()))
    }

    /// As the secure element takes it for a container beside the eSE: without what is the platform's, and its root made with [`SECOND_ROOT`].
    fn borrowed_beside<'a>(
        &'a self,
        applications: &'a [FactoryApplication<'a>],
        data_objects: &'a [(u16, &'a [u8])],
    ) -> Personalisation<'a> {
        Personalisation {
            kos: None,
            k_mac: None,
            designer: None,
            isd_aid: Aid::new(SECOND_ROOT),
            part: None,
            ..self.borrowed(None, applications, data_objects)
        }
    }

    /// As the secure element takes it.
    pub(crate) fn borrowed<'a>(
        &'a self,
        first: impl Into<Option<&'a FirstPart>>,
        applications: &'a [FactoryApplication<'a>],
        data_objects: &'a [(u16, &'a [u8])],
    ) -> Personalisation<'a> {
        Personalisation {
            se_id: self.se_id.0,
            scp_parameter: self.scp_parameter,
            scp_kvn: self.scp_kvn,
            scp: &self.scp,
            k_aut: &self.k_aut,
            kos: self.kos.as_ref(),
            k_mac: self.k_mac.as_ref(),
            designer: self.designer.as_ref(),
            pairing_key: None,
            isd_aid: None,
            default_application: None,
            key_version: self.key_version,
            part: first.into().map(FirstPart::parts),
            applications,
            data_objects,
            life_cycle: CardLifeCycle::OpReady,
        }
    }
}

/// The OS part that a new card begins with, and its manifest, which needs no signature in the factory.
pub(crate) struct FirstPart {
    manifest: Manifest,
    image: Cow<'static, [u8]>,
}

impl FirstPart {
    pub(crate) fn new() -> Result<Self> {
        Self::of(FIRST_VERSION, FIRST_PART)
    }

    /// Another one than the meter.
    pub(crate) fn of(version: u32, image: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        let image = image.into();
        let manifest = Manifest {
            target: Manifest::OS_PART,
            code_format: Manifest::WEBASSEMBLY,
            abi: host_abi(&image),
            version,
            min_previous: 0,
            length: u32::try_from(image.len()).context("the first OS part is too long")?,
            package_id: [0; 16],
            digest: sha256(&[&image]),
        };
        Ok(Self { manifest, image })
    }

    /// As the secure element takes it.
    pub(crate) fn parts(&self) -> (&Manifest, &[u8]) {
        (&self.manifest, &self.image)
    }
}

/// What SecApp is personalised with.
pub(crate) struct SecAppRecords {
    state: Record,
    recovery: RecoveryKey,
}

impl SecAppRecords {
    pub(crate) fn new(state: &State, recovery: &RecoveryKey) -> Self {
        Self {
            state: state.record(),
            recovery: recovery.clone(),
        }
    }

    pub(crate) fn borrowed(&self) -> [OwnRecord<'_>; 2] {
        [
            (sec_app::STATE_RECORD, 0, &self.state.0),
            (sec_app::RECOVERY_RECORD, 0, self.recovery.as_bytes()),
        ]
    }
}

/// SecApp, as a secure element is delivered with it.
pub(crate) fn sec_app<'a>(records: &'a [OwnRecord<'a>]) -> Result<FactoryApplication<'a>> {
    application(sec_app::AID, sec_app::LOAD_FILE_AID, Module::SEC_APP, records)
}

/// The file system, as a secure element is delivered with it.
pub(crate) fn file_system<'a>(records: &'a [OwnRecord<'a>]) -> Result<FactoryApplication<'a>> {
    application(
        file_system::AID,
        file_system::LOAD_FILE_AID,
        Module::FILE_SYSTEM,
        records,
    )
}

/// The TLS Manager, as a secure element is delivered with it.
pub(crate) fn tls_manager<'a>(records: &'a [OwnRecord<'a>]) -> Result<FactoryApplication<'a>> {
    application(
        tls_manager::AID,
        tls_manager::LOAD_FILE_AID,
        Module::TLS_MANAGER,
        records,
    )
}

fn application<'a>(
    aid: &[u8],
    load_file: &[u8],
    module: Module,
    records: &'a [OwnRecord<'a>],
) -> Result<FactoryApplication<'a>> {
    let aid_of = |bytes: &[u8]| Aid::try_from(bytes).map_err(|_| anyhow!("AID of an application"));
    Ok(FactoryApplication {
        aid: aid_of(aid)?,
        load_file: aid_of(load_file)?,
        module,
        records,
    })
}
