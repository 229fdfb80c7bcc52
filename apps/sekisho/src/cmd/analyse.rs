//! `sekisho analyse rolling`: how weak the patent's key schedules are, and what the ratchet does instead. Reproducible: the same seed, the same numbers.

use anyhow::Result;
use clap::{Parser, Subcommand};
use sekisho_keys::{Rng, sha256};
use sekisho_messaging::analysis::{
    Course, Known, Readable, Subject, commands_to_first_reuse, count_ones_after_ands, course,
    entropy_after_ands, exposure, median_commands_to_zero, ones_after_ands, zero_after_ands,
};
use sekisho_messaging::schedule::{LegacyKey, TURNS};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Numbers about a protocol, computed and not asserted
#[derive(Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The schedules of rolling session keys: periods, distinct keys, ones left, what an attacker learns
    Rolling(Rolling),
}

#[derive(Parser)]
struct Rolling {
    /// Decides the random keys of the measured columns
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keys of a list, in the patent 18
    #[arg(long, default_value_t = 18, value_parser = clap::value_parser!(u32).range(2..=32))]
    keys: u32,
    /// Directory for the plot, rolling-and.svg
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Print one JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// How often a key is ANDed in table and plot.
const ANDS: u32 = 12;
/// Runs behind each measured number.
const RUNS: u32 = 1000;
/// Where the search for a period ends.
const LIMIT: u32 = 2000;

/// SHA-256 in counter mode.
struct Seeded(u64, u64);

impl Rng for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            let block = sha256(&[b"analyse", &self.0.to_be_bytes(), &self.1.to_be_bytes()]);
            self.1 += 1;
            chunk.iter_mut().zip(block).for_each(|(to, from)| *to = from);
        }
    }
}

/// What a run computes.
struct Numbers {
    xor: Option<Course>,
    and: Option<Course>,
    /// Commands until the key is zero when half of the steps are AND.
    zero_half: u32,
    /// Exchanges until the key is zero when XOR and AND take turns.
    zero_in_turn: Option<u32>,
    first_reuse: f64,
    /// Commands until a session key of the three operations comes again, keys of the list drawn at random: the mean of the runs.
    operations_reuse: f64,
    /// Ones after n ANDs, n from 0 on: expected, and the mean of measured runs.
    ones: Vec<(f64, f64)>,
}

impl Numbers {
    fn new(args: &Rolling) -> Self {
        let mut rng = Seeded(args.seed, 0);
        let mut key = || {
            let mut key = LegacyKey::default();
            rng.fill(&mut key.0);
            key
        };
        let (k0, k1) = (key(), key());
        let measured = |rng: &mut Seeded, ands| {
            let sum: u32 = (0..RUNS).map(|_| count_ones_after_ands(rng, ands)).sum();
            f64::from(sum) / f64::from(RUNS)
        };
        // A stream of its own, so that one number does not depend on how the others are made.
        let mut other = Seeded(args.seed, 1 << 32);
        Self {
            xor: course(&k0, &k1, LegacyKey::xor, LIMIT),
            and: course(&k0, &k1, LegacyKey::and, LIMIT),
            zero_half: median_commands_to_zero(&mut rng, 128, RUNS),
            zero_in_turn: turns_to_zero(&k0, &k1),
            first_reuse: commands_to_first_reuse(args.keys),
            operations_reuse: f64::from(
                (0..RUNS)
                    .map(|_| operations_to_reuse(&mut other, args.keys))
                    .sum::<u32>(),
            ) / f64::from(RUNS),
            ones: (0..=ANDS)
                .map(|ands| (ones_after_ands(ands), measured(&mut rng, ands)))
                .collect(),
        }
    }
}

/// Exchanges under keys that are not zero when XOR and AND take turns over old and current key (claims 2 and 5).
fn turns_to_zero(k0: &LegacyKey, k1: &LegacyKey) -> Option<u32> {
    let (mut old, mut current) = (k0.clone(), k1.clone());
    (0..LIMIT).find(|exchange| {
        let is_zero = current.is_zero();
        let operation = TURNS.operations[*exchange as usize % TURNS.operations.len()];
        let new = operation(&old, &current);
        old = core::mem::replace(&mut current, new);
        is_zero
    })
}

