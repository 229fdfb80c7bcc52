//! The path of a poll.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use nix::sys::socket::SockaddrStorage;
use parking_lot::Mutex;
use sekisho_paging::keys::{Keyspace, PollKey};
use sekisho_paging::server::{Entry, Loss, RandomRecord, Reject, Reply, Standing, TicketRecord};
use sekisho_paging::ticket::Ring;
use sekisho_paging::{DATAGRAM, Message, Uid};

use crate::ahead;
use crate::alarms::{Network, Watch};
use crate::intents::Intents;
use crate::journal::Journal;
use crate::settings::{RootKeys, Scheme, Settings};
use crate::signals::{Counters, Signal, Totals};
use crate::socket::{BATCH, Batch, ip};
use crate::table::{self, BLOCKED, Chunks, ROLLING, Slot, State, Table};

/// Answers to the very same datagram: what a network repeats is fewer, and a replayed poll is no amplifier.
const REPEATS_MAX: u8 = 8;
/// Networks whose quality is told apart.
const NETWORKS_MAX: usize = 1 << 16;
/// Polls of scheme `random` that are written together at most.
const GROUP: usize = 1024;
/// Parts of the index of identities, each with a lock of its own.
const PARTS: usize = 256;

type Datagram = [u8; DATAGRAM];

/// Polls and losses of a group or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Quality {
    /// Authentic polls.
    pub polls: u64,
    /// Polls that were lost on their way, by what the devices say.
    pub lost_polls: u64,
    /// Answers that were lost.
    pub lost_answers: u64,
}

impl Quality {
    fn add(&mut self, loss: Loss) {
        self.polls += 1;
        self.lost_polls += u64::from(loss.polls);
        self.lost_answers += u64::from(loss.answers);
    }
}

/// What a worker has seen of the ways.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    pub(crate) groups: HashMap<u16, Quality>,
    pub(crate) networks: HashMap<Network, Quality>,
}

/// What a worker shares with whoever asks.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) counters: Counters,
    pub(crate) ways: Mutex<Ways>,
}

/// Identities of scheme `random`.
pub(crate) struct Index(Box<[Mutex<HashMap<Uid, u32>>]>);

impl Index {
    fn new() -> Self {
        Self((0..PARTS).map(|_| Mutex::default()).collect())
    }

    fn part(&self, uid: &Uid) -> &Mutex<HashMap<Uid, u32>> {
        // Identities are random to whoever chooses them.
        &self.0[usize::from(uid.0[0]) % PARTS]
    }

    pub(crate) fn get(&self, uid: &Uid) -> Option<u32> {
        self.part(uid).lock().get(uid).copied()
    }

    pub(crate) fn insert(&self, uid: Uid, index: u32) {
        self.part(&uid).lock().insert(uid, index);
    }

    pub(crate) fn remove(&self, uid: &Uid) {
        self.part(uid).lock().remove(uid);
    }
}

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) roots: Arc<dyn RootKeys>,
    pub(crate) table: Table,
    pub(crate) ring: ArcSwap<Ring>,
    pub(crate) intents: ArcSwap<Intents>,
    pub(crate) ahead: ahead::Watch,
    pub(crate) index: Index,
    pub(crate) sequence: AtomicU64,
    /// Of the journals.
    pub(crate) generation: AtomicU64,
    pub(crate) seen: Vec<Seen>,
    pub(crate) watch: Mutex<Watch>,
    pub(crate) journals: Vec<Mutex<Option<Journal>>>,
    /// Chain starts of rolling devices that came back by recovery, and keys that a local server was given.
    pub(crate) given: Mutex<std::collections::HashMap<(u32, Keyspace), PollKey>>,
    pub(crate) stop: AtomicBool,
}

