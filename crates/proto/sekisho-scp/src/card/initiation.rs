//! INITIALIZE UPDATE and EXTERNAL AUTHENTICATE (7.1.1, 7.1.2).

use core::fmt;

use sekisho_apdu::gp::ins;
use sekisho_apdu::{Aid, CApdu, Writer};
use sekisho_keys::{AesKey, CmacKey, KeySet, Rng, ct_eq};

use super::channel::{Proof, SecureChannel};
use super::protection::CommandProtection;
use crate::{MacMode, ScpError, ScpParameter, SecurityLevel};

/// The protocol identifier in the key information (7.1.1.1).
const SCP03: u8 = 0x03;
/// The sequence counter has three bytes (6.2.2.1).
const SEQUENCE_COUNTER_MAX: u32 = 0xFF_FFFF;
/// The counter of the first command after EXTERNAL AUTHENTICATE (6.2.6).
const FIRST_COUNTER: u64 = 1;

/// Derivation constants (Table 4-1).
const CARD_CRYPTOGRAM: u8 = 0x00;
const HOST_CRYPTOGRAM: u8 = 0x01;
const CARD_CHALLENGE: u8 = 0x02;
const S_ENC: u8 = 0x04;
const S_MAC: u8 = 0x06;
const S_RMAC: u8 = 0x07;

/// An INITIALIZE UPDATE command (GPC D.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitializeUpdate<'a> {
    /// Key version number; 00 asks for the default.
    pub kvn: u8,
    /// The host challenge, 8 bytes (S8) or 16 (S16).
    pub host_challenge: &'a [u8],
}

impl<'a> InitializeUpdate<'a> {
    /// Reads the command. Le may be there or not.
    ///
    /// # Errors
    /// [`ScpError::Command`] for another INS, [`ScpError::Parameter`] unless P2 is 00, [`ScpError::Length`] for another challenge.
    pub fn parse(command: &CApdu<'a>) -> Result<Self, ScpError> {
        if command.ins != ins::INITIALIZE_UPDATE {
            return Err(ScpError::Command);
        }
        if command.p2 != 0x00 {
            return Err(ScpError::Parameter);
        }
        if MacMode::from_size(command.data.len()).is_none() {
            return Err(ScpError::Length);
        }
        Ok(Self {
            kvn: command.p1,
            host_challenge: command.data,
        })
    }
}

/// A secure channel that is initiated, not authenticated. It has one try.
pub struct Initiated(Option<Opening>);

#[derive(Clone)]
struct Opening {
    parameter: ScpParameter,
    kvn: u8,
    sequence_counter: u32,
    s_enc: AesKey,
    s_mac: AesKey,
    s_rmac: AesKey,
    host_cryptogram: [u8; 16],
}

impl fmt::Debug for Initiated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiated")
            .field("kvn", &self.0.as_ref().map(|opening| opening.kvn))
            .finish_non_exhaustive()
    }
}

/// Answers INITIALIZE UPDATE: makes the card challenge, the session keys and the cryptograms, and appends the response data field to `out`
/// (Table 7-2; no status word).
///
/// `kvn` is the version number of `keys` (never 00), `kdd` the key diversification data, `aid` that of the application that owns the
/// channel. `seq` is the value to use of the sequence counter: already incremented, **and durable**, or a challenge could come twice; it
/// counts only for a pseudo-random challenge. The status word of an error is the answer's.
///
/// # Errors
/// [`ScpError::Length`] when the host challenge does not fit S8 or S16 as `i` says; [`ScpError::CounterExhausted`] when `seq` has more than
/// three bytes; [`ScpError::BufferFull`].
#[allow(clippy::too_many_arguments)] // each is a value of the standard, and no two of the same type can be confused unnoticed
pub fn initiate(
    keys: &KeySet,
    kvn: u8,
    i: ScpParameter,
    kdd: &[u8; 10],
    seq: u32,
    aid: &Aid,
    host_challenge: &[u8],
    rng: &mut dyn Rng,
    out: &mut Writer<'_>,
) -> Result<Initiated, ScpError> {
    let mode = i.mac_mode();
    if host_challenge.len() != mode.size() {
        return Err(ScpError::Length);
    }
    if i.pseudo_random() && seq > SEQUENCE_COUNTER_MAX {
        return Err(ScpError::CounterExhausted);
    }
    let mut challenge_buf = [0; 16];
    let card_challenge = challenge_buf.get_mut(..mode.size()).unwrap_or_default();
    let k_enc = CmacKey::new(&keys.enc);
    if i.pseudo_random() {
        pseudo_random(&k_enc, seq, aid, card_challenge)?;
    } else {
        rng.fill(card_challenge);
    }

    let mut context_buf = [0; 32];
    let mut context = Writer::new(&mut context_buf);
    context.bytes(host_challenge)?;
    context.bytes(card_challenge)?;
    let context = context.written();

    // One expanded key at a time, each made once.
    let s_enc = k_enc.session_key(&keys.enc, S_ENC, context);
    drop(k_enc);
    let k_mac = CmacKey::new(&keys.mac);
    let [s_mac, s_rmac] = [S_MAC, S_RMAC].map(|constant| k_mac.session_key(&keys.mac, constant, context));
    drop(k_mac);
    let under_s_mac = CmacKey::new(&s_mac);
    let [card_cryptogram, host_cryptogram] =
        [CARD_CRYPTOGRAM, HOST_CRYPTOGRAM].map(|constant| cryptogram(&under_s_mac, constant, mode, context));
    drop(under_s_mac);
    let initiated = Opening {
        parameter: i,
        kvn,
        sequence_counter: if i.pseudo_random() { seq } else { 0 },
        s_enc,
        s_rmac,
        host_cryptogram,
        s_mac,
    };

    let start = out.len();
    let response = |out: &mut Writer<'_>| {
        out.bytes(kdd)?;
        out.bytes(&[kvn, SCP03, i.byte()])?;
        out.bytes(card_challenge)?;
        out.bytes(card_cryptogram.get(..mode.size()).unwrap_or_default())?;
        if i.pseudo_random() { out.u24(seq) } else { Ok(()) }
    };
    response(out).inspect_err(|_| out.truncate(start))?;
    Ok(Initiated(Some(initiated)))
}

