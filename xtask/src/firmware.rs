//! The images of `firmware/`: how they are built, what they may take, and what is played to them.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The chip.
const TARGET: &str = "thumbv7em-none-eabihf";
const BINARY: &str = "sekisho-mps2";

/// The images, with their features: the small product, the same with two containers, the same with contacts that speak T=1, the one with all else that there is, which conversations are compared with, and the one with a TLS Manager.
const IMAGES: [(&str, &str); 5] = [
    ("chip", ""),
    ("containers", "containers"),
    (WITH_T1, "t1"),
    (PLAYED, "modules,all-interfaces"),
    (WITH_TLS, "tls"),
];
const PLAYED: &str = "modules";
const WITH_T1: &str = "t1";
const WITH_TLS: &str = "tls";

/// Of SHA-256 in software the implementation with loops: 6 KB less than with everything unrolled.
const COMPACT: &str = "--cfg=sha2_backend_soft=\"compact\"";

/// Test programs of the card whose cards run on the chip too.
const SUITES: [&str; 4] = ["scripts", "boot", "spec_page", "broadcast"];
/// The same for the night.
const LONG_SUITES: [&str; 2] = ["tamper", "hostile"];
/// Those that say how much stack the chip has used; the chip wipes none of it there.
const STACK_SUITES: [&str; 2] = ["scripts", "broadcast"];
/// The figure of the budget that they measure.
const STACK: &str = "stack";

#[derive(Clone, Copy, Subcommand)]
pub(crate) enum What {
    /// Builds the images into firmware/target/images.
    Build,
    /// Builds them and holds them to budget.toml.
    Budget,
    /// Plays the card's conversations to the chip and to a card in this process, and compares.
    Play {
        /// Those of the night as well.
        #[arg(long)]
        long: bool,
    },
    /// Builds what `tests/skips` leaves instructions out of into firmware/target/images.
    Skips,
    /// Builds an image in two folders: every bit is the same.
    Twice,
    /// Budget, and Play.
    All,
}

pub(crate) fn run(root: &Path, what: What) -> Result<()> {
    match what {
        What::Build => build_all(root),
        What::Budget => budget(root),
        What::Play { long } => play(root, long),
        What::Skips => put(root, "skips", &build(root, "image", "")?),
        What::Twice => twice(root),
        What::All => budget(root).and_then(|()| play(root, false)),
    }
}

fn image(root: &Path, name: &str) -> PathBuf {
    root.join("firmware/target/images").join(format!("{name}.elf"))
}

fn build_all(root: &Path) -> Result<()> {
    for (name, features) in IMAGES {
        put(root, name, &build(root, BINARY, features)?)?;
    }
    Ok(())
}

/// Keeps an image under its name.
fn put(root: &Path, name: &str, built: &Path) -> Result<()> {
    let path = image(root, name);
    std::fs::create_dir_all(path.parent().unwrap_or(root))?;
    std::fs::copy(built, &path)?;
    println!("firmware: {}", path.strip_prefix(root).unwrap_or(&path).display());
    Ok(())
}

/// Builds a package's image in `root`'s own target folder. No path of this machine goes into it.
fn build(root: &Path, package: &str, features: &str) -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec![remap(root, "/sekisho")];
    flags.extend(home.map(|home| remap(&home, "/cargo")));
    flags.push(COMPACT.to_owned());
    let target = root.join("firmware/target");
    let status = crate::plain_cargo()
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--package",
            package,
            "--target",
            TARGET,
        ])
        .args(["--features", features])
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTC_WRAPPER", root.join("firmware/rustc.sh"))
        .env("SEKISHO_ROOT", root)
        .current_dir(root.join("firmware"))
        .status()
        .context("cargo build did not run")?;
    if !status.success() {
        bail!("the firmware does not build");
    }
    Ok(target.join(TARGET).join("release").join(package))
}

