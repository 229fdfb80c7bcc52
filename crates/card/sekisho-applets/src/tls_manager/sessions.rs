//! A session of the TLS Manager.

use alloc::boxed::Box;

use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_bridge::{Correspondence, MESSAGE_HEADER, RECORD_HEADER, ins, tls_class};
use sekisho_os::{Context, Peer, Place, Refusal, Speaker, TlsHeard};
use sekisho_tls::{Endpoint, Heard, Peer as Server, Proof, Room, Rustls, Ticket, Version};
use zeroize::Zeroizing;

use super::objects::{CHAIN_RECORD, KEY_RECORD, OBJECT_MAX, Row, chain, key, row_record};
use super::time;

/// Sessions at once.
pub const SESSIONS_MAX: usize = 4;

/// Where a record stands until it is whole.
pub(super) type RecordRoom = Room<4096>;

const NOT_COMPLETE: Refusal = Refusal(StatusWord::CONDITIONS_NOT_SATISFIED);

/// A session of a place with the server of a row. What the row reaches stands in the row.
pub(super) struct Session {
    place: Place,
    row: u16,
    /// Key and certificates are others than those that it was begun with: its tickets are of nobody.
    is_overtaken: bool,
    /// Once it is open.
    proof: Option<Box<Proof>>,
    endpoint: Endpoint<Rustls>,
}

impl Session {
    /// Begins a session with the server of the row that OPEN names.
    ///
    /// # Errors
    /// 6A88 without such a row; 6985 when key, certificates or row are not complete.
    // What it reads has no place on the stack below which a handshake goes on.
    #[inline(never)]
    pub(super) fn open(
        room: &mut RecordRoom,
        context: &mut Context<'_>,
        command: &CApdu<'_>,
        (time, number, ticket): (u64, u32, Option<Box<Ticket>>),
        out: &mut Writer<'_>,
    ) -> Result<(StatusWord, Box<Self>), Refusal> {
        let no_row = Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND);
        let row = command.p1p2();
        let record = row_record(row).ok_or(no_row)?;
        let mut bytes = [0; OBJECT_MAX];
        let len = context.get(record, 0, &mut bytes)?.ok_or(no_row)?;
        let peer = Row::parse(bytes.get(..len).unwrap_or_default()).ok_or(NOT_COMPLETE)?;
        let mut chain_bytes = [0; OBJECT_MAX];
        let len = context.get(CHAIN_RECORD, 0, &mut chain_bytes)?;
        let (certificates, count) = len
            .and_then(|len| chain(chain_bytes.get(..len)?))
            .ok_or(NOT_COMPLETE)?;
        let mut key_bytes = Zeroizing::new([0; 32]);
        let len = context.get(KEY_RECORD, 0, key_bytes.as_mut_slice())?;
        let key = len
            .and_then(|len| key(key_bytes.get(..len)?))
            .ok_or(NOT_COMPLETE)?;
        let cla = tls_class(context.place().logical_channel).ok_or(NOT_COMPLETE)?;
        let mut session = Box::new(Self {
            place: context.place(),
            row,
            is_overtaken: false,
            proof: None,
            endpoint: Endpoint::new(cla, number, &Correspondence::IDENTITY),
        });
        let server = Server {
            name: peer.name,
            pin: peer.pin,
            anchors: &[peer.anchor],
            chain: certificates.get(..count).unwrap_or_default(),
            key: &key,
            time,
            versions: &[Version::Tls13, Version::Tls12],
        };
        let sw = session.endpoint.resume(room, &server, ticket, context.rng(), out);
        Ok((sw, session))
    }

    /// The ticket that has come, once.
    pub(super) fn ticket(&mut self) -> Option<Box<Ticket>> {
        self.endpoint.ticket().filter(|_| !self.is_overtaken)
    }

    /// Key or certificates are others from now on: a ticket that a device has held back until now is worth nothing.
    pub(super) const fn overtake(&mut self) {
        self.is_overtaken = true;
    }

    pub(super) const fn row(&self) -> u16 {
        self.row
    }

    pub(super) const fn number(&self) -> u32 {
        self.endpoint.number()
    }

    pub(super) const fn is_open(&self) -> bool {
        self.endpoint.is_open()
    }

    /// Bytes that its handshake has taken, while one is under way.
    pub(super) fn heard(&self) -> Option<usize> {
        self.endpoint.heard()
    }

    /// Bytes that its handshake would have taken behind a piece, at most; `None` without a handshake.
    pub(super) fn would_hear(&self, room: &RecordRoom, piece: &CApdu<'_>) -> Option<usize> {
        const HEADERS: usize = RECORD_HEADER + MESSAGE_HEADER;
        let heard = self.heard().filter(|_| piece.ins != ins::CLOSE)?;
        Some(heard + room.has(self.number()) + HEADERS + piece.data.len())
    }

    /// There is no memory for it.
    pub(super) fn give_up(&mut self, room: &mut RecordRoom, out: &mut Writer<'_>) -> StatusWord {
        self.endpoint.give_up(room, out)
    }

    pub(super) fn is_at(&self, place: Place) -> bool {
        self.place == place
    }

    /// A piece, or CLOSE.
    pub(super) fn hear(
        &mut self,
        room: &mut RecordRoom,
        context: &mut Context<'_>,
        command: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> TlsHeard {
        if command.ins == ins::CLOSE {
            let is_right = !command.cla.chaining() && command.p2 == 0 && command.data.is_empty();
            return TlsHeard::Answer(if is_right {
                self.endpoint.close(room, command.p1, out)
            } else {
                StatusWord::INCORRECT_P1P2
            });
        }
        match self.endpoint.hear(room, command, context.rng(), out) {
            Heard::Answer(sw) => TlsHeard::Answer(sw),
            Heard::Proved(proof) => {
                let moved = time::advance(context, self.row, proof.since);
                self.proof = Some(proof);
                TlsHeard::Answer(moved.err().map_or(StatusWord::NO_ERROR, |refusal| refusal.0))
            }
            Heard::Command => match self.speaker(context) {
                Ok(speaker) => TlsHeard::Command(speaker),
                Err(refusal) => TlsHeard::Answer(refusal.0),
            },
        }
    }

    /// Who speaks, once the peer is proved; the row is asked what it reaches.
    #[inline(never)]
    fn speaker(&self, context: &mut Context<'_>) -> Result<Speaker, Refusal> {
        let record = row_record(self.row).ok_or(NOT_COMPLETE)?;
        let mut bytes = [0; OBJECT_MAX];
        let len = context.get(record, 0, &mut bytes)?;
        let row = len.and_then(|len| Row::parse(bytes.get(..len)?));
        let row = row.ok_or(NOT_COMPLETE)?;
        let proof = self.proof.as_ref().ok_or(NOT_COMPLETE)?;
        Ok(Speaker {
            peer: Peer {
                row: self.row,
                level: row.level,
                tls13: self.endpoint.version() == Some(Version::Tls13),
                certificate: proof.certificate,
                exporter: proof.exporter,
            },
            reach: row.reach,
        })
    }

    pub(super) fn has_rest(&self) -> bool {
        self.endpoint.has_rest()
    }

    pub(super) fn rest(&mut self, out: &mut Writer<'_>) {
        self.endpoint.rest(out);
    }

    pub(super) fn answer(
        &mut self,
        room: &mut RecordRoom,
        response: &[u8],
        out: &mut Writer<'_>,
    ) -> StatusWord {
        self.endpoint.answer(room, response, out)
    }
}
