//! `sekisho apdu`: commands to a secure element as they are.

use core::time::Duration;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Error, Result};
use clap::Args as ClapArgs;
use sekisho_apdu::StatusWord;
use sekisho_transport::{Card as _, TransportError};
use serde_json::json;

use super::agent::{CardAt, print_line, where_card_is};
use super::{UNKNOWN, report, usage};
use crate::trace::{self, Trace};

/// Send commands to a secure element as they are, over any protocol, and print its answers
///
/// An answer ends with its status word, whichever that is; the exit code says nothing of it. Exit code 3: the way to the secure element failed behind a command's last byte, and
/// it has run it or not; no later command is sent, and none is sent again.
#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The secure element and what is spoken to it: t0, t1, spi, spi-euicc, i2c, i2c-euicc or swp=tcp:HOST:PORT or =unix:PATH for the protocol's own frames; `tcp:HOST:PORT` and
    /// `pcsc:READER` for whole APDUs
    #[arg(long, visible_alias = "card", value_name = "TRANSPORT", value_parser = where_card_is)]
    transport: CardAt,

    /// Write down what goes over the line: as a person reads it, or as pcapng for Wireshark where the name ends with .pcapng; - for standard error. May be given several times; for a protocol's own
    /// frames alone
    #[arg(long, value_name = "FILE")]
    trace: Vec<PathBuf>,

    /// Seconds to wait for each answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,

    /// Print one JSON object a command on standard output
    #[arg(long)]
    json: bool,

    /// Commands in hexadecimal digits; `reset` resets the secure element
    #[arg(required = true, value_name = "APDU", value_parser = step)]
    commands: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Reset,
    Command(Vec<u8>),
}

fn step(text: &str) -> Result<Step, String> {
    if text == "reset" {
        return Ok(Step::Reset);
    }
    match hex::decode(text) {
        Ok(bytes) if bytes.len() >= 4 => Ok(Step::Command(bytes)),
        Ok(_) => Err("a command has four bytes at least".to_owned()),
        Err(error) => Err(format!("not hexadecimal bytes: {error}")),
    }
}

/// Sends one after the other.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let traces = Trace::taps(&args.trace)?;
    if !traces.is_empty() && !matches!(args.transport, CardAt::Link(..)) {
        return usage(
            "--trace: whole APDUs have no frames; give a transport that has, as t1=tcp:HOST:PORT".to_owned(),
        );
    }
    let mut card = args
        .transport
        .open_traced(Duration::from_secs(args.timeout), &traces)?;
    for step in &args.commands {
        let (sent, answer) = match step {
            Step::Reset => ("reset".to_owned(), card.reset()),
            Step::Command(capdu) => (hex::encode_upper(capdu), card.transmit(capdu)),
        };
        match answer {
            Ok(answer) => show(args.json, &sent, &answer, matches!(step, Step::Reset)),
            Err(error) => return failed(args.json, &sent, error),
        }
    }
    Ok(trace::exit_code())
}

fn show(is_json: bool, sent: &str, answer: &[u8], is_reset: bool) {
    let digits = hex::encode_upper(answer);
    let sw = answer
        .last_chunk()
        .filter(|_| !is_reset)
        .map(|sw| u16::from_be_bytes(*sw));
    match (is_json, sw) {
        (true, Some(sw)) => {
            print_line(&json!({"sent": sent, "received": digits, "sw": format!("{sw:04X}")}).to_string())
        }
        (true, None) => print_line(&json!({"sent": sent, "atr": digits}).to_string()),
        (false, Some(sw)) => print_line(&format!(
            "command  {sent}\nanswer   {digits}  {}",
            StatusWord(sw).meaning()
        )),
        (false, None) => print_line(&format!("{sent}\nATR      {digits}")),
    }
}

fn failed(is_json: bool, sent: &str, error: TransportError) -> Result<ExitCode> {
    let is_unknown = error.is_outcome_unknown();
    if is_json {
        let outcome = if is_unknown { "unknown" } else { "not run" };
        print_line(&json!({"sent": sent, "outcome": outcome, "error": error.to_string()}).to_string());
    }
    let says_so = matches!(error, TransportError::Unknown(_));
    let mut error = Error::from(error);
    if is_unknown && !says_so {
        error = error.context("outcome unknown, the secure element has run the command or not");
    }
    let error = error.context(sent.to_owned());
    if !is_unknown {
        return Err(error);
    }
    report(&error);
    Ok(ExitCode::from(UNKNOWN))
}
