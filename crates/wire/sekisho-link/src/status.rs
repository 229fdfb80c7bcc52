//! ST, the status that a device reports, and the server's verdict (spec 4.6).

use sekisho_apdu::{BufferFull, DecodeError, Reader, StatusWord, Writer};

use crate::{Campaign, Receipt, Refusal, SeId, Version, open, open_1};

/// How an update ended, in the words of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Activated; only a receipt proves it.
    Activated = 0,
    /// The SE refused a command.
    Refused = 1,
    /// The device failed before the SE answered.
    DeviceFailed = 2,
    /// What was staged has been discarded; only a receipt proves it.
    Discarded = 3,
}

/// What an SE itself says of the end, under its K-AUT; not verified here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// What it did.
    Receipt(Receipt),
    /// What it did not.
    Refusal(Refusal),
}

/// ST: what a device reports of its SE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The version that it is written in. One has no refusals, and no step above FF.
    pub version: Version,
    /// The SE.
    pub se_id: SeId,
    /// The campaign.
    pub campaign: Campaign,
    /// How it ended.
    pub outcome: Outcome,
    /// Index of the refused command in the spliced sequence; the last number that its version can say stands for those above.
    pub step: u16,
    /// Its status word.
    pub sw: StatusWord,
    /// The SE's own word, if there is one.
    pub proof: Option<Proof>,
}

impl Status {
    /// The SE's receipt, if there is one.
    pub const fn receipt(&self) -> Option<Receipt> {
        match self.proof {
            Some(Proof::Receipt(receipt)) => Some(receipt),
            _ => None,
        }
    }

    const NAME: &'static [u8; 4] = b"SKST";
    /// Bytes of ST at most.
    pub const MAX_LEN: usize = 4 + 1 + 10 + 8 + 1 + 2 + 2 + 1 + Refusal::LEN;

    /// Writes ST.
    ///
    /// # Errors
    /// [`BufferFull`] when it does not fit.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        out.bytes(Self::NAME)?;
        out.u8(self.version as u8)?;
        out.bytes(&self.se_id.0)?;
        out.u64(self.campaign.0)?;
        out.u8(self.outcome as u8)?;
        match self.version {
            Version::One => out.u8(u8::try_from(self.step).unwrap_or(u8::MAX))?,
            Version::Two => out.u16(self.step)?,
        }
        out.bytes(&self.sw.bytes())?;
        let (receipt, refusal) = match &self.proof {
            None => (None, None),
            Some(Proof::Receipt(receipt)) => (Some(receipt.encode()), None),
            Some(Proof::Refusal(_)) if self.version == Version::One => (None, None),
            Some(Proof::Refusal(refusal)) => (None, Some(refusal.encode())),
        };
        let bytes: &[u8] = match (&receipt, &refusal) {
            (Some(receipt), _) => receipt,
            (None, Some(refusal)) => refusal,
            (None, None) => &[],
        };
        out.u8(u8::try_from(bytes.len()).map_err(|_| BufferFull)?)?;
        out.bytes(bytes)
    }

    /// Reads ST.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one ST.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = open(&mut reader, Self::NAME)?;
        let (se_id, campaign) = (SeId(reader.array()?), Campaign(reader.u64()?));
        let outcome = match reader.u8()? {
            0 => Outcome::Activated,
            1 => Outcome::Refused,
            2 => Outcome::DeviceFailed,
            3 => Outcome::Discarded,
            _ => return Err(DecodeError::Value),
        };
        let step = match version {
            Version::One => reader.u8()?.into(),
            Version::Two => reader.u16()?,
        };
        let (sw, len) = (StatusWord(reader.u16()?), reader.u8()?);
        let proof = match reader.take(len.into())? {
            [] => None,
            bytes if version == Version::Two && bytes.len() == Refusal::LEN => {
                Some(Proof::Refusal(Refusal::decode(bytes)?))
            }
            bytes => Some(Proof::Receipt(Receipt::decode(bytes)?)),
        };
        reader.finish()?;
        Ok(Self {
            version,
            se_id,
            campaign,
            outcome,
            step,
            sw,
            proof,
        })
    }
}

/// What follows for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Access {
    /// Network access allowed.
    Allowed = 0,
    /// Try again later.
    Retry = 1,
    /// Access blocked.
    Blocked = 2,
}

/// The server's answer to ST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What follows.
    pub access: Access,
    /// Seconds to wait before the next try; 0 unless access is [`Access::Retry`].
    pub retry_after: u32,
}

impl Verdict {
    const NAME: &'static [u8; 4] = b"SKVD";
    const VERSION: Version = Version::One;
    /// Bytes of a verdict.
    pub const LEN: usize = 10;

    /// Writes the verdict.
    ///
    /// # Errors
    /// [`BufferFull`] below [`Verdict::LEN`] bytes.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        out.bytes(Self::NAME)?;
        out.bytes(&[Self::VERSION as u8, self.access as u8])?;
        out.u32(self.retry_after)
    }

    /// Reads a verdict.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one verdict.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        open_1(&mut reader, Self::NAME)?;
        let access = match reader.u8()? {
            0 => Access::Allowed,
            1 => Access::Retry,
            2 => Access::Blocked,
            _ => return Err(DecodeError::Value),
        };
        let retry_after = reader.u32()?;
        reader.finish()?;
        Ok(Self { access, retry_after })
    }
}
