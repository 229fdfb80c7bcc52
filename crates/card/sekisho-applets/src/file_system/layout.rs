//! What a file's records are called in NVM.

use super::tree::FileNumber;

/// How a file is kept, as the first byte of its head says. A file keeps its layout as long as there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Of cards of 0.1: names for 32 files, pieces of 128 bytes. Read, written and deleted, never made.
    First,
    /// Of all files that are made now: names for 512, small pieces.
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

/// Pieces of a transparent file that are made now, at least: measured in docs/decisions/0014-files.md.
const PIECE: u16 = 48;

/// Pieces or records of a file, at most.
pub(super) const CONTENT_MAX: u16 = 32;

/// Files that there can be: names for no more.
pub(super) const FILES_MAX: usize = 512;

/// The first name of [`Layout::Pieces`]: behind all of [`Layout::First`].
const PIECES: u16 = 0x4000;
/// Names of one file.
const NAMES: u16 = 0x60;
/// The first name of its content, of those.
const CONTENT: u16 = 0x10;

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

    /// Bytes of a transparent file of this size that stand in one record: all pieces but the last are as long.
    pub(super) const fn piece(self, size: u16) -> usize {
        let len = match self {
            Self::First => return PIECE_MAX,
            Self::Pieces => size.div_ceil(CONTENT_MAX).next_multiple_of(4),
        };
        (if len < PIECE { PIECE } else { len }) as usize
    }

    /// The application's name for a record.
    pub(super) const fn name(self, file: FileNumber, part: Part) -> u16 {
        let FileNumber(file) = file;
        match self {
            Self::First => match part {
                Part::Head => file,
                Part::Secret => 0x0100 + file,
                Part::Tries => 0x0200 + file,
                Part::Count => 0x0300 + file,
                Part::Content(number) => 0x1000 + 0x100 * file + number as u16,
            },
            Self::Pieces => {
                let part = match part {
                    Part::Head => 0,
                    Part::Secret => 1,
                    Part::Tries => 2,
                    Part::Count => 3,
                    Part::Content(number) => CONTENT + number as u16,
                };
                PIECES + NAMES * file + part
            }
        }
    }
}
