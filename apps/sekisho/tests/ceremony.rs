//! The design system's desk and the HSM's, as processes: key changes and hand-overs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods
)]

mod process;

use std::path::Path;
use std::process::{Command, Stdio};

use process::{SEKISHO, scratch};
use sekisho_hsm::design::Ceremony;
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
        let rotate = [
            "design",
            "rotate",
            "--version",
            "2",
            "--min-previous",
            "1",
            "--next",
            &next,
        ];
        let said = ok(folder, &[&rotate, more].concat());
        assert!(
            said.contains("(sealed; keep ceremony.sealed until every SE has changed)"),
            "{said}"
        );
        assert_eq!(std::fs::read(folder.join("ceremony.sealed")).unwrap(), present);
        let seen = inspect(folder, "keys.skpk");
        assert_eq!(
            (&seen["target"], &seen["version"], &seen["min_previous"]),
            (&2.into(), &2.into(), &1.into())
        );
        let in_the_clear = if seen["custody"] == "04" {
            change(folder, "ceremony.sealed", "keys.skpk")
        } else {
            (false, true, false)
        };
        assert_eq!(in_the_clear, (wrapped, designer, false));
        // The present designer has signed it, the next one has not.
        let key = |name| hex::encode(ceremony(folder, name).designer_public());
        let verify = |key: &str| sekisho(folder, &["design", "verify", "keys.skpk", "--designer", key]);
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
            "--version",
            "3",
            "--ceremony",
            &next,
            "--next",
            &format!("{next}-3"),
            "--out",
            "3.skpk",
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
    let rotate = ["design", "rotate", "--version", "2"];
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
            &[
                "design",
                "rotate",
                "--version",
                "2",
                "--individual",
                out,
                "--out",
                &package,
            ],
        );
        assert!(
            said.contains(&format!(
                "SE {se_id} alone, in a secure channel of its key set 30"
            )),
            "{said}"
        );
        assert_eq!(change(folder, "ceremony.sealed", &package), (true, true, true));
    }
    let (code, _, error) = sekisho(folder, &["hsm", "wrapping-key", "--se-id", SE_ID, "--kvn", "96"]);
    assert!(code == 1 && error.contains("key version 60"), "{error}");
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
