//! The subcommands. To add one: a module here, a variant of [`Command`], a line in [`run`].

mod agent;
mod agent_paging;
mod analyse;
mod bench;
mod bench_paging;
mod bench_peers;
mod bench_rolling;
mod card;
mod design;
mod fleet;
mod hsm;
mod paging;
mod paging_local;
mod reader;
pub(crate) mod secret;
mod server;

use anyhow::Error;
use clap::Subcommand;
use std::process::ExitCode;

/// What the binary can do.
#[derive(Subcommand)]
pub(crate) enum Command {
    Lab(crate::lab::Args),
    Card(card::Args),
    Agent(agent::Args),
    Server(server::Args),
    Fleet(fleet::Args),
    Design(design::Args),
    Hsm(hsm::Args),
    Bench(bench::Args),
    Load(crate::load::Args),
    Paging(paging::Args),
    Analyse(analyse::Args),
    Reader(reader::Args),
}

/// Carries one subcommand out.
pub(crate) fn run(command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Lab(args) => crate::lab::run(&args),
        Command::Card(args) => card::run(&args),
        Command::Agent(args) => agent::run(&args),
        Command::Server(args) => server::run(&args),
        Command::Fleet(args) => fleet::run(&args),
        Command::Design(args) => design::run(&args),
        Command::Hsm(args) => hsm::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Load(args) => crate::load::run(&args),
        Command::Paging(args) => paging::run(&args),
        Command::Analyse(args) => analyse::run(&args),
        Command::Reader(args) => reader::run(&args),
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
