//! What goes to whoever makes cards (spec 8.1): the individual keys of SEs from the HSM, the keys of the product from the design system. JSON with
//! hex, sealed under a passphrase of its own ([`crate::sealed`]) or in the clear; to be deleted when the cards are made. The HSM's master keys and
//! the designer's private key go to nobody.

use sekisho_keys::{AesKey, KeySet};
use sekisho_link::{Manifest, SeId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::design::Ceremony;
use crate::{FileKey, Hsm, HsmError, KVN_SCP, Result};

const NO_PERSO_FILE: &str = "this is no personalisation file; sekisho hsm perso makes one";

/// What one card is personalised with. All but the numbers is hex.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersoFile {
    /// SE-id.
    pub se_id: String,
    /// KVN of the SCP03 key set.
    pub kvn: u8,
    /// Whether its SCP03 has S16: challenges, cryptograms and MACs of 16 bytes. Authorisations are made for S8 alone.
    #[serde(default, skip_serializing_if = "is_false")]
    pub s16: bool,
    /// K-ENC.
    pub k_enc: Zeroizing<String>,
    /// K-MAC of SCP03.
    pub k_mac_scp: Zeroizing<String>,
    /// K-DEK.
    pub k_dek: Zeroizing<String>,
    /// K-AUT.
    pub k_aut: Zeroizing<String>,
    /// Kos, where the file has the keys of the product too, as files of version 0.1 do; all three of them or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kos: Option<Zeroizing<String>>,
    /// `K_MAC`, of the design integrity code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k_mac: Option<Zeroizing<String>>,
    /// The designer's public key, uncompressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub designer: Option<String>,
    /// Root of its paging keys; without it the card has no SecApp.
    #[serde(default)]
    pub paging_root: Option<Zeroizing<String>>,
    /// MKEY 1 of its file system; without it the card has none.
    #[serde(default)]
    pub file_mkey: Option<Zeroizing<String>>,
    /// EXTERNAL 1 of its file system.
    #[serde(default)]
    pub file_external: Option<Zeroizing<String>>,
}

/// Keys are never shown.
impl std::fmt::Debug for PersoFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PersoFile")
            .field("se_id", &self.se_id)
            .finish_non_exhaustive()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
const fn is_false(value: &bool) -> bool {
    !*value
}

fn hexed(key: &AesKey) -> Zeroizing<String> {
    Zeroizing::new(hex::encode(key.as_bytes()))
}

fn unhexed(text: &str, what: &'static str) -> Result<AesKey> {
    let bytes = hex::decode(text)
        .map(Zeroizing::new)
        .map_err(|_| HsmError::Request(what))?;
    AesKey::new(&bytes).map_err(|_| HsmError::Request(what))
}

impl PersoFile {
    /// The individual keys of one SE.
    ///
    /// # Errors
    /// [`HsmError`].
    pub fn new(hsm: &dyn Hsm, se_id: SeId) -> Result<Self> {
        let keys = hsm.perso(se_id)?;
        let file_key = |key| -> Result<_> {
            let bytes = hsm.file_key(se_id, key)?;
            Ok(Zeroizing::new(hex::encode(bytes.as_ref())))
        };
        Ok(Self {
            se_id: se_id.to_string(),
            kvn: KVN_SCP,
            s16: false,
            k_enc: hexed(&keys.scp.enc),
            k_mac_scp: hexed(&keys.scp.mac),
            k_dek: hexed(&keys.scp.dek),
            k_aut: hexed(&keys.k_aut),
            kos: None,
            k_mac: None,
            designer: None,
            paging_root: Some(Zeroizing::new(hex::encode(hsm.paging_root(se_id)?))),
            file_mkey: Some(file_key(FileKey::Messaging)?),
            file_external: Some(file_key(FileKey::External)?),
        })
    }

