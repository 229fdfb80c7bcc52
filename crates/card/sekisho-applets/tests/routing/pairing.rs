//! Pairing data in the field: SET PAIRING, what it resets and what it leaves, power cuts, damaged records, the key.

use std::collections::BTreeMap;

use sekisho_apdu::StatusWord;
use sekisho_keys::cmac;
use sekisho_os::{BootError, Interface, Pairing, Protocol, Row};
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::ByValue as _;
use crate::common::host::Host;
use crate::common::{self, key, sw};
use crate::se::{self, Card, Counting, Made, PAIRING_KEY};

const SPI: Protocol = Protocol::SpiEse;

/// The default of the worked SE.
const DEFAULT: [[u8; 3]; 8] = [
    [0x00, 2, 0],
    [0x01, 2, 0],
    [0x02, 1, 0],
    [0x03, 1, 0],
    [0x04, 1, 0],
    [0x05, 1, 0],
    [0x06, 1, 0],
    [0x80, 3, 0],
];

fn with(rows: &[(usize, u8, u8)]) -> Vec<u8> {
    let mut all = DEFAULT;
    for (at, container, rule) in rows {
        all[*at] = [all[*at][0], *container, *rule];
    }
    all.concat()
}

fn data(number: u32, rows: &[u8], key_value: &[u8], se_id: &[u8; 10]) -> Vec<u8> {
    let signed = [&number.to_be_bytes()[..], rows].concat();
    let code = cmac(&key(key_value), &[b"SKPD", &[1], se_id, &signed]);
    [&signed[..], &code].concat()
}

fn command(data: &[u8]) -> Vec<u8> {
    let len = u8::try_from(data.len()).unwrap();
    [&[0x80, 0x38, 0x00, 0x00, len], data].concat()
}

fn set_pairing(number: u32, rows: &[u8]) -> Vec<u8> {
    command(&data(number, rows, &PAIRING_KEY, &se::se_id(1)))
}

/// Source, number and rows, as DF24 has them.
fn object(card: &mut Card) -> (u8, u32, Vec<u8>) {
    card.reset(Interface::Spi);
    let answer = se::send(card, SPI, &[0x00, 0xCA, 0xDF, 0x24, 0x00]);
    let (value, ok) = answer.split_at(answer.len() - 2);
    assert_eq!(ok, [0x90, 0x00]);
    let number = u32::from_be_bytes(value[1..5].try_into().unwrap());
    (value[0], number, value[5..].to_vec())
}

/// An SE with pairing data 7 in its record; what every refusal leaves as it is, and how often which came.
struct Refusals {
    card: Card,
    rows: Vec<u8>,
    seen: BTreeMap<u16, usize>,
}

impl Refusals {
    fn new() -> Self {
        let mut card = se::card();
        let rows = with(&[(2, 3, 1)]);
        assert_eq!(sw(&se::send(&mut card, SPI, &set_pairing(7, &rows))), 0x9000);
        let seen = BTreeMap::new();
        Self { card, rows, seen }
    }

    fn refused(&mut self, capdu: &[u8], expected: u16) {
        assert_eq!(
            sw(&se::send(&mut self.card, SPI, capdu)),
            expected,
            "{capdu:02X?}"
        );
        assert_eq!(object(&mut self.card), (1, 7, self.rows.clone()));
        *self.seen.entry(expected).or_default() += 1;
    }
}

/// Pairing data that would be taken.
fn good() -> Vec<u8> {
    data(8, &with(&[]), &PAIRING_KEY, &se::se_id(1))
}

