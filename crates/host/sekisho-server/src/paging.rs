//! A paging server: the engine, fed from what the servers share.
//!
//! ```text
//!  PagingStore (SQLite, PostgreSQL) --changes, each half second--> Engine <--UDP--> devices
//!        ^                                                            |
//!        +------- registrations, messages, ticket keys <------ this API
//! ```
//!
//! The database is not in the path of a poll. When it is away, polls go on with what is known.

mod accepted;
mod ahead;
mod domains;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use sekisho_hsm::{Hsm, HsmError};
use sekisho_link::SeId;
pub use sekisho_pager::Scheme;
use sekisho_pager::{Engine, Registration, RootKeys, Settings};
use sekisho_paging::device::{DeviceKey, State};
use sekisho_paging::keys::{Keyspace, PollKey, RecoveryKey, Root};
use sekisho_paging::message::Action;
use sekisho_paging::recovery::{GRANT, Grant, REQUEST, Request};
use sekisho_paging::ticket::{Ring, TicketKey};
use sekisho_store::paging::{Changes, Device, Intent, Node, PagingStore, Target};
use sekisho_store::{Announced, Result as StoreResult, StoreError};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use accepted::accepted;
pub use ahead::Orders;
pub use domains::GivenDomain;

/// How often a node looks for changes.
const LOOK: Duration = Duration::from_millis(500);
/// How long the database may say nothing to a look; what has changed may be a million devices.
const SILENCE: Duration = Duration::from_secs(5);
/// How long reading what has changed may take.
const READING: Duration = Duration::from_secs(60);
/// Failed polls a second, from one network, that are reported as denial of service.
const ALARM_RATE: u32 = 1000;
/// Time between two snapshots.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);
/// Length of the random nonce before what is sealed.
const NONCE: usize = 12;

/// How a paging server is set up.
#[derive(Clone, Debug)]
pub struct PagingConfig {
    /// Where it listens for polls.
    pub listen: SocketAddr,
    /// Worker threads.
    pub threads: usize,
    /// Where identities come from.
    pub scheme: Scheme,
    /// What the servers share: `sqlite:PATH` or `postgres://...`.
    pub database: String,
    /// Snapshot and journal of this server.
    pub directory: Option<PathBuf>,
    /// Domain of this server.
    pub domain: u8,
    /// Its name among the servers.
    pub node: String,
}

/// Why a paging server does not start.
#[derive(Debug, thiserror::Error)]
pub enum PagingError {
    /// The database.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The engine.
    #[error("{0}")]
    Engine(#[from] sekisho_pager::StartError),
    /// The HSM.
    #[error("{0}")]
    Hsm(#[from] HsmError),
    /// What the database holds was sealed by another HSM.
    #[error("the ticket keys in the database were sealed by another HSM")]
    Sealed,
    /// No ticket key issues.
    #[error("the database holds no ticket key to issue under")]
    Ring,
    /// A living server has the name.
    #[error(
        "another server runs under the name {0} on this database; give this one a name of its own (--paging-node)"
    )]
    Name(String),
    /// The database says nothing.
    #[error("the database says nothing")]
    Silent,
    /// A recovery that is refused.
    #[error("{0}")]
    Recover(#[from] sekisho_pager::RecoverError),
}

type Result<T> = std::result::Result<T, PagingError>;

/// What the database says, if it says something in time: behind a network that has gone it never does.
async fn heard<T>(limit: Duration, call: impl Future<Output = StoreResult<T>>) -> Result<T> {
    let heard = tokio::time::timeout(limit, call).await;
    Ok(heard.map_err(|_| PagingError::Silent)??)
}

struct HsmRoots(Arc<dyn Hsm>);

impl RootKeys for HsmRoots {
    fn root(&self, se_id: &[u8; 10]) -> Option<Root> {
        self.0.paging_root(SeId(*se_id)).ok().map(Root::new)
    }
}

/// Opens what the servers share of their keys, with the HSM's paging seal key.
pub fn open_sealed(seal_key: &[u8; 32], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
    let mut plain = Zeroizing::new(sealed.to_vec());
    ChaCha20Poly1305::new(seal_key.into())
        .decrypt_in_place(&(*nonce).into(), b"paging", &mut *plain)
        .ok()?;
    Some(plain)
}

/// A running paging server.
pub struct Paging {
    engine: Engine,
    store: PagingStore,
    hsm: Arc<dyn Hsm>,
    seal_key: Zeroizing<[u8; 32]>,
    config: PagingConfig,
    /// The change up to which it has read.
    read: Mutex<u64>,
    /// Whether the last regular look found no database.
    away: AtomicBool,
    /// Jumps of the orders.
    jumped: ahead::Jumped,
}

impl std::fmt::Debug for Paging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paging")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Paging {
    /// Opens the database, makes the domain's first ticket key if there is none, and starts the engine with all that is there.
    ///
    /// # Errors
    /// [`PagingError`].
    pub async fn start(config: PagingConfig, hsm: Arc<dyn Hsm>) -> Result<Self> {
        let store = PagingStore::open(&config.database).await?;
        let seal_key = hsm.paging_seal_key()?;
        let settings = Settings {
            listen: config.listen,
            threads: config.threads,
            first_core: None,
            scheme: config.scheme,
            domain: config.domain,
            directory: config.directory.clone(),
            seal_key: seal_key.clone(),
            snapshot_every: SNAPSHOT_EVERY,
            alarm_rate: ALARM_RATE,
        };
        let engine = Engine::start(settings, Arc::new(HsmRoots(Arc::clone(&hsm))), Ring::new())?;
        let paging = Self {
            engine,
            store,
            hsm,
            seal_key,
            config,
            read: Mutex::new(0),
            away: AtomicBool::new(false),
            jumped: ahead::Jumped::default(),
        };
        if !paging.config.database.starts_with("sqlite:") {
            paging.check_name().await?;
        }
        let held = paging.store.keys().await?;
        if !held.iter().any(|key| key.domain == paging.config.domain) {
            paging.rotate(paging.config.domain).await?;
        }
        paging.look(0).await?;
        Ok(paging)
    }

