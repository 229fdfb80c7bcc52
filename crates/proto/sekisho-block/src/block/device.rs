//! The device's end: one exchange at a time, each command run once by the card or its outcome unknown.

use zeroize::Zeroize;

use super::{Bad, Block, Pcb, Service, Shape, Short, Trouble, ifs, swapped};
use crate::{Ended, Fault};

/// How often a block is repeated, or asked for again, before the exchange is given up (ISO/IEC 7816-3, rules 6.4, 7.4).
pub const RETRIES: u8 = 3;
/// How often a card may ask for time, or for another length, within an exchange.
pub const REQUESTS_MAX: u16 = 500;
/// How many blocks that fit nothing are passed over, as late copies, before the exchange is given up.
pub const STRAYS_MAX: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// An S request waits for its response; a command may wait behind it.
    Asking(Service, Short),
    /// The I block at `at` is under way.
    Sending,
    /// The card's chain is under way.
    Receiving,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reply {
    Information,
    Received(Trouble),
    Request,
    Response(Service, Short),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum End {
    Answer,
    NotRun,
    Unknown,
    Served,
    Refused,
}

/// A device's state for commands and answers of up to `APDU` bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Device<const APDU: usize> {
    shape: Shape,
    nad: u8,
    ns: bool,
    nr: bool,
    ifsc_at_start: u16,
    ifsc: u16,
    phase: Phase,
    command: [u8; APDU],
    command_len: usize,
    /// A command waits behind a RESYNCH.
    behind: bool,
    at: usize,
    chunk: usize,
    /// The last byte of the command may have reached the card.
    reached: bool,
    answer: [u8; APDU],
    answer_len: usize,
    tries: u8,
    repeats: u8,
    strays: u8,
    requests: u16,
    multiplier: u8,
    /// Numbers may differ at the two ends: RESYNCH before the next exchange.
    out_of_step: bool,
    reply: Option<Reply>,
    end: Option<(End, Fault)>,
}

impl<const APDU: usize> Device<APDU> {
    /// A device beside a card that was reset. `ifsc`: the longest INF that the card takes before it says another.
    #[must_use]
    pub const fn new(shape: Shape, nad: u8, ifsc: u16) -> Self {
        Self {
            shape,
            nad,
            ns: false,
            nr: false,
            ifsc_at_start: ifsc,
            ifsc,
            phase: Phase::Idle,
            command: [0; APDU],
            command_len: 0,
            behind: false,
            at: 0,
            chunk: 0,
            reached: false,
            answer: [0; APDU],
            answer_len: 0,
            tries: 0,
            repeats: 0,
            strays: 0,
            requests: 0,
            multiplier: 1,
            out_of_step: false,
            reply: None,
            end: None,
        }
    }

    /// Begins an exchange. False, and nothing changes, while another is under way. After one that did not end in an answer a RESYNCH goes first.
    pub fn start(&mut self, command: &[u8]) -> bool {
        if self.phase != Phase::Idle {
            return false;
        }
        self.fresh();
        let Some(slot) = self
            .command
            .get_mut(..command.len())
            .filter(|slot| !slot.is_empty())
        else {
            self.end = Some((End::NotRun, Fault::TooLong));
            return true;
        };
        slot.copy_from_slice(command);
        self.command_len = command.len();
        if self.out_of_step {
            self.behind = true;
            self.send_request(Service::Resynch, Short::NONE);
        } else {
            self.begin_command();
        }
        true
    }

    /// Sends an S request outside an exchange: RESYNCH, CIP, RELEASE, a reset. False while another thing is under way.
    pub fn ask(&mut self, service: Service) -> bool {
        if self.phase != Phase::Idle {
            return false;
        }
        self.fresh();
        self.send_request(service, Short::NONE);
        true
    }

    /// Says the longest INF that this device takes. False while another thing is under way, or when no block can be as long.
    pub fn ask_ifs(&mut self, ifsd: u16) -> bool {
        if self.phase != Phase::Idle || ifsd == 0 || ifsd > self.shape.inf_max() {
            return false;
        }
        self.fresh();
        self.send_request(Service::Ifs, Short::ifs(ifsd));
        true
    }

    /// The card takes so long an INF: from its ATR, or its CIP. It is what a RESYNCH goes back to.
    pub const fn set_ifsc(&mut self, ifsc: u16) {
        self.ifsc_at_start = ifsc;
        self.ifsc = ifsc;
    }

    /// The card was reset, by this device or by itself. What is under way ends: not run, or unknown, never passed over.
    pub fn reset(&mut self) {
        if self.phase != Phase::Idle {
            self.fail(Fault::Reset);
        }
        self.reply = None;
        self.restarted();
    }

