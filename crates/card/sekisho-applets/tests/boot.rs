//! Starting: what a profile must hold, what a flash may hold, and what does not fit.

#![allow(clippy::unwrap_used, clippy::panic)] // test support

use std::sync::LazyLock;

use common::ByValue as _;
use common::host::Host;
use common::{
    Card, PAGE, SeededRng, Virtual, flash, initial_keys, key, new_card, personalisation, profile, send, sw,
};
use proptest::prelude::*;
use sekisho_applets::{CardManager, FILES, FileSystem, LOADED_SESSIONS, PART_SESSIONS, SecApp};
use sekisho_card_tests as common;
use sekisho_keys::KeySet;
use sekisho_nvm::area::{Area, Run};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    BootError, CALL_ANSWER_MAX, CALL_COMMAND_MAX, Container, Interface, InterfaceState, Loaded, Loading,
    OsPart, Platform, Profile, Registry, SecureElement,
};
use sekisho_scp::SecurityLevel;

fn error(flash: RamFlash, profile: &Profile) -> BootError {
    Card::booted(flash, SeededRng(1), profile).unwrap_err().error
}

#[test]
fn what_a_profile_must_hold() {
    let made = || new_card().into_flash();
    assert_eq!(error(flash(), &profile()), BootError::Blank);
    let ram = Profile {
        ram: 1024,
        ..profile()
    };
    assert_eq!(error(made(), &ram), BootError::RamTooSmall);
    for logical_channels in [0, 21] {
        assert_eq!(
            error(
                made(),
                &Profile {
                    logical_channels,
                    ..profile()
                }
            ),
            BootError::Channels
        );
    }
    let slots = Profile {
        slot_bytes: 5 * PAGE,
        ..profile()
    };
    assert_eq!(error(made(), &slots), BootError::FlashTooSmall);
    let failure = Card::booted(flash(), SeededRng(1), &profile()).unwrap_err();
    assert_eq!(
        failure.error.to_string(),
        "the secure element has not been personalised"
    );
}

#[test]
fn twenty_logical_channels() {
    let profile = Profile {
        logical_channels: 20,
        ..profile()
    };
    let mut card = common::new_card_with(&profile, 0xFF, &initial_keys());
    for number in 1..20 {
        assert_eq!(send(&mut card, &[0x00, 0x70, 0, 0, 1]), [number, 0x90, 0]);
    }
    assert_eq!(send(&mut card, &[0x00, 0x70, 0, 0, 1]), [0x6A, 0x81]);
    // Channel 19, in the further interindustry coding, also for a secure channel.
    assert_eq!(sw(&send(&mut card, &[0xCF, 0xCA, 0x00, 0xCF, 0])), 0x9000);
    let contact = sekisho_os::Interface::Iso7816Contact;
    let (keys, mode) = (initial_keys(), sekisho_scp::MacMode::S8);
    let mut host = Host::open_on(&mut card, contact, 19, 0, &keys, SecurityLevel::FULL, mode).unwrap();
    assert_eq!(
        host.send(&mut card, &[0xCF, 0xCA, 0x00, 0xD3, 0]),
        [0xD3, 1, 0xB3, 0x90, 0]
    );
}

/// PUT KEY of the keys of [`set_of`], under the initial Key-DEK.
fn put_key(host: &mut Host, card: &mut Card, kvn: u8) -> u16 {
    let mut command = vec![0x80, 0xD8, 0x00, 0x81, 67, kvn];
    for id in 1..=3 {
        let plain = [kvn.wrapping_mul(3).wrapping_add(id); 16];
        let mut encrypted = plain;
        sekisho_keys::cbc_encrypt(&initial_keys().dek, &[0; 16], &mut encrypted).unwrap();
        command.extend(
            [
                &[0x88, 16][..],
                &encrypted,
                &[3],
                &sekisho_keys::kcv_aes(&key(&plain)),
            ]
            .concat(),
        );
    }
    sw(&host.send(card, &command))
}

