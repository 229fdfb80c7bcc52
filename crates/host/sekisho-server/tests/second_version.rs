//! Version 2 of the messages: what is wanted, both targets, and refusals that SEs prove, with devices that report everything they can.

use crate::support;
use sekisho_apdu::{StatusWord, Writer};
use sekisho_hsm::SoftHsm;
use sekisho_link::{
    Access, Authorisation, Campaign, Equ, LoaderState, Manifest, Outcome, Proof, Receipt, Refusal, SeId,
    Staging, States, Status, Verdict, Version, Wants, codes,
};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use support::{Answer, Fixture, package_of, public, receipt_of, refusal_of, state};

const SE: SeId = SeId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
const OTHER: SeId = SeId([9; 10]);
/// Refusals, or reports without a proof, after which a target is given up.
const ATTEMPTS: u32 = 3;

async fn start(folder: &Path) -> Fixture {
    let f = Fixture::start(folder, &Arc::new(SoftHsm::generate().unwrap())).await;
    let devices = json!([
        { "se_id": SE.to_string(), "kvn": 0x30 }, { "se_id": OTHER.to_string(), "kvn": 0x30 }
    ]);
    f.admin("/api/v1/devices", devices.to_string().as_bytes());
    f
}

/// EQU of the SE with nothing staged.
fn equ(campaign: Campaign, sequence_counter: u32) -> Equ<'static> {
    Equ {
        version: Version::Two,
        se_id: SE,
        campaign,
        kvn: 0x30,
        scp_parameter: 0x70,
        sequence_counter,
        wants: Wants::BOTH,
        pauses: 0,
        proof: &[],
        states: States::new(&[state(1, 1), state(2, 1)]).unwrap(),
    }
}

fn written(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut buffer = [0; 1000];
    let mut out = Writer::new(&mut buffer);
    write(&mut out);
    out.written().to_vec()
}

impl Fixture {
    /// A running campaign of this target for the SE alone.
    fn target_of(&self, target: u8, version: u32) -> (Campaign, Manifest) {
        let (package, manifest, designer) = package_of(target, version, 1);
        let uploaded = self.admin(
            &format!("/api/v1/packages?designer={}", public(&designer)),
            &package,
        );
        assert_eq!(uploaded["target"], target);
        let wanted = json!({
            "name": "test", "package_id": uploaded["package_id"], "canary": 0, "attempts_max": ATTEMPTS, "error_threshold": 1,
            "targets": [SE.to_string()],
        });
        let made = self.admin("/api/v1/campaigns", wanted.to_string().as_bytes());
        assert_eq!(made["target"], target);
        let id = made["id"].as_str().unwrap();
        self.admin(&format!("/api/v1/campaigns/{id}/start"), b"");
        (id.parse().unwrap(), manifest)
    }

    fn ask_2(&self, equ: &Equ<'_>) -> Answer {
        let bytes = written(|out| equ.encode(out).unwrap());
        let path = format!("/device/v{}/{SE}/equ", equ.version as u8);
        self.post(&path, &self.link_token(SE), &bytes)
    }

    fn granted(&self, equ: &Equ<'_>) -> Vec<u8> {
        let (status, _, body) = self.ask_2(equ);
        assert_eq!(status, 200, "{equ:?}: {}", String::from_utf8_lossy(&body));
        body
    }

    fn say_2(&self, campaign: Campaign, proof: Option<Proof>) -> Verdict {
        let status = Status {
            version: Version::Two,
            se_id: SE,
            campaign,
            outcome: Outcome::Refused,
            step: 300,
            sw: StatusWord(0x9501),
            proof,
        };
        let bytes = written(|out| status.encode(out).unwrap());
        let path = format!("/device/v2/{SE}/status");
        let (code, _, body) = self.post(&path, &self.link_token(SE), &bytes);
        assert_eq!(code, 200, "{}", String::from_utf8_lossy(&body));
        Verdict::decode(&body).unwrap()
    }

    fn refuse(&self, refusal: Refusal) -> Access {
        let campaign = refusal.campaign;
        let proof = Proof::Refusal(refusal_of(&self.hsm, SE, refusal));
        self.say_2(campaign, Some(proof)).access
    }