    fn restarted(&mut self) {
        self.ns = false;
        self.nr = false;
        self.ifsc = self.ifsc_at_start;
        self.out_of_step = false;
    }

    fn fresh(&mut self) {
        self.end = None;
        self.reached = false;
        self.behind = false;
        self.answer.zeroize();
        self.answer_len = 0;
        self.requests = 0;
        self.reply = None;
        self.progress();
    }

    const fn progress(&mut self) {
        self.tries = 0;
        self.repeats = 0;
        self.strays = 0;
        self.multiplier = 1;
    }

    fn send_request(&mut self, service: Service, inf: Short) {
        self.phase = Phase::Asking(service, inf);
        self.reply = Some(Reply::Request);
    }

    fn begin_command(&mut self) {
        self.at = 0;
        self.send_information();
    }

    fn send_information(&mut self) {
        self.phase = Phase::Sending;
        self.chunk = usize::from(self.ifsc).min(self.command_len - self.at);
        self.reply = Some(Reply::Information);
    }

    fn more(&self) -> bool {
        self.at + self.chunk < self.command_len
    }

    /// Takes a block, or that a damaged one came.
    pub fn hear(&mut self, heard: Result<Block<'_>, Bad>) {
        if self.phase == Phase::Idle {
            return;
        }
        match heard {
            Ok(block) if block.nad == swapped(self.nad) => self.block(block.pcb, block.inf),
            Ok(_) => self.again(Trouble::Other, Fault::Garbled),
            Err(bad) => self.again(bad.into(), Fault::Garbled),
        }
    }

    /// Nothing came within the waiting time, [`Device::multiplier`] times BWT.
    pub fn expire(&mut self) {
        if self.phase != Phase::Idle {
            self.again(Trouble::Other, Fault::Silent);
        }
    }

    fn block(&mut self, pcb: Pcb, inf: &[u8]) {
        match (self.phase, pcb) {
            (_, Pcb::Request(service)) => self.request(service, inf),
            (Phase::Asking(service, asked), Pcb::Response(answered)) if service == answered => {
                self.response(service, &asked, inf);
            }
            (Phase::Asking(..), Pcb::R { .. }) => self.repeat(Reply::Request),
            (Phase::Sending | Phase::Receiving, Pcb::I { number, more }) if number == self.nr => {
                self.information(more, inf);
            }
            (Phase::Sending, Pcb::R { number, .. }) if number == self.ns => self.repeat(Reply::Information),
            (Phase::Sending, Pcb::R { .. }) if self.more() => {
                self.progress();
                self.at += self.chunk;
                self.ns = !self.ns;
                self.send_information();
            }
            (Phase::Sending | Phase::Receiving, Pcb::R { .. }) => self.repeat(Reply::Received(Trouble::None)),
            // Late copies of what has been taken.
            _ => self.stray(),
        }
    }

    fn information(&mut self, more: bool, inf: &[u8]) {
        if self.phase == Phase::Sending {
            if self.more() {
                return self.again(Trouble::Other, Fault::Protocol);
            }
            self.ns = !self.ns;
        }
        self.nr = !self.nr;
        let empty = inf.is_empty() && more;
        self.requests = self.requests.saturating_add(u16::from(empty));
        let end = self.answer_len + inf.len();
        match self.answer.get_mut(self.answer_len..end) {
            Some(slot) => slot.copy_from_slice(inf),
            None => return self.fail(Fault::TooLong),
        }
        self.answer_len = end;
        if self.requests > REQUESTS_MAX {
            return self.fail(Fault::Protocol);
        }
        self.progress();
        if more {
            self.phase = Phase::Receiving;
            self.reply = Some(Reply::Received(Trouble::None));
        } else if self.answer_len < 2 {
            self.fail(Fault::Protocol);
        } else {
            self.finish(End::Answer);
        }
    }

    fn response(&mut self, service: Service, asked: &Short, inf: &[u8]) {
        let good = service == Service::Cip || inf == asked.get();
        let kept = self.answer.get_mut(..inf.len()).filter(|_| good);
        let Some(slot) = kept else {
            return self.again(Trouble::Other, Fault::Protocol);
        };
        slot.copy_from_slice(inf);
        self.answer_len = inf.len();
        self.progress();
        if matches!(service, Service::Resynch | Service::Swr | Service::ColdReset) {
            self.restarted();
        }
        if core::mem::take(&mut self.behind) {
            self.answer_len = 0;
            self.begin_command();
        } else {
            self.finish(End::Served);
        }
    }

