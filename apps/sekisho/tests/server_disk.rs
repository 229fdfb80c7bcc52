//! The server without room on its disk (`ulimit -f`, which a write meets as it meets a full disk): it says so, and goes on by itself when there is room again.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sekisho_hsm::SoftHsm;

const PASSPHRASE: &str = "of this test";

/// `sekisho server` under a limit of so many bytes for a file, which can be raised.
fn command(folder: &Path, limit: &str, addresses: [SocketAddr; 2]) -> Command {
    let mut command = Command::new("prlimit");
    let [device, admin] = addresses.map(|address| address.to_string());
    command
        .arg(format!("--fsize={limit}:unlimited"))
        .arg(env!("CARGO_BIN_EXE_sekisho"))
        .args(["server", "--device-address", &device, "--admin-address", &admin])
        .arg("--folder")
        .arg(folder)
        .arg("--keystore")
        .arg(folder.join("keystore.sealed"))
        .env("SEKISHO_PASSPHRASE", PASSPHRASE)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn addresses() -> [SocketAddr; 2] {
    [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

/// A server process; ended when dropped. What it has said so far.
struct Server(Child, Arc<Mutex<String>>, SocketAddr);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn keystore(folder: &Path) {
    let hsm = SoftHsm::generate().unwrap();
    hsm.save(&folder.join("keystore.sealed"), PASSPHRASE.as_bytes())
        .unwrap();
}

fn start(folder: &Path, limit: &str) -> Server {
    let addresses = addresses();
    let mut child = command(folder, limit, addresses).spawn().unwrap();
    let said = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&said);
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            *heard.lock().unwrap() += &(line + "\n");
        }
    });
    let server = Server(child, said, addresses[1]);
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.ready() != 200 {
        assert!(Instant::now() < deadline, "it does not start: {}", server.said());
        thread::sleep(Duration::from_millis(20));
    }
    server
}

impl Server {
    fn said(&self) -> String {
        self.1.lock().unwrap().clone()
    }

    fn limit(&self, bytes: &str) {
        let pid = self.0.id().to_string();
        let limit = format!("--fsize={bytes}:unlimited");
        let set = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
        assert!(set.unwrap().success());
    }

    fn ready(&self) -> u16 {
        status(ureq::get(format!("http://{}/health/readyz", self.2)).call())
    }

    /// Registers a hundred devices.
    fn register(&self, folder: &Path, from: u32) -> u16 {
        let token = std::fs::read_to_string(folder.join("admin.token")).unwrap();
        let devices: Vec<_> = (from..from + 100)
            .map(|n| serde_json::json!({ "se_id": format!("{n:020}"), "kvn": 0x30 }))
            .collect();
        let request = ureq::post(format!("http://{}/api/v1/devices", self.2));
        let request = request.header("Authorization", format!("Bearer {}", token.trim()));
        status(request.send(serde_json::json!(devices).to_string()))
    }
}

fn status(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> u16 {
    match result {
        Ok(response) => response.status().as_u16(),
        Err(ureq::Error::StatusCode(status)) => status,
        Err(_) => 0,
    }
}

/// Each of the four connections to the database, and more, meets the full disk; then there is room, and every write goes on.
#[test]
fn a_full_disk_is_told_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    keystore(folder);
    let server = start(folder, "unlimited");
    server.limit("1000000");
    let mut next = 0;
    let mut outcomes = [0, 0, 0];
    while outcomes[1] < 12 {
        match server.register(folder, next) {
            201 | 200 => outcomes[0] += 1,
            503 => outcomes[1] += 1,
            other => panic!("{other}: {}", server.said()),
        }
        next += 100;
        assert!(next < 200_000, "the disk is never full");
    }
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(server.ready(), 503, "it is not ready: {}", server.said());
    assert!(server.said().contains("ERROR"), "it says why: {}", server.said());

    server.limit("unlimited");
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(server.ready(), 200, "{}", server.said());
    for _ in 0..24 {
        let status = server.register(folder, next);
        assert!(matches!(status, 200 | 201), "{status}: {}", server.said());
        outcomes[2] += 1;
        next += 100;
    }
    let [before, during, after] = outcomes;
    println!("{before} writes before the disk was full, {during} refused, {after} after");
    assert!(before > 0);
    let left: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn ended(mut child: Child) -> Output {
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it goes on");
        }
        thread::sleep(Duration::from_millis(20));
    }
    let mut stderr = Vec::new();
    child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
    Output {
        status: child.wait().unwrap(),
        stdout: Vec::new(),
        stderr,
    }
}

#[test]
fn a_database_that_cannot_be_written_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    keystore(folder);
    drop(start(folder, "unlimited"));
    let out = ended(command(folder, "0", addresses()).spawn().unwrap());
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("database"), "{said}");
    drop(start(folder, "unlimited"));
}

#[test]
fn a_second_server_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    keystore(folder);
    let first = start(folder, "unlimited");
    let out = ended(command(folder, "unlimited", addresses()).spawn().unwrap());
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("another server"), "{said}");
    assert_eq!(first.ready(), 200);
    drop(first);
    // A killed server leaves nothing behind that would keep the next one out.
    drop(start(folder, "unlimited"));
}