#[test]
fn more_keys_than_there_is_room_for() {
    // By number, with room in the store; by room, in the smallest store there is.
    for (store_bytes, page, expected) in [(8 * PAGE, PAGE, 15), (6 * 1024, 1024, 5)] {
        let profile = Profile {
            store_bytes,
            slot_bytes: page,
            ..profile()
        };
        let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
        let flash = RamFlash::strict(page, store_bytes / page + 2);
        let personalisation = personalisation(0xFF, &keys, &k_aut);
        let mut card = Card::made(flash, SeededRng(1), &profile, &personalisation).unwrap();
        let mut host = Host::open(&mut card, 0, &keys, SecurityLevel::FULL);
        let added = (1..=0x20)
            .take_while(|kvn| put_key(&mut host, &mut card, *kvn) == 0x9000)
            .count();
        assert!(added >= expected, "{added} key versions in {store_bytes} bytes");
        assert_eq!(put_key(&mut host, &mut card, 0x30), 0x6A84);
        // It is full, not broken: it still reads, deletes and starts.
        assert_eq!(
            sw(&host.send(&mut card, &[0x80, 0xE4, 0, 0, 3, 0xD2, 1, 1, 0])),
            0x9000
        );
        assert_eq!(put_key(&mut host, &mut card, 0x30), 0x9000);
        let mut card = Card::booted(card.into_flash(), SeededRng(1), &profile).unwrap();
        assert_eq!(sw(&send(&mut card, &[0x80, 0xCA, 0x00, 0xE0, 0, 0, 0])), 0x9000);
    }
}

/// However full the store is, its owner gets in, and makes room.
#[test]
fn a_full_card_still_opens_to_its_owner() {
    let mut least = u32::MAX;
    for spare in 0..34 {
        let profile = Profile {
            store_bytes: 4 * 1024,
            slot_bytes: 512,
            ..profile()
        };
        let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
        let personalisation = personalisation(0xFF, &keys, &k_aut);
        let flash = RamFlash::strict(512, 10);
        let mut card = Card::made(flash, SeededRng(1), &profile, &personalisation).unwrap();
        let mut host = Host::open(&mut card, 0, &keys, SecurityLevel::FULL);
        let _ = (1..=0x20).find(|kvn| put_key(&mut host, &mut card, *kvn) != 0x9000);
        // A single key, if there is room for one; the rest with data objects as long as will fit, but for a few bytes.
        let mut single = [7; 16];
        let kcv = sekisho_keys::kcv_aes(&key(&single));
        sekisho_keys::cbc_encrypt(&keys.dek, &[0; 16], &mut single).unwrap();
        let single = [&[0x80, 0xD8, 0, 1, 23, 0x70, 0x88, 16][..], &single, &[3], &kcv].concat();
        host.send(&mut card, &single);
        for tag in [0x42, 0x45] {
            let fits = |len: &u8| {
                let head = [0x80, 0xE2, 0x90, 0, len + 2, tag, *len];
                sw(&host.send(&mut card, &[&head[..], &vec![0xEE; (*len).into()]].concat())) == 0x9000
            };
            let _ = (0..=32u8).rev().skip(spare).find(fits);
        }
        let resources = send(&mut card, &[0x00, 0xA4, 4, 0, 0]);
        assert_eq!(sw(&resources), 0x9000);
        let resources = send(&mut card, &[0x80, 0xCA, 0xFF, 0x21, 0]);
        least = least.min(u32::from_be_bytes(resources[8..12].try_into().unwrap()));
        let owner = set_of(1);
        for round in 0..30 {
            let contact = sekisho_os::Interface::Iso7816Contact;
            let mode = sekisho_scp::MacMode::S8;
            let opened = Host::open_on(&mut card, contact, 0, 1, &owner, SecurityLevel::FULL, mode);
            assert!(opened.is_ok(), "spare {spare} round {round}: {:?}", opened.err());
            // What it refuses it keeps, in a part of the reserve that nothing else takes (broadcast-update.md, 2.6).
            let discard = [&[0x80, 0x3E, 2, 0, 24][..], &[round; 24], &[0]].concat();
            let mut host = opened.unwrap();
            assert_eq!(sw(&host.send(&mut card, &discard)), 0x6985, "spare {spare}");
            let kept = host.send(&mut card, &[0x00, 0xCA, 0xDF, 0x23, 0]);
            assert_eq!(kept[3..11], [round; 8], "spare {spare} round {round}");
        }
        // It can be tidied up, and it can be terminated, which removes every key version at once.
        let mut host = Host::open(&mut card, 1, &owner, SecurityLevel::FULL);
        if spare % 2 == 0 {
            let delete = [0x80, 0xE4, 0, 0, 3, 0xD2, 1, 2, 0];
            assert_eq!(sw(&host.send(&mut card, &delete)), 0x9000);
        }
        assert_eq!(sw(&host.send(&mut card, &[0x80, 0xF0, 0x80, 0xFF])), 0x9000);
    }
    assert!(least < 16, "the fullest card had {least} bytes left");
}

