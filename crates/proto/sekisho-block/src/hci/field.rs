//! The gates beside a secure element's host to which it makes pipes: the controller's card gates, with the contactless reader in front of them, and the terminal's connectivity gate.

use super::Timing;
use super::contactless::Technology;
use super::end::End;
use super::ids::{
    CLOSE_PIPE, CMD_NOT_SUPPORTED, EVT_CARD_ACTIVATED, EVT_CARD_DEACTIVATED, EVT_FIELD_OFF, EVT_FIELD_ON,
    EVT_SEND_DATA, EVT_TRANSACTION, GATE_CONNECTIVITY, GET_PARAMETER, HOST_CONTROLLER, HOST_TERMINAL, MODE,
    MODE_ON, NOK, OK, OPEN_PIPE, PIPE_FIRST, PIPE_LAST, PIPE_NOT_OPENED, REG_PAR_UNKNOWN, RF_GOOD,
    SET_PARAMETER, TAG_AID, TAG_PARAMETERS,
};
use super::packet::{Buffer, Kind, Message, Passing};
use crate::swp::INFORMATION_MAX;
use crate::{Ended, Fault, Micros};

/// How many times the longest time to a response the card has to say that it has heard that the reader is gone.
const PATIENCE: u64 = 3;
/// Type A, type B, connectivity.
const GATES: usize = 3;
/// Events that wait to be sent, at the most.
const EVENTS: usize = 12;
/// With more of them no exchange begins, so that those which it adds find room: the reader goes and comes, and goes with a question behind it.
const EVENTS_BEFORE: usize = 4;

/// A gate's pipe, as the controller keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct There {
    gate: u8,
    pipe: u8,
    open: bool,
    /// MODE says that readers are answered.
    is_on: bool,
}

/// EVT_TRANSACTION: what a card says that a reader has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction<'a> {
    /// The application, 5 to 16 bytes.
    pub aid: &'a [u8],
    /// What it says of it.
    pub parameters: &'a [u8],
}

impl<'a> Transaction<'a> {
    /// Reads `81 L AID`, then perhaps `82 L parameters`, and nothing else.
    #[must_use]
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let [TAG_AID, len, rest @ ..] = data else {
            return None;
        };
        let (aid, rest) = rest.split_at_checked(usize::from(*len))?;
        let parameters = match rest {
            [] => rest,
            [TAG_PARAMETERS, len, rest @ ..] if rest.len() == usize::from(*len) => rest,
            _ => return None,
        };
        (5..=16).contains(&aid.len()).then_some(Self { aid, parameters })
    }
}

/// Whether what comes from the card can be taken for what it was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// It can.
    Sure,
    /// An answer may still be on its way: the card is asked to open a pipe that is open, and its response, due at this time, comes behind whatever it has said.
    Asking(Micros),
    /// It has not answered that either.
    Lost,
}

/// A contactless reader, and the gates through which it reaches the card.
#[derive(Clone, Debug)]
pub(super) struct Field<const LEN: usize> {
    there: [Option<There>; GATES],
    active: Option<Technology>,
    wanted: Option<Technology>,
    /// Headers of messages without data, each on a pipe.
    events: [(u8, u8); EVENTS],
    count: usize,
    command: Buffer<LEN>,
    heard: Buffer<LEN>,
    /// An answer that is passed over.
    passing: Passing,
    runs: bool,
    reached: bool,
    end: Option<End>,
    trust: Trust,
    waits_until: Option<Micros>,
    told: ([u8; super::SHORT_MAX], usize),
}

impl<const LEN: usize> Field<LEN> {
    pub(super) fn new() -> Self {
        Self {
            there: [None; GATES],
            active: None,
            wanted: None,
            events: [(0, 0); EVENTS],
            count: 0,
            command: Buffer::default(),
            heard: Buffer::default(),
            passing: Passing::default(),
            runs: false,
            reached: false,
            end: None,
            trust: Trust::Sure,
            waits_until: None,
            told: ([0; super::SHORT_MAX], 0),
        }
    }

    /// The link stands anew: nothing is on its way any more, and pipes are closed.
    pub(super) fn restart(&mut self) {
        self.fail(Fault::Reset, Trust::Sure);
        self.active = None;
        self.count = 0;
        self.passing = Passing::default();
        self.command.clear();
        for gate in self.there.iter_mut().flatten() {
            gate.open = false;
        }
    }

    /// The link cannot be had any more.
    pub(super) fn lose(&mut self, fault: Fault) {
        self.fail(fault, Trust::Lost);
    }

    /// All pipes of the card are gone.
    pub(super) fn clear(&mut self) {
        self.restart();
        self.there = [None; GATES];
    }

    fn there(&self, gate: u8) -> Option<There> {
        self.there
            .iter()
            .flatten()
            .find(|there| there.gate == gate)
            .copied()
    }

