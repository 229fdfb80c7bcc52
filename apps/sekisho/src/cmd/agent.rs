//! `sekisho agent`: the agent beside a secure element.

use core::time::Duration;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Error, Result, anyhow, bail};
use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};
use sekisho_device::{
    Agent, AgentError, Backoff, DiskSpool, Event, HandOver, HttpsBackend, HttpsConfig, LinkToken, Pace,
    SharedCard, Turn, hand_over,
};
use sekisho_link::{Access, Manifest, Outcome, ResetCounts, Status};
use sekisho_transport::{Card, DeviceLine, LinkAddress, LinkCard, PcscCard, SocketCard, TransportError};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{OrUsage as _, in_a_line, refuse_variable, report, usage};
use crate::files;
use crate::trace::{self, Trace};

/// How often an agent that has nothing to do asks again.
const IDLE: Duration = Duration::from_secs(300);
/// How long an agent waits between two turns that load a part of the bulk each.
const BETWEEN_LOADS: Duration = Duration::from_secs(60);
/// Exit code of `--once` when the server asks for another try: EX_TEMPFAIL of sysexits.h.
pub(super) const TRY_AGAIN: u8 = 75;
/// Seconds after which to try again where nobody says how many.
pub(super) const LATER: u32 = 60;
/// Exit code of `--once` when the server blocks the SE: EX_NOPERM.
const BLOCKED: u8 = 77;

/// Update a secure element: download, ask for permission, play, report
///
/// It can be stopped and started at any moment, in any way; it goes on where it was. With --once: exit code 0 nothing to do or network access
/// allowed, 75 try again later, 77 blocked, 1 failed, 2 asked wrongly.
#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The management server
    #[arg(long, value_name = "https://HOST:PORT", env = "SEKISHO_DEVICE_URL")]
    server: Option<String>,

    /// Certificate (PEM) of the authority that vouches for the server; no other is trusted
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,

    /// The device's link token, 32 hex digits; better in the environment or in a file, where others do not see it
    #[arg(
        long,
        value_name = "HEX",
        env = "SEKISHO_TOKEN",
        hide_env_values = true,
        required_unless_present = "token_file"
    )]
    token: Option<String>,

    /// File with the link token; goes before --token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// The secure element: `pcsc:READER` (part of the reader's name; `pcsc:` if there is one only), `tcp:HOST:PORT`, or a protocol's own frames as `t1=tcp:HOST:PORT` or
    /// `spi=unix:PATH`, of t0 and t1 also `t1=pty:PATH` (t0, t1, spi, spi-euicc, i2c, i2c-euicc, swp, swp-a, swp-b)
    #[arg(long, value_name = "CARD", default_value = "pcsc:", value_parser = where_card_is)]
    pub(super) card: CardAt,

    /// Directory for what must survive: the delivery, the unreported status
    #[arg(long, value_name = "DIR", default_value = "agent-spool")]
    pub(super) spool: PathBuf,

    /// Directory that gets the data for the device itself (P_MOB); without it they are left alone
    #[arg(long, value_name = "DIR")]
    mob_dir: Option<PathBuf>,

    /// Largest delivery that is kept, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4095))]
    limit: u32,

    /// Blocks of the bulk that one turn sends at most; the next turn goes on, so that an update fits a device's idle minutes
    #[arg(long, value_name = "N")]
    blocks: Option<core::num::NonZeroU16>,

    /// Ask by paging instead of over HTTPS: the paging servers, tried in turn; the SE must have a SecApp
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', env = "SEKISHO_PAGING")]
    pub(super) paging: Vec<std::net::SocketAddr>,

    /// Seconds to wait for the server's whole answer, for each 4,096 bytes of a delivery, and for each answer of the SE
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) timeout: u64,

    /// End after one turn instead of asking for ever; a session with the gateway is carried to its end first
    #[arg(long)]
    pub(super) once: bool,

    #[command(flatten)]
    pub(super) beside: super::agent_beside::Args,

    /// Print each turn's result as a JSON object on standard output
    #[arg(long)]
    pub(super) json: bool,
}

/// Where the secure element is.
#[derive(Clone, Debug)]
pub(super) enum CardAt {
    Pcsc(String),
    Tcp(String),
    Link(DeviceLine, LinkAddress),
}

