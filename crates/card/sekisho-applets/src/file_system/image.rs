//! What a factory writes: the files of a new card, made from the same FCP templates as CREATE FILE takes.

use sekisho_apdu::Writer;
use sekisho_os::{OwnRecord, Refusal};
use zeroize::Zeroize;

use super::file::{Head, Kind, New};
use super::layout::{Layout, Name, PIECE_MAX, Part};
use super::tree::{FileNumber, MF};
use super::{NO_MEMORY, WRONG_DATA};

/// Records that an image has room for.
const RECORDS_MAX: usize = 48;

/// Files of a new card. Wiped when dropped: there are keys among them.
pub struct Image {
    records: [(Name, [u8; PIECE_MAX], usize); RECORDS_MAX],
    count: usize,
    files: u16,
}

/// A file of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File(FileNumber);

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
            records: [((0, 0), [0; PIECE_MAX], 0); RECORDS_MAX],
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
        let new = New::parse(fcp, parent.0)?;
        let file = FileNumber(self.files);
        new.store(file, |name, value| self.put(name, value))?;
        self.files += 1;
        Ok(File(file))
    }

    /// The first bytes of a transparent file, at most as many as it has; or the first record.
    ///
    /// # Errors
    /// 6A80 for more, 6A84 when there is no room.
    pub fn content(&mut self, file: File, content: &[u8]) -> Result<(), Refusal> {
        let name = |part| Layout::Pieces.name(file.0, part);
        let head = name(Part::Head);
        let found = self.iter().find(|(object, part, _)| (*object, *part) == head);
        let head = Head::decode(found.ok_or(WRONG_DATA)?.2)?;
        match head.kind {
            Kind::Transparent { size } if content.len() <= usize::from(size) => {
                for (number, piece) in (0..).zip(content.chunks(head.piece())) {
                    self.put(name(Part::Content(number)), piece)?;
                }
                Ok(())
            }
            Kind::Linear { fixed, len, .. }
                if content.len() == usize::from(len) || !fixed && content.len() < usize::from(len) =>
            {
                self.put(name(Part::Count), &[1, 0])?;
                self.put(name(Part::Content(0)), content)
            }
            _ => Err(WRONG_DATA),
        }
    }

    /// Adds key 1 of a usage: usage and tries, access mode byte and security condition byte, and the value.
    fn key(
        &mut self,
        parent: File,
        fid: [u8; 2],
        [usage, tries]: [u8; 2],
        rules: [u8; 2],
        value: &[u8],
    ) -> Result<File, Refusal> {
        let mut fcp = [0; 64];
        let mut w = Writer::new(&mut fcp);
        w.tlv_with(0x62, |w| {
            w.tlv(0x82, &[0x09])?;
            w.tlv(0x83, &fid)?;
            w.tlv(0x8C, &rules)?;
            w.tlv_with(0xA5, |w| {
                w.tlv(0x80, &[usage, 1, tries])?;
                w.tlv(0x81, value)
            })
        })?;
        self.file(parent, w.written())
    }

    fn put(&mut self, name: Name, value: &[u8]) -> Result<(), Refusal> {
        let (at, bytes, len) = self.records.get_mut(self.count).ok_or(NO_MEMORY)?;
        bytes
            .get_mut(..value.len())
            .ok_or(WRONG_DATA)?
            .copy_from_slice(value);
        (*at, *len) = (name, value.len());
        self.count += 1;
        Ok(())
    }

    /// The application's records, for the factory.
    pub fn iter(&self) -> impl Iterator<Item = OwnRecord<'_>> {
        self.records
            .iter()
            .take(self.count)
            .map(|((object, part), bytes, len)| (*object, *part, bytes.get(..*len).unwrap_or_default()))
    }
}

