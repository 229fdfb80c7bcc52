//! `sekisho reader`: talk to a card by secure messaging.

use core::fmt;
use core::time::Duration;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use sekisho_apdu::StatusWord;
use sekisho_applets::file_system::{self, image::test_key};
use sekisho_keys::AesKey;
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::{DEFAULT_REFRESH_EVERY, Mode, Policy};
use sekisho_transport::Card;
use zeroize::Zeroizing;

use super::agent::CardAt;
use super::{OrUsage as _, usage};
use crate::card::test_card;
use crate::files;
use crate::reader::script::Script;
use crate::reader::trace::{Style, Trace};
use crate::reader::{Session, Setup, figures, listen, script, select, words};
use crate::trace as frames;

/// Talk to a card by ISO 7816-4 secure messaging, with fixed or rolling keys
///
/// Shows for each command the number of the key that protects it, never the key. Without a key of its own it uses the test card's MKEY, which
/// everybody knows.
#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The card: `virtual` for a test card in this process, `pcsc:READER` (part of the reader's name), `tcp:HOST:PORT`, or a protocol's own frames as
    /// `t1=tcp:HOST:PORT` or `spi=unix:PATH` (t0, t1, spi, spi-euicc, i2c, i2c-euicc, swp, swp-a, swp-b)
    #[arg(long, value_name = "CARD", default_value = "virtual", value_parser = where_card_is)]
    card: At,

    /// File whose first line is MKEY in hexadecimal digits; without it SEKISHO_MKEY, without that the test card's
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// AID of the application
    #[arg(long, value_name = "HEX", default_value_t = Bytes(file_system::AID.to_vec()), value_parser = aid)]
    aid: Bytes,

    /// Show keys as well; with the test card's MKEY alone
    #[arg(long)]
    show_secrets: bool,

    /// Print one JSON object a command on standard output
    #[arg(long)]
    json: bool,

    /// Write down what goes over a card's own frames: as a person reads it, or as pcapng for Wireshark where the name ends with .pcapng; - for standard error. May be given several times
    #[arg(long, value_name = "FILE")]
    trace: Vec<PathBuf>,

    /// Seconds to wait for each answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,

    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Open secure messaging and send commands
    Send {
        /// How the keys roll
        #[arg(long, value_enum, default_value_t = ModeName::Ratchet)]
        mode: ModeName,
        /// A key for commands and another for responses
        #[arg(long)]
        separate: bool,
        /// Exchanges until fresh randomness must come in (ratchet)
        #[arg(long, value_name = "EXCHANGES", default_value_t = DEFAULT_REFRESH_EVERY, value_parser = clap::value_parser!(u16).range(1..))]
        refresh: u16,
        /// Commands in hexadecimal digits
        #[arg(required = true, value_name = "APDU", value_parser = command)]
        commands: Vec<Bytes>,
    },
    /// Run a sequence of the patent from its opening: figures 3 to 6 (XOR), 9 to 12 (list), 15 to 18 (operations)
    Figure {
        /// The figure with which to end
        #[arg(value_parser = figures::figure)]
        number: u8,
        /// A key for commands and another for responses
        #[arg(long)]
        separate: bool,
    },
    /// Answer one other terminal without a card, and end when it has left; it has file 0011 and is reached with `--card tcp:HOST:PORT`
    Listen {
        /// Where to listen: a loopback address; port 0 for any that is free
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Modes that may be opened beside the ratchet; the legacy ones are weak
        #[arg(long, value_enum, value_delimiter = ',', value_name = "MODE")]
        allow: Vec<ModeName>,
    },
    /// Run a script; see docs/guide/reader.md
    Run {
        /// The script; - for standard input
        script: PathBuf,
    },
}

/// Bytes, written in hexadecimal digits.
#[derive(Clone, Debug)]
struct Bytes(Vec<u8>);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode_upper(&self.0))
    }
}

fn aid(text: &str) -> Result<Bytes, String> {
    let bytes = hex::decode(text).map_err(|error| format!("not hexadecimal bytes: {error}"))?;
    crate::reader::aid(&bytes)
        .map(Bytes)
        .map_err(|error| error.to_string())
}

fn command(text: &str) -> Result<Bytes, String> {
    script::command(text)
        .map(Bytes)
        .map_err(|error| error.to_string())
}

/// Modes by name.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ModeName {
    /// Forward secure; the default
    Ratchet,
    /// The same keys for every command
    Fixed,
    /// The patent's first embodiment
    LegacyXor,
    /// Its second
    LegacyList,
    /// Its third
    LegacyOperations,
    /// Its claims 2 and 5: XOR and AND of old and current key, in turn
    LegacyTurns,
}

impl ModeName {
    pub(crate) const fn mode(self) -> Mode {
        match self {
            Self::Ratchet => Mode::Ratchet,
            Self::Fixed => Mode::Fixed,
            Self::LegacyXor => Mode::LegacyXor,
            Self::LegacyList => Mode::LegacyList,
            Self::LegacyOperations => Mode::LegacyOperations,
            Self::LegacyTurns => Mode::LegacyTurns,
        }
    }
}

