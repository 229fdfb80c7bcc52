//! The design system's desk and the HSM's, as processes: key changes and hand-overs.

use crate::process;
use std::path::Path;
use std::process::{Command, Stdio};

use process::{CardProcess, SEKISHO, open_channel, scratch};
use sekisho_hsm::design::Ceremony;
use sekisho_hsm::{Hsm, SoftHsm};
use sekisho_link::{KeyChange, Package};
use serde_json::Value;

const OWN: &str = "of the designer";
const HAND_OVER: &str = "of what is handed over";
const SE_ID: &str = "5ec154000000000000aa";

/// `sekisho` in a folder: exit code, standard output, standard error.
fn sekisho(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(SEKISHO)
        .args(arguments)
        .current_dir(folder)
        .env("SEKISHO_PASSPHRASE", OWN)
        .env("SEKISHO_HANDOVER_PASSPHRASE", HAND_OVER)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

fn ok(folder: &Path, arguments: &[&str]) -> String {
    let (code, out, error) = sekisho(folder, arguments);
    assert_eq!(code, 0, "{arguments:?}: {error}");
    out
}

fn ceremony(folder: &Path, name: &str) -> Ceremony {
    Ceremony::load(&folder.join(name), OWN.as_bytes()).unwrap()
}

/// The change in a package of the present keys, and whether it is for one SE.
fn change(folder: &Path, present: &str, package: &str) -> (bool, bool, bool) {
    let bytes = std::fs::read(folder.join(package)).unwrap();
    let image = ceremony(folder, present)
        .image(&Package::decode(&bytes).unwrap().source)
        .unwrap();
    let change = KeyChange::decode(&image).unwrap();
    (
        change.wrapped.is_some(),
        change.designer.is_some(),
        change.is_individual,
    )
}

fn inspect(folder: &Path, package: &str) -> Value {
    serde_json::from_str(&ok(folder, &["design", "inspect", package, "--json"])).unwrap()
}

#[test]
fn rotate_makes_keys_and_package_and_keeps_the_present_ones() {
    let folder = scratch();
    let folder = folder.path();
    ok(folder, &["design", "ceremony"]);
    let present = std::fs::read(folder.join("ceremony.sealed")).unwrap();
    for (more, wrapped, designer) in [
        (&[][..], true, true),
        (&["--keys-only"], true, false),
        (&["--designer-only", "--custody", "design"], false, true),
    ] {
        let next = format!("next-{wrapped}-{designer}.sealed");
        let package = format!("keys-{wrapped}-{designer}.skpk");
        let rotate = [
            "design",
            "rotate",
            "--min-previous",
            "1",
            "--next",
            &next,
            "--out",
            &package,
        ];
        let said = ok(folder, &[&rotate, more].concat());
        assert!(
            said.contains("(sealed; keep ceremony.sealed until every SE has changed)"),
            "{said}"
        );
        assert_eq!(std::fs::read(folder.join("ceremony.sealed")).unwrap(), present);
        let seen = inspect(folder, &package);
        assert_eq!(
            (&seen["target"], &seen["version"], &seen["min_previous"]),
            (&2.into(), &2.into(), &1.into())
        );
        let in_the_clear = if seen["custody"] == "04" {
            change(folder, "ceremony.sealed", &package)
        } else {
            (false, true, false)
        };
        assert_eq!(in_the_clear, (wrapped, designer, false));
        // The present designer has signed it, the next one has not.
        let key = |name| hex::encode(ceremony(folder, name).designer_public());
        let verify = |key: &str| sekisho(folder, &["design", "verify", &package, "--designer", key]);
        let (code, said, _) = verify(&key("ceremony.sealed"));
        assert!(
            code == 0 && said.contains("target 02, the design system's keys, version 2"),
            "{said}"
        );
        assert_eq!(verify(&key(&next)).0, i32::from(designer));
        // The next ceremony's own package goes on from there.
        let again = [
            "design",
            "rotate",
            "--ceremony",
            &next,
            "--next",
            &format!("{next}-3"),
            "--out",
            &format!("3-{package}"),
        ];
        ok(folder, &again);
    }
}

/// The new ceremony file is made before the package, and a run that broke off between them is run again.
#[test]
fn a_rotation_that_broke_off_goes_on_with_the_keys_that_are_there() {
    let folder = scratch();
    let folder = folder.path();
    ok(folder, &["design", "ceremony"]);
    let rotate = ["design", "rotate"];
    let (code, _, error) = sekisho(folder, &[&rotate[..], &["--out", "missing/keys.skpk"]].concat());
    assert!(
        code == 1 && error.contains("ceremony-next.sealed is made: run this again"),
        "{error}"
    );
    let next = std::fs::read(folder.join("ceremony-next.sealed")).unwrap();
    // Asked for another renewal it makes nothing.
    let (code, _, error) = sekisho(folder, &[&rotate[..], &["--keys-only"]].concat());
    assert!(code == 2 && error.contains("holds new keys already"), "{error}");
    assert!(!folder.join("keys.skpk").exists());
    ok(folder, &rotate);
    assert_eq!(std::fs::read(folder.join("ceremony-next.sealed")).unwrap(), next);
    assert_eq!(
        change(folder, "ceremony.sealed", "keys.skpk"),
        (true, true, false)
    );
    // What cannot be made leaves no file behind.
    std::fs::remove_file(folder.join("ceremony-next.sealed")).unwrap();
    std::fs::remove_file(folder.join("keys.skpk")).unwrap();
    let (code, _, _) = sekisho(folder, &["design", "rotate", "--version", "1"]);
    assert_eq!(code, 1);
    assert!(!folder.join("ceremony-next.sealed").exists() && !folder.join("keys.skpk").exists());
}

/// The second rotation with the names of the first, when the files have been moved as the page says; and when they have not.
#[test]
fn a_second_rotation_takes_no_file_of_the_first() {
    let folder = scratch();
    let folder = folder.path();
    let mv = |from: &str, to: &str| std::fs::rename(folder.join(from), folder.join(to)).unwrap();
    let rotate = ["design", "rotate"];
    ok(folder, &["design", "ceremony"]);
    ok(folder, &rotate);
    let refused = |words: &str| {
        let (code, _, error) = sekisho(folder, &rotate);
        assert!(code == 1 && error.contains(words), "{error}");
    };
    refused("keys.skpk: there is such a file already");
    mv("keys.skpk", "keys-2.skpk");
    // Copied in place of moved: the next keys are the present ones.
    std::fs::copy(folder.join("ceremony.sealed"), folder.join("ceremony-1.sealed")).unwrap();
    std::fs::copy(
        folder.join("ceremony-next.sealed"),
        folder.join("ceremony.sealed"),
    )
    .unwrap();
    refused("the next keys go into another --next");
    assert!(!folder.join("keys.skpk").exists());
    mv("ceremony-next.sealed", "ceremony.sealed");
    ok(folder, &rotate);
    let versions = ["ceremony-1.sealed", "ceremony.sealed", "ceremony-next.sealed"]
        .map(|name| ceremony(folder, name).key_version());
    assert_eq!(versions, [1, 2, 3]);
    assert_eq!(inspect(folder, "keys.skpk")["version"], 3);
    // An SE that was left behind changes from the first keys to the third at once.
    let left_behind = ["--ceremony", "ceremony-1.sealed", "--out", "keys-1-3.skpk"];
    ok(folder, &[&rotate[..], &left_behind].concat());
    assert_eq!(
        change(folder, "ceremony-1.sealed", "keys-1-3.skpk"),
        (true, true, false)
    );
}

/// Whatever makes a file leaves one that has its name as it is.
#[test]
fn no_command_replaces_a_file() {
    let folder = handed_over();
    let folder = folder.path();
    let part = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../applets/prebuilt/meter-v2.wasm"
    );
    let of_se = ["--se-id", SE_ID];
    let commands = [
        vec!["hsm", "init", "--out"],
        vec!["design", "ceremony", "--out"],
        vec!["design", "hand-over", "--out"],
        vec!["design", "hand-over", "--in-the-clear", "--out"],
        vec!["design", "pack", part, "--version", "2", "--out"],
        vec!["design", "rotate", "--out"],
        [&["hsm", "perso"][..], &of_se, &["--out"]].concat(),
        [&["hsm", "perso", "--in-the-clear"][..], &of_se, &["--out"]].concat(),
        [&["hsm", "wrapping-key"][..], &of_se, &["--out"]].concat(),
    ];
    std::fs::write(folder.join("there"), "of somebody").unwrap();
    let beside = || std::fs::read_dir(folder).unwrap().count();
    let files = beside();
    for command in commands {
        let (code, _, error) = sekisho(folder, &[&command[..], &["there"]].concat());
        assert!(
            code == 1 && error.contains("there is such a file already; it is not replaced"),
            "{command:?}: {error}"
        );
        let text = std::fs::read_to_string(folder.join("there")).unwrap();
        assert_eq!((text.as_str(), beside()), ("of somebody", files), "{command:?}");
    }
}

