//! Command chaining: the segments of a command are put together before anything else looks at it. ISO/IEC 7816-4, 5.3.3 marks all but the
//! last in the class byte; GlobalPlatform marks them in bit 8 of P1 of PUT KEY and DELETE (GPC 11.8.2.1, 11.2.2.1).
//!
//! GlobalPlatform protects a command before it is cut into segments (GPC 11.1.5.1), so the whole comes out as one C-APDU, in the
//! extended form when its data field exceeds 255 bytes, which is the form that its C-MAC was computed over.

use sekisho_apdu::gp::ins;
use sekisho_apdu::{CApdu, Cla, StatusWord};
use zeroize::Zeroize;

use crate::interface::Place;

/// Longest data field of a command, chained or extended, without its C-MAC.
pub const COMMAND_DATA_MAX: usize = 2048;

/// Room of a chain: the C-MAC comes with the last segment (Amd D 6.2.4), and is not seen before.
const CHAIN_MAX: usize = COMMAND_DATA_MAX + 16;

/// P1: more commands follow (GPC Tables 11-22 and 11-65).
const MORE_COMMANDS: u8 = 0x80;

/// Whether GlobalPlatform's own chaining is meant: the secured command has been cut, so that there is one C-MAC for the whole.
const fn is_chained_by_p1(capdu: &CApdu<'_>) -> bool {
    capdu.cla.proprietary() && matches!(capdu.ins, ins::PUT_KEY | ins::DELETE)
}

/// The chain that is being received. There is one buffer: a second chain, on another logical channel, has to wait (6A84).
pub(crate) struct Chain {
    owner: Option<Place>,
    /// CLA without the chaining bit, INS, P1, P2: equal in all segments.
    header: [u8; 4],
    data: [u8; CHAIN_MAX],
    len: usize,
}

/// What a command is to the chain.
pub(crate) enum Segment {
    /// No chain is concerned: process the command as it came.
    Whole,
    /// Kept; answer this status word.
    Answer(StatusWord),
    /// The last segment: process [`Chain::assembled`], then call [`Chain::clear`].
    Last,
}

impl Chain {
    pub(crate) const fn new() -> Self {
        Self {
            owner: None,
            header: [0; 4],
            data: [0; CHAIN_MAX],
            len: 0,
        }
    }

    /// Wipes the chain.
    pub(crate) fn clear(&mut self) {
        self.owner = None;
        self.data.get_mut(..self.len).unwrap_or_default().zeroize();
        self.len = 0;
    }

    /// Wipes the chain of `place`, if it is that one's.
    pub(crate) fn clear_at(&mut self, is_gone: impl FnOnce(Place) -> bool) {
        if self.owner.is_some_and(is_gone) {
            self.clear();
        }
    }

    /// Takes the next command of `place`, for a security domain or for another application. A command that does not continue the chain ends it
    /// and is processed by itself.
    pub(crate) fn accept(&mut self, place: Place, capdu: &CApdu<'_>, security_domain: bool) -> Segment {
        let by_p1 = security_domain && is_chained_by_p1(capdu);
        let more = by_p1 && capdu.p1 & MORE_COMMANDS != 0;
        let p1 = if by_p1 {
            capdu.p1 & !MORE_COMMANDS
        } else {
            capdu.p1
        };
        let chaining = capdu.cla.chaining() || more;
        if self.owner.is_none() && !chaining {
            return Segment::Whole;
        }
        let header = [capdu.cla.without_chaining().0, capdu.ins, p1, capdu.p2];
        if self.owner == Some(place) && self.header != header {
            self.clear();
        }
        match (self.owner == Some(place), chaining) {
            (false, false) => return Segment::Whole,
            (false, true) if self.owner.is_some() => return Segment::Answer(StatusWord::NOT_ENOUGH_MEMORY),
            (false, true) => {
                self.owner = Some(place);
                self.header = header;
            }
            (true, _) => {}
        }
        let end = self.len.saturating_add(capdu.data.len());
        let Some(free) = self.data.get_mut(self.len..end) else {
            self.clear();
            return Segment::Answer(StatusWord::WRONG_LENGTH);
        };
        free.copy_from_slice(capdu.data);
        self.len = end;
        if chaining {
            Segment::Answer(StatusWord::NO_ERROR)
        } else {
            Segment::Last
        }
    }

