//! Broadcast update: the modes of the secure channel, and the keys with which the loader works (broadcast update, section 2).

use sekisho_apdu::{StatusWord, Writer};
use sekisho_keys::{AesKey, kdf_label, key_unwrap};
use sekisho_link::codes::{LABEL_KEY_WRAP, LABEL_RESUME};
use sekisho_link::{Campaign, Custody, Manifest, SeId};
use sekisho_scp::SecurityLevel;
use sekisho_scp::card::{BroadcastCheckpoint, BroadcastStart};
use zeroize::Zeroizing;

use super::{PlatformServices, SecurityDomain};
use crate::application::System;
use crate::container::Container;
use crate::interface::ContainerId;
use crate::keys::{KVN_K_AUT, KVN_K_MAC, KVN_KOS, KVN_PAIRING, KeyStore};
use crate::loader::commands::{AuthorizeAction, ChangeMode, KeySetField, WriteBlock};
use crate::loader::{Authority, BroadcastBegin, Loader, Refused};
use crate::nvm::Nvm;
use crate::refusal::{Outcome, Refusal};
use crate::secure::{Kept, KeptKeySet, ModeChange, OpenChannel, Slot};

const fn not_authenticated() -> Refusal {
    Refusal(StatusWord::SECURITY_STATUS_NOT_SATISFIED)
}

impl<'a> SecurityDomain<'_, 'a> {
    /// What is the platform's: `None` for whatever is not the issuer security domain of the eSE.
    pub fn platform(&mut self) -> Option<PlatformServices<'_, 'a>> {
        let Container { id, .. } = self.context.system.container;
        let is_root =
            *id == ContainerId::ESE && self.context.system.container.root() == Some(self.context.entry.id);
        is_root.then_some(PlatformServices {
            context: self.context,
        })
    }
}

