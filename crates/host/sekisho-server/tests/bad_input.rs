//! Bad input to every endpoint: a problem that says what to do, and nothing lost.

use crate::support;
use sekisho_hsm::SoftHsm;
use sekisho_hsm::design::{Ceremony, PackOptions};
use sekisho_link::{Campaign, Custody, Equ, LoaderState, Manifest, SeId, Staging, States, Version, Wants};
use serde_json::{Value, json};
use std::sync::Arc;
use support::{Answer, Fixture};

const SE: SeId = SeId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);

/// A registered SE and a running campaign.
fn start_campaign(f: &Fixture) -> Campaign {
    let ceremony = Ceremony::generate().unwrap();
    let options = PackOptions {
        version: 2,
        min_previous: 1,
        custody: Custody::Hsm,
    };
    let package = ceremony.pack(b"\0asm\x01\0\0\0 and more of it", options).unwrap();
    f.admin(
        "/api/v1/devices",
        json!([{ "se_id": SE.to_string(), "kvn": 0x30 }])
            .to_string()
            .as_bytes(),
    );
    let designer = hex::encode(ceremony.designer_public());
    let uploaded = f.admin(&format!("/api/v1/packages?designer={designer}"), &package);
    let wanted = json!({ "name": "test", "package_id": uploaded["package_id"], "attempts_max": 2 });
    let made = f.admin("/api/v1/campaigns", wanted.to_string().as_bytes());
    let id = made["id"].as_str().unwrap().to_owned();
    f.admin(&format!("/api/v1/campaigns/{id}/start"), b"");
    id.parse().unwrap()
}

fn assert_problem(what: &str, (status, kind, body): &Answer, expected: u16) {
    assert_eq!(
        (*status, kind.as_str()),
        (expected, "application/problem+json"),
        "{what}"
    );
    let value: Value = serde_json::from_slice(body).unwrap();
    assert!(
        !value["detail"].as_str().unwrap().is_empty(),
        "{what}: no explanation"
    );
}

fn equ(campaign: Campaign, sequence_counter: u32) -> Vec<u8> {
    let state = LoaderState {
        target: 1,
        slot: 0,
        version: 1,
        abi: Manifest::ABI,
        staging: Staging::Nothing,
        campaign: Campaign(0),
        next_block: 0,
    };
    let equ = Equ {
        version: Version::One,
        se_id: SE,
        campaign,
        kvn: 0x30,
        scp_parameter: 0x70,
        sequence_counter,
        wants: Wants::BOTH,
        pauses: 0,
        proof: &[],
        states: States::new(&[state]).unwrap(),
    };
    let mut buf = [0; Equ::MAX_LEN];
    let mut out = sekisho_apdu::Writer::new(&mut buf);
    equ.encode(&mut out).unwrap();
    out.written().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_explains_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let f = Fixture::start(folder.path(), &Arc::new(SoftHsm::generate().unwrap())).await;
    let campaign = start_campaign(&f);
    let (admin, link) = (f.server.admin_token.clone(), f.link_token(SE));
    let device = |path: &str| format!("/device/v1/{SE}/{path}");
    let delivery = format!("/device/v1/deliveries/{campaign}");
    for (path, token, expected) in [
        (device("offer"), "", 401),
        (device("offer"), &*"0".repeat(32), 401),
        ("/device/v1/zz/offer".to_owned(), &*link, 400),
        ("/device/v1/deliveries/12".to_owned(), "", 400),
        ("/device/v1/deliveries/0000000000000001".to_owned(), "", 404),
        ("/device/v1/nothing".to_owned(), "", 404),
        ("/api/v1/devices".to_owned(), "", 401),
        ("/api/v1/devices?after=xy".to_owned(), &*admin, 400),
        ("/api/v1/campaigns/xy".to_owned(), &*admin, 400),
        ("/api/v1/campaigns/0000000000000001".to_owned(), &*admin, 404),
        ("/nothing".to_owned(), "", 404),
        ("/api/v1/paging".to_owned(), "", 401),
        ("/api/v1/paging/devices/xy".to_owned(), &*admin, 400),
        (
            "/api/v1/paging/devices/00000000000000000000".to_owned(),
            &*admin,
            404,
        ),
    ] {
        assert_problem(&path, &f.get(&path, token, None), expected);
    }
    posts(&f, campaign);
    paging_posts(&f);
    // Longer than anything that is taken.
    // The server may answer and hang up before it has read it all.
    let request = f
        .http
        .post(f.url(&device("equ")))
        .header("Authorization", format!("Bearer {link}"));
    if let Ok(response) = request.send(&vec![0; 5 << 20]) {
        assert!(
            matches!(response.status().as_u16(), 400 | 413),
            "{}",
            response.status()
        );
    }
    // Nothing was lost or changed by it.
    assert_eq!(f.get(&device("offer"), &link, None).0, 200);
    assert_eq!(f.get(&delivery, "", Some("bytes=5-9")).2.len(), 5);
    f.server.stop().await;
}

