//! Cards whose keys and PINs are marked where they stand, in the flash, and conversations with them.
//!
//! What a card decrypts is there to be looked at. So a conversation marks the keys of one purpose, and a key for encryption only where nothing that it decrypts is looked at.

use sekisho_applets::file_system::{AID, image::test_key};
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::Mode;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Interface, Profile};
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::files::{self, Reader};
use crate::common::host::Host;
use crate::common::keys::{put_set, set};
use crate::common::script::Line;
use crate::common::update::{Broadcast, Custody, KVN, Keys, V2, manifest};
use crate::common::{ByValue as _, Card, PAGE, SeededRng, flash, new_card_with, profile};
use crate::mark::{mark, unmark};

const CONTACTS: Interface = Interface::Iso7816Contact;

/// A card, started from a flash in which secrets are marked. The bytes of answers and commands are public.
struct Marked(Card);

impl Marked {
    fn new(card: Card, profile: &Profile, secrets: &[&[u8]]) -> Self {
        let image = card.into_flash().image();
        for secret in secrets {
            let places: Vec<_> = image
                .windows(secret.len())
                .filter(|bytes| bytes == secret)
                .collect();
            assert_eq!(places.len(), 1, "{} is in the flash, once", hex::encode(secret));
            places.into_iter().for_each(mark);
        }
        Self(Card::booted(RamFlash::from_image(PAGE, &image), SeededRng(2), profile).unwrap())
    }

    /// Sends a C-APDU; the status word must be this.
    fn expect(&mut self, capdu: &[u8], sw: u16) {
        let answer = crate::common::send_on(self, CONTACTS, capdu);
        assert!(
            answer.ends_with(&sw.to_be_bytes()),
            "{}: {}",
            hex::encode(capdu),
            hex::encode(answer)
        );
    }
}

impl Line for Marked {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        unmark(capdu);
        let mut out = vec![0; 4096];
        let len = self.0.transmit(interface, capdu, &mut out);
        out.truncate(len);
        unmark(&out);
        out
    }
}

/// Static keys that are not alike: their bytes are found in the flash.
fn keys() -> sekisho_keys::KeySet {
    set(0xE1, 0x3C, 0xD7, 16)
}

fn open(card: &mut Marked, level: SecurityLevel) -> Host {
    Host::open_on(card, CONTACTS, 0, KVN, &keys(), level, MacMode::S8).unwrap()
}

/// SCP03 under a marked static MAC key: cryptograms and C-MAC, right and wrong, R-MAC.
pub(crate) fn scp_mac() {
    let keys = keys();
    let card = new_card_with(&profile(), KVN, &keys);
    let mut card = Marked::new(card, &profile(), &[keys.mac.as_bytes()]);
    for level in [0x00, 0x01, 0x03, 0x11, 0x13, 0x33] {
        let mut host = open(&mut card, SecurityLevel::from_p1(level).unwrap());
        let answer = host.send(&mut card, &[0x80, 0xCA, 0x00, 0x66, 0x00]);
        assert!(answer.ends_with(&[0x90, 0x00]));
        if level != 0 {
            let mut wrong = host.wrap(&[0x80, 0xCA, 0x00, 0x66, 0x00]);
            let at = wrong.len() - 2;
            wrong[at] ^= 1;
            card.expect(&wrong, 0x6982);
        }
    }
    let mut wrong = keys;
    wrong.mac = wrong.enc.clone();
    card.expect(&[0x80, 0x50, KVN, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8], 0x9000);
    card.expect(&[&[0x84, 0x82, 0x33, 0, 16][..], &[0x5A; 16]].concat(), 0x6300);
}

/// SCP03 under marked static keys for encryption, at levels where nothing is decrypted, and PUT KEY, whose keys come under the marked DEK: right, and with a wrong check value.
pub(crate) fn scp_dek() {
    let keys = keys();
    let card = new_card_with(&profile(), KVN, &keys);
    let mut card = Marked::new(card, &profile(), &[keys.enc.as_bytes(), keys.dek.as_bytes()]);
    let mut host = open(&mut card, SecurityLevel::from_p1(0x11).unwrap());
    let command = put_set(&keys.dek, 0, 0x31, &set(0x77, 0x78, 0x79, 16));
    let mut wrong = command.clone();
    let at = wrong.len() - 2;
    wrong[at] ^= 1;
    let answer = host.send(&mut card, &wrong);
    assert!(answer.ends_with(&[0x94, 0x85]), "{}", hex::encode(answer));
    let answer = host.send(&mut card, &command);
    assert!(answer.ends_with(&[0x90, 0x00]), "{}", hex::encode(answer));
    // The new keys are under the mark of the DEK.
    let new = set(0x77, 0x78, 0x79, 16);
    let opened = Host::open_on(
        &mut card,
        CONTACTS,
        0,
        0x31,
        &new,
        SecurityLevel::from_p1(0x11).unwrap(),
        MacMode::S8,
    );
    assert!(opened.is_ok());
}

