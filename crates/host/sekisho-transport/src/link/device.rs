//! A secure element behind a link, in the role of its reader.

use core::time::Duration;
use std::io;
use std::os::fd::AsFd as _;
use std::time::Instant;

use sekisho_block::lr1::{From, Reader, Record};
use sekisho_block::{Ended, Micros, Power};
use zeroize::Zeroize as _;

use super::address::{LinkAddress, Stream, wait};
use super::device_end::{DeviceEnd, DeviceLine};
use super::tap::{Seen, Tap};
use crate::card::Card;
use crate::error::{TransportError, sound_command, sound_response};
use crate::serve::Transaction;
use crate::stream::{is_timeout, now};

/// Bytes of the longest record that a card sends: what a poll can ask for.
const RECORD: usize = 65_534;

/// A secure element behind a link: its protocol's own frames, by link records. A command whose outcome is not known is never sent again from here.
pub struct LinkCard {
    line: DeviceLine,
    address: LinkAddress,
    timeout: Duration,
    end: Box<dyn DeviceEnd>,
    connection: Option<Connection>,
    tap: Option<Tap>,
}

struct Connection {
    /// None once the card has been switched off by closing it.
    stream: Option<Stream>,
    /// None where characters go as they are.
    reader: Option<Box<Reader<RECORD>>>,
    /// Where that is, for opening it again: the only reset of such a line.
    address: LinkAddress,
    /// The card has been switched on.
    is_on: bool,
    chunk: Box<[u8]>,
    since: Instant,
    tap: Option<Tap>,
}

impl Connection {
    fn now(&self) -> Micros {
        Micros(u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Sends one record with one write.
    fn send(&mut self, record: &Record<'_>) -> Result<(), TransportError> {
        tell(self.tap.as_ref(), Seen::Record(From::Device, *record));
        if self.reader.is_none() {
            return self.send_raw(record);
        }
        let len = record.write(&mut self.chunk).ok_or(TransportError::Closed)?;
        let sent = self.stream.as_mut().map(|stream| stream.send(&self.chunk[..len]));
        self.chunk[..len].zeroize();
        sent.ok_or(TransportError::Closed)?.map_err(hang_up)
    }

    /// Opening the line is power on, and closing it is power off: a reset is both.
    fn send_raw(&mut self, record: &Record<'_>) -> Result<(), TransportError> {
        match record {
            Record::Data(characters) => {
                let stream = self.stream.as_mut().ok_or(TransportError::Closed)?;
                stream.send(characters).map_err(hang_up)?;
            }
            Record::On | Record::Reset => {
                if core::mem::replace(&mut self.is_on, true) {
                    self.stream = None;
                    self.stream = Some(Stream::connect(&self.address, Duration::ZERO)?);
                }
            }
            _ => self.stream = None,
        }
        Ok(())
    }

    /// What is due happens, and what is to be said is sent.
    fn act(&mut self, end: &mut dyn DeviceEnd) -> Result<(), TransportError> {
        let now = self.now();
        end.expire(now);
        if let Some(power) = end.power(now) {
            self.send(&match power {
                Power::On => Record::On,
                Power::Off => Record::Off,
                Power::Reset => Record::Reset,
            })?;
        }
        let mut failed = Ok(());
        while failed.is_ok() && end.say(now, &mut |record| failed = self.send(&record)) {}
        failed
    }

    /// What comes until the next deadline, or `until`, is heard.
    fn listen(&mut self, end: &mut dyn DeviceEnd, until: Micros) -> Result<(), TransportError> {
        let at = end.deadline().map_or(until, |at| at.min(until));
        let micros = at.0.saturating_sub(self.now().0);
        let stream = self.stream.as_mut().ok_or(TransportError::Closed)?;
        let [readable] = wait([Some(stream.as_fd())], micros)?;
        if !readable {
            return Ok(());
        }
        let n = match stream.receive(&mut self.chunk) {
            Ok(0) => return Err(TransportError::Closed),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(hang_up(error)),
        };
        let now = self.now();
        let mut bytes = &self.chunk[..n];
        let Some(reader) = &mut self.reader else {
            let record = Record::Data(bytes);
            tell(self.tap.as_ref(), Seen::Record(From::Card, record));
            let heard = end.hear(now, record);
            self.chunk[..n].zeroize();
            return if heard {
                Ok(())
            } else {
                Err(TransportError::Closed)
            };
        };
        loop {
            match reader.read(&mut bytes) {
                Ok(Some(record)) => {
                    tell(self.tap.as_ref(), Seen::Record(From::Card, record));
                    if !end.hear(now, record) {
                        return Err(TransportError::Closed);
                    }
                }
                Ok(None) => break,
                Err(_) => return Err(TransportError::Closed),
            }
        }
        self.chunk[..n].zeroize();
        Ok(())
    }
}

fn tell(tap: Option<&Tap>, seen: Seen<'_>) {
    if let Some(tap) = tap {
        tap(seen);
    }
}

/// A peer that is gone is gone in one word.
fn hang_up(error: io::Error) -> TransportError {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset => TransportError::Closed,
        // It takes no more, for as long as an answer may take.
        _ if is_timeout(&error) => TransportError::Timeout,
        _ => error.into(),
    }
}

impl LinkCard {
    /// Connects, powers the secure element on, and comes to an ATR or whatever the protocol begins with. `timeout` bounds connecting and each answer.
    ///
    /// # Errors
    /// When nobody listens there, another reader is there, or the secure element does not answer as the protocol wants.
    pub fn open(line: DeviceLine, address: &LinkAddress, timeout: Duration) -> Result<Self, TransportError> {
        Self::tapped(line, address, timeout, None)
    }

