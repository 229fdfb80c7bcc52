//! Command chaining: the segments of a command are put together before anything else looks at it. ISO/IEC 7816-4, 5.3.3 marks all but the
//! last in the class byte; GlobalPlatform marks them in bit 8 of P1 of PUT KEY, DELETE and INSTALL (GPC 11.8.2.1, 11.2.2.1, 11.5.2.1).
//!
//! GlobalPlatform protects a command before it is cut into segments (GPC 11.1.5.1), so the whole comes out as one C-APDU, in the
//! extended form when its data field exceeds 255 bytes, which is the form that its C-MAC was computed over.

use sekisho_apdu::gp::ins;
use sekisho_apdu::{CApdu, Cla, StatusWord};
use zeroize::Zeroize;

use crate::interface::CHANNELS_MAX;

/// Longest data field of a command, chained or extended, without its C-MAC.
pub const COMMAND_DATA_MAX: usize = 2048;

/// Room of a chain: the C-MAC comes with the last segment (Amd D 6.2.4), and is not seen before.
const CHAIN_MAX: usize = COMMAND_DATA_MAX + 16;

/// P1: more commands follow (GPC Tables 11-22 and 11-65).
const MORE_COMMANDS: u8 = 0x80;

/// Whether GlobalPlatform's own chaining is meant: the secured command has been cut, so that there is one C-MAC for the whole.
const fn is_chained_by_p1(capdu: &CApdu<'_>) -> bool {
    capdu.cla.proprietary() && matches!(capdu.ins, ins::PUT_KEY | ins::DELETE | ins::INSTALL)
}

/// CLA without the chaining bit, INS, P1, P2: equal in all segments.
type Header = [u8; 4];

/// The chain that an interface receives. There is one buffer for all logical channels of the interface, and none for another interface's: a chain
/// gives way to the chain of another logical channel. Only what has proved a key keeps its place against what has not.
pub(crate) struct Chain {
    /// The logical channel.
    owner: Option<u8>,
    header: Header,
    data: [u8; CHAIN_MAX],
    len: usize,
    /// By logical channel: the header of a chain that had to give way. What comes next on the logical channel may be its end, which is no command.
    lost: [Option<Header>; CHANNELS_MAX as usize],
}

