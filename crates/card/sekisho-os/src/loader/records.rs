//! What the loader keeps in NVM.

use sekisho_apdu::{BufferFull, DecodeError, Reader, StatusWord, Writer};
use sekisho_link::{Campaign, Custody, Manifest, Staging};
use sekisho_nvm::{Key, Op};
use sekisho_scp::card::BroadcastCheckpoint;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::names::{RecordKey, RecordKind};
use crate::nvm::Nvm;

const fn key(kind: RecordKind) -> Key {
    RecordKey::platform(kind, 0).key()
}

/// A piece of what does not fill a page yet: a value of the store is not as long as that.
const fn piece(index: u16) -> Key {
    RecordKey::platform(RecordKind::Carry, index).key()
}

/// The active part.
pub(super) const PART: Key = key(RecordKind::Part);
/// What is staged.
pub(super) const STAGING: Key = key(RecordKind::Staging);
/// Where the broadcast stands.
pub(super) const CHECKPOINT: Key = key(RecordKind::Checkpoint);
/// The bytes that do not fill a page yet.
pub(super) const CARRY: [Key; 4] = [piece(0), piece(1), piece(2), piece(3)];
/// The last receipt.
pub(super) const RECEIPT: Key = key(RecordKind::Receipt);

/// Version of the design system's keys: four bytes. Without it, it is [`Manifest::FIRST_KEY_VERSION`].
pub(super) const KEY_VERSION: Key = key(RecordKind::KeyVersion);
/// Empty: the slot that is not active is to be wiped.
pub(super) const WIPE: Key = key(RecordKind::Wipe);
/// The last refusal.
pub(super) const REFUSAL: Key = key(RecordKind::Refusal);

/// Reads the version of the design system's keys.
pub(super) fn key_version(nvm: &mut Nvm<'_>) -> Result<u32, StatusWord> {
    let mut buf = [0; 4];
    let found = load(nvm, KEY_VERSION, &mut buf, |bytes| Reader::new(bytes).u32())?;
    Ok(found.unwrap_or(Manifest::FIRST_KEY_VERSION))
}

/// What ends the staging of an image, in the transaction that does something with it.
pub(super) const UNSTAGED: [Op<'static>; 6] = {
    let [a, b, c, d] = CARRY;
    [
        Op::Remove(STAGING),
        Op::Remove(CHECKPOINT),
        Op::Remove(a),
        Op::Remove(b),
        Op::Remove(c),
        Op::Remove(d),
    ]
};

/// Writes what a record of at most `N` bytes holds.
///
/// # Errors
/// 6A88 when there is none, 6A84 when it does not fit, 6581.
pub(super) fn copy<const N: usize>(
    nvm: &mut Nvm<'_>,
    key: Key,
    out: &mut Writer<'_>,
) -> Result<(), StatusWord> {
    let mut buf = [0; N];
    let len = nvm.get(key, &mut buf).map_err(|refusal| refusal.0)?;
    let len = len.ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
    out.bytes(buf.get(..len).unwrap_or_default())
        .map_err(|_| StatusWord::NOT_ENOUGH_MEMORY)
}

/// The active part, as its record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ActivePart {
    pub(super) slot: u8,
    pub(super) manifest: Manifest,
}

impl ActivePart {
    const LEN: usize = 1 + Manifest::LEN;

    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut out = Writer::new(&mut bytes);
        // The buffer has the size of the fields.
        let _ = out
            .u8(self.slot)
            .and_then(|()| out.bytes(&self.manifest.encode()));
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let slot = reader.u8()?;
        let manifest = Manifest::decode(reader.rest())?;
        if slot > 1 {
            Err(DecodeError::Value)
        } else {
            Ok(Self { slot, manifest })
        }
    }

    pub(super) fn load(nvm: &mut Nvm<'_>) -> Result<Option<Self>, StatusWord> {
        let mut buf = [0; Self::LEN];
        load(nvm, PART, &mut buf, Self::decode)
    }
}