    /// Reads the file of one SE.
    ///
    /// # Errors
    /// [`HsmError::Request`] when it is none.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|_| HsmError::Request(NO_PERSO_FILE))
    }

    /// Reads the file of one SE or of a batch.
    ///
    /// # Errors
    /// [`HsmError::Request`] when it is none, or an SE comes twice.
    pub fn parse_batch(text: &str) -> Result<Vec<Self>> {
        if !text.trim_start().starts_with('[') {
            return Ok(vec![Self::parse(text)?]);
        }
        let files: Vec<Self> = serde_json::from_str(text).map_err(|_| HsmError::Request(NO_PERSO_FILE))?;
        let mut ids = files.iter().map(Self::se_id).collect::<Result<Vec<_>>>()?;
        ids.sort_unstable();
        if files.is_empty() || ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(HsmError::Request(
                "a batch has one secure element at least, and none twice",
            ));
        }
        Ok(files)
    }

    /// SE-id.
    ///
    /// # Errors
    /// [`HsmError::Request`].
    pub fn se_id(&self) -> Result<SeId> {
        self.se_id
            .parse()
            .map_err(|_| HsmError::Request("se_id has 20 hexadecimal digits"))
    }

    /// The SCP03 key set.
    ///
    /// # Errors
    /// [`HsmError::Request`].
    pub fn scp(&self) -> Result<KeySet> {
        Ok(KeySet {
            enc: unhexed(&self.k_enc, "k_enc is no AES key in hex")?,
            mac: unhexed(&self.k_mac_scp, "k_mac_scp is no AES key in hex")?,
            dek: unhexed(&self.k_dek, "k_dek is no AES key in hex")?,
        })
    }

    /// K-AUT.
    ///
    /// # Errors
    /// [`HsmError::Request`].
    pub fn k_aut(&self) -> Result<AesKey> {
        unhexed(&self.k_aut, "k_aut is no AES key in hex")
    }

    /// The keys of the product, if the file has them.
    ///
    /// # Errors
    /// [`HsmError::Request`] when it has some of them.
    pub fn product(&self) -> Result<Option<ProductFile>> {
        match (&self.kos, &self.k_mac, &self.designer) {
            (None, None, None) => Ok(None),
            (Some(kos), Some(k_mac), Some(designer)) => Ok(Some(ProductFile {
                kos: kos.clone(),
                k_mac: k_mac.clone(),
                designer: designer.clone(),
                key_version: Manifest::FIRST_KEY_VERSION,
            })),
            _ => Err(HsmError::Request("kos, k_mac and designer belong together")),
        }
    }

    /// The root of its paging keys.
    ///
    /// # Errors
    /// [`HsmError::Request`].
    pub fn paging_root(&self) -> Result<Option<[u8; 16]>> {
        let Some(text) = &self.paging_root else {
            return Ok(None);
        };
        let bytes = hex::decode(text.as_str())
            .ok()
            .and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Some)
            .ok_or(HsmError::Request("paging_root has 32 hexadecimal digits"))
    }

    /// MKEY 1 and EXTERNAL 1 of its file system.
    ///
    /// # Errors
    /// [`HsmError::Request`].
    pub fn file_keys(&self) -> Result<Option<[AesKey; 2]>> {
        match (&self.file_mkey, &self.file_external) {
            (Some(mkey), Some(external)) => Ok(Some([
                unhexed(mkey, "file_mkey is no key")?,
                unhexed(external, "file_external is no key")?,
            ])),
            (None, None) => Ok(None),
            _ => Err(HsmError::Request("file_mkey and file_external belong together")),
        }
    }
}

/// What every card of a product has of the design system: no private key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductFile {
    /// Kos.
    pub kos: Zeroizing<String>,
    /// `K_MAC`, of the design integrity code.
    pub k_mac: Zeroizing<String>,
    /// The designer's public key, uncompressed.
    pub designer: String,
    /// Key version that a card begins with.
    #[serde(default = "first_key_version", skip_serializing_if = "is_first_key_version")]
    pub key_version: u32,
}

const fn first_key_version() -> u32 {
    Manifest::FIRST_KEY_VERSION
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
const fn is_first_key_version(version: &u32) -> bool {
    *version == Manifest::FIRST_KEY_VERSION
}

/// Keys are never shown.
impl std::fmt::Debug for ProductFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProductFile")
            .field("designer", &self.designer)
            .finish_non_exhaustive()
    }
}

impl ProductFile {
    /// What a design system hands over.
    pub fn new(ceremony: &Ceremony) -> Self {
        Self {
            kos: hexed(&ceremony.kos),
            k_mac: hexed(&ceremony.k_mac),
            designer: hex::encode(ceremony.designer_public()),
            key_version: ceremony.key_version(),
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`HsmError::Request`] when it is none, or what it holds are no keys.
    pub fn parse(text: &str) -> Result<Self> {
        let file: Self = serde_json::from_str(text)
            .map_err(|_| HsmError::Request("this is no product file; sekisho design hand-over makes one"))?;
        file.keys()?;
        file.designer()?;
        Ok(file)
    }

    /// Kos and `K_MAC`.
    ///
    /// # Errors
    /// [`HsmError::Request`].
    pub fn keys(&self) -> Result<[AesKey; 2]> {
        Ok([
            unhexed(&self.kos, "kos is no AES key in hex")?,
            unhexed(&self.k_mac, "k_mac is no AES key in hex")?,
        ])
    }

    /// The designer's public key.
    ///
    /// # Errors
    /// [`HsmError::Request`].
    pub fn designer(&self) -> Result<[u8; 65]> {
        let bytes = hex::decode(&self.designer)
            .ok()
            .and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or(HsmError::Request("designer has 130 hexadecimal digits"))
    }
}
