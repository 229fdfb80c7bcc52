//! Response APDUs.

use crate::capdu::ApduError;
use crate::status::StatusWord;
use crate::writer::Writer;

/// A response APDU: the response data field and SW1SW2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RApdu<'a> {
    /// The response data field.
    pub data: &'a [u8],
    /// SW1SW2.
    pub sw: StatusWord,
}

impl<'a> RApdu<'a> {
    /// Reads a response: the last two bytes are the status word.
    ///
    /// # Errors
    /// [`ApduError::TooShort`] below 2 bytes; [`ApduError::TooLong`] beyond 65536 bytes of data.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ApduError> {
        let (data, sw) = bytes.split_last_chunk::<2>().ok_or(ApduError::TooShort)?;
        if data.len() > 65_536 {
            return Err(ApduError::TooLong);
        }
        Ok(Self {
            data,
            sw: StatusWord::from(*sw),
        })
    }

    /// Appends the response to `out`.
    ///
    /// # Errors
    /// [`ApduError::BufferFull`], and nothing is written.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), ApduError> {
        if out.remaining() < self.data.len().saturating_add(2) {
            return Err(ApduError::BufferFull);
        }
        out.bytes(self.data)?;
        Ok(out.bytes(&self.sw.bytes())?)
    }
}
