//! `sekisho card --board` and `sekisho lab --firmware`: the card on an emulated chip, where `SEKISHO_FIRMWARE_PRODUCT` names its image, and `SEKISHO_FIRMWARE_T1` that whose contacts speak T=1 (`cargo xtask firmware play`).
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // test support

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What `sekisho apdu` prints of these commands over a line of T=1, behind the ATR.
fn spoken(line: &str) -> String {
    let extended = format!("80E2000000012C{}0000", "5A".repeat(300));
    let output = Command::new(env!("CARGO_BIN_EXE_sekisho"))
        .args(["apdu", "--transport", line])
        .args(["00A4040000", "00A4040005F011223344", "80CA006600", "0070000001"])
        .arg(&extended)
        .args(["00C00000", "reset", "01A4040000", "00A4040008A00000015100000000"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = text.lines().filter(|line| !line.starts_with("ATR"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// A chip whose contacts speak T=1 themselves, on its UART: conversations end as those with a process that speaks T=1, secure messaging works, and a reset of the line is the chip's.
#[test]
fn the_contacts_of_a_chip_speak_blocks() {
    let Some(firmware) = std::env::var_os("SEKISHO_FIRMWARE_T1") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let card = |flash: &str, line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sekisho"));
        command.args(["card", "--flash", &path(flash), "--on", line]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        command
    };
    let started = |mut command: Command| {
        let mut card = command.spawn().unwrap();
        let mut lines = BufReader::new(card.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().starts_with("It keeps its state")));
        card
    };
    let lines = [
        format!("t1=pty:{}", path("chip.tty")),
        format!("t1=unix:{}", path("socket")),
    ];
    let mut chip = card("chip.flash", &lines[0]);
    chip.arg("--board").arg(firmware);
    let mut cards = [started(chip), started(card("card.flash", &lines[1]))];
    let said = lines.each_ref().map(|line| spoken(line));
    assert_eq!(said[0], said[1]);
    assert!(
        said[0].contains("9000") && said[0].contains("6A82") && said[0].contains("6881"),
        "{}",
        said[0]
    );
    let output = Command::new(env!("CARGO_BIN_EXE_sekisho"))
        .args([
            "reader",
            "--card",
            &lines[0],
            "send",
            "00D6810004C0FFEE55",
            "00B0810004",
        ])
        .output()
        .unwrap();
    for card in &mut cards {
        card.kill().unwrap();
        card.wait().unwrap();
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("C0FFEE55"), "{text}");
}

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
