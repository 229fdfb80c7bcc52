//! The secure element's end of a socket: vpcd's client, and a listener.

use core::net::SocketAddr;
use core::time::Duration;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use socket2::SockRef;

use crate::error::TransportError;
use crate::frame::{Control, FromReader};
use crate::stream::{Framed, connect, is_timeout};

/// How often a wait looks whether it shall end.
const POLL: Duration = Duration::from_millis(250);
/// How long a reader may take for one frame.
const FRAME: Duration = Duration::from_secs(10);
/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// First wait after a lost connection; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest wait between two attempts to connect.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Polls without a word from vpcd, which asks for the ATR every 0.4 s, until it is taken for stuck: 2 s.
const SILENT_POLLS_MAX: u32 = 8;
/// SW1SW2 for what is no command (6700) and for an SE that gives no status word (6F00).
const WRONG_LENGTH: [u8; 2] = [0x67, 0x00];
const NO_PRECISE_DIAGNOSIS: [u8; 2] = [0x6F, 0x00];

/// A secure element, to be offered to readers.
pub trait CardSide {
    /// The answer to reset.
    fn atr(&mut self) -> Vec<u8>;

    /// Power on, power off or warm reset; also the loss of the connection to the reader.
    fn reset(&mut self);

    /// Processes one C-APDU, or what stands in its place; writes the R-APDU to `out` (65,535 bytes) and returns its length, at least 2.
    fn transmit(&mut self, capdu: &[u8], out: &mut [u8]) -> usize;
}

/// What happens to the connection, to be told to the operator.
#[derive(Debug)]
pub enum Served {
    /// A reader is there.
    Connected(SocketAddr),
    /// The reader is gone.
    Disconnected(TransportError),
    /// No reader can be reached; said once until one is there.
    Waiting(TransportError),
}

/// Ends waiting loops from another thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// A stop that has not been asked for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the stop; every loop that has it ends within a quarter of a second.
    pub fn stop(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// True once it was asked for.
    pub fn is_stopped(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for so long, or until the stop is asked for. True when it is.
    pub fn wait(&self, duration: Duration) -> bool {
        let stopped = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .0
            .1
            .wait_timeout_while(stopped, duration, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Offers the SE to pcscd's virtual reader, which listens on `host:port`: connects, serves, and connects again until stopped.
pub fn serve_vpcd(address: &str, card: &mut dyn CardSide, stop: &Stop, tell: &mut dyn FnMut(Served)) {
    let mut pause = RETRY_MIN;
    let mut told = false;
    while !stop.is_stopped() {
        match connect(address, CONNECT) {
            Ok(stream) => {
                told = false;
                if serve_one(stream, card, Reader::Polling, stop, tell) {
                    pause = RETRY_MIN;
                }
            }
            Err(error) if !told => {
                told = true;
                tell(Served::Waiting(error.into()));
            }
            Err(_) => {}
        }
        stop.wait(pause);
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Offers the SE to whoever connects, one reader at a time, until stopped.
///
/// # Errors
/// When the listener fails.
pub fn serve_listener(
    listener: &TcpListener,
    card: &mut dyn CardSide,
    stop: &Stop,
    tell: &mut dyn FnMut(Served),
) -> Result<(), TransportError> {
    // SO_RCVTIMEO bounds accept as well.
    SockRef::from(listener).set_read_timeout(Some(POLL))?;
    while !stop.is_stopped() {
        match listener.accept() {
            Ok((stream, _)) => {
                serve_one(stream, card, Reader::Quiet, stop, tell);
            }
            Err(error) if is_timeout(&error) || is_fleeting(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// An incoming connection that ended before it was taken.
fn is_fleeting(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// What a reader's silence means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Nothing: it has no command.
    Quiet,
    /// After a control code, that it waits for an answer: the code was a command of one byte, given by a client, who now waits for ever. Only
    /// hanging up helps, as an answer to what was a control code after all would be taken for that of the next command.
    Polling,
}

/// Serves one connection to its end. True when the reader sent anything.
fn serve_one(
    stream: TcpStream,
    card: &mut dyn CardSide,
    reader: Reader,
    stop: &Stop,
    tell: &mut dyn FnMut(Served),
) -> bool {
    if let Ok(peer) = stream.peer_addr() {
        tell(Served::Connected(peer));
    }
    let mut served = false;
    let result = Framed::new(stream, POLL, FRAME)
        .map_err(TransportError::from)
        .and_then(|mut framed| answer_all(&mut framed, card, reader, stop, &mut served));
    card.reset();
    if let Err(error) = result {
        tell(Served::Disconnected(error));
    }
    served
}

fn answer_all(
    framed: &mut Framed,
    card: &mut dyn CardSide,
    reader: Reader,
    stop: &Stop,
    served: &mut bool,
) -> Result<(), TransportError> {
    let mut silent_polls = None;
    while !stop.is_stopped() {
        let Some(body) = framed.receive()? else {
            silent_polls = silent_polls.map(|polls| polls + 1);
            if silent_polls >= Some(SILENT_POLLS_MAX) && reader == Reader::Polling {
                return Err(TransportError::SilentReader);
            }
            continue;
        };
        *served = true;
        silent_polls = None;
        match FromReader::parse(&body) {
            FromReader::Control(Control::GetAtr) => framed.send(&card.atr())?,
            FromReader::Control(Control::Off | Control::On | Control::Reset) => {
                card.reset();
                silent_polls = Some(0);
            }
            // A reader that sends this waits for an answer, without limit.
            FromReader::Unknown => framed.send(&WRONG_LENGTH)?,
            FromReader::Command(capdu) => framed.send_with(|out| answer(card, capdu, out))?,
        }
    }
    Ok(())
}

fn answer(card: &mut dyn CardSide, capdu: &[u8], out: &mut [u8]) -> usize {
    match card.transmit(capdu, out) {
        len @ 2.. => len,
        _ => {
            out[..2].copy_from_slice(&NO_PRECISE_DIAGNOSIS);
            2
        }
    }
}