/// Exchanges before a session key of the patent's third embodiment comes again: XOR, AND, and XOR of two operation keys in turn.
fn operations_to_reuse(rng: &mut Seeded, keys: u32) -> u32 {
    let mut drawn = || {
        let mut key = LegacyKey::default();
        rng.fill(&mut key.0);
        key
    };
    let list: Vec<_> = (0..keys).map(|_| drawn()).collect();
    let mut number = || {
        let mut bytes = [0; 4];
        rng.fill(&mut bytes);
        (u32::from_be_bytes(bytes) % keys) as usize
    };
    let (mut last, mut seen) = (0, HashSet::new());
    let mut key = list.first().cloned().unwrap_or_default();
    for exchange in 0.. {
        if !seen.insert(key.0) {
            return exchange;
        }
        let chosen = number();
        let (Some(operation), Some(before)) = (list.get(chosen), list.get(last)) else {
            return exchange;
        };
        key = match exchange % 3 {
            0 => key.xor(operation),
            1 => key.and(operation),
            _ => before.xor(operation),
        };
        last = chosen;
    }
    u32::MAX
}

const SUBJECTS: [(Subject, &str); 6] = [
    (Subject::Fixed, "fixed"),
    (Subject::LegacyXor, "legacy-xor"),
    (Subject::LegacyList, "legacy-list"),
    (Subject::LegacyOperations, "legacy-operations"),
    (Subject::LegacyTurns, "legacy-turns"),
    (Subject::Ratchet, "ratchet"),
];

const KNOWN: [(Known, &str); 4] = [
    (Known::OneExchange, "keys of one exchange"),
    (Known::TwoExchanges, "keys of two in a row"),
    (Known::State, "state of one end"),
    (Known::StateAndMasterKey, "state and MKEY"),
];

