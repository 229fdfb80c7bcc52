//! Contacts as a card has them: the characters of T=1 on a port, in place of frames (ISO/IEC 7816-3, clauses 8 and 11; `docs/spec/transports.md`, 1 and 2). The state machine is that of every other card here.
//!
//! The port has no reset line: the chip's start is the reset, and brings the ATR. One that was no power-on brings none, and the contacts stay mute: whoever speaks there would otherwise take a card that has forgotten all for the one that he knows.

use sekisho_block::Micros;
use sekisho_block::atr::{Atr, BlockParameters, LEN_MAX, Protocol, Rate, Specific, Times, parse};
use sekisho_block::t1::{self, BLOCK_MAX};

use crate::frames::{Board, COMMAND_MAX, Card, Exchange, Port, RESPONSE_MAX};
use crate::resets::Resets;

/// What readers clock a card with, in Hz.
const HERTZ: u32 = 3_579_545;
/// Blocks as long as there are. A command is over within BWT, 6.4 s: while it runs the chip asks for no time.
const PARAMETERS: BlockParameters = BlockParameters {
    ifsc: 254,
    bwi: 6,
    cwi: 13,
    crc: false,
};
/// A gap of less than a second is none: who sends is a machine with other things to do.
const LEAST_GAP: u64 = 1_000_000;

/// The contacts of a chip.
#[derive(Debug)]
pub struct Contacts {
    card: Option<t1::Card<COMMAND_MAX>>,
    now: u64,
    /// The board's clock, when it was looked at last.
    ticks: u32,
}

impl Contacts {
    /// Without power.
    pub const fn new() -> Self {
        Self {
            card: None,
            now: 0,
            ticks: 0,
        }
    }

    /// The chip has started: the ATR goes out, in specific mode (T=1, no PPS), with the historical bytes of the secure element's own. `is_power_on`: whoever speaks on the contacts has had it start.
    pub fn start<B: Board>(&mut self, board: &mut B, card: &mut dyn Card, is_power_on: bool) {
        self.ticks = board.ticks();
        let own = parse(card.atr()).map_or(&[][..], |atr| atr.historical);
        let atr = Atr {
            specific: Some(Specific {
                protocol: Protocol::T1,
                fixed: true,
                implicit: false,
            }),
            t1: Some(PARAMETERS),
            historical: own,
            ..Atr::of(Protocol::T1)
        };
        let mut bytes = [0; LEN_MAX];
        let len = atr.write(&mut bytes).ok().filter(|_| is_power_on);
        let (Some(said), Some((interface, port))) =
            (len.and_then(|len| bytes.get(..len)), board.ports().first_mut())
        else {
            return;
        };
        card.reset_to(*interface, sekisho_os::Protocol::T1);
        let times = Times {
            rate: Rate::DEFAULT,
            hertz: HERTZ,
        };
        let timing = t1::Timing {
            cwt: times.cwt(PARAMETERS.cwi).max(LEAST_GAP),
            bwt: times.bwt(PARAMETERS.bwi),
            guard: 0,
        };
        self.card = Some(t1::Card::new(PARAMETERS.crc, timing));
        said.iter().for_each(|byte| port.write(*byte));
    }

    /// What has come is heard, a whole command is run, what is to be said is sent; whether anything came.
    pub(crate) fn turn<B: Board>(
        &mut self,
        board: &mut B,
        card: &mut dyn Card,
        resets: &Resets,
        response: &mut [u8; RESPONSE_MAX],
    ) -> bool {
        let ticks = board.ticks();
        let passed = u64::from(ticks.wrapping_sub(self.ticks));
        self.ticks = ticks;
        // Patience is two seconds.
        self.now += passed * 2_000_000 / u64::from(board.patience()).max(1);
        let now = Micros(self.now);
        let Some((interface, port)) = board.ports().first_mut() else {
            return false;
        };
        let interface = *interface;
        let byte = port.read();
        let Some(own) = &mut self.card else {
            return byte.is_some();
        };
        match byte {
            Some(byte) => own.hear(now, &[byte]),
            None => own.expire(now),
        }
        if let Some(command) = own.command() {
            resets.began(interface);
            let began = board.ticks();
            let len = card.transmit(interface, command, response);
            let ticks = board.ticks().wrapping_sub(began);
            resets.ended();
            board.exchanged(Exchange { interface, ticks });
            own.blocks().take();
            own.blocks().answer(response.get(..len).unwrap_or_default());
        }
        let mut block = [0; BLOCK_MAX];
        let said = own.say(&mut block).and_then(|len| block.get(..len));
        if let (Some(said), Some((_, port))) = (said, board.ports().first_mut()) {
            said.iter().for_each(|byte| port.write(*byte));
        }
        byte.is_some()
    }
}

impl Default for Contacts {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use sekisho_os::Interface;

    use super::*;
    use crate::frames::tests::{Bench, Echo, bench};

    fn heard(bench: &mut Bench, contacts: &mut Contacts, card: &mut Echo, bytes: &[u8]) -> Vec<u8> {
        bench.put_characters(bytes);
        let mut response = [0; RESPONSE_MAX];
        while contacts.turn(bench, card, &Resets::new(), &mut response) {}
        bench.take_characters()
    }

    #[test]
    fn the_contacts_speak_blocks() {
        let (mut bench, mut card, mut contacts) = (bench(&[], &[]), Echo::default(), Contacts::new());
        contacts.start(&mut bench, &mut card, true);
        let atr = bench.take_characters();
        let parsed = parse(&atr).unwrap();
        assert_eq!((parsed.t0, parsed.t1), (None, Some(PARAMETERS)));
        assert_eq!(
            parsed.specific.map(|specific| specific.protocol),
            Some(Protocol::T1)
        );
        assert_eq!(card.resets, [Interface::Iso7816Contact]);
        // IFS, a command of one block, one in a chain, RESYNCH.
        for (sent, said) in [
            (
                &[0x00, 0xC1, 0x01, 0xFE, 0x3E][..],
                &[0x00, 0xE1, 0x01, 0xFE, 0x1E][..],
            ),
            (
                &[0, 0, 4, 0, 0xA4, 4, 0, 0xA4],
                &[0, 0, 7, 0, 0, 0xA4, 4, 0, 0x90, 0, 0x37],
            ),
            (&[0, 0x60, 2, 0, 0xA4, 0xC6], &[0, 0x80, 0, 0x80]),
            (
                &[0, 0x00, 2, 4, 0, 6],
                &[0, 0x40, 7, 0, 0, 0xA4, 4, 0, 0x90, 0, 0x77],
            ),
            (&[0, 0xC0, 0, 0xC0], &[0, 0xE0, 0, 0xE0]),
        ] {
            assert_eq!(
                heard(&mut bench, &mut contacts, &mut card, sent),
                said,
                "{sent:02X?}"
            );
        }
        assert_eq!(bench.exchanged(), 2);
    }

    #[test]
    fn a_start_that_was_no_power_on_leaves_the_contacts_mute() {
        let (mut bench, mut card, mut contacts) = (bench(&[], &[]), Echo::default(), Contacts::new());
        contacts.start(&mut bench, &mut card, false);
        let said = heard(
            &mut bench,
            &mut contacts,
            &mut card,
            &[0, 0, 4, 0, 0xA4, 4, 0, 0xA4],
        );
        assert_eq!((said.len(), bench.exchanged()), (0, 0));
    }
}
