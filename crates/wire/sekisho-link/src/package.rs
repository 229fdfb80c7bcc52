//! The package: what the design system hands to the server (spec 4.2).

use sekisho_apdu::{BufferFull, DecodeError, Reader, Writer};

use crate::{Custody, Manifest, PSe, Version, length, open};

const NAME: &[u8; 4] = b"SKPK";
/// Parts of a package of version 2: more are laid out and not built.
const PARTS: u8 = 1;
/// Bytes of P_MOB in a package of version 2: any is laid out and not built.
const P_MOB: u32 = 0;
/// Longest package in bytes: none is made longer, and none is taken (spec 8.3).
pub const PACKAGE_MAX: usize = 8 << 20;

/// What differs between the custody variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackageBody<'a> {
    /// Custody 03: the broadcast is made already.
    DesignSystem {
        /// Encryption counter of the first command.
        counter: u32,
        /// MAC chaining value before the first command.
        chaining_value: [u8; 16],
        /// The broadcast key set under the key-wrap key of Kos (RFC 3394): 40, 56 or 72 bytes.
        wrapped_keys: &'a [u8],
        /// P_SE, its bytes.
        p_se: &'a [u8],
    },
    /// Custody 04: the image enciphered under the image key of Kos.
    Hsm {
        /// As long as the image.
        ciphertext: &'a [u8],
    },
}

/// What a package says, before it is signed and after it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackageSource<'a> {
    /// The version that it is written in.
    pub version: Version,
    /// The manifest.
    pub manifest: Manifest,
    /// The designer's signature over the manifest.
    pub signature: [u8; 64],
    /// The design integrity code.
    pub design_code: [u8; 16],
    /// The bulk and, in custody 03, its keys.
    pub body: PackageBody<'a>,
}

impl PackageSource<'_> {
    /// Who makes the broadcast key set.
    pub const fn custody(&self) -> Custody {
        match self.body {
            PackageBody::DesignSystem { .. } => Custody::DesignSystem,
            PackageBody::Hsm { .. } => Custody::Hsm,
        }
    }

    /// Writes all but the package signature, which is made over these bytes and appended to them.
    ///
    /// # Errors
    /// [`BufferFull`] when it does not fit, or a part is longer than its length field can say.
    pub fn encode_unsigned(&self, out: &mut Writer<'_>) -> Result<(), BufferFull> {
        let long = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| BufferFull);
        out.bytes(NAME)?;
        out.bytes(&[self.version as u8, self.custody() as u8])?;
        if self.version == Version::Two {
            out.u8(PARTS)?;
        }
        out.bytes(&self.manifest.encode())?;
        out.bytes(&self.signature)?;
        out.bytes(&self.design_code)?;
        if self.version == Version::Two {
            out.u32(P_MOB)?;
        }
        match self.body {
            PackageBody::DesignSystem {
                counter,
                chaining_value,
                wrapped_keys,
                p_se,
            } => {
                out.u32(counter)?;
                out.bytes(&chaining_value)?;
                out.u8(u8::try_from(wrapped_keys.len()).map_err(|_| BufferFull)?)?;
                out.bytes(wrapped_keys)?;
                out.u32(long(p_se)?)?;
                out.bytes(p_se)
            }
            PackageBody::Hsm { ciphertext } => {
                out.u32(long(ciphertext)?)?;
                out.bytes(ciphertext)
            }
        }
    }
}

/// A package, read. Its signatures are not verified here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package<'a> {
    /// What it says.
    pub source: PackageSource<'a>,
    /// All bytes before the package signature, which covers them.
    pub signed: &'a [u8],
    /// The designer's signature over [`Package::signed`].
    pub package_signature: [u8; 64],
}

impl<'a> Package<'a> {
    /// Reads a package.
    ///
    /// # Errors
    /// [`DecodeError::Unsupported`] for one of several parts or with P_MOB; [`DecodeError`] when it is not exactly one package, or its parts do not
    /// agree with each other.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (signed, package_signature) = bytes.split_last_chunk::<64>().ok_or(DecodeError::UnexpectedEnd)?;
        let mut reader = Reader::new(signed);
        let version = open(&mut reader, NAME)?;
        let custody = Custody::try_from(reader.u8()?)?;
        if version == Version::Two && reader.u8()? != PARTS {
            return Err(DecodeError::Unsupported);
        }
        let manifest = Manifest::decode(reader.take(Manifest::LEN)?)?;
        let signature = reader.array()?;
        let design_code = reader.array()?;
        if version == Version::Two && reader.u32()? != P_MOB {
            return Err(DecodeError::Unsupported);
        }
        let body = match custody {
            Custody::DesignSystem => Self::design_system_body(&mut reader)?,
            Custody::Hsm => {
                let len = reader.u32()?;
                if len != manifest.length {
                    return Err(DecodeError::Length);
                }
                PackageBody::Hsm {
                    ciphertext: reader.take(length(len)?)?,
                }
            }
        };
        reader.finish()?;
        let source = PackageSource {
            version,
            manifest,
            signature,
            design_code,
            body,
        };
        Ok(Self {
            source,
            signed,
            package_signature: *package_signature,
        })
    }

    fn design_system_body(reader: &mut Reader<'a>) -> Result<PackageBody<'a>, DecodeError> {
        let counter = reader.u32()?;
        let chaining_value = reader.array()?;
        let wrapped = reader.u8()?;
        if !matches!(wrapped, 40 | 56 | 72) {
            return Err(DecodeError::Length);
        }
        let wrapped_keys = reader.take(usize::from(wrapped))?;
        let len = length(reader.u32()?)?;
        let p_se = reader.take(len)?;
        if PSe::decode(p_se)?.custody() != Custody::DesignSystem {
            return Err(DecodeError::Value);
        }
        Ok(PackageBody::DesignSystem {
            counter,
            chaining_value,
            wrapped_keys,
            p_se,
        })
    }
}
