//! INSTALL (GPC 11.5) and DELETE of applications (GPC 11.2): `docs/spec/content.md`. What comes in several commands (P1, bit 8) has been put together before.

use sekisho_apdu::gp::{ApplicationLifeCycle, Install, InstallForLoad, Privileges, purpose, tag};
use sekisho_apdu::tlv::{Tlv, TlvReader, find};
use sekisho_apdu::{CApdu, Reader, StatusWord, Writer};
use sekisho_os::{
    CIN, ContentManagement, EntryId, IIN, ImplicitSelection, InterfaceAccess, NewApplication, NewLoadFile,
    Outcome, Quota, Refusal, RegistryUpdate, SecurityDomain, Token,
};

use super::{wrong_data, wrong_p1p2};

/// IIN and CIN in the reference of a token.
const TOKEN_IIN: u32 = IIN as u32;
const TOKEN_CIN: u32 = CIN as u32;

/// Data objects of the system's parameters (GPC Table 11-49): memory for code and for what is volatile, which the product fixes.
const FIXED: [u32; 2] = [0xC6, 0xC7];
/// Room for records, as a limit and reserved: [`Quota`].
const NON_VOLATILE: [u32; 2] = [0xC8, 0xD8];

/// Data objects of a security domain's own parameters (GPC 11.5.2.3.7): secure channel protocol and "i"; who may extradite to it, delete it, extradite from it.
const SECURE_CHANNEL: u32 = 0x81;
const POLICIES: [u32; 3] = [0x82, 0x83, 0x87];
const SCP03: u8 = 0x03;

/// Nothing to say (GPC 11.5.3.1).
const NO_RECEIPT: u8 = 0x00;

#[inline(never)]
pub(super) fn install(
    domain: &mut SecurityDomain<'_, '_>,
    capdu: &CApdu<'_>,
    out: &mut Writer<'_>,
) -> Outcome {
    let life_cycle = match (capdu.p1, capdu.p2) {
        (purpose::LOAD, 0) => return install_for_load(domain, capdu),
        (purpose::REGISTRY_UPDATE, 0) => return registry_update(domain, capdu, out),
        (purpose::INSTALL, 0) => Some(ApplicationLifeCycle::INSTALLED),
        (purpose::INSTALL_AND_MAKE_SELECTABLE, 0) => Some(ApplicationLifeCycle::SELECTABLE),
        (purpose::MAKE_SELECTABLE | purpose::EXTRADITION, 0) => None,
        _ => return Err(wrong_p1p2()),
    };
    let fields = Install::parse(capdu.data)?;
    let privileges = fields.privileges()?;
    let mut content = domain.content(&token(capdu, fields.signed, fields.token))?;
    check_parameters(&mut content, fields.parameters, privileges, capdu.p1)?;
    let system = once(fields.parameters, tag::SYSTEM_PARAMETERS)?.unwrap_or_default();
    match life_cycle {
        // A field that has no meaning for the purpose.
        None if !fields.module.is_empty() => return Err(wrong_data()),
        None if capdu.p1 == purpose::EXTRADITION && fields.privileges.is_empty() => {
            content.extradite(fields.load_file, fields.application, out)?;
        }
        None if capdu.p1 == purpose::EXTRADITION || !fields.load_file.is_empty() => return Err(wrong_data()),
        None => content.make_selectable(fields.application, privileges, implicit(system)?, out)?,
        Some(life_cycle) => content.install(&NewApplication {
            load_file: fields.load_file,
            module: fields.module,
            // Without an AID of its own it has the module's (GPC 11.5.2.3.2).
            aid: match fields.application {
                [] => fields.module,
                aid => aid,
            },
            privileges,
            life_cycle,
            access: access(system)?.unwrap_or(InterfaceAccess::CONTACT),
            implicit: implicit(system)?.unwrap_or(ImplicitSelection::NONE),
            quota: Quota::of_parameters(system)?,
            secure_only: find(system, tag::SECURE_ONLY)?.is_some(),
        })?,
    }
    Ok(StatusWord::NO_ERROR)
}

/// Data object of the system's parameters: least memory for code (GPC Table 11-49), as a number of two or four bytes.
const CODE: u32 = 0xC6;

fn install_for_load(domain: &mut SecurityDomain<'_, '_>, capdu: &CApdu<'_>) -> Outcome {
    let fields = InstallForLoad::parse(capdu.data)?;
    let mut content = domain.content(&token(capdu, fields.signed, fields.token))?;
    if content.authorisation().is_delegated() && fields.hash.is_empty() {
        // Without it the token would be for whatever comes (GPC C.4.1).
        return Err(wrong_data());
    }
    let mut code = 0;
    for object in TlvReader::new(fields.parameters) {
        let object = object?;
        if object.tag.0 == tag::TOKEN_REFERENCE {
            token_reference(&mut content, object.value)?;
            continue;
        }
        if object.tag.0 != tag::SYSTEM_PARAMETERS {
            return Err(wrong_data());
        }
        check_all(object.value, |object| {
            FIXED.contains(&object.tag.0) || NON_VOLATILE.contains(&object.tag.0)
        })?;
        code = match find(object.value, CODE)? {
            None => code,
            Some([a, b]) => u16::from_be_bytes([*a, *b]).into(),
            Some(bytes) => u32::from_be_bytes(bytes.try_into().map_err(|_| wrong_data())?),
        };
    }
    content.begin_load(&NewLoadFile {
        aid: fields.load_file,
        domain: fields.security_domain,
        hash: fields.hash,
        code,
    })?;
    Ok(StatusWord::NO_ERROR)
}

