//! The other end of TLS sessions that end in the lab's SEs: a gateway that reads, again and again, what the sensor of a device has said.

use anyhow::{Context, Result};
use sekisho_apdu::StatusWord;
use sekisho_applets::file_system;
use sekisho_gateway::{Gateway, Session, Settings};
use sekisho_link::SeId;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::card::tls_perso::TlsRecords;
use crate::certificates::Authority;

/// The name that the SEs know it by.
const NAME: &str = "gateway.lab.example";
/// Between two readings in a session, at least.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The same for each session that there is: readings are 400 a second at most, so that sessions take little from what is updated.
const PAUSE_FOR_EACH: Duration = Duration::from_micros(2500);
/// Identifier of the file of the sensor, a child of the MF.
pub(super) const SENSOR_FILE: [u8; 2] = [0x00, 0x15];
/// Its FCP template: 32 bytes, which anybody may read and write.
pub(super) const SENSOR_FCP: &[u8] =
    b"\x62\x14\x80\x02\x00\x20\x82\x02\x01\x21\x83\x02\x00\x15\x88\x01\x28\x8C\x03\x03\x00\x00";
/// SELECT of that file, and READ BINARY of all of it.
const SELECT_FILE: [u8; 7] = [0x00, 0xA4, 0x02, 0x0C, 0x02, 0x00, 0x15];
const READ: [u8; 5] = [0x00, 0xB0, 0x00, 0x00, 0x20];

/// What the sensor of a device says: no two the same thing.
pub(super) fn reading_of(id: SeId) -> String {
    format!("{id} 21.5 C")
}

/// What has gone through all sessions, as both ends have counted it.
#[derive(Default)]
pub(super) struct Counts {
    /// Sessions with an SE that has been proved.
    pub(super) sessions: AtomicU64,
    /// Commands that were answered.
    pub(super) commands: AtomicU64,
    /// Of these, those that were answered while their SE was in an update.
    pub(super) in_updates: AtomicU64,
    /// Readings that were the device's own.
    pub(super) readings: AtomicU64,
    /// Answers that were not what they should be.
    pub(super) wrong: AtomicU64,
    /// Bytes of records that the devices carried, both ways.
    pub(super) bytes: AtomicU64,
    /// Sessions that could not be carried to their end.
    pub(super) broken: AtomicU64,
}

/// An SE that has sessions.
#[derive(Clone)]
struct Known {
    id: SeId,
    /// Whether it is in an update.
    is_updating: Arc<AtomicBool>,
}

struct Shared {
    gateway: Gateway,
    counts: Arc<Counts>,
    /// Between two readings in a session.
    pause: Duration,
    /// By the names in their certificates.
    known: Mutex<BTreeMap<String, Known>>,
}

/// The gateway, and the authority that certifies its SEs.
pub(super) struct Office {
    authority: Authority,
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Office {
    /// Listens, for so many sessions at once.
    pub(super) fn start(runtime: &Runtime, sessions: usize) -> Result<Self> {
        let authority = Authority::new()?;
        // All of them come from one address; one that begins anew does so before the gateway knows that the old one is over.
        let settings = Settings {
            handshakes: sessions * 2,
            sessions: sessions * 2,
            ..Settings::DEFAULT
        };
        let shared = Arc::new(Shared {
            gateway: Gateway::new(&authority.gateway(NAME)?, settings)?,
            counts: Arc::default(),
            pause: PAUSE_MIN.max(PAUSE_FOR_EACH * u32::try_from(sessions).unwrap_or(u32::MAX)),
            known: Mutex::default(),
        });
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let (stop, stopped) = watch::channel(false);
        Ok(Self {
            authority,
            address: listener.local_addr()?,
            shared: Arc::clone(&shared),
            stop,
            task: runtime.spawn(serve(listener, shared, stopped)),
        })
    }

    /// What the TLS Manager of this SE is made with. The gateway knows it by its name from then on, and whether it is in an update by what is given.
    pub(super) fn element(&self, id: SeId, is_updating: Arc<AtomicBool>) -> Result<TlsRecords> {
        let name = format!("se-{id}.lab.example");
        let records = self.authority.element(&name, NAME)?;
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(name, Known { id, is_updating });
        Ok(records)
    }

    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.shared.counts
    }

