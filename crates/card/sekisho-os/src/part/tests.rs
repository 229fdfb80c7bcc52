//! Modules that mean harm: none is more than a status word, and none writes.

use std::format;
use std::string::String;
use std::vec::Vec;

use sekisho_apdu::{CApdu, Cla, StatusWord, Writer};
use sekisho_keys::Rng;
use sekisho_nvm::Store;
use sekisho_nvm::ram::RamFlash;

use super::{process, validate};
use crate::loader::part_data;
use crate::nvm::{Layout, Nvm};

struct Zeros;

impl Rng for Zeros {
    fn fill(&mut self, out: &mut [u8]) {
        out.fill(0);
    }
}

/// A module whose `process` is `body`, with all imports and exports of the ABI.
fn module(memory: &str, body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "sekisho" "get" (func $get (param i32 i32 i32) (result i32)))
            (import "sekisho" "put" (func $put (param i32 i32 i32) (result i32)))
            (import "sekisho" "random" (func $random (param i32 i32) (result i32)))
            (memory (export "memory") {memory})
            (func (export "abi") (result i32) i32.const 1)
            (func (export "buffer") (result i32) i32.const 0)
            (func $ok (result i32) (i32.store16 (i32.const 0) (i32.const 0x0090)) i32.const 2)
            (func (export "process") (param i32) (result i32) {body}))"#
    );
    wat::parse_str(text).unwrap()
}

/// Runs one command in `image`; gives its status word, and whether record 0 is there afterwards.
fn run(image: &[u8]) -> (u16, bool) {
    let mut flash = RamFlash::new(4096, 4);
    let mut store = Store::format(&mut flash, 0..2).unwrap();
    let layout = Layout {
        store: 0..2,
        slots: [2..3, 3..4],
    };
    let mut nvm = Nvm {
        flash: &mut flash,
        store: &mut store,
        layout: &layout,
    };
    let mut buf = [0; 2048];
    let mut out = Writer::new(&mut buf);
    let command = CApdu::new(Cla::GP, 0x10, 0, 0);
    let StatusWord(sw) = process(&mut nvm, &mut Zeros, image, 7, 128 * 1024, &command, &mut out);
    let written = nvm.get(part_data(0), &mut [0; 300]).unwrap().is_some();
    (sw, written)
}

const PUT: &str = "(drop (call $put (i32.const 0) (i32.const 0) (i32.const 4)))";

#[test]
fn a_good_module_answers_and_writes() {
    let image = module("1", &format!("{PUT} (call $ok)"));
    assert!(validate(&image).is_ok());
    assert_eq!(run(&image), (0x9000, true));
    let error = format!("{PUT} (i32.store16 (i32.const 0) (i32.const 0x806A)) (i32.const 2)");
    assert_eq!(
        run(&module("1", &error)),
        (0x6A80, false),
        "an error drops what was written"
    );
}

#[test]
fn what_a_module_does_wrong_is_6f00_and_writes_nothing() {
    let endless: String = "(func $f (call $f))".into();
    for (what, body) in [
        ("endless loop", "(loop $l (br $l)) (call $ok)"),
        ("trap", "unreachable"),
        ("division by zero", "(i32.div_s (i32.const 1) (i32.const 0))"),
        (
            "store outside the memory",
            "(i32.store (i32.const 0x7FFFFFFF) (i32.const 1)) (call $ok)",
        ),
        ("no status word", "(i32.const 1)"),
        ("negative length", "(i32.const -1)"),
        ("length beyond the buffer", "(i32.const 1025)"),
        (
            "put from outside",
            "(drop (call $put (i32.const 1) (i32.const -1) (i32.const 200))) (i32.const 0)",
        ),
        (
            "random to outside",
            "(drop (call $random (i32.const 65535) (i32.const 64))) (call $ok)",
        ),
        (
            "more to fetch",
            "(i32.store16 (i32.const 0) (i32.const 0x1061)) (i32.const 2)",
        ),
        (
            "flash failure",
            "(i32.store16 (i32.const 0) (i32.const 0x8165)) (i32.const 2)",
        ),
    ] {
        let image = module("1", &format!("{PUT} {body}"));
        assert_eq!(run(&image), (0x6F00, false), "{what}");
    }
    assert!(wat::parse_str(format!("(module {endless})")).is_ok());
    let recursive = module("1", "(call 6 (local.get 0))");
    assert_eq!(run(&recursive), (0x6F00, false), "endless recursion");
}

#[test]
fn what_the_host_refuses_is_minus_two() {
    for call in [
        "(call $put (i32.const 16) (i32.const 0) (i32.const 4))",
        "(call $put (i32.const -1) (i32.const 0) (i32.const 4))",
        "(call $put (i32.const 1) (i32.const 0) (i32.const 257))",
        "(call $put (i32.const 1) (i32.const 0) (i32.const -1))",
        "(call $get (i32.const 16) (i32.const 0) (i32.const 4))",
        "(call $random (i32.const 0) (i32.const 65))",
    ] {
        let image = module(
            "1",
            &format!("(if (i32.ne {call} (i32.const -2)) (then unreachable)) (call $ok)"),
        );
        assert_eq!(run(&image).0, 0x9000, "{call}");
    }
}

#[test]
fn memory_has_a_budget() {
    // Two pages are 128 KiB, the budget; a third is refused when it grows, and when it begins with it.
    let grow = "(if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (call $ok)";
    assert_eq!(run(&module("2", grow)).0, 0x9000);
    assert_eq!(run(&module("3", "(call $ok)")).0, 0x6F00);
    assert_eq!(run(&module("60000", "(call $ok)")).0, 0x6F00);
}

#[test]
fn modules_that_are_none_do_not_load() {
    let good = module("1", "(call $ok)");
    // One cut gives a module again: the one before the names, which are a section that means nothing.
    let whole = (0..good.len())
        .filter(|cut| validate(&good[..*cut]).is_ok())
        .count();
    assert_eq!(whole, 1);
    for text in [
        "(module)",
        r#"(module (import "sekisho" "key" (func (param i32))))"#,
        r#"(module (memory (export "memory") 1) (func (export "abi") (result i32) i32.const 2)
            (func (export "buffer") (result i32) i32.const 0) (func (export "process") (param i32) (result i32) i32.const 0))"#,
        r#"(module (memory (export "memory") 1) (func $s) (start $s) (func (export "abi") (result i32) i32.const 1)
            (func (export "buffer") (result i32) i32.const 0) (func (export "process") (param i32) (result i32) i32.const 0))"#,
        r#"(module (memory (export "memory") 1) (func (export "abi") (result i32) (loop $l (br $l)) i32.const 1)
            (func (export "buffer") (result i32) i32.const 0) (func (export "process") (param i32) (result i32) i32.const 0))"#,
    ] {
        assert!(validate(&wat::parse_str(text).unwrap()).is_err(), "{text}");
    }
}
