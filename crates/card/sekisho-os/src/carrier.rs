//! What LOAD brings (GPC 11.6.2.3), read as it comes, however it is cut: DAP blocks, then the load file data block, and what stands in that: a WebAssembly module in the components of a CAP file, since
//! these are what host software loads (`docs/spec/loading.md`, 2). Nothing is kept but the few components that describe the module.

use sekisho_apdu::{Aid, DecodeError, Reader, StatusWord};

use crate::refusal::Refusal;

/// Tag of a DAP block, and of a load file data block in the clear (GPC Table 11-58).
const DAP_BLOCK: u8 = 0xE2;
const LOAD_FILE_DATA_BLOCK: u8 = 0xC4;
/// Longest DAP block: an AID and a signature of 64 bytes, lengths of three bytes.
const DAP_BLOCK_MAX: usize = 1 + 3 + 16 + 1 + 3 + 64;

/// The components that describe the module, in the order in which they come (Java Card Virtual Machine Specification 2.2.2, table 6-1).
const DESCRIBING: [u8; 4] = [HEADER, DIRECTORY, IMPORT, APPLET];
const HEADER: u8 = 1;
const DIRECTORY: u8 = 2;
const APPLET: u8 = 3;
const IMPORT: u8 = 4;
/// Those that carry the module: Class, Method, `StaticField`, Export, `ConstantPool`, `RefLocation`.
const CARRYING: [u8; 6] = [6, 7, 8, 10, 5, 9];
/// Their places among the sizes of Directory, in that order (6.5).
const SIZES: [u8; SIZES_COUNT] = [HEADER, DIRECTORY, APPLET, IMPORT, 5, 6, 7, 8, 9, 10, 11];
const SIZES_COUNT: usize = 11;
/// A component's tag and size.
const COMPONENT_HEAD: usize = 3;
/// Size of Directory, the longest of those that describe.
const DIRECTORY_SIZE: usize = 31;

const MAGIC: u32 = 0xDECA_FFED;
/// CAP 2.1, minor version first; has an applet.
const FORMAT: [u8; 3] = [0x01, 0x02, 0x04];
/// What says that it is a WebAssembly module: the one import, version 1.0 (minor first), with this AID.
const IMPORTS: &[u8] = b"\x01\x00\x01\x06\xF0SEWA\x01";

const fn wrong() -> Refusal {
    Refusal(StatusWord::INCORRECT_DATA)
}

/// Bytes that are put together.
struct Gathered<const MAX: usize> {
    bytes: [u8; MAX],
    len: usize,
}

impl<const MAX: usize> Gathered<MAX> {
    const NEW: Self = Self {
        bytes: [0; MAX],
        len: 0,
    };

    fn so_far(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Takes bytes until there are `want`: whether there are.
    fn fill(&mut self, want: usize, from: &mut &[u8]) -> Result<bool, Refusal> {
        let room = self.bytes.get_mut(self.len..want).ok_or(wrong())?;
        let taken = split(from, room.len());
        room.get_mut(..taken.len())
            .unwrap_or_default()
            .copy_from_slice(taken);
        self.len += taken.len();
        Ok(self.len == want)
    }
}

/// Takes bytes from the front, as many as there are of `most`.
fn split<'b>(from: &mut &'b [u8], most: usize) -> &'b [u8] {
    let (taken, rest) = from.split_at(most.min(from.len()));
    *from = rest;
    taken
}

/// What comes next of a load file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'b> {
    /// A DAP block is whole: [`Blocks::dap`].
    Dap,
    /// Bytes of the load file data block.
    Data(&'b [u8]),
}

/// Where the reader of blocks stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// At a tag, or in its length.
    Head,
    /// In a DAP block of so many bytes.
    Dap(usize),
    /// Behind a DAP block, which is still there.
    Read,
    /// In the load file data block, of which so many are to come.
    Data(u32),
}

/// DAP blocks and the load file data block.
pub(crate) struct Blocks {
    head: Gathered<DAP_BLOCK_MAX>,
    at: At,
    /// Bytes of the load file data block.
    length: u32,
}

impl Blocks {
    pub(crate) const NEW: Self = Self {
        head: Gathered::NEW,
        at: At::Head,
        length: 0,
    };

