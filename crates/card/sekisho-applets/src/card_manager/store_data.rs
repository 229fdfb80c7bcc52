//! STORE DATA for the issuer security domain itself (GPC 11.11): IIN, CIN, what readers may open by secure messaging, and that the domain is secure-only.

use sekisho_apdu::gp::tag;
use sekisho_apdu::tlv::TlvReader;
use sekisho_apdu::{CApdu, Reader, StatusWord};
use sekisho_messaging::setup::Policy;
use sekisho_os::{CIN, IIN, MESSAGING_POLICY, Outcome, Place, Refusal, SecurityDomain};

use super::get_data::STORED_MAX;
use super::{wrong_data, wrong_p1p2};

/// P1 (GPC Table 11-89): last block; encryption; structure. Bit 1 says that an answer may come, of which there is none here.
pub(super) const LAST_BLOCK: u8 = 0x80;
const ENCRYPTION: u8 = 0x60;
const STRUCTURE: u8 = 0x18;
const RESERVED: u8 = 0x06;
const NO_INFORMATION: u8 = 0x00;
const BER_TLV: u8 = 0x10;

/// The DGI that holds BER-TLV data objects (GPC 11.11.2.3).
const DGI_TLV: u16 = 0x0070;

/// Bytes of all blocks of a sequence: every data object that there is, with room.
const BLOCKS_MAX: usize = 256;

/// The blocks of a sequence that has not come to its end. Nothing is stored before the last one is there.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Where the sequence comes from, in which application session; `None` when there is none.
    owner: Option<(Place, u32)>,
    /// P1 of the first block, without the bit of the last.
    p1: u8,
    /// Number of the next block; `None` after block FF.
    next: Option<u8>,
    bytes: [u8; BLOCKS_MAX],
    len: usize,
}

impl Blocks {
    pub(super) const fn new() -> Self {
        Self {
            owner: None,
            p1: 0,
            next: None,
            bytes: [0; BLOCKS_MAX],
            len: 0,
        }
    }

    /// Ends the sequence of a logical channel, if there is one.
    pub(super) fn end(&mut self, place: Place) {
        if self.owner.is_some_and(|(owner, _)| owner == place) {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.bytes.get_mut(..self.len).unwrap_or_default().fill(0);
        self.len = 0;
        self.owner = None;
    }

    /// Takes a block: block 00 begins a sequence, every other continues one. Somebody else's is not disturbed.
    fn accept(&mut self, owner: (Place, u32), capdu: &CApdu<'_>) -> Result<(), Refusal> {
        let p1 = capdu.p1 & !LAST_BLOCK;
        if capdu.p2 == 0 {
            if self.owner.is_some_and(|(place, _)| place != owner.0) {
                return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
            }
            self.clear();
            (self.owner, self.p1, self.next) = (Some(owner), p1, Some(0));
        }
        if self.owner != Some(owner) || self.p1 != p1 || self.next != Some(capdu.p2) {
            return Err(wrong_p1p2());
        }
        let end = self.len + capdu.data.len();
        let room = self.bytes.get_mut(self.len..end);
        room.ok_or(Refusal(StatusWord::NOT_ENOUGH_MEMORY))?
            .copy_from_slice(capdu.data);
        self.len = end;
        self.next = capdu.p2.checked_add(1);
        Ok(())
    }
}

/// A block; with the last one all that has come is stored, or nothing. An error ends the sequence.
#[inline(never)]
pub(super) fn process(
    blocks: &mut Blocks,
    owner: (Place, u32),
    domain: &mut SecurityDomain<'_, '_>,
    capdu: &CApdu<'_>,
) -> Outcome {
    if capdu.p1 & (ENCRYPTION | RESERVED) != 0 || capdu.p1 & STRUCTURE == STRUCTURE {
        blocks.end(owner.0);
        return Err(wrong_p1p2());
    }
    let is_last = capdu.p1 & LAST_BLOCK != 0;
    if capdu.p2 == 0 && is_last {
        // All of it in one block, which may be as long as a command.
        blocks.end(owner.0);
        return store_all(domain, capdu.p1, capdu.data);
    }
    let accepted = blocks.accept(owner, capdu);
    if accepted.is_ok() && !is_last {
        return Ok(StatusWord::NO_ERROR);
    }
    let data = blocks.bytes.get(..blocks.len).unwrap_or_default();
    let stored = accepted.and_then(|()| store_all(domain, capdu.p1, data));
    blocks.end(owner.0);
    stored
}

/// Stores what all blocks together hold, in the structure that P1 says.
fn store_all(domain: &mut SecurityDomain<'_, '_>, p1: u8, data: &[u8]) -> Outcome {
    match p1 & STRUCTURE {
        BER_TLV => store(domain, data)?,
        // No tag begins with 00, and the one DGI that there is does.
        NO_INFORMATION if data.first() != Some(&0x00) => store(domain, data)?,
        _ => store_groups(domain, data)?,
    }
    Ok(StatusWord::NO_ERROR)
}

/// Stores what data groupings hold: DGI, length, value.
fn store_groups(domain: &mut SecurityDomain<'_, '_>, groups: &[u8]) -> Result<(), Refusal> {
    let mut reader = Reader::new(groups);
    while !reader.is_empty() {
        let dgi = reader.u16()?;
        // FF and two bytes from 255 on (GlobalPlatform Systems Scripting Language, Annex B).
        let len = match reader.u8()? {
            0xFF => reader.u16()?,
            len => len.into(),
        };
        let value = reader.take(len.into())?;
        if dgi != DGI_TLV {
            return Err(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND));
        }
        store(domain, value)?;
    }
    Ok(())
}

fn store(domain: &mut SecurityDomain<'_, '_>, objects: &[u8]) -> Result<(), Refusal> {
    if objects.is_empty() {
        return Err(wrong_data());
    }
    for object in TlvReader::new(objects) {
        let object = object?;
        if (object.tag.0, object.value) == (tag::SECURE_ONLY, &[0x01]) {
            domain.make_secure_only()?;
            continue;
        }
        let tag = u16::try_from(object.tag.0).map_err(|_| wrong_data())?;
        let right = match tag {
            IIN | CIN => object.value.len() <= STORED_MAX,
            MESSAGING_POLICY => Policy::from_bytes(object.value).is_some(),
            _ => false,
        };
        if !right {
            return Err(wrong_data());
        }
        domain.store_data_object(tag, object.value)?;
    }
    Ok(())
}
