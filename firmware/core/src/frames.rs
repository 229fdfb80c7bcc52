//! vpcd's frames over ports: a length of two bytes, big endian, then so many bytes. A body of one byte is a control code: 00 power off, 01 power on, 02
//! reset, which have no answer, and 04, which is answered with the ATR; any other body is a C-APDU, answered with its R-APDU. What is neither is answered 6700.
//! (Virtual Smart Card Architecture, `virtualsmartcard/src/vpcd/vpcd.h`.)

#[cfg(feature = "t1")]
use sekisho_os::Protocol;
use sekisho_os::{COMMAND_DATA_MAX, Interface, Platform, RESPONSE_DATA_MAX, SecureElement};

use crate::resets::Resets;

/// Longest C-APDU that can be one: extended header, data, extended Le. Of a longer one the beginning is enough to see that it is none.
pub const COMMAND_MAX: usize = 7 + COMMAND_DATA_MAX + 2;
/// Longest R-APDU: data and status word.
pub const RESPONSE_MAX: usize = RESPONSE_DATA_MAX + 2;

/// SW1SW2 for what is no command, and of a command that ended in a reset.
const WRONG_LENGTH: [u8; 2] = [0x67, 0x00];
const NO_PRECISE_DIAGNOSIS: [u8; 2] = [0x6F, 0x00];

/// Bytes to and from one reader.
pub trait Port {
    /// The next byte, if one has come.
    fn read(&mut self) -> Option<u8>;

    /// Sends a byte; waits until there is room for it.
    fn write(&mut self, byte: u8);
}

/// How long a command took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// On which interface it came.
    pub interface: Interface,
    /// By the board's clock.
    pub ticks: u32,
}

/// What a board gives.
pub trait Board {
    /// Its ports.
    type Port: Port;

    /// Each with the interface that it is.
    fn ports(&mut self) -> &mut [(Interface, Self::Port)];

    /// Sleeps until a byte may have come, a fraction of [`Board::patience`] at most.
    fn wait(&mut self);

    /// A clock that runs, in units of the board's; it goes round.
    fn ticks(&self) -> u32;

    /// How many of these units a reader may take for the next byte of a frame before the frame is forgotten.
    fn patience(&self) -> u32;

    /// A command is over and its answer about to leave.
    fn exchanged(&mut self, exchange: Exchange);
}

/// What is behind the ports.
pub trait Card {
    /// The answer to reset.
    fn atr(&self) -> &[u8];
    /// A reader's power cycle on one interface.
    fn reset(&mut self, interface: Interface);
    /// The same, where the interface speaks this protocol from here on.
    #[cfg(feature = "t1")]
    fn reset_to(&mut self, interface: Interface, _: Protocol) {
        self.reset(interface);
    }
    /// Processes one C-APDU: length of the R-APDU in `out`, 2 at least.
    fn transmit(&mut self, interface: Interface, capdu: &[u8], out: &mut [u8]) -> usize;
}

impl<P: Platform> Card for SecureElement<P> {
    fn atr(&self) -> &[u8] {
        Self::atr(self)
    }

    fn reset(&mut self, interface: Interface) {
        Self::reset(self, interface);
    }

    #[cfg(feature = "t1")]
    fn reset_to(&mut self, interface: Interface, protocol: Protocol) {
        if !Self::reset_to(self, interface, protocol) {
            Self::reset(self, interface);
        }
    }

    fn transmit(&mut self, interface: Interface, capdu: &[u8], out: &mut [u8]) -> usize {
        Self::transmit(self, interface, capdu, out)
    }
}

/// A chip that does not start: it says so to whoever asks, 6F00.
#[derive(Clone, Copy, Debug)]
pub struct Dead;

impl Card for Dead {
    /// Direct convention and nothing else.
    fn atr(&self) -> &[u8] {
        &[0x3B, 0x00]
    }

    fn reset(&mut self, _: Interface) {}

    fn transmit(&mut self, _: Interface, _: &[u8], out: &mut [u8]) -> usize {
        match out.first_chunk_mut() {
            Some(sw) => *sw = NO_PRECISE_DIAGNOSIS,
            None => return 0,
        }
        NO_PRECISE_DIAGNOSIS.len()
    }
}

/// Room for a command and its answer, where a product wants it.
#[derive(Debug)]
pub struct Buffers {
    command: [u8; COMMAND_MAX],
    response: [u8; RESPONSE_MAX],
}

impl Buffers {
    /// Empty.
    pub const fn new() -> Self {
        Self {
            command: [0; COMMAND_MAX],
            response: [0; RESPONSE_MAX],
        }
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new()
    }
}

