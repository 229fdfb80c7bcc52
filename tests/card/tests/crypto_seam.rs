//! Everything that a card computes goes through the engine that its build names (`docs/decisions/0015-chip.md`). For a build with
//! `--cfg sekisho_crypto="custom"` alone: `scripts/test seam`.
#![cfg(sekisho_crypto = "custom")]
#![allow(clippy::unwrap_used, clippy::panic)] // test support

use sekisho_counted::{Counting, Counts, counted};
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::Mode;
use sekisho_os::Interface;
use sekisho_scp::SecurityLevel;

use common::files::{Reader, card as file_card, select};
use common::update::{Broadcast, Custody, Keys, V2, manifest};
use common::{flash, profile, send, sw};
use sekisho_card_tests as common;

sekisho_keys::custom_crypto!(Counting);

// The same conversations and vectors, byte for byte, with this engine.
#[path = "../../../crates/card/sekisho-applets/tests/scripts.rs"]
mod scripts;
#[path = "../../../crates/proto/sekisho-keys/tests/vectors.rs"]
mod vectors;

/// A command at level 33 with an answer of 50 bytes: the IV and a C-MAC over 16 + 5 + 8 bytes, with its subkey; the IV of the answer, four blocks of ciphertext,
/// and an R-MAC over 16 + 64 + 2 bytes, with its subkey.
#[test]
fn each_block_of_a_protected_command_goes_through_the_engine() {
    let keys = Keys::new();
    let mut card = keys.card(flash(), &profile());
    let mut host = keys.open(&mut card, SecurityLevel::FULL);
    let command = host.wrap(&[0x80, 0xCA, 0x00, 0x66, 0x00]);
    let (answer, counts) = counted(|| send(&mut card, &command));
    let answer = host.unwrap(&answer);
    println!("{} bytes, {counts:?}", answer.len());
    assert_eq!(sw(&answer), 0x9000);
    assert_eq!(
        counts,
        Counts {
            aes: 15,
            ..Counts::default()
        }
    );
}

#[test]
fn an_update_hashes_verifies_and_decrypts_with_the_engine() {
    let keys = Keys::new();
    let mut card = keys.card(flash(), &profile());
    let mut host = keys.open(&mut card, SecurityLevel::FULL);
    let update = Broadcast::new(&keys, Custody::Hsm, &manifest(2, 1, V2), V2, 239);
    let (played, counts) = counted(|| update.play(&mut card, &mut host, 0));
    println!("{counts:?}");
    assert_eq!(played, 0x9000);
    // The designer's signature over the manifest, twice for a chip that leaves out an instruction; blocks of the host's own part are counted too.
    assert_eq!((counts.verified, counts.signed, counts.agreed), (2, 0, 0));
    let len = u32::try_from(V2.len()).unwrap();
    assert!(counts.aes > 2 * len / 16, "{counts:?}");
    // What stands in the slot is hashed when it is activated.
    let (answer, counts) = counted(|| host.send(&mut card, &update.activate));
    println!("{counts:?}");
    assert_eq!(sw(&answer), 0x9000);
    assert!(counts.sha256 >= len / 64, "{counts:?}");
}

#[test]
fn the_ratchet_agrees_with_the_engine() {
    let mut card = file_card();
    let interface = Interface::Iso7816Contact;
    select(&mut card, interface);
    let (reader, counts) =
        counted(|| Reader::open(&mut card, interface, Mode::Ratchet, Lanes::Separate, 256));
    println!("{counts:?}");
    // Reader and card: a key pair and the other's point each.
    assert_eq!((counts.public_keys, counts.points, counts.agreed), (2, 2, 2));
    let mut reader = reader.unwrap();
    let protected = reader.protect(&[0x00, 0xB0, 0x00, 0x00, 0x10]);
    let (answer, counts) = counted(|| reader.transmit(&mut card, &protected));
    println!("{counts:?}");
    reader.accept(&answer).unwrap();
    // Five keys of the exchange, two MACs of two blocks at least.
    assert!(counts.aes >= 5 + 4 && counts.agreed == 0, "{counts:?}");
}
