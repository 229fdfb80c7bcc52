//! The receipt, what an SE did, and the refusal, what it did not: both under its own K-AUT (spec 2.3 and 2.6).

use sekisho_apdu::{BufferFull, DecodeError, Reader, StatusWord, Writer};

use crate::{Campaign, SeId, codes};

/// What an SE did, and its MAC over it. The MAC is not verified here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// [`codes::ACTION_ACTIVATE`] or [`codes::ACTION_DISCARD`].
    pub action: u8,
    /// Which part.
    pub target: u8,
    /// The campaign.
    pub campaign: Campaign,
    /// Version active before.
    pub previous_version: u32,
    /// Version active after.
    pub version: u32,
    /// SHA-256 of the part that was activated; zero when none was.
    pub digest: [u8; 32],
    /// CMAC under K-AUT over [`Receipt::message`].
    pub mac: [u8; 16],
}

impl Receipt {
    const FORMAT: u8 = 1;
    const BODY: usize = 51;
    const PREFIX: &'static [u8; 8] = b"SKRCPT01";
    /// Bytes of a receipt.
    pub const LEN: usize = Self::BODY + 16;

    /// Bytes of [`Receipt::message`].
    pub(crate) const fn message_len() -> usize {
        Self::PREFIX.len() + 10 + Self::BODY
    }

    /// What the MAC covers: a prefix, the SE and the 51 bytes before the MAC.
    pub fn message(&self, se_id: SeId) -> [u8; Self::message_len()] {
        codes::message(|out| {
            out.bytes(Self::PREFIX)?;
            out.bytes(&se_id.0)?;
            self.write_body(out)
        })
    }

    fn write_body(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        out.bytes(&[Self::FORMAT, self.action, self.target])?;
        out.u64(self.campaign.0)?;
        out.u32(self.previous_version)?;
        out.u32(self.version)?;
        out.bytes(&self.digest)
    }

    /// The receipt's 67 bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        codes::message(|out| {
            self.write_body(out)?;
            out.bytes(&self.mac)
        })
    }

    /// Reads a receipt.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one receipt, or one of discarding that says that something has changed.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != Self::FORMAT {
            return Err(DecodeError::Value);
        }
        let action = reader.u8()?;
        if !matches!(action, codes::ACTION_ACTIVATE | codes::ACTION_DISCARD) {
            return Err(DecodeError::Value);
        }
        let receipt = Self {
            action,
            target: reader.u8()?,
            campaign: Campaign(reader.u64()?),
            previous_version: reader.u32()?,
            version: reader.u32()?,
            digest: reader.array()?,
            mac: reader.array()?,
        };
        reader.finish()?;
        let changes_nothing = receipt.version == receipt.previous_version && receipt.digest == [0; 32];
        if action == codes::ACTION_DISCARD && !changes_nothing {
            return Err(DecodeError::Value);
        }
        Ok(receipt)
    }
}

/// What an SE refused, and its MAC over it. The MAC is not verified here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// [`codes::ACTION_LOAD`], [`codes::ACTION_ACTIVATE`] or [`codes::ACTION_DISCARD`].
    pub action: u8,
    /// Which part; 0 when nothing says it yet.
    pub target: u8,
    /// The campaign.
    pub campaign: Campaign,
    /// Sequence counter of the individual session in which it was refused; 24 bits.
    pub sequence_counter: u32,
    /// The status word of the refused command.
    pub sw: StatusWord,
    /// The block of the refused WRITE, or the next one.
    pub block: u16,
    /// Active version of the target.
    pub version: u32,
    /// SHA-256 of the part that was staged, as its manifest says; zero when none was.
    pub digest: [u8; 32],
    /// CMAC under K-AUT over [`Refusal::message`].
    pub mac: [u8; 16],
}

impl Refusal {
    const FORMAT: u8 = 2;
    const BODY: usize = 54;
    const PREFIX: &'static [u8; 8] = b"SKRFSL02";
    /// Bytes of a refusal.
    pub const LEN: usize = Self::BODY + 16;

    /// Bytes of [`Refusal::message`].
    pub(crate) const fn message_len() -> usize {
        Self::PREFIX.len() + 10 + Self::BODY
    }

    /// What the MAC covers: a prefix, the SE and the 54 bytes before the MAC.
    pub fn message(&self, se_id: SeId) -> [u8; Self::message_len()] {
        codes::message(|out| {
            out.bytes(Self::PREFIX)?;
            out.bytes(&se_id.0)?;
            self.write_body(out)
        })
    }

    fn write_body(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        out.bytes(&[Self::FORMAT, self.action, self.target])?;
        out.u64(self.campaign.0)?;
        out.u24(self.sequence_counter)?;
        out.bytes(&self.sw.bytes())?;
        out.u16(self.block)?;
        out.u32(self.version)?;
        out.bytes(&self.digest)
    }

    /// The refusal's 70 bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        codes::message(|out| {
            self.write_body(out)?;
            out.bytes(&self.mac)
        })
    }

    /// Reads a refusal.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one refusal, or one whose status word says that all went well.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != Self::FORMAT {
            return Err(DecodeError::Value);
        }
        let refusal = Self {
            action: reader.u8()?,
            target: reader.u8()?,
            campaign: Campaign(reader.u64()?),
            sequence_counter: reader.u24()?,
            sw: StatusWord(reader.u16()?),
            block: reader.u16()?,
            version: reader.u32()?,
            digest: reader.array()?,
            mac: reader.array()?,
        };
        reader.finish()?;
        let actions = [codes::ACTION_ACTIVATE, codes::ACTION_DISCARD, codes::ACTION_LOAD];
        if !actions.contains(&refusal.action) || refusal.sw == StatusWord::NO_ERROR {
            return Err(DecodeError::Value);
        }
        Ok(refusal)
    }
}
