//! `sekisho card --on`: one SE on several protocols at once, as its users run it.

use crate::process;
#[path = "lines/wires.rs"]
mod wires;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use process::{CardProcess, SEKISHO, initial_keys, open_channel, scratch, send};
use sekisho_apdu::{CApdu, Writer};
use sekisho_transport::{Card, SocketCard};

const SELECT_COMMON: [u8; 14] = [
    0x00, 0xA4, 0x04, 0x00, 0x08, 0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00, 0x00,
];
const SE_ID: [u8; 5] = [0x00, 0xCA, 0x00, 0xCF, 0x00];
const OPEN_CHANNEL: [u8; 5] = [0x00, 0x70, 0x00, 0x00, 0x01];
/// On logical channel 1: 6881 when it is not open.
const ON_CHANNEL_1: [u8; 5] = [0x81, 0xCA, 0x00, 0xCF, 0x00];

/// Every protocol listens.
const ALL: [&str; 7] = ["t0", "t1", "swp-a", "swp-b", "apdu-gate", "spi-ese", "spi-euicc"];

fn listening(protocols: &[&str]) -> Vec<String> {
    let line = |protocol: &&str| format!("{protocol}=vpcd+tcp:127.0.0.1:0");
    protocols.iter().map(line).collect()
}

fn card(flash: &Path, protocols: &[&str], more: &[&str]) -> CardProcess {
    let lines = listening(protocols);
    CardProcess::start_on(flash, &lines.iter().map(String::as_str).collect::<Vec<_>>(), more)
}

/// The SE-ids on the first screen, by container.
fn se_ids(card: &CardProcess) -> Vec<String> {
    let said = card
        .screen
        .iter()
        .filter_map(|line| line.trim().strip_prefix("SE-id"));
    said.map(|id| id.trim().to_owned()).collect()
}

fn se_id(reader: &mut SocketCard) -> String {
    let (data, sw) = send(reader, &SE_ID);
    assert_eq!(sw, 0x9000);
    hex::encode(data)
}

/// Each protocol reaches the root of its container under the one AID, each by its SE-id.
#[test]
fn every_protocol_has_its_line() {
    let directory = scratch();
    let card = card(&directory.path().join("card.flash"), &ALL, &["--containers", "2"]);
    let ids = se_ids(&card);
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
    for protocol in ALL {
        let container = usize::from(protocol.starts_with('t')) + 1;
        let said = card.says(protocol);
        assert!(
            said.ends_with(&format!(", answered by container {container}")),
            "{said}"
        );
        let mut reader = card.reader_on(protocol);
        assert_eq!(send(&mut reader, &SELECT_COMMON).1, 0x9000);
        assert_eq!(se_id(&mut reader), ids[container - 1], "{protocol}");
        // T=1 and contactless cards say so in their ATR; T=0 and what has none do not.
        let td1 = match protocol {
            "t1" => Some([0x8F, 0x01]),
            "swp-a" | "swp-b" => Some([0x8F, 0x80]),
            _ => None,
        };
        let atr = reader.reset().unwrap();
        assert_eq!(atr[1..3], td1.unwrap_or([0x0F, 0x80]), "{protocol}");
    }
}

/// Of two protocols of one interface the one that is powered last has it: it resets the other, which is silent from there on and can end nothing.
#[test]
fn the_one_powered_last_resets_the_other_and_nobody_else() {
    let directory = scratch();
    let card = card(&directory.path().join("card.flash"), &ALL, &["--containers", "2"]);
    let mut bystander = card.reader_on("apdu-gate");
    assert_eq!(send(&mut bystander, &OPEN_CHANNEL).1, 0x9000);
    for [one, other] in [
        ["t0", "t1"],
        ["t1", "t0"],
        ["swp-a", "swp-b"],
        ["spi-ese", "spi-euicc"],
    ] {
        let mut first = card.reader_on(one);
        assert_eq!(send(&mut first, &OPEN_CHANNEL).1, 0x9000);
        let mut second = card.reader_on(other);
        assert_eq!(send(&mut first, &ON_CHANNEL_1).1, 0x6F00, "{one} after {other}");
        assert_eq!(
            send(&mut second, &ON_CHANNEL_1).1,
            0x6881,
            "{other} has nothing of {one}"
        );
        assert_eq!(send(&mut second, &OPEN_CHANNEL).1, 0x9000);
        // What has no power switches nothing off, by word or by hanging up.
        drop(first);
        assert_eq!(send(&mut second, &ON_CHANNEL_1).1, 0x9000);
        let mut first = card.reader_on(one);
        assert_eq!(send(&mut second, &ON_CHANNEL_1).1, 0x6F00);
        assert_eq!(send(&mut first, &ON_CHANNEL_1).1, 0x6881);
        // Switched off, the interface is free: the other one has it with its next command.
        drop(first);
        let begun = Instant::now();
        while send(&mut second, &SE_ID).1 != 0x9000 {
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "{other} gets no answer any more"
            );
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(send(&mut bystander, &ON_CHANNEL_1).1, 0x9000);
    }
}

