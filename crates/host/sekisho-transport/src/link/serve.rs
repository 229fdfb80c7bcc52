//! The secure element's end of links.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use sekisho_block::lr1::{From, Reader, Record};
use sekisho_block::{Micros, Power};
use zeroize::{Zeroize as _, Zeroizing};

use super::address::{LinkListener, Stream, wait};
use super::card_end::{CardEnd, CardLine};
use super::tap::{Seen, Tap};
use super::through::{Chip, ThroughCard};
use crate::error::TransportError;
use crate::serve::{CardSide, Served, Stop, Transaction};
use crate::stream::now;

/// How often a wait looks whether it shall end; also how long whoever comes while a device is there waits until it is sure that that one has not just gone.
const POLL: Duration = Duration::from_millis(250);
/// Bytes of the longest record that a device sends.
const RECORD: usize = 65_534;
/// Bytes of the longest R-APDU.
const RAPDU: usize = 65_538;

/// A line and the sides of the secure element that it carries.
pub struct Lines {
    /// What is spoken.
    pub line: CardLine,
    /// As many as [`CardLine::sides`]: on a bus the embedded secure element's, then the eUICC's; on a wire the APDU gate's, then those of readers of type A and of type B. One that is left out answers nothing.
    pub sides: Vec<Box<dyn CardSide + Send>>,
    /// Eight bytes that no other card chooses, for the session of HCI.
    pub fresh: [u8; 8],
    /// Who reads along.
    pub tap: Option<Tap>,
    /// On a line of characters: a chip that speaks them itself, in place of sides.
    pub chip: Option<Chip>,
}

/// What the thread that runs commands is asked for.
enum Job {
    /// Power on or reset; on a line with several sides the first command decides who has the interface.
    Power,
    Off,
    Reset(usize),
    SideOff(usize),
    Run(u32, usize, Zeroizing<Vec<u8>>),
}

/// An answer: of which power cycle, which side; what the device is to be told beside it.
type Answered = (u32, usize, Zeroizing<Vec<u8>>, Option<Transaction>);

/// Offers a secure element on a link to whoever connects, one device at a time, until stopped. Who comes while a device is there is hung up on.
///
/// # Errors
/// When the listener fails.
pub fn serve_link(
    listener: &mut LinkListener,
    lines: Lines,
    stop: &Stop,
    tell: &mut dyn FnMut(Served),
) -> Result<(), TransportError> {
    let Lines {
        line,
        mut sides,
        fresh,
        tap,
        chip,
    } = lines;
    let atr = sides.first_mut().map(|side| side.atr()).unwrap_or_default();
    let (jobs, asked) = mpsc::channel();
    let (answers, answered) = mpsc::channel();
    let (woken, wakes) = UnixStream::pair()?;
    woken.set_nonblocking(true)?;
    thread::scope(|scope| {
        scope.spawn(move || work(&mut sides, &asked, &answers, wakes));
        let mut serving = Serving {
            line,
            end: match chip {
                Some(chip) => Box::new(ThroughCard::new(chip)),
                None => line.end(&atr, fresh),
            },
            connection: None,
            power: 0,
            jobs,
            answered,
            woken,
            clock: Clock::Real(now()),
            waiting: None,
            tap,
        };
        let result = serving.run(listener, stop, tell);
        serving.hang_up(None, tell);
        result
        // The worker ends when nobody can ask it any more.
    })
}

/// Runs commands until nobody asks any more.
fn work(
    sides: &mut [Box<dyn CardSide + Send>],
    asked: &Receiver<Job>,
    answers: &Sender<Answered>,
    mut wakes: UnixStream,
) {
    let mut out = vec![0; RAPDU];
    let several = sides.len() > 1;
    while let Ok(job) = asked.recv() {
        match job {
            Job::Power if !several => sides.iter_mut().for_each(|side| side.reset()),
            Job::Power | Job::Off => sides.iter_mut().for_each(|side| side.power_off()),
            Job::Reset(side) => {
                if let Some(side) = sides.get_mut(side) {
                    side.reset();
                }
            }
            Job::SideOff(side) => {
                if let Some(side) = sides.get_mut(side) {
                    side.power_off();
                }
            }
            Job::Run(power, side, command) => {
                let len = sides
                    .get_mut(side)
                    .map_or(0, |side| side.transmit(&command, &mut out));
                let answer = Zeroizing::new(out.get(..len).unwrap_or_default().to_vec());
                out.get_mut(..len).unwrap_or_default().zeroize();
                let told = sides.get_mut(side).and_then(|side| side.announcement());
                // Whoever asked may be gone.
                let _ = answers.send((power, side, answer, told));
                let _ = wakes.write_all(&[0]);
            }
        }
    }
}

