//! The manifest: what an image is, signed by the designer (spec section 3).

use sekisho_apdu::{BufferFull, DecodeError, Reader, Writer};

/// The only manifest format.
const FORMAT: u8 = 1;

/// What an image is and what it may replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Which part: [`Manifest::OS_PART`] or [`Manifest::KEYS`].
    pub target: u8,
    /// How the code is written: [`Manifest::WEBASSEMBLY`], or [`Manifest::NO_CODE`].
    pub code_format: u8,
    /// Version of the host ABI that the code wants; 0 where there is none.
    pub abi: u8,
    /// Version of this image.
    pub version: u32,
    /// Least version that it may replace.
    pub min_previous: u32,
    /// Bytes of the image in the clear.
    pub length: u32,
    /// Random, never used twice.
    pub package_id: [u8; 16],
    /// SHA-256 of the image in the clear.
    pub digest: [u8; 32],
}

impl Manifest {
    /// Bytes of a manifest.
    pub const LEN: usize = 64;
    /// Target: the OS part.
    pub const OS_PART: u8 = 1;
    /// Target: the design system's keys, whose image is a [`KeyChange`](crate::KeyChange).
    pub const KEYS: u8 = 2;
    /// Version of the design system's keys with which SEs begin, and of an SE that says nothing of it (spec 2.4).
    pub const FIRST_KEY_VERSION: u32 = 1;
    /// Code format and ABI of an image that is no code.
    pub const NO_CODE: u8 = 0;
    /// Code format: WebAssembly.
    pub const WEBASSEMBLY: u8 = 1;
    /// Version of the host ABI of WebAssembly modules (`docs/spec/os-part.md`): the oldest that is run, which all do with that ask for nothing newer.
    pub const ABI: u8 = 2;
    /// The newest host ABI: with state that lasts for a session.
    pub const ABI_NEWEST: u8 = 3;

    /// Reads a manifest. Target, code format and ABI are the reader's to judge.
    ///
    /// # Errors
    /// [`DecodeError::Value`] when the format is unknown or the length zero; errors of length.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != FORMAT {
            return Err(DecodeError::Value);
        }
        let manifest = Self {
            target: reader.u8()?,
            code_format: reader.u8()?,
            abi: reader.u8()?,
            version: reader.u32()?,
            min_previous: reader.u32()?,
            length: reader.u32()?,
            package_id: reader.array()?,
            digest: reader.array()?,
        };
        reader.finish()?;
        if manifest.length == 0 {
            Err(DecodeError::Value)
        } else {
            Ok(manifest)
        }
    }

    /// The manifest's 64 bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        // The buffer has the size of the fields; a test proves it.
        let _ = self.write(&mut Writer::new(&mut bytes));
        bytes
    }

    fn write(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        out.bytes(&[FORMAT, self.target, self.code_format, self.abi])?;
        out.u32(self.version)?;
        out.u32(self.min_previous)?;
        out.u32(self.length)?;
        out.bytes(&self.package_id)?;
        out.bytes(&self.digest)
    }
}
