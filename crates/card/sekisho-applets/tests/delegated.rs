//! Delegated management (docs/spec/loading.md, 3.1): what its tables do not reach. Every byte of a token and of what it is over, long commands, numbers across power, containers apart, key changes.
#![cfg(feature = "os-part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use sekisho_keys::p256sig::SigningKey;
use sekisho_os::Interface;
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::host::Host;
use crate::common::tables::Page;
use crate::common::{ByValue as _, SeededRng, initial_keys, sw};
use crate::loadable::{
    APPLICATION, Card, FILE, FIRST, METER, MODULE, SECOND, ask, boot, card, carrier, loads, profile, select,
};

const PAGE: Page = Page::new(include_str!("../../../../docs/spec/loading.md"));

pub(crate) const ISD: &[u8] = b"\xA0\x00\x00\x01\x51\x00\x00\x00";
pub(crate) const SD: &[u8] = b"\xF0LOADSD";
pub(crate) const OTHER_SD: &[u8] = b"\xF0LOADSE";

pub(crate) fn lv(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

pub(crate) fn try_open(card: &mut Card, interface: Interface, aid: &[u8]) -> Option<Host> {
    assert_eq!(select(card, interface, aid), 0x9000);
    let (level, mode) = (SecurityLevel::FULL, MacMode::S8);
    Host::open_on(card, interface, 0, 0, &initial_keys(), level, mode).ok()
}

pub(crate) fn open(card: &mut Card, interface: Interface, aid: &[u8]) -> Host {
    try_open(card, interface, aid).unwrap()
}

/// CLA 80, INS, P1, data field, in the extended form.
pub(crate) fn command(ins: u8, p1: u8, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).unwrap().to_be_bytes();
    [&[0x80, ins, p1, 0, 0][..], &len, data, &[0, 0]].concat()
}

/// A command of INSTALL with the token of a key.
pub(crate) fn by_token(p1: u8, fields: &[u8], key: &SigningKey) -> Vec<u8> {
    let len = u16::try_from(fields.len()).unwrap().to_be_bytes();
    let header = match len {
        [0, len] => vec![p1, 0, len],
        [high, low] => vec![p1, 0, 0, high, low],
    };
    let token = key.sign_parts(&[&header, fields]);
    command(0xE6, p1, &[fields, &lv(&token)].concat())
}

pub(crate) fn put_token_key(replaces: u8, public: &[u8; 65]) -> Vec<u8> {
    let fields = [&[0x70, 0xB0, 0x41][..], public, &[0xF0, 1, 0, 0]].concat();
    [&[0x80, 0xD8, replaces, 0x01][..], &lv(&fields), &[0]].concat()
}

pub(crate) fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32]).unwrap()
}

/// Domains with Delegated Management where an interface leads, and the token key of their container.
pub(crate) fn delegated(card: &mut Card, interface: Interface, public: &[u8; 65]) {
    let mut host = open(card, interface, ISD);
    assert_eq!(sw(&host.send(card, &put_token_key(0, public))), 0x9000);
    for domain in [SD, OTHER_SD] {
        let file = b"\x07\xA0\x00\x00\x01\x51\x53\x50\x08\xA0\x00\x00\x01\x51\x53\x50\x41";
        let fields = [&file[..], &lv(domain), &[1, 0xA0, 0, 0]].concat();
        assert_eq!(sw(&host.send(card, &command(0xE6, 0x0C, &fields))), 0x9000);
    }
}

/// The fields of INSTALL [for load] of the file, for a domain, up to the token.
pub(crate) fn load_fields(data: &[u8], parameters: &[u8]) -> Vec<u8> {
    let hash = sekisho_keys::sha256(&[data]);
    [lv(FILE), lv(SD), lv(&hash), lv(parameters)].concat()
}

pub(crate) fn install_fields(parameters: &[u8]) -> Vec<u8> {
    [lv(FILE), lv(MODULE), lv(APPLICATION), lv(&[]), lv(parameters)].concat()
}

pub(crate) fn number(n: u8) -> [u8; 5] {
    [0xB6, 3, 0x93, 1, n]
}

