//! Two containers on the chip, where `SEKISHO_FIRMWARE` names an image beside `containers.elf`: what is said to both of them, with commands interleaved, is answered as by the same SE in this process.

use std::fs;

use sekisho_applets::{DOMAINS, Standard};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Interface, Personalisation, Product, Profile, SecureElement};
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::board::{Board, BoardFlash, Emulator, count, firmware, flash_path, options};
use crate::common::host::Host;
use crate::common::keys::set;
use crate::common::script::Line;
use crate::common::{ByValue as _, On, PAGE, SeededRng, key, personalisation, profile, send_on, sw};
use crate::kills::start;

type Two = SecureElement<On<Standard<2, 0, { 2 * DOMAINS }>, SeededRng, 2>>;

const CONTACTS: Interface = Interface::Iso7816Contact;
const SPI: Interface = Interface::Spi;
/// Where each container is paired, by number from 1.
const ON: [Interface; 2] = [SPI, CONTACTS];

const COMMON: &[u8] = &[0xA0, 0, 0, 1, 0x51, 0, 0, 0];
const AM_SD: &[u8] = b"\xF0SKAMSD";
const ISD_P1: &[u8] = b"\xF0SKISDP1";
const ISD_P2: &[u8] = b"\xF0SKISDP2";

fn two() -> Profile {
    let sizes = profile();
    Profile {
        store_bytes: sizes.store_bytes,
        slot_bytes: sizes.slot_bytes,
        ..Profile::product(Product::Ese, 2)
    }
}

/// Who may change pairing data.
const PAIRING_KEY: [u8; 16] = [0x64; 16];

/// The root of the second container was made with another AID.
fn made() -> Two {
    let pairing_key = key(&PAIRING_KEY);
    let k_aut = key(&[0xA0; 16]);
    let keys = [set(0x11, 0x12, 0x13, 16), set(0x21, 0x22, 0x23, 16)];
    let second = [0xA0, 0, 0, 1, 0x52, 0, 0, 0];
    let of = |number: usize| Personalisation {
        se_id: [0x53, 0x4B, 0, 0, 0, 0, 0, 0, 0x22, [1, 2][number]],
        isd_aid: (number == 1).then(|| second[..].try_into().unwrap()),
        pairing_key: (number == 0).then_some(&pairing_key),
        ..personalisation(0x30, &keys[number], &k_aut)
    };
    let (first, second) = (of(0), of(1));
    Two::made_all(RamFlash::new(PAGE, 16), SeededRng(1), &two(), &[&first, &second]).unwrap()
}

/// The chip, with contacts and SPI.
struct Chip(Emulator);

impl Line for Chip {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        self.0.ask(usize::from(interface == SPI), capdu).unwrap()
    }
}

/// A SE that is asked on two interfaces, and all that it has answered.
struct Asked<'a> {
    line: &'a mut dyn Line,
    answers: Vec<Vec<u8>>,
}

impl Asked<'_> {
    fn say(&mut self, on: Interface, capdu: &[u8]) -> u16 {
        self.answers.push(send_on(self.line, on, capdu));
        sw(self.answers.last().unwrap())
    }

    fn protected(&mut self, host: &mut Host, capdu: &[u8]) -> u16 {
        self.answers.push(host.send(self.line, capdu));
        sw(self.answers.last().unwrap())
    }

    fn select(&mut self, on: Interface, aid: &[u8]) -> u16 {
        let length = u8::try_from(aid.len()).unwrap();
        let ne: &[u8] = if aid.is_empty() { &[] } else { &[0] };
        self.say(on, &[&[0, 0xA4, 4, 0, length], aid, ne].concat())
    }

    /// A secure channel of the root that is paired.
    fn open(&mut self, number: u8) -> Host {
        let on = ON[usize::from(number) - 1];
        assert_eq!(self.select(on, COMMON), 0x9000);
        let keys = set(number << 4 | 1, number << 4 | 2, number << 4 | 3, 16);
        Host::open_on(self.line, on, 0, 0x30, &keys, SecurityLevel::FULL, MacMode::S8).unwrap()
    }
}

fn install_domain(aid: &[u8]) -> Vec<u8> {
    let file_and_module = b"\x07\xA0\x00\x00\x01\x51\x53\x50\x08\xA0\x00\x00\x01\x51\x53\x50\x41";
    let length = u8::try_from(aid.len()).unwrap();
    let data = [&file_and_module[..], &[length], aid, &[1, 0x80, 0, 0]].concat();
    let length = u8::try_from(data.len()).unwrap();
    [&[0x80, 0xE6, 0x0C, 0, length][..], &data, &[0]].concat()
}

