//! A new PIN or key revokes what the old one proved, on every logical channel of every interface; and so does all else that takes the ground from
//! under a session (docs/spec/file-system-applet.md, 4.5).
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::common;

use common::files::{self, Reader, append, authenticate_with, plain, select_on};
use common::host::Host;
use common::{Card, initial_keys, send_on, sw};
use sekisho_applets::file_system::{self, image::test_key};
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::{Mode, Policy};
use sekisho_os::Interface;
use sekisho_scp::{MacMode, SecurityLevel};

const CONTACT: Interface = Interface::Iso7816Contact;
/// Where proofs are given: two channels of one interface, and two more interfaces.
const PLACES: [(Interface, u8); 4] = [
    (CONTACT, 0),
    (CONTACT, 1),
    (Interface::Swp, 0),
    (Interface::ApduGate, 0),
];
/// Where the issuer's host speaks.
const ISSUER: Interface = Interface::Spi;

/// A card whose file system is selected on every place.
fn card() -> Card {
    let mut card = files::card();
    plain(&mut card, CONTACT, &[0x00, 0x70, 0x00, 0x00, 0x01]).unwrap();
    for (interface, channel) in PLACES {
        select_on(&mut card, interface, channel);
    }
    card
}

/// A command on a channel, in hex without its class: its status word.
fn sent(card: &mut Card, (interface, channel): (Interface, u8), capdu: &str) -> u16 {
    let capdu = hex::decode(capdu.replace(' ', "")).unwrap();
    sw(&send_on(card, interface, &[&[channel], &capdu[..]].concat()))
}

/// CREATE FILE with these objects in its FCP template.
fn create(objects: &str) -> String {
    let objects = hex::decode(objects.replace(' ', "")).unwrap();
    let fcp = [&[0x62, u8::try_from(objects.len()).unwrap()], &objects[..]].concat();
    format!("E0 00 00 {}", hexed(&fcp))
}

fn hexed(bytes: &[u8]) -> String {
    format!("{:02X} {}", bytes.len(), hex::encode(bytes))
}

/// Whether PIN 1 and EXTERNAL 1 are proved, place by place.
type Proofs = [(bool, bool); 4];

/// Who may do what: PIN 1 and EXTERNAL 1 on every place.
fn proofs(card: &mut Card) -> Proofs {
    let proved = |card: &mut Card, place| {
        let pin = sent(card, place, "20 00 01") == 0x9000;
        // UPDATE of 2F00 is under EXTERNAL 1.
        let external = sent(card, place, "D6 9E 00 01 AA") == 0x9000;
        (pin, external)
    };
    PLACES.map(|place| proved(card, place))
}

/// A card on which every place has proved PIN 1 and EXTERNAL 1.
fn proved_everywhere() -> Card {
    let mut card = card();
    for place in PLACES {
        assert_eq!(sent(&mut card, place, "20 00 01 04 31323334"), 0x9000);
        authenticate_with(&mut card, place, &test_key::EXTERNAL);
    }
    assert_eq!(proofs(&mut card), [(true, true); 4]);
    card
}

/// What somebody does on the second channel of the contacts to the PIN or to EXTERNAL 1, and what is left of everybody's proofs.
#[test]
fn what_the_old_value_proved_is_proved_nowhere() {
    let pin_gone = [(false, true); 4];
    let external_gone = [(true, false); 4];
    let changed: [(&str, &[&str], Proofs); 11] = [
        ("nothing", &[], [(true, true); 4]),
        (
            "PIN, with the old one",
            &["24 00 01 08 31323334 35363738"],
            pin_gone,
        ),
        (
            "PIN, to what it was",
            &["24 00 01 08 31323334 31323334"],
            pin_gone,
        ),
        ("PIN, by the rule", &["24 01 01 04 35363738"], pin_gone),
        (
            "PIN, as the selected file",
            &["A4 00 0C 02 0003", "24 01 00 04 35363738"],
            pin_gone,
        ),
        ("PIN deleted", &["E4 00 00 02 0003"], pin_gone),
        (
            "PIN deleted, and the same one made",
            &[
                "E4 00 00 02 0003",
                &create("820109 83020003 8C020200 A50B 8003010103 810431323334"),
            ],
            pin_gone,
        ),
        (
            "PIN blocked",
            &[
                "20 00 01 04 31323335",
                "20 00 01 04 31323335",
                "20 00 01 04 31323335",
            ],
            pin_gone,
        ),
        (
            "EXTERNAL, by the rule",
            &["A4 00 0C 02 0002", "24 01 00 10 77777777777777777777777777777777"],
            external_gone,
        ),
        ("EXTERNAL deleted", &["E4 00 00 02 0002"], external_gone),
        (
            "EXTERNAL blocked",
            &["84 00 00 10", "82 00 01 10 00000000000000000000000000000000"],
            external_gone,
        ),
    ];
    for (what, steps, expected) in changed {
        let mut card = proved_everywhere();
        let times = if what == "EXTERNAL blocked" { 5 } else { 1 };
        for _ in 0..times {
            for step in steps {
                let answer = sent(&mut card, PLACES[1], step);
                assert!(
                    matches!(answer, 0x9000 | 0x63C0..=0x63CF),
                    "{what}: {step}: {answer:04X}"
                );
            }
        }
        assert_eq!(proofs(&mut card), expected, "{what}");
    }
}

