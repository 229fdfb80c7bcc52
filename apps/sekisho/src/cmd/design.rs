//! `sekisho design`: the design system's desk. Off line; it holds Kos, K_MAC and the designer's private key.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use sekisho_hsm::design::{Ceremony, PackOptions, verify};
use sekisho_hsm::sealed::Purpose;
use sekisho_hsm::{ProductFile, new_file};
use sekisho_keys::{p256sig::VerifyingKey, sha256};
use sekisho_link::{Custody, Manifest, Package, PackageBody};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use zeroize::Zeroizing;

use super::OrUsage as _;
use super::secret::{self, HandOverOut, Passphrase};
use super::{part, rotate};
use crate::files;

/// The design system: key ceremony, packages
#[derive(Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make Kos, K_MAC and the designer's key, sealed in a file under a passphrase
    Ceremony {
        /// The ceremony file to make; an existing one is not replaced
        #[arg(long, default_value = "ceremony.sealed")]
        out: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Make a signed package of a WebAssembly module
    #[command(disable_version_flag = true)] // --version is the part's
    Pack {
        /// The module
        module: PathBuf,
        /// Version of the part
        #[arg(long)]
        version: u32,
        /// Least version that it may replace
        #[arg(long, default_value_t = 0)]
        min_previous: u32,
        /// Who makes the broadcast keys
        #[arg(long, value_enum, default_value_t = Maker::Hsm)]
        custody: Maker,
        /// The package to make; an existing one is not replaced
        #[arg(long, default_value = "update.skpk")]
        out: PathBuf,
        /// The ceremony file
        #[arg(long, default_value = "ceremony.sealed")]
        ceremony: PathBuf,
        /// RAM budget of the secure elements that it is for, in bytes, as 256K
        #[arg(long, value_name = "SIZE", value_parser = super::card::size)]
        ram: Option<usize>,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    Rotate(rotate::Args),
    /// Write Kos, K_MAC and the designer's public key for whoever makes cards; the private key stays
    HandOver {
        /// The file to make, without it product.sealed, or product.json in the clear; an existing one is not replaced
        #[arg(long)]
        out: Option<PathBuf>,
        /// The ceremony file
        #[arg(long, default_value = "ceremony.sealed")]
        ceremony: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
        #[command(flatten)]
        hand_over: HandOverOut,
    },
    /// Run commands in a module, on a virtual secure element made for it
    #[command(disable_version_flag = true)] // --version is the part's
    Try {
        /// The module
        module: PathBuf,
        /// Commands to it, one after the other, in hexadecimal digits; it is selected already
        #[arg(required = true, value_name = "APDU")]
        commands: Vec<String>,
        /// Version that the module is told
        #[arg(long, default_value_t = 1)]
        version: u32,
        /// RAM budget of the secure element, in bytes, as 256K
        #[arg(long, value_name = "SIZE", value_parser = super::card::size)]
        ram: Option<usize>,
    },
    /// Show what a package says
    Inspect {
        /// The package
        package: PathBuf,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Verify a package's signatures
    Verify {
        /// The package
        package: PathBuf,
        /// The designer's public key, 130 hexadecimal digits, as the ceremony printed it
        #[arg(long)]
        designer: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Maker {
    /// The HSM, for each campaign (custody 04)
    Hsm,
    /// The design system, wrapped under Kos (custody 03)
    Design,
}

impl Maker {
    pub(super) const fn custody(self) -> Custody {
        match self {
            Self::Hsm => Custody::Hsm,
            Self::Design => Custody::DesignSystem,
        }
    }
}

#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Ceremony { out, passphrase } => ceremony(out, passphrase)?,
        Command::Pack {
            module,
            version,
            min_previous,
            custody,
            out,
            ceremony,
            ram,
            passphrase,
        } => {
            new_file::check(out)?;
            let bytes = files::read(module)?;
            part::check(module, &bytes, &part::profile(*ram))?;
            let ceremony = secret::ceremony(ceremony, &passphrase.read()?)?;
            let package = ceremony.pack(
                &bytes,
                PackOptions {
                    version: *version,
                    min_previous: *min_previous,
                    custody: custody.custody(),
                },
            )?;
            files::publish_new(out, &package)?;
            println!(
                "{}: version {version}, {} bytes of module, {} bytes of package",
                out.display(),
                bytes.len(),
                package.len()
            );
        }
        Command::Rotate(args) => rotate::run(args)?,
        Command::HandOver {
            out,
            ceremony,
            passphrase,
            hand_over: how,
        } => hand_over(out.as_deref(), ceremony, passphrase, how)?,
        Command::Try {
            module,
            commands,
            version,
            ram,
        } => try_module(module, commands, *version, *ram)?,
        Command::Inspect { package, json } => inspect(package, *json)?,
        Command::Verify { package, designer } => verify_package(package, designer)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout)]
fn ceremony(out: &Path, passphrase: &Passphrase) -> Result<()> {
    let ceremony = Ceremony::generate()?;
    ceremony.save(out, passphrase.read()?.as_bytes())?;
    println!(
        "ceremony file  {} (sealed; keep it off line, with its passphrase elsewhere)",
        out.display()
    );
    show_keys(&ceremony);
    Ok(())
}

#[allow(clippy::print_stdout)]
fn hand_over(out: Option<&Path>, ceremony: &Path, passphrase: &Passphrase, how: &HandOverOut) -> Result<()> {
    let own = passphrase.read()?;
    let hand_over = how.read(&own)?;
    let ceremony = secret::ceremony(ceremony, &own)?;
    let name = if hand_over.is_some() {
        "product.sealed"
    } else {
        "product.json"
    };
    let out = out.unwrap_or(Path::new(name));
    let text = Zeroizing::new(serde_json::to_string_pretty(&ProductFile::new(&ceremony))?);
    let passphrase = hand_over.as_deref().map(String::as_str);
    let how = secret::write_hand_over(out, Purpose::Product, passphrase, &text)?;
    println!(
        "{}: Kos, K_MAC and the designer's public key, key version {}, {how}",
        out.display(),
        ceremony.key_version()
    );
    Ok(())
}

/// What a ceremony's record names its keys by.
#[allow(clippy::print_stdout)]
pub(super) fn show_keys(ceremony: &Ceremony) {
    let (kos, k_mac) = ceremony.check_values();
    let designer = ceremony.designer_public();
    println!("Kos            key check value {}", hex::encode_upper(kos));
    println!("K_MAC          key check value {}", hex::encode_upper(k_mac));
    println!("designer       {}", hex::encode(designer));
    println!("fingerprint    {}", hex::encode(sha256(&[&designer])));
}

#[allow(clippy::print_stdout)]
fn try_module(module: &Path, commands: &[String], version: u32, ram: Option<usize>) -> Result<()> {
    let commands = part::commands(commands).or_usage()?;
    let mut trial = part::Trial::new(module, files::read(module)?, version, &part::profile(ram))?;
    for capdu in commands {
        let (data, sw, words) = trial.send(&capdu);
        let answer = hex::encode_upper(data);
        println!("{} -> {answer}{sw:04X}  {words}", hex::encode_upper(&capdu));
    }
    Ok(())
}

fn decode<'a>(path: &Path, bytes: &'a [u8]) -> Result<Package<'a>> {
    Package::decode(bytes)
        .with_context(|| format!("{} is no package; sekisho design pack makes one", path.display()))
}