pub(super) fn where_card_is(text: &str) -> Result<CardAt, String> {
    if let Some((name, address)) = text.split_once('=') {
        let Some(line) = DeviceLine::named(name) else {
            let names: Vec<_> = DeviceLine::ALL.iter().map(|(name, _)| *name).collect();
            return Err(format!("'{name}' has no frames; there are {}", names.join(", ")));
        };
        let address = LinkAddress::of_line(address, name, line.is_characters())?;
        return Ok(CardAt::Link(line, address));
    }
    match text.split_once(':') {
        Some(("pcsc", reader)) => Ok(CardAt::Pcsc(reader.to_owned())),
        Some(("tcp", address)) if address.contains(':') => Ok(CardAt::Tcp(address.to_owned())),
        _ => Err("write pcsc:READER, tcp:HOST:PORT, or PROTOCOL=tcp:HOST:PORT".to_owned()),
    }
}

impl CardAt {
    pub(super) fn open(&self, timeout: Duration) -> Result<Box<dyn Card + Send>> {
        self.open_traced(timeout, &[])
    }

    pub(super) fn open_traced(&self, timeout: Duration, traces: &[Trace]) -> Result<Box<dyn Card + Send>> {
        Ok(match self {
            Self::Pcsc(reader) => {
                Box::new(PcscCard::open(reader, timeout).context(
                    "cannot reach the secure element; is pcscd running, and a card in the reader?",
                )?)
            }
            Self::Tcp(address) => {
                let card = match SocketCard::open(address, timeout) {
                    Err(taken @ TransportError::Refused(_)) => return Err(taken.into()),
                    card => card,
                };
                Box::new(card.with_context(|| {
                    format!("cannot reach the secure element; does `sekisho card --listen {address}` run?")
                })?)
            }
            Self::Link(line, address) => {
                let card = LinkCard::tapped(*line, address, timeout, trace::tap(traces, line.name()));
                Box::new(card.with_context(|| {
                    format!("cannot reach the secure element on {address}; does `sekisho card --on ...={address}` run, and is no other reader there?")
                })?)
            }
        })
    }
}

