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
