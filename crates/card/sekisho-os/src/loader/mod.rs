//! The loader: broadcast mode's writes, the two slots of the OS part, and activation (broadcast update, section 2).
//!
//! The loader is the part of the SE that no update replaces. A broadcast goes through these states, each of which stands in NVM before the
//! command that leads to it is answered:
//!
//! ```text
//! nothing --block 0--> begun --last block--> complete --AUTHORIZE ACTION--> active part or new keys, receipt
//!    ^                   |  ^                    |
//!    |                   +--+ checkpoint at each page, and when broadcast mode is left
//!    +---- discarded, or another campaign begins -+
//! ```
//!
//! One image is staged at a time, of whichever target, in the slot that is not active. The active part and its version change in one place,
//! `Loader::activate`, and the design system's keys and theirs in one, `Loader::change_keys`; each in one transaction.

mod authorise;
pub mod commands;
mod keys;
mod receipts;
mod records;
mod refusals;
mod staging;
pub mod status;

pub use authorise::Authority;
use refusals::Position;
pub use refusals::{Refused, Subject};

use sekisho_apdu::{BufferFull, StatusWord, Writer};
use sekisho_keys::p256sig::VerifyingKey;
use sekisho_keys::{AesKey, ct_eq};
use sekisho_link::{Campaign, Custody, LoaderState, Manifest, Receipt, Refusal, Staging};
use sekisho_nvm::{Flash, Op, Region};
use sekisho_scp::card::BroadcastCheckpoint;

use crate::nvm::Nvm;
use crate::part::{self, PartFailure, Placed, Whose};
use records::{ActivePart, Checkpoint, PART, RECEIPT, REFUSAL, Staged, UNSTAGED, WIPE};
use staging::Place;

/// Largest flash page that the page buffer holds.
const PAGE_MAX: usize = 4096;