/// Keys of [`Image::of_test_card`]: the first 16 bytes of SHA-256 of their names, `MKEY` and so on. Known to everybody.
pub mod test_key {
    /// MKEY 1 of the MF.
    pub const MKEY: [u8; 16] = [
        0x37, 0xED, 0x5E, 0x9F, 0xDF, 0x82, 0x1F, 0xCD, 0x13, 0xAE, 0x26, 0xDF, 0x2C, 0xEC, 0x49, 0xD9,
    ];
    /// MKEY 1 of DF 5EC1, of SHA-256("MKEY 5EC1").
    pub const MKEY_5EC1: [u8; 16] = [
        0x62, 0x40, 0x15, 0x11, 0x1C, 0xD1, 0xD2, 0x35, 0x08, 0x51, 0xAC, 0xD1, 0xEA, 0xA7, 0x48, 0xB1,
    ];
    /// Key 1 for EXTERNAL AUTHENTICATE, of SHA-256("EXTERNAL").
    pub const EXTERNAL: [u8; 16] = [
        0x94, 0x34, 0x35, 0xE3, 0x9E, 0x41, 0x9F, 0x31, 0x7A, 0xFD, 0x23, 0xB4, 0x5E, 0xEF, 0x79, 0xB6,
    ];
    /// Key 1 for INTERNAL AUTHENTICATE, of SHA-256("INTERNAL").
    pub const INTERNAL: [u8; 16] = [
        0xC7, 0x26, 0x6B, 0xB5, 0x52, 0x5A, 0x32, 0x92, 0x26, 0xA8, 0x2F, 0x60, 0x26, 0x8E, 0x26, 0xC0,
    ];
    /// PIN 1.
    pub const PIN: [u8; 4] = *b"1234";
}

impl Image {
    /// A card with an MF, MKEY 1, key EXTERNAL 1 and file 0011, which is 256 bytes under secure messaging. Whoever has proved EXTERNAL 1 may create,
    /// delete and change keys.
    ///
    /// # Errors
    /// 6A80 for keys that are no AES keys.
    pub fn of_card(mkey: &[u8], external: &[u8]) -> Result<Self, Refusal> {
        let mut image = Self::new(b"\x62\x0D\x82\x01\x38\x83\x02\x3F\x00\x8C\x04\x07\x21\x21\x21")?;
        image.key(ROOT, [0, 1], [4, 15], [0x02, 0x21], mkey)?;
        image.key(ROOT, [0, 2], [2, 5], [0x02, 0x21], external)?;
        image.file(
            ROOT,
            b"\x62\x15\x80\x02\x01\x00\x82\x02\x01\x21\x83\x02\x00\x11\x88\x01\x08\x8C\x04\x07\x41\x41\x41",
        )?;
        Ok(image)
    }

    /// The card of the specification page's examples, with keys that everybody knows: for development and demonstration.
    ///
    /// # Errors
    /// None; it is the templates' own.
    pub fn of_test_card() -> Result<Self, Refusal> {
        let mut image = Self::of_card(&test_key::MKEY, &test_key::EXTERNAL)?;
        image.key(ROOT, [0, 3], [1, 3], [0x02, 0x21], &test_key::PIN)?;
        image.key(ROOT, [0, 4], [3, 15], [0x04, 0x00], &test_key::INTERNAL)?;
        let mut file = |parent, fcp: &[u8]| image.file(parent, fcp);
        // 0014: 128 bytes under secure messaging and PIN 1. 2F00: for everybody to read.
        file(
            ROOT,
            b"\x62\x15\x80\x02\x00\x80\x82\x02\x01\x01\x83\x02\x00\x14\x88\x01\x20\x8C\x04\x07\xD1\xD1\xD1",
        )?;
        let open = file(
            ROOT,
            b"\x62\x14\x80\x02\x00\x40\x82\x02\x01\x21\x83\x02\x2F\x00\x88\x01\xF0\x8C\x03\x03\x21\x00",
        )?;
        // 0012: up to 8 records of up to 64 bytes, written with PIN 1. 0013: the last 4 records of 16, written under secure messaging.
        file(
            ROOT,
            b"\x62\x14\x82\x05\x04\x21\x00\x40\x08\x83\x02\x00\x12\x88\x01\x10\x8C\x04\x07\x11\x11\x00",
        )?;
        file(
            ROOT,
            b"\x62\x14\x82\x05\x06\x21\x00\x10\x04\x83\x02\x00\x13\x88\x01\x18\x8C\x04\x07\x41\x41\x00",
        )?;
        // DF 5EC1 has its own MKEY, and a file under it.
        let df = file(
            ROOT,
            b"\x62\x16\x82\x01\x38\x83\x02\x5E\xC1\x84\x07\xF0SKDF\x5E\xC1\x8C\x04\x07\x21\x21\x21",
        )?;
        file(
            df,
            b"\x62\x15\x80\x02\x00\x40\x82\x02\x01\x21\x83\x02\x01\x11\x88\x01\x08\x8C\x04\x07\x41\x41\x41",
        )?;
        image.content(open, b"Sekisho test card")?;
        image.key(df, [1, 1], [4, 15], [0x02, 0x21], &test_key::MKEY_5EC1)?;
        Ok(image)
    }
}
