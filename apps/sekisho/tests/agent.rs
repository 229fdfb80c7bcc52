//! The whole way of figure 5 with processes and sockets: a server, `sekisho card` and `sekisho agent`, each of which may be killed.

use crate::process;
use core::time::Duration;
use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use process::{CardProcess, Guarded, SEKISHO, Wire, padded, repository, scratch, send};
use sekisho_hsm::design::{Ceremony, PackOptions};
use sekisho_hsm::{Hsm, PersoFile, ProductFile, SoftHsm};
use sekisho_link::{Custody, SeId};
use sekisho_server::{Certificate, Config, Server};
use serde_json::{Value, json};
use tempfile::TempDir;

const SE_ID: SeId = SeId([0x53, 0x4B, 0, 0, 0, 0, 0, 0, 0, 7]);
/// An SE of the same operator, which stays outside of what most tests do.
const OTHER: SeId = SeId([0x53, 0x4B, 0, 0, 0, 0, 0, 0, 0, 8]);
const P_MOB: &str = "6d6f62";
/// Padding that makes the bulk some 430 blocks long.
const LONG: u32 = 100 * 1024;
/// Commands at which agent or card are killed: one in the middle of the bulk's beginning, two later. Eight commands read the SE first.
const CUTS: [u32; 3] = [40, 150, 300];
const PATIENCE: Duration = Duration::from_secs(30);

/// A server with one campaign for one card, and a directory with what card and agent need.
struct System {
    runtime: tokio::runtime::Runtime,
    server: Option<Server>,
    directory: TempDir,
    campaign: String,
}

impl System {
    /// `padding`: zeros that make the module longer. The card is made as the HSM says.
    fn start(custody: Custody, padding: u32) -> Self {
        let directory = scratch();
        let path = |name: &str| directory.path().join(name);
        let hsm = Arc::new(SoftHsm::generate().unwrap());
        let ceremony = Ceremony::generate().unwrap();
        for (se_id, perso, token) in [
            (SE_ID, "perso.json", "token"),
            (OTHER, "other-perso.json", "other-token"),
        ] {
            let made = PersoFile::new(&*hsm, se_id).unwrap();
            std::fs::write(path(perso), serde_json::to_string(&made).unwrap()).unwrap();
            std::fs::write(path(token), hex::encode(hsm.link_token(se_id).unwrap())).unwrap();
        }
        let product = serde_json::to_string(&ProductFile::new(&ceremony)).unwrap();
        std::fs::write(path("product.json"), product).unwrap();
        let module = std::fs::read(repository("applets/prebuilt/meter-v2.wasm")).unwrap();
        let module = if padding == 0 {
            module
        } else {
            padded(&module, padding)
        };
        let package = ceremony
            .pack(
                &module,
                PackOptions {
                    version: 2,
                    min_previous: 1,
                    custody,
                },
            )
            .unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let config = Config {
            device_address: any,
            admin_address: any,
            database: path("fleet.db"),
            certificate: Certificate::self_signed(&["127.0.0.1"]).unwrap(),
            admin_token: None,
            authority_key: None,
            paging: None,
        };
        let server = runtime.block_on(Server::start(config, hsm)).unwrap();
        std::fs::write(path("ca.pem"), &server.certificate).unwrap();
        let mut system = Self {
            runtime,
            server: Some(server),
            directory,
            campaign: String::new(),
        };
        system.post(
            "devices",
            &json!([{ "se_id": SE_ID.to_string(), "kvn": 0x30 }])
                .to_string()
                .into_bytes(),
        );
        let uploaded = system.post(
            &format!("packages?designer={}", hex::encode(ceremony.designer_public())),
            &package,
        );
        let campaign =
            json!({ "name": "test", "package_id": uploaded["package_id"], "canary": 0, "p_mob": P_MOB });
        let created = system.post("campaigns", &campaign.to_string().into_bytes());
        system.campaign = created["id"].as_str().unwrap().to_owned();
        system
    }

