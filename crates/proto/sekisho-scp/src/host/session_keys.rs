//! Session keys, challenges and cryptograms (6.2.1, 6.2.2).

use core::fmt;

use sekisho_apdu::Aid;
use sekisho_keys::{AesKey, KeySet, cmac, ct_eq, kdf_session_key};

use crate::{MacMode, ScpError};

/// Derivation constants (Table 4-1), also for whoever derives inside a token.
pub mod constant {
    /// Card cryptogram.
    pub const CARD_CRYPTOGRAM: u8 = 0x00;
    /// Host cryptogram.
    pub const HOST_CRYPTOGRAM: u8 = 0x01;
    /// Pseudo-random card challenge.
    pub const CARD_CHALLENGE: u8 = 0x02;
    /// S-ENC.
    pub const S_ENC: u8 = 0x04;
    /// S-MAC.
    pub const S_MAC: u8 = 0x06;
    /// S-RMAC.
    pub const S_RMAC: u8 = 0x07;
}

/// A host or card challenge: 8 bytes (S8) or 16 (S16).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    bytes: [u8; 16],
    mode: MacMode,
}

impl Challenge {
    /// S8 or S16.
    pub const fn mode(&self) -> MacMode {
        self.mode
    }

    /// Its 8 or 16 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.mode.size()).unwrap_or_default()
    }
}

impl TryFrom<&[u8]> for Challenge {
    type Error = ScpError;

    fn try_from(challenge: &[u8]) -> Result<Self, ScpError> {
        let mode = MacMode::from_size(challenge.len()).ok_or(ScpError::Length)?;
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(challenge).for_each(|(to, from)| *to = *from);
        Ok(Self { bytes, mode })
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Challenge ")?;
        self.as_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

/// A host or card cryptogram. Compares in constant time and does not print.
#[derive(Clone)]
pub struct Cryptogram(Challenge);

impl Cryptogram {
    /// Its 8 or 16 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl PartialEq for Cryptogram {
    fn eq(&self, other: &Self) -> bool {
        ct_eq(self.as_bytes(), other.as_bytes())
    }
}

impl Eq for Cryptogram {}

impl TryFrom<&[u8]> for Cryptogram {
    type Error = ScpError;

    fn try_from(bytes: &[u8]) -> Result<Self, ScpError> {
        Challenge::try_from(bytes).map(Self)
    }
}

impl fmt::Debug for Cryptogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cryptogram(..)")
    }
}

/// The keys of one SCP03 session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionKeys {
    /// S-ENC.
    pub s_enc: AesKey,
    /// S-MAC.
    pub s_mac: AesKey,
    /// S-RMAC.
    pub s_rmac: AesKey,
}

impl SessionKeys {
    /// Derives the session keys from static ones. (With a token that keeps the static keys, fill in the fields with what it derives.)
    ///
    /// # Errors
    /// [`ScpError::Length`] when the challenges are not of one mode.
    pub fn derive(
        keys: &KeySet,
        host_challenge: &Challenge,
        card_challenge: &Challenge,
    ) -> Result<Self, ScpError> {
        let (context, len) = context(host_challenge, card_challenge)?;
        let context = context.get(..len).unwrap_or_default();
        Ok(Self {
            s_enc: kdf_session_key(&keys.enc, constant::S_ENC, context),
            s_mac: kdf_session_key(&keys.mac, constant::S_MAC, context),
            s_rmac: kdf_session_key(&keys.mac, constant::S_RMAC, context),
        })
    }

    /// The card cryptogram that a card with these keys answers with.
    ///
    /// # Errors
    /// [`ScpError::Length`] when the challenges are not of one mode.
    pub fn card_cryptogram(
        &self,
        host_challenge: &Challenge,
        card_challenge: &Challenge,
    ) -> Result<Cryptogram, ScpError> {
        self.cryptogram(constant::CARD_CRYPTOGRAM, host_challenge, card_challenge)
    }

    /// The host cryptogram for EXTERNAL AUTHENTICATE.
    ///
    /// # Errors
    /// [`ScpError::Length`] when the challenges are not of one mode.
    pub fn host_cryptogram(
        &self,
        host_challenge: &Challenge,
        card_challenge: &Challenge,
    ) -> Result<Cryptogram, ScpError> {
        self.cryptogram(constant::HOST_CRYPTOGRAM, host_challenge, card_challenge)
    }

    fn cryptogram(
        &self,
        constant: u8,
        host_challenge: &Challenge,
        card_challenge: &Challenge,
    ) -> Result<Cryptogram, ScpError> {
        let (context, len) = context(host_challenge, card_challenge)?;
        let bytes = derive_block(
            &self.s_mac,
            constant,
            host_challenge.mode,
            context.get(..len).unwrap_or_default(),
        );
        Ok(Cryptogram(Challenge {
            bytes,
            mode: host_challenge.mode,
        }))
    }
}

/// `host challenge || card challenge`, and its length.
fn context(host_challenge: &Challenge, card_challenge: &Challenge) -> Result<([u8; 32], usize), ScpError> {
    if host_challenge.mode != card_challenge.mode {
        return Err(ScpError::Length);
    }
    let mut context = [0; 32];
    let both = host_challenge.as_bytes().iter().chain(card_challenge.as_bytes());
    context.iter_mut().zip(both).for_each(|(to, from)| *to = *from);
    Ok((context, 2 * host_challenge.mode.size()))
}

/// One block of the data derivation scheme (4.1.5), written out here and not taken from the card's side.
fn derive_block(key: &AesKey, constant: u8, mode: MacMode, context: &[u8]) -> [u8; 16] {
    let bits = match mode {
        MacMode::S8 => 64,
        MacMode::S16 => 128,
    };
    let fixed = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, constant, 0x00, 0x00, bits, 0x01];
    cmac(key, &[&fixed, context])
}

/// The card challenge that a card with parameter i 10 makes at sequence counter `seq` (6.2.2.1): it lets a whole script be made before the card
/// is there. `aid` is that of the application that owns the secure channel.
///
/// # Errors
/// [`ScpError::CounterExhausted`] when `seq` has more than three bytes.
pub fn pseudo_random_card_challenge(
    k_enc: &AesKey,
    seq: u32,
    aid: &Aid,
    mode: MacMode,
) -> Result<Challenge, ScpError> {
    let [0, a, b, c] = seq.to_be_bytes() else {
        return Err(ScpError::CounterExhausted);
    };
    let mut context = [0; 3 + 16];
    let parts = [a, b, c];
    let both = parts.iter().chain(aid.as_bytes());
    context.iter_mut().zip(both).for_each(|(to, from)| *to = *from);
    let context = context.get(..3 + aid.as_bytes().len()).unwrap_or_default();
    let bytes = derive_block(k_enc, constant::CARD_CHALLENGE, mode, context);
    Challenge::try_from(bytes.get(..mode.size()).unwrap_or_default())
}