fn files(secrets: &[&[u8]]) -> Marked {
    let mut card = Marked::new(files::card(), &profile(), secrets);
    card.expect(&[&[0x00, 0xA4, 0x04, 0x00, 7], AID].concat(), 0x9000);
    card
}

/// VERIFY, CHANGE REFERENCE DATA, EXTERNAL and INTERNAL AUTHENTICATE, right and wrong.
pub(crate) fn pin() {
    let mut card = files(&[&test_key::PIN, &test_key::EXTERNAL, &test_key::INTERNAL]);
    for (given, sw) in [(b"0000", 0x63C2), (b"1230", 0x63C1), (b"1234", 0x9000)] {
        card.expect(&[&[0x00, 0x20, 0x00, 0x01, 4][..], given].concat(), sw);
    }
    card.expect(&[&[0x00, 0x20, 0x00, 0x01, 8][..], b"12340000"].concat(), 0x63C2);
    card.expect(&[&[0x00, 0x24, 0x00, 0x01, 9][..], b"000098765"].concat(), 0x63C1);
    card.expect(&[&[0x00, 0x24, 0x00, 0x01, 9][..], b"123498765"].concat(), 0x9000);
    card.expect(&[&[0x00, 0x20, 0x00, 0x01, 5][..], b"98765"].concat(), 0x9000);
    card.expect(&[0x00, 0x84, 0, 0, 16], 0x9000);
    card.expect(&[&[0x00, 0x82, 0x00, 0x01, 16][..], &[0x5A; 16]].concat(), 0x63C4);
    files::authenticate(&mut card, CONTACTS);
    card.expect(
        &[&[0x00, 0x88, 0x00, 0x01, 16][..], &[0x5A; 16], &[0]].concat(),
        0x9000,
    );
}

/// Openings of secure messaging under a marked MKEY, in the modes that a card allows by itself, right and wrong, and commands behind them.
pub(crate) fn messaging() {
    let mut card = files(&[&test_key::MKEY]);
    for mode in [Mode::Ratchet, Mode::Fixed] {
        for lanes in [Lanes::Shared, Lanes::Separate] {
            let mut reader = Reader::open(&mut card, CONTACTS, mode, lanes, 256).unwrap();
            let answer = reader.send(&mut card, &[0x00, 0xB0, 0x9E, 0x00, 0x10]);
            assert!(answer.ends_with(&[0x90, 0x00]), "{}", hex::encode(answer));
            let mut wrong = reader.protect(&[0x00, 0xB0, 0x9E, 0x00, 0x10]);
            let at = wrong.len() - 2;
            wrong[at] ^= 1;
            card.expect(&wrong, 0x6988);
        }
    }
    assert!(Reader::open_with(&mut card, CONTACTS, Mode::Fixed, Lanes::Shared, 256, &[0; 16]).is_err());
}

/// A broadcast update up to AUTHORIZE ACTION, in both custodies: the integrity code under a marked K_MAC, wrong and right, the receipt under a marked K-AUT.
pub(crate) fn update() {
    for custody in [Custody::Design, Custody::Hsm] {
        let keys = Keys::new();
        let secrets = [keys.k_mac.as_bytes(), keys.k_aut.as_bytes()];
        let mut card = Marked::new(keys.card(flash(), &profile()), &profile(), &secrets);
        let broadcast = Broadcast::new(&keys, custody, &manifest(2, 1, V2), V2, 239);
        let mut host = Host::open_on(
            &mut card,
            CONTACTS,
            0,
            KVN,
            &keys.scp,
            SecurityLevel::FULL,
            MacMode::S8,
        )
        .unwrap();
        let sent = host.send(&mut card, &broadcast.change_mode);
        assert!(sent.ends_with(&[0x90, 0x00]), "{}", hex::encode(sent));
        for command in &broadcast.commands {
            card.expect(command, 0x9000);
        }
        let mut wrong = broadcast.activate.clone();
        let at = wrong.len() - 2;
        wrong[at] ^= 1;
        assert!(!host.send(&mut card, &wrong).ends_with(&[0x90, 0x00]));
        let receipt = host.send(&mut card, &broadcast.activate);
        assert!(receipt.ends_with(&[0x90, 0x00]), "{}", hex::encode(receipt));
    }
}
