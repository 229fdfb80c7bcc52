//! Looks for branches and addresses that depend on secrets, in the card as it is built for this machine.
//!
//! The keys and PINs in the flash of a card are marked as memcheck marks bytes that were never written: what is computed from them carries the mark along, and a branch on it, or an address, is reported.
//! Bytes that leave the card lose the mark. `cargo run --release` plays every conversation under valgrind and judges what it says.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test

use sekisho_card_tests as common;

mod cards;
mod functions;
mod mark;
mod report;

use std::path::Path;
use std::process::{Command, ExitCode};

/// The card's code, and what a card computes with.
const CARD: &str = "sekisho-os/src";
const KEYS: &str = "sekisho-keys/src";
const FUNCTIONS: &str = "tests/secrets/src/functions.rs";

/// What is played: its name, through what the looked at is reached, and whose code is looked at: what is decrypted may be looked at by those above it.
const PLAYED: &[(&str, fn(), &str, &[&str])] = &[
    ("symmetric", functions::symmetric, KEYS, &[KEYS]),
    ("padding", functions::padding, KEYS, &[KEYS]),
    ("elliptic", functions::elliptic, KEYS, &[KEYS]),
    ("scp_mac", cards::scp_mac, CARD, &["crates/"]),
    ("scp_dek", cards::scp_dek, CARD, &["crates/"]),
    ("pin", cards::pin, CARD, &["crates/"]),
    (
        "messaging",
        cards::messaging,
        CARD,
        &["crates/proto/", "sekisho-nvm/src"],
    ),
    ("update", cards::update, CARD, &["crates/"]),
];

/// What must be found, or nothing here would be.
const LEAKY: &[(&str, fn())] = &[
    ("leaky_branch", functions::leaky_branch),
    ("leaky_address", functions::leaky_address),
];

fn main() -> ExitCode {
    if let Some(name) = std::env::args().nth(1) {
        let played = PLAYED.iter().map(|(known, play, ..)| (known, play));
        let known = played.chain(LEAKY.iter().map(|(known, play)| (known, play)));
        let (_, play) = known
            .into_iter()
            .find(|(known, _)| **known == name)
            .expect("no such name");
        play();
        return ExitCode::SUCCESS;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap();
    let (mut passed, mut failed) = (0, 0);
    let mut tell = |name: &str, good: bool, what: &str| {
        *(if good { &mut passed } else { &mut failed }) += 1;
        println!("{} {name}: {what}", if good { "ok  " } else { "FAIL" });
    };
    let mut allowed = std::collections::BTreeSet::new();
    for (name, _, through, places) in PLAYED {
        let (ran, judged) = played(name, through, places, &root);
        let what = format!(
            "{} verdicts, {} allowed, {} found",
            judged.verdicts.len(),
            judged.allowed.len(),
            judged.found.len()
        );
        tell(name, ran && judged.found.is_empty(), &what);
        for (place, trace) in &judged.found {
            println!("     {place}");
            trace.iter().for_each(|line| println!("         {line}"));
        }
        allowed.extend(judged.allowed);
    }
    for (name, _) in LEAKY {
        let (ran, judged) = played(name, FUNCTIONS, &[FUNCTIONS], &root);
        tell(name, ran && !judged.found.is_empty(), "found, as it must be");
    }
    for (at, (file, text, reason)) in report::ALLOWED.iter().enumerate() {
        let seen = if allowed.contains(&at) { "seen" } else { "    " };
        println!("{seen} {file}, {text}: {reason}");
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Plays under valgrind: whether it ran to its end, and what memcheck says about these places.
fn played(name: &str, through: &str, places: &[&str], root: &Path) -> (bool, report::Judged) {
    let xml = std::env::temp_dir().join(format!("sekisho-secrets-{}-{name}.xml", std::process::id()));
    let status = Command::new("valgrind")
        .args([
            "--tool=memcheck",
            "--xml=yes",
            "--error-limit=no",
            "--leak-check=no",
        ])
        .args(["--read-inline-info=yes", "--num-callers=60"])
        .arg(format!("--xml-file={}", xml.display()))
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .status()
        .expect("valgrind");
    let report = std::fs::read_to_string(&xml).unwrap();
    let _ = std::fs::remove_file(&xml);
    (status.success(), report::judge(&report, root, through, places))
}
