//! SEs that would be right to refuse a package: nothing leaves for them, they spoil no campaign, and they are no canaries (broadcast update, 4.4).

use crate::support;
use sekisho_apdu::{StatusWord, Writer};
use sekisho_hsm::SoftHsm;
use sekisho_keys::p256sig::SigningKey;
use sekisho_link::{
    Access, Campaign, Equ, Manifest, Outcome, Proof, Receipt, Refusal, SeId, States, Status, Verdict,
    Version, Wants, codes,
};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use support::{Answer, Fixture, package_by, package_of, public, receipt_of, refusal_of, state};

/// SE n of the fleet.
const fn se(number: u8) -> SeId {
    SeId([number; 10])
}

async fn start(folder: &Path, devices: u8) -> Fixture {
    let f = Fixture::start(folder, &Arc::new(SoftHsm::generate().unwrap())).await;
    let register = |number| json!({ "se_id": se(number).to_string(), "kvn": 0x30 });
    let devices: Vec<_> = (0..devices).map(register).collect();
    f.admin("/api/v1/devices", json!(devices).to_string().as_bytes());
    f
}

/// A campaign and what it brings.
#[derive(Clone, Copy)]
struct Of {
    campaign: Campaign,
    manifest: Manifest,
}

impl Fixture {
    /// A campaign for these SEs, in this order, which runs and which one failure would pause.
    fn run(&self, what: (u8, u32, u32), ses: &[u8], canary: usize) -> Of {
        self.run_by(package_of(what.0, what.1, what.2), "", ses, canary)
    }

    /// The same of this package, uploaded with more said of it.
    fn run_by(
        &self,
        (package, manifest, designer): (Vec<u8>, Manifest, SigningKey),
        said: &str,
        ses: &[u8],
        canary: usize,
    ) -> Of {
        let path = format!("/api/v1/packages?designer={}{said}", public(&designer));
        let uploaded = self.admin(&path, &package);
        let targets: Vec<_> = ses.iter().map(|number| se(*number).to_string()).collect();
        let wanted = json!({
            "name": "test", "package_id": uploaded["package_id"], "canary": canary, "success_threshold": 100, "attempts_max": 1,
            "error_threshold": 1, "targets": targets,
        });
        let made = self.admin("/api/v1/campaigns", wanted.to_string().as_bytes());
        let id = made["id"].as_str().unwrap();
        self.admin(&format!("/api/v1/campaigns/{id}/start"), b"");
        let campaign = id.parse().unwrap();
        Of { campaign, manifest }
    }

    /// EQU of an SE with these versions of part and keys.
    fn asks(&self, number: u8, of: Of, sequence_counter: u32, versions: [u32; 2]) -> Answer {
        let [part, keys] = versions;
        let equ = Equ {
            version: Version::Two,
            se_id: se(number),
            campaign: of.campaign,
            kvn: 0x30,
            scp_parameter: 0x70,
            sequence_counter,
            wants: Wants::BOTH,
            pauses: 0,
            proof: &[],
            states: States::new(&[state(1, part), state(2, keys)]).unwrap(),
        };
        let mut buffer = [0; Equ::MAX_LEN];
        let mut out = Writer::new(&mut buffer);
        equ.encode(&mut out).unwrap();
        let path = format!("/device/v2/{}/equ", se(number));
        self.post(&path, &self.link_token(se(number)), out.written())
    }

    /// The SE takes what the campaign brings, and its device reports it.
    fn takes(&self, number: u8, of: Of, previous_version: u32) -> Access {
        let receipt = Receipt {
            action: codes::ACTION_ACTIVATE,
            target: of.manifest.target,
            campaign: of.campaign,
            previous_version,
            version: of.manifest.version,
            digest: of.manifest.digest,
            mac: [0; 16],
        };
        self.says(
            number,
            of,
            Proof::Receipt(receipt_of(&self.hsm, se(number), receipt)),
        )
    }

    /// The SE refuses block 0 of the campaign, in the session of this counter, before it has a manifest.
    fn refuses(&self, number: u8, of: Of, sequence_counter: u32, sw: u16) -> Access {
        let refusal = Refusal {
            action: codes::ACTION_LOAD,
            target: 0,
            campaign: of.campaign,
            sequence_counter,
            sw: StatusWord(sw),
            block: 0,
            version: 0,
            digest: [0; 32],
            mac: [0; 16],
        };
        self.says(
            number,
            of,
            Proof::Refusal(refusal_of(&self.hsm, se(number), refusal)),
        )
    }

