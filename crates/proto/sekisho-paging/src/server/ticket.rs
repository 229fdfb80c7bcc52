//! Scheme `ticket`: the identity says where the device stands, so that nothing has to be written before an answer.

use crate::datagram::{Answer, DATAGRAM, Poll, PollTag, Sealer, Uid};
use crate::keys::{Keyspace, PollKey, PollKeys};
use crate::message::{Action, Message};
use crate::server::{Loss, Reject, Standing, Tries};
use crate::ticket::{Ring, Ticket};

/// How many polls a record with a rolling key may be behind its device: the most that a server may lose in a crash, per device.
pub const CATCH_UP_MAX: u64 = 1 << 16;

/// Among how many polls since its own position a server looks for the one at which the epoch changed.
const SWITCH_MAX: u32 = 256;

#[derive(Clone, Debug)]
enum Secret {
    /// One key for a keyspace: kept as working keys.
    Fixed(PollKeys),
    /// A key that changes with each identity, and the identity to which it belongs.
    Rolling(PollKey, Uid),
}

/// A device as the server knows it: under 100 bytes.
#[derive(Clone, Debug)]
pub struct TicketRecord {
    secret: Secret,
    /// Generation and counter of the newest identity that the device has proved. Two halves, so that a table of records need not be aligned to 8.
    generation: u32,
    counter: u32,
    domain: u8,
    tries: Tries,
}

/// What of a record is worth keeping over a restart. It may be old: for a fixed key any age does, for a rolling one up to [`CATCH_UP_MAX`]
/// polls, and its age limits the forward secrecy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The device's keyspace.
    pub keyspace: Keyspace,
    /// Its counter.
    pub counter: u32,
    /// The rolling key with the identity to which it belongs; `None` for a fixed key.
    pub rolling: Option<(PollKey, Uid)>,
}

/// An authentic poll, waiting for its answer.
#[derive(Debug)]
pub struct TicketReceived {
    ticket: Ticket,
    uid: Uid,
    poll: Poll,
    tag: PollTag,
    keys: PollKeys,
    sealer: Sealer,
    sent: u8,
    standing: Standing,
    loss: Loss,
    promoted: bool,
}

impl TicketRecord {
    /// A device with a fixed key, of whose polls nothing is known.
    pub fn fixed(keyspace: Keyspace, key: &PollKey) -> Self {
        Self::at(keyspace, 0, Secret::Fixed(key.poll_keys()))
    }

    /// A device with a rolling key, which belongs to the identity `uid` with this counter.
    pub fn rolling(keyspace: Keyspace, counter: u32, key: PollKey, uid: Uid) -> Self {
        Self::at(keyspace, counter, Secret::Rolling(key, uid))
    }

    /// The record of a checkpoint; `key` is asked for when it has none of its own.
    pub fn restore(checkpoint: &Checkpoint, key: impl FnOnce(Keyspace) -> PollKey) -> Self {
        let secret = match &checkpoint.rolling {
            Some((key, uid)) => Secret::Rolling(key.clone(), *uid),
            None => Secret::Fixed(key(checkpoint.keyspace).poll_keys()),
        };
        Self::at(checkpoint.keyspace, checkpoint.counter, secret)
    }

    fn at(keyspace: Keyspace, counter: u32, secret: Secret) -> Self {
        Self {
            secret,
            generation: keyspace.generation,
            counter,
            domain: keyspace.domain,
            tries: Tries::default(),
        }
    }

