//! READ, WRITE, UPDATE and APPEND RECORD (ISO/IEC 7816-4, 11.3).

use sekisho_apdu::{StatusWord, Writer};
use sekisho_os::{Outcome, Refusal};

use super::access::{Access, Allowed, INCOMPATIBLE};
use super::binary::portion;
use super::command::{RecordAt, Which};
use super::file::{Kind, Writing};
use super::layout::Part;
use super::tree::FileNumber;
use super::{CONDITIONS, NO_MEMORY, WRONG_LENGTH, WRONG_P1P2, Work};

const NO_RECORD: Refusal = Refusal(StatusWord::RECORD_NOT_FOUND);
const RECORD_MAX: usize = 255;

/// The records of a file, as they stand.
#[derive(Clone, Copy)]
struct Records {
    file: FileNumber,
    len: u8,
    most: u8,
    /// Whether every record has the full length.
    fixed: bool,
    cyclic: bool,
    allowed: Allowed,
    count: u8,
    /// Where the newest record of a cyclic file stands.
    newest: u8,
    writing: Writing,
}

impl Records {
    /// Where a record stands; numbers begin at 1, in a cyclic file with the newest.
    fn part(&self, number: u8) -> Part {
        let position = number.saturating_sub(1);
        let position = if self.cyclic {
            (u16::from(self.newest) + u16::from(self.most) - u16::from(position)) % u16::from(self.most)
        } else {
            position.into()
        };
        Part::Content(u8::try_from(position).unwrap_or(u8::MAX))
    }

    const fn takes(&self, data: &[u8]) -> bool {
        let len = self.len as usize;
        if self.fixed {
            data.len() == len
        } else {
            data.len() <= len
        }
    }
}

impl Work<'_, '_> {
    fn records(&mut self, sfi: Option<u8>, access: Access) -> Result<Records, Refusal> {
        let file = self.target(sfi)?;
        let head = self.head(file)?;
        let (fixed, cyclic, len, most) = match head.kind {
            Kind::Linear { fixed, len, most } => (fixed, false, len, most),
            Kind::Cyclic { len, most } => (true, true, len, most),
            _ => return Err(INCOMPATIBLE),
        };
        let allowed = self.allowed(file, &head, access)?;
        let mut state = [0; 2];
        self.get(file, Part::Count, &mut state)?;
        let [count, newest] = state;
        Ok(Records {
            file,
            len,
            most,
            fixed,
            cyclic,
            count,
            newest,
            writing: head.writing(),
            allowed,
        })
    }

    /// The number of an existing record. The current record moves with first, last, next and previous.
    fn number(&mut self, records: &Records, which: Which) -> Result<u8, Refusal> {
        let current = self.session.record;
        let number = match which {
            Which::Number(0) => current,
            Which::Number(number) => number,
            Which::First => 1,
            Which::Last => records.count,
            Which::Next => current + 1,
            Which::Previous if current == 0 => records.count,
            Which::Previous => current - 1,
        };
        if number == 0 || number > records.count {
            return Err(NO_RECORD);
        }
        if !matches!(which, Which::Number(_)) {
            self.session.record = number;
        }
        Ok(number)
    }

    pub(super) fn read_record(&mut self, at: RecordAt, ne: u32, out: &mut Writer<'_>) -> Outcome {
        let records = self.records(at.sfi, Access::Read)?;
        records.allowed.still()?;
        let number = self.number(&records, at.which)?;
        let mut bytes = [0; RECORD_MAX];
        let len = self
            .get(records.file, records.part(number), &mut bytes)?
            .ok_or(NO_RECORD)?;
        let (len, sw) = portion(len, ne);
        out.bytes(bytes.get(..len).unwrap_or_default())?;
        Ok(sw)
    }

    pub(super) fn write_record(&mut self, at: RecordAt, data: &[u8], update: bool) -> Outcome {
        let access = if update { Access::Update } else { Access::Write };
        let records = self.records(at.sfi, access)?;
        records.allowed.still()?;
        if update && records.cyclic && at.which == Which::Previous {
            return self.append(&records, data);
        }
        if records.cyclic && !matches!(at.which, Which::Number(_)) {
            return Err(WRONG_P1P2);
        }
        if !records.takes(data) {
            return Err(WRONG_LENGTH);
        }
        let number = self.number(&records, at.which)?;
        let part = records.part(number);
        let mut old = [0; RECORD_MAX];
        let len = self.get(records.file, part, &mut old)?.ok_or(NO_RECORD)?;
        if update {
            self.put(records.file, part, data)?;
            return Ok(StatusWord::NO_ERROR);
        }
        // Bit by bit there is no other length than the old one.
        if len != data.len() && records.writing != Writing::Replace {
            return Err(WRONG_LENGTH);
        }
        for (old, new) in old.iter_mut().zip(data) {
            *old = records.writing.apply(*old, *new).ok_or(CONDITIONS)?;
        }
        self.put(records.file, part, old.get(..data.len()).unwrap_or_default())?;
        Ok(StatusWord::NO_ERROR)
    }

    pub(super) fn append_record(&mut self, sfi: Option<u8>, data: &[u8]) -> Outcome {
        let records = self.records(sfi, Access::Write)?;
        records.allowed.still()?;
        self.append(&records, data)
    }

    fn append(&mut self, records: &Records, data: &[u8]) -> Outcome {
        if !records.takes(data) {
            return Err(WRONG_LENGTH);
        }
        let (position, newest) = if records.cyclic {
            let next = match records.count {
                0 => 0,
                _ => (records.newest + 1) % records.most,
            };
            (next, next)
        } else if records.count < records.most {
            (records.count, 0)
        } else {
            return Err(NO_MEMORY);
        };
        let count = records.most.min(records.count + 1);
        self.put(records.file, Part::Content(position), data)?;
        self.put(records.file, Part::Count, &[count, newest])?;
        self.session.record = if records.cyclic { 1 } else { count };
        Ok(StatusWord::NO_ERROR)
    }
}