    /// Looks for changes until it is dropped. Says once that the database is away, and once that it is back.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let looked = self.look(crate::app::now()).await;
            let was_away = self.away.swap(looked.is_err(), Ordering::Relaxed);
            match looked {
                Err(error) if !was_away => {
                    tracing::warn!(%error, "paging: the database is away; polls go on");
                }
                Ok(()) if was_away => tracing::warn!("paging: the database is back"),
                _ => {}
            }
        }
    }

    /// Whether the last regular look found no database.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Takes what has changed; at `now` other than 0 it also says that it is there, and lets rotations go on.
    ///
    /// # Errors
    /// [`PagingError`].
    pub async fn look(&self, now: u64) -> Result<()> {
        let mut read = self.read.lock().await;
        self.take(&mut read).await?;
        if self.follow().await? {
            self.take(&mut read).await?;
        }
        if now != 0 {
            let node = Node {
                name: self.config.node.clone(),
                domain: self.config.domain,
                seen: now,
                change: *read,
            };
            heard(SILENCE, self.store.see(&node)).await?;
            heard(SILENCE, self.store.issue_ready(now)).await?;
        }
        Ok(())
    }

    async fn take(&self, read: &mut u64) -> Result<()> {
        let (change, order) = heard(SILENCE, self.store.latest()).await?;
        if change < *read {
            tracing::warn!("paging: the database is an older one than it was; it is read anew");
            *read = 0;
        }
        let changes = if change > *read {
            heard(READING, self.store.changes(*read)).await?
        } else {
            Changes {
                upto: *read,
                ..Changes::default()
            }
        };
        if !changes.keys.is_empty() {
            // A new epoch begins: what a rolling key has come to is written down before.
            if let Err(error) = self.engine.checkpoint() {
                tracing::error!(%error, "paging: snapshot");
            }
            self.engine.set_ring(self.ring(&changes.keys)?);
        }
        for devices in changes.devices.chunks(10_000) {
            let registrations: Result<Vec<_>> =
                devices.iter().map(|device| self.registration(device)).collect();
            self.engine.register(&registrations?);
        }
        for intent in &changes.intents {
            if intent.withdrawn {
                self.engine.withdraw(intent.order);
            } else {
                self.engine.post(message(intent));
            }
        }
        *read = changes.upto;
        self.engine.set_given(order);
        Ok(())
    }

    fn ring(&self, keys: &[sekisho_store::paging::TicketKey]) -> Result<Ring> {
        let mut ring = Ring::new();
        for key in accepted(keys) {
            let bytes = self.open(&key.sealed).ok_or(PagingError::Sealed)?;
            let bytes: &[u8; 16] = bytes.as_slice().try_into().map_err(|_| PagingError::Sealed)?;
            let key = TicketKey::new(key.domain, key.epoch, bytes, key.issues);
            ring.add(key).map_err(|_| PagingError::Ring)?;
        }
        Ok(ring)
    }

    fn registration(&self, device: &Device) -> Result<Registration> {
        let keyspace = Keyspace {
            domain: device.domain,
            generation: device.generation,
        };
        let root = || self.hsm.paging_root(device.se_id).map(Root::new);
        let start = match (device.rolling, device.start_key.is_empty()) {
            (false, _) => None,
            (true, true) => Some(root()?.poll_key(keyspace)),
            (true, false) => {
                let bytes = self.open(&device.start_key).ok_or(PagingError::Sealed)?;
                let bytes = bytes.as_slice().try_into().map_err(|_| PagingError::Sealed)?;
                Some(PollKey::new(bytes))
            }
        };
        let uid = match self.config.scheme {
            Scheme::Ticket => None,
            Scheme::Random => Some(root()?.first_uid()),
        };
        Ok(Registration {
            index: device.index,
            se_id: device.se_id.0,
            group: device.group,
            rolling: device.rolling,
            keyspace,
            blocked: device.blocked,
            start,
            uid,
        })
    }

    fn seal(&self, plain: &[u8]) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE];
        self.hsm.random(&mut nonce)?;
        let mut sealed = plain.to_vec();
        ChaCha20Poly1305::new((&*self.seal_key).into())
            .encrypt_in_place(&nonce.into(), b"paging", &mut sealed)
            .map_err(|_| PagingError::Sealed)?;
        Ok([&nonce[..], &sealed].concat())
    }

    fn open(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        open_sealed(&self.seal_key, sealed)
    }

    /// The engine: what it has counted, seen and found wrong.
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The servers that share the database.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn nodes(&self) -> StoreResult<Vec<Node>> {
        self.store.nodes().await
    }

    /// A device of the registry.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn device(&self, se_id: SeId) -> StoreResult<Device> {
        self.store.device(se_id).await
    }

    /// Registers SEs; those that are known stay as they are.
    ///
    /// # Errors
    /// [`PagingError`].
    pub async fn register(&self, se_ids: &[SeId], group: u16, rolling: bool) -> Result<u64> {
        let new = self.store.register(se_ids, group, rolling).await?;
        self.look(0).await?;
        Ok(new)
    }

    /// What SEs are personalised with: first state and recovery key of each.
    ///
    /// # Errors
    /// [`PagingError`]; [`StoreError::NotFound`] for an SE that is not registered.
    pub async fn provision_all(&self, se_ids: &[SeId], interval: u32) -> Result<Vec<(State, RecoveryKey)>> {
        let ring = self.ring(&self.store.keys().await?)?;
        let mut all = Vec::with_capacity(se_ids.len());
        for se_id in se_ids {
            let device = self.store.device(*se_id).await?;
            all.push(self.provision(&ring, &device, interval)?);
        }
        Ok(all)
    }

    fn provision(&self, ring: &Ring, device: &Device, interval: u32) -> Result<(State, RecoveryKey)> {
        let root = Root::new(self.hsm.paging_root(device.se_id)?);
        let start = Keyspace::default();
        let uid = match self.config.scheme {
            Scheme::Random => root.first_uid(),
            Scheme::Ticket => ring.issuing(0).ok_or(PagingError::Ring)?.seal(device.index, 0, 0),
        };
        let recovery = root.recovery_key();
        let key = if device.rolling {
            DeviceKey::Rolling(root.poll_key(start))
        } else {
            DeviceKey::Fixed(root)
        };
        Ok((State::new(uid, start, key, interval), recovery))
    }

    /// Blocks a device, or lets it in again.
    ///
    /// # Errors
    /// [`PagingError`].
    pub async fn block(&self, se_id: SeId, blocked: bool) -> Result<()> {
        let device = self.store.device(se_id).await?;
        self.store.set_device(&Device { blocked, ..device }).await?;
        self.look(0).await
    }

    /// Sends a message, durable when this returns; gives its order.
    ///
    /// # Errors
    /// [`PagingError`].
    pub async fn post(
        &self,
        to: Target,
        action: Action,
        not_before: Option<u64>,
        expires: Option<u64>,
    ) -> Result<u32> {
        self.catch_up().await?;
        let (kind, argument) = action.parts();
        let order = self
            .store
            .post(Intent {
                order: 0,
                to,
                kind,
                argument,
                not_before,
                expires,
                withdrawn: false,
                past: None,
            })
            .await?;
        self.look(0).await?;
        Ok(order)
    }

    /// Whether this database has the message that told of a campaign.
    ///
    /// # Errors
    /// [`PagingError`].
    pub async fn knows(&self, message: Announced) -> Result<bool> {
        Ok(self.store.knows(message.order, message.until).await?)
    }

    /// Takes a message back.
    ///
    /// # Errors
    /// [`PagingError`].
    pub async fn withdraw(&self, order: u32) -> Result<()> {
        self.store.withdraw(order).await?;
        self.look(0).await
    }

    /// Makes a domain's next ticket key. It is accepted at once, and issues when every live node has it.
    ///
    /// # Errors
    /// [`PagingError`].
    pub async fn rotate(&self, domain: u8) -> Result<u32> {
        let mut key = Zeroizing::new([0; 16]);
        self.hsm.random(key.as_mut())?;
        Ok(self.store.add_key(domain, &self.seal(key.as_ref())?).await?)
    }

    /// Retires a ticket key.
    ///
    /// # Errors
    /// [`PagingError`].
    pub async fn retire(&self, domain: u8, epoch: u32) -> Result<()> {
        self.store.retire(domain, epoch).await?;
        self.look(0).await
    }

    /// Answers a recovery request. A rolling device's new key is durable, beside the one in use, before the grant is given; the same request gets
    /// the same grant.
    ///
    /// # Errors
    /// [`PagingError::Recover`].
    pub async fn recover(&self, request: &[u8; REQUEST]) -> Result<[u8; GRANT]> {
        use sekisho_pager::RecoverError;
        let se_id = Request::se_id(request).map_err(RecoverError::from)?;
        let device = match self.store.device(SeId(se_id)).await {
            Err(StoreError::NotFound(_)) => return Err(RecoverError::NotAuthentic.into()),
            device => device?,
        };
        // Nothing but a ticket can be granted: no server would know what it grants, and the device would have given up what is known.
        if self.config.scheme == Scheme::Random {
            return Err(RecoverError::NoIdentity.into());
        }
        if !device.rolling {
            return Ok(self.engine.recover(device.index, request)?);
        }
        let root = Root::new(self.hsm.paging_root(device.se_id)?);
        let key = root.recovery_key();
        let asked = Request::open(&key, request).map_err(RecoverError::from)?;
        if device.blocked {
            return Err(RecoverError::Blocked.into());
        }
        let nonce = self.grant_nonce(request);
        let chain = |keyspace, uid| Grant { keyspace, uid, nonce }.chain_key(&key, &asked);
        let ring = self.ring(&self.store.keys().await?)?;
        let issuing = ring.issuing(0).ok_or(RecoverError::NoIdentity)?;
        let here = Keyspace {
            domain: device.domain,
            generation: device.generation,
        };
        // The request that the last grant was for comes again: its grant was lost.
        let uid = |keyspace: Keyspace| issuing.seal(device.index, keyspace.generation, 0);
        let is_repeat = self
            .open(&device.start_key)
            .is_some_and(|held| held.as_slice() == chain(here, uid(here)).as_bytes());
        let keyspace = if is_repeat {
            here
        } else {
            let newest = if here.generation > asked.keyspace.generation {
                here
            } else {
                asked.keyspace
            };
            newest.next(0).ok_or(RecoverError::NoIdentity)?
        };
        let grant = Grant {
            keyspace,
            uid: uid(keyspace),
            nonce,
        };
        if !is_repeat {
            let moved = Device {
                domain: keyspace.domain,
                generation: keyspace.generation,
                start_key: self.seal(grant.chain_key(&key, &asked).as_bytes())?,
                ..device
            };
            self.store.set_device(&moved).await?;
            self.look(0).await?;
        }
        Ok(grant.seal(&key, request))
    }

    /// The server's random number of a grant, the same for the same request.
    fn grant_nonce(&self, request: &[u8; REQUEST]) -> [u8; 16] {
        let digest = Zeroizing::new(sekisho_keys::sha256(&[b"grant", &*self.seal_key, request]));
        digest.first_chunk().copied().unwrap_or_default()
    }

    /// Checks an SE's proof that it made a key pair, and gives the word on its certificate that the SE waits for.
    ///
    /// # Errors
    /// [`PagingError::Recover`] when the proof is not the SE's.
    pub fn certified(
        &self,
        se_id: SeId,
        public_key: &[u8; 65],
        proof: &[u8; 16],
        certificate: &[u8; 32],
    ) -> Result<[u8; 16]> {
        let key = Root::new(self.hsm.paging_root(se_id)?).recovery_key();
        if !sekisho_keys::ct_eq(&key.new_key_proof(&se_id.0, public_key), proof) {
            return Err(sekisho_pager::RecoverError::NotAuthentic.into());
        }
        Ok(key.certified_proof(&se_id.0, public_key, certificate))
    }

    /// Stops, also when the database does not say goodbye.
    pub async fn stop(self: Arc<Self>) {
        if let Err(error) = self.engine.checkpoint() {
            tracing::error!(%error, "paging: snapshot");
        }
        let _ = tokio::time::timeout(SILENCE, self.store.close()).await;
    }
}

fn message(intent: &Intent) -> sekisho_pager::Intent {
    sekisho_pager::Intent {
        order: intent.order,
        to: match intent.to {
            Target::Everybody => sekisho_pager::Target::Everybody,
            Target::Group(group) => sekisho_pager::Target::Group(group),
            Target::Device(index) => sekisho_pager::Target::Device(index),
        },
        action: Action::from_parts(intent.kind, intent.argument),
        not_before: intent.not_before,
        expires: intent.expires,
        past: intent.past,
    }
}