/// A file with a secret, and a command that reads it, for every option that names one.
fn readers_of_secrets() -> Vec<(&'static str, Vec<&'static str>)> {
    let card = ["card", "--listen", "127.0.0.1:0", "--flash", "refused.flash"];
    let of_both = ["--perso", "batch.sealed", "--product", "product.sealed"];
    let agent = ["agent", "--once", "--card", "tcp:127.0.0.1:9", "--server"];
    let of_server = ["https://127.0.0.1:9", "--ca", "secret", "--token-file", "secret"];
    let delegate = ["fleet", "--token-file", "token", "paging", "delegate", SE_ID];
    let at_edge = ["--domain", "9", "--local-passphrase-file", "secret"];
    vec![
        ("secret", vec!["hsm", "check", "--passphrase-file", "secret"]),
        (
            "secret",
            vec![
                "design",
                "hand-over",
                "--handover-passphrase-file",
                "secret",
                "--out",
                "x",
            ],
        ),
        (
            "secret",
            [&card[..], &of_both, &["--handover-passphrase-file", "secret"]].concat(),
        ),
        (
            "product",
            [
                &card[..],
                &OF_BATCH,
                &PRODUCT,
                &[
                    "--product-passphrase-file",
                    "product",
                    "--se-id",
                    "5ec154000000000000ad",
                ],
            ]
            .concat(),
        ),
        (
            "secret",
            vec!["reader", "--key-file", "secret", "send", "00B0810004"],
        ),
        ("script", vec!["reader", "run", "script"]),
        ("secret", vec!["fleet", "--token-file", "secret", "devices"]),
        ("secret", [&agent[..], &of_server].concat()),
        ("secret", [&delegate[..], &at_edge].concat()),
        (
            "server.toml",
            vec!["server", "--config", "server.toml", "--check-config"],
        ),
    ]
}