/// Serves the readers as long as there is power. The command that `broken_off` names is answered first.
pub fn serve<B: Board>(
    board: &mut B,
    card: &mut dyn Card,
    resets: &Resets,
    buffers: &mut Buffers,
    broken_off: Option<Interface>,
) -> ! {
    begin(board, resets, broken_off);
    loop {
        if !turn(board, card, resets, buffers, 0) {
            board.wait();
        }
    }
}

/// The same where the first port is a card's contacts: their characters in place of frames.
#[cfg(feature = "t1")]
pub fn serve_contacts<B: Board>(
    board: &mut B,
    card: &mut dyn Card,
    resets: &Resets,
    buffers: &mut Buffers,
    broken_off: Option<Interface>,
    contacts: &mut crate::contacts::Contacts,
) -> ! {
    let first = board.ports().first().map(|(interface, _)| *interface);
    begin(
        board,
        resets,
        broken_off.filter(|interface| Some(*interface) != first),
    );
    loop {
        let spoken = contacts.turn(board, card, resets, &mut buffers.response);
        if !turn(board, card, resets, buffers, 1) && !spoken {
            board.wait();
        }
    }
}

/// Answers the command that ended in a reset: it is over with that, and never run again.
fn begin<B: Board>(board: &mut B, resets: &Resets, broken_off: Option<Interface>) {
    for (interface, port) in board.ports() {
        if Some(*interface) == broken_off {
            send(port, &NO_PRECISE_DIAGNOSIS);
        }
    }
    resets.started();
}

/// One frame of each port from this one on, where one begins; whether there was any.
fn turn<B: Board>(
    board: &mut B,
    card: &mut dyn Card,
    resets: &Resets,
    buffers: &mut Buffers,
    first: usize,
) -> bool {
    let mut came = false;
    for index in first..board.ports().len() {
        let Some((interface, port)) = board.ports().get_mut(index) else {
            break;
        };
        let interface = *interface;
        let Some(high) = port.read() else { continue };
        came = true;
        let Some(len) = receive(board, index, high, &mut buffers.command) else {
            continue;
        };
        let body = buffers.command.get(..len).unwrap_or_default();
        let answer: &[u8] = match body {
            [0..=2] => {
                card.reset(interface);
                continue;
            }
            [4] => card.atr(),
            [] | [_] => &WRONG_LENGTH,
            capdu => {
                resets.began(interface);
                let began = board.ticks();
                let len = card.transmit(interface, capdu, &mut buffers.response);
                let ticks = board.ticks().wrapping_sub(began);
                resets.ended();
                board.exchanged(Exchange { interface, ticks });
                buffers.response.get(..len).unwrap_or(&NO_PRECISE_DIAGNOSIS)
            }
        };
        if let Some((_, port)) = board.ports().get_mut(index) {
            send(port, answer);
        }
    }
    came
}

/// The rest of a frame that has begun: length of its body, of which what has room stands in `out`. None when the reader stops in its middle.
fn receive<B: Board>(board: &mut B, index: usize, high: u8, out: &mut [u8]) -> Option<usize> {
    let low = next(board, index)?;
    let len = usize::from(u16::from_be_bytes([high, low]));
    for at in 0..len {
        let byte = next(board, index)?;
        if let Some(place) = out.get_mut(at) {
            *place = byte;
        }
    }
    Some(len.min(out.len()))
}

fn next<B: Board>(board: &mut B, index: usize) -> Option<u8> {
    let (began, patience) = (board.ticks(), board.patience());
    loop {
        let (_, port) = board.ports().get_mut(index)?;
        if let Some(byte) = port.read() {
            return Some(byte);
        }
        if board.ticks().wrapping_sub(began) > patience {
            return None;
        }
        board.wait();
    }
}

