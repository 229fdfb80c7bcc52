//! Keystore, ceremony file and personalisation file.

use sekisho_hsm::SoftHsm;
use sekisho_hsm::design::{Ceremony, verify};
use sekisho_keys::{p256sig::VerifyingKey, sha256};
use sekisho_link::Package;
use serde_json::Value;

use crate::cards::{loader_state, meter, se_id};
use crate::frozen::{self, PASSPHRASE};
use crate::process::{CardProcess, open_channel};
use crate::server::{ok, sekisho};

/// The designer's public key, as the personalisation file has it.
pub(crate) fn designer() -> String {
    let perso: Value = serde_json::from_str(&frozen::text("perso.json")).unwrap();
    perso["designer"].as_str().unwrap().to_owned()
}

#[test]
fn the_keystore_opens_and_makes_the_same_keys() {
    let folder = frozen::copy();
    ok(folder.path(), &["hsm", "check"]);
    std::fs::remove_file(folder.path().join("perso.json")).unwrap();
    ok(
        folder.path(),
        &["hsm", "perso", "--in-the-clear", "--se-id", &se_id(1)],
    );
    ok(folder.path(), &["design", "hand-over", "--in-the-clear"]);
    // What stood in one file comes from the two parties that have it.
    let read = |name: &str| {
        let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let (today, product) = (read("perso.json"), read("product.json"));
    let then: Value = serde_json::from_str(&frozen::text("perso.json")).unwrap();
    for (name, value) in then.as_object().unwrap() {
        let is_of_product = ["kos", "k_mac", "designer"].contains(&name.as_str());
        let (from, other) = if is_of_product {
            (&product, &today)
        } else {
            (&today, &product)
        };
        assert_eq!(&from[name], value, "{name}");
        assert!(other.get(name).is_none(), "{name}");
    }
    let key = ok(folder.path(), &["hsm", "file-key", "--se-id", &se_id(1)]);
    assert_eq!(key.trim(), then["file_mkey"]);
    // Another passphrase does not open it, and the file is left alone.
    assert!(SoftHsm::load(&folder.path().join("keystore.sealed"), b"another").is_err());
    assert_eq!(
        std::fs::read(folder.path().join("keystore.sealed")).unwrap(),
        frozen::read("keystore.sealed")
    );
}

#[test]
fn the_ceremony_file_opens_verifies_and_reads_its_packages() {
    let folder = frozen::copy();
    let ceremony = Ceremony::load(&folder.path().join("ceremony.sealed"), PASSPHRASE.as_bytes()).unwrap();
    assert_eq!(hex::encode(ceremony.designer_public()), designer());
    let key = VerifyingKey::from_sec1(&ceremony.designer_public()).unwrap();
    for name in ["messages/update-04.skpk", "messages/update-03.skpk"] {
        let bytes = frozen::read(name);
        let package = Package::decode(&bytes).unwrap();
        assert!(verify(&package, &key), "{name}");
        ok(
            folder.path(),
            &["design", "verify", name, "--designer", &designer()],
        );
    }
    let bytes = frozen::read("messages/update-04.skpk");
    let package = Package::decode(&bytes).unwrap();
    let image = ceremony.image(&package.source).unwrap();
    assert_eq!(sha256(&[&image]), package.source.manifest.digest);
    // The module of then is none that a secure element of today runs, and is not packed for one.
    let module = folder.path().join("module.wasm");
    std::fs::write(&module, image).unwrap();
    let (code, _, error) = sekisho(
        folder.path(),
        &[
            "design",
            "pack",
            "module.wasm",
            "--version",
            "9",
            "--min-previous",
            "1",
        ],
    );
    assert!(
        code == 1 && error.contains("no OS part that a secure element runs"),
        "{code}: {error}"
    );
}

#[test]
fn a_new_card_is_made_from_a_personalisation_file_of_then() {
    let folder = frozen::copy();
    let perso = folder.path().join("perso.json");
    let flash = folder.path().join("new.flash");
    let card = CardProcess::start(&flash, 0, &["--perso", perso.to_str().unwrap()]);
    assert_eq!(card.says("SE-id"), se_id(1));
    let file = sekisho_hsm::PersoFile::parse(&frozen::text("perso.json")).unwrap();
    assert!(open_channel(&mut card.reader(), 0x30, &file.scp().unwrap()).is_some());
    assert_eq!(loader_state(&mut card.reader()).version, 1);
    assert_eq!(meter(&card, 5).1, 5);
}
