//! The image of a module: mapped, or read piece by piece. It is never copied as a whole.

use spacewasm::{InnerVec, WasmStream};

/// Bytes that are read at a time from an image that is not mapped.
pub const CHUNK: usize = 256;

/// The image could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadFailed;

/// Fills a buffer from an offset of the image on.
pub type ReadAt<'a> = dyn FnMut(usize, &mut [u8]) -> Result<(), ReadFailed> + 'a;

/// The image of a module.
pub struct Image<'a> {
    source: Source<'a>,
    len: usize,
    /// Where a piece is read to.
    piece: [u8; CHUNK],
}

enum Source<'a> {
    Mapped(&'a [u8]),
    Read(&'a mut ReadAt<'a>),
}

impl<'a> Image<'a> {
    /// An image that can be addressed where it stands.
    pub const fn mapped(bytes: &'a [u8]) -> Self {
        Self {
            len: bytes.len(),
            source: Source::Mapped(bytes),
            piece: [0; CHUNK],
        }
    }

    /// An image of `len` bytes from which `read` fills a buffer, from an offset on. It is read twice, in order.
    pub fn read(len: usize, read: &'a mut ReadAt<'a>) -> Self {
        Self {
            source: Source::Read(read),
            len,
            piece: [0; CHUNK],
        }
    }

    /// All of it, if it is mapped.
    pub const fn as_mapped(&self) -> Option<&'a [u8]> {
        match self.source {
            Source::Mapped(bytes) => Some(bytes),
            Source::Read(..) => None,
        }
    }

    /// Bytes of the image.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next piece from `at` on; nothing behind the end.
    fn chunk(&mut self, at: usize) -> Result<&[u8], ReadFailed> {
        match &mut self.source {
            Source::Mapped(bytes) => Ok(bytes.get(at..).unwrap_or_default()),
            Source::Read(read) => {
                let len = CHUNK.min(self.len.saturating_sub(at));
                let piece = self.piece.get_mut(..len).unwrap_or_default();
                if !piece.is_empty() {
                    read(at, piece)?;
                }
                Ok(piece)
            }
        }
    }
}

/// The image from its beginning, as the engine reads it.
pub(crate) struct Stream<'i, 'a> {
    image: &'i mut Image<'a>,
    at: usize,
}

impl<'i, 'a> Stream<'i, 'a> {
    pub(crate) const fn new(image: &'i mut Image<'a>) -> Self {
        Self { image, at: 0 }
    }
}

impl WasmStream for Stream<'_, '_> {
    #[allow(unsafe_code)]
    fn read(&mut self) -> Result<Option<InnerVec<u8>>, u8> {
        let piece = self.image.chunk(self.at).map_err(|ReadFailed| 0)?;
        self.at += piece.len();
        if piece.is_empty() {
            return Ok(None);
        }
        // SAFETY: the pointer is good for `len` bytes, all written, for as long as the image is borrowed and not read again. The reader gives a
        // chunk back before it asks for the next one, and it has the stream borrowed until it ends. It only reads the chunk: the engine's
        // type for it has a mutable pointer because the same type also lends buffers, but nothing writes through it and nothing frees it.
        let chunk = unsafe { InnerVec::from_raw_parts(piece.as_ptr().cast_mut(), piece.len(), piece.len()) };
        Ok(Some(chunk))
    }

    fn return_(&mut self, _: InnerVec<u8>) {}
}
