//! Cards whose applications are loaded: two containers, an area for bulk, memory for three instances.
#![allow(dead_code, unreachable_pub)] // each test program uses a part
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use sekisho_apdu::Aid;
use sekisho_applets::Standard;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    ContainerId, FactoryApplication, Interface, LoadFile, Module, Pairing, Profile, Protocol, Row,
    SecureElement,
};

use crate::common::ByValue as _;
use crate::common::{On, SeededRng, initial_keys, key, personalisation, sw};

pub type Card = SecureElement<On<Standard<2, 3>, SeededRng, 2>>;

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
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let first = personalisation(0xFF, &keys, &k_aut);
    let second = personalisation(0xFF, &keys, &k_aut);
    let flash = RamFlash::strict(PAGE, BEFORE + AREA);
    Card::made_all(flash, SeededRng(1), &profile(), &[&first, &second]).unwrap()
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
        crate::common::script::Line::transmit(self, interface, command)
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
