//! An SE with a file system and a TLS Manager, personalised through its root's secure channel.

use sekisho_apdu::Aid;
use sekisho_applets::file_system::{self, image::Image};
use sekisho_applets::{DOMAINS, Standard, WithTls, tls_manager};
use sekisho_nvm::Ram;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    AllInterfaces, ContainerId, Containers, FactoryApplication, Interface, InterfacesWithTls, Module,
    Pairing, Personalisation, Platform, Profile, Protocol, Row, SecureElement,
};
use sekisho_scp::SecurityLevel;

use crate::askers::{ASKER, ASKER_FILE, ASKERS, Source, WithAskers};
use crate::common::host::Host;
use crate::common::script::Line;
use crate::common::*;
use crate::pki::{Certified, Pki};

/// A product with a TLS Manager, and room for what comes out of its sessions.
pub(crate) struct Product;

impl Platform for Product {
    type Flash = RamFlash;
    type Rng = Source;
    type Applications = WithAskers<WithTls<Standard<2, 0, DOMAINS>>>;
    type Interfaces = InterfacesWithTls<AllInterfaces>;
    type Containers = Containers<2>;
    type Index = Ram<128, 16, 16>;
}

pub(crate) type Se = SecureElement<Product>;

/// The same without room for what comes out of sessions.
pub(crate) struct WithoutRoom;

impl Platform for WithoutRoom {
    type Flash = RamFlash;
    type Rng = Source;
    type Applications = WithAskers<WithTls<Standard<1, 0, DOMAINS>>>;
    type Interfaces = AllInterfaces;
    type Containers = Containers<1>;
    type Index = Ram<128, 16, 16>;
}

pub(crate) const PORT: Interface = Interface::Spi;

/// The file system's and the root's AIDs.
pub(crate) const FILES: &[u8] = file_system::AID;
pub(crate) const ROOT: &[u8] = &[0xA0, 0, 0, 1, 0x51, 0, 0, 0];

/// With nothing in its TLS Manager.
pub(crate) fn empty() -> Box<Se> {
    made()
}

/// The same of any product.
pub(crate) fn made<P: Platform<Flash = RamFlash, Rng = Source>>() -> Box<SecureElement<P>> {
    made_with(&profile(), false)
}

/// With a second container, which SPI is paired with by a rule and which has the first of those that ask alone.
pub(crate) fn with_a_second(rule: fn(ContainerId) -> Row) -> Box<Se> {
    let second = rule(ContainerId::new(2).unwrap());
    let profile = Profile {
        pairing: Pairing::all_to(ContainerId::ESE).with(Protocol::SpiEse, second),
        ..profile()
    };
    made_with(&profile, true)
}

fn made_with<P: Platform<Flash = RamFlash, Rng = Source>>(
    profile: &Profile,
    second: bool,
) -> Box<SecureElement<P>> {
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let image = Image::of_test_card().unwrap();
    let records: Vec<_> = image.iter().collect();
    let application = |aid, load_file, module, records| FactoryApplication {
        aid: Aid::try_from(aid).unwrap(),
        load_file: Aid::try_from(load_file).unwrap(),
        module,
        records,
    };
    let applications = [
        application(
            file_system::AID,
            file_system::LOAD_FILE_AID,
            Module::FILE_SYSTEM,
            &records[..],
        ),
        application(
            tls_manager::AID,
            tls_manager::LOAD_FILE_AID,
            Module::TLS_MANAGER,
            &[],
        ),
        application(ASKERS[0], ASKER_FILE, ASKER, &[]),
        application(ASKERS[1], ASKER_FILE, ASKER, &[]),
    ];
    let (others, own) = applications.split_at(2);
    let first = Personalisation {
        applications: if second { others } else { &applications },
        ..personalisation(0xFF, &keys, &k_aut)
    };
    let other = Personalisation {
        applications: &own[..1],
        ..personalisation(0xFF, &keys, &k_aut)
    };
    let both = [&first, &other];
    let mut se = Box::new(SecureElement::<P>::new(flash(), Source::new()));
    se.manufacture(profile, if second { &both } else { &both[..1] })
        .unwrap();
    se
}

/// A row with rights: 1 renews keys, 2 writes its anchor.
pub(crate) fn row_with(rights: u8, name: &str, reach: &[&[u8]], anchor: &[u8]) -> Vec<u8> {
    [&[0, rights][..], &row(name, reach, anchor)].concat()
}