/// Nothing is staged.
const UNKNOWN: (Staging, Position) = (Staging::Nothing, Position::new(Campaign(0)));

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
    /// Version of the design system's keys.
    key_version: u32,
    /// What GET DATA and refusals say of the staged image: state, campaign, target, the block from which it can go on.
    staged: (Staging, Position),
    /// What the broadcast mode that is on, or has just ended, is about.
    loading: Position,
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
    /// It knows of nothing yet, and of no keys: zeros.
    pub(crate) const NEW: Self = Self {
        active: None,
        key_version: 0,
        staged: UNKNOWN,
        loading: UNKNOWN.1,
        broadcast: Place::EMPTY,
        part_ram: 0,
        failure: None,
    };

    /// It knows of nothing any more.
    pub(crate) fn forget(&mut self) {
        self.broadcast.clear();
        (self.active, self.key_version) = (None, Manifest::FIRST_KEY_VERSION);
        (self.staged, self.loading) = (UNKNOWN, UNKNOWN.1);
        self.failure = None;
    }

    /// Starts the loader, where it stands; `part_ram` is what the OS part may use.
    ///
    /// # Errors
    /// 6581 when the flash fails or holds records of another making; 6A84 when its pages are larger than the page buffer.
    pub fn boot(&mut self, nvm: &mut Nvm<'_>, part_ram: usize) -> Result<(), StatusWord> {
        if nvm.flash.page_size() > PAGE_MAX {
            return Err(StatusWord::NOT_ENOUGH_MEMORY);
        }
        self.forget();
        self.part_ram = part_ram;
        self.active = ActivePart::load(nvm)?;
        self.key_version = records::key_version(nvm)?;
        self.reload(nvm)?;
        if nvm.get(WIPE, &mut []).map_err(|refusal| refusal.0)?.is_some() {
            self.wipe_slot(nvm)?;
        }
        Ok(())
    }

    /// Reads again what GET DATA says of the staged image.
    fn reload(&mut self, nvm: &mut Nvm<'_>) -> Result<(), StatusWord> {
        self.staged = match (Staged::load(nvm)?, Checkpoint::load(nvm)?) {
            (Some(staged), Some(checkpoint)) => {
                let position = Position {
                    campaign: staged.campaign,
                    target: staged.manifest.target,
                    block: checkpoint.next_block,
                };
                (staged.staging, position)
            }
            _ => UNKNOWN,
        };
        Ok(())
    }

    /// Wipes the slot that is not active, as the record says that the last transaction left; then that record goes.
    fn wipe_slot(&self, nvm: &mut Nvm<'_>) -> Result<(), StatusWord> {
        slot(nvm, self.inactive_slot())?
            .wipe(&mut nvm.flash)
            .map_err(|_| StatusWord::MEMORY_FAILURE)?;
        commit(nvm, &[Op::Remove(WIPE)])
    }

    /// Puts the first OS part into slot A: a factory step, before the card record makes the SE one. `part_ram` is what it may use.
    ///
    /// # Errors
    /// 9505 when the module is not for this SE, 9503 when it is not the one of the manifest, 6A84 when it is too long, 6581.
    pub fn install_initial(
        nvm: &mut Nvm<'_>,
        manifest: &Manifest,
        image: &[u8],
        part_ram: usize,
    ) -> Result<(), StatusWord> {
        if sekisho_keys::sha256(&[image]) != manifest.digest || image.len() != length(manifest)? {
            return Err(status::INTEGRITY);
        }
        check_code_format(manifest)?;
        part::check(image, part_ram)
            .and_then(|said| part::is_of(manifest.abi, said))
            .map_err(|_| status::CODE)?;
        let region = slot(nvm, 0)?;
        if image.len() > region.len(&nvm.flash) {
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

    /// Writes the version of the design system's keys that the SE is made with: a factory step, as [`Loader::install_initial`].
    ///
    /// # Errors
    /// 6A84, 6581.
    pub fn install_key_version(nvm: &mut Nvm<'_>, version: u32) -> Result<(), StatusWord> {
        if version == Manifest::FIRST_KEY_VERSION {
            return Ok(());
        }
        commit(nvm, &[Op::Put(records::KEY_VERSION, &version.to_be_bytes())])
    }

    /// Writes the value of GET DATA DF20 or DF22: the state of a target, beside which nothing is staged while something of another one is.
    ///
    /// # Errors
    /// [`BufferFull`].
    pub fn state_object(&self, target: u8, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        let (staging, position) = match self.staged {
            (staging, position) if position.target == target => (staging, position),
            _ => UNKNOWN,
        };
        let (slot, abi) = if target == Manifest::OS_PART {
            (self.active.map_or(0, |active| active.slot), part::ABI)
        } else {
            (0, Manifest::NO_CODE)
        };
        LoaderState {
            target,
            slot,
            version: self.version(target),
            abi,
            staging,
            campaign: position.campaign,
            next_block: position.block,
        }
        .encode(out)
    }

    /// Writes the last receipt.
    ///
    /// # Errors
    /// 6A88 when there is none, 6A84 when it does not fit, 6581.
    pub fn receipt(&self, nvm: &mut Nvm<'_>, out: &mut Writer<'_>) -> Result<(), StatusWord> {
        records::copy::<{ Receipt::LEN }>(nvm, RECEIPT, out)
    }

    /// Writes the last refusal.
    ///
    /// # Errors
    /// 6A88 when there is none, 6A84 when it does not fit, 6581.
    pub fn refusal(&self, nvm: &mut Nvm<'_>, out: &mut Writer<'_>) -> Result<(), StatusWord> {
        records::copy::<{ Refusal::LEN }>(nvm, REFUSAL, out)
    }

    /// Version of the design system's keys.
    pub const fn key_version(&self) -> u32 {
        self.key_version
    }

    /// Active version of a target, 0 when there is none.
    fn version(&self, target: u8) -> u32 {
        match target {
            Manifest::OS_PART => self.active.map_or(0, |active| active.manifest.version),
            Manifest::KEYS => self.key_version,
            _ => 0,
        }
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
    pub fn begin_broadcast(
        &mut self,
        nvm: &mut Nvm<'_>,
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
            commit(nvm, &UNSTAGED)?;
            self.reload(nvm)?;
            self.loading = Position::new(begin.campaign);
            self.broadcast.begin(begin);
            return Ok(None);
        };
        (_, self.loading) = self.staged;
        self.broadcast.begin(begin);
        let resumed = match self.broadcast.get_mut() {
            Some((broadcast, page)) => broadcast.resume(page, nvm, staged, &checkpoint),
            None => Ok(()),
        };
        if let Err(sw) = resumed {
            self.broadcast.clear();
            return Err(sw);
        }
        Ok(Some(checkpoint.channel))
    }

    /// WRITE; `after` is the state of the broadcast channel behind this command. `designer` is asked for with block 0 alone.
    ///
    /// # Errors
    /// The status words of broadcast update, 2.2.
    pub fn write(
        &mut self,
        nvm: &mut Nvm<'_>,
        block: u16,
        data: &[u8],
        after: &BroadcastCheckpoint,
        designer: Option<&VerifyingKey>,
    ) -> Result<(), StatusWord> {
        self.loading.block = block;
        let done = self.write_in_place(nvm, block, data, after, designer);
        match (self.broadcast.get(), done) {
            (Some((broadcast, _)), Ok(())) => self.loading = broadcast.position(),
            _ => self.broadcast.clear(),
        }
        done
    }

    /// [`Loader::write`] on the broadcast where it stands: moved away and back it would leave its keys behind.
    fn write_in_place(
        &mut self,
        nvm: &mut Nvm<'_>,
        block: u16,
        data: &[u8],
        after: &BroadcastCheckpoint,
        designer: Option<&VerifyingKey>,
    ) -> Result<(), StatusWord> {
        let region = slot(nvm, self.inactive_slot())?;
        let versions = [Manifest::OS_PART, Manifest::KEYS].map(|target| (target, self.version(target)));
        let (broadcast, page) = self
            .broadcast
            .get_mut()
            .ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
        broadcast.expect(block)?;
        if block == 0 {
            let designer = designer.ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
            let (manifest, signed) = staging::read_manifest(data, designer)?;
            self.loading.target = manifest.target;
            check_code_format(&manifest)?;
            let active = versions.iter().find(|(target, _)| *target == manifest.target);
            check_version(active.map_or(0, |(_, version)| *version), &manifest)?;
            if length(&manifest)? > region.len(&nvm.flash) {
                return Err(StatusWord::NOT_ENOUGH_MEMORY);
            }
            staging::is_signed(signed)?;
            broadcast.begin(page, nvm, manifest, after)?;
        } else {
            broadcast.block(page, nvm, &region, data, after)?;
        }
        self.reload(nvm)
    }

    /// CHANGE MODE back.
    ///
    /// # Errors
    /// 9504 before the image is whole.
    pub fn finish(&mut self, _nvm: &mut Nvm<'_>) -> Result<(), StatusWord> {
        let is_complete = self.broadcast.get().map(|(broadcast, _)| broadcast.is_complete());
        self.broadcast.clear();
        match is_complete {
            None => Err(StatusWord::CONDITIONS_NOT_SATISFIED),
            Some(true) => Ok(()),
            Some(false) => Err(status::SEQUENCE),
        }
    }

    /// CHANGE MODE that leaves broadcast mode at a block boundary: a checkpoint, `channel` being the state of the broadcast channel, unless the last
    /// one says the same or block 0 has not been written. The keys and the page buffer are wiped.
    ///
    /// # Errors
    /// 6A84 when the checkpoint finds no room, 6581: the last checkpoint stands.
    pub fn leave(&mut self, nvm: &mut Nvm<'_>, channel: &BroadcastCheckpoint) -> Result<(), StatusWord> {
        let (_, standing) = self.staged;
        let left = match self.broadcast.get() {
            None => Err(StatusWord::CONDITIONS_NOT_SATISFIED),
            Some((broadcast, _)) if broadcast.position().block == standing.block => Ok(()),
            Some((broadcast, page)) => broadcast.checkpoint(page, nvm, channel, false),
        };
        self.broadcast.clear();
        left?;
        self.reload(nvm)
    }

    /// Broadcast mode has ended otherwise: its keys and its page buffer are wiped; what stands in NVM stays.
    pub fn abort(&mut self) {
        self.broadcast.clear();
    }

    /// A part in a slot.
    fn placed(&self, nvm: &Nvm<'_>, number: u8, manifest: &Manifest) -> Result<Placed, StatusWord> {
        let (region, len) = (slot(nvm, number)?, length(manifest)?);
        if len > region.len(&nvm.flash) {
            return Err(StatusWord::MEMORY_FAILURE);
        }
        Ok(Placed {
            region,
            len,
            version: manifest.version,
            abi: manifest.abi,
            ram: self.part_ram,
            whose: Whose::Part,
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

    /// The active OS part, where it stands. One that was activated by an operating system of another host ABI, or by one that has an engine where this one has none, stays where it is and
    /// answers nothing: 6D00, as if there were none.
    pub(crate) fn placed_part(&self, nvm: &Nvm<'_>) -> Result<Placed, StatusWord> {
        let runs = |active: &ActivePart| check_code_format(&active.manifest).is_ok();
        let active = self.active.filter(runs).ok_or(StatusWord::INS_NOT_SUPPORTED)?;
        self.placed(nvm, active.slot, &active.manifest)
    }

    /// Notes why its last command was answered 6F00, if it was.
    pub(crate) const fn note(&mut self, failure: Option<PartFailure>) {
        self.failure = failure;
    }
}

/// Whether this SE runs such code at all; new keys are none.
const fn check_code_format(manifest: &Manifest) -> Result<(), StatusWord> {
    match (manifest.target, manifest.code_format, manifest.abi) {
        (Manifest::OS_PART, code_format, abi) if part::runs(code_format, abi) => Ok(()),
        (Manifest::KEYS, Manifest::NO_CODE, Manifest::NO_CODE) => Ok(()),
        _ => Err(status::CODE),
    }
}

fn length(manifest: &Manifest) -> Result<usize, StatusWord> {
    usize::try_from(manifest.length).map_err(|_| StatusWord::NOT_ENOUGH_MEMORY)
}

fn slot(nvm: &Nvm<'_>, number: u8) -> Result<Region, StatusWord> {
    let pages = nvm
        .layout
        .slots
        .get(usize::from(number))
        .ok_or(StatusWord::MEMORY_FAILURE)?;
    Ok(Region::new(pages.clone()))
}

/// Whether an image may replace what is active, which has this version.
fn check_version(active: u32, manifest: &Manifest) -> Result<(), StatusWord> {
    if manifest.version > active && active >= manifest.min_previous {
        Ok(())
    } else {
        Err(status::ROLLBACK)
    }
}

/// One transaction of the loader.
fn commit(nvm: &mut Nvm<'_>, ops: &[Op<'_>]) -> Result<(), StatusWord> {
    nvm.store
        .commit(&mut nvm.flash, ops)
        .map_err(|error| crate::Refusal::from(error).0)
}
