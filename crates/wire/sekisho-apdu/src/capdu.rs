//! Command APDUs.

use core::fmt;

use crate::cla::Cla;
use crate::reader::{DecodeError, Reader};
use crate::writer::{BufferFull, Writer};

/// Why bytes are no C-APDU or R-APDU, or a value cannot be written as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ApduError {
    /// Fewer bytes than a header (C-APDU) or a status word (R-APDU).
    TooShort,
    /// Lc, Le and the number of bytes do not agree: answer 6700.
    Length,
    /// The data field or Ne is beyond what any length field can say.
    TooLong,
    /// The output buffer is too small.
    BufferFull,
}

impl fmt::Display for ApduError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => "APDU too short",
            Self::Length => "APDU length fields do not agree with its length",
            Self::TooLong => "APDU data or Ne too long",
            Self::BufferFull => "buffer full",
        })
    }
}

impl core::error::Error for ApduError {}

impl From<BufferFull> for ApduError {
    fn from(_: BufferFull) -> Self {
        Self::BufferFull
    }
}

impl From<DecodeError> for ApduError {
    fn from(_: DecodeError) -> Self {
        Self::Length
    }
}

/// Nc and Ne that the short form can say (ISO/IEC 7816-4, 5.3).
const NC_SHORT_MAX: usize = 255;
const NE_SHORT_MAX: u32 = 256;
const NE_MAX: u32 = 65_536;

/// A command APDU (ISO/IEC 7816-4, 5.3), cases 1 to 4 in short and extended form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CApdu<'a> {
    /// CLA.
    pub cla: Cla,
    /// INS.
    pub ins: u8,
    /// P1.
    pub p1: u8,
    /// P2.
    pub p2: u8,
    /// The command data field; empty in cases 1 and 2.
    pub data: &'a [u8],
    /// Ne, the largest number of response bytes expected, 1 to 65536; `None` in cases 1 and 3.
    pub ne: Option<u32>,
    /// Whether the length fields are in the extended form. A command that does not fit the short form is written extended anyway.
    pub extended: bool,
}

impl<'a> CApdu<'a> {
    /// A case 1 command; add a data field and Ne with [`CApdu::with_data`] and [`CApdu::with_ne`].
    pub const fn new(cla: Cla, ins: u8, p1: u8, p2: u8) -> Self {
        Self {
            cla,
            ins,
            p1,
            p2,
            data: &[],
            ne: None,
            extended: false,
        }
    }

    /// The same command with a data field.
    #[must_use]
    pub const fn with_data<'b>(self, data: &'b [u8]) -> CApdu<'b> {
        CApdu {
            cla: self.cla,
            ins: self.ins,
            p1: self.p1,
            p2: self.p2,
            data,
            ne: self.ne,
            extended: self.extended,
        }
    }

    /// The same command with Ne (1 to 65536).
    #[must_use]
    pub const fn with_ne(self, ne: u32) -> Self {
        Self { ne: Some(ne), ..self }
    }

    /// P1P2 as one number.
    pub const fn p1p2(&self) -> u16 {
        u16::from_be_bytes([self.p1, self.p2])
    }

    /// Reads exactly one C-APDU, the whole of `bytes`.
    ///
    /// # Errors
    /// [`ApduError::TooShort`] below 4 bytes; [`ApduError::Length`] when no case fits the length. An Lc of zero is no case.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ApduError> {
        let (&[cla, ins, p1, p2], body) = bytes.split_first_chunk().ok_or(ApduError::TooShort)?;
        let header = Self::new(Cla(cla), ins, p1, p2);
        match body {
            [] => Ok(header),
            [le] => Ok(header.with_ne(ne_short(*le))),
            [0, a, b] => Ok(Self {
                extended: true,
                ..header.with_ne(ne_extended([*a, *b]))
            }),
            [0, a, b, rest @ ..] => Self {
                extended: true,
                ..header
            }
            .parse_body(u16::from_be_bytes([*a, *b]), rest),
            [lc, rest @ ..] => header.parse_body(u16::from(*lc), rest),
        }
    }

    /// Cases 3 and 4: `rest` is the data field and, perhaps, Le.
    fn parse_body(self, lc: u16, rest: &'a [u8]) -> Result<Self, ApduError> {
        if lc == 0 {
            return Err(ApduError::Length);
        }
        let mut reader = Reader::new(rest);
        let data = reader.take(lc.into())?;
        let ne = match (reader.len(), self.extended) {
            (0, _) => None,
            (_, false) => Some(ne_short(reader.u8()?)),
            (_, true) => Some(ne_extended(reader.array()?)),
        };
        reader.finish()?;
        Ok(Self { data, ne, ..self })
    }

    /// Whether the extended form will be used to write the command.
    fn needs_extended(&self) -> bool {
        let short = self.data.len() <= NC_SHORT_MAX && self.ne.is_none_or(|ne| ne <= NE_SHORT_MAX);
        self.extended || !short
    }

    /// Appends the command to `out`.
    ///
    /// # Errors
    /// [`ApduError::TooLong`] for more than 65535 bytes of data or an Ne that is not in 1 to 65536; [`ApduError::BufferFull`]. In
    /// both cases nothing is written.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), ApduError> {
        let nc = u16::try_from(self.data.len()).map_err(|_| ApduError::TooLong)?;
        if self.ne.is_some_and(|ne| ne == 0 || ne > NE_MAX) {
            return Err(ApduError::TooLong);
        }
        let start = out.len();
        let done = self.encode_parts(nc, out);
        if done.is_err() {
            out.truncate(start);
        }
        Ok(done?)
    }

    fn encode_parts(&self, nc: u16, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        let extended = self.needs_extended();
        // An empty extended command has no length field at all; the marker byte 00 stands before the first one there is.
        out.bytes(&[self.cla.0, self.ins, self.p1, self.p2])?;
        if extended && (nc > 0 || self.ne.is_some()) {
            out.u8(0)?;
        }
        if nc > 0 {
            length_field(extended, nc, out)?;
            out.bytes(self.data)?;
        }
        match self.ne {
            Some(ne) => {
                // 256 (short) and 65536 (extended) are coded as zero, which is what the low bytes of the number are.
                let [_, _, high, low] = ne.to_be_bytes();
                length_field(extended, u16::from_be_bytes([high, low]), out)
            }
            None => Ok(()),
        }
    }
}

fn length_field(extended: bool, n: u16, out: &mut Writer<'_>) -> Result<(), BufferFull> {
    let [high, low] = n.to_be_bytes();
    if extended {
        out.bytes(&[high, low])
    } else {
        out.u8(low)
    }
}

fn ne_short(le: u8) -> u32 {
    if le == 0 { NE_SHORT_MAX } else { le.into() }
}

fn ne_extended(le: [u8; 2]) -> u32 {
    match u16::from_be_bytes(le) {
        0 => NE_MAX,
        n => n.into(),
    }
}
