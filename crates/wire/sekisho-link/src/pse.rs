//! P_SE: the protected commands of a broadcast, the same for every SE (spec 4.1).

use sekisho_apdu::{BufferFull, DecodeError, Reader, Writer};

use crate::{Custody, Version, length, open_1};

const NAME: &[u8; 4] = b"SKPS";
const VERSION: Version = Version::One;
/// Offset of count and bytes, which are known last.
const COUNTS_AT: usize = 6;

/// P_SE, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PSe<'a> {
    custody: Custody,
    count: u16,
    commands: &'a [u8],
}

impl<'a> PSe<'a> {
    /// Reads P_SE and checks every length in it.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one P_SE.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        open_1(&mut reader, NAME)?;
        let custody = Custody::try_from(reader.u8()?)?;
        let count = reader.u16()?;
        let announced = length(reader.u32()?)?;
        let commands = reader.rest();
        if announced != commands.len() {
            return Err(DecodeError::Length);
        }
        let pse = Self {
            custody,
            count,
            commands,
        };
        let mut rest = Reader::new(commands);
        for _ in 0..count {
            let len = rest.u16()?;
            rest.take(usize::from(len))?;
        }
        rest.finish()?;
        Ok(pse)
    }

    /// Who made the broadcast key set.
    pub const fn custody(&self) -> Custody {
        self.custody
    }

    /// Number of commands.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is no command in it.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The C-APDUs in the order in which the SE takes them; block b is the b-th.
    pub fn commands(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = Reader::new(self.commands);
        core::iter::from_fn(move || {
            let len = rest.u16().ok()?;
            rest.take(usize::from(len)).ok()
        })
    }
}

/// Writes P_SE command by command.
pub struct PSeWriter<'a> {
    out: Writer<'a>,
    count: u16,
}

impl<'a> PSeWriter<'a> {
    /// Starts P_SE in `buf`.
    ///
    /// # Errors
    /// [`BufferFull`] when not even the head fits.
    pub fn new(buf: &'a mut [u8], custody: Custody) -> Result<Self, BufferFull> {
        let mut out = Writer::new(buf);
        out.bytes(NAME)?;
        out.bytes(&[VERSION as u8, custody as u8])?;
        out.u16(0)?;
        out.u32(0)?;
        Ok(Self { out, count: 0 })
    }

    /// Adds a C-APDU.
    ///
    /// # Errors
    /// [`BufferFull`] when it does not fit, is longer than its length field can say, or is one command too many.
    pub fn command(&mut self, capdu: &[u8]) -> Result<(), BufferFull> {
        self.count = self.count.checked_add(1).ok_or(BufferFull)?;
        self.out
            .u16(u16::try_from(capdu.len()).map_err(|_| BufferFull)?)?;
        self.out.bytes(capdu)
    }

    /// Completes the head and gives P_SE's length.
    ///
    /// # Errors
    /// [`BufferFull`] when P_SE is longer than its length field can say.
    pub fn finish(self) -> Result<usize, BufferFull> {
        let head = COUNTS_AT + 2 + 4;
        let bytes = u32::try_from(self.out.len() - head).map_err(|_| BufferFull)?;
        let written = self.out.into_written();
        let len = written.len();
        let mut counts = Writer::new(written.get_mut(COUNTS_AT..head).ok_or(BufferFull)?);
        counts.u16(self.count)?;
        counts.u32(bytes)?;
        Ok(len)
    }
}