/// The file loaded by token, up to the last block.
fn load(host: &mut Host, card: &mut Card, first: &[u8]) {
    assert_eq!(host.send(card, first), [0, 0x90, 0]);
    for block in &loads(&carrier(METER), 240)[1..] {
        assert_eq!(sw(&host.send(card, block)), 0x9000);
    }
}

#[test]
fn every_byte_of_a_token_and_of_what_it_is_over_counts() {
    let mut card = card();
    let key = key(1);
    delegated(&mut card, FIRST, &key.verifying_key().to_sec1());
    let mut host = open(&mut card, FIRST, SD);
    let right = by_token(0x02, &load_fields(&carrier(METER), &number(1)), &key);
    // P1 and P2, the data field: where the form stays one it is the token that is wrong.
    let mut words = std::collections::BTreeMap::new();
    for at in (2..4).chain(7..right.len() - 2) {
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        let word = sw(&host.send(&mut card, &wrong));
        *words.entry(word).or_insert(0) += 1;
        assert!([0x6982, 0x6A80, 0x6A86].contains(&word), "{at}: {word:04X}");
    }
    // Lengths are a matter of form, P1 and P2 of what there is: all others are the token's.
    assert!(words[&0x6982] > right.len() - 30, "{words:04X?}");
    load(&mut host, &mut card, &right);
}

/// A data field of more than 255 bytes: the token of another library is over its length in three bytes.
#[test]
fn a_token_is_over_the_long_length_of_a_long_command() {
    let mut card = card();
    let public = PAGE.block("token-public").try_into().unwrap();
    let mut host = open(&mut card, FIRST, ISD);
    assert_eq!(sw(&host.send(&mut card, &put_token_key(0, &public))), 0x9000);
    let hex = |digits: &str| hex::decode(digits).unwrap();
    let domain = [
        hex("07A000000151535008A00000015153504106F0534B534431"),
        hex("03A000000000"),
    ];
    assert_eq!(
        sw(&host.send(&mut card, &command(0xE6, 0x0C, &domain.concat()))),
        0x9000
    );
    let file = PAGE.block("load-file");
    let announced = hex("06F0534B4C460006F0534B534431000000");
    assert_eq!(
        sw(&host.send(&mut card, &command(0xE6, 0x02, &announced))),
        0x9000
    );
    let whole = [&[0xC4, 0x81, 0xB1][..], &file].concat();
    assert_eq!(sw(&host.send(&mut card, &command(0xE8, 0x80, &whole))), 0x9000);
    let mut host = open(&mut card, FIRST, &hex("F0534B534431"));
    let fields = [
        hex("06F0534B4C460007F0534B4C46000107F0534B4C4601010081F3C981F0"),
        vec![0x5A; 240],
    ]
    .concat();
    let token = lv(&PAGE.block("token-long"));
    let long = command(0xE6, 0x0C, &[&fields[..], &token].concat());
    let mut shorter = fields.clone();
    shorter[30..].fill(0x5B);
    let wrong = command(0xE6, 0x0C, &[&shorter[..], &token].concat());
    assert_eq!(sw(&host.send(&mut card, &wrong)), 0x6982);
    assert_eq!(host.send(&mut card, &long), [0, 0x90, 0]);
    assert_eq!(select(&mut card, FIRST, &hex("F0534B4C460101")), 0x9000);
}

