//! Receipts of delegated management (docs/spec/loading.md, 3.2): what its tables do not reach. Numbers across power, cuts and keys, containers apart, who gets none.
#![cfg(feature = "os-part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use sekisho_keys::cmac;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::Interface;

use crate::common::host::Host;
use crate::common::{ByValue as _, SE_ID, SeededRng, initial_keys, key as aes, keys, sw};
use crate::delegated::*;
use crate::loadable::{
    APPLICATION, Card, FILE, FIRST, METER, MODULE, SECOND, Transmit as _, boot, card, card_with, carrier,
    loads, profile, select,
};

const KEY: [u8; 16] = [0x71; 16];

/// PUT KEY of an AES key, alone in version 71.
fn put_receipt_key(replaces: u8, value: [u8; 16]) -> Vec<u8> {
    let field = keys::aes_field(&initial_keys().dek, &aes(&value));
    keys::put_key(replaces, 0x01, 0x71, &[field])
}

/// Domains with Delegated Management, token key 1 and the receipt key, where an interface leads.
fn receipting(card: &mut Card, interface: Interface) {
    delegated(card, interface, &key(1).verifying_key().to_sec1());
    let mut host = open(card, interface, ISD);
    assert_eq!(sw(&host.send(card, &put_receipt_key(0, KEY))), 0x9000);
}

/// The number of the root's last receipt.
fn counter(card: &mut Card, interface: Interface) -> u16 {
    select(card, interface, ISD);
    let answer = card.transmit_to(interface, &[0x80, 0xCA, 0x00, 0xC2, 0]);
    assert_eq!(answer[..2], [0xC2, 2]);
    u16::from_be_bytes([answer[2], answer[3]])
}

/// The receipt of a key, with this number and that of the token, over a context.
fn receipt(value: [u8; 16], number: u16, token: &[u8], context: &[&[u8]]) -> Vec<u8> {
    let unique = [&[0x99, 0x99, 0, 0][..], &SE_ID].concat();
    let confirmation = [&[2][..], &number.to_be_bytes(), &lv(&unique), token].concat();
    let context: Vec<u8> = context.iter().flat_map(|part| lv(part)).collect();
    let mac = cmac(&aes(&value), &[&confirmation, &context]);
    let whole = [&lv(&mac)[..], &confirmation].concat();
    [&lv(&whole)[..], &[0x90, 0x00]].concat()
}

fn delete(aid: &[u8], token: &[u8]) -> Vec<u8> {
    let fields = [&[0x4F][..], &lv(aid), token].concat();
    let token = key(1).sign_parts(&[&[0, 0, u8::try_from(fields.len()).unwrap()], &fields]);
    command(0xE4, 0, &[&fields[..], &[0x9E], &lv(&token)].concat())
}

fn install(p1: u8, n: u8) -> Vec<u8> {
    by_token(p1, &install_fields(&number(n)), &key(1))
}

fn extradite(to: &[u8], n: u8) -> Vec<u8> {
    let fields = [&lv(to)[..], &[0], &lv(APPLICATION), &[0], &lv(&number(n))].concat();
    by_token(0x10, &fields, &key(1))
}

/// Registry update: the application answers over SWP as well.
fn update(n: u8) -> Vec<u8> {
    let parameters = [&b"\xEF\x07\xA0\x05\xA5\x03\x82\x01\xC0"[..], &number(n)].concat();
    let fields = [&[0, 0][..], &lv(APPLICATION), &[0], &lv(&parameters)].concat();
    by_token(0x40, &fields, &key(1))
}

fn announce(n: u8) -> Vec<u8> {
    by_token(0x02, &load_fields(&carrier(METER), &number(n)), &key(1))
}

/// The file's blocks behind its announcement, and the answer to the last.
fn come(host: &mut Host, card: &mut Card, first: &[u8]) -> Vec<u8> {
    assert_eq!(host.send(card, first), [0, 0x90, 0]);
    let blocks = loads(&carrier(METER), 240);
    let (last, blocks) = blocks[1..].split_last().unwrap();
    for block in blocks {
        assert_eq!(host.send(card, block), [0x90, 0]);
    }
    host.send(card, last)
}

