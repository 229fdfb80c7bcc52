//! The software keystore.

use std::path::Path;

use sekisho_apdu::gp::key_type;
use sekisho_keys::{AesKey, KeySet, Rng, cmac, diversify, kcv_aes, kdf_label};
use sekisho_link::{Campaign, SeId, codes};
use sekisho_scp::MacMode;
use sekisho_scp::host::{Challenge, SessionKeys, encrypt_sensitive, pseudo_random_card_challenge};
use zeroize::Zeroizing;

use crate::sealed::{self, Purpose};
use crate::{
    BroadcastKeySet, EncipheredKeys, FileKey, Hsm, HsmError, ISD_AID, KVN_AUT, KVN_SCP, PersoKeys, Result,
    SCP03_KVNS,
};

/// The operating system's randomness.
pub(crate) struct SystemRng(pub(crate) std::result::Result<(), getrandom::Error>);

impl Rng for SystemRng {
    fn fill(&mut self, out: &mut [u8]) {
        if let Err(error) = getrandom::fill(out) {
            self.0 = Err(error);
        }
    }
}

/// A new key of 16 bytes.
pub(crate) fn new_key() -> Result<AesKey> {
    let mut rng = SystemRng(Ok(()));
    let key = AesKey::generate(16, &mut rng).map_err(|_| HsmError::Request("key length"))?;
    rng.0.map_err(HsmError::Random)?;
    Ok(key)
}

/// An HSM in software: its master keys are in this process's memory.
pub struct SoftHsm {
    /// Of all SEs' individual keys.
    master: AesKey,
    /// K_BK, of all broadcast key sets.
    broadcast: AesKey,
    /// K_HCH and the link tokens' key.
    host_challenge: AesKey,
    link: AesKey,
}

impl std::fmt::Debug for SoftHsm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoftHsm").finish_non_exhaustive()
    }
}

/// Bytes of a keystore's content: four keys.
const KEYS: usize = 4;

impl SoftHsm {
    /// Makes new master keys.
    ///
    /// # Errors
    /// [`HsmError::Random`].
    pub fn generate() -> Result<Self> {
        Ok(Self {
            master: new_key()?,
            broadcast: new_key()?,
            host_challenge: new_key()?,
            link: new_key()?,
        })
    }

    /// An HSM of given keys: for worked examples.
    ///
    /// # Errors
    /// [`HsmError::Request`] unless there are four times 16 bytes.
    pub fn from_keys(bytes: &[u8]) -> Result<Self> {
        let (keys, rest) = bytes.as_chunks::<16>();
        let [master, broadcast, host_challenge, link] = keys else {
            return Err(HsmError::Request("a keystore holds four keys"));
        };
        if !rest.is_empty() {
            return Err(HsmError::Request("a keystore holds four keys"));
        }
        let key = |bytes: &[u8; 16]| AesKey::new(bytes).map_err(|_| HsmError::Request("key length"));
        Ok(Self {
            master: key(master)?,
            broadcast: key(broadcast)?,
            host_challenge: key(host_challenge)?,
            link: key(link)?,
        })
    }

    /// Writes the keystore, sealed under a passphrase. An existing file is not replaced.
    ///
    /// # Errors
    /// [`HsmError::File`].
    pub fn save(&self, path: &Path, passphrase: &[u8]) -> Result<()> {
        let mut content = Zeroizing::new(Vec::with_capacity(KEYS * 16));
        for key in [&self.master, &self.broadcast, &self.host_challenge, &self.link] {
            content.extend_from_slice(key.as_bytes());
        }
        sealed::write(path, Purpose::Keystore, passphrase, &content)
    }

    /// Opens a keystore.
    ///
    /// # Errors
    /// [`HsmError::File`]; [`HsmError::Sealed`] for a wrong passphrase or a changed file.
    pub fn load(path: &Path, passphrase: &[u8]) -> Result<Self> {
        Self::from_keys(&sealed::read(path, Purpose::Keystore, passphrase)?)
    }

