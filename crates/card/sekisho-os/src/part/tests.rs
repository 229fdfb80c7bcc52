//! Modules that mean harm: none is more than a status word, none writes, and none becomes the active part that would not run.

use std::format;
use std::string::String;
use std::vec::Vec;

use sekisho_apdu::{CApdu, Cla, StatusWord, Writer};
use sekisho_keys::Rng;
use sekisho_nvm::ram::RamFlash;
use sekisho_nvm::{Flash, Ram, Region, Store};

use super::*;
use crate::nvm::{AnyFlash, BulkArea, Layout, Nvm, Records, Staged};
use crate::transient::{Kept, Session, Transients};

/// RAM of the tests' part: two pages of memory and what the engine needs beside them.
const RAM: usize = 2 * 65536 + 32 * 1024;
/// Pages of 4096 bytes: a store of two, a slot of many.
const SLOT: core::ops::Range<usize> = 4..24;

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
            (import "sekisho" "remove" (func $remove (param i32) (result i32)))
            (import "sekisho" "random" (func $random (param i32 i32) (result i32)))
            (import "sekisho" "version" (func $version (result i32)))
            (memory (export "memory") {memory})
            (func (export "abi") (result i32) i32.const 2)
            (func (export "buffer") (result i32) i32.const 0)
            (func $ok (result i32) (i32.store16 (i32.const 0) (i32.const 0x0090)) i32.const 2)
            (func $process (export "process") (param i32) (result i32) {body}))"#
    );
    wat::parse_str(text).unwrap()
}

/// A flash whose bytes are not mapped, or in one piece.
struct TestFlash {
    flash: RamFlash,
    copy: Option<Vec<u8>>,
}

impl Flash for TestFlash {
    type Error = sekisho_nvm::ram::RamError;

    fn page_size(&self) -> usize {
        self.flash.page_size()
    }

    fn pages(&self) -> usize {
        self.flash.pages()
    }

    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), Self::Error> {
        self.flash.read(address, out)
    }

    fn mapped(&self, range: core::ops::Range<usize>) -> Option<&[u8]> {
        self.copy.as_ref()?.get(range)
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), Self::Error> {
        self.flash.write(address, bytes)
    }

    fn erase(&mut self, page: usize) -> Result<(), Self::Error> {
        self.flash.erase(page)
    }
}

/// A session in which nothing has been kept.
fn nothing_kept() -> Kept {
    let place = crate::interface::Place {
        interface: crate::interface::Interface::Spi,
        logical_channel: 0,
    };
    Transients::<1>::NEW.begin(Session {
        place,
        number: 1,
        version: 7,
    })
}

/// Runs one command in `image`; gives its status word, and whether record 0 is there afterwards.
fn run_with(image: &[u8], ram: usize, is_mapped: bool, command: &CApdu<'_>) -> (u16, bool) {
    let [now, later] =
        [Writes::Now, Writes::Together].map(|writes| run_as(image, ram, is_mapped, writes, command));
    assert_eq!(now, later, "called by an application, it does the same");
    now
}

/// The same, from an interface or from an application.
fn run_as(image: &[u8], ram: usize, is_mapped: bool, writes: Writes, command: &CApdu<'_>) -> (u16, bool) {
    let mut flash = TestFlash {
        flash: RamFlash::new(4096, SLOT.end),
        copy: None,
    };
    let mut store = Store::<Ram<8, 16, 16>>::format(&mut flash, 0..4).unwrap();
    let region = Region::new(SLOT);
    let whole = image.len().next_multiple_of(4);
    let mut bytes = image.to_vec();
    bytes.resize(whole, 0xFF);
    region.write(&mut flash, 0, &bytes).unwrap();
    if is_mapped {
        let mut copy = std::vec![0; SLOT.end * 4096];
        flash.read(0, &mut copy).unwrap();
        flash.copy = Some(copy);
    }
    let layout = Layout {
        store: 0..4,
        slots: [SLOT, SLOT],
        area: 0..0,
        area_quota: 0,
        container_area_quota: 0,
        container_quota: usize::MAX,
    };
    let mut area = BulkArea::new(0..0);
    let mut staged = Staged::new();
    let mut records = Records {
        nvm: Nvm {
            flash: AnyFlash::new(&mut flash),
            store: &mut store,
            area: &mut area,
            layout: &layout,
            rooms: &mut [],
        },
        staged: &mut staged,
    };
    let placed = Placed {
        region,
        len: image.len(),
        version: 7,
        abi: check(image, RAM).unwrap_or(2),
        ram,
        whose: Whose::Part,
    };
    let mut buf = [0; 2048];
    let mut out = Writer::new(&mut buf);
    let mut around = Around {
        records: &mut records,
        rng: &mut Zeros,
        kept: &mut nothing_kept(),
        call: None,
        caller: None,
        pieces: false,
        writes,
        announces: false,
        announced: None,
    };
    let (came, failure) = process(&mut around, &placed, Asked::Command(command), &mut out);
    let StatusWord(sw) = match came {
        Ok(Came::Word(sw)) | Err(sw) => sw,
        Ok(came) => panic!("{came:?}"),
    };
    assert_eq!(failure.is_some(), sw == 0x6F00, "6F00 has a reason");
    let written = records.get(part_data(0), &mut [0; 300]).unwrap().is_some();
    let key = part_data(0).key();
    let is_durable = records.nvm.get(key, &mut [0; 300]).unwrap().is_some();
    assert_eq!(is_durable, written && matches!(writes, Writes::Now), "{writes:?}");
    (sw, written)
}