/// INSTALL for registry update: a field that is empty changes nothing.
fn registry_update(domain: &mut SecurityDomain<'_, '_>, capdu: &CApdu<'_>, out: &mut Writer<'_>) -> Outcome {
    let fields = Install::parse(capdu.data)?;
    let privileges = fields.privileges()?;
    let mut content = domain.content(&token(capdu, fields.signed, fields.token))?;
    let (mut access, mut implicit) = (None, None);
    for object in TlvReader::new(fields.parameters) {
        let object = object?;
        match object.tag.0 {
            tag::TOKEN_REFERENCE => token_reference(&mut content, object.value)?,
            tag::SYSTEM_PARAMETERS if access.is_none() && implicit.is_none() => {
                let known = [tag::CONTACTLESS_PROTOCOL, tag::IMPLICIT_SELECTION];
                check_all(object.value, |object| known.contains(&object.tag.0))?;
                access = self::access(object.value)?;
                implicit = self::implicit(object.value)?;
                if access.is_none() && implicit.is_none() {
                    return Err(wrong_data());
                }
            }
            _ => return Err(wrong_data()),
        }
    }
    if !fields.module.is_empty() {
        return Err(wrong_data());
    }
    let update = RegistryUpdate {
        application: fields.application,
        domain: fields.load_file,
        privileges: Some(privileges).filter(|_| !fields.privileges.is_empty()),
        access,
        implicit,
        fields: [fields.privileges, fields.parameters],
    };
    content.update(&update, out)?;
    Ok(StatusWord::NO_ERROR)
}

/// INSTALL for personalisation: the application that STORE DATA is for from here on; no other field has a meaning.
#[inline(never)]
pub(super) fn install_for_personalisation(
    domain: &mut SecurityDomain<'_, '_>,
    capdu: &CApdu<'_>,
    out: &mut Writer<'_>,
) -> Result<EntryId, Refusal> {
    if capdu.p2 != 0 {
        return Err(wrong_p1p2());
    }
    let fields = Install::parse(capdu.data)?;
    let others = [
        fields.load_file,
        fields.module,
        fields.privileges,
        fields.parameters,
        fields.token,
    ];
    if others.iter().any(|field| !field.is_empty()) {
        return Err(wrong_data());
    }
    let application = domain.to_personalise(fields.application)?;
    out.u8(NO_RECEIPT)?;
    Ok(application)
}

/// P1 of LOAD: the last block (GPC Table 11-56).
const LAST_BLOCK: u8 = 0x80;

/// LOAD (GPC 11.6): a block of a load file, whose number is P2.
#[inline(never)]
pub(super) fn load(domain: &mut SecurityDomain<'_, '_>, capdu: &CApdu<'_>) -> Outcome {
    if capdu.p1 & !LAST_BLOCK != 0 {
        return Err(wrong_p1p2());
    }
    domain.content_under_way()?.load(capdu.p2, capdu.p1 == LAST_BLOCK);
    Ok(StatusWord::NO_ERROR)
}

/// 6A80 for parameters that would have a meaning and have none here, or none for this purpose.
fn check_parameters(
    content: &mut ContentManagement<'_, '_>,
    parameters: &[u8],
    privileges: Privileges,
    of: u8,
) -> Result<(), Refusal> {
    let installs = of & purpose::INSTALL != 0;
    let is_made_selectable = of & purpose::MAKE_SELECTABLE != 0;
    for object in TlvReader::new(parameters) {
        let object = object?;
        match object.tag.0 {
            tag::APPLICATION_PARAMETERS if privileges.contains(Privileges::SECURITY_DOMAIN) => {
                check_all(object.value, is_domains)?;
            }
            tag::APPLICATION_PARAMETERS => {}
            tag::TOKEN_REFERENCE => token_reference(content, object.value)?,
            tag::SYSTEM_PARAMETERS => check_all(object.value, |object| match object.tag.0 {
                tag::CONTACTLESS_PROTOCOL => installs,
                tag::IMPLICIT_SELECTION => installs || is_made_selectable,
                tag::SECURE_ONLY => installs && is_secure_only(object),
                tag => FIXED.contains(&tag) || installs && NON_VOLATILE.contains(&tag),
            })?,
            _ => return Err(wrong_data()),
        }
    }
    Ok(())
}

