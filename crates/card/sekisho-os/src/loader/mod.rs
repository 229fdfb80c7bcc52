//! The loader: broadcast mode's writes, the two slots of the OS part, and activation (broadcast update, section 2).
//!
//! The loader is the part of the SE that no update replaces. A broadcast goes through these states, each of which stands in NVM before the
//! command that leads to it is answered:
//!
//! ```text
//! nothing --block 0--> begun --last block--> complete --AUTHORIZE ACTION--> active part, receipt
//!    ^                   |  ^                    |
//!    |                   +--+ checkpoint at each page
//!    +---- discarded, or another campaign begins -+
//! ```
//!
//! The active part and its version change in one place, `Loader::activate`, in one transaction.

pub mod commands;
mod receipts;
mod records;
mod staging;
pub mod status;

pub(crate) use records::part_data;

use sekisho_apdu::{BufferFull, CApdu, StatusWord, Writer};
use sekisho_keys::p256sig::VerifyingKey;
use sekisho_keys::{AesKey, Rng, Sha256, cmac, ct_eq};
use sekisho_link::{Campaign, Custody, LoaderState, Manifest, SeId, Staging, codes};
use sekisho_nvm::{Flash, Op, Region};
use sekisho_scp::card::BroadcastCheckpoint;
use sekisho_wasm::Why;

use crate::nvm::Nvm;
use crate::part::{self, NoPart, PartFailure, Placed};
use commands::AuthorizeAction;
use records::{ActivePart, CARRY, CHECKPOINT, Checkpoint, PART, RECEIPT, STAGING, Staged};
use staging::{Broadcast, Place};

/// Largest flash page that the page buffer holds.
const PAGE_MAX: usize = 4096;

/// What CHANGE MODE says about a broadcast that begins, its keys unwrapped.
pub struct BroadcastBegin {
    /// The campaign.
    pub campaign: Campaign,
    /// Who made the broadcast key set.
    pub custody: Custody,
    /// Tells whether a checkpoint belongs to this broadcast key set.
    pub resume_check: [u8; 8],
    /// BK-MAC, from which custody 03 derives its integrity key.
    pub bk_mac: AesKey,
    /// Kos, from which custody 04 derives the image key.
    pub kos: Option<AesKey>,
}

/// The loader.
pub struct Loader {
    /// The active part; an SE may have left the factory without one.
    active: Option<ActivePart>,
    /// What GET DATA says of the staged image: state, campaign, the block from which it can go on.
    staged: (Staging, Campaign, u16),
    broadcast: Place,
    /// RAM for the OS part, in bytes.
    part_ram: usize,
    /// Why the part's last command was answered 6F00.
    failure: Option<PartFailure>,
}

/// What is known of the active OS part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartState {
    /// Its version.
    pub version: u32,
    /// The host ABI that it is written for.
    pub abi: u8,
    /// Whether this operating system runs it.
    pub runs: bool,
    /// Why its last command was answered 6F00.
    pub failure: Option<PartFailure>,
}

impl Loader {
    /// Starts the loader; `part_ram` is what the OS part may use.
    ///
    /// # Errors
    /// 6581 when the flash fails or holds records of another making; 6A84 when its pages are larger than the page buffer.
    pub fn boot<F: Flash>(nvm: &mut Nvm<'_, F>, part_ram: usize) -> Result<Self, StatusWord> {
        if nvm.flash.page_size() > PAGE_MAX {
            return Err(StatusWord::NOT_ENOUGH_MEMORY);
        }
        let active = ActivePart::load(nvm)?;
        let mut loader = Self {
            active,
            staged: (Staging::Nothing, Campaign(0), 0),
            broadcast: Place::EMPTY,
            part_ram,
            failure: None,
        };
        loader.reload(nvm)?;
        Ok(loader)
    }

