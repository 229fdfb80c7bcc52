//! Key custody: the management server's HSM behind one [`Hsm`] trait, and the design system's keys.
//!
//! * [`Hsm`]: master keys stay in; what comes out is worth one SCP03 session, one campaign or one code. [`SoftHsm`] is the software keystore,
//!   sealed at rest under a passphrase ([`sealed`]).
//! * [`authorise`]: a whole P_AUT, made before the SE is on line.
//! * [`is_of`]: whether a receipt or a refusal is the SE's.
//! * [`broadcast_package`]: P_SE, made once for a campaign.
//! * [`design`]: what the design system holds and does: Kos, `K_MAC`, the designer's key; packages.
//! * [`IndividualKey`], [`Renewal`]: the change of the design system's keys in SEs.
//! * [`PersoFile`], [`ProductFile`]: what a card is personalised with, from the HSM and from the design system.
//!
//! The bytes are those of `docs/spec/broadcast-update.md`.
//!
//! A PKCS#11 token can stand behind [`Hsm`] with operations that every token has: diversification is `CKM_AES_CBC_ENCRYPT_DATA`,
//! the rest `CKM_AES_CMAC`; the trait asks for nothing else.

#![forbid(unsafe_code)]

mod authorise;
pub mod bounded;
mod broadcast;
pub mod design;
mod key_change;
pub mod new_file;
mod perso;
mod proof;
pub mod sealed;
mod soft;

pub use authorise::{AuthoriseRequest, authorise};
pub use broadcast::broadcast_package;
pub use key_change::{ChangeOptions, IndividualKey, Renewal};
pub use perso::{PersoFile, ProductFile};
pub use proof::is_of;
pub use soft::SoftHsm;

use sekisho_apdu::{Aid, ApduError, BufferFull};
use sekisho_keys::{AesKey, KeySet};
use sekisho_link::{Campaign, SeId};
use sekisho_scp::ScpError;
use sekisho_scp::host::{Challenge, SessionKeys};

/// KVN of the SCP03 key set with which SEs leave personalisation (spec section 1).
pub const KVN_SCP: u8 = 0x30;
/// KVNs of SCP03 key sets (Amd D 7.1.1). No session keys come out of a key of another version: 60 is K-AUT, which makes codes and receipts.
pub const SCP03_KVNS: std::ops::RangeInclusive<u8> = 0x30..=0x3F;
/// KVN of K-AUT.
pub const KVN_AUT: u8 = 0x60;
/// AID of the issuer security domain (GPC H.1.3); it enters the pseudo-random card challenge.
pub const ISD_AID: Aid = match Aid::new(&[0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00]) {
    Some(aid) => aid,
    None => unreachable!(),
};