#[test]
fn every_refusal_in_its_order_and_nothing_changes() {
    let mut to = Refusals::new();
    let good = good();
    let rows = |rows: &[u8]| data(8, rows, &PAIRING_KEY, &se::se_id(1));
    to.refused(&[&[0x00][..], &command(&good)[1..]].concat(), 0x6E00);
    for (p1, p2) in [(1, 0), (0, 1)] {
        let wrong = [&[0x80, 0x38, p1, p2][..], &command(&good)[4..]].concat();
        to.refused(&wrong, 0x6A86);
    }
    to.refused(&[0x80, 0x38, 0x00, 0x00], 0x6700);
    for len in [0, 1, 16, 19] {
        to.refused(&command(&good[..len]), 0x6700);
    }
    to.refused(&command(&[0; 4 + 3 * 15 + 1 + 16]), 0x6700);
    // Cut to what could be number and code, any byte changed, another key, another SE.
    for len in [20, good.len() - 1] {
        to.refused(&command(&good[..len]), 0x9503);
    }
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        to.refused(&command(&changed), 0x9503);
    }
    for wrong in [
        data(8, &with(&[]), &[0x65; 16], &se::se_id(1)),
        data(8, &with(&[]), &PAIRING_KEY, &se::se_id(2)),
        data(8, &[], &[0; 16], &se::se_id(1)),
    ] {
        to.refused(&command(&wrong), 0x9503);
    }
    // The last one again, older ones; a wrong number goes before wrong rows.
    let present = to.rows.clone();
    for number in [7, 6, 0] {
        to.refused(&set_pairing(number, &present), 0x9502);
        to.refused(&set_pairing(number, &[]), 0x9502);
    }
    let whole = with(&[]);
    for wrong in [
        vec![],
        whole[..21].to_vec(),
        [&whole[..], &[0x81, 1, 0]].concat(),
        [&whole[..21], &[0x00, 1, 0]].concat(),
        [&whole[..21], &[0x07, 1, 0]].concat(),
        with(&[(0, 4, 0)]),
        with(&[(0, 0, 0)]),
        with(&[(0, 1, 2)]),
    ] {
        to.refused(&command(&rows(&wrong)), 0x6A80);
    }
    println!("status words of SET PAIRING refused: {:04X?}", to.seen);
}

/// Roots of other containers, supplementary domains, a root that is locked, an SE without the key.
#[test]
fn the_platforms_root_alone_takes_pairing_data_while_it_may() {
    let mut card = se::card();
    let good = good();
    for protocol in [Protocol::T0, Protocol::Proprietary(0)] {
        for capdu in [&command(&good)[..], &[0x80, 0x38, 0x01, 0x00]] {
            assert_eq!(sw(&se::send(&mut card, protocol, capdu)), 0x6D00);
        }
        assert_eq!(
            sw(&se::send(&mut card, protocol, &[0x80, 0xCA, 0xDF, 0x24, 0])),
            0x6A88
        );
    }
    // A supplementary domain of the eSE is not its root.
    assert_eq!(se::select(&mut card, SPI, se::AM_SD), 0x9000);
    assert_eq!(sw(&se::send(&mut card, SPI, &command(&good))), 0x6D00);
    // Locked, it is not changed; unlocked it is.
    card.reset(Interface::Spi);
    let (keys, level) = (se::keys_of(1), SecurityLevel::FULL);
    let mut host = Host::open_on(&mut card, Interface::Spi, 0, 0x30, &keys, level, MacMode::S8).unwrap();
    for state in [0x07, 0x0F, 0x7F] {
        assert_eq!(sw(&host.send(&mut card, &[0x80, 0xF0, 0x80, state])), 0x9000);
    }
    assert_eq!(sw(&host.send(&mut card, &command(&good))), 0x6985);
    assert_eq!(sw(&host.send(&mut card, &[0x80, 0xF0, 0x80, 0x0F])), 0x9000);
    assert_eq!(sw(&host.send(&mut card, &command(&good))), 0x9000);
    // Without the key there is nothing to try.
    let made = Made {
        without_pairing_key: true,
        ..Made::default()
    };
    let mut card = se::make(Counting::new(), &se::profile(), made);
    assert_eq!(sw(&se::send(&mut card, SPI, &command(&good))), 0x6A88);
    assert_eq!(object(&mut card), (0, 0, with(&[])));
}

