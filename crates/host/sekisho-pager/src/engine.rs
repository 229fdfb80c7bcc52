//! The engine from outside.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use sekisho_paging::datagram::NotAuthentic;
use sekisho_paging::keys::Keyspace;
use sekisho_paging::recovery::{GRANT, Grant, REQUEST, Request};
use sekisho_paging::server::{Checkpoint, RandomRecord, TicketRecord};
use sekisho_paging::ticket::Ring;

use crate::ahead::Ahead;
use crate::alarms::{Alarm, Network};
use crate::intents::{Intent, Intents};
use crate::journal::{self, Journal};
use crate::settings::{Registration, RootKeys, Scheme, Settings};
use crate::signals::Totals;
use crate::snapshot::{self, SnapshotError};
use crate::socket;
use crate::table::{self, BLOCKED, ROLLING, Slot, State};
use crate::worker::{self, Shared, Worker};

pub use crate::worker::Quality;

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The directory or a thread.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Scheme `random` without a directory.
    #[error("scheme `random` must write before it answers: it needs a directory")]
    NoDirectory,
}

/// Why a recovery is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// Not authentic, or of a device that is not registered.
    #[error("the request is not authentic")]
    NotAuthentic,
    /// The device is blocked.
    #[error("the device is blocked")]
    Blocked,
    /// There is no ticket key, no root or no further generation.
    #[error("this server has no identity to give")]
    NoIdentity,
}

impl From<NotAuthentic> for RecoverError {
    fn from(_: NotAuthentic) -> Self {
        Self::NotAuthentic
    }
}

/// What is known of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceView {
    /// Its SE-id.
    pub se_id: [u8; 10],
    /// Its group.
    pub group: u16,
    /// Its keyspace and counter; `None` in scheme `random`.
    pub at: Option<(Keyspace, u32)>,
    /// Order of the last message that it is done with.
    pub order: u32,
    /// Seconds since 1970 of its last authentic poll; 0 for never.
    pub seen: u32,
    /// Polls of it that were lost.
    pub lost_polls: u16,
    /// Answers to it that were lost.
    pub lost_answers: u16,
    /// Whether it gets no answers.
    pub blocked: bool,
}

/// A running engine. Dropped, it stops and writes its snapshot.
pub struct Engine {
    shared: Arc<Shared>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Reads the snapshot, opens the sockets and starts the workers.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(settings: Settings, roots: Arc<dyn RootKeys>, ring: Ring) -> Result<Self, StartError> {
        if settings.scheme == Scheme::Random && settings.directory.is_none() {
            return Err(StartError::NoDirectory);
        }
        let shared = Arc::new(Shared::new(settings, roots, ring));
        if let Some(directory) = shared.settings.directory.clone() {
            std::fs::create_dir_all(&directory)?;
            load(&shared, &directory)?;
        }
        let (sockets, address) = open_sockets(&shared.settings)?;
        let mut engine = Self {
            shared,
            address,
            threads: Vec::new(),
        };
        for (number, socket) in sockets.into_iter().enumerate() {
            let worker = Worker::new(Arc::clone(&engine.shared), number);
            let core = engine.shared.settings.first_core.map(|first| first + number);
            let thread = std::thread::Builder::new().name(format!("paging-{number}"));
            engine.threads.push(thread.spawn(move || {
                socket::pin(core);
                worker.run(&socket);
            })?);
        }
        engine.start_snapshots()?;
        Ok(engine)
    }

    fn start_snapshots(&mut self) -> io::Result<()> {
        if self.shared.settings.directory.is_none() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("paging-snapshot".to_owned());
        self.threads.push(thread.spawn(move || {
            let mut waited = Duration::ZERO;
            const STEP: Duration = Duration::from_millis(100);
            while !shared.stop.load(Ordering::Relaxed) {
                std::thread::park_timeout(STEP);
                waited += STEP;
                if waited >= shared.settings.snapshot_every {
                    waited = Duration::ZERO;
                    // A failure shows in the age of the snapshot; the next try may do.
                    let _ = checkpoint(&shared);
                }
            }
        })?);
        Ok(())
    }

