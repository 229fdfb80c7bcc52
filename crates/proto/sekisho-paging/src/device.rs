//! The device's half: the SecApp's state machine and its one record (`docs/spec/paging.md`, 7).
//!
//! The contract: bytes in, bytes out. [`Device::receive`] changes nothing; it gives an [`Accepted`], whose record the caller makes durable,
//! and [`Device::promote`] takes the proof. Cut anywhere, the device is at UID1 with the server still answering UID1, or at UID2.

use core::fmt;

use sekisho_apdu::{DecodeError, Reader, Writer};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::datagram::{DATAGRAM, Poll, PollTag, Reason, Sealer, Uid};
use crate::keys::{Keyspace, PollKey, Root};
use crate::message::{Action, INTERVAL_MAX, INTERVAL_MIN, Message};

/// Bytes of a [`Record`].
pub const RECORD: usize = 55;
/// How long a device waits for its first answer, in milliseconds.
pub const ANSWER_WAIT_MS: u32 = 2_000;
/// The longest wait between two tries, in milliseconds: an hour.
pub const RETRY_MAX_MS: u32 = 3_600_000;
/// After so many polls without an answer the device also tries the way over HTTPS.
pub const RECOVER_AFTER: u8 = 12;

const FORMAT: u8 = 1;
const FIXED: u8 = 0;
const ROLLING: u8 = 1;

/// What the device keeps: written once for each poll that was answered.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Record(pub [u8; RECORD]);

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Record")
    }
}

/// The key that a device keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceKey {
    /// The root, from which the key of any keyspace comes.
    Fixed(Root),
    /// The key of the current identity alone. The root is not in the device.
    Rolling(PollKey),
}

/// Where a device stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The identity that its next poll carries.
    pub uid: Uid,
    /// Its keyspace.
    pub keyspace: Keyspace,
    /// Its key.
    pub key: DeviceKey,
    /// Order of the last message that is done with.
    pub order: u32,
    /// Polling interval in seconds.
    pub interval: u32,
    /// A message that is still to be acted on.
    pub pending: Option<Message>,
}

impl State {
    /// As the device leaves the factory.
    pub const fn new(uid: Uid, keyspace: Keyspace, key: DeviceKey, interval: u32) -> Self {
        Self {
            uid,
            keyspace,
            key,
            order: 0,
            interval,
            pending: None,
        }
    }

    /// The record: FORMAT (1) | MODE (1) | UID (16) | KEYSPACE (4) | key (16) | ORDER (4) | INTERVAL (4) | pending KIND, ORDER, ARG (9).
    pub fn record(&self) -> Record {
        let mut record = Record([0; RECORD]);
        let (mode, key) = match &self.key {
            DeviceKey::Fixed(root) => (FIXED, root.as_bytes()),
            DeviceKey::Rolling(key) => (ROLLING, key.as_bytes()),
        };
        let pending = self.pending.unwrap_or_default().to_bytes();
        let mut w = Writer::new(&mut record.0);
        // The record is as long as what is written; nothing can fail.
        let _ = w.bytes(&[FORMAT, mode]);
        let _ = w.bytes(&self.uid.0);
        let _ = w.u32(self.keyspace.to_u32());
        let _ = w.bytes(key);
        let _ = w.u32(self.order);
        let _ = w.u32(self.interval);
        let _ = w.bytes(&pending);
        record
    }

    /// The state of a record.
    ///
    /// # Errors
    /// [`DecodeError`] when no device wrote it.
    pub fn restore(record: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(record);
        let [format, mode] = r.array()?;
        let uid = Uid(r.array()?);
        let keyspace = Keyspace::from_u32(r.u32()?);
        let key = r.array()?;
        let key = match (format, mode) {
            (FORMAT, FIXED) => DeviceKey::Fixed(Root::new(key)),
            (FORMAT, ROLLING) => DeviceKey::Rolling(PollKey::new(key)),
            _ => return Err(DecodeError::Value),
        };
        let order = r.u32()?;
        let interval = r.u32()?;
        let pending = Message::read(&mut r)?;
        r.finish()?;
        Ok(Self {
            uid,
            keyspace,
            key,
            order,
            interval: interval.clamp(INTERVAL_MIN, INTERVAL_MAX),
            pending: (pending != Message::NOTHING).then_some(pending),
        })
    }

    fn poll_key(&self) -> PollKey {
        match &self.key {
            DeviceKey::Fixed(root) => root.poll_key(self.keyspace),
            DeviceKey::Rolling(key) => key.clone(),
        }
    }

    /// Takes what a message says, as far as it concerns this record.
    fn take(&mut self, message: Message) {
        if message.order <= self.order {
            return;
        }
        match message.action {
            Action::Nothing | Action::Unknown(..) | Action::MoveTo(_) => self.settle(message.order),
            Action::PollEvery(seconds) => {
                self.interval = seconds;
                self.settle(message.order);
            }
            _ => {
                if self.pending.is_none_or(|held| held.order < message.order) {
                    self.pending = Some(message);
                }
            }
        }
    }

    /// This order, and every one before it, is done with.
    fn settle(&mut self, order: u32) {
        self.order = self.order.max(order);
        if self.pending.is_some_and(|held| held.order <= self.order) {
            self.pending = None;
        }
    }
}

/// An answer that the device does not take. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// No poll is out.
    NotWaiting,
    /// It does not belong to the latest poll, or was not made with the key.
    NotAuthentic,
    /// Sent cannot be right.
    Sent,
    /// It would move the device to where it cannot go.
    Keyspace,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotWaiting => "no poll is waiting for an answer",
            Self::NotAuthentic => "the answer does not belong to the latest poll",
            Self::Sent => "the answer's count cannot be right",
            Self::Keyspace => "the answer would move the device where it cannot go",
        })
    }
}