/// A wrong try that is not the last costs only who made it; a refused change costs nobody anything.
#[test]
fn what_changes_nothing_revokes_nothing() {
    for (step, refusal, expected) in [
        ("20 00 01 04 31323335", 0x63C2, [true, false, true, true]),
        // By the rule, but no PIN.
        ("24 01 01 03 353637", 0x6A80, [true; 4]),
        // Too short for two PINs.
        ("24 00 01 07 31323334 353637", 0x6700, [true; 4]),
        // With the right old one, but no PIN.
        (
            "24 00 01 15 31323334 3131313131313131313131313131313131",
            0x6A80,
            [true; 4],
        ),
        ("24 01 02 04 35363738", 0x6A88, [true; 4]),
        ("E4 00 00 02 5EC1", 0x6985, [true; 4]),
    ] {
        let mut card = proved_everywhere();
        assert_eq!(sent(&mut card, PLACES[1], step), refusal, "{step}");
        let pins = proofs(&mut card).iter().map(|(pin, _)| *pin).collect::<Vec<_>>();
        assert_eq!(pins, expected, "{step}");
    }
}

/// Readers under MKEY 1 on two interfaces.
fn readers(card: &mut Card) -> [Reader; 2] {
    [CONTACT, Interface::Swp].map(|interface| {
        let mut reader = Reader::open(card, interface, Mode::Ratchet, Lanes::Separate, 99).unwrap();
        assert_eq!(reader.send(card, &append(1)), [0x90, 0x00]);
        reader
    })
}

/// Whether a reader's session goes on.
fn goes_on(card: &mut Card, reader: &mut Reader) -> bool {
    let protected = reader.protect(&[0x00, 0xB0, 0x81, 0x00, 0x04]);
    let answer = reader.transmit(card, &protected);
    match reader.accept(&answer) {
        Ok(plain) => {
            assert_eq!(plain[4..], [0x90, 0x00]);
            true
        }
        Err(_) => {
            assert_eq!(answer, [0x69, 0x82]);
            false
        }
    }
}

/// Sessions under the old MKEY end, whoever replaces it, in the clear or under that very MKEY.
#[test]
fn sessions_under_the_old_mkey_end() {
    let other = (Interface::ApduGate, 0);
    let select_key = "A4 00 0C 02 0001";
    let new_value = format!("24 01 00 {}", hexed(&[0x77; 16]));
    let steps: [(&str, &[&str]); 4] = [
        ("replaced", &[select_key, &new_value]),
        (
            "replaced by the same value",
            &[select_key, &format!("24 01 00 {}", hexed(&test_key::MKEY))],
        ),
        ("deleted", &["E4 00 00 02 0001"]),
        (
            "deleted, and the same one made",
            &[
                "E4 00 00 02 0001",
                &create(&format!(
                    "820109 83020001 8C020200 A517 800304010F 81{}",
                    hexed(&test_key::MKEY)
                )),
            ],
        ),
    ];
    for (what, steps) in steps {
        let mut card = card();
        let mut readers = readers(&mut card);
        authenticate_with(&mut card, other, &test_key::EXTERNAL);
        for step in steps {
            assert_eq!(sent(&mut card, other, step), 0x9000, "{what}: {step}");
        }
        for reader in &mut readers {
            assert!(!goes_on(&mut card, reader), "{what}");
        }
        // What the sessions had proved and selected is over as well.
        assert_eq!(sent(&mut card, PLACES[0], "B0 00 00 01"), 0x6986, "{what}");
    }
}

