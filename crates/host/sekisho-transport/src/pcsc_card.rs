//! Secure elements in PC/SC readers.

use core::ffi::CStr;
use core::time::Duration;
use std::ffi::CString;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;

use pcsc::{Context, Disposition, Protocol, Protocols, Scope, ShareMode};

use crate::card::Card;
use crate::error::{TransportError, sound_command, sound_response};
use crate::frame::BODY_MAX;
use crate::stream::now;

/// How long an SE that comes back may take between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Names of the readers that PC/SC knows.
///
/// # Errors
/// When there is no PC/SC service.
pub fn readers() -> Result<Vec<String>, TransportError> {
    let names = match Context::establish(Scope::User)?.list_readers_owned() {
        Ok(names) => names,
        Err(pcsc::Error::NoReadersAvailable) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    Ok(names
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect())
}

/// A secure element in a PC/SC reader, held exclusively: a secure channel is lost when somebody else talks in between.
///
/// PC/SC has no time limit for a command, so that each SE has a thread of its own, which is left behind when it hangs.
pub struct PcscCard {
    reader: CString,
    timeout: Duration,
    worker: Option<Worker>,
}

struct Worker {
    jobs: SyncSender<Job>,
    answers: Receiver<Result<Vec<u8>, TransportError>>,
}

enum Job {
    Reset,
    Transmit(Vec<u8>),
}

impl PcscCard {
    /// Connects to the SE in the one reader whose name contains `reader`, whatever the case; an empty name means the only reader.
    /// `timeout` bounds each answer, and the wait for an SE that comes back after a loss of power.
    ///
    /// # Errors
    /// When there is no service, no such reader, more than one, or no SE in it.
    pub fn open(reader: &str, timeout: Duration) -> Result<Self, TransportError> {
        let names = readers()?;
        let chosen = choose(reader, &names)?;
        let no_reader = |_| TransportError::NoReader {
            wanted: reader.to_owned(),
            present: names.join(", "),
        };
        let mut card = Self {
            reader: CString::new(chosen).map_err(no_reader)?,
            timeout,
            worker: None,
        };
        card.reset()?;
        Ok(card)
    }

    fn ask(&mut self, job: Job) -> Result<Vec<u8>, TransportError> {
        let worker = self.worker.as_ref().ok_or(TransportError::GivenUp)?;
        let answer = match worker.jobs.send(job) {
            Ok(()) => worker.answers.recv_timeout(self.timeout),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        };
        match answer {
            Ok(result) => result,
            Err(error) => {
                self.worker = None;
                Err(match error {
                    RecvTimeoutError::Timeout => TransportError::Timeout,
                    RecvTimeoutError::Disconnected => TransportError::GivenUp,
                })
            }
        }
    }
}

impl Card for PcscCard {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        sound_command(capdu)?;
        sound_response(self.ask(Job::Transmit(capdu.to_vec()))?)
    }

    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        if self.worker.is_none() {
            // The worker gives up before we do, so that its reason is heard.
            self.worker = Some(Worker::start(self.reader.clone(), self.timeout.mul_f32(0.8)));
        }
        self.ask(Job::Reset)
    }
}

/// The one reader whose name contains `wanted`, or is it.
fn choose<'a>(wanted: &str, names: &'a [String]) -> Result<&'a str, TransportError> {
    if let Some(exact) = names.iter().find(|name| *name == wanted) {
        return Ok(exact);
    }
    let mut fitting = names
        .iter()
        .filter(|name| name.to_lowercase().contains(&wanted.to_lowercase()));
    match (fitting.next(), fitting.next()) {
        (Some(name), None) => Ok(name),
        _ => {
            let present = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            };
            Err(TransportError::NoReader {
                wanted: wanted.to_owned(),
                present,
            })
        }
    }
}

impl Worker {
    fn start(reader: CString, patience: Duration) -> Self {
        let (jobs, inbox) = sync_channel::<Job>(1);
        let (outbox, answers) = sync_channel(1);
        thread::spawn(move || {
            let mut held = Held {
                reader,
                patience,
                connected: None,
                is_t0: false,
            };
            while let Ok(job) = inbox.recv() {
                let result = match job {
                    Job::Reset => held.reset(),
                    Job::Transmit(capdu) => held.transmit(&capdu),
                };
                if outbox.send(result).is_err() {
                    break;
                }
            }
        });
        Self { jobs, answers }
    }
}