    /// Where it listens.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Takes other ticket keys. Before a new epoch issues identities, rolling devices' keys are written down
    /// ([`Engine::checkpoint`]).
    pub fn set_ring(&self, ring: Ring) {
        self.shared.ring.store(Arc::new(ring));
    }

    /// Takes devices, or changes of them. What is known of their positions stays.
    pub fn register(&self, registrations: &[Registration]) {
        for registration in registrations {
            self.register_one(registration);
        }
    }

    fn register_one(&self, to: &Registration) {
        if let Some(start) = &to.start {
            self.shared
                .given
                .lock()
                .insert((to.index, to.keyspace), start.clone());
        }
        self.shared.table.set(to.index, to.se_id, |slot| {
            slot.group = to.group;
            slot.flags = if to.rolling { ROLLING } else { 0 } | if to.blocked { BLOCKED } else { 0 };
            match self.shared.settings.scheme {
                Scheme::Ticket => self.register_ticket(slot, to),
                Scheme::Random => self.register_random(slot, to),
            }
        });
    }

    /// A device that is known stays where it is: it proves by polling where it has gone, with the keys that are known of the keyspace.
    fn register_ticket(&self, slot: &mut Slot, to: &Registration) {
        if !matches!(slot.state, State::Empty) {
            return;
        }
        let start = to.start.clone().filter(|_| to.rolling);
        let ring = self.shared.ring.load();
        let uid = ring
            .issuing(to.keyspace.domain)
            .map(|key| key.seal(to.index, to.keyspace.generation, 0));
        slot.state = match (start, uid) {
            (Some(key), Some(uid)) => State::Ticket(TicketRecord::rolling(to.keyspace, 0, key, uid)),
            _ => State::Cold {
                keyspace: to.keyspace,
                counter: 0,
            },
        };
    }

    fn register_random(&self, slot: &mut Slot, to: &Registration) {
        if matches!(slot.state, State::Random(_)) {
            return;
        }
        let key = self
            .shared
            .key_of(to.index, &to.se_id, to.rolling && to.start.is_some(), to.keyspace);
        if let (Some(uid), Some(key)) = (to.uid, key) {
            slot.state = State::Random(RandomRecord::new(uid, key, to.rolling));
            self.shared.index.insert(uid, to.index);
        }
    }

    /// Forgets a device.
    pub fn remove(&self, index: u32) {
        self.shared.table.set(index, [0; 10], |slot| {
            if let State::Random(record) = &slot.state {
                self.shared.index.remove(&record.current());
                record
                    .next()
                    .iter()
                    .for_each(|next| self.shared.index.remove(next));
            }
            slot.state = State::Empty;
        });
    }

    /// Takes a message.
    pub fn post(&self, intent: Intent) {
        self.change_intents(|intents| intents.post(intent));
    }

    /// Takes a message back.
    pub fn withdraw(&self, order: u32) {
        self.change_intents(|intents| intents.withdraw(order));
    }

    fn change_intents(&self, change: impl Fn(&mut Intents)) {
        self.shared.intents.rcu(|held| {
            let mut intents = Intents::clone(held);
            change(&mut intents);
            intents
        });
    }

    /// The last order that was given. Devices that are done with a higher one are ahead of the store; at first those are among them that the snapshot
    /// knows.
    pub fn set_given(&self, order: u32) {
        if self.shared.ahead.set_given(order) != u32::MAX {
            return;
        }
        self.shared.table.each(|index, _, slot| {
            if slot.flags & BLOCKED == 0 {
                self.shared.ahead.hear(index, slot.order);
            }
        });
    }

    /// Devices that are done with an order that was not given: of at most so many as are told apart.
    pub fn ahead(&self) -> Vec<Ahead> {
        self.shared.ahead.devices()
    }

    /// Says that such a device is not followed, or that it may be again.
    pub fn refuse(&self, index: u32, refused: bool) {
        self.shared.ahead.refuse(index, refused);
    }