    fn scp_key(&self, se_id: SeId, kvn: u8, kid: u8) -> Result<AesKey> {
        if SCP03_KVNS.contains(&kvn) {
            Ok(diversify::key(&self.master, &se_id.0, kvn, kid))
        } else {
            Err(HsmError::KeyVersion(kvn))
        }
    }

    fn scp_keys(&self, se_id: SeId, kvn: u8) -> Result<KeySet> {
        Ok(KeySet {
            enc: self.scp_key(se_id, kvn, 1)?,
            mac: self.scp_key(se_id, kvn, 2)?,
            dek: self.scp_key(se_id, kvn, 3)?,
        })
    }

    /// K-AUT's generations are numbered as the SCP03 key sets that they go with: KID 01 for KVN 30, and so on (spec section 1).
    fn k_aut(&self, se_id: SeId, kvn: u8) -> Result<AesKey> {
        if !SCP03_KVNS.contains(&kvn) {
            return Err(HsmError::KeyVersion(kvn));
        }
        let kid = 1 + (kvn - SCP03_KVNS.start());
        Ok(diversify::key(&self.master, &se_id.0, KVN_AUT, kid))
    }
}

/// Key data field of an AES key (GPC Table 11-68): type, length, the key under Key-DEK, check value. A key that does not fill whole blocks has its length
/// before it and zeros behind.
fn key_data_field(dek: &AesKey, key: &AesKey) -> Result<Vec<u8>> {
    let wrong = |_| HsmError::Request("key length");
    let len = u8::try_from(key.as_bytes().len()).map_err(|_| HsmError::TooLong)?;
    let mut block = Zeroizing::new(key.as_bytes().to_vec());
    let whole = block.len().next_multiple_of(16);
    block.resize(whole, 0);
    encrypt_sensitive(dek, &mut block).map_err(wrong)?;
    let mut field = vec![key_type::AES];
    if len % 16 == 0 {
        field.push(len);
    } else {
        field.extend([u8::try_from(block.len()).map_err(|_| HsmError::TooLong)? + 1, len]);
    }
    field.extend_from_slice(&block);
    let check = kcv_aes(key);
    field.push(u8::try_from(check.len()).map_err(|_| HsmError::TooLong)?);
    field.extend(check);
    Ok(field)
}

impl Hsm for SoftHsm {
    fn scp03_session(
        &self,
        se_id: SeId,
        kvn: u8,
        host_challenge: &Challenge,
        card_challenge: &Challenge,
    ) -> Result<SessionKeys> {
        Ok(SessionKeys::derive(
            &self.scp_keys(se_id, kvn)?,
            host_challenge,
            card_challenge,
        )?)
    }

    fn card_challenge(&self, se_id: SeId, kvn: u8, sequence_counter: u32) -> Result<Challenge> {
        Ok(pseudo_random_card_challenge(
            &self.scp_key(se_id, kvn, 1)?,
            sequence_counter,
            &ISD_AID,
            MacMode::S8,
        )?)
    }

    fn host_challenge(
        &self,
        se_id: SeId,
        sequence_counter: u32,
        campaign: Campaign,
        script: &[u8; 32],
    ) -> Result<Challenge> {
        let context = codes::host_challenge_context(se_id, sequence_counter, campaign, script);
        let mut challenge = [0; 8];
        kdf_label(
            &self.host_challenge,
            codes::LABEL_HOST_CHALLENGE,
            &context,
            &mut challenge,
        );
        Ok(Challenge::try_from(&challenge[..])?)
    }

    fn mac_with_k_aut(&self, se_id: SeId, kvn: u8, message: &[u8]) -> Result<[u8; 16]> {
        Ok(cmac(&self.k_aut(se_id, kvn)?, &[message]))
    }

