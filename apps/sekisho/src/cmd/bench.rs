//! `sekisho bench`: the figures, each with its peer or limit measured in the same run.

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use sekisho_apdu::gp::CardLifeCycle;
use sekisho_hsm::design::{Ceremony, PackOptions};
use sekisho_hsm::{AuthoriseRequest, Hsm, KVN_SCP, SoftHsm, authorise};
use sekisho_link::{Campaign, Custody, Package, SeId, Version, Wants};
use sekisho_os::{Interface, Personalisation, Profile};
use serde_json::json;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::card::element::{self, VirtualSe};
use crate::card::perso::FirstPart;
use crate::card::ram_flash::RamFlash;
use crate::lab::unicast;

/// Measures on this machine: authorisations beside individual wrapping, SELECT, memory of a virtual SE; or polls beside a bare echo; or secure messaging; or a card's commands; or TLS sessions that end in an SE; or each protocol's frames
#[derive(Parser)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_enum, default_value_t = What::Update)]
    what: What,
    /// Devices that are registered for the last figures of `paging`
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=20_000_000))]
    registered: u32,
    /// Print one JSON object on standard output
    #[arg(long)]
    json: bool,
    /// Virtual SEs of the memory figure
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    devices: u32,
}

/// What can be measured.
#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// The broadcast update and the virtual SE
    Update,
    /// Polls, beside a bare echo; it wants two cores for itself
    Paging,
    /// Secure messaging with rolling keys, beside fixed keys and SCP03
    Rolling,
    /// Commands of a card in this process: their time, and what they do to its flash
    Card,
    /// TLS sessions that end in an SE: APDUs, bytes and CPU, beside rustls and OpenSSL
    Tls,
    /// Each protocol's own frames: bytes and time on its line beside its floor, CPU beside in process
    Transports,
}

/// Image of the comparison: what the goal is stated for.
const IMAGE: usize = 512 * 1024;
/// How long each loop runs.
const LOOP: Duration = Duration::from_millis(700);

/// Calls `f` for a while and gives the mean time of a call in microseconds.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
fn micros(mut f: impl FnMut(u32) -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut calls = 0_u32;
    while start.elapsed() < LOOP {
        for _ in 0..64 {
            f(calls)?;
            calls = calls.wrapping_add(1);
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(calls))
}

fn authorisation() -> Result<(f64, usize)> {
    let hsm = SoftHsm::generate()?;
    let ceremony = Ceremony::generate()?;
    let mut module = include_bytes!("../../../../applets/prebuilt/meter-v2.wasm").to_vec();
    module.resize(IMAGE, 0);
    let package = ceremony.pack(
        &module,
        PackOptions {
            version: 2,
            min_previous: 1,
            custody: Custody::Hsm,
        },
    )?;
    let package = Package::decode(&package)?;
    let mut bytes = 0;
    let each = micros(|n| {
        let [a, b, c, d] = n.to_be_bytes();
        let request = AuthoriseRequest {
            se_id: SeId([0, 0, 0, 0, 0, 0, a, b, c, d]),
            kvn: KVN_SCP,
            scp_parameter: 0x70,
            campaign: Campaign(1),
            sequence_counter: 1,
            version: Version::Two,
            wants: Wants::BOTH,
            pauses: 0,
            key_set_apart: false,
            package: &package.source,
        };
        bytes = black_box(authorise(&hsm, &request)?).len();
        Ok(())
    })?;
    Ok((each, bytes))
}

fn virtual_se(index: u32, hsm: &SoftHsm, first: &FirstPart) -> Result<VirtualSe<RamFlash>> {
    let [a, b, c, d] = index.to_be_bytes();
    let se_id = SeId([0, 0, 0, 0, 0, 0, a, b, c, d]);
    let keys = hsm.perso(se_id)?;
    let personalisation = Personalisation {
        key_version: 1,
        se_id: se_id.0,
        scp_parameter: sekisho_scp::ScpParameter::FULL_S8,
        scp_kvn: KVN_SCP,
        scp: &keys.scp,
        k_aut: &keys.k_aut,
        kos: None,
        k_mac: None,
        designer: None,
        pairing_key: None,
        isd_aid: None,
        default_application: None,
        part: Some(first.parts()),
        applications: &[],
        data_objects: &[],
        life_cycle: CardLifeCycle::Secured,
    };
    let profile = Profile::default();
    Ok(element::start(RamFlash::for_profile(&profile), &profile, &personalisation)?.0)
}

/// Resident memory of this process in bytes.
pub(super) fn resident() -> Result<u64> {
    let statm =
        std::fs::read_to_string("/proc/self/statm").context("no /proc here: memory cannot be measured")?;
    let pages: u64 = statm
        .split_ascii_whitespace()
        .nth(1)
        .unwrap_or_default()
        .parse()?;
    Ok(pages * 4096)
}

/// Measures what is asked for.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match args.what {
        What::Paging => super::bench_paging::run(args.json, args.registered)?,
        What::Rolling => super::bench_rolling::run(args.json)?,
        What::Card => super::bench_card::run(args.json)?,
        What::Tls => super::bench_tls::run(args.json)?,
        What::Transports => super::bench_transports::run(args.json)?,
        What::Update => return update(args),
    }
    Ok(ExitCode::SUCCESS)
}

