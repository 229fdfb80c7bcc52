//! CREATE FILE and DELETE FILE (ISO/IEC 7816-9).

use sekisho_apdu::StatusWord;
use sekisho_os::Refusal;

use super::access::Access;
use super::file::{Head, Kind, New, PARTS_MAX};
use super::tree::{MF_FID, record};
use super::{CONDITIONS, Done, NO_MEMORY, NOT_FOUND, WRONG_DATA, Work};

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
        self.allowed(df, access)?;
        self.is_free(df, &new.head)?;
        let file = self.tree.free().ok_or(NO_MEMORY)?;
        new.store(file, |index, value| self.context.put(index, value))?;
        // Nobody has proved a key that has not been there.
        self.revoke(file);
        Ok(Done {
            sw: StatusWord::NO_ERROR,
            file: Some(file),
        })
    }

    /// Neither identifier, short identifier, name nor key number may stand for two.
    fn is_free(&self, df: u8, head: &Head) -> Result<(), Refusal> {
        if RESERVED.contains(&head.fid) {
            return Err(WRONG_DATA);
        }
        let same_sfi = head.sfi.is_some_and(|sfi| self.tree.by_sfi(df, sfi).is_some());
        let is_above = |at: u8| self.tree.get(at).is_some_and(|above| above.fid == head.fid);
        let same_name = head.is_df()
            && !head.name().is_empty()
            && self.tree.iter().any(|(_, other)| other.name() == head.name());
        let same_key = match head.kind {
            Kind::Key { usage, number, .. } => self.tree.key_in(df, usage, number).is_some(),
            _ => false,
        };
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
        let (file, head) = self.tree.child(df, fid).ok_or(NOT_FOUND)?;
        if self.allowed(df, Access::DELETE_CHILD).is_err() {
            self.allowed(file, Access::Delete)?;
        }
        if head.is_df() && self.tree.children(file).next().is_some() {
            return Err(CONDITIONS);
        }
        let fixed = [record::head, record::secret, record::tries, record::count].map(|index| index(file));
        let parts = (0..PARTS_MAX).map(|part| record::part(file, part));
        for index in fixed.into_iter().chain(parts) {
            if self.context.get(index, &mut [0; 255])?.is_some() {
                self.context.remove(index)?;
            }
        }
        self.revoke(file);
        Ok(Done {
            sw: StatusWord::NO_ERROR,
            file: Some(file),
        })
    }
}
