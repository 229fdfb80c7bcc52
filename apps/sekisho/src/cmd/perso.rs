//! `sekisho hsm perso`: individual keys of cards, for whoever makes them.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args as ClapArgs;
use sekisho_hsm::sealed::Purpose;
use sekisho_hsm::{PersoFile, SoftHsm};
use sekisho_link::SeId;
use zeroize::Zeroizing;

use super::secret::{self, HandOverOut, Passphrase};
use super::usage;

/// Write the individual keys of cards for whoever makes them; delete the file when they are made
#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The SEs' identities, 20 hexadecimal digits each
    #[arg(long, required = true, num_args = 1..)]
    se_id: Vec<SeId>,
    /// So many SEs, counted up from the one identity that is given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: Option<u32>,
    /// The keystore
    #[arg(long, default_value = "keystore.sealed")]
    keystore: PathBuf,
    /// SCP03 with challenges, cryptograms and MACs of 16 bytes; the server authorises no update of such a card yet
    #[arg(long)]
    s16: bool,
    /// The file to make, without it perso.sealed, or perso.json in the clear; an existing one is not replaced
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    passphrase: Passphrase,
    #[command(flatten)]
    hand_over: HandOverOut,
}

#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &Args) -> Result<()> {
    let ids = identities(&args.se_id, args.count)?;
    let own = args.passphrase.read()?;
    let hand_over = args.hand_over.read(&own)?;
    let hsm = secret::keystore(&args.keystore, &own)?;
    let name = if hand_over.is_some() {
        "perso.sealed"
    } else {
        "perso.json"
    };
    let out = args.out.clone().unwrap_or_else(|| name.into());
    let text = personalisation(&hsm, &ids, args.s16)?;
    let passphrase = hand_over.as_deref().map(String::as_str);
    let how = secret::write_hand_over(&out, Purpose::Personalisation, passphrase, &text)?;
    let whose = match ids.as_slice() {
        [one] => format!("SE {one}"),
        [first, .., last] => format!("{} SEs, {first} to {last}", ids.len()),
        [] => "no SE".to_owned(),
    };
    println!("{}: individual keys of {whose}, {how}", out.display());

    Ok(())
}

/// The SEs that are meant: those named, or so many from one on.
fn identities(named: &[SeId], count: Option<u32>) -> Result<Vec<SeId>> {
    let mut ids = named.to_vec();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() != named.len() {
        return usage("--se-id: one comes twice".to_owned());
    }
    let Some(count) = count else {
        return Ok(ids);
    };
    let [first] = ids.as_slice() else {
        return usage("--count counts up from one --se-id".to_owned());
    };
    let (head, tail) = first.0.split_at(2);
    let from = tail.try_into().map(u64::from_be_bytes).unwrap_or(u64::MAX);
    let all = (0..u64::from(count)).map(|n| {
        let number = from.checked_add(n)?;
        let mut id = [0; 10];
        id[..2].copy_from_slice(head);
        id[2..].copy_from_slice(&number.to_be_bytes());
        Some(SeId(id))
    });
    match all.collect::<Option<Vec<_>>>() {
        Some(ids) => Ok(ids),
        None => usage("--count: there are not so many identities behind this one".to_owned()),
    }
}

/// The file's text: an object for one SE, a list for a batch (spec 8.1).
fn personalisation(hsm: &SoftHsm, ids: &[SeId], s16: bool) -> Result<Zeroizing<String>> {
    let file = |id: &SeId| -> Result<PersoFile> {
        let mut file = PersoFile::new(hsm, *id)?;
        file.s16 = s16;
        Ok(file)
    };
    let files = ids.iter().map(file).collect::<Result<Vec<_>>>()?;
    let text = match files.as_slice() {
        [one] => serde_json::to_string_pretty(one)?,
        batch => serde_json::to_string_pretty(batch)?,
    };
    Ok(Zeroizing::new(text))
}
