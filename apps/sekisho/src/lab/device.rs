//! A device of the lab: its agent, its SE, and what goes wrong with them.

use anyhow::{Result, anyhow, bail};
use sekisho_apdu::gp::ins;
use sekisho_device::paging::{Pager, SecApp, Step, UdpLink};
use sekisho_device::{Agent, AgentError, Event, HttpsBackend, LinkToken, MemorySpool, SharedCard, Turn};
use sekisho_link::{Access, SeId};
use sekisho_os::{Interface, Personalisation, Profile};
use sekisho_paging::message::Action;
use sekisho_store::OpenFiles;
use sekisho_transport::{Card, TransportError};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::faults::{Fault, FaultyBackend};
use crate::card::element::{self, FleetSe};
use crate::card::ram_flash::RamFlash;
use crate::cmd::agent_beside::Beside;

/// An R-APDU with the most data that a short command can ask for.
pub(super) const ANSWER_MAX: usize = 4096;
/// How often a device that waits for a datagram looks for it.
const LOOK: Duration = Duration::from_millis(20);
/// Files without which nothing goes on: the server's own and the databases', and the connections of the workers with both of their ends.
const FILES_MIN: usize = 80;
/// Of what is left beside a server that runs: the connections of the workers.
const FILES_OF_WORKERS: usize = 24;
/// A session's: both ends of its connection, and what a command of the shell is started with that says what a sensor does.
const FILES_OF_SESSION: usize = 4;
/// More sockets than this would not be looked at often enough.
const SOCKETS_MAX: usize = 4096;
/// How long a device waits after a loss.
const AFTER_LOSS: Duration = Duration::from_millis(100);

/// The SE in its socket.
pub(super) struct Socket {
    /// `None` for the moment of a power cycle.
    se: Option<FleetSe<RamFlash>>,
    profile: Profile,
    fault: Option<Fault>,
    commands: u32,
    answer: Vec<u8>,
}

impl Socket {
    /// Makes the SE.
    pub(super) fn new(
        personalisation: &Personalisation<'_>,
        profile: &Profile,
        fault: Option<Fault>,
    ) -> Result<Self> {
        let flash = RamFlash::for_profile(profile);
        let (mut se, _): (FleetSe<_>, _) = element::start_as(flash, profile, &[personalisation])?;
        if fault == Some(Fault::PowerCut) {
            // Somewhere among the pages of the update; which one, and how it tears, is the SE's own number.
            let number = u64::from(personalisation.se_id[9]);
            let mut flash = se.into_flash();
            flash.cut_after(12 + number % 90, number);
            se = FleetSe::new(flash, element::SystemRng);
            se.boot(profile)?;
        }
        Ok(Self {
            se: Some(se),
            profile: profile.clone(),
            fault,
            commands: 0,
            answer: vec![0; ANSWER_MAX],
        })
    }

    /// A power cycle: what stands in RAM is gone.
    fn power_cycle(&mut self) -> Result<(), TransportError> {
        let Some(se) = self.se.take() else {
            return Err(lost("the SE does not start"));
        };
        let mut flash = se.into_flash();
        flash.power_on();
        let mut se = FleetSe::new(flash, element::SystemRng);
        se.boot(&self.profile).map_err(|error| lost(&error.to_string()))?;
        self.se = Some(se);
        Ok(())
    }

    /// What happens to the command on its way, by the device's fault.
    fn meddle(&mut self, capdu: &[u8]) -> Vec<u8> {
        let mut capdu = capdu.to_vec();
        self.commands += 1;
        let tampers = match (self.fault, capdu.get(1)) {
            (Some(Fault::TamperedBulk), Some(&ins::WRITE)) => capdu.get(3) == Some(&5),
            (Some(Fault::TamperedAuthorisation), Some(&ins::AUTHORIZE_ACTION)) => true,
            _ => false,
        };
        if tampers && let Some(byte) = capdu.get_mut(9) {
            *byte ^= 0x20;
        }
        capdu
    }
}

pub(super) fn lost(why: &str) -> TransportError {
    TransportError::Io(std::io::Error::other(why.to_owned()))
}