    /// What to keep of it.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            keyspace: self.keyspace(),
            counter: self.counter(),
            rolling: match &self.secret {
                Secret::Fixed(_) => None,
                Secret::Rolling(key, uid) => Some((key.clone(), *uid)),
            },
        }
    }

    /// The device's keyspace, as far as it has been proved.
    pub const fn keyspace(&self) -> Keyspace {
        Keyspace {
            domain: self.domain,
            generation: self.generation,
        }
    }

    /// The counter of the newest identity that has been proved.
    pub const fn counter(&self) -> u32 {
        self.counter
    }

    /// [`Ticket::position`] of the newest identity that has been proved.
    pub const fn position(&self) -> u64 {
        (self.generation as u64) << 32 | self.counter as u64
    }

    /// Takes what another server has seen of the device: the higher position wins. With a rolling key only a whole checkpoint helps.
    pub fn merge(&mut self, checkpoint: &Checkpoint, key: impl FnOnce(Keyspace) -> Option<PollKey>) {
        let theirs = u64::from(checkpoint.keyspace.generation) << 32 | u64::from(checkpoint.counter);
        if theirs <= self.position() {
            return;
        }
        match &checkpoint.rolling {
            Some((key, uid)) => self.secret = Secret::Rolling(key.clone(), *uid),
            None if checkpoint.keyspace != self.keyspace() => match key(checkpoint.keyspace) {
                Some(key) => self.secret = Secret::Fixed(key.poll_keys()),
                None => return,
            },
            None => {}
        }
        self.generation = checkpoint.keyspace.generation;
        self.counter = checkpoint.counter;
        self.domain = checkpoint.keyspace.domain;
        self.tries = Tries::default();
    }

    /// Takes a poll with this ticket. `key_of` gives the device's key of another keyspace than the record's: K1 of a fixed key, the chain's
    /// first of a rolling one; `None` when this server does not serve it.
    ///
    /// # Errors
    /// [`Reject`]; the record is as it was.
    pub fn receive(
        &mut self,
        ring: &Ring,
        ticket: &Ticket,
        datagram: &[u8],
        key_of: impl FnOnce(Keyspace) -> Option<PollKey>,
    ) -> Result<TicketReceived, Reject> {
        self.receive_or_recall(ring, ticket, datagram, false, key_of)
    }

    /// The same, also where this is the recall of a device that is to leave its keyspace, a fixed key of which somebody else has. A position in it proves
    /// nothing about the device then, so that it is answered at any of them, and hears that it is to go.
    ///
    /// # Errors
    /// [`Reject`]; the record is as it was.
    pub fn receive_or_recall(
        &mut self,
        ring: &Ring,
        ticket: &Ticket,
        datagram: &[u8],
        recall: bool,
        key_of: impl FnOnce(Keyspace) -> Option<PollKey>,
    ) -> Result<TicketReceived, Reject> {
        let position = ticket.position();
        if position < self.position() && !(recall && self.is_here(ticket)) {
            return Err(Reject::Stale);
        }
        let uid = Uid::of(datagram).ok_or(Reject::Unknown)?;
        let moved = ticket.keyspace != self.keyspace();
        let start = if moved {
            Some(key_of(ticket.keyspace).ok_or(Reject::Unknown)?)
        } else {
            None
        };
        let (keys, rolled) = match (&self.secret, start) {
            (Secret::Fixed(keys), None) => (keys.clone(), None),
            (Secret::Fixed(_), Some(key)) => (key.poll_keys(), None),
            (Secret::Rolling(key, last), None) => {
                let from = (key.clone(), *last, self.counter());
                return self.receive_rolling(ring, ticket, datagram, uid, from);
            }
            (Secret::Rolling(..), Some(key)) => {
                let first = |epoch| {
                    let sealed = ring.epoch(ticket.keyspace.domain, epoch)?;
                    Some(sealed.seal(ticket.index, ticket.keyspace.generation, 0))
                };
                let last = if ticket.counter == 0 {
                    Some(uid)
                } else {
                    first(ticket.epoch)
                };
                let from = (key, last.ok_or(Reject::Unknown)?, 0);
                return self.receive_rolling(ring, ticket, datagram, uid, from);
            }
        };
        self.verify(ticket, datagram, keys, rolled)
    }

    const fn is_here(&self, ticket: &Ticket) -> bool {
        ticket.keyspace.domain == self.domain
            && ticket.keyspace.generation == self.generation
            && matches!(self.secret, Secret::Fixed(_))
    }

    /// Takes a poll under a rolling key: brings the key forward to the identity that came, which is the proof.
    fn receive_rolling(
        &mut self,
        ring: &Ring,
        ticket: &Ticket,
        datagram: &[u8],
        uid: Uid,
        from: (PollKey, Uid, u32),
    ) -> Result<TicketReceived, Reject> {
        let (key, last, counter) = from;
        let steps = ticket.counter.checked_sub(counter).ok_or(Reject::BadMac)?;
        if u64::from(steps) > CATCH_UP_MAX {
            return Err(Reject::BadMac);
        }
        // Epochs of identities never go back, so those between are of the old epoch up to some step and of the ticket's from there on. Mostly
        // there was no change, or it is behind or ahead of all of them.
        let old = ring.open(&last).map_or(ticket.epoch, |last| last.epoch);
        let search = if old == ticket.epoch {
            0
        } else {
            steps.min(SWITCH_MAX)
        };
        let switches = [0, steps].into_iter().chain(1..search);
        for switch in switches.take(if old == ticket.epoch { 1 } else { usize::MAX }) {
            let epochs = (old, switch, ticket.epoch);
            let Some(key) = catch_up(ring, ticket, uid, (key.clone(), last, counter), epochs) else {
                continue;
            };
            let keys = key.poll_keys();
            match self.verify(ticket, datagram, keys, Some((key, uid))) {
                Err(Reject::BadMac) => {}
                other => return other,
            }
        }
        Err(Reject::BadMac)
    }

    fn verify(
        &mut self,
        ticket: &Ticket,
        datagram: &[u8],
        keys: PollKeys,
        rolled: Option<(PollKey, Uid)>,
    ) -> Result<TicketReceived, Reject> {
        let mut sealer = Sealer::new(&keys);
        let (uid, poll, tag) = sealer.open_poll(datagram).map_err(|_| Reject::BadMac)?;
        let promoted = ticket.position() > self.position();
        if promoted {
            self.secret = match rolled {
                Some((key, uid)) => Secret::Rolling(key, uid),
                None => Secret::Fixed(keys.clone()),
            };
            self.generation = ticket.keyspace.generation;
            self.counter = ticket.counter;
            self.domain = ticket.keyspace.domain;
            self.tries = Tries::default();
        }
        let (standing, loss) = self.tries.count(&poll);
        Ok(TicketReceived {
            ticket: *ticket,
            uid,
            poll,
            tag,
            keys,
            sealer,
            sent: self.tries.sent,
            standing,
            loss,
            promoted,
        })
    }
}

