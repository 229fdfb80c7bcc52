//! A secure element in its socket, with a line to it on which things happen.

use sekisho_apdu::gp::CardLifeCycle;
use sekisho_applets::Standard;
use sekisho_hsm::design::Ceremony;
use sekisho_hsm::{Hsm, KVN_SCP, SoftHsm};
use sekisho_keys::{Rng, sha256};
use sekisho_link::{Manifest, SeId};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Interface, Personalisation, Platform, Profile, SecureElement};
use sekisho_transport::{Card, TransportError};

static METER_1: &[u8] = include_bytes!("../../../../applets/prebuilt/meter-v1.wasm");
/// Memory failure: the flash has failed, as it does when its power goes (ISO 7816-4).
const FAILED: [u8; 2] = [0x65, 0x81];

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
    type Applets = Standard;
}

/// What happens on the line to one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// The power goes before it is carried out.
    CutBefore,
    /// The power goes before its answer is there.
    CutAfter,
    /// It is answered by somebody else, and never comes.
    Drop,
    /// It comes twice.
    Repeat,
    /// It comes after the next one; somebody else has answered it.
    Swap,
    /// One of its bytes is another one.
    Change,
}

/// The SE in its socket.
pub(crate) struct Socket {
    se: Option<SecureElement<Virtual>>,
    profile: Profile,
    /// What happens to which command, counted from now.
    pub(crate) deed: Option<(u32, Deed)>,
    /// A command that was held back.
    held: Option<Vec<u8>>,
    /// Commands that have come.
    pub(crate) commands: u32,
    /// WRITE commands that were answered with 9000.
    pub(crate) writes: u32,
    /// How often the power has come back.
    pub(crate) cycles: u32,
}

impl Socket {
    /// An SE with the first meter as version 1.
    pub(crate) fn new(hsm: &SoftHsm, ceremony: &Ceremony, se_id: SeId) -> Self {
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
            se_id: se_id.0,
            scp_parameter: sekisho_scp::ScpParameter::FULL_S8,
            scp_kvn: KVN_SCP,
            scp: &keys.scp,
            k_aut: &keys.k_aut,
            kos: Some(&ceremony.kos),
            k_mac: Some(&ceremony.k_mac),
            designer: Some(&ceremony.designer_public()),
            part: Some((&first, METER_1)),
            applications: &[],
            data_objects: &[],
            life_cycle: CardLifeCycle::Secured,
        };
        let profile = Profile::default();
        let pages = (profile.store_bytes + 2 * profile.slot_bytes).div_ceil(4096) + 2;
        let flash = RamFlash::new(4096, pages);
        let se = SecureElement::manufacture(flash, SystemRng, &profile, &personalisation).unwrap();
        Self {
            se: Some(se),
            profile,
            deed: None,
            held: None,
            commands: 0,
            writes: 0,
            cycles: 0,
        }
    }

    /// Versions of the OS part and of the keys.
    pub(crate) fn versions(&self) -> (u32, u32) {
        let se = self.se.as_ref().unwrap();
        (se.part().unwrap().version, se.key_version())
    }

    /// Cuts the power inside the `operation`-th write or erasure from now.
    pub(crate) fn cut_flash(&mut self, operation: u64, seed: u64) {
        let mut flash = self.se.take().unwrap().into_flash();
        flash.cut_after(operation, seed);
        self.se = Some(SecureElement::boot(flash, SystemRng, &self.profile).unwrap());
    }

    /// A power cycle.
    pub(crate) fn power_cycle(&mut self) {
        self.cycles += 1;
        let mut flash = self.se.take().unwrap().into_flash();
        flash.power_on();
        self.se = Some(SecureElement::boot(flash, SystemRng, &self.profile).unwrap());
    }

    fn send(&mut self, capdu: &[u8]) -> Vec<u8> {
        let mut answer = [0; 4096];
        let len = self
            .se
            .as_mut()
            .unwrap()
            .transmit(Interface::Spi, capdu, &mut answer);
        if capdu[1] == 0x3C && answer[..len] == [0x90, 0x00] {
            self.writes += 1;
        }
        answer[..len].to_vec()
    }
}

impl Card for Socket {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        let deed = match self.deed {
            Some((0, deed)) => {
                self.deed = None;
                Some(deed)
            }
            Some((left, deed)) => {
                self.deed = Some((left - 1, deed));
                None
            }
            None => None,
        };
        self.commands += 1;
        let mut capdu = capdu.to_vec();
        if let Some(held) = self.held.take() {
            self.send(&capdu);
            capdu = held;
        }
        match deed {
            Some(Deed::Drop) => return Ok(vec![0x90, 0x00]),
            Some(Deed::Swap) => {
                self.held = Some(capdu);
                return Ok(vec![0x90, 0x00]);
            }
            Some(Deed::CutBefore) => {
                self.power_cycle();
                return Err(TransportError::Closed);
            }
            Some(Deed::Repeat) => {
                self.send(&capdu);
            }
            Some(Deed::Change) => {
                let middle = capdu.len() / 2;
                capdu[middle] ^= 0x04;
            }
            Some(Deed::CutAfter) | None => {}
        }
        let answer = self.send(&capdu);
        if deed == Some(Deed::CutAfter) || answer == FAILED {
            self.power_cycle();
            return Err(TransportError::Closed);
        }
        Ok(answer)
    }

    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        self.held = None;
        let se = self.se.as_mut().unwrap();
        se.reset(Interface::Spi);
        Ok(se.atr().to_vec())
    }
}