/// The pseudo-random card challenge (6.2.2.1).
fn pseudo_random(k_enc: &CmacKey, seq: u32, aid: &Aid, challenge: &mut [u8]) -> Result<(), ScpError> {
    let mut context_buf = [0; 3 + 16];
    let mut context = Writer::new(&mut context_buf);
    context.u24(seq)?;
    context.bytes(aid.as_bytes())?;
    let mode = MacMode::from_size(challenge.len()).ok_or(ScpError::Length)?;
    k_enc.kdf_counter(CARD_CHALLENGE, bits(mode), context.written(), challenge);
    Ok(())
}

/// A cryptogram (6.2.2.2, 6.2.2.3); only the leading bytes of the mode's length count.
fn cryptogram(s_mac: &CmacKey, constant: u8, mode: MacMode, context: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    s_mac.kdf_counter(constant, bits(mode), context, &mut out);
    out
}

/// L of a challenge or cryptogram.
const fn bits(mode: MacMode) -> u16 {
    match mode {
        MacMode::S8 => 0x0040,
        MacMode::S16 => 0x0080,
    }
}

impl Initiated {
    /// Takes the opening out of its place, where nothing is left: a mere move would leave its keys behind.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let taken = Self(self.0.clone());
        self.0 = None;
        taken
    }

    /// Checks EXTERNAL AUTHENTICATE, the whole C-APDU as it came. Success or not, there is no second try with these keys.
    ///
    /// # Errors
    /// [`ScpError::Cryptogram`] before [`ScpError::Mac`], as a host with other keys has both wrong; [`ScpError::Command`] for another
    /// command; [`ScpError::Parameter`] for a level that is none or that parameter "i" does not allow; [`ScpError::Length`];
    /// [`ScpError::Closed`] where [`Initiated::take`] has left nothing.
    pub fn authenticate(self, capdu_bytes: &[u8]) -> Result<SecureChannel, ScpError> {
        self.0.ok_or(ScpError::Closed)?.authenticate(capdu_bytes)
    }
}

impl Opening {
    fn authenticate(self, capdu_bytes: &[u8]) -> Result<SecureChannel, ScpError> {
        let command = CApdu::parse(capdu_bytes)?;
        if command.ins != ins::EXTERNAL_AUTHENTICATE {
            return Err(ScpError::Command);
        }
        let level = SecurityLevel::from_p1(command.p1).filter(|level| self.parameter.allows(*level));
        let (Some(level), 0x00) = (level, command.p2) else {
            return Err(ScpError::Parameter);
        };
        let mode = self.parameter.mac_mode();
        if command.data.len() != 2 * mode.size() {
            return Err(ScpError::Length);
        }
        let host_cryptogram = command.data.get(..mode.size()).unwrap_or_default();
        if !ct_eq(
            host_cryptogram,
            self.host_cryptogram.get(..mode.size()).unwrap_or_default(),
        ) {
            return Err(ScpError::Cryptogram);
        }
        // 6.2.3: the chaining value of this command is zero, its own C-MAC the next one.
        let mut protection = CommandProtection {
            enc: self.s_enc,
            mac: self.s_mac,
            mode,
            chaining: [0; 16],
            next_counter: FIRST_COUNTER,
        };
        protection.verify(&command)?;
        Ok(SecureChannel::new(
            protection,
            self.s_rmac,
            Proof::new(level, self.kvn, self.sequence_counter),
        ))
    }
}
