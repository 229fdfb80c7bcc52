//! What a file's records are called in NVM.

use super::tree::FileNumber;

/// How a file is kept, as the first byte of its head says. A file keeps its layout as long as there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Of cards of 0.1: each record is an object by itself, names for 32 files, pieces of 128 bytes. Read, written and deleted, never made.
    First,
    /// Of all files that are made now: a file is an object, its records are the object's parts; small pieces.
    Pieces,
}

/// Which of a file's records.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Head,
    /// Value of a key or a PIN.
    Secret,
    /// Tries that are left.
    Tries,
    /// How many records there are, and which is the newest.
    Count,
    /// A piece of a transparent file, or a record.
    Content(u8),
}

/// Files that can have the first layout: numbers from 0.
pub(super) const FIRST_LAYOUT_FILES: u16 = 32;

/// Longest piece of a transparent file, in whatever layout.
pub(super) const PIECE_MAX: usize = 128;

/// Pieces of a transparent file that is made now: measured in docs/decisions/0014-files.md.
const PIECE: usize = 48;

/// Files that there can be: objects for no more.
pub(super) const FILES_MAX: usize = 0x8000;

/// The object of file 0 in [`Layout::Pieces`]: behind all of [`Layout::First`], whose records would go with an object of the same number.
const PIECES: u16 = 0x4000;
/// The first part of a file's content.
const CONTENT: u8 = 0x10;

/// What the application calls a record: object and part.
pub(super) type Name = (u16, u8);

impl Layout {
    /// The byte with which a head begins.
    pub(super) const fn format(self) -> u8 {
        match self {
            Self::First => 1,
            Self::Pieces => 2,
        }
    }

    pub(super) fn from_format(format: u8) -> Option<Self> {
        [Self::First, Self::Pieces]
            .into_iter()
            .find(|layout| layout.format() == format)
    }

    /// Bytes of a transparent file that stand in one record: all pieces but the last are as long.
    pub(super) const fn piece(self) -> usize {
        match self {
            Self::First => PIECE_MAX,
            Self::Pieces => PIECE,
        }
    }

    /// The object that a file is, if it is one.
    pub(super) const fn object(self, FileNumber(file): FileNumber) -> Option<u16> {
        match self {
            Self::First => None,
            Self::Pieces => Some(PIECES + file),
        }
    }

    /// The application's name for a record.
    pub(super) const fn name(self, file: FileNumber, part: Part) -> Name {
        let FileNumber(number) = file;
        match self {
            Self::First => {
                let object = match part {
                    Part::Head => number,
                    Part::Secret => 0x0100 + number,
                    Part::Tries => 0x0200 + number,
                    Part::Count => 0x0300 + number,
                    Part::Content(part) => 0x1000 + 0x100 * number + part as u16,
                };
                (object, 0)
            }
            Self::Pieces => {
                let part = match part {
                    Part::Head => 1,
                    Part::Secret => 2,
                    Part::Tries => 3,
                    Part::Count => 4,
                    Part::Content(part) => CONTENT + part,
                };
                (PIECES + number, part)
            }
        }
    }
}
