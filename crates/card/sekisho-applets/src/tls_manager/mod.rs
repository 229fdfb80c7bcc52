//! The TLS Manager (`docs/spec/tls-manager.md`): it alone has keys, certificates and peers, and ends sessions for the other applications of its container.

mod certify;
mod objects;
mod sessions;
mod tickets;
mod time;

use alloc::boxed::Box;
use alloc::vec::Vec;

use sekisho_apdu::gp::ins;
use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_os::{Application, Context, Next, Outcome, Place, Refusal, State, Tls, TlsHeard};
use sekisho_tls::HANDSHAKE_MAX;
use zeroize::Zeroizing;

use certify::Author;
pub use objects::{
    CHAIN_RECORD, KEY_RECORD, PENDING_RECORD, PROVED_RECORD, REQUEST_RECORD, ROWS_MAX, TIME_RECORD, is_chain,
    is_row, row_record,
};
use objects::{Object, Rights};
pub use sessions::SESSIONS_MAX;
use sessions::{RecordRoom, Session};
pub use tickets::TICKETS_MAX;
use tickets::Tickets;

/// AID of the application: F0 "SKOS" 05 01.
pub const AID: &[u8] = sekisho_os::TLS_MANAGER;
/// AID of its executable load file.
pub const LOAD_FILE_AID: &[u8] = b"\xF0SKOS\x05";

/// GENERATE ASYMMETRIC KEY PAIR with BER-TLV in its data field (ISO/IEC 7816-8, 5.1).
pub const GENERATE_KEY_PAIR: u8 = 0x47;
/// P1 of it: a new pair.
const NEW_PAIR: u8 = 0x80;
/// P1 of it: what is there.
const PRESENT_PAIR: u8 = 0x81;

/// P1 of STORE DATA: the last block.
const LAST_BLOCK: u8 = 0x80;

const WRONG_BLOCK: Refusal = Refusal(StatusWord::INCORRECT_P1P2);
const WRONG_DATA: Refusal = Refusal(StatusWord::INCORRECT_DATA);
const NOT_ALLOWED: Refusal = Refusal(StatusWord::CONDITIONS_NOT_SATISFIED);

/// The TLS Manager. All of it is RAM; a session ends with the power.
pub struct TlsManager {
    sessions: [Option<Box<Session>>; SESSIONS_MAX],
    /// There from the first session to the last.
    room: Option<Box<RecordRoom>>,
    /// Number of the session that began last.
    began: u32,
    /// From the root, and from a peer: neither is in the other's way.
    incoming: [Option<Box<Incoming>>; 2],
    tickets: Tickets,
}

/// The blocks of an object that has not come to its end.
struct Incoming {
    bytes: Zeroizing<Vec<u8>>,
    /// Number of the next block, none behind FF, and the place and session from which they come.
    next: (Option<u8>, Place, u32),
}

impl core::fmt::Debug for TlsManager {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TlsManager").finish_non_exhaustive()
    }
}

impl State for TlsManager {
    const NEW: Self = Self {
        sessions: [const { None }; SESSIONS_MAX],
        room: None,
        began: 0,
        incoming: [const { None }; 2],
        tickets: Tickets::NEW,
    };
}

impl Application for TlsManager {
    /// Answers SELECT with nothing but its AID.
    ///
    /// # Errors
    /// 6A84 when it does not fit.
    fn select(&mut self, _: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        out.tlv_with(0x6F, |w| w.tlv(0x84, AID))?;
        Ok(StatusWord::NO_ERROR)
    }

    fn deselect(&mut self, place: Place) {
        for incoming in &mut self.incoming {
            incoming.take_if(|incoming| incoming.next.1 == place);
        }
    }

    /// STORE DATA, which the container's root forwards, or which comes out of the session of a peer with rights; GENERATE ASYMMETRIC KEY PAIR.
    ///
    /// # Errors
    /// The status word of the refusal.
    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        match capdu.ins {
            ins::STORE_DATA => {
                let author = Author::of(context)?;
                if (capdu.p1 & !LAST_BLOCK, capdu.p2) == (0, 0) {
                    author.begins(capdu.data.first())?;
                }
                let from = (context.place(), context.session());
                let done = self.block(context, author, capdu);
                if done.is_err() || capdu.p1 == LAST_BLOCK {
                    // Another's stays.
                    let incoming = self.incoming(author);
                    incoming.take_if(|incoming| incoming.is_from(from));
                }
                done?;
            }
            GENERATE_KEY_PAIR => match (capdu.p1, capdu.p2, capdu.data) {
                (NEW_PAIR, 0, subject) => {
                    Author::of(context)?.needs(Rights::RENEW)?;
                    out.bytes(&certify::make(context, subject)?)?;
                }
                (PRESENT_PAIR, 0, []) => certify::present(context, out)?,
                (PRESENT_PAIR, 0, _) => return Err(Refusal(StatusWord::WRONG_LENGTH)),
                _ => return Err(Refusal(StatusWord::INCORRECT_P1P2)),
            },
            _ => return Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
        }
        Ok(Next::Done(StatusWord::NO_ERROR))
    }

    fn tls(&mut self) -> Option<&mut dyn Tls> {
        Some(self)
    }
}

