//! `sekisho reader` as a process.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::SEKISHO;

pub const EVERY: [&str; 2] = [
    "--allow",
    "fixed,legacy-xor,legacy-list,legacy-operations,legacy-turns",
];

pub fn reader(args: &[&str]) -> Output {
    Command::new(SEKISHO)
        .arg("reader")
        .args(args)
        .env_remove("SEKISHO_MKEY")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The commands that it shows with `--json`.
pub fn shown(args: &[&str]) -> Vec<Value> {
    let output = reader(&[&["--json"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// It fails with exit code 1 and says this.
pub fn refused(args: &[&str], why: &str) -> Output {
    ends(1, args, why)
}

/// It was asked wrongly: exit code 2, this on standard error, and nothing before it.
pub fn asked_wrongly(args: &[&str], why: &str) {
    let output = ends(2, args, why);
    assert!(output.stdout.is_empty(), "{args:?}: {}", text(&output.stdout));
}

pub fn ends(code: i32, args: &[&str], why: &str) -> Output {
    let output = reader(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}");
    assert!(
        text(&output.stderr).contains(why),
        "{args:?}: {}",
        text(&output.stderr)
    );
    output
}
