//! The host of a secure element.

use zeroize::Zeroize;

use super::ids::{
    CLEAR_ALL_PIPE, CLOSE_PIPE, CMD_NOT_SUPPORTED, EVT_ABORT, EVT_ATR, EVT_C_APDU, EVT_R_APDU, EVT_WTX,
    GATE_APDU, GATE_IDENTITY, GATE_LINK, GATE_LOOPBACK, GATES_LIST, GET_PARAMETER, HCI_VERSION,
    MAX_C_APDU_SIZE, MAX_WAIT_TIME, NOK, NOTIFY_ALL_PIPE_CLEARED, NOTIFY_PIPE_CREATED, NOTIFY_PIPE_DELETED,
    OK, OPEN_PIPE, PIPE_ADMIN, PIPE_FIRST, PIPE_LAST, PIPE_LINK, PIPE_NOT_OPENED, PIPES_FULL, POST_DATA,
    REC_ERROR, REG_ACCESS_DENIED, REG_PAR_UNKNOWN, SESSION_IDENTITY, SET_PARAMETER,
};
use super::packet::{Buffer, Kind, Queue};
use super::{SESSION_LEN, SHORT_MAX, Timing};
use crate::Micros;
use crate::swp::INFORMATION_MAX;

/// Pipes at the most: to loopback, identity, link management, and the APDU gate.
const PIPES: usize = 4;
const NO_ANSWER: [u8; 2] = [0x6F, 0x00];
const WRONG_LENGTH: [u8; 2] = [0x67, 0x00];

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
    /// The pipes.
    pub pipes: [Option<Pipe>; PIPES],
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
    Write,
    Up,
}

/// The host of a secure element, for APDUs of up to `APDU` bytes; `LEN` is one more.
///
/// `linked` says that the link was set up, `hear` takes packets, `packet` and `sent` give them, `expire` is called at `deadline`. A command waits in `command`; `take` says that it is being run, `answer` gives its answer.
#[derive(Clone, Debug)]
pub struct Card<const LEN: usize> {
    timing: Timing,
    atr: ([u8; 33], usize),
    session: Session,
    fresh: [u8; SESSION_LEN],
    step: Step,
    /// What comes on the APDU gate's pipe, and on all others.
    long: Buffer<LEN>,
    short: Buffer<SHORT_MAX>,
    /// What is sent: answers, and all else.
    out_long: Buffer<LEN>,
    out: Queue,
    has_command: bool,
    taken: bool,
    abandoned: bool,
    reset: bool,
    changed: bool,
    wtx_at: Option<Micros>,
}

impl<const LEN: usize> Card<LEN> {
    /// A host with the session that it has kept, which after `linked` either still holds or becomes `fresh`: eight bytes that no other card chooses.
    #[must_use]
    pub fn new(timing: Timing, atr: &[u8], session: Session, fresh: [u8; SESSION_LEN]) -> Self {
        let mut bytes = [0; 33];
        let len = atr.len().min(bytes.len());
        for (to, from) in bytes.iter_mut().zip(atr) {
            *to = *from;
        }
        Self {
            timing,
            atr: (bytes, len),
            session,
            fresh,
            step: Step::Down,
            long: Buffer::default(),
            short: Buffer::default(),
            out_long: Buffer::default(),
            out: Queue::default(),
            has_command: false,
            taken: false,
            abandoned: false,
            reset: false,
            changed: false,
            wtx_at: None,
        }
    }

    /// The link stands, or stands anew: partial messages and a command that runs are lost. The card opens its administration pipe.
    pub fn linked(&mut self) {
        self.drop_command();
        self.long.clear();
        self.short.clear();
        self.out.clear();
        self.out_long.clear();
        for pipe in self.session.pipes.iter_mut().flatten() {
            pipe.open = false;
        }
        self.step = Step::Open;
        self.out.put(PIPE_ADMIN, Kind::Command.header(OPEN_PIPE), &[]);
    }