/// Who replaces MKEY under that MKEY has the answer in the session and nothing after it; a session under another MKEY hears nothing of it.
#[test]
fn mkey_is_replaced_under_itself() {
    let mut card = card();
    let [mut one, mut two] = readers(&mut card);
    assert_eq!(two.send(&mut card, &append(2)), [0x90, 0x00]);
    // The second one reads under the MKEY of DF 5EC1 from now on.
    card.reset(Interface::Swp);
    select_on(&mut card, Interface::Swp, 0);
    assert_eq!(sent(&mut card, PLACES[2], "A4 00 0C 02 5EC1"), 0x9000);
    let opened = Reader::open_with(
        &mut card,
        Interface::Swp,
        Mode::Ratchet,
        Lanes::Shared,
        9,
        &test_key::MKEY_5EC1,
    );
    let mut two = opened.unwrap();
    assert_eq!(
        two.send(&mut card, &[0x00, 0xB0, 0x81, 0x00, 0x01])[1..],
        [0x90, 0x00]
    );

    let challenge = one.send(&mut card, &[0x00, 0x84, 0x00, 0x00, 0x10]);
    let mac = sekisho_keys::cmac(&common::key(&test_key::EXTERNAL), &[&challenge[..16]]);
    for capdu in [
        &[&[0x00, 0x82, 0x00, 0x01, 0x10][..], &mac].concat()[..],
        &[0x00, 0xA4, 0x00, 0x0C, 0x02, 0x00, 0x01],
        &[&[0x00, 0x24, 0x01, 0x00, 0x10][..], &[0x77; 16]].concat(),
    ] {
        assert_eq!(one.send(&mut card, capdu), [0x90, 0x00]);
    }
    assert!(!goes_on(&mut card, &mut one));
    assert_eq!(
        two.send(&mut card, &[0x00, 0xB0, 0x81, 0x00, 0x01])[1..],
        [0x90, 0x00]
    );
    let new = Reader::open_with(&mut card, CONTACT, Mode::Ratchet, Lanes::Shared, 9, &[0x77; 16]);
    assert_eq!(new.unwrap().send(&mut card, &append(3)), [0x90, 0x00]);
}

/// The issuer's host, on its own interface.
fn issuer(card: &mut Card) -> Host {
    let level = SecurityLevel::C_MAC;
    Host::open_on(card, ISSUER, 0, 0, &initial_keys(), level, MacMode::S8).unwrap()
}

/// A new policy ends what was opened under the old one.
#[test]
fn a_new_policy_ends_secure_messaging() {
    let mut card = card();
    assert_eq!(sent(&mut card, PLACES[3], "20 00 01 04 31323334"), 0x9000);
    let mut legacy = Reader::open(&mut card, CONTACT, Mode::LegacyOperations, Lanes::Shared, 9).unwrap();
    assert!(goes_on(&mut card, &mut legacy));
    let policy = [
        &[0x80, 0xE2, 0x80, 0x00, 0x06, 0xDF, 0x30, 0x03][..],
        &Policy::new().to_bytes(),
    ]
    .concat();
    let mut host = issuer(&mut card);
    // Another data object is no policy.
    let name = [0x80, 0xE2, 0x80, 0x00, 0x03, 0x42, 0x01, 0x55];
    assert_eq!(sw(&host.send(&mut card, &name)), 0x9000);
    assert!(goes_on(&mut card, &mut legacy));
    assert_eq!(sw(&host.send(&mut card, &policy)), 0x9000);
    assert!(!goes_on(&mut card, &mut legacy));
    let again = Reader::open(&mut card, CONTACT, Mode::LegacyOperations, Lanes::Shared, 9);
    assert_eq!(again.err(), Some(0x6985));
    // What a PIN has proved does not hang on the policy.
    assert_eq!(sent(&mut card, PLACES[3], "20 00 01"), 0x9000);
}

/// What was proved before the application or the card was locked is not proved when they are unlocked.
#[test]
fn locking_ends_the_sessions() {
    let aid = file_system::AID;
    let application = |state: u8| [&[0x80, 0xF0, 0x40, state, 0x07][..], aid].concat();
    let card_state = |state: u8| vec![0x80, 0xF0, 0x80, state];
    for (what, ready, lock, unlock) in [
        ("application", vec![], application(0x80), application(0x07)),
        (
            "card",
            vec![card_state(0x07), card_state(0x0F)],
            card_state(0x7F),
            card_state(0x0F),
        ),
    ] {
        let mut card = proved_everywhere();
        let mut host = issuer(&mut card);
        for command in &ready {
            assert_eq!(sw(&host.send(&mut card, command)), 0x9000);
        }
        assert_eq!(proofs(&mut card), [(true, true); 4], "{what}");
        let mut reader = Reader::open(&mut card, CONTACT, Mode::Ratchet, Lanes::Shared, 9).unwrap();
        assert!(goes_on(&mut card, &mut reader));
        assert_eq!(sw(&host.send(&mut card, &lock)), 0x9000);
        assert_eq!(sent(&mut card, PLACES[2], "20 00 01"), 0x6985, "{what}");
        assert_eq!(sw(&host.send(&mut card, &unlock)), 0x9000);
        assert!(!goes_on(&mut card, &mut reader), "{what}");
        assert_eq!(proofs(&mut card), [(false, false); 4], "{what}");
    }
}

