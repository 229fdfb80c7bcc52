//! A fleet of devices whose keys everybody knows.

use anyhow::{Context, Result};
use sekisho_pager::{Engine, Registration, RootKeys, Scheme, Settings};
use sekisho_paging::Uid;
use sekisho_paging::device::{Device, DeviceKey, State};
use sekisho_paging::keys::{Keyspace, Root};
use sekisho_paging::ticket::{Ring, TicketKey};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Devices registered at a time.
const PIECE: u32 = 10_000;
/// The ticket key, the sealing key, and what every root is made with: test keys.
const TICKET_KEY: [u8; 16] = [0x74; 16];
const SEAL_KEY: [u8; 32] = [0x73; 32];
const ROOT: u8 = 0x72;

/// The fleet.
#[derive(Clone, Copy)]
pub(crate) struct TestFleet {
    pub(crate) devices: u32,
    pub(crate) random: bool,
    pub(crate) rolling: bool,
}

struct TestRoots;

impl RootKeys for TestRoots {
    fn root(&self, se_id: &[u8; 10]) -> Option<Root> {
        Some(root(se_id))
    }
}

fn root(se_id: &[u8; 10]) -> Root {
    let mut bytes = [ROOT; 16];
    bytes.iter_mut().zip(se_id).for_each(|(to, from)| *to = *from);
    Root::new(bytes)
}

fn se_id(index: u32) -> [u8; 10] {
    let [a, b, c, d] = index.to_be_bytes();
    [0x5E, 0, 0, 0, 0, 0, a, b, c, d]
}

impl TestFleet {
    fn ring() -> Result<Ring> {
        let mut ring = Ring::new();
        ring.add(TicketKey::new(0, 1, &TICKET_KEY, true))?;
        Ok(ring)
    }

    fn first_uid(self, index: u32, ring: &Ring) -> Uid {
        if self.random {
            root(&se_id(index)).first_uid()
        } else {
            ring.issuing(0)
                .map(|key| key.seal(index, 0, 0))
                .unwrap_or_default()
        }
    }

    /// An engine that serves the fleet. What its directory holds of earlier runs counts.
    pub(crate) fn engine(
        self,
        listen: SocketAddr,
        threads: usize,
        directory: Option<PathBuf>,
        first_core: Option<usize>,
    ) -> Result<Engine> {
        let (engine, ring) = self.start(listen, threads, directory, first_core)?;
        for from in (0..self.devices).step_by(PIECE as usize) {
            let piece: Vec<_> = (from..self.devices.min(from.saturating_add(PIECE)))
                .map(|index| self.registration(index, &ring))
                .collect();
            engine.register(&piece);
        }
        Ok(engine)
    }

    /// The engine again, with what it has written down and nothing else.
    pub(crate) fn start_again(self, listen: SocketAddr, directory: PathBuf) -> Result<Engine> {
        Ok(self.start(listen, 1, Some(directory), Some(0))?.0)
    }

    fn start(
        self,
        listen: SocketAddr,
        threads: usize,
        directory: Option<PathBuf>,
        first_core: Option<usize>,
    ) -> Result<(Engine, Ring)> {
        let settings = Settings {
            listen,
            threads,
            first_core,
            scheme: if self.random {
                Scheme::Random
            } else {
                Scheme::Ticket
            },
            domain: 0,
            directory,
            seal_key: Zeroizing::new(SEAL_KEY),
            snapshot_every: Duration::from_millis(500)
                .max(Duration::from_micros(u64::from(self.devices) * 20)),
            alarm_rate: 1000,
        };
        let ring = Self::ring()?;
        let engine =
            Engine::start(settings, Arc::new(TestRoots), ring.clone()).context("the engine did not start")?;
        Ok((engine, ring))
    }

    fn registration(self, index: u32, ring: &Ring) -> Registration {
        let keyspace = Keyspace::default();
        let se_id = se_id(index);
        Registration {
            index,
            se_id,
            group: 1,
            rolling: self.rolling,
            keyspace,
            blocked: false,
            start: self.rolling.then(|| root(&se_id).poll_key(keyspace)),
            uid: self.random.then(|| self.first_uid(index, ring)),
        }
    }

    /// All devices, as they leave the factory.
    pub(crate) fn make(self) -> Result<Vec<Device>> {
        let ring = Self::ring()?;
        let keyspace = Keyspace::default();
        let device = |index| {
            let root = root(&se_id(index));
            let key = if self.rolling {
                DeviceKey::Rolling(root.poll_key(keyspace))
            } else {
                DeviceKey::Fixed(root)
            };
            Device::new(State::new(self.first_uid(index, &ring), keyspace, key, 900))
        };
        Ok((0..self.devices).map(device).collect())
    }
}
