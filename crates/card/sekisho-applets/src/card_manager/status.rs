//! GET STATUS (GPC 11.4) and SET STATUS (GPC 11.10).

use sekisho_apdu::gp::{CardLifeCycle, RegistryEntry, TagList, tag};
use sekisho_apdu::tlv::TlvReader;
use sekisho_apdu::{CApdu, PartialAid, StatusWord, Writer};
use sekisho_os::{Entry, EntryKind, Module, Outcome, Place, Refusal, RegistryView, SecurityDomain};

use super::{CardManager, Cursor, wrong_data, wrong_p1p2};

/// P1: what is looked for (GPC Table 11-33); also of SET STATUS, whose status is to be set (GPC Table 11-86).
const ISSUER_SECURITY_DOMAIN: u8 = 0x80;
const APPLICATIONS: u8 = 0x40;
/// A security domain and what is within it; of SET STATUS alone.
const DOMAIN_AND_APPLICATIONS: u8 = 0x60;
const LOAD_FILES: u8 = 0x20;
const LOAD_FILES_AND_MODULES: u8 = 0x10;

/// P2 (GPC Table 11-34).
const GET_NEXT: u8 = 0x01;
const TAGGED: u8 = 0x02;

/// Most bytes of one answer: with padding and the R-MAC of S16 it still fits a short response.
const ANSWER_MAX: usize = 223;

/// P2 of SET STATUS for an application: lock (GPC 11.10.2.2).
const LOCK: u8 = 0x80;

impl CardManager {
    #[inline(never)]
    pub(super) fn get_status(
        &mut self,
        place: Place,
        (registry, life_cycle): (RegistryView<'_>, CardLifeCycle),
        capdu: &CApdu<'_>,
        mut version: impl FnMut(&Entry) -> Result<Option<u32>, Refusal>,
        out: &mut Writer<'_>,
    ) -> Outcome {
        let p1 = capdu.p1;
        if !matches!(
            p1,
            ISSUER_SECURITY_DOMAIN | APPLICATIONS | LOAD_FILES | LOAD_FILES_AND_MODULES
        ) {
            return Err(wrong_p1p2());
        }
        let mut nowhere = Cursor::NONE;
        let cursor = self.cursor(place.interface).unwrap_or(&mut nowhere);
        let start = start(*cursor, place, p1, capdu.p2)?;
        let (wanted, tags) = criteria(capdu.data)?;
        *cursor = Cursor::NONE;
        // The search criterion does not count for the issuer security domain (GPC 11.4.2.1).
        let fits = |entry: &Entry| p1 == ISSUER_SECURITY_DOMAIN || entry.aid.matches_partial(&wanted);
        for (index, entry) in registry.iter().filter(|(index, _)| *index >= start) {
            if !is_meant(p1, index, entry) || !fits(entry) {
                continue;
            }
            let before = out.len();
            let number = match entry.kind {
                EntryKind::ExecutableLoadFile { .. } if tags.names(tag::VERSION) => version(entry)?,
                _ => None,
            };
            let number = number.map(u32::to_be_bytes);
            // Two bytes, major and minor, as a CAP file has them.
            let shown = match &number {
                None => &[][..],
                Some([0, 0, short @ ..]) => short,
                Some(long) => long,
            };
            show((registry, life_cycle), p1, (index, entry), (tags, shown), out)?;
            if out.len() > ANSWER_MAX {
                out.truncate(before);
                *cursor = Cursor {
                    logical_channel: place.logical_channel,
                    p1,
                    next: index,
                };
                return Ok(StatusWord::MORE_DATA_AVAILABLE);
            }
        }
        if out.is_empty() {
            return Err(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND));
        }
        Ok(StatusWord::NO_ERROR)
    }
}

/// The registry index from which to look: 00 for the first occurrence, the cursor's for the next one.
fn start(cursor: Cursor, place: Place, p1: u8, p2: u8) -> Result<u8, Refusal> {
    match p2 & (TAGGED | GET_NEXT) {
        TAGGED => Ok(0),
        p2 if p2 == TAGGED | GET_NEXT && p1 != ISSUER_SECURITY_DOMAIN => {
            if (cursor.logical_channel, cursor.p1) == (place.logical_channel, p1) {
                Ok(cursor.next)
            } else {
                Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))
            }
        }
        _ => Err(wrong_p1p2()),
    }
}

