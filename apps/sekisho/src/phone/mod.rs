//! `sekisho phone`: a host device round one secure element, as the last examples of seed 2 have it: a modem on ISO/IEC 7816-3, a rich operating system on the APDU gate, a
//! trusted execution environment on SPI, a contactless reader on SWP, and a remote server whose agent is in the rich operating system. All of them talk at once.
//!
//! What answers is known by what cannot be mistaken: the SE-id, and keys that one container alone has.

mod report;
mod talk;
mod wire;

use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, Ordering};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args as ClapArgs;
use sekisho_apdu::Aid;
use sekisho_applets::file_system::image::Image;
use sekisho_device::{Agent, HttpsBackend, HttpsConfig, LinkToken, MemorySpool, Pace};
use sekisho_hsm::{Hsm, KVN_SCP};
use sekisho_keys::{AesKey, KeySet, Rng as _};
use sekisho_link::{Manifest, SeId};
use sekisho_messaging::setup::Policy;
use sekisho_os::{ContainerId, FactoryApplication, LoadFile, Module, Protocol};
use sekisho_scp::ScpParameter;
use sekisho_transport::{Card as _, LinkAddress, Stop};

use crate::card::element::{self, CardPlatform, SystemRng};
use crate::card::kind::{Kind, ProductName};
use crate::card::perso::{FirstPart, Perso};
use crate::card::ram_flash::RamFlash;
use crate::card::side::SharedSe;
use crate::lab::system::{NEXT_VERSION, System};
use crate::trace::Trace;
use report::{Report, Said};
use talk::{Messaging, SecureChannel, Update};
use wire::{Log, Who, Wire};

/// Size to which the update is filled up.
const IMAGE_KIB: u32 = 24;
/// Blocks of the update that one turn of the agent sends: the rich operating system's own talk goes on in between.
const BLOCKS: Option<NonZeroU16> = NonZeroU16::new(3);
/// Whoever talks rests so long between two rounds.
const REST: Duration = Duration::from_millis(2);
/// What the contactless reader pays into, and its name.
const TARIFF: &[u8] = include_bytes!("../../../../applets/prebuilt/tariff.wasm");
const LOAD_FILE: [u8; 6] = [0xF0, b'S', b'K', b'P', b'A', b'Y'];
/// Pages of flash for it in each container.
const LOAD_PAGES: u8 = 4;
/// Nobody talks longer.
const LIMIT: Duration = Duration::from_secs(120);

/// A phone round one secure element: modem, rich OS, TEE, contactless reader and a remote server talk to its two containers at once
#[derive(ClapArgs)]
pub(crate) struct Args {
    /// How often each of them says what it has to say, at least
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Print the report as one JSON object on standard output
    #[arg(long)]
    json: bool,
    /// Plug the modem into SPI and the TEE into the contacts: what it looks like when the wrong container answers
    #[arg(long)]
    crossed: bool,
    /// Write down what goes over the wires of modem, TEE, and rich OS with NFC reader: as a person reads it, or as pcapng for Wireshark where the name ends with .pcapng; - for standard error. May be given
    /// several times
    #[arg(long, value_name = "FILE")]
    trace: Vec<PathBuf>,
}