/// What changes, the rows that do, and which interfaces are reset.
type Way = (&'static str, &'static [(usize, u8, u8)], [bool; 4]);

const ALL: [Interface; 4] = [
    Interface::Iso7816Contact,
    Interface::Swp,
    Interface::ApduGate,
    Interface::Spi,
];
/// What each of them speaks first, by the row's place.
const SPOKEN: [usize; 4] = [0, 2, 4, 5];

/// An SE with a secure channel on each interface, and on logical channel 1 of each an answer that waits.
fn all_talk() -> (Card, Vec<Host>) {
    let mut card = se::card();
    let open = |(interface, number)| {
        let (keys, level) = (se::keys_of(number), SecurityLevel::FULL);
        Host::open_on(&mut card, interface, 0, 0x30, &keys, level, MacMode::S8).unwrap()
    };
    let hosts = ALL.into_iter().zip([2, 1, 1, 1]).map(open).collect();
    for interface in ALL {
        let opened = common::send_on(&mut card, interface, &[0x00, 0x70, 0, 0, 1]);
        assert_eq!(opened[0], 1);
        let cut = common::send_on(&mut card, interface, &[0x81, 0xCA, 0x00, 0x66, 0x10]);
        assert_eq!(cut[16..], [0x61, 0x23]);
    }
    (card, hosts)
}

/// The interface starts anew: with the root of the container that the row says.
fn is_reset(card: &mut Card, interface: Interface, number: u8) {
    let waits = common::send_on(card, interface, &[0x01, 0xC0, 0, 0, 0]);
    assert_eq!(waits, [0x68, 0x81], "{interface:?}");
    let level = common::send_on(card, interface, &[0x00, 0xCA, 0x00, 0xD3, 0]);
    assert_eq!(level, [0x00, 0x90, 0x00], "{interface:?}");
    let id = common::send_on(card, interface, &[0x00, 0xCA, 0x00, 0xCF, 0]);
    assert_eq!(id[..10], se::se_id(number), "{interface:?}");
}

/// The interfaces for whose present protocol the row is another, the one of the command not excepted; what is open on others goes on.
#[test]
fn interfaces_whose_row_changed_are_reset_and_others_notice_nothing() {
    let ways: [Way; 7] = [
        ("nothing", &[], [false; 4]),
        (
            "what nobody speaks",
            &[(1, 1, 0), (3, 3, 1), (6, 2, 0), (7, 1, 0)],
            [false; 4],
        ),
        ("the contacts", &[(0, 1, 0)], [true, false, false, false]),
        ("the rule of SWP", &[(2, 1, 1)], [false, true, false, false]),
        ("the gate", &[(4, 3, 0)], [false, false, true, false]),
        ("its own", &[(5, 2, 1)], [false, false, false, true]),
        ("all", &[(0, 3, 1), (2, 3, 1), (4, 3, 1), (5, 3, 1)], [true; 4]),
    ];
    for (is_protected, (what, rows, changed)) in
        [false, true].into_iter().flat_map(|is| ways.map(|way| (is, way)))
    {
        let (mut card, mut hosts) = all_talk();
        let change = set_pairing(1, &with(rows));
        let answer = if is_protected {
            hosts[3].send(&mut card, &change)
        } else {
            // In the clear: the secure channel there ends, as with any command in the clear.
            card.reset(Interface::Spi);
            common::send_on(&mut card, Interface::Spi, &change)
        };
        assert_eq!(answer, [0x90, 0x00], "{what}");
        for (at, (interface, host)) in ALL.into_iter().zip(&mut hosts).enumerate() {
            if changed[at] {
                let its = rows.iter().find(|(row, _, _)| SPOKEN[at] == *row).unwrap();
                is_reset(&mut card, interface, its.1);
            } else if interface != Interface::Spi || is_protected {
                let waits = common::send_on(&mut card, interface, &[0x01, 0xC0, 0, 0, 0]);
                assert_eq!(waits.len(), 0x23 + 2, "{what} {interface:?}");
                let level = host.send(&mut card, &[0x00, 0xCA, 0x00, 0xD3, 0]);
                assert_eq!(level, [0xB3, 0x90, 0x00], "{what} {interface:?}");
            }
        }
    }
}