/// The broadcast update and the virtual SE.
#[allow(clippy::print_stdout, clippy::print_stderr)]
fn update(args: &Args) -> Result<ExitCode> {
    eprintln!("measuring, about ten seconds ...");
    let (authorise_micros, authorise_bytes) = authorisation()?;
    let image = vec![0x5A; IMAGE];
    let unicast = unicast::measure(&image, 64)?;
    let interleaved = unicast::measure_interleaved(&image, 8)?;

    let (hsm, first) = (SoftHsm::generate()?, FirstPart::new()?);
    let before = resident()?;
    let mut fleet = (0..args.devices)
        .map(|n| virtual_se(n, &hsm, &first))
        .collect::<Result<Vec<_>>>()?;
    let memory = resident()?.saturating_sub(before) / u64::from(args.devices);

    let se = fleet.first_mut().context("no SE")?;
    let mut answer = [0; 300];
    let select = [
        0x00, 0xA4, 0x04, 0x00, 0x08, 0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00, 0x00,
    ];
    let select_micros = micros(|_| {
        black_box(se.transmit(Interface::Spi, black_box(&select), &mut answer));
        Ok(())
    })?;

    if args.json {
        let value = json!({
            "authorisation_us": authorise_micros, "authorisation_bytes": authorise_bytes,
            "unicast_us": unicast.micros, "unicast_bytes": unicast.bytes, "unicast_interleaved_us": interleaved,
            "select_per_second": 1e6 / select_micros, "virtual_se_bytes": memory, "virtual_ses": args.devices,
        });
        println!("{value}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("update of one SE with 512 KiB          time         bytes");
    println!("  authorisation (P_AUT)          {authorise_micros:>9.2} us {authorise_bytes:>12}");
    println!(
        "  individual, one after another  {:>9.1} us {:>12}   {:>6.0} x time, {:.0} x bytes",
        unicast.micros,
        unicast.bytes,
        unicast.micros / authorise_micros,
        unicast.bytes as f64 / authorise_bytes as f64
    );
    println!(
        "  individual, 8 interleaved      {interleaved:>9.1} us                {:>6.0} x time",
        interleaved / authorise_micros
    );
    println!(
        "SELECT in process                {:>9.2} M/s",
        1.0 / select_micros
    );
    println!(
        "a virtual SE                     {:>9.1} KB   ({} of them, resident memory)",
        memory as f64 / 1e3,
        args.devices
    );
    Ok(ExitCode::SUCCESS)
}
