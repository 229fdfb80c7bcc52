//! The state machine between a connection and an SE.

use core::fmt;

use sekisho_apdu::{CApdu, Cla, RApdu, StatusWord, Writer};

use crate::correspondence::Correspondence;
use crate::inbound::{Inbound, Part};
use crate::outbound::{Malformed, Outbound, Record};
use crate::{AGAIN, RECORD_HEADER, RECORD_MAX, SESSION_OVER, Why, ins, tls_class};

/// What a device knows before a session begins.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'t> {
    /// The logical channel on which the TLS Manager is selected, 0 to 3.
    pub channel: u8,
    /// The same table as the SE's.
    pub table: Correspondence<'t>,
    /// How many bytes one command carries at most, 8 at least: 255, or more where device, line and SE have extended length fields.
    pub command_data: u16,
}

impl Settings<'_> {
    /// Basic logical channel, no table, short length fields.
    pub const DEFAULT: Self = Self {
        channel: 0,
        table: Correspondence::IDENTITY,
        command_data: 255,
    };
}

/// Memory for a session. It is overwritten at each OPEN.
pub struct Buffers<'b> {
    /// A record from the connection: [`Buffers::RECORD`] bytes at least.
    pub record: &'b mut [u8],
    /// An answer of the SE, its longest: a whole flight.
    pub answer: &'b mut [u8],
    /// A command: its data and 9 bytes.
    pub command: &'b mut [u8],
}

impl Buffers<'_> {
    /// The longest record with its header.
    pub const RECORD: usize = RECORD_HEADER + RECORD_MAX;
    /// What a command takes beside its data.
    pub const COMMAND: usize = 9;
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The SE said so (6285). All that it had to say has been given out.
    BySe,
    /// The SE answered with this status word.
    Refused(StatusWord),
    /// The SE's answer is none, or longer than the buffer for it.
    Answer,
    /// The connection was gone and the SE knows.
    Disconnected,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BySe => f.write_str("the SE ended the TLS session"),
            Self::Refused(sw) => write!(f, "the SE answered {sw}"),
            Self::Answer => f.write_str("what the SE answered is no part of a TLS session"),
            Self::Disconnected => f.write_str("the connection was lost"),
        }
    }
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Send this command to the SE, and give its answer to [`Bridge::answered`].
    Command(&'a [u8]),
    /// Send this record on the connection.
    Send(Record<'a>),
    /// Read from the connection into [`Bridge::space`], and say how much with [`Bridge::received`] or that it is closed with [`Bridge::close`].
    Receive,
    /// The session is over: close the connection.
    Over(Ended),
}

/// One TLS session of an SE with a server.
///
/// Ask for [`step`](Self::step) and do it, again and again. Between two steps [`close`](Self::close) may be called at any time.
///
/// ```
/// # use sekisho_bridge::{Bridge, Buffers, Settings, Step};
/// # fn run(mut transmit: impl FnMut(&[u8]) -> Vec<u8>, mut read: impl FnMut(&mut [u8]) -> usize, mut write: impl FnMut(&[u8])) -> sekisho_bridge::Ended {
/// let (mut record, mut answer, mut command) = ([0; Buffers::RECORD], [0; 4096], [0; 264]);
/// let buffers = Buffers { record: &mut record, answer: &mut answer, command: &mut command };
/// let mut bridge = Bridge::new(Settings::DEFAULT, buffers).unwrap();
/// bridge.open(1, None);
/// loop {
///     match bridge.step() {
///         Step::Command(command) => {
///             let answer = transmit(command);
///             bridge.answered(&answer);
///         }
///         Step::Send(record) => {
///             write(record.header());
///             write(record.body);
///         }
///         Step::Receive => match read(bridge.space()) {
///             0 => bridge.close(sekisho_bridge::Why::Disconnected),
///             len => bridge.received(len),
///         },
///         Step::Over(ended) => return ended,
///     }
/// }
/// # }
/// ```
pub struct Bridge<'b> {
    settings: Settings<'b>,
    cla: Cla,
    inbound: Inbound<'b>,
    outbound: Outbound<'b>,
    command: &'b mut [u8],
    /// How long the command is to which an answer is awaited.
    len: usize,
    state: State,
    /// The piece that is on its way, and how many of its bytes have gone.
    part: Option<(Part, usize)>,
    /// To be told to the SE before anything else.
    closing: Option<Why>,
    /// Answers in a row that brought nothing and said that more is to come.
    empty: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// A command goes next, if there is something to send.
    Ready,
    /// The command in the buffer has no answer yet; whether it is the last of its chain, or has no chain, and whether it is CLOSE.
    Awaiting {
        last: bool,
        close: bool,
    },
    /// Records are given out; then it is over, or not.
    Sending {
        over: bool,
    },
    Over(Ended),
}