/// Containers count each for itself, a boot changes nothing, another key goes on; without a key nothing is counted, and what is refused is not either.
#[test]
fn numbers_go_on_whatever_becomes_of_the_key() {
    let mut card = card();
    receipting(&mut card, FIRST);
    receipting(&mut card, SECOND);
    for interface in [SECOND, FIRST] {
        let mut host = open(&mut card, interface, SD);
        let answer = come(&mut host, &mut card, &announce(1));
        assert_eq!(answer, receipt(KEY, 1, &[1, 1], &[FILE, SD]));
        assert_eq!(sw(&host.send(&mut card, &install(0x0C, 1))), 0x6982);
        assert_eq!(sw(&host.send(&mut card, &delete(APPLICATION, &[]))), 0x6A82);
        assert_eq!(counter(&mut card, interface), 1);
    }
    let mut card = boot(card);
    let mut host = open(&mut card, FIRST, SD);
    let answer = host.send(&mut card, &install(0x0C, 2));
    assert_eq!(answer, receipt(KEY, 2, &[1, 2], &[FILE, APPLICATION]));
    assert_eq!((counter(&mut card, FIRST), counter(&mut card, SECOND)), (2, 1));
    // Another key.
    let mut issuer = open(&mut card, FIRST, ISD);
    assert_eq!(
        sw(&issuer.send(&mut card, &put_receipt_key(0x71, [0x72; 16]))),
        0x9000
    );
    let mut host = open(&mut card, FIRST, SD);
    let answer = host.send(&mut card, &update(3));
    let parameters = [&b"\xEF\x07\xA0\x05\xA5\x03\x82\x01\xC0"[..], &number(3)].concat();
    let context: &[&[u8]] = &[SD, APPLICATION, &[], &[], &parameters];
    assert_eq!(answer, receipt([0x72; 16], 3, &[1, 3], context));
    // None.
    let mut issuer = open(&mut card, FIRST, ISD);
    assert_eq!(sw(&issuer.send(&mut card, &keys::delete(0x71))), 0x9000);
    let mut host = open(&mut card, FIRST, SD);
    assert_eq!(host.send(&mut card, &extradite(OTHER_SD, 4)), [0, 0x90, 0]);
    assert_eq!(counter(&mut card, FIRST), 3);
    let mut issuer = open(&mut card, FIRST, ISD);
    assert_eq!(sw(&issuer.send(&mut card, &put_receipt_key(0, KEY))), 0x9000);
    let mut host = open(&mut card, FIRST, OTHER_SD);
    let answer = host.send(&mut card, &delete(APPLICATION, &number(5)));
    assert_eq!(answer, receipt(KEY, 4, &[1, 5], &[APPLICATION]));
    // The root itself gets none, and nor does a domain of its own counter.
    let mut issuer = open(&mut card, FIRST, ISD);
    let own = [&lv(FILE)[..], &lv(MODULE), &lv(APPLICATION), &[0, 0, 0]].concat();
    assert_eq!(issuer.send(&mut card, &command(0xE6, 0x0C, &own)), [0, 0x90, 0]);
    assert_eq!(counter(&mut card, FIRST), 4);
    select(&mut card, FIRST, SD);
    let own = card.transmit_to(FIRST, &[0x80, 0xCA, 0x00, 0xC2, 0]);
    assert_eq!(own, [0xC2, 2, 0, 0, 0x90, 0]);
}

/// Behind FFFF there is no receipt, and what would have one is refused.
#[test]
fn the_last_number_is_the_last() {
    let mut card = card_with(&profile(), &[(0x00C2, &[0xFF, 0xFD])]);
    receipting(&mut card, FIRST);
    let mut host = open(&mut card, FIRST, SD);
    let answer = come(&mut host, &mut card, &announce(1));
    assert_eq!(answer, receipt(KEY, 0xFFFE, &[1, 1], &[FILE, SD]));
    let answer = host.send(&mut card, &install(0x0C, 2));
    assert_eq!(answer, receipt(KEY, 0xFFFF, &[1, 2], &[FILE, APPLICATION]));
    for refused in [update(3), extradite(OTHER_SD, 4), delete(APPLICATION, &[])] {
        assert_eq!(sw(&host.send(&mut card, &refused)), 0x6985);
    }
    assert_eq!(counter(&mut card, FIRST), 0xFFFF);
    assert_eq!(select(&mut card, FIRST, APPLICATION), 0x9000);
    // All that its issuer does goes on.
    let mut issuer = open(&mut card, FIRST, ISD);
    let own = [&[0x4F][..], &lv(APPLICATION)].concat();
    assert_eq!(issuer.send(&mut card, &command(0xE4, 0, &own)), [0, 0x90, 0]);
}