    /// The same, while somebody reads along.
    ///
    /// # Errors
    /// As of [`LinkCard::open`].
    pub fn tapped(
        line: DeviceLine,
        address: &LinkAddress,
        timeout: Duration,
        tap: Option<Tap>,
    ) -> Result<Self, TransportError> {
        let mut card = Self {
            line,
            address: address.clone(),
            timeout,
            end: line.end(),
            connection: None,
            tap,
        };
        card.reset()?;
        Ok(card)
    }

    /// On a wire with several ends (SWP: the device itself on the APDU gate, readers of type A and B) another one speaks from here on. What the others have begun stands.
    ///
    /// # Errors
    /// When this wire has no such end, or its card does not let it in.
    pub fn turn_to(&mut self, line: DeviceLine) -> Result<(), TransportError> {
        if !self.end.turn_to(line) {
            return Err(TransportError::GivenUp);
        }
        self.line = line;
        self.opened().map(drop)
    }

    /// What the end that speaks has begun is over, and the others on its wire do not notice: the application layer of the APDU gate is reset before its next command (EVT_ABORT), a reader goes out of the field and comes again with its next command.
    ///
    /// # Errors
    /// When this wire has no other ends, or the connection breaks.
    pub fn renew(&mut self) -> Result<(), TransportError> {
        let connection = self.connection.as_mut().ok_or(TransportError::GivenUp)?;
        let now = connection.now();
        if !self.end.renew(now) {
            return Err(TransportError::GivenUp);
        }
        connection.act(&mut *self.end)
    }

    /// What the secure element has said last of a reader's visit on this wire (EVT_TRANSACTION), of what has come with exchanges so far.
    #[must_use]
    pub fn transaction(&self) -> Option<Transaction> {
        self.end.transaction()
    }

    /// Goes on until something holds; the connection is given up where it does not within the time, or breaks.
    fn until(&mut self, done: impl Fn(&dyn DeviceEnd) -> bool) -> Result<(), TransportError> {
        let connection = self.connection.as_mut().ok_or(TransportError::GivenUp)?;
        let micros = u64::try_from(self.timeout.as_micros()).unwrap_or(u64::MAX);
        let until = connection.now().after(micros);
        let result = loop {
            if let Err(error) = connection.act(&mut *self.end) {
                break error;
            }
            if done(&*self.end) {
                return Ok(());
            }
            if connection.now() >= until {
                break TransportError::Timeout;
            }
            if let Err(error) = connection.listen(&mut *self.end, until) {
                break error;
            }
        };
        self.connection = None;
        Err(result)
    }

    fn opened(&mut self) -> Result<Vec<u8>, TransportError> {
        self.until(|end| end.opened().is_some())?;
        match self.end.opened() {
            Some(Ok(atr)) => Ok(atr.to_vec()),
            Some(Err(fault)) => Err(TransportError::NoSession(fault)),
            None => Err(TransportError::Timeout),
        }
    }

    fn connect(&mut self) -> Result<(), TransportError> {
        let stream = Stream::connect(&self.address, self.timeout)?;
        self.end = self.line.end();
        let reader = || Box::new(Reader::new(self.line.records(), From::Card));
        self.connection = Some(Connection {
            reader: (!stream.is_raw()).then(reader),
            stream: Some(stream),
            address: self.address.clone(),
            is_on: false,
            chunk: vec![0; RECORD + 8].into_boxed_slice(),
            since: now(),
            tap: self.tap.clone(),
        });
        Ok(())
    }
}

impl Card for LinkCard {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        sound_command(capdu)?;
        let connection = self.connection.as_ref().ok_or(TransportError::GivenUp)?;
        if !self.end.start(connection.now(), capdu) {
            return Err(TransportError::GivenUp);
        }
        tell(self.tap.as_ref(), Seen::Command(capdu));
        self.until(|end| end.ended().is_some())?;
        match self.end.ended() {
            Some(Ended::Answer(answer)) => {
                tell(self.tap.as_ref(), Seen::Answer(answer));
                sound_response(answer.to_vec())
            }
            Some(Ended::NotRun(fault)) => Err(TransportError::NotRun(fault)),
            Some(Ended::Unknown(fault)) => Err(TransportError::Unknown(fault)),
            None => Err(TransportError::Timeout),
        }
    }

    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        if let Some(connection) = &self.connection {
            self.end.reset(connection.now());
            match self.opened() {
                Err(TransportError::Closed | TransportError::Io(_) | TransportError::Timeout) => {}
                opened => return opened,
            }
        }
        self.connect()?;
        self.opened()
    }
}

impl Drop for LinkCard {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            // The end of the stream is power off as well.
            let _ = connection.send(&Record::Off);
        }
    }
}
