//! Runs a page: its console blocks in order, in one folder and one shell.

use core::fmt::Write as _;
use core::time::Duration;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::page::{Block, Command, Page};
use crate::shell::{Shell, own_namespaces, within};

/// How a page is run.
#[derive(Clone, Copy)]
pub struct Rules {
    /// For each command, and for a job in the background to write what the page shows.
    pub limit: Duration,
    /// A tool that is missing fails the page, in place of skipping what needs it.
    pub needs_all: bool,
}

/// What became of a page's blocks.
#[derive(Debug, Default)]
pub struct Counts {
    pub blocks: usize,
    pub commands: usize,
    /// Where, and the reason that the page gives.
    pub not_run: Vec<String>,
    /// Where, and what this machine lacks.
    pub skipped: Vec<String>,
}

/// In this time the kernel has ended what was in a page's namespace.
const GONE: Duration = Duration::from_secs(5);

/// What a page finds in its folder: the parts of a checkout that guides name.
const CHECKOUT: [&str; 1] = ["applets"];

/// Runs a page to its end, or to the first command that does not do what the page shows.
pub fn run(page: &Page, rules: Rules) -> Result<Counts, String> {
    let place = tempfile::tempdir().unwrap();
    // Another user, as PostgreSQL's, may be let in by the page.
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let [folder, bin, beside] = ["folder", "bin", "beside"].map(|name| {
        let path = place.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    });
    symlink(env!("CARGO_BIN_EXE_sekisho"), bin.join("sekisho")).unwrap();
    for name in CHECKOUT {
        symlink(repository().join(name), folder.join(name)).unwrap();
    }
    let mut counts = Counts::default();
    let mut shell = Shell::start(&folder, &bin, &beside);
    for block in &page.blocks {
        let at = format!("{}:{}", page.name, block.line);
        if let Some(reason) = &block.notes.not_run {
            counts.not_run.push(format!("{at}: {reason}"));
            continue;
        }
        let missing: Vec<_> = block
            .notes
            .needs
            .iter()
            .filter(|tool| !is_there(tool))
            .cloned()
            .collect();
        if !missing.is_empty() {
            let what = format!("{at}: this machine lacks {}", missing.join(", "));
            // Nobody installs root.
            if rules.needs_all && missing.iter().any(|tool| tool != "root") {
                return Err(what);
            }
            counts.skipped.push(what);
            continue;
        }
        for command in &block.commands {
            check(&mut shell, block, command, rules.limit)
                .map_err(|what| format!("{}:{}: {what}\n", page.name, command.line))?;
            counts.commands += 1;
        }
        counts.blocks += 1;
    }
    shell
        .end(rules.limit)
        .map_err(|what| format!("{}: at its end: {what}", page.name))?;
    match within(GONE, || left_running(place.path()) == 0) {
        true => Ok(counts),
        false => Err(format!("{}: processes are left behind", page.name)),
    }
}

/// The binary under test is what a checkout would build first.
fn check(shell: &mut Shell, block: &Block, command: &Command, limit: Duration) -> Result<(), String> {
    let text = command.text.replace("cargo run --release --", "sekisho");
    let done = shell
        .run(&text, limit)
        .map_err(|what| format!("`{text}` {what}"))?;
    let varies = &block.notes.varies;
    let is_good = |output: &str| command.matches(output, varies, done.has_job);
    let limit = if done.has_job { limit } else { Duration::ZERO };
    let is_as_shown = within(limit, || is_good(&done.output()));
    if is_as_shown && done.exit_code == 0 {
        return Ok(());
    }
    let mut what = format!("`{text}`\n");
    if done.exit_code != 0 {
        let _ = writeln!(what, "  ended with exit code {}", done.exit_code);
    }
    let output = done.output();
    for (name, text) in [
        ("the page shows", command.expected.join("\n")),
        ("the output is", output),
    ] {
        let _ = writeln!(what, "  {name}:");
        for line in text.lines() {
            let _ = writeln!(what, "    {line}");
        }
    }
    Err(what)
}

/// Whether this machine has a command, or what else a page can name.
fn is_there(tool: &str) -> bool {
    match tool {
        "vpcd" => Path::new("/etc/reader.conf.d/vpcd").exists(),
        "postgresql" => Path::new("/usr/lib/postgresql").exists(),
        // It may become another user, which who is root in a namespace alone may not.
        "root" => std::fs::metadata("/proc/self").is_ok_and(|of| of.uid() == 0),
        // It would be everybody's, and vpcd listens on all addresses.
        "pcscd" if own_namespaces().is_none() => false,
        _ => {
            let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
            path.split(':')
                .any(|folder| Path::new(folder).join(tool).is_file())
        }
    }
}

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Processes that still work in the page's folder.
fn left_running(place: &Path) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let folders = processes.filter_map(|process| std::fs::read_link(process.path().join("cwd")).ok());
    folders.filter(|folder| folder.starts_with(place)).count()
}
