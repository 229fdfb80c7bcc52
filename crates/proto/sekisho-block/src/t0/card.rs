//! The card's end: it takes a header, asks for data or gives them, and runs each command once.

use sekisho_apdu::{Cla, SecureMessaging};
use zeroize::Zeroize;

use super::waiting::Waiting;
use super::{
    Direction, ENVELOPE, GET_RESPONSE, HEADER, MANAGE_CHANNEL, NULL, OUT_MAX, SW1_LENGTH, SW1_MORE, Timing,
    count, counted, is_forbidden,
};
use crate::Micros;

const DONE: [u8; 2] = [0x90, 0x00];
const WRONG_LENGTH: [u8; 2] = [0x67, 0x00];
const WRONG_DATA: [u8; 2] = [0x6A, 0x80];
const WRONG_P1P2: [u8; 2] = [0x6A, 0x86];
const NO_SUCH_INS: [u8; 2] = [0x6D, 0x00];
const NO_ANSWER: [u8; 2] = [0x6F, 0x00];

/// How a card acknowledges data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// INS: all of them.
    Whole,
    /// The complement of INS: one byte at a time.
    Bytewise,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A header is awaited, or under way.
    Header,
    /// Data are.
    Data,
    /// A command is with whoever runs it, or waits for that.
    Running,
    /// Something broke the protocol: nothing is said until a reset.
    Mute,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Say {
    Procedure(u8),
    Status([u8; 2]),
    /// So many bytes of an answer that waits there, and what comes behind them.
    Data(usize, usize),
}

/// What an inner command wants after so many of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inner {
    More,
    Whole,
    Malformed,
}

/// A card that speaks T=0, for commands and answers of up to `APDU` bytes, with room for `ANSWERS` answers that wait, one for each of so many logical channels. After a reset it is made anew.
///
/// `hear` takes characters, `say` gives what is to be sent, `expire` is called at `deadline`. Between them a command waits in `command`; whoever runs it says so with `take`, and answers with `answer`.
#[derive(Clone, Debug)]
pub struct Card<const APDU: usize, const ANSWERS: usize> {
    timing: Timing,
    direction: fn(cla: u8, ins: u8) -> Direction,
    acknowledge: Acknowledge,
    state: State,
    header: [u8; HEADER],
    have: usize,
    /// The command as it is handed over: header, data; or what ENVELOPEs have brought of one.
    command: [u8; APDU],
    command_len: usize,
    too_long: bool,
    /// CLA of the ENVELOPEs that are under way.
    envelope: Option<u8>,
    /// CLA and status word of an ENVELOPE whose command has been run: Le, or an ENVELOPE without data, may come behind it.
    tail: Option<(u8, [u8; 2])>,
    waiting: Waiting<APDU, ANSWERS>,
    taken: bool,
    say: Option<Say>,
    last: Micros,
}

impl<const APDU: usize, const ANSWERS: usize> Card<APDU, ANSWERS> {
    /// A card that was reset and has sent its ATR. `direction` says where a command's data go: [`super::direction`], or more when the card has commands of its own.
    #[must_use]
    pub fn new(timing: Timing, acknowledge: Acknowledge, direction: fn(u8, u8) -> Direction) -> Self {
        Self {
            timing,
            direction,
            acknowledge,
            state: State::Header,
            header: [0; HEADER],
            have: 0,
            command: [0; APDU],
            command_len: 0,
            too_long: false,
            envelope: None,
            tail: None,
            waiting: Waiting::NONE,
            taken: false,
            say: None,
            last: Micros(0),
        }
    }

    /// Takes characters. One that comes while none is awaited makes the card mute: something before it was not what was sent.
    pub fn hear(&mut self, now: Micros, bytes: &[u8]) {
        self.expire(now);
        for byte in bytes {
            self.last = now;
            match self.state {
                _ if self.say.is_some() => self.state = State::Mute,
                State::Header => self.header_byte(*byte),
                State::Data => self.data_byte(*byte),
                State::Running | State::Mute => self.state = State::Mute,
            }
        }
        if self.state == State::Mute {
            self.say = None;
        }
    }

    /// A character came whose parity was wrong as often as it was repeated: the card is mute until a reset.
    pub const fn damaged(&mut self) {
        self.state = State::Mute;
        self.say = None;
    }

    fn header_byte(&mut self, byte: u8) {
        if let Some(slot) = self.header.get_mut(self.have) {
            *slot = byte;
        }
        self.have += 1;
        if self.have == HEADER {
            self.have = 0;
            self.whole_header();
        }
    }

