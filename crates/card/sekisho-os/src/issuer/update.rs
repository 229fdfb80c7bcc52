//! Broadcast update: the modes of the secure channel, and the keys with which the loader works (broadcast update, section 2).

use sekisho_apdu::{StatusWord, Writer};
use sekisho_keys::{AesKey, kdf_label, key_unwrap};
use sekisho_link::Custody;
use sekisho_link::codes::{LABEL_KEY_WRAP, LABEL_RESUME};
use sekisho_nvm::Flash;
use sekisho_scp::SecurityLevel;
use sekisho_scp::card::{BroadcastCheckpoint, BroadcastStart};
use zeroize::Zeroizing;

use super::Issuer;
use crate::keys::{KVN_K_AUT, KVN_K_MAC, KVN_KOS};
use crate::loader::commands::{AuthorizeAction, ChangeMode, WriteBlock};
use crate::loader::{BroadcastBegin, Loader};
use crate::nvm::Nvm;
use crate::refusal::{Outcome, Refusal};
use crate::secure::State;

/// What the secure channel does after the answer to CHANGE MODE.
pub(crate) enum ModeChange {
    /// Saves the individual channel and goes to broadcast mode, at a checkpoint if there is one.
    Broadcast {
        start: BroadcastStart,
        resume: Option<BroadcastCheckpoint>,
    },
    /// Returns to the saved individual channel.
    Saved,
}

const fn not_authenticated() -> Refusal {
    Refusal(StatusWord::SECURITY_STATUS_NOT_SATISFIED)
}

impl<'a, F: Flash> Issuer<'_, 'a, F> {
    /// The loader and the NVM it works on.
    fn loader(&mut self) -> (&mut Loader, Nvm<'_, F>) {
        (
            &mut *self.context.system.loader,
            self.context.records.nvm.reborrow(),
        )
    }

    /// The individual secure channel must be there, at level 03, 13 or 33.
    fn individual_channel(&self) -> Result<(), Refusal> {
        let proof = self.context.authenticated().ok_or(not_authenticated())?;
        if proof.level().at_least(SecurityLevel::C_DECRYPTION_C_MAC) {
            Ok(())
        } else {
            Err(not_authenticated())
        }
    }

    /// Where the broadcast stands, if the command came in broadcast mode.
    fn broadcast(&mut self) -> Result<BroadcastCheckpoint, Refusal> {
        let place = self.context.place;
        match self.context.system.secure.get(place) {
            Some(State::Broadcast { channel, .. }) => Ok(channel.checkpoint()?),
            _ => Err(not_authenticated()),
        }
    }

    /// CHANGE MODE.
    ///
    /// # Errors
    /// The status words of broadcast update, 2.5.
    pub fn change_mode(&mut self, command: &ChangeMode<'_>) -> Outcome {
        let mode = match command {
            ChangeMode::Broadcast {
                custody,
                campaign,
                counter,
                chaining,
                keys,
            } => {
                if self.context.system.secure.any_broadcast() {
                    return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
                }
                self.individual_channel()?;
                let (bk_enc, bk_mac) = self.broadcast_keys(*custody, keys)?;
                let start = BroadcastStart {
                    bk_enc,
                    bk_mac,
                    counter: *counter,
                    chaining: *chaining,
                };
                let resume = self.begin(*custody, *campaign, &start)?;
                ModeChange::Broadcast { start, resume }
            }
            ChangeMode::Back => {
                self.broadcast()?;
                let (loader, mut nvm) = self.loader();
                loader.finish(&mut nvm)?;
                ModeChange::Saved
            }
        };
        self.context.system.effects.mode = Some(mode);
        Ok(StatusWord::NO_ERROR)
    }

    /// The broadcast key set: in custody 03 wrapped under a key of Kos, in custody 04 as it is.
    fn broadcast_keys(&mut self, custody: Custody, keys: &[u8]) -> Result<(AesKey, AesKey), Refusal> {
        let wrong = Refusal(StatusWord::INCORRECT_DATA);
        let mut plain = Zeroizing::new([0; 64]);
        let len = match custody {
            Custody::DesignSystem => keys.len().checked_sub(8).ok_or(wrong)?,
            Custody::Hsm => keys.len(),
        };
        let plain = plain.get_mut(..len).ok_or(wrong)?;
        match custody {
            Custody::DesignSystem => {
                let mut kek = Zeroizing::new([0; 16]);
                kdf_label(&self.keys().single_aes(KVN_KOS)?, LABEL_KEY_WRAP, &[], &mut *kek);
                key_unwrap(&AesKey::new(&*kek)?, keys, plain).map_err(|_| wrong)?;
            }
            Custody::Hsm => plain.copy_from_slice(keys),
        }
        let (enc, mac) = plain.split_at_checked(len / 2).ok_or(wrong)?;
        Ok((AesKey::new(enc)?, AesKey::new(mac)?))
    }

    fn begin(
        &mut self,
        custody: Custody,
        campaign: sekisho_link::Campaign,
        start: &BroadcastStart,
    ) -> Result<Option<BroadcastCheckpoint>, Refusal> {
        let mut resume_check = [0; 8];
        kdf_label(
            &start.bk_mac,
            LABEL_RESUME,
            &campaign.0.to_be_bytes(),
            &mut resume_check,
        );
        let kos = match custody {
            Custody::DesignSystem => None,
            Custody::Hsm => Some(self.keys().single_aes(KVN_KOS)?),
        };
        let begin = BroadcastBegin {
            campaign,
            custody,
            resume_check,
            bk_mac: start.bk_mac.clone(),
            kos,
        };
        let (loader, mut nvm) = self.loader();
        Ok(loader.begin_broadcast(&mut nvm, begin)?)
    }

    /// WRITE.
    ///
    /// # Errors
    /// The status words of broadcast update, 2.5.
    pub fn write_block(&mut self, command: &WriteBlock<'_>) -> Outcome {
        let checkpoint = self.broadcast()?;
        // Its point is checked whenever it is read, which costs more than a block.
        let designer = if command.block == 0 {
            Some(self.keys().designer()?)
        } else {
            None
        };
        let (loader, mut nvm) = self.loader();
        loader.write(
            &mut nvm,
            command.block,
            command.data,
            &checkpoint,
            designer.as_ref(),
        )?;
        Ok(StatusWord::NO_ERROR)
    }

    /// AUTHORIZE ACTION; appends the receipt to the answer.
    ///
    /// # Errors
    /// The status words of broadcast update, 2.5.
    pub fn authorize_action(&mut self, command: &AuthorizeAction, out: &mut Writer<'_>) -> Outcome {
        self.individual_channel()?;
        let k_aut = self.keys().single_aes(KVN_K_AUT)?;
        let k_mac = self.keys().single_aes(KVN_K_MAC).ok();
        let se_id = *self.se_id();
        let (loader, mut nvm) = self.loader();
        loader.authorise(&mut nvm, &k_aut, k_mac.as_ref(), &se_id, command, out)?;
        Ok(StatusWord::NO_ERROR)
    }

    /// The value of GET DATA DF20: the active part and how far a broadcast has come.
    ///
    /// # Errors
    /// 6A84.
    pub fn update_state(&mut self, out: &mut Writer<'_>) -> Result<(), Refusal> {
        Ok(self.context.system.loader.state_object(out)?)
    }

    /// The value of GET DATA DF21: the last receipt.
    ///
    /// # Errors
    /// 6A88 when there is none.
    pub fn receipt(&mut self, out: &mut Writer<'_>) -> Result<(), Refusal> {
        let (loader, mut nvm) = self.loader();
        Ok(loader.receipt(&mut nvm, out)?)
    }
}
