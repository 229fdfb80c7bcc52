//! Broadcast mode on the way of a command: how it begins, is left and ends, and what becomes of a command that is refused in it.

use sekisho_apdu::StatusWord;
use sekisho_apdu::gp::ins;
use sekisho_link::{SeId, codes};

use crate::interface::Place;
use crate::keys::{KVN_K_AUT, KeyStore};
use crate::loader::{Authority, Refused};
use crate::nvm::{Records, Staged};
use crate::profile::Profile;
use crate::secure::{ModeChange, Slot};
use crate::stack::{Depth, Stack};
use crate::state::{Core, Platform};

impl<P: Platform> Core<P> {
    /// CHANGE MODE's effect.
    pub(crate) fn change_mode(&mut self, place: Place, mode: ModeChange) {
        let Some(slot) = self.interfaces.secure.get(place) else {
            return self.loader.abort();
        };
        match mode {
            ModeChange::Broadcast { start, resume } => slot.enter_broadcast(start, resume.as_ref()),
            ModeChange::Saved | ModeChange::Left => {
                let profile = Profile::or_default(&self.platform.profile);
                slot.leave_broadcast(Stack::of(profile, Depth::Whole, P::stack_low()));
            }
        }
        if !slot.is_broadcast() {
            self.loader.abort();
        }
    }

    /// Ends the secure channel of a logical channel that is in broadcast mode.
    pub(crate) fn end_broadcast(&mut self, place: Place) {
        if self.is_broadcast(place) {
            self.end_secure(|p| p == place);
        }
    }

    pub(crate) fn is_broadcast(&mut self, place: Place) -> bool {
        self.interfaces
            .secure
            .get(place)
            .is_some_and(|slot| slot.is_broadcast())
    }

    /// The sequence counter of the session whose broadcast mode a command of this INS belongs to, if it does.
    pub(crate) fn loading_session(&mut self, place: Place, instruction: u8) -> Option<u32> {
        match self.interfaces.secure.get(place)? {
            Slot::Broadcast { channel, .. } if matches!(instruction, ins::WRITE | ins::CHANGE_MODE) => {
                Some(channel.sequence_counter())
            }
            _ => None,
        }
    }

    /// Keeps the refusal of a command in broadcast mode, which ends with it: there is one in an individual session that somebody has authorised.
    pub(crate) fn refuse_load(
        &mut self,
        place: Place,
        sequence_counter: u32,
        sw: StatusWord,
        staged: &mut Staged,
    ) {
        let Some(domain) = self.interfaces.channels.selected(place) else {
            return;
        };
        let mut records = Records {
            nvm: self.nvm.open(),
            staged,
        };
        // Without K-AUT nobody would believe it.
        let mut keys = KeyStore {
            records: &mut records,
            domain,
        };
        let Ok(k_aut) = keys.single_aes(KVN_K_AUT) else {
            return;
        };
        let authority = Authority {
            se_id: SeId(self.containers.at(&self.interfaces.channels, place).card.se_id),
            k_aut,
            k_mac: None,
            kos: None,
            has_pairing_key: false,
            dek: None,
        };
        let refused = Refused {
            action: codes::ACTION_LOAD,
            subject: self.loader.loading(&mut records.nvm),
            sequence_counter,
            sw,
        };
        self.loader.refuse(&mut records.nvm, &authority, refused);
    }
}