/// Every option that names a file with a secret: where others can read it, that is said with what to do, and no other time.
#[test]
fn a_secret_that_others_can_read_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let folder = handed_over();
    let folder = folder.path();
    std::fs::write(
        folder.join("script"),
        "authenticate 1 000102030405060708090A0B0C0D0E0F",
    )
    .unwrap();
    std::fs::write(folder.join("secret"), "no such secret").unwrap();
    std::fs::write(
        folder.join("server.toml"),
        "keystore = \"missing\"\n[paging]\ndatabase = \"postgres://sekisho:secret@127.0.0.1/paging\"",
    )
    .unwrap();
    std::fs::write(folder.join("token"), "no such token").unwrap();
    std::fs::set_permissions(folder.join("token"), std::fs::Permissions::from_mode(0o600)).unwrap();
    for (name, command) in readers_of_secrets() {
        for (mode, is_told) in [(0o644, true), (0o440, true), (0o600, false), (0o400, false)] {
            std::fs::set_permissions(folder.join("batch"), std::fs::Permissions::from_mode(0o600)).unwrap();
            let path = folder.join(name);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let (_, _, error) = sekisho(folder, &command);
            let words = format!(
                "warning: {name} holds a secret and is open to others (mode {mode:04o}): chmod 600 {name}"
            );
            assert_eq!(error.contains(&words), is_told, "{command:?} {mode:o}: {error}");
            assert_eq!(
                error.contains("warning: "),
                is_told,
                "{command:?} {mode:o}: {error}"
            );
        }
        let _ = std::fs::remove_file(folder.join("x"));
    }
}

