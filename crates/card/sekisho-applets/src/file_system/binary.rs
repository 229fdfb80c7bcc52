//! READ, WRITE and UPDATE BINARY (ISO/IEC 7816-4, 11.2).

use sekisho_apdu::{StatusWord, Writer};
use sekisho_os::{Outcome, RESPONSE_DATA_MAX, Refusal};

use super::access::{Access, INCOMPATIBLE};
use super::command::BinaryAt;
use super::file::{CHUNK, Kind, Writing};
use super::tree::record;
use super::{CONDITIONS, NO_MEMORY, NOT_FOUND, Work};

/// 6282: fewer bytes than were asked for.
pub(super) const FEWER: StatusWord = StatusWord(0x6282);

/// How much to answer of what is left, and with which status word. Ne of 256 or 65536 asks for all that there is. What one answer does not hold is
/// left out with a warning, as what the file does not have.
pub(super) fn portion(left: usize, ne: u32) -> (usize, StatusWord) {
    let asked = match ne {
        256 | 65536 => left,
        ne => usize::try_from(ne).unwrap_or(usize::MAX),
    };
    let len = left.min(asked).min(RESPONSE_DATA_MAX);
    let sw = if len < asked { FEWER } else { StatusWord::NO_ERROR };
    (len, sw)
}

impl Writing {
    /// What stands after writing; `None` when it may not be written.
    pub(super) fn apply(self, old: u8, new: u8) -> Option<u8> {
        match self {
            Self::Once => (old == 0).then_some(new),
            Self::Replace => Some(new),
            Self::Or => Some(old | new),
            Self::And => Some(old & new),
        }
    }
}

impl Work<'_, '_> {
    fn transparent(&mut self, at: BinaryAt, access: Access) -> Result<(u8, usize, Writing), Refusal> {
        let file = self.target(at.sfi)?;
        let head = self.tree.get(file).ok_or(NOT_FOUND)?;
        let Kind::Transparent { size } = head.kind else {
            return Err(INCOMPATIBLE);
        };
        self.allowed(file, access)?;
        if at.offset > usize::from(size) {
            return Err(Refusal(StatusWord::WRONG_PARAMETERS));
        }
        Ok((file, size.into(), head.writing()))
    }

    /// A chunk; what has never been written is zeros.
    fn chunk(&mut self, file: u8, number: usize) -> Result<[u8; CHUNK], Refusal> {
        let mut chunk = [0; CHUNK];
        let number = u8::try_from(number).map_err(|_| NO_MEMORY)?;
        self.context.get(record::part(file, number), &mut chunk)?;
        Ok(chunk)
    }

    pub(super) fn read_binary(&mut self, at: BinaryAt, ne: u32, out: &mut Writer<'_>) -> Outcome {
        let (file, size, _) = self.transparent(at, Access::Read)?;
        let (len, sw) = portion(size - at.offset, ne);
        let end = at.offset + len;
        let mut offset = at.offset;
        while offset < end {
            let chunk = self.chunk(file, offset / CHUNK)?;
            let until = end.min((offset / CHUNK + 1) * CHUNK);
            let from = offset % CHUNK;
            out.bytes(chunk.get(from..from + until - offset).unwrap_or_default())?;
            offset = until;
        }
        Ok(sw)
    }

    pub(super) fn write_binary(&mut self, at: BinaryAt, data: &[u8], update: bool) -> Outcome {
        let access = if update { Access::Update } else { Access::Write };
        let (file, size, writing) = self.transparent(at, access)?;
        let writing = if update { Writing::Replace } else { writing };
        if data.len() > size - at.offset {
            return Err(Refusal(StatusWord::WRONG_LENGTH));
        }
        let mut offset = at.offset;
        let mut rest = data;
        while !rest.is_empty() {
            let number = offset / CHUNK;
            let mut chunk = self.chunk(file, number)?;
            let room = CHUNK - offset % CHUNK;
            let (now, later) = rest.split_at(room.min(rest.len()));
            for (old, new) in chunk.iter_mut().skip(offset % CHUNK).zip(now) {
                *old = writing.apply(*old, *new).ok_or(CONDITIONS)?;
            }
            let last = CHUNK.min(size - number * CHUNK);
            let number = u8::try_from(number).map_err(|_| NO_MEMORY)?;
            self.context
                .put(record::part(file, number), chunk.get(..last).unwrap_or_default())?;
            offset += now.len();
            rest = later;
        }
        Ok(StatusWord::NO_ERROR)
    }
}
