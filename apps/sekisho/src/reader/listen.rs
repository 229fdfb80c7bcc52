//! The other end, without a card: a terminal that answers the one that sends the commands (`docs/spec/rolling-secure-messaging.md`, 8). It has one file, and ends when its
//! peer has left.

use core::time::Duration;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use sekisho_apdu::{CApdu, SecureMessaging, StatusWord};
use sekisho_keys::{AesKey, Rng as _};
use sekisho_messaging::card::CardMessaging;
use sekisho_messaging::schedule::{Schedule, ScheduleError};
use sekisho_messaging::setup::{
    CHALLENGE_LEN, CardOpened, INS_REFRESH, INS_SESSION_KEY_DECRYPTION, OPENING_ANSWER_MAX, Policy,
    open_card, refresh_secret,
};
use sekisho_messaging::{EphemeralKey, PUBLIC_KEY_LEN, SmError};
use sekisho_transport::{CardSide, Response, Served, Stop, serve_listener};
use zeroize::Zeroizing;

use super::encode;
use super::trace::Trace;
use crate::card::element::SystemRng;

/// Longest protected answer: the file, its data objects, the status word.
const ANSWER_MAX: usize = 400;
/// Longest plain data of a command.
const DATA_MAX: usize = 1024;
/// Identifier and length of the file of the figures.
const FILE: [u8; 2] = [0x00, 0x11];
const FILE_LEN: usize = 256;

/// What a terminal needs to answer.
pub(crate) struct Setup {
    pub(crate) mkey: AesKey,
    pub(crate) policy: Policy,
    /// How long to wait for a peer, and for each of its messages.
    pub(crate) patience: Duration,
}

/// Answers one peer until it leaves.
///
/// # Errors
/// When nobody comes, or falls silent, or nothing was exchanged, or secure messaging was closed by an error.
pub(crate) fn run(listener: &TcpListener, setup: Setup, trace: &Trace) -> Result<()> {
    let (stop, heard) = (Stop::new(), Arc::new(AtomicU32::new(0)));
    let patience = setup.patience;
    let watch = thread::spawn({
        let (stop, heard) = (stop.clone(), Arc::clone(&heard));
        move || {
            // False while something is heard in every such span.
            loop {
                let before = heard.load(Ordering::Relaxed);
                if stop.wait(patience) {
                    return false;
                }
                if heard.load(Ordering::Relaxed) == before {
                    stop.stop();
                    return true;
                }
            }
        }
    });
    let mut terminal = Terminal::new(setup, trace, Arc::clone(&heard));
    let served = serve_listener(listener, &mut terminal, &stop, &mut |event| match event {
        Served::Connected(_) | Served::Waiting(_) => {
            heard.fetch_add(1, Ordering::Relaxed);
        }
        Served::Disconnected(_) => stop.stop(),
        Served::Refused(_) | Served::Linked(_) | Served::Unlinked(_) => {}
    });
    stop.stop();
    let was_silent = watch.join().unwrap_or(false);
    served.context("the listener failed")?;
    if let Some(error) = terminal.closed {
        bail!(
            "secure messaging was closed: {error}; {} exchanges before",
            terminal.exchanges
        );
    }
    match (terminal.exchanges, was_silent) {
        (0, true) => bail!("nobody spoke within {} s", patience.as_secs()),
        (0, false) => bail!("the other end left before anything was exchanged under secure messaging"),
        (_, true) => bail!("the other end fell silent"),
        (exchanges, false) => {
            trace.say(&format!("{exchanges} exchanges; the other end has left"));
            Ok(())
        }
    }
}

/// A terminal in the card's role.
struct Terminal<'t> {
    setup: Setup,
    trace: &'t Trace,
    heard: Arc<AtomicU32>,
    challenge: Option<[u8; CHALLENGE_LEN]>,
    messaging: Option<Box<CardMessaging<Schedule, ANSWER_MAX>>>,
    content: [u8; FILE_LEN],
    selected: bool,
    exchanges: u32,
    /// Why secure messaging was closed.
    closed: Option<SmError>,
}

/// Data and status word, or the status word of a refusal.
type Outcome = Result<(Vec<u8>, StatusWord), StatusWord>;

/// SW1SW2: the file ends before Ne bytes; no EF is current (ISO/IEC 7816-4, Table 6).
const END_OF_FILE: StatusWord = StatusWord(0x6282);
const NO_CURRENT_EF: StatusWord = StatusWord(0x6986);

impl<'t> Terminal<'t> {
    const fn new(setup: Setup, trace: &'t Trace, heard: Arc<AtomicU32>) -> Self {
        Self {
            setup,
            trace,
            heard,
            challenge: None,
            messaging: None,
            content: [0; FILE_LEN],
            selected: false,
            exchanges: 0,
            closed: None,
        }
    }

