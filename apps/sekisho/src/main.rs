//! Sekisho: a secure-element platform in one binary.
//!
//! Each subcommand lives in its own module under `cmd` and has an `Args` (clap) and a `run`. Exit codes:
//! `docs/guide/exit-codes.md`. Machines ask for `--json` and get one object on standard output; progress goes to standard error.

#![forbid(unsafe_code)]

mod admin_client;
mod card;
mod certificates;
mod cmd;
mod files;
mod lab;
mod leftovers;
mod load;
mod log;
mod phone;
mod reader;
mod trace;

use clap::Parser;
use std::alloc::System;
use std::process::ExitCode;
use zeroizing_alloc::ZeroAlloc;

/// What is given back to the heap is wiped: where a value is moved out of it, or a buffer grows, nobody else does (`docs/decisions/0021-tls.md`).
#[global_allocator]
static HEAP: ZeroAlloc<System> = ZeroAlloc(System);

#[derive(Parser)]
#[command(
    name = "sekisho",
    version,
    about = "A secure-element platform: cards, fleet, updates",
    propagate_version = true
)]
struct Cli {
    #[command(subcommand)]
    command: cmd::Command,
}

fn main() -> ExitCode {
    leftovers::end_without_panic();
    let cli = Cli::parse();
    files::raise_limit();
    files::keep_private();
    match cmd::run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            cmd::report(&error);
            cmd::exit_code(&error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::{Command, CommandFactory};
    use std::collections::BTreeMap;

    /// What each environment variable is for, as the help of each argument says that reads it.
    fn variables(command: &Command, found: &mut BTreeMap<String, Vec<String>>) {
        for argument in command.get_arguments() {
            if let Some(name) = argument.get_env() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                let meanings = found.entry(name.to_string_lossy().into_owned()).or_default();
                meanings.push(help);
                meanings.sort();
                meanings.dedup();
            }
        }
        for command in command.get_subcommands() {
            variables(command, found);
        }
    }

    /// Every subcommand, with every option: clap finds names that are used twice only when it is asked, and then panics.
    #[test]
    fn the_whole_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_environment_variable_has_one_meaning() {
        let mut found = BTreeMap::new();
        variables(&Cli::command(), &mut found);
        assert!(found.len() >= 10, "{found:?}");
        for (name, meanings) in found {
            assert!(name.starts_with("SEKISHO_"), "{name}");
            assert_eq!(meanings.len(), 1, "{name}: {meanings:?}");
        }
    }
}
