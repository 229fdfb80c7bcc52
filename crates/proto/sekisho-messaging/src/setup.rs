//! Opening rolling keys under the master key MKEY, the card's policy, and the refresh of the ratchet.
//!
//! The reader asks for a 16-byte challenge (GET CHALLENGE), which becomes the start of the send sequence counter, so that
//! a recorded opening is worth nothing later. Then it sends one SESSION KEY DECRYPTION command:
//!
//! | field | value |
//! |---|---|
//! | CLA INS | 80 5A |
//! | P1 | mode ([`Mode`]) |
//! | P2 | 00 one key for command and response, 01 separate keys ([`Lanes`]) |
//! | data, all but the ratchet | the keys, concatenated, wrapped under MKEY (RFC 3394) |
//! | data, ratchet | exchanges until a refresh is due (2 bytes), then the reader's ephemeral P-256 key (65 bytes) |
//! | response data, ratchet | the card's ephemeral P-256 key (65 bytes) |
//!
//! In the ratchet MKEY only authenticates: with MKEY and a recording of everything nobody computes a key, because both
//! ephemeral keys are gone. In all other modes MKEY opens everything.

use sekisho_apdu::{CApdu, Cla};
use sekisho_keys::{AesKey, Rng, kdf_label, key_unwrap, key_wrap, sha256};
use zeroize::Zeroizing;

use crate::agreement::{EphemeralKey, PUBLIC_KEY_LEN};
use crate::keys::Keys;
use crate::schedule::{
    Fixed, KeyTable, Lanes, LegacyList, LegacyOperations, LegacyXor, MAX_KEYS, PATENT_OPERATIONS, Ratchet,
    Schedule, ScheduleError,
};
use crate::ssc::Ssc;

/// INS of SESSION KEY DECRYPTION: the session key (group) and operation key group decryption commands of JP 7206869 B2
/// (steps S1, S41, S81), and the opening of the ratchet. CLA 80.
pub const INS_SESSION_KEY_DECRYPTION: u8 = 0x5A;
/// INS of REFRESH KEYS, sent inside secure messaging. CLA 80.
pub const INS_REFRESH: u8 = 0x5C;
/// Length of the card's challenge.
pub const CHALLENGE_LEN: usize = 16;
/// Exchanges after which a refresh is due, unless the reader asks for fewer.
pub const DEFAULT_REFRESH_EVERY: u16 = 256;
/// Longest data field of SESSION KEY DECRYPTION: [`MAX_KEYS`] keys and the integrity block of RFC 3394.
pub const MAX_OPENING_DATA: usize = 16 * MAX_KEYS + WRAP_OVERHEAD;

const WRAP_OVERHEAD: usize = 8;
const RATCHET_DATA_LEN: usize = 2 + PUBLIC_KEY_LEN;
const LABEL_AUTHENTICATE: &[u8] = b"sekisho sm agree";
const LABEL_OPEN: &[u8] = b"sekisho sm open";
const LABEL_REFRESH: &[u8] = b"sekisho sm fresh";

/// How the keys roll: P1 of SESSION KEY DECRYPTION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No rolling: the same keys for every exchange.
    Fixed,
    /// Embodiment 1: new = old XOR current.
    LegacyXor,
    /// Embodiment 2: a list of session keys.
    LegacyList,
    /// Embodiment 3: operation keys and three operations.
    LegacyOperations,
    /// The forward-secure ratchet.
    Ratchet,
}

impl Mode {
    /// All modes, the default first.
    pub const ALL: [Self; 5] = [
        Self::Ratchet,
        Self::Fixed,
        Self::LegacyXor,
        Self::LegacyList,
        Self::LegacyOperations,
    ];

    /// P1.
    pub const fn p1(self) -> u8 {
        match self {
            Self::Fixed => 0x00,
            Self::LegacyXor => 0x01,
            Self::LegacyList => 0x02,
            Self::LegacyOperations => 0x03,
            Self::Ratchet => 0x10,
        }
    }