    /// How many messages wait.
    pub fn intents(&self) -> usize {
        self.shared.intents.load().len()
    }

    /// Answers a recovery request of a device with a fixed key in scheme `ticket`, whose index the registry knows by the SE-id. Nothing changes
    /// here: the device proves its new identity by polling under it.
    ///
    /// # Errors
    /// [`RecoverError`].
    pub fn recover(&self, index: u32, request: &[u8; REQUEST]) -> Result<[u8; GRANT], RecoverError> {
        let se_id = Request::se_id(request)?;
        let known = self.device(index).filter(|device| device.se_id == se_id);
        let device = known.ok_or(RecoverError::NotAuthentic)?;
        let root = self.shared.roots.root(&se_id).ok_or(RecoverError::NoIdentity)?;
        let key = root.recovery_key();
        let asked = Request::open(&key, request)?;
        if device.blocked {
            return Err(RecoverError::Blocked);
        }
        let (here, _) = device.at.ok_or(RecoverError::NoIdentity)?;
        let newest = if here.generation > asked.keyspace.generation {
            here
        } else {
            asked.keyspace
        };
        let domain = self.shared.settings.domain;
        let keyspace = newest.next(domain).ok_or(RecoverError::NoIdentity)?;
        let ring = self.shared.ring.load();
        let issuing = ring.issuing(domain).ok_or(RecoverError::NoIdentity)?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| RecoverError::NoIdentity)?;
        let grant = Grant {
            keyspace,
            uid: issuing.seal(index, keyspace.generation, 0),
            nonce,
        };
        Ok(grant.seal(&key, request))
    }

    /// What is known of a device.
    pub fn device(&self, index: u32) -> Option<DeviceView> {
        let chunks = self.shared.table.view();
        let slot = table::slot(&chunks, index)?.lock();
        if matches!(slot.state, State::Empty) {
            return None;
        }
        let at = slot.checkpoint().map(|at| (at.keyspace, at.counter));
        Some(DeviceView {
            se_id: table::se_id(&chunks, index)?,
            group: slot.group,
            at,
            order: slot.order,
            seen: slot.seen,
            lost_polls: slot.lost_polls,
            lost_answers: slot.lost_answers,
            blocked: slot.flags & BLOCKED != 0,
        })
    }

    /// Takes what other servers have seen of devices: the higher position wins.
    pub fn merge(&self, seen: &[(u32, Checkpoint)]) {
        let chunks = self.shared.table.view();
        for (index, checkpoint) in seen {
            let Some(slot) = table::slot(&chunks, *index) else {
                continue;
            };
            let mut slot = slot.lock();
            let rolling = slot.flags & ROLLING != 0;
            match &mut slot.state {
                State::Ticket(record) => record.merge(checkpoint, |keyspace| {
                    let se_id = table::se_id(&chunks, *index)?;
                    self.shared.key_of(*index, &se_id, rolling, keyspace)
                }),
                State::Cold { keyspace, counter }
                    if (checkpoint.keyspace.generation, checkpoint.counter)
                        > (keyspace.generation, *counter) =>
                {
                    *keyspace = checkpoint.keyspace;
                    *counter = checkpoint.counter;
                }
                _ => {}
            }
        }
    }

    /// Where the devices stand that have polled since a time.
    pub fn positions(&self, since: u32) -> Vec<(u32, Checkpoint)> {
        let mut positions = Vec::new();
        self.shared.table.each(|index, _, slot| {
            if slot.seen >= since
                && let Some(checkpoint) = slot.checkpoint()
            {
                positions.push((index, checkpoint));
            }
        });
        positions
    }

    /// Sums since the start.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.shared
            .seen
            .iter()
            .for_each(|seen| seen.counters.add_to(&mut totals));
        totals
    }

    /// Polls and losses by group and by network.
    pub fn quality(&self) -> (BTreeMap<u16, Quality>, BTreeMap<Network, Quality>) {
        let mut groups = BTreeMap::<u16, Quality>::new();
        let mut networks = BTreeMap::<Network, Quality>::new();
        let add = |to: &mut Quality, from: &Quality| {
            to.polls += from.polls;
            to.lost_polls += from.lost_polls;
            to.lost_answers += from.lost_answers;
        };
        for seen in &self.shared.seen {
            let ways = seen.ways.lock();
            ways.groups
                .iter()
                .for_each(|(group, from)| add(groups.entry(*group).or_default(), from));
            ways.networks
                .iter()
                .for_each(|(network, from)| add(networks.entry(*network).or_default(), from));
        }
        (groups, networks)
    }

    /// What goes wrong now, or did within the hour.
    pub fn alarms(&self) -> Vec<Alarm> {
        let mut watch = self.shared.watch.lock();
        watch.turn(worker::now(), self.shared.settings.alarm_rate);
        let mut alarms: Vec<_> = watch.alarms().collect();
        alarms.sort_by_key(|alarm| std::cmp::Reverse(alarm.rate));
        alarms
    }

    /// Writes the snapshot now; gives its length in bytes, 0 without a directory.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn checkpoint(&self) -> Result<u64, SnapshotError> {
        checkpoint(&self.shared)
    }

    /// Stops the workers and writes the snapshot.
    ///
    /// # Errors
    /// [`SnapshotError`]; the workers have stopped all the same.
    pub fn stop(mut self) -> Result<(), SnapshotError> {
        self.end();
        checkpoint(&self.shared).map(drop)
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}

