//! The subcommands. To add one: a module here, a variant of [`Command`], a line in [`run`].

mod agent;
pub(crate) mod agent_beside;
mod agent_paging;
mod analyse;
mod apdu;
mod bench;
mod bench_card;
mod bench_paging;
mod bench_peers;
mod bench_rolling;
mod bench_tls;
mod bench_transports;
mod card;
mod cpu;
mod design;
mod fleet;
mod hsm;
mod kvn;
mod new_keys;
mod paging;
mod paging_local;
mod part;
mod perso;
mod reader;
mod rotate;
pub(crate) mod secret;
mod server;
mod tls;
mod tls_renew;
mod tls_script;
mod tls_server;

use anyhow::{Error, Result};
use clap::Subcommand;
use core::fmt;
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
    Apdu(apdu::Args),
    Reader(reader::Args),
    Phone(crate::phone::Args),
    Tls(tls::Args),
    TlsServer(tls_server::Args),
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
        Command::Apdu(args) => apdu::run(&args),
        Command::Reader(args) => reader::run(&args),
        Command::Phone(args) => crate::phone::run(&args),
        Command::Tls(args) => tls::run(&args),
        Command::TlsServer(args) => tls_server::run(&args),
    }
}

/// What was asked is wrong: the command line, an environment variable, or a file of the user's own writing. Nothing has been done yet. Exit code 2, as
/// of what clap refuses.
pub(crate) struct Usage(Error);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for Usage {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.0.source()
    }
}

/// Marks a failure as one of what was asked.
pub(crate) trait OrUsage<T> {
    /// An error becomes [`Usage`].
    fn or_usage(self) -> Result<T>;
}

impl<T> OrUsage<T> for Result<T> {
    fn or_usage(self) -> Self {
        self.map_err(|error| Error::new(Usage(error)))
    }
}

/// Refuses what was asked, in a sentence.
pub(crate) fn usage<T>(sentence: String) -> Result<T> {
    Err(Error::new(Usage(Error::msg(sentence))))
}

/// Refuses what a variable of the environment says by a name that had two meanings.
pub(crate) fn refuse_variable(old: &str, instead: &str) -> Result<()> {
    match std::env::var_os(old) {
        Some(_) => usage(format!(
            "{old} is not read here: it had two meanings. Set {instead}"
        )),
        None => Ok(()),
    }
}

/// Exit code where it is not known whether a secure element has run a command.
pub(crate) const UNKNOWN: u8 = 3;

/// The exit code of an error.
pub(crate) fn exit_code(error: &Error) -> ExitCode {
    if error.is::<Usage>() {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// An error and its causes, each told once: many say their cause in their own sentence.
pub(crate) fn told_once(error: &Error) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    for text in error.chain().map(ToString::to_string) {
        if !told.last().is_some_and(|last| last.ends_with(&text)) {
            told.push(text);
        }
    }
    told
}

/// The same in one line.
pub(crate) fn in_a_line(error: &Error) -> String {
    told_once(error).join(": ")
}

/// Prints an error and its causes, one line each, on standard error.
#[allow(clippy::print_stderr)]
pub(crate) fn report(error: &Error) {
    for (number, text) in told_once(error).iter().enumerate() {
        let what = if number == 0 { "error" } else { "  because" };
        eprintln!("{what}: {text}");
    }
    if sekisho_store::files_ran_out() {
        eprintln!("  because: too many open files, or nearly; ulimit -n says how many there may be");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use super::Command;
    use clap::{CommandFactory, Parser};
    use std::path::Path;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        _command: Command,
    }

    /// Every command that does something, with the names of its options.
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, Vec<String>)>) {
        let path = format!("{path} {}", command.get_name());
        if command.get_subcommands().next().is_none() {
            let options = command.get_arguments().map(|option| option.get_id().to_string());
            found.push((path, options.collect()));
            return;
        }
        command
            .get_subcommands()
            .for_each(|inner| leaves(inner, &path, found));
    }

    #[test]
    fn a_cause_is_told_once() {
        use sekisho_device::{AgentError, BackendError};
        let unreachable =
            || AgentError::Backend(BackendError::Unreachable("nobody listens there".to_owned()));
        let sentence = "server: nobody listens there";
        assert_eq!(super::told_once(&unreachable().into()), [sentence]);
        let within = anyhow::Error::from(unreachable()).context("a turn");
        assert_eq!(super::told_once(&within), ["a turn", sentence]);
        let turn = Err(anyhow::Error::from(unreachable()));
        assert_eq!(super::agent::as_json(&turn)["error"], sentence);
    }

    /// The designer's file and the HSM's never meet: no command takes both, and each is opened in one place, which takes one.
    #[test]
    fn no_command_opens_both_keystore_and_ceremony_file() {
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        let takers = |name: &str| {
            let takes = |(_, options): &&(String, Vec<String>)| options.iter().any(|option| option == name);
            let taken = found.iter().filter(takes).map(|(path, _)| path.as_str());
            taken.collect::<Vec<_>>()
        };
        let (keystore, ceremony) = (takers("keystore"), takers("ceremony"));
        assert!(
            keystore.len() >= 5 && ceremony.len() >= 3,
            "{keystore:?} {ceremony:?}"
        );
        for path in &ceremony {
            assert!(!keystore.contains(path), "{path}");
            assert!(path.contains(" design "), "{path}");
        }
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        for opener in [
            "SoftHsm::load",
            "Ceremony::load",
            "secret::keystore",
            "secret::ceremony",
        ] {
            let users: Vec<_> = files
                .iter()
                .filter(|(name, text)| name != "mod.rs" && text.contains(opener))
                .map(|(name, _)| name.as_str())
                .collect();
            assert!(!users.is_empty(), "{opener}");
            let may: &[&str] = match opener {
                "secret::keystore" => &[
                    "hsm.rs",
                    "new_keys.rs",
                    "perso.rs",
                    "server.rs",
                    "paging.rs",
                    "paging_local.rs",
                ],
                "secret::ceremony" => &["design.rs", "rotate.rs"],
                _ => &["secret.rs"],
            };
            assert!(users.iter().all(|name| may.contains(name)), "{opener}: {users:?}");
        }
    }

    fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
}