/// The worker's end of the connection. Dropping it disconnects, which ends every secure channel.
struct Held {
    reader: CString,
    patience: Duration,
    connected: Option<(Context, pcsc::Card)>,
    is_t0: bool,
}

impl Held {
    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        let reconnected = self
            .connected
            .as_mut()
            .map(|(_, card)| card.reconnect(ShareMode::Exclusive, Protocols::ANY, Disposition::ResetCard));
        if !matches!(reconnected, Some(Ok(()))) {
            self.connected = None;
            self.connected = Some(connect_within(&self.reader, self.patience)?);
        }
        let (_, card) = self.connected.as_ref().ok_or(TransportError::GivenUp)?;
        let status = card.status2_owned()?;
        self.is_t0 = status.protocol2() == Some(Protocol::T0);
        Ok(status.atr().to_vec())
    }

    fn transmit(&self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        let (_, card) = self.connected.as_ref().ok_or(TransportError::GivenUp)?;
        let mut buffer = vec![0; BODY_MAX];
        let command = if self.is_t0 { without_le(capdu) } else { capdu };
        Ok(card.transmit(command, &mut buffer)?.to_vec())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((_, card)) = self.connected.take() {
            // Nothing is left to be done when it is gone already.
            let _ = card.disconnect(Disposition::ResetCard);
        }
    }
}

/// What T=0 carries of a short command with data and Le: all but Le. The SE announces its answer with 61xx (ISO/IEC 7816-3, 12.2.1).
const fn without_le(capdu: &[u8]) -> &[u8] {
    match capdu {
        [command @ .., _le] if capdu.len() > 6 && capdu[4] != 0 && capdu.len() == 6 + capdu[4] as usize => {
            command
        }
        whole => whole,
    }
}

/// Connects, waiting for an SE that is not there yet or is held by somebody else.
fn connect_within(reader: &CStr, patience: Duration) -> Result<(Context, pcsc::Card), TransportError> {
    use pcsc::Error::{
        NoSmartcard, RemovedCard, ResetCard, SharingViolation, UnpoweredCard, UnresponsiveCard,
    };
    let begun = now();
    let context = Context::establish(Scope::User)?;
    loop {
        match context.connect(reader, ShareMode::Exclusive, Protocols::ANY) {
            Ok(card) => return Ok((context, card)),
            Err(
                NoSmartcard | RemovedCard | ResetCard | SharingViolation | UnpoweredCard | UnresponsiveCard,
            ) if begun.elapsed() < patience => {
                look_again();
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this ring does the waiting, on a thread of its own"
)]
fn look_again() {
    thread::sleep(LOOK_AGAIN);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn t0_gets_no_le_beside_data() {
        assert_eq!(
            without_le(&[0x80, 0x50, 0, 0, 2, 1, 2, 0]),
            [0x80, 0x50, 0, 0, 2, 1, 2]
        );
        for whole in [
            &[0x80, 0x50, 0, 0][..],
            &[0x80, 0xCA, 0, 0xCF, 0],
            &[0x80, 0xCA, 0, 0xCF, 1],
            &[0x84, 0x82, 0, 0, 2, 1, 2],
            &[0x80, 0x50, 0, 0, 0, 0, 2, 1, 2, 0, 0],
        ] {
            assert_eq!(without_le(whole), whole);
        }
    }

    #[test]
    fn a_reader_is_chosen_only_when_there_is_no_doubt() {
        let names = named(&["Virtual PCD 00 00", "Virtual PCD 00 01", "ACS ACR39U 01 00"]);
        assert_eq!(choose("acr39", &names).unwrap(), "ACS ACR39U 01 00");
        assert_eq!(choose("Virtual PCD 00 01", &names).unwrap(), "Virtual PCD 00 01");
        for (wanted, names) in [
            ("virtual", names.clone()),
            ("", names.clone()),
            ("omnikey", names),
            ("", named(&[])),
        ] {
            assert!(
                matches!(choose(wanted, &names), Err(TransportError::NoReader { .. })),
                "{wanted}"
            );
        }
        assert_eq!(choose("", &named(&["the only one"])).unwrap(), "the only one");
        // A name that another one begins with is still exact.
        assert_eq!(choose("A", &named(&["A", "AB"])).unwrap(), "A");
    }
}
