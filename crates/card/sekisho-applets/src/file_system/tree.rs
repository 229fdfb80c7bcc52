//! The files of the card and how they hang together: of each file as much in RAM as it takes to find it. Heads are read from NVM when they are
//! needed.

use sekisho_os::{Context, Refusal};

use super::file::{HEAD_MAX, Head, Kind, Usage};
use super::layout::{FIRST_LAYOUT_FILES, Layout, Part};
use super::{MEMORY_FAILURE, NOT_FOUND};

/// Number of a file on the card. It is free again when the file is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileNumber(pub(super) u16);

/// The MF.
pub(super) const MF: FileNumber = FileNumber(0);
/// No DF: the current one of a session whose DF has been deleted. There is nothing in it, nor above it.
pub(super) const NO_DF: FileNumber = FileNumber(u16::MAX);
/// Identifier of the MF (ISO/IEC 7816-4, 7.3.1.2).
pub(super) const MF_FID: u16 = 0x3F00;

/// What a file is, in a byte: 0 for no file; 01 a DF, 02 one with a name, 03 an EF; 40 and more a key file, bits 6 and 5 its usage, bits 4 to 1
/// its number. Bit 8: it has the [first layout](Layout::First).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct What(u8);

impl What {
    const NOTHING: Self = Self(0);
    const DF: u8 = 0x01;
    const NAMED_DF: u8 = 0x02;
    const EF: u8 = 0x03;
    const KEY: u8 = 0x40;
    const FIRST_LAYOUT: u8 = 0x80;

    const fn key(usage: Usage, number: u8) -> u8 {
        Self::KEY | (usage.byte() - 1) << 4 | number & 0x0F
    }

    const fn of(head: &Head) -> Self {
        let what = match head.kind {
            Kind::Df if head.name().is_empty() => Self::DF,
            Kind::Df => Self::NAMED_DF,
            Kind::Key { usage, number, .. } => Self::key(usage, number),
            Kind::Transparent { .. } | Kind::Linear { .. } | Kind::Cyclic { .. } => Self::EF,
        };
        match head.layout {
            Layout::First => Self(what | Self::FIRST_LAYOUT),
            Layout::Pieces => Self(what),
        }
    }

    const fn kind(self) -> u8 {
        self.0 & !Self::FIRST_LAYOUT
    }

    const fn layout(self) -> Layout {
        if self.0 & Self::FIRST_LAYOUT == 0 {
            Layout::Pieces
        } else {
            Layout::First
        }
    }
}

/// What RAM has of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) fid: u16,
    /// The DF in which it is; the MF is in itself.
    pub(super) parent: FileNumber,
    /// Short identifier; 0 for none.
    sfi: u8,
    what: What,
    /// Who has proved it, if it is a key file: a bit for each [seat](super::session::Session::seat).
    proved: u8,
    /// Whether NVM has it like this: not before it has been read, nor while a command has made or deleted it and may still be dropped.
    known: bool,
}

impl Entry {
    const UNKNOWN: Self = Self {
        fid: 0,
        parent: MF,
        sfi: 0,
        what: What::NOTHING,
        proved: 0,
        known: false,
    };

    fn of(head: &Head) -> Self {
        Self {
            fid: head.fid,
            parent: head.parent,
            sfi: head.sfi.unwrap_or(0),
            what: What::of(head),
            ..Self::UNKNOWN
        }
    }

    pub(super) const fn is_df(&self) -> bool {
        matches!(self.what.kind(), What::DF | What::NAMED_DF)
    }
}

/// All files, by their numbers.
#[derive(Debug)]
pub(super) struct Tree<E: ?Sized = [Entry]> {
    /// Whether all entries are known.
    known: bool,
    entries: E,
}

impl<const FILES: usize> Tree<[Entry; FILES]> {
    pub(super) const fn new() -> Self {
        Self {
            known: false,
            entries: [Entry::UNKNOWN; FILES],
        }
    }
}

/// Reads the head of a file, whose layout may be this one.
fn read_head(context: &mut Context<'_>, file: FileNumber, layout: Layout) -> Result<Option<Head>, Refusal> {
    let mut bytes = [0; HEAD_MAX];
    let (object, part) = layout.name(file, Part::Head);
    let found = context.get(object, part, &mut bytes)?;
    let Some(bytes) = found.and_then(|len| bytes.get(..len)) else {
        return Ok(None);
    };
    let head = Head::decode(bytes).map_err(|_| MEMORY_FAILURE)?;
    if head.layout == layout {
        Ok(Some(head))
    } else {
        Err(MEMORY_FAILURE)
    }
}

impl Tree {
    /// Learns from NVM which files there are: all of them the first time, then what a command has changed.
    pub(super) fn load(&mut self, context: &mut Context<'_>) -> Result<(), Refusal> {
        if self.known {
            return Ok(());
        }
        // What the command itself has written, before it has called this application again, is dropped if it fails.
        let stays = !context.has_put();
        for (file, entry) in (0..).map(FileNumber).zip(&mut self.entries) {
            if entry.known {
                continue;
            }
            let mut head = read_head(context, file, Layout::Pieces)?;
            if head.is_none() && file.0 < FIRST_LAYOUT_FILES {
                head = read_head(context, file, Layout::First)?;
            }
            let proved = entry.proved;
            *entry = head.as_ref().map_or(Entry::UNKNOWN, Entry::of);
            entry.proved = if head.is_some() { proved } else { 0 };
            entry.known = stays;
        }
        self.known = stays;
        Ok(())
    }