#[allow(clippy::print_stdout)]
fn verify_package(package: &Path, designer: &str) -> Result<()> {
    let key = hex::decode(designer)
        .ok()
        .and_then(|key| <[u8; 65]>::try_from(key).ok());
    let key = key.and_then(|key| VerifyingKey::from_sec1(&key).ok());
    let key = key
        .context("--designer: an uncompressed P-256 point has 130 hexadecimal digits")
        .or_usage()?;
    let bytes = files::read(package)?;
    let parsed = decode(package, &bytes)?;
    if !verify(&parsed, &key) {
        bail!(
            "{}: not signed by this designer, or changed since",
            package.display()
        );
    }
    println!(
        "{}: both signatures are right; {}",
        package.display(),
        target(&parsed.source.manifest)
    );
    Ok(())
}

/// What a package brings, in words.
fn target(manifest: &Manifest) -> String {
    let version = manifest.version;
    match manifest.target {
        Manifest::OS_PART => format!("target 01, the OS part, version {version}"),
        Manifest::KEYS => format!("target 02, the design system's keys, version {version}"),
        other => format!("target {other:02x}, which is unknown here, version {version}"),
    }
}

#[allow(clippy::print_stdout)]
fn inspect(path: &Path, as_json: bool) -> Result<()> {
    let bytes = files::read(path)?;
    let package = decode(path, &bytes)?;
    let manifest = package.source.manifest;
    let bulk = match package.source.body {
        PackageBody::Hsm { ciphertext } => ciphertext.len(),
        PackageBody::DesignSystem { p_se, .. } => p_se.len(),
    };
    let custody = format!("{:02x}", package.source.custody() as u8);
    if as_json {
        let value = json!({
            "package_version": package.source.version as u8,
            "package_id": hex::encode(manifest.package_id), "custody": custody, "target": manifest.target,
            "code_format": manifest.code_format, "abi": manifest.abi, "version": manifest.version,
            "min_previous": manifest.min_previous, "length": manifest.length, "digest": hex::encode(manifest.digest),
            "bulk_bytes": bulk, "package_bytes": bytes.len(),
        });
        println!("{value}");
        return Ok(());
    }
    println!("package-id     {}", hex::encode(manifest.package_id));
    println!("custody        {custody}");
    println!(
        "brings         {} (replaces {} and above)",
        target(&manifest),
        manifest.min_previous
    );
    println!(
        "image          {} bytes, SHA-256 {}",
        manifest.length,
        hex::encode(manifest.digest)
    );
    println!("bulk           {bulk} bytes; package {} bytes", bytes.len());
    println!("signatures     not verified here: sekisho design verify");
    Ok(())
}