    /// The mode with this P1.
    pub fn from_p1(p1: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.p1() == p1)
    }

    /// The name shown to people; the legacy modes say so.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::LegacyXor => "legacy-xor",
            Self::LegacyList => "legacy-list",
            Self::LegacyOperations => "legacy-operations",
            Self::Ratchet => "ratchet",
        }
    }
}

impl Lanes {
    /// P2.
    pub const fn p2(self) -> u8 {
        match self {
            Self::Shared => 0x00,
            Self::Separate => 0x01,
        }
    }

    const fn from_p2(p2: u8) -> Option<Self> {
        match p2 {
            0x00 => Some(Self::Shared),
            0x01 => Some(Self::Separate),
            _ => None,
        }
    }
}

/// What a security domain lets readers open. By default the ratchet alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Bit 0: legacy-xor, 1: legacy-list, 2: legacy-operations, 3: fixed.
    allowed: u8,
    refresh_every: u16,
}

/// Length of a policy in bytes.
pub const POLICY_LEN: usize = 3;

impl Policy {
    /// The ratchet alone, refreshed at least every [`DEFAULT_REFRESH_EVERY`] exchanges.
    pub const fn new() -> Self {
        Self {
            allowed: 0,
            refresh_every: DEFAULT_REFRESH_EVERY,
        }
    }

    /// Reads a policy: the modes that are allowed beside the ratchet (01 legacy-xor, 02 legacy-list, 04 legacy-operations, 08 fixed), and the
    /// most exchanges without a refresh (2). `None` for other bits, other lengths and no exchanges.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [allowed @ 0x00..=0x0F, high, low] => Some(Self {
                allowed: *allowed,
                refresh_every: u16::from_be_bytes([*high, *low]),
            })
            .filter(|policy| policy.refresh_every > 0),
            _ => None,
        }
    }

    /// The bytes of [`Policy::from_bytes`].
    pub const fn to_bytes(self) -> [u8; POLICY_LEN] {
        let [high, low] = self.refresh_every.to_be_bytes();
        [self.allowed, high, low]
    }

    /// Every mode: for test cards.
    pub const fn every_mode() -> Self {
        Self::new()
            .allow(Mode::Fixed)
            .allow(Mode::LegacyXor)
            .allow(Mode::LegacyList)
            .allow(Mode::LegacyOperations)
    }

    /// Lets a mode in.
    #[must_use]
    pub const fn allow(self, mode: Mode) -> Self {
        Self {
            allowed: self.allowed | Self::bit(mode),
            ..self
        }
    }

    /// The most exchanges that a reader may ask to go without a refresh; at least 1.
    #[must_use]
    pub const fn refresh_every(self, exchanges: u16) -> Self {
        Self {
            refresh_every: if exchanges == 0 { 1 } else { exchanges },
            ..self
        }
    }

    /// Whether this mode may be opened.
    pub const fn allows(&self, mode: Mode) -> bool {
        matches!(mode, Mode::Ratchet) || self.allowed & Self::bit(mode) != 0
    }

    const fn bit(mode: Mode) -> u8 {
        match mode {
            Mode::LegacyXor => 1,
            Mode::LegacyList => 2,
            Mode::LegacyOperations => 4,
            Mode::Fixed => 8,
            Mode::Ratchet => 0,
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::new()
    }
}

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
    /// Response data: the card's ephemeral key for the ratchet, else `None`. Goes out with 9000.
    pub response: Option<[u8; PUBLIC_KEY_LEN]>,
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
    let lanes = Lanes::from_p2(command.p2).ok_or(ScheduleError::NotAllowed)?;
    if !policy.allows(mode) {
        return Err(ScheduleError::NotAllowed);
    }
    let ssc = Ssc::aes(challenge);
    if mode != Mode::Ratchet {
        let schedule = unwrapped_schedule(mkey, mode, lanes, command.data)?;
        return Ok(CardOpened {
            opened: Opened { schedule, ssc },
            response: None,
        });
    }
    let (every, reader_key) = command
        .data
        .split_first_chunk()
        .ok_or(ScheduleError::BadKeyData)?;
    let every = u16::from_be_bytes(*every);
    if every == 0 || every > policy.refresh_every {
        return Err(ScheduleError::NotAllowed);
    }
    let own = EphemeralKey::generate(rng)?;
    let card_key = own.public_key();
    let secret = own.agree(reader_key)?;
    let chain = root(mkey, lanes, challenge, command.data, &card_key, &secret)?;
    let schedule = Schedule::Ratchet(Ratchet::new(chain, lanes, every));
    Ok(CardOpened {
        opened: Opened { schedule, ssc },
        response: Some(card_key),
    })
}

