//! Each limit at its edge, fuel to the instruction, floats by name, and every allocation that fails.

use std::format;
use std::string::String;
use std::vec::Vec;

use super::heap::{failing, given_back};
use super::*;

const RAM: usize = 256 * 1024;

/// A host of one function, which writes what it got to address 0 and gives the sum.
struct Sum;

impl Host for Sum {
    const MODULE: &'static str = "host";
    const FUNCTIONS: &'static [Import] = &[Import {
        name: "sum",
        params: 2,
    }];

    fn call(&mut self, _: usize, args: &[i32; 4], memory: &mut dyn Memory) -> Result<i32, Trap> {
        let [a, b, ..] = *args;
        memory
            .write(0, &a.to_le_bytes())
            .map_err(|OutOfBounds| Trap::Memory)?;
        Ok(a.wrapping_add(b))
    }
}

fn refusal(image: &[u8], limits: &Limits) -> Option<Why> {
    let budget = Budget::new(limits.heap).unwrap();
    let module = Space::load(&budget, &mut Image::mapped(image), limits, Sum);
    module.err().map(|refusal| refusal.why)
}

fn refusal_of_text(text: &str) -> Option<Why> {
    refusal(&wat::parse_str(text).unwrap(), &Limits::os_part(RAM))
}

/// Runs the exported function `f` of a module's text.
fn run(text: &str, args: &[Value], fuel: u32) -> Result<Option<Value>, Trap> {
    let image = wat::parse_str(text).unwrap();
    let budget = Budget::new(RAM).unwrap();
    let mut module = Space::load(&budget, &mut Image::mapped(&image), &Limits::os_part(RAM), Sum).unwrap();
    module.call("f", args, fuel)
}

#[test]
fn a_module_computes_and_calls_its_host() {
    let text = r#"(module (import "host" "sum" (func $sum (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "f") (param i32) (result i64) (i64.extend_i32_u (call $sum (local.get 0) (i32.const 2)))))"#;
    let image = wat::parse_str(text).unwrap();
    let budget = Budget::new(RAM).unwrap();
    let mut module = Space::load(&budget, &mut Image::mapped(&image), &Limits::os_part(RAM), Sum).unwrap();
    assert!(module.has("f", &[ValueType::I32], Some(ValueType::I64)));
    assert!(!module.has("f", &[ValueType::I32], Some(ValueType::I32)));
    assert!(!module.has("g", &[], None));
    assert_eq!(module.call("f", &[Value::I32(40)], 10), Ok(Some(Value::I64(42))));
    let mut first = [0; 4];
    module.memory().unwrap().read(0, &mut first).unwrap();
    assert_eq!(first, [40, 0, 0, 0]);
    assert_eq!(module.call("f", &[], 10), Err(Trap::NoFunction));
    assert_eq!(module.call("memory", &[], 10), Err(Trap::NoFunction));
}