impl Incoming {
    fn new((place, session): (Place, u32)) -> Self {
        Self {
            // All at once, so that nothing is left where it grew from.
            bytes: Zeroizing::new(Vec::with_capacity(objects::INCOMING_MAX)),
            next: (Some(0), place, session),
        }
    }

    fn is_from(&self, from: (Place, u32)) -> bool {
        (self.next.1, self.next.2) == from
    }

    /// Whether the object that comes is the private key, or has one made.
    fn is_of_a_key(&self) -> bool {
        matches!(self.bytes.first(), Some(&(objects::KEY | objects::SUBJECT)))
    }

    fn take(&mut self, (place, session): (Place, u32), capdu: &CApdu<'_>) -> Result<(), Refusal> {
        if self.next != (Some(capdu.p2), place, session) {
            return Err(WRONG_BLOCK);
        }
        if self.bytes.len() + capdu.data.len() > objects::INCOMING_MAX {
            return Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY));
        }
        self.bytes.extend_from_slice(capdu.data);
        if objects::is_too_long(&self.bytes) {
            return Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY));
        }
        self.next.0 = capdu.p2.checked_add(1);
        Ok(())
    }
}

impl TlsManager {
    fn incoming(&mut self, author: Author) -> &mut Option<Box<Incoming>> {
        let [root, peer] = &mut self.incoming;
        match author {
            Author::Root => root,
            Author::Peer(..) => peer,
        }
    }

    /// Takes a block; with the last one the object is written.
    fn block(&mut self, context: &mut Context<'_>, author: Author, capdu: &CApdu<'_>) -> Result<(), Refusal> {
        let from = (context.place(), context.session());
        if capdu.p1 & !LAST_BLOCK != 0 {
            return Err(WRONG_BLOCK);
        }
        let incoming = self.incoming(author);
        if capdu.p2 == 0 {
            *incoming = Some(Box::new(Incoming::new(from)));
        }
        let incoming = incoming.as_mut().ok_or(WRONG_BLOCK)?;
        incoming.take(from, capdu)?;
        if incoming.is_of_a_key() && author == Author::Root && !context.is_root_calling_encrypted() {
            return Err(Refusal(StatusWord::SECURITY_STATUS_NOT_SATISFIED));
        }
        if capdu.p1 != LAST_BLOCK {
            return Ok(());
        }
        let object = Object::parse(&incoming.bytes).ok_or(WRONG_DATA)?;
        certify::write(context, author, &object)?;
        match object {
            Object::Key(_) | Object::Chain(_) => {
                self.tickets.clear();
                let sessions = self.sessions.iter_mut().flatten();
                sessions.for_each(|session| session.overtake());
            }
            Object::Row(row, _) => {
                self.tickets.forget(row);
                // The session that this has come out of is answered yet.
                let own = context.tls_place();
                self.end_those(|session| session.row() == row && own.is_none_or(|own| !session.is_at(own)));
            }
            Object::Time(_) | Object::Subject(_) => {}
        }
        Ok(())
    }
}

impl Tls for TlsManager {
    fn hear(&mut self, context: &mut Context<'_>, command: &CApdu<'_>, out: &mut Writer<'_>) -> TlsHeard {
        if command.ins == sekisho_bridge::ins::OPEN {
            let opened = self.open(context, command, out);
            return TlsHeard::Answer(opened.unwrap_or_else(|refusal| refusal.0));
        }
        let has_memory = self.share(context.place(), command);
        let Some((session, room)) = self.at(context.place()) else {
            return TlsHeard::Answer(StatusWord::CONDITIONS_NOT_SATISFIED);
        };
        if !has_memory {
            return TlsHeard::Answer(session.give_up(room, out));
        }
        let heard = session.hear(room, context, command, out);
        if let Some(ticket) = session.ticket() {
            let row = session.row();
            self.tickets.keep(row, ticket);
        }
        heard
    }

    fn command(&self, place: Place) -> &[u8] {
        let found = self.session(place).zip(self.room.as_ref());
        found
            .map(|(session, room)| room.command(session.number()))
            .unwrap_or_default()
    }