/// A virtual reader, as pcscd's: it listens, and the card comes.
struct Virtual(TcpStream);

impl Virtual {
    fn frame(&mut self, body: &[u8]) {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        self.0.write_all(&[&len, body].concat()).unwrap();
    }

    fn answer(&mut self) -> Vec<u8> {
        let mut len = [0; 2];
        self.0.read_exact(&mut len).unwrap();
        let mut body = vec![0; usize::from(u16::from_be_bytes(len))];
        self.0.read_exact(&mut body).unwrap();
        body
    }
}

impl Card for Virtual {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, sekisho_transport::TransportError> {
        self.frame(capdu);
        Ok(self.answer())
    }

    fn reset(&mut self) -> Result<Vec<u8>, sekisho_transport::TransportError> {
        self.frame(&[1]);
        self.frame(&[4]);
        Ok(self.answer())
    }
}

/// Two virtual readers of one SE show two cards under one AID, with commands of both in turn, a secure channel open in each.
#[test]
fn two_virtual_readers_hold_two_cards() {
    let directory = scratch();
    let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [contacts, spi] = [0, 1].map(|at| ports[at].local_addr().unwrap());
    let card = CardProcess::start_on(
        &directory.path().join("card.flash"),
        &[&format!("t1=vpcd:{contacts}"), &format!("spi-ese=vpcd:{spi}")],
        &["--profile", "card", "--containers", "2"],
    );
    let ids = se_ids(&card);
    let mut readers = ports.map(|port| Virtual(port.accept().unwrap().0));
    let mut channels = Vec::new();
    for reader in &mut readers {
        reader.reset().unwrap();
        assert_eq!(send(reader, &SELECT_COMMON).1, 0x9000);
        channels.push(open_channel(reader, 0xFF, &initial_keys()).unwrap());
    }
    for round in 0..50 {
        for (at, reader) in readers.iter_mut().enumerate() {
            let mut buffer = [0; 300];
            let mut out = Writer::new(&mut buffer);
            channels[at]
                .wrap(&CApdu::parse(&SE_ID).unwrap(), &mut out)
                .unwrap();
            let rapdu = reader.transmit(out.written()).unwrap();
            let mut plain = [0; 300];
            let answer = channels[at].unwrap_response(&rapdu, &mut plain).unwrap();
            assert!(answer.sw.is_success(), "round {round}");
            assert_eq!(hex::encode(answer.data), ids[1 - at], "round {round}");
        }
    }
    // One is switched off; the other's secure channel goes on.
    readers[0].frame(&[0]);
    let mut buffer = [0; 300];
    let mut out = Writer::new(&mut buffer);
    channels[1]
        .wrap(&CApdu::parse(&SE_ID).unwrap(), &mut out)
        .unwrap();
    let rapdu = readers[1].transmit(out.written()).unwrap();
    assert!(
        channels[1]
            .unwrap_response(&rapdu, &mut [0; 300])
            .unwrap()
            .sw
            .is_success()
    );
}

/// A second reader on a line hears why it is sent away, and the operator that it was (row C16); a line beside it is served (row C15).
#[test]
fn a_second_reader_on_a_line_is_refused_in_words() {
    let directory = scratch();
    let said = directory.path().join("said");
    let lines = listening(&["t0", "spi-ese"]);
    let card = CardProcess::run(
        Command::new(SEKISHO)
            .args(["card", "--on", &lines[0], "--on", &lines[1]])
            .current_dir(directory.path())
            .stderr(std::fs::File::create(&said).unwrap()),
    );
    let mut first = card.reader_on("t0");
    assert_eq!(send(&mut first, &OPEN_CHANNEL).1, 0x9000);
    let mut beside = card.reader_on("spi-ese");
    assert_eq!(send(&mut beside, &SE_ID).1, 0x9000);
    let output = Command::new(SEKISHO)
        .args([
            "reader",
            "--card",
            &format!("tcp:{}", card.at("t0")),
            "send",
            "00B0810004",
        ])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("the secure element is taken: 127.0.0.1:") && error.contains("one reader at a time"),
        "{error}"
    );
    assert_eq!(
        send(&mut first, &ON_CHANNEL_1).1,
        0x9000,
        "the first one noticed nothing"
    );
    let said = std::fs::read_to_string(said).unwrap();
    assert!(said.contains("is refused: one is there already"), "{said}");
}

