//! The card's end: it answers each block, runs each command once, and never sends of itself.

use zeroize::Zeroize;

use super::{Bad, Block, Pcb, Service, Shape, Short, Trouble, ifs, swapped};

/// SW of a command that is longer than the card's buffer.
const WRONG_LENGTH: [u8; 2] = [0x67, 0x00];
/// SW where there is no answer that could be given.
const NO_ANSWER: [u8; 2] = [0x6F, 0x00];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Nothing has come since the start.
    Idle,
    /// A chain is under way.
    Collecting,
    /// A whole command is here.
    Running,
    /// The block at `at` has been sent; the last one is kept until the next command.
    Answering,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reply {
    Information,
    Received(Trouble),
    Request(Service, Short),
    Response(Service, Short),
    Parameters,
}

/// A card's state for commands and answers of up to `APDU` bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Card<const APDU: usize> {
    shape: Shape,
    nad: u8,
    /// N(S) of the I block that is sent next, or was last and is not acknowledged.
    ns: bool,
    /// N(S) that is expected next.
    nr: bool,
    ifsd_at_start: u16,
    ifsd: u16,
    phase: Phase,
    command: [u8; APDU],
    command_len: usize,
    too_long: bool,
    answer: [u8; APDU],
    answer_len: usize,
    at: usize,
    chunk: usize,
    /// The multiplier that was asked for and not yet granted.
    wtx: Option<u8>,
    ready: bool,
    /// The command is with whoever runs it.
    taken: bool,
    /// What runs is not wanted any more.
    abandoned: bool,
    reply: Option<Reply>,
    restart: bool,
    released: bool,
}

impl<const APDU: usize> Card<APDU> {
    /// A card that was reset. `ifsd`: the longest INF that the device takes before it says another.
    #[must_use]
    pub const fn new(shape: Shape, ifsd: u16) -> Self {
        Self::with_nad(shape, 0, ifsd)
    }

    /// The same, where a device is answered by this NAD swapped before it has sent a good block.
    #[must_use]
    pub const fn with_nad(shape: Shape, nad: u8, ifsd: u16) -> Self {
        Self {
            shape,
            nad,
            ns: false,
            nr: false,
            ifsd_at_start: ifsd,
            ifsd,
            phase: Phase::Idle,
            command: [0; APDU],
            command_len: 0,
            too_long: false,
            answer: [0; APDU],
            answer_len: 0,
            at: 0,
            chunk: 0,
            wtx: None,
            ready: false,
            taken: false,
            abandoned: false,
            reply: None,
            restart: false,
            released: false,
        }
    }

    /// Takes a block, or that a damaged one came.
    pub fn hear(&mut self, heard: Result<Block<'_>, Bad>) {
        let block = match heard {
            Ok(block) if self.addressed(block.nad) => block,
            Ok(_) => return self.damaged(Trouble::Other),
            Err(bad) => return self.damaged(bad.into()),
        };
        self.nad = block.nad;
        match block.pcb {
            Pcb::I { number, more } => self.information(number, more, block.inf),
            Pcb::R { number, .. } => self.received(number),
            Pcb::Request(service) => self.request(service, block.inf),
            Pcb::Response(Service::Wtx) if self.wtx.is_some_and(|asked| block.inf == [asked]) => {
                self.wtx = None;
                if self.ready {
                    self.begin_answer();
                }
            }
            // A late copy of one that has been taken.
            Pcb::Response(_) => {}
        }
    }

    /// NADs of T=1 without the bits of VPP and with two different ends; of T=1', as the bus has checked it.
    const fn addressed(&self, nad: u8) -> bool {
        matches!(self.shape, Shape::Prime) || (nad & 0x88 == 0 && (nad == 0 || nad >> 4 != nad & 0x0F))
    }

    fn damaged(&mut self, trouble: Trouble) {
        match self.phase {
            Phase::Running => self.ask_again(),
            _ => self.reply = Some(Reply::Received(trouble)),
        }
    }

    /// While a command runs there is nothing to say, but that time is asked for.
    fn ask_again(&mut self) {
        if let Some(multiplier) = self.wtx {
            self.reply = Some(Reply::Request(Service::Wtx, Short::byte(multiplier)));
        }
    }

    fn more(&self) -> bool {
        self.at + self.chunk < self.answer_len
    }

    fn information(&mut self, number: bool, more: bool, inf: &[u8]) {
        let expected = number == self.nr;
        match self.phase {
            Phase::Running => return self.ask_again(),
            Phase::Answering if !expected => return self.reply = Some(Reply::Information),
            Phase::Answering if self.more() => return self.reply = Some(Reply::Received(Trouble::Other)),
            Phase::Answering => self.ns = !self.ns,
            Phase::Idle if !expected => return self.reply = Some(Reply::Received(Trouble::Other)),
            Phase::Collecting if !expected => return self.reply = Some(Reply::Received(Trouble::None)),
            Phase::Idle | Phase::Collecting => {}
        }
        if self.phase != Phase::Collecting {
            self.answer.zeroize();
            self.command_len = 0;
            self.too_long = false;
            self.phase = Phase::Collecting;
        }
        self.nr = !self.nr;
        match self
            .command
            .get_mut(self.command_len..self.command_len + inf.len())
        {
            Some(slot) if !self.too_long => {
                slot.copy_from_slice(inf);
                self.command_len += inf.len();
            }
            _ => self.too_long = true,
        }
        if more {
            self.reply = Some(Reply::Received(Trouble::None));
            return;
        }
        self.phase = Phase::Running;
        self.ready = false;
        if self.too_long {
            self.set_answer(&WRONG_LENGTH);
        }
    }