/// Runs until all have said what they have to say, and the update has come to its end.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let system = System::start(&runtime, 0, IMAGE_KIB).context("the server did not start")?;
    let report = talk_at_once(args, &system);
    system.stop(&runtime);
    let report = report?;
    report.print(args.json)?;
    Ok(if report.is_right() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What those who talk know of the two containers.
struct Known {
    /// SE-id and SCP03 keys of the second container.
    second: SeId,
    scp: KeySet,
    /// MKEY of the first container's file system.
    mkey: AesKey,
    rounds: u32,
    /// The update has come to its end, in whatever way.
    is_over: AtomicBool,
    started: Instant,
}

impl Known {
    /// Whether a round follows on so many.
    fn goes_on(&self, rounds: u32) -> bool {
        let is_over = self.is_over.load(Ordering::SeqCst);
        (rounds < self.rounds || !is_over) && self.started.elapsed() < LIMIT
    }

    /// Asks who answers; it has to be the container that is meant.
    fn meet(&self, wire: &mut Wire) -> Result<()> {
        let container = talk::who_answers(wire)?;
        let meant = wire.meant();
        ensure!(
            container == meant,
            "container {container} answers on {}, and {meant} was meant",
            wire.name()
        );
        Ok(())
    }
}

/// Round by round, until the others are done as well or something is wrong.
#[allow(
    clippy::disallowed_methods,
    reason = "those who talk to a card rest in between"
)]
fn rounds(known: &Known, who: Who, mut round: impl FnMut(u32) -> Result<()>) -> Said {
    let mut said = Said::new(who);
    while known.goes_on(said.rounds) {
        if let Err(error) = round(said.rounds) {
            said.wrong = Some(crate::cmd::in_a_line(&error));
            break;
        }
        said.rounds += 1;
        thread::sleep(REST);
    }
    if said.wrong.is_none() && said.rounds < known.rounds {
        said.wrong = Some(format!(
            "{} of {} rounds in {} s",
            said.rounds,
            known.rounds,
            LIMIT.as_secs()
        ));
    }
    said
}

/// The modem: a secure channel with the keys that the second container alone has, opened again for each round.
fn modem(known: &Known, wire: &mut Wire) -> Said {
    rounds(known, Who::Modem, |_| {
        known.meet(wire)?;
        let mut channel = SecureChannel::open(wire, &known.scp)?;
        let se_id = channel.se_id(wire)?;
        ensure!(
            se_id == known.second.0,
            "under SCP03 another one answers: {se_id:02X?}"
        );
        Ok(())
    })
}

/// The trusted execution environment: one secure messaging from the first round to the last, whatever the others do.
fn tee(known: &Known, wire: &mut Wire) -> Said {
    let mut open: Option<Messaging> = None;
    let mut said = rounds(known, Who::Tee, |round| {
        if open.as_ref().is_none_or(Messaging::is_used_up) {
            wire.reset()?;
            known.meet(wire)?;
            open = Some(Messaging::open(wire, &known.mkey)?);
        }
        let what = [b"a TEE".as_slice(), &round.to_be_bytes()[1..]].concat();
        match &mut open {
            Some(messaging) => messaging.keep(wire, 0, what.try_into().unwrap_or_default()),
            None => Ok(()),
        }
    });
    let is_right = said.wrong.is_none();
    if is_right && let Err(error) = wire.reset().map_err(Into::into).and_then(|_| known.meet(wire)) {
        said.wrong = Some(crate::cmd::in_a_line(&error));
    }
    said
}

/// The contactless reader: a tap in each round, of type A and B in turn, and away again. What it has paid the phone is told when it goes.
fn nfc_reader(known: &Known, wires: &mut [Wire; 2]) -> Said {
    let mut paid: Option<[u8; 4]> = None;
    let mut told = 0_u32;
    let mut said = rounds(known, Who::NfcReader, |round| {
        let [even, odd] = &mut *wires;
        let wire = if round % 2 == 0 { even } else { odd };
        wire.reset()?;
        known.meet(wire)?;
        if let Some(paid) = paid {
            let heard = wire.told();
            let is_right = heard
                .as_ref()
                .is_some_and(|told| told.aid == talk::TICKETS && told.parameters == paid);
            ensure!(is_right, "{paid:02X?} was paid, and the phone heard {heard:02X?}");
            told += 1;
        }
        paid = Some(talk::pay(wire)?);
        let mut messaging = Messaging::open(wire, &known.mkey)?;
        // Nobody writes there.
        let read = messaging.read(wire, 64)?;
        ensure!(read == [0; 8], "{read:02X?} was read where nobody writes");
        wire.leave()?;
        Ok(())
    });
    said.note = format!("the phone was told {told} times what it had paid");
    said
}

