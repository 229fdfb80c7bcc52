//! The secure element's end of a socket: vpcd's client, and a listener.

use core::net::SocketAddr;
use core::time::Duration;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use socket2::SockRef;

use crate::error::TransportError;
use crate::frame::{Control, FromReader, REFUSED, encode};
use crate::stream::{Framed, connect, is_timeout, now};

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

    /// Power on, or a warm reset.
    fn reset(&mut self);

    /// Power off; also the loss of the connection to the reader. To most that is a reset.
    fn power_off(&mut self) {
        self.reset();
    }

    /// Processes one C-APDU, or what stands in its place; writes the R-APDU to `out` (65,535 bytes) and returns its length, at least 2.
    fn transmit(&mut self, capdu: &[u8], out: &mut [u8]) -> usize;

    /// What an application that has just answered has to say to the device of a reader's visit, once.
    fn announcement(&mut self) -> Option<Transaction> {
        None
    }
}

/// What a secure element says to its device of a reader's visit (ETSI TS 102 622, EVT_TRANSACTION).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The application, 5 to 16 bytes.
    pub aid: Vec<u8>,
    /// What it says, up to 32 bytes.
    pub parameters: Vec<u8>,
}

/// What happens to the connection, to be told to the operator.
#[derive(Debug)]
pub enum Served {
    /// A reader is there.
    Connected(SocketAddr),
    /// The reader is gone.
    Disconnected(TransportError),
    /// Another reader came while one was there, and was sent away with a reason.
    Refused(SocketAddr),
    /// A device is there, on a link.
    Linked(String),
    /// Another device came while one was there on a link, and was hung up on.
    Unlinked(String),
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
                if serve_one(stream, card, None, stop, tell) {
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

/// Offers the SE to whoever connects, one reader at a time, until stopped. Who comes while a reader is there is told so within half a second and sent away
/// ([`crate::frame::REFUSED`]).
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
    let mut door = Door::new(listener);
    while !stop.is_stopped() {
        let next = match door.waiting.take() {
            Some((stream, _)) => Ok(stream),
            None => listener.accept().map(|(stream, _)| stream),
        };
        match next {
            Ok(stream) => {
                serve_one(stream, card, Some(&mut door), stop, tell);
            }
            Err(error) if is_timeout(&error) || is_fleeting(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A listener while a reader is served: who comes now has to wait until it is sure that the one who is there has not just gone, and is sent away then.
struct Door<'l> {
    listener: &'l TcpListener,
    /// Who has come, and when.
    waiting: Option<(TcpStream, Instant)>,
    /// Who was sent away last: closed a while later, so that what it sends meanwhile does not destroy what it was told.
    leaving: Option<TcpStream>,
    looked: Instant,
}

impl<'l> Door<'l> {
    fn new(listener: &'l TcpListener) -> Self {
        Self {
            listener,
            waiting: None,
            leaving: None,
            looked: now(),
        }
    }

    /// Looks, now and then, whether somebody has come. The reader who is there, `holder`, has been `idle` for [`POLL`], or has just been heard.
    fn look(&mut self, holder: &str, idle: bool, tell: &mut dyn FnMut(Served)) {
        let is_late = |since: &Instant| since.elapsed() >= POLL;
        if let Some((stream, _)) = self.waiting.take_if(|(_, since)| idle || is_late(since)) {
            self.leaving = refuse(stream, holder, tell);
        }
        if !idle && !is_late(&self.looked) {
            return;
        }
        self.looked = now();
        if self.waiting.is_none() {
            self.waiting = self.accept().map(|stream| (stream, now()));
            if self.waiting.is_none() {
                self.leaving = None;
            }
        }
    }

    /// Whoever has come, without waiting. Whatever else is wrong with the listener is said when the reader who is there has gone.
    fn accept(&self) -> Option<TcpStream> {
        self.listener.set_nonblocking(true).ok()?;
        let accepted = self.listener.accept();
        self.listener.set_nonblocking(false).ok()?;
        let (stream, _) = accepted.ok()?;
        stream.set_nonblocking(false).ok()?;
        Some(stream)
    }
}

/// Tells a reader that another one is there.
fn refuse(mut stream: TcpStream, holder: &str, tell: &mut dyn FnMut(Served)) -> Option<TcpStream> {
    let words = format!("{REFUSED}{holder} is there, and an interface has one reader at a time\n");
    if let Ok(peer) = stream.peer_addr() {
        tell(Served::Refused(peer));
    }
    // So few bytes have room in any socket that has just been opened.
    stream.write_all(&encode(words.as_bytes())?).ok()?;
    Some(stream)
}

/// An incoming connection that ended before it was taken.
fn is_fleeting(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Serves one connection to its end: `door` is where others come meanwhile; without one the reader is vpcd. True when the reader sent anything.
fn serve_one(
    stream: TcpStream,
    card: &mut dyn CardSide,
    mut door: Option<&mut Door<'_>>,
    stop: &Stop,
    tell: &mut dyn FnMut(Served),
) -> bool {
    let peer = stream.peer_addr();
    let holder = match &peer {
        Ok(peer) => peer.to_string(),
        Err(_) => "another reader".to_owned(),
    };
    if let Ok(peer) = peer {
        tell(Served::Connected(peer));
    }
    let mut served = false;
    // After a control code vpcd waits for an answer: the code was a command of one byte, given by a client, who now waits for ever. Only hanging up helps, as
    // an answer to what was a control code after all would be taken for that of the next command.
    let is_polling = door.is_none();
    let mut silent_polls = None;
    let mut heard = |body: Option<&[u8]>| {
        let control = body.map(FromReader::parse);
        served |= body.is_some();
        silent_polls = match (control, silent_polls) {
            (Some(FromReader::Control(Control::GetAtr)), _) => None,
            (Some(FromReader::Control(_)), _) => Some(0),
            (Some(_), _) => None,
            (None, polls) => polls.map(|polls| polls + 1),
        };
        if is_polling && silent_polls >= Some(SILENT_POLLS_MAX) {
            return Err(TransportError::SilentReader);
        }
        if let Some(door) = &mut door
            && control != Some(FromReader::Control(Control::Off))
        {
            door.look(&holder, body.is_none(), tell);
        }
        Ok(())
    };
    let result = Framed::new(stream, POLL, FRAME)
        .map_err(TransportError::from)
        .and_then(|mut framed| answer_all(&mut framed, card, &mut heard, stop));
    card.power_off();
    if let Err(error) = result {
        tell(Served::Disconnected(error));
    }
    served
}

/// Answers until the reader has gone. `heard` is told of each frame, and where none has come for [`POLL`].
fn answer_all(
    framed: &mut Framed,
    card: &mut dyn CardSide,
    heard: &mut impl FnMut(Option<&[u8]>) -> Result<(), TransportError>,
    stop: &Stop,
) -> Result<(), TransportError> {
    while !stop.is_stopped() {
        let body = framed.receive()?;
        match body.as_deref().map(FromReader::parse) {
            None => {}
            Some(FromReader::Control(Control::GetAtr)) => framed.send(&card.atr())?,
            Some(FromReader::Control(Control::Off)) => card.power_off(),
            Some(FromReader::Control(Control::On | Control::Reset)) => card.reset(),
            // A reader that sends this waits for an answer, without limit.
            Some(FromReader::Unknown) => framed.send(&WRONG_LENGTH)?,
            Some(FromReader::Command(capdu)) => framed.send_with(|out| answer(card, capdu, out))?,
        }
        heard(body.as_deref())?;
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