    /// Refusals that speak against the SE, reports, targets given up, those of them for what is proved, and whether the device is blocked.
    fn counted(&self, campaign: Campaign) -> (u64, u64, u64, u64, bool) {
        let counts = self.read(&format!("/api/v1/campaigns/{campaign}"));
        let of = |what: &str| counts["rest"][what].as_u64().unwrap();
        let device = &self.read("/api/v1/devices")["devices"][0];
        (
            of("refusals"),
            of("reports"),
            of("failed"),
            of("failed_proved"),
            device["access"] == "blocked",
        )
    }
}

impl Fixture {
    /// The SEs of such a list of devices.
    fn obeyed(&self, query: &str) -> Vec<String> {
        let devices = self.read(&format!("/api/v1/devices?{query}"));
        let list = devices["devices"].as_array().unwrap();
        let se_id = |device: &Value| device["se_id"].as_str().unwrap().to_owned();
        list.iter().map(se_id).collect()
    }

    /// The receipt of a change from version 1 to 2.
    fn changed_keys(&self, campaign: Campaign, manifest: &Manifest, target: u8) -> Proof {
        let receipt = Receipt {
            action: codes::ACTION_ACTIVATE,
            target,
            campaign,
            previous_version: 1,
            version: 2,
            digest: manifest.digest,
            mac: [0; 16],
        };
        Proof::Receipt(receipt_of(&self.hsm, SE, receipt))
    }
}

fn refusal(campaign: Campaign, manifest: &Manifest, sequence_counter: u32) -> Refusal {
    Refusal {
        action: codes::ACTION_ACTIVATE,
        target: manifest.target,
        campaign,
        sequence_counter,
        sw: StatusWord(0x9505),
        block: 2,
        version: 1,
        digest: manifest.digest,
        mac: [0; 16],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_its_se_proves_blocks_a_device_and_each_authorisation_once() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path()).await;
    let (campaign, manifest) = f.target_of(1, 5);
    for counter in 0..ATTEMPTS {
        f.granted(&equ(campaign, counter));
    }
    for counter in 1..=ATTEMPTS {
        let refusal = refusal(campaign, &manifest, counter);
        let expected = if counter < ATTEMPTS {
            Access::Retry
        } else {
            Access::Blocked
        };
        // Said as often as one likes, it counts once.
        for _ in 0..4 {
            assert_eq!(f.refuse(refusal), expected, "counter {counter}");
        }
        let is_over = u64::from(counter == ATTEMPTS);
        let expected = (u64::from(counter), 0, is_over, is_over, counter == ATTEMPTS);
        assert_eq!(f.counted(campaign), expected);
    }
    // The campaign has paused itself, and says what is proved.
    let shown = f.read(&format!("/api/v1/campaigns/{campaign}"));
    assert_eq!(shown["failures"][0]["proved"], true, "{shown}");
    assert!(
        shown["failures"][0]["detail"].to_string().contains("9505"),
        "{shown}"
    );
    // Unblocked or tried again, what was counted is counted.
    f.admin(&format!("/api/v1/campaigns/{campaign}/retry"), b"");
    f.granted(&equ(campaign, 9));
    for counter in 1..=ATTEMPTS {
        assert_eq!(f.refuse(refusal(campaign, &manifest, counter)), Access::Retry);
    }
    assert_eq!(f.counted(campaign), (0, 0, 0, 0, false));
    f.server.stop().await;
}

/// A block that the bulk does not have proves nothing; the last one that an SE can expect does.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_a_block_of_the_bulk() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path()).await;
    let (campaign, manifest) = f.target_of(1, 5);
    f.granted(&equ(campaign, 0));
    let next = u16::try_from(manifest.length.div_ceil(239) + 1).unwrap();
    let of = |block| Refusal {
        block,
        ..refusal(campaign, &manifest, 1)
    };
    f.refuse(of(next + 1));
    assert_eq!(f.counted(campaign), (0, 1, 0, 0, false));
    f.refuse(of(next));
    assert_eq!(f.counted(campaign), (1, 1, 0, 0, false));
    f.server.stop().await;
}

