//! A supplementary security domain has its own keys and data, and nothing of the card's (docs/decisions/0013-containers.md).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use crate::common;

use std::collections::BTreeMap;

use common::ByValue as _;
use common::host::Host;
use common::{On, PAGE, SE_ID, SeededRng, initial_keys, key, personalisation, profile, sw};
use sekisho_apdu::Aid;
use sekisho_applets::Standard;
use sekisho_keys::{KeySet, cbc_encrypt, kcv_aes};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{ContainerId, Interface, Pairing, Personalisation, Profile, Protocol, Row, SecureElement};
use sekisho_scp::{MacMode, SecurityLevel};

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
    crate::common::send_on(card, CONTACT, capdu)
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
const NOT_ITS_OWN: [(&str, u16, u16); 19] = [
    // GET STATUS: issuer security domain, applications, load files.
    // It sees itself, which has no such AID, and no more.
    ("80F28002024F00", 0x6A88, 0x6982),
    ("80F24002094F07F0534B4F53000100", 0x6A88, 0x6982),
    ("80F22002024F00", 0x6A88, 0x6982),
    // SET STATUS: INITIALIZED, CARD_LOCKED, TERMINATED; the OS part locked.
    ("80F0800700", 0x6985, 0x6982),
    ("80F0807F00", 0x6985, 0x6982),
    ("80F080FF00", 0x6985, 0x6982),
    ("80F0408007F0534B4F530001", 0x6A88, 0x6982),
    // INSTALL of another domain, DELETE of the OS part and of what is not there.
    (
        "80E60C001F07A000000151535008A00000015153504107F0534B53534432018002C9000000",
        0x6985,
        0x6982,
    ),
    ("80E40000094F07F0534B4F53000100", 0x6985, 0x6982),
    ("80E40000094F07F0534B4F53000200", 0x6985, 0x6982),
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
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let mut card = SecureElement::<On<Standard>>::made(
        RamFlash::strict(PAGE, 16),
        SeededRng(1),
        &profile(),
        &personalisation(0xFF, &keys, &k_aut),
    )
    .unwrap();
    let refused = card.install_domain(
        ContainerId::ESE,
        aid(DOMAIN),
        aid(DOMAIN_FILE),
        (KVN, &own_keys(1)),
    );
    assert_eq!(refused.err().map(|sw| sw.0), Some(0x6A84));
    assert_eq!(
        sw(&crate::common::send_on(&mut card, CONTACT, &[0, 0xA4, 4, 0, 0])),
        0x9000
    );
}

/// Two containers, with a second domain in each: the first on the contacts, the second on SPI.
type Two = SecureElement<On<Standard<4>, SeededRng, 2>>;

fn two_profile() -> Profile {
    let second = ContainerId::new(2).unwrap();
    Profile {
        pairing: Pairing::all_to(ContainerId::ESE).with(Protocol::SpiEse, Row::common(second)),
        ..profile()
    }
}

const KOS: [u8; 16] = *b"Kos of this SE..";

/// Key-MAC of each domain: issuer security domain and second one of the first container, then of the second. It stands nowhere else.
fn macs() -> [Vec<u8>; 4] {
    [0xA1, 0xE1, 0xB1, 0xF1].map(|first| own_keys(first).mac.as_bytes().to_vec())
}

fn two() -> RamFlash {
    let (first, second) = (own_keys(0xA1), own_keys(0xB1));
    let (k_aut, kos) = (key(&[0xA0; 16]), key(&KOS));
    let objects: [(u16, &[u8]); 2] = [(0x42, &[0x11, 0x22]), (0x45, &[0x33])];
    let personalisations = [
        Personalisation {
            kos: Some(&kos),
            data_objects: &objects,
            ..personalisation(0x30, &first, &k_aut)
        },
        personalisation(0x30, &second, &k_aut),
    ];
    let flash = RamFlash::strict(PAGE, 16);
    let mut card = Two::made_all(flash, SeededRng(1), &two_profile(), &personalisations.each_ref()).unwrap();
    for (container, keys) in [(1, own_keys(0xE1)), (2, own_keys(0xF1))] {
        let container = ContainerId::new(container).unwrap();
        card.install_domain(container, aid(DOMAIN), aid(DOMAIN_FILE), (KVN, &keys))
            .unwrap();
    }
    card.into_flash()
}

fn open_in(card: &mut Two, (interface, channel): (Interface, u8), kvn: u8, keys: &KeySet) -> Option<Host> {
    Host::open_on(
        card,
        interface,
        channel,
        kvn,
        keys,
        SecurityLevel::FULL,
        MacMode::S8,
    )
    .ok()
}