    fn whole_header(&mut self) {
        let [cla, ins, p1, p2, p3] = self.header;
        if cla == crate::pps::PPSS {
            return self.state = State::Mute;
        }
        let asked = self.waiting.of_header([cla, ins, p1, p2], usize::from(p3));
        if let Some(index) = asked.filter(|_| p3 != 0) {
            return self.say = Some(Say::Data(index, usize::from(p3)));
        }
        self.waiting.drop_headers();
        if is_forbidden(ins) {
            return self.status(NO_SUCH_INS);
        }
        if is_plain(cla, ins, GET_RESPONSE) && self.get_response() {
            return;
        }
        let envelope = is_plain(cla, ins, ENVELOPE) && cla & 0x80 == 0 && (p1, p2) == (0, 0);
        self.tail = self.tail.filter(|(of, _)| envelope && *of == cla);
        if let (Some((_, sw)), 0 | 2) = (self.tail, p3) {
            return if p3 == 0 { self.status(sw) } else { self.ask_data() };
        }
        self.tail = None;
        self.give_way(cla, ins, p1, p2);
        if envelope {
            return self.envelope_header(cla, p3);
        }
        self.envelope = None;
        self.command_len = 0;
        self.too_long = false;
        for byte in self.header {
            self.push(byte);
        }
        if (self.direction)(cla, ins) == Direction::In && p3 != 0 {
            self.ask_data();
        } else {
            self.state = State::Running;
        }
    }

    /// What waits on a command's logical channel is lost, and what waits on one that MANAGE CHANNEL opens or closes.
    fn give_way(&mut self, cla: u8, ins: u8, p1: u8, p2: u8) {
        self.waiting.drop_channel(Cla(cla).logical_channel());
        if ins == MANAGE_CHANNEL && matches!(p1, 0x00 | 0x80) && p2 != 0 {
            self.waiting.drop_channel(p2);
        }
    }

    fn envelope_header(&mut self, cla: u8, p3: u8) {
        if self.envelope != Some(cla) {
            self.command_len = 0;
            self.too_long = false;
        }
        if p3 != 0 {
            self.envelope = Some(cla);
            return self.ask_data();
        }
        match self.envelope {
            Some(_) if self.command_len >= HEADER - 1 => self.run_inner(),
            _ => self.status(WRONG_LENGTH),
        }
    }

    /// GET RESPONSE for what waits here; false when nothing does: then it is a command as any other.
    fn get_response(&mut self) -> bool {
        let [cla, _, p1, p2, p3] = self.header;
        let Some((index, rest)) = self.waiting.of_channel(Cla(cla).logical_channel()) else {
            return false;
        };
        if (p1, p2) != (0, 0) {
            self.status(WRONG_P1P2);
        } else if count(p3) > rest {
            self.status([SW1_LENGTH, counted(rest)]);
        } else {
            self.say = Some(Say::Data(index, count(p3)));
        }
        true
    }

    fn status(&mut self, sw: [u8; 2]) {
        self.state = State::Header;
        self.say = Some(Say::Status(sw));
    }

    fn ask_data(&mut self) {
        self.state = State::Data;
        self.have = 0;
        self.acknowledge_data();
    }

    fn acknowledge_data(&mut self) {
        let ins = self.ins();
        match self.acknowledge {
            Acknowledge::Whole if self.have == 0 => self.say = Some(Say::Procedure(ins)),
            Acknowledge::Whole => {}
            Acknowledge::Bytewise => self.say = Some(Say::Procedure(!ins)),
        }
    }

    const fn ins(&self) -> u8 {
        let [_, ins, ..] = self.header;
        ins
    }

    const fn p3(&self) -> u8 {
        let [.., p3] = self.header;
        p3
    }

    fn push(&mut self, byte: u8) {
        match self.command.get_mut(self.command_len) {
            Some(slot) => *slot = byte,
            None => self.too_long = true,
        }
        self.command_len += 1;
    }

    fn data_byte(&mut self, byte: u8) {
        if self.tail.is_none() {
            self.push(byte);
        }
        self.have += 1;
        if self.have < usize::from(self.p3()) {
            return self.acknowledge_data();
        }
        self.have = 0;
        self.state = State::Header;
        match (self.tail, self.envelope) {
            (Some((_, sw)), _) => self.status(sw),
            (None, None) => self.run(),
            (None, Some(_)) => match self.inner() {
                Inner::More => self.status(DONE),
                Inner::Whole => self.run_inner(),
                Inner::Malformed => {
                    self.envelope = None;
                    self.status(WRONG_DATA);
                }
            },
        }
    }

    /// How much of an inner command is here: its own length says, Le aside, which may come behind it.
    fn inner(&self) -> Inner {
        let Some(&[cla, _, _, _, marker, high, low]) = self.command.first_chunk() else {
            return Inner::Malformed;
        };
        let outer = self.envelope.map(|cla| Cla(cla).logical_channel());
        let whole = match u16::from_be_bytes([high, low]) {
            0 => 7,
            lc => 7 + usize::from(lc),
        };
        let len = self.command_len;
        match len {
            0..5 => Inner::More,
            _ if marker != 0 || outer != Some(Cla(cla).logical_channel()) => Inner::Malformed,
            5..7 => Inner::More,
            _ if len < whole => Inner::More,
            _ if len == whole => Inner::Whole,
            // Half of Le, and Le.
            _ if whole > 7 && len == whole + 1 => Inner::More,
            _ if whole > 7 && len == whole + 2 => Inner::Whole,
            _ => Inner::Malformed,
        }
    }

