//! A whole way: `sekisho tls-server`, `sekisho tls`, `sekisho card --tls`, an application that knows no TLS.

use crate::folder::write_folder;
use crate::pki::Pki;
use crate::process::{CardProcess, send};
use crate::{Server, objects, outcomes, text, tls};

/// The file system; file 2F00, which everybody may read; an instruction that it does not have.
const SCRIPT: &str = "select F0534B4F530401\n> 00B09E0010\n< ...9000\n> 0010000000\n< 6D00\n";

#[test]
fn a_script_reaches_the_file_system_of_a_card() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().unwrap());
    let made_with = folder.path().join("tls");
    write_folder(&made_with, &pki);
    let more = ["--tls", made_with.to_str().unwrap()];
    let card = CardProcess::start(&folder.path().join("flash"), 0, &more);
    let at = format!("tcp:{}", card.address);
    // Twice: a session leaves nothing behind that is in the next one's way.
    for _ in 0..2 {
        let server = Server::start(&pki, SCRIPT, &["--once", "--json"]);
        let output = tls(&[&server.address, "--card", &at]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(
            text(&output.stdout).contains("3 commands answered"),
            "{}",
            text(&output.stdout)
        );
        let (code, said, errors) = server.ended();
        assert_eq!(code, Some(0), "{said}{errors}");
        let session = &objects(&said)[0];
        assert_eq!(session["names"][0], "element.example");
        assert_eq!(outcomes(session), ["done"; 3]);
        // The same in the clear, on the channel where the session was: it has no application of the session's.
        let mut reader = card.reader();
        let read = [0x00, 0xB0, 0x9E, 0x00, 0x10];
        assert_ne!(send(&mut reader, &read).1, 0x9000);
        send(&mut reader, b"\x00\xA4\x04\x00\x07\xF0SKOS\x04\x01\x00");
        let (data, sw) = send(&mut reader, &read);
        assert_eq!(
            (session["commands"][1]["received"].as_str(), sw),
            (Some(&*(hex::encode_upper(data) + "9000")), 0x9000)
        );
    }
    // A row that it does not have, and a card without a TLS Manager.
    let server = Server::start(&pki, SCRIPT, &["--once"]);
    let refused = |card: &str, peer, why| {
        let output = tls(&[&server.address, "--card", card, "--peer", peer]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(why), "{}", text(&output.stderr));
    };
    refused(&at, "2", "no peer in this row");
    let without = CardProcess::start(&folder.path().join("other"), 0, &[]);
    refused(&format!("tcp:{}", without.address), "1", "it has no TLS Manager");
}

/// A client's certificate of another key, valid until a year, PEM.
fn client_until(pki: &Pki, year: i32) -> String {
    let certified = pki.with_server(|params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
    });
    certified.server.pem
}

