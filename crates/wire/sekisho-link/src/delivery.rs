//! The delivery, the same for all devices of a campaign, and the offer that announces it (spec 4.3 and 5).

use sekisho_apdu::{BufferFull, DecodeError, Reader, Writer};

use crate::{Campaign, Manifest, PSe, Version, length, open, open_1};

/// What a delivery brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryParts<'a> {
    /// The campaign.
    pub campaign: Campaign,
    /// P_SE, for the SE; its bytes.
    pub p_se: &'a [u8],
    /// P_MOB, for the device itself; may be empty.
    pub p_mob: &'a [u8],
}

impl DeliveryParts<'_> {
    /// Writes all but the SHA-256, which is made over these bytes and appended to them.
    ///
    /// # Errors
    /// [`BufferFull`] when it does not fit, or a part is longer than its length field can say.
    pub fn encode_without_digest(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        out.bytes(Delivery::NAME)?;
        out.u8(Delivery::VERSION as u8)?;
        out.u64(self.campaign.0)?;
        for part in [self.p_se, self.p_mob] {
            out.u32(u32::try_from(part.len()).map_err(|_| BufferFull)?)?;
            out.bytes(part)?;
        }
        Ok(())
    }
}

/// A delivery, read. Its digest is not verified here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// What it brings.
    pub parts: DeliveryParts<'a>,
    /// All bytes before the digest, which covers them.
    pub covered: &'a [u8],
    /// SHA-256 of [`Delivery::covered`].
    pub sha256: [u8; 32],
}

impl<'a> Delivery<'a> {
    const NAME: &'static [u8; 4] = b"SKDL";
    const VERSION: Version = Version::One;
    /// Bytes beside P_SE and P_MOB.
    pub const OVERHEAD: usize = 4 + 1 + 8 + 4 + 4 + 32;

    /// Reads a delivery and the P_SE in it.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one delivery.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (covered, sha256) = bytes.split_last_chunk::<32>().ok_or(DecodeError::UnexpectedEnd)?;
        let mut reader = Reader::new(covered);
        open_1(&mut reader, Self::NAME)?;
        let campaign = Campaign(reader.u64()?);
        let len = length(reader.u32()?)?;
        let p_se = reader.take(len)?;
        PSe::decode(p_se)?;
        let len = length(reader.u32()?)?;
        let p_mob = reader.take(len)?;
        reader.finish()?;
        Ok(Self {
            parts: DeliveryParts {
                campaign,
                p_se,
                p_mob,
            },
            covered,
            sha256: *sha256,
        })
    }
}

/// What a device is told when it asks whether there is anything for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The version that it is written in. One offers the OS part alone.
    pub version: Version,
    /// The campaign.
    pub campaign: Campaign,
    /// Which part.
    pub target: u8,
    /// Bytes of the whole delivery.
    pub bytes: u32,
    /// SHA-256 of the whole delivery.
    pub sha256: [u8; 32],
}

impl Offer {
    const NAME: &'static [u8; 4] = b"SKOF";
    /// Bytes of an offer at most.
    pub const MAX_LEN: usize = 4 + 1 + 8 + 1 + 4 + 32 + 1;

    /// Writes the offer.
    ///
    /// # Errors
    /// [`BufferFull`] when it does not fit, or says what its version cannot say.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        out.bytes(Self::NAME)?;
        out.u8(self.version as u8)?;
        out.u64(self.campaign.0)?;
        match self.version {
            Version::One if self.target != Manifest::OS_PART => return Err(BufferFull),
            Version::One => {}
            Version::Two => out.u8(self.target)?,
        }
        out.u32(self.bytes)?;
        out.bytes(&self.sha256)?;
        match self.version {
            Version::One => Ok(()),
            // The places where the bulk lies by its digest: none.
            Version::Two => out.u8(0),
        }
    }

    /// Reads an offer.
    ///
    /// # Errors
    /// [`DecodeError::Unsupported`] for one that names places where the bulk lies; [`DecodeError`] when it is not exactly one offer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = open(&mut reader, Self::NAME)?;
        let campaign = Campaign(reader.u64()?);
        let target = match version {
            Version::One => Manifest::OS_PART,
            Version::Two => reader.u8()?,
        };
        let (bytes, sha256) = (reader.u32()?, reader.array()?);
        if version == Version::Two && reader.u8()? != 0 {
            return Err(DecodeError::Unsupported);
        }
        reader.finish()?;
        Ok(Self {
            version,
            campaign,
            target,
            bytes,
            sha256,
        })
    }
}
