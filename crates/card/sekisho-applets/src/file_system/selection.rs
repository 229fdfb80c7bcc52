//! SELECT FILE (ISO/IEC 7816-4, 11.1.1), and finding the EF that a command means.

use sekisho_apdu::{BufferFull, StatusWord, Writer};
use sekisho_os::{Outcome, Refusal};

use super::access::NO_CURRENT_EF;
use super::command::{Answer, How, next_step};
use super::tree::{FileNumber, MF, MF_FID, NO_DF};
use super::{NOT_FOUND, Work};

impl Work<'_, '_> {
    pub(super) fn select_file(&mut self, how: How<'_>, answer: Answer, out: &mut Writer<'_>) -> Outcome {
        let file = self.find(how)?;
        let head = self.head(file)?;
        let written: Result<(), BufferFull> = match answer {
            Answer::Fci => out.tlv_with(0x6F, |w| head.control_parameters(w)),
            Answer::Fcp => head.control_parameters(out),
            Answer::Nothing => Ok(()),
        };
        written?;
        if head.is_df() {
            self.session.select_df(file);
        } else {
            self.session.select_ef(file, head.parent);
        }
        Ok(StatusWord::NO_ERROR)
    }

    fn find(&mut self, how: How<'_>) -> Result<FileNumber, Refusal> {
        let current = self.session.df;
        let found = match how {
            How::Any(None | Some(MF_FID)) => Some(MF),
            How::Any(Some(fid)) => self.near(current, fid),
            How::ChildDf(fid) => self.child(current, fid, true),
            How::Ef(fid) => self.child(current, fid, false),
            How::Parent => Some(self.tree.parent(current)).filter(|above| *above != NO_DF),
            How::Name(name) => self.tree.by_name(self.context, name)?,
            How::PathFromMf(path) => return self.follow(MF, path),
            How::Path(path) => return self.follow(current, path),
        };
        found.ok_or(NOT_FOUND)
    }

    /// The current DF's children, the DF above, its children (ISO/IEC 7816-4, 11.1.1: by file identifier).
    fn near(&self, current: FileNumber, fid: u16) -> Option<FileNumber> {
        let above = self.tree.parent(current);
        let is_above = self.tree.get(above).is_some_and(|entry| entry.fid == fid);
        let is_current = self.tree.get(current).is_some_and(|entry| entry.fid == fid);
        let child = |df| self.tree.child(df, fid).map(|(file, _)| file);
        child(current)
            .or_else(|| is_current.then_some(current))
            .or_else(|| is_above.then_some(above))
            .or_else(|| child(above))
    }

    fn child(&self, df: FileNumber, fid: u16, is_df: bool) -> Option<FileNumber> {
        let (file, entry) = self.tree.child(df, fid)?;
        (entry.is_df() == is_df).then_some(file)
    }

    fn follow(&self, from: FileNumber, path: &[u8]) -> Result<FileNumber, Refusal> {
        let mut at = from;
        let mut rest = path;
        while let Some((fid, next)) = next_step(rest)? {
            at = self.tree.child(at, fid).ok_or(NOT_FOUND)?.0;
            rest = next;
        }
        Ok(at)
    }

    /// The EF that a command means, which becomes the current one: by its short identifier, or the one that is selected.
    pub(super) fn target(&mut self, sfi: Option<u8>) -> Result<FileNumber, Refusal> {
        match sfi {
            Some(sfi) => {
                let df = self.session.df;
                let ef = self.tree.by_sfi(df, sfi).ok_or(NOT_FOUND)?;
                if self.session.ef != Some(ef) {
                    self.session.select_ef(ef, df);
                }
                Ok(ef)
            }
            None => self.session.ef.ok_or(NO_CURRENT_EF),
        }
    }
}