    fn on_pipe(&self, pipe: u8) -> Option<There> {
        self.there
            .iter()
            .flatten()
            .find(|there| there.pipe == pipe)
            .copied()
    }

    /// CREATE_PIPE of the card: the pipe, or NOK.
    pub(super) fn create(&mut self, host: u8, gate: u8, taken: u8) -> Result<u8, u8> {
        let is_there = match host {
            HOST_CONTROLLER => Technology::of(gate).is_some(),
            HOST_TERMINAL => gate == GATE_CONNECTIVITY,
            _ => false,
        };
        if !is_there || self.there(gate).is_some() {
            return Err(NOK);
        }
        let free = |pipe: &u8| *pipe != taken && self.on_pipe(*pipe).is_none();
        let pipe = (PIPE_FIRST..=PIPE_LAST).find(free).ok_or(NOK)?;
        let slot = self.there.iter_mut().find(|slot| slot.is_none()).ok_or(NOK)?;
        *slot = Some(There {
            gate,
            pipe,
            open: false,
            is_on: false,
        });
        Ok(pipe)
    }

    /// Whether a reader of this type would find the card.
    pub(super) fn is_ready(&self, technology: Technology) -> bool {
        let gate = self.there(technology.gate());
        gate.is_some_and(|gate| gate.open && gate.is_on) && self.trust != Trust::Lost
    }

    /// Begins an exchange, for which the card is chosen by this type where it is not yet.
    pub(super) fn start(
        &mut self,
        now: Micros,
        timing: Timing,
        technology: Technology,
        command: &[u8],
    ) -> bool {
        let pipe = self.there(technology.gate()).map(|there| there.pipe);
        let Some(pipe) = pipe.filter(|_| {
            self.is_ready(technology) && !self.runs && !self.command.is_begun() && self.count <= EVENTS_BEFORE
        }) else {
            return false;
        };
        self.heard.clear();
        self.reached = false;
        let header = Kind::Event.header(EVT_SEND_DATA);
        if command.is_empty() || !self.command.put_both(pipe, header, command, &[RF_GOOD]) {
            self.command.clear();
            self.end = Some(End::NotRun(Fault::TooLong));
            return true;
        }
        self.end = None;
        self.runs = true;
        self.wanted = Some(technology);
        self.waits_until = Some(now.after(timing.reader));
        if self.active.is_some_and(|active| active != technology) {
            self.leave();
        }
        self.choose();
        true
    }

    /// Chooses the card for a command that waits, once nothing is on its way any more.
    fn choose(&mut self) {
        if let (true, Some(technology), None, Trust::Sure) = (self.runs, self.wanted, self.active, self.trust)
        {
            self.event(technology, Kind::Event.header(EVT_FIELD_ON));
            self.event(technology, Kind::Event.header(EVT_CARD_ACTIVATED));
            self.active = Some(technology);
        }
    }

    fn event(&mut self, technology: Technology, header: u8) {
        let pipe = self.there(technology.gate()).map(|there| there.pipe);
        if let (Some(pipe), Some(slot)) = (pipe, self.events.get_mut(self.count)) {
            *slot = (pipe, header);
            self.count += 1;
        }
    }

    /// The reader goes away.
    pub(super) fn leave(&mut self) {
        if let Some(technology) = self.active.take() {
            self.event(technology, Kind::Event.header(EVT_CARD_DEACTIVATED));
            self.event(technology, Kind::Event.header(EVT_FIELD_OFF));
        }
    }

    /// An exchange that is under way ends; a command that has been begun goes to its end, or it would run together with what follows.
    fn fail(&mut self, fault: Fault, trust: Trust) {
        if self.runs {
            let begun = self.command.is_begun();
            self.end = Some(End::without_answer(fault, self.reached || begun));
            if !begun {
                self.command.clear();
            }
        }
        if self.end != Some(End::Answer) {
            self.passing.rest_of(&mut self.heard);
        }
        self.runs = false;
        self.trust = trust;
        self.waits_until = None;
    }

    /// The exchange ends in no answer; the card is let go, and what it may still say is waited for.
    fn give_up(&mut self, now: Micros, timing: Timing, fault: Fault) {
        self.fail(
            fault,
            Trust::Asking(now.after(timing.response.saturating_mul(PATIENCE))),
        );
        let technology = self.active;
        self.leave();
        if let Some(technology) = technology {
            self.event(technology, Kind::Command.header(OPEN_PIPE));
        }
    }

    /// The reader is taken away, whatever is under way.
    pub(super) fn take_away(&mut self, now: Micros, timing: Timing) {
        if self.runs {
            self.give_up(now, timing, Fault::Reset);
        } else {
            self.leave();
        }
    }

