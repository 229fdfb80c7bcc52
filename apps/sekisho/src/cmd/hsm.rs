//! `sekisho hsm`: the software keystore.

use anyhow::Result;

use clap::{Parser, Subcommand};
use sekisho_hsm::{FileKey, Hsm, IndividualKey, SoftHsm};
use sekisho_link::SeId;
use std::path::PathBuf;
use std::process::ExitCode;

use super::kvn::Kvn;
use super::secret::{self, HandOverPassphrase, Passphrase};
use super::{new_keys, perso};

/// The server's keystore in software
#[derive(Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make master keys, sealed in a file under a passphrase
    Init {
        /// The keystore to make; an existing one is not replaced
        #[arg(long, default_value = "keystore.sealed")]
        out: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Open a keystore and run its self-test
    Check {
        /// The keystore
        #[arg(long, default_value = "keystore.sealed")]
        keystore: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Print a key of a card's file system in hexadecimal digits, for `sekisho reader --key-file`
    FileKey {
        /// The SE's identity, 20 hexadecimal digits
        #[arg(long)]
        se_id: SeId,
        /// EXTERNAL 1, which creates files and changes keys, in place of MKEY 1
        #[arg(long)]
        external: bool,
        /// The keystore
        #[arg(long, default_value = "keystore.sealed")]
        keystore: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Make the key that wraps the design system's new keys for one SE, for `sekisho design rotate --individual`
    WrappingKey {
        /// The SE's identity, 20 hexadecimal digits
        #[arg(long)]
        se_id: SeId,
        /// Version of the SCP03 key set that it has, 30 to 3F (two hexadecimal digits)
        #[arg(long, default_value_t = Kvn::FIRST)]
        kvn: Kvn,
        /// The hand-over file to make; an existing one is not replaced
        #[arg(long, default_value = "wrapping-key.sealed")]
        out: PathBuf,
        /// The keystore
        #[arg(long, default_value = "keystore.sealed")]
        keystore: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
        #[command(flatten)]
        hand_over: HandOverPassphrase,
    },
    Perso(perso::Args),
    Rotate(new_keys::Args),
}

#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Init { out, passphrase } => {
            SoftHsm::generate()?.save(out, passphrase.read()?.as_bytes())?;
            println!("{}: keystore made, sealed", out.display());
        }
        Command::Check { keystore, passphrase } => {
            secret::keystore(keystore, &passphrase.read()?)?.self_test()?;
            println!("{}: opens, and its self-test passes", keystore.display());
        }
        Command::FileKey {
            se_id,
            external,
            keystore,
            passphrase,
        } => {
            let hsm = secret::keystore(keystore, &passphrase.read()?)?;
            let key = if *external {
                FileKey::External
            } else {
                FileKey::Messaging
            };
            println!("{}", hex::encode(hsm.file_key(*se_id, key)?.as_ref()));
        }
        Command::WrappingKey {
            se_id,
            kvn,
            out,
            keystore,
            passphrase,
            hand_over,
        } => {
            let (own, hand_over) = (passphrase.read()?, hand_over.required()?);
            secret::apart(&own, &hand_over)?;
            let key = IndividualKey::new(&secret::keystore(keystore, &own)?, *se_id, kvn.0)?;
            key.save(out, hand_over.as_bytes())?;
            println!(
                "{}: wraps new keys for SE {se_id} and package {}, sealed",
                out.display(),
                hex::encode(key.package_id)
            );
        }
        Command::Perso(args) => perso::run(args)?,
        Command::Rotate(args) => new_keys::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}
