//! Terminals that answer other ones: the SE of a device, and `sekisho reader listen` without any.

use crate::process;
use std::io::Read;
use std::process::{Command, Output, Stdio};

use process::reader::{EVERY, asked_wrongly, ends, reader, refused, shown, text};
use process::{CardProcess, SEKISHO, scratch};

/// Terminal to terminal: the SE of one device answers the readers of two others, each with keys of its own.
#[test]
fn two_terminals_take_turns() {
    let folder = scratch();
    let card = CardProcess::start(&folder.path().join("flash"), 0, &["--interface", "spi"]);
    let at = format!("tcp:{}", card.address);
    for round in 0..3_u8 {
        let value = format!("{:08X}", 0x0101_0101 * u32::from(round));
        let write = format!("00D6810004{value}");
        shown(&["--card", &at, "send", &write]);
        let read = shown(&["--card", &at, "send", "--separate", "00B0810004"]);
        assert_eq!(read.last().unwrap()["data"], value);
    }
}

/// A terminal that answers, as a process.
struct Terminal {
    child: std::process::Child,
    at: String,
}

impl Terminal {
    /// `--allow` and what follows belong to `listen`, the rest to `reader`.
    fn start(args: &[&str]) -> Self {
        let (general, own) = args.split_at(args.iter().take_while(|arg| **arg != "--allow").count());
        let mut child = Command::new(SEKISHO)
            .args(["reader", "--timeout", "10"])
            .args(general)
            .arg("listen")
            .args(own)
            .env_remove("SEKISHO_MKEY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        let mut byte = [0];
        let out = child.stdout.as_mut().unwrap();
        while !first.ends_with('\n') && out.read(&mut byte).unwrap() == 1 {
            first.push(char::from(byte[0]));
        }
        let address = first.trim().strip_prefix("listening on ").unwrap();
        let at = format!("tcp:{address}");
        Self { child, at }
    }

    /// It ends by itself.
    fn end(self) -> Output {
        self.child.wait_with_output().unwrap()
    }
}

/// Terminal to terminal without any card: two processes exchange the three commands of the figures in every mode, with one key and with two, and the ratchet's refresh;
/// each answering end stops by itself.
#[test]
fn two_terminals_exchange_the_figures_in_every_mode() {
    let figures = [
        ("6", "legacy-xor"),
        ("12", "legacy-list"),
        ("18", "legacy-operations"),
    ];
    let sent = ["fixed", "legacy-turns", "ratchet"];
    let commands = ["00A4020C020011", "00D0000004DEADBEEF", "00B0000004"];
    for separate in [false, true] {
        let lanes: &[&str] = if separate { &["--separate"] } else { &[] };
        for (figure, mode) in figures {
            let terminal = Terminal::start(&EVERY);
            let shown = shown(&[&["--card", &terminal.at, "figure", figure], lanes].concat());
            assert_eq!(shown.last().unwrap()["data"], "DEADBEEF", "{mode}");
            heard(terminal, 3, mode);
        }
        for mode in sent {
            let terminal = Terminal::start(&EVERY);
            let refresh: &[&str] = if mode == "ratchet" {
                &["--refresh", "2"]
            } else {
                &[]
            };
            let args = [
                &["--card", &terminal.at, "send", "--mode", mode][..],
                refresh,
                lanes,
                &commands,
            ]
            .concat();
            let shown = shown(&args);
            assert_eq!(shown.last().unwrap()["data"], "DEADBEEF", "{mode}");
            heard(terminal, if mode == "ratchet" { 4 } else { 3 }, mode);
        }
    }
}

/// The terminal has ended well after so many exchanges, and has carried out what was sent.
fn heard(terminal: Terminal, exchanges: u32, mode: &str) {
    let output = terminal.end();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{mode}: {}", text(&output.stderr));
    assert!(
        said.ends_with(&format!("{exchanges} exchanges; the other end has left\n")),
        "{mode}: {said}"
    );
    assert!(
        said.contains("00D0000004DEADBEEF") && said.contains("DEADBEEF  9000"),
        "{said}"
    );
}

#[test]
fn a_terminal_that_answers_says_why_it_ended() {
    // The ratchet alone, unless it is told otherwise.
    let terminal = Terminal::start(&[]);
    refused(&["--card", &terminal.at, "figure", "6"], "6985");
    let output = terminal.end();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("before anything was exchanged"),
        "{}",
        text(&output.stderr)
    );
    // Another MKEY: the reader finds out, and sends nothing.
    let folder = scratch();
    let key = folder.path().join("mkey");
    std::fs::write(&key, "00112233445566778899AABBCCDDEEFF\n").unwrap();
    let terminal = Terminal::start(&["--key-file", key.to_str().unwrap()]);
    refused(
        &["--card", &terminal.at, "send", "00B0810004"],
        "No command was sent",
    );
    assert_eq!(terminal.end().status.code(), Some(1));
    // Something plain ends secure messaging, and is named.
    let terminal = Terminal::start(&[]);
    let script = folder.path().join("script");
    std::fs::write(
        &script,
        "select F0534B4F530401\nopen ratchet\n> 00B0810004\n< 00000000 9000\nplain 00B0810004\n< 6987\n",
    )
    .unwrap();
    let output = reader(&["--card", &terminal.at, "run", script.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = terminal.end();
    assert!(
        text(&output.stderr).contains("secure messaging was closed"),
        "{}",
        text(&output.stderr)
    );
    // Nobody comes; and an address that is open to others is not listened on.
    ends(1, &["--timeout", "1", "listen"], "nobody spoke within 1 s");
    asked_wrongly(&["listen", "--listen", "0.0.0.0:0"], "open to others");
}