    fn post(&self, path: &str, body: &[u8]) -> Value {
        let server = self.server.as_ref().unwrap();
        let mut response = ureq::post(format!("http://{}/api/v1/{path}", server.admin_address))
            .header("authorization", format!("Bearer {}", server.admin_token))
            .header("content-type", "application/json")
            .send(body)
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let text = response.body_mut().read_to_string().unwrap();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// The campaign as the server shows it.
    fn campaign(&self) -> Value {
        let server = self.server.as_ref().unwrap();
        let path = format!(
            "http://{}/api/v1/campaigns/{}",
            server.admin_address, self.campaign
        );
        let mut response = ureq::get(path)
            .header("authorization", format!("Bearer {}", server.admin_token))
            .call()
            .unwrap();
        serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap()
    }

    fn open_campaign(&self) {
        self.post(&format!("campaigns/{}/start", self.campaign), b"");
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn card(&self, port: u16) -> CardProcess {
        CardProcess::start(
            &self.path("card.flash"),
            port,
            &[
                "--perso",
                self.path("perso.json").to_str().unwrap(),
                "--product",
                self.path("product.json").to_str().unwrap(),
            ],
        )
    }

    /// The same on these lines.
    fn card_on(&self, lines: &[&str]) -> CardProcess {
        let perso = self.path("perso.json");
        let product = self.path("product.json");
        let keys = [
            "--perso",
            perso.to_str().unwrap(),
            "--product",
            product.to_str().unwrap(),
        ];
        CardProcess::start_on(&self.path("card.flash"), lines, &keys)
    }

    fn agent(&self, card: &str) -> Command {
        self.agent_of(&format!("tcp:{card}"))
    }

    fn agent_of(&self, card: &str) -> Command {
        let mut command = self.agent_in_words(card, 10);
        command.arg("--json");
        command
    }

    /// One that waits so many seconds at most.
    fn agent_in_words(&self, card: &str, timeout: u32) -> Command {
        self.agent_with("", card, timeout)
    }

    /// Whose token and spool have names that begin so.
    fn agent_with(&self, whose: &str, card: &str, timeout: u32) -> Command {
        let address = self.server.as_ref().unwrap().device_address;
        let mut command = Command::new(SEKISHO);
        command
            .args(["agent", "--once", "--timeout", &timeout.to_string()])
            .args(["--server", &format!("https://{address}"), "--card", card])
            .arg("--ca")
            .arg(self.path("ca.pem"))
            .arg("--token-file")
            .arg(self.path(&format!("{whose}token")))
            .arg("--spool")
            .arg(self.path(&format!("{whose}spool")))
            .arg("--mob-dir")
            .arg(self.path("mob"))
            .stdin(Stdio::null());
        command
    }

    /// One turn: exit code and result.
    fn turn(&self, card: &str) -> (i32, Value) {
        let output = self.agent(card).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let result = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code().unwrap(), result)
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop());
        }
    }
}

/// What the meter answers: its version, and its register after adding.
fn add(card: &CardProcess, amount: u8) -> (u8, Vec<u8>) {
    let mut reader = card.reader();
    assert_eq!(
        send(&mut reader, b"\x00\xA4\x04\x00\x07\xF0SKOS\x00\x01").1,
        0x9000
    );
    let (version, sw) = send(&mut reader, &[0x80, 0x10, 0, 0, 0]);
    assert_eq!(sw, 0x9000);
    let (register, sw) = send(&mut reader, &[0x80, 0x22, 0, 0, 2, 0, amount, 0]);
    assert_eq!(sw, 0x9000);
    (*version.last().unwrap(), register)
}

#[test]
fn both_custody_variants_update_a_card_from_offer_to_verdict() {
    for custody in [Custody::Hsm, Custody::DesignSystem] {
        let system = System::start(custody, 0);
        let card = system.card(0);
        let (version, register) = add(&card, 40);
        assert_eq!((version, register.last()), (1, Some(&40)));
        // The campaign is not open yet: the bulk is loaded, the permission is not given.
        let (code, result) = system.turn(&card.address);
        if result["result"] == "not_yet" {
            assert_eq!(code, 75);
            assert_eq!(
                std::fs::read(system.path(&format!("mob/{}.pmob", system.campaign))).unwrap(),
                b"mob"
            );
        } else {
            assert_eq!((code, &result["result"]), (0, &json!("nothing")));
        }
        system.open_campaign();
        let (code, result) = system.turn(&card.address);
        assert_eq!(
            (code, &result["result"]),
            (0, &json!("activated")),
            "{custody:?}: {result}"
        );
        assert_eq!(
            (&result["version_before"], &result["version_after"]),
            (&json!(1), &json!(2))
        );
        assert_eq!(result["access"], "allowed");
        let (version, register) = add(&card, 2);
        assert_eq!(
            (version, register.last()),
            (2, Some(&42)),
            "the state survives the update"
        );
        assert_eq!(
            std::fs::read(system.path(&format!("mob/{}.pmob", system.campaign))).unwrap(),
            b"mob"
        );
        let (code, result) = system.turn(&card.address);
        assert_eq!((code, &result["result"]), (0, &json!("nothing")), "{result}");
    }
}