/// Seconds since 1970: expiry of messages and the alarms' windows go by the wall clock.
#[allow(clippy::disallowed_methods, reason = "an engine is an edge")]
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl Shared {
    pub(crate) fn new(settings: Settings, roots: Arc<dyn RootKeys>, ring: Ring) -> Self {
        let threads = settings.threads.max(1);
        Self {
            settings,
            roots,
            table: Table::default(),
            ring: ArcSwap::from_pointee(ring),
            intents: ArcSwap::default(),
            ahead: ahead::Watch::default(),
            index: Index::new(),
            sequence: AtomicU64::new(1),
            generation: AtomicU64::new(0),
            seen: (0..threads).map(|_| Seen::default()).collect(),
            watch: Mutex::default(),
            journals: (0..threads).map(|_| Mutex::default()).collect(),
            given: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// A device's key in a keyspace: one that was given, or by its root. A rolling device has no other than those given.
    pub(crate) fn key_of(
        &self,
        index: u32,
        se_id: &[u8; 10],
        rolling: bool,
        keyspace: Keyspace,
    ) -> Option<PollKey> {
        if let Some(key) = self.given.lock().get(&(index, keyspace)) {
            return Some(key.clone());
        }
        if rolling {
            return None;
        }
        Some(self.roots.root(se_id)?.poll_key(keyspace))
    }

    /// Makes a device's record, if it has none yet: its first poll is here.
    fn warm(&self, chunks: &Chunks, index: u32, slot: &mut Slot) -> Option<()> {
        if let State::Cold { keyspace, counter } = slot.state {
            let se_id = table::se_id(chunks, index)?;
            let key = self.key_of(index, &se_id, slot.flags & ROLLING != 0, keyspace)?;
            let checkpoint = sekisho_paging::server::Checkpoint {
                keyspace,
                counter,
                rolling: None,
            };
            slot.state = State::Ticket(TicketRecord::restore(&checkpoint, |_| key));
        }
        Some(())
    }
}

/// The work of a batch, beside the datagrams.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    number: usize,
    random: RandomPool,
}

/// Random numbers from a buffer: a system call for each would cost as much as the rest of a poll's cryptography.
struct RandomPool {
    bytes: Box<[u8; 4096]>,
    used: usize,
}

impl RandomPool {
    fn new() -> Self {
        Self {
            bytes: Box::new([0; 4096]),
            used: 4096,
        }
    }

    fn next(&mut self) -> [u8; 16] {
        if self.used + 16 > self.bytes.len() {
            while getrandom::fill(&mut self.bytes[..]).is_err() {
                std::thread::yield_now();
            }
            self.used = 0;
        }
        let mut out = [0; 16];
        let taken = &mut self.bytes[self.used..self.used + 16];
        out.copy_from_slice(taken);
        taken.fill(0);
        self.used += 16;
        out
    }
}

/// Answers that wait for the end of their batch.
#[derive(Default)]
struct Outbox {
    answers: Vec<Datagram>,
    to: Vec<Option<SockaddrStorage>>,
    /// Entries that must be durable first: of which device.
    entries: Vec<(u32, Entry)>,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, number: usize) -> Self {
        Self {
            shared,
            number,
            random: RandomPool::new(),
        }
    }

    /// Serves until the engine stops.
    pub(crate) fn run(mut self, socket: &UdpSocket) {
        let mut batch = Batch::new();
        let mut outbox = Outbox::default();
        let shared = Arc::clone(&self.shared);
        while !shared.stop.load(Ordering::Relaxed) {
            let Ok(mut count) = batch.receive(socket, true) else {
                continue;
            };
            let mut totals = Totals::default();
            while count > 0 {
                self.serve(&batch, count, &mut outbox, &mut totals);
                let goes_on = count == BATCH && outbox.answers.len() + BATCH <= GROUP;
                if shared.settings.scheme == Scheme::Ticket || !goes_on {
                    break;
                }
                count = batch.receive(socket, false).unwrap_or(0);
            }
            self.write(&mut outbox, &mut totals);
            let sent = batch.send(socket, &outbox.answers, &outbox.to);
            totals.answered += sent as u64;
            totals.bytes_out += (sent * DATAGRAM) as u64;
            outbox.answers.clear();
            outbox.to.clear();
            shared.seen[self.number].counters.add(&totals);
        }
    }

    fn serve(&mut self, batch: &Batch, count: usize, outbox: &mut Outbox, totals: &mut Totals) {
        let shared = Arc::clone(&self.shared);
        let chunks = shared.table.view();
        let ring = shared.ring.load();
        let intents = shared.intents.load();
        let now = now();
        let mut ways = shared.seen[self.number].ways.lock();
        for number in 0..count {
            let datagram = batch.datagram(number);
            totals.bytes_in += datagram.len() as u64;
            let sender = batch.sender(number);
            let poll = Poll {
                datagram,
                now,
                chunks: &chunks,
                ring: &ring,
                intents: &intents,
            };
            let outcome = match shared.settings.scheme {
                Scheme::Ticket => poll.by_ticket(&shared),
                Scheme::Random => poll.by_index(&shared, &mut self.random, &mut outbox.entries),
            };
            match outcome {
                Ok(served) => {
                    served.count(totals);
                    let network = sender.as_ref().and_then(ip).map_or(Network::Many, Network::of);
                    ways.add(network, &served);
                    if let Some(answer) = served.answer {
                        outbox.answers.push(answer);
                        outbox.to.push(sender);
                    }
                }
                Err(signal) => {
                    totals.count(signal);
                    if signal.is_failure() {
                        let network = sender.as_ref().and_then(ip).map_or(Network::Many, Network::of);
                        let rate = shared.settings.alarm_rate;
                        shared.watch.lock().count(network, signal, now, rate);
                    }
                }
            }
        }
    }

    /// Makes the entries durable, or drops every answer of the batch: none leaves whose next identity a restart would not find.
    fn write(&mut self, outbox: &mut Outbox, totals: &mut Totals) {
        if outbox.entries.is_empty() {
            return;
        }
        let mut journal = self.shared.journals[self.number].lock();
        let done = journal.as_mut().is_some_and(|journal| {
            for (index, entry) in &outbox.entries {
                let sequence = self.shared.sequence.fetch_add(1, Ordering::Relaxed);
                journal.append(sequence, *index, entry);
            }
            journal.sync().is_ok()
        });
        drop(journal);
        if done {
            let chunks = self.shared.table.view();
            for (index, entry) in &outbox.entries {
                if let Some(slot) = table::slot(&chunks, *index)
                    && let State::Random(record) = &mut slot.lock().state
                {
                    record.written(entry);
                }
            }
        } else {
            outbox
                .answers
                .iter()
                .for_each(|_| totals.count(Signal::Unwritten));
            outbox.answers.clear();
            outbox.to.clear();
        }
        outbox.entries.clear();
    }
}