/// A row of version 1, without rights: level, key pin, who, what it reaches, the anchor.
pub(crate) fn row_of(
    level: u8,
    pin: Option<[u8; 32]>,
    name: &str,
    reach: &[&[u8]],
    anchor: &[u8],
) -> Vec<u8> {
    let mut value = vec![0, 0x81, 0, level];
    match pin {
        Some(pin) => value.extend([&[32], &pin[..]].concat()),
        None => value.push(0),
    }
    value.extend(row(name, reach, anchor));
    value
}

/// A row: who, what it reaches, the anchor.
pub(crate) fn row(name: &str, reach: &[&[u8]], anchor: &[u8]) -> Vec<u8> {
    let len = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
    let mut value = vec![len(name.as_bytes())];
    value.extend(name.as_bytes());
    value.push(u8::try_from(reach.len()).unwrap());
    for aid in reach {
        value.push(len(aid));
        value.extend(*aid);
    }
    value.extend(anchor);
    value
}

/// The root with a secure channel, and the TLS Manager named for personalisation.
pub(crate) fn root(se: &mut Se) -> Host {
    root_at(se, 0x03)
}

/// At this security level.
pub(crate) fn root_at(se: &mut dyn Line, level: u8) -> Host {
    assert_eq!(
        sw(&send_on(se, Interface::Iso7816Contact, &[0, 0xA4, 4, 0])),
        0x9000
    );
    let mut host = Host::open(se, 0xFF, &initial_keys(), SecurityLevel::from_p1(level).unwrap());
    let aid = tls_manager::AID;
    let mut data = vec![0, 0, 7];
    data.extend(aid);
    data.extend([0, 0, 0]);
    let install = [&[0x80, 0xE6, 0x20, 0, 13][..], &data, &[0]].concat();
    assert_eq!(sw(&host.send(se, &install)), 0x9000);
    host
}

/// STORE DATA of an object in blocks of 200 bytes; the status word of the first that is refused, or of the last.
pub(crate) fn store(se: &mut Se, object: &[u8], value: &[u8]) -> u16 {
    store_at(se, 0x03, object, value)
}

/// The same through a secure channel of this level.
pub(crate) fn store_at(se: &mut dyn Line, level: u8, object: &[u8], value: &[u8]) -> u16 {
    let mut host = root_at(se, level);
    let bytes = [object, value].concat();
    let blocks: Vec<_> = bytes.chunks(200).collect();
    let mut said = 0;
    for (number, block) in blocks.iter().enumerate() {
        let p1 = if number + 1 == blocks.len() { 0x80 } else { 0 };
        let head = [
            0x80,
            0xE2,
            p1,
            u8::try_from(number).unwrap(),
            u8::try_from(block.len()).unwrap(),
        ];
        said = sw(&host.send(se, &[&head, *block].concat()));
        if said != 0x9000 {
            break;
        }
    }
    said
}

/// With key, certificate and row 0001, which reaches the file system.
pub(crate) fn with(pki: &Pki) -> Box<Se> {
    reaching(pki, &[FILES])
}

/// A chain of these, as the TLS Manager keeps it.
pub(crate) fn chain(certificates: &[&Certified]) -> Vec<u8> {
    let certificates: Vec<_> = certificates.iter().map(|one| &one.certificate[..]).collect();
    chain_of(&certificates)
}

/// The same of certificates in DER.
pub(crate) fn chain_of(certificates: &[&[u8]]) -> Vec<u8> {
    certificates
        .iter()
        .flat_map(|der| [&u16::try_from(der.len()).unwrap().to_be_bytes(), &der[..]].concat())
        .collect()
}

pub(crate) fn reaching(pki: &Pki, reach: &[&[u8]]) -> Box<Se> {
    reaching_of(empty(), pki, reach)
}

/// What is made in such an SE.
pub(crate) fn reaching_of(mut se: Box<Se>, pki: &Pki, reach: &[&[u8]]) -> Box<Se> {
    assert_eq!(store(&mut se, &[1], &pki.element.scalar()), 0x9000);
    assert_eq!(store(&mut se, &[2], &chain(&[&pki.element])), 0x9000);
    let row = row("localhost", reach, &pki.authority.certificate);
    assert_eq!(store(&mut se, &[3, 0, 1], &row), 0x9000);
    se
}