/// Where the card is.
#[derive(Clone, Debug)]
enum At {
    Virtual,
    Elsewhere(CardAt),
}

fn where_card_is(text: &str) -> Result<At, String> {
    if text == "virtual" {
        return Ok(At::Virtual);
    }
    super::agent::where_card_is(text)
        .map(At::Elsewhere)
        .map_err(|why| format!("{why}; or virtual, for a card in this process"))
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mkey = mkey(args).or_usage()?;
    if args.show_secrets && mkey.as_bytes() != test_key::MKEY {
        return usage("--show-secrets is for the test card: with another MKEY no key is shown".to_owned());
    }
    let script = match &args.what {
        What::Run { script } => Some(parse(script).or_usage()?),
        _ => None,
    };
    let has_frames = matches!(&args.card, At::Elsewhere(CardAt::Link(..)));
    if !args.trace.is_empty() && (!has_frames || matches!(args.what, What::Listen { .. })) {
        return usage(
            "--trace: whole APDUs have no frames; give a card that has, as --card t1=tcp:HOST:PORT"
                .to_owned(),
        );
    }
    let style = if args.json { Style::Json } else { Style::Text };
    let mut trace = Trace::new(style, args.show_secrets);
    if let What::Listen { listen, allow } = &args.what {
        return answer(args, *listen, allow, mkey, &trace);
    }
    let mut card: Box<dyn Card> = match &args.card {
        At::Virtual => Box::new(test_card::new()?),
        At::Elsewhere(at) => {
            let traces = frames::Trace::taps(&args.trace)?;
            at.open_traced(Duration::from_secs(args.timeout), &traces)?
        }
    };
    let lanes = |separate: bool| if separate { Lanes::Separate } else { Lanes::Shared };
    if script.is_none() {
        select(&mut *card, &mut trace, &args.aid.0)?;
    }
    match &args.what {
        What::Send {
            mode,
            separate,
            refresh,
            commands,
        } => {
            let setup = Setup {
                mode: mode.mode(),
                lanes: lanes(*separate),
                refresh_every: *refresh,
            };
            return send(&mut *card, &mut trace, &mkey, setup, commands);
        }
        What::Figure { number, separate } => {
            figures::run(&mut *card, &mut trace, &mkey, *number, lanes(*separate))?;
        }
        What::Run { script: path } => {
            let good = script.map_or(Ok(0), |script| script.run(&mut *card, &mut trace, &mkey));
            let good = good.with_context(|| path.display().to_string())?;
            trace.say(&format!("{good} answers as expected"));
        }
        What::Listen { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Plays the other end.
fn answer(
    args: &Args,
    address: SocketAddr,
    allow: &[ModeName],
    mkey: AesKey,
    trace: &Trace,
) -> Result<ExitCode> {
    if !address.ip().is_loopback() {
        return usage(format!(
            "{address} is open to others; listen on 127.0.0.1:{} and forward it if you must",
            address.port()
        ));
    }
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    trace.say(&format!("listening on {}", listener.local_addr()?));
    let policy = allow
        .iter()
        .fold(Policy::new(), |policy, name| policy.allow(name.mode()));
    let setup = listen::Setup {
        mkey,
        policy,
        patience: Duration::from_secs(args.timeout),
    };
    listen::run(&listener, setup, trace)?;
    Ok(ExitCode::SUCCESS)
}

/// Exit code 1 when the card refused a command.
fn send(
    card: &mut dyn Card,
    trace: &mut Trace,
    mkey: &AesKey,
    setup: Setup,
    commands: &[Bytes],
) -> Result<ExitCode> {
    let mut session = Session::open(card, trace, mkey, setup)?;
    for Bytes(command) in commands {
        let answer = session.send(card, trace, command)?;
        if !matches!(answer.sw >> 8, 0x90 | 0x62 | 0x63) {
            bail!(
                "{}: the card answers {:04X}, {}",
                words::command(command),
                answer.sw,
                StatusWord(answer.sw).meaning()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<String> {
    if path.as_os_str() == "-" {
        return files::read_stdin();
    }
    files::read_text(path)
}

fn parse(path: &Path) -> Result<Script> {
    let script = Script::parse(&read(path)?).with_context(|| path.display().to_string())?;
    if script.has_key()
        && let Ok(metadata) = path.metadata()
    {
        files::warn_of_readers(path, &metadata);
    }
    Ok(script)
}

fn mkey(args: &Args) -> Result<AesKey> {
    let text = match &args.key_file {
        Some(path) if path.as_os_str() != "-" => Some(files::read_secret(path)?),
        Some(path) => Some(Zeroizing::new(read(path)?)),
        None => std::env::var("SEKISHO_MKEY").ok().map(Zeroizing::new),
    };
    let Some(text) = text else {
        return Ok(AesKey::aes128(test_key::MKEY));
    };
    let line = text.lines().next().unwrap_or_default().trim();
    let bytes = hex::decode(line)
        .map(Zeroizing::new)
        .context("MKEY is not in hexadecimal digits")?;
    AesKey::new(&bytes).context("MKEY has 16, 24 or 32 bytes")
}
