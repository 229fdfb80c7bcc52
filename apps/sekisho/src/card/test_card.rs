//! The test card: a virtual SE in this process with a file system whose keys everybody knows, and every mode of secure messaging allowed.

use anyhow::{Context, Result};
use sekisho_applets::file_system::image::Image;
use sekisho_messaging::setup::Policy;
use sekisho_os::{Interface, MESSAGING_POLICY, Profile};
use sekisho_transport::Card;

use super::element::{self, VirtualSe};
use super::perso::{FirstPart, Perso, file_system};
use super::ram_flash::RamFlash;

/// Makes the test card's SE.
pub(crate) fn element() -> Result<VirtualSe<RamFlash>> {
    let (perso, first) = (Perso::developer(false)?, FirstPart::new()?);
    let records: Vec<_> = perso.files.iter().flat_map(Image::iter).collect();
    let profile = Profile::default();
    let policy = Policy::every_mode().to_bytes();
    let (se, _) = element::start(
        RamFlash::for_profile(&profile),
        &profile,
        &perso.borrowed(&first, &[file_system(&records)?], &[(MESSAGING_POLICY, &policy)]),
    )
    .context("the test card does not start")?;
    Ok(se)
}

/// Makes the test card, with its reader.
pub(crate) fn new() -> Result<impl Card> {
    Ok(element::in_process(
        Box::new(element()?),
        Interface::Iso7816Contact,
    ))
}
