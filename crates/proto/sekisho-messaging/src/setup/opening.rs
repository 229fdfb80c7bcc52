//! SESSION KEY DECRYPTION at both ends.

use sekisho_apdu::{CApdu, Cla};
use sekisho_keys::{AesKey, Rng, cmac, ct_eq, kdf_label, key_unwrap, key_wrap, sha256};
use zeroize::Zeroizing;

use super::{
    CHALLENGE_LEN, CONFIRMATION_LEN, INS_SESSION_KEY_DECRYPTION, MAX_OPENING_DATA, Mode, OPENING_ANSWER_MAX,
    Policy, WRAP_OVERHEAD, lanes_from_p2,
};
use crate::keys::Keys;
use crate::schedule::{
    Fixed, KeyTable, Lanes, LegacyList, LegacyOperations, LegacyPair, MAX_KEYS, PATENT_OPERATIONS, Ratchet,
    Schedule, ScheduleError, TURNS, XOR,
};
use crate::ssc::Ssc;
use crate::{EphemeralKey, PUBLIC_KEY_LEN};

const RATCHET_DATA_LEN: usize = 2 + PUBLIC_KEY_LEN;
const LABEL_WRAP: &[u8] = b"sekisho sm wrap";
const LABEL_AUTHENTICATE: &[u8] = b"sekisho sm agree";
const LABEL_OPEN: &[u8] = b"sekisho sm open";
const LABEL_CONFIRM: &[u8] = b"sekisho sm confirm";

/// Rolling keys just opened: give both to a role.
pub struct Opened {
    /// The schedule, at its first exchange.
    pub schedule: Schedule,
    /// The counter before the first command.
    pub ssc: Ssc,
}

/// The card's answer to SESSION KEY DECRYPTION.
pub struct CardOpened {
    /// What the card goes on with.
    pub opened: Opened,
    /// What goes out with 9000.
    pub answer: OpeningAnswer,
}

/// Response data of SESSION KEY DECRYPTION: for the ratchet the card's ephemeral key, then in every mode the confirmation.
#[derive(Clone, Copy, Debug)]
pub struct OpeningAnswer {
    card_key: [u8; PUBLIC_KEY_LEN],
    has_key: bool,
    confirmation: [u8; CONFIRMATION_LEN],
}

impl OpeningAnswer {
    /// The card's ephemeral key; empty outside the ratchet.
    pub fn card_key(&self) -> &[u8] {
        self.card_key
            .get(..PUBLIC_KEY_LEN * usize::from(self.has_key))
            .unwrap_or_default()
    }

    /// The MAC over the whole opening.
    pub const fn confirmation(&self) -> &[u8; CONFIRMATION_LEN] {
        &self.confirmation
    }

    /// Writes the response data to `out`, which [`OPENING_ANSWER_MAX`] bytes are enough for.
    pub fn write<'o>(&self, out: &'o mut [u8; OPENING_ANSWER_MAX]) -> &'o [u8] {
        let bytes = self.card_key().iter().chain(&self.confirmation);
        let mut len = 0;
        for (place, byte) in out.iter_mut().zip(bytes) {
            *place = *byte;
            len += 1;
        }
        out.get(..len).unwrap_or_default()
    }
}

/// What an opening is bound to from its first byte on: the command's header and the card's challenge.
struct Start {
    /// CLA without the chaining bit, INS, P1, P2.
    header: [u8; 4],
    challenge: [u8; CHALLENGE_LEN],
}

impl Start {
    const fn new(command: &CApdu<'_>, challenge: [u8; CHALLENGE_LEN]) -> Self {
        Self {
            header: [
                command.cla.without_chaining().0,
                command.ins,
                command.p1,
                command.p2,
            ],
            challenge,
        }
    }

    /// The key under which the keys travel, as long as MKEY.
    fn wrapping_key(&self, mkey: &AesKey) -> Result<AesKey, ScheduleError> {
        let mut context = [0; 4 + CHALLENGE_LEN];
        let bytes = self.header.iter().chain(&self.challenge);
        context.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let mut key = Zeroizing::new([0; 32]);
        let key = key
            .get_mut(..mkey.as_bytes().len())
            .ok_or(ScheduleError::BadKeys)?;
        kdf_label(mkey, LABEL_WRAP, &context, key);
        AesKey::new(key).map_err(|_| ScheduleError::BadKeys)
    }