/// What is staged, as its record says. Holds the integrity key of custody 03.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Staged {
    #[zeroize(skip)]
    pub(super) campaign: Campaign,
    #[zeroize(skip)]
    pub(super) custody: Custody,
    pub(super) resume_check: [u8; 8],
    #[zeroize(skip)]
    pub(super) staging: Staging,
    #[zeroize(skip)]
    pub(super) manifest: Manifest,
    /// `K_INT` in custody 03; unused, zero, in custody 04.
    pub(super) k_int: [u8; 16],
}

impl Staged {
    pub(super) const LEN: usize = 8 + 1 + 8 + 1 + Manifest::LEN + 16;

    pub(super) fn encode(&self) -> Result<[u8; Self::LEN], BufferFull> {
        let mut bytes = [0; Self::LEN];
        let mut out = Writer::new(&mut bytes);
        out.u64(self.campaign.0)?;
        out.u8(self.custody as u8)?;
        out.bytes(&self.resume_check)?;
        out.u8(self.staging as u8)?;
        out.bytes(&self.manifest.encode())?;
        out.bytes(&self.k_int)?;
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (campaign, custody) = (Campaign(reader.u64()?), Custody::try_from(reader.u8()?)?);
        let resume_check = reader.array()?;
        let staging = match reader.u8()? {
            1 => Staging::Begun,
            2 => Staging::Complete,
            _ => return Err(DecodeError::Value),
        };
        let manifest = Manifest::decode(reader.take(Manifest::LEN)?)?;
        let k_int = reader.array()?;
        reader.finish()?;
        Ok(Self {
            campaign,
            custody,
            resume_check,
            staging,
            manifest,
            k_int,
        })
    }

    pub(super) fn load(nvm: &mut Nvm<'_>) -> Result<Option<Self>, StatusWord> {
        let mut buf = zeroize::Zeroizing::new([0; Self::LEN]);
        load(nvm, STAGING, &mut *buf, Self::decode)
    }
}

/// Where a broadcast stands, as its record says.
#[derive(Clone, Copy)]
pub(super) struct Checkpoint {
    pub(super) next_block: u16,
    /// Bytes of the image in the slot, in whole pages unless the image is complete.
    pub(super) written: u32,
    pub(super) channel: BroadcastCheckpoint,
}

impl Checkpoint {
    pub(super) const LEN: usize = 2 + 4 + 8 + 16;
    /// Of version 0.1, which kept the low four bytes of the counter and never let it grow past them.
    const LEN_0_1: usize = 2 + 4 + 4 + 16;

    pub(super) fn encode(&self) -> Result<[u8; Self::LEN], BufferFull> {
        let mut bytes = [0; Self::LEN];
        let mut out = Writer::new(&mut bytes);
        out.u16(self.next_block)?;
        out.u32(self.written)?;
        out.u64(self.channel.counter)?;
        out.bytes(&self.channel.chaining)?;
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (next_block, written) = (reader.u16()?, reader.u32()?);
        let channel = BroadcastCheckpoint {
            counter: if bytes.len() == Self::LEN_0_1 {
                reader.u32()?.into()
            } else {
                reader.u64()?
            },
            chaining: reader.array()?,
        };
        reader.finish()?;
        Ok(Self {
            next_block,
            written,
            channel,
        })
    }

    pub(super) fn load(nvm: &mut Nvm<'_>) -> Result<Option<Self>, StatusWord> {
        let mut buf = [0; Self::LEN];
        load(nvm, CHECKPOINT, &mut buf, Self::decode)
    }
}

/// Reads a record; one that does not decode was not written by this loader: 6581.
fn load<T>(
    nvm: &mut Nvm<'_>,
    key: Key,
    buf: &mut [u8],
    decode: impl FnOnce(&[u8]) -> Result<T, DecodeError>,
) -> Result<Option<T>, StatusWord> {
    let Some(len) = nvm.get(key, buf).map_err(|refusal| refusal.0)? else {
        return Ok(None);
    };
    decode(buf.get(..len).unwrap_or_default())
        .map(Some)
        .map_err(|_| StatusWord::MEMORY_FAILURE)
}
