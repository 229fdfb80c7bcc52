//! The record of a run.

/// What the record of a run says: that it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Whose it is.
    pub owner: u16,
    /// Its first page, counted from the area's.
    pub first: u16,
    /// Bytes of it.
    pub length: u32,
    /// Digest of these bytes, as its owner computes it.
    pub digest: [u8; 32],
}

/// What a seal begins with.
const VERSION: u8 = 1;

impl Seal {
    /// Bytes of a seal.
    pub const LEN: usize = 1 + 2 + 2 + 4 + 32;

    /// The record.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let parts: [&[u8]; 5] = [
            &[VERSION],
            &self.owner.to_be_bytes(),
            &self.first.to_be_bytes(),
            &self.length.to_be_bytes(),
            &self.digest,
        ];
        let bytes = parts.iter().flat_map(|part| part.iter());
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        out
    }

    /// Reads a record; `None` if it is no seal.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (owner, rest) = rest.split_first_chunk()?;
        let (first, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        (*version == VERSION).then_some(())?;
        Some(Self {
            owner: u16::from_be_bytes(*owner),
            first: u16::from_be_bytes(*first),
            length: u32::from_be_bytes(*length),
            digest: rest.try_into().ok()?,
        })
    }
}
