//! The host of a secure element.

use zeroize::Zeroize;

use super::contactless::{Contactless, Technology};
use super::ids::{
    CLEAR_ALL_PIPE, CLOSE_PIPE, CMD_NOT_SUPPORTED, CREATE_PIPE, EVT_ABORT, EVT_ATR, EVT_C_APDU, EVT_R_APDU,
    EVT_TRANSACTION, EVT_WTX, GATE_APDU, GATE_CONNECTIVITY, GATE_IDENTITY, GATE_LINK, GATE_LOOPBACK,
    GATES_LIST, GET_PARAMETER, HCI_VERSION, MAX_C_APDU_SIZE, MAX_WAIT_TIME, NOK, NOTIFY_ALL_PIPE_CLEARED,
    NOTIFY_PIPE_CREATED, NOTIFY_PIPE_DELETED, OK, OPEN_PIPE, PIPE_ADMIN, PIPE_FIRST, PIPE_LAST, PIPE_LINK,
    PIPE_NOT_OPENED, PIPES_FULL, POST_DATA, REC_ERROR, REG_ACCESS_DENIED, REG_PAR_UNKNOWN, SESSION_IDENTITY,
    SET_PARAMETER,
};
use super::own::{GATES, Gates, OWN, Own, PARAMETER_MAX, Task, host_of, parameter};
use super::packet::{Buffer, Kind, Message, Queue};
use super::side::{Side, Took};
use super::{SESSION_LEN, SHORT_MAX, Timing};
use crate::Micros;
use crate::swp::INFORMATION_MAX;

/// Pipes that others make, at the most: to loopback, identity, link management, and the APDU gate.
const PIPES: usize = 4;
/// Gates of this host.
const HERE: [u8; PIPES] = [GATE_LOOPBACK, GATE_IDENTITY, GATE_LINK, GATE_APDU];

/// A dynamic pipe of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pipe {
    /// Its number.
    pub pipe: u8,
    /// The gate here.
    pub gate: u8,
    /// The host at the other end.
    pub host: u8,
    /// Whether it is open.
    pub open: bool,
}

/// What outlives power: the product keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Session {
    /// SESSION_IDENTITY as it was written last.
    pub identity: [u8; SESSION_LEN],
    /// The pipes that others have made to gates here.
    pub pipes: [Option<Pipe>; PIPES],
    /// Those that this host has made: to the card gates of type A and B, and to the connectivity gate.
    pub own: [Option<Pipe>; OWN],
}

impl Session {
    fn all(&self) -> impl Iterator<Item = &Pipe> {
        self.pipes.iter().chain(&self.own).flatten()
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Pipe> {
        self.pipes.iter_mut().chain(&mut self.own).flatten()
    }
}

/// How far the session with the controller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// No link.
    Down,
    /// A command on the administration pipe is out: OPEN_PIPE, GET_PARAMETER, CLEAR_ALL_PIPE, SET_PARAMETER.
    Open,
    Read,
    Clear,
    /// What is asked of a gate for which a pipe is wanted; whether the session is a new one.
    Own(usize, Task, bool),
    Write,
    Up,
}

/// The host of a secure element, for APDUs of up to `APDU` bytes; `LEN` is one more than what is longest beside a header: a command on a card gate has a byte behind it.
///
/// `linked` says that the link was set up, `hear` takes packets, `packet` and `sent` give them, `expire` is called at `deadline`. A command of the APDU gate waits in `command`; `take` says that it is being run, `answer` gives its answer.
/// One of a reader waits in `reader_command`, for `take_reader` and `answer_reader`; `field` says when a reader has chosen the card, or let it go.
#[derive(Clone, Debug)]
pub struct Card<const LEN: usize> {
    timing: Timing,
    own: Own,
    session: Session,
    step: Step,
    /// The APDU gate's commands, and those of readers.
    apdu: Side<LEN>,
    reader: Contactless<LEN>,
    /// What comes beside them, and what is sent beside answers.
    short: Buffer<SHORT_MAX>,
    out: Queue,
    reset: bool,
    changed: bool,
    wtx_at: Option<Micros>,
}

