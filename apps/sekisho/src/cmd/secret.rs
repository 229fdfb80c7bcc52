//! Passphrases: from a file or from the environment, never from the command line, where everybody could read them.

use anyhow::{Context, Result, bail};
use clap::Args;
use sekisho_hsm::design::Ceremony;
use sekisho_hsm::{IndividualKey, SoftHsm};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

use super::OrUsage as _;
use crate::files;

/// Opens a keystore, which is closed to others first.
pub(crate) fn keystore(path: &Path, passphrase: &str) -> Result<SoftHsm> {
    open(path, SoftHsm::load, passphrase, "keystore", "sekisho hsm init")
}

/// Opens a ceremony file, which is closed to others first.
pub(crate) fn ceremony(path: &Path, passphrase: &str) -> Result<Ceremony> {
    open(
        path,
        Ceremony::load,
        passphrase,
        "ceremony file",
        "sekisho design ceremony",
    )
}

/// Opens the key that wraps new keys for one SE.
pub(crate) fn individual_key(path: &Path, passphrase: &str) -> Result<IndividualKey> {
    open(
        path,
        IndividualKey::load,
        passphrase,
        "hand-over file",
        "sekisho hsm wrapping-key",
    )
}

/// Opens a sealed file. `maker` is named where there is none; one that is there is not to be made again for a wrong passphrase.
fn open<T>(
    path: &Path,
    load: impl FnOnce(&Path, &[u8]) -> sekisho_hsm::Result<T>,
    passphrase: &str,
    what: &str,
    maker: &str,
) -> Result<T> {
    files::close(path);
    load(path, passphrase.as_bytes()).with_context(|| {
        let advice = if path.exists() {
            String::new()
        } else {
            format!("; {maker} makes one")
        };
        format!("the {what} {} does not open{advice}", path.display())
    })
}

/// Where the passphrase comes from.
#[derive(Args)]
pub(crate) struct Passphrase {
    /// File whose first line is the passphrase; without it SEKISHO_PASSPHRASE is used
    #[arg(long)]
    passphrase_file: Option<PathBuf>,
}

impl Passphrase {
    /// The passphrase.
    ///
    /// # Errors
    /// [`super::Usage`].
    pub(crate) fn read(&self) -> Result<Zeroizing<String>> {
        self.given().or_usage()
    }

    fn given(&self) -> Result<Zeroizing<String>> {
        first_line(self.passphrase_file.as_deref(), "SEKISHO_PASSPHRASE")?.context(
            "no passphrase: write it to a file and give --passphrase-file, or set SEKISHO_PASSPHRASE",
        )
    }
}

/// Where the passphrase of a file that goes to another party comes from. It is none of the party's own.
#[derive(Args)]
pub(crate) struct HandOver {
    /// File whose first line is the passphrase of the hand-over file; without it SEKISHO_HANDOVER_PASSPHRASE is used
    #[arg(long, value_name = "FILE")]
    handover_passphrase_file: Option<PathBuf>,
}

impl HandOver {
    /// The passphrase, if one is given.
    ///
    /// # Errors
    /// [`super::Usage`].
    pub(crate) fn read(&self) -> Result<Option<Zeroizing<String>>> {
        first_line(
            self.handover_passphrase_file.as_deref(),
            "SEKISHO_HANDOVER_PASSPHRASE",
        )
        .or_usage()
    }

    /// The passphrase.
    ///
    /// # Errors
    /// [`super::Usage`].
    pub(crate) fn required(&self) -> Result<Zeroizing<String>> {
        self.read()?
            .context(
                "no passphrase for the hand-over file: give --handover-passphrase-file, or set SEKISHO_HANDOVER_PASSPHRASE",
            )
            .or_usage()
    }
}

/// Refuses a hand-over under the passphrase that seals what is not handed over.
///
/// # Errors
/// [`super::Usage`].
pub(crate) fn apart(own: &str, hand_over: &str) -> Result<()> {
    if own == hand_over {
        return super::usage(
            "the hand-over file goes to another party: it has a passphrase of its own".to_owned(),
        );
    }
    Ok(())
}

fn first_line(file: Option<&Path>, variable: &str) -> Result<Option<Zeroizing<String>>> {
    let text = match file {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        None => match std::env::var(variable) {
            Ok(text) => text,
            Err(_) => return Ok(None),
        },
    };
    let text = Zeroizing::new(text);
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        bail!("the passphrase is empty");
    }
    Ok(Some(Zeroizing::new(line.to_owned())))
}