/// Time: the machine's, or the device's once it has said TICK.
enum Clock {
    Real(Instant),
    Virtual(Micros),
}

impl Clock {
    fn now(&self) -> Micros {
        match self {
            Self::Real(since) => Micros(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)),
            Self::Virtual(at) => *at,
        }
    }
}

struct Connection {
    stream: Stream,
    /// None where characters come as they are.
    reader: Option<Box<Reader<RECORD>>>,
    chunk: Box<[u8]>,
}

impl Connection {
    fn send(&mut self, record: &Record<'_>) -> Result<(), TransportError> {
        if self.reader.is_none() {
            let Record::Data(characters) = record else {
                return Err(TransportError::Link);
            };
            return Ok(self.stream.send(characters)?);
        }
        let len = record.write(&mut self.chunk).ok_or(TransportError::Closed)?;
        let sent = self.stream.send(&self.chunk[..len]);
        self.chunk[..len].zeroize();
        Ok(sent?)
    }
}

/// A record that has been read, on its own.
enum Heard {
    Data(Zeroizing<Vec<u8>>),
    Power,
    Off,
    Poll(u16),
    Tick(u32),
}

struct Serving {
    line: CardLine,
    end: Box<dyn CardEnd>,
    connection: Option<Connection>,
    /// Which power cycle this is: an answer of an earlier one is nobody's.
    power: u32,
    jobs: Sender<Job>,
    answered: Receiver<Answered>,
    woken: UnixStream,
    clock: Clock,
    /// Who has come while a device was there, and when.
    waiting: Option<(Stream, Instant)>,
    tap: Option<Tap>,
}

impl Serving {
    fn tell(&self, seen: Seen<'_>) {
        if let Some(tap) = &self.tap {
            tap(seen);
        }
    }

    fn run(
        &mut self,
        listener: &mut LinkListener,
        stop: &Stop,
        tell: &mut dyn FnMut(Served),
    ) -> Result<(), TransportError> {
        while !stop.is_stopped() {
            let timeout = self.timeout();
            let stream = self
                .connection
                .as_ref()
                .map(|connection| connection.stream.as_fd());
            let door = self.waiting.is_none().then(|| listener.as_fd());
            let woken = Some(self.woken.as_fd());
            let [come, heard, ..] = wait([door, stream, woken, self.end.line()], timeout)?;
            if come {
                self.waiting = listener.accept().map(|stream| (stream, now()));
            }
            if let Err(error) = self.turn(heard) {
                self.hang_up(Some(error), tell);
            }
            if let Err(error) = self.door(tell) {
                self.hang_up(Some(error), tell);
            }
        }
        Ok(())
    }

    /// How long nothing happens of itself, in microseconds.
    fn timeout(&self) -> u64 {
        let most = u64::try_from(POLL.as_micros()).unwrap_or(u64::MAX);
        match (&self.clock, self.end.deadline()) {
            (Clock::Real(_), Some(at)) => at.0.saturating_sub(self.clock.now().0).min(most),
            _ => most,
        }
    }

    /// Whoever waits is served when nobody is there any more, and sent away when that one stays.
    fn door(&mut self, tell: &mut dyn FnMut(Served)) -> Result<(), TransportError> {
        if let Some((stream, since)) = self.waiting.take() {
            if self.connection.is_none() {
                tell(Served::Linked(stream.peer()));
                self.clock = Clock::Real(now());
                let is_raw = stream.is_raw();
                let reader = || Box::new(Reader::new(self.line.records(), From::Device));
                self.connection = Some(Connection {
                    stream,
                    reader: (!is_raw).then(reader),
                    chunk: vec![0; RECORD + 8].into_boxed_slice(),
                });
                if is_raw {
                    self.tell(Seen::Record(From::Device, Record::On));
                    self.hear(Heard::Power)?;
                }
            } else if since.elapsed() >= POLL {
                tell(Served::Unlinked(stream.peer()));
            } else {
                self.waiting = Some((stream, since));
            }
        }
        Ok(())
    }

    /// The stream's end is power off.
    fn hang_up(&mut self, why: Option<TransportError>, tell: &mut dyn FnMut(Served)) {
        if self.connection.take().is_none() {
            return;
        }
        self.switch(false);
        if let Some(why) = why {
            tell(Served::Disconnected(why));
        }
    }

    fn switch(&mut self, on: bool) {
        self.power = self.power.wrapping_add(1);
        self.end.power(self.clock.now(), on);
        // The worker lives as long as this.
        let _ = self.jobs.send(if on { Job::Power } else { Job::Off });
    }

    fn turn(&mut self, heard: bool) -> Result<(), TransportError> {
        if heard {
            for record in self.receive()? {
                self.hear(record)?;
            }
        }
        self.pump()
    }