/// Bodies and verbs that are wrong.
fn posts(f: &Fixture, campaign: Campaign) {
    let (admin, link) = (f.server.admin_token.clone(), f.link_token(SE));
    let device = |path: &str| format!("/device/v1/{SE}/{path}");
    let verb = |verb: &str| format!("/api/v1/campaigns/{campaign}/{verb}");
    for (path, token, body, expected) in [
        (device("equ"), "", &b""[..], 401),
        (device("equ"), &*link, &b""[..], 400),
        (device("equ"), &*link, &[0xFF; 200][..], 400),
        (device("equ"), &*link, &equ(Campaign(1), 0)[..], 404),
        (device("status"), &*link, &b"SKST"[..], 400),
        ("/api/v1/devices".to_owned(), &*admin, &b"{"[..], 400),
        (
            "/api/v1/devices".to_owned(),
            &*admin,
            &br#"[{"se_id":"1","kvn":1}]"#[..],
            400,
        ),
        (
            "/api/v1/devices".to_owned(),
            &*admin,
            &br#"[{"se_id":"0102030405060708090b","kvn":96}]"#[..],
            400,
        ),
        (
            "/api/v1/packages?designer=00".to_owned(),
            &*admin,
            &b"SKPK"[..],
            400,
        ),
        (
            "/api/v1/campaigns".to_owned(),
            &*admin,
            &br#"{"name":"","package_id":"00"}"#[..],
            400,
        ),
        (
            "/api/v1/campaigns".to_owned(),
            &*admin,
            &br#"{"name":"x","unknown":1}"#[..],
            400,
        ),
        (verb("explode"), &*admin, &b""[..], 400),
        (verb("start"), &*admin, &b""[..], 409),
    ] {
        assert_problem(&path, &f.post(&path, token, body), expected);
    }
    for body in [
        &br#"{"action":"explode"}"#[..],
        &br#"{"action":"poll-every","argument":0}"#[..],
        &br#"{"action":"update","group":70000}"#[..],
        &br#"{"action":"move","argument":77}"#[..],
        &br#"{"action":"move","argument":256}"#[..],
        &br#"{"action":"move","argument":0}"#[..],
    ] {
        assert_problem("messages", &f.post("/api/v1/paging/messages", &admin, body), 400);
    }
}

