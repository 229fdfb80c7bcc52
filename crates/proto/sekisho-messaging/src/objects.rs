//! The secure messaging data objects (ISO 7816-4 clause 10.3, ICAO 9303-11 section 9.8.4).

use sekisho_apdu::tlv::TlvReader;
use sekisho_keys::ct_eq;

use crate::error::SmError;
use crate::keys::Keys;
use crate::ssc::Ssc;

/// Length of the MAC in data object 8E.
pub const MAC_LEN: usize = 8;
/// Cryptogram of BER-TLV coded data: with an odd INS, no padding-content indicator.
const TAG_CRYPTOGRAM_BER: u8 = 0x85;
/// Padding-content indicator and cryptogram: with an even INS.
const TAG_CRYPTOGRAM: u8 = 0x87;
/// Ne of the plain command.
const TAG_LE: u8 = 0x97;
/// SW1SW2 of the plain response.
const TAG_STATUS: u8 = 0x99;
/// Cryptographic checksum.
const TAG_MAC: u8 = 0x8E;
/// Padding-content indicator: padded with 80 00 ... (ISO 7816-4 table 43).
const INDICATOR_PADDED: u8 = 0x01;
/// Data object 8E with its tag and length.
pub(crate) const MAC_OBJECT_LEN: usize = 2 + MAC_LEN;
/// Data object 99 with its tag and length.
pub(crate) const STATUS_OBJECT_LEN: usize = 4;

/// Fills a caller's buffer from the front.
pub(crate) struct Cursor<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), SmError> {
        let free = self.out.get_mut(self.len..).unwrap_or_default();
        free.get_mut(..bytes.len())
            .ok_or(SmError::BufferTooSmall)?
            .copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }

    /// What has been written since `start`.
    pub(crate) fn since(&self, start: usize) -> &[u8] {
        self.out.get(start..self.len).unwrap_or_default()
    }

    fn since_mut(&mut self, start: usize) -> &mut [u8] {
        self.out.get_mut(start..self.len).unwrap_or_default()
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn finish(self) -> &'a [u8] {
        let Self { out, len } = self;
        out.get(..len).unwrap_or_default()
    }

    fn tag_length(&mut self, tag: u8, len: usize) -> Result<(), SmError> {
        let [.., _, high, low] = len.to_be_bytes();
        match len {
            0..0x80 => self.push(&[tag, low]),
            0x80..0x100 => self.push(&[tag, 0x81, low]),
            0x100..0x1_0000 => self.push(&[tag, 0x82, high, low]),
            _ => Err(SmError::BufferTooSmall),
        }
    }

    /// Data object 87 (or 85 with an odd INS) around `head` followed by `data`. Nothing at all if both are empty.
    pub(crate) fn cryptogram(
        &mut self,
        keys: &Keys,
        ssc: Ssc,
        ins: u8,
        head: &[u8],
        data: &[u8],
    ) -> Result<(), SmError> {
        let plain = head.len() + data.len();
        if plain == 0 {
            return Ok(());
        }
        let padded = padded_len(plain, keys.block_len());
        if is_odd(ins) {
            self.tag_length(TAG_CRYPTOGRAM_BER, padded)?;
        } else {
            self.tag_length(TAG_CRYPTOGRAM, padded + 1)?;
            self.push(&[INDICATOR_PADDED])?;
        }
        let start = self.len;
        self.push(head)?;
        self.push(data)?;
        self.push(&[0x80])?;
        for _ in plain + 1..padded {
            self.push(&[0])?;
        }
        keys.encrypt(ssc, self.since_mut(start))
    }

    /// Data object 97: one byte up to 256, else two; all zero means the greatest.
    pub(crate) fn le(&mut self, ne: Option<u32>) -> Result<(), SmError> {
        let Some(ne) = ne else { return Ok(()) };
        let [_, _, high, low] = ne.to_be_bytes();
        if ne <= 256 {
            self.push(&[TAG_LE, 1, low])
        } else {
            self.push(&[TAG_LE, 2, high, low])
        }
    }

    pub(crate) fn status(&mut self, [sw1, sw2]: [u8; 2]) -> Result<(), SmError> {
        self.push(&[TAG_STATUS, 2, sw1, sw2])
    }

    /// Data object 8E over everything since `start`.
    pub(crate) fn mac(
        &mut self,
        keys: &Keys,
        ssc: Ssc,
        header: Option<[u8; 4]>,
        start: usize,
    ) -> Result<(), SmError> {
        let mac = keys.mac(ssc, header, self.since(start));
        self.push(&[TAG_MAC, 8])?;
        self.push(&mac)
    }
}

