//! `sekisho card` as its users run it: started, killed at any moment, started again.

#[path = "card/tls.rs"]
mod tls;

use crate::process;
use core::time::Duration;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::thread;

use process::{
    CardProcess, Guarded, SEKISHO, count, initial_keys, key_set, open_channel, put_keys, scratch, send,
};
use sekisho_transport::Card;

/// Runs a card that is expected to end by itself.
fn run(directory: &tempfile::TempDir, arguments: &[&str]) -> Output {
    let output = Command::new("timeout")
        .args(["10", SEKISHO, "card"])
        .args(arguments)
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_ne!(output.status.code(), Some(124), "{arguments:?}: it runs");
    output
}

#[test]
fn a_kill_at_any_moment_loses_no_counter_and_repeats_none() {
    let directory = scratch();
    let flash = directory.path().join("card.flash");
    let se_id = CardProcess::start(&flash, 0, &[]).says("SE-id");
    let mut last = 0;
    for round in 0..25_u64 {
        let card = CardProcess::start(&flash, 0, &[]);
        assert_eq!(card.says("SE-id"), se_id);
        let mut reader = card.reader();
        let first = count(&mut reader).unwrap();
        // The killed command's value may be used up, or not; no answered one comes again.
        assert!(
            first == last + 1 || first == last + 2,
            "round {round}: {first} after {last}"
        );
        last = first;
        let killer = thread::spawn(move || {
            thread::sleep(Duration::from_micros(round * 1300));
            card.kill();
        });
        while let Some(value) = count(&mut reader) {
            assert_eq!(value, last + 1);
            last = value;
        }
        killer.join().unwrap();
    }
    // More than the first of each life: some were killed between two commands, however slow the machine.
    assert!(last > 30, "only {last} commands between 25 kills");
}

#[test]
fn a_kill_in_put_key_leaves_the_old_keys_or_the_new_ones() {
    let directory = scratch();
    let flash = directory.path().join("card.flash");
    let (mut kvn, mut keys) = (0xFF, initial_keys());
    let mut changed = 0;
    for round in 0..25_u8 {
        let card = CardProcess::start(&flash, 0, &[]);
        let mut reader = card.reader();
        let new = key_set(round);
        let mut channel = open_channel(&mut reader, kvn, &keys).unwrap();
        let replaced = if kvn == 0xFF { 0 } else { kvn };
        let command = put_keys(&mut channel, &keys.dek, replaced, 1, &new);
        let killer = thread::spawn(move || {
            thread::sleep(Duration::from_micros(u64::from(round) * 150));
            card.kill();
        });
        let answered = reader
            .transmit(&command)
            .is_ok_and(|rapdu| rapdu.ends_with(&[0x90, 0x00]));
        killer.join().unwrap();
        let card = CardProcess::start(&flash, 0, &[]);
        let mut reader = card.reader();
        if open_channel(&mut reader, 1, &new).is_some() {
            (kvn, keys) = (1, new);
            changed += 1;
        } else {
            assert!(
                !answered,
                "round {round}: the new keys were confirmed and are gone"
            );
            assert!(
                open_channel(&mut reader, kvn, &keys).is_some(),
                "round {round}: neither old nor new keys"
            );
        }
    }
    assert!(changed > 0, "no PUT KEY came to its end");
}

#[test]
fn the_os_part_is_there_and_keeps_its_state() {
    let directory = scratch();
    let flash = directory.path().join("card.flash");
    let card = CardProcess::start(&flash, 0, &[]);
    assert!(card.says("OS part").starts_with("version 1"));
    let mut reader = card.reader();
    assert_eq!(
        send(&mut reader, b"\x00\xA4\x04\x00\x07\xF0SKOS\x00\x01\x00").1,
        0x9000
    );
    assert_eq!(send(&mut reader, &[0x80, 0x22, 0, 0, 2, 0, 42, 0]).1, 0x9000);
    card.kill();
    let card = CardProcess::start(&flash, 0, &[]);
    let mut reader = card.reader();
    assert_eq!(
        send(&mut reader, b"\x00\xA4\x04\x00\x07\xF0SKOS\x00\x01\x00").1,
        0x9000
    );
    let (register, sw) = send(&mut reader, &[0x80, 0x20, 0, 0, 0]);
    assert_eq!((sw, register.ends_with(&[42])), (0x9000, true), "{register:02x?}");
}

