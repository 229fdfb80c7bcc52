//! GET DATA (GPC 11.3) and the FCI.

use sekisho_apdu::gp::{Privileges, TagList, tag};
use sekisho_apdu::tlv::Tlv;
use sekisho_apdu::{BufferFull, CApdu, StatusWord, Writer};
use sekisho_os::{
    CIN, IIN, MESSAGING_POLICY, Outcome, PlatformServices, Refusal, RegistryView, SecurityDomain,
};

use super::wrong_data;

/// Tags of P1P2, beside [`IIN`] and [`CIN`].
const CARD_DATA: u16 = 0x0066;
const CARD_CAPABILITIES: u16 = 0x0067;
const SEQUENCE_COUNTER: u16 = 0x00C1;
/// Confirmation counter: receipts of delegated management given so far (GPC 11.3.3.1).
const CONFIRMATION_COUNTER: u16 = 0x00C2;
const KEY_DIVERSIFICATION_DATA: u16 = 0x00CF;
const SECURITY_LEVEL: u16 = 0x00D3;
/// P2 of key information; P1 is the number of the template.
const KEY_INFORMATION: u8 = 0xE0;
const LIST_OF_APPLICATIONS: u16 = 0x2F00;
const CPLC: u16 = 0x9F7F;
/// Broadcast update, 2.4.
const UPDATE_STATE: u16 = 0xDF20;
const RECEIPT: u16 = 0xDF21;
const KEY_STATE: u16 = 0xDF22;
const REFUSAL: u16 = 0xDF23;
/// Routing, 5.
const PAIRING: u16 = 0xDF24;
/// Card, 3.
const RESETS: u16 = 0xDF25;
const EXTENDED_CARD_RESOURCES: u16 = 0xFF21;

/// Template of card recognition data (GPC H.2).
const CARD_RECOGNITION_DATA: u32 = 0x73;

/// Card recognition data up to the last byte, which is "i" (GPC Table H-1): OIDs of GlobalPlatform {1}, card management {2 2 3 1},
/// identification scheme {3} and secure channel protocol {4 3 i}.
const RECOGNITION: [u8; 46] = [
    0x06, 0x07, 0x2A, 0x86, 0x48, 0x86, 0xFC, 0x6B, 0x01, //
    0x60, 0x0C, 0x06, 0x0A, 0x2A, 0x86, 0x48, 0x86, 0xFC, 0x6B, 0x02, 0x02, 0x03, 0x01, //
    0x63, 0x09, 0x06, 0x07, 0x2A, 0x86, 0x48, 0x86, 0xFC, 0x6B, 0x03, //
    0x64, 0x0B, 0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xFC, 0x6B, 0x04, 0x03,
];

/// Supported keys for SCP03: AES-128, -192, -256 (GPC Table H-7).
const SCP03_KEYS: u8 = 0x07;
/// Supported load file data block hash algorithms: SHA-256 (GPC H.4).
const SHA_256: u8 = 0x02;

/// The date of everything in the production data, as the SE has no calendar: day 330 of a year that ends in 6, when this operating
/// system was released (one digit of the year, three of the day, in BCD).
const RELEASE_DATE: [u8; 2] = [0x63, 0x30];

/// Longest stored data object.
pub(super) const STORED_MAX: usize = 32;

fn recognition(domain: &SecurityDomain<'_, '_>, w: &mut Writer<'_>) -> Result<(), BufferFull> {
    w.tlv_with(CARD_RECOGNITION_DATA, |w| {
        w.bytes(&RECOGNITION)?;
        w.u8(domain.scp_parameter().byte())
    })
}