    fn received(&mut self, number: bool) {
        match self.phase {
            Phase::Running => self.ask_again(),
            Phase::Answering if number == self.ns => self.reply = Some(Reply::Information),
            Phase::Answering if self.more() => {
                self.at += self.chunk;
                self.ns = !self.ns;
                self.send_information();
            }
            // The answer has arrived, the next command has not.
            Phase::Answering | Phase::Idle | Phase::Collecting => {
                self.reply = Some(Reply::Received(Trouble::None));
            }
        }
    }

    fn request(&mut self, service: Service, inf: &[u8]) {
        match (service, ifs(self.shape, inf)) {
            (Service::Resynch | Service::Swr | Service::ColdReset, _) if inf.is_empty() => {
                self.begin_again();
                self.restart = service != Service::Resynch;
            }
            (Service::Ifs, Some(value)) => self.ifsd = value,
            (Service::Abort, _) if inf.is_empty() => {
                if self.phase == Phase::Answering {
                    self.ns = !self.ns;
                }
                self.drop_exchange();
            }
            (Service::Release | Service::EndSession, _) if inf.is_empty() => self.released = true,
            (Service::Cip, _) if inf.is_empty() => return self.reply = Some(Reply::Parameters),
            _ => return self.damaged(Trouble::Other),
        }
        self.reply = Some(Reply::Response(service, Short::copied(inf)));
    }

    fn drop_exchange(&mut self) {
        self.abandoned |= self.taken;
        self.phase = Phase::Idle;
        self.wtx = None;
        self.ready = false;
        self.command.zeroize();
        self.command_len = 0;
        self.answer.zeroize();
        self.answer_len = 0;
        self.at = 0;
        self.chunk = 0;
    }

    fn begin_again(&mut self) {
        self.drop_exchange();
        self.ns = false;
        self.nr = false;
        self.ifsd = self.ifsd_at_start;
    }

    /// A whole command that waits to be run, once.
    #[must_use]
    pub fn command(&self) -> Option<&[u8]> {
        let waits = self.phase == Phase::Running && !self.ready && !self.taken;
        if waits {
            self.command.get(..self.command_len)
        } else {
            None
        }
    }

    /// Whoever runs commands has this one, and will answer it.
    pub const fn take(&mut self) {
        self.taken = true;
    }

    /// The answer to the command that was taken. It is dropped when a RESYNCH or an ABORT has come since: nobody waits for it. One that is empty or longer than the buffer is answered 6F00.
    pub fn answer(&mut self, answer: &[u8]) {
        self.taken = false;
        if core::mem::take(&mut self.abandoned) || self.phase != Phase::Running {
            return;
        }
        self.set_answer(answer);
    }

    fn set_answer(&mut self, answer: &[u8]) {
        let answer = if answer.len() < 2 || answer.len() > APDU {
            &NO_ANSWER
        } else {
            answer
        };
        self.command.zeroize();
        if let Some(slot) = self.answer.get_mut(..answer.len()) {
            slot.copy_from_slice(answer);
            self.answer_len = answer.len();
        }
        self.ready = true;
        if self.wtx.is_none() {
            self.begin_answer();
        }
    }

    fn begin_answer(&mut self) {
        self.phase = Phase::Answering;
        self.at = 0;
        self.send_information();
    }

    fn send_information(&mut self) {
        self.chunk = usize::from(self.ifsd).min(self.answer_len - self.at);
        self.reply = Some(Reply::Information);
    }

    /// Asks for so many BWT, while a command runs. Does nothing when time is asked for already, or nothing runs.
    pub fn ask_for_time(&mut self, multiplier: u8) {
        if self.phase == Phase::Running && !self.ready && self.wtx.is_none() && multiplier != 0 {
            self.wtx = Some(multiplier);
            self.ask_again();
        }
    }

    /// A command runs, or waits for its turn.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// A block waits to be sent.
    #[must_use]
    pub const fn has_reply(&self) -> bool {
        self.reply.is_some()
    }

    /// The block that is to be sent, written; none when there is nothing to say. `parameters`: INF of S(CIP response).
    pub fn write(&mut self, parameters: &[u8], out: &mut [u8]) -> Option<usize> {
        let (pcb, inf) = match self.reply.take()? {
            Reply::Information => (
                Pcb::I {
                    number: self.ns,
                    more: self.more(),
                },
                self.answer.get(self.at..self.at + self.chunk)?,
            ),
            Reply::Received(trouble) => (
                Pcb::R {
                    number: self.nr,
                    trouble,
                },
                &[][..],
            ),
            Reply::Request(service, ref inf) => return self.short(Pcb::Request(service), inf, out),
            Reply::Response(service, ref inf) => return self.short(Pcb::Response(service), inf, out),
            Reply::Parameters => (Pcb::Response(Service::Cip), parameters),
        };
        Block {
            nad: swapped(self.nad),
            pcb,
            inf,
        }
        .write(self.shape, out)
    }

    fn short(&self, pcb: Pcb, inf: &Short, out: &mut [u8]) -> Option<usize> {
        Block {
            nad: swapped(self.nad),
            pcb,
            inf: inf.get(),
        }
        .write(self.shape, out)
    }

    /// Whether a reset was asked for (SWR, cold reset) since the last call: what is answered is answered before it.
    pub const fn restart(&mut self) -> bool {
        core::mem::replace(&mut self.restart, false)
    }

    /// Whether the device has ended its session (RELEASE) since the last call.
    pub const fn released(&mut self) -> bool {
        core::mem::replace(&mut self.released, false)
    }
}

impl<const APDU: usize> Drop for Card<APDU> {
    fn drop(&mut self) {
        self.command.zeroize();
        self.answer.zeroize();
    }
}
