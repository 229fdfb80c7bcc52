//! A broadcast under way: blocks in, pages out, a checkpoint after each page.

use sekisho_apdu::StatusWord;
use sekisho_keys::p256sig::VerifyingKey;
use sekisho_keys::{AesKey, Verdict, ctr_xor, kdf_label};
use sekisho_link::{Custody, Manifest, Staging, codes};
use sekisho_nvm::{Flash, Op, Region, WORD};
use sekisho_scp::card::BroadcastCheckpoint;
use zeroize::{Zeroize, Zeroizing};

use super::records::{CARRY, CHECKPOINT, Checkpoint, STAGING, Staged};
use super::{BroadcastBegin, PAGE_MAX, Position, length, status};
use crate::nvm::Nvm;

/// Block 0: the manifest and the designer's signature.
const SIGNATURE_LEN: usize = 64;

/// Reads block 0: a manifest of a target that there is, and whether the designer has signed it. To be looked at once more where the manifest is kept.
pub(super) fn read_manifest(data: &[u8], designer: &VerifyingKey) -> Result<(Manifest, Verdict), StatusWord> {
    let (bytes, signature) = data
        .split_last_chunk::<SIGNATURE_LEN>()
        .ok_or(StatusWord::WRONG_LENGTH)?;
    if bytes.len() != Manifest::LEN {
        return Err(StatusWord::WRONG_LENGTH);
    }
    let manifest = Manifest::decode(bytes).map_err(|_| StatusWord::INCORRECT_DATA)?;
    if !matches!(manifest.target, Manifest::OS_PART | Manifest::KEYS) {
        return Err(StatusWord::INCORRECT_DATA);
    }
    let signed = designer.verdict(&[codes::MANIFEST_SIGNATURE_PREFIX, bytes], signature);
    is_signed(signed)?;
    Ok((manifest, signed))
}

/// Lets pass what the designer has signed.
#[inline(always)]
pub(super) fn is_signed(verdict: Verdict) -> Result<(), StatusWord> {
    if verdict.is_yes() {
        Ok(())
    } else {
        Err(status::SIGNATURE)
    }
}

/// Writes a page of a slot: erased first, filled with FF to whole words.
pub(super) fn write_page(
    nvm: &mut Nvm<'_>,
    region: &Region,
    page: usize,
    bytes: &[u8],
) -> Result<(), StatusWord> {
    let failed = |_| StatusWord::MEMORY_FAILURE;
    let at = page * nvm.flash.page_size();
    region.erase(&mut nvm.flash, page).map_err(failed)?;
    let whole = bytes.len() - bytes.len() % WORD;
    let (words, rest) = bytes.split_at_checked(whole).unwrap_or((bytes, &[]));
    if !words.is_empty() {
        region.write(&mut nvm.flash, at, words).map_err(failed)?;
    }
    if !rest.is_empty() {
        let mut word = [0xFF; WORD];
        for (to, from) in word.iter_mut().zip(rest) {
            *to = *from;
        }
        region.write(&mut nvm.flash, at + whole, &word).map_err(failed)?;
    }
    Ok(())
}

/// The image's own encryption in custody 04.
struct ImageKey {
    key: AesKey,
    first_counter_block: [u8; 16],
}

/// A broadcast between CHANGE MODE and CHANGE MODE. It ends on any error: NVM holds the last checkpoint.
pub(super) struct Broadcast {
    begin: BroadcastBegin,
    staged: Option<Staged>,
    image_key: Option<ImageKey>,
    next_block: u16,
    /// Bytes of the image in the slot.
    written: usize,
}

/// What of an image does not fill a page of the slot yet.
pub(super) struct Page {
    bytes: [u8; PAGE_MAX],
    filled: usize,
}

impl Page {
    fn filled(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }
}

/// The place of a broadcast in the loader. Its page stays where it is: nothing moves it, and it is wiped in place.
pub(super) struct Place {
    held: Held,
    page: Page,
}

/// Empty it is zero all over, whatever was there before: a mere `None` would leave what it does not need.
#[allow(clippy::large_enum_variant, dead_code)] // one of them is always there; zeros are written, never read
enum Held {
    Empty([u8; size_of::<Broadcast>()]),
    Taken(Broadcast),
}

