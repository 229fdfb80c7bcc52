//! `sekisho load`: devices by the million, for whoever wants to know what a paging server takes.

mod drive;
pub(crate) mod fleet;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use drive::{Drive, Outcome};
use fleet::TestFleet;

use crate::leftovers::{Folder, stopped_after};

/// Loads a server with simulated devices
#[derive(Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Polls for a fleet of devices with test keys, against an engine in this process or one of `sekisho load serve`
    Paging(Paging),
    /// A bare paging engine for a fleet with test keys: what the load is for when it comes from another process
    Serve(Serve),
}

/// The fleet, which load and server must agree on.
#[derive(Parser, Clone)]
struct Fleet {
    /// Number of devices
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=20_000_000))]
    devices: u32,
    /// Random identities, each written before its answer leaves
    #[arg(long)]
    random: bool,
    /// Keys that change with each poll
    #[arg(long)]
    rolling: bool,
}

#[derive(Parser)]
struct Serve {
    #[command(flatten)]
    fleet: Fleet,
    /// Address
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Worker threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Snapshot and journal
    #[arg(long)]
    directory: Option<PathBuf>,
}

#[derive(Parser)]
struct Paging {
    #[command(flatten)]
    fleet: Fleet,
    /// A server with the same fleet; without it an engine is started in this process
    #[arg(long)]
    server: Option<SocketAddr>,
    /// Duration in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Polls that wait for an answer at the same time
    #[arg(long, default_value_t = 512)]
    window: usize,
    /// Polls a second; without it as many as are answered
    #[arg(long)]
    rate: Option<u32>,
    /// Sockets
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=512))]
    sockets: u16,
    /// Percentage of polls, and of answers, that are lost
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=90))]
    loss: u8,
    /// Percentage of polls that are replayed
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    replay: u8,
    /// Bogus datagrams for each hundred polls: noise, forged polls, wrong lengths
    #[arg(long, default_value_t = 0)]
    bogus: u32,
    /// Decides what is lost
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object on standard output
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Paging(args) => paging(args),
        What::Serve(args) => serve(args),
    }
}

impl Fleet {
    const fn fleet(&self) -> TestFleet {
        TestFleet {
            devices: self.devices,
            random: self.random,
            rolling: self.rolling,
        }
    }
}

#[allow(clippy::print_stderr)]
fn serve(args: &Serve) -> Result<ExitCode> {
    let fleet = args.fleet.fleet();
    let engine = fleet.engine(args.listen, args.threads, args.directory.clone(), None)?;
    let say = || {
        eprintln!(
            "paging         udp {}  ({} devices with test keys)",
            engine.local_addr(),
            fleet.devices
        );
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(stopped_after(say))?;
    engine.stop().context("the last snapshot")?;
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, clippy::print_stderr)]
fn paging(args: &Paging) -> Result<ExitCode> {
    let fleet = args.fleet.fleet();
    let folder = Folder::new()?;
    let engine = match args.server {
        Some(_) => None,
        None => {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let directory = fleet.random.then(|| folder.path().to_owned());
            Some(fleet.engine(any, 1, directory, Some(0))?)
        }
    };
    let server = args
        .server
        .or(engine.as_ref().map(sekisho_pager::Engine::local_addr));
    let drive = Drive {
        server: server.context("no server")?,
        window: args.window.max(usize::from(args.sockets)),
        sockets: args.sockets.into(),
        rate: args.rate,
        loss: args.loss.into(),
        replay: args.replay.into(),
        bogus: args.bogus,
        seed: args.seed,
    };
    eprintln!("making {} devices ...", fleet.devices);
    let outcome = drive.run(&fleet, Duration::from_secs(args.seconds))?;
    report(args, &outcome)?;
    if let Some(engine) = engine {
        engine.stop().context("the last snapshot")?;
    }
    Ok(if outcome.locked_out == 0 && outcome.stale == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[allow(clippy::print_stdout)]
fn report(args: &Paging, outcome: &Outcome) -> Result<()> {
    let quantile = |q: f64| outcome.latency.value_at_quantile(q) as f64 / 1e3;
    let rate = outcome.answered as f64 / outcome.seconds;
    if args.json {
        let value = json!({
            "devices": args.fleet.devices, "seconds": outcome.seconds, "sent": outcome.sent, "answered": outcome.answered,
            "resent": outcome.resent, "bogus": outcome.bogus, "replayed": outcome.replayed, "refused": outcome.refused,
            "stale_accepted": outcome.stale, "locked_out": outcome.locked_out, "polls_per_second": rate,
            "latency_us": { "p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99), "max": quantile(1.0) },
        });
        println!("{}", serde_json::to_string(&value)?);
        return Ok(());
    }
    println!("{} devices, {:.1} s", args.fleet.devices, outcome.seconds);
    println!(
        "  polls sent     {:>10}   {:.0} answered a second",
        outcome.sent, rate
    );
    println!("  answered       {:>10}", outcome.answered);
    println!("  sent again     {:>10}", outcome.resent);
    println!(
        "  bogus sent     {:>10}   replayed {}",
        outcome.bogus, outcome.replayed
    );
    println!(
        "  refused        {:>10}   answers that no device was waiting for",
        outcome.refused
    );
    println!("  stale accepted {:>10}", outcome.stale);
    println!("  locked out     {:>10}", outcome.locked_out);
    println!(
        "  latency        p50 {:.0} us, p90 {:.0} us, p99 {:.0} us, longest {:.0} us",
        quantile(0.5),
        quantile(0.9),
        quantile(0.99),
        quantile(1.0)
    );
    Ok(())
}