/// Reader: builds SESSION KEY DECRYPTION for any mode but the ratchet into `buf` ([`MAX_OPENING_DATA`] is always enough).
///
/// `keys`: KSenc and KSmac for [`Mode::Fixed`], K0 and K1 for [`Mode::LegacyXor`] (for both twice that with [`Lanes::Separate`], command first),
/// else the list. When the
/// card has answered 9000, [`open_reader`] with the same keys.
pub fn wrapped_command<'b>(
    mkey: &AesKey,
    mode: Mode,
    lanes: Lanes,
    keys: &[[u8; 16]],
    buf: &'b mut [u8],
) -> Result<CApdu<'b>, ScheduleError> {
    let plain = keys.as_flattened();
    let wrapped = buf
        .get_mut(..plain.len() + WRAP_OVERHEAD)
        .ok_or(ScheduleError::BadKeys)?;
    key_wrap(mkey, plain, wrapped).map_err(|_| ScheduleError::BadKeys)?;
    Ok(CApdu::new(Cla::GP, INS_SESSION_KEY_DECRYPTION, mode.p1(), lanes.p2()).with_data(wrapped))
}

/// Reader: the schedule after [`wrapped_command`].
pub fn open_reader(
    mode: Mode,
    lanes: Lanes,
    keys: &[[u8; 16]],
    challenge: [u8; CHALLENGE_LEN],
) -> Result<Opened, ScheduleError> {
    Ok(Opened {
        schedule: schedule_from_keys(mode, lanes, keys)?,
        ssc: Ssc::aes(challenge),
    })
}

fn unwrapped_schedule(
    mkey: &AesKey,
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
    key_unwrap(mkey, wrapped, plain).map_err(|_| ScheduleError::BadKeyData)?;
    match plain.as_chunks() {
        (keys, []) => schedule_from_keys(mode, lanes, keys),
        _ => Err(ScheduleError::BadKeys),
    }
}

fn schedule_from_keys(mode: Mode, lanes: Lanes, keys: &[[u8; 16]]) -> Result<Schedule, ScheduleError> {
    Ok(match mode {
        Mode::Fixed => Schedule::Fixed(fixed_from_keys(lanes, keys)?),
        Mode::LegacyXor => Schedule::LegacyXor(LegacyXor::new(lanes, keys)?),
        Mode::LegacyList => Schedule::LegacyList(LegacyList::new(lanes, KeyTable::new(keys)?)),
        Mode::LegacyOperations => Schedule::LegacyOperations(LegacyOperations::new(
            lanes,
            KeyTable::new(keys)?,
            PATENT_OPERATIONS,
        )?),
        Mode::Ratchet => return Err(ScheduleError::NotAllowed),
    })
}

