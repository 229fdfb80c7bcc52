//! What the security domain says of its keys, however many there are: docs/spec/card.md, 3.1.

#![allow(clippy::unwrap_used, clippy::panic)] // test support

use crate::common;

use common::host::Host;
use common::{Card, initial_keys, key, new_card, send, sw};
use sekisho_apdu::tlv::{Tag, TlvReader};
use sekisho_keys::{cbc_encrypt, kcv_aes};
use sekisho_scp::SecurityLevel;

/// PUT KEY of a set of three keys in version `kvn`, under the initial Key-DEK.
fn put_set(kvn: u8) -> Vec<u8> {
    let mut command = vec![0x80, 0xD8, 0x00, 0x81, 67, kvn];
    for id in 1..=3 {
        let plain = [kvn.wrapping_mul(3).wrapping_add(id); 16];
        let mut encrypted = plain;
        cbc_encrypt(&initial_keys().dek, &[0; 16], &mut encrypted).unwrap();
        command.extend([0x88, 16]);
        command.extend(encrypted);
        command.push(3);
        command.extend(kcv_aes(&key(&plain)));
    }
    command
}

/// The versions that the templates name, each with its number of keys; `ask` sends GET DATA with this P1.
fn versions(mut ask: impl FnMut(u8) -> Vec<u8>) -> (usize, Vec<(u8, usize)>) {
    let mut keys: Vec<u8> = Vec::new();
    let mut templates = 0;
    for index in 0..=u8::MAX {
        let answer = ask(index);
        if sw(&answer) == 0x6A88 {
            break;
        }
        assert_eq!(sw(&answer), 0x9000);
        let (template, _) = answer.split_at(answer.len() - 2);
        assert!(template.len() < 240, "{} bytes", template.len());
        let outer = TlvReader::new(template).next().unwrap().unwrap();
        assert_eq!(outer.tag, Tag(0xE0));
        keys.extend(TlvReader::new(outer.value).map(|object| object.unwrap().value[1]));
        templates += 1;
    }
    let runs = keys.chunk_by(|a, b| a == b).map(|run| (run[0], run.len()));
    (templates, runs.collect())
}

/// A card with so many versions of SCP03, and a host of it.
fn card_with(count: u8) -> (Card, Host) {
    let mut card = new_card();
    let mut host = Host::open(&mut card, 0, &initial_keys(), SecurityLevel::FULL);
    for kvn in 1..=count {
        assert_eq!(sw(&host.send(&mut card, &put_set(kvn))), 0x9000, "{kvn}");
    }
    (card, host)
}

#[test]
fn key_information_of_any_number_of_keys_comes_in_templates_below_240_bytes() {
    for count in 1..=15 {
        let (mut card, mut host) = card_with(count);
        let expected: Vec<_> = (1..=count).map(|kvn| (kvn, 3)).chain([(0x60, 1)]).collect();
        // Short and in the session, where the R-MAC and padding have to fit too; then in the clear.
        let (templates, found) = versions(|index| host.send(&mut card, &[0x80, 0xCA, index, 0xE0, 0x00]));
        assert_eq!(found, expected);
        card.reset(sekisho_os::Interface::Iso7816Contact);
        assert_eq!(
            versions(|index| send(&mut card, &[0x80, 0xCA, index, 0xE0, 0x00])),
            (templates, expected)
        );
        // 13 sets and K-AUT are 240 bytes.
        assert_eq!(templates, if count < 13 { 1 } else { 2 });
        // In class 00 the same without tag and length.
        let whole = send(&mut card, &[0x80, 0xCA, 0x00, 0xE0, 0x00]);
        let bare = send(&mut card, &[0x00, 0xCA, 0x00, 0xE0, 0x00]);
        assert!(whole.ends_with(&bare));
        assert_eq!(send(&mut card, &[0x80, 0xCA, 0xFF, 0xE0, 0x00]), [0x6A, 0x88]);
    }
}
