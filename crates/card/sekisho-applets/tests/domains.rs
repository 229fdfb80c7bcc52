//! A supplementary security domain has its own keys and data, and nothing of the card's (docs/decisions/0013-containers.md).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

mod common;

use common::ByValue as _;
use common::host::Host;
use common::{Card, On, SE_ID, SeededRng, initial_keys, key, personalisation, profile, send, sw};
use sekisho_apdu::Aid;
use sekisho_applets::Standard;
use sekisho_keys::{KeySet, cbc_encrypt, kcv_aes};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{ContainerId, Interface, SecureElement};
use sekisho_scp::{MacMode, SecurityLevel};

use common::script::Line;

/// An SE with memory for two security domains.
type Element = SecureElement<On<Standard<2>>>;

const CONTACT: Interface = Interface::Iso7816Contact;
const DOMAIN: &[u8] = b"\xF0SKSSD1";
const DOMAIN_FILE: &[u8] = b"\xF0SKSSD0";
const KVN: u8 = 0x20;

fn aid(bytes: &[u8]) -> Aid {
    Aid::try_from(bytes).unwrap()
}

/// Keys that are nowhere else.
fn own_keys(first: u8) -> KeySet {
    let key = |n: u8| key(&[first, n, 0x5D, 0xD5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xA, 0xB, 0xC]);
    KeySet {
        enc: key(1),
        mac: key(2),
        dek: key(3),
    }
}

fn said(card: &mut Element, capdu: &[u8]) -> Vec<u8> {
    Line::transmit(card, CONTACT, capdu)
}

fn element() -> Element {
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let personalisation = personalisation(0xFF, &keys, &k_aut);
    let flash = RamFlash::strict(common::PAGE, 16);
    let mut card = Element::made(flash, SeededRng(1), &profile(), &personalisation).unwrap();
    install(&mut card, &own_keys(0xE1));
    card
}

fn install(card: &mut Element, keys: &KeySet) {
    card.install_domain(ContainerId::ESE, aid(DOMAIN), aid(DOMAIN_FILE), (KVN, keys))
        .unwrap();
}

fn select(card: &mut Element) -> u16 {
    sw(&said(card, &[&[0, 0xA4, 4, 0, 7][..], DOMAIN].concat()))
}

fn open(card: &mut Element, kvn: u8, keys: &KeySet) -> Result<Host, u16> {
    Host::open_on(card, CONTACT, 0, kvn, keys, SecurityLevel::FULL, MacMode::S8).map_err(|sw| sw.0)
}

/// Commands that are about the whole card, and about the platform, with the answer under the domain's own secure channel, and in the clear.
const NOT_ITS_OWN: [(&str, u16, u16); 16] = [
    // GET STATUS: issuer security domain, applications, load files.
    ("80F28002024F00", 0x6985, 0x6982),
    ("80F24002024F00", 0x6985, 0x6982),
    ("80F22002024F00", 0x6985, 0x6982),
    // SET STATUS: INITIALIZED, CARD_LOCKED, TERMINATED; the OS part locked.
    ("80F0800700", 0x6985, 0x6982),
    ("80F0807F00", 0x6985, 0x6982),
    ("80F080FF00", 0x6985, 0x6982),
    ("80F0408007F0534B4F530001", 0x6985, 0x6982),
    // Registry and resources; update states.
    ("80CA2F0000", 0x6A88, 0x6A88),
    ("80CAFF2100", 0x6A88, 0x6A88),
    ("80CADF2000", 0x6A88, 0x6A88),
    ("80CADF2200", 0x6A88, 0x6A88),
    // The policy for readers, which is the container's; the design system's keys.
    ("80E2900006DF3003080010", 0x6985, 0x6982),
    ("80D80081016100", 0x6985, 0x6982),
    // CHANGE MODE, WRITE, AUTHORIZE ACTION.
    ("803A0000020000", 0x6D00, 0x6D00),
    ("803C0000020000", 0x6D00, 0x6D00),
    ("803E0200020000", 0x6D00, 0x6D00),
];

#[test]
fn a_second_domain_does_not_own_the_card() {
    let mut card = element();
    assert_eq!(select(&mut card), 0x9000);
    for (command, _, in_the_clear) in NOT_ITS_OWN {
        let capdu = hex::decode(command).unwrap();
        assert_eq!(
            sw(&said(&mut card, &capdu)),
            in_the_clear,
            "{command} in the clear"
        );
    }
    let mut host = open(&mut card, KVN, &own_keys(0xE1)).unwrap();
    for (command, proved, _) in NOT_ITS_OWN {
        let capdu = hex::decode(command).unwrap();
        assert_eq!(sw(&host.send(&mut card, &capdu)), proved, "{command}");
    }
    // None of it has happened.
    card.reset(CONTACT);
    let mut host = open(&mut card, 0, &initial_keys()).unwrap();
    let status = host.send(&mut card, &hex::decode("80F28002024F00").unwrap());
    assert_eq!(sw(&status), 0x9000);
    assert_eq!(
        sw(&host.send(&mut card, &hex::decode("80F0800700").unwrap())),
        0x9000
    );
}