/// Row C17 with several lines: whichever is reset starts the SE anew, and all are answered again.
#[cfg(target_os = "linux")]
#[test]
fn after_a_full_disk_every_line_goes_on() {
    let directory = scratch();
    let said = directory.path().join("said");
    let lines = listening(&["t1", "swp-b", "spi-ese"]);
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "trap '' XFSZ; exec \"$@\"",
        "sh",
        SEKISHO,
        "card",
        "--containers",
        "2",
    ]);
    for line in &lines {
        command.args(["--on", line]);
    }
    command.current_dir(directory.path());
    let card = CardProcess::run(command.stderr(std::fs::File::create(&said).unwrap()));
    let ids = se_ids(&card);
    let [mut t1, mut swp, mut spi] = ["t1", "swp-b", "spi-ese"].map(|line| card.reader_on(line));
    let limit = |bytes: &str| {
        let mut prlimit = Command::new("prlimit");
        prlimit.args([format!("--pid={}", card.id()), format!("--fsize={bytes}:")]);
        assert!(prlimit.status().unwrap().success());
    };
    limit("4096");
    let write = [0x80, 0x50, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0];
    assert_eq!(send(&mut spi, &write).1, 0x6581);
    for reader in [&mut t1, &mut swp, &mut spi] {
        assert_eq!(send(reader, &SE_ID).1, 0x6581, "one flash");
    }
    limit("unlimited");
    spi.reset().unwrap();
    assert_eq!(se_id(&mut t1), ids[1]);
    assert_eq!(se_id(&mut swp), ids[0]);
    assert_eq!(send(&mut spi, &write).1, 0x9000);
    let said = std::fs::read_to_string(said).unwrap();
    assert_eq!(
        said.matches("cannot be written: File too large").count(),
        1,
        "{said}"
    );
    assert_eq!(said.matches("can be written again").count(), 1, "{said}");
}

/// What a card is made as stays: after a restart nothing has to be said, and nothing else can be.
#[test]
fn a_card_stays_what_it_was_made_as() {
    let directory = scratch();
    for (name, made, says, mailbox) in [
        ("plain", &[][..], None, false),
        (
            "two",
            &["--containers", "2"],
            Some("embedded SE, 2 containers"),
            false,
        ),
        (
            "ise",
            &["--profile", "ise", "--containers", "2"],
            Some("integrated SE, 2 containers"),
            true,
        ),
        (
            "m2m",
            &["--profile", "m2m"],
            Some("machine to machine, 1 container"),
            false,
        ),
    ] {
        let flash = directory.path().join(name);
        let mut ids = Vec::new();
        for arguments in [made, &[], made] {
            let card = card(&flash, &["t0", "apdu-gate"], arguments);
            let product = card.screen.iter().find(|line| line.trim().starts_with("product"));
            assert_eq!(
                product.and_then(|line| line.trim().strip_prefix("product    ")),
                says
            );
            ids.push(se_ids(&card));
            assert_eq!(se_id(&mut card.reader_on("t0")), *ids[0].last().unwrap());
            let mut gate = card.reader_on("apdu-gate");
            assert_eq!(se_id(&mut gate), ids[0][0]);
            // Pairing data have the product's own row or have it not.
            let (rows, _) = send(&mut gate, &[0x00, 0xCA, 0xDF, 0x24, 0x00]);
            assert_eq!(rows.windows(3).any(|row| row == [0x80, 1, 0]), mailbox, "{name}");
        }
        assert!(ids.iter().all(|other| *other == ids[0]), "{ids:?}");
        for other in [
            &["--profile", "enclave"][..],
            &["--containers", if made.len() == 2 { "1" } else { "2" }],
        ] {
            let error = refused(
                directory.path(),
                &[&["--flash", name, "--listen", "127.0.0.1:0"], other].concat(),
                1,
            );
            assert!(error.contains("was made as"), "{name}: {error}");
        }
    }
}