/// A datagram and what it is judged by.
struct Poll<'a> {
    datagram: &'a [u8],
    now: u64,
    chunks: &'a Chunks,
    ring: &'a Ring,
    intents: &'a Intents,
}

/// An authentic poll that has been served.
struct Served {
    signal: Signal,
    group: u16,
    loss: Loss,
    promoted: bool,
    message: bool,
    answer: Option<Datagram>,
}

impl Served {
    const fn count(&self, totals: &mut Totals) {
        totals.count(self.signal);
        totals.promoted += self.promoted as u64;
        totals.messages += (self.message && self.answer.is_some()) as u64;
        totals.lost_polls += self.loss.polls as u64;
        totals.lost_answers += self.loss.answers as u64;
    }
}

impl Ways {
    fn add(&mut self, network: Network, served: &Served) {
        self.groups.entry(served.group).or_default().add(served.loss);
        let known = self.networks.len() < NETWORKS_MAX || self.networks.contains_key(&network);
        let network = if known { network } else { Network::Many };
        self.networks.entry(network).or_default().add(served.loss);
    }
}

const fn signal_of(reject: Reject) -> Signal {
    match reject {
        Reject::BadMac => Signal::BadMac,
        Reject::Stale => Signal::Stale,
        Reject::Exhausted => Signal::Exhausted,
        _ => Signal::Unknown,
    }
}