    fn receive(&mut self) -> Result<VecDeque<Heard>, TransportError> {
        let Some(connection) = &mut self.connection else {
            return Ok(VecDeque::new());
        };
        let n = match connection.stream.receive(&mut connection.chunk) {
            Ok(0) => return Err(TransportError::Closed),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error.into()),
        };
        let mut records = VecDeque::new();
        let mut bytes = &connection.chunk[..n];
        let Some(reader) = &mut connection.reader else {
            if n > 0 {
                if let Some(tap) = &self.tap {
                    tap(Seen::Record(From::Device, Record::Data(bytes)));
                }
                records.push_back(Heard::Data(Zeroizing::new(bytes.to_vec())));
                connection.chunk[..n].zeroize();
            }
            return Ok(records);
        };
        while let Some(record) = reader.read(&mut bytes).map_err(|_| TransportError::Link)? {
            if let Some(tap) = &self.tap {
                tap(Seen::Record(From::Device, record));
            }
            records.push_back(match record {
                Record::Data(data) => Heard::Data(Zeroizing::new(data.to_vec())),
                Record::On | Record::Reset => Heard::Power,
                Record::Off => Heard::Off,
                Record::Poll(n) => Heard::Poll(n),
                Record::Tick(micros) => Heard::Tick(micros),
                Record::Nak | Record::Tock => return Err(TransportError::Link),
            });
        }
        connection.chunk[..n].zeroize();
        Ok(records)
    }

    fn hear(&mut self, record: Heard) -> Result<(), TransportError> {
        let now = self.clock.now();
        match record {
            Heard::Data(data) => self.end.hear(now, Record::Data(&data)),
            Heard::Poll(n) => self.end.hear(now, Record::Poll(n)),
            Heard::Power => self.switch(true),
            Heard::Off => self.switch(false),
            Heard::Tick(micros) => return self.tick(micros),
        }
        self.pump()
    }

    /// Virtual time: all that is due within it happens in it.
    fn tick(&mut self, micros: u32) -> Result<(), TransportError> {
        let until = self.clock.now().after(micros.into());
        self.clock = Clock::Virtual(self.clock.now());
        loop {
            self.pump()?;
            match self.end.deadline().filter(|at| *at <= until) {
                Some(at) => {
                    self.clock = Clock::Virtual(at.max(self.clock.now()));
                    self.end.expire(self.clock.now());
                }
                None => break,
            }
        }
        self.clock = Clock::Virtual(until);
        self.connection
            .as_mut()
            .map_or(Ok(()), |connection| connection.send(&Record::Tock))
    }

    /// What is due happens, commands go to whoever runs them, answers come back, and what is to be said is sent.
    fn pump(&mut self) -> Result<(), TransportError> {
        loop {
            let now = self.clock.now();
            if matches!(self.clock, Clock::Real(_)) {
                self.end.expire(now);
            }
            while let Some((side, power)) = self.end.power_wanted() {
                let _ = self.jobs.send(match power {
                    Power::Off => Job::SideOff(side),
                    Power::On | Power::Reset => Job::Reset(side),
                });
            }
            let mut ran = false;
            if let Some((side, command)) = self.end.command() {
                let command = Zeroizing::new(command.to_vec());
                self.tell(Seen::Command(&command));
                let job = Job::Run(self.power, side, command);
                self.end.take(now, side);
                let _ = self.jobs.send(job);
                ran = true;
            }
            let answered = self.answers(ran && matches!(self.clock, Clock::Virtual(_)));
            self.say()?;
            if !ran && !answered {
                return Ok(());
            }
        }
    }

    /// Takes the answers that have come. In virtual time a command takes none: its answer is waited for.
    fn answers(&mut self, wait: bool) -> bool {
        let mut any = false;
        loop {
            let answered = if wait && !any {
                self.answered.recv().ok()
            } else {
                self.answered.try_recv().ok()
            };
            let Some((power, side, answer, told)) = answered else {
                return any;
            };
            let mut byte = [0; 64];
            // What woke us is read away; more of it wakes us once more.
            let _ = self.woken.read(&mut byte);
            if power == self.power {
                self.tell(Seen::Answer(&answer));
                if let Some(told) = told {
                    self.end.announce(side, &told);
                }
                self.end.answer(self.clock.now(), side, &answer);
                any = true;
            }
        }
    }

    fn say(&mut self) -> Result<(), TransportError> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let now = self.clock.now();
        let tap = self.tap.as_ref();
        let mut result = Ok(());
        let mut send = |record: Record<'_>| {
            if let Some(tap) = tap {
                tap(Seen::Record(From::Card, record));
            }
            result = connection.send(&record);
            result.is_ok()
        };
        let mut goes_on = true;
        while goes_on && self.end.say(now, &mut |record| goes_on = send(record)) {}
        result
    }
}
