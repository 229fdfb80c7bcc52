//! The SE's end of a session: pieces to records, records to the engine or the record layer, and what these say as pieces.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use sekisho_apdu::{CApdu, Cla, Reader, StatusWord, Writer};
use sekisho_bridge::{
    AGAIN, Correspondence, Extent, MESSAGE_HEADER, Piece, RECORD_HEADER, SESSION_OVER, Why, ins,
};
use sekisho_keys::Rng;
use zeroize::Zeroizing;

use crate::Alert;
use crate::engine::{Engine, Peer, Progress, Proof};
use crate::message::Message;
use crate::room::{Chain, Room};
use crate::tickets::{Later, Ticket};
use crate::traffic::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, EXPLICIT, HANDSHAKE, KEY_UPDATE_MESSAGE, Said, Traffic,
    Version,
};

/// What has become of a command of the TLS class.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is answered with this status word, and with what has been written.
    Answer(StatusWord),
    /// The same, with 9000: and it has proved the peer.
    Proved(Box<Proof>),
    /// It made a record whole that carries a command: [`Room::command`], to be answered with [`Endpoint::answer`].
    Command,
}

/// One session. Its records pass through a [`Room`] that all sessions share.
pub struct Endpoint<E> {
    cla: Cla,
    /// Which session this is to the room.
    number: u32,
    table: &'static Correspondence<'static>,
    state: State<E>,
    /// The beginning of a record is in the room, as far as this session knows.
    begun: bool,
    /// Our `change_cipher_spec` has gone: handshake records behind it are encrypted.
    sealed: bool,
    /// What of the last answer had no room in it: [`Endpoint::rest`].
    rest: Box<[u8]>,
    /// What the server was told last.
    #[cfg(test)]
    pub(crate) told: Option<Alert>,
}

enum State<E> {
    None,
    Handshake(Box<Handshake<E>>),
    Open(Traffic, After),
}

/// What comes of tickets.
enum After {
    /// None any more.
    Nothing,
    /// The first may come.
    Waits(Box<Later>),
    /// It has, and nobody has taken it.
    Has(Box<Ticket>),
}

struct Handshake<E> {
    engine: E,
    message: Message,
    /// The server's `change_cipher_spec` has come: its handshake records are encrypted from there on.
    sealed: bool,
}

/// Why a command is not taken; the session is over.
enum Refusal {
    /// In a status word.
    Device(StatusWord),
    /// In an alert to the server.
    Server(Alert),
}

impl From<Alert> for Refusal {
    fn from(alert: Alert) -> Self {
        Self::Server(alert)
    }
}

type Result<T> = core::result::Result<T, Refusal>;

const WRONG: Refusal = Refusal::Device(StatusWord::INCORRECT_DATA);

impl<E: Engine> Endpoint<E> {
    /// Without a session; `cla` is the class of its logical channel, and the class of the pieces in answers. No other session of the room has the same number.
    pub fn new(cla: Cla, number: u32, table: &'static Correspondence<'static>) -> Self {
        Self {
            cla,
            number,
            table,
            state: State::None,
            begun: false,
            sealed: false,
            rest: Box::default(),
            #[cfg(test)]
            told: None,
        }
    }