/// A DF that another session has selected is deleted: no command there means another file from then on.
#[test]
fn a_deleted_file_is_selected_nowhere() {
    let mut card = card();
    let [one, two] = [PLACES[0], PLACES[2]];
    authenticate_with(&mut card, two, &test_key::EXTERNAL);
    // Two DFs in each other, with a free file 4001 (SFI 6) in the inner one, and another 4001 with the same SFI in the MF.
    let df = |fid: &str| create(&format!("820138 8302{fid} 8C0407000000"));
    let file = &create("8002000A 82020121 83024001 880130 8C054700000000");
    for step in [
        file,
        &df("6001"),
        "A4 00 0C 02 6001",
        &df("6002"),
        "A4 00 0C 02 6002",
        file,
    ] {
        assert_eq!(sent(&mut card, two, step), 0x9000, "{step}");
    }
    assert_eq!(sent(&mut card, one, "A4 08 0C 06 600160024001"), 0x9000);
    assert_eq!(sent(&mut card, one, "D6 00 00 01 AA"), 0x9000);
    assert_eq!(sent(&mut card, two, "E4 00 00 02 4001"), 0x9000);
    assert_eq!(sent(&mut card, one, "D6 00 00 01 AA"), 0x6986);
    // Made again, it is another file.
    assert_eq!(sent(&mut card, two, file), 0x9000);
    assert_eq!(sent(&mut card, one, "D6 00 00 01 AA"), 0x6986);
    assert_eq!(sent(&mut card, two, "E4 00 00 02 4001"), 0x9000);
    assert_eq!(sent(&mut card, two, "A4 03 0C"), 0x9000);
    assert_eq!(sent(&mut card, two, "E4 00 00 02 6002"), 0x9000);
    for (step, expected) in [
        ("D6 86 00 01 AA", 0x6A82),
        ("B0 86 00 01", 0x6A82),
        ("A4 00 0C 02 4001", 0x6A82),
        ("A4 02 0C 02 4001", 0x6A82),
        ("A4 03 0C", 0x6A82),
        ("A4 09 0C 02 4001", 0x6A82),
        ("E4 00 00 02 4001", 0x6A82),
        (file, 0x6982),
        ("20 00 81", 0x6A88),
        // The MF's own PIN is where it was.
        ("20 00 01", 0x63C3),
    ] {
        assert_eq!(sent(&mut card, one, step), expected, "{step}");
    }
    assert_eq!(sent(&mut card, one, "A4 00 0C 02 3F00"), 0x9000);
    let content = plain(&mut card, CONTACT, &[0x00, 0xB0, 0x86, 0x00, 0x0A]).unwrap();
    assert_eq!(content, [0; 10], "the MF's file has not been written");
}

/// Sessions in the clear, as many as the card takes, put nobody's secure messaging back to the MF.
#[test]
fn secure_messaging_keeps_its_files() {
    let mut card = files::card();
    select_on(&mut card, CONTACT, 0);
    let mut reader = Reader::open(&mut card, CONTACT, Mode::Ratchet, Lanes::Shared, 9).unwrap();
    assert_eq!(
        reader.send(&mut card, &[0x00, 0xA4, 0x00, 0x0C, 0x02, 0x00, 0x11]),
        [0x90, 0x00]
    );
    for interface in [ISSUER, Interface::Swp, Interface::ApduGate] {
        for channel in 0..4 {
            if channel > 0 {
                plain(&mut card, interface, &[0x00, 0x70, 0x00, 0x00, 0x01]).unwrap();
            }
            select_on(&mut card, interface, channel);
            assert_eq!(sent(&mut card, (interface, channel), "20 00 01"), 0x63C3);
        }
    }
    assert_eq!(
        reader.send(&mut card, &[0x00, 0xD6, 0x00, 0x00, 0x01, 0x5A]),
        [0x90, 0x00]
    );
}