    /// The next part, taken from the front of `bytes`; `None` when they are used up.
    ///
    /// # Errors
    /// 6A80 for what is no load file.
    pub(crate) fn next<'b>(&mut self, bytes: &mut &'b [u8]) -> Result<Option<Part<'b>>, Refusal> {
        while !bytes.is_empty() {
            match self.at {
                At::Head => self.begin(bytes)?,
                At::Read => {
                    self.head.len = 0;
                    self.at = At::Head;
                }
                At::Dap(length) => {
                    if self.head.fill(length, bytes)? {
                        self.at = At::Read;
                        return Ok(Some(Part::Dap));
                    }
                }
                // Nothing comes behind it.
                At::Data(0) => return Err(wrong()),
                At::Data(left) => {
                    let data = split(bytes, usize::try_from(left).unwrap_or(usize::MAX));
                    self.at = At::Data(left - u32::try_from(data.len()).unwrap_or(left));
                    return Ok(Some(Part::Data(data)));
                }
            }
        }
        Ok(None)
    }

    /// Takes one byte of a tag and its length.
    fn begin(&mut self, bytes: &mut &[u8]) -> Result<(), Refusal> {
        self.head.fill(self.head.len + 1, bytes)?;
        let mut reader = Reader::new(self.head.so_far());
        let tag = reader.u8()?;
        let length = match sekisho_apdu::tlv::read_length(&mut reader) {
            Ok(length) => length,
            Err(DecodeError::UnexpectedEnd) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.head.len = 0;
        self.at = match tag {
            DAP_BLOCK if (1..=DAP_BLOCK_MAX).contains(&length) => At::Dap(length),
            LOAD_FILE_DATA_BLOCK if length > 0 => {
                self.length = u32::try_from(length).map_err(|_| wrong())?;
                At::Data(self.length)
            }
            _ => return Err(wrong()),
        };
        Ok(())
    }

    /// The DAP block that has just been read, without its tag and length.
    pub(crate) fn dap(&self) -> &[u8] {
        self.head.so_far()
    }

    /// Bytes of the load file data block.
    pub(crate) const fn length(&self) -> u32 {
        self.length
    }

    /// Whether all of it has come.
    pub(crate) fn is_whole(&self) -> bool {
        self.at == At::Data(0)
    }
}

/// What a load file data block says of its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    /// The load file's AID.
    pub(crate) aid: Aid,
    /// Its module's.
    pub(crate) module: Aid,
    /// Its version: major number, then minor.
    pub(crate) version: u16,
    /// Bytes of the image.
    pub(crate) image: u32,
    /// Bytes of the load file data block.
    pub(crate) whole: u32,
}

/// What comes next of a load file data block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'b> {
    /// The module is described; its bytes follow.
    Described(Described),
    /// The next bytes of the module.
    Image(&'b [u8]),
}

/// The components of a load file data block.
pub(crate) struct Carrier {
    gathered: Gathered<{ COMPONENT_HEAD + DIRECTORY_SIZE }>,
    /// How many of those that describe have come.
    described: usize,
    /// Sizes of all components, as Directory has them.
    sizes: [u16; SIZES_COUNT],
    /// Bytes that are to come of the component that is being read.
    left: u16,
    aid: Option<Aid>,
    version: u16,
}

impl Carrier {
    pub(crate) const NEW: Self = Self {
        gathered: Gathered::NEW,
        described: 0,
        sizes: [0; SIZES_COUNT],
        left: 0,
        aid: None,
        version: 0,
    };

