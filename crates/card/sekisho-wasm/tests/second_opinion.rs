//! The same modules in a second engine: the same answers, or both refuse.
//!
//! Ten thousand generated modules, and as many with a few bytes changed, run in `spacewasm` and in `wasmi`. SEKISHO_TEST_MODULES is another number of
//! them, for long runs.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // test support

mod peer;

use std::collections::BTreeMap;

use arbitrary::Unstructured;
use peer::Peer;
use sekisho_wasm::{
    Budget, Engine, Host, Image, Import, Limits, Memory, OutOfBounds, Space, Trap, Value, Why,
};

const RAM: usize = 1 << 20;
const FUEL: u32 = 50_000;

/// Functions that touch the memory, refuse, and trap.
struct TestHost {
    calls: u32,
}

impl Host for TestHost {
    const MODULE: &'static str = "host";
    const FUNCTIONS: &'static [Import] = &[
        Import {
            name: "count",
            params: 0,
        },
        Import {
            name: "sum",
            params: 2,
        },
        Import {
            name: "fill",
            params: 3,
        },
    ];

    fn call(&mut self, index: usize, args: &[i32; 4], memory: &mut dyn Memory) -> Result<i32, Trap> {
        self.calls += 1;
        let outside = |OutOfBounds| Trap::Memory;
        let [a, b, c, _] = *args;
        let mut bytes = [0; 32];
        let part = bytes.len().min(b.cast_unsigned() as usize);
        match index {
            0 => return Ok(self.calls.cast_signed()),
            1 => memory
                .read(a.cast_unsigned(), &mut bytes[..part])
                .map_err(outside)?,
            _ => {
                bytes.fill(c.to_le_bytes()[0]);
                memory.write(a.cast_unsigned(), &bytes[..part]).map_err(outside)?;
            }
        }
        Ok(bytes.iter().map(|byte| i32::from(*byte)).sum())
    }
}

/// What a module did: how it was refused, or each call's answer with the sum of the memory behind it.
#[derive(Debug, PartialEq)]
enum Outcome {
    Refused(String),
    /// By a size: the other engine may have other limits.
    TooLarge,
    /// By our own scan; the other engine has floats.
    Float,
    Ran(Vec<(Result<Option<Value>, Trap>, u64)>),
}

const CALLS: [(&str, &[Value]); 8] = [
    ("a", &[Value::I32(0), Value::I32(1)]),
    ("b", &[Value::I64(-1)]),
    ("c", &[Value::I32(i32::MIN), Value::I64(i64::MAX)]),
    ("d", &[]),
    ("a", &[Value::I32(-1), Value::I32(70_000)]),
    ("b", &[Value::I64(0x1_0000_0001)]),
    ("c", &[Value::I32(33), Value::I64(7)]),
    ("d", &[]),
];

fn run<'b, E: Engine<'b, TestHost>>(budget: &'b Budget, image: &[u8], fuel: u32) -> Outcome {
    let host = TestHost { calls: 0 };
    let limits = Limits::os_part(RAM);
    let mut module = match E::load(budget, &mut Image::mapped(image), &limits, host) {
        Ok(module) => module,
        Err(refusal) => {
            return match refusal.why {
                Why::Limit(..) | Why::Heap => Outcome::TooLarge,
                Why::Float => Outcome::Float,
                _ => Outcome::Refused(refusal.to_string()),
            };
        }
    };
    let mut ran = Vec::new();
    for (call, (name, args)) in CALLS.into_iter().enumerate() {
        let answer = module.call(name, args, fuel);
        let mut sum = module.host(|host| u64::from(host.calls));
        // All of the memory, twice.
        if call % 4 == 3
            && let Some(memory) = module.memory()
        {
            let mut piece = [0; 4096];
            for at in (0_u32..).step_by(piece.len()) {
                if memory.read(at, &mut piece).is_err() {
                    break;
                }
                let words = piece.chunks_exact(8).filter_map(|word| word.try_into().ok());
                sum = words.map(u64::from_le_bytes).fold(sum, |sum, word| {
                    sum.rotate_left(5).wrapping_mul(31).wrapping_add(word)
                });
            }
        }
        ran.push((answer, sum));
    }
    Outcome::Ran(ran)
}

/// Xorshift, so that a run is repeated by its number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or(0)
    }
}

