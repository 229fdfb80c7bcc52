//! Files in pieces: what an update writes to the flash, as many files as the product has memory for, and files of cards of 0.1
//! (docs/spec/file-system-applet.md, 2; docs/decisions/0014-files.md).
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)] // test support
#![allow(clippy::print_stdout, reason = "says what it has measured")]

use crate::common;

use core::cell::Cell;
use core::ops::Range;

use std::collections::BTreeSet;

use common::ByValue as _;
use common::files::{in_the_first_layout, made_of};
use common::{PAGE, SeededRng, initial_keys, key, personalisation, profile, sw};
use sekisho_apdu::{Aid, CApdu, StatusWord, Writer};
use sekisho_applets::file_system::{self, FileSystem, image::Image, image::ROOT, image::test_key};
use sekisho_applets::{CardManager, Standard};
use sekisho_nvm::ram::{RamError, RamFlash};
use sekisho_nvm::{Flash, Ram};
use sekisho_os::{
    AllInterfaces, Application, Applications, Containers, Context, FactoryApplication, Instance, Interface,
    Module, Next, Outcome, OwnRecord, Personalisation, Platform, Pool, Profile, Refusal, Resume,
    SecureElement, State,
};

const CONTACT: Interface = Interface::Iso7816Contact;

/// A flash that counts the bytes that are written to it.
struct Counting(RamFlash, Cell<usize>);

impl Flash for Counting {
    type Error = RamError;

    fn page_size(&self) -> usize {
        self.0.page_size()
    }

    fn pages(&self) -> usize {
        self.0.pages()
    }

    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), RamError> {
        self.0.read(address, out)
    }

    fn mapped(&self, range: Range<usize>) -> Option<&[u8]> {
        self.0.mapped(range)
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), RamError> {
        self.1.set(self.1.get() + bytes.len());
        self.0.write(address, bytes)
    }

    fn erase(&mut self, page: usize) -> Result<(), RamError> {
        self.0.erase(page)
    }
}

struct Counted;

impl Platform for Counted {
    type Flash = Counting;
    type Rng = SeededRng;
    type Applications = Standard;
    type Interfaces = AllInterfaces;
    type Containers = Containers<1>;
    type Index = Ram<512, 16, 8>;
}

/// Files of a large card.
const FILES: u16 = 512;

const RELAY: &[u8] = b"\xF0TEST\x04\x01";
const RELAY_MODULE: Module = Module(0x70);

/// An application that carries commands to the file system: in its data field, each behind its length. With P1 01 it fails behind them.
#[derive(Debug, Default)]
struct Relay {
    rest: Vec<u8>,
    fails: bool,
}

impl State for Relay {
    const NEW: Self = Self {
        rest: Vec::new(),
        fails: false,
    };
}

impl Relay {
    fn go_on(&mut self, context: &mut Context<'_>) -> Result<Next, Refusal> {
        let Some((len, rest)) = self.rest.split_first() else {
            return match self.fails {
                true => Err(Refusal(StatusWord::INCORRECT_DATA)),
                false => Ok(Next::Done(StatusWord::NO_ERROR)),
            };
        };
        let (command, rest) = rest.split_at((*len).into());
        let next = context.forward(file_system::AID, &CApdu::parse(command).unwrap());
        self.rest = rest.to_vec();
        next
    }
}

impl Application for Relay {
    fn select(&mut self, _: &mut Context<'_>, _: &mut Writer<'_>) -> Outcome {
        Ok(StatusWord::NO_ERROR)
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        _: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        (self.rest, self.fails) = (capdu.data.to_vec(), capdu.p1 == 1);
        self.go_on(context)
    }

    fn resume(
        &mut self,
        context: &mut Context<'_>,
        why: Resume<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        let Resume::Answer { sw, .. } = why else {
            panic!("no pieces");
        };
        out.bytes(&sw.bytes())?;
        self.go_on(context)
    }
}

struct Set {
    card_managers: Pool<CardManager, 1>,
    file_systems: Pool<FileSystem<{ FILES as usize }>, 1>,
    relays: Pool<Relay, 1>,
}

