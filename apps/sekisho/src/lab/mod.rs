//! `sekisho lab`: the whole system on this machine, from the design system to a fleet of virtual SEs.
//!
//! Real parts throughout: the server on loopback with its own database, agents that reach it over HTTPS, secure elements that run the
//! operating system of the microcontroller on a flash in memory.

mod chip;
mod device;
mod faults;
mod fleet;
mod gateway;
mod report;
pub(crate) mod system;
pub(crate) mod unicast;

use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use sekisho_store::OpenFiles;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fleet::Fleet;
use gateway::Office;
use report::{Report, Sessions};
use system::System;

/// Runs the whole system on loopback: a fleet of virtual SEs takes a broadcast update, a canary cohort first
#[derive(Parser)]
pub(crate) struct Args {
    /// Number of virtual SEs
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    devices: u32,
    /// End after the report instead of keeping the live page up
    #[arg(long)]
    once: bool,
    /// Print the report as one JSON object on standard output
    #[arg(long)]
    json: bool,
    /// Let some devices lose power in mid-write, lose packets, or be tampered with
    #[arg(long)]
    faults: bool,
    /// How many SEs have a TLS session of their own beside the update, in which a gateway reads what a sensor of the device says [default: one in ten, as far as there are open files for them]
    #[arg(long, value_name = "N")]
    sessions: Option<u32>,
    /// The last device's SE is on an emulated chip: the firmware, as `cargo xtask firmware build` makes it. It has no TLS session; with --faults its power goes in mid-write
    #[arg(long, value_name = "PATH")]
    firmware: Option<PathBuf>,
    /// Decides which device has which fault
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Size to which the update is filled up, in KiB
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=512))]
    image_kib: u32,
    /// Port of the live page on 127.0.0.1; 0 takes any
    #[arg(long, default_value_t = 0)]
    port: u16,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    device::enough_files(OpenFiles::count().context("counting open files")?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let system = System::start(&runtime, args.port, args.image_kib).context("the server did not start")?;
    say(args, &format!("live page      {}", system.page()));
    say(
        args,
        &format!("paging         udp {}", system.paging()?.engine().local_addr()),
    );
    let result = campaign(args, &runtime, &system);
    if let Ok(report) = &result {
        report.print(args.json)?;
        if !args.once {
            let waits = || {
                say(
                    args,
                    &format!(
                        "\nThe live page stays up at {} until Ctrl-C; --once ends here.",
                        system.page()
                    ),
                );
            };
            runtime.block_on(crate::leftovers::stopped_after(waits))?;
        }
    }
    system.stop(&runtime);
    let report = result?;
    Ok(if report.is_sound() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// For people, on standard error.
#[allow(clippy::print_stderr)]
fn say(_: &Args, text: &str) {
    eprintln!("{text}");
}

#[allow(clippy::disallowed_methods, reason = "the lab measures how long it takes")]
fn campaign(args: &Args, runtime: &tokio::runtime::Runtime, system: &System) -> Result<Report> {
    let sessions = sessions(args)?;
    let office = match sessions {
        0 => None,
        _ => Some((
            Office::start(runtime, sessions).context("the lab's gateway")?,
            sessions,
        )),
    };
    let bar = progress(args.devices, "personalising");
    let started = Instant::now();
    let mut fleet = Fleet::personalise(runtime, system, args, office.as_ref(), || bar.inc(1))?;
    bar.finish_and_clear();
    say(
        args,
        &format!(
            "personalised   {} virtual SEs in {:.1} s",
            args.devices,
            started.elapsed().as_secs_f64()
        ),
    );

    let versions_before = fleet.versions();
    if office.is_some() {
        // Before the campaign's own: the sessions are there when the update comes.
        system.open_sessions()?;
    }
    let id = system.create_campaign(fleet.ids(), args.faults)?;
    say(
        args,
        &format!(
            "campaign       {id}, canary cohort of {}",
            system::canary(args.devices)
        ),
    );
    let bar = progress(args.devices, "updating");
    let started = Instant::now();
    fleet.run(|done| bar.set_position(done))?;
    let seconds = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let sessions = office.map(|(office, elements)| -> Result<_> {
        let counts = std::sync::Arc::clone(office.counts());
        office.stop(runtime)?;
        fleet.rest();
        Ok(Sessions::new(elements, &counts))
    });
    let sessions = sessions.transpose()?;

    let unicast = unicast::measure(&system.image, 16)?;
    let report = Report::new(args, system, &id, &fleet, versions_before, unicast, seconds)?
        .with_sessions(sessions)
        .with_chip(fleet.chip())
        .heard(&fleet.versions());
    if report.updated + report.failed != u64::from(args.devices) {
        bail!(
            "only {} of {} SEs have come to an end",
            report.updated + report.failed,
            args.devices
        );
    }
    Ok(report)
}

/// How many SEs have sessions.
fn sessions(args: &Args) -> Result<usize> {
    let most = device::sessions_at_most(OpenFiles::count().context("counting open files")?);
    let wanted = args.sessions.unwrap_or(args.devices / 10);
    let wanted = usize::try_from(wanted.min(args.devices))?;
    if args.firmware.is_some() && wanted == usize::try_from(args.devices)? {
        bail!("the SE on the emulated chip has no TLS sessions: fewer --sessions than --devices");
    }
    if args.sessions.is_some() && wanted > most {
        bail!("there are open files for {most} sessions at most (ulimit -n)");
    }
    Ok(wanted.min(most))
}

fn progress(len: u32, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(len.into()).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg:14} {bar:40} {pos}/{len}  {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
