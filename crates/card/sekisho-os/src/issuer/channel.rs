//! Opening the individual secure channel (Amd D 7.1).

use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_scp::card::{InitializeUpdate, initiate};

use super::SecurityDomain;
use crate::names::EntryId;
use crate::refusal::{Outcome, Refusal};
use crate::registry::{ENTRIES_MAX, Entry, Instance, InterfaceAccess};
use crate::secure::{Kept, KeyRef, OpenChannel, Slot};

/// Longest EXTERNAL AUTHENTICATE: extended header, host cryptogram and C-MAC of 16 bytes each, Le.
const EXTERNAL_AUTHENTICATE_MAX: usize = 7 + 32 + 2;

impl SecurityDomain<'_, '_> {
    /// INITIALIZE UPDATE: ends the secure channel that there was, counts the sequence counter up and answers the card's challenge.
    ///
    /// # Errors
    /// 6985 on an interface on which the domain, or the one above it whose keys are meant, does not answer to strangers; 6A86 for a P2 other than 00; 6A88 without such a key set; 6985 when its sequence counter is used up; 6700 for a host challenge
    /// of the wrong length; 6A84 when too many secure channels are open: of those that are being opened the oldest makes room.
    #[inline(never)]
    pub fn initialize_update(&mut self, capdu: &CApdu<'_>, out: &mut Writer<'_>) -> Outcome {
        let place = self.context.place;
        if !self.context.entry.access.includes(place.interface) {
            return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        self.context.system.secure.end(|p| p == place);
        self.context.system.effects.essential = true;
        let command = InitializeUpdate::parse(capdu)?;
        let (domain, access) = self.opened_by()?;
        // Its counter is that of whose keys they are.
        if !access.includes(place.interface) {
            return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        let kvn = self.keys_of(domain).resolve(command.kvn)?;
        let set = self.keys_of(domain).scp_set(kvn)?;
        let parameter = self.scp_parameter();
        let sequence = if parameter.pseudo_random() {
            if domain == self.context.entry.id {
                self.keys_of(domain).next_sequence(kvn)?
            } else {
                // One of this AID that is gone may have had the values of the domain above.
                let container = self.context.container();
                let used = self.keys_of(domain).highest_gone(container)?;
                self.keys_of(domain).next_sequence_behind(used, kvn)?
            }
        } else {
            0
        };
        let (se_id, aid) = (*self.se_id(), self.aid());
        let rng = &mut *self.context.rng;
        let initiated = initiate(
            &set,
            kvn,
            parameter,
            &se_id,
            sequence,
            &aid,
            command.host_challenge,
            rng,
            out,
        )?;
        let domain = Instance {
            entry: domain,
            ..self.context.instance()
        };
        let secure = &mut self.context.system.secure;
        if secure.begin(place, KeyRef { domain, kvn }, initiated, set.dek) {
            Ok(StatusWord::NO_ERROR)
        } else {
            Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY))
        }
    }

    /// Whose key sets open the domain's secure channel: its own, or while it has none those of the nearest domain above it that has one. The sequence counter
    /// is that one's too, and the challenge is made for this domain's AID. Beside it, where that one answers to strangers.
    fn opened_by(&mut self) -> Result<(EntryId, InterfaceAccess), Refusal> {
        let registry = &self.context.system.container.registry;
        let above = |entry: &&Entry| registry.get(entry.security_domain?);
        let domains = core::iter::successors(Some(self.context.entry), above);
        for domain in domains.take(ENTRIES_MAX) {
            if self.keys_of(domain.id).has_set()? {
                return Ok((domain.id, domain.access));
            }
        }
        Ok((self.context.entry.id, self.context.entry.access))
    }

    /// EXTERNAL AUTHENTICATE: one try for each INITIALIZE UPDATE.
    ///
    /// # Errors
    /// 6985 without INITIALIZE UPDATE before it; 6300 for a wrong host cryptogram, 6982 for a wrong C-MAC.
    #[inline(never)]
    pub fn external_authenticate(&mut self, capdu: &CApdu<'_>) -> Outcome {
        let place = self.context.place;
        let refused = Refusal(StatusWord::CONDITIONS_NOT_SATISFIED);
        let slot = self.context.system.secure.get(place).ok_or(refused)?;
        let Slot::Initiated {
            key, initiated, dek, ..
        } = slot.take()
        else {
            return Err(refused);
        };
        let mut bytes = [0; EXTERNAL_AUTHENTICATE_MAX];
        let mut w = Writer::new(&mut bytes);
        capdu
            .encode(&mut w)
            .map_err(|_| Refusal(StatusWord::WRONG_LENGTH))?;
        let channel = initiated.authenticate(w.written())?;
        let kept = Kept::NOTHING;
        *slot = Slot::Open {
            place,
            key,
            session: OpenChannel { channel, dek, kept },
        };
        Ok(StatusWord::NO_ERROR)
    }

    /// Current security level (GPC Table 10-1, GET DATA 00D3): AUTHENTICATED and the level of EXTERNAL AUTHENTICATE, or 00.
    pub fn security_level(&self) -> u8 {
        self.context
            .authenticated()
            .map_or(0, |proof| 0x80 | proof.level().p1())
    }

    /// Decrypts sensitive data, such as a key of PUT KEY, under the Key-DEK of the key set that opened the channel (Amd D 6.2.8).
    ///
    /// # Errors
    /// 6982 without an open secure channel, 6A80 unless `data` is whole blocks.
    pub fn decrypt_sensitive(&mut self, data: &mut [u8]) -> Result<(), Refusal> {
        let place = self.context.place;
        match self.context.system.secure.get(place) {
            Some(Slot::Open { session, .. }) => Ok(session.channel.decrypt_sensitive(&session.dek, data)?),
            _ => Err(Refusal(StatusWord::SECURITY_STATUS_NOT_SATISFIED)),
        }
    }
}
