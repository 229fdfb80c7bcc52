//! The two datagrams (`docs/spec/paging.md`, 4): 44 bytes each, an identity and an AES-SIV ciphertext (RFC 5297), nothing in the clear.
//!
//! ```text
//! poll    UID1 (16) | V (16)  | C (12)    AD: UID1          plain: version algorithm resend reason order(4) nonce(4)
//! answer              V' (16) | C' (28)   AD: UID1, V       plain: version sent kind 00 order(4) argument(4) UID_Rand(16)
//! ```
//!
//! V is a MAC over everything (S2V) and the IV at once: the seed's SIG. The answer's names the poll that it belongs to by V, so that it
//! answers this poll and no other, not even the next try of the same identity.

use core::fmt;
use sekisho_apdu::{DecodeError, Reader, Writer};
use sekisho_keys::{Siv, SivError};

use crate::keys::PollKeys;
use crate::message::{Action, Message};

/// Bytes of a poll, and of an answer.
pub const DATAGRAM: usize = 44;
/// The version of the protocol.
pub const VERSION: u8 = 1;
/// AES-SIV-CMAC-256 with subkeys by SP 800-108 and CMAC-AES-128: the one there is.
pub const ALGORITHM: u8 = 1;

const UID: usize = 16;
const TAG: usize = 16;
const POLL_TEXT: usize = 12;
const ANSWER_TEXT: usize = 28;

/// An identity: UID1, UID2 and so on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uid(pub [u8; UID]);

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Uid(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))?;
        f.write_str(")")
    }
}

impl Uid {
    /// The identity that a datagram claims; `None` when its length is not a poll's.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        let datagram: &[u8; DATAGRAM] = datagram.try_into().ok()?;
        datagram.first_chunk().copied().map(Self)
    }
}

/// Why a device polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Reason {
    /// It has been switched on.
    PowerOn,
    /// Its interval is over.
    #[default]
    Periodic,
    /// Something has happened in the device.
    Event,
    /// It has come back over HTTPS.
    Recovered,
    /// A value that this version does not know.
    Unknown(u8),
}

impl Reason {
    /// REASON.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::PowerOn => 0x00,
            Self::Periodic => 0x01,
            Self::Event => 0x02,
            Self::Recovered => 0x03,
            Self::Unknown(value) => value,
        }
    }

    /// The reason of a byte.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0x00 => Self::PowerOn,
            0x01 => Self::Periodic,
            0x02 => Self::Event,
            0x03 => Self::Recovered,
            value => Self::Unknown(value),
        }
    }
}

/// What a poll says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// `Resend_Counter`: how often this identity has been sent before without an answer; stays at 255.
    pub resend: u8,
    /// Why the device polls.
    pub reason: Reason,
    /// Order of the last message that the device has taken, 0 when there was none.
    pub order: u32,
    /// A random number, new for each transmission.
    pub nonce: [u8; 4],
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// MSG.
    pub message: Message,
    /// Sent: which answer to this identity this is, from 1.
    pub sent: u8,
    /// From which, with K1 and UID1, the next identity comes.
    pub uid_rand: [u8; 16],
}

/// A datagram that was not made with the key, or not for this purpose, or says what this version does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAuthentic;

impl fmt::Display for NotAuthentic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the datagram is not authentic")
    }
}

impl core::error::Error for NotAuthentic {}

impl From<SivError> for NotAuthentic {
    fn from(_: SivError) -> Self {
        Self
    }
}

impl From<DecodeError> for NotAuthentic {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

/// The cipher of a device, made once for a poll and its answer.
pub struct Sealer(Siv);

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

/// V of a poll, by which its answer is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollTag(pub(crate) [u8; TAG]);

impl Sealer {
    /// The cipher under a device's working keys.
    pub fn new(keys: &PollKeys) -> Self {
        Self(Siv::new(keys.siv()))
    }

    /// A poll.
    pub fn seal_poll(&mut self, uid: &Uid, poll: &Poll) -> ([u8; DATAGRAM], PollTag) {
        let mut out = [0; DATAGRAM];
        let (head, text) = out.split_at_mut(UID + TAG);
        let mut w = Writer::new(text);
        // The buffer is as long as what is written; nothing can fail.
        let _ = w.bytes(&[VERSION, ALGORITHM, poll.resend, poll.reason.to_byte()]);
        let _ = w.u32(poll.order);
        let _ = w.bytes(&poll.nonce);
        let tag = self.0.seal(&[&uid.0], text);
        let (uid_out, tag_out) = head.split_at_mut(UID);
        uid_out.copy_from_slice(&uid.0);
        tag_out.copy_from_slice(&tag);
        (out, PollTag(tag))
    }

    /// What an authentic poll says.
    ///
    /// # Errors
    /// [`NotAuthentic`] when it is not, or is of another version or algorithm.
    pub fn open_poll(&mut self, datagram: &[u8]) -> Result<(Uid, Poll, PollTag), NotAuthentic> {
        let mut r = Reader::new(datagram);
        let uid = Uid(r.array()?);
        let tag: [u8; TAG] = r.array()?;
        let mut text: [u8; POLL_TEXT] = r.array()?;
        r.finish()?;
        self.0.open(&[&uid.0], &mut text, &tag)?;
        let mut r = Reader::new(&text);
        if r.array()? != [VERSION, ALGORITHM] {
            return Err(NotAuthentic);
        }
        let poll = Poll {
            resend: r.u8()?,
            reason: Reason::from_byte(r.u8()?),
            order: r.u32()?,
            nonce: r.array()?,
        };
        Ok((uid, poll, PollTag(tag)))
    }

    /// The answer to the poll whose tag this is.
    pub fn seal_answer(&mut self, uid: &Uid, poll: &PollTag, answer: &Answer) -> [u8; DATAGRAM] {
        let mut out = [0; DATAGRAM];
        let (head, text) = out.split_at_mut(TAG);
        let (kind, argument) = answer.message.action.parts();
        let mut w = Writer::new(text);
        // As above.
        let _ = w.bytes(&[VERSION, answer.sent, kind, 0]);
        let _ = w.u32(answer.message.order);
        let _ = w.u32(argument);
        let _ = w.bytes(&answer.uid_rand);
        let tag = self.0.seal(&[&uid.0, &poll.0], text);
        head.copy_from_slice(&tag);
        out
    }

    /// What an authentic answer to this poll says.
    ///
    /// # Errors
    /// [`NotAuthentic`] when it answers anything else.
    pub fn open_answer(
        &mut self,
        uid: &Uid,
        poll: &PollTag,
        datagram: &[u8],
    ) -> Result<Answer, NotAuthentic> {
        let mut r = Reader::new(datagram);
        let tag: [u8; TAG] = r.array()?;
        let mut text: [u8; ANSWER_TEXT] = r.array()?;
        r.finish()?;
        self.0.open(&[&uid.0, &poll.0], &mut text, &tag)?;
        let mut r = Reader::new(&text);
        let [version, sent, kind, reserved] = r.array()?;
        if version != VERSION || reserved != 0 {
            return Err(NotAuthentic);
        }
        let order = r.u32()?;
        let action = Action::from_parts(kind, r.u32()?);
        Ok(Answer {
            message: Message { order, action },
            sent,
            uid_rand: r.array()?,
        })
    }
}