/// Runs the agent.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let timeout = Duration::from_secs(args.timeout);
    let backend = HttpsBackend::new(&HttpsConfig {
        server: server(args)?,
        authorities: read(&args.ca, "authority").or_usage()?,
        token: token(args).or_usage()?,
        timeout,
    })
    .map_err(|text| anyhow!("{text}; see --server and --ca"))
    .or_usage()?;
    let limit = args.limit << 20;
    files::private_folder(&args.spool, &[])?;
    let spool = DiskSpool::open(&args.spool, limit)
        .with_context(|| format!("cannot use --spool {}", args.spool.display()))?;
    let mut agent =
        Agent::new(backend, spool, limit, args.mob_dir.clone().map(into_directory)).at_pace(Pace {
            blocks: args.blocks,
            pauses: 0,
        });
    if !args.paging.is_empty() {
        return super::agent_paging::run(args, &mut agent);
    }
    let mut backoff = Backoff::new();
    let mut progress = Progress::new();
    let mut beside = args.beside.beside(&progress, args.json)?;
    let mut kept: Option<SharedCard> = None;
    loop {
        let card = match &kept {
            Some(card) => Ok(card.clone()),
            None => args.card.open(timeout).map(SharedCard::new),
        };
        let turn = card.and_then(|mut card| {
            if beside.has_sensor() {
                kept = Some(card.clone());
                beside.start(&card);
            }
            let turn = beside.turn(&mut agent, &mut card, false, &mut |event| progress.show(&event));
            turn.map_err(anyhow::Error::new)
        });
        progress.end();
        if args.json {
            print_line(&as_json(&turn).to_string());
        }
        if args.once {
            return conclude(turn, args.json);
        }
        let (wait, words) = next(&turn, &mut backoff)?;
        progress.say(&words);
        pause(wait);
        progress = Progress::new();
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the edge that waits")]
pub(super) fn pause(wait: Duration) {
    std::thread::sleep(wait);
}

fn into_directory(directory: PathBuf) -> HandOver {
    Box::new(move |campaign, p_mob| {
        // For the device's other programs.
        let path = hand_over(&directory, campaign, p_mob)?;
        [&directory, &path]
            .into_iter()
            .try_for_each(|path| files::publish(path))
            .map_err(std::io::Error::other)
    })
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    files::read(path).with_context(|| format!("cannot read the {what} file {}", path.display()))
}

fn server(args: &Args) -> Result<String> {
    if let Some(server) = &args.server {
        return Ok(server.clone());
    }
    refuse_variable("SEKISHO_SERVER", "SEKISHO_DEVICE_URL, or give --server")?;
    usage("where is the server? Give --server https://HOST:PORT, or set SEKISHO_DEVICE_URL".to_owned())
}

fn token(args: &Args) -> Result<LinkToken> {
    let text = match (&args.token, &args.token_file) {
        (Some(token), None) => Zeroizing::new(token.clone()),
        (_, Some(path)) => files::read_secret(path)?,
        (None, None) => bail!("give the link token with --token-file or SEKISHO_TOKEN"),
    };
    LinkToken::new(&text)
        .context("the link token is not 32 hexadecimal digits; it was shown when the device was registered")
}

/// How long to wait before the next turn, and what to say about this one.
pub(super) fn next(turn: &Result<Turn>, backoff: &mut Backoff) -> Result<(Duration, String)> {
    let mut random = [0; 2];
    getrandom::fill(&mut random).context("no randomness for the waiting time")?;
    let random = u16::from_be_bytes(random);
    Ok(match turn {
        Ok(turn) => {
            let wait = match turn {
                Turn::NotYet(seconds) => Duration::from_secs((*seconds).into()).max(Duration::from_secs(1)),
                Turn::Loading { .. } => {
                    backoff.succeeded();
                    BETWEEN_LOADS
                }
                Turn::Ended { verdict, .. } if verdict.access == Access::Retry => {
                    backoff.failed(Some(verdict.retry_after), random)
                }
                Turn::Ended { .. } | Turn::Nothing | Turn::Blocked(_) => {
                    backoff.succeeded();
                    IDLE
                }
            };
            (
                wait,
                format!("{}; next look in {} s", describe(turn), wait.as_secs()),
            )
        }
        Err(error) => {
            let asked = error
                .downcast_ref::<AgentError>()
                .and_then(AgentError::retry_after);
            let wait = backoff.failed(asked, random);
            (
                wait,
                format!("{}; again in {} s", in_a_line(error), wait.as_secs()),
            )
        }
    })
}

/// In how many seconds to try again, where a turn failed for what passes by itself.
fn later(error: &Error) -> Option<u32> {
    let error = error.downcast_ref::<AgentError>()?;
    let asked = error.retry_after().unwrap_or(LATER);
    error.is_temporary().then_some(asked)
}

/// The exit code of `--once`.
pub(super) fn conclude(turn: Result<Turn>, is_json: bool) -> Result<ExitCode> {
    let turn = match turn {
        Err(error) if later(&error).is_some() => {
            report(&error);
            return Ok(ExitCode::from(TRY_AGAIN));
        }
        turn => turn?,
    };
    if !is_json {
        print_line(&describe(&turn));
    }
    Ok(match turn {
        Turn::Nothing => ExitCode::SUCCESS,
        Turn::NotYet(_) | Turn::Loading { .. } => ExitCode::from(TRY_AGAIN),
        Turn::Blocked(_) => ExitCode::from(BLOCKED),
        Turn::Ended { verdict, .. } => match verdict.access {
            Access::Allowed => ExitCode::SUCCESS,
            Access::Retry => ExitCode::from(TRY_AGAIN),
            Access::Blocked => ExitCode::from(BLOCKED),
        },
    })
}

pub(super) fn describe(turn: &Turn) -> String {
    match turn {
        Turn::Nothing => "nothing to do".to_owned(),
        Turn::NotYet(seconds) => format!("loaded; permission is given in {seconds} s at the earliest"),
        Turn::Loading {
            next_block, blocks, ..
        } => format!("{next_block} of {blocks} blocks are loaded; the next turn goes on"),
        Turn::Blocked(words) => format!("the server refuses permission: {words}"),
        Turn::Ended { status, verdict, .. } => {
            let access = match verdict.access {
                Access::Allowed => "network access allowed".to_owned(),
                Access::Retry => format!("try again in {} s", verdict.retry_after),
                Access::Blocked => "access blocked".to_owned(),
            };
            format!("{}; server: {access}", outcome(status))
        }
    }
}

fn outcome(status: &Status) -> String {
    match (status.outcome, status.receipt()) {
        (Outcome::Activated, Some(receipt)) => {
            let what = match receipt.target {
                Manifest::KEYS => "the design system's keys changed",
                _ => "updated",
            };
            format!(
                "{what} from version {} to {}",
                receipt.previous_version, receipt.version
            )
        }
        (Outcome::Activated, None) => "updated".to_owned(),
        (Outcome::Discarded, _) => "what was staged has been discarded".to_owned(),
        (Outcome::Refused, _) => format!(
            "the secure element refused command {} with {}, {}",
            status.step,
            status.sw,
            status.sw.meaning()
        ),
        (Outcome::DeviceFailed, _) => format!("the secure element did not answer command {}", status.step),
    }
}

pub(super) fn as_json(turn: &Result<Turn>) -> Value {
    match turn {
        Err(error) => match later(error) {
            Some(seconds) => json!({"result": "error", "error": in_a_line(error), "retry_after": seconds}),
            None => json!({"result": "error", "error": in_a_line(error)}),
        },
        Ok(Turn::Nothing) => json!({"result": "nothing"}),
        Ok(Turn::NotYet(seconds)) => json!({"result": "not_yet", "retry_after": seconds}),
        Ok(Turn::Loading {
            campaign,
            next_block,
            blocks,
        }) => json!({
            "result": "loading", "campaign": campaign.to_string(), "next_block": next_block, "blocks": blocks,
        }),
        Ok(Turn::Blocked(words)) => json!({"result": "blocked", "detail": words}),
        Ok(Turn::Ended {
            status,
            verdict,
            resumed_at,
        }) => json!({
            "result": match status.outcome {
                Outcome::Activated => "activated",
                Outcome::Refused => "refused",
                Outcome::DeviceFailed => "device_failed",
                Outcome::Discarded => "discarded",
            },
            "se_id": status.se_id.to_string(),
            "campaign": status.campaign.to_string(),
            "step": status.step,
            "sw": format!("{:04X}", status.sw.0),
            "resumed_at": resumed_at,
            "proved": status.proof.is_some(),
            "target": status.receipt().map(|r| r.target),
            "version_before": status.receipt().map(|r| r.previous_version),
            "version_after": status.receipt().map(|r| r.version),
            "access": match verdict.access {
                Access::Allowed => "allowed",
                Access::Retry => "retry",
                Access::Blocked => "blocked",
            },
            "retry_after": verdict.retry_after,
        }),
    }
}

/// Progress on standard error: a bar on a terminal, lines elsewhere.
#[derive(Clone)]
pub(super) struct Progress(ProgressBar);

/// What a chip says of its failures, for whoever looks after the device.
fn reset_itself(resets: &ResetCounts) -> String {
    let ResetCounts {
        panics,
        faults,
        stack,
        random,
    } = resets;
    format!(
        "the secure element has reset itself {} times since it was powered: {panics} panics, {faults} faults, {stack} times without stack, {random} without randomness",
        resets.sum()
    )
}

impl Progress {
    pub(super) fn new() -> Self {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::no_length()
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template("{msg:12} {wide_bar} {pos}/{len}");
        Self(style.map_or_else(|_| ProgressBar::hidden(), |style| bar.with_style(style)))
    }

    pub(super) fn show(&self, event: &Event) {
        match event {
            Event::Secure(facts) => {
                let version = facts.state.version;
                self.say(&format!("secure element {}: version {version}", facts.se_id));
                if let Some(resets) = facts.resets.filter(|resets| resets.sum() > 0) {
                    self.say(&reset_itself(&resets));
                }
            }
            Event::Offered(campaign) => self.say(&format!("campaign {campaign}")),
            Event::Downloaded(have, all) => self.move_to("downloading", u64::from(*have), u64::from(*all)),
            Event::HandedOver(bytes) => self.say(&format!("{bytes} bytes for the device itself handed over")),
            Event::CountedUp(value) => {
                self.say(&format!("sequence counter used before; counted up to {value}"))
            }
            Event::Played(done, all, resumed_at) => {
                if *done == 1 && *resumed_at > 0 {
                    self.say(&format!("going on at block {resumed_at}"));
                }
                self.move_to("updating", *done as u64, *all as u64);
            }
            Event::Paused(block) => self.say(&format!("out of broadcast mode before block {block}")),
            Event::BrokeOff(why) => self.say(&format!("broken off: {why}")),
            Event::Reported(status) => self.say(&outcome(status)),
            _ => {}
        }
    }

    fn move_to(&self, what: &'static str, position: u64, length: u64) {
        self.0.set_message(what);
        self.0.set_length(length);
        self.0.set_position(position);
    }

    #[allow(clippy::print_stderr)]
    pub(super) fn say(&self, text: &str) {
        self.0.suspend(|| eprintln!("{text}"));
    }

    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}

#[allow(clippy::print_stdout)]
pub(super) fn print_line(text: &str) {
    println!("{text}");
}
