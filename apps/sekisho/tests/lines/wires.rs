//! Lines that carry each protocol's own frames.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use sekisho_block::block::{Block, Pcb, Service, Shape};
use sekisho_transport::{Card, DeviceLine, LinkCard};

use super::{ON_CHANNEL_1, OPEN_CHANNEL, SE_ID, SELECT_COMMON, se_ids};
use crate::process::{CardProcess, SEKISHO, scratch, send};

/// A reader of a wire, by the protocol's own frames.
fn linked(card: &CardProcess, device: &str, wire: &str) -> LinkCard {
    let said = card.says(wire);
    let address = said.split(',').next().unwrap().parse().unwrap();
    LinkCard::open(
        DeviceLine::named(device).unwrap(),
        &address,
        Duration::from_secs(20),
    )
    .unwrap()
}

/// A device reaches the root of its container by the protocol's own frames, and a reset of the wire is one of the interface.
fn reaches_its_container(card: &CardProcess, ids: &[String], device: &str, wire: &str) {
    let container = usize::from(wire.starts_with('t')) + 1;
    assert!(
        card.says(wire)
            .ends_with(&format!(", answered by container {container}"))
    );
    let mut reader = linked(card, device, wire);
    assert_eq!(send(&mut reader, &SELECT_COMMON).1, 0x9000, "{device}");
    let (data, sw) = send(&mut reader, &SE_ID);
    assert_eq!(
        (hex::encode(data), sw),
        (ids[container - 1].clone(), 0x9000),
        "{device}"
    );
    // Readers find no root that opens its channel to them; the device does.
    let update = [0x80, 0x50, 0x00, 0x00, 0x08, 1, 2, 3, 4, 5, 6, 7, 8, 0x00];
    let is_reader = device.starts_with("swp-");
    let expected = if is_reader { 0x6985 } else { 0x9000 };
    assert_eq!(send(&mut reader, &update).1, expected, "{device}");
    // A reset of the wire is one of the interface.
    assert_eq!(send(&mut reader, &OPEN_CHANNEL).1, 0x9000, "{device}");
    assert_eq!(send(&mut reader, &ON_CHANNEL_1).1, 0x9000, "{device}");
    reader.reset().unwrap();
    assert_eq!(send(&mut reader, &ON_CHANNEL_1).1, 0x6881, "{device}");
}

/// Each wire's own frames reach the root of its container, several wires and whole APDUs side by side.
#[test]
fn every_wire_has_its_line() {
    let directory = scratch();
    let socket = format!("swp=unix:{}/swp.socket", directory.path().display());
    let terminal = format!("t1=pty:{}/t1.tty", directory.path().display());
    for (lines, bystander) in [
        (
            [
                "t0=tcp:127.0.0.1:0",
                "spi=tcp:127.0.0.1:0",
                "apdu-gate=vpcd+tcp:127.0.0.1:0",
            ],
            "apdu-gate",
        ),
        (
            [&terminal, "i2c=tcp:127.0.0.1:0", "apdu-gate=vpcd+tcp:127.0.0.1:0"],
            "apdu-gate",
        ),
        (
            ["t1=tcp:127.0.0.1:0", &socket, "spi-ese=vpcd+tcp:127.0.0.1:0"],
            "spi-ese",
        ),
    ] {
        let flash = directory.path().join("card.flash");
        let card = CardProcess::start_on(&flash, &lines, &["--containers", "2"]);
        let ids = se_ids(&card);
        let mut whole = card.reader_on(bystander);
        assert_eq!(send(&mut whole, &OPEN_CHANNEL).1, 0x9000);
        let devices = [
            "t0",
            "t1",
            "spi",
            "spi-euicc",
            "i2c",
            "i2c-euicc",
            "swp",
            "swp-a",
            "swp-b",
        ];
        let mut asked = 0;
        for device in devices {
            let wire = device.split('-').next().unwrap();
            if !lines.iter().any(|line| line.starts_with(&format!("{wire}="))) {
                continue;
            }
            asked += 1;
            reaches_its_container(&card, &ids, device, wire);
        }
        assert_eq!(asked, if bystander == "spi-ese" { 4 } else { 3 });
        // On other interfaces nobody has noticed.
        assert_eq!(send(&mut whole, &ON_CHANNEL_1).1, 0x9000);
    }
}