/// An SE whose key set is another than the server was told of: said with both, in an event too, once; and no block.
#[tokio::test(flavor = "multi_thread")]
async fn another_key_set_is_told_to_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path()).await;
    let (campaign, _) = f.target_of(1, 5);
    let key_set = |kvn: u8| {
        let wanted = json!({ "kvn": kvn }).to_string();
        f.admin(&format!("/api/v1/devices/{SE}/key-set"), wanted.as_bytes());
    };
    let told = || {
        let events = f.read("/api/v1/events");
        let events = events["events"].as_array().unwrap().iter();
        events
            .filter(|event| event["kind"] == "key-set")
            .map(|event| event["detail"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let words = "the SE has key set 30, and the server knows it by key set 35";
    for wrong in 1..3 {
        key_set(0x35);
        for version in [Version::Two, Version::One, Version::Two] {
            let ask = Equ {
                version,
                states: States::new(&[state(1, 1)]).unwrap(),
                ..equ(campaign, 0)
            };
            let (status, _, body) = f.ask_2(&ask);
            let body = String::from_utf8(body).unwrap();
            let advice = format!("{words}: if the SE is right, sekisho fleet key-set {SE} 30");
            assert!(status == 422 && body.contains(&advice), "{status} {body}");
        }
        assert_eq!(told(), vec![words; wrong]);
        key_set(0x30);
    }
    assert_eq!(f.read("/api/v1/devices")["devices"][0]["access"], "allowed");
    f.granted(&equ(campaign, 0));
    f.server.stop().await;
}

/// Everything that a device can report without its SE: nobody is blocked for it, and nothing is counted as proved.
#[tokio::test(flavor = "multi_thread")]
async fn a_lying_device_spoils_nothing_but_its_own_target() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path()).await;
    let (campaign, manifest) = f.target_of(1, 5);
    let (another, _) = f.target_of(1, 6);
    f.granted(&equ(campaign, 0));
    f.granted(&equ(another, 1));
    let right = refusal_of(&f.hsm, SE, refusal(campaign, &manifest, 1));
    let of_another_se = refusal_of(&f.hsm, OTHER, refusal(campaign, &manifest, 1));
    let mut lies = vec![
        None,
        Some(Proof::Refusal(of_another_se)),
        Some(Proof::Refusal(Refusal {
            mac: [0; 16],
            ..right
        })),
    ];
    // Each bit of what the SE said, and a receipt made of it.
    for byte in 1..Refusal::LEN {
        let mut bytes = right.encode();
        bytes[byte] ^= 1 << (byte % 8);
        lies.extend(Refusal::decode(&bytes).ok().map(|lie| Some(Proof::Refusal(lie))));
    }
    // With a right MAC, as if the SE had said it: of nothing that was authorised.
    let with_mac = |refusal| Some(Proof::Refusal(refusal_of(&f.hsm, SE, refusal)));
    lies.extend([
        with_mac(Refusal {
            sequence_counter: 0,
            ..right
        }),
        with_mac(Refusal {
            sequence_counter: 2,
            ..right
        }),
        with_mac(Refusal {
            sequence_counter: 3,
            ..right
        }),
        with_mac(Refusal {
            campaign: another,
            ..right
        }),
        with_mac(Refusal { target: 2, ..right }),
        with_mac(Refusal {
            digest: [1; 32],
            ..right
        }),
        with_mac(Refusal {
            action: codes::ACTION_DISCARD,
            ..right
        }),
    ]);
    let count = lies.len();
    for lie in lies {
        let (access, known) = (f.say_2(campaign, lie).access, f.counted(campaign));
        assert_ne!(access, Access::Blocked, "{lie:?}");
        assert_eq!((known.0, known.3, known.4), (0, 0, false), "{lie:?}");
        if known.2 == 1 {
            f.admin(&format!("/api/v1/campaigns/{campaign}/retry"), b"");
            let counter = 10 + u32::from(known.1 > 0);
            f.granted(&equ(campaign, counter));
        }
    }
    assert!(count > 60, "{count} lies");
    f.server.stop().await;
}