#[test]
fn a_change_for_one_se_after_the_other_brings_the_same_keys() {
    let folder = scratch();
    let folder = folder.path();
    ok(folder, &["design", "ceremony"]);
    ok(folder, &["hsm", "init"]);
    for (se_id, out) in [(SE_ID, "aa"), ("5ec154000000000000ab", "ab")] {
        let said = ok(folder, &["hsm", "wrapping-key", "--se-id", se_id, "--out", out]);
        assert!(said.contains(&format!("wraps new keys for SE {se_id}")), "{said}");
        let package = format!("{out}.skpk");
        let said = ok(
            folder,
            &["design", "rotate", "--individual", out, "--out", &package],
        );
        assert!(
            said.contains(&format!(
                "SE {se_id} alone, in a secure channel of its key set 30"
            )),
            "{said}"
        );
        assert_eq!(change(folder, "ceremony.sealed", &package), (true, true, true));
    }
    let (code, _, error) = sekisho(folder, &["hsm", "wrapping-key", "--se-id", SE_ID, "--kvn", "48"]);
    assert!(
        code == 2 && error.contains("30 to 3F, two hexadecimal digits"),
        "{error}"
    );
    // One passphrase for both would be one party.
    let same = folder.join("same");
    std::fs::write(&same, OWN).unwrap();
    let wrapping = ["hsm", "wrapping-key", "--se-id", SE_ID, "--out", "c"];
    let (code, _, error) = sekisho(
        folder,
        &[&wrapping[..], &["--handover-passphrase-file", "same"]].concat(),
    );
    assert!(code == 2 && error.contains("a passphrase of its own"), "{error}");
    assert!(!folder.join("c").exists());
}

/// Starts a card that is asked for wrongly: exit code and standard error.
fn card_refuses(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let start = ["card", "--listen", "127.0.0.1:0", "--flash", "refused.flash"];
    let (code, _, error) = sekisho(folder, &[&start[..], arguments].concat());
    assert!(!folder.join("refused.flash").exists(), "{arguments:?}");
    (code, error)
}

/// A folder with the files of all parties: `batch.sealed` of three SEs under another passphrase than `product.sealed`, both passphrases in files.
fn handed_over() -> tempfile::TempDir {
    let scratch = scratch();
    let folder = scratch.path();
    ok(folder, &["design", "ceremony"]);
    ok(folder, &["hsm", "init"]);
    let said = ok(folder, &["design", "hand-over"]);
    assert!(said.contains("key version 1, sealed"), "{said}");
    std::fs::write(folder.join("batch"), "of the batch").unwrap();
    std::fs::write(folder.join("product"), HAND_OVER).unwrap();
    let perso = ["hsm", "perso", "--se-id", SE_ID, "--count", "3"];
    let batch = ["--out", "batch.sealed", "--handover-passphrase-file", "batch"];
    let said = ok(folder, &[&perso[..], &batch].concat());
    let whose = "3 SEs, 5ec154000000000000aa to 5ec154000000000000ac, sealed";
    assert!(said.contains(whose), "{said}");
    scratch
}

const OF_BATCH: [&str; 4] = ["--perso", "batch.sealed", "--handover-passphrase-file", "batch"];
const PRODUCT: [&str; 2] = ["--product", "product.sealed"];

#[test]
fn nobody_opens_a_hand_over_as_what_it_is_not_or_with_the_keys_of_another() {
    let folder = handed_over();
    let folder = folder.path();
    let wrong = ["--product-passphrase-file", "batch"];
    for (arguments, words) in [
        (
            [&["--perso", "batch.sealed"][..], &PRODUCT].concat(),
            "wrong passphrase",
        ),
        (
            vec!["--perso", "product.sealed", "--product", "batch.sealed"],
            "holds something else",
        ),
        (
            [&["--perso", "ceremony.sealed"][..], &PRODUCT].concat(),
            "holds something else",
        ),
        (
            [&["--perso", "keystore.sealed"][..], &PRODUCT].concat(),
            "holds something else",
        ),
        ([&OF_BATCH[..], &PRODUCT, &wrong].concat(), "wrong passphrase"),
    ] {
        let (code, error) = card_refuses(folder, &arguments);
        assert!(code == 1 && error.contains(words), "{arguments:?}: {error}");
    }
}

