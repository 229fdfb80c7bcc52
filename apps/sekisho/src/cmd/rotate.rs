//! `sekisho design rotate`: the design system's keys change in SEs, by a package that the present designer signs.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{ArgGroup, Args as ClapArgs};
use sekisho_hsm::{ChangeOptions, IndividualKey, Renewal, new_file};

use super::design::{Maker, show_keys};
use super::kvn::Kvn;
use super::secret::{self, HandOverPassphrase, Passphrase};
use super::usage;
use crate::files;

/// Make new keys of the design system, and the package that brings them into secure elements
///
/// The new ceremony file is on disk before the package is; the present one stays as it is. When the new one is there already, from a run that
/// broke off or for the next SE, its keys are taken.
#[derive(ClapArgs)]
#[command(disable_version_flag = true)] // --version is the keys'
#[command(group(ArgGroup::new("renewal").args(["keys_only", "designer_only"])))]
pub(crate) struct Args {
    /// Key version that SEs have afterwards; without it the next one
    #[arg(long)]
    version: Option<u32>,
    /// Least key version that it may replace
    #[arg(long, default_value_t = 0)]
    min_previous: u32,
    /// New Kos and K_MAC; the designer's key stays
    #[arg(long)]
    keys_only: bool,
    /// A new designer's key; Kos and K_MAC stay
    #[arg(long)]
    designer_only: bool,
    /// Who makes the broadcast keys
    #[arg(long, value_enum, default_value_t = Maker::Hsm)]
    custody: Maker,
    /// For one SE, whose Kos others may know: what `sekisho hsm wrapping-key` made, under its hand-over passphrase
    #[arg(long, value_name = "FILE")]
    individual: Option<PathBuf>,
    /// The package to make; an existing one is not replaced
    #[arg(long, default_value = "keys.skpk")]
    out: PathBuf,
    /// The present ceremony file
    #[arg(long, default_value = "ceremony.sealed")]
    ceremony: PathBuf,
    /// The new ceremony file, sealed under the same passphrase
    #[arg(long, default_value = "ceremony-next.sealed")]
    next: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
    #[command(flatten)]
    hand_over: HandOverPassphrase,
}

impl Args {
    const fn renewal(&self) -> Renewal {
        match (self.keys_only, self.designer_only) {
            (true, _) => Renewal::Keys,
            (_, true) => Renewal::Designer,
            (false, false) => Renewal::All,
        }
    }
}

/// What a renewal changes, in words.
const fn named(renewal: Renewal) -> &'static str {
    match renewal {
        Renewal::All => "Kos, K_MAC and the designer's key",
        Renewal::Keys => "Kos and K_MAC",
        Renewal::Designer => "the designer's key",
    }
}

#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &Args) -> Result<()> {
    let individual = match &args.individual {
        None => None,
        Some(path) => Some(secret::individual_key(path, &args.hand_over.required()?)?),
    };
    let passphrase = args.passphrase.read()?;
    let present = secret::ceremony(&args.ceremony, &passphrase)?;
    let options = ChangeOptions {
        min_previous: args.min_previous,
        custody: args.custody.custody(),
    };
    let is_made = args.next.exists();
    let next = if is_made {
        let next = secret::ceremony(&args.next, &passphrase)?;
        let found = present.renewal(&next).with_context(|| {
            format!(
                "{} and {} are the same: the next keys go into another --next",
                args.ceremony.display(),
                args.next.display()
            )
        })?;
        if found != args.renewal() {
            return usage(format!(
                "{} holds new keys already and changes {}; give another --next to make others",
                args.next.display(),
                named(found)
            ));
        }
        if args.version.is_some_and(|version| version != next.key_version()) {
            return usage(format!(
                "{} holds keys of version {}; give another --next to make others",
                args.next.display(),
                next.key_version()
            ));
        }
        next
    } else {
        let next = present.successor(args.renewal())?;
        let version = args.version.unwrap_or(next.key_version());
        next.with_key_version(version)
    };
    // Refused before a file is made.
    new_file::check(&args.out)?;
    let package = present.key_change(&next, options, individual.as_ref())?;
    if !is_made {
        next.save(&args.next, passphrase.as_bytes())?;
    }
    files::publish_new(&args.out, &package)
        .with_context(|| format!("{} is made: run this again", args.next.display()))?;
    let made = if is_made { "was there" } else { "sealed" };
    println!(
        "next ceremony  {} ({made}; keep {} until every SE has changed)",
        args.next.display(),
        args.ceremony.display()
    );
    show_keys(&next);
    println!(
        "package        {}: key version {}, {} change, {} bytes",
        args.out.display(),
        next.key_version(),
        named(args.renewal()),
        package.len()
    );
    individual.iter().for_each(show_one_se);
    Ok(())
}

#[allow(clippy::print_stdout)]
fn show_one_se(individual: &IndividualKey) {
    println!(
        "for            SE {} alone, in a secure channel of its key set {}",
        individual.se_id,
        Kvn(individual.kvn)
    );
}