fn send(port: &mut impl Port, body: &[u8]) {
    let len = u16::try_from(body.len()).unwrap_or(u16::MAX);
    for byte in len.to_be_bytes().iter().chain(body) {
        port.write(*byte);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[derive(Default)]
    pub(crate) struct Wire {
        to_card: VecDeque<u8>,
        from_card: Vec<u8>,
    }

    impl Port for Wire {
        fn read(&mut self) -> Option<u8> {
            self.to_card.pop_front()
        }

        fn write(&mut self, byte: u8) {
            self.from_card.push(byte);
        }
    }

    pub(crate) struct Bench {
        ports: [(Interface, Wire); 2],
        clock: std::cell::Cell<u32>,
        exchanges: Vec<Exchange>,
    }

    #[cfg(feature = "t1")]
    impl Bench {
        pub(crate) fn put_characters(&mut self, bytes: &[u8]) {
            self.ports[0].1.to_card.extend(bytes);
        }

        pub(crate) fn take_characters(&mut self) -> Vec<u8> {
            std::mem::take(&mut self.ports[0].1.from_card)
        }

        pub(crate) fn exchanged(&self) -> usize {
            self.exchanges.len()
        }
    }

    impl Board for Bench {
        type Port = Wire;

        fn ports(&mut self) -> &mut [(Interface, Wire)] {
            &mut self.ports
        }

        fn wait(&mut self) {}

        fn ticks(&self) -> u32 {
            self.clock.set(self.clock.get().wrapping_add(1));
            self.clock.get()
        }

        fn patience(&self) -> u32 {
            10
        }

        fn exchanged(&mut self, exchange: Exchange) {
            self.exchanges.push(exchange);
        }
    }

    /// Answers with the interface, the command and 9000.
    #[derive(Default)]
    pub(crate) struct Echo {
        pub(crate) resets: Vec<Interface>,
    }

    impl Card for Echo {
        fn atr(&self) -> &[u8] {
            &[0x3B, 0x00]
        }

        fn reset(&mut self, interface: Interface) {
            self.resets.push(interface);
        }

        fn transmit(&mut self, interface: Interface, capdu: &[u8], out: &mut [u8]) -> usize {
            let len = capdu.len().min(16);
            out[0] = u8::try_from(interface.index()).unwrap();
            out[1..=len].copy_from_slice(&capdu[..len]);
            out[1 + len..3 + len].copy_from_slice(&[0x90, 0x00]);
            3 + len
        }
    }

    pub(crate) fn bench(contact: &[u8], spi: &[u8]) -> Bench {
        let wire = |bytes: &[u8]| Wire {
            to_card: bytes.iter().copied().collect(),
            from_card: Vec::new(),
        };
        Bench {
            ports: [
                (Interface::Iso7816Contact, wire(contact)),
                (Interface::Spi, wire(spi)),
            ],
            clock: u32::MAX.wrapping_sub(20).into(),
            exchanges: Vec::new(),
        }
    }

    fn played(bench: &mut Bench) -> Echo {
        let mut card = Echo::default();
        let mut buffers = Buffers::new();
        while turn(bench, &mut card, &Resets::new(), &mut buffers, 0) {}
        card
    }

    #[test]
    fn each_frame_has_its_answer_on_its_own_port() {
        let mut bench = bench(
            &[0, 1, 1, 0, 1, 4, 0, 4, 0x00, 0xA4, 4, 0],
            &[0, 4, 0x80, 0xCA, 1, 2, 0, 1, 2],
        );
        let card = played(&mut bench);
        assert_eq!(
            bench.ports[0].1.from_card,
            [0, 2, 0x3B, 0, 0, 7, 0, 0, 0xA4, 4, 0, 0x90, 0]
        );
        assert_eq!(bench.ports[1].1.from_card, [0, 7, 3, 0x80, 0xCA, 1, 2, 0x90, 0]);
        assert_eq!(card.resets, [Interface::Iso7816Contact, Interface::Spi]);
        let on: Vec<_> = bench
            .exchanges
            .iter()
            .map(|exchange| exchange.interface)
            .collect();
        assert_eq!(on, [Interface::Spi, Interface::Iso7816Contact]);
    }

    #[test]
    fn any_bytes_are_answered_or_forgotten() {
        for code in [3, 5, 0xFF] {
            let mut bench = bench(&[0, 0, 0, 1, code], &[]);
            played(&mut bench);
            assert_eq!(
                bench.ports[0].1.from_card,
                [0, 2, 0x67, 0, 0, 2, 0x67, 0],
                "{code}"
            );
        }
        let long = [&[0xFF, 0xFF][..], &[0x00; 0xFFFF], &[0, 1, 4]].concat();
        let mut longest = bench(&long, &[]);
        played(&mut longest);
        assert_eq!(
            longest.ports[0].1.from_card.len(),
            2 + 19 + 4,
            "and the next one is seen"
        );
        for cut in 1..6 {
            let mut bench = bench(&[0, 4, 0, 0xA4, 4, 0][..cut], &[0, 1, 4]);
            played(&mut bench);
            assert!(bench.ports[0].1.from_card.is_empty());
            assert_eq!(bench.ports[1].1.from_card, [0, 2, 0x3B, 0], "it holds up nobody");
        }
    }

    #[test]
    fn a_command_that_ended_in_a_reset_is_answered_and_not_run() {
        let mut bench = bench(&[], &[]);
        let resets = Resets::new();
        resets.start();
        resets.began(Interface::Spi);
        begin(&mut bench, &resets, resets.start().broken_off);
        assert_eq!(bench.ports[1].1.from_card, [0, 2, 0x6F, 0]);
        assert!(bench.ports[0].1.from_card.is_empty() && bench.exchanges.is_empty());
        assert_eq!(resets.start().broken_off, None);
    }
}
