//! A reader's field, as a secure element's host sees it: the card gates of type A and B, and what the connectivity gate is told behind it.

use super::ids::{
    EVT_CARD_ACTIVATED, EVT_CARD_DEACTIVATED, EVT_FIELD_OFF, EVT_SEND_DATA, GATE_CARD_A, GATE_CARD_B,
    RF_GOOD, TAG_AID,
};
use super::packet::Kind;
use super::side::{Side, Took};

/// How a reader reaches the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Technology {
    /// ISO/IEC 14443 type A.
    A,
    /// Type B.
    B,
}

impl Technology {
    /// Its card gate.
    #[must_use]
    pub const fn gate(self) -> u8 {
        match self {
            Self::A => GATE_CARD_A,
            Self::B => GATE_CARD_B,
        }
    }

    pub(super) fn of(gate: u8) -> Option<Self> {
        [Self::A, Self::B].into_iter().find(|of| of.gate() == gate)
    }
}

/// INS of SELECT (ISO/IEC 7816-4, 11.2.2).
const SELECT: u8 = 0xA4;
/// AID of up to 16 bytes.
const AID_MAX: usize = 16;
/// Bytes of EVT_TRANSACTION with an AID.
pub(super) const TRANSACTION_MAX: usize = 2 + AID_MAX;

/// What a reader does here.
#[derive(Clone, Debug, Default)]
pub(super) struct Contactless<const LEN: usize> {
    pub(super) side: Side<LEN>,
    active: Option<Technology>,
    /// What has become of the field since it was asked.
    changed: Option<(Technology, bool)>,
    /// The application that has said last that it is selected, since the card was activated.
    selected: ([u8; AID_MAX], usize),
}

impl<const LEN: usize> Contactless<LEN> {
    pub(super) fn restart(&mut self) {
        self.leave();
        self.side.restart();
    }

    pub(super) const fn changed(&mut self) -> Option<(Technology, bool)> {
        self.changed.take()
    }

    /// Takes a packet of an open pipe to a card gate; false when it is nothing of a command.
    pub(super) fn hear(&mut self, technology: Technology, packet: &[u8]) -> bool {
        match self.side.hear(packet, Kind::Event.header(EVT_SEND_DATA)) {
            Took::Nothing => return false,
            Took::Piece => {}
            Took::Whole => {
                let message = self.side.heard.message();
                let whole = message.and_then(|message| message.data.split_last());
                let is_good = whole.is_some_and(|(field, apdu)| *field == RF_GOOD && !apdu.is_empty());
                self.side.keep(is_good && self.active == Some(technology));
            }
            Took::TooLong => {
                let pipe = packet.first().map_or(0, |first| first & 0x7F);
                if self.active == Some(technology) && packet.last() == Some(&RF_GOOD) {
                    self.side.refuse(pipe, EVT_SEND_DATA);
                }
            }
        }
        true
    }

    /// An event of a card gate beside commands: true when a contactless transaction is over.
    pub(super) fn event(&mut self, technology: Technology, event: u8) -> bool {
        match event {
            EVT_CARD_ACTIVATED => {
                self.leave();
                self.active = Some(technology);
                self.changed = Some((technology, true));
                self.selected = ([0; AID_MAX], 0);
                false
            }
            EVT_CARD_DEACTIVATED | EVT_FIELD_OFF if self.active == Some(technology) => {
                self.leave();
                true
            }
            _ => false,
        }
    }

    /// The reader is gone: a command that runs is lost.
    pub(super) fn leave(&mut self) {
        self.side.drop_command();
        if let Some(technology) = self.active.take() {
            self.changed = Some((technology, false));
        }
    }

    /// The pipe of a gate goes.
    pub(super) fn gate_gone(&mut self, gate: u8) {
        if self.active.is_some_and(|active| active.gate() == gate) {
            self.leave();
        }
    }

    pub(super) fn command(&self) -> Option<(Technology, &[u8])> {
        let message = self.side.heard.message().filter(|_| self.side.waits())?;
        let (_, apdu) = message.data.split_last()?;
        Some((self.active?, apdu))
    }

    pub(super) fn answer(&mut self, answer: &[u8]) {
        // An application that is selected says so by FCI: 6F L 84 L AID (GPC 11.9.3.1).
        if let [0x6F, _, 0x84, len, rest @ ..] = answer
            && answer.ends_with(&[0x90, 0x00])
            && let Some(aid) = rest.get(..usize::from(*len)).filter(|aid| aid.len() <= AID_MAX)
            && self.side.is_awaited()
            && self
                .side
                .heard
                .message()
                .is_some_and(|command| command.data.get(1) == Some(&SELECT))
        {
            let (bytes, n) = &mut self.selected;
            for (to, from) in bytes.iter_mut().zip(aid) {
                *to = *from;
            }
            *n = aid.len();
        }
        self.side.answer(EVT_SEND_DATA, answer);
    }

    /// EVT_TRANSACTION of what was selected, once.
    pub(super) fn transaction(&mut self, out: &mut [u8; TRANSACTION_MAX]) -> Option<usize> {
        let (aid, len) = core::mem::take(&mut self.selected);
        let aid = aid.get(..len).filter(|aid| aid.len() >= 5)?;
        for (to, from) in out
            .iter_mut()
            .zip([TAG_AID, u8::try_from(len).ok()?].iter().chain(aid))
        {
            *to = *from;
        }
        Some(2 + len)
    }
}
