//! PUT KEY (GPC 11.8) and DELETE (GPC 11.2).

use sekisho_apdu::gp::key_type;
use sekisho_apdu::tlv::{TlvReader, read_length};
use sekisho_apdu::{CApdu, Reader, StatusWord, Writer};
use sekisho_keys::p256sig::VerifyingKey;
use sekisho_keys::{AesKey, KeySet, ct_eq, kcv_aes};
use sekisho_nvm::Flash;
use sekisho_os::{Issuer, Outcome, Refusal};
use zeroize::Zeroizing;

use super::{wrong_data, wrong_p1p2};

/// P1: more commands follow (GPC Table 11-65). GlobalPlatform's own chaining is not supported; ISO's is.
const MORE_COMMANDS: u8 = 0x80;
/// P2: multiple keys (GPC Table 11-66).
const MULTIPLE: u8 = 0x80;
/// KID of the first key of an SCP03 key set.
const KID_FIRST: u8 = 0x01;
/// Curve P-256 by reference (GPC B.4.2).
const P_256: u8 = 0x00;
/// The check value of an AES key.
const KCV_LEN: usize = 3;
/// An AES key after padding to whole blocks.
const ENCRYPTED_MAX: usize = 32;

pub(super) fn process<F: Flash>(
    issuer: &mut Issuer<'_, '_, F>,
    capdu: &CApdu<'_>,
    out: &mut Writer<'_>,
) -> Outcome {
    if capdu.p1 & MORE_COMMANDS != 0 {
        return Err(wrong_p1p2());
    }
    let kid = capdu.p2 & !MULTIPLE;
    let mut reader = Reader::new(capdu.data);
    let kvn = reader.u8()?;
    out.u8(kvn)?;
    if capdu.p2 & MULTIPLE != 0 {
        let set = KeySet {
            enc: aes_key(issuer, &mut reader, out)?,
            mac: aes_key(issuer, &mut reader, out)?,
            dek: aes_key(issuer, &mut reader, out)?,
        };
        reader.finish()?;
        if kid != KID_FIRST {
            return Err(wrong_p1p2());
        }
        issuer.put_scp_keys(capdu.p1, kvn, &set)?;
    } else if reader.clone().u8()? == key_type::ECC_PUBLIC {
        let point = public_key(&mut reader)?;
        reader.finish()?;
        issuer.put_single_key(capdu.p1, kvn, kid, key_type::ECC_PUBLIC, &point.to_sec1())?;
    } else {
        let key = aes_key(issuer, &mut reader, out)?;
        reader.finish()?;
        issuer.put_single_key(capdu.p1, kvn, kid, key_type::AES, key.as_bytes())?;
    }
    Ok(StatusWord::NO_ERROR)
}

/// A key data field with an AES key (GPC Tables 11-68, 11-70, 11-71); appends its check value to the answer.
fn aes_key<F: Flash>(
    issuer: &mut Issuer<'_, '_, F>,
    reader: &mut Reader<'_>,
    out: &mut Writer<'_>,
) -> Result<AesKey, Refusal> {
    if reader.u8()? != key_type::AES {
        return Err(wrong_data());
    }
    let len = read_length(reader)?;
    let mut block = Reader::new(reader.take(len)?);
    // A block of another length than whole cipher blocks starts with the length of the key.
    let key_len = if len % 16 == 0 {
        len
    } else {
        read_length(&mut block)?
    };
    let encrypted = block.rest();
    let mut plain = Zeroizing::new([0; ENCRYPTED_MAX]);
    let plain = plain.get_mut(..encrypted.len()).ok_or(wrong_data())?;
    plain.copy_from_slice(encrypted);
    issuer.decrypt_sensitive(plain)?;
    let key = AesKey::new(plain.get(..key_len).ok_or(wrong_data())?)?;
    if key_len.next_multiple_of(16) != encrypted.len() || usize::from(reader.u8()?) != KCV_LEN {
        return Err(wrong_data());
    }
    let kcv = kcv_aes(&key);
    if !ct_eq(&kcv, reader.take(KCV_LEN)?) {
        // GPC Table 11-78: invalid key check value.
        return Err(Refusal(StatusWord::SECURITY_STATUS_NOT_SATISFIED));
    }
    out.bytes(&kcv)?;
    Ok(key)
}

/// A key data field with a public key on P-256, which has no check value (GPC Table 11-73).
fn public_key(reader: &mut Reader<'_>) -> Result<VerifyingKey, Refusal> {
    if reader.u8()? != key_type::ECC_PUBLIC || read_length(reader)? != 65 {
        return Err(wrong_data());
    }
    let point = reader.array()?;
    if reader.array()? != [key_type::ECC_PARAMETERS_REFERENCE, 0x01, P_256, 0x00] {
        return Err(wrong_data());
    }
    VerifyingKey::from_sec1(&point).map_err(|_| wrong_data())
}

/// DELETE `[key]` by KVN, or by KVN and KID (GPC 11.2.2.3.2). Card content cannot be deleted: it came with the operating system.
pub(super) fn delete<F: Flash>(
    issuer: &mut Issuer<'_, '_, F>,
    capdu: &CApdu<'_>,
    out: &mut Writer<'_>,
) -> Outcome {
    if capdu.p1 & MORE_COMMANDS != 0 {
        return Err(wrong_p1p2());
    }
    let (mut kid, mut kvn) = (None, None);
    for object in TlvReader::new(capdu.data) {
        let object = object?;
        match (object.tag.0, object.value) {
            (0xD0, [id]) => kid = Some(*id),
            (0xD2, [version]) => kvn = Some(*version),
            (0x4F, aid) => {
                let known = issuer
                    .registry()
                    .iter()
                    .any(|(_, entry)| entry.aid.as_bytes() == aid);
                return Err(Refusal(if known {
                    StatusWord::CONDITIONS_NOT_SATISFIED
                } else {
                    StatusWord::FILE_NOT_FOUND
                }));
            }
            _ => return Err(wrong_data()),
        }
    }
    issuer.delete_key(kvn.ok_or(wrong_data())?, kid)?;
    // No additional data (GPC 11.2.3.1).
    out.u8(0x00)?;
    Ok(StatusWord::NO_ERROR)
}