/// Extradition and the second step of an installation by token; a number that was used is used across power, and one is above the last whoever had it.
#[test]
fn numbers_are_used_for_good_and_each_purpose_has_its_token() {
    let mut card = card();
    let key = key(1);
    delegated(&mut card, FIRST, &key.verifying_key().to_sec1());
    let mut host = open(&mut card, FIRST, SD);
    let loading = by_token(0x02, &load_fields(&carrier(METER), &number(7)), &key);
    load(&mut host, &mut card, &loading);
    let old = by_token(0x04, &install_fields(&number(6)), &key);
    assert_eq!(sw(&host.send(&mut card, &old)), 0x6982);
    let install = by_token(0x04, &install_fields(&number(8)), &key);
    assert_eq!(sw(&host.send(&mut card, &install)), 0x9000);
    let mut card = boot(card);
    let mut host = open(&mut card, FIRST, SD);
    assert_eq!(sw(&host.send(&mut card, &install)), 0x6982, "used");
    assert_eq!(sw(&host.send(&mut card, &loading)), 0x6982, "used");
    let mut make = [&[0, 0][..], &lv(APPLICATION), &[0, 0]].concat();
    assert_eq!(
        sw(&host.send(&mut card, &command(0xE6, 0x08, &[&make[..], &[0]].concat()))),
        0x6985
    );
    // Without a number: it is as good when it comes again, and what it is for is done.
    let selectable = by_token(0x08, &make, &key);
    assert_eq!(sw(&host.send(&mut card, &selectable)), 0x9000);
    assert_eq!(sw(&host.send(&mut card, &selectable)), 0x6985);
    make = [&lv(OTHER_SD)[..], &[0], &lv(APPLICATION), &[0, 0]].concat();
    // The other domain is not within this one, and is no less a domain to give it to.
    assert_eq!(sw(&host.send(&mut card, &by_token(0x10, &make, &key))), 0x9000);
    assert_eq!(
        sw(&host.send(&mut card, &by_token(0x10, &make, &key))),
        0x6A88,
        "it is the other's now"
    );
    assert_eq!(select(&mut card, FIRST, APPLICATION), 0x9000);
    assert_eq!(sw(&ask(&mut card, FIRST, 0x20, &[])), 0x9000);
    let mut other = open(&mut card, FIRST, OTHER_SD);
    let delete = [&[0x4F][..], &lv(APPLICATION), &number(9)].concat();
    let token = key.sign_parts(&[&[0, 0, u8::try_from(delete.len()).unwrap()], &delete]);
    let delete = command(0xE4, 0, &[&delete[..], &[0x9E], &lv(&token)].concat());
    assert_eq!(sw(&other.send(&mut card, &delete)), 0x9000);
    assert_eq!(
        sw(&other.send(&mut card, &delete)),
        0x6982,
        "used, though what it has deleted took all that was written with it"
    );
    assert_eq!(select(&mut card, FIRST, APPLICATION), 0x6A82);
}

/// A container's tokens are under its own root's key, and its numbers its own; a key that is replaced or deleted ends what is being loaded, and its tokens.
#[test]
fn a_token_is_for_the_container_whose_key_it_is_under() {
    let [one, two] = [key(1), key(2)];
    let mut card = card();
    delegated(&mut card, FIRST, &one.verifying_key().to_sec1());
    delegated(&mut card, SECOND, &two.verifying_key().to_sec1());
    let fields = load_fields(&carrier(METER), &number(1));
    let [of_one, of_two] = [&one, &two].map(|key| by_token(0x02, &fields, key));
    for (interface, right, wrong) in [(FIRST, &of_one, &of_two), (SECOND, &of_two, &of_one)] {
        let mut host = open(&mut card, interface, SD);
        assert_eq!(sw(&host.send(&mut card, wrong)), 0x6982);
        load(&mut host, &mut card, right);
    }
    for (change, ends) in [
        (put_token_key(0x70, &two.verifying_key().to_sec1()), true),
        (vec![0x80, 0xE4, 0, 0, 3, 0xD2, 1, 0x70, 0], true),
        (vec![0x80, 0xCA, 0, 0xE0, 0], false),
    ] {
        let mut card = self::card();
        delegated(&mut card, FIRST, &one.verifying_key().to_sec1());
        let mut host = open(&mut card, FIRST, SD);
        assert_eq!(sw(&host.send(&mut card, &of_one)), 0x9000);
        let blocks = &loads(&carrier(METER), 240)[1..];
        assert_eq!(sw(&host.send(&mut card, &blocks[0])), 0x9000);
        let mut issuer = open(&mut card, Interface::ApduGate, ISD);
        assert_eq!(sw(&issuer.send(&mut card, &change)), 0x9000);
        let answer = sw(&host.send(&mut card, &blocks[1]));
        assert_eq!(answer, if ends { 0x6985 } else { 0x9000 });
    }
}