/// How many empty answers with 61XX are taken in a row.
const EMPTY_MAX: u8 = 8;
/// INS of GET RESPONSE (ISO/IEC 7816-4, 11.7.1).
const GET_RESPONSE: u8 = 0xC0;

impl<'b> Bridge<'b> {
    /// A bridge without a session. `None` when the channel has no TLS class or the buffers are too short for the settings.
    pub fn new(settings: Settings<'b>, buffers: Buffers<'b>) -> Option<Self> {
        let inbound = Inbound::new(buffers.record);
        let needs = usize::from(settings.command_data) + Buffers::COMMAND;
        let fits = inbound.holds_a_record() && buffers.command.len() >= needs && settings.command_data >= 8;
        let cla = tls_class(settings.channel).filter(|_| fits)?;
        Some(Self {
            settings,
            cla,
            inbound,
            outbound: Outbound::new(buffers.answer),
            command: buffers.command,
            len: 0,
            state: State::Over(Ended::Disconnected),
            part: None,
            closing: None,
            empty: 0,
        })
    }

    /// Begins a session with the peer in this row of the SE's table; `time` is the device's, in seconds since 1970, which the SE need not believe.
    /// What was of an earlier session is forgotten.
    pub fn open(&mut self, peer: u16, time: Option<u64>) {
        self.inbound.clear();
        self.outbound.clear();
        (self.part, self.closing, self.empty) = (None, None, 0);
        let [p1, p2] = peer.to_be_bytes();
        let time = time.map(u64::to_be_bytes);
        let data = time.as_ref().map_or(&[][..], |bytes| &bytes[..]);
        let command = CApdu::new(self.cla, ins::OPEN, p1, p2).with_data(data);
        self.state = match encode(command, self.command) {
            Some(len) => {
                self.len = len;
                AWAITING
            }
            None => State::Over(Ended::Answer),
        };
    }

    /// Has the SE end the session; what it then has to say (`close_notify`, an alert) is given out, unless the connection is gone.
    pub fn close(&mut self, why: Why) {
        if !matches!(self.state, State::Over(_)) && self.closing.is_none() {
            self.closing = Some(why);
        }
    }

    /// Where bytes of the connection go: not empty when [`Step::Receive`] is said.
    pub fn space(&mut self) -> &mut [u8] {
        self.inbound.space()
    }

    /// So many bytes have been written to [`space`](Self::space).
    pub fn received(&mut self, len: usize) {
        self.inbound.filled(len);
    }