/// What the SE proves and its device has brought about gives the target up and blocks nobody.
#[tokio::test(flavor = "multi_thread")]
async fn what_its_device_can_bring_about_does_not_speak_against_an_se() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path()).await;
    let (campaign, manifest) = f.target_of(1, 5);
    for counter in 0..ATTEMPTS {
        f.granted(&equ(campaign, counter));
    }
    for (counter, change) in (1..).zip([
        // A byte changed on the way; an EQU that says what is not staged; one with a version that the SE has not.
        (|r| r.sw = StatusWord(0x6982)) as fn(&mut Refusal),
        |r| r.sw = StatusWord(0x6985),
        |r| (r.sw, r.version) = (StatusWord(0x9502), 5),
    ]) {
        let mut refusal = refusal(campaign, &manifest, counter);
        change(&mut refusal);
        let expected = if counter < ATTEMPTS {
            Access::Retry
        } else {
            Access::Allowed
        };
        for _ in 0..3 {
            assert_eq!(f.refuse(refusal), expected, "{refusal:?}");
        }
    }
    assert_eq!(f.counted(campaign), (0, ATTEMPTS.into(), 1, 0, false));
    let events = f.read("/api/v1/events?limit=100").to_string();
    assert!(events.contains("can have brought it about"), "{events}");
    let reason = f.read(&format!("/api/v1/campaigns/{campaign}"))["reason"].to_string();
    assert!(
        reason.is_empty() || reason == "\"\"",
        "the campaign is done: {reason}"
    );
    f.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_change_is_carried_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path()).await;
    let (campaign, manifest) = f.target_of(2, 2);
    // Who speaks version 1 hears nothing of it.
    let offer = |version| f.get(&format!("/device/v{version}/{SE}/offer"), &f.link_token(SE), None);
    assert_eq!(offer(1).0, 204);
    let (status, _, bytes) = offer(2);
    assert_eq!((status, bytes[4], bytes[13]), (200, 2, 2));
    let first = Equ {
        version: Version::One,
        states: States::new(&[state(1, 1)]).unwrap(),
        ..equ(campaign, 0)
    };
    assert_eq!(f.ask_2(&first).0, 403);
    let p_aut = f.granted(&equ(campaign, 0));
    assert_eq!(Authorisation::decode(&p_aut).unwrap().head.target, 2);
    let both = [SE.to_string(), OTHER.to_string()];
    assert_eq!(
        (f.obeyed("key_version=1"), f.obeyed("key_version=2").len()),
        (both.to_vec(), 0)
    );
    // That the device says so proves nothing.
    let said = Equ {
        states: States::new(&[state(1, 1), state(2, 2)]).unwrap(),
        ..equ(campaign, 1)
    };
    assert_eq!(f.ask_2(&said).0, 403);
    assert_eq!(f.obeyed("key_version=1"), both);
    let device = f.read("/api/v1/devices")["devices"][0].clone();
    assert_eq!(
        (
            &device["key_version"],
            &device["key_version_proved"],
            &device["key_version_said"]
        ),
        (&json!(1), &Value::Null, &json!(2)),
        "{device}"
    );
    let receipt = |target| Some(f.changed_keys(campaign, &manifest, target));
    f.say_2(campaign, receipt(1));
    assert_eq!(f.obeyed("key_version=2").len(), 0);
    assert_eq!(f.say_2(campaign, receipt(2)).access, Access::Allowed);
    assert_eq!(
        (f.obeyed("key_version=1"), f.obeyed("key_version=2")),
        (vec![both[1].clone()], vec![both[0].clone()])
    );
    let devices = f.read("/api/v1/devices");
    assert_eq!(devices["devices"][0]["version"], 0, "the OS part is what it was");
    assert_eq!(
        devices["key_versions"],
        json!([{ "key_version": 1, "devices": 1 }, { "key_version": 2, "devices": 1 }])
    );
    let (_, _, page) = f.get("/", "", None);
    let page = String::from_utf8(page).unwrap();
    assert!(
        page.contains("keys of version 2") && page.contains("keys of version 1"),
        "{page}"
    );
    f.server.stop().await;
}

/// The state of an SE where the whole of the campaign is staged.
fn staged(campaign: Campaign) -> LoaderState {
    LoaderState {
        staging: Staging::Complete,
        campaign,
        next_block: 2,
        ..state(1, 1)
    }
}