fn readable(readable: Readable) -> String {
    match readable {
        Readable::None => "none".to_owned(),
        Readable::UntilRefresh => "until refresh".to_owned(),
        Readable::OneIn(many) => format!("one in {many}"),
        Readable::All => "all".to_owned(),
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let What::Rolling(args) = &args.what;
    let numbers = Numbers::new(args);
    if let Some(directory) = &args.svg {
        let path = directory.join("rolling-and.svg");
        crate::files::write_public(&path, svg(&numbers).as_bytes())?;
    }
    print(args, &numbers)?;
    Ok(ExitCode::SUCCESS)
}

fn as_json(args: &Rolling, numbers: &Numbers) -> Value {
    let course = |course: Option<Course>| {
        course.map(|c| json!({ "tail": c.tail, "period": c.period, "distinct": c.distinct }))
    };
    let exposures: serde_json::Map<_, _> = SUBJECTS
        .iter()
        .map(|(subject, name)| {
            let row: serde_json::Map<_, _> = KNOWN
                .iter()
                .map(|(known, what)| {
                    let exposed = exposure(*subject, *known, args.keys);
                    let value = json!({ "past": readable(exposed.past), "future": readable(exposed.future) });
                    ((*what).to_owned(), value)
                })
                .collect();
            ((*name).to_owned(), Value::Object(row))
        })
        .collect();
    let ones: Vec<_> = (0..)
        .zip(&numbers.ones)
        .map(|(ands, (expected, measured))| {
            json!({ "ands": ands, "ones": expected, "ones_measured": measured, "zero": zero_after_ands(ands), "entropy_bits": entropy_after_ands(ands) })
        })
        .collect();
    json!({
        "seed": args.seed, "keys": args.keys, "xor": course(numbers.xor), "and": course(numbers.and),
        "commands_to_zero_half_and": numbers.zero_half, "exchanges_to_zero_in_turn": numbers.zero_in_turn, "commands_to_first_reuse": numbers.first_reuse,
        "operations_to_first_reuse": numbers.operations_reuse,
        "after_ands": ones, "other_exchanges_that_can_be_read": exposures,
    })
}

#[allow(clippy::print_stdout, reason = "the numbers are what the command is for")]
fn print(args: &Rolling, numbers: &Numbers) -> Result<()> {
    if args.json {
        println!("{}", serde_json::to_string(&as_json(args, numbers))?);
        return Ok(());
    }
    let course = |course: Option<Course>| match course {
        Some(Course {
            tail,
            period,
            distinct,
        }) => format!("{distinct} different keys; after {tail} of them a period of {period}"),
        None => format!("no period within {LIMIT} keys"),
    };
    println!("new key = old XOR current     {}", course(numbers.xor));
    println!("new key = old AND current     {}", course(numbers.and));
    println!(
        "XOR or AND by a coin          all zero after {} commands (median of {RUNS})",
        numbers.zero_half
    );
    match numbers.zero_in_turn {
        Some(exchanges) => println!("XOR and AND in turn           all zero after {exchanges} exchanges"),
        None => println!("XOR and AND in turn           not zero within {LIMIT} exchanges"),
    }
    println!(
        "drawn from a list of {:<2}       the first key comes again after {:.1} commands (mean)",
        args.keys, numbers.first_reuse
    );
    println!(
        "operations, keys at random    the first session key comes again after {:.1} commands (mean of {RUNS} runs)",
        numbers.operations_reuse
    );
    println!("ratchet                       one key for each exchange, none ever again");
    println!("\nAND with n fresh keys      n   ones of 128   measured   all zero   entropy");
    for (ands, (expected, measured)) in (0..).zip(&numbers.ones) {
        println!(
            "                          {ands:>2}  {expected:>12.2}  {measured:>9.2}  {:>9.3}  {:>5.0} bits",
            zero_after_ands(ands),
            entropy_after_ands(ands)
        );
    }
    println!(
        "\nwho has, besides a recording of everything that was sent, can read of the other exchanges (past | future)"
    );
    print!("  {:<22}", "");
    SUBJECTS.iter().for_each(|(_, name)| print!("{name:>24}"));
    println!();
    for (known, what) in KNOWN {
        print!("  {what:<22}");
        for (subject, _) in SUBJECTS {
            let exposed = exposure(subject, known, args.keys);
            let (past, future) = (readable(exposed.past), readable(exposed.future));
            let both = if past == future {
                past
            } else {
                format!("{past} | {future}")
            };
            print!("{both:>24}");
        }
        println!();
    }
    Ok(())
}

/// The plot's frame: width, height, and the margins around the curve.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 48.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 34.0;

/// The ones that are left in a key after n times AND: the curve expected, the dots measured. In colours that can be read on light and dark.
fn svg(numbers: &Numbers) -> String {
    let x = |ands: f64| LEFT + ands / f64::from(ANDS) * (WIDTH - LEFT - 16.0);
    let y = |ones: f64| HEIGHT - BOTTOM - ones / 64.0 * (HEIGHT - BOTTOM - TOP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Ones left in a 128-bit key after n times AND\">\n\
         <style>text{{font:13px sans-serif;fill:#888}}.axis{{stroke:#888;stroke-opacity:.5}}.curve{{fill:none;stroke:#d9534f;stroke-width:2}}.dot{{fill:#3a87c8}}</style>\n"
    );
    for ones in [0, 16, 32, 48, 64] {
        let at = y(f64::from(ones));
        let _ = writeln!(
            out,
            "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\"/>",
            WIDTH - 16.0
        );
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{ones}</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    for ands in 0..=ANDS {
        let at = x(f64::from(ands));
        let _ = writeln!(
            out,
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{ands}</text>",
            HEIGHT - BOTTOM + 18.0
        );
    }
    let points: Vec<_> = (0..)
        .zip(&numbers.ones)
        .map(|(n, (expected, _))| format!("{:.1},{:.1}", x(f64::from(n)), y(*expected)))
        .collect();
    let _ = writeln!(out, "<polyline class=\"curve\" points=\"{}\"/>", points.join(" "));
    for (ands, (_, measured)) in (0..).zip(&numbers.ones) {
        let _ = writeln!(
            out,
            "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>",
            x(f64::from(ands)),
            y(*measured)
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"18\">Ones left in a 128-bit key after n times AND: expected (line), mean of {RUNS} keys (dots)</text>"
    );
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">n</text>",
        WIDTH / 2.0,
        HEIGHT - 6.0
    );
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xor_and_and_in_turn_are_zero_after_the_cap() {
        for seed in 0..50 {
            let mut rng = Seeded(seed, 0);
            let mut keys = [LegacyKey::default(), LegacyKey::default()];
            keys.iter_mut().for_each(|key| rng.fill(&mut key.0));
            assert_eq!(turns_to_zero(&keys[0], &keys[1]), Some(TURNS.cap.into()));
        }
    }

    /// The plot of the specification is what the program draws.
    #[test]
    fn the_plot_of_the_page_is_the_programs() {
        let args = Rolling {
            seed: 1,
            keys: 18,
            svg: None,
            json: false,
        };
        let drawn = svg(&Numbers::new(&args));
        let committed = include_str!("../../../../docs/spec/img/rolling-and.svg");
        assert_eq!(
            drawn, committed,
            "sekisho analyse rolling --svg docs/spec/img draws it anew"
        );
    }
}