/// The keys that [`put_key`] puts into a version.
fn set_of(kvn: u8) -> KeySet {
    let plain = |id: u8| key(&[kvn.wrapping_mul(3).wrapping_add(id); 16]);
    KeySet {
        enc: plain(1),
        mac: plain(2),
        dek: plain(3),
    }
}

/// What an SE needs in RAM beside the OS part; the budget of a small microcontroller holds it. Five sessions of secure messaging are in it,
/// two file systems, for each of four interfaces a chain and an answer that waits, and the index of records. Where TLS sessions end in it, 448 bytes come on top.
#[test]
fn the_state_of_an_se_is_small() {
    let (size, waits) = (size_of::<SecureElement<Virtual>>(), size_of::<InterfaceState>());
    let index = size_of::<<Virtual as Platform>::Index>();
    println!("{size} bytes, of which {waits} for each interface and {index} for the index of records");
    let page = include_str!("../../../../ARCHITECTURE.md").replace(',', "");
    assert!(page.contains(&format!("{waits} bytes of RAM")), "{waits} bytes");
    assert!(
        page.contains(&format!("{index} bytes for 128 records")),
        "{index} bytes"
    );
    let sessions = if cfg!(feature = "tls") { 448 } else { 0 };
    assert!(
        size < 24 * 1024 + Interface::COUNT * waits + index + sessions,
        "{size} bytes"
    );
}

/// The table of ARCHITECTURE.md, "What an SE keeps in RAM": every number is recomputed here.
#[test]
fn the_page_says_how_much_ram_each_thing_takes() {
    let page = include_str!("../../../../ARCHITECTURE.md").replace(',', "");
    let index = size_of::<<Virtual as Platform>::Index>();
    for (what, size) in [
        ("an interface", size_of::<InterfaceState>()),
        ("the index of records", index),
        ("a security domain", size_of::<CardManager>()),
        ("a SecApp", size_of::<SecApp>()),
        (
            "what the OS part keeps for sessions",
            size_of::<OsPart<PART_SESSIONS>>(),
        ),
        (
            "an application whose code is loaded",
            size_of::<Loaded<LOADED_SESSIONS>>(),
        ),
        ("a load file that comes by command", size_of::<Loading>()),
        ("a file system", size_of::<FileSystem<FILES>>()),
        (
            "the area for bulk",
            size_of::<Area<[Run; sekisho_os::nvm::AREA_RUNS]>>(),
        ),
        ("the registry of a container", size_of::<Registry>()),
        (
            "what room those in a container have",
            size_of::<sekisho_os::nvm::Room>(),
        ),
        ("a container with its registry", size_of::<Container>()),
        ("a call between applications", CALL_COMMAND_MAX + CALL_ANSWER_MAX),
        #[cfg(feature = "tls")]
        (
            "what comes out of TLS sessions",
            size_of::<sekisho_os::InsideRoom>(),
        ),
        #[cfg(feature = "tls")]
        ("the TLS Manager", size_of::<sekisho_applets::TlsManager>()),
    ] {
        let row = format!("| {what} | {size} |");
        println!("{row}");
        assert!(page.contains(&row), "{row}");
    }
    assert_eq!(size_of::<OsPart<0>>(), 0);
    let whole = size_of::<SecureElement<Virtual>>();
    let row = if cfg!(feature = "tls") {
        format!("({whole} in place of ")
    } else {
        format!(" in place of {whole} in that test)")
    };
    assert!(page.contains(&row), "{row}");
}

/// The flash of a new card.
static MADE: LazyLock<Vec<u8>> = LazyLock::new(|| new_card().into_flash().image());

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A flash with any damage starts or is refused; what starts answers.
    #[test]
    fn damaged_flash_never_crashes(damage in prop::collection::vec((0usize..8 * PAGE, any::<u8>()), 1..8)) {
        let mut image = MADE.clone();
        for (at, byte) in damage {
            // Where records stand is where damage tells.
            let at = if byte & 1 == 0 { at % 1024 } else { at };
            image[at] ^= byte;
        }
        if let Ok(mut card) = Card::booted(RamFlash::from_image(PAGE, &image), SeededRng(1), &profile()) {
            for capdu in ["00A4040000", "80CA00E000", "8050000008010203040506070800", "80CADF2000"] {
                send(&mut card, &hex::decode(capdu).unwrap());
            }
        }
    }
}
