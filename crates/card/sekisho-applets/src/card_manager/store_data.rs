//! STORE DATA for the issuer security domain itself (GPC 11.11): IIN, CIN, and what readers may open by secure messaging.

use sekisho_apdu::tlv::TlvReader;
use sekisho_apdu::{CApdu, Reader, StatusWord};
use sekisho_messaging::setup::Policy;
use sekisho_nvm::Flash;
use sekisho_os::{Issuer, MESSAGING_POLICY, Outcome, Refusal};

use super::get_data::{CIN, IIN, STORED_MAX};
use super::{wrong_data, wrong_p1p2};

/// P1 (GPC Table 11-89): the last block, not encrypted, and its structure.
const LAST_BLOCK: u8 = 0x80;
const ENCRYPTION: u8 = 0x60;
const STRUCTURE: u8 = 0x18;
const DGI: u8 = 0x08;
const BER_TLV: u8 = 0x10;

/// The DGI that holds BER-TLV data objects (GPC 11.11.2.3).
const DGI_TLV: u16 = 0x0070;

pub(super) fn process<F: Flash>(issuer: &mut Issuer<'_, '_, F>, capdu: &CApdu<'_>) -> Outcome {
    // All data objects fit one block.
    if capdu.p1 & LAST_BLOCK == 0 || capdu.p1 & ENCRYPTION != 0 || capdu.p2 != 0 {
        return Err(wrong_p1p2());
    }
    match capdu.p1 & STRUCTURE {
        BER_TLV => store(issuer, capdu.data)?,
        DGI => {
            let mut reader = Reader::new(capdu.data);
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
                store(issuer, value)?;
            }
        }
        _ => return Err(wrong_p1p2()),
    }
    Ok(StatusWord::NO_ERROR)
}

fn store<F: Flash>(issuer: &mut Issuer<'_, '_, F>, objects: &[u8]) -> Result<(), Refusal> {
    if objects.is_empty() {
        return Err(wrong_data());
    }
    for object in TlvReader::new(objects) {
        let object = object?;
        let tag = u16::try_from(object.tag.0).map_err(|_| wrong_data())?;
        let right = match tag {
            IIN | CIN => object.value.len() <= STORED_MAX,
            MESSAGING_POLICY => Policy::from_bytes(object.value).is_some(),
            _ => false,
        };
        if !right {
            return Err(wrong_data());
        }
        issuer.store_data_object(tag, object.value)?;
    }
    Ok(())
}