/// Whether this INS takes BER-TLV data, and so data object 85 (ISO 7816-4 clause 5.5.2).
pub(crate) const fn is_odd(ins: u8) -> bool {
    ins & 1 == 1
}

/// Length after padding method 2.
pub(crate) const fn padded_len(len: usize, block: usize) -> usize {
    (len / block + 1) * block
}

/// Takes padding method 2 off: 80 and zeros, within the last block.
fn unpad(padded: &[u8], block: usize) -> Option<&[u8]> {
    let end = padded.iter().rposition(|byte| *byte != 0)?;
    let (plain, padding) = padded.split_at_checked(end)?;
    (padding.first() == Some(&0x80) && padding.len() <= block).then_some(plain)
}

/// Length of the object that [`Cursor::cryptogram`] writes.
pub(crate) const fn cryptogram_len(plain: usize, block: usize, ins: u8) -> usize {
    if plain == 0 {
        return 0;
    }
    let value = padded_len(plain, block) + !is_odd(ins) as usize;
    let length_field = match value {
        0..0x80 => 1,
        0x80..0x100 => 2,
        _ => 3,
    };
    1 + length_field + value
}

/// Length of the object that [`Cursor::le`] writes.
pub(crate) const fn le_len(ne: Option<u32>) -> usize {
    match ne {
        None => 0,
        Some(0..=256) => 3,
        Some(_) => 4,
    }
}

/// The data field of a protected command or response, taken apart. Nothing in it is authenticated yet.
pub(crate) struct Objects<'a> {
    /// Everything in front of data object 8E.
    authenticated: &'a [u8],
    mac: [u8; MAC_LEN],
    cryptogram: Option<&'a [u8]>,
    le: Option<&'a [u8]>,
    status: Option<&'a [u8]>,
}

impl<'a> Objects<'a> {
    /// Takes `[85|87] [97] [99] 8E` apart, in this order and nothing else. Data object 8E missing is
    /// [`SmError::MissingObjects`], anything else wrong is [`SmError::IncorrectObjects`].
    pub(crate) fn parse(field: &'a [u8], ins: u8) -> Result<Self, SmError> {
        let at = field
            .len()
            .checked_sub(MAC_OBJECT_LEN)
            .ok_or(SmError::MissingObjects)?;
        let (authenticated, last) = field.split_at_checked(at).ok_or(SmError::MissingObjects)?;
        let Some((&[TAG_MAC, 8], mac)) = last.split_first_chunk::<2>() else {
            return Err(SmError::MissingObjects);
        };
        let mac = mac.try_into().map_err(|_| SmError::MissingObjects)?;
        let mut objects = Self {
            authenticated,
            mac,
            cryptogram: None,
            le: None,
            status: None,
        };
        let mut previous = 0;
        for object in TlvReader::new(authenticated) {
            let object = object.map_err(|_| SmError::IncorrectObjects)?;
            let tag = u8::try_from(object.tag.0).map_err(|_| SmError::IncorrectObjects)?;
            if tag <= previous {
                return Err(SmError::IncorrectObjects);
            }
            previous = tag;
            match (tag, object.value) {
                (TAG_CRYPTOGRAM_BER, value) if is_odd(ins) => objects.cryptogram = Some(value),
                (TAG_CRYPTOGRAM, [INDICATOR_PADDED, value @ ..]) if !is_odd(ins) => {
                    objects.cryptogram = Some(value);
                }
                (TAG_LE, value) => objects.le = Some(value),
                (TAG_STATUS, value) => objects.status = Some(value),
                _ => return Err(SmError::IncorrectObjects),
            }
        }
        Ok(objects)
    }

