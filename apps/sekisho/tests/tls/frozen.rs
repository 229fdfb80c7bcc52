//! A card whose TLS Manager was made before its rows had levels and pins (`tests/state/tls-rows`): it is the card that it was.

use std::fs;
use std::path::Path;

use crate::process::CardProcess;
use crate::{Server, objects, outcomes, text, tls};

fn file(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/state/tls-rows");
    folder.join(name).display().to_string()
}

#[test]
fn rows_of_the_first_forms_are_read() {
    let sums = fs::read_to_string(file("SHA256SUMS")).unwrap();
    let of = |bytes: &[u8]| hex::encode(sekisho_keys::sha256(&[bytes]));
    assert_eq!(
        of(sums.as_bytes()),
        "a71231e71e858396b05671dd977f0d3916b4b113ca43d529d77a2df7f03f857c"
    );
    for line in sums.lines() {
        let (digest, name) = line.split_once("  ").unwrap();
        assert_eq!(of(&fs::read(file(name)).unwrap()), digest, "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let flash = folder.path().join("flash");
    let mut image = fs::read(file("card.flash")).unwrap();
    image.resize(1_216_512, 0);
    fs::write(&flash, image).unwrap();
    let card = CardProcess::start(&flash, 0, &[]);
    let at = format!("tcp:{}", card.address);
    for peer in ["1", "2"] {
        // Row 0002 has rights, and the server of it a new key made.
        let commands = [
            "00A4040007F0534B4F53040100",
            "00B09E0011",
            "00A4040007F0534B4F53050100",
            "00478000000000",
        ];
        let certificate = ["--certificate", &file("server.pem"), "--key", &file("server.key")];
        let more = ["--client-ca", &file("ca.pem"), "--once", "--json"];
        let server = Server::with(&[&certificate[..], &more, &commands].concat());
        let output = tls(&[&server.address, "--card", &at, "--peer", peer]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let (_, said, errors) = server.ended();
        let session = &objects(&said)[0];
        assert_eq!(outcomes(session), ["done"; 4], "{said}{errors}");
        let words: Vec<_> = session["commands"]
            .as_array()
            .unwrap()
            .iter()
            .map(|command| command["sw"].as_str().unwrap())
            .collect();
        let expected = if peer == "1" {
            ["9000", "9000", "6A82", "6D00"]
        } else {
            ["9000"; 4]
        };
        assert_eq!(words, expected, "{peer}");
    }
}