    /// A command makes or deletes this file: whether it has, NVM knows once it is over.
    pub(super) fn touch(&mut self, file: FileNumber) {
        if let Some(entry) = self.entries.get_mut(usize::from(file.0)) {
            (entry.known, self.known) = (false, false);
        }
    }

    /// Files that there can be.
    fn most(&self) -> u16 {
        u16::try_from(self.entries.len()).unwrap_or(u16::MAX)
    }

    pub(super) fn get(&self, file: FileNumber) -> Option<&Entry> {
        self.entries
            .get(usize::from(file.0))
            .filter(|entry| entry.what != What::NOTHING)
    }

    /// The layout of a file that there is.
    pub(super) fn layout(&self, file: FileNumber) -> Result<Layout, Refusal> {
        self.get(file).map(|entry| entry.what.layout()).ok_or(NOT_FOUND)
    }

    /// The head of a file that there is.
    pub(super) fn head(&self, context: &mut Context<'_>, file: FileNumber) -> Result<Head, Refusal> {
        read_head(context, file, self.layout(file)?)?.ok_or(NOT_FOUND)
    }

    /// All files with their numbers.
    fn iter(&self) -> impl Iterator<Item = (FileNumber, &Entry)> {
        (0..self.most()).filter_map(|file| Some((FileNumber(file), self.get(FileNumber(file))?)))
    }

    /// The files of a DF, but for the MF, which is in itself.
    pub(super) fn children(&self, df: FileNumber) -> impl Iterator<Item = (FileNumber, &Entry)> {
        self.iter()
            .filter(move |(file, entry)| entry.parent == df && *file != MF)
    }

    pub(super) fn child(&self, df: FileNumber, fid: u16) -> Option<(FileNumber, &Entry)> {
        self.children(df).find(|(_, entry)| entry.fid == fid)
    }

    pub(super) fn by_sfi(&self, df: FileNumber, sfi: u8) -> Option<FileNumber> {
        let found = self.children(df).find(|(_, entry)| entry.sfi == sfi);
        found.filter(|_| sfi != 0).map(|(file, _)| file)
    }

    /// The DF with this name; none has the empty one.
    pub(super) fn by_name(
        &self,
        context: &mut Context<'_>,
        name: &[u8],
    ) -> Result<Option<FileNumber>, Refusal> {
        for (file, entry) in self.iter() {
            if entry.what.kind() == What::NAMED_DF && self.head(context, file)?.name() == name {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// The DF above; the MF's is the MF.
    pub(super) fn parent(&self, file: FileNumber) -> FileNumber {
        self.get(file).map_or(NO_DF, |entry| entry.parent)
    }

    /// A free number.
    pub(super) fn free(&self) -> Option<FileNumber> {
        (0..self.most())
            .map(FileNumber)
            .find(|file| self.get(*file).is_none())
    }

    /// The key of this usage and number in a DF or in the nearest above.
    pub(super) fn key(&self, df: FileNumber, usage: Usage, number: u8) -> Option<FileNumber> {
        let mut at = df;
        // A path from a file to the MF is no longer than there are files.
        for _ in 0..self.most() {
            if let Some(key) = self.key_in(at, usage, number) {
                return Some(key);
            }
            if matches!(at, MF | NO_DF) {
                return None;
            }
            at = self.parent(at);
        }
        None
    }

    pub(super) fn key_in(&self, df: FileNumber, usage: Usage, number: u8) -> Option<FileNumber> {
        self.children(df)
            .find(|(_, entry)| entry.what.kind() == What::key(usage, number))
            .map(|(file, _)| file)
    }

    /// Whether a seat's session has proved a key.
    pub(super) fn is_proved(&self, key: FileNumber, seat: u8) -> bool {
        self.get(key).is_some_and(|entry| entry.proved & seat != 0)
    }

    /// A seat's session has proved a key. Not one function with [`Tree::disprove`]: between the two would stand a branch, which a chip may leave out.
    pub(super) fn prove(&mut self, key: FileNumber, seat: u8) {
        if let Some(entry) = self.entries.get_mut(usize::from(key.0)) {
            entry.proved |= seat;
        }
    }

    /// Takes away what these seats have proved with a key.
    pub(super) fn disprove(&mut self, key: FileNumber, seats: u8) {
        if let Some(entry) = self.entries.get_mut(usize::from(key.0)) {
            entry.proved &= !seats;
            // Never, but where the chip has left out the complement: what is stored then is who was to go.
            if core::hint::black_box(entry.proved) & seats != 0 {
                entry.proved = 0;
            }
        }
    }

    /// Takes away what was proved with a key, whoever proved it.
    pub(super) fn revoke(&mut self, key: FileNumber) {
        self.disprove(key, u8::MAX);
    }

    /// Takes away all that these seats have proved.
    pub(super) fn leave(&mut self, seats: u8) {
        self.entries.iter_mut().for_each(|entry| entry.proved &= !seats);
    }

    /// The seats that have proved something.
    pub(super) fn provers(&self) -> u8 {
        self.entries.iter().fold(0, |seats, entry| seats | entry.proved)
    }
}