impl Held {
    const EMPTY: Self = Self::Empty([0; size_of::<Broadcast>()]);
}

impl Place {
    pub(super) const EMPTY: Self = Self {
        held: Held::EMPTY,
        page: Page {
            bytes: [0; PAGE_MAX],
            filled: 0,
        },
    };

    pub(super) const fn get(&self) -> Option<(&Broadcast, &Page)> {
        match &self.held {
            Held::Empty(_) => None,
            Held::Taken(broadcast) => Some((broadcast, &self.page)),
        }
    }

    pub(super) const fn get_mut(&mut self) -> Option<(&mut Broadcast, &mut Page)> {
        match &mut self.held {
            Held::Empty(_) => None,
            Held::Taken(broadcast) => Some((broadcast, &mut self.page)),
        }
    }

    /// A broadcast begins.
    pub(super) fn begin(&mut self, begin: BroadcastBegin) {
        self.page.filled = 0;
        self.held = Held::Taken(Broadcast {
            begin,
            staged: None,
            image_key: None,
            next_block: 0,
            written: 0,
        });
    }

    /// It ends: its keys and its page are wiped.
    pub(super) fn clear(&mut self) {
        if matches!(self.held, Held::Taken(_)) {
            self.page.bytes.zeroize();
            self.page.filled = 0;
            self.held = Held::EMPTY;
        }
    }
}

impl Broadcast {
    /// Goes on at a checkpoint.
    pub(super) fn resume(
        &mut self,
        page: &mut Page,
        nvm: &mut Nvm<'_>,
        staged: Staged,
        checkpoint: &Checkpoint,
    ) -> Result<(), StatusWord> {
        self.image_key = self.derive_image_key(&staged.manifest)?;
        self.next_block = checkpoint.next_block;
        self.written = usize::try_from(checkpoint.written).map_err(|_| StatusWord::MEMORY_FAILURE)?;
        page.filled = 0;
        for key in CARRY {
            let room = page.bytes.get_mut(page.filled..).unwrap_or_default();
            let piece = nvm.get(key, room).map_err(|refusal| refusal.0)?;
            page.filled += piece.unwrap_or(0);
        }
        self.staged = Some(staged);
        Ok(())
    }