/// The first container is terminated by its issuer security domain.
fn terminate(card: &mut Two) -> bool {
    let host = open_in(card, (CONTACT, 0), 0, &own_keys(0xA1));
    host.is_some_and(|mut host| sw(&host.send(card, &[0x80, 0xF0, 0x80, 0xFF])) == 0x9000)
}

/// Which of the domains' keys, and whether Kos, stand in the flash.
fn standing(image: &[u8]) -> [bool; 5] {
    let [a, b, c, d] = macs();
    [&a[..], &b, &c, &d, &KOS].map(|key| image.windows(16).any(|bytes| bytes == key))
}

#[test]
fn power_cut_at_every_operation_of_terminating_takes_the_keys_of_all_domains_of_that_container_or_none() {
    let made = two();
    let mut seen = BTreeMap::new();
    for seed in 0..2 {
        for cut in 0.. {
            let mut flash = made.clone();
            flash.cut_after(cut, seed);
            let mut card = Two::booted(flash, SeededRng(3), &two_profile()).unwrap();
            let done = terminate(&mut card);
            let mut flash = card.into_flash();
            let was_cut = flash.is_off();
            flash.power_on();
            let mut card = Two::booted(flash, SeededRng(4), &two_profile()).unwrap();
            let selected = sw(&crate::common::send_on(&mut card, CONTACT, &[0, 0xA4, 4, 0, 0]));
            let is_over = selected == 0x6A81;
            assert_eq!(
                standing(&card.flash().image()),
                [!is_over, !is_over, true, true, !is_over],
                "cut {cut} seed {seed}: {selected:04X}"
            );
            for (tag, value) in [(0x42, &[0x11, 0x22][..]), (0x45, &[0x33])] {
                let answer = crate::common::send_on(&mut card, CONTACT, &[0x00, 0xCA, 0x00, tag, 0]);
                assert_eq!(answer, [value, &[0x90, 0x00]].concat());
            }
            // The other container goes on, and so does all of the first one if it has not been terminated.
            assert!(open_in(&mut card, (Interface::Spi, 0), 0, &own_keys(0xB1)).is_some());
            crate::common::send_on(
                &mut card,
                Interface::Spi,
                &[&[0, 0xA4, 4, 0, 7][..], DOMAIN].concat(),
            );
            assert!(open_in(&mut card, (Interface::Spi, 0), KVN, &own_keys(0xF1)).is_some());
            if !is_over {
                crate::common::send_on(&mut card, CONTACT, &[&[0, 0xA4, 4, 0, 7][..], DOMAIN].concat());
                assert!(open_in(&mut card, (CONTACT, 0), KVN, &own_keys(0xE1)).is_some());
            }
            *seen.entry((done, is_over)).or_insert(0) += 1;
            if !was_cut {
                break;
            }
        }
    }
    println!("terminating: {seen:?}");
    assert_eq!(
        seen.keys().copied().collect::<Vec<_>>(),
        [(false, false), (false, true), (true, true)]
    );
}

/// A secure channel of another domain, open on another logical channel and on another interface, ends with the container; the other container's goes on.
#[test]
fn no_secure_channel_of_a_terminated_container_goes_on_but_the_one_that_terminated_it() {
    let mut card = Two::booted(two(), SeededRng(5), &two_profile()).unwrap();
    assert_eq!(
        crate::common::send_on(&mut card, CONTACT, &[0, 0x70, 0, 0, 1]),
        [1, 0x90, 0]
    );
    let select = |channel| [&[channel, 0xA4, 4, 0, 7][..], DOMAIN].concat();
    crate::common::send_on(&mut card, CONTACT, &select(1));
    crate::common::send_on(&mut card, Interface::ApduGate, &select(0));
    let mut theirs = [
        open_in(&mut card, (CONTACT, 1), KVN, &own_keys(0xE1)).unwrap(),
        open_in(&mut card, (Interface::ApduGate, 0), KVN, &own_keys(0xE1)).unwrap(),
    ];
    let mut other = open_in(&mut card, (Interface::Spi, 0), 0, &own_keys(0xB1)).unwrap();
    assert!(terminate(&mut card));
    let level = [0x80, 0xCA, 0x00, 0xD3, 0];
    let answers = theirs.each_mut().map(|host| sw(&host.send(&mut card, &level)));
    assert_eq!(answers, [0x6982, 0x6982]);
    assert_eq!(sw(&other.send(&mut card, &level)), 0x9000);
}
