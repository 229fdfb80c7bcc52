//! What comes out of a TLS session: a command, who sends it, and what that one reaches.

use sekisho_apdu::{Aid, Cla, StatusWord};
use zeroize::Zeroize;

use crate::buffers::{InterfaceState, Interfaces};
use crate::chaining::COMMAND_DATA_MAX;
use crate::interface::{ContainerId, Interface};
use crate::not_zero::NotZero;

/// Applications that one peer may reach.
pub const REACH_MAX: usize = 8;

/// Longest command inside: an extended one with as much data as the SE takes.
const COMMAND_MAX: usize = 7 + COMMAND_DATA_MAX + 2;

/// Longest answer inside: encrypted, and with another record before it, it has to fit the answer outside.
const ANSWER_MAX: usize = 960;

/// Whether the class is that of TLS sessions: A4 to A7, B4 to B7.
pub(crate) const fn is_class(cla: Cla) -> bool {
    cla.0 & 0xEC == 0xA4
}

/// Who is at the other end of a session, as the TLS Manager has proved it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its row in the TLS Manager's table.
    pub row: u16,
    /// What the root says of the row to applications, which give it its meaning; 0 where it says nothing.
    pub level: u8,
    /// TLS 1.3, not 1.2.
    pub tls13: bool,
    /// SHA-256 of its certificate in DER.
    pub certificate: [u8; 32],
    /// What both ends of this session can say and nobody else: the exporter value `tls-exporter` of RFC 9266. TLS 1.2 has none.
    pub exporter: Option<[u8; 32]>,
}

/// The exporter value is not shown.
impl core::fmt::Debug for Peer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Peer")
            .field("row", &self.row)
            .field("level", &self.level)
            .field("tls13", &self.tls13)
            .finish_non_exhaustive()
    }
}

/// What has become of a command of the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "one at a time, on the stack, where there may be no heap"
)]
pub enum TlsHeard {
    /// It is answered with this status word, and with what has been written.
    Answer(StatusWord),
    /// It made a record whole that carries a command of this speaker.
    Command(Speaker),
}

/// Whose command has come out of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// Who sends it.
    pub peer: Peer,
    /// The applications that it may select.
    pub reach: [Option<Aid>; REACH_MAX],
}

/// Who is speaking, while a command from inside is processed.
#[derive(Clone, Copy)]
pub(crate) struct Speaking {
    pub(crate) speaker: Speaker,
    pub(crate) container: ContainerId,
    /// It is there: nobody who speaks is zeros.
    pub(crate) _mark: NotZero,
}

impl Speaking {
    /// Nobody speaks any more, and nothing is left of who did.
    pub(crate) fn end(speaking: &mut Option<Self>) {
        if let Some(speaking) = speaking {
            speaking.speaker.peer.exporter.zeroize();
        }
        *speaking = None;
    }
}

/// Where a command from inside stands, and its answer.
pub struct InsideRoom {
    pub(crate) command: [u8; COMMAND_MAX],
    pub(crate) answer: [u8; ANSWER_MAX + 2],
}

impl InsideRoom {
    pub(crate) const NEW: Self = Self {
        command: [0; COMMAND_MAX],
        answer: [0; ANSWER_MAX + 2],
    };

    pub(crate) fn clear(&mut self) {
        self.command.zeroize();
        self.answer.zeroize();
    }
}

/// It says nothing of what is in it.
impl core::fmt::Debug for InsideRoom {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("InsideRoom").finish_non_exhaustive()
    }
}

/// The interfaces of a platform, with room for what comes out of TLS sessions: one for all, since one command is processed at a time.
#[derive(Debug)]
pub struct InterfacesWithTls<I>(I, InsideRoom);

impl<I: Interfaces> Interfaces for InterfacesWithTls<I> {
    const NEW: Self = Self(I::NEW, InsideRoom::NEW);

    type Messagings = I::Messagings;

    fn get(&mut self, interface: Interface) -> Option<&mut InterfaceState> {
        self.0.get(interface)
    }

    fn inside(&mut self, interface: Interface) -> Option<(&mut InterfaceState, &mut InsideRoom)> {
        Some((self.0.get(interface)?, &mut self.1))
    }
}
