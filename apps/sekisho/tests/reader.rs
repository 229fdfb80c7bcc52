//! `sekisho reader` as its users run it: figures, scripts, refusals, and a bad line.

use crate::process;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use process::reader::{EVERY, asked_wrongly, reader, refused, shown, text};
use process::{CardProcess, SEKISHO, scratch};

#[test]
fn figures_show_which_key_protects_what() {
    let folder = scratch();
    let card = CardProcess::start(&folder.path().join("flash"), 0, &EVERY);
    let at = format!("tcp:{}", card.address);
    for (figure, keys, separate) in [
        ("6", [1, 2, 3], [1, 2, 3]),
        ("12", [1, 12, 5], [2, 3, 9]),
        ("18", [1, 2, 3], [1, 2, 3]),
    ] {
        for place in ["virtual", &at] {
            let commands = shown(&["--card", place, "figure", figure]);
            let protected: Vec<_> = commands.iter().filter(|c| c["protected"] == true).collect();
            let numbers: Vec<_> = protected
                .iter()
                .map(|c| c["command_key"].as_u64().unwrap())
                .collect();
            assert_eq!(numbers, keys, "figure {figure}");
            assert_eq!(protected[2]["data"], "DEADBEEF");
            let text = format!("{commands:?}");
            assert!(!text.contains("KSenc"), "no key is shown");
            let commands = shown(&["--card", place, "figure", figure, "--separate"]);
            let responses: Vec<_> = commands
                .iter()
                .filter_map(|c| c["response_key"].as_u64())
                .collect();
            assert_eq!(responses, separate, "figure {figure}");
        }
    }
    for (figure, exchanges) in [("3", 0), ("4", 1), ("9", 0), ("11", 2), ("15", 0), ("17", 2)] {
        let commands = shown(&["figure", figure]);
        assert_eq!(
            commands.iter().filter(|c| c["protected"] == true).count(),
            exchanges,
            "{figure}"
        );
    }
    asked_wrongly(&["figure", "8"], "3 to 6, 9 to 12 and 15 to 18");
}

#[test]
fn a_card_out_of_the_factory_opens_the_ratchet_alone() {
    let folder = scratch();
    let card = CardProcess::start(&folder.path().join("flash"), 0, &[]);
    let at = format!("tcp:{}", card.address);
    for mode in [
        "fixed",
        "legacy-xor",
        "legacy-list",
        "legacy-operations",
        "legacy-turns",
    ] {
        let output = refused(
            &["--card", &at, "send", "--mode", mode, "00B0810004"],
            "does not open",
        );
        assert!(text(&output.stderr).contains("6985"), "{}", text(&output.stderr));
    }
    let commands = shown(&[
        "--card",
        &at,
        "send",
        "--separate",
        "--refresh",
        "2",
        "00B0810004",
        "00B0810004",
        "00B0810004",
    ]);
    let names: Vec<_> = commands
        .iter()
        .filter(|c| c["protected"] == true)
        .map(|c| c["command"].as_str().unwrap())
        .collect();
    let read = "READ BINARY of file 1 from 0";
    assert_eq!(names, [read, read, "REFRESH KEYS", read]);
}

#[test]
fn keys_are_never_shown_but_on_the_test_card() {
    let folder = scratch();
    let key = folder.path().join("mkey");
    std::fs::write(&key, "00112233445566778899AABBCCDDEEFF\n").unwrap();
    let key = key.to_str().unwrap();
    let wrong = ["--key-file", key, "send", "00B0810004"];
    refused(&wrong, "No command was sent");
    asked_wrongly(&[&["--show-secrets"], &wrong[..]].concat(), "no key is shown");
    refused(
        &["--key-file", key, "send", "--mode", "legacy-xor", "00B0810004"],
        "6A80",
    );
    let commands = shown(&["--show-secrets", "send", "00B0810004", "00B0810004"]);
    let keys: Vec<_> = commands
        .iter()
        .filter_map(|c| c["secrets"]["KSenc"].as_str())
        .collect();
    assert_eq!(keys.len(), 2);
    assert_ne!(keys[0], keys[1]);
    std::fs::write(folder.path().join("short"), "0011\n").unwrap();
    let short = folder.path().join("short");
    asked_wrongly(
        &["--key-file", short.to_str().unwrap(), "figure", "3"],
        "16, 24 or 32 bytes",
    );
    asked_wrongly(
        &["--key-file", "/does/not/exist", "figure", "3"],
        "cannot read /does/not/exist",
    );
}

