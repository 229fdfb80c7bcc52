//! Section 9 of the page: recorded sessions, bit for bit.

use std::collections::BTreeMap;

use sekisho_keys::p256sig::SigningKey;
use sekisho_tls::Version;

use crate::ends::{Element, Pki, key};
use crate::hostile::{peer, server, session};
use crate::servers::COMMANDS;

/// The SE answers to each command what it answered when it was recorded.
#[test]
fn the_page_shows_recorded_sessions() {
    let page = include_str!("../../../../../docs/spec/tls-apdu.md");
    let hex = |text: &str| -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits
            .chunks(2)
            .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
            .collect()
    };
    let mut sessions = 0;
    for block in page.split("```tls-recording\n").skip(1) {
        let (mut fields, mut lines) = (BTreeMap::new(), Vec::new());
        for line in block.split("```").next().unwrap().lines() {
            let (name, bytes) = line.split_once(' ').unwrap();
            match name {
                ">" | "<" => lines.push((name, hex(bytes))),
                name => drop(fields.insert(name, hex(bytes))),
            }
        }
        let key = SigningKey::from_bytes(&fields["key"][..].try_into().unwrap()).unwrap();
        let (anchors, chain) = ([&fields["anchor"][..]], [&fields["certificate"][..]]);
        let seed = u64::from(fields["seed"][0]);
        let mut element = Element::new(peer(&anchors, &chain, &key), seed);
        for exchange in lines.chunks(2) {
            let [(">", command), ("<", answer)] = exchange else {
                panic!("{exchange:?}")
            };
            assert_eq!(element.transmit(command), *answer);
        }
        assert_eq!(element.ran, COMMANDS);
        sessions += 1;
    }
    assert_eq!(sessions, 2);
}

/// Prints what stands on the page, with new keys.
#[test]
#[ignore = "for whoever changes the page"]
fn record() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    for (seed, version) in [(1, Version::Tls12), (2, Version::Tls13)] {
        let pki = Pki::new();
        let key = key(&pki);
        let (anchors, chain) = ([&pki.authority.certificate[..]], [&pki.element.certificate[..]]);
        println!("```tls-recording");
        println!("anchor {}", hex(anchors[0]));
        println!("certificate {}", hex(chain[0]));
        println!("key {}", hex(&pki.element.scalar()));
        println!("seed {seed:02X}");
        let mut element = Element::new(peer(&anchors, &chain, &key), seed);
        session(&mut server(&pki, version), &mut element, |_, command, element| {
            println!("> {}", hex(command));
            let answer = element.transmit(command);
            println!("< {}", hex(&answer));
            answer
        });
        println!("```");
    }
}
