//! A machine with a C compiler and nothing else: what the binary needs to start, and what it says when something is not there.
#![cfg(target_os = "linux")]

use crate::process;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use process::{CardProcess, Guarded, SEKISHO, repository, scratch};
use serde_json::Value;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// What the loader must find before the first line of ours runs, as the file itself says (binutils come with every C compiler).
#[test]
fn the_binary_links_the_c_library_and_its_kin_alone() {
    let output = run(Command::new("readelf").args(["--dynamic", "--wide", SEKISHO]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let dynamic = text(&output.stdout);
    let needed: Vec<&str> = dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split_once('[')?.1.split(']').next())
        .collect();
    assert!(needed.contains(&"libc.so.6"), "{dynamic}");
    for library in needed {
        let kin =
            ["libc.so.6", "libm.so.6", "libgcc_s.so.1"].contains(&library) || library.starts_with("ld-linux");
        assert!(kin, "{library} is a library of the system");
    }
}

/// The loader's own search path puts an empty file before the library, so that it cannot be opened, whether it is installed or not.
#[test]
fn without_pc_sc_a_reader_is_told_what_to_install() {
    let folder = scratch();
    std::fs::write(folder.path().join("libpcsclite.so.1"), b"").unwrap();
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, CERTIFICATE).unwrap();
    let authority = authority.to_str().unwrap();
    let spool = folder.path().join("spool");
    let agent = [
        "agent",
        "--once",
        "--server",
        "https://127.0.0.1:1",
        "--ca",
        authority,
        "--token",
        "00112233445566778899aabbccddeeff",
        "--spool",
        spool.to_str().unwrap(),
    ];
    for args in [&["reader", "--card", "pcsc:", "send", "00B0000004"][..], &agent] {
        let output = run(Command::new(SEKISHO)
            .args(args)
            .env("LD_LIBRARY_PATH", folder.path()));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        for part in [
            "PC/SC is not installed",
            "libpcsclite.so.1",
            "apt-get install pcscd",
        ] {
            assert!(said.contains(part), "{args:?}: {said}");
        }
    }
    // Whoever asks for no reader does not miss it.
    let output = run(Command::new(SEKISHO)
        .args(["reader", "send", "00A4020C020011", "00B0000004"])
        .env("LD_LIBRARY_PATH", folder.path()));
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// A certificate of no interest.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBETCBuQIUQwCQqlThWwW9pIfx9sRtg5MvK2AwCgYIKoZIzj0EAwIwDDEKMAgG
-----END CERTIFICATE-----
";

/// The binary with so many files as soft and hard limit, which it cannot raise.
fn with_files(limit: u32, args: &[&str]) -> Output {
    let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
    run(Command::new("sh").args(["-c", &script, SEKISHO]).args(args))
}

/// README's example has ten times the devices and eight times the files; what a device does not give back is found by either.
#[test]
fn a_lab_of_many_devices_needs_few_files() {
    let output = with_files(128, &["lab", "--devices", "100", "--once", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["running_new_version"], 100, "{report}");
}

#[test]
fn when_files_run_out_it_says_so() {
    // Whatever could not be opened first: the database, the server's sockets, the server's end of a device's connection.
    for limit in [12, 16, 20, 24, 32, 48, 64, 80] {
        let output = with_files(limit, &["lab", "--devices", "20", "--once"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{limit}: {said}");
        assert!(
            said.to_lowercase().contains("too many open files"),
            "{limit}: {said}"
        );
    }
}

/// Connections that say nothing take no file that administration needs: the idlest give way at the device port. A server whose files are gone all the same, as it bounds no
/// administrator, says so, and that it goes on when they are back.
#[test]
fn a_server_keeps_files_back_and_says_when_they_run_out() {
    let folder = scratch();
    ok(folder.path(), &["hsm", "init"]);
    let any = "127.0.0.1:0";
    let script = "ulimit -n 48 && exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args([
        "-c",
        script,
        SEKISHO,
        "server",
        "--device-address",
        any,
        "--admin-address",
        any,
    ]);
    let command = command
        .current_dir(folder.path())
        .env("SEKISHO_PASSPHRASE", "a passphrase of the test");
    let mut server = Guarded(command.stderr(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(server.0.stderr.take().unwrap()).lines();
    let (says, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| says.send(line)));
    let hear = |what: &str| loop {
        let line = said.recv_timeout(Duration::from_secs(30)).expect(what);
        if line.contains(what) {
            return line;
        }
    };
    let heard = |what: &str| {
        let line = hear(what);
        let address = line.split_once("://").unwrap().1;
        address.split([' ', '/']).next().unwrap().to_owned()
    };
    let (devices, administration) = (heard("devices"), heard("administration"));
    let idle: Vec<_> = (0..64).map(|_| TcpStream::connect(&devices).unwrap()).collect();
    // It takes them in, and lets most of them go.
    std::thread::sleep(Duration::from_millis(500));
    for path in ["livez", "readyz"] {
        let mut answer = ureq::get(format!("http://{administration}/health/{path}"))
            .config()
            .timeout_global(Some(Duration::from_secs(5)))
            .build()
            .call()
            .unwrap();
        assert_eq!(answer.body_mut().read_to_string().unwrap(), "ok\n");
    }
    drop(idle);
    let connections: Vec<_> = (0..64)
        .map(|_| TcpStream::connect(&administration).unwrap())
        .collect();
    hear("too many open files");
    drop(connections);
    hear("room for connections again");
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let script = "ulimit -S -n 64 && exec \"$0\" \"$@\"";
    let output = run(Command::new("sh").args(["-c", script, SEKISHO]).args([
        "lab",
        "--devices",
        "60",
        "--once",
        "--json",
    ]));
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Ends a process by a signal in the middle of its work; its exit code, when nothing of it is left in the folder of temporary files.
fn interrupted(args: &[&str], signal: Signal, ready: &str) -> Option<i32> {
    let folder = scratch();
    let mut child = Guarded(
        Command::new(SEKISHO)
            .args(args)
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut stderr = BufReader::new(child.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(ready) {
        line.clear();
        assert_ne!(
            stderr.read_line(&mut line).unwrap(),
            0,
            "{args:?} ended before \"{ready}\""
        );
    }
    // What it says goes on, and somebody has to hear it.
    let hears = std::thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = stderr.read_to_end(&mut rest);
    });
    let is_empty = || std::fs::read_dir(folder.path()).unwrap().next().is_none();
    let begun = Instant::now();
    while is_empty() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{args:?} makes no folder"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(Pid::from_raw(child.0.id().try_into().unwrap()), signal).unwrap();
    let status = child.0.wait().unwrap();
    hears.join().unwrap();
    assert!(is_empty(), "{args:?} leaves its folder");
    status.code()
}

#[test]
fn no_temporary_folder_stays_when_a_signal_ends_it() {
    let lab = ["lab", "--devices", "300"];
    assert_eq!(interrupted(&lab, Signal::SIGINT, "live page"), Some(130));
    assert_eq!(interrupted(&lab, Signal::SIGTERM, "campaign"), Some(143));
    // Where it waits for the signal, that is its ordinary end.
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        assert_eq!(
            interrupted(&["lab", "--devices", "3"], signal, "stays up"),
            Some(0)
        );
    }
    let load = [
        "load",
        "paging",
        "--devices",
        "2000",
        "--random",
        "--seconds",
        "60",
    ];
    assert_eq!(interrupted(&load, Signal::SIGINT, "making"), Some(130));
}

#[test]
fn it_ends_without_a_word_when_nobody_reads() {
    let folder = scratch();
    for args in [
        &["lab", "--devices", "2", "--once"][..],
        &["reader", "send", "00B0810004"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(Command::new(SEKISHO)
            .args(args)
            .env("TMPDIR", folder.path())
            .stdout(writer));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(141), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{args:?}: {said}");
        assert!(
            std::fs::read_dir(folder.path()).unwrap().next().is_none(),
            "{args:?}"
        );
    }
}

#[test]
fn a_full_disk_behind_what_it_says_is_no_panic() {
    let folder = scratch();
    for args in [
        &["lab", "--devices", "2", "--once"][..],
        &["reader", "send", "00B0810004"],
        &["analyse", "rolling", "--json"],
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = run(Command::new(SEKISHO)
            .args(args)
            .env("TMPDIR", folder.path())
            .stdout(full));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(
            said.contains("No space left") && !said.contains("panicked"),
            "{args:?}: {said}"
        );
        assert!(
            std::fs::read_dir(folder.path()).unwrap().next().is_none(),
            "{args:?}"
        );
    }
}

#[test]
fn no_file_left_to_hear_signals_with_is_no_panic() {
    let folder = scratch();
    let mut ran_out = 0;
    for files in 4..12 {
        let output = run(Command::new("sh")
            .arg("-c")
            .arg(format!(
                "ulimit -n {files}; exec {SEKISHO} lab --devices 1 --once"
            ))
            .env("TMPDIR", folder.path()));
        let said = text(&output.stderr);
        assert!(!said.contains("panicked"), "{files} files: {said}");
        ran_out += usize::from(output.status.code() == Some(1));
    }
    assert!(ran_out > 0);
}

/// A command with the umask that most people have.
fn usual(folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 022 && exec \"$0\" \"$@\"", SEKISHO])
        .current_dir(folder)
        .env("SEKISHO_PASSPHRASE", "a passphrase of the test");
    command
}

fn ok(folder: &Path, args: &[&str]) -> String {
    let output = run(usual(folder).args(args));
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// A server, once it is ready, and what it says at the beginning of each line.
fn server(folder: &Path, args: &[&str]) -> (Guarded, BTreeMap<String, String>) {
    let mut child = Guarded(
        usual(folder)
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let mut said = BTreeMap::new();
    while !said.contains_key("paging") {
        let line = lines.next().unwrap().unwrap();
        let (name, rest) = line.split_once(char::is_whitespace).unwrap();
        said.insert(name.to_owned(), rest.trim().to_owned());
    }
    std::thread::spawn(move || lines.for_each(drop));
    (child, said)
}

/// The mode of every file below a folder.
fn modes(folder: &Path, found: &mut BTreeMap<String, u32>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            modes(&entry.path(), found);
        } else {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            found.insert(entry.path().to_str().unwrap().to_owned(), mode);
        }
    }
}

/// What is for everybody; what a test has written itself does not count.
const PUBLIC: [&str; 3] = ["certificate.pem", "authority.pem", "update.skpk"];

fn check_modes(folder: &Path, expected: &[&str]) {
    let mut found = BTreeMap::new();
    modes(folder, &mut found);
    for name in expected {
        assert!(
            found.keys().any(|path| path.ends_with(name)),
            "{name} in {found:?}"
        );
    }
    for (path, mode) in &found {
        let is_public = PUBLIC.iter().any(|name| path.ends_with(name));
        let right = if is_public { 0o644 } else { 0o600 };
        assert_eq!(*mode, right, "{path}: {mode:o}");
    }
}

const SE_ID: &str = "5EC15400000000000043";

/// Runs everything that writes something, in a folder: servers, a card, an agent, the tools. Modes are right while all of it runs, and when the servers have
/// stopped; `there` must be there.
fn whole_system(path: &Path, there: &[&str]) {
    let any = "127.0.0.1:0";
    let mut start = vec!["server", "--paging-address", any];
    start.extend(["--device-address", any, "--admin-address", any]);
    let random = ["paging", "--paging-address", any, "--paging-scheme", "random"];
    let [perso, product] = ["perso.json", "product.json"].map(|name| path.join(name));
    let card = CardProcess::start(
        &path.join("card.flash"),
        0,
        &[
            "--perso",
            perso.to_str().unwrap(),
            "--product",
            product.to_str().unwrap(),
        ],
    );
    let (main, said) = server(path, &start);
    let (paging, _) = server(path, &random);
    let address = |name: &str| said[name].split_whitespace().next().unwrap();
    let fleet = ["fleet", "--server", address("administration")];
    let registered = ok(path, &[&fleet[..], &["register", SE_ID]].concat());
    let registered: Value = serde_json::from_str(&registered).unwrap();
    let token = registered["devices"][0]["link_token"].as_str().unwrap();
    ok(path, &[&fleet[..], &["paging", "register", SE_ID]].concat());
    let card_at = format!("tcp:{}", card.address);
    let mut agent = vec![
        "agent",
        "--once",
        "--server",
        address("devices"),
        "--card",
        &card_at,
    ];
    agent.extend(["--ca", "sekisho-server/certificate.pem", "--token", token]);
    ok(path, &agent);
    ok(path, &["hsm", "check"]);
    let part = repository("applets/prebuilt/meter-v2.wasm");
    let _ = std::fs::remove_file(path.join("update.skpk"));
    ok(
        path,
        &["design", "pack", part.to_str().unwrap(), "--version", "2"],
    );
    check_modes(path, &[there, &["fleet.sqlite-wal", "fleet.sqlite-shm"]].concat());
    for mut process in [main, paging] {
        kill(Pid::from_raw(process.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        assert_eq!(process.0.wait().unwrap().code(), Some(0));
    }
    check_modes(path, &[there, &["paging.snapshot"]].concat());
}

/// Keys, cards, databases with their side files, snapshots, journals, spools: each is closed to others when it is made, and closed again when an earlier
/// version, or a copy, has left it open.
#[test]
fn secrets_are_for_their_owner_alone() {
    let folder = scratch();
    let path = folder.path();
    ok(path, &["hsm", "init"]);
    ok(path, &["design", "ceremony"]);
    ok(path, &["hsm", "perso", "--in-the-clear", "--se-id", SE_ID]);
    ok(path, &["design", "hand-over", "--in-the-clear"]);
    let beside = scratch();
    let its_own = beside.path().join("passphrase");
    std::fs::write(&its_own, "a passphrase of its own").unwrap();
    let its_own = ["--handover-passphrase-file", its_own.to_str().unwrap()];
    ok(
        path,
        &[&["hsm", "perso", "--se-id", SE_ID][..], &its_own].concat(),
    );
    ok(path, &[&["design", "hand-over"][..], &its_own].concat());
    ok(
        path,
        &[&["hsm", "wrapping-key", "--se-id", SE_ID][..], &its_own].concat(),
    );
    let sealed = ["perso.sealed", "product.sealed", "wrapping-key.sealed"];
    check_modes(path, &sealed);
    // The others make the card.
    for name in sealed {
        std::fs::remove_file(path.join(name)).unwrap();
    }
    let mut there = vec![
        "keystore.sealed",
        "ceremony.sealed",
        "perso.json",
        "product.json",
        "update.skpk",
        "card.flash",
        "agent-spool/lock",
    ];
    there.extend([
        "admin.token",
        "authority.key",
        "authority.pem",
        "certificate.key",
        "certificate.pem",
        "fleet.sqlite",
    ]);
    there.extend(["sekisho-server/paging.sqlite", "sekisho-paging/paging.sqlite"]);
    whole_system(path, &there);
    let mut found = BTreeMap::new();
    modes(path, &mut found);
    for path in found.keys() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    whole_system(path, &there);
}