    /// Ends all sessions in good order; waits until they have.
    pub(super) fn stop(self, runtime: &Runtime) -> Result<()> {
        self.stop.send_replace(true);
        runtime.block_on(self.task).context("the lab's gateway")
    }
}

/// Waits until the gateway is stopped.
async fn told(mut stop: watch::Receiver<bool>) {
    // Nobody could tell any more: the same.
    let _ = stop.wait_for(|is_stopped| *is_stopped).await;
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let mut sessions = JoinSet::new();
    let mut told = std::pin::pin!(told(stop.clone()));
    loop {
        tokio::select! {
            () = &mut told => break,
            Some(_) = sessions.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(sessions.spawn(one(Arc::clone(&shared), stream, stop.clone()))),
                // No file is left for now.
                Err(_) => tokio::time::sleep(PAUSE_MIN).await,
            },
        }
    }
    drop(listener);
    while sessions.join_next().await.is_some() {}
}

async fn one(shared: Arc<Shared>, stream: TcpStream, stop: watch::Receiver<bool>) {
    let room = stream
        .peer_addr()
        .ok()
        .and_then(|from| shared.gateway.room(from.ip()));
    let Some(room) = room else { return };
    let accepted = tokio::select! {
        accepted = shared.gateway.accept(room, stream) => accepted,
        () = told(stop.clone()) => return,
    };
    let Ok(mut session) = accepted else { return };
    let known = {
        let known = shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        let names = &session.identity().names;
        names.first().and_then(|name| known.get(name)).cloned()
    };
    shared.counts.sessions.fetch_add(1, Ordering::Relaxed);
    if let Some(known) = known {
        shared.read(&mut session, &known, &stop).await;
    }
    session.end().await;
}

impl Shared {
    /// Selects the file and reads it until the session is over or the gateway stops.
    async fn read(&self, session: &mut Session, known: &Known, stop: &watch::Receiver<bool>) {
        let application = u8::try_from(file_system::AID.len()).unwrap_or_default();
        let select = [&[0x00, 0xA4, 0x04, 0x0C, application][..], file_system::AID].concat();
        for command in [&select[..], &SELECT_FILE] {
            if self.counts.ask(session, command, known).await.is_none() {
                return;
            }
        }
        while !*stop.borrow() {
            let Some(data) = self.counts.ask(session, &READ, known).await else {
                return;
            };
            let said = data.iter().rposition(|byte| *byte != 0).map_or(0, |end| end + 1);
            match data.get(..said).unwrap_or_default() {
                // The sensor has not said anything yet.
                [] => {}
                said if said == reading_of(known.id).as_bytes() => {
                    self.counts.readings.fetch_add(1, Ordering::Relaxed);
                }
                _ => drop(self.counts.wrong.fetch_add(1, Ordering::Relaxed)),
            }
            tokio::time::sleep(self.pause).await;
        }
    }
}

impl Counts {
    /// The data of an answer; nothing when the session is over.
    async fn ask(&self, session: &mut Session, command: &[u8], known: &Known) -> Option<Vec<u8>> {
        let mut answer = session.send(command).await.ok()?;
        self.commands.fetch_add(1, Ordering::Relaxed);
        let in_update = known.is_updating.load(Ordering::Relaxed);
        self.in_updates.fetch_add(in_update.into(), Ordering::Relaxed);
        if !answer.ends_with(&StatusWord::NO_ERROR.0.to_be_bytes()) {
            self.wrong.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        answer.truncate(answer.len() - 2);
        Some(answer)
    }
}
