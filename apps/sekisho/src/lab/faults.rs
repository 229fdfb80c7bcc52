//! What goes wrong, and with which device.

use sekisho_device::{Backend, BackendError, Part, Permission};
use sekisho_link::{Campaign, Offer, SeId, Status, Verdict};
use std::io::Read;

/// What goes wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Power is lost in mid-write, torn words and all; once.
    PowerCut,
    /// Downloads break off and answers get lost; a few times.
    Loss,
    /// Somebody on the way to the SE changes a byte of a bulk command, always.
    TamperedBulk,
    /// Somebody changes a byte of the authorisation, always.
    TamperedAuthorisation,
    /// The device reports with a forged receipt; once.
    ForgedReceipt,
}

impl Fault {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::PowerCut => "power cut in mid-write",
            Self::Loss => "packets lost",
            Self::TamperedBulk => "bulk tampered with",
            Self::TamperedAuthorisation => "authorisation tampered with",
            Self::ForgedReceipt => "receipt forged",
        }
    }

    /// The fault of device `index`: three in ten have one.
    pub(super) fn of(index: u32, seed: u64) -> Option<Self> {
        // SplitMix64's finaliser: spreads neighbours.
        let mut z = u64::from(index).wrapping_add(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        match (z ^ (z >> 31)) % 40 {
            0..4 => Some(Self::PowerCut),
            4..7 => Some(Self::Loss),
            7 => Some(Self::TamperedBulk),
            8 => Some(Self::TamperedAuthorisation),
            9..12 => Some(Self::ForgedReceipt),
            _ => None,
        }
    }
}

/// The server behind a bad network or a bad device.
pub(super) struct FaultyBackend<B> {
    inner: B,
    fault: Option<Fault>,
    /// How many more calls go wrong.
    left: u32,
}

impl<B> FaultyBackend<B> {
    pub(super) const fn new(inner: B, fault: Option<Fault>) -> Self {
        let left = match fault {
            Some(Fault::Loss) => 4,
            Some(Fault::ForgedReceipt) => 1,
            _ => 0,
        };
        Self { inner, fault, left }
    }

    /// Whether this answer gets lost: the request has been made all the same.
    fn loses(&mut self) -> Result<(), BackendError> {
        if self.fault == Some(Fault::Loss) && self.left > 0 {
            self.left -= 1;
            return Err(BackendError::Unreachable("the answer was lost".to_owned()));
        }
        Ok(())
    }
}

impl<B: Backend> Backend for FaultyBackend<B> {
    fn offer(&mut self, se_id: SeId) -> Result<Option<Offer>, BackendError> {
        self.inner.offer(se_id)
    }

    fn delivery(&mut self, campaign: Campaign, from: u32, etag: Option<&str>) -> Result<Part, BackendError> {
        let part = self.inner.delivery(campaign, from, etag)?;
        if self.fault == Some(Fault::Loss) && self.left > 2 {
            self.left -= 1;
            return Ok(Part {
                body: Box::new(part.body.take(20_000)),
                ..part
            });
        }
        Ok(part)
    }

    fn permission(&mut self, se_id: SeId, equ: &[u8]) -> Result<Permission, BackendError> {
        let permission = self.inner.permission(se_id, equ)?;
        self.loses()?;
        Ok(permission)
    }

    fn status(&mut self, se_id: SeId, st: &[u8]) -> Result<Verdict, BackendError> {
        if self.fault == Some(Fault::ForgedReceipt)
            && self.left > 0
            && let Ok(Status { proof: Some(_), .. }) = Status::decode(st)
        {
            self.left -= 1;
            let mut forged = st.to_vec();
            if let Some(last) = forged.last_mut() {
                *last ^= 1;
            }
            return self.inner.status(se_id, &forged);
        }
        let verdict = self.inner.status(se_id, st)?;
        self.loses()?;
        Ok(verdict)
    }
}