fn run(image: &[u8]) -> (u16, bool) {
    let command = CApdu::new(Cla::GP, 0x10, 0, 0);
    let mapped = run_with(image, RAM, true, &command);
    assert_eq!(run_with(image, RAM, false, &command), mapped, "read in pieces");
    mapped
}

const PUT: &str = "(drop (call $put (i32.const 0) (i32.const 0) (i32.const 4)))";

#[test]
fn a_good_module_answers_and_writes() {
    let image = module("1", &format!("{PUT} (call $ok)"));
    assert_eq!(check(&image, RAM), Ok(2));
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
        ("endless recursion", "(call $process (local.get 0))"),
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
        assert_eq!(check(&image, RAM), Ok(2), "{what}");
        assert_eq!(run(&image), (0x6F00, false), "{what}");
    }
}

/// The page: an address outside the memory traps, 80000000 and above like any other; index and length are looked at before it.
#[test]
fn an_address_outside_the_memory_traps_whatever_its_highest_bit() {
    for address in ["65536", "65535", "0x7FFFFFFF", "0x80000000", "-1"] {
        for call in [
            format!("(call $put (i32.const 1) (i32.const {address}) (i32.const 200))"),
            format!("(call $get (i32.const 0) (i32.const {address}) (i32.const 200))"),
            format!("(call $random (i32.const {address}) (i32.const 64))"),
        ] {
            let image = module("1", &format!("{PUT} (drop {call}) (call $ok)"));
            assert_eq!(run(&image), (0x6F00, false), "{call}");
        }
    }
}

#[test]
fn what_the_host_refuses_is_minus_two() {
    for (call, answer) in [
        ("(call $put (i32.const 16) (i32.const -1) (i32.const 4))", -2),
        ("(call $put (i32.const -1) (i32.const 0) (i32.const 4))", -2),
        ("(call $put (i32.const 1) (i32.const 0) (i32.const 257))", -2),
        ("(call $put (i32.const 1) (i32.const -1) (i32.const -1))", -2),
        ("(call $get (i32.const 16) (i32.const 0) (i32.const 4))", -2),
        ("(call $get (i32.const 0) (i32.const -1) (i32.const 3))", -2),
        ("(call $get (i32.const 1) (i32.const -1) (i32.const 3))", -1),
        ("(call $get (i32.const 0) (i32.const 8) (i32.const 4))", 4),
        ("(call $get (i32.const 0) (i32.const 8) (i32.const -1))", 4),
        ("(call $remove (i32.const 16))", -2),
        ("(call $remove (i32.const 3))", 0),
        ("(call $random (i32.const -1) (i32.const 65))", -2),
        ("(call $random (i32.const 0) (i32.const -1))", -2),
        ("(call $random (i32.const 0) (i32.const 64))", 0),
        ("(call $version)", 7),
    ] {
        let image = module(
            "1",
            &format!("{PUT} (if (i32.ne {call} (i32.const {answer})) (then unreachable)) (call $ok)"),
        );
        assert_eq!(run(&image).0, 0x9000, "{call}");
    }
    // Sixty-four random bytes are all that a command has.
    let twice = "(drop (call $random (i32.const 0) (i32.const 60)))
        (if (i32.ne (call $random (i32.const 0) (i32.const 5)) (i32.const -2)) (then unreachable)) (call $ok)";
    assert_eq!(run(&module("1", twice)).0, 0x9000);
}