    fn key_change_key(&self, se_id: SeId, kvn: u8, package_id: &[u8; 16]) -> Result<AesKey> {
        let dek = self.scp_key(se_id, kvn, 3)?;
        let context = codes::key_change_context(package_id, se_id);
        crate::design::derived(&dek, codes::LABEL_KEY_CHANGE, &context)
    }

    fn enciphered_keys(&self, se_id: SeId, kvn: u8, next: u8) -> Result<EncipheredKeys> {
        let dek = self.scp_key(se_id, kvn, 3)?;
        let KeySet {
            enc,
            mac,
            dek: new_dek,
        } = self.scp_keys(se_id, next)?;
        Ok(EncipheredKeys {
            key_set: [
                key_data_field(&dek, &enc)?,
                key_data_field(&dek, &mac)?,
                key_data_field(&dek, &new_dek)?,
            ],
            k_aut: key_data_field(&dek, &self.k_aut(se_id, next)?)?,
        })
    }

    fn broadcast_keys(&self, campaign: Campaign, package_id: &[u8; 16]) -> Result<BroadcastKeySet> {
        let mut out = Zeroizing::new([0; 48]);
        kdf_label(
            &self.broadcast,
            codes::LABEL_BROADCAST,
            &codes::broadcast_context(campaign, package_id),
            &mut *out,
        );
        let (keys, _) = out.as_chunks::<16>();
        let [enc, mac, chaining_value] = keys else {
            return Err(HsmError::Request("broadcast keys"));
        };
        let key = |bytes| AesKey::new(bytes).map_err(|_| HsmError::Request("key length"));
        Ok(BroadcastKeySet {
            enc: key(enc)?,
            mac: key(mac)?,
            chaining_value: *chaining_value,
        })
    }

    fn link_token(&self, se_id: SeId) -> Result<[u8; 16]> {
        Ok(cmac(&self.link, &[b"SK link token", &se_id.0]))
    }

    fn paging_root(&self, se_id: SeId) -> Result<[u8; 16]> {
        let mut root = [0; 16];
        kdf_label(&self.master, b"SK paging root", &se_id.0, &mut root);
        Ok(root)
    }

    fn file_key(&self, se_id: SeId, key: FileKey) -> Result<Zeroizing<[u8; 16]>> {
        let label: &[u8] = match key {
            FileKey::Messaging => b"SK file messaging",
            FileKey::External => b"SK file external",
        };
        let mut bytes = Zeroizing::new([0; 16]);
        kdf_label(&self.master, label, &se_id.0, bytes.as_mut());
        Ok(bytes)
    }

    fn paging_seal_key(&self) -> Result<Zeroizing<[u8; 32]>> {
        let mut key = Zeroizing::new([0; 32]);
        kdf_label(&self.master, b"SK paging seal", &[], key.as_mut());
        Ok(key)
    }

    fn perso(&self, se_id: SeId) -> Result<PersoKeys> {
        Ok(PersoKeys {
            scp: self.scp_keys(se_id, KVN_SCP)?,
            k_aut: self.k_aut(se_id, KVN_SCP)?,
        })
    }

    fn random(&self, out: &mut [u8]) -> Result<()> {
        getrandom::fill(out).map_err(HsmError::Random)
    }

    /// CMAC's first example of RFC 4493 (section 4) and a diversified key computed with another library.
    fn self_test(&self) -> Result<()> {
        let key = AesKey::new(&[
            0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c,
        ])
        .map_err(|_| HsmError::SelfTest("key"))?;
        let empty = [
            0xbb, 0x1d, 0x69, 0x29, 0xe9, 0x59, 0x37, 0x28, 0x7f, 0xa3, 0x7d, 0x12, 0x9b, 0x75, 0x67, 0x46,
        ];
        if cmac(&key, &[]) != empty {
            return Err(HsmError::SelfTest("CMAC"));
        }
        Ok(())
    }
}