    /// The next piece, taken from the front of `bytes`; `None` when they are used up.
    ///
    /// # Errors
    /// 6A80 for what is no carrier of a WebAssembly module.
    pub(crate) fn next<'b>(&mut self, bytes: &mut &'b [u8]) -> Result<Option<Piece<'b>>, Refusal> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let image = split(bytes, self.left.into());
                self.left -= u16::try_from(image.len()).unwrap_or(self.left);
                return Ok(Some(Piece::Image(image)));
            }
            if self.gathered.len < COMPONENT_HEAD && !self.gathered.fill(COMPONENT_HEAD, bytes)? {
                continue;
            }
            let described = self.component(bytes)?;
            if described.is_some() {
                return Ok(described.map(Piece::Described));
            }
        }
        Ok(None)
    }

    /// Goes on in a component whose tag and size are there.
    fn component(&mut self, bytes: &mut &[u8]) -> Result<Option<Described>, Refusal> {
        let mut reader = Reader::new(self.gathered.so_far());
        let (tag, size) = (reader.u8()?, reader.u16()?);
        let Some(expected) = DESCRIBING.get(self.described) else {
            self.left = self.carried(tag, size)?;
            self.gathered.len = 0;
            return Ok(None);
        };
        if tag != *expected || usize::from(size) > DIRECTORY_SIZE {
            return Err(wrong());
        }
        if !self.gathered.fill(COMPONENT_HEAD + usize::from(size), bytes)? {
            return Ok(None);
        }
        let come = core::mem::replace(&mut self.gathered, Gathered::NEW);
        let value = come.so_far().get(COMPONENT_HEAD..).unwrap_or_default();
        self.described += 1;
        match tag {
            HEADER => self.header(value, size)?,
            DIRECTORY => self.directory(value, size)?,
            IMPORT if value == IMPORTS && self.size(IMPORT) == size => {}
            APPLET if self.size(APPLET) == size => return self.applet(value).map(Some),
            _ => return Err(wrong()),
        }
        Ok(None)
    }

    /// Header: magic, formats, the load file's version and AID, and nothing behind it.
    fn header(&mut self, value: &[u8], size: u16) -> Result<(), Refusal> {
        let mut r = Reader::new(value);
        let magic = r.u32()?;
        let format: [u8; 3] = r.array()?;
        let [minor, major, len] = r.array()?;
        self.aid = Some(aid(r.take(len.into())?)?);
        self.version = u16::from_be_bytes([major, minor]);
        self.set_size(HEADER, size);
        r.finish()?;
        if magic == MAGIC && format == FORMAT {
            Ok(())
        } else {
            Err(wrong())
        }
    }

    /// Directory: the sizes of all components, no static field's image, one import, one applet, no components of somebody's own.
    fn directory(&mut self, value: &[u8], size: u16) -> Result<(), Refusal> {
        let mut r = Reader::new(value);
        let header = self.size(HEADER);
        for size in &mut self.sizes {
            *size = r.u16()?;
        }
        let as_it_came = self.size(HEADER) == header && self.size(DIRECTORY) == size;
        if as_it_came && r.rest() == [0, 0, 0, 0, 0, 0, 1, 1, 0] {
            Ok(())
        } else {
            Err(wrong())
        }
    }

    /// Applet: one, whose method has no place.
    fn applet(&self, value: &[u8]) -> Result<Described, Refusal> {
        let mut r = Reader::new(value);
        let [count, len] = r.array()?;
        let module = aid(r.take(len.into())?)?;
        let place = r.u16()?;
        r.finish()?;
        if count != 1 || place != 0 {
            return Err(wrong());
        }
        let sum = |tags: &[u8], head: usize| {
            let sizes = tags.iter().map(|tag| usize::from(self.size(*tag)));
            let all: usize = sizes.filter(|size| *size > 0).map(|size| size + head).sum();
            u32::try_from(all).map_err(|_| wrong())
        };
        let image = sum(&CARRYING, 0)?;
        Ok(Described {
            aid: self.aid.ok_or(wrong())?,
            module,
            version: self.version,
            image,
            whole: sum(&DESCRIBING, COMPONENT_HEAD)? + sum(&CARRYING, COMPONENT_HEAD)?,
        })
    }

    /// The size of a component that carries the module: one that Directory names, and once.
    fn carried(&mut self, tag: u8, size: u16) -> Result<u16, Refusal> {
        if !CARRYING.contains(&tag) || size == 0 || self.size(tag) != size {
            return Err(wrong());
        }
        self.set_size(tag, 0);
        Ok(size)
    }

    fn size(&self, tag: u8) -> u16 {
        let at = SIZES.iter().position(|of| *of == tag);
        at.and_then(|at| self.sizes.get(at)).copied().unwrap_or(0)
    }

    fn set_size(&mut self, tag: u8, size: u16) {
        let mut all = SIZES.iter().zip(&mut self.sizes);
        if let Some((_, of)) = all.find(|(of, _)| **of == tag) {
            *of = size;
        }
    }
}

