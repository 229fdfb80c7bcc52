//! `sekisho card --tls`: a bridge carries its sessions to OpenSSL and to the gateway.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use sekisho_bridge::{Ended, Why};
use sekisho_gateway::{Credentials, Gateway, Lost, Outcome, SendError};
use sekisho_tls::Version;
use sekisho_transport::{Card, SocketCard};
use tokio::net::TcpListener;

use super::run;
use crate::folder::write_folder;
use crate::openssl::{OpenSsl, connect};
use crate::pki::Pki;
use crate::process::{CardProcess, scratch, send};
use crate::scripted::{carry, with_script};

/// SELECT of the file system, READ BINARY of file 2F00, which everybody may read, by its short identifier, and an instruction that it does not have.
const SCRIPT: [&[u8]; 3] = [
    b"\x00\xA4\x04\x00\x07\xF0SKOS\x04\x01\x00",
    &[0x00, 0xB0, 0x9E, 0x00, 0x10],
    &[0x00, 0x10, 0x00, 0x00],
];
const OPEN: &[u8] = &[0xA4, 0x28, 0, 1, 0];
const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// As many rows as there can be, as long as they can be for the most part.
fn fill(folder: &Path) {
    let first = folder.join("peers/0001");
    let more = (1..8).map(|n| format!("F0534B4F530401F0534B4F53040100{n:02X}\n"));
    let applications = more.fold("F0534B4F530401\n".to_owned(), |all, line| all + &line);
    for number in 2..=0x10 {
        let row = folder.join(format!("peers/{number:04X}"));
        fs::create_dir_all(&row).unwrap();
        for name in ["name", "anchor.pem"] {
            fs::copy(first.join(name), row.join(name)).unwrap();
        }
        fs::write(row.join("applications"), &applications).unwrap();
    }
}

/// What the same commands are answered in the clear.
fn in_the_clear(card: &mut SocketCard) -> Vec<Vec<u8>> {
    let answers: Vec<_> = SCRIPT
        .iter()
        .map(|command| card.transmit(command).unwrap())
        .collect();
    let ends: Vec<_> = answers.iter().map(|answer| &answer[answer.len() - 2..]).collect();
    assert_eq!(ends, [[0x90, 0], [0x90, 0], [0x6D, 0]]);
    assert_eq!(answers[1].len(), 18);
    answers
}

/// The private key in another form.
fn openssl(folder: &Path, arguments: &[&str]) {
    let done = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn the_gateway_gives_commands_to_a_card() {
    let (directory, pki) = (scratch(), Pki::new());
    write_folder(&directory.path().join("tls"), &pki);
    fill(&directory.path().join("tls"));
    let flash = directory.path().join("card.flash");
    let folder = directory.path().join("tls").display().to_string();
    let made = CardProcess::start(&flash, 0, &["--tls", &folder]);
    assert_eq!(made.says("TLS"), "F0534B4F530501");
    assert!(made.says("product").ends_with("TLS Manager"), "{:?}", made.screen);
    made.kill();
    // What it was made with stands in its flash.
    fs::remove_dir_all(&folder).unwrap();
    let card = CardProcess::start(&flash, 0, &[]);
    assert_eq!(card.says("TLS"), "F0534B4F530501");
    let credentials = Credentials {
        chain: pki.server.pem.clone().into_bytes(),
        key: pki.server.key.serialize_pem().into_bytes(),
        authorities: pki.authority.pem.clone().into_bytes(),
        revoked: None,
    };
    let gateway = Gateway::new(&credentials, sekisho_gateway::Settings::DEFAULT).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut reader = card.reader();
    let plain = in_the_clear(&mut reader);
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // The gateway ends the session, then the device does, in the middle of it.
        let device = thread::spawn(move || {
            let mut card = |command: &[u8]| reader.transmit(command).unwrap();
            let first = carry(&mut card, (1, connect(port)), |_| None);
            let second = carry(&mut card, (0x10, connect(port)), |answered| {
                (answered == 2).then_some(Why::Asked)
            });
            (first, second, reader)
        });
        let (stream, address) = listener.accept().await.unwrap();
        let mut session = gateway
            .accept(gateway.room(address.ip()).unwrap(), stream)
            .await
            .unwrap();
        assert_eq!(session.identity().names, ["element.example"]);
        assert_eq!(session.identity().certificate, pki.element.certificate);
        assert_eq!(session.protocol(), "TLS 1.3");
        let (outcomes, lost) = session.run(&SCRIPT, |_, _| true).await;
        assert!(lost.is_none(), "{lost:?}");
        assert_eq!(
            outcomes,
            plain.clone().into_iter().map(Outcome::Done).collect::<Vec<_>>()
        );
        assert_eq!(session.counts().commands, 3);
        session.end().await;
        let (stream, address) = listener.accept().await.unwrap();
        let mut session = gateway
            .accept(gateway.room(address.ip()).unwrap(), stream)
            .await
            .unwrap();
        // The SE's flight is the first record that is answered.
        assert_eq!(session.send(SCRIPT[0]).await.unwrap(), plain[0]);
        let SendError { why, .. } = session.send(SCRIPT[1]).await.unwrap_err();
        assert!(matches!(why, Lost::Closed), "{why}");
        let (first, second, mut reader) = device.join().unwrap();
        assert_eq!((first, second), (Ended::BySe, Ended::BySe));
        assert_eq!(in_the_clear(&mut reader), plain);
    });
}

