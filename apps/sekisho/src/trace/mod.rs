//! `--trace FILE`: what goes over a link, as a person reads it, or as pcapng for Wireshark.
//!
//! Frames and APDUs have in them what is sent in the clear: a trace of a personalisation is a secret.

mod frames;
mod pcapng;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use sekisho_block::lr1::{From, Record};
use sekisho_transport::{Seen, Tap};

use frames::Reader;
use pcapng::Pcapng;

/// The names of wires, as [`sekisho_transport::DeviceLine`] and [`sekisho_transport::CardLine`] have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    T0,
    T1,
    Bus,
    Swp,
}

impl Wire {
    fn of(name: &str) -> Self {
        match name.split('-').next() {
            Some("t0") => Self::T0,
            Some("t1") => Self::T1,
            Some("swp") => Self::Swp,
            _ => Self::Bus,
        }
    }
}

/// Whoever writes down what is seen on any line; cloned for each.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<Out>>, Arc<Path>);

enum Out {
    /// It could not be written, which has been said.
    Lost,
    Text(Box<dyn Write + Send>, Instant),
    Pcapng(Pcapng<File>),
}

impl Trace {
    /// To a file: pcapng where its name ends so, else text; `-` is standard error. The file is readable by its owner alone.
    pub(crate) fn to(path: &Path) -> Result<Self> {
        let wrong = || format!("cannot write the trace {}", path.display());
        let out = if path.as_os_str() == "-" {
            Out::Text(Box::new(io::stderr()), started())
        } else {
            let file = File::create(path).with_context(wrong)?;
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("pcapng") => Out::Pcapng(Pcapng::new(file).with_context(wrong)?),
                _ => Out::Text(Box::new(file), started()),
            }
        };
        Ok(Self(Arc::new(Mutex::new(out)), path.into()))
    }

    /// All of an option that may be given several times, for one line.
    pub(crate) fn taps(paths: &[PathBuf]) -> Result<Vec<Self>> {
        paths.iter().map(|path| Self::to(path)).collect()
    }

    fn line(&self, name: &str, reader: &mut Reader, seen: Seen<'_>) {
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match &mut *out {
            Out::Lost => Ok(()),
            Out::Text(to, since) => match reader.words(seen) {
                Some(words) => {
                    let at = since.elapsed();
                    writeln!(
                        to,
                        "{:>4}.{:06} {name:<9} {words}",
                        at.as_secs(),
                        at.subsec_micros()
                    )
                }
                None => Ok(()),
            },
            Out::Pcapng(to) => to.see(now(), name, reader, seen),
        };
        // What it writes down does not end for it.
        if let Err(error) = written {
            *out = Out::Lost;
            lost(&self.1, &error);
        }
    }
}

/// Whether a trace has been lost.
static IS_LOST: AtomicBool = AtomicBool::new(false);

/// Says that a trace is lost; whoever writes it says it once.
pub(crate) fn lost(path: &Path, error: &io::Error) {
    IS_LOST.store(true, Ordering::Relaxed);
    // Standard error may be what cannot be written.
    let _ = writeln!(
        io::stderr(),
        "trace: {} cannot be written, and is not whole: {error}",
        path.display()
    );
}

/// The exit code of a command that has done all else: 1 where a trace that was asked for is not whole.
pub(crate) fn exit_code() -> ExitCode {
    match IS_LOST.load(Ordering::Relaxed) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// One tap on a line for all traces; none when there are none.
pub(crate) fn tap(traces: &[Trace], name: &'static str) -> Option<Tap> {
    if traces.is_empty() {
        return None;
    }
    let readers = traces
        .iter()
        .cloned()
        .map(|trace| (trace, Reader::new(Wire::of(name))));
    let readers = Mutex::new(readers.collect::<Vec<_>>());
    Some(Arc::new(move |seen| {
        let mut readers = readers.lock().unwrap_or_else(PoisonError::into_inner);
        for (trace, reader) in &mut *readers {
            trace.line(name, reader, seen);
        }
    }))
}

#[expect(clippy::disallowed_methods, reason = "a trace says when")]
fn started() -> Instant {
    Instant::now()
}

/// Microseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a trace says when")]
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// `>` is what the device says.
const fn arrow(from: From) -> char {
    match from {
        From::Device => '>',
        From::Card => '<',
    }
}

/// Whether a record has bytes of the line.
const fn data<'a>(record: &Record<'a>) -> Option<&'a [u8]> {
    match record {
        Record::Data(bytes) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
