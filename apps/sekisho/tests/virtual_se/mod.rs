//! Secure elements in the test's own process, with a flash of RAM.

use sekisho_apdu::gp::CardLifeCycle;
use sekisho_applets::{DOMAINS, Standard};
use sekisho_hsm::design::Ceremony;
use sekisho_hsm::{Hsm, KVN_SCP, SoftHsm};
use sekisho_keys::{Rng, sha256};
use sekisho_link::{Manifest, SeId};
use sekisho_nvm::Ram;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{AllInterfaces, Containers, Personalisation, Platform, Profile, SecureElement};

static METER_1: &[u8] = include_bytes!("../../../../applets/prebuilt/meter-v1.wasm");

pub(crate) struct Virtual;

pub(crate) struct SystemRng;

impl Rng for SystemRng {
    fn fill(&mut self, out: &mut [u8]) {
        getrandom::fill(out).unwrap();
    }
}

impl Platform for Virtual {
    type Flash = RamFlash;
    type Rng = SystemRng;
    type Applications = Standard<1, 0, DOMAINS>;
    type Interfaces = AllInterfaces;
    type Containers = Containers<1>;
    type Index = Ram<128, 16, 16>;
}

/// An SE with the first meter as version 1.
pub(crate) fn element(
    hsm: &SoftHsm,
    ceremony: &Ceremony,
    se_id: SeId,
    profile: &Profile,
) -> SecureElement<Virtual> {
    let keys = hsm.perso(se_id).unwrap();
    let first = Manifest {
        target: Manifest::OS_PART,
        code_format: Manifest::WEBASSEMBLY,
        abi: Manifest::ABI,
        version: 1,
        min_previous: 0,
        length: u32::try_from(METER_1.len()).unwrap(),
        package_id: [0; 16],
        digest: sha256(&[METER_1]),
    };
    let personalisation = Personalisation {
        key_version: 1,
        se_id: se_id.0,
        scp_parameter: sekisho_scp::ScpParameter::FULL_S8,
        scp_kvn: KVN_SCP,
        scp: &keys.scp,
        k_aut: &keys.k_aut,
        kos: Some(&ceremony.kos),
        k_mac: Some(&ceremony.k_mac),
        designer: Some(&ceremony.designer_public()),
        pairing_key: None,
        isd_aid: None,
        default_application: None,
        part: Some((&first, METER_1)),
        applications: &[],
        data_objects: &[],
        life_cycle: CardLifeCycle::Secured,
    };
    let pages = (profile.store_bytes + 2 * profile.slot_bytes).div_ceil(4096) + 2;
    let flash = RamFlash::new(4096, pages);
    let mut se = SecureElement::new(flash, SystemRng);
    se.manufacture(profile, &[&personalisation]).unwrap();
    se
}
