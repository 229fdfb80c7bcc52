//! The SE's own certificates, as long as the page allows, in both versions (docs/spec/tls-manager.md, 2).

use rcgen::SanType;
use sekisho_bridge::Ended;
use sekisho_tls::Version;

use crate::common::{send_on, sw};
use crate::device::{honest, inside, server, session};
use crate::pki::Pki;
use crate::se::{FILES, PORT, chain, store, with};
use crate::servers::{READ, select};

/// Whose chain of one certificate is an object of `len` bytes, or one or two less: a signature has one length or another.
fn with_a_chain_of(len: usize) -> Pki {
    // What a certificate without the name has beside it, and what lengths above 127 and 255 take.
    let mut name = len.saturating_sub(380);
    loop {
        let pki = Pki::with_element(|params| {
            let label = "a".repeat(60);
            let labels = label.clone() + "." + &label + "." + &label + "." + &label;
            let (long, rest) = (name / labels.len(), name % labels.len());
            let names = core::iter::repeat_n(labels.clone(), long).chain([labels[..rest].to_owned()]);
            let names = names.map(|name| SanType::Rfc822Name(format!("a@{name}b").try_into().unwrap()));
            params.subject_alt_names.extend(names);
        });
        let has = chain(&[&pki.element]).len();
        match len.checked_sub(has) {
            Some(..=2) => return pki,
            Some(less) => name += less.div_ceil(2),
            None => name -= (has - len).div_ceil(2),
        }
    }
}

#[test]
fn a_chain_may_be_as_long_as_its_object() {
    for len in [780, 800, 820, 840, 860, 900, 950, 1000] {
        let pki = with_a_chain_of(len);
        let mut se = with(&pki);
        for version in [Version::Tls12, Version::Tls13] {
            let answers = inside(&mut se, &pki, version, &[&select(FILES), READ]);
            assert!(
                answers.iter().all(|answer| sw(answer) == 0x9000),
                "{len} {version:?}"
            );
            assert_eq!(answers.len(), 2);
        }
    }
    // Two certificates, and what is longer.
    let pki = Pki::new();
    let mut se = with(&pki);
    assert_eq!(
        store(&mut se, &[2], &chain(&[&pki.element, &pki.authority])),
        0x9000
    );
    for version in [Version::Tls12, Version::Tls13] {
        assert_eq!(inside(&mut se, &pki, version, &[&select(FILES), READ]).len(), 2);
    }
    let long = [&[0x03, 0xE7][..], &[0x30; 999]].concat();
    assert_eq!(store(&mut se, &[2], &long), 0x6A84);
    // What stands behind the first certificate is one too, or the chain is not taken.
    let own = chain(&[&pki.element]);
    let behind = 1000 - own.len() - 2;
    let len = u16::try_from(behind).unwrap().to_be_bytes();
    assert_eq!(
        store(&mut se, &[2], &[&own, &len[..], &vec![0x30; behind]].concat()),
        0x6A80
    );
}

/// Where the rest of a long flight is not fetched, that session fails and no other.
#[test]
fn a_rest_that_is_not_fetched_is_gone() {
    let pki = with_a_chain_of(1000);
    let mut se = with(&pki);
    let commands = [&select(FILES)[..], READ];
    let fetched = |version| {
        let mut all = vec![];
        let mut se = with(&pki);
        session(
            &mut se,
            &mut server(&pki, version),
            0,
            &commands,
            |number, command, se| {
                if command[1] == 0xC0 {
                    all.push(number);
                }
                honest(number, command, se)
            },
        );
        all
    };
    for version in [Version::Tls12, Version::Tls13] {
        // Of 1,059 bytes at most, 256 at a time; then what is left.
        let all = fetched(version);
        assert!(all.len() > 4, "{version:?} {all:?}");
        for left_out in all {
            let mut others: [&[u8]; 3] = [READ, &[0xA4, 0x20, 0, 0, 0], &[0, 0xC0, 1, 0, 0]];
            others.rotate_left(left_out % 3);
            let seen = session(
                &mut se,
                &mut server(&pki, version),
                0,
                &commands,
                |number, command, se| {
                    if number == left_out {
                        send_on(se, PORT, others[0]);
                    }
                    honest(number, command, se)
                },
            );
            assert!(
                seen.ended != Ended::BySe || seen.answers.len() == 2,
                "{version:?} {left_out}"
            );
            assert_eq!(inside(&mut se, &pki, version, &commands).len(), 2);
        }
    }
}
