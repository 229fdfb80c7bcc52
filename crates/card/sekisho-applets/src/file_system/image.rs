//! What a factory writes: the files of a new card, made from the same FCP templates as CREATE FILE takes.

use sekisho_apdu::Writer;
use sekisho_os::Refusal;
use zeroize::Zeroize;

use super::file::{CHUNK, HEAD_MAX, Kind, New};
use super::tree::{FILES_MAX, MF, record};
use super::{NO_MEMORY, WRONG_DATA};

/// Records that an image has room for.
const RECORDS_MAX: usize = 48;

/// Files of a new card. Wiped when dropped: there are keys among them.
pub struct Image {
    records: [(u16, [u8; CHUNK], usize); RECORDS_MAX],
    count: usize,
    files: u8,
}

/// A file of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File(u8);

/// The MF.
pub const ROOT: File = File(MF);

impl core::fmt::Debug for Image {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Image")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        for (_, bytes, _) in &mut self.records {
            bytes.zeroize();
        }
    }
}

impl Image {
    /// An image whose first file is the MF, with this FCP template.
    ///
    /// # Errors
    /// The status word with which CREATE FILE would refuse the template.
    pub fn new(fcp: &[u8]) -> Result<Self, Refusal> {
        let mut image = Self {
            records: [(0, [0; CHUNK], 0); RECORDS_MAX],
            count: 0,
            files: 0,
        };
        image.file(ROOT, fcp)?;
        Ok(image)
    }

    /// Adds a file to a DF.
    ///
    /// # Errors
    /// As [`Image::new`]; 6A84 when there are too many.
    pub fn file(&mut self, parent: File, fcp: &[u8]) -> Result<File, Refusal> {
        let New { head, secret } = New::parse(fcp, parent.0)?;
        let file = self.files;
        if file >= FILES_MAX {
            return Err(NO_MEMORY);
        }
        let mut bytes = [0; HEAD_MAX];
        let mut w = Writer::new(&mut bytes);
        head.encode(&mut w)?;
        self.put(record::head(file), w.written())?;
        if let (Kind::Key { tries, .. }, Some(secret)) = (head.kind, secret) {
            self.put(record::secret(file), secret.0.get(..secret.1).unwrap_or_default())?;
            self.put(record::tries(file), &[tries])?;
        }
        self.files += 1;
        Ok(File(file))
    }

    /// The first bytes of a transparent file, at most 128 and at most as many as the file has; or the first record.
    ///
    /// # Errors
    /// 6A80 for more.
    pub fn content(&mut self, file: File, content: &[u8]) -> Result<(), Refusal> {
        let head = self
            .iter()
            .find(|(index, _)| *index == record::head(file.0))
            .ok_or(WRONG_DATA)?;
        let kind = super::file::Head::decode(head.1)?.kind;
        match kind {
            Kind::Transparent { size } if content.len() <= usize::from(size) => {}
            Kind::Linear { len, .. } if content.len() <= usize::from(len) => {
                self.put(record::count(file.0), &[1, 0])?;
            }
            _ => return Err(WRONG_DATA),
        }
        self.put(record::part(file.0, 0), content)
    }

    fn put(&mut self, index: u16, value: &[u8]) -> Result<(), Refusal> {
        let (at, bytes, len) = self.records.get_mut(self.count).ok_or(NO_MEMORY)?;
        bytes
            .get_mut(..value.len())
            .ok_or(WRONG_DATA)?
            .copy_from_slice(value);
        (*at, *len) = (index, value.len());
        self.count += 1;
        Ok(())
    }

    /// The application's records, for the factory.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &[u8])> {
        self.records
            .iter()
            .take(self.count)
            .map(|(index, bytes, len)| (*index, bytes.get(..*len).unwrap_or_default()))
    }
}