#[test]
fn a_read_image_is_as_good_as_a_mapped_one() {
    // Longer than several pieces, so that numbers lie across their edges.
    let body = "(drop (i32.const 1234567))".repeat(500);
    let text = format!(r#"(module (func (export "f") (result i32) {body} (i32.const 7)))"#);
    let image = wat::parse_str(text).unwrap();
    assert!(image.len() > 4 * CHUNK);
    let budget = Budget::new(RAM).unwrap();
    let limits = Limits::os_part(RAM);
    let mut read = |at: usize, out: &mut [u8]| {
        out.copy_from_slice(&image[at..at + out.len()]);
        Ok(())
    };
    let mut module = Space::load(&budget, &mut Image::read(image.len(), &mut read), &limits, Sum).unwrap();
    assert_eq!(module.call("f", &[], 5000), Ok(Some(Value::I32(7))));
    drop(module);
    // A flash that fails at any place is told from a wrong module.
    for bad in (0..image.len()).step_by(CHUNK) {
        let mut read = |at: usize, out: &mut [u8]| {
            out.copy_from_slice(&image[at..at + out.len()]);
            if at == bad { Err(ReadFailed) } else { Ok(()) }
        };
        let result = Space::load(&budget, &mut Image::read(image.len(), &mut read), &limits, Sum);
        assert_eq!(result.err().map(|refusal| refusal.why), Some(Why::Read), "{bad}");
    }
}

/// The specification's fuel: one for each instruction that is executed; `block`, `loop`, `nop` and the `end` of a block cost nothing, `else` costs one where
/// the first branch ends, the `end` of a function costs one as its return does.
#[test]
fn fuel_is_counted_to_the_instruction() {
    for (body, cost) in [
        ("(i32.const 1)", 2),
        ("(return (i32.const 1))", 2),
        ("nop nop (i32.const 1)", 2),
        ("(block (result i32) (i32.const 1))", 2),
        ("(drop (i32.const 1)) (i32.const 1)", 4),
        ("(i32.add (i32.const 1) (i32.const 2))", 4),
        ("(local.set 0 (i32.const 5)) (local.get 0)", 4),
        // Taken: the constant, if, the constant, else, end of the function.
        (
            "(if (result i32) (i32.const 1) (then (i32.const 1)) (else (i32.const 2)))",
            5,
        ),
        // Not taken: no else.
        (
            "(if (result i32) (i32.const 0) (then (i32.const 1)) (else (i32.const 2)))",
            4,
        ),
        ("(if (i32.const 0) (then nop)) (i32.const 1)", 4),
        ("(block (br 0)) (i32.const 1)", 3),
        ("(block (br_if 0 (i32.const 0))) (i32.const 1)", 4),
        ("(block (br_table 0 0 (i32.const 0))) (i32.const 1)", 4),
        ("(call $g)", 4),
        ("(call_indirect (type $t) (i32.const 0))", 5),
        ("(call $sum (i32.const 1) (i32.const 2))", 4),
        ("(select (i32.const 1) (i32.const 2) (i32.const 3))", 5),
        ("(i32.load (i32.const 4))", 3),
        ("(memory.grow (i32.const 4))", 3),
        ("(global.set 0 (i32.const 4)) (global.get 0)", 4),
        // Two, ten rounds of five, two.
        (
            "(local.set 0 (i32.const 10)) (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (i32.const 1)",
            2 + 10 * 5 + 2,
        ),
    ] {
        let text = format!(
            r#"(module (type $t (func (result i32))) (import "host" "sum" (func $sum (param i32 i32) (result i32)))
            (memory (export "memory") 1) (table 1 funcref) (elem (i32.const 0) $g) (global (mut i32) (i32.const 0))
            (func $g (type $t) (i32.const 3)) (func (export "f") (result i32) (local i32) {body}))"#
        );
        assert!(run(&text, &[], cost).is_ok(), "{body} costs more than {cost}");
        assert_eq!(
            run(&text, &[], cost - 1),
            Err(Trap::Fuel),
            "{body} costs less than {cost}"
        );
    }
}

