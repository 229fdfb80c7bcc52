//! ST, the status that a device reports, and the server's verdict (spec 4.6).

use sekisho_apdu::{BufferFull, DecodeError, Reader, StatusWord, Writer};

use crate::{Campaign, Receipt, SeId, open};

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

/// ST: what a device reports of its SE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The SE.
    pub se_id: SeId,
    /// The campaign.
    pub campaign: Campaign,
    /// How it ended.
    pub outcome: Outcome,
    /// Index of the refused command in the spliced sequence, at most FF.
    pub step: u8,
    /// Its status word.
    pub sw: StatusWord,
    /// The SE's receipt, if there is one; not verified here.
    pub receipt: Option<Receipt>,
}

impl Status {
    const NAME: &'static [u8; 4] = b"SKST";
    /// Bytes of ST at most.
    pub const MAX_LEN: usize = 4 + 1 + 10 + 8 + 1 + 1 + 2 + 1 + Receipt::LEN;

    /// Writes ST.
    ///
    /// # Errors
    /// [`BufferFull`] when it does not fit.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        out.bytes(Self::NAME)?;
        out.u8(crate::VERSION)?;
        out.bytes(&self.se_id.0)?;
        out.u64(self.campaign.0)?;
        out.bytes(&[self.outcome as u8, self.step])?;
        out.bytes(&self.sw.bytes())?;
        match &self.receipt {
            None => out.u8(0),
            Some(receipt) => {
                let bytes = receipt.encode();
                out.u8(u8::try_from(bytes.len()).map_err(|_| BufferFull)?)?;
                out.bytes(&bytes)
            }
        }
    }

    /// Reads ST.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one ST.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        open(&mut reader, Self::NAME)?;
        let (se_id, campaign) = (SeId(reader.array()?), Campaign(reader.u64()?));
        let outcome = match reader.u8()? {
            0 => Outcome::Activated,
            1 => Outcome::Refused,
            2 => Outcome::DeviceFailed,
            3 => Outcome::Discarded,
            _ => return Err(DecodeError::Value),
        };
        let (step, sw, len) = (reader.u8()?, StatusWord(reader.u16()?), reader.u8()?);
        let receipt = match len {
            0 => None,
            len => Some(Receipt::decode(reader.take(usize::from(len))?)?),
        };
        reader.finish()?;
        Ok(Self {
            se_id,
            campaign,
            outcome,
            step,
            sw,
            receipt,
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
    /// Bytes of a verdict.
    pub const LEN: usize = 10;

    /// Writes the verdict.
    ///
    /// # Errors
    /// [`BufferFull`] below [`Verdict::LEN`] bytes.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        out.bytes(Self::NAME)?;
        out.bytes(&[crate::VERSION, self.access as u8])?;
        out.u32(self.retry_after)
    }

    /// Reads a verdict.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one verdict.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        open(&mut reader, Self::NAME)?;
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