    /// Takes a packet of an answer; false when it is something else.
    pub(super) fn hear(&mut self, now: Micros, timing: Timing, packet: &[u8]) -> bool {
        let [first, rest @ ..] = packet else {
            return false;
        };
        let (pipe, is_last) = (first & 0x7F, first & 0x80 != 0);
        if self.passing.takes(pipe, is_last) {
            return true;
        }
        if self
            .on_pipe(pipe)
            .is_none_or(|there| there.gate == GATE_CONNECTIVITY)
        {
            return false;
        }
        let active = self.active.and_then(|active| self.there(active.gate()));
        let is_own = self.runs && active.is_some_and(|gate| gate.pipe == pipe);
        if !self.heard.is_partial(pipe) {
            if rest.first() != Some(&Kind::Event.header(EVT_SEND_DATA)) {
                return false;
            }
            if !is_own {
                // A late one.
                self.passing.begin(pipe, is_last);
                return true;
            }
        }
        if self.heard.take(packet) {
            let len = self.heard.message().map_or(0, |message| message.data.len());
            if len >= 2 && self.reached {
                self.end = Some(End::Answer);
                self.runs = false;
                self.waits_until = None;
            } else {
                self.give_up(now, timing, Fault::Protocol);
            }
        }
        true
    }

    /// A message on a pipe that the card has made: what is answered, if it was a command.
    pub(super) fn message(&mut self, message: Message<'_>) -> Option<u8> {
        let there = self
            .there
            .iter_mut()
            .flatten()
            .find(|there| there.pipe == message.pipe)?;
        match (message.kind, message.instruction, message.data) {
            (Kind::Command, OPEN_PIPE | CLOSE_PIPE, _) => {
                there.open = message.instruction == OPEN_PIPE;
                Some(OK)
            }
            (Kind::Command, ..) if !there.open => Some(PIPE_NOT_OPENED),
            (Kind::Command, SET_PARAMETER, [id, value @ ..]) if there.gate != GATE_CONNECTIVITY => {
                if *id == MODE {
                    there.is_on = value == [MODE_ON];
                }
                Some(OK)
            }
            (Kind::Command, GET_PARAMETER | SET_PARAMETER, _) => Some(REG_PAR_UNKNOWN),
            (Kind::Command, ..) => Some(CMD_NOT_SUPPORTED),
            (Kind::Response, ..) => {
                if matches!(self.trust, Trust::Asking(_)) && self.count == 0 {
                    self.trust = Trust::Sure;
                    self.choose();
                }
                None
            }
            (Kind::Event, EVT_TRANSACTION, data) if there.gate == GATE_CONNECTIVITY && there.open => {
                let (bytes, len) = &mut self.told;
                if Transaction::parse(data).is_some() && data.len() <= bytes.len() {
                    for (to, from) in bytes.iter_mut().zip(data) {
                        *to = *from;
                    }
                    *len = data.len();
                }
                None
            }
            (Kind::Event, ..) => None,
        }
    }

    /// The last EVT_TRANSACTION, until the next.
    pub(super) fn transaction(&self) -> Option<Transaction<'_>> {
        let (bytes, len) = &self.told;
        Transaction::parse(bytes.get(..*len)?)
    }

    pub(super) fn expire(&mut self, now: Micros, timing: Timing) {
        if matches!(self.trust, Trust::Asking(at) if at <= now) {
            self.fail(Fault::Silent, Trust::Lost);
        }
        if self.waits_until.is_some_and(|at| at <= now) {
            self.give_up(now, timing, Fault::Silent);
        }
    }

    pub(super) fn deadline(&self) -> Option<Micros> {
        let asking = match self.trust {
            Trust::Asking(at) => Some(at),
            Trust::Sure | Trust::Lost => None,
        };
        [asking, self.waits_until].into_iter().flatten().min()
    }

    /// A command of which a part has been sent.
    pub(super) const fn is_begun(&self) -> bool {
        self.command.is_begun()
    }

    /// The next packet.
    pub(super) fn packet(&self, out: &mut [u8; INFORMATION_MAX]) -> Option<usize> {
        if self.is_begun() || self.count == 0 {
            let may_go = self.is_begun() || self.runs && self.trust == Trust::Sure;
            return self.command.packet(out).filter(|_| may_go);
        }
        let (pipe, header) = self.events.first()?;
        let [first, second, ..] = out;
        *first = 0x80 | pipe;
        *second = *header;
        Some(2)
    }

    pub(super) fn sent(&mut self) {
        if self.is_begun() || self.count == 0 {
            self.command.sent();
            self.reached |= self.runs && self.command.is_empty();
        } else {
            self.events.rotate_left(1);
            self.count -= 1;
        }
    }

    pub(super) fn ended(&self) -> Option<Ended<'_>> {
        Some(self.end?.told(&self.heard))
    }
}
