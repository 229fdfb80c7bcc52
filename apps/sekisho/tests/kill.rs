//! The server is killed (SIGKILL) again and again in a campaign: no device is lost, and no sequence counter is used for two authorisations.

use crate::virtual_se;
use sekisho_device::{
    Agent, Backend, BackendError, HttpsBackend, HttpsConfig, LinkToken, MemorySpool, Part, Permission, Turn,
};
use sekisho_hsm::design::{Ceremony, PackOptions};
use sekisho_hsm::{KVN_SCP, SoftHsm};
use sekisho_link::{Access, Authorisation, Campaign, Custody, Offer, SeId, Verdict};
use sekisho_os::{Interface, Profile, SecureElement};
use sekisho_transport::{Card, TransportError};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use virtual_se::{Virtual, element};

static METER_2: &[u8] = include_bytes!("../../../applets/prebuilt/meter-v2.wasm");

const DEVICES: u8 = 12;
const KILLS: usize = 6;
const PASSPHRASE: &str = "of this test";

struct Socket(SecureElement<Virtual>);

impl Card for Socket {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        let mut answer = [0; 4096];
        let len = self.0.transmit(Interface::Spi, capdu, &mut answer);
        Ok(answer[..len].to_vec())
    }

    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        self.0.reset(Interface::Spi);
        Ok(self.0.atr().to_vec())
    }
}

/// Every authorisation that has ever left the server: SE and sequence counter, and its bytes.
type Seen = Arc<Mutex<HashMap<(SeId, u32), Vec<u8>>>>;

/// The server, with an ear on its authorisations.
struct Recording {
    inner: HttpsBackend,
    seen: Seen,
}

impl Backend for Recording {
    fn offer(&mut self, se_id: SeId) -> Result<Option<Offer>, BackendError> {
        self.inner.offer(se_id)
    }

    fn delivery(&mut self, campaign: Campaign, from: u32, etag: Option<&str>) -> Result<Part, BackendError> {
        self.inner.delivery(campaign, from, etag)
    }

    fn permission(&mut self, se_id: SeId, equ: &[u8]) -> Result<Permission, BackendError> {
        let permission = self.inner.permission(se_id, equ)?;
        if let Permission::Granted(bytes) = &permission {
            let counter = Authorisation::decode(bytes).unwrap().head.sequence_counter;
            let mut seen = self.seen.lock().unwrap();
            let first = seen.entry((se_id, counter)).or_insert_with(|| bytes.clone());
            assert_eq!(first, bytes, "counter {counter} of {se_id} was used twice");
        }
        Ok(permission)
    }

    fn status(&mut self, se_id: SeId, st: &[u8]) -> Result<Verdict, BackendError> {
        self.inner.status(se_id, st)
    }
}

