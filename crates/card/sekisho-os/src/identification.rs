//! How a security domain says for which issuer it is, and which card it is: IIN and CIN (GPC 7.4.1.1, 7.4.1.2).

use sekisho_apdu::Writer;

use crate::names::{EntryId, Owner, RecordKey, RecordKind};
use crate::nvm::Records;
use crate::refusal::Refusal;

/// Tag of the issuer identification number.
pub const IIN: u16 = 0x0042;
/// Tag of the card image number.
pub const CIN: u16 = 0x0045;

/// IIN of an SE to which none was given: digits that no issuer has (major industry identifier 9 with a country of ISO 3166-1's user-assigned codes;
/// ISO/IEC 7812-1). Its CIN is the SE-id.
const IIN_UNASSIGNED: [u8; 4] = [0x99, 0x99, 0x00, 0x00];

/// Longest of both.
pub(crate) const STORED_MAX: usize = 32;

/// Appends IIN or CIN of a domain.
///
/// # Errors
/// 6581; 6A84 when it does not fit.
pub(crate) fn append(
    records: &mut Records<'_>,
    domain: EntryId,
    tag: u16,
    se_id: &[u8; 10],
    out: &mut Writer<'_>,
) -> Result<(), Refusal> {
    let mut stored = [0; STORED_MAX];
    let name = RecordKey::new(Owner::Entry(domain), RecordKind::DataObject, tag);
    let value: &[u8] = match (records.get(name, &mut stored)?, tag) {
        (Some(len), _) => stored.get(..len).unwrap_or_default(),
        (None, IIN) => &IIN_UNASSIGNED,
        (None, _) => se_id,
    };
    Ok(out.bytes(value)?)
}
