//! The files of the card: their heads, in RAM as NVM has them, and how they hang together.

use sekisho_apdu::StatusWord;
use sekisho_os::{Context, Refusal};

use super::file::{HEAD_MAX, Head, Kind, Usage};

/// Files of the card.
pub(super) const FILES_MAX: u8 = 32;

/// Number of the MF.
pub(super) const MF: u8 = 0;
/// Number of no DF: the current one of a session whose DF has been deleted. There is nothing in it, nor above it.
pub(super) const NO_DF: u8 = 0xFF;
/// Identifier of the MF (ISO/IEC 7816-4, 7.3.1.2).
pub(super) const MF_FID: u16 = 0x3F00;

/// The application's records in NVM, by the file's number.
pub(super) mod record {
    pub(in super::super) const fn head(file: u8) -> u16 {
        file as u16
    }

    /// Value of a key or a PIN.
    pub(in super::super) const fn secret(file: u8) -> u16 {
        0x0100 + file as u16
    }

    /// Tries that are left.
    pub(in super::super) const fn tries(file: u8) -> u16 {
        0x0200 + file as u16
    }

    /// How many records there are, and which is the newest.
    pub(in super::super) const fn count(file: u8) -> u16 {
        0x0300 + file as u16
    }

    /// A chunk of a transparent file, or a record.
    pub(in super::super) const fn part(file: u8, part: u8) -> u16 {
        0x1000 + 0x100 * file as u16 + part as u16
    }
}

/// The heads of all files.
#[derive(Debug)]
pub(super) struct Tree {
    heads: [Head; FILES_MAX as usize],
    /// A bit for each file that there is. The head of one that there is not is empty, and as long as any.
    there: u32,
    loaded: bool,
}

impl Tree {
    pub(super) const fn new() -> Self {
        Self {
            heads: [Head::EMPTY; FILES_MAX as usize],
            there: 0,
            loaded: false,
        }
    }

    /// Reads the heads, if they are not known.
    pub(super) fn load(&mut self, context: &mut Context<'_>) -> Result<(), Refusal> {
        if self.loaded {
            return Ok(());
        }
        self.there = 0;
        for (file, head) in (0..FILES_MAX).zip(&mut self.heads) {
            let mut bytes = [0; HEAD_MAX];
            let found = context.get(record::head(file), &mut bytes)?;
            *head = Head::EMPTY;
            if let Some(bytes) = found.and_then(|len| bytes.get(..len)) {
                *head = Head::decode(bytes).map_err(|_| Refusal(StatusWord::MEMORY_FAILURE))?;
                self.there |= 1 << file;
            }
        }
        self.loaded = true;
        Ok(())
    }

    /// Forgets the heads: NVM knows better.
    pub(super) const fn unload(&mut self) {
        self.loaded = false;
    }

    pub(super) fn get(&self, file: u8) -> Option<&Head> {
        let is_there = file < FILES_MAX && self.there >> file & 1 != 0;
        self.heads.get(usize::from(file)).filter(|_| is_there)
    }

    /// All files with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u8, &Head)> {
        (0..FILES_MAX).filter_map(|file| Some((file, self.get(file)?)))
    }

    /// The files of a DF, but for the MF, which is in itself.
    pub(super) fn children(&self, df: u8) -> impl Iterator<Item = (u8, &Head)> {
        self.iter()
            .filter(move |(file, head)| head.parent == df && *file != MF)
    }

    pub(super) fn child(&self, df: u8, fid: u16) -> Option<(u8, &Head)> {
        self.children(df).find(|(_, head)| head.fid == fid)
    }

    pub(super) fn by_sfi(&self, df: u8, sfi: u8) -> Option<u8> {
        let found = self.children(df).find(|(_, head)| head.sfi == Some(sfi));
        found.map(|(file, _)| file)
    }

    /// The DF above; the MF's is the MF.
    pub(super) fn parent(&self, file: u8) -> u8 {
        self.get(file).map_or(NO_DF, |head| head.parent)
    }

    /// A free number.
    pub(super) fn free(&self) -> Option<u8> {
        (0..FILES_MAX).find(|file| self.get(*file).is_none())
    }

    /// The key of this usage and number in a DF or in the nearest above.
    pub(super) fn key(&self, df: u8, usage: Usage, number: u8) -> Option<u8> {
        let mut at = df;
        // A path from a file to the MF is no longer than there are files.
        for _ in 0..FILES_MAX {
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

    pub(super) fn key_in(&self, df: u8, usage: Usage, number: u8) -> Option<u8> {
        let is_it = |head: &Head| matches!(head.kind, Kind::Key { usage: u, number: n, .. } if u == usage && n == number);
        self.children(df)
            .find(|(_, head)| is_it(head))
            .map(|(file, _)| file)
    }
}