    fn transcript(&self, data: &[u8], card_key: &[u8]) -> [u8; 32] {
        sha256(&[&self.header, &self.challenge, data, card_key])
    }
}

/// Confirmation of the modes whose keys travel under MKEY.
fn confirm_wrapped(mkey: &AesKey, transcript: &[u8; 32]) -> [u8; CONFIRMATION_LEN] {
    let mut key = Zeroizing::new([0; 16]);
    kdf_label(mkey, LABEL_CONFIRM, transcript, key.as_mut());
    cmac(&AesKey::aes128(*key), &[transcript])
}

/// Confirmation of the ratchet: needs MKEY and the agreement's secret.
fn confirm_agreed(mkey: &AesKey, transcript: &[u8; 32], secret: &[u8; 32]) -> [u8; CONFIRMATION_LEN] {
    let long = combine(LABEL_CONFIRM, mkey, transcript, secret);
    let (key, _) = long
        .split_first_chunk()
        .map_or((&[0; 16], &[][..]), |split| split);
    cmac(&AesKey::aes128(*key), &[transcript])
}

/// Card: carries out SESSION KEY DECRYPTION. `challenge` is the one just given out, and is used up whatever the result.
pub fn open_card(
    policy: &Policy,
    mkey: &AesKey,
    challenge: [u8; CHALLENGE_LEN],
    command: &CApdu<'_>,
    rng: &mut dyn Rng,
) -> Result<CardOpened, ScheduleError> {
    let mode = Mode::from_p1(command.p1).ok_or(ScheduleError::NotAllowed)?;
    let lanes = lanes_from_p2(command.p2).ok_or(ScheduleError::NotAllowed)?;
    if !policy.allows(mode) {
        return Err(ScheduleError::NotAllowed);
    }
    let start = Start::new(command, challenge);
    if mode == Mode::Ratchet {
        return open_ratchet(policy, mkey, lanes, &start, command.data, rng);
    }
    let key = start.wrapping_key(mkey)?;
    let schedule = unwrapped_schedule(&key, mode, lanes, command.data)?;
    let transcript = start.transcript(command.data, &[]);
    Ok(CardOpened {
        opened: Opened {
            schedule,
            ssc: Ssc::aes(challenge),
        },
        answer: OpeningAnswer {
            card_key: [0; PUBLIC_KEY_LEN],
            has_key: false,
            confirmation: confirm_wrapped(mkey, &transcript),
        },
    })
}

fn open_ratchet(
    policy: &Policy,
    mkey: &AesKey,
    lanes: Lanes,
    start: &Start,
    data: &[u8],
    rng: &mut dyn Rng,
) -> Result<CardOpened, ScheduleError> {
    let (every, reader_key) = data.split_first_chunk().ok_or(ScheduleError::BadKeyData)?;
    let every = u16::from_be_bytes(*every);
    if !policy.allows_refresh_every(every) {
        return Err(ScheduleError::NotAllowed);
    }
    let own = EphemeralKey::generate(rng)?;
    let card_key = own.public_key();
    let secret = own.agree(reader_key)?;
    let transcript = start.transcript(data, &card_key);
    let chain = root(mkey, &transcript, &secret)?;
    Ok(CardOpened {
        opened: Opened {
            schedule: Schedule::Ratchet(Ratchet::new(chain, lanes, every)),
            ssc: Ssc::aes(start.challenge),
        },
        answer: OpeningAnswer {
            card_key,
            has_key: true,
            confirmation: confirm_agreed(mkey, &transcript, &secret),
        },
    })
}

/// Reader: an opening in any mode but the ratchet, whose keys travel under a key from MKEY, mode, lanes and challenge.
pub struct KeysOpening {
    /// Without its data.
    command: CApdu<'static>,
    data: [u8; MAX_OPENING_DATA],
    data_len: usize,
    opened: Opened,
    /// What the card must answer.
    confirmation: [u8; CONFIRMATION_LEN],
}

