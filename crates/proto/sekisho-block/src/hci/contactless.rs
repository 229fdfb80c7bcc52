//! A reader's field, as a secure element's host sees it: the card gates of type A and B, and what the connectivity gate is told behind it.

use super::SHORT_MAX;
use super::ids::{
    EVT_CARD_ACTIVATED, EVT_CARD_DEACTIVATED, EVT_FIELD_OFF, EVT_SEND_DATA, GATE_CARD_A, GATE_CARD_B,
    RF_GOOD, TAG_AID, TAG_PARAMETERS,
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
/// AID of 5 to 16 bytes.
const AID_MIN: usize = 5;
const AID_MAX: usize = 16;
/// Most bytes of what an application says in EVT_TRANSACTION.
pub const PARAMETERS_MAX: usize = 32;
/// Bytes of EVT_TRANSACTION with both.
const TRANSACTION_MAX: usize = 2 + AID_MAX + 2 + PARAMETERS_MAX;

/// What a reader does here.
#[derive(Clone, Debug, Default)]
pub(super) struct Contactless<const LEN: usize> {
    pub(super) side: Side<LEN>,
    active: Option<Technology>,
    /// What has become of the field since it was asked.
    changed: Option<(Technology, bool)>,
    /// EVT_TRANSACTION as it would go out now: of the application that has had something to say last since the card was activated, else of the one that has said last that it is selected.
    told: Told,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    bytes: [u8; TRANSACTION_MAX],
    len: usize,
    is_announced: bool,
}

impl Told {
    const NOTHING: Self = Self {
        bytes: [0; TRANSACTION_MAX],
        len: 0,
        is_announced: false,
    };

    /// `81 L AID`, and `82 L parameters` where there are some; nothing changes when they do not fit.
    fn set(&mut self, aid: &[u8], parameters: Option<&[u8]>) {
        let len = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        let said = parameters.unwrap_or_default();
        let head = parameters.map(|said| [TAG_PARAMETERS, len(said)]);
        if !(AID_MIN..=AID_MAX).contains(&aid.len()) || said.len() > PARAMETERS_MAX {
            return;
        }
        let all = [TAG_AID, len(aid)].into_iter().chain(aid.iter().copied());
        let all = all.chain(head.into_iter().flatten()).chain(said.iter().copied());
        *self = Self::NOTHING;
        for (to, from) in self.bytes.iter_mut().zip(all) {
            *to = from;
            self.len += 1;
        }
        self.is_announced = parameters.is_some();
    }
}

impl Default for Told {
    fn default() -> Self {
        Self::NOTHING
    }
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
                self.told = Told::NOTHING;
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
            && let Some(aid) = rest.get(..usize::from(*len))
            && !self.told.is_announced
            && self.side.is_awaited()
            && self
                .side
                .heard
                .message()
                .is_some_and(|command| command.data.get(1) == Some(&SELECT))
        {
            self.told.set(aid, None);
        }
        self.side.answer(EVT_SEND_DATA, answer);
    }

    /// What the application whose answer comes next has to say.
    pub(super) fn announce(&mut self, aid: &[u8], parameters: &[u8]) {
        if self.side.is_awaited() {
            self.told.set(aid, Some(parameters));
        }
    }

    /// EVT_TRANSACTION, once.
    pub(super) fn transaction(&mut self, out: &mut [u8; SHORT_MAX]) -> Option<usize> {
        let told = core::mem::take(&mut self.told);
        out.get_mut(..TRANSACTION_MAX)?.copy_from_slice(&told.bytes);
        (told.len > 0).then_some(told.len)
    }
}
