//! The controller and terminal beside a secure element's host: the administration gate, and the APDU application gate.

use zeroize::Zeroize;

use super::contactless::Technology;
use super::end::End;
use super::field::{Field, Transaction};
use super::ids::{
    CLEAR_ALL_PIPE, CLOSE_PIPE, CMD_NOT_SUPPORTED, CREATE_PIPE, EVT_ABORT, EVT_ATR, EVT_C_APDU, EVT_R_APDU,
    EVT_WTX, GATE_APDU, GATE_APDU_APPLICATION, GET_PARAMETER, HOST_TERMINAL, NOTIFY_PIPE_CREATED, OK,
    OPEN_PIPE, PIPE_ADMIN, REG_PAR_UNKNOWN, SESSION_IDENTITY, SET_PARAMETER, WHITELIST,
};
use super::packet::{Buffer, Kind, Message, Queue};
use super::{SESSION_LEN, SHORT_MAX, Timing};
use crate::swp::INFORMATION_MAX;
use crate::{Ended, Fault, Micros};

/// How often a command on a pipe, or EVT_ABORT, is sent before it is given up.
const TRIES: u8 = 3;
/// How often a card may ask for time within an exchange.
const REQUESTS_MAX: u16 = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No link, or the card has not begun its session.
    Waiting,
    /// It has read its session's identity: it may begin anew, or go on.
    Begun,
    /// NOTIFY_PIPE_CREATED is out.
    Creating,
    /// OPEN_PIPE is.
    Opening,
    Ready,
    /// EVT_ABORT is, and a command waits behind it.
    Aborting,
    /// A command is out.
    Running,
    Failed,
}

/// What a packet is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Short,
    Command,
    Field,
}

/// A device beside a secure element's host, for APDUs of up to `LEN` - 1 bytes.
///
/// `linked` says that the link was set up, `hear` takes packets, `packet` and `sent` give them, `expire` is called at `deadline`. When it is `ready`, `start` begins an exchange, until `ended`. After one that did not end in an answer EVT_ABORT goes first.
#[derive(Clone, Debug)]
pub struct Device<const LEN: usize> {
    timing: Timing,
    host: u8,
    pipe: u8,
    /// What outlives power: the card's session, and whether the pipe exists.
    identity: [u8; SESSION_LEN],
    created: bool,
    state: State,
    out_of_step: bool,
    command: Buffer<LEN>,
    reached: bool,
    long: Buffer<LEN>,
    short: Buffer<SHORT_MAX>,
    out: Queue,
    end: Option<End>,
    tries: u8,
    requests: u16,
    waits_until: Option<Micros>,
    /// The contactless reader before it.
    field: Field<LEN>,
}

impl<const LEN: usize> Device<LEN> {
    /// A device for the host of this number, to whose APDU gate it creates this pipe; it has not seen the card before.
    #[must_use]
    pub fn new(timing: Timing, host: u8, pipe: u8) -> Self {
        Self {
            timing,
            host,
            pipe,
            identity: [0xFF; SESSION_LEN],
            created: false,
            state: State::Waiting,
            out_of_step: false,
            command: Buffer::default(),
            reached: false,
            long: Buffer::default(),
            short: Buffer::default(),
            out: Queue::default(),
            end: None,
            tries: 0,
            requests: 0,
            waits_until: None,
            field: Field::new(),
        }
    }

    /// The link stands, or stands anew, or the card has lost its power: what is under way ends, as not run or unknown. The card begins its session, within three times the longest time to a response.
    pub fn linked(&mut self, now: Micros) {
        self.fail(Fault::Reset);
        self.field.restart();
        self.state = State::Waiting;
        self.tries = 0;
        self.waits_until = Some(now.after(self.timing.response.saturating_mul(TRIES.into())));
        if self.end != Some(End::Answer) {
            self.long.clear();
        }
        self.short.clear();
        self.out.clear();
        self.command.clear();
    }

    /// The link cannot be had any more.
    pub fn failed(&mut self) {
        self.fail(Fault::Silent);
        self.field.lose(Fault::Silent);
        self.state = State::Failed;
        self.waits_until = None;
    }