impl Poll<'_> {
    fn by_ticket(&self, shared: &Shared) -> Result<Served, Signal> {
        let uid = Uid::of(self.datagram).ok_or(Signal::Malformed)?;
        let ticket = self.ring.open(&uid).ok_or(Signal::Unknown)?;
        let slot = table::slot(self.chunks, ticket.index).ok_or(Signal::Unknown)?;
        let mut slot = slot.lock();
        shared
            .warm(self.chunks, ticket.index, &mut slot)
            .ok_or(Signal::Unknown)?;
        let rolling = slot.flags & ROLLING != 0;
        let State::Ticket(record) = &mut slot.state else {
            return Err(Signal::Unknown);
        };
        let key_of = |keyspace| {
            let se_id = table::se_id(self.chunks, ticket.index)?;
            shared.key_of(ticket.index, &se_id, rolling, keyspace)
        };
        let at = ticket.keyspace;
        let recall = at.domain != shared.settings.domain
            && self.intents.is_recalled(ticket.index, at.generation, self.now);
        let received = record
            .receive_or_recall(self.ring, &ticket, self.datagram, recall, key_of)
            .map_err(signal_of)?;
        let (standing, loss, promoted) = (received.standing(), received.loss(), received.promoted());
        if promoted {
            // The newest word is the device's, lower as it may be: who had the key of a keyspace that it has left could say anything.
            slot.order = 0;
        }
        let said = (received.poll().order, at.generation);
        let message = self.note(shared, &mut slot, ticket.index, standing, loss, said);
        let answer = match message {
            Ok(message) => Some(received.answer(self.ring, message).map_err(signal_of)?),
            Err(_) => None,
        };
        Ok(served(&slot, standing, loss, promoted, message, answer))
    }

    fn by_index(
        &self,
        shared: &Shared,
        random: &mut RandomPool,
        entries: &mut Vec<(u32, Entry)>,
    ) -> Result<Served, Signal> {
        let uid = Uid::of(self.datagram).ok_or(Signal::Malformed)?;
        let index = shared.index.get(&uid).ok_or(Signal::Unknown)?;
        let slot = table::slot(self.chunks, index).ok_or(Signal::Unknown)?;
        let mut slot = slot.lock();
        let slot = &mut *slot;
        // The record leaves the slot while it is worked on, so that the rest of the slot can be written to.
        let State::Random(mut record) = std::mem::replace(&mut slot.state, State::Empty) else {
            return Err(Signal::Unknown);
        };
        let outcome = self.with_record(shared, slot, &mut record, index, random, entries);
        slot.state = State::Random(record);
        outcome
    }

    fn with_record(
        &self,
        shared: &Shared,
        slot: &mut Slot,
        record: &mut RandomRecord,
        index: u32,
        random: &mut RandomPool,
        entries: &mut Vec<(u32, Entry)>,
    ) -> Result<Served, Signal> {
        let had = record.next();
        let received = record.receive(self.datagram).map_err(signal_of)?;
        let (standing, loss, left) = (received.standing(), received.loss(), received.left());
        let at = (received.poll().order, 0);
        let message = self.note(shared, slot, index, standing, loss, at);
        let answer = match message {
            Ok(message) => {
                let reply = received.answer(message, || random.next(), |uid| shared.index.get(uid).is_some());
                Some(match reply {
                    Reply::Now(answer) => answer,
                    Reply::AfterWrite(unwritten) => {
                        entries.push((index, unwritten.entry().clone()));
                        // Sent by `run` after `write` has made the entry durable, or not at all.
                        unwritten.written()
                    }
                })
            }
            Err(_) => None,
        };
        if let Some(left) = left {
            shared.index.remove(&left);
        }
        if record.next() != had
            && let Some(next) = record.next()
        {
            shared.index.insert(next, index);
        }
        Ok(served(slot, standing, loss, left.is_some(), message, answer))
    }

    /// Writes down what an authentic poll says, and finds what it is told; or why it is told nothing at all.
    fn note(
        &self,
        shared: &Shared,
        slot: &mut Slot,
        index: u32,
        standing: Standing,
        loss: Loss,
        (order, generation): (u32, u32),
    ) -> Result<Message, Signal> {
        slot.order = slot.order.max(order);
        slot.seen = u32::try_from(self.now).unwrap_or(u32::MAX);
        slot.lost_polls = slot.lost_polls.saturating_add(u16::from(loss.polls));
        slot.lost_answers = slot.lost_answers.saturating_add(u16::from(loss.answers));
        slot.repeats = match standing {
            Standing::Repeat => slot.repeats.saturating_add(1),
            _ => 0,
        };
        if slot.flags & BLOCKED != 0 {
            return Err(Signal::Blocked);
        }
        shared.ahead.hear(index, order);
        if slot.repeats > REPEATS_MAX {
            return Err(Signal::Limited);
        }
        Ok(self
            .intents
            .next(index, slot.group, (order, generation), self.now))
    }
}

fn served(
    slot: &Slot,
    standing: Standing,
    loss: Loss,
    promoted: bool,
    message: Result<Message, Signal>,
    answer: Option<Datagram>,
) -> Served {
    let signal = match (message, standing) {
        (Err(signal), _) => signal,
        (_, Standing::First) => Signal::First,
        (_, Standing::Resend) => Signal::Resend,
        (_, Standing::Repeat) => Signal::Repeat,
    };
    Served {
        signal,
        group: slot.group,
        loss,
        promoted,
        message: message.is_ok_and(|message| message != Message::NOTHING),
        answer,
    }
}
