use super::*;
use std::vec::Vec;

fn aid(bytes: &[u8]) -> Aid {
    Aid::try_from(bytes).unwrap()
}

const ID: EntryId = EntryId::FIRST;

fn app(bytes: &[u8]) -> Entry {
    Entry::application(ID, aid(bytes), Module(9), Privileges::NONE, 1, 0)
}

#[test]
fn records_come_back_as_they_were() {
    let file = Entry::load_file(ID, aid(&[3; 16]), Module::OS_PART, aid(&[4; 16]), 0);
    let closed = Entry {
        access: InterfaceAccess::CONTACT,
        ..file
    };
    for entry in [app(&[1; 5]), app(&[2; 16]), file, closed] {
        let mut buf = [0; ENTRY_RECORD_MAX];
        let mut w = Writer::new(&mut buf);
        entry.encode(&mut w).unwrap();
        assert_eq!(Entry::decode(3, w.written()), Ok(entry));
        let len = w.len();
        for cut in 0..len.min(15) {
            assert!(Entry::decode(3, &buf[..cut]).is_err());
        }
    }
}

/// The records of docs/spec/content.md, 2.2.
#[test]
fn the_records_of_the_page() {
    let page = include_str!("../../../../../docs/spec/content.md");
    let records = page
        .split("```entry\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let none = ImplicitSelection::NONE;
    let at = |bytes: &[u8]| bytes.iter().fold(none, |all, one| all.with(*one).unwrap());
    let kinds = [
        (InterfaceAccess::CONTACT, none),
        (InterfaceAccess::CONTACTLESS, none),
        (InterfaceAccess::ALL, none),
        (InterfaceAccess::CONTACT, at(&[0x40])),
        (InterfaceAccess::ALL, at(&[0x41, 0x40, 0xC2])),
    ];
    assert_eq!(records.lines().count(), kinds.len());
    for (line, (access, implicit)) in records.lines().zip(kinds) {
        let digits: Vec<u8> = line.bytes().filter(|byte| *byte != b' ').collect();
        let digits = digits.chunks(2).map(|two| core::str::from_utf8(two).unwrap());
        let record: Vec<u8> = digits.map(|two| u8::from_str_radix(two, 16).unwrap()).collect();
        let entry = Entry {
            access,
            implicit,
            ..Entry::application(
                EntryId::new(0x0105).unwrap(),
                aid(b"\xF0SKDOOR\x01"),
                Module(0x70),
                Privileges::NONE,
                4,
                0,
            )
        };
        let mut buf = [0; ENTRY_RECORD_MAX];
        let mut w = Writer::new(&mut buf);
        entry.encode(&mut w).unwrap();
        assert_eq!(w.written(), record);
        assert_eq!(Entry::decode(9, &record), Ok(entry));
        // No interface, one that there is not: no record.
        if record[0] >= FORMAT_WITH_ACCESS {
            for byte in [0x00, 0x20, 0x81, 0xFF] {
                let mut wrong = record.clone();
                wrong[11] = byte;
                assert!(Entry::decode(9, &wrong).is_err());
            }
        }
    }
}

/// The record of version 0.1, byte by byte.
#[test]
fn an_entry_of_the_first_version_is_who_its_index_says() {
    let first = [1, 0, 9, 0x07, 0, 0, 0, 1, 0, 5, 1, 1, 1, 1, 1];
    let entry = Entry::decode(5, &first).unwrap();
    assert_eq!(
        entry,
        Entry {
            id: EntryId::of_0_1(5),
            ..app(&[1; 5])
        }
    );
    assert_ne!(Entry::decode(6, &first).unwrap().id, entry.id);
    // An identity that is a container's is none.
    let second = [2, 0, 9, 0x07, 0, 0, 0, 1, 0, 0x00, 0xFF, 5, 1, 1, 1, 1, 1];
    assert!(Entry::decode(5, &second).is_err());
}

/// On a logical channel, and inside the TLS session there.
const PLAIN: Place = Place {
    interface: Interface::Spi,
    logical_channel: 0,
};
const INSIDE: Place = PLAIN.on(crate::interface::CHANNELS_MAX);

/// The byte of the kind has a bit more; all else stands where it stood.
#[test]
fn a_mark_is_one_bit_of_the_record() {
    let record = |entry: Entry| {
        let mut buf = [0; ENTRY_RECORD_MAX];
        let mut w = Writer::new(&mut buf);
        entry.encode(&mut w).unwrap();
        let len = w.len();
        (buf, len)
    };
    let plain = app(&[1; 5]);
    let marked = Entry {
        secure_only: true,
        ..plain
    };
    let ((mut expected, len), (written, _)) = (record(plain), record(marked));
    assert_eq!(expected[1], 0);
    expected[1] = SECURE_ONLY;
    assert_eq!(written, expected);
    assert_eq!(Entry::decode(3, &written[..len]), Ok(marked));
    expected[1] = SECURE_ONLY | 2;
    assert!(Entry::decode(3, &expected[..len]).is_err());
}

#[test]
fn what_a_domain_is_holds_for_all_within_it_and_never_for_the_root() {
    let mut registry = Registry::empty();
    let within = |aid: u8, domain| Entry {
        security_domain: Some(domain),
        ..app(&[aid; 5])
    };
    registry.set(0, Some(within(0, 0)));
    for (index, domain) in [(4, 0), (5, 4), (6, 5), (7, 6), (8, 0)] {
        registry.set(index, Some(within(index, domain)));
    }
    let marked = |registry: &mut Registry, index: u8| {
        let entry = *registry.get(index).unwrap();
        let secure_only = true;
        registry.set(index, Some(Entry { secure_only, ..entry }));
    };
    let hidden = |registry: &Registry| (0..9).filter(|index| !registry.shows(*index, PLAIN)).collect();
    let nobody: Vec<u8> = hidden(&registry);
    assert!(nobody.is_empty());
    marked(&mut registry, 5);
    assert_eq!(hidden(&registry), [5, 6, 7]);
    marked(&mut registry, 0);
    assert_eq!(hidden(&registry), [4, 5, 6, 7, 8]);
    assert!((0..9).all(|index| registry.shows(index, INSIDE)));
    let name = PartialAid::try_from(&[6; 5][..]).unwrap();
    assert!(registry.find(&name, None, PLAIN).is_none());
    assert!(registry.find(&name, None, INSIDE).is_some());
}

#[test]
fn search_goes_by_index_and_passes_what_cannot_be_selected() {
    let mut registry = Registry::empty();
    registry.set(
        0,
        Some(Entry::load_file(ID, aid(&[1; 5]), Module(1), aid(&[1; 6]), 0)),
    );
    registry.set(3, Some(app(&[1, 1, 1, 1, 1, 3])));
    registry.set(
        5,
        Some(Entry {
            life_cycle: 0x87,
            ..app(&[1, 1, 1, 1, 1, 5])
        }),
    );
    registry.set(7, Some(app(&[1, 1, 1, 1, 1, 7])));
    let rid = PartialAid::try_from(&[1; 5][..]).unwrap();
    let find = |after| {
        registry
            .find(&rid, after, PLAIN)
            .map(|entry| entry.aid.as_bytes()[5])
    };
    assert_eq!(find(None), Some(3));
    assert_eq!(find(Some(3)), Some(7));
    assert_eq!(find(Some(7)), None);
    let full = PartialAid::try_from(&[1, 1, 1, 1, 1, 7][..]).unwrap();
    assert_eq!(
        registry
            .find(&full, None, PLAIN)
            .map(|entry| entry.aid.as_bytes()[5]),
        Some(7)
    );
    assert_eq!(registry.applications().count(), 3);
}
