//! Cards whose applications are loaded: two containers, an area for bulk, memory for three instances and for two more security domains in each.
#![allow(dead_code, unreachable_pub)] // each test program uses a part
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use sekisho_apdu::Aid;
use sekisho_applets::Standard;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    ContainerId, FactoryApplication, Interface, LoadFile, Module, Pairing, Personalisation, Profile,
    Protocol, Row, SecureElement,
};

use crate::common::ByValue as _;
use crate::common::{On, SeededRng, initial_keys, key, personalisation, sw};

pub type Card = SecureElement<On<Standard<2, 3, 6>, SeededRng, 2>>;

pub const PAGE: usize = 1024;
/// Pages before the area: the store's and two slots.
pub const BEFORE: usize = 12 + 2;
pub const AREA: usize = 12;

/// Where the first container answers, and the second.
pub const FIRST: Interface = Interface::Iso7816Contact;
pub const SECOND: Interface = Interface::Spi;

pub const ESE: ContainerId = ContainerId::ESE;

pub fn second() -> ContainerId {
    ContainerId::new(2).unwrap()
}

pub const FILE: &[u8] = b"\xF0LOADED\x00";
pub const MODULE: &[u8] = b"\xF0LOADED\x00\x01";
pub const APPLICATION: &[u8] = b"\xF0LOADED\x01";
pub const OTHER: &[u8] = b"\xF0LOADED\x02";

pub const METER: &[u8] = include_bytes!("../../../../../applets/prebuilt/meter-v2.wasm");
pub const LOCKER: &[u8] = include_bytes!("../../../../../applets/prebuilt/locker.wasm");

pub fn aid(bytes: &[u8]) -> Aid {
    Aid::try_from(bytes).unwrap()
}

pub fn profile() -> Profile {
    Profile {
        store_bytes: 12 * PAGE,
        slot_bytes: PAGE,
        area_bytes: AREA * PAGE,
        area_quota: 6 * PAGE,
        // Each reaches its own alone: the same names stand in both.
        pairing: Pairing::all_to(ESE)
            .with(Protocol::T0, Row::all(ESE))
            .with(Protocol::SpiEse, Row::all(second())),
        ..Profile::default()
    }
}

/// Two containers, with nothing loaded.
pub fn card() -> Card {
    card_of(&profile())
}

/// The same, of another profile.
pub fn card_of(profile: &Profile) -> Card {
    card_with(profile, &[])
}

/// The same, with data objects of the first root.
pub fn card_with(profile: &Profile, data_objects: &[(u16, &[u8])]) -> Card {
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let second = personalisation(0xFF, &keys, &k_aut);
    let first = Personalisation {
        data_objects,
        ..personalisation(0xFF, &keys, &k_aut)
    };
    let flash = RamFlash::strict(PAGE, BEFORE + profile.area_bytes / PAGE);
    Card::made_all(flash, SeededRng(1), profile, &[&first, &second]).unwrap()
}

pub fn boot(card: Card) -> Card {
    Card::booted(card.into_flash(), SeededRng(2), &profile()).unwrap()
}

pub fn file(image: &[u8]) -> LoadFile<'_> {
    LoadFile {
        aid: aid(FILE),
        module_aid: aid(MODULE),
        version: 7,
        image,
    }
}

pub fn application(bytes: &[u8]) -> FactoryApplication<'static> {
    FactoryApplication {
        aid: aid(bytes),
        load_file: aid(FILE),
        module: Module::LOADED,
        records: &[],
    }
}

/// Loads a module into a container and installs it there under these AIDs.
pub fn load(card: &mut Card, container: ContainerId, image: &[u8], aids: &[&[u8]]) {
    card.load_file(container, &file(image)).unwrap();
    for bytes in aids {
        card.install(container, &application(bytes)).unwrap();
    }
}

pub fn select(card: &mut Card, interface: Interface, aid: &[u8]) -> u16 {
    let len = u8::try_from(aid.len()).unwrap();
    let command = [&[0x00, 0xA4, 0x04, 0x00, len], aid].concat();
    sw(&card.transmit_to(interface, &command))
}

/// A command of the selected application.
pub fn ask(card: &mut Card, interface: Interface, ins: u8, data: &[u8]) -> Vec<u8> {
    let len = u8::try_from(data.len()).unwrap();
    let body: &[&[u8]] = if data.is_empty() { &[] } else { &[&[len], data] };
    card.transmit_to(
        interface,
        &[&[0x80, ins, 0, 0], &body.concat()[..], &[0]].concat(),
    )
}

pub trait Transmit {
    fn transmit_to(&mut self, interface: Interface, command: &[u8]) -> Vec<u8>;
}

