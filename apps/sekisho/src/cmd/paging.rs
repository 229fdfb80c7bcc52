//! `sekisho paging`: a paging server alone, and how one is set up.

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use clap::{Parser, ValueEnum};
use sekisho_server::paging::{Paging, PagingConfig, Scheme};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use super::OrUsage as _;
use super::secret::{self, Passphrase};
use crate::files;

/// Where identities come from.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SchemeName {
    /// Encrypted tickets: nothing is written before an answer
    Ticket,
    /// Random identities, each durable before its answer leaves
    Random,
}

/// How a paging server is set up.
#[derive(ClapArgs, Clone)]
pub(crate) struct Options {
    /// Where it listens for polls (UDP)
    #[arg(
        long = "paging-address",
        value_name = "ADDRESS",
        env = "SEKISHO_PAGING_ADDRESS"
    )]
    address: Option<SocketAddr>,
    /// Worker threads, one socket each; as many as there are cores
    #[arg(long = "paging-threads", value_name = "N")]
    threads: Option<usize>,
    /// Where identities come from [default: ticket]
    #[arg(long = "paging-scheme", value_name = "SCHEME", value_enum)]
    scheme: Option<SchemeName>,
    /// What several servers share: `postgres://...`; without it a SQLite file in the folder
    #[arg(
        long = "paging-database",
        value_name = "URL",
        env = "SEKISHO_PAGING_DATABASE",
        hide_env_values = true
    )]
    database: Option<String>,
    /// Name of this server among them [default: node]
    #[arg(long = "paging-node", value_name = "NAME")]
    node: Option<String>,
}

/// The same in a configuration file: `[paging]`.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    address: Option<SocketAddr>,
    threads: Option<usize>,
    scheme: Option<SchemeName>,
    database: Option<String>,
    node: Option<String>,
}

impl Table {
    /// Whether the database's address names a user's password: `postgres://user:password@host/name`.
    pub(crate) fn has_password(&self) -> bool {
        let address = self.database.as_deref().and_then(|url| url.split_once("://"));
        let user = address.and_then(|(_, rest)| rest.rsplit_once('@'));
        user.is_some_and(|(user, _)| user.contains(':'))
    }
}

impl Options {
    /// The configuration, if an address is given; what the command line says goes before the file.
    pub(crate) fn config(&self, table: Table, folder: &Path) -> Option<PagingConfig> {
        let scheme = self.scheme.or(table.scheme).unwrap_or(SchemeName::Ticket);
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Some(PagingConfig {
            listen: self.address.or(table.address)?,
            threads: self.threads.or(table.threads).unwrap_or_else(cores),
            scheme: match scheme {
                SchemeName::Ticket => Scheme::Ticket,
                SchemeName::Random => Scheme::Random,
            },
            database: self
                .database
                .clone()
                .or(table.database)
                .unwrap_or_else(|| format!("sqlite:{}", folder.join("paging.sqlite").display())),
            directory: Some(folder.join("paging")),
            domain: 0,
            node: self
                .node
                .clone()
                .or(table.node)
                .unwrap_or_else(|| "node".to_owned()),
        })
    }
}

/// A paging server alone: polls over UDP, with what other servers share in a database
#[derive(Parser)]
pub(crate) struct Args {
    #[command(flatten)]
    options: Options,
    /// Folder of snapshot and journal, and of the database if none is named [default: sekisho-paging]
    #[arg(long, env = "SEKISHO_PAGING_FOLDER")]
    folder: Option<PathBuf>,
    /// Be a local server: answer for the devices of this file, from `sekisho fleet paging delegate`, with no database and no keystore
    #[arg(long, value_name = "FILE", conflicts_with = "keystore")]
    local: Option<PathBuf>,
    /// The HSM's keystore
    #[arg(long, default_value = "keystore.sealed", env = "SEKISHO_KEYSTORE")]
    keystore: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
}

fn folder(args: &Args) -> Result<PathBuf> {
    if let Some(folder) = &args.folder {
        return Ok(folder.clone());
    }
    super::refuse_variable(
        "SEKISHO_FOLDER",
        "SEKISHO_PAGING_FOLDER, or give --folder (SEKISHO_FOLDER is the management server's)",
    )?;
    Ok(PathBuf::from("sekisho-paging"))
}

#[allow(clippy::print_stderr)]
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let folder = folder(args)?;
    let config = args.options.config(Table::default(), &folder);
    let config = config
        .context("where shall it listen? --paging-address 0.0.0.0:8442")
        .or_usage()?;
    if let Some(file) = &args.local {
        return super::paging_local::run(file, &args.passphrase, &config, &folder);
    }
    let hsm = secret::keystore(&args.keystore, &args.passphrase.read()?)?;
    crate::log::to_stderr().or_usage()?;
    let _alone = files::alone_in(&folder)?;
    files::private_folder(&folder, &[])?;
    if let Some(database) = config.database.strip_prefix("sqlite:") {
        files::close(Path::new(database));
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            files::outlive_file_limit()?;
            let paging = Arc::new(Paging::start(config, Arc::new(hsm)).await?);
            let looking = tokio::spawn(Arc::clone(&paging).run());
            let say = || eprintln!("paging         udp {}", paging.engine().local_addr());
            crate::leftovers::stopped_after(say).await?;
            eprintln!("stopping");
            looking.abort();
            paging.stop().await;
            Ok(ExitCode::SUCCESS)
        })
}