    fn says(&self, number: u8, of: Of, proof: Proof) -> Access {
        let status = Status {
            version: Version::Two,
            se_id: se(number),
            campaign: of.campaign,
            outcome: Outcome::Activated,
            step: 0,
            sw: StatusWord::NO_ERROR,
            proof: Some(proof),
        };
        let mut buffer = [0; Status::MAX_LEN];
        let mut out = Writer::new(&mut buffer);
        status.encode(&mut out).unwrap();
        let path = format!("/device/v2/{}/status", se(number));
        let (code, _, body) = self.post(&path, &self.link_token(se(number)), out.written());
        assert_eq!(code, 200, "{}", String::from_utf8_lossy(&body));
        Verdict::decode(&body).unwrap().access
    }

    /// The campaign that is offered to an SE.
    fn offered(&self, number: u8) -> Option<Campaign> {
        let path = format!("/device/v2/{}/offer", se(number));
        let (code, _, body) = self.get(&path, &self.link_token(se(number)), None);
        match code {
            204 => None,
            code => {
                assert_eq!(code, 200, "{}", String::from_utf8_lossy(&body));
                Some(Campaign(u64::from_be_bytes(body[5..13].try_into().unwrap())))
            }
        }
    }

    fn shown(&self, of: Of) -> Value {
        self.read(&format!("/api/v1/campaigns/{}", of.campaign))
    }

    /// State, and how many targets of both cohorts are pending, updated, failed and set aside.
    fn stands(&self, of: Of) -> (String, [u64; 4]) {
        let shown = self.shown(of);
        let counts = ["pending", "updated", "failed", "aside"].map(|what| {
            let of = |cohort: &str| shown[cohort][what].as_u64().unwrap();
            of("canary") + of("rest")
        });
        (shown["state"].as_str().unwrap().to_owned(), counts)
    }

    /// Words of the event log, of an SE and a campaign, the last first.
    fn told(&self, number: u8, of: Of) -> Vec<String> {
        let events = self.read(&format!("/api/v1/events?campaign={}", of.campaign));
        let events = events["events"].as_array().unwrap().iter();
        let of_it = events.filter(|event| event["se_id"] == se(number).to_string());
        let words = |event: &Value| {
            let word = |name: &str| event[name].as_str().unwrap().to_owned();
            format!("{}: {}", word("kind"), word("detail"))
        };
        of_it.map(words).collect()
    }
}

fn words(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.2).into_owned()
}

fn running(counts: [u64; 4]) -> (String, [u64; 4]) {
    ("running".to_owned(), counts)
}

fn done(counts: [u64; 4]) -> (String, [u64; 4]) {
    ("done".to_owned(), counts)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_proved_the_package_is_updated_and_another_one_tries_it_first() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path(), 3).await;
    let first = f.run((1, 2, 1), &[0], 0);
    assert_eq!(f.takes(0, first, 1), Access::Allowed);
    let again = f.run((1, 2, 1), &[0, 1, 2], 1);
    assert_eq!(f.stands(again), running([2, 1, 0, 0]));
    assert!(
        f.told(0, again)[0].starts_with("already there: "),
        "{:?}",
        f.told(0, again)
    );
    let canary = &f.shown(again)["canary"];
    assert_eq!(
        (&canary["total"], &canary["pending"]),
        (&json!(1), &json!(1)),
        "{canary}"
    );
    assert!(
        f.told(1, again)[0].starts_with("canary: "),
        "{:?}",
        f.told(1, again)
    );
    assert_eq!(
        [0, 1, 2].map(|n| f.offered(n)),
        [None, Some(again.campaign), None]
    );
    // What its device says does not bring back an authorisation either.
    for said in [1, 2, 3] {
        assert_eq!(f.asks(0, again, 4, [said, 1]).0, 403, "{said}");
    }
    for number in [1, 2] {
        assert_eq!(f.asks(number, again, 0, [1, 1]).0, 200);
        assert_eq!(f.takes(number, again, 1), Access::Allowed);
    }
    assert_eq!(f.stands(again), done([0, 3, 0, 0]));
    // A campaign in which nobody has anything to do is done when it starts.
    let third = f.run((1, 2, 1), &[2, 1, 0], 2);
    assert_eq!(f.stands(third), done([0, 3, 0, 0]));
    f.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_what_an_se_has_proved_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path(), 2).await;
    let (older, newer) = (f.run((1, 2, 1), &[0, 1], 1), f.run((1, 3, 1), &[0, 1], 0));
    assert_eq!(f.offered(0), Some(older.campaign));
    assert_eq!(f.asks(0, older, 0, [1, 1]).0, 200);
    assert_eq!(f.takes(0, newer, 1), Access::Allowed);
    assert_eq!(f.stands(older), running([1, 0, 0, 1]));
    assert_eq!(
        f.shown(older)["set_aside"],
        json!([{ "se_id": se(0).to_string(), "detail": "its SE has proved version 3, the package's is 2" }])
    );
    // The other one goes first, whichever it takes.
    assert_eq!(
        [0, 1].map(|number| f.offered(number)),
        [None, Some(older.campaign)]
    );
    assert_eq!(f.asks(0, older, 1, [1, 1]).0, 403);
    assert_eq!(f.takes(1, older, 1), Access::Allowed);
    assert_eq!(f.takes(1, newer, 2), Access::Allowed);
    assert_eq!(
        (f.stands(older), f.stands(newer)),
        (done([0, 1, 0, 1]), done([0, 2, 0, 0]))
    );
    // A receipt that comes late proves its update, and takes nothing back of what is newer.
    assert_eq!(f.takes(0, older, 1), Access::Allowed);
    assert_eq!(f.stands(older), done([0, 2, 0, 0]));
    assert_eq!(f.read("/api/v1/devices")["devices"][0]["version"], 3);
    f.server.stop().await;
}

