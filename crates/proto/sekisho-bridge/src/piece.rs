//! What a command of the TLS class carries, and its form in an answer.

use sekisho_apdu::{ApduError, CApdu, Cla, DecodeError, Reader, Writer};

/// P1-P2 of the commands that carry pieces of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bit 8 of P1: the record goes on with the next piece.
    pub more: bool,
    len: u16,
}

const MORE: u16 = 0x8000;

impl Extent {
    /// The largest length that it can say.
    pub const MAX: usize = 0x7FFF;

    /// `None` for a length beyond [`Extent::MAX`].
    pub fn new(more: bool, len: usize) -> Option<Self> {
        let len = u16::try_from(len).ok().filter(|len| *len < MORE)?;
        Some(Self { more, len })
    }

    /// Number of bytes that the piece has, in all commands of its chain together.
    pub const fn len(self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// P1 and P2.
    pub const fn p1p2(self) -> [u8; 2] {
        let more = if self.more { MORE } else { 0 };
        (self.len | more).to_be_bytes()
    }

    /// The extent that P1 and P2 say: every value says one.
    pub const fn from_p1p2(p1p2: [u8; 2]) -> Self {
        let word = u16::from_be_bytes(p1p2);
        Self {
            more: word & MORE != 0,
            len: word & !MORE,
        }
    }
}

/// A piece of a record: the body of a handshake message, or bytes of a content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// INS: which.
    pub ins: u8,
    /// Whether its record goes on behind it.
    pub more: bool,
    /// The bytes.
    pub data: &'a [u8],
}

impl<'a> Piece<'a> {
    /// Appends the piece as one command without Ne (the seed's data D2), as it stands in an answer.
    ///
    /// # Errors
    /// [`ApduError::TooLong`] beyond [`Extent::MAX`]; [`ApduError::BufferFull`].
    pub fn encode(&self, cla: Cla, out: &mut Writer<'_>) -> Result<(), ApduError> {
        let extent = Extent::new(self.more, self.data.len()).ok_or(ApduError::TooLong)?;
        let [p1, p2] = extent.p1p2();
        CApdu::new(cla, self.ins, p1, p2).with_data(self.data).encode(out)
    }

    /// Takes one piece from the front of an answer's data.
    ///
    /// # Errors
    /// [`DecodeError`] when no command without Ne of this class stands there, or its Lc is not what P1-P2 say.
    pub fn take(reader: &mut Reader<'a>, cla: Cla) -> Result<Self, DecodeError> {
        let [class, ins, p1, p2] = reader.array()?;
        if class != cla.0 {
            return Err(DecodeError::Value);
        }
        let extent = Extent::from_p1p2([p1, p2]);
        let lc = match extent.len() {
            0 => 0,
            _ => match reader.u8()? {
                0 => usize::from(reader.u16()?),
                lc => usize::from(lc),
            },
        };
        if lc != extent.len() {
            return Err(DecodeError::Length);
        }
        Ok(Self {
            ins,
            more: extent.more,
            data: reader.take(lc)?,
        })
    }
}
