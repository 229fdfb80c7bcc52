//! Scheme `random`, the seed to the letter: `UID_Rand` is a random number, and stands in durable memory before the answer leaves.

use core::fmt;

use sekisho_apdu::{DecodeError, Reader};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::datagram::{Answer, DATAGRAM, Poll, PollTag, Sealer, Uid};
use crate::keys::{PollKey, PollKeys};
use crate::message::Message;
use crate::server::{Loss, Reject, Standing, Tries};

/// Bytes of an [`Entry`].
pub const ENTRY: usize = 49;

const ROLLING: u8 = 0x01;
const HAS_NEXT: u8 = 0x02;

/// What has to be durable of a device: FLAGS (1) | UID1 (16) | UID2 (16) | key of UID1 (16).
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Entry(pub [u8; ENTRY]);

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entry")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// None drawn.
    None,
    /// Drawn; perhaps not written yet.
    Drawn(Uid),
    /// Written.
    Durable(Uid),
}

impl Next {
    const fn uid(self) -> Option<Uid> {
        match self {
            Self::None => None,
            Self::Drawn(uid) | Self::Durable(uid) => Some(uid),
        }
    }
}

/// A device as the server knows it.
#[derive(Clone, Debug)]
pub struct RandomRecord {
    /// Key of the current identity.
    key: PollKey,
    rolls: bool,
    current: Uid,
    next: Next,
    tries: Tries,
}

/// An authentic poll, waiting for its answer.
#[derive(Debug)]
pub struct RandomReceived<'r> {
    record: &'r mut RandomRecord,
    poll: Poll,
    tag: PollTag,
    keys: PollKeys,
    sealer: Sealer,
    standing: Standing,
    loss: Loss,
    left: Option<Uid>,
}

/// An answer, and what must happen before it leaves.
#[derive(Debug)]
pub enum Reply {
    /// Nothing: what it depends on is durable.
    Now([u8; DATAGRAM]),
    /// Its entry must be written.
    AfterWrite(Unwritten),
}

/// An answer that must not leave before its entry is durable.
#[derive(Debug)]
pub struct Unwritten {
    entry: Entry,
    answer: [u8; DATAGRAM],
}

impl Unwritten {
    /// What has to be written.
    pub const fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The answer, now that the entry is durable: where a later restart will find it. On several servers: of as many as can be lost.
    pub fn written(self) -> [u8; DATAGRAM] {
        self.answer
    }
}

impl RandomRecord {
    /// A device at its first identity.
    pub const fn new(uid: Uid, key: PollKey, rolls: bool) -> Self {
        Self {
            key,
            rolls,
            current: uid,
            next: Next::None,
            tries: Tries {
                nonce: [0; 4],
                resend: 0,
                sent: 0,
            },
        }
    }

    /// The identity that the device has proved last.
    pub const fn current(&self) -> Uid {
        self.current
    }

    /// The identity that it has been offered, if there is one.
    pub const fn next(&self) -> Option<Uid> {
        self.next.uid()
    }

    /// What is to be kept.
    pub fn entry(&self) -> Entry {
        let mut entry = Entry([0; ENTRY]);
        let next = self.next.uid();
        let flags = if self.rolls { ROLLING } else { 0 } | if next.is_some() { HAS_NEXT } else { 0 };
        let fields = core::iter::once(&flags)
            .chain(&self.current.0)
            .chain(next.as_ref().map_or(&[0; 16], |next| &next.0))
            .chain(&self.key.0);
        for (to, from) in entry.0.iter_mut().zip(fields) {
            *to = *from;
        }
        entry
    }

    /// The record of an entry read from durable memory.
    ///
    /// # Errors
    /// [`DecodeError`] when no server wrote it.
    pub fn restore(entry: &Entry) -> Result<Self, DecodeError> {
        let mut r = Reader::new(&entry.0);
        let flags = r.u8()?;
        if flags & !(ROLLING | HAS_NEXT) != 0 {
            return Err(DecodeError::Value);
        }
        let current = Uid(r.array()?);
        let next = Uid(r.array()?);
        let key = PollKey(r.array()?);
        r.finish()?;
        let mut record = Self::new(current, key, flags & ROLLING != 0);
        if flags & HAS_NEXT != 0 {
            record.next = Next::Durable(next);
        }
        Ok(record)
    }

    /// The entry has become durable.
    pub fn written(&mut self, entry: &Entry) {
        if let Next::Drawn(uid) = self.next
            && self.entry() == *entry
        {
            self.next = Next::Durable(uid);
        }
    }

    /// Takes a poll that came under the current identity or the one offered.
    ///
    /// # Errors
    /// [`Reject`]; the record is as it was.
    pub fn receive(&mut self, datagram: &[u8]) -> Result<RandomReceived<'_>, Reject> {
        let uid = Uid::of(datagram).ok_or(Reject::Unknown)?;
        let is_next = self.next.uid() == Some(uid);
        if !is_next && uid != self.current {
            return Err(Reject::Stale);
        }
        let keys = self.key.poll_keys();
        let (key, keys) = if is_next && self.rolls {
            let uid_rand = keys.uid_rand(&self.current, &uid);
            let key = self.key.roll(&self.current, &uid_rand);
            let keys = key.poll_keys();
            (Some(key), keys)
        } else {
            (None, keys)
        };
        let mut sealer = Sealer::new(&keys);
        let (_, poll, tag) = sealer.open_poll(datagram).map_err(|_| Reject::BadMac)?;
        let mut left = None;
        if is_next {
            // The device has proved UID2: only now is UID1 given up.
            left = Some(self.current);
            self.current = uid;
            self.next = Next::None;
            self.tries = Tries::default();
            if let Some(key) = key {
                self.key = key;
            }
        }
        let (standing, loss) = self.tries.count(&poll);
        Ok(RandomReceived {
            record: self,
            poll,
            tag,
            keys,
            sealer,
            standing,
            loss,
            left,
        })
    }
}

impl RandomReceived<'_> {
    /// What the device says.
    pub const fn poll(&self) -> &Poll {
        &self.poll
    }

    /// How it stands to the polls before.
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// What it tells about the way.
    pub const fn loss(&self) -> Loss {
        self.loss
    }

    /// The identity that the device has left with this poll: it goes from the index.
    pub const fn left(&self) -> Option<Uid> {
        self.left
    }

    /// The answer. When no next identity has been drawn, `random` gives numbers until one makes an identity that is not `taken`; the caller
    /// enters it into its index ([`RandomRecord::next`]). A resend gets the same one.
    pub fn answer(
        mut self,
        message: Message,
        random: impl FnMut() -> [u8; 16],
        mut taken: impl FnMut(&Uid) -> bool,
    ) -> Reply {
        let uid1 = self.record.current;
        let uid2 = self.record.next.uid().unwrap_or_else(|| {
            let mut random = random;
            loop {
                let uid2 = self.keys.next_uid(&uid1, &random());
                if uid2 != uid1 && !taken(&uid2) {
                    self.record.next = Next::Drawn(uid2);
                    return uid2;
                }
            }
        });
        let answer = Answer {
            message,
            sent: self.record.tries.sent,
            uid_rand: self.keys.uid_rand(&uid1, &uid2),
        };
        let answer = self.sealer.seal_answer(&uid1, &self.tag, &answer);
        match self.record.next {
            Next::Durable(_) => Reply::Now(answer),
            _ => Reply::AfterWrite(Unwritten {
                entry: self.record.entry(),
                answer,
            }),
        }
    }
}