#[test]
fn the_agent_killed_again_and_again_comes_to_its_end() {
    let system = System::start(Custody::Hsm, LONG);
    system.open_campaign();
    let card = system.card(0);
    let wire = Wire::new(card.address.clone(), CUTS.to_vec());
    for _ in CUTS {
        let mut agent = Guarded(
            system
                .agent(&wire.address)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let go_on = wire.cuts.recv_timeout(PATIENCE).unwrap();
        agent.0.kill().unwrap();
        agent.0.wait().unwrap();
        go_on.send(()).unwrap();
    }
    let (code, result) = system.turn(&wire.address);
    assert_eq!((code, &result["result"]), (0, &json!("activated")), "{result}");
    assert!(result["resumed_at"].as_u64().unwrap() > 100, "{result}");
    assert_eq!(add(&card, 1).0, 2);
}

#[test]
fn a_card_that_loses_power_again_and_again_is_updated_in_one_turn() {
    let system = System::start(Custody::Hsm, LONG);
    system.open_campaign();
    let mut card = system.card(0);
    let port = card.port();
    let wire = Wire::new(card.address.clone(), CUTS.to_vec());
    let agent = system
        .agent(&wire.address)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let agent = thread::spawn(move || agent.wait_with_output().unwrap());
    for _ in CUTS {
        let go_on = wire.cuts.recv_timeout(PATIENCE).unwrap();
        card.kill();
        card = system.card(port);
        go_on.send(()).unwrap();
    }
    let output = agent.join().unwrap();
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &result["result"]),
        (Some(0), &json!("activated")),
        "{result}"
    );
    assert!(result["resumed_at"].as_u64().unwrap() > 100, "{result}");
    assert_eq!(add(&card, 1).0, 2);
}

/// A card of another design system: it refuses what this one's designer has signed, proves it, and the server lets it try again, then no more.
/// Carries bytes from and to a card, and hangs up after so many of the card's: what was under way is lost, and nobody knows what became of it.
fn cut_after(card: String, cuts: Vec<usize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut cuts = cuts.into_iter();
        while let Ok((mut device, _)) = listener.accept() {
            let mut card = TcpStream::connect(&card).unwrap();
            for stream in [&card, &device] {
                stream.set_nodelay(true).unwrap();
            }
            let (mut to, mut from) = (card.try_clone().unwrap(), device.try_clone().unwrap());
            let up = thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            let limit = cuts.next().map_or(u64::MAX, |cut| cut as u64);
            let _ = std::io::copy(&mut Read::by_ref(&mut card).take(limit), &mut device);
            let _ = device.shutdown(Shutdown::Both);
            let _ = card.shutdown(Shutdown::Both);
            up.join().unwrap();
        }
    });
    address
}

/// The agent over T=1 and over SPI, each protocol in its own frames, and hung up on again and again: it asks the SE what has become of what it sent, and the update comes to its end, once.
#[test]
fn an_update_comes_over_each_protocols_own_frames() {
    for wire in ["t1", "spi"] {
        let system = System::start(Custody::Hsm, 0);
        system.open_campaign();
        let card = system.card_on(&[&format!("{wire}=tcp:127.0.0.1:0")]);
        let address = card.says(wire).replace("tcp:", "");
        let address = cut_after(address, vec![900, 2_500, 4_000]);
        let transport = format!("{wire}=tcp:{address}");
        let mut turns = 0;
        let result = loop {
            let output = system.agent_of(&transport).output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            let result: Value = serde_json::from_str(&said).unwrap();
            turns += 1;
            assert!(turns < 8, "{wire}: {result}");
            if result["result"] == "activated" {
                break result;
            }
        };
        assert_eq!(
            (
                &result["version_before"],
                &result["version_after"],
                &result["access"]
            ),
            (&json!(1), &json!(2), &json!("allowed")),
            "{wire}"
        );
        let (code, result) = {
            let output = system.agent_of(&transport).output().unwrap();
            let result: Value = serde_json::from_slice(&output.stdout).unwrap();
            (output.status.code(), result)
        };
        assert_eq!(
            (code, &result["result"]),
            (Some(0), &json!("nothing")),
            "{wire}: {result}"
        );
        println!("{wire}: {turns} turns");
    }
}