/// What paging is asked over HTTP.
fn paging_posts(f: &Fixture) {
    let (admin, link) = (f.server.admin_token.clone(), f.link_token(SE));
    let device = |path: &str| format!("/device/v1/{SE}/{path}");
    for (path, token, body, expected) in [
        ("/device/v1/paging/recover".to_owned(), "", &[0; 47][..], 400),
        ("/device/v1/paging/recover".to_owned(), "", &[0; 48][..], 403),
        (device("certify"), "", &[0; 145][..], 401),
        (device("certify"), &*link, &[0; 144][..], 400),
        (device("certify"), &*link, &[4; 145][..], 400),
        (
            "/api/v1/paging/devices".to_owned(),
            &*admin,
            &br#"{"se_ids":["zz"]}"#[..],
            400,
        ),
        (
            "/api/v1/paging/domains/0/devices".to_owned(),
            &*admin,
            &b""[..],
            400,
        ),
        (
            "/api/v1/paging/domains/9/devices".to_owned(),
            &*admin,
            &br#"{"se_ids":[]}"#[..],
            404,
        ),
        ("/api/v1/paging/domains/9/devices".to_owned(), "", &b""[..], 401),
        ("/api/v1/paging/domains/0".to_owned(), &*admin, &b""[..], 400),
        ("/api/v1/paging/domains/9".to_owned(), "", &b""[..], 401),
        ("/api/v1/paging/orders".to_owned(), &*link, &b""[..], 401),
        (
            format!("/api/v1/paging/devices/{SE}/explode"),
            &*admin,
            &b""[..],
            400,
        ),
    ] {
        assert_problem(&path, &f.post(&path, token, body), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorisation_asked_for_again_is_the_same_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let hsm = Arc::new(SoftHsm::generate().unwrap());
    let f = Fixture::start(folder.path(), &hsm).await;
    let (campaign, link, path) = (
        start_campaign(&f),
        f.link_token(SE),
        format!("/device/v1/{SE}/equ"),
    );
    let (status, _, first) = f.post(&path, &link, &equ(campaign, 0));
    assert_eq!((status, first.len()), (200, 207));
    assert_eq!(f.post(&path, &link, &equ(campaign, 0)).2, first);
    assert_ne!(f.post(&path, &link, &equ(campaign, 1)).2, first);
    // The same counter in another campaign is refused.
    let other = start_campaign(&f);
    f.admin(&format!("/api/v1/campaigns/{campaign}/pause"), b"");
    assert_problem("paused", &f.post(&path, &link, &equ(campaign, 0)), 425);
    assert_problem("counter used", &f.post(&path, &link, &equ(other, 0)), 409);
    assert_eq!(f.post(&path, &link, &equ(other, 2)).0, 200);
    f.admin(&format!("/api/v1/campaigns/{campaign}/resume"), b"");
    f.server.stop().await;

    let f = Fixture::start(folder.path(), &hsm).await;
    assert_eq!(f.post(&path, &link, &equ(campaign, 0)).2, first);
    f.admin(&format!("/api/v1/campaigns/{campaign}/abort"), b"");
    assert_problem("aborted", &f.post(&path, &link, &equ(campaign, 3)), 403);
    f.server.stop().await;
}

/// A name is one line for people; what is not is refused, and the live page shows what is taken as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_campaigns_name_is_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let f = Fixture::start(folder.path(), &Arc::new(SoftHsm::generate().unwrap())).await;
    let id = start_campaign(&f);
    let made = f.get(&format!("/api/v1/campaigns/{id}"), &f.server.admin_token, None);
    let made: Value = serde_json::from_slice(&made.2).unwrap();
    let create = |name: &str| {
        let wanted = json!({ "name": name, "package_id": made["package_id"] }).to_string();
        f.post("/api/v1/campaigns", &f.server.admin_token, wanted.as_bytes())
    };
    let before = f.get("/api/v1/campaigns", &f.server.admin_token, None).2;
    for wrong in [
        "",
        &"x".repeat(101),
        &"x".repeat(3 << 20),
        "two\nlines",
        "\u{1b}[2J",
        "\0",
        "\u{85}",
        "tab\tin it",
    ] {
        assert_problem(&format!("{:.20?}", wrong), &create(wrong), 400);
    }
    let after = f.get("/api/v1/campaigns", &f.server.admin_token, None).2;
    assert_eq!(before, after, "nothing was made");
    let longest = "\u{6f22}".repeat(100);
    for right in ["x", "a <b> & c", &longest] {
        assert_eq!(create(right).0, 201, "{right}");
    }
    let page = String::from_utf8(f.get("/", "", None).2).unwrap();
    assert!(page.contains(&longest) && !page.contains("<b> &"), "{page}");
    // A server that has just been started has counted nothing, and its page says what that is the count of.
    let counted = page.find("Counted since this server was started").unwrap();
    assert!(page.find("authorisations made").unwrap() > counted);
    f.server.stop().await;
}

/// However many campaigns there are, the page shows the ones that need somebody's eyes, and says how many it does not show; its events name theirs.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_on_the_page_however_many_campaigns_came_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let f = Fixture::start(folder.path(), &Arc::new(SoftHsm::generate().unwrap())).await;
    let first = start_campaign(&f);
    let package_id = f.read(&format!("/api/v1/campaigns/{first}"))["package_id"].clone();
    let create = |name: &str| {
        let wanted = json!({ "name": name, "package_id": package_id }).to_string();
        f.admin("/api/v1/campaigns", wanted.as_bytes())
    };
    let paused = create("the paused one")["id"].as_str().unwrap().to_owned();
    for verb in ["start", "pause"] {
        f.admin(&format!("/api/v1/campaigns/{paused}/{verb}"), b"");
    }
    // All within a second or two: which was made when is still known.
    for n in 0..12 {
        create(&format!("later {n:02}"));
    }
    let page = String::from_utf8(f.get("/", "", None).2).unwrap();
    let (cards, events) = page.split_once("<h2>Last events").unwrap();
    let names: Vec<_> = cards
        .split("<h2>")
        .skip(1)
        .map(|card| card.split(" <span").next().unwrap())
        .collect();
    let running = f.read(&format!("/api/v1/campaigns/{first}"))["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut wanted = vec![running.clone(), "the paused one".to_owned()];
    wanted.extend((4..12).rev().map(|n| format!("later {n:02}")));
    assert_eq!(names, wanted);
    assert!(cards.contains("and 4 more campaigns"), "{cards}");
    assert!(
        events.contains(&format!("<td>campaign running</td><td>{running}</td>")),
        "{events}"
    );
    let listed = f.read("/api/v1/campaigns");
    assert_eq!(listed["campaigns"][0]["id"], first.to_string());
    assert_eq!(
        (listed["campaigns"].as_array().unwrap().len(), &listed["more"]),
        (14, &0.into())
    );
    // One goes first if nothing is said.
    assert_eq!(listed["campaigns"][13]["canary"]["pending"], 1);
    f.server.stop().await;
}

/// A target that is named twice, in whichever case, or that nobody has registered, is said by its id, and there is no campaign.
#[tokio::test(flavor = "multi_thread")]
async fn a_campaigns_targets_are_devices_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let f = Fixture::start(folder.path(), &Arc::new(SoftHsm::generate().unwrap())).await;
    let id = start_campaign(&f);
    let made = f.read(&format!("/api/v1/campaigns/{id}"));
    let (se, unknown) = (SE.to_string(), SeId([7; 10]).to_string());
    for (targets, why) in [
        ([&se, &se], format!("{se} is named twice")),
        ([&se, &se.to_uppercase()], format!("{se} is named twice")),
        ([&se, &unknown], format!("{unknown} is not registered")),
        ([&unknown, &unknown], format!("{unknown} is not registered")),
    ] {
        let wanted = json!({ "name": "test", "package_id": made["package_id"], "targets": targets });
        let wanted = wanted.to_string();
        let answer = f.post("/api/v1/campaigns", &f.server.admin_token, wanted.as_bytes());
        assert_problem(&why, &answer, 400);
        assert!(String::from_utf8_lossy(&answer.2).contains(&why), "{answer:?}");
    }
    let campaigns = f.read("/api/v1/campaigns");
    assert_eq!(campaigns["campaigns"].as_array().unwrap().len(), 1);
    f.server.stop().await;
}