/// The search criteria (GPC 11.4.2.3): an AID or its beginning, and a tag list if there is one. One that is not honoured is refused.
fn criteria(data: &[u8]) -> Result<(PartialAid, TagList<'_>), Refusal> {
    let (mut wanted, mut tags) = (None, TagList::ALL);
    for object in TlvReader::new(data) {
        let object = object?;
        match object.tag.0 {
            tag::AID if wanted.is_none() => {
                wanted = Some(PartialAid::try_from(object.value).map_err(|_| wrong_data())?);
            }
            tag::TAG_LIST => tags = TagList::parse(object.value)?,
            _ => return Err(wrong_data()),
        }
    }
    Ok((wanted.ok_or(wrong_data())?, tags))
}

/// Registry index of the issuer security domain.
const ISSUER_INDEX: u8 = 0;

fn is_meant(p1: u8, index: u8, entry: &Entry) -> bool {
    match entry.kind {
        EntryKind::Application if index == ISSUER_INDEX && entry.module == Module::CARD_MANAGER => {
            p1 == ISSUER_SECURITY_DOMAIN
        }
        EntryKind::Application => p1 == APPLICATIONS,
        EntryKind::ExecutableLoadFile { .. } => matches!(p1, LOAD_FILES | LOAD_FILES_AND_MODULES),
    }
}

