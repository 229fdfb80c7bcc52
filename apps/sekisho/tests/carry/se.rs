//! A secure element in its socket, with a line to it on which things happen.

use sekisho_hsm::SoftHsm;
use sekisho_hsm::design::Ceremony;
use sekisho_link::SeId;
use sekisho_os::{Interface, Profile, SecureElement};
use sekisho_transport::{Card, TransportError};

use super::virtual_se::{SystemRng, Virtual, element};

/// Memory failure: the flash has failed, as it does when its power goes (ISO 7816-4).
const FAILED: [u8; 2] = [0x65, 0x81];

/// What happens on the line to one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// The power goes before it is carried out.
    CutBefore,
    /// The power goes before its answer is there.
    CutAfter,
    /// It is answered by somebody else, and never comes.
    Drop,
    /// It comes twice.
    Repeat,
    /// It comes after the next one; somebody else has answered it.
    Swap,
    /// One of its bytes is another one.
    Change,
}

/// The SE in its socket.
pub(crate) struct Socket {
    se: Option<SecureElement<Virtual>>,
    profile: Profile,
    /// What happens to which command, counted from now.
    pub(crate) deed: Option<(u32, Deed)>,
    /// A command that was held back.
    held: Option<Vec<u8>>,
    /// Commands that have come.
    pub(crate) commands: u32,
    /// WRITE commands that were answered with 9000.
    pub(crate) writes: u32,
    /// How often the power has come back.
    pub(crate) cycles: u32,
}

impl Socket {
    /// An SE with the first meter as version 1.
    pub(crate) fn new(hsm: &SoftHsm, ceremony: &Ceremony, se_id: SeId) -> Self {
        let profile = Profile::default();
        let se = element(hsm, ceremony, se_id, &profile);
        Self {
            se: Some(se),
            profile,
            deed: None,
            held: None,
            commands: 0,
            writes: 0,
            cycles: 0,
        }
    }

    /// Versions of the OS part and of the keys.
    pub(crate) fn versions(&self) -> (u32, u32) {
        let se = self.se.as_ref().unwrap();
        (se.part().unwrap().version, se.key_version())
    }

    /// Cuts the power inside the `operation`-th write or erasure from now.
    pub(crate) fn cut_flash(&mut self, operation: u64, seed: u64) {
        let mut flash = self.se.take().unwrap().into_flash();
        flash.cut_after(operation, seed);
        let mut se = SecureElement::new(flash, SystemRng);
        se.boot(&self.profile).unwrap();
        self.se = Some(se);
    }

    /// A power cycle.
    pub(crate) fn power_cycle(&mut self) {
        self.cycles += 1;
        let mut flash = self.se.take().unwrap().into_flash();
        flash.power_on();
        let mut se = SecureElement::new(flash, SystemRng);
        se.boot(&self.profile).unwrap();
        self.se = Some(se);
    }

    fn send(&mut self, capdu: &[u8]) -> Vec<u8> {
        let mut answer = [0; 4096];
        let len = self
            .se
            .as_mut()
            .unwrap()
            .transmit(Interface::Spi, capdu, &mut answer);
        if capdu[1] == 0x3C && answer[..len] == [0x90, 0x00] {
            self.writes += 1;
        }
        answer[..len].to_vec()
    }
}

impl Card for Socket {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        let deed = match self.deed {
            Some((0, deed)) => {
                self.deed = None;
                Some(deed)
            }
            Some((left, deed)) => {
                self.deed = Some((left - 1, deed));
                None
            }
            None => None,
        };
        self.commands += 1;
        let mut capdu = capdu.to_vec();
        if let Some(held) = self.held.take() {
            self.send(&capdu);
            capdu = held;
        }
        match deed {
            Some(Deed::Drop) => return Ok(vec![0x90, 0x00]),
            Some(Deed::Swap) => {
                self.held = Some(capdu);
                return Ok(vec![0x90, 0x00]);
            }
            Some(Deed::CutBefore) => {
                self.power_cycle();
                return Err(TransportError::Closed);
            }
            Some(Deed::Repeat) => {
                self.send(&capdu);
            }
            Some(Deed::Change) => {
                let middle = capdu.len() / 2;
                capdu[middle] ^= 0x04;
            }
            Some(Deed::CutAfter) | None => {}
        }
        let answer = self.send(&capdu);
        if deed == Some(Deed::CutAfter) || answer == FAILED {
            self.power_cycle();
            return Err(TransportError::Closed);
        }
        Ok(answer)
    }

    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        self.held = None;
        let se = self.se.as_mut().unwrap();
        se.reset(Interface::Spi);
        Ok(se.atr().to_vec())
    }
}
