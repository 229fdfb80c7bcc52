//! The SE's end of one session, with what waits for GET RESPONSE. Whom it speaks to and what it runs is the caller's.

use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_bridge::{Correspondence, tls_class};
use sekisho_keys::Rng;
use sekisho_tls::{Endpoint, Heard, Peer, Proof, Room, Rustls};

pub(crate) struct Bare {
    pub(crate) endpoint: Endpoint<Rustls>,
    pub(crate) room: Room<4096>,
    /// How the peer was proved.
    pub(crate) proof: Option<Box<Proof>>,
    waiting: Vec<u8>,
    sw: u16,
}

impl Bare {
    pub(crate) fn new() -> Self {
        Self {
            endpoint: Endpoint::new(tls_class(0).unwrap(), 1, &Correspondence::IDENTITY),
            room: Room::new(),
            proof: None,
            waiting: vec![],
            sw: 0,
        }
    }

    /// Processes a command that is not GET RESPONSE: OPEN with `peer`, if the row that it names has one. `application` answers what comes out of the session.
    pub(crate) fn run(
        &mut self,
        command: &CApdu<'_>,
        peer: Option<&Peer<'_>>,
        rng: &mut dyn Rng,
        application: impl FnOnce(&[u8]) -> Vec<u8>,
    ) {
        let mut out = vec![0; 8192];
        let mut out = Writer::new(&mut out);
        let sw = match (command.ins, peer) {
            (0x28, Some(peer)) => self.endpoint.open(&mut self.room, peer, rng, &mut out),
            (0x28, None) => StatusWord::REFERENCED_DATA_NOT_FOUND,
            (0x2A, _) => self.endpoint.close(&mut self.room, command.p1, &mut out),
            _ => match self.endpoint.hear(&mut self.room, command, rng, &mut out) {
                Heard::Answer(sw) => sw,
                Heard::Proved(proof) => {
                    self.proof = Some(proof);
                    StatusWord::NO_ERROR
                }
                Heard::Command => {
                    let answer = application(self.room.command(1));
                    self.endpoint.answer(&mut self.room, &answer, &mut out)
                }
            },
        };
        self.waiting = out.written().to_vec();
        self.sw = sw.0;
    }

    /// What waits.
    pub(crate) fn waiting(&self) -> &[u8] {
        &self.waiting
    }

    /// As much of the answer as the command takes.
    pub(crate) fn answer(&mut self, command: &CApdu<'_>) -> Vec<u8> {
        let most = usize::try_from(command.ne.unwrap()).unwrap();
        let rest = self.waiting.split_off(self.waiting.len().min(most));
        let mut answer = core::mem::replace(&mut self.waiting, rest);
        let sw = match self.waiting.len() {
            0 => self.sw,
            left => 0x6100 | u16::try_from(left).ok().filter(|left| *left < 256).unwrap_or(0),
        };
        answer.extend(sw.to_be_bytes());
        answer
    }
}