/// Turns of an agent whose SE obeys another designer than the package's: how the last one ends, and how many there were.
fn refused(system: &System, card: &CardProcess) -> (Option<i32>, usize) {
    let mut codes = Vec::new();
    loop {
        let output = system.agent(&card.address).output().unwrap();
        codes.push(output.status.code());
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("\"sw\":\"9501\""), "{said}");
        assert!(codes.len() < 10, "{codes:?}");
        if codes.last() != Some(&Some(75)) {
            break;
        }
    }
    assert!(codes.len() > 1, "{codes:?}");
    (codes[codes.len() - 1], codes.len())
}

/// Where nobody has taken the package it may be the package's fault: the target is given up, and the device goes on. Where another SE has, the device is blocked.
#[test]
fn a_card_that_refuses_is_to_try_again_and_then_given_up_or_blocked() {
    let mut system = System::start(Custody::Hsm, 0);
    system.open_campaign();
    let text = std::fs::read_to_string(system.path("product.json")).unwrap();
    let mut product: Value = serde_json::from_str(&text).unwrap();
    product["designer"] = json!(hex::encode(Ceremony::generate().unwrap().designer_public()));
    std::fs::write(system.path("product.json"), product.to_string()).unwrap();
    let card = system.card(0);
    let (code, turns) = refused(&system, &card);
    assert_eq!(code, Some(0));
    let failure = |system: &System| {
        let shown = system.campaign()["failures"][0].take();
        (shown["proved"].clone(), shown["reports"].clone())
    };
    assert_eq!(failure(&system), (json!(false), json!(turns)));

    let other = json!([{ "se_id": OTHER.to_string(), "kvn": 0x30 }]);
    system.post("devices", other.to_string().as_bytes());
    let both = json!({ "name": "both", "package_id": system.campaign()["package_id"], "canary": 0,
        "targets": [SE_ID.to_string(), OTHER.to_string()] });
    let both = system.post("campaigns", both.to_string().as_bytes());
    system.campaign = both["id"].as_str().unwrap().to_owned();
    system.open_campaign();
    std::fs::write(system.path("other-product.json"), text).unwrap();
    let [perso, product] = ["other-perso.json", "other-product.json"].map(|name| system.path(name));
    let more = [
        "--perso",
        perso.to_str().unwrap(),
        "--product",
        product.to_str().unwrap(),
    ];
    let others = CardProcess::start(&system.path("other.flash"), 0, &more);
    let at = format!("tcp:{}", others.address);
    let output = system.agent_with("other-", &at, 10).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(refused(&system, &card).0, Some(77));
    assert_eq!(failure(&system), (json!(true), json!(0)));
    assert_eq!(add(&card, 1).0, 1);
}

/// A hundred blocks a turn, the card switched off between the turns.
#[test]
fn a_load_goes_on_turn_by_turn() {
    let system = System::start(Custody::Hsm, LONG);
    system.open_campaign();
    let mut turns = Vec::new();
    loop {
        let card = system.card(0);
        let output = system
            .agent(&card.address)
            .args(["--blocks", "100"])
            .output()
            .unwrap();
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        if result["result"] != "loading" {
            assert_eq!(
                (output.status.code(), &result["result"]),
                (Some(0), &json!("activated")),
                "{result}"
            );
            assert_eq!(add(&card, 1).0, 2);
            break;
        }
        assert_eq!(output.status.code(), Some(75), "{result}");
        assert_eq!(add(&card, 1).0, 1);
        turns.push(result["next_block"].as_u64().unwrap());
        card.kill();
    }
    assert_eq!(turns, [100, 200, 300, 400]);
}

/// Options and their values.
type Options<'a> = &'a [(&'a str, &'a str)];