    /// The MAC of data object 8E as it came.
    pub(crate) const fn mac(&self) -> [u8; MAC_LEN] {
        self.mac
    }

    pub(crate) fn verify(&self, keys: &Keys, ssc: Ssc, header: Option<[u8; 4]>) -> Result<(), SmError> {
        let expected = keys.mac(ssc, header, self.authenticated);
        if ct_eq(&expected, &self.mac) {
            Ok(())
        } else {
            Err(SmError::IncorrectObjects)
        }
    }

    /// Ne of the plain command, from data object 97.
    pub(crate) fn ne(&self) -> Result<Option<u32>, SmError> {
        match self.le {
            None => Ok(None),
            Some(&[0]) => Ok(Some(256)),
            Some(&[low]) => Ok(Some(low.into())),
            Some(&[0, 0]) => Ok(Some(65536)),
            Some(&[high, low]) => Ok(Some(u16::from_be_bytes([high, low]).into())),
            Some(_) => Err(SmError::IncorrectObjects),
        }
    }

    /// SW1SW2 of the plain response, from data object 99.
    pub(crate) fn status(&self) -> Result<Option<[u8; 2]>, SmError> {
        self.status
            .map(<[u8; 2]>::try_from)
            .transpose()
            .map_err(|_| SmError::IncorrectObjects)
    }

    /// Whether a command carries what only a response may, and the other way round.
    pub(crate) const fn is_command(&self) -> bool {
        self.status.is_none()
    }

    /// Whether this can be a response.
    pub(crate) const fn is_response(&self) -> bool {
        self.le.is_none()
    }

    /// Decrypts the cryptogram into `plain`. Only behind [`Objects::verify`].
    pub(crate) fn decrypt<'b>(
        &self,
        keys: &Keys,
        ssc: Ssc,
        plain: &'b mut [u8],
    ) -> Result<&'b [u8], SmError> {
        let Some(cryptogram) = self.cryptogram else {
            return Ok(&[]);
        };
        let plain = plain.get_mut(..cryptogram.len()).ok_or(SmError::BufferTooSmall)?;
        plain.copy_from_slice(cryptogram);
        keys.decrypt(ssc, plain)?;
        unpad(plain, keys.block_len()).ok_or(SmError::IncorrectObjects)
    }

    /// Whether the cryptogram is longer than `plain`.
    pub(crate) fn exceeds(&self, plain: &[u8]) -> bool {
        self.cryptogram
            .is_some_and(|cryptogram| cryptogram.len() > plain.len())
    }

    /// Decrypts of a cryptogram that [exceeds](Self::exceeds) `plain` the whole blocks that `plain` holds. Only behind [`Objects::verify`].
    pub(crate) fn decrypt_head<'b>(
        &self,
        keys: &Keys,
        ssc: Ssc,
        plain: &'b mut [u8],
    ) -> Result<&'b [u8], SmError> {
        let block = keys.block_len();
        let cryptogram = self.cryptogram.unwrap_or_default();
        if !cryptogram.len().is_multiple_of(block) {
            return Err(SmError::IncorrectObjects);
        }
        let len = plain.len() / block * block;
        let plain = plain.get_mut(..len).ok_or(SmError::BufferTooSmall)?;
        plain.copy_from_slice(cryptogram.get(..len).ok_or(SmError::BufferTooSmall)?);
        keys.decrypt(ssc, plain)?;
        Ok(plain)
    }
}