impl<const LEN: usize> Card<LEN> {
    /// A host with the session that it has kept, which after `linked` either still holds or becomes `fresh`: eight bytes that no other card chooses. `gates` says to which gates it makes pipes of its own.
    #[must_use]
    pub fn new(timing: Timing, gates: Gates, atr: &[u8], session: Session, fresh: [u8; SESSION_LEN]) -> Self {
        Self {
            timing,
            own: Own::new(gates, fresh, atr),
            session,
            step: Step::Down,
            apdu: Side::default(),
            reader: Contactless::default(),
            short: Buffer::default(),
            out: Queue::default(),
            reset: false,
            changed: false,
            wtx_at: None,
        }
    }

    /// The link stands, or stands anew: partial messages and commands that run are lost. The card opens its administration pipe.
    pub fn linked(&mut self) {
        self.apdu.restart();
        self.wtx_at = None;
        self.reader.restart();
        self.short.clear();
        self.out.clear();
        for pipe in self.session.all_mut() {
            pipe.open = false;
        }
        self.step = Step::Open;
        self.out.put(PIPE_ADMIN, Kind::Command.header(OPEN_PIPE), &[]);
    }

    fn drop_command(&mut self) {
        self.apdu.drop_command();
        self.wtx_at = None;
    }

    /// What is to be kept when it has changed since the last call.
    pub const fn session(&mut self) -> Option<Session> {
        if core::mem::replace(&mut self.changed, false) {
            Some(self.session)
        } else {
            None
        }
    }

    /// Whether a reset of the application layer was asked for (EVT_ABORT) since the last call.
    pub const fn reset_wanted(&mut self) -> bool {
        core::mem::replace(&mut self.reset, false)
    }

    /// What has become of a reader's field since the last call: it has chosen the card, anew or for the first time, by this technology, or let it go.
    pub const fn field(&mut self) -> Option<(Technology, bool)> {
        self.reader.changed()
    }

    fn pipe(&self, number: u8) -> Option<Pipe> {
        self.session.all().find(|pipe| pipe.pipe == number).copied()
    }

    /// Takes a packet.
    pub fn hear(&mut self, packet: &[u8]) {
        let Some(first) = packet.first() else {
            return;
        };
        let pipe = self.pipe(first & 0x7F);
        let of_command = match pipe {
            Some(pipe) if pipe.gate == GATE_APDU => self.hear_apdu(pipe, packet),
            Some(pipe) => match Technology::of(pipe.gate) {
                Some(technology) if pipe.open => self.reader.hear(technology, packet),
                _ => false,
            },
            None => false,
        };
        if !of_command && self.short.take(packet) {
            self.short_message();
            self.short.clear();
        }
    }

    fn hear_apdu(&mut self, pipe: Pipe, packet: &[u8]) -> bool {
        match self.apdu.hear(packet, Kind::Event.header(EVT_C_APDU)) {
            Took::Nothing => return false,
            Took::Piece => {}
            Took::Whole if !pipe.open => self.apdu.keep(false),
            Took::Whole => match self.apdu.heard.message() {
                Some(message) if message.data.is_empty() => self.apdu.refuse(pipe.pipe, EVT_R_APDU),
                message => self.apdu.keep(message.is_some()),
            },
            Took::TooLong if pipe.open => self.apdu.refuse(pipe.pipe, EVT_R_APDU),
            Took::TooLong => {}
        }
        true
    }

