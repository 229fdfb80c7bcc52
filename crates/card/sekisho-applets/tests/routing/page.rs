//! The exchanges of the page, section 7.

use sekisho_keys::KeySet;
use sekisho_os::{Interface, Protocol};
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::host::Host;
use crate::common::script::matches;
use crate::common::sw;
use crate::se::{self, Card, PROTOCOLS};

const PAGE: &str = include_str!("../../../../../docs/spec/routing.md");

fn protocol(name: &str) -> Protocol {
    let known = PROTOCOLS.iter().find(|(of, _, _)| *of == name);
    known.unwrap_or_else(|| panic!("no protocol {name}")).1
}

fn play(block: &str) -> (usize, Vec<String>) {
    let mut card: Card = se::card();
    let (mut count, mut wrong) = (0, vec![]);
    for line in block.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["power"] => card = se::boot(card.into_flash(), &se::profile()),
            [name, command, expected] => {
                let answer = se::send(&mut card, protocol(name), &hex::decode(command).unwrap());
                count += 1;
                if !matches(expected, &answer) {
                    wrong.push(format!("{line}\n    answered {}", hex::encode_upper(answer)));
                }
            }
            _ => panic!("no line of an exchange: {line}"),
        }
    }
    (count, wrong)
}

/// Figure 2 of seed 2 with its mirror, names, and other pairing data, as the page has them.
#[test]
fn figure_2_and_the_other_exchanges_of_the_page() {
    let blocks = PAGE.split("```routing\n").skip(1);
    let (mut counts, mut wrong) = (vec![], vec![]);
    for block in blocks {
        let (count, not_so) = play(block.split("```").next().unwrap());
        counts.push(count);
        wrong.extend(not_so);
    }
    println!("exchanges of the page: {counts:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(counts.len(), 3);
}

/// CLA 80, INS, P1, data field.
fn command(ins: u8, p1: u8, p2: u8, data: &[u8]) -> Vec<u8> {
    let len = u8::try_from(data.len()).unwrap();
    [&[0x80, ins, p1, p2, len], data, &[0]].concat()
}

fn lv(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn open(card: &mut Card, name: &[u8], kvn: u8, keys: &KeySet) -> Host {
    assert_eq!(se::select(card, Protocol::SpiEse, name), 0x9000);
    let (level, mode) = (SecurityLevel::FULL, MacMode::S8);
    Host::open_on(card, Interface::Spi, 0, kvn, keys, level, mode).unwrap()
}

/// Figure 2 has an application under AM SD: it is found on both sides as any other of container 1, its domain alone manages it beside the root, and nobody in container 2 sees it.
#[test]
fn figure_2_with_an_application_of_am_sd() {
    const OWN: &[u8] = b"\xF0SKOFAM";
    let mut card: Card = se::card();
    let mut root = open(&mut card, &se::COMMON, 0x30, &se::keys_of(1));
    let install: Vec<u8> = [
        se::LOAD_FILE,
        se::EVERYWHERE,
        OWN,
        &[],
        b"\xEF\x07\xA0\x05\xA5\x03\x82\x01\xC0",
        &[],
    ]
    .into_iter()
    .flat_map(lv)
    .collect();
    assert_eq!(
        sw(&root.send(&mut card, &command(0xE6, 0x0C, 0, &install))),
        0x9000
    );
    let extradite: Vec<u8> = [se::AM_SD, &[], OWN, &[], &[], &[]]
        .into_iter()
        .flat_map(lv)
        .collect();
    assert_eq!(
        sw(&root.send(&mut card, &command(0xE6, 0x10, 0, &extradite))),
        0x9000
    );
    let delete = command(0xE4, 0, 0, &[&[0x4F][..], &lv(se::AM_SD)].concat());
    assert_eq!(
        sw(&root.send(&mut card, &delete)),
        0x6985,
        "it has an application"
    );
    // On every row: its own container's first, and from the other one as the only one of its name.
    for (_, protocol, _) in se::PROTOCOLS {
        assert_eq!(se::select(&mut card, protocol, OWN), 0x9000, "{protocol:?}");
        assert_eq!(se::container(&mut card, protocol), Some(1), "{protocol:?}");
    }
    // AM SD is shown it and locks it; its own keys open nothing of the root's.
    let keys = se::keys_of_domain(se::AM_SD);
    let show = command(
        0xF2,
        0x40,
        0x02,
        &[&[0x4F][..], &lv(OWN), &[0x5C, 2, 0x4F, 0xCC]].concat(),
    );
    let mut own = open(&mut card, se::AM_SD, se::DOMAIN_KVN, &keys);
    let shown = [&[0xE3, 18, 0x4F, 7][..], OWN, &[0xCC, 7], se::AM_SD, &[0x90, 0]].concat();
    assert_eq!(own.send(&mut card, &show), shown);
    assert_eq!(sw(&own.send(&mut card, &command(0xF0, 0x40, 0x80, OWN))), 0x9000);
    for protocol in [Protocol::SpiEse, Protocol::T0] {
        assert_eq!(se::select(&mut card, protocol, OWN), 0x6A82);
    }
    // Whoever has the right name in container 2 has no right to it.
    for (name, kvn, keys) in [
        (&se::OTHER_ROOT[..], 0x30, se::keys_of(2)),
        (se::ISD_P1, se::DOMAIN_KVN, se::keys_of_domain(se::ISD_P1)),
    ] {
        let mut other = open(&mut card, name, kvn, &keys);
        assert_eq!(sw(&other.send(&mut card, &show)), 0x6A88);
        assert_eq!(
            sw(&other.send(&mut card, &command(0xF0, 0x40, 0x00, OWN))),
            0x6A88
        );
    }
    let mut root = open(&mut card, &se::COMMON, 0x30, &se::keys_of(1));
    assert_eq!(sw(&root.send(&mut card, &command(0xF0, 0x40, 0x00, OWN))), 0x9000);
    assert_eq!(se::select(&mut card, Protocol::T0, OWN), 0x9000);
}

/// The table of protocols is that of the code.
#[test]
fn the_rows_of_the_page_are_those_of_the_code() {
    for (name, protocol, interface) in PROTOCOLS.into_iter().take(7) {
        let code = protocol.code().unwrap();
        let starts = format!("| {code:02X} | ");
        let row = PAGE.lines().find(|line| line.starts_with(&starts)).unwrap();
        assert!(row.contains(&format!("| `{name}` |")), "{row}");
        let is_first = row.ends_with("| yes |");
        assert_eq!(is_first, interface.default_protocol() == protocol, "{row}");
    }
    let limit = PAGE.contains("A product adds up to eight rows");
    assert!(limit && sekisho_os::PROPRIETARY_ROWS_MAX == 8);
}
