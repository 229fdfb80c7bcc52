//! What paging tells the devices of campaigns stands over a restart: told once, taken back when it is over, and nobody else's message with it.

use crate::support;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sekisho_hsm::SoftHsm;
use sekisho_link::SeId;
use serde_json::json;
use support::{Fixture, package_of, public};

const SE: SeId = SeId([0x77; 10]);

/// How many messages wait for devices.
fn messages(f: &Fixture) -> usize {
    f.server.paging.as_ref().unwrap().engine().intents()
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A campaign that runs.
fn campaign(f: &Fixture) -> String {
    let registered = json!([{ "se_id": SE.to_string(), "kvn": 0x30 }]).to_string();
    f.admin("/api/v1/devices", registered.as_bytes());
    let (package, _, signer) = package_of(1, 2, 1);
    let path = format!("/api/v1/packages?designer={}", public(&signer));
    let uploaded = f.admin(&path, &package);
    let wanted = json!({ "name": "test", "package_id": uploaded["package_id"] }).to_string();
    let id = f.admin("/api/v1/campaigns", wanted.as_bytes())["id"]
        .as_str()
        .unwrap()
        .to_owned();
    f.admin(&format!("/api/v1/campaigns/{id}/start"), b"");
    id
}

async fn restarted(f: Fixture, folder: &Path, paging: &str) -> Fixture {
    let hsm = Arc::clone(&f.hsm);
    f.server.stop().await;
    let url = format!("sqlite:{}", folder.join(paging).display());
    Fixture::start_with(folder, &hsm, url).await
}

/// Longer than the server takes to do what a start has left to do: each second.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(2500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_tells_nobody_twice_and_takes_back_what_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let hsm = Arc::new(SoftHsm::generate().unwrap());
    let f = Fixture::start(folder.path(), &hsm).await;
    let id = campaign(&f);
    assert_eq!(messages(&f), 1);

    let f = restarted(f, folder.path(), "paging.sqlite").await;
    settled().await;
    assert_eq!(messages(&f), 1, "told twice");
    f.admin(&format!("/api/v1/campaigns/{id}/pause"), b"");
    wait("it is not taken back", || messages(&f) == 0);
    f.admin(&format!("/api/v1/campaigns/{id}/resume"), b"");
    wait("it is not told again", || messages(&f) == 1);

    // Another paging database has never heard of it: it is told there, and a message that has the order of the old one is not taken for it.
    let f = restarted(f, folder.path(), "other.sqlite").await;
    let first = f.admin("/api/v1/paging/messages", br#"{"action":"open-https"}"#);
    assert!(first["order"].as_u64().unwrap() <= 2, "{first}");
    wait("it is not told there", || messages(&f) == 2);
    f.admin("/api/v1/paging/messages", br#"{"action":"open-https"}"#);
    assert_eq!(messages(&f), 3);
    f.admin(&format!("/api/v1/campaigns/{id}/abort"), b"");
    settled().await;
    assert_eq!(messages(&f), 2, "what the operator sent stands");
    f.server.stop().await;
}