impl Applications for Set {
    const NEW: Self = Self {
        card_managers: Pool::NEW,
        file_systems: Pool::NEW,
        relays: Pool::NEW,
    };

    fn get(&mut self, module: Module, instance: Instance) -> Option<&mut dyn Application> {
        match module {
            Module::CARD_MANAGER => Some(self.card_managers.get(instance)?),
            Module::FILE_SYSTEM => Some(self.file_systems.get(instance)?),
            RELAY_MODULE => Some(self.relays.get(instance)?),
            _ => None,
        }
    }

    fn release(&mut self, module: Module, instance: Instance) {
        if module == Module::FILE_SYSTEM {
            self.file_systems.release(instance);
        }
    }
}

struct Large;

impl Platform for Large {
    type Flash = RamFlash;
    type Rng = SeededRng;
    type Applications = Set;
    type Interfaces = AllInterfaces;
    type Containers = Containers<1>;
    type Index = Ram<2048, 160, 8>;
}

type LargeCard = SecureElement<Large>;

fn large_profile() -> Profile {
    Profile {
        store_bytes: 512 * 1024,
        slot_bytes: PAGE,
        ..Profile::default()
    }
}

/// A card of these files with memory for 512 in a store of 512 KiB, and a relay.
fn large(image: &Image) -> LargeCard {
    large_of(&image.iter().collect::<Vec<_>>())
}

fn large_of(records: &[OwnRecord<'_>]) -> LargeCard {
    let application = |aid: &[u8], load_file: &[u8], module, records| FactoryApplication {
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
            records,
        ),
        application(RELAY, b"\xF0TEST\x04", RELAY_MODULE, &[]),
    ];
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let personalisation = Personalisation {
        applications: &applications,
        ..personalisation(0xFF, &keys, &k_aut)
    };
    let flash = RamFlash::new(PAGE, 130);
    SecureElement::made(flash, SeededRng(1), &large_profile(), &personalisation).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

/// Proves key EXTERNAL 1 of the test card.
fn authenticate(card: &mut LargeCard) {
    let challenge = ok(card, &hex("0084000010"));
    let mac = sekisho_keys::cmac(&key(&test_key::EXTERNAL), &[&challenge]);
    ok(card, &[&hex("0082000110")[..], &mac].concat());
}

/// An MF in which everybody may do everything.
const MF: &[u8] = b"\x62\x0D\x82\x01\x38\x83\x02\x3F\x00\x8C\x04\x07\x00\x00\x00";

/// CREATE FILE of a transparent file with which everybody may do everything.
fn create(fid: u16, size: u16) -> Vec<u8> {
    let ([a, b], [c, d]) = (size.to_be_bytes(), fid.to_be_bytes());
    let fcp = [
        0x62, 0x13, 0x80, 0x02, a, b, 0x82, 0x02, 0x01, 0x21, 0x83, 0x02, c, d, 0x8C, 0x05, 0x47, 0, 0, 0, 0,
    ];
    [&[0x00, 0xE0, 0x00, 0x00, 21][..], &fcp].concat()
}

fn select_file(fid: u16) -> Vec<u8> {
    [&[0x00, 0xA4, 0x00, 0x0C, 0x02][..], &fid.to_be_bytes()].concat()
}

fn delete(fid: u16) -> Vec<u8> {
    [&[0x00, 0xE4, 0x00, 0x00, 0x02][..], &fid.to_be_bytes()].concat()
}

fn update(offset: u16, data: &[u8]) -> Vec<u8> {
    let [high, low] = offset.to_be_bytes();
    [
        &[0x00, 0xD6, high, low, u8::try_from(data.len()).unwrap()][..],
        data,
    ]
    .concat()
}

fn read(offset: u16, len: u8) -> Vec<u8> {
    let [high, low] = offset.to_be_bytes();
    vec![0x00, 0xB0, high, low, len]
}

fn send<P: Platform>(card: &mut SecureElement<P>, capdu: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 4096];
    let len = card.transmit(CONTACT, capdu, &mut out);
    out.truncate(len);
    out
}