    fn drop_command(&mut self) {
        self.abandoned |= self.taken;
        self.has_command = false;
        self.long.clear();
        // What has been begun goes to its end, or it would run together with what follows.
        if !self.out_long.is_begun() {
            self.out_long.clear();
        }
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

    fn pipe(&self, number: u8) -> Option<Pipe> {
        self.session
            .pipes
            .iter()
            .flatten()
            .find(|pipe| pipe.pipe == number)
            .copied()
    }

    /// Takes a packet.
    pub fn hear(&mut self, packet: &[u8]) {
        let Some(first) = packet.first() else {
            return;
        };
        let number = first & 0x7F;
        let apdu = self.pipe(number).is_some_and(|pipe| pipe.gate == GATE_APDU);
        if apdu {
            // While a command is here another one is an error of the terminal, but its ABORT is heard.
            if (self.has_command || !self.out_long.is_empty())
                && packet.get(1) != Some(&Kind::Event.header(EVT_ABORT))
            {
                return;
            }
            if self.long.take(packet) {
                self.apdu_message(number);
            }
        } else if self.short.take(packet) {
            self.short_message();
            self.short.clear();
        }
    }

    fn apdu_message(&mut self, number: u8) {
        let open = self.pipe(number).is_some_and(|pipe| pipe.open);
        let Some(message) = self.long.message() else {
            return self.long.clear();
        };
        let parameter = message.data.first().copied();
        match (message.kind, message.instruction) {
            (Kind::Event, EVT_C_APDU) if open && !message.data.is_empty() => return self.has_command = true,
            (Kind::Event, EVT_ABORT) if open => {
                self.drop_command();
                self.reset = true;
                let (atr, len) = self.atr;
                let atr = atr.get(..len).unwrap_or_default();
                self.out.put(number, Kind::Event.header(EVT_ATR), atr);
            }
            (Kind::Command, instruction) => {
                self.command_on(number, GATE_APDU, instruction, parameter);
            }
            // EVT_END_OF_APDU_TRANSACTION asks for nothing.
            _ => {}
        }
        self.long.clear();
    }

    fn short_message(&mut self) {
        let Some(message) = self.short.message() else {
            return;
        };
        let number = message.pipe;
        let gate = self.pipe(number).map(|pipe| (pipe.gate, pipe.open));
        let mut data = [0; SHORT_MAX];
        let len = message.data.len();
        if let Some(slot) = data.get_mut(..len) {
            slot.copy_from_slice(message.data);
        }
        let data = data.get(..len).unwrap_or_default();
        match (message.kind, message.instruction, gate) {
            (Kind::Response, result, _) if number == PIPE_ADMIN => self.administered(result, data),
            (Kind::Command, instruction, _) if number == PIPE_ADMIN => self.notified(instruction, data),
            (Kind::Command, instruction, _) if number == PIPE_LINK => {
                self.command_on(number, GATE_LINK, instruction, data.first().copied());
            }
            (Kind::Command, instruction, Some((gate, _))) => {
                self.command_on(number, gate, instruction, data.first().copied());
            }
            (Kind::Event, POST_DATA, Some((GATE_LOOPBACK, true))) => {
                self.out.put(number, Kind::Event.header(POST_DATA), data);
            }
            _ => {}
        }
    }

    fn respond(&mut self, pipe: u8, result: u8, data: &[u8]) {
        self.out.put(pipe, Kind::Response.header(result), data);
    }

    /// OPEN_PIPE, CLOSE_PIPE, and the registries.
    fn command_on(&mut self, number: u8, gate: u8, instruction: u8, parameter: Option<u8>) {
        let slot = self
            .session
            .pipes
            .iter_mut()
            .flatten()
            .find(|pipe| pipe.pipe == number);
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
        let gates = [GATE_LOOPBACK, GATE_IDENTITY, GATE_LINK, GATE_APDU];
        let value: Option<&[u8]> = match (gate, parameter) {
            (GATE_APDU, Some(MAX_C_APDU_SIZE)) => Some(&size),
            (GATE_APDU, Some(MAX_WAIT_TIME)) => Some(&wait),
            (GATE_IDENTITY, Some(HCI_VERSION)) => Some(&[2]),
            (GATE_IDENTITY, Some(GATES_LIST)) => Some(&gates),
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

    /// A response on the administration pipe: the next step of the session's beginning. Whatever is refused ends it; a session that does not hold begins anew.
    fn administered(&mut self, result: u8, data: &[u8]) {
        let next = match (self.step, result) {
            (Step::Open, OK) => Step::Read,
            (Step::Read, OK) if data == self.session.identity => Step::Up,
            (Step::Read, OK) => Step::Clear,
            (Step::Clear, OK) => {
                self.session.pipes = [None; PIPES];
                self.changed = true;
                Step::Write
            }
            (Step::Write, OK) => {
                self.session.identity = self.fresh;
                self.changed = true;
                Step::Up
            }
            (step, _) => step,
        };
        if next == self.step {
            return;
        }
        self.step = next;
        let mut parameter = [SESSION_IDENTITY; 1 + SESSION_LEN];
        for (to, from) in parameter.iter_mut().skip(1).zip(self.fresh) {
            *to = from;
        }
        let (instruction, data): (u8, &[u8]) = match next {
            Step::Read => (GET_PARAMETER, &[SESSION_IDENTITY]),
            // The card's first session has no identity reference data.
            Step::Clear => (CLEAR_ALL_PIPE, &[]),
            Step::Write => (SET_PARAMETER, &parameter),
            Step::Down | Step::Open | Step::Up => return,
        };
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
        for slot in &mut self.session.pipes {
            if let Some(pipe) = slot.filter(|pipe| which(pipe)) {
                apdu |= pipe.gate == GATE_APDU;
                *slot = None;
            }
        }
        if apdu {
            self.drop_command();
        }
        self.changed = true;
        OK
    }

    /// A whole command that waits to be run, once.
    #[must_use]
    pub fn command(&self) -> Option<&[u8]> {
        let waits = self.has_command && !self.taken;
        self.long.message().filter(|_| waits).map(|message| message.data)
    }

    /// Whoever runs commands has this one, and will answer it.
    pub fn take(&mut self, now: Micros) {
        self.taken = true;
        self.wtx_at = Some(now.after(self.timing.wait / 2));
    }

    /// The answer to the command that was taken. It is dropped when an ABORT or a new link has come since.
    pub fn answer(&mut self, answer: &[u8]) {
        self.taken = false;
        if core::mem::take(&mut self.abandoned) || !self.has_command {
            return;
        }
        let Some(number) = self.long.message().map(|message| message.pipe) else {
            return;
        };
        let header = Kind::Event.header(EVT_R_APDU);
        let short = answer.len() < 2;
        if short || !self.out_long.put(number, header, answer) {
            self.out_long
                .put(number, header, if short { &NO_ANSWER } else { &WRONG_LENGTH });
        }
        self.has_command = false;
        self.long.clear();
        self.wtx_at = None;
    }

    /// Looks at the time: [`Card::deadline`] says when. A command that runs is given time by EVT_WTX.
    pub fn expire(&mut self, now: Micros) {
        if self.wtx_at.is_some_and(|at| at <= now) && self.out.is_empty() {
            self.wtx_at = Some(now.after(self.timing.wait / 2));
            if let Some(number) = self.long.message().map(|message| message.pipe) {
                self.out.put(number, Kind::Event.header(EVT_WTX), &[]);
            }
        }
    }

    /// The next moment at which something happens of itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        self.wtx_at
    }

    fn long_first(&self) -> bool {
        self.out_long.is_begun() || self.out.is_empty()
    }

    /// The next packet to send; [`Card::sent`] when the link has taken it.
    #[must_use]
    pub fn packet(&self, out: &mut [u8; INFORMATION_MAX]) -> Option<usize> {
        if self.long_first() {
            self.out_long.packet(out)
        } else {
            self.out.packet(out)
        }
    }

    /// That packet has been queued.
    pub fn sent(&mut self) {
        if self.long_first() {
            self.out_long.sent();
        } else {
            self.out.sent();
        }
    }
}

impl<const LEN: usize> Drop for Card<LEN> {
    fn drop(&mut self) {
        self.fresh.zeroize();
    }
}
