//! Secure elements in PC/SC readers.

use core::ffi::CStr;
use core::time::Duration;
use std::ffi::CString;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;

use crate::card::Card;
use crate::error::{PcscError, TransportError, sound_command, sound_response};
use crate::frame::BODY_MAX;
use crate::stream::now;
use crate::winscard::{Connection, Context};

/// How long an SE that comes back may take between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A reader that PC/SC knows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reader {
    name: CString,
    holds_card: bool,
}

impl Reader {
    fn name(&self) -> String {
        self.name.to_string_lossy().into_owned()
    }
}

fn readers() -> Result<Vec<Reader>, TransportError> {
    let context = Context::establish()?;
    let mut readers = Vec::new();
    for name in context.readers()? {
        readers.push(Reader {
            holds_card: context.holds_card(&name)?,
            name,
        });
    }
    Ok(readers)
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
    /// Connects to the SE in the reader whose name contains `reader`, whatever the case; an empty name means any. Of several that fit it takes the only one that
    /// holds a card. `timeout` bounds each answer, and the wait for an SE that is not there yet or comes back after a loss of power.
    ///
    /// # Errors
    /// When there is no library, no service, no such reader, no SE in it, or more than one reader with a card.
    pub fn open(reader: &str, timeout: Duration) -> Result<Self, TransportError> {
        let begun = now();
        let reader = loop {
            match choose(reader, &readers()?) {
                Choice::One(reader) => break reader,
                Choice::NoCard(_) if begun.elapsed() < timeout => look_again(),
                Choice::NoCard(error) | Choice::None(error) => return Err(error),
            }
        };
        let mut card = Self {
            reader,
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

/// Which reader is meant.
#[derive(Debug)]
enum Choice {
    One(CString),
    /// Several fit and no card is in any of them: one may come yet.
    NoCard(TransportError),
    None(TransportError),
}

/// The reader with this name, or the only one whose name contains it, or the only one of those that holds a card.
fn choose(wanted: &str, readers: &[Reader]) -> Choice {
    let names = |readers: &[&Reader]| match readers {
        [] => "none".to_owned(),
        some => some
            .iter()
            .map(|reader| reader.name())
            .collect::<Vec<_>>()
            .join(", "),
    };
    if let Some(exact) = readers.iter().find(|reader| reader.name() == wanted) {
        return Choice::One(exact.name.clone());
    }
    let fitting: Vec<&Reader> = readers
        .iter()
        .filter(|reader| reader.name().to_lowercase().contains(&wanted.to_lowercase()))
        .collect();
    let holding: Vec<&Reader> = fitting
        .iter()
        .copied()
        .filter(|reader| reader.holds_card)
        .collect();
    match (&fitting[..], &holding[..]) {
        ([one], _) | (_, [one]) => Choice::One(one.name.clone()),
        ([], _) => Choice::None(TransportError::NoReader {
            wanted: wanted.to_owned(),
            present: names(&readers.iter().collect::<Vec<_>>()),
        }),
        (_, []) => Choice::NoCard(TransportError::SeveralReaders {
            wanted: wanted.to_owned(),
            readers: names(&fitting),
            found: "none of them holds a card".to_owned(),
        }),
        (_, several) => Choice::None(TransportError::SeveralReaders {
            wanted: wanted.to_owned(),
            readers: names(&fitting),
            found: format!("these hold a card: {}", names(several)),
        }),
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
    connected: Option<Connection>,
}

impl Held {
    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        let kept = self
            .connected
            .take()
            .and_then(|mut connected| connected.reset().is_ok().then_some(connected));
        // What could not be reset is let go of by now: a card that this process holds could not be connected to again.
        let connected = match kept {
            Some(connected) => connected,
            None => connect_within(&self.reader, self.patience)?,
        };
        let atr = connected.atr()?;
        self.connected = Some(connected);
        Ok(atr)
    }

    fn transmit(&self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        let connected = self.connected.as_ref().ok_or(TransportError::GivenUp)?;
        let mut buffer = vec![0; BODY_MAX];
        let command = if connected.is_t0() {
            without_le(capdu)
        } else {
            capdu
        };
        Ok(connected.transmit(command, &mut buffer)?.to_vec())
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
fn connect_within(reader: &CStr, patience: Duration) -> Result<Connection, TransportError> {
    let begun = now();
    loop {
        match Context::establish()?.connect(reader) {
            Ok(connected) => return Ok(connected),
            Err(
                PcscError::NO_SMARTCARD
                | PcscError::REMOVED_CARD
                | PcscError::RESET_CARD
                | PcscError::SHARING_VIOLATION
                | PcscError::UNPOWERED_CARD
                | PcscError::UNRESPONSIVE_CARD,
            ) if begun.elapsed() < patience => look_again(),
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

    fn reader(name: &str, holds_card: bool) -> Reader {
        Reader {
            name: CString::new(name).unwrap(),
            holds_card,
        }
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
        let virtual_pcd = |slot: u8, holds| reader(&format!("Virtual PCD 00 0{slot}"), holds);
        let other = |holds| reader("ACS ACR39U 01 00", holds);
        for (wanted, readers, expected) in [
            (
                "acr39",
                vec![virtual_pcd(0, true), other(false)],
                "ACS ACR39U 01 00",
            ),
            (
                "Virtual PCD 00 01",
                vec![virtual_pcd(0, true), virtual_pcd(1, false)],
                "Virtual PCD 00 01",
            ),
            // vpcd's two slots with one card.
            (
                "Virtual PCD",
                vec![virtual_pcd(0, true), virtual_pcd(1, false)],
                "Virtual PCD 00 00",
            ),
            (
                "virtual",
                vec![virtual_pcd(0, false), virtual_pcd(1, true)],
                "Virtual PCD 00 01",
            ),
            ("", vec![virtual_pcd(0, false), other(true)], "ACS ACR39U 01 00"),
            ("", vec![reader("the only one", false)], "the only one"),
            // A name that another one begins with is still exact.
            ("A", vec![reader("A", false), reader("AB", true)], "A"),
        ] {
            let Choice::One(name) = choose(wanted, &readers) else {
                panic!("{wanted}: no reader");
            };
            assert_eq!(name.to_str().unwrap(), expected, "{wanted}");
        }
    }

    #[test]
    fn readers_are_listed_when_there_is_doubt() {
        let both = |first, second| [reader("A 00 00", first), reader("A 00 01", second)];
        for (wanted, readers, may_come, parts) in [
            (
                "a",
                &both(true, true)[..],
                false,
                &["these hold a card: A 00 00, A 00 01"][..],
            ),
            (
                "a",
                &both(false, false),
                true,
                &["A 00 00, A 00 01 fit 'pcsc:a'", "none of them holds a card"],
            ),
            (
                "omnikey",
                &both(true, false),
                false,
                &["no reader is named 'omnikey'", "A 00 00, A 00 01"],
            ),
            ("", &[], false, &["there are: none"]),
        ] {
            let (error, waits) = match choose(wanted, readers) {
                Choice::One(name) => panic!("{wanted}: {name:?}"),
                Choice::NoCard(error) => (error.to_string(), true),
                Choice::None(error) => (error.to_string(), false),
            };
            assert_eq!(waits, may_come, "{wanted}");
            for part in parts {
                assert!(error.contains(part), "{error}");
            }
        }
    }
}
