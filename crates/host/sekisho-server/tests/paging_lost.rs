//! Paging's PostgreSQL falls silent, as behind a network that has gone: campaigns go on, and paging does when it is back, without a restart.

use crate::postgres;
use crate::support;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::Postgres;
use sekisho_hsm::SoftHsm;
use sekisho_link::SeId;
use serde_json::json;
use support::{Fixture, package_of, public};

const SE: SeId = SeId([0x77; 10]);

/// A way to a database that can fall silent. Connections that it fell silent on, or that begin meanwhile, stay open and say nothing more, ever.
#[derive(Clone)]
struct Way {
    address: SocketAddr,
    /// Odd while it is silent.
    turn: Arc<AtomicU32>,
}

impl Way {
    fn to(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let way = Self {
            address: listener.local_addr().unwrap(),
            turn: Arc::default(),
        };
        let own = way.clone();
        thread::spawn(move || {
            let mut silent = Vec::new();
            for from in listener.incoming().map_while(Result::ok) {
                let turn = own.turn.load(Ordering::SeqCst);
                match UnixStream::connect(&socket) {
                    Ok(to) if turn.is_multiple_of(2) => own.carry(&from, &to, turn),
                    _ => silent.push(from),
                }
            }
        });
        way
    }

    fn carry(&self, a: &TcpStream, b: &UnixStream, turn: u32) {
        let (mut from, mut to) = (a.try_clone().unwrap(), b.try_clone().unwrap());
        let way = self.clone();
        thread::spawn(move || {
            way.forward(&mut from, &mut to, turn);
            let _ = to.shutdown(Shutdown::Both);
        });
        let (mut from, mut to) = (b.try_clone().unwrap(), a.try_clone().unwrap());
        let way = self.clone();
        thread::spawn(move || {
            way.forward(&mut from, &mut to, turn);
            let _ = to.shutdown(Shutdown::Both);
        });
    }

    fn forward(&self, from: &mut impl Read, to: &mut impl Write, turn: u32) {
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut bytes) {
            while self.turn.load(Ordering::SeqCst) != turn {
                thread::sleep(Duration::from_secs(600));
            }
            if to.write_all(&bytes[..n]).is_err() {
                return;
            }
        }
    }

    fn turn(&self) {
        self.turn.fetch_add(1, Ordering::SeqCst);
    }
}

/// Waits until it is so, for half a minute.
fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaigns_go_on_without_pagings_database_and_paging_when_it_is_back() {
    let postgres = Postgres::start();
    let way = Way::to(postgres.socket());
    let folder = tempfile::tempdir().unwrap();
    let hsm = Arc::new(SoftHsm::generate().unwrap());
    let url = format!("postgres://sekisho@{}/postgres?sslmode=disable", way.address);
    let f = Fixture::start_with(folder.path(), &hsm, url).await;
    let paging = Arc::clone(f.server.paging.as_ref().unwrap());
    let registered = json!([{ "se_id": SE.to_string(), "kvn": 0x30 }]).to_string();
    f.admin("/api/v1/devices", registered.as_bytes());
    let (package, _, signer) = package_of(1, 2, 1);
    let uploaded = f.admin(
        &format!("/api/v1/packages?designer={}", public(&signer)),
        &package,
    );
    let campaign = || {
        let wanted = json!({ "name": "test", "package_id": uploaded["package_id"] }).to_string();
        let made = f.admin("/api/v1/campaigns", wanted.as_bytes());
        made["id"].as_str().unwrap().to_owned()
    };
    let act = |id: &str, verb: &str| {
        let begun = Instant::now();
        let done = f.admin(&format!("/api/v1/campaigns/{id}/{verb}"), b"");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(8), "{verb} took {took:?}");
        done["state"].as_str().unwrap().to_owned()
    };
    let [first, second] = [campaign(), campaign()];
    assert_eq!(act(&first, "start"), "running");
    assert_eq!(paging.engine().intents(), 1);

    way.turn();
    // At once, when nobody knows yet that it is silent, and later.
    assert_eq!(act(&first, "abort"), "aborted");
    wait("it is not found to be away", || paging.is_away());
    assert_eq!(act(&second, "start"), "running");
    assert_eq!(f.get("/", "", None).0, 200);
    // Longer than a connection is waited for: all of them are given up.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(paging.engine().intents(), 1, "what is known is told on");

    let healed = Instant::now();
    way.turn();
    wait("it does not find its database again", || !paging.is_away());
    let posted = f.admin("/api/v1/paging/messages", br#"{"action":"open-https"}"#);
    let order = posted["order"].as_u64().unwrap();
    // The second campaign's message has come, the first one's has been taken back, and there is ours.
    wait("campaigns are not announced", || paging.engine().intents() == 2);
    println!("paging goes on after {:?}", healed.elapsed());
    assert!(order >= 2);
    assert_eq!(act(&second, "abort"), "aborted");
    wait("nothing is taken back", || paging.engine().intents() == 1);
    // Silent once more: it stops all the same.
    way.turn();
    let stopped = tokio::time::timeout(Duration::from_secs(20), f.server.stop()).await;
    assert!(stopped.is_ok(), "it does not stop");
}