impl<'a> PlatformServices<'_, 'a> {
    fn keys(&mut self) -> KeyStore<'_, 'a> {
        KeyStore {
            domain: self.context.entry.id,
            records: &mut self.context.records,
        }
    }

    /// The loader and the NVM it works on.
    fn loader(&mut self) -> (&mut Loader, Nvm<'_>) {
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
            Some(Slot::Broadcast { channel, .. }) => Ok(channel.checkpoint()?),
            _ => Err(not_authenticated()),
        }
    }

    /// CHANGE MODE.
    ///
    /// # Errors
    /// The status words of broadcast update, 2.5.
    pub fn change_mode(&mut self, command: &ChangeMode<'_>) -> Outcome {
        let mode = match command {
            ChangeMode::Broadcast(field) => {
                let set = self.key_set(field)?;
                self.begin(set)?
            }
            ChangeMode::BroadcastKept { custody, campaign } => {
                let set = self.kept_key_set(*custody, *campaign)?;
                self.begin(set)?
            }
            ChangeMode::Keep(field) => {
                let set = self.key_set(field)?;
                if let Some(open) = self.open_channel() {
                    open.kept = Kept::Set(set);
                }
                return Ok(StatusWord::NO_ERROR);
            }
            ChangeMode::Leave => {
                let checkpoint = self.broadcast()?;
                let (loader, mut nvm) = self.loader();
                loader.leave(&mut nvm, &checkpoint)?;
                ModeChange::Left
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

    /// The open individual channel of the command's logical channel.
    fn open_channel(&mut self) -> Option<&mut OpenChannel> {
        match self.context.system.secure.get(self.context.place) {
            Some(Slot::Open { session, .. }) => Some(session),
            _ => None,
        }
    }

    /// The key set that a command brings, once it may bring one.
    fn key_set(&mut self, field: &KeySetField<'_>) -> Result<KeptKeySet, Refusal> {
        if self.context.system.secure.any_broadcast() {
            return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        self.individual_channel()?;
        let (bk_enc, bk_mac) = self.broadcast_keys(field.custody, field.keys)?;
        Ok(KeptKeySet {
            custody: field.custody,
            campaign: field.campaign.0.to_be_bytes(),
            start: BroadcastStart {
                bk_enc,
                bk_mac,
                counter: field.counter,
                chaining: field.chaining,
            },
        })
    }

    /// The key set that the channel keeps, if it is for this campaign.
    fn kept_key_set(&mut self, custody: Custody, campaign: Campaign) -> Result<KeptKeySet, Refusal> {
        let refused = Refusal(StatusWord::CONDITIONS_NOT_SATISFIED);
        if self.context.system.secure.any_broadcast() {
            return Err(refused);
        }
        self.individual_channel()?;
        let kept = self.open_channel().and_then(|open| open.kept.set());
        let kept = kept
            .filter(|kept| kept.custody == custody && kept.campaign == campaign.0.to_be_bytes())
            .ok_or(refused)?;
        Ok(KeptKeySet {
            custody,
            campaign: kept.campaign,
            start: kept.start.clone(),
        })
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

    fn begin(&mut self, set: KeptKeySet) -> Result<ModeChange, Refusal> {
        let KeptKeySet {
            custody,
            campaign,
            start,
        } = set;
        let mut resume_check = [0; 8];
        kdf_label(&start.bk_mac, LABEL_RESUME, &campaign, &mut resume_check);
        let kos = match custody {
            Custody::DesignSystem => None,
            Custody::Hsm => Some(self.keys().single_aes(KVN_KOS)?),
        };
        let begin = BroadcastBegin {
            campaign: Campaign(u64::from_be_bytes(campaign)),
            custody,
            resume_check,
            bk_mac: start.bk_mac.clone(),
            kos,
        };
        let (loader, mut nvm) = self.loader();
        let resume = loader.begin_broadcast(&mut nvm, begin)?;
        Ok(ModeChange::Broadcast { start, resume })
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

    /// AUTHORIZE ACTION; appends the receipt to the answer. A refusal is kept as well.
    ///
    /// # Errors
    /// The status words of broadcast update, 2.5.
    pub fn authorize_action(&mut self, command: &AuthorizeAction, out: &mut Writer<'_>) -> Outcome {
        self.individual_channel()?;
        let proof = self.context.authenticated().ok_or(not_authenticated())?;
        let sequence_counter = proof.sequence_counter();
        let authority = Authority {
            se_id: SeId(self.context.se_id()),
            k_aut: self.keys().single_aes(KVN_K_AUT)?,
            k_mac: self.keys().single_aes(KVN_K_MAC).ok(),
            kos: self.keys().single_aes(KVN_KOS).ok(),
            has_pairing_key: self.keys().single_aes(KVN_PAIRING).is_ok(),
            dek: self.open_channel().map(|open| open.dek.clone()),
        };
        let (loader, mut nvm) = self.loader();
        let (action, subject) = loader.subject(&mut nvm, command);
        match loader.authorise(&mut nvm, &authority, command, out) {
            Ok(taken) => {
                if taken == Some(Manifest::KEYS) {
                    // They were unwrapped under the old Kos.
                    self.context.system.secure.forget_key_sets();
                }
                Ok(StatusWord::NO_ERROR)
            }
            Err(sw) => {
                let refused = Refused {
                    action,
                    subject,
                    sequence_counter,
                    sw,
                };
                loader.refuse(&mut nvm, &authority, refused);
                Err(Refusal(sw))
            }
        }
    }

    /// SET PAIRING: pairing data under the platform's key 64. They hold from the end of the command on, and the interfaces whose row is another then are reset behind
    /// its answer.
    ///
    /// # Errors
    /// 6A88 without such a key; else the status words of `docs/spec/routing.md`, 5.
    pub fn set_pairing(&mut self, data: &[u8]) -> Outcome {
        let key = self.keys().single_aes(KVN_PAIRING)?;
        let se_id = self.context.se_id();
        let System {
            pairing, containers, ..
        } = &self.context.system;
        let next = pairing.change(data, (&key, se_id), &mut self.context.records, *containers)?;
        self.context.system.effects.essential = true;
        self.context.system.effects.pairing = Some(next);
        Ok(StatusWord::NO_ERROR)
    }

    /// The value of GET DATA DF24: pairing data, and where they are from.
    ///
    /// # Errors
    /// 6A84.
    pub fn pairing(&mut self, out: &mut Writer<'_>) -> Result<(), Refusal> {
        self.context.system.pairing.object(out)
    }

    /// The value of GET DATA DF25: how often the chip has reset itself.
    ///
    /// # Errors
    /// 6A88 where nothing counts that; 6A84.
    pub fn resets(&mut self, out: &mut Writer<'_>) -> Result<(), Refusal> {
        let none = Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND);
        Ok(self.context.system.profile.resets.ok_or(none)?.encode(out)?)
    }

    /// The value of GET DATA DF20: the active part and how far a broadcast has come.
    ///
    /// # Errors
    /// 6A84.
    pub fn update_state(&mut self, out: &mut Writer<'_>) -> Result<(), Refusal> {
        Ok(self.context.system.loader.state_object(Manifest::OS_PART, out)?)
    }

    /// The value of GET DATA DF22: the same of the design system's keys.
    ///
    /// # Errors
    /// 6A84.
    pub fn key_state(&mut self, out: &mut Writer<'_>) -> Result<(), Refusal> {
        Ok(self.context.system.loader.state_object(Manifest::KEYS, out)?)
    }

    /// The value of GET DATA DF23: the last refusal.
    ///
    /// # Errors
    /// 6A88 when there is none.
    pub fn refusal(&mut self, out: &mut Writer<'_>) -> Result<(), Refusal> {
        let (loader, mut nvm) = self.loader();
        Ok(loader.refusal(&mut nvm, out)?)
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