/// Why custody did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HsmError {
    /// The self-test failed: this HSM computes something else than the specification.
    #[error("HSM self-test failed: {0}")]
    SelfTest(&'static str),
    /// The request does not fit together.
    #[error("{0}")]
    Request(&'static str),
    /// No authorisation can be made for an SE with this SCP03 parameter "i".
    #[error("SCP03 parameter i={i:02X}: {why}")]
    Parameter {
        /// The parameter.
        i: u8,
        /// What is against it.
        why: &'static str,
    },
    /// Keys of this version open no SCP03 secure channel.
    #[error("key version {0:02X}: those of SCP03 are 30 to 3F")]
    KeyVersion(u8),
    /// The secure channel refused.
    #[error("secure channel: {0}")]
    SecureChannel(#[from] ScpError),
    /// What was to be written is longer than it may be.
    #[error("message too long")]
    TooLong,
    /// The operating system gives no randomness.
    #[error("no randomness: {0}")]
    Random(getrandom::Error),
    /// A file could not be read or written.
    #[error("{0}: {1}")]
    File(std::path::PathBuf, std::io::Error),
    /// A sealed file does not open, or would not.
    #[error("{0}")]
    Sealed(&'static str),
}

impl From<BufferFull> for HsmError {
    fn from(_: BufferFull) -> Self {
        Self::TooLong
    }
}

impl From<ApduError> for HsmError {
    fn from(_: ApduError) -> Self {
        Self::TooLong
    }
}

/// The result of custody.
pub type Result<T> = std::result::Result<T, HsmError>;

/// The broadcast key set of a campaign in custody 04.
pub struct BroadcastKeySet {
    /// BK-ENC.
    pub enc: AesKey,
    /// BK-MAC.
    pub mac: AesKey,
    /// MAC chaining value before the first command.
    pub chaining_value: [u8; 16],
}

/// The individual keys of an SE, for its personalisation.
pub struct PersoKeys {
    /// The SCP03 key set.
    pub scp: KeySet,
    /// K-AUT.
    pub k_aut: AesKey,
}

/// Keys of an SE as PUT KEY takes them: each a key data field, enciphered under the Key-DEK of a key set that the SE has (`docs/spec/keys.md`, 3).
pub struct EncipheredKeys {
    /// Key-ENC, Key-MAC and Key-DEK.
    pub key_set: [Vec<u8>; 3],
    /// K-AUT.
    pub k_aut: Vec<u8>,
}

/// The keys that an SE's file system begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKey {
    /// MKEY 1: opens secure messaging.
    Messaging,
    /// EXTERNAL 1: creates files and changes keys.
    External,
}

/// What the management server asks of its HSM. Every operation can be had from AES-CBC derivation and CMAC inside a token.
pub trait Hsm: Send + Sync {
    /// Session keys of one SCP03 session.
    ///
    /// # Errors
    /// [`HsmError::KeyVersion`] for a key that is not of SCP03 ([`SCP03_KVNS`]); [`HsmError`].
    fn scp03_session(
        &self,
        se_id: SeId,
        kvn: u8,
        host_challenge: &Challenge,
        card_challenge: &Challenge,
    ) -> Result<SessionKeys>;

    /// The card challenge that the SE will answer with when its sequence counter is `sequence_counter`.
    ///
    /// # Errors
    /// As [`Hsm::scp03_session`].
    fn card_challenge(&self, se_id: SeId, kvn: u8, sequence_counter: u32) -> Result<Challenge>;

    /// The host challenge of an authorisation; `script` is the SHA-256 of all that it does (spec 4.5).
    ///
    /// # Errors
    /// [`HsmError`].
    fn host_challenge(
        &self,
        se_id: SeId,
        sequence_counter: u32,
        campaign: Campaign,
        script: &[u8; 32],
    ) -> Result<Challenge>;

    /// CMAC under the K-AUT that goes with the SE's SCP03 key set `kvn`: individual codes, and the MACs of receipts and refusals.
    ///
    /// # Errors
    /// [`HsmError::KeyVersion`] for a version that is not of SCP03 ([`SCP03_KVNS`]); [`HsmError`].
    fn mac_with_k_aut(&self, se_id: SeId, kvn: u8, message: &[u8]) -> Result<[u8; 16]>;

    /// The key under which the design system wraps its new keys for one SE: of the Key-DEK of its key set `kvn`, for one package (spec 3.1).
    ///
    /// # Errors
    /// As [`Hsm::scp03_session`].
    fn key_change_key(&self, se_id: SeId, kvn: u8, package_id: &[u8; 16]) -> Result<AesKey>;

    /// The SCP03 key set `next` of an SE and the K-AUT that goes with it, enciphered under the Key-DEK of its key set `kvn`.
    ///
    /// # Errors
    /// As [`Hsm::scp03_session`].
    fn enciphered_keys(&self, se_id: SeId, kvn: u8, next: u8) -> Result<EncipheredKeys>;

    /// The broadcast key set of a campaign in custody 04.
    ///
    /// # Errors
    /// [`HsmError`].
    fn broadcast_keys(&self, campaign: Campaign, package_id: &[u8; 16]) -> Result<BroadcastKeySet>;

    /// The link token with which the SE's device calls the server.
    ///
    /// # Errors
    /// [`HsmError`].
    fn link_token(&self, se_id: SeId) -> Result<[u8; 16]>;

    /// The root of an SE's paging keys (`docs/spec/paging.md`, 3).
    ///
    /// # Errors
    /// [`HsmError`].
    fn paging_root(&self, se_id: SeId) -> Result<[u8; 16]>;

    /// A key of an SE's file system (`docs/spec/file-system-applet.md`).
    ///
    /// # Errors
    /// [`HsmError`], also when policy forbids that it leaves.
    fn file_key(&self, se_id: SeId, key: FileKey) -> Result<zeroize::Zeroizing<[u8; 16]>>;

    /// The key under which a paging server seals what it keeps: ticket keys, snapshots, journals.
    ///
    /// # Errors
    /// [`HsmError`].
    fn paging_seal_key(&self) -> Result<zeroize::Zeroizing<[u8; 32]>>;

    /// The keys that an SE is personalised with.
    ///
    /// # Errors
    /// [`HsmError`], also when policy forbids that they leave.
    fn perso(&self, se_id: SeId) -> Result<PersoKeys>;

    /// Random bytes.
    ///
    /// # Errors
    /// [`HsmError::Random`].
    fn random(&self, out: &mut [u8]) -> Result<()>;

    /// Compares what it computes with a known answer.
    ///
    /// # Errors
    /// [`HsmError::SelfTest`].
    fn self_test(&self) -> Result<()>;
}