fn fixed_from_keys(lanes: Lanes, keys: &[[u8; 16]]) -> Result<Fixed, ScheduleError> {
    if keys.contains(&[0; 16]) {
        return Err(ScheduleError::ZeroKey);
    }
    let pair = |enc: &[u8; 16], mac: &[u8; 16]| match enc == mac {
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
    lanes: Lanes,
    refresh_every: u16,
    data: [u8; RATCHET_DATA_LEN],
}

impl RatchetOpening {
    /// Begins, with a fresh ephemeral key. A refresh will be due after `refresh_every` exchanges; the card refuses what
    /// its policy finds too many.
    pub fn new(own: EphemeralKey, lanes: Lanes, refresh_every: u16) -> Self {
        let mut data = [0; RATCHET_DATA_LEN];
        for (place, byte) in data
            .iter_mut()
            .zip(refresh_every.to_be_bytes().into_iter().chain(own.public_key()))
        {
            *place = byte;
        }
        Self {
            own,
            lanes,
            refresh_every,
            data,
        }
    }

    /// The command to send after GET CHALLENGE.
    pub const fn command(&self) -> CApdu<'_> {
        CApdu::new(
            Cla::GP,
            INS_SESSION_KEY_DECRYPTION,
            Mode::Ratchet.p1(),
            self.lanes.p2(),
        )
        .with_data(&self.data)
        .with_ne(256)
    }

    /// The schedule, from the card's response data. A wrong card is found out by the first MAC.
    pub fn finish(
        self,
        mkey: &AesKey,
        challenge: [u8; CHALLENGE_LEN],
        response: &[u8],
    ) -> Result<Opened, ScheduleError> {
        let secret = self.own.agree(response)?;
        let chain = root(mkey, self.lanes, challenge, &self.data, response, &secret)?;
        let schedule = Schedule::Ratchet(Ratchet::new(chain, self.lanes, self.refresh_every));
        Ok(Opened {
            schedule,
            ssc: Ssc::aes(challenge),
        })
    }
}

/// The first chain key, as long as MKEY.
fn root(
    mkey: &AesKey,
    lanes: Lanes,
    challenge: [u8; CHALLENGE_LEN],
    reader_data: &[u8],
    card_key: &[u8],
    secret: &[u8; 32],
) -> Result<AesKey, ScheduleError> {
    let parameters = [Mode::Ratchet.p1(), lanes.p2()];
    let transcript = sha256(&[&parameters, &challenge, reader_data, card_key]);
    let root = combine(LABEL_OPEN, mkey, &transcript, secret);
    let root = root.get(..mkey.as_bytes().len()).ok_or(ScheduleError::BadKeys)?;
    AesKey::new(root).map_err(|_| ScheduleError::BadKeys)
}

/// SHA-256(label || KDF(MKEY, "sekisho sm agree", transcript) || Z || transcript): needs MKEY and the agreement's secret Z.
fn combine(label: &[u8], mkey: &AesKey, transcript: &[u8; 32], secret: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let mut authenticator = Zeroizing::new([0; 32]);
    kdf_label(mkey, LABEL_AUTHENTICATE, transcript, authenticator.as_mut());
    Zeroizing::new(sha256(&[label, authenticator.as_ref(), secret, transcript]))
}

/// Reader: REFRESH KEYS with its ephemeral public key. The answer's data is the card's, for [`refresh_secret`].
pub const fn refresh_command(reader_key: &[u8; PUBLIC_KEY_LEN]) -> CApdu<'_> {
    CApdu::new(Cla::GP, INS_REFRESH, 0, 0)
        .with_data(reader_key)
        .with_ne(256)
}

/// Both: what goes into the ratchet at a refresh. `own` is one's own ephemeral key, `peer` the other's public key.
///
/// The card calls this and its `refresh` before it answers its public key; the reader when it has that answer.
pub fn refresh_secret(
    mkey: &AesKey,
    own: EphemeralKey,
    reader_key: &[u8],
    card_key: &[u8],
) -> Result<Zeroizing<[u8; 32]>, ScheduleError> {
    let peer = if sekisho_keys::ct_eq(&own.public_key(), reader_key) {
        card_key
    } else {
        reader_key
    };
    let secret = own.agree(peer)?;
    let transcript = sha256(&[reader_key, card_key]);
    Ok(combine(LABEL_REFRESH, mkey, &transcript, &secret))
}