/// The data of an answer of 9000.
fn ok<P: Platform>(card: &mut SecureElement<P>, capdu: &[u8]) -> Vec<u8> {
    let mut answer = send(card, capdu);
    assert_eq!(sw(&answer), 0x9000, "{}", hex::encode(capdu));
    answer.truncate(answer.len() - 2);
    answer
}

fn select<P: Platform>(card: &mut SecureElement<P>) {
    card.reset(CONTACT);
    ok(
        card,
        &[&[0x00, 0xA4, 0x04, 0x0C, 0x07], file_system::AID].concat(),
    );
}

/// The offset of an update.
type Offset = fn(u16) -> u16;

/// UPDATE BINARY of 32 bytes writes at most 6 times as much inside a piece, and 10 across two, compactions counted: 2,000 updates in a store of 32
/// KiB with five files of 1,024 bytes, all of them written.
#[test]
fn an_update_writes_little() {
    let mut image = Image::new(MF).unwrap();
    for fid in 0x4000..0x4004 {
        image.file(ROOT, &create(fid, 1024)[5..]).unwrap();
    }
    let flash = Counting(RamFlash::new(PAGE, 16), Cell::default());
    let mut card: SecureElement<Counted> =
        made_of(flash, SeededRng(1), &profile(), &image.iter().collect::<Vec<_>>());
    select(&mut card);
    for fid in 0x4000..0x4004 {
        ok(&mut card, &select_file(fid));
        for offset in (0..1024).step_by(32) {
            ok(&mut card, &update(offset, &[0x11; 32]));
        }
    }
    let rows: [(&str, f64, Offset); 3] = [
        ("inside a piece", 6.0, |n| n % 16 * 48 + n % 3 * 8),
        ("across two", 10.0, |n| n % 16 * 48 + 24 + n % 3 * 8),
        ("all over a file", 10.0, |n| n % 32 * 32),
    ];
    for (name, most, offset) in rows {
        card.flash().1.set(0);
        for number in 0..2000 {
            ok(&mut card, &update(offset(number), &[0x5A; 32]));
        }
        let times = card.flash().1.get() as f64 / 2000.0 / 32.0;
        println!("UPDATE BINARY of 32 bytes {name}: {times:.2} times");
        assert!(times <= most, "{name}: {times}");
    }
}

/// The content of a file: nobody else's.
fn content(fid: u16) -> [u8; 60] {
    core::array::from_fn(|at| (fid.wrapping_mul(31).to_be_bytes()[at % 2]).wrapping_add(at as u8))
}

/// 512 files, the MF and seven DFs included: made, written, found again after a start, deleted with all their bytes, and made again.
#[test]
fn five_hundred_and_twelve_files() {
    let mut card = large(&Image::new(MF).unwrap());
    let dfs: Vec<u16> = (0x5001..=0x5007).collect();
    let of = |number: u16| (dfs[usize::from(number) % 7], 0x6000 + number);
    let count = FILES - 8;
    for round in 0..2 {
        select(&mut card);
        for df in &dfs {
            let [high, low] = df.to_be_bytes();
            let fcp = [
                0x00, 0xE0, 0x00, 0x00, 0x12, 0x62, 0x10, 0x82, 0x01, 0x38, 0x83, 0x02, high, low, 0x84,
                0x01, low, 0x8C, 0x04, 0x07, 0, 0, 0,
            ];
            ok(&mut card, &fcp);
        }
        for number in 0..count {
            let (df, fid) = of(number);
            ok(&mut card, &select_file(0x3F00));
            ok(&mut card, &select_file(df));
            ok(&mut card, &create(fid, 60));
            ok(&mut card, &select_file(fid));
            ok(&mut card, &update(0, &content(fid)));
        }
        assert_eq!(send(&mut card, &create(0x7000, 60)), [0x6A, 0x84], "one more");
        card = LargeCard::booted(card.into_flash(), SeededRng(2), &large_profile()).unwrap();
        select(&mut card);
        for number in 0..count {
            let (df, fid) = of(number);
            ok(
                &mut card,
                &[0x00, 0xA4, 0x09, 0x0C, 0x02, 0x50, df.to_be_bytes()[1]][..],
            );
            ok(&mut card, &select_file(fid));
            assert_eq!(ok(&mut card, &read(0, 60)), content(fid), "{fid:04X}");
            ok(&mut card, &select_file(0x3F00));
        }
        for number in 0..count {
            let (df, fid) = of(number);
            ok(&mut card, &select_file(0x3F00));
            ok(&mut card, &select_file(df));
            ok(&mut card, &delete(fid));
            assert_eq!(send(&mut card, &select_file(fid)), [0x6A, 0x82]);
        }
        ok(&mut card, &select_file(0x3F00));
        for df in &dfs {
            ok(&mut card, &delete(*df));
        }
        let image = card.into_flash().image();
        let there = image.windows(20).collect::<BTreeSet<_>>();
        for number in 0..count {
            let content = content(of(number).1);
            assert!(
                !there.contains(&content[..20]) && !there.contains(&content[20..40]),
                "round {round}"
            );
        }
        card = LargeCard::booted(RamFlash::from_image(PAGE, &image), SeededRng(3), &large_profile()).unwrap();
    }
}