    fn request(&mut self, service: Service, inf: &[u8]) {
        self.requests = self.requests.saturating_add(1);
        if self.requests > REQUESTS_MAX {
            return self.fail(Fault::Protocol);
        }
        match (service, inf, ifs(self.shape, inf)) {
            (Service::Wtx, [multiplier], _) if *multiplier != 0 => self.multiplier = *multiplier,
            (Service::Ifs, _, Some(ifsc)) => self.ifsc = ifsc,
            (Service::Abort, [], _) => {
                self.fail(Fault::Aborted);
            }
            (Service::Wtx | Service::Ifs, ..) => return self.fail(Fault::Protocol),
            _ => return self.again(Trouble::Other, Fault::Protocol),
        }
        self.tries = 0;
        self.reply = Some(Reply::Response(service, Short::copied(inf)));
    }

    /// Something was wrong: the S request again, or R for the I block that is missing.
    fn again(&mut self, trouble: Trouble, fault: Fault) {
        self.multiplier = 1;
        self.tries += 1;
        if self.tries > RETRIES {
            return self.fail(fault);
        }
        self.reply = Some(match self.phase {
            Phase::Asking(..) => Reply::Request,
            _ => Reply::Received(trouble),
        });
    }

    /// The card wants something again.
    fn repeat(&mut self, reply: Reply) {
        self.multiplier = 1;
        self.repeats += 1;
        if self.repeats > RETRIES {
            return self.fail(Fault::Garbled);
        }
        self.reply = Some(reply);
    }

    fn stray(&mut self) {
        self.strays += 1;
        if self.strays > STRAYS_MAX {
            self.fail(Fault::Garbled);
        }
    }

    fn finish(&mut self, end: End) {
        self.phase = Phase::Idle;
        self.end = Some((end, Fault::Protocol));
        self.command.zeroize();
    }

    fn fail(&mut self, fault: Fault) {
        let end = match self.phase {
            Phase::Asking(..) if !self.behind => End::Refused,
            _ if self.reached => End::Unknown,
            _ => End::NotRun,
        };
        self.phase = Phase::Idle;
        self.reply = None;
        self.command.zeroize();
        self.answer.zeroize();
        self.out_of_step = true;
        self.end = Some((end, fault));
    }

    /// How the exchange ended; none while it is under way. A block may still have to be sent.
    #[must_use]
    pub fn ended(&self) -> Option<Ended<'_>> {
        match self.end? {
            (End::Answer, _) => Some(Ended::Answer(
                self.answer.get(..self.answer_len).unwrap_or_default(),
            )),
            (End::NotRun, fault) => Some(Ended::NotRun(fault)),
            (End::Unknown, fault) => Some(Ended::Unknown(fault)),
            (End::Served | End::Refused, _) => None,
        }
    }

    /// What an S request was answered with; none while it is under way.
    #[must_use]
    pub fn asked(&self) -> Option<Result<&[u8], Fault>> {
        match self.end? {
            (End::Served, _) => Some(Ok(self.answer.get(..self.answer_len).unwrap_or_default())),
            (End::Refused, fault) => Some(Err(fault)),
            _ => None,
        }
    }

    /// Something is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.phase != Phase::Idle
    }

    /// A block waits to be sent.
    #[must_use]
    pub const fn has_reply(&self) -> bool {
        self.reply.is_some()
    }

    /// How many BWT the card has for its next block.
    #[must_use]
    pub const fn multiplier(&self) -> u8 {
        self.multiplier
    }

    /// The block that is to be sent, written; none when there is nothing to say.
    pub fn write(&mut self, out: &mut [u8]) -> Option<usize> {
        let none = Short::NONE;
        let (pcb, inf) = match (self.reply.take()?, &self.phase) {
            (Reply::Information, _) => {
                let more = self.more();
                self.reached |= !more;
                (
                    Pcb::I {
                        number: self.ns,
                        more,
                    },
                    self.command.get(self.at..self.at + self.chunk)?,
                )
            }
            (Reply::Received(trouble), _) => (
                Pcb::R {
                    number: self.nr,
                    trouble,
                },
                none.get(),
            ),
            (Reply::Request, Phase::Asking(service, inf)) => (Pcb::Request(*service), inf.get()),
            (Reply::Request, _) => return None,
            (Reply::Response(service, ref inf), _) => {
                return Block {
                    nad: self.nad,
                    pcb: Pcb::Response(service),
                    inf: inf.get(),
                }
                .write(self.shape, out);
            }
        };
        Block {
            nad: self.nad,
            pcb,
            inf,
        }
        .write(self.shape, out)
    }
}

impl<const APDU: usize> Drop for Device<APDU> {
    fn drop(&mut self) {
        self.command.zeroize();
        self.answer.zeroize();
    }
}