    fn run_inner(&mut self) {
        self.run();
        if let (Some(cla), false) = (self.envelope, self.too_long) {
            // The status word follows when it is known.
            self.tail = Some((cla, NO_ANSWER));
        }
    }

    fn run(&mut self) {
        if self.too_long {
            self.envelope = None;
            return self.status(WRONG_LENGTH);
        }
        self.state = State::Running;
    }

    /// A whole command that waits to be run, once: as it came, without Le where the line carries none.
    #[must_use]
    pub fn command(&self) -> Option<&[u8]> {
        if self.state == State::Running && !self.taken {
            self.command.get(..self.command_len)
        } else {
            None
        }
    }

    /// Whoever runs commands has this one, and will answer it.
    pub const fn take(&mut self) {
        self.taken = true;
    }

    /// A command runs, or waits for its turn.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// The answer to the command that was taken. One that is empty or longer than the buffer is answered 6F00.
    pub fn answer(&mut self, answer: &[u8]) {
        self.taken = false;
        if self.state != State::Running {
            return;
        }
        let (data, sw) = match answer.split_last_chunk() {
            Some((data, sw)) if data.len() <= APDU => (data, *sw),
            _ => (&[][..], NO_ANSWER),
        };
        self.say = Some(self.reply(data, sw));
        if let (Some((cla, _)), Some(Say::Status(sw))) = (self.tail, self.say) {
            self.tail = Some((cla, sw));
        }
        self.envelope = None;
        self.command.zeroize();
        self.command_len = 0;
        self.state = State::Header;
    }

    fn reply(&mut self, data: &[u8], sw: [u8; 2]) -> Say {
        let [cla, ins, p1, p2, p3] = self.header;
        let channel = Cla(cla).logical_channel();
        if data.is_empty() {
            return Say::Status(sw);
        }
        let out = self.envelope.is_none() && (self.direction)(cla, ins) == Direction::Out;
        let short = out && data.len() < count(p3);
        let header = short.then_some([cla, ins, p1, p2]);
        match self.waiting.keep(channel, data, sw, header) {
            None => Say::Status(NO_ANSWER),
            Some(_) if short => Say::Status([SW1_LENGTH, counted(data.len())]),
            Some(index) if out => Say::Data(index, count(p3)),
            Some(_) => Say::Status([SW1_MORE, counted(data.len())]),
        }
    }

    /// Looks at the time: [`Card::deadline`] says when. A command that runs is given time by NULL; a device that falls silent within a header or its data finds a mute card.
    pub fn expire(&mut self, now: Micros) {
        if self.say.is_some() || self.deadline().is_none_or(|at| at > now) {
            return;
        }
        self.last = now;
        if self.state == State::Running {
            self.say = Some(Say::Procedure(NULL));
        } else {
            self.state = State::Mute;
        }
    }

    /// The next moment at which something happens of itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        match self.state {
            State::Running => Some(self.last.after(self.timing.wt / 2)),
            State::Header if self.have == 0 => None,
            State::Mute => None,
            State::Header | State::Data => Some(self.last.after(self.timing.wt.saturating_add(1))),
        }
    }

    /// What is to be sent, written to `out`: its length, none when there is nothing to say.
    pub fn say(&mut self, now: Micros, out: &mut [u8; OUT_MAX]) -> Option<usize> {
        let mut len = 0;
        let mut put = |byte: u8| {
            if let Some(slot) = out.get_mut(len) {
                *slot = byte;
                len += 1;
            }
        };
        let sw = match self.say.take()? {
            Say::Procedure(byte) => {
                put(byte);
                None
            }
            Say::Status(sw) => Some(sw),
            Say::Data(index, n) => {
                let ins = self.ins();
                let bytewise = self.acknowledge == Acknowledge::Bytewise;
                if !bytewise {
                    put(ins);
                }
                let sw = self.waiting.at(index)?.give(n, |byte| {
                    if bytewise {
                        put(!ins);
                    }
                    put(byte);
                });
                Some(sw)
            }
        };
        for byte in sw.iter().flatten() {
            put(*byte);
        }
        self.last = now;
        Some(len)
    }
}

impl<const APDU: usize, const ANSWERS: usize> Drop for Card<APDU, ANSWERS> {
    fn drop(&mut self) {
        self.command.zeroize();
    }
}

/// A command of the interindustry or GlobalPlatform class in the clear, no part of a chain.
fn is_plain(cla: u8, ins: u8, wanted: u8) -> bool {
    let cla = Cla(cla);
    ins == wanted
        && cla.is_supported()
        && !cla.chaining()
        && matches!(cla.secure_messaging(), SecureMessaging::None)
}