/// What a person has paused goes on when a person says so; what would pause itself at once does not go on.
#[tokio::test(flavor = "multi_thread")]
async fn verbs_do_what_they_say_or_say_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let f = Fixture::start(folder.path(), &Arc::new(SoftHsm::generate().unwrap())).await;
    let id = start_campaign(&f);
    let act = |verb: &str| {
        f.post(
            &format!("/api/v1/campaigns/{id}/{verb}"),
            &f.server.admin_token,
            b"",
        )
    };
    let state = || f.read(&format!("/api/v1/campaigns/{id}"))["state"].clone();
    assert_eq!((act("pause").0, state()), (200, json!("paused")));
    assert_eq!((act("retry").0, state()), (200, json!("paused")));
    assert_eq!((act("resume").0, state()), (200, json!("running")));
    // The only canary fails.
    let link = f.link_token(SE);
    assert_eq!(f.post(&format!("/device/v1/{SE}/equ"), &link, &equ(id, 0)).0, 200);
    let status = format!("534b535401{SE}{id}0200000000");
    for _ in 0..2 {
        let path = format!("/device/v1/{SE}/status");
        assert_eq!(f.post(&path, &link, &hex::decode(&status).unwrap()).0, 200);
    }
    assert_eq!(state(), "paused");
    let events = f.read("/api/v1/events").to_string();
    let answer = act("resume");
    assert_problem("resume", &answer, 409);
    assert!(
        String::from_utf8_lossy(&answer.2).contains("0 of 1 updated"),
        "{answer:?}"
    );
    assert_eq!(
        (state(), f.read("/api/v1/events").to_string()),
        (json!("paused"), events)
    );
    assert_eq!((act("retry").0, state()), (200, json!("running")));
    // A range of HEAD is passed over.
    let url = f.url(&format!("/device/v2/deliveries/{id}"));
    let whole = f.get(&format!("/device/v2/deliveries/{id}"), "", None).2.len();
    let head = f.http.head(url).header("Range", "bytes=0-4").call().unwrap();
    let length = head.headers()["content-length"].to_str().unwrap().to_owned();
    assert_eq!((head.status().as_u16(), length), (200, whole.to_string()));
    f.server.stop().await;
}