    /// Only the next block is taken.
    pub(super) fn expect(&self, block: u16) -> Result<(), StatusWord> {
        if block == self.next_block {
            Ok(())
        } else {
            Err(status::SEQUENCE)
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.staged
            .as_ref()
            .is_some_and(|staged| staged.staging == Staging::Complete)
    }

    /// How far it has come.
    pub(super) fn position(&self) -> Position {
        let staged = self.staged.as_ref();
        Position {
            campaign: self.begin.campaign,
            target: staged.map_or(0, |staged| staged.manifest.target),
            block: self.next_block,
        }
    }

    fn derive_image_key(&self, manifest: &Manifest) -> Result<Option<ImageKey>, StatusWord> {
        let Custody::Hsm = self.begin.custody else {
            return Ok(None);
        };
        let kos = self
            .begin
            .kos
            .as_ref()
            .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
        let mut key = Zeroizing::new([0; 16]);
        kdf_label(kos, codes::LABEL_IMAGE, &manifest.package_id, &mut *key);
        let key = AesKey::new(&*key).map_err(|_| StatusWord::MEMORY_FAILURE)?;
        Ok(Some(ImageKey {
            key,
            first_counter_block: manifest.package_id,
        }))
    }

    /// Block 0 has been found good: from here on NVM knows of this broadcast.
    pub(super) fn begin(
        &mut self,
        page: &Page,
        nvm: &mut Nvm<'_>,
        manifest: Manifest,
        after: &BroadcastCheckpoint,
    ) -> Result<(), StatusWord> {
        self.image_key = self.derive_image_key(&manifest)?;
        let mut staged = Staged {
            campaign: self.begin.campaign,
            custody: self.begin.custody,
            resume_check: self.begin.resume_check,
            staging: Staging::Begun,
            manifest,
            k_int: [0; 16],
        };
        if self.begin.custody == Custody::DesignSystem {
            kdf_label(
                &self.begin.bk_mac,
                codes::LABEL_INTEGRITY,
                &manifest.package_id,
                &mut staged.k_int,
            );
        }
        self.next_block = 1;
        self.staged = Some(staged);
        self.checkpoint(page, nvm, after, true)
    }

    /// A block of the image: deciphered, gathered to pages; each full page is written and followed by a checkpoint.
    pub(super) fn block(
        &mut self,
        page: &mut Page,
        nvm: &mut Nvm<'_>,
        region: &Region,
        data: &[u8],
        after: &BroadcastCheckpoint,
    ) -> Result<(), StatusWord> {
        let total = length(&self.staged.as_ref().ok_or(status::SEQUENCE)?.manifest)?;
        if data.len() > total - self.written - page.filled {
            return Err(StatusWord::WRONG_LENGTH);
        }
        self.next_block = self.next_block.checked_add(1).ok_or(status::SEQUENCE)?;
        let size = nvm.flash.page_size();
        let mut rest = data;
        let mut has_written = false;
        while !rest.is_empty() {
            let (part, tail) = rest
                .split_at_checked(rest.len().min(size - page.filled))
                .unwrap_or((rest, &[]));
            self.gather(page, part)?;
            rest = tail;
            if page.filled == size || self.written + page.filled == total {
                write_page(nvm, region, self.written / size, page.filled())?;
                self.written += page.filled;
                page.filled = 0;
                has_written = true;
            }
        }
        let is_complete = self.written == total;
        if let Some(staged) = self.staged.as_mut().filter(|_| is_complete) {
            staged.staging = Staging::Complete;
        }
        if has_written {
            self.checkpoint(page, nvm, after, is_complete)
        } else {
            Ok(())
        }
    }

    /// Appends part of a block to the page buffer, in the clear.
    fn gather(&self, page: &mut Page, part: &[u8]) -> Result<(), StatusWord> {
        let end = page.filled + part.len();
        let room = page
            .bytes
            .get_mut(page.filled..end)
            .ok_or(StatusWord::MEMORY_FAILURE)?;
        room.copy_from_slice(part);
        if let Some(image) = &self.image_key {
            let offset = u64::try_from(self.written + page.filled).map_err(|_| StatusWord::MEMORY_FAILURE)?;
            ctr_xor(&image.key, &image.first_counter_block, offset, room)
                .map_err(|_| StatusWord::MEMORY_FAILURE)?;
        }
        page.filled = end;
        Ok(())
    }

    /// One transaction: where the broadcast stands, what does not fill a page yet, and, if it has changed, what is staged.
    pub(super) fn checkpoint(
        &self,
        page: &Page,
        nvm: &mut Nvm<'_>,
        channel: &BroadcastCheckpoint,
        staged_changed: bool,
    ) -> Result<(), StatusWord> {
        let failed = StatusWord::MEMORY_FAILURE;
        let written = u32::try_from(self.written).map_err(|_| failed)?;
        let checkpoint = Checkpoint {
            next_block: self.next_block,
            written,
            channel: *channel,
        };
        let checkpoint = checkpoint.encode().map_err(|_| failed)?;
        let carry = page.filled();
        let mut ops = [Op::Put(CHECKPOINT, &checkpoint); 1 + CARRY.len() + 1];
        let mut pieces = carry.chunks(nvm.store.value_max());
        for (op, key) in ops.iter_mut().skip(1).zip(CARRY) {
            *op = pieces.next().map_or(Op::Remove(key), |piece| Op::Put(key, piece));
        }
        if pieces.next().is_some() {
            return Err(failed);
        }
        let (last, position) = ops.split_last_mut().ok_or(failed)?;
        match self.staged.as_ref().filter(|_| staged_changed) {
            None => nvm.commit_more(position)?,
            Some(staged) => {
                let staged = Zeroizing::new(staged.encode().map_err(|_| failed)?);
                *last = Op::Put(STAGING, &*staged);
                nvm.commit_more(&ops)?;
            }
        }
        Ok(())
    }
}
