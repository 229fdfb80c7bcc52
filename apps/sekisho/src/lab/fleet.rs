//! The devices of the lab, and the threads that give them their turns.

use anyhow::{Context, Result, anyhow};
use sekisho_apdu::gp::CardLifeCycle;
use sekisho_applets::file_system::image::{Image, ROOT};
use sekisho_device::{HttpsBackend, HttpsConfig, LinkToken};
use sekisho_hsm::{Hsm, KVN_SCP};
use sekisho_link::SeId;
use sekisho_os::{Personalisation, Profile};
use sekisho_store::OpenFiles;
use sekisho_transport::Card;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Args;
use super::chip;
use super::device::{Device, Next, Reach, Socket, Sockets};
use super::faults::Fault;
use super::gateway::{Counts, Office, SENSOR_FCP, SENSOR_FILE, reading_of};
use super::system::System;
use crate::card::perso::{FirstPart, SecAppRecords, file_system, sec_app, tls_manager};
use crate::cmd::agent_beside::{Beside, Gateway, Happening, Sensor};

/// Devices that have their turn at the same time.
const WORKERS: usize = 8;
/// Devices registered in one request.
const REGISTRATION: usize = 10_000;
/// The lab gives up when nothing has come to an end for so long.
const STANDSTILL: Duration = Duration::from_secs(60);
/// How often the sensor of a device says something.
const EVERY: Duration = Duration::from_secs(2);

/// The devices.
pub(super) struct Fleet {
    pub(super) devices: Vec<Device>,
    /// Whether the last one's SE is on an emulated chip.
    has_chip: bool,
}

fn se_id(index: u32) -> SeId {
    let [a, b, c, d] = index.to_be_bytes();
    SeId([0x5E, 0xC1, 0x54, 0x00, 0x00, 0x00, a, b, c, d])
}

/// The files of an SE whose device has a sensor.
fn sensor_files() -> Result<Image> {
    let refused = |refusal: sekisho_os::Refusal| anyhow!("the files of an SE: {}", refusal.0);
    let mut files =
        Image::new(b"\x62\x0D\x82\x01\x38\x83\x02\x3F\x00\x8C\x04\x07\xFF\xFF\xFF").map_err(refused)?;
    files.file(ROOT, SENSOR_FCP).map_err(refused)?;
    Ok(files)
}

/// How devices reach this server, of which so many have sessions.
fn reach(system: &System, sessions: usize) -> Result<Reach> {
    let https = HttpsBackend::new(&HttpsConfig {
        server: format!("https://{}", system.server.device_address),
        authorities: system.server.certificate.clone().into_bytes(),
        token: LinkToken::new(&"0".repeat(32)).ok_or_else(|| anyhow!("link token"))?,
        timeout: Duration::from_secs(30),
    });
    Ok(Reach {
        https: https.map_err(|error| anyhow!(error))?,
        paging: system.paging()?.engine().local_addr(),
        sockets: Sockets::of_what_is_left(OpenFiles::count().context("counting open files")?, sessions),
    })
}

/// What `sekisho agent --gateway --sensor` does beside updates.
fn beside(office: &Office, id: SeId) -> Beside {
    let sensor = Sensor {
        command: format!("echo '{}'", reading_of(id)),
        every: EVERY,
        file: SENSOR_FILE,
    };
    let counts = Arc::clone(office.counts());
    let tell = move |happening: &Happening| count(&counts, happening);
    let gateway = Gateway::new(office.address.to_string(), 1);
    Beside::new(Some(gateway), Some(sensor), Arc::new(tell))
}

fn count(counts: &Counts, happening: &Happening) {
    let (count, more) = match happening {
        Happening::Session(Ok(session)) => (&counts.bytes, session.sent + session.received),
        Happening::Session(Err(_)) => (&counts.broken, 1),
        Happening::Reading(_, None) => return,
        Happening::Reading(_, Some(_)) => (&counts.wrong, 1),
    };
    count.fetch_add(more, Ordering::Relaxed);
}

/// The SE of a device, and what goes wrong with it: the last one's is on an emulated chip, where there is one.
fn socket(
    args: &Args,
    system: &System,
    index: u32,
    personalisation: &Personalisation<'_>,
    profile: &Profile,
) -> Result<(Box<dyn Card + Send>, Option<Fault>)> {
    match args.firmware.as_deref().filter(|_| index + 1 == args.devices) {
        Some(firmware) => {
            let fault = args.faults.then_some(Fault::PowerCut);
            let chip = (firmware, system.folder());
            let socket = chip::Socket::new(personalisation, profile, fault, chip)?;
            Ok((Box::new(socket), fault))
        }
        None => {
            let fault = args.faults.then(|| Fault::of(index, args.seed)).flatten();
            Ok((Box::new(Socket::new(personalisation, profile, fault)?), fault))
        }
    }
}

impl Fleet {
    /// Makes the SEs with their own keys of the HSM and registers their devices. The first of them have sessions with this gateway, and a sensor.
    pub(super) fn personalise(
        runtime: &tokio::runtime::Runtime,
        system: &System,
        args: &Args,
        office: Option<&(Office, usize)>,
        each: impl Fn(),
    ) -> Result<Self> {
        let sessions = office.map_or(0, |(_, sessions)| *sessions);
        let ids: Vec<SeId> = (0..args.devices).map(se_id).collect();
        let mut tokens = Vec::with_capacity(ids.len());
        for ids in ids.chunks(REGISTRATION) {
            tokens.extend(system.register(ids)?);
        }
        let profile = Profile::default();
        let first = FirstPart::new()?;
        let reach = reach(system, sessions)?;
        let designer = system.ceremony.designer_public();
        let paging = system.provision(runtime, &ids, sessions)?;
        let files = sensor_files()?;
        let files: Vec<_> = files.iter().collect();
        let mut devices = Vec::with_capacity(ids.len());
        for (index, ((id, token), (state, recovery))) in (0_u32..).zip(ids.iter().zip(&tokens).zip(&paging)) {
            let keys = system.hsm.perso(*id)?;
            let kept = SecAppRecords::new(state, recovery);
            let records = kept.borrowed();
            let office = office.filter(|_| usize::try_from(index).is_ok_and(|index| index < sessions));
            let is_updating = Arc::<AtomicBool>::default();
            let tls = office.map(|(office, _)| office.element(*id, Arc::clone(&is_updating)));
            let tls = tls.transpose()?;
            let tls: Option<Vec<_>> = tls.as_ref().map(|tls| tls.iter().collect());
            let mut applications = vec![sec_app(&records)?];
            if let Some(tls) = &tls {
                applications.extend([file_system(&files)?, tls_manager(tls)?]);
            }
            let beside = office.map_or_else(Beside::nothing, |(office, _)| beside(office, *id));
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
            let (socket, fault) = socket(args, system, index, &personalisation, &profile)
                .with_context(|| format!("SE {id}"))?;
            devices.push(Device::new(
                *id,
                socket,
                fault,
                &reach,
                token,
                (beside, is_updating),
            )?);
            each();
        }
        let has_chip = args.firmware.is_some();
        Ok(Self { devices, has_chip })
    }

    /// The SE on the emulated chip, if there is one, and the version that it runs, as it says and does.
    pub(super) fn chip(&mut self) -> Option<(SeId, u32)> {
        let device = self.devices.last_mut().filter(|_| self.has_chip)?;
        Some((device.se_id, device.version()))
    }

    /// Ends what devices do beside their updates.
    pub(super) fn rest(&mut self) {
        self.devices.iter_mut().for_each(Device::rest);
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