    /// What is to be done next. Asked again before it was done, it is the same.
    pub fn step(&mut self) -> Step<'_> {
        if let State::Sending { over } = self.state
            && !self.is_sending()
        {
            self.outbound.forget();
            self.state = match over {
                true if self.is_disconnected() => State::Over(Ended::Disconnected),
                true => State::Over(Ended::BySe),
                false => State::Ready,
            };
        }
        if self.state == State::Ready && !self.prepare() {
            return Step::Receive;
        }
        match self.state {
            State::Over(ended) => Step::Over(ended),
            State::Sending { .. } => match self.outbound.next(self.cla, &self.settings.table) {
                Ok(Some(record)) => Step::Send(record),
                _ => Step::Over(Ended::Answer),
            },
            _ => Step::Command(self.command.get(..self.len).unwrap_or_default()),
        }
    }

    fn is_disconnected(&self) -> bool {
        self.closing == Some(Why::Disconnected)
    }

    /// Whether there are records left of the answer, and somebody who would get them.
    fn is_sending(&self) -> bool {
        self.outbound.has_more() && !self.is_disconnected()
    }

    /// Makes the next command, if there is one.
    fn prepare(&mut self) -> bool {
        if self.closing.is_none() && self.part.is_none() {
            match self.inbound.next(&self.settings.table) {
                Ok(part) => self.part = part.map(|part| (part, 0)),
                Err(why) => self.closing = Some(why),
            }
        }
        let (command, last) = match (self.closing, &self.part) {
            (Some(why), _) => (CApdu::new(self.cla, ins::CLOSE, why as u8, 0), true),
            (None, Some((part, sent))) => {
                let most = usize::from(self.settings.command_data);
                let data = self.inbound.bytes(part, *sent, most);
                let last = sent + data.len() >= part.extent.len();
                let [p1, p2] = part.extent.p1p2();
                let cla = if last { self.cla } else { Cla(self.cla.0 | CHAINED) };
                (CApdu::new(cla, part.ins, p1, p2).with_data(data), last)
            }
            (None, None) => return false,
        };
        match encode(command, self.command) {
            Some(len) => {
                self.len = len;
                let close = self.closing.is_some();
                self.state = State::Awaiting { last, close };
            }
            None => self.state = State::Over(Ended::Answer),
        }
        true
    }

    /// The answer to the command of the last step; ignored when there was none.
    pub fn answered(&mut self, response: &[u8]) {
        let State::Awaiting { last, close } = self.state else {
            return;
        };
        self.state = match self.take(response, last, close) {
            Ok(state) => state,
            Err(ended) => State::Over(ended),
        };
    }

    fn take(&mut self, response: &[u8], last: bool, close: bool) -> Result<State, Ended> {
        let response = RApdu::parse(response).map_err(|_| Ended::Answer)?;
        let malformed = |Malformed| Ended::Answer;
        let over = response.sw == SESSION_OVER || close;
        match response.sw {
            sw if sw.sw1() == 0x61 => {
                self.empty = match response.data {
                    [] => self.empty + 1,
                    _ => 0,
                };
                if self.empty > EMPTY_MAX {
                    return Err(Ended::Answer);
                }
                self.outbound.push(response.data).map_err(malformed)?;
                // On the same logical channel.
                let ne = if sw.sw2() == 0 { 256 } else { sw.sw2().into() };
                let cla = Cla(self.settings.channel);
                let command = CApdu::new(cla, GET_RESPONSE, 0, 0).with_ne(ne);
                self.len = write(command, self.command).ok_or(Ended::Answer)?;
                Ok(State::Awaiting { last, close })
            }
            StatusWord::NO_ERROR | SESSION_OVER => {
                self.empty = 0;
                self.outbound.push(response.data).map_err(malformed)?;
                self.outbound
                    .check(self.cla, &self.settings.table)
                    .map_err(malformed)?;
                if !last && !over && self.outbound.has_more() {
                    return Err(Ended::Answer);
                }
                self.advance();
                Ok(State::Sending { over })
            }
            AGAIN if self.part.is_some() && !close && response.data.is_empty() && self.inbound.again() => {
                self.part = None;
                Ok(State::Ready)
            }
            sw => Err(Ended::Refused(sw)),
        }
    }

    /// What the last command carried is with the SE.
    fn advance(&mut self) {
        let Some((part, sent)) = &mut self.part else {
            return;
        };
        *sent += usize::from(self.settings.command_data);
        if *sent >= part.extent.len() {
            self.part = None;
            self.inbound.done();
        }
    }
}

/// The bit of CLA that says that a chain goes on.
const CHAINED: u8 = 0x10;

/// The state behind a command that is no part of a chain.
const AWAITING: State = State::Awaiting {
    last: true,
    close: false,
};

/// A command into its buffer. Each may be answered with data: also one in a chain, when the session ends there.
fn encode(command: CApdu<'_>, out: &mut [u8]) -> Option<usize> {
    let ne = if command.data.len() > 255 { 65_536 } else { 256 };
    write(command.with_ne(ne), out)
}

fn write(command: CApdu<'_>, out: &mut [u8]) -> Option<usize> {
    let mut out = Writer::new(out);
    command.encode(&mut out).ok()?;
    Some(out.len())
}
