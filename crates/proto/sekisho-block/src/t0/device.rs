//! The device's end: one C-APDU at a time, as one or more exchanges of a header, data and a status word.

use sekisho_apdu::{CApdu, Cla};
use zeroize::Zeroize;

use super::{
    Direction, ENVELOPE, GET_RESPONSE, HEADER, NULL, OUT_MAX, SW1_LENGTH, SW1_MORE, Timing, count, counted,
    is_forbidden,
};
use crate::{Ended, Fault, Micros};

/// How many NULLs a card may send within an exchange.
pub const NULLS_MAX: u16 = 500;
/// How often in a row a card may say that there is more, or that P3 was wrong, and give nothing.
pub const FRUITLESS_MAX: u8 = 3;
/// Data of an ENVELOPE.
const ENVELOPE_MAX: usize = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    /// A procedure byte is awaited.
    Procedure,
    /// So many bytes of data are, before the next one.
    Data(usize),
    /// SW2 is.
    Second(u8),
    /// A status word has come, which holds when nothing comes behind it.
    Status([u8; 2]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Command,
    /// ENVELOPE with a piece of the command.
    Envelope,
    /// ENVELOPE without data, behind the last piece.
    EnvelopeEnd,
    Response,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Say {
    Header,
    /// So many of the bytes that are left.
    Data(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answer,
    NotRun(Fault),
    Unknown(Fault),
}

/// A device that speaks T=0, for commands and answers of up to `APDU` bytes.
///
/// `start` begins an exchange, `hear` takes characters, `say` gives what is to be sent, `expire` is called at `deadline`, until `ended`. After an exchange that failed the card has to be reset before the next.
#[derive(Clone, Debug)]
pub struct Device<const APDU: usize> {
    timing: Timing,
    phase: Phase,
    stage: Stage,
    command: [u8; APDU],
    command_len: usize,
    /// Ne; none without Le, and after a case 2 or 4 of the short form at most 256.
    ne: Option<usize>,
    header: [u8; HEADER],
    direction: Direction,
    /// Where in the command the data of this header are, up to where, and how far they have been sent.
    from: usize,
    to: usize,
    /// Bytes of data that this header has brought.
    got: usize,
    reached: bool,
    answer: [u8; APDU],
    answer_len: usize,
    nulls: u16,
    fruitless: u8,
    say: Option<Say>,
    end: Option<End>,
    must_reset: bool,
    last: Micros,
}

impl<const APDU: usize> Device<APDU> {
    /// A device beside a card that was reset and has sent its ATR.
    #[must_use]
    pub const fn new(timing: Timing) -> Self {
        Self {
            timing,
            phase: Phase::Idle,
            stage: Stage::Command,
            command: [0; APDU],
            command_len: 0,
            ne: None,
            header: [0; HEADER],
            direction: Direction::In,
            from: 0,
            to: 0,
            got: 0,
            reached: false,
            answer: [0; APDU],
            answer_len: 0,
            nulls: 0,
            fruitless: 0,
            say: None,
            end: None,
            must_reset: false,
            last: Micros(0),
        }
    }

    /// Begins an exchange. False, and nothing changes, while another is under way. A command that is no C-APDU, or has a CLA or INS that T=0 cannot carry, and any while the card has to be reset, ends as not run.
    pub fn start(&mut self, command: &[u8]) -> bool {
        if self.phase != Phase::Idle {
            return false;
        }
        self.answer.zeroize();
        self.answer_len = 0;
        self.nulls = 0;
        self.fruitless = 0;
        self.reached = false;
        self.end = None;
        if let Err(fault) = self.prepare(command) {
            self.end = Some(End::NotRun(fault));
        }
        true
    }

    fn prepare(&mut self, command: &[u8]) -> Result<(), Fault> {
        if self.must_reset {
            return Err(Fault::Reset);
        }
        let capdu = CApdu::parse(command).map_err(|_| Fault::Protocol)?;
        if is_forbidden(capdu.ins) || capdu.cla == Cla(crate::pps::PPSS) {
            return Err(Fault::Protocol);
        }
        self.command
            .get_mut(..command.len())
            .ok_or(Fault::TooLong)?
            .copy_from_slice(command);
        self.command_len = command.len();
        self.ne = capdu.ne.and_then(|ne| usize::try_from(ne).ok());
        let (cla, nc) = (capdu.cla, capdu.data.len());
        if nc > ENVELOPE_MAX {
            self.from = 0;
            self.to = 0;
            self.envelope(cla);
            return Ok(());
        }
        let direction = if nc == 0 && self.ne.is_some() {
            Direction::Out
        } else {
            Direction::In
        };
        let p3 = match (direction, self.ne) {
            (Direction::Out, Some(ne)) => counted(ne.min(256)),
            _ => counted(nc),
        };
        // Data begin behind Lc, which has one byte or three.
        self.from = if capdu.extended { 7 } else { HEADER };
        self.to = self.from + nc;
        self.stage = Stage::Command;
        self.header = [cla.0, capdu.ins, capdu.p1, capdu.p2, p3];
        self.begin(direction);
        Ok(())
    }

    fn begin(&mut self, direction: Direction) {
        self.direction = direction;
        self.got = 0;
        self.phase = Phase::Procedure;
        self.say = Some(Say::Header);
    }

    /// The next piece of the command, or the end of it.
    fn envelope(&mut self, cla: Cla) {
        self.from = self.to;
        let left = self.command_len - self.from;
        // Le stays with the end of the data: the card runs a command when it has these.
        self.to = match left {
            0..=ENVELOPE_MAX => self.command_len,
            256 | 257 => self.from + ENVELOPE_MAX - 2,
            _ => self.from + ENVELOPE_MAX,
        };
        let n = self.to - self.from;
        self.stage = if n == 0 {
            Stage::EnvelopeEnd
        } else {
            Stage::Envelope
        };
        self.header = [class(cla), ENVELOPE, 0, 0, counted(n)];
        self.begin(Direction::In);
    }

    fn response(&mut self, more: u8) {
        let left = self.ne.unwrap_or(0).saturating_sub(self.answer_len);
        let [cla, ..] = self.header;
        self.stage = Stage::Response;
        self.header = [
            class(Cla(cla)),
            GET_RESPONSE,
            0,
            0,
            counted(left.min(count(more))),
        ];
        self.begin(Direction::Out);
    }

    /// An exchange is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.phase != Phase::Idle
    }

    /// Whether the card has to be reset before it can be spoken to again.
    #[must_use]
    pub const fn must_reset(&self) -> bool {
        self.must_reset
    }

    /// The card was reset. What is under way ends: not run, or unknown, never passed over.
    pub fn reset(&mut self) {
        if self.phase != Phase::Idle {
            self.fail(Fault::Reset);
        }
        self.must_reset = false;
    }

    /// A character came whose parity was wrong as often as it was repeated.
    pub fn damaged(&mut self) {
        if self.phase == Phase::Idle {
            self.must_reset = true;
        } else {
            self.fail(Fault::Garbled);
        }
    }

    /// Takes characters.
    pub fn hear(&mut self, now: Micros, bytes: &[u8]) {
        self.expire(now);
        for byte in bytes {
            self.last = now;
            // While this end speaks the card has nothing to say.
            if self.say.is_some() {
                self.fail(Fault::Protocol);
            }
            match self.phase {
                Phase::Idle => self.must_reset = true,
                Phase::Procedure => self.procedure(*byte),
                Phase::Data(left) => self.data(*byte, left),
                Phase::Second(sw1) => self.phase = Phase::Status([sw1, *byte]),
                Phase::Status(_) => self.fail(Fault::Garbled),
            }
        }
        self.expire(now);
    }

    /// Bytes of data that this header is still to send, or to bring.
    fn left(&self) -> usize {
        match self.direction {
            Direction::In => self.to - self.from,
            Direction::Out => {
                let [.., p3] = self.header;
                count(p3) - self.got
            }
        }
    }

    fn procedure(&mut self, byte: u8) {
        let [_, ins, ..] = self.header;
        let left = self.left();
        match byte {
            NULL => {
                self.nulls += 1;
                if self.nulls > NULLS_MAX {
                    self.fail(Fault::Protocol);
                }
            }
            // With the lowest bit changed they once asked for a programming voltage.
            _ if byte & !1 == ins & !1 => self.transfer(left),
            _ if byte & !1 == !ins & !1 => self.transfer(left.min(1)),
            0x61..=0x6F | 0x90..=0x9F => self.phase = Phase::Second(byte),
            _ => self.fail(Fault::Protocol),
        }
    }

    fn transfer(&mut self, n: usize) {
        match (n, self.direction) {
            (0, _) => self.fail(Fault::Protocol),
            (_, Direction::In) => self.say = Some(Say::Data(n)),
            (_, Direction::Out) => self.phase = Phase::Data(n),
        }
    }

    fn data(&mut self, byte: u8, left: usize) {
        match self.answer.get_mut(self.answer_len) {
            Some(slot) => *slot = byte,
            None => return self.fail(Fault::TooLong),
        }
        self.answer_len += 1;
        self.got += 1;
        self.phase = match left {
            0 | 1 => Phase::Procedure,
            _ => Phase::Data(left - 1),
        };
    }

    /// A status word, and nothing behind it.
    fn status(&mut self, sw: [u8; 2]) {
        let [sw1, sw2] = sw;
        let more = sw1 == SW1_MORE;
        let good = more || sw == [0x90, 0x00];
        let half = match self.direction {
            // Some of the data, or what is good without all of them.
            Direction::Out => self.got != 0 && self.left() != 0,
            Direction::In => good && self.left() != 0,
        };
        if half {
            return self.fail(Fault::Protocol);
        }
        if self.got == 0 && (more || sw1 == SW1_LENGTH) {
            self.fruitless += 1;
        } else {
            self.fruitless = 0;
        }
        if self.fruitless > FRUITLESS_MAX {
            return self.fail(Fault::Protocol);
        }
        let [cla, ..] = self.header;
        let wanted = self.ne.is_some_and(|ne| self.answer_len < ne);
        match self.stage {
            Stage::Envelope if self.to < self.command_len && more => self.fail(Fault::Protocol),
            Stage::Envelope if sw == [0x90, 0x00] => self.envelope(Cla(cla)),
            Stage::Command | Stage::Response
                if sw1 == SW1_LENGTH && self.direction == Direction::Out && self.got == 0 =>
            {
                let [cla, ins, p1, p2, _] = self.header;
                self.header = [cla, ins, p1, p2, sw2];
                self.begin(Direction::Out);
            }
            _ if more && wanted => self.response(sw2),
            _ => self.finish(sw),
        }
    }

    fn finish(&mut self, sw: [u8; 2]) {
        let end = self.answer_len + sw.len();
        match self.answer.get_mut(self.answer_len..end) {
            Some(slot) => slot.copy_from_slice(&sw),
            None => return self.fail(Fault::TooLong),
        }
        self.answer_len = end;
        self.close(End::Answer);
    }

    fn fail(&mut self, fault: Fault) {
        self.must_reset = true;
        if self.phase != Phase::Idle {
            self.close(if self.reached {
                End::Unknown(fault)
            } else {
                End::NotRun(fault)
            });
        }
    }

    fn close(&mut self, end: End) {
        self.phase = Phase::Idle;
        self.say = None;
        self.end = Some(end);
        self.command.zeroize();
        self.command_len = 0;
    }

    /// Looks at the time: [`Device::deadline`] says when.
    pub fn expire(&mut self, now: Micros) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        match self.phase {
            Phase::Status(sw) => self.status(sw),
            _ => self.fail(Fault::Silent),
        }
    }

    /// The next moment at which something happens of itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        match self.phase {
            Phase::Idle => None,
            _ if self.say.is_some() => None,
            Phase::Status(_) => Some(self.last.after(self.timing.guard)),
            _ => Some(self.last.after(self.timing.wt)),
        }
    }

    /// What is to be sent, written to `out`: its length, none when there is nothing to say. The waiting time begins now.
    pub fn say(&mut self, now: Micros, out: &mut [u8; OUT_MAX]) -> Option<usize> {
        let bytes = match self.say.take()? {
            Say::Header => &self.header[..],
            Say::Data(n) => {
                let at = self.from;
                self.from += n;
                self.command.get(at..at + n)?
            }
        };
        out.get_mut(..bytes.len())?.copy_from_slice(bytes);
        // All that this stage carries of the command has gone, and it is the last to carry any.
        let last = self.stage != Stage::Envelope || self.to == self.command_len;
        self.reached |= last && (self.direction == Direction::Out || self.from == self.to);
        self.last = now;
        Some(bytes.len())
    }

    /// How the exchange ended; none while it is under way.
    #[must_use]
    pub fn ended(&self) -> Option<Ended<'_>> {
        match self.end? {
            End::Answer => Some(Ended::Answer(
                self.answer.get(..self.answer_len).unwrap_or_default(),
            )),
            End::NotRun(fault) => Some(Ended::NotRun(fault)),
            End::Unknown(fault) => Some(Ended::Unknown(fault)),
        }
    }
}

impl<const APDU: usize> Drop for Device<APDU> {
    fn drop(&mut self) {
        self.command.zeroize();
        self.answer.zeroize();
    }
}

/// The interindustry class in the clear, with a command's logical channel: of ENVELOPE and GET RESPONSE.
fn class(cla: Cla) -> u8 {
    Cla::ISO
        .with_logical_channel(cla.logical_channel())
        .unwrap_or(Cla::ISO)
        .0
}