const SCRIPT: &str = "
select F0534B4F530401
> 00B09E0000
< 53656B6973686F ... 9000
open ratchet separate refresh 3
> 00A4020C020011
< 9000
> 00D6000004 01020304
< 9000
> 00B0000004
< 0102???? 9000
refresh
> 00B0000004
< 01020304 9000
authenticate 1 @EXTERNAL@
plain 00B0000004
< 6987
reset
select F0534B4F530401   # a comment
> 00B0810004
< 6982
";

#[test]
fn scripts_say_where_they_differ() {
    let folder = scratch();
    let external = sekisho_applets::file_system::image::test_key::EXTERNAL;
    let script = SCRIPT.replace("@EXTERNAL@", &hex::encode(external));
    let path = folder.path().join("script");
    let path = path.to_str().unwrap();
    std::fs::write(path, &script).unwrap();
    let output = reader(&["run", path]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).ends_with("7 answers as expected\n"));
    for (from, to, why) in [
        ("0102????", "0103????", "line 11: < 0103???? 9000"),
        ("authenticate 1", "authenticate 2", "the card answers 6A88"),
    ] {
        std::fs::write(path, script.replacen(from, to, 1)).unwrap();
        refused(&["run", path], why);
    }
    for (from, to, why) in [
        ("0102????", "01020", "not a pattern"),
        ("reset", "rest", "no such verb"),
        ("ratchet", "ratched", "no mode ratched"),
        ("refresh 3", "refresh", "refresh N"),
        ("> 00A4020C020011", "> 00A4020C02001", "not hexadecimal bytes"),
        ("> 00A4020C020011", "> 00A4020C050011", "not a command"),
    ] {
        std::fs::write(path, script.replacen(from, to, 1)).unwrap();
        asked_wrongly(&["run", path], why);
    }
    asked_wrongly(&["run", "/does/not/exist"], "cannot read /does/not/exist");
}

/// Where the card is, somebody listens who would hear of it.
/// A card with open secure messaging takes nothing in the clear: what is selected then is selected by a second command.
#[test]
fn selecting_ends_secure_messaging() {
    let folder = scratch();
    let path = folder.path().join("script");
    let path = path.to_str().unwrap();
    let script = "select F0534B4F530401\nopen ratchet\n> 00B0810001\n< 00 9000\nselect F0534B4F530401\nplain 00B0810001\n< 6982\n";
    std::fs::write(path, script).unwrap();
    let output = reader(&["run", path]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("6987"), "{}", text(&output.stdout));
}

#[test]
fn no_card_is_spoken_to_by_what_is_asked_wrongly() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = format!("tcp:{}", listener.local_addr().unwrap());
    let folder = scratch();
    let path = folder.path().join("script");
    let path = path.to_str().unwrap();
    let last = "> 00B0000004\n< 9000\n> 00B0000004\n< 9000\nopen rot13\n";
    std::fs::write(path, last).unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "no key\n").unwrap();
    let key = key.to_str().unwrap();
    for (args, why) in [
        (&["run", path][..], "line 5: open rot13"),
        (&["run", "missing"], "cannot read missing"),
        (&["send", "00B0000004", "zz"], "hexadecimal"),
        (&["send", "00D0000004DE"], "not a command"),
        (&["figure", "7"], "figures with a sequence"),
        (&["--aid", "zz", "send", "00B0000004"], "hexadecimal"),
        (
            &["--key-file", key, "send", "00B0000004"],
            "MKEY is not in hexadecimal digits",
        ),
        (&["--timeout", "0", "send", "00B0000004"], "timeout"),
    ] {
        asked_wrongly(&[&["--card", &at], args].concat(), why);
        let error = listener.accept().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{args:?}");
    }
}

/// What a bad line makes of an answer.
#[derive(Clone, Copy)]
enum Does {
    Nothing,
    Damages,
    /// It never comes.
    Loses,
    /// It comes after the reader's patience.
    Delays(u64),
    /// It becomes an answer of these bytes.
    Replaces(&'static [u8]),
}

/// Passes vpcd's frames on, and does to the answers, counted from 0, what it is told.
fn bad_line(target: String, does: impl Fn(usize) -> Does + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut reader, _) = listener.accept().unwrap();
        let mut card = TcpStream::connect(target).unwrap();
        let mut count = 0;
        while let Some(command) = frame(&mut reader) {
            card.write_all(&command).unwrap();
            // One byte is a control code, of which only 4 (ATR) has an answer.
            if command.len() == 3 && command[2] != 4 {
                continue;
            }
            let Some(mut answer) = frame(&mut card) else { break };
            if command.len() > 3 {
                let at = answer.len() / 2;
                count += 1;
                match does(count - 1) {
                    Does::Nothing => {}
                    Does::Damages => answer[at] ^= 1,
                    Does::Loses => continue,
                    Does::Delays(seconds) => thread::sleep(Duration::from_secs(seconds)),
                    Does::Replaces(bytes) => {
                        answer = [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
                    }
                }
            }
            if reader.write_all(&answer).is_err() {
                break;
            }
        }
    });
    address
}