/// What nobody has proved makes nothing updated, fails nothing, and is not authorised.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_says_of_its_version_sets_its_own_target_aside() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path(), 3).await;
    let of = f.run((1, 5, 3), &[0, 1, 2], 1);
    for (number, said, why) in [
        (
            0,
            5,
            "its device says that the SE has version 5, the package's is 5",
        ),
        (
            1,
            2,
            "its device says that the SE has version 2, the package replaces 3 and above",
        ),
    ] {
        let answer = f.asks(number, of, 0, [said, 1]);
        assert!(answer.0 == 403 && words(&answer).contains(why), "{answer:?}");
        assert_eq!(f.offered(number), None);
        assert!(
            f.told(number, of).contains(&format!("set aside: {why}")),
            "{:?}",
            f.told(number, of)
        );
    }
    assert_eq!(f.stands(of), running([1, 0, 0, 2]));
    // The one that is left is the canary.
    assert_eq!(f.offered(2), Some(of.campaign));
    assert_eq!(f.asks(2, of, 0, [4, 1]).0, 200);
    let events = f.read("/api/v1/events").to_string();
    assert_eq!(events.matches("\"authorised\"").count(), 1, "{events}");
    assert_eq!(f.read("/api/v1/devices")["devices"][0]["version"], 0);
    // Its SE proves what the package may replace: it is open again. So is what is tried again.
    let between = f.run((1, 3, 1), &[1], 0);
    assert_eq!(f.takes(1, between, 2), Access::Allowed);
    assert_eq!(f.stands(of), running([1, 0, 0, 1]));
    f.admin(&format!("/api/v1/campaigns/{}/retry", of.campaign), b"");
    assert_eq!(f.stands(of), running([2, 0, 0, 0]));
    assert_eq!(f.takes(2, of, 4), Access::Allowed);
    for (number, version) in [(0, 3), (1, 3)] {
        assert_eq!(f.asks(number, of, 1, [version, 1]).0, 200);
        assert_eq!(f.takes(number, of, version), Access::Allowed);
    }
    assert_eq!(f.stands(of), done([0, 3, 0, 0]));
    f.server.stop().await;
}

/// Canaries that nobody can stand in for: what has nothing to try does not hold up the others, and a failure is still one.
#[tokio::test(flavor = "multi_thread")]
async fn a_cohort_without_anybody_to_try_ends() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path(), 2).await;
    let of = f.run((1, 2, 1), &[0, 1], 2);
    assert_eq!(f.asks(0, of, 0, [2, 1]).0, 403);
    assert_eq!(f.stands(of), running([1, 0, 0, 1]));
    assert_eq!(f.asks(1, of, 0, [7, 1]).0, 403);
    assert_eq!(f.stands(of), done([0, 0, 0, 2]));
    f.server.stop().await;
}

