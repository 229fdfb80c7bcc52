//! `sekisho design pack` and `design try`: the secure element's own checks before anybody signs, and commands without any server.

use std::path::{Path, PathBuf};
use std::process::Command;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Exit code, standard output, standard error.
fn sekisho(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sekisho"))
        .args(arguments)
        .current_dir(folder)
        .env("SEKISHO_PASSPHRASE", "a passphrase of the test")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A part whose `process` is `body`.
fn part(body: &str) -> Vec<u8> {
    let text = r#"(module (memory (export "memory") 1) (func (export "abi") (result i32) i32.const 2)
        (func (export "buffer") (result i32) i32.const 0) (func (export "process") (param i32) (result i32) BODY))"#;
    wat::parse_str(text.replace("BODY", body)).unwrap()
}

#[test]
fn try_shows_answers_and_remembers_records_from_one_command_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let meter = repository("applets/prebuilt/meter-v2.wasm");
    let meter = meter.to_str().unwrap();
    let (code, out, error) = sekisho(
        folder.path(),
        &[
            "design",
            "try",
            meter,
            "--version",
            "7",
            "80 10 00 00 04",
            "802200000200050",
            "802200000200FA00",
        ],
    );
    assert_eq!(code, 2, "half a byte: nothing is sent");
    assert!(
        out.is_empty() && error.contains("802200000200050"),
        "{out}{error}"
    );
    let (code, out, error) = sekisho(
        folder.path(),
        &[
            "design",
            "try",
            meter,
            "--version",
            "7",
            "80 10 00 00 04",
            "80220000020005",
            "802200000200FA00",
            "8022000000",
            "8099000000",
        ],
    );
    assert_eq!(code, 0, "{error}");
    assert_eq!(
        out,
        "8010000004 -> 000000079000  done\n\
         80220000020005 -> 000000059000  done\n\
         802200000200FA00 -> 000000FF9000  done\n\
         8022000000 -> 6700  wrong length\n\
         8099000000 -> 6D00  there is no such command\n"
    );
}

#[test]
fn try_says_why_a_part_failed() {
    let folder = tempfile::tempdir().unwrap();
    for (body, words) in [
        ("unreachable", "it reached `unreachable`"),
        ("(loop $l (br $l)) (i32.const 2)", "it used up its fuel"),
        ("(i32.load (i32.const -1))", "an address outside its memory"),
        ("(i32.const 2000)", "an answer has 2 to 1024 bytes, not 2000"),
        (
            "(i32.store16 (i32.const 0) (i32.const 0x0061)) (i32.const 2)",
            "6100 is the secure element's own",
        ),
    ] {
        std::fs::write(folder.path().join("part.wasm"), part(body)).unwrap();
        let (code, out, error) = sekisho(folder.path(), &["design", "try", "part.wasm", "80100000"]);
        assert_eq!(code, 0, "{error}");
        assert!(
            out.starts_with("80100000 -> 6F00  the part failed: ") && out.contains(words),
            "{out}"
        );
    }
}

/// What each device would refuse five times, and then be blocked for, is not signed.
#[test]
fn pack_and_try_refuse_what_a_secure_element_would_refuse() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (code, _, error) = sekisho(path, &["design", "ceremony"]);
    assert_eq!(code, 0, "{error}");
    let large = [part("i32.const 2"), vec![0; 3 << 20]].concat();
    let no_memory = wat::parse_str("(module (memory (export \"memory\") 200))").unwrap();
    for (image, words) in [
        (b"\0asm\x01\0\0\0".to_vec(), "it does not export abi: () -> i32"),
        (b"wasm".to_vec(), "at byte 4"),
        (large, "a slot of the secure element has 589824"),
        (no_memory, "bytes of memory"),
        (part("(drop (f32.const 1)) (i32.const 2)"), "it uses floats"),
        (
            part("(i32.extend8_s (i32.const 2))"),
            "C0 is not WebAssembly 1.0; for Rust build it for wasm32v1-none",
        ),
    ] {
        std::fs::write(path.join("part.wasm"), &image).unwrap();
        for arguments in [
            &["design", "pack", "part.wasm", "--version", "2"][..],
            &["design", "try", "part.wasm", "80100000"],
        ] {
            let (code, out, error) = sekisho(path, arguments);
            assert_eq!((code, out.as_str()), (1, ""), "{words}");
            assert!(error.contains("part.wasm") && error.contains(words), "{error}");
        }
        assert!(!path.join("update.skpk").exists());
    }
    // The budget is that of the secure elements that it is for.
    std::fs::write(path.join("part.wasm"), part("i32.const 2")).unwrap();
    let pack = ["design", "pack", "part.wasm", "--version", "2", "--ram"];
    let (code, _, error) = sekisho(path, &[&pack[..], &["64K"]].concat());
    assert_eq!(code, 1, "{error}");
    let (code, _, error) = sekisho(path, &[&pack[..], &["256K"]].concat());
    assert_eq!(code, 0, "{error}");
    assert!(path.join("update.skpk").exists());
}