    /// Reads again what GET DATA says of the staged image.
    fn reload<F: Flash>(&mut self, nvm: &mut Nvm<'_, F>) -> Result<(), StatusWord> {
        self.staged = match (Staged::load(nvm)?, Checkpoint::load(nvm)?) {
            (Some(staged), Some(checkpoint)) => (staged.staging, staged.campaign, checkpoint.next_block),
            _ => (Staging::Nothing, Campaign(0), 0),
        };
        Ok(())
    }

    /// Puts the first OS part into slot A: a factory step, before the card record makes the SE one. `part_ram` is what it may use.
    ///
    /// # Errors
    /// 9505 when the module is not for this SE, 9503 when it is not the one of the manifest, 6A84 when it is too long, 6581.
    pub fn install_initial<F: Flash>(
        nvm: &mut Nvm<'_, F>,
        manifest: &Manifest,
        image: &[u8],
        part_ram: usize,
    ) -> Result<(), StatusWord> {
        if sekisho_keys::sha256(&[image]) != manifest.digest || image.len() != length(manifest)? {
            return Err(status::INTEGRITY);
        }
        check_code_format(manifest)?;
        part::check(image, part_ram).map_err(|_| status::CODE)?;
        let region = slot(nvm, 0)?;
        if image.len() > region.len(nvm.flash) {
            return Err(StatusWord::NOT_ENOUGH_MEMORY);
        }
        let size = nvm.flash.page_size();
        for (page, bytes) in image.chunks(size).enumerate() {
            staging::write_page(nvm, &region, page, bytes)?;
        }
        let active = ActivePart {
            slot: 0,
            manifest: *manifest,
        };
        commit(nvm, &[Op::Put(PART, &active.encode())])
    }

    /// Writes the value of GET DATA DF20.
    ///
    /// # Errors
    /// [`BufferFull`].
    pub fn state_object(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        let (staging, campaign, next_block) = self.staged;
        LoaderState {
            target: Manifest::OS_PART,
            slot: self.active.map_or(0, |active| active.slot),
            version: self.version(),
            abi: part::ABI,
            staging,
            campaign,
            next_block,
        }
        .encode(out)
    }

    /// Writes the last receipt.
    ///
    /// # Errors
    /// 6A88 when there is none, 6A84 when it does not fit, 6581.
    pub fn receipt<F: Flash>(&self, nvm: &mut Nvm<'_, F>, out: &mut Writer<'_>) -> Result<(), StatusWord> {
        receipts::last(nvm, out)
    }

    /// Version of the active part, 0 when there is none.
    fn version(&self) -> u32 {
        self.active.map_or(0, |active| active.manifest.version)
    }

    /// The slot that is not active.
    fn inactive_slot(&self) -> u8 {
        self.active.map_or(0, |active| 1 - active.slot)
    }

    /// CHANGE MODE to broadcast mode: looks for a checkpoint of the same broadcast and gives the state of its secure channel; any other
    /// is deleted.
    ///
    /// # Errors
    /// 6581.
    pub fn begin_broadcast<F: Flash>(
        &mut self,
        nvm: &mut Nvm<'_, F>,
        begin: BroadcastBegin,
    ) -> Result<Option<BroadcastCheckpoint>, StatusWord> {
        let found = match (Staged::load(nvm)?, Checkpoint::load(nvm)?) {
            (Some(staged), Some(checkpoint))
                if staged.campaign == begin.campaign
                    && staged.custody == begin.custody
                    && ct_eq(&staged.resume_check, &begin.resume_check) =>
            {
                Some((staged, checkpoint))
            }
            _ => None,
        };
        let Some((staged, checkpoint)) = found else {
            commit(
                nvm,
                &[Op::Remove(STAGING), Op::Remove(CHECKPOINT), Op::Remove(CARRY)],
            )?;
            self.reload(nvm)?;
            self.broadcast = Place::Taken(Broadcast::new(begin));
            return Ok(None);
        };
        self.broadcast = Place::Taken(Broadcast::resume(nvm, begin, staged, &checkpoint)?);
        Ok(Some(checkpoint.channel))
    }

