//! Keys that the SE makes, and requests for their certificates (docs/spec/tls-manager.md, 7).

use std::collections::BTreeMap;
use std::process::Command;

use sekisho_applets::tls_manager;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::SecureElement;
use sekisho_tls::Version;

use crate::askers::Source;
use crate::common::{profile, send_on, sw};
use crate::device::{Talk, honest, inside, server, talking};
use crate::openssl::files;
use crate::pki::Pki;
use crate::se::{
    FILES, PORT, Product, Se, chain, chain_of, empty, root, row, row_with, store, store_at, with,
};
use crate::servers::{READ, select};

pub(crate) const RENEW: u8 = 1;
pub(crate) const ANCHOR: u8 = 2;
pub(crate) const MANAGER: &[u8] = tls_manager::AID;
/// GENERATE ASYMMETRIC KEY PAIR, what is there.
pub(crate) const PENDING: &[u8] = &[0, 0x47, 0x81, 0, 0];
/// A subject that the SE is to choose.
pub(crate) const NO_SUBJECT: &[u8] = &[0x30, 0];

/// An SE whose row 0001 has these rights, and reaches the TLS Manager.
pub(crate) fn with_rights(pki: &Pki, rights: u8) -> Box<Se> {
    let mut se = with(pki);
    let row = row_with(rights, "localhost", &[FILES, MANAGER], &pki.authority.certificate);
    assert_eq!(store(&mut se, &[3, 0, 1], &row), 0x9000);
    se
}

/// GENERATE ASYMMETRIC KEY PAIR, extended.
pub(crate) fn generate(subject: &[u8]) -> Vec<u8> {
    if subject.is_empty() {
        return vec![0, 0x47, 0x80, 0, 0, 0, 0];
    }
    let len = u16::try_from(subject.len()).unwrap().to_be_bytes();
    [&[0, 0x47, 0x80, 0, 0][..], &len, subject, &[0, 0]].concat()
}

/// STORE DATA of an object in one block, extended.
pub(crate) fn stored(object: &[u8], value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(object.len() + value.len()).unwrap().to_be_bytes();
    [&[0x80, 0xE2, 0x80, 0, 0][..], &len, object, value].concat()
}

/// The point that a request asks a certificate for.
fn point(request: &[u8]) -> Vec<u8> {
    let at = request
        .windows(4)
        .position(|bytes| bytes == [3, 0x42, 0, 4])
        .unwrap()
        + 3;
    request[at..at + 65].to_vec()
}

/// Data and status word of an answer inside.
fn split(answer: &[u8]) -> (&[u8], u16) {
    (&answer[..answer.len() - 2], sw(answer))
}

