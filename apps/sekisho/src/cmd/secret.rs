//! Passphrases: from a file or from the environment, never from the command line, where everybody could read them.

use anyhow::{Context, Result, bail};
use clap::Args;
use sekisho_hsm::SoftHsm;
use sekisho_hsm::design::Ceremony;
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
        let text = match &self.passphrase_file {
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
            }
            None => match std::env::var("SEKISHO_PASSPHRASE") {
                Ok(text) => text,
                Err(_) => bail!(
                    "no passphrase: write it to a file and give --passphrase-file, or set SEKISHO_PASSPHRASE"
                ),
            },
        };
        let text = Zeroizing::new(text);
        let line = text.lines().next().unwrap_or_default();
        if line.is_empty() {
            bail!("the passphrase is empty");
        }
        Ok(Zeroizing::new(line.to_owned()))
    }
}
