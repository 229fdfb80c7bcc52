//! Every console block of README.md and docs/guide/*.md against the real binary, as a newcomer would type it (docs/decisions/0007-guides.md).
//!
//! `SEKISHO_GUIDE=card cargo test --test guides` runs the pages alone that have `card` in their names.
#![allow(unreachable_pub)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods
)] // helpers are no #[test] functions

mod itself;
mod page;
mod run;
mod shell;

use core::time::Duration;
use std::io::Write;
use std::thread;
use std::time::Instant;

use page::Page;
use run::{Counts, Rules, repository};
use shell::own_namespaces;

/// A command of a guide that takes longer is hung.
const LIMIT: Duration = Duration::from_secs(300);
/// Blocks that may stand in the pages without being run.
const MOST_NOT_RUN: usize = 4;

/// README and all guides, by their paths in the repository.
fn pages() -> Vec<Page> {
    let mut names = vec!["README.md".to_owned()];
    for entry in std::fs::read_dir(repository().join("docs/guide")).unwrap() {
        names.push(format!(
            "docs/guide/{}",
            entry.unwrap().file_name().into_string().unwrap()
        ));
    }
    let wanted = std::env::var("SEKISHO_GUIDE").unwrap_or_default();
    names.retain(|name| name.contains(&wanted));
    names.sort();
    let read = |name: &String| Page::parse(name, &std::fs::read_to_string(repository().join(name)).unwrap());
    names.iter().map(|name| read(name).unwrap()).collect()
}

/// Where the tools of `scripts/test` must be there.
fn needs_all() -> bool {
    ["CI", "SEKISHO_INTEROP"]
        .into_iter()
        .any(|name| std::env::var_os(name).is_some())
}

#[test]
fn every_console_block_does_what_its_page_shows() {
    let started = Instant::now();
    let rules = Rules {
        limit: LIMIT,
        needs_all: needs_all(),
    };
    let pages = pages();
    let timed = |page: &Page| {
        let started = Instant::now();
        (run::run(page, rules), started.elapsed())
    };
    // Without namespaces the pages would meet at their ports.
    let results: Vec<_> = if own_namespaces().is_some() {
        thread::scope(|scope| {
            let running: Vec<_> = pages.iter().map(|page| scope.spawn(|| timed(page))).collect();
            running.into_iter().map(|page| page.join().unwrap()).collect()
        })
    } else {
        pages.iter().map(timed).collect()
    };
    let mut all = Counts::default();
    let mut failures = Vec::new();
    // Past the test harness, which shows nothing of a test that passes.
    let mut out = std::io::stderr().lock();
    for (page, (result, time)) in pages.iter().zip(results) {
        match result {
            Ok(counts) => {
                let (blocks, commands) = (counts.blocks, counts.commands);
                writeln!(
                    out,
                    "{:32} {blocks:3} blocks, {commands:3} commands, {:.1} s",
                    page.name,
                    time.as_secs_f64()
                )
                .unwrap();
                all.blocks += blocks;
                all.commands += commands;
                all.not_run.extend(counts.not_run);
                all.skipped.extend(counts.skipped);
            }
            Err(what) => failures.push(what),
        }
    }
    for (what, places) in [("not run", &all.not_run), ("skipped", &all.skipped)] {
        places
            .iter()
            .for_each(|place| writeln!(out, "{what}: {place}").unwrap());
    }
    let namespaces = if own_namespaces().is_some() {
        "each page in namespaces of its own"
    } else {
        "without namespaces (unshare and ip are not permitted or missing): one page after the other"
    };
    writeln!(
        out,
        "guides: {} blocks with {} commands ran, {} did not run, {} skipped, in {:.0} s; {namespaces}",
        all.blocks,
        all.commands,
        all.not_run.len(),
        all.skipped.len(),
        started.elapsed().as_secs_f64()
    )
    .unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(
        all.not_run.len() <= MOST_NOT_RUN,
        "{} blocks do not run",
        all.not_run.len()
    );
}