    fn short_message(&mut self) {
        let Some(message) = self.short.message() else {
            return;
        };
        let mut data = [0; SHORT_MAX];
        let len = message.data.len();
        if let Some(slot) = data.get_mut(..len) {
            slot.copy_from_slice(message.data);
        }
        let (number, kind, instruction) = (message.pipe, message.kind, message.instruction);
        let data = data.get(..len).unwrap_or_default();
        match (number, kind) {
            (PIPE_ADMIN, Kind::Response) => self.administered(instruction, data),
            (PIPE_ADMIN, Kind::Command) => self.notified(instruction, data),
            (PIPE_LINK, Kind::Command) => {
                self.command_on(number, GATE_LINK, instruction, data.first().copied());
            }
            _ => {
                if let Some(pipe) = self.pipe(number) {
                    let message = Message {
                        pipe: number,
                        kind,
                        instruction,
                        data,
                    };
                    self.on_pipe(pipe, message);
                }
            }
        }
    }

    fn on_pipe(&mut self, pipe: Pipe, message: Message<'_>) {
        let (number, parameter) = (pipe.pipe, message.data.first().copied());
        match (message.kind, message.instruction, pipe.gate) {
            (Kind::Command, instruction, gate) => self.command_on(number, gate, instruction, parameter),
            (Kind::Response, result, _) => self.own_answered(number, result),
            (Kind::Event, ..) if !pipe.open => {}
            (Kind::Event, POST_DATA, GATE_LOOPBACK) => {
                self.out.put(number, Kind::Event.header(POST_DATA), message.data);
            }
            (Kind::Event, EVT_ABORT, GATE_APDU) => {
                self.drop_command();
                self.reset = true;
                self.out.put(number, Kind::Event.header(EVT_ATR), self.own.atr());
            }
            // EVT_END_OF_APDU_TRANSACTION asks for nothing.
            (Kind::Event, event, gate) => {
                let technology = Technology::of(gate);
                if technology.is_some_and(|technology| self.reader.event(technology, event)) {
                    self.tell_transaction();
                }
            }
        }
    }

    /// The terminal is told what an application had to say of a reader's visit, or which one it had selected when it went; where there is no room for that it is not.
    fn tell_transaction(&mut self) {
        let mut data = [0; SHORT_MAX];
        let told = self.session.own.iter().flatten();
        let pipe = told
            .copied()
            .find(|pipe| pipe.gate == GATE_CONNECTIVITY && pipe.open);
        if let (Some(len), Some(pipe)) = (self.reader.transaction(&mut data), pipe) {
            let data = data.get(..len).unwrap_or_default();
            self.out.put(pipe.pipe, Kind::Event.header(EVT_TRANSACTION), data);
        }
    }

    fn respond(&mut self, pipe: u8, result: u8, data: &[u8]) {
        self.out.put(pipe, Kind::Response.header(result), data);
    }

    /// OPEN_PIPE, CLOSE_PIPE, and the registries.
    fn command_on(&mut self, number: u8, gate: u8, instruction: u8, parameter: Option<u8>) {
        let slot = self.session.all_mut().find(|pipe| pipe.pipe == number);
        let open = match (slot, instruction) {
            (Some(pipe), OPEN_PIPE | CLOSE_PIPE) => {
                pipe.open = instruction == OPEN_PIPE;
                return self.respond(number, OK, &[]);
            }
            (Some(pipe), _) => pipe.open,
            // Link management's pipe is static.
            (None, OPEN_PIPE | CLOSE_PIPE) => return self.respond(number, OK, &[]),
            (None, _) => true,
        };
        let size = u16::try_from(LEN.saturating_sub(1))
            .unwrap_or(u16::MAX)
            .to_be_bytes();
        let wait = u16::try_from(self.timing.wait / 1_000)
            .unwrap_or(u16::MAX)
            .to_be_bytes();
        let mut gates = [0; PIPES + OWN];
        let mut count = 0;
        for (to, gate) in gates
            .iter_mut()
            .zip(HERE.into_iter().chain(self.own.gates.list()))
        {
            *to = gate;
            count += 1;
        }
        let value: Option<&[u8]> = match (gate, parameter) {
            (GATE_APDU, Some(MAX_C_APDU_SIZE)) => Some(&size),
            (GATE_APDU, Some(MAX_WAIT_TIME)) => Some(&wait),
            (GATE_IDENTITY, Some(HCI_VERSION)) => Some(&[2]),
            (GATE_IDENTITY, Some(GATES_LIST)) => gates.get(..count),
            (GATE_LINK, Some(parameter)) if REC_ERROR.contains(&parameter) => Some(&[0, 0]),
            _ => None,
        };
        match (open, instruction, value) {
            (false, ..) => self.respond(number, PIPE_NOT_OPENED, &[]),
            (_, GET_PARAMETER, Some(value)) => {
                self.out.put(number, Kind::Response.header(OK), value);
            }
            (_, SET_PARAMETER, Some(_)) => self.respond(number, REG_ACCESS_DENIED, &[]),
            (_, GET_PARAMETER | SET_PARAMETER, None) => self.respond(number, REG_PAR_UNKNOWN, &[]),
            _ => self.respond(number, CMD_NOT_SUPPORTED, &[]),
        }
    }