/// Two node addresses on one bus: the one that sends a command first has the interface, the other one gets it by SWR, or when the bus is reset.
#[test]
fn two_node_addresses_share_a_bus_in_words() {
    let directory = scratch();
    let card = CardProcess::start_on(
        &directory.path().join("card.flash"),
        &["spi=tcp:127.0.0.1:0"],
        &[],
    );
    let mut stream = TcpStream::connect(card.says("spi").replace("tcp:", "")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(&[0, 1, 1]).unwrap();
    let mut numbers = [false; 2];
    // A block to an element, and INF of its answer.
    let mut ask = |element: usize, pcb: Option<Pcb>, inf: &[u8]| {
        let nad = [0x21, 0x4B][element];
        let number = numbers[element];
        let pcb = pcb.unwrap_or(Pcb::I { number, more: false });
        match pcb {
            Pcb::I { .. } => numbers[element] = !number,
            _ => numbers[element] = false,
        }
        let mut block = [0; 80];
        let len = Block { nad, pcb, inf }.write(Shape::Prime, &mut block).unwrap();
        let record = |kind: u8, body: &[u8]| {
            let len = u16::try_from(body.len() + 1).unwrap().to_be_bytes();
            [&len[..], &[kind], body].concat()
        };
        stream.write_all(&record(0, &block[..len])).unwrap();
        let mut read = Vec::new();
        let whole = |read: &[u8]| Shape::Prime.length(read).unwrap() == Some(read.len());
        while !whole(&read) {
            let n: u16 = if read.len() < 4 {
                4
            } else {
                u16::from_be_bytes([read[2], read[3]]) + 2
            };
            stream.write_all(&record(4, &n.to_be_bytes())).unwrap();
            let mut answer = vec![0; 3 + usize::from(n)];
            stream.read_exact(&mut answer).unwrap();
            if answer[3] != 0 || !read.is_empty() {
                read.extend(&answer[3..]);
            }
        }
        Block::parse(Shape::Prime, &read).unwrap().inf.to_vec()
    };
    let swr = Some(Pcb::Request(Service::Swr));
    let ran = |answer: &[u8]| answer.ends_with(&[0x90, 0x00]);
    const NOBODY: [u8; 2] = [0x6F, 0x00];
    // It needs a moment after power, and after SWR.
    thread::sleep(Duration::from_millis(50));
    assert!(ran(&ask(0, None, &SE_ID)));
    assert_eq!(ask(1, None, &SE_ID), NOBODY);
    assert!(ran(&ask(0, None, &OPEN_CHANNEL)));
    assert!(ask(1, swr, &[]).is_empty());
    thread::sleep(Duration::from_millis(50));
    assert!(ran(&ask(1, None, &SE_ID)));
    assert_eq!(ask(0, None, &ON_CHANNEL_1), NOBODY);
    assert_eq!(ask(1, None, &ON_CHANNEL_1), [0x68, 0x81]);
}

fn apdu(transport: &str, more: &[&str]) -> std::process::Output {
    let mut command = Command::new(SEKISHO);
    command
        .args(["apdu", "--timeout", "5", "--transport", transport])
        .args(more);
    command.stdin(Stdio::null()).output().unwrap()
}

/// `sekisho apdu` and `sekisho reader` speak each wire's own frames; what they print is the same on all.
#[test]
fn commands_speak_through_every_wire() {
    let directory = scratch();
    let lines = ["t1=tcp:127.0.0.1:0", "spi=tcp:127.0.0.1:0", "swp=tcp:127.0.0.1:0"];
    let card = CardProcess::start_on(&directory.path().join("card.flash"), &lines, &[]);
    let id = se_ids(&card).remove(0).to_uppercase();
    for wire in ["t1", "spi", "swp"] {
        let transport = format!("{wire}={}", card.says(wire));
        let output = apdu(&transport, &["00CA00CF00", "reset", "00A4040005F011223344"]);
        let said = String::from_utf8(output.stdout).unwrap();
        let mut said = said.lines();
        assert_eq!(output.status.code(), Some(0), "{wire}");
        assert_eq!(said.next(), Some("command  00CA00CF00"));
        assert_eq!(said.next(), Some(&*format!("answer   {id}9000  done")), "{wire}");
        assert_eq!(said.next(), Some("reset"));
        let begins = if wire == "t1" { "ATR      3B" } else { "ATR" };
        assert!(said.next().unwrap().starts_with(begins), "{wire}");
        assert!(said.nth(1).unwrap().starts_with("answer   6A82  "), "{wire}");
        let mut reader = Command::new(SEKISHO);
        let reader = reader.args([
            "reader",
            "--card",
            &transport,
            "send",
            "00D6810004C0FFEE22",
            "00B0810004",
        ]);
        let output = reader.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && said.contains("C0FFEE22  9000  done"),
            "{wire}: {said}"
        );
    }
}

