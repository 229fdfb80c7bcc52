//! `sekisho server`: the management server.

use anyhow::{Context, Result};
use clap::Parser;
use sekisho_hsm::{SoftHsm, new_file};
use sekisho_server::{Authority, Certificate, Config, Server};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use super::OrUsage as _;
use super::paging;
use super::secret::{self, Passphrase};
use crate::files;
use crate::leftovers::stopped_after;
use crate::log;

/// The management server: campaigns, device endpoint over TLS, administration with a live page
#[derive(Parser)]
pub(crate) struct Args {
    /// TOML file with any of: device_address, admin_address, folder, keystore, and a table [paging]: address, threads, scheme, database, node
    #[arg(long)]
    config: Option<PathBuf>,
    /// Where devices reach it, over TLS
    #[arg(long, env = "SEKISHO_DEVICE_ADDRESS")]
    device_address: Option<SocketAddr>,
    /// Where administrators reach it; plain HTTP, so keep it on loopback or behind a proxy
    #[arg(long, env = "SEKISHO_ADMIN_ADDRESS")]
    admin_address: Option<SocketAddr>,
    /// Folder of database, certificate and token
    #[arg(long, env = "SEKISHO_FOLDER")]
    folder: Option<PathBuf>,
    /// The HSM's keystore
    #[arg(long, env = "SEKISHO_KEYSTORE")]
    keystore: Option<PathBuf>,
    /// Names and addresses for which a certificate is made if the folder has none
    #[arg(long, default_value = "127.0.0.1,localhost", value_delimiter = ',')]
    names: Vec<String>,
    /// Check configuration and keystore, and end
    #[arg(long)]
    check_config: bool,
    #[command(flatten)]
    paging: paging::Options,
    #[command(flatten)]
    passphrase: Passphrase,
}

/// Files of the folder that are for everybody.
const PUBLIC: [&str; 2] = ["certificate.pem", "authority.pem"];

/// The configuration file; what the command line says goes before it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    device_address: Option<SocketAddr>,
    admin_address: Option<SocketAddr>,
    folder: Option<PathBuf>,
    keystore: Option<PathBuf>,
    #[serde(default)]
    paging: paging::Table,
}

fn file(path: Option<&Path>) -> Result<File> {
    let Some(path) = path else {
        return Ok(File::default());
    };
    let text = files::read_text(path)?;
    let file: File =
        toml::from_str(&text).with_context(|| format!("{} is no configuration", path.display()))?;
    if file.paging.has_password() {
        files::warn_of_readers(path, &path.metadata()?);
    }
    Ok(file)
}

#[allow(clippy::print_stderr)]
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let file = file(args.config.as_deref()).or_usage()?;
    let folder = args
        .folder
        .clone()
        .or(file.folder)
        .unwrap_or_else(|| PathBuf::from("sekisho-server"));
    let keystore = args
        .keystore
        .clone()
        .or(file.keystore)
        .unwrap_or_else(|| PathBuf::from("keystore.sealed"));
    let hsm = secret::keystore(&keystore, &args.passphrase.read()?)?;
    let address = |given: Option<SocketAddr>, filed: Option<SocketAddr>, port| {
        given
            .or(filed)
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)))
    };
    let device_address = address(args.device_address, file.device_address, 8443);
    let admin_address = address(args.admin_address, file.admin_address, 8440);
    if args.check_config {
        eprintln!(
            "configuration and keystore are in order: devices {device_address}, administration {admin_address}, {}",
            folder.display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    log::to_stderr().or_usage()?;
    let _alone = files::alone_in(&folder)?;
    files::private_folder(&folder, &PUBLIC)?;
    // Devices find there what they pin.
    files::publish(&folder)?;
    let config = Config {
        device_address,
        admin_address,
        database: folder.join("fleet.sqlite"),
        certificate: certificate(&folder, &args.names)?,
        admin_token: Some(admin_token(&folder)?),
        authority_key: Some(authority_key(&folder)?),
        paging: args.paging.config(file.paging, &folder),
    };
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(config, hsm, &folder))
}

#[allow(clippy::print_stderr)]
async fn serve(config: Config, hsm: SoftHsm, folder: &Path) -> Result<ExitCode> {
    files::outlive_file_limit()?;
    let server = Server::start(config, Arc::new(hsm)).await?;
    let say = || {
        eprintln!(
            "devices        https://{}  (they pin {})",
            server.device_address,
            folder.join("certificate.pem").display()
        );
        eprintln!(
            "administration http://{}/  (token in {})",
            server.admin_address,
            folder.join("admin.token").display()
        );
        if let Some(paging) = &server.paging {
            eprintln!("paging         udp {}", paging.engine().local_addr());
        }
    };
    let files = tokio::spawn(files::say_when_they_run_out());
    stopped_after(say).await?;
    files.abort();
    eprintln!("stopping");
    server.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Reads a file of the folder that is for everybody, or makes it.
fn published(path: &Path, make: impl FnOnce() -> Result<String>) -> Result<String> {
    let text = kept(path, make)?;
    files::publish(path)?;
    Ok(text)
}

/// Reads a file of the folder, or makes it for its owner's eyes only.
fn kept(path: &Path, make: impl FnOnce() -> Result<String>) -> Result<String> {
    let found = || -> Result<Option<String>> {
        let is_there = path.try_exists()?;
        is_there.then(|| files::read_text(path)).transpose()
    };
    if let Some(text) = found()? {
        return Ok(text);
    }
    let text = make()?;
    match new_file::write(path, text.as_bytes()) {
        Ok(()) => Ok(text),
        // Another process has made it meanwhile.
        Err(error) => found()?.ok_or_else(|| error.into()),
    }
}

fn admin_token(folder: &Path) -> Result<String> {
    let token = kept(&folder.join("admin.token"), || {
        let mut token = [0; 16];
        getrandom::fill(&mut token).context("no randomness")?;
        Ok(hex::encode(token))
    })?;
    Ok(token.trim().to_owned())
}

fn authority_key(folder: &Path) -> Result<String> {
    let key = kept(&folder.join("authority.key"), || Ok(Authority::new_key()?))?;
    // What verifies the certificates of the SEs' keys is for everybody.
    let certificate = Authority::new(&key)?.certificate().to_owned();
    published(&folder.join("authority.pem"), || Ok(certificate))?;
    Ok(key)
}

fn certificate(folder: &Path, names: &[String]) -> Result<Certificate> {
    let (chain, key) = (folder.join("certificate.pem"), folder.join("certificate.key"));
    if chain.exists() != key.exists() {
        anyhow::bail!(
            "{} and {} belong together: one of them is missing",
            chain.display(),
            key.display()
        );
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let made = Certificate::self_signed(&names)?;
    let key = kept(&key, || Ok(made.key.clone()))?;
    let chain = published(&chain, || Ok(made.chain.clone()))?;
    Ok(Certificate { chain, key })
}