    /// WRITE; `after` is the state of the broadcast channel behind this command. `designer` is asked for with block 0 alone.
    ///
    /// # Errors
    /// The status words of broadcast update, 2.2.
    pub fn write<F: Flash>(
        &mut self,
        nvm: &mut Nvm<'_, F>,
        block: u16,
        data: &[u8],
        after: &BroadcastCheckpoint,
        designer: Option<&VerifyingKey>,
    ) -> Result<(), StatusWord> {
        let done = self.write_in_place(nvm, block, data, after, designer);
        if done.is_err() {
            self.broadcast = Place::EMPTY;
        }
        done
    }

    /// [`Loader::write`] on the broadcast where it stands: moved away and back it would leave its keys behind.
    fn write_in_place<F: Flash>(
        &mut self,
        nvm: &mut Nvm<'_, F>,
        block: u16,
        data: &[u8],
        after: &BroadcastCheckpoint,
        designer: Option<&VerifyingKey>,
    ) -> Result<(), StatusWord> {
        let region = slot(nvm, self.inactive_slot())?;
        let active = self.version();
        let broadcast = self
            .broadcast
            .get_mut()
            .ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
        broadcast.expect(block)?;
        if block == 0 {
            let designer = designer.ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
            let manifest = staging::read_manifest(data, designer)?;
            check_version(active, &manifest)?;
            if length(&manifest)? > region.len(nvm.flash) {
                return Err(StatusWord::NOT_ENOUGH_MEMORY);
            }
            broadcast.begin(nvm, manifest, after)?;
        } else {
            broadcast.block(nvm, &region, data, after)?;
        }
        self.reload(nvm)
    }

    /// CHANGE MODE back.
    ///
    /// # Errors
    /// 9504 before the image is whole.
    pub fn finish<F: Flash>(&mut self, _nvm: &mut Nvm<'_, F>) -> Result<(), StatusWord> {
        let is_complete = self.broadcast.get().map(Broadcast::is_complete);
        self.broadcast = Place::EMPTY;
        match is_complete {
            None => Err(StatusWord::CONDITIONS_NOT_SATISFIED),
            Some(true) => Ok(()),
            Some(false) => Err(status::SEQUENCE),
        }
    }

    /// Broadcast mode has ended otherwise: its keys and its page buffer are wiped; what stands in NVM stays.
    pub fn abort(&mut self) {
        self.broadcast = Place::EMPTY;
    }

    /// AUTHORIZE ACTION; appends the receipt to the answer.
    ///
    /// # Errors
    /// The status words of broadcast update, 2.3.
    pub fn authorise<F: Flash>(
        &mut self,
        nvm: &mut Nvm<'_, F>,
        k_aut: &AesKey,
        k_mac: Option<&AesKey>,
        se_id: &[u8; 10],
        command: &AuthorizeAction,
        out: &mut Writer<'_>,
    ) -> Result<(), StatusWord> {
        let se_id = SeId(*se_id);
        let staged = Staged::load(nvm)?.ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
        match command {
            AuthorizeAction::Discard {
                campaign,
                individual_code,
            } => {
                same_campaign(&staged, *campaign)?;
                check_code(k_aut, &codes::discard_message(*campaign, se_id), individual_code)?;
                self.discard(nvm, k_aut, se_id, *campaign, out)
            }
            AuthorizeAction::Activate {
                campaign,
                design_code,
                individual_code,
            } => {
                if staged.staging != Staging::Complete {
                    return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
                }
                same_campaign(&staged, *campaign)?;
                let manifest = self.own_digest(nvm, &staged)?;
                let k_int = match staged.custody {
                    Custody::DesignSystem => {
                        AesKey::new(&staged.k_int).map_err(|_| StatusWord::MEMORY_FAILURE)?
                    }
                    Custody::Hsm => k_mac.ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?.clone(),
                };
                check_code(&k_int, &codes::design_code_message(&manifest), design_code)?;
                check_code(
                    k_aut,
                    &codes::activate_message(&manifest, *campaign, se_id),
                    individual_code,
                )?;
                check_version(self.version(), &manifest)?;
                self.check_code(nvm, &manifest)?;
                self.activate(nvm, k_aut, se_id, *campaign, manifest, out)
            }
        }
    }