    /// A response on the administration pipe: the next step of the session's beginning. Whatever is refused ends it, but a pipe to a gate that is not there; a session that does not hold begins anew.
    fn administered(&mut self, result: u8, data: &[u8]) {
        match (self.step, result) {
            (Step::Open, OK) => self.ask(Step::Read),
            (Step::Read, OK) if data == self.session.identity => self.next_gate(0, false),
            (Step::Read, OK) => self.ask(Step::Clear),
            (Step::Clear, OK) => {
                self.session.pipes = [None; PIPES];
                self.session.own = [None; OWN];
                self.changed = true;
                self.next_gate(0, true);
            }
            (Step::Own(index, Task::Create, _), _) => self.made(index, result, data),
            (Step::Write, OK) => {
                self.session.identity = self.own.fresh;
                self.changed = true;
                self.step = Step::Up;
            }
            _ => {}
        }
    }

    /// The controller has made a pipe, or has not.
    fn made(&mut self, index: usize, result: u8, data: &[u8]) {
        let gate = GATES.get(index).copied().unwrap_or_default();
        match (result, data) {
            (OK, &[_, _, host, of, pipe])
                if of == gate && (PIPE_FIRST..=PIPE_LAST).contains(&pipe) && self.pipe(pipe).is_none() =>
            {
                if let Some(slot) = self.session.own.get_mut(index) {
                    *slot = Some(Pipe {
                        pipe,
                        gate,
                        host,
                        open: false,
                    });
                }
                self.changed = true;
                self.ask(Step::Own(index, Task::Open, true));
            }
            _ => self.next_gate(index + 1, true),
        }
    }

    /// A response on a pipe that this host has made.
    fn own_answered(&mut self, number: u8, result: u8) {
        let Step::Own(index, task, is_new) = self.step else {
            return;
        };
        let slot = self.session.own.get_mut(index).and_then(Option::as_mut);
        let Some(pipe) = slot.filter(|pipe| pipe.pipe == number) else {
            return;
        };
        match (task, result) {
            (Task::Create, _) => {}
            (Task::Open, OK) => {
                pipe.open = true;
                if is_new {
                    self.ask(Step::Own(index, Task::Set(0), true));
                } else {
                    self.next_gate(index + 1, false);
                }
            }
            (Task::Open, _) => self.next_gate(index + 1, is_new),
            // A parameter that is refused is the controller's own to choose.
            (Task::Set(count), _) => self.ask(Step::Own(index, Task::Set(count.saturating_add(1)), is_new)),
        }
    }