/// Who designs after the keys have changed.
fn next_designer() -> SigningKey {
    SigningKey::from_bytes(&[0x43; 32]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn campaigns_for_keys_that_an_se_does_not_obey_are_not_offered_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path(), 2).await;
    // Nobody knows for which keys it is before there is a key change of its designer.
    let part = f.run((1, 2, 1), &[0, 1], 0);
    assert_eq!(f.shown(part)["key_version"], Value::Null);
    let keys = f.run((2, 2, 1), &[0, 1], 0);
    assert_eq!(
        (&f.shown(part)["key_version"], &f.shown(keys)["key_version"]),
        (&json!(1), &json!(1))
    );
    let later = f.run_by(package_by(&next_designer(), 1, 3, 1), "", &[0, 1], 0);
    assert_eq!(f.shown(later)["key_version"], 2);
    // The first one changes its keys before it has the part of the designer before.
    assert_eq!(f.takes(0, keys, 1), Access::Allowed);
    assert_eq!(f.offered(0), Some(later.campaign));
    let why = "its SE has proved to obey keys of version 2, the package is for those of version 1";
    assert_eq!(f.told(0, part)[0], format!("set aside: {why}"));
    assert_eq!(f.asks(0, part, 0, [1, 2]).0, 403);
    assert_eq!(f.stands(part), running([1, 0, 0, 1]));
    // The other one has not: what is for the next keys waits until it has, and holds up nothing else.
    let answer = f.asks(1, later, 0, [1, 1]);
    let why = "its device says that the SE obeys keys of version 1, the package is for those of version 2";
    assert!(answer.0 == 425 && words(&answer).contains(why), "{answer:?}");
    for of in [part, keys] {
        assert_eq!(f.offered(1), Some(of.campaign));
        assert_eq!(f.asks(1, of, of.manifest.target.into(), [1, 1]).0, 200);
        assert_eq!(f.takes(1, of, 1), Access::Allowed);
    }
    for (number, version) in [(0, 1), (1, 2)] {
        assert_eq!(f.offered(number), Some(later.campaign));
        assert_eq!(f.asks(number, later, 7, [version, 2]).0, 200);
        assert_eq!(f.takes(number, later, version), Access::Allowed);
    }
    let all = [part, keys, later].map(|of| f.stands(of));
    assert_eq!(all, [done([0, 1, 0, 1]), done([0, 2, 0, 0]), done([0, 2, 0, 0])]);
    f.server.stop().await;
}

/// An SE that says keys which it has not proved: the server's word for a package is taken back with another one, and it is asked again.
#[tokio::test(flavor = "multi_thread")]
async fn for_which_keys_a_package_is_can_be_said() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path(), 1).await;
    let package = || package_of(1, 2, 1);
    let first = f.run_by(package(), "&key_version=2", &[0], 0);
    assert_eq!(f.asks(0, first, 0, [1, 3]).0, 403);
    assert_eq!(f.stands(first), done([0, 0, 0, 1]));
    let second = f.run_by(package(), "&key_version=3", &[0], 0);
    assert_eq!(f.asks(0, second, 0, [1, 1]).0, 425);
    assert_eq!(f.offered(0), None);
    f.admin(&format!("/api/v1/campaigns/{}/retry", second.campaign), b"");
    assert_eq!(f.offered(0), Some(second.campaign));
    assert_eq!(f.asks(0, second, 0, [1, 3]).0, 200);
    // What is left out changes nothing.
    assert_eq!(f.shown(f.run((1, 2, 1), &[0], 0))["key_version"], 3);
    let (keys, _, designer) = package_of(2, 3, 1);
    for wrong in ["0", "3", "4294967295", "x"] {
        let path = format!(
            "/api/v1/packages?designer={}&key_version={wrong}",
            public(&designer)
        );
        let (code, _, _) = f.post(&path, &f.server.admin_token, &keys);
        assert_eq!(code, 400, "{wrong}");
    }
    f.server.stop().await;
}

/// What the keys bring about is no word against an SE unless it is known to have the right ones: another SE has taken the package, and no change of
/// its own has left.
#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_keys_block_nobody() {
    for sw in [0x6A80, 0x9501, 0x9503] {
        let folder = tempfile::tempdir().unwrap();
        let f = start(folder.path(), 4).await;
        let part = f.run((1, 2, 1), &[0, 1, 2, 3], 0);
        let ask = |number, of, counter| assert_eq!(f.asks(number, of, counter, [1, 1]).0, 200);
        let go_on = || f.admin(&format!("/api/v1/campaigns/{}/resume", part.campaign), b"");
        // Nobody has taken it: it may be the package.
        ask(0, part, 0);
        assert_eq!(f.refuses(0, part, 1, sw), Access::Allowed);
        go_on();
        assert_eq!(f.takes(1, part, 1), Access::Allowed);
        // Its keys may have changed: the receipt is not here.
        let keys = f.run((2, 2, 1), &[2], 0);
        ask(2, part, 5);
        ask(2, keys, 0);
        assert_eq!(f.refuses(2, part, 6, sw), Access::Allowed);
        go_on();
        let failures = &f.shown(part)["failures"];
        assert_eq!(
            [0, 1].map(|n| failures[n]["proved"].clone()),
            [json!(false), json!(false)]
        );
        // This one has them.
        ask(3, part, 0);
        assert_eq!(f.refuses(3, part, 1, sw), Access::Blocked, "{sw:04X}");
        f.server.stop().await;
    }
}
