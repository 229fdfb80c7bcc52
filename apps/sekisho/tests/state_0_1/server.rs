//! The management server's folder, and what goes on with it: campaigns, staged updates, a status that was not sent.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cards::{loader_state, meter, rests, se_id};
use crate::frozen::{self, PASSPHRASE};
use crate::process::{CardProcess, Guarded, SEKISHO, repository};

/// The campaigns: custody 04 for the SEs 1, 2, 4, 5; custody 03 for SE 3.
pub(crate) const CAMPAIGN_04: &str = "634ff653a1d1e4eb";
const CAMPAIGN_03: &str = "a28e19a5413d0e6e";

/// Today's server on a copy of the frozen folder.
pub(crate) struct System {
    pub(crate) folder: TempDir,
    _server: Guarded,
    device: String,
    admin: String,
    pub(crate) paging: String,
}

/// Today's `sekisho` in a folder: exit code, standard output, standard error.
pub(crate) fn sekisho(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(SEKISHO)
        .args(arguments)
        .current_dir(folder)
        .env("SEKISHO_PASSPHRASE", PASSPHRASE)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// The same, where it has to succeed: standard output.
pub(crate) fn ok(folder: &Path, arguments: &[&str]) -> String {
    let (code, out, error) = sekisho(folder, arguments);
    assert_eq!(code, 0, "{arguments:?}: {error}");
    out
}

impl System {
    pub(crate) fn start() -> Self {
        let folder = frozen::copy();
        let any = "127.0.0.1:0";
        let mut server = Guarded(
            Command::new(SEKISHO)
                .args(["server", "--folder", "server", "--keystore", "keystore.sealed"])
                .args(["--device-address", any, "--admin-address", any])
                .args(["--paging-address", any])
                .current_dir(folder.path())
                .env("SEKISHO_PASSPHRASE", PASSPHRASE)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut lines = BufReader::new(server.0.stderr.take().unwrap()).lines();
        let mut said = |name: &str, number: usize| {
            let line = lines
                .find_map(|line| line.ok().filter(|line| line.starts_with(name)))
                .unwrap_or_else(|| panic!("the server does not start: no {name}"));
            let word = line.split_whitespace().nth(number).unwrap();
            word.trim_end_matches('/').to_owned()
        };
        let (device, admin, paging) = (said("devices", 1), said("administration", 1), said("paging", 2));
        Self {
            folder,
            _server: server,
            device,
            admin,
            paging,
        }
    }

    pub(crate) fn fleet(&self, arguments: &[&str]) -> Value {
        let head = [
            "fleet",
            "--server",
            &self.admin,
            "--token-file",
            "server/admin.token",
        ];
        let out = ok(self.folder.path(), &[&head, arguments].concat());
        serde_json::from_str(&out).unwrap_or(Value::Null)
    }

    /// The card of SE `number`, on its copy of the frozen flash.
    pub(crate) fn card(&self, flash: &str) -> CardProcess {
        CardProcess::start(&self.folder.path().join("cards").join(flash), 0, &[])
    }

    /// One turn of today's agent, with the frozen spool: exit code and results.
    pub(crate) fn agent(&self, number: u8, card: &CardProcess, more: &[&str]) -> (i32, Vec<Value>) {
        let tokens: Value = serde_json::from_str(&frozen::text("tokens.json")).unwrap();
        let token = tokens[se_id(number)].as_str().unwrap();
        let (card, spool) = (format!("tcp:{}", card.address), format!("spools/{number}"));
        let arguments = [
            &["agent", "--once", "--json", "--server", &self.device][..],
            &["--ca", "server/certificate.pem", "--token", token],
            &["--card", &card, "--spool", &spool],
            more,
        ];
        let (code, out, error) = sekisho(self.folder.path(), &arguments.concat());
        let results: Vec<Value> = out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!(!results.is_empty(), "{error}");
        (code, results)
    }
}

#[test]
fn the_server_goes_on_with_its_campaigns() {
    let system = System::start();
    let show = |id: &str| system.fleet(&["show", id]);
    let counts = |id: &str| {
        let campaign = show(id);
        assert_eq!(campaign["state"], "running", "{campaign}");
        let of = |state: &str| campaign["canary"][state].as_u64().unwrap();
        (of("updated"), of("authorised"))
    };
    assert_eq!(counts(CAMPAIGN_04), (1, 3));
    assert_eq!(counts(CAMPAIGN_03), (0, 1));
    let devices = system.fleet(&["devices"]);
    let versions: Vec<_> = devices["devices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|device| {
            (
                device["se_id"].as_str().unwrap(),
                device["version"].as_u64().unwrap(),
            )
        })
        .collect();
    let ids: Vec<_> = (1..=6).map(se_id).collect();
    let expected: Vec<_> = ids
        .iter()
        .map(|id| (&**id, u64::from(id == &ids[0]) * 2))
        .collect();
    assert_eq!(versions, expected);
    // Registered again, each device has the link token that it had.
    let all: Vec<&str> = ids.iter().map(|id| &**id).collect();
    let registered = system.fleet(&[&["register"], &all[..]].concat());
    let tokens: Value = serde_json::from_str(&frozen::text("tokens.json")).unwrap();
    for device in registered["devices"].as_array().unwrap() {
        assert_eq!(device["link_token"], tokens[device["se_id"].as_str().unwrap()]);
    }
    let kinds = |campaign| {
        let events = system.fleet(&["events", "--campaign", campaign]);
        events.to_string()
    };
    assert!(kinds(CAMPAIGN_04).contains("version 1 to 2"));
    assert!(kinds(CAMPAIGN_03).contains("authorised"));
}

/// What DF20 says of what is staged: 01 begun, 02 complete; and the next block.
fn staged(card: &CardProcess) -> (u8, u16) {
    let state = loader_state(&mut card.reader());
    (state.staging as u8, state.next_block)
}

#[test]
fn staged_updates_are_written_to_their_end_and_the_card_takes_a_new_one() {
    let system = System::start();
    system.pack_for_today();
    for (number, flash, campaign, at) in [
        (2, "staged-04.flash", CAMPAIGN_04, (1, 19)),
        (3, "staged-03.flash", CAMPAIGN_03, (1, 36)),
        (4, "complete.flash", CAMPAIGN_04, (2, 43)),
    ] {
        let card = system.card(flash);
        assert_eq!(staged(&card), at, "{flash}");
        rests(&card);
        let (_, results) = system.agent(number, &card, &[]);
        let (result, resumes) = (&results[0], at.0 == 1);
        assert_eq!(result["campaign"], campaign, "{flash}");
        assert_eq!(
            result["resumed_at"],
            json!(if resumes { at.1 } else { 0 }),
            "{flash}"
        );
        assert_eq!(
            (&result["result"], &result["sw"]),
            (&json!("refused"), &json!("9505")),
            "{flash}: {result}"
        );
        rests(&card);
        assert_eq!(staged(&card).0, 2, "{flash}: what is staged stays so");
    }
    // A part of today's, signed with the ceremony file of then.
    for campaign in [CAMPAIGN_04, CAMPAIGN_03] {
        if system.fleet(&["show", campaign])["state"] != "done" {
            system.fleet(&["do", "abort", campaign]);
        }
    }
    let new = system.campaign_for_today(&[1, 2, 3, 4]);
    // The records are the part's, whatever its ABI: SE 1's register stood at 40.
    for (number, flash, register) in [
        (1, "fleet.flash", 40),
        (2, "staged-04.flash", 0),
        (3, "staged-03.flash", 0),
        (4, "complete.flash", 0),
    ] {
        let card = system.card(flash);
        let (code, results) = system.agent(number, &card, &[]);
        assert_eq!(
            (code, &results[0]["result"]),
            (0, &json!("activated")),
            "{flash}: {results:?}"
        );
        assert_eq!(results[0]["campaign"], new);
        assert_eq!(loader_state(&mut card.reader()).version, 3, "{flash}");
        assert_eq!(meter(&card, 4), (3, register + 4), "{flash}: the state survives");
    }
}

impl System {
    /// `update-today.skpk`: today's meter as version 3.
    fn pack_for_today(&self) {
        let module = repository("applets/prebuilt/meter-v2.wasm");
        let pack = ["design", "pack", module.to_str().unwrap(), "--version", "3"];
        let more = ["--min-previous", "1", "--out", "update-today.skpk"];
        ok(self.folder.path(), &[&pack[..], &more].concat());
    }

    /// A campaign with it, started.
    fn campaign_for_today(&self, numbers: &[u8]) -> String {
        let designer = crate::secrets::designer();
        let uploaded = self.fleet(&["upload", "update-today.skpk", "--designer", &designer]);
        let package_id = uploaded["package_id"].as_str().unwrap();
        let canary = numbers.len().to_string();
        let mut create = vec![
            "create",
            "--name",
            "today",
            "--package-id",
            package_id,
            "--canary",
            &canary,
        ];
        let ids: Vec<_> = numbers.iter().map(|number| se_id(*number)).collect();
        ids.iter().for_each(|id| create.extend(["--target", id]));
        let id = self.fleet(&create)["id"].as_str().unwrap().to_owned();
        self.fleet(&["do", "start", &id]);
        id
    }
}

#[test]
fn a_status_that_was_not_sent_is_sent() {
    let system = System::start();
    let card = system.card("unreported.flash");
    let report = system.folder.path().join("spools/5/report");
    assert!(report.exists());
    let (code, results) = system.agent(5, &card, &[]);
    assert_eq!(
        (code, &results[0]["result"]),
        (0, &json!("activated")),
        "{results:?}"
    );
    assert_eq!(
        (&results[0]["version_before"], &results[0]["version_after"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(results[0]["access"], "allowed");
    assert!(!report.exists());
    let campaign = system.fleet(&["show", CAMPAIGN_04]);
    assert_eq!(campaign["canary"]["updated"], 2, "{campaign}");
}