/// A card that goes in the middle of a command: nobody knows whether it has run it, and that is an exit code of its own; later commands do not go out.
#[test]
fn an_unknown_outcome_is_an_exit_code() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let transport = format!("t0=tcp:{}", listener.local_addr().unwrap());
    let heard = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut record = [0; 3];
        stream.read_exact(&mut record).unwrap();
        stream.write_all(&[0, 3, 0, 0x3B, 0x00]).unwrap();
        let mut header = [0; 8];
        stream.read_exact(&mut header).unwrap();
        drop(stream);
        listener.set_nonblocking(true).unwrap();
        (header, listener.accept().is_err())
    });
    let output = apdu(&transport, &["--json", "80E60C0000", "00CA00CF00"]);
    assert_eq!(output.status.code(), Some(3));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(
        words.contains("outcome unknown, the secure element has run the command or not"),
        "{words}"
    );
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("\"outcome\":\"unknown\""), "{said}");
    assert_eq!(said.lines().count(), 1);
    assert_eq!(heard.join().unwrap(), ([0, 6, 0, 0x80, 0xE6, 0x0C, 0, 0], true));
}

/// A reader on the wire, written down: its own events, and what the card tells of it when it goes; nothing is written where there are no frames.
#[test]
fn a_reader_writes_down_what_goes_over_the_wire() {
    let directory = scratch();
    let card = CardProcess::start_on(
        &directory.path().join("card.flash"),
        &["swp=tcp:127.0.0.1:0"],
        &[],
    );
    let at = card.says("swp").split(',').next().unwrap().to_owned();
    let file = directory.path().join("swp.txt");
    let reader = |card: &str| {
        let mut command = Command::new(SEKISHO);
        command
            .args(["reader", "--card", card, "--trace"])
            .arg(&file)
            .args(["send", "00B0810004"]);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let output = reader(&format!("swp-a={at}"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let seen = std::fs::read_to_string(&file).unwrap();
    for words in [
        "CREATE_PIPE",
        "EVT_FIELD_ON",
        "EVT_CARD_ACTIVATED",
        "EVT_SEND_DATA",
        "C-APDU  00A40400",
    ] {
        assert!(seen.contains(words), "{words}: {seen}");
    }
    assert!(!seen.contains("EVT_C-APDU"), "{seen}");
    let output = reader("virtual");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// A trace that was asked for and is not whole is said, once, and the exit code says it too; the commands are carried out.
#[test]
fn a_trace_that_is_lost_is_said() {
    let directory = scratch();
    let card = CardProcess::start_on(&directory.path().join("card.flash"), &["t1=tcp:127.0.0.1:0"], &[]);
    let transport = format!("t1={}", card.says("t1"));
    let output = apdu(&transport, &["--trace", "/dev/full", "00CA00CF00", "00CA00CF00"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.matches("9000  done").count(), 2, "{said}");
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert_eq!(words.matches("/dev/full cannot be written").count(), 1, "{words}");
}