    /// Takes the SHA-256 of what stands in the slot. If it is not the manifest's, what is staged is wiped: nothing can make it right.
    fn own_digest<F: Flash>(
        &mut self,
        nvm: &mut Nvm<'_, F>,
        staged: &Staged,
    ) -> Result<Manifest, StatusWord> {
        let region = slot(nvm, self.inactive_slot())?;
        let len = length(&staged.manifest)?;
        let mut hash = Sha256::new();
        let mut chunk = [0; 256];
        let mut at = 0;
        while at < len {
            let part = chunk.get_mut(..256.min(len - at)).unwrap_or_default();
            region
                .read(nvm.flash, at, part)
                .map_err(|_| StatusWord::MEMORY_FAILURE)?;
            hash.update(part);
            at += part.len();
        }
        let digest = hash.finalize();
        if !ct_eq(&digest, &staged.manifest.digest) {
            commit(
                nvm,
                &[Op::Remove(STAGING), Op::Remove(CHECKPOINT), Op::Remove(CARRY)],
            )?;
            region.wipe(nvm.flash).map_err(|_| StatusWord::MEMORY_FAILURE)?;
            self.reload(nvm)?;
            return Err(status::INTEGRITY);
        }
        Ok(Manifest {
            digest,
            ..staged.manifest
        })
    }

    /// Makes the staged image the active part, with its receipt, in one transaction.
    fn activate<F: Flash>(
        &mut self,
        nvm: &mut Nvm<'_, F>,
        k_aut: &AesKey,
        se_id: SeId,
        campaign: Campaign,
        manifest: Manifest,
        out: &mut Writer<'_>,
    ) -> Result<(), StatusWord> {
        let active = ActivePart {
            slot: self.inactive_slot(),
            manifest,
        };
        let receipt = receipts::activated(k_aut, se_id, campaign, self.version(), &manifest);
        let ops = [
            Op::Put(PART, &active.encode()),
            Op::Put(RECEIPT, &receipt),
            Op::Remove(STAGING),
            Op::Remove(CHECKPOINT),
            Op::Remove(CARRY),
        ];
        commit(nvm, &ops)?;
        self.active = Some(active);
        self.broadcast = Place::EMPTY;
        self.reload(nvm)?;
        out.bytes(&receipt).map_err(|_| StatusWord::NOT_ENOUGH_MEMORY)
    }

    fn discard<F: Flash>(
        &mut self,
        nvm: &mut Nvm<'_, F>,
        k_aut: &AesKey,
        se_id: SeId,
        campaign: Campaign,
        out: &mut Writer<'_>,
    ) -> Result<(), StatusWord> {
        let receipt = receipts::discarded(k_aut, se_id, campaign, self.version());
        commit(
            nvm,
            &[
                Op::Put(RECEIPT, &receipt),
                Op::Remove(STAGING),
                Op::Remove(CHECKPOINT),
                Op::Remove(CARRY),
            ],
        )?;
        self.broadcast = Place::EMPTY;
        self.reload(nvm)?;
        slot(nvm, self.inactive_slot())?
            .wipe(nvm.flash)
            .map_err(|_| StatusWord::MEMORY_FAILURE)?;
        out.bytes(&receipt).map_err(|_| StatusWord::NOT_ENOUGH_MEMORY)
    }