/// Figure 2 of seed 2: who is meant is decided by the interface, what is installed is each one's own, and neither takes what is the other's.
fn figure_2(asked: &mut Asked<'_>) {
    for (number, on) in (1..).zip(ON) {
        for name in [&[][..], &COMMON[..5], COMMON] {
            assert_eq!(asked.select(on, name), 0x9000);
            assert_eq!(asked.say(on, &[0, 0xCA, 0, 0xCF, 0]), 0x9000);
            let answer = asked.answers.last().unwrap();
            assert!(answer.ends_with(&[number, 0x90, 0x00]), "{answer:02X?}");
        }
    }
    let (mut first, mut second) = (asked.open(1), asked.open(2));
    assert_eq!(asked.protected(&mut first, &install_domain(AM_SD)), 0x9000);
    assert_eq!(asked.protected(&mut second, &install_domain(ISD_P1)), 0x9000);
    // Three domains are the first one's, and no more; the second one has its own.
    assert_eq!(
        asked.protected(&mut first, &install_domain(b"\xF0SKMORE")),
        0x9000
    );
    assert_eq!(
        asked.protected(&mut first, &install_domain(b"\xF0SKTOOMANY")),
        0x6A84
    );
    assert_eq!(asked.protected(&mut second, &install_domain(ISD_P2)), 0x9000);
    let lists = [0x80, 0x40, 0x10].map(|p1| [0x80, 0xF2, p1, 2, 2, 0x4F, 0, 0]);
    for list in &lists {
        for host in [&mut first, &mut second] {
            assert_eq!(asked.protected(host, list), 0x9000);
        }
    }
    // What is in the other container: not to be named by content management.
    let delete = [&[0x80, 0xE4, 0, 0, 10, 0x4F, 8][..], ISD_P1, &[0]].concat();
    assert_eq!(asked.protected(&mut first, &delete), 0x6A82);
    // CARD_LOCKED in the second one is nothing to the first.
    assert_eq!(asked.protected(&mut second, &[0x80, 0xF0, 0x80, 0x07]), 0x9000);
    assert_eq!(asked.protected(&mut second, &[0x80, 0xF0, 0x80, 0x0F]), 0x9000);
    assert_eq!(asked.protected(&mut second, &[0x80, 0xF0, 0x80, 0x7F]), 0x9000);
    assert_eq!(asked.protected(&mut first, &lists[1]), 0x9000);
}

/// Behind a start: what was done has stayed, each in its container.
fn behind_a_start(asked: &mut Asked<'_>) {
    assert_eq!(asked.select(CONTACTS, ISD_P1), 0x6A81);
    assert_eq!(asked.select(CONTACTS, COMMON), 0x6283);
    assert_eq!(asked.select(SPI, AM_SD), 0x9000);
    let mut first = asked.open(1);
    assert_eq!(
        asked.protected(&mut first, &[0x80, 0xF2, 0x40, 2, 2, 0x4F, 0, 0]),
        0x9000
    );
    let mut second = {
        let keys = set(0x21, 0x22, 0x23, 16);
        Host::open_on(
            asked.line,
            CONTACTS,
            0,
            0x30,
            &keys,
            SecurityLevel::FULL,
            MacMode::S8,
        )
        .unwrap()
    };
    assert_eq!(asked.protected(&mut second, &[0x80, 0xF0, 0x80, 0x0F]), 0x9000);
    assert_eq!(asked.select(CONTACTS, ISD_P1), 0x9000);
    assert_eq!(asked.select(SPI, COMMON), 0x9000);
}

#[test]
fn two_containers_on_the_chip_are_those_of_this_process() {
    let Some(image) = firmware().map(|bench| bench.with_file_name("containers.elf")) else {
        return;
    };
    let path = flash_path();
    let flash = made().into_flash();
    BoardFlash::make(&path, &flash.image(), &options(&two())).unwrap();
    let mut se = Two::booted(flash, SeededRng(2), &two()).unwrap();
    let mut chip = Chip(start(&image, &path));
    for (round, step) in [figure_2, behind_a_start].into_iter().enumerate() {
        if round > 0 {
            se = Two::booted(se.into_flash(), SeededRng(3), &two()).unwrap();
            chip.0.kill();
            chip = Chip(start(&image, &path));
        }
        let [here, there] = [&mut se as &mut dyn Line, &mut chip].map(|line| {
            let mut asked = Asked {
                line,
                answers: Vec::new(),
            };
            step(&mut asked);
            asked.answers
        });
        assert_eq!(here, there);
    }
    chip.0.kill();
    drop(chip);
    fs::remove_file(&path).unwrap();
}