fn frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut frame = vec![0; 2 + usize::from(u16::from_be_bytes(length))];
    frame[..2].copy_from_slice(&length);
    stream.read_exact(&mut frame[2..]).ok()?;
    Some(frame)
}

#[test]
fn a_damaged_answer_is_asked_for_again_and_nothing_is_done_twice() {
    let folder = scratch();
    let card = CardProcess::start(&folder.path().join("flash"), 0, &EVERY);
    // SELECT, GET CHALLENGE, SESSION KEY DECRYPTION, then the first answer is damaged, and of the second the first two.
    let wire = bad_line(card.address.clone(), |count| match count {
        3 | 5 | 6 => Does::Damages,
        _ => Does::Nothing,
    });
    let append = ["00E2001810", &"01".repeat(16)].concat();
    let again = ["00E2001810", &"02".repeat(16)].concat();
    let at = format!("tcp:{wire}");
    let output = reader(&["--card", &at, "send", &append, &again]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout)
            .matches("wrong answer: secure messaging data objects are incorrect; the same command again")
            .count(),
        3,
        "{}",
        text(&output.stdout)
    );
    let at = format!("tcp:{}", card.address);
    let commands = shown(&["--card", &at, "send", "00B2011C10", "00B2021C10"]);
    assert_eq!(commands[3]["data"], "02".repeat(16));
    assert_eq!(commands[4]["data"], "01".repeat(16));
    refused(&["--card", &at, "send", "00B2031C10"], "6A83");
    // Somebody who damages everything is noticed.
    let wire = bad_line(card.address.clone(), |count| match count {
        0..=2 => Does::Nothing,
        _ => Does::Damages,
    });
    let at = format!("tcp:{wire}");
    refused(
        &["--card", &at, "send", "00B0810004"],
        "8 x secure messaging data objects are incorrect; something stands between reader and card",
    );
}

/// Records 1 and 2 of the cyclic file 0013, as first bytes.
fn newest(address: &str) -> [u8; 2] {
    let at = format!("tcp:{address}");
    let read = shown(&["--card", &at, "send", "00B2011C10", "00B2021C10"]);
    [3, 4].map(|at: usize| hex::decode(read[at]["data"].as_str().unwrap()).unwrap()[0])
}

/// The card says nothing, or nothing that can be an answer, or says in the clear that all is well: the same bytes again, eight times, and then what came, in words
/// that promise nothing. Every command is carried out once.
#[test]
fn a_reader_that_is_lied_to_asks_again_and_says_what_came() {
    let folder = scratch();
    let card = CardProcess::start(&folder.path().join("flash"), 0, &EVERY);
    let append = |value: u8| ["00E2001810", &hex::encode([value; 16])].concat();
    let at = format!("tcp:{}", card.address);
    shown(&["--card", &at, "send", &append(1), &append(2)]);
    let mut last = 2;
    // SELECT, GET CHALLENGE and SESSION KEY DECRYPTION are left alone.
    let does = |count: usize, what: Does, times: usize| match count.checked_sub(3) {
        Some(at) if at < times => what,
        _ => Does::Nothing,
    };
    for (what, said) in [
        (Does::Loses, "no answer in time"),
        (Does::Delays(2), "no answer in time"),
        (Does::Replaces(&[]), "an answer of 0 bytes"),
        (Does::Replaces(&[0x90]), "an answer of 1 bytes"),
        (Does::Replaces(&[0x90, 0x00]), "9000 in the clear"),
        (Does::Replaces(&[0x69, 0x87]), "6987 in the clear"),
        (Does::Replaces(&[1, 2, 3, 0x90, 0x00]), "objects are missing"),
    ] {
        // Two of them, then the answer. A patience of one second, as some are silent.
        let wire = bad_line(card.address.clone(), move |count| does(count, what, 2));
        let at = format!("tcp:{wire}");
        last += 1;
        let output = reader(&[
            "--card",
            &at,
            "--timeout",
            "1",
            "send",
            &append(last),
            "00B2011C10",
        ]);
        assert!(output.status.success(), "{said}: {}", text(&output.stderr));
        let trace = text(&output.stdout);
        assert!(
            trace.contains(said) && trace.contains("the same command again"),
            "{trace}"
        );
        assert!(
            trace.contains(&format!("answer      {}", hex::encode_upper([last; 16]))),
            "{trace}"
        );
        assert_eq!(newest(&card.address), [last, last - 1], "{said}");
        if matches!(what, Does::Loses | Does::Delays(_)) {
            continue;
        }
        // All eight, and no ninth: that would have been the answer.
        let wire = bad_line(card.address.clone(), move |count| does(count, what, 8));
        let at = format!("tcp:{wire}");
        last += 1;
        let output = refused(&["--card", &at, "send", &append(last)], "was sent 8 times: 8 x ");
        let words = text(&output.stderr);
        assert!(
            words.contains(said) && words.contains("Whether the command was carried out is not known"),
            "{words}"
        );
        assert!(!words.contains("done"), "{words}");
        assert_eq!(
            newest(&card.address),
            [last, last - 1],
            "{said}: once, and not eight times"
        );
    }
}