impl Transmit for Card {
    fn transmit_to(&mut self, interface: Interface, command: &[u8]) -> Vec<u8> {
        crate::common::send_on(self, interface, command)
    }
}

/// How often bytes stand in a part of the flash.
pub fn count(flash: &RamFlash, bytes: &[u8], pages: std::ops::Range<usize>) -> usize {
    let image = flash.image();
    let part = &image[pages.start * PAGE..pages.end * PAGE];
    part.windows(bytes.len())
        .filter(|window| *window == bytes)
        .count()
}

/// The body of a module with all imports of ABI 2, whose `process` is `body`; `$ok` answers 9000.
pub fn module(abi: u8, memory: &str, body: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module
            (import "sekisho" "get" (func $get (param i32 i32 i32) (result i32)))
            (import "sekisho" "put" (func $put (param i32 i32 i32) (result i32)))
            (import "sekisho" "random" (func $random (param i32 i32) (result i32)))
            {memory}
            (func (export "abi") (result i32) i32.const {abi})
            (func (export "transient") (result i32) i32.const 0)
            (func (export "buffer") (result i32) i32.const 0)
            (func $ok (result i32) (i32.store16 (i32.const 0) (i32.const 0x0090)) i32.const 2)
            (func $process (export "process") (param i32) (result i32) {body}))"#
    ))
    .unwrap()
}

/// A load file data block (docs/spec/loading.md, 2) with this module, cut into its pieces.
pub fn carrier(image: &[u8]) -> Vec<u8> {
    const TAGS: [u8; 6] = [7, 8, 10, 5, 9, 6];
    let u2 = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
    let component = |tag: u8, bytes: &[u8]| [&[tag], &u2(bytes.len())[..], bytes].concat();
    let lv = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
    // Major version 0, minor 7: what `file` says.
    let header = [&b"\xDE\xCA\xFF\xED\x01\x02\x04\x07\x00"[..], &lv(FILE)].concat();
    let import = b"\x01\x00\x01\x06\xF0SEWA\x01";
    let applet = [&[1][..], &lv(MODULE), &[0, 0]].concat();
    let pieces: Vec<_> = TAGS.into_iter().zip(image.chunks(0xFFFF)).collect();
    let sizes = (1..=11).map(|tag| match tag {
        1 => header.len(),
        2 => 31,
        3 => applet.len(),
        4 => import.len(),
        tag => {
            let piece = pieces.iter().find(|(of, _)| *of == tag);
            piece.map_or(0, |(_, bytes)| bytes.len())
        }
    });
    let mut directory: Vec<u8> = sizes.flat_map(u2).collect();
    directory.extend([0, 0, 0, 0, 0, 0, 1, 1, 0]);
    let mut whole = component(1, &header);
    whole.extend(component(2, &directory));
    whole.extend(component(4, import));
    whole.extend(component(3, &applet));
    for (tag, bytes) in pieces {
        whole.extend(component(tag, bytes));
    }
    whole
}

/// INSTALL `[for load]` of the page's load file with these bytes behind its AID, and LOAD in blocks of a size.
pub fn loads(data: &[u8], size: usize) -> Vec<Vec<u8>> {
    let lv = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let hash = sekisho_keys::sha256(&[data]);
    let fields = [&lv(FILE)[..], &[0], &lv(&hash), &[0, 0]].concat();
    let mut all = vec![[&[0x80, 0xE6, 0x02, 0x00][..], &lv(&fields), &[0]].concat()];
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    let framed = [&[0xC4, 0x83], &length[1..], data].concat();
    let count = framed.chunks(size).len();
    for (number, block) in framed.chunks(size).enumerate() {
        let p1 = if number + 1 == count { 0x80 } else { 0 };
        let head = [0x80, 0xE8, p1, number.to_le_bytes()[0]];
        all.push([&head[..], &lv(block), &[0]].concat());
    }
    all
}

pub fn delete_file(related: bool) -> Vec<u8> {
    let p2 = if related { 0x80 } else { 0 };
    let len = u8::try_from(FILE.len()).unwrap();
    [&[0x80, 0xE4, 0, p2, len + 2, 0x4F, len], FILE, &[0]].concat()
}

/// INSTALL `[for install and make selectable]` of an application of the load file.
pub fn install_command(aid: &[u8]) -> Vec<u8> {
    let lv = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let fields = [&lv(FILE)[..], &lv(MODULE), &lv(aid), b"\0\x02\xC9\0\0"].concat();
    [&[0x80, 0xE6, 0x0C, 0x00][..], &lv(&fields), &[0]].concat()
}