#[test]
fn sigterm_ends_it_cleanly() {
    let directory = scratch();
    let mut child = Guarded(
        Command::new(SEKISHO)
            .args(["card", "--listen", "127.0.0.1:0", "--vpcd", "127.0.0.1:1"])
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    thread::sleep(Duration::from_millis(1500));
    let killed = Command::new("kill")
        .args(["-TERM", &child.0.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}

/// What pcscd's virtual reader sends and gets: two bytes of length, then a control byte or an APDU.
fn vpcd(reader: &mut TcpStream, frame: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(frame.len()).unwrap().to_be_bytes();
    reader.write_all(&[&len, frame].concat()).unwrap();
    if matches!(frame, [0..=2]) {
        return None;
    }
    let mut len = [0; 2];
    reader.read_exact(&mut len).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    reader.read_exact(&mut answer).unwrap();
    Some(answer)
}

/// A reader in vpcd and one at the socket: each has its own channels and selection, and a hang-up or reset of one is nothing to the other.
#[test]
fn two_readers_are_on_two_interfaces() {
    let directory = scratch();
    let vpcd_port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = vpcd_port.local_addr().unwrap().to_string();
    let card = CardProcess::start(&directory.path().join("card.flash"), 0, &["--vpcd", &address]);
    assert_eq!(card.says("t0"), format!("vpcd:{address}"));
    assert_eq!(card.says("spi-ese"), format!("vpcd+tcp:{}", card.address));
    let (mut virtual_reader, _) = vpcd_port.accept().unwrap();
    let open = [0x00, 0x70, 0x00, 0x00, 0x01];
    assert_eq!(vpcd(&mut virtual_reader, &open), Some(vec![0x01, 0x90, 0x00]));
    let mut reader = card.reader();
    assert_eq!(send(&mut reader, &[0x01, 0xCA, 0x00, 0xCF, 0x00]).1, 0x6881);
    assert_eq!(send(&mut reader, &open), (vec![0x01], 0x9000));
    // Power off and on, and a reset.
    for control in [[0], [1], [2]] {
        vpcd(&mut virtual_reader, &control);
    }
    assert_eq!(
        vpcd(&mut virtual_reader, &[0x01, 0xCA, 0x00, 0xCF, 0x00]),
        Some(vec![0x68, 0x81])
    );
    assert_eq!(send(&mut reader, &[0x81, 0xCA, 0x00, 0xCF, 0x00]).1, 0x9000);
    assert_eq!(vpcd(&mut virtual_reader, &open), Some(vec![0x01, 0x90, 0x00]));
    drop(reader);
    let mut reader = card.reader();
    assert_eq!(
        send(&mut reader, &[0x81, 0xCA, 0x00, 0xCF, 0x00]).1,
        0x6881,
        "its own hang-up resets it"
    );
    let data = vpcd(&mut virtual_reader, &[0x81, 0xCA, 0x00, 0xCF, 0x00]).unwrap();
    assert!(data.ends_with(&[0x90, 0x00]), "{data:02X?}");
}

#[test]
fn what_cannot_work_is_said_before_anything_is_made() {
    let directory = scratch();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("short.flash"), [1; 100]).unwrap();
    std::fs::write(path("noise.flash"), [0x5A; 1024 * 1024]).unwrap();
    std::fs::write(path("perso.json"), r#"{"se_id": "12"}"#).unwrap();
    let listen = ["--listen", "127.0.0.1:0"];
    // As much as the card itself takes, and next to nothing for its OS part.
    let refused = run(&directory, &[&listen[..], &["--ram", "1K"]].concat());
    let words = String::from_utf8_lossy(&refused.stderr);
    let least = words
        .split("K is the least")
        .next()
        .and_then(|text| text.rsplit(' ').next());
    let tight = format!("{}K", least.unwrap().parse::<usize>().unwrap() + 1);
    let cases: [(&[&str], i32, &str); 14] = [
        (&[], 2, "--vpcd"),
        (&["--listen", "nowhere"], 2, "--listen"),
        (
            &["--listen", "127.0.0.1:0", "--ram", "much"],
            2,
            "number of bytes",
        ),
        (&["--listen", "127.0.0.1:0", "--interface", "usb"], 2, "contact"),
        (&["--listen", "0.0.0.0:0"], 2, "127.0.0.1"),
        (&["--ram", "1K"], 2, "is the least"),
        (&["--listen-interface", "swp"], 2, "--vpcd"),
        (
            &["--vpcd", "127.0.0.1:1", "--listen-interface", "contact"],
            2,
            "t0 has two readers",
        ),
        (
            &["--ram", &tight, "--flash", "blank.flash"],
            1,
            "more than --ram leaves it",
        ),
        (&["--nvm", "100001"], 2, "whole pages"),
        (&["--nvm", "32K"], 2, "is the least"),
        (&["--perso", "missing.json"], 1, "missing.json"),
        (&["--perso", "perso.json"], 1, "no personalisation file"),
        (&["--flash", "short.flash"], 1, "no flash of a card"),
    ];
    for (index, (arguments, code, words)) in cases.into_iter().enumerate() {
        let arguments = if index < 5 {
            arguments.to_vec()
        } else {
            [&listen[..], arguments].concat()
        };
        let output = run(&directory, &arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
    assert!(!path("card.flash").exists(), "nothing was left behind");
    // A file that is something else is refused, and stays as it is.
    let output = run(&directory, &["--listen", "127.0.0.1:0", "--flash", "noise.flash"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read(path("noise.flash")).unwrap(), [0x5A; 1024 * 1024]);
}

/// A file size limit (setrlimit(2), RLIMIT_FSIZE) of the test stands for a disk that is full: whatever is written behind it fails. The shell leaves
/// the signal away that would end the card.
#[cfg(target_os = "linux")]
const FULL: [&str; 4] = ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"];

#[cfg(target_os = "linux")]
fn limit(card: &CardProcess, bytes: &str) {
    let limited = Command::new("prlimit")
        .args([format!("--pid={}", card.id()), format!("--fsize={bytes}:")])
        .status()
        .unwrap();
    assert!(limited.success());
}

/// Row C17: it answered 6581 for ever, and said nothing.
#[cfg(target_os = "linux")]
#[test]
fn a_card_on_a_full_disk_says_why_and_goes_on_when_there_is_room() {
    let directory = scratch();
    let said = directory.path().join("said");
    let says = |what: &str| std::fs::read_to_string(&said).unwrap().matches(what).count();
    let mut command = Command::new(FULL[0]);
    command
        .args(&FULL[1..])
        .arg(SEKISHO)
        .stderr(std::fs::File::create(&said).unwrap());
    let card = CardProcess::start_by(&mut command, &directory.path().join("card.flash"), 0, &[]);
    let initialize_update = [0x80, 0x50, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0];
    let state = [0x80, 0xCA, 0x00, 0xCF, 0x00];
    let mut reader = card.reader();
    let first = count(&mut reader).unwrap();
    limit(&card, "4096");
    // What only reads goes on until the first write; from there on nothing does.
    assert_eq!(send(&mut reader, &state).1, 0x9000);
    for command in [&initialize_update[..], &state, &initialize_update] {
        assert_eq!(send(&mut reader, command).1, 0x6581);
    }
    assert_eq!(says("cannot be written: File too large"), 1);
    // A reset while the disk is still full: the card reads, and fails at its next write, without a word more.
    for _ in 0..3 {
        drop(reader);
        reader = card.reader();
        assert_eq!(send(&mut reader, &state).1, 0x9000);
        assert_eq!(send(&mut reader, &initialize_update).1, 0x6581);
    }
    limit(&card, "unlimited");
    assert_eq!(send(&mut reader, &state).1, 0x6581, "only a reset starts it anew");
    drop(reader);
    let mut reader = card.reader();
    let next = count(&mut reader).unwrap();
    assert!(next > first, "{next} after {first}");
    assert_eq!(count(&mut reader), Some(next + 1));
    assert_eq!(says("cannot be written"), 1);
    assert_eq!(says("can be written again"), 1);
    // A failure later on is another one.
    limit(&card, "4096");
    assert_eq!(send(&mut reader, &initialize_update).1, 0x6581);
    assert_eq!(says("cannot be written"), 2);
    card.kill();
    let card = CardProcess::start(&directory.path().join("card.flash"), 0, &[]);
    assert_eq!(count(&mut card.reader()), Some(next + 2));
}

/// On a disk of 1 MiB a card of 1184 KiB was "made now", with a file that could not hold it.
#[cfg(target_os = "linux")]
#[test]
fn a_card_that_the_disk_has_no_room_for_is_not_made() {
    let directory = scratch();
    let disk = directory.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let made = |command: &mut Command, words: &str| {
        let output = command
            .args([
                "timeout",
                "10",
                SEKISHO,
                "card",
                "--listen",
                "127.0.0.1:0",
                "--flash",
            ])
            .arg(disk.join("card.flash"))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains("no file was left") && error.contains(words),
            "{error}"
        );
        assert!(output.stdout.is_empty());
        assert_eq!(std::fs::read_dir(&disk).unwrap().count(), 0);
    };
    let limited = [
        "sh",
        "-c",
        "trap '' XFSZ; exec prlimit --fsize=1048576: \"$@\"",
        "sh",
    ];
    made(Command::new(limited[0]).args(&limited[1..]), "File too large");
    // A real one, where the machine lets a test mount it. What is in it is looked at by the shell.
    let mount = "mount -t tmpfs -o size=1m tmpfs \"$0\" && { \"$@\"; code=$?; ls -A \"$0\"; exit $code; }";
    for user in [&[][..], &["--user", "--map-root-user"]] {
        let inside = |command: &str| {
            let mut process = Command::new("unshare");
            process
                .args(user)
                .args(["--mount", "sh", "-c", command])
                .arg(&disk);
            process
        };
        if inside("mount -t tmpfs -o size=1m tmpfs \"$0\"")
            .output()
            .is_ok_and(|output| output.status.success())
        {
            made(&mut inside(mount), "No space left on device");
        }
    }
}

/// S16 is the card's for life: asked for at its making, in `--s16` or in the personalisation file, and found after every start.
#[test]
fn s16_is_chosen_at_personalisation() {
    let directory = scratch();
    let path = |name: &str| directory.path().join(name);
    let sekisho = |arguments: &[&str]| {
        let output = Command::new(SEKISHO)
            .args(arguments)
            .current_dir(directory.path())
            .env("SEKISHO_PASSPHRASE", "a passphrase of the test")
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}");
    };
    sekisho(&["hsm", "init"]);
    sekisho(&["design", "ceremony"]);
    let se_id = "5EC15400000000000043";
    sekisho(&["design", "hand-over", "--in-the-clear"]);
    let perso = ["hsm", "perso", "--in-the-clear", "--se-id", se_id, "--out"];
    sekisho(&[&perso[..], &["s16.json", "--s16"]].concat());
    sekisho(&[&perso[..], &["s8.json"]].concat());
    let text = std::fs::read_to_string(path("s8.json")).unwrap();
    assert!(!text.contains("s16"), "the file of 0.1 is the file of S8");
    let [s16, s8, product] = ["s16.json", "s8.json", "product.json"].map(path);
    let product = product.to_str().unwrap();
    let s16 = ["--perso", s16.to_str().unwrap(), "--product", product];
    let s8 = ["--perso", s8.to_str().unwrap(), "--product", product];
    for (flash, arguments, length, i) in [
        ("developer", &["--s16"][..], 16, 0x71),
        ("developer", &[], 16, 0x71),
        ("developer", &["--s16"], 16, 0x71),
        ("plain", &[], 8, 0x70),
        ("personalised", &s16, 16, 0x71),
        ("personalised", &[], 16, 0x71),
        ("s8", &s8, 8, 0x70),
    ] {
        let card = CardProcess::start(&path(flash), 0, arguments);
        assert_eq!(
            card.screen.iter().any(|line| line.contains("S16")),
            length == 16,
            "{flash}"
        );
        let mut reader = card.reader();
        let (data, sw) = send(&mut reader, &[0x80, 0xCA, 0x00, 0x66, 0x00]);
        assert_eq!(
            (data.last(), sw),
            (Some(&i), 0x9000),
            "{flash}: card recognition data"
        );
        // INITIALIZE UPDATE takes a challenge of this length and no other, and names "i" (Amd D 7.1.1).
        let command = |len: u8| [&[0x80, 0x50, 0, 0, len][..], &vec![7; len.into()], &[0]].concat();
        let (data, sw) = send(&mut reader, &command(length));
        assert_eq!(
            (data.len(), sw),
            (13 + 2 * usize::from(length) + 3, 0x9000),
            "{flash}"
        );
        assert_eq!(data[12], i);
        assert_eq!(send(&mut reader, &command(24 - length)).1, 0x6700, "{flash}");
        card.kill();
    }
    let output = run(
        &directory,
        &["--listen", "127.0.0.1:0", "--flash", "plain", "--s16"],
    );
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("card with S8"), "{error}");
}

/// Key information of so many versions comes in two templates; the first screen reads both.
#[test]
fn the_first_screen_names_every_key_version() {
    let directory = scratch();
    let flash = directory.path().join("card.flash");
    let card = CardProcess::start(&flash, 0, &[]);
    let mut reader = card.reader();
    let keys = initial_keys();
    let mut channel = open_channel(&mut reader, 0xFF, &keys).unwrap();
    let mut expected = String::from("KVN");
    for kvn in 1..=15 {
        let command = put_keys(&mut channel, &keys.dek, 0, kvn, &key_set(kvn));
        let rapdu = reader.transmit(&command).unwrap();
        let answer = channel.unwrap_response(&rapdu, &mut [0; 300]).unwrap().sw;
        assert!(answer.is_success(), "{kvn}: {answer}");
        expected += &format!(" {kvn:02X}");
    }
    card.kill();
    let card = CardProcess::start(&flash, 0, &[]);
    assert_eq!(card.says("keys"), expected + " 60");
}

#[test]
fn one_flash_is_one_card() {
    let directory = scratch();
    let flash = directory.path().join("card.flash");
    let card = CardProcess::start(&flash, 0, &[]);
    let output = run(&directory, &["--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another card"));
    let mut reader = card.reader();
    assert_eq!(
        send(&mut reader, &[0x00, 0xA4, 0x04, 0x00, 0x00]).1,
        0x9000,
        "the first one goes on"
    );
    let (port, other) = (card.port(), directory.path().join("other.flash"));
    let output = run(
        &directory,
        &["--flash", "other.flash", "--listen", &format!("127.0.0.1:{port}")],
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot listen"));
    assert!(!other.exists(), "a port in use leaves no card behind");
}