/// What a renewal refuses: a row without the right, a certificate of another key, a file that is none. Each is said, and the card has the key that it had.
#[test]
fn a_renewal_that_cannot_be_says_why() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().unwrap());
    let made_with = folder.path().join("tls");
    write_folder(&made_with, &pki);
    let row = made_with.join("peers/0001");
    std::fs::write(row.join("applications"), "F0534B4F530401\nF0534B4F530501\n").unwrap();
    let requests = folder.path().join("requests");
    std::fs::create_dir(&requests).unwrap();
    let renewed = |card: &CardProcess| {
        let server = Server::serve(&pki, &["--once", "--renew", requests.to_str().unwrap()]);
        tls(&[&server.address, "--card", &format!("tcp:{}", card.address)]);
        let (code, said, _) = server.ended();
        (code, said)
    };
    let made = || {
        std::fs::read_dir(&requests)
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    let start = |flash: &str| {
        let more = ["--tls", made_with.to_str().unwrap()];
        CardProcess::start(&folder.path().join(flash), 0, &more)
    };
    let (code, said) = renewed(&start("without"));
    assert_eq!(code, Some(1));
    assert!(
        said.contains("answer      6985") && said.contains("ended       a new key: "),
        "{said}"
    );
    assert_eq!(made().count(), 0);
    std::fs::write(row.join("rights"), "renew\n").unwrap();
    let card = start("with");
    let (code, said) = renewed(&card);
    assert_eq!(code, Some(0), "{said}");
    let request = made().next().unwrap();
    assert!(
        said.contains(&format!("renewed     request in {}", request.display())),
        "{said}"
    );
    let certificate = request.with_extension("pem");
    // Nobody would take the SE with these: they are not sent.
    let client = |until| client_until(&pki, until);
    for (text, why) in [
        (&pki.server.pem[..], "would not take it"),
        (&Pki::new().element.pem, "would not take it"),
        (&client(2020), "would not take it"),
        (&client(2090), "is of a key that the secure element has not"),
        ("no certificate", "a chain has 1 to 992 bytes"),
        ("-----BEGIN CERTIFICATE-----\nAA\n", "is no PEM"),
    ] {
        std::fs::write(&certificate, text).unwrap();
        let (code, said) = renewed(&card);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(why), "{why}: {said}");
    }
    // The request waits as it did.
    std::fs::remove_file(&certificate).unwrap();
    let before = std::fs::read(&request).unwrap();
    assert_eq!(renewed(&card).0, Some(0));
    assert_eq!(std::fs::read(&request).unwrap(), before);
}

/// A right that there is not is no row.
#[test]
fn a_right_that_there_is_not_makes_no_card() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().unwrap());
    let made_with = folder.path().join("tls");
    write_folder(&made_with, &pki);
    std::fs::write(made_with.join("peers/0001/rights"), "renew all\n").unwrap();
    let refused = std::process::Command::new(crate::SEKISHO)
        .args(["card", "--listen", "127.0.0.1:0", "--flash"])
        .arg(folder.path().join("wrong"))
        .args(["--tls", made_with.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(
        text(&refused.stderr).contains("\"all\" is no right"),
        "{}",
        text(&refused.stderr)
    );
}

/// A server whose key is pinned, and whose name nobody looks at; another server of the same authority is not it. What is no pin and no level makes no card.
#[test]
fn a_pinned_server_needs_no_name() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().unwrap());
    let made_with = folder.path().join("tls");
    write_folder(&made_with, &pki);
    let row = made_with.join("peers/0001");
    std::fs::remove_file(row.join("name")).unwrap();
    let elsewhere = pki.with_server(|params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("elsewhere".try_into().unwrap())];
    });
    let key = rcgen::PublicKeyData::subject_public_key_info(&elsewhere.server.key);
    std::fs::write(row.join("pin"), hex::encode(sekisho_keys::sha256(&[&key]))).unwrap();
    std::fs::write(row.join("level"), "7\n").unwrap();
    let more = ["--tls", made_with.to_str().unwrap()];
    let card = CardProcess::start(&folder.path().join("flash"), 0, &more);
    let at = format!("tcp:{}", card.address);
    for (pki, code) in [(&elsewhere, Some(0)), (&pki, Some(3))] {
        let server = Server::start(pki, SCRIPT, &["--once"]);
        tls(&[&server.address, "--card", &at]);
        server.stop();
        let (ended, said, errors) = server.ended();
        assert_eq!(said.contains("done"), code == Some(0), "{ended:?} {said}{errors}");
    }
    for (file, text, why) in [
        ("pin", "00", "a pin has 64 hexadecimal digits"),
        ("level", "256", "is no level of 0 to 255"),
    ] {
        let before = std::fs::read(row.join(file)).unwrap();
        std::fs::write(row.join(file), text).unwrap();
        let refused = std::process::Command::new(crate::SEKISHO)
            .args(["card", "--listen", "127.0.0.1:0", "--flash"])
            .arg(folder.path().join("wrong"))
            .args(more)
            .output()
            .unwrap();
        assert!(
            self::text(&refused.stderr).contains(why),
            "{}",
            self::text(&refused.stderr)
        );
        std::fs::write(row.join(file), before).unwrap();
    }
}
