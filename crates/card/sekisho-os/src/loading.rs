//! A load file that comes by command, while it comes (`docs/spec/loading.md`).
//!
//! Nothing of it is found before its last block: its image is written into the area for bulk as it comes, and is sealed, with the registry entry, when all of it is there and is what was announced.

use core::fmt;

use sekisho_apdu::{Aid, StatusWord};
use sekisho_keys::{Sha256, ct_eq};
use sekisho_nvm::area::Writing;

use crate::authorisation::TokenNumber;
use crate::carrier::{Blocks, Carrier, Described, Part, Piece};
use crate::interface::Place;
use crate::memory::State;
use crate::names::EntryId;
use crate::nvm::{Nvm, Records};
use crate::refusal::Refusal;

/// DAP blocks that a load file may have.
const DAPS_MAX: usize = 4;

/// Room for one load file that comes by command. What it takes does not depend on the file.
pub struct Loading {
    pub(crate) now: Option<Incoming>,
}

/// It says nothing of what comes.
impl fmt::Debug for Loading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loading").finish_non_exhaustive()
    }
}

impl State for Loading {
    const NEW: Self = Self { now: None };
}

/// Who has announced a load file, and what.
#[derive(Clone, Copy)]
pub(crate) struct Announced {
    /// Where its blocks come from.
    pub(crate) place: Place,
    /// Its identity.
    pub(crate) id: EntryId,
    /// Its AID.
    pub(crate) aid: Aid,
    /// The security domain that it is to be associated with.
    pub(crate) domain: EntryId,
    /// The number of the token that it was announced by.
    pub(crate) token: TokenNumber,
    /// The digest of its load file data block, if it has been said.
    pub(crate) digest: Option<[u8; 32]>,
}

/// A load file of which not all has come.
pub(crate) struct Incoming {
    pub(crate) announced: Announced,
    /// Number of the next block.
    next: u8,
    blocks: Blocks,
    carrier: Carrier,
    /// Over the load file data block.
    whole: Sha256,
    /// Over the image.
    image: Sha256,
    /// Security domains whose DAP block has been verified.
    verified: [Option<EntryId>; DAPS_MAX],
    /// What it says of its module, and where the image is being written.
    writing: Option<(Described, Writing)>,
}

/// A load file all of which has come: what it is, where its image stands, and the image's digest.
pub(crate) struct Come {
    pub(crate) announced: Announced,
    pub(crate) verified: [Option<EntryId>; DAPS_MAX],
    pub(crate) described: Described,
    pub(crate) writing: Writing,
    pub(crate) digest: [u8; 32],
    /// Whether the digest of its load file data block is the one that was announced.
    pub(crate) is_announced: bool,
}

const fn wrong() -> Refusal {
    Refusal(StatusWord::INCORRECT_DATA)
}

impl Incoming {
    pub(crate) fn new(announced: Announced) -> Self {
        Self {
            announced,
            next: 0,
            blocks: Blocks::NEW,
            carrier: Carrier::NEW,
            whole: Sha256::new(),
            image: Sha256::new(),
            verified: [None; DAPS_MAX],
            writing: None,
        }
    }

    /// The image that is being written.
    pub(crate) fn writing(&self) -> Option<&Writing> {
        self.writing.as_ref().map(|(_, writing)| writing)
    }

    /// Takes a block.
    ///
    /// # Errors
    /// 6A86 for another number than the next one; 6A80 for what is no load file, or another one than was announced, and for a DAP block too many, or without a digest that it could be over; what
    /// `verify` says; 6A84 when there is no room; 6581. All of it is to be given up then.
    ///
    /// `verify` verifies a DAP block under the digest that was announced: whose it is.
    pub(crate) fn take<'r>(
        &mut self,
        number: u8,
        block: &[u8],
        records: &mut Records<'r>,
        verify: impl Fn(&[u8], &[u8; 32], &mut Records<'r>) -> Result<EntryId, Refusal>,
    ) -> Result<(), Refusal> {
        if number != self.next {
            return Err(Refusal(StatusWord::INCORRECT_P1P2));
        }
        self.next = number.wrapping_add(1);
        let mut rest = block;
        while let Some(part) = self.blocks.next(&mut rest)? {
            match part {
                Part::Dap => {
                    let digest = self.announced.digest.ok_or(wrong())?;
                    let by = verify(self.blocks.dap(), &digest, records)?;
                    let free = self
                        .verified
                        .iter_mut()
                        .find(|slot| slot.is_none_or(|of| of == by));
                    // One for each domain, and no more than there is room for.
                    *free.filter(|slot| slot.is_none()).ok_or(wrong())? = Some(by);
                }
                Part::Data(data) => {
                    self.whole.update(data);
                    self.data(data, &mut records.nvm)?;
                }
            }
        }
        Ok(())
    }

    /// Takes bytes of the load file data block.
    fn data(&mut self, mut data: &[u8], nvm: &mut Nvm<'_>) -> Result<(), Refusal> {
        while let Some(piece) = self.carrier.next(&mut data)? {
            match (piece, &mut self.writing) {
                (Piece::Described(described), None) => {
                    if described.aid != self.announced.aid || described.whole != self.blocks.length() {
                        return Err(wrong());
                    }
                    let writing = nvm.begin_bulk(self.announced.id, described.image)?;
                    self.writing = Some((described, writing));
                }
                (Piece::Image(image), Some((_, writing))) => {
                    self.image.update(image);
                    nvm.area.write(&mut nvm.flash, writing, image)?;
                }
                _ => return Err(wrong()),
            }
        }
        Ok(())
    }

    /// Behind its last block: `None` when something is missing.
    pub(crate) fn finish(&mut self) -> Option<Come> {
        if !self.blocks.is_whole() || self.writing()?.missing() > 0 {
            return None;
        }
        let found = core::mem::take(&mut self.whole).finalize();
        let (described, writing) = self.writing.take()?;
        Some(Come {
            announced: self.announced,
            verified: self.verified,
            is_announced: self.announced.digest.is_none_or(|digest| ct_eq(&found, &digest)),
            described,
            writing,
            digest: core::mem::take(&mut self.image).finalize(),
        })
    }
}