    /// The next gate for which a pipe is wanted, or of which one is kept; behind the last the session holds.
    fn next_gate(&mut self, from: usize, is_new: bool) {
        let (gates, own) = (self.own.gates, self.session.own);
        let is_wanted =
            |index: &usize| gates.wants(*index) && (is_new || own.get(*index).is_some_and(Option::is_some));
        let task = if is_new { Task::Create } else { Task::Open };
        match (from..OWN).find(is_wanted) {
            Some(index) => self.ask(Step::Own(index, task, is_new)),
            None if is_new => self.ask(Step::Write),
            None => self.step = Step::Up,
        }
    }

    /// Asks what a step asks for.
    fn ask(&mut self, step: Step) {
        self.step = step;
        match step {
            Step::Down | Step::Open | Step::Up => {}
            Step::Read => self.administer(GET_PARAMETER, &[SESSION_IDENTITY]),
            // The card's first session has no identity reference data.
            Step::Clear => self.administer(CLEAR_ALL_PIPE, &[]),
            Step::Write => {
                let mut parameter = [SESSION_IDENTITY; 1 + SESSION_LEN];
                for (to, from) in parameter.iter_mut().skip(1).zip(self.own.fresh) {
                    *to = from;
                }
                self.administer(SET_PARAMETER, &parameter);
            }
            Step::Own(index, task, is_new) => {
                let gate = GATES.get(index).copied().unwrap_or_default();
                let pipe = self.session.own.get(index).copied().flatten();
                let mut value = [0; PARAMETER_MAX];
                match (task, pipe) {
                    (Task::Create, _) => self.administer(CREATE_PIPE, &[gate, host_of(gate), gate]),
                    (Task::Open, Some(pipe)) => {
                        self.out.put(pipe.pipe, Kind::Command.header(OPEN_PIPE), &[]);
                    }
                    (Task::Set(number), Some(pipe)) => {
                        match parameter(gate, number, self.own.atr(), &mut value) {
                            Some(len) => {
                                let value = value.get(..len).unwrap_or_default();
                                self.out
                                    .put(pipe.pipe, Kind::Command.header(SET_PARAMETER), value);
                            }
                            None => self.next_gate(index + 1, is_new),
                        }
                    }
                    (_, None) => self.next_gate(index + 1, is_new),
                }
            }
        }
    }

    fn administer(&mut self, instruction: u8, data: &[u8]) {
        self.out.put(PIPE_ADMIN, Kind::Command.header(instruction), data);
    }

    /// The controller says what has become of pipes.
    fn notified(&mut self, instruction: u8, data: &[u8]) {
        let result = match (instruction, data) {
            (NOTIFY_PIPE_CREATED, &[host, _, _, gate, pipe]) => self.created(host, gate, pipe),
            (NOTIFY_PIPE_DELETED, &[pipe]) => self.delete(|there| there.pipe == pipe),
            (NOTIFY_ALL_PIPE_CLEARED, &[host]) => self.delete(|there| there.host == host),
            (NOTIFY_PIPE_CREATED | NOTIFY_PIPE_DELETED | NOTIFY_ALL_PIPE_CLEARED, _) => NOK,
            _ => CMD_NOT_SUPPORTED,
        };
        self.respond(PIPE_ADMIN, result, &[]);
    }

    fn created(&mut self, host: u8, gate: u8, pipe: u8) -> u8 {
        let known = matches!(gate, GATE_APDU | GATE_LOOPBACK | GATE_IDENTITY);
        if !known || !(PIPE_FIRST..=PIPE_LAST).contains(&pipe) || self.pipe(pipe).is_some() {
            return NOK;
        }
        let Some(slot) = self.session.pipes.iter_mut().find(|slot| slot.is_none()) else {
            return PIPES_FULL;
        };
        *slot = Some(Pipe {
            pipe,
            gate,
            host,
            open: false,
        });
        self.changed = true;
        OK
    }

    fn delete(&mut self, which: impl Fn(&Pipe) -> bool) -> u8 {
        let mut apdu = false;
        for slot in self.session.pipes.iter_mut().chain(&mut self.session.own) {
            if let Some(pipe) = slot.filter(|pipe| which(pipe)) {
                apdu |= pipe.gate == GATE_APDU;
                self.reader.gate_gone(pipe.gate);
                *slot = None;
            }
        }
        if apdu {
            self.drop_command();
        }
        self.changed = true;
        OK
    }

