//! A card on the emulated chip, where `SEKISHO_FIRMWARE_TLS` names an image with a TLS Manager (`cargo xtask firmware play`).

use crate::folder::write_folder;
use crate::pki::Pki;
use crate::process::{CardProcess, send};
use crate::{Server, objects, outcomes, text, tls};

/// SELECT and nine more.
const COMMANDS: usize = 10;

/// Made with a TLS Manager, and the same behind kill -9: a server's script is answered, and the file is as in the clear.
#[test]
fn a_script_reaches_a_card_on_the_chip() {
    let Some(firmware) = std::env::var_os("SEKISHO_FIRMWARE_TLS") else {
        return;
    };
    let (pki, folder) = (Pki::new(), tempfile::tempdir().unwrap());
    let made_with = folder.path().join("tls");
    write_folder(&made_with, &pki);
    let board = ["--board", firmware.to_str().unwrap()];
    let flash = folder.path().join("chip.flash");
    let script = "select F0534B4F530401\n".to_owned() + &"> 00B09E0010\n< ...9000\n".repeat(COMMANDS - 1);
    let new = ["--tls", made_with.to_str().unwrap()];
    for more in [&new[..], &[]] {
        // Dropped, it is killed.
        let card = CardProcess::start(&flash, 0, &[&board, more].concat());
        let server = Server::start(&pki, &script, &["--once", "--json"]);
        let output = tls(&[&server.address, "--card", &format!("tcp:{}", card.address)]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let (code, said, errors) = server.ended();
        assert_eq!(code, Some(0), "{said}{errors}");
        let session = &objects(&said)[0];
        assert_eq!(outcomes(session), ["done"; COMMANDS]);
        let mut reader = card.reader();
        send(&mut reader, b"\x00\xA4\x04\x00\x07\xF0SKOS\x04\x01\x00");
        let (data, sw) = send(&mut reader, &[0x00, 0xB0, 0x9E, 0x00, 0x10]);
        assert_eq!(
            (session["commands"][COMMANDS - 1]["received"].as_str(), sw),
            (Some(&*(hex::encode_upper(data) + "9000")), 0x9000)
        );
    }
}