impl KeysOpening {
    /// Wraps `keys` for the card that gave `challenge`, on the logical channel of `cla`, which is [`Cla::GP`] for the basic one.
    ///
    /// `keys`: KSenc and KSmac for [`Mode::Fixed`], K0 and K1 for [`Mode::LegacyXor`] and [`Mode::LegacyTurns`] (for these three twice that with
    /// [`Lanes::Separate`], command first), else the list.
    ///
    /// # Errors
    /// What the card would refuse of the keys, and [`ScheduleError::NotAllowed`] for the ratchet.
    pub fn new(
        mkey: &AesKey,
        (mode, lanes): (Mode, Lanes),
        cla: Cla,
        keys: &[[u8; 16]],
        challenge: [u8; CHALLENGE_LEN],
    ) -> Result<Self, ScheduleError> {
        let schedule = schedule_from_keys(mode, lanes, keys)?;
        let command = CApdu::new(cla, INS_SESSION_KEY_DECRYPTION, mode.p1(), lanes.p2()).with_ne(256);
        let start = Start::new(&command, challenge);
        let plain = keys.as_flattened();
        let mut data = [0; MAX_OPENING_DATA];
        let data_len = plain.len() + WRAP_OVERHEAD;
        let wrapped = data.get_mut(..data_len).ok_or(ScheduleError::BadKeys)?;
        key_wrap(&start.wrapping_key(mkey)?, plain, wrapped).map_err(|_| ScheduleError::BadKeys)?;
        let confirmation = confirm_wrapped(mkey, &start.transcript(wrapped, &[]));
        Ok(Self {
            command,
            data,
            data_len,
            opened: Opened {
                schedule,
                ssc: Ssc::aes(challenge),
            },
            confirmation,
        })
    }

    /// The command to send.
    pub fn command(&self) -> CApdu<'_> {
        let data = self.data.get(..self.data_len).unwrap_or_default();
        CApdu { data, ..self.command }
    }

    /// The schedule, if the card's response data confirms the opening.
    ///
    /// # Errors
    /// [`ScheduleError::NotConfirmed`] when it was not made with this MKEY for this very opening: send nothing more.
    pub fn finish(self, answer: &[u8]) -> Result<Opened, ScheduleError> {
        if ct_eq(&self.confirmation, answer) {
            Ok(self.opened)
        } else {
            Err(ScheduleError::NotConfirmed)
        }
    }
}

fn unwrapped_schedule(
    key: &AesKey,
    mode: Mode,
    lanes: Lanes,
    wrapped: &[u8],
) -> Result<Schedule, ScheduleError> {
    let mut keys = Zeroizing::new([0; 16 * MAX_KEYS]);
    let len = wrapped
        .len()
        .checked_sub(WRAP_OVERHEAD)
        .ok_or(ScheduleError::BadKeyData)?;
    let plain = keys.get_mut(..len).ok_or(ScheduleError::BadKeyData)?;
    key_unwrap(key, wrapped, plain).map_err(|_| ScheduleError::BadKeyData)?;
    match plain.as_chunks() {
        (keys, []) => schedule_from_keys(mode, lanes, keys),
        _ => Err(ScheduleError::BadKeys),
    }
}

fn schedule_from_keys(mode: Mode, lanes: Lanes, keys: &[[u8; 16]]) -> Result<Schedule, ScheduleError> {
    match mode {
        Mode::Fixed => fixed_from_keys(lanes, keys).map(Schedule::Fixed),
        Mode::LegacyXor => LegacyPair::new(XOR, lanes, keys).map(Schedule::LegacyXor),
        Mode::LegacyTurns => LegacyPair::new(TURNS, lanes, keys).map(Schedule::LegacyTurns),
        Mode::LegacyList | Mode::LegacyOperations => of_list(mode, lanes, keys),
        Mode::Ratchet => Err(ScheduleError::NotAllowed),
    }
}

/// The schedules of a list of keys. Not inlined: lists would take their room of the stack of every mode.
#[inline(never)]
fn of_list(mode: Mode, lanes: Lanes, keys: &[[u8; 16]]) -> Result<Schedule, ScheduleError> {
    let table = KeyTable::new(keys)?;
    if mode == Mode::LegacyList {
        return Ok(Schedule::LegacyList(LegacyList::new(lanes, table)));
    }
    LegacyOperations::new(lanes, table, PATENT_OPERATIONS).map(Schedule::LegacyOperations)
}

