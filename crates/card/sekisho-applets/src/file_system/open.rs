//! The way into secure messaging (`docs/spec/rolling-secure-messaging.md`, 3 and 5).

use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_messaging::schedule::ScheduleError;
use sekisho_messaging::setup::{OPENING_ANSWER_MAX, open_card, refresh_secret};
use sekisho_messaging::{EphemeralKey, PUBLIC_KEY_LEN};
use sekisho_os::{Outcome, Refusal};

use super::file::Usage;
use super::{CONDITIONS, WRONG_LENGTH, Work};

/// Number of the MKEY that opens: the nearest from the current DF up.
const MKEY: u8 = 1;

fn refused(error: ScheduleError) -> Refusal {
    Refusal(error.status())
}

impl Work<'_, '_> {
    /// SESSION KEY DECRYPTION. Secure messaging begins behind its answer. Not inlined: it would take its room of the stack of every command.
    #[inline(never)]
    pub(super) fn open_messaging(&mut self, capdu: &CApdu<'_>, out: &mut Writer<'_>) -> Outcome {
        let challenge = self.session.take_challenge().filter(|c| c.len == 16);
        let challenge = challenge.ok_or(CONDITIONS)?.bytes;
        self.context.can_open_messaging()?;
        let file = self.tree.key(self.session.df, Usage::Messaging, MKEY);
        let file = file.ok_or(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND))?;
        let policy = self.context.messaging_policy()?;
        let mkey = self.aes_key(file)?;
        let opened = open_card(&policy, &mkey, challenge, capdu, self.context.rng()).map_err(refused)?;
        out.bytes(opened.answer.write(&mut [0; OPENING_ANSWER_MAX]))?;
        self.context.open_messaging(file.0, opened.opened)?;
        // What was selected in the clear, by whomever, says which MKEY is meant and nothing else.
        self.session.select_df(self.tree.parent(file));
        self.session.messaging_key = Some(file);
        Ok(StatusWord::NO_ERROR)
    }

    /// REFRESH KEYS, under secure messaging. Not inlined, as [`Work::open_messaging`].
    #[inline(never)]
    pub(super) fn refresh_keys(&mut self, reader_key: &[u8], out: &mut Writer<'_>) -> Outcome {
        let file = self.session.messaging_key.filter(|_| self.context.is_messaging());
        let file = file.ok_or(CONDITIONS)?;
        if reader_key.len() != PUBLIC_KEY_LEN {
            return Err(WRONG_LENGTH);
        }
        let mkey = self.aes_key(file)?;
        let own = EphemeralKey::generate(self.context.rng()).map_err(|key| refused(key.into()))?;
        let card_key = own.public_key();
        let secret = refresh_secret(&mkey, own, reader_key, &card_key).map_err(refused)?;
        out.bytes(&card_key)?;
        self.context.refresh_messaging(secret);
        Ok(StatusWord::NO_ERROR)
    }
}