fn is_there(card: &mut Card) -> bool {
    select(card, FIRST, APPLICATION) == 0x9000
}

fn is_gone(card: &mut Card) -> bool {
    !is_there(card)
}

fn is_over_swp(card: &mut Card) -> bool {
    select(card, Interface::Swp, APPLICATION) == 0x9000
}

/// Whether a domain is shown something by GET STATUS.
fn shows(card: &mut Card, domain: &[u8], p1: u8, aid: &[u8]) -> bool {
    let mut host = open(card, FIRST, domain);
    let criterion = [&[0x4F][..], &lv(aid)].concat();
    let capdu = [&[0x80, 0xF2, p1, 0x02][..], &lv(&criterion), &[0]].concat();
    sw(&host.send(card, &capdu)) == 0x9000
}

fn is_loaded(card: &mut Card) -> bool {
    shows(card, ISD, 0x20, FILE)
}

fn is_others(card: &mut Card) -> bool {
    shows(card, OTHER_SD, 0x40, APPLICATION)
}

/// A command of SD on a card that is cut in the middle: the answer to the last of it, and the flash.
fn cut(mut flash: RamFlash, cut: u64, capdu: &[u8]) -> (Vec<u8>, RamFlash) {
    flash.cut_after(cut, 1);
    let failed = || vec![0x65, 0x81];
    match Card::booted(flash, SeededRng(2), &profile()) {
        Err(failure) => (failed(), failure.flash),
        Ok(mut card) => {
            let host = try_open(&mut card, FIRST, SD);
            let answer = host.map_or_else(failed, |mut host| {
                let answer = host.send(&mut card, capdu);
                let blocks = loads(&carrier(METER), 240);
                let blocks = blocks[1..].iter().filter(|_| capdu[2] == 0x02);
                blocks.fold(answer, |_, block| host.send(&mut card, block))
            });
            (answer, card.into_flash())
        }
    }
}

/// Power cut at every flash operation of each kind of command: what the counter says has been done, and no receipt has a number that another one had.
#[test]
fn power_cut_at_every_operation_gives_no_number_twice() {
    let mut card = card();
    receipting(&mut card, FIRST);
    let empty = card.into_flash();
    let start = |flash: &RamFlash| Card::booted(flash.clone(), SeededRng(2), &profile()).unwrap();
    let mut card = start(&empty);
    let mut host = open(&mut card, FIRST, SD);
    assert_eq!(sw(&come(&mut host, &mut card, &announce(1))), 0x9000);
    let loaded = card.into_flash();
    let mut card = start(&loaded);
    let mut host = open(&mut card, FIRST, SD);
    assert_eq!(sw(&host.send(&mut card, &install(0x0C, 2))), 0x9000);
    let installed = card.into_flash();
    type Seen = fn(&mut Card) -> bool;
    let cases: [(&RamFlash, Vec<u8>, Seen); 5] = [
        (&empty, announce(1), is_loaded),
        (&loaded, install(0x0C, 2), is_there),
        (&installed, update(3), is_over_swp),
        (&installed, extradite(OTHER_SD, 3), is_others),
        (&installed, delete(APPLICATION, &number(3)), is_gone),
    ];
    for (flash, capdu, is_done) in cases {
        let what = format!("{:02X?}", &capdu[..4]);
        let before = counter(&mut start(flash), FIRST);
        let mut seen = std::collections::BTreeMap::new();
        for at in 0.. {
            let (answer, mut flash) = cut(flash.clone(), at, &capdu);
            let was_cut = flash.is_off();
            flash.power_on();
            let mut card = Card::booted(flash, SeededRng(3), &profile()).unwrap();
            let (answered, done) = (sw(&answer) == 0x9000, is_done(&mut card));
            // The number is of what has been done, whether its receipt has come or not.
            assert_eq!(
                counter(&mut card, FIRST),
                before + u16::from(done),
                "{what}, cut {at}"
            );
            let its = (before + 1).to_be_bytes();
            assert!(!answered || done && answer[19..21] == its, "{what}, cut {at}");
            *seen.entry((answered, done)).or_insert(0) += 1;
            if !was_cut {
                break;
            }
        }
        println!("{what}: {seen:?}");
        let outcomes: Vec<_> = seen.keys().copied().collect();
        assert!(
            outcomes.contains(&(false, false)) && seen[&(true, true)] == 1,
            "{what}"
        );
    }
}