fn asked(
    campaign: Campaign,
    sequence_counter: u32,
    wants: Wants,
    pauses: u8,
    state: LoaderState,
) -> Equ<'static> {
    Equ {
        wants,
        pauses,
        states: States::new(&[state, self::state(2, 1)]).unwrap(),
        ..equ(campaign, sequence_counter)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_is_what_is_granted() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path()).await;
    let (campaign, _) = f.target_of(1, 5);
    let (new, staged) = (state(1, 1), staged(campaign));
    let many = [3, 5, 7, 9, 11, 13, 15, 17, 19];
    for (counter, (wants, pauses, state, splices, commands)) in (0..).zip([
        (Wants::BOTH, 0, new, &[3][..], 4),
        (Wants::BOTH, 2, new, &[3, 5, 7], 8),
        (Wants::LOAD, 0, new, &[3], 4),
        (Wants::LOAD, 8, new, &many, 20),
        (Wants::ACTIVATE, 0, staged, &[], 3),
        (Wants::BOTH, 0, staged, &[3], 4),
    ]) {
        let equ = asked(campaign, counter, wants, pauses, state);
        let bytes = f.granted(&equ);
        assert_eq!(f.granted(&equ), bytes, "asked for again it is the same");
        let p_aut = Authorisation::decode(&bytes).unwrap();
        assert_eq!(
            (p_aut.head.wants, p_aut.head.splices, p_aut.len()),
            (wants, splices, commands)
        );
        // Nothing else leaves for this counter.
        for (other, more) in [(Wants::LOAD, 7), (Wants::BOTH, 1), (Wants::BOTH, 3)] {
            let other = asked(campaign, counter, other, more, new);
            assert_eq!(f.ask_2(&other).0, 409, "{other:?}");
        }
    }
    // The other version of the same counter is another authorisation.
    let first = Equ {
        version: Version::One,
        states: States::new(&[new]).unwrap(),
        ..equ(campaign, 0)
    };
    assert_eq!(f.ask_2(&first).0, 409);
    f.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_built_or_contradicts_itself_is_granted_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path()).await;
    let (campaign, _) = f.target_of(1, 5);
    let (new, staged) = (state(1, 1), staged(campaign));
    let of = |wants, pauses, state| asked(campaign, 0, wants, pauses, state);
    let live = Wants(Wants::BOTH.0 | Wants::LIVE);
    let with_proof = Equ {
        proof: &[1, 2, 3],
        ..of(Wants::BOTH, 0, new)
    };
    for (status, wrong) in [
        (501, of(live, 0, new)),
        (501, of(Wants(0x07), 0, new)),
        (501, with_proof),
        (400, of(Wants(0), 0, new)),
        (400, of(Wants::BOTH, 9, new)),
        (400, of(Wants::ACTIVATE, 0, new)),
        (400, of(Wants::ACTIVATE, 1, staged)),
        (400, of(Wants::LOAD, 0, staged)),
    ] {
        let (code, kind, body) = f.ask_2(&wrong);
        let words = String::from_utf8(body).unwrap();
        assert_eq!(
            (code, &*kind),
            (status, "application/problem+json"),
            "{wrong:?}: {words}"
        );
    }
    let events = f.read("/api/v1/events?limit=100").to_string();
    assert!(
        !events.contains("authorised") && !events.contains("resumed"),
        "{events}"
    );
    f.server.stop().await;
}

/// An SE that does not know the package's part is given up, not asked for ever, and not blocked: the next campaign is offered.
#[tokio::test(flavor = "multi_thread")]
async fn an_se_without_the_target_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path()).await;
    let (keys, _) = f.target_of(2, 2);
    let (part, _) = f.target_of(1, 5);
    let old = Equ {
        states: States::new(&[state(1, 1)]).unwrap(),
        ..equ(keys, 0)
    };
    for _ in 0..2 {
        let (status, _, words) = f.ask_2(&old);
        assert_eq!(status, 403, "{}", String::from_utf8_lossy(&words));
    }
    assert_eq!(f.counted(keys), (0, 0, 1, 0, false));
    let (status, _, offer) = f.get(&format!("/device/v2/{SE}/offer"), &f.link_token(SE), None);
    assert_eq!((status, &offer[5..13]), (200, &part.0.to_be_bytes()[..]));
    f.server.stop().await;
}

/// Packages that are laid out and not taken, and one of a part that nobody knows.
#[tokio::test(flavor = "multi_thread")]
async fn packages_of_later_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let f = start(folder.path()).await;
    let (package, _, designer) = package_of(1, 5, 1);
    let unsigned = &package[..package.len() - 64];
    // After name, version and custody comes the number of parts; P_MOB's length stands behind manifest, signature and design code.
    let (parts, p_mob) = (6, 7 + 64 + 64 + 16 + 3);
    for (at, words) in [(parts, "several parts"), (p_mob, "P_MOB")] {
        let mut other = unsigned.to_vec();
        other[at] = 2;
        let path = format!("/api/v1/packages?designer={}", public(&designer));
        let (code, _, body) = f.post(&path, &f.server.admin_token, &support::signed(&other, &designer));
        assert_eq!(code, 501);
        assert!(String::from_utf8(body).unwrap().contains(words));
    }
    let (package, _, designer) = package_of(3, 5, 1);
    let path = format!("/api/v1/packages?designer={}", public(&designer));
    assert_eq!(f.post(&path, &f.server.admin_token, &package).0, 400);
    f.server.stop().await;
}
