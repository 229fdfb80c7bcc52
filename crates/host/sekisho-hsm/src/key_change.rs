//! The change of the design system's keys in SEs (spec 3.1): a package of target 02, signed by the present designer, and the keys that follow.

use std::path::Path;

use sekisho_apdu::Writer;
use sekisho_keys::AesKey;
use sekisho_link::{Custody, KeyChange, Manifest, SeId, codes};
use zeroize::Zeroizing;

use crate::design::{Broadcast, Ceremony, PackOptions, Part, derived, new_broadcast, wrapped};
use crate::sealed::{self, Purpose};
use crate::{Hsm, HsmError, Result};

/// Which keys follow the present ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Kos, `K_MAC` and the designer's key.
    All,
    /// Kos and `K_MAC`: the designer stays.
    Keys,
    /// The designer's key.
    Designer,
}

/// How a change of keys travels.
#[derive(Clone, Copy, Debug)]
pub struct ChangeOptions {
    /// Least key version that it may replace.
    pub min_previous: u32,
    /// Who makes the broadcast key set.
    pub custody: Custody,
}

/// The key under which new keys are wrapped for one SE, and the package that they come in. The HSM makes it, the design system uses it; it opens
/// nothing else.
pub struct IndividualKey {
    /// The SE.
    pub se_id: SeId,
    /// Version of the SCP03 key set whose Key-DEK it comes from; the SE takes the change in a secure channel of this set.
    pub kvn: u8,
    /// Package-id of the change.
    pub package_id: [u8; 16],
    key: AesKey,
}

impl std::fmt::Debug for IndividualKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndividualKey")
            .field("se_id", &self.se_id)
            .field("kvn", &self.kvn)
            .finish_non_exhaustive()
    }
}

impl IndividualKey {
    const LEN: usize = 10 + 1 + 16 + 16;

    /// The HSM's, for a new package.
    ///
    /// # Errors
    /// As [`Hsm::key_change_key`]; [`HsmError::Random`].
    pub fn new(hsm: &dyn Hsm, se_id: SeId, kvn: u8) -> Result<Self> {
        let mut package_id = [0; 16];
        hsm.random(&mut package_id)?;
        Self::of_package(hsm, se_id, kvn, package_id)
    }

    /// The HSM's, for a package-id that is given: for worked examples.
    ///
    /// # Errors
    /// As [`Hsm::key_change_key`].
    pub fn of_package(hsm: &dyn Hsm, se_id: SeId, kvn: u8, package_id: [u8; 16]) -> Result<Self> {
        let key = hsm.key_change_key(se_id, kvn, &package_id)?;
        Ok(Self {
            se_id,
            kvn,
            package_id,
            key,
        })
    }

    /// Writes the hand-over file (spec 8.1), sealed under a passphrase. An existing file is not replaced.
    ///
    /// # Errors
    /// [`HsmError::File`].
    pub fn save(&self, path: &Path, passphrase: &[u8]) -> Result<()> {
        let mut content = Zeroizing::new(Vec::with_capacity(Self::LEN));
        content.extend_from_slice(&self.se_id.0);
        content.push(self.kvn);
        content.extend_from_slice(&self.package_id);
        content.extend_from_slice(self.key.as_bytes());
        sealed::write(path, Purpose::IndividualKey, passphrase, &content)
    }

    /// Opens a hand-over file.
    ///
    /// # Errors
    /// [`HsmError::File`]; [`HsmError::Sealed`] for a wrong passphrase or a changed file.
    pub fn load(path: &Path, passphrase: &[u8]) -> Result<Self> {
        let content = sealed::read(path, Purpose::IndividualKey, passphrase)?;
        let unreadable = HsmError::Sealed("the hand-over file holds something unreadable");
        let content: &[u8; Self::LEN] = content.as_slice().try_into().map_err(|_| unreadable)?;
        let mut reader = sekisho_apdu::Reader::new(content);
        let mut read = || -> std::result::Result<_, sekisho_link::DecodeError> {
            Ok((reader.array()?, reader.u8()?, reader.array()?))
        };
        let unreadable = || HsmError::Sealed("the hand-over file holds something unreadable");
        let (se_id, kvn, package_id) = read().map_err(|_| unreadable())?;
        Ok(Self {
            se_id: SeId(se_id),
            kvn,
            package_id,
            key: AesKey::new(reader.rest()).map_err(|_| unreadable())?,
        })
    }
}

