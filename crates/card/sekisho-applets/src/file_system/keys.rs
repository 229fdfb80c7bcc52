//! PINs and keys: VERIFY, CHANGE REFERENCE DATA, RESET RETRY COUNTER, GET CHALLENGE, EXTERNAL and INTERNAL AUTHENTICATE (ISO/IEC 7816-4, 11.5).
//!
//! A try is counted, in flash, before anything is compared: who cuts the power when he sees that it went wrong has lost the try all the same.

use sekisho_apdu::{StatusWord, Writer};
use sekisho_keys::{AesKey, cmac, ct_eq};
use sekisho_os::{Outcome, Refusal};

use super::access::{Access, INCOMPATIBLE, NO_CURRENT_EF};
use super::command::Reference;
use super::file::{Kind, PIN_MAX, PIN_MIN, Secret, Usage};
use super::layout::Part;
use super::session::Challenge;
use super::tree::{FileNumber, MF};
use super::{CONDITIONS, WRONG_DATA, WRONG_LENGTH, Work};

const NO_KEY: Refusal = Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND);
const BLOCKED: Refusal = Refusal(StatusWord::AUTHENTICATION_METHOD_BLOCKED);

/// Longest data of INTERNAL AUTHENTICATE.
const INTERNAL_DATA_MAX: usize = 64;

impl Work<'_, '_> {
    /// The key file that a command names, with its usage and its number of tries.
    fn key_file(&mut self, key: Reference, usage: Usage) -> Result<(FileNumber, u8), Refusal> {
        let found = if key.specific {
            self.tree.key(self.session.df, usage, key.number)
        } else {
            self.tree.key_in(MF, usage, key.number)
        };
        let file = found.ok_or(NO_KEY)?;
        match self.head(file)?.kind {
            Kind::Key { tries, .. } => Ok((file, tries)),
            _ => Err(NO_KEY),
        }
    }

    fn secret(&mut self, file: FileNumber) -> Result<Secret, Refusal> {
        Secret::read(|out| self.get(file, Part::Secret, out))?.ok_or(NO_KEY)
    }

    /// An AES key of a key file.
    pub(super) fn aes_key(&mut self, file: FileNumber) -> Result<AesKey, Refusal> {
        Ok(AesKey::new(self.secret(file)?.as_bytes())?)
    }

    fn tries_left(&mut self, file: FileNumber) -> Result<u8, Refusal> {
        let mut left = [0];
        self.get(file, Part::Tries, &mut left)?;
        Ok(left[0])
    }

    /// Writes how many tries are left, now.
    fn set_tries(&mut self, file: FileNumber, left: u8) -> Result<(), Refusal> {
        self.put(file, Part::Tries, &[left])?;
        self.context.commit_now()
    }

    /// Spends a try, then compares; a success gives all tries back, in flash, and is remembered then. 63Cx tells how many are left; who spends the
    /// last one wrong takes from everybody what the key had proved.
    fn attempt(
        &mut self,
        (file, tries): (FileNumber, u8),
        mut compare: impl FnMut(&mut Self) -> Result<bool, Refusal>,
    ) -> Outcome {
        let left = self.tries_left(file)?.checked_sub(1).ok_or(BLOCKED)?;
        self.set_tries(file, left)?;
        self.tree.disprove(file, self.session.seat());
        // Both must say so: one may be an instruction that the chip has left out.
        let is_right = compare(self)?;
        if !is_right || !core::hint::black_box(compare(self)?) {
            self.tree.disprove(file, self.session.seat());
            if left == 0 {
                self.revoke(file);
            }
            return Err(Refusal(StatusWord::retries_left(left)));
        }
        self.set_tries(file, tries)?;
        self.tree.prove(file, self.session.seat());
        Ok(StatusWord::NO_ERROR)
    }

    /// Gives a key file another value. Nobody has proved that one.
    fn replace(&mut self, file: FileNumber, value: &[u8]) -> Result<(), Refusal> {
        self.put(file, Part::Secret, value)?;
        self.revoke(file);
        Ok(())
    }

    /// VERIFY; without data it only tells whether the PIN has been proved, or how many tries there are.
    pub(super) fn verify(&mut self, key: Reference, data: &[u8]) -> Outcome {
        let file = self.key_file(key, Usage::Pin)?;
        if !data.is_empty() {
            return self.attempt(file, |work| Ok(work.secret(file.0)?.is_pin(data)));
        }
        if self.tree.is_proved(file.0, self.session.seat()) {
            return Ok(StatusWord::NO_ERROR);
        }
        match self.tries_left(file.0)? {
            0 => Err(BLOCKED),
            left => Err(Refusal(StatusWord::retries_left(left))),
        }
    }