/// The rich operating system, and between its rounds the agent in it, through which the remote server brings the OS part a new version.
fn rich_os(known: &Known, wire: &mut Wire, agent: &mut Agent<HttpsBackend, MemorySpool>) -> [Said; 2] {
    let mut server = Said::new(Who::RemoteServer);
    let mut updated = None;
    let said = rounds(known, Who::RichOs, |_| {
        known.meet(wire)?;
        let version = talk::with_the_os_part(wire)?;
        let expected = updated.unwrap_or(FIRST_VERSION);
        ensure!(
            version == expected,
            "the OS part is version {version}, and {expected} was meant"
        );
        if updated.is_none() && server.wrong.is_none() {
            match talk::agent(wire, agent) {
                Ok(Update::GoesOn) => server.rounds += 1,
                Ok(Update::Done(version)) => {
                    server.rounds += 1;
                    updated = Some(version);
                    server.note = format!("the OS part went from version {FIRST_VERSION} to {version}");
                    known.is_over.store(true, Ordering::SeqCst);
                }
                Err(error) => {
                    server.wrong = Some(crate::cmd::in_a_line(&error));
                    known.is_over.store(true, Ordering::SeqCst);
                }
            }
        }
        Ok(())
    });
    known.is_over.store(true, Ordering::SeqCst);
    if server.wrong.is_none() && updated != Some(NEXT_VERSION) {
        server.wrong = Some("the update did not come to its end".to_owned());
    }
    [said, server]
}

/// The version of the OS part that the secure element is made with.
const FIRST_VERSION: u32 = 1;

/// Wires are served until those who talk are done.
struct StopAtEnd<'s>(&'s Stop);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[allow(clippy::disallowed_methods, reason = "it measures how long it takes")]
fn talk_at_once(args: &Args, system: &System) -> Result<Report> {
    let se_ids = [1, 2].map(|number| SeId([0x5E, 0xC1, 0x54, 0, 0, 0, 0, 0, 0, number]));
    let (se, mkey) = secure_element(system, &se_ids)?;
    let [first, second] = se_ids;
    let agent = &mut remote_server(system, first)?;
    let log = Log::default();
    let side = |protocol, who| wire::side(se.on(protocol), protocol, who, (&log, se_ids));
    let folder = tempfile::tempdir().context("no place for the wires' sockets")?;
    let address = |name: &str| LinkAddress::Unix(folder.path().join(name));
    let stop = Stop::new();
    let [contacts, spi] = if args.crossed {
        [Protocol::SpiEse, Protocol::T0]
    } else {
        [Protocol::T0, Protocol::SpiEse]
    };
    let known = Known {
        second,
        scp: system.hsm.perso(second)?.scp,
        mkey,
        rounds: args.rounds,
        is_over: AtomicBool::new(false),
        started: Instant::now(),
    };
    let traces = Trace::taps(&args.trace)?;
    let said = thread::scope(|scope| {
        let _ends = StopAtEnd(&stop);
        let frames = |protocol, who, name| {
            // The eUICC's node address is on the same bus.
            let other = (protocol == Protocol::SpiEse).then(|| side(Protocol::SpiEuicc, who));
            let sides = [Some(side(protocol, who)), other].into_iter().flatten();
            Wire::frames(scope, sides.collect(), &address(name), &traces, &stop)
        };
        let swp = [
            side(Protocol::ApduGate, Who::RichOs),
            side(Protocol::SwpA, Who::NfcReader),
            side(Protocol::SwpB, Who::NfcReader),
        ];
        let (gate, readers) = Wire::front_end(scope, swp, &address("swp"), &traces, &stop)?;
        let mut wires = (
            frames(contacts, Who::Modem, "modem")?,
            frames(spi, Who::Tee, "tee")?,
            gate,
            readers,
        );
        let known = &known;
        let modem = scope.spawn(move || modem(known, &mut wires.0));
        let tee = scope.spawn(move || tee(known, &mut wires.1));
        let nfc_reader = scope.spawn(move || nfc_reader(known, &mut wires.3));
        let [rich_os, server] = rich_os(known, &mut wires.2, agent);
        let joined = [
            modem.join().ok(),
            Some(rich_os),
            tee.join().ok(),
            nfc_reader.join().ok(),
            Some(server),
        ];
        let said = joined.into_iter().collect::<Option<Vec<_>>>();
        said.context("one of the threads that talk has failed")
    })?;
    Ok(Report::new(said, se_ids, &log.all(), known.started.elapsed()))
}