/// WebAssembly 1.0 without floats; without traps of its own every second module runs to its end.
fn config(random: &mut Random, has_traps: bool) -> wasm_smith::Config {
    let memory = ["1", "0 1", "2 3", "1 65536"][random.below(4)];
    let exports = format!(
        r#"(module (func (export "a") (param i32 i32) (result i32) unreachable) (func (export "b") (param i64) (result i64) unreachable)
        (func (export "c") (param i32 i64) (result i64) unreachable) (func (export "d")) (memory (export "memory") {memory}))"#
    );
    let imports = r#"(module (import "host" "count" (func (result i32))) (import "host" "sum" (func (param i32 i32) (result i32)))
        (import "host" "fill" (func (param i32 i32 i32) (result i32))))"#;
    wasm_smith::Config {
        available_imports: wat::parse_str(imports).ok(),
        exports: wat::parse_str(exports).ok(),
        allow_start_export: false,
        allow_floats: false,
        bulk_memory_enabled: false,
        exceptions_enabled: false,
        gc_enabled: false,
        compact_imports_enabled: false,
        extended_const_enabled: false,
        max_funcs: 12,
        max_imports: 3,
        max_instructions: 200,
        max_table_elements: 32,
        max_memory32_bytes: 1 << 18,
        memory64_enabled: false,
        multi_value_enabled: false,
        reference_types_enabled: false,
        relaxed_simd_enabled: false,
        saturating_float_to_int_enabled: false,
        sign_extension_ops_enabled: false,
        simd_enabled: false,
        tail_call_enabled: false,
        threads_enabled: false,
        wide_arithmetic_enabled: false,
        max_tables: 1,
        // The exported one comes on top.
        max_memories: 0,
        table_max_size_required: true,
        disallow_traps: !has_traps,
        ..wasm_smith::Config::default()
    }
}

fn module(random: &mut Random, has_traps: bool) -> Option<Vec<u8>> {
    let len = 200 + random.below(3000);
    let bytes: Vec<u8> = (0..len).map(|_| random.next().to_le_bytes()[0]).collect();
    let config = config(random, has_traps);
    let mut module = wasm_smith::Module::new(config, &mut Unstructured::new(&bytes)).ok()?;
    module.ensure_termination(1_000).ok()?;
    Some(module.to_bytes())
}

/// Compares one image in both engines and gives the outcome's name.
fn compare(image: &[u8]) -> Result<&'static str, String> {
    let budget = Budget::new(RAM).map_err(|_| "a budget is left over")?;
    let ours = run::<Space<'_, TestHost>>(&budget, image, FUEL);
    let theirs = run::<Peer<TestHost>>(&budget, image, u32::MAX);
    match (&ours, &theirs) {
        (Outcome::Float, _) => Ok("floats"),
        (Outcome::TooLarge, _) => Ok("above a limit"),
        (Outcome::Refused(_), Outcome::Refused(_) | Outcome::TooLarge) => Ok("refused by both"),
        (Outcome::Ran(ours), Outcome::Ran(theirs)) => {
            let mut name = "same answers";
            for (call, (our, their)) in ours.iter().zip(theirs).enumerate() {
                // The stack's size is ours, and so is its fuel: what the other engine does beyond it is another history.
                if matches!(our.0, Err(Trap::Stack | Trap::Fuel)) {
                    return Ok("above the stack or the fuel");
                }
                if our != their {
                    return Err(format!("call {call}: {our:?}, the other engine {their:?}"));
                }
                if our.0.is_err() {
                    name = "same answers and traps";
                }
            }
            Ok(name)
        }
        _ => Err(format!("{ours:?}, the other engine {theirs:?}")),
    }
}

#[test]
fn two_engines_agree() {
    let wanted: u64 = std::env::var("SEKISHO_TEST_MODULES")
        .ok()
        .and_then(|number| number.parse().ok())
        .unwrap_or(10_000);
    let mut outcomes = BTreeMap::<&str, u64>::new();
    let mut wrong = Vec::new();
    let mut check = |seed: u64, what: &str, image: &[u8]| {
        match compare(image) {
            Ok(outcome) => *outcomes.entry(outcome).or_default() += 1,
            Err(difference) => wrong.push(format!("module {seed} {what}: {difference}")),
        };
    };
    let (mut made, mut seed) = (0, 0);
    while made < wanted {
        seed += 1;
        let mut random = Random(u64::wrapping_mul(seed, 0x9E37_79B9_7F4A_7C15) | 1);
        let has_traps = random.below(2) == 0;
        let Some(mut image) = module(&mut random, has_traps) else {
            continue;
        };
        made += 1;
        check(seed, "as generated", &image);
        for _ in 0..=random.below(3) {
            let at = random.below(image.len());
            image[at] = random.next().to_le_bytes()[0];
        }
        check(seed, "changed", &image);
    }
    println!("{made} modules and as many changed ones: {outcomes:?}");
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        2 * made,
        wrong[..wrong.len().min(20)].join("\n")
    );
    for outcome in [
        "same answers",
        "same answers and traps",
        "refused by both",
        "above a limit",
        "above the stack or the fuel",
        "floats",
    ] {
        assert!(outcomes.contains_key(outcome), "no module was {outcome}");
    }
}