    fn answer(&mut self, bytes: &[u8]) -> Vec<u8> {
        let Ok(command) = CApdu::parse(bytes) else {
            return self.refuse(SmError::Malformed);
        };
        if self.messaging.is_some() {
            return self
                .protected(&command)
                .unwrap_or_else(|error| self.refuse(error));
        }
        let outcome = self.in_the_clear(&command);
        let (data, sw) = split(outcome);
        let response = Response { data, sw: sw.0 };
        self.trace.plain(bytes, &response);
        [&response.data[..], &sw.bytes()].concat()
    }

    fn refuse(&mut self, error: SmError) -> Vec<u8> {
        if self.messaging.take().is_some() {
            self.trace.say(&format!("secure messaging is closed: {error}"));
            self.closed = Some(error);
        }
        error.status().bytes().to_vec()
    }

    fn in_the_clear(&mut self, command: &CApdu<'_>) -> Outcome {
        if command.cla.secure_messaging() != SecureMessaging::None {
            return Err(StatusWord::SECURITY_STATUS_NOT_SATISFIED);
        }
        match (command.cla.proprietary(), command.ins, command.p1) {
            (false, 0xA4, 0x04) => done(&[]),
            (false, 0x84, _) if command.ne.map(usize::try_from) == Some(Ok(CHALLENGE_LEN)) => {
                let mut challenge = [0; CHALLENGE_LEN];
                SystemRng.fill(&mut challenge);
                self.challenge = Some(challenge);
                done(&challenge)
            }
            (true, INS_SESSION_KEY_DECRYPTION, _) => self.open(command),
            (false, 0xA4 | 0xB0 | 0xD0 | 0xD6, _) => Err(StatusWord::SECURITY_STATUS_NOT_SATISFIED),
            _ => Err(StatusWord::INS_NOT_SUPPORTED),
        }
    }

    fn open(&mut self, command: &CApdu<'_>) -> Outcome {
        let challenge = self.challenge.take();
        let challenge = challenge.ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
        let Setup { mkey, policy, .. } = &self.setup;
        let CardOpened { opened, answer } =
            open_card(policy, mkey, challenge, command, &mut SystemRng).map_err(|error| error.status())?;
        self.messaging = Some(Box::new(CardMessaging::new(opened.schedule, opened.ssc)));
        self.selected = false;
        done(answer.write(&mut [0; OPENING_ANSWER_MAX]))
    }

    fn protected(&mut self, command: &CApdu<'_>) -> Result<Vec<u8>, SmError> {
        let mut plain = Zeroizing::new([0; DATA_MAX]);
        let messaging = self.messaging.as_mut().ok_or(SmError::Closed)?;
        let command = match messaging.receive_parsed(command, plain.as_mut()) {
            Ok(Some(command)) => command,
            Ok(None) => return Ok(messaging.last_answer().to_vec()),
            Err(SmError::TooLong) => return Ok(messaging.answer(&[], StatusWord::WRONG_LENGTH)?.to_vec()),
            Err(error) => return Err(error),
        };
        let is_refresh = command.cla.proprietary() && command.ins == INS_REFRESH && command.p1p2() == 0;
        let outcome = if is_refresh {
            self.refresh(command.data)?
        } else {
            self.carry_out(&command)
        };
        let (data, sw) = split(outcome);
        self.exchanges += 1;
        let shown = Response {
            data: data.clone(),
            sw: sw.0,
        };
        self.trace
            .answered(self.exchanges, &encode(&command).unwrap_or_default(), &shown);
        let messaging = self.messaging.as_mut().ok_or(SmError::Closed)?;
        Ok(messaging.answer(&data, sw)?.to_vec())
    }

    /// REFRESH KEYS.
    ///
    /// # Errors
    /// When the mode takes none: secure messaging ends.
    fn refresh(&mut self, reader_key: &[u8]) -> Result<Outcome, SmError> {
        if reader_key.len() != PUBLIC_KEY_LEN {
            return Ok(Err(StatusWord::WRONG_LENGTH));
        }
        let own = EphemeralKey::generate(&mut SystemRng).map_err(ScheduleError::from)?;
        let card_key = own.public_key();
        let secret = match refresh_secret(&self.setup.mkey, own, reader_key, &card_key) {
            Ok(secret) => secret,
            Err(error) => return Ok(Err(error.status())),
        };
        let messaging = self.messaging.as_mut().ok_or(SmError::Closed)?;
        messaging.refresh(secret.as_ref())?;
        Ok(done(&card_key))
    }