impl Card for Socket {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        let capdu = self.meddle(capdu);
        let Some(se) = self.se.as_mut() else {
            return Err(lost("no power"));
        };
        let len = se.transmit(Interface::Spi, &capdu, &mut self.answer);
        if se.flash().is_off() {
            // The power went in the middle of it: there is no answer.
            self.fault = None;
            self.power_cycle()?;
            return Err(lost("the power was cut"));
        }
        Ok(self.answer[..len].to_vec())
    }

    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        let Some(se) = self.se.as_mut() else {
            return Err(lost("no power"));
        };
        se.reset(Interface::Spi);
        Ok(se.atr().to_vec())
    }
}

/// Refuses to start with too few files. Later it would be told in other words: a server that can open none lets its own devices wait.
pub(super) fn enough_files(files: OpenFiles) -> Result<()> {
    let OpenFiles { open, limit } = files;
    if files.left() < FILES_MIN {
        bail!(
            "too many open files: {open} of {limit} (ulimit -n) at the start, and the lab wants {FILES_MIN} more"
        );
    }
    Ok(())
}

/// How many sessions there are files for, beside all else.
pub(super) fn sessions_at_most(files: OpenFiles) -> usize {
    files.left().saturating_sub(FILES_MIN + FILES_OF_WORKERS) / 2 / FILES_OF_SESSION
}

/// Sockets that devices may have at the same time, while they wait for an answer.
pub(super) struct Sockets(AtomicUsize);

/// One of the sockets; it is given back when this goes.
pub(super) struct Permit(Arc<Sockets>);

impl Sockets {
    /// A share of the files that the process may still open; the rest is for connections.
    pub(super) fn of_what_is_left(files: OpenFiles, sessions: usize) -> Arc<Self> {
        let others = FILES_OF_WORKERS + sessions * FILES_OF_SESSION;
        let sockets = files.left().saturating_sub(others) / 2;
        Arc::new(Self(AtomicUsize::new(sockets.clamp(1, SOCKETS_MAX))))
    }