/// On which interfaces the parameters say that the application answers; nothing else that contactless protocol parameters can say has a meaning here.
fn access(system: &[u8]) -> Result<Option<InterfaceAccess>, Refusal> {
    let Some(protocol) = once(system, tag::CONTACTLESS_PROTOCOL)? else {
        return Ok(None);
    };
    let interface = only(protocol, tag::COMMUNICATION_INTERFACE)?;
    match only(interface, tag::INTERFACE_ACCESS)? {
        [byte] => Ok(Some(InterfaceAccess::from_byte(*byte).ok_or(wrong_data())?)),
        _ => Err(wrong_data()),
    }
}

/// Where the parameters say that the application is selected without being named: all places, of however many data objects.
fn implicit(system: &[u8]) -> Result<Option<ImplicitSelection>, Refusal> {
    let mut found = None;
    for object in TlvReader::new(system) {
        let object = object?;
        if object.tag.0 == tag::IMPLICIT_SELECTION {
            let [byte] = object.value else {
                return Err(wrong_data());
            };
            let before = found.unwrap_or(ImplicitSelection::NONE);
            found = Some(before.with(*byte).ok_or(wrong_data())?);
        }
    }
    Ok(found)
}

/// The value of a data object that may be there once.
fn once(objects: &[u8], tag: u32) -> Result<Option<&[u8]>, Refusal> {
    let mut found = None;
    for object in TlvReader::new(objects) {
        let object = object?;
        if object.tag.0 == tag && found.replace(object.value).is_some() {
            return Err(wrong_data());
        }
    }
    Ok(found)
}

/// The value of the one data object that there is.
fn only(objects: &[u8], tag: u32) -> Result<&[u8], Refusal> {
    let object = Tlv::parse(objects)?;
    Some(object.value)
        .filter(|_| object.tag.0 == tag)
        .ok_or(wrong_data())
}

/// A command with its token.
const fn token<'d>(capdu: &CApdu<'_>, data: &'d [u8], signature: &'d [u8]) -> Token<'d> {
    Token {
        p1: capdu.p1,
        p2: capdu.p2,
        data,
        signature,
    }
}

/// What a token says beside its command: for which SE it is, and its number (GPC Table 11-49). Without a token nothing could be meant by it.
fn token_reference(content: &mut ContentManagement<'_, '_>, template: &[u8]) -> Result<(), Refusal> {
    if !content.authorisation().is_delegated() {
        return Err(wrong_data());
    }
    for object in TlvReader::new(template) {
        let object = object?;
        match (object.tag.0, object.value) {
            (TOKEN_IIN, value) => content.check_issuer(IIN, value)?,
            (TOKEN_CIN, value) => content.check_issuer(CIN, value)?,
            (tag::TOKEN_NUMBER, number) => content.use_number(number)?,
            _ => return Err(wrong_data()),
        }
    }
    Ok(())
}

fn check_all(objects: &[u8], is_known: impl Fn(&Tlv<'_>) -> bool) -> Result<(), Refusal> {
    for object in TlvReader::new(objects) {
        if !is_known(&object?) {
            return Err(wrong_data());
        }
    }
    Ok(())
}

/// Secure-only cannot be said but so: what is not has no such object.
fn is_secure_only(object: &Tlv<'_>) -> bool {
    object.value == [0x01]
}

/// SCP03 is what every domain has, with the SE's "i", and what the policies are about there is not.
fn is_domains(object: &Tlv<'_>) -> bool {
    match (object.tag.0, object.value) {
        (SECURE_CHANNEL, [SCP03, _]) => true,
        (tag, _) => POLICIES.contains(&tag),
    }
}

/// P2 of DELETE: what it names, and what comes from it (GPC Table 11-23).
const RELATED: u8 = 0x80;

/// DELETE of what has an AID, which comes first in the data field; what a token says, and the token, which comes last.
pub(super) fn delete(domain: &mut SecurityDomain<'_, '_>, capdu: &CApdu<'_>) -> Outcome {
    let mut reader = Reader::new(capdu.data);
    let aid = Tlv::read(&mut reader)?.value;
    let (mut reference, mut signature, mut signed) = (None, None, capdu.data);
    while !reader.is_empty() && signature.is_none() {
        let before = capdu.data.len() - reader.len();
        let object = Tlv::read(&mut reader)?;
        match object.tag.0 {
            tag::TOKEN_REFERENCE if reference.is_none() => reference = Some(object.value),
            tag::DELETE_TOKEN => {
                signature = Some(object.value);
                signed = capdu.data.get(..before).unwrap_or_default();
            }
            _ => return Err(wrong_data()),
        }
    }
    reader.finish()?;
    let mut content = domain.deletion(&token(capdu, signed, signature.unwrap_or_default()))?;
    if let Some(template) = reference {
        token_reference(&mut content, template)?;
    }
    content.delete(aid, capdu.p2 & RELATED != 0)?;
    Ok(StatusWord::NO_ERROR)
}

/// Whether DELETE names an AID.
pub(super) fn is_by_aid(capdu: &CApdu<'_>) -> bool {
    let first = TlvReader::new(capdu.data).next();
    first.is_some_and(|object| object.is_ok_and(|object| object.tag.0 == tag::AID))
}