fn aid(bytes: &[u8]) -> Result<Aid, Refusal> {
    Aid::try_from(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;
    use std::vec::Vec;

    /// A block of the specification's page.
    fn page(name: &str) -> Vec<u8> {
        let page = include_str!("../../../../docs/spec/loading.md");
        let (_, after) = page.split_once(&std::format!("```hex {name}\n")).unwrap();
        let digits: String = after.split_once("```").unwrap().0.split_whitespace().collect();
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (0..digits.len()).step_by(2).map(byte).collect()
    }

    /// What is read of these blocks: DAP blocks, what is described, the image; `None` when it is refused, or not whole.
    fn read(blocks: &[&[u8]]) -> Option<(Vec<Vec<u8>>, Described, Vec<u8>)> {
        let (mut outer, mut inner) = (Blocks::NEW, Carrier::NEW);
        let (mut daps, mut described, mut image) = (Vec::new(), None, Vec::new());
        for block in blocks {
            let mut rest = *block;
            while let Some(part) = outer.next(&mut rest).ok()? {
                let Part::Data(mut data) = part else {
                    daps.push(outer.dap().to_vec());
                    continue;
                };
                while let Some(piece) = inner.next(&mut data).ok()? {
                    match piece {
                        Piece::Described(of) => assert_eq!(described.replace(of), None),
                        Piece::Image(bytes) => image.extend(bytes),
                    }
                }
            }
        }
        let described = described.filter(|of| of.whole == outer.length());
        let described = described.filter(|of| usize::try_from(of.image).unwrap() == image.len());
        outer.is_whole().then_some((daps, described?, image))
    }

    fn framed(data: &[u8]) -> Vec<u8> {
        [&[0xC4, 0x83, 0, 0, u8::try_from(data.len()).unwrap()], data].concat()
    }

    /// A load file of these pieces, with tags in this order.
    fn of_pieces(pieces: &[(u8, &[u8])]) -> Vec<u8> {
        let mut whole = page("load-file");
        whole.truncate(19 + 34 + 13 + 14);
        for (tag, piece) in pieces {
            let at = SIZES.iter().position(|of| of == tag).unwrap();
            let size = u16::try_from(piece.len()).unwrap().to_be_bytes();
            whole[19 + 3 + 2 * at..][..2].copy_from_slice(&size);
            whole.extend([&[*tag], &size[..], piece].concat());
        }
        if pieces.iter().all(|(tag, _)| *tag != 7) {
            whole[19 + 3 + 14..][..2].fill(0);
        }
        whole
    }

    #[test]
    fn the_pages_load_files_are_read_however_they_are_cut() {
        for (name, aid, module, version, image) in [
            (
                "empty",
                &b"\xF0\0\0\0\x01\x08\x01"[..],
                &b"\xF0\0\0\0\x01\x08\x01\x01"[..],
                0x0100,
                8,
            ),
            ("load-file", b"\xF0SKLF\0", b"\xF0SKLF\0\x01", 0x0102, 94),
        ] {
            let data = page(name);
            let dap = [0xE2, 0x05, 0x4F, 0x03, 1, 2, 3];
            for whole in [framed(&data), [&dap[..], &dap, &framed(&data)].concat()] {
                for size in 1..=whole.len() {
                    let blocks: Vec<_> = whole.chunks(size).collect();
                    let (daps, described, bytes) = read(&blocks).unwrap();
                    assert_eq!(daps.len(), if whole[0] == 0xE2 { 2 } else { 0 });
                    assert!(daps.iter().all(|read| *read == dap[2..]));
                    assert_eq!(
                        (described.aid.as_bytes(), described.module.as_bytes()),
                        (aid, module)
                    );
                    assert_eq!((described.version, described.image), (version, image));
                    assert_eq!(bytes, data[data.len() - bytes.len()..]);
                }
            }
        }
    }

    #[test]
    fn pieces_are_joined_as_they_come() {
        let whole = of_pieces(&[
            (9, b"ab"),
            (7, b"c"),
            (6, b"de"),
            (5, b"f"),
            (10, b"g"),
            (8, b"hi"),
        ]);
        assert_eq!(read(&[&framed(&whole)]).unwrap().2, b"abcdefghi");
        // One that does not come, comes twice, or is not in Directory.
        let cut = &whole[..whole.len() - 5];
        assert!(read(&[&framed(cut)]).is_none());
        let twice = [&whole[..whole.len() - 5], &[7, 0, 1, b'c', 7]].concat();
        assert!(read(&[&framed(&twice)]).is_none());
        assert!(read(&[&framed(&of_pieces(&[(7, b"ab"), (11, b"c")]))]).is_none());
        // Descriptor is not loaded, and may be named.
        let mut named = of_pieces(&[(7, b"ab")]);
        named[19 + 3 + 20..][..2].copy_from_slice(&[0, 9]);
        assert_eq!(read(&[&framed(&named)]).unwrap().2, b"ab");
    }

    /// Every byte of what describes the module changed, and every cut: refused, but for the AIDs, the version, Descriptor's size, and what keeps the sum.
    #[test]
    fn nothing_else_is_a_load_file() {
        let data = page("load-file");
        let may_differ = |at: usize| matches!(at, 10 | 11 | 13..=18 | 42 | 43 | 71..=77);
        for at in 0..80 {
            let mut changed = data.clone();
            changed[at] ^= 0x20;
            let is_read = read(&[&framed(&changed)]).is_some();
            assert_eq!(is_read, may_differ(at), "byte {at}");
        }
        for cut in 0..data.len() {
            assert!(read(&[&framed(&data)[..cut + 5]]).is_none(), "{cut}");
            assert!(read(&[&framed(&data[..cut])]).is_none(), "{cut}");
        }
        assert!(read(&[&framed(&data), &[0]]).is_none());
        for (head, is_read) in [
            (&[0xC4, 0x81, 0xB1][..], true),
            (&[0xC4, 0x82, 0, 0xB1], true),
            (&[0xC4, 0x84, 0, 0, 0, 0xB1], false),
            (&[0xD4, 0x81, 0xB1], false),
            (&[0xE2, 0x00, 0xC4, 0x81, 0xB1], false),
            (&[0xE2, 0x60], false),
            (&[0xC4, 0x00], false),
        ] {
            assert_eq!(read(&[&[head, &data].concat()]).is_some(), is_read, "{head:02X?}");
        }
    }
}