    /// Which session this is to the room.
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Whether the peer is proved, and commands can come.
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open(..))
    }

    /// How many bytes of records its handshake has taken, while one is under way.
    pub fn heard(&self) -> Option<usize> {
        match &self.state {
            State::Handshake(handshake) => Some(handshake.engine.heard()),
            _ => None,
        }
    }

    /// Ends a session for which there is no memory; the server is told (`internal_error`).
    pub fn give_up<const RECORD: usize>(
        &mut self,
        room: &mut Room<RECORD>,
        out: &mut Writer<'_>,
    ) -> StatusWord {
        self.outcome(room, Err(Alert::INTERNAL_ERROR.into()), out)
    }

    /// The version of TLS, once the peer is proved.
    pub const fn version(&self) -> Option<Version> {
        match &self.state {
            State::Open(traffic, _) => Some(traffic.version),
            _ => None,
        }
    }

    /// The ticket that has come of the session, once. A session gives one, before its first command or not at all.
    pub fn ticket(&mut self) -> Option<Box<Ticket>> {
        match &mut self.state {
            State::Open(_, after @ After::Has(_)) => match core::mem::replace(after, After::Nothing) {
                After::Has(ticket) => Some(ticket),
                _ => None,
            },
            _ => None,
        }
    }

    /// OPEN: what was of another session is forgotten.
    pub fn open<const RECORD: usize>(
        &mut self,
        room: &mut Room<RECORD>,
        peer: &Peer<'_>,
        rng: &mut dyn Rng,
        out: &mut Writer<'_>,
    ) -> StatusWord {
        self.resume(room, peer, None, rng, out)
    }

    /// The same with a ticket of an earlier session with this peer, by the same row, chain and key: where the server does not know it any more the handshake is a whole one.
    pub fn resume<const RECORD: usize>(
        &mut self,
        room: &mut Room<RECORD>,
        peer: &Peer<'_>,
        ticket: Option<Box<Ticket>>,
        rng: &mut dyn Rng,
        out: &mut Writer<'_>,
    ) -> StatusWord {
        self.end(room);
        let mut said = Zeroizing::new(Vec::new());
        let Ok(engine) = E::begin(peer, ticket, rng, &mut said) else {
            return StatusWord::CONDITIONS_NOT_SATISFIED;
        };
        self.state = State::Handshake(Box::new(Handshake {
            engine,
            message: Message::default(),
            sealed: false,
        }));
        let done = self.pieces(&said, out).map(|()| StatusWord::NO_ERROR);
        self.outcome(room, done, out)
    }

    /// Takes a command that carries a piece. [`AGAIN`] for one that found another session's record in the room: nothing else has changed then.
    pub fn hear<const RECORD: usize>(
        &mut self,
        room: &mut Room<RECORD>,
        piece: &CApdu<'_>,
        rng: &mut dyn Rng,
        out: &mut Writer<'_>,
    ) -> Heard {
        if matches!(self.state, State::None) {
            return Heard::Answer(StatusWord::CONDITIONS_NOT_SATISFIED);
        }
        self.rest = Box::default();
        if room.command.is_some() {
            // One that has no answer yet gets none.
            self.forget(room);
        }
        if !room.claim(self.number, &mut self.begun) {
            return Heard::Answer(AGAIN);
        }
        let done = match self.take(room, piece) {
            Ok(None) => Ok(StatusWord::NO_ERROR),
            Ok(Some(content_type)) => match self.act(room, content_type, rng, out) {
                Ok(Heard::Answer(sw)) => {
                    self.forget(room);
                    Ok(sw)
                }
                Ok(heard) => {
                    if heard != Heard::Command {
                        self.forget(room);
                    }
                    return heard;
                }
                Err(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        Heard::Answer(self.outcome(room, done, out))
    }

    /// Answers the command that the last record carried ([`Room::command`]): an R-APDU, in a record.
    pub fn answer<const RECORD: usize>(
        &mut self,
        room: &mut Room<RECORD>,
        response: &[u8],
        out: &mut Writer<'_>,
    ) -> StatusWord {
        if room.command(self.number).is_empty() {
            return StatusWord::CONDITIONS_NOT_SATISFIED;
        }
        self.forget(room);
        let done = self
            .say(APPLICATION_DATA, response, out)
            .map(|()| StatusWord::NO_ERROR);
        self.outcome(room, done, out)
    }

    /// Whether there is more of the last answer than had room in it.
    pub fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// As much of it as has room.
    pub fn rest(&mut self, out: &mut Writer<'_>) {
        let (now, later) = self.rest.split_at(self.rest.len().min(out.remaining()));
        let _ = out.bytes(now);
        self.rest = Box::from(later);
    }

    /// CLOSE.
    pub fn close<const RECORD: usize>(
        &mut self,
        room: &mut Room<RECORD>,
        why: u8,
        out: &mut Writer<'_>,
    ) -> StatusWord {
        const DISCONNECTED: u8 = Why::Disconnected as u8;
        const NO_RECORD: u8 = Why::NoRecord as u8;
        const TOO_LONG: u8 = Why::TooLong as u8;
        if matches!(self.state, State::None) {
            return StatusWord::CONDITIONS_NOT_SATISFIED;
        }
        let alert = match why {
            0 => Alert::CLOSE_NOTIFY,
            NO_RECORD => Alert::UNEXPECTED_MESSAGE,
            TOO_LONG => Alert::RECORD_OVERFLOW,
            DISCONNECTED => {
                self.end(room);
                return SESSION_OVER;
            }
            _ => return self.outcome(room, Err(Refusal::Device(StatusWord::INCORRECT_P1P2)), out),
        };
        self.outcome(room, Err(alert.into()), out)
    }

    /// What a step ends in: an error ends the session.
    fn outcome<const RECORD: usize>(
        &mut self,
        room: &mut Room<RECORD>,
        done: Result<StatusWord>,
        out: &mut Writer<'_>,
    ) -> StatusWord {
        match done {
            Ok(SESSION_OVER) => {
                self.end(room);
                SESSION_OVER
            }
            Ok(sw) => sw,
            Err(Refusal::Device(sw)) => {
                self.end(room);
                sw
            }
            Err(Refusal::Server(alert)) => {
                #[cfg(test)]
                {
                    self.told = Some(alert);
                }
                let level = if alert == Alert::CLOSE_NOTIFY { 1 } else { 2 };
                // Without room for it the connection is closed without a word.
                let _ = self.say(ALERT, &[level, alert.0], out);
                self.end(room);
                SESSION_OVER
            }
        }
    }

    fn end<const RECORD: usize>(&mut self, room: &mut Room<RECORD>) {
        self.state = State::None;
        self.forget(room);
        self.sealed = false;
        self.rest = Box::default();
    }

    /// The record is done with.
    fn forget<const RECORD: usize>(&mut self, room: &mut Room<RECORD>) {
        room.release(self.number);
        self.begun = false;
    }

    /// Takes the bytes of a command; the type of the record that is whole with them.
    fn take<const RECORD: usize>(
        &mut self,
        room: &mut Room<RECORD>,
        piece: &CApdu<'_>,
    ) -> Result<Option<u8>> {
        let (ins, p1p2, data) = (piece.ins, [piece.p1, piece.p2], piece.data);
        let extent = Extent::from_p1p2(p1p2);
        let chain = match room.chain.take() {
            Some(chain) if (chain.ins, chain.p1p2) != (ins, p1p2) => return Err(WRONG),
            Some(_) if data.is_empty() => return Err(Refusal::Device(StatusWord::WRONG_LENGTH)),
            Some(chain) => chain,
            None => self.begin(room, ins, p1p2, extent)?,
        };
        let left = chain.left.checked_sub(data.len());
        let left = left.ok_or(Refusal::Device(StatusWord::WRONG_LENGTH))?;
        push(room, data)?;
        match (piece.cla.chaining(), left) {
            (true, 1..) if !data.is_empty() => {
                room.chain = Some(Chain { left, ..chain });
                Ok(None)
            }
            (true, _) => Err(Refusal::Device(StatusWord::WRONG_LENGTH)),
            (false, 0) if extent.more => Ok(None),
            (false, 0) => Ok(room.content_type.take()),
            (false, _) => Err(WRONG),
        }
    }

    /// Looks at the first command of a piece: of which record it is, and whether there is room for it.
    fn begin<const RECORD: usize>(
        &self,
        room: &mut Room<RECORD>,
        ins: u8,
        p1p2: [u8; 2],
        extent: Extent,
    ) -> Result<Chain> {
        let message = self.table.handshake_type(ins);
        let content_type = match ins {
            ins::APPLICATION_DATA => APPLICATION_DATA,
            ins::HANDSHAKE => HANDSHAKE,
            ins::CHANGE_CIPHER_SPEC => CHANGE_CIPHER_SPEC,
            ins::ALERT => ALERT,
            _ if message.is_some() => HANDSHAKE,
            _ => return Err(Refusal::Device(StatusWord::INS_NOT_SUPPORTED)),
        };
        let header = message.map_or(0, |_| MESSAGE_HEADER);
        let goes_on = room.content_type.replace(content_type);
        if goes_on.is_some_and(|begun| begun != content_type) || (extent.more && content_type != HANDSHAKE) {
            return Err(WRONG);
        }
        if !room.has_room(header + extent.len()) {
            return Err(Alert::RECORD_OVERFLOW.into());
        }
        if let Some(handshake_type) = message {
            let [.., a, b, c] = extent.len().to_be_bytes();
            push(room, &[handshake_type, a, b, c])?;
        }
        Ok(Chain {
            ins,
            p1p2,
            left: extent.len(),
        })
    }

    /// Gives a whole record to whom it is for.
    fn act<const RECORD: usize>(
        &mut self,
        room: &mut Room<RECORD>,
        content_type: u8,
        rng: &mut dyn Rng,
        out: &mut Writer<'_>,
    ) -> Result<Heard> {
        let record = room.record();
        match &mut self.state {
            State::None => Err(WRONG),
            State::Handshake(handshake) => {
                let Handshake {
                    engine,
                    message,
                    sealed,
                } = handshake.as_mut();
                *sealed |= content_type == CHANGE_CIPHER_SPEC;
                if content_type == HANDSHAKE && !*sealed {
                    message.look(record.get(RECORD_HEADER..).unwrap_or_default())?;
                }
                let [.., a, b] = record.len().saturating_sub(RECORD_HEADER).to_be_bytes();
                let header = [content_type, 3, 3, a, b];
                record.iter_mut().zip(header).for_each(|(to, from)| *to = from);
                let mut said = Zeroizing::new(Vec::new());
                let progress = engine.hear(record, rng, &mut said);
                self.pieces(&said, out)?;
                match progress {
                    Progress::Going => {}
                    Progress::Done => return self.finish().map(Heard::Proved),
                    Progress::Failed => return Ok(Heard::Answer(SESSION_OVER)),
                }
                Ok(Heard::Answer(StatusWord::NO_ERROR))
            }
            State::Open(traffic, after) => {
                let at = match traffic.version {
                    Version::Tls12 => RECORD_HEADER + EXPLICIT,
                    Version::Tls13 => RECORD_HEADER,
                };
                let content = record.get_mut(RECORD_HEADER..).unwrap_or_default();
                match traffic.hear(content_type, content)? {
                    Said::Data(data) if !data.is_empty() => {
                        *after = After::Nothing;
                        room.command = Some((at, at + data.len()));
                        return Ok(Heard::Command);
                    }
                    Said::Data(_) | Said::Nothing => {}
                    Said::Ticket(body) => {
                        if let After::Waits(later) = core::mem::replace(after, After::Nothing) {
                            *after = later.hear(body).map_or(After::Nothing, After::Has);
                        }
                    }
                    Said::KeyUpdate => self.update_key(out)?,
                    Said::HelloRequest => self.say(ALERT, &[1, Alert::NO_RENEGOTIATION.0], out)?,
                    Said::CloseNotify => return Err(Alert::CLOSE_NOTIFY.into()),
                    Said::Fatal => return Ok(Heard::Answer(SESSION_OVER)),
                }
                Ok(Heard::Answer(StatusWord::NO_ERROR))
            }
        }
    }

    /// The handshake is done: its memory goes, keys and counters stay. How the peer was proved.
    // The engine is moved: not in the frame of what goes on before.
    #[inline(never)]
    fn finish(&mut self) -> Result<Box<Proof>> {
        let State::Handshake(handshake) = core::mem::replace(&mut self.state, State::None) else {
            return Err(WRONG);
        };
        let finished = handshake.engine.finish()?;
        let after = finished.later.map_or(After::Nothing, After::Waits);
        self.state = State::Open(finished.traffic, after);
        Ok(finished.proof)
    }

    fn update_key(&mut self, out: &mut Writer<'_>) -> Result<()> {
        self.say_now(HANDSHAKE, &KEY_UPDATE_MESSAGE, out)?;
        if let State::Open(traffic, _) = &mut self.state {
            traffic.next_key();
        }
        Ok(())
    }

    /// Says a record, in the clear during the handshake.
    fn say(&mut self, content_type: u8, text: &[u8], out: &mut Writer<'_>) -> Result<()> {
        if let State::Open(traffic, _) = &self.state
            && traffic.is_used_up()
            && content_type == APPLICATION_DATA
        {
            match traffic.version {
                Version::Tls13 => self.update_key(out)?,
                // There is no other key: goodbye takes the last record.
                Version::Tls12 => return Err(Alert::CLOSE_NOTIFY.into()),
            }
        }
        self.say_now(content_type, text, out)
    }

    fn say_now(&mut self, content_type: u8, text: &[u8], out: &mut Writer<'_>) -> Result<()> {
        let full = Refusal::Device(StatusWord::UNKNOWN);
        let State::Open(traffic, _) = &mut self.state else {
            return piece(self.cla, instruction(content_type), text, out).ok_or(full);
        };
        let total = text.len() + traffic.overhead();
        let start = out.len();
        let done = head(self.cla, instruction(traffic.outer(content_type)), total, out)
            .and_then(|()| traffic.seal(content_type, text, out).ok());
        if done.is_none() {
            out.truncate(start);
        }
        done.ok_or(full)
    }

    /// What the engine says, as pieces; what has no room in the answer is its [rest](Self::rest).
    fn pieces(&mut self, records: &[u8], out: &mut Writer<'_>) -> Result<()> {
        // A piece has at most two bytes more than its record, and that where it is long.
        let most = records.len() + 2 * (records.len() / 256 + 1);
        if most <= out.remaining() {
            return self.encode(records, out);
        }
        let mut room = vec![0; most];
        let mut all = Writer::new(&mut room);
        self.encode(records, &mut all)?;
        let all = all.written();
        let (now, later) = all.split_at(all.len().min(out.remaining()));
        let _ = out.bytes(now);
        self.rest = Box::from(later);
        Ok(())
    }

    /// Records as pieces: a whole message in the clear by its instruction.
    fn encode(&mut self, records: &[u8], out: &mut Writer<'_>) -> Result<()> {
        let full = || Refusal::Device(StatusWord::UNKNOWN);
        let mut reader = Reader::new(records);
        while !reader.is_empty() {
            let [content_type, _, _, a, b] = reader.array().map_err(|_| full())?;
            let content = reader
                .take(u16::from_be_bytes([a, b]).into())
                .map_err(|_| full())?;
            self.sealed |= content_type == CHANGE_CIPHER_SPEC;
            let (ins, data) = match (content, content_type, self.sealed) {
                ([handshake_type, a, b, c, body @ ..], HANDSHAKE, false)
                    if body.len() == u32::from_be_bytes([0, *a, *b, *c]) as usize =>
                {
                    match self.table.ins(*handshake_type) {
                        Some(ins) => (ins, body),
                        None => (ins::HANDSHAKE, content),
                    }
                }
                _ => (instruction(content_type), content),
            };
            piece(self.cla, ins, data, out).ok_or_else(full)?;
        }
        Ok(())
    }
}

fn push<const RECORD: usize>(room: &mut Room<RECORD>, bytes: &[u8]) -> Result<()> {
    let fits = room.push(bytes);
    fits.then_some(()).ok_or(Alert::RECORD_OVERFLOW.into())
}

/// The instruction for the content of a record of a type.
const fn instruction(content_type: u8) -> u8 {
    match content_type {
        CHANGE_CIPHER_SPEC => ins::CHANGE_CIPHER_SPEC,
        ALERT => ins::ALERT,
        HANDSHAKE => ins::HANDSHAKE,
        _ => ins::APPLICATION_DATA,
    }
}

fn piece(cla: Cla, ins: u8, data: &[u8], out: &mut Writer<'_>) -> Option<()> {
    let piece = Piece {
        ins,
        more: false,
        data,
    };
    piece.encode(cla, out).ok()
}

/// What stands before the data of a piece.
fn head(cla: Cla, ins: u8, len: usize, out: &mut Writer<'_>) -> Option<()> {
    let [p1, p2] = Extent::new(false, len)?.p1p2();
    let fields = [cla.0, ins, p1, p2, 0, p1, p2];
    match (p1, p2) {
        (0, 0) => out.bytes(fields.get(..4)?),
        (0, lc) => out.bytes(&[cla.0, ins, p1, p2, lc]),
        _ => out.bytes(&fields),
    }
    .ok()
}

#[cfg(test)]
mod tests;