/// The FCI of the issuer security domain (GPC Table 11-82).
pub(super) fn file_control_information(
    domain: &SecurityDomain<'_, '_>,
    out: &mut Writer<'_>,
) -> Result<(), BufferFull> {
    out.tlv_with(tag::FCI, |w| {
        w.tlv(tag::DF_NAME, domain.aid().as_bytes())?;
        w.tlv_with(tag::FCI_PROPRIETARY, |w| {
            recognition(domain, w)?;
            // GlobalPlatform's own commands are short (GPC 11.1.5); longer ones are a matter between host and application.
            w.tlv(tag::MAX_COMMAND_LENGTH, &[0xFF])
        })
    })
}

/// The class decides about the form: GlobalPlatform's gets the data object, ISO's its value alone (GPC 11.3.3.1).
#[inline(never)]
pub(super) fn process(
    domain: &mut SecurityDomain<'_, '_>,
    capdu: &CApdu<'_>,
    out: &mut Writer<'_>,
) -> Outcome {
    let tag = match capdu.p1p2() {
        LIST_OF_APPLICATIONS => {
            applications(domain, tag_list(capdu.data)?, out)?;
            return Ok(StatusWord::NO_ERROR);
        }
        // P1 counts the templates (GPC 11.3.3.1.1).
        _ if capdu.p2 == KEY_INFORMATION => KEY_INFORMATION.into(),
        tag => tag,
    };
    if capdu.cla.proprietary() {
        out.tlv_with(tag.into(), |w| value(domain, capdu, w))?;
    } else {
        value(domain, capdu, out)?;
    }
    Ok(StatusWord::NO_ERROR)
}

/// The tag list of a command's data field; all tags when it has none.
fn tag_list(data: &[u8]) -> Result<TagList<'_>, Refusal> {
    match Tlv::parse(data) {
        _ if data.is_empty() => Ok(TagList::ALL),
        Ok(list) if list.tag.0 == tag::TAG_LIST => Ok(TagList::parse(list.value)?),
        _ => Err(wrong_data()),
    }
}

fn value(domain: &mut SecurityDomain<'_, '_>, capdu: &CApdu<'_>, w: &mut Writer<'_>) -> Result<(), Refusal> {
    let tag = capdu.p1p2();
    match tag {
        _ if capdu.p2 == KEY_INFORMATION => domain.key_information(capdu.p1, w),
        IIN | CIN => domain.identification(tag, w),
        MESSAGING_POLICY => messaging_policy(domain, w),
        CARD_DATA => Ok(recognition(domain, w)?),
        CARD_CAPABILITIES => Ok(capabilities(domain, w)?),
        CONFIRMATION_COUNTER => confirmation_counter(domain, w),
        SEQUENCE_COUNTER => Ok(w.u24(domain.sequence_counter()?)?),
        KEY_DIVERSIFICATION_DATA => Ok(w.bytes(domain.se_id())?),
        SECURITY_LEVEL => Ok(w.u8(domain.security_level())?),
        CPLC => Ok(production_data(domain.se_id(), w)?),
        EXTENDED_CARD_RESOURCES => resources(domain, w),
        UPDATE_STATE => platform(domain)?.update_state(w),
        RECEIPT => platform(domain)?.receipt(w),
        KEY_STATE => platform(domain)?.key_state(w),
        REFUSAL => platform(domain)?.refusal(w),
        PAIRING => platform(domain)?.pairing(w),
        RESETS => platform(domain)?.resets(w),
        _ => Err(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND)),
    }
}

/// What is the whole card's is no data object of a domain that may not see it.
fn registry<'d>(domain: &'d SecurityDomain<'_, '_>) -> Result<RegistryView<'d>, Refusal> {
    let hidden = Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND);
    Some(domain.registry())
        .filter(|registry| registry.is_whole())
        .ok_or(hidden)
}

/// What is the platform's is nobody's data object but the eSE's.
fn platform<'c, 'a>(domain: &'c mut SecurityDomain<'_, 'a>) -> Result<PlatformServices<'c, 'a>, Refusal> {
    domain
        .platform()
        .ok_or(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND))
}