/// An embedded SE with two containers, whose keys are the HSM's and each its own; with MKEY of the first one's file system.
fn secure_element(system: &System, se_ids: &[SeId; 2]) -> Result<(SharedSe<RamFlash>, AesKey)> {
    let kind = Kind::asked(Some(ProductName::Ese), Some(2), Some(LOAD_PAGES), false).unwrap_or(Kind::PLAIN);
    let profile = kind.profile();
    let random = || {
        let mut key = [0; 16];
        SystemRng.fill(&mut key);
        key
    };
    let mkeys = [random(), random()];
    let persos = se_ids.iter().zip(&mkeys).map(|(id, mkey)| -> Result<Perso> {
        let keys = system.hsm.perso(*id)?;
        let files = Image::of_card(mkey, &random()).map_err(|refusal| anyhow!("file system: {refusal}"))?;
        Ok(Perso {
            se_id: *id,
            scp_parameter: ScpParameter::FULL_S8,
            scp_kvn: KVN_SCP,
            scp: keys.scp,
            k_aut: keys.k_aut,
            kos: Some(system.ceremony.kos.clone()),
            k_mac: Some(system.ceremony.k_mac.clone()),
            designer: Some(system.ceremony.designer_public()),
            key_version: Manifest::FIRST_KEY_VERSION,
            sec_app: None,
            files: Some(files),
            tls: None,
        })
    });
    let persos = persos.collect::<Result<Vec<_>>>()?;
    let flash = RamFlash::for_profile(&profile);
    let load_file = Aid::new(&LOAD_FILE).context("a load file without a name")?;
    let file = LoadFile {
        aid: load_file,
        module_aid: load_file,
        version: 1,
        image: TARIFF,
    };
    let paid_into = FactoryApplication {
        aid: Aid::new(&talk::TICKETS).context("an application without a name")?,
        load_file,
        module: Module::LOADED,
        records: &[],
    };
    let made = Perso::lend(&persos, &FirstPart::new()?, Policy::new(), |personalisations| {
        element::start_as::<CardPlatform<RamFlash>>(flash, &profile, personalisations)
    })?;
    let (mut se, _) = made.context("the secure element does not start")?;
    se.load_file(ContainerId::ESE, &file)
        .and_then(|()| se.install(ContainerId::ESE, &paid_into))
        .map_err(|sw| anyhow!("what is paid into: {sw}"))?;
    let [mkey, _] = mkeys.map(AesKey::aes128);
    Ok((SharedSe::new(Box::new(se), profile), mkey))
}

/// The agent of the remote server, which has an update for this secure element.
fn remote_server(system: &System, se_id: SeId) -> Result<Agent<HttpsBackend, MemorySpool>> {
    let tokens = system.register(&[se_id])?;
    let token = tokens.first().and_then(|token| LinkToken::new(token));
    system.create_campaign([se_id].into_iter(), false)?;
    let backend = HttpsBackend::new(&HttpsConfig {
        server: format!("https://{}", system.server.device_address),
        authorities: system.server.certificate.clone().into_bytes(),
        token: token.context("the server gave no link token")?,
        timeout: Duration::from_secs(30),
    });
    let backend = backend.map_err(|error| anyhow!(error))?;
    let pace = Pace {
        blocks: BLOCKS,
        pauses: 0,
    };
    Ok(Agent::new(backend, MemorySpool::new(), 16 << 20, None).at_pace(pace))
}