    /// A whole command of the APDU gate that waits to be run, once.
    #[must_use]
    pub fn command(&self) -> Option<&[u8]> {
        let message = self.apdu.heard.message().filter(|_| self.apdu.waits());
        message.map(|message| message.data)
    }

    /// Whoever runs commands has this one, and will answer it.
    pub fn take(&mut self, now: Micros) {
        self.apdu.take();
        self.wtx_at = Some(now.after(self.timing.wait / 2));
    }

    /// The answer to the command that was taken. It is dropped when an ABORT or a new link has come since.
    pub fn answer(&mut self, answer: &[u8]) {
        let runs = self.apdu.pipe().is_some();
        self.apdu.answer(EVT_R_APDU, answer);
        if runs && self.apdu.pipe().is_none() {
            self.wtx_at = None;
        }
    }

    /// A whole command of a reader that waits to be run, once, and how it came.
    #[must_use]
    pub fn reader_command(&self) -> Option<(Technology, &[u8])> {
        self.reader.command()
    }

    /// Whoever runs commands has this one, and will answer it. The controller makes the reader wait.
    pub const fn take_reader(&mut self) {
        self.reader.side.take();
    }

    /// What the application that answers the reader's command has to say to the terminal when the reader has gone: said before [`Card::answer_reader`], and in the place of what was said before. An AID that is none, or
    /// more than [`PARAMETERS_MAX`](super::PARAMETERS_MAX) bytes, is passed over.
    pub fn announce(&mut self, aid: &[u8], parameters: &[u8]) {
        self.reader.announce(aid, parameters);
    }

    /// The answer to the reader's command that was taken. It is dropped when the reader, or the link, has gone since.
    pub fn answer_reader(&mut self, answer: &[u8]) {
        self.reader.answer(answer);
    }

    /// Looks at the time: [`Card::deadline`] says when. A command of the APDU gate that runs is given time by EVT_WTX.
    pub fn expire(&mut self, now: Micros) {
        if self.wtx_at.is_some_and(|at| at <= now) && self.out.is_empty() {
            self.wtx_at = Some(now.after(self.timing.wait / 2));
            if let Some(number) = self.apdu.pipe() {
                self.out.put(number, Kind::Event.header(EVT_WTX), &[]);
            }
        }
    }

    /// The next moment at which something happens of itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        self.wtx_at
    }

    /// What is sent next: what has been begun, for a message goes to its end before another; else what is short, then answers.
    fn next(&self) -> Next {
        if self.apdu.out.is_begun() {
            Next::Apdu
        } else if self.reader.side.out.is_begun() {
            Next::Reader
        } else if !self.out.is_empty() {
            Next::Short
        } else if self.apdu.out.is_empty() {
            Next::Reader
        } else {
            Next::Apdu
        }
    }

    /// The next packet to send; [`Card::sent`] when the link has taken it.
    #[must_use]
    pub fn packet(&self, out: &mut [u8; INFORMATION_MAX]) -> Option<usize> {
        match self.next() {
            Next::Short => self.out.packet(out),
            Next::Apdu => self.apdu.out.packet(out),
            Next::Reader => self.reader.side.out.packet(out),
        }
    }

    /// That packet has been queued.
    pub fn sent(&mut self) {
        match self.next() {
            Next::Short => self.out.sent(),
            Next::Apdu => self.apdu.out.sent(),
            Next::Reader => self.reader.side.out.sent(),
        }
    }
}

/// What a packet is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Short,
    Apdu,
    Reader,
}

impl<const LEN: usize> Drop for Card<LEN> {
    fn drop(&mut self) {
        self.own.fresh.zeroize();
    }
}