    /// The whole command, with the Ne of its last segment.
    pub(crate) fn assembled(&self, last: &CApdu<'_>) -> CApdu<'_> {
        let [cla, ins, p1, p2] = self.header;
        let data = self.data.get(..self.len).unwrap_or_default();
        CApdu {
            cla: Cla(cla),
            ins,
            p1,
            p2,
            data,
            ne: last.ne,
            extended: data.len() > 255,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::Interface;
    use std::vec::Vec;

    const BASIC: Place = Place {
        interface: Interface::Iso7816Contact,
        logical_channel: 0,
    };
    const OTHER: Place = Place {
        interface: Interface::Spi,
        logical_channel: 0,
    };

    fn segment(cla: u8, ins: u8, data: &[u8]) -> CApdu<'_> {
        CApdu::new(Cla(cla), ins, 1, 2).with_data(data)
    }

    fn answer(segment: &Segment) -> Option<StatusWord> {
        match segment {
            Segment::Answer(sw) => Some(*sw),
            _ => None,
        }
    }

    #[test]
    fn segments_become_one_command() {
        let mut chain = Chain::new();
        let first = [0xAA; 255];
        assert_eq!(
            answer(&chain.accept(BASIC, &segment(0x90, 0xE2, &first), false)),
            Some(StatusWord::NO_ERROR)
        );
        let last = segment(0x80, 0xE2, &[0xBB; 3]).with_ne(256);
        assert!(matches!(chain.accept(BASIC, &last, false), Segment::Last));
        let whole = chain.assembled(&last);
        assert_eq!(
            (whole.cla, whole.ins, whole.p1p2(), whole.ne),
            (Cla(0x80), 0xE2, 0x0102, Some(256))
        );
        assert!(whole.extended);
        assert_eq!(whole.data, [&first[..], &[0xBB; 3]].concat());
        chain.clear();
        assert!(chain.data.iter().all(|b| *b == 0));
        assert!(matches!(chain.accept(BASIC, &last, false), Segment::Whole));
    }

    #[test]
    fn another_command_ends_the_chain_and_is_processed() {
        let mut chain = Chain::new();
        chain.accept(BASIC, &segment(0x90, 0xE2, &[1]), false);
        assert!(matches!(
            chain.accept(BASIC, &segment(0x80, 0xCA, &[]), false),
            Segment::Whole
        ));
        assert!(matches!(
            chain.accept(BASIC, &segment(0x80, 0xE2, &[2]), false),
            Segment::Whole
        ));
    }

    #[test]
    fn a_second_chain_waits_and_disturbs_nothing() {
        let mut chain = Chain::new();
        chain.accept(BASIC, &segment(0x90, 0xE2, &[1]), false);
        let refused = chain.accept(OTHER, &segment(0x90, 0xE2, &[9]), false);
        assert_eq!(answer(&refused), Some(StatusWord::NOT_ENOUGH_MEMORY));
        assert!(matches!(
            chain.accept(OTHER, &segment(0x80, 0xE2, &[9]), false),
            Segment::Whole
        ));
        let last = segment(0x80, 0xE2, &[2]);
        assert!(matches!(chain.accept(BASIC, &last, false), Segment::Last));
        assert_eq!(chain.assembled(&last).data, [1, 2]);
    }

    #[test]
    fn too_long_a_chain_is_dropped() {
        let mut chain = Chain::new();
        let block = [0x55; 255];
        let answers: Vec<_> = (0..9)
            .map(|_| answer(&chain.accept(BASIC, &segment(0x90, 0xE2, &block), false)))
            .collect();
        assert!(answers.iter().take(8).all(|sw| *sw == Some(StatusWord::NO_ERROR)));
        assert_eq!(answers[8], Some(StatusWord::WRONG_LENGTH));
        assert!(chain.owner.is_none());
    }
}
