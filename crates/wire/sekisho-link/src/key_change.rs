//! The image of target 02: the design system's new keys (spec 3.1).

use sekisho_apdu::{BufferFull, DecodeError, Reader, Writer};

/// New keys of the design system for an SE, as they stand in the image: symmetric ones wrapped (RFC 3394). Nothing is unwrapped here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyChange<'a> {
    /// Kos and `K_MAC`, of one length, wrapped together: 40, 56 or 72 bytes.
    pub wrapped: Option<&'a [u8]>,
    /// The designer's public key, uncompressed (04 x y).
    pub designer: Option<[u8; 65]>,
    /// The platform's key 64, wrapped alone: 24, 32 or 40 bytes.
    pub pairing: Option<&'a [u8]>,
    /// Whether they are wrapped for one SE, under a key of its Key-DEK; else under a key of Kos.
    pub is_individual: bool,
}

const NAME: &[u8; 4] = b"SKKC";
const FORMAT: u8 = 1;
/// Bits of "which".
const KOS_AND_K_MAC: u8 = 0x01;
const DESIGNER: u8 = 0x02;
/// The platform's key 64, for pairing data.
const PAIRING: u8 = 0x04;
const INDIVIDUAL: u8 = 0x80;

impl<'a> KeyChange<'a> {
    /// Bytes of the image at most.
    pub const MAX_LEN: usize = 4 + 1 + 1 + 1 + 72 + 65 + 1 + 40;

    /// Writes the image.
    ///
    /// # Errors
    /// [`BufferFull`] when it does not fit.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        let bit = |is_there: bool, bit: u8| if is_there { bit } else { 0 };
        let which = bit(self.wrapped.is_some(), KOS_AND_K_MAC)
            | bit(self.designer.is_some(), DESIGNER)
            | bit(self.pairing.is_some(), PAIRING)
            | bit(self.is_individual, INDIVIDUAL);
        out.bytes(NAME)?;
        out.bytes(&[FORMAT, which])?;
        if let Some(wrapped) = self.wrapped {
            out.u8(u8::try_from(wrapped.len()).map_err(|_| BufferFull)?)?;
            out.bytes(wrapped)?;
        }
        if let Some(designer) = &self.designer {
            out.bytes(designer)?;
        }
        if let Some(pairing) = self.pairing {
            out.u8(u8::try_from(pairing.len()).map_err(|_| BufferFull)?)?;
            out.bytes(pairing)?;
        }
        Ok(())
    }

    /// Reads the image.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one image, changes nothing, or is for one SE and wraps
    /// nothing.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (name, format, which): ([u8; 4], _, _) = (reader.array()?, reader.u8()?, reader.u8()?);
        if &name != NAME || format != FORMAT {
            return Err(DecodeError::Value);
        }
        let has = |bit| which & bit != 0;
        let is_known = which & !(KOS_AND_K_MAC | DESIGNER | PAIRING | INDIVIDUAL) == 0;
        let is_something = has(KOS_AND_K_MAC) || has(PAIRING) || (has(DESIGNER) && !has(INDIVIDUAL));
        if !is_known || !is_something {
            return Err(DecodeError::Value);
        }
        let wrapped = match has(KOS_AND_K_MAC).then(|| reader.u8()).transpose()? {
            None => None,
            Some(len @ (40 | 56 | 72)) => Some(reader.take(len.into())?),
            Some(_) => return Err(DecodeError::Length),
        };
        let designer = has(DESIGNER).then(|| reader.array()).transpose()?;
        let pairing = match has(PAIRING).then(|| reader.u8()).transpose()? {
            None => None,
            Some(len @ (24 | 32 | 40)) => Some(reader.take(len.into())?),
            Some(_) => return Err(DecodeError::Length),
        };
        reader.finish()?;
        Ok(Self {
            wrapped,
            designer,
            pairing,
            is_individual: has(INDIVIDUAL),
        })
    }
}