    /// Whether an exchange can begin.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether it has been given up.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.state == State::Failed
    }

    /// Begins an exchange; false while it is not ready.
    pub fn start(&mut self, now: Micros, command: &[u8]) -> bool {
        if self.state != State::Ready || self.command.is_begun() {
            return false;
        }
        if self.end == Some(End::Answer) {
            self.long.clear();
        }
        self.end = None;
        self.reached = false;
        self.requests = 0;
        self.tries = 0;
        let whole = !command.is_empty()
            && self
                .command
                .put(self.pipe, Kind::Event.header(EVT_C_APDU), command);
        if !whole {
            self.end = Some(End::NotRun(Fault::TooLong));
        } else if self.out_of_step {
            self.abort(now);
        } else {
            self.state = State::Running;
            self.waits_until = Some(now.after(self.timing.wait));
        }
        true
    }

    /// The card's application layer begins anew with the next command: EVT_ABORT goes before it. An exchange that is under way ends as not run, or unknown. Unlike a reset of the link, a reader does not notice.
    pub fn renew(&mut self) {
        self.fail(Fault::Reset);
        self.out_of_step = true;
    }

    fn abort(&mut self, now: Micros) {
        self.state = State::Aborting;
        self.out.put(self.pipe, Kind::Event.header(EVT_ABORT), &[]);
        self.waits_until = Some(now.after(self.timing.response));
    }

    fn fail(&mut self, fault: Fault) {
        if matches!(self.state, State::Running | State::Aborting) {
            // A command that has been begun goes to its end: cut, it would run together with what follows on its pipe.
            let begun = self.command.is_begun();
            self.end = Some(End::without_answer(fault, self.reached || begun));
            self.out_of_step = true;
            if !begun {
                self.command.clear();
            }
            self.waits_until = None;
            self.state = State::Ready;
        }
    }

    /// Takes a packet.
    pub fn hear(&mut self, now: Micros, packet: &[u8]) {
        let exchange = matches!(self.state, State::Running | State::Aborting);
        if exchange && packet.first().is_some_and(|first| first & 0x7F == self.pipe) {
            if self.long.take(packet) {
                self.apdu_message(now);
            }
            return;
        }
        if self.field.hear(now, self.timing, packet) {
            return;
        }
        if !self.short.take(packet) {
            return;
        }
        if let Some(message) = self.short.message() {
            let (pipe, kind, instruction) = (message.pipe, message.kind, message.instruction);
            let mut data = [0; SHORT_MAX];
            let len = message.data.len();
            for (to, from) in data.iter_mut().zip(message.data) {
                *to = *from;
            }
            let data = data.get(..len).unwrap_or_default();
            self.administer(
                now,
                Message {
                    pipe,
                    kind,
                    instruction,
                    data,
                },
            );
        }
        self.short.clear();
    }

    fn apdu_message(&mut self, now: Micros) {
        let Some(message) = self.long.message() else {
            return self.long.clear();
        };
        let len = message.data.len();
        match (message.kind, message.instruction, self.state) {
            (Kind::Event, EVT_R_APDU, State::Running) if len >= 2 && self.reached => {
                self.end = Some(End::Answer);
                self.state = State::Ready;
                self.waits_until = None;
                return;
            }
            (Kind::Event, EVT_R_APDU, State::Running) => return self.fail(Fault::Protocol),
            (Kind::Event, EVT_WTX, State::Running) => {
                self.requests += 1;
                if self.requests > REQUESTS_MAX {
                    return self.fail(Fault::Protocol);
                }
                self.waits_until = Some(now.after(self.timing.wait));
            }
            (Kind::Event, EVT_ATR, State::Aborting) if matches!(message.data, [0x3B | 0x3F, _, ..]) => {
                self.out_of_step = false;
                self.tries = 0;
                self.state = State::Running;
                self.waits_until = Some(now.after(self.timing.wait));
            }
            _ => {}
        }
        self.long.clear();
    }

    /// The administration pipe: the card's session, and the answers to what was asked; and whether the APDU gate's pipe is open. An answer that comes between exchanges is a late one.
    fn administer(&mut self, now: Micros, message: Message<'_>) {
        if message.pipe == self.pipe && self.state == State::Opening && message.kind == Kind::Response {
            if message.instruction != OK {
                return self.failed();
            }
            self.state = State::Ready;
            self.waits_until = None;
        }
        if message.pipe != PIPE_ADMIN {
            if let Some(result) = self.field.message(message) {
                self.out.put(message.pipe, Kind::Response.header(result), &[]);
            }
            return;
        }
        match (message.kind, message.instruction) {
            (Kind::Response, OK) if self.state == State::Creating => {
                self.created = true;
                self.tries = 0;
                self.open(now);
            }
            (Kind::Response, _) if self.state == State::Creating => self.failed(),
            (Kind::Command, instruction) => self.command_of_card(now, instruction, message.data),
            _ => {}
        }
    }

    fn command_of_card(&mut self, now: Micros, instruction: u8, data: &[u8]) {
        let mut begun = None;
        let identity = self.identity;
        let made;
        let (result, value): (u8, &[u8]) = match (instruction, data) {
            (OPEN_PIPE | CLOSE_PIPE, _) | (SET_PARAMETER, [WHITELIST, ..]) => (OK, &[]),
            (GET_PARAMETER, [SESSION_IDENTITY]) => {
                // The card may begin anew, or has nothing more to say: a pipe that exists is tried at once.
                let wait = if self.created { 0 } else { self.timing.response };
                begun = Some(now.after(wait));
                (OK, &identity)
            }
            (CREATE_PIPE, &[gate, host, of]) => match self.field.create(host, of, self.pipe) {
                Ok(pipe) => {
                    made = [self.host, gate, host, of, pipe];
                    (OK, &made)
                }
                Err(result) => (result, &[]),
            },
            (CLEAR_ALL_PIPE, _) => {
                self.field.clear();
                self.created = false;
                self.identity = [0xFF; SESSION_LEN];
                begun = Some(now.after(self.timing.response));
                (OK, &[])
            }
            (SET_PARAMETER, [SESSION_IDENTITY, identity @ ..]) if identity.len() == SESSION_LEN => {
                for (to, from) in self.identity.iter_mut().zip(identity) {
                    *to = *from;
                }
                begun = Some(now);
                (OK, &[])
            }
            (GET_PARAMETER | SET_PARAMETER, _) => (REG_PAR_UNKNOWN, &[]),
            _ => (CMD_NOT_SUPPORTED, &[]),
        };
        self.out.put(PIPE_ADMIN, Kind::Response.header(result), value);
        if let (Some(at), State::Waiting | State::Begun | State::Opening) = (begun, self.state) {
            self.state = State::Begun;
            self.waits_until = Some(at);
        }
    }

    fn create(&mut self, now: Micros) {
        self.state = State::Creating;
        let data = [
            HOST_TERMINAL,
            GATE_APDU_APPLICATION,
            self.host,
            GATE_APDU,
            self.pipe,
        ];
        self.out
            .put(PIPE_ADMIN, Kind::Command.header(NOTIFY_PIPE_CREATED), &data);
        self.waits_until = Some(now.after(self.timing.response));
    }

    fn open(&mut self, now: Micros) {
        self.state = State::Opening;
        self.out.put(self.pipe, Kind::Command.header(OPEN_PIPE), &[]);
        self.waits_until = Some(now.after(self.timing.response));
    }

    /// Looks at the time: [`Device::deadline`] says when.
    pub fn expire(&mut self, now: Micros) {
        self.field.expire(now, self.timing);
        if self.waits_until.is_none_or(|at| at > now) {
            return;
        }
        self.waits_until = None;
        if matches!(self.state, State::Creating | State::Opening | State::Aborting) {
            self.tries += 1;
            if self.tries >= TRIES {
                self.fail(Fault::Silent);
                return self.failed();
            }
        }
        match self.state {
            State::Begun if self.created => self.open(now),
            State::Begun | State::Creating => self.create(now),
            State::Opening => self.open(now),
            State::Aborting => self.abort(now),
            State::Running => self.fail(Fault::Silent),
            State::Waiting => self.failed(),
            State::Ready | State::Failed => {}
        }
    }

    /// The next moment at which something happens of itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        [self.waits_until, self.field.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether a reader of this type would find the card: its gate's pipe is open, and its MODE on.
    #[must_use]
    pub fn reader_is_ready(&self, technology: Technology) -> bool {
        self.state != State::Failed && self.field.is_ready(technology)
    }

    /// Begins an exchange of a contactless reader, beside one on the APDU gate; false while it is not ready, or has another one. Where the reader has not chosen the card by this type, it does so first: a new field, which resets the card's interface.
    pub fn start_reader(&mut self, now: Micros, technology: Technology, command: &[u8]) -> bool {
        self.state != State::Failed && self.field.start(now, self.timing, technology, command)
    }

    /// The reader goes away: an exchange that is under way ends as not run, or unknown.
    pub fn leave_reader(&mut self, now: Micros) {
        self.field.take_away(now, self.timing);
    }

    /// How the reader's exchange ended; none while it is under way.
    #[must_use]
    pub fn reader_ended(&self) -> Option<Ended<'_>> {
        self.field.ended()
    }

    /// What the card has said last of a contactless transaction.
    #[must_use]
    pub fn transaction(&self) -> Option<Transaction<'_>> {
        self.field.transaction()
    }

    /// What is sent next: what has been begun, for a message goes to its end before another; else what is short, then the reader's, then a command.
    fn next(&self) -> Next {
        let is_running = self.state == State::Running && !self.command.is_empty();
        if self.command.is_begun() {
            Next::Command
        } else if self.field.is_begun() {
            Next::Field
        } else if !self.out.is_empty() {
            Next::Short
        } else if is_running {
            Next::Command
        } else {
            Next::Field
        }
    }

    /// The next packet to send; [`Device::sent`] when the link has taken it.
    #[must_use]
    pub fn packet(&self, out: &mut [u8; INFORMATION_MAX]) -> Option<usize> {
        match self.next() {
            Next::Command => self.command.packet(out),
            Next::Field => self.field.packet(out),
            Next::Short => self.out.packet(out),
        }
    }

    /// That packet has been queued.
    pub fn sent(&mut self) {
        match self.next() {
            Next::Command => {
                self.command.sent();
                self.reached |= self.command.is_empty();
            }
            Next::Field => self.field.sent(),
            Next::Short => self.out.sent(),
        }
    }

    /// How the exchange ended; none while it is under way.
    #[must_use]
    pub fn ended(&self) -> Option<Ended<'_>> {
        Some(self.end?.told(&self.long))
    }
}

impl<const LEN: usize> Drop for Device<LEN> {
    fn drop(&mut self) {
        self.identity.zeroize();
    }
}