#[test]
fn a_card_of_a_batch_is_made_of_two_hand_overs() {
    let folder = handed_over();
    let folder = folder.path();
    let both = [&OF_BATCH[..], &PRODUCT, &["--product-passphrase-file", "product"]].concat();
    for (which, words) in [
        (&[][..], "3 secure elements: which one?"),
        (&["--se-id", "5ec154000000000000ad"], "no such secure element"),
    ] {
        let (code, error) = card_refuses(folder, &[&both[..], which].concat());
        assert!(code == 1 && error.contains(words), "{error}");
    }
    let at = |name: &&str| {
        let path = folder.join(name);
        if path.exists() {
            path.to_str().unwrap().to_owned()
        } else {
            (*name).to_owned()
        }
    };
    let second = "5ec154000000000000ab";
    let arguments: Vec<_> = both.iter().chain(&["--se-id", second]).map(at).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let card = CardProcess::start(&folder.join("card.flash"), 0, &arguments);
    assert_eq!(card.says("SE-id"), second);
    let hsm = SoftHsm::load(&folder.join("keystore.sealed"), OWN.as_bytes()).unwrap();
    let keys = hsm.perso(second.parse().unwrap()).unwrap();
    assert!(open_channel(&mut card.reader(), 0x30, &keys.scp).is_some());
}

/// An SE that is made after a change has the new keys from the start, and says so: no change that it has already is owed to it.
#[test]
fn a_card_made_after_a_change_begins_at_its_key_version() {
    let folder = handed_over();
    let folder = folder.path();
    ok(folder, &["design", "rotate"]);
    let next = ["--ceremony", "ceremony-next.sealed", "--out", "product.json"];
    let said = ok(
        folder,
        &[&["design", "hand-over", "--in-the-clear"][..], &next].concat(),
    );
    assert!(said.contains("key version 2, in the clear"), "{said}");
    ok(
        folder,
        &["design", "hand-over", "--in-the-clear", "--out", "first.json"],
    );
    ok(folder, &["hsm", "perso", "--in-the-clear", "--se-id", SE_ID]);
    let perso = folder.join("perso.json");
    for (product, version) in [("first.json", 1), ("product.json", 2)] {
        let product = folder.join(product);
        let made = [
            "--perso",
            perso.to_str().unwrap(),
            "--product",
            product.to_str().unwrap(),
        ];
        let flash = folder.join(format!("{version}.flash"));
        CardProcess::start(&flash, 0, &made).kill();
        let card = CardProcess::start(&flash, 0, &[]);
        let line = card.says("keys");
        // The first version is not shown.
        assert_eq!(
            line.ends_with("; design system's keys version 2"),
            version == 2,
            "{line}"
        );
    }
}

#[test]
fn a_hand_over_has_a_passphrase_of_its_own_or_is_asked_for_in_the_clear() {
    let folder = scratch();
    let folder = folder.path();
    ok(folder, &["design", "ceremony"]);
    ok(folder, &["hsm", "init"]);
    std::fs::write(folder.join("same"), OWN).unwrap();
    for command in [&["design", "hand-over"][..], &["hsm", "perso", "--se-id", SE_ID]] {
        let same = [command, &["--handover-passphrase-file", "same"]].concat();
        let (code, _, error) = sekisho(folder, &same);
        assert!(code == 2 && error.contains("a passphrase of its own"), "{error}");
    }
    let names = |name: &str| folder.join(name).exists();
    assert!(
        !["perso.sealed", "perso.json", "product.sealed", "product.json"]
            .into_iter()
            .any(names)
    );
    let said = ok(folder, &["design", "hand-over", "--in-the-clear"]);
    assert!(said.contains("in the clear"), "{said}");
    // No private key is in what is handed over, whoever looks.
    let text = std::fs::read_to_string(folder.join("product.json")).unwrap();
    let fields: Value = serde_json::from_str(&text).unwrap();
    let fields: Vec<_> = fields.as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, ["designer", "k_mac", "kos"]);
}