impl core::error::Error for Refused {}

/// An answer that is good, with what must be durable before it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    state: State,
    message: Message,
    sent: u8,
    /// The poll that it answers.
    tag: PollTag,
}

impl Accepted {
    /// The record to write.
    pub fn record(&self) -> Record {
        self.state.record()
    }

    /// What the server said; nothing, when it repeats what the device is done with.
    pub const fn message(&self) -> Message {
        self.message
    }

    /// Sent: how many answers the server says to have sent to this identity.
    pub const fn sent(&self) -> u8 {
        self.sent
    }

    /// The state after it.
    pub const fn state(&self) -> &State {
        &self.state
    }
}

/// When to poll next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// In milliseconds.
    pub millis: u32,
    /// The device has asked so often in vain that it should also try the way over HTTPS.
    pub recover: bool,
}

/// A device. What is not in its [`State`] is RAM: after a loss of power it begins its tries anew.
#[derive(Clone, Debug)]
pub struct Device {
    state: State,
    /// `Resend_Counter`.
    resend: u8,
    /// The poll that is out.
    out: Option<PollTag>,
}

impl Device {
    /// A device at this state.
    pub const fn new(state: State) -> Self {
        Self {
            state,
            resend: 0,
            out: None,
        }
    }

    /// Where it stands.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// `Resend_Counter`: how often the current identity has been sent again.
    pub const fn resend_counter(&self) -> u8 {
        self.resend
    }

    /// The next poll. Under an identity that has been sent and got no answer it is a resend, which counts `Resend_Counter` up. The nonce is
    /// random, and new each time: only the answer to this very datagram will be accepted.
    pub fn poll(&mut self, reason: Reason, nonce: [u8; 4]) -> [u8; DATAGRAM] {
        if self.out.is_some() {
            self.resend = self.resend.saturating_add(1);
        }
        let poll = Poll {
            resend: self.resend,
            reason,
            order: self.state.order,
            nonce,
        };
        let keys = self.state.poll_key().poll_keys();
        let (datagram, tag) = Sealer::new(&keys).seal_poll(&self.state.uid, &poll);
        self.out = Some(tag);
        datagram
    }

    /// Looks at a datagram. Any number of them may come; what is not the answer to the latest poll is refused and changes nothing.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn receive(&self, datagram: &[u8]) -> Result<Accepted, Refused> {
        let tag = self.out.ok_or(Refused::NotWaiting)?;
        let key = self.state.poll_key();
        let keys = key.poll_keys();
        let uid1 = self.state.uid;
        let answer = Sealer::new(&keys)
            .open_answer(&uid1, &tag, datagram)
            .map_err(|_| Refused::NotAuthentic)?;
        if answer.sent == 0 || answer.sent > self.resend.saturating_add(1) {
            return Err(Refused::Sent);
        }
        let mut state = self.state.clone();
        state.uid = keys.next_uid(&uid1, &answer.uid_rand);
        match (answer.message.action, &mut state.key) {
            (Action::MoveTo(to), DeviceKey::Fixed(_)) if to.generation > state.keyspace.generation => {
                state.keyspace = to;
            }
            (Action::MoveTo(_), _) => return Err(Refused::Keyspace),
            (_, DeviceKey::Rolling(held)) => *held = key.roll(&uid1, &answer.uid_rand),
            _ => {}
        }
        let is_new = answer.message.order > state.order;
        let moves = matches!(answer.message.action, Action::MoveTo(_));
        state.take(answer.message);
        Ok(Accepted {
            state,
            message: if is_new || moves {
                answer.message
            } else {
                Message::NOTHING
            },
            sent: answer.sent,
            tag,
        })
    }

    /// Goes on to the next identity: to be called when [`Accepted::record`] is durable, and not before. An answer to a poll that is no longer
    /// the latest changes nothing.
    pub fn promote(&mut self, accepted: Accepted) {
        if self.out == Some(accepted.tag) {
            *self = Self::new(accepted.state);
        }
    }

    /// The pending message has been acted on: the state to write, which [`Device::settle`] takes when it is durable. `None` when this order
    /// is not the pending one's.
    pub fn settled(&self, order: u32) -> Option<State> {
        self.state.pending.filter(|held| held.order == order)?;
        let mut state = self.state.clone();
        state.settle(order);
        Some(state)
    }

    /// Takes a state from [`Device::settled`] whose record is durable. The poll that is out stays valid.
    pub fn settle(&mut self, state: State) {
        self.state = state;
    }

    /// Takes a state that came by recovery and is durable.
    pub fn recovered(&mut self, state: State) {
        *self = Self::new(state);
    }

    /// How long to wait from now: for the answer if a poll is out, otherwise for the next interval. `random` spreads the devices.
    ///
    /// The wait for an answer doubles with each try up to an hour, between half and one and a half times that; the interval is spread by a
    /// tenth to either side.
    pub fn wait(&self, random: u32) -> Wait {
        if self.out.is_none() {
            let millis = u64::from(self.state.interval) * 1000;
            return Wait {
                millis: spread(millis, millis / 5, random),
                recover: false,
            };
        }
        let doubled = u64::from(ANSWER_WAIT_MS) << self.resend.min(20);
        let wait = doubled.min(u64::from(RETRY_MAX_MS));
        Wait {
            millis: spread(wait, wait, random),
            // A device that has never had an identity asks nobody in vain twelve times.
            recover: self.resend >= RECOVER_AFTER || self.state.uid == Uid::default(),
        }
    }
}

/// A time within `width` around `middle`.
fn spread(middle: u64, width: u64, random: u32) -> u32 {
    let offset = (width * u64::from(random)) >> 32;
    u32::try_from(middle - width / 2 + offset).unwrap_or(u32::MAX)
}