/// The key of the identity `uid` with the ticket's counter, from an earlier one. The identities between are of the first epoch for `switch`
/// steps, and of the second after.
fn catch_up(
    ring: &Ring,
    ticket: &Ticket,
    uid: Uid,
    from: (PollKey, Uid, u32),
    (old, switch, new): (u32, u32, u32),
) -> Option<PollKey> {
    let (mut key, mut last, counter) = from;
    let domain = ticket.keyspace.domain;
    let (old, new) = (ring.epoch(domain, old), ring.epoch(domain, new));
    for (done, step) in (0..).zip(counter..ticket.counter) {
        let next = if step + 1 == ticket.counter {
            uid
        } else {
            let between = if done < switch { old } else { new };
            between?.seal(ticket.index, ticket.keyspace.generation, step + 1)
        };
        let uid_rand = key.poll_keys().uid_rand(&last, &next);
        key = key.roll(&last, &uid_rand);
        last = next;
    }
    Some(key)
}

impl TicketReceived {
    /// What the device says.
    pub const fn poll(&self) -> &Poll {
        &self.poll
    }

    /// The ticket under which it says it.
    pub const fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// How it stands to the polls before.
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// What it tells about the way.
    pub const fn loss(&self) -> Loss {
        self.loss
    }

    /// Whether the device has proved a new identity with it: worth a checkpoint.
    pub const fn promoted(&self) -> bool {
        self.promoted
    }

    /// The answer. A message that moves the device names the keyspace; with generation 0, the domain alone: the generation is the device's next one.
    /// At the last counter of a generation the device is moved to the next one of its own domain, and the message waits.
    ///
    /// # Errors
    /// [`Reject::Exhausted`] when there is no next identity, or the message names a generation that the device has left behind;
    /// [`Reject::Unknown`] when this server has no ticket key of the domain.
    pub fn answer(mut self, ring: &Ring, message: Message) -> Result<[u8; DATAGRAM], Reject> {
        let at = self.ticket;
        let moves_to = match message.action {
            Action::MoveTo(to) if to.generation > at.keyspace.generation => Some(Some(to)),
            Action::MoveTo(to) if to.generation > 0 => Some(None),
            Action::MoveTo(to) => Some(at.keyspace.next(to.domain)),
            _ if at.counter == u32::MAX => Some(at.keyspace.next(at.keyspace.domain)),
            _ => None,
        };
        let (keyspace, counter, message) = match moves_to {
            Some(keyspace) => {
                let keyspace = keyspace.ok_or(Reject::Exhausted)?;
                let order = match message.action {
                    Action::MoveTo(_) => message.order,
                    _ => 0,
                };
                let action = Action::MoveTo(keyspace);
                (keyspace, 0, Message { order, action })
            }
            None => (at.keyspace, at.counter.saturating_add(1), message),
        };
        let issuing = ring.issuing(keyspace.domain).ok_or(Reject::Unknown)?;
        // Another server may issue under a newer epoch already: identities never go back to an older one.
        let goes_back = keyspace.domain == at.keyspace.domain && at.epoch > issuing.epoch();
        let own = ring.epoch(keyspace.domain, at.epoch).filter(|_| goes_back);
        let issuing = own.unwrap_or(issuing);
        let uid2 = issuing.seal(at.index, keyspace.generation, counter);
        let answer = Answer {
            message,
            sent: self.sent,
            uid_rand: self.keys.uid_rand(&self.uid, &uid2),
        };
        Ok(self.sealer.seal_answer(&self.uid, &self.tag, &answer))
    }
}