impl Ceremony {
    /// New keys, and of the present ones those that stay, of the next key version.
    ///
    /// # Errors
    /// [`HsmError::Random`].
    pub fn successor(&self, renewal: Renewal) -> Result<Self> {
        let version = self.key_version().saturating_add(1);
        let new = Self::generate()?.with_key_version(version);
        Ok(match renewal {
            Renewal::All => new,
            Renewal::Keys => self.designed_by_this(new),
            Renewal::Designer => self.keyed_by_this(new),
        })
    }

    /// Makes the package that puts the keys of `next` in the place of the present ones: wrapped for all SEs that have Kos, or for one.
    ///
    /// # Errors
    /// [`HsmError::Request`] when `next` changes nothing, or for one SE nothing that is wrapped, or its key version is not above the present one.
    pub fn key_change(
        &self,
        next: &Self,
        options: ChangeOptions,
        individual: Option<&IndividualKey>,
    ) -> Result<Vec<u8>> {
        let mut package_id = [0; 16];
        match individual {
            Some(individual) => package_id = individual.package_id,
            None => getrandom::fill(&mut package_id).map_err(HsmError::Random)?,
        }
        let broadcast = new_broadcast(options.custody)?;
        self.key_change_with(next, options, package_id, individual, broadcast)
    }

    /// [`Ceremony::key_change`] with what is random given.
    ///
    /// # Errors
    /// As [`Ceremony::key_change`].
    pub fn key_change_with(
        &self,
        next: &Self,
        options: ChangeOptions,
        package_id: [u8; 16],
        individual: Option<&IndividualKey>,
        broadcast: Option<Broadcast>,
    ) -> Result<Vec<u8>> {
        if next.key_version() <= self.key_version() {
            return Err(HsmError::Request(
                "the key version must be above the present one, and the first of SEs is 1",
            ));
        }
        let renewal = self.renewal(next)?;
        let wrapping_key = match individual {
            Some(individual) if individual.package_id == package_id => individual.key.clone(),
            Some(_) => return Err(HsmError::Request("the wrapping key is for another package")),
            None => derived(&self.kos, codes::LABEL_KEY_CHANGE, &package_id)?,
        };
        let wrapped = match renewal {
            Renewal::Designer if individual.is_some() => {
                return Err(HsmError::Request(
                    "the designer's public key is no secret: it is not wrapped for one SE",
                ));
            }
            Renewal::Designer => None,
            Renewal::All | Renewal::Keys => Some(wrapped(&wrapping_key, &next.kos, &next.k_mac)?),
        };
        let change = KeyChange {
            wrapped: wrapped.as_deref(),
            designer: (renewal != Renewal::Keys).then(|| next.designer_public()),
            pairing: None,
            is_individual: individual.is_some(),
        };
        let mut buffer = [0; KeyChange::MAX_LEN];
        let mut image = Writer::new(&mut buffer);
        change.encode(&mut image)?;
        let part = Part {
            target: Manifest::KEYS,
            code_format: Manifest::NO_CODE,
            abi: 0,
            image: image.written(),
        };
        let options = PackOptions {
            version: next.key_version(),
            min_previous: options.min_previous,
            custody: options.custody,
        };
        self.package(&part, options, package_id, broadcast)
    }

    /// What differs between these keys and the next ones.
    ///
    /// # Errors
    /// [`HsmError::Request`] when nothing does.
    pub fn renewal(&self, next: &Self) -> Result<Renewal> {
        let keys = self.kos != next.kos || self.k_mac != next.k_mac;
        let designer = self.designer_public() != next.designer_public();
        match (keys, designer) {
            (true, true) => Ok(Renewal::All),
            (true, false) => Ok(Renewal::Keys),
            (false, true) => Ok(Renewal::Designer),
            (false, false) => Err(HsmError::Request("the new ceremony file holds the present keys")),
        }
    }
}