/// A clone elsewhere gives the same image, bit for bit.
fn twice(root: &Path) -> Result<()> {
    let folder = root.join("firmware/target/twice/elsewhere");
    let _ = std::fs::remove_dir_all(&folder);
    let status = Command::new("git")
        .args(["clone", "--quiet", "--local", "--no-hardlinks"])
        .args([root, &folder])
        .status()
        .context("git clone did not run")?;
    if !status.success() {
        bail!("git clone failed");
    }
    let is_changed = Command::new("git")
        .args(["status", "--porcelain", "--untracked-files=no"])
        .current_dir(root)
        .output()?;
    if !is_changed.stdout.is_empty() {
        bail!("commit first: the second build is of what is committed");
    }
    let (_, features) = IMAGES[0];
    let ours = std::fs::read(build(root, BINARY, features)?)?;
    let theirs = std::fs::read(build(&folder, BINARY, features)?)?;
    if ours != theirs {
        let same = ours
            .iter()
            .zip(&theirs)
            .take_while(|(ours, theirs)| ours == theirs);
        bail!("the two images differ from byte {} on", same.count());
    }
    std::fs::remove_dir_all(&folder)?;
    println!(
        "firmware: two builds in two folders, {} bytes, are the same",
        ours.len()
    );
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    limit: Vec<Limit>,
}

impl Budget {
    fn read(root: &Path) -> Result<Self> {
        const FILE: &str = "firmware/budget.toml";
        let text = std::fs::read_to_string(root.join(FILE)).context(FILE)?;
        toml::from_str(&text).context(FILE)
    }
}

/// A number that an image may not pass.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    image: String,
    figure: String,
    /// What it is to be.
    limit: u64,
    /// What it is where it is more than that: it may not grow either.
    debt: Option<u64>,
    /// What it is where it is less than the limit, so that one change does not use up what is left of it: another figure is written down.
    was: Option<u64>,
    /// Where the limit comes from.
    reason: String,
}

/// How far a figure may be from what is written down, in thousandths: what a compiler's release moves.
const SLACK: u64 = 25;

impl Limit {
    fn check(&self, value: u64) -> Result<String, String> {
        let Self {
            image,
            figure,
            limit,
            debt,
            was,
            reason,
        } = self;
        let line = format!("{image}: {figure} is {value}, limit {limit} ({reason})");
        match debt {
            None if value <= *limit => match was {
                Some(was) if was.abs_diff(value) > was * SLACK / 1000 => {
                    Err(format!("{line}, and not {was} as the budget says"))
                }
                _ => Ok(line),
            },
            None => Err(line),
            Some(_) if value <= *limit => Err(format!("{line}: the debt is paid, take it out of the budget")),
            Some(debt) if value <= debt + debt * SLACK / 1000 => Ok(format!("{line}, debt {debt}")),
            Some(debt) => Err(format!("{line}, and more than its debt of {debt}")),
        }
    }
}

fn budget(root: &Path) -> Result<()> {
    build_all(root)?;
    let mut figures = BTreeMap::new();
    for (name, _) in IMAGES {
        for (figure, value) in sizes(&image(root, name))? {
            figures.insert((name.to_owned(), figure), value);
        }
    }
    hold(root, &figures, |figure| {
        figure != STACK && !is_of_a_command(figure)
    })?;
    told(root)
}

/// Where what the images take is told.
const TOLD: [&str; 2] = ["README.md", "docs/guide/firmware.md"];

/// The tables that readers see have the sizes of the images as the budget says them, in KB.
fn told(root: &Path) -> Result<()> {
    let budget = Budget::read(root)?;
    for page in TOLD {
        let text = std::fs::read_to_string(root.join(page)).context(page)?;
        for limit in &budget.limit {
            let size = limit.debt.or(limit.was);
            let Some(size) = size.filter(|_| limit.figure != STACK && !is_of_a_command(&limit.figure)) else {
                continue;
            };
            let (image, figure, kilobytes) = (&limit.image, &limit.figure, size.div_ceil(1000));
            let row = text.lines().find(|line| {
                let mut cells = line.split('|').map(str::trim);
                cells.any(|cell| cell == format!("`{image}.elf`"))
            });
            if !row.is_some_and(|row| row.contains(&format!("| {kilobytes} KB"))) {
                bail!("{page} does not say that {figure} of {image}.elf is {kilobytes} KB");
            }
        }
    }
    Ok(())
}

/// Whether a figure of the budget is what a command costs: `COMMAND, FIGURE`, as the test program writes it.
fn is_of_a_command(figure: &str) -> bool {
    figure.contains(", ")
}