/// A module of this ABI that asks for eight bytes of a session's state.
fn keeper(abi: u8, body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "sekisho" "put" (func $put (param i32 i32 i32) (result i32)))
            (import "sekisho" "transient_get" (func $tget (param i32 i32 i32) (result i32)))
            (import "sekisho" "transient_put" (func $tput (param i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "abi") (result i32) i32.const {abi})
            (func (export "transient") (result i32) i32.const 8)
            (func (export "buffer") (result i32) i32.const 0)
            (func $ok (result i32) (i32.store16 (i32.const 0) (i32.const 0x0090)) i32.const 2)
            (func $process (export "process") (param i32) (result i32) {body}))"#
    );
    wat::parse_str(text).unwrap()
}

/// The page: what is not among the bytes that a module has asked for is -2, and touches no memory; an address outside the memory traps.
#[test]
fn the_state_of_a_session_has_the_bytes_that_were_asked_for() {
    for (call, answer) in [
        ("(call $tput (i32.const 0) (i32.const 0) (i32.const 8))", 0),
        ("(call $tget (i32.const 7) (i32.const 65535) (i32.const 1))", 0),
        ("(call $tget (i32.const 8) (i32.const 0) (i32.const 0))", 0),
        ("(call $tput (i32.const 0) (i32.const -1) (i32.const 9))", -2),
        ("(call $tget (i32.const 8) (i32.const -1) (i32.const 1))", -2),
        ("(call $tget (i32.const 1) (i32.const -1) (i32.const -1))", -2),
        ("(call $tput (i32.const -1) (i32.const -1) (i32.const 1))", -2),
        ("(call $tput (i32.const -1) (i32.const -1) (i32.const -1))", -2),
        ("(call $tput (i32.const 9) (i32.const -1) (i32.const 0))", -2),
    ] {
        let image = keeper(
            3,
            &format!("(if (i32.ne {call} (i32.const {answer})) (then unreachable)) (call $ok)"),
        );
        assert_eq!(check(&image, RAM), Ok(3));
        assert_eq!(run(&image).0, 0x9000, "{call}");
    }
    for address in ["65536", "65535", "0x80000000", "-1"] {
        for call in ["$tput", "$tget"] {
            let call = format!("(call {call} (i32.const 0) (i32.const {address}) (i32.const 8))");
            let image = keeper(3, &format!("{PUT} (drop {call}) (call $ok)"));
            assert_eq!(run(&image), (0x6F00, false), "{call}");
        }
    }
}

/// A module of ABI 2 has none, whatever it imports.
#[test]
fn before_abi_3_there_is_no_state_of_a_session() {
    let asks = "(if (i32.ne (call $tput (i32.const 0) (i32.const 0) (i32.const 1)) (i32.const -2)) (then unreachable)) (call $ok)";
    let image = keeper(2, asks);
    assert_eq!(check(&image, RAM), Ok(2));
    assert_eq!(run(&image).0, 0x9000);
}

/// What a module needs is its need at each command: what does not fit is refused before it is active.
#[test]
fn what_does_not_fit_into_the_budget_does_not_become_active() {
    let ok = "(call $ok)";
    assert_eq!(check(&module("2", ok), RAM), Ok(2));
    for memory in ["3", "200", "60000"] {
        let image = module(memory, ok);
        assert!(
            matches!(check(&image, RAM), Err(NoPart::Module(_))),
            "{memory} pages"
        );
        assert_eq!(
            run_with(&image, RAM, true, &CApdu::new(Cla::GP, 0, 0, 0)),
            (0x6A84, false),
            "if it had been"
        );
    }
    // Any budget: what the check lets pass runs, whatever the part has written, and what it does not lets nothing happen.
    let image = module("1", &format!("{PUT} (call $ok)"));
    let mut outcomes = [0; 2];
    for ram in (0..96 * 1024).step_by(331) {
        let is_part = check(&image, ram).is_ok();
        let expected = if is_part { (0x9000, true) } else { (0x6A84, false) };
        assert_eq!(
            run_with(&image, ram, ram % 2 == 0, &CApdu::new(Cla::GP, 0, 0, 0)),
            expected,
            "{ram}"
        );
        outcomes[usize::from(is_part)] += 1;
    }
    assert!(outcomes.iter().all(|count| *count > 5), "{outcomes:?}");
}