/// A session of row 0001 in which the TLS Manager is selected.
pub(crate) fn managed<T>(
    se: &mut Se,
    pki: &Pki,
    version: Version,
    talk: impl FnOnce(&mut Talk<'_, '_, '_>) -> T,
) -> (T, Vec<u8>) {
    let mut server = server(pki, version);
    let done = talking(se, &mut server, 0, &mut honest, |it| {
        assert_eq!(it.ask(&select(MANAGER)).map(|answer| sw(&answer)), Ok(0x9000));
        talk(it)
    });
    (done, server.peer_certificates().unwrap()[0].to_vec())
}

/// What is at the other end of a session: the certificate that the SE has proved to be its own.
pub(crate) fn certificate_of(se: &mut Se, pki: &Pki, version: Version) -> Option<Vec<u8>> {
    let mut server = server(pki, version);
    let answer = talking(se, &mut server, 0, &mut honest, |talk| talk.ask(&select(FILES)));
    answer
        .ok()
        .map(|_| server.peer_certificates().unwrap()[0].to_vec())
}

fn holds(se: &Se, key: &[u8]) -> bool {
    se.flash().image().windows(key.len()).any(|bytes| bytes == key)
}

fn restarted(se: Box<Se>) -> Box<Se> {
    let mut flash = SecureElement::<Product>::into_flash(*se);
    flash.power_on();
    let mut se = Box::new(Se::new(flash, Source::new()));
    se.boot(&profile()).unwrap();
    se
}

/// What the SE says it is asks its authority for a certificate; OpenSSL finds request and signature right, and certifies it.
#[test]
fn a_key_is_made_certified_and_lives_over_one_session() {
    for version in [Version::Tls12, Version::Tls13] {
        let pki = Pki::new();
        let mut se = with_rights(&pki, RENEW);
        let before = pki.element.scalar();
        assert_eq!(send_on(&mut *se, PORT, &select(MANAGER))[..2], [0x6F, 0x09]);
        assert_eq!(send_on(&mut *se, PORT, PENDING), [0x6A, 0x88]);
        let (new, old) = managed(&mut se, &pki, version, |talk| {
            let answer = talk.ask(&generate(&[])).unwrap();
            let (request, 0x9000) = split(&answer) else {
                panic!("{answer:02X?}")
            };
            // The same again, and another one from a key of its own.
            assert_eq!(talk.ask(&[0, 0x47, 0x81, 0, 0, 0, 0]).unwrap(), answer);
            let other = talk.ask(&generate(NO_SUBJECT)).unwrap();
            assert_eq!(sw(&other), 0x9000);
            assert_ne!(point(&other), point(request));
            let new = certified_by_openssl(&pki, split(&other).0);
            // Its first key is no key of the SE any more.
            let first = pki.certify("element.example", &point(request));
            assert_eq!(
                sw(&talk.ask(&stored(&[2], &chain_of(&[&first]))).unwrap()),
                0x6A88
            );
            assert_eq!(sw(&talk.ask(&stored(&[2], &chain_of(&[&new]))).unwrap()), 0x9000);
            assert_eq!(talk.ask(PENDING), Ok(vec![0x6A, 0x88]));
            // The session is the one that it was.
            assert_eq!(talk.ask(&select(FILES)).map(|answer| sw(&answer)), Ok(0x9000));
            new
        });
        assert_eq!(old, pki.element.certificate);
        assert!(!holds(&se, &before));
        for version in [Version::Tls12, Version::Tls13] {
            assert_eq!(certificate_of(&mut se, &pki, version), Some(new.clone()));
        }
        let mut se = restarted(se);
        assert_eq!(certificate_of(&mut se, &pki, version), Some(new));
        assert_eq!(sw(&send_on(&mut *se, PORT, &select(MANAGER))), 0x9000);
        assert_eq!(send_on(&mut *se, PORT, PENDING), [0x6A, 0x88]);
    }
}

/// Certifies a request as an operator does; the names of the certificate before are in it.
fn certified_by_openssl(pki: &Pki, request: &[u8]) -> Vec<u8> {
    let (folder, [.., authority]) = files(pki);
    let of = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(of("request.der"), request).unwrap();
    std::fs::write(of("ca.key"), pki.authority.key.serialize_pem()).unwrap();
    let run = |arguments: &[&str]| {
        let out = Command::new("openssl").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{said}");
        said + &String::from_utf8_lossy(&out.stdout)
    };
    let (from, to) = (of("request.der"), of("new.der"));
    let said = run(&[
        "req", "-inform", "DER", "-in", &from, "-verify", "-noout", "-text",
    ]);
    for text in [
        "verify OK",
        "Public-Key: (256 bit)",
        "DNS:element.example",
        "TLS Web Client Authentication",
        "Digital Signature",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    run(&[
        "x509",
        "-req",
        "-inform",
        "DER",
        "-in",
        &from,
        "-CA",
        &authority,
        "-CAkey",
        &of("ca.key"),
        "-CAcreateserial",
        "-copy_extensions",
        "copy",
        "-days",
        "10000",
        "-outform",
        "DER",
        "-out",
        &to,
    ]);
    std::fs::read(to).unwrap()
}

/// The root has a key made, and reads the request like anybody; before there is a certificate the SE names itself by its number.
#[test]
fn the_root_has_a_key_made_in_an_se_that_has_none() {
    let pki = Pki::new();
    let mut se = empty();
    let row = row("localhost", &[FILES], &pki.authority.certificate);
    assert_eq!(store(&mut se, &[3, 0, 1], &row), 0x9000);
    assert_eq!(store(&mut se, &[2], &chain(&[&pki.element])), 0x6A88);
    for level in [0x01, 0x11] {
        assert_eq!(store_at(&mut *se, level, &[5], NO_SUBJECT), 0x6982);
    }
    assert_eq!(store(&mut se, &[5], NO_SUBJECT), 0x9000);
    assert_eq!(sw(&send_on(&mut *se, PORT, &select(MANAGER))), 0x9000);
    let answer = send_on(&mut *se, PORT, &[0, 0x47, 0x81, 0, 0, 0, 0]);
    let (request, 0x9000) = split(&answer) else {
        panic!("{answer:02X?}")
    };
    let number: String = crate::common::SE_ID
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    assert!(request.windows(20).any(|bytes| bytes == number.as_bytes()));
    // Nothing is opened with a key that waits.
    assert_eq!(sw(&send_on(&mut *se, PORT, &[0xA4, 0x28, 0, 1, 0])), 0x6985);
    // Removed, it is nowhere; a removed one cannot be certified.
    assert_eq!(store(&mut se, &[5], &[]), 0x9000);
    assert_eq!(store(&mut se, &[5], &[]), 0x9000);
    let of_removed = pki.certify("element.example", &point(request));
    assert_eq!(store(&mut se, &[2], &chain_of(&[&of_removed])), 0x6A88);
    let name = hex::decode("3012311030" /* CN=element */).unwrap();
    let name = [&name[..], &hex::decode("0E06035504030C07656C656D656E74").unwrap()].concat();
    assert_eq!(store(&mut se, &[5], &name), 0x9000);
    assert_eq!(sw(&send_on(&mut *se, PORT, &select(MANAGER))), 0x9000);
    let answer = send_on(&mut *se, PORT, &[0, 0x47, 0x81, 0, 0, 0, 0]);
    assert!(answer.windows(name.len()).any(|bytes| bytes == name));
    let new = pki.certify("element.example", &point(&answer));
    assert_eq!(store(&mut se, &[2], &chain_of(&[&new])), 0x9000);
    assert_eq!(certificate_of(&mut se, &pki, Version::Tls13), Some(new));
    // As long as a chain may be, but for the key that is written with it.
    assert_eq!(store(&mut se, &[5], NO_SUBJECT), 0x9000);
    assert_eq!(sw(&send_on(&mut *se, PORT, &select(MANAGER))), 0x9000);
    let answer = send_on(&mut *se, PORT, &[0, 0x47, 0x81, 0, 0, 0, 0]);
    let new = pki.certify("element.example", &point(&answer));
    for (len, said) in [(1000, 0x6A84), (993, 0x6A84), (992, 0x9000)] {
        let own = chain_of(&[&new]);
        let behind = len - own.len() - 2;
        let long = chain_of(&[&new, &certificate_as_long(&pki, behind)]);
        assert_eq!(store(&mut se, &[2], &long), said, "{len}");
    }
}

/// A certificate of so many bytes. Signatures differ by some in their length.
fn certificate_as_long(pki: &Pki, len: usize) -> Vec<u8> {
    let mut filling = 1;
    loop {
        let content = vec![0; filling];
        let made = pki.with_server(|params| {
            let filling = rcgen::CustomExtension::from_oid_content(&[1, 2, 3], content);
            params.custom_extensions.push(filling);
        });
        let made = made.server.certificate;
        match len.checked_signed_diff(made.len()) {
            Some(0) => return made,
            Some(off) => filling = filling.saturating_add_signed(off).max(1),
            None => panic!("{len}"),
        }
    }
}

/// A source that fails, repeats itself or gives what the SE has already makes no key: the SE stops, and has what it had when it is started again.
#[test]
fn a_source_that_fails_makes_no_key_pair() {
    let pki = Pki::new();
    let sources: [(&str, &dyn Fn()); 4] = [
        ("zeros", &|| Source::stick(Some(0))),
        ("ones", &|| Source::stick(Some(0xFF))),
        ("the same", &|| Source::stick(Some(0x55))),
        ("the live key", &|| Source::give(pki.element.scalar())),
    ];
    for (what, break_it) in sources {
        let mut se = with(&pki);
        let mut host = root(&mut se);
        break_it();
        let said = sw(&host.send(&mut *se, &[0x80, 0xE2, 0x80, 0, 3, 5, 0x30, 0]));
        Source::stick(None);
        assert_eq!(said, 0x6581, "{what}");
        assert_eq!(sw(&send_on(&mut *se, PORT, &select(MANAGER))), 0x6581, "{what}");
        let mut se = restarted(se);
        assert_eq!(sw(&send_on(&mut *se, PORT, &select(MANAGER))), 0x9000);
        assert_eq!(send_on(&mut *se, PORT, PENDING), [0x6A, 0x88], "{what}");
        assert_eq!(
            inside(&mut se, &pki, Version::Tls13, &[&select(FILES), READ]).len(),
            2
        );
        assert_eq!(store(&mut se, &[5], NO_SUBJECT), 0x9000);
    }
}

/// A name of one attribute, whose value takes what is left of so many bytes; lengths in more bytes than DER has.
fn long_name(len: usize) -> Vec<u8> {
    // One attribute, whose value takes what is left; lengths in two bytes each.
    let text = len - 4 - 4 - 4 - 5 - 3;
    let of = |tag: u8, len: usize| vec![tag, 0x82, 0, u8::try_from(len).unwrap()];
    [
        of(0x30, len - 4),
        of(0x31, len - 8),
        of(0x30, len - 12),
        vec![6, 3, 0x55, 4, 3, 0x0C, 0x81, u8::try_from(text).unwrap()],
        vec![b'a'; text],
    ]
    .concat()
}

/// Subjects and chains that are nearly right: a status word, and nothing has changed.
#[test]
fn what_is_nearly_right_changes_nothing() {
    let pki = Pki::new();
    let mut se = with_rights(&pki, RENEW);
    let name = hex::decode("30123110300E06035504030C07656C656D656E74").unwrap();
    let (public, _) = managed(&mut se, &pki, Version::Tls13, |talk| {
        let request = talk.ask(&generate(&name)).unwrap();
        assert_eq!(sw(&request), 0x9000);
        let mut outcomes = BTreeMap::new();
        let mut refused = |talk: &mut Talk<'_, '_, '_>, command: &[u8]| {
            let answer = talk.ask(command).unwrap();
            assert_eq!(answer.len(), 2, "{command:02X?}");
            *outcomes.entry(sw(&answer)).or_insert(0) += 1;
        };
        // Cut anywhere, with a byte more, and not as DER has it.
        for len in 1..name.len() {
            if &name[..len] != NO_SUBJECT {
                refused(talk, &generate(&name[..len]));
            }
        }
        for wrong in [
            [&name[..], &[0]].concat(),
            [&[0x30, 0x81, 0x12][..], &name[2..]].concat(),
            vec![0x31, 0],
            vec![0x30; 256],
            vec![0xFF; 200],
            long_name(200),
        ] {
            refused(talk, &generate(&wrong));
        }
        let point = point(&request);
        let new = pki.certify("element.example", &point);
        let at = new.windows(65).position(|bytes| bytes == point).unwrap();
        // Of the key each bit, of the rest what makes it no certificate.
        for byte in (at..at + 65).step_by(3) {
            let mut other = new.clone();
            other[byte] ^= 1 << (byte % 8);
            refused(talk, &stored(&[2], &chain_of(&[&other])));
        }
        for len in (1..new.len()).step_by(7) {
            refused(talk, &stored(&[2], &chain_of(&[&new[..len]])));
        }
        let compressed = pki.certify("element.example", &point[..33]);
        refused(talk, &stored(&[2], &chain_of(&[&compressed])));
        refused(talk, &stored(&[2], &chain_of(&[&pki.server.certificate, &new])));
        refused(talk, &stored(&[2], &chain_of(&[&new, &[0x30, 3, 1, 1, 2]])));
        println!("refused: {outcomes:?}");
        assert!(
            outcomes.keys().all(|sw| [0x6A80, 0x6A88].contains(sw)),
            "{outcomes:?}"
        );
        assert!(outcomes[&0x6A80] > 60 && outcomes[&0x6A88] >= 1);
        assert_eq!(talk.ask(&[0, 0x47, 0x81, 0, 0, 0, 0]), Ok(request));
        point
    });
    assert_eq!(
        certificate_of(&mut se, &pki, Version::Tls13),
        Some(pki.element.certificate.clone())
    );
    let new = pki.certify("element.example", &public);
    assert_eq!(store(&mut se, &[2], &chain_of(&[&new])), 0x9000);
}

/// The power goes at each operation of the flash while a key is made, and while its certificate comes: the SE has the pair before or the pair after, whole, and no other.
#[test]
fn a_pair_is_the_old_one_or_the_new_one_when_the_power_goes() {
    let pki = Pki::new();
    let mut se = with_rights(&pki, RENEW);
    // The floor does not move in what is cut.
    assert!(certificate_of(&mut se, &pki, Version::Tls13).is_some());
    let scalar = *b"a private key of the SE, 32 byte";
    let point = sekisho_keys::p256sig::SigningKey::from_bytes(&scalar)
        .unwrap()
        .verifying_key()
        .to_sec1();
    let new = pki.certify("element.example", &point);
    let old = &pki.element.certificate;
    let mut seen = BTreeMap::new();
    let before = se.into_flash();
    let made = swept(&before, &pki, &generate(&[]), &scalar, |said, mut se| {
        assert_eq!(sw(&send_on(&mut *se, PORT, &select(MANAGER))), 0x9000);
        let waits = sw(&send_on(&mut *se, PORT, &[0, 0x47, 0x81, 0, 0, 0, 0])) == 0x9000;
        // The key is there where its request is, and nowhere else.
        assert_eq!(holds(&se, &scalar), waits);
        assert_eq!(certificate_of(&mut se, &pki, Version::Tls13).as_ref(), Some(old));
        *seen.entry(("made", said, waits)).or_insert(0) += 1;
    });
    swept(
        &made,
        &pki,
        &stored(&[2], &chain_of(&[&new])),
        &[0; 32],
        |said, mut se| {
            let met = certificate_of(&mut se, &pki, Version::Tls13).unwrap();
            let lives = met == new;
            assert!(lives || met == *old);
            assert_eq!(holds(&se, &pki.element.scalar()), !lives);
            assert!(holds(&se, &scalar));
            assert_eq!(sw(&send_on(&mut *se, PORT, &select(MANAGER))), 0x9000);
            let waits = sw(&send_on(&mut *se, PORT, &[0, 0x47, 0x81, 0, 0, 0, 0])) == 0x9000;
            assert_eq!(waits, !lives);
            *seen.entry(("adopted", said, lives)).or_insert(0) += 1;
        },
    );
    println!("what, answered, new: {seen:?}");
    for what in ["made", "adopted"] {
        assert_eq!(seen.get(&(what, true, false)), None);
        assert!(seen[&(what, false, false)] > 0 && seen[&(what, true, true)] >= 1);
    }
}

/// Sends one command to the TLS Manager inside a session, with the power off after each number of operations; `look` sees whether it was answered 9000 and the SE behind it, started again. The
/// flash as it is without a cut.
fn swept(
    flash: &RamFlash,
    pki: &Pki,
    command: &[u8],
    random: &[u8; 32],
    mut look: impl FnMut(bool, Box<Se>),
) -> RamFlash {
    for cut in 0.. {
        let mut flash = flash.clone();
        flash.cut_after(cut, cut);
        let mut se = Box::new(Se::new(flash, Source::new()));
        se.boot(&profile()).unwrap();
        let mut server = server(pki, Version::Tls13);
        let said = talking(&mut se, &mut server, 0, &mut honest, |talk| {
            talk.ask(&select(MANAGER))?;
            if random[0] != 0 {
                Source::give(*random);
            }
            talk.ask(command)
        });
        let said = said.is_ok_and(|answer| sw(&answer) == 0x9000);
        let was_cut = se.flash().is_off();
        let se = restarted(se);
        let whole = se.flash().clone();
        look(said, se);
        if !was_cut {
            return whole;
        }
    }
    unreachable!("some cut is behind all operations")
}

/// The page's example, played: the SE's generator gives the page's key.
#[test]
fn the_page_s_request_is_made_and_its_certificate_taken() {
    let page = include_str!("../../../../../docs/spec/tls-manager.md");
    let example = page.split("```tls-key\n").nth(1).unwrap();
    let bytes = |text: &str| hex::decode(text.replace(' ', "")).unwrap();
    let mut se = empty();
    let (mut answer, mut key) = (vec![], [0; 32]);
    for line in example.split("```").next().unwrap().lines() {
        let (who, rest) = line.split_once(' ').unwrap();
        match who {
            "key" => key = bytes(rest).try_into().unwrap(),
            "root" => {
                // Others ask for randomness before, of another length.
                let object = bytes(rest);
                Source::give(key);
                assert_eq!(store(&mut se, &object[..1], &object[1..]), 0x9000);
            }
            ">" => answer = send_on(&mut *se, PORT, &bytes(rest)),
            "<" => assert_eq!(hex::encode_upper(&answer), rest.replace(' ', ""), "{line}"),
            _ => panic!("{line}"),
        }
    }
    assert!(holds(&se, &key));
}