/// Holds the figures to the budget, of which `is_ours` says which are to be among them.
fn hold(
    root: &Path,
    figures: &BTreeMap<(String, String), u64>,
    is_ours: impl Fn(&str) -> bool,
) -> Result<()> {
    let budget = Budget::read(root)?;
    let mut wrong = 0;
    for limit in budget.limit.iter().filter(|limit| is_ours(&limit.figure)) {
        let key = (limit.image.clone(), limit.figure.clone());
        let value = figures
            .get(&key)
            .with_context(|| format!("nothing measures {key:?}"))?;
        match limit.check(*value) {
            Ok(line) => println!("firmware: {line}"),
            Err(line) => {
                wrong += 1;
                println!("firmware: OVER {line}");
            }
        }
    }
    if wrong > 0 {
        bail!("{wrong} figures are not as firmware/budget.toml says");
    }
    Ok(())
}

/// Flash, static RAM and heap of an image.
fn sizes(image: &Path) -> Result<Vec<(String, u64)>> {
    let sections = tool("size", &["-A", "-d"], image)?;
    let of = |wanted: &[&str]| -> u64 {
        let rows = sections.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?.parse::<u64>().ok()?))
        });
        rows.filter(|(name, _)| wanted.contains(name))
            .map(|(_, size)| size)
            .sum()
    };
    let symbols = tool("nm", &["-S", "-C"], image)?;
    let heap = symbols
        .lines()
        .find(|line| line.ends_with("heap::MEMORY"))
        .and_then(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok());
    Ok(vec![
        (
            "flash".to_owned(),
            of(&[".vector_table", ".text", ".rodata", ".data"]),
        ),
        ("data at the start".to_owned(), of(&[".data"])),
        (
            "static RAM".to_owned(),
            of(&[".data", ".bss", ".uninit"]) - heap.unwrap_or(0),
        ),
        ("heap".to_owned(), heap.unwrap_or(0)),
    ])
}

