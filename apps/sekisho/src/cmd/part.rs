//! What the design system does with an OS part before anybody signs it: the secure element's own checks, and commands on a virtual one.

use std::path::Path;

use anyhow::{Context, Result, bail};
use sekisho_apdu::StatusWord;
use sekisho_os::{Interface, Profile, SecureElement, check_part};

use crate::card::element::{self, HostPlatform, VirtualSe};
use crate::card::perso::{FirstPart, Perso};
use crate::card::ram_flash::RamFlash;
use crate::reader::script;

/// AID of the OS part (docs/spec/os-part.md), selected.
const SELECT: &[u8] = &[
    0x00, 0xA4, 0x04, 0x00, 0x07, 0xF0, 0x53, 0x4B, 0x4F, 0x53, 0x00, 0x01,
];
/// The longest R-APDU.
const RAPDU_MAX: usize = 65_538;

/// The embedded secure element, with another RAM budget if one is given.
pub(super) fn profile(ram: Option<usize>) -> Profile {
    let profile = Profile::default();
    Profile {
        ram: ram.unwrap_or(profile.ram),
        ..profile
    }
}

/// Refuses a module that a secure element of this profile would refuse, in its words.
pub(super) fn check(path: &Path, module: &[u8], profile: &Profile) -> Result<()> {
    if module.len() > profile.slot_bytes {
        bail!(
            "{} has {} bytes; a slot of the secure element has {}",
            path.display(),
            module.len(),
            profile.slot_bytes
        );
    }
    let ram = SecureElement::<HostPlatform<RamFlash>>::part_ram(profile);
    check_part(module, ram)
        .map(|_| ())
        .with_context(|| format!("{} is no OS part that a secure element runs", path.display()))
}

/// A virtual secure element with a module as its OS part, which is selected.
pub(super) struct Trial(Box<VirtualSe<RamFlash>>);

impl Trial {
    pub(super) fn new(path: &Path, module: Vec<u8>, version: u32, profile: &Profile) -> Result<Self> {
        check(path, &module, profile)?;
        let (perso, first) = (Perso::developer(false)?, FirstPart::of(version, module)?);
        let flash = RamFlash::for_profile(profile);
        let (se, _) = element::start(flash, profile, &perso.borrowed(&first, &[], &[]))
            .context("the virtual secure element does not start")?;
        let mut trial = Self(Box::new(se));
        trial.transmit(SELECT);
        Ok(trial)
    }

    fn transmit(&mut self, capdu: &[u8]) -> Vec<u8> {
        let mut out = vec![0; RAPDU_MAX];
        let len = self.0.transmit(Interface::Spi, capdu, &mut out);
        out.truncate(len);
        out
    }

    /// Sends a command; gives the answer's data, its status word, and that in words.
    pub(super) fn send(&mut self, capdu: &[u8]) -> (Vec<u8>, u16, String) {
        let mut data = self.transmit(capdu);
        let sw = data
            .split_last_chunk::<2>()
            .map_or(0, |(_, sw)| u16::from_be_bytes(*sw));
        data.truncate(data.len().saturating_sub(2));
        let failure = self.0.part().and_then(|part| part.failure);
        let words = match failure.filter(|_| sw == 0x6F00) {
            Some(failure) => format!("the part failed: {failure}"),
            None => StatusWord(sw).meaning().to_string(),
        };
        (data, sw, words)
    }
}

/// C-APDUs from hexadecimal digits: all are read before the first is sent.
pub(super) fn commands(texts: &[String]) -> Result<Vec<Vec<u8>>> {
    texts
        .iter()
        .map(|text| script::capdu(text).with_context(|| text.clone()))
        .collect()
}