    /// Whether what is staged would run: it is loaded as a command loads it.
    fn check_code<F: Flash>(&self, nvm: &Nvm<'_, F>, manifest: &Manifest) -> Result<(), StatusWord> {
        check_code_format(manifest)?;
        let placed = self.placed(nvm, self.inactive_slot(), manifest)?;
        let checked = placed.with_image(nvm.flash, |image| part::validate(image, self.part_ram));
        checked.map_err(|why| match why {
            NoPart::Module(refusal) if refusal.why == Why::Read => StatusWord::MEMORY_FAILURE,
            _ => status::CODE,
        })
    }

    /// A part in a slot.
    fn placed<F: Flash>(
        &self,
        nvm: &Nvm<'_, F>,
        number: u8,
        manifest: &Manifest,
    ) -> Result<Placed, StatusWord> {
        let (region, len) = (slot(nvm, number)?, length(manifest)?);
        if len > region.len(nvm.flash) {
            return Err(StatusWord::MEMORY_FAILURE);
        }
        Ok(Placed {
            region,
            len,
            version: manifest.version,
            ram: self.part_ram,
        })
    }

    /// The active OS part, whether it runs or not.
    pub fn part(&self) -> Option<PartState> {
        self.active.map(|active| PartState {
            version: active.manifest.version,
            abi: active.manifest.abi,
            runs: check_code_format(&active.manifest).is_ok(),
            failure: self.failure,
        })
    }

    /// The active OS part answers a command, in a fresh instance; its writes are committed if it succeeds. A part that was activated by an operating
    /// system of another host ABI stays where it is and answers nothing: 6D00, as if there were none.
    pub fn part_process<F: Flash>(
        &mut self,
        nvm: &mut Nvm<'_, F>,
        rng: &mut dyn Rng,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> StatusWord {
        self.failure = None;
        let Some(active) = self
            .active
            .filter(|active| check_code_format(&active.manifest).is_ok())
        else {
            return StatusWord::INS_NOT_SUPPORTED;
        };
        let placed = match self.placed(nvm, active.slot, &active.manifest) {
            Ok(placed) => placed,
            Err(sw) => return sw,
        };
        let (sw, failure) = part::process(nvm, rng, &placed, capdu, out);
        self.failure = failure;
        sw
    }
}

/// Whether this SE runs such code at all.
const fn check_code_format(manifest: &Manifest) -> Result<(), StatusWord> {
    if manifest.code_format == Manifest::WEBASSEMBLY && manifest.abi == part::ABI {
        Ok(())
    } else {
        Err(status::CODE)
    }
}

fn same_campaign(staged: &Staged, campaign: Campaign) -> Result<(), StatusWord> {
    if staged.campaign == campaign {
        Ok(())
    } else {
        Err(status::CAMPAIGN)
    }
}

fn check_code(key: &AesKey, message: &[u8], code: &[u8; 16]) -> Result<(), StatusWord> {
    if ct_eq(&cmac(key, &[message]), code) {
        Ok(())
    } else {
        Err(status::INTEGRITY)
    }
}

fn length(manifest: &Manifest) -> Result<usize, StatusWord> {
    usize::try_from(manifest.length).map_err(|_| StatusWord::NOT_ENOUGH_MEMORY)
}

fn slot<F: Flash>(nvm: &Nvm<'_, F>, number: u8) -> Result<Region, StatusWord> {
    let pages = nvm
        .layout
        .slots
        .get(usize::from(number))
        .ok_or(StatusWord::MEMORY_FAILURE)?;
    Ok(Region::new(pages.clone()))
}

/// Whether a part may replace the active one, which has this version.
fn check_version(active: u32, manifest: &Manifest) -> Result<(), StatusWord> {
    if manifest.version > active && active >= manifest.min_previous {
        Ok(())
    } else {
        Err(status::ROLLBACK)
    }
}

/// One transaction of the loader.
fn commit<F: Flash>(nvm: &mut Nvm<'_, F>, ops: &[Op<'_>]) -> Result<(), StatusWord> {
    nvm.store
        .commit(nvm.flash, ops)
        .map_err(|error| crate::Refusal::from(error).0)
}
