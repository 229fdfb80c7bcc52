//! Paging as its users run it: keystore, card, server, agent, all by the command line; and OpenSSL judges what the SE and the fleet's authority made.

#[path = "paging/gateway.rs"]
mod gateway;

use crate::process;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use process::{CardProcess, Guarded, SEKISHO, scratch};
use serde_json::Value;

const SE_ID: &str = "5EC15400000000000042";

fn sekisho(folder: &Path, args: &[&str]) -> Output {
    Command::new(SEKISHO)
        .args(args)
        .current_dir(folder)
        .env("SEKISHO_PASSPHRASE", "a passphrase of the test")
        .output()
        .unwrap()
}

fn ok(folder: &Path, args: &[&str]) -> String {
    let output = sekisho(folder, args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

struct System {
    folder: tempfile::TempDir,
    server: Guarded,
    device: String,
    admin: String,
    paging: String,
}

impl System {
    fn start() -> Self {
        let folder = scratch();
        let path = folder.path();
        ok(path, &["hsm", "init"]);
        let ceremony = ok(path, &["design", "ceremony"]);
        std::fs::write(path.join("ceremony.txt"), ceremony).unwrap();
        ok(path, &["hsm", "perso", "--in-the-clear", "--se-id", SE_ID]);
        ok(path, &["design", "hand-over", "--in-the-clear"]);
        let any = "127.0.0.1:0";
        let mut server = Guarded(
            Command::new(SEKISHO)
                .args([
                    "server",
                    "--device-address",
                    any,
                    "--admin-address",
                    any,
                    "--paging-address",
                    any,
                ])
                .current_dir(path)
                .env("SEKISHO_PASSPHRASE", "a passphrase of the test")
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut lines = BufReader::new(server.0.stderr.take().unwrap()).lines();
        let mut said = |name: &str, number: usize| loop {
            let line = lines.next().unwrap().unwrap();
            if line.starts_with(name) {
                return line
                    .split_whitespace()
                    .nth(number)
                    .unwrap()
                    .trim_end_matches('/')
                    .to_owned();
            }
        };
        let device = said("devices", 1);
        let admin = said("administration", 1);
        let paging = said("paging", 2);
        Self {
            folder,
            server,
            device,
            admin,
            paging,
        }
    }

    fn fleet(&self, args: &[&str]) -> Value {
        let all = [&["fleet", "--server", &self.admin], args].concat();
        serde_json::from_str(&ok(self.folder.path(), &all)).unwrap_or(Value::Null)
    }

    /// What Prometheus reads.
    fn metrics(&self) -> String {
        let address = self.admin.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// A card from the HSM, registered in group 3, and its device's token.
    fn card(&self) -> (CardProcess, String) {
        let folder = self.folder.path();
        let [perso, product] = ["perso.json", "product.json"].map(|name| folder.join(name));
        let card = CardProcess::start(
            &folder.join("card.flash"),
            0,
            &[
                "--perso",
                perso.to_str().unwrap(),
                "--product",
                product.to_str().unwrap(),
            ],
        );
        let registered = self.fleet(&["register", SE_ID]);
        let token = registered["devices"][0]["link_token"].as_str().unwrap();
        let new = self.fleet(&["paging", "register", SE_ID, "--group", "3"]);
        assert_eq!(new["new"], 1);
        (card, token.to_owned())
    }

    /// One message, or "nothing", heard by the agent.
    fn agent(&self, card: &CardProcess, token: &str) -> Vec<Value> {
        self.agent_at(&self.paging, card, token)
    }

    /// The same at another paging server.
    fn agent_at(&self, paging: &str, card: &CardProcess, token: &str) -> Vec<Value> {
        self.agent_with(paging, card, token, &["--spool", "spool"])
    }

    /// The same with other options.
    fn agent_with(&self, paging: &str, card: &CardProcess, token: &str, more: &[&str]) -> Vec<Value> {
        let card = format!("tcp:{}", card.address);
        let arguments = [
            "agent",
            "--server",
            &self.device,
            "--ca",
            "sekisho-server/certificate.pem",
            "--token",
            token,
            "--card",
            &card,
            "--paging",
            paging,
            "--once",
            "--json",
        ];
        let text = ok(self.folder.path(), &[&arguments, more].concat());
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn openssl(folder: &Path, args: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// OpenSSL's judgement of what the fleet's authority made for the SE.
fn the_certificate_is_good(folder: &Path) {
    let certificate = [
        "x509",
        "-inform",
        "DER",
        "-in",
        "spool/certificate.der",
        "-out",
        "certificate.pem",
    ];
    openssl(folder, &certificate);
    let verified = openssl(
        folder,
        &[
            "verify",
            "-CAfile",
            "sekisho-server/authority.pem",
            "certificate.pem",
        ],
    );
    assert!(verified.contains("OK"), "{verified}");
    let subject = openssl(folder, &["x509", "-in", "certificate.pem", "-noout", "-subject"]);
    assert!(subject.to_uppercase().contains(SE_ID), "{subject}");
}

#[test]
fn a_card_gets_its_identity_its_messages_and_a_certificate() {
    let system = System::start();
    let folder = system.folder.path();
    let (card, token) = system.card();

    // From the factory it has no identity: the first comes over HTTPS, the first poll after it.
    let heard = system.agent(&card, &token);
    let results: Vec<_> = heard
        .iter()
        .map(|line| line["result"].as_str().unwrap())
        .collect();
    assert_eq!(results, ["recovered", "nothing"], "{heard:?}");
    assert_eq!(system.fleet(&["paging", "device", SE_ID])["generation"], 1);

    system.fleet(&["paging", "send", "poll-every", "1", "--group", "3"]);
    assert_eq!(
        system.agent(&card, &token)[0]["detail"],
        "message 1: poll every 1 s"
    );

    system.fleet(&["paging", "send", "generate-keys", "1", "--to", SE_ID]);
    assert_eq!(system.agent(&card, &token)[0]["result"], "new_keys");
    the_certificate_is_good(folder);

    // A new ticket key: the identity under the old one still works, and is changed for one under the new.
    assert_eq!(system.fleet(&["paging", "rotate"])["epoch"], 2);
    assert_eq!(system.agent(&card, &token)[0]["result"], "nothing");
    let status = system.fleet(&["paging", "status"]);
    assert!(status["identities_changed"].as_u64().unwrap() >= 3, "{status}");
    assert_eq!(status["alarms"], serde_json::json!([]));

    let metrics = system.metrics();
    for (name, least) in [
        ("polls_total{signal=\"first\"}", 4),
        ("answers_total", 4),
        ("messages_total", 2),
    ] {
        let name = format!("sekisho_paging_{name} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
        assert!(value.parse::<u32>().unwrap() >= least, "{name}{value}");
    }

    system.fleet(&["paging", "block", SE_ID]);
    let blocked = system.fleet(&["paging", "device", SE_ID]);
    assert_eq!(blocked["blocked"], true);
    drop(card);
    drop(system.server);
}

/// A local server, without database, keystore or root keys: `sekisho paging --local`.
struct Local {
    child: Guarded,
    address: String,
    says: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Local {
    fn command(folder: &Path) -> Command {
        let mut command = Command::new(SEKISHO);
        command
            .args([
                "paging",
                "--local",
                "local.sealed",
                "--paging-address",
                "127.0.0.1:0",
                "--folder",
                "edge",
            ])
            .current_dir(folder)
            .env("SEKISHO_PASSPHRASE", "a passphrase of the edge");
        command
    }

    fn start(folder: &Path) -> Self {
        let mut child = Guarded(
            Self::command(folder)
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut says = BufReader::new(child.0.stderr.take().unwrap()).lines();
        let first = says.next().unwrap().unwrap();
        let address = first.split_whitespace().nth(2).unwrap().to_owned();
        assert!(says.next().unwrap().unwrap().contains("domain 9 for 1 devices"));
        Self { child, address, says }
    }

    fn send(&mut self, message: &str) -> String {
        writeln!(self.child.0.stdin.as_mut().unwrap(), "{message}").unwrap();
        self.says.next().unwrap().unwrap()
    }
}

/// A line without an end is no message, piece by piece; a file of messages without one is refused.
fn what_has_no_end_is_refused(mut local: Local, folder: &Path) {
    let said = local.send(&"x".repeat(600));
    assert!(said.len() < 400 && said.contains("there are update"), "{said}");
    drop(local);
    let messages = folder.join("edge/messages");
    let kept = std::fs::read(&messages).unwrap();
    let file = std::fs::File::options().write(true).open(&messages).unwrap();
    file.set_len(17 << 20).unwrap();
    let output = Local::command(folder).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.len() < 400 && error.contains("longer than"),
        "{error}"
    );
    std::fs::write(&messages, kept).unwrap();
}

/// A folder that is lost: the device is done with orders that are given out again, which its polls say.
fn a_lost_folder_is_noticed(folder: &Path, agent: impl Fn(&str) -> Value) {
    std::fs::rename(folder.join("edge"), folder.join("lost")).unwrap();
    let mut local = Local::start(folder);
    local.send("poll-every 21");
    assert_eq!(agent(&local.address)["result"], "nothing");
    let said = local.says.next().unwrap().unwrap();
    assert!(said.contains("this folder is older than its devices"), "{said}");
    let heard = agent(&local.address);
    assert!(
        heard["detail"].as_str().unwrap().ends_with("poll every 21 s"),
        "{heard}"
    );
    // The jump outlives a kill, and nothing is heard twice.
    drop(local);
    let mut local = Local::start(folder);
    assert_eq!(agent(&local.address)["result"], "nothing");
    local.send("poll-every 22");
    let heard = agent(&local.address);
    assert!(
        heard["detail"].as_str().unwrap().ends_with("poll every 22 s"),
        "{heard}"
    );
    drop(local);
    // The folder is this file's alone.
    std::fs::write(folder.join("edge/messages"), "orders 1 2\npoll-every 3\n").unwrap();
    let output = Local::command(folder).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("a folder of its own"),
        "{error}"
    );
}

/// A folder has one server, of whichever kind: who comes second ends in words, and has touched nothing.
fn a_second_server_is_refused(folder: &Path) {
    let certificate = folder.join("sekisho-server/certificate.pem");
    let mode = || std::fs::metadata(&certificate).unwrap().mode() & 0o777;
    let before = mode();
    let mut second = Command::new(SEKISHO);
    second
        .args([
            "paging",
            "--paging-address",
            "127.0.0.1:0",
            "--paging-node",
            "second",
        ])
        .args(["--folder", "sekisho-server"])
        .current_dir(folder)
        .env("SEKISHO_PASSPHRASE", "a passphrase of the test");
    for (mut second, name) in [(Local::command(folder), "edge"), (second, "sekisho-server")] {
        let mut child = Guarded(
            second
                .stdin(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut said = String::new();
        // A server that came up would say where it listens, and not end.
        BufReader::new(child.0.stderr.take().unwrap())
            .read_line(&mut said)
            .unwrap();
        assert!(said.contains(&format!("another server runs in {name}")), "{said}");
        assert_eq!(child.0.wait().unwrap().code(), Some(1));
    }
    assert_eq!(mode(), before);
}

/// Gives the device to domain 9, takes it back, and gives it there again, before it has polled: what `local.sealed` has then, its domain and generation.
fn delegated_and_replaced(system: &System) -> (Value, u64) {
    let folder = system.folder.path();
    let delegate = |domain: &str, out: &str| {
        let all = ["fleet", "--server", &system.admin, "paging", "delegate", SE_ID];
        let into = [
            "--domain",
            domain,
            "--local-passphrase-file",
            "edge-passphrase",
            "--out",
            out,
        ];
        sekisho(folder, &[&all[..], &into[..]].concat())
    };
    let given = || {
        let device = system.fleet(&["paging", "device", SE_ID]);
        let given = &device["given"];
        (given["domain"].clone(), given["generation"].as_u64().unwrap())
    };
    // A file is made anew with the same keys, and no other domain's is made before the device is taken back.
    assert!(delegate("9", "stolen.sealed").status.success());
    let stolen = given();
    assert_eq!(stolen.0, 9);
    assert!(delegate("9", "renewed.sealed").status.success());
    assert_eq!(given(), stolen);
    let refused = String::from_utf8_lossy(&delegate("11", "other.sealed").stderr).into_owned();
    assert!(
        refused.contains(&SE_ID.to_lowercase()) && refused.contains("recall it first"),
        "{refused}"
    );
    assert!(!folder.join("other.sealed").exists());
    // Behind a recall the keys are others, also before the device has heard of it.
    assert_eq!(system.fleet(&["paging", "recall", SE_ID])["recalled"], 1);
    assert!(delegate("9", "local.sealed").status.success());
    let replaced = given();
    assert!(replaced.1 > stolen.1, "{replaced:?}");
    replaced
}

#[test]
fn a_local_server_takes_a_device_over_triggers_it_and_gives_it_back() {
    let system = System::start();
    let folder = system.folder.path();
    let (card, token) = system.card();
    system.agent(&card, &token);
    std::fs::write(folder.join("edge-passphrase"), "a passphrase of the edge\n").unwrap();
    let replaced = delegated_and_replaced(&system);
    let mut local = Local::start(folder);
    // Until the device has heard of it, the local server does not know its identity; then both answer.
    system.agent(&card, &token);
    let here = |system: &System| {
        let device = system.fleet(&["paging", "device", SE_ID]);
        (device["domain"].clone(), device["generation"].as_u64().unwrap())
    };
    let result = |heard: Vec<Value>| heard[0]["result"].clone();
    assert_eq!(result(system.agent_at(&local.address, &card, &token)), "nothing");
    assert_eq!(result(system.agent(&card, &token)), "nothing");
    assert_eq!(here(&system), replaced);
    assert_eq!(result(system.agent_at(&local.address, &card, &token)), "nothing");

    a_second_server_is_refused(folder);
    let said = local.send("poll-every 7");
    assert!(said.starts_with("message "), "{said}");
    assert!(local.send("nonsense").contains("there are update"));
    let heard = system.agent_at(&local.address, &card, &token);
    assert!(
        heard[0]["detail"].as_str().unwrap().ends_with("poll every 7 s"),
        "{heard:?}"
    );
    // After a kill it knows its devices, and what it has told them.
    drop(local);
    let mut local = Local::start(folder);
    assert_eq!(result(system.agent_at(&local.address, &card, &token)), "nothing");
    let order = |said: &str| said.split([' ', ':']).nth(1).unwrap().parse::<u32>().unwrap();
    assert_eq!(order(&local.send("poll-every 8")), order(&said) + 1);
    system.agent_at(&local.address, &card, &token);
    what_has_no_end_is_refused(local, folder);
    a_lost_folder_is_noticed(folder, |address| {
        system.agent_at(address, &card, &token)[0].clone()
    });

    assert_eq!(system.fleet(&["paging", "recall", SE_ID])["recalled"], 1);
    system.agent(&card, &token);
    assert_eq!(result(system.agent(&card, &token)), "nothing");
    let home = here(&system);
    assert!(home.0 == 0 && home.1 > replaced.1, "{home:?}");
    // Messages of the operator still arrive, and have higher orders.
    system.fleet(&["paging", "send", "poll-every", "9", "--to", SE_ID]);
    let heard = system.agent(&card, &token);
    assert!(
        heard[0]["detail"].as_str().unwrap().ends_with("poll every 9 s"),
        "{heard:?}"
    );
}

#[test]
fn errors_say_what_to_do() {
    let folder = scratch();
    let path = folder.path();
    ok(path, &["hsm", "init"]);
    let output = sekisho(path, &["paging"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--paging-address"));
    let output = sekisho(
        path,
        &[
            "paging",
            "--paging-address",
            "127.0.0.1:0",
            "--paging-database",
            "postgres://nobody@127.0.0.1:1/x",
        ],
    );
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("database"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