/// Its AID, keys, counters and data objects; the issuer security domain's do not move.
#[test]
fn each_domain_has_its_own_keys_counters_and_data() {
    let mut card = element();
    let answer = said(&mut card, &[&[0, 0xA4, 4, 0, 7][..], DOMAIN].concat());
    assert_eq!(answer[4..11], *DOMAIN, "the FCI names it");
    // The other one's key sets are not there.
    assert_eq!(open(&mut card, 0xFF, &initial_keys()).err(), Some(0x6A88));
    for _ in 0..3 {
        open(&mut card, KVN, &own_keys(0xE1)).unwrap();
    }
    let mut host = open(&mut card, KVN, &own_keys(0xE1)).unwrap();
    assert_eq!(
        sw(&host.send(&mut card, &hex::decode("80E29000054203AABBCC").unwrap())),
        0x9000
    );
    let new = own_keys(0xE7);
    let mut put = vec![0x80, 0xD8, KVN, 0x81, 67, KVN];
    for new in [&new.enc, &new.mac, &new.dek] {
        let mut encrypted: [u8; 16] = new.as_bytes().try_into().unwrap();
        cbc_encrypt(&own_keys(0xE1).dek, &[0; 16], &mut encrypted).unwrap();
        put.extend([&[0x88, 16][..], &encrypted, &[3], &kcv_aes(new)].concat());
    }
    assert_eq!(sw(&host.send(&mut card, &put)), 0x9000);
    let mut host = open(&mut card, KVN, &new).unwrap();
    let stored = host.send(&mut card, &[0x80, 0xCA, 0, 0x42, 0]);
    assert_eq!(stored[2..5], [0xAA, 0xBB, 0xCC]);
    // The issuer security domain: nothing of that, and its first opening.
    card.reset(CONTACT);
    assert_eq!(
        said(&mut card, &[0x80, 0xCA, 0, 0xC1, 0]),
        [0xC1, 3, 0, 0, 0, 0x90, 0]
    );
    assert_ne!(
        said(&mut card, &[0x80, 0xCA, 0, 0x42, 0])[2..5],
        [0xAA, 0xBB, 0xCC]
    );
    assert_eq!(said(&mut card, &[0x80, 0xCA, 0, 0xCF, 0])[2..12], SE_ID);
    assert_eq!(open(&mut card, KVN, &new).err(), Some(0x6A88));
    open(&mut card, 0, &initial_keys()).unwrap();
}

#[test]
fn a_domain_goes_with_its_keys_and_its_successor_has_its_own() {
    let mut card = element();
    let is_there = |card: &Element| {
        let keys = own_keys(0xE1);
        let image = card.flash().image();
        image.windows(16).any(|bytes| bytes == keys.enc.as_bytes())
    };
    assert!(is_there(&card));
    card.delete(ContainerId::ESE, &aid(DOMAIN)).unwrap();
    assert!(!is_there(&card));
    assert_eq!(select(&mut card), 0x6A82);
    install(&mut card, &own_keys(0xE2));
    let mut card = Element::booted(card.into_flash(), SeededRng(2), &profile()).unwrap();
    assert_eq!(select(&mut card), 0x9000);
    let mut host = open(&mut card, KVN, &own_keys(0xE2)).unwrap();
    let counter = host.send(&mut card, &[0x80, 0xCA, 0, 0xC1, 0]);
    assert_eq!(counter, [0xC1, 3, 0, 0, 1, 0x90, 0], "its counter is its own");
}

/// A product with memory for one security domain takes no second one, whether its first has been used or not.
#[test]
fn without_memory_there_is_no_second_domain() {
    let mut card: Card = common::new_card();
    let refused = card.install_domain(
        ContainerId::ESE,
        aid(DOMAIN),
        aid(DOMAIN_FILE),
        (KVN, &own_keys(1)),
    );
    assert_eq!(refused.err().map(|sw| sw.0), Some(0x6A84));
    assert_eq!(sw(&send(&mut card, &[0, 0xA4, 4, 0, 0])), 0x9000);
}
