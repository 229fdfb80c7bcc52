//! Conversations (`tests/scripts`) played to a card in this process.

#[path = "../../scripts/player.rs"]
mod player;

use super::ByValue as _;
use sekisho_os::{Interface, Platform, Profile, SecureElement};

#[allow(unused_imports)] // each test program uses a part
pub use player::{CardUnderTest, Habit, Line, Runner, fetched, matches};

use super::{Card, SeededRng, files};

impl<P: Platform> Line for SecureElement<P> {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 4096];
        let len = Self::transmit(self, interface, capdu, &mut out);
        assert!(len >= 2, "the card did not answer");
        out.truncate(len);
        out
    }
}

/// A card in this process, and what it starts with.
pub struct InProcess {
    card: Option<Card>,
    profile: Profile,
}

impl InProcess {
    pub fn new(card: Card, profile: Profile) -> Self {
        Self {
            card: Some(card),
            profile,
        }
    }

    fn card(&mut self) -> &mut Card {
        self.card.as_mut().unwrap()
    }
}

impl Line for InProcess {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        Line::transmit(self.card(), interface, capdu)
    }
}

impl CardUnderTest for InProcess {
    fn reset(&mut self, interface: Interface) {
        self.card().reset(interface);
    }

    fn restart(&mut self) {
        let flash = self.card.take().unwrap().into_flash();
        self.card = Some(Card::booted(flash, SeededRng(2), &self.profile).unwrap());
    }

    fn replace_with_files(&mut self) {
        self.card = Some(files::card());
    }
}
