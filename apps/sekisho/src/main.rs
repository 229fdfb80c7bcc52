//! Sekisho: a secure-element platform in one binary.
//!
//! Each subcommand lives in its own module under `cmd` and has an `Args` (clap) and a `run`. Exit codes: 0 done, 1 it failed,
//! 2 the command line was wrong. Machines ask for `--json` and get one object on standard output; progress goes to standard error.

mod admin_client;
mod card;
mod cmd;
mod lab;
mod load;
mod reader;

use clap::Parser;
use std::process::ExitCode;

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
    let cli = Cli::parse();
    match cmd::run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            cmd::report(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    /// Every subcommand, with every option: clap finds names that are used twice only when it is asked, and then panics.
    #[test]
    fn the_whole_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
