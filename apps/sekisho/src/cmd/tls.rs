//! `sekisho tls`: the device between a secure element and its TLS server.

use core::time::Duration;
use std::fs::File;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Error, Result, anyhow};
use clap::Args as ClapArgs;
use sekisho_device::tls::{Ended, Seen, Session, Settings, alert_name, carry};
use serde_json::{Value, json};

use super::agent::{CardAt, print_line, where_card_is};
use super::{UNKNOWN, report};
use crate::trace;

/// Seconds that the server may say nothing.
const IDLE: u64 = 300;
/// Seconds that a session lasts at most.
const DURATION: u64 = 3600;
/// Bytes to the server and from it.
const MOST: u64 = 16 << 20;

/// A session with the peer of a row, with the bounds that it has where nobody says others.
pub(super) fn settings(peer: u16) -> Settings {
    Settings {
        peer,
        time: clock(),
        silence: Duration::from_secs(IDLE),
        session: Duration::from_secs(DURATION),
        bytes: MOST,
        stop: None,
    }
}

/// Connect a secure element to its TLS server: the session begins and ends in the secure element, and is carried here
///
/// Which server it is the secure element proves by the row of its own table; here is only where to find it. Exit code 0: the server's commands were answered, and the session ended; 1: none was,
/// or it ended otherwise; 3: the way to the secure element failed behind a command, and it has taken it or not; the session is over then, and nothing is sent again.
#[derive(ClapArgs)]
pub(crate) struct Args {
    /// Where the server is
    #[arg(value_name = "HOST:PORT", value_parser = place)]
    server: String,

    /// The peer's row in the secure element's table
    #[arg(long, value_name = "ROW", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    peer: u16,

    /// The secure element: `pcsc:READER` (part of the reader's name; `pcsc:` if there is one only), `tcp:HOST:PORT`, or a protocol's own frames as `t1=tcp:HOST:PORT` or
    /// `spi=unix:PATH` (t0, t1, spi, spi-euicc, i2c, i2c-euicc, swp)
    #[arg(long, value_name = "CARD", default_value = "pcsc:", value_parser = where_card_is)]
    card: CardAt,

    /// Seconds to wait for the connection, and for each answer of the secure element
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,

    /// Seconds that the server may say nothing; then the session ends
    #[arg(long, value_name = "SECONDS", default_value_t = IDLE, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    idle: u64,

    /// Seconds that the session lasts at most
    #[arg(long, value_name = "SECONDS", default_value_t = DURATION, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    duration: u64,

    /// Bytes that go to the server and come from it at most
    #[arg(long, value_name = "BYTES", default_value_t = MOST)]
    most: u64,

    /// Write down records and commands by name as they go, never what is in them; - for standard error
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Print one JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// Checked before anything is done, resolved when it is needed.
pub(super) fn place(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => {
            Ok(text.to_owned())
        }
        _ => Err("write HOST:PORT".to_owned()),
    }
}

/// Carries one session.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let timeout = Duration::from_secs(args.timeout);
    let mut written = args.trace.as_deref().map(Trace::to).transpose()?;
    let mut card = args.card.open(timeout)?;
    let stream = connect(&args.server, timeout)?;
    let settings = Settings {
        silence: Duration::from_secs(args.idle),
        session: Duration::from_secs(args.duration),
        bytes: args.most,
        ..settings(args.peer)
    };
    let carried = carry(&mut *card, &stream, &settings, &mut |seen| {
        if let Some(trace) = &mut written {
            trace.see(seen);
        }
    });
    match carried {
        Ok(session) => conclude(args.json, &session),
        Err(error) => {
            let is_unknown = error.is_outcome_unknown();
            if args.json {
                print_line(
                    &json!({"ended": "card", "is_unknown": is_unknown, "error": error.to_string()})
                        .to_string(),
                );
            }
            let error = Error::from(error).context("the session is over");
            if !is_unknown {
                return Err(error);
            }
            report(&error);
            Ok(ExitCode::from(UNKNOWN))
        }
    }
}