    fn take(self: &Arc<Self>) -> Option<Permit> {
        let one_less = |free: usize| free.checked_sub(1);
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
            .ok()
            .map(|_| Permit(Arc::clone(self)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// How devices reach the server: connections and sockets are shared, so that a thousand devices need few.
pub(super) struct Reach {
    /// With the token of no device.
    pub(super) https: HttpsBackend,
    pub(super) paging: SocketAddr,
    pub(super) sockets: Arc<Sockets>,
}

/// When a device is to be called again.
pub(super) enum Next {
    /// It has come to an end.
    Done,
    /// After this time.
    After(Duration),
}

/// A device.
pub(super) struct Device {
    pub(super) se_id: SeId,
    pub(super) fault: Option<Fault>,
    reader: SharedCard,
    /// A TLS session of the SE, and a sensor, if it has them.
    beside: Beside,
    /// Whether the SE is in an update, for whoever wants to know.
    is_updating: Arc<AtomicBool>,
    agent: Agent<FaultyBackend<HttpsBackend>, MemorySpool>,
    pager: Pager,
    link: UdpLink,
    sockets: Arc<Sockets>,
    /// Held while a poll is out.
    socket: Option<Permit>,
    started: Instant,
    /// The message that is being acted on, and whether it asks for a session.
    order: Option<(u32, bool)>,
    /// What went wrong last.
    pub(super) trouble: Option<String>,
}

impl Device {
    pub(super) fn new(
        se_id: SeId,
        socket: Box<dyn Card + Send>,
        fault: Option<Fault>,
        server: &Reach,
        token: &str,
        beside: (Beside, Arc<AtomicBool>),
    ) -> Result<Self> {
        let token =
            LinkToken::new(token).ok_or_else(|| anyhow!("the server gave a link token that is none"))?;
        #[allow(clippy::disallowed_methods, reason = "the lab is where devices wait")]
        let started = Instant::now();
        let backend = server.https.shared_with(&token);
        Ok(Self {
            se_id,
            fault,
            reader: SharedCard::new(socket),
            beside: beside.0,
            is_updating: beside.1,
            agent: Agent::new(
                FaultyBackend::new(backend, fault),
                MemorySpool::new(),
                16 << 20,
                None,
            ),
            pager: Pager::new(),
            link: UdpLink::new(vec![server.paging])?,
            sockets: Arc::clone(&server.sockets),
            socket: None,
            started,
            order: None,
            trouble: None,
        })
    }

    /// One turn: polls until there is an update, then the agent's turns until it is done.
    pub(super) fn turn(&mut self) -> Next {
        let Some((_, with_session)) = self.order else {
            return self.poll();
        };
        self.beside.start(&self.reader);
        let is_updating = &self.is_updating;
        let mut watch = |event| {
            if let Event::Offered(_) = event {
                is_updating.store(true, Ordering::Relaxed);
            }
        };
        let turn = self
            .beside
            .turn(&mut self.agent, &mut self.reader, with_session, &mut watch);
        self.is_updating.store(false, Ordering::Relaxed);
        match turn {
            // The session has begun; the campaign's own message is still to come.
            Ok(Turn::Nothing | Turn::NotYet(_)) if with_session => match self.done() {
                Next::Done => Next::After(LOOK),
                later @ Next::After(_) => later,
            },
            // Not for this device, or not yet: the message stays pending, and the next poll is as good as any to ask again.
            Ok(Turn::Nothing | Turn::NotYet(_)) => {
                self.order = None;
                Next::After(LOOK)
            }
            Ok(Turn::Loading { .. }) => Next::After(Duration::ZERO),
            Ok(Turn::Blocked(_)) => self.done(),
            Ok(Turn::Ended { verdict, .. }) => match verdict.access {
                Access::Allowed | Access::Blocked => self.done(),
                Access::Retry => Next::After(Duration::from_secs(verdict.retry_after.into())),
            },
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &AgentError) -> Next {
        self.trouble = Some(error.to_string());
        Next::After(AFTER_LOSS)
    }

    fn poll(&mut self) -> Next {
        if self.socket.is_none() {
            self.socket = self.sockets.take();
        }
        if self.socket.is_none() {
            return Next::After(LOOK);
        }
        let step = self
            .pager
            .turn(&mut self.reader, &mut self.link, self.started.elapsed());
        if !self.pager.is_out() {
            self.socket = None;
        }
        if let Some(error) = self.link.failure() {
            self.trouble = Some(format!("no socket: {error}"));
        }
        match step {
            Ok(Step::Act(message)) => {
                self.order = match message.action {
                    Action::Update(_) => Some((message.order, false)),
                    Action::OpenHttps(_) => Some((message.order, true)),
                    _ => None,
                };
                Next::After(Duration::ZERO)
            }
            Ok(Step::Wait(wait)) => Next::After(wait.min(LOOK)),
            Ok(Step::Silent) => Next::After(Duration::ZERO),
            Ok(Step::Recover(_)) => Next::After(LOOK),
            Err(error) => self.failed(&error),
        }
    }

    /// The message has been acted on, which SecApp writes down.
    fn done(&mut self) -> Next {
        let Some(order) = self.order.take() else {
            return Next::Done;
        };
        match SecApp::select(&mut self.reader).and_then(|mut app| app.done(order.0)) {
            Ok(()) => Next::Done,
            Err(error) => {
                self.order = Some(order);
                self.failed(&error)
            }
        }
    }

    /// Ends what it does beside its updates.
    pub(super) fn rest(&mut self) {
        self.beside = Beside::nothing();
    }

    /// Sends a command and gives data and status word, or `None` when the SE does not answer.
    fn ask(&mut self, capdu: &[u8]) -> Option<(Vec<u8>, u16)> {
        let mut answer = self.reader.transmit(capdu).ok()?;
        let (low, high) = (answer.pop()?, answer.pop()?);
        Some((answer, u16::from_be_bytes([high, low])))
    }

    /// The version of the OS part as the part itself says it, if what it does agrees with it: version 2 knows READ PEAK.
    pub(super) fn version(&mut self) -> u32 {
        let select = [
            0x00, 0xA4, 0x04, 0x00, 0x07, 0xF0, b'S', b'K', b'O', b'S', 0x00, 0x01, 0x00,
        ];
        // Whatever the last turn has left open.
        let _ = self.reader.reset();
        let selected = self.ask(&select).is_some_and(|(_, sw)| sw == 0x9000);
        let version = self
            .ask(&[0x80, 0x10, 0x00, 0x00, 0x00])
            .filter(|(_, sw)| selected && *sw == 0x9000);
        let version = version
            .and_then(|(data, _)| data.try_into().ok())
            .map_or(0, u32::from_be_bytes);
        let knows_peak = self
            .ask(&[0x80, 0x24, 0x00, 0x00, 0x00])
            .is_some_and(|(_, sw)| sw == 0x9000);
        let _ = self.reader.reset();
        if knows_peak == (version >= 2) { version } else { 0 }
    }
}
