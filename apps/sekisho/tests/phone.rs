//! `sekisho phone`: five who talk to one secure element at once, and an exit code that says whether each was answered as it should be.

use std::process::Command;

use serde_json::Value;

/// Runs it; exit code and report.
fn phone(arguments: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_sekisho"))
        .args(["phone", "--json"])
        .args(arguments)
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), report)
}

/// Who, on which protocols, and which container is meant.
const TALKS: [(&str, &str, u64); 5] = [
    ("modem", "t0", 2),
    ("rich OS", "apdu-gate", 1),
    ("TEE", "spi-ese", 1),
    ("NFC reader", "swp-a, swp-b", 1),
    ("remote server", "apdu-gate", 1),
];

#[test]
fn five_talk_at_once_and_each_is_answered_by_its_container() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("phone.txt");
    let (code, report) = phone(&["--rounds", "12", "--trace", trace.to_str().unwrap()]);
    assert_eq!(
        (code, &report["right"]),
        (Some(0), &Value::Bool(true)),
        "{report}"
    );
    let said = report["conversations"].as_array().unwrap();
    assert_eq!(said.len(), TALKS.len());
    let mut least = u64::MAX;
    for (talk, (who, on, container)) in said.iter().zip(TALKS) {
        assert_eq!(
            (talk["who"].as_str(), talk["on"].as_str()),
            (Some(who), Some(on)),
            "{report}"
        );
        assert_eq!(talk["answered_by"], serde_json::json!([container]), "{report}");
        assert!(
            talk["rounds"].as_u64() >= Some(if who == "remote server" { 2 } else { 12 }),
            "{report}"
        );
        least = least.min(talk["commands"].as_u64().unwrap());
    }
    // What the reader has paid, the phone hears when it goes: all but the last time, and each time right.
    let note = said[3]["note"].as_str().unwrap();
    let rounds = said[3]["rounds"].as_u64().unwrap();
    let heard = format!("the phone was told {} times what it had paid", rounds - 1);
    assert_eq!(note, heard);
    // At once: even the quietest one is in between the others' commands, not behind them.
    assert!(report["changes_of_speaker"].as_u64().unwrap() > least, "{report}");
    let ids: Vec<_> = report["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| &of["se_id"])
        .collect();
    assert_ne!(ids[0], ids[1]);
    // What the wires have carried, each by its own frames.
    let seen = std::fs::read_to_string(trace).unwrap();
    for line in ["t0 ", "spi ", "swp "] {
        let its = seen.lines().filter(|of| of[12..].starts_with(line));
        assert!(
            its.clone().any(|of| of.contains("C-APDU")) && its.count() > 30,
            "{line}"
        );
    }
}

/// Where the modem sits on SPI and the TEE on the contacts, the other's container answers each: both are wrong, the others are not.
#[test]
fn a_container_that_is_not_meant_is_noticed() {
    let (code, report) = phone(&["--rounds", "3", "--crossed"]);
    assert_eq!(
        (code, &report["right"]),
        (Some(1), &Value::Bool(false)),
        "{report}"
    );
    for (talk, (who, _, container)) in report["conversations"].as_array().unwrap().iter().zip(TALKS) {
        let is_crossed = ["modem", "TEE"].contains(&who);
        let answered = if is_crossed { 3 - container } else { container };
        assert_eq!(talk["answered_by"], serde_json::json!([answered]), "{report}");
        assert_eq!(talk["right"], Value::Bool(!is_crossed), "{report}");
        assert_eq!(talk["wrong"].is_null(), !is_crossed, "{report}");
    }
}