    fn carry_out(&mut self, command: &CApdu<'_>) -> Outcome {
        match (command.cla.proprietary(), command.ins) {
            (false, 0xA4) if command.data == FILE => {
                self.selected = true;
                done(&[])
            }
            (false, 0xA4) => Err(StatusWord::FILE_NOT_FOUND),
            (false, 0xB0) => {
                let bytes = self.content.get(self.offset(command)?..).unwrap_or_default();
                let wanted = usize::try_from(command.ne.unwrap_or(256)).unwrap_or(usize::MAX);
                match bytes.get(..wanted) {
                    Some(bytes) => done(bytes),
                    // Ne of 256 or 65536 asks for all there is.
                    None if matches!(wanted, 256 | 65_536) => done(bytes),
                    None => Ok((bytes.to_vec(), END_OF_FILE)),
                }
            }
            (false, 0xD0 | 0xD6) => {
                let at = self.offset(command)?;
                let place = self.content.get_mut(at..at + command.data.len());
                place
                    .ok_or(StatusWord::WRONG_LENGTH)?
                    .copy_from_slice(command.data);
                done(&[])
            }
            _ => Err(StatusWord::INS_NOT_SUPPORTED),
        }
    }

    /// Where a BINARY command works: short identifier 1 in P1, or the file that is selected.
    fn offset(&self, command: &CApdu<'_>) -> Result<usize, StatusWord> {
        let offset = match command.p1 {
            0x81 => usize::from(command.p2),
            0x00..=0x7F if self.selected => usize::from(command.p1p2()),
            0x00..=0x7F => return Err(NO_CURRENT_EF),
            _ => return Err(StatusWord::FILE_NOT_FOUND),
        };
        if offset < FILE_LEN {
            Ok(offset)
        } else {
            Err(StatusWord::WRONG_PARAMETERS)
        }
    }
}

fn done(data: &[u8]) -> Outcome {
    Ok((data.to_vec(), StatusWord::NO_ERROR))
}

fn split(outcome: Outcome) -> (Vec<u8>, StatusWord) {
    outcome.unwrap_or_else(|sw| (Vec::new(), sw))
}

impl CardSide for Terminal<'_> {
    fn atr(&mut self) -> Vec<u8> {
        // ISO/IEC 7816-3: TS and T0, nothing follows.
        vec![0x3B, 0x00]
    }

    fn reset(&mut self) {
        self.challenge = None;
        self.messaging = None;
    }

    fn transmit(&mut self, capdu: &[u8], out: &mut [u8]) -> usize {
        self.heard.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer(capdu);
        match out.get_mut(..answer.len()) {
            Some(place) => {
                place.copy_from_slice(&answer);
                answer.len()
            }
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::trace::Style;

    /// Whatever comes, in the clear or under secure messaging, gets a status word.
    #[test]
    fn any_bytes_get_an_answer() {
        let trace = Trace::new(Style::Json, false);
        let setup = Setup {
            mkey: AesKey::aes128([7; 16]),
            policy: Policy::every_mode(),
            patience: Duration::from_secs(1),
        };
        let mut terminal = Terminal::new(setup, &trace, Arc::default());
        let own = |terminal: &mut Terminal<'_>| {
            terminal.reset();
            let challenge: [u8; 18] = terminal.answer(&[0x00, 0x84, 0, 0, 16]).try_into().unwrap();
            let setup = super::super::Setup {
                mode: sekisho_messaging::setup::Mode::Ratchet,
                lanes: sekisho_messaging::schedule::Lanes::Shared,
                refresh_every: 4,
            };
            let challenge = *challenge.first_chunk().unwrap();
            let opening = super::super::Opening::new(&AesKey::aes128([7; 16]), setup, challenge).unwrap();
            let command = opening.command().unwrap();
            assert!(terminal.answer(&command).ends_with(&[0x90, 0x00]));
            command
        };
        let command = own(&mut terminal);
        let mut random = [0; 300];
        for round in 0..4000_usize {
            SystemRng.fill(&mut random);
            let len = usize::from(random[0]).min(round % 256 + 1);
            let mut bytes = random[1..=len].to_vec();
            match round % 4 {
                // A class and an instruction that mean something, and a damaged opening.
                0 if len > 4 => {
                    bytes[0] = [0x00, 0x80, 0x0C, 0x8C][round / 4 % 4];
                    bytes[1] = [0xA4, 0x84, 0x5A, 0x5C, 0xB0, 0xD0][round / 16 % 6];
                    bytes[4] = u8::try_from(len - 5).unwrap_or(0);
                }
                1 => {
                    bytes.clone_from(&command);
                    let at = usize::from(random[2]) % bytes.len();
                    bytes[at] ^= random[3];
                }
                2 => drop(own(&mut terminal)),
                _ => {}
            }
            assert!(terminal.answer(&bytes).len() >= 2, "{bytes:02X?}");
        }
        assert_eq!(terminal.exchanges, 0, "nothing was carried out");
    }
}