#[test]
fn a_card_that_never_answers_is_called_silent() {
    let folder = scratch();
    let card = CardProcess::start(&folder.path().join("flash"), 0, &EVERY);
    let wire = bad_line(card.address.clone(), |count| match count {
        0..=2 => Does::Nothing,
        _ => Does::Loses,
    });
    let at = format!("tcp:{wire}");
    refused(
        &["--card", &at, "--timeout", "1", "send", "00B0810004"],
        "8 x no answer in time; the card is silent",
    );
}

/// Somebody without MKEY plays the card: the reader sends what opens secure messaging, and not one command.
#[test]
fn an_impostor_hears_no_command() {
    // A point of the curve, for the ratchet (SEC 2: the generator), and a confirmation made up.
    let generator = "046B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C2964FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5";
    for (mode, card_key) in [
        ("ratchet", generator),
        ("fixed", ""),
        ("legacy-xor", ""),
        ("legacy-list", ""),
        ("legacy-operations", ""),
        ("legacy-turns", ""),
    ] {
        let confirmed = format!("{card_key}{}9000", "00".repeat(16));
        let answers = ["9000".to_owned(), format!("{}9000", "11".repeat(16)), confirmed];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = format!("tcp:{}", listener.local_addr().unwrap());
        let impostor = thread::spawn(move || {
            let (mut reader, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            while let Some(command) = frame(&mut reader) {
                let answer = match command.len() {
                    3 if command[2] == 4 => "3B00",
                    3 => continue,
                    _ => answers.get(heard.len()).map_or("9000", String::as_str),
                };
                if command.len() > 3 {
                    heard.push(command[3]);
                }
                let answer = hex::decode(answer).unwrap();
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                reader.write_all(&[&length[..], &answer].concat()).unwrap();
            }
            heard
        });
        refused(
            &["--card", &at, "send", "--mode", mode, "00D6810004DEADBEEF"],
            "No command was sent",
        );
        // SELECT, GET CHALLENGE, SESSION KEY DECRYPTION.
        assert_eq!(impostor.join().unwrap(), [0xA4, 0x84, 0x5A], "{mode}");
    }
}

/// A card of the fleet: its keys come out of the HSM, and the test card's open nothing.
#[test]
fn a_personalised_card_has_keys_of_its_own() {
    let folder = scratch();
    let path = folder.path();
    let sekisho = |args: &[&str]| {
        let output = Command::new(SEKISHO)
            .args(args)
            .current_dir(path)
            .env("SEKISHO_PASSPHRASE", "a passphrase of the test")
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let se_id = "5EC15400000000000043";
    sekisho(&["hsm", "init"]);
    sekisho(&["design", "ceremony"]);
    sekisho(&["hsm", "perso", "--in-the-clear", "--se-id", se_id]);
    sekisho(&["design", "hand-over", "--in-the-clear"]);
    std::fs::write(path.join("mkey"), sekisho(&["hsm", "file-key", "--se-id", se_id])).unwrap();
    let external = sekisho(&["hsm", "file-key", "--se-id", se_id, "--external"]);
    let [perso, product] = ["perso.json", "product.json"].map(|name| path.join(name));
    let made = [
        "--perso",
        perso.to_str().unwrap(),
        "--product",
        product.to_str().unwrap(),
    ];
    let card = CardProcess::start(
        &path.join("flash"),
        0,
        &[&made[..], &["--allow", "fixed"]].concat(),
    );
    let (at, mkey) = (format!("tcp:{}", card.address), path.join("mkey"));
    let own = ["--card", &at, "--key-file", mkey.to_str().unwrap()];
    refused(&["--card", &at, "send", "00B0810004"], "No command was sent");
    // Its owner makes a file.
    let script = format!(
        "select F0534B4F530401\nopen fixed\nauthenticate 1 {external}\n\
         > 00E0000017 6215 80020004 82020121 83024001 880110 8C0407414141\n< 9000\n> 00D6820002 AABB\n< 9000\n> 00B0820004\n< AABB0000 9000\n"
    );
    std::fs::write(path.join("script"), script).unwrap();
    let script = path.join("script");
    let output = reader(&[&own[..], &["run", script.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
}
