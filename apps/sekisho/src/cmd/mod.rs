//! The subcommands. To add one: a module here, a variant of [`Command`], a line in [`run`].

mod agent;
mod card;

use anyhow::Error;
use clap::Subcommand;
use std::process::ExitCode;

/// What the binary can do.
#[derive(Subcommand)]
pub(crate) enum Command {
    Agent(agent::Args),
    Card(card::Args),
    Lab(crate::lab::Args),
}

/// Carries one subcommand out.
pub(crate) fn run(command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Agent(args) => agent::run(&args),
        Command::Card(args) => card::run(&args),
        Command::Lab(args) => crate::lab::run(&args),
    }
}

/// Prints an error and its causes, one line each, on standard error.
#[allow(clippy::print_stderr)]
pub(crate) fn report(error: &Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
}
