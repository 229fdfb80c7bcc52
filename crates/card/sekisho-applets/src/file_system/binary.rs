//! READ, WRITE and UPDATE BINARY (ISO/IEC 7816-4, 11.2).

use sekisho_apdu::{StatusWord, Writer};
use sekisho_os::{Outcome, RESPONSE_DATA_MAX, Refusal};

use super::access::{Access, Allowed, INCOMPATIBLE};
use super::command::BinaryAt;
use super::file::{Kind, Writing};
use super::layout::{PIECE_MAX, Part};
use super::tree::FileNumber;
use super::{CONDITIONS, NO_MEMORY, Work};

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

/// A transparent file, as a command works on it.
#[derive(Clone, Copy)]
struct Transparent {
    file: FileNumber,
    size: usize,
    /// Bytes of each of its records but the last.
    piece: usize,
    writing: Writing,
    allowed: Allowed,
}

/// A piece of it, with zeros behind it.
type Piece = [u8; PIECE_MAX];

impl Work<'_, '_> {
    fn transparent(&mut self, at: BinaryAt, access: Access) -> Result<Transparent, Refusal> {
        let file = self.target(at.sfi)?;
        let head = self.head(file)?;
        let Kind::Transparent { size } = head.kind else {
            return Err(INCOMPATIBLE);
        };
        let allowed = self.allowed(file, &head, access)?;
        if at.offset > usize::from(size) {
            return Err(Refusal(StatusWord::WRONG_PARAMETERS));
        }
        Ok(Transparent {
            file,
            size: size.into(),
            piece: head.piece(),
            writing: head.writing(),
            allowed,
        })
    }

    /// A piece; what has never been written is zeros.
    fn piece(&mut self, file: FileNumber, number: usize) -> Result<(Part, Piece), Refusal> {
        let mut piece = [0; PIECE_MAX];
        let part = Part::Content(u8::try_from(number).map_err(|_| NO_MEMORY)?);
        self.get(file, part, &mut piece)?;
        Ok((part, piece))
    }

    pub(super) fn read_binary(&mut self, at: BinaryAt, ne: u32, out: &mut Writer<'_>) -> Outcome {
        let target = self.transparent(at, Access::Read)?;
        target.allowed.still()?;
        let Transparent {
            file, size, piece, ..
        } = target;
        let (len, sw) = portion(size - at.offset, ne);
        let end = at.offset + len;
        let mut offset = at.offset;
        while offset < end {
            let (_, bytes) = self.piece(file, offset / piece)?;
            let until = end.min((offset / piece + 1) * piece);
            let from = offset % piece;
            out.bytes(bytes.get(from..from + until - offset).unwrap_or_default())?;
            offset = until;
        }
        Ok(sw)
    }

    pub(super) fn write_binary(&mut self, at: BinaryAt, data: &[u8], update: bool) -> Outcome {
        let access = if update { Access::Update } else { Access::Write };
        let target = self.transparent(at, access)?;
        target.allowed.still()?;
        let Transparent {
            file, size, piece, ..
        } = target;
        let writing = if update { Writing::Replace } else { target.writing };
        if data.len() > size - at.offset {
            return Err(Refusal(StatusWord::WRONG_LENGTH));
        }
        let mut offset = at.offset;
        let mut rest = data;
        while !rest.is_empty() {
            let number = offset / piece;
            let (part, mut bytes) = self.piece(file, number)?;
            let room = piece - offset % piece;
            let (now, later) = rest.split_at(room.min(rest.len()));
            for (old, new) in bytes.iter_mut().skip(offset % piece).zip(now) {
                *old = writing.apply(*old, *new).ok_or(CONDITIONS)?;
            }
            let len = piece.min(size - number * piece);
            self.put(file, part, bytes.get(..len).unwrap_or_default())?;
            offset += now.len();
            rest = later;
        }
        Ok(StatusWord::NO_ERROR)
    }
}
