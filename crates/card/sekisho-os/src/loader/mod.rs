//! The loader's seam: what the issuer security domain calls. An SE with this loader takes no update and has no OS part.

pub mod commands;

use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_keys::p256sig::VerifyingKey;
use sekisho_keys::{AesKey, Rng};
use sekisho_link::{Campaign, Custody, Manifest};
use sekisho_nvm::Flash;
use sekisho_scp::card::BroadcastCheckpoint;

use crate::nvm::Nvm;

/// What CHANGE MODE gives to the loader.
#[derive(Debug)]
pub struct BroadcastBegin {
    /// The campaign.
    pub campaign: Campaign,
    /// Who made the broadcast key set.
    pub custody: Custody,
    /// First 8 bytes of KDF(BK-MAC, "SK resume", campaign).
    pub resume_check: [u8; 8],
    /// BK-MAC: custody 03 derives `K_INT` from it, once the manifest has told the package-id.
    pub bk_mac: AesKey,
    /// Kos, in custody 04: `K_IMG` is derived from it.
    pub kos: Option<AesKey>,
}

/// The loader.
#[derive(Debug)]
pub struct Loader;

impl Loader {
    /// Reads what stands in NVM; `ram` is what the budget leaves for the OS part, in bytes.
    ///
    /// # Errors
    /// 6581.
    pub fn boot<F: Flash>(_nvm: &mut Nvm<'_, F>, _ram: usize) -> Result<Self, StatusWord> {
        Ok(Self)
    }

    /// Installs the first OS part.
    ///
    /// # Errors
    /// 6D00.
    pub fn install_initial<F: Flash>(
        _nvm: &mut Nvm<'_, F>,
        _: &Manifest,
        _image: &[u8],
    ) -> Result<(), StatusWord> {
        Err(StatusWord::INS_NOT_SUPPORTED)
    }

    /// Value of GET DATA DF20.
    ///
    /// # Errors
    /// 6A84.
    pub fn state_object(&self, out: &mut Writer<'_>) -> Result<(), StatusWord> {
        out.bytes(&[0; 19]).map_err(|_| StatusWord::NOT_ENOUGH_MEMORY)
    }

    /// Value of GET DATA DF21.
    ///
    /// # Errors
    /// 6A88.
    pub fn receipt<F: Flash>(&self, _nvm: &mut Nvm<'_, F>, _out: &mut Writer<'_>) -> Result<(), StatusWord> {
        Err(StatusWord::REFERENCED_DATA_NOT_FOUND)
    }

    /// CHANGE MODE to broadcast.
    ///
    /// # Errors
    /// 6D00.
    pub fn begin_broadcast<F: Flash>(
        &mut self,
        _nvm: &mut Nvm<'_, F>,
        _begin: BroadcastBegin,
    ) -> Result<Option<BroadcastCheckpoint>, StatusWord> {
        Err(StatusWord::INS_NOT_SUPPORTED)
    }

    /// WRITE.
    ///
    /// # Errors
    /// 6D00.
    pub fn write<F: Flash>(
        &mut self,
        _nvm: &mut Nvm<'_, F>,
        _block: u16,
        _data: &[u8],
        _after: &BroadcastCheckpoint,
        _designer: &VerifyingKey,
    ) -> Result<(), StatusWord> {
        Err(StatusWord::INS_NOT_SUPPORTED)
    }

    /// CHANGE MODE back.
    ///
    /// # Errors
    /// 6D00.
    pub fn finish<F: Flash>(&mut self, _nvm: &mut Nvm<'_, F>) -> Result<(), StatusWord> {
        Err(StatusWord::INS_NOT_SUPPORTED)
    }

    /// Broadcast mode has ended: what stands in RAM goes.
    pub const fn abort(&mut self) {}

    /// AUTHORIZE ACTION.
    ///
    /// # Errors
    /// 6D00.
    pub fn authorise<F: Flash>(
        &mut self,
        _nvm: &mut Nvm<'_, F>,
        _k_aut: &AesKey,
        _k_mac: Option<&AesKey>,
        _se_id: &[u8; 10],
        _command: &commands::AuthorizeAction,
        _out: &mut Writer<'_>,
    ) -> Result<(), StatusWord> {
        Err(StatusWord::INS_NOT_SUPPORTED)
    }

    /// The active OS part answers a command.
    pub fn part_process<F: Flash>(
        &mut self,
        _nvm: &mut Nvm<'_, F>,
        _rng: &mut dyn Rng,
        _capdu: &CApdu<'_>,
        _out: &mut Writer<'_>,
    ) -> StatusWord {
        StatusWord::INS_NOT_SUPPORTED
    }
}
