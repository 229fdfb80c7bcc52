//! PUT KEY (GPC 11.8) and DELETE (GPC 11.2): `docs/spec/keys.md`. What comes in several commands (P1, bit 8) has been put together before.

use sekisho_apdu::gp::key_type;
use sekisho_apdu::tlv::{TlvReader, read_length};
use sekisho_apdu::{CApdu, Reader, StatusWord, Writer};
use sekisho_keys::p256sig::VerifyingKey;
use sekisho_keys::{AesKey, ct_eq, kcv_aes};
use sekisho_os::{KeyRecord, Outcome, Refusal, SecurityDomain};
use zeroize::Zeroizing;

use super::{content, wrong_data, wrong_p1p2};

/// P2: multiple keys (GPC Table 11-66).
const MULTIPLE: u8 = 0x80;
/// DELETE: tags of key identifier and key version number (GPC 11.2.2.3.2).
const KID: u32 = 0xD0;
const KVN: u32 = 0xD2;
/// An AES key after padding to whole blocks.
const ENCRYPTED_MAX: usize = 32;
/// A modulus of 1,024 to 2,048 bits; an exponent of one to four bytes.
const MODULUS: core::ops::RangeInclusive<usize> = 128..=256;
const EXPONENT: core::ops::RangeInclusive<usize> = 1..=4;

/// Curve P-256 by reference (GPC B.4.2).
const P_256: &[u8] = b"\xF0\x01\x00";
/// Curve P-256 by its parameters p, a, b, G and n (GPC Table 11-16; SEC 2, 2.4.2), and its cofactor, which may follow.
const P_256_PARAMETERS: &[u8; 203] = b"\
      \xB2\x20\xFF\xFF\xFF\xFF\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\
      \xFF\xFF\xB3\x20\xFF\xFF\xFF\xFF\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\
      \xFF\xFF\xFF\xFC\xB4\x20\x5A\xC6\x35\xD8\xAA\x3A\x93\xE7\xB3\xEB\xBD\x55\x76\x98\x86\xBC\x65\x1D\x06\xB0\xCC\x53\xB0\xF6\x3B\xCE\
      \x3C\x3E\x27\xD2\x60\x4B\xB5\x41\x04\x6B\x17\xD1\xF2\xE1\x2C\x42\x47\xF8\xBC\xE6\xE5\x63\xA4\x40\xF2\x77\x03\x7D\x81\x2D\xEB\x33\
      \xA0\xF4\xA1\x39\x45\xD8\x98\xC2\x96\x4F\xE3\x42\xE2\xFE\x1A\x7F\x9B\x8E\xE7\xEB\x4A\x7C\x0F\x9E\x16\x2B\xCE\x33\x57\x6B\x31\x5E\
      \xCE\xCB\xB6\x40\x68\x37\xBF\x51\xF5\xB6\x20\xFF\xFF\xFF\xFF\x00\x00\x00\x00\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xBC\xE6\xFA\xAD\xA7\
      \x17\x9E\x84\xF3\xB9\xCA\xC2\xFC\x63\x25\x51";
const P_256_COFACTOR: &[u8] = b"\xB7\x01\x01";

const fn not_supported() -> Refusal {
    Refusal(StatusWord::ALGORITHM_NOT_SUPPORTED)
}

#[inline(never)]
pub(super) fn process(
    domain: &mut SecurityDomain<'_, '_>,
    capdu: &CApdu<'_>,
    out: &mut Writer<'_>,
) -> Outcome {
    let mut reader = Reader::new(capdu.data);
    domain.leave_platform(capdu.p1)?;
    let kvn = reader.u8()?;
    domain.leave_platform(kvn)?;
    out.u8(kvn)?;
    let mut keys = KeyRecord::new();
    let mut kid = capdu.p2 & !MULTIPLE;
    if kid == 0 {
        return Err(wrong_p1p2());
    }
    loop {
        key(domain, &mut reader, kid, &mut keys, out)?;
        if reader.is_empty() {
            break;
        }
        kid += 1;
        if capdu.p2 & MULTIPLE == 0 || kid & MULTIPLE != 0 {
            return Err(wrong_data());
        }
    }
    domain.put_keys(capdu.p1, kvn, &keys)?;
    Ok(StatusWord::NO_ERROR)
}

