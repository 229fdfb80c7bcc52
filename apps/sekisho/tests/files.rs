//! Files that commands make and read: what two runs at once make, what is never replaced, what has no end.

use crate::process;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use process::{SEKISHO, scratch};
use sekisho_card_tests::takes_all;
use sekisho_hsm::design::Ceremony;
use sekisho_hsm::sealed::{self, Purpose};
use sekisho_hsm::{IndividualKey, SoftHsm};
use sekisho_link::{KeyChange, Package};

const OWN: &str = "of the designer";
const HAND_OVER: &str = "of what is handed over";
const SE_ID: &str = "5ec154000000000000aa";
const MODULE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../applets/prebuilt/meter-v2.wasm"
);

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(SEKISHO);
    command
        .args(arguments)
        .current_dir(folder)
        .env("SEKISHO_PASSPHRASE", OWN)
        .env("SEKISHO_HANDOVER_PASSPHRASE", HAND_OVER)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Exit code, standard output, standard error.
type Ran = (i32, String, String);

fn ran(output: std::process::Output) -> Ran {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

fn sekisho(folder: &Path, arguments: &[&str]) -> Ran {
    ran(command(folder, arguments).output().unwrap())
}

fn ok(folder: &Path, arguments: &[&str]) -> String {
    let (code, out, error) = sekisho(folder, arguments);
    assert_eq!(code, 0, "{arguments:?}: {error}");
    out
}

/// The same command four times at once.
fn at_once(folder: &Path, arguments: &[&str]) -> Vec<Ran> {
    let started: Vec<_> = (0..4)
        .map(|_| command(folder, arguments).spawn().unwrap())
        .collect();
    started
        .into_iter()
        .map(|child| ran(child.wait_with_output().unwrap()))
        .collect()
}

/// Names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Every command that makes files: with the names that it makes, one of which a run that loses names.
fn makers() -> Vec<(Vec<&'static str>, &'static [&'static str])> {
    let perso = ["hsm", "perso", "--se-id", SE_ID, "--out", "made"];
    vec![
        (vec!["design", "ceremony", "--out", "made"], &["made"]),
        (vec!["hsm", "init", "--out", "made"], &["made"]),
        (
            vec!["design", "rotate", "--next", "made", "--out", "package"],
            &["made", "package"],
        ),
        (vec!["design", "hand-over", "--out", "made"], &["made"]),
        (
            vec!["design", "hand-over", "--in-the-clear", "--out", "made"],
            &["made"],
        ),
        (perso.to_vec(), &["made"]),
        ([&perso[..], &["--in-the-clear"]].concat(), &["made"]),
        (
            vec!["hsm", "wrapping-key", "--se-id", SE_ID, "--out", "made"],
            &["made"],
        ),
        (
            vec!["design", "pack", MODULE, "--version", "2", "--out", "made"],
            &["made"],
        ),
    ]
}

/// What was made opens, and is what the run that made it says.
fn belongs(folder: &Path, arguments: &[&str], said: &str) {
    let made = folder.join("made");
    match arguments[..2] {
        ["design", "ceremony"] | ["design", "rotate"] => {
            let ceremony = Ceremony::load(&made, OWN.as_bytes()).unwrap();
            assert!(said.contains(&hex::encode(ceremony.designer_public())), "{said}");
            if arguments[1] == "rotate" {
                let package = fs::read(folder.join("package")).unwrap();
                let present = Ceremony::load(&folder.join("ceremony.sealed"), OWN.as_bytes()).unwrap();
                let image = present.image(&Package::decode(&package).unwrap().source).unwrap();
                let change = KeyChange::decode(&image).unwrap();
                assert_eq!(change.designer.unwrap(), ceremony.designer_public());
            }
        }
        ["hsm", "init"] => drop(SoftHsm::load(&made, OWN.as_bytes()).unwrap()),
        ["hsm", "wrapping-key"] => {
            let key = IndividualKey::load(&made, HAND_OVER.as_bytes()).unwrap();
            assert!(said.contains(&hex::encode(key.package_id)), "{said}");
        }
        ["design", "pack"] => {
            Package::decode(&fs::read(&made).unwrap()).unwrap();
        }
        [_, what] => {
            let text = if arguments.contains(&"--in-the-clear") {
                fs::read(&made).unwrap()
            } else {
                let purpose = if what == "perso" {
                    Purpose::Personalisation
                } else {
                    Purpose::Product
                };
                sealed::read(&made, purpose, HAND_OVER.as_bytes())
                    .unwrap()
                    .to_vec()
            };
            serde_json::from_slice::<serde_json::Value>(&text).unwrap();
        }
        _ => unreachable!(),
    }
}

/// Of runs at once one makes the file and says so; the others name the file, say nothing of keys, and leave nothing.
#[test]
fn of_runs_at_once_one_makes_the_file() {
    let folder = scratch();
    let folder = folder.path();
    ok(folder, &["design", "ceremony"]);
    ok(folder, &["hsm", "init"]);
    let before = names(folder);
    let mut runs = 0;
    for (arguments, made) in makers() {
        // All of them have the name from one function, which is tried alone as well.
        let rounds = match (takes_all(), arguments[1]) {
            (true, "ceremony") => 10,
            (false, "ceremony") | (true, _) => 3,
            (false, _) => 1,
        };
        for _ in 0..rounds {
            let all = at_once(folder, &arguments);
            let (won, lost): (Vec<_>, Vec<_>) = all.iter().partition(|(code, ..)| *code == 0);
            assert_eq!(won.len(), 1, "{arguments:?}: {all:?}");
            for (code, said, error) in lost {
                let is_named = made.iter().any(|name| error.contains(name));
                assert!(
                    *code == 1 && said.is_empty() && is_named,
                    "{arguments:?}: {all:?}"
                );
            }
            belongs(folder, &arguments, &won[0].1);
            for name in made {
                fs::remove_file(folder.join(name)).unwrap();
            }
            assert_eq!(names(folder), before, "{arguments:?}");
            runs += all.len();
        }
    }
    println!("runs at once: {runs}");
}

fn fifo(path: &Path) {
    let made = nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU);
    made.unwrap();
}

/// A link that leads nowhere, one to a file and a FIFO stay what they are, as any other file does.
#[test]
fn whatever_has_the_name_stays() {
    let folder = scratch();
    let folder = folder.path();
    let path = |name: &str| folder.join(name);
    ok(folder, &["design", "ceremony"]);
    ok(folder, &["hsm", "init"]);
    fs::write(path("target"), "of somebody").unwrap();
    type Put = fn(&Path, &Path);
    let puts: [Put; 4] = [
        |_, at| symlink("nowhere", at).unwrap(),
        |_, at| symlink("target", at).unwrap(),
        |_, at| fifo(at),
        |_, at| fs::create_dir(at).unwrap(),
    ];
    let kind = |name: &str| fs::symlink_metadata(path(name)).unwrap().file_type();
    for (arguments, made) in makers() {
        // The next ceremony of a rotation may be there: it is opened then.
        let name = made.last().unwrap();
        for put in puts {
            put(folder, &path(name));
            let (before, found) = (names(folder), kind(name));
            let (code, said, error) = sekisho(folder, &arguments);
            let words = format!("{name}: there is such a file already; it is not replaced");
            assert!(
                code == 1 && error.contains(&words) && said.is_empty(),
                "{arguments:?}: {error}"
            );
            assert_eq!((names(folder), kind(name)), (before, found), "{arguments:?}");
            assert_eq!(fs::read_to_string(path("target")).unwrap(), "of somebody");
            if found.is_dir() {
                fs::remove_dir(path(name)).unwrap();
            } else {
                assert!(found.is_symlink() || found.is_fifo());
                fs::remove_file(path(name)).unwrap();
            }
        }
    }
}

/// Every option and argument that names a file to be read, with what reads `endless` by it.
fn readers() -> Vec<(i32, Vec<&'static str>)> {
    let card = [
        "card",
        "--listen",
        "127.0.0.1:0",
        "--flash",
        "refused.flash",
        "--perso",
    ];
    let card = |more: &[&'static str]| [&card[..], more].concat();
    let fleet = ["fleet", "--server", "http://127.0.0.1:9", "--token-file"];
    let fleet = |more: &[&'static str]| [&fleet[..], more].concat();
    let agent = [
        "agent",
        "--once",
        "--card",
        "tcp:127.0.0.1:9",
        "--server",
        "https://127.0.0.1:9",
    ];
    let agent = |more: &[&'static str]| [&agent[..], more].concat();
    vec![
        (1, vec!["hsm", "check", "--keystore", "endless"]),
        (1, vec!["hsm", "perso", "--se-id", SE_ID, "--keystore", "endless"]),
        (2, vec!["hsm", "check", "--passphrase-file", "endless"]),
        (
            2,
            vec!["design", "hand-over", "--handover-passphrase-file", "endless"],
        ),
        (1, vec!["design", "hand-over", "--ceremony", "endless"]),
        (1, vec!["design", "rotate", "--next", "endless"]),
        (1, vec!["design", "rotate", "--individual", "endless"]),
        (1, vec!["design", "pack", "endless", "--version", "2"]),
        (1, vec!["design", "try", "endless", "00B0000004"]),
        (1, vec!["design", "inspect", "endless"]),
        (1, card(&["endless", "--product", "product.sealed"])),
        (1, card(&["perso.sealed", "--product", "endless"])),
        (
            2,
            card(&[
                "perso.sealed",
                "--product",
                "product.sealed",
                "--product-passphrase-file",
                "endless",
            ]),
        ),
        (1, fleet(&["endless", "devices"])),
        (1, fleet(&["token", "upload", "endless", "--designer", "endless"])),
        (2, agent(&["--ca", "endless", "--token-file", "token"])),
        (2, agent(&["--ca", "token", "--token-file", "endless"])),
        (2, vec!["server", "--config", "endless", "--check-config"]),
        (2, vec!["reader", "run", "endless"]),
        (2, vec!["reader", "--key-file", "endless", "send", "00B0810004"]),
    ]
}

/// A stream without an end, as a device of zeros, and a file of a gibibyte that takes no room on disk.
#[test]
fn a_file_without_an_end_is_refused_at_a_bound() {
    let folder = scratch();
    let folder = folder.path();
    let path = folder.join("endless");
    ok(folder, &["design", "ceremony"]);
    ok(folder, &["hsm", "init"]);
    ok(folder, &["design", "hand-over"]);
    ok(folder, &["hsm", "perso", "--se-id", SE_ID]);
    fs::write(folder.join("token"), "no such token").unwrap();
    for is_stream in [false, true] {
        // What reads them is one function, so some are enough for the second kind.
        let every = if is_stream || takes_all() { 1 } else { 4 };
        for (exit, arguments) in readers().into_iter().step_by(every) {
            if is_stream {
                fifo(&path);
            } else {
                let mut sparse = fs::OpenOptions::new();
                sparse.write(true).create_new(true).mode(0o600);
                sparse.open(&path).unwrap().set_len(1 << 30).unwrap();
            }
            let start = Instant::now();
            let child = command(folder, &arguments).spawn().unwrap();
            let zeros = is_stream.then(|| {
                let path = path.clone();
                std::thread::spawn(move || {
                    let mut pipe = fs::OpenOptions::new().write(true).open(path).unwrap();
                    while pipe.write_all(&[0; 1 << 16]).is_ok() {}
                })
            });
            let (code, _, error) = ran(child.wait_with_output().unwrap());
            let took = start.elapsed();
            assert!(
                code == exit && error.contains("endless") && error.contains("it is longer than"),
                "{arguments:?}: {code} {error}"
            );
            assert!(took < Duration::from_secs(20), "{arguments:?}: {took:?}");
            zeros.into_iter().for_each(|zeros| zeros.join().unwrap());
            fs::remove_file(&path).unwrap();
        }
    }
}

/// A wrong file is named, and not the one beside it.
#[test]
fn the_file_that_is_wrong_is_named() {
    let folder = scratch();
    let folder = folder.path();
    ok(folder, &["design", "ceremony"]);
    ok(folder, &["hsm", "init"]);
    ok(folder, &["hsm", "perso", "--se-id", SE_ID]);
    fs::write(folder.join("empty"), "").unwrap();
    let (code, _, error) = sekisho(folder, &["hsm", "check", "--passphrase-file", "empty"]);
    assert!(
        code == 2 && error.contains("empty: the passphrase is empty"),
        "{error}"
    );
    let card = ["card", "--listen", "127.0.0.1:0", "--flash", "refused.flash"];
    let of_both = ["--perso", "perso.sealed", "--product", "wrong.json"];
    for (text, words) in [
        ("{}", "this is no product file"),
        (
            r#"{"kos":"00","k_mac":"00","designer":"04"}"#,
            "kos is no AES key in hex",
        ),
    ] {
        fs::write(folder.join("wrong.json"), text).unwrap();
        let (code, _, error) = sekisho(folder, &[&card[..], &of_both].concat());
        let is_named = error.contains("wrong.json") && !error.contains("perso.sealed");
        assert!(code == 1 && is_named && error.contains(words), "{error}");
    }
    // The advice is a line for a shell, whatever the name.
    let name = "its $(id) o'key";
    fs::write(folder.join(name), "00").unwrap();
    let chmod = |name: &str| {
        let (_, _, error) = sekisho(folder, &["hsm", "check", "--passphrase-file", name]);
        let advice = error.lines().find_map(|line| line.split_once("(mode 0644): "));
        let line = advice.unwrap().1.to_owned();
        let done = Command::new("sh")
            .args(["-c", &line])
            .current_dir(folder)
            .status();
        assert!(done.unwrap().success(), "{line}");
        let (_, _, error) = sekisho(folder, &["hsm", "check", "--passphrase-file", name]);
        assert!(!error.contains("chmod"), "{line}: {error}");
    };
    use std::os::unix::fs::PermissionsExt as _;
    for name in [name, "plain"] {
        fs::write(folder.join(name), "00").unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o644)).unwrap();
        chmod(name);
    }
}

/// A file that a command does not take for its own stays as it is, mode and all, and so does what stands beside it.
#[test]
fn another_file_is_left_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = scratch();
    let path = |name: &str| folder.path().join(name);
    let names = ["q", "q-wal", "q-shm"];
    for name in names {
        fs::write(path(name), "not of ours\n").unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    for arguments in [
        &["card", "--listen", "127.0.0.1:0", "--flash", "q"][..],
        &["hsm", "check", "--keystore", "q"],
        &["paging", "--paging-address", "127.0.0.1:0", "--local", "q"],
    ] {
        let output = Command::new(SEKISHO)
            .args(arguments)
            .env("SEKISHO_PASSPHRASE", "passphrase")
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        for name in names {
            let mode = fs::metadata(path(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o644, "{arguments:?}: {name}");
            assert_eq!(fs::read(path(name)).unwrap(), b"not of ours\n");
        }
    }
}
