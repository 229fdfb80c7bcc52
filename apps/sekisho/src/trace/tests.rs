//! A capture of the page's exchanges, byte for byte as it is committed, and what Wireshark makes of it.
#![allow(
    clippy::disallowed_methods,
    reason = "a test asks a tool that may not be there"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use sekisho_block::lr1::{From, Record};
use sekisho_transport::Seen;

use super::Wire;
use super::frames::Reader;
use super::pcapng::Pcapng;

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/vectors/transports")
        .join(name)
}

/// Steps of a line: `on`, `reset`, `> hex`, `< hex` as data, `C hex`, `R hex` as a command and its answer.
const STEPS: &[(&str, &[&str])] = &[
    (
        "t0",
        &[
            "on",
            "< 3B00",
            "C 00A4040007A000000087100200",
            "> 00A4040007",
            "< A4",
            "> A0000000871002",
            "< 611C",
            "> 00C000001C",
            "< C0621A8205422100260183027FF08A01058B036F060280020016880100 9000",
            "R 621A8205422100260183027FF08A01058B036F0602800200168801009000",
            "C 00B0000010",
            "> 00B0000010",
            "< 60",
            "< B0000102030405060708090A0B0C0D0E0F9000",
            "R 000102030405060708090A0B0C0D0E0F9000",
        ],
    ),
    (
        "t1",
        &[
            "on",
            "< 3B808131FE458B",
            "> FF01FE",
            "< FF01FE",
            "> 00C101FE3E",
            "< 00E101FE1E",
            "C 00A4040000",
            "> 00000500A4040000A5",
            "< 0000026A82EA",
            "R 6A82",
            "C 0070000001",
            "> 004005007000000134",
            "< 00400301900052",
            "> 00810081",
            "< 004003019000D2",
            "R 019000",
            "reset",
            "< 3B808131FE458B",
        ],
    ),
    (
        "spi",
        &[
            "on",
            "> 21C4000006CD",
            "< 00000000",
            "< 00000000",
            "< 12E40016",
            "< 0100010C000503E8640A00640100000504012C00FE006701",
            "C 00A4040000",
            "> 2100000500A4040000AC14",
            "< 120000026A8237EE",
            "R 6A82",
        ],
    ),
    ("i2c", &["on", "nak", "> 21C0000065AC", "< 12E000000FA8"]),
    (
        "swp",
        &[
            "on",
            "< 69FFFF027886",
            "> 62012B48",
            "< 607E93",
            "> F9040086B1",
            "< E64072",
            "< 808103AF6D",
            "> 81818000F717",
            "< C1FD27",
            "C 00D60000021122",
            "> 929950 00D60000021122 0000",
            "< 939950 9000 0000",
            "R 9000",
        ],
    ),
];

fn capture() -> (Vec<u8>, String) {
    let mut bytes = Vec::new();
    let mut text = String::new();
    let mut at = 1_700_000_000_000_000;
    let mut out = Pcapng::new(&mut bytes).unwrap();
    for (line, steps) in STEPS {
        let (mut one, mut other) = (Reader::new(Wire::of(line)), Reader::new(Wire::of(line)));
        for step in *steps {
            let (verb, digits) = step.split_at(1);
            let bytes = hex::decode(digits.replace(' ', "")).unwrap_or_default();
            let seen = match verb {
                _ if *step == "on" => Seen::Record(From::Device, Record::On),
                _ if *step == "reset" => Seen::Record(From::Device, Record::Reset),
                _ if *step == "nak" => Seen::Record(From::Card, Record::Nak),
                ">" => Seen::Record(From::Device, Record::Data(&bytes)),
                "<" => Seen::Record(From::Card, Record::Data(&bytes)),
                "C" => Seen::Command(&bytes),
                _ => Seen::Answer(&bytes),
            };
            at += 1_000;
            out.see(at, line, &mut one, seen).unwrap();
            if let Some(words) = other.words(seen) {
                text += &format!("{line:<4} {words}\n");
            }
        }
    }
    (bytes, text)
}

/// With `SEKISHO_WRITE_VECTORS` the files are written anew, for whoever has looked at what has changed.
#[test]
fn a_trace_is_what_is_committed() {
    let (bytes, text) = capture();
    if std::env::var_os("SEKISHO_WRITE_VECTORS").is_some() {
        std::fs::create_dir_all(vector("")).unwrap();
        std::fs::write(vector("trace.pcapng"), &bytes).unwrap();
        std::fs::write(vector("trace.txt"), &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(vector("trace.txt")).unwrap());
    assert!(
        bytes == std::fs::read(vector("trace.pcapng")).unwrap(),
        "the capture differs"
    );
}

/// Commands, status words and ATRs as tshark finds them in the committed capture, where it is installed.
#[test]
fn wireshark_dissects_what_is_committed() {
    let dissected = |arguments: &[&str]| -> Option<String> {
        let mut command = Command::new("tshark");
        command.arg("-r").arg(vector("trace.pcapng")).args(arguments);
        let output = command.output().ok()?;
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Some(String::from_utf8(output.stdout).unwrap())
    };
    let atr = r#"uat:user_dlts:"User 0 (DLT=147)","iso7816.atr","0","","0","""#;
    let fields = [
        "-o",
        atr,
        "-T",
        "fields",
        "-e",
        "frame.number",
        "-e",
        "frame.interface_name",
        "-e",
        "gsm_sim.apdu.ins",
        "-e",
        "gsm_sim.apdu.sw",
        "-e",
        "iso7816.atr.init_char",
        "-e",
        "iso7816.atr.tck",
    ];
    let Some(found) = dissected(&fields) else {
        println!("tshark is not installed: the committed dissection is not compared");
        return;
    };
    if std::env::var_os("SEKISHO_WRITE_VECTORS").is_some() {
        std::fs::write(vector("trace.dissected"), &found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(vector("trace.dissected")).unwrap());
    assert_eq!(dissected(&["-o", atr, "-Y", "_ws.malformed"]).unwrap(), "");
}