/// A server process; killed when dropped.
struct Server {
    child: Child,
    folder: std::path::PathBuf,
    device: SocketAddr,
    admin: SocketAddr,
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Server {
    fn start(folder: &Path, device: SocketAddr, admin: SocketAddr) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_sekisho"))
            .arg("server")
            .args([
                "--device-address",
                &device.to_string(),
                "--admin-address",
                &admin.to_string(),
            ])
            .arg("--folder")
            .arg(folder)
            .arg("--keystore")
            .arg(folder.join("keystore.sealed"))
            .env("SEKISHO_PASSPHRASE", PASSPHRASE)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            child,
            folder: folder.to_owned(),
            device,
            admin,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while ureq::get(format!("http://{admin}/health/readyz")).call().is_err() {
            assert!(Instant::now() < deadline, "the server does not start");
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn post(&self, path: &str, body: &[u8]) -> Value {
        let token = std::fs::read_to_string(self.folder.join("admin.token")).unwrap();
        let request = ureq::post(format!("http://{}/api/v1/{path}", self.admin));
        let mut answer = request
            .header("Authorization", format!("Bearer {}", token.trim()))
            .send(body)
            .unwrap();
        serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
    }

    /// SIGKILL, and a new process on the same database.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        *self = Self::start(&self.folder, self.device, self.admin);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until_allowed(mut agent: Agent<Recording, MemorySpool>, mut socket: Socket) {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        assert!(Instant::now() < deadline, "a device is lost");
        match agent.turn(&mut socket, &mut |_| ()) {
            Ok(Turn::Ended { verdict, .. }) if verdict.access == Access::Allowed => return,
            Ok(Turn::Blocked(words)) => panic!("blocked: {words}"),
            _ => thread::sleep(Duration::from_millis(30)),
        }
    }
}

/// A campaign of all `ids`, started; gives their link tokens.
fn campaign(server: &Server, ceremony: &Ceremony, ids: &[SeId]) -> Vec<String> {
    let devices: Vec<_> = ids
        .iter()
        .map(|id| json!({ "se_id": id.to_string(), "kvn": KVN_SCP }))
        .collect();
    let registered = server.post("devices", json!(devices).to_string().as_bytes());
    let options = PackOptions {
        version: 2,
        min_previous: 1,
        custody: Custody::Hsm,
    };
    let package = ceremony.pack(METER_2, options).unwrap();
    let designer = hex::encode(ceremony.designer_public());
    let package = server.post(&format!("packages?designer={designer}"), &package);
    let wanted =
        json!({ "name": "kill", "package_id": package["package_id"], "canary": 2, "attempts_max": 1000 });
    let made = server.post("campaigns", wanted.to_string().as_bytes());
    server.post(&format!("campaigns/{}/start", made["id"].as_str().unwrap()), b"");
    let tokens = registered["devices"].as_array().unwrap();
    tokens
        .iter()
        .map(|device| device["link_token"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_campaign_survives_a_server_that_is_killed_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let hsm = SoftHsm::generate().unwrap();
    hsm.save(&folder.path().join("keystore.sealed"), PASSPHRASE.as_bytes())
        .unwrap();
    let ceremony = Ceremony::generate().unwrap();
    let mut server = Server::start(folder.path(), free_address(), free_address());
    let ids: Vec<SeId> = (0..DEVICES)
        .map(|n| SeId([0, 0, 0, 0, 0, 0, 0, 0, 1, n]))
        .collect();
    let tokens = campaign(&server, &ceremony, &ids);
    let certificate = std::fs::read(folder.path().join("certificate.pem")).unwrap();

    let (seen, done) = (Seen::default(), AtomicUsize::new(0));
    thread::scope(|scope| {
        for (id, token) in ids.iter().zip(&tokens) {
            let config = HttpsConfig {
                server: format!("https://{}", server.device),
                authorities: certificate.clone(),
                token: LinkToken::new(token).unwrap(),
                timeout: Duration::from_secs(5),
            };
            let backend = Recording {
                inner: HttpsBackend::new(&config).unwrap(),
                seen: Arc::clone(&seen),
            };
            let agent = Agent::new(backend, MemorySpool::new(), 1 << 20, None);
            let (socket, done, number) = (
                Socket(element(&hsm, &ceremony, *id, &Profile::default())),
                &done,
                u64::from(id.0[9]),
            );
            scope.spawn(move || {
                // Spread over the kills.
                thread::sleep(Duration::from_millis(number * 150));
                until_allowed(agent, socket);
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        for kill in 0..KILLS {
            thread::sleep(Duration::from_millis(60 + 47 * u64::try_from(kill).unwrap()));
            server.kill();
        }
    });
    assert_eq!(done.load(Ordering::SeqCst), ids.len());
    assert!(seen.lock().unwrap().len() >= ids.len());
    let token = std::fs::read_to_string(folder.path().join("admin.token")).unwrap();
    let mut answer = ureq::get(format!("http://{}/api/v1/campaigns", server.admin))
        .header("Authorization", format!("Bearer {}", token.trim()))
        .call()
        .unwrap();
    let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
    let campaign = &answer["campaigns"][0];
    let updated =
        campaign["canary"]["updated"].as_u64().unwrap() + campaign["rest"]["updated"].as_u64().unwrap();
    assert_eq!(
        (updated, campaign["state"].as_str()),
        (u64::from(DEVICES), Some("done")),
        "{campaign}"
    );
}