/// SET PAIRING: every row as it is, under rule `all`.
fn all_alone() -> Vec<u8> {
    let rows: Vec<u8> = (0..7_u8)
        .flat_map(|protocol| [protocol, if protocol < 2 { 2 } else { 1 }, 1])
        .collect();
    let signed = [&[0, 0, 0, 1][..], &rows].concat();
    let se_id = [0x53, 0x4B, 0, 0, 0, 0, 0, 0, 0x22, 1];
    let code = sekisho_keys::cmac(&key(&PAIRING_KEY), &[b"SKPD", &[1], &se_id, &signed]);
    let length = u8::try_from(signed.len() + code.len()).unwrap();
    [&[0x80, 0x38, 0, 0, length][..], &signed, &code].concat()
}

/// A chip that counts what its commands cost.
struct Counting(Board);

impl Line for Counting {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        self.0.ask(usize::from(interface == SPI), capdu)
    }
}

/// Commands of the first container's root that name what a domain has that is in the second one alone, and the same with a name of nobody.
fn named(name: &[u8]) -> [(&'static str, Vec<u8>); 6] {
    let length = u8::try_from(name.len()).unwrap();
    let with = |head: [u8; 4], data: Vec<u8>| {
        let length = u8::try_from(data.len()).unwrap();
        [&head[..], &[length], &data, &[0]].concat()
    };
    let tagged = || [&[0x4F, length][..], name].concat();
    let field = || [&[0, 0, length][..], name, &[0, 0, 0]].concat();
    [
        ("SET STATUS", with([0x80, 0xF0, 0x40, 0x80], name.to_vec())),
        ("GET STATUS", with([0x80, 0xF2, 0x40, 0x02], tagged())),
        ("DELETE", with([0x80, 0xE4, 0, 0], tagged())),
        ("INSTALL for extradition", with([0x80, 0xE6, 0x10, 0], field())),
        (
            "INSTALL for personalisation",
            with([0x80, 0xE6, 0x20, 0], field()),
        ),
        (
            "INSTALL for registry update",
            with([0x80, 0xE6, 0x40, 0], field()),
        ),
    ]
}

/// Under rule `all`, and by content management under any: a name of another container is refused in as many instructions as one that nobody has.
#[test]
fn a_name_of_another_container_costs_as_many_instructions_as_one_of_nobody() {
    let Some(image) = firmware().map(|bench| bench.with_file_name("containers.elf")) else {
        return;
    };
    let mut se = made();
    let mut asked = Asked {
        line: &mut se,
        answers: Vec::new(),
    };
    let (mut first, mut second) = (asked.open(1), asked.open(2));
    assert_eq!(asked.protected(&mut first, &install_domain(AM_SD)), 0x9000);
    assert_eq!(asked.protected(&mut second, &install_domain(ISD_P1)), 0x9000);
    assert_eq!(asked.protected(&mut first, &all_alone()), 0x9000);
    count(true);
    let mut chip = Counting(Board::start(&image, se.flash(), SeededRng(4), &two()));
    count(false);
    // They differ in their last byte, so that they differ from what the first container has at the same one.
    let nobodys = [&ISD_P1[..7], b"9"].concat();
    let mut costs = Vec::new();
    for name in [ISD_P1, &nobodys] {
        let mut own = Vec::new();
        let mut host = Asked {
            line: &mut chip,
            answers: Vec::new(),
        }
        .open(1);
        for (what, command) in named(name) {
            let answer = sw(&host.send(&mut chip, &command));
            own.push((what, answer, chip.0.figures().instructions));
        }
        for p2 in [0x00, 0x0C] {
            let select = [&[0x01, 0xA4, 4, p2, 8][..], name, &[0]].concat();
            chip.transmit(SPI, &[0x00, 0x70, 0x00, 0x01]);
            let answer = sw(&chip.transmit(SPI, &select));
            own.push(("SELECT", answer, chip.0.figures().instructions));
        }
        costs.push(own);
    }
    println!("{:?}", costs[0]);
    let refused = [0x6A82, 0x6A88];
    assert!(
        costs[0]
            .iter()
            .all(|(_, sw, count)| refused.contains(sw) && *count > 0)
    );
    assert_eq!(costs[0], costs[1]);
}
