//! CREATE FILE and DELETE FILE (ISO/IEC 7816-9).

use sekisho_apdu::StatusWord;
use sekisho_os::Refusal;

use super::access::Access;
use super::file::{Head, Kind, New};
use super::layout::Part;
use super::tree::{FileNumber, MF_FID, NO_DF};
use super::{CONDITIONS, Done, NO_MEMORY, NOT_ALLOWED, NOT_FOUND, WRONG_DATA, Work};

const EXISTS: Refusal = Refusal(StatusWord::FILE_ALREADY_EXISTS);

/// Identifiers that no file may have (ISO/IEC 7816-4, 7.3.1.2): the MF's, the current DF's, and two that mean nothing.
const RESERVED: [u16; 4] = [MF_FID, 0x3FFF, 0xFFFF, 0x0000];

impl Work<'_, '_> {
    /// Makes a file in the current DF.
    pub(super) fn create_file(&mut self, fcp: &[u8]) -> Result<Done, Refusal> {
        let df = self.session.df;
        let new = New::parse(fcp, df)?;
        let access = if new.head.is_df() {
            Access::CREATE_DF
        } else {
            Access::CREATE_EF
        };
        let head = self.current_df()?;
        let allowed = self.allowed(df, &head, access)?;
        self.is_free(df, &new.head)?;
        let file = self.tree.free().ok_or(NO_MEMORY)?;
        allowed.still()?;
        new.store(file, |(object, part), value| {
            self.context.put(object, part, value)
        })?;
        // Nobody has proved a key that has not been there.
        self.revoke(file);
        Ok(Done {
            sw: StatusWord::NO_ERROR,
            file: Some(file),
        })
    }

    /// The head of the current DF; 6982 where there is none.
    fn current_df(&mut self) -> Result<Head, Refusal> {
        match self.session.df {
            NO_DF => Err(NOT_ALLOWED),
            df => self.head(df),
        }
    }

    /// Neither identifier, short identifier, name nor key number may stand for two.
    fn is_free(&mut self, df: FileNumber, head: &Head) -> Result<(), Refusal> {
        if RESERVED.contains(&head.fid) {
            return Err(WRONG_DATA);
        }
        let same_sfi = head.sfi.is_some_and(|sfi| self.tree.by_sfi(df, sfi).is_some());
        let same_name = !head.name().is_empty() && self.tree.by_name(self.context, head.name())?.is_some();
        let same_key = match head.kind {
            Kind::Key { usage, number, .. } => self.tree.key_in(df, usage, number).is_some(),
            _ => false,
        };
        let is_above = |at: FileNumber| self.tree.get(at).is_some_and(|above| above.fid == head.fid);
        let same_fid =
            self.tree.child(df, head.fid).is_some() || is_above(df) || is_above(self.tree.parent(df));
        if same_fid || same_sfi || same_name || same_key {
            return Err(EXISTS);
        }
        Ok(())
    }

    /// Removes a file of the current DF, and all that stood in it. A DF must be empty.
    pub(super) fn delete_file(&mut self, fid: u16) -> Result<Done, Refusal> {
        let df = self.session.df;
        let (file, _) = self.tree.child(df, fid).ok_or(NOT_FOUND)?;
        let (above, head) = (self.head(df)?, self.head(file)?);
        let by_child = self.allowed(df, &above, Access::DELETE_CHILD);
        let allowed = by_child.or_else(|_| self.allowed(file, &head, Access::Delete))?;
        if head.is_df() && self.tree.children(file).next().is_some() {
            return Err(CONDITIONS);
        }
        allowed.still()?;
        match head.layout.object(file) {
            Some(object) => self.context.remove_all(object)?,
            None => self.remove_each(file, &head)?,
        }
        self.revoke(file);
        Ok(Done {
            sw: StatusWord::NO_ERROR,
            file: Some(file),
        })
    }

    /// Removes the records of a file one by one.
    fn remove_each(&mut self, file: FileNumber, head: &Head) -> Result<(), Refusal> {
        let fixed = [Part::Head, Part::Secret, Part::Tries, Part::Count];
        let content = (0..head.content()).map(Part::Content);
        for part in fixed.into_iter().chain(content) {
            let (object, part) = head.layout.name(file, part);
            if self.context.get(object, part, &mut [0; 255])?.is_some() {
                self.context.remove(object, part)?;
            }
        }
        Ok(())
    }
}