#[test]
fn a_memory_does_not_grow() {
    for (memory, size) in [("1", 1), ("0", 0), ("1 2", 1), ("0 65536", 0)] {
        let grow = |by: &str| {
            let text =
                format!(r#"(module (memory {memory}) (func (export "f") (result i32) (memory.grow {by})))"#);
            run(&text, &[], 10)
        };
        assert_eq!(grow("(i32.const 0)"), Ok(Some(Value::I32(size))), "{memory}");
        for by in ["(i32.const 1)", "(i32.const -1)", "(i32.const 65536)"] {
            assert_eq!(grow(by), Ok(Some(Value::I32(-1))), "{memory} by {by}");
        }
    }
}

/// A module's text for a size: `count` of what a limit counts.
type Sized = fn(u32) -> String;

fn many(what: &str, count: u32) -> String {
    what.repeat(count as usize)
}

/// What a module says before its code: the name of each limit, the limit, and a module of that size.
fn sizes_of_definitions(limits: &Limits) -> [(&'static str, u32, Sized); 9] {
    [
        ("function types", limits.types, |n| {
            format!("(module {})", many("(type (func))", n))
        }),
        ("parameters of a function", limits.params, |n| {
            format!("(module (type (func (param {}))))", many(" i64", n))
        }),
        ("results of a function", 1, |n| {
            format!("(module (type (func (result {}))))", many(" i32", n))
        }),
        ("imports", limits.imports, |n| {
            let import = r#"(import "host" "sum" (func (param i32 i32) (result i32)))"#;
            format!("(module {})", many(import, n))
        }),
        ("functions", limits.functions, |n| {
            format!("(module {})", many("(func)", n))
        }),
        ("elements of the table", limits.table, |n| {
            format!("(module (table {n} funcref))")
        }),
        ("elements of the table", limits.table, |n| {
            format!("(module (table 1 {n} funcref))")
        }),
        ("elements of a segment", limits.table, |n| {
            format!(
                "(module (table 1024 funcref) (func $f) (elem (i32.const 0) {}))",
                many(" $f", n)
            )
        }),
        ("bytes of memory", 3 * 65536, |n| {
            format!("(module (memory {}))", n.div_ceil(65536))
        }),
    ]
}

/// What stands behind it.
fn sizes_of_the_rest(limits: &Limits) -> [(&'static str, u32, Sized); 10] {
    [
        ("globals", limits.globals, |n| {
            format!("(module {})", many("(global i64 (i64.const 1))", n))
        }),
        ("exports", limits.exports, |n| {
            let exports: String = (0..n).map(|i| format!(r#"(export "e{i}" (func $f))"#)).collect();
            format!("(module (func $f) {exports})")
        }),
        ("element segments", limits.segments, |n| {
            format!(
                "(module (table 1 funcref) (func $f) {})",
                many("(elem (i32.const 0) $f)", n)
            )
        }),
        ("data segments", limits.segments, |n| {
            format!("(module (memory 1) {})", many(r#"(data (i32.const 0) "a")"#, n))
        }),
        ("words of a function's locals", limits.locals, |n| {
            format!("(module (func (local {})))", many(" i32", n))
        }),
        ("groups of locals", limits.local_groups, |n| {
            let groups: String = (0..n).map(|i| if i % 2 == 0 { " i32" } else { " i64" }).collect();
            format!("(module (func (local {groups})))")
        }),
        ("targets of a br_table", limits.targets, |n| {
            format!(
                "(module (func (block (br_table {} 0 (i32.const 0)))))",
                many(" 0", n)
            )
        }),
        ("blocks inside each other", 64, |n| {
            format!("(module (func {} {}))", many("(block", n), many(")", n))
        }),
        ("bytes of a name", 32, |n| {
            format!(r#"(module (func (export "{}")))"#, many("n", n))
        }),
        ("bytes of a name", 32, |n| {
            format!(r#"(module (@custom "{}" "x"))"#, many("n", n))
        }),
    ]
}

/// Every size that a module can name: at its limit it is taken, one above it is refused by name.
#[test]
fn every_limit_holds_to_the_last() {
    // Memory has a limit of its own here, so that the heap is not what stops it.
    let limits = Limits {
        memory: 3 * 65536,
        heap: 1 << 20,
        ..Limits::os_part(RAM)
    };
    let cases = sizes_of_definitions(&limits)
        .into_iter()
        .chain(sizes_of_the_rest(&limits));
    for (what, limit, text) in cases {
        let at = |n| refusal(&wat::parse_str(text(n)).unwrap(), &limits);
        assert_eq!(at(limit), None, "{what}");
        assert_eq!(at(limit + 1), Some(Why::Limit(what, limit)), "{what}");
    }
    let long = std::vec![0; 768 * 1024 + 1];
    assert_eq!(
        refusal(&long, &limits),
        Some(Why::Limit("bytes of the image", 768 * 1024))
    );
    // i64 takes two words.
    let text = format!("(module (func (local {})))", many(" i64", 513));
    assert_eq!(
        refusal_of_text(&text),
        Some(Why::Limit("words of a function's locals", 1024))
    );
}

/// The engine's own stack of operand types, and numbers that a file can only claim.
#[test]
fn what_only_the_engine_counts_and_what_a_file_only_claims() {
    let operands = |n: usize| {
        let (push, add) = ("(i64.const 1)".repeat(n), "i64.add ".repeat(n - 1));
        refusal_of_text(&format!("(module (func (result i64) {push} {add}))"))
    };
    assert_eq!(operands(OPERANDS), None);
    assert_eq!(operands(OPERANDS + 1), Some(Why::Heap));
    for text in [
        "(module (table 100000000 funcref))",
        "(module (memory 200))",
        "(module (memory 65536))",
    ] {
        assert!(matches!(refusal_of_text(text), Some(Why::Limit(..))), "{text}");
    }
    // A vector of 2^32 - 1 elements in each section that has one.
    for section in [1, 2, 3, 4, 5, 6, 7, 9, 10, 11] {
        let mut image = b"\0asm\x01\0\0\0".to_vec();
        image.extend([section, 5, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]);
        let why = refusal(&image, &Limits::os_part(RAM));
        assert!(matches!(why, Some(Why::Limit(..))), "{section}: {why:?}");
    }
}

#[test]
fn floats_are_refused_wherever_they_stand() {
    for text in [
        "(module (type (func (param f32))))",
        "(module (type (func (result f64))))",
        "(module (global f64 (f64.const 1)))",
        "(module (func (local f32)))",
        "(module (func (block (result f32) unreachable) drop))",
        "(module (func (param i32) (drop (f32.convert_i32_s (local.get 0)))))",
        "(module (memory 1) (func (drop (f64.load (i32.const 0)))))",
        "(module (func (drop (f32.const 0))))",
    ] {
        assert_eq!(refusal_of_text(text), Some(Why::Float), "{text}");
    }
    // Byte by byte: WebAssembly 1.0 has 172 instructions, 70 of them with floats.
    let mut counts = [0; 3];
    for opcode in 0..=255 {
        let mut image = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0".to_vec();
        let body = [0, opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0x0B];
        image.extend([10, 13, 1, 11]);
        image.extend(body);
        match refusal(&image, &Limits::os_part(RAM)) {
            Some(Why::Float) => counts[0] += 1,
            Some(Why::Level(byte)) if byte == opcode => counts[1] += 1,
            _ => counts[2] += 1,
        }
    }
    assert_eq!(counts, [FLOAT_OPCODES, 256 - 172, 172 - FLOAT_OPCODES]);
}

/// 2 loads, 2 stores, 2 constants, 12 comparisons, 28 of arithmetic, 22 conversions.
const FLOAT_OPCODES: usize = 2 + 2 + 2 + 12 + 28 + 22;

#[test]
fn what_is_no_1_0_or_has_a_start_is_refused() {
    for (text, why) in [
        ("(module (func $s) (start $s))", Why::Start),
        (r#"(module (import "host" "m" (memory 1)))"#, Why::Import),
        (
            "(module (func (param i32) (result i32) (i32.extend8_s (local.get 0))))",
            Why::Level(0xC0),
        ),
        (
            "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0))))",
            Why::Level(0xFC),
        ),
        ("(module (memory i64 1))", Why::Level(4)),
        ("(module (table 1 externref))", Why::Level(0x6F)),
        (
            "(module (func (result i32 i32) unreachable))",
            Why::Limit("results of a function", 1),
        ),
        ("(module (memory 1) (memory 1))", Why::Limit("memories", 1)),
    ] {
        let got = refusal_of_text(text);
        // What the engine finds is its own words for it.
        let is_engine = matches!(got, Some(Why::Invalid(_))) && matches!(why, Why::Level(0x6F));
        assert!(got == Some(why) || is_engine, "{text}: {got:?}");
    }
}

/// A module with everything that is allocated for one.
const EVERYTHING: &str = r#"(module (import "host" "sum" (func $sum (param i32 i32) (result i32)))
    (memory (export "memory") 1) (table 4 funcref) (elem (i32.const 0) $g) (data (i32.const 8) "data")
    (global (mut i32) (i32.const 0)) (func $g (param i64) (result i64) (local i32 i64) (local.get 0))
    (func (export "f") (param i32) (result i32) (call $sum (local.get 0) (memory.grow (i32.const 1)))))"#;

/// Fails the N-th allocation of loading and running, for every N; then any budget up to what is enough.
#[test]
fn every_allocation_may_fail() {
    let image = wat::parse_str(EVERYTHING).unwrap();
    let limits = Limits::os_part(RAM);
    let attempt = |bytes: usize| {
        let budget = Budget::new(bytes).unwrap();
        let result = Space::load(&budget, &mut Image::mapped(&image), &limits, Sum)
            .map_err(|refusal| refusal.why)
            .map(|mut module| {
                let answer = module.call("f", &[Value::I32(5)], 100);
                (answer, budget.used())
            });
        assert_eq!(budget.used(), 0, "everything is given back");
        result
    };
    let mut refused = 0;
    let used = loop {
        failing::COUNT.set(0);
        failing::AT.set(Some(refused + 1));
        match attempt(RAM) {
            Ok((answer, used)) => {
                assert_eq!(answer, Ok(Some(Value::I32(4))));
                break used;
            }
            Err(why) => assert_eq!(why, Why::Heap, "allocation {}", refused + 1),
        }
        refused += 1;
    };
    failing::AT.set(None);
    std::println!("{refused} allocations, {used} bytes");
    assert!(refused > 20);
    for bytes in (0..used).step_by(7) {
        assert_eq!(attempt(bytes).err(), Some(Why::Heap), "{bytes}");
    }
    assert!(attempt(used).is_ok());
}

#[test]
fn there_is_one_budget_at_a_time_on_a_thread() {
    let budget = Budget::new(10).unwrap();
    assert_eq!(Budget::new(10).err(), Some(Exhausted));
    assert_eq!(Bytes::zeros(&budget, 11).err(), Some(Exhausted));
    let mut bytes = Bytes::zeros(&budget, 10).unwrap();
    assert_eq!(budget.used(), 10);
    bytes.as_mut_slice()[9] = 1;
    assert_eq!(bytes.as_slice(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let other = std::thread::spawn(|| Budget::new(10).is_ok());
    assert!(other.join().unwrap());
    drop((bytes, budget));
    let all: Vec<bool> = (0..3).map(|_| Budget::new(10).is_ok()).collect();
    assert_eq!(all, [true; 3]);
}

#[test]
fn traps_are_told_apart_and_a_module_can_be_called_after_one() {
    let text = |body: &str| {
        format!(
            r#"(module (import "host" "sum" (func $sum (param i32 i32) (result i32))) (memory (export "memory") 0)
            (table 2 funcref) (elem (i32.const 0) $f) (type $t (func))
            (func $f (export "f") (result i32) {body}))"#
        )
    };
    for (body, trap) in [
        ("unreachable", Trap::Unreachable),
        ("(i32.div_u (i32.const 1) (i32.const 0))", Trap::Arithmetic),
        (
            "(i32.div_s (i32.const 0x80000000) (i32.const -1))",
            Trap::Arithmetic,
        ),
        ("(i32.load (i32.const 0))", Trap::Memory),
        ("(i32.load offset=4294967295 (i32.const -1))", Trap::Memory),
        (
            "(call_indirect (type $t) (i32.const 0)) (i32.const 1)",
            Trap::IndirectCall,
        ),
        (
            "(call_indirect (type $t) (i32.const 1)) (i32.const 1)",
            Trap::IndirectCall,
        ),
        (
            "(call_indirect (type $t) (i32.const 2)) (i32.const 1)",
            Trap::IndirectCall,
        ),
        ("(call $f)", Trap::Stack),
        ("(loop $l (br $l)) (i32.const 1)", Trap::Fuel),
        ("(call $sum (i32.const 1) (i32.const 1))", Trap::Memory),
    ] {
        let image = wat::parse_str(text(body)).unwrap();
        let budget = Budget::new(RAM).unwrap();
        let mut module =
            Space::load(&budget, &mut Image::mapped(&image), &Limits::os_part(RAM), Sum).unwrap();
        for _ in 0..3 {
            assert_eq!(module.call("f", &[], 100_000), Err(trap), "{body}");
        }
    }
}

/// A module's memory and what the host keeps beside it may have held secrets: the heap gets none of them back.
#[test]
fn what_is_given_back_to_the_heap_is_wiped() {
    let image = wat::parse_str(r#"(module (memory (export "memory") 1))"#).unwrap();
    let budget = Budget::new(RAM).unwrap();
    // Lengths that are no whole words too.
    for len in [1, 7, 8, 13, 4096] {
        let mut bytes = Bytes::zeros(&budget, len).unwrap();
        bytes.as_mut_slice().fill(0xA5);
    }
    let mut module = Space::load(&budget, &mut Image::mapped(&image), &Limits::os_part(RAM), Sum).unwrap();
    module.memory().unwrap().write(0, &[0xA5; 65_536]).unwrap();
    drop(module);
    assert_eq!(budget.used(), 0);
    let (count, left) = given_back::SEEN.get();
    assert!(count > 10, "{count}");
    assert_eq!(left, 0, "bytes that were not wiped");
}