#[test]
fn a_memory_does_not_grow() {
    let grow = "(if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (call $ok)";
    assert_eq!(run(&module("1", grow)).0, 0x9000);
}

#[test]
fn a_command_longer_than_the_buffer_is_6700() {
    let image = module("1", "(call $ok)");
    // Header and a length of three bytes; without Le 1,017 bytes of data fill the buffer.
    for (len, sw) in [(1017, 0x9000), (1018, 0x6700), (2048, 0x6700)] {
        let data = std::vec![0x5A; len];
        let command = CApdu {
            data: &data,
            ..CApdu::new(Cla::GP, 0x10, 0, 0)
        };
        assert_eq!(run_with(&image, RAM, true, &command).0, sw, "{len}");
    }
}

/// `process` may execute 2,000,000 instructions and no more: each round of this loop is five.
#[test]
fn the_fuel_of_a_command_is_exact() {
    let spin = |rounds: u32| {
        let image = module(
            "1",
            &format!(
                "(local $i i32) (local.set $i (i32.const {rounds}))
                (loop (br_if 0 (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
                (i32.store16 (i32.const 0) (i32.const 0x0090)) nop nop (drop (i32.const 0)) (i32.const 2)"
            ),
        );
        run_with(&image, RAM, true, &CApdu::new(Cla::GP, 0, 0, 0)).0
    };
    // Two before the loop; three to store, two to drop, one for the length, one for the end.
    let rounds = (FUEL - 9) / 5;
    assert_eq!(spin(rounds), 0x9000);
    assert_eq!(spin(rounds + 1), 0x6F00);
}

#[test]
fn modules_that_are_none_are_refused_by_name() {
    let good = module("1", "(call $ok)");
    // One cut gives a module again: the one before the names, which are a section that means nothing.
    let whole = (0..good.len())
        .filter(|cut| check(&good[..*cut], RAM).is_ok())
        .count();
    assert_eq!(whole, 1);
    let text = |memory: &str, abi: &str, buffer: &str, process: &str| {
        format!(
            r#"(module {memory} (func (export "abi") (result i32) {abi}) (func (export "buffer") (result i32) {buffer}) {process})"#
        )
    };
    let memory = r#"(memory (export "memory") 1)"#;
    let process = r#"(func (export "process") (param i32) (result i32) i32.const 0)"#;
    let cases: [(String, NoPart); 9] = [
        ("(module)".into(), NoPart::Export("abi: () -> i32")),
        (
            text("(memory 1)", "i32.const 2", "i32.const 0", process),
            NoPart::Export("memory"),
        ),
        (
            text("", "i32.const 2", "i32.const 0", process),
            NoPart::Export("memory"),
        ),
        (
            text(
                memory,
                "i32.const 2",
                "i32.const 0",
                r#"(func (export "process"))"#,
            ),
            NoPart::Export("process: (i32) -> i32"),
        ),
        (
            text(memory, "i32.const 1", "i32.const 0", process),
            NoPart::Abi(1),
        ),
        (
            text(memory, "(loop $l (br $l)) i32.const 2", "i32.const 0", process),
            NoPart::Trap("abi", Trap::Fuel),
        ),
        (
            text(memory, "i32.const 2", "unreachable", process),
            NoPart::Trap("buffer", Trap::Unreachable),
        ),
        (
            text(memory, "i32.const 2", "i32.const 64513", process),
            NoPart::Buffer(64513),
        ),
        (
            text(memory, "i32.const 2", "i32.const -1", process),
            NoPart::Buffer(0xFFFF_FFFF),
        ),
    ];
    for (text, why) in cases {
        assert_eq!(
            check(&wat::parse_str(&text).unwrap(), RAM),
            Err(why.clone()),
            "{text}"
        );
        assert!(!format!("{why}").is_empty());
    }
}

#[test]
fn modules_that_the_engine_or_the_scan_refuses_are_none() {
    for text in [
        r#"(module (import "sekisho" "key" (func (param i32))))"#,
        r#"(module (import "sekisho" "version" (func (result i64))))"#,
        r#"(module (memory (export "memory") 1) (func $s) (start $s))"#,
        "(module (table 100000000 funcref))",
    ] {
        let refused = check(&wat::parse_str(text).unwrap(), RAM);
        assert!(matches!(refused, Err(NoPart::Module(_))), "{text}: {refused:?}");
    }
}

/// A module of this ABI that asks for so many records and words of stack.
fn modest(abi: u8, records: &str, stack: &str, body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "sekisho" "get" (func $get (param i32 i32 i32) (result i32)))
            (import "sekisho" "put" (func $put (param i32 i32 i32) (result i32)))
            (import "sekisho" "remove" (func $remove (param i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "abi") (result i32) i32.const {abi})
            (func (export "transient") (result i32) i32.const 0)
            (func (export "records") (result i32) i32.const {records})
            (func (export "stack") (result i32) i32.const {stack})
            (func (export "buffer") (result i32) i32.const 0)
            (func $ok (result i32) (i32.store16 (i32.const 0) (i32.const 0x0090)) i32.const 2)
            (func $deep (param i32) (result i32)
                (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
                (call $deep (i32.sub (local.get 0) (i32.const 1))))
            (func $process (export "process") (param i32) (result i32) {body}))"#
    );
    wat::parse_str(text).unwrap()
}

/// The page: a module has as many records and as much stack as it asks for, and what is none of either is refused.
#[test]
fn a_module_that_asks_for_less_has_less() {
    let is = |call: &str, answer: i32| {
        format!("(if (i32.ne {call} (i32.const {answer})) (then unreachable)) (call $ok)")
    };
    let calls = [
        ("(call $put (i32.const 1) (i32.const 0) (i32.const 4))", 0),
        ("(call $put (i32.const 2) (i32.const -1) (i32.const 4))", -2),
        ("(call $get (i32.const 2) (i32.const -1) (i32.const 4))", -2),
        ("(call $remove (i32.const 2))", -2),
    ];
    for (call, answer) in calls {
        let image = modest(3, "2", "256", &is(call, answer));
        assert_eq!(check(&image, RAM), Ok(3));
        assert_eq!(run(&image).0, 0x9000, "{call}");
    }
    let none = modest(
        3,
        "0",
        "16",
        &is("(call $put (i32.const 0) (i32.const 0) (i32.const 4))", -2),
    );
    assert_eq!(run(&none).0, 0x9000);
    // In ABI 2 they mean nothing.
    let all = "(call $put (i32.const 15) (i32.const 0) (i32.const 4))";
    let image = modest(2, "0", "0", &is(all, 0));
    assert_eq!(check(&image, RAM), Ok(2));
    assert_eq!(run(&image).0, 0x9000);
    for (words, depth, expected) in [("256", 20, 0x9000), ("256", 200, 0x6F00), ("2048", 200, 0x9000)] {
        let deep = format!("(drop (call $deep (i32.const {depth}))) (call $ok)");
        assert_eq!(
            run(&modest(3, "0", words, &deep)).0,
            expected,
            "{words} words, {depth} calls"
        );
    }
    for (records, stack, why) in [
        ("17", "256", NoPart::Records(17)),
        ("-1", "256", NoPart::Records(-1)),
        ("2", "15", NoPart::Stack(15)),
        ("2", "2049", NoPart::Stack(2049)),
        ("2", "-1", NoPart::Stack(-1)),
    ] {
        assert!(!format!("{why}").is_empty());
        assert_eq!(check(&modest(3, records, stack, "(call $ok)"), RAM), Err(why));
    }
}

/// What a command of the delivered modules takes of the engine's heap at most: the least budget with which they are taken, and so run. Of it 20,480 bytes are
/// the module's memory, its stack and the room for records, 8,192 and 8,192 and 4,096; 9,984 of one that asks for 3 records and a stack of 256 words.
#[test]
fn the_delivered_modules_run_in_27_000_bytes_of_heap() {
    for (name, image) in [
        (
            "meter-v1",
            &include_bytes!("../../../../../applets/prebuilt/meter-v1.wasm")[..],
        ),
        (
            "meter-v2",
            include_bytes!("../../../../../applets/prebuilt/meter-v2.wasm"),
        ),
        (
            "locker",
            include_bytes!("../../../../../applets/prebuilt/locker.wasm"),
        ),
        (
            "tariff",
            include_bytes!("../../../../../applets/prebuilt/tariff.wasm"),
        ),
    ] {
        let (mut least, mut most) = (0, 64 * 1024);
        while most - least > 1 {
            let middle = usize::midpoint(least, most);
            if check(image, middle).is_ok() {
                most = middle;
            } else {
                least = middle;
            }
        }
        std::println!("{name}: {most} bytes of heap for an image of {}", image.len());
        let expected = if name == "tariff" {
            9_984..18_500
        } else {
            20_480..27_000
        };
        assert!(expected.contains(&most), "{name}: {most}");
    }
}
