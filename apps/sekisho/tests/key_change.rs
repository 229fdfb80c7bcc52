//! A change of the design system's keys with the shipped commands: made, carried to one SE and to the fleet, shown, and what the SEs obey then.

use crate::process;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use process::{CardProcess, Guarded, SEKISHO, Wire, open_channel, repository, scratch};
use sekisho_apdu::{CApdu, Cla, Writer};
use sekisho_hsm::{Hsm, SoftHsm};
use sekisho_link::SeId;
use serde_json::{Value, json};

const SES: [&str; 2] = ["5ec154000000000000a1", "5ec154000000000000a2"];

fn sekisho(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(SEKISHO)
        .args(arguments)
        .current_dir(folder)
        .env("SEKISHO_PASSPHRASE", "of this test")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Standard output of a command that has to succeed.
fn ok(folder: &Path, arguments: &[&str]) -> String {
    let output = sekisho(folder, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A design system, a server and two SEs in a folder.
struct Fleet {
    folder: tempfile::TempDir,
    _server: Guarded,
    device: String,
    admin: String,
    cards: Vec<CardProcess>,
    tokens: BTreeMap<String, String>,
}

impl Fleet {
    fn start() -> Self {
        let folder = scratch();
        let path = folder.path();
        ok(path, &["hsm", "init"]);
        ok(path, &["design", "ceremony"]);
        ok(
            path,
            &["design", "hand-over", "--in-the-clear", "--out", "product.json"],
        );
        let product = path.join("product.json");
        let cards = SES.map(|se_id| {
            let perso = format!("{se_id}.json");
            ok(
                path,
                &[
                    "hsm",
                    "perso",
                    "--in-the-clear",
                    "--se-id",
                    se_id,
                    "--out",
                    &perso,
                ],
            );
            let perso = path.join(perso);
            let flash = path.join(format!("{se_id}.flash"));
            let (perso, product) = (perso.to_str().unwrap(), product.to_str().unwrap());
            CardProcess::start(&flash, 0, &["--perso", perso, "--product", product])
        });
        let any = "127.0.0.1:0";
        let mut server = Guarded(
            Command::new(SEKISHO)
                .args(["server", "--device-address", any, "--admin-address", any])
                .current_dir(path)
                .env("SEKISHO_PASSPHRASE", "of this test")
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut lines = BufReader::new(server.0.stderr.take().unwrap()).lines();
        let mut said = |name: &str| {
            let line = lines.find_map(|line| line.ok().filter(|line| line.starts_with(name)));
            let line = line.unwrap_or_else(|| panic!("the server does not start: no {name}"));
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .trim_end_matches('/')
                .to_owned()
        };
        let (device, admin) = (said("devices"), said("administration"));
        let mut fleet = Self {
            folder,
            _server: server,
            device,
            admin,
            cards: cards.into(),
            tokens: BTreeMap::new(),
        };
        let registered = fleet.fleet(&[&["register"][..], &SES].concat());
        for device in registered["devices"].as_array().unwrap() {
            let text = |name: &str| device[name].as_str().unwrap().to_owned();
            fleet.tokens.insert(text("se_id"), text("link_token"));
        }
        fleet
    }

    fn ok(&self, arguments: &[&str]) -> String {
        ok(self.folder.path(), arguments)
    }

    fn fleet(&self, arguments: &[&str]) -> Value {
        let token = "sekisho-server/admin.token";
        let head = ["fleet", "--server", &self.admin, "--token-file", token];
        serde_json::from_str(&self.ok(&[&head, arguments].concat())).unwrap_or(Value::Null)
    }

    /// The designer of a ceremony file.
    fn designer(&self, ceremony: &str) -> String {
        let file = sekisho_hsm::design::Ceremony::load(&self.folder.path().join(ceremony), b"of this test");
        hex::encode(file.unwrap().designer_public())
    }

    /// A running campaign of a package; its number.
    fn campaign(&self, package: &str, designer: &str, targets: &[&str]) -> String {
        let uploaded = self.fleet(&["upload", package, "--designer", designer]);
        let id = uploaded["package_id"].as_str().unwrap();
        let mut create = vec!["create", "--name", package, "--package-id", id, "--canary", "0"];
        targets
            .iter()
            .for_each(|target| create.extend(["--target", target]));
        let id = self.fleet(&create)["id"].as_str().unwrap().to_owned();
        self.fleet(&["do", "start", &id]);
        id
    }

    /// An OS part of this version by the keys of a ceremony file.
    fn pack(&self, ceremony: &str, version: &str) -> String {
        let module = repository("applets/prebuilt/meter-v2.wasm");
        let out = format!("{version}-{ceremony}.skpk");
        let pack = ["design", "pack", module.to_str().unwrap(), "--version", version];
        self.ok(&[
            &pack[..],
            &["--min-previous", "1", "--ceremony", ceremony, "--out", &out],
        ]
        .concat());
        out
    }

    /// One turn of an SE's agent: exit code and result.
    fn turn(&self, number: usize) -> (i32, Value) {
        let (card, spool) = (
            format!("tcp:{}", self.cards[number].address),
            format!("spool-{number}"),
        );
        let agent = [
            &["agent", "--once", "--json", "--server", &self.device][..],
            &[
                "--ca",
                "sekisho-server/certificate.pem",
                "--token",
                &self.tokens[SES[number]],
            ],
            &["--card", &card, "--spool", &spool],
        ];
        let output = sekisho(self.folder.path(), &agent.concat());
        let result = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code().unwrap(), result)
    }

    /// The SEs that are taken to obey a key version.
    fn obey(&self, version: &str) -> Vec<String> {
        let devices = self.fleet(&["devices", "--key-version", version]);
        let list = devices["devices"].as_array().unwrap();
        list.iter()
            .map(|device| device["se_id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// How many targets of a campaign are pending, set aside and given up.
    fn stands(&self, campaign: &str) -> [Value; 3] {
        let shown = self.fleet(&["show", campaign]);
        ["pending", "aside", "failed"].map(|what| shown["rest"][what].clone())
    }
}

fn activated(turn: &(i32, Value), target: u64, version: u64) {
    let (code, result) = turn;
    assert_eq!(
        (
            *code,
            &result["result"],
            &result["target"],
            &result["version_after"]
        ),
        (0, &json!("activated"), &json!(target), &json!(version)),
        "{result}"
    );
}

#[test]
fn keys_change_for_one_se_and_then_for_all() {
    let fleet = Fleet::start();
    let (present, next) = ("ceremony.sealed", "ceremony-next.sealed");
    let rotate = "design rotate --version 2 --out keys.skpk --next";
    let rotate: Vec<_> = rotate.split(' ').chain([next]).collect();
    fleet.ok(&rotate);
    let (old, new) = (fleet.designer(present), fleet.designer(next));
    assert_ne!(old, new);
    // A package of the new designer's is not one of the old one's, and the other way round.
    let upload = "--token-file sekisho-server/admin.token upload keys.skpk --designer";
    let upload: Vec<_> = ["fleet", "--server", &fleet.admin]
        .into_iter()
        .chain(upload.split(' '))
        .chain([&*new])
        .collect();
    assert!(!sekisho(fleet.folder.path(), &upload).status.success());

    // One SE first.
    fleet.campaign("keys.skpk", &old, &SES[..1]);
    activated(&fleet.turn(0), 2, 2);
    assert_eq!(fleet.turn(1).1["result"], "nothing");
    assert_eq!(
        (fleet.obey("1"), fleet.obey("2")),
        (vec![SES[1].to_owned()], vec![SES[0].to_owned()])
    );

    // An update by the new designer reaches it, and not the one that still obeys the old keys.
    let update = fleet.campaign(&fleet.pack(next, "2"), &new, &SES);
    activated(&fleet.turn(0), 1, 2);
    // It waits for its keys, and is asked no more.
    let waits = fleet.turn(1);
    assert_eq!(
        (waits.0, &waits.1["result"]),
        (75, &json!("not_yet")),
        "{}",
        waits.1
    );
    assert_eq!(fleet.turn(1).1["result"], "nothing");
    assert_eq!(fleet.stands(&update), [1, 0, 0].map(Value::from));
    // One by the old designer does not reach it, and is nobody's failure.
    let older = fleet.campaign(&fleet.pack(present, "3"), &old, &SES[..1]);
    assert_eq!(fleet.turn(0).1["result"], "nothing");
    assert_eq!(fleet.stands(&older), [0, 1, 0].map(Value::from));

    // The rest of the fleet follows; who has changed already is none of the targets.
    fleet.campaign("keys.skpk", &old, &SES[1..]);
    activated(&fleet.turn(1), 2, 2);
    // What has waited comes now.
    activated(&fleet.turn(1), 1, 2);
    assert_eq!((fleet.obey("1").len(), fleet.obey("2").len()), (0, 2));
    let devices = fleet.fleet(&["devices"]);
    assert_eq!(
        devices["key_versions"],
        json!([{ "key_version": 2, "devices": 2 }]),
        "{devices}"
    );
    fleet.campaign(&fleet.pack(next, "4"), &new, &SES);
    for number in 0..2 {
        activated(&fleet.turn(number), 1, 4);
        assert_eq!(fleet.turn(number).1["result"], "nothing");
    }
}

/// The connection ends behind each command that was carried out: what may have changed is not said to be as it was, and the same command finishes it.
#[test]
fn a_rotation_says_what_it_does_not_know() {
    let fleet = Fleet::start();
    let hsm = SoftHsm::load(&fleet.folder.path().join("keystore.sealed"), b"of this test").unwrap();
    let se_id: SeId = SES[0].parse().unwrap();
    let (mut has, mut seen) = (0x30, Vec::new());
    for at in 1.. {
        let (next, wire) = (has + 1, Wire::new(fleet.cards[0].address.clone(), vec![at]));
        let to = format!("{next:02X}");
        let (address, folder, target) = (wire.address.clone(), fleet.folder.path().to_owned(), to.clone());
        let run = std::thread::spawn(move || rotate_at(&folder, &address, SES[0], &target));
        while !run.is_finished() {
            if let Ok(cut) = wire.cuts.recv_timeout(Duration::from_millis(20)) {
                // The answer is the card's last word: it has carried the command out when it is next heard.
                cut.send(()).unwrap();
            }
        }
        let output = run.join().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        if output.status.success() {
            break;
        }
        let old = hsm.perso(se_id).unwrap().scp;
        let of_first = open_channel(&mut fleet.cards[0].reader(), 0x30, &old).is_some();
        let is_open = error.contains("it is not known whether the card has taken");
        assert!(!error.contains("as it was"), "{error}");
        if has == 0x30 && !of_first {
            assert!(is_open, "command {at} has changed the card: {error}");
        }
        if is_open {
            let what = if error.contains("in the place of") {
                "key set"
            } else {
                "K-AUT"
            };
            seen.push(what);
            let finished = fleet.rotate(0, SES[0], &to);
            let words = String::from_utf8(finished.stdout).unwrap();
            assert_eq!(finished.status.code(), Some(0), "{words}");
            assert!(
                words.contains("has key set"),
                "command {at} was carried out: {words}"
            );
            has = next;
        }
    }
    assert_eq!(seen, ["key set", "K-AUT"]);
}

fn rotate_at(folder: &Path, address: &str, se_id: &str, to: &str) -> Output {
    let card = format!("tcp:{address}");
    let rotate = [
        "hsm",
        "rotate",
        "--card",
        &card,
        "--se-id",
        se_id,
        "--to",
        to,
        "--timeout",
        "5",
    ];
    sekisho(folder, &rotate)
}

impl Fleet {
    fn rotate(&self, number: usize, se_id: &str, to: &str) -> Output {
        rotate_at(self.folder.path(), &self.cards[number].address, se_id, to)
    }

    /// The first half of a rotation: the new key set is there, K-AUT is the old one.
    fn rotate_by_half(&self, number: usize) {
        let hsm = SoftHsm::load(&self.folder.path().join("keystore.sealed"), b"of this test").unwrap();
        let se_id = SES[number].parse().unwrap();
        let keys = hsm.enciphered_keys(se_id, 0x30, 0x31).unwrap();
        let mut card = self.cards[number].reader();
        let mut channel = open_channel(&mut card, 0x30, &hsm.perso(se_id).unwrap().scp).unwrap();
        let data = [&[0x31][..], &keys.key_set.concat()].concat();
        let mut buffer = [0; 400];
        let mut out = Writer::new(&mut buffer);
        let command = CApdu::new(Cla::GP, 0xD8, 0x30, 0x81).with_data(&data);
        channel.wrap(&command, &mut out).unwrap();
        assert_eq!(process::send(&mut card, out.written()).1, 0x9000);
    }
}

/// Both SEs get other individual keys, one of them in two goes; the server authorises and believes them again when it has been told.
#[test]
fn individual_keys_are_rotated() {
    let fleet = Fleet::start();
    let said = |output: &Output| {
        let text = [&output.stdout[..], &output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    let (code, text) = said(&fleet.rotate(0, SES[1], "31"));
    assert!(code == 1 && text.contains("the card is SE"), "{text}");
    let (code, text) = said(&fleet.rotate(0, SES[0], "60"));
    assert!(code == 2 && text.contains("30 to 3F"), "{text}");

    let (code, text) = said(&fleet.rotate(0, SES[0], "31"));
    assert!(
        code == 0 && text.contains("key set 31 in the place of 30"),
        "{text}"
    );
    fleet.rotate_by_half(1);
    for (number, se_id) in SES.iter().enumerate() {
        let (code, text) = said(&fleet.rotate(number, se_id, "31"));
        assert!(code == 0 && text.contains("has key set 31 already"), "{text}");
    }
    let hsm = SoftHsm::load(&fleet.folder.path().join("keystore.sealed"), b"of this test").unwrap();
    let old = hsm.perso(SES[0].parse().unwrap()).unwrap().scp;
    assert!(open_channel(&mut fleet.cards[0].reader(), 0x30, &old).is_none());
    assert!(open_channel(&mut fleet.cards[0].reader(), 0x31, &old).is_none());

    // Back to keys that somebody may know it does not go, and the card hears nothing of it.
    let (code, text) = said(&fleet.rotate(0, SES[0], "30"));
    assert!(
        code == 1 && text.contains("would bring back keys that somebody may know: give one from 32 to 3F"),
        "{text}"
    );
    assert!(open_channel(&mut fleet.cards[0].reader(), 0x30, &old).is_none());

    let designer = fleet.designer("ceremony.sealed");
    fleet.campaign(&fleet.pack("ceremony.sealed", "2"), &designer, &SES);
    let (_, result) = fleet.turn(0);
    assert_ne!(
        result["result"], "activated",
        "the server does not know the key set: {result}"
    );
    for (number, se_id) in SES.iter().enumerate() {
        fleet.fleet(&["key-set", se_id, "31"]);
        activated(&fleet.turn(number), 1, 2);
    }
    let token = [
        "--server",
        &fleet.admin,
        "--token-file",
        "sekisho-server/admin.token",
    ];
    let unknown = [&["fleet"][..], &token, &["key-set", "5ec15400000000000000", "31"]].concat();
    assert_eq!(sekisho(fleet.folder.path(), &unknown).status.code(), Some(1));
}