fn fixed_from_keys(lanes: Lanes, keys: &[[u8; 16]]) -> Result<Fixed, ScheduleError> {
    if keys.iter().any(|key| ct_eq(key, &[0; 16])) {
        return Err(ScheduleError::ZeroKey);
    }
    let pair = |enc: &[u8; 16], mac: &[u8; 16]| match ct_eq(enc, mac) {
        true => Err(ScheduleError::RepeatedKey),
        false => Keys::aes(enc, mac).map_err(|_| ScheduleError::BadKeys),
    };
    match (lanes, keys) {
        (Lanes::Shared, [enc, mac]) => Ok(Fixed::new(pair(enc, mac)?)),
        (Lanes::Separate, [enc, mac, answer_enc, answer_mac]) => {
            Ok(Fixed::separate(pair(enc, mac)?, pair(answer_enc, answer_mac)?))
        }
        _ => Err(ScheduleError::BadKeys),
    }
}

/// Reader: a ratchet being opened.
pub struct RatchetOpening {
    own: EphemeralKey,
    cla: Cla,
    lanes: Lanes,
    refresh_every: u16,
    data: [u8; RATCHET_DATA_LEN],
}

impl RatchetOpening {
    /// Begins, with a fresh ephemeral key, on the logical channel of `cla`, which is [`Cla::GP`] for the basic one. A refresh will be due after
    /// `refresh_every` exchanges; the card refuses what its policy finds too many.
    pub fn new(own: EphemeralKey, lanes: Lanes, cla: Cla, refresh_every: u16) -> Self {
        let mut data = [0; RATCHET_DATA_LEN];
        for (place, byte) in data
            .iter_mut()
            .zip(refresh_every.to_be_bytes().into_iter().chain(own.public_key()))
        {
            *place = byte;
        }
        Self {
            own,
            cla,
            lanes,
            refresh_every,
            data,
        }
    }

    /// The command to send after GET CHALLENGE.
    pub const fn command(&self) -> CApdu<'_> {
        CApdu::new(
            self.cla,
            INS_SESSION_KEY_DECRYPTION,
            Mode::Ratchet.p1(),
            self.lanes.p2(),
        )
        .with_data(&self.data)
        .with_ne(256)
    }

    /// The schedule, if the card's response data confirms the opening.
    ///
    /// # Errors
    /// [`ScheduleError::NotConfirmed`] when it was not made with this MKEY for this very opening: send nothing more.
    /// [`ScheduleError::BadKeyData`] when it holds no point of the curve.
    pub fn finish(
        self,
        mkey: &AesKey,
        challenge: [u8; CHALLENGE_LEN],
        answer: &[u8],
    ) -> Result<Opened, ScheduleError> {
        let (card_key, confirmation) = answer
            .split_at_checked(PUBLIC_KEY_LEN)
            .ok_or(ScheduleError::BadKeyData)?;
        let transcript = Start::new(&self.command(), challenge).transcript(&self.data, card_key);
        let secret = self.own.agree(card_key)?;
        if !ct_eq(&confirm_agreed(mkey, &transcript, &secret), confirmation) {
            return Err(ScheduleError::NotConfirmed);
        }
        let chain = root(mkey, &transcript, &secret)?;
        Ok(Opened {
            schedule: Schedule::Ratchet(Ratchet::new(chain, self.lanes, self.refresh_every)),
            ssc: Ssc::aes(challenge),
        })
    }
}

/// The first chain key, as long as MKEY.
fn root(mkey: &AesKey, transcript: &[u8; 32], secret: &[u8; 32]) -> Result<AesKey, ScheduleError> {
    let root = combine(LABEL_OPEN, mkey, transcript, secret);
    let root = root.get(..mkey.as_bytes().len()).ok_or(ScheduleError::BadKeys)?;
    AesKey::new(root).map_err(|_| ScheduleError::BadKeys)
}

/// SHA-256(label || KDF(MKEY, "sekisho sm agree", transcript) || Z || transcript): needs MKEY and the agreement's secret Z.
pub(super) fn combine(
    label: &[u8],
    mkey: &AesKey,
    transcript: &[u8; 32],
    secret: &[u8; 32],
) -> Zeroizing<[u8; 32]> {
    let mut authenticator = Zeroizing::new([0; 32]);
    kdf_label(mkey, LABEL_AUTHENTICATE, transcript, authenticator.as_mut());
    Zeroizing::new(sha256(&[label, authenticator.as_ref(), secret, transcript]))
}
