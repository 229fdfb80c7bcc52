//! A session of the TLS Manager.

use alloc::boxed::Box;

use sekisho_apdu::{Aid, CApdu, StatusWord, Writer};
use sekisho_bridge::{Correspondence, ins, tls_class};
use sekisho_os::{Context, Inside, Peer, Place, REACH_MAX, Refusal, TlsHeard};
use sekisho_tls::{Endpoint, Heard, Peer as Server, Rustls, Version};
use zeroize::Zeroizing;

use super::objects::{CHAIN_RECORD, KEY_RECORD, OBJECT_MAX, Row, chain, key, row_record};

/// Sessions at once.
pub const SESSIONS_MAX: usize = 4;
/// Room for a record, its header included.
const RECORD: usize = 4096;

const NOT_COMPLETE: Refusal = Refusal(StatusWord::CONDITIONS_NOT_SATISFIED);

/// A session of a place with the server of a row.
pub(super) struct Session {
    place: Place,
    row: u16,
    number: u32,
    reach: [Option<Aid>; REACH_MAX],
    endpoint: Endpoint<Rustls, RECORD>,
}

impl Session {
    /// Begins a session with the server of the row that OPEN names.
    ///
    /// # Errors
    /// 6A88 without such a row; 6985 when key, certificates or row are not complete.
    pub(super) fn open(
        context: &mut Context<'_>,
        command: &CApdu<'_>,
        time: u64,
        number: u32,
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
            number,
            reach: peer.reach,
            endpoint: Endpoint::new(cla, Correspondence::IDENTITY),
        });
        let server = Server {
            name: peer.name,
            anchors: &[peer.anchor],
            chain: certificates.get(..count).unwrap_or_default(),
            key: &key,
            time,
            versions: &[Version::Tls13, Version::Tls12],
        };
        let sw = session.endpoint.open(&server, context.rng(), out);
        Ok((sw, session))
    }

    pub(super) const fn row(&self) -> u16 {
        self.row
    }

    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    pub(super) const fn is_open(&self) -> bool {
        self.endpoint.is_open()
    }

    pub(super) fn is_at(&self, place: Place) -> bool {
        self.place == place
    }

    /// A piece, or CLOSE.
    pub(super) fn hear(
        &mut self,
        context: &mut Context<'_>,
        command: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> TlsHeard {
        let chained = command.cla.chaining();
        let p1p2 = [command.p1, command.p2];
        if command.ins == ins::CLOSE {
            let is_right = !chained && command.p2 == 0 && command.data.is_empty();
            return TlsHeard::Answer(if is_right {
                self.endpoint.close(command.p1, out)
            } else {
                StatusWord::INCORRECT_P1P2
            });
        }
        let heard = self
            .endpoint
            .hear(chained, command.ins, p1p2, command.data, context.rng(), out);
        match heard {
            Heard::Answer(sw) => TlsHeard::Answer(sw),
            Heard::Command => TlsHeard::Command,
        }
    }

    /// The command that has come out; none comes before the peer is proved.
    pub(super) fn inside(&self) -> Option<Inside<'_>> {
        let version = self.endpoint.version()?;
        Some(Inside {
            command: self.endpoint.command(),
            peer: Peer {
                row: self.row,
                tls13: version == Version::Tls13,
            },
            reach: self.reach,
        })
    }

    pub(super) fn answer(&mut self, response: &[u8], out: &mut Writer<'_>) -> StatusWord {
        self.endpoint.answer(response, out)
    }
}