fn show(
    (registry, life_cycle): (RegistryView<'_>, CardLifeCycle),
    p1: u8,
    (index, entry): (u8, &Entry),
    (tags, version): (TagList<'_>, &[u8]),
    out: &mut Writer<'_>,
) -> Result<(), Refusal> {
    let mut shown = RegistryEntry::new(entry.aid, entry.life_cycle);
    match &entry.kind {
        EntryKind::Application => {
            if p1 == ISSUER_SECURITY_DOMAIN {
                // It shows the card's state as its own (GPC 11.1.1).
                shown.life_cycle = life_cycle.to_byte();
            }
            shown.privileges = Some(entry.privileges);
            shown.secure_only = registry.is_secure_only(index);
            shown.access = Some(entry.access.to_byte());
            shown.implicit_selection = entry.implicit.bytes();
            shown.executable_load_file = registry.aid_of(entry.load_file);
        }
        EntryKind::ExecutableLoadFile { module_aid } if p1 == LOAD_FILES_AND_MODULES => {
            shown.modules = core::slice::from_ref(module_aid);
        }
        EntryKind::ExecutableLoadFile { .. } => {}
    }
    shown.version = version;
    shown.security_domain = registry.aid_of(entry.security_domain);
    Ok(shown.encode(tags, out)?)
}

#[inline(never)]
pub(super) fn set_status(domain: &mut SecurityDomain<'_, '_>, capdu: &CApdu<'_>) -> Outcome {
    match capdu.p1 {
        ISSUER_SECURITY_DOMAIN => {
            let next = CardLifeCycle::from_byte(capdu.p2).ok_or(wrong_p1p2())?;
            domain.open()?.set_life_cycle(next)?;
        }
        APPLICATIONS => domain.open()?.set_locked(capdu.data, capdu.p2 & LOCK != 0)?,
        DOMAIN_AND_APPLICATIONS => domain.open()?.set_all_locked(capdu.data, capdu.p2 & LOCK != 0)?,
        _ => return Err(wrong_p1p2()),
    }
    Ok(StatusWord::NO_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sekisho_apdu::gp::{ApplicationLifeCycle, Privileges};
    use sekisho_apdu::{Aid, Cla};
    use sekisho_os::{ENTRIES_MAX, EntryId, ImplicitSelection, Interface, InterfaceAccess, Registry};
    use std::vec::Vec;

    const PLACE: Place = Place {
        interface: Interface::Iso7816Contact,
        logical_channel: 0,
    };

    fn aid(last: u8) -> Aid {
        let mut bytes = [0xF0; 16];
        bytes[15] = last;
        Aid::try_from(&bytes[..]).unwrap()
    }

    /// As many applications as there can be, with AIDs as long as they can be.
    fn full_registry() -> Registry {
        let mut registry = Registry::empty();
        for (index, last) in (0..).zip(0..).take(ENTRIES_MAX) {
            let entry = Entry {
                id: EntryId::new(0x0100 + u16::from(index)).unwrap(),
                aid: aid(last),
                kind: EntryKind::Application,
                module: Module(9),
                life_cycle: ApplicationLifeCycle::SELECTABLE.0,
                privileges: Privileges::NONE,
                access: InterfaceAccess::ALL,
                implicit: ImplicitSelection::NONE,
                load_file: Some(0),
                security_domain: Some(0),
                secure_only: false,
                mark: sekisho_os::NotZero::Value,
            };
            registry.set(index, Some(entry));
        }
        registry
    }

    fn ask(manager: &mut CardManager, place: Place, registry: &Registry, p2: u8) -> (Vec<u8>, u16) {
        let mut buf = [0; 1024];
        let mut out = Writer::new(&mut buf);
        let capdu = CApdu::new(Cla::GP, 0xF2, APPLICATIONS, p2).with_data(&[0x4F, 0x00]);
        let outcome = manager.get_status(
            place,
            (registry.whole(), CardLifeCycle::Secured),
            &capdu,
            |_| Ok(None),
            &mut out,
        );
        let sw = outcome.unwrap_or_else(|refusal| refusal.0).0;
        (out.written().to_vec(), sw)
    }

    #[test]
    fn a_long_registry_comes_in_pieces_each_of_which_fits_a_short_response() {
        let registry = full_registry();
        let mut manager = <CardManager as sekisho_os::State>::NEW;
        let mut seen = Vec::new();
        let (mut p2, mut pieces) = (TAGGED, 0);
        loop {
            let (data, sw) = ask(&mut manager, PLACE, &registry, p2);
            assert!(data.len() <= ANSWER_MAX && !data.is_empty());
            for object in TlvReader::new(&data) {
                let entry = object.unwrap();
                assert_eq!(entry.tag.0, tag::REGISTRY_DATA);
                seen.push(sekisho_apdu::tlv::find(entry.value, tag::AID).unwrap().unwrap()[15]);
            }
            pieces += 1;
            if sw == 0x9000 {
                break;
            }
            assert_eq!(sw, 0x6310);
            p2 = TAGGED | GET_NEXT;
        }
        assert_eq!(seen, (0..16).collect::<Vec<u8>>());
        assert!(pieces > 2);
        // There is no next one behind the last.
        assert_eq!(ask(&mut manager, PLACE, &registry, TAGGED | GET_NEXT).1, 0x6985);
    }

    /// Four hosts, one on each interface, page at once, and each gets all of it.
    #[test]
    fn no_interface_disturbs_anothers_going_on() {
        let registry = full_registry();
        let mut manager = <CardManager as sekisho_os::State>::NEW;
        let places = Interface::ALL.map(|interface| Place { interface, ..PLACE });
        let mut seen = places.map(|_| Vec::new());
        while seen[0].last().is_none_or(|(_, sw)| *sw == 0x6310) {
            for (place, seen) in places.into_iter().zip(&mut seen) {
                let p2 = if seen.is_empty() {
                    TAGGED
                } else {
                    TAGGED | GET_NEXT
                };
                seen.push(ask(&mut manager, place, &registry, p2));
            }
        }
        assert!(seen[0].len() > 2 && seen.iter().all(|of| *of == seen[0]));
        // Who asks for something else, or begins again, on one of them does so there alone.
        for place in places {
            ask(&mut manager, place, &registry, TAGGED);
        }
        manager.forget(places[1]);
        assert_eq!(
            places.map(|place| ask(&mut manager, place, &registry, TAGGED | GET_NEXT).1),
            [0x6310, 0x6985, 0x6310, 0x6310]
        );
    }

    #[test]
    fn going_on_belongs_to_the_logical_channel_that_began() {
        let registry = full_registry();
        let mut manager = <CardManager as sekisho_os::State>::NEW;
        assert_eq!(ask(&mut manager, PLACE, &registry, TAGGED).1, 0x6310);
        let other = Place {
            logical_channel: 1,
            ..PLACE
        };
        assert_eq!(ask(&mut manager, other, &registry, TAGGED | GET_NEXT).1, 0x6985);
        assert_eq!(ask(&mut manager, PLACE, &registry, TAGGED | GET_NEXT).1, 0x6310);
    }
}