/// A connection to a server.
pub(super) fn connect(place: &str, timeout: Duration) -> Result<TcpStream> {
    let wrong = || format!("cannot reach the server at {place}");
    let mut last = anyhow!("the name has no address");
    for address in place.to_socket_addrs().with_context(wrong)? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                // What goes out is small and waited for.
                stream.set_nodelay(true).with_context(wrong)?;
                return Ok(stream);
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last).with_context(wrong)
}

fn conclude(is_json: bool, session: &Session) -> Result<ExitCode> {
    if is_json {
        print_line(&as_json(session).to_string());
    }
    let (words, counts) = (words(session), counts(session));
    if is_good(session) {
        if !is_json {
            print_line(&format!("{words}\n{counts}"));
        }
        return Ok(trace::exit_code());
    }
    Err(anyhow!("{words}").context(counts))
}

/// Whether commands were answered, and it ended as sessions do.
pub(super) fn is_good(session: &Session) -> bool {
    let ended = matches!(
        session.ended,
        Ended::BySe | Ended::Silent | Ended::Expired | Ended::Stopped
    );
    ended && session.alert.is_none() && session.answered > 0
}

/// How it ended.
pub(super) fn words(session: &Session) -> String {
    match session.alert {
        Some((alert, by_server)) => {
            let who = if by_server {
                "the server"
            } else {
                "the secure element"
            };
            format!("{}: {who} says {} ({alert})", session.ended, alert_name(alert))
        }
        None if matches!(session.ended, Ended::BySe) && session.answered == 0 => {
            format!(
                "{}: one of the two has not proved who it is, or the server had no command",
                session.ended
            )
        }
        None => session.ended.to_string(),
    }
}

/// What went through it.
pub(super) fn counts(session: &Session) -> String {
    format!(
        "{} commands answered in {} APDUs; {} bytes to the server, {} from it",
        session.answered, session.apdus, session.sent, session.received
    )
}

pub(super) fn as_json(session: &Session) -> Value {
    let how = match session.ended {
        Ended::BySe => "by_se",
        Ended::Refused(_) => "refused",
        Ended::Malformed => "malformed",
        Ended::Disconnected(_) => "disconnected",
        Ended::Silent => "silent",
        Ended::Expired => "expired",
        Ended::TooMuch => "too_much",
        Ended::Stopped => "stopped",
    };
    json!({
        "ended": how, "words": words(session), "answered": session.answered, "apdus": session.apdus,
        "sent": session.sent, "received": session.received, "alert": session.alert.map(|(alert, _)| alert),
    })
}

/// Records and commands by name, with the time.
pub(super) struct Trace {
    /// `None` when it could not be written, which has been said.
    out: Option<Box<dyn Write + Send>>,
    since: Instant,
    path: PathBuf,
}

impl Trace {
    #[expect(clippy::disallowed_methods, reason = "a trace says when")]
    pub(super) fn to(path: &Path) -> Result<Self> {
        let out: Box<dyn Write + Send> = if path.as_os_str() == "-" {
            Box::new(io::stderr())
        } else {
            let file = File::create(path);
            Box::new(file.with_context(|| format!("cannot write the trace {}", path.display()))?)
        };
        Ok(Self {
            out: Some(out),
            since: Instant::now(),
            path: path.to_owned(),
        })
    }

    pub(super) fn see(&mut self, seen: Seen<'_>) {
        let at = self.since.elapsed();
        let Some(out) = &mut self.out else { return };
        // The session does not end for it.
        if let Err(error) = writeln!(out, "{:>4}.{:06} {seen}", at.as_secs(), at.subsec_micros()) {
            self.out = None;
            trace::lost(&self.path, &error);
        }
    }
}

/// The device's clock, if it is set.
#[expect(
    clippy::disallowed_methods,
    reason = "the secure element is told the time, and need not believe it"
)]
fn clock() -> Option<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}
