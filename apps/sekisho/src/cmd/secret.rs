//! Passphrases: from a file or from the environment, never from the command line, where everybody could read them.

use anyhow::{Context, Result, bail};
use clap::Args;
use sekisho_hsm::design::Ceremony;
use sekisho_hsm::sealed::{self, Purpose};
use sekisho_hsm::{IndividualKey, SoftHsm, bounded, new_file};
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
    let opened = load(path, passphrase.as_bytes()).with_context(|| {
        let advice = if path.exists() {
            String::new()
        } else {
            format!("; {maker} makes one")
        };
        format!("the {what} {} does not open{advice}", path.display())
    })?;
    // It is what it should be: another file is left as it is.
    files::close_known(path);
    Ok(opened)
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
pub(crate) struct HandOverPassphrase {
    /// File whose first line is the passphrase of the hand-over file; without it SEKISHO_HANDOVER_PASSPHRASE is used
    #[arg(long, value_name = "FILE")]
    handover_passphrase_file: Option<PathBuf>,
}

impl HandOverPassphrase {
    /// This, or what a file of another passphrase says.
    pub(crate) fn or(&self, other: Option<&Path>) -> Self {
        let file = other.map(Path::to_owned);
        Self {
            handover_passphrase_file: file.or_else(|| self.handover_passphrase_file.clone()),
        }
    }

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

/// How a file for another party is written: sealed under a passphrase of its own, or in the clear where that is asked for.
#[derive(Args)]
pub(crate) struct HandOverOut {
    #[command(flatten)]
    passphrase: HandOverPassphrase,
    /// Write it in the clear, for a party that needs none but you
    #[arg(long, conflicts_with = "handover_passphrase_file")]
    in_the_clear: bool,
}

impl HandOverOut {
    /// The passphrase, which is not that of the party's own files; none for a file in the clear.
    ///
    /// # Errors
    /// [`super::Usage`].
    pub(crate) fn read(&self, own: &str) -> Result<Option<Zeroizing<String>>> {
        if self.in_the_clear {
            return Ok(None);
        }
        let passphrase = self
            .passphrase
            .read()?
            .context(
                "no passphrase for the hand-over file: give --handover-passphrase-file, set SEKISHO_HANDOVER_PASSPHRASE, or ask for --in-the-clear",
            )
            .or_usage()?;
        apart(own, &passphrase)?;
        Ok(Some(passphrase))
    }
}

/// Writes a hand-over file and says how it stands there. An existing one is not replaced.
pub(crate) fn write_hand_over(
    path: &Path,
    purpose: Purpose,
    passphrase: Option<&str>,
    text: &str,
) -> Result<&'static str> {
    match passphrase {
        Some(passphrase) => {
            sealed::write(path, purpose, passphrase.as_bytes(), text.as_bytes())?;
            Ok("sealed")
        }
        None => {
            new_file::write(path, text.as_bytes())?;
            Ok("in the clear")
        }
    }
}

/// The text of a hand-over file, sealed or in the clear; the file is closed to others then.
pub(crate) fn read_hand_over(
    path: &Path,
    purpose: Purpose,
    hand_over: &HandOverPassphrase,
    maker: &str,
) -> Result<Zeroizing<String>> {
    let read = || -> Result<Zeroizing<String>> {
        let mut bytes = bounded::read(path, sealed::MAX)?;
        if sealed::is_sealed(&bytes) {
            bytes = sealed::open(&bytes, purpose, hand_over.required()?.as_bytes())?;
        }
        Ok(Zeroizing::new(std::str::from_utf8(&bytes)?.to_owned()))
    };
    let text = read().with_context(|| format!("{} does not open; {maker} makes one", path.display()))?;
    files::close_known(path);
    Ok(text)
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

/// The passphrase of a local server, which has no variable.
///
/// # Errors
/// [`super::Usage`].
pub(crate) fn passphrase_of(file: &Path) -> Result<Zeroizing<String>> {
    line_of(file).or_usage()
}

fn first_line(file: Option<&Path>, variable: &str) -> Result<Option<Zeroizing<String>>> {
    if let Some(path) = file {
        return line_of(path).map(Some);
    }
    match std::env::var(variable) {
        Ok(text) => first_of(&Zeroizing::new(text), variable).map(Some),
        Err(_) => Ok(None),
    }
}

fn line_of(file: &Path) -> Result<Zeroizing<String>> {
    first_of(&files::read_secret(file)?, &file.display().to_string())
}

/// The first line of a text that comes from `place`.
fn first_of(text: &str, place: &str) -> Result<Zeroizing<String>> {
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        bail!("{place}: the passphrase is empty");
    }
    Ok(Zeroizing::new(line.to_owned()))
}
