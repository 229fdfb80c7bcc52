//! Paging's KIND 02 at an agent that has a gateway: a TLS session of the SE beside the agent's own HTTPS, in which the server reads what a sensor of the device has said.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{SE_ID, System, ok};
use crate::folder::write_folder;
use crate::pki::Pki;
use crate::process::{CardProcess, Guarded, SEKISHO, padded, repository};

/// What makes the sensor's file: 32 bytes, which anybody may write and read. The key is that of the SE for changes of its files.
const SENSOR_FILE: &str = "select F0534B4F530401\nauthenticate 1 KEY\n> 00E0000016 6214 80020020 82020121 83020015 880128 8C03030000\n< 9000\n";
/// The seed's last sentence: SELECT and READ BINARY of what the sensor has said.
const SCRIPT: &str =
    "select F0534B4F530401\n> 00A4020C020015\n< 9000\n> 00B0000020\n< 32312E35203F3F ... 9000\n";
const READING: &str = "32312E35203F3F";

/// `sekisho tls-server` on a port of its own.
fn serve(pki: &Pki, folder: &Path, script: &str) -> (Guarded, String) {
    let mut command = Command::new(SEKISHO);
    command.args(["tls-server", "--listen", "127.0.0.1:0", "--once", "--json"]);
    for (option, text) in [
        ("--certificate", &pki.server.pem),
        ("--key", &pki.server.key.serialize_pem()),
        ("--client-ca", &pki.authority.pem),
        ("--script", &script.to_owned()),
    ] {
        let path = folder.join(option);
        fs::write(&path, text).unwrap();
        command.arg(option).arg(path);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Guarded(command.spawn().unwrap());
    let mut lines = BufReader::new(child.0.stderr.as_mut().unwrap()).lines();
    let address = lines
        .find_map(|line| Some(line.unwrap().strip_prefix("listening on ")?.to_owned()))
        .unwrap();
    (child, address)
}

fn ended(child: &mut Child) -> Value {
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

impl System {
    /// A card with a TLS Manager, and a file for a sensor.
    fn card_with_sensor(&self, pki: &Pki) -> (CardProcess, String) {
        let folder = self.folder.path();
        write_folder(&folder.join("tls"), pki);
        let [perso, product, tls] = ["perso.json", "product.json", "tls"].map(|name| folder.join(name));
        let of = |path: &Path| path.to_str().unwrap().to_owned();
        let (perso, product, tls) = (of(&perso), of(&product), of(&tls));
        let card = CardProcess::start(
            &folder.join("card.flash"),
            0,
            &["--perso", &perso, "--product", &product, "--tls", &tls],
        );
        let registered = self.fleet(&["register", SE_ID]);
        let token = registered["devices"][0]["link_token"].as_str().unwrap();
        self.fleet(&["paging", "register", SE_ID]);
        let key = ok(folder, &["hsm", "file-key", "--external", "--se-id", SE_ID]);
        fs::write(folder.join("make"), SENSOR_FILE.replace("KEY", key.trim())).unwrap();
        let reader = [
            "reader",
            "--card",
            &format!("tcp:{}", card.address),
            "run",
            "make",
        ];
        ok(folder, &reader);
        (card, token.to_owned())
    }
}

impl System {
    /// A campaign for every SE, whose bulk is some hundred blocks long.
    fn start_campaign(&self) {
        let folder = self.folder.path();
        let module = fs::read(repository("applets/prebuilt/meter-v2.wasm")).unwrap();
        fs::write(folder.join("update.wasm"), padded(&module, 24 << 10)).unwrap();
        ok(folder, &["design", "pack", "update.wasm", "--version", "2"]);
        let ceremony = fs::read_to_string(folder.join("ceremony.txt")).unwrap();
        let designer = ceremony
            .lines()
            .find_map(|line| line.strip_prefix("designer"))
            .unwrap()
            .trim();
        let uploaded = self.fleet(&["upload", "update.skpk", "--designer", designer]);
        let package = uploaded["package_id"].as_str().unwrap();
        let created = self.fleet(&["create", "--name", "meter 2", "--package-id", package]);
        self.fleet(&["do", "start", created["id"].as_str().unwrap()]);
    }
}

/// The SE takes a broadcast update, has a session with the gateway and a sensor written down, all at the same time, from one device.
#[test]
fn a_session_and_an_update_go_on_at_the_same_time() {
    let (system, pki) = (System::start(), Pki::new());
    let folder = system.folder.path();
    let (card, token) = system.card_with_sensor(&pki);
    let sensor = ["--sensor", "echo '21.5 ??'", "--every", "1s"];
    system.agent_with(&system.paging, &card, &token, &sensor);
    // The message that asks for a session comes before the campaign's own.
    system.fleet(&["paging", "send", "open-https", "0", "--to", SE_ID]);
    system.start_campaign();
    let reads = "> 00B0000020\n< 32312E35203F3F ... 9000\n".repeat(150);
    let script = format!("select F0534B4F530401\n> 00A4020C020015\n< 9000\n{reads}");
    let (mut server, address) = serve(&pki, folder, &script);
    let options = ["--gateway", &address];
    let lines = system.agent_with(&system.paging, &card, &token, &[&options[..], &sensor].concat());
    let of = |result: &str| lines.iter().find(|line| line["result"] == result);
    let update = of("activated").unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!(
        (&update["version_after"], &update["resumed_at"]),
        (&2.into(), &0.into())
    );
    let session = of("session").unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!(session["answered"], 152, "{lines:?}");
    let served = ended(&mut server.0);
    assert_eq!(served["as_expected"], true, "{served}");
}

fn results(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| line["result"].as_str().unwrap())
        .collect()
}

#[test]
fn a_sensor_is_read_inside_the_se_by_a_server_that_paging_has_called_for() {
    let (system, pki) = (System::start(), Pki::new());
    let folder = system.folder.path();
    let (card, token) = system.card_with_sensor(&pki);
    // The first run gets an identity; a reading is written down in it.
    let sensor = ["--sensor", "echo '21.5 ??'", "--every", "1s"];
    let lines = system.agent_with(&system.paging, &card, &token, &sensor);
    let mut said = results(&lines);
    said.sort_unstable();
    assert_eq!(said, ["nothing", "recovered", "sensor"], "{lines:?}");

    // The gateway cannot be reached: the agent's own HTTPS does not care.
    let open = ["paging", "send", "open-https", "0", "--to", SE_ID];
    system.fleet(&open);
    let lines = system.agent_with(&system.paging, &card, &token, &["--gateway", "127.0.0.1:1"]);
    assert_eq!(results(&lines), ["message", "nothing", "session"], "{lines:?}");
    let why = lines[2]["error"].as_str().unwrap();
    assert!(why.contains("cannot reach the server at 127.0.0.1:1"), "{why}");

    let (mut server, address) = serve(&pki, folder, SCRIPT);
    system.fleet(&open);
    let trace = ["--gateway", &address, "--trace", "trace"];
    let lines = system.agent_with(&system.paging, &card, &token, &[&trace[..], &sensor].concat());
    let session = lines.iter().find(|line| line["result"] == "session").unwrap();
    assert_eq!(
        (&session["ended"], &session["answered"]),
        (&"by_se".into(), &3.into()),
        "{lines:?}"
    );
    assert!(results(&lines).contains(&"nothing"), "{lines:?}");
    let served = ended(&mut server.0);
    assert_eq!(served["as_expected"], true, "{served}");
    let read = served["commands"][2]["received"].as_str().unwrap();
    assert_eq!(read, &format!("{READING:0<64}9000"));
    // What went where, by name, and nothing of what was in it.
    let trace = fs::read_to_string(folder.join("trace")).unwrap();
    for what in [
        "OPEN, peer 1",
        ": ClientHello",
        "ServerHello, ",
        "record of application_data",
    ] {
        assert!(trace.contains(what), "{what}: {trace}");
    }
    assert!(!trace.contains("21.5") && !trace.contains(READING), "{trace}");
    // Without a gateway the same message is HTTPS alone, as it was.
    system.fleet(&open);
    assert_eq!(
        results(&system.agent_with(&system.paging, &card, &token, &[])),
        ["message", "nothing"]
    );
}