/// Power cut at every operation of an installation by token: the application is there whole or not at all, never with its number left to use, and never answered without it.
#[test]
fn power_cut_at_every_operation_of_an_installation_by_token() {
    let mut card = card();
    let key = key(1);
    delegated(&mut card, FIRST, &key.verifying_key().to_sec1());
    let mut host = open(&mut card, FIRST, SD);
    let loading = by_token(0x02, &load_fields(&carrier(METER), &number(1)), &key);
    load(&mut host, &mut card, &loading);
    let flash = card.into_flash();
    let install = by_token(0x0C, &install_fields(&number(2)), &key);
    let mut seen = std::collections::BTreeMap::new();
    for cut in 0.. {
        let mut flash = flash.clone();
        flash.cut_after(cut, 0);
        let (done, mut flash) = match Card::booted(flash, SeededRng(2), &profile()) {
            Err(failure) => (false, failure.flash),
            Ok(mut card) => {
                let host = try_open(&mut card, FIRST, SD);
                let done = host.is_some_and(|mut host| sw(&host.send(&mut card, &install)) == 0x9000);
                (done, card.into_flash())
            }
        };
        let was_cut = flash.is_off();
        flash.power_on();
        let mut card = Card::booted(flash, SeededRng(3), &profile()).unwrap();
        let is_there = select(&mut card, FIRST, APPLICATION) == 0x9000;
        let mut host = open(&mut card, FIRST, SD);
        let again = sw(&host.send(&mut card, &install));
        assert!(!is_there || again == 0x6982, "cut {cut}: {again:04X}");
        assert!(again == 0x9000 || again == 0x6982, "cut {cut}: {again:04X}");
        *seen.entry((done, is_there, again)).or_insert(0) += 1;
        if !was_cut {
            break;
        }
    }
    let outcomes: Vec<_> = seen.keys().copied().collect();
    assert!(outcomes.contains(&(false, false, 0x9000)), "{seen:04X?}");
    assert!(outcomes.contains(&(false, true, 0x6982)), "{seen:04X?}");
    assert_eq!(seen[&(true, true, 0x6982)], 1, "{seen:04X?}");
    assert!(
        !outcomes.iter().any(|(done, is_there, _)| *done && !is_there),
        "{seen:04X?}"
    );
}

/// Another domain installs nothing from a domain's load file, whatever its token. And the file's own domain deletes what comes from it, but not what has become another's meanwhile: all of it stays then.
#[test]
fn what_is_another_domains_is_neither_installed_from_nor_deleted() {
    let mut card = card();
    let key = key(1);
    delegated(&mut card, FIRST, &key.verifying_key().to_sec1());
    let delete = |aid: &[u8], p2: u8, n: u8| {
        let fields = [&[0x4F][..], &lv(aid), &number(n)].concat();
        let token = key.sign_parts(&[&[0, p2, u8::try_from(fields.len()).unwrap()], &fields]);
        let mut command = command(0xE4, 0, &[&fields[..], &[0x9E], &lv(&token)].concat());
        command[3] = p2;
        command
    };
    let mut host = open(&mut card, FIRST, SD);
    let first = by_token(0x02, &load_fields(&carrier(METER), &number(1)), &key);
    load(&mut host, &mut card, &first);
    let install = |n: u8| by_token(0x0C, &install_fields(&number(n)), &key);
    let mut other = open(&mut card, FIRST, OTHER_SD);
    assert_eq!(sw(&other.send(&mut card, &install(2))), 0x6A88);
    let mut host = open(&mut card, FIRST, SD);
    let given = [&lv(OTHER_SD)[..], &[0], &lv(APPLICATION), &[0], &lv(&number(4))].concat();
    for command in [install(3), by_token(0x10, &given, &key)] {
        assert_eq!(sw(&host.send(&mut card, &command)), 0x9000);
    }
    assert_eq!(sw(&host.send(&mut card, &delete(FILE, 0x80, 5))), 0x6985);
    assert_eq!(sw(&host.send(&mut card, &delete(APPLICATION, 0, 6))), 0x6A82);
    assert_eq!(select(&mut card, FIRST, APPLICATION), 0x9000);
    // Who has it takes it away, and then the file goes.
    let mut other = open(&mut card, FIRST, OTHER_SD);
    assert_eq!(sw(&other.send(&mut card, &delete(APPLICATION, 0, 7))), 0x9000);
    let mut host = open(&mut card, FIRST, SD);
    assert_eq!(sw(&host.send(&mut card, &delete(FILE, 0x80, 8))), 0x9000);
}