/// The longest file, read and written across its pieces, is one more deletion: nothing of it is left.
#[test]
fn the_longest_file_goes_whole() {
    let mut card = large(&Image::new(MF).unwrap());
    select(&mut card);
    ok(&mut card, &create(0x4000, 4096));
    ok(&mut card, &select_file(0x4000));
    let content: Vec<u8> = (0..4096_u16)
        .map(|at| (at.wrapping_mul(0x9E37) >> 5) as u8 | 1)
        .collect();
    for (at, piece) in (0..).step_by(200).zip(content.chunks(200)) {
        ok(&mut card, &update(at, piece));
    }
    for (at, piece) in (0..).step_by(100).zip(content.chunks(100)) {
        assert_eq!(ok(&mut card, &read(at, piece.len() as u8)), piece, "{at}");
    }
    ok(&mut card, &delete(0x4000));
    let image = card.into_flash().image();
    let there = image.windows(16).collect::<BTreeSet<_>>();
    assert!(content.windows(16).all(|bytes| !there.contains(bytes)));
}

/// Files of 0.1 have records of the numbers 0100 to 0320 as well: what is made and deleted there today takes nothing of them.
#[test]
fn files_of_0_1_lose_nothing_to_others() {
    let old = in_the_first_layout(&Image::of_test_card().unwrap());
    let old: Vec<_> = old
        .iter()
        .map(|(object, value)| (*object, 0, &value[..]))
        .collect();
    let mut card = large_of(&old);
    select(&mut card);
    authenticate(&mut card);
    let made: Vec<u16> = (0x6000..)
        .take_while(|fid| sw(&send(&mut card, &create(*fid, 60))) == 0x9000)
        .collect();
    assert_eq!(made.len(), usize::from(FILES) - 13);
    for fid in &made {
        ok(&mut card, &delete(*fid));
    }
    let mut card = LargeCard::booted(card.into_flash(), SeededRng(2), &large_profile()).unwrap();
    select(&mut card);
    // PIN, key and content are as they were made.
    ok(&mut card, &hex("00200001 04 31323334"));
    authenticate(&mut card);
    assert_eq!(ok(&mut card, &hex("00B09E0011")), b"Sekisho test card");
    assert_eq!(
        ok(&mut card, &hex("008800010401020304 00")),
        hex("1075BB9BBEF9AF0ADC5701F4B5409D1B")
    );
}

/// Bytes of the store that are free (GET DATA FF21).
fn free<P: Platform>(card: &mut SecureElement<P>) -> u32 {
    card.reset(CONTACT);
    ok(card, &[0x00, 0xA4, 0x04, 0x0C, 0x00]);
    let resources = ok(card, &[0x80, 0xCA, 0xFF, 0x21, 0x00]);
    u32::from_be_bytes(resources[8..12].try_into().unwrap())
}

