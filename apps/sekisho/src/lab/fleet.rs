//! The devices of the lab, and the threads that give them their turns.

use anyhow::{Context, Result, anyhow};
use sekisho_apdu::gp::CardLifeCycle;
use sekisho_device::{HttpsBackend, HttpsConfig, LinkToken};
use sekisho_hsm::{Hsm, KVN_SCP};
use sekisho_link::SeId;
use sekisho_os::{Personalisation, Profile};
use sekisho_store::OpenFiles;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Args;
use super::device::{Device, Next, Reach, Sockets};
use super::faults::Fault;
use super::system::System;
use crate::card::perso::{FirstPart, SecAppRecords, sec_app};

/// Devices that have their turn at the same time.
const WORKERS: usize = 8;
/// Devices registered in one request.
const REGISTRATION: usize = 10_000;
/// The lab gives up when nothing has come to an end for so long.
const STANDSTILL: Duration = Duration::from_secs(60);

/// The devices.
pub(super) struct Fleet {
    pub(super) devices: Vec<Device>,
}

fn se_id(index: u32) -> SeId {
    let [a, b, c, d] = index.to_be_bytes();
    SeId([0x5E, 0xC1, 0x54, 0x00, 0x00, 0x00, a, b, c, d])
}

impl Fleet {
    /// Makes the SEs with their own keys of the HSM and registers their devices.
    pub(super) fn personalise(
        runtime: &tokio::runtime::Runtime,
        system: &System,
        args: &Args,
        each: impl Fn(),
    ) -> Result<Self> {
        let ids: Vec<SeId> = (0..args.devices).map(se_id).collect();
        let mut tokens = Vec::with_capacity(ids.len());
        for ids in ids.chunks(REGISTRATION) {
            tokens.extend(system.register(ids)?);
        }
        let profile = Profile::default();
        let first = FirstPart::new()?;
        let https = HttpsBackend::new(&HttpsConfig {
            server: format!("https://{}", system.server.device_address),
            authorities: system.server.certificate.clone().into_bytes(),
            token: LinkToken::new(&"0".repeat(32)).ok_or_else(|| anyhow!("link token"))?,
            timeout: Duration::from_secs(30),
        });
        let reach = Reach {
            https: https.map_err(|error| anyhow!(error))?,
            paging: system.paging()?.engine().local_addr(),
            sockets: Sockets::of_what_is_left(OpenFiles::count().context("counting open files")?),
        };
        let designer = system.ceremony.designer_public();
        let paging = system.provision(runtime, &ids)?;
        let mut devices = Vec::with_capacity(ids.len());
        for (index, ((id, token), (state, recovery))) in (0_u32..).zip(ids.iter().zip(&tokens).zip(&paging)) {
            let keys = system.hsm.perso(*id)?;
            let kept = SecAppRecords::new(state, recovery);
            let records = kept.borrowed();
            let applications = [sec_app(&records)?];
            let personalisation = Personalisation {
                key_version: 1,
                se_id: id.0,
                scp_parameter: sekisho_scp::ScpParameter::FULL_S8,
                scp_kvn: KVN_SCP,
                scp: &keys.scp,
                k_aut: &keys.k_aut,
                kos: Some(&system.ceremony.kos),
                k_mac: Some(&system.ceremony.k_mac),
                designer: Some(&designer),
                pairing_key: None,
                isd_aid: None,
                default_application: None,
                part: Some(first.parts()),
                applications: &applications,
                data_objects: &[],
                life_cycle: CardLifeCycle::Secured,
            };
            let fault = if args.faults {
                Fault::of(index, args.seed)
            } else {
                None
            };
            devices.push(
                Device::new(&personalisation, &profile, fault, &reach, token)
                    .with_context(|| format!("SE {id}"))?,
            );
            each();
        }
        Ok(Self { devices })
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = SeId> + '_ {
        self.devices.iter().map(|device| device.se_id)
    }

    /// How many SEs run which version, as their parts say and do.
    pub(super) fn versions(&mut self) -> BTreeMap<u32, u64> {
        self.devices
            .iter_mut()
            .fold(BTreeMap::new(), |mut versions, device| {
                *versions.entry(device.version()).or_default() += 1;
                versions
            })
    }

    /// Gives every device its turns until all have come to an end.
    #[allow(clippy::disallowed_methods, reason = "the lab is where devices wait")]
    pub(super) fn run(&mut self, progress: impl Fn(u64) + Sync) -> Result<()> {
        let now = Instant::now();
        let queue: Mutex<Vec<(Instant, &mut Device)>> = Mutex::new(
            self.devices
                .iter_mut()
                .map(|device| (now, device))
                .rev()
                .collect(),
        );
        let (done, under_way) = (AtomicU64::new(0), AtomicU64::new(0));
        let last = Mutex::new(now);
        let worker = || loop {
            let next = queue.lock().ok().and_then(|mut queue| {
                let ready = queue.iter().rposition(|(at, _)| *at <= Instant::now())?;
                under_way.fetch_add(1, Ordering::SeqCst);
                Some(queue.swap_remove(ready).1)
            });
            let Some(device) = next else {
                let is_empty = queue.lock().map_or(true, |queue| queue.is_empty());
                let stands_still = last.lock().is_ok_and(|last| last.elapsed() > STANDSTILL);
                if (is_empty && under_way.load(Ordering::SeqCst) == 0) || stands_still {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            match device.turn() {
                Next::After(wait) => {
                    if let Ok(mut queue) = queue.lock() {
                        queue.push((Instant::now() + wait, device));
                    }
                }
                Next::Done => {
                    progress(done.fetch_add(1, Ordering::SeqCst) + 1);
                    if let Ok(mut last) = last.lock() {
                        *last = Instant::now();
                    }
                }
            }
            under_way.fetch_sub(1, Ordering::SeqCst);
        };
        std::thread::scope(|scope| (0..WORKERS).for_each(|_| drop(scope.spawn(worker))));
        let left = queue.into_inner().unwrap_or_default();
        if left.is_empty() {
            return Ok(());
        }
        let trouble = left.iter().find_map(|(_, device)| device.trouble.as_deref());
        Err(anyhow!(
            "{} devices have come to no end for {} s; the trouble of one of them: {}",
            left.len(),
            STANDSTILL.as_secs(),
            trouble.unwrap_or("none, it waits")
        ))
    }
}