#[test]
fn openssl_gives_commands_to_a_card() {
    // The key in the other forms that are taken.
    for (version, forms) in [
        (Version::Tls12, &["ec", "-in", "pkcs8.pem", "-out", "key.pem"][..]),
        (
            Version::Tls13,
            &["ec", "-in", "pkcs8.pem", "-outform", "DER", "-out", "key.der"],
        ),
    ] {
        let (directory, pki) = (scratch(), Pki::new());
        let folder = directory.path().join("tls");
        write_folder(&folder, &pki);
        fs::rename(folder.join("key.pem"), folder.join("pkcs8.pem")).unwrap();
        openssl(&folder, forms);
        let flash = directory.path().join("card.flash");
        let card = CardProcess::start(&flash, 0, &["--tls", &folder.display().to_string()]);
        let mut reader = card.reader();
        let plain = in_the_clear(&mut reader);
        let server = OpenSsl::new(&pki, version, &[]);
        let (ended, said) = with_script(server, version, &SCRIPT, |command| {
            reader.transmit(command).unwrap()
        });
        assert_eq!(ended, Ended::BySe);
        for answer in &plain[..2] {
            assert!(
                said.windows(answer.len()).any(|bytes| bytes == answer),
                "{version:?}"
            );
        }
    }
}

#[test]
fn a_card_made_without_a_tls_manager_has_none_for_life() {
    let (directory, pki) = (scratch(), Pki::new());
    write_folder(&directory.path().join("tls"), &pki);
    let card = CardProcess::start(&directory.path().join("card.flash"), 0, &[]);
    assert!(!card.screen.iter().any(|line| line.contains("TLS")));
    let mut reader = card.reader();
    assert_eq!(send(&mut reader, OPEN).1, 0x6E00);
    assert_eq!(
        send(&mut reader, b"\x00\xA4\x04\x00\x07\xF0SKOS\x05\x01\x00").1,
        0x6A82
    );
    drop(reader);
    card.kill();
    let refused = run(&directory, &[&LISTEN[..], &["--tls", "tls"]].concat());
    let words = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        words.contains("made as default profile, 1 container, and stays it"),
        "{words}"
    );
}

/// Each file that is wrong is named, and no card is made.
#[test]
fn what_is_no_folder_of_a_tls_manager() {
    let (directory, pki, other) = (scratch(), Pki::new(), Pki::new());
    let folder = directory.path().join("tls");
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let chain = pki.element.pem.repeat(3);
    let applications = "F0534B4F530401\n".repeat(9);
    let row = "peers/0001/";
    let of_row = |name: &str| format!("{row}{name}");
    let (name, anchor, aids) = (of_row("name"), of_row("anchor.pem"), of_row("applications"));
    let key = pki.element.key.serialize_pem();
    let cases: [(&str, Option<&str>, &str); 17] = [
        ("key.pem", None, "cannot read tls/key.pem"),
        ("key.pem", Some("no PEM"), "key.pem has no private key"),
        ("key.pem", Some(&key[..60]), "key.pem is no PEM"),
        (
            "key.pem",
            Some(&p384.serialize_pem()),
            "no private key of the curve P-256",
        ),
        (
            "key.pem",
            Some(&other.element.key.serialize_pem()),
            "is not that of",
        ),
        ("key.der", Some("beside the other"), "which is the key?"),
        ("chain.pem", None, "cannot read tls/chain.pem"),
        ("chain.pem", Some(&key), "chain.pem has no certificate"),
        ("chain.pem", Some(&chain), "3 certificates of "),
        ("peers/1/name", Some("localhost"), "0001 to 0010"),
        ("peers/0011/name", Some("localhost"), "0001 to 0010"),
        (&name, Some("not a name"), "\"not a name\" is no name of a server"),
        (&aids, Some("F053\n"), "\"F053\" is no AID"),
        (&aids, Some(&applications), "reaches 1 to 8 applications"),
        (&aids, Some("\n"), "reaches 1 to 8 applications"),
        (&anchor, Some(&chain), "several certificates"),
        (&anchor, None, "cannot read tls/peers/0001/anchor.pem"),
    ];
    for (path, text, words) in cases {
        write_folder(&folder, &pki);
        let path = folder.join(path);
        match text {
            Some(text) => {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, text).unwrap();
            }
            None => fs::remove_file(&path).unwrap(),
        }
        let output = run(&directory, &[&LISTEN[..], &["--tls", "tls"]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{}: {error}", path.display());
        assert!(error.contains(words), "{words}: {error}");
        assert!(!directory.path().join("card.flash").exists());
        fs::remove_dir_all(&folder).unwrap();
    }
    write_folder(&folder, &pki);
    fs::remove_dir_all(folder.join(row)).unwrap();
    let output = run(&directory, &[&LISTEN[..], &["--tls", "tls"]].concat());
    assert!(String::from_utf8_lossy(&output.stderr).contains("has no peer"));
}