/// The table of the page, 2.1: a card with each of its files, written whole, against a card without it.
#[test]
fn the_page_says_how_much_flash_a_file_takes() {
    let page = include_str!("../../../../docs/spec/file-system-applet.md").replace(',', "");
    let key = |usage, value: &[u8]| {
        let len = u8::try_from(value.len()).unwrap();
        let tail = [&[0xA5, len + 7, 0x80, 0x03, usage, 1, 3, 0x81, len][..], value].concat();
        let body = [
            &[0x82, 0x01, 0x09, 0x83, 0x02, 0x40, 0x00, 0x8C, 0x01, 0x00][..],
            &tail,
        ]
        .concat();
        let len = u8::try_from(body.len()).unwrap();
        [&[0x00, 0xE0, 0x00, 0x00, len + 2, 0x62, len][..], &body].concat()
    };
    let df = b"\x00\xE0\x00\x00\x0E\x62\x0C\x82\x01\x38\x83\x02\x40\x00\x8C\x03\x03\x00\x00".to_vec();
    for (row, create, size) in [
        ("of 32 bytes | 1", create(0x4000, 32), 32),
        ("of 100 bytes | 3 of 48 48 4", create(0x4000, 100), 100),
        ("of 1024 bytes | 22", create(0x4000, 1024), 1024),
        ("of 4096 bytes | 86", create(0x4000, 4096), 4096),
        ("DF without name |", df, 0),
        ("PIN of 4 bytes | value tries", key(1, b"1234"), 0),
        ("AES key of 16 bytes | value tries", key(3, &[7; 16]), 0),
    ] {
        let mut card = large(&Image::new(MF).unwrap());
        let before = free(&mut card);
        select(&mut card);
        ok(&mut card, &create);
        ok(&mut card, &select_file(0x4000));
        for at in (0..size).step_by(4) {
            ok(&mut card, &update(at, &[1; 4]));
        }
        let row = format!("| {row} | {} |", before - free(&mut card));
        assert!(page.contains(&row), "{row}");
    }
}

/// What an application makes in the file system within a command that fails has never been: neither in NVM nor in what the file system remembers,
/// also when it has been called again in between.
#[test]
fn a_file_of_a_command_that_fails_is_not_there() {
    let mut card = large(&Image::new(MF).unwrap());
    let select_relay = [&[0x00, 0xA4, 0x04, 0x0C, 0x07], RELAY].concat();
    let carry = |card: &mut LargeCard, fails: u8, commands: &[Vec<u8>]| {
        card.reset(CONTACT);
        ok(card, &select_relay);
        let data: Vec<u8> = commands
            .iter()
            .flat_map(|command| [&[command.len() as u8], &command[..]].concat())
            .collect();
        send(
            card,
            &[&[0x80, 0x10, fails, 0x00, data.len() as u8], &data[..], &[0]].concat(),
        )
    };
    let look = |card: &mut LargeCard, fid| {
        select(card);
        sw(&send(card, &select_file(fid)))
    };
    let made = |fid| [create(fid, 10), select_file(fid), update(0, &[1; 10])];
    assert_eq!(carry(&mut card, 1, &made(0x4000)), [0x6A, 0x80]);
    assert_eq!(look(&mut card, 0x4000), 0x6A82);
    let twice = [create(0x4000, 10), create(0x4001, 10), select_file(0x4000)];
    assert_eq!(carry(&mut card, 1, &twice), [0x6A, 0x80]);
    assert_eq!(
        (look(&mut card, 0x4000), look(&mut card, 0x4001)),
        (0x6A82, 0x6A82)
    );
    assert_eq!(carry(&mut card, 0, &made(0x4000)), [[0x90, 0x00]; 4].concat());
    assert_eq!(look(&mut card, 0x4000), 0x9000);
    // And what is deleted in one that fails is there as before.
    assert_eq!(
        carry(&mut card, 1, &[delete(0x4000), select_file(0x4000)]),
        [0x6A, 0x80]
    );
    assert_eq!(look(&mut card, 0x4000), 0x9000);
    assert_eq!(ok(&mut card, &read(0, 10)), [1; 10]);
    assert_eq!(
        carry(&mut card, 0, &[delete(0x4000), select_file(0x4000)]),
        hex::decode("90006A829000").unwrap()
    );
    assert_eq!(look(&mut card, 0x4000), 0x6A82);
}