fn messaging_policy(domain: &mut SecurityDomain<'_, '_>, w: &mut Writer<'_>) -> Result<(), Refusal> {
    let mut bytes = [0; STORED_MAX];
    let len = domain.data_object(MESSAGING_POLICY, &mut bytes)?;
    let len = len.ok_or(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND))?;
    Ok(w.bytes(bytes.get(..len).unwrap_or_default())?)
}

/// What has been confirmed so far; 0000 where nothing was.
fn confirmation_counter(domain: &mut SecurityDomain<'_, '_>, w: &mut Writer<'_>) -> Result<(), Refusal> {
    let mut counter = [0; 2];
    domain.data_object(CONFIRMATION_COUNTER, &mut counter)?;
    Ok(w.bytes(&counter)?)
}

/// Card capability information (GPC H.4). A security domain can have the privilege that makes it one, those of DAP verification and Delegated Management, Global Delete, Global Lock and, as an application, Card Reset.
fn capabilities(domain: &SecurityDomain<'_, '_>, w: &mut Writer<'_>) -> Result<(), BufferFull> {
    w.tlv_with(0xA0, |w| {
        w.tlv(0x80, &[0x03])?;
        w.tlv(0x81, &[domain.scp_parameter().byte()])?;
        w.tlv(0x82, &[SCP03_KEYS])
    })?;
    let domains = Privileges::MANDATED_DAP_VERIFICATION
        .union(Privileges::DELEGATED_MANAGEMENT)
        .union(Privileges::GLOBAL_DELETE)
        .union(Privileges::GLOBAL_LOCK)
        .union(Privileges::CARD_RESET);
    w.tlv(0x81, &domains.to_bytes())?;
    w.tlv(0x82, &Privileges::CARD_RESET.to_bytes())?;
    w.tlv(0x83, &[SHA_256])
}

fn applications(
    domain: &SecurityDomain<'_, '_>,
    tags: TagList<'_>,
    w: &mut Writer<'_>,
) -> Result<(), Refusal> {
    let all = registry(domain)?.applications();
    for (_, entry) in all.filter(|(index, entry)| domain.tells_of(*index, entry)) {
        w.tlv_with(0x61, |w| {
            if tags.names(tag::AID) {
                w.tlv(tag::AID, entry.aid.as_bytes())
            } else {
                Ok(())
            }
        })?;
    }
    Ok(())
}

/// Card production life cycle data, 42 bytes. What the SE does not know of its making is zero; the serial number is from the SE-id.
fn production_data(se_id: &[u8; 10], w: &mut Writer<'_>) -> Result<(), BufferFull> {
    let [.., b0, b1, s0, s1, s2, s3] = *se_id;
    let date = &RELEASE_DATE;
    // IC fabricator, IC type, operating system id, its release date and level, IC fabrication date.
    w.bytes(&[0, 0, 0, 0, b'S', b'K'])?;
    w.bytes(date)?;
    w.bytes(&[0, 1])?;
    w.bytes(date)?;
    // IC serial number, IC batch.
    w.bytes(&[s0, s1, s2, s3, b0, b1])?;
    // Module, embedding, pre-personalisation and personalisation: who, when, and for the last two on which equipment.
    for equipment in [&[][..], &[], &[0; 4], &[0; 4]] {
        w.bytes(&[0, 0])?;
        w.bytes(date)?;
        w.bytes(equipment)?;
    }
    Ok(())
}

/// Extended card resources information (ETSI TS 102 226, 8.2.1.7.2): applications, free non-volatile and volatile memory.
fn resources(domain: &SecurityDomain<'_, '_>, w: &mut Writer<'_>) -> Result<(), Refusal> {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    let [.., applications] = number(registry(domain)?.applications().count());
    w.tlv(0x81, &[applications])?;
    w.tlv(0x82, &number(domain.free_nvm()?))?;
    Ok(w.tlv(0x83, &number(domain.free_ram()))?)
}