/// Runs a card that must end by itself, with this exit code; what it says.
fn refused(directory: &Path, arguments: &[&str], code: i32) -> String {
    let output = Command::new("timeout")
        .args(["10", SEKISHO, "card"])
        .args(arguments)
        .current_dir(directory)
        .env("SEKISHO_PASSPHRASE", "a passphrase of the test")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

#[test]
fn what_is_wrong_with_a_line_is_said_before_anything_is_made() {
    let directory = scratch();
    let listen = "t0=vpcd+tcp:127.0.0.1:0";
    for (arguments, words) in [
        (&["--on", "t0"][..], "PROTOCOL=ENDPOINT"),
        (&["--on", "t2=vpcd:127.0.0.1:1"], "there are t0, t1"),
        (&["--on", "t0=127.0.0.1:1"], "vpcd+tcp:ADDRESS:PORT"),
        (&["--on", "t0=vpcd:127.0.0.1"], "HOST:PORT"),
        (&["--on", "t0=vpcd+tcp:0.0.0.0:0"], "open to others"),
        (&["--on", listen, "--on", listen], "t0 has two readers"),
        (&["--on", listen, "--listen", "127.0.0.1:0"], "t0 has two readers"),
        (&["--on", listen, "--vpcd"], "t0 has two readers"),
        (
            &["--on", "t0=vpcd:a:1", "--on", "t1=vpcd:a:1"],
            "a reader has one card",
        ),
        (&["--on", listen, "--containers", "0"], "1..=2"),
        (&["--on", listen, "--containers", "3"], "1..=2"),
        (&["--on", listen, "--profile", "phone"], "enclave"),
        (&["--on", listen, "--se-id", "5ec154000000000000aa"], "--perso"),
        (
            &["--on", listen, "--board", "firmware.elf", "--containers", "2"],
            "has one container",
        ),
        (
            &["--on", "t1=vpcd:a:1", "--board", "firmware.elf"],
            "does not speak t1",
        ),
    ] {
        let error = refused(directory.path(), arguments, 2);
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("swp-a=vpcd+tcp:{}", taken.local_addr().unwrap());
    let error = refused(directory.path(), &["--on", listen, "--on", &taken], 1);
    assert!(error.contains("cannot listen on 127.0.0.1:"), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// A folder with individual keys of three secure elements and those of their product; the arguments that name them, and the SE-ids.
fn batch(directory: &tempfile::TempDir) -> ([String; 4], [String; 3]) {
    let ids = [1, 2, 3].map(|last| format!("5ec1540000000000{last:04}"));
    let perso = [
        "hsm",
        "perso",
        "--in-the-clear",
        "--se-id",
        &ids[0],
        "--count",
        "3",
    ];
    let hand_over = ["design", "hand-over", "--in-the-clear"];
    for arguments in [&["hsm", "init"][..], &["design", "ceremony"], &hand_over, &perso] {
        let output = Command::new(SEKISHO)
            .args(arguments)
            .current_dir(directory.path())
            .env("SEKISHO_PASSPHRASE", "a passphrase of the test")
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
    }
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let arguments = [
        "--perso".to_owned(),
        path("perso.json"),
        "--product".to_owned(),
        path("product.json"),
    ];
    (arguments, ids)
}

/// Each container has individual keys of its own: two secure elements of a batch.
#[test]
fn two_containers_are_personalised_from_one_file() {
    let directory = scratch();
    let (files, [one, _, three]) = batch(&directory);
    let files = files.each_ref().map(String::as_str);
    let made = [&["--listen", "127.0.0.1:0", "--containers", "2"], &files[..]].concat();
    for (more, words) in [
        (&[][..], "those of 3: give --se-id 2 times"),
        (&["--se-id", &one], "given 1 times"),
        (&["--se-id", &one, "--se-id", &one], "twice"),
        (
            &["--se-id", &one, "--se-id", "5ec15400000000000007"],
            "no such secure element",
        ),
    ] {
        let error = refused(directory.path(), &[&made[..], more].concat(), 1);
        assert!(error.contains(words), "{more:?}: {error}");
    }
    assert!(!directory.path().join("card.flash").exists());
    let whose = [&["--se-id", &three, "--se-id", &one], &files[..]].concat();
    let flash = directory.path().join("card.flash");
    for more in [&[&["--containers", "2"], &whose[..]].concat()[..], &whose, &[]] {
        let card = card(&flash, &["t0", "spi-ese"], more);
        assert_eq!(se_ids(&card), [&three[..], &one]);
        assert_eq!(se_id(&mut card.reader_on("t0")), one);
        // Its own keys, those of the HSM: nobody knows them here. The eSE alone can be updated.
        assert!(open_channel(&mut card.reader_on("t0"), 0x30, &initial_keys()).is_none());
        for (line, sw) in [("t0", 0x6A88), ("spi-ese", 0x9000)] {
            let mut reader = card.reader_on(line);
            assert_eq!(send(&mut reader, &[0x80, 0xCA, 0xDF, 0x20, 0x00]).1, sw, "{line}");
        }
    }
    let turned = ["--listen", "127.0.0.1:0", "--se-id", &one, "--se-id", &three];
    let error = refused(directory.path(), &[&turned, &files[..]].concat(), 1);
    assert!(
        error.contains(&format!("holds the card {three}, not {one}")),
        "{error}"
    );
}