fn open_sockets(settings: &Settings) -> Result<(Vec<UdpSocket>, SocketAddr), StartError> {
    let listen = |address| socket::open(address).map_err(|error| StartError::Listen(address, error));
    let first = listen(settings.listen)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..settings.threads.max(1) {
        sockets.push(listen(address)?);
    }
    Ok((sockets, address))
}

/// Snapshot, then what the journals have beyond it; then new journals.
fn load(shared: &Shared, directory: &Path) -> Result<(), StartError> {
    let key = &shared.settings.seal_key;
    snapshot::read(directory, key, &shared.table)?;
    if shared.settings.scheme == Scheme::Ticket {
        return Ok(());
    }
    let found = journal::read(directory, key)?;
    apply(shared, found.newest);
    shared.sequence.store(found.last + 1, Ordering::Relaxed);
    shared.table.each(|index, _, slot| {
        if let State::Random(record) = &slot.state {
            shared.index.insert(record.current(), index);
            record
                .next()
                .iter()
                .for_each(|next| shared.index.insert(*next, index));
        }
    });
    shared.generation.store(found.generation, Ordering::Relaxed);
    checkpoint(shared)?;
    Ok(())
}

/// What was written before answers counts, also for devices that no snapshot holds yet: their registration comes again, and finds them.
fn apply(shared: &Shared, newest: HashMap<u32, (u64, sekisho_paging::server::Entry)>) {
    for (index, (_, entry)) in newest {
        if let Ok(record) = RandomRecord::restore(&entry) {
            let se_id = table::se_id(&shared.table.view(), index).unwrap_or_default();
            shared
                .table
                .set(index, se_id, |slot| slot.state = State::Random(record));
        }
    }
}

/// Writes the snapshot. The journals begin anew before it and their old files go after it: whatever they held is in the snapshot, and what is written
/// meanwhile is in the new ones, which are read over it.
fn checkpoint(shared: &Shared) -> Result<u64, SnapshotError> {
    let Some(directory) = &shared.settings.directory else {
        return Ok(0);
    };
    let key = &shared.settings.seal_key;
    if shared.settings.scheme == Scheme::Ticket {
        return snapshot::write(directory, key, &shared.table);
    }
    let generation = shared.generation.fetch_add(1, Ordering::Relaxed) + 1;
    for (worker, place) in shared.journals.iter().enumerate() {
        *place.lock() = Some(Journal::create(directory, key, generation, worker)?);
    }
    let length = snapshot::write(directory, key, &shared.table)?;
    journal::remove_before(directory, generation)?;
    Ok(length)
}