/// Cut at each flash operation: the old pairing data or the new, rows and number together, and never 9000 with the old.
#[test]
fn a_power_cut_leaves_the_old_or_the_new_pairing_data() {
    let next = with(&[(0, 1, 1), (6, 2, 0), (7, 1, 0)]);
    let mut seen = BTreeMap::<_, usize>::new();
    for earlier in [0, 1, 40] {
        let mut card = se::card();
        for number in 1..=earlier {
            let rows = with(&[(2, 1 + u8::try_from(number % 3).unwrap(), 0)]);
            assert_eq!(sw(&se::send(&mut card, SPI, &set_pairing(number, &rows))), 0x9000);
        }
        let before = object(&mut card);
        let made = card.into_flash();
        for cut in 0.. {
            let mut flash = made.clone();
            flash.inner().cut_after(cut, cut);
            let mut out = [0; 2];
            // The start may write too: it is not what is cut here.
            let (answered, mut flash) = match Card::booted(flash, common::SeededRng(3), &se::profile()) {
                Ok(mut card) => {
                    let command = set_pairing(earlier + 1, &next);
                    assert_eq!(card.transmit(Interface::Spi, &command, &mut out), 2);
                    (sw(&out), card.into_flash())
                }
                Err(failure) => (0, failure.flash),
            };
            let was_cut = flash.is_off();
            flash.inner().power_on();
            let mut card = se::boot(flash, &se::profile());
            let after = object(&mut card);
            let is_new = after == (1, earlier + 1, next.clone());
            assert!(is_new || after == before, "cut {cut}: {after:02X?}");
            assert_eq!(
                se::send(&mut card, Protocol::T0, &[0, 0xCA, 0, 0xCF, 0])[9] == 1,
                is_new
            );
            *seen.entry((answered, is_new)).or_default() += 1;
            if !was_cut {
                break;
            }
        }
    }
    println!("SET PAIRING cut: {seen:04X?}");
    assert!(seen.contains_key(&(0x9000, true)) && seen.contains_key(&(0x6581, false)));
    assert!(!seen.contains_key(&(0x9000, false)));
}

/// A record that does not fit the SE that starts: the default, which says so; the number goes on.
#[test]
fn a_record_that_does_not_fit_falls_back_to_the_default_and_stays_numbered() {
    let mut card = se::card();
    let rows = with(&[(0, 3, 0), (5, 2, 0)]);
    assert_eq!(sw(&se::send(&mut card, SPI, &set_pairing(9, &rows))), 0x9000);
    assert_eq!(se::send(&mut card, SPI, &[0, 0xCA, 0, 0xCF, 0])[9], 2);
    let flash = card.into_flash();
    // Another version of the product with one row more: its default is in force.
    let second = se::profile()
        .pairing
        .with(Protocol::Proprietary(1), Row::all(se::id(2)));
    let mut card = se::boot(flash, &se::paired(second));
    let fallen = [with(&[]), vec![0x81, 2, 1]].concat();
    assert_eq!(object(&mut card), (2, 9, fallen.clone()));
    assert_eq!(se::send(&mut card, Protocol::T0, &[0, 0xCA, 0, 0xCF, 0])[9], 2);
    // Older pairing data stay refused; newer ones heal it.
    assert_eq!(sw(&se::send(&mut card, SPI, &set_pairing(9, &fallen))), 0x9502);
    assert_eq!(sw(&se::send(&mut card, SPI, &set_pairing(10, &fallen))), 0x9000);
    assert_eq!(object(&mut card), (1, 10, fallen));
    // The first version again: damaged for it.
    let mut card = se::boot(card.into_flash(), &se::profile());
    assert_eq!(object(&mut card), (2, 10, with(&[])));
}