impl System {
    /// Runs the agent with these options and no others; exit code and what it says.
    fn run(&self, card: &str, options: Options<'_>) -> (i32, String) {
        let address = self.server.as_ref().unwrap().device_address;
        let mut command = Command::new(SEKISHO);
        command.args([
            "agent",
            "--once",
            "--server",
            &format!("https://{address}"),
            "--card",
            card,
        ]);
        command
            .args(options.iter().flat_map(|(option, value)| [option, value]))
            .current_dir(self.directory.path());
        let output = command.output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_changed() {
    let system = System::start(Custody::Hsm, 0);
    system.open_campaign();
    let card = system.card(0);
    let other = Certificate::self_signed(&["127.0.0.1"]).unwrap();
    std::fs::write(system.path("other.pem"), other.chain).unwrap();
    std::fs::write(system.path("other-token"), "00000000000000000000000000000000").unwrap();
    std::fs::write(system.path("no-token"), "hello").unwrap();
    let tcp = format!("tcp:{}", card.address);
    let (ca, token) = (("--ca", "ca.pem"), ("--token-file", "token"));
    let cases: [(&str, Options<'_>, i32, &str); 9] = [
        (&tcp, &[("--ca", "other.pem"), token], 1, "certificate"),
        (&tcp, &[("--ca", "no-token"), token], 2, "no certificate"),
        (
            &tcp,
            &[("--ca", "missing.pem"), token],
            2,
            "cannot read the authority file missing.pem",
        ),
        (&tcp, &[ca, ("--token-file", "other-token")], 1, "401"),
        (&tcp, &[ca, ("--token-file", "no-token")], 2, "32 hexadecimal"),
        (&tcp, &[ca], 2, "--token"),
        ("usb:1", &[ca, token], 2, "pcsc:READER"),
        ("tcp:127.0.0.1:1", &[ca, token], 1, "sekisho card --listen"),
        (&tcp, &[ca, token, ("--limit", "0")], 2, "--limit"),
    ];
    for (at, options, expected, words) in cases {
        let (code, error) = system.run(at, options);
        assert_eq!(code, expected, "{at} {options:?}: {error}");
        assert!(
            error.to_lowercase().contains(&words.to_lowercase()),
            "{at} {options:?}: {error}"
        );
        assert!(
            !error.contains("panicked") && !error.contains("0000000000000000000000"),
            "{error}"
        );
    }
    // The server was told of another key set: both are named, and nobody is blocked.
    let key_set = |kvn: u8| {
        system.post(
            &format!("devices/{SE_ID}/key-set"),
            &json!({ "kvn": kvn }).to_string().into_bytes(),
        )
    };
    key_set(0x35);
    let (code, error) = system.run(&tcp, &[ca, token]);
    let words = "the SE has key set 30, and the server knows it by key set 35";
    assert!(code == 75 && error.contains(words), "{code} {error}");
    key_set(0x30);
    assert_eq!(add(&card, 1).0, 1);
    assert_eq!(
        system.turn(&card.address).1["result"],
        "activated",
        "and it still works"
    );
}

/// What passes by itself is 75 with a time, what does not is 1: nobody listens, the server's certificate is another one.
#[test]
fn a_server_that_is_not_there_is_tried_again_later() {
    let mut system = System::start(Custody::Hsm, 0);
    let card = system.card(0);
    let other = Certificate::self_signed(&["127.0.0.1"]).unwrap();
    std::fs::write(system.path("other.pem"), &other.chain).unwrap();
    std::fs::copy(system.path("ca.pem"), system.path("right.pem")).unwrap();
    std::fs::copy(system.path("other.pem"), system.path("ca.pem")).unwrap();
    let (code, result) = system.turn(&card.address);
    assert_eq!((code, result.get("retry_after")), (1, None), "{result}");
    std::fs::copy(system.path("right.pem"), system.path("ca.pem")).unwrap();
    assert_eq!(system.turn(&card.address).0, 0);

    let mut agent = system.agent(&card.address);
    let server = system.server.take().unwrap();
    system.runtime.block_on(server.stop());
    let output = agent.output().unwrap();
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(75), "{result}");
    assert_eq!(
        (&result["result"], &result["retry_after"]),
        (&json!("error"), &json!(60)),
        "{result}"
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("nobody listens"), "{said}");
}

/// With --once no paging server is waited for without end: each is asked, and then it is said which were silent.
#[test]
fn paging_servers_that_are_silent_are_tried_again_later() {
    let system = System::start(Custody::Hsm, 0);
    let card = system.card(0);
    let silent = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let addresses = silent
        .each_ref()
        .map(|socket| socket.local_addr().unwrap().to_string());
    for is_json in [true, false] {
        let mut command = system.agent_in_words(&format!("tcp:{}", card.address), 1);
        command.args(["--paging", &addresses.join(",")]);
        if is_json {
            command.arg("--json");
        }
        let begun = std::time::Instant::now();
        let output = command.output().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(75), "{said}");
        for address in &addresses {
            let words = format!("no answer from the paging server {address}");
            assert!(said.contains(&words), "{said}");
        }
        assert_eq!(said.contains(r#""retry_after":60"#), is_json, "{said}");
    }
    for socket in silent {
        socket.set_nonblocking(true).unwrap();
        assert!(socket.recv(&mut [0; 64]).is_ok(), "each was asked");
    }
}