/// What a command is to the chain.
pub(crate) enum Segment {
    /// No chain is concerned: process the command as it came.
    Whole,
    /// Kept, or refused; answer this status word.
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
            lost: [None; CHANNELS_MAX as usize],
        }
    }

    /// Wipes the chain.
    pub(crate) fn clear(&mut self) {
        self.owner = None;
        self.data.get_mut(..self.len).unwrap_or_default().zeroize();
        self.len = 0;
    }

    /// Wipes the chain of the logical channels that `is_gone` names, if it is one of theirs, and forgets what they have lost.
    pub(crate) fn clear_at(&mut self, is_gone: impl Fn(u8) -> bool) {
        if self.owner.is_some_and(&is_gone) {
            self.clear();
        }
        for (channel, lost) in (0..).zip(&mut self.lost) {
            if lost.is_some() && is_gone(channel) {
                *lost = None;
            }
        }
    }

    /// Takes the next command of a logical channel, for a security domain or for another application. A command that does not continue the chain
    /// ends it and is processed by itself. `is_proved` tells of a logical channel whether a key has been proved on it.
    pub(crate) fn accept(
        &mut self,
        channel: u8,
        capdu: &CApdu<'_>,
        security_domain: bool,
        is_proved: impl Fn(u8) -> bool,
    ) -> Segment {
        let by_p1 = security_domain && is_chained_by_p1(capdu);
        let more = by_p1 && capdu.p1 & MORE_COMMANDS != 0;
        let p1 = if by_p1 {
            capdu.p1 & !MORE_COMMANDS
        } else {
            capdu.p1
        };
        let chaining = capdu.cla.chaining() || more;
        let header = [capdu.cla.without_chaining().0, capdu.ins, p1, capdu.p2];
        if self.take_lost(channel) == Some(header) {
            return Segment::Answer(StatusWord::NOT_ENOUGH_MEMORY);
        }
        if self.owner == Some(channel) && self.header != header {
            self.clear();
        }
        if self.owner != Some(channel) {
            if !chaining {
                return Segment::Whole;
            }
            if self
                .owner
                .is_some_and(|owner| is_proved(owner) && !is_proved(channel))
            {
                return Segment::Answer(StatusWord::NOT_ENOUGH_MEMORY);
            }
            self.give_way();
            self.owner = Some(channel);
            self.header = header;
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

    /// The header of the chain that the logical channel has lost, once.
    fn take_lost(&mut self, channel: u8) -> Option<Header> {
        self.lost.get_mut(usize::from(channel))?.take()
    }

    /// Wipes the chain, if there is one, and notes what its logical channel has lost.
    fn give_way(&mut self) {
        if let Some(lost) = self.owner.and_then(|owner| self.lost.get_mut(usize::from(owner))) {
            *lost = Some(self.header);
        }
        self.clear();
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
    use std::vec::Vec;

    fn segment(cla: u8, ins: u8, data: &[u8]) -> CApdu<'_> {
        CApdu::new(Cla(cla), ins, 1, 2).with_data(data)
    }

    fn answer(segment: &Segment) -> Option<StatusWord> {
        match segment {
            Segment::Answer(sw) => Some(*sw),
            _ => None,
        }
    }

    /// Takes a command on a logical channel where nobody has proved anything.
    fn accept(chain: &mut Chain, channel: u8, capdu: &CApdu<'_>) -> Segment {
        chain.accept(channel, capdu, false, |_| false)
    }

    #[test]
    fn segments_become_one_command() {
        let mut chain = Chain::new();
        let first = [0xAA; 255];
        assert_eq!(
            answer(&accept(&mut chain, 0, &segment(0x90, 0xE2, &first))),
            Some(StatusWord::NO_ERROR)
        );
        let last = segment(0x80, 0xE2, &[0xBB; 3]).with_ne(256);
        assert!(matches!(accept(&mut chain, 0, &last), Segment::Last));
        let whole = chain.assembled(&last);
        assert_eq!(
            (whole.cla, whole.ins, whole.p1p2(), whole.ne),
            (Cla(0x80), 0xE2, 0x0102, Some(256))
        );
        assert!(whole.extended);
        assert_eq!(whole.data, [&first[..], &[0xBB; 3]].concat());
        chain.clear();
        assert!(chain.data.iter().all(|b| *b == 0));
        assert!(matches!(accept(&mut chain, 0, &last), Segment::Whole));
    }

    #[test]
    fn another_command_ends_the_chain_and_is_processed() {
        let mut chain = Chain::new();
        accept(&mut chain, 0, &segment(0x90, 0xE2, &[1]));
        for ins in [0xCA, 0xE2] {
            let whole = accept(&mut chain, 0, &segment(0x80, ins, &[]));
            assert!(matches!(whole, Segment::Whole));
        }
    }

    #[test]
    fn a_chain_gives_way_to_another_channels_and_its_rest_is_no_command() {
        // What comes on channel 0 when its chain is lost: in the middle, its end, or another command.
        for (capdu, is_rest) in [
            (segment(0x90, 0xE2, &[2]), true),
            (segment(0x80, 0xE2, &[2]), true),
            (segment(0x80, 0xCA, &[]), false),
        ] {
            let mut chain = Chain::new();
            accept(&mut chain, 0, &segment(0x90, 0xE2, &[1]));
            // No chain, which disturbs none.
            assert!(matches!(
                accept(&mut chain, 1, &segment(0x81, 0xE2, &[9])),
                Segment::Whole
            ));
            let second = answer(&accept(&mut chain, 1, &segment(0x91, 0xE2, &[9])));
            assert_eq!(second, Some(StatusWord::NO_ERROR));
            match accept(&mut chain, 0, &capdu) {
                Segment::Answer(sw) => assert!(is_rest && sw == StatusWord::NOT_ENOUGH_MEMORY),
                Segment::Whole => assert!(!is_rest),
                Segment::Last => panic!("half a command"),
            }
            let last = segment(0x81, 0xE2, &[8]);
            assert!(matches!(accept(&mut chain, 1, &last), Segment::Last));
            assert_eq!(chain.assembled(&last).data, [9, 8]);
            chain.clear();
            // It is told once: the chain can begin again.
            assert_eq!(
                answer(&accept(&mut chain, 0, &segment(0x90, 0xE2, &[1]))),
                Some(StatusWord::NO_ERROR)
            );
        }
    }

    #[test]
    fn a_chain_gives_way_to_what_has_proved_as_much() {
        for (owner_is_proved, other_is_proved, gives_way) in [
            (false, false, true),
            (false, true, true),
            (true, true, true),
            (true, false, false),
        ] {
            let mut chain = Chain::new();
            let is_proved = |channel| {
                if channel == 0 {
                    owner_is_proved
                } else {
                    other_is_proved
                }
            };
            chain.accept(0, &segment(0x90, 0xE2, &[1]), false, is_proved);
            let second = answer(&chain.accept(1, &segment(0x91, 0xE2, &[9]), false, is_proved));
            let last = chain.accept(0, &segment(0x80, 0xE2, &[2]), false, is_proved);
            let refused = Some(StatusWord::NOT_ENOUGH_MEMORY);
            if gives_way {
                assert_eq!((second, answer(&last)), (Some(StatusWord::NO_ERROR), refused));
            } else {
                assert_eq!(second, refused);
                assert!(matches!(last, Segment::Last));
                chain.clear();
            }
        }
    }

    /// Four hosts on four logical channels, in any order, each of which begins again when it is refused: what comes out is what one of them has sent,
    /// from its beginning to its end.
    #[test]
    fn never_half_a_command() {
        let (mut wholes, mut refused) = (0, 0);
        for seed in 1..=200_u32 {
            let mut random = seed;
            let mut chain = Chain::new();
            let mut sent: [Vec<u8>; 4] = Default::default();
            let proved = [seed % 2 == 0, seed % 3 == 0, false, false];
            for number in 0..400_u32 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let [host, more, ..] = random.to_be_bytes();
                let (channel, more) = (host & 3, if more % 3 == 0 { 0 } else { 0x10 });
                let own = &mut sent[usize::from(channel)];
                if own.is_empty() && more == 0 {
                    continue;
                }
                let data = number.to_be_bytes();
                let capdu = segment(0x80 | more | channel, 0xE2, &data);
                match chain.accept(channel, &capdu, false, |channel| proved[usize::from(channel)]) {
                    Segment::Answer(StatusWord::NO_ERROR) => own.extend(data),
                    Segment::Answer(_) => {
                        refused += 1;
                        own.clear();
                    }
                    Segment::Last => {
                        own.extend(data);
                        assert_eq!(chain.assembled(&capdu).data, own);
                        chain.clear();
                        own.clear();
                        wholes += 1;
                    }
                    Segment::Whole => panic!("the end of a chain of {} bytes, alone", own.len()),
                }
            }
        }
        std::println!("{wholes} whole, {refused} refused");
        assert!(wholes > 1000 && refused > 1000);
    }

    #[test]
    fn a_channel_that_is_closed_has_lost_nothing() {
        let mut chain = Chain::new();
        accept(&mut chain, 1, &segment(0x91, 0xE2, &[1]));
        accept(&mut chain, 2, &segment(0x92, 0xE2, &[1]));
        chain.clear_at(|channel| channel == 1);
        assert!(matches!(
            accept(&mut chain, 1, &segment(0x81, 0xE2, &[1])),
            Segment::Whole
        ));
        assert_eq!(chain.owner, Some(2));
    }

    #[test]
    fn too_long_a_chain_is_dropped() {
        let mut chain = Chain::new();
        let block = [0x55; 255];
        let answers: Vec<_> = (0..9)
            .map(|_| answer(&accept(&mut chain, 0, &segment(0x90, 0xE2, &block))))
            .collect();
        assert!(answers.iter().take(8).all(|sw| *sw == Some(StatusWord::NO_ERROR)));
        assert_eq!(answers[8], Some(StatusWord::WRONG_LENGTH));
        assert!(chain.owner.is_none());
    }
}