/// Bits of the record that flip where they stand on the flash: the store finds them, and nothing ever runs with pairing data that nobody made.
#[test]
fn a_record_whose_bits_flip_never_routes() {
    let mut card = se::card();
    let rows = with(&[(0, 3, 1), (1, 3, 1), (2, 2, 1), (3, 2, 1), (4, 3, 0)]);
    assert_eq!(
        sw(&se::send(&mut card, SPI, &set_pairing(0x0A0B_0C0D, &rows))),
        0x9000
    );
    let image = card.into_flash().inner().image();
    let at = image
        .windows(rows.len())
        .rposition(|bytes| bytes == rows)
        .unwrap();
    for byte in 0..rows.len() {
        for bit in 0..8 {
            let mut image = image.clone();
            image[at + byte] ^= 1 << bit;
            let flash = sekisho_nvm::ram::RamFlash::from_image(common::PAGE, &image);
            match Card::booted(Counting::of(flash), common::SeededRng(3), &se::profile()) {
                Ok(mut card) => assert_eq!(object(&mut card), (2, 0x0A0B_0C0D, with(&[]))),
                Err(failure) => assert_eq!(failure.error, BootError::Refused(StatusWord(0x6581))),
            }
        }
    }
}

/// PUT KEY and DELETE that name version 64 are 6985 in every container; what is the platform's is made in the eSE alone.
#[test]
fn the_pairing_key_is_nobodys_to_put_or_delete() {
    let mut card = se::card();
    for (number, protocol, interface) in [
        (1, SPI, Interface::Spi),
        (2, Protocol::T0, Interface::Iso7816Contact),
        (3, Protocol::Proprietary(0), Interface::Spi),
    ] {
        se::send(&mut card, protocol, &[0, 0xCA, 0, 0xCF, 0]);
        let keys = se::keys_of(number);
        let level = SecurityLevel::FULL;
        let mut host = Host::open_on(&mut card, interface, 0, 0x30, &keys, level, MacMode::S8).unwrap();
        for capdu in [
            &[0x80, 0xD8, 0x64, 0x01, 1, 0x64][..],
            &[0x80, 0xD8, 0x00, 0x01, 1, 0x64],
            &[0x80, 0xE4, 0x00, 0x00, 3, 0xD2, 1, 0x64],
            &[0x80, 0xE4, 0x00, 0x00, 6, 0xD0, 1, 1, 0xD2, 1, 0x64],
        ] {
            assert_eq!(sw(&host.send(&mut card, capdu)), 0x6985, "{number} {capdu:02X?}");
        }
        // The list of keys has it where it is.
        let listed = host.send(&mut card, &[0x80, 0xCA, 0x00, 0xE0, 0x00]);
        let is_listed = listed
            .windows(6)
            .any(|object| object == [0xC0, 4, 1, 0x64, 0x88, 16]);
        assert_eq!(is_listed, number == 1);
    }
    assert_eq!(sw(&se::send(&mut card, SPI, &set_pairing(1, &with(&[])))), 0x9000);
}

/// A product's own protocol is data: a row of the profile, and the interface speaks it.
#[test]
fn a_protocol_of_the_products_own_is_a_row() {
    let pairing = Pairing::all_to(se::id(1)).with(Protocol::Proprietary(0x7F), Row::all(se::id(3)));
    let mut card = se::boot(se::card().into_flash(), &se::paired(pairing));
    for interface in Interface::ALL {
        assert!(card.reset_to(interface, Protocol::Proprietary(0x7F)));
        let id = common::send_on(&mut card, interface, &[0, 0xCA, 0, 0xCF, 0]);
        assert_eq!(id[..10], se::se_id(3));
        assert!(!card.reset_to(interface, Protocol::Proprietary(0)));
    }
}