    /// CHANGE REFERENCE DATA: who knows the old PIN may set a new one. Where the old one ends the card alone knows, so that nothing is said of
    /// either before a try is spent on the old one, but what depends on no PIN.
    pub(super) fn change_pin(&mut self, key: Reference, data: &[u8]) -> Outcome {
        let file = self.key_file(key, Usage::Pin)?;
        if !(2 * PIN_MIN..=2 * PIN_MAX).contains(&data.len()) {
            return Err(WRONG_LENGTH);
        }
        let mut new = None;
        self.attempt(file, |work| {
            let secret = work.secret(file.0)?;
            let (old, rest) = data.split_at(secret.as_bytes().len().min(data.len()));
            new = Some(rest);
            Ok(secret.is_pin(old))
        })?;
        let new = new.ok_or(WRONG_LENGTH)?;
        Secret::of(Usage::Pin, new)?;
        self.replace(file.0, new)?;
        Ok(StatusWord::NO_ERROR)
    }

    /// CHANGE REFERENCE DATA without the old value: whoever may update the file.
    pub(super) fn set_key(&mut self, key: Option<Reference>, value: &[u8]) -> Outcome {
        let (file, usage, tries) = self.updatable(key)?;
        Secret::of(usage, value)?;
        self.replace(file, value)?;
        self.put(file, Part::Tries, &[tries])?;
        Ok(StatusWord::NO_ERROR)
    }

    /// RESET RETRY COUNTER: whoever may update the file.
    pub(super) fn reset_retry_counter(&mut self, key: Option<Reference>) -> Outcome {
        let (file, _, tries) = self.updatable(key)?;
        self.put(file, Part::Tries, &[tries])?;
        Ok(StatusWord::NO_ERROR)
    }

    /// The PIN with this number, or the key file that is selected, if its rules allow UPDATE: file, usage and tries.
    fn updatable(&mut self, key: Option<Reference>) -> Result<(FileNumber, Usage, u8), Refusal> {
        let file = match key {
            Some(key) => self.key_file(key, Usage::Pin)?.0,
            None => self.session.ef.ok_or(NO_CURRENT_EF)?,
        };
        let head = self.head(file)?;
        let Kind::Key { usage, tries, .. } = head.kind else {
            return Err(INCOMPATIBLE);
        };
        self.allowed(file, &head, Access::Update)?.still()?;
        Ok((file, usage, tries))
    }

    pub(super) fn get_challenge(&mut self, len: usize, out: &mut Writer<'_>) -> Outcome {
        let mut challenge = Challenge { bytes: [0; 16], len };
        self.context
            .random(challenge.bytes.get_mut(..len).unwrap_or_default());
        out.bytes(challenge.bytes.get(..len).unwrap_or_default())?;
        self.session.give_challenge(challenge);
        Ok(StatusWord::NO_ERROR)
    }

    /// EXTERNAL AUTHENTICATE: AES-CMAC over the challenge, which is used up whatever comes of it.
    pub(super) fn external_authenticate(&mut self, key: Reference, data: &[u8]) -> Outcome {
        let challenge = self.session.take_challenge().ok_or(CONDITIONS)?;
        let file = self.key_file(key, Usage::External)?;
        if data.len() != 16 {
            return Err(WRONG_LENGTH);
        }
        self.attempt(file, |work| {
            let key = work.aes_key(file.0)?;
            let right = cmac(&key, &[challenge.bytes.get(..challenge.len).unwrap_or_default()]);
            Ok(ct_eq(&right, data))
        })
    }

    /// INTERNAL AUTHENTICATE: AES-CMAC over the reader's data.
    pub(super) fn internal_authenticate(
        &mut self,
        key: Reference,
        data: &[u8],
        out: &mut Writer<'_>,
    ) -> Outcome {
        let (file, _) = self.key_file(key, Usage::Internal)?;
        let head = self.head(file)?;
        let allowed = self.allowed(file, &head, Access::Write)?;
        if data.len() > INTERNAL_DATA_MAX {
            return Err(WRONG_DATA);
        }
        let key = self.aes_key(file)?;
        allowed.still()?;
        out.bytes(&cmac(&key, &[data]))?;
        Ok(StatusWord::NO_ERROR)
    }
}