    fn answer(&mut self, place: Place, response: &[u8], out: &mut Writer<'_>) -> StatusWord {
        match self.at(place) {
            Some((session, room)) => session.answer(room, response, out),
            None => StatusWord::CONDITIONS_NOT_SATISFIED,
        }
    }

    fn has_rest(&self, place: Place) -> bool {
        self.session(place).is_some_and(Session::has_rest)
    }

    fn rest(&mut self, place: Place, out: &mut Writer<'_>) {
        if let Some((session, _)) = self.at(place) {
            session.rest(out);
        }
    }

    fn end(&mut self, place: Place) {
        self.end_those(|session| session.is_at(place));
    }
}

impl TlsManager {
    /// The session of a place.
    fn session(&self, place: Place) -> Option<&Session> {
        let mut sessions = self.sessions.iter().flatten().map(Box::as_ref);
        sessions.find(|session| session.is_at(place))
    }

    /// The session of a place, beside the room for its records.
    fn at(&mut self, place: Place) -> Option<(&mut Session, &mut RecordRoom)> {
        let sessions = self.sessions.iter_mut().flatten();
        let session = sessions.map(Box::as_mut).find(|session| session.is_at(place))?;
        Some((session, self.room.as_mut()?))
    }

    /// Handshakes that are under way have as much of the engine's memory together as one alone may have. Where they would have more behind this command, the one that has most goes without
    /// a word, again and again; false when that is the command's own.
    fn share(&mut self, place: Place, command: &CApdu<'_>) -> bool {
        loop {
            let found = self.session(place).zip(self.room.as_deref());
            let Some(own) = found.and_then(|(session, room)| session.would_hear(room, command)) else {
                return true;
            };
            let others = self.sessions.iter().flatten();
            let others = others.filter(|session| !session.is_at(place));
            let others = others.filter_map(|session| Some((session.heard()?, session.number())));
            let heard: usize = others.clone().map(|(heard, _)| heard).sum();
            match others.max() {
                Some((most, number)) if heard > 0 && own + heard > HANDSHAKE_MAX => {
                    if most < own {
                        return false;
                    }
                    self.end_those(|session| session.number() == number);
                }
                _ => return true,
            }
        }
    }

    /// Ends sessions without a word; the room goes with the last of all.
    fn end_those(&mut self, is_gone: impl Fn(&Session) -> bool) {
        for place in &mut self.sessions {
            if let Some(session) = place.take_if(|session| is_gone(session))
                && let Some(room) = &mut self.room
            {
                room.release(session.number());
            }
        }
        if self.sessions.iter().all(Option::is_none) {
            self.room = None;
        }
    }

    /// OPEN: the place's session before goes.
    fn open(&mut self, context: &mut Context<'_>, command: &CApdu<'_>, out: &mut Writer<'_>) -> Outcome {
        let place = context.place();
        self.end(place);
        if command.cla.chaining() {
            return Err(Refusal(StatusWord::INCORRECT_DATA));
        }
        let said = match command.data {
            [] => 0,
            data => u64::from_be_bytes(data.try_into().map_err(|_| Refusal(StatusWord::WRONG_LENGTH))?),
        };
        let time = said.max(time::floor(context, command.p1p2())?);
        let free = self.free().ok_or(Refusal(StatusWord::NOT_ENOUGH_MEMORY))?;
        self.began = self.began.wrapping_add(1);
        let number = self.began;
        let room = self.room.get_or_insert_with(|| Box::new(RecordRoom::new()));
        let ticket = self.tickets.take(command.p1p2(), time);
        let opened = Session::open(room, context, command, (time, number, ticket), out);
        let opened = opened.map(|(sw, session)| {
            if sw.is_success()
                && let Some(before) = self
                    .sessions
                    .get_mut(free)
                    .and_then(|place| place.replace(session))
            {
                room.release(before.number());
            }
            sw
        });
        // The room goes if nobody has a session now.
        self.end_those(|_| false);
        opened
    }

    /// Where a session can stand: nobody's place, or that of the one that has waited longest of those that have proved nobody.
    fn free(&self) -> Option<usize> {
        let nobodys = self.sessions.iter().position(Option::is_none);
        nobodys.or_else(|| {
            let all = self.sessions.iter().enumerate();
            let unproved = all.filter_map(|(at, session)| {
                let session = session.as_deref().filter(|session| !session.is_open())?;
                Some((self.began.wrapping_sub(session.number()), at))
            });
            unproved.max().map(|(_, at)| at)
        })
    }
}
