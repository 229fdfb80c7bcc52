//! `sekisho card --board` and `sekisho lab --firmware`: the card on an emulated chip, where `SEKISHO_FIRMWARE_PRODUCT` names its image (`cargo xtask firmware play`).
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // test support

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts the card; where it listens.
fn start(firmware: &Path, flash: &Path) -> (Child, String) {
    let mut card = Command::new(env!("CARGO_BIN_EXE_sekisho"))
        .args(["card", "--listen", "127.0.0.1:0", "--board"])
        .arg(firmware)
        .arg("--flash")
        .arg(flash)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(card.stdout.take().unwrap()).lines();
    let address = lines.map_while(Result::ok).find_map(|line| {
        let rest = line.strip_prefix("Listening on ")?;
        Some(rest.split(',').next()?.to_owned())
    });
    (card, address.unwrap())
}

/// What a reader writes by secure messaging is there after a kill -9 of the card, which takes the chip with it.
#[test]
fn what_a_reader_writes_survives_kills() {
    let Some(firmware) = std::env::var_os("SEKISHO_FIRMWARE_PRODUCT") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let flash = folder.path().join("chip.flash");
    let mut last = String::new();
    for number in 0..5 {
        let (mut card, address) = start(Path::new(&firmware), &flash);
        let written = format!("C0FFEE{number:02X}");
        let output = Command::new(env!("CARGO_BIN_EXE_sekisho"))
            .args([
                "reader",
                "--card",
                &format!("tcp:{address}"),
                "send",
                "00B0810004",
            ])
            .arg(format!("00D6810004{written}"))
            .arg("00B0810004")
            .output()
            .unwrap();
        card.kill().unwrap();
        card.wait().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        assert!(text.contains(&written), "{text}");
        assert!(text.contains(&last), "{last} is lost: {text}");
        last = written;
    }
}

/// A campaign with a chip among its devices: it is updated as the others are, over the same server, and so it is when its power goes in the middle.
#[test]
fn a_campaign_has_a_chip_among_its_devices() {
    let Some(firmware) = std::env::var_os("SEKISHO_FIRMWARE_PRODUCT") else {
        return;
    };
    for faults in [&[][..], &["--faults"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_sekisho"))
            .args(["lab", "--devices", "3", "--sessions", "0", "--image-kib", "4"])
            .args(["--once", "--json", "--firmware"])
            .arg(&firmware)
            .args(faults)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["chip"]["version"], 2, "{report}");
        assert_eq!(report["chip"]["se_id"], "5ec15400000000000002", "{report}");
        if faults.is_empty() {
            assert_eq!(report["updated"], 3, "{report}");
        } else {
            // Behind the cut it goes on where it was.
            assert!(report["resumed"].as_u64().unwrap() >= 1, "{report}");
            assert!(
                report["recovered"]["power cut in mid-write"].as_u64().unwrap() >= 1,
                "{report}"
            );
        }
    }
}
