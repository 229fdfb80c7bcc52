//! Paging: the folder of a server, of a local server, and the engine's journal and snapshot in both schemes.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sekisho_pager::{Engine, RootKeys, Scheme, Settings};
use sekisho_paging::datagram::Reason;
use sekisho_paging::device::{Device, State};
use sekisho_paging::keys::Root;
use sekisho_paging::ticket::{Ring, TicketKey};
use serde_json::json;
use zeroize::Zeroizing;

use crate::cards::se_id;
use crate::frozen::{self, EDGE_PASSPHRASE};
use crate::process::{Guarded, SEKISHO};
use crate::server::System;

#[test]
fn a_device_polls_where_it_was_and_hears_what_was_waiting() {
    let system = System::start();
    let before = system.fleet(&["paging", "device", &se_id(1)]);
    assert_eq!(
        (&before["group"], &before["blocked"]),
        (&json!(3), &json!(false)),
        "{before}"
    );
    let card = system.card("fleet.flash");
    let paging = ["--paging", &system.paging];
    let mut heard = Vec::new();
    while heard.last().is_none_or(|words| words != "nothing to do") {
        let (code, results) = system.agent(1, &card, &paging);
        assert_eq!(code, 0, "{results:?}");
        heard.push(results[0]["detail"].as_str().unwrap().to_owned());
        assert!(heard.len() < 9, "{heard:?}");
    }
    // Two campaigns had begun, and a message was for it alone.
    assert_eq!(
        heard[..3].iter().map(|words| &words[..9]).collect::<Vec<_>>(),
        ["message 3", "message 4", "message 5"]
    );
    assert!(heard[2].ends_with("poll every 7 s"), "{heard:?}");
    // It needed no recovery: generation and domain are as they were.
    let after = system.fleet(&["paging", "device", &se_id(1)]);
    for name in ["domain", "index", "group"] {
        assert_eq!(before[name], after[name], "{name}");
    }
    let status = system.fleet(&["paging", "status"]);
    assert_eq!(status["alarms"], json!([]), "{status}");
    // The key pair of then still signs: the SE has a live public key.
    let mut reader = card.reader();
    let select = b"\x00\xA4\x04\x00\x07\xF0SKOS\x03\x01\x00";
    assert_eq!(crate::process::send(&mut reader, select).1, 0x9000);
    let (key, sw) = crate::process::send(&mut reader, &[0x80, 0x46, 1, 0, 0]);
    assert_eq!((key.len(), sw), (65, 0x9000));
}

#[test]
fn a_local_server_goes_on_with_its_devices() {
    let system = System::start();
    let mut local = Guarded(
        Command::new(SEKISHO)
            .args(["paging", "--local", "local.sealed", "--folder", "edge"])
            .args(["--paging-address", "127.0.0.1:0"])
            .current_dir(system.folder.path())
            .env("SEKISHO_PASSPHRASE", EDGE_PASSPHRASE)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(local.0.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let address = first
        .split_whitespace()
        .nth(2)
        .unwrap_or_else(|| panic!("{first}"));
    let second = lines.next().unwrap().unwrap();
    assert!(second.contains("domain 9 for 1 devices"), "{second}");
    let card = system.card("edge.flash");
    // The second message of then had not been heard.
    let (code, heard) = system.agent(6, &card, &["--paging", address]);
    assert_eq!((code, &heard[0]["result"]), (0, &json!("message")), "{heard:?}");
    assert!(
        heard[0]["detail"].as_str().unwrap().ends_with("poll every 11 s"),
        "{heard:?}"
    );
    assert_eq!(
        system.agent(6, &card, &["--paging", address]).1[0]["result"],
        "nothing"
    );
    // The global server answers for it as well.
    assert_eq!(
        system.agent(6, &card, &["--paging", &system.paging]).1[0]["result"],
        "nothing"
    );
    let device = system.fleet(&["paging", "device", &se_id(6)]);
    assert_eq!(
        (&device["domain"], &device["generation"]),
        (&json!(9), &json!(2)),
        "{device}"
    );
}

struct Roots;

impl RootKeys for Roots {
    fn root(&self, se_id: &[u8; 10]) -> Option<Root> {
        let mut bytes = [0x33; 16];
        bytes[..10].copy_from_slice(se_id);
        Some(Root::new(bytes))
    }
}

#[test]
fn the_engine_finds_every_device_in_journal_and_snapshot() {
    for (scheme, name) in [(Scheme::Ticket, "ticket"), (Scheme::Random, "random")] {
        let folder = frozen::copy();
        let mut ring = Ring::new();
        ring.add(TicketKey::new(0, 1, &[5; 16], true)).unwrap();
        let settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            threads: 1,
            first_core: None,
            scheme,
            domain: 0,
            directory: Some(folder.path().join("pager").join(name)),
            seal_key: Zeroizing::new([9; 32]),
            snapshot_every: Duration::from_secs(3600),
            alarm_rate: 100,
        };
        let engine = Engine::start(settings, Arc::new(Roots), ring).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(engine.local_addr()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for (index, kind) in [(1, "fixed"), (2, "rolling")] {
            let view = engine.device(index).unwrap();
            assert_eq!((view.group, view.blocked), (7, false), "{name} {kind}");
            let record = frozen::read(&format!("pager/{name}/device-{kind}.record"));
            let mut device = Device::new(State::restore(&record).unwrap());
            for nonce in 0..3_u32 {
                let poll = device.poll(Reason::Periodic, nonce.to_be_bytes());
                socket.send(&poll).unwrap();
                let mut answer = [0; 100];
                let length = socket
                    .recv(&mut answer)
                    .unwrap_or_else(|error| panic!("{name} {kind} {nonce}: {error}"));
                let accepted = device.receive(&answer[..length]).unwrap();
                device.promote(accepted);
            }
        }
        engine.stop().unwrap();
    }
}