/// A key data field (GPC Tables 11-68, 11-70 to 11-73); the check value of a symmetric key goes into the answer.
fn key(
    domain: &mut SecurityDomain<'_, '_>,
    reader: &mut Reader<'_>,
    kid: u8,
    keys: &mut KeyRecord,
    out: &mut Writer<'_>,
) -> Result<(), Refusal> {
    match reader.u8()? {
        key_type::AES => {
            let key = aes_key(domain, reader)?;
            let kcv = kcv_aes(&key);
            check_value(reader, &kcv)?;
            out.bytes(&kcv)?;
            keys.push(kid, key_type::AES, key.as_bytes())
        }
        key_type::ECC_PUBLIC => {
            let point = public_key(reader)?;
            check_value(reader, &[])?;
            keys.push(kid, key_type::ECC_PUBLIC, &point.to_sec1())
        }
        key_type::RSA_PUBLIC_MODULUS => {
            let modulus = component(reader)?;
            if reader.u8()? != key_type::RSA_PUBLIC_EXPONENT {
                return Err(wrong_data());
            }
            let exponent = component(reader)?;
            check_value(reader, &[])?;
            if !MODULUS.contains(&modulus.len()) || !EXPONENT.contains(&exponent.len()) {
                return Err(not_supported());
            }
            keys.push(kid, key_type::RSA_PUBLIC_MODULUS, modulus)?;
            keys.push(kid, key_type::RSA_PUBLIC_EXPONENT, exponent)
        }
        _ => Err(not_supported()),
    }
}

fn component<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Refusal> {
    let len = read_length(reader)?;
    Ok(reader.take(len)?)
}

/// The check value at the end of a key data field, which may be left away: 9485 when it is another one.
fn check_value(reader: &mut Reader<'_>, expected: &[u8]) -> Result<(), Refusal> {
    match component(reader)? {
        [] => Ok(()),
        value if expected.len() != value.len() => Err(wrong_data()),
        value if ct_eq(value, expected) => Ok(()),
        _ => Err(Refusal(StatusWord::INVALID_KEY_CHECK_VALUE)),
    }
}

/// An AES key, under Key-DEK.
fn aes_key(domain: &mut SecurityDomain<'_, '_>, reader: &mut Reader<'_>) -> Result<AesKey, Refusal> {
    let block = component(reader)?;
    let len = block.len();
    let mut block = Reader::new(block);
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
    domain.decrypt_sensitive(plain)?;
    let key = AesKey::new(plain.get(..key_len).ok_or(wrong_data())?)?;
    if key_len.next_multiple_of(16) != encrypted.len() {
        return Err(wrong_data());
    }
    Ok(key)
}

/// A public key on P-256, the curve by reference or by its parameters.
fn public_key(reader: &mut Reader<'_>) -> Result<VerifyingKey, Refusal> {
    let point = component(reader)?;
    if !skip(reader, P_256) {
        if !skip(reader, P_256_PARAMETERS) {
            // Of another curve, or not there.
            return Err(if reader.clone().u8()? == 0x00 {
                wrong_data()
            } else {
                not_supported()
            });
        }
        skip(reader, P_256_COFACTOR);
    }
    let point = point.try_into().map_err(|_| wrong_data())?;
    VerifyingKey::from_sec1(point).map_err(|_| wrong_data())
}

/// Goes over these bytes, if they come next.
fn skip(reader: &mut Reader<'_>, bytes: &[u8]) -> bool {
    let comes_next = reader.clone().rest().starts_with(bytes);
    comes_next && reader.take(bytes.len()).is_ok()
}

/// DELETE `[key]` by KVN, by KID, or by both (GPC 11.2.2.3.2), or of what has an AID.
#[inline(never)]
pub(super) fn delete(
    domain: &mut SecurityDomain<'_, '_>,
    capdu: &CApdu<'_>,
    out: &mut Writer<'_>,
) -> Outcome {
    // Whatever else the data field says.
    for object in TlvReader::new(capdu.data).map_while(Result::ok) {
        if let (KVN, [version]) = (object.tag.0, object.value) {
            domain.leave_platform(*version)?;
        }
    }
    if content::is_by_aid(capdu) {
        return content::delete(domain, capdu);
    }
    let (mut kid, mut kvn) = (None, None);
    for object in TlvReader::new(capdu.data) {
        let object = object?;
        match (object.tag.0, object.value) {
            (KID, [id]) if kid.is_none() => kid = Some(*id),
            (KVN, [version]) if kvn.is_none() => kvn = Some(*version),
            _ => return Err(wrong_data()),
        }
    }
    if kid.is_none() && kvn.is_none() {
        return Err(wrong_data());
    }
    domain.delete_keys(kvn, kid)?;
    // No additional data (GPC 11.2.3.1).
    out.u8(0x00)?;
    Ok(StatusWord::NO_ERROR)
}