fn tool(name: &str, arguments: &[&str], image: &Path) -> Result<String> {
    let output = Command::new(format!("arm-none-eabi-{name}"))
        .args(arguments)
        .arg(image)
        .output()
        .with_context(|| format!("arm-none-eabi-{name} did not run; it is of binutils-arm-none-eabi"))?;
    if !output.status.success() {
        bail!(
            "arm-none-eabi-{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Each suite has compared something, or it has not run on the chip at all.
fn play(root: &Path, long: bool) -> Result<()> {
    let played = image(root, PLAYED);
    if !played.exists() {
        build_all(root)?;
    }
    let log = root.join("firmware/target/compared");
    let mut total = Compared::default();
    for suite in SUITES.iter().chain(LONG_SUITES.iter().filter(|_| long)) {
        let _ = std::fs::remove_file(&log);
        let mut cargo = crate::cargo();
        cargo
            .args(["test", "--quiet", "--locked", "--workspace"])
            .args(["--test", suite, "--", "--test-threads", "2"])
            .env("SEKISHO_FIRMWARE", &played)
            .env("SEKISHO_FIRMWARE_LOG", &log)
            .current_dir(root);
        if long {
            cargo.env("SEKISHO_FIRMWARE_SWEEPS", "all");
        }
        if STACK_SUITES.contains(suite) {
            cargo.env("SEKISHO_FIRMWARE_STACK", "1");
        }
        if !cargo.status()?.success() {
            bail!("{suite} differs on the chip");
        }
        let lines = std::fs::read_to_string(&log).unwrap_or_default();
        for sweep in lines.lines().filter_map(|line| line.strip_prefix("sweep ")) {
            println!("firmware: {suite}: {sweep}");
        }
        let compared = Compared::of(&lines);
        println!(
            "firmware: {suite}: {} answers and {} flash images compared, {} times the chip was left out",
            compared.answers, compared.images, compared.left_out
        );
        if compared.answers == 0 || compared.images == 0 {
            bail!("{suite} has compared nothing");
        }
        total = total.and(compared);
    }
    let stack = BTreeMap::from([((PLAYED.to_owned(), STACK.to_owned()), total.stack)]);
    hold(root, &stack, |figure| figure == STACK)?;
    let mut costs = BTreeMap::new();
    for (name, variable, test, filter) in [
        (PLAYED, "SEKISHO_FIRMWARE", "board", ""),
        (PLAYED, "SEKISHO_FIRMWARE_PRODUCT", "card_board", ""),
        (WITH_T1, "SEKISHO_FIRMWARE_T1", "card_board", ""),
        (WITH_TLS, "SEKISHO_FIRMWARE_TLS", "tls", "board::"),
    ] {
        let file = root.join("firmware/target/costs");
        let _ = std::fs::remove_file(&file);
        let status = crate::cargo()
            .args(["test", "--quiet", "--locked", "--workspace", "--test", test])
            // They say how often the power went.
            .args(["--", "--nocapture", filter])
            .env(variable, image(root, name))
            .env("SEKISHO_FIRMWARE_FIGURES", &file)
            .current_dir(root)
            .status()?;
        if !status.success() {
            bail!("{test}: the chip is not what it is to be");
        }
        let lines = std::fs::read_to_string(&file).unwrap_or_default();
        costs.extend(costs_of_commands(name, &lines));
    }
    hold(root, &costs, is_of_a_command)?;
    let Compared { answers, images, .. } = total;
    println!("firmware: {answers} answers and {images} flash images are the same on the chip");
    Ok(())
}

/// What commands cost an image, of lines `COMMAND, FIGURE`, a tabulator, and the value.
fn costs_of_commands(image: &str, lines: &str) -> BTreeMap<(String, String), u64> {
    let costs = lines.lines().filter_map(|line| line.split_once('\t'));
    costs
        .filter_map(|(figure, value)| Some(((image.to_owned(), figure.to_owned()), value.parse().ok()?)))
        .collect()
}

/// What the cards of a suite have written down.
#[derive(Clone, Copy, Default)]
struct Compared {
    answers: u64,
    images: u64,
    left_out: u64,
    /// Bytes of stack, the most that a card took.
    stack: u64,
}

impl Compared {
    /// Of the log's lines: `answers N images M left-out K stack L`.
    fn of(log: &str) -> Self {
        let lines = log.lines().filter(|line| line.starts_with("answers "));
        lines.fold(Self::default(), |so_far, line| {
            let numbers: Vec<u64> = line
                .split_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect();
            match numbers[..] {
                [answers, images, left_out, stack] => so_far.and(Self {
                    answers,
                    images,
                    left_out,
                    stack,
                }),
                _ => so_far,
            }
        })
    }

    fn and(self, other: Self) -> Self {
        Self {
            answers: self.answers + other.answers,
            images: self.images + other.images,
            left_out: self.left_out + other.left_out,
            stack: self.stack.max(other.stack),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(limit: u64, debt: Option<u64>) -> Limit {
        Limit {
            image: "chip".to_owned(),
            figure: "flash".to_owned(),
            limit,
            debt,
            was: None,
            reason: "a test".to_owned(),
        }
    }

    #[test]
    fn a_limit_is_kept_and_a_debt_does_not_grow() {
        assert!(limit(100, None).check(100).is_ok());
        assert!(limit(100, None).check(101).is_err());
        assert!(limit(100, Some(2000)).check(2050).is_ok());
        assert!(limit(100, Some(2000)).check(2051).is_err());
        assert!(limit(100, Some(2000)).check(100).is_err(), "paid");
    }

    #[test]
    fn three_parts_in_a_hundred_of_a_loop_are_seen() {
        let loops = |value| {
            Limit {
                was: Some(20_000),
                ..limit(50_000, None)
            }
            .check(value)
        };
        assert!(loops(20_500).is_ok() && loops(19_500).is_ok());
        assert!(loops(20_600).is_err() && loops(19_400).is_err());
    }

    #[test]
    fn what_commands_cost_is_read() {
        let costs = costs_of_commands(
            PLAYED,
            "SELECT, heap\t0\nINITIALIZE UPDATE, instructions\t17914\nelse\n",
        );
        let key = |figure: &str| (PLAYED.to_owned(), figure.to_owned());
        assert_eq!(costs.len(), 2);
        assert_eq!(costs[&key("INITIALIZE UPDATE, instructions")], 17_914);
        assert_eq!(costs[&key("SELECT, heap")], 0);
    }

    #[test]
    fn two_kib_of_a_static_are_seen() {
        // 24 KB of static RAM and its debt: the slack is less than 2 KB.
        assert!(limit(24_576, Some(31_900)).check(31_900 + 2_048).is_err());
    }

    #[test]
    fn what_was_compared_is_summed() {
        let sums = |log: &str| {
            let Compared {
                answers,
                images,
                left_out,
                stack,
            } = Compared::of(log);
            [answers, images, left_out, stack]
        };
        let log =
            "answers 3 images 2 left-out 1 stack 90\nsweep 1 2 3 4\nanswers 4 images 1 left-out 0 stack 70\n";
        assert_eq!(sums(log), [7, 3, 1, 90]);
        assert_eq!(sums(""), [0; 4]);
    }
}
